"""The palette, the light and the dark, and the drawing that can be rendered in both."""

import functools
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

P = ParamSpec("P")
Shade = Literal["light", "dark"]

WIDTH = 4.8  # inches: letters of 11 points are 11 pixels high where the page leaves 350 pixels for the figure
LETTERS = 11.0  # points


class Colour(NamedTuple):
    """A colour of the palette: what it stands for, and how it looks on a light and on a dark page."""

    meaning: str
    light: str
    dark: str


# Told apart with every common form of colour blindness, and at least 3 : 1 against the page (tests/test_plotting.py).
PALETTE: Mapping[str, Colour] = {
    "exact": Colour("exact numbers, axes and letters", "#1A1A1A", "#F2F2F2"),
    "v": Colour("state values and the performance J", "#2B6CD4", "#4A8CF0"),
    "q": Colour("action values, advantages and surrogates", "#7A3D9C", "#DDB0F0"),
    "pi": Colour("policies, probabilities and choices", "#00A078", "#2CC896"),
    "sampled": Colour("sampled numbers", "#C98200", "#FFC94D"),
    "wrong": Colour("what is wrong, or to be avoided", "#B3201A", "#F2553F"),
}
PAPER = Colour("the page", "#FFFFFF", "#121212")
FAINT = Colour("guides and what lies outside", "#8C8C8C", "#8C8C8C")

_shade: ContextVar[Shade] = ContextVar("shade", default="light")


def _of(colour: Colour) -> str:
    return colour.light if _shade.get() == "light" else colour.dark


def color(name: str) -> str:
    """The colour of this meaning on the page that is being drawn: a key of `PALETTE`, `paper` or `faint`."""
    return _of({**PALETTE, "paper": PAPER, "faint": FAINT}[name])


def ramp(n: int) -> list[str]:
    """`n` colours in order, from the strongest to the weakest, for a series without a meaning of its own."""
    dark = _shade.get() == "dark"
    places = [0.05 + 0.55 * k / max(n - 1, 1) for k in range(n)]
    return [mpl.colors.to_hex(mpl.colormaps["viridis"](1 - x if dark else x)) for x in places]


STYLES: Sequence[LineStyleType] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 3)))


@contextmanager
def _style(shade: Shade) -> Iterator[None]:
    token = _shade.set(shade)
    ink, paper = color("exact"), color("paper")
    options: dict[Any, Any] = {f"{name}color": ink for name in ("text.", "axes.edge", "axes.label", "xtick.", "ytick.")}
    options |= {f"{name}.facecolor": paper for name in ("figure", "axes", "savefig")} | {"hatch.color": ink}
    sizes = ("font.", "axes.title", "axes.label", "xtick.label", "ytick.label", "legend.font")
    options |= {f"{name}size": LETTERS for name in sizes}
    options |= {"axes.spines.right": False, "axes.spines.top": False, "image.cmap": "cividis", "legend.frameon": False}
    options |= {"svg.hashsalt": "pgtheory", "lines.linewidth": 1.8, "mathtext.fontset": "dejavusans"}
    try:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(options)
            yield
    finally:
        _shade.reset(token)


def _two_digits(number: float) -> str:
    """No screen can tell two digits after the point from six."""
    return f"{round(number, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def _steps(path: re.Match[str]) -> str:
    """A path by its steps, which are shorter than its places."""
    x, y, letter, words = 0.0, 0.0, "", []
    for command, numbers in re.findall(r"([MLQCz])([-\d.\s]*)", path[1]):
        places = [float(number) for number in numbers.split()]
        steps = [_two_digits(place - start) for place, start in zip(places, (x, y) * 3, strict=False)]
        if command in "Mz":
            words.append(command + numbers.strip())
        else:
            # A letter holds until the next one.
            words.append((command.lower() if command != letter else "") + " ".join(steps))
        letter = command
        x, y = places[-2:] or (x, y)
    return f' d="{" ".join(words)}"'


