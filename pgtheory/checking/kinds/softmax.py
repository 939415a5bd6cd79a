"""Is this the softmax over the actions? And if not, which known mistake is it?"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Call, Inputs, Layout, Misfit, Reading, as_tensor, bind, guess
from pgtheory.checking.filters import F64, unpacked
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.report import Mistake, Report, Source, UnknownForm, issue, pull

_BOOK = Source("Sutton and Barto, 2018, eq. (13.2)", "http://incompleteideas.net/book/the-book-2nd.html")
_ACKLEY = Source("Ackley, Hinton and Sejnowski, 1985", "https://doi.org/10.1207/s15516709cog0901_7")

MINUS_INF = "it is wrong or fails where a preference is -inf"
MASKED_HIGH = "it loses the others where a masked preference is far above them (by 1000)"
NO_GRADIENT = "its result carries no gradient, which was not checked"
_MASKS = frozenset(["mask", "unavailable"])


def check_softmax(
    function: Callable[..., Any] | None = None,
    *,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check a function that turns preferences into the probabilities of a softmax policy, :eq:`eq-softmax-policy`.

    The function may be `fn(preferences)` or `fn(preferences, mask)`, with `mask` True where an action is available (or
    `invalid`, True where it is not), for one row `[A]` or a batch `[B, A]`, on tensors, arrays or lists. It may return
    probabilities or log-probabilities. If it keeps the graph of a tensor, its Jacobian is compared with
    :math:`\operatorname{diag}(\pi) - \pi\pi^\top`, :eq:`eq-softmax-jacobian`, also next to masked entries.

    Args:
        function: the implementation.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.preferences.T).T`; they are
            `x.preferences` and `x.mask`, `[B, A]`, `x.temperature`, and `x.unavailable`, which follows.
        layout: the order of axes, such as `"[A]"`, or the container, such as `"numpy"`, as in the report. What has no
            axis at all is a function of one row, unless it is said to be one of batches by `"[B, A]"`.
        names: what arguments are, such as `{"s": "preferences"}`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called, or does not return one number for each preference.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Sutton and Barto, *Reinforcement Learning*, 2018, eq. (13.2).

    Example:
        >>> def softmax(preferences, mask):
        ...     weights = preferences.exp() * mask
        ...     return weights / weights.sum(-1, keepdim=True)
        >>> print(check_softmax(softmax).headline)
        check_softmax: WRONG, a known mistake: the maximum is not subtracted: the exponential overflows
    """
    check = _OF_BATCHES[0] if layout and "[B" in layout else CHECK
    report = check.judge(function, call=call, layout=layout, names=names)
    for closer in (_with_logarithm, _with_gradient):
        report = closer(report, function, call, names) if report.ok else report
    return report


# --- the cases ---


def cases(facts: frozenset[str]) -> list[Case]:
    """Rows near 0, equal, very large, very low and far apart; with masks and temperatures if these are asked for."""
    square = [[1.0, 0.0, 2.0], [0.5, -1.0, -0.5], [3.0, 3.5, 2.0]]
    wide = [[0.3, -0.7, 1.1, -1.6], [5.0, 6.2, 4.1, 5.5]]
    high = [[1000.0, 999.0, 1001.5], [1000.5, 1000.0, 999.0]]
    low = [[-x for x in row] for row in high]
    apart = [[2000.0, -2000.0, 1999.0], [-2000.0, 2000.0, 2000.5]]
    found = [_case(rows) for rows in (square, wide, [[0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 1.0, 2.0]], high, low)]
    found += [_case(rows) for rows in ([high[0], low[1]], apart, wide[:1])]
    if "temperature" in facts:
        found += [_case(rows, tau=tau) for tau in (0.5, 2.0) for rows in (square, wide)]
    if facts & _MASKS:
        found += [_case(square, [[1, 1, 0], [0, 1, 1], [1, 0, 1]]), _case(wide, [[1, 0, 0, 1], [0, 0, 1, 0]])]
        found += [_case(wide, [[0, 1, 1, 1], [1, 0, 1, 1]]), _case(high, [[1, 1, 0], [0, 1, 1]])]
        found += [_case(low, [[1, 1, 0], [0, 1, 1]])]
        found += [_case([[0.0, 1.0, 1000.0], [1000.0, 0.5, 0.0]], [[1, 1, 0], [0, 1, 1]], MASKED_HIGH)]
    return [*found, _case([[-math.inf, 1.0, 0.5], [0.0, 1.0, -math.inf]], why=MINUS_INF)]


