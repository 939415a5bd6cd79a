"""The exact policy gradient against four other routes to it, and the exact moments of estimators by brute force."""

import itertools
import math
import re

import chance
import pytest
import torch
from helpers import F64, seeded
from torch import Tensor

from pgtheory import gallery, policy_gradient
from pgtheory._gradients import loss_slopes
from pgtheory.mdp import FiniteMDP, equiprobable_policy
from pgtheory.policy_gradient import (
    discounted_visitation,
    exact_parameter_gradient,
    exact_policy_gradient,
    expected_gradient,
    gradient_ascent,
    gradient_covariance,
    gradient_routes,
    likelihood_ratio_gradient,
    natural_policy_gradient,
    performance,
)
from pgtheory.returns import discounted_return, returns_to_go
from pgtheory.softmax_policy import LinearPolicy, NeuralPolicy, TabularPolicy, log_softmax_policy, softmax_policy
from pgtheory.trajectories import enumerate_trajectories, sample_trajectories
from pgtheory.value_functions import finite_horizon_values, optimal_values


def random_preferences(mdp: FiniteMDP, seed: int = 0, *batch: int) -> Tensor:
    return torch.randn(*batch, mdp.n_states, mdp.n_actions, generator=seeded(seed), dtype=F64)


def layered(seed: int = 0) -> FiniteMDP:
    """Three layers of two states, random dynamics, one action masked in every second state: over in three steps."""
    rng, end, outcomes = seeded(seed), 6, []
    for s, a in itertools.product(range(6), range(3)):
        if a == s % 3 and s % 2:
            continue
        following = [end] if s >= 4 else [s - s % 2 + 2, s - s % 2 + 3, end]
        places = list(itertools.product(following, (-1.0, 2.0)))
        p = torch.rand(len(places), generator=rng, dtype=F64) + 0.1
        outcomes += [(s, a, to, r + s, q) for (to, r), q in zip(places, (p / p.sum()).tolist(), strict=True)]
    initial = [0.4, 0.4, 0.2, 0.0, 0.0, 0.0, 0.0]
    return FiniteMDP.from_outcomes(outcomes, n_states=7, n_actions=3, initial=initial, terminal=[end])


def frozen_lake() -> FiniteMDP:
    return FiniteMDP.from_gymnasium("FrozenLake-v1")


CONTINUING = {
    "recycling_robot": gallery.recycling_robot,
    "gridworld": gallery.gridworld,
    "garnet": lambda: gallery.garnet(12, 3, 4, seed=3),
    "trap": gallery.trap,
}
EPISODIC = {
    "gridworld_4x4": gallery.gridworld_4x4,
    "short_corridor": gallery.short_corridor,
    "student_mdp": gallery.student_mdp,
    "student_chain": gallery.student_chain,
    "random_walk": gallery.random_walk,
    "gamblers_problem": lambda: gallery.gamblers_problem(goal=8),
    "two_state_toy": gallery.two_state_toy,
    "stopping_garnet": lambda: gallery.garnet(8, 3, 3, stop_probability=0.2, seed=5),
    "frozen_lake": frozen_lake,
}
BOUNDED = {  # every episode ends within the horizon
    "bandit": (lambda: gallery.bandit([1.0, 0.5, -2.0], spread=0.5), 1),
    "correlated_rewards": (gallery.correlated_rewards, 2),
    "token_tree": (lambda: gallery.token_tree(3, 3, n_prompts=2, seed=1), 3),
    "token_tree_eos": (lambda: gallery.token_tree(2, 4, eos=1, seed=2), 4),
    "layered": (layered, 3),
}
CASES = (
    [(name, make, gamma) for name, make in CONTINUING.items() for gamma in (0.0, 0.5, 0.9)]
    + [(name, make, gamma) for name, make in EPISODIC.items() for gamma in (0.0, 0.5, 0.9, 1.0)]
    + [(name, make, gamma) for name, (make, _) in BOUNDED.items() for gamma in (0.0, 0.5, 0.9, 1.0)]
)
every_case = pytest.mark.parametrize(("make", "gamma"), [pytest.param(m, g, id=f"{n}-{g}") for n, m, g in CASES])
every_bounded_case = pytest.mark.parametrize(
    ("make", "horizon", "gamma"),
    [pytest.param(m, T, g, id=f"{n}-{g}") for n, (m, T) in BOUNDED.items() for g in (0.0, 0.5, 0.9, 1.0)],
)


# --- oracles that share no code with the module ---


def masked_softmax(mdp: FiniteMDP, preferences: Tensor) -> Tensor:
    exponentials = torch.where(torch.as_tensor(mdp.available), preferences, -math.inf).exp()
    total = exponentials.sum(-1, keepdim=True)
    return exponentials / torch.where(total > 0, total, 1.0)


def performance_by_inverse(mdp: FiniteMDP, preferences: Tensor, gamma: float) -> Tensor:
    """μᵀ (I − γP)⁻¹ r on the states that are not terminal, from the dense table p(s′, r | s, a) alone."""
    p, live = mdp.dynamics(), ~mdp.terminal
    policy = masked_softmax(mdp, preferences)
    P = torch.einsum("...sa,satr->...st", policy, p)[..., live, :][..., live]
    r = torch.einsum("...sa,satr,r->...s", policy, p, mdp.rewards)[..., live]
    identity = torch.eye(P.shape[-1], dtype=P.dtype)
    return (torch.linalg.inv(identity - gamma * P) @ r[..., None])[..., 0] @ mdp.initial[live]


def central_differences(function, x: Tensor, step: float = 1e-2) -> Tensor:
    """The stencil of six points, whose error is of the order of step⁶."""
    moves = torch.eye(x.numel(), dtype=x.dtype).view(x.numel(), *x.shape) * step
    terms = [w * (function(x + k * moves) - function(x - k * moves)) for k, w in ((1, 45), (2, -9), (3, 1))]
    return (sum(terms) / (60 * step)).view_as(x)


def autograd(function, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x), x)[0]


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max()))


