"""Small repairs that the book's build needs; nothing of the book's content is made here."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.fileutil import copy_asset

# What a page can ask for: MathJax with its TeX input and HTML output, the extensions of TeX, and the fonts.
MATHJAX = ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts/woff-v2")


def copy_mathjax(app: Sphinx) -> None:
    """Copy MathJax from the package sphinx-mathjax-offline, so that no page asks another host for it."""
    target = Path(app.outdir, "_static", "mathjax")
    with as_file(files("sphinx-mathjax-offline") / "static" / "mathjax") as source:
        for part in MATHJAX:
            destination = target / part if (source / part).is_dir() else (target / part).parent
            copy_asset(source / part, destination)


def skip_field_aliases(app: Sphinx, what: str, name: str, value: object, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples: the section `Attributes` of the class describes them."""
    is_alias = (getattr(value, "__doc__", None) or "").startswith("Alias for field number")
    return True if is_alias else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    # Jupyter Book always sets the option of sphinx-comments, which this book leaves out.
    app.add_config_value("comments_config", {}, "html")
    app.connect("builder-inited", copy_mathjax)
    app.connect("autodoc-skip-member", skip_field_aliases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
