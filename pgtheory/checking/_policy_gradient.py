"""Is the expected gradient of this REINFORCE loss that of J? And if not, which known mistake is it?"""

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgtheory.checking._engine import misunderstood, random_state_kept
from pgtheory.checking._enumeration import GAMMAS, N_ACTIONS, N_STATES, Enumeration, enumeration
from pgtheory.checking._forms import Misfit
from pgtheory.checking._loss_forms import LossForm, forms
from pgtheory.checking._recipes import Recipe, as_loss, faults, recipes, stacked_slopes
from pgtheory.checking.report import Counterexample, Mistake, Report, Source, arxiv, issue, pull

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


def check_policy_gradient(loss: Callable[..., Any], *, form: str | None = None) -> Report:
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
        form: only try forms whose name contains this text, such as `"[T, N]"`.

    Returns:
        The report; its details hold the bias, angle, length and variance in the largest setting.

    Raises:
        UnknownForm: the function cannot be called in any form, or does not return a loss.

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
    verdicts: list[Verdict] = []
    misfits: dict[str, str] = {}
    for tier, candidate in _candidates(loss, form):
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
            return _report(verdict)
        verdicts.append(verdict)
    if not verdicts:
        raise misunderstood("policy_gradient", misfits)
    return _report(min(verdicts, key=_simplicity))


def _candidates(loss: Callable[..., Any], only: str | None) -> list[tuple[int, LossForm]]:
    try:
        return list(forms(loss, only))
    except Misfit as error:
        raise misunderstood("policy_gradient", {"arguments by name": str(error)}) from None


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


_BOOK = Source(
    "Sutton and Barto, 2018, section 13.3 (the right form)", "http://incompleteideas.net/book/the-book-2nd.html"
)
_KOOL = Source("Kool, van Hoof and Welling, 2019", "https://openreview.net/forum?id=r1lgTGL5DE")
_NOTA = arxiv("Nota and Thomas, 2020", "1906.07073")
_TUCKER = arxiv("Tucker et al., 2018 (when a baseline is unbiased)", "1802.10031")


def _detached(log_probs: Tensor, rewards: Tensor, gamma: float, *, mask: Tensor) -> Tensor:
    return as_loss(Recipe())(log_probs.detach(), rewards, gamma, mask=mask)


def _without_mask(log_probs: Tensor, rewards: Tensor, gamma: float, *, mask: Tensor) -> Tensor:
    return as_loss(Recipe(mask="ignored"))(log_probs, rewards, gamma, mask=mask)


def _attached_values(log_probs: Tensor, rewards: Tensor, gamma: float, *, mask: Tensor, values: Tensor) -> Tensor:
    """The gradient flows into the baseline: what it adds to the right loss has no slope by the log-probabilities."""
    steps = torch.where(mask, gamma ** torch.arange(rewards.shape[-1]) * values * log_probs, 0.0)
    behind = torch.where(mask, gamma ** torch.arange(rewards.shape[-1]) * values * log_probs.detach(), 0.0)
    return as_loss(Recipe())(log_probs, rewards, gamma, mask=mask) + (behind - steps.detach()).sum() / len(mask)


def _losses(**choices: Sequence[str]) -> tuple[Callable[..., Tensor], ...]:
    """The losses of the recipes with each value of one choice."""
    ((choice, names),) = choices.items()
    return tuple(as_loss(Recipe()._replace(**{choice: name})) for name in names)


def _mistake(
    key: str,
    name: str,
    meaning: str,
    sign: str,
    sources: tuple[Source, ...],
    *implementations: Callable[..., Any],
) -> Mistake:
    return Mistake(f"policy_gradient.{key}", name, meaning, sign, sources, implementations)


