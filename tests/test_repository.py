"""The repository keeps the promises of its README and CONTRIBUTING."""

import ast
import doctest
import itertools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from helpers import numbered_chapters

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
NUMBERED = numbered_chapters()
TEXT_SUFFIXES = {"", ".bib", ".cff", ".css", ".ipynb", ".js", ".md", ".py", ".toml", ".txt", ".yml"}


def chapter(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def markdown_of(path: Path) -> str:
    return "\n\n".join(cell.source for cell in chapter(path).cells if cell.cell_type == "markdown")


def files_of_the_repository() -> list[Path]:
    """The files that git tracks or would track; without git, those outside hidden folders and build folders."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        paths = [ROOT / line for line in listing.stdout.splitlines()]
    else:
        tops = ["book", "pgtheory", "tests", "benchmarks"]
        paths = [*ROOT.glob("*"), *(path for top in tops for path in (ROOT / top).rglob("*"))]
    return [
        path for path in paths if path.is_file() and path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts
    ]


def test_the_book_has_chapters() -> None:
    assert CHAPTERS


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_a_valid_notebook_without_outputs(path: Path) -> None:
    notebook = chapter(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)
def test_a_chapter_asks_sums_up_and_sets_exercises(path: Path) -> None:
    text = markdown_of(path)
    headings = re.findall(r"^(#{1,6}) (.*)$", re.sub(r"^(`{3,}|~{3,}).*?^\1", "", text, flags=re.M | re.S), flags=re.M)
    assert [title for marks, title in headings if marks == "#"] == [headings[0][1]], "one title, and it comes first"
    assert "?" in text.partition("\n## ")[0], "the chapter opens with its question"
    assert [title for marks, title in headings if marks == "##"][-2:] == ["Summary", "Exercises"]
    exercises = re.findall(rf"^`{{3,}}{{exercise}} \S.*\n:label: (ex-{path.stem}-\d+)$", text, flags=re.M)
    assert len(set(exercises)) == len(exercises) >= 3


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_cells_of_a_chapter_are_short_and_call_the_package(path: Path) -> None:
    for cell in chapter(path).cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 25, cell.id
            nodes = ast.walk(ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.M)))
            defined = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
            # What a reader could retype or hand in may stand in a cell; work belongs in the package.
            assert all((node.end_lineno or 0) - node.lineno < 15 for node in defined), cell.id


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_each_figure_of_a_chapter_has_a_name_a_caption_and_a_text_that_stands_for_it(path: Path) -> None:
    for cell in chapter(path).cells:
        options = cell.metadata.get("mystnb", {})
        if "figure" in options:
            assert options["figure"]["name"].startswith("fig-")
            assert options["figure"]["caption"].strip()
            if "plotting.move_" not in cell.source:  # which brings its own
                assert options["image"]["alt"].strip()


def test_each_chapter_is_in_the_table_of_contents_and_has_its_module() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [entry for part in toc["parts"] for entry in part["chapters"]]
    listed = [entry["file"] for chapter in chapters for entry in (chapter, *chapter.get("sections", ()))]
    assert {f"book/{path.stem}" for path in CHAPTERS} <= set(listed)
    others = {"prologue", "computation", "real_language_model", "speed"}
    assert {path.stem for path in set(CHAPTERS) - set(NUMBERED)} == others
    modules = ROOT / "pgtheory"
    assert all((modules / f"{p.stem}.py").exists() or (modules / p.stem / "__init__.py").exists() for p in NUMBERED)


EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)


@pytest.mark.parametrize("example", EXAMPLES, ids=["values", "checking"])
def test_the_examples_of_the_readme_run_as_printed(example: str) -> None:
    test = doctest.DocTestParser().get_doctest(example, {}, "README.md", "README.md", 0)
    assert len(test.examples) >= 4
    output: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=output.append)
    assert failed == 0, "".join(output)


def test_the_version_is_the_same_everywhere() -> None:
    import pgtheory

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == pgtheory.__version__
    assert f"## [{pgtheory.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_importing_the_library_imports_nothing_optional() -> None:
    optional = ["gymnasium", "transformers", "scipy", "pandas", "IPython", "matplotlib", "cycler"]
    code = f"import sys, pgtheory; print([m for m in {optional} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_plotting_without_matplotlib_names_the_extra() -> None:
    code = "import sys; sys.modules['matplotlib'] = None; import pgtheory; import pgtheory.plotting"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = result.stderr.strip().splitlines()[-1]
    assert last == 'ImportError: matplotlib is not installed: pip install "pgtheory[plotting]"'


@pytest.mark.parametrize("path", files_of_the_repository(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_names_this_machine_or_unfinished_work(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    unfinished = "TO" + "DO|FIX" + "ME|XX" + "X"
    machine = r"/(?:ho" + r"me|ro" + r"ot|wo" + r"rk|Us" + r"ers|opt)/\w"
    hosts = "py" + r"pi\.org|python" + "hosted"
    assert not re.search(rf"\b(?:{unfinished})\b|{machine}|{hosts}|file:" + "//", text)


WARNING_TESTS = """
import warnings

import pytest


@pytest.mark.parametrize("module", ["pgtheory", "pgtheory.returns", "tests.test_mdp", "helpers", "benchmarks.run"])
def test_ours(module):
    warnings.warn_explicit("ours", FutureWarning, f"{module}.py", 1, module)


def test_this_file():
    warnings.warn("a place that is ours")


@pytest.mark.parametrize("module", ["torch._dynamo", "matplotlib", "pgtheory_plugin", "other.pgtheory", "testsuite"])
def test_others(module):
    for category in (FutureWarning, DeprecationWarning, RuntimeWarning, UserWarning):
        warnings.warn_explicit("theirs", category, f"{module}.py", 1, module)
"""


def test_our_warnings_fail_a_test_and_those_of_other_packages_do_not(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_warnings.py").write_text(WARNING_TESTS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, tmp_path / "tests"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
    result = subprocess.run(
        [*command, "-p", "no:cacheprovider"], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )
    failed = re.findall(r"^FAILED \S+::(\w+)", result.stdout, flags=re.M)
    assert failed == ["test_ours"] * 5 + ["test_this_file"], result.stdout + result.stderr
    assert "5 passed" in result.stdout


def test_each_package_that_a_user_installs_has_a_floor() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    developers = {"book", "chapters", "test", "peers", "bench", "lab", "mutants", "pages", "dev"}
    extras = [needs for extra, needs in project["optional-dependencies"].items() if extra not in developers]
    assert all(">=" in need for need in [*project["dependencies"], *itertools.chain(*extras)])


def test_the_lock_pins_every_dependency_to_one_public_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[a-z0-9.]+", pin) for pin in pins)
    assert len({pin.partition("==")[0] for pin in pins}) == len(pins) > 50
