"""Is this the clipped loss of PPO? And if not, which known mistake is it?"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking import slopes
from pgtheory.checking.calling import Arg, Call, Reading
from pgtheory.checking.clipped import (
    ADVANTAGE_REMARKS,
    ADVANTAGE_SPECS,
    ADVANTAGES,
    CLIP_IGNORED,
    CLIP_SPECS,
    ENTROPY_SPEC,
    LEVEL_SPECS,
    OTHER_BOUNDS,
    SIGN,
    SURROGATE_REMARKS,
    SURROGATE_SPECS,
    SURROGATES,
    Samples,
    Surrogate,
    batch_advantages,
    drives,
    fitting_bounds,
    met,
    ratios_around,
)
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.loss import (
    AVERAGES,
    CLIPS,
    F64,
    LEVELS,
    LOG_PROBS,
    MASKS,
    OLD_LOG_PROBS,
    Grid,
    Spec,
    as_mistakes,
    axis_of,
    bounds_themselves,
    entropy_of,
    implied,
    level_ratios,
    loss_args,
    once,
    other_bounds,
    slopes_in,
    values,
    weights_of,
)
from pgtheory.checking.report import Report, issue, pull
from pgtheory.checking.space import Axis, Explanation, Space
from pgtheory.checking.verdicts import Trial


def check_ppo(
    function: Callable[..., Any] | None = None,
    *,
    clip: float | tuple[float, float] = 0.2,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check a loss that should be the clipped surrogate of PPO, to be minimised.

    Equations :eq:`eq-ppo-clip` and :eq:`eq-ppo-loss`. The slopes of the loss by the log-probabilities are compared, not
    its value. The function may be `loss(log_probs, old_log_probs, advantages)`, with a `mask` of the steps taken and a
    `clip` if it likes, on `[N]`, `[N, T]` or `[N, 1]`; by the names of its arguments it may take the `ratio`, or
    `logits` and `actions`, instead of log-probabilities, the two bounds as `clip_low` and `clip_high`, and the
    `entropy`. It returns one number, or one for each step, alone or first in a tuple, or under `loss` in a dictionary.
    Mean over the steps, mean over episodes and sum are all right; of a term of entropy the sign counts.

    Args:
        function: the implementation.
        clip: the :math:`\varepsilon` of a function that does not take it, or the pair of both.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.log_probs, x.ratio, x.advantages)`;
            they are `x.log_probs`, `x.old_log_probs`, `x.advantages`, `x.mask`, `[N, T]`, and what follows from them.
        layout: the order of axes, such as `"[N, T]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"x": "log_probs"}`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called in any form, or does not return a loss.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Schulman, Wolski, Dhariwal, Radford and Klimov, "Proximal Policy Optimization Algorithms", 2017, eq. (7).

    Example:
        >>> def loss(log_probs, old_log_probs, advantages):
        ...     ratio = (log_probs - old_log_probs).exp()
        ...     return -(ratio.clamp(0.8, 1.2) * advantages).mean()
        >>> print(check_ppo(loss).headline)
        check_ppo: WRONG, a known mistake: only the clipped term, without the minimum with the unclipped one
    """
    return _check(clip if isinstance(clip, tuple) else (clip, clip)).judge(
        function, call=call, layout=layout, names=names
    )


# --- averages ---

_AVERAGE_REMARKS = {
    "episodes": "it sums over the steps of an episode and averages over episodes, not over the steps",
    "sum": "it sums over the steps: its gradient grows with the size of the batch",
    "episode_means": "it averages over the steps of each episode first: steps of long episodes count less",
}


# --- the known mistakes ----------------------------------------------------------------------------------------------

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
        values("average", "all_mean", "all_sum", "all_episodes", "all_steps"),
    ),
)
_MINIMUM_OF_MEANS = Spec(
    "minimum_of_means",
    "the minimum is taken of the two means, not step by step",
    "The ratios, and the clipped ratios, times A are averaged first, and the smaller of the two numbers is taken: the "
    "gradient of the whole batch is cut, or that of no step.",
    "With one step it is right.",
    (issue("Omegastick/pytorch-cpp-rl", 14),),
    values("surrogate", "minimum_of_means"),
)
_SPECS = (
    SIGN,
    *SURROGATE_SPECS,
    _MINIMUM_OF_MEANS,
    *CLIP_SPECS,
    *LEVEL_SPECS,
    *ADVANTAGE_SPECS,
    *_AVERAGE_SPECS,
    ENTROPY_SPEC,
)


