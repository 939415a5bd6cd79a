"""One visit by a real browser to each page of the built book: what the tests of the pages look at."""

import asyncio
import json
import os
import shutil
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
import yaml
from playwright.async_api import BrowserContext, Page, async_playwright

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"
WIDE, NARROW, HEIGHT = 1280, 390, 900
TABS = 2
PATIENCE = 120  # seconds for one page
NO_CHROMIUM = """no Chromium was found, and the pages are tested in one: install it (on Debian and Ubuntu:
    apt install chromium), or name one: CHROMIUM=/path/to/chrome make test-pages"""
NO_BOOK = "there is no built book: run `make book` first"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"]
# Every rule in the light; in the dark those on colours, for the theme changes nothing else.
AXE = {
    "light": {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]},
    "dark": {"runOnly": ["color-contrast", "link-in-text-block"]},
}


def entries(node: dict[str, Any]) -> list[str]:
    """The pages of the table of contents, in the order of the book."""
    below = [*node.get("parts", []), *node.get("chapters", []), *node.get("sections", [])]
    own = [name for key in ("root", "file") if (name := node.get(key))]
    return own + [name for child in below for name in entries(child)]


PAGES = entries(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))


@dataclass
class Visit:
    """What the browser met on one page."""

    page: str
    errors: list[str] = field(default_factory=list)
    requests: set[str] = field(default_factory=set)
    loaded: set[str] = field(default_factory=set)
    seen: dict[str, Any] = field(default_factory=dict)
    axe: dict[str, list[str]] = field(default_factory=dict)

    @property
    def weight(self) -> dict[str, int]:
        """The bytes of each file that the page loads in the light, uncompressed."""
        paths = {Path(unquote(urlsplit(url).path)) for url in self.loaded if url.startswith("file:")}
        return {path.name: path.stat().st_size for path in sorted(paths) if path.is_file()}


def chromium() -> str:
    """The browser's program."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = os.environ.get("CHROMIUM") or next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.exit(NO_CHROMIUM, returncode=1)
    return found


async def audit(page: Page, theme: str) -> list[str]:
    """The serious and critical faults that axe-core finds in one theme, one line for each kind and place."""
    await page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    await page.wait_for_timeout(500)  # the theme's colours may fade over
    options = json.dumps({"resultTypes": ["violations"], "preload": False, **AXE[theme]})
    result = await page.evaluate(f"axe.run({{exclude: ['mjx-container']}}, {options})")
    return [
        f"{fault['id']} ({fault['impact']}): {node['target']} {node['html'][:120]}"
        for fault in result["violations"]
        if fault["impact"] in {"serious", "critical"}
        for node in fault["nodes"]
    ]


async def visit(context: BrowserContext, name: str, look: str, axe: str) -> Visit:
    """Open a page, wide, then narrow, in the light and in the dark, and note what is there."""
    page, found = await context.new_page(), Visit(name)
    await page.set_viewport_size({"width": WIDE, "height": HEIGHT})
    page.on("console", lambda message: found.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.on("request", lambda request: found.requests.add(request.url))
    await page.goto((HTML / f"{name}.html").as_uri(), wait_until="load")
    await page.evaluate(look)
    await page.evaluate(axe)
    for width in (WIDE, NARROW):
        await page.set_viewport_size({"width": width, "height": HEIGHT})
        found.seen[str(width)] = await page.evaluate("look.layout()")
    await page.set_viewport_size({"width": WIDE, "height": HEIGHT})
    for aspect in ("mathematics", "moves", "folds"):
        found.seen[aspect] = await page.evaluate(f"look.{aspect}()")
    found.loaded = set(found.requests)
    await page.evaluate("look.thin()")
    found.axe = {theme: await audit(page, theme) for theme in AXE}
    await page.close()
    return found


async def tour() -> dict[str, Visit]:
    """Visit every page, a few at a time, with no network."""
    look = Path(__file__).with_name("look.js").read_text(encoding="utf-8")
    axe = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
    tabs = asyncio.Semaphore(TABS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)

        async def one(name: str) -> Visit:
            # A window of its own for each page: a browser draws no frames in a tab that is behind another.
            async with tabs, await browser.new_context(offline=True, reduced_motion="reduce") as context:
                return await asyncio.wait_for(visit(context, name, look, axe), PATIENCE)

        visits = await asyncio.gather(*map(one, PAGES))
        await browser.close()
    return {found.page: found for found in visits}


@pytest.fixture(scope="session")
def visits() -> dict[str, Visit]:
    """What the browser met on each page; the tour is made once."""
    if not (HTML / "book" / "index.html").exists():
        pytest.exit(NO_BOOK, returncode=1)
    return asyncio.run(tour())


SEARCHES = ("REINFORCE", "gamma", "discount", "nabla J", "policy gradient", "xyzzy")


async def search() -> dict[str, list[str]]:
    """The pages that the search lists for some words, best first."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        context = await browser.new_context(offline=True)
        page, found = await context.new_page(), {}
        for words in SEARCHES:
            await page.goto(f"{(HTML / 'search.html').as_uri()}?q={quote(words)}", wait_until="load")
            await page.wait_for_function(
                "/finished|did not match/.test(document.querySelector('#search-results').innerText)"
            )
            links = await page.eval_on_selector_all("#search-results li > a", "links => links.map(a => a.href)")
            found[words] = [urlsplit(link).path.removeprefix(f"{HTML.as_posix()}/") for link in links]
        await browser.close()
    return found


@pytest.fixture(scope="session")
def results() -> dict[str, list[str]]:
    """What the search finds."""
    return asyncio.run(search())
