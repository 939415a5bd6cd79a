"""Surrogates against definitions written out as loops, enumeration, autograd by other routes, and closed forms."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgtheory import gallery
from pgtheory.mdp import FiniteMDP, equiprobable_policy
from pgtheory.policy_gradient import exact_policy_gradient, expected_gradient, performance
from pgtheory.reinforce import reinforce_loss
from pgtheory.softmax_policy import NeuralPolicy, log_softmax_policy, softmax_policy
from pgtheory.surrogates import (
    PPOTrainer,
    clipped_surrogate,
    difficulty_weight,
    effective_sample_size,
    expected_group_gradient,
    generalized_advantage_moments,
    generalized_advantages,
    group_advantages,
    group_bias_ledger,
    group_loss_variants,
    grpo_loss,
    importance_ratios,
    kl_estimate,
    masked_mean,
    off_policy_loss,
    performance_difference,
    ppo_clip_loss,
    projected_token_log_probs,
    sample_rollout,
    surrogate_objective,
    surrogate_runs,
    token_log_probs,
    two_answer_lengths,
)
from pgtheory.trajectories import Trajectories, at_steps, enumerate_trajectories
from pgtheory.value_functions import advantages as exact_advantages
from pgtheory.value_functions import state_values

F64 = torch.float64
VARIANTS = ("grpo", "dr_grpo", "dapo", "gspo", "rloo")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=F64)


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


def test_effective_sample_size_is_kishs_formula() -> None:
    w = [1.0, 2.0, 5.0]
    assert float(effective_sample_size(torch.tensor(w, dtype=F64))) == pytest.approx(64 / 30)


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


@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0])
def test_performance_difference_is_the_difference_of_two_performances(gamma: float) -> None:
    mdp = short_mdp()
    new = softmax_policy(randn(5, 4, 2), available=mdp.available)
    old = softmax_policy(randn(4, 2, seed=3), available=mdp.available)
    expected = performance(mdp, new, gamma) - performance(mdp, old, gamma)
    torch.testing.assert_close(performance_difference(mdp, new, old, gamma), expected, atol=1e-12, rtol=1e-12)


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


# --- generalized advantages


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


@settings(deadline=None, derandomize=True, max_examples=60)
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


def test_lambda_zero_is_the_td_error_and_lambda_one_the_return_minus_the_value() -> None:
    rewards, values = randn(2, 6)
    next_values, gamma = torch.cat([values[1:], torch.zeros(1, dtype=F64)]), 0.9
    ends = torch.arange(6) == 5
    returns = [sum(gamma ** (k - t) * float(rewards[k]) for k in range(t, 6)) for t in range(6)]
    td = generalized_advantages(rewards, values, next_values, gamma, 0.0, terminated=ends)
    torch.testing.assert_close(td, rewards + gamma * next_values - values)
    whole = generalized_advantages(rewards, values, next_values, gamma, 1.0, terminated=ends)
    torch.testing.assert_close(whole, torch.tensor(returns, dtype=F64) - values)


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


def test_nothing_crosses_the_end_of_an_episode() -> None:
    rewards = torch.tensor([1.0, 1.0, math.inf], dtype=F64)
    zeros = torch.zeros(3, dtype=F64)
    mask = torch.tensor([True, True, False])
    found = generalized_advantages(
        rewards, zeros, zeros, 1.0, 1.0, terminated=torch.tensor([False, True, False]), mask=mask
    )
    assert found.tolist() == [2.0, 1.0, 0.0]


@pytest.mark.parametrize("lam", [0.0, 0.4, 0.95, 1.0])
@pytest.mark.parametrize("right_values", [True, False])
def test_moments_of_generalized_advantages_are_those_of_all_trajectories(lam: float, right_values: bool) -> None:
    mdp, gamma = short_mdp(), 0.9
    policy = softmax_policy(randn(4, 2), available=mdp.available)
    values = state_values(mdp, policy, gamma) if right_values else randn(4, seed=9)
    mean, variance = generalized_advantage_moments(mdp, policy, values, gamma, lam)
    safe = torch.where(mdp.terminal, 0.0, values)
    for s, a in itertools.product(range(3), range(2)):
        start = torch.zeros(4, dtype=F64).index_fill(0, torch.tensor(s), 1.0)
        model = FiniteMDP(**{**{f: getattr(mdp, f) for f in mdp.__dataclass_fields__}, "initial": start})
        first = torch.stack([policy] * 3)
        first[0, s] = torch.eye(2, dtype=F64)[a]
        paths, p = enumerate_trajectories(model, first, horizon=3)
        found = [
            gae_by_definition(r, safe[x[:-1]], safe[x[1:]], gamma, lam, mdp.terminal[x[1:]], [False] * 3, m)[0]
            for r, x, m in zip(paths.rewards, paths.states, paths.mask, strict=True)
        ]
        sampled = torch.tensor(found, dtype=F64)
        average = p @ sampled
        assert float(mean[s, a]) == pytest.approx(float(average), abs=1e-12)
        assert float(variance[s, a]) == pytest.approx(float(p @ (sampled - average).square()), abs=1e-12)


def test_with_the_true_values_every_lambda_is_unbiased_and_with_lambda_one_any_values_are() -> None:
    mdp, gamma = short_mdp(), 0.9
    policy = softmax_policy(randn(4, 2), available=mdp.available)
    truth, values, wrong = exact_advantages(mdp, policy, gamma), state_values(mdp, policy, gamma), randn(4, seed=9)
    for lam in (0.0, 0.5, 1.0):
        torch.testing.assert_close(generalized_advantage_moments(mdp, policy, values, gamma, lam).mean, truth)
    mean = generalized_advantage_moments(mdp, policy, wrong, gamma, 1.0).mean
    shift = torch.where(mdp.terminal, 0.0, values - wrong)[:, None]
    torch.testing.assert_close(mean, truth + shift)
    biased = generalized_advantage_moments(mdp, policy, wrong, gamma, 0.0).mean
    assert not torch.allclose(
        (biased - truth)[0, 0], (biased - truth)[0, 1]
    )  # differs by action: the gradient is biased


# --- PPO


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


@pytest.mark.parametrize("seed", range(5))
def test_k1_and_k3_have_the_mean_kl_of_pi_from_ref_and_k2_has_not(seed: int) -> None:
    h, ref = categorical(seed)
    p = torch.log_softmax(h, -1)
    truth = float(kl(p, ref))
    for kind in ("k1", "k3"):
        assert float(p.exp() @ kl_estimate(p, ref, kind=kind)) == pytest.approx(truth, abs=1e-12)  # type: ignore[arg-type]
    assert abs(float(p.exp() @ kl_estimate(p, ref, kind="k2")) - truth) > 1e-4
    assert abs(float(kl(ref, p)) - truth) > 1e-4  # the two directions are not confused


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
    assert ((found - torch.tensor(exact, dtype=F64)).abs() <= 2.3e-16 * x.abs()).all()


# --- groups


def test_group_advantages_with_std_use_the_sample_deviation_and_trls_epsilon() -> None:
    rewards = [0.0, 1.0, 5.0]
    mean = sum(rewards) / 3
    spread = math.sqrt(sum((r - mean) ** 2 for r in rewards) / 2)
    expected = [(r - mean) / (spread + 1e-4) for r in rewards]
    assert group_advantages(torch.tensor(rewards, dtype=F64)).tolist() == pytest.approx(expected, rel=1e-12)
    population = math.sqrt(sum((r - mean) ** 2 for r in rewards) / 3)
    found = group_advantages(torch.tensor(rewards, dtype=F64), ddof=0, eps=0.0)
    assert found.tolist() == pytest.approx([(r - mean) / population for r in rewards], rel=1e-12)


def test_leave_one_out_subtracts_the_mean_of_the_others() -> None:
    rewards = randn(2, 4)
    found = group_advantages(rewards, scale="none", baseline="leave_one_out")
    for g, i in itertools.product(range(2), range(4)):
        others = [float(rewards[g, j]) for j in range(4) if j != i]
        assert float(found[g, i]) == pytest.approx(float(rewards[g, i]) - sum(others) / 3)


@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("value", [0.1, 1e9, -1 / 3])
def test_a_group_of_equal_rewards_gives_exactly_zero(scale: Any, baseline: Any, value: float) -> None:
    rewards = torch.full((3,), value, dtype=F64, requires_grad=True)
    found = group_advantages(rewards, scale=scale, baseline=baseline, eps=0.0)
    assert found.tolist() == [0.0] * 3
    (slope,) = torch.autograd.grad(found.sum(), rewards)
    assert slope.isfinite().all()


def test_a_group_of_one_teaches_nothing() -> None:
    assert group_advantages(torch.tensor([[3.0]])).tolist() == [[0.0]]


def loss_by_loops(
    variant: str,
    log_probs: Tensor,
    old: Tensor,
    rewards: Tensor,
    mask: Tensor,
    low: float,
    high: float,
    beta: float,
    ref: Tensor,
) -> Tensor:
    """Each published objective, token by token."""
    groups, size, horizon = log_probs.shape
    total, n_tokens = torch.zeros((), dtype=F64), int(mask.sum())
    for g in range(groups):
        r = rewards[g]
        for i in range(size):
            others = torch.stack([r[j] for j in range(size) if j != i])
            weight = r[i] - (others.mean() if variant == "rloo" else r.mean())
            if variant in ("grpo", "dapo", "gspo"):
                weight = weight / (r.std(correction=1) + 1e-4)
            tokens = [t for t in range(horizon) if mask[g, i, t]]
            for t in tokens:
                ratio = (log_probs[g, i, t] - old[g, i, t]).exp()
                if variant == "gspo":
                    ratio = (sum(log_probs[g, i, k] - old[g, i, k] for k in tokens) / len(tokens)).exp()
                term = torch.minimum(ratio * weight, ratio.clamp(1 - low, 1 + high) * weight)
                x = ref[g, i, t] - log_probs[g, i, t]
                term = term - beta * (x.exp() - 1 - x)
                total = (
                    total
                    - term
                    / {
                        "grpo": len(tokens) * groups * size,
                        "gspo": len(tokens) * groups * size,
                        "dr_grpo": groups * size * horizon,
                        "dapo": n_tokens,
                        "rloo": groups * size,
                    }[variant]
                )
    return total


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_each_group_loss_and_its_gradient_are_the_published_formula(variant: Any, beta: float) -> None:
    log_probs = (0.3 * randn(2, 3, 4)).requires_grad_()
    old, ref, rewards = 0.3 * randn(2, 3, 4, seed=1), 0.3 * randn(2, 3, 4, seed=2), randn(2, 3, seed=3)
    mask = torch.arange(4) < torch.tensor([[4, 1, 2], [3, 4, 1]])[..., None]
    nan = torch.where(mask, 0.0, torch.nan)
    found = grpo_loss(
        log_probs + nan, old + nan, rewards, mask=mask, variant=variant, clip=(0.2, 0.28), ref_log_probs=ref, beta=beta
    )
    expected = loss_by_loops(variant, log_probs, old, rewards, mask, 0.2, 0.28, beta, ref)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    slopes = [torch.autograd.grad(loss, log_probs)[0] for loss in (found, expected)]
    torch.testing.assert_close(*slopes, atol=1e-12, rtol=1e-12)


def test_a_response_without_tokens_counts_as_zero() -> None:
    log_probs = torch.zeros(1, 2, 2, dtype=F64)
    mask = torch.tensor([[[False, False], [True, True]]])
    rewards = torch.tensor([[0.0, 2.0]], dtype=F64)
    assert grpo_loss(log_probs, log_probs, rewards, mask=mask, variant="dr_grpo").item() == pytest.approx(-2 / 4)
    assert grpo_loss(log_probs, log_probs, rewards, mask=torch.zeros_like(mask), variant="dapo").item() == 0.0


@pytest.fixture(scope="module")
def ledger() -> dict[str, Any]:
    mdp = two_prompts()
    return {row.name: row for row in group_bias_ledger(mdp, randn(mdp.n_states, 3), horizon=3, size=3)}


def brute_group_gradient(loss: Any, mdp: FiniteMDP, h: Tensor, horizon: int, size: int) -> Tensor:
    """The expectation by a loop over all groups of each prompt, and one call of autograd for each."""
    policy = softmax_policy(h, available=mdp.available)
    trajectories, p = enumerate_trajectories(mdp, policy, horizon=horizon)
    leaf = h.clone().requires_grad_()
    log_probs = at_steps(log_softmax_policy(leaf, available=mdp.available), trajectories)
    value = torch.zeros((), dtype=F64)
    for prompt in trajectories.states[:, 0].unique():
        rows = (trajectories.states[:, 0] == prompt).nonzero().flatten().tolist()
        mass = sum(float(p[n]) for n in rows)
        for group in itertools.product(rows, repeat=size):
            weight = mass * math.prod(float(p[n]) / mass for n in group)
            k = list(group)
            x, rewards = log_probs[k][None], trajectories.rewards[k].sum(-1)[None]
            value = value + weight * loss(x, x.detach(), rewards, mask=trajectories.mask[k][None])
    return torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("name", ["grpo", "dapo", "rloo"])
def test_expected_group_gradient_is_the_sum_over_all_groups_of_each_prompt(name: str) -> None:
    mdp = gallery.token_tree(2, 2, reward=lambda x, y: float(sum(y) == 1 + x), eos=0, n_prompts=2, initial=[0.3, 0.7])
    h, loss = randn(mdp.n_states, 2), group_loss_variants()[name]
    for ordered in (False, True):
        found = expected_group_gradient(loss, mdp, h, horizon=2, size=3, ordered=ordered)
        torch.testing.assert_close(found, brute_group_gradient(loss, mdp, h, 2, 3), atol=1e-12, rtol=1e-10)


def test_rloo_is_unbiased_and_dr_grpo_is_a_multiple_of_the_gradient(ledger: dict[str, Any]) -> None:
    assert ledger["rloo"].bias < 1e-12
    assert ledger["dr_grpo"].angle < 1e-9
    assert ledger["dr_grpo"].length == pytest.approx((2 / 3) / 3)  # (K − 1)/K, and 1/T


def test_grpo_dapo_and_gspo_point_elsewhere(ledger: dict[str, Any]) -> None:
    for name in ("grpo", "dapo", "gspo", "1/|o| only"):
        assert ledger[name].angle > 1.0, name


def test_with_two_rewards_the_std_turns_nothing_in_a_group_of_three_and_does_in_a_group_of_four() -> None:
    """A mixed group of three has one right answer or one wrong one, and the same deviation: sqrt(1/3)."""
    mdp, losses = two_prompts(), {"std": group_loss_variants()["1/std only"]}
    h = randn(mdp.n_states, 3)
    (three,), (four,) = (group_bias_ledger(mdp, h, horizon=3, size=k, losses=losses) for k in (3, 4))
    assert three.angle < 1e-9
    assert three.length == pytest.approx(2 / 3 / (math.sqrt(1 / 3) + 1e-4), rel=1e-12)
    assert four.angle > 0.1


def test_the_ledger_has_the_moments_of_all_groups() -> None:
    mdp = gallery.bandit([1.0, 0.0, 0.25])
    h, loss = randn(2, 3), group_loss_variants()["grpo"]
    (row,) = group_bias_ledger(mdp, h, horizon=1, size=3, losses={"grpo": loss})
    pi, gradients, weights = torch.softmax(h[0], -1), [], []
    for arms in itertools.product(range(3), repeat=3):
        advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.25][a] for a in arms], dtype=F64))
        gradients.append(sum(w * (torch.eye(3, dtype=F64)[a] - pi) for w, a in zip(advantages, arms, strict=True)) / 3)
        weights.append(math.prod(float(pi[a]) for a in arms))
    mean = sum(w * g for w, g in zip(weights, gradients, strict=True))
    torch.testing.assert_close(row.mean[0], mean)
    variance = sum(w * float((g - mean).square().sum()) for w, g in zip(weights, gradients, strict=True))
    assert row.variance == pytest.approx(variance)
    truth = exact_policy_gradient(mdp, h, 1.0)[0]
    assert row.bias == pytest.approx(float((mean - truth).norm()))
    assert row.length == pytest.approx(float(mean.norm() / truth.norm()))
    cosine = float(mean @ truth / mean.norm() / truth.norm())
    assert row.angle == pytest.approx(math.degrees(math.acos(cosine)), rel=1e-6)


def test_gspo_and_grpo_have_the_same_gradient_at_ratio_one(ledger: dict[str, Any]) -> None:
    torch.testing.assert_close(ledger["gspo"].mean, ledger["grpo"].mean, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("variant", ["rloo", "dr_grpo"])
def test_on_a_tree_of_three_tokens_and_three_steps_all_groups_of_three_average_to_the_gradient(variant: str) -> None:
    """27 responses, 27^3 = 19,683 groups for each of two prompts, one of them ten times as hard as the other."""
    mdp = gallery.token_tree(
        3, 3, n_prompts=2, reward=lambda x, y: float(y[0] == 1) if x == 0 else float(y in ((2, 2, 1), (0, 1, 2)))
    )
    h = 0.5 * randn(mdp.n_states, 3)
    loss, ordered = group_loss_variants()[variant], variant == "rloo"
    found = expected_group_gradient(loss, mdp, h, horizon=3, size=3, ordered=ordered)
    factor = 1.0 if variant == "rloo" else (2 / 3) / 3
    torch.testing.assert_close(found, -factor * exact_policy_gradient(mdp, h, 1.0), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
def test_difficulty_weight_is_the_ratio_of_expected_and_exact_gradient(size: int, scale: Any, baseline: Any) -> None:
    mdp = gallery.bandit([1.0, 0.0])

    def loss(log_probs: Tensor, rewards: Tensor, gamma: float, /, *, mask: Tensor) -> Tensor:
        return -(group_advantages(rewards[:, 0], scale=scale, baseline=baseline) * log_probs[:, 0]).mean()

    for p in (0.1, 0.5, 0.8):
        h = torch.tensor([[math.log(p), math.log(1 - p)], [0.0, 0.0]], dtype=F64)
        found = -expected_gradient(loss, mdp, h, 1.0, horizon=1, batch_size=size)[0, 0]
        ratio = float(found) / (p * (1 - p))
        weight = float(difficulty_weight(torch.tensor(p, dtype=F64), size, scale=scale, baseline=baseline))
        assert weight == pytest.approx(ratio, rel=1e-9)
        if scale == "none":
            assert weight == pytest.approx(1.0 if baseline == "leave_one_out" else (size - 1) / size)


def test_the_std_makes_hard_and_easy_prompts_count_more_than_medium_ones() -> None:
    hard, medium, easy = difficulty_weight(torch.tensor([0.1, 0.5, 0.9], dtype=F64), 8).tolist()
    assert hard > medium
    assert hard == pytest.approx(easy)
    many = difficulty_weight(torch.tensor(0.3, dtype=F64), 2000, eps=0.0)
    assert float(many) == pytest.approx(1 / math.sqrt(0.3 * 0.7), rel=2e-3)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_one_over_length_divides_the_push_on_a_long_answer_by_its_length(length: int) -> None:
    """Two right answers of equal probability: the exact gradient treats them alike, 1/|o| does not, Dr. GRPO does."""
    mdp, h = two_answer_lengths(length), torch.zeros(length + 1, 3, dtype=F64)
    truth = exact_policy_gradient(mdp, h, 1.0)[0]
    assert float(truth[0] - truth[1]) == pytest.approx(0.0, abs=1e-15)
    pushes = {}
    for name in ("1/|o| only", "dr_grpo"):
        pushes[name] = -expected_group_gradient(group_loss_variants()[name], mdp, h, horizon=length, size=3)[0]
    assert float(pushes["dr_grpo"][0] - pushes["dr_grpo"][1]) == pytest.approx(0.0, abs=1e-14)
    # The sum over the answers of π(o) A(o)/|o| (e_o − π) with A = (K−1)/K (r − p), by hand: π = 1/3, p = 2/3
    gains = [2 / 3 * (1 - 2 / 3), 2 / 3 * (1 - 2 / 3) / length, 2 / 3 * (0 - 2 / 3)]
    expected = [(g - sum(gains) / 3) / 3 for g in gains]
    assert pushes["1/|o| only"].tolist() == pytest.approx(expected, abs=1e-14)


def test_grpo_value_at_ratio_one_is_zero_for_equal_lengths_whatever_the_rewards() -> None:
    log_probs, mask = randn(4, 8, 5), torch.ones(4, 8, 5, dtype=torch.bool)
    for variant in VARIANTS:
        loss = grpo_loss(log_probs, log_probs, randn(4, 8, seed=1), mask=mask, variant=variant)  # type: ignore[arg-type]
        assert loss.item() == pytest.approx(0.0, abs=1e-14)


# --- token log-probabilities


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7), (2, 2, 3, 7)], ids=str)
@pytest.mark.parametrize("chunk", [1, 14, 10_000])
def test_token_log_probs_and_their_gradient_are_those_of_log_softmax(
    shape: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgtheory.surrogates.CHUNK", chunk)
    logits, slope = (30 * randn(*shape)).requires_grad_(), randn(*shape[:-1], seed=1)
    tokens = torch.randint(7, shape[:-1], generator=seeded())
    plain = torch.log_softmax(logits, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    found = token_log_probs(logits, tokens)
    torch.testing.assert_close(found, plain, atol=1e-13, rtol=1e-13)
    gradients = [torch.autograd.grad(x, logits, slope)[0] for x in (found, plain)]
    torch.testing.assert_close(*gradients, atol=1e-14, rtol=1e-12)


def test_projected_token_log_probs_and_their_gradients_are_those_of_the_plain_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pgtheory.surrogates.CHUNK", 14)
    hidden, weight = randn(2, 5, 3).requires_grad_(), randn(7, 3, seed=1).requires_grad_()
    tokens, slope = torch.randint(7, (2, 5), generator=seeded()), randn(2, 5, seed=2)
    plain = torch.log_softmax(hidden @ weight.T, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    found = projected_token_log_probs(hidden, weight, tokens)
    torch.testing.assert_close(found, plain, atol=1e-13, rtol=1e-13)
    for x, y in zip(*(torch.autograd.grad(z, (hidden, weight), slope) for z in (found, plain)), strict=True):
        torch.testing.assert_close(x, y, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_token_log_probs_of_narrow_types_are_rounded_once(dtype: torch.dtype) -> None:
    logits, tokens = (10 * randn(6, 50)).to(dtype), torch.arange(6)
    exact = torch.log_softmax(logits.double(), -1)[torch.arange(6), tokens]
    found = token_log_probs(logits, tokens)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_token_log_probs_keep_no_copy_of_the_logits_nor_of_a_slice_of_them() -> None:
    whole = randn(2, 5, 700).requires_grad_()
    tokens, kept = torch.randint(700, (2, 4), generator=seeded()), list[Tensor]()

    def pack(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        found = token_log_probs(whole[:, :-1], tokens)
    torch.testing.assert_close(found, torch.log_softmax(whole, -1)[:, :-1].gather(-1, tokens[..., None])[..., 0])
    large = [x for x in kept if x.numel() > tokens.numel()]
    assert [x.data_ptr() for x in large] == [whole.data_ptr()]


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
        lambda z: grpo_loss(
            z.view(1, 2, 2), old.view(1, 2, 2), weights[None, :2], mask=mask.view(1, 2, 2), variant="gspo"
        ),
        group_advantages,
        lambda z: generalized_advantages(z, old, weights, 0.9, 0.8, terminated=~mask),
        lambda z: token_log_probs(z[None], torch.tensor([2])),
        lambda z: projected_token_log_probs(z[None], torch.stack([old, weights]), torch.tensor([1])),
        lambda z: projected_token_log_probs(old[None], torch.stack([z, weights]), torch.tensor([1])),
    ]
    for function in functions:
        assert torch.autograd.gradcheck(function, (leaf,))
        assert torch.autograd.gradgradcheck(function, (leaf,))


def test_the_losses_run_under_vmap_and_grad() -> None:
    log_probs, old, weights = randn(3, 5, 2, 3)
    rewards, mask = weights[..., 0], torch.ones(5, 2, 3, dtype=torch.bool)
    ends = torch.zeros(5, 2, 3, dtype=torch.bool)
    each = torch.func.vmap(torch.func.grad(ppo_clip_loss))(log_probs, old, weights)
    one = torch.func.grad(ppo_clip_loss)(log_probs[3], old[3], weights[3])
    torch.testing.assert_close(each[3], one)
    groups = torch.func.vmap(lambda x, o, r, m: grpo_loss(x[None], o[None], r[None], mask=m[None]))(
        log_probs, old, rewards, mask
    )
    torch.testing.assert_close(groups[2], grpo_loss(log_probs[2:3], old[2:3], rewards[2:3], mask=mask[2:3]))
    gae = torch.func.vmap(lambda r, v, n, e: generalized_advantages(r, v, n, 0.9, 0.5, terminated=e))(
        log_probs, old, weights, ends
    )
    torch.testing.assert_close(gae, generalized_advantages(log_probs, old, weights, 0.9, 0.5, terminated=ends))
    tokens = torch.zeros(5, 2, dtype=torch.long)
    torch.testing.assert_close(torch.func.vmap(token_log_probs)(old, tokens), token_log_probs(old, tokens))


def test_the_losses_compile_without_a_graph_break() -> None:
    log_probs, old, weights = randn(3, 2, 3, 4)
    mask = torch.arange(4) < torch.tensor([[4, 1, 2], [3, 4, 1]])[..., None]

    def both(x: Tensor) -> Tensor:
        steps = generalized_advantages(old, weights, old, 0.9, 0.8, terminated=~mask, mask=mask)
        return ppo_clip_loss(x, old, steps, mask=mask) + grpo_loss(x, old, weights[..., 0], mask=mask, variant="dapo")

    compiled = torch.compile(both, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(log_probs), both(log_probs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    x, flags = torch.zeros(2, 3, dtype=dtype), torch.ones(2, 3, dtype=torch.bool)
    assert generalized_advantages(x, x, x, 1.0, 0.5, terminated=flags).dtype == dtype
    assert ppo_clip_loss(x, x, x).dtype == dtype
    assert grpo_loss(x[None], x[None], x[:, 0][None], mask=flags[None]).dtype == dtype
    assert group_advantages(x).dtype == dtype
    assert kl_estimate(x, x).dtype == dtype


# --- runs and PPO on environments


def test_one_epoch_of_a_run_without_critic_is_one_reinforce_step_on_its_own_episodes() -> None:
    """The bandit is deterministic given the action, so the possible steps can be listed."""
    mdp, start = gallery.bandit([1.0, 0.5]), torch.zeros(40, 2, 2, dtype=F64)
    runs = surrogate_runs(
        mdp, start, 1.0, n_updates=1, n_episodes=1, horizon=1, step_size=0.1, critic_step_size=0.0, generator=seeded()
    )
    steps = runs.preferences[:, 0, 0]
    # G (1 − π) for the first arm, −G π for the second, with π = 1/2
    assert sorted({round(x, 12) for x in steps.tolist()}) == [-0.025, 0.05]
    assert runs.steps.tolist() == [[0] * 40, [1] * 40]
    assert runs.performance[0].tolist() == [0.75] * 40


def test_the_mean_first_step_of_many_runs_is_the_policy_gradient() -> None:
    """A sum over steps, a mean over episodes. Eight entries, five standard errors: a false alarm in about 2e-6."""
    mdp, n_runs = short_mdp(), 2_000
    h = randn(4, 2).expand(n_runs, 4, 2)
    options = {"n_updates": 1, "n_episodes": 4, "horizon": 3, "critic_step_size": 0.0, "generator": seeded()}
    runs = surrogate_runs(mdp, h, 1.0, step_size=1.0, **options)  # type: ignore[arg-type]
    moves = runs.preferences - h
    error = moves.std(0) / math.sqrt(n_runs)
    assert ((moves.mean(0) - exact_policy_gradient(mdp, h[0], 1.0)).abs() <= 5 * error).all()


def test_the_critic_moves_to_the_mean_return_of_each_state() -> None:
    """With the bandit's second batch the advantage of an arm is its reward minus the mean reward of the first batch."""
    mdp, start = gallery.bandit([1.0, 1.0]), torch.zeros(3, 2, 2, dtype=F64)
    runs = surrogate_runs(mdp, start, 1.0, n_updates=3, n_episodes=5, horizon=1, step_size=1.0, generator=seeded())
    once = surrogate_runs(mdp, start, 1.0, n_updates=1, n_episodes=5, horizon=1, step_size=1.0, generator=seeded())
    torch.testing.assert_close(runs.preferences, once.preferences)  # after one batch nothing is left to learn
    assert not torch.equal(once.preferences, start)


