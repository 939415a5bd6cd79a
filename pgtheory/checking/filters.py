"""What checks of filters of tokens share: how their output is read, how objects are called, and common mistakes."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.calling import (
    Arg,
    Call,
    Inputs,
    Layout,
    Misfit,
    Reading,
    as_tensor,
    bind,
    misunderstood,
    parameters_of,
    roles_of,
)
from pgtheory.checking.judge import Case, Check, Choose
from pgtheory.checking.names import NAMES
from pgtheory.checking.report import Report
from pgtheory.checking.verdicts import same

F64 = torch.float64
_EXCLUDED = -1e4  # a logit that is as low as this excludes the token

MINUS_INF = "it is wrong or fails where a logit is -inf already"
VERY_LOW = "it is wrong where all logits are very low (-1000): its fill value is too high, or its exponential is 0"
COMPLEMENT = "its mask is True for the tokens that it removes"
ALL_TIES = "a filter that keeps every token that is tied with the last one kept"
_SAMPLE = "it returned one token for each row, like a sample: hand in the step before the sampling"

_VALUES = ("logits", "probs", "log_probs", "values")
VALUES = "|".join(_VALUES)
VALUE_ARGS = (
    Arg("logits", "B V", "h preferences prefs preference l"),
    Arg("probs", "B V", "q", of=lambda x: x.logits.softmax(-1)),
    Arg("log_probs", "B V", "lprobs", of=lambda x: x.logits.log_softmax(-1)),
    Arg(
        "values",
        "B V",
        "scores score x xs y z input inputs weights array tensor next_token_scores q_values outputs output row "
        "predictions preds",
        of=lambda x: x.logits,
    ),
    Arg("temperature", also="tau"),
)
# Given only to a function that asks for them without a default.
FILLED_IN = (
    Arg(
        "input_ids",
        also="ids prefix context",
        of=lambda x: torch.zeros(len(x.logits), 1, dtype=torch.long),
        asked=True,
    ),
    Arg("dim", also="axis", of=lambda x: -1, asked=True),
    Arg("filter_value", also="fill fill_value mask_value", of=lambda x: -math.inf, asked=True),
    Arg("min_tokens_to_keep", also="min_keep min_to_keep", of=lambda x: 1, asked=True),
)


def readings(parameter: str) -> Callable[[frozenset[str]], list[Reading]]:
    """What an argument with a name like `x` or `scores` is, and whether a batch has one parameter for each row."""

    def found(roles: frozenset[str]) -> list[Reading]:
        kinds: dict[str, dict[str, Callable[[Any], Any]]] = {"": {}}
        if "values" in roles:
            kinds[", read as probabilities"] = {"values": lambda x: x.logits.softmax(-1)}
            kinds[", read as log-probabilities"] = {"values": lambda x: x.logits.log_softmax(-1)}
        values = {
            "top_k": lambda x: x.logits.shape[-1],
            "top_p": lambda x: 1.0,
            parameter: lambda x: getattr(x, parameter),
        }
        per_row = {
            name: lambda x, value=value: torch.tensor([value(x)] * len(x.logits)) for name, value in values.items()
        }
        plain = [Reading(text, of, anyway=bool(text)) for text, of in kinds.items()]
        return [*plain, Reading(f", one {parameter} for each row", per_row, rare=True)]

    return found


def case(rows: Sequence[Sequence[float]], delicate: str = "", *, or_fails: bool = False, **inputs: Any) -> Case:
    """A case: logits and parameters."""
    values = {"logits": torch.tensor(rows, dtype=F64), "temperature": 1.0, **inputs}
    return Case(values, delicate, or_fails)


# --- functions, and objects that make or hold one ---


def judged(
    check: Check,
    function: Callable[..., Any] | None,
    sample: Any,
    fixed: Callable[[Any], list[Case]],
    call: Call | None,
    layout: str | None,
    names: Mapping[str, str] | None,
) -> Report:
    """The report of a filter: a function, a class or function that makes one, or an object that holds its parameter.

    Args:
        check: the check, whose name without `top_` is the parameter.
        function: the implementation.
        sample: a value of the parameter, with which the filter is made to see what it takes.
        fixed: the cases with a given value of the parameter.
        call: as in every check.
        layout: as in every check.
        names: as in every check.
    """
    parameter = check.name.removeprefix("top_")
    if call is None and callable(function):
        try:
            given = parameters_of(function)
        except (TypeError, ValueError):
            given = []
        roles = {r for p in given for r in ((names or {}).get(p.name), *roles_of(p.name, check.args)) if r}
        takes_values = bool(roles & {*_VALUES})
        if inspect.isclass(function) or (parameter in roles and not takes_values):
            try:
                function, names = _made(check, function, parameter, sample, names), None
            except Misfit as misfit:
                raise misunderstood(check.name, {"its arguments by their names": str(misfit)}, check.example) from None
        elif takes_values and parameter not in roles and (value := _held(function, check, parameter)) is not None:
            check = replace(check, needs=(VALUES,), cases=lambda facts: fixed(value))
    return check.judge(function, call=call, layout=layout, names=names)


def _made(
    check: Check, make: Callable[..., Any], parameter: str, sample: Any, names: Mapping[str, str] | None
) -> Callable[..., Any]:
    """The function of values and a parameter of what makes a filter from the parameter alone."""
    outer = bind(make, check.args, (parameter,), (parameter,), names)[0]
    rest = {arg.name: arg.of(None) for arg in FILLED_IN[1:] if arg.of}
    if more := outer.roles - {parameter, *rest}:
        raise Misfit(f"it takes nothing to filter, and {', '.join(sorted(more))} besides {parameter}")
    filtering = outer.call(make, {**rest, parameter: sample})
    if isinstance(filtering, Tensor) or not callable(filtering):
        raise Misfit(f"it takes no {parameter} besides what it filters, and returns no function")

    def function(**given: Any) -> Any:
        return outer.call(make, {**rest, parameter: given.pop(parameter)})(**given)

    taken = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters_of(filtering)]
    taken.append(inspect.Parameter(parameter, inspect.Parameter.KEYWORD_ONLY))
    vars(function)["__signature__"] = inspect.Signature(taken)
    return function


def _held(function: Any, check: Check, parameter: str) -> Any:
    """The parameter that an object holds, such as a `LogitsProcessor`."""
    also = next(arg.also for arg in check.args if arg.name == parameter)
    for name in (check.name, parameter, *NAMES.get(parameter, "").split(), *also.split()):
        value = getattr(function, name, None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
    return None


# --- what was returned: the distribution that is sampled from ---

_KEPT, _REMOVED = "a mask of the tokens kept", "a mask of the tokens removed"


def observe(call: Call, layout: Layout, inputs: Inputs, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """The distributions `[B, V]` that the output may mean, by what it is then, the likeliest first."""
    output = unpacked(call(inputs))
    values = inputs.canonical
    logits, single = values["logits"] / values["temperature"], layout.lacks_batch
    parts = {"": output}
    if isinstance(output, tuple | list) and len(output) > 1:
        parts |= {f"element {i} of {len(output)}: ": part for i, part in enumerate(output)}
    found, refusal = dict[str, Tensor](), ""
    if (pair := _pair_of(output, logits)) is not None:
        found |= _pair_meanings(*pair, logits)
        if pair[0].shape != logits.shape:
            parts = {}
    for prefix, part in parts.items():
        try:
            found |= {prefix + name: p for name, p in _meanings(_whole(part, logits, single), logits)}
        except Misfit as misfit:
            refusal = refusal or str(misfit)
        else:
            if not prefix:
                break
    if not found:
        raise Misfit(refusal)
    return {name: _lowest_index_first(distribution, logits) for name, distribution in found.items()}


def _meanings(part: Tensor | list[list[int]], logits: Tensor) -> Iterator[tuple[str, Tensor]]:
    if isinstance(part, list):
        kept = torch.zeros(logits.shape, dtype=torch.bool)
        for mask, row in zip(kept, part, strict=True):
            if any(not 0 <= i < logits.shape[-1] for i in row):
                raise Misfit("it returned integers that are neither a mask nor indices")
            mask[row] = True
        yield "indices", _of_kept(kept, logits)
        return
    if part.is_floating_point() and _is_probability(part):
        yield "probabilities", part.double().masked_fill((part == 0).all(-1, keepdim=True), math.nan)
    if bool(((part == 0) | (part == 1)).all()):
        yield _KEPT, _of_kept(part.bool(), logits)
        yield _REMOVED, _of_kept(~part.bool(), logits)
    if part.is_floating_point():
        yield "logits", part.double().masked_fill(part <= _EXCLUDED, -math.inf).softmax(-1)


def _of_kept(kept: Tensor, logits: Tensor) -> Tensor:
    return logits.masked_fill(~kept, -math.inf).softmax(-1)


def _is_probability(t: Tensor) -> bool:
    t = t.nan_to_num(0.0, math.inf, -math.inf)
    return bool((t >= 0).all()) and bool((t.sum(-1) < 1.001).all())


def _whole(output: Any, logits: Tensor, single: bool) -> Tensor | list[list[int]]:
    """The output as `[B, V]`, or as indices."""
    try:
        tensor = as_tensor(output)
    except Misfit:
        if isinstance(output, list | tuple) and not single and len(output) == len(logits):
            return [_indices(row) for row in output]
        raise
    shape = [*logits.shape[1:]] if single else [*logits.shape]
    whole = [*tensor.shape] in (shape, [*logits.shape], [1, *logits.shape], [len(logits), 1, *logits.shape[1:]])
    integers = not tensor.is_floating_point() and tensor.dtype != torch.bool
    if whole and not (integers and bool(((tensor < 0) | (tensor > 1)).any())):
        return tensor.reshape(logits.shape)
    if single and tensor.ndim <= 2 and tensor.numel() <= logits.shape[-1]:
        return [_indices(tensor)]
    if not single and len(tensor.shape) in (1, 2) and len(tensor) == len(logits) and (integers or tensor.ndim == 2):
        return [_indices(row) for row in tensor]
    raise Misfit(f"it returned shape {[*tensor.shape]}, not {shape}")


def _indices(row: Any) -> list[int]:
    tensor = as_tensor(row)
    if tensor.numel() and (tensor.is_floating_point() or tensor.dtype == torch.bool):
        raise Misfit(f"it returned shape {[*tensor.shape]}: not the whole row, and not indices")
    return [int(i) for i in tensor.reshape(-1).tolist()]


def _pair_of(output: Any, logits: Tensor) -> tuple[Tensor, Tensor] | None:
    """Values and the indices of their tokens `[B, n]`, if that is what was returned."""
    if not isinstance(output, tuple | list) or len(output) != 2:
        return None
    try:
        values, indices = sorted((as_tensor(part) for part in output), key=lambda t: not t.is_floating_point())
    except Misfit:
        return None
    integers = not indices.is_floating_point() and indices.dtype != torch.bool
    if not values.is_floating_point() or not integers or values.shape != indices.shape or not values.numel():
        return None
    if values.numel() % len(logits) or bool((indices < 0).any()) or bool((indices >= logits.shape[-1]).any()):
        return None
    return values.reshape(len(logits), -1), indices.long().reshape(len(logits), -1)


def _pair_meanings(values: Tensor, indices: Tensor, logits: Tensor) -> dict[str, Tensor]:
    """The meanings of values at indices: the input's own probabilities select tokens, and others are as they are."""
    own, listed = logits.softmax(-1).gather(-1, indices), (values != 0) & (values > _EXCLUDED)

    def filled(blank: float, x: Tensor) -> Tensor:
        return torch.full(logits.shape, blank, dtype=F64).scatter(-1, indices, x.double())

    found = {}
    if bool((((values - own).abs() < 1e-5) | ~listed).all()):
        kept = filled(0.0, listed.double()) > 0
        found["pair: the input's own probabilities with indices"] = _of_kept(kept, logits)
    if _is_probability(values) and bool(((values.sum(-1) - 1).abs() < 1e-3).all()):
        found["pair: probabilities with indices"] = filled(0.0, values)
    found["pair: logits with indices"] = filled(
        -math.inf, values.masked_fill(~(values > _EXCLUDED), -math.inf)
    ).softmax(-1)
    return found


