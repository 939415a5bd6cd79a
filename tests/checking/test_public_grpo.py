"""Losses of groups in the manner of public code of 2025-26, written without a look at the checks."""

# mypy: ignore-errors
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from public_style import Implementations, assert_as_expected

from pgtheory.checking import check_grpo

GRPO = Implementations(check_grpo)


def standardised(r):
    return ((r - r.mean(-1, keepdim=True)) / (r.std(-1, keepdim=True) + 1e-4)).unsqueeze(-1)


def surr(lp, old, a, lo=0.2, hi=0.2):
    r = (lp - old).exp()
    return torch.min(r * a, r.clamp(1 - lo, 1 + hi) * a)


@GRPO.right("a single-file GRPO: flat, exp(x - x.detach())")
def nano(per_token_logps, rewards, completion_mask, num_generations):
    g = rewards.view(-1, num_generations)
    adv = ((g - g.mean(1, keepdim=True)) / (g.std(1, keepdim=True) + 1e-4)).view(-1)
    loss = -torch.exp(per_token_logps - per_token_logps.detach()) * adv.unsqueeze(1)
    return ((loss * completion_mask).sum(1) / completion_mask.sum(1)).mean()


@GRPO.wrong("wrong_grouping", "R1-V #67, prime-rl #600")
def wrong_groups(per_token_logps, old_per_token_logps, rewards, completion_mask, num_generations):
    g = rewards.view(num_generations, -1)
    adv = ((g - g.mean(0, keepdim=True)) / (g.std(0, keepdim=True) + 1e-4)).view(-1)
    r = (per_token_logps - old_per_token_logps).exp()
    a = adv[:, None]
    loss = -torch.min(r * a, r.clamp(0.8, 1.2) * a)
    return ((loss * completion_mask).sum(1) / completion_mask.sum(1)).mean()


@GRPO.wrong("baseline_of_the_batch", "grpo-flat #2")
def batch_norm(log_probs, old_log_probs, rewards, mask, group_size):
    a = ((rewards - rewards.mean()) / (rewards.std() + 1e-4))[:, None]
    r = (log_probs - old_log_probs).exp()
    loss = -torch.min(r * a, r.clamp(0.8, 1.2) * a) * mask
    return (loss.sum(-1) / mask.sum(-1)).mean()


@GRPO.right("DAPO token-mean with advantages [B], verl style")
def dapo_adv(log_probs, old_log_probs, advantages, completion_mask):
    a = advantages.unsqueeze(-1)
    r = (log_probs - old_log_probs).exp()
    loss = -torch.min(r * a, r.clamp(0.8, 1.2) * a)
    return (loss * completion_mask).sum() / completion_mask.sum()


@GRPO.right("UniRL #448")
def const_den(log_probs, old_log_probs, rewards, mask):
    a = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-6)).unsqueeze(-1)
    r = (log_probs - old_log_probs).exp()
    return -(torch.min(r * a, r.clamp(0.8, 1.2) * a) * mask).mean()


@GRPO.wrong("mask_ignored", "ROLL #444")
def unmasked(log_probs, old_log_probs, rewards, mask):
    a = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-6)).unsqueeze(-1)
    r = (log_probs - old_log_probs).exp()
    return -(torch.min(r * a, r.clamp(0.8, 1.2) * a)).sum() / mask.sum()


@GRPO.right("Dr. GRPO: no std, constant")
def dr(log_probs, old_log_probs, rewards, mask):
    a = (rewards - rewards.mean(-1, keepdim=True)).unsqueeze(-1)
    r = (log_probs - old_log_probs).exp()
    loss = -torch.min(r * a, r.clamp(0.8, 1.2) * a) * mask
    return (loss.sum(-1) / mask.shape[-1]).mean()


@GRPO.right("RLOO on-policy: leave-one-out, sequence log-prob sum (Relax #189)")
def rloo(log_probs, rewards, mask):
    k = rewards.shape[-1]
    base = (rewards.sum(-1, keepdim=True) - rewards) / (k - 1)
    return -((rewards - base) * (log_probs * mask).sum(-1)).mean()


