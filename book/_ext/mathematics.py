"""MathJax beside the pages, and only the parts of it that they use."""

from importlib.resources import as_file, files
from pathlib import Path

from sphinx.application import Sphinx
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


def setup(app: Sphinx) -> None:
    """Register the copy."""
    app.connect("builder-inited", copy_mathjax)
