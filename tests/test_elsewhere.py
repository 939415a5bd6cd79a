"""What runs on other machines, Colab, Binder and GitHub among them, says what it needs, as far as that shows here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
import yaml
from helpers import load
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).parents[1]
URL = "https://github.com/someone/pgtheory"


repository = load("book/_ext/repository.py")
site = load(".ci/site.py")


def run_first_cell(url: str, *, installed: bool, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The magic commands that the first cell gives, where the package is installed or is not."""
    source = "".join(repository.first_cell(url)["source"])
    commands: list[tuple[str, ...]] = []
    shell = SimpleNamespace(run_line_magic=lambda *arguments: commands.append(arguments))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    exec(TransformerManager().transform_cell(source), {"get_ipython": lambda: shell})
    return commands


@pytest.mark.parametrize("url", ["", URL], ids=["no address", "address"])
def test_the_first_cell_does_nothing_where_the_package_is(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_first_cell(url, installed=True, monkeypatch=monkeypatch) == []


def test_the_first_cell_installs_the_package_from_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = run_first_cell(URL, installed=False, monkeypatch=monkeypatch)
    assert command == ("pip", f'install --quiet "pgtheory[chapters] @ git+{URL}"')


def test_without_an_address_the_first_cell_asks_for_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImportError, match=r'in a copy of the book\'s repository, pip install ".\[chapters\]"'):
        run_first_cell("", installed=False, monkeypatch=monkeypatch)


@pytest.mark.parametrize("url", ["", URL], ids=["no address", "address"])
def test_a_notebook_with_the_first_cell_is_valid_and_gets_it_once(url: str, tmp_path: Path) -> None:
    chapter = tmp_path / "_sources" / "book" / "returns.ipynb"
    chapter.parent.mkdir(parents=True)
    shutil.copy(ROOT / "book" / "returns.ipynb", chapter)
    options = {"repository_url": url}
    app: Any = SimpleNamespace(
        builder=SimpleNamespace(format="html"), config=SimpleNamespace(html_theme_options=options), outdir=tmp_path
    )
    for _ in range(2):
        repository.complete_notebooks(app, None)
    nbformat.validate(notebook := nbformat.read(chapter, as_version=4))
    own = nbformat.read(ROOT / "book" / "returns.ipynb", as_version=4)
    assert [cell.id for cell in notebook.cells] == ["get-pgtheory", *(cell.id for cell in own.cells)]


def test_the_launch_buttons_open_the_notebook_of_the_page() -> None:
    links = {button["text"]: button["url"] for button in repository.launch_buttons(URL, "main", "book/mdp")}
    assert links == {
        "Binder": "https://mybinder.org/v2/gh/someone/pgtheory/main?urlpath=lab/tree/book/mdp.ipynb",
        "Colab": "https://colab.research.google.com/github/someone/pgtheory/blob/gh-pages/_sources/book/mdp.ipynb",
    }
    elsewhere = repository.launch_buttons("https://git.example.org/a/b", "main", "book/mdp")
    assert [button["text"] for button in elsewhere] == ["Binder"]


def test_the_address_stands_in_one_place() -> None:
    options = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]
    url = options["html_theme_options"]["repository_url"]
    others = [ROOT / name for name in ("pyproject.toml", "README.md", "CITATION.cff", "book/index.md", "Makefile")]
    others += [*(ROOT / "book").glob("*.ipynb"), *(ROOT / "binder").iterdir(), *(ROOT / ".github").rglob("*.yml")]
    assert not [path for path in others if url and url in path.read_text(encoding="utf-8")]


def test_the_extra_of_the_chapters_has_all_that_they_import() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = " ".join(sum((extras[e] for e in ("chapters", "gymnasium", "plotting", "lm")), project["dependencies"]))
    known = {"pgtheory", *re.findall(r"[a-z]+", wanted), *sys.stdlib_module_names, "mine"}
    for path in (ROOT / "book").glob("*.ipynb"):
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        imported = set(re.findall(r"^\s*(?:from|import) (\w+)", "\n".join(cells), flags=re.M))
        assert imported <= known, path.name


def test_binder_installs_what_the_chapters_import() -> None:
    script = ROOT / "binder" / "postBuild"
    assert os.access(script, os.X_OK)
    assert '".[chapters]"' in script.read_text(encoding="utf-8")


def test_the_site_has_the_pages_and_no_leftovers(tmp_path: Path) -> None:
    html = tmp_path / "html"
    kept = ["index.html", "book/mdp.html", "_static/book.css", "_sources/book/mdp.ipynb", "objects.inv"]
    left = [".buildinfo", ".doctrees/mdp.doctree", "reports/mdp.err.log", "_static/a.js.map", "x/__pycache__/a.pyc"]
    for name in [*kept, *left]:
        (html / name).parent.mkdir(parents=True, exist_ok=True)
        (html / name).write_text(name, encoding="utf-8")
    old = tmp_path / "site" / "old.html"
    old.parent.mkdir()
    old.touch()
    assert site.main(html, tmp_path / "site") == 0
    found = {
        path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*") if path.is_file()
    }
    assert found == {*kept, ".nojekyll"}


def test_without_a_book_there_is_no_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert site.main(tmp_path, tmp_path / "site") == 1
    assert "run `make book` first" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_publishing_replaces_the_branch_by_the_site(tmp_path: Path) -> None:
    """Tried on a repository beside, where nothing but the address is different."""
    remote, copy = tmp_path / "remote.git", tmp_path / "copy"
    subprocess.run(["git", "init", "--quiet", "--bare", str(remote)], check=True)
    (copy / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "publish", copy / ".ci")
    pages = copy / "_build" / "site"
    for text in ("first", "second"):
        (pages / "_static").mkdir(parents=True, exist_ok=True)
        (pages / "_static" / f"{text}.css").write_text(text, encoding="utf-8")
        (pages / ".nojekyll").touch()
        subprocess.run([str(copy / ".ci" / "publish"), str(remote)], check=True)
        shutil.rmtree(pages)
    git = ["git", f"--git-dir={remote}"]
    files = subprocess.run(
        [*git, "ls-tree", "-r", "--name-only", "gh-pages"], capture_output=True, text=True, check=True
    )
    assert files.stdout.split() == [".nojekyll", "_static/second.css"]
    commits = subprocess.run([*git, "rev-list", "--count", "gh-pages"], capture_output=True, text=True, check=True)
    assert commits.stdout.strip() == "1"


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_a_workflow_calls_what_is_there_and_keeps_no_secret(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    steps = [step for job in yaml.safe_load(text)["jobs"].values() for step in job["steps"]]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    assert "secrets." not in text
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    for command in (step["run"] for step in steps if "run" in step):
        words = command.removeprefix("sudo ").split()
        assert words[1] in targets if words[0] == "make" else os.access(ROOT / words[0], os.X_OK), command
