"""Worlds made of cells: colour for values, arrows for policies, icons for start, goal and hazard."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from pgtheory.plotting._theme import color, drawn, new_figure, on_map

ICONS = {"S": "start", "G": "goal", "H": "hazard", "F": ""}


def icons_of(description: Sequence[Sequence[bytes | str]]) -> list[str]:
    """The icons of the cells, row by row, of a map of letters as FrozenLake has one.

    Args:
        description: rows of letters: `S` for the start, `G` for the goal, `H` for a hole; others are plain.

    Returns:
        For each cell `start`, `goal`, `hazard` or nothing.

    Example:
        >>> icons_of(["SF", "HG"])
        ['start', '', 'hazard', 'goal']
    """
    letters = [c.decode() if isinstance(c, bytes) else c for row in description for c in row]
    return [ICONS.get(letter, "") for letter in letters]


def _icon(axes: Axes, row: int, column: int, icon: str, ink: str) -> None:
    """Draw what is in a cell: a flag at the start, a star on the goal, hatching over a hazard, or a letter."""
    corner = (column - 0.3, row - 0.28)
    if icon == "hazard":
        cell = (column - 0.5, row - 0.5)
        options: dict[str, Any] = {"facecolor": color("paper"), "edgecolor": color("faint"), "linewidth": 0.0}
        axes.add_patch(Rectangle(cell, 1, 1, hatch="////", zorder=2, **options))
    elif icon == "goal":
        axes.plot(*corner, "*", color=ink, markersize=10, markeredgecolor="none", zorder=4)
    elif icon == "start":
        x, y = corner
        axes.plot([x - 0.06, x - 0.06], [y - 0.14, y + 0.18], color=ink, linewidth=1.3, zorder=4)
        axes.fill([x - 0.06, x + 0.2, x - 0.06], [y - 0.14, y - 0.05, y + 0.04], color=ink, linewidth=0, zorder=4)
    elif icon:
        axes.text(column - 0.45, row - 0.43, icon, ha="left", va="top", color=ink, zorder=4)


def _bare(axes: Axes, rows: int, columns: int) -> None:
    axes.set(xticks=[], yticks=[], xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal")
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(color("faint"))


@drawn
def plot_value_grid(
    values: Tensor,
    *,
    decimals: int = 1,
    arrows: Tensor | None = None,
    moves: Sequence[tuple[int, int]] = (),
    icons: Sequence[str] | None = None,
    walls: Sequence[tuple[int, int]] = (),
    label: str = "value",
) -> Figure:
    """Values of the cells of a grid ([rows, columns]): the colour and the number are the value, and nothing else is.

    `arrows` ([rows, columns, actions], True where drawn) point along `moves` (down, right); `icons` has one entry for
    each cell, row by row: `start`, `goal`, `hazard`, a letter or nothing; a wall stands east of each cell in `walls`.
    """
    rows, columns = values.shape
    figure, (axes,) = new_figure(min(4.4, 4.0 * rows / columns + 0.1))
    marks = list(icons) if icons is not None else [""] * values.numel()
    empty = [
        icon == "hazard" or (icon == "goal" and not value) for icon, value in zip(marks, values.ravel(), strict=True)
    ]
    shown = values.double().masked_fill(torch.tensor(empty).view(rows, columns), math.nan)  # nothing happens there
    image = axes.imshow(shown.numpy())
    low, high = float(shown.nan_to_num(math.inf).min()), float(shown.nan_to_num(-math.inf).max())
    for cell, value in enumerate(shown.flatten().tolist()):
        row, column = divmod(cell, columns)
        ink = color("exact") if empty[cell] else on_map((value - low) / ((high - low) or 1.0))
        _icon(axes, row, column, marks[cell], ink)
        if empty[cell]:
            continue
        below = 0.24 if arrows is not None else 0.0
        number = f"{value:.{decimals}f}".replace("-", "−")
        axes.text(column, row + below, number, ha="center", va="center", color=ink, zorder=4)
        for down, right in (
            [] if arrows is None else [m for m, on in zip(moves, arrows[row, column], strict=False) if on]
        ):
            start, end = (column + 0.12, row - 0.18), (column + 0.12 + 0.26 * right, row - 0.18 + 0.24 * down)
            style: dict[str, Any] = {"arrowstyle": "->", "color": ink, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.3}
            axes.annotate("", xy=end, xytext=start, arrowprops=style, zorder=4)
    for row, column in walls:
        ends = [row - 0.5, row + 0.5]
        axes.plot([column + 0.5] * 2, ends, color=color("paper"), linewidth=7, solid_capstyle="butt", zorder=5)
        axes.plot([column + 0.5] * 2, ends, color=color("exact"), linewidth=3, solid_capstyle="butt", zorder=6)
    _bare(axes, rows, columns)
    figure.colorbar(image, ax=axes, label=label, shrink=0.85)
    return figure


@drawn
def plot_grid_changes(changes: Mapping[str, Tensor], marked: int) -> Figure:
    """A number for each cell of a grid, one map per entry of `changes` ([rows, columns]); one cell is framed."""
    figure, panels = new_figure(2.4, 1, len(changes))
    limit = max(float(values.abs().max()) for values in changes.values())
    for axes, (title, values) in zip(panels, changes.items(), strict=True):
        image = axes.imshow(values.numpy(), cmap="PuOr", vmin=-limit, vmax=limit)
        rows, columns = values.shape
        frame = (marked % columns - 0.5, marked // columns - 0.5)
        for ink, width in (("#FFFFFF", 5), ("#000000", 2.5)):  # seen on every colour
            axes.add_patch(Rectangle(frame, 1, 1, fill=False, edgecolor=ink, linewidth=width))
        _bare(axes, rows, columns)
        axes.set_xlabel(title)
    figure.colorbar(image, ax=panels, label="change of probability", orientation="horizontal", aspect=30)
    return figure
