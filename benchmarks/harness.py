"""Interleaved rounds: every side of a case once in each, a probe before and after, and what follows from the ratios."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.case import Case, Claim

ROOT = Path(__file__).parents[1]
BASE = ROOT / "_build" / "base"
"""A checkout of the commit to compare with, if there is one."""

DISTURBED = 1.4
"""A probe that took so many times its usual time says that something else had the machine."""

LEAST_ROUNDS = 5


class Process:
    """A worker at the other end of a pipe."""

    def __init__(self, threads: int, package: Path, *, lean: bool = False) -> None:
        env = dict(os.environ)
        env["MALLOC_ARENA_MAX"] = "1"
        if lean:  # every block above 64 KiB is mapped on its own, so what a call frees leaves the process at once
            env["MALLOC_MMAP_THRESHOLD_"] = "65536"
        else:  # blocks up to 32 MiB stay, so no side pays for pages that another side, or an earlier call, gave back
            env |= {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**40)}
        command = [sys.executable, "-m", "benchmarks.worker", str(threads), str(package)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, text=True)

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Call a method of the worker."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([name, *arguments]), file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"the worker ended during {name} {arguments}")
        return json.loads(line)

    def close(self) -> None:
        """Let the worker end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@dataclass
class Times:
    """Seconds of every side for one unit of work, round by round, without the rounds that were disturbed."""

    sides: dict[str, list[float | None]]  # None: not timed in this round
    dropped: int
    calm: bool  # False: too few rounds were undisturbed, and all are here

    def ratios(self, other: str, side: str = "ours") -> list[float]:
        """How many times as fast as `other` a side was, round by round."""
        return [x / y for x, y in zip(self.sides[other], self.sides[side], strict=True) if x and y]

    def of(self, side: str) -> list[float]:
        """The seconds of a side, in the rounds in which it was timed."""
        return [t for t in self.sides[side] if t]

    def with_more(self, more: "Times") -> "Times":
        """These rounds and those; only the undisturbed ones, if the others were not."""
        if self.calm != more.calm:
            return self if self.calm else more
        sides = {name: ts + more.sides[name] for name, ts in self.sides.items()}
        return Times(sides, self.dropped + more.dropped, self.calm)


def spread(values: Sequence[float]) -> list[float]:
    """The lower quartile, the median and the upper quartile."""
    if len(values) < 2:
        return [*values] * 3
    return [float(q) for q in quantiles(values, n=4, method="inclusive")]


class Machine:
    """The workers of one number of threads, and the usual time of their probes."""

    def __init__(self, threads: int, *, base: Path | None = None) -> None:
        self.threads = threads
        self.here = Process(threads, ROOT)
        self.base = Process(threads, base) if base else None
        self.probes = [self.here("probe") for _ in range(50)]

    def close(self) -> None:
        """End the workers."""
        for process in (self.here, self.base):
            if process:
                process.close()

    def _at(self, side: str) -> tuple[Process, str]:
        return (self.base, "ours") if side == "before" and self.base else (self.here, side)

    def ask(self, question: str, side: str, *arguments: Any) -> Any:
        """Ask whichever process holds a side."""
        process, name = self._at(side)
        return process(question, name, *arguments)

    def prepare(self, case: Case, module: str, index: int) -> dict[str, dict[str, Any]]:
        """Set every side of a case up: how long the first call took, or what is missing."""
        self.here("load", module, index)
        sides = ["ours", *(["plain"] if case.plain else []), *case.peers, *(["copy"] if case.copy_bytes else [])]
        if self.base and case.before:
            self.base("load", module, index)
            sides.append("before")
        return {side: self.ask("prepare", side) for side in sides}

    def rounds(self, case: Case, sides: Mapping[str, Mapping[str, Any]], *, rounds: int, budget: float) -> Times:
        """Time each side once in every round; drop the rounds beside which a probe was slow.

        Another side is first each time: it is the one that a sleeping core makes wait. What takes ten times as long as
        ours, and a good part of the budget, is timed in the first rounds only, and those are kept.
        """
        times: dict[str, list[float | None]] = {side: [] for side in sides}
        units, ours = case.units(), sides["ours"]["again"]
        rare = {
            side: max(1, min(3, int(budget / x["again"])))
            for side, x in sides.items()
            if x["again"] > max(10 * ours, budget / 20)
        }
        probes = [self.here("probe")]
        start = time.perf_counter()
        for done in range(rounds):
            spent = time.perf_counter() - start
            if spent > budget and (done >= LEAST_ROUNDS or (done >= 3 and spent > 3 * budget)):
                break
            in_turn = [*sides.items()]
            for side, x in in_turn[done % len(sides) :] + in_turn[: done % len(sides)]:
                if done >= rare.get(side, rounds):
                    times[side].append(None)
                    continue
                unit = "ours" if side in ("plain", "before") else side
                times[side].append(self.ask("seconds", side, x["calls"]) / units.get(unit, 1.0))
            probes.append(self.here("probe"))
        self.probes += probes
        usual = [quantiles(column, n=4)[0] for column in zip(*self.probes, strict=True)]
        slow = [any(x > DISTURBED * u for x, u in zip(probe, usual, strict=True)) for probe in probes]
        first = max(rare.values(), default=0)
        calm = [k for k in range(len(probes) - 1) if k < first or not (slow[k] or slow[k + 1])]
        if len(calm) < min(3, len(probes) - 1):
            return Times(times, 0, calm=False)
        kept = {side: [ts[k] for k in calm] for side, ts in times.items()}
        return Times(kept, len(probes) - 1 - len(calm), calm=not (first and any(slow[: first + 1])))


