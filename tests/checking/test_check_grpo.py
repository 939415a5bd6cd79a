"""Every known mistake of a group loss is named, and every published objective is told right, with its name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pgtheory.checking import UnknownForm
from pgtheory.checking.clipped import SURROGATES
from pgtheory.checking.group_losses import AVERAGES, GROUP_ADVANTAGES, group_advantages
from pgtheory.checking.kinds.grpo import MISTAKES, case, check_grpo, grids
from pgtheory.checking.loss import LEVELS
from pgtheory.checking.verdicts import quietly
from pgtheory.groups import group_bias_ledger, group_loss_variants, grpo_loss
from pgtheory.mdp import FiniteMDP

RIGHT: dict[str, Callable[..., Any]] = {}
WRONG: dict[str, Callable[..., Any]] = {}


def right(loss: Callable[..., Any]) -> Callable[..., Any]:
    RIGHT[loss.__name__] = loss
    return loss


def wrong(loss: Callable[..., Any]) -> Callable[..., Any]:
    WRONG[loss.__name__] = loss
    return loss


def test_names_keys_and_sources_are_complete_and_unique() -> None:
    assert len({m.key for m in MISTAKES}) == len({m.name for m in MISTAKES}) == len(MISTAKES) >= 35
    for mistake in MISTAKES:
        assert mistake.key.startswith("grpo.")
        assert mistake.sources or mistake.right_form
        assert mistake.implementations


# --- as people write them --------------------------------------------------------------------------------------------


def clipmin(r, a, lo=0.2, hi=0.2):
    return torch.min(r * a, r.clamp(1 - lo, 1 + hi) * a)


@right
def trl(
    per_token_logps,
    old_per_token_logps,
    advantages,
    completion_mask,
    ref_per_token_logps,
    beta=0.04,
    epsilon_low=0.2,
    epsilon_high=0.2,
):  # type: ignore[no-untyped-def]
    kl = torch.exp(ref_per_token_logps - per_token_logps) - (ref_per_token_logps - per_token_logps) - 1
    c1 = torch.exp(per_token_logps - old_per_token_logps)
    c2 = torch.clamp(c1, 1 - epsilon_low, 1 + epsilon_high)
    losses = -torch.min(c1 * advantages.unsqueeze(1), c2 * advantages.unsqueeze(1)) + beta * kl
    return ((losses * completion_mask).sum(-1) / completion_mask.sum(-1).clamp(min=1.0)).mean()


@right
def flat(logprobs, old_logprobs, rewards, mask, group_size):  # type: ignore[no-untyped-def]
    g = rewards.view(-1, group_size)
    adv = (
        (rewards - g.mean(1).repeat_interleave(group_size)) / (g.std(1).repeat_interleave(group_size) + 1e-4)
    ).unsqueeze(1)
    r = (logprobs - old_logprobs).exp()
    return -(clipmin(r, adv) * mask).sum() / mask.sum()


@right
def one_group(logp, old_logp, rewards, mask):  # type: ignore[no-untyped-def]
    adv = (rewards - rewards.mean()) / (rewards.std() + 1e-8)
    adv = adv[:, None]
    r = (logp - old_logp).exp()
    losses = -clipmin(r, adv) * mask
    return (losses.sum(dim=1) / mask.sum(dim=1)).mean()


@right
def nomask(log_probs, old_log_probs, rewards):  # type: ignore[no-untyped-def]
    adv = (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True, unbiased=False) + 1e-6)
    r = (log_probs - old_log_probs).exp()
    return -clipmin(r, adv[..., None]).mean()


@right
def onpolicy(log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    adv = rewards - rewards.mean(-1, keepdim=True)
    return -(adv.unsqueeze(-1) * log_probs * mask).sum() / mask.numel()


@right
def onpolicy2(log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    adv = rewards - rewards.mean(-1, keepdim=True)
    r = (log_probs - log_probs.detach()).exp()
    return -(clipmin(r, adv.unsqueeze(-1)) * mask).sum(-1).mean()


@right
def batchscale(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    adv = (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std() + 1e-4)
    r = (log_probs - old_log_probs).exp()
    return -(clipmin(r, adv[..., None]) * mask).sum() / mask.sum()


@right
def rloo_n(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    n = rewards.shape[-1]
    adv = (rewards - rewards.mean(-1, keepdim=True)) * n / (n - 1)
    r = ((log_probs - old_log_probs) * mask).sum(-1).exp()
    return -clipmin(r, adv).mean()


@right
def gspo(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    adv = (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4)
    lr = ((log_probs - old_log_probs) * mask).sum(-1) / mask.sum(-1)
    return -clipmin(lr.exp(), adv).mean()


@right
def gspo_token(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    adv = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4))[..., None]
    lr = ((log_probs - old_log_probs) * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)
    s = (log_probs - log_probs.detach() + lr.detach()).exp()
    return -((clipmin(s, adv) * mask).sum(-1) / mask.sum(-1)).mean()


@right
def loop(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    tot = 0.0
    for g in range(len(rewards)):
        m, s = rewards[g].mean(), rewards[g].std()
        for i in range(rewards.shape[1]):
            a = (rewards[g, i] - m) / (s + 1e-8)
            k = mask[g, i]
            r = torch.exp(log_probs[g, i][k] - old_log_probs[g, i][k])
            tot = tot + clipmin(r, a).mean()
    return -tot / rewards.numel()


@right
def np_one(logps, old_logps, rewards):  # type: ignore[no-untyped-def]
    rewards = np.asarray(rewards)
    adv = (rewards - np.mean(rewards)) / (np.std(rewards) + 1e-8)
    r = np.exp(np.asarray(logps) - np.asarray(old_logps))
    a = adv.reshape(len(rewards), 1)
    assert r.ndim == 2
    return -np.mean(np.minimum(r * a, np.clip(r, 0.8, 1.2) * a))


@right
def torchtune(pi_old_logprobs, pi_logprobs, ref_logprobs, advantages, padding_masks=None):  # type: ignore[no-untyped-def]
    ratios = torch.exp(pi_logprobs - pi_old_logprobs)
    a = advantages[:, None]
    pol = torch.min(a * ratios, a * torch.clamp(ratios, 0.9, 1.1))
    d = ref_logprobs - pi_logprobs
    kl = torch.exp(d) - d - 1
    pt = pol - 0.1 * kl

    def m(x):  # type: ignore[no-untyped-def]
        return (x * padding_masks).sum() / padding_masks.sum()

    return -m(pt), -m(pol), m(kl), ratios.mean(), 0


@right
def raw(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    r = (log_probs - old_log_probs).exp()
    return -(clipmin(r, rewards[..., None]) * mask).sum(-1).mean()


@right
def k2pen(log_probs, old_log_probs, rewards, mask, ref_log_probs, beta):  # type: ignore[no-untyped-def]
    adv = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4))[..., None]
    r = (log_probs - old_log_probs).exp()
    losses = -clipmin(r, adv) + beta * 0.5 * (log_probs - ref_log_probs) ** 2
    return ((losses * mask).sum(-1) / mask.sum(-1)).mean()


@right
def uid(log_prob, old_log_prob, rewards, response_mask, index):  # type: ignore[no-untyped-def]
    adv = torch.zeros_like(rewards)
    for u in index.unique():
        k = index == u
        adv[k] = (rewards[k] - rewards[k].mean()) / (rewards[k].std() + 1e-6)
    r = (log_prob - old_log_prob).exp()
    return -(clipmin(r, adv[:, None]) * response_mask).sum() / response_mask.sum()


@right
def matrixrewards(logps, old_logps, rewards, mask):  # type: ignore[no-untyped-def]
    assert logps.dim() == rewards.dim() == 2
    adv = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).reshape(-1, 1)
    r = (logps - old_logps).exp()
    return -((clipmin(r, adv) * mask).sum(1) / mask.sum(1)).mean()


@right
def logitsform(logits, actions, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    lp = torch.log_softmax(logits, -1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    adv = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4))[..., None]
    r = (lp - old_log_probs).exp()
    return -((clipmin(r, adv) * mask).sum(-1) / mask.sum(-1)).mean()


@right
def an_eps_beside_the_clip(log_probs, old_log_probs, rewards, mask, clip_eps=0.2, eps=1e-8):  # type: ignore[no-untyped-def]
    adv = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + eps))[..., None]
    r = (log_probs - old_log_probs).exp()
    return -(clipmin(r, adv, clip_eps, clip_eps) * mask).sum() / mask.sum()


@right
def an_eps_alone(log_probs, old_log_probs, rewards, mask, group_size, eps=1e-6):  # type: ignore[no-untyped-def]
    groups = rewards.split(group_size)
    adv = torch.cat([(g - g.mean()) / (g.std() + eps) for g in groups])
    return -((clipmin((log_probs - old_log_probs).exp(), adv[:, None]) * mask).sum(-1) / mask.sum(-1)).mean()


@right
def a_tiny_weight_of_the_penalty(log_probs, old_log_probs, rewards, mask, ref_log_probs):  # type: ignore[no-untyped-def]
    adv = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4))[..., None]
    d = ref_log_probs - log_probs
    losses = -clipmin((log_probs - old_log_probs).exp(), adv) + 0.001 * (d.exp() - d - 1)
    return ((losses * mask).sum(-1) / mask.sum(-1)).mean()


@wrong
def not_centred(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    adv = (rewards / (rewards.std(-1, keepdim=True) + 1e-6))[..., None]
    return -((clipmin((log_probs - old_log_probs).exp(), adv) * mask).sum(-1) / mask.sum(-1)).mean()


@wrong
def kl_detached(log_probs, old_log_probs, rewards, mask, ref_log_probs, beta=0.04):  # type: ignore[no-untyped-def]
    adv = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4))[..., None]
    d = (ref_log_probs - log_probs).detach()
    losses = beta * (d.exp() - d - 1) - clipmin((log_probs - old_log_probs).exp(), adv)
    return ((losses * mask).sum(-1) / mask.sum(-1)).mean()


@wrong
def kl_in_the_reward(log_probs, old_log_probs, rewards, mask, ref_log_probs, beta):  # type: ignore[no-untyped-def]
    rewards = rewards - beta * ((log_probs - ref_log_probs) * mask).sum(-1)
    adv = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4))[..., None]
    return -((clipmin((log_probs - old_log_probs).exp(), adv) * mask).sum(-1) / mask.sum(-1)).mean()


@wrong
def dimzero(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    adv = ((rewards - rewards.mean(0, keepdim=True)) / (rewards.std(0, keepdim=True) + 1e-4))[..., None]
    r = (log_probs - old_log_probs).exp()
    return -((clipmin(r, adv) * mask).sum(-1) / mask.sum(-1)).mean()


@wrong
def flatrepeat(logprobs, old_logprobs, rewards, mask, num_generations):  # type: ignore[no-untyped-def]
    g = rewards.view(-1, num_generations)
    adv = ((rewards - g.mean(1).repeat(num_generations)) / (g.std(1).repeat(num_generations) + 1e-4)).unsqueeze(1)
    r = (logprobs - old_logprobs).exp()
    return -(clipmin(r, adv) * mask).sum() / mask.sum()


@wrong
def double_neg(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    adv = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4))[..., None]
    r = (log_probs - old_log_probs).exp()
    return (torch.min(r * adv, r.clamp(0.8, 1.2) * adv) * mask).sum() / mask.sum()


@wrong
def wrong_den(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    adv = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4))[..., None]
    r = (log_probs - old_log_probs).exp()
    return -(clipmin(r, adv) * mask).sum() / mask.sum(-1).float().mean() ** 2


@wrong
def nomaskmean(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    adv = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4))[..., None]
    r = (log_probs - old_log_probs).exp()
    return -clipmin(r, adv).mean()


@wrong
def kl_ref_as_old(log_probs, old_log_probs, rewards, mask, ref_log_probs, beta):  # type: ignore[no-untyped-def]
    adv = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4))[..., None]
    r = (log_probs - ref_log_probs).exp()
    return -((clipmin(r, adv) * mask).sum(-1) / mask.sum(-1)).mean()


@wrong
def kl_mean_all(log_probs, old_log_probs, rewards, mask, ref_log_probs, beta):  # type: ignore[no-untyped-def]
    adv = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4))[..., None]
    r = (log_probs - old_log_probs).exp()
    d = ref_log_probs - log_probs
    return -((clipmin(r, adv) * mask).sum(-1) / mask.sum(-1)).mean() + beta * (d.exp() - d - 1).mean()


@wrong
def hard_k1(log_probs, old_log_probs, rewards, mask, ref_log_probs):  # type: ignore[no-untyped-def]
    adv = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4))[..., None]
    r = (log_probs - old_log_probs).exp()
    losses = -clipmin(r, adv) + 0.04 * (log_probs - ref_log_probs)
    return ((losses * mask).sum(-1) / mask.sum(-1)).mean()


@wrong
def noeps_flip(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    adv = ((rewards - rewards.mean(-1, keepdim=True)) / rewards.std(-1, keepdim=True))[..., None]
    r = (log_probs - old_log_probs).exp()
    return (clipmin(r, adv) * mask).sum() / mask.sum()


@wrong
def squash(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    adv = torch.tanh(rewards - rewards.mean(-1, keepdim=True))[..., None]
    r = (log_probs - old_log_probs).exp()
    return -(clipmin(r, adv) * mask).sum() / mask.sum()


@wrong
def median(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    adv = (rewards - rewards.median(-1, keepdim=True).values)[..., None]
    r = (log_probs - old_log_probs).exp()
    return -(clipmin(r, adv) * mask).sum() / mask.sum()


@wrong
def groupmax(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    adv = (rewards - rewards.amax(-1, keepdim=True))[..., None]
    r = (log_probs - old_log_probs).exp()
    return -(clipmin(r, adv) * mask).sum() / mask.sum()


@wrong
def noold(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    adv = (rewards - rewards.mean(-1, keepdim=True))[..., None]
    return -(adv * log_probs * mask).sum() / mask.sum()


@wrong
def shiftmask(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
    mask = torch.cat([mask[..., 1:], torch.zeros_like(mask[..., :1])], -1)
    adv = (rewards - rewards.mean(-1, keepdim=True))[..., None]
    r = (log_probs - old_log_probs).exp()
    return -(clipmin(r, adv) * mask).sum() / mask.sum().clamp(min=1)


WORDS = {
    "trl": "advantages as given; a ratio for each token; the mean over the tokens of each response",
    "flat": "standard deviation of the group (ddof 1); a ratio for each token; the mean over all tokens of the batch",
    "nomask": "(ddof 0)",
    "onpolicy": "no ratio: right only for the policy that drew the responses; the sum over all tokens",
    "batchscale": "all rewards of the batch (ddof 1)",
    "rloo_n": "leave one out), not divided by a standard deviation; one ratio for the whole response",
    "gspo": "a geometric mean (GSPO)",
    "gspo_token": "a geometric mean (GSPO)",
    "torchtune": "other bounds",
    "raw": "without a baseline",
    "k2pen": "the gradient of k2",
    "np_one": "central differences",
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_losses_are_right_in_whatever_form_and_the_report_says_which_they_are(name: str) -> None:
    report = check_grpo(RIGHT[name], names={"padding_masks": "mask"} if name == "torchtune" else None)
    assert report.ok, str(report)
    assert report.remarks[0].startswith("the objective: ")
    assert WORDS.get(name, "") in " ".join(report.remarks)


def test_which_polarity_a_padding_mask_has_is_asked_for() -> None:
    report = check_grpo(RIGHT["torchtune"])
    assert report.verdict == "abstains"
    assert "names={'padding_masks': 'mask'}" in report.abstains


DIAGNOSES = {
    "not_centred": {"not_centred"},
    "kl_detached": {"kl_without_gradient"},
    "kl_in_the_reward": set(),
    "dimzero": {"wrong_grouping"},
    "flatrepeat": {"repeat_for_repeat_interleave"},
    "double_neg": {"sign"},
    "wrong_den": set(),
    "nomaskmean": {"mask_ignored"},
    "kl_ref_as_old": {"ratio_to_the_reference", "kl_without_gradient"},
    "kl_mean_all": {"kl_unmasked"},
    "hard_k1": {"kl_k1_as_loss"},
    "noeps_flip": {"sign", "no_epsilon"},
    "squash": set(),
    "median": set(),
    "groupmax": set(),
    "noold": {"ratio_missing"},
    "shiftmask": set(),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_losses_are_named_where_they_are_known_and_not_guessed_at_elsewhere(name: str) -> None:
    report = check_grpo(WRONG[name])
    assert not report.ok
    assert {m.key for m in report.mistakes} == {f"grpo.{key}" for key in DIAGNOSES[name]}
    assert report.counterexample is not None


@pytest.mark.parametrize("variant", ["grpo", "dr_grpo", "dapo", "gspo", "rloo"])
def test_the_variants_of_the_package_are_right(variant: Any) -> None:
    def loss(log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, *, mask: Tensor) -> Tensor:
        return grpo_loss(log_probs, old_log_probs, rewards, mask=mask, variant=variant)

    report = check_grpo(loss)
    assert report.ok
    unbiased = variant in ("rloo", "dr_grpo")
    assert (report.details["angle in degrees"] < 1e-3) == unbiased
    if variant == "rloo":
        assert report.details["length"] == pytest.approx(1.0)
    if variant == "dr_grpo":
        assert report.details["length"] == pytest.approx(2 / 3 / 2)  # (K - 1) / K over T


# --- oracles ---------------------------------------------------------------------------------------------------------


def test_the_counterexample_of_a_wrong_sign_is_right_by_hand() -> None:
    example = check_grpo(WRONG["noeps_flip"]).counterexample
    assert example is not None
    assert example.inputs["rewards"].tolist() == [[2.0, -1.5]]
    # A = ±1.75 / 2.4749 = ±0.7071, averaged over two tokens; the sign of the loss is turned.
    assert example.got.flatten().tolist() == pytest.approx([0.35355, -0.35355], abs=1e-4)
    assert example.expected.flatten().tolist() == pytest.approx([-0.35355, 0.35355], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        (("clipped", "token", "group mean std1", "response GS"), "grpo"),
        (("clipped", "token", "group mean 1", "length GS"), "dr_grpo"),
        (("clipped", "token", "group mean std1", "tokens GS"), "dapo"),
        (("clipped", "geometric_mean", "group mean std1", "response GS"), "gspo"),
        (("clipped", "token", "group others 1", "sum GS"), "rloo"),
    ],
)
def test_hypotheses_are_the_gradients_of_the_reference(name: tuple[str, ...], variant: Any) -> None:
    for seed, spread in ((3, 0.0), (5, 0.5)):
        lengths = (2, 1, 4, 3, 1, 3, 3, 5, 5, 1, 2, 2)
        x = case(seed, (3, 4, 5), " ".join("1" * n + "0" * (5 - n) for n in lengths), (0.2, 0.2), spread).inputs
        leaf = x["log_probs"].clone().requires_grad_()
        grpo_loss(leaf, x["old_log_probs"], x["rewards"], mask=x["mask"], variant=variant).backward()
        assert leaf.grad is not None
        axes = (tuple(SURROGATES), LEVELS, GROUP_ADVANTAGES, AVERAGES)
        index = torch.tensor([[axis.index(choice) for axis, choice in zip(axes, name, strict=True)]])
        found = quietly(grids, [x], tuple(SURROGATES), GROUP_ADVANTAGES, frozenset(), {})[0].parts(index)
        responses = 12 if "tokens" in name[3] else 1  # there the norm "GS" is one constant more
        assert torch.allclose(found.reshape(3, 4, 5) * responses, leaf.grad, atol=1e-4)


def test_advantages_by_hand() -> None:
    rewards, taken = torch.tensor([[1.0, 3.0, 8.0], [0.0, 2.0, 4.0]], dtype=torch.float64), torch.ones(2, 3, 2) > 0
    assert group_advantages("group mean 1", rewards, taken).tolist() == [[-3, -1, 4], [-2, 0, 2]]
    assert group_advantages("group others 1", rewards, taken).tolist() == [[-4.5, -1.5, 6], [-3, 0, 3]]
    assert group_advantages("batch mean 1", rewards, taken).tolist() == [[-2, 0, 5], [-3, -1, 1]]
    assert group_advantages("group mean std1", rewards, taken)[1].tolist() == [-1, 0, 1]
    assert group_advantages("group mean var1", rewards, taken)[1].tolist() == [-0.5, 0, 0.5]
    assert group_advantages("columns mean 1", rewards, taken).tolist() == [[0.5, 0.5, 2], [-0.5, -0.5, -2]]
    assert group_advantages("repeat 1", rewards, taken).tolist() == [[-3, 1, 4], [-2, -2, 2]]


@pytest.mark.parametrize("name", group_loss_variants())
def test_angle_and_length_are_those_of_the_exact_ledger(name: str) -> None:
    """Two prompts with the answers (0), (1, 0) and (1, 1), as an MDP: another enumeration, by other code."""
    outcomes = []
    for root, (first, second, third) in ((0, (1.0, 0.0, 3.0)), (2, (0.0, 2.0, 0.0))):
        outcomes += [(root, 0, 4, first, 1.0), (root, 1, root + 1, 0.0, 1.0)]
        outcomes += [(root + 1, 0, 4, second, 1.0), (root + 1, 1, 4, third, 1.0)]
    tree = FiniteMDP.from_outcomes(outcomes, n_states=5, n_actions=2, initial=[0.5, 0, 0.5, 0, 0], terminal=[4])
    h = torch.tensor([[0.5, 0.0], [0.2, 0.0], [-1.0, 0.0], [0.0, 0.7], [0.0, 0.0]], dtype=torch.float64)
    loss = group_loss_variants()[name]
    (row,) = group_bias_ledger(tree, h, horizon=2, losses={name: loss})

    def named(log_probs: Any, old_log_probs: Any, rewards: Any, mask: Any) -> Any:
        return loss(log_probs, old_log_probs, rewards, mask=mask)

    report = check_grpo(named)
    assert report.ok
    assert report.details["angle in degrees"] == pytest.approx(row.angle, abs=2e-3)
    assert report.details["length"] == pytest.approx(row.length, rel=1e-6)


# --- forms and determinism -------------------------------------------------------------------------------------------


def test_what_is_no_loss_raises_and_names_the_forms() -> None:
    with pytest.raises(UnknownForm, match=r"torch \[groups, size, T\]"):
        check_grpo(lambda log_probs, old_log_probs, rewards, mask: "low")


def test_an_argument_without_a_role_raises_and_names_it() -> None:
    with pytest.raises(UnknownForm, match="'zzz'"):
        check_grpo(lambda log_probs, old_log_probs, rewards, zzz: log_probs.sum())


def test_reports_are_the_same_twice() -> None:
    assert str(check_grpo(WRONG["squash"])) == str(check_grpo(WRONG["squash"]))


def test_one_group_cannot_excuse_a_baseline_of_the_batch() -> None:
    def loss(log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
        a = ((rewards - rewards.mean()) / (rewards.std() + 1e-4)).unsqueeze(-1)
        return -((clipmin((log_probs - old_log_probs).exp(), a) * mask).sum(-1) / mask.sum(-1)).mean()

    assert [m.key for m in check_grpo(loss).mistakes] == ["grpo.baseline_of_the_batch"]


def test_an_unknown_fault_between_groups_is_not_excused_by_one_group() -> None:
    def loss(log_probs, old_log_probs, rewards, mask):  # type: ignore[no-untyped-def]
        own = rewards.mean(-1, keepdim=True)
        a = ((rewards - own) * (2 + rewards.mean() - own)).unsqueeze(-1)
        return -(clipmin((log_probs - old_log_probs).exp(), a) * mask).sum(-1).mean()

    report = check_grpo(loss)
    assert not report.ok
    assert report.mistakes == ()
    assert any("for one row [size, T] it is right" in remark for remark in report.remarks)
    assert check_grpo(loss, layout="torch [size, T]").ok
