"""Implementations of well-kept libraries pass their checks: no false verdict.

CleanRL's scripts are no library; their lines are written anew here, in the same form.
"""

from pathlib import Path

import pytest
import torch
from peers.peer_functions import PEERS, Peer, processors, stable_baselines_ppo_loss
from peers.verdicts import rows_of
from torch import Tensor

from pgtheory.checking import check_advantages, check_ppo, check_top_k, check_top_p

PAGE = Path(__file__).parents[2] / "book" / "verdicts.md"


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: f"{peer.library}-{peer.function}")
def test_a_well_kept_library_is_right(peer: Peer) -> None:
    report = peer.report()
    assert report.ok, report


def test_the_page_of_verdicts_has_these_rows_and_all_are_right() -> None:
    rows = rows_of(PAGE.read_text(encoding="utf-8"))
    assert sorted((row[0], row[1]) for row in rows) == sorted((peer.library, peer.function) for peer in PEERS)
    assert {row[-1] for row in rows} == {"right"}


def test_transformers_truncations_are_right_in_a_function_too() -> None:
    process = processors()
    assert check_top_k(lambda logits, k: process.TopKLogitsWarper(top_k=k)(None, logits))
    assert check_top_p(lambda logits, p: process.TopPLogitsWarper(top_p=p)(None, logits))


@pytest.mark.parametrize("normalize", [False, True])
def test_stable_baselines_normalisation_is_a_remark(normalize: bool) -> None:
    report = stable_baselines_ppo_loss(normalize)
    assert any("standardise" in remark or "normalise" in remark for remark in report.remarks) == normalize


# --- CleanRL's form ---


def test_cleanrls_advantages_are_right() -> None:
    def advantages(
        rewards: Tensor,
        dones: Tensor,
        values: Tensor,
        next_value: Tensor,
        next_done: Tensor,
        gamma: float,
        gae_lambda: float,
    ) -> tuple[Tensor, Tensor]:
        advantages, last = torch.zeros_like(rewards), 0
        for t in reversed(range(len(rewards))):
            if t == len(rewards) - 1:
                alive, following = 1.0 - next_done.to(rewards), next_value
            else:
                alive, following = 1.0 - dones[t + 1].to(rewards), values[t + 1]
            delta = rewards[t] + gamma * following * alive - values[t]
            advantages[t] = last = delta + gamma * gae_lambda * alive * last
        return advantages, advantages + values

    report = check_advantages(advantages)
    assert report.ok, report


def test_cleanrls_ppo_loss_is_right() -> None:
    def loss(newlogprob: Tensor, b_logprobs: Tensor, mb_advantages: Tensor, clip_coef: float) -> Tensor:
        logratio = newlogprob - b_logprobs
        ratio = logratio.exp()
        mb_advantages = (mb_advantages - mb_advantages.mean()) / (mb_advantages.std() + 1e-8)
        pg_loss1 = -mb_advantages * ratio
        pg_loss2 = -mb_advantages * torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef)
        return torch.max(pg_loss1, pg_loss2).mean()

    report = check_ppo(loss)
    assert report.ok, report
