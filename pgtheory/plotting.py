"""Figures of the book, drawn with matplotlib, which the extra `plotting` installs. Nothing else imports this module."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

try:
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from cycler import cycler
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
except ImportError as error:
    raise ImportError('matplotlib is not installed: pip install "pgtheory[plotting]"') from error

if TYPE_CHECKING:
    from pgtheory.mdp import FiniteMDP

# Okabe & Ito (2008): distinguishable with every common form of colour blindness. Black comes first, yellow is left out.
PALETTE: Sequence[str] = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def use_book_style() -> None:
    """Draw all following figures as transparent SVG in the book's colours (dark mode inverts them by CSS)."""
    mpl.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=list(PALETTE)),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "figure.figsize": (6.4, 3.6),
            "font.size": 11,
            "image.cmap": "cividis",
            "legend.frameon": False,
            "svg.hashsalt": "pgtheory",
        }
    )
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:  # outside a notebook
        return
    set_matplotlib_formats("svg", metadata={"Date": None})


# --- mdp


def plot_interaction_loop() -> Figure:
    """The loop of agent and environment: an action goes out, a reward and the next state come back."""
    figure, axes = plt.subplots(figsize=(5.2, 2.6))
    box = {"boxstyle": "round,pad=0.6", "facecolor": "none", "edgecolor": PALETTE[0]}
    axes.text(0, 1, "agent", ha="center", va="center", bbox=box)
    axes.text(0, 0, "environment", ha="center", va="center", bbox=box)
    arrow = {"arrowstyle": "-|>", "shrinkA": 2, "shrinkB": 2, "linewidth": 1.5}
    for x, start, end, text, color in (
        (1, 1, 0, "action $A_t$", PALETTE[1]),
        (-1, 0, 1, "reward $R_{t+1}$,\nstate $S_{t+1}$", PALETTE[2]),
    ):
        edge = {1: 0.27 * x, 0: 0.47 * x}  # where the boxes end
        axes.plot([edge[start], x, x], [start, start, end], color=color, linewidth=1.5)
        axes.annotate("", (edge[end], end), (x, end), arrowprops=arrow | {"color": color})
        axes.text(1.08 * x, 0.5, text, color=color, ha="left" if x > 0 else "right", va="center")
    axes.set(xlim=(-2, 2), ylim=(-0.4, 1.4))
    axes.axis("off")
    return figure


def plot_transition_graph(
    mdp: "FiniteMDP",
    states: Mapping[int, tuple[float, float]],
    actions: Mapping[tuple[int, int], tuple[float, float]],
    bends: Mapping[tuple[int, int, int], float],
) -> Figure:
    """States as circles, actions as dots; each outcome is an arrow, with its probability and its reward."""
    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    o, names, verbs = mdp.outcomes, mdp.state_names or (), mdp.action_names or ()
    for (s, a), place in actions.items():
        color = PALETTE[1 + a]
        axes.annotate("", place, states[s], arrowprops={"arrowstyle": "-", "color": color, "shrinkA": 22})
        axes.plot(*place, "o", color=color, markersize=7)
        side, va = (-1, "top") if place[1] < 0 else (1, "bottom")
        axes.annotate(verbs[a], place, (0, 7 * side), textcoords="offset points", ha="center", va=va, color=color)
    for s, a, s_next, r, p in zip(*(x.tolist() for x in o), strict=True):
        (x, y), (x_next, y_next), bend = actions[s, a], states[s_next], bends.get((s, a, s_next), 0.0)
        style = {"arrowstyle": "-|>", "color": PALETTE[1 + a], "shrinkA": 4, "shrinkB": 22}
        axes.annotate("", (x_next, y_next), (x, y), arrowprops=style | {"connectionstyle": f"arc3,rad={bend}"})
        dx, dy = x_next - x, y_next - y
        middle = x + dx / 2 + bend * dy / 2, y + dy / 2 - bend * dx / 2
        out = (bend * dy, -bend * dx) if bend else (0.0, 1.0)  # the side to which the arrow bends
        offset = 12 * out[0] / math.hypot(*out), 12 * out[1] / math.hypot(*out)
        text = f"{p:.2g}, {float(mdp.rewards[r]):+g}".replace("-", "−").replace("+0", "0")
        axes.annotate(text, middle, offset, textcoords="offset points", ha="center", va="center", fontsize=9)
    circle = {"boxstyle": "circle,pad=0.6", "facecolor": "none"}
    for s, place in states.items():
        axes.annotate(names[s], place, ha="center", va="center", bbox=circle)
    axes.set(aspect="equal", xlim=(-3.6, 9.6), ylim=(-3, 3))
    axes.axis("off")
    return figure


