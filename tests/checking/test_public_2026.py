"""Implementations of all kinds in the manner of public code of 2025-26, each with its verdict before it was run."""

# mypy: ignore-errors
import math
from collections import defaultdict

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F
from public_style import Implementations, assert_as_expected

from pgtheory.checking import (
    check_advantages,
    check_entropy,
    check_group_advantages,
    check_grpo,
    check_importance_weights,
    check_kl,
    check_kl_in_reward,
    check_lambda_returns,
    check_log_probs,
    check_masked_mean,
    check_ppo,
    check_returns,
    check_top_k,
    check_top_p,
    check_value_loss,
    check_whitening,
)

RETURNS, ADVANTAGES, LAMBDA = (Implementations(c) for c in (check_returns, check_advantages, check_lambda_returns))
KL, GRPO, PPO, VALUE = (Implementations(c) for c in (check_kl, check_grpo, check_ppo, check_value_loss))
ENTROPY, LOG_PROBS, WEIGHTS = (Implementations(c) for c in (check_entropy, check_log_probs, check_importance_weights))
GROUPS, WHITENING, MEAN = (Implementations(c) for c in (check_group_advantages, check_whitening, check_masked_mean))
IN_REWARD, TOP_P, TOP_K = (Implementations(c) for c in (check_kl_in_reward, check_top_p, check_top_k))
EVERY = (RETURNS, ADVANTAGES, LAMBDA, KL, GRPO, PPO, VALUE, ENTROPY, LOG_PROBS, WEIGHTS, GROUPS, WHITENING, MEAN)


def masked_mean(x, mask, dim=None):
    return (x * mask).sum(dim) / mask.sum(dim)


# --- returns ---


@RETURNS.right("a weighted cumulative sum from behind")
def by_cumsum(rewards, gamma):
    weights = gamma ** torch.arange(rewards.shape[-1], dtype=rewards.dtype)
    return (rewards * weights).flip(-1).cumsum(-1).flip(-1) / weights


@RETURNS.wrong("accumulated_forwards", "the same without the flips")
def by_cumsum_forwards(rewards, gamma):
    weights = gamma ** torch.arange(rewards.shape[-1] - 1, -1, -1, dtype=rewards.dtype)
    return (rewards * weights).cumsum(-1) / weights


@RETURNS.wrong("cut_at_masked_steps", "verl, REINFORCE++: the sum is multiplied by the mask at each token")
def plus_plus(token_level_rewards, response_mask, gamma):
    out, running = torch.zeros_like(token_level_rewards), 0
    for t in reversed(range(token_level_rewards.shape[1])):
        running = token_level_rewards[:, t] * response_mask[:, t] + gamma * running
        out[:, t] = running
        running = running * response_mask[:, t]
    return out * response_mask


@RETURNS.right("torchrl, reward2go with done")
def reward_to_go(reward, done, gamma):
    out, total = np.zeros(len(reward)), 0.0
    for t in range(len(reward) - 1, -1, -1):
        total = reward[t] + gamma * total * (0.0 if done[t] else 1.0)
        out[t] = total
    return out


@RETURNS.wrong("", "clipped rewards, as for Atari")
def of_signs(rewards, gamma):
    rewards, out, total = torch.sign(rewards), [], 0.0
    for r in rewards.flip(0):
        total = r + gamma * total
        out.append(total)
    return torch.stack(out[::-1])


# --- advantages ---


@ADVANTAGES.right("trl, PPO: no flags, 0 behind the last token")
def trl_gae(rewards, values, gamma, lam):
    lastgaelam, reversed_ = 0, []
    for t in reversed(range(rewards.shape[1])):
        nextvalues = values[:, t + 1] if t < rewards.shape[1] - 1 else 0.0
        delta = rewards[:, t] + gamma * nextvalues - values[:, t]
        lastgaelam = delta + gamma * lam * lastgaelam
        reversed_.append(lastgaelam)
    return torch.stack(reversed_[::-1], axis=1)


