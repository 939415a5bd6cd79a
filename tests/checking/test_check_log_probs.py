"""The check of log-probabilities of tokens, on implementations in the style of public code."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from public_style import Implementations, assert_as_expected
from torch import Tensor

from pgtheory.checking import Report, UnknownForm, check_log_probs

TRIED = Implementations(check_log_probs)
right, wrong = TRIED.right, TRIED.wrong


# --- right ---


@right()
def selective_log_softmax(logits: Tensor, index: Tensor) -> Tensor:
    selected = torch.gather(logits, dim=-1, index=index.unsqueeze(-1)).squeeze(-1)
    return selected - torch.stack([torch.logsumexp(row, dim=-1) for row in logits])


@right()
def selective_log_softmax_of_rows(logits: Tensor, index: Tensor) -> Tensor:
    found = []
    for row_logits, row_labels in zip(logits, index, strict=True):
        row = F.log_softmax(row_logits.float(), dim=-1)
        found.append(row.gather(dim=-1, index=row_labels.unsqueeze(-1)).squeeze(-1))
    return torch.stack(found)


@right()
def logprobs_from_logits(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    if temperature != 1.0:
        logits = logits / temperature
    return torch.gather(F.log_softmax(logits, dim=-1), -1, labels.unsqueeze(-1)).squeeze(-1)


@right()
def log_probs_by_cross_entropy(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    flat = (logits / temperature).reshape(-1, logits.shape[-1]).float()
    return -F.cross_entropy(flat, tokens.reshape(-1), reduction="none").view(tokens.shape)


@right()
def log_probs_by_categorical(logits: Tensor, actions: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=logits).log_prob(actions)


@right()
def per_token_logps_of_a_model(logits: Tensor, input_ids: Tensor, temperature: float) -> Tensor:
    logits, input_ids = logits[:, :-1, :], input_ids[:, 1:]
    logits = logits / temperature
    found = []
    for logits_row, input_ids_row in zip(logits, input_ids, strict=True):
        log_probs = logits_row.log_softmax(dim=-1)
        found.append(torch.gather(log_probs, dim=1, index=input_ids_row.unsqueeze(1)).squeeze(1))
    return torch.stack(found)


@right()
def get_batch_logps(logits: Tensor, labels: Tensor, loss_mask: Tensor, average_log_prob: bool = False) -> Tensor:
    labels, logits, loss_mask = labels[:, 1:].clone(), logits[:, :-1, :], loss_mask[:, 1:].bool()
    labels[~loss_mask] = 0
    per_token = torch.gather(logits.log_softmax(-1), dim=2, index=labels.unsqueeze(2)).squeeze(2)
    if average_log_prob:
        return (per_token * loss_mask).sum(-1) / loss_mask.sum(-1)
    return (per_token * loss_mask).sum(-1)


@right()
def sequence_log_prob(logits: Tensor, tokens: Tensor, response_mask: Tensor, temperature: float) -> Tensor:
    log_probs = (logits / temperature).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return (log_probs * response_mask).sum(dim=1)


@right()
def mean_log_prob(logits: Tensor, completion_ids: Tensor, completion_mask: Tensor) -> Tensor:
    log_probs = logits.log_softmax(-1).gather(-1, completion_ids[..., None])[..., 0]
    return (log_probs * completion_mask).sum(1) / completion_mask.sum(1).clamp(min=1)


@right()
def log_probs_in_numpy(logits: np.ndarray, tokens: np.ndarray, temperature: float) -> np.ndarray:
    z = np.asarray(logits) / temperature
    z = z - z.max(axis=-1, keepdims=True)
    z = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return np.take_along_axis(z, np.asarray(tokens)[..., None], axis=-1)[..., 0]


@right()
def log_probs_of_one_sequence(logits: Tensor, tokens: Tensor) -> Tensor:
    steps, _ = logits.shape
    return logits.log_softmax(-1)[torch.arange(steps), tokens]


@right()
def log_probs_with_top_k_replay(logits: Tensor, tokens: Tensor, temperature: float, top_k: int) -> Tensor:
    logits = logits / temperature
    threshold = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
    logits = logits.masked_fill(logits < threshold, float("-inf"))
    return logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


@right()
def log_probs_with_sampling_mask(logits: Tensor, tokens: Tensor, sampling_mask: Tensor, temperature: float) -> Tensor:
    scaled = (logits / temperature).masked_fill(~sampling_mask.bool(), -torch.inf)
    chosen = scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return chosen - scaled.logsumexp(-1)


@right()
def log_probs_with_top_p_replay(logits: Tensor, tokens: Tensor, temperature: float, top_p: float) -> Tensor:
    scaled = logits / temperature
    ordered, order = scaled.sort(-1, descending=True)
    probabilities = ordered.softmax(-1)
    drop = (probabilities.cumsum(-1) - probabilities) >= top_p
    scaled = scaled.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    return scaled.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)


@right()
def of_several_responses(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    prompts, responses, steps, _ = logits.shape
    chosen = (logits / temperature).log_softmax(-1).gather(-1, tokens.unsqueeze(-1))
    return chosen.view(prompts, responses, steps)


@right()
def masked_after_the_first_eos(logits: Tensor, tokens: Tensor, temperature: float, eos_token_id: int) -> Tensor:
    log_probs = (logits / temperature).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    is_eos = (tokens == eos_token_id).int()
    return log_probs * ((is_eos.cumsum(-1) - is_eos) == 0)


@right()
def in_a_dictionary(logits: Tensor, tokens: Tensor, temperature: float) -> dict[str, Tensor]:
    log_probs = (logits / temperature).log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs.nan_to_num(neginf=0.0)).sum(-1)
    return {"log_probs": log_probs.gather(-1, tokens[..., None])[..., 0], "entropy": entropy}


@right()
def in_chunks(logits: Tensor, tokens: Tensor, temperature: float, chunk_size: int = 2) -> Tensor:
    parts = []
    for start in range(0, logits.shape[1], chunk_size):
        z = logits[:, start : start + chunk_size].float() / temperature
        parts.append(-F.cross_entropy(z.transpose(1, 2), tokens[:, start : start + chunk_size], reduction="none"))
    return torch.cat(parts, 1)


# --- wrong ---


@wrong("temperature_ignored")
def untempered(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    return F.log_softmax(logits, dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


@wrong("temperature_twice")
def tempered_twice(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    scaled = logits / temperature
    return -F.cross_entropy((scaled / temperature).flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)


@wrong("multiplied_by_temperature")
def times_temperature(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    return (logits * temperature).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


@wrong("temperature_after_softmax")
def tempered_log_probs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    return logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1) / temperature


@wrong("off_by_one")
def logits_rolled(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    shifted = torch.cat([torch.zeros_like(logits[:, :1]), logits[:, :-1]], dim=1) / temperature
    return shifted.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


@wrong("off_by_one")
def shifted_and_padded(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    found = (logits[:, :-1] / temperature).log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    return F.pad(found, (1, 0), value=0.0)


@wrong("off_by_one")
def shifted_the_wrong_way(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    return (logits[:, 1:] / temperature).log_softmax(-1).gather(-1, tokens[:, :-1, None]).squeeze(-1)


@wrong("a_token_left_out")
def last_cut(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    return (logits[:, :-1] / temperature).log_softmax(-1).gather(-1, tokens[:, :-1, None]).squeeze(-1)


@wrong("truncation_ignored")
def full_softmax_for_top_k(logits: Tensor, tokens: Tensor, temperature: float, top_k: int) -> Tensor:
    return (logits / temperature).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


@wrong("truncation_ignored")
def masked_after_the_softmax(logits: Tensor, tokens: Tensor, temperature: float, kept_mask: Tensor) -> Tensor:
    log_probs = (logits / temperature).log_softmax(-1).masked_fill(~kept_mask, -torch.inf)
    return log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


@wrong("eos_taken_for_padding")
def masked_by_the_token(logits: Tensor, tokens: Tensor, temperature: float, pad_token_id: int) -> Tensor:
    log_probs = (logits / temperature).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return log_probs.masked_fill(tokens == pad_token_id, 0.0)


@wrong("padding_counted")
def unmasked_sum(logits: Tensor, tokens: Tensor, temperature: float, mask: Tensor) -> Tensor:
    return (logits / temperature).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1).sum(1)


@wrong("not_normalised")
def gathered_before_the_softmax(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    return (logits / temperature).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


@wrong("probabilities")
def probabilities(logits: Tensor, actions: Tensor) -> Tensor:
    return torch.softmax(logits, -1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)


@wrong("negative")
def negative_log_likelihood(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    return F.cross_entropy((logits / temperature).transpose(1, 2), tokens, reduction="none")


@wrong("log_of_softmax")
def log_of_the_softmax(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    probs = torch.softmax(logits / temperature, dim=-1)
    return torch.log(probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) + 1e-8)


@wrong("log_of_softmax")
def categorical_of_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    return torch.distributions.Categorical(probs=logits.softmax(-1)).log_prob(tokens)


@wrong("wrong_axis")
def normalised_over_the_sequence(logits: Tensor, tokens: Tensor) -> Tensor:
    batch, steps, _ = logits.shape
    return F.log_softmax(logits, dim=1).gather(-1, tokens.view(batch, steps, 1)).squeeze(-1)


@wrong("")
def argmax_instead_of_the_token(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    return (logits / temperature).log_softmax(-1).max(-1).values


@wrong("")
def mean_over_padded_length(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    log_probs = logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return (log_probs * mask).mean(-1)


@pytest.mark.parametrize(("judge", "verdict", "said"), [*TRIED])
def test_the_verdict_is_as_expected(judge: Callable[[], Report | None], verdict: str, said: str) -> None:
    assert_as_expected(judge, verdict, said)


def test_what_shifts_by_itself_gets_no_verdict_unless_the_names_say_so() -> None:
    def shifted(logits: Tensor, tokens: Tensor) -> Tensor:
        return logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]

    report = check_log_probs(shifted)
    assert report.verdict == "abstains"
    assert "names={'tokens': 'input_ids'}" in report.abstains
    assert check_log_probs(shifted, names={"tokens": "input_ids"}).ok


def test_the_second_axis_is_right_for_two_axes_only_and_has_to_be_declared() -> None:
    def log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
        return F.log_softmax(logits, dim=1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)

    assert check_log_probs(log_probs).verdict == "abstains"
    assert check_log_probs(log_probs, layout="[B*T, V]").ok


def test_the_report_says_how_much_probability_is_kept() -> None:
    report = check_log_probs(full_softmax_for_top_k)
    assert "probability that is kept" in report.details


def test_half_precision_is_a_remark_with_its_size() -> None:
    assert any("bfloat16" in remark for remark in check_log_probs(log_probs_by_categorical).remarks)
    assert not any("bfloat16" in remark for remark in check_log_probs(selective_log_softmax_of_rows).remarks)


def test_a_sum_or_a_mean_is_said() -> None:
    assert any("the sum over the tokens" in remark for remark in check_log_probs(sequence_log_prob).remarks)
    assert any("the mean over the tokens" in remark for remark in check_log_probs(mean_log_prob).remarks)

    def mean_of_all(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        return (logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0] * mask).sum() / mask.sum()

    assert any("the mean over all tokens" in remark for remark in check_log_probs(mean_of_all).remarks)


BAD = [
    pytest.param(lambda: check_log_probs(lambda a, b: a), UnknownForm, "none of the names", id="unknown-names"),
    pytest.param(lambda: check_log_probs(lambda logits: logits), UnknownForm, "no argument 'tokens'", id="no-tokens"),
    pytest.param(
        lambda: check_log_probs(lambda logits, tokens: logits.log_softmax(-1)), UnknownForm, "shape", id="whole-table"
    ),
    pytest.param(lambda: check_log_probs(3), TypeError, "takes a callable", id="no-function"),  # type: ignore[arg-type]
    pytest.param(
        lambda: check_log_probs(selective_log_softmax, names={"index": "token"}),
        ValueError,
        "expected one of",
        id="role",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_a_wrong_argument_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
