"""The law of what an environment does: its random numbers are chosen, not drawn, and its state is put where we like."""

import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from pgtheory._gymnasium import import_gymnasium
from pgtheory.checking.calling import Misfit, misunderstood
from pgtheory.checking.draws import Chooser, Law, Unsupported, global_generators, is_law, law, mixture, same, stand_in
from pgtheory.checking.verdicts import quietly

TOLERANCE = 1e-6
_STATES = "s state _state _s current_state cur_state agent_state _agent_state pos position agent_pos"
_SEED = 20_240_501
EXAMPLE = "check_mdp(environment), an environment of Gymnasium with a table P"
_START = "initial_state_distrib isd"


class Outcome(NamedTuple):
    """What a step leads to; `raised` instead, if it raises an exception."""

    next_state: int
    reward: float
    terminated: bool
    truncated: bool = False
    raised: str = ""


class Table(NamedTuple):
    """The dynamics that an environment publishes, `(probability, outcome)` by state and action, and its start."""

    rows: Mapping[tuple[int, Any], Sequence[tuple[float, Outcome]]]
    start: Sequence[float] | None
    n_states: int

    def law(self, place: tuple[int, Any]) -> Law:
        """The law of the outcomes of an action in a state."""
        return mixture([(p, {outcome: 1.0}) for p, outcome in self.rows[place]])

    def actions(self, state: int) -> list[Any]:
        """The actions that have a row."""
        return [a for s, a in self.rows if s == state]


class Fault(NamedTuple):
    """A state and action in which the environment does not do what the table says."""

    place: tuple[int, Any]
    law: Law
    context: str


def base_of(environment: Any) -> tuple[Any, bool]:
    """The environment without its wrappers, and whether it was made here."""
    gymnasium = import_gymnasium()
    if isinstance(environment, str):
        try:
            return quietly(gymnasium.make, environment).unwrapped, True
        except (gymnasium.error.Error, ImportError) as error:  # no such name, or what it needs is not installed
            raise misunderstood("mdp", {environment: f"{type(error).__name__}: {error}"}, EXAMPLE) from error
    if not hasattr(environment, "step") or isinstance(environment, type):
        if not callable(environment):
            raise misunderstood("mdp", {type(environment).__name__: "it is no environment: it has no step"}, EXAMPLE)
        return getattr(made := environment(), "unwrapped", made), True
    return getattr(environment, "unwrapped", environment), False


def read_table(base: Any) -> Table:
    """The table of an environment, in one form.

    Raises:
        Misfit: it has none, or one of another form.
    """
    published = getattr(base, "P", None)
    if published is None:
        raise Misfit("it has no table P[s][a] = [(probability, next_state, reward, terminated), ...]")
    try:
        rows = {
            (int(s), a): [(float(p), Outcome(_integer(s2), float(r), bool(end))) for p, s2, r, end in outcomes]
            for s, actions in _items(published)
            for a, outcomes in _items(actions)
        }
    except (TypeError, ValueError) as error:
        raise Misfit(
            f"its table is not P[s][a] = [(probability, next_state, reward, terminated), ...]: {error}"
        ) from error
    n_states = int(getattr(base.observation_space, "n", 1 + max(s for s, _ in rows)))
    start = next((getattr(base, name) for name in _START.split() if getattr(base, name, None) is not None), None)
    return Table(rows, None if start is None else np.asarray(start, dtype=float).ravel().tolist(), n_states)


def _items(rows: Any) -> Iterator[tuple[Any, Any]]:
    return iter(rows.items()) if isinstance(rows, Mapping) else enumerate(rows)


def _integer(value: Any) -> int:
    if int(value) != value:
        raise ValueError(f"the next state {value!r} is no integer")
    return int(value)