@ADVANTAGES.right("verl: masked tokens are stepped over")
def verl_gae(token_level_rewards, values, response_mask, gamma, lam):
    nextvalues, last, out = 0, 0, []
    for t in reversed(range(token_level_rewards.shape[-1])):
        m = response_mask[:, t].to(values.dtype)
        delta = token_level_rewards[:, t] + gamma * nextvalues - values[:, t]
        new = delta + gamma * lam * last
        nextvalues = values[:, t] * m + (1 - m) * nextvalues
        last = new * m + (1 - m) * last
        out.append(last)
    return torch.stack(out[::-1], dim=1)


@ADVANTAGES.right("OpenRLHF: rewards and values are masked first", remark="masked steps inside a row count as steps")
def openrlhf_gae(values, rewards, action_mask, gamma, lambd):
    values, rewards = action_mask * values, action_mask * rewards
    last, out = 0, []
    for t in reversed(range(rewards.size(1))):
        following = values[:, t + 1] if t < rewards.size(1) - 1 else 0.0
        last = rewards[:, t] + gamma * following - values[:, t] + gamma * lambd * last
        out.append(last)
    return torch.stack(out[::-1], dim=1)


@ADVANTAGES.wrong("padding_counted", "miles #1827: tool tokens are steps, with their values")
def miles_gae(rewards, values, loss_mask, gamma, lambd):
    last, out = 0, []
    for t in reversed(range(rewards.size(1))):
        following = values[:, t + 1] if t < rewards.size(1) - 1 else 0.0
        last = rewards[:, t] + gamma * following - values[:, t] + gamma * lambd * last
        out.append(last)
    return torch.stack(out[::-1], dim=1) * loss_mask


@ADVANTAGES.right("torchrl: done and terminated are two facts")
def torchrl_gae(gamma, lmbda, state_value, next_state_value, reward, done, terminated):
    delta = reward + gamma * next_state_value * (1 - terminated.double()) - state_value
    out, total = torch.zeros_like(delta), 0.0
    for t in reversed(range(delta.shape[-1])):
        total = delta[..., t] + gamma * lmbda * (1 - done.double()[..., t]) * total
        out[..., t] = total
    return out


@ADVANTAGES.wrong("own_value_at_truncation", "EmbodiChain #610: γ V(S_t) is added to the rewards")
def embodied(rewards, values, next_values, terminated, truncated, gamma, lam):
    rewards = rewards + gamma * values * truncated
    done, out, total = (terminated | truncated).double(), torch.zeros_like(rewards), 0.0
    for t in reversed(range(rewards.shape[-1])):
        delta = rewards[..., t] + gamma * next_values[..., t] * (1 - done[..., t]) - values[..., t]
        total = delta + gamma * lam * (1 - done[..., t]) * total
        out[..., t] = total
    return out


@ADVANTAGES.wrong("done_of_next_step", "RoboVerse #814: the flags are written twice")
def roboverse(rewards, values, dones, next_value, next_done, gamma, lam):
    out, last = torch.zeros_like(rewards), 0
    ends = torch.cat([dones[1:], next_done[None]]).double()  # of the transitions
    for t in reversed(range(len(rewards))):
        final = t == len(rewards) - 1
        nonterminal = 1.0 - (ends[t] if final else ends[t + 1])
        following = next_value if final else values[t + 1]
        last = rewards[t] + gamma * following * nonterminal - values[t] + gamma * lam * nonterminal * last
        out[t] = last
    return out


@ADVANTAGES.wrong("sum_without_gamma", "a slip in a port to JAX")
def ported(rewards, values, next_values, terminated, truncated, gamma, lam):
    delta = rewards + gamma * next_values * ~terminated - values
    out, last = torch.zeros_like(delta), torch.zeros_like(delta[..., 0])
    for t in reversed(range(delta.shape[-1])):
        last = delta[..., t] + lam * ~(terminated | truncated)[..., t] * last
        out[..., t] = last
    return out


