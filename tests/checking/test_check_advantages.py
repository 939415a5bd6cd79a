"""The check of generalized advantages: what is right in any form passes, known mistakes are named, others unknown."""

import functools
import itertools
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from pgtheory.advantages import generalized_advantages
from pgtheory.checking.kinds.advantages import CHECK, check_advantages
from pgtheory.checking.report import UnknownForm

CANONICAL = frozenset(["rewards", "values", "next_values", "gamma", "lam", "terminated", "truncated", "tail next"])


def brute_force(truth: dict[str, Any]) -> list[list[float]]:
    """Every advantage from the definition, term by term, over the steps taken."""
    rows: list[list[float]] = []
    for n, t in itertools.product(range(truth["rewards"].shape[0]), range(truth["rewards"].shape[1])):
        total, weight = 0.0, 1.0
        for k in range(t, truth["rewards"].shape[1]):
            if not truth["mask"][n, k]:
                continue
            bootstrap = 0.0 if truth["terminated"][n, k] else float(truth["next_values"][n, k])
            total += weight * float(truth["rewards"][n, k] + truth["gamma"] * bootstrap - truth["values"][n, k])
            weight *= truth["gamma"] * truth["lam"]
            if truth["terminated"][n, k] or truth["truncated"][n, k]:
                break
        if t == 0:
            rows.append([])
        rows[-1].append(total if truth["mask"][n, t] else 0.0)
    return rows


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize(
    "facts",
    [
        CANONICAL,
        {"dones", "last_value", "tail last", "either"},
        {"dones", "tail T+1", "either"},
        {"tail T+1", "either"},
        {"dones", "tail none", "either"},
        {"mask", "tail none", "either"},
        CANONICAL | {"mask"},
    ],
    ids=lambda facts: "-".join(sorted(facts)),
)
def test_the_expected_advantages_are_the_definition_term_by_term(facts: set[str], rows: bool) -> None:
    bench = CHECK.bench(frozenset(facts), rows=rows)
    assert len(bench.cases) >= 10
    for i, case in enumerate(bench.cases):
        answer = bench.answer(CHECK.right[""], i)
        assert isinstance(answer, Tensor)
        torch.testing.assert_close(answer.tolist(), brute_force(dict(case.inputs)), rtol=0, atol=1e-9)


def test_the_first_cases_are_the_smallest_and_correct_by_hand() -> None:
    bench = CHECK.bench(CANONICAL, rows=True)
    by_hand = [[[1.0 - 2.0]], [[1.0 + 0.5 * 5.0 - 2.0]], [[1.0 + 0.5 * 7.0 - 2.0]]]
    assert [bench.answer(CHECK.right[""], i).tolist() for i in range(3)] == by_hand  # type: ignore[union-attr]


def test_values_are_distinct_and_next_values_differ_from_the_row_only_after_an_end() -> None:
    for case in CHECK.bench(CANONICAL).cases:
        values, after = case.inputs["values"], case.inputs["next_values"]
        ends = case.inputs["terminated"] | case.inputs["truncated"]
        assert torch.equal((values[:, 1:] != after[:, :-1]), ends[:, :-1])


# Right implementations, as they are written in public code.


def canonical_loop(rewards, values, next_values, gamma, lam, terminated, truncated):  # type: ignore[no-untyped-def]
    advantage, result = 0.0, []
    for t in reversed(range(len(rewards))):
        bootstrap = 0.0 if terminated[t] else next_values[t]
        delta = rewards[t] + gamma * bootstrap - values[t]
        advantage = delta + (0.0 if terminated[t] or truncated[t] else gamma * lam * advantage)
        result.append(advantage)
    return result[::-1]


def vectorised_batch(rewards, values, next_values, gamma, lam, terminated, truncated):  # type: ignore[no-untyped-def]
    advantages = torch.zeros_like(rewards)
    carry = torch.zeros(rewards.shape[0], dtype=rewards.dtype)
    deltas = rewards + gamma * next_values * (~terminated) - values
    for t in range(rewards.shape[1] - 1, -1, -1):
        carry = deltas[:, t] + gamma * lam * carry * (~(terminated[:, t] | truncated[:, t]))
        advantages[:, t] = carry
    return advantages