def every_batch(loss, mdp, preferences, gamma, horizon, batch_size, draws=None):
    """(probability, gradient) of every ordered batch, one at a time, differentiated from the preferences on."""
    policy = masked_softmax(mdp, preferences) if draws is None else draws
    trajectories, probabilities = enumerate_trajectories(mdp, policy, horizon=horizon)
    for batch in itertools.product(range(len(probabilities)), repeat=batch_size):
        rows = list(batch)
        h = preferences.clone().requires_grad_()
        mask = trajectories.mask[rows]
        table = log_softmax_policy(h, available=mdp.available)
        log_probs = table[trajectories.states[rows, :-1], trajectories.actions[rows]].masked_fill(~mask, 0.0)
        value = loss(log_probs, trajectories.rewards[rows], gamma, mask=mask)
        gradient = torch.autograd.grad(value, h)[0] if value.requires_grad else torch.zeros_like(h)
        yield float(probabilities[rows].prod()), gradient


# --- losses ---


def reward_to_go_loss(log_probs, rewards, gamma, *, mask):
    returns = returns_to_go(rewards, gamma, mask=mask)
    discounts = gamma ** torch.arange(rewards.shape[-1], dtype=rewards.dtype)
    return -(discounts * returns * log_probs).sum(-1).mean()


def full_return_loss(log_probs, rewards, gamma, *, mask):
    return -(discounted_return(rewards, gamma, mask=mask)[..., None] * log_probs).sum(-1).mean()


def undiscounted_states_loss(log_probs, rewards, gamma, *, mask):
    return -(returns_to_go(rewards, gamma, mask=mask) * log_probs).sum(-1).mean()


def mean_over_steps_loss(log_probs, rewards, gamma, *, mask):
    return -(discounted_return(rewards, gamma, mask=mask)[..., None] * log_probs).sum() / mask.sum()


def leave_one_out_loss(log_probs, rewards, gamma, *, mask):
    returns = discounted_return(rewards, gamma, mask=mask)
    baseline = (returns.sum() - returns) / (len(returns) - 1)
    return -((returns - baseline)[:, None] * log_probs).sum(-1).mean()


def own_mean_loss(log_probs, rewards, gamma, *, mask):
    returns = discounted_return(rewards, gamma, mask=mask)
    return -((returns - returns.mean())[:, None] * log_probs).sum(-1).mean()


def ordered_loss(log_probs, rewards, gamma, *, mask):
    places = torch.arange(1, len(log_probs) + 1, dtype=rewards.dtype)
    return -(places * discounted_return(rewards, gamma, mask=mask) * log_probs.exp().sum(-1)).sum()


def boolean_index_loss(log_probs, rewards, gamma, *, mask):
    return -(returns_to_go(rewards, gamma, mask=mask)[mask] * log_probs[mask]).mean()


def branching_loss(log_probs, rewards, gamma, *, mask):
    if rewards.sum() > 1:
        return -log_probs.sum()
    return rewards.sum()


LOSSES = [
    reward_to_go_loss,
    full_return_loss,
    undiscounted_states_loss,
    mean_over_steps_loss,
    ordered_loss,
    boolean_index_loss,
    branching_loss,
]


# --- performance and visitation ---


@every_case
def test_performance_is_the_start_distribution_times_the_inverse_times_the_rewards(make, gamma):
    mdp = make()
    preferences = random_preferences(mdp, 1, 2)
    policy = softmax_policy(preferences, available=mdp.available)
    assert_close(performance(mdp, policy, gamma), performance_by_inverse(mdp, preferences, gamma), 1e-11)


@pytest.mark.equation("eq-performance")
@every_bounded_case
def test_performance_is_the_expected_return_of_all_trajectories(make, horizon, gamma):
    mdp = make()
    policy = masked_softmax(mdp, random_preferences(mdp))
    trajectories, probabilities = enumerate_trajectories(mdp, policy, horizon=horizon)
    powers = gamma ** torch.arange(horizon, dtype=F64)
    assert_close(performance(mdp, policy, gamma), probabilities @ (trajectories.rewards @ powers), 1e-12)


@pytest.mark.equation("eq-visitation", "eq-visitation-fixed-point")
@pytest.mark.parametrize("make", [pytest.param(m, id=n) for n, m in (CONTINUING | EPISODIC).items()])
def test_visitation_is_the_sum_of_discounted_powers_of_the_transition_matrix(make):
    mdp, gamma = make(), 0.6
    policy = masked_softmax(mdp, random_preferences(mdp, 2))
    P = torch.einsum("sa,sat->st", policy, mdp.transitions())
    distribution, total = mdp.initial.clone(), torch.zeros(mdp.n_states, dtype=F64)
    for t in range(80):  # 0.6 ** 80 < 1e-17
        total += gamma**t * torch.where(mdp.terminal, 0.0, distribution)
        distribution = distribution @ P
    assert_close(discounted_visitation(mdp, policy, gamma), total, 1e-13)


@pytest.mark.parametrize("make", [pytest.param(m, id=n) for n, m in CONTINUING.items() if n != "trap"])
def test_visitation_has_mass_one_over_one_minus_gamma_where_nothing_terminates(make):
    mdp = make()
    policy = masked_softmax(mdp, random_preferences(mdp, 2, 5))
    for gamma in (0.0, 0.5, 0.9, 0.99):
        mass = discounted_visitation(mdp, policy, gamma).sum(-1)
        assert_close(mass, torch.full((5,), 1 / (1 - gamma), dtype=F64), 1e-11)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 1.0])
def test_visitation_counts_the_steps_at_which_an_action_is_taken(gamma):
    mdp = layered()
    policy = masked_softmax(mdp, random_preferences(mdp, 4))
    trajectories, probabilities = enumerate_trajectories(mdp, policy, horizon=3)
    visits = torch.zeros(mdp.n_states, dtype=F64)
    for n, t in trajectories.mask.nonzero().tolist():
        visits[trajectories.states[n, t]] += probabilities[n] * gamma**t
    assert_close(discounted_visitation(mdp, policy, gamma), visits, 1e-13)
    assert discounted_visitation(mdp, policy, gamma)[mdp.terminal].eq(0).all()


def test_visitation_at_gamma_one_has_the_mean_length_of_an_episode_as_its_mass():
    corridor = gallery.short_corridor()
    visitation = discounted_visitation(corridor, equiprobable_policy(corridor), 1.0)
    # Example 13.1: each step costs 1, so the mean length is −J; by hand it is 12 from the first state.
    assert_close(visitation, torch.tensor([6.0, 4.0, 2.0, 0.0], dtype=F64), 1e-13)


