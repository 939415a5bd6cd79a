"""What a check says: the verdict, the known mistake, the smallest case that shows it."""

import html
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from torch import Tensor

#: The version of the set of checks: a mistake that is added to a released set has the next version as its `since`.
CHECKS_VERSION = "1.0"


class Source(NamedTuple):
    """Where a mistake, or what is right, was published.

    Attributes:
        text: author and year, or project and number of the thread.
        url: its address.
    """

    text: str
    url: str


def issue(repository: str, number: int) -> Source:
    """An issue thread of a project on GitHub."""
    return Source(f"{repository} #{number}", f"https://github.com/{repository}/issues/{number}")


def pull(repository: str, number: int) -> Source:
    """A pull request of a project on GitHub."""
    return Source(f"{repository} #{number}", f"https://github.com/{repository}/pull/{number}")


def arxiv(text: str, identifier: str) -> Source:
    """A paper on arXiv."""
    return Source(text, f"https://arxiv.org/abs/{identifier}")


@dataclass(frozen=True)
class Mistake:
    """A known way of getting something wrong, with its implementations.

    Attributes:
        key: a short name without spaces, such as `top_p.crossing_token_dropped`.
        name: the diagnosis, in words.
        meaning: what it does, and why that is wrong.
        sign: how it can be recognised.
        sources: who has reported it.
        implementations: the mistake in code, one or more ways of writing it, in the canonical signature of its check.
        severity: `wrong`, or `remark` for what is wasteful or unusual but right.
        right_form: where the right form is stated, without a report of the mistake.
        since: the first version of the set of checks that has it.

    Example:
        >>> from pgtheory.checking import mistakes
        >>> mistakes("top_p")[0].key.partition(".")[0]
        'top_p'
    """

    key: str
    name: str
    meaning: str
    sign: str
    sources: tuple[Source, ...]
    implementations: tuple[Callable[..., Any], ...] = field(repr=False, compare=False, default=())
    severity: Literal["wrong", "remark"] = "wrong"
    right_form: tuple[Source, ...] = ()
    since: str = "1.0"

    @property
    def check(self) -> str:
        """The name of the check that finds it, such as `top_p`."""
        return self.key.partition(".")[0]


class Counterexample(NamedTuple):
    """The smallest case in which an implementation differs from what is right.

    Attributes:
        inputs: what it was called with.
        expected: what is right.
        got: what it returned, or the exception that it raised.
        quantity: what `expected` and `got` are, where that is not the returned value itself.

    Example:
        >>> print(Counterexample({"rewards": [1.0, 2.0], "gamma": 0.5}, [2.0, 2.0], [3.0, 2.0]))
        rewards  = [1, 2]
        gamma    = 0.5
        expected = [2, 2]
        got      = [3, 2]
    """

    inputs: Mapping[str, Any]
    expected: Any
    got: Any
    quantity: str = ""

    def __str__(self) -> str:
        rows = {**self.inputs, "expected": self.expected, "got": self.got}
        width = max(map(len, rows))
        lines = [f"{name:{width}} = {as_text(value)}" for name, value in rows.items()]
        return "\n".join([f"({self.quantity})", *lines] if self.quantity else lines)


class UnknownForm(TypeError):
    """Raised by a check that cannot call a function, or does not know what it returned.

    Example:
        >>> from pgtheory.checking import check_returns
        >>> try:
        ...     check_returns(lambda rewards, gamma: "seven")
        ... except UnknownForm as error:
        ...     print(str(error).splitlines()[0])
        check_returns does not understand this function. It was called as

    Attributes:
        tried: the forms that were tried, and what happened in each.
    """

    tried: Mapping[str, str] = MappingProxyType({})


class WrongImplementation(AssertionError):
    """Raised by `Report.raise_if_wrong`; its message is the report.

    Example:
        >>> from pgtheory.checking import check_returns
        >>> try:
        ...     check_returns(lambda rewards, gamma: rewards).raise_if_wrong()
        ... except WrongImplementation as error:
        ...     print(str(error).splitlines()[0])
        check_returns: WRONG, a known mistake: the reward of the step alone, not the return
    """


