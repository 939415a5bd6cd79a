"""One judge for all checks: a function's answers against what is right, and against every known mistake."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pgtheory.checking import misuse
from pgtheory.checking.calling import (
    CONTAINERS,
    Arg,
    Binding,
    Call,
    Container,
    Form,
    Inputs,
    Layout,
    Misfit,
    Reading,
    Settle,
    as_tensor,
    bind,
    declared,
    guess,
    in_one_line,
    misunderstood,
    parameters_of,
    parts_of,
)
from pgtheory.checking.report import Mistake, Report, UnknownForm
from pgtheory.checking.space import Explanation, Space
from pgtheory.checking.verdicts import RTOL, Asked, Trial, quietly, random_state_kept, same, tried, verdict

# What sums in half precision may be off by, in units of the largest number.
HALF = 0.02


class Case(NamedTuple):
    """Canonical inputs; `delicate` says why a right implementation may differ there, if it may.

    With `or_fails` it may only fail: raise, or return what is not finite. A wrong number is a fault like others.
    """

    inputs: Mapping[str, Any]
    delicate: str = ""
    or_fails: bool = False


Implementation = Callable[..., Any]
#: From a call, its layout, the inputs and the sizes of the axes to the parts of the answer in the canonical layout.
Observe = Callable[[Call, Layout, Inputs, Mapping[str, int]], dict[str, Tensor]]

#: From the canonical inputs and the parts of the answer, case by case, to the part that is judged, and a remark.
Choose = Callable[[Sequence[tuple[Mapping[str, Any], Mapping[str, Tensor]]]], tuple[str, str]]


class Kind(NamedTuple):
    """A check that judges in a way of its own: its name, its chapter, and its known mistakes."""

    name: str
    chapter: int
    mistakes: tuple[Mistake, ...]


def _same(inputs: Mapping[str, Any], got: Tensor | Exception, expected: Tensor | Exception) -> bool:
    return same(got, expected)


def _undescribed(trial: Trial, found: Explanation) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    return (), {}


@dataclass(frozen=True, eq=False)
class Check:
    """What is right, on which cases, what is looked at, and which mistakes are known.

    Attributes:
        name: its name, as in `check_<name>`.
        chapter: of the book, which orders the checks.
        args: what it can give to a function; those that do not follow from others are the canonical inputs.
        needs: what a function has to take, with alternatives as in `"gamma|discounts"`.
        signature: the canonical order of arguments, for a function that takes `*args` or has no names.
        axes: the axes of the answer, such as `"B T"`.
        layouts: the orders of axes that are tried, as far as shapes leave a choice.
        reference: what is right, called with those canonical inputs that it names; or several right forms by name.
        cases: from what a function is told to the cases, the smallest first, each a whole batch.
        mistakes: the known mistakes, their implementations called like the reference.
        readings: how arguments may be taken, from the roles that are given.
        settle: decides an argument's name that has two meanings from the others.
        seen: what of an answer counts, from the canonical inputs and the answer.
        observe: what is looked at: by default what the function returns; `slopes.by` gives slopes of a loss.
        wanted: words of which an entry's name contains one, where a dictionary is returned.
        choose: which part is judged, and a remark, or a misfit; by default the first that is right.
        of_the_batch: the keys of mistakes that only a batch shows: then being right for a row is not enough.
        batched: whether what is accepted as a batch has to be right, however right it is for one row.
        containers: in which arrays are given, in their order.
        of_the_container: the keys of mistakes that code makes which is for another container: others are tried then.
        applies: whether a function that is told some facts can make a mistake.
        integers: the arguments that may be integers.
        close: whether an answer is as right as a right form's: by default if they are the same but for rounding.
        implied: what arguments mean, by their names, where another argument or a default tells it.
        space: from cases, and what a function is told, to a space of hypotheses, searched before all else.
        describe: remarks and numbers on a function that is one of these hypotheses.
        unstated: why a function whose mistake is unknown gets no verdict, if something of it was never stated.
        numbers: about the answers of a function, in place of how large its error is.
        shown: how an answer is shown in a counterexample, given the canonical inputs.
        quantity: what is compared, where it is not the returned value.
        example: the line that declares a call, in the message of an error.
    """

    name: str
    chapter: int
    args: tuple[Arg, ...]
    needs: tuple[str, ...]
    signature: tuple[str, ...]
    axes: str
    layouts: tuple[str, ...]
    reference: Implementation | Mapping[str, Implementation]
    cases: Callable[[frozenset[str]], Sequence[Case]]
    mistakes: tuple[Mistake, ...] = ()
    readings: Callable[[frozenset[str]], Sequence[Reading]] = lambda roles: [Reading()]
    settle: Settle | None = None
    seen: Callable[[Mapping[str, Any], Tensor], Tensor] = lambda inputs, answer: answer
    observe: Observe | None = None
    wanted: str = ""
    choose: Choose | None = None
    of_the_batch: tuple[str, ...] = ()
    batched: bool = False
    containers: tuple[Container, ...] = CONTAINERS
    of_the_container: tuple[str, ...] = ()
    applies: Callable[[Mistake, frozenset[str]], bool] = lambda mistake, facts: True
    integers: tuple[str, ...] = ()
    close: Callable[[Mapping[str, Any], Tensor | Exception, Tensor | Exception], bool] = _same
    implied: Callable[[Sequence[inspect.Parameter]], Mapping[str, str]] = lambda parameters: {}
    space: Callable[[Sequence[Case], frozenset[str]], Space] | None = None
    describe: Callable[[Trial, Explanation], tuple[tuple[str, ...], Mapping[str, Any]]] = _undescribed
    unstated: Callable[[Trial], str] = lambda trial: ""
    numbers: Callable[[Trial], Mapping[str, Any]] | None = None
    shown: Callable[[Mapping[str, Any], Any], Any] = lambda inputs, answer: answer
    quantity: str = ""
    example: str = "call=lambda x: f(...)"

    @cached_property
    def right(self) -> Mapping[str, Implementation]:
        """The right forms by name."""
        return self.reference if isinstance(self.reference, Mapping) else {"": self.reference}

    @cached_property
    def canonical(self) -> Layout:
        """The canonical layout: the axes of the canonical inputs in their order."""
        axes = tuple(dict.fromkeys(axis for arg in self.args if arg.of is None for axis in arg.axes.split()))
        return Layout(f"[{', '.join(axes)}]", axes)

    def judge(
        self,
        function: Callable[..., Any] | None = None,
        *,
        call: Call | None = None,
        layout: str | None = None,
        names: Mapping[str, str] | None = None,
    ) -> Report:
        """The report of a function: see the public functions `check_...`."""
        with random_state_kept():
            return _judged(self, function, call, layout, names)

    def bench(self, facts: frozenset[str], *, rows: bool = False) -> "Bench":
        """The cases for a function that is told these facts: batches, or the first row of each."""
        known: dict[tuple[frozenset[str], bool], Bench] = self.__dict__.setdefault("_benches", {})
        if (facts, rows) not in known:
            whole = tuple(self.cases(facts))
            known[facts, rows] = Bench(self, tuple(map(self._first_row, whole)) if rows else whole, facts)
        return known[facts, rows]

    def _first_row(self, case: Case) -> Case:
        """The case of the first row alone."""
        batch, axes = self.canonical.axes[0], {arg.name: arg.axes.split() for arg in self.args}
        batched = [name for name, x in case.inputs.items() if isinstance(x, Tensor) and axes[name][:1] == [batch]]
        return case._replace(inputs={**case.inputs, **{name: case.inputs[name][:1] for name in batched}})

    def sizes(self, inputs: Mapping[str, Any]) -> dict[str, int]:
        """The sizes of the axes of the answer."""
        found: dict[str, int] = {}
        for arg in self.args:
            if isinstance(inputs.get(arg.name), Tensor):
                found |= dict(zip(arg.axes.split(), inputs[arg.name].shape, strict=False))
        return {axis: found[axis] for axis in self.axes.split()}

    def parts(self, call: Call, layout: Layout, inputs: Inputs, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """What a call returned, part by part, as far as it counts."""
        observe = self.observe or self._returned
        values = inputs.canonical
        return {name: self.seen(values, part) for name, part in observe(call, layout, inputs, sizes).items()}

    def _returned(self, call: Call, layout: Layout, inputs: Inputs, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        output = call(inputs)
        found, misfit = dict[str, Tensor](), Misfit("it returned nothing")
        for name, part in {**parts_of(output, self.wanted)}.items():
            try:
                found[name] = layout.restored(as_tensor(part), sizes).double()
            except Misfit as error:
                misfit = error
        if isinstance(output, tuple) and not found:  # the answer itself as a tuple
            found[""] = layout.restored(as_tensor(output), sizes).double()
        if not found:
            raise misfit
        return found


class Bench:
    """Cases with what is right and what each known mistake answers, computed once."""

    def __init__(self, check: Check, cases: tuple[Case, ...], facts: frozenset[str]) -> None:
        self.check, self.cases, self.facts = check, cases, facts
        self._known: dict[tuple[Implementation, int], Tensor | Exception] = {}

    @cached_property
    def counted(self) -> list[int]:
        """The cases that are not delicate."""
        return [i for i, case in enumerate(self.cases) if not case.delicate]

    @property
    def plain(self) -> list[Case]:
        """The cases that are not delicate themselves."""
        return [self.cases[i] for i in self.counted]

    @cached_property
    def sizes(self) -> list[dict[str, int]]:
        """The sizes of the axes of the answer in each case."""
        return [self.check.sizes(case.inputs) for case in self.cases]

    @cached_property
    def space(self) -> Space:
        """The hypotheses, in the cases that are not delicate."""
        assert self.check.space is not None
        return quietly(self.check.space, self.plain, self.facts)

    def answer(self, implementation: Implementation, i: int) -> Tensor | Exception:
        """What an implementation in the canonical signature answers in a case."""
        if (implementation, i) not in self._known:
            self._known[implementation, i] = self._answered(implementation, i)
        return self._known[implementation, i]

    def _answered(self, implementation: Implementation, i: int) -> Tensor | Exception:
        inputs = Inputs(self.cases[i].inputs, {})
        accepted = _accepted(implementation)

        def call(x: Inputs) -> Any:
            values = x.canonical
            return implementation(**{name: values[name] for name in values if not accepted or name in accepted})

        try:
            parts = quietly(self.check.parts, call, self.check.canonical, inputs, self.sizes[i])
            return next(iter(parts.values()))
        except Exception as error:
            return error


@cache
def _accepted(implementation: Implementation) -> frozenset[str]:
    """The names of an implementation's arguments; empty if it takes any."""
    parameters = inspect.signature(implementation).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return frozenset()
    return frozenset(p.name for p in parameters)