# --- λ-returns ---


@LAMBDA.right("Dreamer: rewards and discounts mixed with the values")
def dreamer(rewards, next_values, terminated, gamma, lam):
    discount = gamma * (~terminated).double()
    inputs = rewards + discount * next_values * (1 - lam)
    last, out = next_values[:, -1], []
    for t in reversed(range(rewards.shape[1])):
        last = inputs[:, t] + discount[:, t] * lam * last
        out.append(last)
    return torch.stack(out[::-1], 1)


@LAMBDA.wrong("exchanged", "λ where 1 - λ should be")
def dreamer_exchanged(rewards, next_values, terminated, gamma, lam):
    return dreamer(rewards, next_values, terminated, gamma, 1 - lam)


# --- KL ---


@KL.right("verl, low_var_kl, with its clamps")
def low_var_kl(logprob, ref_logprob):
    kl = torch.clamp(ref_logprob - logprob, min=-20, max=20)
    return torch.clamp(kl.exp() - kl - 1, min=-10, max=10)


@KL.wrong("absolute_value", "verl, abs")
def verl_abs(logprob, ref_logprob):
    return (logprob - ref_logprob).abs()


@KL.right("verl, mse", remark="k2")
def verl_mse(logprob, ref_logprob):
    return 0.5 * (logprob - ref_logprob).square()


@KL.wrong("kl_div_arguments", "log_target=True, the policy first")
def kl_div_pointwise(log_probs, ref_log_probs):
    return F.kl_div(log_probs, ref_log_probs, reduction="none", log_target=True)


@KL.right("whole distributions, from logits")
def whole(logits, ref_logits):
    p, q = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


@KL.wrong("jensen_shannon", "GKD: the generalised divergence with its default of one half")
def gkd(logits, teacher_logits):
    student, teacher = F.log_softmax(logits, -1), F.log_softmax(teacher_logits, -1)
    mixture = torch.logsumexp(torch.stack([student, teacher]) + math.log(0.5), dim=0)
    one = F.kl_div(mixture, teacher, reduction="none", log_target=True)
    other = F.kl_div(mixture, student, reduction="none", log_target=True)
    return (0.5 * one + 0.5 * other).sum(-1)


# --- losses ---


def pessimistic(log_probs, old_log_probs, a, low=0.2, high=0.2):
    ratio = (log_probs - old_log_probs).exp()
    return torch.max(-a * ratio, -a * ratio.clamp(1 - low, 1 + high))


@GRPO.right("trl, bnpo")
def bnpo(log_probs, old_log_probs, advantages, completion_mask):
    loss = pessimistic(log_probs, old_log_probs, advantages.unsqueeze(-1))
    return (loss * completion_mask).sum() / completion_mask.sum().clamp(min=1.0)


@GRPO.right("verl: dual clip", remark="dual clip")
def verl_policy_loss(log_prob, old_log_prob, advantages, response_mask, clip_ratio_c=3.0):
    a = advantages.unsqueeze(-1)
    loss = pessimistic(log_prob, old_log_prob, a)
    loss = torch.where(a < 0, torch.min(-a * clip_ratio_c, loss), loss)
    return masked_mean(loss, response_mask)


@GRPO.wrong("sign", "flash-linear-attention #1073: negated twice")
def negated_twice(log_probs, old_log_probs, rewards, mask):
    a = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4)).unsqueeze(-1)
    return -(pessimistic(log_probs, old_log_probs, a) * mask).sum() / mask.sum()


@GRPO.wrong("baseline_of_the_batch", "flash-linear-attention #1073: view(-1, B)")
def one_group(log_probs, old_log_probs, rewards, mask, num_generations):
    rows = rewards.view(-1, rewards.shape[0])
    a = ((rows - rows.mean(-1, keepdim=True)) / (rows.std(-1, keepdim=True) + 1e-4)).view(-1, 1)
    return (pessimistic(log_probs, old_log_probs, a) * mask).sum() / mask.sum()


