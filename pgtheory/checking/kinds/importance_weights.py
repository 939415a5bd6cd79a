"""Are these truncated or masked importance weights? And if not, which known mistake is it?"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Call, Inputs, Layout, Misfit, as_tensor, parts_of
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.names import affixed, normalised
from pgtheory.checking.report import Mistake, Report, Source, arxiv, issue, pull
from pgtheory.checking.verdicts import Trial

F64 = torch.float64
_BOUNDS = frozenset(["cap", "low"])
_OVERFLOWS = "it is not finite, or is cut off, where a log-ratio is in the hundreds"
_REACHED = "it treats a ratio of exactly the bound in its own way"
_FULLY_MASKED = "it fails where no token of a sequence counts"
_YAO = Source("Yao et al., 2025", "https://fengyao.notion.site/off-policy-rl")
_IONIDES = Source("Ionides, 2008", "https://doi.org/10.1198/106186008X320456")


def check_importance_weights(
    function: Callable[..., Any] | None = None,
    *,
    cap: float = 2.0,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check weights that correct for a sampler other than the policy: truncated or masked importance sampling.

    Equation :eq:`eq-bounded-weights`. The function may be `fn(log_probs, sampler_log_probs, cap)` on `[B, T]` or `[T]`,
    with a `mask` of the tokens that count and a lower bound `low` if it likes; it may take the `log_ratio` instead. It
    returns a weight for each token or each sequence, alone, first in a tuple, or in a dictionary. The ratio of a token,
    the product over the sequence and its geometric mean are all right, truncated (min(w, cap)) or masked (0 beyond the
    cap), and the report says which it is. The weights carry no gradient: `log_probs` are given with one. Where a
    function has `old_log_probs` of the trainer beside those of the sampler, these are given without one.

    Args:
        function: the implementation.
        cap: the bound of a function that does not take it.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.log_probs - x.sampler_log_probs)`; they
            are `x.log_probs`, `x.sampler_log_probs`, `x.mask`, `[B, T]`, `x.cap`, and what follows from them.
        layout: the order of axes, such as `"[T]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"x": "log_probs"}`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called, or does not return one weight for each token or sequence.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Ionides, "Truncated Importance Sampling", 2008; Yao et al., "Your Efficient RL Framework Secretly Brings You
        Off-Policy RL Training", 2025.

    Example:
        >>> def weights(log_probs, sampler_log_probs, cap):
        ...     return (log_probs - sampler_log_probs).exp().clamp(max=cap)
        >>> print(check_importance_weights(weights).headline)
        check_importance_weights: WRONG, a known mistake: the weights carry a gradient: the detach is missing
    """
    return _check(float(cap)).judge(function, call=call, layout=layout, names=names)


# --- the cases ---


def cases(facts: frozenset[str], cap: float = 2.0) -> list[Case]:
    """Ratios around 1 and beyond the bounds on either side; with holes in the mask and other bounds if asked for."""
    both = {"log_probs", "trainer_log_probs"} <= facts
    case = functools.partial(_case, given=bool(facts & _BOUNDS), low=0.5 if "low" in facts else 0.0, moved=both)
    found = [case([[0.3], [-0.4]], cap), case([[1.1], [-2.0]], cap), case([[0.2, -0.5], [0.9, 0.4]], cap)]
    found += [case(_wave(seed, 2, steps), cap) for seed, steps in ((1, 3), (2, 4), (3, 6))]
    if "cap" in facts:
        found += [case(_wave(seed, 2, 3), bound) for seed, bound in ((4, 1.3), (5, 5.0))]
    if facts & {"mask", "padding"}:
        found += [
            case(_wave(6, 2, 3), cap, "110"),
            case(_wave(7, 2, 5), cap, "10110"),
            case(_wave(8, 2, 4), cap, "0110"),
        ]
        found.append(case(_wave(9, 2, 2), cap, "00", why=_FULLY_MASKED))
    found += [case(_wave(10, 1, 3), cap), case([[0.0, 0.0], [0.0, 0.0]], cap)]
    found.append(case([[400.0, 0.1], [-900.0, 0.2]], cap, why=_OVERFLOWS))
    if "cap" in facts:
        found.append(case([[0.0, 0.5], [-0.3, 0.0]], 1.0, why=_REACHED)._replace(or_fails=False))
    return found


