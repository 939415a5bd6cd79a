"""The exact law of a program that draws random numbers: its generators are replaced by one that chooses every draw."""

import random
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import numpy as np

Law = dict[Hashable, float]

# Outcomes whose probabilities differ by less than this are drawn alike.
EPS = 1e-9
_COARSE = tuple((2 * i + 1) / 16 for i in range(8))
# Functions of the modules `numpy.random` and `random`, for programs that draw from the global generators.
_GLOBAL_NUMPY = "random random_sample rand uniform choice randint binomial multinomial normal randn permutation shuffle"
_GLOBAL_PYTHON = "random uniform choice choices randint randrange shuffle sample gauss"


class Unsupported(BaseException):
    """A program drew in a way of which the law is not enumerated; not an `Exception`, so that none is taken for it."""


class _Next(BaseException):
    """The chosen draws are used up; what is to be drawn next."""

    def __init__(self, probabilities: Sequence[float] | None) -> None:
        self.probabilities = probabilities


class Chooser:
    """Draws what it is told to; then either asks for more, or goes on by a rule."""

    def __init__(self) -> None:
        self.draws: Sequence[float] = ()
        self.place = 0
        self.rule: float | None = None

    def start(self, draws: Sequence[float], rule: float | None = None) -> None:
        """Begin anew with these draws; what comes after them is the quantile `rule`, if there is one."""
        self.draws, self.place, self.rule = draws, 0, rule

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return float(self._next(None))

    def index(self, probabilities: Sequence[float]) -> int:
        """An index; where only one is possible, nothing is drawn."""
        possible = [i for i, p in enumerate(probabilities) if p > 0]
        return possible[0] if len(possible) == 1 else int(self._next(probabilities))

    def _next(self, probabilities: Sequence[float] | None) -> float:
        if self.place < len(self.draws):
            self.place += 1
            return self.draws[self.place - 1]
        if self.rule is None:
            raise _Next(probabilities)
        if probabilities is None:
            return self.rule
        return float(min(bisect_right(list(accumulate(probabilities)), self.rule), len(probabilities) - 1))


class _Common:
    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: Any, **__: Any) -> Any:
            raise Unsupported(name)

        return refuse

    def _repeated(self, draw: Callable[[], Any], size: Any) -> Any:
        if size is None:
            return draw()
        count = int(np.prod(size))
        if count > 4:
            raise Unsupported("many draws at once")
        return np.array([draw() for _ in range(count)]).reshape(size)

    def _index(self, n: int) -> int:
        if n < 1:
            raise ValueError("nothing to draw from")
        return self._chooser.index([1.0 / n] * n)


class NumpyDraws(_Common):
    """In the place of a `numpy.random.Generator` or `RandomState`."""

    def random(self, size: Any = None, *_: Any, **__: Any) -> Any:
        """Uniform on [0, 1)."""
        return self._repeated(self._chooser.uniform, size)

    random_sample = random

    def rand(self, *shape: int) -> Any:
        """Uniform on [0, 1), of a shape."""
        return self.random(shape or None)

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Any = None) -> Any:
        """Uniform on [low, high)."""
        return self._repeated(lambda: low + (high - low) * self._chooser.uniform(), size)

    def choice(self, a: Any, size: Any = None, replace: bool = True, p: Any = None, **_: Any) -> Any:
        """One of the elements, or of the numbers below `a`."""
        number = isinstance(a, int | np.integer)
        elements = np.arange(a) if number else np.asarray(a)
        probabilities = np.full(len(elements), 1 / len(elements)) if p is None else np.asarray(p, dtype=float)
        if len(probabilities) != len(elements) or abs(probabilities.sum() - 1) > 1e-8 or (probabilities < 0).any():
            raise ValueError("probabilities do not sum to 1, or not of the size of a, or negative")
        if size is not None and not replace and np.prod(size) > 1:
            raise Unsupported("choice without replacement")
        return self._repeated(lambda: elements[self._chooser.index(probabilities.tolist())], size)

    def integers(
        self, low: int, high: int | None = None, size: Any = None, dtype: Any = None, endpoint: bool = False
    ) -> Any:
        """An integer in [low, high), or below `low` if that is all there is."""
        first, last = (0, low) if high is None else (low, high)
        return self._repeated(lambda: first + self._index(last - first + endpoint), size)

    def randint(self, low: int, high: int | None = None, size: Any = None, dtype: Any = None) -> Any:
        """An integer in [low, high)."""
        return self.integers(low, high, size)

    def binomial(self, n: int, p: float, size: Any = None) -> Any:
        """The number of successes in `n` trials."""
        return self._repeated(lambda: sum(self._chooser.index([1 - p, p]) for _ in range(n)), size)

    def multinomial(self, n: int, pvals: Any, size: Any = None) -> Any:
        """The counts of `n` draws."""
        if size is not None:
            raise Unsupported("many draws at once")
        probabilities = np.asarray(pvals, dtype=float).tolist()
        return sum(np.eye(len(probabilities), dtype=int)[self._chooser.index(probabilities)] for _ in range(n))