@GRPO.wrong("ratio_missing", "time-r1 #20: always on policy")
def on_policy(per_token_logps, old_per_token_logps, advantages, completion_mask):
    loss = -torch.exp(per_token_logps - per_token_logps.detach()) * advantages.unsqueeze(-1)
    return ((loss * completion_mask).sum(-1) / completion_mask.sum(-1)).mean()


@GRPO.right("trl, GSPO", remark="GSPO")
def trl_gspo(log_probs, old_log_probs, advantages, completion_mask):
    log_ratio = log_probs - old_log_probs
    weights = ((log_ratio * completion_mask).sum(-1) / completion_mask.sum(-1).clamp(min=1.0)).unsqueeze(-1)
    a, r = advantages.unsqueeze(-1), weights.exp()
    loss = -torch.min(r * a, r.clamp(0.8, 1.2) * a)
    return ((loss * completion_mask).sum(-1) / completion_mask.sum(-1).clamp(min=1.0)).mean()


@PPO.right("rsl_rl")
def rsl_rl(actions_log_prob, old_actions_log_prob, advantages, clip_param):
    ratio = torch.exp(actions_log_prob - old_actions_log_prob)
    return torch.max(-advantages * ratio, -advantages * ratio.clamp(1.0 - clip_param, 1.0 + clip_param)).mean()


@PPO.wrong("maximum", "rsl_rl #46: what the question suspects")
def larger(log_prob, old_log_prob, advantages, clip_range):
    ratio = torch.exp(log_prob - old_log_prob)
    return -torch.max(advantages * ratio, advantages * ratio.clamp(1 - clip_range, 1 + clip_range)).mean()


@PPO.right("verl, token-mean")
def verl_ppo(log_prob, old_log_prob, advantages, response_mask, cliprange):
    return masked_mean(pessimistic(log_prob, old_log_prob, advantages, cliprange, cliprange), response_mask)


@PPO.wrong("ratio_inverted", "old and new exchanged in a refactoring")
def exchanged(old_logprobs, logprobs, advantages):
    return pessimistic(old_logprobs, logprobs, advantages).mean()


@PPO.wrong("mean_over_padding", "masked, and then mean()")
def padded_mean(log_probs, old_log_probs, advantages, mask):
    return (pessimistic(log_probs, old_log_probs, advantages) * mask).mean()


@VALUE.right("verl", remark="")
def verl_value_loss(vpreds, old_values, returns, response_mask, cliprange_value):
    clipped = vpreds.clamp(old_values - cliprange_value, old_values + cliprange_value)
    return 0.5 * masked_mean(torch.max((vpreds - returns) ** 2, (clipped - returns) ** 2), response_mask)


@VALUE.wrong("minimum", "the optimist's clip")
def optimistic_value(values, old_values, returns, clip):
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.min((values - returns) ** 2, (clipped - returns) ** 2).mean()


@VALUE.wrong("clipped_alone", "without the maximum")
def clipped_value(values, old_values, returns, clip):
    return F.mse_loss(old_values + (values - old_values).clamp(-clip, clip), returns)


# --- parts ---


@ENTROPY.right("verl, entropy_from_logits")
def verl_entropy(logits):
    return torch.logsumexp(logits, dim=-1) - torch.sum(logits.softmax(-1) * logits, dim=-1)


@ENTROPY.wrong("mean_over_vocabulary", "mean(-1) in place of sum(-1)")
def entropy_mean(logits):
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp).mean(-1)


@ENTROPY.wrong("padding_counted", "the mask does not reach the bonus")
def entropy_everywhere(logits, mask):
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp).sum(-1).mean()