def float_flags(rewards, values, next_values, gamma, lam, terminated, truncated):  # type: ignore[no-untyped-def]
    deltas = rewards + gamma * (1.0 - terminated) * next_values - values
    going = 1.0 - torch.maximum(terminated, truncated)
    out, carry = [], torch.zeros_like(rewards[..., 0])
    for delta, on in zip(deltas.unbind(-1)[::-1], going.unbind(-1)[::-1], strict=True):
        carry = delta + gamma * lam * on * carry
        out.append(carry)
    return torch.stack(out[::-1], dim=-1)


def cleanrl(rewards, values, dones, next_value, next_done, gamma=0.99, gae_lambda=0.95):  # type: ignore[no-untyped-def]
    with torch.no_grad():
        next_value = next_value.reshape(1, -1)
        advantages = torch.zeros_like(rewards)
        lastgaelam = 0
        num_steps = rewards.shape[0]
        for t in reversed(range(num_steps)):
            if t == num_steps - 1:
                nextnonterminal, nextvalues = 1.0 - next_done, next_value
            else:
                nextnonterminal, nextvalues = 1.0 - dones[t + 1], values[t + 1]
            delta = rewards[t] + gamma * nextvalues * nextnonterminal - values[t]
            advantages[t] = lastgaelam = delta + gamma * gae_lambda * nextnonterminal * lastgaelam
        returns = advantages + values
    return advantages, returns


def sb3(rewards, values, episode_starts, last_values, dones, gamma, gae_lambda):  # type: ignore[no-untyped-def]
    last_values = last_values.flatten()
    advantages, last_gae_lam = np.zeros_like(rewards), 0
    for step in reversed(range(len(rewards))):
        if step == len(rewards) - 1:
            next_non_terminal, next_values = 1.0 - dones.astype(np.float32), last_values
        else:
            next_non_terminal, next_values = 1.0 - episode_starts[step + 1], values[step + 1]
        delta = rewards[step] + gamma * next_values * next_non_terminal - values[step]
        last_gae_lam = delta + gamma * gae_lambda * next_non_terminal * last_gae_lam
        advantages[step] = last_gae_lam
    return advantages, advantages + values


def cumulated(x: Any, discount: float) -> Any:
    return scipy.signal.lfilter([1], [1, float(-discount)], x[::-1], axis=0)[::-1]


def spinning_up(rews, vals, last_val=0, gamma=0.99, lam=0.95):  # type: ignore[no-untyped-def]
    rews, vals = np.append(rews, last_val), np.append(vals, last_val)
    deltas = rews[:-1] + gamma * vals[1:] - vals[:-1]
    return cumulated(deltas, gamma * lam), cumulated(rews, gamma)[:-1]


def spinning_up_with_one_more(rews, vals, gamma, lam):  # type: ignore[no-untyped-def]
    return cumulated(rews + gamma * vals[1:] - vals[:-1], gamma * lam)


def tianshou(v_s, v_s_, rew, end_flag, gamma, gae_lambda):  # type: ignore[no-untyped-def]
    returns = np.zeros(rew.shape)
    delta = rew + v_s_ * gamma - v_s
    discount = (1.0 - end_flag) * (gamma * gae_lambda)
    gae = 0.0
    for i in range(len(rew) - 1, -1, -1):
        gae = delta[i] + discount[i] * gae
        returns[i] = gae
    return returns


def torchrl(gamma, lmbda, state_value, next_state_value, reward, done, terminated=None):  # type: ignore[no-untyped-def]
    if not reward.shape[-1] == 1 or reward.ndim < 3:
        raise RuntimeError("expected [*B, T, 1]")
    terminated = done if terminated is None else terminated
    not_done, not_terminated = (~done).int(), (~terminated).int()
    advantage, prev = torch.empty_like(next_state_value), 0
    delta = reward + gamma * next_state_value * not_terminated - state_value
    for t in reversed(range(reward.shape[-2])):
        prev = advantage[..., t, :] = delta[..., t, :] + prev * gamma * lmbda * not_done[..., t, :]
    return advantage, advantage + state_value