# --- all forms ---


@dataclass
class _Search:
    """The reports of one reading of the arguments, form by form, and why others did not fit.

    Once a mistake is `named` in the canonical layout, other forms matter only if they are right.
    """

    #: The answers by the names of the forms, for whoever searches again.
    asked: dict[tuple[int, str], Asked] = field(default_factory=dict)
    named: bool = False
    waited: bool = False
    reports: list[tuple[Form, Report]] = field(default_factory=list)
    misfits: dict[str, str] = field(default_factory=dict)

    def fits(self, layout: Layout, container: str, reading: Reading) -> bool:
        """Whether the function answered in a layout and container, and a reading if that is tried anyway."""
        text = reading.text if reading.anyway else ""
        named = [f.name for f, _ in self.reports if f.layout == layout]
        return any(name.startswith(container) and name.endswith(text) for name in named)


def _judged(
    check: Check,
    function: Callable[..., Any] | None,
    call: Call | None,
    layout: str | None,
    names: Mapping[str, str] | None,
) -> Report:
    if call is not None:
        return _of_call(check, call)
    if not callable(function):
        raise TypeError(f"check_{check.name} takes a callable, or call=lambda x: ..., not {type(function).__name__}")
    try:
        meant = {**_implied(check, function), **(names or {})}
        bindings = bind(function, check.args, check.needs, check.signature, meant, check.settle)
    except Misfit as misfit:
        raise misunderstood(check.name, {"its arguments by their names": str(misfit)}, check.example) from None
    found, misfits = list[tuple[str, Report]](), dict[str, str]()
    for binding in bindings:
        search = _searched(check, function, binding, layout)
        misfits |= search.misfits
        if search.reports:
            found.append((binding.meaning, _concluded(check, function, binding, search, layout)))
    if not found:
        if not misfits:
            raise UnknownForm(f"check_{check.name} has no layout {layout!r}, only {', '.join(check.layouts)}")
        raise misunderstood(check.name, misfits, check.example)
    return agreed(found)


