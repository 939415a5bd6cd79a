"""How people's losses are called, what their slopes are, and which factors of a loss explain these slopes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgtheory.checking.calling import Container, contained
from pgtheory.checking.report import Counterexample, Mistake, Source
from pgtheory.checking.slopes import PER_TOKEN, Reduce, as_logits, slopes, value_slopes
from pgtheory.checking.space import TOLERANCE, Axis, Explanation, Space, same_slopes

__all__ = [
    "PER_TOKEN",
    "TOLERANCE",
    "Attempt",
    "Axis",
    "Explanation",
    "Grid",
    "Reduce",
    "Spec",
    "as_logits",
    "as_mistakes",
    "attempt",
    "axis_of",
    "explanations",
    "given",
    "nearest_right",
    "same_slopes",
    "shown",
    "slopes",
    "value_slopes",
]


def given(value: Any, container: Container, mask_kind: str) -> Any:
    """A value as an argument: a copy in the container, a mask as booleans, integers or floats, the graph kept."""
    if not isinstance(value, Tensor):
        return value
    if value.dtype == torch.bool and mask_kind != "bool":
        value = value.long() if mask_kind == "int" else value.double()
    if container in ("torch", "torch.float32"):
        dtype = torch.float32 if container == "torch.float32" and value.is_floating_point() else value.dtype
        return value.to(dtype, copy=True)
    return contained(value.detach(), container)


class Grid(NamedTuple):
    """All hypotheses in one case: the slope is scale · drive[surrogate, level, advantage] · weight[average].

    At the level of the token, that is. The ratio of a whole sequence has slopes by all its log-probabilities.
    """

    drive: Tensor
    weight: Tensor
    taken: Tensor

    def slopes(self, index: Tensor) -> Tensor:
        """The slopes of some hypotheses, flat, for the scale 1."""
        surrogate, level, advantage, average = index.T
        own = self.drive[surrogate, level, advantage] * self.weight[average]
        product = own.sum(-1, keepdim=True) * self.taken
        mean = product / self.taken.sum(-1, keepdim=True).clamp(min=1)
        which = level.reshape(-1, *[1] * self.taken.ndim)
        return torch.where(which == 0, own, torch.where(which == 1, product, mean)).flatten(1)


def space_of(axes: Sequence[Axis], grids: Sequence[Grid], *, unit: bool) -> Space:
    """The space of a clipped loss.

    Args:
        axes: surrogates, levels, advantages and averages.
        grids: the slopes of the hypotheses, case by case.
        unit: whether the scale must be 1 or -1; otherwise it is the same number in all cases.
    """
    # In the first cases, of one token each, levels and averages make no difference but for the scale.
    simple = [g.taken.shape == grids[0].taken.shape and g.taken.shape[-1] == 1 for g in grids]
    n = simple.index(False) if False in simple else len(simple)
    return Space(axes, grids, unit, told=(0, 2), simple=n, usual=(2,), fixed=(0,))


def explanations(
    axes: Sequence[Axis], grids: Sequence[Grid], answers: Sequence[Tensor], *, unit: bool
) -> list[Explanation]:
    """Every hypothesis that gives the slopes of all cases, the one with the fewest mistakes first."""
    return space_of(axes, grids, unit=unit).explanations(answers)


def nearest_right(
    axes: Sequence[Axis], grids: Sequence[Grid], answers: Sequence[Tensor | Exception], *, unit: bool
) -> tuple[int, Tensor] | None:
    """The first case in which a function is wrong, and what the right loss that is nearest to it gives there."""
    found = space_of(axes, grids, unit=unit).nearest_right(answers)
    return found and (found[0], found[1].reshape(grids[found[0]].taken.shape))


class Spec(NamedTuple):
    """A mistake before it belongs to a kind: its key without the kind, and the hypotheses that it is."""

    tail: str
    name: str
    meaning: str
    sign: str
    sources: tuple[Source, ...]
    values: tuple[Mapping[str, Any], ...]


def as_mistakes(
    kind: str, specs: Iterable[Spec], implementation: Callable[..., Callable[..., Tensor]]
) -> tuple[Mistake, ...]:
    """The mistakes of a kind, each implemented by the loss with the wrong factor."""
    return tuple(
        Mistake(f"{kind}.{s.tail}", s.name, s.meaning, s.sign, s.sources, tuple(implementation(**v) for v in s.values))
        for s in specs
    )


def axis_of(names: Iterable[str], field: str, specs: Iterable[Spec], remarks: Mapping[str, str]) -> Axis:
    """The axis of a factor: what the specifications name as values of this field are mistakes."""
    wrong = {str(values[field]): spec.tail for spec in specs for values in spec.values if field in values}
    return Axis(tuple(names), wrong, remarks)


class Attempt(NamedTuple):
    """The slopes of a function in the cases of one form; or the exceptions that it raised there."""

    name: str
    answers: Sequence[Tensor | Exception]


def attempt(name: str, answer: Callable[[Any], Tensor], cases: Sequence[Any]) -> Attempt | Exception:
    """The attempt of a form, or why the function does not fit it: its first or its last, largest case fails."""
    answers: list[Tensor | Exception] = []
    for case in cases:
        try:
            answers.append(answer(case))
        except Exception as error:
            if not answers or case is cases[-1]:
                return error
            answers.append(error)
    return Attempt(name, answers)


def shown(
    inputs: Mapping[str, Any], expected: Tensor, got: Tensor | Exception, view: Callable[[Any], Any]
) -> Counterexample:
    """A case as the function sees it."""
    values = {role: view(value) for role, value in inputs.items()}
    return Counterexample(values, view(expected), view(got), "slopes of the loss by the log-probabilities")
