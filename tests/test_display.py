"""What notebooks show: every number legibly, and in the terminal the same as in HTML."""

import math
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from pgtheory import gallery
from pgtheory.display import Record, refusal, show, table


class Cells(HTMLParser):
    """The texts of the cells of an HTML table, row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.rows[-1][-1] += data


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1 + 0.2, "0.3"),
        (-0.0, "0"),
        (1e-17, "1·10⁻¹⁷"),
        (-2.34e-9, "−2.3·10⁻⁹"),
        (1.5e9, "1.5·10⁹"),
        (20_000, "20\N{NO-BREAK SPACE}000"),
        (9_999, "9999"),
        (-1, "−1"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "nan"),
        (True, "yes"),
        (None, ""),
        ("a text", "a text"),
        (torch.tensor(0.25), "0.25"),
        (torch.tensor(2.0, requires_grad=True), "2"),
        (torch.tensor([0.5, 0.25]), "0.50, 0.25"),
        (torch.tensor([True, False]), "yes, no"),
        ([[1, 2], [3, 4]], "1, 2; 3, 4"),
    ],
)
def test_a_value_is_shown_without_its_type(value: object, text: str) -> None:
    assert repr(show({"name": value})) == f"name  {text}".rstrip()


def test_no_number_is_shown_as_zero_that_is_not() -> None:
    shown = show([0.0, 1e-5, 4.9e-5, 5.1e-5, 1.0]).cells[0][0].split(", ")
    assert [text for text in shown if text == "0"] == ["0"]
    assert "0.0000" not in shown


def test_a_column_has_one_number_of_decimals_and_no_more_than_it_needs() -> None:
    shown = table({"x": [0.5, 0.125, 2.0], "n": [1, 2, 30]})
    assert repr(shown) == "    x   n\n0.500   1\n0.125   2\n2.000  30"


def test_html_and_text_hold_the_same_cells() -> None:
    shown = table(torch.eye(2), columns=["a", "<b>"], rows=["s", "t"], corner="c")
    assert Cells(shown._repr_html_()).rows == [["c", "a", "<b>"], ["s", "1", "0"], ["t", "0", "1"]]
    assert [line.split() for line in repr(shown).splitlines()] == Cells(shown._repr_html_()).rows


def test_the_entries_of_a_mapping_are_columns_or_rows_or_rows_of_names() -> None:
    by_column = table({"a": [1, 2], "b": [3, 4]})
    by_row = table({"a": [1, 2], "b": [3, 4]}, columns=["x", "y"])
    by_name = table({"a": {"x": 1, "y": 2}, "b": {"y": 4}})
    assert (by_column.columns, by_column.rows, by_column.cells) == (["a", "b"], [], [["1", "3"], ["2", "4"]])
    assert (by_row.columns, by_row.rows, by_row.cells) == (["x", "y"], ["a", "b"], [["1", "2"], ["3", "4"]])
    assert (by_name.columns, by_name.rows, by_name.cells) == (["x", "y"], ["a", "b"], [["1", "2"], ["", "4"]])


def test_an_mdp_names_rows_and_columns_and_shows_its_outcomes() -> None:
    robot = gallery.recycling_robot()
    shown = table(robot.expected_rewards(), mdp=robot)
    assert (shown.rows, shown.columns) == (["high", "low"], ["search", "wait", "recharge"])
    assert table(robot.initial, mdp=robot).columns == ["high", "low"]
    outcomes = show(robot)
    assert ["low", "search", "high", "−3", "0.6"] in outcomes.cells
    assert len(outcomes.cells) == len(robot.outcomes.state)
    with pytest.raises(ValueError, match="more than 40 are not shown"):
        show(gallery.gridworld())


def test_records_show_the_fields_that_are_asked_for() -> None:
    robot = gallery.recycling_robot()
    shown = table([robot.outcomes], columns=["next_state"])
    assert (shown.columns, len(shown.cells)) == (["next state"], 1)


@pytest.mark.parametrize(
    ("data", "names", "message"),
    [
        ([[1, 2], [3]], {}, r"the rows have different lengths: \[2, 1\]"),
        ([[1, 2]], {"columns": ["a"]}, "1 columns and 0 rows are named, and there are 2 and 1"),
        ([[1, 2]], {"rows": ["a", "b"]}, "0 columns and 2 rows are named, and there are 2 and 1"),
    ],
    ids=["lengths", "columns", "rows"],
)
def test_names_that_do_not_fit_are_refused(data: object, names: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table(data, **names)


def test_a_call_that_is_not_refused_is_an_error() -> None:
    assert refusal(ValueError, float, "x").startswith("could not convert")
    with pytest.raises(AssertionError, match="not refused with ValueError"):
        refusal(ValueError, float, "1")
    with pytest.raises(TypeError):
        refusal(ValueError, float, [])


def test_what_a_record_computed_is_what_it_reads(tmp_path: Path) -> None:
    path, calls = tmp_path / "record.json", []

    def halves(n: int, *, of: float = 1.0) -> dict[str, object]:
        calls.append(n)
        return {"halves": of / 2 ** torch.arange(n, dtype=torch.float64), 1: (n, "½")}

    live = Record(path, live=True, write=True)(halves)
    first, second = live(3), live(2, of=4.0)
    assert first == {"halves": [1.0, 0.5, 0.25], "1": [3, "½"]}
    read = Record(path, live=False)(halves)
    assert (read(3), read(2, of=4.0)) == (first, second)
    assert calls == [3, 2]
    with pytest.raises(LookupError, match=r"record\.json has no halves\(4\): it was recorded with other calls"):
        read(4)
    before = path.read_bytes()
    assert Record(path, live=True)(halves)(1) != first
    assert path.read_bytes() == before, "without `write` the file stays"


def test_a_record_takes_nothing_that_json_does_not_know_and_needs_its_file(tmp_path: Path) -> None:
    def not_finite() -> float:
        return math.nan

    with pytest.raises(ValueError, match="JSON"):
        Record(tmp_path / "record.json", live=True)(not_finite)()
    with pytest.raises(FileNotFoundError, match=r"there is no record .*record\.json, and nothing runs here"):
        Record(tmp_path / "record.json", live=False)