def _wave(seed: int, batch: int, steps: int) -> list[list[float]]:
    """Log-ratios between -1.1 and 1.3."""
    return [[0.1 + 1.2 * math.sin(2.3 * (b * steps + t) + 1.7 * seed) for t in range(steps)] for b in range(batch)]


def _case(
    log_ratio: Sequence[Sequence[float]],
    cap: float,
    mask: str = "",
    *,
    low: float,
    given: bool,
    moved: bool = False,
    why: str = "",
) -> Case:
    """Log-probabilities with these log-ratios; if `moved`, the current policy is not the trainer's old one."""
    ratio = torch.tensor(log_ratio, dtype=F64)
    place = torch.arange(ratio.numel(), dtype=F64).reshape(ratio.shape)
    sampler = -1.5 - place.cos() / 2
    taken = torch.tensor([[c == "1" for c in mask or "1" * ratio.shape[1]], [True] * ratio.shape[1]][: len(ratio)])
    trainer = sampler + ratio
    current = trainer + 0.3 * (2.9 * place + 1.0).cos() if moved else trainer
    values = {"log_probs": current, "sampler_log_probs": sampler, "mask": taken, "cap": cap, "low": low}
    return Case({**values, "trainer_log_probs": trainer, "given": given}, why, or_fails=True)


# --- what was returned ---


