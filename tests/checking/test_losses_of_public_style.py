"""Losses in the manner of public code, written without a look at the cases: right ones pass, wrong ones do not."""

# mypy: ignore-errors
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pgtheory.checking import check_grpo, check_kl, check_ppo

# --- PPO ---


def cleanrl(newlogprob, oldlogprob, mb_advantages, clip_coef):
    logratio = newlogprob - oldlogprob
    ratio = logratio.exp()
    pg_loss1 = -mb_advantages * ratio
    pg_loss2 = -mb_advantages * torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef)
    return torch.max(pg_loss1, pg_loss2).mean()


def spinning_up(logp, logp_old, adv, clip_ratio=0.2):
    ratio = torch.exp(logp - logp_old)
    clip_adv = torch.clamp(ratio, 1 - clip_ratio, 1 + clip_ratio) * adv
    return -(torch.min(ratio * adv, clip_adv)).mean(), {"kl": (logp_old - logp).mean().item()}


def with_everything(
    new_logprobs, old_logprobs, advantages, entropy, values, returns, clip_eps=0.2, vf_coef=0.5, ent_coef=0.01
):
    ratio = (new_logprobs - old_logprobs).exp()
    surrogate = torch.min(ratio * advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages)
    return -surrogate.mean() + vf_coef * F.mse_loss(values, returns) - ent_coef * entropy.mean()


def of_a_categorical(logits, actions, old_log_probs, advantages, eps_clip=0.2, entropy_coef=0.01):
    dist = torch.distributions.Categorical(logits=logits)
    ratios = torch.exp(dist.log_prob(actions) - old_log_probs)
    surr1, surr2 = ratios * advantages, torch.clamp(ratios, 1 - eps_clip, 1 + eps_clip) * advantages
    return -torch.min(surr1, surr2).mean() - entropy_coef * dist.entropy().mean()


def verl(old_log_prob, log_prob, advantages, response_mask, cliprange=0.2, clip_ratio_c=1.4):
    negative_approx_kl = torch.clamp(log_prob - old_log_prob, min=-20.0, max=20.0)
    ratio = torch.exp(negative_approx_kl)
    pg_losses1 = -advantages * ratio
    pg_losses2 = -advantages * torch.clamp(ratio, 1 - cliprange, 1 + cliprange)
    clip_pg_losses1 = torch.maximum(pg_losses1, pg_losses2)
    pg_losses3 = -advantages * clip_ratio_c
    pg_losses = torch.where(advantages < 0, torch.min(pg_losses3, clip_pg_losses1), clip_pg_losses1)
    return (pg_losses * response_mask).sum() / response_mask.sum()


def trl_masked_mean(new_logprobs, old_logprobs, advantages, padding):
    ratio = torch.exp(new_logprobs - old_logprobs)
    losses = torch.max(-advantages * ratio, -advantages * torch.clamp(ratio, 0.8, 1.2))
    return losses[~padding].mean()


def openrlhf(log_probs, old_log_probs, advantages, action_mask, clip_eps=0.2):
    ratio = (log_probs - old_log_probs).exp()
    loss = -torch.min(ratio * advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages)
    return ((loss * action_mask).sum(-1) / action_mask.sum(-1)).mean()


def a_resp_mask(logps, old_logps, advs, resp_mask):
    r = torch.exp(logps - old_logps)
    per_token = torch.minimum(r * advs, r.clamp(0.8, 1.2) * advs)
    return -torch.where(resp_mask, per_token, torch.zeros_like(per_token)).sum() / resp_mask.sum()


def rllib(curr_logp, prev_logp, advantages, clip_param):
    logp_ratio = torch.exp(curr_logp - prev_logp)
    return torch.mean(
        -torch.min(advantages * logp_ratio, advantages * torch.clamp(logp_ratio, 1 - clip_param, 1 + clip_param))
    )


def tensorflow_baselines(neglogpac, oldneglogpac, adv, cliprange):
    ratio = torch.exp(oldneglogpac - neglogpac)
    return torch.maximum(-adv * ratio, -adv * torch.clip(ratio, 1.0 - cliprange, 1.0 + cliprange)).mean()


