"""Trajectories against a recursion in plain Python, powers of the transition matrix, and counts by chance."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import chance
import numpy as np
import pytest
import torch
from helpers import assert_same_up_to_rounding, needs_numba, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from pgtheory import gallery, trajectories
from pgtheory.mdp import FiniteMDP, equiprobable_policy
from pgtheory.trajectories import (
    Trajectories,
    at_steps,
    enumerate_trajectories,
    sample_trajectories,
    trajectory_probabilities,
)

PATHS = ["plain", pytest.param("compiled", marks=needs_numba)]


def take(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample on this path, however few the trajectories are."""
    monkeypatch.setattr(trajectories, "LEAST", 0)
    monkeypatch.setenv("PGTHEORY_FAST", "1" if path == "compiled" else "0")


def random_policy(mdp: FiniteMDP, seed: int = 0) -> torch.Tensor:
    weights = torch.rand(mdp.n_states, mdp.n_actions, generator=seeded(seed), dtype=mdp.dtype) + 0.1
    weights = torch.where(torch.as_tensor(mdp.available), weights, 0.0)
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)


def by_recursion(mdp: FiniteMDP, policy, horizon: int) -> dict[tuple, float]:
    """Every trajectory (s0, a0, r1, s1, ...) and its probability, from the dense table, one at a time."""
    p, rewards, terminal = mdp.dynamics().tolist(), mdp.rewards.tolist(), mdp.terminal.tolist()
    tables = policy.tolist() if policy.ndim == 3 else [policy.tolist()] * horizon
    found: dict[tuple, float] = {}

    def follow(path: tuple, s: int, t: int, probability: float) -> None:
        if t == horizon or terminal[s]:
            found[path] = probability
            return
        for a, s_next, r in itertools.product(range(mdp.n_actions), range(mdp.n_states), range(len(rewards))):
            q = tables[t][s][a] * p[s][a][s_next][r]
            if q > 0:
                follow((*path, a, rewards[r], s_next), s_next, t + 1, probability * q)

    for s, mu in enumerate(mdp.initial.tolist()):
        if mu > 0:
            follow((s,), s, 0, mu)
    return found


def as_tuples(batch: Trajectories) -> list[tuple]:
    """Each trajectory as (s0, a0, r1, s1, ...), padding left out."""
    out = []
    for n in range(len(batch.states)):
        path = [int(batch.states[n, 0])]
        for t in range(int(batch.lengths[n])):
            path += [int(batch.actions[n, t]), float(batch.rewards[n, t]), int(batch.states[n, t + 1])]
        out.append(tuple(path))
    return out


ENDS_AT_ONCE = FiniteMDP.from_outcomes(
    [(0, 0, 1, 1.0, 0.5), (0, 0, 2, 2.0, 0.5)], n_states=3, n_actions=1, initial=[0.5, 0.25, 0.25], terminal=[1, 2]
)

SMALL = {
    "toy": (gallery.two_state_toy(), 4),
    "robot": (gallery.recycling_robot(), 3),
    "corridor": (gallery.short_corridor(), 5),
    "student": (gallery.student_mdp(), 4),
    "correlated": (gallery.correlated_rewards(0.5), 3),
    "bandit": (gallery.bandit([0.0, 1.0, 1.0], spread=1.0), 2),
    "tree": (gallery.token_tree(3, 3, eos=0, n_prompts=2), 3),
    "garnet": (gallery.garnet(4, 2, 2, stop_probability=0.25), 3),
    "gambler": (gallery.gamblers_problem(goal=6), 4),
}


@pytest.mark.equation("eq-trajectory-probability")
@pytest.mark.parametrize("name", SMALL)
def test_enumeration_gives_what_a_recursion_gives(name):
    mdp, horizon = SMALL[name]
    policy = random_policy(mdp)
    batch, probabilities = enumerate_trajectories(mdp, policy, horizon=horizon)
    expected = by_recursion(mdp, policy, horizon)
    paths = as_tuples(batch)
    assert len(set(paths)) == len(paths) == len(expected)
    assert dict(zip(paths, probabilities.tolist(), strict=True)) == pytest.approx(expected, abs=1e-15)
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-12)


def test_enumeration_with_a_policy_for_each_time_gives_what_a_recursion_gives():
    mdp = gallery.two_state_toy()
    tables = torch.stack([random_policy(mdp, seed) for seed in range(3)])
    tables[1, 0] = torch.tensor([1.0, 0.0])
    batch, probabilities = enumerate_trajectories(mdp, tables, horizon=3)
    expected = by_recursion(mdp, tables, 3)
    assert dict(zip(as_tuples(batch), probabilities.tolist(), strict=True)) == pytest.approx(expected, abs=1e-15)


def test_enumeration_leaves_out_actions_of_probability_zero():
    mdp = gallery.two_state_toy()
    policy = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    batch, probabilities = enumerate_trajectories(mdp, policy, horizon=3)
    assert (probabilities > 0).all()
    assert len(probabilities) == len(by_recursion(mdp, policy, 3))
    assert (batch.actions[batch.mask] == policy.argmax(-1)[batch.states[:, :-1][batch.mask]]).all()


def test_enumeration_is_in_lexicographic_order():
    mdp, _ = SMALL["toy"]
    batch, _ = enumerate_trajectories(mdp, random_policy(mdp), horizon=3)
    keys = []
    for path in as_tuples(batch):
        steps = [(path[i], path[i + 2], path[i + 1]) for i in range(1, len(path), 3)]  # a, s', r
        keys.append((path[0], *steps))
    assert keys == sorted(keys)


