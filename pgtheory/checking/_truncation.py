"""Is this top-k, or top-p, truncation? And if not, which known mistake is it?"""

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    misunderstood,
    refusing,
)
from pgtheory.checking._forms import (
    CONTAINERS,
    Binding,
    Container,
    Misfit,
    Role,
    UnknownForm,
    bind,
    normalised,
    unpacked,
)
from pgtheory.checking._readings import Reading, readings
from pgtheory.checking.report import Counterexample, Mistake, Report, Source, arxiv, issue, pull
from pgtheory.decoding import top_k, top_p

_F64 = torch.float64
_SLACK = 1e-6  # of a mass: what the cases keep away from p, or reach exactly
_HOLTZMAN = arxiv("Holtzman et al., 2020, section 3.1 (the right form)", "1904.09751")
_FAN = arxiv("Fan, Lewis and Dauphin, 2018 (the right form)", "1805.04833")

_LOGITS = Role(
    "logits",
    "logit scores score x xs h preferences prefs preference z y l input inputs next_logits raw_logits "
    "lm_logits last_logits weights",
    required=True,
)
_PROBS = Role("probs", "probabilities prob probability distribution dist pi pmf softmax_probs", required=True)
_LOG_PROBS = Role("log_probs", "logprobs lprobs logprob logp log_p log_prob log_probabilities", required=True)
_VALUES = (_LOGITS, _PROBS, _LOG_PROBS)
_K = Role(
    "k", "top_k topk n num num_keep n_keep keep n_tokens num_tokens count kk k_value top_n max_tokens", required=True
)
_P = Role(
    "p",
    "top_p topp nucleus_p nucleus threshold thresh thres thr cutoff mass p_value prob prob_mass cumulative_prob "
    "min_mass probability_mass q p_nucleus",
    required=True,
)
_TEMPERATURE = Role("temperature", "temp tau")
# Given only to a function that asks for them without a default.
_FILLED_IN = (
    Role("input_ids", "ids prefix context"),
    Role("dim", "axis"),
    Role("filter_value", "fill fill_value mask_value"),
    Role("min_tokens_to_keep", "min_keep min_to_keep"),
)
ROLES = (_LOGITS, _PROBS, _LOG_PROBS, _K, _P, _TEMPERATURE, *_FILLED_IN)

EXACTLY = "it keeps other tokens where a set of tokens reaches p exactly: a matter of rounding"
AT_ONE = "it is wrong or fails at p = 1, where all tokens are to be kept"
TINY = "it fails where p is tiny (1e-9), where the most probable token is to be kept"
MINUS_INF = "it is wrong or fails where a logit is -inf already"
VERY_LOW = "it is wrong where all logits are very low (-1000): its fill value is too high, or its exponential is 0"
ALL_TIES = "it keeps every token that is tied with the last one kept"
OTHER_TIES = "of tokens that are tied it keeps others than those of lowest index"
COMPLEMENT = "its mask is True for the tokens that it removes"


class Kind(NamedTuple):
    """What is specific to top-k, or to top-p."""

    check: str
    parameter: Role
    other: Role
    truth: Callable[[Tensor, Any], Tensor]


TOP_K = Kind("top_k", _K, _P._replace(required=False), top_k)
TOP_P = Kind("top_p", _P, _K._replace(required=False), top_p)


def check_top_k(function: Callable[..., Any], *, form: str | None = None) -> Report:
    r"""Check a function that keeps the k most probable tokens, :eq:`eq-top-k`.

    The function may be `fn(logits, k)`, for one row `[V]` or a batch `[B, V]`, on tensors, arrays or lists, or for a
    batch of sequences of which it takes the last position itself. By the names of its arguments it may also take
    probabilities (`probs`) or `log_probs` instead of logits, and a `temperature`. It may return filtered logits,
    probabilities, a boolean mask, the indices of the tokens kept, the pair (values, indices), a tuple or dictionary
    that begins with one of these, or a `Categorical`. Also understood: a `LogitsProcessor` of `transformers`, its
    class, and any `fn(k)` that returns a function of the logits.

    Args:
        function: the implementation.
        form: only try forms whose name contains this text, such as `"[V]"` or `"numpy"`.

    Returns:
        The report. Keeping every token tied with the k-th, or other ones of the tied, is a remark.

    Raises:
        UnknownForm: the function cannot be called in any form, or returns nothing that is understood.

    Source:
        Fan, Lewis and Dauphin (2018).

    Example:
        >>> def filtered(logits, k):
        ...     threshold = logits.topk(k - 1 or 1).values[..., -1:]
        ...     return logits.masked_fill(logits < threshold, -torch.inf)
        >>> print(check_top_k(filtered).headline)
        check_top_k: WRONG, a known mistake: one token too few is kept
    """
    return _check(function, TOP_K, TOP_K_MISTAKES, form)


def check_top_p(function: Callable[..., Any], *, form: str | None = None) -> Report:
    r"""Check a function that keeps the nucleus of mass p, :eq:`eq-top-p`.

    The right set is the smallest set of most probable tokens whose mass reaches p: the token that crosses p is in it,
    a set that reaches p exactly takes no further token, and one token stays at least. The forms are those of
    `check_top_k`, with `fn(logits, p)`. A temperature comes first: the nucleus is that of the scaled logits.

    Args:
        function: the implementation.
        form: only try forms whose name contains this text, such as `"[V]"` or `"numpy"`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called in any form, or returns nothing that is understood.

    Source:
        Holtzman, Buys, Du, Forbes and Choi (2020), section 3.1.

    Example:
        >>> def nucleus(logits, p):
        ...     ranked, order = logits.sort(descending=True)
        ...     removed = ranked.softmax(-1).cumsum(-1) > p
        ...     return logits.masked_fill(torch.zeros_like(removed).scatter(-1, order, removed), -torch.inf)
        >>> print(check_top_p(nucleus).headline)
        check_top_p: WRONG, a known mistake: the token that crosses p is dropped
    """
    return _check(function, TOP_P, TOP_P_MISTAKES, form)


