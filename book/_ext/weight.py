"""Pages without what they do not need: icons that nobody shows, source maps, search scripts."""

import re
from pathlib import Path

from fontTools.subset import Subsetter
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx

SCRIPT = '[^\n]*<script[^>]*src="[^"]*{}[^"]*"></script>\n?'
# The theme draws its icons with a font; its script of 1.45 MB would draw the same ones again.
ICON_SCRIPT = re.compile(SCRIPT.format(r"scripts/fontawesome\.js"))
# Only the page of results searches: the form on every other page leads there.
SEARCH_SCRIPTS = re.compile(SCRIPT.format(r"(?:searchtools|language_data|searchindex)\.js"))
ICON_RULE = re.compile(r'((?:\.fa-[a-z0-9-]+:before,?)+)\{content:"[^"]*"\}')
PACKED_FONT = re.compile(r'url\([^()]*\.woff2\) format\("woff2"\),(?=url\([^()]*/fa-)')
PATH = re.compile(r'(?<= d=")[^"]*')
DECIMALS = re.compile(r"(\.\d\d)\d+")
RULE = re.compile(r"([^{}@;]+)\{[^{}]*\}")
CODE_POINT = re.compile(r"\\([ef][0-9a-f]{3})|([\ue000-\uf8ff])")


def lighten_pages(html: Path) -> set[str]:
    """Take those scripts out of the pages; return the names of the icons that they show."""
    icons: set[str] = set()
    for page in html.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        icons |= set(re.findall(r"\bfa-[a-z0-9-]+", text))
        light = ICON_SCRIPT.sub("", text)
        light = light if page == html / "search.html" else SEARCH_SCRIPTS.sub("", light)
        if light != text:
            page.write_text(light, encoding="utf-8")
    return icons


def lighten_style(path: Path, icons: set[str]) -> set[int]:
    """Take the rules of the other icons out of a style sheet; return the characters of those that are left."""
    style = path.read_text(encoding="utf-8")
    style = ICON_RULE.sub(lambda rule: rule[0] if icons & set(re.findall(r"fa-[a-z0-9-]+", rule[1])) else "", style)
    path.write_text(PACKED_FONT.sub("", style), encoding="utf-8")
    return {int(code, 16) if code else ord(character) for code, character in CODE_POINT.findall(style)}


def lighten_design(path: Path, html: Path) -> None:
    """Take the rules of the cards, grids and tabs that no page has out of sphinx-design's style sheet."""
    used = {
        name for page in html.rglob("*.html") for name in re.findall(r"\bsd-[\w-]+", page.read_text(encoding="utf-8"))
    }

    def wanted(rule: re.Match[str]) -> str:
        selectors = (set(re.findall(r"\.(sd-[\w-]+)", selector)) for selector in rule[1].split(","))
        return rule[0] if any(names <= used for names in selectors) else ""

    path.write_text(RULE.sub(wanted, path.read_text(encoding="utf-8")), encoding="utf-8")


def lighten_drawing(path: Path) -> None:
    """Draw to a hundredth of a point, which is less than a pixel of any screen."""
    drawing = path.read_text(encoding="utf-8")
    light = PATH.sub(lambda line: re.sub(r"\s+", " ", DECIMALS.sub(r"\1", line[0])), drawing)
    path.write_text(light, encoding="utf-8")


def lighten(app: Sphinx, exception: Exception | None) -> None:
    """Make the built pages lighter."""
    if exception or app.builder.name != "html":
        return
    html = Path(app.outdir)
    static = html / "_static"
    characters = lighten_style(static / "styles" / "pydata-sphinx-theme.css", lighten_pages(html))
    for path in (static / "vendor" / "fontawesome" / "webfonts").glob("fa-*.ttf"):
        font, subset = TTFont(path), Subsetter()
        subset.populate(unicodes=characters)
        subset.subset(font)
        font.save(path)
        path.with_suffix(".woff2").unlink(missing_ok=True)
    lighten_design(static / "sphinx-design.min.css", html)
    for path in (html / "_images").glob("*.svg"):
        lighten_drawing(path)
    for path in [static / "scripts" / "fontawesome.js", *static.rglob("*.map")]:
        path.unlink(missing_ok=True)


def setup(app: Sphinx) -> None:
    """Register the step that follows the build."""
    app.connect("build-finished", lighten)