def _observe(call: Call, layout: Layout, inputs: Inputs, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """The weights `[B, T]`, and in a last column whether they carry a gradient."""
    leaf = inputs.canonical["log_probs"].requires_grad_()
    with torch.enable_grad():
        output = call(inputs.replaced(log_probs=leaf * 1.0))
    found, misfit = dict[str, Tensor](), Misfit("it returned nothing")
    for part, value in parts_of(output, "weight ratio tis is_w").items():
        try:
            weights = _spread(layout, as_tensor(value), sizes)
        except Misfit as error:
            misfit = error
            continue
        flag = torch.full_like(weights[:, :1], float(_carries_gradient(value, leaf)))
        found[part] = torch.cat([weights, flag], -1)
    if not found:
        raise misfit
    return found


def _spread(layout: Layout, value: Tensor, sizes: Mapping[str, int]) -> Tensor:
    """One weight for each token, where each sequence may have one for all of its own."""
    try:
        return layout.restored(value, sizes).double()
    except Misfit:
        return layout.restored(value, {**sizes, "T": 1}).double().expand(*sizes.values())


def _carries_gradient(value: Any, leaf: Tensor) -> bool:
    if not isinstance(value, Tensor) or not value.requires_grad:
        return False
    slope = torch.autograd.grad(value.double().sum(), leaf, allow_unused=True, retain_graph=True)[0]
    return slope is not None and bool((slope != 0).any())


def _seen(x: Mapping[str, Any], answer: Tensor) -> Tensor:
    weights = answer[:, : x["mask"].shape[1]]
    return torch.cat([torch.where(x["mask"], weights, 0.0), answer[:, x["mask"].shape[1] :]], -1)


def _shown(x: Mapping[str, Any], answer: Any) -> Any:
    if not isinstance(answer, Tensor):
        return answer
    weights = answer[:, :-1]
    return f"{weights.tolist()}, with a gradient" if bool(answer[:, -1].any()) else weights


# --- right forms, and the known mistakes: the parts that a mistake replaces ---

_Level = Callable[[Tensor, Tensor], Tensor]
_Bound = Callable[[Tensor, float, float], Tensor]


def _token(log_ratio: Tensor, mask: Tensor) -> Tensor:
    return log_ratio


def _sequence(log_ratio: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, log_ratio, 0.0).sum(-1, keepdim=True).expand_as(log_ratio)


def _geometric(log_ratio: Tensor, mask: Tensor) -> Tensor:
    return _sequence(log_ratio, mask) / mask.sum(-1, keepdim=True)


def _truncated(w: Tensor, low: float, cap: float) -> Tensor:
    return w.clamp(min=low, max=cap)


def _masked(w: Tensor, low: float, cap: float) -> Tensor:
    return torch.where((w >= low) & (w <= cap), w, 0.0)


_LEVELS: Mapping[str, _Level] = {
    "the ratio of each token": _token,
    "the ratio of the sequence, a product": _sequence,
    "the geometric mean over the sequence": _geometric,
}
_MODES: Mapping[str, _Bound] = {"truncated": _truncated, "masked": _masked}


def _difference(new: Tensor, sampler: Tensor) -> Tensor:
    return new - sampler


def _weights(
    level: _Level = _token,
    bound: _Bound = _truncated,
    log_ratio: Callable[[Tensor, Tensor], Tensor] = _difference,
    exp: Callable[[Tensor], Tensor] = torch.exp,
    detached: bool = True,
    bounded: bool = True,
) -> Callable[..., Tensor]:
    """The weights of this level; if not `bounded`, of a function that takes no bound."""

    def implementation(log_probs: Tensor, sampler_log_probs: Tensor, cap: float, mask: Tensor, **rest: Any) -> Tensor:
        new = _of_the_trainer(log_probs, **rest)
        w = bound(exp(level(log_ratio(new, sampler_log_probs), mask)), rest.get("low", 0.0), cap)
        return w.detach() if detached else w

    def free(log_probs: Tensor, sampler_log_probs: Tensor, mask: Tensor, **rest: Any) -> Tensor:
        if rest.get("given", False):
            raise ValueError("a bound is given")
        return exp(level(log_ratio(_of_the_trainer(log_probs, **rest), sampler_log_probs), mask)).detach()

    return implementation if bounded else free


def _of_the_trainer(log_probs: Tensor, **rest: Any) -> Tensor:
    """The log-probabilities of the trainer's old policy where there are any, with the gradient of the current one."""
    trainer: Tensor = rest.get("trainer_log_probs", log_probs)
    return log_probs + (trainer - log_probs).detach()


def _of_the_current_policy(level: _Level, bound: _Bound, detached: bool) -> Callable[..., Tensor]:
    def implementation(
        log_probs: Tensor, trainer_log_probs: Tensor, sampler_log_probs: Tensor, cap: float, mask: Tensor, **rest: Any
    ) -> Tensor:
        w = bound(level(log_probs - sampler_log_probs, mask).exp(), rest.get("low", 0.0), cap)
        return w.detach() if detached else w

    return implementation


def _kept_by(level: _Level) -> Callable[..., Tensor]:
    """The ratios of the tokens of those sequences whose own ratio is within the bounds."""

    def implementation(log_probs: Tensor, sampler_log_probs: Tensor, cap: float, mask: Tensor, **rest: Any) -> Tensor:
        ratio = _difference(_of_the_trainer(log_probs, **rest), sampler_log_probs)
        return torch.where(_masked(level(ratio, mask).exp(), rest.get("low", 0.0), cap) != 0, ratio.exp(), 0.0).detach()

    return implementation


def _each(**options: Any) -> tuple[Callable[..., Tensor], ...]:
    """A mistake at each level, truncated and masked; and once more with a gradient."""
    chosen = [options] if "bound" in options else [{**options, "bound": bound} for bound in _MODES.values()]
    levels = [options["level"]] if "level" in options else [*_LEVELS.values()]
    found = [_weights(**{**some, "level": level}) for some, level in itertools.product(chosen, levels)]
    return (*found, _weights(**{**chosen[0], "level": levels[0], "detached": False}))


def _every_place(log_ratio: Tensor, mask: Tensor) -> Tensor:
    return log_ratio.sum(-1, keepdim=True).expand_as(log_ratio)


def _mean_of_every_place(log_ratio: Tensor, mask: Tensor) -> Tensor:
    return log_ratio.mean(-1, keepdim=True).expand_as(log_ratio)


def _mean_over_padding(log_ratio: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, log_ratio, 0.0).mean(-1, keepdim=True).expand_as(log_ratio)


def _mean_of_ratios(w: Tensor, mask: Tensor) -> Tensor:
    return (torch.where(mask, w.exp(), 0.0).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)).log().expand_as(w)


def _sum_of_ratios(w: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, w.exp(), 0.0).sum(-1, keepdim=True).log().expand_as(w)


def _of_the_batch(log_ratio: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, log_ratio, 0.0).sum().expand_as(log_ratio)


def _mean_of_the_batch(log_ratio: Tensor, mask: Tensor) -> Tensor:
    return _of_the_batch(log_ratio, mask) / mask.sum()


def _over_their_mean(log_probs: Tensor, sampler_log_probs: Tensor, cap: float, mask: Tensor, **rest: Any) -> Tensor:
    w = _weights()(log_probs, sampler_log_probs, cap, mask, **rest)
    return w / w[mask].mean()


