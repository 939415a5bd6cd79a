"""Each exercise has a grade and a solution that answers back."""

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from helpers import load

ROOT = Path(__file__).parents[1]

book = load(".ci/exercises.py")
CHAPTERS = [pytest.param(path, id=path.stem) for path in book.chapters()]
EXERCISES = [pytest.param(e, id=e.label) for path in book.chapters() for e in book.exercises(path)]


def run(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; its value is that of its last expression."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


def is_wrong(source: str, names: dict[str, Any]) -> bool:
    """Whether a check says that what it is given is wrong, by its report or by an exception."""
    try:
        return not run(source, names)
    except Exception:
        return True


def code_of(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_parser_sees_exercises_solutions_and_their_cells(tmp_path: Path) -> None:
    new_markdown, new_code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    start = "```{exercise} A\n:label: ex-x-1\n:class: build\n\ntext $x$\n```\n\n```{solution-start} ex-x-1\n```\nthen"
    end = "```{solution-end}\n```\n````{exercise} B\n:label: ex-x-2\n\n```\ninside\n```\n````"
    cells = [new_code("0"), new_markdown(start), new_code("1"), new_markdown("more"), new_code("2"), new_markdown(end)]
    path = tmp_path / "x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[*cells, new_code("3")]), path)
    first, second = book.exercises(path)
    assert (first.label, first.title, first.grades, first.text) == ("ex-x-1", "A", ["build"], "text $x$")
    assert [cell.source for cell in first.cells] == ["1", "2"]
    assert (len(first.solutions), second.solutions, second.cells, second.grades) == (1, [], [], [])
    assert second.text == "```\ninside\n```"


@pytest.mark.parametrize("exercise", EXERCISES)
def test_an_exercise_has_a_grade(exercise: Any) -> None:
    assert len(exercise.grades) == 1
    assert exercise.grades[0] in book.GRADES


@pytest.mark.parametrize("path", CHAPTERS)
def test_each_exercise_has_one_solution(path: Path) -> None:
    assert {len(exercise.solutions) for exercise in book.exercises(path)} == {1}


@pytest.mark.parametrize("path", CHAPTERS)
def test_a_chapter_has_at_least_six_exercises_of_all_grades(path: Path) -> None:
    grades = [grade for exercise in book.exercises(path) for grade in exercise.grades]
    assert len(grades) >= 6
    assert set(grades) == set(book.GRADES)


def test_the_text_leans_on_no_unsolved_exercise() -> None:
    found = {e.label: bool(e.solutions) for p in book.chapters() for e in book.exercises(p)}
    pages = [*(ROOT / "book").rglob("*.md"), ROOT / "README.md", *(ROOT / "pgtheory").rglob("*.py")]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    texts += [cell.source for path in book.chapters() for cell in book.cells_of(path) if cell.cell_type == "markdown"]
    named = {label for text in texts for label in re.findall(r"`(?:[^`<]*<)?(ex-\w+-\d+)>?`", text)}
    assert named
    assert {label for label in named if not found.get(label)} == set()


@pytest.mark.parametrize("exercise", EXERCISES)
def test_a_solution_folds_and_says_what_its_cells_are(exercise: Any) -> None:
    assert [options.strip() for options in exercise.solutions] == [":class: dropdown"]
    kinds = [book.kinds(cell) for cell in exercise.cells]
    assert all(len(kind) <= 1 for kind in kinds)
    assert (["check"] in kinds) == (["solution"] in kinds), "what is handed in is checked, and what is checked is there"
    if exercise.grades != ["pencil"]:
        assert ["check"] in kinds, "an exercise with code ends with a check"
        assert ["mistake"] in kinds, "and shows one mistake that the check recognises"


@pytest.mark.parametrize("path", CHAPTERS)
def test_a_notebook_of_blanks_is_valid_and_has_no_solutions(path: Path) -> None:
    notebook = book.notebook(path)
    nbformat.validate(notebook)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert "pip install" in notebook.cells[0].source
    assert not re.search(r"\{[\w:-]+\}`|^`{3,}\{|:label:", text, flags=re.M), "what only a built page understands"
    headings = re.findall(r"^## (Exercise \d+\.\d+): (.+) \((.+)\)$", text, flags=re.M)
    assert [title for _, title, _ in headings] == [exercise.title for exercise in book.exercises(path)]
    solutions = [c.source for e in book.exercises(path) for c in e.cells if book.kinds(c) not in (["given"], ["check"])]
    assert not [source for source in solutions if source in text]


@pytest.mark.parametrize("path", CHAPTERS)
def test_the_notebook_with_its_blanks_filled_passes_every_check_and_sees_every_mistake(path: Path) -> None:
    names: dict[str, Any] = {}
    for cell in code_of(book.notebook(path, filled=True)):
        report = run(cell.source, names)
        assert "check" not in cell.metadata.get("tags", []) or report.ok, f"{cell.source}\n{report}"


@pytest.mark.parametrize("path", CHAPTERS)
def test_a_blank_that_is_not_filled_in_fails_its_check(path: Path) -> None:
    names: dict[str, Any] = {}
    for cell in code_of(book.notebook(path)):
        if "check" in cell.metadata.get("tags", []):
            assert is_wrong(cell.source, names), cell.source
        else:
            run(cell.source, names)


@pytest.mark.parametrize("path", CHAPTERS)
def test_each_mistake_of_a_solution_is_diagnosed(path: Path) -> None:
    names: dict[str, Any] = {}
    given = [cell for cell in code_of(book.notebook(path, filled=True)) if not cell.metadata.get("tags")]
    for cell in [*given, *(cell for exercise in book.exercises(path) for cell in exercise.cells)]:
        report = run(cell.source, names)
        if "mistake" in cell.metadata.get("tags", []):
            assert not report.ok, cell.source
            assert report.diagnosis, f"{cell.source}\n{report}"


@pytest.mark.parametrize(
    ("source", "blank"),
    [
        (
            "def f(x, *, y=1):\n    return x\n\n\ndef g():\n    return 2",
            "def f(x, *, y=1):\n    ...\n\n\ndef g():\n    ...",
        ),
        ("a = 1\nb = 2\nc = a + b", "a = ...\nc = ..."),
        ("# pi\nimport math\n\na = math.pi  # b", "# pi\nimport math\na = ..."),
    ],
)
def test_a_blank_keeps_heads_imports_and_the_names_that_a_check_uses(source: str, blank: str) -> None:
    assert book.stub(source, {"a", "c"}) == blank


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("by {eq}`eq-return` and {prf:ref}`exm-return-by-hand`", "by (2.3) and Example 2.1"),
        ("{ref}`ex-returns-3`, {numref}`fig-returns-moving`", "Exercise 2.3, Figure 2.3"),
        ("{cite:t}`suttonBarto2018`", "Sutton and Barto (2018)"),
        ("{func}`~pgtheory.decoding.top_p`; {doc}`the last chapter <checking>`", "`top_p`; the last chapter"),
    ],
)
def test_references_become_text_that_stands_without_the_book(text: str, shown: str) -> None:
    assert book.plain(text) == shown
