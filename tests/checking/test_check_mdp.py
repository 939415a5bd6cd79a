"""Tests of `check_mdp`: environments of Gymnasium, of our own, right and wrong in known and in unknown ways."""

import random
from collections import Counter

import chance
import numpy as np
import pytest
import torch

from pgtheory.checking import UnknownForm
from pgtheory.checking.draws import Chooser, NumpyDraws, law
from pgtheory.checking.kinds.environment import MISTAKES, check_mdp
from pgtheory.mdp import FiniteMDP

gym = pytest.importorskip("gymnasium")

IMPLEMENTATIONS = [
    pytest.param(mistake, make, id=f"{mistake.key}-{i}")
    for mistake in MISTAKES
    for i, make in enumerate(mistake.implementations)
]
# Two states and an end. Action 0: 3/4 to state 1, 1/4 stays. Action 1: to the end, or to state 0.
TABLE = {
    0: {0: [(0.75, 1, 0.0, False), (0.25, 0, -1.0, False)], 1: [(0.5, 2, 1.0, True), (0.5, 0, 0.0, False)]},
    1: {0: [(1.0, 2, 2.0, True)], 1: [(1.0, 0, 0.0, False)]},
    2: {0: [(1.0, 2, 0.0, True)], 1: [(1.0, 2, 0.0, True)]},
}


class Tiny(gym.Env):
    """A right environment of `TABLE`; its subclasses draw in other ways, or wrongly."""

    def __init__(self):
        self.observation_space, self.action_space = gym.spaces.Discrete(3), gym.spaces.Discrete(2)
        self.P = {s: {a: list(row) for a, row in actions.items()} for s, actions in TABLE.items()}
        self.initial_state_distrib = np.array([0.5, 0.5, 0.0])
        self.s = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.s = int(self.np_random.random() < 0.5)
        return self.s, {}

    def index(self, p):
        return int(np.searchsorted(np.cumsum(p), self.np_random.random(), side="right"))

    def step(self, action):
        row = self.P[self.s][action]
        _, self.s, reward, terminated = row[self.index([o[0] for o in row])]
        return self.s, reward, terminated, False, {}


class ByChoice(Tiny):
    def index(self, p):
        return int(self.np_random.choice(len(p), p=p))


class ByMultinomial(Tiny):
    def index(self, p):
        return int(self.np_random.multinomial(1, p).argmax())


class FromTheOtherEnd(Tiny):
    def index(self, p):
        return len(p) - 1 - int(np.searchsorted(np.cumsum(p[::-1]), self.np_random.random(), side="right"))


class ByComparison(Tiny):
    def index(self, p):
        return 0 if len(p) == 1 or self.np_random.uniform() > 1 - p[0] else 1


class ByQuarters(Tiny):
    def index(self, p):
        return int(self.np_random.integers(4) >= 4 * p[0])


class ByTwoDraws(Tiny):
    """3/4 as 1/2 + 1/2 · 1/2."""

    def index(self, p):
        if len(p) == 2 and p[0] == 0.75:
            return 0 if self.np_random.random() < 0.5 else int(self.np_random.random() < 0.5)
        return super().index(p)


class ByGlobalNumpy(Tiny):
    def index(self, p):
        return int(np.random.choice(len(p), p=p))  # noqa: NPY002


class ByPythonRandom(Tiny):
    def index(self, p):
        return random.choices(range(len(p)), weights=p)[0]


class ByItsOwnGenerator(Tiny):
    def __init__(self):
        super().__init__()
        self.rng = np.random.RandomState(3)

    def index(self, p):
        return int(np.searchsorted(np.cumsum(p), self.rng.rand(), side="right"))


class ByGumbel(Tiny):
    def index(self, p):
        return int(np.argmax(np.log(p) + self.np_random.gumbel(size=len(p))))


class ByRejection(Tiny):
    def index(self, p):
        return int(self.np_random.permutation(np.repeat(np.arange(len(p)), (4 * np.array(p)).astype(int)))[0])


class InSinglePrecision(Tiny):
    def step(self, action):
        s, reward, terminated, truncated, info = super().step(np.int64(action))
        return np.int64(s), np.float32(reward * 0.1) / np.float32(0.1), np.bool_(terminated), truncated, info


