"""What the entries of the API leave out."""

from typing import Any

from sphinx.application import Sphinx


def skip_field_aliases(app: Sphinx, what: str, name: str, value: object, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples: the section `Attributes` of the class describes them."""
    is_alias = (getattr(value, "__doc__", None) or "").startswith("Alias for field number")
    return True if is_alias else None


def setup(app: Sphinx) -> None:
    """Register the filter."""
    app.connect("autodoc-skip-member", skip_field_aliases)
