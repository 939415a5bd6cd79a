"""Compiled kernels, by numba: loops that plain torch cannot express without many passes over memory.

Each takes NumPy views of contiguous CPU tensors, works on the rows from `first` up to `stop`, releases the GIL, and
writes into arrays that its caller made (`_compiled.over_rows`). Beside each stands the function whose plain form
defines it.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import numba


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled when it is first called, and kept in numba's cache if there is a folder for it to write.

    The arithmetic is strict: no kernel changes the order of a sum to be faster unless it says so.
    """
    compiled: Callable[..., Any] = numba.njit(nogil=True, error_model="numpy")(function)
    with contextlib.suppress(RuntimeError):  # no folder to write: each process compiles anew
        compiled.enable_caching()  # type: ignore[attr-defined]
    return compiled


# --- returns and advantages ------------------------------------------------------------------------------------------

# --- decoding --------------------------------------------------------------------------------------------------------

# --- trajectories ----------------------------------------------------------------------------------------------------


@jit
def step(
    t: int,
    u: Any,
    row: Any,
    state: Any,
    weight: Any,
    before: Any,
    row_starts: Any,
    left_edges: Any,
    next_state: Any,
    reward_index: Any,
    reward_values: Any,
    live: Any,
    lengths: Any,
    states: Any,
    actions: Any,
    rewards: Any,
) -> int:
    """The step at t of the trajectories in `row`; how many go on, which then stand in front (`trajectories._Walk`)."""
    going, n_actions = 0, weight.shape[1]
    for i in range(len(row)):
        n, s = row[i], state[i]
        # The last action whose left edge is at most u, and which may be taken. The halving has no branch that depends
        # on a random number, which the processor would guess wrong half of the time.
        a, size = 0, n_actions
        while size > 1:
            half = size // 2
            a += half if before[s, a + half] <= u[i] else 0
            size -= half
        while weight[s, a] == 0:
            a -= 1
        # Its last outcome whose left edge is at most u
        k = row_starts[s * n_actions + a]
        size = row_starts[s * n_actions + a + 1] - k
        while size > 1:
            half = size // 2
            k += half if before[s, a] + weight[s, a] * left_edges[k + half] <= u[i] else 0
            size -= half
        s = next_state[k]
        actions[n, t], rewards[n, t], states[n, t + 1] = a, reward_values[reward_index[k]], s
        if live[s]:
            row[going], state[going] = n, s
            going += 1
        else:
            lengths[n] = t + 1
    return going


@jit
def pad(first: int, stop: int, lengths: Any, states: Any, actions: Any, rewards: Any, mask: Any) -> None:
    """Padding after the end of each trajectory, and which steps were taken (`trajectories._Walk.pad`)."""
    for n in range(first, stop):
        length = lengths[n]
        mask[n, :length], mask[n, length:] = True, False
        states[n, length + 1 :] = states[n, length]
        actions[n, length:], rewards[n, length:] = 0, 0
