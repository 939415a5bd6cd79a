"""The figures that move, in Chromium: by the keyboard, on a telephone, and with scripts off."""

import asyncio
import json
import re
from typing import Any

import numpy as np
import pytest
from playwright.async_api import Browser, ElementHandle, Page, async_playwright

from pgtheory.plotting._moving import _path

from .conftest import ARGUMENTS, HEIGHT, HTML, NARROW, NO_BOOK, PAGES, WIDE, chromium

pytestmark = pytest.mark.timeout(900)
SMALLEST = 24  # pixels of a target: WCAG 2.2, 2.5.8
PICTURE = "f => f.querySelector('svg').outerHTML + [...f.querySelectorAll('.says output')].map(o => o.outerHTML)"


def moving() -> dict[str, str]:
    """The pages with a figure that moves."""
    if not (HTML / "book" / "index.html").exists():
        pytest.exit(NO_BOOK, returncode=1)
    pages = {page: (HTML / f"{page}.html").read_text(encoding="utf-8") for page in PAGES}
    return {page: text for page, text in pages.items() if 'class="moving" data-moves' in text}


def numbers(path: str) -> list[float]:
    return [float(x) for x in re.findall(r"-?[\d.]+", path)]


def row(values: list[Any], state: list[int]) -> Any:
    """What the data of the page have for this state."""
    strides, rows = values
    return rows[sum(s * k for s, k in zip(strides, state, strict=True))]


async def disagreements(figure: ElementHandle, data: dict[str, Any], state: list[int]) -> list[str]:
    """Where the picture and the texts below it are not those of the state."""
    texts = await figure.eval_on_selector_all(".says output", "all => all.map(o => o.textContent)")
    wanted = [row(said, state) for said in data["says"]]
    faults = [] if texts == wanted else [f"{state}: says {texts}, not {wanted}"]
    for i, mark in enumerate(data["marks"]):
        part = f'[data-mark="{i}"]'
        if mark["kind"] == "cells":
            shares = "all => all.map(cell => +cell.getAttribute('fill-opacity'))"
            found = await figure.eval_on_selector_all(f"{part} rect", shares)
            right = np.allclose(found, row(mark["values"], state))
        elif mark["kind"] == "words":
            found = await figure.eval_on_selector_all(f"{part} text", "all => all.map(t => t.textContent)")
            right = found == row(mark["values"], state)
        else:
            a, b, c, d, base = mark["scale"]
            x, y = (np.array(row(mark[key], state), dtype=float) for key in "xy")
            found = numbers(await figure.eval_on_selector(part, "p => p.getAttribute('d')"))
            path = numbers(_path(mark["kind"], a + b * x, c + d * y, base))
            right = len(found) == len(path) and np.allclose(found, path, atol=0.11)
        faults += [] if right else [f"{state}: {mark['name']} is not drawn from its numbers"]
    return faults


async def moved(page: Page, figure: ElementHandle) -> list[str]:
    """Move each control by the keyboard to its ends, and look what is drawn and said."""
    data = json.loads(await figure.get_attribute("data-moves") or "")
    state = [control["start"] for control in data["controls"]]
    faults = await disagreements(figure, data, state)
    controls = await figure.query_selector_all("input, select")
    for i, (control, about) in enumerate(zip(controls, data["controls"], strict=True)):
        before, moves = await figure.evaluate(PICTURE), False
        for key in ("End", "Home"):
            state[i] = 0 if key == "Home" else len(about["values"]) - 1
            await control.focus()
            await page.keyboard.press(key)
            faults += await disagreements(figure, data, state)
            moves |= await figure.evaluate(PICTURE) != before
        faults += [] if moves else [f"{about['name']} changes nothing"]
        state[i] = about["start"]
        await control.evaluate(
            "(c, k) => { c[c.type === 'range' ? 'value' : 'selectedIndex'] = k; c.oninput() }", state[i]
        )
    for button in await figure.query_selector_all("button"):
        before = await figure.evaluate(PICTURE)
        await button.focus()
        await page.keyboard.press("Enter")
        first = await figure.evaluate(PICTURE)
        await page.wait_for_timeout(700)
        if before == first or first == await figure.evaluate(PICTURE):
            faults.append("it does not play")
        await page.keyboard.press("Enter")
        if await button.inner_text() != "Play":
            faults.append("it does not stop")
    return faults


