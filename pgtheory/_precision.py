"""The precision that sums are taken in: at least float32, whatever the dtype of the terms and of the result."""

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """`x` itself, or in float32 where its dtype is of 16 bits: a half cannot count past 65,504, nor square 256."""
    return x.to(wide_dtype(x))


def wide_dtype(x: Tensor) -> torch.dtype:
    """The dtype of `wide(x)`."""
    return torch.promote_types(x.dtype, torch.float32)


def sum_of_others(x: Tensor, dim: int) -> Tensor:
    """For each entry, the sum of the others along axis -1 or -2: of those before it and of those after it.

    The total minus the entry, a difference, would lose the others beside a large entry.
    """
    before = x.cumsum(dim).roll(1, dim)
    after = x.flip(dim).cumsum(dim).flip(dim).roll(-1, dim)
    place = torch.arange(x.shape[dim], device=x.device).view(-1, *(1,) * (-1 - dim))
    return torch.where(place > 0, before, 0.0) + torch.where(place < x.shape[dim] - 1, after, 0.0)
