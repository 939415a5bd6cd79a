"""MathJax beside the pages, and only the parts of it that they use; formulas that keep their punctuation."""

import re
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.fileutil import copy_asset

# `mathjax3_config` in _config.yml names the parts to load; there is no menu, and so no speech engine.
MATHJAX = (
    "startup.js",
    "core.js",
    "input/tex.js",
    "input/tex/extensions",
    "output/chtml.js",
    "output/chtml/fonts/tex.js",
    "output/chtml/fonts/woff-v2",
    "a11y/assistive-mml.js",
)


def copy_mathjax(app: Sphinx) -> None:
    """Copy MathJax from the package sphinx-mathjax-offline, so that no page asks another host for it."""
    target = Path(app.outdir, "_static", "mathjax")
    with as_file(files("sphinx-mathjax-offline") / "static" / "mathjax") as source:
        for part in MATHJAX:
            destination = target / part if (source / part).is_dir() else (target / part).parent
            copy_asset(source / part, destination)


class PunctuationStaysWithItsFormula(SphinxPostTransform):
    """A browser may break the line after any formula, so a comma that follows one would start the next line."""

    default_priority = 900
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        """Put each inline formula and the closing marks after it into one box that does not break."""
        for formula in list(self.document.findall(nodes.math)):
            after = formula.next_node(nodes.Text, descend=False, siblings=True)
            marks = re.match(r"[.,;:!?)\]’”…]+", after.astext()) if after is not None else None
            if marks is None or formula.parent.index(after) != formula.parent.index(formula) + 1:
                continue
            after.parent.replace(after, nodes.Text(after.astext()[marks.end() :]))
            box = nodes.inline(classes=["unbroken"])
            formula.replace_self(box)
            box += [formula, nodes.Text(marks[0])]


def setup(app: Sphinx) -> None:
    """Register the copy and the boxes."""
    app.add_post_transform(PunctuationStaysWithItsFormula)
    app.connect("builder-inited", copy_mathjax)
