"""The built book in Chromium, with no network: `make test-pages`."""

import pytest

from .conftest import HTML, NARROW, PAGES, WIDE, Visit

pytestmark = pytest.mark.timeout(900)
LIMIT = 2_000_000


def faults(visits: dict[str, Visit], *keys: str) -> dict[str, list[str]]:
    """What was noted under these keys, page by page."""
    found = {}
    for page, visit in visits.items():
        noted = visit.seen
        for key in keys:
            noted = noted[key]
        if noted:
            found[page] = noted
    return found


def test_no_page_reports_an_error(visits: dict[str, Visit]) -> None:
    assert {page: visit.errors for page, visit in visits.items() if visit.errors} == {}


def test_no_page_asks_for_more_than_files_of_the_book(visits: dict[str, Visit]) -> None:
    inside = (HTML.as_uri(), "data:", "blob:")
    asked = {page: [url for url in visit.requests if not url.startswith(inside)] for page, visit in visits.items()}
    assert {page: urls for page, urls in asked.items() if urls} == {}


def test_the_mathematics_is_typeset_and_no_line_starts_with_its_punctuation(visits: dict[str, Visit]) -> None:
    assert faults(visits, "mathematics") == {}


def test_every_fold_opens(visits: dict[str, Visit]) -> None:
    assert faults(visits, "folds") == {}


def test_every_figure_that_moves_moves(visits: dict[str, Visit]) -> None:
    assert faults(visits, "moves") == {}


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_no_page_scrolls_sideways(visits: dict[str, Visit], width: int) -> None:
    assert faults(visits, str(width), "sideways") == {}


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_every_image_is_there(visits: dict[str, Visit], width: int) -> None:
    assert faults(visits, str(width), "images") == {}


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_no_words_stand_as_columns_of_letters(visits: dict[str, Visit], width: int) -> None:
    assert faults(visits, str(width), "slivers") == {}


def test_nothing_is_wider_than_its_column_on_a_desk(visits: dict[str, Visit]) -> None:
    assert faults(visits, str(WIDE), "wide") == {}


def test_what_is_wider_than_a_telephone_says_that_it_scrolls(visits: dict[str, Visit]) -> None:
    assert faults(visits, str(NARROW), "silent") == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault(visits: dict[str, Visit], theme: str) -> None:
    assert {page: visit.axe[theme] for page, visit in visits.items() if visit.axe[theme]} == {}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_with_all_that_it_loads_is_light(visits: dict[str, Visit], page: str) -> None:
    weight = visits[page].weight
    heaviest = sorted(weight.items(), key=lambda item: -item[1])[:6]
    assert sum(weight.values()) <= LIMIT, f"{sum(weight.values()):,} bytes, of which {heaviest}"


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("REINFORCE", "reinforce.html"),
        ("gamma", "notation.html"),
        ("discount", "notation.html"),
        ("nabla J", "notation.html"),
        ("policy gradient", "policy_gradient.html"),
    ],
)
def test_the_search_finds_a_symbol_by_its_name_and_a_chapter_first(
    results: dict[str, list[str]], words: str, first: str
) -> None:
    assert results[words][:1] == [f"book/{first}"], results[words][:5]


def test_what_is_not_in_the_book_is_not_found(results: dict[str, list[str]]) -> None:
    assert results["xyzzy"] == []