def _check(function: Callable[..., Any], kind: Kind, mistakes: Sequence[Mistake], form: str | None) -> Report:
    answer = functools.partial(_answer, kind)
    try:
        return examine_batch_or_row(
            kind.check,
            _forms(function, kind, "[B, V]", form),
            _forms(function, kind, "[V]", form),
            mistakes,
            answer=answer,
            agrees=_agrees,
            of_the_batch=[f"{kind.check}.threshold_of_another_row"],
        )
    except UnknownForm as refused:
        try:  # a function that takes the logits of the last position itself
            of_positions = _forms(function, kind, "[B, 1, V]", form)
            return examine(kind.check, of_positions, mistakes, answer=answer, agrees=_agrees)
        except UnknownForm as error:
            raise misunderstood(kind.check, {**refused.tried, **error.tried}) from None


# --- cases ---


def _rows_of(probabilities: Sequence[Sequence[float]]) -> list[list[float]]:
    """Logits of these probabilities, with a constant that differs from row to row."""
    shifts = [0.5, 4.0, -3.0]
    return [[math.log(q) + shifts[i % 3] for q in row] for i, row in enumerate(probabilities)]


_LN2, _LN4, _INF = math.log(2), math.log(4), math.inf
# No row is sorted, and the permutations that sort them are not their own inverses.
_THREE = [[0.5, 2.0, 1.0], [5.0, 3.0, 6.0], [-4.0, -2.5, -3.0]]
_FIVE = [[1.0, 0.2, -0.7, 2.3, 1.6], [-3.1, -1.2, -2.0, -4.4, -2.6], [4.5, 6.1, 3.3, 5.2, 4.9]]
_EIGHT = [[0.3, -1.1, 1.9, -0.4, 0.9, 1.4, -1.7, 2.2], [-2.0, -2.3, -3.9, -1.2, -4.1, -0.8, -3.1, -2.6]]
_BOUND = [[2.0, 1.0, 2.0, 2.0], [0.0, 3.0, 1.0, 1.0]]
_P3 = _rows_of([[0.19, 0.52, 0.29], [0.33, 0.04, 0.63], [0.06, 0.77, 0.17]])
_P5 = _rows_of([[0.19, 0.11, 0.05, 0.38, 0.27], [0.07, 0.61, 0.17, 0.03, 0.12], [0.16, 0.26, 0.13, 0.24, 0.21]])
_P8 = _rows_of([[0.16, 0.04, 0.21, 0.06, 0.11, 0.29, 0.03, 0.10], [0.02, 0.13, 0.07, 0.46, 0.05, 0.01, 0.17, 0.09]])
_TIED = _rows_of([[0.28, 0.28, 0.16, 0.28], [0.1, 0.3, 0.4, 0.2]])
# Exact in binary, in single and double precision, with and without subtraction of the maximum.
_HALVES = [[0.0, _LN2, 0.0], [0.0, 0.0, _LN2], [_LN2, 0.0, 0.0]]
_QUARTERS = [[0.0, _LN4, 0.0, _LN2], [_LN2, 0.0, _LN4, 0.0], [_LN4, 0.0, 0.0, _LN2]]
_UNIFORM = [[0.0] * 4, [1.5] * 4]

_Plan = tuple[list[list[float]], Any, float, str]  # rows, k or p, temperature, delicate


def _plans(kind: Kind, tempered: bool) -> list[_Plan]:
    plain, warm = (_top_k_plans(), _top_k_warm()) if kind is TOP_K else (_top_p_plans(), _top_p_warm())
    return plain + [plan for plan in warm if tempered]


def _low(rows: list[list[float]]) -> list[list[float]]:
    return [[x - 1000.0 for x in row] for row in rows]


def _holed(rows: list[list[float]]) -> list[list[float]]:
    return [[-_INF, *row] for row in rows]


def _top_k_plans() -> list[_Plan]:
    firm: list[tuple[list[list[float]], int]] = [(_THREE, k) for k in (2, 1, 3)] + [(_FIVE, k) for k in (1, 2, 3, 4, 5)]
    firm += [(_EIGHT, 3), (_EIGHT, 6), ([[1.0, 2.0, 0.0, 2.0], [3.0, 0.0, 3.0, 1.0]], 2), (_BOUND, 2), (_BOUND, 3)]
    firm += [(_BOUND, 1), ([[0.0] * 4, [1.0, 1.0, 0.0, 1.0]], 3)]
    return [(rows, k, 1.0, "") for rows, k in firm] + [
        (_holed(_FIVE), 2, 1.0, MINUS_INF),
        (_low(_FIVE), 2, 1.0, VERY_LOW),
    ]


def _top_k_warm() -> list[_Plan]:
    return [(rows, k, tau, "") for rows, k in ((_THREE, 2), (_FIVE, 3)) for tau in (0.5, 2.0)]


def _top_p_plans() -> list[_Plan]:
    firm = [(_P3, 0.7), (_P3, 0.9), (_P3, 0.2), (_P3, 0.01)]
    firm += [(_P5, p) for p in (0.3, 0.6, 0.75, 0.8, 0.92)] + [(_P8, 0.55), (_P8, 0.82), (_TIED, 0.5), (_TIED, 0.35)]
    exact = [(_QUARTERS, 0.5), (_QUARTERS, 0.75), (_HALVES, 0.5), (_HALVES, 0.75)]
    exact += [(_UNIFORM, 0.25), (_UNIFORM, 0.5), (_UNIFORM, 0.75)]
    return [
        *((rows, p, 1.0, "") for rows, p in firm),
        *((rows, p, 1.0, EXACTLY) for rows, p in exact),
        (_P5, 1.0, 1.0, AT_ONE),
        (_QUARTERS, 1.0, 1.0, AT_ONE),
        (_P5, 1e-9, 1.0, TINY),
        (_holed(_P5), 0.75, 1.0, MINUS_INF),
        (_low(_P5), 0.75, 1.0, VERY_LOW),
    ]