def test_visitation_is_that_of_a_process_killed_with_probability_one_minus_gamma():
    mdp, gamma = gallery.gridworld(), 0.8
    o, n = mdp.outcomes, mdp.n_states
    survive = (o.state, o.action, o.next_state, mdp.rewards[o.reward_index], gamma * o.probability)
    die = (o.state, o.action, torch.full_like(o.state, n), 0 * survive[3], (1 - gamma) * o.probability)
    columns = [torch.cat(pair) for pair in zip(survive, die, strict=True)]
    initial = torch.cat([mdp.initial, torch.zeros(1, dtype=F64)])
    killed = FiniteMDP.from_outcomes(columns, n_states=n + 1, n_actions=4, initial=initial, terminal=[n])
    policy = masked_softmax(mdp, random_preferences(mdp))
    padded = torch.cat([policy, torch.zeros(1, 4, dtype=F64)])
    assert_close(discounted_visitation(killed, padded, 1.0)[:n], discounted_visitation(mdp, policy, gamma), 1e-12)


def test_visitation_is_the_law_of_the_state_at_a_geometric_time():
    mdp, gamma, n = gallery.recycling_robot(), 0.5, 40_000
    policy = masked_softmax(mdp, random_preferences(mdp))
    sample = sample_trajectories(mdp, policy, n, horizon=40, generator=seeded(1))
    times = torch.empty(n).geometric_(1 - gamma, generator=seeded(2)).long() - 1
    found = sample.states[torch.arange(n), times.clamp(max=40)].bincount(minlength=mdp.n_states)
    chance.assert_counts(found, (1 - gamma) * discounted_visitation(mdp, policy, gamma), n)


# --- the theorem, by four other routes ---


@pytest.mark.equation("eq-softmax-gradient")
@every_case
def test_exact_gradient_is_autograd_through_the_inverse(make, gamma):
    mdp = make()
    preferences = random_preferences(mdp, 7)
    expected = autograd(lambda h: performance_by_inverse(mdp, h, gamma), preferences)
    assert_close(exact_policy_gradient(mdp, preferences, gamma), expected)


@every_case
def test_exact_gradient_is_autograd_through_the_solve_of_the_value_functions(make, gamma):
    mdp = make()
    preferences = random_preferences(mdp, 8)
    expected = autograd(lambda h: performance(mdp, softmax_policy(h, available=mdp.available), gamma), preferences)
    assert_close(exact_policy_gradient(mdp, preferences, gamma), expected)


@pytest.mark.equation("eq-policy-gradient")
@every_case
def test_exact_gradient_is_the_limit_of_central_differences(make, gamma):
    mdp = make()
    preferences = random_preferences(mdp, 9)
    expected = central_differences(lambda h: performance_by_inverse(mdp, h, gamma), preferences)
    assert_close(exact_policy_gradient(mdp, preferences, gamma), expected)


@pytest.mark.equation("eq-policy-gradient-trajectories")
@every_bounded_case
def test_exact_gradient_is_the_sum_over_all_trajectories_of_the_likelihood_ratio(make, horizon, gamma):
    mdp = make()
    preferences = random_preferences(mdp, 10)
    policy = masked_softmax(mdp, preferences)
    trajectories, probabilities = enumerate_trajectories(mdp, policy, horizon=horizon)
    expected = torch.zeros_like(preferences)
    for n, t in trajectories.mask.nonzero().tolist():
        s, a = int(trajectories.states[n, t]), int(trajectories.actions[n, t])
        to_go = sum(gamma ** (k - t) * float(trajectories.rewards[n, k]) for k in range(t, horizon))
        one_hot = torch.nn.functional.one_hot(torch.tensor(a), mdp.n_actions)
        expected[s] += probabilities[n] * gamma**t * to_go * (one_hot - policy[s])
    assert_close(exact_policy_gradient(mdp, preferences, gamma), expected)
    assert_close(likelihood_ratio_gradient(mdp, preferences, gamma, horizon=horizon), expected, 1e-12)


@every_bounded_case
def test_exact_gradient_is_autograd_through_the_probabilities_of_all_trajectories(make, horizon, gamma):
    mdp = make()
    powers = gamma ** torch.arange(horizon, dtype=F64)

    def expected_return(h: Tensor) -> Tensor:
        trajectories, probabilities = enumerate_trajectories(mdp, masked_softmax(mdp, h), horizon=horizon)
        return probabilities @ (trajectories.rewards @ powers)

    preferences = random_preferences(mdp, 11)
    expected = autograd(expected_return, preferences)
    assert_close(exact_policy_gradient(mdp, preferences, gamma), expected)


@every_bounded_case
def test_all_routes_that_the_module_offers_agree_with_the_inverse(make, horizon, gamma):
    mdp = make()
    preferences = random_preferences(mdp, 11)
    expected = autograd(lambda h: performance_by_inverse(mdp, h, gamma), preferences)
    routes = gradient_routes(mdp, preferences, gamma, horizon=horizon)
    assert len(routes) == 5
    for gradient in routes.values():
        assert_close(gradient, expected)
    assert list(gradient_routes(mdp, preferences, gamma)) == list(routes)[:3]


@every_case
def test_exact_gradient_is_zero_where_nothing_is_chosen_and_sums_to_zero_in_every_state(make, gamma):
    mdp = make()
    gradient = exact_policy_gradient(mdp, random_preferences(mdp, 12), gamma)
    assert gradient[~torch.as_tensor(mdp.available)].eq(0).all()
    assert gradient[mdp.terminal].eq(0).all()
    assert gradient.sum(-1).abs().max() <= 1e-12 * max(1.0, float(gradient.abs().max()))


def test_masked_preferences_are_never_read():
    mdp = layered()
    preferences = random_preferences(mdp)
    wild = torch.where(torch.as_tensor(mdp.available), preferences, math.nan)
    assert torch.equal(exact_policy_gradient(mdp, wild, 0.9), exact_policy_gradient(mdp, preferences, 0.9))


def test_the_short_corridor_has_its_optimum_where_the_book_says():
    corridor = gallery.short_corridor()
    features = torch.zeros(4, 2, 1, dtype=F64)
    features[:, 1] = 1.0
    policy = LinearPolicy(features)
    p = 2 - math.sqrt(2)  # Sutton & Barto, Example 13.1
    with torch.no_grad():
        policy.theta.fill_(math.log(p / (1 - p)))
    assert exact_parameter_gradient(corridor, policy, 1.0)["theta"].abs().max() < 1e-12
    table = policy.table().detach()
    assert_close(performance(corridor, table, 1.0), torch.tensor(-(6 + 4 * math.sqrt(2)), dtype=F64), 1e-12)


