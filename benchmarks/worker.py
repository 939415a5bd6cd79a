"""One process that holds a case and runs a side of it when asked: lines of JSON in, lines of JSON out.

`python -m benchmarks.worker THREADS PACKAGE` takes `pgtheory` from the folder PACKAGE, so that an earlier commit can be
timed beside this one, and runs on THREADS of the processors, whatever a library takes for its number of threads.
"""

import gc
import importlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.case import DEVICE, Seconds, relative_error

SHORTEST = 2e-3
"""Seconds: a shorter call is repeated until one measurement takes at least this long."""

PROBE_BYTES = 2**24


class Worker:
    """The case at hand and its sides, each set up when it is first needed."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.source, self.target = (torch.ones(PROBE_BYTES, dtype=torch.uint8) for _ in range(2))
        self.runs: dict[str, Any] = {}

    def load(self, module: str, index: int) -> None:
        """Let go of the last case, and take this one up."""
        self.runs.clear()
        gc.collect()
        self.case = importlib.import_module(f"benchmarks.{module}").cases()[index]

    def prepare(self, side: str) -> dict[str, Any]:
        """Set a side up, call it once, and say how many calls make one measurement."""
        setups = {"ours": self.case.ours, "plain": self.case.ours, "copy": self._copy, **self.case.peers}
        refused = (ImportError,) if DEVICE == "cpu" else (ImportError, RuntimeError, TypeError)
        try:
            self.runs[side] = setups[side]()
        except refused as missing:
            return {"missing": str(missing).partition("\n")[0]}
        first = self.seconds(side, 1)
        again = self.seconds(side, 1) if first < 30.0 else first
        return {"first": first, "again": again, "calls": max(1, min(10_000, round(SHORTEST / max(again, 1e-7))))}

    def seconds(self, side: str, calls: int) -> float:
        """Seconds for one of so many calls, or what the run itself says."""
        run = self.runs[side]
        os.environ["PGTHEORY_FAST"] = "0" if side == "plain" else ""
        result = None
        start = time.perf_counter()
        for _ in range(calls):
            result = run()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        taken = (time.perf_counter() - start) / calls
        return float(result) if isinstance(result, Seconds) else taken

    def probe(self) -> list[float]:
        """Seconds of a fixed piece of arithmetic, and of a copy that no cache holds."""
        start = time.perf_counter()
        x = 0
        for k in range(20_000):
            x += k & 7
        middle = time.perf_counter()
        self.target.copy_(self.source)
        return [middle - start, time.perf_counter() - middle]

    def error(self, side: str) -> float | None:
        """How far a side's result is from the truth, if the case knows it."""
        if self.case.truth is None or DEVICE != "cpu":
            return None
        if "truth" not in self.runs:
            self.runs["truth"] = self.case.truth()
        os.environ["PGTHEORY_FAST"] = "0" if side == "plain" else ""
        return (self.case.error or relative_error)(self.runs[side](), self.runs["truth"])

    def memory(self, side: str) -> int:
        """Bytes that a call adds at its peak, its result included (Linux)."""
        os.environ["PGTHEORY_FAST"] = "0" if side == "plain" else ""
        gc.collect()
        if DEVICE != "cpu":
            torch.cuda.reset_peak_memory_stats()
            start = torch.cuda.memory_allocated()
            self.runs[side]()
            return int(torch.cuda.max_memory_allocated() - start)
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to VmRSS
        before = _resident("VmRSS")
        kept = self.runs[side]()
        del kept
        return max(0, _resident("VmHWM") - before)

    def _copy(self) -> Any:
        return torch.zeros(self.case.copy_bytes, dtype=torch.uint8, device=DEVICE).clone


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, f"no {field} in /proc/self/status"
    return 1024 * int(found[1])


def main(threads: str, package: str) -> None:
    """Answer until the input ends."""
    sys.path.insert(0, package)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints
    worker = Worker(int(threads))
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(worker, name)(*arguments)), file=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