def rlax(r_t, discount_t, lambda_, values):  # type: ignore[no-untyped-def]
    lambda_ = np.ones_like(discount_t) * lambda_
    delta_t = r_t + discount_t * values[1:] - values[:-1]
    acc, out = 0.0, []
    for i in range(len(delta_t))[::-1]:
        acc = delta_t[i] + discount_t[i] * lambda_[i] * acc
        out.append(acc)
    return np.array(out[::-1])


def verl_without_whitening(token_level_rewards, values, response_mask, gamma, lam):  # type: ignore[no-untyped-def]
    nextvalues: Any = 0
    lastgaelam: Any = 0
    reversed_, gen_len = [], token_level_rewards.shape[-1]
    for t in reversed(range(gen_len)):
        delta = token_level_rewards[:, t] + gamma * nextvalues - values[:, t]
        lastgaelam_ = delta + gamma * lam * lastgaelam
        nextvalues = values[:, t] * response_mask[:, t] + (1 - response_mask[:, t]) * nextvalues
        lastgaelam = lastgaelam_ * response_mask[:, t] + (1 - response_mask[:, t]) * lastgaelam
        reversed_.append(lastgaelam)
    advantages = torch.stack(reversed_[::-1], dim=1)
    return advantages, advantages + values


def openrlhf(values, rewards, action_mask, gamma, lambd):  # type: ignore[no-untyped-def]
    values, rewards = action_mask * values, action_mask * rewards
    lastgaelam, out = 0, []
    for t in reversed(range(rewards.size(1))):
        nextvalues = values[:, t + 1] if t < rewards.size(1) - 1 else 0.0
        lastgaelam = rewards[:, t] + gamma * nextvalues - values[:, t] + gamma * lambd * lastgaelam
        out.append(lastgaelam)
    advantages = torch.stack(out[::-1], dim=1)
    return advantages.detach(), advantages + values


def purejax(rewards, values, dones, last_val, gamma, lam):  # type: ignore[no-untyped-def]
    gae, next_value, out = np.zeros_like(last_val), last_val, []
    for reward, value, done in zip(rewards[::-1], values[::-1], dones[::-1], strict=True):
        delta = reward + gamma * next_value * (1 - done) - value
        gae = delta + gamma * lam * (1 - done) * gae
        next_value = value
        out.append(gae)
    return np.stack(out[::-1]), np.stack(out[::-1]) + values


def list_with_next_value(next_value, rewards, masks, values, gamma=0.99, tau=0.95):  # type: ignore[no-untyped-def]
    values = [*values, next_value]
    gae, out = 0, []
    for step in reversed(range(len(rewards))):
        delta = rewards[step] + gamma * values[step + 1] * masks[step] - values[step]
        gae = delta + gamma * tau * masks[step] * gae
        out.insert(0, gae)
    return out


def list_with_a_zero(rewards, values, dones, gamma=0.99, lam=0.95):  # type: ignore[no-untyped-def]
    values = values + [0.0]  # noqa: RUF005
    gae, out = 0.0, []
    for t in reversed(range(len(rewards))):
        gae = rewards[t] + gamma * values[t + 1] * (1 - dones[t]) - values[t] + gamma * lam * (1 - dones[t]) * gae
        out.insert(0, gae)
    return out


def time_first_with_an_axis(rewards, values, dones, last_values, gamma, lam):  # type: ignore[no-untyped-def]
    if rewards.dim() != 3:
        raise ValueError("expected [T, envs, 1]")
    advantage, out = 0, torch.zeros_like(rewards)
    for step in reversed(range(rewards.shape[0])):
        next_values = last_values if step == rewards.shape[0] - 1 else values[step + 1]
        going = 1.0 - dones[step].float()
        delta = rewards[step] + going * gamma * next_values - values[step]
        advantage = delta + going * gamma * lam * advantage
        out[step] = advantage
    return out + values, out


def masks_of_observations(rewards, value_preds, masks, gamma, gae_lambda):  # type: ignore[no-untyped-def]
    gae, out = 0, torch.zeros_like(rewards)
    for step in reversed(range(rewards.size(0))):
        delta = rewards[step] + gamma * value_preds[step + 1] * masks[step + 1] - value_preds[step]
        gae = delta + gamma * gae_lambda * masks[step + 1] * gae
        out[step] = gae
    return out