class PythonDraws(_Common):
    """In the place of a `random.Random`."""

    def random(self) -> float:
        """Uniform on [0, 1)."""
        return self._chooser.uniform()

    def uniform(self, a: float, b: float) -> float:
        """Uniform between two numbers."""
        return a + (b - a) * self._chooser.uniform()

    def choice(self, sequence: Sequence[Any]) -> Any:
        """One of the elements."""
        return sequence[self._index(len(sequence))]

    def choices(
        self, population: Sequence[Any], weights: Any = None, *, cum_weights: Any = None, k: int = 1
    ) -> list[Any]:
        """Elements drawn with weights."""
        if cum_weights is not None:
            weights = np.diff([0, *cum_weights])
        w = np.ones(len(population)) if weights is None else np.asarray(weights, dtype=float)
        return [population[self._chooser.index((w / w.sum()).tolist())] for _ in range(k)]

    def randint(self, a: int, b: int) -> int:
        """An integer from a to b, both possible."""
        return a + self._index(b - a + 1)

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """An element of a range."""
        values = range(start) if stop is None else range(start, stop, step)
        return values[self._index(len(values))]


def stand_in(generator: Any, chooser: Chooser) -> Any:
    """What to put in the place of a generator; None for other things."""
    if isinstance(generator, np.random.Generator | np.random.RandomState):
        return NumpyDraws(chooser)
    return PythonDraws(chooser) if isinstance(generator, random.Random) else None


@contextmanager
def global_generators(chooser: Chooser) -> Iterator[set[str]]:
    """Let the functions of `numpy.random` and `random` draw what is chosen; gives the set of those that are called."""
    used: set[str] = set()
    kept: list[tuple[Any, str, Any]] = []
    pairs = ((np.random, NumpyDraws(chooser), _GLOBAL_NUMPY), (random, PythonDraws(chooser), _GLOBAL_PYTHON))
    try:
        for module, draws, names in pairs:
            for name in names.split():
                kept.append((module, name, getattr(module, name)))
                setattr(module, name, _noting(getattr(draws, name), f"{module.__name__}.{name}", used))
        yield used
    finally:
        for module, name, function in kept:
            setattr(module, name, function)


def _noting(function: Callable[..., Any], name: str, used: set[str]) -> Callable[..., Any]:
    def noted(*arguments: Any, **keywords: Any) -> Any:
        used.add(name)
        return function(*arguments, **keywords)

    return noted