def test_runs_sample_the_outcomes_of_the_mdp() -> None:
    """A fixed policy (step size 0): lengths of episodes have the exact mean. Chance of a false alarm below 1e-6."""
    mdp = short_mdp()
    h = randn(1, 4, 2).expand(2, 4, 2)
    runs = surrogate_runs(mdp, h, 1.0, n_updates=1, n_episodes=5_000, horizon=3, step_size=0.0, generator=seeded())
    trajectories, p = enumerated(mdp, softmax_policy(h[0], available=mdp.available), 3)
    lengths = trajectories.mask.sum(-1).double()
    mean, variance = p @ lengths, p @ lengths.square() - (p @ lengths).square()
    bound = 5 * math.sqrt(float(variance) / 5_000)
    assert all(abs(float(steps) / 5_000 - float(mean)) < bound for steps in runs.steps[1])


def test_ppo_learns_the_corridor_in_every_run() -> None:
    mdp = gallery.gridworld_4x4()
    start = torch.zeros(6, mdp.n_states, mdp.n_actions, dtype=F64)
    options = {"n_updates": 15, "n_episodes": 8, "horizon": 60, "generator": seeded()}
    ppo = surrogate_runs(mdp, start, 1.0, step_size=0.2, n_epochs=8, clip=0.2, lam=0.95, **options)  # type: ignore[arg-type]
    assert (ppo.performance[-1] > ppo.performance[0] / 2).all()