def drl_zh_repaired(rewards, values, next_value, dones, discount, lmbda):  # type: ignore[no-untyped-def]
    advantages, last = torch.zeros_like(rewards), 0.0
    extended = torch.cat([values, next_value.reshape(1)])
    for t in reversed(range(len(rewards))):
        on = 1 - dones[t]
        last = rewards[t] + discount * extended[t + 1] * on - extended[t] + discount * lmbda * last * on
        advantages[t] = last
    return {"advantages": advantages, "returns": advantages + values}


def matrix_form(rewards, values, next_values, gamma, lam, *, terminated, truncated):  # type: ignore[no-untyped-def]
    rewards, values, next_values = (np.asarray(x, dtype=np.float32) for x in (rewards, values, next_values))
    steps = len(rewards)
    delta = rewards + gamma * np.where(terminated, 0, next_values) - values
    part = np.concatenate([[0], np.cumsum(np.logical_or(terminated, truncated))[:-1]])
    weight = [[(gamma * lam) ** (k - t) * (k >= t and part[k] == part[t]) for k in range(steps)] for t in range(steps)]
    return (np.array(weight) @ delta).tolist()


class Estimator(torch.nn.Module):
    def forward(self, rewards, values, next_values, dones, truncated, gamma, lam):  # type: ignore[no-untyped-def]
        advantage, out = torch.zeros(()), []
        for t in range(len(rewards) - 1, -1, -1):
            bootstrap = (~dones[t] | truncated[t]) * next_values[t]
            advantage = rewards[t] + gamma * bootstrap - values[t] + gamma * lam * advantage * ~dones[t]
            out.append(advantage.item())
        return out[::-1]


def in_place(rewards, values, next_values, gamma, lam, terminated, truncated):  # type: ignore[no-untyped-def]
    next_values[terminated] = 0.0
    rewards += gamma * next_values - values
    for t in range(len(rewards) - 2, -1, -1):
        if not (terminated[t] or truncated[t]):
            rewards[t] += gamma * lam * rewards[t + 1]
    return rewards


def from_lambda_returns(rewards, values, dones, gamma, lam, **_):  # type: ignore[no-untyped-def]
    out, target = [], values[-1]
    for t in reversed(range(len(rewards))):
        target = rewards[t] + gamma * (1 - dones[t]) * ((1 - lam) * values[t + 1] + lam * target)
        out.append(target - values[t])
    return out[::-1]


def mask_of_what_goes_on(r, v, v_next, done_mask, gamma, lmbda):  # type: ignore[no-untyped-def]
    running, out = 0.0, []
    for t in reversed(range(len(r))):
        running = r[t] + gamma * v_next[t] * done_mask[t] - v[t] + gamma * lmbda * done_mask[t] * running
        out.insert(0, running)
    return out


def mask_of_the_ends(r, v, v_next, done_mask, gamma, lmbda):  # type: ignore[no-untyped-def]
    return mask_of_what_goes_on(r, v, v_next, [1.0 - float(end) for end in done_mask], gamma, lmbda)


def rows_one_after_another(batch_rewards, batch_values, gamma, lam):  # type: ignore[no-untyped-def]
    out = []
    for rewards, values in zip(batch_rewards, batch_values, strict=True):
        assert len(rewards) == len(values)
        out += mask_of_what_goes_on(rewards, values, [*values[1:], 0.0], [1.0] * len(rewards), gamma, lam)
    return out


def rllib(rewards, vf_preds, last_r, gamma, lambda_):  # type: ignore[no-untyped-def]
    values = np.append(vf_preds, last_r)
    return cumulated(rewards + gamma * values[1:] - values[:-1], gamma * lambda_)


