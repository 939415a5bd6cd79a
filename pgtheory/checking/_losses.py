"""How people's losses are called, what their slopes are, and which factors of a loss explain these slopes."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pgtheory.checking._engine import call_quietly
from pgtheory.checking._forms import Container, Misfit, contained, refuse_half_precision
from pgtheory.checking._report import Counterexample, Mistake, Source

_F64 = torch.float64
_LOSS_KEYS = ("loss", "policy_loss", "pg_loss", "actor_loss", "loss_objective")
_NO_GRADIENT = "it returns a number without a gradient: its slopes are central differences of its value"
_OWN_BACKWARD = "it calls backward itself"
PER_TOKEN = "it returns one value for each token or response: they were averaged as in the reference"

# Right losses differ by an ε in a denominator and by rounding in single precision; no two hypotheses are this close.
TOLERANCE = 1e-3

Reduce = Callable[[Tensor], Tensor | None]


def slopes(call: Callable[[Tensor], Any], log_probs: Tensor, reduce: Reduce, notes: set[str]) -> Tensor:
    """The slopes of a loss by the log-probabilities that it is called with.

    Args:
        call: the loss as a function of the log-probabilities alone.
        log_probs: where.
        reduce: makes one number of an output that has one value for each token; None if it does not know how.
        notes: receives what is worth knowing about the output.

    Raises:
        Misfit: the output is not a loss.
    """
    leaf = log_probs.clone().requires_grad_()
    with torch.enable_grad():
        output = _first(call_quietly(call, leaf * 1.0))  # a copy, so that the loss may change it in place
        if leaf.grad is not None:
            notes.add(_OWN_BACKWARD)
            return leaf.grad.double()
        if not isinstance(output, Tensor):
            notes.add(_NO_GRADIENT)
            return _differences(call, log_probs, reduce, notes)
        value = _as_number(output, reduce, notes)
        if not value.requires_grad:
            return torch.zeros_like(log_probs)
        slope = torch.autograd.grad(value, leaf, allow_unused=True)[0]
    return torch.zeros_like(log_probs) if slope is None else slope.double()


def value_slopes(call: Callable[[Tensor], Any], log_probs: Tensor, reduce: Reduce, notes: set[str]) -> Tensor:
    """The same by central differences alone, for code that is not written in torch."""
    notes.add(_NO_GRADIENT)
    return _differences(call, log_probs, reduce, notes)


def _differences(call: Callable[[Tensor], Any], log_probs: Tensor, reduce: Reduce, notes: set[str]) -> Tensor:
    step = 1e-2 if _is_single(_first(call_quietly(call, log_probs.clone()))) else 1e-4
    found = torch.zeros_like(log_probs)
    for place in itertools.product(*map(range, log_probs.shape)):
        values = []
        for side in (step, -step):
            moved = log_probs.clone()
            moved[place] += side
            output = _first(call_quietly(call, moved))
            values.append(float(_as_number(_number_tensor(output), reduce, notes)))
        found[place] = (values[0] - values[1]) / (2 * step)
    return found


def _is_single(output: Any) -> bool:
    return str(getattr(output, "dtype", "float64")).endswith(("float32", "float16"))


def _number_tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        raise Misfit("it returned a tensor without a gradient")
    try:
        return torch.tensor(np.asarray(output, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise Misfit(f"it returned {type(output).__name__}, not a loss") from error


def _first(output: Any) -> Any:
    """The loss in an output: the first of a tuple, the entry `loss` of a dictionary, the attribute `loss`."""
    if isinstance(output, Mapping):
        for key in _LOSS_KEYS:
            if key in output:
                return _first(output[key])
        raise Misfit(f"it returned a dictionary without any of the keys {', '.join(_LOSS_KEYS)}")
    if isinstance(output, tuple) and output:
        return _first(output[0])
    if isinstance(output, list) and output and isinstance(output[0], Tensor):
        return torch.stack(output)
    if output is None or isinstance(output, str | bytes | bool):
        raise Misfit(f"it returned {output!r}, not a loss")
    loss = getattr(output, "loss", None)
    return output if isinstance(output, Tensor) or not isinstance(loss, Tensor) else loss


def _as_number(output: Tensor, reduce: Reduce, notes: set[str]) -> Tensor:
    if not output.is_floating_point():
        raise Misfit(f"it returned a tensor of {output.dtype}, not a loss")
    refuse_half_precision(output)
    if output.numel() == 1:
        return output.reshape(())
    number = reduce(output)
    if number is None:
        raise Misfit(f"it returned shape {list(output.shape)}, neither one number nor one for each token")
    notes.add(PER_TOKEN)
    return number


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


def as_logits(log_probs: Tensor, actions: Tensor, n: int = 3) -> Tensor:
    """Logits `[..., n]` under which the actions have these log-probabilities; not normalised themselves."""
    others = torch.log(-torch.expm1(log_probs)) - np.log(n - 1)
    taken = torch.arange(n) == actions[..., None]
    return torch.where(taken, log_probs[..., None], others[..., None]) + 0.7


class Axis(NamedTuple):
    """The values that one factor of a loss may have: the mistake that each is, or a remark; right if neither."""

    names: tuple[str, ...]
    mistakes: Mapping[str, str]
    remarks: Mapping[str, str]


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


class Explanation(NamedTuple):
    """The surrogate, level, advantage and average, and the scale, that give all slopes; below 0: a wrong sign."""

    names: tuple[str, ...]
    scale: float

    def mistakes(self, axes: Sequence[Axis]) -> tuple[str, ...]:
        """The keys, without the kind, of the mistakes in it."""
        named = [axis.mistakes[name] for axis, name in zip(axes, self.names, strict=True) if name in axis.mistakes]
        return (*named, *(["sign"] if self.scale < 0 else []))

    def remarks(self, axes: Sequence[Axis]) -> tuple[str, ...]:
        """What is unusual in it."""
        return tuple(axis.remarks[name] for axis, name in zip(axes, self.names, strict=True) if name in axis.remarks)


def explanations(
    axes: Sequence[Axis], grids: Sequence[Grid], answers: Sequence[Tensor], *, unit: bool
) -> list[Explanation]:
    """Every hypothesis that gives the slopes of all cases, the one with the fewest mistakes first.

    Args:
        axes: surrogates, levels, advantages and averages.
        grids: the slopes of the hypotheses, case by case.
        answers: the slopes of the function, likewise.
        unit: whether the scale must be 1 or -1; otherwise it is the same number in all cases.
    """
    every = [torch.arange(len(axis.names)) for axis in axes]
    # In the first cases, of one token each, levels and averages make no difference but for the scale.
    simple = [g.taken.shape == grids[0].taken.shape and g.taken.shape[-1] == 1 for g in grids]
    n = simple.index(False) if False in simple else len(simple)
    first = torch.cartesian_prod(every[0], every[1][:1], every[2], every[3][:1])
    first, _ = _surviving(first, grids[:n], answers[:n], unit)
    rest = torch.cartesian_prod(every[1], every[3])
    surrogate, advantage = (first[:, i].repeat_interleave(len(rest)) for i in (0, 2))
    level, average = (rest[:, i].repeat(len(first)) for i in (0, 1))
    index, scale = _surviving(torch.stack([surrogate, level, advantage, average], -1), grids, answers, unit)
    found = [
        Explanation(tuple(axis.names[i] for axis, i in zip(axes, row, strict=True)), c)
        for row, c in zip(index.tolist(), scale.nan_to_num(1.0).tolist(), strict=True)
    ]
    return sorted(found, key=lambda e: (len(e.mistakes(axes)), len(e.remarks(axes))))


def _surviving(index: Tensor, grids: Sequence[Grid], answers: Sequence[Tensor], unit: bool) -> tuple[Tensor, Tensor]:
    """The hypotheses that agree in all cases, and their scales."""
    scale = torch.full((len(index),), torch.nan, dtype=_F64)
    for grid, answer in zip(grids, answers, strict=True):
        if not len(index):
            break
        slope = grid.slopes(index)
        scale = torch.where(scale.isnan(), _fitted(slope, answer.flatten(), unit), scale)
        keep = _agree(slope * scale.nan_to_num(1.0)[:, None], answer.flatten())
        index, scale = index[keep], scale[keep]
    return index, scale


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


def nearest_right(
    axes: Sequence[Axis], grids: Sequence[Grid], answers: Sequence[Tensor | Exception], *, unit: bool
) -> tuple[int, Tensor] | None:
    """The first case in which a function is wrong, and what the right loss that is nearest to it gives there."""
    allowed = [torch.tensor([i for i, name in enumerate(axis.names) if name not in axis.mistakes]) for axis in axes]
    usual = torch.tensor([i for i in allowed[2].tolist() if axes[2].names[i] not in axes[2].remarks])
    index = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), allowed[1], usual, allowed[3])
    scale = torch.full((len(index),), torch.nan, dtype=_F64)
    agree = []
    for grid, answer in zip(grids, answers, strict=True):
        if isinstance(answer, Exception):
            agree.append(torch.zeros(len(index), dtype=torch.bool))
            continue
        slope = grid.slopes(index)
        scale = torch.where(scale.isnan(), _fitted(slope, answer.flatten(), unit).abs(), scale)
        agree.append(_agree(slope * scale.nan_to_num(1.0)[:, None], answer.flatten()))
    chosen = int(torch.stack(agree).sum(0).argmax())
    wrong = [i for i, row in enumerate(agree) if not row[chosen]]
    if not wrong:
        return None
    slope = grids[wrong[0]].slopes(index[chosen : chosen + 1]) * scale[chosen].nan_to_num(1.0)
    return wrong[0], slope.reshape(grids[wrong[0]].taken.shape)


def same_slopes(one: Tensor, other: Tensor) -> bool:
    """Whether two sets of slopes are the same, but for what right losses may differ in."""
    return bool(_agree(one.flatten()[None], other.flatten()))


def shown(
    inputs: Mapping[str, Any], expected: Tensor, got: Tensor | Exception, view: Callable[[Any], Any]
) -> Counterexample:
    """A case as the function sees it."""
    values = {role: view(value) for role, value in inputs.items()}
    return Counterexample(values, view(expected), view(got), "slopes of the loss by the log-probabilities")
