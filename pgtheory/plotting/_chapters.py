"""The curves of the book, in the order of its chapters."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType
from torch import Tensor

from pgtheory.plotting._theme import STYLES, color, drawn, label_ends, new_figure, note, ramp, spread


def _above(figure: Figure, axes: Axes, columns: int) -> None:
    """A legend above the axes, for lines that end where there is no room for a label."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=1.4, columnspacing=0.9)


# --- mdp


@drawn
def plot_trajectory_counts(counts: Mapping[str, Sequence[int]]) -> Figure:
    """The number of trajectories of positive probability against the horizon, from 1, on a logarithmic axis."""
    figure, (axes,) = new_figure(2.9)
    lines = {}
    for (label, numbers), ink, marker in zip(counts.items(), ramp(len(counts)), "os^D", strict=False):
        (line,) = axes.semilogy(range(1, len(numbers) + 1), numbers, marker=marker, markersize=4, color=ink)
        lines[label] = line
    axes.set(xlabel="horizon $T$ (steps)", ylabel="trajectories")
    label_ends(axes, lines)
    return figure


@drawn
def plot_z_scores(exact: Tensor, frequencies: Tensor, n: int) -> Figure:
    """How far each sampled frequency is from its exact probability, in standard errors, with the band of two."""
    figure, (axes,) = new_figure(2.7)
    z = (frequencies - exact) / (exact * (1 - exact) / n).sqrt()
    z = z[exact.argsort(descending=True)]
    places = torch.arange(1, len(z) + 1)
    far = z.abs() > 2
    axes.axhspan(-2, 2, color=color("sampled"), alpha=0.15, linewidth=0)
    axes.axhline(0, color=color("exact"), linewidth=1.2)
    axes.vlines(places, 0, z, color=color("sampled"), linewidth=0.8)
    axes.plot(places[~far], z[~far], "o", color=color("sampled"), markersize=4)
    axes.plot(places[far], z[far], "o", color=color("exact"), markersize=5, markerfacecolor=color("sampled"))
    limit = max(3.2, 1.1 * float(z.abs().max()))
    axes.set(xlabel="trajectory, most probable first", ylabel="standard errors off", ylim=(-limit, limit))
    axes.text(len(z), 2.1, "19 of 20 should lie in the band", va="bottom", ha="right")
    return figure


# --- returns


@drawn
def plot_returns_by_discount(gammas: Tensor, returns: Mapping[str, Tensor]) -> Figure:
    """The whole return of each trajectory against the discount factor; a dotted line where another becomes the best."""
    figure, (axes,) = new_figure(2.7)
    inks = ramp(len(returns))
    lines = {name: axes.plot(gammas, y, color=ink)[0] for (name, y), ink in zip(returns.items(), inks, strict=True)}
    best = torch.stack(list(returns.values())).argmax(0)
    for k in (best[1:] != best[:-1]).nonzero().flatten().tolist():
        axes.axvline(float(gammas[k : k + 2].mean()), color=color("faint"), linewidth=0.8, linestyle=(0, (1, 3)))
    axes.set(xlabel=r"discount factor $\gamma$", ylabel="return $G_0$", xlim=(float(gammas[0]), float(gammas[-1])))
    label_ends(axes, lines)
    return figure


@drawn
def plot_discount_factors(factors: Mapping[float, Tensor], horizons: Mapping[float, float]) -> Figure:
    """The weight of a reward k steps ahead for each discount factor; a dot marks k at its effective horizon."""
    figure, (axes,) = new_figure(2.9)
    for (gamma, weights), ink in zip(factors.items(), ramp(len(factors)), strict=True):
        k = horizons[gamma]
        axes.plot(torch.arange(1, len(weights)), weights[1:], color=ink)
        axes.plot(k, gamma**k, "o", color=ink)
        note(axes, f"{gamma:g}", (k, gamma**k), (10, 9), ha="left", color=ink)
    axes.axhline(1 / math.e, color=color("faint"), linewidth=0.8, linestyle=(0, (1, 3)))
    axes.annotate("$1/e$", (0, 1 / math.e), (3, 2), ("axes fraction", "data"), "offset points", ha="left", va="bottom")
    axes.set(xlabel="steps ahead $k$", ylabel=r"weight $\gamma^k$", xscale="log", xlim=(0.5, None), ylim=(-0.02, 1.05))
    return figure


# --- value_functions


@drawn
def plot_contraction(errors: Mapping[float, Tensor]) -> Figure:
    """The largest error after k applications of a Bellman operator, for each discount factor; its bound is dotted."""
    figure, (axes,) = new_figure(3.0)
    lines = {}
    for (gamma, error), ink in zip(errors.items(), ramp(len(errors)), strict=True):
        k = torch.arange(len(error))
        (line,) = axes.semilogy(k, error, color=ink)
        axes.semilogy(k, gamma ** k.double() * error[0], color=ink, linestyle=":")
        lines[rf"$\gamma={gamma:g}$"] = line
    axes.set(xlabel="applications $k$ of the operator", ylabel=r"error $\|T_\pi^k v - v_\pi\|_\infty$")
    axes.set_ylim(bottom=1e-17)  # below the rounding of float64 there is nothing to see
    label_ends(axes, lines)
    return figure


