"""What the output of a filter of tokens means: logits, probabilities, a mask, indices. Decided over all cases."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pgtheory.checking._forms import Misfit, as_tensor

_EXCLUDED = -1e4  # a logit that is as low as this excludes the token

# `[B, V]`, or the indices of each row.
_Part = Tensor | list[list[int]]


class Reading(NamedTuple):
    """One way to understand the outputs of a function.

    Attributes:
        name: what the outputs are.
        part: what is taken of an output, as a tensor `[B, V]` or as the indices of each row.
        meaning: how that part becomes a distribution.
    """

    name: str
    part: Callable[[Any, Tensor], _Part]
    meaning: Literal["logits", "probabilities", "kept", "removed", "indices"]

    @property
    def complement(self) -> bool:
        """Whether it is a mask of the tokens removed."""
        return self.meaning == "removed"

    def distribution(self, output: Any, logits: Tensor) -> Tensor:
        """The distribution `[B, V]` that is sampled from, given what a function returned for the logits."""
        part = self.part(output, logits)
        if self.meaning == "indices":
            return _of_kept(_mask_of(_as_rows(part), logits), logits)
        assert isinstance(part, Tensor)
        if self.meaning == "logits":
            return part.double().masked_fill(part <= _EXCLUDED, -math.inf).softmax(-1)
        if self.meaning == "probabilities":
            return part.double().masked_fill((part == 0).all(-1, keepdim=True), math.nan)
        return _of_kept(part.bool() if self.meaning == "kept" else ~part.bool(), logits)

    def expected(self, filtered: Tensor) -> Any:
        """What should have been returned, given the right filtered logits."""
        kept = filtered > -math.inf
        if self.meaning == "indices":
            return [row.nonzero()[:, 0].tolist() for row in kept]
        return {"probabilities": filtered.softmax(-1), "kept": kept, "removed": ~kept}.get(self.meaning, filtered)


def readings(outputs: Sequence[Any], logits: Sequence[Tensor], *, single: bool) -> list[Reading]:
    """The ways in which all outputs can be understood, the likeliest first.

    Raises:
        Misfit: there is none.
    """
    given = [(o, x) for o, x in zip(outputs, logits, strict=True) if not isinstance(o, Exception)]
    refusals: list[str] = []
    found: list[Reading] = []
    for take in (_whole, _pair_of, _first, _second):
        try:
            part = _of(take, single)
            found += _meanings(part, [(part(o, x), x) for o, x in given])
        except Misfit as error:
            refusals.append(str(error))
        if found and take is _whole:
            break
    if not found:
        raise Misfit(refusals[0])
    return found


def _of(take: Callable[[Any, Tensor, bool], _Part], single: bool) -> Callable[[Any, Tensor], _Part]:
    return lambda output, logits: take(output, logits, single)


def _meanings(part: Callable[[Any, Tensor], _Part], given: Sequence[tuple[_Part, Tensor]]) -> Iterator[Reading]:
    tensors = [value for value, _ in given if isinstance(value, Tensor)]
    if len(tensors) < len(given) or not all(map(_is_mask_or_float, tensors)):
        yield _indices(part, given)
    elif all(t.dtype == torch.bool or not t.is_floating_point() for t in tensors) or _is_float_mask(tensors):
        yield Reading("a mask", part, "kept")
        yield Reading("a mask", part, "removed")
    elif all(map(_is_probability, tensors)):
        yield Reading("probabilities", part, "probabilities")
    else:
        yield Reading("logits", part, "logits")


def _indices(part: Callable[[Any, Tensor], _Part], given: Sequence[tuple[_Part, Tensor]]) -> Reading:
    rows = [(_as_rows(value), logits) for value, logits in given]
    if all(len(row) == 1 for value, _ in rows for row in value):
        raise Misfit("it returned one token for each row, like a sample: hand in the step before the sampling")
    if any(not 0 <= i < logits.shape[-1] for value, logits in rows for row in value for i in row):
        raise Misfit("it returned integers that are neither a mask nor indices")
    return Reading("indices", part, "indices")


def _is_mask_or_float(t: Tensor) -> bool:
    return t.dtype == torch.bool or t.is_floating_point() or bool(((t == 0) | (t == 1)).all())


def _is_float_mask(tensors: Sequence[Tensor]) -> bool:
    binary = all(bool(((t == 0) | (t == 1)).all()) for t in tensors)
    return binary and any(bool((t.sum(-1) > 1).any()) for t in tensors)


def _is_probability(t: Tensor) -> bool:
    t = t.nan_to_num(0.0, math.inf, -math.inf)
    return bool((t >= 0).all()) and bool((t.sum(-1) < 1.001).all())


def _as_rows(part: _Part) -> list[list[int]]:
    if isinstance(part, list):
        return part
    if part.is_floating_point() or part.dtype == torch.bool:
        raise Misfit("it returned indices in some cases and numbers in others")
    rows: list[list[int]] = part.tolist()
    return rows


def _mask_of(rows: Sequence[Sequence[int]], logits: Tensor) -> Tensor:
    kept = torch.zeros(logits.shape, dtype=torch.bool)
    for mask, row in zip(kept, rows, strict=True):
        mask[list(row)] = True
    return kept


def _of_kept(kept: Tensor, logits: Tensor) -> Tensor:
    return logits.masked_fill(~kept, -math.inf).softmax(-1)


def _whole(output: Any, logits: Tensor, single: bool) -> _Part:
    """The output as `[B, V]`, or as indices."""
    try:
        tensor = as_tensor(output)
    except Misfit:
        if isinstance(output, list | tuple) and not single and len(output) == len(logits):
            return [_row_of_indices(row) for row in output]
        raise
    shape = [*logits.shape[1:]] if single else [*logits.shape]
    if [*tensor.shape] in (shape, [*logits.shape], [1, *logits.shape], [len(logits), 1, *logits.shape[1:]]):
        return tensor.reshape(logits.shape)
    if single and tensor.ndim <= 2 and tensor.numel() <= logits.shape[-1]:
        return [_row_of_indices(tensor)]
    if not single and tensor.ndim == 2 and len(tensor) == len(logits):
        return [_row_of_indices(row) for row in tensor]
    if not single and tensor.ndim == 1 and len(tensor) == len(logits) and not tensor.is_floating_point():
        return [_row_of_indices(row) for row in tensor]
    raise Misfit(f"it returned shape {[*tensor.shape]}, not {shape}")


def _row_of_indices(row: Any) -> list[int]:
    tensor = as_tensor(row)
    if tensor.numel() and (tensor.is_floating_point() or tensor.dtype == torch.bool):
        raise Misfit(f"it returned shape {[*tensor.shape]}: not the whole row, and not indices")
    return [int(i) for i in tensor.reshape(-1).tolist()]


def _parts(output: Any) -> Sequence[Any]:
    if not isinstance(output, tuple | list) or not output:
        raise Misfit("it returned no tuple")
    return output


def _first(output: Any, logits: Tensor, single: bool) -> _Part:
    return _whole(_parts(output)[0], logits, single)


def _second(output: Any, logits: Tensor, single: bool) -> _Part:
    if len(_parts(output)) < 2:
        raise Misfit("it returned no tuple")
    return _whole(output[1], logits, single)


def _pair_of(output: Any, logits: Tensor, single: bool) -> _Part:
    """The values of some tokens and their indices, as `[B, V]`: of logits, probabilities, or the input's own values."""
    if len(_parts(output)) < 2:
        raise Misfit("it returned no pair")
    values, indices = sorted((as_tensor(part) for part in output[:2]), key=lambda t: not t.is_floating_point())
    if not values.is_floating_point() or indices.is_floating_point() or values.shape != indices.shape:
        raise Misfit("it returned no pair of values and indices")
    values, indices = values.reshape(len(logits), -1), indices.long().reshape(len(logits), -1)
    if bool((indices < 0).any()) or bool((indices >= logits.shape[-1]).any()):
        raise Misfit("it returned no indices of tokens")
    own, listed = logits.softmax(-1).gather(-1, indices), (values != 0) & (values > _EXCLUDED)
    if bool((((values - own).abs() < 1e-5) | ~listed).all()):  # the input's own probabilities: a selection
        values = own.log().masked_fill(~listed, -math.inf)
    probabilities = _is_probability(values) and bool(((values.sum(-1) - 1).abs() < 1e-3).all())
    blank = torch.full(logits.shape, 0.0 if probabilities else -math.inf, dtype=torch.float64)
    filled = blank.scatter(-1, indices, values)
    return filled.log() if probabilities else filled
