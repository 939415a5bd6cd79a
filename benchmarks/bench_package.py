"""What everybody waits for: the import beyond torch, the first large call, and a verdict of `pgtheory.checking`."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache, partial
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


FIRST_CALL = """import time, torch, pgtheory
rewards = torch.ones(1024, 1024)
start = time.perf_counter()
pgtheory.returns_to_go(rewards, 0.99)
print(time.perf_counter() - start)"""


def first_call(*, kept: bool) -> Run:
    """Seconds of the first call of `returns_to_go` for which a kernel takes over, in a new process.

    It imports numba, and compiles the kernel, or loads it where an earlier process has `kept` it.
    """

    def run() -> Seconds:
        with tempfile.TemporaryDirectory() as cache:
            environment = os.environ | {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": path}
            command = [sys.executable, "-c", FIRST_CALL]
            for _ in range(1 + kept):
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return Seconds(done.stdout)

    path = pgtheory.__path__[0].removesuffix("/pgtheory")
    return run


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
        *(
            Case(
                f"returns_to_go, the first large call, {name}",
                partial(first_call, kept=name == "kept"),
                rounds=5,
                threads=(1,),
                before=False,
            )
            for name in ("compiled", "kept")
        ),
        one("checking: the median verdict", lambda: one_verdict(median), 0.1, 1),
        one("checking: the longest verdict", lambda: one_verdict(max), 2.0, 1),
    ]
