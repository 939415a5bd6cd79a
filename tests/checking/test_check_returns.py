"""The check of returns: what is right in whatever form passes, each known mistake is named, others are unknown."""

import functools
import itertools
from collections import deque
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from pgtheory.checking.kinds.returns import CHECK, check_returns
from pgtheory.checking.report import UnknownForm
from pgtheory.returns import return_matrix, returns_to_go

FACTS = [{"rewards", "gamma"}, {"dones"}, {"mask"}, {"dones", "mask"}]


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: "-".join(sorted(facts)))
def test_the_expected_returns_are_sums_written_out(facts: set[str], rows: bool) -> None:
    bench = CHECK.bench(frozenset(facts), rows=rows)
    for i, case in enumerate(bench.cases):
        rewards, dones, mask, gamma = (case.inputs[name] for name in ("rewards", "dones", "mask", "gamma"))
        for name, implementation in CHECK.right.items():
            answer = bench.answer(implementation, i)
            assert isinstance(answer, Tensor)
            for n, t in itertools.product(range(rewards.shape[0]), range(rewards.shape[1])):
                total, factor = 0.0, 1.0
                for k in range(t, rewards.shape[1]):
                    total += factor * float(rewards[n, k]) * bool(mask[n, k])
                    if dones[n, k]:
                        break
                    factor *= gamma if mask[n, k] or not name else 1.0
                assert float(answer[n, t]) == pytest.approx(total * bool(mask[n, t]), abs=1e-9)


def list_loop(rewards: list[float], gamma: float) -> list[float]:
    total, result = 0.0, []
    for reward in rewards[::-1]:
        total = reward + gamma * total
        result.insert(0, total)
    return result


def deque_loop(batch_rewards: Any, discount_factor: float = 0.99) -> Any:
    result: deque[Any] = deque(maxlen=len(batch_rewards))
    for t in range(len(batch_rewards))[::-1]:
        result.appendleft(batch_rewards[t] + discount_factor * (result[0] if result else 0))
    return result


def filtered(x: Any, gamma: float) -> Any:
    return scipy.signal.lfilter([1], [1, float(-gamma)], x[::-1], axis=0)[::-1]


def by_numpy(rews: Any, *, discount: float) -> Any:
    result = np.zeros_like(rews, dtype=float)
    for t in reversed(range(rews.shape[-1])):
        result[..., t] = rews[..., t] + (discount * result[..., t + 1] if t + 1 < rews.shape[-1] else 0)
    return result


def batch_only(rewards: Tensor, gamma: float) -> Tensor:
    _, T = rewards.shape
    return torch.stack([sum(gamma ** (k - t) * rewards[:, k] for k in range(t, T)) for t in range(T)], 1)


def by_division(rewards: Tensor, gamma: float) -> Tensor:
    powers = gamma ** torch.arange(rewards.shape[-1])
    return (rewards * powers).flip(-1).cumsum(-1).flip(-1) / powers


def in_place(rewards: Tensor, gamma: float) -> Tensor:
    for t in reversed(range(rewards.shape[-1] - 1)):
        rewards[..., t] += gamma * rewards[..., t + 1]
    return rewards


def with_dones(rewards: Any, dones: Any, gamma: float) -> Any:
    total, result = 0.0, []
    for reward, done in zip(reversed(rewards), reversed(dones), strict=True):
        total = reward + gamma * total * (1 - done)
        result.append(total)
    return torch.tensor(result[::-1])


def with_is_terminal(rewards: list[float], is_terminals: list[bool], gamma: float) -> list[float]:
    total, result = 0.0, []
    for reward, end in zip(reversed(rewards), reversed(is_terminals), strict=True):
        if end:
            total = 0.0
        total = reward + gamma * total
        result.insert(0, total)
    return result


def masked(token_rewards: Tensor, response_mask: Tensor, gamma: float) -> Tensor:
    running, result = torch.zeros(len(token_rewards), dtype=token_rewards.dtype), torch.zeros_like(token_rewards)
    for t in reversed(range(token_rewards.shape[1])):
        running = token_rewards[:, t] * response_mask[:, t] + gamma * running
        result[:, t] = running
    return result * response_mask


