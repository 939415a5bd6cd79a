"""From each numbered equation to the functions that compute it, and from each name of the package to its entry.

The docstrings are the one source: a function computes the equations that its docstring names by ``:eq:``. An equation
that nothing computes says why where it is written, by the class of its directive (`MARKS`); a public function without
an equation says why in a comment of its docstring, or of its module's: ``.. no equation: it draws samples``.
"""

import ast
import importlib
import inspect
import json
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
MARKS = {
    "definition": "a definition without a computation",
    "statement": "a statement",
    "step": "a step of a proof or of a computation",
}
CITED = re.compile(r":eq:`(eq-[\w-]+)`")
NO_EQUATION = re.compile(r"^\.\. no equation: \S", flags=re.M)
MATH = re.compile(r"^```\{math\}\n((?::\w+:.*\n)*)", flags=re.M)


class Equation(NamedTuple):
    """A numbered equation of the book: its label, the chapter where it stands, and its mark if it has one."""

    label: str
    chapter: str
    mark: str | None


def chapters() -> list[Path]:
    """The chapters, in the order of the table of contents."""
    order = re.findall(r"file: book/(\w+)$", (ROOT / "_toc.yml").read_text(encoding="utf-8"), flags=re.M)
    return [path for stem in order if (path := ROOT / "book" / f"{stem}.ipynb").exists()]


@cache
def equations() -> dict[str, Equation]:
    """All numbered equations, in the order of the book."""
    found = {}
    for path in chapters():
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                for match in MATH.finditer("".join(cell["source"])):
                    options = dict(re.findall(r"^:(\w+): *(.*)$", match[1], flags=re.M))
                    if label := options.get("label"):
                        found[label] = Equation(label, path.stem, options.get("class"))
    return found