MISTAKES = (
    _mistake(
        "sign",
        "the wrong sign: the loss climbs where it should descend",
        "The minus is missing: minimising the loss makes the return smaller.",
        "The performance falls from the first update on.",
        (pull("KanishJebaMathewM/Truxify", 11885), issue("danijar/dreamerv3", 69)),
        *_losses(sign=["plus"]),
    ),
    _mistake(
        "gamma_t_dropped",
        "γ^t dropped",
        "For J = E[G_0] the term of step t has the weight γ^t G_t. Without γ^t late steps count too much, and the "
        "result is the gradient of no function.",
        "It is right at γ = 1 and in episodes of one step.",
        (_NOTA, arxiv("Zhang et al., 2022", "2010.01069"), issue("ufal/npfl122", 117), issue("pytorch/examples", 744)),
        *_losses(discount=["dropped"]),
    ),
    _mistake(
        "gamma_t_twice",
        "γ^t applied twice",
        "The discount of the start is counted again: γ^t multiplies a return that is counted from the start (G_0, or "
        "γ^t G_t) already. Late steps count too little.",
        "It is right at γ = 1 and in episodes of one step.",
        (issue("mimoralea/gdrl", 9), issue("tensorflow/agents", 503)),
        as_loss(Recipe("full")),
        as_loss(Recipe("from_start")),
    ),
    _mistake(
        "gamma_ignored",
        "γ is ignored",
        "Neither the rewards nor the steps are discounted: it is the gradient of the undiscounted return.",
        "The loss does not change with γ.",
        (issue("dennybritz/reinforcement-learning", 55), issue("openai/baselines", 901)),
        as_loss(Recipe("undiscounted", "dropped")),
        as_loss(Recipe("total", "dropped")),
    ),
    _mistake(
        "returns_not_discounted",
        "γ is left out of the returns, though γ^t is there",
        "The weights are γ^t times a plain sum of rewards: a reward that comes late counts as much as one that comes "
        "at once.",
        "It is right at γ = 1 and in episodes of one step.",
        (issue("dennybritz/reinforcement-learning", 55), _BOOK),
        as_loss(Recipe("undiscounted")),
        as_loss(Recipe("total")),
    ),
    _mistake(
        "discounted_twice",
        "γ applied twice per step in the returns",
        "A reward that comes k steps later counts γ^(2k), not γ^k.",
        "It is right at γ = 1 and in episodes of one step.",
        (issue("tensorflow/agents", 503),),
        *_losses(returns=["squared"]),
    ),
    _mistake(
        "exponent_from_the_end",
        "the exponent of γ counted from the end of the episode",
        "The last reward has the weight 1 and the first is discounted most: the weights run the wrong way.",
        "With a reward at the end alone, all steps have the same return.",
        (_BOOK,),
        *_losses(returns=["from_end"]),
    ),
    _mistake(
        "immediate_reward",
        "the immediate reward alone in place of the return",
        "Each action is credited with the reward of its own step, and not with what it leads to.",
        "It is right in episodes of one step; elsewhere only the last step is.",
        (issue("hpcaitech/ColossalAI", 4491), pull("natolambert/rlhf-book", 216)),
        as_loss(Recipe("immediate")),
        as_loss(Recipe("immediate", "dropped")),
    ),
    _mistake(
        "own_reward_dropped",
        "the reward of the step itself is dropped: the return is off by one",
        "The return starts one step late, so what the action earned at once is not in it.",
        "In episodes of one step there is no gradient.",
        (issue("shehzaadzd/MINERVA", 28), pull("lilianweng/lil-log", 8)),
        *_losses(returns=["own_dropped"]),
    ),
    _mistake(
        "reward_of_the_step_before",
        "the rewards are shifted by one: each step has that of the step before",
        "A step's reward is stored one place late. The last reward of the episode is in no return.",
        "In episodes of one step there is no gradient.",
        (issue("openai/spinningup", 50), issue("openai/spinningup", 67)),
        *_losses(returns=["shifted"]),
    ),
    _mistake(
        "last_reward_dropped",
        "the last reward of the episode is dropped",
        "The last reward, often the only one that is not zero, is in no return.",
        "In episodes of one step there is no gradient.",
        (issue("weipu-zhang/STORM", 16), issue("rasbt/machine-learning-book", 240)),
        *_losses(returns=["last_dropped"]),
    ),
    _mistake(
        "last_reward_only",
        "the last reward of the episode alone",
        "Earlier rewards are in no return.",
        "It is right where all rewards but the last are 0.",
        (_BOOK,),
        *_losses(returns=["last_only"]),
    ),
    _mistake(
        "past_rewards",
        "past rewards: the return is accumulated forwards",
        "The sum runs from the first step to the present one: each action is credited with what came before it.",
        "It is right in episodes of one step. In longer ones, what an action leads to does not count.",
        (issue("mohmdelsayed/streaming-drl", 3), issue("numpy/numpy", 16578)),
        *_losses(returns=["forwards", "forwards_from_start"]),
    ),
    _mistake(
        "reversed_order",
        "the returns in reversed order",
        "The list of returns is never turned round: the first step has the return of the last one.",
        "It is right in episodes of one step.",
        (issue("PacktPublishing/Tensorflow-2-Reinforcement-Learning-Cookbook", 27),),
        *_losses(returns=["reversed"]),
    ),
    _mistake(
        "mean_of_the_rest",
        "a mean of the later rewards in place of their sum",
        "The return is divided by the number of steps that are left.",
        "It is right in episodes of one step.",
        (_BOOK,),
        *_losses(returns=["mean_of_rest"]),
    ),
    _mistake(
        "pairing_lost",
        "the pairing of action and return is lost: the sum of all returns of the episode multiplies each score",
        "A sum or a mean over the steps is taken before the product, or [T, 1] meets [T]: each log-probability is "
        "multiplied with all the returns of its episode.",
        "All steps of an episode have the same weight, which is not G_0.",
        (issue("Farama-Foundation/Gymnasium", 1336),),
        *(as_loss(Recipe(kind, "dropped")) for kind in ("all_returns", "all_discounted")),
    ),
    _mistake(
        "mean_over_all_steps",
        "a mean over all steps of the batch in place of a sum over the steps",
        "The sum over the steps of the batch is divided by their number, which depends on the actions: episodes that "
        "come in a batch of short ones count more. The direction changes, not only the length.",
        "It is right, but for a constant, where all episodes have the same length.",
        (issue("openai/spinningup", 59), issue("openai/spinningup", 414), issue("openai/spinningup", 454)),
        *_losses(average=["all_steps"]),
    ),
    _mistake(
        "mean_over_own_steps",
        "a mean over the steps of each episode in place of a sum over the steps",
        "Each episode is divided by its own length, which depends on the actions: a step of a short episode counts "
        "more than one of a long episode.",
        "It is right, but for a constant, where all episodes have the same length.",
        (issue("KaiyangZhou/pytorch-vsumm-reinforce", 48), arxiv("Liu et al., 2025", "2503.20783")),
        *_losses(average=["own_steps"]),
    ),
    _mistake(
        "mean_over_padded_steps",
        "a mean over the padded steps in place of a sum over the steps",
        "The padding is counted as steps: the loss is divided by N times the length of the longest episode.",
        "More padding makes the gradient smaller.",
        (pull("NovaSky-AI/SkyRL", 462), pull("Stable-Baselines-Team/stable-baselines3-contrib", 78)),
        *_losses(average=["padded_steps"]),
    ),
    _mistake(
        "mean_over_running_episodes",
        "a mean over the episodes that are still running at each step",
        "Each step is divided by the number of episodes that reach it, not by N: late steps, which few episodes reach, "
        "count too much.",
        "It is right for a batch of one episode, and where all episodes have the same length.",
        (_BOOK, arxiv("Liu et al., 2025 (on divisors that depend on lengths)", "2503.20783")),
        *_losses(average=["running"]),
    ),
    _mistake(
        "own_sample_baseline",
        "a baseline that includes the own sample",
        "The mean of the returns of all N episodes depends on the actions of each of them. Where every episode counts, "
        "the gradient is (N - 1)/N of the right one: its direction is right, and for a fixed N it amounts to a smaller "
        "learning rate. The mean of the other episodes is exact.",
        "For a batch of one episode there is no gradient.",
        (_KOOL, arxiv("Ahmadian et al., 2024", "2402.14740"), issue("arnauqb/blackbirds", 53)),
        *_losses(baseline=["own_sample", "own_sample_running"]),
        as_loss(Recipe(baseline="own_sample_start")),
    ),
    _mistake(
        "batch_mean_baseline",
        "the mean return over all steps of the batch as baseline",
        "The mean includes the own returns of each step, and depends on the actions.",
        "For a batch of one episode with one step there is no gradient.",
        (pull("ServiceNow/PipelineRL", 54), _TUCKER),
        *_losses(baseline=["batch_mean"]),
    ),
    _mistake(
        "episode_mean_baseline",
        "the mean return over the steps of the own episode as baseline",
        "The mean depends on the actions of the episode. Early steps, which have more ahead, get positive weights and "
        "late ones negative weights, whatever is done.",
        "In episodes of one step there is no gradient.",
        (issue("alessiodm/drl-zh", 5),),
        *_losses(baseline=["episode_mean"]),
    ),
    _mistake(
        "standardised_batch",
        "standardised returns over the batch",
        "Mean and standard deviation of the batch (or the deviation alone) depend on the actions in it: the weights "
        "are biased, in direction too.",
        "Adding a constant to the returns, or multiplying them, changes nothing.",
        (issue("pytorch/examples", 590), issue("keon/policy-gradient", 5), issue("wojzaremba/trpo", 6)),
        *_losses(
            baseline=["batch_std_0", "batch_std_1", "step_std_0", "step_std_1", "start_std_0", "batch_scale_0"],
        ),
    ),
    _mistake(
        "standardised_episode",
        "standardised returns within each episode",
        "The mean and the deviation are those of the episode itself: early steps get positive weights and late ones "
        "negative weights, however good the episode was.",
        "A constant reward for each step does not count; an episode of one step has no gradient, or NaN.",
        (issue("MorvanZhou/Reinforcement-learning-with-tensorflow", 128), issue("alessiodm/drl-zh", 5)),
        *_losses(baseline=["episode_std_0", "episode_std_1", "episode_scale_0", "episode_scale_1"]),
    ),
    _mistake(
        "broadcast",
        "broadcasting [N, 1] against [N]: each score is multiplied with the returns of all episodes",
        "The product has N × N entries: an episode's score meets the returns of the others, which only add noise. The "
        "expectation is right but for a factor, and the variance is much larger.",
        "All episodes of the batch have the same weight.",
        (issue("PacktPublishing/Deep-Reinforcement-Learning-Hands-On", 74), issue("pytorch/rl", 1243)),
        as_loss(Recipe("full", "dropped", "pairs_start")),
        as_loss(Recipe("to_go", "kept", "pairs")),
        as_loss(Recipe("to_go", "kept", "pairs_all")),
    ),
    _mistake(
        "probability_not_log",
        "π in place of log π",
        "The gradient of π(A) in place of that of ln π(A): each term has the factor π(A) once more, and actions that "
        "are rarely drawn count too little.",
        "Each slope is the right one times the probability of the action.",
        (issue("shariqiqbal2810/MAAC", 20), issue("alessiodm/drl-zh", 10)),
        *_losses(score=["probability"]),
    ),
    _mistake(
        "log_prob_of_another_step",
        "the log-probability of another step: shifted by one",
        "The return of a step multiplies the score of the next step.",
        "In episodes of one step there is no gradient.",
        (issue("lucidrains/PaLM-rlhf-pytorch", 31), issue("apple/ml-diffucoder", 15)),
        *_losses(score=["next"]),
    ),
    _mistake(
        "last_step_dropped",
        "the last step is dropped",
        "The score of the last action is left out, as by a loop or a slice that ends one step early.",
        "In episodes of one step there is no gradient.",
        (issue("apple/ml-diffucoder", 15), issue("Farama-Foundation/Gymnasium", 1494)),
        *_losses(score=["last_dropped", "last_column_dropped"]),
    ),
    _mistake(
        "first_step_dropped",
        "the first step is dropped",
        "The score of the first action is left out.",
        "In episodes of one step there is no gradient.",
        (issue("lucidrains/PaLM-rlhf-pytorch", 31), _BOOK),
        *_losses(score=["first_dropped"]),
    ),
    _mistake(
        "mask_ignored",
        "the mask is ignored: padding is trained on",
        "Log-probabilities behind the end of an episode get a gradient, as soon as something stands in the rewards "
        "there, or a baseline is subtracted.",
        "The slopes are not 0 where no step was taken.",
        (pull("alibaba/ROLL", 444), pull("natolambert/rlhf-book", 216), pull("NovaSky-AI/SkyRL", 462)),
        _without_mask,
        *(as_loss(Recipe(baseline=name, mask="ignored")) for name in ("leave_one_out",)),
    ),
    _mistake(
        "no_gradient",
        "no gradient: the log-probabilities are detached",
        "Nothing flows back: the log-probabilities are detached, turned into numbers, or copied by torch.tensor.",
        "The loss does not require a gradient, or all slopes are 0.",
        (pull("kengz/SLM-Lab", 133), issue("Quantum-Cheese/DeepReinforcementLearning_Pytorch", 1)),
        _detached,
    ),
    _mistake(
        "baseline_not_detached",
        "the baseline is not detached: the policy loss trains the values",
        "The gradient flows through the advantage into the baseline, which is pushed wherever it makes the policy loss "
        "smaller, not towards the returns.",
        "The slopes by the values change with the log-probabilities.",
        (issue("astariul/encode-attend-navigate-pytorch", 2), issue("ChenRocks/fast_abs_rl", 49)),
        _attached_values,
    ),
    Mistake(
        "policy_gradient.full_return",
        "the return of the whole episode at every step",
        "each score is multiplied with G_0, which also holds what was earned before. The expectation is right, and the "
        "variance is larger as a rule.",
        "All steps of an episode have the same weight.",
        (issue("udacity/deep-reinforcement-learning", 42), pull("huggingface/deep-rl-class", 95)),
        (as_loss(Recipe("full", "dropped")), as_loss(Recipe("full", "dropped", "leave_one_out"))),
        severity="remark",
    ),
)
_BY_KEY = {mistake.key.partition(".")[2]: mistake for mistake in MISTAKES}
