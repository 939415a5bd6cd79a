"""Is this top-k truncation? And if not, which known mistake is it?"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from pgtheory.checking.calling import Arg, Call
from pgtheory.checking.filter_mistakes import FAN, by_rank, common, not_empty, of_k, ranks, variants
from pgtheory.checking.filters import (
    ALL_TIES,
    FILLED_IN,
    MINUS_INF,
    VALUE_ARGS,
    VALUES,
    VERY_LOW,
    case,
    choosing,
    judged,
    observe,
    readings,
)
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.report import Mistake, Report, issue, pull

_NAMES = "top_k topk n num num_keep n_keep keep n_tokens num_tokens count kk k_value top_n max_tokens"
ALL_KEPT = "it fails where k is the number of tokens, or more"


def check_top_k(
    function: Callable[..., Any] | None = None,
    *,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check a function that keeps the k most probable tokens, :eq:`eq-top-k`.

    The function may be `fn(logits, k)`, for one row `[V]` or a batch `[B, V]`, on tensors, arrays or lists, or for a
    batch of sequences of which it takes the last position itself. By the names of its arguments it may also take
    probabilities (`probs`) or `log_probs`, and a `temperature`; what is called `x` or `scores` is read as logits, then
    as probabilities, and the report says as what. It may return filtered logits, probabilities, a boolean mask, the
    indices of the tokens kept, values with their indices, which are judged together, a tuple or dictionary that begins
    with one of these, or a `Categorical`. Also understood: a `LogitsProcessor` of `transformers`, its class, and any
    `fn(k)` that returns a function of the logits.

    Args:
        function: the implementation.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.probs, x.k)`; they are `x.logits`
            `[B, V]`, `x.k`, `x.temperature`, and `x.probs` and `x.log_probs`, which follow.
        layout: the order of axes, such as `"[V]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"a": "logits"}`.

    Returns:
        The report. Keeping every token tied with the k-th, or other ones of the tied, is right, the first with a
        remark.

    Raises:
        UnknownForm: the function cannot be called, or returns nothing that is understood.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Fan, Lewis and Dauphin (2018).

    Example:
        >>> import math
        >>> def filtered(logits, k):
        ...     threshold = logits.topk(k - 1 or 1).values[..., -1:]
        ...     return logits.masked_fill(logits < threshold, -math.inf)
        >>> print(check_top_k(filtered).headline)
        check_top_k: WRONG, a known mistake: one token too few is kept
    """
    return judged(CHECK, function, 2, _cases_of, call, layout, names)


def _kept(q: Tensor, k: int) -> Tensor:
    return ranks(q) < k


def _settle(name: str, roles: tuple[str, ...], others: frozenset[str]) -> str | None:
    """Whether `p` is the mass of a nucleus or the probabilities, from the other arguments."""
    return "top_p" if others & {*VALUES.split("|")} else "probs"


# --- the cases ---

# No row is sorted, and the permutations that sort them are not their own inverses. As many rows as tokens: what takes
# one axis for the other then returns something.
_THREE = [[0.5, 2.0, 1.0], [5.0, 3.0, 6.0], [-4.0, -2.5, -3.0]]
_FIVE = [[1.0, 0.2, -0.7, 2.3, 1.6], [-3.1, -1.2, -2.0, -4.4, -2.6], [4.5, 6.1, 3.3, 5.2, 4.9]]
_FIVE += [[0.6, -1.4, 2.1, -0.2, 1.3], [-2.2, -0.9, -3.7, -1.8, -5.0]]
_EIGHT = [[0.3, -1.1, 1.9, -0.4, 0.9, 1.4, -1.7, 2.2], [-2.0, -2.3, -3.9, -1.2, -4.1, -0.8, -3.1, -2.6]]
_BOUND = [[2.0, 1.0, 2.0, 2.0], [0.0, 3.0, 1.0, 1.0]]