def a_bare_numpy_loop(log_probs, old_log_probs, advantages):
    total = 0.0
    for lp, olp, a in zip(log_probs, old_log_probs, advantages, strict=True):
        r = np.exp(float(lp) - float(olp))
        total -= min(r * float(a), float(np.clip(r, 0.8, 1.2)) * float(a))
    return total / len(log_probs)


def vf_sign_irrelevant(logprob, logprob_old, advantage, epsilon):
    ratio = torch.exp(logprob - logprob_old)
    inside = (ratio - 1).abs() <= epsilon
    outward = ((ratio > 1) & (advantage > 0)) | ((ratio < 1) & (advantage < 0))
    return -(torch.where(inside | ~outward, ratio, ratio.detach()) * advantage).mean()


PPO_RIGHT = [
    cleanrl, spinning_up, with_everything, of_a_categorical, verl, trl_masked_mean, openrlhf, a_resp_mask, rllib,
    tensorflow_baselines, a_bare_numpy_loop, vf_sign_irrelevant,
]  # fmt: skip


def ppo(objective, mask=None):
    """A loss of the ratio and the advantages."""
    return lambda log_probs, old_log_probs, advantages: (
        -objective(torch.exp(log_probs - old_log_probs), advantages).mean()
    )


def entropy_added(logits, actions, old_log_probs, advantages, ent_coef=0.01):
    dist = torch.distributions.Categorical(logits=logits)
    ratio = torch.exp(dist.log_prob(actions) - old_log_probs)
    return -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean() + ent_coef * dist.entropy().mean()


def masked_after_the_mean(log_probs, old_log_probs, advantages, mask):
    ratio = torch.exp(log_probs - old_log_probs)
    return -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean() * mask.float().mean()


def first_hole_ends_it(log_probs, old_log_probs, advantages, mask):
    mask = mask.long().cumprod(-1)
    ratio = torch.exp(log_probs - old_log_probs)
    return -(torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages) * mask).sum() / mask.sum()


def advantages_inside_the_ratio(log_probs, old_log_probs, advantages):
    ratio = torch.exp((log_probs - old_log_probs) * advantages)
    return -torch.min(ratio, ratio.clamp(0.8, 1.2)).mean()


def ratio_in_base_two(log_probs, old_log_probs, advantages):
    ratio = 2 ** (log_probs - old_log_probs)
    return -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()


def old_has_the_gradient(log_probs, old_log_probs, advantages):
    ratio = torch.exp(log_probs.detach() - old_log_probs)
    return -(ratio * advantages).mean()


PPO_WRONG = {
    "entropy added": entropy_added,
    "the mean over padding, scaled": masked_after_the_mean,
    "a hole in the mask taken for the end": first_hole_ends_it,
    "advantages in the exponent": advantages_inside_the_ratio,
    "base two": ratio_in_base_two,
    "detached": old_has_the_gradient,
    "the maximum": ppo(lambda r, a: torch.max(r * a, r.clamp(0.8, 1.2) * a)),
    "the clip alone": ppo(lambda r, a: r.clamp(0.8, 1.2) * a),
    "clipped at 0 and 0.2": ppo(lambda r, a: torch.min(r * a, r.clamp(-0.2, 0.2) * a)),
    "no advantage in one term": ppo(lambda r, a: torch.min(r * a, r.clamp(0.8, 1.2))),
    "the clip of the product": ppo(lambda r, a: torch.min(r * a, (r * a).clamp(0.8, 1.2))),
    "halved": ppo(lambda r, a: 0.5 * torch.min(r * a, r.clamp(0.8, 1.2) * a)),
}


@pytest.mark.parametrize("loss", PPO_RIGHT, ids=lambda f: f.__name__)
def test_a_right_ppo_loss_passes(loss):
    report = check_ppo(loss)
    assert report.ok, report


@pytest.mark.parametrize("name", PPO_WRONG)
def test_a_wrong_ppo_loss_does_not(name):
    assert check_ppo(PPO_WRONG[name]).verdict == "wrong"


def test_the_sign_of_the_entropy_is_judged():
    assert "right sign" in " ".join(check_ppo(of_a_categorical).remarks)
    assert check_ppo(entropy_added).diagnosis == "the entropy is penalised: the sign of its term is wrong"


