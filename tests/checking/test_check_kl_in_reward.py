"""The check of rewards with a KL penalty, on implementations in the style of public code."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from public_style import Implementations, assert_as_expected
from torch import Tensor

from pgtheory.checking import Report, UnknownForm, check_kl_in_reward

TRIED = Implementations(check_kl_in_reward)
right, wrong = TRIED.right, TRIED.wrong


def at_last(mask: Tensor) -> Tensor:
    place = torch.arange(mask.shape[1]).expand(mask.shape)
    return torch.where(mask.bool(), place, -1).max(-1).values


# --- right ---


@right(remark="k1")
def trl_compute_rewards(scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, masks: Tensor, kl_coef: float) -> Any:
    rewards, non_score_rewards = [], []
    for score, logprob, ref_logprob, mask in zip(scores, logprobs, ref_logprobs, masks, strict=True):
        non_score = -kl_coef * (logprob - ref_logprob)
        reward = non_score.clone()
        reward[mask.nonzero()[-1]] += score
        rewards.append(reward)
        non_score_rewards.append(non_score)
    return torch.stack(rewards), torch.stack(non_score_rewards)


@right(remark="k1")
def openrlhf_compute_reward(
    r: Tensor, kl_coef: float, log_probs: Tensor, ref_logps: Tensor, action_mask: Tensor
) -> Tensor:
    kl_reward = -kl_coef * (log_probs - ref_logps) * action_mask
    eos = action_mask.size(1) - 1 - action_mask.long().fliplr().argmax(dim=1, keepdim=True)
    last = torch.zeros_like(kl_reward).scatter_(dim=1, index=eos, src=r.unsqueeze(1).to(kl_reward.dtype))
    return last + kl_reward


@right(remark="k1")
def verl_apply_kl(
    token_level_scores: Tensor, old_log_probs: Tensor, ref_log_prob: Tensor, response_mask: Tensor, beta: float
) -> Any:
    kld = (old_log_probs - ref_log_prob) * response_mask
    return token_level_scores - beta * kld


@right(remark="k3")
def low_variance(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float) -> Tensor:
    x = (ref_log_probs - log_probs).clamp(-20, 20)
    rewards = -beta * (x.exp() - x - 1).clamp(-10, 10) * mask
    rewards[torch.arange(len(rewards)), at_last(mask)] += scores
    return rewards


@right(remark="k2")
def half_square(scores: Tensor, logps: Tensor, ref_logps: Tensor, completion_mask: Tensor, kl_beta: float) -> Tensor:
    rewards = torch.where(completion_mask.bool(), -kl_beta * 0.5 * (logps - ref_logps) ** 2, 0.0)
    last = torch.nn.functional.one_hot(at_last(completion_mask), rewards.shape[1])
    return rewards + scores[:, None] * last


@right(remark="k1")
def with_lengths(scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, lengths: Tensor, beta: float) -> Tensor:
    rewards = -beta * (logprobs - ref_logprobs)
    inside = torch.arange(rewards.shape[1]) < lengths[:, None]
    rewards = rewards * inside
    rewards[torch.arange(len(rewards)), lengths - 1] += scores
    return rewards


@right(remark="in one number")
def rloo(scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    kl = ((logprobs - ref_logprobs) * mask).sum(1)
    return scores - kl_coef * kl


@right(remark="k1")
def without_a_mask(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    rewards = -beta * (log_probs - ref_log_probs)
    rewards[:, -1] += scores
    return rewards


@right(remark="k1")
def in_numpy(scores: np.ndarray, log_probs: np.ndarray, ref_log_probs: np.ndarray, beta: float) -> np.ndarray:
    rewards = -beta * (np.asarray(log_probs) - np.asarray(ref_log_probs))
    rewards[:, -1] = rewards[:, -1] + np.asarray(scores)
    return rewards


@right(remark="k1")
def one_response(score: Any, logprob: Tensor, ref_logprob: Tensor, beta: float) -> Tensor:
    (steps,) = logprob.shape
    return -beta * (logprob - ref_logprob) + score * (torch.arange(steps) == steps - 1)


@right(remark="no estimate of the divergence")
def alpaca_farm(
    rewards: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, kl_coef: float
) -> dict[str, Tensor]:
    kl = torch.clamp(logprobs - ref_logprobs, min=0.0)
    shaped = -kl_coef * kl * mask
    shaped[torch.arange(len(shaped)), at_last(mask)] += rewards
    return {"shaped_rewards": shaped, "kl": kl}


# --- wrong ---


@wrong("sign")
def kl_added(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float) -> Tensor:
    rewards = beta * (log_probs - ref_log_probs) * mask
    rewards[torch.arange(len(rewards)), at_last(mask)] += scores
    return rewards


@wrong("sign")
def reference_first(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    rewards = -beta * (ref_log_probs - log_probs)
    rewards[:, -1] += scores
    return rewards


@wrong("k3_of_the_inverse")
def k3_inverted(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float) -> Tensor:
    x = log_probs - ref_log_probs
    rewards = -beta * (x.exp() - 1 - x) * mask
    rewards[torch.arange(len(rewards)), at_last(mask)] += scores
    return rewards


@wrong("ratio_without_logarithm")
def plain_ratio(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    rewards = -beta * torch.exp(log_probs - ref_log_probs)
    rewards[:, -1] += scores
    return rewards


@wrong("score_behind_the_end")
def on_the_last_column(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float) -> Tensor:
    rewards = -beta * (log_probs - ref_log_probs) * mask
    rewards[:, -1] += scores
    return rewards


@wrong("score_behind_the_end")
def on_the_first_pad(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, lengths: Tensor, beta: float) -> Tensor:
    rewards = -beta * (log_probs - ref_log_probs)
    end = torch.where(lengths < rewards.size(1), lengths, lengths - 1)
    rewards[[torch.arange(len(rewards)), end]] += scores
    return rewards


@wrong("place_counted")
def place_by_the_sum(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float) -> Tensor:
    rewards = -beta * (log_probs - ref_log_probs) * mask
    rewards[torch.arange(len(rewards)), (mask.long().sum(1) - 1).clamp(min=0)] += scores
    return rewards


@wrong("score_on_every_token")
def score_everywhere(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float) -> Tensor:
    return (scores.unsqueeze(1) - beta * (log_probs - ref_log_probs)) * mask


@wrong("score_missing")
def penalty_alone(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float) -> Tensor:
    return -beta * (log_probs - ref_log_probs) * mask


@wrong("penalty_overwritten")
def assigned(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    rewards = -beta * (log_probs - ref_log_probs)
    rewards[:, -1] = scores
    return rewards


@wrong("penalty_missing")
def no_penalty(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float) -> Tensor:
    rewards = torch.zeros_like(log_probs)
    rewards[torch.arange(len(rewards)), at_last(mask)] = scores
    return rewards


@wrong("beta_ignored")
def coefficient_not_used(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    rewards = -(log_probs - ref_log_probs)
    rewards[:, -1] += scores
    return rewards


@wrong("beta_twice")
def coefficient_twice(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    kl = beta * (log_probs - ref_log_probs)
    rewards = -beta * kl
    rewards[:, -1] += scores
    return rewards


@wrong("sequence_penalty_on_every_token")
def summed_first(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float) -> Tensor:
    kl = ((log_probs - ref_log_probs) * mask).sum(-1, keepdim=True)
    rewards = (-beta * kl).expand(mask.shape).clone() * mask
    rewards[torch.arange(len(rewards)), at_last(mask)] += scores
    return rewards


@wrong("padding_penalised")
def rloo_unmasked(scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    return scores - kl_coef * (logprobs - ref_logprobs).sum(1)


@wrong("")
def of_probabilities_squared(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    rewards = -beta * (log_probs.exp() - ref_log_probs.exp()) ** 2
    rewards[:, -1] += scores
    return rewards


@pytest.mark.parametrize(("judge", "verdict", "said"), [*TRIED])
def test_the_verdict_is_as_expected(judge: Callable[[], Report | None], verdict: str, said: str) -> None:
    assert_as_expected(judge, verdict, said)


def test_penalties_on_padding_and_gradients_are_remarks() -> None:
    remarks = " ".join(check_kl_in_reward(trl_compute_rewards).remarks)
    assert "leaves the penalty on masked tokens" in remarks
    assert "carry a gradient" in remarks
    assert "masked tokens" not in " ".join(check_kl_in_reward(openrlhf_compute_reward).remarks)

    def detached(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float) -> Tensor:
        with torch.no_grad():
            rewards: Tensor = low_variance(scores, log_probs, ref_log_probs, mask, beta)
            return rewards

    assert "gradient" not in " ".join(check_kl_in_reward(detached).remarks)


BAD = [
    pytest.param(lambda: check_kl_in_reward(lambda a, b: a), UnknownForm, "none of the names", id="unknown-names"),
    pytest.param(
        lambda: check_kl_in_reward(lambda log_probs, ref_log_probs: log_probs), UnknownForm, "'scores'", id="no-scores"
    ),
    pytest.param(
        lambda: check_kl_in_reward(lambda scores, log_probs, ref_log_probs: "x"), UnknownForm, "not numbers", id="text"
    ),
    pytest.param(lambda: check_kl_in_reward(3), TypeError, "takes a callable", id="no-function"),  # type: ignore[arg-type]
    pytest.param(lambda: check_kl_in_reward(rloo, names={"x": "beta"}), ValueError, "does not take", id="no-such"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_a_wrong_argument_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
