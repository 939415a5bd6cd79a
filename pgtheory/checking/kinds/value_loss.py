"""Is this the loss of a value function, clipped or not? And if not, which known mistake is it?"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgtheory.checking import slopes
from pgtheory.checking.calling import Arg, Call, Reading
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.loss import AVERAGES, F64, MASKS, Spec, as_mistakes, axis_of, slopes_in, values, weights_of
from pgtheory.checking.names import normalised
from pgtheory.checking.report import Report, Source, issue, pull
from pgtheory.checking.space import Explanation, Space
from pgtheory.checking.verdicts import Trial, quietly

_PPO2 = Source(
    "OpenAI Baselines, ppo2/model.py", "https://github.com/openai/baselines/blob/master/baselines/ppo2/model.py"
)


def check_value_loss(
    function: Callable[..., Any] | None = None,
    *,
    clip: float = 0.2,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check the loss of a value function: squared errors, with PPO's clip around the old values or without.

    Equation :eq:`eq-value-loss`. The slopes of the loss by the values are compared, not its value. The function may be
    `loss(values, old_values, returns, clip)` or `loss(values, returns)`, with a `mask` of the steps that count if it
    likes, on `[N]`, `[N, T]` or `[N, 1]`. With `vpreds`, `new_values` or the like beside `values`, the latter are the
    old ones. The maximum of the clipped and the unclipped squared error, the squared error alone and Huber's loss are
    right, with the factor 1/2 or without, averaged in any of the usual ways; the report says which it is.

    Args:
        function: the implementation.
        clip: the bound of a function that does not take it.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.values, x.returns)`; they are
            `x.values`, `x.old_values`, `x.returns`, `x.mask`, `[N, T]`, and `x.clip`.
        layout: the order of axes, such as `"[N, T]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"x": "values"}`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called in any form, or does not return a loss.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        The clipped form is that of the code of Schulman et al., 2017; Engstrom et al., "Implementation Matters in Deep
        Policy Gradients", 2020, section 3.

    Example:
        >>> import torch
        >>> def loss(values, old_values, returns, clip):
        ...     clipped = old_values + (values - old_values).clamp(-clip, clip)
        ...     return torch.min((values - returns) ** 2, (clipped - returns) ** 2).mean()
        >>> print(check_value_loss(loss).headline)
        check_value_loss: WRONG, a known mistake: the minimum of the two squared errors, not the maximum
    """
    return _check(float(clip)).judge(function, call=call, layout=layout, names=names)


# --- what a loss may be: its slopes by each value, for half of the squared error ---


class _Errors(NamedTuple):
    """The error, that of the clipped value, and whether the clip is inactive."""

    v: Tensor
    old: Tensor
    returns: Tensor
    clip: float

    @property
    def own(self) -> Tensor:
        return self.v - self.returns

    @property
    def inside(self) -> Tensor:
        return (self.v - self.old).abs() < self.clip

    @property
    def clipped(self) -> Tensor:
        return self.old + (self.v - self.old).clamp(-self.clip, self.clip) - self.returns


def _larger(one: Tensor, slope: Tensor, other: Tensor, other_slope: Tensor) -> Tensor:
    return torch.where(one.abs() >= other.abs(), slope, other_slope)


def _with(clipped: Callable[[_Errors], tuple[Tensor, Tensor]]) -> Callable[[_Errors], Tensor]:
    """The maximum with the squared error of another clipped value, given that and its slope."""

    def drive(e: _Errors) -> Tensor:
        value, slope = clipped(e)
        return _larger(e.own, e.own, value - e.returns, slope * (value - e.returns))

    return drive


def _huber(x: Tensor) -> Tensor:
    return x.clamp(-1, 1)