def measure(case: Case, module: str, index: int, machine: Machine, *, budget: float, thorough: bool) -> dict[str, Any]:
    """One row: every side of a case at one number of threads, and what became of its claims."""
    found = machine.prepare(case, module, index)
    sides = {side: answer for side, answer in found.items() if "missing" not in answer}
    memory = peaks(module, index, machine, sides) if case.memory and thorough else {}
    times = machine.rounds(case, sides, rounds=case.rounds, budget=budget)
    verdicts = [judge(claim, ratios_of(claim, case, times, memory)) for claim in case.claims]
    if not times.calm or {"FAIL", "doubtful"} & set(verdicts):
        times = times.with_more(machine.rounds(case, sides, rounds=2 * case.rounds, budget=2 * budget))
    error = {side: machine.ask("error", side) for side in sides if thorough and side != "copy"}
    claims = []
    for claim in case.claims:
        if machine.threads in claim.threads:
            ratios = ratios_of(claim, case, times, memory)
            text = {
                "threads": machine.threads,
                "side": claim.side,
                "against": claim.against,
                "target": claim.target,
                "floor": claim.least,
            }
            earlier = spread(ratios_of(replace(claim, side="before"), case, times, memory))
            claims.append(
                text | {"before": earlier, "ratio": spread(ratios), "verdict": judge(claim, ratios, calm=times.calm)}
            )
    return {
        "module": module,
        "case": case.name,
        "work": case.kind,
        "threads": machine.threads,
        "series": case.series,
        "sides": {
            side: {
                "seconds": spread(times.of(side)),
                "ratio": spread(times.ratios(side)),  # this side's time as a multiple of ours
                "first": answer["first"],
                "error": error.get(side),
                "memory": memory.get(side),
            }
            for side, answer in sides.items()
        },
        "missing": {side: answer["missing"] for side, answer in found.items() if "missing" in answer},
        "claims": claims,
        "rounds": len(times.sides["ours"]),
        "dropped": times.dropped,
        "calm": times.calm,
    }


def ratios_of(claim: Claim, case: Case, times: Times, memory: Mapping[str, int]) -> list[float]:
    """The ratios that a claim is judged by, one for each round; none if a side is missing."""
    against = claim.against
    if claim.side not in times.sides:
        return []
    if against == "seconds":
        return [claim.target / t for t in times.of(claim.side)]
    if against == "memory":
        return [claim.target / memory[claim.side]] if memory.get(claim.side) else []
    if against.startswith("memory of "):
        other = memory.get(against.removeprefix("memory of "))
        return [other / memory[claim.side]] if other and memory.get(claim.side) else []
    if against == "fastest":
        libraries = [peer for peer in case.peers if peer in times.sides and "loop" not in peer]
        against = min(libraries, key=lambda peer: median(times.of(peer)), default="")
    return times.ratios(against, claim.side) if against in times.sides else []


def judge(claim: Claim, ratios: Sequence[float], *, calm: bool = True) -> str:
    """PASS, FAIL, or doubtful where the quartiles of the ratios lie on both sides of the floor."""
    if not ratios:
        return "not measured"
    if not calm:
        return "disturbed"
    low, _, high = spread(ratios)
    if claim.least == 0:
        return "reported"
    return "PASS" if low >= claim.least else "FAIL" if high < claim.least else "doubtful"


def peaks(module: str, index: int, machine: Machine, sides: Iterable[str]) -> dict[str, int]:
    """Peak memory of each side, in processes that give back at once what a call frees."""
    found = {}
    for package, held in ((ROOT, [side for side in sides if side not in ("before", "copy")]), (BASE, ["before"])):
        if set(held) <= set(sides):
            process = Process(machine.threads, package, lean=True)
            process("load", module, index)
            for side in held:
                name = "ours" if side == "before" else side
                process("prepare", name)
                found[side] = process("memory", name)
            process.close()
    return found
