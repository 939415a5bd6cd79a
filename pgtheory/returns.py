r"""Returns: what a trajectory of rewards is worth, seen from each of its steps (chapter 2).

`rewards[..., t]` is :math:`R_{t+1}`, the reward that follows action :math:`A_t`; `mask[..., t]` is True where
:math:`A_t` was taken.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from pgtheory import _checks, _compiled
from pgtheory._masks import is_last_step
from pgtheory._precision import wide

__all__ = [
    "discount_factors",
    "discount_from_rate",
    "discounted_return",
    "effective_horizon",
    "return_matrix",
    "returns_to_go",
    "sequence_level_rewards",
]

BLOCK = 16
"""Steps that one small matrix product discounts at a time."""


def discount_factors(
    gamma: float, horizon: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Float[Tensor, " T"]:
    r"""Weights :math:`\gamma^0, \gamma^1, \dots, \gamma^{T-1}` of the rewards in a return.

    See :eq:`eq-return`. :math:`0^0 = 1`: the next reward is never discounted.

    Args:
        gamma: the discount :math:`\gamma`, in [0, 1].
        horizon: The number of factors :math:`T \ge 0`.
        dtype: Floating-point type of the result; torch's default if None.
        device: Device of the result.

    Returns:
        The factors, each the power itself and not a product of rounded factors.

    Raises:
        ValueError: `gamma` is outside [0, 1] or `horizon` is negative.
        TypeError: `gamma` is not a number, `horizon` not an integer, or `dtype` not a floating-point type.

    Source:
        Sutton and Barto (2018), equation (3.11).

    Example:
        >>> discount_factors(0.5, 4)
        tensor([1.0000, 0.5000, 0.2500, 0.1250])
    """
    gamma, steps, dtype = _checks.check_gamma(gamma), _steps(horizon, device), _floating("dtype", dtype)
    return torch.pow(gamma, steps).to(dtype)


def return_matrix(
    gamma: float, horizon: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Float[Tensor, "T T"]:
    r"""The matrix :math:`L` of the linear map :math:`G = L R` from rewards to returns.

    See :eq:`eq-return-matrix`. Row :math:`t` holds the weights of :math:`G_t`, which are
    :math:`L_{tj} = \gamma^{j-t}` for :math:`j \ge t` and 0 for the steps before.

    Args:
        gamma: the discount :math:`\gamma`, in [0, 1].
        horizon: The number of steps :math:`T \ge 0`.
        dtype: Floating-point type of the result; torch's default if None.
        device: Device of the result.

    Returns:
        An upper triangular Toeplitz matrix.

    Raises:
        ValueError: `gamma` is outside [0, 1] or `horizon` is negative.
        TypeError: `gamma` is not a number, `horizon` not an integer, or `dtype` not a floating-point type.

    Source:
        Sutton and Barto (2018), equation (3.11), written for all :math:`t` at once.

    Example:
        >>> return_matrix(0.5, 3)
        tensor([[1.0000, 0.5000, 0.2500],
                [0.0000, 1.0000, 0.5000],
                [0.0000, 0.0000, 1.0000]])
    """
    horizon = _checks.check_count("horizon", horizon, at_least=0)
    _checks.check_room("return_matrix, at this horizon,", horizon, horizon, limit=2**28)
    gamma, steps, dtype = _checks.check_gamma(gamma), _steps(horizon, device), _floating("dtype", dtype)
    return discount_weights(gamma, steps - steps[:, None]).to(dtype)


def returns_to_go(
    rewards: Float[Tensor, "*batch T"], gamma: float, *, mask: Bool[Tensor, "*batch T"] | None = None
) -> Float[Tensor, "*batch T"]:
    r"""Returns :math:`G_t = \sum_{k=0}^{T-t-1} \gamma^k R_{t+k+1}` of every step :math:`t` of every trajectory.

    See :eq:`eq-return`. Blocks of `BLOCK` steps are discounted by one matrix product and joined by the same rule: the
    work is O(T), nothing is divided by a power of :math:`\gamma`, and no long product of rounded factors is formed.
    Large tensors on a CPU are summed by a compiled loop, in float64, where the extra `fast` is installed.
    Half-precision rewards are summed in float32 and rounded once. At :math:`\gamma = 0` the result equals the rewards;
    at :math:`\gamma = 1` it is the plain sum, exact where the sums of the rewards are.

    The index is the time: a step whose mask is False gives no reward and has return 0, but it takes a step of time. So
    padding on either side leaves the returns of the steps taken as they are, and a row without any step has returns 0.

    It obeys the recursion :eq:`eq-return-recursion`.

    Args:
        rewards: :math:`R_{t+1}` at index t, shape `[..., T]`; what stands where the mask is False is never read.
        gamma: the discount :math:`\gamma`, in [0, 1].
        mask: True where :math:`A_t` was taken, shape `[..., T]`; None: everywhere.

    Returns:
        :math:`G_t` at index t, 0 where the mask is False.

    Raises:
        ValueError: `gamma` is outside [0, 1]; `rewards` is a scalar, or not finite at a step that was taken; a return
            overflows the dtype; shapes or devices differ. (Inside torch.func and torch.compile values go unchecked.)
        TypeError: `rewards` is not a floating-point tensor, `mask` not a boolean one, or `gamma` not a number.

    Source:
        Sutton and Barto (2018), equations (3.9) and (3.11).

    Example:
        >>> returns_to_go(torch.tensor([1.0, 0.0, 4.0]), 0.5)
        tensor([2., 2., 4.])
        >>> padded = torch.tensor([1.0, 0.0, 4.0, float("nan")])
        >>> returns_to_go(padded, 0.5, mask=~padded.isnan())
        tensor([2., 2., 4., 0.])
    """
    gamma = _checks.check_gamma(gamma)
    _check_rewards(rewards, mask)
    if _compiled.takes_over(rewards, mask):
        return _compiled_returns(rewards, mask, gamma)
    returns = _plain_returns(rewards, mask, gamma)
    _check_returns(returns, rewards, mask)
    return returns


def discounted_return(
    rewards: Float[Tensor, "*batch T"], gamma: float, *, mask: Bool[Tensor, "*batch T"] | None = None
) -> Float[Tensor, "*batch"]:
    r"""The return :math:`G_0 = \sum_{k=0}^{T-1} \gamma^k R_{k+1}` of every whole trajectory.

    See :eq:`eq-return`. It equals `returns_to_go(...)[..., 0]` where the first step was taken, and costs one sum.

    The index is the time: the reward at index k has weight :math:`\gamma^k` even where steps before it are masked out.
    With padding on the *left*, the return from the first step taken is `returns_to_go` at that step.

    Args:
        rewards: :math:`R_{t+1}` at index t, shape `[..., T]`; what stands where the mask is False is never read.
        gamma: the discount :math:`\gamma`, in [0, 1].
        mask: True where :math:`A_t` was taken, shape `[..., T]`; None: everywhere.

    Returns:
        :math:`G_0`, shape `[...]`; the empty sum, 0, for a trajectory without steps.

    Raises:
        ValueError: `gamma` is outside [0, 1]; `rewards` is a scalar, or not finite at a step that was taken; a return
            overflows the dtype; shapes or devices differ. (Inside torch.func and torch.compile values go unchecked.)
        TypeError: `rewards` is not a floating-point tensor, `mask` not a boolean one, or `gamma` not a number.

    Source:
        Sutton and Barto (2018), equation (3.11) at t = 0.

    Example:
        >>> discounted_return(torch.tensor([[1.0, 0.0, 4.0], [0.0, 1.0, 0.0]]), 0.5)
        tensor([2.0000, 0.5000])
    """
    gamma = _checks.check_gamma(gamma)
    _check_rewards(rewards, mask)
    taken = _taken(rewards, mask)
    factors = discount_factors(gamma, taken.shape[-1], dtype=taken.dtype, device=taken.device)
    returns = (taken @ factors).to(rewards.dtype)
    _check_returns(returns, rewards, mask)
    return returns


def sequence_level_rewards(
    scores: Float[Tensor, "*batch"], mask: Bool[Tensor, "*batch T"]
) -> Float[Tensor, "*batch T"]:
    r"""Rewards of trajectories that are scored as wholes: :math:`R_T` is the score, and every reward before it is 0.

    See :eq:`eq-sequence-level-reward`. The score stands on the last step that was taken, wherever padding lies.

    Args:
        scores: One score for each trajectory, shape `[...]`.
        mask: True where :math:`A_t` was taken, shape `[..., T]`.

    Returns:
        Rewards, shape `[..., T]`.

    Raises:
        ValueError: a trajectory has no step to carry its score; a score is not finite; shapes or devices differ.
        TypeError: `scores` is not a floating-point tensor, or `mask` not a boolean one.

    Source:
        Ouyang et al. (2022), section 3.5: a reward at the end of the response ends the episode.

    Example:
        >>> mask = torch.tensor([[True, True, True], [True, False, False]])
        >>> sequence_level_rewards(torch.tensor([2.0, -1.0]), mask)
        tensor([[ 0.,  0.,  2.],
                [-1.,  0.,  0.]])
    """
    _checks.check_floating("scores", scores)
    _checks.check_bool("mask", mask)
    _checks.check_at_least_1d("mask", mask, "time")
    _checks.check_same_device("mask", mask, "scores", scores)
    if scores.shape != mask.shape[:-1]:
        raise ValueError(
            f"scores has shape {list(scores.shape)}, expected {list(mask.shape[:-1])}: mask without its last axis"
        )
    _checks.check_has_values("scores", scores)
    if not _checks.is_traced(scores, mask) and not (taken := mask.any(-1)).all():
        raise ValueError(f"mask is False at every step of {_checks.first_place(~taken)}: nothing can carry the score")
    _checks.check_finite("scores", scores)
    return torch.where(is_last_step(mask), scores[..., None], 0)


def discount_from_rate(rate: float) -> float:
    r"""The discount factor :math:`\gamma = 1/(1+i)` of an interest rate :math:`i \ge 0` per step.

    See :eq:`eq-discount-rate`. One unit now grows to :math:`1 + i` units one step later, so one unit
    then is worth :math:`\gamma` now.

    Args:
        rate: The interest rate :math:`i \ge 0` of one step: 0.05 is five per cent.

    Returns:
        :math:`\gamma \in (0, 1]`.

    Raises:
        ValueError: `rate` is negative, infinite or NaN.
        TypeError: `rate` is not a number.

    Source:
        Brealey, Myers and Allen (2020), chapter 2: the discount factor.

    Example:
        >>> discount_from_rate(0.25)
        0.8
    """
    number = _checks.check_real("rate", rate)
    if not 0.0 <= number < float("inf"):
        raise ValueError(f"rate must be a finite number of at least 0, not {number}")
    return 1.0 / (1.0 + number)


def effective_horizon(gamma: float) -> float:
    r"""The effective horizon :math:`1/(1-\gamma) = \sum_{k \ge 0} \gamma^k`, infinite at :math:`\gamma = 1`.

    See :eq:`eq-effective-horizon`. It is the total weight of all rewards, and the mean length of an episode
    that ends after each step with probability :math:`1 - \gamma`.

    Args:
        gamma: the discount :math:`\gamma`, in [0, 1].

    Returns:
        A number of steps.

    Raises:
        ValueError: `gamma` is outside [0, 1].
        TypeError: `gamma` is not a number.

    Source:
        Sutton and Barto (2018), equation (3.10).

    Example:
        >>> effective_horizon(0.75)
        4.0
    """
    gamma = _checks.check_gamma(gamma)
    return float("inf") if gamma == 1.0 else 1.0 / (1.0 - gamma)


def _floating(name: str, dtype: torch.dtype | None) -> torch.dtype:
    """`dtype`, or torch's default; a `TypeError` if it holds no floating-point numbers."""
    chosen = torch.get_default_dtype() if dtype is None else dtype
    _checks.check_dtype(name, chosen)
    return chosen


