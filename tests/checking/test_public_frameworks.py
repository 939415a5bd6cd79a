"""Implementations in the manner of frameworks that other files do not have, each with its verdict before it was run."""

# mypy: ignore-errors
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from public_style import Implementations, assert_as_expected

from pgtheory.checking import (
    check_advantages,
    check_entropy,
    check_group_advantages,
    check_importance_weights,
    check_kl_in_reward,
    check_log_probs,
    check_masked_mean,
    check_n_step,
    check_ppo,
    check_returns,
    check_top_p,
    check_v_trace,
    check_value_loss,
)

RETURNS, ADVANTAGES, N_STEP = (Implementations(c) for c in (check_returns, check_advantages, check_n_step))
PPO, VALUE, V_TRACE = (Implementations(c) for c in (check_ppo, check_value_loss, check_v_trace))
WEIGHTS, GROUPS, MEAN = (
    Implementations(c) for c in (check_importance_weights, check_group_advantages, check_masked_mean)
)
ENTROPY, LOG_PROBS, TOP_P = (Implementations(c) for c in (check_entropy, check_log_probs, check_top_p))
EVERY = (RETURNS, ADVANTAGES, N_STEP, PPO, VALUE, V_TRACE, WEIGHTS, GROUPS, MEAN, ENTROPY, LOG_PROBS, TOP_P)


# --- returns and advantages ---


@RETURNS.wrong("reward_alone", "hunkim/ReinforcementZeroToAll #1: discounted from the start, and nothing summed")
def weighted_rewards(r, gamma):
    return np.array([x * gamma**i for i, x in enumerate(r)])


@ADVANTAGES.wrong("last_step_not_bootstrapped", "ElegantRL, AgentPPO: the carry starts with 0, not with the next value")
def with_a_carry(rewards, undones, values, next_value, gamma, lambda_gae_adv):
    found, carry, going_on = torch.empty_like(values), torch.zeros_like(next_value), gamma * undones
    for t in range(len(rewards) - 1, -1, -1):
        found[t] = rewards[t] - values[t] + going_on[t] * carry
        carry = values[t] + lambda_gae_adv * found[t]
    return found


@ADVANTAGES.right("skrl, compute_gae: `next_values` are those of the last state alone", layout="[T, B]")
def next_values_of_the_last(*, rewards, terminated, values, next_values, discount_factor, lambda_coefficient):
    found, advantage, steps = torch.zeros_like(rewards), 0, rewards.shape[0]
    for i in reversed(range(steps)):
        behind = values[i + 1] if i + 1 < steps else next_values
        carried = terminated[i].logical_not() * (behind + lambda_coefficient * advantage)
        found[i] = advantage = rewards[i] - values[i] + discount_factor * carried
    return found + values, found


@ADVANTAGES.wrong("own_value_at_the_end", "tensorflow/agents #953: the final value is read after it was stripped")
def stripped_first(rewards, value_preds, discounts, td_lambda):
    values = value_preds[:, :-1]
    behind = torch.cat([values[:, 1:], values[:, -1:]], 1)
    carry, found = 0.0, []
    for t in reversed(range(rewards.shape[1])):
        carry = rewards[:, t] + discounts[:, t] * (behind[:, t] + td_lambda * carry) - values[:, t]
        found.insert(0, carry)
    return torch.stack(found, 1)


@V_TRACE.right("DI-engine, vtrace_nstep_return: `bootstrap_values` are all values and one more", layout="[T, B]")
def all_bootstrap_values(rhos, reward, bootstrap_values, gamma, lambda_):
    carry, found, cut = 0.0, bootstrap_values[:-1].clone(), rhos.clamp(max=1.0)
    errors = cut * (reward + gamma * bootstrap_values[1:] - bootstrap_values[:-1])
    for t in reversed(range(len(reward))):
        carry = errors[t] + gamma * lambda_ * cut[t] * carry
        found[t] += carry
    return found


# --- losses ---


@PPO.right("rl_games, actor_loss: negative log-probabilities, and a switch")
def of_negative(old_action_neglog_probs_batch, action_neglog_probs, advantage, is_ppo=True, curr_e_clip=0.2):
    ratio = (old_action_neglog_probs_batch - action_neglog_probs).exp()
    return torch.max(-advantage * ratio, -advantage * ratio.clamp(1 - curr_e_clip, 1 + curr_e_clip))


