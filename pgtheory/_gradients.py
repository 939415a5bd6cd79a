"""Gradients of losses of trajectories: by the log-probabilities, and from there by a table of preferences."""

from collections.abc import Callable

import torch
from torch import Tensor

from pgtheory.trajectories import Trajectories


def add_up(trajectories: Trajectories, weights: Tensor, policy: Tensor) -> Tensor:
    """For each row of `weights`, `[..., T]`, the table `[..., S, A]` of the sums over the steps at (s, a)."""
    cell = trajectories.states[..., :-1] * policy.shape[-1] + trajectories.actions
    sums = weights.new_zeros(*weights.shape[:-1], policy.numel())
    sums = sums.scatter_add(-1, cell, torch.where(trajectories.mask, weights, 0.0))
    return sums.view(*weights.shape[:-1], *policy.shape)


def log_policy_gradient(policy: Tensor, weights: Tensor) -> Tensor:
    """The gradient by h of Σ_{s,a} w(s, a) ln π(a|s), for each table of weights."""
    # Σ_b w(s, b) (1{a = b} − π(a|s))
    return weights - policy * weights.sum(-1, keepdim=True)


def loss_slopes(loss: Callable[..., Tensor], log_probs: Tensor, rewards: Tensor, gamma: float, mask: Tensor) -> Tensor:
    """The derivatives of the loss of each batch by its log-probabilities, `[n, N, T]`."""

    def value(log_probs: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
        return _checked_loss(loss(log_probs, rewards, gamma, mask=mask))

    try:
        slopes: Tensor = torch.func.vmap(torch.func.grad(value))(log_probs, rewards, mask)
    except RuntimeError:  # code that depends on values, such as `if` or boolean indexing
        batches = zip(log_probs, rewards, mask, strict=True)
        return torch.stack([_slope(value(leaf := x.clone().requires_grad_(), r, m), leaf) for x, r, m in batches])
    return slopes


def _slope(loss: Tensor, log_probs: Tensor) -> Tensor:
    if not loss.requires_grad:
        return torch.zeros_like(log_probs)
    return torch.autograd.grad(loss, log_probs, materialize_grads=True, allow_unused=True)[0]


def _checked_loss(loss: Tensor) -> Tensor:
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss must return a scalar torch.Tensor, not {type(loss).__name__}")
    if loss.ndim > 0:
        raise ValueError(f"loss returned shape {list(loss.shape)}, expected a scalar: sum or average it")
    return loss
