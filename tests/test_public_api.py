"""Every public name is exported, documented, typed and shown in use."""

import ast
import importlib
import inspect
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import numbered_chapters

import pgtheory
from pgtheory.checking import CHECKS

ROOT = Path(__file__).parents[1]
ERRORS_PAGE = ROOT / "book" / "api" / "errors.md"
FOR_THE_BOOK = {"plotting", "display"}  # their names are not names of the package
MODULES = [
    importlib.import_module(f"pgtheory.{path.stem if path.stem != '__init__' else path.parent.name}")
    for path in sorted([*(ROOT / "pgtheory").glob("[a-z]*.py"), *(ROOT / "pgtheory").glob("*/__init__.py")])
    if {path.stem, path.parent.name}.isdisjoint(FOR_THE_BOOK)
]
PUBLIC = [(module, name) for module in MODULES for name in module.__all__]
FUNCTIONS = [(module, name) for module, name in PUBLIC if inspect.isfunction(getattr(module, name))]


def label(value: object) -> str:
    return value.__name__.removeprefix("pgtheory.") if isinstance(value, ModuleType) else str(value)


def test_the_package_exports_exactly_the_public_names_of_its_modules() -> None:
    expected = sorted([*(name for _, name in PUBLIC), "__version__"])
    assert sorted(pgtheory.__all__) == expected
    assert all(getattr(pgtheory, name) is getattr(module, name) for module, name in PUBLIC)


def test_no_shape_is_evaluated_at_import() -> None:
    # Hundreds of jaxtyping's shapes took longer than all else that `import pgtheory` does after `import torch`.
    files = [file for file in (ROOT / "pgtheory").rglob("*.py") if not {"checking", "plotting"} & {*file.parts}]
    sources = {file.name: file.read_text(encoding="utf-8") for file in files}
    shaped = {name for name, source in sources.items() if "from jaxtyping import" in source}
    assert shaped
    assert [name for name in shaped if "\nfrom __future__ import annotations\n" not in sources[name]] == []


SHARED_NAMES = ["advantages", "softmax_policy", "token_log_probs"]


def test_the_names_that_a_module_and_a_function_share_are_known() -> None:
    assert [m.__name__.rpartition(".")[2] for m in MODULES if label(m) in pgtheory.__all__] == SHARED_NAMES


# Each code in a child of an interpreter that has imported what takes long, and nothing of the package.
FORKS = """
import json, os, sys, traceback
import jaxtyping, numpy, torch
assert not {name for name in sys.modules if name.startswith(("pgtheory", "matplotlib"))}
for code in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        try:
            exec(code, {"__name__": "__main__"})
            end = 0
        except BaseException:
            traceback.print_exc()
            end = 1
        sys.stdout.flush()
        os._exit(end)
    if os.waitpid(child, 0)[1]:
        raise SystemExit(code)
"""