def test_exact_gradient_is_batched():
    mdp = gallery.two_state_toy()
    preferences = random_preferences(mdp, 0, 2, 3)
    together = exact_policy_gradient(mdp, preferences, 0.9)
    for i, j in itertools.product(range(2), range(3)):
        assert_close(together[i, j], exact_policy_gradient(mdp, preferences[i, j], 0.9), 1e-13)


def test_exact_gradient_runs_under_vmap_and_compile():
    mdp = gallery.two_state_toy()
    preferences = random_preferences(mdp, 0, 3)

    def gradient(h: Tensor) -> Tensor:
        return exact_policy_gradient(mdp, h, 0.9)

    assert_close(torch.func.vmap(gradient)(preferences), gradient(preferences), 1e-13)
    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    assert_close(compiled(preferences[0]), gradient(preferences[0]), 1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_keep_the_dtype(dtype):
    mdp = gallery.two_state_toy(dtype=dtype)
    preferences = torch.zeros(3, 2, dtype=dtype)
    assert exact_policy_gradient(mdp, preferences, 0.9).dtype == dtype
    assert expected_gradient(reward_to_go_loss, mdp, preferences, 0.9, horizon=2).dtype == dtype
    assert likelihood_ratio_gradient(mdp, preferences, 0.9, horizon=2).dtype == dtype


def test_nothing_is_modified_in_place():
    mdp = gallery.two_state_toy()
    preferences = random_preferences(mdp)
    copy = preferences.clone()
    exact_policy_gradient(mdp, preferences, 0.9)
    gradient_covariance(reward_to_go_loss, mdp, preferences, 0.9, horizon=2)
    assert torch.equal(preferences, copy)


def test_sparse_and_dense_routes_give_the_same_gradient():
    mdp = gallery.garnet(1_500, 3, 4, seed=1)  # above the size up to which the solve is dense
    preferences = random_preferences(mdp)
    expected = autograd(lambda h: performance_by_inverse_sparse(mdp, h, 0.9), preferences)
    assert_close(exact_policy_gradient(mdp, preferences, 0.9), expected)


def performance_by_inverse_sparse(mdp: FiniteMDP, preferences: Tensor, gamma: float) -> Tensor:
    policy = masked_softmax(mdp, preferences)
    P = torch.einsum("sa,sat->st", policy, mdp.transitions())
    r = (policy * mdp.expected_rewards()).sum(-1)
    return torch.linalg.solve(torch.eye(mdp.n_states, dtype=F64) - gamma * P, r) @ mdp.initial


# --- any parameters: the chain rule ---


def parametric_policies(mdp: FiniteMDP):
    features = torch.randn(mdp.n_states, mdp.n_actions, 4, generator=seeded(1), dtype=F64)
    inputs = torch.randn(mdp.n_states, 5, generator=seeded(2), dtype=F64)
    mask = mdp.available
    yield TabularPolicy(mdp.n_states, mdp.n_actions, available=mask, init_std=1.0, generator=seeded(3), dtype=F64)
    yield LinearPolicy(features, available=mask, init_std=1.0, generator=seeded(3))
    yield NeuralPolicy(
        5, mdp.n_actions, features=inputs, hidden=(6, 4), available=mask, output_scale=1.0, generator=seeded(3)
    )


@pytest.mark.equation("eq-parameter-gradient")
@pytest.mark.parametrize(
    ("make", "gamma"),
    [
        pytest.param(layered, 1.0, id="layered"),
        pytest.param(gallery.gridworld, 0.9, id="gridworld"),
        pytest.param(frozen_lake, 0.9, id="frozen_lake"),
    ],
)
@pytest.mark.parametrize("kind", [0, 1, 2], ids=["tabular", "linear", "neural"])
def test_parameter_gradient_is_autograd_from_the_parameters_to_the_performance(make, gamma, kind):
    mdp = make()
    policy = list(parametric_policies(mdp))[kind]
    names, parameters = zip(*policy.named_parameters(), strict=True)
    preferences = policy.preferences(torch.arange(mdp.n_states))
    expected = torch.autograd.grad(performance_by_inverse(mdp, preferences, gamma), parameters)
    actual = exact_parameter_gradient(mdp, policy, gamma)
    assert list(actual) == list(names)
    for name, gradient in zip(names, expected, strict=True):
        assert_close(actual[name], gradient)
    assert all(p.grad is None for p in parameters)


def test_parameter_gradient_passes_discount_states_on():
    mdp = gallery.two_state_toy()
    policy = TabularPolicy.from_preferences(random_preferences(mdp))
    expected = exact_policy_gradient(mdp, policy.theta.detach(), 0.5, discount_states=False)
    actual = exact_parameter_gradient(mdp, policy, 0.5, discount_states=False)
    assert_close(actual["theta"], expected, 1e-15)


# --- what is a gradient and what is not ---


def asymmetry(field, point: Tensor) -> Tensor:
    jacobian = torch.func.jacrev(field)(point).reshape(point.numel(), -1)
    return (jacobian - jacobian.T).abs().max()


def test_the_jacobian_of_the_exact_gradient_is_the_hessian():
    mdp = gallery.two_state_toy()
    preferences = random_preferences(mdp)
    jacobian = torch.func.jacrev(lambda h: exact_policy_gradient(mdp, h, 0.5))(preferences)
    hessian = torch.func.jacrev(torch.func.jacrev(lambda h: performance_by_inverse(mdp, h, 0.5)))(preferences)
    assert_close(jacobian, hessian)
    assert asymmetry(lambda h: exact_policy_gradient(mdp, h, 0.5), preferences) < 1e-14


def two_choices() -> FiniteMDP:
    """Leave with reward 1/4 or go on; then 1 or 0. Over in two steps."""
    outcomes = [(0, 0, 2, 0.25, 1.0), (0, 1, 1, 0.0, 1.0), (1, 0, 2, 0.0, 1.0), (1, 1, 2, 1.0, 1.0)]
    return FiniteMDP.from_outcomes(outcomes, n_states=3, n_actions=2, initial=0, terminal=[2])


@pytest.mark.equation("eq-curl")
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.75, 1.0])
def test_dropping_gamma_t_is_not_a_gradient(gamma):
    # Nota & Thomas, "Is the Policy Gradient a Gradient?", 2020: the second derivatives do not commute. By hand, with
    # p = q = 1/2 for going on and for the reward, they differ by (1 − γ) p(1 − p) q(1 − q) = (1 − γ)/16.
    mdp, preferences = two_choices(), torch.zeros(3, 2, dtype=F64)
    dropped = asymmetry(lambda h: exact_policy_gradient(mdp, h, gamma, discount_states=False), preferences)
    assert dropped == pytest.approx((1 - gamma) / 16, abs=1e-15)
    assert asymmetry(lambda h: exact_policy_gradient(mdp, h, gamma), preferences) < 1e-15


