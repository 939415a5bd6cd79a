"""The built book asks no other host for anything, and everything that it asks for is there."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

EXTERNAL = re.compile(r"\s*(?:(?:https?|wss?|ftp):)?//", re.IGNORECASE)

# Attributes that hold the address of something, but make no browser load it.
NOT_LOADED = {
    ("a", "href"),
    ("blockquote", "cite"),
    ("q", "cite"),
    ("cc:work", "rdf:about"),
    ("dc:type", "rdf:resource"),
}
LINKS_NOT_LOADED = {"alternate", "author", "canonical", "help", "index", "license", "next", "prev", "search"}

# Addresses in scripts that are names or links, or that nothing on the pages can reach.
SCRIPT_CONSTANTS = {
    "http://www.w3.org/": "names of XML namespaces",
    "https://www.w3.org/": "names of XML namespaces",
    "https://www.mathjax.org": "a link in MathJax's help, shown on a click",
    "https://cdn.jsdelivr.net/npm/speech-rule-engine@": "MathJax's speech engine, started only by its menu (off)",
    "https://cdn.jsdelivr.net/npm/sre-mathmaps-ie@": "the same, in Internet Explorer",
    "https://cdn.jsdelivr.net/npm/wicked-good-xpath@": "the same, in Internet Explorer",
}


def names_a_resource(tag: str, attribute: str) -> bool:
    """Whether browsers load what this attribute of this element names."""
    of_link = tag in {"link", "image", "use", "base"} and attribute.endswith("href")
    return attribute in {"src", "poster"} or of_link or (tag, attribute) == ("object", "data")


def is_a_name(tag: str, attribute: str) -> bool:
    """Whether this attribute holds an address that browsers do not load: a link or the name of a vocabulary."""
    return (tag, attribute) in NOT_LOADED or attribute.startswith("xmlns")


class References(HTMLParser):
    """Collects what a page loads, what it links to, and the names in it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.styles: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._inside = tag if tag in {"script", "style"} else self._inside
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        self.styles += [values["style"]] if "style" in values else []
        if tag == "link" and set(values.get("rel", "").lower().split()) & LINKS_NOT_LOADED:
            return
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        for name, value in values.items() if tag != "meta" else ():
            if name == "srcset":
                self.loaded += [candidate.split()[0] for candidate in value.split(",") if candidate.strip()]
            elif names_a_resource(tag, name) or (EXTERNAL.match(value) and not is_a_name(tag, name)):
                self.loaded.append(value)
            elif name.startswith("on"):
                self.scripts.append(value)
        if tag == "meta" and values.get("http-equiv", "").lower() == "refresh":
            self.loaded += re.findall(r"url=['\"]?([^'\"]*)", values.get("content", ""), flags=re.IGNORECASE)

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.styles.append(data)
        elif self._inside == "script":
            self.scripts.append(data)