def run(*codes: str) -> list[str]:
    """The line that each code prints in an interpreter without the package."""
    commands = [[FORKS, json.dumps(codes)]] if hasattr(os, "fork") else [[code] for code in codes]
    done = [
        subprocess.run([sys.executable, "-c", *command], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
        for command in commands
    ]
    lines = [line for one in done for line in one.stdout.splitlines()]
    assert len(lines) == len(codes)
    return lines


def test_a_name_that_a_module_and_a_function_share_is_the_function_in_every_order_of_imports() -> None:
    orders = [
        "import pgtheory",
        *(f"import pgtheory.{name}" for name in SHARED_NAMES),
        *(f"from pgtheory.{name} import *" for name in SHARED_NAMES),
        "import pgtheory.checking; from pgtheory.checking import *",
        "import pgtheory.training; from pgtheory.groups import *",
    ]
    code = f"""
import importlib, inspect, sys
import pgtheory
for name in {SHARED_NAMES}:
    module = importlib.import_module("pgtheory." + name)
    exec(f"import pgtheory.{{name}}; from pgtheory.{{name}} import *; from pgtheory import {{name}} as found")
    assert inspect.ismodule(module) and module is sys.modules["pgtheory." + name]
    assert inspect.isfunction(found) and found is getattr(pgtheory, name)
print("right")
"""
    assert run(*(imports + code for imports in orders)) == ["right"] * len(orders)


def test_a_name_that_a_module_and_a_function_share_is_the_function_whatever_is_imported_first() -> None:
    shared = [name for module, name in PUBLIC if (ROOT / "pgtheory" / f"{name}.py").exists()]
    assert "softmax_policy" in shared
    modules = [module.__name__ for module in MODULES]
    code = "import importlib, inspect, sys; [importlib.import_module(m) for m in {order}]; import pgtheory; "
    code += f"print([n for n in {shared} if not inspect.isfunction(getattr(pgtheory, n))])"
    orders = modules, modules[::-1], ["pgtheory"], [f"pgtheory.{name}" for name in shared]
    assert run(*(code.format(order=order) for order in orders)) == ["[]"] * 4


def test_importing_the_package_imports_neither_the_checks_nor_matplotlib_before_they_are_used() -> None:
    lazy = "print([m for m in ('pgtheory.checking', 'pgtheory.plotting', 'matplotlib') if m in sys.modules])"
    uses = (
        "from pgtheory import check_returns",
        "import pgtheory; pgtheory.check_returns",
        "import pgtheory; pgtheory.checking",
        "from pgtheory import *; check_returns",
        "import pgtheory; assert 'check_returns' in dir(pgtheory)",
    )
    none, *checks = run(*(f"import sys; {use}; {lazy}" for use in ("import pgtheory; pgtheory.softmax_policy", *uses)))
    assert none == "[]"
    assert checks == ["['pgtheory.checking']"] * len(uses)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pgtheory' has no attribute 'nothing'"):
        _ = pgtheory.nothing
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from pgtheory import nothing")


def test_a_public_function_added_to_a_module_is_a_name_of_the_package(tmp_path: Path) -> None:
    copy = tmp_path / "pgtheory"
    shutil.copytree(ROOT / "pgtheory", copy, ignore=shutil.ignore_patterns("__pycache__"))
    for module in ("returns.py", "checking/__init__.py"):
        name = "added_to_" + module.partition(".")[0].partition("/")[0]
        with (copy / module).open("a", encoding="utf-8") as file:
            file.write(f"\ndef {name}() -> int:\n    return 1\n\n__all__ += ['{name}']\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import pgtheory; from pgtheory import *; "
    code += "print(pgtheory.__file__, added_to_returns() + pgtheory.added_to_checking())"
    assert run(code) == [f"{copy / '__init__.py'} 2"]


@pytest.mark.timeout(900)
def test_a_type_checker_sees_every_name_of_the_package(tmp_path: Path) -> None:
    user = tmp_path / "user.py"
    lines = [f"from pgtheory import {name}\nreveal_type({name})" for name in ("softmax_policy", "check_ppo")]
    right = ["check_ppo(print, clip=0.3)", 'check_ppo(print, clip=0.3, checks="1.0")']
    wrong = ["check_ppo(print, klip=0.3)", 'check_ppo(print, clip="0.3")']
    user.write_text(
        "\n".join([*lines, "import pgtheory", "pgtheory.FiniteMDP", "pgtheory.nothing", *right, *wrong, ""])
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--no-pretty", str(user)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    notes = [line.partition(": ")[2] for line in said.splitlines() if "user.py" in line]
    assert [note.partition('"')[2].partition("(")[0] for note in notes[:2]] == [
        "def ",
        "pgtheory.checking._Pinnable[[function: ",
    ], said
    errors = [note for note in notes[2:] if note.startswith("error: ")]
    assert errors[0] == 'error: Module has no attribute "nothing"  [attr-defined]', said
    assert [error.partition(" of ")[0] for error in errors[1:]] == ["error: No overload variant"] * len(wrong), said


DOCUMENTED = [(module, name) for module, name in PUBLIC if callable(getattr(module, name))]


@pytest.mark.parametrize(("module", "name"), DOCUMENTED, ids=label)
def test_each_public_name_is_documented_in_one_line_and_shown_in_a_doctest(module: ModuleType, name: str) -> None:
    doc = inspect.getdoc(vars(module)[name]) or ""
    first, *rest = doc.splitlines()
    assert first.endswith((".", "`", ":")), f"the first line is a whole sentence: {first!r}"
    assert not rest or rest[0] == "", "the definition is one line"
    is_record = inspect.isclass(vars(module)[name]) and issubclass(vars(module)[name], tuple)
    assert is_record or ">>> " in doc, "no example"


@pytest.mark.parametrize(("module", "name"), FUNCTIONS, ids=label)
def test_each_public_function_documents_its_arguments_result_and_source(module: ModuleType, name: str) -> None:
    function: Callable[..., Any] = vars(module)[name]
    doc = inspect.getdoc(function) or ""
    sections = set(re.findall(r"^(\w+):$", doc, flags=re.MULTILINE))
    parameters = inspect.signature(function).parameters
    returns = {"Returns", "Source"} if inspect.signature(function).return_annotation not in (None, "None") else set()
    assert sections >= {"Example"} | returns | ({"Args"} if parameters else set())
    arguments = doc.partition("Args:")[2].partition("\n\n")[0]
    undocumented = [p for p in parameters if not re.search(rf"^\s+(\w+, )*{p}\b", arguments, flags=re.MULTILINE)]
    assert not undocumented


@pytest.mark.parametrize(("module", "name"), FUNCTIONS, ids=label)
def test_each_public_function_is_typed_throughout(module: ModuleType, name: str) -> None:
    signature = inspect.signature(vars(module)[name])
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


def body_lengths(source: str) -> dict[str, int]:
    """The number of lines of each function's body, without docstring, comments, blank lines and nested definitions."""
    lines = source.splitlines()
    lengths = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            own = [part for part in body if not isinstance(part, ast.FunctionDef | ast.ClassDef)]
            code = [line.strip() for part in own for line in lines[part.lineno - 1 : part.end_lineno]]
            lengths[node.name] = sum(bool(line) and not line.startswith("#") for line in code)
    return lengths


def test_bodies_are_short_but_no_fragments() -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "pgtheory").rglob("*.py")}
    lengths = {(path.stem, f): n for path, source in sources.items() for f, n in body_lengths(source).items()}
    public = {name: n for name, n in lengths.items() if not name[1].startswith("_")}
    assert {name: n for name, n in public.items() if n > 40} == {}
    assert {name: n for name, n in lengths.items() if n > 60} == {}
    assert statistics.median(public.values()) <= 10


def rows_of_bad_input() -> list[tuple[str, str, str]]:
    """Test file, test function and case of each row of the tables of bad input."""
    rows, path = [], ""
    for line in ERRORS_PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells[0] == "fault":
            (path,) = re.findall(r"`tests/(\w+)\.py`", cells[-1])
        elif cells and not cells[0].startswith("--"):
            rows.append((path, cells[-1].strip("`"), cells[0].replace("\\|", "|")))
    return rows


def test_the_tables_of_bad_input_cover_each_chapter() -> None:
    chapters = {path.stem for path in numbered_chapters()}
    assert chapters <= {path.removeprefix("test_") for path, _, _ in rows_of_bad_input()}


@pytest.mark.parametrize(("path", "function", "case"), rows_of_bad_input())
def test_each_row_of_the_tables_of_bad_input_is_a_test(path: str, function: str, case: str) -> None:
    source = (ROOT / "tests" / f"{path}.py").read_text(encoding="utf-8")
    assert function in {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
    assert f'"{case}"' in source


def names_in(node: ast.AST) -> set[str]:
    parts = list(ast.walk(node))
    return {part.id for part in parts if isinstance(part, ast.Name)} | {
        part.attr for part in parts if isinstance(part, ast.Attribute)
    }


def constants(node: ast.AST) -> list[ast.Constant]:
    return [part for part in ast.walk(node) if isinstance(part, ast.Constant)]


def names_in_rows(source: str, tests: set[str], cases: set[str]) -> set[str]:
    """What the rows of bad input of a test file name: their tests, their cases, and the helpers of these."""
    tree, found = ast.parse(source), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in tests:
            found |= names_in(node)
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            found |= set().union(*(names_in(v) for k, v in pairs if isinstance(k, ast.Constant) and k.value in cases))
        elif isinstance(node, ast.Call | ast.Tuple | ast.keyword):
            parts = [p.value if isinstance(p, ast.keyword) else p for p in ast.iter_child_nodes(node)]
            if any(isinstance(part, ast.Constant) and part.value in cases for part in parts):
                found |= names_in(node)
    helpers: dict[str, ast.AST] = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        # A table of cases is read case by case, above.
        if isinstance(node, ast.Assign) and not cases & {part.value for part in constants(node)}:
            helpers |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
    while new := set().union(*(names_in(helpers[name]) for name in found & helpers.keys())) - found:
        found |= new
    return found


def test_each_function_that_documents_what_it_raises_has_a_row_of_bad_input() -> None:
    rows, missing = rows_of_bad_input(), set()
    for module in {module for module, _ in FUNCTIONS}:
        path = "test_" + module.__name__.removeprefix("pgtheory.")
        source = (ROOT / "tests" / f"{path}.py").read_text(encoding="utf-8")
        own = [(test, case) for file, test, case in rows if file == path]
        named = names_in_rows(source, {test for test, _ in own}, {case for _, case in own})
        raising = {name for name in module.__all__ if "\nRaises:" in (inspect.getdoc(vars(module)[name]) or "")}
        if "CHECKS" in named:  # a test of every check
            named |= {check.__name__ for check in CHECKS.values()}
        missing |= {name for name in raising - named if (module, name) in FUNCTIONS}
    assert missing == set()
