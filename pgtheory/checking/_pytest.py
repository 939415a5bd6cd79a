"""The checks as tests of pytest, which is imported only when they are asked for."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pgtheory.checking.catalogue import CHECKS, mistakes
from pgtheory.checking.report import Mistake, Report, UnknownForm, WrongImplementation, numbers_of, pinned

if TYPE_CHECKING:
    import pytest

Function = Callable[..., Any]
#: The items of every check beside those of its known mistakes.
UNDERSTOOD, UNKNOWN = "understood", "unknown_mistake"


def parametrize_with_checks(
    functions: Mapping[Any, Function] | Iterable[Any],
    *,
    expected_failures: Mapping[str, str] | None = None,
    checks: str | None = None,
    min_cases: int = 5,
) -> "pytest.MarkDecorator":
    """Parametrize a test of pytest with functions and what each of them is checked for.

    There is one item for each known mistake of a check, named by its key, over the cases that show it; one,
    `<check>.unknown_mistake`, for whatever else is wrong; and before them `<check>.understood`, which fails if there is
    no verdict, or one from few cases, and then the others are skipped. The check itself runs once.

    .. no equation: it makes tests

    Args:
        functions: pairs of a check and a function, or a mapping from checks to functions. A check is a function
            `check_...`, its name, or a `functools.partial` of it with `layout=`, `names=` and other options. A
            partial that has its function already, or `call=`, may stand alone.
        expected_failures: reasons by the keys of mistakes that are intended, or by the ids of single items. They
            are strict: an item that no longer fails is a failure.
        checks: the version of the set of checks, such as `"1.0"`: a mistake that is newer does not fail, see
            `Report.as_of`; None: the present one.
        min_cases: how many cases a verdict needs at least.

    Returns:
        A decorator for a test that takes `function` and `check`, and calls `check(function)`, which returns the report.

    Raises:
        ImportError: pytest is not installed.
        TypeError: something in `functions` is no pair of a check and a function.
        ValueError: `functions` is empty, or has an unknown check; or `expected_failures` has a key that no item has; or
            there is no such version.

    Source:
        The form is that of `parametrize_with_checks` in scikit-learn.

    Example:
        >>> from pgtheory.checking import check_returns, parametrize_with_checks
        >>> def returns_to_go(rewards, gamma):
        ...     total = 0.0
        ...     return [total := reward + gamma * total for reward in reversed(rewards)][::-1]
        >>> @parametrize_with_checks([(check_returns, returns_to_go)])
        ... def test_formulas(function, check):
        ...     check(function)
        >>> [item.id for item in test_formulas.pytestmark[0].args[1]][:2]
        ['returns_to_go-returns.understood', 'returns_to_go-returns.unknown_mistake']
    """
    try:
        import pytest
    except ImportError:
        raise ImportError("parametrize_with_checks needs pytest: pip install pytest") from None
    if checks is not None:
        pinned(checks)
    items = [
        (id_, subject.function, Item(subject, key, mistake))
        for name, subject in _named(_subjects(functions, checks, min_cases))
        for id_, key, mistake in subject.items(name)
    ]
    expected = dict(expected_failures or {})
    if unknown := expected.keys() - {id_ for id_, _, _ in items} - {item.key for _, _, item in items}:
        raise ValueError(f"expected_failures has {sorted(unknown)[0]!r}, which is no key of the checks that are named")
    parameters = []
    for id_, function, item in items:
        reason = expected.get(id_, expected.get(item.key, ""))
        failure = pytest.mark.xfail(reason=reason, strict=True, raises=(WrongImplementation, UnknownForm))
        is_expected = id_ in expected or item.key in expected
        parameters.append(pytest.param(function, item, id=id_, marks=[failure] if is_expected else []))
    return pytest.mark.parametrize(("function", "check"), parameters)


class Subject:
    """A function with its check, which runs once."""

    def __init__(self, check: str, judge: Function, function: Function, checks: str | None, min_cases: int) -> None:
        self.check, self.judge, self.function, self.min_cases = check, judge, function, min_cases
        self.pin = None if checks is None else pinned(checks)
        self._known: tuple[Function, Report | Exception] | None = None

    def items(self, name: str) -> Iterable[tuple[str, str, Mistake | None]]:
        """The items: id, key, and the mistake, if it is one."""
        known = {m.key: m for m in mistakes(self.check) if m.severity == "wrong"}
        for key in (f"{self.check}.{UNDERSTOOD}", f"{self.check}.{UNKNOWN}", *known):
            yield f"{name}-{key}", key, known.get(key)

    def report(self, function: Function) -> Report | Exception:
        """The report, or why there is none."""
        if self._known is None or self._known[0] is not function:
            try:
                self._known = function, self.judge(function)
            except Exception as error:  # each item says what it makes of it
                self._known = function, error
        return self._known[1]


class Item:
    """What one item asks of a function: that it is understood, or does not make one mistake."""

    def __init__(self, subject: Subject, key: str, mistake: Mistake | None) -> None:
        self.subject, self.key, self.mistake = subject, key, mistake

    def __repr__(self) -> str:
        return self.key

    def __call__(self, function: Function) -> Report:
        """The report, if the function has not got this wrong."""
        import pytest

        __tracebackhide__ = True  # the report says it all
        report = self.subject.report(function)
        if self.key.endswith(f".{UNDERSTOOD}"):
            return self._understood(report)
        if isinstance(report, Exception) or report.abstains:
            pytest.skip("there is no verdict")
        items = mistakes(report.check)  # one that the house has found by itself has no item of its own
        found = self.mistake in report.mistakes if self.mistake else not (report.ok or {*items} & {*report.mistakes})
        if found and self.mistake and self.subject.pin and numbers_of(self.mistake.since) > self.subject.pin:
            pytest.xfail(f"known from the checks of {self.mistake.since} on, which are newer than the pinned ones")
        if found:
            raise WrongImplementation(str(report))
        return report

    def _understood(self, report: Report | Exception) -> Report:
        if isinstance(report, Exception):
            raise report
        if report.abstains:
            raise UnknownForm(str(report))
        if report.n_cases < self.subject.min_cases:
            raise WrongImplementation(f"only {report.n_cases} cases, expected {self.subject.min_cases}\n{report}")
        return report


def _subjects(functions: Any, checks: str | None, min_cases: int) -> list[Subject]:
    entries = functions.items() if isinstance(functions, Mapping) else functions
    if not isinstance(entries, Iterable):
        raise TypeError(f"functions must be a mapping or a list of pairs, not {type(functions).__name__}")
    found = [Subject(*_read(entry, at), checks, min_cases) for at, entry in enumerate(entries)]
    if not found:
        raise ValueError("functions is empty, expected at least one check with its function")
    return found


def _read(entry: Any, at: int) -> tuple[str, Function, Function]:
    """The name of the check, what judges a function, and the function."""
    if isinstance(entry, partial) and (entry.args or "call" in entry.keywords):
        options = partial(entry.func, **{k: v for k, v in entry.keywords.items() if k != "call"})
        if entry.args:
            return _name(entry, at), options, entry.args[0]
        return _name(entry, at), lambda call: options(call=call), entry.keywords["call"]
    if not (isinstance(entry, tuple | list) and len(entry) == 2):
        raise TypeError(f"functions[{at}] must be a pair (check, function), or a partial of a check, not {entry!r}")
    check, function = entry
    if isinstance(check, str):
        name = check.removeprefix("check_")
        if name not in CHECKS:
            raise ValueError(f"functions[{at}] has the check {check!r}, expected one of {', '.join(CHECKS)}")
        return name, CHECKS[name], function
    return _name(check, at), check, function


def _name(check: Any, at: int) -> str:
    """The name of a check, or of a partial of it."""
    options: dict[str, Any] = {}
    while isinstance(check, partial):
        options, check = {**check.keywords, **options}, check.func
    if getattr(check, "__name__", "") == "check_kl" and options.get("as_loss"):
        return "kl_loss"
    name = next((name for name, known in CHECKS.items() if known == check), None)
    if name is None:
        raise ValueError(f"functions[{at}] has {check!r}, which is no check")
    return name


def _named(subjects: Iterable[Subject]) -> Iterable[tuple[str, Subject]]:
    """The functions by their names; a name that comes again with the same check gets a number."""
    seen: dict[tuple[str, str], int] = {}
    for subject in subjects:
        function: Any = subject.function
        while isinstance(function, partial):
            function = function.func
        name = function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)
        name = name.strip("<>")
        n = seen[name, subject.check] = seen.get((name, subject.check), 0) + 1
        yield (name if n == 1 else f"{name}{n}"), subject
