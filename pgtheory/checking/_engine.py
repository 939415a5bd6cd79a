"""The comparison at the heart of a check: with what is right, and then with each known mistake."""

import math
import random
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pgtheory.checking._forms import Binding, Container, Misfit, UnknownForm, contained, in_one_line
from pgtheory.checking.report import Counterexample, Mistake, Report

# A right implementation may add 1e-8 to a denominator, or compute in single precision; no two mistakes are this close.
RTOL, ATOL = 1e-4, 1e-5


class Case(NamedTuple):
    """Arguments by role, and the right answer; `delicate` says why a right implementation may differ, if it may.

    With `or_fails` it may only fail there: raise, or return what is not finite. A wrong number is a fault like others.
    """

    inputs: Mapping[str, Any]
    expected: Tensor
    delicate: str = ""
    or_fails: bool = False


class Agreement(NamedTuple):
    """Whether an answer is right, and a remark if it is right in an unusual way."""

    ok: bool
    remark: str = ""


@dataclass(frozen=True)
class Form:
    """One way of calling the function under test: the cases that can be put so, and the call.

    `call` returns the answer in the layout of `Case.expected`. It raises `Misfit`, or whatever the function raises.
    A counterexample shows the arguments of the `roles` (all if there are none), arranged by `view`.
    """

    name: str
    cases: Sequence[Case]
    call: Callable[[Case], Tensor]
    notes: set[str] = field(default_factory=set)
    roles: frozenset[str] = frozenset()
    view: Callable[[Any], Any] = lambda value: value

    def counterexample(self, case: Case, got: Tensor | Exception) -> Counterexample:
        """A case and a wrong answer, as the function sees them."""
        inputs = {role: self.view(x) for role, x in case.inputs.items() if not self.roles or role in self.roles}
        return Counterexample(inputs, self.view(case.expected), self.view(got))


def refusing(name: str, error: Exception) -> Form:
    """A form that a function does not have, with the reason."""

    def call(case: Case) -> Tensor:
        raise error

    return Form(name, [Case({}, torch.zeros(0))], call)


class Trial(NamedTuple):
    """The answers of a function in one form, and the places of those that are wrong."""

    form: Form
    answers: Sequence[Tensor | Exception]
    faults: Sequence[int]
    remarks: frozenset[str]


def examine(
    check: str,
    forms: Iterable[Form],
    mistakes: Sequence[Mistake],
    *,
    answer: Callable[[Callable[..., Any], Case], Tensor],
    agrees: Callable[[Case, Tensor], Agreement] | None = None,
) -> Report:
    """Try the forms one after another: right in one of them is right.

    Args:
        check: the name of the check.
        forms: the forms to try, the most usual first.
        mistakes: the known mistakes of this check.
        answer: what an implementation of a mistake answers in a case; it may raise.
        agrees: whether an answer is right; by default, whether it is the expected one but for rounding.
    """
    trials: list[Trial] = []
    misfits: dict[str, str] = {}
    with random_state_kept():
        for form in _built(check, forms):
            trial = _try(form, agrees or _is_close)
            if isinstance(trial, Exception):
                misfits[form.name] = in_one_line(trial)
            elif not trial.faults:
                return _right(check, trial)
            else:
                trials.append(trial)
    if not trials:
        raise misunderstood(check, misfits)
    return _diagnosed(check, trials, mistakes, answer)


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


def _built(check: str, forms: Iterable[Form]) -> Iterator[Form]:
    """The forms one by one: which come next may depend on how the function answered in those before."""
    try:
        yield from forms
    except Misfit as error:
        raise misunderstood(check, {"its arguments by their names": str(error)}) from None


def examine_batch_or_row(
    check: str,
    batch: Iterable[Form],
    row: Iterable[Form],
    mistakes: Sequence[Mistake],
    *,
    answer: Callable[[Callable[..., Any], Case], Tensor],
    agrees: Callable[[Case, Tensor], Agreement] | None = None,
    of_the_batch: Collection[str] = (),
) -> Report:
    """Examine a function of batches; one that is right for a single row only is right, unless it confuses rows.

    Args:
        check: the name of the check.
        batch: the forms that give a batch.
        row: the forms that give a single row.
        mistakes: the known mistakes of this check.
        answer: as for `examine`.
        agrees: as for `examine`.
        of_the_batch: the keys of the mistakes that a single row cannot show.
    """
    reports: list[Report] = []
    refusals: list[UnknownForm] = []
    for forms in (batch, row):
        try:
            reports.append(examine(check, forms, mistakes, answer=answer, agrees=agrees))
        except UnknownForm as error:
            refusals.append(error)
            continue
        if reports[-1].ok:
            break
    if not reports:
        raise misunderstood(check, {name: why for error in refusals for name, why in error.tried.items()})
    if reports[-1].ok and len(reports) == 2:
        if {m.key for m in reports[0].mistakes} & {*of_the_batch}:
            alone = (
                f"for a single row it is right: say form={reports[-1].form.split()[1].strip(',')!r} to check that alone"
            )
            return replace(reports[0], remarks=(alone, *reports[0].remarks))
        wrong = f": {reports[0].diagnosis}" if reports[0].diagnosis else ""
        remark = f"for a single row it is right; a batch it accepts too, and its answer there is wrong{wrong}"
        return replace(reports[-1], remarks=(remark, *reports[-1].remarks))
    return next((report for report in reports if report.mistakes or report.ok), reports[0])


