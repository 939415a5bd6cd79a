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
    t,
    u,
    row,
    state,
    weight,
    before,
    row_starts,
    left_edges,
    next_state,
    reward_index,
    rewards_of,
    live,
    lengths,
    states,
    actions,
    rewards,
):
    """The step at t of the trajectories in `row`; how many go on, which then stand in front (`trajectories._Walk`)."""
    going, n_actions = 0, weight.shape[1]
    for i in range(len(row)):
        n, s = row[i], state[i]
        # The last action whose left edge is at most u, and which may be taken. Halving without a branch: no guess of the
        # processor at a random number can go wrong.
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
        actions[n, t], rewards[n, t], states[n, t + 1] = a, rewards_of[reward_index[k]], s
        if live[s]:
            row[going], state[going] = n, s
            going += 1
        else:
            lengths[n] = t + 1
    return going


@jit
def pad(first, stop, lengths, states, actions, rewards, mask):
    """Padding after the end of each trajectory, and which steps were taken (`trajectories._Walk.pad`)."""
    for n in range(first, stop):
        length = lengths[n]
        mask[n, :length], mask[n, length:] = True, False
        states[n, length + 1 :] = states[n, length]
        actions[n, length:], rewards[n, length:] = 0, 0
