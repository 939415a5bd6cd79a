"""What folds away has a title of its own and a name that says what it is."""

from html import escape
from typing import Any

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx_proof.nodes import proof_node

SHARED_NAMES = {"proof-content", "exercise-content", "solution-content"}


class ProofsHaveTitles(SphinxTransform):
    """A proof begins with the word in its first line; one that folds needs it as a title, to be clicked on."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        """Turn `Proof. …` into a title and the rest, in each proof of the class `dropdown`."""
        for proof in self.document.findall(proof_node):
            (box,) = proof.children
            box["ids"] = []  # every proof of a page would have the same
            text = next(iter(box.findall(nodes.Text)), None)
            if "dropdown" in box["classes"] and text is not None and text.startswith("Proof."):
                text.parent.replace(text, nodes.Text(text.removeprefix("Proof.").lstrip()))
                box.insert(0, nodes.title("", "Proof"))


class BoxesHaveNoNames(SphinxPostTransform):
    """The insides of theorems, exercises and solutions come with a name that is the same for all of a page."""

    default_priority = 500

    def run(self, **kwargs: Any) -> None:
        """Take the name away: what a reference leads to is the box around it."""
        for box in self.document.findall(nodes.section):
            box["ids"] = [name for name in box["ids"] if name not in SHARED_NAMES]


def visit_fold(self: Any, node: Any) -> None:
    """Open the fold of a code cell: its words name it, and no label contradicts them."""
    self.body.append(f'<details class="admonition hide {" ".join(node["classes"])}">\n<summary>\n')
    for state, prompt in (("collapsed", node["prompt_show"]), ("expanded", node["prompt_hide"])):
        self.body.append(f'<p class="{state} admonition-title">{escape(prompt)}</p>\n')
    self.body.append("</summary>\n")


def depart_fold(self: Any, node: Any) -> None:
    """Close it."""
    self.body.append("</details>\n")


def setup(app: Sphinx) -> None:
    """Register the transforms and the fold."""
    app.add_transform(ProofsHaveTitles)
    app.add_post_transform(BoxesHaveNoNames)
    app.add_node(HideCodeCellNode, override=True, html=(visit_fold, depart_fold))
