"""Generalized advantages against their definition, term by term, and their moments against all trajectories."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import F64, PATHS, randn, seeded, take_path
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgtheory.advantages import generalized_advantage_moments, generalized_advantages
from pgtheory.mdp import FiniteMDP, equiprobable_policy
from pgtheory.softmax_policy import softmax_policy
from pgtheory.trajectories import enumerate_trajectories
from pgtheory.value_functions import advantages as exact_advantages
from pgtheory.value_functions import state_values


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain torch, and the kernel that takes over where tensors are large."""
    take_path(request.param, monkeypatch)


both_paths = pytest.mark.usefixtures("path")


def short_mdp() -> FiniteMDP:
    """Three states, random outcomes, over after at most three steps; one of three actions is missing in one state."""
    outcomes = []
    rng = seeded(5)
    for s, a in itertools.product(range(3), range(3)):
        if (s, a) == (1, 1):
            continue
        p = float(torch.rand((), generator=rng, dtype=F64))
        outcomes += [(s, a, 3, 1.0 + s - a, p), (s, a, min(s + 1, 3), -1.0 + 2 * a, 1 - p)]
    return FiniteMDP.from_outcomes(outcomes, n_states=4, n_actions=3, initial=[0.7, 0.3, 0.0, 0.0], terminal=[3])


def gae_by_definition(
    rewards: Any, values: Any, next_values: Any, gamma: float, lam: float, terminated: Any, truncated: Any, mask: Any
) -> list[float]:
    """The sum of exponentially weighted TD errors, term by term, from each step to the end of its episode."""
    n, result = len(rewards), []
    for t in range(n):
        total, k = 0.0, t
        while k < n and mask[k]:
            bootstrap = 0.0 if terminated[k] else gamma * next_values[k]
            total += (gamma * lam) ** (k - t) * (rewards[k] + bootstrap - values[k])
            if terminated[k] or truncated[k]:
                break
            k += 1
        result.append(float(total))
    return result


@both_paths
@pytest.mark.equation("eq-gae")
@settings(
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the path is the same for all examples
)
@given(
    st.integers(1, 40), st.integers(0, 10_000), st.sampled_from([0.0, 0.5, 0.97, 1.0]), st.sampled_from([0.0, 0.9, 1.0])
)
def test_generalized_advantages_are_their_definition(n: int, seed: int, gamma: float, lam: float) -> None:
    rewards, values, next_values = randn(3, n, seed=seed)
    draw = torch.rand(n, generator=seeded(seed + 1))
    terminated, truncated, mask = draw < 0.1, (draw >= 0.1) & (draw < 0.2), draw < 0.9
    read = torch.where(mask, 0.0, torch.nan)
    found = generalized_advantages(
        rewards + read,
        values + read,
        torch.where(terminated, torch.nan, next_values + read),
        gamma,
        lam,
        terminated=terminated,
        truncated=truncated,
        mask=mask,
    )
    expected = gae_by_definition(rewards, values, next_values, gamma, lam, terminated, truncated, mask)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=F64), atol=1e-10, rtol=1e-10)


@both_paths
@pytest.mark.parametrize("n", [127, 128, 129, 144, 300, 2 * 16 * 16 + 5])
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.3])
def test_long_rows_of_several_episodes_are_their_definition(n: int, rate: float) -> None:
    rewards, values, next_values = randn(3, 2, n, seed=n)
    draw = torch.rand(2, n, generator=seeded(n))
    terminated, truncated, mask = draw < rate, (draw >= rate) & (draw < 2 * rate), draw < 1 - rate
    read = torch.where(mask, 0.0, torch.nan)
    arguments = (rewards + read, values + read, torch.where(terminated, torch.nan, next_values + read))
    flags = (terminated, truncated, mask)
    found = generalized_advantages(
        *arguments, 0.99, 0.95, **dict(zip(("terminated", "truncated", "mask"), flags, strict=True))
    )
    rows = zip(*(x.tolist() for x in (rewards, values, next_values)), *flags, strict=True)
    expected = [gae_by_definition(*row[:3], 0.99, 0.95, *row[3:]) for row in rows]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=F64), atol=1e-10, rtol=1e-10)


