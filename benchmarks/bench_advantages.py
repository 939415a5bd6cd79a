"""`generalized_advantages` against RLax, TorchRL, CleanRL's loop and the loop that a user would compile with numba."""

import math
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import Case, Claim, Run, normal, uniform
from pgtheory.advantages import generalized_advantages

GAMMA, LAM = 0.99, 0.95
SHAPES = ((256, 2048), (64, 2048))
RATE = 0.005
STEPS = [4**k for k in range(3, 10)]


def given(shape: tuple[int, int], rate: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, the values of T + 1 states, and the ends of episodes."""
    return normal(*shape), normal(shape[0], shape[1] + 1, seed=1), uniform(*shape, seed=2) < rate


def ours(shape: tuple[int, int], rate: float) -> Run:
    rewards, values, ends = given(shape, rate)
    now, after = values[:, :-1].contiguous(), values[:, 1:].contiguous()
    return partial(generalized_advantages, rewards, now, after, GAMMA, LAM, terminated=ends)


def rlax(shape: tuple[int, int], rate: float, *, axis: int = 0) -> Run:
    """Over rows, as ours; with `axis` 1 over columns of tensors with time first, which is how RLax likes them."""
    import jax
    from rlax import truncated_generalized_advantage_estimation as estimate

    given_here = (x.T.contiguous() if axis else x for x in given(shape, rate))
    rewards, values, ends = (jax.numpy.asarray(x.numpy()) for x in given_here)
    discounts = GAMMA * (1.0 - ends)
    run = jax.jit(jax.vmap(estimate, (axis, axis, None, axis), axis))
    return lambda: run(rewards, discounts, LAM, values).block_until_ready()


def torchrl(shape: tuple[int, int], rate: float) -> Run:
    from torchrl.objectives.value.functional import vec_generalized_advantage_estimate as estimate

    rewards, values, ends = given(shape, rate)
    now, after, r, e = (x.unsqueeze(-1) for x in (values[:, :-1], values[:, 1:], rewards, ends))
    return lambda: estimate(GAMMA, LAM, now, after, r, e, e)[0].squeeze(-1)


def cleanrl(shape: tuple[int, int], rate: float) -> Run:
    """The loop of CleanRL's ppo.py, over time-major tensors."""
    rewards, values, ends = (x.T.contiguous() for x in given(shape, rate))
    goes_on = 1.0 - ends.float()

    def run() -> Tensor:
        advantages, later = torch.zeros_like(rewards), torch.zeros_like(rewards[0])
        for t in reversed(range(len(rewards))):
            delta = rewards[t] + GAMMA * values[t + 1] * goes_on[t] - values[t]
            advantages[t] = later = delta + GAMMA * LAM * goes_on[t] * later
        return advantages.T

    return run


@cache
def numba_loop() -> Callable[..., Any]:
    """What a user writes: a loop over time in a parallel loop over rows."""
    import numba as nb
    import numpy as np

    nb.set_num_threads(torch.get_num_threads())

    @nb.njit(parallel=True)
    def loop(rewards: Any, values: Any, ends: Any) -> Any:
        found = np.empty_like(rewards)
        for n in nb.prange(rewards.shape[0]):
            later = 0.0
            for t in range(rewards.shape[1] - 1, -1, -1):
                goes_on = 0.0 if ends[n, t] else 1.0
                later = rewards[n, t] + GAMMA * goes_on * (values[n, t + 1] + LAM * later) - values[n, t]
                found[n, t] = later
        return found

    return loop


def numba(shape: tuple[int, int], rate: float) -> Run:
    return partial(numba_loop(), *(x.numpy() for x in given(shape, rate)))


def truth(shape: tuple[int, int], rate: float) -> object:
    """A loop over time in float64."""
    rewards, values, ends = (x.double() for x in given(shape, rate))
    found, later = torch.empty_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(shape[1])):
        goes_on = 1.0 - ends[:, t]
        later = rewards[:, t] + GAMMA * goes_on * (values[:, t + 1] + LAM * later) - values[:, t]
        found[:, t] = later
    return found


RLAX = {"RLax": rlax, "RLax, time first": partial(rlax, axis=1)}


def case(shape: tuple[int, int], rate: float) -> Case:
    peers = {**RLAX, "TorchRL": torchrl, "CleanRL's loop": cleanrl, "numba, a loop": numba}
    return Case(
        f"generalized_advantages {list(shape)}, {f'ends at rate {rate:g}' if rate else 'no ends'}",
        partial(ours, shape, rate),
        {name: partial(peer, shape, rate) for name, peer in peers.items()},
        (
            Claim("RLax", 2.0, floor=1.6),
            Claim("fastest", 2.0, floor=0.5),
            Claim("RLax", 1 / 1.2, side="plain", floor=0.45 if shape == (256, 2048) else 0.2),
            Claim("CleanRL's loop", 30.0),
        ),
        copy_bytes=4 * math.prod(shape),
        plain=True,
        truth=partial(truth, shape, rate),
        decisive=shape == (256, 2048),
        memory=shape == (256, 2048),
    )


def growth(steps: int) -> Case:
    shape = (64, steps)
    peers = {**RLAX, "CleanRL's loop": cleanrl} if steps <= 2**13 else RLAX
    return Case(
        f"generalized_advantages {list(shape)}",
        partial(ours, shape, RATE),
        {name: partial(peer, shape, RATE) for name, peer in peers.items()},
        plain=True,
        threads=(2,),
        rounds=20,
        series=("generalized_advantages, 64 rows", "T", steps),
    )


def cases() -> list[Case]:
    return [*(case(s, r) for s, r in product(SHAPES, (0.0, RATE))), *map(growth, STEPS)]
