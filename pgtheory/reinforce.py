r"""Chapter 7: REINFORCE, its baselines, and the exact bias and variance of the ways in which it is written.

Every loss here is to be minimised: its gradient is an estimate of :math:`-\nabla J`. Losses are sums over the steps
of an episode and means over episodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgtheory import _checks
from pgtheory._gradients import compare, rounding_of_gradient
from pgtheory._masks import is_last_step, taken
from pgtheory._precision import sum_of_others, wide, wide_dtype
from pgtheory._tables import check_table
from pgtheory.decoding import decoding_distribution
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import (
    Loss,
    direction_moments,
    discounted_visitation,
    exact_policy_gradient,
    performance,
)
from pgtheory.returns import discount_factors, discounted_return, returns_to_go
from pgtheory.softmax_policy import log_softmax_policy, softmax_policy
from pgtheory.trajectories import enumerate_trajectories
from pgtheory.value_functions import action_values, state_values

__all__ = [
    "LedgerRow",
    "bias_ledger",
    "bootstrapped_rewards",
    "entropy_bonus",
    "full_return_loss",
    "leave_one_out_baseline",
    "loss_variants",
    "optimal_baseline",
    "reinforce_loss",
    "value_loss",
]


def reinforce_loss(
    log_probs: Float[Tensor, "*batch T"],
    rewards: Float[Tensor, "*batch T"],
    gamma: float,
    *,
    mask: Bool[Tensor, "*batch T"] | None = None,
    baseline: float | Float[Tensor, "*#batch #T"] | None = None,
    discount_states: bool = True,
) -> Float[Tensor, ""]:
    r"""The REINFORCE loss :math:`-\frac1N \sum_n \sum_t \gamma^t (G_t - b)\, \ln\pi_\theta(A_t \mid S_t)`.

    Equation :eq:`eq-reinforce-loss`: a sum over the steps of each of the N episodes, and a mean over episodes, those
    without any step included. Returns and baseline are constants: no gradient flows into `rewards` or `baseline`, so
    a learned baseline needs a loss of its own, such as `value_loss`.

    Without the factor :math:`\gamma^t` it follows :eq:`eq-dropped-field`.

    Args:
        log_probs: :math:`\ln\pi_\theta(A_t \mid S_t)` of the actions taken; every leading axis counts episodes.
        rewards: :math:`R_{t+1}` at index t.
        gamma: the discount :math:`\gamma`, in [0, 1].
        mask: True where :math:`A_t` was taken; None: everywhere. Elsewhere anything may stand, NaN included.
        baseline: b, a number or a tensor that broadcasts to `rewards`; None: 0.
        discount_states: False drops the factor :math:`\gamma^t`. See the estimand.

    Returns:
        A scalar in the dtype of `log_probs`, differentiable in it.

    Raises:
        ValueError: shapes or devices differ; there is no episode; a log-probability, reward or baseline of a step
            that was taken is not finite; `gamma` is outside [0, 1].
        TypeError: a tensor has the wrong dtype; `baseline` is neither a number nor a tensor.

    Estimand:
        The gradient has the expectation :math:`-\nabla J`, for the J of episodes that end within T steps, if the
        actions were drawn from the policy that is differentiated, and b is independent of :math:`A_t` given
        :math:`S_t` (:eq:`eq-reinforce`, :eq:`eq-baseline-condition`). Where episodes are cut off after T
        steps, it is minus the gradient of the expected return of these T steps. With `discount_states=False` and
        :math:`\gamma < 1` it is in general, with two or more parameters, the gradient of no function.

    Source:
        Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", 1992;
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, section 13.3 (with
        :math:`\gamma^t`) and eq. (13.11).

    Example:
        >>> log_probs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
        >>> loss = reinforce_loss(log_probs, torch.tensor([[0.0, 8.0]]), 0.5)
        >>> loss.backward()
        >>> loss.item(), log_probs.grad
        (12.0, tensor([[-4., -4.]]))
    """
    _check_steps(log_probs, rewards, mask)
    returns = returns_to_go(rewards.detach(), gamma, mask=mask)
    # γ^t (G_t − b)
    weights = wide(returns) - _checked_baseline(baseline, rewards, mask)
    if _checks.check_flag("discount_states", discount_states):
        weights = _discounts(gamma, rewards) * weights
    return -_mean_over_episodes(weights, log_probs, mask)


def full_return_loss(
    log_probs: Float[Tensor, "*batch T"],
    rewards: Float[Tensor, "*batch T"],
    gamma: float,
    *,
    mask: Bool[Tensor, "*batch T"] | None = None,
    baseline: float | Float[Tensor, "*#batch #T"] | None = None,
) -> Float[Tensor, ""]:
    r"""The loss with the whole return at every step, :math:`-\frac1N\sum_n (G_0 - b)\sum_t \ln\pi_\theta(A_t\mid S_t)`.

    Equation :eq:`eq-full-return`. There is no :math:`\gamma^t` to keep or to drop: :math:`G_0` holds its discounts.

    Args:
        log_probs: as in `reinforce_loss`.
        rewards: :math:`R_{t+1}` at index t; :math:`G_0` is counted from index 0.
        gamma: the discount :math:`\gamma`, in [0, 1].
        mask: True where :math:`A_t` was taken; None: everywhere.
        baseline: as in `reinforce_loss`.

    Returns:
        A scalar, differentiable in `log_probs`.

    Raises:
        ValueError: as `reinforce_loss`.
        TypeError: as `reinforce_loss`.

    Estimand:
        The same as that of `reinforce_loss`, with a variance that is larger as a rule.

    Source:
        Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", 1992,
        section 7 (episodic REINFORCE).

    Example:
        >>> full_return_loss(torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 8.0]]), 0.5)
        tensor(15.)
    """
    _check_steps(log_probs, rewards, mask)
    returns = discounted_return(rewards.detach(), gamma, mask=mask).unsqueeze(-1)
    return -_mean_over_episodes(wide(returns) - _checked_baseline(baseline, rewards, mask), log_probs, mask)


def value_loss(
    values: Float[Tensor, "*batch T"],
    rewards: Float[Tensor, "*batch T"],
    gamma: float,
    *,
    mask: Bool[Tensor, "*batch T"] | None = None,
) -> Float[Tensor, ""]:
    r"""The loss of a learned baseline, :math:`\frac1N \sum_n \sum_t \frac12 (G_t - \hat v(S_t))^2`.

    Equation :eq:`eq-value-loss`. A gradient step on it is the update of the state-value weights of REINFORCE with
    baseline.

    Args:
        values: :math:`\hat v(S_t)`, the values of the states in which actions were taken.
        rewards: :math:`R_{t+1}` at index t.
        gamma: the discount :math:`\gamma`, in [0, 1].
        mask: True where :math:`A_t` was taken; None: everywhere. Elsewhere anything may stand, NaN included.

    Returns:
        A scalar, differentiable in `values`.

    Raises:
        ValueError: as `reinforce_loss`.
        TypeError: as `reinforce_loss`.

    Estimand:
        With a free value for each state the expected loss is least at :math:`v_\pi(s)`, for every state that is
        visited, if no episode is cut off. Values that were fitted to the very episodes that they are the baseline
        of depend on the actions: use the values from before the fit, as `Trainer` does.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, section 13.4.

    Example:
        >>> value_loss(torch.tensor([[3.0, 8.0]]), torch.tensor([[1.0, 8.0]]), 0.5)
        tensor(2.)
    """
    _check_steps(values, rewards, mask, name="values")
    error = wide(returns_to_go(rewards.detach(), gamma, mask=mask)) - wide(taken(values, mask))
    return _mean_over_episodes(error / 2, error, mask).to(values.dtype)


def entropy_bonus(
    entropies: Float[Tensor, "*batch T"],
    gamma: float,
    *,
    mask: Bool[Tensor, "*batch T"] | None = None,
    discount_states: bool = True,
) -> Float[Tensor, ""]:
    r"""The entropy bonus :math:`\frac1N \sum_n \sum_t \gamma^t H(\pi_\theta(\cdot \mid S_t))`, to be subtracted.

    Equation :eq:`eq-entropy-bonus`. Added to the objective with a weight, it slows the collapse of the policy onto
    one action.

    Args:
        entropies: the entropy of the policy in each state :math:`S_t`, in nats.
        gamma: the discount :math:`\gamma`, in [0, 1].
        mask: True where :math:`A_t` was taken; None: everywhere.
        discount_states: whether the factor :math:`\gamma^t` is kept, as in `reinforce_loss`.

    Returns:
        A scalar, differentiable in `entropies`.

    Raises:
        ValueError: shapes or devices differ; there is no episode; an entropy is not finite; `gamma` is outside [0, 1].
        TypeError: a tensor has the wrong dtype.

    Estimand:
        Its gradient has the expectation :math:`\sum_s \eta(s) \nabla H(\pi_\theta(\cdot \mid s))`: how the entropy of
        the states visited responds, but not how the visits respond. So the sum with the REINFORCE gradient is not
        the gradient of :math:`\mathbb{E} \sum_t \gamma^t (R_{t+1} + \beta H_t)`; it becomes that one when
        :math:`\beta H_t` is added to the rewards as well. The maximiser of J is changed in either case.

    Source:
        Williams and Peng, "Function Optimization Using Connectionist Reinforcement Learning Algorithms", 1991; Mnih
        et al., "Asynchronous Methods for Deep Reinforcement Learning", 2016.

    Example:
        >>> entropy_bonus(torch.tensor([[0.5, 0.25]]), 0.5)
        tensor(0.6250)
    """
    _check_steps(entropies, entropies, mask, name="entropies")
    rate = _checks.check_gamma(gamma) if _checks.check_flag("discount_states", discount_states) else 1.0
    return _mean_over_episodes(_discounts(rate, entropies).expand_as(entropies), entropies, mask)


def leave_one_out_baseline(
    returns: Float[Tensor, "*batch N T"],
    *,
    mask: Bool[Tensor, "*batch N T"] | None = None,
    running_only: bool = False,
) -> Float[Tensor, "*batch N T"]:
    r"""The mean return of the *other* episodes at the same time, :math:`b_{n,t} = \frac1{N-1}\sum_{m\ne n} G^{(m)}_t`.

    Equation :eq:`eq-leave-one-out`. An episode that has ended counts with the return 0, which is what it still earns.
    The advantage :math:`G_t - b` is then :math:`N/(N-1)` times the deviation from the mean of all N.

    Args:
        returns: :math:`G_t` of N independent episodes, such as the result of `returns_to_go`.
        mask: True where a step was taken; None: everywhere.
        running_only: the mean over those of the other episodes that take a step at t; 0 if there is none.

    Returns:
        The baseline, 0 where the mask is False.

    Raises:
        ValueError: there are fewer than 2 episodes; shapes or devices differ; a return is not finite.
        TypeError: `returns` is not a floating-point tensor, or `mask` not a boolean one.

    Estimand:
        :math:`\mathbb{E}[G_t]`, or with `running_only` a mixture of 0 and :math:`\mathbb{E}[G_t \mid t < T]`. Either
        is independent of the own episode's actions up to the mask of the other episodes, so `reinforce_loss` with
        this baseline is unbiased.

    Source:
        Kool, van Hoof and Welling, "Buy 4 REINFORCE Samples, Get a Baseline for Free!", 2019; Ahmadian et al., "Back to
        Basics", 2024, eq. (6).

    Example:
        >>> leave_one_out_baseline(torch.tensor([[3.0], [5.0], [10.0]]))
        tensor([[7.5000],
                [6.5000],
                [4.0000]])
    """
    _checks.check_floating("returns", returns)
    if returns.ndim < 2 or returns.shape[-2] < 2:
        raise ValueError(f"returns has shape {list(returns.shape)}, expected [..., N, T] with at least 2 episodes")
    if mask is not None:
        _checks.check_mask(mask, "returns", returns)
    _checks.check_finite("returns", returns, mask)
    running_only = _checks.check_flag("running_only", running_only)
    mask = torch.ones_like(returns, dtype=torch.bool) if mask is None else mask
    values = taken(returns, mask)
    others = mask.sum(-2, keepdim=True) - mask.int() if running_only else returns.shape[-2] - 1
    # b_{n,t} = Σ_{m≠n} G_t^{(m)} / (N − 1)
    mean = sum_of_others(wide(values), -2) / torch.as_tensor(others).clamp(min=1)
    return torch.where(mask, mean, 0.0).to(returns.dtype)


def optimal_baseline(
    preferences: Float[Tensor, "*batch A"],
    action_values: Float[Tensor, "*batch A"],
    *,
    available: Bool[Tensor, "*#batch A"] | None = None,
) -> Float[Tensor, "*batch"]:
    r"""The constant b that minimises the variance of :math:`(G - b)\nabla\ln\pi(A)` in one state.

    Equation :eq:`eq-optimal-baseline`, :math:`b^* = \mathbb{E}[\|\nabla\ln\pi\|^2 G] / \mathbb{E}[\|\nabla\ln\pi\|^2]`:
    of all b, it gives :math:`(G - b)\nabla_h \ln\pi(A)` the covariance of the
    least trace. It is the mean of the action values with weights :math:`\pi(a)\,\|e_a - \pi\|^2`, where :math:`v_\pi`
    has the weights :math:`\pi(a)`.

    Args:
        preferences: :math:`h(a)` of the one decision.
        action_values: :math:`q(a) = \mathbb{E}[G \mid A = a]`; not read outside `available`.
        available: the mask of the actions; None: all.

    Returns:
        One number per row. Where the policy is certain of one action, any constant is optimal, and it is :math:`q`.

    Raises:
        ValueError: shapes or devices differ; an action value is not finite; `preferences` as for `softmax_policy`.
        TypeError: a tensor has the wrong dtype.

    Source:
        Weaver and Tao, "The Optimal Reward Baseline for Gradient-Based Reinforcement Learning", 2001; Greensmith,
        Bartlett and Baxter, "Variance Reduction Techniques for Gradient Estimates", JMLR 2004, section 4.

    Example:
        >>> optimal_baseline(torch.tensor([0.9, 0.1]).log(), torch.tensor([1.0, 0.0]))
        tensor(0.1000)
    """
    _checks.check_floating("preferences", preferences)
    policy = softmax_policy(wide(preferences), available=available)
    _checks.check_floating("action_values", action_values)
    _checks.check_same_kind("action_values", action_values, "preferences", preferences)
    _checks.check_same_shape("action_values", action_values, "preferences", preferences)
    _checks.check_finite("action_values", action_values, policy > 0)
    # ‖e_a − π‖² = (Σ_{b≠a} π(b))² + Σ_{b≠a} π(b)²
    squared_score = sum_of_others(policy, -1).square() + sum_of_others(policy.square(), -1)
    weights = policy * squared_score
    certain = weights.sum(-1, keepdim=True) == 0
    weights = torch.where(certain, policy, weights)
    values = torch.where(policy > 0, wide(action_values), 0.0)
    return ((weights * values).sum(-1) / weights.sum(-1)).to(preferences.dtype)


def bootstrapped_rewards(
    rewards: Float[Tensor, "*batch T"],
    final_values: Float[Tensor, "*batch"],
    gamma: float,
    *,
    mask: Bool[Tensor, "*batch T"],
    truncated: Bool[Tensor, "*batch"],
) -> Float[Tensor, "*batch T"]:
    r"""The rewards with :math:`\gamma\, \hat v(S_T)` added to the last one of each episode that was *truncated*.

    Equation :eq:`eq-bootstrap`. The returns of these rewards stand in for what the cut-off episode would have earned.
    An episode that terminated earns nothing more, and its rewards stay as they are.

    Args:
        rewards: :math:`R_{t+1}` at index t.
        final_values: :math:`\hat v(S_T)`, of the state in which the episode was cut off; not read where it was not.
        gamma: the discount :math:`\gamma`, in [0, 1].
        mask: True where :math:`A_t` was taken.
        truncated: True where the episode was cut off by a time limit.

    Returns:
        Rewards, 0 where the mask is False.

    Raises:
        ValueError: shapes or devices differ; the value of a truncated episode is not finite, or the episode has no
            step; `gamma` is outside [0, 1].
        TypeError: a tensor has the wrong dtype.

    Estimand:
        With :math:`\hat v = v_\pi` the returns have the expectation :math:`q_\pi(S_t, A_t)`. The steps that were not
        taken are still missing from the sum over t, so the REINFORCE gradient of cut-off episodes stays biased.

    Source:
        Pardo, Tavakoli, Levdik and Kormushev, "Time Limits in Reinforcement Learning", ICML 2018, eq. (6).

    Example:
        >>> rewards, mask = torch.ones(2, 3), torch.tensor([[True, True, True], [True, True, False]])
        >>> truncated = torch.tensor([True, False])
        >>> bootstrapped_rewards(rewards, torch.tensor([10.0, 10.0]), 0.5, mask=mask, truncated=truncated)
        tensor([[1., 1., 6.],
                [1., 1., 0.]])
    """
    gamma = _checks.check_gamma(gamma)
    _checks.check_bool("mask", mask)
    _check_steps(rewards, rewards, mask, name="rewards")
    _checks.check_floating("final_values", final_values)
    _checks.check_bool("truncated", truncated)
    _checks.check_same_kind("final_values", final_values, "rewards", rewards)
    _checks.check_same_device("truncated", truncated, "rewards", rewards)
    for name, tensor in (("final_values", final_values), ("truncated", truncated)):
        if tensor.shape != rewards.shape[:-1]:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, expected {list(rewards.shape[:-1])}")
    if not _checks.is_traced(mask, truncated) and (empty := truncated & ~mask.any(-1)).any():
        raise ValueError(f"truncated is True at {_checks.first_place(empty)}, where mask has no step")
    _checks.check_finite("final_values", final_values, truncated)
    value = torch.where(truncated, final_values, 0.0).unsqueeze(-1)
    return taken(rewards, mask) + torch.where(is_last_step(mask), gamma * value, 0.0)


class LedgerRow(NamedTuple):
    r"""What one way of writing REINFORCE estimates, exactly, beside :math:`\nabla J`.

    Attributes:
        name: the way of writing it.
        mean: the expected direction of ascent, :math:`-\mathbb{E}[\nabla_h\,\mathrm{loss}]`.
        bias: the Euclidean norm of `mean` minus :math:`\nabla J`.
        angle: the angle between `mean` and :math:`\nabla J`, in degrees. NaN where either is no longer than a bound of
            the rounding error in :math:`\nabla J`, which has no direction then: 16 eps times the largest
            :math:`|q_\pi|` and the expected number of steps, for each advantage.
        length: the norm of `mean` divided by that of :math:`\nabla J`; NaN where :math:`\nabla J` is no longer than
            that bound.
        variance: the trace of the covariance of the gradient of the loss.

    Example:
        >>> from pgtheory import gallery
        >>> rows = bias_ledger(gallery.bandit([1.0, 0.0]), torch.zeros(2, 2, dtype=torch.float64), 1.0, horizon=1)
        >>> rows[0].name, round(rows[0].bias, 12), round(rows[0].variance, 12)
        ('reward to go', 0.0, 0.041666666667)
    """

    name: str
    mean: Float[Tensor, "S A"]
    bias: float
    angle: float
    length: float
    variance: float


def loss_variants() -> dict[str, Loss]:
    r"""The ways of writing REINFORCE on a batch of episodes that the bias ledger compares, right and wrong ones.

    Each is a loss that is called as `loss(log_probs, rewards, gamma, mask=mask)`.

    Their common form is :eq:`eq-reinforce-loss`.

    Returns:
        The losses by their names.

    Estimand:
        `reward to go`, `full return` and the two leave-one-out variants: :math:`-\nabla J`. `own-sample mean`:
        :math:`-(1 - 1/N)\nabla J`. The others: biased in direction.

    Source:
        Sutton and Barto, 2018, section 13.3; Kool, van Hoof and Welling, 2019; standardised returns as in Duan, Chen,
        Houthooft, Schulman and Abbeel, "Benchmarking Deep Reinforcement Learning for Continuous Control", 2016.

    Example:
        >>> loss = loss_variants()["mean over all steps"]
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> loss(torch.full((2, 2), -1.0), torch.ones(2, 2), 1.0, mask=mask)
        tensor(1.3333)
    """
    return {
        "reward to go": reinforce_loss,
        "full return": full_return_loss,
        "leave-one-out": _with_baseline(leave_one_out_baseline),
        "leave-one-out, running only": _with_baseline(
            lambda returns, *, mask: leave_one_out_baseline(returns, mask=mask, running_only=True)
        ),
        "own-sample mean": _with_baseline(lambda returns, *, mask: returns.mean(-2, keepdim=True)),
        "no γ^t": _undiscounted,
        "mean over all steps": _mean_over_all_steps,
        "mean over own steps": _mean_over_own_steps,
        "standardised returns": _standardised,
    }


def bias_ledger(
    mdp: FiniteMDP,
    preferences: Float[Tensor, "S A"],
    gamma: float,
    *,
    horizon: int,
    batch_size: int = 3,
    limit: int | None = None,
    top_p: float = 0.8,
) -> list[LedgerRow]:
    r"""The exact bias, angle and variance of each way of writing REINFORCE, over all batches of trajectories.

    The rows are those of `loss_variants`, and six more: constant and true-value baselines, a reset state's value added
    at termination, episodes cut off at `limit` with and without the true value of the last state, and actions drawn
    with top-p but scored by the full softmax.

    The means are :eq:`eq-expected-gradient`, the variances :eq:`eq-gradient-covariance`.

    Args:
        mdp: an MDP whose episodes end within `horizon` steps.
        preferences: :math:`h(s, a)`.
        gamma: the discount :math:`\gamma`, in [0, 1].
        horizon: the largest number of steps of an episode.
        batch_size: the number N of episodes in a batch, at least 2.
        limit: the time limit of the rows that cut episodes off; by default `horizon` - 1, but at least 1.
        top_p: the mass of the nucleus of the row that draws with top-p.

    Returns:
        One row for each variant.

    Raises:
        ValueError: an episode may last longer than `horizon`; `batch_size` is less than 2; there are too many batches.
        TypeError: as `expected_gradient`.

    Source:
        Kool, van Hoof and Welling, 2019 (own and other samples); Nota and Thomas, "Is the Policy Gradient a
        Gradient?", 2020 (:math:`\gamma^t`); Pardo et al., 2018 (time limits). The table is ours.

    Example:
        >>> from pgtheory import gallery
        >>> rows = bias_ledger(gallery.bandit([1.0, 0.0]), torch.zeros(2, 2, dtype=torch.float64), 1.0, horizon=1)
        >>> [round(row.length, 6) for row in rows if row.name == "own-sample mean"]
        [0.666667]
    """
    check_table(mdp, "preferences", preferences, 2)
    gamma, batch_size = _checks.check_gamma(gamma), _checks.check_count("batch_size", batch_size, at_least=2)
    horizon, top_p = _checks.check_count("horizon", horizon), _checks.check_real("top_p", top_p)
    policy = softmax_policy(preferences.detach(), available=mdp.available)
    limit = max(1, horizon - 1) if limit is None else _checks.check_count("limit", limit)
    # Columns in which every episode has ended would only be padding.
    longest = _checked_length(mdp, policy, horizon)
    target = exact_policy_gradient(mdp, preferences.detach(), gamma)
    rounding = rounding_of_gradient(
        discounted_visitation(mdp, policy, gamma), policy, action_values(mdp, policy, gamma)
    )

    def row(
        name: str,
        loss: Loss = reinforce_loss,
        model: FiniteMDP = mdp,
        horizon: int = longest,
        behavior: Tensor | None = None,
    ) -> LedgerRow:
        arguments = (loss, model, preferences.detach(), gamma)
        moments = direction_moments(*arguments, near=target, horizon=horizon, batch_size=batch_size, behavior=behavior)
        return LedgerRow(name, moments.mean, *compare(moments.mean, target, rounding), moments.variance())

    values = state_values(mdp, policy, gamma)
    start_value = float(performance(mdp, policy, gamma))
    reset_values = torch.where(mdp.terminal, start_value, values)
    return [
        *(row(name, loss) for name, loss in loss_variants().items()),
        row("constant baseline J", _with_baseline(lambda returns, *, mask: torch.full_like(returns, start_value))),
        row("baseline v", model=_shaped(mdp, values, gamma)),
        row("v of a reset at termination", model=_shaped(mdp, reset_values, gamma)),
        row(f"cut off at {limit}", horizon=min(limit, longest)),
        row(f"cut off at {limit}, v added", model=_shaped(mdp, values, gamma), horizon=min(limit, longest)),
        row(f"drawn with top-p {top_p:g}", behavior=_nucleus_policy(mdp, preferences.detach(), top_p)),
    ]


def _with_baseline(baseline: Callable[..., Tensor]) -> Loss:
    """The loss with a baseline that is computed from the returns of the batch."""

    def loss(log_probs: Tensor, rewards: Tensor, gamma: float, /, *, mask: Tensor) -> Tensor:
        returns = returns_to_go(rewards, gamma, mask=mask)
        return reinforce_loss(log_probs, rewards, gamma, mask=mask, baseline=baseline(returns, mask=mask))

    return loss


def _undiscounted(log_probs: Tensor, rewards: Tensor, gamma: float, /, *, mask: Tensor) -> Tensor:
    return reinforce_loss(log_probs, rewards, gamma, mask=mask, discount_states=False)


def _mean_over_all_steps(log_probs: Tensor, rewards: Tensor, gamma: float, /, *, mask: Tensor) -> Tensor:
    """What `(weights * log_probs)[mask].mean()` computes."""
    loss = reinforce_loss(log_probs, rewards, gamma, mask=mask)
    return loss * mask[..., 0].numel() / mask.sum().clamp(min=1)


def _mean_over_own_steps(log_probs: Tensor, rewards: Tensor, gamma: float, /, *, mask: Tensor) -> Tensor:
    lengths = mask.sum(-1, keepdim=True).clamp(min=1)
    return reinforce_loss(log_probs / lengths, rewards, gamma, mask=mask)


def _standardised(log_probs: Tensor, rewards: Tensor, gamma: float, /, *, mask: Tensor) -> Tensor:
    """The returns of all steps of the batch, minus their mean, divided by their standard deviation."""
    returns = wide(returns_to_go(rewards, gamma, mask=mask))
    n = mask.sum()
    mean = returns.sum() / n
    spread = (torch.where(mask, returns - mean, 0.0).square().sum() / n).sqrt()
    return -_mean_over_episodes(_discounts(gamma, rewards) * (returns - mean) / (spread + 1e-8), log_probs, mask)


def _shaped(mdp: FiniteMDP, values: Float[Tensor, "S"], gamma: float) -> FiniteMDP:
    """The MDP with the rewards r + γ v(s′) − v(s), whose returns are G_t − v(S_t) + γ^{T−t} v(S_T)."""
    o = mdp.outcomes
    rewards = mdp.rewards[o.reward_index] + gamma * values[o.next_state] - values[o.state]
    return FiniteMDP.from_outcomes(
        (o.state, o.action, o.next_state, rewards, o.probability),
        n_states=mdp.n_states,
        n_actions=mdp.n_actions,
        initial=mdp.initial,
        terminal=mdp.terminal,
    )


def _nucleus_policy(mdp: FiniteMDP, preferences: Tensor, p: float) -> Float[Tensor, "S A"]:
    logits = log_softmax_policy(preferences, available=mdp.available)
    return decoding_distribution(torch.where(mdp.terminal[:, None], 0.0, logits), top_p=p)


def _checked_length(mdp: FiniteMDP, policy: Tensor, horizon: int) -> int:
    """The number of steps of the longest episode, which may not be cut off."""
    trajectories, _ = enumerate_trajectories(mdp, policy, horizon=horizon)
    if trajectories.truncated.any():
        raise ValueError(f"horizon is {horizon}, but an episode may last longer: the exact gradient is of whole ones")
    return max(1, int(trajectories.lengths.max()))


def _discounts(gamma: float, steps: Tensor) -> Float[Tensor, "T"]:
    """γ^t for each time of `steps`, `[..., T]`."""
    return discount_factors(gamma, steps.shape[-1], dtype=wide_dtype(steps), device=steps.device)


def _mean_over_episodes(weights: Tensor, terms: Tensor, mask: Tensor | None) -> Tensor:
    """(1/N) Σ_n Σ_t w x, where N counts all episodes."""
    n_episodes = math.prod(terms.shape[:-1])
    return ((wide(taken(weights, mask)) * wide(taken(terms, mask))).sum() / n_episodes).to(terms.dtype)


def _check_steps(terms: Tensor, rewards: Tensor, mask: Tensor | None, *, name: str = "log_probs") -> None:
    _checks.check_floating(name, terms)
    _checks.check_at_least_1d(name, terms, "time")
    _checks.check_floating("rewards", rewards)
    _checks.check_same_kind("rewards", rewards, name, terms)
    _checks.check_same_shape("rewards", rewards, name, terms)
    if mask is not None:
        _checks.check_mask(mask, name, terms)
    if 0 in terms.shape[:-1]:
        raise ValueError(f"{name} has shape {list(terms.shape)}: there is no episode")
    _checks.check_finite(name, terms, mask)


def _checked_baseline(baseline: float | Tensor | None, rewards: Tensor, mask: Tensor | None) -> float | Tensor:
    """The baseline as a constant; raise unless it is a finite number for each step that was taken."""
    if baseline is None:
        return 0.0
    if not isinstance(baseline, Tensor):
        number = _checks.check_real("baseline", baseline)
        if not math.isfinite(number):
            raise ValueError(f"baseline is {number}, not a finite number")
        return number
    _checks.check_floating("baseline", baseline)
    _checks.check_same_kind("baseline", baseline, "rewards", rewards)
    pairs = zip(reversed(baseline.shape), reversed(rewards.shape), strict=False)
    if baseline.ndim > rewards.ndim or any(m not in (1, n) for m, n in pairs):
        raise ValueError(
            f"baseline has shape {list(baseline.shape)}, which does not broadcast to {list(rewards.shape)}"
        )
    expanded = baseline.detach().expand(rewards.shape)
    _checks.check_finite("baseline", expanded, mask)
    return taken(expanded, mask)
