"""`check_top_k`: right filters pass in all their forms, known mistakes are named, others are shown."""

import functools
import heapq
import math
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pytest
import torch

from pgtheory.checking import UnknownForm, check_top_k
from pgtheory.checking.filters import ALL_TIES, COMPLEMENT, VERY_LOW
from pgtheory.checking.kinds.top_k import ALL_KEPT, CHECK

INF = float("inf")


# --- right ---


def by_threshold(logits, k):
    return logits.masked_fill(logits < torch.topk(logits, k).values[..., -1:], -INF)


def in_place(logits, top_k):
    v, _ = torch.topk(logits, min(top_k, logits.size(-1)))
    logits[logits < v[:, [-1]]] = -float("Inf")
    return logits


def by_scatter(x, n):
    values, indices = x.topk(n, dim=-1)
    return torch.full_like(x, -INF).scatter(-1, indices, values)


class Warper:
    def __init__(self, top_k, filter_value=-INF, min_tokens_to_keep=1):
        self.top_k, self.filter_value = max(top_k, min_tokens_to_keep), filter_value

    def __call__(self, input_ids, scores):
        k = min(self.top_k, scores.size(-1))
        return scores.masked_fill(scores < torch.topk(scores, k)[0][..., -1, None], self.filter_value)


class Filter(torch.nn.Module):
    def __init__(self, k):
        super().__init__()
        self.k = k

    def forward(self, x):
        return by_threshold(x, self.k)


class Kept(NamedTuple):
    values: torch.Tensor
    indices: torch.Tensor


def both(logits, top_k=0, top_p=1.0, filter_value=-INF):
    assert top_p == 1.0
    return logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], filter_value) if top_k else logits


def with_p(logits, k, p):
    assert p == 1.0
    return by_threshold(logits, k)


def server(logits, k):
    ranked = logits.sort(dim=-1).values
    return logits.masked_fill(logits < ranked.gather(1, (logits.shape[1] - k.long()).unsqueeze(1)), -INF)


def numpy_row(logits, k):
    out = np.full_like(logits, -np.inf)
    best = np.argsort(logits)[::-1][:k]
    out[best] = logits[best]
    return out


def numpy_partition(scores, k):
    threshold = np.partition(scores, -k, axis=-1)[..., -k, None]
    return np.where(scores >= threshold, scores, -np.inf)


def numpy_rank(x, k):
    return np.argsort(np.argsort(-x, axis=-1, kind="stable"), axis=-1) < k


def python_list(logits, k):
    best = set(heapq.nlargest(k, range(len(logits)), key=lambda i: logits[i]))
    return [x if i in best else float("-inf") for i, x in enumerate(logits)]


def python_rows(rows, k):
    return [python_list(row, k) for row in rows]


def gpt_probabilities(logits, temperature=1.0, top_k=None):
    logits = logits / max(temperature, 1e-5)
    if top_k is not None:
        pivot = torch.topk(logits, min(top_k, logits.size(-1)))[0].select(-1, -1).unsqueeze(-1)
        logits = torch.where(logits < pivot, -float("Inf"), logits)
    return torch.nn.functional.softmax(logits, dim=-1)


def renormalised(probs, k):
    kept = torch.where(probs >= probs.topk(k)[0][..., -1:], probs, 0.0)
    return kept / kept.sum(-1, keepdim=True)


def softmax_of_k(logits, k):
    values, indices = logits.topk(k)
    return values.softmax(-1), indices


def by_index(logits, k):
    kept = sorted(range(len(logits)), key=lambda i: -logits[i])[:k]
    weights = [math.exp(logits[i] - max(logits)) for i in kept]
    return {i: w / sum(weights) for i, w in zip(kept, weights, strict=True)}


