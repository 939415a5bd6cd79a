"""Surrogates against definitions written out as loops, enumeration, autograd by other routes, and closed forms."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import F64, randn, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgtheory import gallery
from pgtheory.advantages import generalized_advantages
from pgtheory.mdp import FiniteMDP, equiprobable_policy
from pgtheory.policy_gradient import exact_policy_gradient, expected_gradient, performance
from pgtheory.reinforce import reinforce_loss
from pgtheory.softmax_policy import log_softmax_policy, softmax_policy
from pgtheory.surrogates import (
    clipped_surrogate,
    effective_sample_size,
    importance_ratios,
    kl_estimate,
    masked_mean,
    off_policy_loss,
    performance_difference,
    ppo_clip_loss,
    surrogate_objective,
    trust_region_bound,
)
from pgtheory.trajectories import Trajectories, at_steps, enumerate_trajectories
from pgtheory.value_functions import advantages


def two_prompts() -> FiniteMDP:
    """Responses of up to 3 of 3 tokens, 0 ends them: prompt 0 wants any 1, prompt 1 wants exactly 2, 2, 1."""

    def reward(prompt: int, tokens: tuple[int, ...]) -> float:
        return float(1 in tokens) if prompt == 0 else float(tokens == (2, 2, 1))

    return gallery.token_tree(3, 3, reward=reward, eos=0, n_prompts=2)


def short_mdp() -> FiniteMDP:
    """Three states, random outcomes, over after at most three steps."""
    outcomes = []
    rng = seeded(5)
    for s, a in itertools.product(range(3), range(2)):
        p = float(torch.rand((), generator=rng, dtype=F64))
        outcomes += [(s, a, 3, 1.0 + s - a, p), (s, a, min(s + 1, 3), -1.0 + 2 * a, 1 - p)]
    return FiniteMDP.from_outcomes(outcomes, n_states=4, n_actions=2, initial=[0.7, 0.3, 0.0, 0.0], terminal=[3])


def enumerated(mdp: FiniteMDP, policy: Tensor, horizon: int) -> tuple[Trajectories, Tensor]:
    return enumerate_trajectories(mdp, policy, horizon=horizon)


# --- importance ratios


@pytest.mark.equation("eq-importance-ratio")
def test_ratios_of_every_level_are_products_written_out() -> None:
    log_probs, old = randn(2, 4), randn(2, 4, seed=1)
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])
    padded = torch.where(mask, log_probs, torch.nan)
    for n in range(2):
        steps = [t for t in range(4) if mask[n, t]]
        rho = {t: math.exp(log_probs[n, t] - old[n, t]) for t in steps}
        whole = math.prod(rho.values())
        for level, expected in {
            "step": lambda t, rho=rho: rho[t],
            "prefix": lambda t, rho=rho: math.prod(r for k, r in rho.items() if k <= t),
            "trajectory": lambda t, whole=whole: whole,
            "geometric_mean": lambda t, whole=whole, steps=steps: whole ** (1 / len(steps)),
        }.items():
            found = importance_ratios(padded, old, level=level, mask=mask)[n]  # type: ignore[arg-type]
            want = [expected(t) if t in steps else 0.0 for t in range(4)]
            torch.testing.assert_close(found, torch.tensor(want, dtype=F64))


@pytest.mark.equation("eq-importance-identity")
def test_ratios_of_prefixes_have_mean_one_and_their_variance_is_the_chi_square_divergence() -> None:
    mdp = short_mdp()
    new, old = (softmax_policy(randn(4, 2, seed=s), available=mdp.available) for s in (1, 2))
    trajectories, p = enumerated(mdp, old, 3)
    _, q = enumerated(mdp, new, 3)
    log_new, log_old = (at_steps(table.log(), trajectories) for table in (new, old))
    weights = importance_ratios(log_new, log_old, level="trajectory", mask=trajectories.mask)[:, 0]
    assert float(p @ weights) == pytest.approx(1.0, abs=1e-12)
    # Var[w] = Σ_τ q(τ)²/p(τ) − 1: the trajectories' probabilities come from the enumeration under each policy
    assert float(p @ (weights - 1).square()) == pytest.approx(float((q.square() / p).sum()) - 1, abs=1e-12)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.floats(0, 1e200), min_size=1, max_size=6))
def test_effective_sample_size_lies_between_one_and_n(weights: list[float]) -> None:
    found = float(effective_sample_size(torch.tensor(weights, dtype=F64)))
    assert found == 0.0 if not any(weights) else 1 - 1e-9 <= found <= len(weights) + 1e-9


@pytest.mark.equation("eq-effective-sample-size")
def test_effective_sample_size_is_kishs_formula() -> None:
    w = [1.0, 2.0, 5.0]
    assert float(effective_sample_size(torch.tensor(w, dtype=F64))) == pytest.approx(64 / 30)


@pytest.mark.equation("eq-off-policy-objective", "eq-off-policy-gradient")
@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_off_policy_loss_has_the_value_and_gradient_of_minus_j_wherever_the_data_come_from(gamma: float) -> None:
    mdp = short_mdp()
    h, old = randn(4, 2, seed=1).requires_grad_(), softmax_policy(randn(4, 2, seed=2), available=mdp.available)
    trajectories, p = enumerated(mdp, old, 3)
    log_new = at_steps(log_softmax_policy(h, available=mdp.available), trajectories)
    log_old = at_steps(old.log(), trajectories)
    losses = torch.stack(
        [
            off_policy_loss(log_new[n : n + 1], log_old[n : n + 1], trajectories.rewards[n : n + 1], gamma)
            for n in range(len(p))
        ]
    )
    expected = (p * losses).sum()
    policy = softmax_policy(h.detach(), available=mdp.available)
    assert float(expected.detach()) == pytest.approx(-float(performance(mdp, policy, gamma)), abs=1e-12)
    (slope,) = torch.autograd.grad(expected, h)
    torch.testing.assert_close(slope, -exact_policy_gradient(mdp, h.detach(), gamma), atol=1e-12, rtol=1e-12)


# --- performance difference and surrogate


@pytest.mark.equation("eq-performance-difference")
@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0])
def test_performance_difference_is_the_difference_of_two_performances(gamma: float) -> None:
    mdp = short_mdp()
    new = softmax_policy(randn(5, 4, 2), available=mdp.available)
    old = softmax_policy(randn(4, 2, seed=3), available=mdp.available)
    expected = performance(mdp, new, gamma) - performance(mdp, old, gamma)
    torch.testing.assert_close(performance_difference(mdp, new, old, gamma), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.equation("eq-surrogate-objective", "eq-surrogate-gradient")
def test_surrogate_touches_the_performance_to_first_order_and_no_further() -> None:
    mdp, gamma = short_mdp(), 0.9
    h0, direction = randn(4, 2), randn(4, 2, seed=4)
    old = softmax_policy(h0, available=mdp.available)

    def gap(step: float) -> float:
        new = softmax_policy(h0 + step * direction, available=mdp.available)
        return float(surrogate_objective(mdp, new, old, gamma) - performance(mdp, new, gamma))

    h = h0.clone().requires_grad_()
    policy = softmax_policy(h, available=mdp.available)
    (slope,) = torch.autograd.grad(surrogate_objective(mdp, policy, policy, gamma), h)
    torch.testing.assert_close(slope, exact_policy_gradient(mdp, h0, gamma), atol=1e-12, rtol=1e-12)
    assert gap(0.0) == pytest.approx(0.0, abs=1e-13)
    assert gap(1e-2) / gap(1e-3) == pytest.approx(100, rel=0.05)  # quadratic, and not zero


def of_the_robot(search: Tensor) -> Tensor:
    """With a full battery it searches; with a low one it searches with this probability, and else recharges."""
    policy = torch.zeros(*search.shape, 2, 3, dtype=F64)
    policy[..., 0, 0], policy[..., 1, 0], policy[..., 1, 2] = 1.0, search, 1 - search
    return policy


@pytest.mark.equation("eq-trust-region")
def test_the_trust_region_bound_of_the_robot_is_what_a_pencil_finds() -> None:
    """At γ = 0.9, 2γ/(1 − γ) = 18, and with x more of recharging, ε = 1.9 x and Σ_s η(s) TV_s = 1.8 x."""
    x = torch.tensor([0.5, 0.25, 0.01, 0.0, -0.25], dtype=F64)
    old = of_the_robot(torch.tensor(0.5, dtype=F64))
    found = trust_region_bound(gallery.recycling_robot(), of_the_robot(0.5 - x), old, 0.9)
    torch.testing.assert_close(found, 18 * 1.9 * 1.8 * x.square(), atol=1e-12, rtol=1e-12)


@pytest.mark.equation("eq-trust-region")
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("mdp", [short_mdp(), gallery.gridworld_4x4()], ids=["short", "grid"])
def test_the_surrogate_errs_by_no_more_than_the_trust_region_bound_and_that_by_no_more_than_trpos(
    mdp: FiniteMDP, gamma: float
) -> None:
    shape = mdp.n_states, mdp.n_actions
    new = softmax_policy(3 * randn(200, *shape), available=mdp.available)
    old = softmax_policy(randn(*shape, seed=1), available=mdp.available)
    error = surrogate_objective(mdp, new, old, gamma) - performance(mdp, new, gamma)
    bound = trust_region_bound(mdp, new, old, gamma)
    assert (error.abs() <= bound + 1e-12).all()
    # 4 ε γ α² / (1 − γ)², ε = max |A|, α = max_s TV_s: Schulman et al. (2015), Theorem 1
    distance = (new - old).abs().sum(-1).amax(-1) / 2
    largest = advantages(mdp, old, gamma).abs().max()
    assert (bound <= 4 * largest * gamma * distance.square() / (1 - gamma) ** 2 + 1e-12).all()


# --- PPO


@pytest.mark.equation("eq-ppo-regions")
@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (0.5, 1.0, 0.5, 0.5),
        (1.19, 1.0, 1.19, 1.19),
        (1.5, 1.0, 1.2, 0.0),
        (0.5, -1.0, -0.8, 0.0),
        (0.81, -1.0, -0.81, -0.81),
        (1.5, -1.0, -1.5, -1.5),
        (3.0, 0.0, 0.0, 0.0),
    ],
)
def test_clipping_stops_the_gradient_on_one_side_for_each_sign_of_the_advantage(
    ratio: float, advantage: float, value: float, slope: float
) -> None:
    log_prob = torch.tensor(math.log(ratio), dtype=F64, requires_grad=True)
    found = clipped_surrogate(log_prob, torch.tensor(0.0, dtype=F64), torch.tensor(advantage, dtype=F64))
    (gradient,) = torch.autograd.grad(found, log_prob)
    assert found.item() == pytest.approx(value)
    assert gradient.item() == pytest.approx(slope)


@pytest.mark.equation("eq-ppo-clip")
@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.floats(0.01, 5), st.floats(-3, 3), st.floats(0, 0.9), st.floats(0, 3))
def test_clipped_surrogate_is_the_minimum_of_the_paper(ratio: float, advantage: float, low: float, high: float) -> None:
    found = clipped_surrogate(
        torch.tensor(math.log(ratio), dtype=F64),
        torch.tensor(0.0, dtype=F64),
        torch.tensor(advantage, dtype=F64),
        clip=(low, high),
    )
    expected = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_an_overflowing_ratio_is_clipped_with_gradient_zero_and_not_nan() -> None:
    log_probs = torch.tensor([2000.0], dtype=F64, requires_grad=True)
    loss = ppo_clip_loss(log_probs, torch.tensor([0.0], dtype=F64), torch.tensor([1.0], dtype=F64))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(-1.2)
    assert log_probs.grad is not None
    assert log_probs.grad.item() == 0.0


@pytest.mark.equation("eq-ppo-loss")
def test_at_ratio_one_the_value_is_minus_the_mean_advantage_and_the_gradient_is_that_of_reinforce() -> None:
    log_probs, rewards = randn(3, 5).requires_grad_(), randn(3, 5, seed=1)
    mask = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]
    padded = torch.where(mask, 0.0, torch.nan)
    returns = [[float(sum(rewards[n, t : int(mask[n].sum())])) for t in range(5)] for n in range(3)]
    weights = torch.tensor(returns, dtype=F64)
    loss = ppo_clip_loss(log_probs + padded, log_probs, weights + padded, mask=mask)
    assert loss.item() == pytest.approx(-sum(returns[n][t] for n in range(3) for t in range(5) if mask[n, t]) / 10)
    (slope,) = torch.autograd.grad(loss, log_probs)
    (target,) = torch.autograd.grad(reinforce_loss(log_probs, rewards, 1.0, mask=mask), log_probs)
    torch.testing.assert_close(slope, target * 3 / 10)  # 10 steps in 3 episodes
    by_episode = ppo_clip_loss(log_probs, log_probs, weights, mask=mask, average="episodes")
    (slope,) = torch.autograd.grad(by_episode, log_probs)
    torch.testing.assert_close(slope, target)


def test_expected_gradient_of_ppo_at_ratio_one_with_exact_advantages_is_minus_the_policy_gradient() -> None:
    mdp = two_prompts()
    h = randn(mdp.n_states, 3)

    def loss(log_probs: Tensor, rewards: Tensor, gamma: float, /, *, mask: Tensor) -> Tensor:
        ends = mask & ~torch.nn.functional.pad(mask[..., 1:], (0, 1))
        zeros = torch.zeros_like(rewards)
        weights = generalized_advantages(rewards, zeros, zeros, gamma, 1.0, terminated=ends, mask=mask)
        return ppo_clip_loss(log_probs, log_probs, weights, mask=mask, average="episodes")

    found = expected_gradient(loss, mdp, h, 1.0, horizon=3, batch_size=2)
    torch.testing.assert_close(found, -exact_policy_gradient(mdp, h, 1.0), atol=1e-12, rtol=1e-12)


def test_no_gradient_flows_into_advantages_or_old_log_probs() -> None:
    log_probs, old, weights = (x.clone().requires_grad_() for x in randn(3, 4))
    ppo_clip_loss(log_probs, old, weights).backward()  # type: ignore[no-untyped-call]
    assert log_probs.grad is not None
    assert old.grad is None
    assert weights.grad is None


def test_without_any_step_the_loss_is_zero_with_gradient_zero() -> None:
    log_probs = torch.full((2, 3), math.nan, dtype=F64, requires_grad=True)
    loss = ppo_clip_loss(log_probs, log_probs, log_probs, mask=torch.zeros(2, 3, dtype=torch.bool))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [[0.0] * 3] * 2


def test_masked_mean_is_the_mean_of_the_selected_numbers() -> None:
    values, mask = randn(4, 6), randn(4, 6, seed=2) > 0
    mask[:, 2] = True
    assert masked_mean(values, mask).item() == pytest.approx(values[mask].mean().item())
    rows = [values[n][mask[n]].mean().item() for n in range(4)]
    assert masked_mean(values, mask, dim=1).tolist() == pytest.approx(rows)
    assert masked_mean(values).item() == pytest.approx(values.mean().item())


# --- KL


def categorical(seed: int) -> tuple[Tensor, Tensor]:
    return randn(4, seed=seed), torch.log_softmax(randn(4, seed=seed + 50), -1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum()


@pytest.mark.equation("eq-kl-estimators")
@pytest.mark.parametrize("seed", range(5))
def test_k1_and_k3_have_the_mean_kl_of_pi_from_ref_and_k2_has_not(seed: int) -> None:
    h, ref = categorical(seed)
    p = torch.log_softmax(h, -1)
    truth = float(kl(p, ref))
    for kind in ("k1", "k3"):
        assert float(p.exp() @ kl_estimate(p, ref, kind=kind)) == pytest.approx(truth, abs=1e-12)  # type: ignore[arg-type]
    assert abs(float(p.exp() @ kl_estimate(p, ref, kind="k2")) - truth) > 1e-4
    assert abs(float(kl(ref, p)) - truth) > 1e-4  # the two directions are not confused


@pytest.mark.equation("eq-kl-gradients")
@pytest.mark.parametrize("seed", range(5))
def test_as_losses_k1_has_no_gradient_k2_that_of_the_kl_and_k3_that_of_the_reverse(seed: int) -> None:
    h, ref = categorical(seed)
    probabilities = torch.softmax(h, -1)

    def slope(function: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = h.clone().requires_grad_()
        return torch.autograd.grad(function(torch.log_softmax(leaf, -1)), leaf)[0]

    expected = {
        "k1": torch.zeros_like(h),
        "k2": slope(lambda p: kl(p, ref)),
        "k3": slope(lambda p: kl(ref, p)),
    }
    for kind, target in expected.items():
        found = slope(lambda p, kind=kind: probabilities @ kl_estimate(p, ref, kind=kind))  # type: ignore[misc]
        torch.testing.assert_close(found, target, atol=1e-12, rtol=1e-10)


def test_k3_is_accurate_near_ratio_one() -> None:
    x = torch.tensor([1e-6, -1e-6, 1e-8, 3e-4], dtype=F64)
    exact = [math.fsum(v**k / math.factorial(k) for k in range(2, 8)) for v in x.tolist()]
    found = kl_estimate(torch.zeros(4, dtype=F64), x, kind="k3")
    # Two roundings of expm1, which is about x; without it the error would be a rounding of a number about 1.
    assert ((found - torch.tensor(exact, dtype=F64)).abs() <= 2 * torch.finfo(F64).eps * x.abs()).all()


# --- derivatives and transforms


def test_first_and_second_derivatives_agree_with_differences() -> None:
    x, old, weights = randn(3, 4)
    mask = torch.tensor([True, True, False, True])
    leaf = x.requires_grad_()
    functions: list[Callable[..., Tensor]] = [
        lambda z: ppo_clip_loss(z, old, weights, mask=mask),
        lambda z: off_policy_loss(z[None], old[None], weights[None], 0.9),
        lambda z: kl_estimate(z, old, kind="k3", mask=mask).sum(),
        lambda z: importance_ratios(z, old, level="geometric_mean", mask=mask),
    ]
    for function in functions:
        assert torch.autograd.gradcheck(function, (leaf,))
        assert torch.autograd.gradgradcheck(function, (leaf,))


def test_the_losses_run_under_vmap_and_grad() -> None:
    log_probs, old, weights = randn(3, 5, 2, 3)
    each = torch.func.vmap(torch.func.grad(ppo_clip_loss))(log_probs, old, weights)
    one = torch.func.grad(ppo_clip_loss)(log_probs[3], old[3], weights[3])
    torch.testing.assert_close(each[3], one)


def test_the_losses_compile_without_a_graph_break() -> None:
    log_probs, old, weights = randn(3, 2, 3, 4)
    mask = torch.arange(4) < torch.tensor([[4, 1, 2], [3, 4, 1]])[..., None]

    def loss(x: Tensor) -> Tensor:
        steps = generalized_advantages(old, weights, old, 0.9, 0.8, terminated=~mask, mask=mask)
        return ppo_clip_loss(x, old, steps, mask=mask)

    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(log_probs), loss(log_probs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    x = torch.zeros(2, 3, dtype=dtype)
    assert ppo_clip_loss(x, x, x).dtype == dtype
    assert kl_estimate(x, x).dtype == dtype


# --- bad input

X = torch.zeros(2, 3, dtype=F64)
M = torch.ones(2, 3, dtype=torch.bool)
NAN = torch.full((2, 3), math.nan, dtype=F64)

TOY = gallery.two_state_toy()
EVEN = equiprobable_policy(TOY)
BAD: list[tuple[str, Callable[[], object], type[Exception], str]] = [
    ("clipped-nan", lambda: clipped_surrogate(NAN, X, X), ValueError, r"log_probs is nan at \[0, 0\]"),
    ("difference-gamma", lambda: performance_difference(TOY, EVEN, EVEN, 1.5), ValueError, "gamma must be in"),
    ("bound-gamma", lambda: trust_region_bound(TOY, EVEN, EVEN, 1.0), ValueError, "gamma must be less than 1"),
    ("objective-gamma", lambda: surrogate_objective(TOY, EVEN, EVEN, 1.5), ValueError, "gamma must be in"),
    ("ppo-log-probs-nan", lambda: ppo_clip_loss(NAN, X, X), ValueError, r"log_probs is nan at \[0, 0\]"),
    ("ppo-log-probs-int", lambda: ppo_clip_loss(X.long(), X, X), TypeError, "log_probs must hold floating-point"),
    ("ppo-old-shape", lambda: ppo_clip_loss(X, X[0], X), ValueError, "old_log_probs has shape"),
    ("ppo-old-inf", lambda: ppo_clip_loss(X, X - math.inf, X), ValueError, r"old_log_probs is -inf at \[0, 0\]"),
    ("ppo-advantages-dtype", lambda: ppo_clip_loss(X, X, X.float()), TypeError, "advantages is torch.float32"),
    ("ppo-advantages-nan", lambda: ppo_clip_loss(X, X, NAN), ValueError, "advantages is nan"),
    ("ppo-mask-int", lambda: ppo_clip_loss(X, X, X, mask=M.long()), TypeError, "mask must be boolean"),
    ("ppo-mask-shape", lambda: ppo_clip_loss(X, X, X, mask=M[0]), ValueError, "mask has shape"),
    (
        "ppo-clip-low",
        lambda: ppo_clip_loss(X, X, X, clip=-0.1),
        ValueError,
        r"clip must be in \[0, 1\] below the ratio 1, not -0.1",
    ),
    (
        "ppo-clip-high",
        lambda: ppo_clip_loss(X, X, X, clip=(0.1, math.nan)),
        ValueError,
        "clip must be at least 0 above the ratio 1, not nan",
    ),
    ("ppo-clip-triple", lambda: ppo_clip_loss(X, X, X, clip=(0.1, 0.2, 0.3)), ValueError, "clip has 3 entries"),  # type: ignore[arg-type]
    ("ppo-clip-text", lambda: ppo_clip_loss(X, X, X, clip="0.2"), TypeError, "clip must be a number, not str"),  # type: ignore[arg-type]
    ("ppo-average-case", lambda: ppo_clip_loss(X, X, X, average="Steps"), ValueError, "average is 'Steps'"),  # type: ignore[arg-type]
    ("ppo-average", lambda: ppo_clip_loss(X, X, X, average="tokens"), ValueError, "average is 'tokens'"),  # type: ignore[arg-type]
    (
        "ppo-no-episode",
        lambda: ppo_clip_loss(X[:0], X[:0], X[:0], average="episodes"),
        ValueError,
        "there is no episode",
    ),
    ("ratios-level", lambda: importance_ratios(X, X, level="token"), ValueError, "level is 'token'"),  # type: ignore[arg-type]
    ("ratios-early", lambda: importance_ratios(X, X, level="episode"), ValueError, "level is 'episode'"),  # type: ignore[arg-type]
    ("off-policy-rewards", lambda: off_policy_loss(X, X, X[0], 1.0), ValueError, "rewards has shape"),
    ("off-policy-gamma", lambda: off_policy_loss(X, X, X, 2.0), ValueError, "gamma must be in"),
    ("off-policy-none", lambda: off_policy_loss(X[:0], X[:0], X[:0], 1.0), ValueError, "there is no episode"),
    ("ess-negative", lambda: effective_sample_size(X - 1), ValueError, r"weights is negative at \[0, 0\]"),
    ("ess-empty", lambda: effective_sample_size(X[:, :0]), ValueError, "there is no sample"),
    ("ess-nan", lambda: effective_sample_size(NAN), ValueError, "weights is nan"),
    ("kl-kind-case", lambda: kl_estimate(X, X, kind="K1"), ValueError, "kind is 'K1'"),  # type: ignore[arg-type]
    ("kl-kind", lambda: kl_estimate(X, X, kind="k4"), ValueError, "kind is 'k4'"),  # type: ignore[arg-type]
    ("kl-ref-shape", lambda: kl_estimate(X, X[0]), ValueError, "ref_log_probs has shape"),
    ("kl-ref-nan", lambda: kl_estimate(X, NAN), ValueError, "ref_log_probs is nan"),
    ("mean-mask", lambda: masked_mean(X, M[0]), ValueError, "mask has shape"),
    ("mean-int", lambda: masked_mean(X.long()), TypeError, "values must hold floating-point"),
]


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_is_named(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_inputs_are_not_modified() -> None:
    inputs = [randn(2, 3, 4, seed=s) for s in range(3)]
    copies = [x.clone() for x in inputs]
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    ppo_clip_loss(*inputs, mask=mask)
    kl_estimate(inputs[0], inputs[1], mask=mask)
    for x, copy in zip(inputs, copies, strict=True):
        assert torch.equal(x, copy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64])
def test_a_reward_of_zero_is_zero_however_large_its_ratio(dtype: torch.dtype) -> None:
    # ρ_{0:t} = e^{(t+1)/2} reaches e^{1000}; only R_1 = 1 counts.
    log_probs = torch.full((1, 2000), -0.5, dtype=dtype).requires_grad_()
    rewards = torch.zeros(1, 2000, dtype=dtype)
    rewards[0, 0] = 1.0
    loss = off_policy_loss(log_probs, torch.full((1, 2000), -1.0, dtype=dtype), rewards, 1.0)
    loss.backward()
    assert log_probs.grad is not None
    expected = torch.zeros(1, 2000, dtype=dtype)
    expected[0, 0] = -math.exp(0.5)
    torch.testing.assert_close(loss, expected[0, 0])
    torch.testing.assert_close(log_probs.grad, expected)


def test_a_product_is_finite_although_the_ratio_is_not() -> None:
    # e^{100} 0.1^{60}, in float32
    log_probs, rewards = torch.zeros(1, 61), torch.zeros(1, 61)
    log_probs[0, 0], rewards[0, 60] = 100.0, 1.0
    loss = off_policy_loss(log_probs, torch.zeros(1, 61), rewards.clone(), 0.5)
    assert abs(float(loss) / -(math.exp(100.0) * 0.5**60) - 1) < 1e-4


def test_a_product_is_finite_where_the_ratio_just_overflows() -> None:
    log_ratio = torch.tensor([[math.log(torch.finfo(torch.float32).max)]])  # rounded up
    assert log_ratio.exp().isinf()
    loss = ppo_clip_loss(log_ratio, torch.zeros(1, 1), torch.tensor([[-0.5]]))
    assert float(loss) == pytest.approx(torch.finfo(torch.float32).max / 2, rel=1e-4)


@pytest.mark.parametrize("level", ["", "a", "h", "q", "t", "token", "z"])
def test_a_level_that_is_none_is_refused_wherever_it_stands_in_the_alphabet(level: Any) -> None:
    with pytest.raises(ValueError, match=f"level is {level!r}"):
        importance_ratios(X, X, level=level)


def test_the_first_axis_that_does_not_exist_is_refused() -> None:
    for dim in (2, -3):
        with pytest.raises(ValueError, match="dim"):
            masked_mean(torch.zeros(2, 3), dim=dim)


@pytest.mark.parametrize("average", ["steps", "episodes"])
def test_an_advantage_of_zero_is_zero_where_nothing_clips(average: str) -> None:
    log_probs = torch.tensor([[1000.0, 0.0]]).requires_grad_()
    advantages = torch.tensor([[0.0, 1.0]])
    loss = ppo_clip_loss(log_probs, torch.zeros(1, 2), advantages, clip=(1.0, math.inf), average=average)  # type: ignore[arg-type]
    loss.backward()
    scale = 2 if average == "steps" else 1
    assert loss.item() == -1 / scale
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [[0.0, -1 / scale]]
    assert clipped_surrogate(log_probs, torch.zeros(1, 2), advantages, clip=(1.0, math.inf)).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_past_its_largest_number(dtype: torch.dtype) -> None:
    n = 70_000
    ones, zeros = torch.ones(1, n, dtype=dtype), torch.zeros(1, n, dtype=dtype)
    assert masked_mean(ones).item() == 1.0
    assert ppo_clip_loss(zeros, zeros, ones).item() == -1.0
    assert abs(effective_sample_size(ones[:, :60_000]).item() / 60_000 - 1) < 0.01
    assert importance_ratios(zeros, zeros, level="geometric_mean").unique().tolist() == [1.0]
    # 3000 steps of ln 1.001 are not lost one by one beside their sum
    steps = torch.full((1, 3000), 1e-3, dtype=dtype)
    prefix = importance_ratios(steps, torch.zeros_like(steps), level="prefix")[0, -1].item()
    assert abs(prefix / math.exp(3000 * steps[0, 0].item()) - 1) < 0.01


def test_half_precision_keeps_k3_near_ratio_one() -> None:
    x = torch.tensor(0.01).half()
    found = kl_estimate(torch.zeros(1).half(), x[None]).item()
    assert abs(found / (math.expm1(x.item()) - x.item()) - 1) < 0.01
