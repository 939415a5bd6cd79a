"""The entries of the API: what they leave out, how a long signature is set, and the tables of bad input."""

import re
from importlib import import_module
from importlib.util import find_spec
from inspect import unwrap
from itertools import groupby
from operator import attrgetter
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform


def skip_field_aliases(app: Sphinx, what: str, name: str, value: object, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples: the section `Attributes` of the class describes them."""
    is_alias = (getattr(value, "__doc__", None) or "").startswith("Alias for field number")
    return True if is_alias else None


def name_public_paths(
    app: Sphinx, what: str, name: str, value: object, options: Any, signature: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """Say where a name is imported from, not in which private module it stands; a made default is an ellipsis."""

    def path(found: re.Match[str]) -> str:
        twin = find_spec(f"pgtheory.{found[2]}") is not None  # `_x` holds a part of `x`
        return f"{found[1]}.{found[2]}." if twin and found[1] == "pgtheory" else f"{found[1]}."

    def public(text: str | None) -> str | None:
        return text and re.sub(r"(\w+)\._(\w+)\.", path, text).replace("<factory>", "...")

    return public(signature), public(result)


def module_of_source(app: Sphinx, module: str, attribute: str) -> str | None:
    """Where the source of a name stands: of a check, which takes one option more, where it was written."""
    try:
        value = attrgetter(attribute)(import_module(module))
    except (AttributeError, ImportError):
        return None
    return getattr(unwrap(value), "__module__", None) if callable(value) else None


def set_parameters_in_boxes(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Sphinx sets the parameters of a long signature as a list of definitions of nothing; boxes say no such thing."""

    def boxes(signature: re.Match[str]) -> str:
        text = re.sub(r"<dl>", '<div class="parameters">', signature[0])
        return re.sub(r"<(/?)dd>", r"<\1div>", text.replace("</dl>", "</div>"))

    if "body" in context:
        context["body"] = re.sub(r'<dt class="sig .*?</dt>', boxes, context["body"], flags=re.DOTALL)


class BadInputByTest(SphinxPostTransform):
    """In the tables of bad input the name of the test stands once, over its rows, as the sentence that it is."""

    default_priority = 900

    def run(self, **kwargs: Any) -> None:
        """Take the last column out of each table in a box of the class `bad-input`."""
        for box in self.document.findall(
            lambda node: "bad-input" in getattr(node, "attributes", {}).get("classes", [])
        ):
            for table in list(box.findall(nodes.tgroup)):
                table.remove(list(table.findall(nodes.colspec))[-1])
                (header,) = table.findall(nodes.thead)
                header[0].pop()
                (body,) = table.findall(nodes.tbody)
                rows = [(row.pop().astext(), row) for row in list(body.children)]
                body.clear()
                for test, group in groupby(rows, key=lambda pair: pair[0]):
                    sentence = nodes.paragraph("", test.removeprefix("test_").replace("_", " "))
                    body += nodes.row("", nodes.entry("", sentence, morecols=2), classes=["test"])
                    body += [row for _, row in group]


def setup(app: Sphinx) -> None:
    """Register the filter, the boxes and the tables."""
    app.add_post_transform(BadInputByTest)
    app.connect("html-page-context", set_parameters_in_boxes)
    app.connect("autodoc-skip-member", skip_field_aliases)
    app.connect("autodoc-process-signature", name_public_paths)
    app.connect("viewcode-follow-imported", module_of_source)