@both_paths
@pytest.mark.parametrize("n", [9, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_episode_that_overflows_spoils_no_other(n: int, dtype: torch.dtype) -> None:
    zeros = torch.zeros(n, dtype=dtype)
    rewards, ends, mask = torch.ones(n, dtype=dtype), torch.arange(n) == n // 2, torch.arange(n) < n - 1
    rewards[n // 2 + 1 :] = torch.finfo(dtype).max  # finite, but no sum of two of them is
    nan, unread = torch.where(mask, 0.0, math.nan).to(dtype), torch.where(mask & ~ends, 0.0, math.nan).to(dtype)
    found = generalized_advantages(rewards + nan, nan, unread, 1.0, 1.0, terminated=ends, mask=mask)
    whole = generalized_advantages(rewards[:-1], zeros[:-1], unread[:-1], 1.0, 1.0, terminated=ends[:-1])
    assert found.tolist() == [*whole.tolist(), 0.0]
    assert whole[: n // 2 + 1].tolist() == list(range(n // 2 + 1, 0, -1))
    assert whole[-1] == torch.finfo(dtype).max
    assert whole[n // 2 + 1 : -1].isinf().all()


@pytest.mark.equation("eq-td-error")
@both_paths
def test_lambda_zero_is_the_td_error_and_lambda_one_the_return_minus_the_value() -> None:
    rewards, values = randn(2, 6)
    next_values, gamma = torch.cat([values[1:], torch.zeros(1, dtype=F64)]), 0.9
    ends = torch.arange(6) == 5
    returns = [sum(gamma ** (k - t) * float(rewards[k]) for k in range(t, 6)) for t in range(6)]
    td = generalized_advantages(rewards, values, next_values, gamma, 0.0, terminated=ends)
    torch.testing.assert_close(td, rewards + gamma * next_values - values)
    whole = generalized_advantages(rewards, values, next_values, gamma, 1.0, terminated=ends)
    torch.testing.assert_close(whole, torch.tensor(returns, dtype=F64) - values)


@both_paths
def test_a_truncated_step_bootstraps_and_a_terminated_one_does_not() -> None:
    one, no, yes = torch.ones(1, dtype=F64), torch.tensor([False]), torch.tensor([True])
    arguments = (one, 2 * one, 10 * one, 0.5, 0.9)
    assert generalized_advantages(*arguments, terminated=yes).item() == 1.0 - 2.0
    assert generalized_advantages(*arguments, terminated=no, truncated=yes).item() == 1.0 + 0.5 * 10.0 - 2.0


def test_the_value_of_the_reset_state_is_not_the_value_of_the_next_state() -> None:
    """Two episodes in one row: shifting `values` by one, as is often done, gives another result at the truncation."""
    rewards, values, next_values = randn(3, 4)
    cut = torch.tensor([False, True, False, False])
    none = torch.zeros(4, dtype=torch.bool)
    right = generalized_advantages(rewards, values, next_values, 1.0, 0.5, terminated=none, truncated=cut)
    reset = torch.cat([values[1:], next_values[-1:]])
    wrong = generalized_advantages(rewards, values, reset, 1.0, 0.5, terminated=none, truncated=cut)
    assert (right[1] - wrong[1]).item() == pytest.approx(float(next_values[1] - values[2]))
    assert right[0] != wrong[0]


@both_paths
def test_nothing_crosses_the_end_of_an_episode() -> None:
    rewards = torch.tensor([1.0, 1.0, math.inf], dtype=F64)
    zeros = torch.zeros(3, dtype=F64)
    mask = torch.tensor([True, True, False])
    found = generalized_advantages(
        rewards, zeros, zeros, 1.0, 1.0, terminated=torch.tensor([False, True, False]), mask=mask
    )
    assert found.tolist() == [2.0, 1.0, 0.0]


@pytest.mark.equation("eq-gae-mean", "eq-gae-variance")
@pytest.mark.parametrize("lam", [0.0, 0.4, 0.95, 1.0])
@pytest.mark.parametrize("right_values", [True, False])
def test_moments_of_generalized_advantages_are_those_of_all_trajectories(lam: float, right_values: bool) -> None:
    mdp, gamma = short_mdp(), 0.9
    policy = softmax_policy(randn(4, 3), available=mdp.available)
    values = state_values(mdp, policy, gamma) if right_values else randn(4, seed=9)
    mean, variance = generalized_advantage_moments(mdp, policy, values, gamma, lam)
    safe = torch.where(mdp.terminal, 0.0, values)
    for s, a in mdp.available.nonzero().tolist():
        start = torch.zeros(4, dtype=F64).index_fill(0, torch.tensor(s), 1.0)
        model = FiniteMDP(**{**{f: getattr(mdp, f) for f in mdp.__dataclass_fields__}, "initial": start})
        first = torch.stack([policy] * 3)
        first[0, s] = torch.eye(3, dtype=F64)[a]
        paths, p = enumerate_trajectories(model, first, horizon=3)
        found = [
            gae_by_definition(r, safe[x[:-1]], safe[x[1:]], gamma, lam, mdp.terminal[x[1:]], [False] * 3, m)[0]
            for r, x, m in zip(paths.rewards, paths.states, paths.mask, strict=True)
        ]
        sampled = torch.tensor(found, dtype=F64)
        average = p @ sampled
        assert float(mean[s, a]) == pytest.approx(float(average), abs=1e-12)
        assert float(variance[s, a]) == pytest.approx(float(p @ (sampled - average).square()), abs=1e-12)
    assert not mean[~mdp.available].any()
    assert not variance[~mdp.available].any()


@pytest.mark.equation("prop-gae-bias")
def test_with_the_true_values_every_lambda_is_unbiased_and_with_lambda_one_any_values_are() -> None:
    mdp, gamma = short_mdp(), 0.9
    policy = softmax_policy(randn(4, 3), available=mdp.available)
    truth, values, wrong = exact_advantages(mdp, policy, gamma), state_values(mdp, policy, gamma), randn(4, seed=9)
    for lam in (0.0, 0.5, 1.0):
        torch.testing.assert_close(generalized_advantage_moments(mdp, policy, values, gamma, lam).mean, truth)
    mean = generalized_advantage_moments(mdp, policy, wrong, gamma, 1.0).mean
    shift = torch.where(mdp.available, (values - wrong)[:, None], 0.0)
    torch.testing.assert_close(mean, truth + shift)
    biased = generalized_advantage_moments(mdp, policy, wrong, gamma, 0.0).mean
    assert not torch.allclose(
        (biased - truth)[0, 0], (biased - truth)[0, 1]
    )  # differs by action: the gradient is biased


# --- derivatives and transforms
@both_paths
def test_first_and_second_derivatives_agree_with_differences() -> None:
    x, old, weights = randn(3, 4)
    mask = torch.tensor([True, True, False, True])
    leaf = x.requires_grad_()
    functions: list[Callable[..., Tensor]] = [
        lambda z: generalized_advantages(z, old, weights, 0.9, 0.8, terminated=~mask),
        lambda z: generalized_advantages(old, z, weights, 0.9, 0.8, terminated=~mask),
        lambda z: generalized_advantages(old, weights, z, 0.9, 0.8, terminated=~mask),
    ]
    for function in functions:
        assert torch.autograd.gradcheck(function, (leaf,))
        assert torch.autograd.gradgradcheck(function, (leaf,))


@both_paths
def test_derivatives_of_long_rows_agree_with_differences() -> None:
    inputs = [x.requires_grad_() for x in randn(3, 1, 145, seed=3).unbind()]
    draw = torch.rand(1, 145, generator=seeded(4))
    flags = {"terminated": draw < 0.02, "truncated": (draw > 0.02) & (draw < 0.04), "mask": draw < 0.95}
    total = torch.autograd.functional.jacobian(
        lambda *x: generalized_advantages(*x, 0.9, 0.8, **flags) @ randn(145), tuple(inputs)
    )
    step = 1e-6 * randn(3, 1, 145, seed=5)
    with torch.no_grad():
        ahead, behind = (
            generalized_advantages(*(x + sign * d for x, d in zip(inputs, step, strict=True)), 0.9, 0.8, **flags)
            for sign in (1, -1)
        )
    slope = sum((j * d).sum() for j, d in zip(total, step, strict=True))
    assert float(slope) == pytest.approx(float(((ahead - behind) / 2) @ randn(145)), rel=1e-6)


@both_paths
@pytest.mark.parametrize("batch", [(), (3,), (2, 1, 3), (0,)], ids=str)
@pytest.mark.parametrize("horizon", [0, 1, 23])
def test_any_batch_shape_gives_the_advantages_and_slopes_of_each_row(batch: tuple[int, ...], horizon: int) -> None:
    x, weights = randn(3, *batch, horizon), randn(*batch, horizon, seed=1)
    draw = torch.rand(3, *batch, horizon, generator=seeded(2))
    flags = {"terminated": draw[0] < 0.1, "truncated": (draw[0] > 0.1) & (draw[1] < 0.1), "mask": draw[2] < 0.9}
    leaf = x.clone().requires_grad_()
    together = generalized_advantages(*leaf, 0.9, 0.8, **flags)
    (slopes,) = torch.autograd.grad(together, leaf, weights)
    for index in itertools.product(*map(range, batch)):
        alone = x[:, *index].clone().requires_grad_()
        found = generalized_advantages(*alone, 0.9, 0.8, **{name: flag[index] for name, flag in flags.items()})
        torch.testing.assert_close(together[index], found)
        torch.testing.assert_close(slopes[:, *index], torch.autograd.grad(found, alone, weights[index])[0])


@both_paths
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_a_batch_of_slopes_goes_back_at_once() -> None:
    rewards, values, next_values = (x.requires_grad_() for x in randn(3, 2, 20).unbind())
    ends, slopes = torch.arange(20).expand(2, 20) % 7 == 6, randn(3, 2, 20, seed=1)
    found = generalized_advantages(rewards, values, next_values, 0.9, 0.8, terminated=ends)
    (together,) = torch.autograd.grad(found, next_values, slopes, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(found, next_values, slope, retain_graph=True)[0] for slope in slopes]
    torch.testing.assert_close(together, torch.stack(each))


@both_paths
def test_strides_do_not_matter() -> None:
    tensors, ends = randn(3, 40, 3).transpose(1, 2).unbind(), (torch.arange(40) % 7 == 6).expand(3, 40)
    found = generalized_advantages(*tensors, 0.9, 0.8, terminated=ends)
    assert found.is_contiguous()
    whole = generalized_advantages(*(x.contiguous() for x in tensors), 0.9, 0.8, terminated=ends.clone())
    torch.testing.assert_close(found, whole)


def test_they_run_under_vmap() -> None:
    rewards, values, next_values = randn(3, 5, 2, 3)
    ends = torch.zeros(5, 2, 3, dtype=torch.bool)
    each = torch.func.vmap(lambda r, v, n, e: generalized_advantages(r, v, n, 0.9, 0.5, terminated=e))(
        rewards, values, next_values, ends
    )
    whole = generalized_advantages(rewards, values, next_values, 0.9, 0.5, terminated=ends)
    torch.testing.assert_close(each, whole)


def test_they_compile_without_a_graph_break() -> None:
    rewards, values, next_values = randn(3, 2, 3, 4)
    mask = torch.arange(4) < torch.tensor([[4, 1, 2], [3, 4, 1]])[..., None]

    def gae(x: Tensor) -> Tensor:
        return generalized_advantages(x, values, next_values, 0.9, 0.8, terminated=~mask, mask=mask)

    torch.testing.assert_close(torch.compile(gae, fullgraph=True, backend="eager")(rewards), gae(rewards))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    x, flags = torch.zeros(2, 3, dtype=dtype), torch.ones(2, 3, dtype=torch.bool)
    assert generalized_advantages(x, x, x, 1.0, 0.5, terminated=flags).dtype == dtype


# --- bad input

X = torch.zeros(2, 3, dtype=F64)
M = torch.ones(2, 3, dtype=torch.bool)
NAN = torch.full((2, 3), math.nan, dtype=F64)


def gae(**changes: Any) -> Tensor:
    arguments = {"rewards": X, "values": X, "next_values": X, "gamma": 0.9, "lam": 0.9, "terminated": ~M} | changes
    return generalized_advantages(**arguments)


BAD: list[tuple[str, Callable[[], object], type[Exception], str]] = [
    ("gae-gamma", lambda: gae(gamma=1.5), ValueError, r"gamma must be in \[0, 1\], not 1.5"),
    ("gae-lam", lambda: gae(lam=-0.1), ValueError, r"lam must be in \[0, 1\], not -0.1"),
    ("gae-rewards-int", lambda: gae(rewards=X.long()), TypeError, "rewards must hold floating-point numbers"),
    ("gae-rewards-scalar", lambda: gae(rewards=X.sum()), ValueError, "rewards is a scalar"),
    ("gae-rewards-nan", lambda: gae(rewards=NAN), ValueError, r"rewards is nan at \[0, 0\]"),
    ("gae-values-shape", lambda: gae(values=X[0]), ValueError, r"values has shape \[3\] but rewards has \[2, 3\]"),
    ("gae-values-dtype", lambda: gae(values=X.float()), TypeError, "values is torch.float32 but rewards is"),
    ("gae-next-nan", lambda: gae(next_values=NAN), ValueError, r"next_values is nan at \[0, 0\]"),
    ("gae-terminated-int", lambda: gae(terminated=M.long()), TypeError, "terminated must be boolean"),
    ("gae-terminated-none", lambda: gae(terminated=None), TypeError, "terminated must be a torch.Tensor"),
    ("gae-truncated-shape", lambda: gae(truncated=M[0]), ValueError, r"truncated has shape \[3\] but rewards has"),
    (
        "gae-both",
        lambda: gae(terminated=M, truncated=M),
        ValueError,
        r"terminated and truncated are both True at \[0, 0\]",
    ),
    ("gae-mask-float", lambda: gae(mask=X), TypeError, "mask must be boolean"),
    (
        "moments-policy",
        lambda: generalized_advantage_moments(short_mdp(), torch.zeros(4, 2, dtype=F64), X[0], 1.0, 1.0),
        ValueError,
        "policy",
    ),
    (
        "moments-values",
        lambda: generalized_advantage_moments(short_mdp(), equiprobable_policy(short_mdp()), X[0], 1.0, 1.0),
        ValueError,
        r"values has shape \[3\], expected \[\.\.\., 4\]",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
@both_paths
def test_bad_input_is_named(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@both_paths
def test_inputs_are_not_modified() -> None:
    inputs = [randn(2, 3, 4, seed=s) for s in range(3)]
    copies = [x.clone() for x in inputs]
    generalized_advantages(*inputs, 0.9, 0.9, terminated=torch.zeros(2, 3, 4, dtype=torch.bool))
    for x, copy in zip(inputs, copies, strict=True):
        assert torch.equal(x, copy)


def test_a_critic_that_is_far_off_leaves_the_variance_its_digits() -> None:
    # One decision between 1 and 0, then the end: δ = R − V, so the variance given the action is 0 for any V, and that
    # of a coin of ±1/2 is 1/4.
    outcomes = [(0, 0, 1, 1.0, 0.5), (0, 0, 1, 0.0, 0.5), (1, 0, 2, 1.0, 0.5), (1, 0, 2, 0.0, 0.5)]
    mdp = FiniteMDP.from_outcomes(outcomes, n_states=3, n_actions=1, initial=0, terminal=[2])
    for offset in (0.0, 1e7):
        values = torch.full((3,), offset, dtype=F64)
        found = generalized_advantage_moments(mdp, equiprobable_policy(mdp), values, 1.0, 0.5)
        torch.testing.assert_close(
            found.variance[:, 0], torch.tensor([0.25 + 0.0625, 0.25, 0.0], dtype=F64), rtol=0, atol=1e-8
        )