@cache
def modules() -> list[ModuleType]:
    """The public modules and packages of the library; `checking`, which looks at all others, last."""
    files = [path for path in (ROOT / "pgtheory").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    stems = sorted(
        (path.stem for path in files if not path.stem.startswith("_")), key=lambda stem: (stem == "checking", stem)
    )
    return [importlib.import_module(f"pgtheory.{stem}") for stem in stems]


@cache
def public_objects() -> dict[str, Any]:
    """Every public class and function by its full name, `pgtheory.returns.returns_to_go`."""
    return {
        f"{module.__name__}.{name}": value
        for module in modules()
        for name in getattr(module, "__all__", [])
        if inspect.isclass(value := getattr(module, name)) or inspect.isfunction(value)
    }


def _docstrings(value: Any) -> str:
    members = vars(value).values() if inspect.isclass(value) else []
    return "\n".join(inspect.getdoc(part) or "" for part in (value, *members) if part is value or callable(part))


@cache
def functions_of() -> dict[str, list[str]]:
    """The full names of what computes each equation."""
    found: dict[str, list[str]] = {}
    for name, value in public_objects().items():
        for label in dict.fromkeys(CITED.findall(_docstrings(value))):
            found.setdefault(label, []).append(name)
    return found


def functions_without_equation_or_mark() -> list[str]:
    """The public functions whose docstring names no equation and does not say why; there should be none."""
    marked = {module.__name__ for module in modules() if NO_EQUATION.search(inspect.getdoc(module) or "")}
    return [
        name
        for name, value in public_objects().items()
        if inspect.isfunction(value)
        and not CITED.search(doc := inspect.getdoc(value) or "")
        and not NO_EQUATION.search(doc)
        and name.rpartition(".")[0] not in marked
    ]


@cache
def tests_of() -> dict[str, list[str]]:
    """The tests that name each equation, by the marker `equation` or in their docstring: `test_returns.py::test_…`."""
    return tests_naming(r"\beq-[\w-]+")


def tests_naming(labels: str) -> dict[str, list[str]]:
    """The tests that name each label of a form."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = " ".join(
                    ast.unparse(decorator) for decorator in node.decorator_list if "equation" in ast.unparse(decorator)
                )
                for label in dict.fromkeys(re.findall(labels, marks + " " + (ast.get_docstring(node) or ""))):
                    found.setdefault(label, []).append(f"{path.relative_to(ROOT / 'tests')}::{node.name}")
    return found


@cache
def targets() -> dict[str, str]:
    """What stands for a name in the text, `returns_to_go`, `FiniteMDP.to`, `mdp.dynamics`, and its full name."""
    found = {}
    for full, value in public_objects().items():
        name = full.rpartition(".")[2]
        found[name] = full
        if inspect.isclass(value):
            members = [
                m
                for m in vars(value)
                if not m.startswith("_") and (callable(getattr(value, m)) or isinstance(vars(value)[m], property))
            ]
            found |= {f"{name}.{member}": f"{full}.{member}" for member in members}
            if name == "FiniteMDP":
                found |= {f"mdp.{member}": f"{full}.{member}" for member in members}
    return found


def target_of(text: str) -> str | None:
    """The full name of what an inline code of the text names, if it is a public name of the package."""
    name = re.sub(r"\(.*\)$", "", text.strip())
    name = re.sub(r"^(pg|pgtheory(\.(?!checking$)\w+(?=\.))?)\.", "", name)
    return targets().get(name)


def _link(full: str, text: str, docname: str) -> addnodes.pending_xref:
    link = addnodes.pending_xref(
        "",
        nodes.literal(text, text, classes=["xref", "py", "py-obj"]),
        refdomain="py",
        reftype="obj",
        reftarget=full,
        refexplicit=True,
        refwarn=True,
        refdoc=docname,
    )
    link["py:module"] = link["py:class"] = None
    return link


def _code_link(names: list[str], docname: str) -> nodes.Element:
    line = nodes.paragraph("", "code: ", classes=["code-link"])
    for index, full in enumerate(names):
        line += [nodes.Text(", ")] if index else []
        line += _link(full, full.rpartition(".")[2], docname)
    return line


def link_code(app: Sphinx, document: nodes.document) -> None:
    """Set beside each equation what computes it, and make each inline name of the package a link."""
    docname = app.env.docname
    if docname.startswith("book/api/"):
        return
    for equation in list(document.findall(nodes.math_block)):
        if names := functions_of().get(equation.get("label") or ""):
            equation.parent.insert(equation.parent.index(equation) + 1, _code_link(names, docname))
    for literal in list(document.findall(nodes.literal)):
        linked = any(
            isinstance(above, nodes.reference | addnodes.pending_xref | nodes.title) for above in _above(literal)
        )
        if not linked and (full := target_of(literal.astext())):
            literal.replace_self(_link(full, literal.astext(), docname))


def _above(node: nodes.Node) -> list[nodes.Node]:
    return [] if node.parent is None else [node.parent, *_above(node.parent)]


class EquationTable(SphinxDirective):
    """The table of all equations: what computes each, and which tests name it."""

    def run(self) -> list[nodes.Node]:
        """Write the table as Markdown, a section for each chapter."""
        lines: list[str] = []
        chapter = ""
        for label, equation in equations().items():
            if equation.chapter != chapter:
                chapter = equation.chapter
                lines += ["", f"**{{doc}}`{chapter}`**", "", "| equation | | code | tests |", "|--|--|--|--|"]
            names = ", ".join(
                f"{{py:obj}}`{name.rpartition('.')[2]} <{name}>`" for name in functions_of().get(label, [])
            )
            names_of_tests = (test.rpartition("::")[2].removeprefix("test_") for test in tests_of().get(label, []))
            tests = "<br>".join(name.replace("_", " ") for name in names_of_tests)
            words = label.removeprefix("eq-").replace("-", " ")
            lines.append(f"| {{eq}}`{label}` | {words} | {names or MARKS[equation.mark or '']} | {tests} |")
        box = nodes.container(classes=["equation-table"])
        self.state.nested_parse(StringList(lines, source=self.env.docname), 0, box)
        return [box]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_directive("equation-table", EquationTable)
    app.connect("doctree-read", link_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