def _shorter(svg: str) -> str:
    """The same drawing in fewer letters."""

    def rounded(match: re.Match[str]) -> str:
        return re.sub(r"-?\d+\.\d+", lambda number: _two_digits(float(number[0])), match[0])

    def together(match: re.Match[str]) -> str:
        style = f' style="{match[1]}"'
        return f"<g{style}>\n{match[0].replace(style, '')}</g>\n"

    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|^ +", "", svg, flags=re.S | re.M)
    svg = re.sub(r' d="[^"]*"|translate\([^)]*\)|<use [^>]*>', rounded, re.sub(r"\n+", "\n", svg))
    # Dots of one kind have their style once, and letters a short name.
    svg = re.sub(r'(?:<use [^>]*? style="([^"]*)"/>\n)(?:<use [^>]*? style="\1"/>\n)+', together, svg)
    return re.sub(r' d="([^"]*)"', _steps, svg.replace("DejaVuSans-", "D"))


class Drawing:
    """A figure that is drawn when it is shown, once for light pages and once for dark ones.

    In a notebook the light version is shown, on white. The book takes both out of the output and shows the one that
    fits the page.

    Example:
        >>> from pgtheory import plotting
        >>> drawing = plotting.plot_interaction_loop()
        >>> drawing.svg("dark").startswith("<?xml")
        True
    """

    def __init__(self, draw: Callable[[], Figure]) -> None:
        self._draw = draw

    def figure(self, shade: Shade = "light") -> Figure:
        """A new matplotlib figure, for whoever wants to change it."""
        with _style(shade):
            return self._draw()

    @functools.cache  # noqa: B019 - a drawing lives as long as its notebook, and is asked twice
    def svg(self, shade: Shade = "light") -> str:
        """The figure as text in the format SVG; the same for the same figure."""
        with _style(shade):
            text = io.StringIO()
            self._draw().savefig(text, format="svg", metadata={"Date": None})
        return _shorter(text.getvalue())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, str], dict[str, Any]]:
        return {"image/svg+xml": self.svg("light")}, {"image/svg+xml": {"dark": self.svg("dark")}}


def drawn(draw: Callable[P, Figure]) -> Callable[P, Drawing]:
    """Make of a function that draws a figure one that returns a `Drawing` of it."""

    @functools.wraps(draw)
    def call(*args: P.args, **kwargs: P.kwargs) -> Drawing:
        return Drawing(lambda: draw(*args, **kwargs))

    call.__annotations__["return"] = Drawing
    return call


def new_figure(height: float = 3.0, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure as wide as a telephone can show, and its axes, row by row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def spread(places: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """The places moved apart, so that neighbours are at least `gap` from each other, and as little as that needs."""
    order = sorted(range(len(places)), key=lambda k: places[k])
    groups: list[tuple[float, int]] = []  # the centre and the size of each heap
    for k in order:
        groups.append((min(max(places[k], low), high), 1))
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (groups[-1][1] + groups[-2][1]) / 2:
            (x, m), (y, n) = groups.pop(), groups.pop()
            half, middle = gap * (m + n - 1) / 2, (x * m + y * n) / (m + n)
            groups.append((max(low + half, min(middle, high - half)), m + n))
    found = [x + gap * (i - (n - 1) / 2) for x, n in groups for i in range(n)]
    return [found[order.index(k)] for k in range(len(places))]


def label_ends(axes: Axes, lines: Mapping[str, Line2D], *, gap: float = 0.1, left: bool = False) -> None:
    """Write beside the right (or left) end of each line what it is, in its colour; call it when the limits are set."""
    axes.autoscale_view()  # which otherwise waits until the figure is drawn
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = []
    for line in lines.values():
        points = to_axes.transform(np.asarray(line.get_xydata(), dtype=float))
        heights.append(float(points[np.isfinite(points[:, 1]), 1][0 if left else -1]))
    for (text, line), height in zip(lines.items(), spread(heights, gap), strict=True):
        place, shift, ha = ((0, height), (-5, 0), "right") if left else ((1, height), (5, 0), "left")
        options: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "center", "ha": ha}
        axes.annotate(text, place, shift, color=line.get_color(), annotation_clip=False, **options)


def note(
    axes: Axes, text: str, place: tuple[float, float], shift: tuple[float, float] = (0, 0), **options: Any
) -> None:
    """Write `text` at a place of the data, moved by some points, on the colour of the page."""
    box: dict[str, Any] = {"facecolor": color("paper"), "edgecolor": "none", "pad": 0.6, "alpha": 0.85}
    axes.annotate(
        text, place, shift, textcoords="offset points", **{"bbox": box, "ha": "center", "va": "center"} | options
    )


def on_map(share: float) -> str:
    """Black or white, whichever can be read on this share of the colour map."""
    return "#000000" if share > 0.5 else "#FFFFFF"