class Probe(AbstractContextManager["Probe"]):
    """An environment whose state and random numbers are chosen; as it was when the context is left."""

    def __init__(self, base: Any, table: Table, attribute: str | None) -> None:
        self.base, self.table, self.chooser = base, table, Chooser()
        self.tracked: list[str] = []
        self.attribute = attribute
        self.kept = dict(vars(base))
        self.notes: set[str] = set()
        self.rewards = sorted({o.reward for row in table.rows.values() for _, o in row})

    def __enter__(self) -> "Probe":
        self.patched = global_generators(self.chooser)
        self.used = self.patched.__enter__()
        self.global_states: Any = None
        try:
            drawing = {name: stand_in(value, self.chooser) for name, value in self.kept.items()}
            self.fresh = {**self.kept, **{name: value for name, value in drawing.items() if value is not None}}
            if hasattr(type(self.base), "_np_random"):
                self.fresh["_np_random"] = stand_in(np.random.default_rng(0), self.chooser)
            try:
                self.contexts = self._contexts()
            except Unsupported:
                self.draw_truly()
                self.contexts = self._contexts()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        vars(self.base).clear()
        vars(self.base).update(self.kept)
        if self.global_states is None:
            self.patched.__exit__(None, None, None)
        else:
            np.random.set_state(self.global_states[0])  # noqa: NPY002
            random.setstate(self.global_states[1])

    def draw_truly(self) -> None:
        """From now on draw truly, from generators of a fixed seed."""
        self.patched.__exit__(None, None, None)
        self.global_states = np.random.get_state(), random.getstate()  # noqa: NPY002
        np.random.seed(_SEED)  # noqa: NPY002
        random.seed(_SEED)
        true = {"NumpyDraws": np.random.default_rng(_SEED), "PythonDraws": random.Random(_SEED)}
        for attributes in (self.fresh, *getattr(self, "contexts", {}).values()):
            for name, value in attributes.items():
                if isinstance(self.kept.get(name), np.random.RandomState):
                    attributes[name] = np.random.RandomState(_SEED)
                elif type(value).__name__ in true:
                    attributes[name] = true[type(value).__name__]

    def _contexts(self) -> dict[str, dict[str, Any]]:
        """What the environment remembers after a reset, and after some steps, in which every state is tried."""
        self.restore(self.fresh)
        self._track(self.reset(0.5))
        self._walk(0.37, 12)
        found, ends = {}, []
        for name, rule, n_steps in (("after reset", 0.5, 0), ("after 3 steps", 0.001, 3), ("after 1 step", 0.999, 1)):
            state = self._walk(rule, n_steps)
            found[name] = _copied(vars(self.base))
            ends.append((name, state))
        self._holds_the_state(found, ends)
        return found

    def _walk(self, rule: float, n_steps: int) -> int:
        """Go some steps from a reset, or to the last step before an end, and find which attributes follow."""
        self.restore(self.fresh)
        state = self.reset(rule)
        self._follow(state)
        for i in range(n_steps):
            actions = self.table.actions(state)
            before = _copied(vars(self.base))
            outcome = self.act(actions[i % len(actions)], (), rule) if actions else None
            if outcome is None or outcome.terminated or outcome.raised:
                self.restore(before)
                break
            state = outcome.next_state
            self._follow(state)
        return state

    def _follow(self, state: int) -> None:
        """Leave out attributes that do not follow the state, unless none does."""
        self.tracked = [name for name in self.tracked if as_state(getattr(self.base, name)) == state] or self.tracked

    def put(self, state: int) -> None:
        """Go to a state."""
        for name in self.tracked:
            old = getattr(self.base, name)
            setattr(self.base, name, np.full_like(old, state) if isinstance(old, np.ndarray) else state)

    def reset(self, rule: float | None, draws: Sequence[float] = ()) -> int:
        """The state after a reset."""
        self.chooser.start(draws, rule)
        try:
            output = quietly(self.base.reset)
        except Exception as error:
            raise Misfit(f"its reset raises {type(error).__name__}: {error}") from error
        if not isinstance(output, tuple) or len(output) != 2:
            raise Misfit("its reset does not return two values, the observation and a dictionary")
        state = as_state(output[0])
        if state is None and self.tracked:
            state = as_state(getattr(self.base, self.tracked[0]))
        if state is None:
            names = [self.attribute] if self.attribute else _STATES.split()
            state = next((x for name in names if (x := as_state(getattr(self.base, name, None))) is not None), None)
        if state is None:
            raise Misfit(f"its observation {output[0]!r} is not the number of a state")
        return state

    def _track(self, state: int) -> None:
        """Find the attributes that hold the state: those that are equal to it."""
        names = [self.attribute] if self.attribute else _STATES.split()
        self.tracked = [name for name in names if name in vars(self.base) and as_state(vars(self.base)[name]) == state]
        if not self.tracked:
            wanted = self.attribute or "s"
            raise Misfit(f"it has no attribute {wanted!r} that holds the number of its state: name it with form=...")

    def _holds_the_state(self, contexts: Mapping[str, dict[str, Any]], walks: Sequence[tuple[str, int]]) -> None:
        """Where going to a state and setting it are not the same, and the first is right, it is not held there."""
        for name, state in walks:
            for action in self.table.actions(state):
                self.restore(contexts[name])
                gone = self.act(action, (), 0.5)
                self.restore(contexts["after reset"])
                self.put(state)
                put = self.act(action, (), 0.5)
                known = self.table.law((state, action))
                if gone != put and plain(gone) in known and plain(put) not in known:
                    raise Misfit(
                        f"its attribute {self.tracked[0]!r} does not hold its whole state: name it with form=..."
                    )

    def restore(self, attributes: Mapping[str, Any]) -> None:
        """Give the environment these attributes and no others."""
        own = vars(self.base)
        own.clear()
        own.update(_copied(attributes))

    def run(self, place: tuple[int, Any], context: str) -> Callable[[Sequence[float]], Outcome]:
        """A step from a state, as a function of its draws."""
        attributes, (state, action) = self.contexts[context], place

        def one(draws: Sequence[float]) -> Outcome:
            self.restore(attributes)
            self.put(state)
            return self.act(action, draws, None)

        return one

    def run_reset(self, draws: Sequence[float]) -> int:
        """The state after a reset, as a function of its draws."""
        self.restore(self.fresh)
        return self.reset(None, draws)

    def act(self, action: Any, draws: Sequence[float], rule: float | None) -> Outcome:
        """What a step from the present state leads to."""
        before = as_state(getattr(self.base, self.tracked[0])) or 0
        self.chooser.start(draws, rule)
        try:
            output = quietly(self.base.step, action)
        except Exception as error:
            return Outcome(-1, 0.0, False, raised=f"{type(error).__name__}: {error}")
        if not isinstance(output, tuple) or len(output) != 5:
            n = len(output) if isinstance(output, tuple) else 1
            raise Misfit(f"its step returns {n} values, not observation, reward, terminated, truncated, info")
        observation, reward, terminated, truncated, _ = output
        known = {o.next_state for _, o in self.table.rows.get((before, action), ())}
        return Outcome(
            self._next(observation, bool(terminated), known), self._reward(reward), bool(terminated), bool(truncated)
        )

    def _next(self, observation: Any, terminated: bool, known: set[int]) -> int:
        """The next state: what is observed, unless the environment goes on from another one, which is then told."""
        seen, held = as_state(observation), as_state(getattr(self.base, self.tracked[0]))
        if seen is None or (held is not None and not terminated and seen in known):
            seen = held if held is not None else seen
        return -1 if seen is None else seen

    def _reward(self, reward: Any) -> float:
        """The reward; if it is one of the table but for rounding, that one."""
        value = float(reward)
        near = [r for r in self.rewards if abs(r - value) <= 1e-6 * max(1.0, abs(r))]
        return near[0] if near else round(value, 9)