RIGHT = {
    "threshold": by_threshold,
    "in place": in_place,
    "scatter": by_scatter,
    "class": Warper,
    "instance": Warper(3),
    "instance of 12": Warper(12),
    "module class": Filter,
    "module": Filter(2),
    "factory": lambda k: lambda logits: by_threshold(logits, k),
    "both": both,
    "with p": with_p,
    "server": server,
    "numpy row": numpy_row,
    "numpy partition": numpy_partition,
    "numpy rank": numpy_rank,
    "numpy indices": lambda logits, k: np.argsort(-logits, axis=-1)[..., :k],
    "list": python_list,
    "rows": python_rows,
    "tempered probabilities": gpt_probabilities,
    "renormalised": renormalised,
    "builtin topk": torch.topk,
    "pair": softmax_of_k,
    "named pair": lambda logits, k: Kept(*logits.topk(k)),
    "turned pair": lambda probs, k: tuple(reversed(probs.topk(k))),
    "indices": lambda logits, k: logits.topk(k).indices,
    "lists of indices": lambda logits, k: [row.topk(k).indices.tolist() for row in logits],
    "set": lambda scores, k: set(sorted(range(len(scores)), key=scores.__getitem__)[-k:]),
    "finite fill": functools.partial(both, filter_value=torch.finfo(torch.float32).min),
    "log-probabilities": lambda log_probs, k: by_threshold(log_probs, k).log_softmax(-1),
    "removed": lambda logits, k: logits < logits.topk(k).values[..., -1:],
    "zeros and ones": lambda logits, k: (by_threshold(logits, k) > -INF).int(),
    "keyword": lambda *, scores, top_k: by_threshold(scores, top_k),
    "float32": lambda logits, k: by_threshold(logits.float(), k),
    "last position": lambda logits, k: by_threshold(logits[:, -1, :], k).softmax(-1),
    "positions": lambda logits, k: by_threshold(logits.view(len(logits), -1, logits.shape[2]), k),
    "distribution": lambda logits, k: torch.distributions.Categorical(logits=by_threshold(logits, k)),
    "named outputs": lambda logits, k: {"probs": by_threshold(logits, k).softmax(-1), "k": k},
    "probabilities by index": by_index,
    "pairs": lambda logits, k: list(by_index(logits, k).items()),
    "cut of one row": lambda logits, k: torch.where(logits < logits.topk(k).values[-1], -INF, logits),
}


@pytest.mark.parametrize("function", RIGHT.values(), ids=RIGHT)
def test_a_right_filter_passes_in_its_own_form(function):
    report = check_top_k(function)
    assert report.ok, report


def test_exactly_k_is_right_without_a_remark_and_more_at_ties_with_one():
    def exact(logits, k):
        order = logits.argsort(dim=-1, descending=True, stable=True)[..., :k]
        return torch.full_like(logits, -INF).scatter(-1, order, logits.gather(-1, order))

    assert check_top_k(exact).remarks == ()
    assert check_top_k(lambda logits, k: by_threshold(logits, min(k, logits.shape[-1]))).remarks == (
        f"it is {ALL_TIES}",
    )
    assert check_top_k(lambda logits, k: exact(logits.flip(-1), k).flip(-1)).remarks == ()


def test_a_filter_of_single_rows_is_right_with_a_remark_if_a_batch_goes_wrong():
    def function(logits, k):
        order = logits.argsort(descending=True, dim=0)
        out = torch.full_like(logits, -INF)
        out[order[:k]] = logits[order[:k]]
        return out

    report = check_top_k(function)
    assert report.ok
    assert report.form.startswith("torch [V]")


def test_a_fill_that_is_not_low_enough_for_low_logits_is_remarked():
    report = check_top_k(lambda logits, k: torch.where(by_threshold(logits, k).isinf(), -100.0, logits))
    assert report.ok
    assert VERY_LOW in report.remarks


def test_a_filter_that_refuses_k_equal_to_the_vocabulary_is_right_with_a_remark():
    def refusing(logits, k):
        if k >= logits.shape[-1]:
            raise ValueError("k is the size of the vocabulary")
        return by_threshold(logits, k)

    def wrong(logits, k):
        return by_threshold(logits, k) if k < logits.shape[-1] else by_threshold(logits, 1)

    assert check_top_k(refusing).ok
    assert ALL_KEPT in check_top_k(refusing).remarks
    assert check_top_k(wrong).verdict == "wrong"


