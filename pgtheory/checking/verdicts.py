"""The verdict on a function's answers in one form: right, or which known mistake, or an unknown one."""

import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from pgtheory.checking.calling import Form, Inputs, Layout, Misfit, in_one_line
from pgtheory.checking.report import Counterexample, Mistake, Report

if TYPE_CHECKING:
    from pgtheory.checking.judge import Bench, Check, Implementation

# A right implementation may add 1e-8 to a denominator, or compute in single precision; no two mistakes are this close.
_T = TypeVar("_T")
RTOL, ATOL = 1e-4, 1e-5


class Asked:
    """What a function answers in one form, part by part, case by case: it is asked once, and only when it matters."""

    def __init__(self, check: "Check", form: Form) -> None:
        self.check, self.form, self.bench = check, form, check.bench(form.facts, rows=form.layout.lacks_batch)
        self._known: dict[int, Mapping[str, Tensor] | Exception] = {}

    def __call__(self, i: int) -> Mapping[str, Tensor] | Exception:
        """The answer in a case."""
        if i not in self._known:
            inputs = Inputs(self.bench.cases[i].inputs, self.form.derived)
            inputs.notes = self.form.notes
            parts, layout, sizes = self.check.parts, self.form.layout, self.bench.sizes[i]
            try:
                self._known[i] = quietly(parts, self.form.call, layout, inputs, sizes)
            except Exception as error:
                self._known[i] = error
        return self._known[i]

    def is_hopeless(self) -> bool:
        """Whether some answer is none that is right, or right with a remark: found by the first cases, if it is."""
        check, bench = self.check, self.bench
        harmless = (f for m in check.mistakes if m.severity == "remark" for f in m.implementations)
        hopeful = [*check.right.values(), *harmless]
        for i in bench.counted:
            parts = self(i)
            if isinstance(parts, Exception):
                return False  # it may be one that does not fit at all
            inputs, found = bench.cases[i].inputs, parts.values()
            hopeful = [f for f in hopeful if any(check.close(inputs, x, bench.answer(f, i)) for x in found)]
            if not hopeful:
                break
        return not hopeful and not (check.space and bench.space.admits(self._counted))

    def _counted(self, i: int) -> Tensor | Exception:
        """The answer, of one part, in a case that is not delicate."""
        parts = self(self.bench.counted[i])
        return parts if isinstance(parts, Exception) else next(iter(parts.values()))


class Trial(NamedTuple):
    """The answers of a function in one form, part by part, and the part that is judged."""

    form: Form
    bench: "Bench"
    answers: Sequence[Mapping[str, Tensor] | Exception]
    part: str

    def got(self, i: int) -> Tensor | Exception:
        """The answer in a case."""
        answer = self.answers[i]
        return answer if isinstance(answer, Exception) else answer[self.part]

    @property
    def counted(self) -> list[Tensor | Exception]:
        """The answers in the cases that are not delicate."""
        return [self.got(i) for i in self.bench.counted]


def tried(asked: Asked) -> Trial | Exception:
    """The trial of a form, or why the function does not fit it.

    It does not if the first case of a shape fails because of it, if most cases raise, or if all do in which some axis
    is longer than 1: then it has no such axis.
    """
    check, form, bench = asked.check, asked.form, asked.bench
    answers: list[Mapping[str, Tensor] | Exception] = []
    shapes: dict[tuple[int, ...], list[bool]] = {}
    errors: list[Exception] = []
    for i, (case, sizes) in enumerate(zip(bench.cases, bench.sizes, strict=True)):
        fresh = tuple(sizes.values()) not in shapes
        fails = shapes.setdefault(tuple(sizes.values()), [])
        answers.append(answer := asked(i))
        if isinstance(answer, Exception):
            if i == 0 or (isinstance(answer, Misfit) and fresh):
                return answer
            errors.append(answer)
        if not case.delicate:
            fails.append(isinstance(answer, Exception))
    long = [
        [failed for lengths, failed in shapes.items() if failed and lengths[axis] > 1] for axis in range(len(sizes))
    ]
    lacks_an_axis = any(failed and all(map(all, failed)) for failed in long)
    if 2 * len(errors) > len(answers) or lacks_an_axis:
        return Misfit(f"it fails in {len(errors)} of {len(answers)} cases: {in_one_line(errors[0])}")
    return _chosen(check, Trial(form, bench, answers, ""))