def _copied(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of an environment, with copies of small containers, which it may change in place."""
    fixed = ("P", *_START.split())
    return {name: value if name in fixed else _copy(value) for name, value in attributes.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy() if value.size <= 1000 else value
    return value.copy() if isinstance(value, list | set | dict) and len(value) <= 1000 else value


def as_state(value: Any) -> int | None:
    """An integer, however it is packed; None if it is none."""
    try:
        array = np.asarray(value)
        return int(array.reshape(())) if array.size == 1 and array.dtype.kind in "iu" else None
    except (TypeError, ValueError):
        return None


def _expected(row: Sequence[tuple[float, Outcome]]) -> list[tuple[Hashable, float]]:
    return [(outcome, p) for p, outcome in row]


def plain(outcome: Outcome) -> Outcome:
    """The outcome without its flag of truncation: a limit of time is no part of the table."""
    return outcome._replace(truncated=False)


def step_law(probe: Probe, place: tuple[int, Any], context: str) -> Law | None:
    """The law of a step; None if it is that of the table."""
    run, row = _bounded(probe.run(place, context)), probe.table.rows[place]
    if is_law(lambda draws: plain(run(draws)), _expected(row)):
        return None
    found = law(run, _points(row))
    seen = mixture([(p, {plain(outcome): 1.0}) for outcome, p in found.items() if isinstance(outcome, Outcome)])
    return None if same(seen, probe.table.law(place), TOLERANCE) else found


def _bounded(run: Callable[[Sequence[float]], Any], limit: int = 40_000) -> Callable[[Sequence[float]], Any]:
    """A function that may be called so often only: a law with a density has no end of different outcomes."""
    left = iter(range(limit))

    def bounded(draws: Sequence[float]) -> Any:
        if next(left, None) is None:
            raise Unsupported("too many outcomes")
        return run(draws)

    return bounded


def _points(row: Sequence[tuple[float, Outcome]]) -> list[float]:
    """Where the outcome may change: the cumulated probabilities, in several orders, and what is just beside them."""
    p = [q for q, _ in row if q > 0]
    merged: dict[int, float] = {}
    for q, outcome in row:
        merged[outcome.next_state] = merged.get(outcome.next_state, 0.0) + q
    by_state = [merged[s] for s in sorted(merged)]
    orders = [p, p[::-1], sorted(p), sorted(p, reverse=True), by_state, by_state[::-1]]
    ends = {round(end, 9) for order in orders for end in accumulate(order)}
    return [end + shift for end in ends for shift in (-1e-7, 1e-7)]


def start_law(probe: Probe) -> Law | None:
    """The law of the start state; None if it is the published one."""
    expected: list[tuple[Hashable, float]] = list(enumerate(probe.table.start or ()))
    if expected and is_law(probe.run_reset, expected):
        return None
    published = {s: p for s, p in expected if p > 0}
    ends = accumulate(published.values())
    found = law(_bounded(probe.run_reset), [end + shift for end in ends for shift in (-1e-7, 1e-7)])
    return None if same(found, published, TOLERANCE) else found
