"""The solution of (I − γP) x = b, or of the transposed system, with P given by the outcomes of an MDP."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgtheory import _checks
from pgtheory._elimination import eliminate
from pgtheory._krylov import bicgstab, gmres, largest, richardson
from pgtheory.mdp import DENSE_LIMIT, FiniteMDP

__all__ = ["System", "solve"]

# Up to this many states the linear system is solved densely: there LU costs about as much as a Krylov method, or less.
DENSE_STATES = 600

# Systems of more states are solved one by one: once `torch.set_num_threads` has been called with more than one thread,
# torch 2.13 with MKL solves a batch of systems of 130 states or more wrongly, by several per cent and without an error.
BATCHED_STATES = 64

# A solution is returned only if its residual is at most this fraction of the right-hand side, in the maximum norm.
RESIDUAL = 1e-10

# Elimination is given up when the matrix has come to hold so many times the entries that it had.
FILL = 4.0

# The Krylov methods aim lower, so that rounding does not decide whether the check is passed.
TARGET = 1e-13


class System(NamedTuple):
    """I − γP, or its transpose, up to the weights that the outcomes of the MDP have in P."""

    mdp: FiniteMDP
    gamma: float
    transpose: bool

    @property
    def state(self) -> Int[Tensor, "K"]:
        """The state that each outcome leaves."""
        return self.mdp.outcomes.state

    @property
    def next_state(self) -> Int[Tensor, "K"]:
        """The state that each outcome leads to."""
        return self.mdp.outcomes.next_state


def solve(
    weights: Float[Tensor, "*batch K"], b: Float[Tensor, "*batch S"], system: System
) -> Float[Tensor, "*batch S"]:
    """The solution, in float64, with its residual checked; differentiable in the weights and in b."""
    fits = b.shape[-1] <= DENSE_STATES and b.numel() * b.shape[-1] <= DENSE_LIMIT
    return (_solve_dense if fits else _solve_sparsely)(weights, b, system)


def _solve_dense(weights: Float[Tensor, "*batch K"], b: Float[Tensor, "*batch S"], system: System) -> Tensor:
    n = b.shape[-1]
    cell = system.state * n + system.next_state
    P = weights.new_zeros(*weights.shape[:-1], n * n).index_add(-1, cell, weights).reshape(*b.shape, n)
    matrix = torch.eye(n, dtype=b.dtype, device=b.device) - system.gamma * (P.mT if system.transpose else P)
    x: Tensor = (_solve_each if n > BATCHED_STATES and b.ndim > 1 else _solve_at_once)(matrix, b)
    if not _checks.is_traced(weights, b):
        with torch.no_grad():
            _check_residual((b - (matrix @ x[..., None])[..., 0]), b, x)
    return x


def _solve_each(matrix: Float[Tensor, "*batch S S"], b: Float[Tensor, "*batch S"]) -> Tensor:
    """One system after another."""
    if b.numel() == 0 or _checks.is_traced(matrix, b):
        return _solve_at_once(matrix, b)
    each = zip(matrix.flatten(0, -3), b.flatten(0, -2), strict=True)
    return torch.stack([torch.linalg.solve(A, row) for A, row in each]).reshape(b.shape)


def _solve_at_once(matrix: Float[Tensor, "*batch S S"], b: Float[Tensor, "*batch S"]) -> Tensor:
    x: Tensor = torch.linalg.solve(matrix, b[..., None])[..., 0]
    return x


def _check_residual(residual: Tensor, b: Tensor, x: Tensor) -> None:
    """Raise unless the residual is at most 1e-10 of b, or of the size of the rounding of x."""
    limit = _limit(b, x)
    size = residual.abs().amax(-1)
    bad = ~(size <= limit)
    if bad.any():
        worst = float((size / b.abs().amax(-1))[bad][0])
        raise RuntimeError(
            f"the linear system was not solved: the residual is {worst:.1e} of the right-hand side, "
            f"not {RESIDUAL:.0e}; episodes are too long for iterative solvers (gamma or a probability "
            "of staying is close to 1), and the MDP too large and too entangled for direct ones"
        )


def _limit(b: Tensor, x: Tensor) -> Tensor:
    return torch.maximum(RESIDUAL * b.abs().amax(-1), 16 * torch.finfo(x.dtype).eps * x.abs().amax(-1))


class _SparseSolve(torch.autograd.Function):
    """The solution of a sparse ``System``, with the adjoint system as its derivative."""

    @staticmethod
    def forward(weights: Tensor, b: Tensor, system: System) -> Tensor:
        flat_weights, flat_b = weights.reshape(-1, weights.shape[-1]), b.reshape(-1, b.shape[-1])
        rows = [_solve_one(w, row, system) for w, row in zip(flat_weights, flat_b, strict=True)]
        return torch.stack(rows).reshape(b.shape) if rows else torch.zeros_like(b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        weights, _, ctx.system = inputs
        ctx.save_for_backward(weights, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weights, x = ctx.saved_tensors
        system: System = ctx.system
        # (I − γP)ᵀ λ = ∂L/∂x, then ∂L/∂b = λ and ∂L/∂P(s,s') = γ λ(s) x(s')
        adjoint = _solve_sparsely(weights, grads[0], system._replace(transpose=not system.transpose))
        left, right = (x, adjoint) if system.transpose else (adjoint, x)
        into_weights = None
        if ctx.needs_input_grad[0]:
            state, next_state = system.state, system.next_state
            into_weights = system.gamma * left.index_select(-1, state) * right.index_select(-1, next_state)
        return into_weights, adjoint, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        front = [a.expand(info.batch_size, *a.shape) if d is None else a.movedim(d, 0)
                 for a, d in zip(args[:2], in_dims[:2], strict=True)]  # fmt: skip
        return _solve_sparsely(front[0], front[1], args[2]), 0


def _solve_sparsely(weights: Float[Tensor, "*batch K"], b: Float[Tensor, "*batch S"], system: System) -> Tensor:
    x: Tensor = _SparseSolve.apply(weights, b, system)  # type: ignore[no-untyped-call]
    return x


def _solve_one(weights: Float[Tensor, "K"], b: Float[Tensor, "S"], system: System) -> Tensor:
    """The first answer whose residual passes the check: BiCGSTAB, elimination, GMRES, repeated backups, LU."""
    P = _sparse_matrix(weights, len(b), system)

    def apply(x: Tensor) -> Tensor:
        return x - system.gamma * (P @ x)

    def elimination(_: Any, b: Tensor, x: Tensor, __: float) -> Tensor:
        return _solve_by_elimination(weights, b, x, system)

    x = torch.zeros_like(b)
    krylov = (gmres, richardson)
    for method in (elimination, bicgstab, *krylov) if _is_line(len(b), system) else (bicgstab, elimination, *krylov):
        attempt = method(apply, b, x, TARGET * largest(b))
        if largest(b - apply(attempt)) <= largest(b - apply(x)):
            x = attempt
        if largest(b - apply(x)) <= float(_limit(b, x)):
            return x
    if len(b) ** 2 <= DENSE_LIMIT:
        return _solve_dense(weights, b, system)
    _check_residual(b - apply(x), b, x)
    return x


def _is_line(n: int, system: System) -> bool:
    """Whether a state leads to two others on average, or fewer: few entries then arise when states are eliminated."""
    if len(system.state) > 8 * n:
        return False
    elsewhere = system.state != system.next_state
    return len(torch.unique((system.state * n + system.next_state)[elsewhere])) <= 2.2 * n


def _solve_by_elimination(weights: Tensor, b: Tensor, x: Tensor, system: System) -> Tensor:
    """The direct solution, or `x` where too many entries would arise."""
    kept = torch.zeros_like(b).index_add_(0, system.state, weights)
    # A row that sums to 1 up to rounding loses γ's share and no more: over long episodes even rounding would count.
    kept = torch.where((kept - 1).abs() <= 64 * torch.finfo(b.dtype).eps, 1.0, kept)
    leak = (1 - system.gamma) + system.gamma * (1 - kept)
    factors = eliminate(system.state, system.next_state, system.gamma * weights, leak, fill=FILL)
    return x if factors is None else factors.solve(b, transpose=system.transpose)


def _sparse_matrix(weights: Tensor, n: int, system: System) -> Tensor:
    """P, or its transpose, in compressed rows; entries of one place are left apart."""
    columns, starts = system.next_state, system.mdp._row_starts[:: system.mdp.n_actions]
    if system.transpose:
        order, starts = system.mdp._arrivals
        columns, weights = system.state[order], weights[order]
    positive = weights.nonzero().squeeze(1)
    if 2 * len(positive) < len(weights):  # a deterministic policy: most outcomes are those of actions not taken
        starts = torch.searchsorted(positive, starts.contiguous())
        columns, weights = columns[positive], weights[positive]
    index = torch.int32 if len(columns) < 2**31 else torch.int64
    with warnings.catch_warnings():
        # torch 2.11 gives the second even to those who opt out, as here.
        beta_or_unchecked = "Sparse (CSR tensor support is in beta|invariant checks are implicitly disabled)"
        warnings.filterwarnings("ignore", message=beta_or_unchecked)
        return torch.sparse_csr_tensor(starts.to(index), columns.to(index), weights, (n, n), check_invariants=False)
