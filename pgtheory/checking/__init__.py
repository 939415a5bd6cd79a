"""A conformance kit: is your implementation right, and if not, which known mistake is it?"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pgtheory.checking._learning import learning_curve
from pgtheory.checking.catalogue import CHECKS, mistakes
from pgtheory.checking.report import Counterexample, Mistake, Report, Source, UnknownForm, WrongImplementation

# Each check is a file in `kinds`, and its function a name of this package.
_FUNCTIONS = {f.__name__: f for f in CHECKS.values() if getattr(f, "__name__", "").startswith("check_")}
globals().update(_FUNCTIONS)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., Report]: ...


__all__ = [  # noqa: PLE0604
    "CHECKS",
    "Counterexample",
    "Mistake",
    "Report",
    "Source",
    "UnknownForm",
    "WrongImplementation",
    "learning_curve",
    "mistakes",
    *_FUNCTIONS,
]
