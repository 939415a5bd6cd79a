"""`check_top_p`: right nuclei pass in all their forms, known mistakes are named, others are shown."""

import functools
import math
import random
from itertools import chain, combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pgtheory.checking import UnknownForm, check_top_p
from pgtheory.checking.filters import ALL_TIES, COMPLEMENT
from pgtheory.checking.kinds.top_p import AT_ONE, CHECK, EXACTLY

INF = float("inf")
ONE_MORE = "top_p.one_more_when_reached_exactly"


# --- right ---


def transformers_form(logits, top_p=0.9, filter_value=-INF, min_tokens_to_keep=1):
    sorted_logits, sorted_indices = torch.sort(logits, descending=False)
    remove = sorted_logits.softmax(dim=-1).cumsum(dim=-1) <= (1 - top_p)
    remove[..., -min_tokens_to_keep:] = 0
    return logits.masked_fill(remove.scatter(1, sorted_indices, remove), filter_value)


class Warper:
    def __init__(self, top_p, filter_value=-INF, min_tokens_to_keep=1):
        self.top_p, self.filter_value, self.min_tokens_to_keep = top_p, filter_value, min_tokens_to_keep

    def __call__(self, input_ids, scores):
        return transformers_form(scores, self.top_p, self.filter_value, self.min_tokens_to_keep)


class Nucleus(torch.nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, logits):
        return transformers_form(logits, self.p)


def both(logits, top_k=0, top_p=1.0, filter_value=-INF):
    if top_k > 0:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], filter_value)
    ranked, order = torch.sort(logits, descending=True)
    remove = ranked.softmax(-1).cumsum(-1) >= top_p
    remove = torch.roll(remove, 1, -1)
    remove[..., 0] = False
    return logits.masked_fill(torch.zeros_like(remove).scatter_(-1, order, remove), filter_value)


def server(logits, k, p):
    ranked, order = logits.sort(dim=-1, descending=False)
    kth = ranked.gather(1, (ranked.size(1) - k.long()).unsqueeze(1))
    ranked = ranked.masked_fill(ranked < kth, -INF)
    mask = ranked.softmax(-1).cumsum(-1) <= 1 - p.unsqueeze(1)
    mask[:, -1] = False
    ranked = ranked.masked_fill(mask, -INF)
    return torch.empty_like(ranked).scatter_(-1, order, ranked)


def exclusive_sum(logits, threshold):
    q = F.softmax(logits, -1)
    ranked, order = torch.sort(q, dim=-1, descending=True)
    keep = torch.cumsum(ranked, -1) - ranked < threshold
    q = q * torch.zeros_like(keep).scatter(-1, order, keep)
    return q / q.sum(-1, keepdim=True)


def of_probabilities(probs, p):
    ranked, order = torch.sort(probs, dim=-1, descending=True)
    before = F.pad(ranked.cumsum(-1)[..., :-1], (1, 0))
    ranked = torch.where(before < p, ranked, 0.0)
    ranked /= ranked.sum(-1, keepdim=True)
    return torch.zeros_like(probs).scatter(-1, order, ranked)


def numpy_row(logits, p):
    weights = np.exp(logits - np.max(logits))
    weights /= weights.sum()
    order = np.argsort(weights)[::-1]
    n = int(np.searchsorted(np.cumsum(weights[order]), p)) + 1
    out = np.full(len(logits), -np.inf)
    out[order[:n]] = logits[order[:n]]
    return out


def numpy_mask(scores, nucleus):
    q = np.exp(scores - scores.max(-1, keepdims=True))
    q /= q.sum(-1, keepdims=True)
    rank = np.argsort(np.argsort(-q, axis=-1, kind="stable"), axis=-1)
    ranked = -np.sort(-q, axis=-1)
    count = (np.cumsum(ranked, -1) < nucleus).sum(-1, keepdims=True) + 1
    return rank < count


def single_precision_mask(logits, p):
    q = logits.float().exp() / (logits.float().exp().sum(-1, keepdim=True) + 1e-12)
    ranked, order = q.sort(-1, descending=True)
    keep = (ranked.cumsum(-1) - ranked) < p
    return torch.zeros_like(q, dtype=torch.bool).scatter(-1, order, keep)


def ascending_numpy(logprobs, top_p):
    q, order = np.exp(logprobs), np.argsort(logprobs, axis=-1)
    mass = np.cumsum(np.take_along_axis(q, order, -1), -1)
    inverse = np.argsort(order, axis=-1)
    return np.where(np.take_along_axis(mass, inverse, -1) > 1 - top_p, logprobs, -np.inf)


