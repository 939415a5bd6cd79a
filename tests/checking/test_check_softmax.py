"""`check_softmax`: right softmaxes pass in all their forms, known mistakes are named, others are shown."""

import math

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F

from pgtheory.checking import UnknownForm, check_softmax
from pgtheory.checking.kinds.softmax import CHECK, NO_GRADIENT

INF = float("inf")


# --- right ---


def shifted(preferences):
    weights = torch.exp(preferences - preferences.max(dim=-1, keepdim=True).values)
    return weights / weights.sum(dim=-1, keepdim=True)


def scipy_rows(x):
    return scipy.special.softmax(x, axis=-1)


def numpy_mask(logits, action_mask):
    h = np.where(action_mask, logits, -np.inf)
    weights = np.exp(h - h.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def python_row(prefs, legal):
    top = max(h for h, ok in zip(prefs, legal, strict=True) if ok)
    weights = [math.exp(h - top) if ok else 0.0 for h, ok in zip(prefs, legal, strict=True)]
    return [w / sum(weights) for w in weights]


def python_plain(prefs):
    top = max(prefs)
    return [math.exp(h - top) / math.fsum(math.exp(g - top) for g in prefs) for h in prefs]


def finite_fill(h, mask):
    return torch.softmax(torch.where(mask, h, torch.tensor(-1e9, dtype=h.dtype)), dim=-1)


def after_and_renormalised(logits, mask):
    p = logits.softmax(-1) * mask
    return p / (p.sum(-1, keepdim=True) + 1e-13)


def logarithms(h, available):
    return h.masked_fill(~available, -INF).log_softmax(-1)


def additive(scores, valid_actions):
    return F.softmax(scores + (1.0 - valid_actions.to(scores.dtype)) * -1e10, dim=-1)


def of_invalid(logits, invalid):
    return logits.masked_fill(invalid, -INF).softmax(-1)


def tempered(q_values, tau=1.0):
    z = q_values / tau
    return (z - z.logsumexp(-1, keepdim=True)).exp()


def changed_in_place(logits, mask):
    logits[~mask] = -INF
    return torch.softmax(logits, -1)


class Policy(torch.nn.Module):
    def forward(self, x):
        return shifted(x)


def categorical(logits, mask):
    return torch.distributions.Categorical(logits=logits.masked_fill(~mask, -1e8)).probs


RIGHT = {
    "torch": lambda x: torch.softmax(x, -1),
    "functional": lambda logits: F.softmax(logits, dim=1),
    "builtin": torch.nn.functional.softmax,
    "layer": torch.nn.Softmax(dim=-1),
    "module": Policy(),
    "shifted": shifted,
    "scipy": scipy_rows,
    "numpy mask": numpy_mask,
    "python mask": python_row,
    "python": python_plain,
    "finite fill": finite_fill,
    "after": after_and_renormalised,
    "logarithms": logarithms,
    "additive": additive,
    "invalid": of_invalid,
    "tempered": tempered,
    "in place": changed_in_place,
    "categorical": categorical,
    "tuple": lambda h: (h.softmax(-1), h.log_softmax(-1)),
    "no gradient": torch.no_grad()(lambda h: h.softmax(-1)),
    "float32": lambda h: h.float().softmax(-1),
    "list of rows": lambda h: [row.softmax(-1) for row in h],
    "axis": lambda x, axis: torch.softmax(x, dim=axis),
    "distribution": lambda logits: torch.distributions.Categorical(logits=logits),
    "named outputs": lambda logits: {"probs": logits.softmax(-1), "log_probs": logits.log_softmax(-1)},
    "by action": lambda prefs: dict(enumerate(python_plain(prefs))),
    "state not used": lambda logits, state=None: (logits.softmax(-1), state),
    "mean subtracted as well": lambda h: shifted(h - h.mean(-1, keepdim=True)),
}


@pytest.mark.parametrize("function", RIGHT.values(), ids=RIGHT)
def test_a_right_softmax_passes_in_its_own_form(function):
    report = check_softmax(function)
    assert report.ok, report


def test_the_jacobian_is_looked_at_where_there_is_a_graph():
    assert check_softmax(of_invalid).details == {"Jacobian": "right"}
    assert check_softmax(logarithms).details == {"Jacobian": "right"}
    assert check_softmax(RIGHT["no gradient"]).remarks == (NO_GRADIENT,)


def test_a_softmax_without_an_axis_is_one_of_a_single_row_unless_it_is_said_to_be_one_of_batches():
    def softmax(x):
        weights = np.exp(x - np.max(x))
        return weights / weights.sum()

    report = check_softmax(softmax)
    assert report.ok
    assert any("it is right for one row [A]; given a batch, it returns wrong numbers" in r for r in report.remarks)
    assert check_softmax(softmax, layout="[B, A]").mistakes[0].key == "softmax.whole_batch"
    assert check_softmax(lambda x: np.exp(x) / np.exp(x).sum()).mistakes[0].key == "softmax.no_maximum_subtracted"


def test_a_softmax_of_rows_divided_by_the_sum_of_all_is_right_for_a_declared_row_alone():
    def softmax(x):
        weights = torch.exp(x - x.amax(-1, keepdim=True))
        return weights / weights.sum()

    assert check_softmax(softmax).mistakes[0].key == "softmax.whole_batch"
    assert check_softmax(softmax, layout="[A]").ok


def test_a_mask_of_an_unknown_name_is_asked_for():
    def function(a, b):
        return a.masked_fill(~b, -INF).softmax(-1)

    with pytest.raises(UnknownForm, match="say what it is by names="):
        check_softmax(function)
    assert check_softmax(function, names={"a": "preferences", "b": "mask"}).details == {"Jacobian": "right"}
    assert check_softmax(call=lambda x: function(x.preferences, x.mask)).details == {"Jacobian": "right"}
    assert check_softmax(call=lambda x: function(x.preferences, ~x.mask)).mistakes[0].key == "softmax.mask_inverted"


# --- known mistakes ---


def _nan_gradient(logits, mask):
    p = logits.masked_fill(~mask, -INF).softmax(-1)
    return torch.where(mask, p.log(), -INF).exp()


@pytest.mark.parametrize(
    ("function", "key"),
    [
        (lambda prefs: [math.exp(h) / sum(math.exp(g) for g in prefs) for h in prefs], "no_maximum_subtracted"),
        (lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True), "no_maximum_subtracted"),
        (lambda x: (e := (x - x.amin(-1, keepdim=True)).exp()) / e.sum(-1, keepdim=True), "no_maximum_subtracted"),
        (lambda x: (e := (x - x.mean(-1, keepdim=True)).exp()) / e.sum(-1, keepdim=True), "no_maximum_subtracted"),
        (lambda logits, mask: (logits + (mask.double() - 1) * 100).softmax(-1), "mask_value_not_low_enough"),
        (lambda x: torch.softmax(x, dim=0), "wrong_axis"),
        (lambda x: (x - x.max()).exp() / (x - x.max()).exp().sum(-1, keepdim=True), "maximum_of_the_batch"),
        (lambda h, mask: torch.softmax(h * mask, -1), "masked_set_to_zero"),
        (lambda h, mask: torch.softmax(h, -1) * mask, "mask_after_without_renormalising"),
        (lambda h, mask: h.masked_fill(mask, -INF).softmax(-1), "mask_inverted"),
        (lambda h, mask: h.softmax(-1), "mask_ignored"),
        (lambda h, mask: h.masked_fill(~mask, -50.0).softmax(-1), "mask_value_not_low_enough"),
        (lambda h: h.softmax(-1).softmax(-1), "applied_twice"),
        (lambda h: h / h.sum(-1, keepdim=True), "not_exponentiated"),
        (lambda h: F.one_hot(h.argmax(-1), h.shape[-1]).double(), "hard"),
        (torch.sigmoid, "sigmoid"),
        (lambda h, temperature: (h * temperature).softmax(-1), "multiplied_by_temperature"),
        (lambda h, tau: (h / tau).log_softmax(-1).div(tau).softmax(-1), "temperature_twice"),
        (_nan_gradient, "nan_gradient_next_to_masked"),
    ],
)
def test_a_mistake_written_in_another_way_is_named(function, key):
    report = check_softmax(function)
    assert [mistake.key for mistake in report.mistakes] == [f"softmax.{key}"], report


