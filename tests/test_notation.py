"""One notation in every chapter and docstring, and a page that lists all of it."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
MODULES = sorted((ROOT / "pgtheory").rglob("*.py"))
MATHEMATICS = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$|```\{math\}\n(.*?)```|:math:`([^`]+)`", re.DOTALL)

# What is not a symbol of the book's: how it is set, relations, sums and the like.
SETTING = set(
    re.findall(
        r"\\[A-Za-z]+",
        r"""\Big \Biggl \Biggr \Bigl \Bigr \approx \big \bigl \bigm \bigr \cdot \cdots \circ \displaystyle \dots \equiv
        \exists \forall \frac \ge \geq \in \infty \int \le \left \leq \lVert \lvert \rVert \rvert \max \mid \min \ne
        \neg \notin \partial \prod \propto \qquad \quad \right \setminus \sim \sqrt \sum \textstyle \tfrac \times \to
        \top \underbrace \bar \hat \tilde \mathbb \mathbf \mathcal \mathrm \operatorname \boldsymbol \begin \end""",
    )
)


def text_of(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def mathematics(text: str) -> list[str]:
    return ["".join(groups) for groups in MATHEMATICS.findall(text)]


def numbered(text: str) -> dict[str, str]:
    block = re.compile(r"^\s*(`{3,}|:{3,})\{math\}\s*\n\s*:label:\s*(\S+)\s*\n(.*?)^\s*\1\s*$", re.M | re.S)
    return {label: body for _, label, body in block.findall(text)}


def symbols(formula: str) -> set[str]:
    """Letters with their alphabet, Greek letters, and names in upright letters."""
    formula = re.sub(r"\\text\{[^}]*\}|\\(begin|end)\{\w+\*?\}|:(?:label|class):.*", " ", formula)
    found = set()
    for named in (
        r"\\(?:operatorname\*?|mathrm)\{(\w+)\}",
        r"\\math(?:bb|cal)\s*\{?(\w)\}?",
        r"\\(?:hat|bar)\s*\{?(\w)\}?",
    ):
        for match in re.finditer(named, formula):
            found.add(re.sub(r"[\s{}*]", "", match[0]))
        formula = re.sub(named, " ", formula)
    found |= set(re.findall(r"\\[A-Za-z]+", formula)) - SETTING
    return found | set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", formula)))


def test_symbols_are_told_apart() -> None:
    assert symbols(r"\hat A_t = \mathbb E[G_t] + \operatorname{Var}[x]\,\gamma") == {
        r"\hatA", "t", r"\mathbbE", "G", r"\operatornameVar", "x", r"\gamma",
    }  # fmt: skip


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_notation_page_lists_every_symbol_of_the_numbered_equations(path: Path) -> None:
    page = (ROOT / "book" / "notation.md").read_text(encoding="utf-8")
    listed = set().union(*map(symbols, mathematics(page)))
    missing = {label: left for label, body in numbered(text_of(path)).items() if (left := symbols(body) - listed)}
    assert missing == {}


OTHER_FORMS = {
    "log for ln": r"\\log\b",
    "a bold 1 for the indicator": r"\\mathbf\s*\{?1",
    "square brackets for the indicator": r"\\mathbb\s*\{?1\}?\s*\[",
    "a bar for a condition": r"(?:\\pi|\\Pr|(?<![A-Za-z])p)(?:_\{?\\?\w+\}?)?'?\((?:[^()|]|\([^()]*\))*(?<!\\)\|",
    "a capital for the largest reward": r"R_\{?\\max",
}


@pytest.mark.parametrize("form", OTHER_FORMS)
@pytest.mark.parametrize("path", [*CHAPTERS, *MODULES], ids=lambda path: str(path.relative_to(ROOT)))
def test_one_notation(path: Path, form: str) -> None:
    text = text_of(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    assert [formula for formula in mathematics(text) if re.search(OTHER_FORMS[form], formula)] == []
