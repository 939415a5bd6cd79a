"""Is this top-p truncation, the nucleus? And if not, which known mistake is it?"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Call
from pgtheory.checking.filter_mistakes import (
    HOLTZMAN,
    SLACK,
    Filter,
    before,
    by_rank,
    common,
    in_token_order,
    masked,
    not_empty,
    of_p,
    ranks,
    temperature_after,
    variants,
)
from pgtheory.checking.filters import (
    ALL_TIES,
    F64,
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

_NAMES = (
    "top_p topp nucleus_p nucleus threshold thresh thres thr cutoff mass p_value prob prob_mass cumulative_prob "
    "min_mass probability_mass q p_nucleus"
)
EXACTLY = "it keeps other tokens where a set of tokens reaches p exactly: a matter of rounding"
AT_ONE = "it is wrong or fails at p = 1, where all tokens are to be kept"
RAISES_AT_ONE = "it fails at p = 1, where all tokens are to be kept"
TINY = "it fails where p is tiny (1e-9), where the most probable token is to be kept"


def check_top_p(
    function: Callable[..., Any] | None = None,
    *,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check a function that keeps the nucleus of mass p, :eq:`eq-top-p`.

    The right set is the smallest set of most probable tokens whose mass reaches p: the token that crosses p is in it,
    and one token stays at least. A set that reaches p exactly takes no further token; that one is taken all the same
    is a remark. The forms are those of `check_top_k`, with `fn(logits, p)`. A temperature comes first: the nucleus is
    that of the scaled logits.

    Args:
        function: the implementation.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.probs, x.p)`; they are `x.logits`
            `[B, V]`, `x.p`, `x.temperature`, and `x.probs` and `x.log_probs`, which follow.
        layout: the order of axes, such as `"[V]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"a": "logits"}`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called, or returns nothing that is understood.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Holtzman, Buys, Du, Forbes and Choi (2020), section 3.1.

    Example:
        >>> import torch
        >>> def nucleus(logits, p):
        ...     ranked, order = logits.sort(descending=True)
        ...     removed = ranked.softmax(-1).cumsum(-1) > p
        ...     return logits.masked_fill(torch.zeros_like(removed).scatter(-1, order, removed), -torch.inf)
        >>> print(check_top_p(nucleus).headline)
        check_top_p: WRONG, a known mistake: the token that crosses p is dropped
    """
    return judged(CHECK, function, 0.5, _cases_of, call, layout, names)


def _kept(q: Tensor, p: float) -> Tensor:
    return (before(q) < p - SLACK) | (ranks(q) == 0)


def _settle(name: str, roles: tuple[str, ...], others: frozenset[str]) -> str | None:
    """Whether `prob` or `q` is the probabilities or the mass, from the other arguments."""
    return "p" if others & {*VALUES.split("|")} else "probs" if "p" in others else None


# --- the cases ---


def _rows_of(probabilities: Sequence[Sequence[float]]) -> list[list[float]]:
    """Logits of these probabilities, with a constant that differs from row to row."""
    shifts = [0.5, 4.0, -3.0]
    return [[math.log(q) + shifts[i % 3] for q in row] for i, row in enumerate(probabilities)]


_LN2, _LN4 = math.log(2), math.log(4)
# As many rows as tokens: what confuses the two axes then returns something.
_P3 = _rows_of([[0.19, 0.52, 0.29], [0.33, 0.04, 0.63], [0.06, 0.77, 0.17]])
_P5 = _rows_of([[0.19, 0.11, 0.05, 0.38, 0.27], [0.07, 0.61, 0.17, 0.03, 0.12], [0.16, 0.26, 0.13, 0.24, 0.21]])
_P5 += _rows_of([[0.48, 0.07, 0.18, 0.22, 0.05], [0.03, 0.1, 0.41, 0.15, 0.31]])
_P8 = _rows_of([[0.16, 0.04, 0.21, 0.06, 0.11, 0.29, 0.03, 0.10], [0.02, 0.13, 0.07, 0.46, 0.05, 0.01, 0.17, 0.09]])
_TIED = _rows_of([[0.28, 0.28, 0.16, 0.28], [0.1, 0.3, 0.4, 0.2]])
# Exact in binary, in single and double precision, with and without subtraction of the maximum.
_HALVES = [[0.0, _LN2, 0.0], [0.0, 0.0, _LN2], [_LN2, 0.0, 0.0]]
_QUARTERS = [[0.0, _LN4, 0.0, _LN2], [_LN2, 0.0, _LN4, 0.0], [_LN4, 0.0, 0.0, _LN2]]
_UNIFORM = [[0.0] * 4, [1.5] * 4]


