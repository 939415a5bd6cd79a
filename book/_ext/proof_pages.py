"""The pages of the machine-checked proof, made from the sources in `proof/`, and the links from theorems to them.

With Coq at hand the pages show the goals after each step of each proof; without it, the sources alone.
"""

import html
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
PAGE = "book/proof/"
PROVED = ("Lemma", "Theorem", "Corollary")
STATED = re.compile(r"(Lemma|Theorem|Corollary|Definition|Fixpoint|Record)\s+([\w']+)")
ENDS = {"Qed.", "Defined."}


def load_check() -> ModuleType:
    """`proof/check.py`, which needs nothing but Python and Coq."""
    spec = spec_from_file_location("proof_check", ROOT / "proof" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = load_check()


@dataclass(frozen=True)
class Item:
    """One stretch of a source: prose, or code, with the labels that it cites and, where there is one, its proof."""

    prose: str = ""
    code: str = ""
    steps: tuple[str, ...] = ()
    labels: tuple[tuple[str, bool], ...] = ()  # the label, and whether it is covered only in part

    @property
    def name(self) -> str | None:
        """What the code states or defines."""
        match = STATED.match(self.code)
        return match and match[2]

    @property
    def proved(self) -> bool:
        """Whether the code is a statement with a proof."""
        return self.code.startswith(PROVED)


def cited(comment: str) -> list[tuple[str, bool]]:
    """The labels in a comment of the form `(* Book: thm-a, eq-b *)` or `(* Book, in part: thm-a *)`."""
    match = re.fullmatch(r"\(\* Book(, in part)?: ([\w\s,-]+) \*\)", comment)
    return [(label.strip(), match[1] is not None) for label in match[2].split(",")] if match else []


def items(source: str) -> Iterator[Item]:
    """The stretches of a source, in order; commands that state nothing are taken together."""
    labels: list[tuple[str, bool]] = []
    code: list[str] = []
    steps: list[str] | None = None

    def taken() -> Iterator[Item]:
        if code:
            yield Item(code="\n".join(code), steps=tuple(steps or ()), labels=tuple(labels))
            labels.clear()
            code.clear()

    for sentence in check.sentences(source):
        if steps is not None:
            steps.append(sentence.text)
            if sentence.text in ENDS:
                yield from taken()
                steps = None
        elif sentence.kind != "code":
            yield from taken()
            labels += cited(sentence.text)
            yield from [Item(prose=sentence.text)] if sentence.kind == "text" else []
        elif sentence.text.startswith("Proof"):
            steps = []
        else:
            if STATED.match(sentence.text) or (code and STATED.match(code[0])):
                yield from taken()
            code.append(sentence.text)
    yield from taken()


@cache
def contents(stem: str) -> tuple[Item, ...]:
    """The stretches of a file."""
    return tuple(items((ROOT / "proof" / f"{stem}.v").read_text(encoding="utf-8")))


@cache
def citations() -> dict[str, list[tuple[str, str, bool, bool]]]:
    """For each label of the book: file, name, whether it is proved there, and whether only in part."""
    found: dict[str, list[tuple[str, str, bool, bool]]] = {}
    for stem in check.STEMS:
        for item in contents(stem):
            for label, part in item.labels:
                found.setdefault(label, []).append((stem, item.name or "", item.proved, part))
    return found


# Goals


def with_markers(stem: str) -> str:
    """The source of a file with a request for the goals after each step, marked with the number of the step."""
    lines, number = ["Set Printing Width 76."], 0
    for item in contents(stem):
        lines += [item.code] if item.code else []
        lines += ["Proof."] if item.steps else []
        for step in item.steps:
            lines += [step]
            if step not in ENDS:
                lines += [f"Locate goal_marker_{number}.", "Show."]
                number += 1
    return "\n".join(lines) + "\n"


@cache
def goals(stem: str) -> list[str]:
    """The goals after each step of each proof of a file, in order; kept in the build folder until a source changes."""
    marked = with_markers(stem)
    path = check.BUILD / f"goals_{stem}.v"
    printed = path.with_suffix(".txt")
    fresh = check.compile_all() == [] and path.exists() and path.read_text(encoding="utf-8") == marked
    if not (fresh and printed.exists()):
        path.write_text(marked, encoding="utf-8")
        printed.write_text(check.coqc(path), encoding="utf-8")
    parts = re.split(r"No object of basename goal_marker_\d+\n", printed.read_text(encoding="utf-8"))
    return [part.rstrip() for part in parts[1:]]


# Pages


def coloured(code: str) -> str:
    """Code as HTML, with the classes of the theme's colours."""
    return highlight(code, get_lexer_by_name("coq"), HtmlFormatter(nowrap=True)).rstrip("\n")


def shown_code(code: str) -> str:
    """Code in a box."""
    return f'<div class="highlight"><pre>{coloured(code)}</pre></div>'


def prose(comment: str) -> str:
    """A comment for readers as MyST; the title of the file is left to its page."""
    text = re.sub(r"\(\*\*|\*\)", "", comment)
    text = "\n".join(line.strip() for line in text.splitlines()).strip()
    text = re.sub(r"^\* .*\n*", "", text)
    text = re.sub(r"^\*\* (.*)$", r"## \1", text, flags=re.M)
    return re.sub(r"\[([^\]]+)\]", lambda match: f"`{' '.join(match[1].split())}`", text)


def shown_step(step: str, goal: str | None) -> str:
    """One step of a proof; with the goals after it, folded."""
    code = f'<code class="highlight">{coloured(step)}</code>'
    if goal is None:
        return f"<div>{code}</div>"
    return f"<details><summary>{code}</summary><pre>{html.escape(goal)}</pre></details>"


def shown_proof(item: Item, after: list[str] | None) -> str:
    """A proof, folded, with the goals after each step."""
    steps = [step for step in item.steps if step not in ENDS]
    padded: list[str | None] = list(after) if after is not None else [None] * len(steps)
    shown = "".join(shown_step(step, goal) for step, goal in zip(steps, padded, strict=True))
    count = f"{len(steps)} steps" if len(steps) > 1 else "1 step"
    return f'<details class="coq-proof"><summary>Proof in {count}</summary>{shown}</details>'


def raw(text: str) -> str:
    """HTML in MyST."""
    return f"`````{{raw}} html\n{text}\n`````"


def reference(label: str) -> str:
    """A reference to a label of the book."""
    return f"{{eq}}`{label}`" if label.startswith("eq-") else f"{{prf:ref}}`{label}`"


def shown(item: Item, after: list[str] | None) -> str:
    """A stretch of a source as MyST."""
    if item.prose:
        return prose(item.prose)
    labels = ", ".join(reference(label) + (" in part" if part else "") for label, part in item.labels)
    anchor = f' id="coq-{html.escape(item.name)}"' if item.name else ""
    block = f'<div class="coq"{anchor}>{shown_code(item.code)}{shown_proof(item, after) if item.steps else ""}</div>'
    return (f"In the book: {labels}\n\n" if labels else "") + raw(block)


def page(stem: str) -> str:
    """The page of a file, without its title."""
    left = iter(goals(stem)) if check.available() else None
    parts = []
    for item in contents(stem):
        wanted = sum(step not in ENDS for step in item.steps)
        parts.append(shown(item, None if left is None else [next(left) for _ in range(wanted)]))
    return "\n\n".join(parts)


def fill_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the source of a file where its page says so."""
    if docname.startswith(PAGE):
        stem = docname.removeprefix(PAGE)
        source[0] = source[0].replace("%%proof%%", page(stem))


def assumed(stem: str, name: str) -> list[str]:
    """What the open sections of a file assume at the place of a statement."""
    open_sections: list[list[str]] = [[]]
    for item in contents(stem):
        if item.name == name:
            return [command for section in open_sections for command in section]
        for sentence in check.sentences(item.code):
            if sentence.text.startswith("Section "):
                open_sections.append([])
            elif sentence.text.startswith("End "):
                open_sections.pop()
            elif re.match(r"Context|Variable|Hypothes", sentence.text):
                open_sections[-1].append(sentence.text)
    raise KeyError(f"{stem}.{name} is not in the proof")


class CoqStatement(SphinxDirective):
    """A statement of the proof, by its file and name: `mdp.finite_horizon_value`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The statement, from the source, with what its sections assume, and a link to its proof."""
        stem, _, name = self.arguments[0].partition(".")
        context = "\n".join(assumed(stem, name))
        statement = next(item.code for item in contents(stem) if item.name == name)
        block = f'<div class="coq coq-context">{shown_code(context)}</div>' if context else ""
        block += f'<div class="coq">{shown_code(statement)}</div>'
        link = nodes.reference("", "", nodes.literal("", name), refuri=f"proof/{stem}.html#coq-{name}", internal=True)
        return [nodes.raw("", block, format="html"), nodes.paragraph("", "", link, classes=["proof-link"])]


class CoqGoals(SphinxDirective):
    """Says whether the pages were made with Coq at hand."""

    def run(self) -> list[nodes.Node]:
        """One sentence."""
        with_goals = (
            "The pages below were made with Coq at hand: each step of a proof unfolds the goals that it leaves."
        )
        without = (
            "These pages were made on a machine without Coq: they show the steps of the proofs, but not the goals."
        )
        return [nodes.paragraph("", with_goals if check.available() else without)]


def add_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Say under each theorem that the proof cites where it is proved."""
    for node in list(doctree.findall(nodes.Element)):
        found = citations().get(node.get("label", "")) if "proof" in node.get("classes", []) else None
        if not found:
            continue
        proofs = [entry for entry in found if entry[2]]
        text = "Checked by machine" if proofs else "Defined for the machine"
        text += ", in part: " if all(part for *_, part in proofs or found) else ": "
        line = nodes.paragraph("", text, classes=["proof-link"])
        for number, (stem, name, _, _) in enumerate(proofs or found):
            line += nodes.Text(", ") if number else nodes.Text("")
            uri = f"{app.builder.get_relative_uri(docname, PAGE + stem)}#coq-{name}"
            line += nodes.reference("", "", nodes.literal("", name), refuri=uri, internal=True)
        node.append(line)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_directive("coq-statement", CoqStatement)
    app.add_directive("coq-goals", CoqGoals)
    app.add_css_file("coq.css")
    app.connect("source-read", fill_page)
    app.connect("doctree-resolved", add_links)
    if not check.available():
        logger.info("Coq is missing, so the pages of the proof have no goals; %s", check.INSTALL)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
