"""Iterative solvers for A x = b with A known by its products only. None promises anything: the caller checks."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["bicgstab", "gmres", "largest", "richardson"]

Operator = Callable[[Tensor], Tensor]

# Below this cosine between two vectors that a step divides by, BiCGSTAB has broken down.
BREAKDOWN = 1e-20


def largest(x: Tensor) -> float:
    """The largest absolute value of ``x``, the norm in which residuals are measured."""
    return float(torch.linalg.vector_norm(x, torch.inf))


def bicgstab(
    apply: Operator, b: Tensor, x: Tensor, target: float, *, steps: int = 1500, shadow: Tensor | None = None
) -> Tensor:
    """BiCGSTAB from ``x``, until the residual is at most ``target``, a breakdown, or ``steps`` steps.

    The usual ``shadow``, the first residual, breaks down at once where rewards are few and states far apart: it is
    orthogonal to every residual that has moved away from it. A vector of fixed random numbers is not.

    Source:
        van der Vorst, "Bi-CGSTAB: A Fast and Smoothly Converging Variant of Bi-CG for the Solution of Nonsymmetric
        Linear Systems", SIAM Journal on Scientific and Statistical Computing 13(2), 1992.
    """
    r = b - apply(x)
    p = r
    if shadow is None:
        shadow = torch.rand(len(r), dtype=r.dtype, generator=torch.Generator().manual_seed(0)).to(r.device) - 0.5
    rho = torch.dot(shadow, r)
    for _ in range(steps):
        if largest(r) <= target:
            break
        v = apply(p)
        alpha = rho / torch.dot(shadow, v)
        s = r - alpha * v
        t = apply(s)
        tt = torch.dot(t, t)
        omega = torch.where(tt > 0, torch.dot(t, s) / tt, 0.0)
        step = alpha * p + omega * s
        if not bool(step.isfinite().all()):
            break
        x, r = x + step, s - omega * t
        rho, previous = torch.dot(shadow, r), rho
        if abs(float(rho)) <= BREAKDOWN * float(shadow.norm() * r.norm()):
            break
        p = r + (rho / previous) * (alpha / omega) * (p - omega * v)
    return x


def gmres(apply: Operator, b: Tensor, x: Tensor, target: float, *, restart: int = 40, cycles: int = 50) -> Tensor:
    """GMRES(``restart``) from ``x``, until the residual is at most ``target``, it stalls, or all ``cycles`` are done.

    Source:
        Saad and Schultz, "GMRES: A Generalized Minimal Residual Algorithm for Solving Nonsymmetric Linear Systems",
        SIAM Journal on Scientific and Statistical Computing 7(3), 1986.
    """
    restart = min(restart, len(b))
    before = torch.inf
    for cycle in range(cycles):
        r = b - apply(x)
        norm = float(r.norm())
        if largest(r) <= target or not _arrives(before, norm, target, cycles - cycle):
            break
        before = norm
        basis, hessenberg = _arnoldi(apply, r / norm, restart)
        rhs = b.new_zeros(len(hessenberg), 1)
        rhs[0] = norm
        y = torch.linalg.lstsq(hessenberg, rhs).solution[:, 0]
        x = x + y @ basis[: len(y)]
    return x


def _arnoldi(apply: Operator, first: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """An orthonormal basis of the Krylov space and the Hessenberg matrix of A in it, of the size that is reached."""
    basis = first.new_zeros(size + 1, len(first))
    hessenberg = first.new_zeros(size + 1, size)
    basis[0] = first
    for j in range(size):
        w = apply(basis[j])
        scale = float(w.norm())
        for _ in range(2):  # once is not enough: the second pass restores orthogonality to rounding
            h = basis[: j + 1] @ w
            w = w - h @ basis[: j + 1]
            hessenberg[: j + 1, j] += h
        norm = float(w.norm())
        if norm <= 1e-14 * scale:
            return basis[: j + 1], hessenberg[: j + 1, : j + 1]
        hessenberg[j + 1, j] = norm
        basis[j + 1] = w / norm
    return basis, hessenberg


def richardson(apply: Operator, b: Tensor, x: Tensor, target: float, *, steps: int = 30_000) -> Tensor:
    """Repeat x ← x + (b − A x), until the residual is at most ``target`` or ``steps`` steps are done.

    For A = I − γP this is the Bellman backup itself, applied again and again.

    Source:
        Puterman, *Markov Decision Processes*, 1994, section 6.3 (value iteration).
    """
    before = torch.inf
    for step in range(steps):
        r = b - apply(x)
        if step % 8 == 0:
            if (now := largest(r)) <= target:
                break
            if step % 1024 == 0:
                if not _arrives(before, now, target, (steps - step) // 1024):
                    break
                before = now
        x = x + r
    return x


def _arrives(before: float, now: float, target: float, rounds: int) -> bool:
    """Whether a residual that fell from `before` to `now` in a round could fall to `target` at ten times that pace."""
    if not now < before:
        return False
    return before == torch.inf or target <= 0 or 10 * rounds * math.log(now / before) <= math.log(target / now)