@drawn
def plot_values_by_steps_left(values: Mapping[str, Tensor], change: int | None = None) -> Figure:
    """Finite-horizon values ([T+1], index = time) against the steps left; the best action changes at `change`."""
    figure, (axes,) = new_figure(2.9)
    lines = {}
    for (name, by_time), marker in zip(values.items(), "os^D", strict=False):
        (lines[name],) = axes.plot(by_time.flip(0), color=color("v"), marker=marker, markersize=4)
    axes.set(xlabel="steps left $T - t$", ylabel="value $v_t$")
    if change is not None:
        axes.axvline(change, color=color("pi"), linestyle=":")
        axes.annotate(
            "the best action changes", (change, 0.05), (5, 0), ("data", "axes fraction"), "offset points",
            color=color("pi"),
        )  # fmt: skip
    label_ends(axes, lines)
    return figure


@drawn
def plot_estimates(exact: Tensor, estimates: Mapping[str, tuple[Tensor, Tensor]], names: Sequence[str]) -> Figure:
    """Sampled means with two standard errors to either side, for each state, beside the exact values (bars)."""
    figure, (axes,) = new_figure(3.0)
    places = torch.arange(len(exact))
    shifts = (-0.12, 0.12, 0.0, 0.24)
    for k, ((label, (mean, error)), marker, shift) in enumerate(zip(estimates.items(), "os^D", shifts, strict=False)):
        face = color("sampled") if k % 2 == 0 else color("paper")
        style: dict[str, Any] = {
            "fmt": marker,
            "markersize": 5,
            "capsize": 3,
            "color": color("sampled"),
            "markerfacecolor": face,
        }
        axes.errorbar(places + shift, mean, 2 * error, label=label, **style)
    axes.hlines(exact, places - 0.3, places + 0.3, color=color("exact"), linewidth=1.8, label="exact")
    axes.set(xlabel="state", ylabel="value", xticks=places, xticklabels=names)
    axes.legend(loc="upper left")
    return figure


# --- softmax_policy


@drawn
def plot_knobs(changes: Tensor, performances: Mapping[str, Tensor]) -> Figure:
    """The performance against the change of one preference, a curve for each of them, through the policy as it is."""
    figure, (axes,) = new_figure(3.1)
    now = float(next(iter(performances.values()))[changes.abs().argmin()])
    axes.axhline(now, color=color("faint"), linewidth=0.8)
    lines = {
        name: axes.plot(changes, values, color=color("v"), linestyle=style)[0]
        for (name, values), style in zip(performances.items(), STYLES, strict=False)
    }
    axes.plot(0, now, "o", color=color("exact"), markersize=6)
    note(axes, "the model as it is", (0, now), (30, 10), ha="left")
    axes.set(xlabel="change of one preference", ylabel=r"performance $J$", xlim=(float(changes[0]), float(changes[-1])))
    label_ends(axes, lines)
    return figure


@drawn
def plot_continuous_policy(actions: Tensor, rewards: Tensor, densities: Mapping[str, Tensor]) -> Figure:
    """The reward of an action that is a number, and above it the densities of policies that choose one."""
    figure, (above, below) = new_figure(3.9, 2, 1, sharex=True, height_ratios=(3, 2))
    for (name, density), style in zip(densities.items(), STYLES, strict=False):
        above.plot(actions, density, color=color("pi"), linestyle=style, label=name)
    below.plot(actions, rewards, color=color("exact"))
    best = float(actions[rewards.argmax()])
    for axes in (above, below):
        axes.axvline(best, color=color("faint"), linewidth=0.8)
    above.set(ylabel=r"density $\pi(a)$", ylim=(0, None))
    below.set(xlabel="action $a$", ylabel="reward", xlim=(float(actions[0]), float(actions[-1])))
    _above(figure, above, len(densities))
    return figure


@drawn
def plot_two_action_response(gaps: Tensor, probability: Tensor, slope: Tensor, entropies: Tensor) -> Figure:
    """Two actions: the probability of the first, its slope and the entropy, against the difference of preferences."""
    figure, (axes,) = new_figure(2.9)
    axes.plot(gaps, probability, color=color("pi"))
    axes.plot(gaps, entropies, "--", color=color("pi"))
    axes.plot(gaps, slope, ":", color=color("pi"))
    left, right = float(gaps[0]), float(gaps[-1])
    for x, y, text, side in ((right, 0.88, r"$\pi(a_1)$", "right"), (left / 5, 0.6, "entropy (nats)", "right"),
                             (0.0, 0.07, "slope", "center")):  # fmt: skip
        axes.text(x, y, text, ha=side, color=color("pi"))
    axes.set(xlabel=r"difference of preferences $h(a_1) - h(a_2)$", ylabel="value", ylim=(-0.03, 1.03))
    return figure


