"""Exercises and their solutions on the built pages, and the numbers that the notebooks of blanks give them."""

import re
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from docutils.nodes import make_id
from helpers import load

ROOT = Path(__file__).parents[2]


book = load(".ci/exercises.py")
CHAPTERS = [pytest.param(path, id=path.stem) for path in book.chapters()]


def built(html: Path, chapter: Path) -> Any:
    return BeautifulSoup((html / "book" / f"{chapter.stem}.html").read_text(encoding="utf-8"), "html.parser")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_each_solution_stands_folded_below_its_exercise_with_its_cells_and_outputs(html: Path, chapter: Path) -> None:
    page = built(html, chapter)
    for exercise in book.exercises(chapter):
        shown = page.find(id=exercise.label)
        assert set(exercise.grades) < set(shown["class"])
        solution = shown.find_next_sibling()
        if exercise.solutions:
            assert {"solution", "dropdown", "admonition"} <= set(solution["class"])
            assert len(solution.select(".cell")) == len(exercise.cells)
            reports = [c for c in exercise.cells if book.kinds(c) in (["check"], ["mistake"])]
            assert len(re.findall(r"check_\w+: (?:right|WRONG, a known)", solution.get_text())) == len(reports)
    assert len(page.select("div.solution")) == sum(len(e.solutions) for e in book.exercises(chapter))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_notebooks_of_blanks_number_what_they_name_as_the_pages_do(html: Path, chapter: Path) -> None:
    page, known = built(html, chapter), book.numbers()
    texts = "\n".join(exercise.text for exercise in book.exercises(chapter))
    labels = [*re.findall(r"\{[\w:]+\}`((?:eq|fig|prop|thm|def|exm|ex|rem|cor|lem)-[\w-]+)`", texts)]
    for label in [*labels, *(exercise.label for exercise in book.exercises(chapter))]:
        shown = page.find(id=make_id(f"equation-{label}")) or page.find(id=label)
        if shown:  # else it is in another chapter
            number = shown.select_one(".eqno, .caption-number")
            assert number.get_text().replace("#", "").strip() == known[label]