def over_the_tokens_of_the_answer(token_rewards: Tensor, resp_mask: Tensor, gamma: float) -> Tensor:
    """As verl does since August 2026: a masked token keeps the running sum as it is."""
    running, result = torch.zeros(len(token_rewards), dtype=token_rewards.dtype), torch.zeros_like(token_rewards)
    for t in reversed(range(token_rewards.shape[1])):
        on = resp_mask[:, t]
        result[:, t] = running = (token_rewards[:, t] + gamma * running) * on + running * (1 - on)
    return result


class Returns(torch.nn.Module):
    def forward(self, rewards: Tensor, gamma: float) -> Tensor:
        return rewards @ return_matrix(gamma, rewards.shape[-1], dtype=rewards.dtype).T


def going(next_value: Any, rewards: Any, masks: Any, gamma: float = 0.99) -> Any:
    """`masks` is 0 at the end of an episode."""
    running, result = next_value, []
    for t in reversed(range(len(rewards))):
        running = rewards[t] + gamma * running * masks[t]
        result.insert(0, running)
    return result


def not_a_truth_value(rewards: Tensor, dones: Tensor, gamma: float) -> Tensor:
    """The flags must be numbers: a tensor of truth values is not subtracted from 1."""
    result, running = torch.zeros_like(rewards), torch.zeros(())
    for t in reversed(range(len(rewards))):
        result[t] = running = rewards[t] + gamma * running * (1 - dones[t])
    return result


def either_flag(rewards: Any, terminated: Any, truncated: Any, gamma: float) -> list[float]:
    return with_is_terminal(list(rewards), [a or b for a, b in zip(terminated, truncated, strict=True)], gamma)


def rows_one_after_another(batch_rewards: list[list[float]], gamma: float) -> Tensor:
    result: list[float] = []
    for episode in reversed(batch_rewards):
        total = 0.0
        for reward in reversed(episode):
            result.insert(0, total := reward + gamma * total)
    return torch.tensor(result)


def two_outputs(rewards: list[float], gamma: float) -> Any:
    result = list_loop(rewards, gamma)
    return sum(result) / len(result), result


RIGHT = {
    "the package's own": returns_to_go,
    "a loop over a list": list_loop,
    "a deque of tensors": deque_loop,
    "SciPy's filter over the first axis": filtered,
    "NumPy arrays of any shape": by_numpy,
    "a batch alone": batch_only,
    "division by powers": by_division,
    "in place": in_place,
    "flags as numbers": with_dones,
    "flags in a list": with_is_terminal,
    "a mask": masked,
    "discounted over the steps taken": over_the_tokens_of_the_answer,
    "a module": Returns(),
    "a partial function": functools.partial(lambda scale, rewards, gamma: returns_to_go(rewards, gamma) * scale, 1.0),
    "any arguments": lambda *arguments: returns_to_go(*arguments) * 1,
    "the discount first, by name": lambda gamma, rewards: returns_to_go(rewards, gamma),
    "single precision": lambda rewards, gamma: returns_to_go(rewards.float(), gamma),
    "a column": lambda rewards, gamma: returns_to_go(rewards, gamma)[..., None],
    "a mask of what goes on": going,
    "flags that must be numbers": not_a_truth_value,
    "flags that are called not done": lambda rewards, not_dones, gamma: going(0.0, rewards, not_dones, gamma),
    "a discount for each step": lambda r_t, discount_t: going(0.0, r_t, discount_t, 1.0),
    "two flags": either_flag,
    "rows one after another": rows_one_after_another,
    "a second output": two_outputs,
    "a dictionary": lambda rewards, gamma: {"mean": 0.0, "returns": list_loop(list(rewards), gamma)},
    "a list of tensors": lambda rewards, gamma: list(returns_to_go(rewards, gamma)),
}


@pytest.mark.parametrize("implementation", RIGHT.values(), ids=RIGHT)
def test_what_is_right_passes_in_whatever_form(implementation: Any) -> None:
    report = check_returns(implementation)
    assert report.ok, report


def time_first(rewards: Tensor, gamma: float) -> Tensor:
    assert rewards.ndim == 2
    return returns_to_go(rewards.T, gamma).T


def test_a_function_of_batches_that_is_right_time_first_only_is_asked_for_its_layout() -> None:
    report = check_returns(time_first)
    assert report.verdict == "abstains"
    assert "layout='[T, B]'" in report.abstains
    assert check_returns(time_first, layout="[T, B]").ok
    assert not check_returns(time_first, layout="[B, T]").ok
    assert check_returns(call=lambda x: time_first(x.rewards.mT, x.gamma).mT).ok


