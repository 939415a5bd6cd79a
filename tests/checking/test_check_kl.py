"""Tests of `check_kl`: estimates of the KL divergence as values and as losses, right and wrong."""

import functools
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pgtheory.checking import UnknownForm
from pgtheory.checking.kinds.kl import LOSS_CHECK, cases, check_kl

# Right as a value: what people write.


def k1(log_probs, ref_log_probs):
    return log_probs - ref_log_probs


def k2(logp, ref):
    return 0.5 * (logp - ref) ** 2


def k3(logprobs, ref_logprobs):
    log_ratio = ref_logprobs - logprobs
    return torch.exp(log_ratio) - log_ratio - 1


def low_variance_clamped(logprob, ref_logprob):
    kl = torch.clamp(ref_logprob - logprob, min=-20, max=20)
    kld = (kl.exp() - kl - 1).contiguous()
    return torch.clamp(kld, min=-10, max=10)


def masked_ratio(log_probs, log_probs_base, action_mask=None):
    log_ratio = log_probs.float() - log_probs_base.float()
    if action_mask is not None:
        log_ratio = log_ratio * action_mask
    log_ratio = -log_ratio
    return log_ratio.exp() - 1 - log_ratio


def masked_mean(logps, ref_logps, completion_mask):
    per_token = torch.exp(ref_logps - logps) - (ref_logps - logps) - 1
    return (per_token * completion_mask).sum() / completion_mask.sum()


def mean_of_row_means(policy_logps, ref_logps, mask):
    per_token = policy_logps - ref_logps
    return ((per_token * mask).sum(dim=1) / mask.sum(dim=1)).mean()


def sum_per_sequence(logps, reference_logps, loss_mask):
    return ((logps - reference_logps) * loss_mask).sum(-1)


def tokens_that_count(logp, ref_logp, mask):
    return (logp - ref_logp)[mask]


def numpy_k3(logp, logq):
    r = np.asarray(logq) - np.asarray(logp)
    return np.expm1(r) - r


def list_k1(policy, ref):
    return [a - b for a, b in zip(policy, ref, strict=True)]


def list_of_rows(logps, ref_logps):
    pairs = [zip(x, y, strict=True) for x, y in zip(logps, ref_logps, strict=True)]
    return [[math.exp(b - a) - 1 - (b - a) for a, b in row] for row in pairs]


def number_k3(logp, ref_logp):
    r = math.exp(ref_logp - logp)
    return (r - 1) - math.log(r)


def batch_only(*, policy_logprobs, ref_logprobs):
    assert policy_logprobs.ndim == 2
    return policy_logprobs - ref_logprobs


def changes_in_place(logp, ref):
    logp -= ref
    return logp


def with_coefficient(policy_logp, ref_logp, kl_coef):
    return kl_coef * (policy_logp - ref_logp)


def with_metrics(logp, ref_logp):
    kl = logp - ref_logp
    return kl, {"mean": kl.mean().item()}


def control_variate(logp, ref):
    r = (ref - logp).exp()
    return (logp - ref) + 0.7 * (r - 1)


def item(logp, ref):
    return (logp - ref).mean().item()


class Estimator(torch.nn.Module):
    def forward(self, log_probs, ref_log_probs):
        print("estimating")
        return (log_probs - ref_log_probs).mean()


def with_kind(logprob, ref_logprob, kind="k1"):
    return {"k1": k1, "k3": k3}[kind](logprob, ref_logprob)


def approx_kl_of_the_update(old_logp, new_logp):
    log_ratio = new_logp - old_logp
    return ((log_ratio.exp() - 1) - log_ratio).mean()


def approx_kl_first_order(logp_old, logp):
    return (logp_old - logp).mean()


def full_sum(p, q):
    return (p * (p.log() - q.log())).sum(-1)


def full_numpy(p, q):
    return np.sum(p * np.log(p / q), axis=-1)


