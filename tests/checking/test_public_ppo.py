"""Losses of PPO in the manner of public code of 2025-26, written without a look at the checks."""

# mypy: ignore-errors
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from public_style import Implementations, assert_as_expected

from pgtheory.checking import check_ppo

PPO = Implementations(check_ppo)


def mm(x, m):
    return (x * m).sum() / m.sum()


@dataclass
class Batch:
    new: torch.Tensor
    old: torch.Tensor
    adv: torch.Tensor
    mask: torch.Tensor


@PPO.right("verl compute_policy_loss with dual clip, tuple of four")
def verl_policy_loss(
    old_log_prob,
    log_prob,
    advantages,
    response_mask,
    cliprange=0.2,
    cliprange_low=None,
    cliprange_high=None,
    clip_ratio_c=3.0,
):
    low = cliprange if cliprange_low is None else cliprange_low
    high = cliprange if cliprange_high is None else cliprange_high
    d = torch.clamp(log_prob - old_log_prob, min=-20.0, max=20.0)
    ratio = d.exp()
    ppo_kl = mm(-d, response_mask)
    l1 = -advantages * ratio
    l2 = -advantages * torch.clamp(ratio, 1 - low, 1 + high)
    c1 = torch.maximum(l1, l2)
    frac = mm(torch.gt(l2, l1).float(), response_mask)
    c2 = torch.min(-advantages * clip_ratio_c, c1)
    lower = mm(((c1 > -advantages * clip_ratio_c) & (advantages < 0)).float(), response_mask)
    loss = torch.where(advantages < 0, c2, c1)
    return mm(loss, response_mask), frac, ppo_kl, lower


@PPO.right("cs336 hw5: (B,1) advantages, per-token loss and metadata dict")
def cs336(advantages, policy_log_probs, old_log_probs, cliprange):
    r = torch.exp(policy_log_probs - old_log_probs)
    loss = -torch.minimum(r * advantages, torch.clip(r, 1 - cliprange, 1 + cliprange) * advantages)
    return loss, {"clipped": r}


@PPO.wrong("clipped_term_alone", "rasbt #240: torch.where form")
def where_ratio(logps, old_logps, advantages, clip_eps=0.2):
    ratio = torch.exp(logps - old_logps)
    clipped = torch.clamp(ratio, 1 - clip_eps, 1 + clip_eps)
    obj = torch.where((ratio < 1 - clip_eps) | (ratio > 1 + clip_eps), clipped * advantages, ratio * advantages)
    return -obj.mean()


@PPO.right("AReaL ppo_actor_loss_fn: where(loss_mask), count_nonzero, eps_clip_higher; dict of stats")
def areal(logprobs, proximal_logprobs, advantages, loss_mask, eps_clip=0.2, eps_clip_higher=None):
    n = loss_mask.count_nonzero() or 1
    ratio = torch.where(loss_mask.bool(), torch.exp(logprobs - proximal_logprobs), 0)
    hi = eps_clip if eps_clip_higher is None else eps_clip_higher
    cr = torch.clamp(ratio, 1 - eps_clip, 1 + hi)
    pg = torch.max(-advantages * ratio, -advantages * cr)
    return torch.where(loss_mask.bool(), pg, 0).sum() / n, {"ratio": ratio.detach()}


@PPO.wrong("mask_ignored", "ROLL #444")
def roll_unmasked(log_probs, old_log_probs, advantages, response_mask, clip=0.2):
    r = (log_probs - old_log_probs).exp()
    loss = -torch.min(r * advantages, r.clamp(1 - clip, 1 + clip) * advantages)
    return loss.sum() / response_mask.sum()


@PPO.wrong("mean_over_padding", "SkyRL #462")
def skyrl_mean_all(log_probs, old_log_probs, advantages, loss_mask, clip=0.2):
    r = (log_probs - old_log_probs).exp()
    loss = -torch.min(r * advantages, r.clamp(1 - clip, 1 + clip) * advantages) * loss_mask
    return loss.mean()


@PPO.wrong("dual_clip_everywhere", "tianshou #433")
def dual_all(log_prob, old_log_prob, adv, eps_clip=0.2, dual_clip=3.0):
    ratio = (log_prob - old_log_prob).exp()
    s1, s2 = ratio * adv, ratio.clamp(1 - eps_clip, 1 + eps_clip) * adv
    return -torch.max(torch.min(s1, s2), dual_clip * adv).mean()


@PPO.right("tianshou mended: dual clip for negative ones only", remark="dual clip")
def dual_neg(log_prob, old_log_prob, adv, eps_clip=0.2, dual_clip=3.0):
    ratio = (log_prob - old_log_prob).exp()
    s1, s2 = ratio * adv, ratio.clamp(1 - eps_clip, 1 + eps_clip) * adv
    c1 = torch.min(s1, s2)
    return -torch.where(adv < 0, torch.max(c1, dual_clip * adv), c1).mean()


