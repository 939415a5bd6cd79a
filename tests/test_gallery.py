"""The gallery against numbers typed from the sources, and against solves in NumPy."""

import math

import chance
import numpy as np
import pytest
import torch
from helpers import seeded

from pgtheory import gallery
from pgtheory.mdp import FiniteMDP, equiprobable_policy
from pgtheory.trajectories import enumerate_trajectories

ALL = {
    "recycling_robot": gallery.recycling_robot,
    "gridworld": gallery.gridworld,
    "gridworld_4x4": gallery.gridworld_4x4,
    "student_chain": gallery.student_chain,
    "student_mdp": gallery.student_mdp,
    "random_walk": gallery.random_walk,
    "short_corridor": gallery.short_corridor,
    "gamblers_problem": gallery.gamblers_problem,
    "bandit": lambda **kwargs: gallery.bandit([0.0, 1.0], spread=0.5, **kwargs),
    "correlated_rewards": gallery.correlated_rewards,
    "trap": gallery.trap,
    "two_state_toy": gallery.two_state_toy,
    "tiny_language": gallery.tiny_language,
    "token_tree": gallery.token_tree,
    "garnet": lambda **kwargs: gallery.garnet(6, 2, 3, **kwargs),
}


def arrays(mdp: FiniteMDP) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p[s, a, s', r], the rewards, and the terminal states, as plain arrays."""
    return mdp.dynamics().numpy(), mdp.rewards.numpy(), mdp.terminal.numpy()


def values(mdp: FiniteMDP, gamma: float, policy: np.ndarray | None = None) -> np.ndarray:
    """v_π by a linear solve over the states that are not terminal."""
    p, rewards, terminal = arrays(mdp)
    pi = equiprobable_policy(mdp).numpy() if policy is None else policy
    transition = np.einsum("sa,saxr->sx", pi, p)
    reward = np.einsum("sa,saxr,r->s", pi, p, rewards)
    live = ~terminal
    v = np.zeros(mdp.n_states)
    v[live] = np.linalg.solve(np.eye(live.sum()) - gamma * transition[np.ix_(live, live)], reward[live])
    return v


def optimal_values(mdp: FiniteMDP, gamma: float, sweeps: int = 2000) -> np.ndarray:
    """v_* by plain value iteration."""
    p, rewards, terminal = arrays(mdp)
    available = p.sum((2, 3)) > 0
    v = np.zeros(mdp.n_states)
    for _ in range(sweeps):
        q = np.einsum("saxr,saxr->sa", p, rewards[None, None, None, :] + gamma * v[None, None, :, None] + 0 * p)
        v = np.where(terminal, 0.0, np.where(available, q, -np.inf).max(1, initial=-np.inf))
    return v


@pytest.mark.parametrize("name", ALL)
def test_every_row_of_every_mdp_is_a_distribution(name):
    p, _, terminal = arrays(ALL[name]())
    sums = p.sum((2, 3))
    assert np.all(p >= 0)
    assert np.all(np.isclose(sums, 1, atol=1e-12, rtol=0) | (sums == 0))
    assert np.array_equal(~(sums > 0).any(1), terminal)


@pytest.mark.parametrize("name", ALL)
def test_the_dtype_is_the_one_asked_for(name):
    mdp = ALL[name](dtype=torch.float32)
    assert {mdp.dtype, mdp.initial.dtype, mdp.outcomes.probability.dtype} == {torch.float32}
    assert ALL[name]().dtype == torch.float64


def test_every_public_function_that_returns_an_mdp_is_in_these_tests():
    assert set(gallery.__all__) - {"tiny_language_model", "token_sequences"} == set(ALL)


@pytest.mark.parametrize(("alpha", "beta"), [(0.9, 0.3), (0.5, 0.25), (1.0, 0.0)])
def test_the_recycling_robot_has_the_table_of_example_3_3(alpha, beta):
    robot = gallery.recycling_robot(alpha, beta, r_search=5.0, r_wait=2.0)
    high, low, search, wait, recharge = 0, 1, 0, 1, 2
    # The table in Sutton and Barto, p. 52: s, a, s', p(s'|s,a), r(s,a,s').
    table = [
        (high, search, high, alpha, 5.0),
        (high, search, low, 1 - alpha, 5.0),
        (low, search, high, 1 - beta, -3.0),
        (low, search, low, beta, 5.0),
        (high, wait, high, 1.0, 2.0),
        (high, wait, low, 0.0, None),
        (low, wait, high, 0.0, None),
        (low, wait, low, 1.0, 2.0),
        (low, recharge, high, 1.0, 0.0),
        (low, recharge, low, 0.0, None),
    ]
    p, rewards, _ = arrays(robot)
    seen = np.zeros_like(p, dtype=bool)
    for s, a, s_next, probability, reward in table:
        assert p[s, a, s_next].sum() == pytest.approx(probability, abs=1e-15)
        if probability > 0:
            assert rewards[p[s, a, s_next] > 0].tolist() == [reward]
        seen[s, a, s_next] = True
    assert np.all(p[~seen] == 0)
    assert robot.available.tolist() == [[True, True, False], [True, True, True]]
    assert robot.state_names == ("high", "low")
    assert robot.action_names == ("search", "wait", "recharge")


# Sutton and Barto, Figure 3.2 and Figure 3.5.
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


def test_the_gridworld_has_the_values_of_figure_3_2():
    assert values(gallery.gridworld(), 0.9).reshape(5, 5).round(1) + 0.0 == pytest.approx(np.array(FIGURE_3_2))


def test_the_gridworld_has_the_optimal_values_of_figure_3_5():
    v = optimal_values(gallery.gridworld(), 0.9, sweeps=400)
    assert v.reshape(5, 5).round(1) == pytest.approx(np.array(FIGURE_3_5))


def test_the_small_gridworld_has_the_values_of_figure_4_1():
    expected = [[0, -14, -20, -22], [-14, -18, -20, -20], [-20, -20, -18, -14], [-22, -20, -14, 0]]
    assert values(gallery.gridworld_4x4(), 1.0).reshape(4, 4) == pytest.approx(np.array(expected, dtype=float))


def test_the_small_gridworld_has_the_transitions_that_example_4_1_names():
    p, rewards, _ = arrays(gallery.gridworld_4x4())
    up, down, right, left = range(4)
    for s, a, s_next, probability in [(5, right, 6, 1.0), (7, right, 7, 1.0), (5, right, 10, 0.0), (4, up, 0, 1.0)]:
        assert p[s, a, s_next].sum() == probability
    assert p[11, down, 15].sum() == p[12, left, 12].sum() == 1.0
    assert rewards.tolist() == [-1.0]


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [
        (1.0, [-12.5, 1.5, 4.3, 10.0, 0.8, -22.5, 0.0]),
        (0.9, [-5.0, 0.9, 4.1, 10.0, 1.9, -7.6, 0.0]),
        (0.0, [-2.0, -2.0, -2.0, 10.0, 1.0, -1.0, 0.0]),
    ],
)
def test_the_student_chain_has_the_values_of_the_lecture(gamma, expected):
    # Silver's slides print -13 and -23 for class 1 and facebook at γ = 1, where one decimal is -12.5 and -22.5.
    assert values(gallery.student_chain(), gamma).round(1) == pytest.approx(np.array(expected), abs=0.051)


