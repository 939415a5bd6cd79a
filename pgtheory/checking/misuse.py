"""What would be right if a flag were inverted, or the axes turned: every check says so of an unknown mistake."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pgtheory.checking.calling import Call, Form, Inputs
from pgtheory.checking.report import Mistake, Report, issue, pull
from pgtheory.checking.verdicts import Asked, tried, verdict

if TYPE_CHECKING:
    from pgtheory.checking.judge import Check

_MASKS = (issue("lucidrains/halonet-pytorch", 4), pull("InseeFrLab/torchTextClassifiers", 92))
_AXES = (issue("pytorch/rl", 2086), issue("alshedivat/lola", 12))


def right_if(check: "Check", form: Form) -> Mistake | None:
    """The one misunderstanding without which a function in this form would be right, if there is one."""
    for mistake, changed in _misunderstandings(check, form):
        asked = Asked(check, changed)
        if asked.is_hopeless():
            continue
        trial = tried(asked)
        if not isinstance(trial, Exception) and verdict(check, trial).ok:
            return mistake
    return None


def explained(check: "Check", form: Form, report: Report) -> Report:
    """The report; one of an unknown mistake says if it is a misunderstanding of the call."""
    if report.ok or report.mistakes or report.abstains:
        return report
    mistake = right_if(check, form)
    return replace(report, mistakes=(mistake,)) if mistake else report


def explained_call(
    check: str, flags: Sequence[str], call: Call, report: Report, judge: Callable[[Call], Report]
) -> Report:
    """The report of a `call=`, as `explained`, for a check that judges in a way of its own."""
    if report.ok or report.mistakes or report.abstains:
        return report
    for flag in flags:
        if judge(_given(call, partial(_not, flag))).ok:
            return replace(report, mistakes=(_inverted(check, flag),))
    return report


def _misunderstandings(check: "Check", form: Form) -> Iterator[tuple[Mistake, Form]]:
    flags = [arg.name for arg in check.args if arg.flag and arg.name in form.roles]
    for flag in flags:
        yield _inverted(check.name, flag), _changed(form, partial(_not, flag))
    if form.layout.is_canonical and len(check.canonical.axes) > 1:
        axes_of: Mapping[str, list[str]] = {arg.name: arg.axes.split() for arg in check.args}
        pair = check.canonical.axes[:2]

        def turned(name: str, x: Any) -> Any:
            axes = axes_of.get(name, [])
            both = isinstance(x, Tensor) and x.ndim == len(axes) and {*pair} <= {*axes}
            return x.transpose(axes.index(pair[0]), axes.index(pair[1])) if both else x

        yield _turned(check.name, check.canonical.axes), _changed(form, turned, _back)


class _Given:
    """The inputs of a case, each of them changed as it is read."""

    def __init__(self, inputs: Inputs, change: Callable[[str, Any], Any]) -> None:
        self._inputs, self._change = inputs, change

    def __getattr__(self, name: str) -> Any:
        return self._change(name, getattr(self._inputs, name))


def _changed(form: Form, change: Callable[[str, Any], Any], back: Callable[[Any], Any] = lambda output: output) -> Form:
    return replace(form, call=_given(form.call, change, back), notes=set())


def _given(call: Call, change: Callable[[str, Any], Any], back: Callable[[Any], Any] = lambda output: output) -> Call:
    def changed(inputs: Inputs) -> Any:
        given: Any = _Given(inputs, change)
        return back(call(given))

    return changed


def _not(flag: str, name: str, x: Any) -> Any:
    if name != flag:
        return x
    return 1 - x if x.is_floating_point() else ~x


def _back(output: Any) -> Any:
    """An output with its first two axes exchanged, part by part."""
    if isinstance(output, Tensor | np.ndarray):
        return output.swapaxes(0, 1) if output.ndim > 1 else output
    if isinstance(output, Mapping):
        return {key: _back(part) for key, part in output.items()}
    if isinstance(output, list) and output and all(isinstance(row, list | Tensor | np.ndarray) for row in output):
        return [[*column] for column in zip(*output, strict=True)]
    return tuple(map(_back, output)) if isinstance(output, tuple) else output


def _inverted(check: str, flag: str) -> Mistake:
    return Mistake(
        f"{check}.inverted_{flag}",
        f"right, if `{flag}` is inverted",
        f"It takes for True what is False in `{flag}`: it was handed the opposite of what it wants, such as the places "
        "of padding for those of tokens, or ends for what goes on.",
        f"With `{flag}` inverted it is right in every case.",
        _MASKS,
        (),
    )


def _turned(check: str, axes: tuple[str, ...]) -> Mistake:
    first, second, *rest = axes
    given, wanted = (f"[{', '.join(order)}]" for order in (axes, (second, first, *rest)))
    return Mistake(
        f"{check}.axes_turned",
        f"right with axes turned: it is for {wanted}, and was given {given}",
        f"It takes the axis {first} for the axis {second}, and {second} for {first}, without an error.",
        f"It is right in every case if it is given {wanted}, and what it returns is turned back.",
        _AXES,
        (),
    )
