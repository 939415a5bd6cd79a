"""The page on what stands behind the claims says what the tests and the proofs hold."""

import importlib
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from mutation import path_of

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def evidence() -> ModuleType:
    sys.path.insert(0, str(ROOT / "book" / "_ext"))
    try:
        return importlib.import_module("evidence")
    finally:
        sys.path.pop(0)


def test_every_claim_has_a_row_and_its_tests_and_its_proof(evidence: ModuleType) -> None:
    lines = evidence.page("claims")
    rows = [line for line in lines if line.startswith(("| {eq}", "| {prf:ref}"))]
    assert len(rows) == len(evidence.claims()) > 150
    (row,) = [row for row in rows if "`thm-policy-gradient`" in row]
    assert "policy_gradient.html#coq-policy_gradient" in row
    (row,) = [row for row in rows if "`eq-gae`" in row]
    _, _, tests, apart, mistakes, _, _ = row.split("|")
    assert int(tests) >= 2
    assert 0 < float(apart) < 1e-6
    assert int(mistakes) >= 10


def test_what_tests_name_is_a_claim(evidence: ModuleType) -> None:
    known = {claim.label for claim in evidence.claims()} | set(evidence.equations.equations())
    assert set(evidence.named()) <= known


@pytest.mark.parametrize(
    ("body", "apart"),
    [
        ("torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)", 1e-10),
        ("assert a == pytest.approx(b)", 1e-6),
        ("assert_same_up_to_rounding(a, b, ulps=4)", 4 * 2.0**-52),
        ("close(a, b)", 1e-9),
        ("close(a, b, 1e-11)", 1e-11),
        ("assert a == b", 0.0),
        ("assert a", None),
    ],
)
def test_the_tolerance_of_a_comparison_is_read(evidence: ModuleType, body: str, apart: float | None) -> None:
    functions = evidence.ast.parse(f"def close(a, b, atol=1e-9): ...\ndef test_it(): {body}").body
    assert evidence._sharpest(functions[1], {"close": functions[0]}) == apart


def test_the_numbers_of_the_text_are_known(evidence: ModuleType) -> None:
    text = (ROOT / "book" / "evidence.md").read_text(encoding="utf-8")
    used = set(evidence.re.findall(r"«(\w+)»", text))
    assert used == evidence.numbers().keys()


def test_the_record_of_mutants_is_of_modules_that_exist_and_adds_up() -> None:
    rows = tomllib.loads((ROOT / "tests" / "mutation_scores.toml").read_text(encoding="utf-8"))
    for module, n in rows.items():
        assert path_of(module).exists()
        assert 0 <= n["killed"] <= n["run"] <= n["drawn"] - n["equivalent"]
        assert n["drawn"] <= n["places"]
        assert 0 <= n.get("new_killed", 0) <= n.get("new", 0) <= n["places"] - n["drawn"]
        assert n["killed"] >= 0.95 * n["run"], f"{module}: the tests are to notice more"