@pytest.mark.parametrize("name", SMALL)
def test_the_marginals_are_powers_of_the_transition_matrix(name):
    mdp, horizon = SMALL[name]
    policy = random_policy(mdp, 1)
    batch, probabilities = enumerate_trajectories(mdp, policy, horizon=horizon)
    p, pi, mu = mdp.dynamics().numpy(), policy.numpy(), mdp.initial.numpy()
    states, actions, rewards, mask = (x.numpy() for x in batch[:4])
    step = np.einsum("sa,saxr->sx", pi, p) + np.diag(mdp.terminal.numpy().astype(float))
    for t in range(horizon + 1):
        at_t = np.bincount(states[:, t], probabilities.numpy(), minlength=mdp.n_states)
        assert at_t == pytest.approx(mu @ np.linalg.matrix_power(step, t), abs=1e-13)
    for t in range(horizon):
        live = np.where(mdp.terminal.numpy(), 0, mu @ np.linalg.matrix_power(step, t))
        taken, q = mask[:, t], probabilities.numpy()
        of_actions = np.bincount(actions[taken, t], q[taken], minlength=mdp.n_actions)
        assert of_actions == pytest.approx(live @ np.where(mdp.terminal.numpy()[:, None], 0, pi), abs=1e-13)
        places = np.searchsorted(mdp.rewards.numpy(), rewards[taken, t])
        of_rewards = np.bincount(places, q[taken], minlength=len(mdp.rewards))
        assert of_rewards == pytest.approx(np.einsum("s,sa,saxr->r", live, pi, p), abs=1e-13)


def assert_well_padded(batch: Trajectories, mdp: FiniteMDP, n: int, horizon: int) -> None:
    assert batch.states.shape == (n, horizon + 1)
    assert batch.actions.shape == batch.rewards.shape == batch.mask.shape == (n, horizon)
    assert batch.terminated.shape == batch.truncated.shape == (n,)
    assert batch.states.dtype == batch.actions.dtype == torch.int64
    assert batch.rewards.dtype == mdp.dtype
    assert all(x.is_contiguous() for x in batch)
    length = batch.lengths
    assert torch.equal(batch.mask, torch.arange(horizon) < length[:, None])
    assert not batch.actions[~batch.mask].any()
    assert not batch.rewards[~batch.mask].any()
    final = batch.states.gather(1, length[:, None])
    after = torch.arange(horizon + 1) >= length[:, None]
    assert torch.equal(batch.states[after], final.expand_as(batch.states)[after])
    assert not mdp.terminal[batch.states[:, :-1][batch.mask]].any()
    assert torch.equal(batch.terminated, mdp.terminal[final[:, 0]])
    assert torch.equal(batch.truncated, ~batch.terminated)
    assert (length[batch.truncated] == horizon).all()


@pytest.mark.equation("eq-trajectory")
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("horizon", [1, 2, 7])
@pytest.mark.parametrize("path", PATHS)
def test_the_padding_is_as_promised(name, horizon, path, monkeypatch):
    take(path, monkeypatch)
    mdp, _ = SMALL[name]
    policy = random_policy(mdp)
    assert_well_padded(sample_trajectories(mdp, policy, 40, horizon=horizon, generator=seeded()), mdp, 40, horizon)
    batch, probabilities = enumerate_trajectories(mdp, policy, horizon=min(horizon, 4))
    assert_well_padded(batch, mdp, len(probabilities), min(horizon, 4))


def test_an_episode_that_ends_with_its_last_step_is_terminated_and_not_truncated():
    mdp = gallery.short_corridor()
    policy = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
    for horizon, ends in ((2, False), (3, True), (4, True)):
        sampled = sample_trajectories(mdp, policy, 2, horizon=horizon)
        listed, _ = enumerate_trajectories(mdp, policy, horizon=horizon)
        for batch in (sampled, listed):
            assert batch.terminated.tolist() == [ends] * len(batch.states)
            assert batch.truncated.tolist() == [not ends] * len(batch.states)
            assert batch.lengths.tolist() == [min(3, horizon)] * len(batch.states)


def test_a_start_in_a_terminal_state_is_an_episode_without_steps():
    mdp = FiniteMDP.from_outcomes(
        [(0, 0, 1, 1.0, 1.0)], n_states=2, n_actions=1, initial=[0.25, 0.75], terminal=[1]
    )  # fmt: skip
    policy = torch.ones(2, 1, dtype=torch.float64)
    batch, probabilities = enumerate_trajectories(mdp, policy, horizon=2)
    assert batch.lengths.tolist() == [1, 0]
    assert probabilities.tolist() == [0.25, 0.75]
    assert batch.terminated.all()
    sampled = sample_trajectories(mdp, policy, 500, horizon=2, generator=seeded())
    assert_well_padded(sampled, mdp, 500, 2)
    assert set(sampled.lengths.tolist()) == {0, 1}


def test_an_mdp_of_terminal_states_has_only_empty_trajectories():
    mdp = FiniteMDP.from_outcomes([], n_states=2, n_actions=1, initial=[0.5, 0.5], terminal=[0, 1])
    policy = torch.ones(2, 1, dtype=torch.float64)
    assert sample_trajectories(mdp, policy, 3, horizon=2).lengths.tolist() == [0, 0, 0]
    batch, probabilities = enumerate_trajectories(mdp, policy, horizon=2)
    assert batch.lengths.tolist() == [0, 0]
    assert probabilities.tolist() == [0.5, 0.5]


