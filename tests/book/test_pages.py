"""Each page that the table of contents promises is built, with its title, equations, figures and names."""

import copy
import functools
import html as html_entities
import importlib
import inspect
import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from docutils.nodes import make_id
from helpers import numbered_chapters

import pgtheory
from pgtheory.checking import mistakes
from pgtheory.plotting import PALETTE, PAPER

ROOT = Path(__file__).parents[2]


def entries(node: dict[str, Any]) -> list[str]:
    """The pages of the table of contents, in the order of the book."""
    below = [*node.get("parts", []), *node.get("chapters", []), *node.get("sections", [])]
    own = [name for key in ("root", "file") if (name := node.get(key))]
    return own + [name for child in below for name in entries(child)]


PAGES = entries(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
CHAPTERS = [page for page in PAGES if (ROOT / f"{page}.ipynb").exists()]
API = [page for page in PAGES if page.startswith("book/api/") and Path(page).name not in {"index", "errors"}]


def source_text(page: str) -> str:
    """The text of a page, without its code."""
    notebook = ROOT / f"{page}.ipynb"
    if not notebook.exists():
        return (ROOT / f"{page}.md").read_text(encoding="utf-8")
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@functools.cache
def built(html: Path, page: str) -> BeautifulSoup:
    """The article of a built page; not to be changed."""
    soup = BeautifulSoup((html / f"{page}.html").read_text(encoding="utf-8"), "html.parser").find("article")
    assert soup is not None
    return soup


def squeezed(text: str) -> str:
    """`text` without white space, so that line breaks do not count."""
    return re.sub(r"\s+", "", html_entities.unescape(text))


def equations(text: str) -> dict[str, str]:
    """The labelled equations of a MyST text."""
    options = r"\s*:label:\s*(\S+)\s*\n(?:\s*:class:.*\n)?"
    block = re.compile(rf"^\s*(`{{3,}}|:{{3,}})\{{math\}}\s*\n{options}(.*?)^\s*\1\s*$", re.M | re.S)
    return {name: body for _, name, body in block.findall(text)}


def test_the_pattern_of_equations_finds_them() -> None:
    text = "a\n\n````{prf:definition}\n```{math}\n:label: eq-a\nx\n= 1\n```\n````\n:::{math}\n:label: eq-b\ny\n:::\n"
    assert {name: squeezed(body) for name, body in equations(text).items()} == {"eq-a": "x=1", "eq-b": "y"}


@pytest.mark.parametrize("page", PAGES)
def test_each_page_is_built_with_its_title(html: Path, page: str) -> None:
    title = next(line.removeprefix("# ") for line in source_text(page).splitlines() if line.startswith("# "))
    heading = built(html, page).find("h1")
    assert heading is not None
    words = re.findall(r"\w+", re.sub(r"\$[^$]*\$", " ", title))
    assert words
    assert all(word in heading.get_text() for word in words)


@pytest.mark.parametrize("page", PAGES)
def test_no_two_parts_of_a_page_have_one_name(html: Path, page: str) -> None:
    soup = BeautifulSoup((html / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
    names = Counter(str(tag["id"]) for tag in soup.find_all(id=True))
    assert [name for name, n in names.items() if n > 1] == []


@pytest.mark.parametrize("page", CHAPTERS)
def test_each_labelled_equation_is_on_its_page(html: Path, page: str) -> None:
    article = built(html, page)
    labelled = equations(source_text(page))
    assert labelled or page in {f"book/{stem}" for stem in ("prologue", "real_language_model", "computation", "speed")}
    for name, body in labelled.items():
        shown = article.find(id=make_id(f"equation-{name}"))
        assert shown is not None, name
        assert re.match(r"\(\d+\.\d+\)", shown.get_text().strip()), f"{name} has no number"
        assert squeezed(body) in squeezed(shown.get_text()), name


@pytest.mark.parametrize("page", CHAPTERS)
def test_each_figure_is_on_its_page_with_a_text_that_stands_for_it(html: Path, page: str) -> None:
    cells = nbformat.read(ROOT / f"{page}.ipynb", as_version=4).cells
    figures = [cell.metadata["mystnb"] for cell in cells if "figure" in cell.metadata.get("mystnb", {})]
    article = built(html, page)
    for figure in figures:
        shown = article.find(id=make_id(figure["figure"]["name"]))
        assert shown is not None, figure["figure"]["name"]
        moving = shown.select_one("[data-moves]")
        if moving is not None:
            still = moving.select_one("svg[role=img]")
            assert still is not None
            assert still["aria-label"]
            assert "Figure" in shown.get_text()
            continue
        light, dark = shown.find_all("img")
        assert ("figure-light" in light["class"], "figure-dark" in dark["class"]) == (True, True)
        assert light["alt"] == dark["alt"] == figure["image"]["alt"]
        assert "Figure" in shown.get_text()
        papers = [(html / page).parent.joinpath(image["src"]).read_text(encoding="utf-8") for image in (light, dark)]
        for text, shade in zip(papers, ("light", "dark"), strict=True):
            assert getattr(PAPER, shade).lower() in text.lower()
    assert all(str(image.get("alt", "")).strip() for image in article.find_all("img"))


@pytest.mark.parametrize("page", CHAPTERS)
def test_each_code_cell_of_a_chapter_was_run_and_none_failed(html: Path, page: str) -> None:
    article = built(html, page)
    cells = [cell for cell in nbformat.read(ROOT / f"{page}.ipynb", as_version=4).cells if cell.cell_type == "code"]
    removed = sum("remove-cell" in cell.metadata.get("tags", []) for cell in cells)
    assert len(article.select("div.cell")) == len(cells) - removed
    assert article.select("div.cell_output")
    assert "Traceback (most recent call last)" not in article.get_text()


@pytest.mark.parametrize("page", CHAPTERS)
def test_each_cell_that_is_meant_to_raise_raised_that_error(html: Path, page: str) -> None:
    executed = nbformat.read(html.parent / "jupyter_execute" / f"{page}.ipynb", as_version=4)
    for cell in executed.cells:
        if cell.cell_type == "code":
            raised = [output.ename for output in cell.outputs if output.output_type == "error"]
            assert raised == ([cell.metadata["raises"]] if "raises" in cell.metadata else []), cell.id


def test_the_legend_of_the_colours_is_on_the_page_of_notation(html: Path) -> None:
    shown = [item.get_text() for item in built(html, "book/notation").select("ul.palette li")]
    assert shown == [colour.meaning for colour in PALETTE.values()]
    properties = (html / "_static" / "palette.css").read_text(encoding="utf-8")
    assert all(f"--pg-{name}: {colour.dark};" in properties for name, colour in PALETTE.items())


@pytest.mark.parametrize("page", PAGES)
def test_no_markup_is_left_over(html: Path, page: str) -> None:
    article = copy.copy(built(html, page))
    assert not article.select(".problematic, .system-message, .error")
    for code in article.select("pre, code, .sig, .math, script"):
        code.decompose()
    left_over = re.findall(r"\{[a-z:]+\}`|^:::|```|\$\$|\*\*\w|:eq:|:func:|:class:", article.get_text(), flags=re.M)
    assert left_over == []


@pytest.mark.parametrize("page", API)
def test_each_public_name_of_a_module_is_on_its_api_page_with_a_link_to_the_source(html: Path, page: str) -> None:
    module = importlib.import_module(f"pgtheory.{Path(page).name}")
    article = built(html, page)
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    names = getattr(module, "__all__", None) or [name for name in own if not name.startswith("_")]
    for name in names:
        entry = article.find(id=f"{module.__name__}.{name}")
        assert entry is not None, f"{name} is not documented"
        if inspect.isfunction(getattr(module, name)):
            assert entry.find("a", string="[source]") or entry.select("a .viewcode-link"), name


@pytest.mark.parametrize("page", API)
def test_a_signature_names_no_private_module(html: Path, page: str) -> None:
    signatures = [signature.get_text() for signature in built(html, page).select("dt.sig")]
    assert [text for text in signatures if re.search(r"\._\w|<factory>|~", text)] == []


def test_every_work_of_the_bibliography_is_cited_and_spelled_out(html: Path) -> None:
    works = built(html, "book/bibliography").select("ul.bibliography > li")
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "book").rglob("*.[im]*") if path.is_file())
    keys = re.findall(r"^@\w+\{(\w+),", text, flags=re.M)
    assert [key for key in keys if key not in sources] == []
    assert len(works) == len(keys)
    assert "others" not in text
    addresses = [str(link["href"]) for work in works for link in work.select("a[href^=http]")]
    assert len(addresses) >= 0.8 * len(works)


def test_the_table_of_mistakes_links_every_source(html: Path) -> None:
    shown = {
        entry["id"]: {a["href"] for a in entry.select("a")} for entry in built(html, "book/mistakes").select(".mistake")
    }
    known = {m.key: {source.url for source in (*m.sources, *m.right_form)} for m in mistakes()}
    assert shown == known


def test_each_public_name_of_the_package_is_in_the_api(html: Path) -> None:
    text = "".join((html / f"{page}.html").read_text(encoding="utf-8") for page in API)
    documented = set(re.findall(r'id="pgtheory\.\w+\.(\w+)"', text))
    assert set(pgtheory.__all__) - {"__version__"} <= documented


def test_the_status_page_gives_the_run_time_of_each_chapter_and_the_versions(html: Path) -> None:
    tables = built(html, "book/status").select("table")
    times, versions = ([row.select("td") for row in table.select("tbody tr")] for table in tables)
    ran = [f"book/{Path(str(title.a['href'])).stem}" for _, title, _ in times]
    assert [page for page in ran if page in CHAPTERS] == CHAPTERS
    assert all(re.fullmatch(r"\d+\.\d s", seconds.get_text().strip()) for _, _, seconds in times)
    shown = {name.get_text().strip(): number.get_text().strip() for name, number in versions}
    assert all(shown[name] == version(name) for name in ("torch", "numpy", "matplotlib", "jaxtyping", "jupyter-book"))


def test_the_front_page_has_the_prologue_and_all_eleven_chapters(html: Path) -> None:
    index = built(html, "book/index")
    assert len(index.select(".chapter-card")) == 12
    links = {str(link["href"]).partition("#")[0] for link in index.select(".chapter-card a[href]")}
    assert links == {f"{path.stem}.html" for path in numbered_chapters()} | {"prologue.html"}


def test_the_front_page_has_its_figure_a_verdict_and_three_doors(html: Path) -> None:
    index = built(html, "book/index")
    figure = index.find(id="fig-index-clouds")
    assert figure is not None
    assert len(figure.find_all("img")) == 2, "one for light pages and one for dark"
    assert "the returns in reversed order" in index.get_text()
    doors = index.select(".doors .sd-card")
    assert [door.select_one(".sd-card-title").get_text(strip=True) for door in doors] == ["Read", "Run", "Check mine"]  # type: ignore[union-attr]
    targets = [str(door.select_one("a")["href"]) for door in doors]  # type: ignore[index]
    assert targets == ["prologue.html", "#run-it", "checking.html"]
