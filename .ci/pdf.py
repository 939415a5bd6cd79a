"""Typeset the built book into one file: all pages in the order of the contents, printed by Chromium.

pdf.py HTML PDF. Each page becomes a part of one long page, its identifiers with the page's name before them, so that
links stay true. It is printed twice: the first time shows on which page of paper each entry of the contents begins.
"""

import os
import posixpath
import shutil
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Page, sync_playwright
from pypdf import PdfReader

ROOT = Path(__file__).resolve().parent.parent
NOT_ON_PAPER = (
    "script:not([type^='math']), button, noscript, .headerlink, .viewcode-link, .prev-next-area, .figure-dark, "
    ".doors, .chapter-map, details.hide > summary"
)
# Mathematics that is wider than the column becomes smaller, code wraps.
FIT = """async () => {
  await MathJax.startup.promise;
  for (const box of document.querySelectorAll('mjx-container')) {
    const column = box.parentElement.closest('p, li, td, div, figcaption').getBoundingClientRect();
    const width = box.firstElementChild.getBoundingClientRect().width;
    const number = box.parentElement.querySelector('.eqno');
    const room = column.width - (number ? number.getBoundingClientRect().width + 16 : 0);
    if (width > room && room > 0) box.style.fontSize = `${Math.max(40, Math.floor((100 * room) / width))}%`;
  }
  await document.fonts.ready;
}"""


def pages(node: dict[str, Any], caption: str = "") -> Iterator[tuple[str, str, int]]:
    """Each page below an entry of the table of contents, with the caption of its part and its depth."""
    for part in node.get("parts", []):
        yield from pages(part, part["caption"])
    for depth, key in enumerate(("chapters", "sections")):
        for entry in node.get(key, []):
            yield entry["file"], caption, depth
            yield from pages(entry, caption)


def name_of(page: str, fragment: str = "") -> str:
    """The identifier of a place in the one long page."""
    return f"{page}/{fragment}" if fragment else page


def article(html: Path, page: str, known: set[str]) -> Tag:
    """The text of a page, with identifiers and addresses that hold in the one long page."""
    soup = BeautifulSoup((html / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
    found = soup.select_one("article.bd-article")
    assert found is not None, page
    for element in found.select(NOT_ON_PAPER):
        element.decompose()
    for element in found.select("[id]"):
        element["id"] = name_of(page, str(element["id"]))
    for element in found.select("details"):
        element["open"] = ""
    for link in found.select("a[href]"):
        place = urlsplit(str(link["href"]))
        if not place.scheme and not place.netloc:
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(place.path)))
            other = path.removesuffix(".html") if place.path else page
            if other in known:
                link["href"] = f"#{name_of(other, unquote(place.fragment))}"
            else:  # the source of a function, which is not on paper
                del link["href"]
    for element in found.select("[src]"):
        if not urlsplit(str(element["src"])).scheme:
            element["src"] = (html / posixpath.dirname(page) / unquote(str(element["src"]))).resolve().as_uri()
    return found


def head(html: Path, page: str) -> str:
    """What the head of a page says of style and mathematics."""
    soup = BeautifulSoup((html / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
    kept = []
    for element in soup.select("link[rel=stylesheet], style, script"):
        source = str(element.get("href") or element.get("src") or "")
        if element.name == "script" and "mathjax" not in f"{source}{element.string}".lower():
            continue
        for key in ("href", "src"):
            if element.has_attr(key):
                path = urlsplit(source).path
                element[key] = (html / posixpath.dirname(page) / unquote(path)).resolve().as_uri()
        kept.append(str(element))
    return "\n".join(kept)


def contents(articles: dict[str, Tag], listed: list[tuple[str, str, int]], numbers: dict[str, int]) -> str:
    """The table of contents, with the numbers of the pages of paper as far as they are known."""
    lines, last = [], ""
    for page, caption, depth in listed:
        if caption != last:
            lines.append(f"<h2>{escape(caption)}</h2>")
            last = caption
        entries = [(page, articles[page].h1, depth)]
        if articles[page].select(".section-number"):  # the sections of chapters
            sections = [
                section for section in articles[page].select("section[id]") if section.find("h2", recursive=False)
            ]
            entries += [(str(section["id"]), section.h2, depth + 1) for section in sections]
        for name, heading, level in entries:
            title = heading.decode_contents() if heading else ""
            number = numbers.get(name, "")
            lines.append(f'<p class="level-{level}"><a href="#{escape(name)}">{title}</a><span>{number}</span></p>')
    return "\n".join(lines)


def document(html: Path, numbers: dict[str, int]) -> str:
    """The one long page."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [entry for entry in pages(toc) if (html / f"{entry[0]}.html").exists()]
    names = [toc["root"], *(page for page, _, _ in listed)]
    articles = {page: article(html, page, set(names)) for page in names}
    body = "\n".join(f'<div class="sheet" id="{escape(page)}">{articles[page]}</div>' for page in names)
    style = (ROOT / ".ci" / "pdf.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en" data-theme="light" data-mode="light">
<head><meta charset="utf-8"><title>{escape(config["title"])}</title>{head(html, names[0])}<style>{style}</style></head>
<body class="bd-content">
<header class="title"><h1>{escape(config["title"])}</h1><p>{escape(config["author"])}</p></header>
<nav class="book-contents"><h1>Contents</h1>{contents(articles, listed, numbers)}</nav>
{body}
</body></html>
"""


def print_to(page: Page, source: Path, pdf: Path) -> None:
    """Print a page as a browser does, when its mathematics stands."""
    page.goto(source.as_uri(), wait_until="load", timeout=300_000)
    page.emulate_media(media="print")
    page.wait_for_function("window.MathJax?.startup?.promise")
    page.evaluate(FIT)
    page.pdf(path=pdf, prefer_css_page_size=True, print_background=True, outline=True, tagged=True)


def numbers_of(pdf: Path) -> dict[str, int]:
    """The page of paper, counted from 1, of each place that a link leads to."""
    reader = PdfReader(pdf)
    found = {}
    for name, place in reader.named_destinations.items():
        number = reader.get_destination_page_number(place)
        if number is not None:
            found[unquote(name.lstrip("/"))] = number + 1
    return found


def main(html: Path, pdf: Path) -> int:
    """Print twice."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        print(
            "make pdf: no Chromium was found: install it, or name it: CHROMIUM=/path/to/chrome make pdf",
            file=sys.stderr,
        )
        return 1
    pdf.parent.mkdir(parents=True, exist_ok=True)
    source = pdf.with_suffix(".html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 643, "height": 900}, offline=True)
        page.set_default_timeout(300_000)
        source.write_text(document(html, {}), encoding="utf-8")
        print_to(page, source, pdf)
        source.write_text(document(html, numbers_of(pdf)), encoding="utf-8")
        print_to(page, source, pdf)
        browser.close()
    source.unlink()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()))
