"""Is this an estimate of the KL divergence, or a loss with its gradient? And if not, which known mistake is it?"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgtheory.checking._engine import (
    ATOL,
    RTOL,
    Agreement,
    Case,
    Form,
    call_quietly,
    examine,
    invoke,
    misunderstood,
    shaped,
)
from pgtheory.checking._forms import (
    CONTAINERS,
    Binding,
    Container,
    Misfit,
    Role,
    UnknownForm,
    as_tensor,
    bind,
    contained,
    unpacked,
)
from pgtheory.checking.report import Counterexample, Mistake, Report, Source, arxiv, issue, pull

_F64 = torch.float64
_STEMS = "log_probs log_prob logprobs logprob logps logp log_ps log_p log_pi logpi lp"
_POLICY = "policy actor new cur curr current pi theta model online student learner train trainer target"
_REFERENCE = "ref reference base sft init initial frozen ref_policy ref_model base_model pi_ref teacher anchor"


def _names(owners: str, stems: str = _STEMS) -> str:
    """The names `owner_stem` and `stem_owner`."""
    pairs = itertools.product(owners.split(), stems.split())
    return " ".join(f"{owner}_{stem} {stem}_{owner}" for owner, stem in pairs)


ROLES = (
    Role("log_probs", f"{_STEMS} policy actor new {_names(_POLICY)}", required=True),
    Role("ref_log_probs", f"ref reference base log_q logq logqs lq rlp {_names(_REFERENCE)}", required=True),
    Role(
        "mask",
        "masks action_mask response_mask loss_mask completion_mask valid_mask padding_mask pad_mask attention_mask "
        "eos_mask answer_mask token_mask assistant_mask generation_mask output_mask",
    ),
    Role("coefficient", "coef coeff beta kl_coef kl_coeff kl_beta kl_weight kl_coefficient init_kl_coef"),
)
# In the update of a policy the samples are those of the old policy: there KL(old‖new) is what they estimate.
_OLD = (
    Role("log_probs", f"old {_names('old behavior behaviour rollout prev')}", required=True),
    Role("ref_log_probs", f"{_STEMS} new {_names(_POLICY)}", required=True),
    *ROLES[2:],
)
# A weight of the sampled tokens, which is 1 in value: log_probs are those of the old policy where they are sampled.
_SAMPLED = Role("old_log_probs", _names("old behavior behaviour rollout prev sampling"))
_PROBABILITIES = (
    Role("p", f"probs prob pi p_probs dist pi_dist p_dist {_names(_POLICY, 'probs dist')}", required=True),
    Role("q", f"pi_ref q_probs q_dist {_names(_REFERENCE, 'probs dist')}", required=True),
)
_LOGITS = (
    Role("p", f"logits p_logits {_names(_POLICY, 'logits')}", required=True),
    Role("q", f"q_logits {_names(_REFERENCE, 'logits')}", required=True),
)

_LAYOUTS = ("[T]", "[B, T]", "[B, 1]", "[1]", "[1, 1]", "a number")
_Call = Callable[[Mapping[str, Any]], Tensor]
# What a function answered in each form.
_Record = dict[str, list[tuple[Case, Tensor]]]
_KINDS = ("probabilities", "Categorical", "log-probabilities", "logits")


def check_kl(function: Callable[..., Any], *, as_loss: bool = False, form: str | None = None) -> Report:
    r"""Check an estimate of :math:`\mathrm{KL}(\pi \| \pi_{\mathrm{ref}})` from log-probabilities of sampled tokens.

    Equation :eq:`eq-kl-estimators`. The function is `fn(log_probs, ref_log_probs)` on tensors, arrays, lists or
    numbers, and returns one value per token, or a mean or sum of them. It is right if its expectation under
    :math:`\pi`, summed over all tokens, is the divergence: k1, k3 and others are. By the names of its arguments it may
    also take a `mask` of the tokens that count, and `old_log_probs`, equal to `log_probs`, for a weight. A function of
    whole distributions is understood if its arguments are named `p` and `q`, `probs` and `ref_probs`, or `logits` and
    `ref_logits`, or with `form="full"`.

    As a loss (equation :eq:`eq-kl-gradients`) it is right if its expected gradient through `log_probs`, the samples
    held fixed, is that of the divergence: k2 is, and k1 and k3 are not.

    Args:
        function: the implementation.
        as_loss: whether it is to be differentiated; then it must be made of torch operations.
        form: only try forms whose name contains this text, such as `"[B, T]"`, `"numpy"` or `"full"`.

    Returns:
        The report. `details` holds the bias and the variance, or the angle and length of the gradient.

    Raises:
        UnknownForm: the function cannot be called in any form, or does not return numbers, one per token or one in all.

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
    report = _checked(function, as_loss, form)
    if report.ok and not as_loss:
        return replace(report, remarks=(*report.remarks, *_gradient_remark(function, report.form)))
    if not report.ok and form is None and _is_right_of_distributions(function, as_loss):
        remark = "as a function of whole distributions it is right: if it is meant to be one, say form='full'"
        return replace(report, remarks=(*report.remarks, remark))
    return report


def _checked(function: Callable[..., Any], as_loss: bool, form: str | None) -> Report:
    """The report on a function of whole distributions, if its names say that it is one; else on one of tokens."""
    record: _Record = {}
    try:
        full = list(_full_forms(function, form, as_loss, record))
    except Misfit as misfit:
        raise misunderstood("kl", {"full": str(misfit)}) from misfit
    tokens = _token_forms(function, form, as_loss, record)
    if not full:
        return _examined(tokens, as_loss, record)
    try:
        report = _examined(full, as_loss, record)
    except UnknownForm:
        return _examined(itertools.chain(full, tokens), as_loss, record)
    if report.ok or (form is not None and "full" in form):
        return report
    try:
        other = _examined(tokens, as_loss, record)
    except UnknownForm:
        return report
    return other if other.ok else report