def test_the_student_mdp_has_the_values_of_the_lecture():
    class_1, class_2, class_3, facebook, sleep = values(gallery.student_mdp(), 1.0)
    assert [class_1, class_2, class_3, facebook, sleep] == pytest.approx([-1.3, 2.7, 7.4, -2.3, 0.0], abs=0.05)
    assert optimal_values(gallery.student_mdp(), 1.0) == pytest.approx([6, 8, 10, 6, 0])


def test_the_random_walk_has_the_values_of_example_6_2():
    assert values(gallery.random_walk(), 1.0) == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 0])


def test_the_long_random_walk_has_the_values_of_example_7_1():
    v = values(gallery.random_walk(19, r_left=-1.0), 1.0)
    assert v[1:-1] == pytest.approx(np.arange(-9, 10) / 10)
    assert gallery.random_walk(19).initial.argmax() == 10


@pytest.mark.parametrize("p_right", [0.05, 0.3, 0.5, 2 - math.sqrt(2), 0.95])
def test_the_short_corridor_has_its_closed_form_value(p_right):
    policy = np.tile([1 - p_right, p_right], (4, 1))
    v = values(gallery.short_corridor(), 1.0, policy)
    # By hand: v(0) = -1/p + v(1), v(1) = -1 + p v(0) + (1-p) v(2), v(2) = -1 + (1-p) v(1).
    assert v[0] == pytest.approx(-2 * (2 - p_right) / (p_right * (1 - p_right)))