def plot_recycling_robot(robot: "FiniteMDP") -> Figure:
    """The transition graph of the recycling robot."""
    states = {0: (0.0, 0.0), 1: (6.0, 0.0)}
    actions = {(0, 0): (2.0, 1.7), (0, 1): (-2.0, 0.0), (1, 0): (4.0, -1.7), (1, 1): (8.0, 0.0), (1, 2): (3.0, 0.0)}
    at_high = {(0, 0, 0): 0.5, (0, 0, 1): -0.25, (0, 1, 0): 0.7}
    at_low = {(1, 0, 1): 0.5, (1, 0, 0): -0.25, (1, 1, 1): -0.7}
    return plot_transition_graph(robot, states, actions, at_high | at_low)


def plot_frequencies(exact: Tensor, frequencies: Tensor, n: int) -> Figure:
    """Exact probabilities in descending order, and sampled frequencies with two standard errors each way."""
    figure, axes = plt.subplots()
    order = exact.argsort(descending=True)
    error = 2 * (exact * (1 - exact) / n).sqrt()[order]
    places = torch.arange(1, len(exact) + 1)
    axes.errorbar(places, frequencies[order], error, fmt=".", color=PALETTE[1], elinewidth=0.8, label="sampled")
    axes.plot(places, exact[order], "_", color=PALETTE[2], markersize=7, label="exact")
    axes.set(xlabel="trajectory, by rank", ylabel="probability", ylim=(0, None))
    axes.legend()
    return figure


def plot_trajectory_counts(counts: Mapping[str, Sequence[int]]) -> Figure:
    """The number of trajectories of positive probability against the horizon, from 1, on a logarithmic axis."""
    figure, axes = plt.subplots()
    for (label, numbers), marker in zip(counts.items(), "os^D", strict=False):
        axes.semilogy(range(1, len(numbers) + 1), numbers, marker=marker, markersize=4, label=label)
    axes.set(xlabel="horizon $T$ (steps)", ylabel="number of trajectories")
    axes.legend()
    return figure


# --- softmax_policy


def plot_two_action_response(gaps: Tensor, probability: Tensor, slope: Tensor, entropies: Tensor) -> Figure:
    """Two actions: the probability of the first, its slope and the entropy, against the difference of preferences."""
    figure, axes = plt.subplots()
    axes.plot(gaps, probability, color=PALETTE[1], label=r"$\pi(a_1)$")
    axes.plot(gaps, slope, color=PALETTE[2], linestyle="--", label=r"$\pi(a_1)\,\pi(a_2)$, the slope")
    axes.plot(gaps, entropies, color=PALETTE[3], linestyle="-.", label=r"entropy $H(\pi)$ (nats)")
    axes.set(xlabel=r"difference of preferences $h(a_1) - h(a_2)$", ylabel="value", ylim=(-0.03, 1.03))
    axes.legend(loc="upper left")
    return figure


def simplex_grid(n: int) -> Tensor:
    """The probability vectors over three actions whose entries are odd multiples of 1/(3n): inside the simplex."""
    i, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    i, j = i[i + j < n], j[i + j < n]
    counts = torch.stack([i, j, n - 1 - i - j], -1).double()
    return (counts + 1 / 3) / n


