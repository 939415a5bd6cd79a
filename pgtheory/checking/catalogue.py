"""The checks by their names and the catalogue of all known mistakes: a file in `kinds` is found by itself."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from types import MappingProxyType

from pgtheory.checking import kinds
from pgtheory.checking.judge import Check, Kind
from pgtheory.checking.report import Mistake, Report


def _found() -> list[tuple[Check | Kind, Callable[..., Report]]]:
    """The checks of the modules in `kinds`, with their public functions, by chapter."""
    found: list[tuple[Check | Kind, Callable[..., Report]]] = []
    for _, name, _ in pkgutil.iter_modules(kinds.__path__):
        module = vars(importlib.import_module(f"{kinds.__name__}.{name}"))
        for value in module.values():
            if isinstance(value, Check):
                found.append((value, module.get(f"check_{value.name}", value.judge)))
            elif isinstance(value, Kind):
                found.append((value, module[f"check_{value.name}"]))
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
