r"""Chapter 9: what a loss follows when its samples are old, or come from another sampler: the exact off-policy ledger.

Three policies meet: the sampler drew the responses, the old policy is what the program took as the denominator of its
ratios, and the policy is what is differentiated. In a program without faults the first two are one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgtheory import _checks, _ratios
from pgtheory._each_group import group_probabilities, groups_up_to_order, prompts
from pgtheory._gradients import Moments, Scores, compare, rounding_of_gradient, slopes_of
from pgtheory._masks import taken
from pgtheory._tables import check_policy_named, check_table
from pgtheory.groups import group_advantages, grpo_loss
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import BATCH_LIMIT, discounted_visitation, exact_policy_gradient
from pgtheory.softmax_policy import log_softmax_policy, softmax_policy
from pgtheory.surrogates import masked_mean
from pgtheory.trajectories import Trajectories, at_steps, enumerate_trajectories
from pgtheory.value_functions import action_values

__all__ = [
    "OffPolicyGroup",
    "OffPolicyLoss",
    "OffPolicyRow",
    "bounded_importance_weights",
    "off_policy_ledger",
    "off_policy_losses",
]


class OffPolicyGroup(NamedTuple):
    r"""One group of responses, with what three policies say of them.

    Attributes:
        log_probs: :math:`\ln \pi_\theta(A_t \mid S_t)`, the policy that is differentiated.
        old_log_probs: the same of the old policy, the denominator of the ratios.
        sampler_log_probs: the same of the policy that drew the responses.
        rewards: :math:`R_{t+1}` at index t; 0 after the end.
        mask: True where :math:`A_t` was taken.
        states: :math:`S_t` at index t.
        actions: :math:`A_t`.

    Example:
        >>> OffPolicyGroup._fields[:3]
        ('log_probs', 'old_log_probs', 'sampler_log_probs')
    """

    log_probs: Float[Tensor, "size T"]
    old_log_probs: Float[Tensor, "size T"]
    sampler_log_probs: Float[Tensor, "size T"]
    rewards: Float[Tensor, "size T"]
    mask: Bool[Tensor, "size T"]
    states: Int[Tensor, "size T"]
    actions: Int[Tensor, "size T"]


class OffPolicyLoss(Protocol):
    r"""A loss of one group of responses, to be minimised, which does not depend on their order.

    Example:
        >>> from pgtheory.groups import grpo_loss
        >>> def mine(group):
        ...     return grpo_loss(group.log_probs, group.old_log_probs, group.rewards.sum(-1), mask=group.mask)
    """

    def __call__(self, group: OffPolicyGroup, /) -> Float[Tensor, ""]:
        """The loss of the group."""
        ...


class OffPolicyRow(NamedTuple):
    r"""What a loss estimates from the samples of another policy, exactly, beside :math:`\nabla J(\theta)`.

    Attributes:
        name: the loss.
        mean: the expected direction of ascent, :math:`-\mathbb{E}[\nabla_h\,\mathrm{loss}]`.
        bias: the Euclidean norm of `mean` minus :math:`\nabla J`.
        angle: the angle between the two in degrees; NaN where one of them is rounding alone.
        length: the norm of `mean` divided by that of :math:`\nabla J`.
        variance: the trace of the covariance of the gradient of one group.
        idle: of the tokens in groups with unequal returns, the expected share on which the loss does not pull at all;
            NaN if there is no such group.

    Example:
        >>> OffPolicyRow._fields
        ('name', 'mean', 'bias', 'angle', 'length', 'variance', 'idle')
    """

    name: str
    mean: Float[Tensor, "S A"]
    bias: float
    angle: float
    length: float
    variance: float
    idle: float


def bounded_importance_weights(
    log_probs: Float[Tensor, "*batch T"],
    sampler_log_probs: Float[Tensor, "*batch T"],
    *,
    mask: Bool[Tensor, "*batch T"] | None = None,
    cap: float = 2.0,
    level: Literal["step", "trajectory", "geometric_mean"] = "step",
    beyond: Literal["truncate", "drop"] = "truncate",
) -> Float[Tensor, "*batch T"]:
    r"""Importance weights :math:`\min(\rho_t, C)` of samples from another policy, or 0 where :math:`\rho_t > C`.

    Equation :eq:`eq-bounded-weights`, with the ratios of :eq:`eq-importance-ratio` at one of three levels. Truncated
    weights bound the variance and keep every sample; to drop what exceeds the cap is called masked importance sampling.

    Args:
        log_probs: :math:`\ln \pi(A_t \mid S_t)`.
        sampler_log_probs: the same of the policy that drew the actions.
        mask: True where :math:`A_t` was taken; None: everywhere.
        cap: :math:`C \ge 1`; `math.inf` bounds nothing.
        level: the ratio of the step, of the whole response at each of its steps, or the geometric mean of its steps.
        beyond: what becomes of a weight above the cap.

    Returns:
        The weights, 0 where the mask is False. No gradient flows through them.

    Raises:
        ValueError: shapes or devices differ; a log-probability of a step that was taken is not finite; `cap` is less
            than 1; `level` or `beyond` is unknown.
        TypeError: a tensor has the wrong dtype; `cap` is not a number.

    Source:
        Ionides, "Truncated Importance Sampling", 2008.

    Example:
        >>> ratios = torch.tensor([0.5, 4.0])
        >>> bounded_importance_weights(ratios.log(), torch.zeros(2))
        tensor([0.5000, 2.0000])
        >>> bounded_importance_weights(ratios.log(), torch.zeros(2), beyond="drop")
        tensor([0.5000, 0.0000])
    """
    _checks.check_choice("level", level, ("step", "trajectory", "geometric_mean"))
    _checks.check_choice("beyond", beyond, ("truncate", "drop"))
    cap = _checked_cap(cap)
    log_ratio = _ratios.log_ratio(log_probs, sampler_log_probs, mask, "sampler_log_probs").detach()
    mask = torch.ones_like(log_ratio, dtype=torch.bool) if mask is None else mask
    log_ratio = _ratios.at_level(log_ratio, mask, level)
    weights = log_ratio.clamp(max=math.log(cap)).exp()
    kept = mask if beyond == "truncate" else mask & (log_ratio <= math.log(cap))
    return torch.where(kept, weights, 0.0).to(log_probs.dtype)


def off_policy_losses(*, cap: float = 2.0) -> dict[str, OffPolicyLoss]:
    r"""The losses that the off-policy table compares.

    The first six weigh :math:`(r_i - b_i) \nabla \ln \pi`, with leave-one-out baselines, by a ratio to the old policy:
    that of the sequence, none, that of the token, truncated or dropped above `cap`. The others are the losses of
    `grpo_loss`, with the ranges of their papers, and CISPO, which bounds the weight and not the objective,
    :eq:`eq-cispo`.

    Args:
        cap: the bound of the truncated and the masked weights.

    Returns:
        The losses by their names.

    Raises:
        ValueError: as `bounded_importance_weights`.
        TypeError: as `bounded_importance_weights`.

    Source:
        As `grpo_loss`; CISPO: MiniMax, "MiniMax-M1", 2025, arXiv 2506.13585.

    Example:
        >>> list(off_policy_losses())[:4]
        ['sequence ratio', 'no ratio', 'token ratio', 'token ratio, truncated']
    """
    cap = _checked_cap(cap)
    return {
        "sequence ratio": _weighted(level="trajectory"),
        "no ratio": _weighted(level=None),
        "token ratio": _weighted(),
        "token ratio, truncated": _weighted(cap=cap),
        "token ratio, masked": _weighted(cap=cap, beyond="drop"),
        "sequence ratio, truncated": _weighted(level="trajectory", cap=cap),
        "sequence ratio, masked": _weighted(level="trajectory", cap=cap, beyond="drop"),
        "RLOO, clipped": _clipped("rloo"),
        "Dr. GRPO": _clipped("dr_grpo"),
        "GRPO": _clipped("grpo"),
        "DAPO": _clipped("dapo", clip=(0.2, 0.28)),
        "GSPO": _clipped("gspo", clip=(3e-4, 4e-4)),
        "CISPO": _cispo,
    }


def off_policy_ledger(
    mdp: FiniteMDP,
    preferences: Float[Tensor, "S A"],
    sampler: Float[Tensor, "S A"] | None = None,
    *,
    old_policy: Float[Tensor, "S A"] | None = None,
    gamma: float = 1.0,
    horizon: int,
    size: int = 3,
    losses: Mapping[str, OffPolicyLoss] | None = None,
) -> list[OffPolicyRow]:
    r"""The exact mean, angle, length and variance of each loss on groups that another policy drew.

    Equation :eq:`eq-off-policy-ledger`: the mean is that of :eq:`eq-expected-group-gradient`, with the sampler's
    probabilities of the groups in place of the policy's own. At `sampler=None` everything is at ratio 1, as in
    `group_bias_ledger`.

    Args:
        mdp: an MDP whose start states are the prompts, and whose responses end within `horizon` steps.
        preferences: :math:`h(s, a)` of the policy that is differentiated.
        sampler: the policy that drew the responses; None: the one that is differentiated.
        old_policy: the policy in the denominators of the ratios; None: the sampler.
        gamma: the discount of J.
        horizon: the largest number of steps.
        size: the number of responses in a group.
        losses: the losses, by their names, for example a reader's own; by default `off_policy_losses`.

    Returns:
        One row for each loss.

    Raises:
        ValueError: as `group_bias_ledger`; a policy is not a table of probabilities, or the old one gives 0 to what the
            sampler may draw.
        TypeError: as `group_bias_ledger`.

    Source:
        Ours.

    Example:
        >>> from pgtheory import gallery
        >>> bandit, h = gallery.bandit([1.0, 0.0]), torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
        >>> old = torch.tensor([[0.5, 0.5], [0.0, 0.0]], dtype=torch.float64)
        >>> rows = off_policy_ledger(bandit, h, old, horizon=1)
        >>> [(row.name, round(row.length, 3)) for row in rows if "ratio" in row.name][:2]
        [('sequence ratio', 1.0), ('no ratio', 1.272)]
    """
    check_table(mdp, "preferences", preferences, 2)
    horizon = _checks.check_count("horizon", horizon)
    size = _checks.check_count("size", size, at_most=BATCH_LIMIT)
    gamma = _checks.check_gamma(gamma)
    losses = off_policy_losses() if losses is None else losses
    _checks.check_callables("losses", losses)
    for name, table in (("sampler", sampler), ("old_policy", old_policy)):
        if table is not None:
            check_table(mdp, name, table, 2)
            check_policy_named(name, mdp, table)
    h = preferences.detach()
    policy = softmax_policy(h, available=mdp.available)
    drawn_by = policy if sampler is None else sampler.detach()
    old = drawn_by if old_policy is None else old_policy.detach()
    target = exact_policy_gradient(mdp, h, gamma)
    rounding = rounding_of_gradient(
        discounted_visitation(mdp, policy, gamma), policy, action_values(mdp, policy, gamma)
    )
    steps = {name: Moments(target) for name in losses}
    idle, may_pull = dict.fromkeys(losses, 0.0), 0.0
    for weight, prompt in prompts(mdp):
        for probability, groups, chosen, scores in _groups(prompt, h, drawn_by, old, horizon, size):
            chance = weight * probability
            returns = groups.rewards.sum(-1)
            unequal = (returns != returns[:, :1]).any(-1)[:, None, None] & groups.mask
            may_pull += _expected_number(chance, unequal)
            for name, loss in losses.items():
                slopes = slopes_of(lambda *fields, loss=loss: loss(OffPolicyGroup(*fields)), groups)
                steps[name].add(chance, scores, chosen, slopes)
                idle[name] += _expected_number(chance, unequal & (slopes == 0))
    return [
        OffPolicyRow(
            name,
            sums.mean,
            *compare(sums.mean, target, rounding),
            sums.variance(),
            idle[name] / may_pull if may_pull else math.nan,
        )
        for name, sums in steps.items()
    ]


def _expected_number(probability: Tensor, tokens: Tensor) -> float:
    """How many tokens of a group are marked, on average."""
    return float(probability @ tokens.sum((1, 2)).to(probability.dtype))


def _groups(
    mdp: FiniteMDP, preferences: Tensor, sampler: Tensor, old: Tensor, horizon: int, size: int
) -> Iterator[tuple[Tensor, OffPolicyGroup, Tensor, Scores]]:
    """Chunk by chunk the probabilities of all groups of the sampler, what three policies say, who they are, scores."""
    responses, probabilities = enumerate_trajectories(mdp, sampler, horizon=horizon)
    scores = Scores(responses, softmax_policy(preferences, available=mdp.available), mdp.available)
    told = [
        at_steps(log_softmax_policy(preferences, available=mdp.available), responses),
        *(_log_at_steps(name, table, responses) for name, table in (("old_policy", old), ("sampler", sampler))),
    ]
    for chosen in groups_up_to_order(len(probabilities), size, horizon, preferences.device):
        drawn = Trajectories(*(field[chosen] for field in responses))
        new, denominator, drew = (log[chosen] for log in told)
        group = OffPolicyGroup(new, denominator, drew, drawn.rewards, drawn.mask, drawn.states[..., :-1], drawn.actions)
        yield group_probabilities(chosen, probabilities), group, chosen, scores


def _log_at_steps(name: str, table: Tensor, responses: Trajectories) -> Tensor:
    """The logarithms of the probabilities of what was done; 0 after the end."""
    probabilities = torch.where(responses.mask, at_steps(table, responses), 1.0)
    if (never := probabilities <= 0).any():
        n, t = never.nonzero()[0].tolist()
        s, a = int(responses.states[n, t]), int(responses.actions[n, t])
        raise ValueError(f"{name} gives the probability 0 to action {a} in state {s}, which the sampler draws")
    return probabilities.log()


def _weighted(
    *,
    level: Literal["step", "trajectory"] | None = "step",
    cap: float = math.inf,
    beyond: Literal["truncate", "drop"] = "truncate",
) -> OffPolicyLoss:
    """REINFORCE with leave-one-out baselines, each token weighted by a constant ratio."""

    def loss(group: OffPolicyGroup) -> Tensor:
        advantages = group_advantages(group.rewards.sum(-1), scale="none", baseline="leave_one_out").unsqueeze(-1)
        if level is not None:
            advantages = advantages * bounded_importance_weights(
                group.log_probs, group.old_log_probs, mask=group.mask, cap=cap, level=level, beyond=beyond
            )
        return -taken(advantages * group.log_probs, group.mask).sum(-1).mean()

    return loss


def _clipped(
    variant: Literal["rloo", "dr_grpo", "grpo", "dapo", "gspo"], clip: tuple[float, float] = (0.2, 0.2)
) -> OffPolicyLoss:
    def loss(group: OffPolicyGroup) -> Tensor:
        total = group.rewards.sum(-1)
        return grpo_loss(group.log_probs, group.old_log_probs, total, mask=group.mask, variant=variant, clip=clip)

    return loss


def _cispo(group: OffPolicyGroup) -> Tensor:
    """The weight is bounded above, at 1.28, and no token stops pulling."""
    weights = bounded_importance_weights(group.log_probs, group.old_log_probs, mask=group.mask, cap=1.28)
    advantages = group_advantages(group.rewards.sum(-1)).unsqueeze(-1)
    return -masked_mean(weights * advantages * group.log_probs, group.mask)


def _checked_cap(cap: object) -> float:
    number = _checks.check_real("cap", cap)
    if not number >= 1.0:
        raise ValueError(f"cap must be at least 1, not {number}")
    return number
