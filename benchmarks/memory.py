"""Peak memory of one side of one case: `python -m benchmarks.memory bench_returns 0 candidate` prints bytes (Linux)."""

import gc
import importlib
import re
import sys
from pathlib import Path

from benchmarks.harness import Case, Run


def resident(field: str) -> int:
    """`VmRSS` (resident now) or `VmHWM` (the most ever resident) of this process, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, f"no {field} in /proc/self/status"
    return 1024 * int(found[1])


def peak_of(run: Run) -> int:
    """Bytes that a call of `run` adds at its peak, its result included; a first call pays for what is loaded once."""
    run()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to VmRSS
    before = resident("VmRSS")
    kept = run()
    del kept
    return max(0, resident("VmHWM") - before)


def main(module: str, index: str, side: str) -> None:
    """Set one side of a case up and print its peak."""
    case: Case = importlib.import_module(f"benchmarks.{module}").cases()[int(index)]
    print(peak_of(case.candidate() if side == "candidate" else case.peer()))


if __name__ == "__main__":
    main(*sys.argv[1:])