def test_the_best_blind_policy_of_the_short_corridor_is_that_of_example_13_1():
    p = 2 - math.sqrt(2)
    best = values(gallery.short_corridor(), 1.0, np.tile([1 - p, p], (4, 1)))[0]
    assert best == pytest.approx(-(6 + 4 * math.sqrt(2)))
    for other in (p - 0.01, p + 0.01):
        assert values(gallery.short_corridor(), 1.0, np.tile([1 - other, other], (4, 1)))[0] < best
    # The book's text: about -11.6 at the best, -44 and -82 for the two ε-greedy policies with ε = 0.1.
    assert values(gallery.short_corridor(), 1.0, np.tile([0.05, 0.95], (4, 1)))[0] == pytest.approx(-44, abs=0.5)
    assert values(gallery.short_corridor(), 1.0, np.tile([0.95, 0.05], (4, 1)))[0] == pytest.approx(-82, abs=0.5)


def test_the_gamblers_values_satisfy_bold_play():
    v = optimal_values(gallery.gamblers_problem(0.4), 1.0, sweeps=60)
    # Bold play from capital 25, 50, 75: stakes 25 then 50; 50; 25 and else 50.
    assert v[[25, 50, 75]] == pytest.approx([0.4**2, 0.4, 0.4 + 0.6 * 0.4])
    assert v[[12, 62]] == pytest.approx([0.4 * v[24], 0.4 + 0.6 * v[24]])


def test_a_fair_gambler_succeeds_in_proportion_to_the_capital():
    mdp = gallery.gamblers_problem(0.5, goal=20)
    assert values(mdp, 1.0)[1:-1] == pytest.approx(np.arange(1, 20) / 20)


@pytest.mark.parametrize("zero_stake", [False, True])
def test_the_gamblers_stakes_depend_on_the_capital(zero_stake):
    mdp = gallery.gamblers_problem(0.4, goal=9, zero_stake=zero_stake)
    for s in range(1, 9):
        stakes = [a for a in range(mdp.n_actions) if mdp.available[s, a]]
        assert stakes == list(range(0 if zero_stake else 1, min(s, 9 - s) + 1))
        for a in stakes[not zero_stake :]:
            assert mdp.transitions()[s, a, s + a] == pytest.approx(0.4 if a else 1.0)


def test_a_bandit_pays_its_means_and_spreads():
    mdp = gallery.bandit([1.0, -2.0], spread=3.0)
    assert mdp.expected_rewards()[0].tolist() == [1.0, -2.0]
    p, rewards, _ = arrays(mdp)
    assert (p[0, :, 1] * rewards**2).sum(-1) == pytest.approx([1 + 9, 4 + 9])


