"""Each numbered equation leads to its function and its test, or says why not; each public function to its equation."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("equations", ROOT / "book" / "_ext" / "equations.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["equations"] = module  # its named tuple looks its module up
    spec.loader.exec_module(module)
    return module


book = load()
LABELS = sorted(book.equations())


def test_the_book_has_equations() -> None:
    assert len(LABELS) > 100


@pytest.mark.parametrize("label", LABELS)
def test_an_equation_is_computed_or_says_why_not(label: str) -> None:
    computed, mark = label in book.functions_of(), book.equations()[label].mark
    assert mark is None or mark in book.MARKS
    assert computed != (mark is not None), "an equation has a function that names it, or a mark, and not both"


@pytest.mark.parametrize("label", LABELS)
def test_an_equation_that_is_computed_is_named_by_a_test(label: str) -> None:
    assert label not in book.functions_of() or label in book.tests_of()


def test_docstrings_and_tests_name_equations_that_exist() -> None:
    assert set(book.functions_of()) <= set(LABELS)
    assert set(book.tests_of()) <= set(LABELS)


def test_a_public_function_names_its_equation_or_says_why_not() -> None:
    assert book.functions_without_equation_or_mark() == []


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("state_values", "pgtheory.value_functions.state_values"),
        ("pg.state_values(mdp, policy, gamma)", "pgtheory.value_functions.state_values"),
        ("pgtheory.returns.returns_to_go", "pgtheory.returns.returns_to_go"),
        ("FiniteMDP.from_table", "pgtheory.mdp.FiniteMDP.from_table"),
        ("mdp.dynamics()", "pgtheory.mdp.FiniteMDP.dynamics"),
        ("Trainer", "pgtheory.training.Trainer"),
        ("torch.Generator", None),
        ("state_values_of", None),
    ],
)
def test_an_inline_name_of_the_package_is_a_link(text: str, target: str | None) -> None:
    assert book.target_of(text) == target