class WithALimit(Tiny):
    """Its own limit of time: truncated after two steps."""

    def reset(self, *, seed=None, options=None):
        self.n = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.n += 1
        s, reward, terminated, _, info = super().step(action)
        return s, reward, terminated, self.n >= 2 and not terminated, info


class Guarded(Tiny):
    """It refuses to act after the end, and remembers what it has seen in a list."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def step(self, action):
        if self.s == 2:
            raise RuntimeError("the episode has ended")
        self.seen.append(self.s)
        return super().step(action)


class OtherNames(Tiny):
    """The state as an array of one element in another attribute, observed as an array."""

    def __init__(self):
        super().__init__()
        self.agent = np.array([0])
        del self.s

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self.agent = np.array([int(self.np_random.random() < 0.5)])
        return self.agent.copy(), {}

    def step(self, action):
        row = self.P[int(self.agent[0])][action]
        _, s, reward, terminated = row[self.index([o[0] for o in row])]
        self.agent = np.array([s])
        return self.agent.copy(), reward, terminated, False, {}


RIGHT = [Tiny, ByChoice, ByMultinomial, FromTheOtherEnd, ByComparison, ByQuarters, ByTwoDraws, ByGlobalNumpy]
RIGHT += [ByPythonRandom, ByItsOwnGenerator, ByGumbel, ByRejection, InSinglePrecision, WithALimit, Guarded]


@pytest.mark.parametrize(("mistake", "make"), IMPLEMENTATIONS)
def test_every_known_mistake_is_named(mistake, make):
    report = check_mdp(make)
    assert not report.ok
    assert report.mistakes == (mistake,)
    assert report.counterexample is not None
    assert mistake.sources or mistake.right_form


@pytest.mark.parametrize("environment", RIGHT, ids=lambda environment: environment.__name__)
def test_a_right_environment_is_right_however_it_draws(environment):
    report = check_mdp(environment())
    assert report.ok, str(report)


def test_the_attribute_of_the_state_may_be_named():
    with pytest.raises(UnknownForm, match="no attribute 's' that holds the number of its state"):
        check_mdp(OtherNames())
    assert check_mdp(OtherNames(), form="agent").ok


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FrozenLake-v1", {}),
        ("FrozenLake-v1", {"is_slippery": False}),
        ("FrozenLake-v1", {"map_name": "8x8"}),
        ("FrozenLake-v1", {"success_rate": 0.8}),
        ("CliffWalking-v1", {}),
        ("CliffWalking-v1", {"is_slippery": True}),
        ("Taxi-v4", {}),
        ("Taxi-v4", {"is_rainy": True}),
    ],
)
def test_the_environments_of_gymnasium_are_right(name, options):
    report = check_mdp(gym.make(name, **options))
    assert report.ok, str(report)
    assert not report.remarks


def test_a_passenger_who_changes_the_destination_is_not_in_the_table_of_taxi():
    report = check_mdp(gym.make("Taxi-v4", fickle_passenger=True))
    assert [mistake.key for mistake in report.mistakes] == ["mdp.not_of_the_state_alone"]


def test_an_environment_made_of_an_mdp_is_right():
    table = torch.tensor([[0, 0, 1, 0.0, 0.3], [0, 0, 0, 1.0, 0.7], [0, 1, 2, 2.0, 1.0], [1, 0, 2, 1.0, 1.0]]).double()
    mdp = FiniteMDP.from_outcomes(
        table,
        n_states=3,
        n_actions=2,
        initial=torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64),
        terminal=torch.tensor([False, False, True]),
    )
    assert check_mdp(mdp.to_gymnasium()).ok
    assert check_mdp(mdp.to_gymnasium(horizon=2)).ok


class OneLess(Tiny):
    """Unknown: an outcome that is not in the table, for one action and only in part."""

    def step(self, action):
        s, reward, terminated, truncated, info = super().step(action)
        if s == 1 and action == 0:
            reward, self.s = 7.0, 0
        return self.s, reward, terminated, truncated, info


class Raises(Tiny):
    def step(self, action):
        if self.s == 1 and action == 1:
            raise KeyError("no such move")
        return super().step(action)


class RewardAndState(Tiny):
    def step(self, action):
        _s, reward, terminated, truncated, info = super().step(action)
        if action == 1 and not terminated:
            self.s = 1
        return self.s, reward + self.s, terminated, truncated, info


@pytest.mark.parametrize("environment", [OneLess, Raises, RewardAndState])
def test_an_unknown_error_is_wrong_and_not_named(environment):
    report = check_mdp(environment())
    assert not report.ok
    assert report.mistakes == ()
    assert report.diagnosis is None
    assert report.counterexample is not None


def test_the_counterexample_is_the_law_of_the_step():
    report = check_mdp(OneLess())
    assert report.counterexample.inputs == {"state": 0, "action": 0}
    assert report.counterexample.expected == [[0.25, 0, -1.0, False], [0.75, 1, 0.0, False]]
    got = report.counterexample.got
    assert [row[1:] for row in got] == [[0, -1.0, False], [0, 7.0, False]]
    assert [row[0] for row in got] == pytest.approx([0.25, 0.75], abs=1e-9)
    assert report.details["largest total variation distance"] == pytest.approx(0.75, abs=1e-9)


class SlightlyOff(Tiny):
    def index(self, p):
        return int(self.np_random.random() > p[0] + 1e-4) if len(p) == 2 else 0


def test_a_difference_of_one_in_ten_thousand_is_found():
    report = check_mdp(SlightlyOff())
    assert [mistake.key for mistake in report.mistakes] == ["mdp.probabilities"]
    assert report.details["largest total variation distance"] == pytest.approx(1e-4, abs=1e-9)


class StaleState(Tiny):
    def step(self, action):
        before = self.s
        result = super().step(action)
        self.s = before
        return result


class Noisy(Tiny):
    def step(self, action):
        s, reward, terminated, truncated, info = super().step(action)
        return s, reward + self.np_random.random(), terminated, truncated, info


class NoisyNormal(Tiny):
    def step(self, action):
        s, reward, terminated, truncated, info = super().step(action)
        return s, reward + self.np_random.normal(), terminated, truncated, info


class WrongGumbel(Tiny):
    def index(self, p):
        return int(np.argmax(2 * np.log(p) + self.np_random.gumbel(size=len(p))))


class HiddenDraw(Tiny):
    """Draws by torch, which no stand-in sees, and not what the table says."""

    generator = torch.Generator().manual_seed(0)

    def index(self, p):
        return int(torch.randint(len(p), (), generator=self.generator))


class TerminalActs(Tiny):
    def step(self, action):
        s, reward, terminated, truncated, info = super().step(action)
        return s, reward, terminated and s != 2, truncated, info


@pytest.mark.parametrize(
    ("environment", "keys"),
    [
        (Noisy, ["mdp.reward"]),
        (NoisyNormal, ["mdp.reward"]),
        (WrongGumbel, ["mdp.probabilities"]),
        (HiddenDraw, ["mdp.probabilities"]),
        (TerminalActs, ["mdp.never_terminated"]),
    ],
)
def test_wrong_environments_of_other_kinds_are_named(environment, keys):
    assert [mistake.key for mistake in check_mdp(environment()).mistakes] == keys


def test_a_state_that_is_returned_and_not_kept_is_wrong():
    assert not check_mdp(StaleState()).ok


def test_two_faults_at_once_are_both_named():
    class Both(Tiny):
        def step(self, action):
            s, reward, _terminated, truncated, info = super().step(action)
            return s, reward - 0.5, False, truncated, info

    keys = [mistake.key for mistake in check_mdp(Both()).mistakes]
    assert keys == ["mdp.never_terminated", "mdp.reward"]


def test_sampling_is_said_and_is_the_last_resort():
    assert any("samples of each step" in remark for remark in check_mdp(ByGumbel()).remarks)
    assert any("np.random" in r or "numpy.random.choice" in r for r in check_mdp(ByGlobalNumpy()).remarks)
    assert not check_mdp(Tiny()).remarks


class NoTable(Tiny):
    def __init__(self):
        super().__init__()
        del self.P


class FourValues(Tiny):
    def step(self, action):
        return super().step(action)[:4]


class TableOfTriples(Tiny):
    def __init__(self):
        super().__init__()
        self.P = {s: {a: [o[:3] for o in row] for a, row in actions.items()} for s, actions in TABLE.items()}


class StateOfTwoParts(Tiny):
    """The number of the state is only for show; what counts is held elsewhere."""

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        self.place = (self.s, 0)
        return result

    def step(self, action):
        self.s = self.place[0]
        result = super().step(action)
        self.place = (self.s, 0)
        return result


class WithoutARow(Tiny):
    def __init__(self):
        super().__init__()
        del self.P[1]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (NoTable, "no table P"),
        (FourValues, "returns 4 values"),
        (TableOfTriples, "its table is not P"),
        (StateOfTwoParts, "does not hold its whole state"),
        (WithoutARow, "no row of state 1"),
        (lambda: "NoSuchEnvironment-v0", "NameNotFound"),
        (dict, "it is no environment|no table"),
    ],
)
def test_other_forms_are_refused_and_said(environment, message):
    with pytest.raises(UnknownForm, match=message):
        check_mdp(environment())


def _global_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


@pytest.mark.parametrize("environment", [Tiny, ByGumbel, ByGlobalNumpy, ByPythonRandom, Guarded, ByItsOwnGenerator])
def test_the_environment_and_the_global_generators_are_left_as_they_were(environment):
    env = environment()
    env.reset(seed=7)
    before = {name: repr(value) for name, value in vars(env).items()}
    generator, draws = env.np_random, env.np_random.bit_generator.state
    states = _global_states()
    functions = np.random.random, np.random.choice, random.random, random.choices
    first, second = str(check_mdp(env)), str(check_mdp(env))
    assert first == second
    assert {name: repr(value) for name, value in vars(env).items()} == before
    assert env.np_random is generator
    assert env.np_random.bit_generator.state == draws
    assert _global_states() == states
    assert (np.random.random, np.random.choice, random.random, random.choices) == functions


def test_the_exact_law_of_a_step_is_that_of_many_samples():
    report = check_mdp(RewardAndState())
    env, seen = RewardAndState(), Counter()
    env.reset(seed=0)
    for _ in range(20_000):
        env.s = report.counterexample.inputs["state"]
        s, reward, terminated, _, _ = env.step(report.counterexample.inputs["action"])
        seen[s, reward, terminated] += 1
    law = report.counterexample.got
    chance.assert_counts([seen[tuple(row[1:])] for row in law], [row[0] for row in law], 20_000)


def test_the_law_of_a_program_is_enumerated():
    chooser = Chooser()
    rng = NumpyDraws(chooser)

    def program(draws):
        chooser.start(draws)
        if rng.random() < 1 / 3:
            return "a" if rng.random() > 0.9 else "b"
        return rng.choice(["b", "c"], p=[0.25, 0.75])

    found = law(program)
    assert {str(key): round(p, 9) for key, p in found.items()} == {
        "a": round(1 / 30, 9),
        "b": round(9 / 30 + 2 / 12, 9),
        "c": 0.5,
    }


def test_the_law_along_one_number_has_every_piece():
    def program(draws):
        chooser.start(draws)
        u = NumpyDraws(chooser).random()
        return "abca"[int(u > 0.2) + int(u > 0.5) + int(u > 0.9)]

    chooser = Chooser()
    assert {str(key): round(p, 8) for key, p in law(program).items()} == {"a": 0.3, "b": 0.3, "c": 0.4}


def test_binomial_draws_are_enumerated():
    def program(draws):
        chooser.start(draws)
        return int(NumpyDraws(chooser).binomial(2, 0.25))

    chooser = Chooser()
    assert law(program) == pytest.approx({0: 9 / 16, 1: 6 / 16, 2: 1 / 16})


@pytest.mark.parametrize("environment", [ByItsOwnGenerator, ByChoice, ByMultinomial, ByTwoDraws, FromTheOtherEnd])
def test_what_can_be_enumerated_is_not_sampled(environment):
    assert not any("samples of each step" in remark for remark in check_mdp(environment()).remarks)