@pytest.mark.parametrize("check", [check_ppo, check_grpo])
def test_bounds_that_were_never_stated_are_asked_for(check):
    def fixed(log_probs, old_log_probs, advantages):
        if advantages.ndim < log_probs.ndim:
            advantages = advantages[..., None]
        ratio = torch.exp(log_probs - old_log_probs)
        return -torch.min(ratio * advantages, ratio.clamp(0.75, 1.35) * advantages).mean()

    def cispo(log_probs, old_log_probs, advantages):
        if advantages.ndim < log_probs.ndim:
            advantages = advantages[..., None]
        weight = torch.exp(log_probs - old_log_probs).clamp(max=5.0).detach()
        return -(weight * advantages * log_probs).mean()

    report = check(fixed)
    assert report.verdict == "abstains"
    assert "clip=(0.25, 0.35)" in report.abstains
    assert check(fixed, clip=(0.25, 0.35)).ok
    report = check(cispo)
    assert report.verdict == "abstains"
    assert "CISPO" in report.abstains


# --- groups of responses ---


def trl_grpo(per_token_logps, old_per_token_logps, advantages, completion_mask, epsilon=0.2):
    coef_1 = torch.exp(per_token_logps - old_per_token_logps)
    coef_2 = torch.clamp(coef_1, 1 - epsilon, 1 + epsilon)
    loss = -torch.min(coef_1 * advantages.unsqueeze(1), coef_2 * advantages.unsqueeze(1))
    return (loss * completion_mask).sum() / completion_mask.sum().clamp(min=1.0)


def cs336(policy_log_probs, old_log_probs, rewards, response_mask, group_size, cliprange=0.2):
    groups = rewards.reshape(-1, group_size)
    a = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-6)).reshape(-1, 1)
    r = torch.exp(policy_log_probs - old_log_probs)
    loss = -torch.min(r * a, torch.clip(r, 1 - cliprange, 1 + cliprange) * a)
    return ((loss * response_mask).sum(-1) / response_mask.sum(-1)).mean()


def grpo_with_kl(logps, old_logps, ref_logps, rewards, mask, beta=0.04):
    a = (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4)
    r = torch.exp(logps - old_logps)
    kl = torch.exp(ref_logps - logps) - (ref_logps - logps) - 1
    loss = -(torch.min(r * a[..., None], r.clamp(0.8, 1.2) * a[..., None]) - beta * kl)
    return ((loss * mask).sum(-1) / mask.sum(-1)).mean()


def dr_grpo(logps, old_logps, rewards, mask):
    a = (rewards - rewards.mean(-1, keepdim=True))[..., None]
    r = torch.exp(logps - old_logps)
    return -(torch.min(r * a, r.clamp(0.8, 1.2) * a) * mask).sum() / mask.numel()


def on_policy(log_probs, rewards, loss_mask):
    a = rewards - rewards.mean(-1, keepdim=True)
    return -((log_probs * loss_mask).sum(-1) * a).mean()


def rloo(log_probs, old_log_probs, rewards, mask):
    k = rewards.shape[-1]
    baseline = (rewards.sum(-1, keepdim=True) - rewards) / (k - 1)
    ratio = torch.exp(log_probs - old_log_probs)
    a = (rewards - baseline)[..., None]
    return -(torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a) * mask).sum(-1).mean()


def minimal_grpo(log_probs, old_log_probs, rewards, action_mask, clip_eps=0.2):
    adv = (rewards - rewards.mean(dim=-1, keepdim=True)) / (rewards.std(dim=-1, keepdim=True) + 1e-8)
    adv = adv.unsqueeze(-1)
    ratio = (log_probs - old_log_probs).exp()
    loss = -torch.min(ratio * adv, ratio.clamp(1 - clip_eps, 1 + clip_eps) * adv)
    return torch.where(action_mask.bool(), loss, 0.0).sum() / action_mask.sum()


def by_uid(log_prob, old_log_prob, rewards, response_mask, uid):
    a = torch.empty_like(rewards)
    for group in set(uid.tolist()):
        own = uid == group
        a[own] = rewards[own] - rewards[own].mean()
    ratio = torch.exp(log_prob - old_log_prob)
    loss = -torch.min(ratio * a[:, None], ratio.clamp(0.8, 1.2) * a[:, None])
    return (loss * response_mask).sum() / response_mask.sum()


