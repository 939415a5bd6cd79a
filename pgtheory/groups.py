r"""Chapter 9: losses of groups of responses, GRPO and its relatives, and what each is the gradient of.

Losses are to be minimised; gradients flow into `log_probs` alone, as in `pgtheory.surrogates`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgtheory import _checks, _ratios
from pgtheory._each_group import group_probabilities, groups_up_to_order, prompts
from pgtheory._gradients import Moments, Scores, compare, loss_slopes, rounding_of_gradient
from pgtheory._masks import taken
from pgtheory._precision import wide
from pgtheory._tables import check_table
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import BATCH_LIMIT, discounted_visitation, exact_policy_gradient, expected_gradient
from pgtheory.reinforce import LedgerRow
from pgtheory.softmax_policy import log_softmax_policy, softmax_policy
from pgtheory.surrogates import Clip, kl_estimate, masked_mean
from pgtheory.trajectories import at_steps, enumerate_trajectories
from pgtheory.value_functions import action_values

__all__ = [
    "GroupLoss",
    "difficulty_weight",
    "expected_group_gradient",
    "group_advantages",
    "group_bias_ledger",
    "group_loss_variants",
    "grpo_loss",
    "two_answer_lengths",
]

# How many numbers of successes, all together, `difficulty_weight` goes through.
SUCCESSES_LIMIT = 2**27

Variant = Literal["grpo", "dr_grpo", "dapo", "gspo", "rloo"]


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
    ddof, eps = _checks.check_count("ddof", ddof, at_least=0), _checks.check_not_negative("eps", eps)
    # Differences from the first reward are exactly 0 where all are equal, which r − mean(r) is not.
    deviation = wide(rewards) - wide(rewards[..., :1])
    deviation = deviation - deviation.mean(-1, keepdim=True)
    advantages = deviation * size / (size - 1) if baseline == "leave_one_out" else deviation
    if scale == "none":
        return advantages.to(rewards.dtype)
    # The largest deviation as unit keeps the squares from over- and underflowing.
    unit = deviation.detach().abs().amax(-1, keepdim=True)
    if not _checks.is_traced(unit) and (overflow := ~unit.isfinite()).any():
        group = _checks.first_place(overflow[..., 0]) if rewards.ndim > 1 else "of the group"
        raise ValueError(f"rewards are too large: their differences overflow {unit.dtype} in group {group}")
    differ = unit > 0
    unit = torch.where(differ, unit, 1.0)
    variance = (deviation / unit).square().sum(-1, keepdim=True) / max(size - ddof, 1)
    spread = torch.where(differ, variance, 1.0).sqrt()  # the slope of the root at 0 is infinite
    return (advantages / unit / torch.where(differ, spread + eps / unit, 1.0)).to(rewards.dtype)


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
      responses. The paper has neither ratio nor clip; at ratio 1 the gradient is the same.

    The other variants are :eq:`eq-dr-grpo` and :eq:`eq-dapo`.

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
    _checks.check_choice("variant", variant, tuple(_RECIPES))
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
    _checks.check_has_values("success", success)
    if not _checks.is_traced(success) and (outside := ~((success > 0) & (success < 1))).any():
        raise ValueError(
            f"success is {success[outside][0].item()} at {_checks.first_place(outside)}, not inside (0, 1)"
        )
    size = _checks.check_count("size", size, at_least=2 if baseline == "leave_one_out" else 1, at_most=SUCCESSES_LIMIT)
    _check_choices(scale, baseline)
    ddof, eps = _checks.check_count("ddof", ddof, at_least=0), _checks.check_not_negative("eps", eps)
    _checks.check_room("difficulty_weight", max(1, success.numel()), size, limit=SUCCESSES_LIMIT)
    p, wins = success.double().unsqueeze(-1), torch.arange(size + 1.0, dtype=torch.float64, device=success.device)
    losses = size - wins
    # Pr(k successes) ∝ p^k (1 − p)^(K−k) / k! (K−k)!, in logarithms
    probability = (
        wins * p.log() + losses * torch.log1p(-p) - torch.lgamma(wins + 1) - torch.lgamma(losses + 1)
    ).softmax(-1)
    # k successes have the advantages c (K−k)/K, the others −c k/K, and σ² = k (K−k) / K (K − ddof)
    scaling = torch.full_like(wins, size / (size - 1) if baseline == "leave_one_out" else 1.0)
    if scale == "std":
        scaling = scaling / ((wins * losses / (size * max(size - ddof, 1))).sqrt() + eps).where(wins * losses > 0, 1.0)
    # E[∇ln π | success] = ∇p / p,  E[∇ln π | failure] = −∇p / (1 − p)
    slopes = scaling * wins * losses / size
    return ((probability * slopes).sum(-1) / size / (success.double() * (1 - success.double()))).to(success.dtype)


def two_answer_lengths(
    length: int, *, rewards: tuple[float, float, float] = (1.0, 1.0, 0.0), dtype: torch.dtype = torch.float64
) -> FiniteMDP:
    r"""One decision between three answers: a short one, a long one of `length` tokens, and another short one.

    After the first token of the long answer only one token is possible, so that nothing but its length distinguishes
    it: what a loss makes of the length can be read off the gradient of the first decision.

    .. no equation: a world of the book

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
    length = _checks.check_count("length", length, at_most=10**7)
    earned = _checks.check_numbers("rewards", rewards)
    if len(earned) != 3:
        raise ValueError(f"rewards has {len(earned)} entries, expected 3")
    _checks.check_finite("rewards", earned)
    first, second, third = earned.tolist()
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
    check_table(mdp, "preferences", preferences, 2)
    _checks.check_callable("loss", loss)
    horizon, size = _checks.check_count("horizon", horizon), _checks.check_count("size", size)
    ordered = _checks.check_flag("ordered", ordered)
    total = torch.zeros_like(preferences, requires_grad=False)
    for weight, prompt in prompts(mdp):
        if ordered:
            on_batch = _on_one_group(loss)
            total += weight * expected_gradient(on_batch, prompt, preferences, 1.0, horizon=horizon, batch_size=size)
            continue
        scores, parts = _group_slopes(loss, prompt, preferences, horizon, size)
        total += weight * scores.whole(scores.total(parts))
    return total


