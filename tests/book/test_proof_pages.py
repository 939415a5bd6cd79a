"""The pages of the machine-checked proof show it, and the chapters link to it."""

import re
import shutil
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]
STEMS = re.findall(r"^(\w+)\.v$", (ROOT / "proof" / "_CoqProject").read_text(encoding="utf-8"), flags=re.M)
STATED = re.compile(r"^(?:Lemma|Theorem|Corollary|Definition|Fixpoint|Record) ([\w']+)", flags=re.M)
PROVED = re.compile(r"^(?:Lemma|Theorem|Corollary) ([\w']+)", flags=re.M)


def page(html: Path, name: str) -> BeautifulSoup:
    return BeautifulSoup((html / "book" / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


@pytest.mark.parametrize("stem", STEMS)
def test_each_statement_and_each_proof_of_a_file_is_on_its_page(html: Path, stem: str) -> None:
    source = (ROOT / "proof" / f"{stem}.v").read_text(encoding="utf-8")
    built = page(html, f"proof/{stem}")
    names = {str(block["id"]) for block in built.select("div.coq[id]")}
    assert names == {f"coq-{name}" for name in STATED.findall(source)}
    proved = PROVED.findall(source)
    assert all(built.find(id=f"coq-{name}").select("details.coq-proof") for name in proved)


@pytest.mark.parametrize("stem", STEMS)
def test_a_page_is_light(html: Path, stem: str) -> None:
    assert (html / "book" / "proof" / f"{stem}.html").stat().st_size < 2_000_000


@pytest.mark.skipif(shutil.which("coqc") is None, reason="without Coq the pages have no goals")
@pytest.mark.parametrize("stem", STEMS)
def test_each_proof_ends_with_no_goals_left(html: Path, stem: str) -> None:
    for proof in page(html, f"proof/{stem}").select("details.coq-proof"):
        goals = [goal.get_text() for goal in proof.select("details > pre")]
        assert goals[-1].strip() == "No more goals."
        assert all("====" in goal for goal in goals[:-1] if goal.strip() != "No more goals.")


@pytest.mark.parametrize(
    ("chapter", "label", "name"),
    [
        ("value_functions", "thm-bellman-discounted", "bellman_discounted"),
        ("policy_gradient", "thm-policy-gradient", "policy_gradient"),
        ("policy_gradient", "prop-finite-horizon-gradient", "finite_horizon_gradient"),
        ("reinforce", "thm-reinforce-unbiased", "reinforce_unbiased_to_the_end"),
        ("softmax_policy", "prop-score-tabular", "tabular_score"),
        ("surrogates", "lem-performance-difference", "performance_difference"),
    ],
)
def test_a_theorem_links_to_its_proof(html: Path, chapter: str, label: str, name: str) -> None:
    theorem = page(html, chapter).find(id=label)
    assert theorem is not None
    links = [str(link["href"]) for link in theorem.select(".proof-link a")]
    (link,) = [link for link in links if link.endswith(f"#coq-{name}")]
    target, _, anchor = link.partition("#")
    assert page(html, target.removesuffix(".html")).find(id=anchor)


def test_only_what_the_proof_cites_is_said_to_be_checked(html: Path) -> None:
    cited = {
        label
        for stem in STEMS
        for line in re.findall(
            r"\(\* Book(?:, in part)?: (.*) \*\)", (ROOT / "proof" / f"{stem}.v").read_text(encoding="utf-8")
        )
        for label in line.split(", ")
    }
    for chapter in (ROOT / "book").glob("*.ipynb"):
        for line in page(html, chapter.stem).select("div.proof .proof-link"):
            assert line.find_parent("div", class_="proof")["id"] in cited
