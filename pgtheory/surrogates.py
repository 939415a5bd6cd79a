r"""Chapter 8: surrogate objectives, from the policy gradient theorem to PPO, and what each is the gradient of.

Losses are to be minimised. The log-probabilities of the policy that drew the data, of a reference policy, the rewards
and the advantages are constants: gradients flow into `log_probs` alone, also where the same tensor is passed twice.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgtheory import _checks, _ratios
from pgtheory._masks import mean_taken, taken
from pgtheory._precision import wide
from pgtheory._tables import check_policy_named
from pgtheory.mdp import FiniteMDP, check_policy
from pgtheory.policy_gradient import discounted_visitation, performance
from pgtheory.returns import discount_factors
from pgtheory.value_functions import advantages as exact_advantages

__all__ = [
    "clipped_surrogate",
    "effective_sample_size",
    "importance_ratios",
    "kl_estimate",
    "masked_mean",
    "off_policy_loss",
    "performance_difference",
    "ppo_clip_loss",
    "surrogate_objective",
    "trust_region_bound",
]

Clip = float | tuple[float, float]


def masked_mean(
    values: Float[Tensor, "..."], mask: Bool[Tensor, "..."] | None = None, *, dim: int | None = None
) -> Float[Tensor, "..."]:
    r"""The mean over the places where the mask is True; 0, with gradient 0, where there is none.

    The mean over the steps taken in :eq:`eq-ppo-loss`.

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
    _checks.check_no_nan("values", values, mask)
    axes = tuple(range(values.ndim)) if dim is None else (_checked_axis(dim, values),)
    return mean_taken(values, mask, axes)


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
    log_ratio = _ratios.log_ratio(log_probs, old_log_probs, mask)
    mask = torch.ones_like(log_ratio, dtype=torch.bool) if mask is None else mask
    ratios = _ratios.at_level(log_ratio, mask, level).exp()
    return torch.where(mask, ratios, 0.0).to(log_probs.dtype)


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
    largest = wide(weights).amax(-1, keepdim=True)
    scaled = wide(weights) / torch.where(largest > 0, largest, 1.0)
    size = scaled.sum(-1).square() / torch.where(largest.squeeze(-1) > 0, scaled.square().sum(-1), 1.0)
    return size.to(weights.dtype)


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

    Its gradient is that of :eq:`eq-off-policy-gradient`, with the sign of a loss.

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
    log_ratio = _ratios.log_ratio(log_probs, old_log_probs, mask)
    _checks.check_like("rewards", rewards, "log_probs", log_probs, mask)
    _check_some("log_probs", log_probs)
    gamma = _checks.check_gamma(gamma)
    factors = discount_factors(gamma, rewards.shape[-1], dtype=log_ratio.dtype, device=rewards.device)
    # γ^t ρ_{0:t} R_{t+1}
    terms = _ratios.weighted(log_ratio.cumsum(-1), factors * taken(rewards.detach(), mask))
    return -terms.sum(-1).mean().to(log_probs.dtype)


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
    return (wide(discounted_visitation(mdp, policy, gamma)) * gain).sum(-1).to(mdp.dtype)


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
    difference = gain @ wide(discounted_visitation(mdp, old_policy, gamma))
    return performance(mdp, old_policy, gamma) + difference.to(mdp.dtype)


