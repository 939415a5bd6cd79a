"""`make pdf`, of three pages: numbered, linked, with a table of contents, and nothing cut off."""

import shutil

import pytest
from helpers import load
from pypdf import PdfReader

from .conftest import HTML, NO_BOOK, chromium

KEPT = ("book/index.html", "book/notation.html", "book/returns.html")


@pytest.fixture(scope="module")
def pdf(tmp_path_factory: pytest.TempPathFactory) -> PdfReader:
    """The front page, one page without chapters and one chapter on paper."""
    if not (HTML / "book" / "index.html").exists():
        pytest.exit(NO_BOOK, returncode=1)
    chromium()
    folder = tmp_path_factory.mktemp("pdf")
    for name in ("_static", "_images"):
        shutil.copytree(HTML / name, folder / "html" / name)
    (folder / "html" / "book").mkdir()
    for name in KEPT:
        shutil.copy(HTML / name, folder / "html" / name)
    assert load(".ci/pdf.py").main(folder / "html", folder / "book.pdf") == 0
    return PdfReader(folder / "book.pdf")


def test_the_pages_are_numbered_and_the_contents_give_the_numbers(pdf: PdfReader) -> None:
    texts = [page.extract_text() for page in pdf.pages]
    contents = next(text for text in texts if "Contents" in text)
    bodies = [text.partition("\n")[2] for text in texts]  # after the number of the page
    start = next(k for k, body in enumerate(bodies, start=1) if body.startswith("2. Returns"))
    assert f"2. Returns {start}" in contents.splitlines()
    assert [text.split()[0] for text in texts[1:]] == [str(k) for k in range(2, len(texts) + 1)]


def test_links_lead_to_places_in_the_file(pdf: PdfReader) -> None:
    links = [note.get_object() for page in pdf.pages for note in page.get("/Annots", [])]
    inside = [link for link in links if "/Dest" in link]
    assert len(inside) > 30
    outside = [str(link["/A"]["/URI"]) for link in links if "/A" in link and "/URI" in link["/A"]]
    assert not [url for url in outside if not url.startswith(("http", "mailto:"))]


def test_readers_of_the_file_see_an_outline(pdf: PdfReader) -> None:
    assert len(pdf.outline) > 3


def test_proofs_are_open(pdf: PdfReader) -> None:
    text = " ".join(page.extract_text() for page in pdf.pages)
    assert "By definition" in text or "Proof." in text
