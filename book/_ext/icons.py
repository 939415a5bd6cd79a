"""The theme's few icons as masks in a style sheet, in place of the whole of Font Awesome in a script of 1.45 MB."""

import re
from pathlib import Path
from urllib.parse import quote

import pydata_sphinx_theme
from sphinx.application import Sphinx

SCRIPT = Path("_static", "scripts", "fontawesome.js")
ASKED_FOR = re.compile(r"[^\n]*<script[^>]*scripts/fontawesome\.js[^>]*></script>\n?")
NAMES = """
    angle-left angle-right arrow-up bars chevron-down chevron-right circle-half-stroke code download expand file
    file-lines file-pdf home lightbulb list magnifying-glass moon outdent pencil pencil-alt play rocket sun
""".split()
ALIASES = {"home": "house", "pencil-alt": "pencil"}
ICON = re.compile(r'"?([a-z-]+)"?:\[(\d+),(\d+),\[[^\]]*\],"[0-9a-f]+","(M[^"]+)"\]')


def style_sheet(script: str) -> str:
    """A rule for each of `NAMES`, drawn as it is drawn in Font Awesome's script."""
    drawings: dict[str, tuple[str, ...]] = {}
    for name, *drawing in ICON.findall(script):
        drawings[name] = tuple(drawing)  # the last one: the solid icons come after the regular ones
    rules = [
        '[class*="fa-"].fa-solid::before, .fa-brands::before, .fas::before {\n'
        '  background: currentcolor;\n  content: "";\n  display: inline-block;\n  height: 1em;\n'
        "  mask: var(--icon) center / contain no-repeat;\n  vertical-align: -0.125em;\n  width: 1.25em;\n}"
    ]
    for name in NAMES:
        width, height, path = drawings[ALIASES.get(name, name)]
        svg = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}'><path d='{path}'/></svg>"
        rules.append(f'.fa-{name}::before {{\n  --icon: url("data:image/svg+xml,{quote(svg, safe=" =:/")}");\n}}')
    return "\n".join(rules) + "\n"


def theme_static() -> Path:
    """The folder of the theme's files."""
    return Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"


def write_style_sheet(app: Sphinx) -> None:
    """Write `icons.css` beside the other style sheets."""
    script = (theme_static() / "scripts" / SCRIPT.name).read_text(encoding="utf-8")
    target = Path(app.outdir, "_static", "icons.css")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(style_sheet(script), encoding="utf-8")


def drop_the_script(app: Sphinx, exception: Exception | None) -> None:
    """Take the script out of the pages, and out of the folder, with the source maps."""
    if exception or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if ASKED_FOR.search(text):
            page.write_text(ASKED_FOR.sub("", text), encoding="utf-8")
    for path in [Path(app.outdir) / SCRIPT, *Path(app.outdir, "_static").rglob("*.map")]:
        path.unlink(missing_ok=True)


def setup(app: Sphinx) -> None:
    """Register the icons."""
    app.connect("builder-inited", write_style_sheet)
    app.connect("build-finished", drop_the_script)
    app.add_css_file("icons.css")
