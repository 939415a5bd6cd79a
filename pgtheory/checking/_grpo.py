"""Is this a loss of groups of responses, GRPO or a relative? Which one? And if not, which known mistake is it?"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgtheory.checking._engine import call_quietly, misunderstood
from pgtheory.checking._forms import Binding, Misfit, Role, in_one_line
from pgtheory.checking._losses import (
    TOLERANCE,
    Attempt,
    Axis,
    Explanation,
    Grid,
    Spec,
    as_mistakes,
    attempt,
    axis_of,
    given,
    nearest_right,
    same_slopes,
    shown,
    slopes,
    value_slopes,
)
from pgtheory.checking._ppo import (
    ADVANTAGE_NAMES,
    ADVANTAGE_SPECS,
    COMMON_ROLES,
    LEVELS,
    NEW_NAMES,
    OLD_NAMES,
    OTHER_BOUNDS,
    PLAIN_NAMES,
    SIGN,
    SURROGATE_REMARKS,
    SURROGATE_SPECS,
    SURROGATES,
    Way,
    affixed,
    batch_advantages,
    bound,
    drives,
    explained,
    level_ratios,
    ratios_around,
    role_values,
    values,
    ways,
)
from pgtheory.checking.report import Counterexample, Report, Source, arxiv, issue, pull

_F64 = torch.float64
_GRPO = arxiv("Shao et al., 2024 (the right form)", "2402.03300")
_KL = Source("Schulman, Approximating KL Divergence, 2020", "http://joschu.net/blog/kl-approx.html")

ROLES = (
    Role("log_probs", f"{PLAIN_NAMES} {NEW_NAMES}", required=True),
    Role("old_log_probs", OLD_NAMES, required=True),
    Role("rewards", "reward rew rews r rs scores score returns group_rewards outcome_rewards", required=True),
    Role("advantages", ADVANTAGE_NAMES),
    Role("ratio", "ratios importance_ratio importance_ratios prob_ratio"),
    Role("ref_log_probs", affixed("ref", "reference", "base", "sft", "init", "ref_policy", "ref_model", "teacher")),
    Role("beta", "kl_coef kl_coeff kl_weight kl_beta beta_kl lambda_kl kl_lambda kl_penalty_coef kl_loss_coef"),
    Role(
        "group_size",
        "num_generations g k group n_samples n_generations n_samples_per_prompt num_samples samples_per_prompt size "
        "group_sz n_rollouts num_rollouts rollouts num_return_sequences n_responses num_responses n_per_prompt",
    ),
    Role("group_ids", "index uid uids group_id group_idx group_index group_indices prompt_index groups prompt_idx"),
    *(role for role in COMMON_ROLES if role.name != "logits"),
    Role("logits", "new_logits policy_logits logit actor_logits current_logits"),
)

# --- advantages of a group -------------------------------------------------------------------------------------------

_CENTRES = ("mean", "others", "nothing")
_SCALES = ("1", "std1", "std0", "batchstd1", "batchstd0", "spread1", "spread0")
_PARTITIONS = ("batch", "strided", "blocks", "columns")
RIGHT_ADVANTAGES = (
    *(f"group mean {scale}" for scale in ("std1", "std0", "1", "batchstd1", "batchstd0", "spread1", "spread0")),
    *(f"group others {scale}" for scale in _SCALES),
    "group nothing 1",
)
_WRONG_ADVANTAGES = (
    *(f"{partition} mean {scale}" for partition in _PARTITIONS for scale in ("1", "std1", "std0")),
    *(f"group nothing {scale}" for scale in _SCALES[1:]),
    *(f"group {centre} var{ddof}" for centre in _CENTRES for ddof in (0, 1)),
    *(f"{change} {scale}" for change in ("repeat", "transposed", "rolled", "other") for scale in ("1", "std1", "std0")),
    *(f"tokens {scale}" for scale in ("1", "std1", "std0")),
    *(f"twice {first} {second}" for first in ("std1", "std0") for second in ("std1",)),
    "own 1",
    *(f"absolute {scale}" for scale in ("1", "std1", "std0")),
    "signs 1",
    "ones 1",
)
GROUP_ADVANTAGES = (*RIGHT_ADVANTAGES, *_WRONG_ADVANTAGES)


def _partition(name: str, groups: int, size: int) -> Tensor:
    """Which responses are compared with each other: the number of the group of each, `[groups, size]`."""
    place = torch.arange(groups * size).reshape(groups, size)
    return {
        "group": place // size,
        "batch": place * 0,
        "strided": place % groups,
        "blocks": place // groups,
        "columns": place % size,
    }[name]


def _statistics(rewards: Tensor, ids: Tensor, ddof: int) -> tuple[Tensor, Tensor]:
    """The mean and the variance of the partition that each response is in."""
    mean, variance = _flat_statistics(tuple(rewards.flatten().tolist()), tuple(ids.flatten().tolist()), ddof)
    return mean.reshape(rewards.shape), variance.reshape(rewards.shape)


@functools.lru_cache(maxsize=1024)
def _flat_statistics(rewards: tuple[float, ...], ids: tuple[int, ...], ddof: int) -> tuple[Tensor, Tensor]:
    flat, where = torch.tensor(rewards, dtype=_F64), torch.tensor(ids)
    same = (where[:, None] == where).to(_F64)
    count = same.sum(-1)
    mean = same @ flat / count
    return mean, (same * (flat - mean[:, None]).square()).sum(-1) / (count - ddof)


def _over(deviation: Tensor, spread: Tensor) -> Tensor:
    """A quotient with an ε, but exactly 0 where there is nothing to divide."""
    return deviation / torch.where(spread == 0, 1.0, spread)


def _scaled(deviation: Tensor, rewards: Tensor, ids: Tensor, scale: str) -> Tensor:
    if scale == "1":
        return deviation
    kind, ddof = scale[:-1], int(scale[-1])
    if kind in ("std", "var"):
        variance = _statistics(rewards, ids, ddof)[1]
        return _over(deviation, variance if kind == "var" else variance.sqrt())
    return _over(deviation, (rewards if kind == "batchstd" else deviation).std(correction=ddof))


def group_advantages(name: str, rewards: Tensor, taken: Tensor) -> Tensor:
    """Advantages `[groups, size]` by the name of the hypothesis."""
    first, *rest = name.split()
    groups, size = rewards.shape
    ids = _partition(first if first in _PARTITIONS else "group", groups, size)
    mean = _statistics(rewards, ids, 0)[0]
    if first == "group" or first in _PARTITIONS:
        centre, scale = rest
        deviation = {"mean": rewards - mean, "others": (rewards - mean) * size / max(size - 1, 1), "nothing": rewards}
        return _scaled(deviation[centre], rewards, ids, scale)
    plain = _scaled(rewards - mean, rewards, ids, rest[0])
    if first == "repeat":
        index = torch.arange(groups * size) % groups
        spread = _scaled(torch.ones_like(rewards), rewards, ids, rest[0])[:, 0][index]
        return ((rewards.flatten() - mean[:, 0][index]) * spread).reshape(rewards.shape)
    if first == "tokens":
        return _token_weighted(rewards, taken, rest[0])
    if first == "own":  # the mean of the others divided by their number and one more
        return rewards - (mean * size - rewards) / size
    if first == "twice":
        return _scaled(plain - plain.mean(), plain, ids * 0, rest[1])
    return {
        "transposed": plain.T.reshape(rewards.shape),
        "rolled": plain.roll(1, 0),
        "other": plain.roll(1, 1),
        "absolute": plain.abs(),
        "signs": plain.sign(),
        "ones": torch.ones_like(plain),
    }[first]


def _token_weighted(rewards: Tensor, taken: Tensor, scale: str) -> Tensor:
    """Centred and scaled by statistics over tokens: a long response counts more often."""
    count = taken.sum(-1).to(_F64)
    total = count.sum(-1, keepdim=True)
    deviation = rewards - (count * rewards).sum(-1, keepdim=True) / total
    if scale == "1":
        return deviation
    return _over(deviation, ((count * deviation.square()).sum(-1, keepdim=True) / (total - int(scale[-1]))).sqrt())


_CENTRED = {"mean": "centred by the mean of the group", "others": "centred by the mean of the others (leave one out)"}
_SCALED = {
    "1": "not divided by a standard deviation",
    "std1": "divided by the standard deviation of the group (ddof 1)",
    "std0": "divided by the standard deviation of the group (ddof 0)",
    "batchstd1": "divided by the standard deviation of all rewards of the batch (ddof 1)",
    "batchstd0": "divided by the standard deviation of all rewards of the batch (ddof 0)",
    "spread1": "divided by the standard deviation of all advantages of the batch (ddof 1)",
    "spread0": "divided by the standard deviation of all advantages of the batch (ddof 0)",
}
_PLAIN_REWARDS = "the rewards are used without a baseline: unbiased, but the variance is larger than it need be"


def _described(name: str) -> str:
    _, centre, scale = name.split()
    return f"advantages {_CENTRED[centre]}, {_SCALED[scale]}" if centre != "nothing" else "advantages: the rewards"


# --- averages --------------------------------------------------------------------------------------------------------

_NORMS = ("GS", "1", "G", "S")
_RIGHT_BASES = {
    "response": "the mean over the tokens of each response, then over responses (GRPO)",
    "tokens": "the mean over all tokens of the batch (DAPO)",
    "group": "the mean over all tokens of each group",
    "sum": "the sum over the tokens of each response (RLOO)",
    "length": "the sum over all tokens, divided by the padded length T (Dr. GRPO): T must be the same in every batch",
}
_WRONG_BASES = ("every", "every_mean", "every_response", "longest", "longest_of_all")
RIGHT_AVERAGES = tuple(f"{base} {norm}" for base in _RIGHT_BASES for norm in _NORMS)
AVERAGES = (*RIGHT_AVERAGES, *(f"{base} {norm}" for base in _WRONG_BASES for norm in _NORMS[:2]))


def weights_of(name: str, taken: Tensor) -> Tensor:
    """The weight of each token `[groups, size, T]` in the loss, by the name of the average."""
    base, norm = name.split()
    used, lengths = taken.to(_F64), taken.sum(-1, keepdim=True).to(_F64)
    every = torch.ones_like(used)
    weights = {
        "response": used / lengths.clamp(min=1),
        "tokens": used / used.sum(),
        "group": used / used.sum((-2, -1), keepdim=True),
        "sum": used,
        "length": used / taken.shape[-1],
        "every": every,
        "every_mean": every / taken.shape[-1],
        "every_response": every / lengths.clamp(min=1),
        "longest": used / lengths.amax(-2, keepdim=True),
        "longest_of_all": used / lengths.max(),
    }[base]
    groups, size, _ = taken.shape
    return weights / {"GS": groups * size, "1": 1, "G": groups, "S": size}[norm]


# --- the penalty -----------------------------------------------------------------------------------------------------

Penalty = Callable[[Tensor, Tensor], Tensor]
PENALTIES: Mapping[str, Penalty] = {
    "k3": lambda new, ref: (ref - new).exp() - (ref - new) - 1,
    "k2": lambda new, ref: (new - ref).square() / 2,
    "k1_weighted": lambda new, ref: (new - new.detach()).exp() * (new - ref),
    "k1": lambda new, ref: new - ref,
    "absolute": lambda new, ref: (new - ref).abs(),
    "swapped": lambda new, ref: (new - ref).exp() - (new - ref) - 1,
    "exp_of_ratio": lambda new, ref: (ref - new).exp().exp() - (ref - new).exp() - 1,
    "none": lambda new, ref: new * 0.0,
}
_PENALTY_REMARKS = {
    "k3": "the penalty is k3: as a loss its gradient is that of KL(ref, policy), as in GRPO",
    "k2": "the penalty has the gradient of k2, that of KL(policy, ref)",
    "k1_weighted": "the penalty is k1 weighted by the ratio: its gradient is that of KL(policy, ref) in expectation",
}


def _penalty_slopes(name: str, new: Tensor, ref: Tensor) -> Tensor:
    leaf = new.clone().requires_grad_()
    return torch.autograd.grad(PENALTIES[name](leaf, ref).sum(), leaf)[0]


# --- the known mistakes ----------------------------------------------------------------------------------------------

_OF_ADVANTAGES = tuple(
    (spec, names)
    for spec in ADVANTAGE_SPECS
    for tail, names in (
        ("absolute_advantage", ("absolute 1", "absolute std1", "absolute std0")),
        ("sign_of_advantage", ("signs 1",)),
        ("advantages_not_used", ("ones 1",)),
    )
    if spec.tail == tail
)
_ADVANTAGE_SPECS = (
    Spec(
        "baseline_of_the_batch",
        "mean and standard deviation over the whole batch instead of the group",
        "Responses to different prompts are compared: all responses to an easy prompt are reinforced, and all to a "
        "hard one are punished.",
        "With one group it is right.",
        (issue("XU-YIJIE/grpo-flat", 2), issue("THUDM/slime", 1414)),
        values("advantage", *(f"batch mean {scale}" for scale in ("1", "std1", "std0"))),
    ),
    Spec(
        "not_centred",
        "the rewards are scaled but not centred",
        "The rewards are divided by the standard deviation without the mean of the group being subtracted: the scale "
        "depends on the responses, and there is no baseline to make up for it.",
        "The advantages of a group do not sum to 0.",
        (_GRPO,),
        values("advantage", *(f"group nothing {scale}" for scale in _SCALES[1:])),
    ),
    Spec(
        "wrong_grouping",
        "rewards are grouped wrongly: mean and standard deviation over responses to different prompts",
        "A reshape, or an axis, puts responses to different prompts into one group.",
        "It is right with one group, and wrong with several.",
        (issue("areal-project/AReaL", 1419), issue("THUDM/slime", 1414)),
        values(
            "advantage",
            *(f"{part} mean {s}" for part in ("strided", "blocks", "columns") for s in ("1", "std1", "std0")),
        ),
    ),
    Spec(
        "repeat_for_repeat_interleave",
        "repeat instead of repeat_interleave: the statistics of another group",
        "The means of the groups are tiled (1, 2, 1, 2) where responses come group by group (1, 1, 2, 2).",
        "It is right with one group, and wrong with several.",
        (_GRPO,),
        values("advantage", *(f"repeat {scale}" for scale in ("1", "std1", "std0"))),
    ),
    Spec(
        "advantages_of_other_responses",
        "the advantages are given to other responses",
        "Advantages are computed rightly and then put in another order: transposed, or shifted within the group.",
        "The slopes of a response depend on the reward of another one.",
        (_GRPO,),
        values("advantage", *(f"{how} {s}" for how in ("transposed", "other") for s in ("1", "std1", "std0"))),
    ),
    Spec(
        "advantages_of_another_group",
        "the advantages of another group",
        "Responses to one prompt are weighted by what responses to another one have earned.",
        "It is right with one group.",
        (_GRPO,),
        values("advantage", *(f"rolled {scale}" for scale in ("1", "std1", "std0"))),
    ),
    Spec(
        "divided_by_variance",
        "divided by the variance instead of the standard deviation",
        "The scale of the rewards does not cancel but is inverted: doubled rewards halve the gradient.",
        "The advantages have the standard deviation 1/σ, not 1.",
        (_GRPO,),
        values("advantage", *(f"group {centre} var{ddof}" for centre in _CENTRES for ddof in (0, 1))),
    ),
    Spec(
        "statistics_over_tokens",
        "mean and standard deviation over tokens instead of responses",
        "The reward is repeated at each token before the mean is taken: long responses count more often.",
        "It is right where all responses are equally long.",
        (_GRPO,),
        values("advantage", *(f"tokens {scale}" for scale in ("1", "std1", "std0"))),
    ),
    Spec(
        "normalised_twice",
        "normalised twice: in the group, and again over the batch",
        "Advantages that have been divided by the standard deviation of the group are standardised once more over the "
        "whole batch.",
        "The scale of a group depends on the other groups.",
        (pull("axon-rl/gem", 113), pull("amazon-science/reskill", 12)),
        values("advantage", *(f"twice {a} {b}" for a in ("std1", "std0") for b in ("std1",))),
    ),
    Spec(
        "leave_one_out_divided_wrongly",
        "the mean of the other responses is divided by the size of the group",
        "The sum of the K - 1 other rewards is divided by K: the baseline is too small, and not centred.",
        "With equal rewards the advantages are not 0.",
        (issue("redai-studio/Relax", 174), arxiv("Ahmadian et al., 2024 (the right form)", "2402.14740")),
        values("advantage", "own 1"),
    ),
    *(spec._replace(values=values("advantage", *names)) for spec, names in _OF_ADVANTAGES),
)
_AVERAGE_SPECS = (
    Spec(
        "mask_ignored",
        "the mask is ignored: padding is trained on",
        "What stands behind the end of a response enters the loss like a token of it.",
        "There are slopes at places where the mask is False.",
        (pull("bingreeky/MemGen", 33), issue("MakazhanAlpamys/Soup", 723)),
        values("average", *(f"{base} {n}" for base in ("every", "every_mean", "every_response") for n in _NORMS[:2])),
    ),
    Spec(
        "divided_by_the_longest",
        "divided by the length of the longest response",
        "The sum over tokens is divided by the largest number of tokens in the group or batch: the weight of a "
        "response depends on how long the others happen to be.",
        "One longer response makes the gradient of all others smaller.",
        (issue("huggingface/trl", 2995), arxiv("Liu et al., 2025 (Dr. GRPO, a constant)", "2503.20783")),
        values("average", *(f"{base} {norm}" for base in ("longest", "longest_of_all") for norm in _NORMS[:2])),
    ),
)
_NO_EPSILON = Spec(
    "no_epsilon",
    "no epsilon: 0/0 when all rewards of a group are equal",
    "The standard deviation of equal rewards is 0; without an ε in the denominator one such group makes the whole "
    "gradient NaN.",
    "NaN as soon as a prompt is solved by all responses, or by none.",
    (pull("bojieli/ai-agent-book", 498), pull("NVIDIA-NeMo/RL", 4161)),
    ({"guard": False}, {"guard": False, "advantage": "group mean std0"}),
)
_PENALTY_SPECS = (
    Spec(
        "kl_swapped",
        "the arguments of the KL penalty are swapped",
        "k3 is r - 1 - log r with r = π_ref/π; with π/π_ref it is another function, whose gradient grows with the "
        "ratio that it should bound.",
        "At log π - log π_ref = 1 the slope of the penalty is e - 1, not 1 - 1/e.",
        (_KL, issue("natolambert/rlhf-book", 489)),
        values("penalty", "swapped"),
    ),
    Spec(
        "kl_without_gradient",
        "the KL penalty has no gradient",
        "It is computed without gradients, detached, or from log-probabilities that do not depend on the parameters: "
        "it changes the value of the loss and nothing else.",
        "The slopes do not change with β.",
        (issue("allenai/open-instruct", 530), issue("NovaSky-AI/SkyRL", 1340)),
        values("penalty", "none"),
    ),
    Spec(
        "kl_sign",
        "the sign of the KL penalty is wrong: divergence is rewarded",
        "The penalty is subtracted from the loss, or added to the objective: the policy is driven away from the "
        "reference.",
        "A larger β makes the KL larger.",
        (issue("qiancheng0/ToolRL", 52), issue("lucidrains/PaLM-rlhf-pytorch", 38)),
        ({"penalty": "k3", "penalty_sign": -1.0},),
    ),
    Spec(
        "kl_unmasked",
        "the KL penalty is not masked: padding enters it",
        "The penalty is averaged over all places, those behind the end of a response included.",
        "There are slopes at places where the mask is False, if β is not 0.",
        (pull("allenai/open-instruct", 535), pull("natolambert/rlhf-book", 216)),
        tuple({"penalty": "k3", "penalty_average": f"every{kind} GS"} for kind in ("", "_mean", "_response")),
    ),
    Spec(
        "kl_k1_as_loss",
        "k1 as a loss: its expected gradient is zero",
        "The gradient of log π - log π_ref does not depend on the reference, and its expectation under π is 0: the "
        "penalty only adds noise.",
        "The slopes do not change with the reference.",
        (pull("allenai/open-instruct", 535), arxiv("Tang and Munos, 2025", "2506.09477")),
        values("penalty", "k1"),
    ),
    Spec(
        "kl_absolute",
        "the absolute log-ratio as KL penalty",
        "|log π - log π_ref| has the same slope however far the policy is from the reference; it estimates no KL.",
        "The slope of the penalty is ±β.",
        (issue("huggingface/trl", 1161), _KL),
        values("penalty", "absolute"),
    ),
    Spec(
        "kl_exp_of_the_ratio",
        "k3 with the exponential of the ratio",
        "The ratio is exponentiated once more: exp(r) - r - 1 where r is already π_ref/π.",
        "The penalty is not 0 where the policies agree.",
        (pull("Rolv-Arild/rocket-learn", 12),),
        values("penalty", "exp_of_ratio"),
    ),
)
_SPECS = (SIGN, *SURROGATE_SPECS, *_ADVANTAGE_SPECS, _NO_EPSILON, *_AVERAGE_SPECS, *_PENALTY_SPECS)


def _loss(
    surrogate: str = "clipped",
    advantage: str = "group mean std1",
    average: str = "response GS",
    penalty: str = "",
    penalty_average: str = "response GS",
    *,
    sign: float = 1.0,
    penalty_sign: float = 1.0,
    guard: bool = True,
) -> Callable[..., Tensor]:
    """The loss that consists of these factors; with a penalty it takes `ref_log_probs` and `beta`."""

    def loss(log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
        a = group_advantages(advantage, rewards, mask)
        if not guard:
            spread = rewards.std(-1, keepdim=True, correction=int(advantage[-1]))
            a = (rewards - rewards.mean(-1, keepdim=True)) / spread
        bounds = (torch.tensor(0.8, dtype=_F64), torch.tensor(1.2, dtype=_F64))
        value = SURROGATES[surrogate](log_probs, old_log_probs, a[..., None].expand_as(log_probs), *bounds)
        return -sign * (weights_of(average, mask) * value).sum()

    def penalised(
        log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, mask: Tensor, ref_log_probs: Tensor, beta: float
    ) -> Tensor:
        weights = penalty_sign * beta * weights_of(penalty_average, mask)
        added = (weights * PENALTIES[penalty](log_probs, ref_log_probs)).sum()
        return loss(log_probs, old_log_probs, rewards, mask) + added

    return penalised if penalty else loss


MISTAKES = as_mistakes("grpo", _SPECS, _loss)

_GIVEN = (
    "given",
    *(f"normalised_{ddof}_taken_{guard}" for ddof in ("0", "1", "none") for guard in ("always", "guarded")),
    "absolute",
    "signs",
    "ones",
)
_GIVEN_MISTAKES = {"absolute": "absolute_advantage", "signs": "sign_of_advantage", "ones": "advantages_not_used"}
_GIVEN_REMARK = "the advantages that it is given are normalised within the batch"


def _axes(*, given_advantages: bool, fixed_bounds: bool) -> tuple[Axis, ...]:
    surrogates = (*SURROGATES, *OTHER_BOUNDS) if fixed_bounds else tuple(SURROGATES)
    remarks = {name: _PLAIN_REWARDS for name in RIGHT_ADVANTAGES if "nothing" in name}
    advantages = axis_of(GROUP_ADVANTAGES, "advantage", _ADVANTAGE_SPECS, remarks)
    if given_advantages:
        advantages = Axis(_GIVEN, _GIVEN_MISTAKES, {name: _GIVEN_REMARK for name in _GIVEN if "_" in name})
    return (
        axis_of(surrogates, "surrogate", SURROGATE_SPECS, SURROGATE_REMARKS),
        Axis(LEVELS, {}, {}),
        advantages,
        axis_of(AVERAGES, "average", _AVERAGE_SPECS, {}),
    )


# --- the cases -------------------------------------------------------------------------------------------------------


class _Case(NamedTuple):
    log_probs: Tensor
    old: Tensor
    rewards: Tensor
    taken: Tensor
    ref: Tensor
    beta: float
    clip: tuple[float, float]


_FULL = ((1, 3, 1), (1, 2, 2), (2, 3, 2), (3, 2, 4), (1, 4, 2), (2, 4, 3))
_PADDED = (
    ((1, 2, 2), (1, 2)),
    ((1, 2, 3), (3, 1)),
    ((2, 3, 4), (1, 3, 2, 4, 2, 1)),
    ((2, 3, 6), (1, 3, 2, 4, 2, 1)),
    ((3, 2, 5), (2, 1, 4, 3, 1, 3)),
    ((2, 4, 5), (2, 1, 4, 3, 1, 3, 3, 5)),
)


def _cases(roles: frozenset[str], one_group: bool, clip: tuple[float, float]) -> list[_Case]:
    """Two responses of one token first, with many ratios; then more of everything; then what a mask hides."""
    off = bool(roles & {"old_log_probs", "ratio", "old_logits"})
    found = [_pair(ratio, clip) for ratio in [1.0, *(ratios_around(*clip) if off else [])]]
    found += [_pair(math.exp(0.125), clip, old=-800.0)] if off and "logits" not in roles else []
    shapes = [(shape, None) for shape in _FULL] + (list(_PADDED) if "mask" in roles else [])
    for seed, (shape, lengths) in enumerate(shapes):
        if not one_group or shape[0] == 1:
            for spread in (0.0, 0.5) if off else (0.0,):
                found.append(_case(seed, shape, lengths, clip, spread))
    return found


def _pair(ratio: float, clip: tuple[float, float], old: float | None = None) -> _Case:
    behind = torch.full((1, 2, 1), (-0.75 if ratio < 1.9 else -3.25) if old is None else old, dtype=_F64)
    new = behind + math.log(ratio)
    return _Case(new, behind, torch.tensor([[2.0, -1.5]], dtype=_F64), torch.ones(1, 2, 1) > 0, new, 0.0, clip)


def _case(
    seed: int, shape: tuple[int, int, int], lengths: tuple[int, ...] | None, clip: tuple[float, float], spread: float
) -> _Case:
    """Groups of fixed numbers, with others behind the mask."""
    groups, size, steps = shape
    place = torch.arange(groups * size * steps, dtype=_F64).reshape(shape) + 2.3 * seed
    taken = torch.arange(steps) < torch.tensor(lengths or [steps] * (groups * size)).reshape(groups, size, 1)
    old = -1.5 - (1.3 * place).cos() / 2
    new = old + spread * (2.1 * place).sin()
    scales = 1.0 + 2 * torch.arange(groups, dtype=_F64)[:, None]
    number = torch.arange(groups * size).reshape(groups, size)
    rewards = ((7 * number + 3 * seed) % 11 / 2 - 2.25).to(_F64) * scales + scales
    new, old = torch.where(taken, new, -0.4), torch.where(taken, old, -0.7)
    return _Case(new, old, rewards, taken, new, 0.0, clip)


def _with_penalty(case: _Case, beta: float) -> _Case:
    place = torch.arange(case.log_probs.numel(), dtype=_F64).reshape(case.log_probs.shape)
    return case._replace(ref=case.log_probs - 0.6 * (1.9 * place + 0.5).cos(), beta=beta)


def _grid(case: _Case, surrogates: Sequence[str], advantages: Sequence[str]) -> Grid:
    if advantages[0] == "given":
        every = torch.ones_like(case.rewards, dtype=torch.bool)
        a = torch.stack([batch_advantages(name, case.rewards, every) for name in advantages])
    else:
        a = torch.stack([group_advantages(name, case.rewards, case.taken) for name in advantages])
    bounds = (torch.tensor(1 - case.clip[0], dtype=_F64), torch.tensor(1 + case.clip[1], dtype=_F64))
    ratios = level_ratios(case.log_probs - case.old, case.taken)[:, None]
    drive = drives(surrogates, ratios, case.old, a[..., None], bounds)
    return Grid(drive, torch.stack([weights_of(name, case.taken) for name in AVERAGES]), case.taken)


# What the cases depend on.
_MATTER = frozenset(
    ["rewards", "advantages", "old_log_probs", "ratio", "old_logits", "logits", "mask", "clip", "clip_low"]
)


@functools.lru_cache(maxsize=4)
def _setting(
    roles: frozenset[str], one_group: bool, clip: tuple[float, float]
) -> tuple[Sequence[_Case], Sequence[Axis], Sequence[Grid]]:
    """The cases for a function that takes these roles, and all hypotheses about it."""
    cases = _cases(roles, one_group, clip)
    axes = _axes(
        given_advantages="advantages" in roles and "rewards" not in roles,
        fixed_bounds=not roles & {"clip", "clip_low"},
    )
    return cases, axes, [call_quietly(_grid, case, axes[0].names, axes[2].names) for case in cases]


# --- the forms -------------------------------------------------------------------------------------------------------

_BATCHED = "[groups, size, T]"
_ONE_GROUP = "it was judged as a loss of one group [size, T]; with several groups [groups, size, T] it is another loss"
_IF_ONE_GROUP = "if it is meant for a single group, say form='[size, T]' to check that alone"
_GIVEN_LAYOUTS = ("[N, T], advantages [N]", "[N, T], advantages [N, 1]", "[N, T], advantages [N, T]", _BATCHED)


def _layouts(binding: Binding) -> tuple[str, ...]:
    if "advantages" in binding.roles and "rewards" not in binding.roles:
        return _GIVEN_LAYOUTS
    flat = "[groups * size, T]"
    if binding.roles & {"group_size", "group_ids"}:
        return (flat, _BATCHED, f"{flat}, rewards [groups, size]")
    return (_BATCHED, f"{flat}, rewards [groups, size]", "[size, T]")


def _tokens(value: Tensor, layout: str) -> Tensor:
    """Numbers of tokens `[groups, size, T]` in a layout."""
    if layout == _BATCHED:
        return value
    return value[0] if layout == "[size, T]" else value.flatten(0, 1)


def _responses(value: Tensor, layout: str, steps: int) -> Tensor:
    """Numbers of responses `[groups, size]` in a layout."""
    if layout == _BATCHED or layout.endswith("rewards [groups, size]"):
        return value
    if layout.endswith("advantages [N, 1]"):
        return value.flatten()[:, None]
    if layout.endswith("advantages [N, T]"):
        return value.flatten()[:, None].expand(-1, steps)
    return value[0] if layout == "[size, T]" else value.flatten()


def _arguments(case: _Case, log_probs: Tensor, layout: str) -> dict[str, Any]:
    new, old = _tokens(log_probs, layout), _tokens(case.old, layout)
    groups, size, steps = case.taken.shape
    responses = _responses(case.rewards, layout, steps)
    ids = torch.arange(groups)[:, None].expand(groups, size)
    return role_values(new, old, case.clip) | {
        "rewards": responses,
        "advantages": responses,
        "mask": _tokens(case.taken, layout),
        "ref_log_probs": _tokens(case.ref, layout),
        "beta": case.beta,
        "group_size": size,
        "group_ids": _responses(ids, layout, steps),
    }


def _answer(function: Callable[..., Any], binding: Binding, way: Way, notes: set[str]) -> Callable[[_Case], Tensor]:
    """The slopes of a function in a case, `[groups, size, T]`."""

    def answer(case: _Case) -> Tensor:
        def call(log_probs: Tensor) -> Any:
            table = _arguments(case, log_probs, way.layout)
            return binding.call(
                function, {role: given(table[role], way.container, way.mask_kind) for role in binding.roles}
            )

        def reduce(output: Tensor) -> Tensor | None:
            if output.numel() == case.taken.numel():
                return (output.reshape(case.taken.shape) * weights_of("response GS", case.taken)).sum()
            return output.mean() if output.numel() == case.rewards.numel() else None

        run = slopes if way.container.startswith("torch") else value_slopes
        return run(call, case.log_probs, reduce, notes)

    return answer


def _without_constant(answer: Callable[[_Case], Tensor], binding: Binding) -> Callable[[_Case], Tensor]:
    """The slopes without those of a penalty whose weight is not an argument: what is left where no reward is."""
    if "ref_log_probs" not in binding.roles or "beta" in binding.roles:
        return answer

    def corrected(case: _Case) -> Tensor:
        rest = answer(case._replace(rewards=torch.zeros_like(case.rewards), old=case.log_probs))
        return answer(case) - torch.where(rest.isnan(), 0.0, rest)

    return corrected


# --- the verdict -----------------------------------------------------------------------------------------------------


class _Study(NamedTuple):
    """What is known about a function that is called in one way."""

    way: Way
    keys: tuple[str, ...] | None
    remarks: tuple[str, ...]
    counterexample: Counterexample | None
    n_cases: int
    details: Mapping[str, Any]
    final: bool


def check_grpo(
    function: Callable[..., Any], *, clip: float | tuple[float, float] = 0.2, form: str | None = None
) -> Report:
    r"""Check a loss of groups of responses: GRPO, Dr. GRPO, DAPO, GSPO, RLOO, or any other mixture of their parts.

    Equation :eq:`eq-grpo`. The slopes of the loss by the log-probabilities are compared, up to a constant positive
    factor. The function may be `loss(log_probs, old_log_probs, rewards, mask=mask)` with `[groups, size, T]` and
    `[groups, size]`; of one group, `[size, T]` and `[size]`; or flat, `[groups * size, T]` and `[groups * size]`, if
    it takes a `group_size`. It may take `advantages` instead of rewards, `ref_log_probs` and `beta`, a `clip`, or
    `logits` and `actions`; without old log-probabilities it is only checked where the policies agree. The report says
    which loss it is, and the angle and the length of its expected gradient.

    Args:
        function: the implementation.
        clip: the :math:`\varepsilon` of a function that does not take it, or the pair of both.
        form: only try forms whose name contains this text, such as `"[size, T]"` or `"numpy"`.

    Returns:
        The report. Its details are the angle, in degrees, between the expected gradient and the true one, on a small
        tree of tokens by enumeration, and the quotient of their lengths.

    Raises:
        UnknownForm: the function cannot be called in any form, or does not return a loss.

    Source:
        Shao et al., "DeepSeekMath", 2024, eq. (3); Liu et al., "Understanding R1-Zero-Like Training", 2025.

    Example:
        >>> def loss(log_probs, old_log_probs, rewards, mask):
        ...     ratio = (log_probs - old_log_probs).exp()
        ...     a = ((rewards - rewards.mean()) / (rewards.std() + 1e-4)).unsqueeze(-1)
        ...     per_token = torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a) * mask
        ...     return -(per_token.sum(-1) / mask.sum(-1)).mean()
        >>> print(check_grpo(loss).diagnosis)
        mean and standard deviation over the whole batch instead of the group
    """
    misfits: dict[str, str] = {}
    studies: list[_Study] = []
    try:
        binding = bound(function, ROLES)
    except Misfit as error:
        raise misunderstood("grpo", {"(its signature)": str(error)}) from error
    pair = clip if isinstance(clip, tuple) else (clip, clip)
    for way in ways(_layouts(binding), binding):
        if (form is not None and form not in str(way)) or way.layout in {
            study.way.layout for study in studies if study.keys != ("no_gradient",)
        }:
            continue
        study = _studied(function, binding, way, pair)
        if isinstance(study, Exception):
            misfits[str(way)] = in_one_line(study)
            continue
        studies.append(study)
        if study.keys == () or study.final:
            break
    if not studies:
        raise misunderstood("grpo", misfits)
    chosen = min(studies, key=lambda s: math.inf if s.keys is None else len(s.keys))
    if chosen.way.layout == "[size, T]" and len(studies) > 1 and studies[0].way.layout == _BATCHED:
        chosen = chosen._replace(remarks=(*chosen.remarks, _ONE_GROUP))
    if chosen.way.layout == _BATCHED and "baseline_of_the_batch" in (chosen.keys or ()):
        chosen = chosen._replace(remarks=(*chosen.remarks, _IF_ONE_GROUP))
    return _report(chosen)


def _report(study: _Study) -> Report:
    named = tuple(mistake for key in study.keys or () for mistake in MISTAKES if mistake.key == f"grpo.{key}")
    ok, name = study.keys == (), str(study.way)
    return Report("grpo", ok, named, study.remarks, study.counterexample, study.details, name, study.n_cases)


class _Trial(NamedTuple):
    """A function that was called in all cases in one way."""

    binding: Binding
    way: Way
    cases: Sequence[_Case]
    axes: Sequence[Axis]
    grids: Sequence[Grid]
    attempt: Attempt
    answer: Callable[[_Case], Tensor]
    penalised: Callable[[_Case], Tensor]
    notes: set[str]

    def counterexample(self, case: _Case, expected: Tensor, got: Tensor | Exception) -> Counterexample:
        """A case and a wrong answer, as the function sees them."""
        table = _arguments(case, case.log_probs, self.way.layout)
        roles = (self.binding.roles | {"log_probs", "old_log_probs"}) - {"logits", "old_logits", "ratio"}
        inputs = {role: value for role, value in table.items() if role in roles}

        def view(value: Any) -> Any:
            whole = isinstance(value, Tensor) and (value is expected or value is got)
            return _tokens(value, self.way.layout) if whole else value

        return shown(inputs, expected, got, view)


def _studied(function: Callable[..., Any], binding: Binding, way: Way, clip: tuple[float, float]) -> _Study | Exception:
    notes: set[str] = set()
    answer = _answer(function, binding, way, notes)
    roles, one_group = binding.roles & _MATTER, way.layout == "[size, T]"
    without = _without_constant(answer, binding)
    tried = attempt(str(way), without, _cases(roles, one_group, clip))
    if isinstance(tried, Exception):
        return tried
    trial = _Trial(binding, way, *_setting(roles, one_group, clip), tried, without, answer, notes)
    found = explained(trial.axes, trial.grids, tried, unit=False)
    return _known(trial, found[0]) if found else _unknown(trial)


def _unknown(trial: _Trial) -> _Study:
    """No mixture of known parts. Where one group alone is right, the fault lies between groups: this is final."""
    fault, expected = nearest_right(trial.axes, trial.grids, trial.attempt.answers, unit=False) or (0, torch.zeros(()))
    example = trial.counterexample(trial.cases[fault], expected, trial.attempt.answers[fault])
    single = [i for i, case in enumerate(trial.cases) if len(case.rewards) == 1]
    part = Attempt(trial.attempt.name, [trial.attempt.answers[i] for i in single])
    found = explained(trial.axes, [trial.grids[i] for i in single], part, unit=False)
    final = bool(found) and not found[0].mistakes
    remarks = ("with one group it is right", *sorted(trial.notes)) if final else tuple(sorted(trial.notes))
    return _Study(trial.way, None, remarks, example, len(trial.cases), {}, final)


def _known(trial: _Trial, found: Explanation) -> _Study:
    """The verdict about a function whose slopes are explained where the rewards alone count."""
    wrong = found.mistakes
    examples = []
    if wrong:
        fault, expected = nearest_right(trial.axes, trial.grids, trial.attempt.answers, unit=False) or (
            0,
            torch.zeros_like(trial.grids[0].taken, dtype=_F64),
        )
        examples.append(trial.counterexample(trial.cases[fault], expected, trial.attempt.answers[fault]))
    keys, remarks = list(wrong), list(found.remarks)
    for more in (_equal_rewards(trial, found), _penalty(trial, found)):
        if more.keys is None:
            return _Study(trial.way, None, (), more.example, len(trial.cases), {}, True)
        keys += more.keys
        remarks += more.remarks
        examples += [more.example] if more.example else []
    right = not keys
    remarks += _group_of_one(trial) if right and trial.axes[2].names[0] != "given" else ()
    remarks = [*(_objective(trial, found) if right else ()), *remarks, *sorted(trial.notes)]
    details = _bias(trial) if right and "given" not in found.names[2] and "_" not in found.names[2] else {}
    example = examples[0] if examples else None
    final = keys != ["no_gradient"]
    return _Study(trial.way, tuple(keys), tuple(remarks), example, len(trial.cases), details, final)


class _More(NamedTuple):
    """What a further question about a function has brought to light; no keys at all: an unknown mistake."""

    keys: tuple[str, ...] | None = ()
    remarks: tuple[str, ...] = ()
    example: Counterexample | None = None


def _slope(grid: Grid, trial: _Trial, found: Explanation) -> Tensor:
    index = [axis.names.index(name) for axis, name in zip(trial.axes, found.names, strict=True)]
    return found.scale * grid.slopes(torch.tensor([index])).reshape(grid.taken.shape)


def _tried(answer: Callable[[_Case], Tensor], case: _Case) -> Tensor | Exception:
    try:
        return answer(case)
    except Exception as error:
        return error


def _equal_rewards(trial: _Trial, found: Explanation) -> _More:
    """What happens in a group whose rewards are all equal: 0/0 is a mistake."""
    if trial.axes[2].names[0] == "given":
        return _More()
    case = _pair(1.0, trial.cases[0].clip)
    case = case._replace(rewards=torch.ones_like(case.rewards))
    got = _tried(trial.answer, case)
    expected = _slope(_grid(case, trial.axes[0].names, trial.axes[2].names), trial, found)
    same = isinstance(got, Tensor) and (same_slopes(expected, got) or bool(_factor([expected], [got])))
    if same or (isinstance(got, Tensor) and float(got.abs().max()) < TOLERANCE):
        return _More()  # where nothing is centred, the factor is one over an ε
    example = trial.counterexample(case, expected, got)
    if isinstance(got, Tensor) and bool(got.isnan().all()):
        return _More(("no_epsilon",), (), example)
    return _More(None, (), example)


def _group_of_one(trial: _Trial) -> tuple[str, ...]:
    """A group of one response has no standard deviation: worth a remark."""
    case = _pair(1.0, trial.cases[0].clip)
    new = case.log_probs[:, :1]
    got = _tried(trial.answer, _Case(new, new, case.rewards[:, :1], case.taken[:, :1], new, 0.0, case.clip))
    failed = isinstance(got, Exception) or bool(got.isnan().any())
    return ("with a group of one response it gives NaN, or fails",) if failed else ()


def _penalty(trial: _Trial, found: Explanation) -> _More:
    """Which penalty is added if the function takes the log-probabilities of a reference."""
    if "ref_log_probs" not in trial.binding.roles:
        return _More()
    usable = [i for i, case in enumerate(trial.cases) if bool((case.old == case.log_probs)[case.taken].all())]
    chosen = [usable[0], *usable[1:][-6:]]
    cases = [_with_penalty(trial.cases[i], 0.1 if i % 2 else 0.5) for i in chosen]
    answers = [_tried(trial.penalised, case) for case in cases]
    parts = [
        _penalty_alone(trial, case, answer, _slope(trial.grids[i], trial, found))
        for i, case, answer in zip(chosen, cases, answers, strict=True)
        if isinstance(answer, Tensor)
    ]
    named = _named_penalty(trial, found, cases, parts) if len(parts) == len(cases) else None
    if named and not named.keys:
        return named
    wanted = [_penalty_of(trial, found, case, "k3", found.names[3]) for case in cases]
    bad = next((i for i, w in enumerate(wanted) if i >= len(parts) or not same_slopes(w, parts[i])), 0)
    expected = _slope(trial.grids[chosen[bad]], trial, found) + wanted[bad]
    return (named or _More(None))._replace(example=trial.counterexample(cases[bad], expected, answers[bad]))


def _penalty_alone(trial: _Trial, case: _Case, answer: Tensor, objective: Tensor) -> Tensor:
    """The slopes of the penalty: what is left where all rewards are 0, if this and the objective make up the answer."""
    alone = _tried(trial.penalised, case._replace(rewards=torch.zeros_like(case.rewards)))
    if isinstance(alone, Tensor) and bool(alone.isfinite().all()) and same_slopes(objective, answer - alone):
        return alone
    return answer - objective


def _penalty_of(trial: _Trial, found: Explanation, case: _Case, name: str, average: str) -> Tensor:
    """The slopes of β times a penalty, on the scale of the objective."""
    beta = case.beta if "beta" in trial.binding.roles else 1.0
    weights = abs(found.scale) * weights_of(average, case.taken)
    return weights * beta * _penalty_slopes(name, case.log_probs, case.ref)


def _named_penalty(trial: _Trial, found: Explanation, cases: Sequence[_Case], parts: Sequence[Tensor]) -> _More | None:
    wrong = {"kl_unmasked": tuple(name for name in AVERAGES if name.startswith("every"))}
    keys = {str(v["penalty"]): spec.tail for spec in _PENALTY_SPECS for v in spec.values if len(v) == 1}
    if all(float(part.abs().max()) < 1e-6 for part in parts):
        return _More(("kl_without_gradient",))
    averages = (found.names[3], *(name for name in (*RIGHT_AVERAGES, *wrong["kl_unmasked"]) if name != found.names[3]))
    for average in averages:
        for name in PENALTIES:
            slopes_ = [_penalty_of(trial, found, case, name, average) for case in cases]
            factor = _factor(slopes_, parts)
            if factor is None or not _plausible(factor, trial, found, name, average):
                continue
            tails = [keys[name]] if name in keys else []
            tails += ["kl_unmasked"] if average in wrong["kl_unmasked"] and average not in found.names else []
            tails += ["kl_sign"] if factor < 0 else []
            apart = average != found.names[3] and not tails
            remarks = [_PENALTY_REMARKS[name]] if not tails else []
            return _More(tuple(tails), (*remarks, *(["the penalty is averaged in another way"] if apart else [])))
    return None


def _factor(slopes_: Sequence[Tensor], parts: Sequence[Tensor]) -> float | None:
    """The number by which the slopes of a penalty have to be multiplied in all cases; None if there is none."""
    one, other = (torch.cat([x.flatten() for x in xs]) for xs in (slopes_, parts))
    square = float(one.square().sum())
    factor = float((one * other).sum()) / square if square > 0 else 0.0
    return factor if factor and same_slopes(factor * one, other) else None


def _plausible(factor: float, trial: _Trial, found: Explanation, name: str, average: str) -> bool:
    """Whether a penalty has the weight β, where that was given; the scale of another average is unknown."""
    if "beta" not in trial.binding.roles or average != found.names[3]:
        return True
    return any(abs(abs(factor) - x) < 1e-2 for x in ((1.0, 2.0) if name == "k2" else (1.0,)))


def _objective(trial: _Trial, found: Explanation) -> tuple[str, ...]:
    """Which of the published objectives it is, in words."""
    _, level, advantage, average = found.names
    base, norm = average.split()
    ratios = {
        "token": "a ratio for each token",
        "product": "one ratio for the whole response",
        "geometric_mean": "one ratio for each response, a geometric mean (GSPO)",
    }
    known = bool(trial.binding.roles & {"old_log_probs", "ratio", "old_logits"})
    ratio = ratios[level] if known else "no ratio: right only for the policy that drew the responses"
    total = (
        ""
        if norm == "GS" or base == "tokens"
        else "; a sum over " + {"1": "all responses", "G": "the responses"}.get(norm, "the groups")
    )
    first = "advantages as given" if trial.axes[2].names[0] == "given" else _described(advantage)
    return (f"the objective: {first}; {ratio}; {_RIGHT_BASES[base]}{total}",)


# --- the expected gradient -------------------------------------------------------------------------------------------


def _bias(trial: _Trial) -> dict[str, Any]:
    """Angle and length of the expected gradient against the true one, over all ordered groups of three responses."""
    padded = "mask" in trial.binding.roles
    tokens = torch.tensor([[0, 0], [1, 0], [1, 1]] if padded else [[0, 0], [0, 1], [1, 0], [1, 1]])
    lengths = torch.tensor([1, 2, 2] if padded else [2, 2, 2, 2])
    taken = torch.arange(2) < lengths[:, None]
    preferences = torch.tensor(
        [[[0.5, 0.0], [0.0, 0.3], [0.2, 0.0]], [[-1.0, 0.0], [0.4, 0.0], [0.0, 0.7]]], dtype=_F64
    )
    rewards = torch.tensor([[1.0, 0.0, 3.0, 1.0], [0.0, 2.0, 0.0, 1.0]], dtype=_F64)
    mean, target = torch.zeros_like(preferences), torch.zeros_like(preferences)
    for prompt in range(2):
        h = preferences[prompt].clone().requires_grad_()
        log_policy = h.log_softmax(-1)
        log_probs = torch.stack([log_policy[0][tokens[:, 0]], log_policy[1 + tokens[:, 0], tokens[:, 1]]], -1)
        probability = torch.where(taken, log_probs, 0.0).sum(-1).exp()
        reward = rewards[prompt, : len(tokens)]
        target[prompt] = torch.autograd.grad((probability * reward).sum(), h, retain_graph=True)[0]
        total = _expected_slopes(trial, log_probs.detach(), probability.detach(), reward, taken)
        mean[prompt] = -torch.autograd.grad((total * log_probs).sum(), h)[0]
    cosine = float((mean * target).sum() / (mean.norm() * target.norm()))
    angle = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
    return {"angle in degrees": round(angle, 3), "length": float(mean.norm() / target.norm())}


def _expected_slopes(trial: _Trial, log_probs: Tensor, probability: Tensor, rewards: Tensor, taken: Tensor) -> Tensor:
    """E Σ_i of the slope by each token of each response, where the group is drawn from the responses."""
    total = torch.zeros_like(log_probs)
    numbers = torch.arange(len(log_probs))
    for group in torch.cartesian_prod(numbers, numbers, numbers):
        new = torch.where(taken[group], log_probs[group], -0.4)[None]
        case = _Case(new, new, rewards[group][None], taken[group][None], new, 0.0, trial.cases[0].clip)
        total.index_add_(0, group, probability[group].prod() * torch.where(taken[group], trial.answer(case)[0], 0.0))
    return total