def unpacked(output: Any) -> Any:
    """What stands in a distribution, in a dictionary, or in a list of pairs of an index and a number.

    Of a distribution these are the probabilities, of a dictionary the values, and the indices if these are its keys.
    """
    if isinstance(output, torch.distributions.Categorical):
        return output.probs
    if isinstance(output, Mapping) and output:
        indexed = all(isinstance(key, Integral) for key in output)
        return (list(output), list(output.values())) if indexed else tuple(output.values())
    if isinstance(output, list) and output and all(map(_is_indexed, output)):
        return tuple(list(part) for part in zip(*output, strict=True))
    return output


def _is_indexed(item: Any) -> bool:
    pair = isinstance(item, tuple) and len(item) == 2
    return pair and isinstance(item[0], Integral) and not isinstance(item[1], Integral)


def _lowest_index_first(distribution: Tensor, logits: Tensor) -> Tensor:
    """Give the probabilities of tied tokens to those of lowest index first: which of them are kept does not matter."""
    if not bool((logits.sort(dim=-1).values.diff() == 0).any()):
        return distribution
    target = logits.argsort(dim=-1, descending=True, stable=True)
    by_probability = distribution.argsort(dim=-1, descending=True, stable=True)
    ranked = logits.gather(-1, by_probability).argsort(dim=-1, descending=True, stable=True)
    source = by_probability.gather(-1, ranked)
    return torch.empty_like(distribution).scatter(-1, target, distribution.gather(-1, source))


def choosing(references: Sequence[Callable[..., Tensor]]) -> Choose:
    """What was returned: of values with indices both; of several parts the first, unless a mask or indices disagree."""

    def choose(cases: Sequence[tuple[Mapping[str, Any], Mapping[str, Tensor]]]) -> tuple[str, str]:
        right = [[f(**x) for f in references] for x, _ in cases]

        def score(name: str) -> int:
            return sum(any(same(p[name], r) for r in rs) for (_, p), rs in zip(cases, right, strict=True))

        heads = []
        for _, group in groupby(cases[0][1], key=lambda name: name.rpartition(": ")[0]):
            names = list(group)
            if names[0].endswith("indices") and all(bool((p[names[0]] == 1).any(-1).all()) for _, p in cases):
                raise Misfit(_SAMPLE)
            heads.append(max(names[:2], key=score) if names[0].endswith(_KEPT) else names[0])
        chosen = heads[0]
        if chosen.startswith("pair"):
            chosen = max(heads, key=score)
        elif score(chosen) == len(cases):
            chosen = next(
                (n for n in heads if not n.endswith(("logits", "probabilities")) and score(n) < len(cases)), chosen
            )
        return chosen, COMPLEMENT if chosen.endswith(_REMOVED) else ""

    return choose