@LOG_PROBS.right("trl, selective_log_softmax")
def selective(logits, index, temperature=1.0):
    logits = logits / temperature
    return logits.gather(-1, index.unsqueeze(-1)).squeeze(-1) - torch.logsumexp(logits, dim=-1)


@LOG_PROBS.right("cross_entropy, negated", call=lambda f: lambda x: f(x.logits / x.temperature, x.tokens))
def by_cross_entropy(x, y):
    return -F.cross_entropy(x.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)


@LOG_PROBS.wrong("temperature_after_softmax", "Kimi-Audio #161")
def kimi(logits, tokens, temperature):
    return (logits.log_softmax(-1) / temperature).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


@LOG_PROBS.wrong("temperature_ignored", "the trainer forgets what the sampler did")
def forgotten(logits, tokens, temperature):
    return logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


@WEIGHTS.right("slime: truncated by token")
def tis(train_log_probs, rollout_log_probs, tis_clip):
    return (train_log_probs - rollout_log_probs).exp().clamp(max=tis_clip).detach()


@WEIGHTS.wrong("inverted", "rollout over trainer")
def tis_inverted(train_log_probs, rollout_log_probs, tis_clip):
    return (rollout_log_probs - train_log_probs).exp().clamp(max=tis_clip).detach()


@WEIGHTS.wrong("cap_on_log_ratio", "the clamp before exp")
def tis_of_logs(log_probs, sampler_log_probs, cap):
    return (log_probs - sampler_log_probs).clamp(max=cap).exp().detach()


@GROUPS.right("verl: a dictionary of groups")
def verl_grpo(scores, index, epsilon=1e-6):
    of = defaultdict(list)
    for i, group in enumerate(index.tolist()):
        of[group].append(scores[i])
    out = scores.clone()
    for i, group in enumerate(index.tolist()):
        rows = torch.stack(of[group])
        mean, std = (rows.mean(), rows.std()) if len(rows) > 1 else (0.0, 1.0)
        out[i] = (scores[i] - mean) / (std + epsilon)
    return out


@GROUPS.right("trl, RLOO")
def trl_rloo(rewards, num_generations):
    grouped = rewards.view(-1, num_generations)
    others = (grouped.sum(1, keepdim=True) - grouped) / (num_generations - 1)
    return (grouped - others).view(-1)


@GROUPS.wrong("tiled", "repeat where repeat_interleave is meant")
def repeated(rewards, num_generations):
    grouped = rewards.view(-1, num_generations)
    return rewards - grouped.mean(1).repeat(num_generations)


@GROUPS.wrong("over_the_groups", "mean(0) of [groups, size]")
def over_groups(rewards):
    return rewards - rewards.mean(0, keepdim=True)


@WHITENING.right("trl, masked_whiten")
def masked_whiten(values, mask):
    mean = masked_mean(values, mask)
    var = masked_mean((values - mean) ** 2, mask) * mask.sum() / (mask.sum() - 1)
    return (values - mean) * torch.rsqrt(var + 1e-8)


@WHITENING.wrong("mask_ignored", "whitened before the mask is known")
def whiten(values, mask):
    return (values - values.mean()) / (values.std() + 1e-8)


@WHITENING.wrong("no_root", "var where std is meant")
def whiten_by_variance(values, mask):
    mean = masked_mean(values, mask)
    return (values - mean) / (masked_mean((values - mean) ** 2, mask) + 1e-8)


@MEAN.right("token-mean")
def token_mean(values, mask):
    return masked_mean(values, mask)


@MEAN.right("seq-mean-token-mean, Python lists of rows")
def of_rows(values, mask):
    return sum(row[m.bool()].mean() for row, m in zip(values, mask, strict=True)) / len(values)


@MEAN.wrong("padding_in_the_denominator", "d2l #2707")
def d2l(values, mask):
    return (values * mask).mean(1).mean()