def plot_simplex_flow(policies: Tensor, velocities: Tensor) -> Figure:
    """Policies over three actions as points of a triangle, and the velocity of each as an arrow."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]], dtype=policies.dtype)
    x, y = (policies @ corners).T
    u, v = (velocities @ corners).T
    figure, axes = plt.subplots(figsize=(6.0, 4.6))
    axes.fill(*corners.T, facecolor="none", edgecolor=PALETTE[0])
    arrows = axes.quiver(x, y, u, v, velocities.norm(dim=-1), cmap="cividis_r", scale=4.5, width=0.006, pivot="tail")
    figure.colorbar(arrows, ax=axes, label=r"speed $\|d\pi/dt\|$ (per unit of preference)", shrink=0.8)
    for k, (offset, anchor) in enumerate([((-0.02, -0.03), "right"), ((1.02, -0.03), "left"), ((0.5, 0.9), "center")]):
        axes.text(*offset, rf"$a_{k + 1}$ certain", ha=anchor, va="center")
    axes.set(aspect="equal", xlim=(-0.28, 1.28), ylim=(-0.08, 0.95))
    axes.axis("off")
    return figure


def plot_grid_changes(changes: Mapping[str, Tensor], marked: int) -> Figure:
    """A number for each cell of a grid, one map per entry of `changes` ([rows, columns]); one cell is framed."""
    figure, panels = plt.subplots(1, len(changes), figsize=(7.2, 2.9), sharey=True)
    limit = max(float(values.abs().max()) for values in changes.values())
    for axes, (title, values) in zip(panels, changes.items(), strict=True):
        image = axes.imshow(values, cmap="PuOr", vmin=-limit, vmax=limit)
        rows, columns = values.shape
        for cell, value in enumerate(values.flatten().tolist()):
            dark = abs(value) > 0.6 * limit
            color = "white" if dark else "black"
            axes.text(
                cell % columns, cell // columns, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color
            )
        frame = (marked % columns - 0.5, marked // columns - 0.5)
        axes.add_patch(Rectangle(frame, 1, 1, fill=False, edgecolor=PALETTE[2], linewidth=2.5))
        axes.set(title=title, xlabel="column", xticks=range(columns), yticks=range(rows))
    panels[0].set_ylabel("row")
    figure.colorbar(image, ax=panels, label="change of probability", shrink=0.8)
    return figure


# --- returns


def plot_returns_to_go(rewards: Tensor, returns: Mapping[float, Tensor]) -> Figure:
    """One trajectory: its rewards above, and below its returns to go for each discount factor."""
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(6.4, 4.8), height_ratios=[1, 2])
    steps = torch.arange(len(rewards))
    above.bar(steps, rewards, color=PALETTE[0], width=0.5)
    above.set_ylabel("reward $R_{t+1}$")
    above.axhline(0, color=PALETTE[0], linewidth=0.8)
    for (gamma, values), color, marker in zip(returns.items(), PALETTE[1:], "osD^vP", strict=False):
        below.plot(steps, values, color=color, marker=marker, markersize=4, label=rf"$\gamma={gamma:g}$")
    below.axhline(0, color=PALETTE[0], linewidth=0.8)
    below.set(xlabel="time $t$ (steps)", ylabel="return $G_t$")
    figure.legend(*below.get_legend_handles_labels(), loc="outside upper center", ncols=len(returns))
    return figure


def plot_discount_factors(factors: Mapping[float, Tensor], horizons: Mapping[float, float]) -> Figure:
    """The weight of a reward k steps ahead for each discount factor; a dot marks k at its effective horizon."""
    figure, axes = plt.subplots()
    styles = zip(factors.items(), PALETTE[1:], ("-", "--", "-.", ":"), strict=False)
    for (gamma, weights), color, line in styles:
        steps = torch.arange(1, len(weights))
        axes.plot(steps, weights[1:], color=color, linestyle=line, label=rf"$\gamma={gamma:g}$")
        axes.plot(horizons[gamma], gamma ** horizons[gamma], "o", color=color)
    axes.axhline(1 / math.e, color=PALETTE[0], linewidth=0.8, linestyle=(0, (1, 3)))
    axes.annotate("$1/e$", (1, 0.37), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.set(xlabel="steps ahead $k$", ylabel=r"weight $\gamma^k$", xscale="log", ylim=(-0.02, 1.05))
    axes.legend()
    return figure


# --- value_functions


def plot_value_grid(
    values: Tensor,
    *,
    title: str = "",
    decimals: int = 1,
    arrows: Tensor | None = None,
    moves: Sequence[tuple[int, int]] = (),
    letters: Sequence[str] | None = None,
    walls: Sequence[tuple[int, int]] = (),
    label: str = "value",
) -> Figure:
    """Values of the cells of a grid ([rows, columns]) as a heat map with numbers.

    `arrows` ([rows, columns, actions], True where drawn) point along `moves` (down, right); `letters` stand in the
    upper left of the cells, row by row; a wall stands east of each cell in `walls`.
    """
    rows, columns = values.shape
    figure, axes = plt.subplots(figsize=(0.78 * columns + 1.7, 0.78 * rows + 0.6))
    image = axes.imshow(values, cmap="cividis")
    middle = (float(values.min()) + float(values.max())) / 2
    for cell, value in enumerate(values.flatten().tolist()):
        row, column = divmod(cell, columns)
        color = "white" if value < middle else "black"
        below = 0.22 if arrows is not None else 0.0
        number = f"{value:.{decimals}f}".replace("-", "−")
        axes.text(column, row + below, number, ha="center", va="center", fontsize=9, color=color)
        if letters is not None:
            axes.text(column - 0.45, row - 0.43, letters[cell], ha="left", va="top", fontsize=8, color=color)
        for down, right in (
            [] if arrows is None else [m for m, on in zip(moves, arrows[row, column], strict=False) if on]
        ):
            start, end = (column, row - 0.18), (column + 0.26 * right, row - 0.18 + 0.2 * down)
            style = {"arrowstyle": "->", "color": color, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", xy=end, xytext=start, arrowprops=style)
    for row, column in walls:
        axes.plot([column + 0.5] * 2, [row - 0.5, row + 0.5], color=PALETTE[2], linewidth=3, solid_capstyle="butt")
    axes.set(title=title, xlabel="column", ylabel="row", xticks=range(columns), yticks=range(rows))
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label=label, shrink=0.85)
    return figure


def plot_contraction(errors: Mapping[float, Tensor]) -> Figure:
    """The largest error after k applications of a Bellman operator, for each discount factor; its bound is dotted."""
    figure, axes = plt.subplots()
    for (gamma, error), color, line in zip(errors.items(), PALETTE[1:], ("-", "--", "-."), strict=False):
        k = torch.arange(len(error))
        axes.semilogy(k, error, color=color, linestyle=line, label=rf"$\gamma={gamma:g}$")
        axes.semilogy(k, gamma ** k.double() * error[0], color=color, linestyle=":")
    axes.set(xlabel="applications $k$ of the operator", ylabel=r"largest error $\|T_\pi^k v - v_\pi\|_\infty$")
    axes.set_ylim(bottom=1e-17)  # below the rounding of float64 there is nothing to see
    axes.legend(loc="lower left")
    return figure


def plot_values_by_steps_left(values: Mapping[str, Tensor], change: int | None = None) -> Figure:
    """Finite-horizon values ([T+1], index = time) against the steps left; the best action changes at `change`."""
    figure, axes = plt.subplots()
    for (name, by_time), color, marker in zip(values.items(), PALETTE[1:], "os^D", strict=False):
        axes.plot(by_time.flip(0), color=color, marker=marker, markersize=5, label=name)
    if change is not None:
        axes.axvline(change, color=PALETTE[0], linestyle=":", label="the best action changes")
    axes.set(xlabel="steps left $T - t$", ylabel="value $v_t$")
    axes.legend()
    return figure


def plot_estimates(exact: Tensor, estimates: Mapping[str, tuple[Tensor, Tensor]], names: Sequence[str]) -> Figure:
    """Sampled means with two standard errors to either side, for each state, beside the exact values (bars)."""
    figure, axes = plt.subplots()
    places = torch.arange(len(exact))
    for (label, (mean, error)), color, marker, shift in zip(
        estimates.items(), PALETTE[1:], "os^D", (-0.12, 0.12, 0.0, 0.24), strict=False
    ):
        axes.errorbar(places + shift, mean, 2 * error, color=color, fmt=marker, markersize=5, capsize=3, label=label)
    axes.hlines(exact, places - 0.3, places + 0.3, color=PALETTE[0], linewidth=1.5, label="exact")
    axes.set(xlabel="state", ylabel="value", xticks=places, xticklabels=names)
    axes.legend()
    return figure


# --- decoding


def plot_distributions(distributions: Mapping[str, Tensor]) -> Figure:
    """One panel of bars for each distribution over tokens; a cross marks a token of probability 0."""
    figure, panels = plt.subplots(len(distributions), 1, sharex=True, sharey=True, figsize=(6.4, 6.0))
    for axes, color, (name, probabilities) in zip(panels, PALETTE, distributions.items(), strict=False):
        tokens = torch.arange(len(probabilities))
        axes.bar(tokens, probabilities, color=color, width=0.6)
        excluded = tokens[probabilities == 0]
        axes.plot(excluded, torch.full(excluded.shape, 0.03), "x", color=color)
        axes.set_title(name, loc="right", y=0.7, fontsize=11)
    panels[-1].set(xlabel="token $a$", xticks=tokens)
    figure.supylabel("probability", fontsize=11)
    return figure


def plot_nucleus(probabilities: Tensor, p: float, n_kept: int) -> Figure:
    """Probabilities in descending order stacked to their cumulative mass, with the nucleus and the crossing token."""
    figure, axes = plt.subplots()
    ranks = torch.arange(len(probabilities))
    before = torch.cat([probabilities.new_zeros(1), probabilities.cumsum(0)[:-1]])
    kinds = [("in the nucleus", 0, n_kept - 1, 1), ("the crossing token", n_kept - 1, n_kept, 2)]
    for label, first, last, color in [*kinds, ("left out", n_kept, len(ranks), 6)]:
        part = slice(first, last)
        bars = axes.bar(ranks[part] + 1, probabilities[part], bottom=before[part], color=PALETTE[color], width=0.9)
        bars.set_label(label)
    axes.axhline(p, color=PALETTE[0], linestyle="--", linewidth=1.2)
    axes.annotate(f"$p={p:g}$", (len(ranks) + 0.45, p), ha="right", va="bottom")
    axes.set(xlabel="rank of the token", ylabel="cumulative probability", xticks=ranks + 1, ylim=(0, 1.02))
    axes.legend(loc="lower right")
    return figure


def plot_temperature_paths(temperatures: Tensor, probabilities: Tensor, entropies: Tensor) -> Figure:
    """The probability of each token, and the entropy of the distribution, against the temperature."""
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(6.4, 5.0), height_ratios=[3, 2])
    lines = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 3)))
    for token, (color, line) in enumerate(zip(PALETTE, lines, strict=False)):
        if token < probabilities.shape[-1]:
            above.plot(temperatures, probabilities[:, token], color=color, linestyle=line, label=f"token {token}")
    above.set(ylabel=r"probability $\pi_\tau(a)$", xscale="log", ylim=(-0.02, 1.02))
    above.axvline(1, color=PALETTE[0], linewidth=0.8, linestyle=(0, (1, 3)))
    above.legend()
    below.plot(temperatures, entropies, color=PALETTE[0])
    below.axvline(1, color=PALETTE[0], linewidth=0.8, linestyle=(0, (1, 3)))
    below.set(xlabel=r"temperature $\tau$", ylabel="entropy (nats)", ylim=(0, None))
    return figure


def plot_decoding_performance(sweeps: Mapping[str, tuple[Tensor, Tensor]], names: Sequence[str]) -> Figure:
    """J of the decoded policy against each setting: one panel for each sweep, one curve for each of `names`."""
    figure, panels = plt.subplots(1, len(sweeps), sharey=True, figsize=(7.2, 3.4))
    for axes, (setting, (values, performances)) in zip(panels, sweeps.items(), strict=True):
        styles = zip(names, performances.T, PALETTE[1:], ("--", "-.", "-"), "o^s", strict=False)
        for name, curve, color, line, marker in styles:
            few = marker if len(values) < 10 else None
            axes.plot(values, curve, color=color, linestyle=line, marker=few, markersize=5, label=name)
        axes.set_xlabel(setting)
    panels[0].set_ylabel(r"expected return $J(\pi')$")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(names))
    return figure


# --- policy_gradient


def plot_landscape(x: Tensor, y: Tensor, values: Tensor, slopes: Tensor, paths: Mapping[str, Tensor]) -> Figure:
    """J over two parameters as contours, its gradient as arrows (every fifth point), and paths of gradient ascent."""
    figure, axes = plt.subplots(figsize=(6.4, 4.8))
    filled = axes.contourf(x, y, values.T, levels=16)
    some = slice(2, None, 5)
    u, v = slopes[some, some].unbind(-1)
    axes.quiver(x[some], y[some], u.T, v.T, color="white", width=0.004, alpha=0.75)
    for (label, path), color, marker in zip(paths.items(), PALETTE[2:], "osD^", strict=False):
        axes.plot(*path.T, color=color, linewidth=2)
        axes.plot(*path[::20].T, color=color, marker=marker, linestyle="", markersize=4, label=label)
        axes.plot(*path[0], color=color, marker=marker, markersize=10, markeredgecolor="white")
    figure.colorbar(filled, ax=axes, label=r"performance $J(\theta)$")
    axes.set(xlabel=r"$\theta_1$: preference for going on", ylabel=r"$\theta_2$: preference for the reward")
    axes.set(xlim=(float(x[0]), float(x[-1])), ylim=(float(y[0]), float(y[-1])))
    legend = axes.legend(loc="lower left", frameon=True, fontsize=9)
    legend.get_frame().set(facecolor="white", edgecolor="none", alpha=0.85)
    return figure


def plot_ascents(performances: Mapping[str, Tensor], best: float) -> Figure:
    """The distance of the performance to the best, on a logarithmic scale, against the steps of each optimiser."""
    figure, axes = plt.subplots()
    for (label, values), color, style in zip(performances.items(), PALETTE[1:], ("-", "--", "-.", ":"), strict=False):
        axes.semilogy(best - values, color=color, linestyle=style, label=label)
    axes.set(xlabel="number of gradient steps", ylabel=r"distance $\max J - J(\theta_t)$")
    axes.legend()
    return figure


def plot_visitation_maps(maps: Mapping[str, Tensor]) -> Figure:
    """The share of the discounted visitation that falls on each cell, one map per entry; cells without any are grey."""
    figure, panels = plt.subplots(1, len(maps), figsize=(7.2, 2.8), sharey=True)
    top = max(float(values.max()) for values in maps.values())
    low = min(float(values[values > 0].min()) for values in maps.values())
    colors = mpl.colormaps["cividis"].with_extremes(bad="0.75")
    for axes, (title, values) in zip(panels, maps.items(), strict=True):
        norm = mpl.colors.LogNorm(max(low, 1e-6), top)
        image = axes.imshow(values.masked_fill(values == 0, math.nan), cmap=colors, norm=norm)
        axes.set(title=title, xlabel="column", xticks=range(0, values.shape[1], 2))
    panels[0].set_ylabel("row")
    figure.colorbar(image, ax=panels, label="share of the visitation", shrink=0.8)
    return figure


def plot_fields(x: Tensor, y: Tensor, fields: Mapping[str, Tensor], curls: Sequence[Tensor], radius: float) -> Figure:
    """Fields of directions over two parameters as stream lines, over their curl, and the circle one may walk round."""
    figure, panels = plt.subplots(1, len(fields), figsize=(7.2, 3.6), sharey=True)
    limit = max(float(curl.abs().max()) for curl in curls)
    angle = torch.linspace(0, 2 * math.pi, 200)
    for axes, (title, field), curl in zip(panels, fields.items(), curls, strict=True):
        image = axes.pcolormesh(x, y, curl.T, cmap="PuOr", vmin=-limit, vmax=limit, shading="auto", rasterized=True)
        u, v = (part.T.numpy() for part in field.unbind(-1))
        axes.streamplot(x.numpy(), y.numpy(), u, v, color=PALETTE[0], density=0.8, linewidth=0.8)
        axes.plot(radius * angle.cos(), radius * angle.sin(), color=PALETTE[1], linestyle="--")
        axes.set(title=title, xlabel=r"$\theta_1$", aspect="equal")
    panels[0].set_ylabel(r"$\theta_2$")
    figure.colorbar(image, ax=panels, label="curl", shrink=0.8)
    return figure


def plot_rates(gaps: Mapping[str, Tensor], bounds: Mapping[str, Tensor]) -> Figure:
    """The distance to the best performance against the number of steps, from 1, each with its bound if there is one."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    for (label, gap), color in zip(gaps.items(), PALETTE[1:], strict=False):
        steps = torch.arange(1, len(gap) + 1)
        axes.loglog(steps, gap, color=color, label=label)
        if label in bounds:
            axes.loglog(steps, bounds[label], color=color, linestyle="--", label="its bound")
    axes.set(xlabel="number of steps $t$", ylabel=r"distance $\delta_t$ to the best", ylim=(1e-4, 2e4))
    axes.legend(fontsize=9, ncols=2)
    return figure


