"""How cost grows with size."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from pgtheory.plotting._theme import STYLES, drawn, new_figure, note, ramp


@drawn
def plot_costs(
    costs: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, xlabel: str, ylabel: str = "seconds"
) -> Figure:
    """Seconds against size, both logarithmic; a name is followed by the slope of the upper half of its sizes."""
    figure, (axes,) = new_figure(2.3 + 0.25 * len(costs))
    for k, ((name, (sizes, seconds)), ink) in enumerate(zip(costs.items(), ramp(len(costs)), strict=True)):
        half = len(sizes) // 2
        slope = np.polyfit(np.log(sizes[half:]), np.log(seconds[half:]), 1)[0] if len(sizes) - half > 1 else math.nan
        label = f"{name}, slope {slope:.2f}".replace("-", "−")
        style = STYLES[k % len(STYLES)]
        axes.loglog(sizes, seconds, color=ink, linestyle=style, marker="os^Dv*"[k % 6], markersize=4, label=label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if not costs:
        note(axes, "not in this run", (0.5, 0.5), xycoords="axes fraction")
        return figure
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=1, handlelength=2.6)
    return figure
