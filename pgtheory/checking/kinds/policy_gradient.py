"""Is the expected gradient of this REINFORCE loss that of J? And if not, which known mistake is it?"""

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgtheory.checking import misuse
from pgtheory.checking.calling import Call, Misfit, misunderstood
from pgtheory.checking.enumeration import GAMMAS, N_ACTIONS, N_STATES, Enumeration, enumeration
from pgtheory.checking.judge import Kind, agreed
from pgtheory.checking.kinds.policy_gradient_mistakes import MISTAKES
from pgtheory.checking.loss_forms import EXAMPLE, LossForm, forms
from pgtheory.checking.recipes import Recipe, faults, recipes, stacked_slopes
from pgtheory.checking.report import Counterexample, Report
from pgtheory.checking.verdicts import random_state_kept

# A right loss may compute in single precision; a known mistake may add 1e-5 to a denominator.
RIGHT, SAME = 1e-4, 1e-3
# The lengths of a gradient that a learning rate absorbs: c N^a γ^b.
_SCALES = tuple((a, b) for a in (0, 1, -1) for b in (0, 1, 2, -1))
# Discounts that a function without an argument for it may hold.
_USUAL_GAMMAS = (0.99, 0.95, 0.9, 0.98)


class Scale(NamedTuple):
    """The factor c N^a γ^b between two lists of expected gradients."""

    c: float
    a: int
    b: int

    def factors(self, known: Enumeration) -> Tensor:
        """The factor in each setting."""
        return self.c * _factors(known, self.a, self.b)


class Answers(NamedTuple):
    """What a loss answers in one form.

    Attributes:
        form: the form.
        known: all batches, and what is right for them.
        usable: the batches that count, `[B]`.
        gradients: by the logits of each step, `[B, 3, 3, A]`; NaN where the function failed.
        padding: the largest slope by a log-probability behind an end, `[B]`.
        remarks: what is worth knowing.
    """

    form: LossForm
    known: Enumeration
    usable: Tensor
    gradients: Tensor
    padding: Tensor
    remarks: tuple[str, ...]

    @property
    def finite(self) -> Tensor:
        """The batches that were answered, `[B]`."""
        return self.gradients.isfinite().flatten(1).all(-1)

    @property
    def settings(self) -> Tensor:
        """The settings that count, `[settings]`."""
        return torch.tensor(sorted(set(self.known.setting[self.usable].tolist())))

    @property
    def expected(self) -> Tensor:
        """The expected gradients in all settings, `[settings, S * A]`; NaN where the function failed."""
        return self.known.expectation(self.gradients)


class Verdict(NamedTuple):
    """What was found in one form: the keys of the mistakes; an empty tuple is an unknown one, None is none."""

    answers: Answers
    mistakes: tuple[str, ...] | None
    remarks: tuple[str, ...] = ()
    scale: Scale | None = None