def _examined(forms: Iterable[Form], as_loss: bool, record: _Record) -> Report:
    if as_loss:
        report = examine("kl", forms, LOSS_MISTAKES, answer=_loss_answer, agrees=_has_the_gradient)
        return _with_details(report, _gradient_details(record.get(report.form, ())))
    report = examine("kl", forms, MISTAKES, answer=_answer, agrees=_is_unbiased)
    return _with_details(report, _value_details(record.get(report.form, ())))


def _is_right_of_distributions(function: Callable[..., Any], as_loss: bool) -> bool:
    agrees = _has_the_gradient if as_loss else _is_unbiased
    try:
        return examine("kl", _full_forms(function, "full", as_loss, {}), (), answer=_answer, agrees=agrees).ok
    except (UnknownForm, Misfit):
        return False


# Forms.


@dataclass(frozen=True)
class _KLForm(Form):
    """A form whose counterexample shows the distributions, and the expectation or the gradient."""

    quantity: str = ""

    def counterexample(self, case: Case, got: Tensor | Exception) -> Counterexample:
        """A case and a wrong answer: the expectation of what the function returned, or the gradient of that."""
        inputs: dict[str, Any] = {"π": _policy(case), "ref": _reference(case)}
        if "layout" in case.inputs:
            inputs |= {role: case.inputs[role] for role in sorted(self.roles & {*case.inputs})}
        if "gradient" in self.quantity:
            return Counterexample(inputs, _true_gradient(case), _seen(got), self.quantity)
        if isinstance(got, Tensor) and got.ndim:
            inputs["returned"] = got
        return Counterexample(inputs, float(_divergence(case)), _expected_value(got, case), self.quantity)


class _Setting(NamedTuple):
    """How a form calls: which argument is what, in which container and layout, with which mask."""

    binding: Binding
    container: Container
    layout: str
    mask: torch.dtype = torch.bool
    inverted: bool = False


def _token_forms(function: Callable[..., Any], only: str | None, as_loss: bool, record: _Record) -> Iterator[Form]:
    containers = [c for c in CONTAINERS if not as_loss or c.startswith("torch")]
    for binding, old in _bindings(function):
        dtypes = (torch.bool, _F64) if "mask" in binding.roles else (torch.bool,)
        polarities = (False, True) if _takes_padding(function) else (False,)
        for container, layout, dtype, inverted in itertools.product(containers, _LAYOUTS, dtypes, polarities):
            name = f"{container} {layout}" + (", float mask" if dtype == _F64 else "") + (", samples of old" * old)
            name += ", mask of the padding" * inverted
            if (only is None or only in name) and not (layout == "a number" and "mask" in binding.roles):
                yield _form(function, name, _Setting(binding, container, layout, dtype, inverted), as_loss, record)


def _takes_padding(function: Callable[..., Any]) -> bool:
    """Whether an argument is a mask named after the padding, which people have True there or everywhere else."""
    return _named(function, [Role("padding", "pad_mask padding_mask is_pad is_padding")])


def _bindings(function: Callable[..., Any]) -> list[tuple[Binding, bool]]:
    """The canonical order; if an argument is named after the old policy, also with the samples of that."""
    if _named(function, (*ROLES[:2], _SAMPLED)):
        return [(bind(function, (*ROLES, _SAMPLED)), False)]
    found = [(bind(function, ROLES), False)]
    if not {"log_probs", "ref_log_probs"} <= found[0][0].roles:
        raise Misfit("it does not take two arguments, log_probs and ref_log_probs")
    return [*found, (bind(function, _OLD), True)] if _named(function, _OLD[:1]) else found


def _named(function: Callable[..., Any], roles: Sequence[Role]) -> bool:
    """Whether the names of a function's arguments, not their places alone, give it these roles."""
    others = [Role(f"another {n}", required=True) for n in range(4)]
    try:
        binding = bind(function, [*(role._replace(required=False) for role in roles), *others])
    except Misfit:
        return False
    return {role.name for role in roles} <= binding.roles


def _form(
    function: Callable[..., Any],
    name: str,
    setting: _Setting,
    as_loss: bool,
    record: _Record,
) -> Form:
    notes: set[str] = set()
    if "old" in name:
        notes.add("it is taken as KL(old‖new), estimated from samples of the old policy")
    padded = "mask" in setting.binding.roles

    def one(values: Mapping[str, Any]) -> Any:
        mask = ~values["mask"] if setting.inverted else values["mask"]
        values = {**values, "mask": mask.to(setting.mask), "coefficient": 1.0}
        values["old_log_probs"] = values["log_probs"].detach()
        if not as_loss:
            return as_tensor(_first(invoke(notes, function, setting.binding, values, setting.container), values))
        given = {role: contained(values[role], setting.container) for role in setting.binding.roles}
        return _graph(_first(setting.binding.call(function, given), values))

    def call(case: Case) -> Tensor:
        answer = _expected_gradient(one, case) if as_loss else _values(one, case)
        record.setdefault(name, []).append((case, answer))
        return answer

    quantity = "the expected gradient through the logits of π" if as_loss else "the expectation over the tokens of π"
    return _KLForm(name, cases(setting.layout, padded), call, notes, setting.binding.roles, quantity=quantity)


def _first(output: Any, values: Mapping[str, Any]) -> Any:
    """The first of several results; a tuple of one number per token is one result."""
    output = unpacked(output)
    if isinstance(output, tuple) and output and not isinstance(output[0], int | float):
        shape = tuple(values["log_probs"].shape)
        return (
            output[0] if tuple(getattr(output[0], "shape", ())) == shape or len(output) != math.prod(shape) else output
        )
    return output