def trust_region_bound(
    mdp: FiniteMDP, policy: Float[Tensor, "*batch S A"], old_policy: Float[Tensor, "S A"], gamma: float
) -> Float[Tensor, "*batch"]:
    r"""How far :math:`J(\pi)` can be from the surrogate :math:`L(\pi)`, by the distance of the policies.

    Equation :eq:`eq-trust-region`: :math:`|J(\pi) - L(\pi)| \le \frac{2\gamma}{1-\gamma} \max_s |\bar A_\pi(s)| \sum_s
    \eta_{\mathrm{old}}(s)\, \mathrm{TV}_s`, where :math:`\mathrm{TV}_s = \frac12 \sum_a |\pi(a \mid s) -
    \pi_{\mathrm{old}}(a \mid s)|` and :math:`\bar A_\pi(s) = \sum_a \pi(a \mid s) A_{\mathrm{old}}(s, a)`.

    Args:
        mdp: the MDP.
        policy: the new policy :math:`\pi(a \mid s)`.
        old_policy: the old one.
        gamma: the discount :math:`\gamma < 1`.

    Returns:
        One bound per new policy, at least 0.

    Raises:
        ValueError: as `performance`; `gamma` is 1.
        TypeError: as `performance`.

    Source:
        Achiam, Held, Tamar and Abbeel, "Constrained Policy Optimization", 2017, Corollary 1; it is sharper than Theorem
        1 of Schulman et al., "Trust Region Policy Optimization", 2015.

    Example:
        >>> from pgtheory import gallery
        >>> old, new = torch.tensor([[[0.5, 0.5], [0, 0]], [[0.75, 0.25], [0, 0]]], dtype=torch.float64)
        >>> trust_region_bound(gallery.bandit([1.0, 0.0]), new, old, 0.5)  # 2 · 1/2 · 1/4 / (1/2) · 1/4
        tensor(0.1250, dtype=torch.float64)
    """
    gamma = _checks.check_gamma(gamma)
    if gamma == 1.0:
        raise ValueError("gamma must be less than 1: the bound divides by 1 - gamma")
    largest = _expected_gain(mdp, policy, old_policy, gamma).abs().amax(-1)
    distance = wide(policy - old_policy).abs().sum(-1) / 2
    visited = distance @ wide(discounted_visitation(mdp, old_policy, gamma))
    return (2 * gamma / (1 - gamma) * largest * visited).to(mdp.dtype)


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
    log_ratio = _ratios.log_ratio(log_probs, old_log_probs, None)
    _checks.check_like("advantages", advantages, "log_probs", log_probs, None)
    return _ratios.clipped(log_ratio, advantages.detach(), *_ratios.checked_clip(clip)).to(log_probs.dtype)


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
    log_ratio = _ratios.log_ratio(log_probs, old_log_probs, mask)
    _checks.check_like("advantages", advantages, "log_probs", log_probs, mask)
    objective = _ratios.clipped(log_ratio, taken(advantages.detach(), mask), *_ratios.checked_clip(clip))
    if average == "steps":
        return -masked_mean(objective, mask).to(log_probs.dtype)
    if average != "episodes":
        raise ValueError(f"average is {average!r}, expected 'steps' or 'episodes'")
    _check_some("log_probs", log_probs)
    return -taken(objective, mask).sum(-1).mean().to(log_probs.dtype)


def kl_estimate(
    log_probs: Float[Tensor, "*batch T"],
    ref_log_probs: Float[Tensor, "*batch T"],
    *,
    kind: Literal["k1", "k2", "k3"] = "k3",
    mask: Bool[Tensor, "*batch T"] | None = None,
) -> Float[Tensor, "*batch T"]:
    r"""Estimates of :math:`\mathrm{KL}(\pi \,\|\, \pi_{\mathrm{ref}})` from single samples of :math:`\pi`.

    Equation :eq:`eq-kl-estimators`, with :math:`\rho^{\mathrm{ref}} = \pi_{\mathrm{ref}} / \pi`: k1 is
    :math:`-\ln \rho^{\mathrm{ref}}`, k2 is :math:`\frac12 (\ln \rho^{\mathrm{ref}})^2`, k3 is
    :math:`(\rho^{\mathrm{ref}} - 1) - \ln \rho^{\mathrm{ref}}`.

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
    log_r = -_ratios.log_ratio(log_probs, ref_log_probs, mask, "ref_log_probs")
    if kind == "k1":
        estimate = -log_r
    elif kind == "k2":
        estimate = log_r.square() / 2
    elif kind == "k3":
        estimate = torch.expm1(log_r) - log_r  # near r = 1 the rounding of exp would exceed the result
    else:
        raise ValueError(f"kind is {kind!r}, expected 'k1', 'k2' or 'k3'")
    return estimate.to(log_probs.dtype)


def _expected_gain(mdp: FiniteMDP, policy: Tensor, old_policy: Tensor, gamma: float) -> Tensor:
    """Σ_a π(a|s) A_old(s, a) in each state, 0 in terminal states."""
    check_policy(mdp, policy)
    check_policy_named("old_policy", mdp, old_policy)
    gain = wide(policy * exact_advantages(mdp, old_policy, gamma)).sum(-1)
    return torch.where(mdp.terminal, 0.0, gain)


def _checked_axis(dim: object, values: Tensor) -> int:
    return _checks.check_count("dim", dim, at_least=-values.ndim, at_most=values.ndim - 1)


def _check_some(name: str, values: Tensor) -> None:
    if 0 in values.shape[:-1]:
        raise ValueError(f"{name} has shape {list(values.shape)}: there is no episode")