@PPO.wrong("broadcast", "DeepRL_Algorithms #13")
def broadcast(log_probs, old_log_probs, advantages):
    r = torch.exp(log_probs - old_log_probs)
    return -torch.min(r * advantages.reshape(-1, 1), r.clamp(0.8, 1.2) * advantages.reshape(-1, 1)).mean()


@PPO.wrong("no_gradient", "PPO-PyTorch #18 question: ratios.detach()")
def detached(logprobs, old_logprobs, advantages, eps_clip=0.2):
    r = torch.exp(logprobs - old_logprobs).detach()
    return (
        -torch.min(r * advantages, torch.clamp(r, 1 - eps_clip, 1 + eps_clip) * advantages).mean()
        + 0.0 * logprobs.sum()
    )


@PPO.wrong("entropy_sign", "joyrl #23 / omnisafe #133")
def ent_wrong(log_probs, old_log_probs, advantages, entropy, ent_coef=0.01):
    r = torch.exp(log_probs - old_log_probs)
    pg = torch.max(-advantages * r, -advantages * r.clamp(0.8, 1.2)).mean()
    return pg + ent_coef * entropy.mean()


@PPO.right("cleanrl loss with entropy")
def ent_right(newlogprob, oldlogprob, mb_advantages, entropy, clip_coef=0.2, ent_coef=0.01):
    ratio = (newlogprob - oldlogprob).exp()
    pg = torch.max(-mb_advantages * ratio, -mb_advantages * torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef)).mean()
    return pg - ent_coef * entropy.mean()


@PPO.right(
    "dataclass batch + config (prime-rl style)",
    call=lambda f: lambda x: f(Batch(x.log_probs, x.old_log_probs, x.advantages, x.mask), SimpleNamespace(eps=x.clip)),
)
def batch_cfg(batch, cfg):
    r = (batch.new - batch.old).exp()
    loss = torch.minimum(r * batch.adv, torch.clamp(r, 1 - cfg.eps, 1 + cfg.eps) * batch.adv)
    return -(loss * batch.mask).sum() / batch.mask.sum()


@PPO.wrong(
    "ratio_inverted",
    "old - new; batch form",
    call=lambda f: lambda x: f(Batch(x.log_probs, x.old_log_probs, x.advantages, x.mask), SimpleNamespace(eps=x.clip)),
)
def batch_cfg_inv(batch, cfg):
    r = (batch.old - batch.new).exp()
    loss = torch.minimum(r * batch.adv, torch.clamp(r, 1 - cfg.eps, 1 + cfg.eps) * batch.adv)
    return -(loss * batch.mask).sum() / batch.mask.sum()


@PPO.wrong("maximum", "spinningup #255")
def max_for_min(log_probs, old_log_probs, advantages):
    r = torch.exp(log_probs - old_log_probs)
    return -torch.max(r * advantages, r.clamp(0.8, 1.2) * advantages).mean()


@PPO.wrong("minimum_of_means", "pytorch-cpp-rl #14")
def minimum_of_means(log_probs, old_log_probs, advantages):
    r = (log_probs - old_log_probs).exp()
    return -torch.min((r * advantages).mean(), (r.clamp(0.8, 1.2) * advantages).mean())


@PPO.wrong("", "trl #6078 review")
def log_clip(log_probs, old_log_probs, advantages, epsilon=0.2):
    lr = log_probs - old_log_probs
    c = lr.clamp(-epsilon, epsilon)
    return -(torch.minimum(lr, c).exp() * advantages).mean()


@PPO.right("spinningup form g(eps, A): where(A>0,(1+e)A,(1-e)A)")
def spinup(logp, logp_old, adv, clip_ratio=0.2):
    ratio = torch.exp(logp - logp_old)
    g = torch.where(adv > 0, (1 + clip_ratio) * adv, (1 - clip_ratio) * adv)
    return -torch.min(ratio * adv, g).mean()


@PPO.right("DAPO clip-higher in keyword pair", clip=(0.2, 0.28))
def clip_higher(log_probs, old_log_probs, advantages, completion_mask):
    r = torch.exp(log_probs - old_log_probs)
    loss = torch.min(r * advantages, torch.clamp(r, 0.8, 1.28) * advantages)
    return -(loss * completion_mask).sum() / completion_mask.sum()


@PPO.wrong("product_clipped", "clamp(ratio*adv)")
def clamp_product(log_probs, old_log_probs, advantages, clip=0.2):
    r = torch.exp(log_probs - old_log_probs)
    return -torch.min(r * advantages, torch.clamp(r * advantages, 1 - clip, 1 + clip)).mean()


