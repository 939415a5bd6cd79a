"""Masks over time: True where a step was taken."""

import torch
from torch import Tensor

from pgtheory._precision import wide


def taken(values: Tensor, mask: Tensor | None) -> Tensor:
    """The values, 0 where no step was taken."""
    return values if mask is None else torch.where(mask, values, 0.0)


def mean_taken(values: Tensor, mask: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The mean over the steps that were taken; 0, with gradient 0, where there is none."""
    mean = wide(torch.where(mask, values, 0.0)).sum(axes) / mask.sum(axes).clamp(min=1)
    return mean.to(values.dtype)


def is_last_step(mask: Tensor) -> Tensor:
    """Where the last step taken is: the one with no step taken after it."""
    return mask & (mask.flip(-1).cumsum(-1).flip(-1) == 1)