MISTAKES = (
    Mistake(
        "importance_weights.not_detached",
        "the weights carry a gradient: the detach is missing",
        "A weight is a constant of the correction. With its gradient the loss is that of another objective: the weight "
        "itself is made larger where the advantage is positive.",
        "The weights require a gradient.",
        (pull("verl-project/verl", 4105),),
        tuple(_weights(level, bound, detached=False) for level in _LEVELS.values() for bound in _MODES.values()),
    ),
    Mistake(
        "importance_weights.inverted",
        "the ratio is inverted: the sampler over the policy",
        "The weight is the probability under the policy divided by that under the sampler. Its inverse makes those "
        "tokens count most that the sampler draws too often already.",
        "Where the policy is the more probable, the weight is below 1.",
        (issue("hmomin/PPO-Winter-Run", 1),),
        _each(log_ratio=lambda new, sampler: sampler - new),
        right_form=(_YAO,),
    ),
    Mistake(
        "importance_weights.bound_ignored",
        "the bound is taken and not used",
        "The weights are not bounded, and one token can carry the whole update.",
        "A weight above the cap appears.",
        (),
        tuple(_weights(level, lambda w, low, cap: w, detached=d) for level in _LEVELS.values() for d in (True, False)),
        right_form=(_IONIDES, pull("PrimeIntellect-ai/prime-rl", 1300)),
    ),
    Mistake(
        "importance_weights.bounded_below",
        "bounded on the wrong side: the maximum with the cap",
        "The larger of weight and cap is taken: every weight is at least the cap.",
        "No weight is below the cap.",
        (),
        _each(bound=lambda w, low, cap: w.clamp(min=cap)),
        right_form=(_IONIDES,),
    ),
    Mistake(
        "importance_weights.mask_inverted",
        "the weights beyond the cap are kept, and the others set to 0",
        "The comparison with the cap is the wrong way round.",
        "Where the policies agree, the weight is 0.",
        (),
        _each(bound=lambda w, low, cap: torch.where(w > cap, w, 0.0)),
        right_form=(pull("huggingface/trl", 4530),),
    ),
    Mistake(
        "importance_weights.cap_on_log_ratio",
        "the cap bounds the log-ratio, not the ratio",
        "exp(min(log w, cap)) is bounded by exp(cap): 7.4 in place of 2.",
        "Weights between the cap and exp(cap) appear.",
        (issue("callsys/GMPO", 4),),
        (
            *_each(bound=lambda w, low, cap: w.clamp(max=math.exp(cap))),
            *_each(bound=lambda w, low, cap: w.clamp(min=math.exp(-cap), max=math.exp(cap))),
        ),
    ),
    Mistake(
        "importance_weights.bounds_around_one",
        "bounded to 1 - cap and 1 + cap, as the ratio of PPO is",
        "The cap is the bound itself, not a distance from 1.",
        "With the cap 2 weights up to 3 appear.",
        (),
        _each(bound=lambda w, low, cap: w.clamp(1 - cap, 1 + cap)),
        right_form=(_YAO,),
    ),
    Mistake(
        "importance_weights.without_exp",
        "the difference of the log-probabilities without exp",
        "The ratio is the exponential of the difference, which itself is 0, not 1, where the policies agree.",
        "Where the policies agree, the weight is 0.",
        (issue("godka/Pensieve-PPO", 16),),
        (*_each(exp=lambda x: x), *_each(exp=lambda x: x, bound=lambda w, low, cap: w.clamp(max=cap))),
    ),
    Mistake(
        "importance_weights.quotient_of_log_probs",
        "the quotient of the log-probabilities",
        "log π / log μ is not the ratio: it is large where the ratio is small.",
        "A less probable token has the larger weight.",
        (
            Source(
                "stanford-cs336/spring2025-lectures, lecture_17.py",
                "https://github.com/stanford-cs336/spring2025-lectures/blob/bbdbc9c511c11310efc2f9600f4f6e5dcf1c9066/lecture_17.py",
            ),
        ),
        tuple(
            _weights(_token, bound, torch.div, lambda x: x, detached)
            for bound in (_truncated, _masked, lambda w, low, cap: w.clamp(max=cap))
            for detached in (True, False)
        ),
    ),
    Mistake(
        "importance_weights.padding_counted",
        "padding enters the ratio of the sequence",
        "The log-ratios are summed, or averaged, over all places: what stands behind the end, or came from a tool, "
        "changes the weight of the whole sequence.",
        "The weight changes with the padding.",
        (pull("CarperAI/trlx", 509), issue("MakazhanAlpamys/Soup", 723)),
        (*_each(level=_every_place), *_each(level=_mean_of_every_place)),
    ),
    Mistake(
        "importance_weights.mean_over_padding",
        "the mean of the log-ratios is taken over the padded length",
        "The masked sum is divided by the number of all places, so that the weight goes to 1 with more padding.",
        "More padding brings the weight nearer to 1.",
        (),
        _each(level=_mean_over_padding),
        right_form=(pull("MakazhanAlpamys/Soup", 744),),
    ),
    Mistake(
        "importance_weights.of_the_batch",
        "one weight for the whole batch",
        "The log-ratios are summed, or averaged, over the batch as well: all sequences get the same weight.",
        "A single sequence is right, and a batch of two is not.",
        (),
        (*_each(level=_of_the_batch), *_each(level=_mean_of_the_batch)),
        right_form=(pull("verl-project/verl", 3694),),
    ),
    Mistake(
        "importance_weights.centred_over_the_batch",
        "the log-ratios are centred over the batch",
        "The mean over the batch is taken off each place before exp: the weight of a sequence depends on what the "
        "others have at the same place, padding included.",
        "In a batch of one every weight is 1.",
        (issue("MakazhanAlpamys/Soup", 723),),
        _each(level=lambda x, mask: x - x.mean(0, keepdim=True)),
    ),
    Mistake(
        "importance_weights.of_the_current_policy",
        "the current policy in place of the trainer's old one",
        "The ratio of PPO goes from the trainer's old policy to the current one, and the weight from the sampler to "
        "the trainer's old policy. With the current policy in the weight, the change of an update counts twice.",
        "The weights change with every step of the optimiser.",
        (pull("THUDM/slime", 179),),
        tuple(
            _of_the_current_policy(*which)
            for which in itertools.product(_LEVELS.values(), _MODES.values(), (True, False))
        ),
        right_form=(_YAO,),
    ),
    Mistake(
        "importance_weights.mean_of_ratios",
        "the arithmetic mean, or the sum, of the tokens' ratios",
        "The ratio of a sequence is the product of those of its tokens, and of length-normalised forms their geometric "
        "mean. The arithmetic mean is neither, and never below the latter; nor is the sum.",
        "With ratios 4 and 1/4 the result is 2.1, not 1.",
        (),
        (*_each(level=_mean_of_ratios), *_each(level=_sum_of_ratios)),
        right_form=(arxiv("Zheng et al., 2025 (GSPO, eq. 7)", "2507.18071"),),
    ),
    Mistake(
        "importance_weights.self_normalised",
        "divided by their mean over the batch",
        "Self-normalised weights: their mean is 1, the variance is smaller, and each depends on the whole batch.",
        "The mean of the weights is 1.",
        (),
        (_over_their_mean,),
        severity="remark",
        right_form=(pull("verl-project/verl", 4070),),
    ),
)