def _chosen(check: "Check", trial: Trial) -> Trial | Exception:
    """The trial with the part that is judged, which every case has."""
    answered = [(c.inputs, a) for c, a in zip(trial.bench.cases, trial.answers, strict=True) if isinstance(a, Mapping)]
    common = [name for name in answered[0][1] if all(name in parts for _, parts in answered)]
    if not common:
        return Misfit("no part of what it returns has the right shape in every case")
    if check.choose:
        try:
            chosen, remark = check.choose([(x, {name: parts[name] for name in common}) for x, parts in answered])
        except Misfit as misfit:
            return misfit
        trial.form.notes.update([remark] if remark else [])
        return trial._replace(part=chosen)
    trials = [trial._replace(part=name) for name in common]
    right = [t for t in trials if any(not _faults(t, f) for f in check.right.values())]
    if right and right[0].part != common[0]:
        trial.form.notes.add(f"of the {len(common)} arrays that it returns, {right[0].part} is right")
    return (right or trials)[0]


def verdict(check: "Check", trial: Trial) -> Report:
    """What is to be said of the answers in one form: right, or which known mistake, or an unknown one."""
    if check.space and (located := _located(check, trial)) is not None:
        return located
    faults = {name: _faults(trial, fn) for name, fn in check.right.items()}
    nearest = min(faults, key=lambda name: len(faults[name]))
    wrong_in = faults[nearest]
    delicate = _without_excuses(trial)
    plain = "" in faults and not faults[""]  # the usual form needs no word
    excused = all(delicate[i] for i in wrong_in)
    kind = _kind(trial, delicate) if excused and not plain else ()
    if not wrong_in:
        return _report(check, trial, True, remarks=kind)
    rows = trial.form.layout.lacks_batch
    known = [m for m in check.mistakes if not (rows and m.key in check.of_the_batch)]
    known = [m for m in known if check.applies(m, trial.form.facts)]
    # The first case, and the largest of those in which it is wrong, tell most mistakes apart from it.
    order = list(dict.fromkeys([0, *reversed(wrong_in), *_places(trial)]))
    for spare in (False, True):
        explained = [
            m for m in known if any(_explains(trial, f, order, wrong_in, delicate, spare) for f in m.implementations)
        ]
        if harmless := [m for m in explained if m.severity == "remark"]:
            return _report(check, trial, True, remarks=(*kind, *(f"{m.name}: {m.meaning}" for m in harmless)))
        if explained:
            first, *others = explained
            same = tuple(f"in these cases it is the same as: {m.name}" for m in others)
            return _report(check, trial, False, (first,), same, wrong_in, nearest)
    if excused:
        return _report(check, trial, True, remarks=(*kind, *sorted({delicate[i] for i in wrong_in})))
    firm = [i for i in wrong_in if not delicate[i]]  # what is no fault is not shown as one
    report = _report(check, trial, False, (), (), firm, nearest)
    if check.space:
        report = _against_the_nearest(check, trial, report)
    if why := check.unstated(trial):
        return replace(report, ok=False, abstains=why, counterexample=None, details={})
    return report


def _located(check: "Check", trial: Trial) -> Report | None:
    """The report of a function that is one of a space of hypotheses."""
    found = trial.bench.space.explained(trial.counted)
    if found is None:
        return None
    named = tuple(m for tail in found.mistakes for m in check.mistakes if m.key == f"{check.name}.{tail}")
    remarks, details = check.describe(trial, found)
    remarks = (*remarks, *found.remarks, *_delicate_remarks(trial))
    report = _report(check, trial, not named, named, remarks)
    return replace(report, details=details) if not named else _against_the_nearest(check, trial, report)


def _against_the_nearest(check: "Check", trial: Trial, report: Report) -> Report:
    """The report with the first case that differs from the nearest right loss."""
    counted = trial.bench.counted
    right = trial.bench.space.nearest_right(trial.counted)
    place, expected = right or (
        0,
        torch.full([math.prod(check.sizes(trial.bench.cases[counted[0]].inputs).values())], torch.nan),
    )
    i = counted[place]
    sizes = check.sizes(trial.bench.cases[i].inputs)
    return replace(
        report, counterexample=_counterexample(check, trial, i, expected.reshape([*sizes.values()])), details={}
    )


def _delicate_remarks(trial: Trial) -> list[str]:
    """Why the cases are delicate in which a function fails, or returns what is not finite."""
    found = []
    for i, case in enumerate(trial.bench.cases):
        got = trial.got(i)
        if case.delicate and not (isinstance(got, Tensor) and bool(got.isfinite().all())):
            found.append(case.delicate)
    return list(dict.fromkeys(found))


def _places(trial: Trial) -> range:
    return range(len(trial.answers))


def _faults(trial: Trial, implementation: "Implementation") -> list[int]:
    close, cases = trial.bench.check.close, trial.bench.cases
    return [
        i for i in _places(trial) if not close(cases[i].inputs, trial.got(i), trial.bench.answer(implementation, i))
    ]