def test_a_sum_over_the_rows_of_a_batch_is_not_right_without_a_word() -> None:
    def over_the_first_axis(rewards: Tensor, gamma: float) -> Tensor:
        result, running = torch.zeros_like(rewards), torch.zeros_like(rewards[0])
        for t in reversed(range(len(rewards))):
            result[t] = running = rewards[t] + gamma * running
        return result

    remark, *_ = check_returns(over_the_first_axis).remarks
    assert "right for one row [T], and for a batch as [T, B], not as [B, T]" in remark
    assert check_returns(over_the_first_axis, layout="[B, T]").verdict == "wrong"
    assert not any("batch" in remark for remark in check_returns(over_the_first_axis, layout="[T, B]").remarks)


@pytest.mark.parametrize("inverted", [False, True])
def test_the_polarity_of_a_mask_is_declared(inverted: bool) -> None:
    def function(rewards: Any, gamma: float, done_mask: Any) -> Any:
        going_on = [1.0 - float(x) if inverted else float(x) for x in done_mask]
        return going(0.0, list(rewards), going_on, gamma)

    report = check_returns(function)
    assert report.verdict == "abstains"
    assert "names={'done_mask': 'not_dones'}" in report.abstains
    with pytest.raises(UnknownForm, match="declare which is meant"):
        report.raise_if_wrong()
    assert check_returns(function, names={"done_mask": "not_dones"}).ok is not inverted
    assert check_returns(function, names={"done_mask": "dones"}).ok is inverted


def test_the_report_says_which_argument_got_what() -> None:
    report = check_returns(lambda batch_rews, discount, scale=1.0: returns_to_go(batch_rews, discount) * scale)
    assert report.binding == {"batch_rews": "rewards", "discount": "gamma", "scale": "left at 1.0"}
    assert "batch_rews: rewards; discount: gamma; scale: left at 1.0" in str(report)
    assert check_returns(lambda rewards, gamma: (0.0, returns_to_go(rewards, gamma))).judged == "element 1 of 2"


def test_call_is_told_what_it_reads() -> None:
    assert check_returns(call=lambda x: returns_to_go(x.rewards, x.gamma)).ok
    assert check_returns(call=lambda x: returns_to_go(x.rewards, x.gamma, mask=x.mask)).ok
    flags = check_returns(call=lambda x: returns_to_go(x.rewards, x.gamma) + 0.0 * x.dones)
    assert flags.mistakes[0].key == "returns.episodes_not_separated"
    with pytest.raises(UnknownForm, match="no input 'scores', only rewards"):
        check_returns(call=lambda x: x.scores)


def test_division_by_powers_of_gamma_is_right_with_a_remark() -> None:
    assert "it fails at γ = 0" in check_returns(by_division).remarks


def test_a_default_in_place_of_zero_is_wrong() -> None:
    report = check_returns(lambda rewards, gamma: returns_to_go(rewards, gamma or 0.99))
    assert not report.ok
    assert report.counterexample is not None
    assert report.counterexample.inputs["gamma"] == 0.0


def test_a_change_of_the_arguments_is_a_remark() -> None:
    assert "it changes its argument 'rewards' in place" in check_returns(in_place).remarks


def test_integers_that_are_truncated_are_a_remark() -> None:
    def truncating(rewards: Any, gamma: float) -> Any:
        result = np.zeros_like(rewards)
        total = 0.0
        for t in reversed(range(len(rewards))):
            result[t] = total = total * gamma + rewards[t]
        return result

    assert any(
        "integer rewards are truncated" in remark for remark in check_returns(truncating, layout="numpy").remarks
    )


def test_a_function_for_one_episode_that_is_wrong_for_batches_gets_a_remark() -> None:
    def one_episode(x: Any, gamma: float) -> Any:
        return scipy.signal.lfilter([1], [1, -gamma], x[::-1])[::-1]

    report = check_returns(one_episode)
    assert report.ok
    assert any("given a batch" in remark for remark in report.remarks)


def never_set_to_zero(batch_rewards: list[list[float]], gamma: float) -> list[list[float]]:
    running, result = 0.0, [list(episode) for episode in batch_rewards]
    for episode in result:
        for t in reversed(range(len(episode))):
            episode[t] = running = episode[t] + gamma * running
    return result


