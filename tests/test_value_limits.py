"""Values at the ends of what can be calculated: discounts near one, long walks and horizons, 16 bits, threads."""

import itertools
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import numpy_system, random_policy, seeded

from pgtheory import gallery
from pgtheory._elimination import eliminate
from pgtheory._krylov import gmres, richardson
from pgtheory.mdp import FiniteMDP, equiprobable_policy
from pgtheory.trajectories import sample_trajectories
from pgtheory.value_functions import (
    finite_horizon_optimal_values,
    finite_horizon_values,
    monte_carlo_values,
    optimal_policy,
    optimal_values,
    solve_bellman,
    state_values,
)


def exact_robot_values(gamma: float) -> tuple[list[Fraction], tuple[int, int]]:
    """The optimal values and actions of the recycling robot, by all its policies in rational arithmetic."""
    robot, g = gallery.recycling_robot(), Fraction(gamma)
    columns = [column.tolist() for column in robot.outcomes]
    best: tuple[list[Fraction], tuple[int, int]] | None = None
    for actions in itertools.product(range(3), repeat=2):
        if not all(robot.available[s, actions[s]] for s in range(2)):
            continue
        A, r = [[Fraction(1), Fraction(0)], [Fraction(0), Fraction(1)]], [Fraction(0), Fraction(0)]
        for s, a, s_next, index, p in zip(*columns, strict=True):
            if a == actions[s]:
                A[s][s_next] -= g * Fraction(p)
                r[s] += Fraction(p) * Fraction(float(robot.rewards[index]))
        det = A[0][0] * A[1][1] - A[0][1] * A[1][0]
        v = [(r[0] * A[1][1] - A[0][1] * r[1]) / det, (A[0][0] * r[1] - A[1][0] * r[0]) / det]
        if best is None or v > best[0]:
            best = v, actions
    assert best is not None
    return best


