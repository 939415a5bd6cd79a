"""The check of entropies, on implementations in the style of public code."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from public_style import Implementations, assert_as_expected
from torch import Tensor
from torch.distributions import Categorical

from pgtheory.checking import Report, UnknownForm, check_entropy

TRIED = Implementations(check_entropy)
right, wrong = TRIED.right, TRIED.wrong


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum()


# --- right ---


@right()
def entropy_from_logits(logits: Tensor) -> Tensor:
    pd = F.softmax(logits, dim=-1)
    return torch.logsumexp(logits, dim=-1) - torch.sum(pd * logits, dim=-1)


@right()
def entropy_in_chunks(logits: Tensor, chunk_size: int = 2) -> Tensor:
    flat = logits.reshape(-1, logits.shape[-1])
    found = []
    for chunk in flat.split(chunk_size, dim=0):
        logps = F.log_softmax(chunk, dim=-1)
        found.append(-(torch.exp(logps) * logps).sum(-1))
    return torch.cat(found).reshape(logits.shape[:-1])


@right()
def entropy_by_categorical(logits: Tensor) -> Tensor:
    return Categorical(logits=logits).entropy()


@right()
def mean_entropy(logits: Tensor) -> Tensor:
    return Categorical(logits=logits).entropy().mean()


@right()
def token_mean(logits: Tensor, response_mask: Tensor, temperature: float = 1.0) -> Tensor:
    return masked_mean(entropy_from_logits(logits / temperature), response_mask)


@right()
def sequence_mean_token_mean(logits: Tensor, completion_mask: Tensor) -> Tensor:
    entropy = entropy_from_logits(logits)
    return ((entropy * completion_mask).sum(-1) / completion_mask.sum(-1)).mean()


@right()
def sequence_sum(logits: Tensor, mask: Tensor) -> Tensor:
    return (entropy_from_logits(logits) * mask).sum(dim=1)


@right()
def entropy_of_probabilities(probs: Tensor) -> Tensor:
    return -(probs * torch.log(probs + 1e-10)).sum(dim=-1)


@right()
def entropy_in_numpy(logits: np.ndarray) -> np.ndarray:
    z = np.asarray(logits) - np.max(logits, axis=-1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    return -np.sum(p * np.log(p + 1e-12), axis=-1)


@right()
def entropy_of_one_row(logits: Tensor) -> Tensor:
    assert logits.ndim == 1
    logp = logits.log_softmax(0)
    return -(logp.exp() * logp).sum()


@right()
def entropy_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """As in RLax: minus the entropy."""
    log_probs = logits.log_softmax(-1)
    return (log_probs.exp() * log_probs).sum(-1).mul(mask).sum() / mask.sum()


@right()
def entropy_bonus(logits: Tensor, entropy_coef: float = 0.01) -> Tensor:
    return entropy_coef * Categorical(logits=logits).entropy().mean()


@right()
def minus_the_bonus(logits: Tensor, ent_coef: float) -> Tensor:
    return -ent_coef * torch.mean(Categorical(logits=logits).entropy())


@right()
def total_loss(policy_loss: Tensor, logits: Tensor, mask: Tensor, entropy_coeff: float) -> Tensor:
    entropy = masked_mean(entropy_from_logits(logits), mask)
    return policy_loss - entropy * entropy_coeff


@right()
def loss_with_entropy_term(pg_loss: Tensor, logits: Tensor, ent_coef: float) -> Tensor:
    negative = -torch.mean(Categorical(logits=logits).entropy())
    return pg_loss + ent_coef * negative


@right()
def softmax_of_log_softmax(logits: Tensor) -> Tensor:
    """As in a report that holds it to be wrong: a softmax of log-probabilities is that of the logits."""
    log_probs = F.log_softmax(logits, dim=-1)
    return -(F.softmax(log_probs, dim=-1) * log_probs).sum(-1)


# --- wrong ---


@wrong("sign")
def forgot_the_minus(logits: Tensor) -> Tensor:
    log_probs = logits.log_softmax(-1)
    return (log_probs.exp() * log_probs).sum(-1)


@wrong("sign")
def added_to_the_objective_to_minimise(policy_loss: Tensor, logits: Tensor, entropy_coef: float) -> Tensor:
    return policy_loss + entropy_coef * Categorical(logits=logits).entropy().mean()


@wrong("mean_over_vocabulary")
def mean_over_the_vocabulary(logits: Tensor) -> Tensor:
    return -(logits.softmax(-1) * logits.log_softmax(-1)).mean(-1)


@wrong("mean_over_vocabulary")
def mean_of_everything(logits: Tensor) -> Tensor:
    return -(logits.softmax(-1) * logits.log_softmax(-1)).mean()


@wrong("of_the_token")
def entropy_of_the_action(logits: Tensor, actions: Tensor) -> Tensor:
    probs = logits.softmax(-1).gather(-1, actions[..., None]).squeeze(-1)
    return -(probs * probs.log()).mean()


@wrong("softmax_twice")
def categorical_of_a_softmax_as_logits(logits: Tensor) -> Tensor:
    return Categorical(logits=logits.softmax(-1)).entropy()


@wrong("not_normalised")
def probabilities_times_logits(logits: Tensor) -> Tensor:
    return -(logits.softmax(-1) * logits).sum(-1)


@wrong("without_probabilities")
def mean_negative_log_probability(logits: Tensor) -> Tensor:
    return -logits.log_softmax(-1).mean(-1)


@wrong("base_two")
def in_bits(logits: Tensor) -> Tensor:
    p = logits.softmax(-1)
    return -(p * torch.log2(p + 1e-12)).sum(-1)


@wrong("wrong_axis")
def softmax_over_the_sequence(logits: Tensor) -> Tensor:
    _, _, _ = logits.shape
    p = logits.softmax(1)
    return -(p * p.log()).sum(-1)


@wrong("temperature_ignored")
def untempered(logits: Tensor, temperature: float) -> Tensor:
    return entropy_from_logits(logits)


@wrong("padding_counted")
def unmasked_mean(logits: Tensor, mask: Tensor) -> Tensor:
    return entropy_from_logits(logits).mean()


@wrong("padding_counted", names={"padding_mask": "mask"})
def unmasked_sequence_sums(logits: Tensor, padding_mask: Tensor) -> Tensor:
    return entropy_from_logits(logits).sum(1).mean()


@wrong("mean_over_padding")
def divided_by_everything(logits: Tensor, response_mask: Tensor) -> Tensor:
    return (entropy_from_logits(logits) * response_mask).mean()


@wrong("mask_of_another_place")
def shifted_mask(logits: Tensor, mask: Tensor) -> Tensor:
    return masked_mean(entropy_from_logits(logits), mask.double().roll(-1, dims=-1))


@wrong("mask_inverted")
def inverted_mask(logits: Tensor, mask: Tensor) -> Tensor:
    return masked_mean(entropy_from_logits(logits), 1 - mask.double())


@wrong("")
def largest_probability(logits: Tensor) -> Tensor:
    return 1 - logits.softmax(-1).max(-1).values


@wrong("")
def gini(logits: Tensor) -> Tensor:
    return 1 - logits.softmax(-1).square().sum(-1)


@pytest.mark.parametrize(("judge", "verdict", "said"), [*TRIED])
def test_the_verdict_is_as_expected(judge: Callable[[], Report | None], verdict: str, said: str) -> None:
    assert_as_expected(judge, verdict, said)


def test_the_report_says_which_average_it_is_and_with_which_sign() -> None:
    assert "it is the entropy of each row" in check_entropy(entropy_from_logits).remarks
    assert "it is the mean over all tokens" in check_entropy(token_mean).remarks
    assert "it is the mean over sequences of their means" in check_entropy(sequence_mean_token_mean).remarks
    assert "its bonus is negative, to be added to a loss" in check_entropy(minus_the_bonus).remarks
    assert "its bonus is positive, to be subtracted from a loss" in check_entropy(entropy_bonus).remarks
    assert any("as its name says" in r for r in check_entropy(entropy_loss).remarks)


def test_nan_at_minus_infinity_is_a_remark() -> None:
    assert any("0 times infinity" in r for r in check_entropy(entropy_in_chunks).remarks)
    assert not any("infinity" in r for r in check_entropy(entropy_by_categorical).remarks)


def test_a_gradient_that_is_nan_next_to_minus_infinity_is_a_remark() -> None:
    def entropy(logits: Tensor) -> Tensor:
        log_probs = logits.log_softmax(-1)
        return -(log_probs.exp() * log_probs).nan_to_num(0.0).sum(-1)

    report = check_entropy(entropy)
    assert report.ok
    assert any("gradient is NaN" in remark for remark in report.remarks)


def test_what_is_right_for_rows_alone_and_wrong_for_a_batch_has_to_be_declared() -> None:
    def entropy(logits: Tensor, mask: Tensor) -> Tensor:
        return (Categorical(logits=logits).entropy() * mask).sum(0).mean()

    report = check_entropy(entropy)
    assert report.verdict == "abstains"
    assert "called as torch [B, T, V] it returns other numbers" in report.abstains
    assert check_entropy(entropy, layout="[B*T, V]").ok


def test_an_estimate_from_the_sampled_token_is_a_remark() -> None:
    report = check_entropy(lambda logits, actions: -Categorical(logits=logits).log_prob(actions))
    assert report.ok
    assert any("minus the log-probability of the token" in remark for remark in report.remarks)


BAD = [
    pytest.param(lambda: check_entropy(lambda b: b), UnknownForm, "none of the names", id="unknown-names"),
    pytest.param(lambda: check_entropy(lambda mask: mask), UnknownForm, "no argument 'logits'", id="no-logits"),
    pytest.param(lambda: check_entropy(lambda logits: logits), UnknownForm, "nor one number", id="whole-table"),
    pytest.param(lambda: check_entropy(3), TypeError, "takes a callable", id="no-function"),  # type: ignore[arg-type]
    pytest.param(
        lambda: check_entropy(entropy_in_chunks, names={"x": "logits"}), ValueError, "does not take", id="name"
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_a_wrong_argument_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