@pytest.mark.parametrize("correlation", [-1.0, -0.5, 0.0, 0.25, 1.0])
def test_correlated_rewards_keep_the_mean_and_change_the_variance(correlation):
    p, rewards, _ = arrays(gallery.correlated_rewards(correlation))
    outcomes = [(rewards[r] + (1.0 if s == 1 else -1.0), p[0, 0, s, r]) for s in (1, 2) for r in range(len(rewards))]
    mean = sum(g * q for g, q in outcomes)
    assert mean == pytest.approx(0)
    assert sum((g - mean) ** 2 * q for g, q in outcomes) == pytest.approx(2 + 2 * correlation)
    base = gallery.correlated_rewards(0.0)  # all numbers are exact in binary
    assert torch.equal(gallery.correlated_rewards(correlation).transitions(), base.transitions())
    assert torch.equal(gallery.correlated_rewards(correlation).expected_rewards(), base.expected_rewards())


def test_the_trap_cannot_be_left():
    mdp = gallery.trap()
    assert mdp.transitions()[1].tolist() == [[0.0, 1.0, 0.0]] * 2
    assert mdp.terminal.tolist() == [False, False, True]


def test_the_toy_ends_under_every_deterministic_policy():
    for a, b in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        policy = np.eye(2)[[a, b, 0]]
        assert np.isfinite(values(gallery.two_state_toy(), 1.0, policy)).all()


@pytest.mark.parametrize(("n_tokens", "length"), [(1, 3), (2, 1), (2, 4), (3, 3), (5, 2)])
def test_a_token_tree_without_eos_has_the_geometric_number_of_states(n_tokens, length):
    mdp = gallery.token_tree(n_tokens, length)
    assert mdp.n_states == sum(n_tokens**d for d in range(length + 1))
    assert int(mdp.terminal.sum()) == n_tokens**length


@pytest.mark.parametrize(("eos", "n_prompts"), [(None, 1), (None, 3), (0, 1), (2, 2)])
def test_every_action_of_a_token_tree_appends_its_token(eos, n_prompts):
    mdp = gallery.token_tree(3, 3, eos=eos, n_prompts=n_prompts)
    sequences = gallery.token_sequences(3, 3, eos=eos, n_prompts=n_prompts)
    index = {sequence: s for s, sequence in enumerate(sequences)}
    assert len(index) == len(sequences) == mdp.n_states
    for s, (prompt, tokens) in enumerate(sequences):
        complete = len(tokens) == 3 or (len(tokens) > 0 and tokens[-1] == eos)
        assert bool(mdp.terminal[s]) == complete
        for token in range(3):
            if not complete:
                assert mdp.transitions()[s, token, index[prompt, (*tokens, token)]] == 1
    assert mdp.initial[:n_prompts].tolist() == pytest.approx([1 / n_prompts] * n_prompts)


def test_a_token_tree_pays_at_the_end_and_nowhere_else():
    def reward(prompt: int, tokens: tuple[int, ...]) -> float:
        return 100.0 * prompt + 10 * len(tokens) + tokens[-1]

    mdp = gallery.token_tree(2, 3, reward=reward, eos=1, n_prompts=2, initial=[0.25, 0.75])
    r = mdp.expected_rewards()
    for s, (prompt, tokens) in enumerate(gallery.token_sequences(2, 3, eos=1, n_prompts=2)):
        for token in range(2):
            done = not mdp.terminal[s] and (token == 1 or len(tokens) == 2)
            assert r[s, token] == (reward(prompt, (*tokens, token)) if done else 0)
    assert mdp.initial[:3].tolist() == [0.25, 0.75, 0.0]


def test_a_token_tree_takes_its_rewards_from_a_tensor():
    table = torch.tensor([3.0, 1.0, 4.0, 1.5])
    assert gallery.token_tree(2, 2, reward=table).expected_rewards()[1:3].flatten().tolist() == table.tolist()
    assert not torch.equal(gallery.token_tree(seed=0).rewards, gallery.token_tree(seed=1).rewards)
    assert torch.equal(gallery.token_tree(seed=1).rewards, gallery.token_tree(seed=1).rewards)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (6, 1), (6, 3), (6, 6), (50, 7)])
