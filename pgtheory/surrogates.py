r"""Chapter 8: surrogate objectives, from the policy gradient theorem to PPO and GRPO, and what each is the gradient of.

Losses are to be minimised. The log-probabilities of the policy that drew the data, of a reference policy, the rewards
and the advantages are constants: gradients flow into `log_probs` alone, also where the same tensor is passed twice.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.functional import pad

from pgtheory import _checks
from pgtheory._gymnasium import import_gymnasium
from pgtheory.mdp import FiniteMDP, check_policy
from pgtheory.policy_gradient import (
    BATCH_LIMIT,
    _add_up,
    _log_policy_gradient,
    _slopes,
    discounted_visitation,
    exact_policy_gradient,
    expected_gradient,
    performance,
)
from pgtheory.reinforce import LedgerRow, _taken
from pgtheory.returns import discount_factors
from pgtheory.softmax_policy import SoftmaxPolicy, log_softmax_policy, softmax_policy
from pgtheory.trajectories import Trajectories, at_steps, enumerate_trajectories
from pgtheory.value_functions import advantages as exact_advantages
from pgtheory.value_functions import solve_bellman

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

__all__ = [
    "AdvantageMoments",
    "GroupLoss",
    "PPORecord",
    "PPOTrainer",
    "Rollout",
    "SurrogateRuns",
    "clipped_surrogate",
    "difficulty_weight",
    "effective_sample_size",
    "expected_group_gradient",
    "generalized_advantage_moments",
    "generalized_advantages",
    "group_advantages",
    "group_bias_ledger",
    "group_loss_variants",
    "grpo_loss",
    "importance_ratios",
    "kl_estimate",
    "masked_mean",
    "off_policy_loss",
    "performance_difference",
    "ppo_clip_loss",
    "projected_token_log_probs",
    "sample_rollout",
    "surrogate_objective",
    "surrogate_runs",
    "token_log_probs",
    "two_answer_lengths",
]

Clip = float | tuple[float, float]
Variant = Literal["grpo", "dr_grpo", "dapo", "gspo", "rloo"]

# How many logits one chunk of `token_log_probs` works on at a time.
CHUNK = 2**22


class GroupLoss(Protocol):
    r"""A loss of groups of responses, to be minimised.

    It is called as `loss(log_probs, old_log_probs, rewards, mask=mask)` with `[groups, size, T]`, the same,
    `[groups, size]` and `[groups, size, T]`, and returns a scalar.

    Source:
        Shao et al., "DeepSeekMath", 2024, section 4.1.

    Example:
        >>> def loss(log_probs, old_log_probs, rewards, *, mask):
        ...     return -(rewards.unsqueeze(-1) * log_probs * mask).sum(-1).mean()
        >>> loss(-torch.ones(1, 2, 2), None, torch.tensor([[1.0, 0.0]]), mask=torch.ones(1, 2, 2, dtype=torch.bool))
        tensor(1.)
    """

    def __call__(
        self,
        log_probs: Float[Tensor, "groups size T"],
        old_log_probs: Float[Tensor, "groups size T"],
        rewards: Float[Tensor, "groups size"],
        /,
        *,
        mask: Tensor,
    ) -> Float[Tensor, ""]:
        """The loss of some groups of responses."""
        ...


class AdvantageMoments(NamedTuple):
    r"""The mean and the variance of :math:`\hat A_t` given :math:`S_t = s` and :math:`A_t = a`.

    Attributes:
        mean: :math:`\mathbb{E}[\hat A_t \mid s, a]`, 0 outside :math:`\mathcal{A}(s)`.
        variance: :math:`\mathrm{Var}[\hat A_t \mid s, a]`, likewise.

    Example:
        >>> AdvantageMoments(torch.zeros(2, 1), torch.ones(2, 1)).variance.sum()
        tensor(2.)
    """

    mean: Float[Tensor, "S A"]
    variance: Float[Tensor, "S A"]


def masked_mean(
    values: Float[Tensor, "..."], mask: Bool[Tensor, "..."] | None = None, *, dim: int | None = None
) -> Float[Tensor, "..."]:
    r"""The mean over the places where the mask is True; 0, with gradient 0, where there is none.

    Args:
        values: any tensor; what stands where the mask is False is never read.
        mask: the same shape; None: everywhere.
        dim: the axis that is averaged over; None: all.

    Returns:
        A scalar, or `values` without the axis `dim`.

    Raises:
        ValueError: shapes or devices differ.
        TypeError: `values` is not a floating-point tensor, or `mask` not a boolean one.

    Source:
        The definition of a mean; the empty one is a convention.

    Example:
        >>> mask = torch.tensor([[True, False], [False, False]])
        >>> masked_mean(torch.tensor([[4.0, torch.nan], [1.0, 2.0]]), mask, dim=-1)
        tensor([4., 0.])
    """
    _checks.check_floating("values", values)
    if mask is None:
        mask = torch.ones_like(values, dtype=torch.bool)
    _checks.check_mask(mask, "values", values)
    axes = tuple(range(values.ndim)) if dim is None else (dim,)
    return torch.where(mask, values, 0.0).sum(axes) / mask.sum(axes).clamp(min=1)


def importance_ratios(
    log_probs: Float[Tensor, "*batch T"],
    old_log_probs: Float[Tensor, "*batch T"],
    *,
    level: Literal["step", "prefix", "trajectory", "geometric_mean"] = "step",
    mask: Bool[Tensor, "*batch T"] | None = None,
) -> Float[Tensor, "*batch T"]:
    r"""Importance ratios :math:`\rho_t = \pi_\theta(A_t \mid S_t) / \pi_{\mathrm{old}}(A_t \mid S_t)`, or products.

    Equation :eq:`eq-importance-ratio`. The levels are `"step"`, :math:`\rho_t`; `"prefix"`,
    :math:`\rho_{0:t} = \prod_{k \le t} \rho_k`; `"trajectory"`, :math:`\rho_{0:T-1}` at every step; and
    `"geometric_mean"`, :math:`\rho_{0:T-1}^{1/T_n}` with the number :math:`T_n` of steps taken, which GSPO uses.

    Args:
        log_probs: :math:`\ln \pi_\theta(A_t \mid S_t)`.
        old_log_probs: the same of the policy that drew the actions; no gradient flows into it.
        level: which product.
        mask: True where :math:`A_t` was taken; None: everywhere.

    Returns:
        The ratios, 0 where the mask is False; differentiable in `log_probs`.

    Raises:
        ValueError: shapes or devices differ; a log-probability of a step that was taken is not finite; `level` is
            unknown.
        TypeError: a tensor has the wrong dtype.

    Estimand:
        The product up to t has the mean 1 over trajectories of the old policy, if that gives positive probability to
        all that the new one does (:eq:`eq-importance-identity`). The geometric mean has not.

    Source:
        Precup, Sutton and Singh, "Eligibility Traces for Off-Policy Policy Evaluation", 2000; geometric mean: Zheng et
        al., "Group Sequence Policy Optimization", 2025, eq. (7).

    Example:
        >>> old = torch.tensor([0.5, 0.5]).log()
        >>> importance_ratios(torch.tensor([0.25, 0.75]).log(), old, level="prefix")
        tensor([0.5000, 0.7500])
    """
    log_ratio = _log_ratio(log_probs, old_log_probs, mask)
    taken = torch.ones_like(log_ratio, dtype=torch.bool) if mask is None else mask
    return torch.where(taken, _at_level(log_ratio, taken, level).exp(), 0.0)


def effective_sample_size(weights: Float[Tensor, "*batch N"]) -> Float[Tensor, "*batch"]:
    r"""Kish's effective sample size :math:`(\sum_n w_n)^2 / \sum_n w_n^2` of N weighted samples.

    Equation :eq:`eq-effective-sample-size`: N if all weights are equal, 1 if one weight is all there is.

    Args:
        weights: weights of at least 0, over the last axis.

    Returns:
        A number between 1 and N; 0 if all weights are 0.

    Raises:
        ValueError: a weight is negative or not finite; there is no sample.
        TypeError: `weights` is not a floating-point tensor.

    Source:
        Kish, *Survey Sampling*, 1965; Owen, *Monte Carlo Theory, Methods and Examples*, 2013, section 9.3.

    Example:
        >>> effective_sample_size(torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]]))
        tensor([4., 1.])
    """
    _checks.check_floating("weights", weights)
    _checks.check_at_least_1d("weights", weights, "samples")
    if weights.shape[-1] == 0:
        raise ValueError(f"weights has shape {list(weights.shape)}: there is no sample")
    _checks.check_finite("weights", weights)
    if not _checks.is_traced(weights) and (negative := weights < 0).any():
        raise ValueError(f"weights is negative at {_checks.first_place(negative)}")
    # The ratio does not depend on the scale; the largest weight as unit keeps the squares from over- or underflowing.
    largest = weights.amax(-1, keepdim=True)
    scaled = weights / torch.where(largest > 0, largest, 1.0)
    return scaled.sum(-1).square() / torch.where(largest.squeeze(-1) > 0, scaled.square().sum(-1), 1.0)


def off_policy_loss(
    log_probs: Float[Tensor, "*batch T"],
    old_log_probs: Float[Tensor, "*batch T"],
    rewards: Float[Tensor, "*batch T"],
    gamma: float,
    *,
    mask: Bool[Tensor, "*batch T"] | None = None,
) -> Float[Tensor, ""]:
    r"""Minus the performance, estimated off policy: :math:`-\frac1N \sum_n \sum_t \gamma^t \rho_{0:t} R_{t+1}`.

    Equation :eq:`eq-off-policy-objective`. Each reward is weighted by the ratios of the actions before it, those that
    it can depend on.

    Args:
        log_probs: :math:`\ln \pi_\theta(A_t \mid S_t)`; every leading axis counts episodes.
        old_log_probs: the same of the policy that drew the actions.
        rewards: :math:`R_{t+1}` at index t.
        gamma: the discount :math:`\gamma \in [0, 1]`.
        mask: True where :math:`A_t` was taken; None: everywhere.

    Returns:
        A scalar, differentiable in `log_probs`.

    Raises:
        ValueError: shapes or devices differ; there is no episode; a number of a step that was taken is not finite;
            `gamma` is outside [0, 1].
        TypeError: a tensor has the wrong dtype.

    Estimand:
        The value has the expectation :math:`-J(\theta)` and the gradient :math:`-\nabla J(\theta)`, at every
        :math:`\theta`, not only where the two policies agree. The variance grows exponentially with the number of
        steps. (J is that of the first T steps where episodes are cut off.)

    Source:
        Precup, Sutton and Singh, "Eligibility Traces for Off-Policy Policy Evaluation", 2000, section 3 (per-decision
        importance sampling).

    Example:
        >>> old = torch.tensor([[0.5, 0.5]]).log()
        >>> off_policy_loss(torch.tensor([[0.25, 0.75]]).log(), old, torch.tensor([[1.0, 8.0]]), 0.5)
        tensor(-3.5000)
    """
    ratios = importance_ratios(log_probs, old_log_probs, level="prefix", mask=mask)
    _check_like("rewards", rewards, "log_probs", log_probs, mask)
    _check_some("log_probs", log_probs)
    gamma = _checks.check_gamma(gamma)
    factors = discount_factors(gamma, rewards.shape[-1], dtype=rewards.dtype, device=rewards.device)
    # γ^t ρ_{0:t} R_{t+1}
    terms = ratios * factors * _taken(rewards.detach(), mask)
    return -terms.sum(-1).mean()


def performance_difference(
    mdp: FiniteMDP, policy: Float[Tensor, "*batch S A"], old_policy: Float[Tensor, "S A"], gamma: float
) -> Float[Tensor, "*batch"]:
    r"""The difference :math:`J(\pi) - J(\pi_{\mathrm{old}})`, from the advantages of the old policy.

    Equation :eq:`eq-performance-difference`, the performance-difference lemma. The difference is
    :math:`\sum_s \eta_\pi(s) \sum_a \pi(a \mid s) A_{\mathrm{old}}(s, a)`: the advantages of the old policy, weighted
    by what the new one visits and does.

    Args:
        mdp: the MDP.
        policy: the new policy :math:`\pi(a \mid s)`.
        old_policy: the old one.
        gamma: the discount :math:`\gamma`.

    Returns:
        One number per new policy, differentiable in both.

    Raises:
        ValueError: as `performance`.
        TypeError: as `performance`.

    Source:
        Kakade and Langford, "Approximately Optimal Approximate Reinforcement Learning", 2002, Lemma 6.1.

    Example:
        >>> from pgtheory import gallery
        >>> old, new = torch.tensor([[[0.5, 0.5], [0, 0]], [[0.75, 0.25], [0, 0]]], dtype=torch.float64)
        >>> performance_difference(gallery.bandit([1.0, 0.0]), new, old, 1.0)
        tensor(0.2500, dtype=torch.float64)
    """
    gain = _expected_gain(mdp, policy, old_policy, gamma)
    return (discounted_visitation(mdp, policy, gamma) * gain).sum(-1)


def surrogate_objective(
    mdp: FiniteMDP, policy: Float[Tensor, "*batch S A"], old_policy: Float[Tensor, "S A"], gamma: float
) -> Float[Tensor, "*batch"]:
    r"""The surrogate :math:`L(\pi)` of :math:`J(\pi)`: the new policy's actions in the states that the old one visits.

    Equation :eq:`eq-surrogate-objective`. It is :math:`J(\pi_{\mathrm{old}}) + \sum_s \eta_{\mathrm{old}}(s) \sum_a
    \pi(a \mid s) A_{\mathrm{old}}(s, a)`, the performance-difference lemma with the visits of the old policy in place
    of those of the new one.

    Args:
        mdp: the MDP.
        policy: the new policy :math:`\pi(a \mid s)`.
        old_policy: the old one, held fixed: no gradient flows into it.
        gamma: the discount :math:`\gamma`.

    Returns:
        One number per new policy. At `policy = old_policy` its value and its gradient are those of `performance`; its
        second derivatives are not.

    Raises:
        ValueError: as `performance`.
        TypeError: as `performance`.

    Source:
        Schulman, Levine, Abbeel, Jordan and Moritz, "Trust Region Policy Optimization", 2015, eq. (3).

    Example:
        >>> from pgtheory import gallery
        >>> old, new = torch.tensor([[[0.5, 0.5], [0, 0]], [[0.75, 0.25], [0, 0]]], dtype=torch.float64)
        >>> surrogate_objective(gallery.bandit([1.0, 0.0]), new, old, 1.0)  # one decision: no error
        tensor(0.7500, dtype=torch.float64)
    """
    old_policy = old_policy.detach() if isinstance(old_policy, Tensor) else old_policy
    gain = _expected_gain(mdp, policy, old_policy, gamma)
    return performance(mdp, old_policy, gamma) + gain @ discounted_visitation(mdp, old_policy, gamma)


def generalized_advantages(
    rewards: Float[Tensor, "*batch T"],
    values: Float[Tensor, "*batch T"],
    next_values: Float[Tensor, "*batch T"],
    gamma: float,
    lam: float,
    *,
    terminated: Bool[Tensor, "*batch T"],
    truncated: Bool[Tensor, "*batch T"] | None = None,
    mask: Bool[Tensor, "*batch T"] | None = None,
) -> Float[Tensor, "*batch T"]:
    r"""Generalized advantages :math:`\hat A_t = \sum_{l \ge 0} (\gamma\lambda)^l \delta_{t+l}`, within each episode.

    Equation :eq:`eq-gae`, with :math:`\delta_t = R_{t+1} + \gamma V(S_{t+1}) - V(S_t)`, where :math:`V(S_{t+1})` is 0
    if the step terminated the episode. The sum stops after a step that terminated or truncated its episode, before a
    step that was not taken, and at the end of the last axis: one row may hold several episodes. It takes
    :math:`\log_2 T` passes, no loop over time.

    Args:
        rewards: :math:`R_{t+1}` at index t.
        values: :math:`V(S_t)`.
        next_values: :math:`V(S_{t+1})` of the state that was truly reached, never of the state after a reset. Not read
            where `terminated` is True.
        gamma: the discount :math:`\gamma \in [0, 1]`.
        lam: :math:`\lambda \in [0, 1]`.
        terminated: True where :math:`S_{t+1}` is terminal: nothing is bootstrapped, and the sum is cut.
        truncated: True where the episode was cut off after the step: :math:`V(S_{t+1})` counts, and the sum is cut.
            None: nowhere.
        mask: True where :math:`A_t` was taken; None: everywhere. Elsewhere anything may stand.

    Returns:
        :math:`\hat A_t` at index t, 0 where the mask is False; differentiable in rewards and values.

    Raises:
        ValueError: shapes or devices differ; a number that is read is not finite; a step is both terminated and
            truncated; `gamma` or `lam` is outside [0, 1].
        TypeError: a tensor has the wrong dtype.

    Estimand:
        With :math:`\lambda = 1` in whole episodes: :math:`q_\pi(s, a) - V(s)`, whatever V. With :math:`V = v_\pi`: the
        advantage :math:`q_\pi - v_\pi` for every :math:`\lambda`. Otherwise it is biased, by as much as
        `generalized_advantage_moments` says.

    Source:
        Schulman, Moritz, Levine, Jordan and Abbeel, "High-Dimensional Continuous Control Using Generalized Advantage
        Estimation", 2016, eq. (16); truncation: Pardo et al., "Time Limits in Reinforcement Learning", 2018.

    Example:
        >>> ends = torch.tensor([False, False, True])
        >>> rewards, values, next_values = torch.tensor([[1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [0.5, 0.5, 9.0]])
        >>> generalized_advantages(rewards, values, next_values, 1.0, 0.5, terminated=ends)
        tensor([1.6250, 1.2500, 0.5000])
    """
    gamma, lam = _checks.check_gamma(gamma), _checks.check_unit_interval("lam", lam)
    terminated, ends = _checked_ends(rewards, terminated, truncated, mask)
    taken = torch.ones_like(ends) if mask is None else mask
    for name, tensor, read in (("values", values, taken), ("next_values", next_values, taken & ~terminated)):
        _check_like(name, tensor, "rewards", rewards, read)
    # δ_t = R_{t+1} + γ V(S_{t+1}) − V(S_t)
    errors = rewards + gamma * torch.where(terminated, 0.0, next_values) - values
    errors = torch.where(taken, errors, 0.0).to(torch.promote_types(rewards.dtype, torch.float32))
    goes_on = taken & ~ends & pad(taken[..., 1:], (0, 1))
    return torch.where(taken, _sums_until_cut(errors, gamma * lam, goes_on), 0.0).to(rewards.dtype)


def generalized_advantage_moments(
    mdp: FiniteMDP, policy: Float[Tensor, "S A"], values: Float[Tensor, "S"], gamma: float, lam: float
) -> AdvantageMoments:
    r"""The exact mean and variance of :math:`\hat A_t` given :math:`S_t = s, A_t = a`, with any value function.

    Equations :eq:`eq-gae-mean` and :eq:`eq-gae-variance`: two linear solves, for the mean of :math:`\hat A` in each
    state, with discount :math:`\gamma\lambda`, and for its mean square, with discount :math:`(\gamma\lambda)^2`.

    Args:
        mdp: the MDP.
        policy: :math:`\pi(a \mid s)`.
        values: V, right or wrong; its entries in terminal states are not read.
        gamma: the discount :math:`\gamma`.
        lam: :math:`\lambda`.

    Returns:
        Mean and variance, 0 in terminal states and outside :math:`\mathcal{A}(s)`. The bias is the mean minus the
        advantage, :math:`q_\pi - v_\pi`; where :math:`V(s) \ne v_\pi(s)`, a part of it, :math:`v_\pi(s) - V(s)`, is the
        same for all actions and so does not bias the policy gradient.

    Raises:
        ValueError: if `gamma` or `lam` is outside [0, 1], if `policy` is no policy of `mdp`, if `values` does not fit,
            or if :math:`\gamma\lambda = 1` and the policy does not surely terminate.
        TypeError: if a dtype is not that of `mdp`.

    Source:
        The mean: Schulman et al., 2016, section 3. The variance: Sobel, "The Variance of Discounted Markov Decision
        Processes", 1982, applied to TD errors.

    Example:
        >>> from pgtheory import gallery
        >>> bandit, half = gallery.bandit([1.0, 0.0], spread=0.5), torch.tensor([[0.5, 0.5], [0.0, 0.0]]).double()
        >>> generalized_advantage_moments(bandit, half, torch.zeros(2).double(), 1.0, 0.95).variance[0]
        tensor([0.2500, 0.2500], dtype=torch.float64)
    """
    gamma, lam = _checks.check_gamma(gamma), _checks.check_unit_interval("lam", lam)
    check_policy(mdp, policy)
    _check_table(mdp, "policy", policy, 2)
    _check_table(mdp, "values", values, 1)
    o, rate = mdp.outcomes, gamma * lam
    values = torch.where(mdp.terminal, 0.0, values)
    errors = mdp.rewards[o.reward_index] + gamma * values[o.next_state] - values[o.state]

    def by_pair(terms: Tensor) -> Tensor:
        """Σ_{s′,r} p(s′,r|s,a) x(s,a,s′,r)."""
        flat = terms.new_zeros(policy.numel())
        return flat.index_add(0, o.state * mdp.n_actions + o.action, o.probability * terms).view_as(policy)

    def by_state(table: Tensor) -> Tensor:
        return torch.where(mdp.terminal, 0.0, (policy * table).sum(-1))

    # m(s) = E[Â|s] = E[δ|s] + γλ E[m(S′)|s]
    mean = solve_bellman(mdp, policy, rate, by_state(by_pair(errors)))
    crossed = errors.square() + 2 * rate * errors * mean[o.next_state]
    # E[Â²|s] = E[δ² + 2γλ δ m(S′)|s] + (γλ)² E[Â′²|s]
    square = solve_bellman(mdp, policy, rate**2, by_state(by_pair(crossed)))
    first = by_pair(errors + rate * mean[o.next_state])
    variance = by_pair(crossed + rate**2 * square[o.next_state]) - first.square()
    return AdvantageMoments(first, variance.clamp(min=0.0))


def clipped_surrogate(
    log_probs: Float[Tensor, "*batch"],
    old_log_probs: Float[Tensor, "*batch"],
    advantages: Float[Tensor, "*batch"],
    *,
    clip: Clip = 0.2,
) -> Float[Tensor, "*batch"]:
    r"""The clipped surrogate of PPO, element by element, to be maximised.

    Equation :eq:`eq-ppo-clip`: :math:`\min(\rho A,\ \mathrm{clip}(\rho, 1 - \varepsilon_-, 1 + \varepsilon_+) A)` with
    the ratio :math:`\rho = \pi_\theta / \pi_{\mathrm{old}}`. A positive advantage is rewarded up to the ratio
    :math:`1 + \varepsilon_+`, a negative one punished down to :math:`1 - \varepsilon_-`; beyond, the gradient is 0. On
    the other side nothing is clipped.

    Args:
        log_probs: :math:`\ln \pi_\theta(A_t \mid S_t)`.
        old_log_probs: the same of the policy that drew the actions.
        advantages: :math:`\hat A_t`; no gradient flows into them.
        clip: :math:`\varepsilon`, or the pair :math:`(\varepsilon_-, \varepsilon_+)`; `(1.0, math.inf)` clips nothing.

    Returns:
        The objective of each element, to be maximised; differentiable in `log_probs`.

    Raises:
        ValueError: shapes or devices differ; a number is not finite; `clip` is out of range.
        TypeError: a tensor has the wrong dtype; `clip` is neither a number nor a pair.

    Source:
        Schulman, Wolski, Dhariwal, Radford and Klimov, "Proximal Policy Optimization Algorithms", 2017, eq. (7); two
        bounds: Yu et al., "DAPO", 2025, eq. (10).

    Example:
        >>> ratios = torch.tensor([0.5, 1.0, 1.5])
        >>> clipped_surrogate(ratios.log(), torch.zeros(3), torch.ones(3))
        tensor([0.5000, 1.0000, 1.2000])
        >>> clipped_surrogate(ratios.log(), torch.zeros(3), -torch.ones(3))
        tensor([-0.8000, -1.0000, -1.5000])
    """
    log_ratio = _log_ratio(log_probs, old_log_probs, None)
    _check_like("advantages", advantages, "log_probs", log_probs, None)
    return _clipped(log_ratio, advantages.detach(), *_checked_clip(clip))


def ppo_clip_loss(
    log_probs: Float[Tensor, "*batch T"],
    old_log_probs: Float[Tensor, "*batch T"],
    advantages: Float[Tensor, "*batch T"],
    *,
    clip: Clip = 0.2,
    mask: Bool[Tensor, "*batch T"] | None = None,
    average: Literal["steps", "episodes"] = "steps",
) -> Float[Tensor, ""]:
    r"""The PPO loss: minus the mean of `clipped_surrogate` over the steps that were taken.

    Equation :eq:`eq-ppo-loss`. At ratio 1 its value is minus the mean advantage.

    Args:
        log_probs: :math:`\ln \pi_\theta(A_t \mid S_t)`.
        old_log_probs: the same of the policy that drew the actions.
        advantages: :math:`\hat A_t`; no gradient flows into them.
        clip: :math:`\varepsilon`, or the pair :math:`(\varepsilon_-, \varepsilon_+)`.
        mask: True where :math:`A_t` was taken; None: everywhere. Elsewhere anything may stand.
        average: `"steps"`, a mean over all steps taken, as in the paper; or `"episodes"`, a sum over the steps of each
            episode and a mean over episodes, as in `reinforce_loss`.

    Returns:
        A scalar, differentiable in `log_probs`; 0 if no step was taken.

    Raises:
        ValueError: shapes or devices differ; a number of a step that was taken is not finite; `clip` is out of range;
            `average` is unknown; there is no episode to average over.
        TypeError: a tensor has the wrong dtype; `clip` is neither a number nor a pair.

    Estimand:
        At `log_probs = old_log_probs` the gradient with `average="episodes"` is that of `reinforce_loss` with the
        weights :math:`\hat A_t` in place of :math:`\gamma^t(G_t - b)`: so it is :math:`-\nabla J` in expectation if
        :math:`\gamma = 1` and :math:`\hat A` is unbiased. With `"steps"` it is this gradient divided by the mean number
        of steps per episode in the batch, which is random where episodes differ in length. Elsewhere it estimates no
        gradient of J.

    Source:
        Schulman, Wolski, Dhariwal, Radford and Klimov, "Proximal Policy Optimization Algorithms", 2017, eq. (7).

    Example:
        >>> log_probs = torch.tensor([[0.5, 0.25]]).log().requires_grad_()
        >>> loss = ppo_clip_loss(log_probs, log_probs, torch.tensor([[2.0, -1.0]]))
        >>> loss.backward()
        >>> loss.item(), log_probs.grad
        (-0.5, tensor([[-1.0000,  0.5000]]))
    """
    log_ratio = _log_ratio(log_probs, old_log_probs, mask)
    _check_like("advantages", advantages, "log_probs", log_probs, mask)
    objective = _clipped(log_ratio, _taken(advantages.detach(), mask), *_checked_clip(clip))
    if average == "steps":
        return -masked_mean(objective, mask)
    if average != "episodes":
        raise ValueError(f"average is {average!r}, expected 'steps' or 'episodes'")
    _check_some("log_probs", log_probs)
    return -_taken(objective, mask).sum(-1).mean()


def kl_estimate(
    log_probs: Float[Tensor, "*batch T"],
    ref_log_probs: Float[Tensor, "*batch T"],
    *,
    kind: Literal["k1", "k2", "k3"] = "k3",
    mask: Bool[Tensor, "*batch T"] | None = None,
) -> Float[Tensor, "*batch T"]:
    r"""Estimates of :math:`\mathrm{KL}(\pi \,\|\, \pi_{\mathrm{ref}})` from single samples of :math:`\pi`.

    Equation :eq:`eq-kl-estimators`, with :math:`r = \pi_{\mathrm{ref}} / \pi`: k1 is :math:`-\ln r`, k2 is
    :math:`\frac12 (\ln r)^2`, k3 is :math:`(r - 1) - \ln r`.

    Args:
        log_probs: :math:`\ln \pi_\theta` of samples of :math:`\pi_\theta`.
        ref_log_probs: :math:`\ln \pi_{\mathrm{ref}}` of the same samples; no gradient flows into it.
        kind: which estimate.
        mask: True where there is a sample; None: everywhere.

    Returns:
        One estimate for each sample, 0 where the mask is False. k2 is never negative, and k3 only by rounding.

    Raises:
        ValueError: shapes or devices differ; a log-probability is not finite; `kind` is unknown.
        TypeError: a tensor has the wrong dtype.

    Estimand:
        As values: k1 and k3 have the mean :math:`\mathrm{KL}(\pi \| \pi_{\mathrm{ref}})` (k3 if :math:`\pi` is positive
        wherever :math:`\pi_{\mathrm{ref}}` is); k2 is biased. As losses, differentiated through `log_probs` of samples
        that are held fixed: :math:`\mathbb{E}\nabla k_1 = 0`,
        :math:`\mathbb{E}\nabla k_2 = \nabla \mathrm{KL}(\pi \| \pi_{\mathrm{ref}})`, and
        :math:`\mathbb{E}\nabla k_3 = \nabla \mathrm{KL}(\pi_{\mathrm{ref}} \| \pi)`, the other direction.

    Source:
        Schulman, "Approximating KL Divergence", 2020; the gradients: Tang and Munos, "On a Few Pitfalls in KL
        Divergence Gradient Estimation for RL", 2025.

    Example:
        >>> log_probs, ref_log_probs = torch.tensor([[0.5, 0.25], [0.25, 0.5]]).log()
        >>> kl_estimate(log_probs, ref_log_probs, kind="k1")
        tensor([ 0.6931, -0.6931])
        >>> kl_estimate(log_probs, ref_log_probs, kind="k3")
        tensor([0.1931, 0.3069])
    """
    log_r = -_log_ratio(log_probs, ref_log_probs, mask, "ref_log_probs")
    if kind == "k1":
        return -log_r
    if kind == "k2":
        return log_r.square() / 2
    if kind == "k3":
        return torch.expm1(log_r) - log_r  # near r = 1 the rounding of exp would exceed the result
    raise ValueError(f"kind is {kind!r}, expected 'k1', 'k2' or 'k3'")


def group_advantages(
    rewards: Float[Tensor, "*groups size"],
    *,
    scale: Literal["std", "none"] = "std",
    baseline: Literal["mean", "leave_one_out"] = "mean",
    ddof: int = 1,
    eps: float = 1e-4,
) -> Float[Tensor, "*groups size"]:
    r"""Group-relative advantages :math:`\hat A_i = (r_i - b_i) / (\sigma + \epsilon)` of responses to one prompt.

    Equation :eq:`eq-group-advantage`, where :math:`b_i` is the mean of the group, or that of the other responses, and
    :math:`\sigma` is the standard deviation of the group; with `scale="none"` nothing is divided by.

    Args:
        rewards: the reward of each response; the last axis is the group.
        scale: whether to divide by the standard deviation.
        baseline: which mean. The leave-one-out advantage is K/(K - 1) times the other, with K = size.
        ddof: what is subtracted from K under the root of :math:`\sigma`; 1 is the default of `torch.std`, and TRL's.
        eps: :math:`\epsilon`, TRL's value by default.

    Returns:
        The advantages. In a group with equal rewards, of one response for example, they are exactly 0.

    Raises:
        ValueError: there is no response, or only one where `baseline` is `"leave_one_out"`; a reward is not finite;
            `scale` or `baseline` is unknown; `ddof` is negative; `eps` is negative or not finite.
        TypeError: `rewards` is not a floating-point tensor; `ddof` or `eps` is not a number.

    Estimand:
        As weights of the scores, unscaled: :math:`\nabla J` with `"leave_one_out"`, :math:`\frac{K-1}{K} \nabla J` with
        `"mean"`. Scaled by the standard deviation, the gradient of each prompt is scaled by `difficulty_weight` or, if
        there are more than two rewards, is turned as well.

    Source:
        Shao et al., "DeepSeekMath", 2024, section 4.1.2; leave-one-out: Kool, van Hoof and Welling, 2019, and Ahmadian
        et al., "Back to Basics", 2024; without the deviation: Liu et al., "Understanding R1-Zero-Like Training", 2025.

    Example:
        >>> rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
        >>> group_advantages(rewards)
        tensor([[ 0.8659, -0.8659, -0.8659,  0.8659],
                [ 0.0000,  0.0000,  0.0000,  0.0000]])
        >>> group_advantages(rewards[0], scale="none", baseline="leave_one_out")
        tensor([ 0.6667, -0.6667, -0.6667,  0.6667])
    """
    size = _check_group(rewards, scale, baseline)
    ddof, eps = _checks.check_count("ddof", ddof, at_least=0), _check_eps(eps)
    # Differences from the first reward are exactly 0 where all are equal, which r − mean(r) is not.
    deviation = rewards - rewards[..., :1]
    deviation = deviation - deviation.mean(-1, keepdim=True)
    advantages = deviation * size / (size - 1) if baseline == "leave_one_out" else deviation
    if scale == "none":
        return advantages
    variance = deviation.square().sum(-1, keepdim=True) / max(size - ddof, 1)
    spread = torch.where(variance > 0, variance, 1.0).sqrt()  # the slope of the root at 0 is infinite
    return advantages / torch.where(variance > 0, spread + eps, 1.0)


class _Recipe(NamedTuple):
    """The choices that a variant of `grpo_loss` consists of."""

    scale: Literal["std", "none"]
    baseline: Literal["mean", "leave_one_out"]
    level: Literal["step", "geometric_mean"]
    average: Literal["response", "length", "tokens", "sum"]


_RECIPES: Mapping[str, _Recipe] = {
    "grpo": _Recipe("std", "mean", "step", "response"),
    "dr_grpo": _Recipe("none", "mean", "step", "length"),
    "dapo": _Recipe("std", "mean", "step", "tokens"),
    "gspo": _Recipe("std", "mean", "geometric_mean", "response"),
    "rloo": _Recipe("none", "leave_one_out", "step", "sum"),
}


def grpo_loss(
    log_probs: Float[Tensor, "*groups size T"],
    old_log_probs: Float[Tensor, "*groups size T"],
    rewards: Float[Tensor, "*groups size"],
    *,
    mask: Bool[Tensor, "*groups size T"],
    variant: Variant = "grpo",
    clip: Clip = 0.2,
    ref_log_probs: Float[Tensor, "*groups size T"] | None = None,
    beta: float = 0.0,
) -> Float[Tensor, ""]:
    r"""The loss of GRPO and its relatives, on groups of responses with one reward each.

    Equation :eq:`eq-grpo` and its variants. Each token has the objective `clipped_surrogate` with the advantage of its
    response, minus :math:`\beta\, k_3`. The variants differ in three choices:

    - `"grpo"`: advantages divided by the standard deviation; the mean over the tokens of each response, then over
      responses;
    - `"dr_grpo"`: not divided; the sum over all tokens, divided by groups · size · T;
    - `"dapo"`: divided; the mean over all tokens of all groups (with `clip=(0.2, 0.28)` in the paper);
    - `"gspo"`: as `"grpo"`, with the ratio of the whole response, a geometric mean, at each of its tokens (and a `clip`
      of about 3e-4 in the paper);
    - `"rloo"`: leave-one-out advantages, not divided; the sum over the tokens of each response, then the mean over
      responses.

    Args:
        log_probs: :math:`\ln \pi_\theta` of the tokens.
        old_log_probs: the same of the policy that drew the responses.
        rewards: one reward for each response; the last axis is the group.
        mask: True at the tokens of the response. A response without any token contributes 0, and is counted.
        variant: which loss.
        clip: :math:`\varepsilon`, or the pair :math:`(\varepsilon_-, \varepsilon_+)`.
        ref_log_probs: :math:`\ln \pi_{\mathrm{ref}}` of the tokens, for the penalty.
        beta: :math:`\beta \ge 0`, the weight of the penalty by `kl_estimate` k3.

    Returns:
        A scalar, differentiable in `log_probs`. At ratio 1 and :math:`\beta = 0` its value is minus a mean of
        advantages, which is 0 where all responses are equally long: the value says nothing about progress.

    Raises:
        ValueError: shapes or devices differ; there is no response; a number that is read is not finite; `variant` is
            unknown; `clip` or `beta` is out of range; `beta` is positive without `ref_log_probs`.
        TypeError: a tensor has the wrong dtype.

    Estimand:
        At ratio 1 and :math:`\beta = 0`, with rewards that are the return of the whole response: the gradient of
        `"rloo"` is :math:`-\nabla J` in expectation, that of `"dr_grpo"` :math:`-\frac{K-1}{KT}\nabla J`. The others
        have no multiple of :math:`\nabla J` as their expectation: :math:`1/|o_i|` weighs responses by their lengths,
        :math:`1/\sigma` prompts by their difficulty. The penalty contributes
        :math:`\nabla \mathrm{KL}(\pi_{\mathrm{ref}} \| \pi)` in the states visited.

    Source:
        Shao et al., "DeepSeekMath", 2024, eq. (3); Liu et al., "Understanding R1-Zero-Like Training", 2025 (Dr. GRPO);
        Yu et al., "DAPO", 2025, eq. (8); Zheng et al., "Group Sequence Policy Optimization", 2025, eq. (5); Ahmadian
        et al., "Back to Basics", 2024 (RLOO).

    Example:
        >>> log_probs = torch.full((1, 2, 2), 0.5).log().requires_grad_()
        >>> mask = torch.tensor([[[True, True], [True, False]]])
        >>> loss = grpo_loss(log_probs, log_probs, torch.tensor([[1.0, 0.0]]), mask=mask, variant="rloo")
        >>> loss.backward()
        >>> log_probs.grad
        tensor([[[-0.5000, -0.5000],
                 [ 0.5000,  0.0000]]])
    """
    if variant not in _RECIPES:
        raise ValueError(f"variant is {variant!r}, expected one of {', '.join(map(repr, _RECIPES))}")
    return _group_loss(_RECIPES[variant], log_probs, old_log_probs, rewards, mask, clip, ref_log_probs, beta)


def difficulty_weight(
    success: Float[Tensor, "*batch"],
    size: int,
    *,
    scale: Literal["std", "none"] = "std",
    baseline: Literal["mean", "leave_one_out"] = "mean",
    ddof: int = 1,
    eps: float = 1e-4,
) -> Float[Tensor, "*batch"]:
    r"""The factor w(p) by which group advantages scale the gradient of a prompt that is solved with probability p.

    Equation :eq:`eq-difficulty-weight`. With rewards 0 and 1, :math:`\mathbb{E}[\frac1K \sum_i \hat A_i \nabla \ln
    \pi(o_i)] = w(p) \nabla p`, exactly: a sum over the number of successes in the group.

    Args:
        success: p, between 0 and 1 exclusive.
        size: the number K of responses in a group.
        scale: as in `group_advantages`.
        baseline: as in `group_advantages`.
        ddof: as in `group_advantages`.
        eps: as in `group_advantages`.

    Returns:
        w(p); 1 for all p means that the gradient is right.

    Raises:
        ValueError: p is not inside (0, 1); as `group_advantages`.
        TypeError: as `group_advantages`.

    Source:
        The bias: Liu et al., "Understanding R1-Zero-Like Training", 2025, section 3.1; its exact size is ours.

    Example:
        >>> p = torch.tensor([0.5, 0.1], dtype=torch.float64)
        >>> difficulty_weight(p, 8, scale="none")
        tensor([0.8750, 0.8750], dtype=torch.float64)
        >>> difficulty_weight(p, 8)
        tensor([1.7355, 2.1768], dtype=torch.float64)
    """
    _checks.check_floating("success", success)
    if not _checks.is_traced(success) and (outside := ~((success > 0) & (success < 1))).any():
        raise ValueError(
            f"success is {success[outside][0].item()} at {_checks.first_place(outside)}, not inside (0, 1)"
        )
    size, p = _checks.check_count("size", size), success.unsqueeze(-1)
    wins = torch.arange(size + 1, dtype=success.dtype, device=success.device)
    rewards = (torch.arange(size, device=success.device) < wins.unsqueeze(-1)).to(success.dtype)
    weights = group_advantages(rewards, scale=scale, baseline=baseline, ddof=ddof, eps=eps)
    ways = torch.lgamma(wins.new_tensor(size + 1.0)) - torch.lgamma(wins + 1) - torch.lgamma(size - wins + 1)
    # Pr(k successes) = C(K, k) p^k (1 − p)^(K−k)
    probability = (ways + wins * p.log() + (size - wins) * torch.log1p(-p)).exp()
    # E[∇ln π | success] = ∇p / p,  E[∇ln π | failure] = −∇p / (1 − p)
    slopes = (weights * torch.where(rewards.bool(), 1 / p.unsqueeze(-1), -1 / (1 - p).unsqueeze(-1))).sum(-1)
    return (probability * slopes).sum(-1) / size


def two_answer_lengths(
    length: int, *, rewards: tuple[float, float, float] = (1.0, 1.0, 0.0), dtype: torch.dtype = torch.float64
) -> FiniteMDP:
    r"""One decision between three answers: a short one, a long one of `length` tokens, and another short one.

    After the first token of the long answer only one token is possible, so that nothing but its length distinguishes
    it: what a loss makes of the length can be read off the gradient of the first decision.

    Args:
        length: the number of tokens of the long answer, at least 1.
        rewards: the rewards of the three answers, each with its last token.
        dtype: the dtype of probabilities and rewards.

    Returns:
        State 0 is the prompt, states 1 to `length` - 1 the long answer, and the last state is terminal.

    Raises:
        ValueError: if `length` is less than 1.
        TypeError: if `length` is not an integer.

    Source:
        Ours, for the length bias named by Liu et al., "Understanding R1-Zero-Like Training", 2025, section 3.1.

    Example:
        >>> two_answer_lengths(4)
        FiniteMDP(5 states (1 terminal), 3 actions, 2 rewards, 6 outcomes)
    """
    length = _checks.check_count("length", length)
    first, second, third = (float(r) for r in rewards)
    outcomes = [(0, 0, length, first, 1.0), (0, 2, length, third, 1.0)]
    chain = [(s, 1, s + 1, second if s == length - 1 else 0.0, 1.0) for s in range(length)]
    mdp = FiniteMDP.from_outcomes(outcomes + chain, n_states=length + 1, n_actions=3, initial=0, terminal=[length])
    return mdp.to(dtype=dtype)


def expected_group_gradient(
    loss: GroupLoss,
    mdp: FiniteMDP,
    preferences: Float[Tensor, "S A"],
    *,
    horizon: int,
    size: int,
    ordered: bool = False,
) -> Float[Tensor, "S A"]:
    r"""The exact :math:`\mathbb{E}[\nabla_h\, \mathrm{loss}]` of one group, at ratio 1, over all prompts and groups.

    Equation :eq:`eq-expected-group-gradient`: a prompt is a start state; the `size` responses to it are independent,
    and their reward is the sum of the rewards of their steps. For each prompt all groups are enumerated. A loss does
    not depend on the order of the responses, as a rule, and then groups that differ in nothing else count as one.

    Args:
        loss: called with `[1, size, T]`, see `GroupLoss`.
        mdp: an MDP whose start states are the prompts, such as `token_tree`.
        preferences: :math:`h(s, a)`.
        horizon: the number of steps T after which a response is cut off.
        size: the number of responses in a group.
        ordered: whether to enumerate the groups in every order, for a loss that does depend on it.

    Returns:
        The expectation; minus it is the direction of ascent.

    Raises:
        ValueError: as `expected_gradient`.
        TypeError: as `expected_gradient`.

    Source:
        Ours.

    Example:
        >>> from pgtheory import gallery
        >>> bandit, h = gallery.bandit([1.0, 0.0]), torch.zeros(2, 2, dtype=torch.float64)
        >>> expected_group_gradient(group_loss_variants()["rloo"], bandit, h, horizon=1, size=3)[0]
        tensor([-0.2500,  0.2500], dtype=torch.float64)
    """
    total = torch.zeros_like(preferences, requires_grad=False)
    for weight, prompt in _prompts(mdp):
        if ordered:
            on_batch = _on_one_group(loss)
            total += weight * expected_gradient(on_batch, prompt, preferences, 1.0, horizon=horizon, batch_size=size)
            continue
        for probability, gradient in _group_gradients(loss, prompt, preferences, horizon, size):
            total += weight * torch.einsum("n,nsa->sa", probability, gradient)
    return total


def group_loss_variants() -> dict[str, GroupLoss]:
    r"""The group losses that the bias table compares: the five of `grpo_loss`, and GRPO's two scalings one at a time.

    Returns:
        The losses by their names. `"1/|o| only"` averages over the tokens of each response and does not divide by the
        standard deviation; `"1/std only"` divides, and sums over the tokens.

    Source:
        As `grpo_loss`; the decomposition is ours.

    Example:
        >>> list(group_loss_variants())
        ['rloo', 'dr_grpo', 'grpo', 'dapo', 'gspo', '1/|o| only', '1/std only']
    """
    recipes = {name: _RECIPES[name] for name in ("rloo", "dr_grpo", "grpo", "dapo", "gspo")}
    recipes["1/|o| only"] = _Recipe("none", "mean", "step", "response")
    recipes["1/std only"] = _Recipe("std", "mean", "step", "sum")
    return {name: _as_group_loss(recipe) for name, recipe in recipes.items()}


def group_bias_ledger(
    mdp: FiniteMDP,
    preferences: Float[Tensor, "S A"],
    *,
    horizon: int,
    size: int = 3,
    losses: Mapping[str, GroupLoss] | None = None,
) -> list[LedgerRow]:
    r"""The exact bias, angle and variance of each group loss at ratio 1, over all prompts and groups.

    Args:
        mdp: an MDP whose start states are the prompts, and whose responses end within `horizon` steps.
        preferences: :math:`h(s, a)`.
        horizon: the largest number of tokens.
        size: the number of responses in a group.
        losses: the losses, which do not depend on the order of the responses; by default `group_loss_variants`.

    Returns:
        One row for each loss. The variance is that of the gradient of one group, its prompt drawn as well.

    Raises:
        ValueError: as `expected_gradient`.
        TypeError: as `expected_gradient`.

    Source:
        Ours.

    Example:
        >>> from pgtheory import gallery
        >>> bandit, h = gallery.bandit([1.0, 0.0]), torch.zeros(2, 2, dtype=torch.float64)
        >>> rows = group_bias_ledger(bandit, h, horizon=1)
        >>> [(row.name, round(row.length, 4)) for row in rows[:2]]
        [('rloo', 1.0), ('dr_grpo', 0.6667)]
    """
    target = exact_policy_gradient(mdp, preferences.detach(), 1.0)
    losses = group_loss_variants() if losses is None else losses
    rows = []
    for name, loss in losses.items():
        mean, square = torch.zeros_like(target), 0.0
        for weight, prompt in _prompts(mdp):
            for probability, gradient in _group_gradients(loss, prompt, preferences, horizon, size):
                mean -= weight * torch.einsum("n,nsa->sa", probability, gradient)
                square += float(weight * (probability @ gradient.flatten(1).square().sum(-1)))
        rows.append(_ledger_row(name, mean, target, square))
    return rows


class SurrogateRuns(NamedTuple):
    r"""K runs side by side, update by update.

    Attributes:
        performance: the exact :math:`J(\theta)` of each run, before the first update and after each.
        steps: the number of environment steps used so far, likewise.
        preferences: :math:`h(s, a)` of each run after the last update.

    Example:
        >>> SurrogateRuns(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(2, 4, 2)).performance.shape
        torch.Size([3, 2])
    """

    performance: Float[Tensor, "U+1 K"]
    steps: Int[Tensor, "U+1 K"]
    preferences: Float[Tensor, "K S A"]


def surrogate_runs(
    mdp: FiniteMDP,
    preferences: Float[Tensor, "K S A"],
    gamma: float,
    *,
    n_updates: int,
    n_episodes: int,
    horizon: int,
    step_size: float,
    n_epochs: int = 1,
    clip: Clip = (1.0, math.inf),
    lam: float = 1.0,
    critic_step_size: float = 1.0,
    generator: torch.Generator | None = None,
) -> SurrogateRuns:
    r"""K independent runs of a tabular actor and critic, all at once: PPO, or REINFORCE with a baseline.

    An update draws `n_episodes` episodes, takes :math:`\hat A` by `generalized_advantages` from the critic of the
    updates before, makes `n_epochs` gradient steps on `ppo_clip_loss` (a sum over steps, a mean over episodes), and
    moves the critic towards the mean of :math:`\hat A_t + V(S_t)` in each state. One epoch with :math:`\lambda = 1` is
    REINFORCE with a learned baseline, without the factor :math:`\gamma^t`.

    Args:
        mdp: the MDP.
        preferences: :math:`h(s, a)` of each run at the start.
        gamma: the discount :math:`\gamma`.
        n_updates: the number of updates.
        n_episodes: the number of episodes of each run in an update.
        horizon: the number of steps after which an episode is truncated.
        step_size: :math:`\alpha`.
        n_epochs: the number of gradient steps on each batch.
        clip: as in `ppo_clip_loss`; by default nothing is clipped.
        lam: :math:`\lambda`.
        critic_step_size: how far the critic, which starts at 0, moves; 0 leaves it there.
        generator: the source of randomness.

    Returns:
        The exact performance and the number of steps of every run, after every update.

    Raises:
        ValueError: a number is out of range; `preferences` does not fit.
        TypeError: `preferences` is not a tensor of floats of the MDP's dtype.

    Source:
        Schulman et al., "Proximal Policy Optimization Algorithms", 2017, Algorithm 1.

    Example:
        >>> from pgtheory import gallery
        >>> start = torch.zeros(5, 2, 2, dtype=torch.float64)
        >>> runs = surrogate_runs(
        ...     gallery.bandit([1.0, 0.0]), start, 1.0, n_updates=20, n_episodes=4, horizon=1, step_size=1.0, n_epochs=4
        ... )
        >>> bool((runs.performance[-1] > 0.8).all())
        True
    """
    n_updates, n_epochs = _checks.check_count("n_updates", n_updates), _checks.check_count("n_epochs", n_epochs)
    n_episodes = _checks.check_count("n_episodes", n_episodes)
    _check_table(mdp, "preferences", preferences, 3)
    h, critic = preferences.detach().clone(), preferences.new_zeros(preferences.shape[:2])
    history, steps = [_softmax_performance(mdp, h, gamma)], [torch.zeros(len(h), dtype=torch.long, device=h.device)]
    for _ in range(n_updates):
        episodes = _sample_runs(mdp, h, n_episodes, _checks.check_count("horizon", horizon), generator)
        advantages, values = _run_advantages(episodes, critic, gamma, lam)
        old_log_probs = _run_log_probs(mdp, h, episodes)
        for _ in range(n_epochs):
            h = h - step_size * _run_slopes(mdp, h, episodes, old_log_probs, advantages, clip)
        critic = critic + critic_step_size * _critic_errors(critic, episodes, advantages + values)
        history.append(_softmax_performance(mdp, h, gamma))
        steps.append(steps[-1] + episodes.mask.sum((-1, -2)))
    return SurrogateRuns(torch.stack(history), torch.stack(steps), h)


class Rollout(NamedTuple):
    r"""T steps of each of N sub-environments, across the ends of episodes.

    Attributes:
        states: :math:`S_t` as observations.
        actions: :math:`A_t`.
        rewards: :math:`R_{t+1}`, 0 where the mask is False.
        next_states: :math:`S_{t+1}`, the state that was truly reached, also at the end of an episode.
        mask: False where the environment was reset instead of taking a step.
        terminated: whether :math:`S_{t+1}` is terminal.
        truncated: whether the episode was cut off there.

    Example:
        >>> import gymnasium
        >>> from pgtheory.softmax_policy import NeuralPolicy
        >>> envs = gymnasium.make_vec("CartPole-v1", num_envs=3)
        >>> sample_rollout(envs, NeuralPolicy(4, 2), n_steps=5).states.shape
        torch.Size([3, 5, 4])
    """

    states: Shaped[Tensor, "N T *observation"]
    actions: Int[Tensor, "N T"]
    rewards: Float[Tensor, "N T"]
    next_states: Shaped[Tensor, "N T *observation"]
    mask: Bool[Tensor, "N T"]
    terminated: Bool[Tensor, "N T"]
    truncated: Bool[Tensor, "N T"]


@torch.no_grad()
def sample_rollout(
    envs: "VectorEnv[Any, Any, Any]",
    policy: SoftmaxPolicy,
    *,
    n_steps: int,
    after: Rollout | None = None,
    generator: torch.Generator | None = None,
) -> Rollout:
    r"""Step each sub-environment `n_steps` times, going on in new episodes where old ones end.

    The environments must be in Gymnasium's default autoreset mode, `NEXT_STEP`: the step after the end of an episode
    resets, and its action is ignored. Such a step is masked out, and so :math:`S_{t+1}` is never the state after a
    reset.

    Args:
        envs: the vector environment, of discrete actions and box observations.
        policy: the policy that draws the actions.
        n_steps: the number of steps T.
        after: the rollout that this one continues; None: the environments are reset, with a seed from `generator`.
        generator: the source of randomness, on the CPU.

    Returns:
        The rollout, in the dtype of the policy.

    Raises:
        ValueError: `n_steps` is less than 1; the autoreset mode is another one.
        TypeError: `envs` is not a vector environment.
        ImportError: `gymnasium` is not installed.

    Source:
        Towers et al., "Gymnasium: A Standard Interface for Reinforcement Learning Environments", 2024.

    Example:
        >>> import gymnasium
        >>> from pgtheory.softmax_policy import NeuralPolicy
        >>> envs, policy = gymnasium.make_vec("CartPole-v1", num_envs=2), NeuralPolicy(4, 2)
        >>> first = sample_rollout(envs, policy, n_steps=3)
        >>> second = sample_rollout(envs, policy, n_steps=3, after=first)
        >>> torch.equal(first.next_states[:, -1], second.states[:, 0])
        True
    """
    n_steps = _checks.check_count("n_steps", n_steps)
    _check_envs(envs)
    dtype = next(policy.parameters()).dtype
    if after is None:
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        state = torch.as_tensor(envs.reset(seed=seed)[0]).to(dtype)
        over = torch.zeros(envs.num_envs, dtype=torch.bool)
    else:
        state, over = after.next_states[:, -1], after.terminated[:, -1] | after.truncated[:, -1]
    columns = []
    for _ in range(n_steps):
        action = policy.sample(state, generator=generator)
        observation, reward, *ends, _ = envs.step(action.numpy())
        # A copy: some environments write every observation into the same array.
        reached = torch.as_tensor(np.array(observation)).to(dtype)
        terminated, truncated = (torch.as_tensor(np.array(end)) & ~over for end in ends)
        rewards = torch.where(over, 0.0, torch.as_tensor(np.array(reward)).to(dtype))
        columns.append((state, action, rewards, reached, ~over, terminated, truncated & ~terminated))
        state, over = reached, terminated | truncated
    return Rollout(*(torch.stack(column, 1) for column in zip(*columns, strict=True)))


class PPORecord(NamedTuple):
    """What one update of a `PPOTrainer` saw.

    Attributes:
        steps: the number of environment steps so far.
        total_reward: the mean undiscounted reward of the episodes that ended in the rollout; NaN if none did.
        clipped: the fraction of steps whose ratio lay outside the clip range after the update.
        kl: the mean of `kl_estimate` k3 between the policies before and after the update.

    Example:
        >>> PPORecord(128, 20.0, 0.1, 0.01).steps
        128
    """

    steps: int
    total_reward: float
    clipped: float
    kl: float


class PPOTrainer:
    r"""PPO with generalized advantages, on a Gymnasium vector environment.

    An update draws a rollout, and makes `n_epochs` passes over its steps in random minibatches, each a step of the
    optimiser on `ppo_clip_loss` + `value_weight` · value loss - `entropy_weight` · entropy, with the norm of the
    gradient limited to `max_norm`. The factor :math:`\gamma^t` is dropped, as in all of practice.

    Args:
        policy: the policy; its parameters are changed in place.
        critic: a module from states to values `[..., 1]`.
        envs: the vector environment, in `NEXT_STEP` autoreset mode.
        gamma: the discount :math:`\gamma`.
        optimizer: an optimiser of the parameters of both.
        n_steps: the number of steps of each sub-environment in a rollout.
        lam: :math:`\lambda`.
        clip: as in `ppo_clip_loss`.
        n_epochs: the number of passes.
        n_minibatches: the number of minibatches in a pass.
        normalize: whether advantages are centred and divided by their standard deviation in each minibatch.
        value_weight: the weight of the value loss.
        entropy_weight: the weight of the entropy.
        max_norm: the largest norm of a gradient.
        generator: the source of all randomness; by default torch's own.

    Attributes:
        history: one `PPORecord` for each update.

    Raises:
        ValueError: a number is out of range; the autoreset mode is another one.
        TypeError: `envs` is not a vector environment.

    Source:
        Schulman et al., "Proximal Policy Optimization Algorithms", 2017, Algorithm 1; details as in Huang et al., "The
        37 Implementation Details of Proximal Policy Optimization", 2022.

    Example:
        >>> import gymnasium
        >>> from pgtheory.softmax_policy import NeuralPolicy
        >>> policy, critic = NeuralPolicy(4, 2), torch.nn.Linear(4, 1)
        >>> adam = torch.optim.Adam([*policy.parameters(), *critic.parameters()])
        >>> envs = gymnasium.make_vec("CartPole-v1", num_envs=4)
        >>> [record.steps for record in PPOTrainer(policy, critic, envs, 0.99, optimizer=adam, n_steps=1).run(2)]
        [4, 8]
    """

    def __init__(
        self,
        policy: SoftmaxPolicy,
        critic: nn.Module,
        envs: "VectorEnv[Any, Any, Any]",
        gamma: float,
        *,
        optimizer: torch.optim.Optimizer,
        n_steps: int = 128,
        lam: float = 0.95,
        clip: Clip = 0.2,
        n_epochs: int = 4,
        n_minibatches: int = 4,
        normalize: bool = True,
        value_weight: float = 0.5,
        entropy_weight: float = 0.0,
        max_norm: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> None:
        _check_envs(envs)
        self.policy, self.critic, self.envs, self.optimizer = policy, critic, envs, optimizer
        self.gamma, self.lam = _checks.check_gamma(gamma), _checks.check_unit_interval("lam", lam)
        self.clip, self.normalize = _checked_clip(clip), normalize
        self.n_steps = _checks.check_count("n_steps", n_steps)
        self.n_epochs = _checks.check_count("n_epochs", n_epochs)
        self.n_minibatches = _checks.check_count("n_minibatches", n_minibatches)
        self.value_weight = _checks.check_real("value_weight", value_weight)
        self.entropy_weight = _checks.check_real("entropy_weight", entropy_weight)
        self.max_norm = _checks.check_real("max_norm", max_norm)
        self.generator = torch.default_generator if generator is None else generator
        self.history: list[PPORecord] = []
        self._rollout: Rollout | None = None
        self._earned = torch.zeros(envs.num_envs, dtype=torch.float64)

    def run(self, n_updates: int) -> list[PPORecord]:
        """Make `n_updates` updates and return their records."""
        n_updates = _checks.check_count("n_updates", n_updates)
        return [self.update() for _ in range(n_updates)]

    def update(self) -> PPORecord:
        """Draw a rollout, go over it `n_epochs` times, and return the record."""
        rollout = sample_rollout(
            self.envs, self.policy, n_steps=self.n_steps, after=self._rollout, generator=self.generator
        )
        self._rollout, mask = rollout, rollout.mask
        with torch.no_grad():
            advantages, targets = self._advantages_and_targets(rollout)
            old_log_probs = self._log_policy(rollout.states, rollout.actions)[0]
        steps = rollout.states[mask], rollout.actions[mask], old_log_probs[mask], advantages[mask], targets[mask]
        for _ in range(self.n_epochs):
            order = torch.randperm(len(steps[0]), generator=self.generator)
            for rows in order.chunk(self.n_minibatches):
                self._step(*(column[rows] for column in steps))
        with torch.no_grad():
            log_probs = self._log_policy(steps[0], steps[1])[0]
        ratio, (low, high) = importance_ratios(log_probs, steps[2]), self.clip
        self.history.append(
            PPORecord(
                steps=int(mask.sum()) + (self.history[-1].steps if self.history else 0),
                total_reward=self._total_reward(rollout),
                clipped=float(((ratio < 1 - low) | (ratio > 1 + high)).double().mean()),
                kl=float(kl_estimate(steps[2], log_probs).mean()),
            )
        )
        return self.history[-1]

    def _advantages_and_targets(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        values, next_values = (self.critic(s).squeeze(-1) for s in (rollout.states, rollout.next_states))
        advantages = generalized_advantages(
            rollout.rewards,
            values,
            next_values,
            self.gamma,
            self.lam,
            terminated=rollout.terminated,
            truncated=rollout.truncated,
            mask=rollout.mask,
        )
        return advantages, advantages + values

    def _log_policy(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The log-probabilities of the actions, and the whole rows that they were taken from."""
        log_policy = self.policy.log_probs(states)
        return log_policy.gather(-1, actions.unsqueeze(-1)).squeeze(-1), log_policy

    def _step(self, states: Tensor, actions: Tensor, old: Tensor, advantages: Tensor, targets: Tensor) -> None:
        if self.normalize and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_probs, log_policy = self._log_policy(states, actions)
        errors = targets - self.critic(states).squeeze(-1)
        entropy = -(log_policy.exp() * log_policy).sum(-1).mean()
        surrogate = ppo_clip_loss(log_probs, old, advantages, clip=self.clip)
        self.optimizer.zero_grad()
        loss = surrogate + self.value_weight * errors.square().mean() / 2 - self.entropy_weight * entropy
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], self.max_norm)
        self.optimizer.step()

    def _total_reward(self, rollout: Rollout) -> float:
        """The mean total reward of the episodes that ended, which may have begun in an earlier rollout."""
        earned = self._earned.unsqueeze(-1) + rollout.rewards.double().cumsum(-1)
        spent, totals = torch.zeros_like(self._earned), []
        for n, t in (rollout.terminated | rollout.truncated).nonzero().tolist():
            totals.append(float(earned[n, t] - spent[n]))
            spent[n] = earned[n, t]
        self._earned = earned[:, -1] - spent
        return sum(totals) / len(totals) if totals else math.nan