def _implied(check: Check, function: Callable[..., Any]) -> Mapping[str, str]:
    parameters = _parameters(function)
    return check.implied(parameters) if parameters else {}


def _parameters(function: Callable[..., Any]) -> Sequence[inspect.Parameter]:
    try:
        return parameters_of(function)
    except ValueError:  # a builtin without a signature
        return ()


def agreed(found: Sequence[tuple[str, Report]]) -> Report:
    """The report, if it does not depend on what an argument's name means; given the reports by the meanings."""
    reports = [report for _, report in found]
    if not any(report.ok for report in reports) or len(reports) == 1:
        return next((report for report in reports if report.mistakes), reports[0])
    lines = [f"with {meaning}: {report.headline.partition(': ')[2]}" for meaning, report in found]
    return replace(
        reports[0],
        ok=False,
        mistakes=(),
        remarks=(),
        counterexample=None,
        details={},
        abstains="\n".join(["the name of an argument has two meanings: declare which is meant", *lines]),
    )


def _of_call(check: Check, call: Call) -> Report:
    """The report of `call=`: it is told what it reads of the canonical inputs."""
    every = frozenset(arg.name for arg in check.args)
    probe = check.bench(every | check.readings(every)[0].facts).cases[0]
    inputs = Inputs(probe.inputs, {arg.name: arg.of for arg in check.args if arg.of})
    try:
        quietly(call, inputs)
    except AttributeError as error:
        if "the check has no input" in str(error):
            raise misunderstood(check.name, {"call=": str(error)}, check.example) from None
    except Exception:  # the trial says it
        pass
    used = inputs.used
    form = declared(call, check.args, check.readings(used)[0], check.canonical, used)
    trial = tried(Asked(check, form))
    if isinstance(trial, Exception):
        hint = f"; {mistake.name}" if (mistake := misuse.right_if(check, form)) else ""
        raise misunderstood(check.name, {"call=": f"{in_one_line(trial)}{hint}"}, check.example) from None
    return misuse.explained(check, form, verdict(check, trial))


