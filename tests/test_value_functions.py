"""Oracles: printed values of Sutton and Barto, closed forms, NumPy and SciPy solves, enumeration, differences."""

from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from helpers import numpy_system, numpy_values, random_policy, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from small_mdps import MDPS
from torch import Tensor

from pgtheory import _krylov, _linear, gallery
from pgtheory import value_functions as vf
from pgtheory.mdp import FiniteMDP, check_policy, equiprobable_policy
from pgtheory.trajectories import Trajectories, enumerate_trajectories, sample_trajectories
from pgtheory.value_functions import (
    action_values,
    advantages,
    bellman_expectation,
    bellman_optimality,
    finite_horizon_optimal_values,
    finite_horizon_values,
    greedy_policy,
    monte_carlo_values,
    one_step_lookahead,
    optimal_policy,
    optimal_values,
    solve_bellman,
    state_values,
)

FIGURE_3_2 = [
    [3.3, 8.8, 4.4, 5.3, 1.5],
    [1.5, 3.0, 2.3, 1.9, 0.5],
    [0.1, 0.7, 0.7, 0.4, -0.4],
    [-1.0, -0.4, -0.4, -0.6, -1.2],
    [-1.9, -1.3, -1.2, -1.4, -2.0],
]
FIGURE_3_5 = [
    [22.0, 24.4, 22.0, 19.4, 17.5],
    [19.8, 22.0, 19.8, 17.8, 16.0],
    [17.8, 19.8, 17.8, 16.0, 14.4],
    [16.0, 17.8, 16.0, 14.4, 13.0],
    [14.4, 16.0, 14.4, 13.0, 11.7],
]
FIGURE_4_1 = [0, -14, -20, -22, -14, -18, -20, -20, -20, -20, -18, -14, -22, -20, -14, 0]


def sparse_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_linear, "DENSE_STATES", 0)


