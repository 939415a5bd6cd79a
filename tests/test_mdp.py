"""Chapter 1: the finite MDP. Oracles: tables typed by hand, Gymnasium's own tables, sums and NumPy."""

import copy
import pickle
from dataclasses import replace

import chance
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from helpers import F64, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from pgtheory import gallery
from pgtheory.mdp import DENSE_LIMIT, FiniteMDP, check_policy, equiprobable_policy

TOY_TEXT = ["FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "Taxi-v4"]

# A coin tossed until it shows heads, each toss costs 1; state 1 has a second action that gives up at once.
COIN = [(0, 0, 0, -1.0, 0.5), (0, 0, 1, -1.0, 0.25), (0, 0, 2, 3.0, 0.25), (1, 0, 0, -1.0, 1.0), (1, 1, 2, -2.0, 1.0)]


def coin(**changes):
    arguments = {"outcomes": COIN, "n_states": 3, "n_actions": 2, "initial": 0, "terminal": [2]} | changes
    return FiniteMDP.from_outcomes(arguments.pop("outcomes"), **arguments)


def stored(**columns):
    return replace(coin(), outcomes=coin().outcomes._replace(**columns))


def random_table(seed, n_states=5, n_actions=3, n_rewards=4):
    """A dense table with unavailable actions and a last state that is terminal."""
    generator = seeded(seed)
    p = torch.rand(n_states, n_actions, n_states, n_rewards, dtype=F64, generator=generator)
    p = p * (torch.rand(p.shape, generator=generator) < 0.4)
    p[..., 0, 0] += 0.1
    p[1:, 1] = 0
    p[-1] = 0
    total = p.sum((-1, -2), keepdim=True)
    return torch.where(total > 0, p / total.clamp(min=1e-300), p)


# --- the dynamics ---


def test_the_dynamics_are_the_probabilities_that_were_given():
    mdp = coin()
    p = np.zeros((3, 2, 3, 3))
    rewards = [-2.0, -1.0, 3.0]
    for s, a, s_next, r, probability in COIN:
        p[s, a, s_next, rewards.index(r)] = probability
    assert mdp.rewards.tolist() == rewards
    np.testing.assert_array_equal(mdp.dynamics().numpy(), p)
    np.testing.assert_array_equal(mdp.transitions().numpy(), p.sum(3))
    np.testing.assert_array_equal(mdp.expected_rewards().numpy(), (p * rewards).sum((2, 3)))
    assert mdp.available.tolist() == [[True, False], [True, True], [False, False]]
    assert mdp.initial.tolist() == [1, 0, 0]
    assert mdp.terminal.tolist() == [False, False, True]


def test_equal_outcomes_are_merged_and_impossible_ones_left_out():
    mdp = FiniteMDP.from_outcomes(
        [(0, 0, 1, 1.0, 0.25), (0, 0, 0, 7.0, 0.0), (0, 0, 1, 1.0, 0.25), (0, 0, 1, 2.0, 0.5)],
        n_states=2,
        n_actions=1,
        initial=0,
        terminal=[1],
    )
    assert mdp.rewards.tolist() == [1.0, 2.0]
    assert mdp.outcomes.probability.tolist() == [0.5, 0.5]
    assert mdp.outcomes.reward_index.tolist() == [0, 1]


def test_outcomes_are_sorted_whatever_order_they_come_in():
    table = coin().outcomes
    shuffled = coin(outcomes=[COIN[i] for i in (3, 0, 4, 2, 1)]).outcomes
    assert all(torch.equal(a, b) for a, b in zip(table, shuffled, strict=True))
    keys = list(zip(*(t.tolist() for t in table[:4]), strict=True))
    assert keys == sorted(keys)


def test_outcomes_as_tuples_columns_matrix_or_array_are_the_same_mdp():
    matrix = torch.tensor(COIN, dtype=F64)
    s, a, s_next, r, p = matrix.unbind(1)
    forms = [
        coin(),
        coin(outcomes=matrix),
        coin(outcomes=matrix.numpy()),
        coin(outcomes=(s.long(), a.long(), s_next.long(), r, p)),
        coin(outcomes=iter(COIN)),
    ]
    for mdp in forms:
        assert torch.equal(mdp.dynamics(), forms[0].dynamics())
        assert mdp.dtype == F64


@pytest.mark.equation("eq-dynamics", "eq-dynamics-normalised")
@given(st.integers(0, 10_000))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_from_table_and_dynamics_are_inverse(seed):
    p = random_table(seed)
    mdp = FiniteMDP.from_table(p, [-1.0, 0.0, 0.5, 2.0], initial=0, terminal=[4])
    assert torch.equal(mdp.dynamics(), p)  # each probability is stored and placed, not computed
    torch.testing.assert_close(mdp.transitions(), p.sum(-1), rtol=0, atol=1e-15)
    total = mdp.dynamics().sum((-1, -2))
    assert torch.allclose(total, torch.as_tensor(mdp.available).double(), atol=1e-12)


def test_from_table_sorts_the_rewards_and_adds_up_equal_ones():
    p = torch.zeros(2, 1, 2, 3, dtype=F64)
    p[0, 0, 1] = torch.tensor([0.5, 0.25, 0.25])
    mdp = FiniteMDP.from_table(p, [3.0, -1.0, 3.0], initial=0, terminal=[1])
    assert mdp.rewards.tolist() == [-1.0, 3.0]
    assert mdp.dynamics()[0, 0, 1].tolist() == [0.25, 0.75]


def test_a_reward_that_never_happens_stays_in_the_reward_set_of_a_table():
    p = torch.zeros(2, 1, 2, 2, dtype=F64)
    p[0, 0, 1, 0] = 1
    mdp = FiniteMDP.from_table(p, [1.0, 9.0], initial=0, terminal=[1])
    assert mdp.rewards.tolist() == [1.0, 9.0]
    assert torch.equal(mdp.dynamics(), p)


@pytest.mark.equation("eq-transitions", "eq-expected-rewards")
@given(st.integers(0, 10_000))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_from_transitions_keeps_p_and_the_expected_reward(seed):
    P = random_table(seed).sum(-1)
    generator = seeded(seed)
    r3 = torch.randn(P.shape, dtype=F64, generator=generator)
    by_arrival = FiniteMDP.from_transitions(P, r3, initial=0, terminal=[4])
    torch.testing.assert_close(by_arrival.transitions(), P, rtol=0, atol=1e-15)
    torch.testing.assert_close(by_arrival.expected_rewards(), (P * r3).sum(-1), rtol=0, atol=1e-14)
    r2 = r3[..., 0]
    by_action = FiniteMDP.from_transitions(P, r2, initial=0, terminal=[4])
    expected = torch.where(P.sum(-1) > 0, r2, 0.0)
    torch.testing.assert_close(by_action.expected_rewards(), expected, rtol=0, atol=1e-14)


def test_rows_of_terminal_states_in_a_table_are_not_read():
    P = torch.tensor([[[0.0, 1.0]], [[float("nan"), -7.0]]], dtype=F64)
    mdp = FiniteMDP.from_transitions(P, torch.full((2, 1), 5.0, dtype=F64), initial=0, terminal=[1])
    assert mdp.transitions().tolist() == [[[0.0, 1.0]], [[0.0, 0.0]]]


def test_a_terminal_state_may_be_written_as_a_self_loop_of_reward_zero():
    assert torch.equal(coin(outcomes=[*COIN, (2, 0, 2, 0.0, 1.0)]).dynamics(), coin().dynamics())
    assert coin(outcomes=[*COIN, (2, 0, 2, 0.0, 1.0)]).rewards.tolist() == [-2.0, -1.0, 3.0]


@pytest.mark.parametrize("terminal", [[2], torch.tensor([2]), torch.tensor([False, False, True]), np.array([2])])
def test_terminal_states_are_a_mask_or_indices(terminal):
    assert coin(terminal=terminal).terminal.tolist() == [False, False, True]


def test_the_start_may_be_a_state_or_a_distribution():
    assert coin(initial=1).initial.tolist() == [0, 1, 0]
    assert coin(initial=[0.25, 0.75, 0.0]).initial.tolist() == [0.25, 0.75, 0]
    assert coin(initial=torch.tensor([0.25, 0.75, 0.0])).initial.dtype == F64


def test_dtype_and_device_of_the_table_are_kept_and_to_changes_them():
    p = random_table(0).float()
    mdp = FiniteMDP.from_table(p, [0.0, 1.0, 2.0, 3.0], initial=0, terminal=[4])
    assert {mdp.dtype, mdp.initial.dtype, mdp.dynamics().dtype, mdp.expected_rewards().dtype} == {torch.float32}
    wide = mdp.to(dtype=F64)
    assert wide.dtype == wide.initial.dtype == wide.outcomes.probability.dtype == F64
    assert wide.outcomes.state.dtype == torch.int64
    assert mdp.dtype == torch.float32
    assert mdp.to(device="meta").device.type == "meta"


def test_later_changes_to_the_arguments_do_not_reach_the_mdp():
    p, rewards, initial = random_table(1), torch.arange(4, dtype=F64), torch.tensor([1.0, 0, 0, 0, 0], dtype=F64)
    terminal = torch.tensor([False, False, False, False, True])
    mdp = FiniteMDP.from_table(p, rewards, initial=initial, terminal=terminal)
    before = mdp.dynamics()
    for tensor in (p, rewards, initial, terminal):
        tensor.zero_()
    assert torch.equal(mdp.dynamics(), before)
    assert mdp.rewards.tolist() == [0, 1, 2, 3]
    assert mdp.initial[0] == 1
    assert mdp.terminal[4]


def test_an_mdp_survives_copying_and_pickling():
    for again in (copy.deepcopy(coin()), pickle.loads(pickle.dumps(coin()))):
        assert torch.equal(again.dynamics(), coin().dynamics())
        assert torch.equal(again.available.terminal, coin().terminal)


def test_a_million_states_fit_and_their_dense_table_is_refused():
    n = 1_000_000
    s = torch.arange(n).repeat_interleave(2)
    a = torch.arange(2).repeat(n)
    p = torch.ones(2 * n, dtype=F64)
    mdp = FiniteMDP.from_outcomes((s, a, (s + a + 1) % n, -p, p), n_states=n, n_actions=2, initial=0)
    assert len(mdp.outcomes.state) == 2 * n
    assert mdp.expected_rewards().shape == (n, 2)
    with pytest.raises(ValueError, match=r"transitions\(\) would hold 1,000,000 x 2 x 1,000,000 numbers .*outcomes"):
        mdp.transitions()
    with pytest.raises(ValueError, match=r"dynamics\(\) would hold .* GiB"):
        mdp.dynamics()
    assert n * 2 * n > DENSE_LIMIT


def test_the_repr_says_how_large_the_mdp_is():
    assert repr(coin()) == "FiniteMDP(3 states (1 terminal), 2 actions, 3 rewards, 5 outcomes)"
    sure = FiniteMDP.from_outcomes([(0, 0, 1, 0.0, 1.0)], n_states=2, n_actions=1, initial=0, terminal=[1])
    assert repr(sure) == "FiniteMDP(2 states (1 terminal), 1 action, 1 reward, 1 outcome)"


def test_a_table_of_many_states_is_read():
    ring = FiniteMDP.from_transitions(
        torch.eye(300, dtype=F64).roll(1, 1)[:, None], torch.zeros(300, 1, dtype=F64), initial=0
    )
    assert torch.equal(ring.outcomes.next_state, (torch.arange(300) + 1) % 300)


# --- the action mask and policies ---


def test_the_mask_of_terminal_states_is_empty_and_marked():
    mask = coin().available
    assert type(mask) is torch.Tensor
    assert mask.dtype == torch.bool
    assert not mask[2].any()
    assert mask.terminal.tolist() == [False, False, True]
    assert not hasattr(mask[2], "terminal")
    assert not hasattr(mask & mask, "terminal")


@pytest.mark.equation("eq-policy")
def test_the_equiprobable_policy_is_uniform_over_the_available_actions():
    policy = equiprobable_policy(coin())
    assert policy.tolist() == [[1, 0], [0.5, 0.5], [0, 0]]
    assert type(policy) is torch.Tensor
    check_policy(coin(), policy)


def test_a_policy_may_hold_anything_in_terminal_rows_and_any_batch_shape():
    policy = equiprobable_policy(coin())
    policy[2] = float("nan")
    check_policy(coin(), policy)
    check_policy(coin(), policy.expand(4, 5, 3, 2))


# --- Gymnasium ---


@pytest.mark.parametrize("name", TOY_TEXT)
def test_from_gymnasium_is_the_table_of_the_environment(name):
    env = gymnasium.make(name).unwrapped
    mdp = FiniteMDP.from_gymnasium(name)
    assert mdp.n_states - env.observation_space.n in (0, 1)
    transitions, rewards = mdp.transitions().numpy(), mdp.expected_rewards().numpy()
    for s, actions in env.P.items():
        if mdp.terminal[s]:
            continue
        for a, outcomes in actions.items():
            row, ended = np.zeros(mdp.n_states), 0.0
            for p, s_next, _, terminated in outcomes:
                ended += p * terminated
                if not terminated or mdp.terminal[s_next]:
                    row[s_next] += p
                else:
                    row[-1] += p
            np.testing.assert_allclose(transitions[s, a], row, atol=1e-15)
            # the episode ends exactly when the table says so
            np.testing.assert_allclose(transitions[s, a, mdp.terminal.numpy()].sum(), ended, atol=1e-15)
            np.testing.assert_allclose(rewards[s, a], sum(o[0] * o[2] for o in outcomes), atol=1e-13)
    np.testing.assert_allclose(mdp.initial.numpy()[: env.observation_space.n], env.initial_state_distrib)


def test_frozen_lake_keeps_its_states_and_taxi_gets_one_absorbing_state():
    lake = FiniteMDP.from_gymnasium("FrozenLake-v1")
    assert lake.terminal.nonzero()[:, 0].tolist() == [5, 7, 11, 12, 15]  # the holes and the goal of SFFF FHFH FFFH HFFG
    taxi = FiniteMDP.from_gymnasium("Taxi-v4")
    assert taxi.n_states == 501
    assert taxi.terminal.nonzero()[:, 0].tolist() == [500]
    assert taxi.rewards.tolist() == [-10, -1, 20]
    cliff = FiniteMDP.from_gymnasium("CliffWalking-v1")
    assert cliff.n_states == 48
    assert cliff.terminal.nonzero()[:, 0].tolist() == [47]


def test_an_environment_object_and_a_start_of_ones_own_are_accepted():
    env = gymnasium.make("FrozenLake-v1", is_slippery=False)
    mdp = FiniteMDP.from_gymnasium(env, initial=14)
    assert mdp.initial[14] == 1
    assert mdp.transitions()[14, 2, 15] == 1


class TableEnv(gymnasium.Env):
    """Two states and one action, by the table alone."""

    def __init__(self, table, start):
        self.observation_space = gymnasium.spaces.Discrete(2)
        self.action_space = gymnasium.spaces.Discrete(1)
        self.P, self.initial_state_distrib = table, start


def test_a_terminal_state_may_loop_without_the_flag():
    env = TableEnv({0: {0: [(1.0, 1, 5.0, True)]}, 1: {0: [(1.0, 1, 0.0, False)]}}, [1.0, 0.0])
    mdp = FiniteMDP.from_gymnasium(env)
    assert mdp.terminal.tolist() == [False, True]


def test_a_start_state_is_not_terminal_even_if_every_episode_ends_there():
    env = TableEnv({0: {0: [(1.0, 1, 5.0, True)]}, 1: {0: [(1.0, 0, 2.0, False)]}}, [0.5, 0.5])
    mdp = FiniteMDP.from_gymnasium(env)
    assert mdp.terminal.tolist() == [False, False, True]
    assert mdp.transitions()[:, 0].tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]