def plot_plateaus(performances: Mapping[str, Tensor], levels: Mapping[str, float]) -> Figure:
    """The performance against the number of steps, on a logarithmic axis, and the values of deterministic choices."""
    figure, axes = plt.subplots()
    for text, level in levels.items():
        axes.axhline(level, color="0.6", linewidth=0.8)
        axes.text(1, level, text, transform=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=9)
    for (label, values), color, style in zip(performances.items(), PALETTE[1:], ("-", "--", "-.", ":"), strict=False):
        axes.semilogx(torch.arange(1, len(values) + 1), values, color=color, linestyle=style, label=label)
    axes.set(xlabel="number of steps $t$", ylabel="performance $J$")
    axes.legend(fontsize=9, loc="center left")
    return figure


# --- reinforce


def plot_corridor(p: Tensor, exact: Tensor, marks: Mapping[str, tuple[float, float]]) -> Figure:
    """The performance of the short corridor as a function of the one probability that the policy can choose."""
    figure, axes = plt.subplots()
    axes.plot(p, exact, color=PALETTE[1])
    for k, (name, (x, y)) in enumerate(marks.items()):
        axes.plot(x, y, marker="osD"[k % 3], color=PALETTE[2 + k], linestyle="none", label=name)
    axes.set(xlabel=r"probability of going right, $p$", ylabel=r"performance $J(p)$", xlim=(0, 1), ylim=(-100, 0))
    axes.legend(loc="lower center")
    return figure


