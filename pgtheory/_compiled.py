"""When compiled kernels take over from plain torch, and how they share the cores: the optional extra `fast`.

Plain torch is the definition, and what runs on a GPU, inside torch.func and torch.compile, on small inputs, and
wherever numba is not installed or `PGTHEORY_FAST=0` is set. The kernels are in `_kernels`, which is imported, with
numba, when the first large input asks for it.
"""

import functools
import importlib.util
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from pgtheory import _checks

LEAST = 2**14
"""Elements from which on a kernel is worth the import of numba."""

DTYPES = (torch.float32, torch.float64)


def takes_over(*tensors: Tensor | None, least: int = LEAST, dtypes: tuple[torch.dtype, ...] = DTYPES) -> bool:
    """Whether a kernel may compute on `tensors`; the first, in one of `dtypes`, must have `least` elements."""
    first = tensors[0]
    return (
        first is not None
        and first.numel() >= least
        and first.dtype in dtypes
        and all(t is None or t.device.type == "cpu" for t in tensors)
        and not _checks.is_traced(*tensors)
        and is_installed()
    )


def is_installed() -> bool:
    """Whether numba is there and wanted."""
    return os.environ.get("PGTHEORY_FAST") != "0" and _has_numba()


def over_rows(kernel: Callable[..., None], n_rows: int, *arguments: Any) -> None:
    """Call `kernel(first, stop, *arguments)` on parts of `n_rows` rows, one for each of torch's threads."""
    n_parts = min(torch.get_num_threads(), n_rows)
    if n_parts <= 1:
        kernel(0, n_rows, *arguments)
        return
    bounds = [n_rows * part // n_parts for part in range(n_parts + 1)]
    pool = _pool(os.getpid(), n_parts - 1)
    bounds_of_others = itertools.pairwise(bounds[1:])
    others = [pool.submit(kernel, first, stop, *arguments) for first, stop in bounds_of_others]
    kernel(bounds[0], bounds[1], *arguments)
    for other in others:
        other.result()


@functools.cache
def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None


@functools.cache
def _pool(process: int, n_threads: int) -> ThreadPoolExecutor:
    """Threads for `over_rows`; a forked process, which inherits none of them, makes its own."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="pgtheory")