@PPO.wrong("", "ElegantRL, AgentPPO: the ratio is scaled by 1 ∓ ε, and not clipped")
def scaled(new_logprob, logprob, advantage, unmask, ratio_clip=0.2):
    ratio = (new_logprob - logprob).exp() * torch.where(advantage > 0, 1 - ratio_clip, 1 + ratio_clip)
    return -(advantage * ratio * unmask).mean()


@VALUE.right("MAPPO, cal_value_loss: `value_preds_batch` are the old values")
def old_predictions(values, value_preds_batch, return_batch, active_masks_batch, clip_param=0.2):
    near = value_preds_batch + (values - value_preds_batch).clamp(-clip_param, clip_param)
    worse = torch.max((return_batch - values) ** 2, (return_batch - near) ** 2)
    return (worse * active_masks_batch).sum() / active_masks_batch.sum()


@VALUE.right("rl_games, critic_loss: `clip_value` is a switch")
def with_a_switch(value_preds_batch, values, curr_e_clip, return_batch, clip_value=True):
    near = value_preds_batch + (values - value_preds_batch).clamp(-curr_e_clip, curr_e_clip)
    return torch.max((values - return_batch) ** 2, (near - return_batch) ** 2)


@VALUE.right("AReaL, ppo_critic_loss_fn: a `target_value` beside an `old_value`")
def with_a_target(value, old_value, target_value, value_eps_clip, loss_mask):
    near = old_value + (value - old_value).clamp(-value_eps_clip, value_eps_clip)
    worse = torch.max((value - target_value) ** 2, (near - target_value) ** 2)
    return torch.where(loss_mask, worse, 0.0).sum() / loss_mask.count_nonzero()


@VALUE.right("kscalelabs/ksim #3: the maximum undoes the clamp of the error, and the squared error is left")
def undone(value_pred, returns, clip_param=0.2):
    error = value_pred - returns
    return torch.max(error**2, error.clamp(-clip_param, clip_param) ** 2).mean()


@VALUE.wrong("mean_over_padding", "ElegantRL, AgentPPO: (criterion * unmask).mean()")
def times_unmask(value, reward_sum, unmask):
    return (F.mse_loss(value, reward_sum, reduction="none") * unmask).mean()


# --- what stands around a loss ---


@WEIGHTS.right("OpenRLHF, icepop: 0 outside the interval of its own bounds")
def icepop(old_log_probs, rollout_log_probs, low_threshold=0.5, high_threshold=2.0):
    weights = (old_log_probs - rollout_log_probs).exp()
    return weights * ((weights >= low_threshold) & (weights <= high_threshold))


@WEIGHTS.right("AReaL, its behavioural weight: the proximal policy over the old one, which sampled")
def behavioural(proximal_logprobs, old_logprobs, loss_mask, behav_imp_weight_cap):
    weights = (proximal_logprobs - old_logprobs).exp()
    return torch.where(loss_mask & (weights <= behav_imp_weight_cap), weights, 0.0)


@WEIGHTS.wrong("of_the_current_policy", "slime #179, with the gradient of the current policy as well")
def of_the_current(log_probs, old_log_probs, rollout_log_probs, tis_clip=2.0):
    return (log_probs - rollout_log_probs).exp().clamp(max=tis_clip)


@WEIGHTS.wrong("mean_of_ratios", "unsloth-zoo, before it says to match TRL: the sum of exp, not exp of the sum")
def summed(old, sampling_per_token_logps, mask, cap):
    ratios = torch.exp(old - sampling_per_token_logps) * mask
    return ratios.sum(dim=-1, keepdim=True).clamp(max=cap)


@LOG_PROBS.wrong("off_by_one", "TRL #5620, of the entropy: the logits of a model are not shifted")
def never_shifted(logits, input_ids):
    return logits[:, :-1].log_softmax(-1).gather(-1, input_ids[:, :-1, None]).squeeze(-1)


@GROUPS.wrong("others_divided_by_all", "RLOO with K in place of K - 1")
def over_all(raw_rewards, num_generations):
    grouped = raw_rewards.view(-1, num_generations)
    return (grouped - (grouped.sum(1, keepdim=True) - grouped) / num_generations).flatten()