def assert_frequencies(mdp: FiniteMDP, policy: torch.Tensor, horizon: int, seed: int, tests: int = 1) -> None:
    """Whole trajectories are sampled with their probabilities."""
    n = 20_000
    batch, probabilities = enumerate_trajectories(mdp, policy, horizon=horizon)
    sampled = sample_trajectories(mdp, policy, n, horizon=horizon, generator=seeded(seed))
    both = [torch.cat([x.states.double(), x.actions.double(), x.rewards], 1) for x in (batch, sampled)]
    rows, index = torch.unique(torch.cat(both), dim=0, return_inverse=True)
    assert len(rows) == len(probabilities)  # nothing was sampled that cannot happen
    counts = torch.bincount(index[len(probabilities) :], minlength=len(rows))[index[: len(probabilities)]]
    chance.assert_counts(counts, probabilities, n, tests)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", SMALL)
def test_sampled_frequencies_are_those_of_the_enumeration(name, path, monkeypatch):
    take(path, monkeypatch)
    mdp, horizon = SMALL[name]
    assert_frequencies(mdp, random_policy(mdp, 2), horizon, seed=1, tests=len(SMALL))


def test_sampled_frequencies_with_a_policy_for_each_time_are_those_of_the_enumeration():
    mdp = gallery.two_state_toy()
    tables = torch.stack([random_policy(mdp, seed) for seed in range(3)])
    assert_frequencies(mdp, tables, 3, seed=2)


def picked_by_kernel(mdp: FiniteMDP, policy: torch.Tensor, s: int, u: torch.Tensor) -> list[tuple]:
    """The action, the next state and the index of the reward that the compiled step draws in state s by each u."""
    walk = trajectories._CompiledWalk(mdp, torch.full((len(u),), s), 1)
    walk.follow(policy)
    walk.step(0, u)
    states, actions, rewards = walk.columns
    index = torch.searchsorted(mdp.rewards, rewards[:, 0])
    return list(zip(actions[:, 0].tolist(), states[:, 1].tolist(), index.tolist(), strict=True))


@pytest.mark.parametrize("n_buckets", ["one", "many", pytest.param("compiled", marks=needs_numba)])
@pytest.mark.parametrize("name", SMALL)
def test_every_uniform_number_picks_the_event_that_exact_arithmetic_picks(name, n_buckets):
    mdp, _ = SMALL[name]
    policy = random_policy(mdp, 3)
    policy[0, 0] += policy[0, 1:].sum()  # leaves actions of probability 0 in state 0
    policy[0, 1:] = 0
    events = trajectories._events(mdp, policy)
    if n_buckets == "many":
        events = trajectories._with_buckets(events, 10**6)
        assert (events.buckets > 1) == (events.longest > 1 or events.buckets > 1)
    p, rewards = mdp.dynamics().tolist(), len(mdp.rewards)
    o = mdp.outcomes
    for s in (~mdp.terminal).nonzero()[:, 0].tolist():
        total, edges, wanted = Fraction(0), [], []
        for a, s_next, r in itertools.product(range(mdp.n_actions), range(mdp.n_states), range(rewards)):
            q = Fraction(float(policy[s, a])) * Fraction(p[s][a][s_next][r])
            if q > 0:
                edges.append(total)
                wanted.append((a, s_next, r))
                total += q
        # In the middle of every interval, where rounding cannot matter, and at both ends of [0, 1).
        middles = [(low + high) / 2 for low, high in itertools.pairwise([*edges, total])]
        u = torch.tensor([*map(float, middles), 0.0, 1 - 2**-53], dtype=torch.float64)
        if n_buckets == "compiled":
            assert picked_by_kernel(mdp, policy, s, u) == [*wanted, wanted[0], wanted[-1]]
            continue
        k = events.outcome[events.draw(torch.full((len(u),), s), u)]
        picked = list(zip(*(x[k].tolist() for x in (o.action, o.next_state, o.reward_index)), strict=True))
        assert picked == [*wanted, wanted[0], wanted[-1]]
        assert o.state[k].tolist() == [s] * len(u)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 2**32 - 1), st.booleans())
def test_the_bisection_finds_what_a_linear_search_finds(sizes, seed, at_values):
    rng = np.random.default_rng(seed)
    rows = [np.sort(np.append(0.0, rng.integers(0, 16, k - 1) / 16)) for k in sizes]
    values = torch.from_numpy(np.concatenate(rows))
    ends = np.cumsum(sizes)
    row = rng.integers(0, len(sizes), 50)
    target = rng.integers(0, 16, 50) / 16 if at_values else rng.random(50)
    expected = [max(j for j in range(ends[i] - sizes[i], ends[i]) if values[j] <= x) for i, x in zip(row, target)]  # noqa: B905
    first, last = torch.from_numpy(ends - np.array(sizes))[row], torch.from_numpy(ends - 1)[row]
    found = trajectories._last_at_most(values, first, last, torch.from_numpy(target), max(sizes))
    assert found.tolist() == expected


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("largest", [0.0, 1 - 2**-53])
def test_extreme_uniform_numbers_never_draw_what_has_probability_zero(monkeypatch, largest, path):
    take(path, monkeypatch)
    monkeypatch.setattr(torch, "rand", lambda *size, generator, dtype, device: torch.full(size, largest, dtype=dtype))
    mdp = FiniteMDP.from_outcomes(
        [(1, 1, 1, 0.0, 0.1)] * 10 + [(1, 2, 2, 0.0, 1.0), (1, 0, 0, 0.0, 1.0), (1, 3, 3, 0.0, 1.0)],
        n_states=4,
        n_actions=4,
        initial=[0.0, 1.0, 0.0, 0.0],
        terminal=[0, 2, 3],
    )
    policy = torch.tensor([[0.0, 1.0, 0.0, 0.0]] * 4, dtype=torch.float64)
    batch = sample_trajectories(mdp, policy, 5, horizon=3)
    assert (batch.actions == 1).all()
    assert (batch.states == 1).all()


