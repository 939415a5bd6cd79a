"""Gaussian policies, for actions that are real vectors: the log-density of an action and its score.

They are functions, and no `Policy`: what the algorithms on finite MDPs ask of a policy are rows of preferences and
tables of probabilities, and a continuum of actions has neither.
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from pgtheory._checks import (
    check_at_least_1d,
    check_broadcasts,
    check_finite,
    check_floating,
    check_same_kind,
    check_trailing_shape,
    first_place,
    is_traced,
)
from pgtheory._precision import wide

__all__ = ["gaussian_log_prob", "gaussian_score"]


def gaussian_log_prob(
    mean: Float[Tensor, "*batch D"], log_std: Float[Tensor, "*#batch D"], actions: Float[Tensor, "*#batch D"]
) -> Float[Tensor, "*batch"]:
    r"""The log-density :math:`\ln\pi(a \mid s)` of independent normal components, :eq:`eq-gaussian-log-prob`.

    Args:
        mean: :math:`m_\theta(s)`, one vector per state.
        log_std: :math:`\ln\sigma`; its batch axes broadcast, so that one vector may serve every state.
        actions: the action :math:`a` of each state; its batch axes broadcast.

    Returns:
        One number per state, the sum over the components. It is the logarithm of a density, and may be positive.

    Raises:
        TypeError: an argument is not a floating-point tensor, or they differ in dtype.
        ValueError: shapes or devices do not match; an entry is not finite; exp(-log_std) is infinite.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, section 13.7.

    Example:
        >>> import torch
        >>> zero = torch.zeros(1, dtype=torch.float64)
        >>> gaussian_log_prob(zero, zero, torch.tensor([[0.0], [1.0]], dtype=torch.float64))
        tensor([-0.9189, -1.4189], dtype=torch.float64)
    """
    z = _standardised(mean, log_std, actions)
    # ln π(a|s) = −½ Σ_i [z_i² + 2 ln σ_i + ln 2π],  z = (a − m)/σ
    return (-0.5 * (z.square() + 2 * wide(log_std) + math.log(2 * math.pi)).sum(-1)).to(mean.dtype)


def gaussian_score(
    mean: Float[Tensor, "*batch D"], log_std: Float[Tensor, "*#batch D"], actions: Float[Tensor, "*#batch D"]
) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch D"]]:
    r"""The score of a Gaussian policy in :math:`m` and in :math:`\ln\sigma`, :eq:`eq-gaussian-score`.

    Args:
        mean: :math:`m_\theta(s)`, one vector per state.
        log_std: :math:`\ln\sigma`; its batch axes broadcast.
        actions: the action :math:`a` of each state; its batch axes broadcast.

    Returns:
        :math:`(a - m)/\sigma^2` and :math:`(a - m)^2/\sigma^2 - 1`, component by component. The mean of both over
        :math:`a \sim \pi` is 0.

    Raises:
        TypeError: as `gaussian_log_prob`.
        ValueError: as `gaussian_log_prob`.

    Source:
        Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", 1992,
        section 6; Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, section 13.7.

    Example:
        >>> import torch
        >>> zero = torch.zeros(1, dtype=torch.float64)
        >>> gaussian_score(zero, zero, torch.tensor([2.0], dtype=torch.float64))
        (tensor([2.], dtype=torch.float64), tensor([3.], dtype=torch.float64))
    """
    z = _standardised(mean, log_std, actions)
    # ∂ ln π/∂m = z/σ;  ∂ ln π/∂ ln σ = z² − 1
    return (z * (-wide(log_std)).exp()).to(mean.dtype), (z.square() - 1).to(mean.dtype)


def _standardised(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    """The standardised action z = (a − m)/σ, after the checks."""
    for name, value in {"mean": mean, "log_std": log_std, "actions": actions}.items():
        check_floating(name, value)
        check_at_least_1d(name, value, "the components of the action")
        check_same_kind(name, value, "mean", mean)
        check_trailing_shape(name, value, (mean.shape[-1],))
        check_broadcasts(name, value.shape[:-1], "mean", mean.shape[:-1])
        check_finite(name, value)
    check_broadcasts("actions", actions.shape[:-1], "log_std", log_std.shape[:-1])
    inverse = (-wide(log_std)).exp()
    if not is_traced(inverse) and inverse.isinf().any():
        bad = inverse.isinf()
        raise ValueError(
            f"log_std is {log_std[bad][0].item()} at {first_place(bad)}: there the standard deviation is 0 to a float"
        )
    return (wide(actions) - wide(mean)) * inverse
