"""Is this the softmax over the actions? And if not, which known mistake is it?"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor

from pgtheory.checking._engine import (
    Agreement,
    Case,
    Form,
    call_quietly,
    close,
    examine,
    examine_batch_or_row,
    invoke,
    refusing,
    shaped,
)
from pgtheory.checking._forms import CONTAINERS, Binding, Container, Misfit, Role, as_tensor, bind, unpacked
from pgtheory.checking.report import Counterexample, Mistake, Report, Source, issue, pull
from pgtheory.softmax_policy import softmax_policy

_F64 = torch.float64
_BOOK = Source(
    "Sutton and Barto, 2018, eq. (13.2) (the right form)", "http://incompleteideas.net/book/the-book-2nd.html"
)
Layout = Literal["[B, A]", "[A]"]

ROLES = (
    Role(
        "preferences",
        "preference prefs pref h logits logit scores score z x y xs q q_values values v theta input inputs weights "
        "action_preferences action_logits numerical_preferences h_values energies",
        required=True,
    ),
    Role(
        "mask",
        "available legal legal_actions legal_mask action_mask actions_mask valid valid_mask valid_actions allowed "
        "available_actions avail m masks legal_moves feasible allowed_actions",
    ),
    Role(
        "unavailable", "invalid illegal forbidden invalid_mask illegal_mask invalid_actions masked_out illegal_actions"
    ),
    Role("temperature", "temp tau"),
)
_AXIS = Role("axis", "dim")
_STATE = Role("state", "s st obs observation state_index state_id")

MINUS_INF = "it is wrong or fails where a preference is -inf"
MASKED_HIGH = "it loses the others where a masked preference is far above them (by 1000)"
NOT_ZERO = "masked entries are not exactly 0"
NO_GRADIENT = "its result carries no gradient, which was not checked"


def check_softmax(function: Callable[..., Any], *, form: str | None = None) -> Report:
    r"""Check a function that turns preferences into the probabilities of a softmax policy, :eq:`eq-softmax-policy`.

    The function may be `fn(preferences)` or `fn(preferences, mask)`, with `mask` True where an action is available (or
    `invalid`, True where it is not), for one row `[A]` or a batch `[B, A]`, on tensors, arrays or lists. It may return
    probabilities or log-probabilities. If it keeps the graph of a tensor, its Jacobian is compared with
    :math:`\operatorname{diag}(\pi) - \pi\pi^\top`, :eq:`eq-softmax-jacobian`, also next to masked entries.

    Args:
        function: the implementation.
        form: only try forms whose name contains this text, such as `"[A]"` or `"numpy"`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called in any form, or does not return one number for each preference.

    Source:
        Sutton and Barto, *Reinforcement Learning*, 2018, eq. (13.2).

    Example:
        >>> def softmax(preferences, mask):
        ...     weights = preferences.exp() * mask
        ...     return weights / weights.sum(-1, keepdim=True)
        >>> print(check_softmax(softmax).headline)
        check_softmax: WRONG, a known mistake: the maximum is not subtracted: the exponential overflows
    """
    report = examine_batch_or_row(
        "softmax",
        _forms(function, "[B, A]", form),
        _forms(function, "[A]", form),
        _applicable(function, of_batches=form is not None and "[B" in form),
        answer=_answer,
        agrees=_agrees,
        of_the_batch=["softmax.wrong_axis", "softmax.whole_batch", "softmax.maximum_of_the_batch"],
    )
    return _with_gradient(function, report) if report.ok else report


# --- cases ---

_Plan = tuple[list[list[float]], list[list[int]] | None, float, str]  # preferences, mask, temperature, delicate


def _plans(masked: bool, tempered: bool) -> list[_Plan]:
    square = [[1.0, 0.0, 2.0], [0.5, -1.0, -0.5], [3.0, 3.5, 2.0]]
    wide = [[0.3, -0.7, 1.1, -1.6], [5.0, 6.2, 4.1, 5.5]]
    high = [[1000.0, 999.0, 1001.5], [1000.5, 1000.0, 999.0]]
    low = [[-x for x in row] for row in high]
    apart = [[2000.0, -2000.0, 1999.0], [-2000.0, 2000.0, 2000.5]]
    plain = [square, wide, [[0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 1.0, 2.0]], high, low, [high[0], low[1]], apart]
    found: list[_Plan] = [(rows, None, 1.0, "") for rows in plain]
    if tempered:
        found += [(rows, None, tau, "") for tau in (0.5, 2.0) for rows in (square, wide)]
    if masked:
        found += [(square, [[1, 1, 0], [0, 1, 1], [1, 0, 1]], 1.0, ""), (wide, [[1, 0, 0, 1], [0, 0, 1, 0]], 1.0, "")]
        found += [(wide, [[0, 1, 1, 1], [1, 0, 1, 1]], 1.0, ""), (high, [[1, 1, 0], [0, 1, 1]], 1.0, "")]
        found += [(low, [[1, 1, 0], [0, 1, 1]], 1.0, "")]
        found += [([[0.0, 1.0, 1000.0], [1000.0, 0.5, 0.0]], [[1, 1, 0], [0, 1, 1]], 1.0, MASKED_HIGH)]
    return [*found, ([[-math.inf, 1.0, 0.5], [0.0, 1.0, -math.inf]], None, 1.0, MINUS_INF)]


@functools.cache
def cases(layout: Layout = "[B, A]", masked: bool = False, tempered: bool = False) -> tuple[Case, ...]:
    """The cases, each a batch `[B, A]`, or each a single row; with masks and temperatures if these are asked for."""
    plans = _plans(masked, tempered)
    if layout == "[A]":
        plans = [([row], mask and [mask[i]], tau, why) for rows, mask, tau, why in plans for i, row in enumerate(rows)]
    return tuple(_case(rows, mask, tau, why) for rows, mask, tau, why in plans)


def _case(
    rows: Sequence[Sequence[float]], mask: Sequence[Sequence[int]] | None, tau: float = 1.0, why: str = ""
) -> Case:
    preferences = torch.tensor(rows, dtype=_F64)
    available = torch.ones_like(preferences).bool() if mask is None else torch.tensor(mask).bool()
    inputs = {"preferences": preferences, "mask": available, "unavailable": ~available, "temperature": tau, "axis": -1}
    return Case(inputs, softmax_policy(preferences / tau, available=available), why)


# --- forms ---


def _bindings(function: Callable[..., Any]) -> Binding:
    """The roles of the arguments; a second one without a known name is the mask."""
    try:
        binding = bind(function, (*ROLES, _AXIS))
    except Misfit:
        required = [role._replace(required=role.name in {"preferences", "mask"}) for role in ROLES]
        binding = bind(function, (*required, _AXIS, _STATE))
        if "state" in binding.roles:
            raise Misfit("it takes a state: hand in a lambda of the preferences in one state") from None
    if "preferences" not in binding.roles:
        raise Misfit("it takes no preferences")
    return binding


def _applicable(function: Callable[..., Any], *, of_batches: bool) -> list[Mistake]:
    """The mistakes of values that the function can make: none about a mask or a temperature that it does not take.

    What has no axis at all is a function of one row, unless it is said to be one of batches.
    """
    try:
        roles = _bindings(function).roles
    except Misfit:
        return []
    without = ("mask",) * (not roles & {"mask", "unavailable"}) + ("temperature",) * ("temperature" not in roles)
    of_values = [mistake for mistake in MISTAKES if mistake not in GRADIENT_MISTAKES]
    if of_batches:
        of_values = [replace(m, implementations=m.implementations + _WITHOUT_AXIS.get(m.key, ())) for m in of_values]
    return [mistake for mistake in of_values if not any(word in mistake.key for word in without)]


def _forms(function: Callable[..., Any], layout: Layout, only: str | None) -> Iterator[Form]:
    for container in CONTAINERS:
        name = f"{container} {layout}"
        if only is None or only in name:
            yield _form(function, name, container, layout)


def _form(function: Callable[..., Any], name: str, container: Container, layout: Layout) -> Form:
    notes: set[str] = set()
    try:
        binding = _bindings(function)
    except Misfit as error:
        return refusing(name, error)
    found = cases(layout, bool(binding.roles & {"mask", "unavailable"}), "temperature" in binding.roles)
    outputs: list[Tensor | Exception] = []
    for case in found:
        values = {role: _arranged(value, layout) for role, value in case.inputs.items()}
        try:
            output = as_tensor(_first(call_quietly(invoke, notes, function, binding, values, container)))
            outputs.append(shaped(output, case.expected.shape).double())
        except Exception as error:
            if not outputs:
                return refusing(name, error)
            outputs.append(error)
    return _cached(name, found, outputs, notes, binding.roles, layout)


def _cached(
    name: str,
    found: Sequence[Case],
    outputs: Sequence[Tensor | Exception],
    notes: set[str],
    roles: frozenset[str],
    layout: Layout,
) -> Form:
    logarithmic = _is_logarithmic([output for output in outputs if isinstance(output, Tensor)])
    place = {id(case): i for i, case in enumerate(found)}

    def call(case: Case) -> Tensor:
        output = outputs[place[id(case)]]
        if isinstance(output, Exception):
            raise output
        return output.exp() if logarithmic else output

    def view(value: Any) -> Any:
        return _arranged(value, layout)

    name += ", returns log-probabilities" if logarithmic else ""
    return Form(name, found, call, notes, roles - {"axis"}, view)


def _is_logarithmic(outputs: Sequence[Tensor]) -> bool:
    values = torch.cat([output.reshape(-1) for output in outputs]).nan_to_num(0.0, 1.0, -1.0)
    return bool((values <= 1e-6).all()) and bool((values < -1e-3).any())


def _first(output: Any) -> Any:
    """The first of several outputs, as of a function that returns probabilities and log-probabilities."""
    if isinstance(output, Mapping) and all(isinstance(action, Integral) for action in output):
        return [output[action] for action in sorted(output)]
    output = unpacked(output)
    is_several = isinstance(output, tuple) and output and isinstance(output[0], Tensor) and output[0].ndim > 0
    return output[0] if is_several else output


def _arranged(value: Any, layout: Layout) -> Any:
    return value[0] if isinstance(value, Tensor) and layout == "[A]" and value.ndim > 1 else value


def _agrees(case: Case, answer: Tensor) -> Agreement:
    """Whether the probabilities are right, and those of masked actions 0 (to 1e-12)."""
    masked = torch.where(case.inputs["unavailable"], answer, 0.0).abs()
    ok = close(answer, case.expected) and bool((masked <= 1e-12).all())
    return Agreement(ok, NOT_ZERO if ok and bool((masked > 0).any()) else "")


# --- gradients ---


def _with_gradient(function: Callable[..., Any], report: Report) -> Report:
    """The report, after a look at the Jacobian where a function of tensors keeps the graph."""
    container, _, rest = report.form.partition(" ")
    if not container.startswith("torch"):
        return report
    layout: Layout = "[B, A]" if rest.startswith("[B, A]") else "[A]"
    binding, logarithmic = _bindings(function), "log" in rest
    found = _gradient_cases(bool(binding.roles & {"mask", "unavailable"}))
    dtype = torch.float32 if container.endswith("32") else _F64

    def call(case: Case) -> Tensor:
        return _jacobian(functools.partial(binding.call, function), case, dtype, layout, logarithmic)

    form = Form(report.form, found, call, set(), binding.roles - {"axis"}, lambda value: value)
    try:
        gradient = examine("softmax", [form], GRADIENT_MISTAKES, answer=_jacobian_answer)
    except TypeError:  # nothing to differentiate
        return replace(report, remarks=(*report.remarks, NO_GRADIENT))
    if gradient.ok:
        return replace(report, details={**report.details, "Jacobian": "right"})
    shown = gradient.counterexample
    quantity = "the Jacobian of the probabilities; the values are right"
    wrong = Counterexample(*shown[:3], quantity) if shown else None
    return replace(gradient, counterexample=wrong, remarks=(*report.remarks, *gradient.remarks))


@functools.cache
def _gradient_cases(masked: bool) -> tuple[Case, ...]:
    found = [_case([[0.5, -1.0, 0.25]], None), _case([[2.0, 0.0, 1.0, -0.5]], None)]
    found += [_case([[0.5, -1.0, 0.25]], [[1, 0, 1]]), _case([[2.0, 0.0, 1.0, -0.5]], [[0, 1, 1, 0]])] * masked
    return tuple(case._replace(expected=case.expected[0].diag() - case.expected.mT @ case.expected) for case in found)


def _jacobian(
    call: Callable[[dict[str, Any]], Any], case: Case, dtype: torch.dtype, layout: Layout, logarithmic: bool
) -> Tensor:
    """The Jacobian `[A, A]` of the probabilities; of log-probabilities π times theirs, over the available actions."""
    leaf = case.inputs["preferences"].to(dtype).requires_grad_()
    values = {role: _arranged(x.clone() if isinstance(x, Tensor) else x, layout) for role, x in case.inputs.items()}
    values["preferences"] = _arranged(leaf.clone(), layout)
    output = _first(call(values))
    if not isinstance(output, Tensor) or not output.requires_grad:
        raise Misfit("its result carries no gradient")
    rows = []
    for value, available in zip(output.reshape(-1), case.inputs["mask"][0], strict=True):
        (row,) = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)
        row = torch.zeros_like(leaf) if row is None or (logarithmic and not available) else row
        rows.append(row[0] * (value.detach().exp() if logarithmic and available else 1.0))
    jacobian = torch.stack(rows).double()
    return torch.full_like(jacobian, math.nan) if bool(jacobian.isnan().any()) else jacobian


def _jacobian_answer(implementation: Callable[..., Any], case: Case) -> Tensor:
    def call(values: dict[str, Any]) -> Any:
        return implementation(values["preferences"], values["mask"])

    return _jacobian(call, case, _F64, "[B, A]", getattr(implementation, "logarithmic", False))


# --- mistakes ---


def _answer(implementation: Callable[..., Any], case: Case) -> Tensor:
    result: Tensor = implementation(*(case.inputs[role] for role in ("preferences", "mask", "temperature")))
    return result


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


def _logarithm_of_zero(preferences: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    return (preferences / temperature).masked_fill(~mask, -math.inf).softmax(-1).log()


_logarithm_of_zero.logarithmic = True  # type: ignore[attr-defined]


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
        (_through_the_logarithm, _logarithm_of_zero, _infinite_product),
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
        (_BOOK,),
        (
            _weights_normalised(lambda h: h),
            _weights_normalised(torch.abs),
            _weights_normalised(lambda h: h - h.amin(-1, keepdim=True)),
        ),
    ),
    Mistake(
        "softmax.base_two",
        "the base is 2, not e",
        "Powers of 2 make the distribution flatter: it is the softmax of 0.693 h.",
        "The ratio of two probabilities is 2 where the preferences differ by 1.",
        (_BOOK,),
        (_softmax_of(softmax=lambda h: (h * math.log(2)).softmax(-1)),),
    ),
    Mistake(
        "softmax.hard",
        "the largest preference takes probability 1: argmax, not softmax",
        "The result is the greedy policy: it does not explore, and has no gradient.",
        "Every probability is 0 or 1.",
        (_BOOK,),
        (_softmax_of(softmax=_hard),),
    ),
    Mistake(
        "softmax.sigmoid",
        "a sigmoid of each preference, not a softmax",
        "Each preference is squashed by itself: the results depend on the level of the preferences and, without a "
        "division, do not sum to 1.",
        "A probability does not change with the preferences of the other actions.",
        (_BOOK,),
        (_softmax_of(softmax=torch.sigmoid), _weights_normalised(torch.sigmoid)),
    ),
    Mistake(
        "softmax.not_normalised",
        "the exponentials are not divided by their sum",
        "The weights exp(h) are right up to a constant, and do not sum to 1.",
        "A row of equal preferences does not give equal parts of 1.",
        (_BOOK,),
        (_softmax_of(softmax=torch.exp), _softmax_of(softmax=_less_the_maximum)),
    ),
    Mistake(
        "softmax.sign",
        "the sign of the preferences is turned round",
        "exp(-h) favours the action of lowest preference, as for energies or costs.",
        "The largest preference has the smallest probability.",
        (_BOOK,),
        (_softmax_of(softmax=lambda h: torch.where(h == -math.inf, h, -h).softmax(-1)),),
    ),
    Mistake(
        "softmax.temperature_ignored",
        "the temperature is ignored",
        "The argument is taken and not used: the result is that of temperature 1.",
        "The result does not change with the temperature.",
        (_BOOK,),
        (_softmax_of(scale=lambda h, tau: h),),
    ),
    Mistake(
        "softmax.multiplied_by_temperature",
        "the preferences are multiplied by the temperature",
        "A high temperature makes the distribution sharper, where it should make it flatter.",
        "At temperature 2 the result is that of temperature 1/2.",
        (Source("Ackley, Hinton and Sejnowski, 1985 (the right form)", "https://doi.org/10.1207/s15516709cog0901_7"),),
        (_softmax_of(scale=lambda h, tau: h * tau),),
    ),
    *GRADIENT_MISTAKES,
)