@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes")
@pytest.mark.parametrize("name", TOY_TEXT)
def test_to_gymnasium_passes_the_checker_and_comes_back_as_the_same_mdp(name):
    mdp = FiniteMDP.from_gymnasium(name)
    env = mdp.to_gymnasium(horizon=50)
    check_env(env)
    again = FiniteMDP.from_gymnasium(env)  # its outcomes were merged before: there is nothing left to add up
    assert all(torch.equal(a, b) for a, b in zip(mdp.outcomes, again.outcomes, strict=True))
    assert torch.equal(mdp.terminal, again.terminal)
    assert torch.equal(mdp.initial, again.initial)


@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes")
def test_to_gymnasium_offers_only_available_actions():
    mdp = gallery.recycling_robot()
    env = mdp.to_gymnasium()
    check_env(env)
    state, info = env.reset(seed=1)
    env.action_space.seed(1)
    for _ in range(200):
        assert info["action_mask"].astype(bool).tolist() == mdp.available[state].tolist()
        action = env.action_space.sample()
        assert mdp.available[state, action]
        state, _, _, _, info = env.step(action)


def test_to_gymnasium_truncates_at_the_horizon_and_not_at_a_termination():
    chain = FiniteMDP.from_outcomes(
        [(0, 0, 1, 1.0, 1.0), (1, 0, 2, 1.0, 1.0)], n_states=3, n_actions=1, initial=0, terminal=[2]
    )
    for horizon, last in ((1, (1, 1.0, False, True)), (2, (2, 1.0, True, False)), (None, (2, 1.0, True, False))):
        env = chain.to_gymnasium(horizon=horizon)
        env.reset(seed=0)
        for _ in range(horizon or 2):
            step = env.step(0)
        assert step[:4] == last


