"""Compiled kernels, by numba: loops that plain torch cannot express without many passes over memory.

Each takes NumPy views of contiguous CPU tensors, works on the rows from `first` up to `stop`, releases the GIL, and
writes into arrays that its caller made (`_compiled.over_rows`). Beside each stands the function whose plain form
defines it.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from pgtheory._compiled import over_rows

Array = np.ndarray[Any, Any]


def jit(function: Callable[..., Any], *, fused: bool = False, reordered: bool = False) -> Callable[..., Any]:
    """`function`, compiled when it is first called, and kept in numba's cache if there is a folder for it to write.

    The arithmetic is strict, but for what is said: `fused` lets a product and a sum be rounded once together,
    `reordered` a sum be added up in any order.
    """
    flags = {name for name, wanted in (("contract", fused), ("reassoc", reordered)) if wanted}
    compiled: Callable[..., Any] = numba.njit(nogil=True, error_model="numpy", fastmath=flags or False)(function)
    with contextlib.suppress(RuntimeError):  # no folder to write: each process compiles anew
        compiled.enable_caching()  # type: ignore[attr-defined]
    return compiled


# --- returns and advantages ------------------------------------------------------------------------------------------

# A sum along time waits for the one before it, so four of them are formed side by side. Rows that are few and long are
# cut into pieces, whose sums are joined afterwards. Arrays are flat, and piece i is one of row i // n_pieces.

BLOCK = 1024
LEAST_PIECE = 1024
LEAST_PART = 2**17  # a smaller part is done before another thread has begun


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
    horizon, n_threads = sums.shape[-1], max(1, min(torch.get_num_threads(), sums.numel() // LEAST_PART))
    n_rows = sums.numel() // max(1, horizon)
    n_pieces = 1 if n_rows >= 16 * n_threads else max(1, min(4 * n_threads, horizon // LEAST_PIECE))
    flat_sums, flat_cut = sums.numpy().reshape(-1), None if cut is None else cut.numpy().reshape(-1)
    is_finite = np.ones(1, np.bool_)
    over_rows(
        kernel,
        n_rows * n_pieces,
        *arguments,
        rate,
        horizon,
        n_pieces,
        flat_cut,
        flat_sums,
        is_finite,
        n_threads=n_threads,
    )
    if n_pieces > 1:
        over_rows(join, n_rows, rate, horizon, n_pieces, flat_cut, taken, flat_sums, is_finite, n_threads=n_threads)
    return bool(is_finite[0])


@jit
def bounds(piece: int, n_pieces: int, horizon: int) -> Any:
    """Where a piece of a row begins and ends."""
    start, k = piece // n_pieces * horizon, piece % n_pieces
    return start + horizon * k // n_pieces, start + horizon * (k + 1) // n_pieces


@functools.partial(jit, fused=True)
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

_BLOCK = 1024  # logits whose weights stay in the cache
_BINS = 2048  # of 1/32 nat: all that lies deeper has less than V e^-64 of the mass
_FINER_BINS = 1024


@functools.partial(jit, fused=True)
def _weights(logits: Array, largest: float, weights: Array, exponents: Array) -> None:
    """π(a) / max π, to a rounding, of at most `_BLOCK` logits (`decoding._weights`); `exponents` is room for int64.

    e^-x = 2^-k e^r with r = k ln 2 - x by its series: no branch and no call, so that several are computed at once.
    """
    scale = exponents.view(np.float64)
    for j in range(logits.size):
        x = largest - float(logits[j])
        counts = x < 708.0  # e^-708 is the last normal number
        x = x if counts else 708.0
        k = np.floor(x * (1 / 0.6931471805599453) + 0.5)
        r = (k * 0.6931471803691238 - x) + k * 1.9082149292705877e-10  # ln 2 in two parts
        series = 1 / 6227020800
        series = series * r + 1 / 479001600
        series = series * r + 1 / 39916800
        series = series * r + 1 / 3628800
        series = series * r + 1 / 362880
        series = series * r + 1 / 40320
        series = series * r + 1 / 5040
        series = series * r + 1 / 720
        series = series * r + 1 / 120
        series = series * r + 1 / 24
        series = series * r + 1 / 6
        series = series * r + 1 / 2
        series = series * r + 1
        weights[j] = series * r + 1
        exponents[j] = (1023 - np.int64(k)) << 52 if counts else 0
    for j in range(logits.size):
        weights[j] *= scale[j]


@jit
def nucleus(
    first: int, stop: int, logits: Array, largest: Array, p: float, rounding: float, tie_fraction: float, out: Array
) -> None:
    """The logits of the nucleus, and -inf (`decoding.top_p`); `out` may be `logits`.

    One pass sums the mass in bins of logits, the next keeps those of the bin where it crosses p, which is then divided.
    """
    n_tokens = logits.shape[1]
    weights, exponents = np.empty(_BLOCK), np.empty(_BLOCK, np.int64)
    bins, found = np.empty(n_tokens, np.int16), np.empty(n_tokens + 1, logits.dtype)
    lanes = np.empty((_BINS + 1, 4))  # four sums of each bin, so that none waits for the one before it
    for row in range(first, stop):
        z, top = logits[row], np.float64(largest[row])
        lanes[:] = 0.0
        for start in range(0, n_tokens, _BLOCK):
            block, at = z[start : start + _BLOCK], bins[start : start + _BLOCK]
            _weights(block, top, weights, exponents)
            for j in range(block.size):
                depth = (top - np.float64(block[j])) * 32.0
                at[j] = np.int32(depth if depth < _BINS else _BINS)
            for j in range(block.size):
                lanes[np.uint16(at[j]), j & 3] += weights[j]
        mass, total = lanes[:, 0], 0.0
        for i in range(_BINS):
            mass[i] = (lanes[i, 0] + lanes[i, 1]) + (lanes[i, 2] + lanes[i, 3])
            total += mass[i]
        crossing, before = _crossing(mass, _BINS, 0.0, p * total)
        n_found = 0
        for start in range(0, n_tokens, 64):
            at = bins[start : start + 64]
            n_here = _count(at, crossing)
            if n_here == at.size:
                found[n_found : n_found + n_here] = z[start : start + n_here]
                n_found += n_here
            elif n_here > 0:
                for j in range(at.size):  # no branch, which would go either way
                    found[n_found] = z[start + j]
                    n_found += at[j] == crossing
        boundary, n_equal, before = _divided(found, n_found, top, before, p * total)
        weight = math.exp(np.float64(boundary) - top)
        n_ties = math.ceil((p * total - min(rounding * total, tie_fraction * weight) - before) / weight)
        _keep(z, boundary, max(n_ties, 1 if before == 0.0 else 0), n_equal, out[row])


@jit
def _crossing(mass: Array, n_bins: int, before: float, target: float) -> tuple[int, float]:
    """The bin where the mass reaches `target`, or else the last that has any; the mass before it."""
    crossing, before_crossing = 0, before
    for i in range(n_bins):
        if before >= target:
            break
        if mass[i] > 0.0:
            crossing, before_crossing = i, before
            before += mass[i]
    return crossing, before_crossing


@jit
def _divided(found: Array, n_found: int, top: float, before: float, target: float) -> tuple[float, int, float]:
    """The crossing token among the `n_found`, how many equal it, and the mass before them (`decoding._crossing_bin`).

    The least and the greatest never share a bin, so that each round leaves fewer, until all that are left are equal.
    """
    mass = np.empty(_FINER_BINS)
    while _count(found[:n_found], found[0]) < n_found:
        least = greatest = found[0]
        for j in range(1, n_found):
            least = found[j] if found[j] < least else least
            greatest = found[j] if found[j] > greatest else greatest
        high, width = np.float64(greatest), np.float64(greatest) - np.float64(least)
        mass[:] = 0.0
        for j in range(n_found):
            mass[int((high - found[j]) / width * (_FINER_BINS - 1))] += math.exp(found[j] - top)
        crossing, before = _crossing(mass, _FINER_BINS, before, target)
        n_kept = 0
        for j in range(n_found):
            if int((high - found[j]) / width * (_FINER_BINS - 1)) == crossing:
                found[n_kept] = found[j]
                n_kept += 1
        n_found = n_kept
    return found[0], n_found, before


@jit
def _count(values: Array, value: float) -> int:
    """How many of the values are this one."""
    n = 0
    for j in range(values.size):
        n += values[j] == value
    return n


@jit
def _keep(logits: Array, boundary: float, n_ties: int, n_equal: int, out: Array) -> None:
    """The logits above `boundary` and the first `n_ties` of those that equal it (`decoding._keep_from`)."""
    end = logits.size if n_ties >= n_equal else 0  # before which ties stay
    if 0 < n_ties < n_equal:
        n_here = _count(logits[:64], boundary)
        while n_here < n_ties:
            n_ties, end = n_ties - n_here, end + 64
            n_here = _count(logits[end : end + 64], boundary)
        while n_ties > 0:
            n_ties -= logits[end] == boundary
            end += 1
    for j in range(end):
        out[j] = logits[j] if logits[j] >= boundary else -np.inf
    for j in range(end, logits.size):
        out[j] = logits[j] if logits[j] > boundary else -np.inf


@jit
def largest(first: int, stop: int, logits: Array, bits: Array, tau: float, k: int, values: Array, index: Array) -> None:
    """The k largest logits divided by tau, in the order of their index (`decoding._largest`); `bits` are the logits.

    The k-th largest of the maxima of blocks is a bound: fewer than k blocks have tokens above it.
    """
    n_tokens = logits.shape[1]
    size = max(16, min(256, n_tokens // (4 * k)))
    n_blocks = (n_tokens + size - 1) // size
    as_bits = np.empty(n_blocks, bits.dtype)
    maxima = as_bits.view(logits.dtype)
    above, heap = np.empty(n_tokens, logits.dtype), np.empty(k, logits.dtype)
    for row in range(first, stop):
        z = logits[row]
        for b in range(n_blocks):
            as_bits[b] = _largest_bits(bits[row, b * size : (b + 1) * size])
        bound = _kth_largest(maxima, n_blocks, k, heap) / tau if n_blocks >= k else -np.inf
        n_above = 0
        for b in range(n_blocks):
            if maxima[b] / tau > bound:
                for j in range(b * size, min((b + 1) * size, n_tokens)):
                    scaled = z[j] / tau
                    if scaled > bound:
                        above[n_above] = scaled
                        n_above += 1
        boundary = _kth_largest(above, n_above, k, heap) if n_above >= k else bound
        n_ties, filled = k, 0
        for i in range(n_above):
            n_ties -= above[i] > boundary
        for b in range(n_blocks):
            if maxima[b] / tau >= boundary and filled < k:
                for j in range(b * size, min((b + 1) * size, n_tokens)):
                    scaled = z[j] / tau
                    if scaled > boundary or (scaled == boundary and n_ties > 0):
                        n_ties -= scaled == boundary
                        values[row, filled], index[row, filled] = scaled, j
                        filled += 1


@jit
def _largest_bits(bits: Array) -> int:
    """The bits of the largest of some floats: as integers, those of the negative ones have the opposite order."""
    turn, largest = np.iinfo(bits.dtype).max, np.iinfo(bits.dtype).min
    for j in range(bits.size):
        largest = max(largest, bits[j] ^ turn if bits[j] < 0 else bits[j])
    return largest ^ turn if largest < 0 else largest


@jit
def _kth_largest(values: Array, n: int, k: int, heap: Array) -> float:
    """The k-th largest of the first n values, n >= k; `heap` keeps the k largest so far, the least of them in front."""
    for i in range(n):
        value, at = values[i], 0
        if i < k:
            at = i
            while at > 0 and heap[(at - 1) // 2] > value:
                heap[at] = heap[(at - 1) // 2]
                at = (at - 1) // 2
            heap[at] = value
        elif value > heap[0]:
            child = 1
            while child < k:
                if child + 1 < k and heap[child + 1] < heap[child]:
                    child += 1
                if heap[child] >= value:
                    break
                heap[at], at = heap[child], child
                child = 2 * at + 1
            heap[at] = value
    kth: float = heap[0]
    return kth


@jit
def inverse_cdf(first: int, stop: int, logits: Array, largest: Array, uniforms: Array, tokens: Array) -> None:
    """The first token whose cumulative probability exceeds u (`decoding.inverse_cdf`): its block, then its place."""
    n_blocks = (logits.shape[1] + _BLOCK - 1) // _BLOCK
    weights, exponents = np.empty(_BLOCK), np.empty(_BLOCK, np.int64)
    mass, lanes = np.empty(n_blocks), np.empty(8)
    for row in range(first, stop):
        z, top, total = logits[row], np.float64(largest[row]), 0.0
        for b in range(n_blocks):
            block = z[b * _BLOCK : (b + 1) * _BLOCK]
            _weights(block, top, weights, exponents)
            lanes[:] = 0.0
            for j in range(block.size):
                lanes[j & 7] += weights[j]
            mass[b] = lanes.sum()
            total += mass[b]
        reached, before, b = uniforms[row] * total, 0.0, 0
        while before + mass[b] <= reached:
            before += mass[b]
            b += 1
        block = z[b * _BLOCK : (b + 1) * _BLOCK]
        _weights(block, top, weights, exponents)
        for j in range(block.size):
            if weights[j] > 0.0:
                tokens[row] = b * _BLOCK + j
                before += weights[j]
                if before > reached:
                    break


# --- log-probabilities of tokens -------------------------------------------------------------------------------------

# Logits are given by their bits, from which `shift`, 0 or 16, makes those of float32, and a row by the place where it
# starts, since rows may lie apart. Weights have single precision, and their sums, block by block, double.


@functools.partial(jit, fused=True)
def _single_weights(bits: Array, shift: int, top: float, room: Array) -> None:
    """π(a) / max π of at most `_BLOCK` logits, in single precision, as `room[1]`; NaN where a logit or `top` is."""
    logits, weights, scale = room[0].view(np.float32), room[1].view(np.float32), room[2].view(np.float32)
    for j in range(bits.size):
        room[0, j] = np.int32(bits[j]) << shift
    for j in range(bits.size):
        x = top - logits[j]
        is_0 = x > np.float32(87.0)  # e^-87 is nearly the last normal number
        x = np.float32(87.0) if is_0 else x
        k = np.floor(x * np.float32(1 / 0.6931471805599453) + np.float32(0.5))
        r = (k * np.float32(355 / 512) - x) - k * np.float32(2.1219444005469057e-4)  # ln 2 in two parts
        series = np.float32(1 / 5040)
        series = series * r + np.float32(1 / 720)
        series = series * r + np.float32(1 / 120)
        series = series * r + np.float32(1 / 24)
        series = series * r + np.float32(1 / 6)
        series = series * r + np.float32(1 / 2)
        series = series * r + np.float32(1)
        weights[j] = series * r + np.float32(1)
        room[2, j] = 0 if is_0 else (127 - np.int32(k)) << 23
    for j in range(bits.size):
        weights[j] *= scale[j]


@functools.partial(jit, reordered=True)
def _sum(values: Array) -> float:
    total = np.float32(0.0)
    for j in range(values.size):
        total += values[j]
    return float(total)


@jit
def token_log_probs(
    first: int,
    stop: int,
    bits: Array,
    starts: Array,
    tokens: Array,
    shift: int,
    n_tokens: int,
    normalisers: Array,
    log_probs: Array,
) -> None:
    """z_y - max z - ln Σ e^(z - max z), and both normalisers of each row (`token_log_probs`)."""
    room = np.empty((3, _BLOCK), np.int32)
    logits, weights = room[0].view(np.float32), room[1].view(np.float32)
    for row in range(first, stop):
        z = bits[starts[row] : starts[row] + n_tokens]
        room[0, 0], room[0, 1] = np.int32(_largest_bits(z)) << shift, np.int32(z[tokens[row]]) << shift
        top, chosen, total = logits[0], logits[1], 0.0
        for start in range(0, n_tokens, _BLOCK):
            block = z[start : start + _BLOCK]
            _single_weights(block, shift, top, room)
            total += _sum(weights[: block.size])
        normalisers[row, 0], normalisers[row, 1] = top, total
        log_probs[row] = np.float64(chosen) - np.float64(top) - np.log(total)


@jit
def token_slopes(
    first: int,
    stop: int,
    bits: Array,
    starts: Array,
    tokens: Array,
    shift: int,
    n_tokens: int,
    normalisers: Array,
    slopes: Array,
    gradient: Array,
) -> None:
    """The gradient g (e_y - π), by its bits, rounded to the nearest of those that end in 16 zeros if they are of 16."""
    room = np.empty((3, _BLOCK), np.int32)
    weights = room[1].view(np.float32)
    for row in range(first, stop):
        z = bits[starts[row] : starts[row] + n_tokens]
        top, g = np.float32(normalisers[row, 0]), slopes[row]
        share = np.float32(-g / normalisers[row, 1])
        for start in range(0, n_tokens, _BLOCK):
            block, out = z[start : start + _BLOCK], gradient[row, start : start + _BLOCK]
            _single_weights(block, shift, top, room)
            for j in range(block.size):
                weights[j] *= share
            if start <= tokens[row] < start + _BLOCK:
                weights[tokens[row] - start] += g
            if shift == 0:
                for j in range(block.size):
                    out[j] = room[1, j]
            else:
                for j in range(block.size):
                    b = room[1, j]
                    nearest = (b + 0x7FFF + ((b >> 16) & 1)) >> 16
                    out[j] = nearest if weights[j] == weights[j] else 0x7FC0  # NaN


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
