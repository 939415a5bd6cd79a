"""One product of factors for all losses: which choices explain the slopes that a function has in every case?"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# Right losses differ by an ε in a denominator and by rounding in single precision; no two hypotheses are this close.
TOLERANCE = 1e-3
_F64 = torch.float64
#: How many numbers are compared at once: as many as a cache holds.
_AT_ONCE = 32_000


class Axis(NamedTuple):
    """The values that one factor of a loss may have: the mistake that each is, or a remark; right if neither."""

    names: tuple[str, ...]
    mistakes: Mapping[str, str] = {}
    remarks: Mapping[str, str] = {}


#: What a function answers in a case, by its number.
Answer = Callable[[int], Tensor | Exception]


class Slopes(Protocol):
    """All hypotheses in one case."""

    def parts(self, index: Tensor) -> Tensor:
        """The slopes `[P, H, n]` of the parts of a loss, each for the scale 1, of hypotheses `[H, F]`.

        Hypotheses are places on the axes. An infinite slope agrees with any.
        """
        ...


class Explanation(NamedTuple):
    """The choices, and the scales, that give all slopes.

    Attributes:
        names: the choice on each axis.
        scales: what the slopes of each part are multiplied by; the first is below 0 where the sign is wrong.
        mistakes: the keys, without the kind, of the mistakes in it.
        remarks: what is unusual in it.
    """

    names: tuple[str, ...]
    scales: tuple[float, ...]
    mistakes: tuple[str, ...]
    remarks: tuple[str, ...]


def _any(names: Sequence[str], scales: Sequence[float]) -> bool:
    return True


def _nothing(names: Sequence[str], scales: Sequence[float]) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Space:
    """A product of factors, of which each case gives the slopes.

    Attributes:
        axes: the factors.
        cases: the slopes of the hypotheses, case by case.
        n_parts: of how many parts a loss is the sum; each has a scale of its own, which no case but the data tell.
        unit: whether the scale of the first part must be 1 or -1; otherwise it is the same number in all cases.
        stages: which axes are searched in which number of first cases, before the others; an axis that is not
            searched yet has its first value, which must make no difference there but for the scale.
        plausible: whether choices and scales go together.
        of_scales: the mistakes that the scales tell, other than the sign of the first.
        usual: the axes on which the nearest right hypothesis has no remark.
        fixed: the axes on which the nearest right hypothesis has the first choice.
        last_first: whether the last axes are told apart by the cases behind the last stage, and not by those before.
    """

    axes: Sequence[Axis]
    cases: Sequence[Slopes]
    n_parts: int = 1
    unit: bool = False
    stages: Sequence[tuple[tuple[int, ...], int]] = ()
    plausible: Callable[[Sequence[str], Sequence[float]], bool] = _any
    of_scales: Callable[[Sequence[str], Sequence[float]], tuple[str, ...]] = _nothing
    usual: tuple[int, ...] = ()
    fixed: tuple[int, ...] = ()
    last_first: bool = False

    def explanations(self, answer: Answer, *, right: bool = False) -> list[Explanation]:
        """Every hypothesis that gives the slopes of all cases, the one with the fewest mistakes first.

        With `right`, of those without a mistake; answers are asked for only as long as something explains them.
        """
        index = torch.zeros(1, len(self.axes), dtype=torch.long)
        scale = torch.full((1, self.n_parts), torch.nan, dtype=_F64)
        rest = tuple(i for i in range(len(self.axes)) if i not in {i for axes, _ in self.stages for i in axes})
        seen, every = 0, len(self.cases)
        for axes, n in (*self.stages, (rest, every)):
            if not n:
                continue
            order = [*range(seen, n), *range(seen)] if self.last_first and n == every else [*range(n)]
            wide, seen = self._widened(index, axes, right), n
            index, scale = self._surviving(wide, answer, order)
            if not len(index):
                return []
        found = [self._explanation(row, c) for row, c in zip(index.tolist(), scale.tolist(), strict=True)]
        found = [e for e in found if self.plausible(e.names, e.scales)]
        return sorted(found, key=lambda e: (len(e.mistakes), len(e.remarks)))

    def _widened(self, index: Tensor, axes: Sequence[int], right: bool) -> Tensor:
        """The hypotheses with every choice, or every right one, on further axes."""
        if not axes:
            return index
        choices = [[i for i, name in enumerate(a.names) if not (right and name in a.mistakes)] for a in self.axes]
        more = torch.cartesian_prod(*(torch.tensor(choices[i]) for i in axes)).reshape(-1, len(axes))
        wide = index.repeat_interleave(len(more), 0)
        wide[:, list(axes)] = more.repeat(len(index), 1)
        return wide

    def explained(self, answers: Sequence[Tensor | Exception]) -> Explanation | None:
        """The explanation with the fewest mistakes, if there is one."""
        return next(iter(self.explanations(answers.__getitem__)), None)

    def admits(self, answer: Answer) -> bool:
        """Whether some hypothesis without a mistake gives the slopes of all cases."""
        return any(not found.mistakes for found in self.explanations(answer, right=True))

    def nearest_right(self, answers: Sequence[Tensor | Exception]) -> tuple[int, Tensor] | None:
        """The first case in which a function is wrong, and the slopes, flat, of the nearest right loss."""
        n = len(self._usual[0][0])
        scale = torch.full((n, self.n_parts), torch.nan, dtype=_F64)
        agree = []
        for parts, answer in zip(self._usual, answers, strict=True):
            if isinstance(answer, Exception):
                agree.append(torch.zeros(n, dtype=torch.bool))
                continue
            scale = torch.where(scale.isnan(), self._fitted(parts, answer.flatten(), scale).abs(), scale)
            agree.append(_agree(_total(parts, scale), answer.flatten()))
        chosen = int(torch.stack(agree).sum(0).argmax())
        wrong = [i for i, row in enumerate(agree) if not row[chosen]]
        if not wrong:
            return None
        return wrong[0], _total(self._usual[wrong[0]][:, chosen : chosen + 1], scale[chosen : chosen + 1])[0]

    @cached_property
    def _usual(self) -> list[Tensor]:
        """The slopes of the parts of right losses, of the usual ones where there are many, in each case."""
        allowed = []
        for i, axis in enumerate(self.axes):
            right = [k for k, name in enumerate(axis.names) if name not in axis.mistakes]
            right = [k for k in right if i not in self.usual or axis.names[k] not in axis.remarks] or right
            allowed.append(torch.tensor(right[:1] if i in self.fixed else right))
        index = torch.cartesian_prod(*allowed).reshape(-1, len(allowed))
        return [case.parts(index) for case in self.cases]

    def slopes(self, i: int, found: Explanation) -> Tensor:
        """The slopes, flat, that an explanation gives in a case."""
        index = torch.tensor([[axis.names.index(name) for axis, name in zip(self.axes, found.names, strict=True)]])
        return _total(self.cases[i].parts(index), torch.tensor([found.scales], dtype=_F64))[0]

    def _explanation(self, row: Sequence[int], scale: Sequence[float]) -> Explanation:
        names = tuple(axis.names[i] for axis, i in zip(self.axes, row, strict=True))
        scales = tuple(1.0 if math.isnan(c) else c for c in scale)
        pairs = list(zip(self.axes, names, strict=True))
        mistakes = [axis.mistakes[name] for axis, name in pairs if name in axis.mistakes]
        mistakes += ["sign"] if scales[0] < 0 else []
        remarks = tuple(axis.remarks[name] for axis, name in pairs if name in axis.remarks)
        return Explanation(names, scales, tuple(dict.fromkeys([*mistakes, *self.of_scales(names, scale)])), remarks)

    def _surviving(self, index: Tensor, answer_in: Answer, order: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The hypotheses that agree in the cases of this order, and their scales."""
        scale = torch.full((len(index), self.n_parts), torch.nan, dtype=_F64)
        for i in order:
            if not len(index):
                break
            answer = answer_in(i)
            if isinstance(answer, Exception):
                return index[:0], scale[:0]
            size = max(1, _AT_ONCE // max(1, self.n_parts * answer.numel()))
            pairs = zip(torch.split(index, size), torch.split(scale, size), strict=True)
            kept = [self._agreeing(self.cases[i], answer.flatten(), *pair) for pair in pairs]
            index, scale = (torch.cat(parts) for parts in zip(*kept, strict=True))
        return index, scale

    def _agreeing(self, case: Slopes, answer: Tensor, index: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The hypotheses that agree in one case, and their scales."""
        parts = case.parts(index)
        if bool(scale.isnan().any()):
            scale = torch.where(scale.isnan(), self._fitted(parts, answer, scale), scale)
        keep = _agree(_total(parts, scale), answer)
        return index[keep], scale[keep]

    def _fitted(self, parts: Tensor, answer: Tensor, known: Tensor) -> Tensor:
        """The scales `[H, P]` of each hypothesis that fit a case best; NaN where the case does not tell."""
        if not bool(answer.isfinite().all()):
            return torch.full_like(known, torch.nan)
        present = parts.isfinite().all(-1) & (parts.square().sum(-1) > 1e-20)  # [P, H]
        rest = answer - _total(parts, known)
        found = []
        for p in range(len(parts)):
            others = [q for q in range(len(parts)) if q != p]
            unknown = torch.stack([present[q] & known[:, q].isnan() for q in others]).any(0) if others else None
            best = _best(parts[p], rest)
            if self.unit and p == 0:
                best = torch.where(best < 0, -1.0, 1.0)
            elif unknown is not None and bool(unknown.any()):
                best = torch.where(unknown, _best_of_two(parts[p], parts[others[0]], rest), best)
            found.append(torch.where(present[p] & known[:, p].isnan(), best, torch.nan))
            if self.unit and p == 0 and others:
                first = torch.stack([found[0], *[torch.full_like(found[0], torch.nan)] * len(others)], -1)
                known = torch.where(known.isnan(), first, known)
                rest = answer - _total(parts, known)
        return torch.stack(found, -1)

    def __len__(self) -> int:
        return math.prod(len(axis.names) for axis in self.axes)


def _total(parts: Tensor, scale: Tensor) -> Tensor:
    """The slopes `[H, n]` of the sum of the parts; a part of unknown scale is not there, or is alone."""
    scales = scale.T[..., None]
    return torch.where(parts == 0, 0.0, scales.nan_to_num(0.0) * parts).sum(0)


def _best(slope: Tensor, answer: Tensor) -> Tensor:
    """The number by which slopes are to be multiplied; not 0, so that what is not there is not agreed with."""
    best = (slope * answer).sum(-1) / slope.square().sum(-1)
    return torch.where(best.abs() > 1e-9, best, 1.0)


def _best_of_two(slope: Tensor, other: Tensor, answer: Tensor) -> Tensor:
    """The first of the two numbers by which two sets of slopes are to be multiplied; NaN if they are collinear."""
    aa, bb, ab = slope.square().sum(-1), other.square().sum(-1), (slope * other).sum(-1)
    det = aa * bb - ab**2
    best = ((slope * answer).sum(-1) * bb - (other * answer).sum(-1) * ab) / det
    return torch.where(det > 1e-9 * aa * bb, torch.where(best.abs() > 1e-9, best, 1.0), torch.nan)


def _agree(slopes: Tensor, answer: Tensor) -> Tensor:
    if not slopes.shape[-1]:
        return torch.ones(len(slopes), dtype=torch.bool)
    free = slopes.isinf()
    nan = (slopes.isnan() == answer.isnan()) | free
    error = torch.where(free, 0.0, (slopes - answer).nan_to_num(0.0, torch.inf, torch.inf).abs()).amax(-1)
    size = torch.where(free, 0.0, slopes).nan_to_num(0.0).abs().amax(-1)
    return nan.all(-1) & (error <= TOLERANCE * size + 1e-9)
