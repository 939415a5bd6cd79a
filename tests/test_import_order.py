"""The reading order of the book is the import order of the package."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pgtheory"

# Chapter by chapter; a private module belongs to the chapter of the public one that it helps.
ORDER = [
    ["_checks", "_precision", "_masks", "_compiled", "_kernels"],
    ["mdp", "_gymnasium", "_tables", "gallery", "trajectories"],
    ["returns"],
    ["_krylov", "_elimination", "_linear", "value_functions"],
    ["softmax_policy", "gaussian_policy"],
    ["decoding"],
    ["_gradients", "policy_gradient"],
    ["reinforce"],
    ["_ratios", "surrogates", "advantages"],
    ["_checkpoints", "training"],  # the loops of both: REINFORCE and PPO
    ["_each_group", "groups", "off_policy"],
    ["token_log_probs", "language_models", "tiny_gpt", "_ranks", "_rewards", "_post_training", "post_training"],
    ["smollm"],
    ["checking"],
]
# Imports that stand inside a function, because what is imported builds on the module: `FiniteMDP.from_gymnasium` and
# `to_gymnasium` are doors to the environments. `_kernels` imports numba, and so it waits until `_compiled` says so.
DOORS = {("mdp", "_gymnasium")}
CHAPTER_OF = {module: chapter for chapter, modules in enumerate(ORDER) for module in modules}
FILES = {path.stem: [path] for path in PACKAGE.glob("*.py") if path.stem != "__init__"} | {
    path.parent.name: sorted(path.parent.glob("*.py")) for path in PACKAGE.glob("*/__init__.py")
}
MODULES = sorted(FILES)
FOR_THE_BOOK = {"plotting", "display"}


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from outside_functions(child)


def imported_modules(source: str, *, at_import: bool = False) -> set[str]:
    """The modules of the package that a source text imports, wherever the import stands or outside functions only."""
    found: set[str] = set()
    tree = ast.parse(source)
    for node in outside_functions(tree) if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["pgtheory" if node.level else "", node.module or ""]))
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "pgtheory" else [base]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("pgtheory.")}
        assert "pgtheory" not in names, "import the module, not the package: its __init__ imports every chapter"
    return found


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("from pgtheory import mdp, returns", {"mdp", "returns"}),
        ("from pgtheory.mdp import FiniteMDP", {"mdp"}),
        ("import pgtheory.mdp as m", {"mdp"}),
        ("def f():\n    from . import decoding", {"decoding"}),
        ("from .decoding import top_p", {"decoding"}),
        ("import torch", set()),
    ],
)
def test_every_form_of_import_is_seen(source: str, modules: set[str]) -> None:
    assert imported_modules(source) == modules


def test_every_module_has_its_place_in_the_order() -> None:
    assert set(MODULES) - FOR_THE_BOOK <= CHAPTER_OF.keys()


@pytest.mark.parametrize("module", [m for m in MODULES if m not in FOR_THE_BOOK])
def test_a_module_imports_only_from_its_own_or_earlier_chapters(module: str) -> None:
    imported = set().union(*(imported_modules(path.read_text(encoding="utf-8")) for path in FILES[module]))
    assert not imported & FOR_THE_BOOK, "nothing but the book imports them"
    later = {name for name in imported if CHAPTER_OF[name] > CHAPTER_OF[module]}
    assert not later, f"{module} imports from later chapters: {sorted(later)}"


def private_names_of_others(source: str, module: str) -> set[str]:
    """The private names that a source text of `module` takes from other, public modules of the package."""
    names, modules, found = [], set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["pgtheory" if node.level else "", node.module or ""]))
            names += [f"{base}.{alias.name}" for alias in node.names]
            if base == "pgtheory":
                modules |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and re.match(r"_[^_]", node.attr):
            found.add(f"{node.value.id}.{node.attr}")
    taken = {name.removeprefix("pgtheory.") for name in names if re.match(r"pgtheory\.[^_].*\._", name)}
    return {name for name in taken if name.partition(".")[0] != module} | {
        name for name in found if name.partition(".")[0] in modules
    }


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from pgtheory.mdp import _f, FiniteMDP", {"mdp._f"}),
        ("def f():\n    from .mdp import _f", {"mdp._f"}),
        ("from pgtheory.training import _ppo", {"training._ppo"}),
        ("from pgtheory.training._ppo import PPOTrainer", {"training._ppo.PPOTrainer"}),
        ("import pgtheory.training._ppo", {"training._ppo"}),
        ("from pgtheory import surrogates as sg\nsg._f(sg.f, self._x)", {"sg._f"}),
        ("from pgtheory._masks import taken", set()),
        ("from pgtheory import _checks", set()),
        ("from . import _checks", set()),
        ("from pgtheory.own._part import f, _g", set()),
        ("from ._part import f, _g", set()),
        ("from numpy import _core", set()),
    ],
)
def test_every_private_name_of_another_module_is_seen(source: str, names: set[str]) -> None:
    assert private_names_of_others(source, "own") == names


@pytest.mark.parametrize("module", MODULES)
def test_no_module_takes_a_private_name_of_another(module: str) -> None:
    found = [private_names_of_others(path.read_text(encoding="utf-8"), module) for path in FILES[module]]
    assert not set().union(*found), "what two modules need has a public home, or a private module of its own"


def imported_by(module: str, *, at_import: bool) -> set[str]:
    sources = [path.read_text(encoding="utf-8") for path in FILES[module]]
    return set().union(*(imported_modules(source, at_import=at_import) for source in sources)) - {module}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: imported_by(module, at_import=True) for module in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)
    with pytest.raises(CycleError):
        list(TopologicalSorter(graph | {"mdp": {"_gymnasium"}}).static_order())


def test_only_the_doors_import_inside_a_function() -> None:
    late = {
        (module, name)
        for module in MODULES
        for name in imported_by(module, at_import=False) - imported_by(module, at_import=True) - {"_kernels"}
    }
    assert late == DOORS


def test_the_package_itself_does_not_import_what_is_for_the_book() -> None:
    assert not imported_modules((PACKAGE / "__init__.py").read_text(encoding="utf-8")) & FOR_THE_BOOK


@pytest.mark.parametrize("module", MODULES)
def test_each_public_module_has_a_test_file_of_its_name(module: str) -> None:
    if not module.startswith("_"):
        assert (ROOT / "tests" / f"test_{module}.py").exists()
