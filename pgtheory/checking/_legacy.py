"""The checks that are not declared in `kinds` yet; a line goes out with each file that is ported."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

from pgtheory.checking.report import Mistake, Report

# The check, its module, its mistakes and the options of its function.
_TABLE: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("mdp", "_environment", "MISTAKES", {}),
    ("policy_gradient", "_policy_gradient", "MISTAKES", {}),
)


def _modules() -> Iterator[tuple[str, ModuleType, str, dict[str, Any]]]:
    """The rows of which the module still stands."""
    for name, module, mistakes, options in _TABLE:
        if importlib.util.find_spec(f"pgtheory.checking.{module}"):
            yield name, importlib.import_module(f"pgtheory.checking.{module}"), mistakes, options


def checks() -> dict[str, Callable[..., Report]]:
    """The functions by the names of their checks."""
    found: dict[str, Callable[..., Report]] = {}
    for name, module, _, options in _modules():
        function = vars(module)[f"check_{name.removesuffix('_loss')}"]
        found[name] = partial(function, **options) if options else function
    return found


def mistakes() -> list[Mistake]:
    """Their mistakes."""
    return [mistake for _, module, name, _ in _modules() for mistake in vars(module)[name]]