@pytest.mark.parametrize("name", ["x", "scores", "z", "inputs", "weights", "next_token_scores"])
def test_what_may_be_logits_or_probabilities_is_read_as_both_and_the_report_says_as_what(name):
    body = {
        "": "{0}.masked_fill({0} < {0}.topk(min(k, {0}.shape[-1])).values[..., -1:], -torch.inf)",
        ", read as probabilities": "(kept := {0} * ({0} >= {0}.topk(k).values[..., -1:])) / kept.sum(-1, keepdim=True)",
    }
    for reading, text in body.items():
        report = check_top_k(eval(f"lambda {name}, k: {text.format(name)}", {"torch": torch}))
        assert report.ok, report
        assert report.form == f"torch [B, V]{reading}"
        assert report.binding[name] == "values"


def test_a_first_argument_of_an_unknown_name_is_asked_for():
    def function(a, b):
        return by_threshold(k=b, logits=a)

    with pytest.raises(UnknownForm, match="say what it is by names="):
        check_top_k(function)
    assert check_top_k(function, names={"a": "logits", "b": "k"}).ok
    assert check_top_k(call=lambda x: function(x.logits, x.k)).ok
    assert check_top_k(call=lambda x: renormalised(x.probs, x.k)).ok


def test_what_p_means_follows_from_the_others():
    assert check_top_k(lambda p, k: renormalised(p, k)).ok  # noqa: PLW0108
    assert check_top_k(with_p).ok
    with pytest.raises(UnknownForm, match="nothing to filter"):
        check_top_k(lambda k, temperature: k)


def test_values_with_indices_are_judged_together():
    twice = check_top_k(lambda logits, k: ((v := logits.softmax(-1).topk(k)).values.softmax(-1), v.indices))
    assert twice.mistakes[0].key == "top_k.softmax_twice"
    assert twice.judged == "pair: probabilities with indices"
    assert check_top_k(lambda logits, k: (torch.zeros_like((v := logits.topk(k)).values), v.indices)).verdict == "wrong"
    assert check_top_k(lambda logits, k: ((v := logits.topk(k)).values.flip(-1), v.indices)).verdict == "wrong"


def test_a_mask_or_indices_beside_the_filtered_logits_must_agree_with_them():
    def beside(other):
        return check_top_k(lambda logits, k: (by_threshold(logits, k), other(logits, k)))

    assert beside(lambda logits, k: logits.topk(k).indices).ok
    assert beside(lambda logits, k: by_threshold(logits, k) > -INF).ok
    assert beside(lambda logits, k: (-logits).topk(k).indices).verdict == "wrong"


def test_the_complement_of_a_mask_is_remarked():
    assert any(COMPLEMENT in remark for remark in check_top_k(RIGHT["removed"]).remarks)


# --- known mistakes ---


def _without_keepdim(logits, k):
    values, _ = torch.topk(logits, k)
    return torch.where(logits < values[:, -1], torch.ones_like(logits) * -1e10, logits)


def _positions(logits, k):
    order = logits.argsort(-1, descending=True)
    return torch.where(order < k, logits, -INF)


@pytest.mark.parametrize(
    ("function", "key"),
    [
        (lambda logits, k: by_threshold(logits, k + 1 if k < logits.shape[-1] else k), "one_too_many"),
        (lambda logits, k: logits.masked_fill(logits <= logits.topk(k).values[..., -1:], -INF), "one_too_few"),
        (lambda logits, k: [sorted(range(len(logits)), key=lambda i: -logits[i])[: max(k - 1, 1)]][0], "one_too_few"),
        (lambda logits, k: np.argsort(logits, axis=-1)[..., :k], "least_probable_kept"),
        (lambda logits, k: logits * (logits >= logits.topk(k).values[..., -1:]), "zero_instead_of_minus_inf"),
        (lambda logits, k: torch.where(by_threshold(logits, k).isinf(), 1e-10, logits), "zero_instead_of_minus_inf"),
        (lambda logits, k: logits.softmax(-1) * ~by_threshold(logits, k).isinf(), "not_renormalised"),
        (lambda logits, k: logits.masked_fill(logits < logits.topk(k).values.min(), -INF), "threshold_of_another_row"),
        (
            lambda logits, k: logits.masked_fill(logits < logits.kthvalue(k, dim=-1, keepdim=True).values, -INF),
            "removes_k",
        ),
        (_without_keepdim, "threshold_of_another_row"),
        (_positions, "mask_not_scattered_back"),
        (lambda logits, k: by_threshold(logits, k).sort(-1, descending=True).values, "sorted_order_returned"),
        (lambda logits, k: by_threshold(logits.softmax(-1), k), "softmax_twice"),
        (lambda logits, k: logits, "nothing_removed"),
        (lambda logits, k: logits.masked_fill(logits >= logits.topk(k).values[..., -1:], -INF), "inverted"),
        (lambda logits, k: logits.scatter(-1, logits.topk(k).indices, -INF), "inverted"),
        (lambda logits, k: logits.masked_fill(logits < logits.topk(k).values[..., :1], -INF), "only_the_best_kept"),
        (lambda logits, k, temperature: by_threshold(logits * temperature, k), "multiplied_by_temperature"),
        (lambda logits, k, tau: (by_threshold(logits / tau, k) / tau).softmax(-1), "temperature_twice"),
    ],
)
def test_a_mistake_written_in_another_way_is_named(function, key):
    report = check_top_k(function)
    assert [mistake.key for mistake in report.mistakes] == [f"top_k.{key}"], report