gymnasium = pytest.importorskip("gymnasium")


def test_a_rollout_never_shows_the_reset_state_as_the_next_state() -> None:
    """CartPole restarts near 0 after it has fallen: the next state of a last step must be the fallen one."""
    envs = gymnasium.make_vec("CartPole-v1", num_envs=3)
    torch.manual_seed(0)
    rollout = sample_rollout(envs, NeuralPolicy(4, 2), n_steps=120, generator=seeded())
    ends = rollout.terminated
    assert ends.any()
    assert not rollout.truncated.any()
    fallen = (rollout.next_states[..., 2].abs() > math.radians(12)) | (rollout.next_states[..., 0].abs() > 2.4)
    assert torch.equal(fallen & rollout.mask, ends)
    after = torch.nn.functional.pad(ends[:, :-1], (1, 0))
    assert torch.equal(~rollout.mask, after)
    assert torch.equal(rollout.states[:, 1:], rollout.next_states[:, :-1])
    assert rollout.rewards.sum() == rollout.mask.sum()


def test_a_time_limit_is_a_truncation_and_not_a_termination() -> None:
    envs = gymnasium.make_vec("CartPole-v1", num_envs=2, max_episode_steps=4, vectorization_mode="sync")
    rollout = sample_rollout(envs, NeuralPolicy(4, 2), n_steps=10, generator=seeded())
    assert not rollout.terminated.any()
    assert rollout.truncated.int().tolist() == [[0, 0, 0, 1, 0, 0, 0, 0, 1, 0]] * 2
    assert rollout.mask.int().tolist() == [[1, 1, 1, 1, 0, 1, 1, 1, 1, 0]] * 2


