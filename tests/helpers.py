"""What the tests share."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from pgtheory import _compiled
from pgtheory.mdp import FiniteMDP

ROOT = Path(__file__).parents[1]
F64 = torch.float64
HAS_NUMBA = importlib.util.find_spec("numba") is not None
needs_numba = pytest.mark.skipif(not HAS_NUMBA, reason="needs the extra fast")


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of random numbers of its own, so that no test depends on another."""
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64, the same each time."""
    return torch.randn(shape, generator=seeded(seed), dtype=F64)


def assert_same_up_to_rounding(found: Tensor, expected: Tensor, ulps: int = 4) -> None:
    """One number by two routes, batch shapes or kernels: a sum in another order rounds otherwise, on some machines.

    `ulps` counts roundings, each of at most the dtype's epsilon times the largest entry. `torch.equal` is for what
    has one value on every machine: the same call twice, integers, entries that are copied or selected, and numbers
    that are exact in binary (sums of few halves, quarters, ...; a number plus zeros).
    """
    finite = expected.detach().where(expected.isfinite(), 0.0)
    tolerance = ulps * torch.finfo(expected.dtype).eps * float(finite.abs().max())
    torch.testing.assert_close(found, expected, rtol=0.0, atol=tolerance)


PATHS = ["plain", "compiled", "compiled in pieces"]


def take_path(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small tensors, too, take the kernels, on one thread or on two, or let none take them."""
    if path == "plain":
        monkeypatch.setenv("PGTHEORY_FAST", "0")
        return
    if not HAS_NUMBA:
        pytest.skip("needs the extra fast")
    monkeypatch.setattr(_compiled, "LEAST", 0)
    from pgtheory import _kernels

    n_threads = 1
    if path == "compiled in pieces":
        monkeypatch.setattr(_kernels, "LEAST_PIECE", 3)
        monkeypatch.setattr(_kernels, "LEAST_PART", 1)
        n_threads = 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)


def load(path: str) -> ModuleType:
    """A file of Python that belongs to no package, by its place in the repository."""
    spec = importlib.util.spec_from_file_location(f"under_test_{Path(path).stem}", ROOT / path)
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where its named tuples look it up
    spec.loader.exec_module(module)
    return module


def numbered_chapters() -> list[Path]:
    """The chapters with a number, each of which has its module, in the order of the book."""
    return list(load(".ci/exercises.py").chapters())


def random_policy(mdp: FiniteMDP, *batch: int, seed: int = 0) -> Tensor:
    """Strictly positive on A(s), zero elsewhere."""
    weights = torch.rand(*batch, mdp.n_states, mdp.n_actions, dtype=torch.float64, generator=seeded(seed)) + 0.1
    weights = torch.where(mdp.available, weights, 0.0)
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-9)


def hardly_better(units: int) -> FiniteMDP:
    """One decision, then three steps more: four rewards of 1, of which one action makes the first `units` eps larger.

    At the uniform policy ∇J = (1, -1) units eps / 4, and four steps of values up to 4 have a rounding error of as much
    as 16 eps · 4 · 4 · ‖(1/2, -1/2)‖: the two are equally long where `units` is 512.
    """
    better = 1.0 + units * torch.finfo(F64).eps
    outcomes = [(0, 0, 1, better, 1.0), (0, 1, 1, 1.0, 1.0), *((s, 0, s + 1, 1.0, 1.0) for s in (1, 2, 3))]
    return FiniteMDP.from_outcomes(outcomes, n_states=5, n_actions=2, initial=0, terminal=[4])


def numpy_system(mdp: FiniteMDP, policy: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """P_π and r_π by loops over the outcomes, in NumPy."""
    P, r = np.zeros((mdp.n_states, mdp.n_states)), np.zeros(mdp.n_states)
    for s, a, s_next, index, p in zip(*(column.tolist() for column in mdp.outcomes), strict=True):
        P[s, s_next] += float(policy[s, a]) * p
        r[s] += float(policy[s, a]) * p * float(mdp.rewards[index])
    return P, r


def numpy_values(mdp: FiniteMDP, policy: Tensor, gamma: float) -> np.ndarray:
    P, r = numpy_system(mdp, policy)
    return np.linalg.solve(np.eye(mdp.n_states) - gamma * P, r)
