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

Array = np.ndarray[Any, Any]


def jit(function: Callable[..., Any], *, fused: bool = False) -> Callable[..., Any]:
    """`function`, compiled when it is first called, and kept in numba's cache if there is a folder for it to write.

    The arithmetic is strict: no kernel changes the order of a sum to be faster unless it says so. `fused` lets a
    product and a sum be rounded once together.
    """
    flags = {"contract"} if fused else False
    compiled: Callable[..., Any] = numba.njit(nogil=True, error_model="numpy", fastmath=flags)(function)
    with contextlib.suppress(RuntimeError):  # no folder to write: each process compiles anew
        compiled.enable_caching()  # type: ignore[attr-defined]
    return compiled


# --- returns and advantages ------------------------------------------------------------------------------------------

# --- decoding --------------------------------------------------------------------------------------------------------

_BLOCK = 1024  # logits whose weights stay in the cache
_BINS = 4096  # of 1/64 nat: all that lies deeper has less than V e^-64 of the mass
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
    lanes, mass = np.empty((_BINS + 1, 4)), np.empty(_BINS)  # four sums of a bin, so that none waits for another
    for row in range(first, stop):
        z, top = logits[row], np.float64(largest[row])
        lanes[:] = 0.0
        for start in range(0, n_tokens, _BLOCK):
            block, at = z[start : start + _BLOCK], bins[start : start + _BLOCK]
            _weights(block, top, weights, exponents)
            for j in range(block.size):
                depth = (top - np.float64(block[j])) * 64.0
                at[j] = np.int32(depth if depth < _BINS else _BINS)
            for j in range(block.size):
                lanes[np.uint16(at[j]), j & 3] += weights[j]
        total = 0.0
        for i in range(_BINS):
            mass[i] = (lanes[i, 0] + lanes[i, 1]) + (lanes[i, 2] + lanes[i, 3])
            total += mass[i]
        crossing, before = _crossing(mass, _BINS, 0.0, p * total)
        n_found = 0
        for start in range(0, n_tokens, 64):
            at = bins[start : start + 64]
            if _count(at, crossing) > 0:
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


# --- trajectories ----------------------------------------------------------------------------------------------------