def _within(x: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return torch.minimum(torch.maximum(x, low), high), ((x > low) & (x < high)).to(F64)


_DRIVES: Mapping[str, Callable[[_Errors], Tensor]] = {
    "clipped": lambda e: _larger(e.own, e.own, e.clipped, e.clipped * e.inside),
    "unclipped": lambda e: e.own,
    "huber": lambda e: _huber(e.own),
    "huber_clipped": lambda e: _larger(e.own, _huber(e.own), e.clipped, _huber(e.clipped) * e.inside),
    "error_cut": lambda e: torch.where(e.own.square() < e.clip, e.own, 0.0),
    "minimum": lambda e: torch.where(e.own.abs() <= e.clipped.abs(), e.own, e.clipped * e.inside),
    "huber_minimum": lambda e: torch.where(e.own.abs() <= e.clipped.abs(), _huber(e.own), _huber(e.clipped) * e.inside),
    "clipped_alone": lambda e: e.clipped * e.inside,
    "maximum_first": lambda e: torch.where(e.own >= e.clipped, e.own, e.clipped * e.inside),
    "error_clamped": lambda e: torch.where(e.own.abs() < e.clip, e.own, 0.0),
    "value_clamped": _with(lambda e: _within(e.v, torch.full_like(e.v, -e.clip), torch.full_like(e.v, e.clip))),
    "relative": _with(lambda e: _within(e.v, e.old - e.clip * e.old.abs(), e.old + e.clip * e.old.abs())),
    "around_one": _with(lambda e: _within(e.v, e.old + 1 - e.clip, e.old + 1 + e.clip)),
    "roles_swapped": _with(lambda e: (e.v + (e.old - e.v).clamp(-e.clip, e.clip), (~e.inside).to(F64))),
    "sign_of_clip": _with(lambda e: (e.old - (e.v - e.old).clamp(-e.clip, e.clip), -e.inside.to(F64))),
    "no_gradient": lambda e: 0.0 * e.v,
    "to_old": lambda e: e.v - e.old,
    "to_advantage": lambda e: e.v - (e.returns - e.old),
}
_TOGETHER = ("broadcast", "broadcast_clipped", "maximum_of_means")
_SAID = {
    "clipped": "the maximum of the squared errors of the value and of the clipped value (PPO)",
    "unclipped": "the squared error, without a clip",
    "huber": "Huber's loss (smooth L1), without a clip",
    "huber_clipped": "the maximum of Huber's losses of the value and of the clipped value",
    "error_cut": "the squared error, itself cut at the clip (RLlib): a large error has no gradient",
}
_SAID_OF_AVERAGES = {
    "steps": "averaged over the steps",
    "episodes": "summed over each row, averaged over rows",
    "sum": "summed",
    "episode_means": "averaged over each row, then over rows",
}


_AVERAGES = (*AVERAGES, "mask_on", "mask_back")


def _weights(name: str, taken: Tensor) -> Tensor:
    """The weight of each place, also where the mask is that of the place before or behind."""
    by = {"mask_on": 1, "mask_back": -1}.get(name)
    return weights_of("steps", taken.roll(by, -1)) if by else weights_of(name, taken)


def _drives(x: Mapping[str, Any]) -> Tensor:
    """The slopes `[form, average, N·T]`."""
    taken = x["mask"]
    e = _Errors(x["values"], x["old_values"], x["returns"], x["clip"])
    weights = torch.stack([_weights(name, taken) for name in _AVERAGES])
    drive = torch.stack([f(e) for f in _DRIVES.values()])
    crossed = [e._replace(returns=target.expand_as(e.v)) for target in x["returns"][taken]] or [e]
    own = torch.stack([c.own for c in crossed]).mean(0)
    clipped = torch.stack([_DRIVES["clipped"](c) for c in crossed]).mean(0)
    found = torch.cat([drive, own[None], clipped[None]])[:, None] * weights
    totals = [(weights * error.square()).flatten(1).sum(1) for error in (e.own, e.clipped)]
    slope = torch.where((totals[0] >= totals[1])[:, None, None], e.own, e.clipped * e.inside) * weights
    return torch.cat([found, slope[None]]).flatten(2)


_FORMS = (*_DRIVES, *_TOGETHER)


class _Grid(NamedTuple):
    """All hypotheses in one case."""

    table: Tensor

    def parts(self, index: Tensor) -> Tensor:
        """The slopes `[1, H, n]` of some hypotheses, for the scale 1."""
        return self.table[index[:, 0], index[:, 1]][None]


# --- the known mistakes ---

_IGNORED = Spec(
    "clip_ignored",
    "the clip has no effect",
    "The old values are taken and not used, or are the new ones computed again, or the clip is around the target, "
    "where the clipped error is never the larger: the loss is that of the error alone.",
    "The slopes do not change with the old values.",
    (issue("tensorflow/agents", 352), pull("kscalelabs/ksim", 3)),
    values("form", "unclipped", "huber", "error_cut"),
)
_SPECS = (
    Spec(
        "sign",
        "the sign is wrong: the error is made larger",
        "The loss is minus the squared error.",
        "The slope has the sign of the target minus the value.",
        (),
        ({"sign": -1.0},),
        (_PPO2,),
    ),
    Spec(
        "minimum",
        "the minimum of the two squared errors, not the maximum",
        "PPO's surrogate is to be maximised, and takes the minimum; an error is to be minimised, and takes the "
        "maximum. With the minimum there is no gradient where a value that moved away from its target has to return.",
        "A value beyond the clip, on the far side of the old value from its target, has no gradient.",
        (issue("ray-project/ray", 2233), issue("leggedrobotics/rsl_rl", 152)),
        values("form", "minimum", "huber_minimum"),
    ),
    Spec(
        "clipped_alone",
        "only the clipped error, without the maximum with the other",
        "Beyond the clip the gradient is 0 on both sides: a value that went the wrong way never comes back.",
        "There is no gradient wherever the value is further from the old one than the clip.",
        (issue("openai/baselines", 1134),),
        values("form", "clipped_alone"),
    ),
    Spec(
        "maximum_before_square",
        "the maximum is taken before squaring",
        "The larger of two errors with their signs is not the one that is larger in size.",
        "For a value above its target it is right, below not.",
        (issue("implementation-matters/code-for-paper", 1),),
        values("form", "maximum_first"),
    ),
    Spec(
        "error_clamped",
        "the error is clamped, not the change of the value",
        "The difference to the target is cut at the clip and squared: an error that is larger has no gradient, and is "
        "never mended.",
        "The loss does not change with the old values; large errors have no slope.",
        (),
        values("form", "error_clamped"),
        (_PPO2,),
    ),
    Spec(
        "clip_of_another_value",
        "the clip is around 0, around 1 more, or in per cent, not around the old value",
        "The value itself, its quotient by the old value, or its difference from it plus 1 is clipped, as if it were a "
        "ratio. The bounds are the old value minus and plus the clip.",
        "Shifting values, old values and returns alike changes the slopes.",
        (),
        values("form", "value_clamped", "relative", "around_one"),
        (_PPO2, issue("openai/baselines", 765)),
    ),
    Spec(
        "old_and_new_swapped",
        "old and new values are exchanged in the clip",
        "The old value is clipped around the new one, or the change is taken off: beyond the clip the gradient is that "
        "of another value, and within it there is none.",
        "Near the old value the clipped term has no slope, or the opposite one.",
        (),
        values("form", "roles_swapped", "sign_of_clip"),
        (_PPO2,),
    ),
    Spec(
        "no_gradient",
        "the loss has no gradient",
        "The values were detached, or collected as numbers, or the old ones stand in their place: nothing is learned.",
        "All slopes are 0.",
        (pull("jsboige/CoursIA", 15256), pull("ray-project/ray", 22171)),
        values("form", "no_gradient"),
    ),
    Spec(
        "target_is_the_old_value",
        "the target is the old value, not the return",
        "The value function is fitted to itself.",
        "The slopes do not change with the returns.",
        (),
        values("form", "to_old"),
        (_PPO2,),
    ),
    Spec(
        "target_is_the_advantage",
        "the target is the advantage, not the return",
        "The advantage is the return minus the value: the value is to be added before it is a target.",
        "A value is drawn to the return minus the old value.",
        (),
        values("form", "to_advantage"),
        (_PPO2,),
    ),
    Spec(
        "broadcast",
        "broadcasting [N, 1] against [N]: each value meets the returns of all steps",
        "The differences form an N × N matrix, and every value is drawn to the mean of all returns.",
        "It is right with one step. Equal values have equal slopes, whatever their returns.",
        (issue("RLinf/RLinf", 1568), issue("pytorch/pytorch", 16045)),
        values("form", "broadcast", "broadcast_clipped"),
    ),
    Spec(
        "maximum_of_means",
        "the maximum of the two means, not the mean of the maxima",
        "The clip is switched on and off for the whole batch, by one number.",
        "It is right with one step.",
        (),
        values("form", "maximum_of_means"),
        (_PPO2,),
    ),
    Spec(
        "mean_over_padding",
        "the mean is taken over the padding as well",
        "The masked sum is divided by the number of all places, not by that of the steps that count.",
        "More padding makes the gradient smaller.",
        (),
        values("average", "padded"),
        (pull("instadeepai/Mava", 894),),
    ),
    Spec(
        "mask_ignored",
        "the mask is ignored: padding is fitted",
        "What stands behind the end of an episode enters the loss like a step that was taken.",
        "There are slopes at places where the mask is False.",
        (issue("instadeepai/Mava", 628), pull("instadeepai/Mava", 441)),
        values("average", "all_mean", "all_sum", "all_episodes"),
    ),
    Spec(
        "mask_of_another_place",
        "the mask is one place off",
        "The values of a model stand one place before the tokens, and the mask was sliced for one of them: a step that "
        "counts is left out, and one that does not is fitted.",
        "There is a slope at a place where the mask is False, beside one without where it is True.",
        (issue("verl-project/verl", 1758), pull("allenai/open-instruct", 1462)),
        values("average", "mask_on", "mask_back"),
    ),
)


def _loss(form: str = "clipped", average: str = "steps", sign: float = 1.0) -> Callable[..., Tensor]:
    """A function that has these slopes."""

    def loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
        v = values.detach()
        x = {"values": v, "old_values": old_values, "returns": returns, "mask": mask, "clip": clip}
        slope = _drives(x)[_FORMS.index(form), _AVERAGES.index(average)]
        return sign * (slope * values.flatten()).sum()

    return loss


MISTAKES = as_mistakes("value_loss", (*_SPECS, _IGNORED), _loss)


# --- the cases ---

# The value, the old one, and the target, in units of the clip from the old value: within the clip, beyond it on the
# side of the target, beyond it on the other, and past the target; none at a kink.
_TRIPLES = ((0.5, 5.0), (0.5, -3.5), (2.5, 10.0), (2.5, -4.0), (2.5, 1.6), (2.5, 1.8), (-3.0, -9.0), (-3.0, 5.0))
_MORE_TRIPLES = ((-3.0, -1.8), (-3.0, -2.4), (0.6, 1.4), (-0.4, 0.1), (6.0, 60.0), (-6.0, 60.0), (1.5, 40.0))


def cases(facts: frozenset[str], clip: float = 0.2) -> list[Case]:
    """Single steps first, then batches, then what is hidden behind a mask, or in a hole of it."""
    old = itertools.cycle((1.0, -0.7, 0.3, 2.2))
    found = [
        _single(change, target, o, clip) for (change, target), o in zip(_TRIPLES + _MORE_TRIPLES, old, strict=False)
    ]
    if "clip" in facts:
        found += [_single(change, target, 0.4, 2.5 * clip) for change, target in _TRIPLES]
    found += [
        _batch(2, ["11"], clip),
        _batch(3, ["111"], clip),
        _batch(4, ["11"] * 3, clip),
        _batch(5, ["1111"] * 2, clip),
    ]
    if facts & MASKS:
        padded = ("10 11", "111 100", "11100 10000", "1100 1111 1000", "101 110", "01101 11011 10000")
        found += [_batch(10 + i, rows.split(), clip) for i, rows in enumerate(padded)]
        empty = _batch(17, ["110", "000"], clip)
        found.append(empty._replace(delicate="it fails where no step of a row counts", or_fails=True))
    return found


def _single(change: float, target: float, old: float, clip: float) -> Case:
    one = torch.ones(1, 1, dtype=F64)
    unit = 1.037 * clip  # no round number: a bound that people choose is nowhere reached exactly
    v = {"values": (old + change * unit) * one, "old_values": old * one, "returns": (old + target * unit) * one}
    return Case({**v, "mask": one > 0, "clip": clip})


def _batch(seed: int, rows: Sequence[str], clip: float) -> Case:
    """A batch of fixed numbers, with others where the mask is 0."""
    taken = torch.tensor([[c == "1" for c in row] for row in rows])
    place = torch.arange(taken.numel(), dtype=F64).reshape(taken.shape) + 1.7 * seed
    old = (1.3 * place).cos()
    v = old + 2.7 * clip * (2.1 * place).sin()
    returns = torch.where(taken, old + 1.5 * (3.7 * place).cos(), 25.0)
    return Case({"values": v, "old_values": old, "returns": returns, "mask": taken, "clip": clip})


# --- the hypotheses ---


def space(found: Sequence[Case], facts: frozenset[str]) -> Space:
    """All hypotheses about a function that is told these facts."""
    for_the_clip = "old_values" in facts and ("clip" in facts or "returns" in facts)  # else for the target
    specs = (*_SPECS, _IGNORED) if for_the_clip else _SPECS
    simple = next(i for i, c in enumerate(found) if c.inputs["mask"].numel() > 1)
    return Space(
        [axis_of(_FORMS, "form", specs, {}), axis_of(_AVERAGES, "average", specs, {})],
        [_Grid(_drives(case.inputs)) for case in found],
        stages=(((0,), simple),),
        fixed=(0,) if for_the_clip else (),
    )


def _described(trial: Trial, found: Explanation) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Which loss it is, in words."""
    if found.mistakes:
        return (), {}
    form, average = found.names
    factor = {0.5: "with the factor 1/2", 1.0: "without the factor 1/2"}.get(round(found.scales[0] / 2, 4))
    scale = factor or f"with the factor {found.scales[0] / 2:.4g}"
    where = "" if trial.bench.cases[0].inputs["mask"].numel() > 1 else f", {_SAID_OF_AVERAGES[average]}"
    return (f"it is {_SAID[form]}{where}, {scale}",), {}


def _unstated(trial: Trial, clip: float) -> str:
    """Which clip would make a function right that does not take one."""
    if "clip" in trial.form.facts or "old_values" not in trial.form.facts:
        return ""

    def slope(change: float) -> float:
        one = torch.ones(1, 1, dtype=F64)
        x = {"values": change * one, "old_values": 0.0 * one, "returns": 100.0 * one, "mask": one > 0, "clip": clip}
        return float(slopes_in(trial, x).sum())

    low, high = 0.0, 50.0
    if abs(slope(high)) > 1e-9 or abs(slope(1e-6)) < 1e-9:
        return ""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if abs(slope(middle)) > 1e-9 else (low, middle)
    if abs(low - clip) < 1e-6:
        return ""
    moved = [case._replace(inputs={**case.inputs, "clip": low}) for case in trial.bench.plain]
    known = quietly(space, moved, trial.form.facts).explained(trial.counted)
    return f"it clips at {low:.4g}: give clip={low:.4g}" if known and not known.mistakes else ""


# --- how it is called ---

_NEW = (
    "new_values newvalue new_value vpred vpreds v_pred v_preds value_pred value_preds values_pred v_new vf_preds "
    "curr_values current_values vs_pred value_fn_out pred_value"
)
_OLD = (
    "old_value old_values values_old value_old prev_values prev_value old_vpred old_vpreds v_old old_v target_values "
    "old_value_preds old_value_pred rollout_values behavior_values oldvpred vs_pred_old prev_value_fn_out"
)
_NEW_NAMES, _OLD_NAMES = ({normalised(name) for name in names.split()} for names in (_NEW, _OLD))


def _implied(parameters: Sequence[Parameter]) -> Mapping[str, str]:
    """`values` are the old ones beside new ones."""
    spelled = {p.name: normalised(p.name) for p in parameters}
    found = {name: "old_values" for name, word in spelled.items() if word in _OLD_NAMES}
    found |= {name: "old_values" for name in spelled if name == "value_preds_batch"}  # beside `values`, the new ones
    if len(found) > 1:  # beside old values a target is one
        found |= {name: "returns" for name in found if spelled[name] == "targetvalue"}
    if not found and _NEW_NAMES & set(spelled.values()):
        found = {name: "old_values" for name, word in spelled.items() if word == "value"}
    return found


def _reduced(output: Tensor, x: Mapping[str, Any]) -> Tensor | None:
    taken: Tensor = x["mask"]
    return output.reshape(taken.shape)[taken].mean() if output.numel() == taken.numel() else None


def _readings(roles: frozenset[str]) -> list[Reading]:
    return [Reading(layouts=("[N, T]", "[N*T]", "[N*T, 1]") if roles & MASKS else ("[N*T]", "[N, T]", "[N*T, 1]"))]


@functools.cache
def _check(clip: float) -> Check:
    """The check of a loss that clips there, if it does not take its clip."""
    return Check(
        "value_loss",
        7,
        args=(
            Arg("values", "N T", also=f"{_NEW} prediction predictions pred preds critic_values critic"),
            Arg("old_values", "N T", also=_OLD),
            Arg("returns", "N T", also="target_value value_target"),
            Arg("mask", "N T", flag=True),
            Arg("padding", "N T", of=lambda x: ~x.mask, flag=True),
            Arg(
                "clip",
                also="cliprange_value clip_range_vf value_clip value_clip_range vf_clip vf_clip_param clip_vf "
                "clip_value clip_range_value value_clip_eps eps_clip_value cliprange_vf value_cliprange vf_clip_range "
                "value_eps_clip",
            ),
            Arg("advantages", "N T", of=lambda x: x.returns - x.old_values),
            Arg("value_coef", of=lambda x: 0.5),
        ),
        needs=("values", "returns|advantages"),
        signature=("values", "old_values", "returns", "clip"),
        axes="N T",
        layouts=("[N, T]", "[N*T]", "[N*T, 1]"),
        reference=_loss(),
        cases=functools.partial(cases, clip=clip),
        mistakes=MISTAKES,
        readings=_readings,
        implied=_implied,
        observe=slopes.by("values", _reduced),
        space=space,
        describe=_described,
        unstated=functools.partial(_unstated, clip=clip),
        of_the_container=("value_loss.no_gradient",),
        quantity="slopes of the loss by the values",
        example="call=lambda x: f(x.values, x.old_values, x.returns, x.clip)  # [N, T]",
    )


CHECK = _check(0.2)