def cases(facts: frozenset[str]) -> list[Case]:
    """Masses away from p, ties, p reached exactly, p at both ends, and one row alone."""
    firm = [(_P3, 0.7), (_P3, 0.9), (_P3, 0.2), (_P3, 0.01), *((_P5, p) for p in (0.3, 0.6, 0.75, 0.8, 0.92))]
    firm += [(_P8, 0.55), (_P8, 0.82), (_TIED, 0.5), (_TIED, 0.35), (_P5[1:2], 0.7)]
    exact = [(_QUARTERS, 0.5), (_QUARTERS, 0.75), (_HALVES, 0.5), (_HALVES, 0.75)]
    exact += [(_UNIFORM, p) for p in (0.25, 0.5, 0.75)]
    found = [case(rows, p=p) for rows, p in firm] + [case(rows, EXACTLY, p=p) for rows, p in exact]
    # At p = 1 sums that are exact leave no doubt; others are a matter of rounding.
    found += [case(_P5, AT_ONE, p=1.0), case(_QUARTERS, RAISES_AT_ONE, p=1.0, or_fails=True), case(_P5, TINY, p=1e-9)]
    found.append(case([[-math.inf, *row] for row in _P5], MINUS_INF, p=0.75))
    found.append(case([[x - 1000.0 for x in row] for row in _P5], VERY_LOW, p=0.75))
    if "temperature" in facts:
        warm = ((_P3, 0.7), (_P5, 0.6), (_P5, 0.75), (_P8, 0.55))
        found += [case(rows, p=p, temperature=tau) for tau in (0.5, 2.0) for rows, p in warm]
    return found


def _cases_of(p: float) -> list[Case]:
    """The cases of an object that holds its p: those where p is reached exactly, or not nearly."""
    found = []
    for rows, why in [(rows, "") for rows in (_P3, _P5, _P8)] + [(r, EXACTLY) for r in (_QUARTERS, _HALVES, _UNIFORM)]:
        sums = torch.tensor(rows, dtype=F64).softmax(-1).sort(descending=True).values.cumsum(-1)[:, :-1]
        gap = (sums - p).abs().amin(-1)
        usable = [row for row, use in zip(rows, (gap < 1e-12 if why else gap > 5e-3).tolist(), strict=True) if use]
        if p < 1 and usable:
            found.append(case(usable, why, p=p))
    return found or [case(_P5, p=p)]


# --- the known mistakes: functions of logits, p and temperature, to the distribution that is sampled from ---


