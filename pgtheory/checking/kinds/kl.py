"""Is this an estimate of the KL divergence, or a loss with its gradient? And if not, which known mistake is it?"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Call, Inputs, Layout, Misfit, Reading, as_tensor
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.kinds.kl_mistakes import LOSS_MISTAKES, MISTAKES, k1, k2, k3, of_ratio
from pgtheory.checking.names import NAMES, normalised
from pgtheory.checking.report import Mistake, Report, UnknownForm
from pgtheory.checking.verdicts import ATOL, RTOL, Trial

_F64 = torch.float64
WHOLE = frozenset(["p", "q", "p_logits", "q_logits", "whole_log_probs", "whole_ref_log_probs", "whole"])
_AS_WHOLE = {"log_probs": "whole_log_probs", "ref_log_probs": "whole_ref_log_probs"}


def check_kl(
    function: Callable[..., Any] | None = None,
    *,
    as_loss: bool = False,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check an estimate of :math:`\mathrm{KL}(\pi \| \pi_{\mathrm{ref}})` from log-probabilities of sampled tokens.

    Equation :eq:`eq-kl-estimators`. The function is `fn(log_probs, ref_log_probs)` on tensors, arrays, lists or
    numbers, and returns one value per token, or a mean or sum of them. It is right if its expectation under
    :math:`\pi`, summed over all tokens, is the divergence: k1, k3 and others are. By the names of its arguments it may
    also take a `mask` of the tokens that count, and `old_log_probs`, equal to `log_probs`, for a weight. A function of
    whole distributions is understood if its arguments are named `p` and `q`, `probs` and `ref_probs`, or `logits` and
    `ref_logits`, or by `names=` whole log-probabilities, `{"x": "whole_log_probs", "y": "whole_ref_log_probs"}`.

    As a loss (equation :eq:`eq-kl-gradients`) it is right if its expected gradient through `log_probs`, the samples
    held fixed, is that of the divergence: k2 is, and k1 and k3 are not.

    Args:
        function: the implementation.
        as_loss: whether it is to be differentiated; then it must be made of torch operations.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.log_probs, x.ref_log_probs)`; they are
            `x.log_probs`, `x.ref_log_probs`, `x.mask`, `[B, T]`, and what follows from them, such as `x.p`.
        layout: the order of axes, such as `"[T]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"x": "log_probs"}`.

    Returns:
        The report. `details` holds the bias and the variance, or the angle and length of the gradient.

    Raises:
        UnknownForm: the function cannot be called in any form, or does not return numbers, one per token or one in all.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Schulman, "Approximating KL Divergence", 2020. As losses: Tang and Munos, 2025, arXiv 2506.09477.

    Example:
        >>> print(check_kl(lambda log_probs, ref_log_probs: ref_log_probs - log_probs).diagnosis)
        arguments swapped or sign wrong, so that it estimates -KL
        >>> k3 = lambda logp, ref: (ref - logp).exp() - 1 - (ref - logp)
        >>> check_kl(k3).ok
        True
        >>> print(check_kl(k3, as_loss=True).diagnosis)
        gradient of KL(ref‖π), the other direction, as k3 has when it is used as a loss
    """
    check = LOSS_CHECK if as_loss else CHECK
    report = check.judge(function, call=call, layout=layout, names=names)
    if report.ok:
        return (
            report
            if as_loss
            else replace(report, remarks=(*report.remarks, *_as_a_loss(function, call, layout, names)))
        )
    if {*_AS_WHOLE} <= {*report.binding.values()} and not names:
        whole = {name: _AS_WHOLE[role] for name, role in report.binding.items() if role in _AS_WHOLE}
        try:
            other = check.judge(function, names=whole)
        except UnknownForm:
            return report
        if other.ok and other.judged != _SAMPLES and not {"mask", "padding"} & {*report.binding.values()}:
            remark = f"of whole distributions it is right: if it is meant to be of these, say names={whole}"
            return replace(report, remarks=(*report.remarks, remark))
    return report