@IN_REWARD.right("trl, PPO: the score on the last token")
def trl_rewards(scores, logprobs, ref_logprobs, mask, kl_coef):
    rewards = -kl_coef * (logprobs - ref_logprobs) * mask
    last = mask.shape[1] - 1 - mask.long().flip(1).argmax(1)
    rewards[torch.arange(len(rewards)), last] += scores
    return rewards


@IN_REWARD.wrong("score_behind_the_end", "the last column, whatever the mask")
def last_column(scores, logprobs, ref_logprobs, mask, kl_coef):
    rewards = -kl_coef * (logprobs - ref_logprobs) * mask
    rewards[:, -1] += scores
    return rewards


@IN_REWARD.wrong("sign", "the penalty is added")
def rewarded_distance(scores, logprobs, ref_logprobs, mask, kl_coef):
    return trl_rewards(scores, logprobs, ref_logprobs, mask, -kl_coef)


@TOP_P.right("vllm: ascending, 1 - p is cut off")
def vllm_top_p(logits, p):
    sorted_, index = logits.sort(dim=-1, descending=False)
    cut = sorted_.softmax(-1).cumsum(-1) <= 1 - p
    cut[..., -1] = False
    return logits.masked_fill(torch.zeros_like(cut).scatter(-1, index, cut), -float("inf"))


@TOP_P.right("sglang: probabilities, renormalised")
def sglang_top_p(probs, top_p):
    sorted_, index = probs.sort(dim=-1, descending=True)
    sorted_[(sorted_.cumsum(-1) - sorted_) > top_p] = 0.0
    out = torch.zeros_like(probs).scatter(-1, index, sorted_)
    return out / out.sum(-1, keepdim=True)


@TOP_P.wrong("crossing_token_dropped", "cumsum > p, not shifted, one token kept")
def not_shifted(logits, top_p):
    sorted_, index = logits.sort(dim=-1, descending=True)
    cut = sorted_.softmax(-1).cumsum(-1) > top_p
    cut[..., 0] = False
    return logits.masked_fill(torch.zeros_like(cut).scatter(-1, index, cut), -float("inf"))


@TOP_K.right("vllm: the k-th by sorting")
def vllm_top_k(logits, k):
    kth = logits.sort(dim=-1).values[..., -k].unsqueeze(-1)
    return logits.masked_fill(logits < kth, -float("inf"))


@TOP_K.wrong("threshold_of_another_row", "the k-th of the batch")
def flat_top_k(logits, k):
    return logits.masked_fill(logits < logits.topk(k, dim=-1).values.min(), -float("inf"))


# --- in forms that are less usual ---


@ADVANTAGES.right("spinningup: lfilter over deltas, the last value appended")
def spinning_up(rews, vals, last_val, gamma, lam):
    vals = np.append(vals, last_val)
    deltas = rews + gamma * vals[1:] - vals[:-1]
    return scipy.signal.lfilter([1], [1, float(-gamma * lam)], deltas[::-1], axis=0)[::-1]


@ADVANTAGES.right("purejaxrl: a scan that carries the next value")
def scan(reward, value, done, last_val, gamma, gae_lambda):
    gae, next_value, out = np.zeros_like(last_val), last_val, []
    for r, v, d in zip(reward[::-1], value[::-1], done[::-1], strict=True):
        delta = r + gamma * next_value * (1 - d) - v
        gae, next_value = delta + gamma * gae_lambda * (1 - d) * gae, v
        out.append(gae)
    return np.stack(out[::-1]), np.stack(out[::-1]) + value


@ADVANTAGES.wrong("standardised", "normalised where it is computed")
def normalised_at_once(rewards, values, next_values, terminated, truncated, gamma, lam):
    a = torchrl_gae(gamma, lam, values, next_values, rewards, terminated | truncated, terminated)
    return (a - a.mean()) / (a.std() + 1e-8)


@ADVANTAGES.wrong("truncation_as_termination", "one flag for both")
def one_flag(rewards, values, next_values, terminated, truncated, gamma, lam):
    done = terminated | truncated
    return torchrl_gae(gamma, lam, values, next_values, rewards, done, done)