@pytest.mark.parametrize(("u", "expected"), [(0.0, 0), (0.1, 1), (0.25, 2), (0.95, 9), (1 - 2**-53, 9)])
def test_the_start_is_the_state_whose_interval_holds_the_uniform_number(u, expected):
    # Ten times 0.1 adds up to 1 - 2^-53, which is also the largest number that torch.rand returns.
    outcomes = [(s, 0, s, 0.0, 1.0) for s in range(10)]
    mdp = FiniteMDP.from_outcomes(outcomes, n_states=10, n_actions=1, initial=[0.1] * 10)
    assert trajectories._draw_starts(mdp, torch.tensor([u], dtype=torch.float64)).tolist() == [expected]


def test_the_distribution_functions_of_rows_of_any_length_are_right():
    mdp = FiniteMDP.from_outcomes(
        [(0, 0, k, 0.0, (k + 1) / 66) for k in range(11)]
        + [(k, 0, 0, 0.0, 1.0) for k in range(1, 11)]
        + [(3, 1, 0, 0.0, 0.5), (3, 1, 1, 0.0, 0.5)],
        n_states=11,
        n_actions=2,
        initial=0,
    )
    o = mdp.outcomes
    expected = [
        sum(float(q) for s, a, q in zip(o.state[:k], o.action[:k], o.probability[:k], strict=True) if (s, a) == row)
        for k, row in enumerate(zip(o.state, o.action, strict=True))
    ]
    assert mdp._left_edges.tolist() == pytest.approx(expected, abs=1e-15)


def test_the_same_generator_state_gives_the_same_trajectories():
    mdp = gallery.gridworld_4x4()
    policy = equiprobable_policy(mdp)
    one, same, other = (sample_trajectories(mdp, policy, 20, horizon=9, generator=seeded(s)) for s in (7, 7, 8))
    assert all(torch.equal(x, y) for x, y in zip(one, same, strict=True))
    assert not torch.equal(one.states, other.states)


def test_a_longer_horizon_extends_the_same_trajectories():
    mdp = gallery.gridworld_4x4()
    policy = equiprobable_policy(mdp)
    short, long = (sample_trajectories(mdp, policy, 20, horizon=h, generator=seeded(3)) for h in (4, 30))
    assert torch.equal(long.states[:, :5], short.states)
    assert torch.equal(long.actions[:, :4], short.actions)


def test_sampling_with_a_generator_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    sample_trajectories(
        gallery.recycling_robot(), random_policy(gallery.recycling_robot()), 5, horizon=3, generator=seeded()
    )
    assert torch.equal(before, torch.get_rng_state())
    sample_trajectories(gallery.recycling_robot(), random_policy(gallery.recycling_robot()), 5, horizon=3)
    assert not torch.equal(before, torch.get_rng_state())


def test_arguments_are_not_modified():
    mdp = gallery.student_mdp()
    policy = random_policy(mdp)
    copy = policy.clone()
    sample_trajectories(mdp, policy, 5, horizon=3)
    enumerate_trajectories(mdp, policy, horizon=3)
    assert torch.equal(policy, copy)


def test_the_rows_of_terminal_states_may_hold_anything():
    mdp = gallery.two_state_toy()
    policy = random_policy(mdp)
    broken = policy.clone()
    broken[2] = math.nan
    good, p_good = enumerate_trajectories(mdp, policy, horizon=3)
    bad, p_bad = enumerate_trajectories(mdp, broken, horizon=3)
    assert torch.equal(good.states, bad.states)
    assert torch.equal(p_good, p_bad)
    assert torch.equal(
        sample_trajectories(mdp, policy, 50, horizon=3, generator=seeded()).states,
        sample_trajectories(mdp, broken, 50, horizon=3, generator=seeded()).states,
    )


def test_a_float32_mdp_gives_float32_rewards_and_probabilities():
    mdp = gallery.two_state_toy(dtype=torch.float32)
    batch, probabilities = enumerate_trajectories(mdp, equiprobable_policy(mdp), horizon=3)
    assert batch.rewards.dtype == probabilities.dtype == torch.float32
    assert sample_trajectories(mdp, equiprobable_policy(mdp), 3, horizon=3).rewards.dtype == torch.float32


@pytest.mark.parametrize("name", SMALL)
def test_the_probability_of_given_trajectories_is_that_of_the_enumeration(name):
    mdp, horizon = SMALL[name]
    policy = random_policy(mdp)
    batch, probabilities = enumerate_trajectories(mdp, policy, horizon=horizon)
    assert trajectory_probabilities(mdp, policy, batch).tolist() == pytest.approx(probabilities.tolist(), abs=1e-15)
    other = random_policy(mdp, 5)
    expected = by_recursion(mdp, other, horizon)
    both = trajectory_probabilities(mdp, torch.stack([policy, other]), batch)
    assert both[1].tolist() == pytest.approx([expected[path] for path in as_tuples(batch)], abs=1e-15)


