"""The clipped surrogate, what may take its place, and what may become of the advantages: factors of PPO and GRPO."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from pgtheory.checking.loss import Spec, values
from pgtheory.checking.report import Source, arxiv, issue, pull
from pgtheory.checking.space import Space
from pgtheory.checking.verdicts import Trial, quietly

_PPO = arxiv("Schulman et al., 2017, eq. (7)", "1707.06347")
_CS336 = Source(
    "stanford-cs336/spring2025-lectures, lecture_17.py",
    "https://github.com/stanford-cs336/spring2025-lectures/blob/bbdbc9c511c11310efc2f9600f4f6e5dcf1c9066/lecture_17.py",
)

# --- surrogates ---

Surrogate = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def _of_ratio(objective: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Surrogate:
    """A surrogate that is a function of the ratio ρ, the advantage A and the two bounds."""

    def surrogate(new: Tensor, old: Tensor, a: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return objective((new - old).exp(), a, low, high)

    return surrogate


def _clip(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, low), high)


def _standard(r: Tensor, a: Tensor, low: Tensor, high: Tensor) -> Tensor:
    # min(ρA, clip(ρ, 1 − ε₋, 1 + ε₊) A)
    return torch.minimum(r * a, _clip(r, low, high) * a)


def _standard_of(ratio: Callable[[Tensor, Tensor], Tensor]) -> Surrogate:
    """The clipped surrogate of something else in place of the ratio."""

    def surrogate(new: Tensor, old: Tensor, a: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return _standard(ratio(new, old), a, low, high)

    return surrogate


def _dual(r: Tensor, a: Tensor, low: Tensor, high: Tensor, c: float) -> Tensor:
    clipped = _standard(r, a, low, high)
    return torch.where(a < 0, torch.maximum(clipped, c * a), clipped)


def _dual_clip(c: float) -> Surrogate:
    return _of_ratio(lambda r, a, low, high: _dual(r, a, low, high, c))


def _of_log_ratio(clipped: Callable[[Tensor, Tensor], Tensor]) -> Surrogate:
    """The surrogate whose clipped term is a function of the log-ratio and of ε."""

    def surrogate(new: Tensor, old: Tensor, a: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.minimum((new - old).exp() * a, clipped(new - old, high - 1) * a)

    return surrogate


def _bounded(below: float, above: float) -> Surrogate:
    """The clipped surrogate with bounds of its own."""
    return _of_ratio(lambda r, a, low, high: _standard(r, a, low * 0 + 1 - below, high * 0 + 1 + above))


def _weighted_score(weight: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Surrogate:
    def surrogate(new: Tensor, old: Tensor, a: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return weight((new - old).exp(), low, high).detach() * a * new

    return surrogate


def _softly_gated(above: float, below: float) -> Surrogate:
    """4/τ σ(τ (ρ - 1)) A, with another τ for A < 0."""

    def gated(r: Tensor, a: Tensor, low: Tensor, high: Tensor) -> Tensor:
        tau = torch.where(a < 0, below, above)
        return 4 / tau * torch.sigmoid(tau * (r - 1)) * a

    return _of_ratio(gated)


# No ratio of a case lies between two of these and any bound of dual clip that people use.
_DUAL_BOUNDS = (1.3, 1.4, 1.5, 1.6, 1.7, 3.0, 8.0)
SURROGATES: Mapping[str, Surrogate] = {
    "clipped": _of_ratio(_standard),
    **{f"dual_{c}": _dual_clip(c) for c in _DUAL_BOUNDS},
    "weights_clipped_above": _weighted_score(lambda r, low, high: torch.minimum(r, high)),
    "weights_clipped": _weighted_score(_clip),
    "soft_gate": _softly_gated(1.0, 1.05),
    "soft_gate_even": _softly_gated(1.0, 1.0),
    "maximum": _of_ratio(lambda r, a, low, high: torch.maximum(r * a, _clip(r, low, high) * a)),
    "upper_only": _of_ratio(lambda r, a, low, high: torch.minimum(r * a, torch.minimum(r, high) * a)),
    "lower_only": _of_ratio(lambda r, a, low, high: torch.minimum(r * a, torch.maximum(r, low) * a)),
    "clipped_term": _of_ratio(lambda r, a, low, high: _clip(r, low, high) * a),
    "minimum_first": _of_ratio(lambda r, a, low, high: torch.minimum(r, _clip(r, low, high)) * a),
    "maximum_first": _of_ratio(lambda r, a, low, high: torch.maximum(r, _clip(r, low, high)) * a),
    "no_clip": _of_ratio(lambda r, a, low, high: r * a),
    "inverted": _standard_of(lambda new, old: (old - new).exp()),
    "inverted_unclipped": lambda new, old, a, low, high: (old - new).exp() * a,
    "difference": _standard_of(lambda new, old: new - old),
    "log_quotient": _standard_of(lambda new, old: new / old),
    "log_quotient_unclipped": lambda new, old, a, low, high: new / old * a,
    "exp_log_quotient": _standard_of(lambda new, old: (new / old).exp()),
    "quotient": _standard_of(lambda new, old: new.exp() / old.exp()),
    "quotient_eps": _standard_of(lambda new, old: new.exp() / (old.exp() + 1e-8)),
    "product_clipped": _of_ratio(lambda r, a, low, high: torch.minimum(r * a, _clip(r * a, low, high))),
    "product_clipped_alone": _of_ratio(lambda r, a, low, high: _clip(r * a, low, high)),
    "log_ratio_clipped": _of_log_ratio(lambda x, eps: _clip(x, -eps, eps).exp()),
    "log_ratio_clipped_not_exp": _of_log_ratio(lambda x, eps: _clip(x, 1 - eps, 1 + eps)),
    "log_ratio_in_ratio_bounds": _of_log_ratio(lambda x, eps: _clip(x, 1 - eps, 1 + eps).exp()),
    "no_ratio": lambda new, old, a, low, high: new * a,
    "no_gradient": lambda new, old, a, low, high: new * 0.0 + a * 0.0,
    "bounds_around_zero": _of_ratio(lambda r, a, low, high: torch.minimum(r * a, _clip(r, low - 1, high - 1) * a)),
    "bounds_from_eps": _of_ratio(lambda r, a, low, high: torch.minimum(r * a, _clip(r, 1 - low, high) * a)),
    "clipped_without_advantage": _of_ratio(lambda r, a, low, high: torch.minimum(r * a, _clip(r, low, high))),
    "dual_everywhere": _of_ratio(lambda r, a, low, high: torch.maximum(_standard(r, a, low, high), 3.0 * a)),
}
# What the ratio of a loss that takes a reference may be of.
TO_REFERENCE: Mapping[str, Surrogate] = {
    "to_reference": _of_ratio(_standard),
    "to_reference_unclipped": _of_ratio(lambda r, a, low, high: r * a),
}
# What ignores the ε that it is given.
CLIP_IGNORED: Mapping[str, Surrogate] = {"clip_ignored": _bounded(0.2, 0.2)}
# Other bounds than those that the check assumes, where a function does not take them.
_BOUNDS = (0.01, 0.1, 0.2, 0.3)
OTHER_BOUNDS: Mapping[str, Surrogate] = {
    f"bounds_{low}_{high}": _bounded(low, high) for low in _BOUNDS for high in _BOUNDS if (low, high) != (0.2, 0.2)
}
_BOUNDS_REMARK = "it clips at other bounds than those that were assumed: give its own by clip=..."
_DUAL_REMARK = "dual clip: for A < 0 and a large ratio the gradient is cut as well, which PPO itself does not do"
SURROGATE_REMARKS: Mapping[str, str] = {
    **dict.fromkeys([f"dual_{c}" for c in _DUAL_BOUNDS], _DUAL_REMARK),
    "weights_clipped_above": "clipped importance weights, detached (CISPO): no token loses its gradient",
    "weights_clipped": "clipped importance weights, detached (CISPO): no token loses its gradient",
    **dict.fromkeys(["soft_gate", "soft_gate_even"], "a soft gate of the ratio in place of the clip (SAPO)"),
    **dict.fromkeys(OTHER_BOUNDS, _BOUNDS_REMARK),
}


def bounded(below: float, above: float) -> Mapping[str, Surrogate]:
    """The clipped surrogate, and the weights of CISPO, with bounds 1 - below and 1 + above."""

    def weights(r: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return _clip(r, low * 0 + 1 - below, high * 0 + 1 + above)

    return {"clipped": _bounded(below, above), "weights_clipped": _weighted_score(weights)}


class Samples(NamedTuple):
    """What surrogates are functions of in a case: ratios `[level, ...]`, old log-probabilities, A `[k, ...]`, clips."""

    log_ratio: Tensor
    old: Tensor
    advantages: Tensor
    clip: tuple[float, float]


def drives(
    names: Sequence[str], cases: Sequence[Samples], more: Mapping[str, Surrogate] = MappingProxyType({})
) -> list[Tensor]:
    """The slopes `[surrogate, level, k, ...]` of minus each surrogate by the log-probability, for all cases at once."""
    table = {**SURROGATES, **OTHER_BOUNDS, **CLIP_IGNORED, **TO_REFERENCE, **more}
    old, a = (torch.cat(x, -1) for x in ([c.old.flatten() for c in cases], [c.advantages.flatten(1) for c in cases]))
    leaf = old + torch.cat([c.log_ratio.flatten(1) for c in cases], -1)[:, None] + torch.zeros_like(a)
    leaf, shape = leaf.requires_grad_(), leaf.shape
    bounds = [torch.cat([torch.full_like(c.old, 1 + side * c.clip[i]).flatten() for c in cases]) for i, side in _SIDES]
    values = (table[name](leaf, old.expand(shape), a.expand(shape), *bounds).sum() for name in names)
    slopes = -torch.stack([torch.autograd.grad(value, leaf)[0] for value in values])
    parts = torch.split(slopes, [c.old.numel() for c in cases], -1)
    return [part.reshape(*part.shape[:3], *c.old.shape) for part, c in zip(parts, cases, strict=True)]


_SIDES = ((0, -1), (1, 1))  # 1 - ε₋ and 1 + ε₊


# --- advantages ---


def batch_advantages(name: str, advantages: Tensor, taken: Tensor) -> Tensor:
    """What a loss makes of the advantages `[..., T]`, by the name of the hypothesis."""
    if name.startswith("normalised"):
        _, ddof, which, guard = name.split("_")
        used = advantages[taken] if which == "taken" else advantages.flatten()
        if guard == "guarded" and used.numel() == 1:
            return advantages
        centred = advantages - used.mean()
        return centred if ddof == "none" else centred / (used.std(correction=int(ddof)) + 1e-8)
    return {
        "given": advantages,
        "absolute": advantages.abs(),
        "signs": advantages.sign(),
        "ones": torch.ones_like(advantages),
        "mean": advantages[taken].mean().expand_as(advantages),
    }[name]


def met(name: str, advantages: Tensor, taken: Tensor) -> Tensor:
    """The advantages `[k, ...]` that a ratio meets: its own, or those of all steps as with `[N, 1]` against `[N]`."""
    if name == "pairs":
        return torch.stack([a.expand_as(advantages) for a in advantages[taken]])
    return batch_advantages(name, advantages, taken)[None]


ADVANTAGES = (
    "given",
    *(f"normalised_{ddof}_taken_{guard}" for ddof in ("0", "1", "none") for guard in ("always", "guarded")),
    *(f"normalised_{ddof}_all_{guard}" for ddof in ("0", "1", "none") for guard in ("always", "guarded")),
    "absolute",
    "signs",
    "ones",
    "mean",
)
_NORMALISED = (
    "the advantages are normalised within the batch: common, but then each weight depends on all actions of the batch"
)
ADVANTAGE_REMARKS = {name: _NORMALISED for name in ADVANTAGES if name.startswith("normalised") and "_taken_" in name}


# --- what goes wrong ---

SIGN = Spec(
    "sign",
    "the sign is wrong: the objective is minimised",
    "The surrogate is to be maximised, so the loss is minus it; here the optimiser makes good actions less probable.",
    "The slope by the log-probability of an action with a positive advantage is positive.",
    (pull("jvmncs/safe-grid-agents", 28), issue("fla-org/flash-linear-attention", 1073)),
    ({"sign": -1.0},),
)
SURROGATE_SPECS = (
    Spec(
        "maximum",
        "min and max are swapped in the clipped objective",
        "The larger of the two terms is taken, or the sign was moved through the minimum without turning it into a "
        "maximum: the gradient is cut where it should not be and kept where it should be cut.",
        "With A > 0 there is a gradient above 1 + ε and none below 1 - ε.",
        (pull("jvmncs/safe-grid-agents", 28), issue("openai/baselines", 1156)),
        values("surrogate", "maximum"),
    ),
    Spec(
        "one_sided",
        "the clip is one-sided: the ratio is bounded above only or below only",
        "One of the two bounds 1 - ε and 1 + ε is missing, so that the ratio runs away for one sign of the advantage.",
        "For one sign of A nothing is ever clipped.",
        (issue("callsys/GMPO", 4),),
        values("surrogate", "upper_only", "lower_only"),
        (_PPO,),
    ),
    Spec(
        "clipped_term_alone",
        "only the clipped term, without the minimum with the unclipped one",
        "Outside the bounds the gradient is 0 on both sides: a step that went the wrong way is never undone.",
        "With A > 0 and a ratio below 1 - ε the gradient is 0.",
        (issue("tensorforce/tensorforce", 106),),
        values("surrogate", "clipped_term"),
    ),
    Spec(
        "minimum_before_advantage",
        "the minimum is taken before multiplying by the advantage",
        "The minimum, or maximum, of the ratio and the clipped ratio is multiplied by A afterwards: for one sign of "
        "A the wrong side is clipped.",
        "It is right for one sign of the advantage only.",
        (issue("takuseno/ppo", 3),),
        values("surrogate", "minimum_first", "maximum_first"),
    ),
    Spec(
        "no_clip",
        "nothing is clipped",
        "The loss is minus ratio times advantage: the ratio is free to leave [1 - ε, 1 + ε].",
        "The gradient is never 0, whatever the ratio.",
        (),
        values("surrogate", "no_clip"),
        (_PPO,),
    ),
    Spec(
        "ratio_inverted",
        "the ratio is inverted: old over new",
        "The exponent is old minus new log-probability: the gradient has the opposite sign, and the bounds hold on "
        "the wrong sides.",
        "At ratio 1 the gradient is minus the right one.",
        (issue("hmomin/PPO-Winter-Run", 1),),
        values("surrogate", "inverted", "inverted_unclipped"),
    ),
    Spec(
        "difference_without_exp",
        "the difference of the log-probabilities without exp",
        "The ratio is the exponential of the difference; the difference itself is 0, not 1, where the policies agree.",
        "At ratio 1 the quantity that is clipped is 0.",
        (issue("godka/Pensieve-PPO", 16),),
        values("surrogate", "difference"),
        (_PPO,),
    ),
    Spec(
        "quotient_of_log_probs",
        "the quotient of the log-probabilities instead of the exponential of their difference",
        "log π divided by log π_old is not the ratio. Since log π_old is negative, its gradient has the wrong sign and "
        "a wrong weight.",
        "At ratio 1 the gradient is A divided by the log-probability.",
        (_CS336,),
        values("surrogate", "log_quotient", "log_quotient_unclipped", "exp_log_quotient"),
    ),
    Spec(
        "quotient_of_probs",
        "the ratio as a quotient of probabilities, which underflows",
        "exp(log π) / exp(log π_old) is 0/0 where both probabilities are too small for the floating-point numbers, "
        "while the exponential of the difference is exact; with an ε in the denominator the gradient is lost instead.",
        "NaN, or no gradient, at log-probabilities near -800 (-100 in single precision).",
        (issue("MorvanZhou/Reinforcement-learning-with-tensorflow", 163),),
        values("surrogate", "quotient", "quotient_eps"),
    ),
    Spec(
        "product_clipped",
        "the product of ratio and advantage is clipped, not the ratio",
        "The clip is applied to ratio times advantage: whether the gradient is cut depends on the size of A.",
        "With a negative advantage everything is clipped.",
        (issue("alexis-jacq/Pytorch-DPPO", 3),),
        values("surrogate", "product_clipped", "product_clipped_alone"),
    ),
    Spec(
        "log_ratio_clipped",
        "the log-ratio is clipped with the bounds of another scale",
        "The difference of the log-probabilities is bounded by ±ε or 1 ± ε. The bounds of the ratio are 1 ± ε, those "
        "of its logarithm log(1 ± ε).",
        "With ε = 0.2 a ratio of 1.21 still has a gradient, or one of 1.1 has none.",
        (issue("callsys/GMPO", 4),),
        values("surrogate", "log_ratio_clipped", "log_ratio_clipped_not_exp", "log_ratio_in_ratio_bounds"),
        (_PPO,),
    ),
    Spec(
        "ratio_missing",
        "the importance ratio is missing: the old log-probabilities are not used",
        "Log-probability times advantage, or the ratio of the policy to its own detached copy: right for the first "
        "update after sampling only, and the clip never binds.",
        "The gradient does not change with the old log-probabilities.",
        (
            pull("meta-pytorch/torchforge", 571),
            issue("tensorforce/tensorforce", 312),
            issue("policy-gradient/GRPO-Zero", 4),
        ),
        values("surrogate", "no_ratio"),
    ),
    Spec(
        "no_gradient",
        "the loss has no gradient",
        "The ratio is detached, computed without gradients, or divided by itself without a detach: nothing is learned.",
        "All slopes are 0.",
        (issue("nikhilbarhate99/PPO-PyTorch", 18), pull("kengz/SLM-Lab", 133)),
        values("surrogate", "no_gradient"),
    ),
    Spec(
        "wrong_bounds",
        "the clip range is wrong: not from 1 - ε to 1 + ε",
        "The bounds are ±ε or ε and 1 + ε: the ratio starts at 1, outside or at the edge of what they allow.",
        "The range does not lie symmetrically around 1.",
        (pull("ChenmienTan/RL2", 21),),
        values("surrogate", "bounds_around_zero", "bounds_from_eps"),
    ),
    Spec(
        "clipped_term_without_advantage",
        "the clipped term is not multiplied by the advantage",
        "The minimum compares ratio times advantage with a bare ratio.",
        "With a large positive A the gradient does not depend on A.",
        (pull("google/trax", 396),),
        values("surrogate", "clipped_without_advantage"),
    ),
    Spec(
        "dual_clip_everywhere",
        "dual clip also for positive advantages",
        "The bound c·A is meant for A < 0. For A > 0 the maximum with c·A is c·A itself unless the ratio exceeds c, "
        "and the gradient is 0.",
        "With A > 0 there is no gradient at all.",
        (issue("thu-ml/tianshou", 433),),
        values("surrogate", "dual_everywhere"),
    ),
)
CLIP_SPECS = (
    Spec(
        "clip_ignored",
        "the clip argument is ignored",
        "The bounds are 0.8 and 1.2 whatever ε is passed.",
        "The slopes do not change with the argument.",
        (),
        values("surrogate", "clip_ignored"),
        (_PPO,),
    ),
)
LEVEL_SPECS = (
    Spec(
        "ratio_of_the_sequence",
        "one ratio for the whole sequence instead of one for each step",
        "The log-probabilities of a sequence are summed, or averaged, before the ratio is taken and clipped, where "
        "PPO has a ratio for each action. (GSPO does so on purpose.)",
        "With one step in each row it is right.",
        (issue("walkinglabs/hands-on-modern-rl", 75),),
        values("level", "product", "geometric_mean"),
    ),
)
ADVANTAGE_SPECS = (
    Spec(
        "absolute_advantage",
        "the absolute value of the advantage",
        "Bad actions are reinforced like good ones.",
        "The slope has the same sign for A and -A.",
        (),
        values("advantage", "absolute"),
        (_PPO,),
    ),
    Spec(
        "sign_of_advantage",
        "only the sign of the advantage is used",
        "All good actions count alike, and all bad ones: the size of the advantage is lost.",
        "Doubling A changes nothing.",
        (),
        values("advantage", "signs"),
        (_PPO,),
    ),
    Spec(
        "advantages_not_used",
        "the advantages are not used",
        "Every action is reinforced, whatever came of it.",
        "The slope does not change with A.",
        (),
        values("advantage", "ones"),
        (_PPO,),
    ),
    Spec(
        "mean_advantage",
        "the mean of the advantages instead of each one's own",
        "The advantages are averaged before they are multiplied by the ratios: every action gets the same credit.",
        "It is right with one step.",
        (issue("Omegastick/pytorch-cpp-rl", 14),),
        values("advantage", "mean"),
    ),
    Spec(
        "broadcast",
        "broadcasting [N, 1] against [N]: each ratio meets the advantages of all steps",
        "The product has N × N entries: each ratio is multiplied with, and clipped for, the advantages of all steps of "
        "the batch.",
        "It is right with one step. All steps with the same ratio have the same slope.",
        (issue("pytorch/rl", 1243), issue("PacktPublishing/Deep-Reinforcement-Learning-Hands-On", 74)),
        values("advantage", "pairs"),
    ),
    Spec(
        "normalised_with_padding",
        "padding enters the normalisation of the advantages",
        "Mean and standard deviation are taken over all places of the batch, those behind the mask included.",
        "The result changes with the padding.",
        (pull("areal-project/AReaL", 1346), pull("instadeepai/Mava", 441)),
        values("advantage", *(name for name in ADVANTAGES if "_all_" in name)),
    ),
)
TO_REFERENCE_SPEC = Spec(
    "ratio_to_the_reference",
    "the ratio is taken to the reference policy, not to the one that drew the samples",
    "The importance ratio corrects for the policy that the samples are from. With the reference in its place it weighs "
    "them wrongly, and the clip keeps the policy near the reference.",
    "The slopes change with the reference where the coefficient of the penalty is 0.",
    (pull("huggingface/trl", 2837),),
    values("surrogate", *TO_REFERENCE),
)
ENTROPY_SPEC = Spec(
    "entropy_sign",
    "the entropy is penalised: the sign of its term is wrong",
    "A bonus of entropy is subtracted from a loss. Added to it, the optimiser makes the policy deterministic.",
    "The entropy falls faster with a larger coefficient.",
    (pull("pukkapies/dl-imperial-maths", 8), issue("LuEE-C/PPO-Keras", 4)),
    ({"entropy": 0.05},),
)


# --- the cases ---


def ratios_around(low: float, high: float) -> list[float]:
    """Ratios on both sides of each bound, close and far; none at a kink."""
    found = [1 + x * side for x in (1.3, 0.25, 0.75, 0.9, 1.1, 2.25) for side in (high, -low)]
    return [ratio for ratio in found if ratio > 0.05] + [0.1, 4.0, 12.0]


# --- bounds that were never stated ---

Slope = Callable[[float, float], float]


def fitting_bounds(trial: Trial, clip: tuple[float, float], slope: Slope, space: Callable[..., Space]) -> str:
    """Which bounds would make a function right that does not take them, in words; empty if none.

    Args:
        trial: its answers, for which no known mistake accounts.
        clip: the bounds that were assumed.
        slope: the slope at a ratio, for A = 1 or -1.
        space: from the cases, the facts, and the surrogates with other bounds to the hypotheses.
    """
    for bounds in (cuts(slope), _caps(slope)):
        high, low = bounds.get(1.0, 1 + clip[1]) - 1, 1 - bounds.get(-1.0, 1 - clip[0])
        if not bounds or (abs(high - clip[1]) < 1e-6 and abs(low - clip[0]) < 1e-6):
            continue
        hypotheses = quietly(space, trial.bench.plain, trial.form.facts, bounded(low, high))
        known = hypotheses.explained(trial.counted)
        if known and not known.mistakes:
            what = "the ratio" if known.names[0] == "clipped" else "detached weights (CISPO)"
            return f"it clips {what} at {1 - low:.4g} and {1 + high:.4g}: give clip=({low:.4g}, {high:.4g})"
    return ""


def cuts(slope: Slope, largest: float = 50.0) -> dict[float, float]:
    """Beyond which ratio the gradient is cut, above for A = 1 and below for A = -1, as far as it is at all."""
    found = {}
    for a in (1.0, -1.0):
        inside, outside = 0.0, math.log(largest) * a
        if abs(slope(math.exp(outside), a)) > 1e-9 or abs(slope(1.0, a)) < 1e-9:
            continue
        for _ in range(30):
            middle = (inside + outside) / 2
            if abs(slope(math.exp(middle), a)) > 1e-9:
                inside = middle
            else:
                outside = middle
        found[a] = math.exp(inside)
    return found


def _caps(slope: Slope, largest: float = 50.0) -> dict[float, float]:
    """The bounds of a detached weight: what the slope is at very large and very small ratios, for A = 1."""
    first = abs(slope(1.0, 1.0))
    if first < 1e-9:
        return {}
    high, higher = (abs(slope(ratio, 1.0)) / first for ratio in (largest, 2 * largest))
    low = abs(slope(1 / largest, 1.0)) / first
    return {1.0: high, -1.0: low} if high > 1 and math.isclose(high, higher, rel_tol=1e-6) else {}
