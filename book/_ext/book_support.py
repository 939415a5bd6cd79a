"""What the book's build needs beside the extensions that others made: one small module for each matter."""

from typing import Any

from sphinx.application import Sphinx

import api_entries
import folds
import mathematics
import references
import search_words
import status
import weight


def setup(app: Sphinx) -> dict[str, Any]:
    """Register every part."""
    # Jupyter Book always sets the option of sphinx-comments, which this book leaves out.
    app.add_config_value("comments_config", {}, "html")
    for part in (api_entries, folds, mathematics, references, search_words, status, weight):
        part.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