def _graph(output: Any) -> Tensor:
    """What a function returned, with its graph."""
    if isinstance(output, Tensor):
        return output.double()
    if isinstance(output, list | tuple) and output and all(isinstance(part, Tensor) for part in output):
        return torch.stack([part.double() for part in output])
    if isinstance(output, list) and output and all(isinstance(part, list) for part in output):
        return torch.stack([_graph(part) for part in output])
    return as_tensor(output)


# Cases: two distributions each, and all tokens at once as the sample.

_PAIRS = (
    ((0.5, 0.5), (0.25, 0.75)),
    ((0.25, 0.75), (0.5, 0.5)),
    ((0.5, 0.25, 0.25), (0.25, 0.25, 0.5)),
    ((0.2, 0.3, 0.5), (0.2, 0.3, 0.5)),
    ((0.7, 0.2, 0.1), (0.1, 0.3, 0.6)),
    ((0.9, 0.06, 0.04), (0.05, 0.5, 0.45)),
    ((0.4, 0.3, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4)),
)


def cases(layout: str, padded: bool = False) -> list[Case]:
    """The cases of a layout, the smallest first; for a function that takes a mask also some with padding."""
    found = [_case(p, q, layout) for p, q in _PAIRS]
    if padded:
        found += [
            _case(_PAIRS[i][0], _PAIRS[i][1], layout, padding) for i, padding in ((0, (-5.0, -1.0)), (4, (-0.5, -4.0)))
        ]
    return found


def _case(p: Sequence[float], q: Sequence[float], layout: str, padding: Sequence[float] = ()) -> Case:
    """One case; the padding, if there is any, holds a log-probability of π and one of the reference."""
    logs = torch.tensor([p, q], dtype=_F64).log()
    mask = torch.arange(len(p) + bool(padding)) < len(p)
    if padding:
        logs = torch.cat([logs, logs.new_tensor(padding)[:, None]], -1)
    inputs = {"log_probs": logs[0], "ref_log_probs": logs[1], "mask": mask, "layout": layout}
    return Case(inputs, torch.where(mask, logs[0] - logs[1], 0.0))


def _policy(case: Case) -> Tensor:
    """The probabilities of π: 0 for padding."""
    return torch.where(case.inputs["mask"], case.inputs["log_probs"].exp(), 0.0)


def _reference(case: Case) -> Tensor:
    return torch.where(case.inputs["mask"], case.inputs["ref_log_probs"].exp(), 0.0)


def _log_ratio(case: Case) -> Tensor:
    difference: Tensor = case.inputs["log_probs"] - case.inputs["ref_log_probs"]
    return torch.where(case.inputs["mask"], difference, 0.0)


def _divergence(case: Case) -> Tensor:
    # KL(π‖π_ref) = Σ_a π(a) ln(π(a) / π_ref(a))
    return (_policy(case) * _log_ratio(case)).sum()


def _true_gradient(case: Case) -> Tensor:
    # ∂KL/∂h(a) = π(a) (ln(π(a) / π_ref(a)) - KL)
    return _policy(case) * (_log_ratio(case) - _divergence(case))


def _other_gradient(case: Case) -> Tensor:
    # ∂KL(π_ref‖π)/∂h(a) = π(a) - π_ref(a)
    return _policy(case) - _reference(case)


# Answers.


def _values(call: _Call, case: Case, log_probs: Tensor | None = None) -> Tensor:
    """What a function returns for each token, 0 for padding that it leaves out."""
    mask, layout = case.inputs["mask"], case.inputs["layout"]
    given = {role: case.inputs[role] for role in ("log_probs", "ref_log_probs", "mask")}
    given |= {} if log_probs is None else {"log_probs": log_probs}
    if layout == "[T]":
        return _per_token(call(given), mask)
    if layout == "[B, T]":
        return _of_two_rows(call({role: torch.stack([x, x.flip(0)]) for role, x in given.items()}), mask)
    return torch.zeros(mask.shape, dtype=_F64).masked_scatter(mask, _one_by_one(call, given, layout).double())


def _one_by_one(call: _Call, given: Mapping[str, Tensor], layout: str) -> Tensor:
    """The values of single tokens, of a function that returns a mean or a sum; with their padding, if there is any."""
    mask = given["mask"]
    rows = {role: _rows(x, mask) for role, x in given.items()}
    n = len(rows["mask"])
    place: Any = {"[B, 1]": None, "[1]": ..., "[1, 1]": None, "a number": 0}[layout]
    together = _together(call, {role: x[mask][... if place == 0 else place] for role, x in given.items()}, layout)
    if layout == "[B, 1]":
        found = shaped(call(rows), [n])
    else:
        each = [{role: x[i][place] for role, x in rows.items()} for i in range(n)]
        found = torch.stack([shaped(call(values), [1])[0] for values in each])
    # the smallest cases are there to see whether the form fits at all
    if n > 2 and together is not None and not any(_near(together, x.double()) for x in (found.mean(), found.sum())):
        raise ValueError("its value for several tokens is neither the mean nor the sum of those of each")
    return found


def _together(call: _Call, given: Mapping[str, Tensor], layout: str) -> Tensor | None:
    """The one value of several tokens; None if it takes only one token."""
    try:
        output = call(given)
    except Exception as error:
        if layout == "[B, 1]":
            raise Misfit(f"it takes no row of several tokens: {error}") from error
        return None
    if output.numel() != 1:
        raise Misfit("it returns one value for each token")
    return output.detach().double().reshape(())


