"""The checks by their names and the catalogue of all known mistakes: a file in `kinds` is found by itself."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pgtheory.checking import kinds
from pgtheory.checking.judge import Check, Kind
from pgtheory.checking.report import Mistake, Report, pinned

_PIN = """checks: the version of the set of checks that decides, such as `"1.0"`: newer mistakes are remarks, see
            `Report.as_of`; None: the present one."""


def _pinnable(check: Callable[..., Report]) -> Callable[..., Report]:
    """A check that takes `checks` too, in its signature and its documentation as well."""

    @functools.wraps(check)
    def checked(*arguments: Any, checks: str | None = None, **options: Any) -> Report:
        if checks is not None:
            pinned(checks)  # before it takes its time
        report = check(*arguments, **options)
        return report if checks is None else report.as_of(checks)

    own = inspect.signature(check)
    pin = inspect.Parameter("checks", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=str | None)
    head, args, rest = (check.__doc__ or "").partition("\n\n    Returns:\n")
    vars(checked).update(__signature__=own.replace(parameters=[*own.parameters.values(), pin]))
    checked.__doc__ = f"{head}\n        {_PIN}{args}{rest}" if "\n    Args:\n" in head else check.__doc__
    checked.__module__ = "pgtheory.checking"  # where it is found under its name
    return checked


def _found() -> list[tuple[Check | Kind, Callable[..., Report]]]:
    """The checks of the modules in `kinds`, with their public functions, by chapter."""
    found: list[tuple[Check | Kind, Callable[..., Report]]] = []
    for _, name, _ in pkgutil.iter_modules(kinds.__path__):
        module = vars(importlib.import_module(f"{kinds.__name__}.{name}"))
        for value in module.values():
            if isinstance(value, Check):
                found.append((value, _pinnable(module.get(f"check_{value.name}", value.judge))))
            elif isinstance(value, Kind):
                found.append((value, _pinnable(module[f"check_{value.name}"])))
    return sorted(found, key=lambda pair: (pair[0].chapter, pair[0].name))


_FOUND = _found()
#: The declared checks by name: what is right, on which cases, and the known mistakes.
DECLARED: Mapping[str, Check] = MappingProxyType({c.name: c for c, _ in _FOUND if isinstance(c, Check)})

#: The checks by the names of what they check; `kl_loss` is `check_kl` with `as_loss=True`.
CHECKS: Mapping[str, Callable[..., Report]] = MappingProxyType({check.name: f for check, f in _FOUND})

_CATALOGUE: tuple[Mistake, ...] = tuple(mistake for check, _ in _FOUND for mistake in check.mistakes)


def mistakes(check: str | None = None) -> tuple[Mistake, ...]:
    """The known mistakes, of one check or of all, in the order of the book.

    .. no equation: it lists names

    Args:
        check: the name of a check, such as `"top_p"`; None: all.

    Returns:
        The mistakes, and the forms that are right with a remark.

    Raises:
        ValueError: there is no check of that name.

    Source:
        Each mistake names its own.

    Example:
        >>> {mistake.check for mistake in mistakes("top_p")}
        {'top_p'}
        >>> mistakes("returns")[1].name
        'the returns in reversed order'
    """
    if check is not None and check not in CHECKS:
        raise ValueError(f"check is {check!r}, expected one of {', '.join(map(repr, CHECKS))}")
    return tuple(mistake for mistake in _CATALOGUE if check in (None, mistake.check))