def group_loss_variants() -> dict[str, GroupLoss]:
    r"""The group losses that the bias table compares: the five of `grpo_loss`, and GRPO's two scalings one at a time.

    Among them :eq:`eq-grpo`, :eq:`eq-dr-grpo`, :eq:`eq-dapo`, :eq:`eq-gspo` and :eq:`eq-rloo`.

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

    The means are :eq:`eq-expected-group-gradient`.

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
    check_table(mdp, "preferences", preferences, 2)
    horizon, size = _checks.check_count("horizon", horizon), _checks.check_count("size", size)
    losses = group_loss_variants() if losses is None else losses
    _checks.check_callables("losses", losses)
    h = preferences.detach()
    target = exact_policy_gradient(mdp, h, 1.0)
    policy = softmax_policy(h, available=mdp.available)
    rounding = rounding_of_gradient(discounted_visitation(mdp, policy, 1.0), policy, action_values(mdp, policy, 1.0))
    rows = []
    for name, loss in losses.items():
        steps = Moments(target)
        for weight, prompt in prompts(mdp):
            scores, parts = _group_slopes(loss, prompt, preferences, horizon, size)
            for probability, group, slopes in parts:
                steps.add(weight * probability, scores, group, slopes)
        rows.append(LedgerRow(name, steps.mean, *compare(steps.mean, target, rounding), steps.variance()))
    return rows


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
    log_ratio = _ratios.at_level(_ratios.log_ratio(log_probs, old_log_probs, mask), mask, recipe.level)
    advantages = group_advantages(rewards.detach(), scale=recipe.scale, baseline=recipe.baseline).unsqueeze(-1)
    objective = _ratios.clipped(log_ratio, advantages, *_ratios.checked_clip(clip))
    if beta > 0.0:
        assert ref_log_probs is not None
        objective = objective - beta * kl_estimate(log_probs, ref_log_probs, kind="k3", mask=mask)
    return -_average(objective, mask, recipe.average).to(log_probs.dtype)


def _average(terms: Tensor, mask: Tensor, how: str) -> Tensor:
    """One number from the terms of all tokens, by one of the normalisations of `_Recipe`."""
    if how == "response":
        return masked_mean(terms, mask, dim=-1).mean()
    if how == "tokens":
        return masked_mean(terms, mask)
    per_response = taken(terms, mask).sum(-1).mean()
    return per_response if how == "sum" else per_response / terms.shape[-1]


def _as_group_loss(recipe: _Recipe) -> GroupLoss:
    def loss(log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, /, *, mask: Tensor) -> Tensor:
        return _group_loss(recipe, log_probs, old_log_probs, rewards, mask)

    return loss


def _on_one_group(loss: GroupLoss) -> Callable[..., Tensor]:
    """The group loss as a loss of a batch of trajectories: these are one group, at ratio 1."""

    def of_batch(log_probs: Tensor, rewards: Tensor, gamma: float, /, *, mask: Tensor) -> Tensor:
        total = taken(rewards, mask).sum(-1)
        return loss(log_probs[None], log_probs.detach()[None], total[None], mask=mask[None])

    return of_batch


def _group_slopes(
    loss: GroupLoss, mdp: FiniteMDP, preferences: Tensor, horizon: int, size: int
) -> tuple[Scores, Iterator[tuple[Tensor, Tensor, Tensor]]]:
    """The responses' scores; chunk by chunk the probabilities of all groups up to order, the groups, their slopes."""
    h, size = preferences.detach(), _checks.check_count("size", size, at_most=BATCH_LIMIT)
    check_table(mdp, "preferences", h, 2)
    policy = softmax_policy(h, available=mdp.available)
    responses, probabilities = enumerate_trajectories(mdp, policy, horizon=horizon)
    log_probs = at_steps(log_softmax_policy(h, available=mdp.available), responses)
    value = _on_one_group(loss)

    def parts() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for group in groups_up_to_order(len(probabilities), size, horizon, h.device):
            slopes = loss_slopes(value, log_probs[group], responses.rewards[group], 1.0, responses.mask[group])
            yield group_probabilities(group, probabilities), group, slopes

    return Scores(responses, policy, mdp.available), parts()


def _checked_beta(beta: object, ref_log_probs: Tensor | None) -> float:
    number = _checks.check_not_negative("beta", beta)
    if number > 0.0 and ref_log_probs is None:
        raise ValueError(f"beta is {number} but ref_log_probs is None: there is nothing to stay close to")
    return number


def _check_choices(scale: str, baseline: str) -> None:
    _checks.check_choice("scale", scale, ("std", "none"))
    _checks.check_choice("baseline", baseline, ("mean", "leave_one_out"))


def _check_group(rewards: Tensor, scale: str, baseline: str) -> int:
    """The number of responses in a group."""
    _checks.check_floating("rewards", rewards)
    _checks.check_at_least_1d("rewards", rewards, "the group")
    _check_choices(scale, baseline)
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