def test_to_gymnasium_draws_outcomes_with_their_probabilities():
    env = coin().to_gymnasium()
    counts = np.zeros(3)
    env.reset(seed=7)
    for _ in range(4000):
        state = env.step(0)[0]
        counts[state] += 1
        env.reset()
    chance.assert_counts(counts, [0.5, 0.25, 0.25], 4000)


# --- bad input: each fault is named with its place, and nothing is changed ---

BAD_MDPS = {
    "p-negative": (lambda: coin(outcomes=[*COIN, (1, 0, 1, 0.0, -0.5)]), r"p\(s'=1, r=0 \| s=1, a=0\) = -0.5"),
    "p-nan": (lambda: coin(outcomes=[*COIN, (1, 0, 1, 0.0, float("nan"))]), r"s=1, a=0\) = nan, not a probability"),
    "p-sum": (lambda: coin(outcomes=[*COIN[:-1], (1, 1, 2, -2.0, 0.9)]), r"p\(·\|s=1, a=1\) sums to 0.9, not 1"),
    "p-sum-zero": (lambda: coin(outcomes=[*COIN[:-1], (1, 1, 2, 0.0, 0.0)]), r"p\(·\|s=1, a=1\) sums to 0, not 1"),
    "state-range": (lambda: coin(outcomes=[*COIN, (3, 0, 0, 0.0, 1.0)]), r"s of outcome 5 is 3, not in 0..2"),
    "action-range": (lambda: coin(outcomes=[*COIN, (0, 2, 0, 0.0, 1.0)]), r"a of outcome 5 is 2, not in 0..1"),
    "next-range": (lambda: coin(outcomes=[*COIN, (0, 1, -1, 0.0, 1.0)]), r"s' of outcome 5 is -1, not in 0..2"),
    "reward-nan": (lambda: coin(outcomes=[*COIN, (0, 1, 0, float("nan"), 1.0)]), r"reward is not finite"),
    "reward-inf": (lambda: coin(outcomes=[*COIN, (0, 1, 0, float("inf"), 1.0)]), r"a=1\) = 1: its reward is not fin"),
    "no-action": (lambda: coin(outcomes=COIN[:3]), r"state s=1 has no available action"),
    "terminal-acts": (lambda: coin(terminal=[1, 2]), r"state s=1 is terminal, but p\(s'=0, r=-1 \| s=1, a=0\) = 1"),
    "terminal-range": (lambda: coin(terminal=[3]), r"terminal names state 3, not in 0..2"),
    "terminal-below": (lambda: coin(terminal=[-100]), r"terminal names state -100, not in 0..2"),
    **{
        f"stored-{name}-{value}": (
            lambda name=name, value=value: stored(**{name: torch.full((5,), value)}),
            rf"^outcomes.{name} has an entry outside 0..{size - 1}{of}$",
        )
        for name, size, of in (
            ("state", 3, ""),
            ("action", 2, ""),
            ("next_state", 3, ""),
            ("reward_index", 3, " of rewards"),
        )
        for value in (-1, size)
    },
    "stored-length": (
        lambda: stored(action=torch.zeros(4, dtype=torch.int64)),
        r"outcomes.action has shape \[4\], expected \[5\]",
    ),
    "terminal-shape": (lambda: coin(terminal=torch.tensor([True, False])), r"terminal has shape \[2\], expected \[3\]"),
    "tuple-length": (lambda: coin(outcomes=[*COIN, (0, 0, 0, 1.0)]), r"outcome 5 has 4 entries, expected 5"),
    "matrix-shape": (lambda: coin(outcomes=torch.zeros(3, 4)), r"outcomes has shape \[3, 4\], expected \[K, 5\]"),
    "column-shapes": (
        lambda: coin(outcomes=[torch.zeros(i + 1) for i in range(5)]),
        r"columns of outcomes have sh",
    ),
    "n-states": (lambda: coin(n_states=0), r"n_states must be at least 1, not 0"),
    "n-actions": (lambda: coin(n_actions=-1), r"n_actions must be at least 1, not -1"),
    "initial-state": (lambda: coin(initial=3), r"initial is state 3, not in 0..2"),
    "initial-sum": (lambda: coin(initial=[0.5, 0.4, 0.0]), r"initial sums to 0.9, not 1"),
    "initial-negative": (lambda: coin(initial=[1.5, -0.5, 0.0]), r"initial is -0.5 at s=1, not a probability"),
    "initial-nan": (lambda: coin(initial=[1.0, float("nan"), 0.0]), r"initial is nan at s=1"),
    "initial-shape": (lambda: coin(initial=[1.0, 1.0]), r"initial has shape \[2\], expected \[3\]"),
    "initial-below": (lambda: coin(initial=-100), r"initial is state -100, not in 0..2"),
    "device-mixed": (lambda: coin(initial=torch.zeros(3, device="meta")), r"initial is on meta but"),
    "names": (lambda: coin(state_names=["a", "b"]), r"state_names has 2 names, expected 3"),
    "horizon": (lambda: coin().to_gymnasium(horizon=0), r"horizon must be at least 1, not 0"),
    "starts-at-the-end": (lambda: coin(initial=2).to_gymnasium(), r"could start in the terminal state s=2"),
    "no-gymnasium-table": (lambda: FiniteMDP.from_gymnasium("CartPole-v1"), r"env CartPole-v1 has no table P"),
}