@ADVANTAGES.wrong("lambda_returns", "the targets in place of the advantages")
def targets(rewards, values, next_values, terminated, truncated, gamma, lam):
    return values + torchrl_gae(gamma, lam, values, next_values, rewards, terminated | truncated, terminated)


@RETURNS.wrong("first_reward_discounted", "γ^(t+1)")
def discounted_at_once(rewards, gamma):
    total, out = 0.0, []
    for r in reversed(list(rewards)):
        total = gamma * (r + total)
        out.insert(0, total)
    return out


@GRPO.right("trl: without old log-probabilities it is on policy, and with them not")
def optional_old(per_token_logps, advantages, completion_mask, old_per_token_logps=None, epsilon=0.2):
    old = per_token_logps.detach() if old_per_token_logps is None else old_per_token_logps
    loss = pessimistic(per_token_logps, old, advantages.unsqueeze(-1), epsilon, epsilon)
    return ((loss * completion_mask).sum(-1) / completion_mask.sum(-1).clamp(min=1.0)).mean()


@GRPO.right("NeMo-RL: two bounds and a penalty", remark="k3")
def nemo(logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_low, clip_high, kl_coef):
    r = ref_logprobs - logprobs
    loss = pessimistic(logprobs, old_logprobs, advantages.unsqueeze(-1), clip_low, clip_high)
    return masked_mean(loss + kl_coef * (r.exp() - 1 - r), mask)


@GRPO.wrong("", "the lower bound above, and the upper bound below")
def bounds_exchanged(logprobs, old_logprobs, advantages, mask, clip_low, clip_high):
    return masked_mean(pessimistic(logprobs, old_logprobs, advantages.unsqueeze(-1), clip_high, clip_low), mask)


@GRPO.wrong("mask_ignored", "the mean over the width, and then the mask of responses")
def mean_before_mask(log_probs, old_log_probs, advantages, mask):
    return pessimistic(log_probs, old_log_probs, advantages.unsqueeze(-1)).mean(-1).mean()


@GRPO.wrong("kl_sign", "min(...) - β KL, and no minus in front of the second")
def kl_rewarded(logprobs, old_logprobs, ref_logprobs, advantages, mask, beta):
    r = ref_logprobs - logprobs
    return masked_mean(pessimistic(logprobs, old_logprobs, advantages.unsqueeze(-1)) - beta * (r.exp() - 1 - r), mask)


@GRPO.wrong("advantages_of_other_responses", "rolled by one in the group")
def shifted(log_probs, old_log_probs, rewards, mask):
    a = (rewards - rewards.mean(-1, keepdim=True)).roll(1, -1).unsqueeze(-1)
    return masked_mean(pessimistic(log_probs, old_log_probs, a), mask)


@PPO.right("a tuple with the fraction that was clipped")
def with_statistics(new_logprobs, old_logprobs, advantages, clip_eps=0.2):
    ratio = (new_logprobs - old_logprobs).exp()
    loss = pessimistic(new_logprobs, old_logprobs, advantages, clip_eps, clip_eps).mean()
    return loss, ((ratio - 1).abs() > clip_eps).double().mean()


@PPO.wrong("clipped_term_without_advantage", "A is forgotten in one of the two")
def forgotten_advantage(log_probs, old_log_probs, advantages):
    ratio = (log_probs - old_log_probs).exp()
    return -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2)).mean()


@VALUE.wrong("target_is_the_old_value", "the buffer's values for its returns")
def old_target(values, old_values, returns):
    return F.mse_loss(values, old_values)


@WEIGHTS.right("verl: by sequence, truncated, for every token")
def by_sequence(old_log_prob, rollout_log_prob, response_mask, threshold):
    total = ((old_log_prob - rollout_log_prob) * response_mask).sum(-1, keepdim=True)
    return total.exp().clamp(max=threshold).expand_as(old_log_prob).detach()