def _rows(x: Tensor, mask: Tensor) -> Tensor:
    """One row for each token, with the padding behind it."""
    return torch.cat([x[mask][:, None], x[~mask].expand(int(mask.sum()), -1)], -1)


def _of_two_rows(output: Tensor, mask: Tensor) -> Tensor:
    """The values of the tokens, of a batch that holds them once forwards and once backwards."""
    if output.shape == (2 * int(mask.sum()),):
        output = output.reshape(2, -1)
    if output.ndim == 0 or len(output) != 2:
        raise Misfit(f"it returned shape {list(output.shape)}, not {[2, len(mask)]}")
    return (_per_token(output[0], mask) + _per_token(output[1], mask.flip(0)).flip(0)) / 2


def _per_token(output: Tensor, mask: Tensor) -> Tensor:
    if output.shape == mask.shape:
        return output.double()
    if output.shape == (int(mask.sum()),):
        return torch.zeros(mask.shape, dtype=_F64).masked_scatter(mask, output.double())
    return shaped(output, mask.shape).double()


def _expected_gradient(call: _Call, case: Case) -> Tensor:
    """The expected gradient through the logits of π, and the gradient of padding; of shape `[0]` if there is none."""
    mask, policy = case.inputs["mask"], _policy(case)
    log_probs = case.inputs["log_probs"].clone().requires_grad_()
    with torch.enable_grad():
        # times 1: a function may change its arguments in place, which a leaf of the graph would not allow
        values = _values(call, case, log_probs * 1.0)
        loss = (torch.where(mask, policy, 1.0) * values).sum()
    if not loss.requires_grad:
        return loss.new_empty(0)
    (slopes,) = torch.autograd.grad(loss, log_probs, allow_unused=True)
    if slopes is None:
        return loss.new_empty(0)
    # ∂ ln π(b) / ∂h(a) = 1[a = b] - π(a)
    return torch.where(mask, slopes - policy * slopes[mask].sum(), slopes)


def _expected_value(answer: Any, case: Case) -> Any:
    if not isinstance(answer, Tensor) or answer.ndim == 0:
        return answer
    return float((_policy(case) * torch.where(case.inputs["mask"], answer, 0.0)).sum())


def _seen(gradient: Any) -> Any:
    return "no gradient" if isinstance(gradient, Tensor) and not gradient.numel() else gradient


def _near(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=RTOL, atol=ATOL)


def _is_unbiased(case: Case, answer: Tensor) -> Agreement:
    """Whether the expectation is the divergence, and padding gets nothing."""
    if answer.ndim == 0:
        return Agreement(_near(answer.double(), _divergence(case)))
    padding = answer.double()[~case.inputs["mask"]]
    value = torch.as_tensor(_expected_value(answer.double(), case), dtype=_F64)
    return Agreement(_near(value, _divergence(case)) and _near(padding, torch.zeros_like(padding)))


def _has_the_gradient(case: Case, answer: Tensor) -> Agreement:
    return Agreement(answer.numel() > 0 and _near(answer, _true_gradient(case)))


# Functions of whole distributions.


def _full_forms(function: Callable[..., Any], only: str | None, as_loss: bool, record: _Record) -> Iterator[Form]:
    kinds: list[str] = []
    if only is not None and "full" in only:
        kinds = list(_KINDS)
    elif _named(function, _PROBABILITIES):
        kinds = list(_KINDS[:2])
    elif _named(function, _LOGITS):
        kinds = [_KINDS[3]]
    for kind, container, layout in itertools.product(kinds, CONTAINERS, ("[V]", "[1, V]", "[2, V]")):
        name = f"{container} {layout}, full {kind}"
        fits = container.startswith("torch") if as_loss or kind == "Categorical" else True
        if fits and (only is None or only == "full" or only in name):
            binding = bind(function, _PROBABILITIES if kind != "logits" else _LOGITS)
            yield _full_form(function, name, binding, (kind, container, layout), as_loss, record)


def _full_form(
    function: Callable[..., Any],
    name: str,
    binding: Binding,
    setting: tuple[str, Container, str],
    as_loss: bool,
    record: _Record,
) -> Form:
    kind, container, layout = setting

    def evaluate(case: Case, logits: Tensor) -> Any:
        p, q = (_as_kind(x, kind, layout) for x in (logits, case.inputs["ref_log_probs"]))
        given = {"p": _contained(p, container), "q": _contained(q, container)}
        return binding.call(function, given)

    def call(case: Case) -> Tensor:
        logits = case.inputs["log_probs"].clone().requires_grad_(as_loss)
        with torch.set_grad_enabled(as_loss or torch.is_grad_enabled()):
            output = evaluate(case, logits * 1.0)
            total = _total(_graph(_first_number(output)) if as_loss else as_tensor(_first_number(output)), layout, case)
        answer = _gradient(total, logits) if as_loss else total.double()
        record.setdefault(name, []).append((case, answer))
        return answer

    found = [_full_case(p, q) for p, q in _PAIRS]
    quantity = "the gradient through the logits of π" if as_loss else "the divergence"
    return _KLForm(name, found, call, set(), binding.roles, quantity=quantity)


def _full_case(p: Sequence[float], q: Sequence[float]) -> Case:
    case = _case(p, q, "")
    inputs = {role: value for role, value in case.inputs.items() if role != "layout"}
    return Case(inputs, _divergence(case))


def _as_kind(log_probs: Tensor, kind: str, layout: str) -> Any:
    x = log_probs.log_softmax(-1)
    x = x[None].expand(1 if layout == "[1, V]" else 2, -1) if layout != "[V]" else x
    if kind == "logits":
        return x + 0.75
    return (
        x
        if kind == "log-probabilities"
        else x.exp()
        if kind == "probabilities"
        else torch.distributions.Categorical(x.exp())
    )