class TestLimits:
    @pytest.mark.parametrize("distance", [1e-2, 1e-6, 1e-10, 1e-11, 1e-13, 1e-15])
    def test_optimal_values_are_right_however_near_gamma_is_to_one(self, distance: float) -> None:
        gamma = 1 - distance
        expected, actions = exact_robot_values(gamma)
        found = optimal_values(gallery.recycling_robot(), gamma)
        for x, y in zip(found.tolist(), expected, strict=True):
            assert abs(Fraction(x) / y - 1) < 1e-13
        assert optimal_policy(gallery.recycling_robot(), gamma).argmax(-1).tolist() == list(actions)

    @pytest.mark.parametrize("distance", [1e-9, 1e-12, 1e-15])
    def test_so_are_those_of_episodes_that_end_whatever_the_ways_that_are_longer(self, distance: float) -> None:
        found = optimal_values(gallery.gridworld_4x4(), 1 - distance).view(4, 4)
        for row, column in itertools.product(range(4), repeat=2):
            steps = min(row + column, 6 - row - column)  # to the nearer one of two corners
            expected = -sum(Fraction(1 - distance) ** k for k in range(steps))
            assert abs(Fraction(float(found[row, column])) - expected) < 1e-14

    def test_optimal_values_that_rounding_does_not_decide_are_refused(self) -> None:
        # Many stakes are equally good, and they differ in how long they play: 1e-14 decides between them.
        with pytest.raises(RuntimeError, match=r"known to .* of the largest only, not to 1e-06"):
            optimal_values(gallery.gamblers_problem(zero_stake=True), 1 - 1e-14)

    @pytest.mark.parametrize("n", [700, 20_000, 100_000])
    def test_a_long_random_walk_is_solved_at_gamma_one(self, n: int) -> None:
        # v(k) = k / (n+1); η is the Green's function of the walk, 2 min(k, c) (n+1 − max(k, c)) / (n+1)
        walk = gallery.random_walk(n)
        policy, k, c = equiprobable_policy(walk), torch.arange(1, n + 1).double(), (n + 1) // 2
        values = state_values(walk, policy, 1.0)[1:-1]
        torch.testing.assert_close(values, k / (n + 1), rtol=1e-12, atol=1e-14)
        visits = solve_bellman(walk, policy, 1.0, walk.initial, transpose=True)[1:-1]
        expected = 2 * k.clamp(max=c) * (n + 1 - k.clamp(min=c)) / (n + 1)
        torch.testing.assert_close(visits, expected, rtol=1e-12, atol=0.0)
        torch.testing.assert_close(optimal_values(walk, 1.0)[1:-1], k / (n + 1), rtol=1e-12, atol=1e-14)

    def test_elimination_solves_what_scipy_solves(self) -> None:
        mdp = gallery.garnet(300, 2, 3, stop_probability=0.01, seed=3)
        policy = random_policy(mdp)
        o = mdp.outcomes
        weight = policy[o.state, o.action] * o.probability * 0.99
        kept = torch.zeros(301, dtype=torch.float64).index_add_(0, o.state, weight)
        factors = eliminate(o.state, o.next_state, weight, 1 - kept, fill=1e9)
        assert factors is not None
        P, _ = numpy_system(mdp, policy)
        b = torch.randn(301, dtype=torch.float64, generator=seeded())
        A = np.eye(301) - 0.99 * P
        np.testing.assert_allclose(factors.solve(b, transpose=False), np.linalg.solve(A, b), rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(factors.solve(b, transpose=True), np.linalg.solve(A.T, b), rtol=1e-9, atol=1e-11)

    def test_elimination_keeps_what_many_entries_pass_through_for_the_end(self) -> None:
        # Hubs that lead to 20 leaves each, and back: a hub before one of its leaves would join the leaves.
        hub = torch.arange(300).repeat_interleave(20)
        leaf = torch.arange(300, 300 + len(hub))
        tail, head = torch.cat([hub, leaf]), torch.cat([leaf, hub])
        weight = torch.cat([torch.full((len(hub),), 0.9 / 20), torch.full((len(hub),), 0.9)]).double()
        factors = eliminate(tail, head, weight, torch.full((300 + len(hub),), 0.1, dtype=torch.float64), fill=1.0)
        assert factors is not None
        assert sum(len(done.into.tail) for done in factors.rounds) == sum(len(done.states) for done in factors.rounds)
        assert factors.rest.tolist() == list(range(300))

    @pytest.mark.parametrize(("rate", "arrives"), [(0.999, True), (0.99999, False)])
    def test_backups_go_on_as_long_as_they_can_arrive(self, rate: float, arrives: bool) -> None:
        # A = (1 − rate) I: the residual falls by this rate, to 1e-10 in 23,014 steps, or 2.3 million.
        calls, b = 0, torch.ones(3, dtype=torch.float64)

        def apply(x: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return (1 - rate) * x

        x = richardson(apply, b, torch.zeros_like(b), 1e-10)
        assert (float((b - apply(x)).abs().max()) <= 1e-10) == arrives
        assert 23_000 < calls < 23_040 if arrives else calls < 3_000

    def test_gmres_stops_where_the_krylov_space_ends(self) -> None:
        b = torch.tensor([3.0, 4.0], dtype=torch.float64)  # of (0.6, 0.8) is nothing lost to rounding
        assert gmres(lambda x: 2.0 * x, b, torch.zeros_like(b), 1e-15).tolist() == [1.5, 2.0]

    def test_elimination_gives_up_where_the_entries_become_too_many(self) -> None:
        mdp = gallery.garnet(3000, 1, 8, seed=3)
        o = mdp.outcomes
        leak = torch.full((3000,), 0.1, dtype=torch.float64)
        assert eliminate(o.state, o.next_state, 0.9 * o.probability, leak, fill=2.0) is None

    def test_the_derivative_through_a_long_walk_is_that_of_its_closed_form(self) -> None:
        # dv/db(c) of v(c) is the expected number of visits to c from c: 2 c (n+1−c) / (n+1)
        n = 5000
        walk = gallery.random_walk(n)
        b = torch.zeros(n + 2, dtype=torch.float64, requires_grad=True)
        c = (n + 1) // 2
        (slope,) = torch.autograd.grad(solve_bellman(walk, equiprobable_policy(walk), 1.0, b)[c], b)
        assert abs(slope[c].item() / (2 * c * (n + 1 - c) / (n + 1)) - 1) < 1e-12

    def test_horizons_too_long_to_hold_are_refused(self) -> None:
        walk = gallery.random_walk()
        with pytest.raises(ValueError, match=r"finite_horizon_values would hold 1,000,000,001 x 7 numbers"):
            finite_horizon_values(walk, equiprobable_policy(walk), 1.0, horizon=10**9)
        with pytest.raises(ValueError, match=r"finite_horizon_optimal_values would hold 1,000,000,000 x 7 x 1 numbers"):
            finite_horizon_optimal_values(walk, 1.0, horizon=10**9)

    def test_half_precision_is_summed_in_float32(self) -> None:
        # 4096 outcomes of 2^-12 and a reward of 1 each: a half stops counting at 2048 of them.
        n = 4096
        s = torch.zeros(n, dtype=torch.int64)
        p = torch.full((n,), 1 / n, dtype=torch.float16)
        mdp = FiniteMDP.from_outcomes(
            (s, s, s + 1 + torch.arange(n), p * 0 + 1, p),
            n_states=n + 1,
            n_actions=1,
            initial=0,
            terminal=range(1, n + 1),
        )
        policy = equiprobable_policy(mdp)
        assert mdp.expected_rewards()[0, 0] == 1.0
        assert state_values(mdp, policy, 1.0)[0] == 1.0
        assert finite_horizon_values(mdp, policy, 1.0, horizon=1)[0, 0] == 1.0

    def test_a_state_of_minus_one_is_named_and_never_wraps(self) -> None:
        walk = gallery.random_walk()
        batch = sample_trajectories(walk, equiprobable_policy(walk), 2, horizon=200, generator=seeded())
        states = batch.states.clone()
        states[1, 0] = -1
        with pytest.raises(ValueError, match=r"trajectories.states is -1 at n=1, t=0, not in 0\.\.6"):
            monte_carlo_values(batch._replace(states=states), 1.0, n_states=7)
        found = monte_carlo_values(batch._replace(states=batch.states.to(torch.uint8)), 1.0, n_states=7)
        assert torch.equal(found.counts, monte_carlo_values(batch, 1.0, n_states=7).counts)


def test_values_of_many_policies_are_right_whatever_the_number_of_threads_was_set_to() -> None:
    code = (
        "import torch, pgtheory as pg\n"
        "torch.set_num_threads(2)\n"
        "g = torch.Generator().manual_seed(0)\n"
        "mdp = pg.gallery.garnet(170, 3, 170, generator=g)\n"
        "policies = torch.rand(4, 170, 3, dtype=torch.float64, generator=g).softmax(-1)\n"
        "both = pg.state_values(mdp, policies, 0.9), torch.stack([pg.state_values(mdp, p, 0.9) for p in policies])\n"
        "torch.testing.assert_close(*both)\n"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "2"}, check=True, timeout=300)