def _loss(
    surrogate: str = "clipped",
    level: str = "token",
    advantage: str = "given",
    average: str = "steps",
    sign: float = 1.0,
    entropy: float = 0.0,
) -> Callable[..., Tensor]:
    """The loss that consists of these factors; with a coefficient of the entropy it takes that as well."""

    def loss(
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        mask: Tensor,
        clip: float = 0.2,
        clip_high: float = 0.2,
    ) -> Tensor:
        a = met(advantage, advantages, mask)
        ratios = level_ratios(log_probs - old_log_probs, mask)[LEVELS.index(level)]
        bounds = (torch.tensor(1.0 - clip, dtype=F64), torch.tensor(1.0 + clip_high, dtype=F64))
        if surrogate == "minimum_of_means":
            return -sign * _minimum_of_means(ratios, a[0], mask, bounds)
        value = {**SURROGATES, **CLIP_IGNORED}[surrogate](old_log_probs + ratios, old_log_probs, a, *bounds)
        return -sign * (weights_of(average, mask) * value.mean(0)).sum()

    def with_entropy(
        log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, entropy_coef: float
    ) -> Tensor:
        added = entropy / 0.05 * entropy_coef * weights_of(average, mask) * entropy_of(log_probs)
        return loss(log_probs, old_log_probs, advantages, mask) + added.sum()

    return with_entropy if entropy else loss


def _minimum_of_means(log_ratio: Tensor, a: Tensor, taken: Tensor, bounds: tuple[Tensor, Tensor]) -> Tensor:
    """The smaller mean of ρA and of its clipped form, over the steps `[..., N, T]` that were taken."""
    ratio = log_ratio.exp()
    means = [torch.where(taken, x * a, 0.0).sum((-2, -1)) / taken.sum() for x in (ratio, ratio.clamp(*bounds))]
    return torch.minimum(*means)


MISTAKES = as_mistakes("ppo", _SPECS, _loss)

# --- the cases ---


def cases(facts: frozenset[str], clip: tuple[float, float] = (0.2, 0.2)) -> list[Case]:
    """Single transitions first, then batches, then what is hidden behind a mask, or in a hole of it."""
    others = [other_bounds(clip, facts)] if facts & CLIPS else []
    found = [single(ratio, a, clip) for ratio, a in _transitions(*clip)]
    found += [single(r, a, (e[0], e[1])) for e in others for r, a in _transitions(e[0], e[1])[2:14]]
    if not facts & {"probs", "old_probs"}:
        small = ((math.exp(0.125), 1.0), (math.exp(-0.125), -1.0))
        found += [single(ratio, a, clip, old=-800.0) for ratio, a in small if not facts & _WITH_ENTROPY]
    found += [case(2, [[1, 1]], clip), case(3, [[1, 1, 1]], clip), case(4, [[1, 1]] * 3, clip)]
    if facts & MASKS:
        padded = ("10 11", "111 100", "11100 10000", "1100 1111 1000", "101 110", "01101 11011 10000")
        found += [case(10 + i, [[int(c) for c in row] for row in rows.split()], clip) for i, rows in enumerate(padded)]
        empty = case(17, [[1, 1, 0], [0, 0, 0]], clip)
        found.append(empty._replace(delicate="it fails where no step of an episode was taken", or_fails=True))
    return found


def _transitions(low: float, high: float) -> list[tuple[float, float]]:
    """Ratios and advantages: at 1, inside, beyond each bound, and far out; none near a kink."""
    rest = [(r, a) for r in ratios_around(low, high) for a in (2.0, -1.5)]
    return [(1.0, 1.0), (1.0, -1.0), *rest, (1.0, 0.0)]


def _inputs(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: tuple[float, float]) -> dict[str, Any]:
    tensors = {"log_probs": new, "old_log_probs": old, "advantages": advantages, "mask": mask}
    return {**tensors, "clip": clip[0], "clip_high": clip[1]}


def single(ratio: float, a: float, clip: tuple[float, float], old: float | None = None) -> Case:
    """One transition."""
    behind = torch.tensor([[(-0.75 if ratio < 1.9 else -3.25) if old is None else old]], dtype=F64)
    one = torch.ones(1, 1, dtype=F64)
    return Case(_inputs(behind + math.log(ratio), behind, a * one, one > 0, clip))


