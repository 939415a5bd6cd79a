"""The machine-checked proofs: nothing is taken for granted in them, and what they cite is in the book."""

import re
from pathlib import Path

import nbformat
import pytest
from helpers import load

ROOT = Path(__file__).parents[1]


check = load("proof/check.py")
SOURCES = [ROOT / "proof" / f"{stem}.v" for stem in check.STEMS]
LABELS = re.compile(r"\(\* Book(?:, in part)?: ([\w-]+(?:, [\w-]+)*) \*\)")

needs_coq = pytest.mark.skipif(not check.available(), reason=f"Coq is not installed; {check.INSTALL}")


def commands(path: Path) -> list[str]:
    return [s.text for s in check.sentences(path.read_text(encoding="utf-8")) if s.kind == "code"]


def test_each_file_has_its_place_in_the_order_and_its_page() -> None:
    assert sorted(path.name for path in (ROOT / "proof").glob("*.v")) == sorted(path.name for path in SOURCES)
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert re.findall(r"book/proof/(\w+)", toc) == check.STEMS
    for stem in check.STEMS:
        assert "%%proof%%" in (ROOT / "book" / "proof" / f"{stem}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_file_imports_only_earlier_ones_and_is_short_enough_to_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    imported = re.findall(r"From PolicyGradient Require Export (\w+)", text)
    assert all(check.STEMS.index(name) < check.STEMS.index(path.stem) for name in imported)
    lines = text.splitlines()
    assert len(lines) <= 900
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("(** * ")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_is_admitted_or_postulated(path: Path) -> None:
    forbidden = r"(?:Axiom|Axioms|Parameter|Parameters|Conjecture|Admitted|Admit Obligations|Abort)\b|.*\badmit\b"
    flags = r".*(?:bypass_check|Unset (?:Guard|Positivity|Universe) Checking|type-in-type)"
    assert [text for text in commands(path) if re.match(f"{forbidden}|{flags}", text, flags=re.S)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_what_is_assumed_is_assumed_inside_a_section(path: Path) -> None:
    depth = 0
    for text in commands(path):
        depth += text.startswith("Section ")
        depth -= bool(re.match(r"End \w+\.", text))
        if re.match(r"Variable|Hypothes|Context", text):
            assert depth > 0, f"{text} would be an axiom"
    assert depth == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Lemma a : 1 = 1.\nProof. by []. Qed.", ["Lemma a : 1 = 1.", "Proof.", "by [].", "Qed."]),
        ("(* a. (* b. *) c. *) Check 1.5.\nCheck x.+1.", ["Check 1.5.", "Check x.+1."]),
        ('Notation "a . b" := (f a b).', ['Notation "a . b" := (f a b).']),
    ],
    ids=["proof", "comments and numbers", "strings"],
)
def test_sentences_end_with_a_full_stop_before_white_space(text: str, found: list[str]) -> None:
    assert [s.text for s in check.sentences(text) if s.kind == "code"] == found


def test_each_label_that_a_proof_cites_is_in_the_book_and_stands_before_a_statement() -> None:
    cells = [cell for path in (ROOT / "book").glob("*.ipynb") for cell in nbformat.read(path, as_version=4).cells]
    book = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    labels = set(re.findall(r"^:label: (\S+)$", book, flags=re.M))
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        assert source.count("(* Book") == len(LABELS.findall(source))
        for match in LABELS.finditer(source):
            assert set(match[1].split(", ")) <= labels, match[0]
            after = re.sub(r"^(?:\s|\(\*.*?\*\))*", "", source[match.end() :], flags=re.S)
            assert check.name_of(after), match[0]


@pytest.mark.parametrize(
    "label",
    [
        "thm-bellman-discounted",
        "thm-bellman-undiscounted",
        "prop-finite-horizon-gradient",
        "thm-policy-gradient",
        "eq-policy-gradient-cut",
        "thm-reinforce-unbiased",
        "prop-score-tabular",
        "cor-softmax-gradient",
        "lem-performance-difference",
        "thm-surrogate-gradient",
    ],
)
def test_the_central_statements_are_proved(label: str) -> None:
    found = []
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        found += [source[m.end() :] for m in LABELS.finditer(source) if label in m[1].split(", ")]
    assert any(re.match(r"(?:\s|\(\*.*?\*\))*(?:Theorem|Corollary|Lemma) ", text, flags=re.S) for text in found)


def test_axioms_are_read_from_what_coq_prints() -> None:
    printed = (
        "Axioms:\nA.sig_not_dec : forall P : Prop, {~ ~ P} + {~ P}\nB.long_name\n  : forall P : nat -> Prop,\n    P 0\n"
    )
    assert check.axioms_in(printed) == {"A.sig_not_dec", "B.long_name"}
    assert check.axioms_in("Closed under the global context\n") == set()


SUMMARY = """
CONTEXT SUMMARY
===============

* Theory: Set is predicative

* Axioms:
    Coq.Logic.FunctionalExtensionality.functional_extensionality_dep
    Coq.Logic.Classical_Prop.classic

* Constants/Inductives relying on type-in-type: <none>

* Inductives whose positivity is assumed: <none>
"""


def test_axioms_are_read_from_what_the_second_checker_prints() -> None:
    found = {"FunctionalExtensionality.functional_extensionality_dep", "Classical_Prop.classic"}
    assert check.axioms_in_summary(SUMMARY) == found
    with pytest.raises(check.ProofError, match="unsafe"):
        check.axioms_in_summary(SUMMARY.replace("type-in-type: <none>", "type-in-type:\n    A.b"))
    with pytest.raises(check.ProofError, match="unsafe"):
        check.axioms_in_summary("")


@needs_coq
def test_all_theorems_stand_on_the_axioms_of_the_real_numbers_and_no_other() -> None:
    check.compile_all()
    assert len(check.theorems()) >= 40
    assert check.assumptions(check.theorems()) == check.ALLOWED


@needs_coq
def test_a_false_step_and_an_axiom_are_found(tmp_path: Path) -> None:
    false = tmp_path / "false.v"
    false.write_text("Lemma two : 1 + 1 = 3.\nProof. reflexivity. Qed.\n", encoding="utf-8")
    with pytest.raises(check.ProofError, match="Unable to unify"):
        check.coqc(false)
    postulated = tmp_path / "postulated.v"
    postulated.write_text(
        "Axiom magic : 1 + 1 = 3.\nLemma two : 1 + 1 = 3.\nProof. exact magic. Qed.\nPrint Assumptions two.\n",
        encoding="utf-8",
    )
    assert check.axioms_in(check.coqc(postulated)) == {"magic"}


def test_a_machine_without_coq_is_told_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert check.main() == 1
    assert "apt install coq libcoq-coquelicot" in capsys.readouterr().err
