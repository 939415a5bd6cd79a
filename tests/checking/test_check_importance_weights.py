"""The check of importance weights, on implementations in the style of public code."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from public_style import Implementations, assert_as_expected
from torch import Tensor

from pgtheory.checking import Report, UnknownForm, check_importance_weights

TRIED = Implementations(check_importance_weights)
right, wrong = TRIED.right, TRIED.wrong


# --- right ---


@right(remark="the ratio of each token, truncated")
def token_truncated(log_probs: Tensor, sampler_log_probs: Tensor, cap: float) -> Tensor:
    return (log_probs - sampler_log_probs).exp().clamp(max=cap).detach()


@right(remark="the ratio of each token, masked")
def token_masked(logprobs: Tensor, rollout_logprobs: Tensor, threshold: float) -> Tensor:
    ratio = torch.exp(logprobs.detach() - rollout_logprobs)
    return ratio * (ratio <= threshold)


@right(remark="the ratio of each token, truncated")
def importance_sampling_ratio(old_per_token_logps: Tensor, sampling_per_token_logps: Tensor, cap: float) -> Tensor:
    ratio = torch.exp(old_per_token_logps - sampling_per_token_logps)
    return torch.clamp(ratio, max=cap)


@right(remark="the ratio of the sequence, a product, truncated")
def sequence_truncate(old_logps: Tensor, sampling_logps: Tensor, completion_mask: Tensor, cap: float) -> Tensor:
    difference = (old_logps - sampling_logps) * completion_mask
    return torch.exp(difference.sum(dim=-1, keepdim=True)).clamp(max=cap)


@right(remark="the ratio of the sequence, a product, masked")
def sequence_mask(old_logps: Tensor, sampling_logps: Tensor, mask: Tensor, cap: float) -> Tensor:
    ratio = torch.exp(((old_logps - sampling_logps) * mask).sum(-1, keepdim=True))
    return ratio.masked_fill(ratio > cap, 0.0)


@right(remark="the ratio of the sequence, a product, truncated")
def rollout_correction_weights(log_ratio: Tensor, response_mask: Tensor, rollout_is_threshold: float) -> Tensor:
    total = (log_ratio * response_mask).sum(-1, keepdim=True).clamp(-20.0, 20.0)
    weights = torch.exp(total).expand_as(log_ratio) * response_mask
    return weights.clamp(max=rollout_is_threshold).detach()


@right(remark="the geometric mean over the sequence, truncated")
def geometric(log_probs: Tensor, old_log_probs: Tensor, mask: Tensor, cap: float) -> Tensor:
    with torch.no_grad():
        mean = ((log_probs - old_log_probs) * mask).sum(-1) / mask.sum(-1).clamp(min=1)
        return torch.minimum(mean.exp(), torch.full_like(mean, cap)).unsqueeze(-1)


@right(remark="the ratio of each token, truncated")
def both_bounds(old_log_probs: Tensor, rollout_log_probs: Tensor, tis_clip_low: float, tis_clip: float) -> Any:
    tis = torch.exp(old_log_probs - rollout_log_probs)
    weights = torch.clamp(tis, min=tis_clip_low, max=tis_clip)
    return weights, {"tis_clipfrac": (weights != tis).float().mean()}


@right(remark="the ratio of each token, masked")
def icepop(old_log_probs: Tensor, rollout_log_probs: Tensor, clip_low: float, clip_high: float) -> Tensor:
    ratio = torch.exp(old_log_probs - rollout_log_probs)
    return torch.where((ratio >= clip_low) & (ratio <= clip_high), ratio, torch.zeros_like(ratio))


@right(remark="of sequences kept by their geometric mean")
def sequences_kept(prev_logprobs: Tensor, generation_logprobs: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    difference = prev_logprobs - generation_logprobs
    mean = ((difference * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)).exp()
    return difference.exp() * ((mean >= low) & (mean <= high)) * mask


@right(remark="the ratio of each token, truncated")
def in_numpy(log_probs: np.ndarray, behavior_log_probs: np.ndarray, rho_bar: float) -> np.ndarray:
    return np.minimum(np.exp(np.asarray(log_probs) - np.asarray(behavior_log_probs)), rho_bar)


@right(remark="not bounded")
def not_bounded(log_probs: Tensor, sampler_log_probs: Tensor) -> Tensor:
    return torch.exp(log_probs.detach() - sampler_log_probs)


@right(remark="the ratio of each token, truncated")
def with_a_default_cap(
    policy_logprobs: Tensor, inference_logprobs: Tensor, clip_max: float = 10.0
) -> dict[str, Tensor]:
    weights = torch.exp(policy_logprobs - inference_logprobs).clamp(max=clip_max).detach()
    return {"is_weights": weights, "clipped": weights >= clip_max}


# --- wrong ---


@wrong("not_detached")
def with_gradient(log_probs: Tensor, sampler_log_probs: Tensor, cap: float) -> Tensor:
    return torch.clamp(torch.exp(log_probs - sampler_log_probs), max=cap)


@wrong("not_detached")
def sequence_with_gradient(log_probs: Tensor, rollout_log_probs: Tensor, mask: Tensor, cap: float) -> Tensor:
    return torch.exp(((log_probs - rollout_log_probs) * mask).sum(-1)).clamp(max=cap)


@wrong("inverted")
def sampler_over_policy(log_probs: Tensor, sampler_log_probs: Tensor, cap: float) -> Tensor:
    return (sampler_log_probs - log_probs).exp().clamp(max=cap).detach()


@wrong("inverted")
def sequence_inverted(old_logps: Tensor, vllm_logps: Tensor, mask: Tensor, cap: float) -> Tensor:
    return torch.exp(((vllm_logps - old_logps) * mask).sum(-1, keepdim=True)).clamp(max=cap)


@wrong("bound_ignored")
def cap_not_used(log_probs: Tensor, sampler_log_probs: Tensor, cap: float) -> Tensor:
    return (log_probs - sampler_log_probs).exp().detach()


@wrong("bounded_below")
def max_for_min(log_probs: Tensor, sampler_log_probs: Tensor, cap: float) -> Tensor:
    ratio = (log_probs - sampler_log_probs).exp().detach()
    return torch.maximum(ratio, torch.tensor(cap, dtype=ratio.dtype))


@wrong("mask_inverted")
def kept_the_outliers(log_probs: Tensor, sampler_log_probs: Tensor, cap: float) -> Tensor:
    ratio = (log_probs - sampler_log_probs).exp().detach()
    return torch.where(ratio > cap, ratio, torch.zeros_like(ratio))


@wrong("cap_on_log_ratio")
def capped_before_exp(log_probs: Tensor, sampler_log_probs: Tensor, cap: float) -> Tensor:
    return (log_probs - sampler_log_probs).clamp(max=cap).exp().detach()


@wrong("bounds_around_one")
def like_ppo(log_probs: Tensor, sampler_log_probs: Tensor, cap: float) -> Tensor:
    return (log_probs - sampler_log_probs).exp().clamp(1 - cap, 1 + cap).detach()


@wrong("without_exp")
def difference(log_probs: Tensor, sampler_log_probs: Tensor, cap: float) -> Tensor:
    return (log_probs - sampler_log_probs).clamp(max=cap).detach()


@wrong("quotient_of_log_probs")
def quotient(log_probs: Tensor, sampler_log_probs: Tensor, cap: float) -> Tensor:
    return (log_probs / sampler_log_probs).clamp(max=cap).detach()


@wrong("padding_counted")
def padding_in_the_product(old_logps: Tensor, sampling_logps: Tensor, mask: Tensor, cap: float) -> Tensor:
    ratio = torch.exp((old_logps - sampling_logps).sum(-1, keepdim=True)).clamp(max=cap)
    return ratio * mask


@wrong("mean_over_padding")
def mean_over_the_length(old_logps: Tensor, sampling_logps: Tensor, mask: Tensor, cap: float) -> Tensor:
    return torch.exp(((old_logps - sampling_logps) * mask).mean(-1, keepdim=True)).clamp(max=cap)


@wrong("of_the_batch")
def one_for_all(old_logps: Tensor, sampling_logps: Tensor, mask: Tensor, cap: float) -> Tensor:
    return torch.exp(((old_logps - sampling_logps) * mask).sum()).clamp(max=cap).expand(mask.shape)


@wrong("mean_of_ratios")
def arithmetic_mean(old_logps: Tensor, sampling_logps: Tensor, mask: Tensor, cap: float) -> Tensor:
    ratio = torch.exp(old_logps - sampling_logps)
    return ((ratio * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)).clamp(max=cap)


@wrong("")
def square_root(log_probs: Tensor, sampler_log_probs: Tensor, cap: float) -> Tensor:
    return (0.5 * (log_probs - sampler_log_probs)).exp().clamp(max=cap).detach()


@pytest.mark.parametrize(("judge", "verdict", "said"), [*TRIED])
def test_the_verdict_is_as_expected(judge: Callable[[], Report | None], verdict: str, said: str) -> None:
    assert_as_expected(judge, verdict, said)


def test_a_bound_that_was_never_stated_is_asked_for_by_its_number() -> None:
    def weights(log_probs: Tensor, sampler_log_probs: Tensor) -> Tensor:
        return (log_probs - sampler_log_probs).exp().clamp(max=3.0).detach()

    report = check_importance_weights(weights)
    assert report.verdict == "abstains"
    assert "give cap=3" in report.abstains
    assert check_importance_weights(weights, cap=3.0).ok


def test_a_ratio_of_exactly_the_cap_may_be_kept_or_not() -> None:
    def strict(log_probs: Tensor, sampler_log_probs: Tensor, cap: float) -> Tensor:
        ratio = (log_probs - sampler_log_probs).exp().detach()
        return ratio * (ratio < cap)

    assert check_importance_weights(strict).ok


BAD = [
    pytest.param(lambda: check_importance_weights(lambda a, b: a), UnknownForm, "none of the names", id="names"),
    pytest.param(lambda: check_importance_weights(lambda log_probs: log_probs), UnknownForm, "no argument", id="one"),
    pytest.param(
        lambda: check_importance_weights(lambda log_probs, sampler_log_probs: "x"),
        UnknownForm,
        "not numbers",
        id="text",
    ),
    pytest.param(lambda: check_importance_weights(3), TypeError, "takes a callable", id="no-function"),  # type: ignore[arg-type]
    pytest.param(
        lambda: check_importance_weights(with_gradient, names={"x": "cap"}), ValueError, "does not take", id="no-such"
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_a_wrong_argument_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
