"""When compiled kernels take over, and that they share rows and threads without losing any: stand-ins for kernels."""

import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs_numba
from torch.autograd import forward_ad

from pgtheory import _compiled

LARGE = torch.zeros(_compiled.LEAST)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def add_row_number(first: int, stop: int, rows: np.ndarray[Any, Any]) -> None:
    for row in range(first, stop):
        rows[row] += row + 1


# --- when


@needs_numba
def test_a_large_tensor_of_floats_on_the_cpu_goes_to_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGTHEORY_FAST", raising=False)
    mask = torch.zeros(3, dtype=torch.bool)
    assert _compiled.takes_over(LARGE, None, mask)
    assert _compiled.takes_over(LARGE.double())
    assert _compiled.takes_over(LARGE.bfloat16(), dtypes=(torch.bfloat16,))
    assert _compiled.takes_over(LARGE[1:], least=3)


@needs_numba
@pytest.mark.parametrize(
    "tensors",
    [(LARGE[1:],), (None, LARGE), (LARGE.half(),), (LARGE.long(),), (LARGE.to("meta"),), (LARGE, LARGE.to("meta"))],
    ids=["small", "none", "half", "integers", "meta", "second on meta"],
)
def test_everything_else_stays_with_torch(tensors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGTHEORY_FAST", raising=False)
    assert not _compiled.takes_over(*tensors)


@needs_numba
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # loaded by forward mode
def test_transforms_and_forward_mode_stay_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGTHEORY_FAST", raising=False)
    seen = []
    torch.func.vmap(lambda x: seen.append(_compiled.takes_over(x)) or x)(torch.stack([LARGE, LARGE]))
    with forward_ad.dual_level():
        seen.append(_compiled.takes_over(forward_ad.make_dual(LARGE, LARGE)))
        seen.append(_compiled.takes_over(LARGE, forward_ad.make_dual(LARGE, LARGE)))
    assert seen == [False] * 3


def test_without_the_extra_or_against_the_wish_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGTHEORY_FAST", "0")
    assert not _compiled.is_installed()
    assert not _compiled.takes_over(LARGE)
    monkeypatch.delenv("PGTHEORY_FAST")
    monkeypatch.setitem(sys.modules, "numba", None)  # as if it were not there
    _compiled._has_numba.cache_clear()
    try:
        assert not _compiled.takes_over(LARGE)
    finally:
        _compiled._has_numba.cache_clear()


def test_a_numba_that_cannot_be_imported_is_told_of_once_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise ImportError("Numba needs NumPy 2.3 or less")

    monkeypatch.delenv("PGTHEORY_FAST", raising=False)
    monkeypatch.setattr(importlib, "import_module", refuse)
    _compiled._has_numba.cache_clear()
    try:
        with pytest.warns(UserWarning, match="plain torch runs instead: Numba needs NumPy 2.3 or less"):
            assert not _compiled.takes_over(LARGE)
        assert not _compiled.takes_over(LARGE)
    finally:
        _compiled._has_numba.cache_clear()


# --- how


def test_each_row_goes_to_one_part(threads: int) -> None:
    for n_rows in (0, 1, 2, 3, 7):
        rows = np.zeros(n_rows)
        _compiled.over_rows(add_row_number, n_rows, rows)
        assert rows.tolist() == list(range(1, n_rows + 1))


@pytest.mark.parametrize("broken", [0, 5])
def test_what_a_part_raises_is_raised_when_all_have_ended(broken: int, threads: int) -> None:
    done = []

    def kernel(first: int, stop: int) -> None:
        if first <= broken < stop:
            raise MemoryError(broken)
        done.append((first, stop))

    with pytest.raises(MemoryError):
        _compiled.over_rows(kernel, 6)
    assert len(done) == threads - 1


@pytest.mark.usefixtures("threads")
def test_many_callers_share_the_threads() -> None:
    tables = [np.zeros(50) for _ in range(8)]
    callers = [threading.Thread(target=_compiled.over_rows, args=(add_row_number, 50, table)) for table in tables]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(table.tolist() == list(range(1, 51)) for table in tables)


def test_the_threads_are_kept(threads: int) -> None:
    _compiled.over_rows(add_row_number, 4, np.zeros(4))
    before = threading.active_count()
    for _ in range(5):
        _compiled.over_rows(add_row_number, 4, np.zeros(4))
    assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("threads")
def test_a_forked_process_has_threads_of_its_own() -> None:
    _compiled.over_rows(add_row_number, 4, np.zeros(4))  # the parent's thread is there
    child = os.fork()
    if child == 0:
        rows = np.zeros(4)
        _compiled.over_rows(add_row_number, 4, rows)
        os._exit(0 if rows.tolist() == [1, 2, 3, 4] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_views_of_every_layout_are_read_right() -> None:
    table = torch.arange(6.0).view(2, 3).requires_grad_()
    negative = torch.complex(table, table).conj().imag
    for tensor in (table, table.t(), table[:, 1:], table[0].expand(2, 3), negative):
        array = _compiled.as_array(tensor)
        assert array.flags.c_contiguous
        assert array.tolist() == tensor.flatten().tolist()


@needs_numba
def test_numba_is_imported_late_and_compiles_without_a_folder_for_its_cache(tmp_path: Path) -> None:
    """It finds no place beside a file that is not there, nor in a home that is a file."""
    home = tmp_path / "home"
    home.write_text("")
    code = """
import linecache, sys
import torch, pgtheory
pgtheory.returns_to_go(torch.ones(3), 1.0)
assert "numba" not in sys.modules
from pgtheory._kernels import jit
source = "def add(a, b):\\n    return a + b\\n"
linecache.cache["/nowhere/kernel.py"] = (len(source), None, source.splitlines(True), "/nowhere/kernel.py")
names = {}
exec(compile(source, "/nowhere/kernel.py", "exec"), names)
add = jit(names["add"])
assert add(1, 2) == 3 and type(add._cache).__name__ == "NullCache", add._cache
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "XDG"))} | {"HOME": str(home)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