@pytest.mark.equation("eq-dropped-field")
def test_dropping_gamma_t_is_what_the_loss_without_it_estimates():
    mdp, preferences = layered(), random_preferences(layered())
    field = exact_policy_gradient(mdp, preferences, 0.5, discount_states=False)
    assert_close(-expected_gradient(undiscounted_states_loss, mdp, preferences, 0.5, horizon=3), field)
    cosine = torch.cosine_similarity(field.flatten(), exact_policy_gradient(mdp, preferences, 0.5).flatten(), 0)
    assert cosine < 0.999


def test_at_gamma_one_there_is_nothing_to_drop():
    mdp, preferences = layered(), random_preferences(layered())
    kept = exact_policy_gradient(mdp, preferences, 1.0)
    assert_close(kept, exact_policy_gradient(mdp, preferences, 1.0, discount_states=False))


def test_dropping_gamma_t_needs_a_policy_that_terminates():
    mdp = gallery.gridworld()
    with pytest.raises(ValueError, match="gamma is 1"):
        exact_policy_gradient(mdp, random_preferences(mdp), 0.9, discount_states=False)


@pytest.mark.equation("prop-on-policy")
def test_the_on_policy_distribution_is_the_wrong_weight():
    mdp, gamma = gallery.gridworld(), 0.9
    preferences = random_preferences(mdp)
    policy = masked_softmax(mdp, preferences)
    P = torch.einsum("sa,sat->st", policy, mdp.transitions())
    stationary = torch.linalg.matrix_power(P, 4096)[0]
    gradient = exact_policy_gradient(mdp, preferences, gamma)
    weighted = gradient * (stationary / discounted_visitation(mdp, policy, gamma))[:, None]
    assert torch.cosine_similarity(gradient.flatten(), weighted.flatten(), 0) < 0.95


@pytest.mark.equation("eq-policy-gradient-cut", "eq-finite-horizon-gradient")
@pytest.mark.parametrize("gamma", [0.5, 0.9, 1.0])
def test_a_fixed_horizon_has_a_gradient_of_its_own(gamma):
    mdp = gallery.two_state_toy()
    preferences = random_preferences(mdp)
    exact = exact_policy_gradient(mdp, preferences, gamma)

    def of_horizon(horizon: int) -> Tensor:
        def value(h: Tensor) -> Tensor:
            return finite_horizon_values(mdp, masked_softmax(mdp, h), gamma, horizon=horizon)[0] @ mdp.initial

        return autograd(value, preferences)

    for horizon in (1, 2, 4, 6):
        assert_close(likelihood_ratio_gradient(mdp, preferences, gamma, horizon=horizon), of_horizon(horizon))
        assert (of_horizon(horizon) - exact).abs().max() > 1e-4
    assert_close(of_horizon(200), exact)


# --- the exact moments of an estimator ---


@pytest.mark.equation("eq-expected-gradient", "eq-gradient-covariance")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_expected_gradient_is_the_weighted_sum_over_every_batch(loss, batch_size):
    mdp = gallery.two_state_toy()
    preferences = random_preferences(mdp, 3)
    batches = list(every_batch(loss, mdp, preferences, 0.9, 2, batch_size))
    expected = sum(p * g for p, g in batches)
    assert sum(p for p, _ in batches) == pytest.approx(1)
    actual = expected_gradient(loss, mdp, preferences, 0.9, horizon=2, batch_size=batch_size)
    assert_close(actual, expected, 1e-12)
    deviations = torch.stack([g.flatten() - expected.flatten() for _, g in batches])
    weights = torch.tensor([p for p, _ in batches], dtype=F64)
    covariance = gradient_covariance(loss, mdp, preferences, 0.9, horizon=2, batch_size=batch_size)
    assert_close(covariance, torch.einsum("n,ni,nj->ij", weights, deviations, deviations), 1e-12)


def test_the_log_probabilities_are_those_of_the_available_actions():
    mdp = layered()
    preferences = random_preferences(mdp, 3)
    expected = sum(p * g for p, g in every_batch(ordered_loss, mdp, preferences, 0.9, 3, 1))
    assert_close(expected_gradient(ordered_loss, mdp, preferences, 0.9, horizon=3), expected, 1e-12)


@pytest.mark.parametrize("loss", [leave_one_out_loss, own_mean_loss, ordered_loss])
def test_expected_gradient_of_batches_of_three(loss):
    mdp = layered_bandit()
    preferences = random_preferences(mdp, 3)
    expected = sum(p * g for p, g in every_batch(loss, mdp, preferences, 0.9, 2, 3))
    assert_close(expected_gradient(loss, mdp, preferences, 0.9, horizon=2, batch_size=3), expected, 1e-12)


def layered_bandit() -> FiniteMDP:
    outcomes = [(0, 0, 2, 1.0, 1.0), (0, 1, 1, 0.0, 1.0), (1, 0, 2, 3.0, 0.5), (1, 0, 2, -1.0, 0.5)]
    outcomes.append((1, 1, 2, 2.0, 1.0))
    return FiniteMDP.from_outcomes(outcomes, n_states=3, n_actions=2, initial=0, terminal=[2])


@every_bounded_case
def test_the_reward_to_go_loss_is_unbiased(make, horizon, gamma):
    mdp = make()
    preferences = random_preferences(mdp, 5)
    exact = exact_policy_gradient(mdp, preferences, gamma)
    for loss in (reward_to_go_loss, full_return_loss):
        assert_close(-expected_gradient(loss, mdp, preferences, gamma, horizon=horizon), exact)


def test_leaving_one_out_is_unbiased_and_the_own_mean_shrinks_the_gradient():
    mdp = layered_bandit()
    preferences = random_preferences(mdp, 6)
    exact = exact_policy_gradient(mdp, preferences, 0.9)
    for n in (2, 3):
        options = {"horizon": 2, "batch_size": n}
        assert_close(-expected_gradient(leave_one_out_loss, mdp, preferences, 0.9, **options), exact)
        shrunk = -expected_gradient(own_mean_loss, mdp, preferences, 0.9, **options)
        assert_close(shrunk, (n - 1) / n * exact)