@MEAN.right("CS336, assignment 5: a sum over a constant that has a default")
def masked_normalize(tensor, mask, normalize_constant=1.0, dim=None):
    return (tensor * mask).sum() / normalize_constant


@ENTROPY.wrong("not_normalised", "PufferLib, entropy, where its logits are not normalised before")
def of_raw_logits(logits):
    logits = logits.clamp(min=torch.finfo(logits.dtype).min)
    return -(logits * logits.softmax(-1)).sum(-1)


@TOP_P.wrong("mask_not_scattered_back", "scattered by the inverse of the order")
def inverse_order(logits, top_p):
    ranked, order = logits.sort(descending=True, dim=-1)
    drop = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1) > top_p
    return logits.masked_fill(drop.scatter(1, order.argsort(-1), drop), -torch.inf)


@pytest.mark.parametrize(("judge", "verdict", "said"), [p for kind in EVERY for p in kind])
def test_the_verdict_is_as_expected(judge, verdict, said):
    assert_as_expected(judge, verdict, said)


# --- two meanings ---


def bounds_themselves(ratio, adv, clip_ratio_low, clip_ratio_high, valids):
    """Sample Factory, Learner._policy_loss: the bounds are 1 / 1.1 and 1.1, not 0.1."""
    least = torch.min(ratio * adv, ratio.clamp(clip_ratio_low, clip_ratio_high) * adv)
    return -least[valids.bool()].mean()


def none_behind_the_row(rewards, values, n, gamma):
    """Of one episode that ends with the row: there is no value behind it."""
    steps = len(rewards)
    found = np.zeros(steps)
    for t in range(steps):
        end = min(t + n, steps)
        found[t] = sum(gamma**k * rewards[t + k] for k in range(end - t)) + (
            gamma**n * values[t + n] if t + n < steps else 0
        )
    return found


def of_one_group(rewards):
    """rLLM, calculate_rloo_advantages_per_group."""
    return len(rewards) / (len(rewards) - 1) * (rewards - rewards.mean())


@pytest.mark.parametrize(
    ("check", "function", "meant"),
    [
        (check_ppo, bounds_themselves, "bounds 1 - ε and 1 + ε"),
        (check_n_step, none_behind_the_row, "values [T], where a row ends its episode"),
        (check_group_advantages, of_one_group, "one group"),
    ],
)
def test_what_is_right_in_another_meaning_is_asked_for_it_and_right_if_it_is_declared(check, function, meant):
    report = check(function)
    assert report.verdict == "abstains"
    assert f"layout={meant!r}" in report.abstains
    assert check(function, layout=meant).ok


def test_in_another_meaning_a_known_mistake_stays_one():
    def maximum(ratio, adv, clip_low, clip_high):
        return -torch.max(ratio * adv, ratio.clamp(1 - clip_low, 1 + clip_high) * adv).mean()

    assert [m.key for m in check_ppo(maximum).mistakes] == ["ppo.maximum"]


def test_a_default_near_0_says_that_a_bound_is_a_distance_from_1():
    def forgotten(ratio, adv, clip_low=0.2, clip_high=0.28):
        return -torch.min(ratio * adv, ratio.clamp(clip_low, clip_high) * adv).mean()

    assert check_ppo(forgotten).verdict == "wrong"


def test_a_score_on_padding_is_no_penalty_of_it():
    def one_behind(scores, log_probs, ref_log_probs, padding_mask, kl_coef):
        rewards = -kl_coef * (log_probs - ref_log_probs).masked_fill(padding_mask, 0.0)
        where = (~padding_mask).sum(1).clamp(max=rewards.shape[1] - 1)
        rewards[torch.arange(len(scores)), where] += scores
        return rewards

    def not_masked(scores, log_probs, ref_log_probs, mask, kl_coef):
        rewards = -kl_coef * (log_probs - ref_log_probs)
        rewards[torch.arange(len(scores)), mask.shape[1] - 1 - mask.long().flip(1).argmax(1)] += scores
        return rewards

    said = "it leaves the penalty on masked tokens: what sums the rewards has to mask them"
    wrong = check_kl_in_reward(one_behind)
    assert wrong.verdict == "wrong"
    assert said not in wrong.remarks
    assert said in check_kl_in_reward(not_masked).remarks