def _top_p_warm() -> list[_Plan]:
    return [(rows, p, tau, "") for tau in (0.5, 2.0) for rows, p in ((_P3, 0.7), (_P5, 0.6), (_P5, 0.75), (_P8, 0.55))]


@functools.cache
def cases(kind: Kind, layout: str = "[B, V]", tempered: bool = False, fixed: Any = None) -> tuple[Case, ...]:
    """The cases, each a batch `[B, V]`, or each a single row."""
    plans = _plans(kind, tempered)
    if fixed is not None:
        plans = _plans_for(kind, fixed)
    if layout == "[V]":
        plans = [([row], value, tau, why) for rows, value, tau, why in plans for row in rows]
    return tuple(_case(kind, (layout, tempered, fixed, i), *plan) for i, plan in enumerate(plans))


def _plans_for(kind: Kind, value: Any) -> list[_Plan]:
    """The cases in which k or p has one given value: those where p is reached exactly, or not nearly."""
    if kind is TOP_K:
        return [(rows, value, 1.0, "") for rows in (_THREE, _FIVE, _EIGHT, _BOUND) if value <= len(rows[0])] or [
            ([[float((7 * i + 3 * b) % (value + 3)) for i in range(value + 2)] for b in range(2)], value, 1.0, "")
        ]
    found = []
    for rows, why in [(rows, "") for rows in (_P3, _P5, _P8)] + [(r, EXACTLY) for r in (_QUARTERS, _HALVES, _UNIFORM)]:
        sums = torch.tensor(rows, dtype=_F64).softmax(-1).sort(descending=True).values.cumsum(-1)[:, :-1]
        gap = (sums - value).abs()
        usable = (gap.amin(-1) < 1e-12) if why else (gap.amin(-1) > 5e-3)
        if value < 1 and bool(usable.any()):
            found.append(([row for row, use in zip(rows, usable.tolist(), strict=True) if use], value, 1.0, why))
    return found or [(_P5, value, 1.0, "")]


_Place = tuple[str, bool, Any, int]  # what `cases` was called with, and the index of a case in it


def _case(kind: Kind, place: _Place, rows: Sequence[Sequence[float]], value: Any, tau: float, why: str) -> Case:
    logits = torch.tensor(rows, dtype=_F64)
    inputs = {
        "place": place,
        "has_ties": bool((logits.sort(dim=-1).values.diff() == 0).any()),
        "logits": logits,
        "probs": logits.softmax(-1),
        "log_probs": logits.log_softmax(-1),
        kind.parameter.name: value,
        kind.other.name: 1.0 if kind is TOP_K else logits.shape[-1],
        "temperature": tau,
        "input_ids": torch.zeros(len(rows), 1, dtype=torch.long),
        "dim": -1,
        "filter_value": -math.inf,
        "min_tokens_to_keep": 1,
    }
    return Case(inputs, kind.truth(logits / tau, value).softmax(-1), why)


# --- how people's functions are called ---


class _Subject(NamedTuple):
    """A way of calling a function with the values of roles."""

    call: Callable[[set[str], Mapping[str, Any], Container], Any]
    roles: frozenset[str]
    fixed: Any = None


def _subject(function: Callable[..., Any], kind: Kind) -> _Subject:
    if inspect.isclass(function):
        return _factory(function, bind(function, [kind.parameter, *_optional(function, kind)]), kind)
    roles = _roles(function, kind)
    binding = bind(function, roles)
    given = binding.roles
    if given & {role.name for role in _VALUES}:
        if kind.parameter.name in given:
            return _Subject(_direct(function, binding), given)
        if (fixed := _fixed(function, kind)) is not None:
            return _Subject(_direct(function, binding), given | {kind.parameter.name}, fixed)
    if len(given - {role.name for role in _FILLED_IN}) == 1:
        return _factory(function, Binding((kind.parameter.name,), {}), kind)
    raise Misfit(f"it takes no {kind.parameter.name}, or nothing to filter: its arguments are understood as {[*given]}")


def _direct(function: Callable[..., Any], binding: Binding) -> Callable[[set[str], Mapping[str, Any], Container], Any]:
    def call(notes: set[str], values: Mapping[str, Any], container: Container) -> Any:
        return invoke(notes, function, binding, values, container)

    return call


def _factory(make: Callable[..., Any], binding: Binding, kind: Kind) -> _Subject:
    def call(notes: set[str], values: Mapping[str, Any], container: Container) -> Any:
        made = binding.call(make, values)
        if isinstance(made, Tensor) or not callable(made):
            raise Misfit(f"it takes no {kind.parameter.name} besides what it filters, and returns no function")
        inner = bind(made, _roles(made, kind, parameter=False))
        return invoke(notes, made, inner, values, container)

    return _Subject(call, frozenset({"logits", kind.parameter.name}))


