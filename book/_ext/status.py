"""What the page on the status of the build shows: the run time of each chapter, and the versions that it ran with."""

import platform
from importlib.metadata import version
from typing import Any

from docutils import nodes
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

PACKAGES = ["pgtheory", "torch", "numpy", "matplotlib", "jaxtyping", "gymnasium", "pandas", "jupyter-book", "sphinx"]


class run_times(nodes.General, nodes.Element):  # noqa: N801
    """The place of the table of run times, which are known once every chapter has run."""


def row(*cells: nodes.Node | str) -> nodes.row:
    """One row of a table."""
    paragraphs = [nodes.paragraph("", "", nodes.Text(c) if isinstance(c, str) else c) for c in cells]
    return nodes.row("", *(nodes.entry("", paragraph) for paragraph in paragraphs))


def table(header: nodes.row, body: list[nodes.row]) -> nodes.table:
    """A table with one header row."""
    columns = [nodes.colspec(colwidth=1) for _ in header.children]
    return nodes.table(
        "", nodes.tgroup("", *columns, nodes.thead("", header), nodes.tbody("", *body), cols=len(columns))
    )


def in_order(env: BuildEnvironment, page: str) -> list[str]:
    """The pages from `page` on, in the order of the book."""
    return [page] + [name for below in env.toctree_includes.get(page, []) for name in in_order(env, below)]


class RunTimes(SphinxDirective):
    """The directive `run-times`."""

    def run(self) -> list[nodes.Node]:
        """Leave a place for the table."""
        return [run_times()]


class FillRunTimes(SphinxPostTransform):
    """Puts the table where the directive stands."""

    default_priority = 5

    def chapter(self, page: str, seconds: float) -> nodes.row:
        """The row of a chapter: its number, its title, which leads to it, and its run time."""
        numbers = self.env.toc_secnumbers.get(page, {}).get("", ())
        uri = self.app.builder.get_relative_uri(self.env.docname, page)
        link = nodes.reference("", self.env.titles[page].astext(), refuri=uri, internal=True)
        return row(".".join(map(str, numbers)), link, f"{seconds:.1f} s")

    def run(self, **kwargs: Any) -> None:
        """Make the table."""
        for place in list(self.document.findall(run_times)):
            data = NbMetadataCollector.get_doc_data(self.env)
            ran = {
                page: data[page].get("exec_data")
                for page in in_order(self.env, self.env.config.root_doc)
                if page in data
            }
            rows = [
                self.chapter(page, result["runtime"]) for page, result in ran.items() if result and result["runtime"]
            ]
            place.replace_self(table(row("", "chapter", "run time"), rows))


class Versions(SphinxDirective):
    """The directive `versions`: what is installed where the book is built."""

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        rows = [row("Python", platform.python_version()), *(row(name, version(name)) for name in PACKAGES)]
        return [table(row("package", "version"), rows)]


def setup(app: Sphinx) -> None:
    """Register both directives."""
    app.add_node(run_times)
    app.add_directive("run-times", RunTimes)
    app.add_directive("versions", Versions)
    app.add_post_transform(FillRunTimes)
