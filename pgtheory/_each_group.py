"""All groups of responses to one prompt, up to their order, with their probabilities, and sums over them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgtheory._precision import wide
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import BATCH_LIMIT, CHUNK


def prompts(mdp: FiniteMDP) -> Iterator[tuple[Tensor, FiniteMDP]]:
    """The probability of each start state, and the MDP that starts there."""
    for state in mdp.initial.nonzero().flatten().tolist():
        start = torch.zeros_like(mdp.initial)
        start[state] = 1.0
        yield mdp.initial[state], replace(mdp, initial=start)


def groups_up_to_order(n: int, size: int, horizon: int, device: torch.device) -> Iterator[Int[Tensor, "some size"]]:
    """Chunk by chunk, the sorted groups of `size` of n responses of at most `horizon` steps."""
    # There are C(n + K − 1, K) groups, a number that is computed only where its logarithm says that it is short.
    known = math.lgamma(n + size) - math.lgamma(size + 1) - math.lgamma(n) < 50
    n_groups = math.comb(n + size - 1, size) if known else 0
    if not known or n_groups * size * horizon > BATCH_LIMIT:
        number = f"{n_groups:,}" if known else "more than 10^20"
        raise ValueError(f"there are {number} groups of {size} responses: make size or horizon smaller")
    chunk = max(1, CHUNK // (size * horizon))
    numbers = itertools.chain.from_iterable(itertools.combinations_with_replacement(range(n), size))
    while len(some := np.fromiter(itertools.islice(numbers, chunk * size), np.int64)):
        yield torch.from_numpy(some).view(-1, size).to(device)


def group_probabilities(group: Int[Tensor, "n size"], probabilities: Tensor) -> Float[Tensor, "n"]:
    """The probability of each sorted group in any order: size! / (m_1! m_2! ...) Π_i p_i, with m_j of the j-th kind."""
    place = torch.arange(1, group.shape[-1] + 1, device=group.device)
    begins = torch.nn.functional.pad(group[:, 1:] != group[:, :-1], (1, 0), value=True)
    so_far = place - torch.where(begins, place, 0).cummax(-1).values + 1
    # Factor by factor, the product is the probability of the first i responses as a group: it cannot overflow.
    factors = wide(probabilities)[group] * place / so_far
    return factors.cumprod(-1)[:, -1]