def test_every_action_of_a_garnet_has_exactly_as_many_next_states_as_asked(n, k):
    mdp = gallery.garnet(n, 3, k, seed=5)
    assert ((mdp.transitions() > 0).sum(-1) == k).all()
    assert len(mdp.outcomes.state) == n * 3 * k


def test_a_garnet_is_named_by_its_seed():
    one, same, other = (gallery.garnet(8, 2, 3, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.transitions(), same.transitions())
    assert not torch.equal(one.transitions(), other.transitions())
    by_generator = gallery.garnet(8, 2, 3, generator=seeded(1))
    assert torch.equal(one.transitions(), by_generator.transitions())


def test_a_garnet_with_a_stop_probability_ends_with_that_probability_everywhere():
    mdp = gallery.garnet(7, 2, 3, stop_probability=0.125)
    assert mdp.n_states == 8
    assert mdp.terminal.tolist() == [False] * 7 + [True]
    assert torch.all(mdp.transitions()[:7, :, 7] == 0.125)
    assert mdp.initial.tolist() == pytest.approx([1 / 7] * 7 + [0])
    assert gallery.garnet(7, 2, 3).initial.sum() == pytest.approx(1)


def test_the_next_states_of_a_garnet_are_uniform():
    # Each next state is in a row with probability k/n, and the rows are independent.
    n, k, rows = 16, 5, 4096
    chosen = gallery._distinct(rows, k, n, seeded(3))
    assert (chosen.sort(-1).values.diff(dim=-1) > 0).all()
    chance.assert_counts(torch.bincount(chosen.flatten(), minlength=n), [k / n] * n, rows)


def test_the_pieces_of_a_garnet_have_the_moments_of_uniform_spacings():
    # A spacing of k-1 uniform points is Beta(1, k-1): mean 1/k, second moment 2/(k(k+1)), and so on.
    k, rows = 4, 20_000
    errors = chance.most_errors(comparisons=8) / math.sqrt(rows)
    pieces = gallery._random_partition(rows, k, seeded(4))
    assert pieces.sum(-1) == pytest.approx(np.ones(rows))
    assert pieces.mean(0).tolist() == pytest.approx([1 / k] * k, abs=0.194 * errors)
    assert (pieces**2).mean(0).tolist() == pytest.approx([2 / (k * (k + 1))] * k, abs=0.137 * errors)


REVIEWS = {
    ".": 0,
    "good good": 2,
    "good bad": 0,
    "good not": 1,
    "good .": 1,
    "bad good": 0,
    "bad bad": -2,
    "bad not": -1,
    "bad .": -1,
    "not good": -1,
    "not bad": 1,
    "not not": 0,
    "not .": 0,
}


def test_every_review_of_the_tiny_language_has_its_rating():
    mdp = gallery.tiny_language()
    p, rewards, terminal = arrays(mdp)
    found = {}
    for s, a, s_next, r in zip(*np.nonzero(p), strict=True):
        if terminal[s_next]:
            found[mdp.state_names[s_next]] = rewards[r]
            start = "" if s == 0 else mdp.state_names[s] + " "
            assert mdp.state_names[s_next] == start + mdp.action_names[a]
    assert found == REVIEWS
    longer = gallery.tiny_language(4)
    ends = {name: s for s, name in enumerate(longer.state_names)}
    into = {longer.state_names[s]: longer.rewards[r] for _, _, s, r in zip(*np.nonzero(arrays(longer)[0]), strict=True)}
    assert [into[x] for x in ("not not bad bad", "good not bad .", "good good good good")] == [0, 2, 4]
    assert longer.terminal[ends["not bad ."]]


def test_greedy_decoding_of_the_tiny_language_model_misses_its_most_probable_review():
    mdp, model = gallery.tiny_language(), gallery.tiny_language_model()
    trajectories, probabilities = enumerate_trajectories(mdp, model, horizon=2)
    names = [mdp.state_names[s] for s in trajectories.states[:, -1].tolist()]
    by_name = dict(zip(names, probabilities.tolist(), strict=True))
    assert max(by_name, key=by_name.get) == "good ."
    assert by_name["good ."] == pytest.approx(0.3 * 0.7)
    assert by_name["not good"] == pytest.approx(0.4 * 0.5)
    assert mdp.action_names[model[0].argmax()] == "not"
    assert mdp.action_names[model[3].argmax()] == "good"


@pytest.mark.parametrize("length", [1, 3])
def test_the_tiny_language_model_looks_at_the_last_token_alone(length):
    mdp, model = gallery.tiny_language(length), gallery.tiny_language_model(length, dtype=torch.float32)
    assert model.dtype == torch.float32
    short = gallery.tiny_language_model()
    for s, (_, tokens) in enumerate(gallery.token_sequences(4, length, eos=3)):
        expected = torch.zeros(4) if mdp.terminal[s] else short[1 + tokens[-1] if tokens else 0].float()
        assert torch.equal(model[s], expected)


def test_building_mdps_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    gallery.garnet(5, 2, 2)
    gallery.token_tree()
    assert torch.equal(before, torch.get_rng_state())


BAD = {
    "alpha above 1": (lambda: gallery.recycling_robot(alpha=1.5), r"alpha must be in \[0, 1\], not 1.5"),
    "beta below 0": (lambda: gallery.recycling_robot(beta=-0.1), r"beta must be in \[0, 1\]"),
    "a reward that is NaN": (
        lambda: gallery.recycling_robot(r_wait=math.nan),
        "r_wait must be a finite number, not nan",
    ),
    "no state to walk in": (lambda: gallery.random_walk(0), "n must be at least 1"),
    "p_heads NaN": (lambda: gallery.gamblers_problem(math.nan), r"p_heads must be in \[0, 1\], not nan"),
    "a goal of 1": (lambda: gallery.gamblers_problem(goal=1), "goal must be at least 2"),
    "no arm": (lambda: gallery.bandit([]), "the number of means must be at least 1"),
    "correlation above 1": (lambda: gallery.correlated_rewards(1.1), r"correlation must be in \[-1, 1\], not 1.1"),
    "no tokens": (lambda: gallery.token_tree(0, 3), "n_tokens must be at least 1"),
    "no length": (lambda: gallery.token_tree(2, 0), "length must be at least 1"),
    "eos no token": (lambda: gallery.token_tree(3, 2, eos=3), r"eos is 3, not a token in 0\.\.2"),
    "too big a tree": (lambda: gallery.token_tree(128_000, 3), "a tree of 3 tokens from a vocabulary of 128,000"),
    "too few rewards": (
        lambda: gallery.token_tree(2, 2, reward=torch.zeros(3)),
        r"reward has shape \[3\], expected \[4\]",
    ),
    "too few prompts": (
        lambda: gallery.token_tree(n_prompts=2, initial=[1.0]),
        r"initial has shape \[1\], expected \[2\]",
    ),
    "prompts that sum to 0.8": (lambda: gallery.token_tree(n_prompts=2, initial=[0.4, 0.4]), "initial sums to 0.8"),
    "too few words": (lambda: gallery.token_tree(2, 2, words=("yes",)), "words has 1 names, expected 2"),
    "sequences of no token": (lambda: gallery.token_sequences(0, 1), "n_tokens must be at least 1"),
    "a review of no token": (lambda: gallery.tiny_language(0), "length must be at least 1"),
    "a model of reviews of no token": (lambda: gallery.tiny_language_model(0), "length must be at least 1"),
    "branching above n_states": (lambda: gallery.garnet(3, 1, 4), "branching is 4, more than the 3 states"),
    "stop above 1": (lambda: gallery.garnet(3, 1, 2, stop_probability=2.0), r"stop_probability must be in \[0, 1\]"),
}


@pytest.mark.parametrize(("build", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_argument_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("count", [2.0, "2", True])
def test_a_count_that_is_no_integer_is_a_type_error(count):
    with pytest.raises(TypeError, match="n_states must be an integer"):
        gallery.garnet(count, 1, 1)