def token_log_probs(logits: Float[Tensor, "*batch V"], tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""The log-probabilities of tokens under the softmax of logits, without a second copy of the logits.

    Equation :eq:`eq-token-log-prob`: :math:`\ln \pi(y_t) = z_{y_t} - \ln \sum_v e^{z_v}`. `log_softmax` followed by
    `gather` keeps a second tensor as large as the logits, and makes two more on the way back. Here the rows are worked
    on a few at a time, forward and backward, and the only large tensor that is made is the gradient itself. Inside
    `torch.func` and `torch.compile`, and for second derivatives, the plain form is used.

    Args:
        logits: one row of preferences for each token; :math:`-\infty` for a token that is not available.
        tokens: the tokens, with the shape of `logits` without its last axis.

    Returns:
        One log-probability for each token, in the dtype of the logits; sums are taken in at least float32.

    Raises:
        ValueError: shapes or devices differ; a token is outside the vocabulary; a row of the logits holds NaN or
            +inf, or nothing above -inf.
        TypeError: `logits` is not a floating-point tensor, or `tokens` not one of integers.

    Source:
        Chunks that are computed again on the way back: Chen, Xu, Zhang and Guestrin, "Training Deep Nets with Sublinear
        Memory Cost", 2016; in this place Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2025.

    Example:
        >>> token_log_probs(torch.tensor([[0.0, 0.0], [0.0, 100.0]]), torch.tensor([1, 1]))
        tensor([-0.6931,  0.0000])
    """
    _checks.check_floating("logits", logits)
    _checks.check_at_least_1d("logits", logits, "the vocabulary")
    _check_tokens(tokens, logits.shape, "logits", logits)
    if _checks.is_traced(logits, tokens):
        return _plain_token_log_probs(logits, tokens)
    log_probs, log_normalizer = _apply(_TokenLogProbs, logits, tokens.long())
    _check_normalizers("logits", log_normalizer)
    return log_probs


def projected_token_log_probs(
    hidden: Float[Tensor, "*batch D"], weight: Float[Tensor, "V D"], tokens: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    r"""`token_log_probs` of the logits :math:`z = W x`, which are never all in memory.

    Equation :eq:`eq-token-log-prob`. The logits are made a few rows at a time, forward and backward.

    Args:
        hidden: the last hidden states x.
        weight: the output embedding W.
        tokens: the tokens.

    Returns:
        One log-probability for each token, differentiable in `hidden` and `weight`.

    Raises:
        ValueError: shapes or devices differ; a token is outside the vocabulary; a logit is NaN or +inf.
        TypeError: a tensor has the wrong dtype.

    Source:
        As `token_log_probs`.

    Example:
        >>> projected_token_log_probs(torch.ones(1, 2), torch.zeros(4, 2), torch.tensor([3]))
        tensor([-1.3863])
    """
    _checks.check_floating("hidden", hidden)
    _checks.check_floating("weight", weight)
    _checks.check_same_kind("weight", weight, "hidden", hidden)
    _checks.check_at_least_1d("hidden", hidden, "the hidden state")
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1]:
        raise ValueError(f"weight has shape {list(weight.shape)}, expected [V, {hidden.shape[-1]}]")
    _check_tokens(tokens, (*hidden.shape[:-1], weight.shape[0]), "hidden", hidden)
    if _checks.is_traced(hidden, weight, tokens):
        return _plain_token_log_probs(hidden @ weight.T, tokens)
    log_probs, log_normalizer = _apply(_ProjectedTokenLogProbs, hidden, weight, tokens.long())
    _check_normalizers("hidden @ weight.T", log_normalizer)
    return log_probs


class _TokenLogProbs(torch.autograd.Function):
    """Log-probabilities and normalisers row by row; the softmax is computed again on the way back."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See `token_log_probs`."""
        kind = torch.promote_types(logits.dtype, torch.float32)
        chosen, normalizer = (torch.empty(tokens.shape, dtype=kind, device=logits.device) for _ in range(2))
        for rows, token, out, total in _row_chunks(logits, tokens, chosen, normalizer):
            _fill_log_probs(rows.to(kind), token, out, total)
        ctx.save_for_backward(logits, tokens, normalizer)
        ctx.mark_non_differentiable(normalizer)
        return chosen.to(logits.dtype), normalizer

    @staticmethod
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor, None]:
        """∂/∂z = g (e_y − softmax(z)), written chunk by chunk."""
        logits, tokens, normalizer = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives
            return _plain_slope(logits, tokens, slope), None
        gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        for rows, token, total, g, out in _row_chunks(logits, tokens, normalizer, slope, gradient):
            out.copy_(_logit_slopes(rows.to(normalizer.dtype), token, total, g.to(normalizer.dtype)))
        return gradient, None