# --- unknown mistakes ---


def _distinct(logits, k):
    logits = logits.tolist()
    thresholds = [sorted(set(row))[-min(k, len(set(row)))] for row in logits]
    return [[x if x >= t else -INF for x in row] for row, t in zip(logits, thresholds, strict=True)]


UNKNOWN = {
    "ties counted once": _distinct,
    "twice k": lambda logits, k: by_threshold(logits, min(2 * k, logits.shape[-1])),
    "even k": lambda logits, k: by_threshold(logits, k - k % 2 or 1),
    "halved": lambda logits, k: by_threshold(logits, k) / 2,
    "uniform": lambda logits, k: torch.where(by_threshold(logits, k).isinf(), -INF, 1.0),
    "noise": lambda logits, k: by_threshold(logits, k) + torch.linspace(0, 1, logits.shape[-1]),
}


@pytest.mark.parametrize("function", UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_mistake_is_wrong_and_not_guessed(function):
    report = check_top_k(function)
    assert not report.ok
    assert report.mistakes == ()


def test_the_counterexample_shows_what_the_function_saw_and_the_distribution_that_it_means():
    example = check_top_k(UNKNOWN["noise"], layout="torch [V]").counterexample
    assert example.inputs["k"] == 2
    assert example.inputs["logits"].tolist() == [0.5, 2.0, 1.0]
    assert example.expected.tolist() == pytest.approx([0.0, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))])
    assert example.got.tolist() == pytest.approx([0.0, 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(0.5))])


# --- forms ---


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda logits: logits, "no argument 'k'"),
        (lambda logits, k, wheel: logits, "wheel"),
        (lambda logits, k: None, "not numbers"),
        (lambda logits, k: logits.topk(k).values, "it returned shape"),
        (lambda logits, k: by_threshold(logits, k).softmax(-1).multinomial(1), "sample"),
    ],
)
def test_a_form_that_is_not_understood_is_refused_with_the_forms_that_were_tried(function, text):
    with pytest.raises(UnknownForm, match=text):
        check_top_k(function)


def test_a_report_is_the_same_twice_and_the_random_state_is_not_touched():
    def noisy(logits, k):
        torch.rand(3), np.random.rand(3)  # noqa: NPY002
        return by_threshold(logits, max(k - 1, 1))

    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert str(check_top_k(noisy)) == str(check_top_k(noisy))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


# --- the cases ---

CASES = CHECK.cases(frozenset(["temperature"]))


@pytest.mark.parametrize("i", range(len(CASES)))
def test_the_expected_answers_keep_the_k_tokens_of_largest_sum_by_brute_force(i):
    inputs = CASES[i].inputs
    for row, expected in zip(inputs["logits"], CHECK.right[""](**inputs), strict=True):
        finite, k = row.clamp(min=-1e6), min(inputs["k"], len(row))
        best = max(combinations(range(len(row)), k), key=lambda s: sum(finite[i].item() for i in s))
        weights = torch.zeros_like(row)
        weights[list(best)] = ((row - row.max()) / inputs["temperature"]).exp()[list(best)]
        torch.testing.assert_close(expected, weights / weights.sum())