def _diagnosed(
    check: str,
    trials: Sequence[Trial],
    mistakes: Sequence[Mistake],
    answer: Callable[[Callable[..., Any], Case], Tensor],
) -> Report:
    nearly_right = [t for t in trials if all(t.form.cases[i].delicate for i in t.faults)]
    for explains in (_explains, _explains_the_rest):
        for trial in nearly_right or trials:
            found = tuple(m for m in mistakes if any(explains(trial, f, answer) for f in m.implementations))
            if found and all(m.severity == "remark" for m in found):
                return _right(check, trial, *(f"{m.name}: {m.meaning}" for m in found))
            if found:
                first, *others = (m for m in found if m.severity == "wrong")
                return _wrong(check, trial, (first,), *(f"in these cases it is the same as: {m.name}" for m in others))
    if nearly_right:
        reasons = {nearly_right[0].form.cases[i].delicate for i in nearly_right[0].faults}
        return _right(check, nearly_right[0], *sorted(reasons))
    return _wrong(check, trials[0], ())


def _try(form: Form, agrees: Callable[[Case, Tensor], Agreement]) -> Trial | Exception:
    """The trial of a form, or why the function does not fit it.

    It does not if the first case fails, or if the second one, or the first of another shape, is a misfit.
    """
    answers: list[Tensor | Exception] = []
    faults, remarks = [], set()
    for i, case in enumerate(form.cases):
        try:
            answers.append(call_quietly(form.call, case))
        except Exception as error:
            first_of_its_shape = all(one.expected.shape == form.cases[0].expected.shape for one in form.cases[:i])
            if i == 0 or (isinstance(error, Misfit) and (i == 1 or first_of_its_shape)):
                return error
            answers.append(error)
            faults.append(i)
            continue
        agreement = _agreement(agrees, case, answers[-1])
        remarks |= {agreement.remark} - {""}
        if not agreement.ok:
            faults.append(i)
    return Trial(_without_excuses(form, answers), answers, faults, frozenset(remarks))


def _without_excuses(form: Form, answers: Sequence[Tensor | Exception]) -> Form:
    """The form, in which a case where a function may only fail is not delicate if it did not fail."""
    cases = [
        case._replace(delicate="") if case.or_fails and isinstance(got, Tensor) and bool(got.isfinite().all()) else case
        for case, got in zip(form.cases, answers, strict=True)
    ]
    return replace(form, cases=cases)


def _agreement(agrees: Callable[[Case, Tensor], Agreement], case: Case, answer: Tensor | Exception) -> Agreement:
    return Agreement(False) if isinstance(answer, Exception) else agrees(case, answer)


def _is_close(case: Case, answer: Tensor) -> Agreement:
    return Agreement(close(answer, case.expected))


