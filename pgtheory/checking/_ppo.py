"""Is this the clipped loss of PPO? And if not, which known mistake is it?"""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgtheory.checking._engine import call_quietly, misunderstood
from pgtheory.checking._forms import (
    CONTAINERS,
    Binding,
    Container,
    Misfit,
    Role,
    bind,
    in_one_line,
    normalised,
    parameters_of,
)
from pgtheory.checking._losses import (
    Attempt,
    Axis,
    Explanation,
    Grid,
    Spec,
    as_logits,
    as_mistakes,
    attempt,
    axis_of,
    explanations,
    given,
    nearest_right,
    shown,
    slopes,
    value_slopes,
)
from pgtheory.checking.report import Report, Source, arxiv, issue, pull

_F64 = torch.float64
_PPO = arxiv("Schulman et al., 2017, eq. (7) (the right form)", "1707.06347")
_CS336 = Source(
    "stanford-cs336/spring2025-lectures, lecture_17.py",
    "https://github.com/stanford-cs336/spring2025-lectures/blob/bbdbc9c511c11310efc2f9600f4f6e5dcf1c9066/lecture_17.py",
)

PLAIN_NAMES = (
    "log_prob logprobs logprob logp logps logpa logpas log_p log_ps log_pi logpi log_pis lp lps log_probas log_proba "
    "selected_log_probs action_log_probs action_logprobs policy_log_probs policy_logprobs policy_logps logprobas "
    "pi_log_probs pi_logprobs pi_logps pi_logp per_token_logps token_log_probs actor_log_probs actor_logprobs "
    "log_action_probs model_logprobs model_log_probs completion_logps response_log_probs student_log_probs log_probs_pi"
)
_PLAIN = tuple(dict.fromkeys(["log_probs", *PLAIN_NAMES.split()]))


def affixed(*affixes: str) -> str:
    found = [f"{a}_{name}" for a in affixes for name in _PLAIN] + [f"{name}_{a}" for a in affixes for name in _PLAIN]
    glued = [f"{a}{name}" for a in affixes for name in _PLAIN if "_" not in name]
    return " ".join([*found, *glued, *(f"{name}{a}" for a in affixes for name in _PLAIN if "_" not in name)])


NEW_NAMES = affixed("new", "current", "cur", "curr", "theta", "now", "updated")
OLD_NAMES = affixed("old", "prev", "previous", "behavior", "behaviour", "sampling", "sampled", "rollout", "fixed")
OLD_NAMES += " " + affixed("mu", "generation", "gen", "sampler", "beta", "collected", "stored", "orig", "original")
MASK_NAMES = (
    "masks valid valid_mask loss_mask response_mask action_mask padding_mask attention_mask completion_mask "
    "padding_masks response_masks completion_masks token_mask assistant_mask action_masks eos_mask valids is_valid m"
)
CLIP_NAMES = (
    "eps epsilon clip_eps clip_epsilon clip_range clip_coef clip_ratio eps_clip cliprange clip_param clip_value "
    "clipping ppo_clip epsilon_clip clip_coefficient clip_threshold e clip_parameter cliprange_ppo ratio_clip clipeps"
)
_CLIP_OR_STABILISER = ("eps", "epsilon", "e")
_LARGE = 1e-2  # an ε that is larger is a clip
STABILISER_NAMES = (
    "adv_eps adv_epsilon advantage_eps advantage_epsilon std_eps eps_std std_epsilon norm_eps eps_norm tiny small "
    "stability_eps numerical_eps eps_adv"
)
LOW_NAMES = (
    "epsilon_low eps_low clip_eps_low clip_range_low cliprange_low clip_ratio_low low low_clip low_eps clip_low_eps "
    "ratio_clip_min eps_clip_low eps_min clip_epsilon_low"
)
HIGH_NAMES = (
    "epsilon_high eps_high clip_eps_high clip_range_high cliprange_high clip_ratio_high high high_clip high_eps "
    "clip_high_eps ratio_clip_max eps_clip_high eps_max clip_epsilon_high"
)
RATIO_NAMES = (
    "ratios prob_ratio prob_ratios prob_ratios_t importance_ratio importance_ratios is_ratio rho rhos p_ratios"
)
ADVANTAGE_NAMES = (
    "advantage adv advs adv_t a gae gaes advantage_estimates advantages_t advt advants a_hat ahat delta advantage_t "
    "adv_targ td_error"
)
LOGIT_NAMES = "new_logits policy_logits logit action_logits scores actor_logits current_logits"
COMMON_ROLES = (
    Role("mask", MASK_NAMES),
    Role("clip_low", LOW_NAMES),
    Role("clip_high", HIGH_NAMES),
    Role("clip", CLIP_NAMES),
    Role("stabiliser", STABILISER_NAMES),
    Role("logits", LOGIT_NAMES),
    Role("old_logits", "logits_old prev_logits behavior_logits"),
    Role("actions", "action acts act labels tokens_taken token_ids input_ids completion_ids response_ids"),
)
ROLES = (
    Role("log_probs", f"{PLAIN_NAMES} {NEW_NAMES}", required=True),
    Role("old_log_probs", OLD_NAMES, required=True),
    Role("advantages", ADVANTAGE_NAMES, required=True),
    Role("ratio", RATIO_NAMES),
    *COMMON_ROLES,
    Role("probs", "prob pi new_probs new_prob pi_a pi_new action_probs action_prob policy_probs p_new"),
    Role("old_probs", "old_prob prob_a pi_old probs_old prob_old old_action_probs p_old"),
    Role("neg_log_probs", "neglogp neglogpac neglogprobs neglogprob nlp neg_log_prob neglogps"),
    Role("old_neg_log_probs", "oldneglogp oldneglogpac old_neglogp old_neglogprobs old_neg_log_prob old_neglogpac"),
)