def full_loop(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def full_terms(probs, ref_probs):
    return F.kl_div(ref_probs.log(), probs, reduction="none")


def full_batchmean(p, q):
    return F.kl_div(q.log(), p, reduction="batchmean")


def full_of_logits(logits, ref_logits):
    logp, logq = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    return (logp.exp() * (logp - logq)).sum(-1).mean()


def mask_that_leaves_out(logps, ref_logps, padding_mask):
    count = (~padding_mask).sum()
    return ((logps - ref_logps) * ~padding_mask).sum() / count


def mask_that_keeps(logps, ref_logps, padding_mask):
    return (logps - ref_logps) * padding_mask


def student_and_teacher(student_logits, teacher_logits):
    logp, logq = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    return F.kl_div(logq, logp, log_target=True, reduction="batchmean")


def weighted_by_importance(log_probs, old_log_probs, ref_log_probs):
    log_ratio = ref_log_probs - log_probs
    return (log_probs - old_log_probs).exp() * (log_ratio.exp() - log_ratio - 1)


RIGHT = [
    mask_that_leaves_out,
    mask_that_keeps,
    student_and_teacher,
    weighted_by_importance,
    lambda logp, ref_logp: {"kl": logp - ref_logp},
    k1,
    k3,
    low_variance_clamped,
    masked_ratio,
    masked_mean,
    mean_of_row_means,
    sum_per_sequence,
    tokens_that_count,
]
RIGHT += [numpy_k3, list_k1, list_of_rows, number_k3, batch_only, changes_in_place, with_coefficient, with_metrics]
RIGHT += [control_variate, item, Estimator(), with_kind, functools.partial(with_kind, kind="k3")]
RIGHT += [approx_kl_of_the_update, approx_kl_first_order, full_sum, full_numpy, full_loop, full_terms, full_batchmean]
RIGHT += [
    full_of_logits,
    torch.distributions.kl_divergence,
    torch.no_grad()(k1),
    lambda lp, ref: -(ref - lp),
]


@pytest.mark.parametrize("function", RIGHT, ids=lambda f: getattr(f, "__name__", type(f).__name__))
def test_a_right_estimate_is_right_in_its_own_form(function):
    kept = {mask_that_leaves_out: "padding", mask_that_keeps: "mask"}
    report = check_kl(function, names={"padding_mask": kept[function]} if function in kept else None)
    assert report.ok, str(report)
    assert not report.mistakes


@pytest.mark.parametrize("function", [mask_that_leaves_out, mask_that_keeps])
def test_which_polarity_a_padding_mask_has_is_asked_for(function):
    assert check_kl(function).verdict == "abstains"


def test_the_terms_of_scipy_are_right():
    special = pytest.importorskip("scipy.special")
    assert check_kl(lambda p, q: special.rel_entr(p, q).sum()).ok
    assert check_kl(lambda p, q: special.rel_entr(p, q).tolist()).ok


# Wrong as a value: known mistakes in the form of others, and unknown ones.


@pytest.mark.parametrize(
    ("function", "key"),
    [
        (lambda policy, ref: [b - a for a, b in zip(policy, ref, strict=True)], "kl.sign"),
        (lambda logp, logq: np.exp(np.asarray(logp) - np.asarray(logq)) - 1 - (logp - logq), "kl.k3_ratio_inverted"),
        (lambda logp, ref: (logp - ref).abs().mean(), "kl.absolute_value"),
        (lambda logp, ref: ((logp - ref) ** 2).mean().item(), "kl.square_without_half"),
        (lambda logp, ref, mask: ((ref - logp) * mask).sum() / mask.sum(), "kl.sign"),
        (lambda logp, ref, mask: (logp - ref).mean(), "kl.mask_ignored"),
        (lambda logp, ref, mask: ((logp - ref) * mask).mean(), "kl.mean_over_padding"),
        (lambda logp, ref: F.kl_div(logp, ref, log_target=True, reduction="none"), "kl.kl_div_arguments"),
        (lambda logp, ref: F.kl_div(ref, logp, log_target=True, reduction="sum"), "kl.weighted_twice"),
        (lambda logp, ref: math.exp(logp) - math.exp(ref), "kl.probability_difference"),
        (lambda logp, ref: torch.relu(logp - ref).sum(-1), "kl.negatives_clipped"),
        (lambda p, q: (q * (q / p).log()).sum(-1), "kl.other_direction"),
        (lambda p, q: F.kl_div(p.log(), q, reduction="sum"), "kl.other_direction"),
        (lambda p, q: F.kl_div(q.log(), p), "kl.mean_over_vocabulary"),
    ],
)
def test_known_mistakes_are_named_in_other_forms(function, key):
    report = check_kl(function)
    assert not report.ok
    assert [mistake.key for mistake in report.mistakes] == [key]


UNKNOWN = {
    "half of k1": lambda logp, ref: 0.5 * (logp - ref),
    "cube": lambda logp, ref: (logp - ref) ** 3,
    "one more": lambda logp, ref: logp - ref + 1,
    "only log": lambda logp, ref: logp,
    "clamped tightly": lambda logp, ref: (logp - ref).clamp(-0.5, 0.5),
    "mean broadcast": lambda logp, ref: (logp - ref).mean().expand_as(logp),
    "cumulated": lambda logp, ref: (logp - ref).cumsum(-1),
    "largest": lambda logp, ref: (logp - ref).max(),
    "root mean square": lambda logp, ref: (logp - ref).square().mean().sqrt(),
    "nan": lambda logp, ref: (logp - ref) * float("nan"),
    "zero": lambda logp, ref: torch.zeros_like(logp),
    "full, total variation": lambda p, q: (p - q).abs().sum(-1) / 2,
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_error_is_wrong_and_not_named(name):
    report = check_kl(UNKNOWN[name])
    assert not report.ok
    assert report.mistakes == ()
    assert report.counterexample is not None


def test_the_counterexample_shows_the_expectation():
    report = check_kl(UNKNOWN["half of k1"])
    example = report.counterexample
    # π = (1/2, 1/2), ref = (1/4, 3/4): KL = ½ ln 2 + ½ ln (2/3) = ½ ln (4/3)
    assert example.inputs["log_probs"][0].exp().tolist() == pytest.approx([0.5, 0.5])
    assert example.inputs["ref_log_probs"][0].exp().tolist() == pytest.approx([0.25, 0.75])
    assert example.expected == pytest.approx(0.5 * math.log(4 / 3))
    assert example.got == pytest.approx(0.25 * math.log(4 / 3))
    assert "expectation" in example.quantity


def test_the_details_are_the_bias_and_the_variance():
    assert check_kl(k1).details == {"largest bias": 0.0, "variance relative to k1": "1"}
    report = check_kl(lambda logp, ref: logp - ref + 1)
    assert report.details["largest bias"] == pytest.approx(1.0)
    worst = max(float(torch.distributions.kl_divergence(p, q)) for p, q in distributions())
    assert check_kl(lambda logp, ref: ref - logp).details["largest bias"] == pytest.approx(2 * worst)


def distributions():
    """The first rows of the cases, as objects of torch."""
    for x in (case.inputs for case in cases(frozenset())):
        yield tuple(torch.distributions.Categorical(x[name][0].exp()) for name in ("log_probs", "ref_log_probs"))


def test_the_cases_are_distributions_forwards_and_backwards():
    for x in (case.inputs for case in cases(frozenset())):
        for name in ("log_probs", "ref_log_probs"):
            assert x[name].exp().sum(-1).tolist() == pytest.approx([1.0, 1.0])
            assert torch.equal(x[name][0], x[name][1].flip(0))


# As a loss.


def score_with_k1(log_probs, ref_log_probs):
    return (log_probs - ref_log_probs).detach() * log_probs


def score_with_a_baseline(log_probs, ref_log_probs):
    return ((log_probs - ref_log_probs).detach() - 0.3) * log_probs


def k3_with_the_ratio_of_importance(logp, ref):
    ratio = (logp - logp.detach()).exp()
    return ratio * ((ref - logp).exp() - 1 - (ref - logp))


def straight_through(logp, ref):
    value, square = (ref - logp).exp() - 1 - (ref - logp), 0.5 * (logp - ref) ** 2
    return square + (value - square).detach()


def k2_masked_mean(logps, ref_logps, mask):
    return (0.5 * (logps - ref_logps).square() * mask).sum() / mask.sum()


def k2_rows(logps, ref_logps, mask):
    return (0.5 * (logps - ref_logps).square() * mask).sum(1) / mask.sum(1)


RIGHT_LOSSES = [
    k2,
    score_with_k1,
    score_with_a_baseline,
    k3_with_the_ratio_of_importance,
    straight_through,
    k2_masked_mean,
]
RIGHT_LOSSES += [
    weighted_by_importance,
    k2_rows,
    full_sum,
    full_terms,
    full_of_logits,
    torch.distributions.kl_divergence,
]
RIGHT_LOSSES += [lambda logp, ref: (logp - ref).float() ** 2 / 2, lambda logp, ref: [x / 2 for x in (logp - ref) ** 2]]


@pytest.mark.parametrize("function", RIGHT_LOSSES, ids=lambda f: f.__name__)
def test_a_right_loss_is_right(function):
    report = check_kl(function, as_loss=True)
    assert report.ok, str(report)
    assert report.details["length relative to the true gradient"] == "1.000"


@pytest.mark.parametrize(
    ("function", "key"),
    [
        (k1, "kl_loss.k1"),
        (lambda logp, ref: 0.1 * (logp - ref).mean(), "kl_loss.k1"),
        (k3, "kl_loss.other_direction"),
        (lambda logp, ref: torch.expm1(ref - logp) - (ref - logp), "kl_loss.other_direction"),
        (masked_ratio, "kl_loss.other_direction"),
        (torch.no_grad()(k2), "kl_loss.detached"),
        (item, "kl_loss.detached"),
        (lambda logp, ref: -score_with_k1(logp, ref), "kl_loss.sign"),
        (lambda logp, ref: (logp - ref) ** 2, "kl_loss.square_without_half"),
        (lambda logp, ref, mask: (0.5 * (logp - ref) ** 2).mean(), "kl_loss.mask_ignored"),
        (lambda logp, ref, mask: (0.5 * (logp - ref) ** 2 * mask).mean(), "kl_loss.mean_over_padding"),
        (lambda logp, ref, padding_mask: ((ref - logp) * ~padding_mask).sum() / (~padding_mask).sum(), "kl_loss.k1"),
        (lambda p, q: (q * (q / p).log()).sum(-1), "kl_loss.other_direction"),
        (lambda p, q: F.kl_div(q.log(), p), "kl_loss.mean_over_vocabulary"),
        (lambda p, q: full_sum(p.detach(), q), "kl_loss.detached"),
    ],
)
def test_wrong_losses_are_named(function, key):
    report = check_kl(function, as_loss=True)
    assert [mistake.key for mistake in report.mistakes] == [key]


@pytest.mark.parametrize(
    "function",
    [
        lambda logp, ref: 3 * (logp - ref) ** 2,
        lambda logp, ref: (logp - ref) * logp,
        lambda logp, ref: k3(logp, ref).detach() * logp,
        lambda p, q: (p - q).square().sum(-1),
    ],
)
def test_unknown_errors_of_a_loss_are_not_named(function):
    report = check_kl(function, as_loss=True)
    assert not report.ok
    assert report.mistakes == ()


def test_the_counterexample_of_a_loss_is_the_gradient():
    example = check_kl(k3, as_loss=True).counterexample
    # at π = (1/2, 1/2), ref = (1/4, 3/4): ∂KL/∂h(1) = ½ (ln 2 - ½ ln (4/3)), and π - ref = (1/4, -1/4)
    slope = 0.5 * (math.log(2) - 0.5 * math.log(4 / 3))
    assert example.expected.tolist()[0] == pytest.approx([slope, -slope])
    assert example.got.tolist()[0] == pytest.approx([0.25, -0.25])


def test_the_true_gradient_is_that_of_autograd():
    right = LOSS_CHECK.right[""]
    bench = LOSS_CHECK.bench(frozenset(["log_probs", "ref_log_probs"]))
    for i, case in enumerate(bench.cases):
        h = case.inputs["log_probs"].clone().requires_grad_()
        p, q = (torch.distributions.Categorical(logits=x) for x in (h, case.inputs["ref_log_probs"]))
        torch.distributions.kl_divergence(p, q).sum().backward()
        torch.testing.assert_close(bench.answer(right, i), h.grad)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (k1, "expected gradient is zero"),
        (k2, "that of KL(π‖ref): right"),
        (k3, "the other direction"),
        (lambda logp, ref: (logp - ref).detach(), "no gradient"),
        (control_variate, "up to"),
        (full_sum, "that of KL(π‖ref): right"),
    ],
)
def test_a_remark_says_what_a_value_is_as_a_loss(function, text):
    assert any(text in remark for remark in check_kl(function).remarks)