def close(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal but for rounding; NaN equals NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.allclose(one, other, rtol=RTOL, atol=ATOL, equal_nan=True)


def _explains(trial: Trial, implementation: Callable[..., Any], answer: Callable[..., Tensor]) -> bool:
    """Whether an implementation of a mistake gives the same answer in every case, and a wrong one in some."""
    same = all(_same_answer(trial, i, implementation, answer) for i in range(len(trial.answers)))
    return same and _errs(trial, implementation, answer, trial.faults)


def _explains_the_rest(trial: Trial, implementation: Callable[..., Any], answer: Callable[..., Tensor]) -> bool:
    """Whether it gives the same answer but for some kinds of delicate cases, and explains faults in the others."""
    spared: set[str] = set()
    for i, case in enumerate(trial.form.cases):
        if case.delicate not in spared and not _same_answer(trial, i, implementation, answer):
            if not case.delicate:
                return False
            spared.add(case.delicate)
    rest = [i for i in trial.faults if trial.form.cases[i].delicate not in spared]
    return _errs(trial, implementation, answer, rest)


def _errs(
    trial: Trial, implementation: Callable[..., Any], answer: Callable[..., Tensor], faults: Sequence[int]
) -> bool:
    """Whether an implementation is wrong in one of these cases: else it is no explanation of a small difference."""
    for i in faults:
        case = trial.form.cases[i]
        try:
            theirs = call_quietly(answer, implementation, case)
        except Exception:
            return True
        if not close(theirs, case.expected):
            return True
    return False


def _same_answer(trial: Trial, i: int, implementation: Callable[..., Any], answer: Callable[..., Tensor]) -> bool:
    got = trial.answers[i]
    try:
        theirs = call_quietly(answer, implementation, trial.form.cases[i])
    except Exception:
        return isinstance(got, Exception)
    return not isinstance(got, Exception) and close(got, theirs)


def call_quietly(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function without letting it warn: of a division by zero, for example."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)


def invoke(
    form_notes: set[str],
    function: Callable[..., Any],
    binding: Binding,
    values: Mapping[str, Any],
    container: Container,
) -> Any:
    """Call a function with fresh copies of the values in a container, and note if it changes one of them."""
    given = {role: contained(values[role], container) for role in binding.roles}
    output = binding.call(function, given)
    for role, value in given.items():
        if isinstance(values[role], Tensor) and not _same(value, contained(values[role], container)):
            form_notes.add(f"it changes its argument {role!r} in place")
    return output


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return bool(one == other)
    one, other = torch.as_tensor(one), torch.as_tensor(other)
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def shaped(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The tensor in a shape that differs from its own only by axes of size 1.

    Raises:
        Misfit: it has another shape.
    """
    if [n for n in tensor.shape if n != 1] != [n for n in shape if n != 1]:
        raise Misfit(f"it returned shape {list(tensor.shape)}, not {list(shape)}")
    return tensor.reshape(*shape)


def unflattened(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The tensor as it is; if it is a list of as many numbers as there are steps, the rows one after another."""
    return tensor.reshape(*shape) if tensor.ndim == 1 and tensor.numel() == math.prod(shape) else tensor


def misunderstood(check: str, misfits: Mapping[str, str]) -> UnknownForm:
    """The error that says which forms were tried, and what happened in each."""
    if not misfits:
        return UnknownForm(f"check_{check} has no form whose name contains what was given as form")
    forms_of: dict[str, list[str]] = {}
    for name, why in misfits.items():
        forms_of.setdefault(why, []).append(name)
    tried = "\n".join(f"  {_listed(names)}: {why}" for why, names in forms_of.items())
    error = UnknownForm(
        f"check_{check} does not understand this function. It was called as\n{tried}\n"
        "Wrap it in a lambda whose arguments have the names of the documentation, or choose a form with form=..."
    )
    error.tried = dict(misfits)
    return error


def _listed(names: Sequence[str], most: int = 12) -> str:
    """The names, with semicolons as they hold commas; of many of them the first and how many there are."""
    return "; ".join(names if len(names) <= most else [*names[: most - 1], f"{len(names)} forms in all"])


def _right(check: str, trial: Trial, *remarks: str) -> Report:
    every = (*remarks, *sorted(trial.remarks), *sorted(trial.form.notes))
    return Report(check, True, remarks=every, form=trial.form.name, n_cases=len(trial.answers))


def _wrong(check: str, trial: Trial, mistakes: tuple[Mistake, ...], *remarks: str) -> Report:
    first = trial.faults[0]
    counterexample = trial.form.counterexample(trial.form.cases[first], trial.answers[first])
    share = len(trial.faults) / len(trial.answers)
    details = {"wrong in": f"{len(trial.faults)} of {len(trial.answers)} cases ({share:.0%})"}
    if (worst := _largest_error(trial)) is not None:
        details["largest error"] = f"{worst:.6g}"
    return Report(
        check,
        False,
        mistakes,
        (*remarks, *sorted(trial.remarks), *sorted(trial.form.notes)),
        counterexample,
        details,
        trial.form.name,
        len(trial.answers),
    )


def _largest_error(trial: Trial) -> float | None:
    errors = [
        float((got.double() - case.expected.double()).abs().nan_to_num(0.0, 0.0, 0.0).max())
        for case, got in zip(trial.form.cases, trial.answers, strict=True)
        if isinstance(got, Tensor) and got.shape == case.expected.shape and got.numel()
    ]
    return max(errors) if errors and math.isfinite(max(errors)) and max(errors) > 0 else None