def cases(facts: frozenset[str]) -> list[Case]:
    """Distinct logits, then ties at the boundary, k from 1 to beyond the vocabulary, and one row alone."""
    firm = [(_THREE, 2), (_THREE, 1), *((_FIVE, k) for k in (1, 2, 3, 4)), (_EIGHT, 3), (_EIGHT, 6)]
    firm += [([[1.0, 2.0, 0.0, 2.0], [3.0, 0.0, 3.0, 1.0]], 2), (_BOUND, 2), (_BOUND, 3), (_BOUND, 1)]
    firm += [([[0.0] * 4, [1.0, 1.0, 0.0, 1.0]], 3), (_FIVE[:1], 2)]
    every = [(_THREE, 3), (_FIVE, 5), (_FIVE, 7)]
    found = [case(rows, k=k) for rows, k in firm] + [case(rows, ALL_KEPT, or_fails=True, k=k) for rows, k in every]
    found.append(case([[-math.inf, *row] for row in _FIVE], MINUS_INF, k=2))
    found.append(case([[x - 1000.0 for x in row] for row in _FIVE], VERY_LOW, k=2))
    if "temperature" in facts:
        found += [case(rows, k=k, temperature=tau) for rows, k in ((_THREE, 2), (_FIVE, 3)) for tau in (0.5, 2.0)]
    return found


def _cases_of(k: int) -> list[Case]:
    """The cases of an object that holds its k."""
    large = [[float((7 * i + 3 * b) % (k + 3)) for i in range(k + 2)] for b in range(2)]
    return [case(rows, k=k) for rows in (_THREE, _FIVE, _EIGHT, _BOUND) if k < len(rows[0])] or [case(large, k=k)]


# --- the known mistakes: functions of logits, k and temperature, to the distribution that is sampled from ---

MISTAKES = (
    Mistake(
        "top_k.one_too_many",
        "one token too many is kept",
        "k + 1 tokens are kept: an index is compared with > where >= is right, or the threshold is the next value.",
        "With k = 1 two tokens are sampled.",
        (issue("kingoflolz/mesh-transformer-jax", 164),),
        variants(lambda q, k: ranks(q) < k + 1),
    ),
    Mistake(
        "top_k.one_too_few",
        "one token too few is kept",
        "k - 1 tokens are kept: the k-th is compared with itself by > where >= is right, or the count starts at 1.",
        "With k = 2 the decoding is greedy; with k = 1 nothing is left, or nothing is different.",
        (),
        (
            *variants(*not_empty(lambda q, k: ranks(q) < k - 1)),
            *(by_rank(rule) for rule in not_empty(lambda q, k: q > q[..., min(k, q.shape[-1]) - 1, None] * (1 + 1e-9))),
        ),
        right_form=(FAN,),
    ),
    Mistake(
        "top_k.least_probable_kept",
        "the k least probable tokens are kept",
        "The sort is ascending where descending is meant, or the comparison points the wrong way.",
        "The most probable token is never sampled, unless k is the size of the vocabulary.",
        (pull("RBLN-SW/vllm-rbln", 58),),
        variants(_kept, descending=False),
        right_form=(FAN,),
    ),
    Mistake(
        "top_k.removes_k",
        "k tokens are removed, where k are to be kept",
        "The k least probable tokens are excluded (or k - 1, if the k-th least is the threshold), and the others stay.",
        "A larger k keeps fewer tokens.",
        (),
        variants(*not_empty(lambda q, k: ranks(q) < q.shape[-1] - k), lambda q, k: ranks(q) < q.shape[-1] - k + 1),
        right_form=(FAN,),
    ),
    Mistake(
        "top_k.only_the_best_kept",
        "only the most probable token is kept, whatever k is",
        "The threshold is the largest of the k values, because their order is taken the wrong way round.",
        "The decoding is greedy for every k.",
        (pull("fluxions-ai/vui", 32),),
        variants(lambda q, k: ranks(q) == 0),
    ),
    *common("top_k", _kept, FAN),
)

_RIGHT = {"": of_k(by_rank(_kept)), ALL_TIES: of_k(by_rank(_kept, ties=True))}
CHECK = Check(
    "top_k",
    5,
    args=(
        VALUE_ARGS[0],
        Arg("k", also=_NAMES),
        VALUE_ARGS[1]._replace(also="p q"),
        *VALUE_ARGS[2:],
        *FILLED_IN,
        Arg("top_p", also="p topp nucleus_p", of=lambda x: 1.0, asked=True),
    ),
    needs=(VALUES, "k"),
    signature=("logits", "k"),
    axes="B V",
    layouts=("[B, V]", "[V]", "[B, 1, V]"),
    reference=_RIGHT,
    cases=cases,
    mistakes=tuple(replace(m, implementations=tuple(map(of_k, m.implementations))) for m in MISTAKES),
    settle=_settle,
    readings=readings("k"),
    observe=observe,
    choose=choosing([*_RIGHT.values()]),
    of_the_batch=("top_k.threshold_of_another_row",),
    quantity="the probabilities of the tokens",
    example="call=lambda x: f(x.logits, x.k)  # or x.probs, x.log_probs: [B, V]",
)
