"""Figures that move: the still picture as SVG, the numbers of all its states, and native controls to choose one."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pgtheory.plotting._theme import FAINT, PALETTE, PAPER

WIDTH = 480.0  # of the picture; letters of 15.6 are 11 pixels high where a telephone leaves 342
LEFT, RIGHT = 52.0, 468.0
SMALLEST = 5e-4  # differences below this share of the largest number cannot be seen
COLOURS = {**PALETTE, "paper": PAPER, "faint": FAINT}


def ink(name: str) -> str:
    """The colour of this meaning in CSS, which follows the page; where there is no page of the book, the light one."""
    return f"var(--pg-{name}, {COLOURS[name].light})"


class Control(NamedTuple):
    """What chooses the state of a figure, with the texts of its values: a slider, one that can play, or a list."""

    name: str
    values: Sequence[str]
    start: int = 0
    how: Literal["range", "play", "select"] = "range"


@dataclass(frozen=True)
class Panel:
    """Axes: where they are on the picture, from `top` on, and what they show."""

    top: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]
    title: str = ""
    xlabel: str = ""
    xticks: Mapping[float, str] = field(default_factory=dict)
    yticks: Mapping[float, str] = field(default_factory=dict)
    left: float = LEFT
    right: float = RIGHT
    guides: Sequence[float] = ()
    back: str = ""  # SVG that lies behind the marks

    def scale(self) -> tuple[float, float, float, float]:
        """a, b, c, d with which a + bx and c + dy are the place of (x, y) on the picture."""
        b = (self.right - self.left) / (self.x[1] - self.x[0])
        d = -self.height / (self.y[1] - self.y[0])
        return self.left - b * self.x[0], b, self.top - d * self.y[1], d

    def svg(self) -> str:
        """The axes."""
        a, b, c, d = self.scale()
        bottom = self.top + self.height
        lines = [(self.left, c + d * y, self.right, c + d * y) for y in self.guides]
        parts = [self.back, *(_line(*line, "faint", 1) for line in lines)]
        if self.xticks:
            parts.append(_line(self.left, bottom, self.right, bottom, "exact", 1))
        if self.yticks:
            parts.append(_line(self.left, self.top, self.left, bottom, "exact", 1))
        for x, text in self.xticks.items():
            parts.append(_line(a + b * x, bottom, a + b * x, bottom + 4, "exact", 1))
            parts.append(_text(a + b * x, bottom + 18, text))
        for y, text in self.yticks.items():
            parts.append(_line(self.left - 4, c + d * y, self.left, c + d * y, "exact", 1))
            parts.append(_text(self.left - 7, c + d * y + 5, text, "end"))
        parts.append(_text((self.left + self.right) / 2, bottom + (36 if self.xticks else 18), self.xlabel))
        parts.append(_text(self.left, self.top - 9, self.title, "start"))
        return "".join(parts)


@dataclass(frozen=True)
class Mark:
    """Something that is drawn from numbers.

    The last axis of `x` and `y` runs over the points, the others over the values of the controls; an axis of length 1
    says that a control changes nothing. `values` are the texts of words, and of cells the strength of their colour.
    """

    kind: Literal["line", "dots", "bars", "rows", "cells", "words"]
    x: Any
    y: Any
    color: str = "exact"
    panel: int = 0
    width: float = 2.0
    style: str = ""  # more of CSS
    values: Any = ()
    anchor: str = "middle"


def _line(x1: float, y1: float, x2: float, y2: float, name: str, width: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" style="stroke:{ink(name)};stroke-width:{width}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", name: str = "exact") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} style="fill:{ink(name)}">{html.escape(text)}</text>' if text else ""


def _path(kind: str, x: NDArray[Any], y: NDArray[Any], base: float) -> str:
    """The path of a mark in pixels; moving.js draws the same."""
    if kind == "dots":
        return "".join(f"M{u:.1f} {v:.1f}h0" for u, v in zip(x, y, strict=False) if not math.isnan(v))
    if kind == "bars":
        return "".join(f"M{u:.1f} {base:.1f}V{v:.1f}" for u, v in zip(x, y, strict=True))
    if kind == "rows":
        return "".join(f"M{base:.1f} {v:.1f}H{u:.1f}" for u, v in zip(x, y, strict=True))
    parts, pen = [], "M"
    for u, v in zip(x, y, strict=False):
        if not math.isnan(v):
            parts.append(f"{pen}{u:.1f} {v:.1f}")
        pen = "M" if math.isnan(v) else "L"
    return "".join(parts)


def _by_state(values: Any, sizes: Sequence[int]) -> tuple[list[int], NDArray[Any]]:
    """The strides with which the controls choose a row, and the rows."""
    array = np.asarray(values)
    array = array.reshape((1,) * (len(sizes) + 1 - array.ndim) + array.shape)
    own = array.shape[:-1]
    if any(n not in {1, size} for n, size in zip(own, sizes, strict=True)):
        raise ValueError(f"the states of a mark have shape {own}, and those of the controls {tuple(sizes)}")
    strides = [0 if n == 1 else math.prod(own[k + 1 :]) for k, n in enumerate(own)]
    return strides, array.reshape(-1, array.shape[-1])


def _rounded(rows: NDArray[Any]) -> list[list[Any]]:
    """Numbers with as many digits as can be seen; what is no number is null, and left out at the end of a row."""
    if rows.dtype.kind not in "fiu":
        return [[str(x) for x in row] for row in rows]
    top = float(np.nanmax(np.abs(rows))) or 1.0
    digits = max(0, math.ceil(-math.log10(top * SMALLEST)))
    found = []
    for row in rows.astype(float):
        kept = [None if math.isnan(x) else round(float(x), digits) for x in row]
        kept = [int(x) if x is not None and x == int(x) else x for x in kept]
        while kept and kept[-1] is None:
            kept.pop()
        found.append(kept)
    return found


class Moving:
    """A figure with controls, which a browser moves without a server: SVG, its numbers, and a small script.

    In a notebook, as in the book, it is HTML that needs nothing else. Where scripts are off, the picture stands still
    in the state in which its controls start.

    Args:
        controls: what chooses the state.
        panels: the axes.
        marks: what is drawn in them, by name.
        says: numbers that are written below, by name: an array of texts with an axis for each control.
        height: of the picture, whose width is 480.
        alt: what the picture shows, for those who do not see it.

    Example:
        >>> y = [[0.0, 1.0], [0.0, 2.0]]
        >>> figure = Moving(
        ...     [Control("slope", ["1", "2"])],
        ...     [Panel(10, 100, (0, 1), (0, 2))],
        ...     {"line": Mark("line", [0.0, 1.0], y)},
        ...     says={"slope": ["1", "2"]},
        ...     height=120,
        ...     alt="A line through the origin.",
        ... )
        >>> figure.data()["marks"][0]["y"]
        [[1], [[0, 1], [0, 2]]]
    """

    def __init__(
        self,
        controls: Sequence[Control],
        panels: Sequence[Panel],
        marks: Mapping[str, Mark],
        *,
        says: Mapping[str, Any],
        height: float,
        alt: str,
    ) -> None:
        self.controls, self.panels, self.marks = controls, panels, marks
        self.says, self.height, self.alt = says, height, alt
        self._sizes = [len(control.values) for control in controls]

    def _mark(self, name: str, mark: Mark) -> dict[str, Any]:
        scale = self.panels[mark.panel].scale()
        base = scale[0] if mark.kind == "rows" else scale[2]  # where a bar starts: at 0
        found: dict[str, Any] = {"name": name, "kind": mark.kind, "scale": [round(float(s), 3) for s in (*scale, base)]}
        has_values = mark.kind in {"cells", "words"}
        for key, values in {"x": mark.x, "y": mark.y, **({"values": mark.values} if has_values else {})}.items():
            strides, rows = _by_state(values, self._sizes)
            found[key] = [strides, _rounded(rows)]
        return found

    def data(self) -> dict[str, Any]:
        """What the page holds: the controls, and the numbers of each mark and of the texts below, for each state."""
        says = [_by_state(np.asarray(texts)[..., None], self._sizes) for texts in self.says.values()]
        return {
            "controls": [control._asdict() | {"values": list(control.values)} for control in self.controls],
            "marks": [self._mark(name, mark) for name, mark in self.marks.items()],
            "says": [[strides, rows[:, 0].tolist()] for strides, rows in says],
        }

    def _pick(self, values: list[Any]) -> Any:
        """The row of the state in which the controls start."""
        strides, rows = values
        return rows[sum(s * control.start for s, control in zip(strides, self.controls, strict=True))]

    def _still(self, index: int, mark: Mark, data: dict[str, Any]) -> str:
        """A mark in the state in which the controls start."""
        a, b, c, d, base = data["scale"]
        x, y = (np.array(self._pick(data[key]), dtype=float) for key in "xy")
        u, v = a + b * x, c + d * y
        if mark.kind == "cells":
            size, colour = abs(b), ink(mark.color)
            boxes = [
                f'<rect x="{p - size / 2:.1f}" y="{q - size / 2:.1f}" width="{size:.1f}" height="{size:.1f}" '
                f'style="fill:{colour};stroke:{ink("faint")}" fill-opacity="{share:g}"/>'
                for p, q, share in zip(u, v, self._pick(data["values"]), strict=True)
            ]
            return f'<g data-mark="{index}">{"".join(boxes)}</g>'
        if mark.kind == "words":
            texts = zip(u, v + 5, self._pick(data["values"]), strict=True)
            inside = "".join(
                f'<text x="{p:.1f}" y="{q:.1f}">{html.escape(text, quote=False)}</text>' for p, q, text in texts
            )
            style = f"fill:{ink(mark.color)};{mark.style}"
            return f'<g data-mark="{index}" text-anchor="{mark.anchor}" class="words" style="{style}">{inside}</g>'
        style = f"stroke:{ink(mark.color)};stroke-width:{mark.width:g};{mark.style}"
        style += "stroke-linecap:round" if mark.kind == "dots" else ""
        return f'<path data-mark="{index}" d="{_path(mark.kind, u, v, base)}" style="{style}"/>'

    def _repr_html_(self) -> str:
        data, here = self.data(), Path(__file__).parent
        back = "".join(panel.svg() for panel in self.panels)
        marks = zip(self.marks.values(), data["marks"], strict=True)
        front = "".join(self._still(k, mark, numbers) for k, (mark, numbers) in enumerate(marks))
        label = html.escape(self.alt)
        svg = f'<svg viewBox="0 0 {WIDTH:g} {self.height:g}" role="img" aria-label="{label}">{back}{front}</svg>'
        says = "".join(
            f"<span>{html.escape(name)} = <output>{html.escape(self._pick(values))}</output></span>"
            for name, values in zip(self.says, data["says"], strict=True)
        )
        packed = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        packed = packed.replace("&", "&amp;").replace("'", "&#39;").replace("<", "&lt;")
        style, script = (here.joinpath(f"moving.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
        body = f'{svg}<div class="says">{says}</div><div class="controls"></div>'
        figure = f"<div class=\"moving\" data-moves='{packed}'>{body}</div>"
        return f"<style>{style}</style>{figure}<script>{script}</script>"

    def __repr__(self) -> str:
        return f"<a figure that moves: {self.alt}>"