def _contained(value: Any, container: Container) -> Any:
    if isinstance(value, torch.distributions.Categorical):
        return torch.distributions.Categorical(value.probs.float()) if "32" in container else value
    return contained(value, container)


def _first_number(output: Any) -> Any:
    output = unpacked(output)
    return output[0] if isinstance(output, tuple) and output else output


def _total(output: Tensor, layout: str, case: Case) -> Tensor:
    """The one number that a function of distributions gives: a scalar, one per row, or terms to be summed."""
    rows, size = {"[V]": 1, "[1, V]": 1, "[2, V]": 2}[layout], len(case.inputs["mask"])
    if output.numel() == 1:
        return output.double().reshape(())
    if layout != "[V]" and output.numel() == rows:
        return output.double().reshape(rows).mean()
    if output.shape[-1:] == (size,) and output.numel() == rows * size:
        return output.double().sum() / rows
    raise Misfit(f"it returned shape {list(output.shape)}, neither one number per distribution nor its terms")


def _gradient(total: Tensor, logits: Tensor) -> Tensor:
    if not total.requires_grad:
        return total.new_empty(0)
    (gradient,) = torch.autograd.grad(total, logits, allow_unused=True)
    return total.new_empty(0) if gradient is None else gradient


# What the mistakes answer.


def _implemented(implementation: Callable[..., Any]) -> _Call:
    def call(values: Mapping[str, Any]) -> Tensor:
        result: Tensor = implementation(**{role: values[role] for role in ("log_probs", "ref_log_probs", "mask")})
        return result

    return call


def _answer(implementation: Callable[..., Any], case: Case) -> Tensor:
    if isinstance(implementation, _OfDistributions):
        if "layout" in case.inputs:
            raise Misfit("it takes whole distributions")
        total: Tensor = implementation(_policy(case), _reference(case)).double()
        return total
    answer = _of_tokens(_values, implementation, case)
    if "layout" in case.inputs:
        return answer
    return torch.as_tensor(_expected_value(answer, case), dtype=_F64)


def _of_tokens(evaluate: Callable[..., Tensor], implementation: Callable[..., Any], case: Case) -> Tensor:
    """The answer on tokens: all at once if the mistake is one of single values, else in the layout of the case."""
    at_once = case._replace(inputs={**case.inputs, "layout": "[T]"})
    try:
        return evaluate(_implemented(implementation), at_once)
    except Misfit:
        if "layout" not in case.inputs:
            raise
        return evaluate(_implemented(implementation), case)


def _loss_answer(implementation: Callable[..., Any], case: Case) -> Tensor:
    if isinstance(implementation, _OfDistributions):
        if "layout" in case.inputs:
            raise Misfit("it takes whole distributions")
        logits = case.inputs["log_probs"].clone().requires_grad_()
        return _gradient(implementation(logits.softmax(-1), _reference(case)), logits)
    return _of_tokens(_expected_gradient, implementation, case)


# Numbers, and what an estimate is as a loss.


def _with_details(report: Report, details: Mapping[str, Any]) -> Report:
    """The report with other numbers; the values themselves are not what is right or wrong."""
    kept = {name: value for name, value in report.details.items() if name != "largest error"}
    return replace(report, details={**kept, **details})


def _value_details(record: Sequence[tuple[Case, Tensor]]) -> dict[str, Any]:
    right_shape = [(c, a.double()) for c, a in record if a.ndim == 0 or a.shape == c.inputs["mask"].shape]
    if not right_shape:
        return {}
    details: dict[str, Any] = {"largest bias": max(abs(float(_bias(c, a))) for c, a in right_shape)}
    ratios = [
        _variance(c, a) / _variance(c, c.expected) for c, a in right_shape if a.ndim and _variance(c, c.expected) > 0
    ]
    if ratios and all(math.isfinite(r) for r in ratios):
        details["variance relative to k1"] = _range(ratios, ".3g")
    return {name: (0.0 if isinstance(x, float) and x < 1e-12 else x) for name, x in details.items()}


def _range(numbers: Sequence[float], digits: str) -> str:
    low, high = format(min(numbers), digits), format(max(numbers), digits)
    return low if low == high else f"{low} to {high}"


def _bias(case: Case, answer: Tensor) -> float:
    return float(_expected_value(answer, case)) - float(_divergence(case))


def _variance(case: Case, answer: Tensor) -> float:
    """The variance of one sampled value; 0 if rounding is all there is of it."""
    centred = torch.where(case.inputs["mask"], answer - _expected_value(answer, case), 0.0)
    variance = float((_policy(case) * centred.square()).sum())
    return variance if abs(variance) > 1e-10 or not math.isfinite(variance) else 0.0


def _gradient_details(record: Sequence[tuple[Case, Tensor]]) -> dict[str, Any]:
    angles, lengths = [], []
    for case, answer in record:
        true = _true_gradient(case)
        if not answer.numel() or float(true.norm()) == 0.0:
            continue
        lengths.append(float(answer.norm() / true.norm()))
        if lengths[-1] > ATOL:
            cosine = float((answer @ true) / (answer.norm() * true.norm()))
            angles.append(math.degrees(math.acos(max(-1.0, min(1.0, cosine)))))
    if not lengths or not all(map(math.isfinite, lengths)):
        return {}
    details: dict[str, Any] = {"length relative to the true gradient": _range(lengths, ".3f")}
    return details | ({"largest angle to the true gradient": f"{max(angles):.1f} degrees"} if angles else {})