def check_policy_gradient(
    loss: Callable[..., Any] | None = None,
    *,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check a REINFORCE loss: its expected gradient must be :math:`-\nabla J`, :eq:`eq-reinforce`.

    The expectation (:eq:`eq-expected-gradient`) is exact: over all batches of 1, 2 and 3 episodes of three small
    problems, at several discounts. The loss is `loss(log_probs, rewards, gamma, *, mask)` on tensors `[N, T]`, to be
    minimised. Behind the end of an episode `rewards` is 0, and `log_probs` is finite but means nothing, as what a
    network returns for padding. By the names of its arguments it may also take `lengths` or `dones` in place of the
    mask, no mask (then it gets one episode after another, as tensors or lists, or batches of equal lengths),
    `returns` or `advantages` in place of the rewards (then the returns to go), `logits` and `actions` in place of
    log-probabilities, and `values` as a baseline. It may return one number, one for each step or each episode (these
    are added over steps and averaged over episodes), a tuple that begins with the loss, or a dict that holds it.

    A positive constant factor, and a sum over the episodes in place of a mean, are right: the learning rate absorbs
    them.

    Args:
        loss: the implementation.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.log_probs, x.rewards, x.gamma)`; they
            are `x.log_probs`, `x.rewards`, `x.mask`, `x.values`, `x.actions`, `x.returns`, `[N, T]`, and `x.gamma`.
        layout: the order of axes, such as `"[T, N]"`, as in the report.
        names: what arguments are, such as `{"x": "log_probs"}`.

    Returns:
        The report; its details hold the bias, angle, length and variance in the largest setting.

    Raises:
        UnknownForm: the function cannot be called in any form, or does not return a loss.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", 1992;
        Sutton and Barto, *Reinforcement Learning*, 2018, section 13.3.

    Example:
        >>> from pgtheory import reinforce_loss
        >>> print(check_policy_gradient(reinforce_loss).headline)
        check_policy_gradient: right
        >>> def usual(log_probs, rewards, gamma, *, mask):
        ...     return reinforce_loss(log_probs, rewards, gamma, mask=mask, discount_states=False)
        >>> check_policy_gradient(usual).diagnosis
        'γ^t dropped'
    """
    report = _judged(loss, call, layout, names)
    if call is None:
        return report
    flags = ("mask", "padding", "dones")
    return misuse.explained_call("policy_gradient", flags, call, report, lambda c: _judged(None, c, layout, names))


def _judged(
    loss: Callable[..., Any] | None, call: Call | None, layout: str | None, names: Mapping[str, str] | None
) -> Report:
    """The report of a loss, as a function or as a call."""
    try:
        candidates = list(forms(loss, call, layout, names))
    except Misfit as error:
        raise misunderstood("policy_gradient", {"its arguments by their names": str(error)}, EXAMPLE) from None
    found, misfits = [], dict[str, str]()
    for meaning in dict.fromkeys(meaning for meaning, _, _ in candidates):
        verdict = _best([(tier, form) for m, tier, form in candidates if m == meaning], misfits)
        if verdict is not None:
            found.append((meaning, _report(verdict)))
    if not found:
        raise misunderstood("policy_gradient", misfits, EXAMPLE)
    return agreed(found)


def _best(candidates: Sequence[tuple[int, LossForm]], misfits: dict[str, str]) -> Verdict | None:
    """The verdict in the first form in which a loss is right, or else the simplest; None if it fits in none."""
    verdicts: list[Verdict] = []
    for tier, candidate in candidates:
        if tier > 0 and verdicts:
            break
        try:
            if candidate.is_padded and any(v.mistakes for v in verdicts) and not _may_be_right(candidate):
                continue
            verdict = _verdict(candidate)
        except Misfit as error:
            misfits[candidate.name] = str(error)
            continue
        if verdict.mistakes is None:
            return verdict
        verdicts.append(verdict)
    return min(verdicts, key=_simplicity, default=None)


def _simplicity(verdict: Verdict) -> float:
    """Known mistakes before unknown ones, few before many, and no gradient at all only where there is no other form.

    A form in which the loss is not one number is probably not the one that is meant.
    """
    if verdict.mistakes is None:
        return 0.0
    if verdict.mistakes == ("no_gradient",):
        return 100.0
    return len(verdict.mistakes) + 1.5 * bool(verdict.answers.form.notes) if verdict.mistakes else 200.0


def _verdict(form: LossForm) -> Verdict:
    """Call the loss for every batch, and compare the expectation with what is right.

    Raises:
        Misfit: it fails in all the batches that are tried first.
    """
    answers = _answers(form)
    found = _compared(answers)
    if found.mistakes is None or form.knows_gamma or not form.has_rewards:
        return found
    for gamma in _USUAL_GAMMAS:
        remark = f"it takes no γ, and seems to use γ = {gamma:g}"
        other = _compared(answers._replace(known=enumeration((gamma,)), remarks=(remark, *sorted(form.notes))))
        if other.mistakes != ():
            return min(other, found, key=_simplicity)
    return found


def _may_be_right(form: LossForm) -> bool:
    """Whether it is right in the settings of two episodes with the second discount: a quick look."""
    known = _known(form)
    few = [s.size == 2 and s.gamma == known.gammas[len(known.gammas) // 2] for s in known.settings]
    usable = form.usable(known) & torch.tensor(few)[known.setting]
    with _quiet():
        gradients, padding = form.gradients(known, usable)
    return _scale_of_right(Answers(form, known, usable, gradients, padding, ())) is not None


def _known(form: LossForm) -> Enumeration:
    return enumeration(GAMMAS if form.knows_gamma else (1.0,))


def _answers(form: LossForm) -> Answers:
    known = _known(form)
    usable = form.usable(known)
    with _quiet():
        gradients, padding = form.gradients(known, usable)
    remarks = sorted(form.notes)
    ones = usable & (known.sizes == 1)
    finite = gradients.isfinite().flatten(1).all(-1)
    if not finite[ones].any() and finite[usable & ~ones].any():
        usable = usable & ~ones
        remarks.append("it fails for a batch of one episode")
    if not form.knows_gamma:
        remarks.append("it takes no γ: only γ = 1 was tried")
    return Answers(form, known, usable, gradients, padding, tuple(remarks))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings, without printing, and with the state of the random numbers restored."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), random_state_kept():
        warnings.simplefilter("ignore")
        yield


def _compared(answers: Answers) -> Verdict:
    if float(answers.gradients[answers.usable].nan_to_num().abs().max()) < 1e-9:
        return Verdict(answers, ("no_gradient",) if _is_flat(answers) else ())
    if scale := _scale_of_right(answers):
        return _right_on_average(answers, scale)
    found = _diagnosis(answers)
    if found is None:
        return Verdict(answers, ())
    beside = _beside(answers)
    return Verdict(answers, tuple(dict.fromkeys([*found, *beside.mistakes])), beside.remarks)


def _is_flat(answers: Answers) -> bool:
    """Whether there are no slopes behind the ends either, as there are if a mask is turned round."""
    if not answers.form.is_padded:
        return True
    few = answers.usable & (answers.known.setting == answers.known.setting[answers.usable].max())
    with _quiet():
        _, behind = answers.form.gradients(answers.known, few, rewards_behind=7.0)
    return float(torch.cat([answers.padding[answers.usable], behind[few]]).max()) < 1e-9


def _right_on_average(answers: Answers, scale: Scale) -> Verdict:
    """The verdict where the expected gradients are right: the padding, and what single batches tell."""
    beside = _beside(answers)
    found = list(beside.mistakes)
    if _is_one_of(answers, _HARMLESS_IF_BROADCAST):
        found.append("broadcast")
    if found or beside.unknown:
        return Verdict(answers, tuple(found), beside.remarks, scale)
    remarks = [*_remarks_on_scale(scale), *beside.remarks]
    if _is_one_of(answers, _FULL_RETURNS):
        remarks.insert(0, f"{_BY_KEY['full_return'].name}: {_BY_KEY['full_return'].meaning}")
    return Verdict(answers, None, tuple(remarks), scale)


def _remarks_on_scale(scale: Scale) -> list[str]:
    parts = [f"{scale.c:.4g}"] if abs(scale.c - 1) > SAME else []
    parts += [{1: "N, the number of episodes,", -1: "1/N, for N episodes,"}[scale.a]] if scale.a else []
    parts += [{1: "γ", 2: "γ²", -1: "1/γ"}[scale.b]] if scale.b else []
    if not parts:
        return []
    return [f"its expected gradient is {' times '.join(parts)} times that of -J: the learning rate absorbs the factor"]


def _factors(known: Enumeration, a: int, b: int) -> Tensor:
    return torch.tensor([s.size**a * s.gamma**b for s in known.settings], dtype=torch.float64)


def _scale_of_right(answers: Answers) -> Scale | None:
    """The scale with which the expected gradients are those of -J in every setting, if there is one."""
    got = answers.expected[answers.settings]
    right = -answers.known.truth.flatten(1)
    for a, b in _SCALES:
        want = (_factors(answers.known, a, b)[:, None] * right)[answers.settings]
        c = float((got * want).sum() / want.square().sum())
        if c > 0 and bool(((got - c * want).norm(dim=-1) <= RIGHT * (c * want).norm(dim=-1)).all()):
            return Scale(c, a, b)
    return None


class Beside(NamedTuple):
    """What the padding shows, whatever the expected gradients are."""

    mistakes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    unknown: bool = False


def _beside(answers: Answers) -> Beside:
    """Whether slopes stand behind the ends, and whether more padding or other rewards in it change anything."""
    detached = ("baseline_not_detached",) if answers.form.by_values is not None else ()
    if not answers.form.is_padded:
        return Beside(detached)
    known = answers.known
    probes = answers.usable & answers.finite & (known.sizes == min(2, int(known.sizes[answers.usable].max())))
    few = [not s.problem.same_lengths and s.gamma in (known.settings[0].gamma, 0.5) for s in known.settings]
    probes &= torch.tensor(few)[known.setting]
    base, limit = answers.gradients[probes], SAME * float(answers.gradients[probes].abs().max())
    with _quiet():
        dirty, behind = answers.form.gradients(known, probes, rewards_behind=7.0)
        wider, behind_wider = answers.form.gradients(known, probes, columns=2)
    slopes_behind = torch.cat([answers.padding[answers.usable], behind[probes], behind_wider[probes]])
    if not bool((slopes_behind <= limit).all()):
        return Beside((*detached, "mask_ignored"))
    remarks: tuple[str, ...] = ()
    if not torch.allclose(dirty[probes], base, rtol=0.0, atol=limit):
        remarks = ("the rewards behind the end of an episode are read: they must be 0",)
    if torch.allclose(wider[probes], base, rtol=0.0, atol=limit):
        return Beside(detached, remarks)
    width = known.batches.cells.any(-2).sum(-1)[probes, None, None, None]
    by_width = torch.allclose(wider[probes] * (width + 2) / width, base, rtol=0.0, atol=limit)
    return Beside((*detached, *(["mean_over_padded_steps"] if by_width else [])), remarks, not by_width)


@cache
def _library(gammas: tuple[float, ...], most: int, values: bool) -> tuple[tuple[Recipe, ...], Tensor]:
    which = recipes(most, values=values)
    return which, stacked_slopes(which, enumeration(gammas).batches).flatten(2)


def _diagnosis(answers: Answers) -> tuple[str, ...] | None:
    """The mistakes of the recipe that gives the same gradients: in every batch, or else in expectation."""
    on_average: list[Recipe] = []
    for most in (1, 2):
        which, slopes = _library(answers.known.gammas, most, "values" in answers.form.roles)
        matching = [i for i, same in enumerate(_same_on_average(answers, slopes)) if same and faults(which[i])]
        for i in matching:
            if _same_in_every_batch(answers, slopes[i]):
                return faults(which[i])
        on_average += [which[i] for i in matching]
    return faults(min(on_average, key=lambda recipe: len(faults(recipe)))) if on_average else None


def _comparable(answers: Answers, slopes: Tensor) -> Tensor:
    """The batches in which each recipe is defined, `[R, B]`; none at all where the function fails in one of them."""
    defined = slopes.isfinite().all(-1) & answers.usable
    failed = (defined & ~answers.finite).any(-1) | (defined.sum(-1) * 4 < answers.usable.sum())
    return defined & ~failed[:, None]


def _same_on_average(answers: Answers, slopes: Tensor) -> list[bool]:
    """Whether the expected gradients are those of each recipe, `[R, B, 9]`, but for a scale."""
    known, compared = answers.known, _comparable(answers, slopes)
    got = _in_settings(known, _tables(known, answers.gradients.nan_to_num())[None] * compared[..., None])
    placed = _placed(known).to(slopes.dtype)
    theirs = torch.einsum("rbi,bij->rbj", slopes.nan_to_num() * compared[..., None], placed).double()
    theirs = _in_settings(known, theirs)
    same = torch.zeros(len(slopes), dtype=torch.bool)
    for a, b in _SCALES:
        want = _factors(known, a, b)[:, None] * theirs
        c = (got * want).sum((-2, -1)) / want.square().sum((-2, -1))
        distance = (got - c[:, None, None] * want).flatten(1).norm(dim=-1)
        same |= (c > 0) & (distance <= SAME * got.flatten(1).norm(dim=-1)) & (distance.isfinite())
    return same.tolist()


def _placed(known: Enumeration) -> Tensor:
    """What the slope of each step adds to the table of the expected gradient, `[B, 9, S * A]`."""
    cells = torch.nn.functional.one_hot(known.states, N_STATES)[..., None] * known.scores[..., None, :]
    return known.probability[:, None, None] * cells.flatten(-2).flatten(1, 2)


def _tables(known: Enumeration, gradients: Tensor) -> Tensor:
    """What each batch adds to the expected gradient, `[B, S * A]`."""
    states = torch.nn.functional.one_hot(known.states, N_STATES) * known.batches.mask[..., None]
    return known.probability[:, None] * torch.einsum("bnts,bnta->bsa", states.double(), gradients).flatten(1)


def _in_settings(known: Enumeration, tables: Tensor) -> Tensor:
    """The sums `[R, settings, S * A]` of what the batches add, `[R, B, S * A]`."""
    total = torch.zeros(len(tables), len(known.settings), N_STATES * N_ACTIONS, dtype=tables.dtype)
    return total.index_add_(1, known.setting, tables)


def _same_in_every_batch(answers: Answers, slopes: Tensor) -> bool:
    """Whether the slopes are those of a recipe, `[B, 9]`, but for a scale."""
    known, compared = answers.known, _comparable(answers, slopes[None])[0]
    theirs = slopes.double()[compared].view(-1, *known.states.shape[1:])[..., None] * known.scores[compared]
    got = answers.gradients[compared] * known.batches.mask[compared][..., None]
    for a, b in (*_SCALES, (2, 0)):  # the sum over all N × N pairs of episodes is N² times their mean
        want = _factors(known, a, b)[known.setting[compared]][:, None, None, None] * theirs
        c = (got * want).sum() / want.square().sum()
        if c > 0 and (got - c * want).norm() <= SAME * got.norm():
            return True
    return False


def _is_one_of(answers: Answers, which: Sequence[Recipe]) -> bool:
    if not bool((answers.known.sizes[answers.usable] > 1).any()) and which is _HARMLESS_IF_BROADCAST:
        return False
    slopes = stacked_slopes(which, answers.known.batches).flatten(2)
    return any(_same_in_every_batch(answers, one) for one in slopes)


_HARMLESS_IF_BROADCAST = tuple(
    Recipe(returns, discount, pairs)
    for returns, discount in (("to_go", "kept"), ("full", "dropped"), ("from_start", "dropped"))
    for pairs in ("pairs", "pairs_start", "pairs_all")
)
_FULL_RETURNS = tuple(
    Recipe("full", "dropped", baseline)
    for baseline in ("none", "leave_one_out", "leave_one_out_running", "leave_one_out_start", "leave_one_out_flat")
)


def _report(verdict: Verdict) -> Report:
    answers, right = verdict.answers, verdict.mistakes is None
    remarks = tuple(dict.fromkeys([*verdict.remarks, *answers.remarks]))
    return Report(
        "policy_gradient",
        right,
        tuple(_BY_KEY[key] for key in verdict.mistakes or ()),
        remarks,
        None if right else _counterexample(verdict),
        _details(verdict),
        answers.form.name,
        len(answers.settings),
        binding=answers.form.binding.shown,
    )


def _details(verdict: Verdict) -> dict[str, Any]:
    """The bias, angle, length and variance in the largest setting."""
    answers = verdict.answers
    i = int(answers.settings[-1])
    setting = answers.known.settings[i]
    scale = float(verdict.scale.factors(answers.known)[i]) if verdict.scale else 1.0
    got, right = answers.expected[i] / scale, -answers.known.truth[i].flatten()
    length = float(got.norm() / right.norm())
    details: dict[str, Any] = {
        "in the setting": f"{setting.problem.text.partition(';')[0]}, γ = {setting.gamma:g}, N = {setting.size}",
        "bias": float((got - right).abs().max()),
        "length": length,
    }
    if 0 < length < math.inf:
        details["angle in degrees"] = _angle(got, right)
        details["variance relative to reinforce_loss"] = _relative_variance(answers, i, scale)
    return details


def _angle(one: Tensor, other: Tensor) -> float:
    u, v = one / one.norm(), other / other.norm()
    angle = math.degrees(2 * math.atan2(float((u - v).norm()), float((u + v).norm())))
    return angle if angle > 1e-5 else 0.0


def _relative_variance(answers: Answers, setting: int, scale: float) -> float:
    known = answers.known
    reference = stacked_slopes((Recipe(),), known.batches)[0].double()[..., None] * known.scores

    def variance(gradients: Tensor) -> float:
        here = known.setting == setting
        weight = known.probability[here]
        tables = _tables(known, gradients)[here] / weight[:, None]
        return float(weight @ (tables - weight @ tables).square().sum(-1))

    return variance(answers.gradients) / scale**2 / variance(reference)


def _counterexample(verdict: Verdict) -> Counterexample:
    """The smallest setting in which the expected gradient is wrong, or a batch with a slope behind an end.

    A setting in which the direction is wrong says more than one in which only the length is.
    """
    answers, known = verdict.answers, verdict.answers.known
    got, right = answers.expected, -known.truth.flatten(1)
    if verdict.scale is not None:
        return _in_one_batch(verdict, verdict.scale)
    found = [(_faulty(got, right, answers.settings, f), f) for f in _plain_factors(answers)]
    # A factor counts only where it explains at least half of what is wrong.
    wrong, factors = min(found, key=lambda pair: len(pair[0]) * (1 if pair[1] is found[0][1] else 2))
    i = next((j for j in wrong if 1.0 < _angle(got[j], right[j]) < 179.0), wrong[0])
    setting = known.settings[i]
    states = sorted({s for s, *_ in setting.problem.outcomes})
    table = torch.stack([got[i], factors[i] * right[i]]).view(2, N_STATES, N_ACTIONS)[:, states]
    failure = answers.form.errors.get(int((known.setting == i).nonzero()[0]))
    inputs = {"problem": setting.problem.text, **_inputs(setting.problem.first_action), "gamma": setting.gamma}
    return Counterexample(
        {**inputs, "episodes in a batch": setting.size}, table[1], failure or table[0], "expected gradient of the loss"
    )


def _inputs(first_action: Sequence[float]) -> dict[str, Any]:
    return {"policy": ", ".join(f"π(0|{s}) = {p:g}" for s, p in enumerate(first_action))}


def _plain_factors(answers: Answers) -> Iterator[Tensor]:
    """The factors of a mean and of a sum over the episodes, where the first setting tells their size."""
    first = int(answers.settings[0])
    got, right = answers.expected[first], -answers.known.truth[first].flatten()
    c = float((got @ right) / (right @ right))
    for size in (1.0, c) if math.isfinite(c) and c > 0 else (1.0,):
        for a in (0, 1):
            yield size * _factors(answers.known, a, 0)


def _faulty(got: Tensor, right: Tensor, settings: Tensor, factors: Tensor) -> list[int]:
    """The settings in which the expected gradient is wrong; all, if there is none."""
    want = factors[:, None] * right
    bad = ~((got - want).norm(dim=-1) <= RIGHT * want.norm(dim=-1))
    found = [int(i) for i in settings if bad[i]]
    return found or [int(i) for i in settings]


def _in_one_batch(verdict: Verdict, scale: Scale) -> Counterexample:
    """Where the expectations are right: what is wrong in a single batch of two episodes."""
    answers, known = verdict.answers, verdict.answers.known
    lengths = known.batches.mask.sum(-1)
    uneven = answers.usable & (known.sizes == 2) & (lengths[:, 0] < lengths[:, 1])
    i = int((uneven if bool(uneven.any()) else answers.usable).nonzero()[0])
    if answers.form.by_values is not None:
        i, before, after = answers.form.by_values
        quantity = "slopes by the values, which must not change with the log-probabilities"
        return Counterexample(_one_batch(known, i), before, after, quantity)
    if verdict.mistakes == ("broadcast",):
        n, width = int(known.sizes[i]), int(known.batches.cells[i].any(0).sum())
        right = stacked_slopes((Recipe(),), known.batches)[0, i, :n, :width]
        factor = float(scale.factors(known)[int(known.setting[i])])
        return Counterexample(_one_batch(known, i), factor * right, answers.form.slopes(known, i), _SLOPES)
    got = answers.form.slopes(known, i, columns=1, rewards_behind=7.0)
    want = _without_padding(known, i, answers.form.slopes(known, i))
    inputs = {**_one_batch(known, i), "padding": "one column more, and rewards of 7 and more in it"}
    return Counterexample(inputs, want, got, _SLOPES)


_SLOPES = "slopes of the loss by the log-probabilities"


def _without_padding(known: Enumeration, i: int, slopes: Tensor | Exception) -> Tensor | Exception:
    """The slopes as they should be with one column more: 0 behind the ends."""
    if isinstance(slopes, Exception) or slopes.ndim > 2:
        return slopes
    mask = known.batches.mask[i, : slopes.shape[0], : slopes.shape[1]]
    return torch.nn.functional.pad(torch.where(mask, slopes, 0.0), (0, 1))


def _one_batch(known: Enumeration, i: int) -> dict[str, Any]:
    n, width = int(known.sizes[i]), int(known.batches.cells[i].any(0).sum())
    return {
        "rewards": known.batches.rewards[i, :n, :width],
        "mask": known.batches.mask[i, :n, :width],
        "gamma": float(known.batches.gamma[i]),
    }


_BY_KEY = {mistake.key.partition(".")[2]: mistake for mistake in MISTAKES}
CHECK = Kind("policy_gradient", 7, MISTAKES)