def sequence_level(log_probs, old_log_probs, rewards, mask):
    a = (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-6)
    s = (((log_probs - old_log_probs) * mask).sum(-1) / mask.sum(-1)).exp()
    return -torch.min(s * a, s.clamp(0.8, 1.2) * a).mean()


def cispo_in_the_default_bounds(log_probs, old_log_probs, rewards, mask, eps_clip_low, eps_clip_high):
    a = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-6))[..., None]
    weight = torch.exp(log_probs - old_log_probs).clamp(1 - eps_clip_low, 1 + eps_clip_high).detach()
    return -(weight * a * log_probs * mask).sum() / mask.sum()


GRPO_RIGHT = [
    trl_grpo, cs336, grpo_with_kl, dr_grpo, on_policy, rloo, minimal_grpo, by_uid, sequence_level,
    cispo_in_the_default_bounds,
]  # fmt: skip


def grpo(advantage, *, total=lambda x, mask: ((x * mask).sum(-1) / mask.sum(-1)).mean()):
    """A loss of the advantages of the rewards."""

    def loss(log_probs, old_log_probs, rewards, mask):
        a, ratio = advantage(rewards)[..., None], torch.exp(log_probs - old_log_probs)
        return total(-torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a), mask)

    return loss


def centred(r):
    return (r - r.mean(-1, keepdim=True)) / (r.std(-1, keepdim=True) + 1e-6)


def constant(log_probs, old_log_probs, rewards, mask):
    return torch.ones(()) * 3.0


def reference_in_the_ratio(log_probs, old_log_probs, rewards, mask, ref_log_probs, beta):
    a, ratio = centred(rewards)[..., None], torch.exp(log_probs - ref_log_probs)
    kl = torch.exp(ref_log_probs - log_probs) - (ref_log_probs - log_probs) - 1
    loss = -torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a) + beta * kl
    return ((loss * mask).sum(-1) / mask.sum(-1)).mean()


def kl_subtracted(log_probs, old_log_probs, rewards, mask, ref_log_probs, beta=0.04):
    a, ratio = centred(rewards)[..., None], torch.exp(log_probs - old_log_probs)
    kl = torch.exp(ref_log_probs - log_probs) - (ref_log_probs - log_probs) - 1
    loss = -torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a) - beta * kl
    return ((loss * mask).sum(-1) / mask.sum(-1)).mean()


GRPO_WRONG = {
    "a constant": constant,
    "the reference in the ratio": reference_in_the_ratio,
    "the penalty subtracted": kl_subtracted,
    "over the batch": grpo(lambda r: (r - r.mean()) / (r.std() + 1e-6)),
    "the wrong axis": grpo(lambda r: r - r.mean(0, keepdim=True)),
    "the variance": grpo(lambda r: (r - r.mean(-1, keepdim=True)) / (r.var(-1, keepdim=True) + 1e-6)),
    "no ε": grpo(lambda r: (r - r.mean(-1, keepdim=True)) / r.std(-1, keepdim=True)),
    "not centred": grpo(lambda r: r / (r.std(-1, keepdim=True) + 1e-6)),
    "ranks": grpo(lambda r: r.argsort(-1).argsort(-1).double() - (r.shape[-1] - 1) / 2),
    "the sign": grpo(lambda r: -centred(r)),
    "no mask": grpo(centred, total=lambda x, mask: x.mean()),
    "a hole taken for the end": grpo(centred, total=lambda x, mask: (x * mask.long().cumprod(-1)).sum() / mask.sum()),
}


@pytest.mark.parametrize("loss", GRPO_RIGHT, ids=lambda f: f.__name__)
def test_a_right_loss_of_groups_passes(loss):
    report = check_grpo(loss)
    assert report.ok, report


@pytest.mark.parametrize("name", GRPO_WRONG)
def test_a_wrong_loss_of_groups_does_not(name):
    assert check_grpo(GRPO_WRONG[name]).verdict == "wrong"


def test_a_constant_has_no_gradient_and_no_other_name():
    assert check_grpo(constant).diagnosis == "the loss has no gradient"


# --- the divergence ---

