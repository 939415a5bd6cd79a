"""Does an environment do what its table of dynamics says? And if not, which known mistake is it?"""

import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate
from math import log, sqrt
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pgtheory._gymnasium import import_gymnasium
from pgtheory.checking._draws import (
    Chooser,
    Law,
    Unsupported,
    distance,
    global_generators,
    is_law,
    law,
    mixture,
    same,
    stand_in,
)
from pgtheory.checking._engine import call_quietly, misunderstood
from pgtheory.checking._forms import Misfit
from pgtheory.checking.report import Counterexample, Mistake, Report, Source, arxiv, issue, pull

if TYPE_CHECKING:
    import gymnasium

TOLERANCE = 1e-6
FALSE_ALARM = 1e-10
_STATES = "s state _state _s current_state cur_state agent_state _agent_state pos position agent_pos"
_SEED = 20_240_501
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


def check_mdp(environment: "gymnasium.Env[Any, Any] | str | Callable[[], Any]", *, form: str | None = None) -> Report:
    r"""Check that a Gymnasium environment samples the dynamics of its own table, :math:`p(s', r \mid s, a)`.

    Equation :eq:`eq-dynamics`. The environment publishes a table ``P``, as those of Gymnasium's toy text do, whose
    entry ``P[s][a]`` lists outcomes (probability, next state, reward, terminated), and keeps its state in ``s``.
    In every state and for every action its random numbers are chosen, not drawn, so that the law of `step` is computed
    exactly; that of `reset` likewise, against `initial_state_distrib`. Wrappers are taken off. Afterwards the
    environment is as it was.

    Args:
        environment: an environment, the name of a registered one, or a function that makes one.
        form: the name of the attribute that holds the state, if it is not one of the usual ones.

    Returns:
        The report. `details` has the largest total variation distance between `step` and the table.

    Raises:
        UnknownForm: there is no such environment, or no table, or none for a state in which an episode goes on, or no
            attribute that holds the state, or `step` does not return five values.
        ImportError: Gymnasium is not installed.

    Source:
        Sutton and Barto, *Reinforcement Learning*, 2018, eq. (3.2).

    Example:
        >>> print(check_mdp("FrozenLake-v1").headline)
        check_mdp: right
    """
    base, made = _base(environment)
    try:
        table = read_table(base)
        wrong = _table_report(table)
        if wrong is not None:
            return wrong
        with _Probe(base, table, form) as probe:
            return _report(probe)
    except Misfit as misfit:
        raise misunderstood("mdp", {type(base).__name__: str(misfit)}) from misfit
    finally:
        if made:
            base.close()


def _base(environment: Any) -> tuple[Any, bool]:
    """The environment without its wrappers, and whether it was made here."""
    gymnasium = import_gymnasium()
    if isinstance(environment, str):
        try:
            return call_quietly(gymnasium.make, environment).unwrapped, True
        except (gymnasium.error.Error, ImportError) as error:  # no such name, or what it needs is not installed
            raise misunderstood("mdp", {environment: f"{type(error).__name__}: {error}"}) from error
    if not hasattr(environment, "step") or isinstance(environment, type):
        if not callable(environment):
            raise misunderstood("mdp", {type(environment).__name__: "it is no environment: it has no step"})
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


def _table_report(table: Table) -> Report | None:
    """The report of a table that describes no MDP; None if it does.

    Raises:
        Misfit: an episode goes on in a state of which it says nothing.
    """
    for (s, a), row in table.rows.items():
        probabilities, shown = [p for p, _ in row], _shown_row(row)
        if row and not (all(p >= 0 for p in probabilities) and abs(sum(probabilities) - 1) <= TOLERANCE):
            example = Counterexample(
                {"state": s, "action": a, "table": shown}, 1.0, sum(probabilities), "sum of P[s][a]"
            )
            return _of_table(table, "mdp.probabilities_do_not_sum_to_1", example)
        outside = [o.next_state for p, o in row if not 0 <= o.next_state < table.n_states]
        if outside:
            expected = f"0 to {table.n_states - 1}"
            example = Counterexample({"state": s, "action": a, "table": shown}, expected, outside[0], "next state")
            return _of_table(table, "mdp.next_state_outside", example)
    start = table.start
    if start is not None and (len(start) != table.n_states or min(start) < 0 or abs(sum(start) - 1) > TOLERANCE):
        example = Counterexample({"number of states": table.n_states}, 1.0, sum(start), "sum of initial_state_distrib")
        return _of_table(table, "mdp.probabilities_do_not_sum_to_1", example)
    known = {s for (s, _), row in table.rows.items() if row}
    for (s, a), row in table.rows.items():
        for p, outcome in row:
            if p > 0 and not outcome.terminated and outcome.next_state not in known:
                raise Misfit(f"its table has no row of state {outcome.next_state}, to which action {a} in {s} leads")
    return None