def _gradient_remark(function: Callable[..., Any], name: str) -> tuple[str, ...]:
    """What the expected gradient of an estimate is, when it is used as a loss."""
    try:
        full = _full_forms(function, "full" if "full" in name else None, True, {})
        known = (*full, *_token_forms(function, None, True, {}))
        candidates = [form for form in known if form.name == name]
        answers = [(case, call_quietly(form.call, case)) for form in candidates for case in form.cases]
    except Exception:
        return ()
    if not answers:
        return ()
    if not any(answer.numel() for _, answer in answers):
        return ("as a loss it would have no gradient",)
    if not all(answer.numel() for _, answer in answers):
        return ()
    if all(_near(gradient, _true_gradient(case)) for case, gradient in answers):
        return ("as a loss its expected gradient is that of KL(π‖ref): right",)
    if all(_near(gradient, torch.zeros_like(gradient)) for _, gradient in answers):
        return ("as a loss its expected gradient is zero: use it as a value only, or k2 as a loss",)
    if all(_near(gradient, _other_gradient(case)) for case, gradient in answers):
        return ("as a loss its expected gradient is that of the other direction, KL(ref‖π)",)
    angle = _gradient_details(answers).get("largest angle to the true gradient")
    return (f"as a loss its expected gradient is not that of KL(π‖ref): up to {angle} away",) if angle else ()


# The known mistakes.