# --- how it is called ---

_SAMPLER = affixed(
    "sampler", "sampling", "sampled", "rollout", "vllm", "sglang", "inference", "infer", "gen", "generation",
    "generator", "behavior", "behaviour", "mu", "actor_old", "q",
)  # fmt: skip
_OLD = affixed("old", "prev", "previous", "proximal", "prox", "recomputed", "fixed", "stored")
_OLD_NAMES = {normalised(name) for name in _OLD.split()} | {"old", "oldpertoken", "oldper"}
_NEAR_NAMES = {normalised(name) for name in affixed("proximal", "prox", "recomputed").split()}
_SAMPLER_NAMES = {normalised(name) for name in _SAMPLER.split()}


def _implied(parameters: Sequence[Parameter]) -> Mapping[str, str]:
    """The old log-probabilities are the trainer's beside a sampler's, and the sampler's where there are no others.

    Beside proximal ones, which the trainer has computed anew, they are the sampler's.
    """
    spelled = {p.name: normalised(p.name) for p in parameters}
    old = [name for name, word in spelled.items() if word in _OLD_NAMES]
    beside = any(word in _SAMPLER_NAMES for word in spelled.values())
    if not beside and (near := [name for name in old if spelled[name] in _NEAR_NAMES]) != old and near:
        return dict.fromkeys(old, "sampler_log_probs") | dict.fromkeys(near, "trainer_log_probs")
    return dict.fromkeys(old, "trainer_log_probs" if beside else "sampler_log_probs")