def case(seed: int, rows: Sequence[Sequence[int]], clip: tuple[float, float]) -> Case:
    """A batch of fixed numbers, with others where the mask is 0."""
    taken = torch.tensor(rows) > 0
    place = torch.arange(taken.numel(), dtype=F64).reshape(taken.shape) + 1.7 * seed
    old = -1.5 - (1.3 * place).cos() / 2
    log_ratio = 0.55 * (2.1 * place).sin()
    advantages = (10 * (3.7 * place).cos() + 1.0).round() / 4
    new = torch.where(taken, old + log_ratio, old - 0.4)
    hidden = (advantages * 3.0 + 20.0) * torch.where(place.floor() % 2 == 0, 1.0, -1.0)
    return Case(_inputs(new, torch.where(taken, old, -0.7), torch.where(taken, advantages, hidden), taken, clip))


# --- the hypotheses ---

_WITH_ENTROPY = frozenset(["logits", "entropy", "entropy_coef"])
_ENTROPY_REMARK = "its term of entropy has the right sign: it is subtracted"


def space(found: Sequence[Case], facts: frozenset[str], more: Mapping[str, Surrogate] | None = None) -> Space:
    """All hypotheses about a function that is told these facts; with `more`, these surrogates alone."""
    entropy = bool(facts & _WITH_ENTROPY)
    surrogates = tuple(more or (*SURROGATES, "minimum_of_means", *(CLIP_IGNORED if facts & CLIPS else OTHER_BOUNDS)))
    axes = [
        axis_of(surrogates, "surrogate", _SPECS, {} if more else SURROGATE_REMARKS),
        axis_of(LEVELS, "level", _SPECS, {}),
        axis_of((*ADVANTAGES, "pairs"), "advantage", _SPECS, ADVANTAGE_REMARKS),
        axis_of(AVERAGES, "average", _SPECS, _AVERAGE_REMARKS),
    ]
    if entropy:
        axes += [Axis(("none", "entropy")), Axis(("same", *AVERAGES))]
    simple = next(i for i, c in enumerate(found) if c.inputs["mask"].numel() > 1)
    # In the first cases, of one step each, levels and averages make no difference but for the scale.
    return Space(
        axes,
        grids([c.inputs for c in found], surrogates, entropy=entropy, more=more or {}),
        n_parts=1 + entropy,
        unit=True,
        stages=(((0, 2, 4) if entropy else (0, 2), simple), ((1, 3), len(found))) if entropy else (((0, 2), simple),),
        of_scales=_entropy_sign if entropy else lambda names, scales: (),
        usual=(2,),
        fixed=(0, 4) if entropy else (0,),
    )


def _entropy_sign(names: Sequence[str], scales: Sequence[float]) -> tuple[str, ...]:
    return ("entropy_sign",) if names[4] == "entropy" and scales[1] > 0 else ()


def grids(
    cases: Sequence[Mapping[str, Any]],
    surrogates: Sequence[str],
    *,
    entropy: bool = False,
    more: Mapping[str, Surrogate] = MappingProxyType({}),
) -> list[Grid]:
    """The slopes of all hypotheses, case by case."""
    own, crossed = list[Samples](), list[Samples]()
    for x in cases:
        log_probs, old, advantages, taken = (x[name] for name in ("log_probs", "old_log_probs", "advantages", "mask"))
        ratios, clip = level_ratios(log_probs - old, taken), (x["clip"], x["clip_high"])
        pairs = met("pairs", advantages, taken)
        of_each = torch.stack([batch_advantages(name, advantages, taken) for name in ADVANTAGES])
        own.append(Samples(ratios, old, of_each, clip))
        wide = ratios[:, None].expand(-1, *pairs.shape)
        crossed.append(Samples(wide, old.expand(pairs.shape), pairs[None], clip))
    known = [name for name in surrogates if name != "minimum_of_means"]
    driven = zip(drives(known, own, more), drives(known, crossed, more), strict=True)
    found = [torch.cat([of_own, of_pairs.mean(3)], 2) for of_own, of_pairs in driven]
    if len(known) < len(surrogates):
        at = surrogates.index("minimum_of_means")
        found = [_with_minimum_of_means(drive, at, x) for drive, x in zip(found, cases, strict=True)]
    return [
        Grid(drive, _weights(x["mask"]), x["mask"], _added(x) if entropy else None)
        for drive, x in zip(found, cases, strict=True)
    ]


