"""What checks of rows of steps share: the flags of episodes and masks, and weighted sums over the steps that follow."""

from collections.abc import Callable

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg

F64 = torch.float64

#: The flags of a row that holds several episodes, all of which follow from `dones`, and the mask of the steps taken.
FLAGS = frozenset(["dones", "ends", "starts", "not_dones", "next_done", "terminated"])
MASKS = frozenset(["mask", "padding"])
MASK_ARGS = (
    Arg("mask", "B T", flag=True),
    Arg("padding", "B T", of=lambda x: ~x.mask, flag=True),
)
_BOOTSTRAPS = frozenset(["last_value", "next_value", "next_values"])


def settle(name: str, roles: tuple[str, ...], others: frozenset[str]) -> str | None:
    """Which of its meanings a mask has, from the other arguments, if they tell.

    `masks` beside a bootstrap value and no other flag are 1 where the episode goes on, as in the code that descends
    from pytorch-a2c-ppo-acktr; beside other flags they are 1 where a step was taken.
    """
    if {"mask", "not_dones"} <= set(roles):
        return "mask" if others & FLAGS else "not_dones" if others & _BOOTSTRAPS else None
    return None


def shifted(flags: Tensor, by: int, edge: str) -> Tensor:
    """The flags of the next step (by = -1) or of the previous one (by = 1); at the edge False, True or the own one."""
    moved, at = flags.roll(by, -1), 0 if by > 0 else -1
    moved[..., at] = flags[..., at] if edge == "own" else edge == "True"
    return moved


def episodes(ends: Tensor) -> Tensor:
    """The number of the episode of each step, where `ends` is True at the last step of one."""
    return ends.long().cumsum(-1) - ends.long()


def power(base: float, exponent: Tensor, where: Tensor) -> Tensor:
    """base^exponent where a condition holds, and 0 elsewhere."""
    return torch.where(where, float(base) ** torch.where(where, exponent, 0).to(F64), 0.0)


def weighted(values: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Σ_k w(t, k) x_k over the steps k of the episode of t; weights `[..., T, T]`."""
    part = episodes(ends)
    counted = torch.where(part[..., :, None] == part[..., None, :], weights, 0.0)
    return (counted.to(values.dtype) @ values[..., None])[..., 0]


def to_go(values: Tensor, base: float, ends: Tensor, taken: Tensor | None = None) -> Tensor:
    """Σ_{k≥t} base^(k-t) x_k over the steps of the episode; with `taken`, k - t counts only these steps."""
    k = torch.arange(values.shape[-1])
    place = k.expand(values.shape) if taken is None else taken.long().cumsum(-1) - 1
    exponent = place[..., None, :] - place[..., :, None]
    later = (k >= k[:, None]) & (exponent >= 0)
    return weighted(values, power(base, exponent, later), ends)


def standardised(x: Tensor, dims: tuple[int, ...], ddof: int = 0, eps: float = 1e-8, *, alone: bool = True) -> Tensor:
    """Values standardised over some axes; unless `alone`, a single step is left as it is."""
    over = tuple(d for d in dims if -d <= x.ndim)
    if x.shape[-1] == 1 and not alone:
        return x
    return (x - x.mean(over, keepdim=True)) / (x.std(over, correction=ddof, keepdim=True) + eps)


def masked_standardised(x: Tensor, mask: Tensor, ddof: int, eps: float = 1e-8) -> Tensor:
    """Values standardised over the steps taken of the batch."""
    kept = x[mask]
    spread = kept.std(correction=ddof if kept.numel() > 1 else 0)
    return (x - kept.mean()) / (spread + eps)


def in_one_row(function: Callable[..., Tensor], *values: Tensor, backwards: bool = False) -> Tensor:
    """A function of one row applied to all rows one after the other, or the last row first."""
    rows = [x.flip(0).reshape(-1) if backwards and x.ndim > 1 else x.reshape(-1) for x in values]
    result = function(*rows).reshape(values[0].shape)
    return result.flip(0) if backwards and result.ndim > 1 else result