def _searched(
    check: Check,
    function: Callable[..., Any],
    binding: Binding,
    only: str | None,
    layouts: Sequence[str] = (),
    before: Mapping[tuple[int, str], Asked] = MappingProxyType({}),
) -> _Search:
    """The forms in their order, until one is right: others only where a choice is left.

    A row that is wrong waits, at first, for the whole batch: where that has a known mistake, it does not matter.
    """
    first = _in_order(check, function, binding, only, layouts, before, rows_wait=True)
    if not first.waited or (first.named and not first.reports[-1][1].ok):
        return first
    return _in_order(check, function, binding, only, layouts, first.asked, rows_wait=False)


def _in_order(
    check: Check,
    function: Callable[..., Any],
    binding: Binding,
    only: str | None,
    layouts: Sequence[str],
    before: Mapping[tuple[int, str], Asked],
    *,
    rows_wait: bool,
) -> _Search:
    search = _Search({**before})
    readings = check.readings(binding.roles)
    choices = [(n, reading, text) for n, reading in enumerate(readings) for text in reading.layouts or check.layouts]
    in_turn = len(choices)
    for k, (n, reading, text) in enumerate(choices):
        if (layouts and text not in layouts) or (reading.doubt and reading.declared not in (only or "")):
            continue
        layout = Layout(text, check.canonical.axes)
        if ("1" in layout.axes or reading.rare) and (search.reports or search.waited):
            continue
        for guessed in guess(function, check.args, binding, reading, layout, check.containers):
            asked = search.asked.setdefault((n, guessed.name), Asked(check, guessed))
            form = asked.form
            container = form.name.partition(" ")[0]
            refused = search.fits(layout, container.partition(".")[0], reading) or any(
                f.layout == layout and f.name.endswith(reading.text) and _is_named(check, report)
                for f, report in search.reports
            )
            if refused or (only is not None and only not in form.name):
                continue
            if rows_wait and layout.lacks_batch and k < in_turn and asked.is_hopeless():
                search.waited = True
                choices.append((n, reading, text))
                break
            if search.named and asked.is_hopeless():
                search.reports.append((form, Report(check.name, ok=False)))
                continue
            trial = tried(asked)
            if isinstance(trial, Exception):
                search.misfits[form.name] = in_one_line(trial)
                continue
            report = verdict(check, trial)
            search.reports.append((form, report))
            if report.ok:
                return search
            search.named |= form.layout.is_canonical and len(report.mistakes) == 1 and _is_named(check, report)
    return search