def _without_excuses(trial: Trial) -> list[str]:
    """Why each case is delicate; a case in which a function may only fail is not, if it did not fail."""
    found = []
    for i, case in enumerate(trial.bench.cases):
        got = trial.got(i)
        finite = isinstance(got, Tensor) and bool(got.isfinite().all())
        found.append("" if case.or_fails and finite else case.delicate)
    return found


def _kind(trial: Trial, delicate: Sequence[str]) -> tuple[str, ...]:
    """Which right form it is: that with the same answers in the most cases, and in all that are not delicate."""
    bench, places = trial.bench, _places(trial)
    right = bench.check.right.items()
    misses = {name: [i for i in places if not same(trial.got(i), bench.answer(f, i))] for name, f in right}
    firm = [name for name, missed in misses.items() if all(delicate[i] for i in missed)]
    best = min(firm, key=lambda name: len(misses[name]), default="")
    return (f"it is {best}",) if best else ()


def _explains(
    trial: Trial,
    f: "Implementation",
    order: Sequence[int],
    wrong_in: Sequence[int],
    delicate: Sequence[str],
    spare: bool,
) -> bool:
    """Whether a mistake answers the same in every case, and is wrong in one of those in which the function is.

    The cases are looked at in an order. With `spare`, kinds of delicate cases in which it differs do not count.
    """
    spared: set[str] = set()
    for i in order:
        if not same(trial.got(i), trial.bench.answer(f, i)) and delicate[i] not in spared:
            if not (spare and delicate[i]):
                return False
            spared.add(delicate[i])
    rest = [i for i in wrong_in if delicate[i] not in spared]
    right = trial.bench.check.right.values()
    close, cases = trial.bench.check.close, trial.bench.cases
    return any(
        not any(close(cases[i].inputs, trial.bench.answer(f, i), trial.bench.answer(r, i)) for r in right) for i in rest
    )


def same(one: Tensor | Exception, other: Tensor | Exception) -> bool:
    """Whether two answers are equal but for rounding: NaN equals NaN, and to raise is to raise."""
    if isinstance(one, Exception) or isinstance(other, Exception):
        return isinstance(one, Exception) and isinstance(other, Exception)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.allclose(one, other, rtol=RTOL, atol=ATOL, equal_nan=True)


def _report(
    check: "Check",
    trial: Trial,
    ok: bool,
    mistakes: tuple[Mistake, ...] = (),
    remarks: tuple[str, ...] = (),
    wrong_in: Sequence[int] = (),
    nearest: str = "",
) -> Report:
    form, n = trial.form, len(trial.answers)
    report = Report(
        check.name,
        ok,
        mistakes,
        (*remarks, *sorted(form.notes)),
        form=form.name,
        n_cases=n,
        binding=form.shown,
        judged=trial.part,
    )
    if check.numbers:
        report = replace(report, details=check.numbers(trial))
    if ok or not wrong_in:
        return report
    right = check.right[nearest]
    details = {"wrong in": f"{len(wrong_in)} of {n} cases ({len(wrong_in) / n:.0%})"}
    if check.numbers:
        details |= report.details
    elif worst := _largest_error(trial, right):
        details["largest error"] = f"{worst:.6g}"
    case = _counterexample(check, trial, wrong_in[0], trial.bench.answer(right, wrong_in[0]))
    return replace(report, counterexample=case, details=details)


def _counterexample(check: "Check", trial: Trial, i: int, expected: Tensor | Exception) -> Counterexample:
    """A case as the function saw it."""
    form, names = trial.form, [arg.name for arg in check.args]
    given = Inputs(trial.bench.cases[i].inputs, form.derived)
    inputs = {role: form.view(getattr(given, role), role) for role in sorted(form.roles, key=names.index)}
    x = trial.bench.cases[i].inputs
    expected, got = (_as_seen(check.shown(x, answer), form.layout, check) for answer in (expected, trial.got(i)))
    return Counterexample(inputs, expected, got, check.quantity)


def _as_seen(answer: Any, layout: Layout, check: "Check") -> Any:
    axes = check.axes.split()
    return layout.arranged(answer, axes) if isinstance(answer, Tensor) and answer.ndim == len(axes) else answer


def _largest_error(trial: Trial, right: "Implementation") -> float | None:
    pairs = [(trial.got(i), trial.bench.answer(right, i)) for i in _places(trial)]
    errors = [
        float((got - expected).abs().nan_to_num(0.0, 0.0, 0.0).max())
        for got, expected in pairs
        if isinstance(got, Tensor) and isinstance(expected, Tensor) and got.shape == expected.shape and got.numel()
    ]
    return max(errors) if errors and math.isfinite(max(errors)) and max(errors) > 0 else None


# --- calls ---


def quietly(call: Callable[..., _T], *arguments: Any) -> _T:
    """Call without letting it warn: of a division by zero, for example."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Put the global random states back, which the functions under test may use."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])
