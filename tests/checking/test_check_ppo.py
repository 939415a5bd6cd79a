"""Every known mistake of a PPO loss is named, and no right loss is told wrong."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pgtheory.checking import UnknownForm
from pgtheory.checking.clipped import ADVANTAGES, SURROGATES
from pgtheory.checking.kinds.ppo import AVERAGES, MISTAKES, case, cases, check_ppo, grids
from pgtheory.checking.loss import LEVELS
from pgtheory.checking.verdicts import quietly
from pgtheory.surrogates import ppo_clip_loss


def clipped(ratio: Tensor, a: Tensor, low: float = 0.2, high: float = 0.2) -> Tensor:
    return torch.min(ratio * a, ratio.clamp(1 - low, 1 + high) * a)


def test_names_keys_and_sources_are_complete_and_unique() -> None:
    assert len({m.key for m in MISTAKES}) == len({m.name for m in MISTAKES}) == len(MISTAKES) >= 24
    for mistake in MISTAKES:
        assert mistake.key.startswith("ppo.")
        assert mistake.sources or mistake.right_form
        assert mistake.implementations
        assert mistake.meaning.endswith((".", ".)"))
        assert mistake.sign.endswith((".", ".)"))


# --- right implementations, as people write them ---------------------------------------------------------------------


def with_the_maximum_of_negated_terms(newlogprob, b_logprobs, mb_advantages, clip_coef=0.2, norm_adv=True):  # type: ignore[no-untyped-def]
    ratio = (newlogprob - b_logprobs).exp()
    if norm_adv:
        mb_advantages = (mb_advantages - mb_advantages.mean()) / (mb_advantages.std() + 1e-8)
    return torch.max(-mb_advantages * ratio, -mb_advantages * ratio.clamp(1 - clip_coef, 1 + clip_coef)).mean()


def normalised_unless_alone(log_prob, old_log_prob, advantages, clip_range):  # type: ignore[no-untyped-def]
    if len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ratio = torch.exp(log_prob - old_log_prob)
    return -torch.min(advantages * ratio, advantages * torch.clamp(ratio, 1 - clip_range, 1 + clip_range)).mean()


def old_first_dual_clip(  # type: ignore[no-untyped-def]
    old_log_prob, log_prob, advantages, response_mask, cliprange_low=None, cliprange_high=None, clip_ratio_c=3.0
):
    ratio = torch.clamp(log_prob - old_log_prob, -20, 20).exp()
    first, second = -advantages * ratio, -advantages * torch.clamp(ratio, 1 - cliprange_low, 1 + cliprange_high)
    above = torch.maximum(first, second)
    losses = torch.where(advantages < 0, torch.min(-advantages * clip_ratio_c, above), above)
    return (losses * response_mask).sum() / response_mask.sum(), (second > first).float().mean()


def by_the_sign_of_the_advantage(logp, logp_old, adv):  # type: ignore[no-untyped-def]
    ratio = torch.exp(logp - logp_old)
    return -torch.minimum(ratio * adv, torch.where(adv > 0, 1.2 * adv, 0.8 * adv)).mean(), {"kl": 0.0}


def clipped_in_the_logarithm(log_prob, prev_log_prob, advantage):  # type: ignore[no-untyped-def]
    weight = log_prob - prev_log_prob
    bound = weight.clamp(math.log1p(-0.2), math.log1p(0.2))
    return {"loss_objective": -torch.min(weight.exp() * advantage, bound.exp() * advantage).mean()}


def of_ratios_in_numpy(prob_ratios_t, adv_t, epsilon):  # type: ignore[no-untyped-def]
    bounded = np.clip(prob_ratios_t, 1 - epsilon, 1 + epsilon)
    return -np.mean(np.minimum(prob_ratios_t * adv_t, bounded * adv_t))


def over_lists(new_logps, old_logps, advs):  # type: ignore[no-untyped-def]
    total = 0.0
    for new, old, a in zip(new_logps, old_logps, advs, strict=True):
        ratio = math.exp(new - old)
        total += min(ratio * a, max(min(ratio, 1.2), 0.8) * a)
    return -total / len(advs)


def of_logits(logits, actions, old_log_probs, advantages):  # type: ignore[no-untyped-def]
    new = torch.distributions.Categorical(logits=logits).log_prob(actions)
    return -clipped((new - old_log_probs).exp(), advantages).mean()


def of_probabilities(pi_a, prob_a, advantage, eps_clip=0.1):  # type: ignore[no-untyped-def]
    return -clipped(torch.exp(torch.log(pi_a) - torch.log(prob_a)), advantage, eps_clip, eps_clip)


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, log_probs, old_log_probs, advantages, action_mask=None):  # type: ignore[no-untyped-def]
        losses = -clipped((log_probs - old_log_probs).exp(), advantages)
        return ((losses * action_mask).sum(-1) / action_mask.sum(-1)).mean()


def calls_backward(log_probs, old, adv):  # type: ignore[no-untyped-def]
    loss = -clipped((log_probs - old).exp(), adv).mean()
    loss.backward()
    return loss.item()


def indexes_with_the_mask(lp, old_lp, advantages, mask):  # type: ignore[no-untyped-def]
    return -clipped((lp[mask] - old_lp[mask]).exp(), advantages[mask]).mean()


def subtracts_from_the_mask(logprobs, old_logprobs, advantages, mask):  # type: ignore[no-untyped-def]
    losses = -clipped((logprobs - old_logprobs).exp(), advantages)
    return (losses * mask + 0 * (1 - mask)).sum() / mask.sum()


def sums_over_episodes(logps, old_logps, adv, mask):  # type: ignore[no-untyped-def]
    return (-clipped((logps - old_logps).exp(), adv) * mask).sum(-1).mean()


def in_place(lp, old, adv):  # type: ignore[no-untyped-def]
    lp.sub_(old)
    return -clipped(lp.exp_(), adv).mean()


def in_single_precision(lp, old, adv):  # type: ignore[no-untyped-def]
    return -clipped((lp.float() - old.float()).exp(), adv.float()).mean()


def of_negative_log_probabilities(neglogpac, oldneglogpac, advs, cliprange):  # type: ignore[no-untyped-def]
    return -clipped(torch.exp(oldneglogpac - neglogpac), advs, cliprange, cliprange).mean()


def keyword_only(*, new_log_probs, old_log_probs, advantages, clip_epsilon):  # type: ignore[no-untyped-def]
    return -clipped((new_log_probs - old_log_probs).exp(), advantages, clip_epsilon, clip_epsilon).mean()


def of_columns(log_probs, old_log_probs, advantages):  # type: ignore[no-untyped-def]
    assert log_probs.shape[1] == 1
    return -clipped((log_probs - old_log_probs).exp(), advantages).mean()


def one_value_per_step(x, y, z):  # type: ignore[no-untyped-def]
    return -clipped((x - y).exp(), z)


def clip_higher(log_prob, old_log_prob, advantages, clip_eps_low=0.2, clip_eps_high=0.28):  # type: ignore[no-untyped-def]
    return -clipped((log_prob - old_log_prob).exp(), advantages, clip_eps_low, clip_eps_high).mean()


def normalised_with_an_eps(logp, logp_old, adv, clip_ratio=0.2, eps=1e-8):  # type: ignore[no-untyped-def]
    adv = (adv - adv.mean()) / (adv.std() + eps)
    return -clipped((logp - logp_old).exp(), adv, clip_ratio, clip_ratio).mean()


def with_an_eps_without_a_default(logp, logp_old, adv, mask, eps, clip_eps):  # type: ignore[no-untyped-def]
    return -(clipped((logp - logp_old).exp(), adv, clip_eps, clip_eps) * mask).sum() / (mask.sum() + eps)


def with_a_small_epsilon_as_the_clip(logp, logp_old, adv, epsilon=3e-4):  # type: ignore[no-untyped-def]
    return -clipped((logp - logp_old).exp(), adv, epsilon, epsilon).mean()


def with_an_epsilon_and_an_eps(logp, logp_old, adv, mask, epsilon=0.2, eps=1e-8):  # type: ignore[no-untyped-def]
    return -(clipped((logp - logp_old).exp(), adv, epsilon, epsilon) * mask).sum() / (mask.sum() + eps)


def with_an_epsilon_and_a_higher_one(logp, logp_old, adv, epsilon, epsilon_high):  # type: ignore[no-untyped-def]
    return -clipped((logp - logp_old).exp(), adv, epsilon, epsilon_high).mean()


def in_a_form_without_a_minimum(lp, old_lp, adv, clip_range):  # type: ignore[no-untyped-def]
    ratio = (lp - old_lp).exp()
    cut = ((adv > 0) & (ratio > 1 + clip_range)) | ((adv < 0) & (ratio < 1 - clip_range))
    return -(ratio * adv * ~cut).mean()


def as_a_weighted_score(log_probs, old_log_probs, advantages):  # type: ignore[no-untyped-def]
    with torch.no_grad():
        ratio = (log_probs - old_log_probs).exp()
        weight = torch.where(advantages > 0, ratio < 1.2, ratio > 0.8) * ratio * advantages
    return -(weight * log_probs).mean()


def of_two_policies(pi, pi_old, advantages):  # type: ignore[no-untyped-def]
    return -clipped(pi / pi_old, advantages).mean()


RIGHT: list[tuple[Callable[..., Any], str]] = [
    (normalised_with_an_eps, "normalised"),
    (with_an_eps_without_a_default, ""),
    (with_a_small_epsilon_as_the_clip, ""),
    (with_an_epsilon_and_an_eps, ""),
    (with_an_epsilon_and_a_higher_one, ""),
    (in_a_form_without_a_minimum, ""),
    (as_a_weighted_score, ""),
    (of_two_policies, ""),
    (ppo_clip_loss, ""),
    (with_the_maximum_of_negated_terms, "normalised"),
    (normalised_unless_alone, "normalised"),
    (old_first_dual_clip, "dual clip"),
    (by_the_sign_of_the_advantage, ""),
    (clipped_in_the_logarithm, ""),
    (of_ratios_in_numpy, "central differences"),
    (over_lists, "central differences"),
    (of_logits, ""),
    (of_probabilities, "one value for each"),
    (Module(), "long episodes"),
    (calls_backward, "backward"),
    (indexes_with_the_mask, ""),
    (subtracts_from_the_mask, ""),
    (sums_over_episodes, "averages over episodes"),
    (in_place, "in place"),
    (in_single_precision, ""),
    (of_negative_log_probabilities, ""),
    (keyword_only, ""),
    (of_columns, ""),
    (one_value_per_step, "one value for each"),
    (clip_higher, ""),
]


@pytest.mark.parametrize(("loss", "remark"), RIGHT, ids=[getattr(f, "__name__", "module") for f, _ in RIGHT])
def test_right_losses_are_right_in_whatever_form(loss: Any, remark: str) -> None:
    unknown = {"x": "log_probs", "y": "old_log_probs", "z": "advantages"}
    report = check_ppo(loss, names=unknown if loss is one_value_per_step else None)
    assert report.ok, str(report)
    assert remark in " ".join(report.remarks)
    assert bool(report.remarks) == bool(remark)


@pytest.mark.parametrize("clip", [0.1, (0.2, 0.28), 0.5])
def test_a_loss_with_bounds_of_its_own_is_right_if_they_are_told(clip: Any) -> None:
    low, high = clip if isinstance(clip, tuple) else (clip, clip)
    report = check_ppo(lambda lp, old, adv: -clipped((lp - old).exp(), adv, low, high).mean(), clip=clip)
    assert report.ok
    assert report.remarks == ()


def test_other_fixed_bounds_are_a_remark() -> None:
    report = check_ppo(lambda lp, old, adv: -clipped((lp - old).exp(), adv, 0.1, 0.3).mean())
    assert report.ok
    assert "other bounds" in report.remarks[0]


# --- unknown errors, and several at once -----------------------------------------------------------------------------

UNKNOWN: list[Callable[..., Any]] = [
    lambda lp, old, adv: -clipped((lp - old).exp(), adv).mean() + 0.01 * lp.mean(),
    lambda lp, old, adv: -clipped((lp - old).exp(), adv**2).mean(),
    lambda lp, old, adv: -0.5 * clipped((lp - old).exp(), adv).mean(),
    lambda lp, old, adv: -clipped(1 + lp - old, adv).mean(),
    lambda lp, old, adv: -clipped((lp - old).exp() ** 2, adv).mean(),
    lambda lp, old, adv: -clipped((lp - old).exp(), adv + 0.1).mean(),
    lambda lp, old, adv, mask: -clipped((lp - old).exp(), adv)[~mask].sum() / mask.sum(),
    lambda lp, old, adv, clip: (
        -torch.min((lp - old).exp() * adv, (lp - old).exp().clamp(1 / (1 + clip), 1 + clip) * adv).mean()
    ),
    lambda lp, old, adv: -torch.minimum((lp - old).exp() * adv, torch.where(adv > 0, 0.8 * adv, 1.2 * adv)).mean(),
    lambda lp, old, adv, mask: -(clipped((lp - old).exp(), adv) * mask).sum() / mask.sum() ** 2,
]


@pytest.mark.parametrize("loss", UNKNOWN)
def test_an_unknown_error_is_wrong_and_not_guessed_at(loss: Any) -> None:
    report = check_ppo(loss)
    assert not report.ok
    assert report.mistakes == ()
    assert report.counterexample is not None


def test_the_counterexample_of_half_a_gradient_is_the_first_transition() -> None:
    example = check_ppo(UNKNOWN[2]).counterexample
    assert example is not None
    assert example.inputs["advantages"].tolist() == [1.0]
    assert example.inputs["log_probs"].tolist() == example.inputs["old_log_probs"].tolist()
    assert example.expected.tolist() == [-1.0]
    assert example.got.tolist() == [-0.5]


def test_what_is_clipped_behind_the_mask_cannot_hide_that_the_mask_is_ignored() -> None:
    report = check_ppo(lambda lp, old, adv, mask: -clipped((old - lp).exp(), adv).mean())
    assert {m.key for m in report.mistakes} == {"ppo.ratio_inverted", "ppo.mask_ignored"}


def test_two_independent_mistakes_are_both_named() -> None:
    report = check_ppo(lambda lp, old, adv, mask: ((old - lp).exp() * adv).mean())
    assert {m.key for m in report.mistakes} == {"ppo.ratio_inverted", "ppo.mask_ignored", "ppo.sign"}
    report = check_ppo(lambda lp, old, adv, mask: -(((lp - old).exp().clamp(0.8, 1.2) * adv.abs()) * mask).mean())
    keys = {"ppo.clipped_term_alone", "ppo.absolute_advantage", "ppo.mean_over_padding"}
    assert {m.key for m in report.mistakes} == keys


def test_a_product_of_a_row_and_a_column_is_named() -> None:
    report = check_ppo(lambda lp, old, adv: -clipped((lp - old).exp().reshape(-1), adv.reshape(-1, 1)).mean())
    assert [m.key for m in report.mistakes] == ["ppo.broadcast"]


def test_a_cut_graph_is_not_hidden_by_lists_of_numbers() -> None:
    def cut(log_probs: Any, old: Any, adv: Any) -> Tensor:
        log_probs, old, adv = (
            torch.tensor(np.asarray(x.detach() if isinstance(x, Tensor) else x)) for x in (log_probs, old, adv)
        )
        return -clipped((log_probs - old).exp(), adv).mean()

    assert check_ppo(cut).diagnosis == "the loss has no gradient"


def test_a_sequence_ratio_is_not_excused_by_columns() -> None:
    report = check_ppo(lambda lp, old, adv: -clipped((lp - old).sum(-1, keepdim=True).exp(), adv).mean())
    assert not report.ok


# --- forms, determinism, oracles -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss", [lambda lp, old, adv: "low", lambda lp, old, adv: None, lambda lp, old, adv: {"entropy": 1.0}]
)
def test_what_is_no_loss_raises_and_names_the_forms(loss: Any) -> None:
    with pytest.raises(UnknownForm, match=r"torch \[N\*T\]"):
        check_ppo(loss)


def test_an_argument_without_a_role_raises_and_names_it() -> None:
    with pytest.raises(UnknownForm, match="'zzz'"):
        check_ppo(lambda log_probs, old_log_probs, advantages, zzz: log_probs.sum())


def test_a_form_can_be_chosen() -> None:
    assert check_ppo(by_the_sign_of_the_advantage, layout="[N, T]").form == "torch [N, T]"


def test_reports_are_the_same_twice_and_random_states_are_untouched() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    assert str(check_ppo(UNKNOWN[1])) == str(check_ppo(UNKNOWN[1]))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002


def test_expected_slopes_are_those_of_equation_7_by_hand() -> None:
    """d/dx of -min(ρA, clip(ρ)A) is -ρA, or 0 where ρ > 1.2 and A > 0, or ρ < 0.8 and A < 0; a mean over the steps."""
    facts = frozenset(["mask", "clip"])
    lengths = [[1] * n + [0] * (6 - n) for n in (6, 1, 3, 2)]
    for x in (found.inputs for found in [*cases(facts), case(31, lengths, (0.2, 0.2))]):
        index = [0, LEVELS.index("token"), ADVANTAGES.index("given"), AVERAGES.index("steps")]
        found = quietly(grids, [x], tuple(SURROGATES))[0].parts(torch.tensor([index])).reshape(x["mask"].shape)
        low, high = 1 - x["clip"], 1 + x["clip_high"]
        count = int(x["mask"].sum())
        for place in np.ndindex(*found.shape):
            a = float(x["advantages"][place])
            ratio = math.exp(float(x["log_probs"][place] - x["old_log_probs"][place]))
            cut = (a > 0 and ratio > high) or (a < 0 and ratio < low) or not x["mask"][place]
            assert float(found[place]) == pytest.approx(0.0 if cut else -ratio * a / count, abs=1e-12)


def test_no_case_lies_at_a_kink() -> None:
    for x in (found.inputs for found in cases(frozenset(["mask", "clip"]))):
        ratio = (x["log_probs"] - x["old_log_probs"]).exp()[x["mask"]]
        for kink in (1 - x["clip"], 1 + x["clip_high"]):
            assert float((ratio - kink).abs().min()) > 1e-2