@pytest.mark.parametrize("case", BAD_MDPS)
def test_a_wrong_mdp_is_refused(case):
    build, message = BAD_MDPS[case]
    with pytest.raises(ValueError, match=message):
        build()


def table(**changes):
    arguments = {"p": random_table(2), "rewards": [0.0, 1.0, 2.0, 3.0], "initial": 0, "terminal": [4]} | changes
    return FiniteMDP.from_table(arguments.pop("p"), arguments.pop("rewards"), **arguments)


def transitions(**changes):
    P = random_table(2).sum(-1)
    arguments = {"P": P, "r": torch.zeros(5, 3, dtype=F64), "initial": 0, "terminal": [4]} | changes
    return FiniteMDP.from_transitions(arguments.pop("P"), arguments.pop("r"), **arguments)


def with_entry(tensor, place, value):
    tensor[place] = value
    return tensor


BAD_TABLES = {
    "negative": (lambda: table(p=with_entry(random_table(2), (1, 0, 2, 3), -0.1)), r"p is -0.1 at s=1, a=0, s'=2, r=3"),
    "nan": (lambda: table(p=with_entry(random_table(2), (1, 0, 2, 3), float("nan"))), r"p is nan at s=1, a=0"),
    "sum": (lambda: table(p=random_table(2) * 0.9), r"p\(·\|s=0, a=0\) sums to 0.9, not 1"),
    "shape": (lambda: table(p=torch.zeros(2, 3, 4, 1)), r"p has shape \[2, 3, 4, 1\], expected \[S, A, S, R\]"),
    "rewards-shape": (lambda: table(rewards=[0.0, 1.0]), r"rewards has shape \[2\], expected \[4\]"),
    "rewards-nan": (lambda: table(rewards=[0.0, 1.0, float("nan"), 2.0]), r"rewards is nan at \[2\]"),
    "P-negative": (lambda: transitions(P=with_entry(random_table(2).sum(-1), (0, 0, 1), -1.0)), r"P is -1 at s=0, a=0"),
    "P-shape": (lambda: transitions(P=torch.zeros(2, 3, dtype=F64)), r"P has shape \[2, 3\], expected \[S, A, S\]"),
    "r-shape": (
        lambda: transitions(r=torch.zeros(5, dtype=F64)),
        r"r has shape \[5\], expected \[5, 3\] or \[5, 3, 5\]$",
    ),
    "r-nan": (lambda: transitions(r=torch.full((5, 3), torch.nan, dtype=F64)), r"its reward is not finite"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_wrong_table_is_refused(case):
    build, message = BAD_TABLES[case]
    with pytest.raises(ValueError, match=message):
        build()


BAD_TYPES = {
    "table-of-integers": (lambda: table(p=torch.zeros(2, 3, 2, 1, dtype=torch.int64)), r"p must hold floating-point"),
    "table-a-list": (lambda: table(p=[[1.0]]), r"p must be a torch.Tensor, not list"),
    "dtypes-mixed": (lambda: transitions(r=torch.zeros(5, 3)), r"r is torch.float32 but P is torch.float64"),
    "index-fraction": (lambda: coin(outcomes=[*COIN, (0.5, 0, 0, 0.0, 1.0)]), r"s of an outcome must be an integer"),
    "count-fraction": (lambda: coin(n_states=2.5), r"n_states must be an integer, not float"),
    "terminal-floats": (lambda: coin(terminal=torch.tensor([0.0, 0.0, 1.0])), r"terminal must be a boolean mask"),
    "to-integers": (lambda: coin().to(dtype=torch.int64), r"dtype must be a floating-point dtype"),
    "policy-dtype": (lambda: check_policy(coin(), equiprobable_policy(coin()).float()), r"policy is torch.float32 but"),
    "policy-list": (lambda: check_policy(coin(), [[1.0]]), r"policy must be a torch.Tensor, not list"),
}


@pytest.mark.parametrize("case", BAD_TYPES)
def test_a_wrong_type_is_refused(case):
    build, message = BAD_TYPES[case]
    with pytest.raises(TypeError, match=message):
        build()


def policy_with(place, value):
    return with_entry(equiprobable_policy(coin()), place, value)


BAD_POLICIES = {
    "sum": (lambda: policy_with((1, 0), 0.4), r"policy sums to 0.9 at s=1, not 1"),
    "negative": (lambda: policy_with((1, 0), -0.5), r"policy is -0.5 at s=1, a=0, not a probability"),
    "nan": (lambda: policy_with((1, 0), torch.nan), r"policy is nan at s=1, a=0, not a probability"),
    "unavailable": (lambda: policy_with(0, 0.5), r"policy is 0.5 at s=0, a=1, where the action is not available"),
    "batch": (lambda: policy_with((1, 0), 0.4).expand(2, 3, 2), r"policy sums to 0.9 at s=1 of \[0\], not 1"),
    "shape": (lambda: torch.ones(3, 3, dtype=F64) / 3, r"policy has shape \[3, 3\], expected \[..., 3, 2\]"),
    "device": (lambda: equiprobable_policy(coin()).to("meta"), r"policy is on meta but mdp is on cpu"),
}


@pytest.mark.equation("eq-policy-conditions")
@pytest.mark.parametrize("case", BAD_POLICIES)
def test_a_wrong_policy_is_refused(case):
    build, message = BAD_POLICIES[case]
    with pytest.raises(ValueError, match=message):
        check_policy(coin(), build())


@pytest.mark.parametrize(
    ("rewards", "dtype", "message"),
    [
        ([1e5, 0.0], torch.float16, r"rewards hold 100000, which overflows torch.float16"),
        ([2048.0, 2049.0], torch.float16, r"rewards hold 2048 and 2049, which are one number in torch.float16"),
        ([1.0, 2048.0, 2049.0, 4096.0, 4097.0], torch.float16, r"rewards hold 2048 and 2049, which are one number in"),
        ([2.0**24, 2.0**24 + 1], torch.float32, r"rewards hold 16777216 and 16777217, which are one number in"),
    ],
)
def test_a_cast_that_merges_rewards_or_loses_one_names_them(rewards, dtype, message):
    with pytest.raises(ValueError, match=message):
        gallery.bandit(rewards).to(dtype=dtype)
    n = len(rewards)
    p = torch.ones(n, dtype=dtype)
    s, a = torch.zeros(n, dtype=torch.int64), torch.arange(n)
    with pytest.raises(ValueError, match=message[8:40]):
        FiniteMDP.from_outcomes(
            (s, a, s + 1, torch.tensor(rewards, dtype=F64), p), n_states=2, n_actions=n, initial=0, terminal=[1]
        )


def test_a_cast_that_loses_a_probability_names_it():
    outcomes = [(0, 0, 1, 0.0, 1e-9), (0, 0, 1, 1.0, 1 - 1e-9)]
    mdp = FiniteMDP.from_outcomes(outcomes, n_states=2, n_actions=1, initial=0, terminal=[1])
    with pytest.raises(ValueError, match=r"probability 1e-09 is 0 in torch.float16"):
        mdp.to(dtype=torch.float16)
    assert mdp.to(dtype=torch.float32).outcomes.probability.min() > 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_terminal_states_may_have_any_integer_dtype(dtype):
    mdp = FiniteMDP.from_outcomes(COIN, n_states=3, n_actions=2, initial=0, terminal=torch.tensor([2], dtype=dtype))
    assert mdp.terminal.tolist() == [False, False, True]
