"""All groups of responses to one prompt, up to their order, with their probabilities, and sums over them."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgtheory._precision import wide
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import BATCH_LIMIT


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
    chunk = max(1, min(2**12, 2**21 // (size * horizon)))
    groups = itertools.combinations_with_replacement(range(n), size)
    while some := list(itertools.islice(groups, chunk)):
        yield torch.tensor(some, device=device)


def group_probabilities(group: Int[Tensor, "n size"], probabilities: Tensor) -> Float[Tensor, "n"]:
    """The probability of each sorted group in any order: size! / (m_1! m_2! ...) Π_i p_i, with m_j of the j-th kind."""
    place = torch.arange(1, group.shape[-1] + 1, device=group.device)
    begins = torch.nn.functional.pad(group[:, 1:] != group[:, :-1], (1, 0), value=True)
    so_far = place - torch.where(begins, place, 0).cummax(-1).values + 1
    # Factor by factor, the product is the probability of the first i responses as a group: it cannot overflow.
    factors = wide(probabilities)[group] * place / so_far
    return factors.cumprod(-1)[:, -1]


class Moments:
    """The mean of directions of ascent and the trace of their covariance, added up chunk by chunk."""

    def __init__(self, near: Float[Tensor, "S A"]) -> None:
        """Start from nothing; `near` is a table that the mean is expected near to."""
        self.near, self.mean, self.square = near, torch.zeros_like(near), 0.0

    def add(self, probabilities: Float[Tensor, "n"], gradients: Float[Tensor, "n S A"]) -> None:
        """Add gradients of losses, whose negatives are the directions of ascent, with their probabilities."""
        self.mean -= torch.einsum("n,nsa->sa", probabilities, gradients)
        self.square += float(probabilities @ (gradients + self.near).flatten(1).square().sum(-1))

    def variance(self) -> float:
        """The trace of the covariance, when all has been added."""
        # Var[x] = E‖x − c‖² − ‖E[x] − c‖², whatever c; the nearer to the mean, the more digits are left
        return max(0.0, self.square - float((self.mean - self.near).square().sum()))
