"""What follows from the repository's address: the buttons that run a chapter elsewhere, and how to get the package.

The address is `repository_url` in `_config.yml`, and may be empty: then there are no buttons, and the
texts speak of a copy.
"""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxDirective

EXTRA = "chapters"  # what the chapters import
PUBLISHED = "gh-pages"  # the branch with the built site, whose notebooks install the package


def address(config: Config) -> str:
    """The repository's address without a slash at its end, or nothing."""
    return str(config.html_theme_options.get("repository_url") or "").rstrip("/").removesuffix(".git")


def install_command(url: str) -> str:
    """The arguments of `pip install` that bring the package and what the chapters need."""
    return f'"pgtheory[{EXTRA}] @ git+{url}"' if url else f'".[{EXTRA}]"'


def first_cell(url: str) -> dict[str, Any]:
    """The cell with which a downloaded notebook opens: it does nothing where the package is installed."""
    if url:
        then = f"    %pip install --quiet {install_command(url)}"
        note = (
            f"# This notebook is a chapter of {url}\n"
            "# It needs the package pgtheory, and installs it where it is missing, as on Colab.\n"
        )
    else:
        message = (
            f"this notebook needs pgtheory: in a copy of the book's repository, pip install {install_command(url)}"
        )
        then = f"    raise ImportError({message!r})"
        note = "# This notebook is a chapter of a book, and needs the book's package, pgtheory.\n"
    source = f'{note}from importlib.util import find_spec\n\nif find_spec("pgtheory") is None:\n{then}'
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": "get-pgtheory",
        "metadata": {},
        "outputs": [],
        "source": source.splitlines(keepends=True),
    }


def complete_notebooks(app: Sphinx, exception: Exception | None) -> None:
    """Put the first cell into the notebooks that the pages offer for download."""
    if exception is None and app.builder.format == "html":
        cell = first_cell(address(app.config))
        for path in Path(app.outdir, "_sources").rglob("*.ipynb"):
            notebook = json.loads(path.read_text(encoding="utf-8"))
            cells = notebook["cells"]
            if cells[0].get("id") != cell["id"]:
                notebook["cells"] = [cell, *cells]
                path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def launch_buttons(url: str, branch: str, page: str) -> list[dict[str, str]]:
    """Links that open the notebook of a page on Binder, and on Colab where the repository is on GitHub."""
    place = f"gh/{url.partition('github.com/')[2]}" if "//github.com/" in url else f"git/{quote(url, safe='')}"
    found = [("Binder", f"https://mybinder.org/v2/{place}/{branch}?urlpath=lab/tree/{page}.ipynb", "binder.svg")]
    if place.startswith("gh/"):
        notebook = f"https://colab.research.google.com/github/{place[3:]}/blob/{PUBLISHED}/_sources/{page}.ipynb"
        found.append(("Colab", notebook, "colab.png"))
    return [
        {
            "type": "link",
            "text": name,
            "tooltip": f"Run this chapter on {name}",
            "icon": f"_static/images/logo_{icon}",
            "url": link,
        }
        for name, link, icon in found
    ]


def add_buttons(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Give each chapter its launch buttons."""
    url = address(app.config)
    if url and context.get("page_source_suffix") == ".ipynb":
        branch = app.config.html_theme_options.get("repository_branch") or "main"
        context["header_buttons"].append(
            {
                "type": "group",
                "tooltip": "Run this chapter",
                "icon": "fas fa-rocket",
                "buttons": launch_buttons(url, branch, page),
                "label": "launch-buttons",
            }
        )


class RunIt(SphinxDirective):
    """How to run the chapters and to install the package: from the repository, or from a copy of it."""

    def run(self) -> list[nodes.Node]:
        """Write it in MyST, so that names in it are links."""
        url = address(self.config)
        get = f"git clone {url} && cd {url.rpartition('/')[2]}\n" if url else ""
        where = "" if url else " in a copy of the repository"
        elsewhere = (
            " With nothing installed, the rocket at the top of a chapter opens it on Colab or Binder." if url else ""
        )
        text = f"""
The sources are notebooks, so a chapter can be run, changed and run again.{elsewhere} With `make` and Python 3.11 or
newer{where}:

```sh
{get}make lab    # the chapters in JupyterLab
make book   # these pages, from scratch
make test   # the proof that they are right
make pdf    # these pages as one file
```

The package stands on its own, and needs only numpy, torch and jaxtyping; with what the chapters import beside it:

```sh
pip install {install_command(url)}
```
"""
        return self.parse_text_to_nodes(text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_directive("run-it", RunIt)
    app.connect("html-page-context", add_buttons, priority=900)  # after the theme has begun its list
    app.connect("build-finished", complete_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