RIGHT = [
    generalized_advantages,
    canonical_loop,
    vectorised_batch,
    float_flags,
    cleanrl,
    sb3,
    spinning_up,
    spinning_up_with_one_more,
    tianshou,
    torchrl,
    rlax,
    verl_without_whitening,
    openrlhf,
    purejax,
    list_with_next_value,
    list_with_a_zero,
    time_first_with_an_axis,
    masks_of_observations,
    drl_zh_repaired,
    matrix_form,
    Estimator(),
    in_place,
    from_lambda_returns,
    rows_one_after_another,
    rllib,
    functools.partial(canonical_loop),
    lambda *arguments: list(canonical_loop(*arguments)),
    lambda **arguments: list(canonical_loop(**arguments)),
]


@pytest.mark.parametrize("function", RIGHT, ids=lambda f: getattr(f, "__name__", type(f).__name__))
def test_right_implementations_pass_in_whatever_form(function: Any) -> None:
    report = check_advantages(function)
    assert report.ok, report
    assert report.diagnosis is None
    assert report.n_cases >= 8


# Wrong implementations, as they are written in public code.


def _loop(rewards: Any, values: Any, after: Any, going: Any, cut: Any, gamma: float, lam: float) -> list[Any]:
    advantage, out = 0.0, []
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * after[t] * going[t] - values[t]
        advantage = delta + gamma * lam * cut[t] * advantage
        out.insert(0, advantage)
    return out


def current_dones_read_as_last_dones(rewards, values, dones, last_value, gamma, lam):  # type: ignore[no-untyped-def]
    on = [1.0 - float(d) for d in [*dones[1:], dones[-1]]]
    return _loop(rewards, values, [*values[1:], last_value], on, on, gamma, lam)


def last_dones_read_as_current_dones(rewards, values, dones, next_value, next_done, gamma, lam):  # type: ignore[no-untyped-def]
    on = [1.0 - float(d) for d in dones]
    return _loop(rewards, values, [*values[1:], next_value], on, on, gamma, lam)


def starts_read_as_ends(rewards, values, episode_starts, last_values, dones, gamma, lam):  # type: ignore[no-untyped-def]
    on = [1.0 - float(d) for d in episode_starts]
    return _loop(rewards, values, [*values[1:], last_values], on, on, gamma, lam)


def delta_not_masked(rewards, values, dones, gamma, lam):  # type: ignore[no-untyped-def]
    on = [1.0 - float(d) for d in dones]
    return _loop(rewards, values[:-1], values[1:], [1.0] * len(rewards), on, gamma, lam)


def recursion_not_masked(rewards, values, masks, next_value, gamma, tau):  # type: ignore[no-untyped-def]
    return _loop(rewards, values, [*values[1:], next_value], masks, [1.0] * len(rewards), gamma, tau)


def returns_named_gae(next_value, rewards, masks, values, gamma=0.99, tau=0.95):  # type: ignore[no-untyped-def]
    advantages = list_with_next_value(next_value, rewards, masks, values, gamma, tau)
    return [a + v for a, v in zip(advantages, values, strict=True)]


def dones_hold_time_limits(rewards, values, next_values, dones, truncated, gamma, lam):  # type: ignore[no-untyped-def]
    on = [1.0 - float(d) for d in dones]
    return _loop(rewards, values, next_values, on, on, gamma, lam)


def truncation_unused(rewards, values, terminated, truncated, gamma, lam):  # type: ignore[no-untyped-def]
    on = [1.0 - float(d) for d in terminated]
    return _loop(rewards, values[:-1], values[1:], on, on, gamma, lam)


def verl_with_whitening(token_level_rewards, values, response_mask, gamma, lam):  # type: ignore[no-untyped-def]
    advantages, returns = verl_without_whitening(token_level_rewards, values, response_mask, gamma, lam)
    kept = advantages[response_mask > 0]
    spread = kept.var(unbiased=kept.numel() > 1)
    return (advantages - kept.mean()) * torch.rsqrt(spread + 1e-8), returns


def mask_unused(rewards, values, response_mask, gamma, lam):  # type: ignore[no-untyped-def]
    return openrlhf(values, rewards, torch.ones_like(rewards), gamma, lam)[0]


def masked_afterwards(rewards, values, response_mask, gamma, lam):  # type: ignore[no-untyped-def]
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    deltas, carry, out = (rewards + gamma * after - values) * response_mask, 0.0, []
    for t in reversed(range(rewards.shape[1])):
        carry = deltas[:, t] + gamma * lam * carry
        out.append(carry)
    return torch.stack(out[::-1], 1)