def in_style(text: str) -> list[str]:
    """The addresses that a style sheet loads."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    urls = re.findall(r"url\(\s*(\"[^\"]*\"|'[^']*'|[^)]*?)\s*\)", text)
    imports = re.findall(r"@import\s+(\"[^\"]*\"|'[^']*')", text)
    return [url.strip("'\"") for url in [*urls, *imports]]


def in_script(text: str) -> list[str]:
    """The addresses on other hosts that stand in a script as strings, however they are used."""
    strings = re.findall(
        r"[\"'`]\s*((?:(?:https?|wss?):)?(?:\\?/){2}[\w.-]+\.[a-z]{2,}[^\"'`\s]*)", text, re.IGNORECASE
    )
    return [url.replace("\\/", "/") for url in strings]


def external(text: str, suffix: str) -> list[str]:
    """What a text of this kind asks other hosts for."""
    if suffix == ".css":
        return [url for url in in_style(text) if EXTERNAL.match(url)]
    if suffix == ".js":
        return [url for url in in_script(text) if not url.startswith(tuple(SCRIPT_CONSTANTS))]
    page = References(text)
    found = [url for url in page.loaded if EXTERNAL.match(url)]
    found += [url for style in page.styles for url in external(style, ".css")]
    return found + [url for script in page.scripts for url in external(script, ".js")]


def local(text: str, suffix: str) -> list[str]:
    """The files beside it that a text of this kind asks for."""
    page = References(text) if suffix != ".css" else None
    urls = in_style(text) if page is None else [*page.loaded, *(u for s in page.styles for u in in_style(s))]
    return [url for url in urls if url and not EXTERNAL.match(url) and not url.startswith(("data:", "#", "about:"))]


def target(path: Path, url: str) -> Path:
    """The file that `url` names in the file at `path`."""
    return (path.parent / unquote(urlsplit(url).path)).resolve()


def files(html: Path, *suffixes: str) -> list[Path]:
    """The files of these kinds, without the sources of the pages and the theme's templates."""
    found = [path for path in sorted(html.rglob("*")) if path.suffix in suffixes]
    found = [path for path in found if "_sources" not in path.parts and not path.name.endswith("macros.html")]
    assert found
    return found


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".html", '<script src="https://cdn.example.org/a.js"></script>'),
        (".html", "<script src=//cdn.example.org/a.js></script>"),
        (".html", '<link rel="stylesheet" href="https://fonts.example.org/css?family=A">'),
        (".html", '<link rel="preconnect" href="https://fonts.example.org">'),
        (".html", '<link rel="shortcut icon" href="HTTP://example.org/x.ico">'),
        (".html", '<link rel="preload" as="font" href="https://example.org/x.woff2">'),
        (".html", '<img src="https://example.org/x.png">'),
        (".html", '<img srcset="a.png 1x, https://example.org/x.png 2x">'),
        (".html", '<iframe src="https://example.org"></iframe>'),
        (".html", '<object data="https://example.org/x.svg"></object>'),
        (".html", '<svg><image xlink:href="https://example.org/x.png"/></svg>'),
        (".html", '<script data-jupyter-widgets-cdn="https://cdn.example.org/npm/"></script>'),
        (".html", '<p style="background: url(https://example.org/x.png)">'),
        (".html", '<style>@import "https://example.org/x.css";</style>'),
        (".html", '<script>const THEBE_JS_URL = "https://unpkg.com/thebe@0.8.2/lib/index.js"</script>'),
        (".html", '<script type="module">import "https://example.org/x.mjs"</script>'),
        (".html", '<meta http-equiv="refresh" content="0; url=https://example.org">'),
        (".html", '<form action="https://example.org/search"></form>'),
        (".css", "@font-face { src: url( 'https://example.org/x.woff' ) }"),
        (".css", "a { background: url(//example.org/x.png) }"),
        (".css", "@import url(https://example.org/x.css);"),
        (".js", "import x from 'https://example.org/x.js'"),
        (".js", 'await import("https://example.org/x.js")'),
        (".js", 'fetch("https:\\/\\/example.org\\/x.json")'),
        (".js", "new WebSocket('wss://example.org/x')"),
        (".js", "var base = '//cdn.example.org/x'"),
    ],
)
def test_the_scanner_sees_every_way_to_ask_another_host(suffix: str, text: str) -> None:
    assert len(external(text, suffix)) == 1


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".html", '<a href="https://example.org">a link that the reader may follow</a>'),
        (".html", '<link rel="canonical" href="https://example.org/page">'),
        (".html", '<svg xmlns="http://www.w3.org/2000/svg"></svg>'),
        (".html", '<img src="../_images/x.svg"><script src="a.js"></script><link rel="stylesheet" href="a.css">'),
        (".html", "<p>https://example.org in the text</p>"),
        (".css", "/* url(https://example.org/x.png) */ a { background: url(data:image/png;base64,AA//AA) }"),
        (".js", "// see https://example.org\nconst ns = 'http://www.w3.org/2000/svg'"),
    ],
)
def test_the_scanner_lets_links_and_names_pass(suffix: str, text: str) -> None:
    assert external(text, suffix) == []


@pytest.mark.parametrize("suffix", [".html", ".css", ".js", ".svg"])
def test_no_file_of_the_book_asks_another_host(html: Path, suffix: str) -> None:
    paths = [path for path in html.rglob(f"*{suffix}") if "_sources" not in path.parts]
    assert paths or suffix == ".svg"
    found = {str(p.relative_to(html)): external(p.read_text(encoding="utf-8", errors="replace"), suffix) for p in paths}
    assert {name: urls for name, urls in found.items() if urls} == {}


def test_every_file_that_the_book_asks_for_is_there(html: Path) -> None:
    missing = [
        f"{path.relative_to(html)}: {url}"
        for path in files(html, ".html", ".css")
        for url in local(path.read_text(encoding="utf-8", errors="replace"), path.suffix)
        # An example in a comment of the theme's basic style names a file that stands for the reader's own.
        if not target(path, url).exists() and (path.name, url) != ("basic.css", "file.png")
    ]
    assert missing == []


def test_every_link_within_the_book_leads_somewhere(html: Path) -> None:
    pages = {path.resolve(): References(path.read_text(encoding="utf-8")) for path in files(html, ".html")}
    dead = []
    for path, page in pages.items():
        for url in page.links:
            if EXTERNAL.match(url) or url.startswith(("mailto:", "javascript:")) or url in {"", "#"}:
                continue
            to = path if url.startswith("#") else target(path, url)
            fragment = unquote(urlsplit(url).fragment)
            if not to.exists() or (fragment and to in pages and fragment not in pages[to].ids):
                dead.append(f"{path.name}: {url}")
    assert sorted(set(dead)) == []


def test_mathjax_and_its_fonts_come_with_the_book(html: Path) -> None:
    static = html / "_static"
    fonts = {path.name for path in static.rglob("*.woff")}
    parts = ("startup.js", "core.js", "input/tex.js", "output/chtml.js", "output/chtml/fonts/tex.js")
    assert sum((static / "mathjax" / part).stat().st_size for part in parts) > 500_000
    assert {"MathJax_Main-Regular.woff", "MathJax_Math-Italic.woff", "MathJax_AMS-Regular.woff"} <= fonts
    assert "MathJax_Calligraphic-Regular.woff" in fonts
