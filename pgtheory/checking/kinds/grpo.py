"""Is this a loss of groups of responses, GRPO or a relative? Which one? And if not, which known mistake is it?"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking import slopes
from pgtheory.checking.calling import Arg, Call, Reading
from pgtheory.checking.clipped import (
    OTHER_BOUNDS,
    SURROGATE_REMARKS,
    SURROGATES,
    TO_REFERENCE,
    Samples,
    Slope,
    Surrogate,
    batch_advantages,
    cuts,
    drives,
    fitting_bounds,
    ratios_around,
)
from pgtheory.checking.group_losses import (
    AVERAGES,
    GROUP_ADVANTAGES,
    PENALTIES,
    PENALTY_REMARKS,
    PLAIN_REWARDS,
    RIGHT_ADVANTAGES,
    RIGHT_AVERAGES,
    RIGHT_BASES,
    described,
    group_advantages,
    slopes_of_penalties,
    weights_of,
)
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.kinds.grpo_mistakes import SPECS
from pgtheory.checking.loss import (
    CLIPS,
    F64,
    LEVELS,
    LOG_PROBS,
    MASKS,
    OLD,
    Grid,
    as_mistakes,
    axis_of,
    bounds_themselves,
    implied,
    level_ratios,
    loss_args,
    once,
    other_bounds,
    slopes_in,
)
from pgtheory.checking.report import Report
from pgtheory.checking.responses import GEOMETRIC, GEOMETRIC_REMARK, OBJECTIVES, drives_of_responses
from pgtheory.checking.space import Axis, Explanation, Space
from pgtheory.checking.verdicts import Trial, quietly


def check_grpo(
    function: Callable[..., Any] | None = None,
    *,
    clip: float | tuple[float, float] = 0.2,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
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
        call: how it is called from the canonical inputs, such as `lambda x: f(x.log_probs, x.rewards)`; they are
            `x.log_probs`, `x.old_log_probs`, `x.mask`, `[groups, size, T]`, `x.rewards`, `[groups, size]`,
            `x.ref_log_probs`, `x.beta`, and what follows from them.
        layout: the order of axes, such as `"[size, T]"` for one group, or the container, such as `"numpy"`.
        names: what arguments are, such as `{"x": "log_probs"}`.

    Returns:
        The report. Its details are the angle, in degrees, between the expected gradient and the true one, on a small
        tree of tokens by enumeration, and the quotient of their lengths.

    Raises:
        UnknownForm: the function cannot be called in any form, or does not return a loss.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Shao et al., "DeepSeekMath", 2024, eq. (3); Liu et al., "Understanding R1-Zero-Like Training", 2025.

    Example:
        >>> import torch
        >>> def loss(log_probs, old_log_probs, rewards, mask):
        ...     ratio = (log_probs - old_log_probs).exp()
        ...     a = ((rewards - rewards.mean()) / (rewards.std() + 1e-4)).unsqueeze(-1)
        ...     per_token = torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a) * mask
        ...     return -(per_token.sum(-1) / mask.sum(-1)).mean()
        >>> print(check_grpo(loss).diagnosis)
        mean and standard deviation over the whole batch instead of the group
    """
    return _check(clip if isinstance(clip, tuple) else (clip, clip)).judge(
        function, call=call, layout=layout, names=names
    )


# --- the known mistakes ---


