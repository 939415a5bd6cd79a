"""`check_lambda_returns`: right forms pass, known mistakes are named."""

# Each function is written in the form of a public one, with that one's names.
import numpy as np
import pytest
import torch

from pgtheory.advantages import generalized_advantages
from pgtheory.checking import UnknownForm
from pgtheory.checking.kinds.lambda_returns import CHECK, check_lambda_returns


def rlax(r_t, discount_t, v_t, lambda_=1.0):
    result, acc = [], v_t[-1]
    for r, d, v in zip(r_t[::-1], discount_t[::-1], v_t[::-1], strict=True):
        acc = r + d * ((1 - lambda_) * v + lambda_ * acc)
        result.insert(0, acc)
    return np.array(result)


def dreamer(reward, value, discount, bootstrap, lambda_):
    """Time first; `discount` holds γ."""
    next_values = torch.cat([value[1:], bootstrap[None]], 0)
    inputs = reward + discount * next_values * (1 - lambda_)
    last, out = bootstrap, []
    for t in reversed(range(len(inputs))):
        last = inputs[t] + discount[t] * lambda_ * last
        out.append(last)
    return torch.stack(out[::-1], 0)


def sheeprl(rewards, values, continues, lmbda=0.95):
    vals = [values[-1:]]
    interm = rewards + continues * values * (1 - lmbda)
    for t in reversed(range(len(continues))):
        vals.append(interm[t] + continues[t] * lmbda * vals[-1])
    return torch.cat(list(reversed(vals))[:-1])


def torchrl(gamma, lmbda, next_state_value, reward, done):
    out, g = torch.empty_like(reward), next_state_value[..., -1]
    for t in reversed(range(reward.shape[-1])):
        g = reward[..., t] + gamma * (1 - done[..., t]) * ((1 - lmbda) * next_state_value[..., t] + lmbda * g)
        out[..., t] = g
    return out


def by_advantages(rewards, values, gamma, lam):
    none = torch.zeros_like(rewards, dtype=torch.bool)
    args = (rewards, values[..., :-1], values[..., 1:], gamma, lam)
    return generalized_advantages(*args, terminated=none) + values[..., :-1]


def lists(rewards, next_values, dones, gamma, lam):
    g, out = next_values[-1], []
    for r, v, d in zip(reversed(rewards), reversed(next_values), reversed(dones), strict=True):
        g = r if d else r + gamma * ((1 - lam) * v + lam * g)
        out.insert(0, g)
    return out


def by_average(rewards, values, gamma, lam):
    """The average of the n-step returns, written out."""
    T = len(rewards)
    out = torch.zeros(T, dtype=rewards.dtype)
    for t in range(T):
        steps = [
            sum(gamma**k * rewards[t + k] for k in range(n)) + gamma**n * values[t + n] for n in range(1, T - t + 1)
        ]
        out[t] = (
            sum((1 - lam) * lam ** (n - 1) * g for n, g in enumerate(steps[:-1], 1)) + lam ** (T - t - 1) * steps[-1]
        )
    return out


def baselines(rewards, values, next_value, dones, gamma, lam):
    v, g = torch.cat([values, next_value.reshape(1)]), next_value
    out = torch.zeros_like(rewards)
    for t in reversed(range(len(rewards))):
        out[t] = g = rewards[t] + gamma * (1 - dones[t]) * ((1 - lam) * v[t + 1] + lam * g)
    return out


def time_first(rewards, next_values, terminated, gamma, lam):
    return torchrl(gamma, lam, next_values.mT, rewards.mT, terminated.mT.double()).mT


RIGHT = {
    "RLax": rlax, "Dreamer": dreamer, "sheeprl": sheeprl, "torchrl": torchrl, "advantages": by_advantages,
    "baselines": baselines,
    "lists": lists, "average": by_average, "numpy": lambda rewards, next_values, dones, gamma, lam: np.array(
        lists(list(rewards), list(next_values), list(dones), gamma, lam)),
    "keyword": lambda *, reward, next_value, not_done, discount, gae_lambda: torchrl(
        discount, gae_lambda, next_value, reward, 1 - not_done),
    "dictionary": lambda rewards, next_values, terminated, gamma, lam: {"lambda_returns": torchrl(
        gamma, lam, next_values, rewards, terminated.double())},
}  # fmt: skip


@pytest.mark.parametrize("function", RIGHT.values(), ids=RIGHT)
def test_a_right_form_passes(function):
    report = check_lambda_returns(function)
    assert report.ok, report


