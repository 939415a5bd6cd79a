"""Does an environment do what its table of dynamics says? And if not, which known mistake is it?"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from math import log, sqrt
from typing import TYPE_CHECKING, Any

from pgtheory.checking.calling import Misfit, misunderstood
from pgtheory.checking.draws import Law, Unsupported, distance, mixture, same
from pgtheory.checking.environments import (
    EXAMPLE,
    TOLERANCE,
    Fault,
    Outcome,
    Probe,
    Table,
    base_of,
    plain,
    read_table,
    start_law,
    step_law,
)
from pgtheory.checking.judge import Kind
from pgtheory.checking.kinds.environment_mistakes import MISTAKES
from pgtheory.checking.report import Counterexample, Mistake, Report

if TYPE_CHECKING:
    import gymnasium

FALSE_ALARM = 1e-10


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
    base, made = base_of(environment)
    try:
        table = read_table(base)
        wrong = _table_report(table)
        if wrong is not None:
            return wrong
        with Probe(base, table, form) as probe:
            return _report(probe)
    except Misfit as misfit:
        raise misunderstood("mdp", {type(base).__name__: str(misfit)}, EXAMPLE) from misfit
    finally:
        if made:
            base.close()


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
    return Report("mdp", False, (_named(key),), (), example, {}, "the table alone", len(table.rows))


# The verdict.


def _report(probe: Probe) -> Report:
    if probe.global_states is not None:
        return _sampled_report(probe)
    try:
        start = start_law(probe)
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


def _faults(probe: Probe, reached: set[int]) -> Iterator[Fault]:
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


def _draws_unseen(probe: Probe, reached: set[int]) -> bool:
    """Whether the same step, with the same draws, has several outcomes: then it draws where it cannot be seen."""
    places = sorted((p for p in probe.table.rows if p[0] in reached), key=lambda place: -len(probe.table.rows[place]))
    for place in [*places[:4], *places[4 :: 1 + len(places) // 8]]:
        seen = set()
        for _ in range(30):
            probe.restore(probe.contexts["after reset"])
            probe.put(place[0])
            seen.add(probe.act(place[1], (), 0.5))
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


def _verdict(probe: Probe, start: Law | None, faults: Sequence[Fault], reached: set[int], gap: float = 0.0) -> Report:
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
    return mixture([(p, {plain(outcome): 1.0}) for outcome, p in found.items() if isinstance(outcome, Outcome)])


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
        plain(o) in known for o in outcomes if o.next_state in states
    )


def _named(key: str) -> Mistake:
    return next(mistake for mistake in MISTAKES if mistake.key == key)


# Samples, for environments that draw in a way that cannot be enumerated.


def _sampled_report(probe: Probe) -> Report:
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


def _sampled_fault(probe: Probe, place: tuple[int, Any], n: int, gap: float) -> Fault | None:
    found: Law = {}
    for _ in range(n):
        probe.restore(probe.contexts["after reset"])
        probe.put(place[0])
        outcome = probe.act(place[1], (), None)
        found[outcome] = found.get(outcome, 0.0) + 1 / n
    fault = Fault(place, found, "after reset")
    return None if _near(_without_truncation(found), probe.table.law(place), gap) else fault


def _sampled_start(probe: Probe, n: int) -> Law:
    found: Law = {}
    for _ in range(n):
        probe.restore(probe.fresh)
        state = probe.reset(None)
        found[state] = found.get(state, 0.0) + 1 / n
    return found


def _near(found: Law, known: Law, gap: float) -> bool:
    """Whether nothing impossible was seen, and every frequency is near its probability."""
    return set(found) <= {x for x, p in known.items() if p > 0} and all(
        abs(p - found.get(x, 0.0)) <= gap for x, p in known.items()
    )


CHECK = Kind("mdp", 1, MISTAKES)