def _loss(
    surrogate: str = "clipped",
    advantage: str = "group mean std1",
    average: str = "response GS",
    penalty: str = "",
    penalty_average: str = "response GS",
    *,
    sign: float = 1.0,
    penalty_sign: float = 1.0,
) -> Callable[..., Tensor]:
    """The loss that consists of these factors; with a penalty it takes `ref_log_probs` and `beta`."""

    def loss(log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
        a = group_advantages(advantage, rewards, mask)
        bounds = (torch.tensor(0.8, dtype=F64), torch.tensor(1.2, dtype=F64))
        if surrogate in OBJECTIVES:
            each = a[..., None].expand_as(log_probs)
            return -sign * OBJECTIVES[surrogate](log_probs - old_log_probs, each, mask, *bounds).mean()
        table = {**SURROGATES, **TO_REFERENCE}
        value = table[surrogate](log_probs, old_log_probs, a[..., None].expand_as(log_probs), *bounds)
        return -sign * (weights_of(average, mask) * value).sum()

    def penalised(
        log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, mask: Tensor, ref_log_probs: Tensor, beta: float
    ) -> Tensor:
        weights = penalty_sign * beta * weights_of(penalty_average, mask)
        added = (weights * PENALTIES[penalty or "k3"](log_probs, ref_log_probs)).sum()
        drawn = ref_log_probs if surrogate in TO_REFERENCE else old_log_probs
        return loss(log_probs, drawn, rewards, mask) + added

    return penalised if penalty or surrogate in TO_REFERENCE else loss


MISTAKES = as_mistakes("grpo", SPECS, _loss)

# --- the cases ---

_FULL = ((1, 3, 1), (1, 2, 2), (2, 3, 2), (3, 2, 4), (1, 4, 2), (2, 4, 3))
# Which tokens of each response count, after another; some masks have holes, and one response has no token.
_PADDED = (
    ((1, 2, 2), "10 11"),
    ((1, 2, 3), "111 100"),
    ((2, 3, 4), "1000 1110 1100 1111 1100 1000"),
    ((2, 3, 6), "100000 111000 110000 111100 110000 100000"),
    ((3, 2, 5), "11000 10000 11110 11100 10000 11100"),
    ((2, 4, 5), "11000 10000 11110 11100 10000 11100 11100 11111"),
    ((1, 2, 4), "1011 0110"),
    ((2, 2, 5), "10101 11000 01111 11011"),
)
_EMPTY = ((1, 3, 2), "11 00 10")


def cases(facts: frozenset[str], clip: tuple[float, float] = (0.2, 0.2)) -> list[Case]:
    """Two responses of one token first, with many ratios; then more of everything; then what a mask hides."""
    off, given = bool(facts & OLD), "rewards" not in facts
    found = [pair(ratio, clip) for ratio in [1.0, *(ratios_around(*clip) if off else [])]]
    if facts & CLIPS:
        found += [pair(ratio, other_bounds(clip, facts)) for ratio in ratios_around(*other_bounds(clip, facts))]
    found += [pair(math.exp(0.125), clip, old=-800.0)] if off and "logits" not in facts else []
    found += [pair(1.0, clip, rewards=(1.0, 1.0))] if not given else []
    shapes = [(shape, "") for shape in _FULL] + ([*_PADDED] if facts & MASKS else [])
    whole = [
        case(seed, shape, text, clip, spread)
        for seed, (shape, text) in enumerate(shapes)
        for spread in ((0.0, 0.5) if off else (0.0,))
    ]
    found += whole
    if "ref_log_probs" in facts:
        same = [x for x in whole if torch.equal(x.inputs["log_probs"], x.inputs["old_log_probs"])][-6:]
        found += [_penalised(x, 0.5, alone=True) for x in same] + [_penalised(x, 0.1, alone=False) for x in same]
    if not given:
        one = case(3, (1, 1, 2), "", clip, 0.0)
        found.append(one._replace(delicate="with a group of one response it gives NaN, or fails", or_fails=True))
    if facts & MASKS:
        empty = case(5, *_EMPTY, clip, 0.0)
        found.append(empty._replace(delicate="it fails where a response has no token that counts", or_fails=True))
    return found


def _inputs(new: Tensor, old: Tensor, rewards: Tensor, mask: Tensor, clip: tuple[float, float]) -> dict[str, Any]:
    tensors = {"log_probs": new, "old_log_probs": old, "rewards": rewards, "mask": mask, "ref_log_probs": new}
    return {**tensors, "beta": 0.0, "clip": clip[0], "clip_high": clip[1]}


def pair(
    ratio: float, clip: tuple[float, float], old: float | None = None, rewards: Sequence[float] = (2.0, -1.5)
) -> Case:
    """A group of two responses of one token."""
    behind = torch.full((1, 2, 1), (-0.75 if ratio < 1.9 else -3.25) if old is None else old, dtype=F64)
    values = torch.tensor([rewards], dtype=F64)
    return Case(_inputs(behind + math.log(ratio), behind, values, torch.ones(1, 2, 1) > 0, clip))


def case(seed: int, shape: tuple[int, int, int], text: str, clip: tuple[float, float], spread: float) -> Case:
    """Groups of fixed numbers, with others where the mask is 0."""
    groups, size, steps = shape
    place = torch.arange(groups * size * steps, dtype=F64).reshape(shape) + 2.3 * seed
    rows = text.split() or ["1" * steps] * (groups * size)
    taken = torch.tensor([[c == "1" for c in row] for row in rows]).reshape(shape)
    old = -1.5 - (1.3 * place).cos() / 2
    new = old + spread * (2.1 * place).sin()
    scales = 1.0 + 2 * torch.arange(groups, dtype=F64)[:, None]
    number = torch.arange(groups * size).reshape(groups, size)
    rewards = ((7 * number + 3 * seed) % 11 / 2 - 2.25).to(F64) * scales + scales
    new, old = torch.where(taken, new, -0.4), torch.where(taken, old, -0.7 if spread else -0.4)
    return Case(_inputs(new, old, rewards, taken, clip))


def _penalised(found: Case, beta: float, *, alone: bool) -> Case:
    """The case with another reference, and the penalty `alone`, where all rewards are 0."""
    x = found.inputs
    place = torch.arange(x["log_probs"].numel(), dtype=F64).reshape(x["log_probs"].shape)
    ref, rewards = x["log_probs"] - 0.6 * (1.9 * place + 0.5).cos(), x["rewards"] * (0.0 if alone else 1.0)
    return found._replace(inputs={**x, "ref_log_probs": ref, "rewards": rewards, "beta": beta})


# --- the hypotheses ---

_GIVEN = (
    "given",
    *(f"normalised_{ddof}_taken_{guard}" for ddof in ("0", "1", "none") for guard in ("always", "guarded")),
    "absolute",
    "signs",
    "ones",
)
_GIVEN_MISTAKES = {"absolute": "absolute_advantage", "signs": "sign_of_advantage", "ones": "advantages_not_used"}
_GIVEN_REMARK = "the advantages that it is given are normalised within the batch"


def space(found: Sequence[Case], facts: frozenset[str], more: Mapping[str, Surrogate] | None = None) -> Space:
    """All hypotheses about a function that is told these facts; with `more`, these surrogates alone."""
    penalised, told = "ref_log_probs" in facts, "beta" in facts
    surrogates = (*SURROGATES, *(() if facts & CLIPS else OTHER_BOUNDS), *(TO_REFERENCE if penalised else ()))
    surrogates = (*(surrogates if more is None else more), *(OBJECTIVES if facts & OLD else ()))
    said = {GEOMETRIC: GEOMETRIC_REMARK, **(SURROGATE_REMARKS if more is None else {})}
    remarks = {name: PLAIN_REWARDS for name in RIGHT_ADVANTAGES if "nothing" in name}
    advantages = axis_of(GROUP_ADVANTAGES, "advantage", SPECS, remarks)
    if "rewards" not in facts:
        advantages = Axis(_GIVEN, _GIVEN_MISTAKES, {name: _GIVEN_REMARK for name in _GIVEN if "_" in name})
    axes = [
        axis_of(surrogates, "surrogate", SPECS, said),
        Axis(LEVELS),
        advantages,
        axis_of(AVERAGES, "average", SPECS, {}),
    ]
    if penalised:
        axes += [axis_of(PENALTIES, "penalty", _OF_PENALTY, PENALTY_REMARKS), _APART]
    simple = next(i for i, c in enumerate(found) if c.inputs["mask"].shape != (1, 2, 1))
    # In the first cases, of one token each, levels and averages make no difference but for the scale.
    plain = len(found) - sum(not torch.equal(c.inputs["log_probs"], c.inputs["ref_log_probs"]) for c in found)
    return Space(
        axes,
        grids([c.inputs for c in found], surrogates, advantages.names, facts, more or {}),
        n_parts=1 + penalised,
        stages=(((0, 2) if told or not penalised else (0, 2, 4), simple), ((1, 3), plain)),
        plausible=functools.partial(_plausible, told) if penalised else lambda names, scales: True,
        of_scales=_kl_sign if penalised else lambda names, scales: (),
        usual=(2,),
        fixed=(0, 4, 5) if penalised else (0,),
        last_first=penalised and told,
    )


_OF_PENALTY = [s for s in SPECS if all(v.keys() == {"penalty"} for v in s.values)]
_APART = Axis(
    ("same", *AVERAGES),
    {name: "kl_unmasked" for name in AVERAGES if name.startswith("every")},
    dict.fromkeys(RIGHT_AVERAGES, "the penalty is averaged in another way"),
)


def _plausible(told: bool, names: Sequence[str], scales: Sequence[float]) -> bool:
    """Whether a penalty has the weight β, where that was given; the scale of another average is unknown."""
    if not told or names[4] == "none" or names[5] not in ("same", names[3]):
        return True
    factor = abs(scales[1] / scales[0])
    return any(abs(factor - x) < 1e-2 for x in ((1.0, 2.0) if names[4] == "k2" else (1.0,)))


def _kl_sign(names: Sequence[str], scales: Sequence[float]) -> tuple[str, ...]:
    return ("kl_sign",) if names[4] != "none" and scales[1] < 0 else ()


def grids(
    cases: Sequence[Mapping[str, Any]],
    surrogates: Sequence[str],
    advantages: tuple[str, ...],
    facts: frozenset[str],
    more: Mapping[str, Surrogate],
) -> list[Grid]:
    """The slopes of all hypotheses, case by case."""

    def driven(names: Sequence[str], behind: str) -> list[Tensor]:
        samples = []
        for x in cases:
            ratios = level_ratios(x["log_probs"] - x[behind], x["mask"])
            a = _advantages(advantages, x["rewards"], x["mask"])[..., None].expand(-1, *x["mask"].shape)
            samples.append(Samples(ratios, x[behind], a, (x["clip"], x["clip_high"])))
        return drives(names, samples, more)

    usual = [name for name in surrogates if name not in TO_REFERENCE and name not in OBJECTIVES]
    parts = [driven(usual, "old_log_probs")] if usual else []
    parts += [driven([*TO_REFERENCE], "ref_log_probs")] if "to_reference" in surrogates else []
    parts += [[_of_responses(x, advantages) for x in cases]] if GEOMETRIC in surrogates else []
    drive = [torch.cat(parts_of_one) for parts_of_one in zip(*parts, strict=True)]
    weights = [_weights(x["mask"]) for x in cases]
    if "ref_log_probs" not in facts:
        return [Grid(d, w, x["mask"]) for d, w, x in zip(drive, weights, cases, strict=True)]
    penalties = slopes_of_penalties([(x["log_probs"], x["ref_log_probs"]) for x in cases])
    betas = [x["beta"] if "beta" in facts else 1.0 for x in cases]
    every = zip(drive, weights, cases, betas, penalties, strict=True)
    return [Grid(d, w, x["mask"], beta * penalty) for d, w, x, beta, penalty in every]


def _of_responses(x: Mapping[str, Any], advantages: tuple[str, ...]) -> Tensor:
    """The slopes of objectives of whole responses, which stand at the level of tokens alone."""
    a = _advantages(advantages, x["rewards"], x["mask"])[..., None]
    bounds = (torch.tensor(1 - x["clip"], dtype=F64), torch.tensor(1 + x["clip_high"], dtype=F64))
    own = drives_of_responses(x["log_probs"] - x["old_log_probs"], a, x["mask"], bounds)
    return torch.stack([own, *[torch.full_like(own, torch.nan)] * (len(LEVELS) - 1)], 1)


@once
def _advantages(names: tuple[str, ...], rewards: Tensor, taken: Tensor) -> Tensor:
    if names[0] == "given":
        every = torch.ones_like(rewards, dtype=torch.bool)
        return torch.stack([batch_advantages(name, rewards, every) for name in names])
    return torch.stack([group_advantages(name, rewards, taken) for name in names])


@once
def _weights(taken: Tensor) -> Tensor:
    return torch.stack([weights_of(name, taken) for name in AVERAGES])


def _unstated(trial: Trial, clip: tuple[float, float]) -> str:
    """Which bounds would make a function right that does not take them."""
    if trial.form.facts & CLIPS or not trial.form.facts & OLD:
        return ""

    def slope(ratio: float, a: float) -> float:
        return float(slopes_in(trial, pair(ratio, clip).inputs).flatten()[0 if a > 0 else 1])

    return fitting_bounds(trial, clip, slope, space) or _bounds_of_log_ratios(trial, slope)


def _bounds_of_log_ratios(trial: Trial, slope: Slope) -> str:
    """The bounds that make it right as GMPO, which clips log-ratios."""
    bounds = cuts(slope)
    low, high = -math.log(bounds.get(-1.0, 1.0)), math.log(bounds.get(1.0, 1.0))
    found = [c._replace(inputs={**c.inputs, "clip": low, "clip_high": high}) for c in trial.bench.plain]
    known = quietly(space, found, trial.form.facts, {}).explained(trial.counted) if low > 0 and high > 0 else None
    if known is None or known.mistakes:
        return ""
    return (
        f"it clips the log-ratio of each token (GMPO) at {-low:.4g} and {high:.4g}: give clip=({low:.4g}, {high:.4g})"
    )


# --- what is said of a loss ---

_BATCHED = "[groups, size, T]"
_ONE_GROUP = "[size, T]"
_IF_ONE_GROUP = f"if it is meant for a single group, say layout={_ONE_GROUP!r} to check that alone"
_FLAT = "[groups*size, T]"


def _described(trial: Trial, found: Explanation) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Which of the published objectives it is, in words, and what its expected gradient is."""
    if found.mistakes:
        alone = "baseline_of_the_batch" in found.mistakes and not trial.form.layout.lacks_batch
        return (_IF_ONE_GROUP,) if alone else (), {}
    _, level, advantage, average, *_ = found.names
    base, norm = average.split()
    ratios = {
        "token": "a ratio for each token",
        "product": "one ratio for the whole response",
        "geometric_mean": "one ratio for each response, a geometric mean (GSPO)",
    }
    known = bool(trial.form.facts & OLD)
    ratio = ratios[level] if known else "no ratio: right only for the policy that drew the responses"
    total = (
        ""
        if norm == "GS" or base == "tokens"
        else "; a sum over " + {"1": "all responses", "G": "the responses"}.get(norm, "the groups")
    )
    given = "rewards" not in trial.form.facts
    first = "advantages as given" if given else described(advantage)
    details = {} if given else _bias(trial)
    return (f"the objective: {first}; {ratio}; {RIGHT_BASES[base]}{total}",), details


def _bias(trial: Trial) -> dict[str, Any]:
    """Angle and length of the expected gradient against the true one, over all ordered groups of three responses."""
    padded = bool(trial.form.facts & MASKS)
    tokens = torch.tensor([[0, 0], [1, 0], [1, 1]] if padded else [[0, 0], [0, 1], [1, 0], [1, 1]])
    lengths = torch.tensor([1, 2, 2] if padded else [2, 2, 2, 2])
    taken = torch.arange(2) < lengths[:, None]
    preferences = torch.tensor([[[0.5, 0.0], [0.0, 0.3], [0.2, 0.0]], [[-1.0, 0.0], [0.4, 0.0], [0.0, 0.7]]], dtype=F64)
    rewards = torch.tensor([[1.0, 0.0, 3.0, 1.0], [0.0, 2.0, 0.0, 1.0]], dtype=F64)
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


def _expected_slopes(trial: Trial, log_probs: Tensor, probability: Tensor, rewards: Tensor, taken: Tensor) -> Tensor:
    """E Σ_i of the slope by each token of each response, where the group is drawn from the responses."""
    total = torch.zeros_like(log_probs)
    numbers = torch.arange(len(log_probs))
    first = trial.bench.cases[0].inputs
    clip = first["clip"], first["clip_high"]
    for group in torch.cartesian_prod(numbers, numbers, numbers):
        new = torch.where(taken[group], log_probs[group], -0.4)[None]
        inputs = _inputs(new, new, rewards[group][None], taken[group][None], clip)
        slope = slopes_in(trial, inputs)[0]
        total.index_add_(0, group, probability[group].prod() * torch.where(taken[group], slope, 0.0))
    return total


# --- how it is called ---


def _readings(roles: frozenset[str]) -> list[Reading]:
    found = _of_rewards(roles)
    return [*found, *(r for plain in found for r in bounds_themselves(roles, plain))]


def _of_rewards(roles: frozenset[str]) -> list[Reading]:
    """What rewards, or advantages in their place, may be."""
    if "rewards" not in roles:

        def columns(x: Any) -> Tensor:
            found: Tensor = x.rewards.flatten()[:, None]
            return found

        def tokens(x: Any) -> Tensor:
            return columns(x).expand(-1, x.log_probs.shape[-1])

        plain = frozenset(["advantages"])
        return [
            Reading(layouts=(_FLAT,)),
            Reading(", advantages [N, 1]", {"advantages": columns}, layouts=(_FLAT,), plain=plain),
            Reading(", advantages [N, T]", {"advantages": tokens}, layouts=(_FLAT,), plain=plain),
            Reading(layouts=(_BATCHED,)),
        ]
    matrix = Reading(", rewards [groups, size]", layouts=(_FLAT,), plain=frozenset(["rewards"]))
    if roles & {"group_size", "group_ids"}:
        return [Reading(layouts=(_FLAT, _BATCHED)), matrix]
    return [Reading(layouts=(_BATCHED,)), matrix, Reading(layouts=(_ONE_GROUP,))]


def _reduced(output: Tensor, x: Mapping[str, Any]) -> Tensor | None:
    if output.numel() == x["mask"].numel():
        return (output.reshape(x["mask"].shape) * weights_of("response GS", x["mask"])).sum()
    return output.mean() if output.numel() == x["mask"][..., 0].numel() else None


def _group_ids(x: Any) -> Tensor:
    groups, size = x.rewards.shape
    return torch.arange(groups)[:, None].expand(groups, size)


@functools.cache
def _check(clip: tuple[float, float]) -> Check:
    """The check of a loss that clips there, if it does not take its bounds."""
    return Check(
        "grpo",
        9,
        args=(
            *loss_args("groups size T"),
            Arg("rewards", "groups size", "scores score returns group_rewards outcome_rewards"),
            Arg("advantages", "groups size", of=lambda x: x.rewards),
            Arg("ref_log_probs", "groups size T"),
            Arg("beta"),
            Arg("group_size", also="g k", of=lambda x: x.rewards.shape[-1]),
            Arg("group_ids", "groups size", of=_group_ids),
        ),
        needs=(LOG_PROBS, "rewards|advantages"),
        signature=("log_probs", "old_log_probs", "rewards", "mask"),
        axes="groups size T",
        layouts=(_BATCHED, _FLAT, _ONE_GROUP),
        reference=_loss(),
        cases=functools.partial(cases, clip=clip),
        mistakes=MISTAKES,
        readings=_readings,
        implied=implied,
        observe=slopes.by("log_probs", _reduced),
        space=space,
        describe=_described,
        unstated=functools.partial(_unstated, clip=clip),
        batched=True,
        of_the_container=("grpo.no_gradient",),
        quantity="slopes of the loss by the log-probabilities",
        example="call=lambda x: f(x.log_probs, x.old_log_probs, x.rewards, mask=x.mask)  # [groups, size, T]",
    )


CHECK = _check((0.2, 0.2))