def test_time_first_is_right_if_that_is_declared():
    assert check_lambda_returns(time_first, layout="[T, B]").ok


def test_the_reference_is_the_average_of_n_step_returns():
    for case in CHECK.bench(frozenset(["rewards"])).cases:
        x = case.inputs
        for n, row in enumerate(x["rewards"]):
            values = torch.cat([x["values"][n], x["next_values"][n, -1:]])
            expected = by_average(row, values, x["gamma"], x["lam"])
            got = CHECK.right[""](
                **{k: x[k] for k in ("rewards", "values", "next_values", "terminated", "gamma", "lam")}
            )
            assert torch.allclose(got[n], expected, rtol=1e-9, atol=1e-9)


def changed(line):
    """The loop with another line."""
    scope = {"torch": torch}
    exec(
        "def f(rewards, values, next_values, dones, gamma, lam):\n"
        "    out, g = torch.empty_like(rewards), next_values[..., -1]\n"
        "    for t in reversed(range(rewards.shape[-1])):\n"
        "        r, d, v, own = (x[..., t] for x in (rewards, dones, next_values, values))\n"
        f"        g = {line}\n"
        "        out[..., t] = g\n"
        "    return out\n",
        scope,
    )
    return scope["f"]


WRONG = {
    "weight_missing": changed("r + gamma * (1 - d) * (v + lam * g)"),
    "exchanged": changed("r + gamma * (1 - d) * (lam * v + (1 - lam) * g)"),
    "own_value": changed("r + gamma * (1 - d) * ((1 - lam) * own + lam * g)"),
    "flags_ignored": changed("r + gamma * ((1 - lam) * v + lam * g)"),
    "not_cut": changed("r + gamma * ((1 - d) * (1 - lam) * v + lam * g)"),
    "bootstraps_after_termination": changed("r + gamma * ((1 - lam) * v + (1 - d) * lam * g)"),
    "gamma_missing": changed("r + (1 - d) * (gamma * (1 - lam) * v + lam * g)"),
    "value_instead_of_the_last_reward": changed(
        "torch.where(d > 0, v, g * lam * gamma + r + (1 - lam) * gamma * (1 - d) * v)"
    ),
    "lambda_ignored": changed("r + gamma * (1 - d) * g"),
    "seeded_with_zero": lambda rewards, next_values, dones, gamma, lam: changed(
        "r + gamma * (1 - d) * ((1 - lam) * v + lam * (g if t + 1 < rewards.shape[-1] else 0 * g))"
    )(rewards, next_values, next_values, dones, gamma, lam),
    "advantages": lambda rewards, values, next_values, dones, gamma, lam: (
        torchrl(gamma, lam, next_values, rewards, dones) - values
    ),
    "reward_of_the_next_step": lambda rewards, next_values, dones, gamma, lam: torchrl(
        gamma, lam, next_values, torch.cat([rewards[..., 1:], rewards[..., -1:]], -1), dones
    ),
    "two_steps_ahead": lambda rewards, next_values, dones, gamma, lam: torchrl(
        gamma, lam, torch.cat([next_values[..., 1:], next_values[..., -1:]], -1), rewards, dones
    ),
    "": changed("r + gamma * (1 - d) * ((1 - lam) * v + lam * g) + 0.01"),
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_form_is_named(key):
    report = check_lambda_returns(WRONG[key])
    assert report.verdict == "wrong", report
    assert [m.key for m in report.mistakes] == [f"lambda_returns.{key}"] * bool(key), report


@pytest.mark.parametrize("function", [lambda rewards, values, gamma, lam: 0.0, lambda rewards, gamma, lam: rewards])
def test_what_is_no_return_is_not_understood(function):
    with pytest.raises(UnknownForm):
        check_lambda_returns(function)


def test_a_function_that_refuses_lambda_0_is_right_with_a_remark():
    """As the vectorised form of torchrl 0.14.1 does, by an `IndexError`."""

    def refuses(rewards, next_values, gamma, lam):
        if lam == 0:
            raise IndexError("tuple index out of range")
        return torchrl(gamma, lam, next_values, rewards, torch.zeros_like(rewards))

    report = check_lambda_returns(refuses)
    assert report.ok, report
    assert "it fails at λ = 0" in report.remarks

    def wrong(rewards, next_values, gamma, lam):
        return torchrl(gamma, lam or 0.1, next_values, rewards, torch.zeros_like(rewards))

    assert not check_lambda_returns(wrong).ok