@WEIGHTS.wrong("bounded_below", "min for max")
def bounded_below(log_probs, sampler_log_probs, cap):
    return (log_probs - sampler_log_probs).exp().clamp(min=cap).detach()


@LOG_PROBS.wrong("off_by_one", "logits and tokens are not shifted")
def not_shifted_logits(logits, tokens):
    logp = logits.log_softmax(-1)
    return logp[:, 1:].gather(-1, tokens[:, :-1].unsqueeze(-1)).squeeze(-1)


@ENTROPY.right("in chunks, to save memory")
def in_chunks(logits):
    return torch.cat([-(x.softmax(-1) * x.log_softmax(-1)).sum(-1) for x in logits.split(2)])


@ENTROPY.wrong("sign", "Σ p ln p")
def entropy_of_policy(logits):
    return (logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)


@IN_REWARD.right("OpenRLHF: the score scattered to the last token")
def openrlhf_reward(r, kl_coef, log_probs, ref_log_probs, action_mask):
    penalty = -kl_coef * (log_probs - ref_log_probs) * action_mask
    eos = action_mask.size(1) - 1 - action_mask.long().fliplr().argmax(dim=1, keepdim=True)
    return torch.zeros_like(penalty).scatter_(dim=1, index=eos, src=r.unsqueeze(1).to(penalty.dtype)) + penalty


@IN_REWARD.wrong("beta_ignored", "the coefficient of the configuration is not read")
def beta_forgotten(scores, log_probs, ref_log_probs, mask, beta):
    return openrlhf_reward(scores, 1.0, log_probs, ref_log_probs, mask)


@GROUPS.right("centred alone, in a loop over prompts")
def by_prompt(rewards, group_ids):
    out = np.zeros(len(rewards))
    for g in np.unique(group_ids):
        rows = np.flatnonzero(group_ids == g)
        out[rows] = rewards[rows] - rewards[rows].mean()
    return out


@GROUPS.wrong("of_the_first", "PipelineRL #54: one rollout makes mean and deviation")
def of_the_first(rewards, group_ids):
    out = np.zeros(len(rewards))
    for g in np.unique(group_ids):
        rows = np.flatnonzero(group_ids == g)
        out[rows] = (rewards[rows] - rewards[rows[:1]].mean()) / (rewards[rows[:1]].std() + 1e-4)
    return out


@GROUPS.wrong("of_the_batch", "REINFORCE++ for GRPO")
def of_all(rewards, group_ids):
    return (rewards - rewards.mean()) / (rewards.std() + 1e-6)


@TOP_P.wrong("softmax_missing", "the cumulative sum of logits")
def of_logits(logits, p):
    sorted_, index = logits.sort(dim=-1, descending=True)
    cut = sorted_.cumsum(-1) - sorted_ >= p
    cut[..., 0] = False
    return logits.masked_fill(torch.zeros_like(cut).scatter(-1, index, cut), -float("inf"))


@TOP_K.wrong("zero_instead_of_minus_inf", "masked_fill(..., 0)")
def zeros(logits, k):
    return logits.masked_fill(logits < logits.topk(k, dim=-1).values[..., -1:], 0.0)


@KL.wrong("sign", "the reference first")
def reference_first(log_probs, ref_log_probs):
    return ref_log_probs - log_probs


@LAMBDA.wrong("advantages", "what is left when the values are subtracted")
def lambda_advantages(rewards, values, next_values, terminated, gamma, lam):
    return dreamer(rewards, next_values, terminated, gamma, lam) - values


@pytest.mark.parametrize(("judge", "verdict", "said"), [p for kind in (*EVERY, IN_REWARD, TOP_P, TOP_K) for p in kind])
def test_the_verdict_is_as_expected(judge, verdict, said):
    assert_as_expected(judge, verdict, said)