def _case(
    rows: Sequence[Sequence[float]], mask: Sequence[Sequence[int]] | None = None, why: str = "", tau: float = 1.0
) -> Case:
    preferences = torch.tensor(rows, dtype=F64)
    available = torch.ones_like(preferences).bool() if mask is None else torch.tensor(mask).bool()
    return Case({"preferences": preferences, "mask": available, "temperature": tau}, why)


# --- what was returned ---


def _first(output: Any) -> Any:
    """The first of several outputs, as of a function that returns probabilities and log-probabilities."""
    if isinstance(output, Mapping) and all(isinstance(action, Integral) for action in output):
        return [output[action] for action in sorted(output)]
    output = unpacked(output)
    is_several = isinstance(output, tuple) and output and isinstance(output[0], Tensor) and output[0].ndim > 0
    return output[0] if is_several else output


def _observe(call: Call, layout: Layout, inputs: Inputs, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """The probabilities, and what they are if those are their logarithms."""
    found = layout.restored(as_tensor(_first(call(inputs))), sizes).double()
    logarithmic = bool((found.nan_to_num(0.0, 1.0, -1.0) <= 1e-6).all())
    return {"probabilities": found} | ({"log-probabilities": found.exp()} if logarithmic else {})


def _choose(cases: Sequence[tuple[Mapping[str, Any], Mapping[str, Tensor]]]) -> tuple[str, str]:
    """Log-probabilities, if all numbers are those."""
    both = [p for _, p in cases if "log-probabilities" in p]
    logarithmic = len(both) == len(cases) and any(bool((p["probabilities"] < -1e-3).any()) for p in both)
    return "log-probabilities" if logarithmic else "probabilities", ""


def _seen(inputs: Mapping[str, Any], answer: Tensor) -> Tensor:
    """The answer, in which masked entries are 0 to 1e-12, or else too large to be taken for rounding."""
    leaks = ~inputs["mask"] & (answer.abs() > 1e-12)
    return torch.where(leaks & (answer.abs() < 2e-5), 2e-5, answer)


def _applies(mistake: Mistake, facts: frozenset[str]) -> bool:
    """Whether a function that is told these facts can make a mistake of values."""
    of_mask, of_temperature = "mask" in mistake.key and not facts & _MASKS, "temperature" in mistake.key
    later = (*GRADIENT_MISTAKES, *LOGARITHM_MISTAKES)
    return not (of_mask or (of_temperature and "temperature" not in facts) or mistake in later)


# --- logarithms ---


def _with_logarithm(
    report: Report, function: Callable[..., Any] | None, call: Call | None, names: Mapping[str, str] | None
) -> Report:
    """The report, after a look at log-probabilities themselves where these are returned."""
    if not report.judged.startswith("log"):
        return report
    found = _LOGARITHM[0].judge(call=call or _call_of(report.form, function, names))
    remarks = (*report.remarks, *found.remarks)
    if found.ok:
        return replace(report, remarks=remarks)
    return replace(found, remarks=remarks, form=report.form, binding=report.binding, judged=report.judged)


def _call_of(form: str, function: Callable[..., Any] | None, names: Mapping[str, str] | None) -> Call:
    """How a function was called in the form of this name."""
    assert function is not None
    binding = bind(function, CHECK.args, CHECK.needs, CHECK.signature, names)[0]
    layouts = [Layout(text, CHECK.canonical.axes) for text in CHECK.layouts]
    forms = [found for text in layouts for found in guess(function, CHECK.args, binding, Reading(), text)]
    return next(found.call for found in forms if found.name == form)


def _logarithms(call: Call, layout: Layout, inputs: Inputs, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    return {"": as_tensor(_first(call(inputs))).double().reshape(1, -1)}


def _right_logarithm(preferences: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, preferences, -math.inf).log_softmax(-1)


def _far_apart(facts: frozenset[str]) -> list[Case]:
    """Rows whose smallest probability is no floating-point number, though its logarithm is."""
    return [_case([[0.0, -3.0, 1.5]]), _case([[800.0, 0.0, 799.0]]), _case([[-1200.0, 0.0, 3.0, -40.0]])]


# --- gradients ---


def _with_gradient(
    report: Report, function: Callable[..., Any] | None, call: Call | None, names: Mapping[str, str] | None
) -> Report:
    """The report, after a look at the Jacobian where a function of tensors keeps the graph."""
    if not report.form.startswith(("torch", "call=")):
        return report
    if call is None:
        call = _call_of(report.form, function, names)
    logarithmic = report.judged.startswith("log")
    try:
        gradient = _GRADIENT[0].judge(call=functools.partial(_jacobian, call, logarithmic=logarithmic))
    except UnknownForm:  # nothing to differentiate
        return replace(report, remarks=(*report.remarks, NO_GRADIENT))
    if gradient.ok:
        return replace(report, details={**report.details, "Jacobian": "right"})
    remarks = (*report.remarks, *gradient.remarks)
    return replace(gradient, remarks=remarks, form=report.form, binding=report.binding, judged=report.judged)


def _gradient_cases(facts: frozenset[str]) -> list[Case]:
    found = [_case([[0.5, -1.0, 0.25]]), _case([[2.0, 0.0, 1.0, -0.5]])]
    masked = [_case([[0.5, -1.0, 0.25]], [[1, 0, 1]]), _case([[2.0, 0.0, 1.0, -0.5]], [[0, 1, 1, 0]])]
    return found + (masked if facts & _MASKS else [])


def _jacobian(call: Call, inputs: Inputs, logarithmic: bool) -> Tensor:
    """The Jacobian `[A, A]` of the probabilities; of log-probabilities π times theirs, over the available actions."""
    values = inputs.canonical
    leaf = values["preferences"].requires_grad_()
    with torch.enable_grad():
        output = _first(call(inputs.replaced(preferences=leaf)))
    if not isinstance(output, Tensor) or not output.requires_grad:
        raise Misfit("its result carries no gradient")
    rows = []
    for value, available in zip(output.reshape(-1), values["mask"][0], strict=True):
        (row,) = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)
        row = torch.zeros_like(leaf) if row is None or (logarithmic and not available) else row
        rows.append(row[0] * (value.detach().exp() if logarithmic and available else 1.0))
    jacobian = torch.stack(rows).double()
    return torch.full_like(jacobian, math.nan) if bool(jacobian.isnan().any()) else jacobian


def _of_jacobian(implementation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The Jacobian of an implementation in the canonical signature."""

    def differentiated(preferences: Tensor, mask: Tensor) -> Tensor:
        inputs = Inputs({"preferences": preferences, "mask": mask}, {})
        return _jacobian(lambda x: implementation(x.preferences, x.mask), inputs, logarithmic=False)

    return differentiated


def _right_jacobian(preferences: Tensor, mask: Tensor) -> Tensor:
    p = torch.where(mask, preferences, -math.inf).softmax(-1)
    return p[0].diag() - p.mT @ p


# --- mistakes ---

_Scale = Callable[[Tensor, float], Tensor]
_Masking = Callable[[Tensor, Tensor], Tensor]


def _filled(fill: float) -> _Masking:
    return lambda h, mask: torch.where(mask, h, fill)


def _inverted(fill: float) -> _Masking:
    return lambda h, mask: torch.where(mask, fill, h)


def _added(penalty: float) -> _Masking:
    return lambda h, mask: h + penalty * ~mask


_MINUS_INF = _filled(-math.inf)


def _softmax_of(
    masking: _Masking = _MINUS_INF,
    softmax: Callable[[Tensor], Tensor] = lambda h: h.softmax(-1),
    after: _Masking = lambda probabilities, mask: probabilities,
    scale: _Scale = torch.div,
) -> Callable[..., Tensor]:
    """Scale, mask, normalise, and mask again: the parts that a mistake replaces."""

    def implementation(preferences: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        return after(softmax(masking(scale(preferences, temperature), mask)), mask)

    return implementation


def _over(weights: Callable[[Tensor], Tensor], *, eps: float = 0.0, dim: int | None = -1) -> Callable[[Tensor], Tensor]:
    """Weights divided by their sum: over the rows, the columns, or everything."""

    def softmax(h: Tensor) -> Tensor:
        w = weights(h)
        return w / ((w.sum() if dim is None else w.sum(dim, keepdim=True)) + eps)

    return softmax


def _by_logsumexp(h: Tensor) -> Tensor:
    return (h - h.exp().sum(-1, keepdim=True).log()).exp()


def _less_the_maximum(h: Tensor) -> Tensor:
    return (h - h.amax(-1, keepdim=True)).exp()


def _less_the_maximum_of_all(h: Tensor) -> Tensor:
    return (h - h.max()).exp()


def _ignore(h: Tensor, mask: Tensor) -> Tensor:
    return h


def _multiply(h: Tensor, mask: Tensor) -> Tensor:
    return h * mask


def _renormalise(probabilities: Tensor, mask: Tensor) -> Tensor:
    kept = probabilities * mask
    return kept / kept.sum(-1, keepdim=True)


def _zero(weights: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, weights, 0.0)


def _exponentials_that_raise(h: Tensor) -> Tensor:
    if bool((h.isfinite() & (h > 700)).any()):
        raise OverflowError("math range error")
    if bool((h < -700).all(-1).any()):
        raise ZeroDivisionError("float division by zero")
    return h.softmax(-1)


def _each_masking(softmax: Callable[[Tensor], Tensor]) -> tuple[Callable[..., Tensor], ...]:
    """With the mask before the softmax; after it, renormalised."""
    return _softmax_of(softmax=softmax), _softmax_of(_ignore, softmax, _renormalise)


def _weights_normalised(weights: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Weights that are no exponentials, normalised over the available actions."""

    def implementation(preferences: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        w = torch.where(mask, weights(preferences / temperature), 0.0)
        return w / w.sum(-1, keepdim=True)

    return implementation


def _exponentials_times_mask(preferences: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    weights = (preferences / temperature).exp() * mask
    return weights / weights.sum(-1, keepdim=True)


def _hard(h: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(h.argmax(-1), h.shape[-1]).to(h.dtype)


def _through_the_logarithm(preferences: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    return (preferences / temperature).masked_fill(~mask, -math.inf).softmax(-1).log().exp()


def _logarithm_of_softmax(eps: float) -> Callable[..., Tensor]:
    def implementation(preferences: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        h = (preferences / temperature).masked_fill(~mask, -math.inf)
        return torch.where(mask, (h.softmax(-1) + eps).log(), -math.inf)

    return implementation


def _infinite_product(preferences: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    h = preferences / temperature
    return torch.where(mask, h, (1 + h.abs()) * -math.inf).softmax(-1)


GRADIENT_MISTAKES = (
    Mistake(
        "softmax.nan_gradient_next_to_masked",
        "the gradient is NaN next to masked entries",
        "The probabilities are right, and the derivative of a masked entry is 0 times infinity: of the logarithm of a "
        "probability of 0, or of a product with infinity. NaN then spreads to every preference.",
        "The parameters are NaN after the first update in a state with a masked action.",
        (issue("tensorflow/tensorflow", 11756), issue("huggingface/trl", 7221)),
        (_through_the_logarithm, _infinite_product),
    ),
)

LOGARITHM_MISTAKES = (
    Mistake(
        "softmax.logarithm_of_zero",
        "the logarithm is taken of a probability that is 0 in floating point",
        "log(softmax(h)) is -inf where the probability is too small for the floating-point numbers, while the "
        "log-softmax, h minus the logarithm of the sum, is an ordinary number.",
        "Log-probabilities of -inf, and NaN in what is computed from them, for preferences some hundreds apart (about "
        "100 in single precision).",
        (issue("pytorch/pytorch", 1620), issue("torch/nn", 804)),
        (_logarithm_of_softmax(0.0),),
    ),
    Mistake(
        "softmax.logarithm_cut_off",
        "log-probabilities are cut off by an ε in the logarithm",
        "log(p + ε) is never less than log ε: less probable actions all get the same log-probability, and no gradient.",
        "The log-probability of a very improbable action is that of ε.",
        (issue("awjuliani/DeepRL-Agents", 34),),
        tuple(_logarithm_of_softmax(eps) for eps in (1e-8, 1e-10, 1e-9, 1e-12)),
        severity="remark",
    ),
)

_WITHOUT_AXIS = {
    "softmax.whole_batch": tuple(
        _softmax_of(softmax=_over(weights, dim=None)) for weights in (torch.exp, _less_the_maximum_of_all)
    )
}

MISTAKES = (
    Mistake(
        "softmax.no_maximum_subtracted",
        "the maximum is not subtracted: the exponential overflows",
        "exp(h) is infinite for large preferences and 0 for very low ones, and the quotient is NaN or 0. The largest "
        "preference of the row can be subtracted from all without changing the probabilities.",
        "Preferences near 1000 or -1000, or as far apart if another value is subtracted, give NaN, 0, or an exception.",
        (pull("numenta/nupic-legacy", 3818), pull("githubharald/CTCWordBeamSearch", 19)),
        (
            *(f for eps in (0.0, 1e-8) for f in _each_masking(_over(torch.exp, eps=eps))),
            *_each_masking(_by_logsumexp),
            *_each_masking(_exponentials_that_raise),
            _exponentials_times_mask,
            *_each_masking(_over(lambda h: (h - h.amin(-1, keepdim=True)).exp())),
            *_each_masking(_over(lambda h: (h - h.mean(-1, keepdim=True)).exp())),
        ),
    ),
    Mistake(
        "softmax.maximum_of_the_batch",
        "the maximum of the whole batch is subtracted, not that of the row",
        "A row that lies far below the largest preference of the batch becomes 0 throughout, and its quotient NaN.",
        "Only batches whose rows differ in size by hundreds are wrong.",
        (issue("lzx1413/PytorchSSD", 22),),
        tuple(f for eps in (0.0, 1e-8) for f in _each_masking(_over(_less_the_maximum_of_all, eps=eps))),
    ),
    Mistake(
        "softmax.wrong_axis",
        "normalised over the wrong axis",
        "The softmax is taken over the first axis: the probabilities of one action sum to 1 over the batch.",
        "A single row is right; in a batch the rows do not sum to 1.",
        (issue("DeepReinforcementLearning/DeepReinforcementLearningInAction", 32), issue("ctallec/world-models", 10)),
        (
            _softmax_of(softmax=lambda h: h.softmax(0)),
            *(
                _softmax_of(softmax=_over(weights, dim=0))
                for weights in (torch.exp, _less_the_maximum, _less_the_maximum_of_all)
            ),
            _softmax_of(_ignore, lambda h: h.softmax(0), lambda p, mask: p * mask / (p * mask).sum(0)),
        ),
    ),
    Mistake(
        "softmax.whole_batch",
        "normalised over the whole batch",
        "The exponentials are divided by the sum of the whole array: all rows together sum to 1.",
        "A single row is right; in a batch the rows do not sum to 1.",
        (issue("rickwierenga/MLFundamentals", 1),),
        (_softmax_of(softmax=_over(_less_the_maximum, dim=None)),),
    ),
    Mistake(
        "softmax.masked_set_to_zero",
        "masked preferences are set to 0, not to -inf",
        "The mask multiplies the preferences. A preference of 0 has weight exp(0) = 1, not 0.",
        "Unavailable actions are chosen, the more often the lower the other preferences are.",
        (pull("hill-a/stable-baselines", 505), pull("georg-wolflein/good-features", 1)),
        (_softmax_of(_multiply),),
    ),
    Mistake(
        "softmax.mask_after_without_renormalising",
        "masked after the softmax, without renormalising",
        "The probabilities of unavailable actions are set to 0, and those that are left do not sum to 1.",
        "The sum of a row is the probability that the available actions had.",
        (pull("huggingface/pytorch-image-models", 2236), issue("lucidrains/memory-compressed-attention", 2)),
        (_softmax_of(_ignore, after=_zero),),
    ),
    Mistake(
        "softmax.mask_inverted",
        "the mask is inverted",
        "The available actions are excluded, and the others keep their preferences.",
        "Only unavailable actions are chosen; where all are available the result is NaN.",
        (issue("lucidrains/memory-compressed-attention", 2),),
        (
            *(_softmax_of(_inverted(fill)) for fill in (-math.inf, -1e9)),
            _softmax_of(lambda h, mask: h - 1e9 * mask),
            _softmax_of(_ignore, after=lambda p, mask: p * ~mask),
            _softmax_of(_ignore, after=lambda p, mask: _renormalise(p, ~mask)),
        ),
    ),
    Mistake(
        "softmax.mask_ignored",
        "the mask is ignored",
        "Unavailable actions get the probability that their preferences give them.",
        "The result does not change with the mask.",
        (pull("hill-a/stable-baselines", 453),),
        (_softmax_of(_ignore),),
    ),
    Mistake(
        "softmax.mask_value_not_low_enough",
        "the value of masked preferences is not low enough",
        "Masked preferences get a finite value, such as -100, that lies above other preferences: the mask then chooses "
        "the masked actions.",
        "It is right for preferences near 0, and wrong where all are very low.",
        (pull("huggingface/transformers", 17306), issue("karpathy/minGPT", 10)),
        tuple(_softmax_of(masking(low)) for masking in (_filled, _added) for low in (-10.0, -100.0)),
    ),
    Mistake(
        "softmax.applied_twice",
        "the softmax is applied twice",
        "The probabilities are taken for preferences and go through a second softmax: the result is almost uniform.",
        "No action is more than e = 2.72 times as probable as another.",
        (issue("Lightning-Universe/lightning-bolts", 654), issue("nfmcclure/tensorflow_cookbook", 86)),
        (
            _softmax_of(softmax=lambda h: h.softmax(-1).softmax(-1)),
            _softmax_of(after=lambda p, mask: torch.where(mask, p, -math.inf).softmax(-1)),
            _softmax_of(_ignore, lambda h: h.softmax(-1), lambda p, m: torch.where(m, p, -math.inf).softmax(-1)),
        ),
    ),
    Mistake(
        "softmax.not_exponentiated",
        "the preferences are normalised without the exponential",
        "h / Σ h is not a distribution: it is negative for negative preferences, and changes with a constant added.",
        "Probabilities are negative or above 1, or the action of lowest preference has probability 0.",
        (),
        (
            _weights_normalised(lambda h: h),
            _weights_normalised(torch.abs),
            _weights_normalised(lambda h: h - h.amin(-1, keepdim=True)),
        ),
        right_form=(_BOOK,),
    ),
    Mistake(
        "softmax.base_two",
        "the base is 2, not e",
        "Powers of 2 make the distribution flatter: it is the softmax of 0.693 h.",
        "The ratio of two probabilities is 2 where the preferences differ by 1.",
        (),
        (_softmax_of(softmax=lambda h: (h * math.log(2)).softmax(-1)),),
        right_form=(_BOOK,),
    ),
    Mistake(
        "softmax.hard",
        "the largest preference takes probability 1: argmax, not softmax",
        "The result is the greedy policy: it does not explore, and has no gradient.",
        "Every probability is 0 or 1.",
        (),
        (_softmax_of(softmax=_hard),),
        right_form=(_BOOK,),
    ),
    Mistake(
        "softmax.sigmoid",
        "a sigmoid of each preference, not a softmax",
        "Each preference is squashed by itself: the results depend on the level of the preferences and, without a "
        "division, do not sum to 1.",
        "A probability does not change with the preferences of the other actions.",
        (),
        (_softmax_of(softmax=torch.sigmoid), _weights_normalised(torch.sigmoid)),
        right_form=(_BOOK,),
    ),
    Mistake(
        "softmax.not_normalised",
        "the exponentials are not divided by their sum",
        "The weights exp(h) are right up to a constant, and do not sum to 1.",
        "A row of equal preferences does not give equal parts of 1.",
        (),
        (_softmax_of(softmax=torch.exp), _softmax_of(softmax=_less_the_maximum)),
        right_form=(_BOOK,),
    ),
    Mistake(
        "softmax.sign",
        "the sign of the preferences is turned round",
        "exp(-h) favours the action of lowest preference, as for energies or costs.",
        "The largest preference has the smallest probability.",
        (),
        (_softmax_of(softmax=lambda h: torch.where(h == -math.inf, h, -h).softmax(-1)),),
        right_form=(_BOOK,),
    ),
    Mistake(
        "softmax.temperature_ignored",
        "the temperature is ignored",
        "The argument is taken and not used: the result is that of temperature 1.",
        "The result does not change with the temperature.",
        (),
        (_softmax_of(scale=lambda h, tau: h),),
        right_form=(_BOOK,),
    ),
    Mistake(
        "softmax.multiplied_by_temperature",
        "the preferences are multiplied by the temperature",
        "A high temperature makes the distribution sharper, where it should make it flatter.",
        "At temperature 2 the result is that of temperature 1/2.",
        (),
        (_softmax_of(scale=lambda h, tau: h * tau),),
        right_form=(_ACKLEY,),
    ),
    Mistake(
        "softmax.temperature_twice",
        "the temperature is applied twice",
        "The preferences are divided by the temperature in two places: the result is that of its square.",
        "At temperature 2 the result is that of temperature 4.",
        (issue("RL-Align/RL-Kernel", 81), pull("Adibvafa/CodonTransformer", 20)),
        (_softmax_of(scale=lambda h, tau: h / tau**2),),
    ),
    *LOGARITHM_MISTAKES,
    *GRADIENT_MISTAKES,
)


CHECK = Check(
    "softmax",
    4,
    args=(
        Arg(
            "preferences",
            "B A",
            "preference prefs pref h logits logit scores score z x y xs q q_values values v theta input inputs weights "
            "action_preferences action_logits numerical_preferences h_values energies",
        ),
        Arg(
            "mask",
            "B A",
            "available legal legal_actions legal_mask actions_mask valid_actions allowed available_actions avail "
            "legal_moves feasible allowed_actions legal_actions_mask valid_action_mask available_actions_mask",
            flag=True,
        ),
        Arg(
            "unavailable",
            "B A",
            "invalid illegal forbidden invalid_mask illegal_mask invalid_actions masked_out illegal_actions",
            of=lambda x: ~x.mask,
            flag=True,
        ),
        Arg("temperature", also="tau"),
        Arg("axis", also="dim", of=lambda x: -1),
    ),
    needs=("preferences",),
    signature=("preferences",),
    axes="B A",
    layouts=("[B, A]", "[A]"),
    reference=_softmax_of(),
    cases=cases,
    mistakes=MISTAKES,
    seen=_seen,
    observe=_observe,
    choose=_choose,
    applies=_applies,
    of_the_batch=("softmax.wrong_axis", "softmax.whole_batch", "softmax.maximum_of_the_batch"),
    example="call=lambda x: f(x.preferences, x.mask)  # [B, A]",
)
# In tuples, as what stands alone is a check of its own.
_OF_BATCHES = (
    replace(
        CHECK,
        mistakes=tuple(replace(m, implementations=m.implementations + _WITHOUT_AXIS.get(m.key, ())) for m in MISTAKES),
    ),
)
_LOGARITHM = (
    replace(
        CHECK,
        reference=_right_logarithm,
        cases=_far_apart,
        mistakes=LOGARITHM_MISTAKES,
        seen=lambda inputs, answer: answer,
        observe=_logarithms,
        choose=None,
        applies=lambda mistake, facts: True,
        quantity="the log-probabilities; their exponentials are right",
    ),
)
_GRADIENT = (
    replace(
        CHECK,
        reference=_right_jacobian,
        cases=_gradient_cases,
        mistakes=tuple(
            replace(m, implementations=tuple(map(_of_jacobian, m.implementations))) for m in GRADIENT_MISTAKES
        ),
        seen=lambda inputs, answer: answer,
        observe=lambda call, layout, inputs, sizes: {"": call(inputs)},
        choose=None,
        applies=lambda mistake, facts: True,
        quantity="the Jacobian of the probabilities; the values are right",
    ),
)