@dataclass(frozen=True)
class Report:
    """The verdict of a check.

    Attributes:
        check: the name of the check.
        ok: whether the implementation is right; False too where the check abstains.
        mistakes: the known mistakes that explain, together, everything that it returned; empty if there is no such
            explanation.
        remarks: what is not wrong, and worth knowing.
        counterexample: the smallest case in which it is wrong.
        details: numbers about it, such as the angle between its expected gradient and the true one.
        form: how it was called.
        n_cases: in how many cases.
        abstains: why there is no verdict, and what would have to be declared; empty if there is one.
        binding: which argument of the function got what, and what was left at its default.
        judged: which part of what it returned was judged.

    Example:
        >>> from pgtheory.checking import check_returns
        >>> report = check_returns(lambda rewards, gamma: rewards)
        >>> report.ok, report.diagnosis
        (False, 'the reward of the step alone, not the return')
    """

    check: str
    ok: bool
    mistakes: tuple[Mistake, ...] = ()
    remarks: tuple[str, ...] = ()
    counterexample: Counterexample | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    form: str = ""
    n_cases: int = 0
    abstains: str = ""
    binding: Mapping[str, str] = field(default_factory=dict)
    judged: str = ""

    @property
    def verdict(self) -> Literal["right", "wrong", "abstains"]:
        """The verdict in a word."""
        return "right" if self.ok else "abstains" if self.abstains else "wrong"

    @property
    def diagnosis(self) -> str | None:
        """The known mistake, in words; None if there is none, or if it is unknown."""
        return "; and ".join(mistake.name for mistake in self.mistakes) or None

    @property
    def headline(self) -> str:
        """The verdict in one line."""
        if self.ok:
            return f"check_{self.check}: right" + (f", with {_count(self.remarks, 'remark')}" if self.remarks else "")
        if self.abstains:
            return f"check_{self.check}: no verdict"
        if not self.mistakes:
            return f"check_{self.check}: WRONG, an unknown mistake"
        return f"check_{self.check}: WRONG, {'a known mistake' if len(self.mistakes) == 1 else 'known mistakes'}: " + (
            self.diagnosis or ""
        )

    def raise_if_wrong(self, checks: str | None = None) -> "Report":
        """Return the report itself if the implementation is right.

        Args:
            checks: the version of the set of checks that decides, see `as_of`; None: the present one.

        Raises:
            WrongImplementation: it is wrong; the message is the whole report.
            UnknownForm: the check abstains.
            ValueError: there is no such version.
        """
        report = self if checks is None else self.as_of(checks)
        if report.abstains:
            raise UnknownForm(str(report))
        if not report.ok:
            raise WrongImplementation(str(report))
        return report

    def as_of(self, checks: str) -> "Report":
        """The report of someone who pins the set of checks, so that a mistake added later does not break a build.

        What is guaranteed: if all mistakes of the diagnosis are newer than the pinned version, the implementation
        counts as right, and each of them is a remark. Nothing else changes: a known mistake of that version stays
        wrong, and so does one without a name.

        Args:
            checks: the version, such as `"1.0"`.

        Raises:
            ValueError: there is no such version.
        """
        pin = pinned(checks)
        newer = [m for m in self.mistakes if numbers_of(m.since) > pin]
        if self.abstains or not newer or len(newer) < len(self.mistakes):
            return self
        remarks = [f"WRONG by the checks of {m.since}, newer than {checks}: {m.name} ({m.key})" for m in newer]
        return replace(self, ok=True, mistakes=(), remarks=(*remarks, *self.remarks))

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        lines = [self.headline]
        for title, text in self._sections():
            lines += [f"  {title}:", *(f"    {line}" for line in text.splitlines())]
        return "\n".join(lines)

    __repr__ = __str__

    def as_dict(self) -> dict[str, Any]:
        """The report in types that JSON has; keys may be added, and those that are here keep their meaning.

        Returns:
            `check`: the name of the check; `verdict`: "right", "wrong" or "abstains"; `diagnosis`: text or null;
            `mistakes`: their keys; `sources` and `right_form`: lists of {"text", "url"}, where these mistakes were
            reported and where the right form is stated; `remarks`: a list of texts; `abstains`: why there is no
            verdict, or ""; `counterexample`: text or null; `details`: numbers as text, by name; `form`, `binding`
            (an object) and `judged`: how it was called and what was judged; `cases`: how many; `text`: all of it.
        """
        case = self.counterexample
        return {
            "check": self.check,
            "verdict": self.verdict,
            "diagnosis": self.diagnosis,
            "mistakes": [mistake.key for mistake in self.mistakes],
            "sources": [source._asdict() for source in self._sources("sources")],
            "right_form": [source._asdict() for source in self._sources("right_form")],
            "remarks": [*self.remarks],
            "abstains": self.abstains,
            "counterexample": str(case) if case else None,
            "details": {name: as_text(value) for name, value in self.details.items()},
            "form": self.form,
            "binding": dict(self.binding),
            "judged": self.judged,
            "cases": self.n_cases,
            "text": str(self),
        }

    def _repr_html_(self) -> str:
        colour = {"right": "#009E73", "wrong": "#D55E00", "abstains": "#56B4E9"}[self.verdict]
        sections = "".join(
            f"<dt><strong>{html.escape(title)}</strong></dt>"
            f'<dd><pre style="white-space: pre-wrap; background: none; border: 0; margin: 0; padding: 0">'
            f"{_with_links(text)}</pre></dd>"
            for title, text in self._sections()
        )
        return (
            f'<div style="border-left: 0.4em solid {colour}; padding-left: 1em">'
            f"<p><strong>{html.escape(self.headline)}</strong></p><dl>{sections}</dl></div>"
        )

    def _sections(self) -> list[tuple[str, str]]:
        meanings = "\n".join(m.meaning for m in self.mistakes)
        numbers = "\n".join(f"{name} = {as_text(value)}" for name, value in self.details.items())
        called = [f"{self.form}, in {_count(range(self.n_cases), 'case')}"] if self.form else []
        called += ["; ".join(f"{name}: {what}" for name, what in self.binding.items())] if self.binding else []
        called += [f"judged: {self.judged}"] if self.judged else []
        sections = [
            ("it depends", self.abstains),
            ("what it is", meanings),
            ("smallest case", str(self.counterexample) if self.counterexample else ""),
            ("remarks", "\n".join(self.remarks)),
            ("numbers", numbers),
            ("known from", "\n".join(f"{s.text}, {s.url}" for s in self._sources("sources"))),
            ("the right form", "\n".join(f"{s.text}, {s.url}" for s in self._sources("right_form"))),
            ("called as", "\n".join(called)),
        ]
        return [(title, text) for title, text in sections if text]

    def _sources(self, which: Literal["sources", "right_form"]) -> list[Source]:
        return list(dict.fromkeys(source for m in self.mistakes for source in getattr(m, which)))