@PPO.wrong("ratio_of_the_sequence")
def seq_ratio(log_probs, old_log_probs, advantages, mask, clip=0.2):
    r = torch.exp(((log_probs - old_log_probs) * mask).sum(-1, keepdim=True))
    loss = torch.min(r * advantages, r.clamp(1 - clip, 1 + clip) * advantages)
    return -(loss * mask).sum() / mask.sum()


class PolicyLoss(torch.nn.Module):
    def __init__(self, clip_eps_low=0.2, clip_eps_high=0.2, token_level_loss=True):
        super().__init__()
        self.lo, self.hi, self.tok = clip_eps_low, clip_eps_high, token_level_loss

    def forward(self, log_probs, old_log_probs, advantages, action_mask=None):
        ratio = (log_probs - old_log_probs).exp()
        loss = -torch.min(ratio * advantages, ratio.clamp(1 - self.lo, 1 + self.hi) * advantages)
        out = mm(loss, action_mask) if self.tok else ((loss * action_mask).sum(-1) / action_mask.sum(-1)).mean()
        return out, ratio.detach()


@PPO.wrong("difference_without_exp", "new - old")
def no_exp(log_probs, old_log_probs, advantages):
    r = log_probs - old_log_probs
    return -torch.min(r * advantages, r.clamp(0.8, 1.2) * advantages).mean()


@PPO.wrong("quotient_of_log_probs", "new / old")
def log_quot(log_probs, old_log_probs, advantages):
    r = log_probs / old_log_probs
    return -torch.min(r * advantages, r.clamp(0.8, 1.2) * advantages).mean()


@PPO.wrong("one_sided", "clamp(max=)")
def upper(log_probs, old_log_probs, advantages, clip_range=0.2):
    r = (log_probs - old_log_probs).exp()
    return -torch.min(r * advantages, r.clamp(max=1 + clip_range) * advantages).mean()


@PPO.wrong("sign")
def nosign(log_probs, old_log_probs, advantages, clip_range=0.2):
    r = (log_probs - old_log_probs).exp()
    return torch.min(r * advantages, r.clamp(1 - clip_range, 1 + clip_range) * advantages).mean()


@PPO.right("skrl/[N,1] shapes")
def n1(next_log_prob, log_prob_old, advantages, ratio_clip=0.2):
    ratio = torch.exp(next_log_prob - log_prob_old)
    s = advantages * ratio
    return -torch.min(s, advantages * torch.clip(ratio, 1.0 - ratio_clip, 1.0 + ratio_clip)).mean()


@PPO.right("verl rollout_is_weights optional")
def with_tis(log_prob, old_log_prob, advantages, response_mask, rollout_is_weights=None, cliprange=0.2):
    r = (log_prob - old_log_prob).exp()
    loss = torch.maximum(-advantages * r, -advantages * r.clamp(1 - cliprange, 1 + cliprange))
    if rollout_is_weights is not None:
        loss = loss * rollout_is_weights
    return (loss * response_mask).sum() / response_mask.sum(), {}


@PPO.wrong("log_ratio_clipped", "log_ratio.clamp(-eps, eps) symmetrical min")
def rlog(log_probs, old_log_probs, advantages, epsilon=0.2):
    lr = log_probs - old_log_probs
    return -torch.min(lr.exp() * advantages, lr.clamp(1 - epsilon, 1 + epsilon).exp() * advantages).mean()


@PPO.right("the log-ratio is masked, so padding has no gradient")
def mask_logratio_mean(log_probs, old_log_probs, advantages, mask):
    r = ((log_probs - old_log_probs) * mask).exp()
    return -torch.min(r * advantages, r.clamp(0.8, 1.2) * advantages).sum() / mask.sum()


@PPO.wrong("absolute_advantage", "adv.abs()")
def absadv(log_probs, old_log_probs, advantages):
    r = (log_probs - old_log_probs).exp()
    a = advantages.abs()
    return -torch.min(r * a, r.clamp(0.8, 1.2) * a).mean()


@PPO.right("sb3 normalize_advantage (default True)", remark="normalised within the batch")
def sb3(log_prob, old_log_prob, advantages, clip_range=0.2):
    a = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    r = torch.exp(log_prob - old_log_prob)
    return -torch.min(a * r, a * torch.clamp(r, 1 - clip_range, 1 + clip_range)).mean()


PPO.right("the module of OpenRLHF")(PolicyLoss())


@pytest.mark.parametrize(("judge", "verdict", "said"), [*PPO])
def test_the_verdict_is_as_expected(judge, verdict, said):
    assert_as_expected(judge, verdict, said)