def _fixed(function: Any, kind: Kind) -> Any:
    """The value of k or p that an object holds, such as a `LogitsProcessor`."""
    for name in (kind.check, kind.parameter.name, *kind.parameter.synonyms.split()):
        value = getattr(function, name, None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
    return None


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        target = function.forward if isinstance(function, torch.nn.Module) else function
        return list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return []


def _has(name: str, role: Role) -> bool:
    return normalised(name) in {normalised(synonym) for synonym in [role.name, *role.synonyms.split()]}


def _roles(function: Callable[..., Any], kind: Kind, *, parameter: bool = True) -> list[Role]:
    """The roles for a function: one of logits, probabilities and log-probabilities; and what it asks for."""
    names = [p.name for p in _parameters(function)]
    value = next((role for role in _VALUES if any(_has(name, role) for name in names)), _LOGITS)
    return [value, *([kind.parameter] if parameter else []), *_optional(function, kind)]


def _optional(function: Callable[..., Any], kind: Kind) -> list[Role]:
    asked = [p.name for p in _parameters(function) if p.default is p.empty]
    return [_TEMPERATURE] + [role for role in (kind.other, *_FILLED_IN) if any(_has(name, role) for name in asked)]


# --- forms ---


@dataclass(frozen=True)
class _Read(Form):
    """A form whose outputs were read in one way; its counterexamples show what the function returned."""

    shown: Callable[[Case, Any], tuple[Any, Any]] = lambda case, got: (case.expected, got)

    def counterexample(self, case: Case, got: Tensor | Exception) -> Counterexample:
        inputs = {role: self.view(value) for role, value in case.inputs.items() if role in self.roles}
        expected, answer = self.shown(case, got)
        return Counterexample(inputs, self.view(expected), answer)


def _forms(function: Callable[..., Any], kind: Kind, layout: str, only: str | None) -> Iterator[Form]:
    containers = [(container, False) for container in CONTAINERS]
    for container, per_row in containers + [("torch", True)] * (layout == "[B, V]"):
        name = f"{container} {layout}" + (f", one {kind.parameter.name} for each row" if per_row else "")
        if only is None or only in name:
            yield from _forms_in(function, kind, name, container, layout, per_row)


def _forms_in(
    function: Callable[..., Any], kind: Kind, name: str, container: Container, layout: str, per_row: bool
) -> Iterator[Form]:
    """The forms in one container and layout: one for each way in which the outputs can be read."""
    notes: set[str] = set()
    try:
        subject = _subject(function, kind)
        found = cases(kind, layout, "temperature" in subject.roles, subject.fixed)
        outputs = _outputs(
            subject, found, notes, container, lambda value, rows: _arranged(value, layout, rows if per_row else 0)
        )
        ways = readings(outputs, [_asked(case) for case in found], single=layout == "[V]")
    except Exception as error:
        yield refusing(name, error)
        return
    roles = subject.roles & {*(role.name for role in _VALUES), kind.parameter.name, "temperature"}
    for way in ways:
        yield _read(kind, way, f"{name}, returns {way.name}", found, outputs, notes, roles, layout)


def _outputs(
    subject: _Subject, found: Sequence[Case], notes: set[str], container: Container, view: Callable[[Any, int], Any]
) -> list[Any]:
    """What the function returns in each case, or raises; what it raises in the first case is raised."""
    outputs: list[Any] = []
    for case in found:
        values = {role: view(value, len(case.expected)) for role, value in case.inputs.items()}
        try:
            outputs.append(unpacked(call_quietly(subject.call, notes, values, container)))
        except Exception as error:
            if not outputs:
                raise
            outputs.append(error)
    return outputs


def _arranged(value: Any, layout: str, rows: int) -> Any:
    if isinstance(value, Tensor) and layout == "[V]":
        return value[0]
    if isinstance(value, Tensor) and layout == "[B, 1, V]" and value.is_floating_point():
        return value[:, None]
    # One k or p for each row, as a server has it.
    return torch.tensor([value] * rows) if rows and isinstance(value, float | int) else value


def _asked(case: Case) -> Tensor:
    """The logits whose tokens are to be kept: at the temperature of the case."""
    logits: Tensor = case.inputs["logits"] / case.inputs["temperature"]
    return logits


def _read(
    kind: Kind,
    way: Reading,
    name: str,
    found: Sequence[Case],
    outputs: Sequence[Any],
    notes: set[str],
    roles: frozenset[str],
    layout: str,
) -> Form:
    place = {id(case): i for i, case in enumerate(found)}
    remarks = notes | ({COMPLEMENT} if way.complement else set())

    def call(case: Case) -> Tensor:
        output = outputs[place[id(case)]]
        if isinstance(output, Exception):
            raise output
        answer, moved = _lowest_index_first(way.distribution(output, _asked(case)), case)
        remarks.update({OTHER_TIES} if moved and _agrees(case, answer).ok else set())
        return answer

    def shown(case: Case, got: Any) -> tuple[Any, Any]:
        filtered = kind.truth(_asked(case), case.inputs[kind.parameter.name])
        return way.expected(filtered), got if isinstance(got, Exception) else outputs[place[id(case)]]

    def view(value: Any) -> Any:
        return value[0] if layout == "[V]" and isinstance(value, Tensor | list) else value

    return _Read(name, found, call, remarks, roles, view, shown)


def _lowest_index_first(distribution: Tensor, case: Case) -> tuple[Tensor, bool]:
    """Give the probabilities of tied tokens to those of lowest index first; and whether that changed anything."""
    if not case.inputs["has_ties"]:
        return distribution, False
    logits = _asked(case)
    target = logits.argsort(dim=-1, descending=True, stable=True)
    by_probability = distribution.argsort(dim=-1, descending=True, stable=True)
    ranked = logits.gather(-1, by_probability).argsort(dim=-1, descending=True, stable=True)
    source = by_probability.gather(-1, ranked)
    moved = torch.empty_like(distribution).scatter(-1, target, distribution.gather(-1, source))
    return moved, not close(moved, distribution)


def _agrees(case: Case, answer: Tensor) -> Agreement:
    """Whether the distribution is the right one, row by row; to keep every tie of the last token is right too."""
    if answer.shape != case.expected.shape:
        return Agreement(False)
    if close(answer, case.expected) or not case.inputs["has_ties"]:
        return Agreement(close(answer, case.expected))
    logits = _asked(case)
    last = torch.where(case.expected > 0, logits, math.inf).amin(-1, keepdim=True)
    with_ties = logits.masked_fill(logits < last, -math.inf).softmax(-1)
    unusual = False
    for row, expected, tied in zip(answer, case.expected, with_ties, strict=True):
        if not close(row, expected):
            unusual = True
            if not close(row, tied):
                return Agreement(False)
    return Agreement(True, ALL_TIES if unusual else "")


# --- mistakes ---


@functools.cache
def _reading_of(kind: Kind, implementation: Callable[..., Any]) -> Reading:
    found = cases(kind, "[B, V]", True)
    outputs = [_attempt(kind, implementation, case) for case in found]
    return readings(outputs, [_asked(case) for case in found], single=False)[0]


def _attempt(kind: Kind, implementation: Callable[..., Any], case: Case) -> Any:
    try:
        return _called(kind, implementation, case)
    except Exception as error:
        return error


def _called(kind: Kind, implementation: Callable[..., Any], case: Case) -> Any:
    return implementation(*(case.inputs[name] for name in ("logits", kind.parameter.name, "temperature")))


def _answer(kind: Kind, implementation: Callable[..., Any], case: Case) -> Tensor:
    return _answer_at(kind, implementation, case.inputs["place"])


@functools.cache
def _answer_at(kind: Kind, implementation: Callable[..., Any], place: _Place) -> Tensor:
    case = cases(kind, *place[:3])[place[3]]
    way = _reading_of(kind, implementation)
    return _lowest_index_first(way.distribution(_called(kind, implementation, case), _asked(case)), case)[0]


# Which of the ranked probabilities [..., V] are kept, given k or p.
_Rule = Callable[[Tensor, Any], Tensor]
_Finish = Callable[[Tensor, Tensor], Tensor]


def _fill(value: float) -> _Finish:
    return lambda logits, kept: torch.where(kept, logits, value)


_MINUS_INF = _fill(-math.inf)


def _ranks(ranked: Tensor) -> Tensor:
    return torch.arange(ranked.shape[-1]).expand(ranked.shape)


def _before(ranked: Tensor) -> Tensor:
    return ranked.cumsum(-1) - ranked


def _first_too(rule: _Rule) -> _Rule:
    return lambda q, value: rule(q, value) | (_ranks(q) == 0)


def _all_if_none(rule: _Rule) -> _Rule:
    return lambda q, value: (kept := rule(q, value)) | ~kept.any(-1, keepdim=True)


def _k_right(q: Tensor, k: int) -> Tensor:
    return _ranks(q) < k


def _p_right(q: Tensor, p: float) -> Tensor:
    return (_before(q) < p - _SLACK) | (_ranks(q) == 0)


def _by_rank(
    rule: _Rule,
    *,
    ties: bool = False,
    finish: _Finish = _MINUS_INF,
    descending: bool = True,
    back: Callable[[Tensor, Tensor], Tensor] | None = None,
    scale: Callable[[Tensor, float], Tensor] = torch.div,
    weigh: Callable[[Tensor], Tensor] = lambda ranked: ranked.softmax(-1),
) -> Callable[..., Tensor]:
    """Rank the logits, keep by a rule on the ranked probabilities, and bring the mask back to the tokens."""

    def implementation(logits: Tensor, value: Any, temperature: float = 1.0) -> Tensor:
        scaled = scale(logits, temperature)
        ranked, order = scaled.sort(dim=-1, descending=descending, stable=True)
        kept = rule(weigh(ranked), value)
        kept = back(kept, order) if back else torch.zeros_like(kept).scatter(-1, order, kept)
        if ties:
            last = torch.where(kept, scaled, _INF if descending else -_INF)
            kept = scaled >= last.amin(-1, keepdim=True) if descending else scaled <= last.amax(-1, keepdim=True)
        return finish(scaled, kept)

    return implementation


def _variants(*rules: _Rule, **options: Any) -> tuple[Callable[..., Tensor], ...]:
    """Each rule, with ties cut and with ties kept."""
    return tuple(_by_rank(rule, ties=ties, **options) for rule in rules for ties in (False, True))


def _then(right: _Rule, change: Callable[[Tensor], Tensor]) -> tuple[Callable[..., Tensor], ...]:
    """The right filter, and what it does to the logits is changed afterwards."""
    return tuple(
        _by_rank(right, ties=ties, finish=lambda logits, kept: change(_MINUS_INF(logits, kept)))
        for ties in (False, True)
    )


def _original_probabilities(logits: Tensor, kept: Tensor) -> Tensor:
    return torch.where(kept, logits.softmax(-1), 0.0)


def _minus_inf_in_probabilities(logits: Tensor, kept: Tensor) -> Tensor:
    return torch.where(kept, logits.softmax(-1), -math.inf)


def _with_threshold(right: _Rule, threshold: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Keep what reaches a threshold, made of the least logits kept, one for each row."""

    def implementation(logits: Tensor, value: Any, temperature: float = 1.0) -> Tensor:
        scaled = logits / temperature
        filtered = _by_rank(right)(scaled, value)
        least = torch.where(filtered.isinf(), _INF, filtered).amin(-1, keepdim=True)
        return torch.where(scaled >= threshold(least), scaled, -_INF)

    return implementation


def _flattened(right: _Rule) -> tuple[Callable[..., Tensor], ...]:
    """The whole batch as one row."""

    def variant(ties: bool) -> Callable[..., Tensor]:
        def implementation(logits: Tensor, value: Any, temperature: float = 1.0) -> Tensor:
            return _by_rank(right, ties=ties)(logits.reshape(1, -1), value, temperature).reshape(logits.shape)

        return implementation

    return variant(False), variant(True)


def _mask_of_the_first_row(right: _Rule) -> Callable[..., Tensor]:
    def implementation(logits: Tensor, value: Any, temperature: float = 1.0) -> Tensor:
        scaled = logits / temperature
        return torch.where(_by_rank(right)(scaled, value)[:1].isinf(), -_INF, scaled)

    return implementation


def _of_another_row(right: _Rule) -> tuple[Callable[..., Tensor], ...]:
    thresholds: list[Callable[[Tensor], Tensor]] = [
        lambda least: least.amin(),
        lambda least: least.amax(),
        lambda least: least[0],
        lambda least: least[-1],
        lambda least: least[:, 0],
    ]
    return (
        *(_with_threshold(right, threshold) for threshold in thresholds),
        *_flattened(right),
        _mask_of_the_first_row(right),
    )


def _count_of_another_row(chosen: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """As many tokens of every row as the nucleus of one of them has."""
    return _by_rank(lambda q, p: _ranks(q) < chosen(_p_right(q, p).sum(-1)))


def _twice(right: _Rule) -> tuple[Callable[..., Tensor], ...]:
    def of_probabilities(logits: Tensor, value: Any, temperature: float = 1.0) -> Tensor:
        return _by_rank(right)((logits / temperature).softmax(-1), value)

    return (*_variants(right, finish=_minus_inf_in_probabilities), of_probabilities)


def _times(logits: Tensor, temperature: float) -> Tensor:
    return logits * temperature


def _ignored(logits: Tensor, temperature: float) -> Tensor:
    return logits * 1.0


def _temperature_after(right: _Rule) -> tuple[Callable[..., Tensor], ...]:
    def variant(ties: bool) -> Callable[..., Tensor]:
        def implementation(logits: Tensor, value: Any, temperature: float = 1.0) -> Tensor:
            return _by_rank(right, ties=ties)(logits, value) / temperature

        return implementation

    return variant(False), variant(True)


def _guard_on_the_first_row(logits: Tensor, value: Any, temperature: float = 1.0) -> Tensor:
    ranked, order = (logits / temperature).sort(dim=-1, descending=True, stable=True)
    removed = ranked.softmax(-1).cumsum(-1) > value - _SLACK
    removed[:, 1:] = removed[:, :-1].clone()
    removed[0] = False
    return (logits / temperature).masked_fill(torch.zeros_like(removed).scatter(1, order, removed), -_INF)


def _in_token_order(rule: _Rule) -> Callable[..., Tensor]:
    """The rule, on probabilities that were not sorted."""

    def implementation(logits: Tensor, value: Any, temperature: float = 1.0) -> Tensor:
        scaled = logits / temperature
        return torch.where(rule(scaled.softmax(-1), value), scaled, -_INF)

    return implementation


def _gathered_again(right: _Rule) -> Callable[..., Tensor]:
    """The sorted, filtered logits, gathered by the order where they should be scattered."""

    def implementation(logits: Tensor, value: Any, temperature: float = 1.0) -> Tensor:
        ranked, order = (logits / temperature).sort(dim=-1, descending=True, stable=True)
        return torch.where(right(ranked.softmax(-1), value), ranked, -_INF).gather(-1, order)

    return implementation


def _unmoved(kept: Tensor, order: Tensor) -> Tensor:
    return kept


def _gathered(kept: Tensor, order: Tensor) -> Tensor:
    return kept.gather(-1, order)


def _share(q: Tensor, part: float, rounded: Callable[[float], int]) -> Tensor:
    return _ranks(q) < max(1, rounded(part * q.shape[-1]))


def _drop_ends(rule: _Rule) -> tuple[_Rule, ...]:
    """A rule that may keep nothing, and what people do against that."""
    return rule, _first_too(rule), _all_if_none(rule)


def _common(kind: Kind, right: _Rule) -> tuple[Mistake, ...]:
    """The mistakes that top-k and top-p share."""
    return (*_of_values(kind, right), *_of_places(kind, right), *_of_use(kind, right), *_of_temperature(kind, right))


def _of_values(kind: Kind, right: _Rule) -> tuple[Mistake, ...]:
    """Right tokens, wrong values."""
    name = kind.check
    return (
        Mistake(
            f"{name}.zero_instead_of_minus_inf",
            "the excluded logits are set to 0, not to -inf",
            "A logit of 0 is not a probability of 0: an excluded token keeps weight exp(0) = 1, and becomes more "
            "probable than it was if its logit was negative.",
            "Excluded tokens are still sampled, the more often the lower the logits of the others are.",
            (issue("karpathy/minGPT", 10), pull("sgl-project/sglang-jax", 1563)),
            _variants(right, finish=_fill(0.0)),
        ),
        Mistake(
            f"{name}.not_renormalised",
            "the probabilities are not renormalised",
            "The kept tokens have their original probabilities, which sum to less than 1.",
            "The sum of the result is the mass of the tokens kept.",
            (pull("ml-explore/mlx-lm", 388), pull("xjdr-alt/entropix", 78)),
            _variants(right, finish=_original_probabilities),
        ),
        Mistake(
            f"{name}.softmax_twice",
            "probabilities are treated as logits: the softmax is taken twice",
            "The filter acts on probabilities, or writes -inf into them. The softmax that follows is a second one, and "
            "flattens the distribution.",
            "No kept token is more than e = 2.72 times as probable as another.",
            (issue("Lightning-Universe/lightning-bolts", 654), issue("nfmcclure/tensorflow_cookbook", 86)),
            _twice(right),
        ),
    )


def _of_places(kind: Kind, right: _Rule) -> tuple[Mistake, ...]:
    """Right values, of other rows or at other tokens."""
    name = kind.check
    counts = [lambda n: n[0], torch.amax, torch.amin] if kind is TOP_P else []
    return (
        Mistake(
            f"{name}.threshold_of_another_row",
            "the threshold of another row, or of the whole batch",
            "The cut of one row of the batch decides over the tokens of another, for want of an axis or of keepdim.",
            "A batch of one row is right; the result of a row changes with the other rows.",
            (pull("ml-explore/mlx-lm", 1575), pull("rasbt/reasoning-from-scratch", 184)),
            (*_of_another_row(right), *map(_count_of_another_row, counts)),
        ),
        Mistake(
            f"{name}.sorted_order_returned",
            "the result is left in sorted order",
            "The filtered values are those of the sorted tokens, and are never brought back: the probability of the "
            "best token goes to token 0.",
            "The result is sorted, whatever the logits were.",
            (issue("lucidrains/routing-transformer", 1),),
            (
                *_then(right, lambda filtered: filtered.sort(dim=-1, descending=True).values),
                *_then(right, lambda filtered: filtered.sort(dim=-1).values),
            ),
        ),
        Mistake(
            f"{name}.mask_not_scattered_back",
            "the mask of the sorted tokens is applied to the unsorted ones",
            "The mask was made for ranks, and is applied to tokens, or is brought back with the wrong one of the "
            "permutation and its inverse (gather where scatter is right).",
            "The right number of tokens is kept, and the wrong ones, unless the logits were sorted.",
            (issue("lucidrains/soundstorm-pytorch", 28), issue("lucidrains/routing-transformer", 1)),
            (
                _by_rank(right, back=_unmoved),
                _by_rank(right, back=_gathered),
                _gathered_again(right),
            ),
        ),
    )


def _of_use(kind: Kind, right: _Rule) -> tuple[Mistake, ...]:
    """A right mask, used wrongly or not at all."""
    name, source = kind.check, _FAN if kind is TOP_K else _HOLTZMAN
    return (
        Mistake(
            f"{name}.inverted",
            "the mask is inverted: the tokens to be kept are removed",
            "What should be kept is excluded, and the rest of the distribution is kept.",
            "The most probable token is never sampled.",
            (source,),
            _variants(right, finish=lambda logits, kept: _MINUS_INF(logits, ~kept)),
        ),
        Mistake(
            f"{name}.nothing_removed",
            "nothing is removed",
            "The logits come back unfiltered: the result is discarded, or the comparison is never true.",
            "The result is the input, whatever the parameter is.",
            (issue("skyzh/tiny-llm", 32), pull("facebookresearch/ParlAI", 2733)),
            (_by_rank(lambda q, value: q > -1),),
        ),
    )


def _of_temperature(kind: Kind, right: _Rule) -> tuple[Mistake, ...]:
    """A temperature that is used wrongly or not at all."""
    name = kind.check
    return (
        Mistake(
            f"{name}.temperature_ignored",
            "the temperature is ignored",
            "The argument is taken and not used: the result is that of temperature 1.",
            "The result does not change with the temperature.",
            (pull("fishaudio/fish-speech", 1150),),
            _variants(right, scale=_ignored),
        ),
        Mistake(
            f"{name}.multiplied_by_temperature",
            "the logits are multiplied by the temperature",
            "A high temperature makes the distribution sharper, where it should make it flatter.",
            "At temperature 2 the result is that of temperature 1/2.",
            (
                Source(
                    "Ackley, Hinton and Sejnowski, 1985 (the right form)", "https://doi.org/10.1207/s15516709cog0901_7"
                ),
            ),
            _variants(right, scale=_times),
        ),
    )


TOP_K_MISTAKES = (
    Mistake(
        "top_k.one_too_many",
        "one token too many is kept",
        "k + 1 tokens are kept: an index is compared with > where >= is right, or the threshold is the next value.",
        "With k = 1 two tokens are sampled.",
        (issue("kingoflolz/mesh-transformer-jax", 164),),
        _variants(lambda q, k: _ranks(q) < k + 1),
    ),
    Mistake(
        "top_k.one_too_few",
        "one token too few is kept",
        "k - 1 tokens are kept: the k-th is compared with itself by > where >= is right, or the count starts at 1.",
        "With k = 2 the decoding is greedy; with k = 1 nothing is left, or nothing is different.",
        (_FAN,),
        (
            *_variants(*_drop_ends(lambda q, k: _ranks(q) < k - 1)),
            *(
                _by_rank(rule)
                for rule in _drop_ends(lambda q, k: q > q[..., min(k, q.shape[-1]) - 1, None] * (1 + 1e-9))
            ),
        ),
    ),
    Mistake(
        "top_k.least_probable_kept",
        "the k least probable tokens are kept",
        "The sort is ascending where descending is meant, or the comparison points the wrong way.",
        "The most probable token is never sampled, unless k is the size of the vocabulary.",
        (pull("RBLN-SW/vllm-rbln", 58), _FAN),
        _variants(_k_right, descending=False),
    ),
    Mistake(
        "top_k.removes_k",
        "k tokens are removed, where k are to be kept",
        "The k least probable tokens are excluded (or k - 1, if the k-th least is the threshold), and the others stay.",
        "A larger k keeps fewer tokens.",
        (_FAN,),
        _variants(*_drop_ends(lambda q, k: _ranks(q) < q.shape[-1] - k), lambda q, k: _ranks(q) < q.shape[-1] - k + 1),
    ),
    Mistake(
        "top_k.only_the_best_kept",
        "only the most probable token is kept, whatever k is",
        "The threshold is the largest of the k values, because their order is taken the wrong way round.",
        "The decoding is greedy for every k.",
        (pull("fluxions-ai/vui", 32),),
        _variants(lambda q, k: _ranks(q) == 0),
    ),
    *_common(TOP_K, _k_right),
)

TOP_P_MISTAKES = (
    Mistake(
        "top_p.crossing_token_dropped",
        "the token that crosses p is dropped",
        "Tokens are kept while the cumulative mass, their own included, does not exceed p. The set has less mass than "
        "p, and is empty where the first token alone has more.",
        "The mass of the tokens kept is less than p.",
        (pull("fishaudio/fish-speech", 1171), pull("Biohub/esm", 360), issue("rasbt/reasoning-from-scratch", 164)),
        _variants(
            *_drop_ends(lambda q, p: q.cumsum(-1) <= p + _SLACK), *_drop_ends(lambda q, p: q.cumsum(-1) < p - _SLACK)
        ),
    ),
    Mistake(
        "top_p.one_more_when_reached_exactly",
        "one more token is kept when p is reached exactly",
        "Tokens are kept while the mass before them is not more than p, where less than p is right. It shows only "
        "where a set has mass p exactly, as for equal probabilities; widely used code does this.",
        "With four equal probabilities and p = 1/2 three tokens are kept.",
        (issue("huggingface/transformers", 18976), pull("BlinkDL/ChatRWKV", 170)),
        _variants(lambda q, p: _before(q) <= p + _SLACK),
    ),
    Mistake(
        "top_p.one_too_many",
        "always one token too many is kept",
        "The mask is shifted by two places, or the token after the crossing one is counted in.",
        "Where the first token has more mass than p, two are kept.",
        (_HOLTZMAN,),
        _variants(
            lambda q, p: _p_right(q, p).roll(1, -1) | (_ranks(q) == 0),
            lambda q, p: (_before(q) <= p + _SLACK).roll(1, -1) | (_ranks(q) == 0),
        ),
    ),
    Mistake(
        "top_p.first_probability_subtracted",
        "the first probability is subtracted from every cumulative sum",
        "The mass before a token is the cumulative sum less the token's own probability, not less the first one.",
        "With probabilities 0.6, 0.2, 0.2 and p = 0.5 nothing is removed.",
        (pull("facebookresearch/ParlAI", 2733),),
        _variants(
            lambda q, p: q.cumsum(-1) - q[..., :1] < p - _SLACK, lambda q, p: q.cumsum(-1) - q[..., :1] <= p + _SLACK
        ),
    ),
    Mistake(
        "top_p.p_and_one_minus_p_confused",
        "p and 1 - p are confused",
        "The tokens kept have mass 1 - p, or the tail that is removed has mass p.",
        "A larger p keeps fewer tokens.",
        (issue("lucidrains/x-transformers", 184), issue("lucidrains/routing-transformer", 1)),
        _variants(
            lambda q, p: _p_right(q, 1 - p),
            lambda q, p: _before(q) <= 1 - p + _SLACK,
            *_drop_ends(lambda q, p: q.cumsum(-1) <= 1 - p + _SLACK),
            *_drop_ends(lambda q, p: q.cumsum(-1) < 1 - p - _SLACK),
        ),
    ),
    Mistake(
        "top_p.threshold_per_token",
        "each probability is compared with p, not the cumulative mass",
        "A token is kept if its own probability reaches p, or 1 - p: p is the mass of a set, not of a token.",
        "With many tokens of small probability hardly one is kept, whatever their order.",
        (issue("rusiaaman/XLnet-gen", 2),),
        _variants(
            *_drop_ends(lambda q, p: q >= p - _SLACK),
            *_drop_ends(lambda q, p: q > p + _SLACK),
            *_drop_ends(lambda q, p: q >= 1 - p - _SLACK),
            *_drop_ends(lambda q, p: q > 1 - p + _SLACK),
        ),
    ),
    Mistake(
        "top_p.min_p",
        "this is min-p: each probability is compared with p times the largest",
        "Min-p keeps the tokens that are at least p times as probable as the best one. The nucleus is a set of mass p.",
        "A larger p keeps fewer tokens.",
        (pull("huggingface/transformers", 30639),),
        _variants(lambda q, p: q >= p * q[..., :1] - _SLACK, lambda q, p: q > p * q[..., :1] + _SLACK),
    ),
    Mistake(
        "top_p.fraction_of_tokens",
        "p is a part of the number of tokens, not of the mass",
        "The p V most probable tokens are kept (or (1 - p) V): a top-k whose k does not depend on the distribution.",
        "The same number of tokens is kept in every row.",
        (issue("lucidrains/x-transformers", 184),),
        _variants(
            *(lambda q, p, r=r: _share(q, p, r) for r in (math.ceil, int, round)),
            *(lambda q, p, r=r: _share(q, 1 - p, r) for r in (math.ceil, int, round)),
        ),
    ),
    Mistake(
        "top_p.not_sorted",
        "the cumulative sum is taken over unsorted probabilities",
        "The probabilities are added in the order of the vocabulary: the set is the first tokens, not the most "
        "probable ones.",
        "Where the logits are sorted already it is right.",
        (pull("ggml-org/llama.cpp", 812), issue("dmlc/gluon-nlp", 1481)),
        tuple(
            _in_token_order(rule)
            for rule in (
                _p_right,
                lambda q, p: _before(q) <= p + _SLACK,
                *_drop_ends(lambda q, p: q.cumsum(-1) <= p + _SLACK),
                *_drop_ends(lambda q, p: q.cumsum(-1) < p - _SLACK),
            )
        ),
    ),
    Mistake(
        "top_p.ascending",
        "sorted in ascending order: the least probable tokens make up the mass",
        "The cumulative sum begins with the least probable tokens, and the most probable one is the first to go.",
        "The most probable token is never sampled, unless all are kept.",
        (pull("neuralmagic/deepsparse", 1354), pull("RBLN-SW/vllm-rbln", 58)),
        _variants(
            _p_right,
            lambda q, p: _before(q) <= p + _SLACK,
            *_drop_ends(lambda q, p: q.cumsum(-1) <= p + _SLACK),
            *_drop_ends(lambda q, p: q.cumsum(-1) < p - _SLACK),
            descending=False,
        ),
    ),
    Mistake(
        "top_p.softmax_missing",
        "the cumulative sum is taken of logits, not of probabilities",
        "The softmax is missing: the sum of the sorted logits is compared with p.",
        "The result changes when a constant is added to all logits.",
        (issue("skyzh/tiny-llm", 32),),
        _variants(
            _p_right,
            lambda q, p: (_before(q) <= p + _SLACK) | (_ranks(q) == 0),
            lambda q, p: q.cumsum(-1) <= p,
            lambda q, p: (q.cumsum(-1) <= p) | (_ranks(q) == 0),
            weigh=lambda ranked: ranked,
        ),
    ),
    Mistake(
        "top_p.guard_on_the_first_row",
        "the guard of the first token is put on the first row",
        "In a batch, `mask[0]` is the first row, not the first token of every row: row 0 is not filtered at all, and "
        "in the other rows nothing keeps the most probable token.",
        "Row 0 comes back unfiltered; other rows are empty where one token has more mass than p.",
        (pull("fishaudio/fish-speech", 1326),),
        (_guard_on_the_first_row,),
    ),
    Mistake(
        "top_p.only_the_best_kept",
        "only the most probable token is kept, whatever p is",
        "The index of the crossing token is read off wrongly, so that only the first token is left.",
        "The decoding is greedy for every p.",
        (pull("facebookresearch/fairseq", 882), pull("BlinkDL/ChatRWKV", 170)),
        _variants(lambda q, p: _ranks(q) == 0),
    ),
    Mistake(
        "top_p.temperature_after_truncation",
        "the temperature is applied after the truncation",
        "The nucleus is that of temperature 1, and is then made sharper or flatter. With the temperature first, as "
        "transformers has it, a high temperature enlarges the nucleus. Some samplers choose this order on purpose.",
        "The number of tokens kept does not change with the temperature.",
        (pull("fishaudio/fish-speech", 1150), pull("sgl-project/sglang-jax", 1563)),
        _temperature_after(_p_right),
    ),
    *_common(TOP_P, _p_right),
)