def test_a_trajectory_that_cannot_happen_has_probability_zero():
    mdp = gallery.two_state_toy()
    policy = random_policy(mdp)
    batch, _ = enumerate_trajectories(mdp, policy, horizon=2)
    wrong_reward = batch._replace(rewards=batch.rewards + 0.125)
    assert not trajectory_probabilities(mdp, policy, wrong_reward)[batch.lengths > 0].any()
    too_large = batch._replace(rewards=batch.rewards + 100.0)
    assert not trajectory_probabilities(mdp, policy, too_large).any()
    wrong_start = batch._replace(states=torch.cat([torch.full_like(batch.states[:, :1], 2), batch.states[:, 1:]], 1))
    assert not trajectory_probabilities(mdp, policy, wrong_start).any()
    # first -> end -> end with reward 3: nothing follows a terminal state, though "to end, reward 3" is an outcome.
    beyond = Trajectories(
        torch.tensor([[0, 2, 2]]), torch.tensor([[1, 1]]), torch.tensor([[-1.0, 3.0]], dtype=torch.float64),
        torch.tensor([[True, True]]), torch.tensor([True]), torch.tensor([False]),
    )  # fmt: skip
    assert trajectory_probabilities(mdp, torch.full((3, 2), 0.5, dtype=torch.float64), beyond).item() == 0.0
    # first -> first with reward 0: that next state and that reward exist, but not together.
    one_step = Trajectories(
        torch.tensor([[0, 0]]), torch.tensor([[0]]), torch.zeros(1, 1, dtype=torch.float64),
        torch.tensor([[True]]), torch.tensor([False]), torch.tensor([True]),
    )  # fmt: skip
    assert trajectory_probabilities(mdp, policy, one_step).item() == 0.0


def test_padding_may_hold_anything():
    mdp = gallery.two_state_toy()
    policy = random_policy(mdp)
    batch, probabilities = enumerate_trajectories(mdp, policy, horizon=3)
    padding = torch.cat([torch.zeros_like(batch.mask[:, :1]), ~batch.mask], 1)
    dirty = batch._replace(
        states=batch.states.masked_fill(padding & (torch.arange(4) > batch.lengths[:, None]), -7),
        actions=batch.actions.masked_fill(~batch.mask, 50_256),
        rewards=batch.rewards.masked_fill(~batch.mask, math.nan),
    )
    assert torch.equal(at_steps(policy, dirty), at_steps(policy, batch))
    assert trajectory_probabilities(mdp, policy, dirty).tolist() == pytest.approx(probabilities.tolist(), abs=1e-15)


def test_the_entries_at_steps_are_those_that_a_loop_reads():
    mdp = gallery.student_mdp()
    batch = sample_trajectories(mdp, random_policy(mdp), 12, horizon=6, generator=seeded())
    tables = torch.randn(2, 3, 5, 5, dtype=torch.float64, generator=seeded())
    tables[..., 4, :] = -math.inf
    result = at_steps(tables, batch)
    for i, j, n, t in itertools.product(range(2), range(3), range(12), range(6)):
        expected = tables[i, j, batch.states[n, t], batch.actions[n, t]] if batch.mask[n, t] else 0.0
        assert result[i, j, n, t] == expected


def test_a_nan_that_no_step_reads_reaches_neither_value_nor_gradient():
    mdp = gallery.two_state_toy()
    batch, _ = enumerate_trajectories(mdp, random_policy(mdp), horizon=3)
    table = torch.randn(3, 2, dtype=torch.float64, generator=seeded())
    table[2] = math.nan
    table.requires_grad_()
    total = at_steps(table, batch).sum()
    total.backward()
    assert total.isfinite()
    assert table.grad.isfinite().all()
    assert not table.grad[2].any()


def test_an_action_that_is_never_taken_leaves_nothing_behind_in_the_padding():
    # Whatever entry stands in for padding, it may be minus infinity: here each action of each state in turn.
    mdp = gallery.two_state_toy()
    for s, a in itertools.product(range(2), range(2)):
        policy = torch.full((3, 2), 0.5, dtype=torch.float64)
        policy[s, a], policy[s, 1 - a] = 0.0, 1.0
        batch, _ = enumerate_trajectories(mdp, policy, horizon=3)
        log_policy = policy.log().requires_grad_()
        total = at_steps(log_policy, batch).sum()
        total.backward()
        assert (~batch.mask).any()
        assert total.isfinite()
        assert log_policy.grad.isfinite().all()


def test_the_probabilities_have_the_gradients_of_central_differences():
    mdp, horizon = gallery.two_state_toy(), 3
    logits = torch.randn(3, 2, dtype=torch.float64, generator=seeded(), requires_grad=True)
    batch, _ = enumerate_trajectories(mdp, logits.softmax(-1).detach(), horizon=horizon)
    assert torch.autograd.gradcheck(lambda x: enumerate_trajectories(mdp, x.softmax(-1), horizon=horizon)[1], logits)
    assert torch.autograd.gradcheck(lambda x: trajectory_probabilities(mdp, x.softmax(-1), batch), logits)
    assert torch.autograd.gradgradcheck(lambda x: trajectory_probabilities(mdp, x.softmax(-1), batch), logits)


def test_the_gradient_of_a_probability_is_itself_times_the_sum_of_scores():
    # ∇ Pr(τ) = Pr(τ) Σ_t ∇ log π(A_t|S_t), with the score of a softmax table, 1{a = A_t} - π(a|S_t), written out.
    mdp = gallery.two_state_toy()
    logits = torch.randn(3, 2, dtype=torch.float64, generator=seeded(), requires_grad=True)
    policy = logits.softmax(-1)
    batch, probabilities = enumerate_trajectories(mdp, policy, horizon=2)
    pi = policy.detach().numpy()
    values = probabilities.tolist()
    for n in range(len(probabilities)):
        (gradient,) = torch.autograd.grad(probabilities[n], logits, retain_graph=True)
        expected = np.zeros((3, 2))
        for t in range(int(batch.lengths[n])):
            s, a = int(batch.states[n, t]), int(batch.actions[n, t])
            expected[s] += np.eye(2)[a] - pi[s]
        assert gradient.numpy() == pytest.approx(values[n] * expected, abs=1e-15)