def simplex_grid(n: int) -> Tensor:
    """The probability vectors over three actions whose entries are odd multiples of 1/(3n): inside the simplex."""
    i, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    i, j = i[i + j < n], j[i + j < n]
    counts = torch.stack([i, j, n - 1 - i - j], -1).double()
    return (counts + 1 / 3) / n


@drawn
def plot_simplex_flow(policies: Tensor, velocities: Tensor) -> Figure:
    """Policies over three actions as points of a triangle, and the velocity of each as an arrow."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]], dtype=policies.dtype)
    x, y = (policies @ corners).T
    u, v = (velocities @ corners).T
    figure, (axes,) = new_figure(3.7)
    axes.fill(*corners.T, facecolor="none", edgecolor=color("exact"))
    axes.quiver(x, y, u, v, color=color("pi"), scale=3.4, width=0.006, pivot="tail")
    for k, (offset, anchor) in enumerate([((-0.02, -0.06), "left"), ((1.02, -0.06), "right"), ((0.5, 0.92), "center")]):
        axes.text(*offset, rf"$a_{k + 1}$ certain", ha=anchor, va="center")
    axes.set(aspect="equal", xlim=(-0.08, 1.08), ylim=(-0.1, 0.97))
    axes.axis("off")
    return figure


# --- decoding


@drawn
def plot_nucleus(probabilities: Tensor, p: float, n_kept: int) -> Figure:
    """Probabilities in descending order stacked to their cumulative mass, with the nucleus and the crossing token."""
    figure, (axes,) = new_figure(3.0)
    ranks = torch.arange(len(probabilities))
    before = torch.cat([probabilities.new_zeros(1), probabilities.cumsum(0)[:-1]])
    ink = color("pi")
    for first, last, fill, hatch in (
        (0, n_kept - 1, ink, ""),
        (n_kept - 1, n_kept, ink, "////"),
        (n_kept, len(ranks), "none", ""),
    ):
        part = slice(first, last)
        style: dict[str, Any] = {
            "facecolor": fill if not hatch else "none",
            "edgecolor": ink if fill != "none" else color("faint"),
        }
        axes.bar(
            ranks[part].numpy() + 1,
            probabilities[part].numpy(),
            bottom=before[part].numpy(),
            width=0.9,
            hatch=hatch,
            **style,
        )
    axes.axhline(p, color=color("exact"), linestyle="--", linewidth=1.2)
    axes.annotate(f"$p={p:g}$", (0.5, p), (0, 2), textcoords="offset points", va="bottom")
    middle = n_kept // 2
    note(axes, "the nucleus", (middle + 1.5, float(before[middle])), (2, -2), ha="left", va="top", color=ink)
    note(axes, "the crossing token", (n_kept + 0.5, float(before[n_kept - 1])), (2, -2), ha="left", va="top", color=ink)
    note(axes, "left out", (len(ranks) + 0.45, float(before[-2])), (0, -4), ha="right", va="top", color=color("faint"))
    axes.set(xlabel="rank of the token", ylabel="cumulative probability", xticks=ranks + 1, ylim=(0, 1.02))
    return figure


@drawn
def plot_temperature_paths(
    temperatures: Tensor, probabilities: Tensor, entropies: Tensor, *, names: Sequence[str]
) -> Figure:
    """The probability of each token, and the entropy of the distribution, against the temperature."""
    figure, (above, below) = new_figure(4.2, 2, 1, sharex=True, height_ratios=[3, 2])
    inks = ramp(probabilities.shape[-1])
    lines = {
        name: above.plot(temperatures, curve, color=ink)[0]
        for name, curve, ink in zip(names, probabilities.T, inks, strict=True)
    }
    below.plot(temperatures, entropies, color=color("pi"))
    for axes in (above, below):
        axes.axvline(1, color=color("faint"), linewidth=0.8, linestyle=(0, (1, 3)))
    above.set(ylabel=r"probability $\pi_\tau(a)$", xscale="log", ylim=(-0.02, 1.02))
    label_ends(above, lines)
    below.set(xlabel=r"temperature $\tau$", ylabel="entropy (nats)", ylim=(0, None))
    return figure


@drawn
def plot_decoding_performance(sweeps: Mapping[str, tuple[Tensor, Tensor]], names: Sequence[str]) -> Figure:
    """J of the decoded policy against each setting: one panel for each sweep, one curve for each of `names`."""
    figure, panels = new_figure(2.8, 1, len(sweeps), sharey=True)
    inks = (color("faint"), color("faint"), color("v"))
    for axes, (setting, (values, performances)) in zip(panels, sweeps.items(), strict=True):
        for name, curve, ink, line in zip(names, performances.T, inks, ("--", ":", "-"), strict=False):
            few = "o" if len(values) < 10 else None
            axes.plot(values, curve, color=ink, linestyle=line, marker=few, markersize=4, label=name)
        axes.set_xlabel(setting)
    panels[0].set_ylabel(r"expected return $J(\pi')$")
    _above(figure, panels[0], len(names))
    return figure


# --- policy_gradient


@drawn
def plot_slope(theta: Tensor, performances: Tensor, slope: float) -> Figure:
    """The performance over one parameter, and the line that touches it at 0."""
    figure, (axes,) = new_figure(2.7)
    now, near = float(performances[theta.abs().argmin()]), theta[theta.abs() <= 2.5]
    axes.plot(theta, performances, color=color("v"))
    axes.plot(near, now + slope * near, color=color("exact"), linewidth=1.2)
    axes.plot(0, now, "o", color=color("exact"), markersize=6)
    note(axes, f"slope {slope:.3f}".replace("-", "−"), (0, now), (12, 8), ha="left")
    axes.set(xlabel=r"preference $\theta$ for searching", ylabel=r"performance $J(\theta)$")
    axes.set_xlim(float(theta[0]), float(theta[-1]))
    return figure


@drawn
def plot_ascents(performances: Mapping[str, Tensor], best: float) -> Figure:
    """The distance of the performance to the best, on a logarithmic scale, against the steps of each optimiser."""
    figure, (axes,) = new_figure(3.0)
    for (label, values), line in zip(performances.items(), STYLES, strict=False):
        axes.semilogy(best - values, color=color("v"), linestyle=line, label=label)
    axes.set(xlabel="gradient steps", ylabel=r"distance $\max J - J(\theta_t)$")
    _above(figure, axes, 2)
    return figure


@drawn
def plot_fields(x: Tensor, y: Tensor, fields: Mapping[str, Tensor], curls: Sequence[Tensor], radius: float) -> Figure:
    """Fields of directions over two parameters as stream lines, over their curl, and the circle one may walk round."""
    figure, panels = new_figure(3.5, 1, len(fields), sharey=True)
    limit = max(float(curl.abs().max()) for curl in curls)
    angle = torch.linspace(0, 2 * math.pi, 200)
    for axes, (title, field), curl in zip(panels, fields.items(), curls, strict=True):
        image = axes.pcolormesh(
            x.numpy(), y.numpy(), curl.T.numpy(), cmap="PuOr", vmin=-limit, vmax=limit, shading="auto", rasterized=True
        )
        u, v = (part.T.numpy() for part in field.unbind(-1))
        axes.streamplot(x.numpy(), y.numpy(), u, v, color="#000000", density=0.45, linewidth=0.8)
        axes.plot(radius * angle.cos(), radius * angle.sin(), color="#B3201A", linestyle="--")
        axes.set(title=title, xlabel=r"$\theta_1$", xticks=[-4, 0, 4], box_aspect=1)
    panels[0].set_ylabel(r"$\theta_2$")
    figure.colorbar(
        image, ax=panels, label="curl", orientation="horizontal", aspect=30, ticks=[-limit, 0, limit], format="%.2g"
    )
    return figure


@drawn
def plot_plateaus(performances: Mapping[str, Tensor], levels: Mapping[str, float]) -> Figure:
    """The performance against the number of steps, on a logarithmic axis, and the values of deterministic choices."""
    figure, (axes,) = new_figure(3.0)
    for text, level in levels.items():
        axes.axhline(level, color=color("faint"), linewidth=0.8)
        side = 1 if level == max(levels.values()) else -1
        place: dict[str, Any] = {"va": "bottom" if side > 0 else "top"}
        axes.annotate(text, (0, level), (2, 2 * side), ("axes fraction", "data"), "offset points", **place)
    low, high = min(levels.values()), max(levels.values())
    for (label, values), ink in zip(performances.items(), ramp(len(performances)), strict=True):
        axes.semilogx(torch.arange(1, len(values) + 1), values, color=ink)
        half = int((values > 0.3 * low + 0.7 * high).int().argmax())
        note(axes, label, (half + 1, float(values[half])), (0, 0), color=ink)
    axes.set(xlabel="steps $t$", ylabel="performance $J$", ylim=(low - 0.15 * (high - low), high + 0.15 * (high - low)))
    return figure


@drawn
def plot_gradient_clouds(clouds: Mapping[str, Tensor], gradient: Tensor, *, wrong: Sequence[str] = ()) -> Figure:
    r"""Clouds of estimates :math:`\hat g` in a plane, with their mean and the exact gradient as an arrow, a panel each.

    Args:
        clouds: for each estimator its estimates, `[N, 2]`.
        gradient: the exact gradient, `[2]`.
        wrong: the names of those that estimate something else.

    Returns:
        The drawing: all panels have the same axes, so that the clouds can be compared.

    Example:
        >>> import torch
        >>> cloud = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> drawing = plot_gradient_clouds({"right": cloud + torch.ones(2)}, torch.ones(2))
    """
    figure, panels = new_figure(2.5, 1, len(clouds), sharex=True, sharey=True)
    every = torch.cat([*clouds.values(), gradient[None], torch.zeros_like(gradient)[None]])
    low, high = every.quantile(0.005, 0), every.quantile(0.995, 0)
    half = 0.55 * float((high - low).max())
    tip = (float(gradient[0]), float(gradient[1]))
    for axes, (name, cloud) in zip(panels, clouds.items(), strict=True):
        ink = color("wrong" if name in wrong else "sampled")
        axes.plot(*cloud.T, "o", color=ink, markersize=2.4, alpha=0.35, markeredgecolor="none")
        axes.axhline(0, color=color("faint"), linewidth=0.6)
        axes.axvline(0, color=color("faint"), linewidth=0.6)
        style: dict[str, Any] = {
            "arrowstyle": "-|>",
            "color": color("exact"),
            "linewidth": 2,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axes.annotate("", tip, (0, 0), arrowprops=style, zorder=5)
        mean = cloud.mean(0)
        axes.plot(*mean, "o", color=ink, markersize=9, markeredgecolor=color("paper"), markeredgewidth=2, zorder=6)
        axes.set(title=name, xticks=[], yticks=[], aspect="equal")
        axes.title.set_color(ink)
        middle = ((low + high) / 2).tolist()
        axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
    note(panels[0], r"$\nabla J$", tip, (9, 9), zorder=7)
    return figure


# --- prologue


@drawn
def plot_runs(curves: Mapping[str, Tensor], *, ylabel: str) -> Figure:
    """The learning curves `[runs, updates]` of each program in a panel, as a log has them: with nothing exact."""
    figure, panels = new_figure(2.4, 1, len(curves), sharey=True)
    for axes, (name, runs) in zip(panels, curves.items(), strict=True):
        axes.plot(range(1, runs.shape[1] + 1), runs.T, color=color("sampled"), linewidth=0.8, alpha=0.6)
        axes.set(title=name, xlabel="update", ylim=(0, 1.05))
    panels[0].set(ylabel=ylabel)
    return figure


# --- reinforce


def _marks(axes: Axes, marks: Mapping[str, tuple[float, float]], shifts: Sequence[tuple[int, int]]) -> None:
    for (name, (x, y)), shift in zip(marks.items(), shifts, strict=False):
        axes.plot(x, y, "o", color=color("exact"), markersize=6)
        ha = "left" if shift[0] > 0 else "right" if shift[0] < 0 else "center"
        axes.annotate(name, (x, y), shift, textcoords="offset points", ha=ha, va="center")


@drawn
def plot_corridor(p: Tensor, exact: Tensor, marks: Mapping[str, tuple[float, float]]) -> Figure:
    """The performance of the short corridor as a function of the one probability that the policy can choose."""
    figure, (axes,) = new_figure(2.9)
    axes.plot(p, exact, color=color("v"))
    _marks(axes, marks, [(0, 10), (9, 0), (-9, 0)])
    axes.set(xlabel=r"probability of going right, $p$", ylabel=r"performance $J(p)$", xlim=(0, 1), ylim=(-100, 5))
    return figure


@drawn
def plot_learning_curves(returns: Mapping[str, Tensor], best: float, *, block: int = 10, ylim: float = -90) -> Figure:
    """The mean over runs of the returns `[episodes, runs]`, in blocks, with bands of two standard errors."""
    figure, (axes,) = new_figure(3.2)
    for (name, values), line in zip(returns.items(), STYLES, strict=False):
        blocks = values.reshape(-1, block, values.shape[1]).mean(1)
        mean = blocks.nanmean(-1)
        counts = blocks.isfinite().sum(-1)
        error = ((blocks - mean[:, None]).square().nansum(-1) / (counts - 1) / counts).sqrt()
        episodes = torch.arange(len(mean)) * block + block / 2
        ink = color("pi") if name.startswith("baseline") else color("sampled")
        axes.plot(episodes, mean, color=ink, linestyle=line, label=name, linewidth=1.4)
        axes.fill_between(episodes, mean - 2 * error, mean + 2 * error, color=ink, alpha=0.25, linewidth=0)
    axes.axhline(best, color=color("exact"), linewidth=1.2)
    axes.annotate(r"optimum $J(\theta_*)$", (1, best), (0, 3), ("axes fraction", "data"), "offset points", ha="right")
    axes.set(xlabel="episode", ylabel=r"return $G_0$, mean over runs", ylim=(ylim, 2))
    _above(figure, axes, 2)
    return figure


@drawn
def plot_baseline_variance(constants: Tensor, variances: Tensor, marks: Mapping[str, tuple[float, float]]) -> Figure:
    """The variance of the estimate as a function of a constant baseline: a parabola."""
    figure, (axes,) = new_figure(2.9)
    axes.plot(constants, variances, color=color("exact"))
    _marks(axes, marks, [(-8, -8), (8, -8), (0, 12)])
    axes.set(xlabel="constant baseline $b$", ylabel="trace of the covariance")
    axes.set_ylim(bottom=-0.14 * float(max(variances)))  # room for the names
    return figure


@drawn
def plot_ledger(
    names: Sequence[str], angles: Sequence[float], lengths: Sequence[float], variances: Sequence[float]
) -> Figure:
    """Ways of writing REINFORCE by the angle of their mean to the gradient and by their variance, in three groups.

    The groups: unbiased; the right direction with another length; another direction.
    """
    figure, (axes,) = new_figure(4.4)
    groups = [
        0 if a < 1e-3 and abs(x - 1) < 1e-3 else 1 if a < 1e-3 else 2 for a, x in zip(angles, lengths, strict=True)
    ]
    kinds = (
        ("exact", "o", "unbiased"),
        ("sampled", "s", "right direction, wrong length"),
        ("wrong", "D", "another direction"),
    )
    for group, (name, marker, text) in enumerate(kinds):
        members = [k for k, g in enumerate(groups) if g == group]
        axes.plot([angles[k] for k in members], [variances[k] for k in members], marker, color=color(name), label=text)
    axes.set(xlabel=r"angle between the mean and $\nabla J$ (degrees)", ylabel="variance (trace of the covariance)")
    wide = max(angles)
    axes.set(yscale="log", xlim=(-0.78 * wide, 1.4 * wide), xticks=range(0, int(wide) + 1, 20))
    axes.axvline(0, color=color("faint"), linewidth=0.8)
    points = [(n, x, y, kinds[g][0]) for n, x, y, g in zip(names, angles, variances, groups, strict=True)]
    _label_points(axes, [p for p in points if p[1] < 1e-3], left=True)
    _label_points(axes, [p for p in points if p[1] >= 1e-3])
    _above(figure, axes, 1)
    return figure


def _label_points(axes: Axes, points: Sequence[tuple[str, float, float, str]], *, left: bool = False) -> None:
    """Write beside each point its name; those that would collide are moved up or down, with a line to their point."""
    axes.autoscale_view()
    to_axes = axes.transData + axes.transAxes.inverted()
    places = [to_axes.transform((x, y)).tolist() for _, x, y, _ in points]
    for (name, x, y, ink), (across, _), height in zip(
        points, places, spread([y for _, y in places], 0.058), strict=True
    ):
        beside = max((other for other, _ in places if abs(other - across) < 0.07), default=across)
        edge = across - 0.04 if left else beside + 0.04
        line: dict[str, Any] = {
            "arrowstyle": "-",
            "color": color("faint"),
            "linewidth": 0.6,
            "shrinkA": 0,
            "shrinkB": 3,
        }
        side: dict[str, Any] = {"ha": "right" if left else "left", "va": "center", "textcoords": "axes fraction"}
        axes.annotate(name, (x, y), (edge, height), arrowprops=line, color=color(ink), **side)


@drawn
def plot_seeds(
    episodes: Sequence[int],
    groups: Mapping[str, Sequence[Sequence[float]]],
    best: float,
    *,
    ylabel: str,
    best_label: str,
    ink: str | Mapping[str, str] = "v",
) -> Figure:
    """What runs of a training loop recorded, a line for each seed, against the number of episodes drawn.

    The groups differ in their line, and may in their `ink`; the name of each stands beside the end of its median run.
    """
    figure, (axes,) = new_figure(3.0)
    medians = {}
    for (name, runs), line in zip(groups.items(), STYLES, strict=False):
        tone = color(ink if isinstance(ink, str) else ink[name])
        lines = [axes.plot(episodes, run, color=tone, linestyle=line, linewidth=1.3)[0] for run in runs]
        medians[name] = lines[sorted(range(len(runs)), key=lambda k: runs[k][-1])[len(runs) // 2]]
    axes.axhline(best, color=color("exact"), linewidth=1.2)
    axes.annotate(best_label, (0, best), (3, 3), ("axes fraction", "data"), "offset points")
    axes.set(xlabel="episodes drawn", ylabel=ylabel, xlim=(0, max(episodes)), ylim=(0, 1.12 * best))
    axes.locator_params(axis="x", nbins=4)
    label_ends(axes, medians)
    return figure


# --- surrogates


@drawn
def plot_surrogate_gap(
    x: Tensor, performances: Tensor, surrogates: Tensor, bounds: Mapping[str, Tensor], *, old: float, xlabel: str
) -> Figure:
    """The performance along a line of policies, the surrogate that touches it at `old`, and bounds from below."""
    figure, (axes,) = new_figure(3.2)
    (first,) = axes.plot(x, performances, color=color("v"))
    (second,) = axes.plot(x, surrogates, color=color("q"), linestyle="--")
    low, high = float(performances.min()), float(surrogates.max())
    axes.set(xlabel=xlabel, ylabel="value", ylim=(low - 0.05 * (high - low), high + 0.1 * (high - low)))
    for (name, values), line, side in zip(bounds.items(), (":", "-."), (1, -1), strict=True):
        axes.plot(x, values, color=color("sampled"), linestyle=line)
        ends = x[values > low + 0.25 * (high - low)]
        place = float(ends.max() if side > 0 else ends.min()), low + 0.2 * (high - low)
        note(axes, name, place, (6 * side, 0), ha="left" if side > 0 else "right", color=color("sampled"))
    _marks(axes, {"old policy": (old, float(performances[(x - old).abs().argmin()]))}, [(-8, 8)])
    label_ends(axes, {r"$J$": first, r"$L$": second})
    return figure


@drawn
def plot_bias_and_deviation(lams: Tensor, bias: Mapping[str, Tensor], deviation: Mapping[str, Tensor]) -> Figure:
    """Bias and standard deviation of generalized advantages against λ, a curve for each value function."""
    figure, panels = new_figure(2.9, 1, 2)
    for axes, curves, label in zip(panels, (bias, deviation), ("bias", "standard deviation"), strict=True):
        for (name, values), line in zip(curves.items(), STYLES, strict=False):
            axes.plot(lams, values, color=color("q"), linestyle=line, label=name)
        axes.set(xlabel=r"$\lambda$", title=label, ylim=(-0.02 * float(max(v.max() for v in curves.values())), None))
    _above(figure, panels[0], len(bias))
    return figure


@drawn
def plot_bands(x: Tensor, bands: Mapping[str, Tensor], *, xlabel: str) -> Figure:
    """For each entry of `bands`, [runs, points], the median performance and the middle 80 per cent."""
    figure, (axes,) = new_figure(3.4)
    lines = _bands(axes, x, bands)
    axes.set(xlabel=xlabel, ylabel=r"exact performance $J$", xlim=(float(x[0]), float(x[-1])))
    label_ends(axes, lines)
    return figure


def _bands(axes: Axes, x: Tensor, bands: Mapping[str, Tensor]) -> dict[str, Line2D]:
    inks = zip(bands.items(), ramp(len(bands)), STYLES, strict=False)
    return {name: _band(axes, x, runs, ink, style, alpha=0.15, label=name) for (name, runs), ink, style in inks}


def _band(
    axes: Axes, x: Tensor, runs: Tensor, ink: str, style: LineStyleType = "-", *, alpha: float, label: str | None = None
) -> Line2D:
    """The median of runs [runs, points] as a line, and the middle 80 per cent around it."""
    low, median, high = runs.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=runs.dtype), dim=0)
    axes.fill_between(x, low, high, color=ink, alpha=alpha, linewidth=0)
    (line,) = axes.plot(x, median, color=ink, linestyle=style, label=label)
    return line


@drawn
def plot_step_sizes(step_sizes: Tensor, panels: Mapping[str, Mapping[str, Tensor]], *, lowest: float) -> Figure:
    """What each learner has reached against its step size: a panel for each kind, a band for each of [runs, sizes]."""
    figure, found = new_figure(3.4, 1, len(panels), sharey=True)
    for axes, (title, bands) in zip(found, panels.items(), strict=True):
        _bands(axes, step_sizes, bands)
        axes.set(title=title, xscale="log", ylim=(lowest, None))
        axes.set_xticks([0.1, 1.0], ["0.1", "1"])
        axes.minorticks_off()
        axes.set_xlabel(r"step size $\alpha$")
    found[0].set_ylabel(r"exact performance $J$")
    _above(figure, found[0], len(next(iter(panels.values()))))
    return figure


@drawn
def plot_difficulty(success: Tensor, weights: Mapping[str, Tensor]) -> Figure:
    """The weight that a group loss gives to a prompt, against the probability that the prompt is solved."""
    figure, (axes,) = new_figure(3.0)
    lines = {}
    for k, ((name, values), ink) in enumerate(
        zip(weights.items(), [color("exact"), *ramp(len(weights) - 1)], strict=True)
    ):
        (lines[name],) = axes.plot(success, values, color=ink, linestyle="-" if k else "--")
    axes.set(xlabel="probability of success $p$", ylabel="weight $w(p)$", ylim=(0, None))
    label_ends(axes, lines)
    return figure


@drawn
def plot_length_bias(lengths: Sequence[int], pushes: Mapping[str, Tensor]) -> Figure:
    """The push on a long answer, divided by that on the short one of equal worth, against its length."""
    figure, (axes,) = new_figure(3.0)
    lines = {}
    for (name, values), marker in zip(pushes.items(), "osD^", strict=False):
        ink = color("exact") if bool((values - 1).abs().max() < 1e-9) else color("wrong")
        (lines[name],) = axes.plot(lengths, values, color=ink, marker=marker, markersize=4)
    axes.axhline(0.0, color=color("faint"), linewidth=0.8)
    axes.set(xlabel="tokens of the long answer", ylabel="push, long / short answer")
    label_ends(axes, lines)
    return figure


@drawn
def plot_pushes(answers: Sequence[Sequence[str]], pushes: Mapping[str, Tensor]) -> Figure:
    """How hard each loss pulls at each token of a group of answers: a row a loss, in units of its hardest pull.

    `pushes` are `[size, T]`; what lies beyond the end of an answer is not drawn. A cross marks a token without a pull.
    """
    figure, panels = new_figure(0.62 * len(pushes) + 0.9, len(pushes), 1, sharex=True)
    words = [word for answer in answers for word in answer]
    starts = [sum(len(answer) + 0.7 for answer in answers[:i]) for i in range(len(answers))]
    places = [start + t for start, answer in zip(starts, answers, strict=True) for t in range(len(answer))]
    for axes, (name, values) in zip(panels, pushes.items(), strict=True):
        found = [float(values[i, t]) for i, answer in enumerate(answers) for t in range(len(answer))]
        hardest = max(map(abs, found)) or 1.0
        shown = [x / hardest for x in found]
        axes.bar(places, shown, 0.75, color=[color("pi" if x > 0 else "q") for x in shown])
        idle = [place for place, x in zip(places, shown, strict=True) if x == 0]
        axes.plot(idle, [0] * len(idle), "x", color=color("wrong"), markersize=6)
        axes.axhline(0, color=color("exact"), linewidth=0.8)
        axes.set(ylim=(-1.15, 1.15), yticks=[])
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(bottom=False)
    panels[-1].set_xticks(places, words, rotation=45, ha="right", rotation_mode="anchor")
    return figure


@drawn
def plot_angles(distances: Tensor, angles: Mapping[str, Tensor]) -> Figure:
    """The angle between what each loss follows and the gradient, against the distance from the policy that sampled.

    A line that is 0 throughout is exact; one that goes beyond a right angle, away from the gradient, is wrong.
    """
    figure, (axes,) = new_figure(3.9)
    lines, seen = {}, {"exact": 0, "q": 0, "wrong": 0}
    for name, values in angles.items():
        ink = "wrong" if bool((values > 90).any()) else "exact" if bool((values.abs() < 1e-3).all()) else "q"
        (lines[name],) = axes.plot(distances, values, color=color(ink), linestyle=STYLES[seen[ink] % len(STYLES)])
        seen[ink] += 1
    axes.axhline(90, color=color("faint"), linewidth=0.8)
    note(axes, "a right angle", (float(distances[0]), 90.0), (2, 8), ha="left")
    axes.set(xlabel=r"distance $\Vert\theta - \theta_{\mathrm{old}}\Vert$", ylabel=r"angle to $\nabla J$ (degrees)")
    axes.set(yticks=range(0, 181, 30), ylim=(-4, 150))
    label_ends(axes, lines, gap=0.075)
    return figure


@drawn
def plot_total_rewards(steps: Sequence[int], totals: Sequence[float], best: float) -> Figure:
    """The mean total reward of the episodes that ended in each rollout, against the number of environment steps."""
    figure, (axes,) = new_figure(2.9)
    axes.axhline(best, color=color("exact"), linewidth=1.2)
    axes.annotate("the largest possible", (0, best), (3, 3), ("axes fraction", "data"), "offset points")
    axes.plot(steps, totals, color=color("sampled"), marker="o", markersize=4)
    axes.set(xlabel="environment steps", ylabel="total reward of an episode", ylim=(0, 1.15 * best))
    return figure


# --- language models


@drawn
def plot_learning_bands(curves: Mapping[str, Tensor], *, ylabel: str) -> Figure:
    """The runs `[runs, updates]` of each method in a panel: the median, and the middle 80 per cent."""
    figure, panels = new_figure(2.6, 1, len(curves), sharey=True)
    for axes, (name, runs) in zip(panels, curves.items(), strict=True):
        _band(axes, torch.arange(1, runs.shape[1] + 1), runs, color("sampled"), alpha=0.25)
        axes.set(title=name, xlabel="update", ylim=(0, 1.05))
    panels[0].set(ylabel=ylabel)
    return figure


@drawn
def plot_frontier(frontier: Tensor, paths: Mapping[str, Tensor], *, optimum: Tensor) -> Figure:
    """Reward against divergence from the reference: the best of all policies as a line, runs as paths below it.

    `frontier` and each path are `[points, 2]`, the divergence first; `optimum` is one point of the frontier.
    """
    figure, (axes,) = new_figure(3.4)
    axes.plot(*frontier.T, color=color("exact"))
    for (name, path), ink, line in zip(paths.items(), ("v", "wrong", "sampled"), STYLES, strict=False):
        axes.plot(*path.T, color=color(ink), linestyle=line, marker=".", label=name)
    axes.plot(*optimum, "o", color=color("exact"), markersize=7)
    note(axes, r"$\pi_*$", (float(optimum[0]), float(optimum[1])), (0, 11))
    axes.set(xlabel=r"$\mathrm{KL}(\pi \Vert \pi_{\mathrm{ref}})$", ylabel="expected reward", xlim=(-0.02, None))
    axes.set(ylim=(None, 1.08))
    axes.legend(loc="lower right")
    return figure


# --- checking


@drawn
def plot_mistake(right: Tensor, wrong: Tensor, *, best: float | None = None, ylabel: str = "performance") -> Figure:
    """One mistake: the exact performance of the run without it and of the run with it, start and optimum marked."""
    figure, (axes,) = new_figure(2.0)
    (first,) = axes.plot(right, color=color("v"))
    (second,) = axes.plot(wrong, color=color("wrong"), linestyle="--")
    axes.plot(0, float(right[0]), "o", color=color("exact"), markersize=6, clip_on=False, zorder=5)
    if best is not None:
        axes.axhline(best, color=color("exact"), linewidth=1.0)
        axes.annotate("optimum", (0, best), (3, 2), ("axes fraction", "data"), "offset points", va="bottom")
    axes.margins(y=0.2)
    axes.set(xlabel="step", ylabel=ylabel)
    label_ends(axes, {"right": first, "with the mistake": second}, gap=0.16)
    return figure