async def usable(page: Page, figure: ElementHandle) -> list[str]:
    """Controls that are inside the page, large enough for a finger, and named."""
    faults = []
    for control in await figure.query_selector_all("input, select, button"):
        box = await control.bounding_box()
        name = await control.evaluate("c => (c.labels?.[0] ?? c).textContent.trim()")
        if not name:
            faults.append("a control has no name")
        small = box is None or min(box["width"], box["height"]) < SMALLEST
        if small or box["x"] < 0 or box["x"] + box["width"] > NARROW:
            faults.append(f"{name}: {box}")
    width = await page.evaluate("document.scrollingElement.scrollWidth")
    letters = await figure.eval_on_selector_all(
        "svg text", "all => all.map(t => t.getBoundingClientRect()).map(b => [b.left, b.right, b.height])"
    )
    faults += [f"letters at {place}" for place in letters if place[2] and (place[0] < 0 or place[1] > NARROW)]
    return faults + ([f"the page is {width} pixels wide"] if width > NARROW + 1 else [])


async def visit(browser: Browser, name: str) -> dict[str, list[str]]:
    """The faults of the figures of a page."""
    found: dict[str, list[str]] = {"errors": [], "moves": [], "telephone": [], "still": []}
    address = (HTML / f"{name}.html").as_uri()
    for width in (WIDE, NARROW):
        context = await browser.new_context(offline=True, viewport={"width": width, "height": HEIGHT})
        page = await context.new_page()
        page.on("console", lambda message: found["errors"].append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: found["errors"].append(str(error)))
        await page.goto(address, wait_until="load")
        for figure in await page.query_selector_all("[data-moves]"):
            if width == WIDE:
                found["moves"] += await moved(page, figure)
            else:
                found["telephone"] += await usable(page, figure)
        await context.close()
    context = await browser.new_context(offline=True, java_script_enabled=False)
    page = await context.new_page()
    await page.goto(address, wait_until="load")
    for figure in await page.query_selector_all("[data-moves]"):
        picture = await figure.query_selector("svg")
        box = await picture.bounding_box() if picture else None
        if box is None or min(box["width"], box["height"]) < 200 or not await figure.query_selector(".says output"):
            found["still"].append(f"no picture: {box}")
        if await figure.query_selector("input, select, button"):
            found["still"].append("a control that does nothing")
    await context.close()
    return found


async def tour() -> dict[str, dict[str, list[str]]]:
    """Visit each page with a figure that moves."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        found = {name: await visit(browser, name) for name in moving()}
        await browser.close()
    return found


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, list[str]]]:
    """The faults that the browser met, page by page."""
    return asyncio.run(tour())


def test_at_least_eight_figures_move() -> None:
    assert sum(len(re.findall(r'class="moving" data-moves', text)) for text in moving().values()) >= 8


@pytest.mark.parametrize("aspect", ["errors", "moves", "telephone", "still"])
def test_each_figure_moves_by_the_keyboard_fits_a_telephone_and_stands_without_scripts(
    figures: dict[str, dict[str, list[str]]], aspect: str
) -> None:
    assert {page: noted[aspect] for page, noted in figures.items() if noted[aspect]} == {}


def test_all_figures_together_are_light() -> None:
    whole = [figure for text in moving().values() for figure in re.findall(r"<style>\.moving.*?</script>", text, re.S)]
    assert 0 < sum(len(figure.encode()) for figure in whole) <= 2_000_000