def _of_table(table: Table, key: str, example: Counterexample) -> Report:
    found = tuple(mistake for mistake in MISTAKES if mistake.key == key)
    return Report("mdp", False, found, (), example, {}, "the table alone", len(table.rows))


# The law of step and reset.


class _Probe(AbstractContextManager["_Probe"]):
    """An environment whose state and random numbers are chosen; as it was when the context is left."""

    def __init__(self, base: Any, table: Table, attribute: str | None) -> None:
        self.base, self.table, self.chooser = base, table, Chooser()
        self.tracked: list[str] = []
        self.attribute = attribute
        self.kept = dict(vars(base))
        self.notes: set[str] = set()
        self.rewards = sorted({o.reward for row in table.rows.values() for _, o in row})

    def __enter__(self) -> "_Probe":
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
        self._restore(self.fresh)
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
        self._restore(self.fresh)
        state = self.reset(rule)
        self._follow(state)
        for i in range(n_steps):
            actions = self.table.actions(state)
            before = _copied(vars(self.base))
            outcome = self._step(actions[i % len(actions)], (), rule) if actions else None
            if outcome is None or outcome.terminated or outcome.raised:
                self._restore(before)
                break
            state = outcome.next_state
            self._follow(state)
        return state

    def _follow(self, state: int) -> None:
        """Leave out attributes that do not follow the state, unless none does."""
        self.tracked = [name for name in self.tracked if _as_state(getattr(self.base, name)) == state] or self.tracked

    def put(self, state: int) -> None:
        """Go to a state."""
        for name in self.tracked:
            old = getattr(self.base, name)
            setattr(self.base, name, np.full_like(old, state) if isinstance(old, np.ndarray) else state)

    def reset(self, rule: float | None, draws: Sequence[float] = ()) -> int:
        """The state after a reset."""
        self.chooser.start(draws, rule)
        try:
            output = call_quietly(self.base.reset)
        except Exception as error:
            raise Misfit(f"its reset raises {type(error).__name__}: {error}") from error
        if not isinstance(output, tuple) or len(output) != 2:
            raise Misfit("its reset does not return two values, the observation and a dictionary")
        state = _as_state(output[0])
        if state is None and self.tracked:
            state = _as_state(getattr(self.base, self.tracked[0]))
        if state is None:
            names = [self.attribute] if self.attribute else _STATES.split()
            state = next((x for name in names if (x := _as_state(getattr(self.base, name, None))) is not None), None)
        if state is None:
            raise Misfit(f"its observation {output[0]!r} is not the number of a state")
        return state

    def _track(self, state: int) -> None:
        """Find the attributes that hold the state: those that are equal to it."""
        names = [self.attribute] if self.attribute else _STATES.split()
        self.tracked = [name for name in names if name in vars(self.base) and _as_state(vars(self.base)[name]) == state]
        if not self.tracked:
            wanted = self.attribute or "s"
            raise Misfit(f"it has no attribute {wanted!r} that holds the number of its state: name it with form=...")

    def _holds_the_state(self, contexts: Mapping[str, dict[str, Any]], walks: Sequence[tuple[str, int]]) -> None:
        """Where going to a state and setting it are not the same, and the first is right, it is not held there."""
        for name, state in walks:
            for action in self.table.actions(state):
                self._restore(contexts[name])
                gone = self._step(action, (), 0.5)
                self._restore(contexts["after reset"])
                self.put(state)
                put = self._step(action, (), 0.5)
                known = self.table.law((state, action))
                if gone != put and _plain(gone) in known and _plain(put) not in known:
                    raise Misfit(
                        f"its attribute {self.tracked[0]!r} does not hold its whole state: name it with form=..."
                    )

    def _restore(self, attributes: Mapping[str, Any]) -> None:
        own = vars(self.base)
        own.clear()
        own.update(_copied(attributes))

    def run(self, place: tuple[int, Any], context: str) -> Callable[[Sequence[float]], Outcome]:
        """A step from a state, as a function of its draws."""
        attributes, (state, action) = self.contexts[context], place

        def one(draws: Sequence[float]) -> Outcome:
            self._restore(attributes)
            self.put(state)
            return self._step(action, draws, None)

        return one

    def run_reset(self, draws: Sequence[float]) -> int:
        """The state after a reset, as a function of its draws."""
        self._restore(self.fresh)
        return self.reset(None, draws)

    def _step(self, action: Any, draws: Sequence[float], rule: float | None) -> Outcome:
        before = _as_state(getattr(self.base, self.tracked[0])) or 0
        self.chooser.start(draws, rule)
        try:
            output = call_quietly(self.base.step, action)
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
        seen, held = _as_state(observation), _as_state(getattr(self.base, self.tracked[0]))
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