def standardised_if_it_can_be(rewards: Any, gamma: float) -> Tensor:
    result = torch.as_tensor(list_loop(list(rewards), gamma))
    return (result - result.mean()) / (result.std() + 1e-8) if len(result) > 1 else result


def cut_at_masked_steps(token_level_rewards: Tensor, response_mask: Tensor, gamma: float) -> Tensor:
    running, result = torch.zeros(len(token_level_rewards)).double(), torch.zeros_like(token_level_rewards)
    for t in reversed(range(token_level_rewards.shape[1])):
        result[:, t] = running = token_level_rewards[:, t] + gamma * running
        running = running * response_mask[:, t]
    return result * response_mask


def reset_at_rewards(r: Any, gamma: float) -> Any:
    result, running = np.zeros_like(r, dtype=float), 0.0
    for t in reversed(range(len(r))):
        if r[t] != 0:
            running = 0.0
        result[t] = running = running * gamma + r[t]
    return result


def starts_read_as_ends(rewards: Any, episode_starts: Any, gamma: float) -> list[float]:
    return with_is_terminal(list(rewards), list(episode_starts), gamma)


NAMED = [
    ("rows_run_together", never_set_to_zero),
    ("standardised", standardised_if_it_can_be),
    ("done_of_another_step", starts_read_as_ends),
    ("cut_at_masked_steps", cut_at_masked_steps),
    ("reset_at_rewards", reset_at_rewards),
    ("episodes_not_separated", lambda rewards, not_dones, gamma: list_loop(list(rewards), gamma)),
]


@pytest.mark.parametrize(("key", "function"), NAMED)
def test_known_mistakes_are_named_in_other_forms(key: str, function: Any) -> None:
    report = check_returns(function)
    assert not report.ok
    assert [mistake.key for mistake in report.mistakes] == [f"returns.{key}"]


UNKNOWN = {
    "a constant added": lambda rewards, gamma: returns_to_go(rewards, gamma) + 1,
    "twice as large": lambda rewards, gamma: 2 * returns_to_go(rewards, gamma),
    "the root of gamma": lambda rewards, gamma: returns_to_go(rewards, gamma**0.5),
    "zeros": lambda rewards, gamma: 0 * rewards,
    "not a number": lambda rewards, gamma: rewards * float("nan"),
    "clipped rewards": lambda rewards, gamma: returns_to_go(rewards.clamp(-1, 1), gamma),
    "it fails for long episodes": lambda rewards, gamma: returns_to_go(rewards, gamma)[
        ..., : 10**6 // rewards.shape[-1] ** 4
    ],
}


@pytest.mark.parametrize("implementation", UNKNOWN.values(), ids=UNKNOWN)
def test_an_error_that_is_not_known_is_not_guessed(implementation: Any) -> None:
    report = check_returns(implementation)
    assert not report.ok
    assert report.mistakes == ()
    assert report.diagnosis is None
    assert report.counterexample is not None


def test_the_counterexample_is_the_smallest_one_as_the_function_sees_it() -> None:
    case = check_returns(UNKNOWN["clipped rewards"]).counterexample
    assert case is not None
    assert (case.inputs["rewards"].tolist(), case.inputs["gamma"]) == ([1.0, 2.0], 0.5)
    assert (case.expected.tolist(), case.got.tolist()) == ([2.0, 2.0], [1.5, 1.0])


WRONG_FORMS = {
    "text": lambda rewards, gamma: "seven",
    "nothing": lambda rewards, gamma: None,
    "one number": lambda rewards, gamma: float(sum(rewards)) if len(rewards) else 0.0,
    "too many arguments": lambda rewards, gamma, policy, critic: rewards,
    "no arguments": lambda: 0.0,
    "unknown names": lambda a, b: 1.0 * returns_to_go(a, b),
    "most of its cases fail": lambda rewards, gamma: [returns_to_go(rewards, gamma)][rewards.numel() // 3],
    "it always fails": lambda rewards, gamma: 1 / 0,
}


@pytest.mark.parametrize("implementation", WRONG_FORMS.values(), ids=WRONG_FORMS)
def test_a_wrong_form_is_an_error_that_says_what_was_tried(implementation: Any) -> None:
    with pytest.raises(UnknownForm, match="check_returns does not understand this function"):
        check_returns(implementation)


def test_the_verdict_is_the_same_every_time_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    reports = {str(check_returns(UNKNOWN["twice as large"])) for _ in range(2)}
    assert len(reports) == 1
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
