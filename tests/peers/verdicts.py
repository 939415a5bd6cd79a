"""Writes the page *Verdicts* from the public functions of other libraries: `python tests/peers/verdicts.py PAGE`."""

import re
import sys
from importlib.metadata import version
from pathlib import Path

ABOUT = """\
# Verdicts on public functions

What do functions of well-known libraries compute, in the terms of this book? Each was called from the tests of this
book, in the version that is named, on the cases of a check of {mod}`pgtheory.checking`; where a library keeps a formula
inside a training loop, the loop itself ran, on a stand-in for its trainer. *Right* means that in all of these cases it
computes what the check asks for; a remark says which of several right forms that is, or what it is not made for. This
is no comparison of libraries, and a row says nothing about what else a library does. `make verdicts` writes this page,
and `make test-peers` asks for every verdict anew.
"""


def page() -> str:
    """The page, with a table for each library."""
    from peers.peer_functions import PEERS

    parts = [ABOUT]
    for library in dict.fromkeys(peer.library for peer in PEERS):
        parts += [f"## {library} {version(library).partition('+')[0]}", ":::{div} verdicts"]
        lines = ["| function | check | called as | verdict |", "|---|---|---|---|"]
        for peer in PEERS:
            if peer.library != library:
                continue
            report = peer.report()
            print(f"{library} {peer.function}: {report.verdict}", file=sys.stderr)
            remarks = "".join(f"<br>{_cell(remark)}" for remark in report.remarks)
            cells = (f"`{peer.function}`", f"`check_{report.check}`", _cell(report.form), f"{report.verdict}{remarks}")
            lines.append(f"| {' | '.join(cells)} |")
        parts += ["\n".join(lines), ":::"]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _cell(text: str) -> str:
    """Text in a cell of a table, in which nothing is taken for markup."""
    return re.sub(r"([\\`*_$<>{}\[\]|])", r"\\\1", " ".join(text.split()))


def rows_of(text: str) -> list[tuple[str, str, str, str]]:
    """Library, function, check and verdict of each row of the page."""
    rows, library = [], ""
    for line in text.splitlines():
        if line.startswith("## "):
            library = line.split()[1]
        elif line.startswith("| `"):
            function, check, _, verdict = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            rows.append((library, function.strip("`"), check.strip("`"), verdict.partition("<br>")[0]))
    return rows


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
