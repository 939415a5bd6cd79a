"""What the tests of the built book share."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built book."""
    folder = ROOT / "_build" / "html"
    assert (folder / "book" / "index.html").exists(), "there is no built book: run `make book`"
    return folder