def bisected(probs, p):
    out = torch.zeros_like(probs)
    for row, kept in zip(probs, out, strict=True):
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if row[row >= middle].sum() >= p else (low, middle)
        kept[row >= low] = row[row >= low]
    return out / out.sum(-1, keepdim=True)


def python_list(logits, p):
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    total, mass, kept = sum(weights), 0.0, set()
    for i in sorted(range(len(logits)), key=lambda i: -logits[i]):
        if mass >= p:
            break
        kept.add(i)
        mass += weights[i] / total
    return [x if i in kept else -INF for i, x in enumerate(logits)]


def python_indices(probabilities, p):
    kept, mass = [], 0.0
    for i, q in sorted(enumerate(probabilities), key=lambda pair: -pair[1]):
        kept.append(i)
        mass += q
        if mass >= p:
            return kept
    return kept


def ragged_indices(logits, p):
    return [python_indices(row.softmax(-1).tolist(), p) for row in logits]


def by_value(logits, p):
    ranked = logits.softmax(-1).sort(-1, descending=True).values
    last = (ranked.cumsum(-1) < p).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    q = logits.softmax(-1)
    return torch.where(q >= ranked.gather(-1, last), logits, torch.finfo(logits.dtype).min)


def in_place(logits, p):
    for row in logits:
        order = row.argsort(descending=True)
        mass = row.softmax(-1)[order].cumsum(-1)
        row[order[1:][mass[:-1] >= p]] = -INF
    return logits


def removed_mask(logits, p):
    return ~exclusive_sum(logits, p).bool()


def pair(logits, p):
    ranked, order = logits.sort(descending=True, dim=-1)
    q = ranked.softmax(-1)
    return ranked.masked_fill(q.cumsum(-1) - q >= p, -INF), order


def trimmed(log_probs, p):
    q, order = log_probs.exp().sort(descending=True)
    mask = q.cumsum(-1).lt(p)
    mask = torch.cat([torch.ones_like(mask[..., :1]), mask[..., :-1]], -1)
    return q * mask, order


def tempered(logits, temperature, top_p):
    return both(logits / temperature, top_p=top_p)


def log_normalised(logits, p):
    return both(logits.float(), top_p=p).log_softmax(-1)


def rows_of_numpy(x, p):
    return np.stack([numpy_row(row, p) for row in x])


def softmax(logits):
    weights = [math.exp(x - max(logits)) for x in logits]
    return [w / sum(weights) for w in weights]


RIGHT = {
    "transformers": transformers_form,
    "class": Warper,
    "instance": Warper(0.75),
    "instance of 0.9": Warper(0.9),
    "module class": Nucleus,
    "module": Nucleus(0.6),
    "factory": lambda p: lambda scores: both(scores, top_p=p),
    "both": both,
    "server": server,
    "mask in single precision": single_precision_mask,
    "ascending numpy": ascending_numpy,
    "bisected": bisected,
    "exclusive sum": exclusive_sum,
    "probabilities": of_probabilities,
    "numpy row": numpy_row,
    "numpy mask": numpy_mask,
    "list": python_list,
    "indices": python_indices,
    "ragged indices": ragged_indices,
    "by value": by_value,
    "in place": in_place,
    "removed": removed_mask,
    "pair": pair,
    "trimmed": trimmed,
    "tempered": tempered,
    "float32 log-probabilities": log_normalised,
    "rows of numpy": rows_of_numpy,
    "partial": functools.partial(both, top_k=0, filter_value=-1e9),
    "keyword": lambda *, logits, p: both(logits, top_p=p),
    "tuple": lambda logits, p: (both(logits, top_p=p), "kept"),
    "list of rows": lambda logits, p: list(both(logits, top_p=p)),
    "float mask": lambda logits, p: (exclusive_sum(logits, p) > 0).float(),
    "last position": lambda logits, top_p: both(logits[:, -1, :], top_p=top_p).softmax(-1),
    "distribution": lambda logits, p: torch.distributions.Categorical(logits=both(logits, top_p=p)),
    "log-probabilities by index": lambda logits, p: {i: float(logits[i]) for i in python_indices(softmax(logits), p)},
}


@pytest.mark.parametrize("function", RIGHT.values(), ids=RIGHT)
def test_a_right_nucleus_passes_in_its_own_form(function):
    report = check_top_p(function)
    assert report.ok, report