def _of_ratio(value: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The value of each token as a function of k1 = ln π - ln π_ref, 0 where the mask says so."""
    return _of_both(lambda p, q: value(p - q))


def _of_both(value: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The value of each token as a function of ln π and ln π_ref, 0 where the mask says so."""

    def implementation(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask.bool(), value(log_probs, ref_log_probs), 0.0)

    return implementation


def _unmasked(value: Callable[[Tensor], Tensor], reduce: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def implementation(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor) -> Tensor:
        return reduce(value(log_probs - ref_log_probs))

    return implementation


def _masked_then(value: Callable[[Tensor], Tensor], reduce: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def implementation(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor) -> Tensor:
        return reduce(value(log_probs - ref_log_probs) * mask)

    return implementation


class _OfDistributions:
    """A function of two whole distributions."""

    def __init__(self, value: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.value = value

    def __call__(self, p: Tensor, q: Tensor) -> Tensor:
        return self.value(p, q)


def _k1(d: Tensor) -> Tensor:
    return d


def _k2(d: Tensor) -> Tensor:
    return d.square() / 2


def _k3(d: Tensor) -> Tensor:
    return torch.expm1(-d) + d


def _mean(values: Tensor) -> Tensor:
    return values.mean()


def _row_mean(values: Tensor) -> Tensor:
    return values.mean(-1)


_REDUCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (lambda x: x, _mean, torch.sum, _row_mean, lambda x: x.sum(-1))
_SCHULMAN = Source(
    "Schulman, 2020, Approximating KL Divergence (the right form)", "http://joschu.net/blog/kl-approx.html"
)
_TANG = arxiv("Tang and Munos, 2025", "2506.09477")
_LIU = arxiv("Liu et al., 2025", "2510.01555")
_KL_DIV = Source(
    "PyTorch, documentation of KLDivLoss", "https://docs.pytorch.org/docs/stable/generated/torch.nn.KLDivLoss.html"
)

MISTAKES = (
    Mistake(
        "kl.k2",
        "k2, half the squared log ratio, which is biased as an estimate of the KL",
        "Its expectation is not the divergence, though close to it where the policies are. It is the estimate whose "
        "gradient, when it is used as a loss, is right.",
        "The values are never negative and do not change when the arguments are swapped.",
        (_SCHULMAN, pull("NovaSky-AI/SkyRL", 1445)),
        (_of_ratio(_k2),),
        "remark",
    ),
    Mistake(
        "kl.sign",
        "arguments swapped or sign wrong, so that it estimates -KL",
        "The log ratio is ln ref - ln π. Its mean over samples of π is minus the divergence: as a penalty it rewards "
        "moving away from the reference.",
        "The mean over many samples is negative.",
        (
            issue("nebuly-ai/optimate", 298),
            issue("natolambert/rlhf-book", 489),
            issue("lucidrains/PaLM-rlhf-pytorch", 38),
        ),
        (_of_ratio(lambda d: -d), _of_ratio(lambda d: -_k3(d))),
    ),
    Mistake(
        "kl.k3_ratio_inverted",
        "k3 with the ratio inverted, π/ref in place of ref/π",
        "With samples of π the ratio of k3 must be ref/π, whose expectation is 1. With π/ref the estimate is biased, "
        "and large where the policies differ.",
        "The values are never negative, and much larger than the log ratio where π is above the reference.",
        (_SCHULMAN, issue("natolambert/rlhf-book", 489)),
        (_of_ratio(lambda d: torch.expm1(d) - d),),
    ),
    Mistake(
        "kl.other_direction",
        "KL(ref‖π), the other direction",
        "The samples are weighted by ref/π, so that the expectation is that of the reference: it estimates the "
        "divergence in the other direction, which penalises other things.",
        "With a reference that excludes a token, it stays finite where KL(π‖ref) is infinite.",
        (issue("Kaixhin/ACER", 6), issue("advait/c4a0", 35)),
        (_of_ratio(lambda d: torch.exp(-d) * -d), _of_ratio(lambda d: torch.exp(-d) * -d - torch.expm1(-d))),
    ),
    Mistake(
        "kl.absolute_value",
        "absolute value of the log ratio",
        "The negative terms are what makes the expectation of k1 the divergence. Without their sign the estimate is "
        "too large wherever the policies differ.",
        "The values are the right ones with the sign removed.",
        (issue("huggingface/trl", 1161), issue("openai/spinningup", 137)),
        (_of_ratio(torch.abs),),
    ),
    Mistake(
        "kl.square_without_half",
        "square of the log ratio without the factor 1/2",
        "It is twice k2: as a penalty with a coefficient of its own it does no harm, as an estimate of the divergence "
        "it is about twice too large.",
        "Close to the reference the result is twice the divergence.",
        (pull("PrimeIntellect-ai/prime-rl", 1697), pull("one-covenant/grail", 42)),
        (_of_ratio(torch.square),),
    ),
    Mistake(
        "kl.negatives_clipped",
        "negative values clipped to 0",
        "A log ratio may be negative for a token, and must be for the mean to be right. Clipped at 0 the estimate is "
        "biased upwards.",
        "No value is negative, and many are exactly 0.",
        (pull("huggingface/trl", 3710), issue("tatsu-lab/alpaca_farm", 67)),
        (_of_ratio(lambda d: d.clamp(min=0)),),
    ),
    Mistake(
        "kl.k3_without_one",
        "k3 without the -1",
        "The term r - 1 has expectation 0, and r has expectation 1: the estimate is too large by 1.",
        "It is 1 where the policies are equal.",
        (_SCHULMAN,),
        (_of_ratio(lambda d: torch.exp(-d) + d),),
    ),
    Mistake(
        "kl.k3_wrong_sign_of_log",
        "k3 with the wrong sign of ln r",
        "It is (r - 1) + ln r, where the right form is (r - 1) - ln r: the expectation is minus the divergence, or "
        "biased if the ratio is inverted too.",
        "The values have both signs, and k3 has none below 0.",
        (_SCHULMAN, issue("EmbodiedCity/Embodied-R.code", 2)),
        (_of_ratio(lambda d: torch.expm1(-d) - d), _of_ratio(lambda d: torch.expm1(d) + d)),
    ),
    Mistake(
        "kl.k3_exp_twice",
        "k3 with the exponential taken twice, or of the ratio",
        "The ratio has been exponentiated already, and is put where its logarithm belongs: (exp(r) - 1) - r.",
        "Where the policies are equal it is e - 2, not 0.",
        (pull("Rolv-Arild/rocket-learn", 12),),
        (
            _of_ratio(lambda d: torch.exp(-d).expm1() - torch.exp(-d)),
            _of_ratio(lambda d: torch.exp(d).expm1() - torch.exp(d)),
        ),
    ),
    Mistake(
        "kl.k3_without_log",
        "r - 1 without the -ln r",
        "What is left of k3 without its logarithm has expectation 0, whatever the policies are.",
        "The mean over many samples is 0.",
        (_SCHULMAN,),
        (_of_ratio(lambda d: torch.expm1(-d)),),
    ),
    Mistake(
        "kl.probability_difference",
        "difference of probabilities instead of their log ratio",
        "The log-probabilities are exponentiated and then subtracted: no divergence is a mean of that, and tokens of "
        "small probability count for nothing.",
        "The values lie between -1 and 1.",
        (_SCHULMAN,),
        (
            _of_both(lambda p, q: p.exp() - q.exp()),
            _of_both(lambda p, q: (p.exp() - q.exp()).abs()),
            _of_both(lambda p, q: (p.exp() - q.exp()).square()),
            _of_both(lambda p, q: (p.exp() - q.exp()).square() / 2),
        ),
    ),
    Mistake(
        "kl.weighted_twice",
        "sampled log ratio weighted by the probability again",
        "π ln(π/ref) is a term of the sum over all tokens. Of tokens that were sampled from π the mean is wanted, and "
        "this weights by π a second time: frequent tokens count too much.",
        "The result is smaller than the divergence, the more the larger the vocabulary.",
        (issue("marin-community/marin", 1708),),
        (_of_both(lambda p, q: p.exp() * (p - q)),),
    ),
    Mistake(
        "kl.kl_div_arguments",
        "F.kl_div with its arguments as they come: weighted by the reference",
        "F.kl_div(input, target) is target (ln target - input): given the log-probabilities of π first, it is "
        "ref ln(ref/π), a term of the other direction, and on sampled tokens no estimate at all.",
        "The values are bounded by the probabilities of the reference.",
        (issue("pytorch/pytorch", 57459), issue("sarahwie/attention", 6)),
        (_of_both(lambda p, q: q.exp() * (q - p)),),
    ),
    Mistake(
        "kl.mask_ignored",
        "the mask is ignored: padding counts",
        "What stands behind the end of a sequence is treated as a token: it enters the penalty or its mean.",
        "The result changes with the padding.",
        (pull("natolambert/rlhf-book", 216), issue("huggingface/trl", 6803), pull("radixark/miles", 1383)),
        tuple(_unmasked(value, reduce) for value in (_k1, _k3) for reduce in _REDUCTIONS),
    ),
    Mistake(
        "kl.mean_over_padding",
        "mean over all positions, padding included",
        "Padding is set to 0 and then counted: the sum is divided by the length of the row and not by the number of "
        "tokens, so that short sequences count for less.",
        "The result shrinks when padding is added.",
        (pull("natolambert/rlhf-book", 216), pull("allenai/open-instruct", 535), issue("huggingface/trl", 6803)),
        tuple(_masked_then(value, reduce) for value in (_k1, _k3) for reduce in (_mean, _row_mean)),
    ),
    Mistake(
        "kl.mean_over_vocabulary",
        "mean over the vocabulary instead of the sum, as with reduction='mean'",
        "The divergence is the sum of its terms over all tokens. Their mean is smaller by the size of the vocabulary: "
        "F.kl_div needs reduction='batchmean' or 'sum'.",
        "The result is the right one divided by the number of tokens.",
        (_KL_DIV,),
        (_OfDistributions(lambda p, q: (p * (p / q).log()).mean()),),
    ),
)

LOSS_MISTAKES = (
    Mistake(
        "kl_loss.k1",
        "k1 as a loss: expected gradient zero",
        "The gradient of ln π(a) - ln ref(a) is the score, whose expectation is 0: the reference has no influence, and "
        "the penalty adds nothing but noise.",
        "A larger coefficient does not bring the policy nearer to the reference.",
        (pull("allenai/open-instruct", 535), pull("OpenRLHF/OpenRLHF", 1309), _TANG),
        (_of_ratio(_k1),),
    ),
    Mistake(
        "kl_loss.other_direction",
        "gradient of KL(ref‖π), the other direction, as k3 has when it is used as a loss",
        "k3 estimates KL(π‖ref) as a value, but its gradient with the samples held fixed is that of KL(ref‖π). Near "
        "the reference the two agree to first order, far from it they do not.",
        "The weight of the score is 1 - ref/π, not ln(π/ref).",
        (pull("verl-project/verl", 2953), pull("OpenRLHF/OpenRLHF", 1309), _TANG, _LIU),
        (_of_ratio(_k3),),
    ),
    Mistake(
        "kl_loss.detached",
        "no gradient: the result is detached",
        "It is computed under no_grad, or from detached log-probabilities, or turned into a number: added to a loss, "
        "it changes its value and nothing else.",
        "The result does not require a gradient.",
        (issue("allenai/open-instruct", 530), issue("NovaSky-AI/SkyRL", 1340)),
        (_of_ratio(lambda d: _k3(d).detach()),),
    ),
    Mistake(
        "kl_loss.k3_ratio_inverted",
        "k3 with the ratio inverted, as a loss",
        "The weight of the score is π/ref - 1, not ln(π/ref): tokens that the reference finds unlikely dominate.",
        "The gradient grows exponentially with the log ratio.",
        (_SCHULMAN, issue("natolambert/rlhf-book", 489)),
        (_of_ratio(lambda d: torch.expm1(d) - d),),
    ),
    Mistake(
        "kl_loss.square_without_half",
        "twice the gradient: the square without the factor 1/2",
        "It is 2 k2. The direction is right and the length is twice that of the gradient of the divergence: the "
        "coefficient means something else than it says.",
        "The angle to the true gradient is 0, and the length 2.",
        (pull("PrimeIntellect-ai/prime-rl", 1697),),
        (_of_ratio(torch.square),),
    ),
    Mistake(
        "kl_loss.sign",
        "gradient of -KL: the sign is wrong",
        "Minimising it drives the policy away from the reference.",
        "The angle to the true gradient is 180 degrees.",
        (issue("qiancheng0/ToolRL", 52), issue("huggingface/trl", 463)),
        (_of_ratio(lambda d: -_k2(d)),),
    ),
    Mistake(
        "kl_loss.absolute_value",
        "absolute value of the log ratio, as a loss",
        "The weight of the score is only the sign of the log ratio: tokens a little and very far off weigh the same.",
        "Every token has the weight 1 or -1.",
        (issue("huggingface/trl", 1161),),
        (_of_ratio(torch.abs),),
    ),
    Mistake(
        "kl_loss.weighted_twice",
        "sampled log ratio weighted by the probability again, as a loss",
        "π ln(π/ref) is a term of the sum over all tokens, where its gradient is right. On sampled tokens it is "
        "weighted by π a second time.",
        "Rare tokens have almost no gradient.",
        (issue("marin-community/marin", 1708),),
        (_of_both(lambda p, q: p.exp() * (p - q)),),
    ),
    Mistake(
        "kl_loss.kl_div_arguments",
        "F.kl_div with its arguments as they come, on sampled tokens, as a loss",
        "F.kl_div(input, target) is target (ln target - input), whose gradient by the sampled log-probability is minus "
        "the probability under the reference.",
        "The gradient does not vanish where the policies are equal.",
        (issue("pytorch/pytorch", 57459), issue("sarahwie/attention", 6)),
        (_of_both(lambda p, q: q.exp() * (q - p)),),
    ),
    Mistake(
        "kl_loss.mask_ignored",
        "the mask is ignored: padding has a gradient",
        "What stands behind the end of a sequence is treated as a token, and its log-probability is differentiated.",
        "The gradient by the log-probability of padding is not 0.",
        (pull("natolambert/rlhf-book", 216), pull("allenai/open-instruct", 535)),
        tuple(_unmasked(value, reduce) for value in (_k2,) for reduce in _REDUCTIONS),
    ),
    Mistake(
        "kl_loss.mean_over_padding",
        "mean over all positions, padding included, so that the gradient shrinks with padding",
        "Padding is set to 0 and then counted: the sum is divided by the length of the row and not by the number of "
        "tokens, so that the strength of the penalty depends on how much padding a batch has.",
        "The angle to the true gradient is 0, and the length the part of the positions that are tokens.",
        (pull("natolambert/rlhf-book", 216), pull("allenai/open-instruct", 535), issue("huggingface/trl", 6803)),
        tuple(_masked_then(_k2, reduce) for reduce in (_mean, _row_mean)),
    ),
    Mistake(
        "kl_loss.mean_over_vocabulary",
        "mean over the vocabulary, so that the gradient is too small by its size",
        "The divergence is the sum of its terms over all tokens, and their mean has a gradient that is smaller by the "
        "size of the vocabulary: F.kl_div needs reduction='batchmean' or 'sum'.",
        "The angle to the true gradient is 0, and the length one over the number of tokens.",
        (_KL_DIV,),
        (_OfDistributions(lambda p, q: (p * (p / q).log()).mean()),),
    ),
)
