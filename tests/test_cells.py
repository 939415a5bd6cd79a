"""The code cells of the chapters are code that one wants to read."""

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
CELLS = [
    pytest.param(cell, id=f"{path.stem}-{cell.id}")
    for path in sorted((ROOT / "book").glob("*.ipynb"))
    for cell in nbformat.read(path, as_version=4).cells
    if cell.cell_type == "code"
]
PLUMBING = {
    "a format": r"print\(\s*f[\"']|\.format\(.*end=|[\"']\{:[<>.]",
    "a comment to the formatter": r"# fmt:",
    "surgery on a source": r"getsource|import inspect",
    "a table of pandas": r"DataFrame|pd\.Series|import pandas",
    "settings of a printer": r"set_printoptions|set_option|use_book_style",
    "a private name": r"pgtheory[\w.]*\._|import _|\bpg\._|\w\._[a-z]\w+\(",
}


def tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", []))


def imports(source: str) -> int:
    """The number of lines that import."""
    nodes = ast.walk(ast.parse(source))
    lines = [(n.lineno, n.end_lineno or 0) for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
    return sum(end - start + 1 for start, end in lines)


def test_the_plumbing_is_seen() -> None:
    seen = {
        "a format": 'print(f"{x:.2f}")',
        "a comment to the formatter": "x = [1,2]  # fmt: skip",
        "surgery on a source": "inspect.getsource(f)",
        "a table of pandas": "pd.DataFrame(rows)",
        "settings of a printer": "torch.set_printoptions(precision=4)",
        "a private name": "from pgtheory.advantages import _sums",
    }
    assert all(re.search(PLUMBING[name], source) for name, source in seen.items())
    assert not any(re.search(pattern, "show(pg.top_k(h, 2))\nrequires_grad_()") for pattern in PLUMBING.values())


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_has_no_plumbing(cell: Any) -> None:
    assert [name for name, pattern in PLUMBING.items() if re.search(pattern, cell.source)] == []


@pytest.mark.parametrize("cell", CELLS)
def test_imports_are_two_lines_or_folded(cell: Any) -> None:
    assert "hide-input" in tags(cell) or imports(cell.source) <= 2


@pytest.mark.parametrize("cell", CELLS)
def test_a_line_of_a_cell_fits_into_the_column(cell: Any) -> None:
    assert [line for line in cell.source.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_that_is_meant_to_raise_says_which_error_and_no_other_catches_one(cell: Any) -> None:
    assert ("raises-exception" in tags(cell)) == bool(cell.metadata.get("raises"))
    assert re.search(r"^\s*except\b", cell.source, flags=re.M) is None


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_ends_with_what_it_shows(cell: Any) -> None:
    last = ast.parse(cell.source).body[-1]
    assert not cell.source.rstrip().endswith(";")
    drawn = re.search(r"^plotting\.(plot_|draw_|move_)", cell.source, flags=re.M)
    assert not drawn or isinstance(last, ast.Expr)
    assert ("figure" in cell.metadata.get("mystnb", {})) == bool(drawn)