def _as_a_loss(*arguments: Any) -> tuple[str, ...]:
    """What the expected gradient of an estimate is, when it is used as a loss."""
    function, call, layout, names = arguments
    try:
        report = LOSS_CHECK.judge(function, call=call, layout=layout, names=names)
    except UnknownForm:
        return ()
    if report.ok:
        return ("as a loss its expected gradient is that of KL(π‖ref): right",)
    angle = report.details.get("largest angle to the true gradient")
    otherwise = (f"as a loss its expected gradient is not that of KL(π‖ref): up to {angle} away",) if angle else ()
    known = {
        "kl_loss.detached": "as a loss it would have no gradient",
        "kl_loss.k1": "as a loss its expected gradient is zero: use it as a value only, or k2 as a loss",
        "kl_loss.other_direction": "as a loss its expected gradient is that of the other direction, KL(ref‖π)",
    }
    return (known[report.mistakes[0].key],) if report.mistakes and report.mistakes[0].key in known else otherwise


# --- the cases: two distributions each, and all tokens at once as the sample ---

_PAIRS = (
    ((0.5, 0.5), (0.25, 0.75)),
    ((0.25, 0.75), (0.5, 0.5)),
    ((0.5, 0.25, 0.25), (0.25, 0.25, 0.5)),
    ((0.2, 0.3, 0.5), (0.2, 0.3, 0.5)),
    ((0.7, 0.2, 0.1), (0.1, 0.3, 0.6)),
    ((0.9, 0.06, 0.04), (0.05, 0.5, 0.45)),
    ((0.4, 0.3, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4)),
)
# A padded place behind the tokens, in a hole between them, before them: log-probabilities of π and of the reference.
_PADDED = ((0, 2, (-5.0, -1.0)), (4, 1, (-0.5, -4.0)), (2, 0, (-2.0, -0.3)))


def cases(facts: frozenset[str]) -> list[Case]:
    """Each case has the tokens forwards in its first row and backwards in its second; with a mask, padding too."""
    whole = bool(facts & WHOLE)
    found = [_case(p, q, whole) for p, q in _PAIRS]
    if facts & {"mask", "padding"} and not whole:
        found += [_case(_PAIRS[i][0], _PAIRS[i][1], whole, place, padding) for i, place, padding in _PADDED]
    return found


def _case(
    p: Sequence[float], q: Sequence[float], whole: bool, place: int = -1, padding: Sequence[float] = (0.0, 0.0)
) -> Case:
    logs = torch.tensor([p, q], dtype=_F64).log()
    mask = torch.ones(len(p), dtype=torch.bool)
    if place >= 0:
        column = logs.new_tensor(padding)[:, None]
        logs = torch.cat([logs[:, :place], column, logs[:, place:]], -1)
        mask = torch.arange(len(p) + 1) != place
    rows = [torch.stack([x, x.flip(0)]) for x in (*logs, mask)]
    return Case({"log_probs": rows[0], "ref_log_probs": rows[1], "mask": rows[2], "whole": whole})


def policy_of(x: Mapping[str, Any]) -> Tensor:
    """The probabilities of π, `[B, T]`: 0 for padding."""
    return torch.where(x["mask"], x["log_probs"].exp(), 0.0)


def divergence(x: Mapping[str, Any]) -> Tensor:
    """KL(π‖π_ref) = Σ_a π(a) ln(π(a) / π_ref(a))."""
    return (policy_of(x) * torch.where(x["mask"], x["log_probs"] - x["ref_log_probs"], 0.0))[0].sum()


def expectation(x: Mapping[str, Any], answer: Tensor) -> Tensor:
    """The expectation of the values of tokens `[B, T]` under π; a number as it is."""
    if not answer.ndim:
        return answer
    return (policy_of(x) * torch.where(x["mask"], answer, 0.0)).sum() / len(answer)


# --- answers ---


def _number_of(output: Any) -> Tensor:
    """What a function returned, alone or first of several, with its graph."""
    if isinstance(output, torch.distributions.Categorical):
        return output.probs
    if isinstance(output, Mapping) and output:
        return _number_of(next(iter(output.values())))
    if isinstance(output, tuple) and output and not isinstance(output[0], int | float):
        return _number_of(output[0])
    if isinstance(output, list) and output and isinstance(output[0], Tensor | list):
        return torch.stack([_number_of(part) for part in output])
    if isinstance(output, Tensor) and output.is_floating_point():
        return output.double()
    return as_tensor(output).double()


