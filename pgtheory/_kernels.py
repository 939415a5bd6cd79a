"""Compiled kernels, by numba: loops that plain torch cannot express without many passes over memory.

Each takes NumPy views of contiguous CPU tensors, works on the rows from `first` up to `stop`, releases the GIL, and
writes into arrays that its caller made (`_compiled.over_rows`). Beside each stands the function whose plain form
defines it.
"""

import functools

import numba

# Strict floating-point arithmetic: no kernel changes the order of a sum to be faster unless it says so.
jit = functools.partial(numba.njit, cache=True, nogil=True, error_model="numpy")

# --- returns and advantages ------------------------------------------------------------------------------------------

# --- decoding --------------------------------------------------------------------------------------------------------

# --- trajectories ----------------------------------------------------------------------------------------------------
