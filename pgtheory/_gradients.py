"""Gradients of losses of trajectories: by the log-probabilities, and from there by a table of preferences."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pgtheory._precision import wide
from pgtheory.trajectories import Trajectories


def add_up(trajectories: Trajectories, weights: Tensor, policy: Tensor) -> Tensor:
    """For each row of `weights`, `[N, T]`, the table of the sums over the steps at (s, a): `[N, S, A]`."""
    cell = trajectories.states[:, :-1] * policy.shape[-1] + trajectories.actions
    weights = wide(torch.where(trajectories.mask, weights, 0.0))
    sums = weights.new_zeros(len(weights), policy.numel()).scatter_add(1, cell, weights)
    return sums.view(len(weights), *policy.shape)


def log_policy_gradient(policy: Tensor, weights: Tensor) -> Tensor:
    """The gradient by h of Σ_{s,a} w(s, a) ln π(a|s), for each table of weights."""
    # Σ_b w(s, b) (1{a = b} − π(a|s))
    return closed(weights - policy * weights.sum(-1, keepdim=True), policy)


def closed(rows: Tensor, policy: Tensor) -> Tensor:
    """Rows of a gradient by preferences, which sum to 0: that of the likeliest action is minus the sum of the others.

    Beside a policy that is nearly certain the others are small and have all their digits; this entry, a difference of
    numbers of the size of the values, would be rounding alone.
    """
    actions = torch.arange(policy.shape[-1], device=policy.device)
    likeliest = policy.detach().argmax(-1, keepdim=True) == actions
    others = torch.where(likeliest, 0.0, rows)
    return torch.where(likeliest, 0.0 - others.sum(-1, keepdim=True), others)


class Scores:
    """The scores of the steps of some trajectories, to be added up with weights: ∂ ln π(A_t|S_t) / ∂h(s, a).

    Tables have the `states` alone in which there is a choice: elsewhere all scores are 0. `batch` `[n, N]` holds
    numbers of trajectories, and weights `[n, N, T]` belong to their steps; those of padding are not read.
    """

    def __init__(self, trajectories: Trajectories, policy: Tensor, available: Tensor) -> None:
        """Say in which entry of a table each step stands; padding in one behind all others."""
        choice = available.sum(-1) > 1
        choice[0] = True  # so that no table is empty
        self.shape, self.states = policy.shape, choice.nonzero()[:, 0]
        self.policy = policy[self.states]
        row, state = choice.cumsum(0) - 1, trajectories.states[:, :-1]
        cell = row[state] * policy.shape[-1] + trajectories.actions
        self.cell = torch.where(trajectories.mask & choice[state], cell, self.policy.numel())

    def total(self, parts: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """The sum over parts, each of probabilities `[n]`, batches and weights, as one table; summed in float64."""
        sums = self.policy.new_zeros(self.policy.numel() + 1, dtype=torch.float64)
        for probability, batch, weights in parts:
            terms = probability.double()[:, None, None] * weights
            sums.index_add_(0, self.cell[batch].flatten(), terms.flatten())
        return log_policy_gradient(self.policy, sums[:-1].view_as(self.policy).to(self.policy.dtype))

    def each(self, batch: Tensor, weights: Tensor) -> Tensor:
        """The sum for each batch, `[n, states, A]`."""
        weights = wide(weights).flatten(1)
        sums = weights.new_zeros(len(batch), self.policy.numel() + 1).scatter_add_(
            -1, self.cell[batch].flatten(1), weights
        )
        return log_policy_gradient(self.policy, sums[:, :-1].view(-1, *self.policy.shape))

    def whole(self, table: Tensor) -> Tensor:
        """The table over all states."""
        return table.new_zeros(self.shape).index_copy_(0, self.states, table)


class Moments:
    """The mean of directions of ascent and the trace of their covariance, added up chunk by chunk."""

    def __init__(self, near: Tensor) -> None:
        """Start from nothing; `near` is a gradient, `[S, A]`, that the mean is expected near to."""
        self.near, self.mean, self.square = near, torch.zeros_like(near), 0.0

    def add(self, probabilities: Tensor, scores: Scores, batch: Tensor, slopes: Tensor) -> None:
        """Add the gradients of the losses of batches, whose negatives are directions, with their probabilities."""
        gradients = scores.each(batch, slopes).flatten(1)
        self.mean -= scores.whole((probabilities @ gradients).view_as(scores.policy))
        self.square += float(probabilities @ (gradients + self.near[scores.states].flatten()).square_().sum(-1))

    def variance(self) -> float:
        """The trace of the covariance, when all has been added."""
        # Var[x] = E‖x − c‖² − ‖E[x] − c‖², whatever c; the nearer to the mean, the more digits are left
        return max(0.0, self.square - float((self.mean - self.near).square().sum()))


class Comparison(NamedTuple):
    """How far a mean direction of ascent is from the exact gradient; the angle is in degrees."""

    bias: float
    angle: float
    length: float


def compare(mean: Tensor, target: Tensor, rounding: float) -> Comparison:
    """Compare a mean direction with the exact gradient, whose rounding error has at most the norm `rounding`.

    A vector that is no longer than its rounding error has no direction: then the angle is NaN, and if it is the
    gradient, the ratio of the lengths too.
    """
    length, goal = norm(mean), norm(target)
    known, moves = goal > rounding, length > rounding
    angle = math.nan
    if known and moves:
        u, v = mean / length, target / goal
        # Not the arc cosine, which cannot tell angles below 1e-8 from 0.
        angle = math.degrees(2 * math.atan2(norm(u - v), norm(u + v)))
    return Comparison(norm(mean - target), angle, length / goal if known else math.nan)


def norm(x: Tensor) -> float:
    """The Euclidean norm, in units of the largest entry: the squares of small numbers are 0."""
    unit = float(x.abs().max())
    return unit * float((x.double() / unit).norm()) if unit > 0 else 0.0


def rounding_of_gradient(visitation: Tensor, policy: Tensor, action_values: Tensor) -> float:
    """A bound of the norm of the rounding error in η(s) π(a|s) A(s, a), in the dtype of the policy.

    16 eps times the largest action value times the expected number of steps stands for the error of an advantage.
    """
    error = 16 * torch.finfo(policy.dtype).eps * float(action_values.abs().max()) * max(1.0, float(visitation.sum()))
    return error * norm(closed(visitation.unsqueeze(-1) * policy, policy))


def loss_slopes(loss: Callable[..., Tensor], log_probs: Tensor, rewards: Tensor, gamma: float, mask: Tensor) -> Tensor:
    """The derivatives of the loss of each batch by its log-probabilities, `[n, N, T]`."""
    return slopes_of(lambda x, r, m: loss(x, r, gamma, mask=m), (log_probs, rewards, mask))


def slopes_of(loss: Callable[..., Tensor], batches: Sequence[Tensor]) -> Tensor:
    """The derivatives of the loss of each batch by the first of its tensors."""

    def value(*batch: Tensor) -> Tensor:
        return checked_loss(loss(*batch))

    try:
        slopes: Tensor = torch.func.vmap(torch.func.grad(value))(*batches)
    except RuntimeError:  # code that depends on values, such as `if` or boolean indexing
        each = zip(*batches, strict=True)
        return torch.stack([slope_of(loss, x, *rest) for x, *rest in each])
    return slopes


def slope_of(loss: Callable[..., Tensor], log_probs: Tensor, *others: Tensor) -> Tensor:
    """The derivatives of a loss by the first of its arguments."""
    leaf = log_probs.detach().clone().requires_grad_()
    value = checked_loss(loss(leaf, *others))
    if not value.requires_grad:
        return torch.zeros_like(log_probs)
    return torch.autograd.grad(value, leaf, materialize_grads=True, allow_unused=True)[0]


def checked_loss(loss: Tensor) -> Tensor:
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss must return a scalar torch.Tensor, not {type(loss).__name__}")
    if not loss.is_floating_point():
        raise TypeError(f"loss must return a floating-point number, not {loss.dtype}")
    if loss.ndim > 0:
        raise ValueError(f"loss returned shape {list(loss.shape)}, expected a scalar: sum or average it")
    return loss