def _with_stabilisers(function: Callable[..., Any], roles: Sequence[Role]) -> Sequence[Role]:
    """The roles, where an `eps` that keeps a denominator from 0 is not taken for the clip."""
    try:
        parameters = {normalised(p.name): p.default for p in parameters_of(function)}
    except (TypeError, ValueError):
        return roles
    doubtful = {normalised(name): name for name in _CLIP_OR_STABILISER}
    clips = {normalised(name) for name in f"clip {CLIP_NAMES} {LOW_NAMES}".split()} - set(doubtful)
    given = {doubtful[name]: default for name, default in parameters.items() if name in doubtful}
    beside = bool(clips & set(parameters)) or any(_is_number(x) and x > _LARGE for x in given.values())
    found = [name for name, default in given.items() if _is_stabiliser(default, beside)]
    kept = [name for name in CLIP_NAMES.split() if name not in found]
    more = {"clip": " ".join(kept), "stabiliser": " ".join([*STABILISER_NAMES.split(), *found])}
    return [role._replace(synonyms=more.get(role.name, role.synonyms)) for role in roles]


def _is_number(x: Any) -> bool:
    return isinstance(x, float | int) and not isinstance(x, bool)


def _is_stabiliser(default: Any, beside: bool) -> bool:
    """Whether an `eps` is one: tiny by default, or `beside` another clip and not as large as one."""
    if _is_number(default):
        return bool(default <= (_LARGE if beside else 1e-4))
    return beside and default is inspect.Parameter.empty


def bound(function: Callable[..., Any], roles: Sequence[Role]) -> Binding:
    """The binding of a loss; beside a new log-probability, one without an adjective is the old one."""
    roles = _with_stabilisers(function, roles)
    binding = bind(function, roles)
    doubled = [*binding.positional, *binding.keywords.values()].count("log_probs") > 1
    if not doubled:
        return binding
    new = {normalised(name) for name in NEW_NAMES.split()}
    plain = f"{next(role.synonyms for role in roles if role.name == 'old_log_probs')} {' '.join(_PLAIN)}"
    plain = " ".join(name for name in plain.split() if normalised(name) not in new)
    table = {"log_probs": NEW_NAMES, "old_log_probs": plain}
    return bind(
        function,
        [
            Role(
                "log probs" if role.name == "log_probs" else role.name,
                table.get(role.name, role.synonyms),
                role.required,
            )
            for role in roles
        ],
    )


# --- the factors of a clipped loss -----------------------------------------------------------------------------------

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