KL_RIGHT = {
    "k1": lambda log_probs, ref_log_probs: log_probs - ref_log_probs,
    "k3 of TRL": lambda per_token_logps, ref_per_token_logps: (
        torch.exp(ref_per_token_logps - per_token_logps) - (ref_per_token_logps - per_token_logps) - 1
    ),
    "k3 by expm1": lambda logprobs, ref_logprobs: torch.expm1(ref_logprobs - logprobs) + logprobs - ref_logprobs,
    "k3 of probabilities": lambda probs, ref_probs: ref_probs / probs - torch.log(ref_probs / probs) - 1,
    "a masked mean": lambda logp, ref_logp, completion_mask: (
        ((logp - ref_logp) * completion_mask).sum() / completion_mask.sum()
    ),
    "tokens chosen": lambda logp, ref_logp, resp_mask: (logp - ref_logp)[resp_mask].mean(),
    "numpy": lambda logp, ref_logp: np.exp(np.asarray(ref_logp) - np.asarray(logp)) - 1 + np.asarray(logp - ref_logp),
    "numbers": lambda logp, ref_logp: math.exp(ref_logp - logp) - 1 - (ref_logp - logp),
    "whole, by kl_div": lambda logits, ref_logits: F.kl_div(
        ref_logits.log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1),
    "an update": lambda old_logp, new_logp: ((new_logp - old_logp).exp() - 1) - (new_logp - old_logp),
}
KL_WRONG = {
    "swapped": lambda log_probs, ref_log_probs: ref_log_probs - log_probs,
    "k3 swapped": lambda logp, ref_logp: (logp - ref_logp).exp() - (logp - ref_logp) - 1,
    "absolute": lambda logp, ref_logp: (logp - ref_logp).abs().mean(),
    "doubled": lambda logp, ref_logp: 2 * (logp - ref_logp),
    "clipped": lambda logp, ref_logp: (logp - ref_logp).clamp(min=0),
    "no mask": lambda logp, ref_logp, mask: (logp - ref_logp).mean(),
    "a hole taken for the end": lambda logp, ref_logp, mask: (logp - ref_logp) * mask.long().cumprod(-1),
    "probabilities": lambda logp, ref_logp: logp.exp() - ref_logp.exp(),
    "whole, the other way": lambda logits, ref_logits: F.kl_div(
        logits.log_softmax(-1), ref_logits.softmax(-1), reduction="none"
    ).sum(-1),
    "whole, a mean": lambda logits, ref_logits: F.kl_div(ref_logits.log_softmax(-1), logits.softmax(-1)),
}
KL_LOSS_RIGHT = {
    "k2": lambda logp, ref_logp: 0.5 * (logp - ref_logp) ** 2,
    "the score": lambda logp, ref_logp: (logp - ref_logp).detach() * logp,
    "k2, masked": lambda logp, ref_logp, mask: ((logp - ref_logp) ** 2 / 2 * mask).sum() / mask.sum(),
    "whole": lambda logits, ref_logits: (
        logits.softmax(-1) * (logits.log_softmax(-1) - ref_logits.log_softmax(-1))
    ).sum(-1),
}
KL_LOSS_WRONG = {
    "k1": lambda logp, ref_logp: logp - ref_logp,
    "k3": lambda logp, ref_logp: (ref_logp - logp).exp() - (ref_logp - logp) - 1,
    "the square": lambda logp, ref_logp: (logp - ref_logp).square(),
    "detached": lambda logp, ref_logp: (logp - ref_logp).detach().square() / 2,
}


@pytest.mark.parametrize("name", KL_RIGHT)
def test_a_right_estimate_passes(name):
    report = check_kl(KL_RIGHT[name])
    assert report.ok, report


@pytest.mark.parametrize("name", KL_WRONG)
def test_a_wrong_estimate_does_not(name):
    assert check_kl(KL_WRONG[name]).verdict == "wrong"


@pytest.mark.parametrize("name", [*KL_LOSS_RIGHT, *KL_LOSS_WRONG])
def test_losses_with_the_gradient_of_the_divergence_pass_alone(name):
    report = check_kl({**KL_LOSS_RIGHT, **KL_LOSS_WRONG}[name], as_loss=True)
    assert report.verdict == ("right" if name in KL_LOSS_RIGHT else "wrong"), report
