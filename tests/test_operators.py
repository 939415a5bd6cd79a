"""One application of a Bellman operator, and what is greedy, against matrices, lists of outcomes and closed forms."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from helpers import numpy_system, randn, random_policy, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from small_mdps import MDPS

from pgtheory import gallery
from pgtheory.mdp import FiniteMDP, check_policy, equiprobable_policy
from pgtheory.value_functions import (
    bellman_expectation,
    bellman_optimality,
    greedy_policy,
    state_values,
)


class TestOperators:
    def test_greedy_policies_of_a_batch_are_those_of_each_row(self) -> None:
        mdp = gallery.garnet(6, 3, 2, seed=1)
        values = randn(2, 3, 6, seed=2) * torch.tensor([1.0, 1e6, 1e-6], dtype=torch.float64)[:, None]
        found = greedy_policy(mdp, values, 0.9)
        for index in itertools.product(range(2), range(3)):
            assert torch.equal(found[index], greedy_policy(mdp, values[index], 0.9))
        assert len({tuple(row.argmax(-1).tolist()) for row in found.flatten(0, 1)}) > 3

    def test_without_discount_the_residual_bounds_the_error_by_the_mean_number_of_steps(self) -> None:
        mdp = gallery.gridworld_4x4()
        policy = equiprobable_policy(mdp)
        v = state_values(mdp, policy, 1.0)
        steps = -v  # each costs 1
        rng = torch.Generator().manual_seed(0)
        for shift in (steps, *torch.randn(20, 16, generator=rng, dtype=torch.float64).where(~mdp.terminal, 0.0)):
            residual = (bellman_expectation(mdp, policy, v + shift, 1.0) - v - shift).abs().max()
            bound = steps.max() * residual
            assert shift.abs().max() <= bound * (1 + 1e-9)
        assert float(steps.max()) == pytest.approx(22)

    def test_an_improvement_that_does_not_end_has_mixtures_of_any_value(self) -> None:
        # stay for 0.1, or leave at a cost of 1: staying has an advantage over leaving, and never ends
        mdp = FiniteMDP.from_outcomes(
            [(0, 0, 0, 0.1, 1.0), (0, 1, 1, -1.0, 1.0)], n_states=2, n_actions=2, initial=0, terminal=[1]
        )
        for leaving in (0.5, 0.1, 0.01, 0.001):
            policy = torch.tensor([[1 - leaving, leaving], [0.0, 0.0]], dtype=torch.float64)
            expected = 0.1 * (1 / leaving - 1) - 1  # the mean of a geometric number of stays
            assert float(state_values(mdp, policy, 1.0)[0]) == pytest.approx(expected)

    @pytest.mark.equation("eq-contraction")
    @settings(deadline=None, derandomize=True, max_examples=50)
    @given(st.integers(0, 10_000), st.floats(0, 1))
    def test_both_operators_contract_by_gamma_and_are_monotone(self, seed: int, gamma: float) -> None:
        mdp = gallery.garnet(6, 3, 3, seed=seed % 7)
        v, w = 10 * torch.randn(2, 6, dtype=torch.float64, generator=seeded(seed))
        policy = random_policy(mdp, seed=seed)
        for T in (
            partial(bellman_expectation, mdp, policy, gamma=gamma),
            partial(bellman_optimality, mdp, gamma=gamma),
        ):
            assert (T(v) - T(w)).abs().max() <= gamma * (v - w).abs().max() + 1e-12
            assert (T(torch.maximum(v, w)) >= T(v) - 1e-12).all()
        torch.testing.assert_close(
            bellman_expectation(mdp, policy, v + 1, gamma), bellman_expectation(mdp, policy, v, gamma) + gamma
        )

    @pytest.mark.equation("eq-bellman")
    @pytest.mark.parametrize("name", MDPS)
    def test_operator_is_the_matrix_form(self, name: str) -> None:
        mdp = MDPS[name]
        policy = random_policy(mdp)
        v = torch.randn(mdp.n_states, dtype=torch.float64, generator=seeded())
        P, r = numpy_system(mdp, policy)
        np.testing.assert_allclose(bellman_expectation(mdp, policy, v, 0.7), r + 0.7 * P @ v.numpy(), atol=1e-12)

    @pytest.mark.parametrize("name", MDPS)
    def test_optimality_operator_is_the_best_over_deterministic_choices(self, name: str) -> None:
        mdp = MDPS[name]
        v = torch.randn(mdp.n_states, dtype=torch.float64, generator=seeded())
        q = np.full((mdp.n_states, mdp.n_actions), -np.inf)
        for s, a, s_next, r, p in zip(*(c.tolist() for c in mdp.outcomes), strict=True):
            before = 0.0 if q[s, a] == -np.inf else q[s, a]
            q[s, a] = before + p * (float(mdp.rewards[r]) + 0.7 * float(v[s_next]))
        expected = np.where(mdp.terminal, 0.0, q.max(-1))
        np.testing.assert_allclose(bellman_optimality(mdp, v, 0.7), expected, atol=1e-12)
        greedy = greedy_policy(mdp, v, 0.7)
        live = ~mdp.terminal.numpy()
        assert greedy.argmax(-1).numpy()[live].tolist() == q.argmax(-1)[live].tolist()
        check_policy(mdp, greedy)
        torch.testing.assert_close(bellman_expectation(mdp, greedy, v, 0.7), bellman_optimality(mdp, v, 0.7))

    def test_greedy_policy_gives_ties_to_the_lowest_available_action(self) -> None:
        outcomes = [(0, a, 1, 1.0, 1.0) for a in (1, 2, 3)]
        mdp = FiniteMDP.from_outcomes(outcomes, n_states=2, n_actions=4, initial=0, terminal=[1])
        assert greedy_policy(mdp, torch.zeros(2, dtype=torch.float64), 0.9).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]

    def test_rounding_breaks_no_tie(self) -> None:
        # 0.1 + 0.2 > 0.3 by one unit in the last place
        outcomes = [(0, 0, 2, 0.3, 1.0), (0, 1, 1, 0.1, 1.0), (1, 0, 2, 0.2, 1.0)]
        mdp = FiniteMDP.from_outcomes(outcomes, n_states=3, n_actions=2, initial=0, terminal=[2])
        v = torch.tensor([0.0, 0.2, 0.0], dtype=torch.float64)
        assert greedy_policy(mdp, v, 1.0)[0].tolist() == [1, 0]