def law(run: Callable[[Sequence[float]], Hashable], points: Sequence[float] = (), draws: tuple[float, ...] = ()) -> Law:
    """The probability of every outcome of a program.

    Args:
        run: the program with the draws that it shall get; it raises what a `Chooser` raises when it draws more.
        points: where to look first for a change of outcome along the first uniform number.
        draws: those made so far.
    """
    try:
        return {run(draws): 1.0}
    except _Next as following:
        probabilities = following.probabilities
    if len(draws) > 6:
        raise Unsupported("more than six draws")
    if probabilities is not None:
        parts = [(p, law(run, points, (*draws, float(i)))) for i, p in enumerate(probabilities) if p > 0]
        return mixture([(p / sum(probabilities), part) for p, part in parts])
    grid = sorted({1e-12, *_COARSE, 1 - 1e-12, *((u for u in points if 0 < u < 1) if not draws else ())})
    return _along(lambda u: law(run, points, (*draws, u)), grid)


def is_law(run: Callable[[Sequence[float]], Hashable], expected: Sequence[tuple[Hashable, float]]) -> bool:
    """Whether a program inverts the distribution function of the expected outcomes, in their order, by one number."""
    probes = [(edge_or_middle, outcome) for outcome, probes in cells(expected) for edge_or_middle in probes]
    try:
        run(())
        return False
    except _Next as following:
        if following.probabilities is not None:
            return False
    ends = [c for _, c in _cumulative(expected)]
    outcomes = [outcome for outcome, p in expected if p > 0]
    probes += [(u, outcomes[min(bisect_right(ends, u), len(ends) - 1)]) for u in _COARSE if _clear(u, ends)]
    return all(same(law(run, (), (u,)), {outcome: 1.0}) for u, outcome in probes)


def _clear(u: float, ends: Sequence[float]) -> bool:
    """Whether a number is not on the edge of a cell."""
    return all(abs(u - end) > EPS for end in ends)


def _cumulative(expected: Sequence[tuple[Hashable, float]]) -> list[tuple[Hashable, float]]:
    positive = [(outcome, p) for outcome, p in expected if p > 0]
    return list(zip((o for o, _ in positive), accumulate(p for _, p in positive), strict=True))


def cells(expected: Sequence[tuple[Hashable, float]]) -> list[tuple[Hashable, tuple[float, float, float]]]:
    """Each outcome with the middle of its cell, and two numbers just inside its edges."""
    found, low = [], 0.0
    for outcome, high in _cumulative(expected):
        inside = min(1e-7, (high - low) / 4)
        found.append((outcome, (low + inside, (low + high) / 2, high - inside)))
        low = high
    return found


def _along(at: Callable[[float], Law], grid: Sequence[float]) -> Law:
    """The mean of a law that is piecewise constant in a uniform number: its jumps are found by bisection."""
    laws = [at(u) for u in grid]
    pieces: list[tuple[float, Law]] = []
    low = 0.0
    for u, v, left, right in zip(grid, grid[1:], laws, laws[1:], strict=False):
        for jump, before in _jumps(at, u, v, left, right):
            pieces.append((jump - low, before))
            low = jump
    return mixture([*pieces, (1.0 - low, laws[-1])])


def _jumps(at: Callable[[float], Law], u: float, v: float, left: Law, right: Law) -> list[tuple[float, Law]]:
    """The places between u and v where the law changes, each with the law before it."""
    if same(left, right):
        return []
    if v - u < 1e-11:
        return [((u + v) / 2, left)]
    middle = (u + v) / 2
    at_middle = at(middle)
    return _jumps(at, u, middle, left, at_middle) + _jumps(at, middle, v, at_middle, right)


def mixture(parts: Sequence[tuple[float, Law]]) -> Law:
    """The law that is each of the parts with its weight."""
    total: Law = {}
    for weight, part in parts:
        for outcome, p in part.items():
            total[outcome] = total.get(outcome, 0.0) + weight * p
    return total


def distance(one: Mapping[Any, float], other: Mapping[Any, float]) -> float:
    """The total variation distance."""
    return sum(abs(one.get(x, 0.0) - other.get(x, 0.0)) for x in {**one, **other}) / 2


def same(one: Mapping[Any, float], other: Mapping[Any, float], tolerance: float = EPS) -> bool:
    """Whether two laws are equal but for rounding."""
    return one == other or distance(one, other) <= tolerance