def done_and_terminated_confused(gamma, lmbda, state_value, next_state_value, reward, done, terminated):  # type: ignore[no-untyped-def]
    return torchrl(gamma, lmbda, state_value, next_state_value, reward, terminated, done)


def flattened(rewards, values, next_values, gamma, lam, terminated, truncated):  # type: ignore[no-untyped-def]
    rows = [x.flatten() for x in (rewards, values, next_values)]
    flags = [x.flatten() for x in (terminated, truncated)]
    return torch.stack(canonical_loop(*rows, gamma, lam, *flags)).reshape(rewards.shape)


def standardised_if_it_can_be(rewards, values, next_values, gamma, lam, terminated, truncated):  # type: ignore[no-untyped-def]
    found = np.array(canonical_loop(rewards, values, next_values, gamma, lam, terminated, truncated))
    return (found - found.mean()) / (found.std(ddof=1) + 1e-5) if len(found) > 1 else found


def values_confused(rewards, values, next_values, gamma, lam, terminated, truncated):  # type: ignore[no-untyped-def]
    out, running = [], 0.0
    for t in reversed(range(len(rewards))):
        cut = 0.0 if terminated[t] or truncated[t] else gamma * lam
        running = rewards[t] + gamma * values[t] * (1.0 - float(terminated[t])) - next_values[t] + cut * running
        out.insert(0, running)
    return out


def never_set_to_zero(rewards, values, next_values, gamma, lam, terminated, truncated):  # type: ignore[no-untyped-def]
    out, running = np.zeros(np.shape(rewards)), 0.0
    for n, t in itertools.product(range(out.shape[0]), reversed(range(out.shape[1]))):
        bootstrap = 0.0 if terminated[n][t] else gamma * next_values[n][t]
        cut = 0.0 if terminated[n][t] or truncated[n][t] else gamma * lam
        out[n, t] = running = rewards[n][t] + bootstrap - values[n][t] + cut * running
    return out


def masked_in_the_recursion(rewards, values, mask, gamma, lam):  # type: ignore[no-untyped-def]
    out, running, after = [], 0.0, 0.0
    for t in reversed(range(rewards.shape[1])):
        running = (rewards[:, t] + gamma * after - values[:, t] + gamma * lam * running) * mask[:, t]
        after = values[:, t]
        out.insert(0, running)
    return torch.stack(out, 1)


NAMED = {
    "done_of_next_step": current_dones_read_as_last_dones,
    "done_of_previous_step": last_dones_read_as_current_dones,
    "done_of_previous_step ": starts_read_as_ends,
    "bootstraps_after_termination": delta_not_masked,
    "sum_not_cut_at_termination": recursion_not_masked,
    "lambda_returns": returns_named_gae,
    "truncation_as_termination": dones_hold_time_limits,
    "sum_not_cut_at_truncation": truncation_unused,
    "standardised": verl_with_whitening,
    "padding_counted": mask_unused,
    "padding_bootstrapped": masked_afterwards,
    "flags_swapped": done_and_terminated_confused,
    "rows_run_together": flattened,
    "rows_run_together ": never_set_to_zero,
    "standardised ": standardised_if_it_can_be,
    "values_swapped": values_confused,
    "padding_bootstrapped ": masked_in_the_recursion,
    "sum_not_cut_at_termination ": lambda r, v, v_next, done_mask, gamma, lmbda: cumulated(
        np.asarray(r + gamma * v_next * done_mask - v), gamma * lmbda
    ),
}