def _of_tokens(call: Call, layout: Layout, inputs: Inputs) -> Tensor:
    """The value of each token `[B, T]`, 0 for padding that a function leaves out."""
    mask: Tensor = inputs.canonical["mask"]
    try:
        output = _number_of(call(inputs))
    except Misfit:
        raise
    except Exception:  # it takes a number
        return _one_by_one(call, inputs, None)
    if output.numel() == mask.numel() and mask.numel() > len(mask):
        shape = [mask.shape[1], len(mask)] if output.shape == mask.mT.shape != mask.shape else mask.shape
        if tuple(output.shape) not in (tuple(shape), (mask.numel(),)):
            raise Misfit(f"it returned shape {list(output.shape)}")
        return output.reshape(mask.shape)
    if output.shape == (int(mask.sum()),) and output.numel() > len(mask):
        return torch.zeros(mask.shape, dtype=_F64).masked_scatter(mask, output)
    if output.numel() not in (1, len(mask)):
        raise Misfit(f"it returned shape {list(output.shape)}, neither one value for each token nor one in all")
    return _one_by_one(call, inputs, output)


def _one_by_one(call: Call, inputs: Inputs, together: Tensor | None) -> Tensor:
    """The values of single tokens, with their padding, of a function that returns a mean or a sum.

    They are NaN where its value of several tokens is neither.
    """
    x = inputs.canonical
    mask, found = x["mask"], []
    for t in range(mask.shape[1]):
        if not mask[0, t]:
            found.append(torch.zeros((), dtype=_F64))
            continue
        places = [t, *(~mask[0]).nonzero()[:, 0].tolist()]
        one = {name: x[name][:1, places] for name in ("log_probs", "ref_log_probs", "mask")}
        found.append(_number_of(call(inputs.replaced(**one))).reshape(-1)[0])
    row = torch.stack(found)
    if together is not None and len(row) > 2 and bool(mask.all()):
        sums = [row.sum(), row.sum() / mask[0].sum()]
        totals = [total.detach() * n for total in sums for n in ((1, len(mask)) if together.numel() == 1 else (1,))]
        if not any(_near(together.detach().flatten(), total.expand(together.numel())) for total in totals):
            row = row * torch.nan
    return torch.stack([row, row.flip(0)])[: len(mask)]


def _near(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=RTOL, atol=ATOL)


_TERMS, _SAMPLES = "the terms of the sum over all tokens", "the values of sampled tokens"