@pytest.mark.parametrize("function", [both, exclusive_sum, of_probabilities], ids=lambda f: f.__name__)
def test_a_plain_right_nucleus_passes_without_a_remark(function):
    assert check_top_p(function).remarks == ()


def test_a_nucleus_that_drops_tokens_at_p_equal_to_1_is_right_with_a_remark():
    def function(logits, p):
        if p == 1:
            raise IndexError("no probability exceeds 1")
        return both(logits, top_p=p)

    report = check_top_p(function)
    assert report.ok
    assert AT_ONE in report.remarks


def test_what_a_short_name_means_follows_from_the_others():
    assert check_top_p(lambda q, p: of_probabilities(q, p)).ok  # noqa: PLW0108
    assert check_top_p(lambda logits, q: both(logits, top_p=q)).ok
    assert check_top_p(lambda logits, prob: both(logits, top_p=prob)).ok


def test_ties_in_another_order_are_right():
    assert check_top_p(lambda logits, p: both(logits.flip(-1), top_p=p).flip(-1)).ok


def test_keeping_every_tie_is_right_with_a_remark():
    report = check_top_p(by_value)
    assert report.ok
    assert f"it is {ALL_TIES}" in report.remarks


def test_a_change_in_place_and_the_complement_of_a_mask_are_remarked():
    assert any("in place" in remark for remark in check_top_p(in_place).remarks)
    assert COMPLEMENT in check_top_p(removed_mask).remarks


@pytest.mark.parametrize("softmax", [
    lambda x: x.log_softmax(-1).exp(),
    lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
    lambda x: x.float().softmax(-1),
    lambda x: x.sub(3).float().log_softmax(-1).exp(),
    lambda x: (x - x.mean(-1, keepdim=True)).exp() / (x - x.mean(-1, keepdim=True)).exp().sum(-1, keepdim=True),
    lambda x: x.softmax(-1) * (1 + 1e-7),
])  # fmt: skip
def test_a_softmax_that_rounds_otherwise_is_not_called_wrong(softmax):
    def function(logits, p):
        ranked, order = softmax(logits).sort(descending=True, stable=True)
        removed = ranked.cumsum(-1) - ranked >= p
        return logits.masked_fill(torch.zeros_like(removed).scatter(-1, order, removed), -INF)

    assert check_top_p(function).ok


# --- known mistakes ---


def _unshifted(logits, top_p):
    ranked, order = torch.sort(logits, descending=True)
    remove = torch.cumsum(F.softmax(ranked, dim=-1), dim=-1) > top_p
    remove[..., 0] = False
    return logits.masked_fill(remove.scatter(-1, order, remove), -INF)


def _unguarded(logits, p):
    ranked, order = torch.sort(logits, descending=True)
    remove = ranked.softmax(-1).cumsum(-1) > p
    return logits.masked_fill(remove.scatter(-1, order, remove), torch.finfo(logits.dtype).min)


def _gist(logits, top_k=0, top_p=0.0, filter_value=-INF):
    assert logits.dim() == 1
    if top_p > 0.0:
        ranked, order = torch.sort(logits, descending=True)
        remove = torch.cumsum(F.softmax(ranked, dim=-1), dim=-1) > top_p
        remove[..., 1:] = remove[..., :-1].clone()
        remove[..., 0] = 0
        logits[order[remove]] = filter_value
    return logits


def _cut_off(predictions, top_p):
    q = np.exp(predictions - predictions.max())
    q = q / q.sum()
    order = np.argsort(q)[::-1]
    last = np.where(np.cumsum(q[order]) > top_p)[0][0]
    out = np.zeros_like(q)
    out[order[: last + 1]] = q[order[: last + 1]]
    return out / out.sum()


def _listed(probs, p):
    kept, mass = [], 0.0
    for i in sorted(range(len(probs)), key=lambda i: probs[i], reverse=True):
        if mass + probs[i] > p and kept:
            break
        kept.append(i)
        mass += probs[i]
    return kept


def _inverse_scattered(logits, top_p):
    ranked, order = torch.sort(logits, descending=True)
    q = ranked.softmax(-1)
    remove = q.cumsum(-1) - q >= top_p
    return logits.masked_fill(torch.zeros_like(remove).scatter(1, order.argsort(-1), remove), -INF)


def _late(logits, top_p, temperature):
    return both(logits, top_p=top_p) / temperature