@GRPO.right("GSPO: sequence ratio length-normalised (Soup #744)")
def gspo(log_probs, old_log_probs, advantages, mask):
    s = (((log_probs - old_log_probs) * mask).sum(-1) / mask.sum(-1)).exp()
    return -torch.min(s * advantages, s.clamp(0.8, 1.2) * advantages).mean()


@GRPO.wrong("ratio_over_padded_width", "Soup #723/#744")
def gspo_width(log_probs, old_log_probs, advantages, mask):
    s = (((log_probs - old_log_probs) * mask).mean(-1)).exp()
    return -torch.min(s * advantages, s.clamp(0.8, 1.2) * advantages).mean()


@GRPO.right("open-instruct #1269: CISPO upper bound", remark="CISPO")
def cispo(log_probs, old_log_probs, advantages, mask, epsilon_high=0.2):
    r = (log_probs - old_log_probs).exp()
    w = r.clamp(max=1 + epsilon_high).detach()
    return -(w * advantages[..., None] * log_probs * mask).sum() / mask.sum()


@GRPO.wrong("minimum_before_advantage", "open-instruct #1264 before #1269")
def cispo_bad(log_probs, old_log_probs, advantages, mask, epsilon_high=0.2):
    r = (log_probs - old_log_probs).exp()
    w = r.clamp(max=1 + epsilon_high)
    return -(w * advantages[..., None] * mask).sum() / mask.sum()


@GRPO.wrong("kl_sign", "TRL questions: -(loss + beta kl)")
def kl_sign(log_probs, old_log_probs, rewards, mask, ref_log_probs, beta):
    a = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4)).unsqueeze(-1)
    r = (log_probs - old_log_probs).exp()
    d = ref_log_probs - log_probs
    kl = d.exp() - d - 1
    loss = -(torch.min(r * a, r.clamp(0.8, 1.2) * a) + beta * kl)
    return ((loss * mask).sum(-1) / mask.sum(-1)).mean()


@GRPO.right("TRL with k3 and beta")
def trl_kl(log_probs, old_log_probs, rewards, mask, ref_log_probs, beta):
    a = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4)).unsqueeze(-1)
    r = (log_probs - old_log_probs).exp()
    d = ref_log_probs - log_probs
    loss = -torch.min(r * a, r.clamp(0.8, 1.2) * a) + beta * (d.exp() - d - 1)
    return ((loss * mask).sum(-1) / mask.sum(-1)).mean()


@GRPO.wrong("ratio_to_the_reference kl_without_gradient", "simple_GRPO #3")
def ref_ratio(log_probs, ref_log_probs, rewards, mask, beta=0.04):
    a = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4)).unsqueeze(-1)
    r = (log_probs - ref_log_probs).exp()
    loss = -torch.min(r * a, r.clamp(0.8, 1.2) * a)
    return ((loss * mask).sum(-1) / mask.sum(-1)).mean()


@GRPO.right(
    "verl outcome advantage with index array, loop; token mean",
    call=lambda f: (
        lambda x: f(
            x.log_probs.flatten(0, 1),
            x.old_log_probs.flatten(0, 1),
            x.rewards.flatten(),
            x.mask.flatten(0, 1).to(x.log_probs.dtype),
            np.repeat(np.arange(x.rewards.shape[0]), x.rewards.shape[1]),
        )
    ),
)
def verl_index(log_prob, old_log_prob, scores, response_mask, index):
    groups = defaultdict(list)
    for i, u in enumerate(index):
        groups[u].append(scores[i])
    stats = {u: (torch.stack(v).mean(), torch.stack(v).std()) for u, v in groups.items()}
    adv = (
        torch.stack([(scores[i] - stats[u][0]) / (stats[u][1] + 1e-6) for i, u in enumerate(index)])[:, None]
        * response_mask
    )
    r = (log_prob - old_log_prob).exp()
    loss = -torch.min(r * adv, r.clamp(0.8, 1.2) * adv)
    return (loss * response_mask).sum() / response_mask.sum()


