"""The direct solution of x = b + γ P x by state reduction: states are eliminated, many at a time, without a difference.

A state j that is eliminated passes what enters it on to where it leads: p(i,k) grows by p(i,j) p(j,k) / (1 − p(j,j)).
The denominator is what j does not keep: the sum of its other entries and of its leak, the mass that leaves the system.
So only nonnegative numbers are added, multiplied and divided, and the factors are right entry by entry, however near
to singular the matrix is.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Elimination", "eliminate"]

# The states that are left over are solved for densely, if they are at most so many.
CORE = 1500


class _Edges(NamedTuple):
    """The entries of γP outside the diagonal."""

    tail: Tensor
    head: Tensor
    weight: Tensor


class _Round(NamedTuple):
    """States that were eliminated together, none of which leads to another: 1/(1 − p(j,j)), and their entries."""

    states: Tensor
    scale: Tensor
    into: _Edges
    out: _Edges


class Elimination(NamedTuple):
    """The factors of I − γP: the rounds of elimination, and the matrix of the states that are left."""

    rounds: list[_Round]
    rest: Tensor
    core: Tensor

    def solve(self, b: Tensor, *, transpose: bool) -> Tensor:
        """The solution of (I − γP) x = b, or of the transposed system."""
        b, x = b.clone(), torch.zeros_like(b)
        for states, scale, into, out in self.rounds:
            x[states] = scale * b[states]
            onward, source, target = (out, out.tail, out.head) if transpose else (into, into.head, into.tail)
            b.index_add_(0, target, onward.weight * x[source])
        matrix = self.core.mT if transpose else self.core
        x[self.rest] = torch.linalg.solve(matrix, b[self.rest, None])[:, 0]
        for states, scale, into, out in reversed(self.rounds):
            back, source, target = (into, into.tail, into.head) if transpose else (out, out.head, out.tail)
            arrived = torch.zeros_like(b).index_add_(0, target, back.weight * x[source])
            x[states] += scale * arrived[states]
        return x


def eliminate(tail: Tensor, head: Tensor, weight: Tensor, leak: Tensor, *, fill: float) -> Elimination | None:
    """Eliminate states until few are left; None if the entries come to exceed `fill` times those at the start.

    Each round takes states that pass little on (entries in times entries out), none beside another.

    Source:
        Grassmann, Taksar and Heyman, "Regenerative Analysis and Steady State Distributions for Markov Chains",
        Operations Research 33(5), 1985; independent sets as in Luby, "A Simple Parallel Algorithm for the Maximal
        Independent Set Problem", SIAM Journal on Computing 15(4), 1986.
    """
    n, leak = len(leak), leak.clone()
    edges = _merged(_Edges(tail, head, weight), n)
    limit, alive = fill * max(n, len(edges.tail)), torch.ones(n, dtype=torch.bool, device=leak.device)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(leak.device)
    rounds: list[_Round] = []
    # To the end where the entries stay few, as on a line of states: there no digit is lost to a dense solution.
    while (left := int(alive.sum())) > CORE or 0 < len(edges.tail) <= 4 * left:
        if len(edges.tail) > limit:
            return None
        chosen = _independent(edges, alive, order)
        if not chosen.any():
            break
        edges, leak, done = _reduced(edges, leak, chosen)
        rounds.append(done)
        alive = alive & ~chosen
    rest = alive.nonzero().squeeze(1)
    if len(rest) > 2 * CORE:
        return None
    return Elimination(rounds, rest, _core(edges, leak, rest))


def _merged(edges: _Edges, n: int) -> _Edges:
    """Entries of one place added up, those on the diagonal and those of weight 0 left out."""
    keep = ((edges.tail != edges.head) & (edges.weight > 0)).nonzero().squeeze(1)
    tail, head, weight = (x[keep] for x in edges)
    key, place = torch.unique(tail * n + head, return_inverse=True)
    return _Edges(key // n, key % n, weight.new_zeros(len(key)).index_add_(0, place, weight))


def _independent(edges: _Edges, alive: Tensor, order: Tensor) -> Tensor:
    """Which states to eliminate next: those that pass on less than all their neighbours; ties are broken at random."""
    n = len(alive)
    passed = torch.bincount(edges.tail, minlength=n) * torch.bincount(edges.head, minlength=n)
    passed = passed.clamp(max=2**20)  # so that the rank below fits 64 bits
    # The cheaper half only: a state that many entries pass through waits until it is one of them.
    bound = passed[alive].median()
    rank = torch.where(alive & (passed <= bound), passed * n + order, torch.iinfo(torch.int64).max)
    nearest = torch.full_like(rank, torch.iinfo(torch.int64).max)
    nearest = nearest.scatter_reduce(0, edges.tail, rank[edges.head], "amin")
    nearest = nearest.scatter_reduce(0, edges.head, rank[edges.tail], "amin")
    return alive & (passed <= bound) & (rank < nearest)


def _reduced(edges: _Edges, leak: Tensor, chosen: Tensor) -> tuple[_Edges, Tensor, _Round]:
    """The entries and the leaks after the chosen states are eliminated, and what it takes to get them back."""
    n = len(leak)
    from_chosen, to_chosen = chosen[edges.tail], chosen[edges.head]
    out, into, others = (
        _Edges(*(x[where] for x in edges)) for where in (from_chosen, to_chosen, ~from_chosen & ~to_chosen)
    )
    left = leak.index_add(0, out.tail, out.weight)
    states = chosen.nonzero().squeeze(1)
    # p(i,j) / (1 − p(j,j)), where 1 − p(j,j) = leak(j) + Σ_{k≠j} p(j,k)
    share = into.weight / left[into.head]
    leak = leak.index_add(0, into.tail, share * leak[into.head])
    # Every entry into j meets every entry out of j; `out` is sorted by its tail.
    degree = torch.bincount(out.tail, minlength=n)
    start = degree.cumsum(0) - degree
    count = degree[into.head]
    entry = torch.arange(len(count), device=leak.device).repeat_interleave(count)
    place = torch.arange(len(entry), device=leak.device) - (count.cumsum(0) - count)[entry] + start[into.head[entry]]
    new = _Edges(into.tail[entry], out.head[place], share[entry] * out.weight[place])
    merged = _merged(_Edges(*(torch.cat(pair) for pair in zip(others, new, strict=True))), n)
    return merged, leak, _Round(states, 1 / left[states], into, out)


def _core(edges: _Edges, leak: Tensor, rest: Tensor) -> Tensor:
    """I − γP over the states that are left, its diagonal by addition."""
    place = torch.zeros(len(leak), dtype=torch.int64, device=leak.device)
    place[rest] = torch.arange(len(rest), device=leak.device)
    matrix = leak.new_zeros(len(rest), len(rest))
    matrix[place[edges.tail], place[edges.head]] = -edges.weight
    return matrix.diagonal_scatter(leak[rest] - matrix.sum(-1))