SURROGATES: Mapping[str, Surrogate] = {
    "clipped": _of_ratio(_standard),
    "dual_3": _of_ratio(lambda r, a, low, high: _dual(r, a, low, high, 3.0)),
    "dual_8": _of_ratio(lambda r, a, low, high: _dual(r, a, low, high, 8.0)),
    "weights_clipped_above": _weighted_score(lambda r, low, high: torch.minimum(r, high)),
    "weights_clipped": _weighted_score(_clip),
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
# What ignores the ε that it is given.
_CLIP_IGNORED: Mapping[str, Surrogate] = {"clip_ignored": _bounded(0.2, 0.2)}
# Other bounds than those that the check assumes, where a function does not take them.
_BOUNDS = (0.01, 0.1, 0.2, 0.3)
OTHER_BOUNDS: Mapping[str, Surrogate] = {
    f"bounds_{low}_{high}": _bounded(low, high) for low in _BOUNDS for high in _BOUNDS if (low, high) != (0.2, 0.2)
}
_BOUNDS_REMARK = "it clips at other bounds than those that were assumed: give its own by clip=..."
SURROGATE_REMARKS: Mapping[str, str] = {
    "dual_3": "dual clip: for A < 0 and a large ratio the gradient is cut as well, which PPO itself does not do",
    "dual_8": "dual clip: for A < 0 and a large ratio the gradient is cut as well, which PPO itself does not do",
    "weights_clipped_above": "clipped importance weights, detached (CISPO): no token loses its gradient",
    "weights_clipped": "clipped importance weights, detached (CISPO): no token loses its gradient",
    **dict.fromkeys(OTHER_BOUNDS, _BOUNDS_REMARK),
}
LEVELS = ("token", "product", "geometric_mean")


def level_ratios(log_ratio: Tensor, taken: Tensor) -> Tensor:
    """The log-ratios of a token, of its sequence, and the mean of these over the sequence: `[3, ...]`."""
    masked = torch.where(taken, log_ratio, 0.0)
    total = masked.sum(-1, keepdim=True)
    mean = total / taken.sum(-1, keepdim=True).clamp(min=1)
    return torch.stack([log_ratio, total.expand_as(log_ratio), mean.expand_as(log_ratio)])


def drives(names: Sequence[str], log_ratio: Tensor, old: Tensor, a: Tensor, bounds: tuple[Tensor, Tensor]) -> Tensor:
    """The slopes of minus each surrogate by the log-probability, for ratios `[level, 1, ...]`, A `[advantage, ...]`."""
    table = {**SURROGATES, **OTHER_BOUNDS, **_CLIP_IGNORED}
    leaf = (old + log_ratio + torch.zeros_like(a)).requires_grad_()
    shape = leaf.shape
    values = [table[name](leaf, old.expand(shape), a.expand(shape), *bounds).sum() for name in names]
    return -torch.stack([torch.autograd.grad(value, leaf)[0] for value in values])


class Batch(NamedTuple):
    """Numbers that a case consists of; `taken` is where the mask is True."""

    log_probs: Tensor
    old: Tensor
    advantages: Tensor
    taken: Tensor


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


def _met(name: str, advantages: Tensor, taken: Tensor) -> Tensor:
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
AVERAGES = ("steps", "episodes", "sum", "episode_means", "padded", "all_mean", "all_sum", "all_episodes")
_AVERAGE_REMARKS = {
    "episodes": "it sums over the steps of an episode and averages over episodes, not over the steps",
    "sum": "it sums over the steps: its gradient grows with the size of the batch",
    "episode_means": "it averages over the steps of each episode first: steps of long episodes count less",
}


def weights_of(name: str, taken: Tensor) -> Tensor:
    """The weight of each place `[B, T]` in the loss, by the name of the average."""
    used, every = taken.to(_F64), torch.ones_like(taken, dtype=_F64)
    return {
        "steps": used / used.sum(),
        "episodes": used / len(used),
        "sum": used,
        "episode_means": used / used.sum(-1, keepdim=True) / len(used),
        "padded": used / used.numel(),
        "all_mean": every / used.numel(),
        "all_sum": every,
        "all_episodes": every / len(used),
    }[name]


# --- the known mistakes ----------------------------------------------------------------------------------------------


def values(field: str, *names: str) -> tuple[Mapping[str, Any], ...]:
    return tuple({field: name} for name in names)


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
        (issue("callsys/GMPO", 4), _PPO),
        values("surrogate", "upper_only", "lower_only"),
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
        (_PPO,),
        values("surrogate", "no_clip"),
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
        (issue("godka/Pensieve-PPO", 16), _PPO),
        values("surrogate", "difference"),
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
        (issue("callsys/GMPO", 4), _PPO),
        values("surrogate", "log_ratio_clipped", "log_ratio_clipped_not_exp", "log_ratio_in_ratio_bounds"),
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
_CLIP_SPECS = (
    Spec(
        "clip_ignored",
        "the clip argument is ignored",
        "The bounds are 0.8 and 1.2 whatever ε is passed.",
        "The slopes do not change with the argument.",
        (_PPO,),
        values("surrogate", "clip_ignored"),
    ),
)
_LEVEL_SPECS = (
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
        (_PPO,),
        values("advantage", "absolute"),
    ),
    Spec(
        "sign_of_advantage",
        "only the sign of the advantage is used",
        "All good actions count alike, and all bad ones: the size of the advantage is lost.",
        "Doubling A changes nothing.",
        (_PPO,),
        values("advantage", "signs"),
    ),
    Spec(
        "advantages_not_used",
        "the advantages are not used",
        "Every action is reinforced, whatever came of it.",
        "The slope does not change with A.",
        (_PPO,),
        values("advantage", "ones"),
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
_AVERAGE_SPECS = (
    Spec(
        "mean_over_padding",
        "the mean is taken over the padding as well",
        "The masked sum is divided by the number of all places, not by that of the steps taken: the gradient shrinks "
        "with the amount of padding.",
        "More padding makes the gradient smaller.",
        (pull("Stable-Baselines-Team/stable-baselines3-contrib", 78), pull("instadeepai/Mava", 441)),
        values("average", "padded"),
    ),
    Spec(
        "mask_ignored",
        "the mask is ignored: padding is trained on",
        "What stands behind the end of an episode enters the loss like a step that was taken.",
        "There are slopes at places where the mask is False.",
        (pull("areal-project/AReaL", 1346), pull("instadeepai/Mava", 441)),
        values("average", "all_mean", "all_sum", "all_episodes"),
    ),
)
_SPECS = (SIGN, *SURROGATE_SPECS, *_CLIP_SPECS, *_LEVEL_SPECS, *ADVANTAGE_SPECS, *_AVERAGE_SPECS)


def _loss(
    surrogate: str = "clipped",
    level: str = "token",
    advantage: str = "given",
    average: str = "steps",
    sign: float = 1.0,
) -> Callable[..., Tensor]:
    """The loss that consists of these factors."""

    def loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2) -> Tensor:
        a = _met(advantage, advantages, mask)
        ratios = level_ratios(log_probs - old_log_probs, mask)[LEVELS.index(level)]
        bounds = (torch.tensor(1.0 - clip, dtype=_F64), torch.tensor(1.0 + clip, dtype=_F64))
        value = {**SURROGATES, **_CLIP_IGNORED}[surrogate](old_log_probs + ratios, old_log_probs, a, *bounds)
        return -sign * (weights_of(average, mask) * value.mean(0)).sum()

    return loss


MISTAKES = as_mistakes("ppo", _SPECS, _loss)


def _axes(*, fixed_bounds: bool) -> tuple[Axis, ...]:
    surrogates = (*SURROGATES, *(OTHER_BOUNDS if fixed_bounds else _CLIP_IGNORED))
    return (
        axis_of(surrogates, "surrogate", _SPECS, SURROGATE_REMARKS),
        axis_of(LEVELS, "level", _SPECS, {}),
        axis_of((*ADVANTAGES, "pairs"), "advantage", _SPECS, ADVANTAGE_REMARKS),
        axis_of(AVERAGES, "average", _SPECS, _AVERAGE_REMARKS),
    )


# --- the cases -------------------------------------------------------------------------------------------------------


class _Case(NamedTuple):
    batch: Batch
    clip: tuple[float, float]


def _cases(roles: frozenset[str], clip: tuple[float, float]) -> list[_Case]:
    """Single transitions first, then batches, then what is hidden behind a mask."""
    others = [tuple(1.5 * x for x in clip)] if roles & {"clip", "clip_low"} else []
    found = [_single(ratio, a, clip) for ratio, a in _transitions(*clip)]
    found += [_single(r, a, (e[0], e[1])) for e in others for r, a in _transitions(e[0], e[1])[2:14]]
    if not roles & {"probs", "old_probs"}:
        small = ((math.exp(0.125), 1.0), (math.exp(-0.125), -1.0))
        found += [_single(ratio, a, clip, old=-800.0) for ratio, a in small]
    found += [_case(2, 1, 2, [2], clip), _case(3, 1, 3, [3], clip), _case(4, 3, 2, [2, 2, 2], clip)]
    if "mask" in roles:
        padded = ((2, 2, [1, 2]), (2, 3, [3, 1]), (2, 5, [3, 1]), (3, 4, [2, 4, 1]))
        found += [_case(10 + i, b, t, lengths, clip) for i, (b, t, lengths) in enumerate(padded)]
    return found


def ratios_around(low: float, high: float) -> list[float]:
    """Ratios on both sides of each bound, close and far; none at a kink."""
    found = [1 + x * side for x in (1.3, 0.25, 0.75, 0.9, 1.1, 2.25) for side in (high, -low)]
    return [ratio for ratio in found if ratio > 0.05] + [0.1, 4.0, 12.0]


def _transitions(low: float, high: float) -> list[tuple[float, float]]:
    """Ratios and advantages: at 1, inside, beyond each bound, and far out; none near a kink."""
    first = [(1.0, 1.0), (1.0, -1.0)]
    rest = [(r, a) for r in ratios_around(low, high) for a in (2.0, -1.5)]
    return first + rest


def _single(ratio: float, a: float, clip: tuple[float, float], old: float | None = None) -> _Case:
    behind = torch.tensor([[(-0.75 if ratio < 1.9 else -3.25) if old is None else old]], dtype=_F64)
    one = torch.ones(1, 1, dtype=_F64)
    return _Case(Batch(behind + math.log(ratio), behind, a * one, one > 0), clip)


def _case(seed: int, rows: int, steps: int, lengths: list[int], clip: tuple[float, float]) -> _Case:
    """A batch of fixed numbers, with others behind the mask."""
    taken = torch.arange(steps) < torch.tensor(lengths)[:, None]
    place = torch.arange(rows * steps, dtype=_F64).reshape(rows, steps) + 1.7 * seed
    old = -1.5 - (1.3 * place).cos() / 2
    log_ratio = 0.55 * (2.1 * place).sin()
    advantages = (10 * (3.7 * place).cos() + 1.0).round() / 4
    new = torch.where(taken, old + log_ratio, old - 0.4)
    hidden = (advantages * 3.0 + 20.0) * torch.where(place.floor() % 2 == 0, 1.0, -1.0)
    behind, a = torch.where(taken, old, -0.7), torch.where(taken, advantages, hidden)
    return _Case(Batch(new, behind, a, taken), clip)


def _grid(case: _Case, surrogates: Sequence[str]) -> Grid:
    log_probs, old, advantages, taken = case.batch
    of_each = [batch_advantages(name, advantages, taken) for name in ADVANTAGES]
    bounds = (torch.tensor(1 - case.clip[0], dtype=_F64), torch.tensor(1 + case.clip[1], dtype=_F64))
    ratios = level_ratios(log_probs - old, taken)[:, None]
    drive = drives(surrogates, ratios, old, torch.cat([torch.stack(of_each), _met("pairs", advantages, taken)]), bounds)
    own, crossed = drive[:, :, : len(of_each)], drive[:, :, len(of_each) :]
    drive = torch.cat([own, crossed.mean(2, keepdim=True)], 2)
    return Grid(drive, torch.stack([weights_of(name, taken) for name in AVERAGES]), taken)


# What the cases depend on.
_MATTER = frozenset(["mask", "clip", "clip_low", "probs", "old_probs"])


@functools.lru_cache(maxsize=4)
def _setting(
    roles: frozenset[str], clip: tuple[float, float]
) -> tuple[Sequence[_Case], Sequence[Axis], Sequence[Grid]]:
    """The cases for a function that takes these roles, and all hypotheses about it."""
    cases, axes = _cases(roles, clip), _axes(fixed_bounds=not roles & {"clip", "clip_low"})
    return cases, axes, [call_quietly(_grid, case, axes[0].names) for case in cases]


# --- the forms -------------------------------------------------------------------------------------------------------


def _arranged(value: Tensor, layout: str) -> Tensor:
    if layout == "[N]":
        return value.flatten()
    return value.flatten()[:, None] if layout == "[N, 1]" else value


def _logits(log_probs: Tensor, actions: Tensor) -> Tensor:
    """Logits `[N, V]` beside actions `[N, 1]`, as `gather` likes them; otherwise with an axis V more."""
    if log_probs.ndim == 2 and log_probs.shape[-1] == 1:
        return as_logits(log_probs[:, 0], actions[:, 0])
    return as_logits(log_probs, actions)


def role_values(log_probs: Tensor, old: Tensor, clip: tuple[float, float]) -> dict[str, Any]:
    """What a function may take instead of, or beside, the two log-probabilities."""
    actions = (torch.arange(log_probs.numel()) % 3).reshape(log_probs.shape)
    return {
        "log_probs": log_probs,
        "log probs": log_probs,
        "old_log_probs": old,
        "ratio": (log_probs - old).exp(),
        "logits": _logits(log_probs, actions),
        "old_logits": _logits(old, actions),
        "actions": actions,
        "probs": log_probs.exp(),
        "old_probs": old.exp(),
        "neg_log_probs": -log_probs,
        "old_neg_log_probs": -old,
        "clip": clip[0],
        "clip_low": clip[0],
        "clip_high": clip[1],
        "stabiliser": 1e-8,
    }


class Way(NamedTuple):
    """How arguments are given: their arrangement, their container, what a mask is made of."""

    layout: str
    container: Container
    mask_kind: str

    def __str__(self) -> str:
        return f"{self.container} {self.layout}" + ("" if self.mask_kind == "bool" else f", mask as {self.mask_kind}")


def ways(layouts: Iterable[str], binding: Binding) -> Iterator[Way]:
    """The ways in which a function may be called, the most usual first."""
    kinds = ("bool", "float", "int") if "mask" in binding.roles else ("bool",)
    for layout in layouts:
        for container in CONTAINERS:
            for kind in kinds:
                yield Way(layout, container, kind)


def _answer(function: Callable[..., Any], binding: Binding, way: Way, notes: set[str]) -> Callable[[_Case], Tensor]:
    """The slopes of a function in a case, in the canonical layout."""

    def answer(case: _Case) -> Tensor:
        batch = case.batch
        taken = _arranged(batch.taken, way.layout)
        constants = {"advantages": _arranged(batch.advantages, way.layout), "mask": taken}

        def call(log_probs: Tensor) -> Any:
            new, old = (_arranged(x, way.layout) for x in (log_probs, batch.old))
            values = role_values(new, old, case.clip) | constants
            return binding.call(
                function, {role: given(values[role], way.container, way.mask_kind) for role in binding.roles}
            )

        def reduce(output: Tensor) -> Tensor | None:
            return output.reshape(taken.shape)[taken].mean() if output.numel() == taken.numel() else None

        run = slopes if way.container.startswith("torch") else value_slopes
        return run(call, batch.log_probs, reduce, notes)

    return answer


class Finding(NamedTuple):
    """What the slopes of a function say in one way of calling it."""

    attempt: Attempt
    found: Sequence[Explanation]
    notes: frozenset[str]
    way: Way

    def told(self, axes: Sequence[Axis]) -> bool:
        """Whether it is worth looking at: code for numbers has no gradient if it is called with tensors."""
        return not self.found or self.found[0].mistakes != ("no_gradient",)


def check_ppo(
    function: Callable[..., Any], *, clip: float | tuple[float, float] = 0.2, form: str | None = None
) -> Report:
    r"""Check a loss that should be the clipped surrogate of PPO, to be minimised.

    Equations :eq:`eq-ppo-clip` and :eq:`eq-ppo-loss`. The slopes of the loss by the log-probabilities are compared, not
    its value. The function may be `loss(log_probs, old_log_probs, advantages)`, with a `mask` of the steps taken and a
    `clip` if it likes, on `[N]`, `[N, T]` or `[N, 1]`; by the names of its arguments it may take the `ratio`, or
    `logits` and `actions`, instead of log-probabilities, and the two bounds as `clip_low` and `clip_high`. It returns
    one number, or one for each step, alone or first in a tuple, or under `loss` in a dictionary. Mean over the steps,
    mean over episodes and sum are all right.

    Args:
        function: the implementation.
        clip: the :math:`\varepsilon` of a function that does not take it, or the pair of both.
        form: only try forms whose name contains this text, such as `"[N, T]"` or `"numpy"`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called in any form, or does not return a loss.

    Source:
        Schulman, Wolski, Dhariwal, Radford and Klimov, "Proximal Policy Optimization Algorithms", 2017, eq. (7).

    Example:
        >>> def loss(log_probs, old_log_probs, advantages):
        ...     ratio = (log_probs - old_log_probs).exp()
        ...     return -(ratio.clamp(0.8, 1.2) * advantages).mean()
        >>> print(check_ppo(loss).headline)
        check_ppo: WRONG, a known mistake: only the clipped term, without the minimum with the unclipped one
    """
    pair = clip if isinstance(clip, tuple) else (clip, clip)
    misfits: dict[str, str] = {}
    findings: list[Finding] = []
    binding = _binding_or_misfit(function, misfits)
    cases, axes, grids = _setting(binding.roles & _MATTER if binding else frozenset(), pair)
    for way in _usable(binding, form):
        assert binding is not None
        told = [f for f in findings if f.told(axes)]
        if told and (way.layout == "[N, 1]" or way.layout in {f.way.layout for f in told}):
            continue
        notes: set[str] = set()
        tried = attempt(str(way), _answer(function, binding, way, notes), cases)
        if isinstance(tried, Exception):
            misfits[str(way)] = in_one_line(tried)
            continue
        found = explained(axes, grids, tried, unit=True)
        findings.append(Finding(tried, found, frozenset(notes), way))
        if found and not found[0].mistakes:
            break
    if not findings:
        raise misunderstood("ppo", misfits)
    return _report(best(findings, axes), axes, cases, grids, binding)


def _binding_or_misfit(function: Callable[..., Any], misfits: dict[str, str]) -> Binding | None:
    try:
        return bound(function, ROLES)
    except Misfit as error:
        misfits["(its signature)"] = str(error)
        return None


def _usable(binding: Binding | None, form: str | None) -> Iterator[Way]:
    if binding:
        layouts = ("[N, T]", "[N]", "[N, 1]") if "mask" in binding.roles else ("[N]", "[N, T]", "[N, 1]")
        yield from (way for way in ways(layouts, binding) if form is None or form in str(way))


def explained(axes: Sequence[Axis], grids: Sequence[Grid], tried: Attempt, *, unit: bool) -> list[Explanation]:
    """The explanations of an attempt; none if it raised an exception in some case."""
    answers = [answer for answer in tried.answers if isinstance(answer, Tensor)]
    return explanations(axes, grids, answers, unit=unit) if len(answers) == len(tried.answers) else []


def best(findings: Sequence[Finding], axes: Sequence[Axis]) -> Finding:
    """The finding with the fewest mistakes; an unexplained one only if there is no other."""
    return min(findings, key=lambda f: len(f.found[0].mistakes) if f.found else math.inf)


def _report(
    finding: Finding, axes: Sequence[Axis], cases: Sequence[_Case], grids: Sequence[Grid], binding: Binding | None
) -> Report:
    tried, found, notes, way = finding
    keys = found[0].mistakes if found else ()
    remarks = (*(found[0].remarks if found else ()), *sorted(notes))
    if found and not keys:
        return Report("ppo", True, remarks=remarks, form=tried.name, n_cases=len(cases))
    fault, expected = nearest_right(axes, grids, tried.answers, unit=True) or (0, torch.tensor(torch.nan))
    got = tried.answers[fault]
    counterexample = shown(_inputs(cases[fault], binding), expected, got, lambda x: _viewed(x, way.layout))
    named = tuple(mistake for key in keys for mistake in MISTAKES if mistake.key == f"ppo.{key}")
    return Report("ppo", False, named, remarks, counterexample, {}, tried.name, len(cases))


def _inputs(case: _Case, binding: Binding | None) -> dict[str, Any]:
    values = role_values(case.batch.log_probs, case.batch.old, case.clip) | {
        "advantages": case.batch.advantages,
        "mask": case.batch.taken,
    }
    names = {role for role in (binding.roles if binding else ()) if role in values} - {"logits", "old_logits"}
    return {role.strip(): values[role] for role in values if role in names | {"log_probs", "old_log_probs"}}


def _viewed(value: Any, layout: str) -> Any:
    return _arranged(value, layout) if isinstance(value, Tensor) else value