@GRPO.wrong("", "masked sum over the wrong axis")
def wrong_axis(log_probs, old_log_probs, rewards, mask):
    a = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4)).unsqueeze(-1)
    r = (log_probs - old_log_probs).exp()
    loss = -torch.min(r * a, r.clamp(0.8, 1.2) * a) * mask
    return (loss.sum(-2) / mask.sum(-2).clamp(min=1)).mean()


@GRPO.wrong("statistics_over_tokens", "gem #113: normalised again over all transitions")
def double_norm(log_probs, old_log_probs, rewards, mask):
    a = (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4)
    a = a.unsqueeze(-1).expand_as(log_probs)
    m = mask.to(log_probs.dtype)
    mu = (a * m).sum() / m.sum()
    sd = (((a - mu) ** 2 * m).sum() / m.sum()).sqrt()
    a = (a - mu) / (sd + 1e-8)
    r = (log_probs - old_log_probs).exp()
    loss = -torch.min(r * a, r.clamp(0.8, 1.2) * a)
    return (loss * m).sum() / m.sum()


@GRPO.right("LitePPO: group mean, batch std (AReaL #303)")
def lite(log_probs, old_log_probs, rewards, mask):
    a = (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std() + 1e-4)
    r = (log_probs - old_log_probs).exp()
    a = a.unsqueeze(-1)
    loss = -torch.min(r * a, r.clamp(0.8, 1.2) * a)
    return (loss * mask).sum() / mask.sum()


@GRPO.wrong("not_centred", "homework: normalise by std only")
def no_center(log_probs, old_log_probs, rewards, mask):
    a = (rewards / (rewards.std(-1, keepdim=True) + 1e-4)).unsqueeze(-1)
    r = (log_probs - old_log_probs).exp()
    loss = -torch.min(r * a, r.clamp(0.8, 1.2) * a)
    return ((loss * mask).sum(-1) / mask.sum(-1)).mean()


@GRPO.right(
    "a config and a dictionary",
    call=lambda f: (
        lambda x: f(
            {"logprobs": x.log_probs, "old": x.old_log_probs, "rewards": x.rewards, "loss_mask": x.mask},
            SimpleNamespace(eps=x.clip),
        )
    ),
)
def cfg(batch, config):
    rew = batch["rewards"]
    a = (rew - rew.mean(-1, keepdim=True)).unsqueeze(-1)
    r = (batch["logprobs"] - batch["old"]).exp()
    loss = -torch.min(r * a, r.clamp(1 - config.eps, 1 + config.eps) * a)
    return (loss * batch["loss_mask"]).sum() / batch["loss_mask"].sum()


@GRPO.right("std(unbiased=False), tunix/jax")
def ddof0(log_probs, old_log_probs, rewards, mask):
    a = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, unbiased=False, keepdim=True) + 1e-6)).unsqueeze(
        -1
    )
    return -((surr(log_probs, old_log_probs, a) * mask).sum(-1) / mask.sum(-1)).mean()


@GRPO.wrong("", "best-of-group baseline")
def maxbase(log_probs, old_log_probs, rewards, mask):
    a = (rewards - rewards.max(-1, keepdim=True).values).unsqueeze(-1)
    return -((surr(log_probs, old_log_probs, a) * mask).sum(-1) / mask.sum(-1)).mean()


@GRPO.right("RLOO-style advantages in the clipped loss")
def loo_clip(log_probs, old_log_probs, rewards, mask):
    k = rewards.shape[-1]
    a = ((rewards - rewards.mean(-1, keepdim=True)) * k / (k - 1)).unsqueeze(-1)
    return -(surr(log_probs, old_log_probs, a) * mask).sum() / mask.sum()