def _first_renormalised(probs, p):
    ranked, order = torch.sort(probs, dim=-1, descending=True)
    ranked[ranked.cumsum(-1) - ranked > p] = 0.0
    ranked.div_(ranked.sum(dim=-1, keepdim=True))
    return torch.zeros_like(probs).scatter(-1, order, ranked)


@pytest.mark.parametrize(
    ("function", "key"),
    [
        (_unshifted, "crossing_token_dropped"),
        (_unguarded, "crossing_token_dropped"),
        (_listed, "crossing_token_dropped"),
        (_inverse_scattered, "mask_not_scattered_back"),
        (_late, "temperature_after_truncation"),
        (lambda logits, p, tau: tempered(logits, tau, p) / tau, "temperature_twice"),
        (lambda logits, p, tau: tempered(logits, tau * tau, p), "temperature_twice"),
        (lambda logits, p: logits, "nothing_removed"),
        (lambda logits, p: logits.softmax(-1), "nothing_removed"),
        (lambda logits, p: torch.where(logits.softmax(-1) >= p, logits, -INF), "threshold_per_token"),
        (lambda logits, p: both(logits, top_p=1 - p), "p_and_one_minus_p_confused"),
        (lambda logits, p: both(logits, top_p=p).nan_to_num(neginf=0.0), "zero_instead_of_minus_inf"),
        (lambda logits, p: logits.softmax(-1) * (both(logits, top_p=p) > -INF), "not_renormalised"),
    ],
)  # fmt: skip
def test_a_mistake_written_in_another_way_is_named(function, key):
    report = check_top_p(function)
    assert [mistake.key for mistake in report.mistakes] == [f"top_p.{key}"], report


@pytest.mark.parametrize("function", [_gist, _cut_off, _first_renormalised], ids=lambda f: f.__name__)
def test_taking_one_more_when_p_is_reached_exactly_is_right_with_a_remark(function):
    report = check_top_p(function)
    assert report.ok, report
    (mistake,) = (m for m in CHECK.mistakes if m.key == ONE_MORE)
    assert any(remark.startswith(mistake.name) for remark in report.remarks)


@pytest.mark.parametrize("rows", [[[0.0, math.log(2), 0.0]], [[0.0] * 4]], ids=["not uniform", "uniform"])
def test_taking_one_more_at_exact_reach_shows_on_its_own_cases(rows):
    logits = torch.tensor(rows, dtype=torch.float64)
    right, one_more = both(logits, top_p=0.5) > -INF, _first_renormalised(logits.softmax(-1), 0.5) > 0
    assert one_more.sum() == right.sum() + 1


# --- unknown mistakes ---


def _every_second(logits, p):
    out = both(logits, top_p=p).clone()
    out[..., ::2] = -INF
    return out


def test_a_guard_on_the_first_row_is_found_although_a_single_row_is_right():
    def function(logits, p):
        ranked, order = logits.sort(descending=True)
        removed = ranked.softmax(-1).cumsum(-1) > p
        removed[..., 1:] = removed[..., :-1].clone()
        removed[0] = False
        return logits.masked_fill(torch.zeros_like(removed).scatter(-1, order, removed), -INF)

    assert check_top_p(function).mistakes[0].key == "top_p.guard_on_the_first_row"
    assert check_top_p(function, layout="[V]").ok


def test_a_count_of_tokens_that_all_rows_share_is_the_mistake_of_another_row():
    def function(logits, p):
        mass = logits.sort(descending=True).values.softmax(-1).cumsum(-1)
        values, order = logits.topk(int((mass < p).sum(-1).max()) + 1)
        return torch.full_like(logits, -INF).scatter(-1, order, values)

    assert check_top_p(function).mistakes[0].key == "top_p.threshold_of_another_row"


UNKNOWN = {
    "half of the vocabulary lost": _every_second,
    "squared p": lambda logits, p: both(logits, top_p=p * p),
    "p + 0.1": lambda logits, p: both(logits, top_p=min(1.0, p + 0.1)),
    "at most two": lambda logits, p: torch.where(
        logits >= logits.topk(2).values[..., -1:], both(logits, top_p=p), -INF
    ),
    "halved": lambda logits, p: both(logits, top_p=p) / 2,
    "uniform over the nucleus": lambda logits, p: torch.where(both(logits, top_p=p) > -INF, 0.0, -INF),
}