def _as_state(value: Any) -> int | None:
    """An integer, however it is packed; None if it is none."""
    try:
        array = np.asarray(value)
        return int(array.reshape(())) if array.size == 1 and array.dtype.kind in "iu" else None
    except (TypeError, ValueError):
        return None


def _expected(row: Sequence[tuple[float, Outcome]]) -> list[tuple[Hashable, float]]:
    return [(outcome, p) for p, outcome in row]


def _plain(outcome: Outcome) -> Outcome:
    """The outcome without its flag of truncation: a limit of time is no part of the table."""
    return outcome._replace(truncated=False)


def step_law(probe: _Probe, place: tuple[int, Any], context: str) -> Law | None:
    """The law of a step; None if it is that of the table."""
    run, row = _bounded(probe.run(place, context)), probe.table.rows[place]
    if is_law(lambda draws: _plain(run(draws)), _expected(row)):
        return None
    found = law(run, _points(row))
    plain = mixture([(p, {_plain(outcome): 1.0}) for outcome, p in found.items() if isinstance(outcome, Outcome)])
    return None if same(plain, probe.table.law(place), TOLERANCE) else found


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


def _start_law(probe: _Probe) -> Law | None:
    """The law of the start state; None if it is the published one."""
    expected: list[tuple[Hashable, float]] = list(enumerate(probe.table.start or ()))
    if expected and is_law(probe.run_reset, expected):
        return None
    published = {s: p for s, p in expected if p > 0}
    ends = accumulate(published.values())
    found = law(_bounded(probe.run_reset), [end + shift for end in ends for shift in (-1e-7, 1e-7)])
    return None if same(found, published, TOLERANCE) else found


# The verdict.


def _report(probe: _Probe) -> Report:
    if probe.global_states is not None:
        return _sampled_report(probe)
    try:
        start = _start_law(probe)
        reached = acted_in(probe.table, _first_states(probe.table, start))
        faults = list(_faults(probe, reached))
        silent = _draws_unseen(probe, reached)
    except Unsupported:
        silent = True
    if silent:
        probe.draw_truly()
        return _sampled_report(probe)
    if probe.used:
        names = ", ".join(sorted(probe.used))
        probe.notes.add(f"it draws by {names}, not by its np_random: reset(seed=...) does not make it repeatable")
    return _verdict(probe, start, faults, reached)


def _first_states(table: Table, start: Law | None) -> list[int]:
    published = [s for s, p in enumerate(table.start or ()) if p > 0]
    return published + [s for s in start or () if isinstance(s, int)]


