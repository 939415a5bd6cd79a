"""The bibliography in the style of the citations: authors, then the year; each entry leads to what it names."""

from typing import Any

from docutils import nodes
from pybtex.plugin import register_plugin
from pybtex.richtext import HRef, Text
from pybtex.style.formatting import toplevel
from pybtex.style.formatting.unsrt import Style, pages
from pybtex.style.template import field, join, node, optional, optional_field, sentence, tag, words
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

LINKS = (
    ("doi", "https://doi.org/{}", "doi:{}"),
    ("eprint", "https://arxiv.org/abs/{}", "arXiv:{}"),
    ("url", "{}", "{}"),
)


@node
def links(children: Any, context: dict[str, Any]) -> Text:
    """The addresses of an entry: its DOI, its preprint, and another one only where there is neither."""
    fields = context["entry"].fields
    found = [
        HRef(address.format(fields[name]), shown.format(fields[name].removeprefix("https://").removeprefix("http://")))
        for name, address, shown in LINKS
        if name in fields
    ]
    return Text(", ").join(found)


class AuthorYear(Style):
    """Authors (year). Title. Where it appeared. Links."""

    default_sorting_style = "author_year_title"

    def _entry(self, title: Any, *where: Any) -> Any:
        authors = words[self.format_names("author", as_sentence=False), join["(", field("year"), ")"]]
        return toplevel[sentence[authors], title, *where, optional[sentence[optional_field("note")]], links]

    def get_article_template(self, e: Any) -> Any:
        """An article in a journal: volume(number), pages."""
        volume = optional[join[field("volume"), optional["(", field("number"), ")"]]]
        journal = sentence[words[tag("em")[field("journal")], volume], optional[pages]]
        return self._entry(self.format_title(e, "title"), journal)

    def get_book_template(self, e: Any) -> Any:
        """A book: edition, publisher."""
        return self._entry(
            self.format_btitle(e, "title"), sentence(capfirst=True)[self.format_edition(e), field("publisher")]
        )

    def get_inproceedings_template(self, e: Any) -> Any:
        """A paper in the proceedings of a conference: series, volume, pages."""
        series = optional[words[field("series"), optional_field("volume")]]
        place = [tag("em")[field("booktitle")], series, optional[words["pages", pages]], optional_field("publisher")]
        return self._entry(self.format_title(e, "title"), words["In", sentence[place]])

    def get_techreport_template(self, e: Any) -> Any:
        """A report: number, institution."""
        report = sentence[words["Technical report", optional_field("number")], field("institution")]
        return self._entry(self.format_title(e, "title"), report)

    def get_misc_template(self, e: Any) -> Any:
        """A preprint, or a page on the web."""
        return self._entry(self.format_title(e, "title"))


class CitationsAreAList(SphinxPostTransform):
    """A list of works rather than of labelled footnotes: authors and year are the label."""

    default_priority = 6  # after sphinxcontrib-bibtex has made the entries

    def run(self, **kwargs: Any) -> None:
        """Turn each box of citations into a list, which keeps their targets."""
        for box in {citation.parent: None for citation in self.document.findall(nodes.citation)}:
            works = nodes.bullet_list(classes=["bibliography"])
            for citation in box.findall(nodes.citation):
                works += nodes.list_item("", *citation.children[1:], ids=citation["ids"])
            box.replace_self(works)


def setup(app: Sphinx) -> None:
    """Register the list and the style; pybtex keeps the style for the process."""
    app.add_post_transform(CitationsAreAList)
    register_plugin("pybtex.style.formatting", "author_year_links", AuthorYear)