def test_the_trainer_is_reproducible_and_counts_steps_and_rewards() -> None:
    def run() -> tuple[list[Any], Tensor]:
        torch.manual_seed(0)
        policy, critic = NeuralPolicy(4, 2, hidden=(8,)), torch.nn.Linear(4, 1)
        adam = torch.optim.Adam([*policy.parameters(), *critic.parameters()], lr=1e-2)
        envs = gymnasium.make_vec("CartPole-v1", num_envs=4)
        trainer = PPOTrainer(policy, critic, envs, 0.99, optimizer=adam, n_steps=40, generator=seeded())
        return trainer.run(3), next(policy.parameters()).detach().clone()

    (records, parameters), (again, same) = run(), run()
    assert records == again
    assert torch.equal(parameters, same)
    assert 140 <= records[0].steps <= 160
    assert 8 < records[0].total_reward < 60
    assert records[0].kl > 0


# --- bad input

X = torch.zeros(2, 3, dtype=F64)
M = torch.ones(2, 3, dtype=torch.bool)
G = torch.zeros(1, 2, 3, dtype=F64)
GM = torch.ones(1, 2, 3, dtype=torch.bool)
R = torch.zeros(1, 2, dtype=F64)
NAN = torch.full((2, 3), math.nan, dtype=F64)


