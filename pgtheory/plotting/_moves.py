"""The figures of the chapters that move, each from its exact numbers."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import contourpy
import numpy as np
import torch
from torch import Tensor

from pgtheory.advantages import generalized_advantages
from pgtheory.decoding import decoding_distribution
from pgtheory.mdp import FiniteMDP
from pgtheory.plotting._moving import Control, Mark, Moving, Panel, ink
from pgtheory.returns import discount_factors, effective_horizon, returns_to_go
from pgtheory.surrogates import clipped_surrogate
from pgtheory.value_functions import (
    bellman_optimality,
    one_step_lookahead,
    optimal_values,
    state_values,
)

CELL = 62.0  # pixels
HALO = f"font-weight:600;paint-order:stroke;stroke:{ink('paper')};stroke-width:4px"
STRONGEST = 0.6  # of the colour of a cell, on which letters can still be read


def _number(x: float, digits: int = 2) -> str:
    """A number as it is written below a figure."""
    text = f"{x:.{digits}f}" if abs(x) < 1e5 else "∞" if math.isinf(x) else f"{x:.2g}"
    return text.replace("-", "−") if float(text.replace("∞", "inf")) else text.lstrip("-")


def _numbers(values: Tensor, digits: int = 2) -> list[str]:
    return [_number(x, digits) for x in values.tolist()]


def _ticks(*places: float) -> dict[float, str]:
    return {x: f"{x:g}".replace("-", "−") for x in places}


def _start(values: Sequence[float], wanted: float) -> int:
    """The place of the value that is nearest to the one with which a figure starts."""
    return min(range(len(values)), key=lambda k: abs(values[k] - wanted))


def _control(name: str, values: Sequence[float], start: float) -> Control:
    return Control(name, [f"{x:g}".replace("-", "−") for x in values], _start(values, start))


def move_return(rewards: Tensor, gammas: Sequence[float], *, start: float = 0.9) -> Moving:
    """The rewards of one trajectory and its returns to go, as γ changes.

    Args:
        rewards: the rewards R_1, …, R_T.
        gammas: the discount factors of the slider.
        start: the one with which it starts.

    Returns:
        The figure. Above, the rewards (wide) and what is left of them after discounting to time 0; below, the returns.

    Example:
        >>> figure = move_return(torch.tensor([1.0, 2.0]).double(), [0.0, 0.5, 1.0], start=0.5)
        >>> figure.says["G₀"]
        ['1.00', '2.00', '3.00']
    """
    steps = torch.arange(len(rewards))
    weights = torch.stack([discount_factors(g, len(rewards), dtype=rewards.dtype) for g in gammas])
    returns = torch.stack([returns_to_go(rewards, g) for g in gammas])
    low, high = min(0.0, float(rewards.min())), float(rewards.max())
    span = (-0.5, len(rewards) - 0.5)
    bottom, top = min(0.0, float(returns.min())), max(0.0, float(returns.max()))
    ends = _ticks(0, round(high))
    below = _ticks(*sorted({0, math.floor(top), math.ceil(bottom)}))
    every = _ticks(*range(0, len(rewards), max(1, len(rewards) // 5)))
    panels = [
        Panel(28, 110, span, (low - 0.05, high), title="rewards, and γᵗ times each", yticks=ends, guides=[0]),
        Panel(178, 150, span, (bottom, top), "return Gₜ", "time t (steps)", every, below, guides=[0]),
    ]
    marks = {
        "rewards": Mark("bars", steps, rewards, "faint", width=11, style="stroke-opacity:0.5"),
        "discounted": Mark("bars", steps, weights * rewards, width=5),
        "returns": Mark("line", steps, returns, panel=1, width=1.5),
        "dots": Mark("dots", steps, returns, panel=1, width=6),
    }
    says = {
        "G₀": _numbers(returns[:, 0]),
        "1/(1 − γ)": _numbers(torch.tensor([effective_horizon(g) for g in gammas]), 1),
        "weight of the last reward": _numbers(weights[:, -1], 3),
    }
    alt = f"Bars of {len(rewards)} rewards and, within them, what discounting leaves; below, the returns to go."
    control = _control("discount factor γ", gammas, start)
    return Moving([control], panels, marks, says=says, height=372, alt=alt)


def _grid(values: Tensor, columns: int, names: Sequence[str], number_below: bool) -> tuple[Panel, dict[str, Mark]]:
    """Cells for each state, coloured by their values ([states of the figure, cells]), with the numbers and names."""
    rows = values.shape[-1] // columns
    x, y = (torch.arange(rows * columns) % columns).double(), (torch.arange(rows * columns) // columns).double()
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    share = STRONGEST * (values - low) / torch.where(high > low, high - low, 1.0)
    left = 240 - CELL * columns / 2
    # The axis y points down: the first row is at the top.
    panel = Panel(8, CELL * rows, (-0.5, columns - 0.5), (0.5 - rows, 0.5), left=left, right=left + CELL * columns)
    texts = [_numbers(row, 1) for row in values]
    marks = {
        "cells": Mark("cells", x, -y, "v", values=share),
        "values": Mark("words", x, -y - (0.22 if number_below else 0.1), values=texts, style="font-weight:600"),
        "names": Mark("words", x - 0.44, 0.3 - y, values=list(names), anchor="start"),
    }
    return panel, marks


def move_values(mdp: FiniteMDP, policy: Tensor, gammas: Sequence[float], *, columns: int, start: float = 0.9) -> Moving:
    """The values of a policy on a grid, as γ changes. The colours go from the least to the greatest value.

    Args:
        mdp: an MDP whose states are the cells of a grid, row by row.
        policy: π(a | s).
        gammas: the discount factors of the slider, below 1.
        columns: the number of columns of the grid.
        start: the discount factor with which it starts.

    Returns:
        The figure.

    Example:
        >>> from pgtheory import equiprobable_policy, gridworld
        >>> figure = move_values(gridworld(), equiprobable_policy(gridworld()), [0.0, 0.9], columns=5)
        >>> figure.says["v(A)"]
        ['10.00', '8.79']
    """
    values = torch.stack([state_values(mdp, policy, g) for g in gammas])
    names = _special(mdp)
    panel, marks = _grid(values, columns, names, number_below=False)
    says = {f"v({name})": _numbers(values[:, s]) for s, name in enumerate(names) if name}
    alt = f"A grid of {mdp.n_states} cells with their values at γ = {start:g}, the greatest in the strongest colour."
    control = _control("discount factor γ", gammas, start)
    return Moving([control], [panel], marks, says=says, height=panel.height + 16, alt=alt)


def _special(mdp: FiniteMDP) -> list[str]:
    """The names of the cells that have one of their own."""
    return ["" if name.startswith("(") else name for name in mdp.state_names or [""] * mdp.n_states]


def _arrows(letters: Sequence[str], chosen: Sequence[bool]) -> str:
    """Arrows for the actions that are chosen; where all of them are, a word."""
    return "any" if all(chosen) else "".join(a for a, on in zip(letters, chosen, strict=True) if on)


def move_value_iteration(mdp: FiniteMDP, gamma: float, n_steps: int, *, columns: int, start: int = 3) -> Moving:
    """Value iteration from v = 0 on a grid, step by step, with the actions that are greedy for what is known so far.

    Args:
        mdp: an MDP whose states are the cells of a grid, row by row, with actions called by their directions.
        gamma: the discount factor, below 1.
        n_steps: the number of steps.
        columns: the number of columns of the grid.
        start: the step with which it starts.

    Returns:
        The figure: v_k, its greedy actions, and the largest error.

    Example:
        >>> from pgtheory import gridworld
        >>> figure = move_value_iteration(gridworld(), 0.9, 2, columns=5, start=1)
        >>> figure.says["largest error"]
        ['24.42', '21.98', '19.78']
    """
    iterates = [mdp.rewards.new_zeros(mdp.n_states)]
    for _ in range(n_steps):
        iterates.append(bellman_optimality(mdp, iterates[-1], gamma))
    values, best = torch.stack(iterates), optimal_values(mdp, gamma)
    q = one_step_lookahead(mdp, values, gamma)
    greedy = q > q.amax(-1, keepdim=True) - 1e-9
    optimal = one_step_lookahead(mdp, best, gamma) > best[:, None] - 1e-9
    right = (optimal | ~greedy).all(-1).sum(-1)
    directions = {"north": "↑", "south": "↓", "east": "→", "west": "←"}
    letters = [directions[name] for name in mdp.action_names or ()]
    arrows = [[_arrows(letters, cell) for cell in k] for k in greedy.tolist()]
    panel, marks = _grid(values, columns, _special(mdp), number_below=True)
    places = marks["names"]
    marks["arrows"] = Mark("words", torch.as_tensor(places.x) + 0.9, places.y, values=arrows, anchor="end")
    error = (values - best).abs().amax(-1)
    says = {
        "largest error": _numbers(error),
        "cells with none but optimal arrows": [f"{n} of {mdp.n_states}" for n in right.tolist()],
    }
    alt = f"A grid of {mdp.n_states} cells with their values after {start} steps, and arrows for the greedy actions."
    control = Control("step k", [str(k) for k in range(n_steps + 1)], start, "play")
    return Moving([control], [panel], marks, says=says, height=panel.height + 16, alt=alt)


def move_decoding(
    counts: Mapping[str, int],
    taus: Sequence[float],
    ks: Sequence[int],
    ps: Sequence[float],
    *,
    shown: int = 14,
    start: tuple[float, int, float] = (1.0, 1, 1.0),
) -> Moving:
    """A distribution of the next word, and what temperature, top-k and top-p make of it.

    Args:
        counts: how often each word came next, in descending order.
        taus: the temperatures of the first slider.
        ks: the numbers of words that top-k keeps.
        ps: the masses of top-p.
        shown: the number of words that have a bar of their own; the others share one.
        start: the temperature, k and p with which it starts.

    Returns:
        The figure: wide bars for the counts, narrow ones for what is left of them.

    Example:
        >>> figure = move_decoding({"a": 3, "b": 1}, [1.0], [1, 2], [1.0], shown=2)
        >>> figure.says["words left"]
        [[['1 of 2'], ['2 of 2']]]
    """
    logits = torch.tensor([float(n) for n in counts.values()], dtype=torch.float64).log()
    rules = itertools.product(taus, ks, ps)
    every = [decoding_distribution(logits, temperature=t, top_k=k, top_p=p) for t, k, p in rules]
    pi = torch.stack(every).view(len(taus), len(ks), len(ps), -1)
    rest = len(counts) - shown
    words = [*list(counts)[:shown], *([f"{rest} rarer words"] if rest else [])]

    def together(probabilities: Tensor) -> Tensor:
        tail = probabilities[..., shown:].sum(-1, keepdim=True)
        return torch.cat([probabilities[..., :shown], tail], -1) if rest else probabilities

    bars, own = together(pi), together(logits.softmax(-1))
    y = torch.arange(len(words)).flip(0).double()
    texts = np.vectorize(lambda x: _number(x, 3) if x else "×")(bars.numpy())
    panel = Panel(8, 23.0 * len(words), (0, 1), (-0.5, len(words) - 0.5), left=130, right=424)
    marks = {
        "names": Mark("words", torch.full_like(y, -0.02), y, values=words, anchor="end"),
        "policy": Mark("rows", own, y, "faint", width=17, style="stroke-opacity:0.5"),
        "decoded": Mark("rows", bars, y, "pi", width=9),
        "numbers": Mark("words", torch.maximum(bars, own) + 0.02, y, values=texts, anchor="start"),
    }
    entropy = torch.special.entr(pi).sum(-1)
    left = (pi > 0).sum(-1)
    controls = [
        _control("temperature τ", taus, start[0]),
        _control("top-k", ks, start[1]),
        _control("top-p", ps, start[2]),
    ]
    says = {
        "words left": [[[f"{n} of {len(counts)}" for n in row] for row in table] for table in left.tolist()],
        "entropy": np.vectorize(_number)(entropy.numpy()),
    }
    alt = "Bars of the probabilities of the next word: as the text has them, and as decoding changes them."
    return Moving(controls, [panel], marks, says=says, height=panel.height + 20, alt=alt)


def _contours(x: Tensor, values: Tensor, panel: Panel, levels: int = 14) -> str:
    """The regions where the values exceed each level, one on another, so that the colour grows with the value."""
    a, b, c, d = panel.scale()
    options: dict[str, Any] = {"name": "serial", "fill_type": contourpy.FillType.OuterOffset}
    regions: Any = contourpy.contour_generator(x.numpy(), x.numpy(), values.T.numpy(), **options)
    low, high = float(values.min()), float(values.max())
    found = []
    for k in range(1, levels):
        level = low + (high - low) * k / levels
        points, offsets = regions.filled(level, math.inf)
        path = ""
        for polygon, ends in zip(points, offsets, strict=True):
            for i, j in itertools.pairwise(ends):
                corners = (f"{a + b * u:.0f} {c + d * v:.0f}" for u, v in polygon[i:j])
                path += f"M{'L'.join(dict.fromkeys(corners))}z"
        found.append(f'<path d="{path}" style="fill:{ink("v")};fill-opacity:0.08;fill-rule:evenodd;stroke:none"/>')
    return "".join(found)


def move_ascent(
    performance: Callable[[Tensor], Tensor], paths: Mapping[str, Tensor], *, reach: float = 4.5, every: int = 5
) -> Moving:
    """The landscape of J over two parameters, and gradient ascent on it, step by step.

    Args:
        performance: J(θ) for parameters of shape [..., 2], differentiable.
        paths: the parameters of each ascent, [steps + 1, 2], by the name of its start.
        reach: the landscape is drawn from −reach to reach.
        every: the number of steps between two points.

    Returns:
        The figure: the colour is J, the line is the path so far.

    Example:
        >>> path = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double()
        >>> figure = move_ascent(lambda theta: -theta.square().sum(-1), {"0": path}, every=1)
        >>> figure.says["J(θ)"]
        [['0.0000', '−2.0000']]
    """
    x = torch.linspace(-reach, reach, 61, dtype=torch.float64)
    values = performance(torch.stack(torch.meshgrid(x, x, indexing="ij"), -1)).detach()
    theta = torch.stack([path[::every] for path in paths.values()]).detach().requires_grad_()
    heights = performance(theta)
    (slopes,) = torch.autograd.grad(heights.sum(), theta)
    n = theta.shape[1]
    seen = torch.ones(n, n).tril().bool()  # [step, point]
    u, v = torch.where(seen[..., None], theta.detach()[:, None], math.nan).unbind(-1)
    ends = _ticks(*range(-math.floor(reach), math.floor(reach) + 1, 2))
    limits = (-reach, reach)
    panel = Panel(26, 370, limits, limits, "θ₂: taking the reward", "θ₁: going on", ends, ends, left=80, right=450)
    panel = Panel(**{**panel.__dict__, "back": _contours(x, values, panel)})
    here = theta.detach()[:, :, None]
    marks = {
        "path": Mark("line", u, v, width=2),
        "here": Mark("dots", here[..., 0], here[..., 1], "exact", width=15),
        "centre": Mark("dots", here[..., 0], here[..., 1], "paper", width=7),
    }
    says = {
        "J(θ)": [_numbers(row, 4) for row in heights.detach()],
        "‖∇J(θ)‖": [_numbers(row, 4) for row in slopes.norm(dim=-1)],
    }
    controls = [
        Control("start", list(paths), 0, "select"),
        Control("steps", [str(every * k) for k in range(n)], n // 2, "play"),
    ]
    alt = "A map of the performance over two parameters, and the path of gradient ascent on it up to half its steps."
    return Moving(controls, [panel], marks, says=says, height=440, alt=alt)


def move_clouds(
    singles: Mapping[float, Tensor],
    gradient: Tensor,
    variances: Mapping[float, float],
    *,
    sizes: Sequence[int] = (4, 16, 64, 256),
    start: tuple[float, int] = (0.0, 16),
) -> Moving:
    r"""Clouds of estimates ĝ in a plane around ∇J, as the baseline and the number N of episodes change.

    Args:
        singles: for each baseline the estimates from single episodes, [K, 2], of the same episodes.
        gradient: the exact gradient, [2].
        variances: for each baseline the exact variance of one of them: the trace of its covariance.
        sizes: the values of N, ascending; K is at least a few times the last one.
        start: the baseline and N with which it starts.

    Returns:
        The figure: K / max(sizes) estimates, their mean, and ∇J as a line from the origin. Dots outside are not drawn.

    Example:
        >>> g = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).double()
        >>> figure = move_clouds({0.0: g}, torch.zeros(2).double(), {0.0: 2.0}, sizes=[1, 4], start=(0.0, 1))
        >>> figure.says["exact"]
        [['1.414', '0.707']]
    """
    count = min(len(g) for g in singles.values()) // max(sizes)
    clouds = torch.stack(
        [torch.stack([g[: count * n].view(count, n, 2).mean(1) for n in sizes]) for g in singles.values()]
    )
    means = clouds.mean(-2, keepdim=True)
    off = (clouds - gradient).square().sum(-1).mean(-1).sqrt()
    exact = torch.tensor([[math.sqrt(v / n) for n in sizes] for v in variances.values()])
    middle, half = gradient.tolist(), 2.2 * math.sqrt(variances[start[0]] / sizes[0])
    panel = Panel(
        8,
        340,
        (middle[0] - half, middle[0] + half),
        (middle[1] - half, middle[1] + half),
        left=70,
        right=410,
    )
    inside = ((clouds - gradient).abs() < half).all(-1, keepdim=True)
    x, y = torch.where(inside, clouds, math.nan).unbind(-1)
    marks = {
        "axes": Mark("line", [panel.x[0], panel.x[1], math.nan, 0, 0], [0, 0, math.nan, *panel.y], "faint", width=1),
        "estimates": Mark("dots", x, y, "sampled", width=5, style="stroke-opacity:0.5;"),
        "gradient": Mark("line", [0.0, middle[0]], [0.0, middle[1]], width=3),
        "tip": Mark("dots", middle[:1], middle[1:], width=10),
        "rim": Mark("dots", means[..., 0], means[..., 1], "paper", width=17),
        "mean": Mark("dots", means[..., 0], means[..., 1], "sampled", width=12),
        "name": Mark("words", [middle[0]], [middle[1] + 0.1 * half], values=["∇J"], style=HALO),
    }
    controls = [
        _control("baseline b", list(singles), start[0]),
        Control("episodes N", [str(n) for n in sizes], _start(sizes, start[1])),
    ]
    says = {
        "distance from ∇J: sampled": [_numbers(row, 3) for row in off],
        "exact": [_numbers(row, 3) for row in exact],
    }
    alt = f"A cloud of {count} estimates around the tip of the exact gradient, with their mean upon it."
    return Moving(controls, [panel], marks, says=says, height=356, alt=alt)


def move_clip(ratios: Tensor, clips: Sequence[float], *, start: tuple[float, float] = (1.1, 0.2)) -> Moving:
    """PPO's clipped objective for one step and its derivative by the log-probability, with a ratio that moves.

    Args:
        ratios: the ratios ρ of the slider, ascending.
        clips: the values of ε.
        start: the ratio and the ε with which it starts.

    Returns:
        The figure.

    Example:
        >>> figure = move_clip(torch.tensor([0.5, 1.0, 1.5]).double(), [0.2], start=(1.5, 0.2))
        >>> figure.says["gradient"][0]
        [['0.50', '1.00', '0.00'], ['0.00', '−1.00', '−1.50']]
    """
    signs = torch.tensor([1.0, -1.0], dtype=ratios.dtype)
    x = ratios.log().expand(len(clips), 2, -1).clone().requires_grad_()
    advantages = signs[:, None].expand(2, len(ratios))
    objective = torch.stack(
        [clipped_surrogate(x[k], torch.zeros_like(x[k]), advantages, clip=eps) for k, eps in enumerate(clips)]
    )
    (slope,) = torch.autograd.grad(objective.sum(), x)
    objective = objective.detach()  # [ε, sign, ρ]
    limits, top = (float(ratios[0]), float(ratios[-1])), float(ratios[-1])
    ticks, heights = _ticks(0.5, 1, 1.5), _ticks(-1, 0, 1)
    panels = [
        Panel(28, 130, limits, (-top, top), "objective", yticks=heights, guides=[0]),
        Panel(190, 130, limits, (-top, top), "its gradient", "ratio ρ", ticks, heights, guides=[0]),
    ]
    split = torch.where(slope == 0, math.nan, slope)
    flat = torch.where(slope == 0, 0.0, math.nan)
    zone = torch.where(slope == 0, ratios, math.nan).nanmean(-1)[:, :, None, None]
    r, whole = ratios[:, None], (advantages * ratios)[None, :, None]
    marks = {
        "without the clip": Mark("line", ratios, whole, "q", style="stroke-dasharray:2 4;"),
        "objective": Mark("line", ratios, objective[:, :, None], "q"),
        "gradient": Mark("line", ratios, split[:, :, None], "pi", panel=1),
        "dead zone": Mark("line", ratios, flat[:, :, None], "wrong", panel=1, width=5),
        "point": Mark("dots", r, objective[..., None], "q", width=13),
        "slope": Mark("dots", r, slope[..., None], "pi", panel=1, width=13),
        "name": Mark("words", zone, [0.25 * top], "wrong", panel=1, values=["no gradient"]),
    }
    controls = [
        Control("ε", [f"{eps:g}" for eps in clips], _start(clips, start[1]), "select"),
        Control("advantage Â", ["+1", "−1"], 0, "select"),
        Control("ratio ρ", [f"{x:.2f}" for x in ratios.tolist()], _start(ratios.tolist(), start[0])),
    ]
    says = {
        "objective": [[_numbers(row) for row in table] for table in objective],
        "gradient": [[_numbers(row) for row in table] for table in slope],
    }
    alt = "Above, the objective over the ratio, level where it is clipped; below, its gradient, which is zero there."
    return Moving(controls, panels, marks, says=says, height=368, alt=alt)


def move_lambda(
    rewards: Tensor,
    values: Tensor,
    gamma: float,
    lams: Sequence[float],
    *,
    exact: float,
    mean: Tensor,
    deviation: Tensor,
    start: float = 0.9,
) -> Moving:
    """The generalized advantage of the first step of an episode as an average of k-step advantages, as λ changes.

    Args:
        rewards: the rewards of an episode that ends in a terminal state, [N].
        values: the critic's values of its states, [N]; that of the terminal state is 0.
        gamma: the discount factor.
        lams: the values of λ.
        exact: what the mean is at λ = 1: q(s, a) − V(s).
        mean: the exact mean of the generalized advantage over all episodes from this state and action, for each λ.
        deviation: its exact standard deviation, for each λ.
        start: the λ with which it starts.

    Returns:
        The figure: above the weights, below the k-step advantages, their average, and mean ± deviation of all episodes.

    Example:
        >>> rewards, values = torch.tensor([0.0, 1.0]).double(), torch.tensor([0.5, 0.5]).double()
        >>> options = {"exact": 0.0, "mean": torch.zeros(2), "deviation": torch.ones(2)}
        >>> move_lambda(rewards, values, 1.0, [0.0, 1.0], **options).says["Â₀"]
        ['0.00', '0.50']
    """
    n = len(rewards)
    following = torch.cat([values[1:], values.new_zeros(1)])
    ended = torch.arange(n) == n - 1
    averages = torch.stack(
        [generalized_advantages(rewards, values, following, gamma, x, terminated=ended)[0] for x in lams]
    )
    deltas = rewards + gamma * following - values
    steps = (discount_factors(gamma, n, dtype=rewards.dtype) * deltas).cumsum(0)  # Â⁽ᵏ⁾, k = 1 … N
    weights = torch.stack([torch.tensor([(1 - x) * x**k for k in range(n - 1)] + [x ** (n - 1)]) for x in lams])
    k = torch.arange(1, n + 1)
    span = (0.4, n + 2.6)
    band = torch.stack([mean - deviation, mean + deviation], -1)
    every = torch.cat([steps, band.flatten(), torch.tensor([exact])])
    low, high = float(every.min()), float(every.max())
    ends = _ticks(math.ceil(low), 0, math.floor(high))
    counted = _ticks(1, *range(5, n + 1, 5))
    panels = [
        Panel(28, 90, span, (0, 1), "weight of the k-step advantage", yticks=_ticks(0, 1), guides=[0], right=425),
        Panel(158, 190, span, (low, high), "k-step advantages", "k", counted, ends, guides=[0], right=425),
    ]
    level, side = [span[0], n + 1.0], [n + 1.8]
    marks = {
        "weights": Mark("bars", k, weights, "sampled", width=9),
        "exact": Mark("line", span, [exact, exact], panel=1, width=1.5, style="stroke-dasharray:6 4;"),
        "k-step": Mark("dots", k, steps, "sampled", panel=1, width=7),
        "average": Mark("line", level, averages[:, None].expand(-1, 2), "sampled", panel=1, width=3),
        "name": Mark("words", [n + 0.6], averages[:, None] + 0.06 * (high - low), "sampled", panel=1, values=["Â₀"]),
        "exactly": Mark("words", [span[1] + 0.15], [exact], panel=1, values=["exact"], anchor="start"),
        "band": Mark("line", side * 2, band, "q", panel=1, width=4),
        "mean": Mark("dots", side, mean[:, None], "q", panel=1, width=13),
    }
    says = {"Â₀": _numbers(averages), "its mean": _numbers(mean), "deviation": _numbers(deviation)}
    alt = f"Bars of the weights of {n} k-step advantages; below, these advantages and their average as a line."
    control = _control("λ", lams, start)
    return Moving([control], panels, marks, says=says, height=396, alt=alt)
