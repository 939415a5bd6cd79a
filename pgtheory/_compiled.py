"""When compiled kernels take over from plain torch, and how they share the cores: the optional extra `fast`.

Plain torch is the definition, and what runs on a GPU, inside torch.func and torch.compile, on small inputs, and
wherever numba is not installed or `PGTHEORY_FAST=0` is set. The kernels are in `_kernels`, which is imported, with
numba, when the first large input asks for it.
"""

import functools
import importlib
import itertools
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from pgtheory import _checks

LEAST = 2**14
"""Elements from which on a kernel is worth the import of numba."""

DTYPES = (torch.float32, torch.float64)


def takes_over(*tensors: Tensor | None, least: int | None = None, dtypes: tuple[torch.dtype, ...] = DTYPES) -> bool:
    """Whether a kernel may compute on `tensors`; the first has one of `dtypes`, and `least` elements (`LEAST`)."""
    first = tensors[0]
    return (
        first is not None
        and first.numel() >= (LEAST if least is None else least)
        and first.dtype in dtypes
        and all(t is None or t.device.type == "cpu" for t in tensors)
        and not _checks.is_traced(*tensors)
        and not any(_has_tangent(t) for t in tensors if t is not None)
        and is_installed()
    )


def is_installed() -> bool:
    """Whether numba is there and wanted."""
    return os.environ.get("PGTHEORY_FAST") != "0" and _has_numba()


def as_array(tensor: Tensor) -> Any:
    """The values of a CPU tensor as a flat NumPy array: a view wherever the tensor is contiguous."""
    return tensor.detach().resolve_neg().reshape(-1).contiguous().numpy()


def over_rows(kernel: Callable[..., None], n_rows: int, *arguments: Any, n_threads: int | None = None) -> None:
    """Call `kernel(first, stop, *arguments)` on parts of `n_rows` rows, one for each of `n_threads` (torch's).

    All parts have ended when it returns or raises. The threads wait for nothing, so several callers may share them.
    """
    n_parts = min(torch.get_num_threads() if n_threads is None else n_threads, n_rows)
    if n_parts <= 1:
        kernel(0, n_rows, *arguments)
        return
    bounds = [n_rows * part // n_parts for part in range(n_parts + 1)]
    pool = _pool(os.getpid(), n_parts - 1)
    others = [pool.submit(kernel, first, stop, *arguments) for first, stop in itertools.pairwise(bounds[1:])]
    try:
        kernel(bounds[0], bounds[1], *arguments)
    finally:
        wait(others)
    for other in others:
        other.result()


def _has_tangent(tensor: Tensor) -> bool:
    """Whether forward-mode differentiation goes through `tensor`."""
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


@functools.cache
def _has_numba() -> bool:
    """Whether numba can be imported; one that is installed and cannot is worth a warning."""
    try:
        importlib.import_module("numba")
    except ModuleNotFoundError:
        return False
    except (ImportError, OSError) as error:  # a numba that is too old for NumPy, for example
        warnings.warn(f"numba cannot be imported, so plain torch runs instead: {error}", stacklevel=2)
        return False
    return True


@functools.cache
def _pool(process: int, n_threads: int) -> ThreadPoolExecutor:
    """Threads for `over_rows`; a forked process, which inherits none of them, makes its own."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="pgtheory")
