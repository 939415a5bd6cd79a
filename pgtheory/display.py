"""Numbers, tensors, tables and small MDPs, shown in a notebook or a terminal without a word about formats.

>>> from pgtheory.display import show, table
>>> show({"by hand": 0.1 + 0.2, "error": 1e-17})
by hand  0.3
error    1·10⁻¹⁷

.. no equation: it shows what others compute
"""

import functools
import html
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from pgtheory.mdp import FiniteMDP

__all__ = ["Record", "Table", "refusal", "show", "table"]

P = ParamSpec("P")

DIGITS = 4
NARROW = 76  # columns of a terminal, and of the page


def _plain(value: Any) -> Any:
    """Numbers, texts and nested lists of them; whatever can become a list does."""
    if hasattr(value, "detach"):
        value = value.detach()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(x) for x in value]
    return value


def _exponential(x: float) -> str:
    digits, _, power = f"{x:.1e}".partition("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digits.removesuffix('.0')}·10{raised}"


def _fixed(values: Sequence[float], digits: int) -> list[str]:
    """Numbers of one column with as many decimals as one of them needs, and at most `digits`."""
    texts = [f"{x:.{digits}f}" for x in values]
    used = max((len(re.sub(r"\.?0*$", "", t).partition(".")[2]) for t in texts if "." in t), default=0)
    return [f"{x:,.{used}f}".replace(",", "\N{NO-BREAK SPACE}" if abs(x) >= 10_000 else "") for x in values]


def _texts(values: Sequence[Any], digits: int) -> list[str]:
    """A text for each entry of a column."""
    numbers = [isinstance(x, int | float) and not isinstance(x, bool) for x in values]
    usual = [
        n and math.isfinite(x) and (x == 0 or 10.0**-digits / 2 <= abs(x) < 1e7)
        for n, x in zip(numbers, values, strict=True)
    ]
    fixed = iter(_fixed([float(x) for x, ok in zip(values, usual, strict=True) if ok], digits))
    special = {"inf": "∞", "-inf": "−∞", "nan": "nan"}
    found = []
    for x, number, ok in zip(values, numbers, usual, strict=True):
        if ok:
            text = next(fixed) if x else next(fixed) and "0"
        elif number:
            text = special.get(str(x)) or _exponential(x)
        elif isinstance(x, bool):
            text = "yes" if x else "no"
        elif isinstance(x, list):
            text = _joined(x, digits)
        else:
            text = "" if x is None else str(x)
        found.append(re.sub(r"^-(?=\d)", "−", text) if number else text)
    return found


def _joined(values: Sequence[Any], digits: int) -> str:
    if any(isinstance(x, list) for x in values):
        return "; ".join(_joined(x, digits) if isinstance(x, list) else str(x) for x in values)
    return ", ".join(_texts(values, digits))


class Table:
    """Rows and columns with their names: HTML in a notebook, plain text in a terminal.

    Args:
        cells: the texts, row by row.
        columns: the names of the columns, or nothing.
        rows: the names of the rows, or nothing.
        corner: what the rows are, for the corner of the table.

    Example:
        >>> Table([["1", "2"]], columns=["a", "b"], rows=["first"])
               a  b
        first  1  2
    """

    def __init__(
        self, cells: Sequence[Sequence[str]], *, columns: Sequence[str] = (), rows: Sequence[str] = (), corner: str = ""
    ) -> None:
        self.cells, self.columns, self.rows, self.corner = cells, list(columns), list(rows), corner

    def _to_the_left(self, k: int) -> bool:
        """Whether column `k` holds texts, not numbers of one kind."""
        return not self.columns or not all(re.match(r"([−\d∞]|nan|$)", row[k]) for row in self.cells)

    def _lines(self) -> list[list[str]]:
        body = [[*self.rows[i : i + 1], *row] for i, row in enumerate(self.cells)]
        head = [[self.corner] * bool(self.rows) + self.columns] if self.columns else []
        return head + body

    def __repr__(self) -> str:
        lines = self._lines()
        if not lines:
            return "(no rows)"
        widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]

        def padded(text: str, k: int) -> str:
            left = (k == 0 and bool(self.rows)) or self._to_the_left(k - bool(self.rows))
            return text.ljust(widths[k]) if left else text.rjust(widths[k])

        return "\n".join("  ".join(padded(text, k) for k, text in enumerate(line)).rstrip() for line in lines)

    def _repr_html_(self) -> str:
        def row(texts: Sequence[str], mark: str) -> str:
            sides = (' class="text"' if self._to_the_left(k) else "" for k in range(len(texts)))
            end = f"</{mark[:2]}>"
            return "".join(f"<{mark}{s}>{html.escape(t)}{end}" for s, t in zip(sides, texts, strict=True))

        corner = f"<td>{html.escape(self.corner)}</td>" if self.rows else ""
        head = f"<thead><tr>{corner}{row(self.columns, 'th scope=col')}</tr></thead>" if self.columns else ""
        body = ""
        for i, texts in enumerate(self.cells):
            name = f'<th scope="row">{html.escape(self.rows[i])}</th>' if self.rows else ""
            body += f"<tr>{name}{row(texts, 'td')}</tr>"
        return f'<table class="numbers">{head}<tbody>{body}</tbody></table>'