def test_averaging_over_the_steps_of_a_batch_is_biased():
    mdp = layered()
    preferences = random_preferences(mdp, 6)
    exact = exact_policy_gradient(mdp, preferences, 0.9)
    biased = -expected_gradient(mean_over_steps_loss, mdp, preferences, 0.9, horizon=3)
    assert torch.cosine_similarity(biased.flatten(), exact.flatten(), 0) < 0.99


def test_the_covariance_of_a_mean_of_two_is_half_the_covariance_of_one():
    mdp = gallery.two_state_toy()
    preferences = random_preferences(mdp, 3)
    one, two = (gradient_covariance(reward_to_go_loss, mdp, preferences, 0.9, horizon=2, batch_size=n) for n in (1, 2))
    assert_close(two, one / 2, 1e-12)
    assert torch.linalg.eigvalsh(one).min() > -1e-14


def test_the_covariance_of_a_bandit_is_that_of_its_score():
    # Reward 1 for the first of two arms, preferences 0: the estimate is (±1/2, ∓1/2) or 0, each with probability 1/2.
    mdp = gallery.bandit([1.0, 0.0])
    covariance = gradient_covariance(reward_to_go_loss, mdp, torch.zeros(2, 2, dtype=F64), 1.0, horizon=1)
    expected = torch.zeros(4, 4, dtype=F64)
    expected[:2, :2] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) / 16
    assert_close(covariance, expected, 1e-15)


def test_trajectories_may_be_drawn_from_another_policy():
    mdp = gallery.two_state_toy()
    preferences = random_preferences(mdp, 3)
    behavior = torch.tensor([[0.9, 0.1], [0.0, 1.0], [0.0, 0.0]], dtype=F64)
    expected = sum(p * g for p, g in every_batch(reward_to_go_loss, mdp, preferences, 0.9, 2, 1, behavior))
    actual = expected_gradient(reward_to_go_loss, mdp, preferences, 0.9, horizon=2, behavior=behavior)
    assert_close(actual, expected, 1e-12)
    on_policy = expected_gradient(
        reward_to_go_loss, mdp, preferences, 0.9, horizon=2, behavior=masked_softmax(mdp, preferences)
    )
    assert_close(on_policy, expected_gradient(reward_to_go_loss, mdp, preferences, 0.9, horizon=2), 1e-14)


def test_padding_is_zero_and_its_slope_is_ignored():
    mdp = layered()
    preferences = random_preferences(mdp, 6)
    paddings = []

    def loss(log_probs, rewards, gamma, *, mask):
        paddings.append(
            log_probs[~mask].tolist() + rewards[~mask].tolist()
        )  # fails under vmap: the loss runs in a loop
        slopes = torch.where(mask, discounted_return(rewards, gamma, mask=mask)[:, None], math.nan)
        return -(slopes * log_probs).sum()

    exact = exact_policy_gradient(mdp, preferences, 0.9)
    assert_close(-expected_gradient(loss, mdp, preferences, 0.9, horizon=3), exact)
    assert {x for padding in paddings for x in padding} == {0.0}


def test_chunks_do_not_change_the_sum(monkeypatch):
    mdp = gallery.two_state_toy()
    preferences = random_preferences(mdp, 3)
    options = {"horizon": 2, "batch_size": 2}
    chunks = []

    def slopes(loss, log_probs, *others):
        chunks.append(len(log_probs))
        return loss_slopes(loss, log_probs, *others)

    whole = expected_gradient(ordered_loss, mdp, preferences, 0.9, **options)
    spread = gradient_covariance(ordered_loss, mdp, preferences, 0.9, **options)
    monkeypatch.setattr("pgtheory.policy_gradient.CHUNK", 70)
    monkeypatch.setattr("pgtheory.policy_gradient.TABLES", 44)
    monkeypatch.setattr("pgtheory.policy_gradient.loss_slopes", slopes)
    assert_close(expected_gradient(ordered_loss, mdp, preferences, 0.9, **options), whole, 1e-13)
    assert chunks[0] == max(chunks) == 70 // 4  # batches of four steps
    chunks.clear()
    assert_close(gradient_covariance(ordered_loss, mdp, preferences, 0.9, **options), spread, 1e-13)
    assert chunks[0] == max(chunks) == 44 // 4  # batches with a table of four entries


def test_the_probability_of_a_batch_is_not_differentiated():
    mdp = gallery.two_state_toy()
    preferences = random_preferences(mdp, 3).requires_grad_()
    gradient = expected_gradient(reward_to_go_loss, mdp, preferences, 0.9, horizon=2)
    assert not gradient.requires_grad
    assert preferences.grad is None


# --- ascent ---


@pytest.mark.equation("eq-gradient-ascent")
def test_gradient_ascent_is_the_recursion():
    mdp = gallery.two_state_toy()
    start = random_preferences(mdp)
    policy = TabularPolicy.from_preferences(start, available=mdp.available)
    sgd = torch.optim.SGD(policy.parameters(), lr=0.3, maximize=True)
    ascent = gradient_ascent(mdp, policy, 0.9, optimizer=sgd, n_steps=3)
    h = start
    for t in range(4):
        assert_close(ascent.parameters[t], h.flatten(), 1e-13)
        assert_close(ascent.performance[t], performance_by_inverse(mdp, h, 0.9), 1e-12)
        h = h + 0.3 * autograd(lambda x: performance_by_inverse(mdp, x, 0.9), h)
    assert torch.equal(policy.theta.detach().flatten(), ascent.parameters[-1])


@pytest.mark.parametrize("kind", ["tabular", "neural"])
def test_gradient_ascent_reaches_the_optimum_of_the_4x4_gridworld(kind):
    mdp = gallery.gridworld_4x4()
    one_hot = torch.eye(16, dtype=F64)
    policy = {
        "tabular": TabularPolicy(16, 4, available=mdp.available, dtype=F64),
        "neural": NeuralPolicy(16, 4, features=one_hot, hidden=(8,), available=mdp.available, generator=seeded()),
    }[kind]
    adam = torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.0, maximize=True)
    ascent = gradient_ascent(mdp, policy, 0.9, optimizer=adam, n_steps=150)
    best = float(optimal_values(mdp, 0.9) @ mdp.initial)
    assert ascent.performance[-1] <= best + 1e-12
    assert ascent.performance[-1] > best - 0.05 * (best - float(ascent.performance[0]))