@pytest.mark.parametrize(("key", "function"), NAMED.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_known_mistakes_are_named_in_other_forms(key: str, function: Any) -> None:
    report = check_advantages(function)
    assert not report.ok
    assert report.mistakes[0].key == f"advantages.{key.strip()}"


def squared(rewards, values, next_values, gamma, lam, terminated, truncated):  # type: ignore[no-untyped-def]
    return [a**2 for a in canonical_loop(rewards, values, next_values, gamma, lam, terminated, truncated)]


def slightly_wrong(rewards, values, next_values, gamma, lam, terminated, truncated):  # type: ignore[no-untyped-def]
    return canonical_loop(rewards, values, next_values, gamma, 0.999 * lam, terminated, truncated)


def two_mistakes(rewards, values, next_values, gamma, lam, terminated, truncated):  # type: ignore[no-untyped-def]
    return canonical_loop(rewards, values, next_values, 1.0, lam, truncated, terminated)


def wrong_beyond_four_steps(rewards, values, next_values, gamma, lam, terminated, truncated):  # type: ignore[no-untyped-def]
    found = canonical_loop(rewards, values, next_values, gamma, lam, terminated, truncated)
    return found if len(found) < 5 else [found[0] + 1.0, *found[1:]]


def raises_on_long_rows(rewards, values, next_values, gamma, lam, terminated, truncated):  # type: ignore[no-untyped-def]
    if len(rewards) > 3:
        raise IndexError("out of range")
    return canonical_loop(rewards, values, next_values, gamma, lam, terminated, truncated)


def flags_of_the_row_ignored(rewards, values, dones, last_value, gamma, lam):  # type: ignore[no-untyped-def]
    on = [1.0] * (len(rewards) - 1) + [1.0 - float(dones[-1])]
    return _loop(rewards, values, [*values[1:], last_value], on, [1.0, *on[1:]], gamma * 0.9, lam)


def zeros(rewards, values, next_values, gamma, lam, terminated, truncated):  # type: ignore[no-untyped-def]
    return np.zeros(len(rewards))


UNKNOWN = [
    zeros,
    squared,
    slightly_wrong,
    two_mistakes,
    wrong_beyond_four_steps,
    raises_on_long_rows,
    flags_of_the_row_ignored,
]


@pytest.mark.parametrize("function", UNKNOWN, ids=lambda f: f.__name__)
def test_unknown_mistakes_are_wrong_without_a_guess(function: Any) -> None:
    report = check_advantages(function)
    assert not report.ok
    assert report.mistakes == ()
    assert report.counterexample is not None


def test_the_counterexample_of_an_unknown_mistake_is_the_smallest_case() -> None:
    counterexample = check_advantages(lambda *a: [2 * x for x in canonical_loop(*a)]).counterexample
    assert counterexample is not None
    assert {k: v for k, v in counterexample.inputs.items() if not isinstance(v, Tensor)} == {"gamma": 0.5, "lam": 0.8}
    assert counterexample.inputs["rewards"].tolist() == [1.0]
    assert counterexample.inputs["values"].tolist() == [2.0]
    assert counterexample.inputs["terminated"].tolist() == [True]
    assert counterexample.expected.tolist() == [-1.0]
    assert counterexample.got.tolist() == [-2.0]


def test_a_counterexample_shows_what_the_function_was_given_and_nothing_else() -> None:
    report = check_advantages(delta_not_masked)
    assert report.counterexample is not None
    assert set(report.counterexample.inputs) == {"rewards", "values", "dones", "gamma", "lam"}
    assert report.counterexample.inputs["values"].shape == (2,)
    assert "truth" not in str(report)


DECLARED = [
    (mask_of_what_goes_on, {"done_mask": "not_dones"}),
    (mask_of_the_ends, {"done_mask": "dones"}),
]


@pytest.mark.parametrize(("function", "names"), DECLARED, ids=lambda x: getattr(x, "__name__", ""))
def test_a_name_with_two_meanings_is_asked_for_and_declared(function: Any, names: dict[str, str]) -> None:
    report = check_advantages(function)
    assert report.verdict == "abstains"
    assert f"names={names}" in report.abstains
    assert check_advantages(function, names=names).ok


def test_flags_with_one_more_entry_are_not_tried_where_others_fit() -> None:
    report = check_advantages(current_dones_read_as_last_dones)
    assert "T+1" not in report.form
    assert not report.ok
    assert "flags [T+1]" in check_advantages(masks_of_observations).form


def test_what_could_not_be_tested_is_said() -> None:
    assert any("truncation was not tested" in r for r in check_advantages(cleanrl).remarks)
    assert any("no bootstrap was tested" in r for r in check_advantages(openrlhf).remarks)
    assert check_advantages(canonical_loop).remarks == ()
    assert any("'rewards' in place" in r for r in check_advantages(in_place).remarks)


def test_an_inconsistent_second_output_is_a_remark() -> None:
    def with_zeros(rewards, values, next_values, gamma, lam, terminated, truncated):  # type: ignore[no-untyped-def]
        advantages = generalized_advantages(
            rewards, values, next_values, gamma, lam, terminated=terminated, truncated=truncated
        )
        return advantages, torch.zeros_like(advantages)

    report = check_advantages(with_zeros)
    assert report.ok
    assert any("plus the values" in remark for remark in report.remarks)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda rewards, values, gamma: rewards, "'lam'"),
        (lambda rewards, values, lam: rewards, "'gamma'"),
        (lambda gamma, lmbda, td_delta: td_delta, "td_delta|understood"),
        (lambda rewards, values, mystery, gamma, lam: rewards, "mystery|understood"),
        (lambda rewards, values, dones, gamma, lam: None, "torch \\[T\\], values \\[T\\]"),
        (lambda rewards, values, dones, gamma, lam: "text", "it returned"),
        (lambda rewards, values, dones, gamma, lam: 0.0, "it returned shape"),
        (lambda rewards, values, dones, gamma, lam: 1.0 * rewards.sum() + np.zeros(7), "shape"),
        (lambda rewards, reward, values, gamma, lam: rewards, "mean the same"),
    ],
)
def test_wrong_forms_raise_and_say_what_was_tried(function: Any, says: str) -> None:
    with pytest.raises(UnknownForm, match=says):
        check_advantages(function)