def test_probabilities_work_under_the_transforms_of_torch_func():
    mdp = gallery.two_state_toy()
    policy = random_policy(mdp)
    batch, _ = enumerate_trajectories(mdp, policy, horizon=3)
    policies = torch.stack([random_policy(mdp, s) for s in range(4)])
    one_by_one = torch.stack([trajectory_probabilities(mdp, x, batch) for x in policies])
    together = torch.func.vmap(lambda x: trajectory_probabilities(mdp, x, batch))(policies)
    assert_same_up_to_rounding(together, one_by_one, ulps=8)  # products of at most seven factors

    def mean_reward(x):
        return (trajectory_probabilities(mdp, x, batch) * batch.rewards.sum(-1)).sum()

    by_func = torch.func.grad(mean_reward)(policy)
    leaf = policy.clone().requires_grad_()
    mean_reward(leaf).backward()
    assert by_func == pytest.approx(leaf.grad, abs=1e-14)
    assert torch.func.jacrev(lambda x: at_steps(x, batch))(policy).shape == (*batch.mask.shape, 3, 2)
    by_enumeration = torch.func.grad(
        lambda x: (enumerate_trajectories(mdp, x, horizon=3)[1] * batch.rewards.sum(-1)).sum()
    )(policy)
    assert by_enumeration == pytest.approx(leaf.grad, abs=1e-14)


def test_at_steps_compiles_in_one_piece():
    mdp = gallery.two_state_toy()
    policy = random_policy(mdp)
    batch, _ = enumerate_trajectories(mdp, policy, horizon=3)
    compiled = torch.compile(at_steps, fullgraph=True, backend="eager")
    assert torch.equal(compiled(policy, batch), at_steps(policy, batch))


def test_frozen_lake_ends_where_its_map_says():
    pytest.importorskip("gymnasium")
    mdp = FiniteMDP.from_gymnasium("FrozenLake-v1")
    batch = sample_trajectories(mdp, equiprobable_policy(mdp), 3000, horizon=60, generator=seeded())
    assert_well_padded(batch, mdp, 3000, 60)
    layout = "SFFFFHFHFFFHHFFG"
    ends = batch.states[batch.terminated, -1].tolist()
    assert {layout[s] for s in ends} == {"H", "G"}
    reached = [layout[s] == "G" for s in batch.states[:, -1].tolist()]
    assert torch.equal(batch.rewards.sum(-1), torch.tensor(reached, dtype=torch.float64))
    # Reaching the goal has the probability that powers of the transition matrix give.
    step = np.einsum("sa,sax->sx", equiprobable_policy(mdp).numpy(), mdp.transitions().numpy())
    step += np.diag(mdp.terminal.numpy().astype(float))
    exact = np.linalg.matrix_power(step, 60)[0, 15]
    chance.assert_counts(sum(reached), exact, 3000)


def test_gymnasium_steps_through_the_sampled_rewards():
    pytest.importorskip("gymnasium")
    mdp = gallery.short_corridor()
    batch = sample_trajectories(mdp, equiprobable_policy(mdp), 1, horizon=8, generator=seeded())
    env = mdp.to_gymnasium(horizon=8)
    state, _ = env.reset(seed=0)
    for t in range(int(batch.lengths[0])):
        assert state == batch.states[0, t]
        state, reward, terminated, truncated, _ = env.step(int(batch.actions[0, t]))
        assert reward == batch.rewards[0, t]
    assert (terminated, truncated) == (bool(batch.terminated[0]), bool(batch.truncated[0]))


@pytest.mark.parametrize("n_actions", [2, 3])
def test_the_error_about_too_many_trajectories_counts_them_exactly(n_actions):
    mdp = gallery.bandit([0.0] * n_actions, spread=1.0)  # 2 · n_actions trajectories, whatever the horizon
    with pytest.raises(ValueError, match=rf"there are {2 * n_actions} trajectories of up to 3,000,000 steps"):
        enumerate_trajectories(mdp, equiprobable_policy(mdp), horizon=3_000_000)


@pytest.mark.parametrize("name", ["toy", "robot", "garnet", "gambler"])
def test_the_count_is_the_number_of_trajectories(name, monkeypatch):
    mdp, horizon = SMALL[name]
    policy = random_policy(mdp)
    number = len(by_recursion(mdp, policy, horizon))
    monkeypatch.setattr(trajectories, "ENUMERATION_LIMIT", number * horizon)
    assert len(enumerate_trajectories(mdp, policy, horizon=horizon)[1]) == number
    monkeypatch.setattr(trajectories, "ENUMERATION_LIMIT", number * horizon - 1)
    with pytest.raises(ValueError, match=f"there are {number:,} trajectories of up to {horizon} steps"):
        enumerate_trajectories(mdp, policy, horizon=horizon)


ROBOT = gallery.recycling_robot()
EVEN = equiprobable_policy(ROBOT)


def coins(dtype):
    """Two coins are tossed at every step, without end: 4^T trajectories; and the only policy."""
    tosses = [(0, 0, 0, float(heads), 0.25) for heads in range(4)]
    columns = [torch.tensor(column) for column in zip(*tosses, strict=True)]
    columns[3:] = (column.to(dtype) for column in columns[3:])
    mdp = FiniteMDP.from_outcomes(columns, n_states=1, n_actions=1, initial=0)
    return mdp, equiprobable_policy(mdp)


def changed(s: int, a: int, value: float) -> torch.Tensor:
    policy = EVEN.clone()
    policy[s, a] = value
    return policy