def plot_learning_curves(returns: Mapping[str, Tensor], best: float, *, block: int = 10, ylim: float = -90) -> Figure:
    """The mean over runs of the returns `[episodes, runs]`, in blocks, with bands of two standard errors."""
    figure, axes = plt.subplots()
    for k, (name, values) in enumerate(returns.items()):
        blocks = values.reshape(-1, block, values.shape[1]).mean(1)
        mean = blocks.nanmean(-1)
        counts = blocks.isfinite().sum(-1)
        error = ((blocks - mean[:, None]).square().nansum(-1) / (counts - 1) / counts).sqrt()
        episodes = torch.arange(len(mean)) * block + block / 2
        axes.plot(episodes, mean, color=PALETTE[1 + k], linestyle=("-", "--", "-.")[k % 3], label=name)
        axes.fill_between(episodes, mean - 2 * error, mean + 2 * error, color=PALETTE[1 + k], alpha=0.25, linewidth=0)
    axes.axhline(best, color=PALETTE[0], linestyle=":", label=r"optimum $J(\theta_*)$")
    axes.set(xlabel="episode", ylabel=r"return $G_0$, mean over runs", ylim=(ylim, 0))
    axes.legend(loc="lower right")
    return figure


def plot_baseline_variance(constants: Tensor, variances: Tensor, marks: Mapping[str, tuple[float, float]]) -> Figure:
    """The variance of the estimate as a function of a constant baseline: a parabola."""
    figure, axes = plt.subplots()
    axes.plot(constants, variances, color=PALETTE[1])
    for k, (name, (x, y)) in enumerate(marks.items()):
        axes.plot(x, y, marker="osD"[k % 3], color=PALETTE[2 + k], linestyle="none", label=name)
    axes.set(xlabel="constant baseline $b$", ylabel="trace of the covariance")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def plot_ledger(names: Sequence[str], angles: Sequence[float], variances: Sequence[float]) -> Figure:
    """Two panels of bars, one pair per way of writing REINFORCE: the angle to the gradient, and the variance."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.6), sharey=True)
    places = range(len(names))
    for axes, values, color, label in (
        (left, angles, PALETTE[2], r"angle to $\nabla J$ (degrees)"),
        (right, variances, PALETTE[1], "variance (trace of the covariance)"),
    ):
        axes.barh(places, values, color=color)
        axes.set(xlabel=label, xlim=(0, 1.2 * max(values)))
        for place, value in zip(places, values, strict=True):
            axes.text(value, place, f" {value:.2g}" if value > 1e-6 else " 0", va="center", fontsize=9)
    left.set(yticks=places, yticklabels=names)
    left.invert_yaxis()
    return figure


def plot_variance_by_batch(sizes: Sequence[int], variances: Mapping[str, Sequence[float]]) -> Figure:
    """The exact variance of each estimate for batches of several sizes."""
    figure, axes = plt.subplots()
    for k, (name, values) in enumerate(variances.items()):
        axes.plot(sizes, values, marker="osDv^"[k % 5], color=PALETTE[1 + k], label=name)
    axes.set(xlabel="episodes in a batch, $N$", ylabel="trace of the covariance", xticks=sizes, yscale="log")
    axes.legend()
    return figure


def plot_training(
    episodes: Sequence[int], curves: Mapping[str, Sequence[float]], best: float, *, ylabel: str, best_label: str
) -> Figure:
    """What a training loop recorded, against the number of episodes drawn."""
    figure, axes = plt.subplots()
    for k, (name, values) in enumerate(curves.items()):
        axes.plot(episodes, values, color=PALETTE[1 + k], linestyle=("-", "--", "-.")[k % 3], label=name)
    axes.axhline(best, color=PALETTE[0], linestyle=":", label=best_label)
    axes.set(xlabel="episodes drawn", ylabel=ylabel)
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


# --- surrogates


def plot_surrogate_gap(steps: Tensor, performances: Tensor, surrogates: Tensor) -> Figure:
    """The performance along a line through the old parameters, and the surrogate that touches it there."""
    figure, axes = plt.subplots()
    axes.plot(steps, performances, color=PALETTE[0], label=r"performance $J$")
    axes.plot(steps, surrogates, color=PALETTE[2], linestyle="--", label=r"surrogate $L$")
    axes.plot([0.0], [float(performances[steps.abs().argmin()])], "o", color=PALETTE[1], label="old policy")
    axes.set(xlabel=r"step $\alpha$ along the gradient", ylabel="value", ylim=(None, 1.1 * float(surrogates.max())))
    axes.legend()
    return figure


def plot_clipped_surrogate(ratios: Tensor, objectives: Sequence[Tensor], slopes: Sequence[Tensor]) -> Figure:
    """The clipped surrogate and its derivative by the log-probability, for an advantage of 1 and one of -1."""
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.4))
    for axes, objective, slope, sign in zip(panels, objectives, slopes, ("+1", "-1"), strict=True):
        axes.plot(ratios, objective, color=PALETTE[1], label="objective")
        axes.plot(ratios, slope, color=PALETTE[2], linestyle="--", label="its gradient")
        axes.axvline(1.0, color="0.6", linewidth=0.8)
        axes.set(title=rf"$\hat A = {sign}$", xlabel=r"ratio $\rho$")
    panels[0].set_ylabel("value")
    panels[0].legend(loc="upper left", fontsize=9)
    return figure


def plot_bias_and_deviation(lams: Tensor, bias: Mapping[str, Tensor], deviation: Mapping[str, Tensor]) -> Figure:
    """Bias and standard deviation of generalized advantages against λ, a curve for each value function."""
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.4))
    for axes, curves, label in zip(panels, (bias, deviation), ("bias", "standard deviation"), strict=True):
        for (name, values), color, style in zip(curves.items(), PALETTE[1:], ("-", "--", "-.", ":"), strict=False):
            axes.plot(lams, values, color=color, linestyle=style, label=name)
        axes.set(xlabel=r"$\lambda$", ylabel=label, ylim=(-0.02 * float(max(v.max() for v in curves.values())), None))
    panels[0].legend(fontsize=9)
    return figure


def plot_bands(grid: Tensor, bands: Mapping[str, Tensor], lines: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """For each entry of `bands`, [runs, points], the median and the middle 80 per cent; single curves as lines."""
    figure, axes = plt.subplots()
    for (name, runs), color, style in zip(bands.items(), PALETTE[1:], ("-", "--", "-."), strict=False):
        low, median, high = runs.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=runs.dtype), dim=0)
        axes.fill_between(grid, low, high, color=color, alpha=0.2, linewidth=0)
        axes.plot(grid, median, color=color, linestyle=style, label=name)
    for name, (x, y) in lines.items():
        axes.plot(x, y, color=PALETTE[0], linestyle=":", label=name)
    axes.set(xlabel="environment steps", ylabel=r"performance $J$", xlim=(0, float(grid[-1])))
    axes.legend(loc="lower right", fontsize=9)
    return figure


def plot_difficulty(success: Tensor, weights: Mapping[str, Tensor]) -> Figure:
    """The weight that a group loss gives to a prompt, against the probability that the prompt is solved."""
    figure, axes = plt.subplots()
    for (name, values), color, style in zip(weights.items(), PALETTE, (":", "-", "--", "-."), strict=False):
        axes.plot(success, values, color=color, linestyle=style, label=name)
    axes.set(xlabel="probability of success $p$", ylabel="weight $w(p)$", ylim=(0, None))
    axes.legend(fontsize=9)
    return figure


def plot_length_bias(lengths: Sequence[int], pushes: Mapping[str, Tensor]) -> Figure:
    """The push on a long answer, divided by that on the short one of equal worth, against its length."""
    figure, axes = plt.subplots()
    for (name, values), color, style in zip(pushes.items(), PALETTE[1:], ("-", "--", "-.", ":"), strict=False):
        axes.plot(lengths, values, color=color, linestyle=style, marker="o", markersize=4, label=name)
    axes.axhline(0.0, color="0.6", linewidth=0.8)
    axes.set(xlabel="tokens of the long answer", ylabel="push, long / short answer")
    axes.legend(fontsize=9)
    return figure


def plot_total_rewards(steps: Sequence[int], totals: Sequence[float], best: float) -> Figure:
    """The mean total reward of the episodes that ended in each rollout, against the number of environment steps."""
    figure, axes = plt.subplots()
    axes.axhline(best, color=PALETTE[0], linestyle=":", label="the largest possible")
    axes.plot(steps, totals, color=PALETTE[1], marker="o", markersize=4, label="PPO")
    axes.set(xlabel="environment steps", ylabel="total reward of an episode", ylim=(0, 1.05 * best))
    axes.legend(loc="lower right")
    return figure


# --- checking


def plot_mistake_curves(curves: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """A small panel for each mistake: the exact run without it (solid) and with it (dashed)."""
    figure, panels = plt.subplots(-(-len(curves) // 2), 2, figsize=(6.4, 1.9 * -(-len(curves) // 2)), squeeze=False)
    for axes, (name, (right, wrong)) in zip(panels.flat, curves.items(), strict=False):
        axes.plot(right, color=PALETTE[1], label="right")
        axes.plot(wrong, color=PALETTE[2], linestyle="--", label="with the mistake")
        axes.set_title(name, fontsize=11, loc="left")
        axes.margins(y=0.12)
    for axes in panels.flat[len(curves) :]:
        axes.axis("off")
    for axes in panels.flat[max(len(curves) - 2, 0) : len(curves)]:
        axes.set_xlabel("step")
    figure.supylabel("performance", fontsize=11)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