# --- unknown mistakes ---


UNKNOWN = {
    "uniform": lambda h: torch.full_like(h, 1 / h.shape[-1]),
    "base 10": lambda h: (h * math.log(10)).softmax(-1),
    "mixed with uniform": lambda h: 0.9 * h.softmax(-1) + 0.1 / h.shape[-1],
    "rolled": lambda h: h.softmax(-1).roll(1, -1),
    "masked actions with a little probability": lambda h, mask: finite_fill(h, mask).clamp(min=1e-8),
    "clipped preferences": lambda h: h.clamp(-2, 2).softmax(-1),
    "no gradient through the sum": lambda h: (h - h.detach().logsumexp(-1, keepdim=True)).exp(),
}


@pytest.mark.parametrize("function", UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_mistake_is_wrong_and_not_guessed(function):
    report = check_softmax(function)
    assert not report.ok
    assert report.mistakes == ()
    assert report.counterexample is not None


def test_the_counterexample_is_the_row_that_the_function_saw():
    example = check_softmax(UNKNOWN["uniform"], layout="torch [A]").counterexample
    assert example.inputs["preferences"].tolist() == [1.0, 0.0, 2.0]
    weights = [math.e, 1.0, math.e**2]
    assert example.expected.tolist() == pytest.approx([w / sum(weights) for w in weights])
    assert example.got.tolist() == pytest.approx([1 / 3] * 3)


def test_the_counterexample_of_a_wrong_gradient_is_a_jacobian():
    example = check_softmax(UNKNOWN["no gradient through the sum"]).counterexample
    assert "Jacobian" in example.quantity
    p = torch.tensor([0.5, -1.0, 0.25], dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(example.expected, torch.diag(p) - torch.outer(p, p))
    torch.testing.assert_close(example.got, torch.diag(p))


# --- forms ---


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda: torch.zeros(3), "no argument 'preferences'"),
        (lambda h, mask, wheel: h.softmax(-1), "wheel"),
        (lambda h: "likely", "not numbers"),
        (lambda theta, s: theta[s].softmax(-1), "say what it is by names="),
        (lambda h: h.softmax(-1).sum(), "it returned shape"),
        (lambda h: h.argmax(-1), "it returned shape"),
    ],
)
def test_a_form_that_is_not_understood_is_refused_with_the_forms_that_were_tried(function, text):
    with pytest.raises(UnknownForm, match=text):
        check_softmax(function)


def test_a_report_is_the_same_twice_and_the_random_state_is_not_touched():
    def noisy(h):
        torch.rand(3), np.random.rand(3)  # noqa: NPY002
        return h.softmax(0)

    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert str(check_softmax(noisy)) == str(check_softmax(noisy))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


# --- the cases ---


@pytest.mark.parametrize("case", CHECK.cases(frozenset(["mask", "temperature"])))
def test_the_expected_answers_are_those_of_scipy(case):
    inputs = case.inputs
    answers = CHECK.right[""](**inputs)
    for row, available, expected in zip(inputs["preferences"], inputs["mask"], answers, strict=True):
        answer = np.zeros(len(row))
        answer[available.numpy()] = scipy.special.softmax((row[available] / inputs["temperature"]).numpy())
        assert expected.tolist() == pytest.approx(answer)