def _steps(horizon: int, device: torch.device | str | None) -> Float[Tensor, " T"]:
    """0, 1, ..., `horizon` - 1."""
    horizon = _checks.check_count("horizon", horizon, at_least=0, at_most=_checks.ROOM)
    if device is not None:
        _checks.check_device("device", device)
    return torch.arange(horizon, dtype=torch.float64, device=device)


def _check_rewards(rewards: Tensor, mask: Tensor | None) -> None:
    """Raise unless they are tensors that fit together."""
    _checks.check_floating("rewards", rewards)
    _checks.check_at_least_1d("rewards", rewards, "time")
    if mask is not None:
        _checks.check_mask(mask, "rewards", rewards)
    _checks.check_has_values("rewards", rewards)


def _taken(rewards: Tensor, mask: Tensor | None) -> Tensor:
    """The rewards, 0 where no step was taken, in the precision to sum them in."""
    return wide(rewards if mask is None else torch.where(mask, rewards, 0))


def _plain_returns(rewards: Tensor, mask: Tensor | None, gamma: float) -> Tensor:
    """The returns of the steps that were taken."""
    returns = _discount(_taken(rewards, mask), gamma).to(rewards.dtype)
    return returns if mask is None else torch.where(mask, returns, 0)


def _compiled_returns(rewards: Tensor, mask: Tensor | None, gamma: float) -> Tensor:
    """`_plain_returns` by compiled loops over time, in float64; they are checked."""
    if rewards.requires_grad:
        attached: Tensor = _CompiledReturns.apply(rewards, mask, gamma)  # type: ignore[no-untyped-call]
        return attached
    from pgtheory import _kernels

    returns = torch.empty(rewards.shape, dtype=rewards.dtype)
    arrays = [None if x is None else _compiled.as_array(x) for x in (rewards, mask)]
    if not _kernels.over_time(_kernels.returns_to_go, *arrays, rate=gamma, taken=arrays[1], sums=returns):
        _check_returns(returns, rewards, mask)
    return returns


