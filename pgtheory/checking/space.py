"""One product of factors for all losses: which choices explain the slopes that a function has in every case?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# Right losses differ by an ε in a denominator and by rounding in single precision; no two hypotheses are this close.
TOLERANCE = 1e-3
_F64 = torch.float64


class Axis(NamedTuple):
    """The values that one factor of a loss may have: the mistake that each is, or a remark; right if neither."""

    names: tuple[str, ...]
    mistakes: Mapping[str, str]
    remarks: Mapping[str, str]


class Slopes(Protocol):
    """All hypotheses in one case."""

    def slopes(self, index: Tensor) -> Tensor:
        """The slopes `[H, n]`, for the scale 1, of hypotheses `[H, F]`, places on the axes."""
        ...


class Explanation(NamedTuple):
    """The choices, and the scale, that give all slopes; below 0: a wrong sign.

    Attributes:
        names: the choice on each axis.
        scale: what the slopes are multiplied by.
        mistakes: the keys, without the kind, of the mistakes in it.
        remarks: what is unusual in it.
    """

    names: tuple[str, ...]
    scale: float
    mistakes: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Space:
    """A product of factors, of which each case gives the slopes.

    Attributes:
        axes: the factors.
        cases: the slopes of the hypotheses, case by case.
        unit: whether the scale must be 1 or -1; otherwise it is the same number in all cases.
        told: the axes that make a difference in the first cases, other than by the scale: they are searched first.
        simple: how many first cases these are.
        usual: the axes on which the nearest right hypothesis has no remark.
        fixed: the axes on which the nearest right hypothesis has the first choice.
    """

    axes: Sequence[Axis]
    cases: Sequence[Slopes]
    unit: bool = False
    told: tuple[int, ...] = ()
    simple: int = 0
    usual: tuple[int, ...] = ()
    fixed: tuple[int, ...] = ()

    def explanations(self, answers: Sequence[Tensor | Exception]) -> list[Explanation]:
        """Every hypothesis that gives the slopes of all cases, the one with the fewest mistakes first."""
        if any(isinstance(answer, Exception) for answer in answers):
            return []
        slopes = [answer for answer in answers if isinstance(answer, Tensor)]
        every = [torch.arange(len(axis.names)) for axis in self.axes]
        n = self.simple
        first = torch.cartesian_prod(*(x if i in self.told or not n else x[:1] for i, x in enumerate(every)))
        first = first.reshape(-1, len(every))
        if n:
            first, _ = self._surviving(first, slopes[:n])
            left = [i for i in range(len(every)) if i not in self.told]
            rest = torch.cartesian_prod(*(every[i] for i in left)).reshape(-1, len(left))
            count = len(first)
            first = first.repeat_interleave(len(rest), 0)
            first[:, left] = rest.repeat(count, 1)
        index, scale = self._surviving(first, slopes)
        found = [
            self._explanation(row, c) for row, c in zip(index.tolist(), scale.nan_to_num(1.0).tolist(), strict=True)
        ]
        return sorted(found, key=lambda e: (len(e.mistakes), len(e.remarks)))

    def explained(self, answers: Sequence[Tensor | Exception]) -> Explanation | None:
        """The explanation with the fewest mistakes, if there is one."""
        return next(iter(self.explanations(answers)), None)

    def nearest_right(self, answers: Sequence[Tensor | Exception]) -> tuple[int, Tensor] | None:
        """The first case in which a function is wrong, and the slopes, flat, of the nearest right loss."""
        allowed = []
        for i, axis in enumerate(self.axes):
            right = [k for k, name in enumerate(axis.names) if name not in axis.mistakes]
            right = [k for k in right if i not in self.usual or axis.names[k] not in axis.remarks]
            allowed.append(torch.tensor(right[:1] if i in self.fixed else right))
        index = torch.cartesian_prod(*allowed).reshape(-1, len(allowed))
        scale = torch.full((len(index),), torch.nan, dtype=_F64)
        agree = []
        for case, answer in zip(self.cases, answers, strict=True):
            if isinstance(answer, Exception):
                agree.append(torch.zeros(len(index), dtype=torch.bool))
                continue
            slope = case.slopes(index)
            scale = torch.where(scale.isnan(), _fitted(slope, answer.flatten(), self.unit).abs(), scale)
            agree.append(_agree(slope * scale.nan_to_num(1.0)[:, None], answer.flatten()))
        chosen = int(torch.stack(agree).sum(0).argmax())
        wrong = [i for i, row in enumerate(agree) if not row[chosen]]
        if not wrong:
            return None
        return wrong[0], (self.cases[wrong[0]].slopes(index[chosen : chosen + 1]) * scale[chosen].nan_to_num(1.0))[0]

    def _explanation(self, row: Sequence[int], scale: float) -> Explanation:
        names = tuple(axis.names[i] for axis, i in zip(self.axes, row, strict=True))
        pairs = list(zip(self.axes, names, strict=True))
        mistakes = [axis.mistakes[name] for axis, name in pairs if name in axis.mistakes]
        remarks = tuple(axis.remarks[name] for axis, name in pairs if name in axis.remarks)
        return Explanation(names, scale, (*mistakes, *(["sign"] if scale < 0 else [])), remarks)

    def _surviving(self, index: Tensor, answers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The hypotheses that agree in the first cases, and their scales."""
        scale = torch.full((len(index),), torch.nan, dtype=_F64)
        for case, answer in zip(self.cases, answers, strict=False):
            if not len(index):
                break
            slope = case.slopes(index)
            scale = torch.where(scale.isnan(), _fitted(slope, answer.flatten(), self.unit), scale)
            keep = _agree(slope * scale.nan_to_num(1.0)[:, None], answer.flatten())
            index, scale = index[keep], scale[keep]
        return index, scale

    def __len__(self) -> int:
        return math.prod(len(axis.names) for axis in self.axes)


def same_slopes(one: Tensor, other: Tensor) -> bool:
    """Whether two sets of slopes are the same, but for what right losses may differ in."""
    return bool(_agree(one.flatten()[None], other.flatten()))


def _fitted(slope: Tensor, answer: Tensor, unit: bool) -> Tensor:
    """The scale of each hypothesis that fits a case best; NaN where the case does not tell."""
    square = slope.square().sum(-1)
    told = square.isfinite() & (square > 1e-20) & bool(answer.isfinite().all())
    best = (slope * answer).sum(-1) / square
    if unit:
        best = torch.where(best < 0, -1.0, 1.0)
    return torch.where(told, torch.where(best.abs() > 1e-9, best, 1.0), torch.nan)


def _agree(slopes: Tensor, answer: Tensor) -> Tensor:
    if not slopes.shape[-1]:
        return torch.ones(len(slopes), dtype=torch.bool)
    nan = slopes.isnan() == answer.isnan()
    error = (slopes - answer).nan_to_num(0.0, torch.inf, torch.inf).abs().amax(-1)
    size = slopes.nan_to_num(0.0).abs().amax(-1)
    return nan.all(-1) & (error <= TOLERANCE * size + 1e-9)