def _is_named(check: Check, report: Report) -> bool:
    """Whether the mistake is known, and is not that of the container."""
    return bool(report.mistakes) and [m.key for m in report.mistakes] != [*check.of_the_container]


def _concluded(
    check: Check, function: Callable[..., Any], binding: Binding, search: _Search, declared_layout: str | None
) -> Report:
    """One report of many forms: what is right in one of them only is right with a remark, or is to be declared."""
    form, report = search.reports[-1]
    before = search.reports[:-1]
    if not report.ok:
        named = [(f, r) for f, r in search.reports if r.mistakes]
        best = min(named, key=lambda p: (not p[0].layout.is_canonical, len(p[1].mistakes)), default=search.reports[0])
        return _if_sure(check, function, binding, misuse.explained(check, *best))
    turned = not form.layout.is_canonical and not form.layout.lacks_batch
    batch = [r for f, r in before if f.layout.is_canonical]
    if turned and batch and not declared_layout:
        why = (
            f"it is right in the layout {form.layout.text}, and in {check.canonical.text} it is wrong"
            f"{_named(batch[0])}: declare layout={form.layout.text!r} if this is what it is for"
        )
        return replace(batch[0], mistakes=(), remarks=(), abstains=why)
    remarks = [f"called as {f.name} it returns other numbers{_named(r)}" for f, r in before[:1]]
    if form.layout.lacks_batch and form.layout.text not in (declared_layout or ""):
        worse = _in_batches(check, function, binding, form, search.asked)
        if isinstance(worse, Report):
            return worse
        remarks += worse
    return replace(report, remarks=(*report.remarks, *remarks, *_in_other_types(check, form)))


def _if_sure(check: Check, function: Callable[..., Any], binding: Binding, report: Report) -> Report:
    """The report, without a verdict if the function is right in a reading that may be meant and is to be declared."""
    if report.abstains:
        return report
    defaults = {binding.shown.get(p.name, ""): p.default for p in _parameters(function) if p.default is not p.empty}
    for reading in check.readings(binding.roles):
        if reading.doubt and reading.doubt(defaults, bool(report.mistakes)):
            search = _searched(check, function, binding, reading.declared)
            if search.reports and search.reports[-1][1].ok:
                otherwise = f", and otherwise wrong{_named(report)}" if report.diagnosis else ""
                why = f"it is right as {reading.declared}{otherwise}: "
                why += f"declare layout={reading.declared!r} if this is what it is for"
                return replace(report, abstains=why, mistakes=(), remarks=(), counterexample=None, details={})
    return report