def pinned(checks: str) -> tuple[int, ...]:
    """The numbers of a version of the set of checks.

    Raises:
        ValueError: there is no such version.
    """
    if not (isinstance(checks, str) and re.fullmatch(r"\d+\.\d+", checks)):
        raise ValueError(f"checks is {checks!r}, expected a version such as '1.0'")
    if numbers_of(checks) > numbers_of(CHECKS_VERSION):
        raise ValueError(f"checks is {checks!r}, but the newest version of the checks is {CHECKS_VERSION!r}")
    return numbers_of(checks)


def numbers_of(version: str) -> tuple[int, ...]:
    """The numbers of a version, which can be compared."""
    return tuple(map(int, version.split(".")))


def _with_links(text: str) -> str:
    """Text as HTML; an address at the end of a line is a link."""
    return re.sub(r"https?://\S+$", r'<a href="\g<0>">\g<0></a>', html.escape(text), flags=re.MULTILINE)


def as_text(value: Any) -> str:
    """A value as short text: tensors as nested lists, numbers with six digits."""
    if isinstance(value, Tensor):
        return as_text(value.tolist())
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_text, value))}]"
    return str(value)


def _count(things: Any, noun: str) -> str:
    return f"{len(things)} {noun}" + ("" if len(things) == 1 else "s")
