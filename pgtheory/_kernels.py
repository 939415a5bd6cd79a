"""Compiled kernels, by numba: loops that plain torch cannot express without many passes over memory.

Each takes NumPy views of contiguous CPU tensors, works on the rows from `first` up to `stop`, releases the GIL, and
writes into arrays that its caller made (`_compiled.over_rows`). Beside each stands the function whose plain form
defines it.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from pgtheory._compiled import over_rows


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled when it is first called, and kept in numba's cache if there is a folder for it to write.

    The arithmetic is strict: no kernel changes the order of a sum to be faster unless it says so.
    """
    compiled: Callable[..., Any] = numba.njit(nogil=True, error_model="numpy")(function)
    with contextlib.suppress(RuntimeError):  # no folder to write: each process compiles anew
        compiled.enable_caching()  # type: ignore[attr-defined]
    return compiled


# --- returns and advantages ------------------------------------------------------------------------------------------

# A sum along time waits for the one before it, so four of them are formed side by side. Rows that are few and long are
# cut into pieces, whose sums are joined afterwards. Arrays are flat, and piece i is one of row i // n_pieces.

BLOCK = 1024


def over_time(
    kernel: Callable[..., None],
    *arguments: Any,
    rate: float,
    sums: Tensor,
    cut: Tensor | None = None,
    taken: Any = None,
) -> bool:
    """Fill `sums`, whose last axis is time, by one of the kernels below, and say whether all of them are finite.

    The kernel fills `cut` as well, where there is one; where `taken` is False the sums are 0.
    """
    horizon, n_threads = sums.shape[-1], torch.get_num_threads()
    n_rows = sums.numel() // max(1, horizon)
    n_pieces = 1 if n_rows >= 16 * n_threads else max(1, min(4 * n_threads, horizon // BLOCK))
    flat_sums, flat_cut = sums.numpy().reshape(-1), None if cut is None else cut.numpy().reshape(-1)
    is_finite = np.ones(1, np.bool_)
    over_rows(kernel, n_rows * n_pieces, *arguments, rate, horizon, n_pieces, flat_cut, flat_sums, is_finite)
    if n_pieces > 1:
        over_rows(join, n_rows, rate, horizon, n_pieces, flat_cut, taken, flat_sums, is_finite)
    return bool(is_finite[0])


@jit
def bounds(piece: int, n_pieces: int, horizon: int) -> Any:
    """Where a piece of a row begins and ends."""
    start, k = piece // n_pieces * horizon, piece % n_pieces
    return start + horizon * k // n_pieces, start + horizon * (k + 1) // n_pieces


@jit
def add_up(first: int, stop: int, terms: Any, rate: float, horizon: int, n_pieces: int, cut: Any, sums: Any) -> None:
    """Σ_l rate^l x_{t+l} within each of up to four pieces, up to a step that is cut off from the next, in float64."""
    last = stop - 1  # formed several times, where there are fewer than four
    b0, e0 = bounds(first, n_pieces, horizon)
    b1, e1 = bounds(min(first + 1, last), n_pieces, horizon)
    b2, e2 = bounds(min(first + 2, last), n_pieces, horizon)
    b3, e3 = bounds(min(first + 3, last), n_pieces, horizon)
    x0, x1, x2, x3 = terms[b0:e0], terms[b1:e1], terms[b2:e2], terms[b3:e3]
    y0, y1, y2, y3 = sums[b0:e0], sums[b1:e1], sums[b2:e2], sums[b3:e3]
    n = min(x0.size, x1.size, x2.size, x3.size)
    # Pieces of one row differ by one step at most: the longer ones begin with their last.
    s0 = s1 = s2 = s3 = 0.0
    if x0.size > n:
        s0 = y0[n] = x0[n]
    if x1.size > n:
        s1 = y1[n] = x1[n]
    if x2.size > n:
        s2 = y2[n] = x2[n]
    if x3.size > n:
        s3 = y3[n] = x3[n]
    if cut is None:
        for k in range(n):
            t = np.uintp(n - 1 - k)  # unsigned: no index counts from the end
            s0 = x0[t] + rate * s0
            s1 = x1[t] + rate * s1
            s2 = x2[t] + rate * s2
            s3 = x3[t] + rate * s3
            y0[t], y1[t], y2[t], y3[t] = s0, s1, s2, s3
    else:
        flags = cut.view(np.uint8)
        c0, c1, c2, c3 = flags[b0:e0], flags[b1:e1], flags[b2:e2], flags[b3:e3]
        weight = np.array([rate, 0.0])  # faster than a choice
        for k in range(n):
            t = np.uintp(n - 1 - k)
            s0 = y0[t] + weight[c0[t]] * s0
            s1 = y1[t] + weight[c1[t]] * s1
            s2 = y2[t] + weight[c2[t]] * s2
            s3 = y3[t] + weight[c3[t]] * s3
            y0[t], y1[t], y2[t], y3[t] = s0, s1, s2, s3


@jit
def join(
    first: int, stop: int, rate: float, horizon: int, n_pieces: int, cut: Any, taken: Any, sums: Any, is_finite: Any
) -> None:
    """Add to the sums of each piece of some rows what comes after the piece."""
    powers = rate ** np.arange(BLOCK, 0, -1)
    for row in range(first, stop):
        for k in range(n_pieces - 2, -1, -1):
            begin, end = bounds(row * n_pieces + k, n_pieces, horizon)
            if cut is not None:
                for t in range(end - 1, begin - 1, -1):
                    if cut[t]:
                        begin = t + 1
                        break
            later, end_of_block = float(sums[end]), end
            while end_of_block > begin:
                block = sums[max(begin, end_of_block - BLOCK) : end_of_block]
                weight = later * rate ** (end - end_of_block)
                if weight == 0.0:  # to what is further back it adds less than the smallest number
                    break
                weights = powers[BLOCK - block.size :]
                for t in range(block.size):
                    block[t] += weights[t] * weight
                end_of_block -= block.size
        finish(row * horizon, (row + 1) * horizon, taken, sums, is_finite)


@jit
def finish(begin: int, end: int, taken: Any, sums: Any, is_finite: Any) -> None:
    """Set to 0 where no step was taken; note what is not finite."""
    y, all_finite = sums[begin:end], True
    if taken is None:
        for t in range(y.size):
            all_finite &= abs(y[t]) < np.inf
    else:
        is_taken = taken[begin:end]
        for t in range(y.size):
            y[t] = y[t] if is_taken[t] else 0
            all_finite &= abs(y[t]) < np.inf
    if not all_finite:
        is_finite[0] = False


@jit
def returns_to_go(
    first: int,
    stop: int,
    rewards: Any,
    mask: Any,
    gamma: float,
    horizon: int,
    n_pieces: int,
    cut: None,
    returns: Any,
    is_finite: Any,
) -> None:
    """`returns._plain_returns`, for each piece of a row alone."""
    for i in range(first, stop, 4):
        begin, end = bounds(i, n_pieces, horizon)[0], bounds(min(i + 4, stop) - 1, n_pieces, horizon)[1]
        if mask is None:
            add_up(i, stop, rewards, gamma, horizon, n_pieces, None, returns)
        else:
            x, taken, y = rewards[begin:end], mask[begin:end], returns[begin:end]
            for t in range(x.size):
                y[t] = x[t] if taken[t] else 0
            add_up(i, stop, returns, gamma, horizon, n_pieces, None, returns)
        if n_pieces == 1:
            finish(begin, end, mask, returns, is_finite)


@jit
def generalized_advantages(
    first: int,
    stop: int,
    rewards: Any,
    values: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any,
    mask: Any,
    has_truncated: bool,
    has_mask: bool,
    gamma: float,
    rate: float,
    horizon: int,
    n_pieces: int,
    cut: Any,
    advantages: Any,
    is_finite: Any,
) -> None:
    """`advantages._plain_advantages`, for each piece of a row alone."""
    for i in range(first, stop, 4):
        begin, end = bounds(i, n_pieces, horizon)[0], bounds(min(i + 4, stop) - 1, n_pieces, horizon)[1]
        r, v, after = rewards[begin:end], values[begin:end], next_values[begin:end]
        is_last, is_truncated, is_taken = terminated[begin:end], truncated[begin:end], mask[begin:end]
        ends, errors = cut[begin:end], advantages[begin:end]
        for t in range(r.size):
            taken = is_taken[t] | (not has_mask)
            error = r[t] + gamma * (0 if is_last[t] else after[t]) - v[t]
            errors[t] = error if taken else 0
            ends[t] = is_last[t] | (is_truncated[t] & has_truncated) | (not taken)
        add_up(i, stop, advantages, rate, horizon, n_pieces, cut, advantages)
        if n_pieces == 1:
            finish(begin, end, None, advantages, is_finite)


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
