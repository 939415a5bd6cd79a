"""Run the benchmarks and print one Markdown table; the exit status is 1 if a floor is missed."""

import argparse
import importlib
import os
import platform
from pathlib import Path

import torch

from benchmarks.harness import Case, Timing, measure, peak_memory

HEADER = (
    "| case | threads | time | peer | its time | ratio | floor | verdict | × copy | peak memory | peer's | rounds |\n"
    "|---|--:|--:|---|--:|--:|--:|---|--:|--:|--:|--:|"
)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="modules to run, such as returns or bench_returns (default: all)")
    parser.add_argument("--strict", action="store_true", help="a peer that is not installed is a failure")
    parser.add_argument("--threads", type=int, nargs="+", help="numbers of threads (default: 1 and 2)")
    parser.add_argument("--rounds", type=int, default=40, help="rounds at most (default: 40)")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for one row (default: 10)")
    parser.add_argument("--no-memory", action="store_true", help="leave the columns of peak memory empty")
    return parser.parse_args()


def modules(names: list[str]) -> list[str]:
    """The `bench_*` modules beside this file, or those named."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    wanted = [name if name.startswith("bench_") else f"bench_{name}" for name in names]
    if unknown := set(wanted) - set(found):
        raise SystemExit(f"no such benchmark: {', '.join(sorted(unknown))}; there are: {', '.join(found)}")
    return wanted or found


def verdict(case: Case, timing: Timing, threads: int, *, strict: bool) -> str:
    """PASS or FAIL where the floor binds; otherwise why it does not."""
    if timing.ratio is None:
        return "FAIL: peer not installed" if strict else "peer not installed"
    if case.floor is None or case.floor_threads not in (None, threads):
        return "reported"
    return "PASS" if timing.ratio >= case.floor else "FAIL"


def in_units(value: float | None, units: list[tuple[float, str]]) -> str:
    """`value` in the largest unit that it reaches, to three digits."""
    if value is None:
        return "–"
    size, unit = next(((s, u) for s, u in units if value >= s), units[-1])
    return f"{value / size:.3g} {unit}"


def as_time(value: float | None) -> str:
    """Seconds, as text."""
    return in_units(value, [(1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")])


def as_memory(value: int | None) -> str:
    """Bytes, as text."""
    return in_units(value, [(2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")])


def row(case: Case, timing: Timing, threads: int, result: str, memory: dict[str, int | None]) -> str:
    """One line of the table."""
    cells = [
        case.name,
        str(threads),
        as_time(timing.candidate),
        case.peer_name,
        as_time(timing.peer),
        "–" if timing.ratio is None else f"{timing.ratio:.1f}",
        "–" if case.floor is None else f"{case.floor:g}",
        result,
        f"{timing.calls / timing.copy:.1f}",
        as_memory(memory["candidate"]),
        as_memory(memory["peer"]),
        f"{timing.rounds}" + (f" ({timing.dropped} dropped)" if timing.dropped else ""),
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    """Run what is asked for; return the exit status."""
    asked = arguments()
    threads = asked.threads or [1, min(2, os.cpu_count() or 1)]
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}\n\n{HEADER}",
        flush=True,
    )
    failed = False
    for module in modules(asked.names):
        for index, case in enumerate(importlib.import_module(f"benchmarks.{module}").cases()):
            sides = ("candidate", "peer")
            memory = {side: None if asked.no_memory else peak_memory(module, index, side) for side in sides}
            for n in dict.fromkeys(threads):
                timing = measure(case, threads=n, rounds=asked.rounds, budget=asked.budget)
                result = verdict(case, timing, n, strict=asked.strict)
                failed |= result.startswith("FAIL")
                print(row(case, timing, n, result, memory), flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
