"""The figures of the chapter on a real language model."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from pgtheory.plotting._theme import STYLES, color, drawn, label_ends, new_figure, note, ramp


def _smoothed(values: Sequence[float], width: int) -> list[float]:
    """The mean of the last `width` values, or of as many as there are."""
    return [sum(values[max(0, k + 1 - width) : k + 1]) / min(width, k + 1) for k in range(len(values))]


@drawn
def plot_next_tokens(distributions: Mapping[str, Sequence[tuple[str, float]]]) -> Figure:
    """The most probable next tokens after each prompt, as bars; the prompt stands above its bars."""
    rows = max(map(len, distributions.values()))
    figure, panels = new_figure((0.24 * rows + 0.55) * len(distributions), len(distributions), 1, sharex=True)
    for axes, (prompt, tokens) in zip(panels, distributions.items(), strict=True):
        places = range(len(tokens))
        axes.barh(places, [p for _, p in tokens], 0.7, color=color("pi"))
        axes.set_yticks(places, [repr(token)[1:-1].replace(" ", "␣") for token, _ in tokens])
        axes.set(ylim=(len(tokens) - 0.4, -0.6), xlim=(0, 1))
        axes.set_title(prompt, loc="left", fontsize="medium")
        axes.tick_params(axis="y", length=0)
        for place, (_, p) in enumerate(tokens):
            note(axes, f"{p:.2f}" if p >= 0.01 else f"{p:.3f}", (p, place), (4, 0), ha="left", va="center")
    panels[-1].set(xlabel="probability of the next token")
    return figure


@drawn
def plot_post_training(histories: Mapping[str, Mapping[str, Any]], *, smooth: int = 4) -> Figure:
    """Reward and entropy of each run against its step, as means of the last few, with the numbers themselves faint."""
    figure, panels = new_figure(2.9, 1, 2)
    for axes, key, label in zip(panels, ("reward", "entropy"), ("mean reward", "entropy (nats)"), strict=True):
        lines = {}
        for (name, history), style, ink in zip(histories.items(), STYLES, ramp(len(histories)), strict=False):
            steps = range(1, len(history[key]) + 1)
            axes.plot(steps, history[key], color=ink, linewidth=0.7, alpha=0.4)
            (lines[name],) = axes.plot(steps, _smoothed(history[key], smooth), color=ink, linestyle=style)
        axes.set(xlabel="step", title=label, ylim=(0, 1.05 if key == "reward" else None))
        if key == "reward":
            label_ends(axes, lines)
    return figure


@drawn
def plot_reward_against_kl(histories: Mapping[str, Mapping[str, Any]], *, smooth: int = 4) -> Figure:
    """The path of each run: the divergence of an answer from the first model, and the reward that it bought."""
    figure, (axes,) = new_figure(3.0)
    lines = {}
    for (name, history), style, ink in zip(histories.items(), STYLES, ramp(len(histories)), strict=False):
        kl, reward = (_smoothed(history[key], smooth) for key in ("kl", "reward"))
        (lines[name],) = axes.plot(kl, reward, color=ink, linestyle=style)
        axes.plot(kl[0], reward[0], "o", color=color("exact"), markersize=5)
    axes.set(xlabel=r"divergence of an answer from the first model (nats)", ylabel="mean reward", ylim=(0, 1.05))
    axes.set_xlim(0, None)
    label_ends(axes, lines)
    return figure
