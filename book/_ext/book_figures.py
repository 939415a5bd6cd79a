"""Figures in a light and a dark version, the palette, and errors without their tracebacks."""

import hashlib
import os
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from docutils.parsers.rst import Directive
from jupyter_cache import get_cache
from sphinx import addnodes
from sphinx.application import Sphinx

from pgtheory.plotting import FAINT, PALETTE, PAPER


def dark_versions(outputs: list[dict[str, Any]]) -> dict[str, str]:
    """The dark version of each drawing among the outputs of cells, by the name that MyST-NB gives to the light one."""
    found = {}
    for output in outputs:
        dark = output.get("metadata", {}).get("image/svg+xml", {}).get("dark")
        light = "".join(output.get("data", {}).get("image/svg+xml", ""))
        if dark and light:
            found[hashlib.sha256(os.linesep.join(light.splitlines()).encode()).hexdigest() + ".svg"] = dark
    return found


def outputs_of(folder: Path, docname: str) -> list[dict[str, Any]]:
    """The outputs of the executed notebook of a page, if it is one."""
    path = folder / f"{docname}.ipynb"
    if not path.exists():
        return []
    notebook = nbformat.read(path, 4)
    with suppress(KeyError):  # executed just now: MyST-NB leaves out the outputs that it has from the cache
        _, notebook = get_cache(folder.parent / ".jupyter_cache").merge_match_into_notebook(notebook)
        nbformat.write(notebook, path)
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def add_dark_versions(app: Sphinx, doctree: nodes.document) -> None:
    """Put beside each drawing of a page its dark version; figures.css shows the one that fits the page."""
    folder = Path(app.outdir).parent / "jupyter_execute"
    dark = dark_versions(outputs_of(folder, app.env.docname))
    for image in list(doctree.findall(nodes.image)):
        name = Path(image["uri"]).name
        if name not in dark:
            continue
        (folder / f"dark-{name}").write_text(dark[name], encoding="utf-8")
        other = image.deepcopy()
        other["uri"] = str(Path(image["uri"]).with_name(f"dark-{name}"))
        image["classes"] += ["figure-light", "dark-light"]  # the theme leaves `dark-light` as it is
        other["classes"] += ["figure-dark", "dark-light"]
        other["ids"], other["names"] = [], []
        other["loading"] = "lazy"  # a page in the light never asks for it
        image.parent.insert(image.parent.index(image) + 1, addnodes.only("", other, expr="html"))


def shorten_tracebacks(app: Sphinx, doctree: nodes.document) -> None:
    """Leave of an error that a cell is meant to raise what the reader needs: its type and its message."""
    for block in doctree.findall(nodes.literal_block):
        text = block.astext()
        if "Traceback (most recent call last)" in text:
            lines = text.rstrip().splitlines()
            last = max(k for k, line in enumerate(lines) if line and not line[0].isspace())
            message = "\n".join(lines[last:])
            block[:] = [nodes.Text(message)]
            block.rawsource = message
            block["language"] = "none"


class Palette(Directive):
    """The legend of the book's colours, from the package's own table."""

    def run(self) -> list[nodes.Node]:
        """The legend as a list."""
        items = "".join(
            f'<li><span class="swatch" style="background: var(--pg-{name})"></span>{escape(colour.meaning)}</li>'
            for name, colour in PALETTE.items()
        )
        return [nodes.raw("", f'<ul class="palette">{items}</ul>', format="html")]


def write_palette(app: Sphinx) -> None:
    """Write the palette as properties of CSS, for whatever else is drawn on the pages."""
    colours = {**PALETTE, "paper": PAPER, "faint": FAINT}
    light = " ".join(f"--pg-{name}: {colour.light};" for name, colour in colours.items())
    dark = " ".join(f"--pg-{name}: {colour.dark};" for name, colour in colours.items())
    target = Path(app.outdir, "_static", "palette.css")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f':root {{ {light} }}\nhtml[data-theme="dark"] {{ {dark} }}\n', encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_css_file("palette.css")
    app.add_css_file("figures.css")
    app.add_directive("palette", Palette)
    app.connect("builder-inited", write_palette)
    app.connect("doctree-read", add_dark_versions, priority=400)  # before Sphinx collects the images
    app.connect("doctree-read", shorten_tracebacks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
