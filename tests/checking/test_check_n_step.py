"""`check_n_step`: right forms pass, known mistakes are named."""

# Each function is written in the form of a public one, with that one's names.
import numpy as np
import pytest
import torch

from pgtheory.checking import UnknownForm
from pgtheory.checking.kinds.n_step import check_n_step


def rlax(r_t, discount_t, v_t, n):
    """The targets are the values n - 1 steps ahead, padded by the last; then n steps of the recursion."""
    T = r_t.shape[0]
    pad = min(n - 1, T)
    targets = np.concatenate([v_t[n - 1 :], np.full(pad, v_t[-1])])[:T]
    r, d = np.concatenate([r_t, np.zeros(n - 1)]), np.concatenate([discount_t, np.ones(n - 1)])
    for i in reversed(range(n)):
        targets = r[i : i + T] + d[i : i + T] * targets
    return targets


def loop(rewards, values, dones, gamma, n):
    out = []
    T = len(rewards)
    for t in range(T):
        total, factor, done = 0.0, 1.0, False
        for k in range(t, min(t + n, T)):
            total, factor = total + factor * rewards[k], factor * gamma
            if dones[k]:
                done = True
                break
        out.append(total if done else total + factor * values[k + 1])
    return out


def tianshou(rewards, next_values, terminated, gamma, n_step):
    T = rewards.shape[-1]
    out = torch.zeros_like(rewards)
    for t in range(T):
        last = min(t + n_step, T) - 1
        g = next_values[..., last]
        for k in reversed(range(t, last + 1)):
            g = rewards[..., k] + gamma * (1 - terminated[..., k]) * g
        out[..., t] = g
    return out


def full_power_at_the_end(rewards, values, gamma, n):
    ends = [min(t + n, len(rewards)) for t in range(len(rewards))]
    sums = [sum(gamma**k * rewards[t + k] for k in range(e - t)) for t, e in enumerate(ends)]
    return [total + gamma**n * values[e] for total, e in zip(sums, ends, strict=True)]


def with_bootstrap(rewards, values, last_value, discounts, n):
    v = torch.cat([values[..., 1:], last_value[..., None]], -1)
    out, T = torch.zeros_like(rewards), rewards.shape[-1]
    for t in range(T):
        total, factor = torch.zeros_like(rewards[..., 0]), torch.ones_like(rewards[..., 0])
        for k in range(t, min(t + n, T)):
            total, factor = total + factor * rewards[..., k], factor * discounts[..., k]
        out[..., t] = total + factor * v[..., k]
    return out


def tail_of_rewards_alone(rewards, next_values, terminated, gamma, n):
    """Where fewer than n steps are left nothing is bootstrapped."""
    out = tianshou(rewards, next_values, terminated, gamma, n)
    zero = torch.cat([next_values[..., :-1], 0 * next_values[..., -1:]], -1)
    tail = tianshou(rewards, zero, terminated, gamma, n)
    left = torch.arange(rewards.shape[-1], 0, -1)
    return torch.where(left < n, tail, out)


RIGHT = {
    "RLax": rlax, "loop": loop, "tianshou": tianshou, "bootstrap": with_bootstrap, "tail": tail_of_rewards_alone,
    "continues": lambda rewards, next_values, continues, gamma, nstep: tianshou(
        rewards, next_values, 1 - continues, gamma, nstep),
    "list of numbers": lambda r, values, dones, gamma, n: np.array(loop(r, values, dones, gamma, n)),
    "float": lambda rewards, next_values, dones, gamma, n: tianshou(
        rewards.float(), next_values.float(), dones.float(), gamma, n),
    "not dones": lambda rewards, next_values, not_done, gamma, n: tianshou(
        rewards, next_values, 1 - not_done, gamma, n),
    "no flags": lambda rewards, next_values, gamma, n: tianshou(rewards, next_values, 0 * rewards, gamma, n),
}  # fmt: skip


@pytest.mark.parametrize("function", RIGHT.values(), ids=RIGHT)
def test_a_right_form_passes(function):
    report = check_n_step(function)
    assert report.ok, report


def test_another_tail_is_remarked():
    assert any("at the end of a row" in remark for remark in check_n_step(tail_of_rewards_alone).remarks)
    assert check_n_step(tianshou).remarks == ()


def changed(total="total + factor * rewards[k]", value="factor * next_values[k]", last="t + n", cut="dones[k]"):
    """The loop with another line."""
    scope = {}
    exec(
        "def f(rewards, values, next_values, dones, gamma, n):\n"
        "    out, T = [], len(rewards)\n"
        "    for t in range(T):\n"
        "        total, factor, done, k = 0.0, 1.0, False, t\n"
        f"        for k in range(t, min({last}, T)):\n"
        f"            total, factor = {total}, factor * gamma\n"
        f"            if {cut}:\n"
        "                done = True\n"
        "                break\n"
        f"        out.append(total if done else total + {value})\n"
        "    return out\n",
        scope,
    )
    return scope["f"]


WRONG = {
    "value_discounted_once": changed(value="gamma * next_values[k]"),
    "value_not_discounted": changed(value="next_values[k]"),
    "rewards_not_discounted": changed(total="total + rewards[k]"),
    "first_reward_discounted": changed(total="total + factor * gamma * rewards[k]"),
    "one_step_more": changed(last="t + n + 1"),
    "value_of_the_step_before": changed(value="factor * values[k]"),
    "value_of_the_step_after": changed(value="factor * next_values[min(k + 1, T - 1)]"),
    "into_the_next_episode": changed(cut="False"),
    "last_reward_dropped": changed(total="total + factor * rewards[k] * (1 - dones[k])"),
    "no_value": changed(value="0.0"),
    "bootstraps_after_termination": lambda rewards, next_values, dones, gamma, n: [
        g + (gamma ** (k + 1) * next_values[t + k] if k is not None else 0.0)
        for t, g in enumerate(loop(rewards, [0.0, *next_values], dones, gamma, n))
        for k in [next((k for k in range(min(n, len(rewards) - t)) if dones[t + k]), None)]
    ],
    "": changed(total="total + factor * rewards[k] + 0.1"),
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_form_is_named(key):
    report = check_n_step(WRONG[key])
    assert report.verdict == "wrong", report
    assert [m.key for m in report.mistakes] == [f"n_step.{key}"] * bool(key), report


@pytest.mark.parametrize("function", [lambda rewards, values, gamma, n: 0.0, lambda rewards, gamma: rewards])
def test_what_is_no_return_is_not_understood(function):
    with pytest.raises(UnknownForm):
        check_n_step(function)


def test_what_is_wrong_everywhere_is_not_excused_at_the_end_of_a_row():
    def once(rewards, next_values, gamma, n):
        ends = [min(t + n, len(rewards)) for t in range(len(rewards))]
        sums = [sum(gamma**k * rewards[t + k] for k in range(e - t)) for t, e in enumerate(ends)]
        return [total + gamma * next_values[e - 1] for total, e in zip(sums, ends, strict=True)]

    assert check_n_step(once).mistakes[0].key == "n_step.value_discounted_once"