def _count_of_another_row(chosen: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """As many tokens of every row as the nucleus of one of them has."""
    return by_rank(lambda q, p: ranks(q) < chosen(_kept(q, p).sum(-1)))


_COUNTS: tuple[Callable[[Tensor], Tensor], ...] = (lambda n: n[0], torch.amax, torch.amin)


def _guard_on_the_first_row(logits: Tensor, value: Any, temperature: float = 1.0) -> Tensor:
    ranked, order = (logits / temperature).sort(dim=-1, descending=True, stable=True)
    removed = ranked.softmax(-1).cumsum(-1) > value - SLACK
    removed[:, 1:] = removed[:, :-1].clone()
    removed[0] = False
    removed = torch.zeros_like(removed).scatter(1, order, removed)
    return (logits / temperature).masked_fill(removed, -math.inf).softmax(-1)


def _first_that_exceeds(q: Tensor, p: float) -> Tensor:
    """The tokens up to the first whose cumulative mass is more than p; the first alone where there is none."""
    crossed = q.cumsum(-1) > p + SLACK
    return ranks(q) <= crossed.to(torch.uint8).argmax(-1, keepdim=True)


def _share(q: Tensor, part: float, rounded: Callable[[float], int]) -> Tensor:
    return ranks(q) < max(1, rounded(part * q.shape[-1]))


def _chosen_at_the_square(ties: bool) -> Filter:
    """The nucleus of the temperature squared, with the probabilities of the temperature."""
    filtered = by_rank(_kept, ties=ties, finish=masked)

    def implementation(logits: Tensor, p: Any, temperature: float = 1.0) -> Tensor:
        scaled = logits / temperature
        return masked(scaled, filtered(scaled, p, temperature).isfinite()).softmax(-1)

    return implementation


MISTAKES = (
    Mistake(
        "top_p.crossing_token_dropped",
        "the token that crosses p is dropped",
        "Tokens are kept while the cumulative mass, their own included, does not exceed p. The set has less mass than "
        "p, and is empty where the first token alone has more.",
        "The mass of the tokens kept is less than p.",
        (pull("fishaudio/fish-speech", 1171), pull("Biohub/esm", 360), issue("rasbt/reasoning-from-scratch", 164)),
        variants(*not_empty(lambda q, p: q.cumsum(-1) <= p + SLACK), *not_empty(lambda q, p: q.cumsum(-1) < p - SLACK)),
    ),
    Mistake(
        "top_p.one_more_when_reached_exactly",
        "one more token is kept when p is reached exactly",
        "Tokens are kept while the mass before them is not more than p, where less than p is right. It shows only "
        "where a set has mass p exactly, as for equal probabilities; widely used code does this.",
        "With four equal probabilities and p = 1/2 three tokens are kept.",
        (issue("huggingface/transformers", 18976), pull("BlinkDL/ChatRWKV", 170)),
        variants(lambda q, p: before(q) <= p + SLACK),
        severity="remark",
    ),
    Mistake(
        "top_p.one_too_many",
        "always one token too many is kept",
        "The mask is shifted by two places, or the token after the crossing one is counted in.",
        "Where the first token has more mass than p, two are kept.",
        (),
        variants(
            lambda q, p: _kept(q, p).roll(1, -1) | (ranks(q) == 0),
            lambda q, p: (before(q) <= p + SLACK).roll(1, -1) | (ranks(q) == 0),
        ),
        right_form=(HOLTZMAN,),
    ),
    Mistake(
        "top_p.first_probability_subtracted",
        "the first probability is subtracted from every cumulative sum",
        "The mass before a token is the cumulative sum less the token's own probability, not less the first one.",
        "With probabilities 0.6, 0.2, 0.2 and p = 0.5 nothing is removed.",
        (pull("facebookresearch/ParlAI", 2733),),
        variants(
            lambda q, p: q.cumsum(-1) - q[..., :1] < p - SLACK, lambda q, p: q.cumsum(-1) - q[..., :1] <= p + SLACK
        ),
    ),
    Mistake(
        "top_p.p_and_one_minus_p_confused",
        "p and 1 - p are confused",
        "The tokens kept have mass 1 - p, or the tail that is removed has mass p.",
        "A larger p keeps fewer tokens.",
        (issue("lucidrains/x-transformers", 184), issue("lucidrains/routing-transformer", 1)),
        variants(
            lambda q, p: _kept(q, 1 - p),
            lambda q, p: before(q) <= 1 - p + SLACK,
            *not_empty(lambda q, p: q.cumsum(-1) <= 1 - p + SLACK),
            *not_empty(lambda q, p: q.cumsum(-1) < 1 - p - SLACK),
        ),
    ),
    Mistake(
        "top_p.threshold_per_token",
        "each probability is compared with p, not the cumulative mass",
        "A token is kept if its own probability reaches p, or 1 - p: p is the mass of a set, not of a token.",
        "With many tokens of small probability hardly one is kept, whatever their order.",
        (issue("rusiaaman/XLnet-gen", 2),),
        variants(
            *not_empty(lambda q, p: q >= p - SLACK),
            *not_empty(lambda q, p: q > p + SLACK),
            *not_empty(lambda q, p: q >= 1 - p - SLACK),
            *not_empty(lambda q, p: q > 1 - p + SLACK),
        ),
    ),
    Mistake(
        "top_p.min_p",
        "this is min-p: each probability is compared with p times the largest",
        "Min-p keeps the tokens that are at least p times as probable as the best one. The nucleus is a set of mass p.",
        "A larger p keeps fewer tokens.",
        (pull("huggingface/transformers", 30639),),
        variants(lambda q, p: q >= p * q[..., :1] - SLACK, lambda q, p: q > p * q[..., :1] + SLACK),
    ),
    Mistake(
        "top_p.fraction_of_tokens",
        "p is a part of the number of tokens, not of the mass",
        "The p V most probable tokens are kept (or (1 - p) V): a top-k whose k does not depend on the distribution.",
        "The same number of tokens is kept in every row.",
        (issue("lucidrains/x-transformers", 184),),
        variants(
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
            in_token_order(rule)
            for rule in (
                _kept,
                lambda q, p: before(q) <= p + SLACK,
                *not_empty(lambda q, p: q.cumsum(-1) <= p + SLACK),
                *not_empty(lambda q, p: q.cumsum(-1) < p - SLACK),
            )
        ),
    ),
    Mistake(
        "top_p.ascending",
        "sorted in ascending order: the least probable tokens make up the mass",
        "The cumulative sum begins with the least probable tokens, and the most probable one is the first to go.",
        "The most probable token is never sampled, unless all are kept.",
        (pull("neuralmagic/deepsparse", 1354), pull("RBLN-SW/vllm-rbln", 58)),
        variants(
            _kept,
            lambda q, p: before(q) <= p + SLACK,
            *not_empty(lambda q, p: q.cumsum(-1) <= p + SLACK),
            *not_empty(lambda q, p: q.cumsum(-1) < p - SLACK),
            descending=False,
        ),
    ),
    Mistake(
        "top_p.softmax_missing",
        "the cumulative sum is taken of logits, not of probabilities",
        "The softmax is missing: the sum of the sorted logits is compared with p.",
        "The result changes when a constant is added to all logits.",
        (issue("skyzh/tiny-llm", 32),),
        variants(
            _kept,
            lambda q, p: (before(q) <= p + SLACK) | (ranks(q) == 0),
            lambda q, p: q.cumsum(-1) <= p,
            lambda q, p: (q.cumsum(-1) <= p) | (ranks(q) == 0),
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
        variants(lambda q, p: ranks(q) == 0),
    ),
    Mistake(
        "top_p.greedy_at_one",
        "at p = 1 only the most probable token is kept",
        "The crossing token is the first whose cumulative mass is more than p. At p = 1 there is none, and the index "
        "of the first is taken for it: the setting that should change nothing makes the decoding greedy.",
        "At p = 1 every sample is the most probable token.",
        (pull("BlinkDL/ChatRWKV", 170),),
        (by_rank(_first_that_exceeds), by_rank(_first_that_exceeds, ties=True)),
    ),
    Mistake(
        "top_p.temperature_after_truncation",
        "the temperature is applied after the truncation",
        "The nucleus is that of temperature 1, and is then made sharper or flatter. With the temperature first, as "
        "transformers has it, a high temperature enlarges the nucleus. Some samplers choose this order on purpose.",
        "The number of tokens kept does not change with the temperature.",
        (pull("fishaudio/fish-speech", 1150), pull("sgl-project/sglang-jax", 1563)),
        temperature_after(_kept),
    ),
    Mistake(
        "top_p.temperature_twice_in_the_nucleus",
        "the temperature is applied twice where the nucleus is chosen",
        "The tokens are those of the square of the temperature, and their probabilities those of the temperature: the "
        "logits were divided already when the cumulative sum divides them again.",
        "At temperature 2 as many tokens are kept as at temperature 4.",
        (pull("Adibvafa/CodonTransformer", 20),),
        tuple(map(_chosen_at_the_square, (False, True))),
    ),
    *common("top_p", _kept, HOLTZMAN, *map(_count_of_another_row, _COUNTS)),
)

_RIGHT = {"": of_p(by_rank(_kept)), ALL_TIES: of_p(by_rank(_kept, ties=True))}
CHECK = Check(
    "top_p",
    5,
    args=(
        *VALUE_ARGS[:1],
        Arg("p", also=_NAMES),
        *VALUE_ARGS[1:],
        *FILLED_IN,
        Arg("top_k", also="k topk", of=lambda x: x.logits.shape[-1], asked=True),
    ),
    needs=(VALUES, "p"),
    signature=("logits", "p"),
    axes="B V",
    layouts=("[B, V]", "[V]", "[B, 1, V]"),
    reference=_RIGHT,
    cases=cases,
    mistakes=tuple(replace(m, implementations=tuple(map(of_p, m.implementations))) for m in MISTAKES),
    settle=_settle,
    readings=readings("p"),
    observe=observe,
    choose=choosing([*_RIGHT.values()]),
    of_the_batch=("top_p.threshold_of_another_row", "top_p.guard_on_the_first_row"),
    quantity="the probabilities of the tokens",
    example="call=lambda x: f(x.logits, x.p)  # or x.probs, x.log_probs: [B, V]",
)