@pytest.mark.parametrize("function", UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_mistake_is_wrong_and_not_guessed(function):
    report = check_top_p(function)
    assert not report.ok
    assert report.mistakes == ()
    assert report.counterexample is not None


def test_the_counterexample_shows_what_the_function_saw_and_the_distribution_that_it_means():
    example = check_top_p(UNKNOWN["halved"], layout="torch [B, V]").counterexample
    assert set(example.inputs) == {"logits", "p"}
    assert example.inputs["p"] == 0.7
    q = torch.tensor([[0.19, 0.52, 0.29], [0.33, 0.04, 0.63], [0.06, 0.77, 0.17]], dtype=torch.float64)
    torch.testing.assert_close(example.inputs["logits"].softmax(-1), q)
    kept = q * torch.tensor([[0, 1, 1], [1, 0, 1], [0, 1, 0]])
    torch.testing.assert_close(example.expected, kept / kept.sum(-1, keepdim=True))
    torch.testing.assert_close(example.got, kept.sqrt() / kept.sqrt().sum(-1, keepdim=True))


# --- forms ---


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda logits: logits, "no argument 'p'"),
        (lambda logits, p, wheel: logits, "wheel"),
        (lambda logits, p: "all of them", "not numbers"),
        (lambda logits, p: logits.sum(), "it returned shape"),
        (lambda logits, p: logits.softmax(-1).multinomial(1), "sample"),
        (lambda logits, p: {"kept": "all of them"}, "not numbers"),
    ],
)
def test_a_form_that_is_not_understood_is_refused_with_the_forms_that_were_tried(function, text):
    with pytest.raises(UnknownForm, match=text):
        check_top_p(function)


def test_a_form_can_be_asked_for():
    assert check_top_p(python_list, layout="list").form.startswith("list [V]")
    with pytest.raises(UnknownForm):
        check_top_p(python_list, layout="[B, V]")


def test_a_report_is_the_same_twice_and_the_random_state_is_not_touched():
    def noisy(logits, p):
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
        return _unshifted(logits, p)

    torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    assert str(check_top_p(noisy)) == str(check_top_p(noisy))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert before[2] == random.getstate()


# --- the cases ---

CASES = CHECK.cases(frozenset(["temperature"]))


def _smallest_set(row, p):
    """The kept set by brute force: of the smallest sets that reach p, the most probable, then of lowest index."""
    indices = range(len(row))
    sets = list(chain.from_iterable(combinations(indices, n) for n in range(1, len(row) + 1)))
    reaching = [s for s in sets if math.fsum(row[i] for i in s) >= p - 1e-9]
    return set(min(reaching, key=lambda s: (len(s), -round(math.fsum(row[i] for i in s), 9), s)))


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.inputs['p']}-{c.inputs['temperature']}")
def test_the_expected_answers_are_the_smallest_sets_found_by_brute_force(case):
    p, tau = case.inputs["p"], case.inputs["temperature"]
    answers = CHECK.right[""](**case.inputs)
    for row, expected in zip(case.inputs["logits"].tolist(), answers.tolist(), strict=True):
        weights = [math.exp((x - max(row)) / tau) for x in row]
        q = [w / math.fsum(weights) for w in weights]
        kept = _smallest_set(q, p) if p < 1 else set(range(len(row)))
        mass = math.fsum(q[i] for i in kept)
        assert expected == pytest.approx([q[i] / mass if i in kept else 0.0 for i in range(len(row))])


def test_no_firm_case_lies_near_a_boundary_and_none_is_sorted():
    for case in CASES:
        q = (case.inputs["logits"] / case.inputs["temperature"]).softmax(-1).sort(-1, descending=True).values
        if not case.delicate:
            assert (q.cumsum(-1)[:, :-1] - case.inputs["p"]).abs().min() > 2e-3
        assert not all((row.diff() <= 0).all() or (row.diff() >= 0).all() for row in case.inputs["logits"]) or (
            case.delicate == EXACTLY
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_exact_cases_are_exact_whatever_softmax_is_written(dtype):
    for case in CASES:
        if case.delicate == EXACTLY:
            x = case.inputs["logits"].to(dtype)
            plain, shifted = x.exp(), (x - x.amax(-1, keepdim=True)).exp()
            for q in (x.softmax(-1), plain / plain.sum(-1, keepdim=True), shifted / shifted.sum(-1, keepdim=True)):
                sums = q.sort(-1, descending=True).values.cumsum(-1)
                assert (sums == case.inputs["p"]).any(-1).all()