def _by_rows(
    data: Any, columns: Sequence[Any] | None, rows: Sequence[Any] | None
) -> tuple[list[list[Any]], list[str], list[str]]:
    """The entries row by row, and the names of columns and rows."""
    if isinstance(data, Mapping):
        values = list(map(_plain, data.values()))
        if values and all(isinstance(x, dict) for x in values):  # name of a row: {name of a column: entry}
            names = list(dict.fromkeys(key for x in values for key in x))
            return [[x.get(key) for key in names] for x in values], list(map(str, names)), list(map(str, data))
        entries = [x if isinstance(x, list) else [x] for x in values]
        if columns is None and rows is None and all(not isinstance(x, list) for x in values):
            return entries, [], list(map(str, data))
        if columns is None:  # each entry is a column
            return [list(x) for x in zip(*entries, strict=True)], list(map(str, data)), list(map(str, rows or ()))
        return entries, list(map(str, columns)), list(map(str, data))
    fields = getattr(next(iter(data)), "_fields", None) if not hasattr(data, "shape") and len(data) else None
    if fields is not None and columns is not None:
        body = [[_plain(getattr(x, name)) for name in columns] for x in data]
    else:
        body = [x if isinstance(x, list) else [x] for x in _plain(data)]
        columns = columns if columns is not None else fields
        if getattr(data, "ndim", 2) == 1:
            body = [[x[0] for x in body]]
    return body, [str(x).replace("_", " ") if fields else str(x) for x in columns or ()], list(map(str, rows or ()))


def table(
    data: Any,
    *,
    columns: Sequence[Any] | None = None,
    rows: Sequence[Any] | None = None,
    mdp: "FiniteMDP | None" = None,
    corner: str = "",
    digits: int = DIGITS,
) -> Table:
    """A table of whatever is at hand.

    Args:
        data: a tensor or a list of rows; records (named tuples), of which `columns` picks fields; a mapping whose
            entries are rows where `columns` is given, and columns otherwise; or a mapping of mappings, row by row.
        columns: the names of the columns.
        rows: the names of the rows.
        mdp: names the rows by its states and the columns by its actions (or the columns by its states, if there is
            one row).
        corner: what the rows are.
        digits: the largest number of decimals.

    Returns:
        The table; a notebook shows it if it comes last in a cell.

    Raises:
        ValueError: if the rows differ in length, or the names do not fit them.

    Source:
        none: a convenience.

    Example:
        >>> table({"exact": [0.25, 1.0], "off by": [3e-9, 0.0]}, rows=["v", "q"])
           exact  off by
        v   0.25  3·10⁻⁹
        q   1.00       0
    """
    if mdp is not None:
        states = list(mdp.state_names or map(str, range(mdp.n_states)))
        actions = list(mdp.action_names or map(str, range(mdp.n_actions)))
        single = getattr(data, "ndim", 2) == 1
        columns = columns or (states if single else actions)
        rows = rows if single or rows is not None else states
    body, names, labels = _by_rows(data, columns, rows)
    if len({len(x) for x in body}) > 1:
        raise ValueError(f"the rows have different lengths: {[len(x) for x in body]}")
    width = len(body[0]) if body else 0
    if (names and len(names) != width) or (labels and len(labels) != len(body)):
        raise ValueError(
            f"{len(names)} columns and {len(labels)} rows are named, and there are {width} and {len(body)}"
        )
    by_column = [_texts([x[k] for x in body], digits) for k in range(width)]
    cells = [[column[i] for column in by_column] for i in range(len(body))]
    return Table(cells, columns=names, rows=labels, corner=corner)


