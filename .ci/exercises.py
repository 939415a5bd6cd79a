"""Write for each chapter a notebook of its exercises with blanks to be filled in, from the chapter's own source.

The cells of a solution say by a tag what they are: `given` and `check` stand in the notebook of blanks as they are,
`solution` becomes a stub, `mistake` and cells without a tag stand on the page alone. A cell of the chapter's text with
the tag `given` comes first.
"""

import ast
import copy
import functools
import re
import sys
from collections import Counter
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent
GRADES = {"pencil": "pencil", "change-a-number": "change a number", "build": "build"}
KINDS = ("given", "solution", "check", "mistake")
DIRECTIVE = re.compile(
    r"^(?P<fence>`{3,})\{(?P<name>exercise|solution|solution-start|solution-end)\} ?(?P<title>[^\n]*)\n"
    r"(?P<options>(?::\w+:[^\n]*\n)*)(?P<text>.*?)^(?P=fence)$",
    flags=re.M | re.S,
)


class Exercise(NamedTuple):
    """An exercise as its chapter has it."""

    label: str
    title: str
    grades: list[str]
    text: str
    solutions: list[str]  # the options of its solutions: one, where it is solved
    cells: list[Any]  # the code of the solution


def chapters() -> list[Path]:
    """The chapters in the order of the book."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [ROOT / f"{entry['file']}.ipynb" for part in toc["parts"] if part["numbered"] for entry in part["chapters"]]


def cells_of(chapter: Path) -> list[Any]:
    """The cells of a chapter."""
    return list(nbformat.read(chapter, as_version=4).cells)


def kinds(cell: Any) -> list[str]:
    """What a cell of code is for an exercise; nothing, if it stands on the page alone."""
    return [tag for tag in cell.metadata.get("tags", []) if tag in KINDS]


def exercises(chapter: Path) -> list[Exercise]:
    """The exercises of a chapter, with the cells of their solutions."""
    found: dict[str, Exercise] = {}
    solved = ""
    for cell in cells_of(chapter):
        if cell.cell_type == "code" and solved:
            found[solved].cells.append(cell)
        for match in DIRECTIVE.finditer(cell.source) if cell.cell_type == "markdown" else ():
            options = dict(re.findall(r"^:(\w+): *(.*)$", match["options"], flags=re.M))
            title = match["title"].strip()
            if match["name"] == "exercise":
                grades = options.get("class", "").split()
                found[options["label"]] = Exercise(options["label"], title, grades, match["text"].strip(), [], [])
            elif match["name"] == "solution-end":
                solved = ""
            else:
                found[title].solutions.append(match["options"])
                solved = title if match["name"] == "solution-start" else ""
    return list(found.values())


@functools.cache
def numbers() -> dict[str, str]:
    """The labels of the book as a reader sees them: `eq-return` is "(2.3)", `fig-returns-moving` "Figure 2.3"."""
    labelled = re.compile(
        r"^\s*`{3,}\{(?:prf:)?(math|[a-z]+)\}[^\n]*\n(?:\s*:\w+:[^\n]*\n)*?\s*:label: (\S+)", flags=re.M
    )
    found = {}
    for number, chapter in enumerate(chapters(), 1):
        count: Counter[str] = Counter()
        for cell in cells_of(chapter):
            options = cell.metadata.get("mystnb", {}).get("figure", {})
            marks = [("figure", options["name"])] if "name" in options else []
            for kind, label in labelled.findall(cell.source) if cell.cell_type == "markdown" else marks:
                count[kind] += 1
                place = f"{number}.{count[kind]}"
                found[label] = f"({place})" if kind == "math" else f"{kind.capitalize()} {place}"
    return found


@functools.cache
def citations() -> dict[str, tuple[str, str]]:
    """Authors and year of each entry of the bibliography."""
    found = {}
    for entry in re.split(r"^@", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), flags=re.M)[1:]:
        fields = dict(re.findall(r"^\s*(author|year)\s*=\s*[{\"](.*?)[}\"],?\s*$", entry, flags=re.M))
        people = [
            re.sub(r"[{}]", "", name.partition(",")[0] if "," in name else name.split()[-1])
            for name in fields.get("author", "").split(" and ")
        ]
        names = " and ".join(people) if len(people) < 3 else f"{people[0]} et al."
        found[entry.partition("{")[2].partition(",")[0]] = names, fields.get("year", "")
    return found


def plain(text: str) -> str:
    """A text of the book without references that only a built page can follow."""
    known, cited = numbers(), citations()

    def written(match: re.Match[str]) -> str:
        role, target = match[1], match[2]
        if role.startswith("cite"):
            names, year = cited[target]
            return f"{names} ({year})" if role == "cite:t" else f"({names}, {year})"
        if role in {"eq", "ref", "numref", "prf:ref"}:
            return known[target]
        shown = target.partition("<")[0].strip()
        return shown if role == "doc" else f"`{shown.rpartition('.')[2]}`"

    return re.sub(r"\{([\w:]+)\}`([^`]+)`", written, text)


def stub(source: str, used: set[str]) -> str:
    """The blank for a cell: its first comment, heads of functions, the names that are `used`, without values."""
    comment = "".join(takewhile(lambda line: line.startswith("#"), source.splitlines(keepends=True)))
    parts = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            parts.append(f"def {node.name}({ast.unparse(node.args)}):\n    ...")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            parts.append(ast.unparse(node))
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            parts += [f"{name} = ..." for name in names if name in used]
    return comment + ("\n\n\n" if "def " in "".join(parts) else "\n").join(parts)


def introduction(chapter: Path) -> str:
    """The first cell: what this is, and how to get the package."""
    title = next(line for line in cells_of(chapter)[0].source.splitlines() if line.startswith("# "))
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]
    url = config["html_theme_options"]["repository_url"]
    install = f'`pip install "pgtheory[chapters] @ git+{url}"`' if url else '`make lab`, or `pip install ".[chapters]"`'
    where = "" if url else " in a copy of the book's repository"
    return (
        f"{title}: exercises\n\n"
        f"These are exercises with blanks (`...`). They need the package `pgtheory`: {install}{where}. "
        "Fill in a blank, run it, then run the check below it: it says whether the answer is right, or what is wrong. "
        "The solutions are in the chapter."
    )


def notebook(chapter: Path, *, filled: bool = False) -> Any:
    """The exercises of a chapter with blanks, or with what belongs into them."""
    new_markdown, new_code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    everything, known = cells_of(chapter), numbers()
    inside = [id_ for exercise in exercises(chapter) for id_ in (cell.id for cell in exercise.cells)]
    code = [cell for cell in everything if cell.cell_type == "code"]
    first = [code[0], *(cell for cell in code[1:] if "given" in kinds(cell) and cell.id not in inside)]
    cells = [new_markdown(introduction(chapter)), *(new_code(cell.source) for cell in first)]
    for exercise in exercises(chapter):
        grade = ", ".join(GRADES[name] for name in exercise.grades)
        heading = f"## {known[exercise.label]}: {exercise.title} ({grade})"
        cells.append(new_markdown(f"{heading}\n\n{plain(exercise.text)}"))
        checks = "\n".join(cell.source for cell in exercise.cells if kinds(cell) == ["check"])
        used = {node.id for node in ast.walk(ast.parse(checks)) if isinstance(node, ast.Name)}
        for cell in exercise.cells:
            if kinds(cell) in (["given"], ["check"], ["solution"]):
                blank = kinds(cell) == ["solution"] and not filled
                own = new_code(stub(cell.source, used) if blank else cell.source)
                own.metadata["tags"] = copy.copy(kinds(cell))
                cells.append(own)
        if not any(kinds(cell) for cell in exercise.cells):
            cells.append(new_markdown("*Your answer:*") if exercise.grades == ["pencil"] else new_code())
    for k, cell in enumerate(cells):
        cell["id"] = f"exercises-{k}"
    return nbformat.v4.new_notebook(cells=cells, metadata=nbformat.read(chapter, as_version=4).metadata)


def main() -> int:
    """Write the notebooks."""
    folder = ROOT / "_build" / "exercises"
    folder.mkdir(parents=True, exist_ok=True)
    for chapter in chapters():
        nbformat.write(notebook(chapter), folder / chapter.name)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