def _faults(probe: _Probe, reached: set[int]) -> Iterator[Fault]:
    """The faults after a reset; if there are none, one after some steps, looked for in some hundred places."""
    places = [place for place, row in probe.table.rows.items() if row]
    found = False
    for place in places:
        if (wrong := step_law(probe, place, "after reset")) is not None:
            found |= place[0] in reached
            yield Fault(place, wrong, "after reset")
    places = [place for place in places if place[0] in reached]
    some = places[:: 1 + len(places) // 400] if len(places) > 400 else places
    for context in (name for name in probe.contexts if name != "after reset" and not found):
        for place in some:
            if (wrong := step_law(probe, place, context)) is not None:
                found = True
                yield Fault(place, wrong, context)
                break


def _draws_unseen(probe: _Probe, reached: set[int]) -> bool:
    """Whether the same step, with the same draws, has several outcomes: then it draws where it cannot be seen."""
    places = sorted((p for p in probe.table.rows if p[0] in reached), key=lambda place: -len(probe.table.rows[place]))
    for place in [*places[:4], *places[4 :: 1 + len(places) // 8]]:
        seen = set()
        for _ in range(30):
            probe._restore(probe.contexts["after reset"])
            probe.put(place[0])
            seen.add(probe._step(place[1], (), 0.5))
        if len(seen) > 1:
            return True
    return False


def acted_in(table: Table, start: Sequence[int]) -> set[int]:
    """The states in which an episode can act: reached from the start without the episode having ended."""
    successors: dict[int, set[int]] = {}
    for (s, _), row in table.rows.items():
        successors.setdefault(s, set()).update(o.next_state for p, o in row if p > 0 and not o.terminated)
    found, pending = set(start), list(start)
    while pending:
        new = successors.get(pending.pop(), set()) - found
        found |= new
        pending += new
    return found


def _verdict(probe: _Probe, start: Law | None, faults: Sequence[Fault], reached: set[int], gap: float = 0.0) -> Report:
    """The report; `gap` is how far sampled frequencies may be from their probabilities, and 0 if nothing is sampled."""
    table = probe.table
    if table.start is None:
        start = None
        probe.notes.add("it publishes no initial_state_distrib, and its start states are not checked")
    relevant = [fault for fault in faults if fault.place[0] in reached]
    notes = tuple(sorted({*probe.notes, *_notes_of(faults, reached)}))
    n_cases = sum(1 for row in table.rows.values() if row) + (table.start is not None)
    form = "step in every state with every action, its random numbers " + ("drawn" if gap else "chosen")
    if not relevant and start is None:
        return Report("mdp", True, (), notes, None, {}, form, n_cases)
    mistakes = _diagnosis(table, relevant, reached, gap or TOLERANCE)
    if start is not None:
        mistakes = (_named("mdp.start_state"), *mistakes) if mistakes or not relevant else ()
    example = _start_example(table, start) if start is not None else _example(table, relevant[0])
    return Report("mdp", False, mistakes, notes, example, _details(table, relevant), form, n_cases)


def _details(table: Table, faults: Sequence[Fault]) -> dict[str, Any]:
    if not faults:
        return {}
    worst = max(faults, key=lambda fault: _gap(table, fault))
    if worst.context != "after reset":
        return {"total variation distance": _gap(table, worst)}
    return {
        "wrong in": f"{len({f.place for f in faults})} of {len(table.rows)} pairs of a state and an action",
        "largest total variation distance": _gap(table, worst),
        "largest at": f"state {worst.place[0]}, action {worst.place[1]}",
    }


def _notes_of(faults: Sequence[Fault], reached: set[int]) -> Iterator[str]:
    apart = sorted({fault.place[0] for fault in faults} - reached)
    if apart:
        yield f"step differs from the table in states where no episode acts: {', '.join(map(str, apart[:5]))}" + (
            " and others" if len(apart) > 5 else ""
        )


def _gap(table: Table, fault: Fault) -> float:
    return distance(_without_truncation(fault.law), table.law(fault.place))


def _without_truncation(found: Law) -> Law:
    return mixture([(p, {_plain(outcome): 1.0}) for outcome, p in found.items() if isinstance(outcome, Outcome)])


def _example(table: Table, fault: Fault) -> Counterexample:
    s, a = fault.place
    inputs = {"state": s, "action": a} | ({"when": fault.context} if fault.context != "after reset" else {})
    quantity = "for each outcome: probability, next state, reward, terminated"
    return Counterexample(inputs, _shown(table.law(fault.place)), _shown(fault.law), quantity)


def _start_example(table: Table, start: Law) -> Counterexample:
    published: Law = {s: p for s, p in enumerate(table.start or ()) if p > 0}
    state = max(sorted({**published, **start}, key=repr), key=lambda s: abs(published.get(s, 0) - start.get(s, 0)))
    return Counterexample({"start state": state}, published.get(state, 0.0), start.get(state, 0.0), "its probability")


def _shown(found: Law) -> list[Any]:
    return _shown_row([(p, outcome) for outcome, p in sorted(found.items(), key=repr) if isinstance(outcome, Outcome)])


def _shown_row(row: Sequence[tuple[float, Outcome]]) -> list[Any]:
    return [
        o.raised or [p, o.next_state, o.reward, o.terminated, *(["truncated"] if o.truncated else [])] for p, o in row
    ]


# The diagnosis: what the laws of step and table have in common.

_Field = Callable[[Outcome], Hashable]


def _marginal(found: Law, field: _Field) -> Law:
    return mixture([(p, {field(outcome): 1.0}) for outcome, p in found.items() if isinstance(outcome, Outcome)])


def _diagnosis(table: Table, faults: Sequence[Fault], reached: set[int], tolerance: float) -> tuple[Mistake, ...]:
    if any(isinstance(outcome, Outcome) and outcome.raised for fault in faults for outcome in fault.law):
        return ()
    at_reset = [fault for fault in faults if fault.context == "after reset"]
    if not faults:
        return ()
    if not at_reset:
        return (_named("mdp.not_of_the_state_alone"),)
    laws = {place: table.law(place) for place, row in table.rows.items() if row and place[0] in reached}
    laws |= {fault.place: _without_truncation(fault.law) for fault in at_reset}
    key = _of_actions(table, laws, tolerance)
    if key:
        return (_named(key),)
    pairs = [(fault.law, table.law(fault.place)) for fault in at_reset]
    if all(same(_marginal(a, _next), _marginal(b, _next), tolerance) for a, b in pairs):
        return (*_of_flags(pairs, laws, tolerance), *_of_rewards(pairs, tolerance))
    if all(set(_without_truncation(a)) <= set(b) for a, b in pairs):
        return (_named("mdp.probabilities"),)
    return (_named("mdp.next_state"),) if all(_elsewhere(a, b) for a, b in pairs) else ()


def _next(outcome: Outcome) -> Hashable:
    return outcome.next_state


def _of_actions(table: Table, laws: Mapping[tuple[int, Any], Law], tolerance: float) -> str:
    """Whether every action does what the table says of another one, of always the same, or of all alike."""
    actions = sorted({a for _, a in laws}, key=repr)
    states = sorted({s for s, _ in laws})
    if len(actions) < 2 or any((s, a) not in laws for s in states for a in actions):
        return ""
    does: dict[Any, list[Any]] = {
        a: [b for b in actions if all(same(laws[s, a], table.law((s, b)), tolerance) for s in states)] for a in actions
    }
    if any(len(does[a]) == len(actions) for a in actions):
        return ""
    if set.intersection(*(set(others) for others in does.values())):
        return "mdp.action_ignored"
    if all(does.values()):
        return "mdp.another_action"
    uniform = {s: mixture([(1 / len(actions), table.law((s, b))) for b in actions]) for s in states}
    alike = all(same(laws[place], uniform[place[0]], tolerance) for place in laws)
    return "mdp.action_ignored" if alike else ""


def _of_flags(
    pairs: Sequence[tuple[Law, Law]], laws: Mapping[tuple[int, Any], Law], tolerance: float
) -> tuple[Mistake, ...]:
    """What is wrong with the flag of termination, where the next states are right."""
    wrong = [(a, b) for a, b in pairs if not same(_marginal(a, _flag), _marginal(b, _flag), tolerance)]
    if not wrong:
        return ()
    flags = {outcome.terminated for found in laws.values() for outcome in found if isinstance(outcome, Outcome)}
    ends = [{o.next_state for o in b if isinstance(o, Outcome) and o.terminated} for _, b in wrong]
    missed = [
        o
        for (a, _), where in zip(wrong, ends, strict=True)
        for o in a
        if isinstance(o, Outcome) and not o.terminated and o.next_state in where
    ]
    if missed and all(o.truncated for o in missed):
        return (_named("mdp.truncated_for_terminated"),)
    if len(flags) == 1:
        return (_named("mdp.always_terminated" if flags == {True} else "mdp.never_terminated"),)
    return (_named("mdp.terminated"),)


def _flag(outcome: Outcome) -> Hashable:
    return outcome.next_state, outcome.terminated


def _of_rewards(pairs: Sequence[tuple[Law, Law]], tolerance: float) -> tuple[Mistake, ...]:
    def reward(outcome: Outcome) -> Hashable:
        return outcome.next_state, outcome.reward

    right = all(same(_marginal(a, reward), _marginal(b, reward), tolerance) for a, b in pairs)
    return () if right else (_named("mdp.reward"),)


def _elsewhere(found: Law, known: Law) -> bool:
    """Whether a step leads to states that the table does not name, and is of the table where it does name them."""
    states = {o.next_state for o in known if isinstance(o, Outcome)}
    outcomes = [o for o in found if isinstance(o, Outcome)]
    return any(o.next_state not in states for o in outcomes) and all(
        _plain(o) in known for o in outcomes if o.next_state in states
    )


def _named(key: str) -> Mistake:
    return next(mistake for mistake in MISTAKES if mistake.key == key)


# Samples, for environments that draw in a way that cannot be enumerated.


def _sampled_report(probe: _Probe) -> Report:
    table, n_start = probe.table, 4000
    probe.notes.clear()
    starts = _sampled_start(probe, n_start)
    reached = acted_in(table, _first_states(table, starts))
    places = [place for place, row in table.rows.items() if row and place[0] in reached]
    n = max(60, min(4000, 60_000 // max(1, len(places))))
    m = sum(len(table.rows[place]) for place in places) + table.n_states
    # Hoeffding: Pr(|p̂ - p| > t) ≤ 2 exp(-2 n t²), with t such that the m events together have at most FALSE_ALARM
    gap, gap_start = (sqrt(log(2 * m / FALSE_ALARM) / (2 * count)) for count in (n, n_start))
    faults = [fault for place in places if (fault := _sampled_fault(probe, place, n, gap)) is not None]
    published: Law = {s: p for s, p in enumerate(table.start or ()) if p > 0}
    start = None if _near(starts, published, gap_start) else starts
    probe.notes.add(
        f"its random numbers cannot be chosen, so that {n} samples of each step are compared with the table: a right "
        f"environment is called wrong with probability below 1e-9, and differences below {gap:.2g} are not seen"
    )
    return _verdict(probe, start, faults, reached, gap)


def _sampled_fault(probe: _Probe, place: tuple[int, Any], n: int, gap: float) -> Fault | None:
    found: Law = {}
    for _ in range(n):
        probe._restore(probe.contexts["after reset"])
        probe.put(place[0])
        outcome = probe._step(place[1], (), None)
        found[outcome] = found.get(outcome, 0.0) + 1 / n
    fault = Fault(place, found, "after reset")
    return None if _near(_without_truncation(found), probe.table.law(place), gap) else fault


def _sampled_start(probe: _Probe, n: int) -> Law:
    found: Law = {}
    for _ in range(n):
        probe._restore(probe.fresh)
        state = probe.reset(None)
        found[state] = found.get(state, 0.0) + 1 / n
    return found


def _near(found: Law, known: Law, gap: float) -> bool:
    """Whether nothing impossible was seen, and every frequency is near its probability."""
    return set(found) <= {x for x, p in known.items() if p > 0} and all(
        abs(p - found.get(x, 0.0)) <= gap for x, p in known.items()
    )


# The known mistakes.


def _lake(
    step: Callable[[Any, Any, Any], Any] | None = None,
    reset: Callable[[Any], int] | None = None,
    table: Callable[[Any], None] | None = None,
    **options: Any,
) -> Callable[[], Any]:
    """A function that makes a small frozen lake with a change of its step, its reset or its table."""

    def make() -> Any:
        import_gymnasium()
        from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

        right: Any = FrozenLakeEnv

        class Lake(right):  # type: ignore[misc]
            def step(self, a: Any) -> Any:
                return super().step(a) if step is None else step(self, super().step, a)

            def reset(self, **keywords: Any) -> Any:
                state, info = super().reset(**keywords)
                if reset is not None:
                    self.s = state = reset(self)
                return state, info

        lake = Lake(desc=["SFF", "FHF", "FFG"], **{"is_slippery": True, "success_rate": 0.5, **options})
        if table is not None:
            table(lake)
        return lake

    return make


def _among_all_rows(lake: Any, step: Any, a: Any) -> Any:
    """A step by the outcomes of the row, all with the same probability."""
    row = lake.P[lake.s][a]
    _, lake.s, reward, terminated = row[int(lake.np_random.integers(len(row)))]
    return lake.s, reward, terminated, False, {}


def _never_slips(lake: Any, step: Any, a: Any) -> Any:
    row = lake.P[lake.s][a]
    _, lake.s, reward, terminated = row[len(row) // 2]
    return lake.s, reward, terminated, False, {}


def _changed(change: Callable[[Any, Any, bool, bool], tuple[Any, bool, bool]]) -> Callable[[Any, Any, Any], Any]:
    """A right step, of which the reward and the flags are changed afterwards, given the next state."""

    def step(lake: Any, right: Any, a: Any) -> Any:
        s, reward, terminated, truncated, info = right(a)
        return s, *change(s, reward, terminated, truncated), info

    return step


def _moved_on(lake: Any, step: Any, a: Any) -> Any:
    """A step that leads to the mirror image of the state, without reward."""
    s, reward, terminated, truncated, info = step(a)
    lake.s = (s + 5) % 9
    return lake.s, reward, terminated, truncated, info


def _sticky(lake: Any, step: Any, a: Any) -> Any:
    """A step that repeats the last action with probability 1/4."""
    if lake.lastaction is not None and lake.np_random.random() < 0.25:
        a = lake.lastaction
    return step(a)


def _first_outcome_dropped(lake: Any) -> None:
    for actions in lake.P.values():
        for a, row in actions.items():
            actions[a] = row[1:] if len(row) > 1 else row


def _states_from_one(lake: Any) -> None:
    for actions in lake.P.values():
        for a, row in actions.items():
            actions[a] = [(p, s + 1, r, end) for p, s, r, end in row]


_DYNAMICS = Source(
    "Sutton and Barto, 2018, eq. (3.2) and (3.3) (the right form)", "http://incompleteideas.net/book/the-book-2nd.html"
)

MISTAKES = (
    Mistake(
        "mdp.probabilities_do_not_sum_to_1",
        "probabilities of the table do not sum to 1",
        "The outcomes of an action, or the start states, have probabilities that are negative or do not sum to 1: "
        "values computed from the table are those of no process.",
        "The sum of P[s][a] over its outcomes is not 1.",
        (issue("MatthewJA/Inverse-Reinforcement-Learning", 1), issue("Svalorzen/AI-Toolbox", 45)),
        (_lake(table=_first_outcome_dropped),),
    ),
    Mistake(
        "mdp.next_state_outside",
        "next state of the table outside the observation space",
        "The table leads to a state that does not exist, often because states are counted from 1 in one place and from "
        "0 in another.",
        "A next state is negative, or not below the number of states.",
        (issue("QuantEcon/QuantEcon.py", 855),),
        (_lake(table=_states_from_one),),
    ),
    Mistake(
        "mdp.probabilities",
        "step samples the outcomes of the table with other probabilities",
        "Every outcome of step is one of the table, but not as often as the table says: planning on the table and "
        "learning from samples solve two different problems. An option changed after the table was built "
        "does it.",
        "Each single step looks right, and long averages do not.",
        (pull("rohitg00/ai-engineering-from-scratch", 54), _DYNAMICS),
        (_lake(_among_all_rows), _lake(_never_slips)),
    ),
    Mistake(
        "mdp.reward",
        "reward of step is not that of the table",
        "The next states are right and the rewards are not: a policy that is best for the table need not be so here.",
        "The next state and the flag agree, the reward does not.",
        (_DYNAMICS, issue("PacktPublishing/Hands-On-Reinforcement-Learning-with-Python", 4)),
        (
            _lake(_changed(lambda s, r, end, cut: (r - 0.01, end, cut))),
            _lake(_changed(lambda s, r, end, cut: (0.0, end, cut))),
            _lake(_changed(lambda s, r, end, cut: (-1.0 if end and not r else r, end, cut))),
        ),
    ),
    Mistake(
        "mdp.never_terminated",
        "terminated is never reported, though the table has ends",
        "The episode goes on after an end of the table: what is earned afterwards counts, and values are bootstrapped "
        "from a state that has none.",
        "Episodes end by their time limit alone.",
        (pull("openai/gym", 429), _DYNAMICS),
        (_lake(_changed(lambda s, r, end, cut: (r, False, cut))),),
    ),
    Mistake(
        "mdp.always_terminated",
        "terminated is reported after every step",
        "Every episode has one step, and nothing beyond the immediate reward can be learned.",
        "All episodes have length 1.",
        (issue("openai/gym", 2170), _DYNAMICS),
        (_lake(_changed(lambda s, r, end, cut: (r, True, cut))),),
    ),
    Mistake(
        "mdp.truncated_for_terminated",
        "termination reported as truncated",
        "An end of the table is reported as if a limit of time had been reached: a learner bootstraps from the "
        "terminal state, whose value is 0.",
        "terminated is False and truncated True where the table has an end.",
        (issue("Farama-Foundation/HighwayEnv", 415), issue("RobertTLange/gymnax", 109)),
        (
            _lake(_changed(lambda s, r, end, cut: (r, False, end))),
            _lake(_changed(lambda s, r, end, cut: (r, end and r > 0, end and r == 0))),
        ),
    ),
    Mistake(
        "mdp.terminated",
        "terminated flag of step is not that of the table",
        "Some outcomes end the episode in step and not in the table, or the other way round, such as a hole or a cliff "
        "that only one of the two takes for an end.",
        "Next states and rewards agree, the flag does not.",
        (
            pull("openai/gym", 429),
            issue("brett-daley/gym-classics", 6),
            issue("dennybritz/reinforcement-learning", 219),
        ),
        (
            _lake(_changed(lambda s, r, end, cut: (r, end and r > 0, cut))),
            _lake(_changed(lambda s, r, end, cut: (r, end or s == 2, cut))),
        ),
    ),
    Mistake(
        "mdp.action_ignored",
        "the action is ignored",
        "Whatever the action is, step does the same: always what one of the actions does, or one drawn at random.",
        "The law of the next state does not depend on the action.",
        (_DYNAMICS,),
        (
            _lake(lambda lake, step, a: step(0)),
            _lake(lambda lake, step, a: step(int(lake.np_random.integers(4)))),
        ),
    ),
    Mistake(
        "mdp.another_action",
        "actions permuted: step takes another action than the one given",
        "The numbers of the actions do not mean the same in step and in the table, such as up and down swapped.",
        "Step does exactly what the table says of another action, in all states.",
        (issue("rlberry-py/rlberry", 84), issue("openai/gym", 72)),
        (
            _lake(lambda lake, step, a: step((a + 1) % 4)),
            _lake(lambda lake, step, a: step(3 - a)),
            _lake(lambda lake, step, a: step(min(a + 1, 3))),
        ),
    ),
    Mistake(
        "mdp.next_state",
        "next state of step is not one of the table",
        "Step leads to states that the table does not name for this state and action, or goes on from another state "
        "than the one that it returns.",
        "A next state is seen that has no entry in P[s][a].",
        (_DYNAMICS, pull("rohitg00/ai-engineering-from-scratch", 54)),
        (_lake(_moved_on, is_slippery=False),),
    ),
    Mistake(
        "mdp.start_state",
        "start state of reset is not drawn from initial_state_distrib",
        "Episodes start elsewhere than the published distribution says: the expected return is that of another one.",
        "The frequencies of the start states differ from initial_state_distrib.",
        (pull("openai/gym", 345), issue("Farama-Foundation/Gymnasium", 1115)),
        (_lake(reset=lambda lake: 3), _lake(reset=lambda lake: int(lake.np_random.integers(9)))),
    ),
    Mistake(
        "mdp.not_of_the_state_alone",
        "step depends on more than the state and the action",
        "After some steps the same action in the same state has other outcomes than after a reset: what step remembers "
        "is not in the state, such as the last action, which a sticky one repeats.",
        "It is right in the first step of an episode and wrong later.",
        (arxiv("Machado et al., 2018 (sticky actions)", "1709.06009"), _DYNAMICS),
        (_lake(_sticky),),
    ),
)