def test_the_report_is_the_same_twice_and_random_states_are_kept() -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert str(check_advantages(delta_not_masked)) == str(check_advantages(delta_not_masked))
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


def test_a_form_can_be_chosen() -> None:
    assert check_advantages(canonical_loop, layout="numpy [T]").form == "numpy [T]"
    with pytest.raises(UnknownForm):
        check_advantages(canonical_loop, layout="[T, B, 1]")


def test_of_several_outputs_that_to_which_the_values_are_added_is_taken_wherever_it_stands() -> None:
    def returns_first(rewards, values, next_values, gamma, lam, terminated, truncated):  # type: ignore[no-untyped-def]
        advantages = -generalized_advantages(
            rewards, values, next_values, gamma, lam, terminated=terminated, truncated=truncated
        )
        return advantages + values, advantages

    assert check_advantages(returns_first).mistakes[0].key == "advantages.sign"
    assert not any("plus the values" in remark for remark in check_advantages(cleanrl).remarks)


@pytest.mark.parametrize("name", ["gamma", "lam"])
def test_at_0_a_function_may_refuse_and_may_not_return_another_number(name: str) -> None:
    def called(at_0: Any) -> Any:
        def call(x: Any) -> Any:
            given = {"gamma": x.gamma, "lam": x.lam}
            given[name] = given[name] or at_0()
            ends = {"terminated": x.terminated, "truncated": x.truncated}
            return generalized_advantages(x.rewards, x.values, x.next_values, given["gamma"], given["lam"], **ends)

        return check_advantages(call=call)

    refused = called(lambda: 1 / 0)
    assert refused.ok
    assert f"it fails at {'γ' if name == 'gamma' else 'λ'} = 0" in refused.remarks
    wrong = called(lambda: 0.9)
    assert wrong.verdict == "wrong"
    assert wrong.counterexample is not None
    assert wrong.counterexample.inputs[name] == 0.0


def test_dones_beside_truncations_are_ends_unless_it_is_declared() -> None:
    def terminations(rewards, values, next_values, dones, truncated, gamma, lam):  # type: ignore[no-untyped-def]
        return in_place(rewards, values, next_values, gamma, lam, dones, truncated)

    meaning = "dones are terminations alone"
    report = check_advantages(terminations)
    assert not report.ok
    assert report.abstains == (
        f"it is right as {meaning}, and otherwise wrong (a truncation is treated as a termination): "
        f"declare layout={meaning!r} if this is what it is for"
    )
    assert check_advantages(terminations, layout=meaning).ok
    assert check_advantages(dones_hold_time_limits, layout=meaning).diagnosis