# Forms.


def test_a_function_of_whole_log_probabilities_is_told_how_to_say_so():
    def full(log_p, log_q):
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    report = check_kl(full)
    assert not report.ok
    assert any("whole_log_probs" in remark for remark in report.remarks)
    names = {"log_p": "whole_log_probs", "log_q": "whole_ref_log_probs"}
    assert check_kl(full, names=names).ok
    assert check_kl(full, names=names, as_loss=True).ok


def test_the_values_of_sampled_tokens_may_be_of_probabilities():
    def k3_of_probabilities(probs, ref_probs):
        r = ref_probs / probs
        return r - torch.log(r) - 1

    report = check_kl(k3_of_probabilities)
    assert report.ok
    assert report.judged == "the values of sampled tokens"


def test_no_estimate_of_sampled_tokens_passes_as_one_of_distributions():
    for name in ("half of k1", "only log", "mean broadcast", "largest"):
        assert not check_kl(lambda p, q, f=UNKNOWN[name]: f(p, q)).ok
    assert not check_kl(lambda p, q: (p - q) * 0.5).ok


def test_the_samples_of_an_old_policy_are_noted():
    report = check_kl(approx_kl_of_the_update)
    assert any("samples of the old policy" in remark for remark in report.remarks)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b, c: a - b,
        lambda logp, ref: "seven",
        lambda logp, ref: None,
        lambda logp: logp,
        lambda logp, ref: {"kl": "seven"},
        lambda logp, ref: torch.zeros(5, 7),
    ],
)
def test_other_forms_are_refused_and_said(function):
    with pytest.raises(UnknownForm, match=r"check_kl does not understand|has none of the names|is called with"):
        check_kl(function)


def test_forms_may_be_chosen():
    assert check_kl(k1, layout="[T]").form == "torch [T]"
    assert check_kl(numpy_k3, layout="numpy").form == "numpy [B, T]"


def test_the_report_is_the_same_twice_and_no_generator_is_touched():
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert str(check_kl(k3)) == str(check_kl(k3))
    assert str(check_kl(k3, as_loss=True)) == str(check_kl(k3, as_loss=True))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]  # noqa: NPY002
