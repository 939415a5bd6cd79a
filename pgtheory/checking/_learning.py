"""What a mistake does to learning: descent along the exact expected gradient of a loss."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from pgtheory import _checks
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import performance
from pgtheory.softmax_policy import softmax_policy


def learning_curve(
    gradient: Callable[[Tensor], Tensor],
    mdp: FiniteMDP,
    preferences: Float[Tensor, "S A"],
    gamma: float,
    *,
    n_steps: int,
    step_size: float,
) -> Float[Tensor, "n_steps+1"]:
    r"""The performance :math:`J(\theta_i)` along :math:`\theta_{i+1} = \theta_i - \alpha\, \mathbb{E}[\nabla \ell]`.

    Equation :eq:`eq-learning-curve`. There is no noise: what differs between two losses is the mistake alone.

    Args:
        gradient: the expected gradient of the loss at given preferences, by `expected_gradient` for example.
        mdp: the MDP.
        preferences: :math:`\theta_0 = h(s, a)`.
        gamma: the discount :math:`\gamma` of the performance.
        n_steps: the number of steps.
        step_size: :math:`\alpha > 0`.

    Returns:
        The performance before the first step and after each.

    Raises:
        ValueError: `n_steps` is less than 1; `step_size` is not positive; as `performance`.
        TypeError: as `performance`.

    Source:
        Sutton and Barto, *Reinforcement Learning*, 2018, eq. (13.1), with the expectation in place of a sample.

    Example:
        >>> from pgtheory import gallery
        >>> from pgtheory.policy_gradient import expected_gradient
        >>> from pgtheory.reinforce import reinforce_loss
        >>> bandit = gallery.bandit([1.0, 0.0])
        >>> def gradient(h):
        ...     return expected_gradient(reinforce_loss, bandit, h, 1.0, horizon=1)
        >>> learning_curve(gradient, bandit, torch.zeros(2, 2, dtype=torch.float64), 1.0, n_steps=2, step_size=4.0)
        tensor([0.5000, 0.8808, 0.9448], dtype=torch.float64)
    """
    n_steps, step_size = _checks.check_count("n_steps", n_steps), _checks.check_real("step_size", step_size)
    if not step_size > 0:
        raise ValueError(f"step_size must be positive, not {step_size}")
    points = [preferences.detach()]
    for _ in range(n_steps):
        points.append(points[-1] - step_size * gradient(points[-1]))
    return performance(mdp, softmax_policy(torch.stack(points), available=mdp.available), gamma)