@pytest.mark.equation("eq-bandit-rate")
def test_a_bandit_converges_no_slower_than_the_bound_of_mei_et_al():
    # Mei, Xiao, Szepesvári, Schuurmans, ICML 2020: rewards in [0, 1], step 2/5, uniform start, so that c = 1/3.
    bandit = gallery.bandit([1.0, 0.7, 0.0])
    preferences = torch.zeros(2, 3, dtype=F64)
    for t in range(1, 400):
        policy = masked_softmax(bandit, preferences)
        assert 1 - float(performance(bandit, policy, 1.0)) <= 5 / ((1 / 3) ** 2 * t)
        assert policy[0, 0] >= 1 / 3 - 1e-15
        preferences = preferences + 0.4 * exact_policy_gradient(bandit, preferences, 1.0)


def test_exact_gradients_of_a_bandit_slow_down_as_one_over_t():
    # Two arms at distance Δ: x = h_1 − h_2 grows by 2αΔ π(1 − π), so that 1 − π ~ 1/(2αΔt), and the gap ~ 1/(2αt).
    bandit, alpha, steps = gallery.bandit([1.0, 0.5]), 10.0, 1000
    preferences = torch.zeros(2, 2, dtype=F64)
    for _ in range(steps):
        preferences = preferences + alpha * exact_policy_gradient(bandit, preferences, 1.0)
    gap = 1 - float(performance(bandit, masked_softmax(bandit, preferences), 1.0))
    assert gap * 2 * alpha * steps == pytest.approx(1, rel=0.02)


@pytest.mark.equation("eq-natural-gradient")
def test_the_natural_gradient_is_the_pseudo_inverse_of_the_fisher_information_times_the_gradient():
    mdp, gamma = layered(), 0.9
    preferences = random_preferences(mdp)
    policy, available = masked_softmax(mdp, preferences), torch.as_tensor(mdp.available)
    visitation = discounted_visitation(mdp, policy, gamma)
    blocks = visitation[:, None, None] * (torch.diag_embed(policy) - policy[:, :, None] * policy[:, None, :])
    fisher = torch.block_diag(*blocks)
    expected = torch.linalg.pinv(fisher, rtol=1e-12) @ exact_policy_gradient(mdp, preferences, gamma).flatten()
    natural = natural_policy_gradient(mdp, preferences, gamma)
    # The pseudo-inverse chooses mean 0 over the actions; the policy does not see the difference.
    centred = natural - natural.sum(-1, keepdim=True) / available.sum(-1, keepdim=True).clamp(min=1)
    assert_close(torch.where(available, centred, 0.0), expected.view_as(preferences))
    assert (policy * natural).sum(-1).abs().max() < 1e-12
    assert natural[~available].eq(0).all()


@pytest.mark.equation("eq-visitation-fisher")
def test_the_fisher_information_of_a_trajectory_is_weighted_by_the_visitation():
    mdp = layered()
    preferences = random_preferences(mdp)
    policy = masked_softmax(mdp, preferences)
    trajectories, probabilities = enumerate_trajectories(mdp, policy, horizon=3)
    jacobian = torch.func.jacrev(lambda h: enumerate_trajectories_log(mdp, h, trajectories))(preferences).flatten(1)
    fisher = torch.einsum("n,ni,nj->ij", probabilities, jacobian, jacobian)
    visitation = discounted_visitation(mdp, policy, 1.0)
    blocks = visitation[:, None, None] * (torch.diag_embed(policy) - policy[:, :, None] * policy[:, None, :])
    assert_close(fisher, torch.block_diag(*blocks), 1e-12)


def enumerate_trajectories_log(mdp: FiniteMDP, preferences: Tensor, trajectories) -> Tensor:
    policy = masked_softmax(mdp, preferences)
    chosen = policy[trajectories.states[:, :-1], trajectories.actions]
    return torch.where(trajectories.mask, chosen, 1.0).log().sum(-1)


@pytest.mark.equation("eq-natural-rate")
def test_the_natural_gradient_of_a_bandit_converges_exponentially():
    bandit, alpha = gallery.bandit([1.0, 0.5, 0.0]), 1.0
    preferences = torch.zeros(2, 3, dtype=F64)
    for _ in range(30):
        preferences = preferences + alpha * natural_policy_gradient(bandit, preferences, 1.0)
    expected = torch.softmax(alpha * 30 * torch.tensor([1.0, 0.5, 0.0], dtype=F64), -1)
    assert_close(masked_softmax(bandit, preferences)[0], expected, 1e-12)


# --- bad input ---

TOY = gallery.two_state_toy()
ZEROS = torch.zeros(3, 2, dtype=F64)
UNIFORM = equiprobable_policy(TOY)


def sgd_that_minimises() -> None:
    policy = TabularPolicy.from_preferences(ZEROS, available=TOY.available)
    gradient_ascent(TOY, policy, 0.9, optimizer=torch.optim.SGD(policy.parameters(), lr=0.1), n_steps=1)


def no_steps() -> None:
    policy = TabularPolicy.from_preferences(ZEROS, available=TOY.available)
    sgd = torch.optim.SGD(policy.parameters(), lr=0.1, maximize=True)
    gradient_ascent(TOY, policy, 0.9, optimizer=sgd, n_steps=0)


def expected(loss=reward_to_go_loss, preferences=ZEROS, gamma=0.9, horizon=2, **options) -> Tensor:
    return expected_gradient(loss, TOY, preferences, gamma, horizon=horizon, **options)


def vector_loss(log_probs, rewards, gamma, *, mask):
    return log_probs.sum(-1)


def number_loss(log_probs, rewards, gamma, *, mask):
    return 0.0


def nan_loss(log_probs, rewards, gamma, *, mask):
    return (log_probs.sum(-1) / rewards.sum(-1).std()).sum()


def own_fault_loss(log_probs, rewards, gamma, *, mask):
    raise RuntimeError("the loss itself is broken")


