"""How far what was drawn may lie from what is exact. Every test that compares the two takes its limit from here.

Each such test fails, although the code is right, for at most `SHARE` of all seeds: all of its parameters together, and
everything that it compares. So many tests as `SUITE / SHARE` would keep the false alarms of the whole suite below one
seed in a million; `test_chance.py` counts them, and looks for tests that draw and compare without asking here. The
seeds are fixed, so that a test gives the same result each time: the rate is one over seeds, not over runs.

Counts are judged by the binomial distribution, which is exact. Means are judged by the normal distribution, or by
Student's where the deviation comes from few batches: the sums are of thousands of draws, and what they deviate from
that distribution so far out is why `SHARE` leaves most of `SUITE` unused.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom, norm, t

SUITE, SHARE = 1e-6, 5e-9
TESTS = Path(__file__).parent
LIMIT = re.compile(r"\bchance\.(assert_counts|bounds|least_p|most_errors)\(")
# What draws, and what compares by chance, as far as a text shows it.
DRAWS = re.compile(r"\bgenerator\(|\bgenerator=|\bseeded\(|manual_seed|default_rng|reset\(seed|\bsample\w*\(|\bexec\(")
BY_CHANCE = re.compile(
    r"\.std\(|\.var\(|\.sem\(|standard.error|chi.?square|\bchi2\b|pvalue|kstest|\bbinom\b|bincount\(|false alarm"
    r"|seeds? (is|are) fixed|def test_\w*learns"
)


def least_p(comparisons: int = 1) -> float:
    """The least p-value that a test may accept which looks at so many."""
    return SHARE / comparisons


def most_errors(comparisons: int, batches: int | None = None) -> float:
    """The most standard errors that any of so many means may be off; with few batches these are estimated from them."""
    p = least_p(comparisons) / 2
    return float(norm.isf(p) if batches is None else t.isf(p, batches - 1))


def bounds(n: int, probabilities: ArrayLike, comparisons: int) -> tuple[Any, Any]:
    """The least and the largest count of each event in n independent draws: beyond each lies half of the share."""
    p, tail = np.asarray(probabilities, dtype=float), least_p(comparisons) / 2
    low = binom.ppf(tail, n, p)  # the least count that has at least the probability `tail` up to it
    high = binom.isf(tail, n, p)  # the least count that has at most the probability `tail` beyond it
    return low, high


def assert_counts(counts: ArrayLike, probabilities: ArrayLike, n: int, tests: int = 1) -> None:
    """Each event was about as frequent in n draws as its probability says, in so many tests of this kind.

    An event of probability 0 never happened. Each count has a binomial distribution, whether or not the events exclude
    each other.
    """
    seen, p = np.asarray(counts), np.asarray(probabilities, dtype=float)
    assert seen.shape == p.shape
    assert (seen[p <= 0] == 0).all(), "an event of probability 0 has happened"
    low, high = bounds(n, p, tests * p.size)
    assert ((low <= seen) & (seen <= high)).all(), (seen.tolist(), low.tolist(), high.tolist())


@cache
def texts() -> dict[str, str]:
    """The text of every test, with those of the functions of its file that it calls."""
    found = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        if path.parent.name in ("book", "browser") or path.name == "test_chance.py":
            continue
        source = path.read_text(encoding="utf-8")
        if not LIMIT.search(source) and not (DRAWS.search(source) and BY_CHANCE.search(source)):
            continue
        nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
        lines = source.splitlines()
        text = {node.name: "\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in nodes}
        helpers = {name for name in text if not name.startswith("test_")}
        calls = {name: helpers & set(re.findall(r"\w+", body)) for name, body in text.items()}
        for name in text.keys() - helpers:
            reached, new = {name}, [name]
            while new:
                new += calls[new.pop()] - reached
                reached.update(new)
            found[f"{path.relative_to(TESTS)}::{name}"] = "\n".join(text[x] for x in sorted(reached))
    return found


def statistical() -> list[str]:
    """The tests that take a limit from `chance`."""
    return [name for name, text in texts().items() if LIMIT.search(text)]


def suspected() -> list[str]:
    """The tests that draw and compare by chance, as far as their text shows it."""
    return [name for name, text in texts().items() if DRAWS.search(text) and BY_CHANCE.search(text)]