def _outcomes(mdp: "FiniteMDP") -> Table:
    states = list(mdp.state_names or map(str, range(mdp.n_states)))
    actions = list(mdp.action_names or map(str, range(mdp.n_actions)))
    o = mdp.outcomes
    columns = {
        "s": [states[s] for s in o.state],
        "a": [actions[a] for a in o.action],
        "s′": [states[s] for s in o.next_state],
        "r": mdp.rewards[o.reward_index],
        "p(s′, r | s, a)": o.probability,
    }
    return table(columns)


def show(value: Any, *, digits: int = DIGITS) -> Table:
    """A number, a tensor, a list of numbers, an MDP's outcomes, or a few of them under their names.

    Args:
        value: what to show; a mapping gives a line to each of its entries.
        digits: the largest number of decimals.

    Returns:
        A table.

    Raises:
        ValueError: if an MDP has more than 40 outcomes.

    Source:
        none: a convenience.

    Example:
        >>> import torch
        >>> show({"probabilities": torch.tensor([0.25, 0.75]), "sum": 1.0})
        probabilities  0.25, 0.75
        sum            1
    """
    if hasattr(value, "outcomes"):
        if len(value.outcomes.state) > 40:
            raise ValueError(f"mdp has {len(value.outcomes.state)} outcomes, and more than 40 are not shown")
        return _outcomes(value)
    if isinstance(value, Mapping):
        return Table([_texts([_plain(x)], digits) for x in value.values()], rows=list(map(str, value)))
    if getattr(value, "ndim", 0) == 2:
        return table(value, digits=digits)
    return Table([_texts([_plain(value)], digits)])


def refusal(error: type[Exception], function: Callable[..., Any], *args: Any, **options: Any) -> str:
    """What `function` says when it refuses these arguments.

    Args:
        error: the error that is expected.
        function: what is called.
        args: its arguments.
        options: its keyword arguments.

    Returns:
        The message of the error.

    Raises:
        AssertionError: if the call is not refused.

    Source:
        none: a convenience.

    Example:
        >>> refusal(ValueError, int, "seven")
        "invalid literal for int() with base 10: 'seven'"
    """
    try:
        function(*args, **options)
    except error as refused:
        return str(refused)
    raise AssertionError(f"the call is not refused with {error.__name__}")


class Record:
    r"""A decorator: results that take long to compute, kept in a file of JSON, so that a page can show them without.

    A decorated function is called as before. Where `live` is true it runs, and answers with what JSON makes of its
    result; elsewhere the answer to the same call is read from the file.

    Args:
        path: the file.
        live: whether functions run.
        write: whether the file gets the answers of those that run.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for live in (True, False):
        ...         record = Record(folder + "/record.json", live=live, write=live)
        ...         @record
        ...         def squares(n):
        ...             print("computing")
        ...             return [k**2 for k in range(n)]
        ...         print(squares(3))
        computing
        [0, 1, 4]
        [0, 1, 4]
    """

    def __init__(self, path: str | os.PathLike[str], *, live: bool, write: bool = False) -> None:
        self.path, self.live, self.write = Path(path), live, write
        self.answers: dict[str, Any] = {}
        if not live:
            try:
                self.answers = json.loads(self.path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                raise FileNotFoundError(f"there is no record {self.path}, and nothing runs here") from None

    def __call__(self, function: Callable[P, Any]) -> Callable[P, Any]:
        """Decorate a function, which is known by its name."""

        @functools.wraps(function)
        def answer(*args: P.args, **options: P.kwargs) -> Any:
            given = [*map(repr, args), *(f"{name}={value!r}" for name, value in options.items())]
            call = f"{function.__name__}({', '.join(given)})"
            if self.live:
                self.answers[call] = json.loads(json.dumps(_plain(function(*args, **options)), allow_nan=False))
                if self.write:
                    text = json.dumps(self.answers, ensure_ascii=False, indent=1)
                    self.path.write_text(text + "\n", encoding="utf-8")
            elif call not in self.answers:
                raise LookupError(f"{self.path} has no {call}: it was recorded with other calls")
            return self.answers[call]

        return answer