BAD_INPUT = [
    ("gamma_above_1", lambda: performance(TOY, UNIFORM, 1.1), ValueError, "gamma must be in"),
    ("gamma_nan", lambda: exact_policy_gradient(TOY, ZEROS, math.nan), ValueError, "gamma must be in"),
    ("gamma_text", lambda: expected(gamma="0.9"), TypeError, "gamma must be a number"),
    ("policy_sum", lambda: performance(TOY, UNIFORM * 0.5, 0.9), ValueError, "policy sums to 0.5 at s=0"),
    ("policy_shape", lambda: discounted_visitation(TOY, UNIFORM[:2], 0.9), ValueError, "policy has shape"),
    ("never_ends", lambda: performance(gallery.gridworld(), torch.full((25, 4), 0.25, dtype=F64), 1.0),
     ValueError, "gamma is 1"),
    ("preferences_shape", lambda: exact_policy_gradient(TOY, ZEROS[:, :1], 0.9), ValueError,
     r"preferences has shape \[3, 1\], expected \[..., 3, 2\]"),
    ("preferences_dtype", lambda: exact_policy_gradient(TOY, ZEROS.float(), 0.9), TypeError,
     "preferences is torch.float32 but mdp is torch.float64"),
    ("preferences_integers", lambda: natural_policy_gradient(TOY, ZEROS.long(), 0.9), TypeError,
     "preferences must hold floating-point"),
    ("preferences_list", lambda: exact_policy_gradient(TOY, [[0.0] * 2] * 3, 0.9), TypeError, "torch.Tensor"),
    ("preferences_nan", lambda: exact_policy_gradient(TOY, ZEROS * math.nan, 0.9), ValueError, "preferences is nan"),
    ("preferences_batched", lambda: expected(preferences=ZEROS.expand(2, 3, 2)), ValueError,
     r"preferences has shape \[2, 3, 2\], expected \[S, A\] without batch axes"),
    ("preferences_batched_enumeration", lambda: likelihood_ratio_gradient(TOY, ZEROS.expand(2, 3, 2), 0.9, horizon=2),
     ValueError, r"preferences has shape \[2, 3, 2\], expected \[S, A\] without batch axes"),
    ("horizon_too_short", lambda: gradient_routes(TOY, ZEROS, 0.9, horizon=3), ValueError,
     "horizon is 3, but an episode can be longer"),
    ("horizon_0", lambda: expected(horizon=0), ValueError, "horizon must be at least 1"),
    ("batch_size_0", lambda: expected(batch_size=0), ValueError, "batch_size must be at least 1"),
    ("batch_size_fraction", lambda: expected(batch_size=1.5), TypeError, "batch_size must be an integer"),
    ("too_many_trajectories", lambda: expected(horizon=40), ValueError, "trajectories of up to 40 steps"),
    ("too_many_batches", lambda: expected(batch_size=5), ValueError, r"23\^5 = 6,436,343 batches of 5"),
    ("behavior", lambda: expected(behavior=UNIFORM * 2), ValueError,
     "behavior is no policy of mdp: policy sums to 2 at s=0"),
    ("vector_loss", lambda: expected(vector_loss), ValueError, r"loss returned shape \[1\], expected a scalar"),
    ("number_loss", lambda: expected(number_loss), TypeError, "loss must return a scalar torch.Tensor, not float"),
    ("nan_loss", lambda: expected(nan_loss, batch_size=2), ValueError,
     r"loss has a gradient that is not finite for the batch of trajectories \[0, 0\]"),
    ("broken_loss", lambda: expected(own_fault_loss), RuntimeError, "the loss itself is broken"),
    ("covariance_of_no_batch", lambda: gradient_covariance(vector_loss, TOY, ZEROS, 0.9, horizon=2, batch_size=0),
     ValueError, "batch_size must be at least 1"),
    ("policy_of_another_size", lambda: exact_parameter_gradient(TOY, TabularPolicy(3, 1, dtype=F64), 0.9), ValueError,
     "policy has 1 actions, but mdp has 2"),
    ("policy_of_more_actions", lambda: exact_parameter_gradient(TOY, TabularPolicy(3, 3, dtype=F64), 0.9), ValueError,
     "policy has 3 actions, but mdp has 2"),
    ("minimising_optimizer", sgd_that_minimises, ValueError, "maximize=True"),
    ("no_steps", no_steps, ValueError, "n_steps must be at least 1"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), [pytest.param(*row[1:], id=row[0]) for row in BAD_INPUT])
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_steps_of_all_batches_are_at_most_so_many(monkeypatch):
    n = len(enumerate_trajectories(TOY, UNIFORM, horizon=2)[1])
    monkeypatch.setattr(policy_gradient, "BATCH_LIMIT", n**3 * 3 * 2)
    assert expected(batch_size=3).isfinite().all()
    monkeypatch.setattr(policy_gradient, "BATCH_LIMIT", n**3 * 3 * 2 - 1)
    with pytest.raises(ValueError, match="make batch_size or horizon smaller"):
        expected(batch_size=3)


@pytest.mark.parametrize("batch_size", [10**6, 2**31, 10**5000], ids=["million", "2**31", "5001 digits"])
def test_batches_too_many_to_count_are_refused_at_once(batch_size):
    def loss(log_probs, rewards, gamma, *, mask):
        return log_probs.sum()

    bandit, h = gallery.bandit([1.0, 0.0]), torch.zeros(2, 2, dtype=F64)
    with pytest.raises(
        ValueError, match=r"batches of 1000000 from 2 trajectories|batch_size must be at most 50,000,000"
    ):
        expected_gradient(loss, bandit, h, 1.0, horizon=1, batch_size=batch_size)
    for n, number in ((144, f"2^144 = {2**144:,} batches"), (145, "2^145 batches")):  # n ln 2 is 99.8 and 100.5
        with pytest.raises(ValueError, match=f"there are {re.escape(number)} of {n} from 2 trajectories"):
            expected_gradient(loss, bandit, h, 1.0, horizon=1, batch_size=n)


@pytest.mark.parametrize("gap", [20.0, 40.0, 300.0])
def test_the_gradient_of_a_nearly_certain_policy_has_its_digits(gap):
    # One decision between rewards 1 and 0: ∂J/∂h = ± π(1 − π) = ± e^{-gap} up to terms of e^{-2 gap}
    h = torch.tensor([[gap, 0.0], [0.0, 0.0]], dtype=F64)
    for found in (
        exact_policy_gradient(gallery.bandit([1.0, 0.0]), h, 1.0),
        likelihood_ratio_gradient(gallery.bandit([1.0, 0.0]), h, 1.0, horizon=1),
    ):
        size = math.exp(-gap) / (1 + math.exp(-gap)) ** 2
        torch.testing.assert_close(found[0], torch.tensor([size, -size], dtype=F64), rtol=1e-12, atol=0.0)