@pytest.fixture(params=["dense", "sparse"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test that takes it runs by both solvers."""
    if request.param == "sparse":
        sparse_route(monkeypatch)
        monkeypatch.setattr(_linear, "DENSE_LIMIT", 0)  # no dense rescue
    return str(request.param)


class TestPrintedValues:
    def test_equiprobable_gridworld_is_figure_3_2(self, route: str) -> None:
        mdp = gallery.gridworld()
        values = state_values(mdp, equiprobable_policy(mdp), 0.9).reshape(5, 5)
        assert values.mul(10).round().div(10).add(0.0).tolist() == FIGURE_3_2

    def test_optimal_gridworld_is_figure_3_5(self, route: str) -> None:
        mdp = gallery.gridworld()
        values = optimal_values(mdp, 0.9).reshape(5, 5)
        assert values.mul(10).round().div(10).tolist() == FIGURE_3_5

    def test_equiprobable_4x4_gridworld_is_figure_4_1(self, route: str) -> None:
        mdp = gallery.gridworld_4x4()
        values = state_values(mdp, equiprobable_policy(mdp), 1.0)
        torch.testing.assert_close(values, torch.tensor(FIGURE_4_1, dtype=torch.float64), atol=1e-9, rtol=0)

    def test_finite_horizon_4x4_gridworld_is_iterative_policy_evaluation_of_figure_4_1(self) -> None:
        # Figure 4.1 prints v_k after k = 1, 2, 3, 10 sweeps from 0: row T - k of the finite-horizon table.
        mdp = gallery.gridworld_4x4()
        table = finite_horizon_values(mdp, equiprobable_policy(mdp), 1.0, horizon=10)
        assert table[9, 1:15].tolist() == [-1.0] * 14
        printed = [-1.7, -2.0, -2.0, -1.7, -2.0, -2.0, -2.0, -2.0, -2.0, -2.0, -1.7, -2.0, -2.0, -1.7]
        np.testing.assert_allclose(table[8, 1:15], printed, atol=0.0501)  # the book cuts 1.75 to 1.7
        printed = [-6.1, -8.4, -9.0, -6.1, -7.7, -8.4, -8.4, -8.4, -8.4, -7.7, -6.1, -9.0, -8.4, -6.1]
        np.testing.assert_allclose(table[0, 1:15], printed, atol=0.0501)

    def test_random_walk_values_are_sixths(self, route: str) -> None:
        mdp = gallery.random_walk()
        values = state_values(mdp, equiprobable_policy(mdp), 1.0)
        np.testing.assert_allclose(values, [0, *[k / 6 for k in range(1, 6)], 0], atol=1e-12)

    def test_student_chain_values_are_those_of_the_lecture(self) -> None:
        # Silver, lecture 2: values of the student MRP at γ = 1 to one decimal, gallery's state order by name.
        mdp = gallery.student_chain()
        values = state_values(mdp, equiprobable_policy(mdp), 1.0)
        P, r = numpy_system(mdp, equiprobable_policy(mdp))
        np.testing.assert_allclose(values, np.linalg.solve(np.eye(mdp.n_states) - P, r), atol=1e-10)
        assert pytest.approx(values.min().item(), abs=0.01) == -22.54
        assert pytest.approx(values.max().item(), abs=1e-9) == 10.0

    def test_short_corridor_at_its_best_probability_is_worth_minus_11_66(self) -> None:
        # Example 13.1: the best stochastic policy goes right with probability 2 − √2 and is worth −(6 + 4√2).
        right = 2 - 2**0.5
        policy = torch.tensor([[1 - right, right]] * 4, dtype=torch.float64)
        assert state_values(gallery.short_corridor(), policy, 1.0)[0].item() == pytest.approx(-(6 + 4 * 2**0.5))


class TestClosedForms:
    @pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 0.99])
    def test_recycling_robot_is_cramers_rule(self, gamma: float, route: str) -> None:
        alpha, beta, search, wait, rescue = 0.7, 0.3, 1.7, 0.4, -3.0
        mdp = gallery.recycling_robot(alpha, beta, search, wait)
        x, y, z = 0.6, 0.2, 0.5  # π(search|high), π(search|low), π(recharge|low)
        policy = torch.tensor([[x, 1 - x, 0.0], [y, 1 - y - z, z]], dtype=torch.float64)
        # (1 − γ(1 − x(1−α))) v(h) − γ x (1−α) v(l) = x r_s + (1−x) r_w, and the same for low
        hh, hl = 1 - gamma * (x * alpha + 1 - x), -gamma * x * (1 - alpha)
        lh, ll = -gamma * (y * (1 - beta) + z), 1 - gamma * (y * beta + 1 - y - z)
        rh = x * search + (1 - x) * wait
        rl = y * (beta * search + (1 - beta) * rescue) + (1 - y - z) * wait
        det = hh * ll - hl * lh
        expected = [(rh * ll - hl * rl) / det, (hh * rl - lh * rh) / det]
        np.testing.assert_allclose(state_values(mdp, policy, gamma), expected, rtol=1e-12)

    @pytest.mark.equation("eq-bellman-optimality")
    def test_optimal_recycling_robot_solves_example_3_9(self) -> None:
        alpha, beta, search, wait, gamma = 0.8, 0.4, 2.0, 1.0, 0.9
        # Example 3.9, with v*(h), v*(l) found by trying all six deterministic policies by hand
        best = [-np.inf, -np.inf]
        for high in ([search, alpha, 1 - alpha], [wait, 1.0, 0.0]):
            for low in ([beta * search - 3 * (1 - beta), 1 - beta, beta], [wait, 0.0, 1.0], [0.0, 1.0, 0.0]):
                A = np.eye(2) - gamma * np.array([high[1:], low[1:]])
                best = np.maximum(best, np.linalg.solve(A, [high[0], low[0]]))
        values = optimal_values(gallery.recycling_robot(alpha, beta, search, wait), gamma)
        np.testing.assert_allclose(values, best, rtol=1e-12)
        high, low = values.tolist()
        assert high == pytest.approx(
            max(search + gamma * (alpha * high + (1 - alpha) * low), wait + gamma * high), abs=1e-12
        )
        assert low == pytest.approx(
            max(
                beta * search - 3 * (1 - beta) + gamma * ((1 - beta) * high + beta * low),
                wait + gamma * low,
                gamma * high,
            ),
            abs=1e-12,
        )

    @pytest.mark.equation("eq-optimal-action-value")
    def test_the_best_action_values_of_the_robot_are_those_found_by_hand(self) -> None:
        # search when high, recharge when low: v(h) = 2 + 0.72 v(h) + 0.18 v(l), v(l) = 0.9 v(h)
        h, l = Fraction(1000, 59), Fraction(900, 59)  # noqa: E741 - high and low
        g, robot = Fraction(9, 10), gallery.recycling_robot()
        search = -1 + g * (Fraction(3, 5) * h + Fraction(2, 5) * l)
        by_hand = [[2 + g * (Fraction(4, 5) * h + Fraction(1, 5) * l), 1 + g * h, 0], [search, 1 + g * l, g * h]]
        found = one_step_lookahead(robot, optimal_values(robot, 0.9), 0.9)
        np.testing.assert_allclose(found, np.array(by_hand, dtype=float), rtol=1e-12)

    def test_gambler_with_an_unfair_coin_does_best_by_bold_play(self) -> None:
        # Bold play, stake min(s, 100 − s), is optimal for p ≤ 1/2 (Dubins and Savage 1965); its value by bisection.
        def bold(x: float, p: float, depth: int = 60) -> float:
            if x <= 0 or x >= 1 or depth == 0:
                return float(x >= 1)
            return p * bold(2 * x, p, depth - 1) if x <= 0.5 else p + (1 - p) * bold(2 * x - 1, p, depth - 1)

        for zero_stake in (False, True):
            values = optimal_values(gallery.gamblers_problem(0.4, zero_stake=zero_stake), 1.0)
            expected = [0.0, *[bold(s / 100, 0.4) for s in range(1, 100)], 0.0]
            np.testing.assert_allclose(values, expected, atol=1e-12)

    def test_fair_gambler_has_the_value_of_his_capital_under_any_policy(self, route: str) -> None:
        mdp = gallery.gamblers_problem(0.5, goal=20)
        values = state_values(mdp, random_policy(mdp), 1.0)
        np.testing.assert_allclose(values[1:-1], np.arange(1, 20) / 20, atol=1e-12)

    def test_unfair_gambler_who_stakes_one_is_ruined_as_the_classic_formula_says(self) -> None:
        # gambler's ruin: (1 − (q/p)^s) / (1 − (q/p)^N)
        mdp = gallery.gamblers_problem(0.4, goal=20)
        timid = torch.zeros(21, 11, dtype=torch.float64)
        timid[:, 1] = 1.0
        s = np.arange(1, 20)
        expected = (1 - 1.5**s) / (1 - 1.5**20)
        np.testing.assert_allclose(state_values(mdp, timid, 1.0)[1:-1], expected, rtol=1e-11)

    def test_discount_zero_values_are_expected_rewards(self, route: str) -> None:
        for mdp in MDPS.values():
            policy = random_policy(mdp)
            torch.testing.assert_close(action_values(mdp, policy, 0.0), mdp.expected_rewards())


class TestAgainstOtherSolvers:
    @pytest.mark.equation("eq-bellman-matrix", "thm-bellman-discounted")
    @pytest.mark.parametrize("gamma", [0.0, 0.3, 0.9, 0.999])
    @pytest.mark.parametrize("name", MDPS)
    def test_values_are_numpys(self, name: str, gamma: float, route: str) -> None:
        mdp = MDPS[name]
        policy = random_policy(mdp)
        expected = numpy_values(mdp, policy, gamma)
        values = state_values(mdp, policy, gamma)
        np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max())
        assert values[mdp.terminal].abs().sum() == 0

    @pytest.mark.equation("thm-bellman-undiscounted")
    @pytest.mark.parametrize("name", ["4x4", "corridor", "toy", "student", "garnet", "gambler", "tokens"])
    def test_undiscounted_values_are_numpys(self, name: str, route: str) -> None:
        mdp = MDPS[name]
        policy = random_policy(mdp)
        expected = numpy_values(mdp, policy, 1.0)
        np.testing.assert_allclose(state_values(mdp, policy, 1.0), expected, atol=1e-10 * np.abs(expected).max())

    @pytest.mark.parametrize("gamma", [0.9, 0.999, 1.0])
    @pytest.mark.parametrize("env", ["FrozenLake-v1", "FrozenLake8x8-v1", "Taxi-v4", "CliffWalking-v1"])
    def test_gymnasium_tables_have_the_values_of_scipys_spsolve(self, env: str, gamma: float, route: str) -> None:
        import gymnasium

        unwrapped = gymnasium.make(env).unwrapped
        n = unwrapped.observation_space.n
        # straight from Gymnasium's table: an outcome that is marked terminated leads nowhere
        P, r = scipy.sparse.lil_matrix((n, n)), np.zeros(n)
        for s, actions in unwrapped.P.items():
            for outcomes in actions.values():
                for p, s_next, reward, terminated in outcomes:
                    r[s] += p * reward / len(actions)
                    if not terminated:
                        P[s, s_next] += p / len(actions)
        mdp = FiniteMDP.from_gymnasium(env)
        loops = P.diagonal() >= 1 - 1e-12  # CliffWalking's goal, left with its own moves, is terminal in ours
        assert not loops.any()
        expected = scipy.sparse.linalg.spsolve((scipy.sparse.eye(n) - gamma * P).tocsc(), r)
        live = ~mdp.terminal[:n]
        values = state_values(mdp, equiprobable_policy(mdp), gamma)[:n]
        np.testing.assert_allclose(values[live], expected[live], atol=2e-9 * np.abs(expected).max())

    def test_sparse_and_dense_routes_agree_on_a_garnet(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mdp = gallery.garnet(600, 4, 5, seed=0)
        policy = random_policy(mdp)
        dense = state_values(mdp, policy, 0.99)
        sparse_route(monkeypatch)
        torch.testing.assert_close(state_values(mdp, policy, 0.99), dense, rtol=1e-11, atol=1e-11)

    @pytest.mark.parametrize("gamma", [0.9, 0.999])
    def test_garnet_of_4000_states_has_a_residual_of_1e_10(self, gamma: float) -> None:
        mdp = gallery.garnet(4000, 4, 5, seed=0)
        policy = random_policy(mdp)
        values = state_values(mdp, policy, gamma).numpy()
        o = mdp.outcomes
        w = (policy[o.state, o.action] * o.probability).numpy()
        P = scipy.sparse.csr_matrix((w, (o.state.numpy(), o.next_state.numpy())), shape=(4000, 4000))
        r = np.bincount(o.state.numpy(), w * mdp.rewards[o.reward_index].numpy(), 4000)
        residual = np.abs(r + gamma * P @ values - values).max()
        assert residual <= 1e-10 * np.abs(r).max()


class TestEnumeration:
    @pytest.mark.equation("eq-state-value", "prop-values-exist")
    @pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0])
    def test_values_are_the_mean_return_over_every_trajectory(self, gamma: float) -> None:
        # token_tree ends after 3 steps, so the horizon cuts nothing: v_π(S_0) = Σ_τ p(τ) G_0(τ)
        mdp = gallery.token_tree(3, 3)
        policy = random_policy(mdp)
        trajectories, probability = enumerate_trajectories(mdp, policy, horizon=3)
        weights = torch.tensor([gamma**t for t in range(3)], dtype=torch.float64)
        expected = (probability * (trajectories.rewards * weights).sum(-1)).sum()
        torch.testing.assert_close((mdp.initial * state_values(mdp, policy, gamma)).sum(), expected)

    @pytest.mark.equation("eq-finite-horizon-value")
    @pytest.mark.parametrize("name", ["toy", "robot"])
    def test_finite_horizon_values_are_the_mean_return_over_every_trajectory(self, name: str) -> None:
        mdp, gamma, horizon = MDPS[name], 0.8, 5
        policy = random_policy(mdp)
        table = finite_horizon_values(mdp, policy, gamma, horizon=horizon)
        for start in (~mdp.terminal).nonzero()[:, 0].tolist():
            for t in range(horizon):
                at_start = FiniteMDP(**{**vars_of(mdp), "initial": torch.eye(mdp.n_states).double()[start]})
                steps = horizon - t
                trajectories, probability = enumerate_trajectories(at_start, policy, horizon=steps)
                weights = torch.tensor([gamma**k for k in range(steps)], dtype=torch.float64)
                expected = (probability * (trajectories.rewards * weights).sum(-1)).sum()
                torch.testing.assert_close(table[t, start], expected)
        assert table.shape == (horizon + 1, mdp.n_states)
        assert not table[-1].any()

    def test_no_time_dependent_policy_beats_the_finite_horizon_optimum(self) -> None:
        # every deterministic choice of actions for (t, s), 2^(3·2) policies, by the return of every trajectory
        mdp, gamma, horizon = gallery.two_state_toy(), 0.9, 3
        values, policy = finite_horizon_optimal_values(mdp, gamma, horizon=horizon)
        weights = torch.tensor([gamma**t for t in range(horizon)], dtype=torch.float64)

        def performance(tables: Tensor) -> float:
            trajectories, probability = enumerate_trajectories(mdp, tables, horizon=horizon)
            return float((probability * (trajectories.rewards * weights).sum(-1)).sum())

        one_hot = torch.eye(2, dtype=torch.float64)
        found = []
        for code in range(64):
            actions = torch.tensor([[(code >> (2 * t + s)) & 1 for s in range(2)] + [0] for t in range(horizon)])
            found.append(performance(one_hot[actions]))
        best = float(mdp.initial @ values[0])
        assert max(found) == pytest.approx(best, abs=1e-12)
        tables = policy.clone()
        tables[:, 2, 0] = 1.0  # the terminal row
        assert performance(tables) == pytest.approx(best, abs=1e-12)

    def test_the_optimal_action_of_a_finite_horizon_is_that_of_its_own_time(self) -> None:
        # At s=0 one earns 1 at once, or goes to s=1, where 3.5 are earned a step later: worth it but in the last step.
        outcomes = [(0, 0, 0, 1.0, 1.0), (0, 1, 1, 0.0, 1.0), (1, 0, 0, 3.5, 1.0), (1, 1, 0, 0.0, 1.0)]
        mdp = FiniteMDP.from_outcomes(outcomes, n_states=2, n_actions=2, initial=0)
        values, policy = finite_horizon_optimal_values(mdp, 0.9, horizon=3)
        assert policy.argmax(-1).tolist() == [[1, 0], [1, 0], [0, 0]]
        by_hand = [[0.9 * (3.5 + 0.9), 3.5 + 0.9 * 0.9 * 3.5], [0.9 * 3.5, 3.5 + 0.9], [1.0, 3.5], [0.0, 0.0]]
        torch.testing.assert_close(values, torch.tensor(by_hand, dtype=torch.float64))


def vars_of(mdp: FiniteMDP) -> dict[str, object]:
    return {name: getattr(mdp, name) for name in FiniteMDP.__dataclass_fields__}


class TestActionValuesAndAdvantages:
    @pytest.mark.equation("eq-advantage")
    @pytest.mark.parametrize("name", MDPS)
    def test_state_value_is_the_mean_action_value_and_the_mean_advantage_is_zero(self, name: str) -> None:
        mdp = MDPS[name]
        policy = random_policy(mdp, 2)
        q, v, A = (f(mdp, policy, 0.9) for f in (action_values, state_values, advantages))
        torch.testing.assert_close((policy * q).sum(-1), v)
        torch.testing.assert_close((policy * A).sum(-1), torch.zeros_like(v))
        torch.testing.assert_close((q - A)[..., mdp.available], v[..., None].expand_as(q)[..., mdp.available])
        assert not q[..., ~mdp.available].any()
        assert not A[..., ~mdp.available].any()

    @pytest.mark.equation("eq-action-value")
    def test_action_value_is_the_value_of_a_policy_that_starts_with_that_action(self) -> None:
        # a copy of each state in which action a is forced once: q_π(s, a) = v(copy), by NumPy
        mdp, gamma = gallery.recycling_robot(), 0.9
        policy = random_policy(mdp)
        v = numpy_values(mdp, policy, gamma)
        for s in range(2):
            for a in mdp.available[s].nonzero()[:, 0].tolist():
                forced = policy.clone()
                forced[s] = torch.eye(3, dtype=torch.float64)[a]
                P, r = numpy_system(mdp, forced)
                assert action_values(mdp, policy, gamma)[s, a] == pytest.approx(r[s] + gamma * P[s] @ v)

    def test_reward_that_depends_on_the_next_state_is_averaged_with_it(self) -> None:
        # pitfall 8: collapsing p(s',r|s,a) to r(s,a) keeps v_π
        mdp = gallery.correlated_rewards()
        policy = equiprobable_policy(mdp)
        collapsed = FiniteMDP.from_transitions(
            mdp.transitions(), mdp.expected_rewards(), initial=mdp.initial, terminal=mdp.terminal
        )
        torch.testing.assert_close(state_values(mdp, policy, 0.9), state_values(collapsed, policy, 0.9))


class TestDerivatives:
    @pytest.mark.parametrize("gamma", [0.9, 1.0])
    def test_gradcheck_in_preferences(self, gamma: float, route: str) -> None:
        mdp = gallery.two_state_toy()
        preferences = torch.randn(2, 3, 2, dtype=torch.float64, generator=seeded(), requires_grad=True)

        def values(h: Tensor) -> Tensor:
            return state_values(mdp, h.softmax(-1), gamma)

        assert torch.autograd.gradcheck(values, preferences)
        assert torch.autograd.gradgradcheck(values, preferences)

    @pytest.mark.parametrize("transpose", [False, True])
    def test_gradcheck_of_both_systems(self, transpose: bool, route: str) -> None:
        mdp = gallery.garnet(5, 2, 2, stop_probability=0.2, seed=3)
        preferences = torch.randn(6, 2, dtype=torch.float64, generator=seeded(), requires_grad=True)
        b = torch.randn(6, dtype=torch.float64, generator=seeded(1), requires_grad=True)

        def solution(h: Tensor, b: Tensor) -> Tensor:
            return solve_bellman(mdp, h.softmax(-1), 0.95, b, transpose=transpose)

        assert torch.autograd.gradcheck(solution, (preferences, b))
        assert torch.autograd.gradgradcheck(solution, (preferences, b))

    def test_the_policy_alone_may_need_a_derivative(self, route: str) -> None:
        mdp = gallery.garnet(5, 2, 2, stop_probability=0.2, seed=3)
        h = torch.randn(6, 2, dtype=torch.float64, generator=seeded(), requires_grad=True)
        b = torch.randn(6, dtype=torch.float64, generator=seeded(1))
        assert torch.autograd.gradcheck(lambda h: solve_bellman(mdp, h.softmax(-1), 0.95, b), h)

    def test_batches_of_larger_systems_are_solved_one_by_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mdp = gallery.garnet(12, 3, 3, stop_probability=0.1, seed=2)
        policies = torch.randn(2, 3, 13, 3, dtype=torch.float64, generator=seeded()).softmax(-1)
        at_once = state_values(mdp, policies, 0.95)
        monkeypatch.setattr(_linear, "BATCHED_STATES", 12)
        torch.testing.assert_close(state_values(mdp, policies, 0.95), at_once, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(state_values(mdp, policies[1], 0.95), at_once[1], rtol=1e-12, atol=1e-14)

    @pytest.mark.equation("eq-value-derivative")
    @pytest.mark.parametrize("gamma", [0.9, 1.0])
    def test_derivative_is_adjoint_times_action_value(self, gamma: float, route: str) -> None:
        # ∂(μᵀ v_π)/∂π(a|s) = η(s) q_π(s, a) with η = (I − γ P_πᵀ)⁻¹ μ, by NumPy
        mdp = gallery.two_state_toy()
        policy = random_policy(mdp).requires_grad_()
        (mdp.initial * state_values(mdp, policy, gamma)).sum().backward()
        P, _ = numpy_system(mdp, policy.detach())
        eta = np.linalg.solve(np.eye(3) - gamma * P.T, mdp.initial.numpy())
        q = action_values(mdp, policy.detach(), gamma)
        np.testing.assert_allclose(policy.grad, eta[:, None] * q.numpy(), atol=1e-10)

    def test_derivative_is_the_central_difference_of_numpys_values(self, route: str) -> None:
        mdp, gamma, step = gallery.garnet(12, 3, 3, stop_probability=0.1, seed=2), 0.95, 1e-6
        h = torch.randn(13, 3, dtype=torch.float64, generator=seeded(), requires_grad=True)
        (gradient,) = torch.autograd.grad(state_values(mdp, h.softmax(-1), gamma)[0], h)
        for s, a in ((0, 0), (3, 2), (7, 1)):
            bump = torch.zeros_like(h).detach()
            bump[s, a] = step
            up, down = (numpy_values(mdp, (h.detach() + sign * bump).softmax(-1), gamma)[0] for sign in (1, -1))
            assert gradient[s, a].item() == pytest.approx((up - down) / (2 * step), abs=1e-6)

    def test_transforms_give_the_same_derivatives(self, route: str) -> None:
        mdp = gallery.two_state_toy()
        h = torch.randn(4, 3, 2, dtype=torch.float64, generator=seeded())

        def start_value(h: Tensor) -> Tensor:
            return (mdp.initial * state_values(mdp, h.softmax(-1), 0.9)).sum()

        loop = torch.stack([torch.autograd.grad(start_value(x := row.clone().requires_grad_()), x)[0] for row in h])
        torch.testing.assert_close(torch.func.vmap(torch.func.grad(start_value))(h), loop)
        torch.testing.assert_close(torch.func.jacrev(start_value)(h[0]), loop[0])
        torch.testing.assert_close(
            torch.func.vmap(start_value)(h), torch.stack([start_value(row) for row in h]), rtol=1e-12, atol=0
        )
        values_by_discount = partial(state_values, mdp)
        values = torch.func.vmap(values_by_discount, in_dims=(0, None))(h.softmax(-1), 0.9)
        torch.testing.assert_close(values, state_values(mdp, h.softmax(-1), 0.9))

    def test_compiled_functions_give_the_same_values(self) -> None:
        mdp = gallery.two_state_toy()
        policy, v = random_policy(mdp), torch.randn(3, dtype=torch.float64, generator=seeded())
        compiled = partial(torch.compile, fullgraph=True, backend="eager")
        for f in (state_values, action_values, advantages):
            torch.testing.assert_close(compiled(f)(mdp, policy, 0.9), f(mdp, policy, 0.9))
        torch.testing.assert_close(
            compiled(bellman_expectation)(mdp, policy, v, 0.9), bellman_expectation(mdp, policy, v, 0.9)
        )

    def test_rows_of_terminal_states_are_not_read(self, route: str) -> None:
        mdp = gallery.two_state_toy()
        policy = random_policy(mdp)
        holed = policy.clone()
        holed[2] = torch.nan
        assert torch.equal(state_values(mdp, holed, 0.9), state_values(mdp, policy, 0.9))
        assert torch.equal(advantages(mdp, holed, 1.0), advantages(mdp, policy, 1.0))
        v = torch.ones(3, dtype=torch.float64)
        assert torch.equal(bellman_expectation(mdp, holed, v, 0.9), bellman_expectation(mdp, policy, v, 0.9))


class TestSolvers:
    def test_batches_are_broadcast(self, route: str) -> None:
        mdp = gallery.garnet(8, 2, 3, stop_probability=0.1, seed=5)
        policies = random_policy(mdp, 4, 1)
        b = torch.randn(3, 9, dtype=torch.float64, generator=seeded())
        x = solve_bellman(mdp, policies, 0.9, b)
        assert x.shape == (4, 3, 9)
        for i in range(4):
            P, _ = numpy_system(mdp, policies[i, 0])
            for j in range(3):
                np.testing.assert_allclose(x[i, j], np.linalg.solve(np.eye(9) - 0.9 * P, b[j]), rtol=1e-10)
        assert solve_bellman(mdp, policies[0, 0], 0.9, b).shape == (3, 9)
        assert solve_bellman(mdp, policies, 0.9, b[0], transpose=True).shape == (4, 1, 9)
        assert state_values(mdp, random_policy(mdp, 0), 0.9).shape == (0, 9)

    def test_transposed_solution_counts_discounted_visits(self, route: str) -> None:
        # Σ_t γ^t Pr(S_t = s), summed until the terms vanish
        mdp = gallery.two_state_toy()
        policy = random_policy(mdp)
        P, _ = numpy_system(mdp, policy)
        expected, at = np.zeros(3), mdp.initial.numpy()
        for _ in range(400):
            expected, at = expected + at, 0.9 * at @ P
        visits = solve_bellman(mdp, policy, 0.9, mdp.initial, transpose=True)
        np.testing.assert_allclose(visits, expected, rtol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_lower_precision_is_solved_in_float64_and_kept(self, dtype: torch.dtype, route: str) -> None:
        mdp = gallery.gridworld()
        policy = equiprobable_policy(mdp)
        values = state_values(mdp.to(dtype=dtype), policy.to(dtype), 0.9)
        assert values.dtype == dtype
        expected = state_values(mdp, policy, 0.9)
        torch.testing.assert_close(values.double(), expected, rtol=0, atol=2 * 10 * torch.finfo(dtype).eps)

    def test_bicgstab_breaks_down_on_frozen_lake_and_the_fallback_does_not(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # With the residual as its own shadow; Gymnasium's 8x8 map, the policy that always goes right.
        mdp = FiniteMDP.from_gymnasium("FrozenLake8x8-v1")
        policy = torch.zeros(64, 4, dtype=torch.float64)
        policy[:, 2] = 1.0
        P, r = (torch.from_numpy(x) for x in numpy_system(mdp, policy))
        A = torch.eye(64, dtype=torch.float64) - 0.99 * P

        def classic(apply: _krylov.Operator, b: Tensor, x: Tensor, target: float) -> Tensor:
            return _krylov.bicgstab(apply, b, x, target, shadow=b)

        stopped = classic(lambda x: A @ x, r, torch.zeros_like(r), 1e-13)
        assert (A @ stopped - r).abs().max() > 1e-5 * r.abs().max()
        sparse_route(monkeypatch)
        monkeypatch.setattr(_linear, "DENSE_LIMIT", 0)
        monkeypatch.setattr(_linear, "bicgstab", classic)
        np.testing.assert_allclose(state_values(mdp, policy, 0.99), np.linalg.solve(A, r), atol=1e-13)

    @pytest.mark.parametrize("transpose", [False, True])
    @pytest.mark.parametrize("n_taken", [1, 2, 4])
    def test_actions_that_are_not_taken_are_left_out(
        self, n_taken: int, transpose: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # With one action of four the matrix is compressed, with two of them or all it is not.
        mdp = gallery.garnet(50, 4, 3, seed=2)
        policy = random_policy(mdp) * (torch.arange(4) < n_taken)
        policy = policy / policy.sum(-1, keepdim=True)
        P, b = numpy_system(mdp, policy)
        sparse_route(monkeypatch)
        matrix = _linear._sparse_matrix((policy[mdp.outcomes.state, mdp.outcomes.action] * mdp.outcomes.probability),
                                        50, _linear.System(mdp, 0.9, transpose))  # fmt: skip
        np.testing.assert_allclose(matrix.to_dense(), P.T if transpose else P, atol=1e-15)
        found = solve_bellman(mdp, policy, 0.9, torch.from_numpy(b), transpose=transpose)
        expected = np.linalg.solve(np.eye(50) - 0.9 * (P.T if transpose else P), b)
        np.testing.assert_allclose(found, expected, atol=1e-11 * abs(expected).max())

    @pytest.mark.parametrize("working", ["bicgstab", "elimination", "gmres", "richardson", "dense"])
    def test_each_solver_of_the_chain_suffices_alone(self, working: str, monkeypatch: pytest.MonkeyPatch) -> None:
        mdp = gallery.garnet(40, 3, 4, seed=1)
        policy = random_policy(mdp)
        expected = numpy_values(mdp, policy, 0.9)
        sparse_route(monkeypatch)

        def useless(apply: _krylov.Operator, b: Tensor, x: Tensor, target: float) -> Tensor:
            return torch.full_like(b, torch.nan)

        for method in {"bicgstab", "gmres", "richardson"} - {working}:
            monkeypatch.setattr(_linear, method, useless)
        if working != "elimination":
            monkeypatch.setattr(_linear, "eliminate", lambda *_, **__: None)
        if working != "dense":
            monkeypatch.setattr(_linear, "DENSE_LIMIT", 0)
        np.testing.assert_allclose(state_values(mdp, policy, 0.9), expected, rtol=1e-10)

    def test_an_unsolved_system_is_an_error_and_never_an_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sparse_route(monkeypatch)
        monkeypatch.setattr(_linear, "DENSE_LIMIT", 0)
        monkeypatch.setattr(_linear, "eliminate", lambda *_, **__: None)
        for method in ("bicgstab", "gmres", "richardson"):

            def slightly_off(apply: _krylov.Operator, b: Tensor, x: Tensor, target: float) -> Tensor:
                return _krylov.richardson(apply, b, x, 1e-9 * _krylov.largest(b))

            monkeypatch.setattr(_linear, method, slightly_off)
        mdp = gallery.gridworld()
        with pytest.raises(
            RuntimeError, match=r"not solved: the residual is .*e-\d+ of the right-hand side, not 1e-10"
        ):
            state_values(mdp, equiprobable_policy(mdp), 0.999)

    def test_a_dense_solution_is_checked_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mdp = gallery.gridworld()
        exact = torch.linalg.solve
        monkeypatch.setattr(torch.linalg, "solve", lambda A, b: exact(A, b) + 1e-7)
        with pytest.raises(RuntimeError, match="was not solved"):
            state_values(mdp, equiprobable_policy(mdp), 0.9)

    def test_krylov_methods_solve_a_system_that_is_no_bellman_equation(self) -> None:
        generator = seeded()
        A = torch.eye(60, dtype=torch.float64) * 4 + torch.randn(60, 60, dtype=torch.float64, generator=generator) / 8
        b = torch.randn(60, dtype=torch.float64, generator=generator)
        expected = np.linalg.solve(A.numpy(), b.numpy())
        for method in (_krylov.bicgstab, partial(_krylov.gmres, restart=20)):
            np.testing.assert_allclose(method(lambda x: A @ x, b, torch.zeros_like(b), 1e-13), expected, rtol=1e-10)

    def test_bicgstab_is_exact_after_as_many_steps_as_there_are_unknowns(self) -> None:
        generator = seeded(1)
        A = torch.eye(6, dtype=torch.float64) * 4 + torch.randn(6, 6, dtype=torch.float64, generator=generator)
        b = torch.randn(6, dtype=torch.float64, generator=generator)
        x = _krylov.bicgstab(lambda x: A @ x, b, torch.zeros_like(b), 1e-12, steps=6)
        np.testing.assert_allclose(x, np.linalg.solve(A.numpy(), b.numpy()), rtol=1e-6)

    def test_gmres_is_exact_after_as_many_steps_as_an_episode_can_have(self) -> None:
        # P is nilpotent on a token tree of length 4: the Krylov space closes after at most 4 + 1 steps
        mdp = gallery.token_tree(2, 4)
        policy = random_policy(mdp)
        P, r = (torch.from_numpy(x) for x in numpy_system(mdp, policy))
        x = _krylov.gmres(lambda x: x - P @ x, r, torch.zeros_like(r), 1e-14, restart=10, cycles=1)
        np.testing.assert_allclose(x, numpy_values(mdp, policy, 1.0), atol=1e-12)

    def test_inputs_are_not_modified(self, route: str) -> None:
        mdp = gallery.two_state_toy()
        policy, b = random_policy(mdp), torch.ones(3, dtype=torch.float64)
        before = policy.clone(), b.clone(), [t.clone() for t in mdp.outcomes]
        solve_bellman(mdp, policy, 0.9, b, transpose=True)
        greedy_policy(mdp, b, 0.9)
        optimal_values(mdp, 1.0)
        assert torch.equal(policy, before[0])
        assert torch.equal(b, before[1])
        assert all(torch.equal(t, u) for t, u in zip(mdp.outcomes, before[2], strict=True))


class TestTermination:
    def test_policy_that_circles_is_refused_at_gamma_one_and_the_state_is_named(self, route: str) -> None:
        mdp = gallery.gridworld_4x4()
        left = torch.zeros(16, 4, dtype=torch.float64)
        left[:, 3] = 1.0  # ends from row 0 only; state 4 is the first that never does
        with pytest.raises(ValueError, match=r"gamma is 1, but under policy the episode never .* from s=4: use gamma"):
            state_values(mdp, left, 1.0)
        batch = torch.stack([equiprobable_policy(mdp), left])
        with pytest.raises(ValueError, match=r"never reaches a terminal state from s=4 of \[1\]"):
            action_values(mdp, batch, 1.0)
        assert state_values(mdp, left, 0.999).isfinite().all()

    def test_policy_that_circles_for_nothing_is_refused_too(self) -> None:
        mdp = gallery.gamblers_problem(goal=4, zero_stake=True)
        policy = torch.zeros(5, 3, dtype=torch.float64)
        policy[:, 0] = 1.0
        check_policy(mdp, policy)
        with pytest.raises(ValueError, match="never reaches a terminal state from s=1"):
            state_values(mdp, policy, 1.0)

    def test_continuing_task_is_refused_at_gamma_one(self) -> None:
        mdp = gallery.recycling_robot()
        with pytest.raises(ValueError, match="from s=0"):
            state_values(mdp, equiprobable_policy(mdp), 1.0)

    @pytest.mark.equation("lem-termination")
    @settings(deadline=None, derandomize=True, max_examples=60)
    @given(st.integers(0, 10_000))
    def test_termination_is_decided_as_by_matrix_powers(self, seed: int) -> None:
        generator = seeded(seed)
        n = 7
        target = torch.randint(0, n, (n - 1, 2), generator=generator)
        outcomes = [(s, a, int(target[s, a]), -1.0, 1.0) for s in range(n - 1) for a in range(2)]
        mdp = FiniteMDP.from_outcomes(outcomes, n_states=n, n_actions=2, initial=0, terminal=[n - 1])
        policy = torch.eye(2, dtype=torch.float64)[torch.randint(0, 2, (3, n), generator=generator)]
        mixed = (policy[0] + policy[1]) / 2
        for table in (*policy, mixed):
            P, _ = numpy_system(mdp, table)
            P[-1, -1] = 1.0
            ends = np.linalg.matrix_power(P, 64)[:, -1] > 0
            assert vf._reaches_terminal(mdp, table).tolist() == ends.tolist()
        stacked = vf._reaches_terminal(mdp, policy)
        assert torch.equal(stacked, torch.stack([vf._reaches_terminal(mdp, table) for table in policy]))

    def test_long_chain_is_decided_and_solved(self) -> None:
        n = 3000
        s = torch.arange(n - 1)
        one = torch.ones(n - 1, dtype=torch.float64)
        mdp = FiniteMDP.from_outcomes(
            (s, 0 * s, s + 1, -one, one), n_states=n, n_actions=1, initial=0, terminal=[n - 1]
        )
        values = state_values(mdp, torch.ones(n, 1, dtype=torch.float64), 1.0)
        np.testing.assert_allclose(values, np.arange(n) - (n - 1.0), rtol=1e-10)


class TestOptimalValues:
    @pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 0.99])
    @pytest.mark.parametrize("name", MDPS)
    def test_they_are_the_limit_of_value_iteration(self, name: str, gamma: float) -> None:
        mdp = MDPS[name]
        v = np.zeros(mdp.n_states)
        P, r = mdp.transitions().numpy(), mdp.expected_rewards().numpy()
        for _ in range(3000):
            v = np.where(mdp.terminal, 0.0, np.where(mdp.available, r + gamma * P @ v, -np.inf).max(-1))
        values = optimal_values(mdp, gamma)
        np.testing.assert_allclose(values, v, atol=1e-9 * max(1, np.abs(v).max()))
        residual = bellman_optimality(mdp, values, gamma) - values
        assert residual.abs().max() <= 1e-10 * max(1.0, values.abs().max().item())
        torch.testing.assert_close(state_values(mdp, optimal_policy(mdp, gamma), gamma), values, rtol=1e-12, atol=1e-12)

    def test_no_deterministic_policy_of_a_small_garnet_is_better_anywhere(self) -> None:
        mdp, gamma = gallery.garnet(5, 3, 3, seed=4), 0.95
        codes = torch.cartesian_prod(*[torch.arange(3)] * 5)
        every = torch.eye(3, dtype=torch.float64)[codes]
        values = state_values(mdp, every, gamma)
        torch.testing.assert_close(optimal_values(mdp, gamma), values.amax(0), rtol=1e-11, atol=0)

    @pytest.mark.parametrize("env", ["FrozenLake-v1", "FrozenLake8x8-v1", "Taxi-v4", "CliffWalking-v1"])
    def test_undiscounted_gymnasium_tables_have_a_surely_terminating_optimum(self, env: str) -> None:
        mdp = FiniteMDP.from_gymnasium(env)
        values, policy = optimal_values(mdp, 1.0), optimal_policy(mdp, 1.0)
        torch.testing.assert_close(state_values(mdp, policy, 1.0), values, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(bellman_optimality(mdp, values, 1.0), values, rtol=1e-10, atol=1e-10)
        best = values[mdp.initial > 0].max().item()
        # FrozenLake 4x4: 14/17; 8x8: the goal can be reached surely; CliffWalking: 13 steps
        known = {"FrozenLake-v1": 14 / 17, "FrozenLake8x8-v1": 1.0, "CliffWalking-v1": -13.0}
        if env in known:
            assert best == pytest.approx(known[env], abs=1e-9)

    def test_circling_for_nothing_is_not_preferred_to_ending(self) -> None:
        # waiting costs nothing, ending costs 1: over surely terminating policies the value is −1
        outcomes = [(0, 0, 0, 0.0, 1.0), (0, 1, 1, -1.0, 1.0)]
        mdp = FiniteMDP.from_outcomes(outcomes, n_states=2, n_actions=2, initial=0, terminal=[1])
        assert optimal_values(mdp, 1.0).tolist() == pytest.approx([-1.0, 0.0], abs=1e-14)
        assert optimal_policy(mdp, 1.0)[0, 1] > 0
        torch.testing.assert_close(optimal_values(mdp, 0.9), torch.zeros(2, dtype=torch.float64))

    def test_unbounded_values_are_an_error_that_names_a_state(self) -> None:
        outcomes = [(0, 0, 0, 1.0, 1.0), (0, 1, 1, 0.0, 1.0)]
        mdp = FiniteMDP.from_outcomes(outcomes, n_states=2, n_actions=2, initial=0, terminal=[1])
        with pytest.raises(ValueError, match="unbounded: a cycle through s=0 gains reward for ever"):
            optimal_values(mdp, 1.0)

    def test_task_without_an_end_is_refused_at_gamma_one(self) -> None:
        with pytest.raises(ValueError, match="gamma is 1, but no policy reaches a terminal state from s=0"):
            optimal_values(gallery.recycling_robot(), 1.0)

    def test_float32_is_kept(self) -> None:
        mdp = gallery.gridworld().to(dtype=torch.float32)
        assert optimal_values(mdp, 0.9).dtype == optimal_policy(mdp, 0.9).dtype == torch.float32


class TestFiniteHorizon:
    @pytest.mark.parametrize("name", ["robot", "gridworld", "garnet", "toy"])
    def test_values_approach_the_stationary_ones_at_the_rate_gamma_per_step(self, name: str) -> None:
        mdp, gamma = MDPS[name], 0.9
        policy = random_policy(mdp)
        v = torch.from_numpy(numpy_values(mdp, policy, gamma))
        table = finite_horizon_values(mdp, policy, gamma, horizon=200)
        error = (table - v).abs().amax(-1)
        left = torch.arange(200.0, -1.0, -1.0, dtype=torch.float64)
        assert (error <= gamma**left * v.abs().max() + 1e-11).all()
        assert error[0] < 1e-7

    def test_row_t_is_the_operator_applied_to_row_t_plus_1(self) -> None:
        mdp = gallery.recycling_robot()
        policies = random_policy(mdp, 2, 3)
        table = finite_horizon_values(mdp, policies, 1.0, horizon=4)
        assert table.shape == (2, 3, 5, 2)
        torch.testing.assert_close(table[..., 2, :], bellman_expectation(mdp, policies, table[..., 3, :], 1.0))

    def test_value_iteration_is_the_finite_horizon_optimum_read_backwards(self) -> None:
        mdp = gallery.gridworld()
        values, _ = finite_horizon_optimal_values(mdp, 0.9, horizon=400)
        torch.testing.assert_close(values[0], optimal_values(mdp, 0.9))

    def test_gradcheck(self) -> None:
        mdp = gallery.two_state_toy()
        h = torch.randn(3, 2, dtype=torch.float64, generator=seeded(), requires_grad=True)
        assert torch.autograd.gradcheck(lambda h: finite_horizon_values(mdp, h.softmax(-1), 0.9, horizon=4), h)


TOY = gallery.two_state_toy()
HALF = torch.full((3, 2), 0.5, dtype=torch.float64)
ZERO = torch.zeros(3, dtype=torch.float64)


def edited(table: Tensor, *values: float) -> Tensor:
    """`table` with its second row replaced."""
    table = table.clone()
    table[1] = torch.tensor(values, dtype=table.dtype)
    return table


def cut_episodes() -> Trajectories:
    return sample_trajectories(TOY, HALF, 50, horizon=1, generator=seeded())


def whole_episodes() -> Trajectories:
    return sample_trajectories(TOY, HALF, 50, horizon=200, generator=seeded())


EVALUATIONS = (state_values, action_values, advantages)
BAD_POLICIES = [
    ("gamma above 1", (HALF, 1.5), ValueError, r"gamma must be in \[0, 1\], not 1.5"),
    ("gamma below 0", (HALF, -0.1), ValueError, r"gamma must be in \[0, 1\], not -0.1"),
    ("gamma NaN", (HALF, float("nan")), ValueError, r"gamma must be in \[0, 1\], not nan"),
    ("gamma a string", (HALF, "0.9"), TypeError, "gamma must be a number, not str"),
    ("policy a list", ([[0.5, 0.5]] * 3, 0.9), TypeError, "policy must be a torch.Tensor, not list"),
    ("policy of integers", (HALF.long(), 0.9), TypeError, "policy must hold floating-point numbers"),
    ("policy float32", (HALF.float(), 0.9), TypeError, "policy is torch.float32 but mdp is torch.float64"),
    ("policy on another device", (HALF.to("meta"), 0.9), ValueError, "policy is on meta but mdp is on cpu"),
    ("policy too small", (HALF[:2], 0.9), ValueError, r"policy has shape \[2, 2\], expected \[\.\.\., 3, 2\]"),
    ("policy sums to 0.9", (edited(HALF, 0.5, 0.4), 0.9), ValueError, "policy sums to 0.9 at s=1, not 1"),
    ("policy negative", (edited(HALF, 1.5, -0.5), 0.9), ValueError, "policy is -0.5 at s=1, a=1, not a probability"),
    ("policy NaN", (edited(HALF, float("nan"), 1.0), 0.9), ValueError, "policy is nan at s=1, a=0"),
]


@pytest.mark.parametrize("function", EVALUATIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("arguments", "error", "message"), [c[1:] for c in BAD_POLICIES], ids=[c[0] for c in BAD_POLICIES]
)
def test_bad_policy_or_discount_is_an_error(
    function: object, arguments: tuple[object, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        function(TOY, *arguments)  # type: ignore[operator]


BAD_CALLS = [
    (
        "mass outside A(s)",
        lambda: state_values(gallery.recycling_robot(), torch.full((2, 3), 1 / 3, dtype=torch.float64), 0.9),
        ValueError,
        "policy is 0.3333333333 at s=0, a=2, where the action is not available",
    ),
    (
        "values of the wrong size",
        lambda: bellman_expectation(TOY, HALF, ZERO[:2], 0.9),
        ValueError,
        r"values has shape \[2\], expected \[\.\.\., 3\]",
    ),
    ("values a scalar", lambda: one_step_lookahead(TOY, ZERO[0], 0.9), ValueError, r"values has shape \[\]"),
    ("values float32", lambda: bellman_optimality(TOY, ZERO.float(), 0.9), TypeError, "values is torch.float32"),
    ("values of integers", lambda: greedy_policy(TOY, ZERO.long(), 0.9), TypeError, "values must hold floating-point"),
    ("values NaN", lambda: greedy_policy(TOY, ZERO / 0, 0.9), ValueError, r"values is nan at \[0\]"),
    ("discount of an operator", lambda: bellman_optimality(TOY, ZERO, 2.0), ValueError, "gamma must be in"),
    ("discount of the optimum", lambda: optimal_values(TOY, -1.0), ValueError, "gamma must be in"),
    (
        "right-hand side of the wrong size",
        lambda: solve_bellman(TOY, HALF, 0.9, ZERO[:2]),
        ValueError,
        r"right_hand_side has shape \[2\], expected \[\.\.\., 3\]",
    ),
    (
        "right-hand side infinite",
        lambda: solve_bellman(TOY, HALF, 0.9, torch.tensor([0.0, 0.0, torch.inf], dtype=torch.float64)),
        ValueError,
        r"right_hand_side is inf at \[2\], not a finite number",
    ),
    ("horizon 0", lambda: finite_horizon_values(TOY, HALF, 0.9, horizon=0), ValueError, "horizon must be at least 1"),
    (
        "horizon 2.5",
        lambda: finite_horizon_values(TOY, HALF, 0.9, horizon=2.5),  # type: ignore[arg-type]
        TypeError,
        "horizon must be an integer, not float",
    ),
    (
        "optimum with horizon 0",
        lambda: finite_horizon_optimal_values(TOY, 0.9, horizon=0),
        ValueError,
        "horizon must be at least 1",
    ),
    (
        "truncated episodes",
        lambda: monte_carlo_values(cut_episodes(), 0.9, n_states=3),
        ValueError,
        r"trajectory \[\d+\] was truncated, so its returns are cut short: give a longer horizon",
    ),
    (
        "unknown visit",
        lambda: monte_carlo_values(whole_episodes(), 0.9, n_states=3, visit="last"),  # type: ignore[arg-type]
        ValueError,
        "visit is 'last', expected 'first' or 'every'",
    ),
    (
        "too few states",
        lambda: monte_carlo_values(whole_episodes(), 0.9, n_states=1),
        ValueError,
        r"trajectories.states is 1 at n=0, t=0, not in 0..0",
    ),
    (
        "discount of an estimate",
        lambda: monte_carlo_values(whole_episodes(), 7.0, n_states=3),
        ValueError,
        "gamma must",
    ),
    ("discount of an optimal policy", lambda: optimal_policy(TOY, 2.0), ValueError, "gamma must be in"),
    (
        "no states",
        lambda: monte_carlo_values(whole_episodes(), 0.9, n_states=0),
        ValueError,
        "n_states must be at least 1",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), [pytest.param(*c[1:], id=c[0]) for c in BAD_CALLS])
def test_bad_input_is_an_error(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()  # type: ignore[operator]
