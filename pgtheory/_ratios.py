"""Logarithms of importance ratios, and the clip: what the surrogates of a step and those of a group have in common."""

import math

import torch
from torch import Tensor

from pgtheory import _checks
from pgtheory._masks import mean_taken, taken
from pgtheory._precision import wide


def log_ratio(log_probs: Tensor, old: Tensor, mask: Tensor | None, name: str = "old_log_probs") -> Tensor:
    """The logarithm of π(A_t|S_t) / π_old(A_t|S_t), 0 where the mask is False; the second term is a constant.

    In at least float32, so that the sums and exponentials of it are.
    """
    _checks.check_floating("log_probs", log_probs)
    if mask is not None:
        _checks.check_mask(mask, "log_probs", log_probs)
    _checks.check_finite("log_probs", log_probs, mask)
    _checks.check_like(name, old, "log_probs", log_probs, mask)
    return wide(taken(log_probs, mask)) - wide(taken(old.detach(), mask))


def at_level(log_ratio: Tensor, mask: Tensor, level: str) -> Tensor:
    """The logarithms of the ratios at one of the levels of `importance_ratios`."""
    if level == "step":
        return log_ratio
    if level == "prefix":
        return log_ratio.cumsum(-1)
    if level == "trajectory":
        return log_ratio.sum(-1, keepdim=True).expand_as(log_ratio)
    if level == "geometric_mean":
        return mean_taken(log_ratio, mask, (-1,)).unsqueeze(-1).expand_as(log_ratio)
    raise ValueError(f"level is {level!r}, expected 'step', 'prefix', 'trajectory' or 'geometric_mean'")


def clipped(log_ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """The clipped surrogate; bounding the logarithm keeps the exponential from an overflow where it is clipped."""
    # min(ρA, clip(ρ, 1 − ε₋, 1 + ε₊) A): ρ is at most 1 + ε₊ where A ≥ 0, and at least 1 − ε₋ where A < 0
    below, above = log_ratio.clamp(max=math.log1p(high)), log_ratio.clamp(min=_log1p(-low))
    return weighted(torch.where(advantages >= 0, below, above), advantages)


def weighted(log_ratio: Tensor, weights: Tensor) -> Tensor:
    """The products ρ w of ratios, given by their logarithms, and weights: finite wherever the product is.

    A weight of 0 gives 0 and passes no gradient, though ρ may be infinite; and where ρ alone would over- or underflow,
    the logarithm of the weight is added to its exponent first.
    """
    weights = wide(weights)
    counts, limit = weights != 0, math.log(torch.finfo(log_ratio.dtype).max) - 1
    extreme = counts & (log_ratio.detach().abs() > limit)
    plain = torch.where(counts & ~extreme, log_ratio, 0.0).exp() * weights
    size = torch.where(extreme, weights.abs(), 1.0).log()
    shifted = (torch.where(extreme, log_ratio, 0.0) + size).exp() * weights.sign()
    return torch.where(extreme, shifted, plain)


def _log1p(x: float) -> float:
    return -math.inf if x == -1.0 else math.log1p(x)


def checked_clip(clip: object) -> tuple[float, float]:
    """(ε₋, ε₊) from either form of `clip`."""
    pair = clip if isinstance(clip, tuple) else (clip, clip)
    if len(pair) != 2:
        raise ValueError(f"clip has {len(pair)} entries, expected a number or the pair (low, high)")
    low, high = (_checks.check_real("clip", x) for x in pair)
    if not 0.0 <= low <= 1.0:
        raise ValueError(f"clip must be in [0, 1] below the ratio 1, not {low}")
    if not high >= 0.0:
        raise ValueError(f"clip must be at least 0 above the ratio 1, not {high}")
    return low, high