def _named(report: Report) -> str:
    return f" ({report.diagnosis})" if report.diagnosis else ""


def _in_batches(
    check: Check, function: Callable[..., Any], binding: Binding, form: Form, asked: Mapping[tuple[int, str], Asked]
) -> Report | list[str]:
    """What a function that is right for one row does with a batch: a remark if it accepts one and is wrong."""
    found: dict[str, Report] = {}
    layouts = [Layout(text, check.canonical.axes) for text in check.layouts if "1" not in text]
    for layout in layouts:
        if layout.lacks_batch:
            continue
        search = _searched(check, function, binding, form.name.partition(" ")[0], [layout.text], asked)
        if search.reports:
            found[layout.text] = search.reports[-1][1]
            if layout.is_canonical and found[layout.text].ok:
                return []
    wrong = next(
        (r for r in found.values() if r.mistakes and (check.batched or r.mistakes[0].key in check.of_the_batch)), None
    )
    right = next((text for text, r in found.items() if r.ok), None)
    if check.batched and found and right is None:
        first = wrong or next(iter(found.values()))
        alone = f"for one row {form.layout.text} it is right: say layout={form.layout.text!r} if that is what it is for"
        return first if first.mistakes else replace(first, remarks=(*first.remarks, alone))
    if wrong is not None and right is None:
        return wrong
    if not found:
        return []
    known = next((_named(r) for r in found.values() if r.diagnosis), " (an unknown mistake)")
    row = f"it is right for one row {form.layout.text}"
    if right:
        return [f"{row}, and for a batch as {right}, not as {check.canonical.text}{known}"]
    return [f"{row}; given a batch, it returns wrong numbers without an error{known}"]


def _in_other_types(check: Check, form: Form) -> Iterator[str]:
    """Remarks on integer inputs, and on half precision."""
    bench = check.bench(form.facts, rows=form.layout.lacks_batch)
    if check.integers and _differs(check, form, bench, torch.int64, RTOL):
        yield f"integer {' and '.join(check.integers)} are truncated: the result is put in an array of their type"
    if form.name.startswith("torch") and _differs(check, form, bench, torch.float16, HALF):
        yield "in half precision (float16) its numbers are wrong: let it compute in single precision"


def _differs(check: Check, form: Form, bench: Bench, dtype: torch.dtype, tolerance: float) -> bool:
    """Whether the function returns other numbers, without an error, for inputs of another type."""
    if check.observe is not None:
        return False
    for case in bench.cases:
        if case.delicate:
            continue
        floats = {n: x for n, x in case.inputs.items() if isinstance(x, Tensor) and x.is_floating_point()}
        if dtype == torch.int64:
            floats = {n: x for n, x in floats.items() if n in check.integers and bool((x % 1 == 0).all())}
        cast = {n: x.to(dtype) for n, x in floats.items()}
        if not cast:
            continue
        sizes = check.sizes(case.inputs)
        wide = {name: x.double() for name, x in cast.items()}
        try:
            pair = [
                quietly(
                    check.parts, _widened(form.call), form.layout, Inputs({**case.inputs, **x}, form.derived), sizes
                )
                for x in (wide, cast)
            ]
        except Exception:
            return False
        for expected, got in ((pair[0][name], pair[1].get(name)) for name in pair[0]):
            size = float(expected.abs().amax()) + 1.0
            if got is not None and not bool(((got - expected).abs() <= tolerance * size).all()):
                return True
    return False


def _widened(call: Call) -> Call:
    """A call whose half-precision output is made single."""

    def widened(output: Any) -> Any:
        if isinstance(output, Tensor):
            return output.float() if output.is_floating_point() else output
        if isinstance(output, np.ndarray) and output.dtype == np.float16:
            return output.astype(np.float32)
        if isinstance(output, tuple | list):
            return type(output)(widened(part) for part in output)
        return {k: widened(v) for k, v in output.items()} if isinstance(output, Mapping) else output

    return lambda x: widened(call(x))