class _CompiledReturns(torch.autograd.Function):
    """The derivative of `_compiled_returns`."""

    @staticmethod
    def forward(ctx: Any, rewards: Tensor, mask: Tensor | None, gamma: float) -> Tensor:
        """See `returns_to_go`."""
        ctx.save_for_backward(mask)
        ctx.gamma = gamma
        return _compiled_returns(rewards.detach(), mask, gamma)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        """The adjoint sums from the past as the returns sum from the future."""
        (mask,) = ctx.saved_tensors
        later = _plain_returns(slopes[0].flip(-1), None if mask is None else mask.flip(-1), ctx.gamma)
        return later.flip(-1), None, None


def discount_weights(gamma: float, lags: Tensor) -> Tensor:
    """γ^lag where the lag is not negative, and 0 where it is: a reward of the past."""
    return torch.where(lags >= 0, torch.pow(gamma, lags), 0)


def _discount(rewards: Tensor, gamma: float, stride: int = 1) -> Tensor:
    """Discounted sums from each index to the end of the last axis; neighbours lie `stride` steps of time apart."""
    horizon = rewards.shape[-1]
    steps = torch.arange(min(horizon, BLOCK), dtype=torch.float64, device=rewards.device)
    within = discount_weights(gamma, stride * (steps[:, None] - steps)).to(rewards.dtype)
    if horizon <= BLOCK:
        return rewards @ within
    whole = pad(rewards, (0, -horizon % BLOCK)) if horizon % BLOCK else rewards
    returns = whole.reshape(*rewards.shape[:-1], -(-horizon // BLOCK), BLOCK) @ within
    # What the first steps of the blocks are worth is a discounted sum again, in steps BLOCK times as long.
    starts = _discount(returns[..., 0], gamma, stride * BLOCK)
    to_next_block = torch.pow(gamma, stride * (BLOCK - steps)).to(rewards.dtype)
    if _checks.is_traced(rewards):  # vmap has no rule for addcmul_, which needs no temporary
        returns[..., :-1, :] += starts[..., 1:, None] * to_next_block
    else:
        returns[..., :-1, :].addcmul_(starts[..., 1:, None], to_next_block)
    return returns.reshape(whole.shape)[..., :horizon].contiguous()


def _check_returns(returns: Tensor, rewards: Tensor, mask: Tensor | None) -> None:
    """Raise `ValueError` if a reward is not finite, or if a return is not although they all are."""
    if _checks.is_traced(returns, rewards, mask):
        return
    # A reward that is not finite makes its own return so, and that the sum: one cheap pass clears the usual case.
    if returns.detach().sum(dtype=torch.promote_types(returns.dtype, torch.float32)).isfinite():
        return
    _checks.check_finite("rewards", rewards, mask)
    if (overflow := ~returns.isfinite()).any():
        raise ValueError(
            f"rewards are too large: the return overflows {returns.dtype} at {_checks.first_place(overflow)}"
        )
