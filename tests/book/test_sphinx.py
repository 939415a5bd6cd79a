"""The book without Jupyter Book: plain Sphinx with the same extensions makes the same pages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]
URL = "https://github.com/someone/pgtheory"


def build(folder: Path, toc: str, url: str) -> Path:
    """The pages that plain Sphinx makes of the book, with nothing executed."""
    for name in ("book", "pgtheory", "tests"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "_config.yml").write_text((ROOT / "_config.yml").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "_toc.yml").write_text(toc, encoding="utf-8")
    commands = [
        [str(Path(sys.executable).with_name("jupyter-book")), "config", "sphinx", "."],
        [
            sys.executable,
            "-m",
            "sphinx",
            "-q",
            "-D",
            "nb_execution_mode=off",
            "-D",
            f"html_theme_options.repository_url={url}",
            ".",
            "html",
        ],
    ]
    for command in commands:
        env = os.environ | {"PYTHONPATH": "book/_ext"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder / "html"


def title(path: Path) -> str:
    heading = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").h1
    return heading.get_text() if heading else ""


def pages(html: Path) -> dict[str, str]:
    return {path.relative_to(html).as_posix(): title(path) for path in sorted(html.rglob("*.html"))}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    return build(tmp_path_factory.mktemp("plain"), toc, URL)


def test_plain_sphinx_makes_the_same_pages_with_the_same_titles(html: Path, plain: Path) -> None:
    assert pages(plain) == pages(html)


def test_with_an_address_each_chapter_opens_on_colab_and_binder(plain: Path) -> None:
    for chapter in (ROOT / "book").glob("*.ipynb"):
        page = (plain / "book" / f"{chapter.stem}.html").read_text(encoding="utf-8")
        assert f"https://mybinder.org/v2/gh/someone/pgtheory/main?urlpath=lab/tree/book/{chapter.name}" in page
        assert f"someone/pgtheory/blob/gh-pages/_sources/book/{chapter.name}" in page
        assert URL in (plain / "_sources" / "book" / chapter.name).read_text(encoding="utf-8")
    front = BeautifulSoup((plain / "book" / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert f"git clone {URL}" in front.get_text()


def test_without_an_address_nothing_leads_to_one(tmp_path: Path) -> None:
    html = build(tmp_path, "format: jb-book\nroot: book/index\nchapters:\n  - file: book/returns\n", "")
    for name in ("index.html", "returns.html"):
        page = (html / "book" / name).read_text(encoding="utf-8")
        page += BeautifulSoup(page, "html.parser").get_text()
        assert not [word for word in ("mybinder", "colab", "git clone", "fa-rocket", "fa-github") if word in page]
    assert "in a copy of the book" in (html / "_sources/book/returns.ipynb").read_text(encoding="utf-8")
