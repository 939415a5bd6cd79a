"""REINFORCE against enumeration written out in plain Python, closed forms, and identities between estimators."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import chance
import pytest
import torch
from helpers import F64, hardly_better, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgtheory import gallery
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import (
    discounted_visitation,
    exact_policy_gradient,
    expected_gradient,
    gradient_covariance,
    performance,
)
from pgtheory.reinforce import (
    LedgerRow,
    bias_ledger,
    bootstrapped_rewards,
    entropy_bonus,
    full_return_loss,
    leave_one_out_baseline,
    loss_variants,
    optimal_baseline,
    reinforce_loss,
    value_loss,
)
from pgtheory.returns import returns_to_go
from pgtheory.softmax_policy import entropy, log_softmax_policy, softmax_policy
from pgtheory.trajectories import at_steps, enumerate_trajectories, sample_trajectories
from pgtheory.value_functions import action_values, advantages, state_values

NAN = float("nan")
examples = settings(deadline=None, derandomize=True, max_examples=30)


def quiz() -> FiniteMDP:
    """Four rounds; `stop` ends with a reward, `answer` is right three times out of four."""
    gains, outcomes = (0.0, 1.0, 1.0, 3.0), []
    for s, gain in enumerate(gains):
        outcomes += [(s, 0, 4, 0.5, 1.0), (s, 1, s + 1, gain, 0.75), (s, 1, 4, -1.0, 0.25)]
    return FiniteMDP.from_outcomes(outcomes, n_states=5, n_actions=2, initial=0, terminal=[4])


def masked() -> FiniteMDP:
    """Two starts, and sets of actions that differ."""
    outcomes = [
        (0, 0, 2, 1.0, 0.5),
        (0, 0, 3, -1.0, 0.5),
        (0, 2, 2, 0.25, 1.0),
        (1, 1, 2, 2.0, 1.0),
        (1, 2, 3, 0.5, 1.0),
        (2, 0, 3, 3.0, 1.0),
        (2, 1, 3, -1.0, 0.25),
        (2, 1, 3, 1.0, 0.75),
    ]
    return FiniteMDP.from_outcomes(outcomes, n_states=4, n_actions=3, initial=[0.25, 0.75, 0, 0], terminal=[3])


# Each with a horizon within which every episode ends.
ENDING: dict[str, tuple[Callable[[], FiniteMDP], int]] = {
    "bandit": (lambda: gallery.bandit([1.0, 0.0, -2.0], spread=0.5), 1),
    "quiz": (quiz, 4),
    "masked actions": (masked, 2),
    "token tree": (lambda: gallery.token_tree(2, 3, eos=1, seed=3), 3),
    "two prompts": (lambda: gallery.token_tree(2, 2, n_prompts=2, seed=4), 2),
}


def problem(name: str, seed: int = 0) -> tuple[FiniteMDP, Tensor, int]:
    build, horizon = ENDING[name]
    mdp = build()
    generator = seeded(seed)
    return mdp, torch.randn(mdp.n_states, mdp.n_actions, generator=generator, dtype=F64), horizon


def all_episodes(mdp: FiniteMDP, policy: Tensor) -> list[tuple[float, list[tuple[int, int, float]]]]:
    """Every episode with its probability, by recursion on Python numbers: the oracle of enumeration."""
    p, rewards = mdp.dynamics().tolist(), mdp.rewards.tolist()
    finished: list[tuple[float, list[tuple[int, int, float]]]] = []

    def extend(weight: float, s: int, steps: list[tuple[int, int, float]]) -> None:
        if mdp.terminal[s]:
            finished.append((weight, steps))
            return
        for a, after, r in itertools.product(range(mdp.n_actions), range(mdp.n_states), range(len(rewards))):
            q = float(policy[s, a]) * p[s][a][after][r]
            if q > 0:
                extend(weight * q, after, [*steps, (s, a, rewards[r])])

    for s, mu in enumerate(mdp.initial.tolist()):
        if mu > 0:
            extend(mu, s, [])
    return finished


Episode = list[tuple[int, int, float]]


def moments(
    mdp: FiniteMDP,
    preferences: Tensor,
    batch_size: int,
    weights: Callable[[list[Episode]], list[list[float]]],
    behavior: Tensor | None = None,
) -> tuple[Tensor, float]:
    """Mean and variance of Σ weight · score over all batches, with the score written out: e_a − π."""
    policy = softmax_policy(preferences, available=mdp.available)
    episodes = all_episodes(mdp, policy if behavior is None else behavior)
    mean, square = torch.zeros_like(preferences), 0.0
    for batch in itertools.product(episodes, repeat=batch_size):
        probability = math.prod(p for p, _ in batch)
        gradient = torch.zeros_like(preferences)
        for (_, steps), row in zip(batch, weights([steps for _, steps in batch]), strict=True):
            for (s, a, _), weight in zip(steps, row, strict=True):
                gradient[s] -= weight * policy[s]
                gradient[s, a] += weight
        mean += probability * gradient
        square += probability * float(gradient.square().sum())
    return mean, square - float(mean.square().sum())


def to_go(steps: Episode, gamma: float) -> list[float]:
    return [sum(gamma ** (k - t) * steps[k][2] for k in range(t, len(steps))) for t in range(len(steps))]


# --- the loss itself


@pytest.mark.equation("eq-reinforce-loss")
def test_the_loss_is_the_formula_written_out() -> None:
    generator = seeded(0)
    log_probs, rewards = (torch.randn(2, 3, 4, generator=generator, dtype=F64) for _ in range(2))
    mask = torch.arange(4) < torch.tensor([[4, 2, 0], [1, 3, 4]])[..., None]
    expected = 0.0
    for i, j in itertools.product(range(2), range(3)):
        steps = [k for k in range(4) if mask[i, j, k]]
        for t in steps:
            g = sum(0.5 ** (k - t) * float(rewards[i, j, k]) for k in steps if k >= t)
            expected -= 0.5**t * (g - 0.25) * float(log_probs[i, j, t]) / 6
    assert float(reinforce_loss(log_probs, rewards, 0.5, mask=mask, baseline=0.25)) == pytest.approx(
        expected, rel=1e-13
    )


@pytest.mark.equation("eq-reinforce", "eq-full-return", "thm-reinforce-unbiased")
@pytest.mark.parametrize("name", ENDING)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("loss", [reinforce_loss, full_return_loss], ids=["reward to go", "full return"])
def test_the_expected_gradient_is_the_exact_policy_gradient(name: str, gamma: float, loss: Any) -> None:
    mdp, preferences, horizon = problem(name)
    estimate = expected_gradient(loss, mdp, preferences, gamma, horizon=horizon)
    torch.testing.assert_close(-estimate, exact_policy_gradient(mdp, preferences, gamma), rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch_size", [2, 3])
@pytest.mark.parametrize("name", ["quiz", "masked actions"])
def test_the_expected_gradient_does_not_depend_on_the_batch_size(name: str, batch_size: int) -> None:
    mdp, preferences, horizon = problem(name)
    estimate = expected_gradient(reinforce_loss, mdp, preferences, 0.9, horizon=horizon, batch_size=batch_size)
    torch.testing.assert_close(-estimate, exact_policy_gradient(mdp, preferences, 0.9), rtol=0, atol=1e-12)


@pytest.mark.equation("thm-reinforce-unbiased")
def test_without_a_baseline_the_covariance_falls_as_one_over_the_batch_size() -> None:
    mdp, preferences, horizon = problem("quiz")
    one, three = (
        gradient_covariance(reinforce_loss, mdp, preferences, 0.9, horizon=horizon, batch_size=n) for n in (1, 3)
    )
    torch.testing.assert_close(three, one / 3, rtol=1e-12, atol=1e-15)


@examples
@given(st.integers(0, 10**6), st.floats(-3, 3), st.sampled_from([0.3, 0.9, 1.0]))
def test_a_constant_baseline_leaves_the_expectation_as_it_is(seed: int, baseline: float, gamma: float) -> None:
    mdp, preferences, horizon = problem("masked actions", seed)

    def loss(log_probs: Tensor, rewards: Tensor, gamma: float, /, *, mask: Tensor) -> Tensor:
        return reinforce_loss(log_probs, rewards, gamma, mask=mask, baseline=baseline)

    estimate = expected_gradient(loss, mdp, preferences, gamma, horizon=horizon)
    torch.testing.assert_close(-estimate, exact_policy_gradient(mdp, preferences, gamma), rtol=0, atol=1e-12)


@pytest.mark.equation("eq-baseline-condition")
def test_a_baseline_that_depends_on_the_time_and_the_other_steps_past_leaves_the_expectation_as_it_is() -> None:
    mdp, preferences, horizon = problem("quiz")

    def loss(log_probs: Tensor, rewards: Tensor, gamma: float, /, *, mask: Tensor) -> Tensor:
        past = torch.nn.functional.pad(rewards.cumsum(-1), (1, 0))[..., :-1]
        return reinforce_loss(log_probs, rewards, gamma, mask=mask, baseline=past + torch.arange(4.0, dtype=F64))

    estimate = expected_gradient(loss, mdp, preferences, 0.9, horizon=horizon)
    torch.testing.assert_close(-estimate, exact_policy_gradient(mdp, preferences, 0.9), rtol=0, atol=1e-12)


def test_a_baseline_that_depends_on_the_action_is_biased() -> None:
    mdp, preferences, horizon = problem("quiz")

    def loss(log_probs: Tensor, rewards: Tensor, gamma: float, /, *, mask: Tensor) -> Tensor:
        return reinforce_loss(log_probs, rewards, gamma, mask=mask, baseline=rewards)

    estimate = expected_gradient(loss, mdp, preferences, 0.9, horizon=horizon)
    assert (-estimate - exact_policy_gradient(mdp, preferences, 0.9)).norm() > 0.01


def test_the_monte_carlo_gradient_agrees_with_the_exact_one() -> None:
    mdp, preferences, horizon = problem("quiz")
    n, gamma = 20_000, 0.9
    policy = softmax_policy(preferences, available=mdp.available)
    episodes = sample_trajectories(mdp, policy, n, horizon=horizon, generator=seeded(1))
    leaf = preferences.clone().requires_grad_()
    log_probs = at_steps(log_softmax_policy(leaf, available=mdp.available), episodes)
    (gradient,) = torch.autograd.grad(reinforce_loss(log_probs, episodes.rewards, gamma, mask=episodes.mask), leaf)
    covariance = gradient_covariance(reinforce_loss, mdp, preferences, gamma, horizon=horizon) / n
    error = (-gradient - exact_policy_gradient(mdp, preferences, gamma)).flatten()
    assert (error.abs() <= chance.most_errors(len(error)) * covariance.diagonal().sqrt() + 1e-15).all()


def test_where_episodes_are_cut_off_the_estimand_is_the_gradient_of_the_cut_off_return() -> None:
    mdp = gallery.two_state_toy()
    preferences = torch.randn(3, 2, generator=seeded(2), dtype=F64).requires_grad_()
    policy = softmax_policy(preferences, available=mdp.available)
    # E[R_1 + γ R_2 + γ² R_3], by the distribution of S_t
    step = torch.einsum("sa,sab->sb", policy, mdp.transitions())
    reward = (policy * mdp.expected_rewards()).sum(-1)
    value = mdp.initial @ (reward + 0.9 * step @ (reward + 0.9 * step @ reward))
    (expected,) = torch.autograd.grad(value, preferences)
    estimate = expected_gradient(reinforce_loss, mdp, preferences.detach(), 0.9, horizon=3)
    torch.testing.assert_close(-estimate, expected, rtol=0, atol=1e-12)


def test_padding_may_hold_anything_and_gets_no_gradient() -> None:
    log_probs = torch.tensor([[-1.0, -2.0], [-3.0, NAN]], dtype=F64, requires_grad=True)
    rewards = torch.tensor([[1.0, 2.0], [4.0, NAN]], dtype=F64)
    baseline = torch.tensor([[0.5, 0.5], [0.5, NAN]], dtype=F64)
    mask = torch.tensor([[True, True], [True, False]])
    for loss in (reinforce_loss, full_return_loss):
        value = loss(log_probs, rewards, 0.5, mask=mask, baseline=baseline)
        (gradient,) = torch.autograd.grad(value, log_probs)
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert gradient[1, 1] == 0


def test_returns_and_baseline_are_constants() -> None:
    tensors = [torch.randn(2, 3, dtype=F64).requires_grad_() for _ in range(3)]
    loss = reinforce_loss(tensors[0], tensors[1], 0.9, baseline=tensors[2])
    gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
    assert gradients[0] is not None
    assert gradients[1] is None
    assert gradients[2] is None


def test_an_episode_without_any_step_counts_in_the_mean() -> None:
    log_probs, rewards = torch.full((1, 2), -1.0), torch.ones(1, 2)
    alone = reinforce_loss(log_probs, rewards, 1.0)
    mask = torch.tensor([[True, True], [False, False]])
    with_empty = reinforce_loss(log_probs.repeat(2, 1), rewards.repeat(2, 1), 1.0, mask=mask)
    assert float(with_empty) == float(alone) / 2
    assert float(reinforce_loss(torch.zeros(3, 0), torch.zeros(3, 0), 1.0)) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    x = torch.full((2, 3), -1.0, dtype=dtype)
    assert reinforce_loss(x, x, 0.9, baseline=0.5).dtype == dtype
    assert full_return_loss(x, x, 0.9).dtype == dtype
    assert leave_one_out_baseline(x).dtype == dtype


def test_the_losses_are_twice_differentiable_and_work_under_transforms() -> None:
    generator = seeded(0)
    log_probs, rewards = (torch.randn(3, 4, generator=generator, dtype=F64) for _ in range(2))
    mask = torch.arange(4) < torch.tensor([[4], [2], [3]])
    for loss in (reinforce_loss, full_return_loss):
        assert torch.autograd.gradcheck(lambda x: loss(x, rewards, 0.9, mask=mask), log_probs.clone().requires_grad_())  # noqa: B023
        per_episode = torch.func.vmap(torch.func.grad(lambda x, r, m: loss(x, r, 0.9, mask=m)))  # noqa: B023
        whole = torch.func.grad(lambda x: loss(x, rewards, 0.9, mask=mask))(log_probs)  # noqa: B023
        torch.testing.assert_close(per_episode(log_probs, rewards, mask) / 3, whole)
    values = torch.randn(3, 4, generator=generator, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: value_loss(v, rewards, 0.9, mask=mask), values)


def test_the_loss_compiles_in_one_graph() -> None:
    generator = seeded(0)
    log_probs, rewards = (torch.randn(3, 4, generator=generator, dtype=F64) for _ in range(2))
    mask = torch.arange(4) < torch.tensor([[4], [2], [3]])
    compiled = torch.compile(reinforce_loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(
        compiled(log_probs, rewards, 0.9, mask=mask, baseline=0.5),
        reinforce_loss(log_probs, rewards, 0.9, mask=mask, baseline=0.5),
    )


# --- baselines, values, entropy


@pytest.mark.parametrize("name", ["quiz", "masked actions", "token tree"])
@pytest.mark.parametrize("running_only", [False, True])
def test_leave_one_out_is_unbiased_with_episodes_of_different_length(name: str, running_only: bool) -> None:
    mdp, preferences, horizon = problem(name)
    variant = "leave-one-out, running only" if running_only else "leave-one-out"
    estimate = expected_gradient(loss_variants()[variant], mdp, preferences, 0.9, horizon=horizon, batch_size=3)
    torch.testing.assert_close(-estimate, exact_policy_gradient(mdp, preferences, 0.9), rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_own_sample_mean_shrinks_the_gradient_by_one_minus_one_over_n(k: int) -> None:
    mdp, preferences, horizon = problem("masked actions")
    loss = loss_variants()["own-sample mean"]
    estimate = expected_gradient(loss, mdp, preferences, 0.9, horizon=horizon, batch_size=k)
    expected = (k - 1) / k * exact_policy_gradient(mdp, preferences, 0.9)
    torch.testing.assert_close(-estimate, expected, rtol=0, atol=1e-12)


@pytest.mark.equation("eq-leave-one-out")
def test_leave_one_out_is_the_mean_of_the_others_written_out() -> None:
    returns = torch.tensor([[[4.0, 1.0], [2.0, NAN], [6.0, 3.0]]], dtype=F64)
    mask = ~returns.isnan()
    expected = torch.tensor([[[4.0, 1.5], [5.0, 0.0], [3.0, 0.5]]], dtype=F64)
    torch.testing.assert_close(leave_one_out_baseline(returns, mask=mask), expected)
    running = torch.tensor([[[4.0, 3.0], [5.0, 0.0], [3.0, 1.0]]], dtype=F64)
    torch.testing.assert_close(leave_one_out_baseline(returns, mask=mask, running_only=True), running)


def test_leave_one_out_advantages_are_scaled_deviations_from_the_mean() -> None:
    returns = torch.randn(5, 3, generator=seeded(0), dtype=F64)
    torch.testing.assert_close(returns - leave_one_out_baseline(returns), 5 / 4 * (returns - returns.mean(0)))


@pytest.mark.equation("eq-optimal-baseline")
@examples
@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-5, 5)), min_size=2, max_size=5), st.floats(-5, 5))
def test_no_constant_has_a_smaller_variance_than_the_optimal_one(rows: list[tuple[float, float]], b: float) -> None:
    h, q = torch.tensor(rows, dtype=F64).T
    policy = torch.softmax(h, -1)
    scores = torch.eye(len(h), dtype=F64) - policy

    def variance(constant: float) -> float:
        second = float((policy * (q - constant).square() * scores.square().sum(-1)).sum())
        return second - float(((policy * (q - constant)) @ scores).square().sum())

    best = float(optimal_baseline(h, q))
    assert variance(best) <= variance(b) + 1e-9
    assert variance(best) <= variance(float(policy @ q)) + 1e-9
    # A parabola is as high on either side of its lowest point, which is exact where a comparison with b is not.
    assert variance(best + 1) == pytest.approx(variance(best - 1), rel=1e-9, abs=1e-9)


def test_the_optimal_baseline_of_two_actions_is_the_value_of_the_other_one() -> None:
    # With two actions ‖e_a − π‖² = 2 (1 − π(a))², so b* = Σ_a (1 − π(a)) q(a).
    h, q = torch.tensor([0.9, 0.1], dtype=F64).log(), torch.tensor([3.0, -1.0], dtype=F64)
    assert float(optimal_baseline(h, q)) == pytest.approx(0.1 * 3.0 + 0.9 * -1.0, abs=1e-12)
    certain = torch.tensor([0.0, -torch.inf], dtype=F64)
    assert float(optimal_baseline(certain, q)) == 3.0
    # What is never done is worth nothing, and need not be known.
    unread = torch.tensor([3.0, -1.0, NAN, NAN], dtype=F64)
    four = torch.cat([h, torch.tensor([9.0, -torch.inf], dtype=F64)])
    found = optimal_baseline(four, unread, available=torch.tensor([True, True, False, True]))
    assert float(found) == pytest.approx(float(optimal_baseline(h, q)), abs=1e-12)


@pytest.mark.equation("eq-value-loss")
def test_the_value_loss_is_half_of_the_squared_errors_summed_over_steps() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0], [8.0, NAN, 2.0]], dtype=F64)
    values = torch.tensor([[1.0, 3.0, 2.0], [8.0, NAN, 5.0]], dtype=F64, requires_grad=True)
    loss = value_loss(values, rewards, 0.5, mask=~rewards.isnan())
    # the returns are 3, 4, 4 and 8.5, 2: a step that was not taken takes time
    errors = [[3.0 - 1.0, 4.0 - 3.0, 4.0 - 2.0], [8.5 - 8.0, 0.0, 2.0 - 5.0]]
    assert loss.item() == pytest.approx(sum(e * e for row in errors for e in row) / 2 / 2, abs=1e-14)
    loss.backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, -torch.tensor(errors, dtype=F64) / 2)


@pytest.mark.equation("eq-value-loss", "prop-value-loss")
def test_the_expected_value_loss_is_least_at_the_true_values() -> None:
    mdp, preferences, horizon = problem("quiz")
    policy = softmax_policy(preferences, available=mdp.available)
    values = state_values(mdp, policy, 0.9).requires_grad_()
    loss = torch.zeros((), dtype=F64)
    for probability, steps in all_episodes(mdp, policy):
        states = torch.tensor([[s for s, _, _ in steps]])
        rewards = torch.tensor([[r for _, _, r in steps]], dtype=F64)
        loss = loss + probability * value_loss(values[states], rewards, 0.9)
    (gradient,) = torch.autograd.grad(loss, values)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)
    assert horizon == 4


def entropy_regularised(mdp: FiniteMDP, preferences: Tensor, gamma: float, beta: float, to_rewards: bool) -> Tensor:
    """The expected gradient of REINFORCE plus β times the bonus, over all episodes one by one."""
    total = torch.zeros_like(preferences)
    for probability, steps in all_episodes(mdp, softmax_policy(preferences, available=mdp.available)):
        leaf = preferences.clone().requires_grad_()
        states, actions = (torch.tensor([[step[k] for step in steps]]) for k in (0, 1))
        rewards = torch.tensor([[r for _, _, r in steps]], dtype=F64)
        entropies = entropy(leaf, available=mdp.available)[states]
        log_probs = log_softmax_policy(leaf, available=mdp.available)[states, actions]
        earned = rewards + beta * entropies.detach() if to_rewards else rewards
        loss = reinforce_loss(log_probs, earned, gamma) - beta * entropy_bonus(entropies, gamma)
        total -= probability * torch.autograd.grad(loss, leaf)[0]
    return total


@pytest.mark.equation("eq-entropy-bonus")
@pytest.mark.parametrize("discount_states", [True, False])
def test_the_entropy_bonus_is_its_formula_written_out(discount_states: bool) -> None:
    entropies = torch.tensor([[0.5, 0.25, 0.75], [0.125, NAN, 1.0]], dtype=F64)
    rate = 0.5 if discount_states else 1.0
    expected = (0.5 + rate * 0.25 + rate**2 * 0.75 + 0.125 + rate**2 * 1.0) / 2
    found = entropy_bonus(entropies, 0.5, mask=~entropies.isnan(), discount_states=discount_states)
    assert found.item() == pytest.approx(expected, abs=1e-15)


@pytest.mark.equation("eq-bootstrap")
def test_the_value_of_the_last_state_is_added_where_an_episode_was_cut_off_and_nowhere_else() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0], [1.0, NAN, 4.0], [1.0, 2.0, NAN]], dtype=F64)
    truncated, final = torch.tensor([True, False, True]), torch.tensor([8.0, 32.0, 16.0], dtype=F64)
    found = bootstrapped_rewards(rewards, final, 0.5, mask=~rewards.isnan(), truncated=truncated)
    assert found.tolist() == [[1.0, 2.0, 4.0 + 4.0], [1.0, 0.0, 4.0], [1.0, 2.0 + 8.0, 0.0]]


@pytest.mark.equation("eq-entropy-bonus")
def test_the_entropy_bonus_moves_the_entropy_of_the_visited_states_but_not_the_visits() -> None:
    mdp, preferences, _ = problem("quiz")
    gamma, beta = 0.9, 0.3
    leaf = preferences.clone().requires_grad_()
    policy = softmax_policy(leaf, available=mdp.available)
    visitation, entropies = discounted_visitation(mdp, policy, gamma), entropy(leaf, available=mdp.available)
    value = performance(mdp, policy, gamma)
    (partial,) = torch.autograd.grad(value + beta * visitation.detach() @ entropies, leaf, retain_graph=True)
    (full,) = torch.autograd.grad(value + beta * visitation @ entropies, leaf)
    torch.testing.assert_close(entropy_regularised(mdp, preferences, gamma, beta, False), partial, rtol=0, atol=1e-12)
    torch.testing.assert_close(entropy_regularised(mdp, preferences, gamma, beta, True), full, rtol=0, atol=1e-12)
    assert (partial - full).norm() > 1e-3


@pytest.mark.equation("eq-bootstrap")
def test_bootstrapped_returns_are_the_action_values_in_expectation() -> None:
    mdp = gallery.two_state_toy()
    preferences = torch.randn(3, 2, generator=seeded(2), dtype=F64)
    policy, gamma, limit = softmax_policy(preferences, available=mdp.available), 0.9, 3
    values = state_values(mdp, policy, gamma)
    episodes, probabilities = enumerate_trajectories(mdp, policy, horizon=limit)
    final = values[episodes.states[:, -1]]
    rewards = bootstrapped_rewards(episodes.rewards, final, gamma, mask=episodes.mask, truncated=episodes.truncated)
    returns = returns_to_go(rewards, gamma, mask=episodes.mask)
    q = action_values(mdp, policy, gamma)
    for t, s, a in itertools.product(range(limit), range(2), range(2)):
        here = episodes.mask[:, t] & (episodes.states[:, t] == s) & (episodes.actions[:, t] == a)
        mean = (probabilities * returns[:, t])[here].sum() / probabilities[here].sum()
        torch.testing.assert_close(mean, q[s, a], rtol=0, atol=1e-12)


@pytest.mark.equation("eq-td-error-critic", "eq-actor-critic-bias")
@pytest.mark.parametrize("name", ["quiz", "masked actions"])
def test_one_step_actor_critic_is_off_by_how_the_error_differs_between_next_states(name: str) -> None:
    mdp, preferences, _ = problem(name)
    gamma, policy = 0.8, softmax_policy(preferences, available=mdp.available)
    terminal = mdp.terminal.tolist()
    v = state_values(mdp, policy, gamma).tolist()
    error = torch.randn(mdp.n_states, generator=seeded(1), dtype=F64).where(~mdp.terminal, 0.0).tolist()

    # Left side: every transition on the way of every episode, with its TD error and its score.
    p, rewards = mdp.dynamics().tolist(), mdp.rewards.tolist()

    def estimate(s: int, weight: float, critic: list[float]) -> Tensor:
        """The sum of γ^t δ_t times the score, over all ways from s on; `weight` is their probability times γ^t."""
        total = torch.zeros_like(preferences)
        if terminal[s]:
            return total
        for a, after, r in itertools.product(range(mdp.n_actions), range(mdp.n_states), range(len(rewards))):
            if (q := float(policy[s, a]) * p[s][a][after][r]) > 0:
                td_error = rewards[r] + gamma * critic[after] - critic[s]
                total[s] -= weight * q * td_error * policy[s]
                total[s, a] += weight * q * td_error
                total += estimate(after, weight * q * gamma, critic)
        return total

    def mean(critic: list[float]) -> Tensor:
        return sum(
            (estimate(s, mu, critic) for s, mu in enumerate(mdp.initial.tolist())), torch.zeros_like(preferences)
        )

    # Right side: γ η(s) π(a|s) (the mean error after a, less that after the policy's own action), η by its equation.
    moved = torch.einsum("sa,sat->st", policy, mdp.transitions()) * ~mdp.terminal[:, None]
    visits = torch.linalg.solve((torch.eye(mdp.n_states, dtype=F64) - gamma * moved).T, mdp.initial)
    after = mdp.transitions() @ torch.tensor(error, dtype=F64)
    bias = gamma * (visits * ~mdp.terminal)[:, None] * policy * (after - (policy * after).sum(-1, keepdim=True))

    gradient = torch.autograd.functional.jacobian(
        lambda h: performance(mdp, softmax_policy(h, available=mdp.available), gamma), preferences
    )
    wrong = mean([x + e for x, e in zip(v, error, strict=True)])
    half = mean([x + e / 2 for x, e in zip(v, error, strict=True)])
    assert bias.norm() > 0.01
    torch.testing.assert_close(mean(v), gradient, rtol=0, atol=1e-12)
    torch.testing.assert_close(wrong - gradient, bias, rtol=0, atol=1e-12)
    torch.testing.assert_close(half - gradient, bias / 2, rtol=0, atol=1e-12)


# --- the ledger: each row against an oracle of its own


@pytest.fixture(scope="module")
def ledger() -> tuple[FiniteMDP, Tensor, float, dict[str, LedgerRow]]:
    mdp = masked()
    preferences = torch.randn(4, 3, generator=seeded(5), dtype=F64)
    gamma = 0.7
    rows = bias_ledger(mdp, preferences, gamma, horizon=2, batch_size=3, limit=1, top_p=0.6)
    return mdp, preferences, gamma, {row.name: row for row in rows}


def returns_of(batch: list[Episode], gamma: float) -> list[list[float]]:
    return [to_go(steps, gamma) for steps in batch]


def mean_of_others(batch: list[Episode], gamma: float, n: int, t: int) -> float:
    others = [to_go(steps, gamma) for m, steps in enumerate(batch) if m != n]
    return sum(g[t] for g in others if t < len(g)) / len(others)


def standardised(batch: list[Episode], gamma: float) -> list[list[float]]:
    every = [g for row in returns_of(batch, gamma) for g in row]
    mean = sum(every) / len(every)
    spread = math.sqrt(sum((g - mean) ** 2 for g in every) / len(every)) + 1e-8
    return [[gamma**t * (g - mean) / spread for t, g in enumerate(row)] for row in returns_of(batch, gamma)]


WEIGHTS: dict[str, Callable[[list[Episode], float], list[list[float]]]] = {
    "reward to go": lambda b, y: [[y**t * g / len(b) for t, g in enumerate(row)] for row in returns_of(b, y)],
    "full return": lambda b, y: [[row[0] / len(b)] * len(row) for row in returns_of(b, y)],
    "no γ^t": lambda b, y: [[g / len(b) for g in row] for row in returns_of(b, y)],
    "mean over all steps": lambda b, y: [
        [y**t * g / sum(map(len, b)) for t, g in enumerate(row)] for row in returns_of(b, y)
    ],
    "mean over own steps": lambda b, y: [
        [y**t * g / len(row) / len(b) for t, g in enumerate(row)] for row in returns_of(b, y)
    ],
    "leave-one-out": lambda b, y: [
        [y**t * (g - mean_of_others(b, y, n, t)) / len(b) for t, g in enumerate(row)]
        for n, row in enumerate(returns_of(b, y))
    ],
    "standardised returns": lambda b, y: [[x / len(b) for x in row] for row in standardised(b, y)],
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_ledger_row_has_the_mean_and_variance_of_its_formula(name: str, ledger: Any) -> None:
    mdp, preferences, gamma, rows = ledger
    mean, variance = moments(mdp, preferences, 3, lambda batch: WEIGHTS[name](batch, gamma))
    torch.testing.assert_close(rows[name].mean, mean, rtol=0, atol=1e-12)
    assert rows[name].variance == pytest.approx(variance, abs=1e-12)


@pytest.mark.equation("prop-full-return")
@pytest.mark.parametrize(
    "name",
    [
        "reward to go",
        "full return",
        "leave-one-out",
        "leave-one-out, running only",
        "constant baseline J",
        "baseline v",
    ],
)
def test_the_unbiased_rows_of_the_ledger_are_unbiased(name: str, ledger: Any) -> None:
    row = ledger[3][name]
    assert row.bias < 1e-14
    assert row.angle < 1e-10
    assert row.length == pytest.approx(1.0, abs=1e-12)


def test_the_own_mean_has_the_right_angle_and_two_thirds_of_the_length(ledger: Any) -> None:
    row = ledger[3]["own-sample mean"]
    assert row.angle < 1e-10
    assert row.length == pytest.approx(2 / 3, abs=1e-12)
    # It is 2/3 of the leave-one-out estimate, sample by sample.
    assert row.variance == pytest.approx(4 / 9 * ledger[3]["leave-one-out"].variance, abs=1e-12)


def test_dropping_gamma_t_gives_the_theorem_without_gamma_in_the_visitation(ledger: Any) -> None:
    mdp, preferences, gamma, rows = ledger
    policy = softmax_policy(preferences, available=mdp.available)
    visits = discounted_visitation(mdp, policy, 1.0)[:, None]
    expected = visits * policy * advantages(mdp, policy, gamma)
    torch.testing.assert_close(rows["no γ^t"].mean, expected, rtol=0, atol=1e-12)
    assert rows["no γ^t"].angle > 1


def test_the_row_of_a_learned_value_has_the_variance_of_its_formula(ledger: Any) -> None:
    mdp, preferences, gamma, rows = ledger
    v = state_values(mdp, softmax_policy(preferences, available=mdp.available), gamma).tolist()

    def weights(batch: list[Episode]) -> list[list[float]]:
        return [
            [gamma**t * (g - v[s]) / 3 for t, (g, (s, _, _)) in enumerate(zip(to_go(b, gamma), b, strict=True))]
            for b in batch
        ]

    mean, variance = moments(mdp, preferences, 3, weights)
    torch.testing.assert_close(rows["baseline v"].mean, mean, rtol=0, atol=1e-12)
    assert rows["baseline v"].variance == pytest.approx(variance, abs=1e-12)


def test_the_value_of_a_reset_state_adds_the_gradient_of_the_discounted_end(ledger: Any) -> None:
    # G_t + γ^{T−t} c with a constant c is the return of an MDP that pays γ c more with the last step.
    mdp, preferences, gamma, rows = ledger
    start = float(performance(mdp, softmax_policy(preferences, available=mdp.available), gamma))
    o = mdp.outcomes
    rewards = mdp.rewards[o.reward_index] + gamma * start * mdp.terminal[o.next_state].double()
    paying = FiniteMDP.from_outcomes(
        (o.state, o.action, o.next_state, rewards, o.probability),
        n_states=4,
        n_actions=3,
        initial=mdp.initial,
        terminal=mdp.terminal,
    )
    expected = exact_policy_gradient(paying, preferences, gamma)
    torch.testing.assert_close(rows["v of a reset at termination"].mean, expected, rtol=0, atol=1e-12)
    assert rows["v of a reset at termination"].angle > 1


def test_the_rows_that_cut_off_have_the_gradient_of_the_first_steps(ledger: Any) -> None:
    mdp, preferences, gamma, rows = ledger
    policy = softmax_policy(preferences, available=mdp.available)
    first_visits = mdp.initial[:, None] * policy
    rewards = mdp.expected_rewards()
    bandit = first_visits * torch.where(mdp.available, rewards - (policy * rewards).sum(-1, keepdim=True), 0.0)
    torch.testing.assert_close(rows["cut off at 1"].mean, bandit, rtol=0, atol=1e-12)
    with_values = first_visits * advantages(mdp, policy, gamma)
    torch.testing.assert_close(rows["cut off at 1, v added"].mean, with_values, rtol=0, atol=1e-12)


def test_top_p_rollouts_scored_by_the_full_softmax_have_the_mixed_gradient(ledger: Any) -> None:
    # Σ_s η_π′(s) [π′(a|s) q_π′(s, a) − π(a|s) v_π′(s)]
    mdp, preferences, gamma, rows = ledger
    policy = softmax_policy(preferences, available=mdp.available)
    nucleus = torch.zeros_like(policy)
    for s in range(3):
        mass = 0.0
        for a in policy[s].argsort(descending=True).tolist():
            if mass < 0.6:
                nucleus[s, a] = policy[s, a]
            mass += float(policy[s, a])
    nucleus[:3] /= nucleus[:3].sum(-1, keepdim=True)
    assert (nucleus == 0).sum() > (policy == 0).sum()
    q, v = action_values(mdp, nucleus, gamma), state_values(mdp, nucleus, gamma)
    visits = discounted_visitation(mdp, nucleus, gamma)
    expected = visits[:, None] * (nucleus * q - policy * v[:, None])
    row = rows["drawn with top-p 0.6"]
    torch.testing.assert_close(row.mean, expected, rtol=0, atol=1e-12)
    _, variance = moments(mdp, preferences, 3, lambda b: WEIGHTS["reward to go"](b, gamma), nucleus)
    assert row.variance == pytest.approx(variance, abs=1e-12)


def test_the_full_return_has_the_larger_variance_where_rewards_come_early() -> None:
    mdp, preferences, horizon = problem("quiz")
    rows = {row.name: row for row in bias_ledger(mdp, preferences, 0.9, horizon=horizon, batch_size=2)}
    assert rows["full return"].variance > rows["reward to go"].variance


# --- bad input


def steps(**changes: Any) -> dict[str, Any]:
    zeros = torch.zeros(2, 3, dtype=F64)
    return {"log_probs": zeros, "rewards": zeros, "gamma": 0.9, **changes}


ZEROS = torch.zeros(2, 3, dtype=F64)
FAULTS = [
    pytest.param({"log_probs": [0.0]}, TypeError, "log_probs must be a torch.Tensor", id="no tensor"),
    pytest.param({"log_probs": ZEROS.long()}, TypeError, "log_probs must hold floating-point", id="integers"),
    pytest.param({"log_probs": ZEROS[0, 0]}, ValueError, "log_probs is a scalar", id="scalar"),
    pytest.param({"rewards": ZEROS.long()}, TypeError, "rewards must hold floating-point", id="integer rewards"),
    pytest.param({"rewards": ZEROS.float()}, TypeError, "rewards is torch.float32", id="mixed dtypes"),
    pytest.param({"rewards": ZEROS.to("meta")}, ValueError, "rewards is on meta", id="mixed devices"),
    pytest.param({"rewards": ZEROS[:1]}, ValueError, r"rewards has shape \[1, 3\]", id="shape"),
    pytest.param({"mask": ZEROS}, TypeError, "mask must be boolean", id="mask dtype"),
    pytest.param({"mask": torch.ones(3, dtype=bool)}, ValueError, r"mask has shape \[3\]", id="mask shape"),
    pytest.param({"log_probs": ZEROS + NAN}, ValueError, r"log_probs is nan at \[0, 0\]", id="nan log-prob"),
    pytest.param({"log_probs": ZEROS - torch.inf}, ValueError, r"log_probs is -inf at \[0, 0\]", id="log of 0"),
    pytest.param({"rewards": ZEROS + torch.inf}, ValueError, r"rewards is inf at \[0, 0\]", id="inf reward"),
    pytest.param({"gamma": 1.5}, ValueError, r"gamma must be in \[0, 1\]", id="gamma"),
    pytest.param({"log_probs": ZEROS[:0], "rewards": ZEROS[:0]}, ValueError, "there is no episode", id="no episode"),
    pytest.param({"baseline": "mean"}, TypeError, "baseline must be a number", id="baseline type"),
    pytest.param({"baseline": NAN}, ValueError, "baseline is nan", id="nan baseline"),
    pytest.param({"baseline": ZEROS + NAN}, ValueError, r"baseline is nan at \[0, 0\]", id="nan in baseline"),
    pytest.param({"baseline": ZEROS.float()}, TypeError, "baseline is torch.float32", id="baseline dtype"),
    pytest.param({"baseline": ZEROS[:, :2]}, ValueError, r"baseline has shape \[2, 2\]", id="baseline shape"),
    pytest.param({"baseline": ZEROS[None]}, ValueError, r"baseline has shape \[1, 2, 3\]", id="baseline axes"),
]


@pytest.mark.parametrize("loss", [reinforce_loss, full_return_loss], ids=["reward to go", "full return"])
@pytest.mark.parametrize(("changes", "error", "message"), FAULTS)
def test_bad_input_is_refused(loss: Any, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = steps(**changes)
    with pytest.raises(error, match=message):
        loss(arguments.pop("log_probs"), arguments.pop("rewards"), arguments.pop("gamma"), **arguments)


OTHER_FAULTS = [
    pytest.param(lambda: leave_one_out_baseline(ZEROS[:1]), ValueError, "at least 2 episodes", id="one episode"),
    pytest.param(lambda: leave_one_out_baseline(ZEROS[0]), ValueError, "at least 2 episodes", id="no episode axis"),
    pytest.param(lambda: leave_one_out_baseline(ZEROS + NAN), ValueError, "returns is nan", id="nan return"),
    pytest.param(lambda: leave_one_out_baseline(ZEROS.long()), TypeError, "returns must hold", id="integer returns"),
    pytest.param(lambda: optimal_baseline(ZEROS, ZEROS[0]), ValueError, "action_values has shape", id="values shape"),
    pytest.param(lambda: optimal_baseline(ZEROS, ZEROS + NAN), ValueError, "action_values is nan", id="nan value"),
    pytest.param(lambda: value_loss(ZEROS + NAN, ZEROS, 0.9), ValueError, "values is nan", id="nan values"),
    pytest.param(lambda: entropy_bonus(ZEROS + NAN, 0.9), ValueError, "entropies is nan", id="nan entropy"),
    pytest.param(lambda: entropy_bonus(ZEROS, 2.0), ValueError, "gamma must be", id="entropy gamma"),
    pytest.param(lambda: short_ledger(horizon=2), ValueError, "may last longer", id="short horizon"),
    pytest.param(lambda: short_ledger(horizon=4, batch_size=1), ValueError, "must be at least 2", id="batch of one"),
    pytest.param(lambda: cut_off(ZEROS[:, 0] + NAN), ValueError, r"final_values is nan at \[0\]", id="nan final value"),
    pytest.param(
        lambda: cut_off(ZEROS[:1, 0]), ValueError, r"has shape \[1\], expected \[2\]", id="final values shape"
    ),
    pytest.param(lambda: cut_off(ZEROS[:, 0], mask=ZEROS > 0), ValueError, "mask has no step", id="no last step"),
]


def short_ledger(horizon: int, batch_size: int = 2) -> list[LedgerRow]:
    return bias_ledger(quiz(), torch.zeros(5, 2, dtype=F64), 0.9, horizon=horizon, batch_size=batch_size)


def cut_off(final_values: Tensor, mask: Tensor | None = None) -> Tensor:
    mask = torch.ones(2, 3, dtype=torch.bool) if mask is None else mask
    return bootstrapped_rewards(ZEROS, final_values, 0.9, mask=mask, truncated=torch.tensor([True, False]))


@pytest.mark.parametrize(("call", "error", "message"), OTHER_FAULTS)
def test_other_bad_input_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_no_argument_is_modified() -> None:
    log_probs, rewards, baseline = (torch.randn(2, 3, dtype=F64) for _ in range(3))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    before = [x.clone() for x in (log_probs, rewards, baseline, mask)]
    reinforce_loss(log_probs, rewards, 0.9, mask=mask, baseline=baseline)
    full_return_loss(log_probs, rewards, 0.9, mask=mask, baseline=baseline)
    leave_one_out_baseline(rewards, mask=mask)
    bootstrapped_rewards(rewards, baseline[:, 0], 0.9, mask=mask, truncated=mask[:, 1])
    assert all(torch.equal(x, y) for x, y in zip(before, (log_probs, rewards, baseline, mask), strict=True))


def test_the_baseline_of_an_episode_is_not_lost_beside_its_own_return() -> None:
    returns = torch.tensor([[1e20], [1.0], [3.0]], dtype=F64)
    assert leave_one_out_baseline(returns)[0].item() == 2.0


def test_half_precision_losses_are_summed_in_float32() -> None:
    ones, half = torch.ones(1, 70_000, dtype=torch.float16), torch.full((1, 300), 300.0, dtype=torch.float16)
    # Σ_t 2^-t = 2, of 70,000 terms; ½ 300², 300 times, overflows but 300 episodes of one step each average it
    assert abs(entropy_bonus(ones, 0.5).item() - 2.0) < 1e-3
    assert abs(value_loss(half.T * 0.5, half.T, 1.0).item() / (150.0**2 / 2) - 1) < 1e-3
    assert (
        abs(optimal_baseline(torch.tensor([0.9, 0.1]).log().half(), torch.tensor([1.0, 0.0]).half()).item() - 0.1)
        < 1e-3
    )


def test_the_optimal_baseline_of_a_nearly_certain_policy_has_its_digits() -> None:
    # π ∝ (1, δ, 2δ): the weights π(a) ‖e_a − π‖² are (14 δ² , 2δ, 4δ) up to relative terms of δ
    delta = 1e-15
    h = torch.tensor([0.0, math.log(delta), math.log(2 * delta)], dtype=F64)
    found = optimal_baseline(h, torch.tensor([5.0, 1.0, 4.0], dtype=F64))
    assert abs(found.item() - 3.0) < 1e-12


@pytest.mark.parametrize("gap", [37.0, 400.0])
def test_the_ledger_has_its_angles_beside_a_nearly_certain_policy(gap: float) -> None:
    h = torch.tensor([[gap, 0.0], [0.0, 0.0]], dtype=F64)
    rows = {row.name: row for row in bias_ledger(gallery.bandit([1.0, 0.0]), h, 1.0, horizon=1)}
    assert rows["reward to go"].angle < 1e-10
    assert abs(rows["own-sample mean"].length - 2 / 3) < 1e-12


@pytest.mark.parametrize(("units", "known"), [(256, False), (1024, True)])
def test_a_gradient_longer_than_its_rounding_error_has_a_direction(units: int, known: bool) -> None:
    mdp, h = hardly_better(units), torch.zeros(5, 2, dtype=F64)
    row = bias_ledger(mdp, h, 1.0, horizon=4)[0]
    assert math.isnan(row.angle) != known
    assert math.isnan(row.length) != known


def test_there_is_no_angle_to_a_gradient_that_is_zero() -> None:
    h = torch.tensor([[800.0, 0.0], [0.0, 0.0]], dtype=F64)
    for row in bias_ledger(gallery.bandit([1.0, 0.0]), h, 1.0, horizon=1):
        assert math.isnan(row.angle)
        assert math.isnan(row.length)
        assert row.bias == 0.0


def test_a_horizon_beyond_the_longest_episode_changes_nothing_in_the_ledger() -> None:
    bandit, h = gallery.bandit([1.0, 0.0]), torch.zeros(2, 2, dtype=F64)
    short = bias_ledger(bandit, h, 1.0, horizon=1)
    long = bias_ledger(bandit, h, 1.0, horizon=10**6)
    for x, y in zip(short, long, strict=True):
        torch.testing.assert_close(x.mean, y.mean)
    # By default the last step is cut off, if it is not the only one.
    assert short[-3].name == "cut off at 1"
    assert long[-3].name == "cut off at 999999"
