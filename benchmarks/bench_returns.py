"""`returns_to_go` against RLax, SciPy, TorchRL and the loop that a user would compile with numba."""

import math
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import Case, Claim, Run, normal, uniform
from pgtheory.returns import returns_to_go

SHAPES = ((1024, 1024), (256, 2048), (1, 1_000_000))
STEPS = [4**k for k in range(3, 10)]


def given(shape: tuple[int, int], *, masked: bool) -> tuple[Tensor, Tensor | None]:
    """Rewards, and a mask of rows with padding on the right."""
    rewards = normal(*shape)
    lengths = (uniform(shape[0], 1, seed=1) * shape[1]).ceil()
    return rewards, torch.arange(shape[1], device=rewards.device) < lengths if masked else None


def ours(shape: tuple[int, int], gamma: float, *, masked: bool) -> Run:
    rewards, mask = given(shape, masked=masked)
    return partial(returns_to_go, rewards, gamma, mask=mask)


def rewards_as_numpy(shape: tuple[int, int], *, masked: bool) -> Any:
    """What a peer without masks is given: zeros where nothing happened, put there before the clock starts."""
    rewards, mask = given(shape, masked=masked)
    return (rewards if mask is None else torch.where(mask, rewards, 0)).numpy()


def rlax(shape: tuple[int, int], gamma: float, *, masked: bool, axis: int = 0) -> Run:
    """Over rows, as ours; with `axis` 1 over columns of rewards with time first, which is how RLax likes them."""
    import jax
    from rlax import discounted_returns

    rewards = rewards_as_numpy(shape, masked=masked)
    rewards = jax.numpy.asarray(rewards.T.copy() if axis else rewards)
    discounts = jax.numpy.full_like(rewards, gamma)
    run = jax.jit(jax.vmap(discounted_returns, (axis, axis, None), axis))
    return lambda: run(rewards, discounts, 0.0).block_until_ready()


def scipy(shape: tuple[int, int], gamma: float, *, masked: bool) -> Run:
    from scipy.signal import lfilter

    backward = rewards_as_numpy(shape, masked=masked)[:, ::-1]
    numerator, denominator = backward.dtype.type([1.0]), backward.dtype.type([1.0, -gamma])
    return lambda: lfilter(numerator, denominator, backward)[:, ::-1]


def torchrl(shape: tuple[int, int], gamma: float, *, masked: bool) -> Run:
    from torchrl.objectives.value.functional import reward2go

    rewards = torch.from_numpy(rewards_as_numpy(shape, masked=masked)).unsqueeze(-1)
    done = torch.zeros_like(rewards, dtype=torch.bool)
    done[:, -1] = True
    return lambda: reward2go(rewards, done, gamma).squeeze(-1)


@cache
def numba_loop() -> Callable[..., Any]:
    """What a user writes: a loop over time in a parallel loop over rows."""
    import numba
    import numpy as np

    numba.set_num_threads(torch.get_num_threads())

    @numba.njit(parallel=True)
    def loop(rewards: Any, gamma: float) -> Any:
        found = np.empty_like(rewards)
        for n in numba.prange(rewards.shape[0]):
            later = 0.0
            for t in range(rewards.shape[1] - 1, -1, -1):
                later = rewards[n, t] + gamma * later
                found[n, t] = later
        return found

    return loop


def numba(shape: tuple[int, int], gamma: float, *, masked: bool) -> Run:
    return partial(numba_loop(), rewards_as_numpy(shape, masked=masked), gamma)


def truth(shape: tuple[int, int], gamma: float, *, masked: bool) -> object:
    """SciPy's filter in float64."""
    from scipy.signal import lfilter

    rewards = rewards_as_numpy(shape, masked=masked).astype("float64")
    found = lfilter([1.0], [1.0, -gamma], rewards[:, ::-1])[:, ::-1].copy()
    _, mask = given(shape, masked=masked)
    return found if mask is None else found * mask.numpy()


def claims(*, masked: bool) -> tuple[Claim, ...]:
    """With a mask at most 1.5 times the limit without."""
    return (
        Claim("RLax", 2.0),
        Claim("fastest", 2.0, floor=0.75),
        Claim("RLax", 1 / 1.2, side="plain"),
        Claim("copy", 1 / 4.5, floor=0.11) if masked else Claim("copy", 1 / 3, floor=0.13),
    )


def case(shape: tuple[int, int], gamma: float, *, masked: bool) -> Case:
    peers = {"RLax": rlax, "RLax, time first": partial(rlax, axis=1), "SciPy lfilter": scipy, "numba, a loop": numba}
    if math.prod(shape) < 2**20 and shape[0] > 1:  # elsewhere seconds, for what is never the fastest
        peers["TorchRL"] = torchrl
    return Case(
        f"returns_to_go {list(shape)}, γ = {gamma:g}{', masked' if masked else ''}",
        partial(ours, shape, gamma, masked=masked),
        {name: partial(peer, shape, gamma, masked=masked) for name, peer in peers.items()},
        claims(masked=masked),
        work="returns_to_go, masked" if masked else "",
        copy_bytes=4 * math.prod(shape),
        plain=True,
        truth=partial(truth, shape, gamma, masked=masked),
        decisive=gamma < 1 and shape != (256, 2048),
        memory=gamma < 1 and shape == (1024, 1024),
    )


GROWN = {"RLax": rlax, "RLax, time first": partial(rlax, axis=1), "SciPy lfilter": scipy}


def growth(steps: int) -> Case:
    shape = (64, steps)
    return Case(
        f"returns_to_go {list(shape)}",
        partial(ours, shape, 0.99, masked=False),
        {name: partial(f, shape, 0.99, masked=False) for name, f in GROWN.items()},
        plain=True,
        threads=(2,),
        rounds=20,
        series=("returns_to_go, 64 rows", "T", steps),
    )


def cases() -> list[Case]:
    table = [case(s, g, masked=m) for s, g, m in product(SHAPES, (0.99, 1.0), (False, True))]
    return [*table, *map(growth, STEPS)]
