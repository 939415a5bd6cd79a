"""Implementations in the manner of public code, each with the verdict that was expected before it was run."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgtheory.checking import Report, UnknownForm


class Implementations:
    """What a check is tried on; iterated over, it gives the parameters `judge, verdict, said` of a test.

    A `call` takes the implementation to what is given as `call=`: its plain form is refused first.
    """

    def __init__(self, check: Callable[..., Report]) -> None:
        self.check = check
        self._found: list[Any] = []

    def right(self, source: str = "", *, remark: str = "", **options: Any) -> Callable[[Any], Any]:
        """A right implementation; `source` is the code whose form it has."""
        return self._added("right", remark, options)

    def wrong(self, key: str, source: str = "", **options: Any) -> Callable[[Any], Any]:
        """A wrong implementation, with the keys of the mistakes; `source` is a thread that reports it."""
        return self._added("wrong", key, options)

    def refused(self, source: str = "", **options: Any) -> Callable[[Any], Any]:
        """What a check does not understand."""
        return self._added("refused", "", options)

    def _added(self, verdict: str, said: str, options: dict[str, Any]) -> Callable[[Any], Any]:
        call = options.pop("call", None)

        def judge(function: Any) -> Report | None:
            try:
                report = self.check(function, **options)
                assert call is None, "it is understood as it is"
                return report
            except UnknownForm:
                return self.check(call=call(function), **options) if call else None

        def add(function: Any) -> Any:
            name = f"{self.check.__name__}-{getattr(function, '__name__', type(function).__name__)}"
            self._found.append(pytest.param(lambda: judge(function), verdict, said, id=name))
            return function

        return add

    def __iter__(self) -> Iterator[Any]:
        return iter(self._found)


def assert_as_expected(judge: Callable[[], Report | None], verdict: str, said: str) -> None:
    """The verdict, and what is said: the keys of the mistakes, or a part of a remark."""
    report = judge()
    if report is None or verdict == "refused":
        assert report is None, report
        assert verdict == "refused"
        return
    assert report.verdict == verdict, report
    if verdict == "wrong":
        assert " ".join(m.key.partition(".")[2] for m in report.mistakes) == said, report
    assert verdict == "wrong" or not said or any(said in remark for remark in report.remarks), report