def gae(**changes: Any) -> Tensor:
    arguments = {"rewards": X, "values": X, "next_values": X, "gamma": 0.9, "lam": 0.9, "terminated": ~M} | changes
    return generalized_advantages(**arguments)


def grpo(**changes: Any) -> Tensor:
    arguments = {"log_probs": G, "old_log_probs": G, "rewards": R, "mask": GM} | changes
    return grpo_loss(**arguments)


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
    ("ppo-average", lambda: ppo_clip_loss(X, X, X, average="tokens"), ValueError, "average is 'tokens'"),  # type: ignore[arg-type]
    (
        "ppo-no-episode",
        lambda: ppo_clip_loss(X[:0], X[:0], X[:0], average="episodes"),
        ValueError,
        "there is no episode",
    ),
    ("ratios-level", lambda: importance_ratios(X, X, level="token"), ValueError, "level is 'token'"),  # type: ignore[arg-type]
    ("off-policy-rewards", lambda: off_policy_loss(X, X, X[0], 1.0), ValueError, "rewards has shape"),
    ("off-policy-gamma", lambda: off_policy_loss(X, X, X, 2.0), ValueError, "gamma must be in"),
    ("off-policy-none", lambda: off_policy_loss(X[:0], X[:0], X[:0], 1.0), ValueError, "there is no episode"),
    ("ess-negative", lambda: effective_sample_size(X - 1), ValueError, r"weights is negative at \[0, 0\]"),
    ("ess-empty", lambda: effective_sample_size(X[:, :0]), ValueError, "there is no sample"),
    ("ess-nan", lambda: effective_sample_size(NAN), ValueError, "weights is nan"),
    ("kl-kind", lambda: kl_estimate(X, X, kind="k4"), ValueError, "kind is 'k4'"),  # type: ignore[arg-type]
    ("kl-ref-shape", lambda: kl_estimate(X, X[0]), ValueError, "ref_log_probs has shape"),
    ("kl-ref-nan", lambda: kl_estimate(X, NAN), ValueError, "ref_log_probs is nan"),
    ("mean-mask", lambda: masked_mean(X, M[0]), ValueError, "mask has shape"),
    ("mean-int", lambda: masked_mean(X.long()), TypeError, "values must hold floating-point"),
    ("group-scale", lambda: group_advantages(R, scale="batch"), ValueError, "scale is 'batch'"),  # type: ignore[arg-type]
    ("group-baseline", lambda: group_advantages(R, baseline="median"), ValueError, "baseline is 'median'"),  # type: ignore[arg-type]
    ("group-int", lambda: group_advantages(R.long()), TypeError, "rewards must hold floating-point"),
    ("group-empty", lambda: group_advantages(R[:, :0]), ValueError, "needs 1 in a group"),
    ("group-of-one", lambda: group_advantages(R[:, :1], baseline="leave_one_out"), ValueError, "needs 2 in a group"),
    ("group-nan", lambda: group_advantages(R + math.nan), ValueError, r"rewards is nan at \[0, 0\]"),
    ("group-ddof", lambda: group_advantages(R, ddof=-1), ValueError, "ddof must be at least 0, not -1"),
    ("group-eps", lambda: group_advantages(R, eps=-1.0), ValueError, "eps must be finite and at least 0, not -1.0"),
    ("grpo-variant", lambda: grpo(variant="ppo"), ValueError, "variant is 'ppo', expected one of 'grpo'"),
    ("grpo-rewards-shape", lambda: grpo(rewards=R[0]), ValueError, r"rewards has shape \[2\], expected \[1, 2\]"),
    ("grpo-rewards-dtype", lambda: grpo(rewards=R.float()), TypeError, "rewards is torch.float32"),
    (
        "grpo-log-probs-flat",
        lambda: grpo(log_probs=G[0, 0]),
        ValueError,
        r"log_probs has shape \[3\], expected \[groups",
    ),
    ("grpo-mask-shape", lambda: grpo(mask=GM[0]), ValueError, "mask has shape"),
    ("grpo-beta", lambda: grpo(beta=-1.0), ValueError, "beta must be finite and at least 0, not -1.0"),
    ("grpo-no-ref", lambda: grpo(beta=0.1), ValueError, "beta is 0.1 but ref_log_probs is None"),
    (
        "grpo-rloo-one",
        lambda: grpo(log_probs=G[:, :1], old_log_probs=G[:, :1], rewards=R[:, :1], mask=GM[:, :1], variant="rloo"),
        ValueError,
        "needs 2 in a group",
    ),
    (
        "difficulty-p",
        lambda: difficulty_weight(torch.tensor([0.5, 1.0]), 4),
        ValueError,
        r"success is 1.0 at \[1\], not inside \(0, 1\)",
    ),
    ("difficulty-size", lambda: difficulty_weight(torch.tensor(0.5), 0), ValueError, "size must be at least 1"),
    (
        "groups-too-many",
        lambda: expected_group_gradient(grpo_loss, gallery.token_tree(3, 3), randn(40, 3), horizon=3, size=9),
        ValueError,
        r"there are 70,607,460 groups of 9 responses",
    ),  # type: ignore[arg-type]
    (
        "groups-size",
        lambda: expected_group_gradient(grpo_loss, gallery.token_tree(3, 3), randn(40, 3), horizon=3, size=0),
        ValueError,
        "size must be at least 1",
    ),  # type: ignore[arg-type]
    ("lengths", lambda: two_answer_lengths(0), ValueError, "length must be at least 1, not 0"),
    (
        "runs-shape",
        lambda: surrogate_runs(short_mdp(), randn(4, 2), 1.0, n_updates=1, n_episodes=1, horizon=1, step_size=1.0),
        ValueError,
        r"preferences has shape \[4, 2\], expected 3 axes",
    ),
    (
        "runs-updates",
        lambda: surrogate_runs(short_mdp(), randn(1, 4, 2), 1.0, n_updates=0, n_episodes=1, horizon=1, step_size=1.0),
        ValueError,
        "n_updates must be at least 1",
    ),
    (
        "tokens-range",
        lambda: token_log_probs(X, torch.tensor([0, 3])),
        ValueError,
        r"tokens is 3 at \[1\], outside the vocabulary 0..2",
    ),
    (
        "tokens-shape",
        lambda: token_log_probs(X, torch.tensor([0])),
        ValueError,
        r"tokens has shape \[1\], expected \[2\]",
    ),
    ("tokens-float", lambda: token_log_probs(X, X[:, 0]), TypeError, "tokens must hold integers"),
    (
        "logits-nan",
        lambda: token_log_probs(NAN, torch.tensor([0, 1])),
        ValueError,
        r"logits holds NaN or \+inf, or nothing above -inf, in row \[0\]",
    ),
    (
        "logits-int",
        lambda: token_log_probs(X.long(), torch.tensor([0, 1])),
        TypeError,
        "logits must hold floating-point",
    ),
    (
        "weight-shape",
        lambda: projected_token_log_probs(X, X.T, torch.tensor([0, 1])),
        ValueError,
        r"weight has shape \[3, 2\], expected \[V, 3\]",
    ),
    (
        "weight-dtype",
        lambda: projected_token_log_probs(X, X.float(), torch.tensor([0, 1])),
        TypeError,
        "weight is torch.float32",
    ),
    (
        "rollout-envs",
        lambda: sample_rollout(gymnasium.make("CartPole-v1"), NeuralPolicy(4, 2), n_steps=1),
        TypeError,
        "envs must be a gymnasium.vector.VectorEnv",
    ),
    (
        "rollout-steps",
        lambda: sample_rollout(gymnasium.make_vec("CartPole-v1"), NeuralPolicy(4, 2), n_steps=0),
        ValueError,
        "n_steps must be at least 1",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_is_named(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_another_autoreset_mode_is_refused() -> None:
    same = gymnasium.vector.AutoresetMode.SAME_STEP
    envs = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")], autoreset_mode=same)
    with pytest.raises(ValueError, match="autoreset mode SAME_STEP, expected NEXT_STEP"):
        sample_rollout(envs, NeuralPolicy(4, 2), n_steps=1)


def test_inputs_are_not_modified() -> None:
    inputs = [randn(2, 3, 4, seed=s) for s in range(3)]
    copies = [x.clone() for x in inputs]
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    grpo_loss(inputs[0], inputs[1], inputs[2][..., 0], mask=mask, variant="gspo", ref_log_probs=inputs[1], beta=0.1)
    generalized_advantages(*inputs, 0.9, 0.9, terminated=~mask)
    token_log_probs(inputs[0], torch.zeros(2, 3, dtype=torch.long))
    for x, copy in zip(inputs, copies, strict=True):
        assert torch.equal(x, copy)
