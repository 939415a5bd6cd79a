"""The expected gradient of a loss over all batches, and the ledgers: batches a second, and how cost grows with them."""

from functools import partial

import torch
from torch import Tensor

from benchmarks.case import DEVICE, Case, Claim, Run, normal
from pgtheory.gallery import token_tree
from pgtheory.groups import group_bias_ledger
from pgtheory.off_policy import off_policy_ledger
from pgtheory.policy_gradient import expected_gradient
from pgtheory.reinforce import reinforce_loss

TREES = {2**8: (2, 4), 3**8: (3, 4), 4**8: (4, 4), 2**20: (2, 10)}  # batches of two: tokens and length of the tree
RATE = 1e6


def loss(log_probs: Tensor, rewards: Tensor, gamma: float, /, *, mask: Tensor) -> Tensor:
    return reinforce_loss(log_probs, rewards, gamma, mask=mask)


def ours(n_tokens: int, length: int) -> Run:
    mdp = token_tree(n_tokens, length).to(device=DEVICE)
    h = normal(mdp.n_states, n_tokens, dtype=torch.float64)
    return partial(expected_gradient, loss, mdp, h, 1.0, horizon=length, batch_size=2)


def ledger(n_tokens: int, length: int, *, off_policy: bool) -> Run:
    mdp = token_tree(n_tokens, length).to(device=DEVICE)
    h = normal(mdp.n_states, n_tokens, dtype=torch.float64)
    if off_policy:
        sampler = normal(mdp.n_states, n_tokens, seed=1, dtype=torch.float64).softmax(-1)
        return partial(off_policy_ledger, mdp, h, sampler, horizon=length, size=3)
    return partial(group_bias_ledger, mdp, h, horizon=length, size=3)


def case(batches: int) -> Case:
    n_tokens, length = TREES[batches]
    return Case(
        f"expected_gradient, token tree, {batches:,} batches",
        partial(ours, n_tokens, length),
        claims=(Claim("seconds", batches / RATE, floor=0.8 if batches > 10**6 else None),) if batches > 10**4 else (),
        work=f"expected_gradient, {batches:,} batches",
        decisive=batches == 4**8,
        rounds=10 if batches < 10**6 else 3,
        memory=batches > 10**4,
        before=batches < 10**6,  # it takes half a minute
        series=("expected_gradient, batches of two", "batches", batches),
    )


def cases() -> list[Case]:
    ledgers = [
        Case(f"{name}, 27 responses, groups of three", partial(ledger, 3, 3, off_policy=off), rounds=8, memory=True)
        for name, off in (("group_bias_ledger", False), ("off_policy_ledger", True))
    ]
    return [*map(case, TREES), *ledgers]
