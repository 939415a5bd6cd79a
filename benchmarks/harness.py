"""Timing by interleaved rounds: the candidate, its peer, and a plain copy of as many bytes, in one run."""

import contextlib
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

Run = Callable[[], object]
Setup = Callable[[], Run]

SHORTEST_MEASUREMENT = 2e-3
"""Seconds: a shorter call is repeated until one measurement takes at least this long."""


@dataclass(frozen=True)
class Case:
    """One speed claim: `candidate` does the work of `peer`, at least `floor` times as fast.

    A setup builds the input and returns the call to be timed. A peer's setup imports the peer, so that an `ImportError`
    means that it is not installed.
    """

    name: str
    candidate: Setup
    peer: Setup
    peer_name: str
    floor: float | None  # None: reported, not judged
    copy_bytes: int  # the size of the plain copy: what the work must read at least
    candidate_work: float = 1.0  # units of work in one call, where the two differ (steps, states, ...)
    peer_work: float = 1.0
    floor_threads: int | None = None  # the floor binds at this number of threads only; None: at every number
    agree: Callable[[object, object], None] | None = None  # raises where the two results differ


@dataclass(frozen=True)
class Timing:
    """Medians of one case at one number of threads; seconds for one unit of work, and for one copy."""

    candidate: float
    peer: float | None
    copy: float
    calls: float  # seconds for one call of the candidate
    rounds: int
    dropped: int

    @property
    def ratio(self) -> float | None:
        """How many times as fast as its peer the candidate is."""
        return None if self.peer is None else self.peer / self.candidate


def repeats(run: Run) -> int:
    """How many calls make one measurement long enough to be trusted."""
    return max(1, round(SHORTEST_MEASUREMENT / seconds(run, 1)))


def seconds(run: Run, calls: int) -> float:
    """Seconds for one call, over `calls` of them."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def interleave(runs: dict[str, Run], *, rounds: int, budget: float) -> dict[str, list[float]]:
    """Time each of `runs` once in every round: `rounds` of them, or at least five where `budget` seconds are over."""
    for run in runs.values():
        run()
    calls = {name: repeats(run) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + budget
    for done in range(rounds):
        if done >= 5 and time.perf_counter() > end:
            break
        for name, run in runs.items():
            times[name].append(seconds(run, calls[name]))
    return times


def keep_quiet_rounds(times: dict[str, list[float]]) -> tuple[dict[str, list[float]], int]:
    """Drop the rounds in which the plain copy took more than twice its median: something else had the machine."""
    limit = 2 * median(times["copy"])
    quiet = [i for i, copy in enumerate(times["copy"]) if copy <= limit]
    return {name: [ts[i] for i in quiet] for name, ts in times.items()}, len(times["copy"]) - len(quiet)


def plain_copy(n_bytes: int) -> Run:
    """A copy of `n_bytes` bytes into newly allocated memory."""
    return torch.zeros(n_bytes, dtype=torch.uint8).clone


def measure(case: Case, *, threads: int, rounds: int = 40, budget: float = 10.0) -> Timing:
    """Time one case with `threads` threads."""
    torch.set_num_threads(threads)
    runs = {"copy": plain_copy(case.copy_bytes), "candidate": case.candidate()}
    with contextlib.suppress(ImportError):
        runs["peer"] = case.peer()
    if case.agree is not None and "peer" in runs:
        case.agree(runs["candidate"](), runs["peer"]())
    gc.collect()
    times, dropped = keep_quiet_rounds(interleave(runs, rounds=rounds, budget=budget))
    mid = {name: median(ts) for name, ts in times.items()}
    return Timing(
        candidate=mid["candidate"] / case.candidate_work,
        peer=mid["peer"] / case.peer_work if "peer" in mid else None,
        copy=mid["copy"],
        calls=mid["candidate"],
        rounds=len(times["copy"]),
        dropped=dropped,
    )


def peak_memory(module: str, index: int, side: str) -> int | None:
    """Bytes that one call adds at its peak, by `benchmarks.memory` in a process of its own; None if that fails."""
    # Every block above 64 KiB is mapped on its own, so what a call frees leaves the process at once.
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-m", "benchmarks.memory", module, str(index), side]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None