@GRPO.wrong("kl_without_gradient", "KL computed under no_grad added to loss")
def kl_detached(log_probs, old_log_probs, rewards, mask, ref_log_probs, beta):
    d = (ref_log_probs - log_probs).detach()
    loss = -surr(log_probs, old_log_probs, standardised(rewards)) + beta * (d.exp() - d - 1)
    return ((loss * mask).sum(-1) / mask.sum(-1)).mean()


@GRPO.wrong("kl_unmasked", "kl mean over padding")
def kl_unmasked(log_probs, old_log_probs, rewards, mask, ref_log_probs, beta):
    d = ref_log_probs - log_probs
    pg = ((-surr(log_probs, old_log_probs, standardised(rewards)) * mask).sum(-1) / mask.sum(-1)).mean()
    return pg + beta * (d.exp() - d - 1).mean()


@GRPO.wrong("log_ratio_divided_not_summed", "Trinity-RFT #154, before its review")
def gspo_not_summed(log_probs, old_log_probs, advantages, mask, clip=0.2):
    r = ((log_probs - old_log_probs) / mask.sum(-1, keepdim=True).clamp(min=1)).exp()
    a = advantages[..., None]
    return -((torch.min(r * a, r.clamp(1 - clip, 1 + clip) * a) * mask).sum(-1) / mask.sum(-1)).mean()


@GRPO.right("TRL's experimental GMPO", remark="GMPO")
def gmpo(log_probs, old_log_probs, advantages, mask, epsilon=0.4):
    lr = log_probs - old_log_probs
    a = advantages[..., None]
    c = lr.clamp(-epsilon, epsilon)
    c = torch.where(a > 0, torch.minimum(lr, c), torch.maximum(lr, c))
    s = ((c * mask).sum(-1) / mask.sum(-1)).exp()
    return -(s * advantages).mean()


@GRPO.wrong("mask_ignored", "avg log-prob loss; mean(-1) unmasked")
def avg_lp(log_probs, rewards, mask):
    a = rewards - rewards.mean(-1, keepdim=True)
    return -(a * log_probs.mean(-1)).mean()


@GRPO.wrong("minimum_of_sums", "min after the sum")
def min_after_sum(log_probs, old_log_probs, rewards, mask):
    a = standardised(rewards)
    r = (log_probs - old_log_probs).exp()
    u, c = (r * a * mask).sum(-1), (r.clamp(0.8, 1.2) * a * mask).sum(-1)
    return -(torch.min(u, c) / mask.sum(-1)).mean()


@GRPO.right("group mean not subtracted", remark="the rewards are used without a baseline")
def raw(log_probs, old_log_probs, rewards, mask):
    return -((surr(log_probs, old_log_probs, rewards[..., None]) * mask).sum(-1) / mask.sum(-1)).mean()


@GRPO.right("SkyRL/ScaleRL prompt average")
def prompt_avg(log_probs, old_log_probs, rewards, mask):
    loss = -surr(log_probs, old_log_probs, standardised(rewards)) * mask
    return (loss.sum((-1, -2)) / mask.sum((-1, -2))).mean()


@GRPO.right("SAPO gate", remark="SAPO")
def sapo(log_probs, old_log_probs, advantages, mask, tau=1.0):
    r = (log_probs - old_log_probs).exp()
    g = torch.sigmoid(tau * (r - 1)) * 4 / tau
    return -((g * advantages[..., None] * mask).sum(-1) / mask.sum(-1)).mean()


@pytest.mark.parametrize(("judge", "verdict", "said"), [*GRPO])
def test_the_verdict_is_as_expected(judge, verdict, said):
    assert_as_expected(judge, verdict, said)


def test_bounds_of_gmpo_that_are_its_own_are_asked_for():
    def fixed(log_probs, old_log_probs, advantages, mask):
        return gmpo(log_probs, old_log_probs, advantages, mask, 0.4)

    report = check_grpo(fixed)
    assert report.abstains == "it clips the log-ratio of each token (GMPO) at -0.4 and 0.4: give clip=(0.4, 0.4)"
    assert check_grpo(fixed, clip=0.4).ok