BAD = {
    "n below 1": (lambda: sample_trajectories(ROBOT, EVEN, 0, horizon=2), ValueError, "n must be at least 1, not 0"),
    "n no integer": (lambda: sample_trajectories(ROBOT, EVEN, 2.5, horizon=2), TypeError, "n must be an integer"),
    "horizon below 1": (
        lambda: sample_trajectories(ROBOT, EVEN, 2, horizon=0),
        ValueError,
        "horizon must be at least 1, not 0",
    ),
    "horizon below 1 in an enumeration": (
        lambda: enumerate_trajectories(ROBOT, EVEN, horizon=-1),
        ValueError,
        "horizon must be at least 1, not -1",
    ),
    "horizon no integer": (
        lambda: enumerate_trajectories(ROBOT, EVEN, horizon=True),
        TypeError,
        "horizon must be an integer",
    ),
    "policy that does not sum to 1": (
        lambda: sample_trajectories(ROBOT, changed(1, 2, 0.0), 2, horizon=2),
        ValueError,
        r"policy sums to 0\.66\d+ at s=1, not 1",
    ),
    "policy with mass outside A(s)": (
        lambda: sample_trajectories(ROBOT, changed(0, 2, 0.5), 2, horizon=2),
        ValueError,
        r"policy is 0\.5 at s=0, a=2, where the action is not available",
    ),
    "negative policy": (
        lambda: enumerate_trajectories(ROBOT, changed(1, 0, -0.5), horizon=2),
        ValueError,
        r"policy is -0\.5 at s=1, a=0, not a probability",
    ),
    "policy that is NaN": (
        lambda: enumerate_trajectories(ROBOT, changed(0, 1, math.nan), horizon=2),
        ValueError,
        "policy is nan at s=0, a=1, not a probability",
    ),
    "policy of another dtype": (
        lambda: sample_trajectories(ROBOT, EVEN.float(), 2, horizon=2),
        TypeError,
        "policy is torch.float32 but mdp is torch.float64",
    ),
    "policy of integers": (
        lambda: sample_trajectories(ROBOT, EVEN.long(), 2, horizon=2),
        TypeError,
        "policy must hold floating-point numbers",
    ),
    "policy of the wrong shape": (
        lambda: enumerate_trajectories(ROBOT, EVEN[:, :2], horizon=2),
        ValueError,
        r"policy has shape \[2, 2\], expected \[..., 2, 3\]",
    ),
    "policies for too few times": (
        lambda: sample_trajectories(ROBOT, EVEN.expand(2, 2, 3), 2, horizon=3),
        ValueError,
        r"policy has shape \[2, 2, 3\], expected \[2, 3\] or \[3, 2, 3\]",
    ),
    "a batch of policies": (
        lambda: enumerate_trajectories(ROBOT, EVEN.expand(4, 2, 2, 3), horizon=2),
        ValueError,
        r"policy has shape \[4, 2, 2, 3\]",
    ),
    "too many trajectories": (
        lambda: enumerate_trajectories(ROBOT, EVEN, horizon=60),
        ValueError,
        r"trajectories of up to 60 steps \(.* GiB\), more than 10,000,000 steps in all",
    ),
    "1,048,576 trajectories": (  # of 11 integers for states, 10 for actions, 10 rewards, ends, and a probability
        lambda: enumerate_trajectories(*coins(torch.float32), horizon=10),
        ValueError,
        rf"there are 1,048,576 trajectories of up to 10 steps \({(21 * 8 + 10 * (4 + 1) + 2 + 4) / 1024:.3g} GiB\)",
    ),
    "trajectories up to 2^53, all digits": (
        lambda: enumerate_trajectories(*coins(torch.float32), horizon=26),
        ValueError,
        "there are 4,503,599,627,370,496 trajectories of up to 26 steps",
    ),
    "trajectories beyond 2^53": (
        lambda: enumerate_trajectories(*coins(torch.float32), horizon=27),
        ValueError,
        r"there are about 1.8e\+16 trajectories of up to 27 steps",
    ),
    "more trajectories than a float can count": (
        lambda: enumerate_trajectories(ROBOT, EVEN, horizon=10_000),
        ValueError,
        "more than 1e.308 trajectories of up to 10,000 steps",
    ),
    "a table without axes": (
        lambda: at_steps(torch.zeros(3), sample_trajectories(ROBOT, EVEN, 1, horizon=1)),
        ValueError,
        r"table has shape \[3\], expected \[..., S, A\]",
    ),
    "a table of integers": (
        lambda: at_steps(EVEN.long(), sample_trajectories(ROBOT, EVEN, 1, horizon=1)),
        TypeError,
        "table must hold floating-point numbers",
    ),
    "a state out of range": (
        lambda: trajectory_probabilities(
            ROBOT, EVEN, sample_trajectories(ROBOT, EVEN, 1, horizon=1)._replace(states=torch.tensor([[0, 2]]))
        ),
        ValueError,
        r"trajectories.states is 2 at n=0, t=1, not in 0\.\.1",
    ),
    "an action out of range": (
        lambda: trajectory_probabilities(
            ROBOT, EVEN, sample_trajectories(ROBOT, EVEN, 1, horizon=1)._replace(actions=torch.tensor([[-1]]))
        ),
        ValueError,
        r"trajectories.actions is -1 at n=0, t=0, not in 0\.\.2",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_argument_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_generator_on_another_device_is_named():
    class Elsewhere(torch.Generator):
        device = torch.device("cuda")

    with pytest.raises(ValueError, match="generator is on cuda but mdp is on cpu"):
        sample_trajectories(ROBOT, EVEN, 1, horizon=1, generator=Elsewhere())


INTEGER_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_states_and_actions_may_have_any_integer_dtype(dtype):
    batch = sample_trajectories(ROBOT, EVEN, 5, horizon=4, generator=seeded())
    narrow = batch._replace(states=batch.states.to(dtype), actions=batch.actions.to(dtype))
    expected = [
        [float(EVEN[s, a]) for s, a in zip(states, actions, strict=True)]
        for states, actions in zip(batch.states[:, :-1].tolist(), batch.actions.tolist(), strict=True)
    ]
    assert at_steps(EVEN, narrow).tolist() == expected
    assert torch.equal(trajectory_probabilities(ROBOT, EVEN, narrow), trajectory_probabilities(ROBOT, EVEN, batch))


@pytest.mark.parametrize(("field", "number"), [("states", -1), ("states", 2), ("actions", -1), ("actions", 3)])
def test_an_entry_that_a_table_does_not_have_is_named_and_never_wraps(field, number):
    batch = sample_trajectories(ROBOT, EVEN, 1, horizon=1, generator=seeded())
    column = getattr(batch, field).clone()
    column[0, 0] = number
    with pytest.raises(ValueError, match=rf"trajectories.{field} is {number} at n=0, t=0, not in 0\.\."):
        at_steps(EVEN, batch._replace(**{field: column}))


def test_rewards_of_another_dtype_are_refused_and_not_called_impossible():
    batch = sample_trajectories(ROBOT, EVEN, 1, horizon=1, generator=seeded())
    with pytest.raises(TypeError, match=r"trajectories.rewards is torch.float32 but mdp is torch.float64"):
        trajectory_probabilities(ROBOT, EVEN, batch._replace(rewards=batch.rewards.float()))


def test_a_horizon_that_is_never_reached_costs_nothing():
    # 2 x 10^10 steps, if they were padded. The walk takes 9 steps on average.
    walk = gallery.random_walk()
    batch = sample_trajectories(walk, equiprobable_policy(walk), 20_000, horizon=10**6, generator=seeded())
    short = sample_trajectories(walk, equiprobable_policy(walk), 20_000, horizon=1000, generator=seeded())
    longest = int(short.lengths.max())
    assert batch.actions.shape == (20_000, longest)
    assert batch.states.shape == (20_000, longest + 1)
    assert torch.equal(batch.states, short.states[:, : longest + 1])
    assert torch.equal(batch.rewards, short.rewards[:, :longest])


def test_trajectories_that_outgrow_their_first_room_go_on(monkeypatch):
    expected = sample_trajectories(ROBOT, EVEN, 7, horizon=50, generator=seeded())
    monkeypatch.setattr(trajectories, "ROOM_AT_FIRST", 3)
    monkeypatch.setattr(trajectories, "PADDING_LIMIT", 0)
    found = sample_trajectories(ROBOT, EVEN, 7, horizon=50, generator=seeded())
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


# --- compiled against plain


def on_both_paths(monkeypatch, mdp, policy, n, horizon) -> tuple[Trajectories, Trajectories]:
    """The same draws on either path; both leave the generator in the same state."""
    found, generators = [], [seeded(5), seeded(5)]
    for path, generator in zip(("plain", "compiled"), generators, strict=True):
        take(path, monkeypatch)
        found.append(sample_trajectories(mdp, policy, n, horizon=horizon, generator=generator))
    assert torch.equal(*(generator.get_state() for generator in generators))
    return found[0], found[1]


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("room", ["padded", "growing"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", [*SMALL, "ends at once"])
def test_compiled_and_plain_draw_the_same_trajectories(name, threads, room, dtype, monkeypatch):
    mdp = ENDS_AT_ONCE if name == "ends at once" else SMALL[name][0]
    mdp = mdp.to(dtype=dtype)
    policy = random_policy(mdp, 4)
    policy[0, 0] += policy[0, 1:].sum()  # leaves actions of probability 0 in state 0
    policy[0, 1:] = 0
    monkeypatch.setattr(trajectories, "ROOM_AT_FIRST", 2)
    monkeypatch.setattr(trajectories, "PADDING_LIMIT", 10**6 if room == "padded" else 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    plain, compiled = on_both_paths(monkeypatch, mdp, policy, 61, 9)
    torch.set_num_threads(before)
    for x, y in zip(plain, compiled, strict=True):
        assert x.dtype == y.dtype
        assert x.is_contiguous()
        assert y.is_contiguous()
        assert torch.equal(x, y)


@needs_numba
def test_compiled_and_plain_follow_the_policy_of_each_time(monkeypatch):
    mdp = gallery.gridworld_4x4()
    tables = torch.stack([random_policy(mdp, seed) for seed in range(5)]).transpose(1, 2).contiguous().transpose(1, 2)
    plain, compiled = on_both_paths(monkeypatch, mdp, tables, 40, 5)
    assert all(torch.equal(x, y) for x, y in zip(plain, compiled, strict=True))


@needs_numba
def test_only_large_samples_are_compiled(monkeypatch):
    monkeypatch.setenv("PGTHEORY_FAST", "1")
    monkeypatch.setattr(trajectories._CompiledWalk, "__init__", lambda *_: pytest.fail("compiled"))
    sample_trajectories(ROBOT, EVEN, 2, horizon=trajectories.LEAST // 2 - 1, generator=seeded())
    half = ROBOT.to(dtype=torch.float16)
    sample_trajectories(half, EVEN.half(), trajectories.LEAST, horizon=1, generator=seeded())
    with pytest.raises(pytest.fail.Exception, match="compiled"):
        sample_trajectories(ROBOT, EVEN, 2, horizon=trajectories.LEAST // 2, generator=seeded())


def test_sampled_rewards_have_the_gradient_of_the_rewards_that_were_drawn():
    values = torch.tensor([-1.0, 2.0], dtype=torch.float64, requires_grad=True)
    toy = FiniteMDP.from_table(torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64), [-1.0, 2.0], initial=0)
    mdp = replace(toy, rewards=values)
    one = torch.ones(1, 1, dtype=torch.float64)
    batch = sample_trajectories(mdp, one, trajectories.LEAST, horizon=2, generator=seeded())
    batch.rewards.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [float((batch.rewards == r).sum()) for r in (-1.0, 2.0)]