def _applies(mistake: Mistake, facts: frozenset[str]) -> bool:
    tail = mistake.key.partition(".")[2]
    of_mask = tail in ("padding_counted", "mean_over_padding") and not facts & {"mask", "padding"}
    of_bound = tail in ("bound_ignored", "bounded_below", "bounds_around_one", "cap_on_log_ratio", "mask_inverted")
    of_both = tail == "of_the_current_policy" and not {"log_probs", "trainer_log_probs"} <= facts
    return not (of_mask or of_both or (of_bound and not facts & _BOUNDS))


def _unstated(trial: Trial, cap: float) -> str:
    """Which cap would make a function right that does not take one."""
    if trial.form.facts & _BOUNDS:
        return ""
    check, form = trial.bench.check, trial.form
    x = _case([[5.0]], cap, given=False, low=0.0).inputs
    try:
        found = check.parts(form.call, form.layout, Inputs(x, form.derived), check.sizes(x))[trial.part]
    except Exception:
        return ""
    bound = float(found[0, 0])
    if not math.isclose(bound, cap, rel_tol=1e-4) and 1 < bound < math.exp(5) * 0.99:
        return f"it truncates at {bound:.4g}: give cap={bound:.4g}"
    return ""


_ARGS = (
    Arg("log_probs", "B T", also="log_p_new log_p_train learner_log_probs learner_logprobs"),
    Arg("sampler_log_probs", "B T", also=f"{_SAMPLER} {_OLD} logq log_q lq log_mu logmu"),
    Arg("mask", "B T", flag=True),
    Arg("padding", "B T", of=lambda x: ~x.mask, flag=True),
    Arg(
        "cap",
        also="c clip clip_max max_weight max_ratio threshold upper upper_threshold upper_bound high tis_cap "
        "tis_clip imp_ratio_cap tis_imp_ratio_cap is_cap is_threshold rho_bar clip_ratio_c truncation "
        "clip_threshold rollout_is_threshold max_is_weight clip_high tis_clip_high cap_max high_threshold "
        "vllm_importance_sampling_cap behav_imp_weight_cap",
    ),
    Arg("low", also="clip_min lower lower_threshold lower_bound floor min_weight tis_clip_low clip_low low_threshold"),
    Arg("given", asked=True),
    Arg("trainer_log_probs", "B T"),
    Arg(
        "log_ratio",
        "B T",
        "log_ratios logratio log_weights log_rho",
        of=lambda x: x.log_probs + (x.trainer_log_probs - x.log_probs).detach() - x.sampler_log_probs,
    ),
)


@functools.cache
def _check(cap: float) -> Check:
    """The check of weights that are bounded there, if the function does not take its bound."""
    return Check(
        "importance_weights",
        9,
        args=_ARGS,
        needs=("log_probs|trainer_log_probs|log_ratio", "sampler_log_probs|log_ratio"),
        signature=("log_probs", "sampler_log_probs", "cap"),
        axes="B T",
        layouts=("[B, T]", "[T]", "[B*T]", "[1, B, T]"),
        reference={
            **{f"{a}, {b}": _weights(level, bound) for b, bound in _MODES.items() for a, level in _LEVELS.items()},
            **{f"{a}, not bounded": _weights(level, bounded=False) for a, level in _LEVELS.items()},
            "the ratio of each token, of sequences kept by their geometric mean": _kept_by(_geometric),
            "the ratio of each token, of sequences kept by their ratio": _kept_by(_sequence),
        },
        cases=functools.partial(cases, cap=cap),
        mistakes=MISTAKES,
        implied=_implied,
        seen=_seen,
        observe=_observe,
        numbers=lambda trial: {},  # the largest error would be that of the last column
        shown=_shown,
        applies=_applies,
        of_the_batch=("importance_weights.of_the_batch",),
        unstated=functools.partial(_unstated, cap=cap),
        example="call=lambda x: f(x.log_probs, x.sampler_log_probs, x.cap)  # [B, T]; one weight for each token",
    )


CHECK = _check(2.0)