class _ProjectedTokenLogProbs(torch.autograd.Function):
    """The same for logits that are made, and made again, from hidden states."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See `projected_token_log_probs`."""
        kind = torch.promote_types(hidden.dtype, torch.float32)
        chosen, normalizer = (torch.empty(tokens.shape, dtype=kind, device=hidden.device) for _ in range(2))
        for rows, token, out, total in _row_chunks(hidden, tokens, chosen, normalizer, width=len(weight)):
            _fill_log_probs((rows @ weight.T).to(kind), token, out, total)
        ctx.save_for_backward(hidden, weight, tokens, normalizer)
        ctx.mark_non_differentiable(normalizer)
        return chosen.to(hidden.dtype), normalizer

    @staticmethod
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        """∂/∂x = Wᵀ ∂/∂z and ∂/∂W = ∂/∂z xᵀ, summed chunk by chunk."""
        hidden, weight, tokens, normalizer = ctx.saved_tensors
        if torch.is_grad_enabled():
            slopes = _plain_slope(hidden @ weight.T, tokens, slope)
            return slopes @ weight, slopes.flatten(0, -2).T @ hidden.flatten(0, -2), None
        kind, to_hidden = normalizer.dtype, torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
        to_weight = torch.zeros(weight.shape, dtype=kind, device=weight.device)
        columns = (hidden, tokens, normalizer, slope, to_hidden)
        for rows, token, total, g, out in _row_chunks(*columns, width=len(weight)):
            slopes = _logit_slopes((rows @ weight.T).to(kind), token, total, g.to(kind))
            out.copy_(slopes.to(weight.dtype) @ weight)
            to_weight.addmm_(slopes.T, rows.to(kind))
        return to_hidden, to_weight.to(weight.dtype), None


