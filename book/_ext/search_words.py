"""Words that the search finds although the page shows a symbol: {find}`gamma; discount rate` beside the symbol."""

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole


class Find(SphinxRole):
    """Entries of the index, separated by semicolons, with nothing to see but a place to lead to."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Make the entries and their target."""
        target = nodes.target("", "", ids=[f"find-{self.env.new_serialno('find')}"])
        entries = [("single", word.strip(), target["ids"][0], "main", None) for word in self.text.split(";")]
        return [addnodes.index(entries=entries), target], []


def setup(app: Sphinx) -> None:
    """Register the role."""
    app.add_role("find", Find())
