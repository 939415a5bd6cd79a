"""What everybody waits for: the import beyond torch's own, and a verdict of `pgtheory.checking`."""

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from statistics import median
from typing import Any

import pgtheory
from benchmarks.case import Case, Claim, Run, Seconds

IMPORT = "import time, torch; start = time.perf_counter(); import pgtheory; print(time.perf_counter() - start)"


def importing() -> Run:
    """Seconds that the import of this package adds to that of torch, in a new process."""
    path = pgtheory.__path__[0].removesuffix("/pgtheory")
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r}); {IMPORT}"]
    return lambda: Seconds(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def judged() -> Iterator[tuple[Any, Any, str]]:
    """Every declared check with the right form and each known mistake, in the layout that it is written for."""
    from pgtheory.checking.catalogue import CHECKS, DECLARED

    for check in DECLARED.values():
        forms = [*check.right.values(), *(m.implementations[0] for m in check.mistakes)]
        for form in forms:
            yield CHECKS[check.name], form, f"torch {check.canonical.text}"


@cache
def verdicts() -> tuple[float, ...]:
    """Seconds of every verdict, once."""
    found = []
    for check, form, layout in judged():
        start = time.perf_counter()
        check(form, layout=layout)
        found.append(time.perf_counter() - start)
    return tuple(found)


def one_verdict(at: Any) -> Run:
    return lambda: Seconds(at(verdicts()))


def cases() -> list[Case]:
    def one(name: str, setup: Any, limit: float, rounds: int, floor: float | None = None) -> Case:
        threads = (1,)
        return Case(
            name,
            setup,
            work=name,
            claims=(Claim("seconds", limit, floor=floor),),
            rounds=rounds,
            threads=threads,
            decisive=rounds > 1,
        )

    return [
        one("import pgtheory, beyond torch", importing, 0.1, 10, floor=0.7),
        one("checking: the median verdict", lambda: one_verdict(median), 0.1, 1),
        one("checking: the longest verdict", lambda: one_verdict(max), 2.0, 1),
    ]