def _value(call: Call, layout: Layout, inputs: Inputs, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """What is observed of an estimate: the value of each token; of whole distributions their expectation."""
    x = inputs.canonical
    if not x["whole"]:
        return {"": _of_tokens(call, layout, inputs).detach()}
    output = _number_of(call(inputs)).detach()
    if output.shape[-1:] == x["mask"].shape[-1:] and output.numel() == x["mask"].numel():
        values = output.reshape(x["mask"].shape)
        return {_SAMPLES: expectation(x, values), _TERMS: values.sum() / len(values)}
    return {"": _of_rows(output, x)}


def _of_rows(output: Tensor, x: Mapping[str, Any]) -> Tensor:
    if output.numel() not in (1, len(x["mask"])):
        raise Misfit(f"it returned shape {list(output.shape)}, neither one number per distribution nor its terms")
    return output.mean()


def _gradient(call: Call, layout: Layout, inputs: Inputs, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """The expected gradient through the logits of π, and the gradient of padding; of shape `[0]` if there is none."""
    x = inputs.canonical
    mask, policy = x["mask"], policy_of(x)
    leaf = x["log_probs"].requires_grad_()
    # times 1: a function may change its arguments in place, which a leaf of the graph would not allow
    given = inputs.replaced(log_probs=leaf * 1.0)
    with torch.enable_grad():
        if not x["whole"]:
            return {"": _by_logits(_of_tokens(call, layout, given), leaf, mask, policy)}
        output = _number_of(call(given))
        if output.shape[-1:] == mask.shape[-1:] and output.numel() == mask.numel():
            values = output.reshape(mask.shape)
            terms = _slope(values.sum(), leaf)
            return {_SAMPLES: _by_logits(values, leaf, mask, policy), _TERMS: terms}
        total = _of_rows(output, x)
        return {"": _slope(total * len(mask), leaf)}


def _slope(total: Tensor, leaf: Tensor) -> Tensor:
    if not total.requires_grad:
        return total.new_empty(0)
    slope = torch.autograd.grad(total, leaf, allow_unused=True, retain_graph=True)[0]
    return total.new_empty(0) if slope is None else slope


def _by_logits(values: Tensor, leaf: Tensor, mask: Tensor, policy: Tensor) -> Tensor:
    slopes = _slope((torch.where(mask, policy, 1.0) * values).sum(), leaf)
    if not slopes.numel():
        return slopes
    if len(slopes) > 1 and not bool(slopes[1].any()):  # its tokens were given one by one, and count in both rows
        slopes = torch.stack([slopes[0], slopes[0].flip(0)]) / 2
    # ∂ ln π(b) / ∂h(a) = 1[a = b] - π(a)
    return torch.where(mask, slopes - policy * torch.where(mask, slopes, 0.0).sum(-1, keepdim=True), slopes)


def _is_unbiased(x: Mapping[str, Any], got: Tensor | Exception, expected: Tensor | Exception) -> bool:
    """Whether the expectation is that of what is right, and padding gets nothing."""
    if isinstance(got, Exception) or isinstance(expected, Exception) or got.ndim != expected.ndim:
        return isinstance(got, Exception) and isinstance(expected, Exception)
    padding = got[~x["mask"]] if got.ndim else got.new_zeros(0)
    return _near(expectation(x, got), expectation(x, expected)) and _near(padding, torch.zeros_like(padding))


def _shown(x: Mapping[str, Any], answer: Any) -> Any:
    return float(expectation(x, answer)) if isinstance(answer, Tensor) else answer


def _shown_gradient(x: Mapping[str, Any], answer: Any) -> Any:
    return "no gradient" if isinstance(answer, Tensor) and not answer.numel() else answer


# --- numbers ---


def _numbers(trial: Trial) -> Mapping[str, Any]:
    pairs = [(c.inputs, trial.got(i)) for i, c in enumerate(trial.bench.cases)]
    known = [(x, a) for x, a in pairs if isinstance(a, Tensor)]
    biases = [abs(float(expectation(x, a) - divergence(x))) for x, a in known]
    details: dict[str, Any] = {"largest bias": 0.0 if max(biases) < 1e-12 else max(biases)}
    variances = [(_variance(x, a), _variance(x, of_ratio(k1)(*(x[n] for n in _CANONICAL)))) for x, a in known if a.ndim]
    ratios = [one / other for one, other in variances if other > 0]
    if ratios and all(map(math.isfinite, ratios)):
        details["variance relative to k1"] = _range(ratios, ".3g")
    return details


_CANONICAL = ("log_probs", "ref_log_probs", "mask")


def _range(numbers: Sequence[float], digits: str) -> str:
    low, high = format(min(numbers), digits), format(max(numbers), digits)
    return low if low == high else f"{low} to {high}"


def _variance(x: Mapping[str, Any], answer: Tensor) -> float:
    """The variance of one sampled value; 0 if rounding is all there is of it."""
    variance = float(expectation(x, (answer - expectation(x, answer)).square()))
    return variance if abs(variance) > 1e-10 or not math.isfinite(variance) else 0.0


def _angles(trial: Trial) -> Mapping[str, Any]:
    angles, lengths = [], []
    right = next(iter(LOSS_CHECK.right.values()))
    for i in range(len(trial.answers)):
        true, got = trial.bench.answer(right, i), trial.got(i)
        if not isinstance(true, Tensor) or not isinstance(got, Tensor) or not got.numel() or float(true.norm()) == 0.0:
            continue
        lengths.append(float(got.norm() / true.norm()))
        if lengths[-1] > ATOL:
            cosine = float((got * true).sum() / (got.norm() * true.norm()))
            angles.append(math.degrees(math.acos(max(-1.0, min(1.0, cosine)))))
    if not lengths or not all(map(math.isfinite, lengths)):
        return {}
    details: dict[str, Any] = {"length relative to the true gradient": _range(lengths, ".3f")}
    return details | ({"largest angle to the true gradient": f"{max(angles):.1f} degrees"} if angles else {})


# --- how it is called ---

_OLD, _REF = (
    {normalised(name) for name in [*NAMES[role].split(), *more.split()]}
    for role, more in (("old_log_probs", "old"), ("ref_log_probs", "ref reference base logq log_q lq"))
)
_NEW = {normalised(name) for name in ["log_probs", "new", *NAMES["log_probs"].split()]}


def _implied(parameters: Sequence[inspect.Parameter]) -> dict[str, str]:
    """In the update of a policy the samples are those of the old policy: there KL(old‖new) is what they estimate."""
    spelled = {p.name: normalised(p.name) for p in parameters if p.default is p.empty}
    old, new = ([name for name in spelled if spelled[name] in names] for names in (_OLD, _NEW - _OLD))
    if len(old) == len(new) == 1 and not _REF & set(spelled.values()):
        return {old[0]: "old_policy", new[0]: "new_policy"}
    return {}


def _readings(roles: frozenset[str]) -> list[Reading]:
    if "old_policy" in roles:
        return [Reading(notes=("it is taken as KL(old‖new), estimated from samples of the old policy",))]
    if roles & {"p", "q"}:

        def distribution(name: str) -> Callable[[Any], Any]:
            return lambda x: torch.distributions.Categorical(logits=getattr(x, name))

        objects = {"p": distribution("log_probs"), "q": distribution("ref_log_probs")}
        return [
            Reading(layouts=("[T]", "[B, T]")),
            Reading(", Categorical", objects, layouts=("[B, T]",), rare=True),
        ]
    return [Reading(layouts=("[T]", "[B, T]"))] if roles & WHOLE else [Reading()]


def _applies(mistake: Mistake, facts: frozenset[str]) -> bool:
    return not mistake.key.endswith("mean_over_vocabulary") or bool(facts & WHOLE)


def _affixed(stems: str, *owners: str) -> str:
    return " ".join(f"{owner}_{stem} {stem}_{owner}" for stem in stems.split() for owner in owners)


_P, _P_LOGITS = (_affixed(stems, "p", "pi", "policy", "student", "new") for stems in ("probs dist", "logits"))
_Q, _Q_LOGITS = (_affixed(stems, "q", "ref", "reference", "teacher") for stems in ("probs dist", "logits"))
_ARGS = (
    Arg("log_probs", "B T", "policy actor new"),
    Arg("ref_log_probs", "B T", "ref reference base log_q logq logqs lq rlp"),
    Arg("mask", "B T", flag=True),
    Arg("padding", "B T", of=lambda x: ~x.mask, flag=True),
    Arg("beta", of=lambda x: 1.0),
    Arg("old_log_probs", "B T", of=lambda x: x.log_probs.detach()),
    Arg("old_policy", "B T", of=lambda x: x.log_probs),
    Arg("new_policy", "B T", of=lambda x: x.ref_log_probs),
    Arg("p", "B T", f"probs prob pi dist {_P}", of=lambda x: x.log_probs.softmax(-1)),
    Arg("q", "B T", f"pi_ref {_Q}", of=lambda x: x.ref_log_probs.softmax(-1)),
    Arg("p_logits", "B T", f"logits {_P_LOGITS}", of=lambda x: x.log_probs.log_softmax(-1) + 0.75),
    Arg("q_logits", "B T", _Q_LOGITS, of=lambda x: x.ref_log_probs + 0.75),
    Arg("whole_log_probs", "B T", of=lambda x: x.log_probs.log_softmax(-1)),
    Arg("whole_ref_log_probs", "B T", of=lambda x: x.ref_log_probs),
    Arg("whole", asked=True),
)

CHECK = Check(
    "kl",
    8,
    args=_ARGS,
    needs=(
        "log_probs|p|p_logits|whole_log_probs|old_policy",
        "ref_log_probs|q|q_logits|whole_ref_log_probs|new_policy",
    ),
    signature=("log_probs", "ref_log_probs"),
    axes="B T",
    layouts=("[B, T]", "[T]"),
    reference={"k1": of_ratio(k1), "k3": of_ratio(k3)},
    cases=cases,
    mistakes=MISTAKES,
    readings=_readings,
    implied=_implied,
    observe=_value,
    close=_is_unbiased,
    applies=_applies,
    numbers=_numbers,
    shown=_shown,
    quantity="the expectation over the tokens of π",
    example="call=lambda x: f(x.log_probs, x.ref_log_probs)  # [B, T]",
)
# A loss is right if its gradient is that of k2, in expectation; by `replace`, as a check that stands alone is found.
LOSS_CHECK = replace(
    CHECK,
    name="kl_loss",
    reference={"": of_ratio(k2)},
    mistakes=LOSS_MISTAKES,
    observe=_gradient,
    close=Check.close,
    containers=("torch", "torch.float32"),
    numbers=_angles,
    shown=_shown_gradient,
    quantity="the expected gradient through the logits of π",
)