def _apply(function: type[torch.autograd.Function], *tensors: Tensor) -> tuple[Tensor, Tensor]:
    log_probs, normalizer = function.apply(*tensors)  # type: ignore[no-untyped-call]
    return log_probs, normalizer


def _row_chunks(first: Tensor, *others: Tensor, width: int | None = None) -> Iterator[tuple[Tensor, ...]]:
    """Views of some rows of each tensor, with CHUNK numbers (of `width` in a row) at a time; nothing is copied."""
    rows = first.shape[:-1]
    if len(rows) == 0:
        yield (first.unsqueeze(0), *(x.unsqueeze(0) for x in others))
    elif len(rows) == 1:
        n = max(1, CHUNK // (first.shape[-1] if width is None else width))
        yield from zip(*(torch.split(x, n) for x in (first, *others)), strict=True)
    else:  # flattening would copy logits that are a slice of something larger
        for part in zip(first.unbind(0), *(x.unbind(0) for x in others), strict=True):
            yield from _row_chunks(*part, width=width)


def _fill_log_probs(rows: Tensor, tokens: Tensor, log_probs: Tensor, normalizers: Tensor) -> None:
    # z_y − m − ln Σ_v exp(z_v − m) with m = max z
    largest = rows.amax(-1)
    log_sum = (rows - largest.unsqueeze(-1)).exp_().sum(-1).log_()
    log_probs.copy_(rows.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - largest - log_sum)
    normalizers.copy_(largest + log_sum)


def _logit_slopes(rows: Tensor, tokens: Tensor, normalizers: Tensor, slopes: Tensor) -> Tensor:
    # g (e_y − softmax(z))
    result = (rows - normalizers.unsqueeze(-1)).exp_().mul_(-slopes.unsqueeze(-1))
    return result.scatter_add_(-1, tokens.unsqueeze(-1), slopes.unsqueeze(-1))


def _plain_token_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    return torch.log_softmax(logits, -1).gather(-1, tokens.long().unsqueeze(-1)).squeeze(-1)


def _plain_slope(logits: Tensor, tokens: Tensor, slope: Tensor) -> Tensor:
    one_hot = torch.nn.functional.one_hot(tokens, logits.shape[-1])
    return slope.unsqueeze(-1) * (one_hot - torch.softmax(logits, -1))


def _check_tokens(tokens: Tensor, shape: tuple[int, ...], name: str, other: Tensor) -> None:
    _checks.check_integer_tensor("tokens", tokens)
    _checks.check_same_device("tokens", tokens, name, other)
    if tokens.shape != shape[:-1]:
        raise ValueError(f"tokens has shape {list(tokens.shape)}, expected {list(shape[:-1])}: one for each row")
    if not _checks.is_traced(tokens) and (bad := (tokens < 0) | (tokens >= shape[-1])).any():
        place = _checks.first_place(bad)
        raise ValueError(f"tokens is {tokens[bad][0].item()} at {place}, outside the vocabulary 0..{shape[-1] - 1}")


def _check_normalizers(name: str, log_normalizer: Tensor) -> None:
    if not log_normalizer.isfinite().all():
        place = _checks.first_place(~log_normalizer.isfinite())
        raise ValueError(f"{name} holds NaN or +inf, or nothing above -inf, in row {place}")


def _log_ratio(log_probs: Tensor, old: Tensor, mask: Tensor | None, name: str = "old_log_probs") -> Tensor:
    """The logarithm of π(A_t|S_t) / π_old(A_t|S_t), 0 where the mask is False; the second term is a constant."""
    _checks.check_floating("log_probs", log_probs)
    if mask is not None:
        _checks.check_mask(mask, "log_probs", log_probs)
    _checks.check_finite("log_probs", log_probs, mask)
    _check_like(name, old, "log_probs", log_probs, mask)
    return _taken(log_probs, mask) - _taken(old.detach(), mask)


def _at_level(log_ratio: Tensor, mask: Tensor, level: str) -> Tensor:
    """The logarithms of the ratios at one of the levels of `importance_ratios`."""
    if level == "step":
        return log_ratio
    if level == "prefix":
        return log_ratio.cumsum(-1)
    if level == "trajectory":
        return log_ratio.sum(-1, keepdim=True).expand_as(log_ratio)
    if level == "geometric_mean":
        return masked_mean(log_ratio, mask, dim=-1).unsqueeze(-1).expand_as(log_ratio)
    raise ValueError(f"level is {level!r}, expected 'step', 'prefix', 'trajectory' or 'geometric_mean'")


def _clipped(log_ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """The clipped surrogate; bounding the logarithm keeps the exponential from an overflow where it is clipped."""
    # min(ρA, clip(ρ, 1 − ε₋, 1 + ε₊) A): ρ is at most 1 + ε₊ where A ≥ 0, and at least 1 − ε₋ where A < 0
    below, above = log_ratio.clamp(max=math.log1p(high)), log_ratio.clamp(min=_log1p(-low))
    return torch.where(advantages >= 0, below, above).exp() * advantages


def _log1p(x: float) -> float:
    return -math.inf if x == -1.0 else math.log1p(x)


def _sums_until_cut(terms: Tensor, rate: float, goes_on: Tensor) -> Tensor:
    """Σ_l rate^l x_{t+l}, up to the first step that does not go on, by doubling the number of terms in each pass."""
    sums, n_terms = terms, 1
    while n_terms < terms.shape[-1]:
        # Σ_{l<2n} = Σ_{l<n} + rate^n Σ_{n≤l<2n}, if none of the first n steps is cut
        later = torch.where(goes_on[..., :-n_terms], rate**n_terms * sums[..., n_terms:], 0.0)
        sums = sums + pad(later, (0, n_terms))
        goes_on = goes_on & pad(goes_on[..., n_terms:], (0, n_terms))
        n_terms *= 2
    return sums


def _group_loss(
    recipe: _Recipe,
    log_probs: Tensor,
    old_log_probs: Tensor,
    rewards: Tensor,
    mask: Tensor,
    clip: Clip = 0.2,
    ref_log_probs: Tensor | None = None,
    beta: float = 0.0,
) -> Tensor:
    beta = _checked_beta(beta, ref_log_probs)
    _check_responses(log_probs, rewards, mask)
    log_ratio = _at_level(_log_ratio(log_probs, old_log_probs, mask), mask, recipe.level)
    advantages = group_advantages(rewards.detach(), scale=recipe.scale, baseline=recipe.baseline).unsqueeze(-1)
    objective = _clipped(log_ratio, advantages, *_checked_clip(clip))
    if beta > 0.0:
        assert ref_log_probs is not None
        objective = objective - beta * kl_estimate(log_probs, ref_log_probs, kind="k3", mask=mask)
    return -_average(objective, mask, recipe.average)


def _average(terms: Tensor, mask: Tensor, how: str) -> Tensor:
    """One number from the terms of all tokens, by one of the normalisations of `_Recipe`."""
    if how == "response":
        return masked_mean(terms, mask, dim=-1).mean()
    if how == "tokens":
        return masked_mean(terms, mask)
    per_response = _taken(terms, mask).sum(-1).mean()
    return per_response if how == "sum" else per_response / terms.shape[-1]


def _as_group_loss(recipe: _Recipe) -> GroupLoss:
    def loss(log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, /, *, mask: Tensor) -> Tensor:
        return _group_loss(recipe, log_probs, old_log_probs, rewards, mask)

    return loss


def _on_one_group(loss: GroupLoss) -> Callable[..., Tensor]:
    """The group loss as a loss of a batch of trajectories: these are one group, at ratio 1."""

    def of_batch(log_probs: Tensor, rewards: Tensor, gamma: float, /, *, mask: Tensor) -> Tensor:
        total = _taken(rewards, mask).sum(-1)
        return loss(log_probs[None], log_probs.detach()[None], total[None], mask=mask[None])

    return of_batch


def _prompts(mdp: FiniteMDP) -> Iterator[tuple[Tensor, FiniteMDP]]:
    """The probability of each start state, and the MDP that starts there."""
    for state in mdp.initial.nonzero().flatten().tolist():
        start = torch.zeros_like(mdp.initial)
        start[state] = 1.0
        yield mdp.initial[state], replace(mdp, initial=start)


def _group_gradients(
    loss: GroupLoss, mdp: FiniteMDP, preferences: Tensor, horizon: int, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunk by chunk, the probabilities of all groups up to order, and the gradients of their losses."""
    h, size = preferences.detach(), _checks.check_count("size", size)
    _check_table(mdp, "preferences", h, 2)
    policy = softmax_policy(h, available=mdp.available)
    responses, probabilities = enumerate_trajectories(mdp, policy, horizon=horizon)
    log_probs = at_steps(log_softmax_policy(h, available=mdp.available), responses)
    n_groups = math.comb(len(probabilities) + size - 1, size)
    if n_groups * size * horizon > BATCH_LIMIT:
        raise ValueError(f"there are {n_groups:,} groups of {size} responses: make size or horizon smaller")
    value, numbers = _on_one_group(loss), torch.arange(len(probabilities), device=h.device)
    for group in torch.split(torch.combinations(numbers, size, with_replacement=True), 2**12):
        drawn = Trajectories(*(field[group] for field in responses))
        slopes = _slopes(value, log_probs[group], drawn.rewards, 1.0, drawn.mask)
        weights = _log_policy_gradient(policy, _add_up(drawn, slopes, policy).sum(1))
        yield _orders(group) * probabilities[group].prod(-1), weights


def _orders(group: Int[Tensor, "n size"]) -> Float[Tensor, "n"]:
    """In how many orders each group can be drawn: size! / (m_1! m_2! ...), with m_j equal responses of kind j."""
    so_far = (group.unsqueeze(-1) == group.unsqueeze(-2)).tril().sum(-1)
    return math.factorial(group.shape[-1]) / so_far.double().prod(-1)


def _ledger_row(name: str, mean: Tensor, target: Tensor, square: float) -> LedgerRow:
    length, goal = mean.norm(), target.norm()
    u, v = mean / length, target / goal
    # Not the arc cosine, which cannot tell angles below 1e-8 from 0.
    angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())
    degrees = math.degrees(float(angle))
    return LedgerRow(
        name, mean, float((mean - target).norm()), degrees, float(length / goal), square - float(length**2)
    )


def _expected_gain(mdp: FiniteMDP, policy: Tensor, old_policy: Tensor, gamma: float) -> Tensor:
    """Σ_a π(a|s) A_old(s, a) in each state, 0 in terminal states."""
    check_policy(mdp, policy)
    gain = (policy * exact_advantages(mdp, old_policy, gamma)).sum(-1)
    return torch.where(mdp.terminal, 0.0, gain)


class _RunEpisodes(NamedTuple):
    """`n` episodes of each of K runs."""

    states: Int[Tensor, "K n T+1"]
    actions: Int[Tensor, "K n T"]
    rewards: Float[Tensor, "K n T"]
    mask: Bool[Tensor, "K n T"]
    terminated: Bool[Tensor, "K n"]


def _softmax_performance(mdp: FiniteMDP, h: Tensor, gamma: float) -> Tensor:
    return performance(mdp, softmax_policy(h, available=mdp.available), gamma)


def _sample_runs(
    mdp: FiniteMDP, h: Float[Tensor, "K S A"], n: int, horizon: int, generator: torch.Generator | None
) -> _RunEpisodes:
    """Episodes of K policies at once, each step by inversion: of the policies, and of the outcomes of all pairs."""
    policy = softmax_policy(h, available=mdp.available).double().cumsum(-1)
    o, shape = mdp.outcomes, (len(h), n)
    right_edge = o.probability.double().cumsum(0)
    last = torch.bincount(o.state * mdp.n_actions + o.action, minlength=mdp.n_states * mdp.n_actions).cumsum(0) - 1
    before = pad(last, (1, 0), value=-1)[:-1]
    left_edge = pad(right_edge, (1, 0))[before + 1]
    state = torch.multinomial(mdp.initial, len(h) * n, replacement=True, generator=generator).view(shape)
    run = torch.arange(len(h), device=h.device)[:, None]
    states, columns = [state], list[tuple[Tensor, Tensor, Tensor]]()
    while len(columns) < horizon and not mdp.terminal[state].all():
        u, v = torch.rand(2, *shape, dtype=torch.float64, device=h.device, generator=generator)
        edges, going = policy[run, state], ~mdp.terminal[state]
        action = (edges <= u.unsqueeze(-1) * edges[..., -1:]).sum(-1).clamp(max=mdp.n_actions - 1)
        pair = state * mdp.n_actions + torch.where(going, action, 0)
        outcome = torch.searchsorted(right_edge, left_edge[pair] + v, right=True)
        outcome = torch.minimum(torch.maximum(outcome, before[pair] + 1), last[pair]).clamp(min=0)
        reward = torch.where(going, mdp.rewards[o.reward_index[outcome]], 0.0)
        columns.append((torch.where(going, action, 0), reward, going))
        state = torch.where(going, o.next_state[outcome], state)
        states.append(state)
    actions, rewards, mask = (torch.stack(column, -1) for column in zip(*columns, strict=True))
    return _RunEpisodes(torch.stack(states, -1), actions, rewards, mask, mdp.terminal[state])


def _run_advantages(episodes: _RunEpisodes, critic: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """The generalized advantages of each step, and the values of the states they start from."""
    mask = episodes.mask
    values = critic.gather(1, episodes.states.flatten(1)).view(episodes.states.shape)
    is_last = mask & ~pad(mask[..., 1:], (0, 1))
    terminated = is_last & episodes.terminated.unsqueeze(-1)
    advantages = generalized_advantages(
        episodes.rewards,
        values[..., :-1],
        values[..., 1:],
        gamma,
        lam,
        terminated=terminated,
        truncated=is_last & ~terminated,
        mask=mask,
    )
    return advantages, values[..., :-1]


def _run_log_probs(mdp: FiniteMDP, h: Tensor, episodes: _RunEpisodes) -> Tensor:
    log_policy = log_softmax_policy(h, available=mdp.available)
    run = torch.arange(len(h), device=h.device).view(-1, 1, 1)
    states = torch.where(episodes.mask, episodes.states[..., :-1], int(episodes.states[0, 0, 0]))
    return _taken(log_policy[run, states, episodes.actions], episodes.mask)


def _run_slopes(
    mdp: FiniteMDP, h: Tensor, episodes: _RunEpisodes, old_log_probs: Tensor, advantages: Tensor, clip: Clip
) -> Tensor:
    """The gradient of each run's `ppo_clip_loss` by its own preferences."""

    def loss(log_probs: Tensor, old: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
        return ppo_clip_loss(log_probs, old, weights, clip=clip, mask=mask, average="episodes")

    leaf = h.detach().requires_grad_()
    log_probs = _run_log_probs(mdp, leaf, episodes)
    losses = torch.func.vmap(loss)(log_probs, old_log_probs, advantages, episodes.mask)
    return torch.autograd.grad(losses.sum(), leaf)[0]


def _critic_errors(critic: Tensor, episodes: _RunEpisodes, targets: Tensor) -> Tensor:
    """The mean of the targets minus the critic in each state; 0 in states that were not visited."""
    weight, place = episodes.mask.flatten(1).to(critic.dtype), episodes.states[..., :-1].flatten(1)
    visits = torch.zeros_like(critic).scatter_add_(1, place, weight)
    sums = torch.zeros_like(critic).scatter_add_(1, place, weight * targets.flatten(1))
    return torch.where(visits > 0, sums / visits.clamp(min=1) - critic, 0.0)


def _check_like(name: str, value: Tensor, other_name: str, other: Tensor, read: Tensor | None) -> None:
    """Raise unless `value` is as `other` in shape, dtype and device, and finite where it is read."""
    _checks.check_floating(name, value)
    _checks.check_same_kind(name, value, other_name, other)
    _checks.check_same_shape(name, value, other_name, other)
    _checks.check_finite(name, value, read)


def _check_some(name: str, values: Tensor) -> None:
    if 0 in values.shape[:-1]:
        raise ValueError(f"{name} has shape {list(values.shape)}: there is no episode")


def _check_table(mdp: FiniteMDP, name: str, table: Tensor, ndim: int) -> None:
    """Raise unless `table` ends with the axes [S, A], or [S] where it has only one axis."""
    _checks.check_floating(name, table)
    _checks.check_same_kind(name, table, "mdp", mdp.rewards)
    expected = (mdp.n_states, mdp.n_actions) if ndim > 1 else (mdp.n_states,)
    _checks.check_trailing_shape(name, table, expected)
    if table.ndim != ndim:
        raise ValueError(f"{name} has shape {list(table.shape)}, expected {ndim} axes")
    _checks.check_no_nan(name, table)


def _checked_ends(
    rewards: Tensor, terminated: Tensor, truncated: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Where steps terminated their episodes, and where they ended them in either way."""
    _checks.check_floating("rewards", rewards)
    _checks.check_at_least_1d("rewards", rewards, "time")
    flags = {"terminated": terminated, "truncated": truncated, "mask": mask}
    for name, flag in flags.items():
        if flag is not None or name == "terminated":
            _checks.check_bool(name, flag)
            assert flag is not None
            _checks.check_same_device(name, flag, "rewards", rewards)
            _checks.check_same_shape(name, flag, "rewards", rewards)
    _checks.check_finite("rewards", rewards, mask)
    if truncated is None:
        return terminated, terminated
    both = terminated & truncated if mask is None else terminated & truncated & mask
    if not _checks.is_traced(both) and both.any():
        raise ValueError(
            f"terminated and truncated are both True at {_checks.first_place(both)}: a step is one or neither"
        )
    return terminated, terminated | truncated


def _checked_clip(clip: object) -> tuple[float, float]:
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


def _checked_beta(beta: object, ref_log_probs: Tensor | None) -> float:
    number = _checks.check_real("beta", beta)
    if not 0.0 <= number < math.inf:
        raise ValueError(f"beta must be finite and at least 0, not {number}")
    if number > 0.0 and ref_log_probs is None:
        raise ValueError(f"beta is {number} but ref_log_probs is None: there is nothing to stay close to")
    return number


def _check_eps(eps: object) -> float:
    number = _checks.check_real("eps", eps)
    if not 0.0 <= number < math.inf:
        raise ValueError(f"eps must be finite and at least 0, not {number}")
    return number


def _check_group(rewards: Tensor, scale: str, baseline: str) -> int:
    """The number of responses in a group."""
    _checks.check_floating("rewards", rewards)
    _checks.check_at_least_1d("rewards", rewards, "the group")
    for name, value, choices in (("scale", scale, ("std", "none")), ("baseline", baseline, ("mean", "leave_one_out"))):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}, expected {choices[0]!r} or {choices[1]!r}")
    fewest = 2 if baseline == "leave_one_out" else 1
    if rewards.shape[-1] < fewest:
        raise ValueError(f"rewards has shape {list(rewards.shape)}: baseline {baseline!r} needs {fewest} in a group")
    _checks.check_finite("rewards", rewards)
    return rewards.shape[-1]


def _check_responses(log_probs: Tensor, rewards: Tensor, mask: Tensor) -> None:
    _checks.check_floating("log_probs", log_probs)
    if log_probs.ndim < 2 or 0 in log_probs.shape:
        raise ValueError(f"log_probs has shape {list(log_probs.shape)}, expected [groups, size, T], none of them 0")
    _checks.check_mask(mask, "log_probs", log_probs)
    _checks.check_floating("rewards", rewards)
    _checks.check_same_kind("rewards", rewards, "log_probs", log_probs)
    if rewards.shape != log_probs.shape[:-1]:
        expected = list(log_probs.shape[:-1])
        raise ValueError(f"rewards has shape {list(rewards.shape)}, expected {expected}: one for each response")


def _check_envs(envs: Any) -> None:
    gymnasium = import_gymnasium()
    if not isinstance(envs, gymnasium.vector.VectorEnv):
        raise TypeError(f"envs must be a gymnasium.vector.VectorEnv, not {type(envs).__name__}: gymnasium.make_vec")
    next_step = gymnasium.vector.AutoresetMode.NEXT_STEP
    mode = envs.metadata.get("autoreset_mode", next_step)
    if mode != next_step:
        raise ValueError(f"envs has the autoreset mode {mode.name}, expected NEXT_STEP: make it with the default")
