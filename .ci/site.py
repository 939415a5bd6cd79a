"""Copy the built book to a folder that a web server can show as it is, such as GitHub Pages.

site.py HTML SITE. What only the next build would need stays behind.
"""

import shutil
import sys
from pathlib import Path

LEFT_BEHIND = shutil.ignore_patterns(
    ".buildinfo*", ".doctrees", ".ipynb_checkpoints", "__pycache__", "*.pyc", "*.map", "reports", "*.err.log"
)


def main(html: Path, site: Path) -> int:
    """Make the folder anew."""
    if not (html / "index.html").exists():
        print("make site: there is no built book: run `make book` first", file=sys.stderr)
        return 1
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(html, site, ignore=LEFT_BEHIND)
    (site / ".nojekyll").touch()  # folders whose names begin with _ are part of the site
    print(site / "index.html")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()))