@once
def _weights(taken: Tensor) -> Tensor:
    return torch.stack([weights_of(name, taken) for name in AVERAGES])


def _added(x: Mapping[str, Any]) -> Tensor:
    """The slopes of nothing, and of the entropy."""
    leaf = x["log_probs"].clone().requires_grad_()
    slope = torch.autograd.grad(entropy_of(leaf).sum(), leaf)[0]
    return torch.stack([torch.zeros_like(slope), slope])


def _with_minimum_of_means(drive: Tensor, at: int, x: Mapping[str, Any]) -> Tensor:
    """The slopes with those of the minimum of the means at a place: at the level of steps, and with no pairs."""
    taken, bounds = x["mask"], (torch.tensor(1 - x["clip"], dtype=F64), torch.tensor(1 + x["clip_high"], dtype=F64))
    of_each = torch.stack([batch_advantages(name, x["advantages"], taken) for name in ADVANTAGES])
    leaf = (x["log_probs"] - x["old_log_probs"] + torch.zeros_like(of_each)).requires_grad_()
    total = taken.sum() * _minimum_of_means(leaf, of_each, taken, bounds).sum()
    more = torch.full_like(drive[:1], torch.nan)
    more[0, 0, : len(of_each)] = -torch.autograd.grad(total, leaf)[0]
    return torch.cat([drive[:at], more, drive[at:]])


def _described(trial: Trial, found: Explanation) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    rewarded = "entropy" in found.names[4:] and "entropy_sign" not in found.mistakes
    return (_ENTROPY_REMARK,) if rewarded else (), {}


def _unstated(trial: Trial, clip: tuple[float, float]) -> str:
    """Which bounds would make a function right that does not take them."""
    if trial.form.facts & CLIPS:
        return ""

    def slope(ratio: float, a: float) -> float:
        return float(slopes_in(trial, single(ratio, a, clip).inputs).sum())

    return fitting_bounds(trial, clip, slope, space)


def _reduced(output: Tensor, x: Mapping[str, Any]) -> Tensor | None:
    taken: Tensor = x["mask"]
    return output.reshape(taken.shape)[taken].mean() if output.numel() == taken.numel() else None


def _readings(roles: frozenset[str]) -> list[Reading]:
    layouts = ("[N, T]", "[N*T]", "[N*T, 1]") if roles & MASKS else ("[N*T]", "[N, T]", "[N*T, 1]")
    notes = ("its value loss is not judged",) if roles & {"values", "returns"} else ()
    plain = Reading(layouts=layouts, notes=notes)
    return [plain, *bounds_themselves(roles, plain)]


@functools.cache
def _check(clip: tuple[float, float]) -> Check:
    """The check of a loss that clips there, if it does not take its bounds."""
    return Check(
        "ppo",
        8,
        args=(
            *loss_args("N T"),
            Arg("advantages", "N T"),
            Arg("entropy", "N T", of=lambda x: entropy_of(x.log_probs)),
            Arg("entropy_coef", of=lambda x: 0.05),
            Arg("values", "N T", "new_values newvalue", of=lambda x: 0.5 * x.advantages + 1.0),
            Arg("old_values", "N T", of=lambda x: 0.4 * x.advantages + 1.1),
            Arg("returns", "N T", of=lambda x: x.advantages + 1.0),
            Arg("value_coef", of=lambda x: 0.5),
        ),
        needs=(LOG_PROBS, OLD_LOG_PROBS, "advantages"),
        signature=("log_probs", "old_log_probs", "advantages"),
        axes="N T",
        layouts=("[N, T]", "[N*T]", "[N*T, 1]"),
        reference=_loss(),
        cases=functools.partial(cases, clip=clip),
        mistakes=MISTAKES,
        readings=_readings,
        implied=implied,
        observe=slopes.by("log_probs", _reduced),
        space=space,
        describe=_described,
        unstated=functools.partial(_unstated, clip=clip),
        of_the_container=("ppo.no_gradient",),
        quantity="slopes of the loss by the log-probabilities",
        example="call=lambda x: f(x.log_probs, x.old_log_probs, x.advantages)  # [N, T]",
    )


CHECK = _check((0.2, 0.2))
