"""Figures that move: the numbers that the page holds are those of the mathematics, and the still picture shows them."""

import html
import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import pgtheory as pg
from pgtheory import plotting
from pgtheory.plotting import Control, Mark, Moving, Panel

float64 = torch.float64
STEP = 1.01 * plotting._moving.SMALLEST  # the page rounds to this share of the largest number, or finer
GAMMAS = [0.0, 0.5, 0.9, 0.99]
REWARDS = torch.tensor([-0.2, 2.0, -0.2, -0.2, 5.0], dtype=float64)
COUNTS = {"King": 29, "Hatter": 21, "Mock": 19, "Cat": 14, "Mouse": 8, "Dodo": 5, "Knave": 1}
TAUS, KS, PS = [0.5, 1.0, 2.0], [1, 2, 4, 7], [0.1, 0.5, 0.9, 1.0]
RATIOS = torch.linspace(0.4, 1.6, 25, dtype=float64)
CLIPS = [0.1, 0.3]
LAMS = [0.0, 0.3, 0.9, 1.0]
VALUES = torch.tensor([0.5, -1.0, 2.0, 0.3, 1.0], dtype=float64)
BASELINES, SIZES = [-1.0, 0.5], [2, 8]
PATHS = {"a": torch.tensor([[-3.0, 1.0], [-2.0, 1.5], [0.5, 2.0]]), "b": torch.tensor([[2.0, -2], [1, 0], [0, 3.0]])}


def height(theta: torch.Tensor) -> torch.Tensor:
    """J of two choices in a row: leave with 1/2 or go on, then take the reward of 1 or leave it."""
    p, q = theta.double().sigmoid().unbind(-1)
    return (1 - p) * 0.5 + 0.9 * p * q


def singles() -> dict[float, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {b: torch.randn(40, 2, generator=rng, dtype=float64) + b for b in BASELINES}


GRADIENT = torch.tensor([0.3, -0.2], dtype=float64)
FIGURES: dict[str, Callable[[], Moving]] = {
    "return": lambda: plotting.move_return(REWARDS, GAMMAS),
    "values": lambda: plotting.move_values(
        pg.gridworld(), pg.equiprobable_policy(pg.gridworld()), GAMMAS, columns=5, start=0.9
    ),
    "value_iteration": lambda: plotting.move_value_iteration(pg.gridworld(), 0.9, 12, columns=5),
    "decoding": lambda: plotting.move_decoding(COUNTS, TAUS, KS, PS, shown=5, start=(0.5, 4, 0.9)),
    "ascent": lambda: plotting.move_ascent(height, PATHS, every=1),
    "clouds": lambda: plotting.move_clouds(singles(), GRADIENT, {-1.0: 2.0, 0.5: 3.0}, sizes=SIZES, start=(-1.0, 2)),
    "clip": lambda: plotting.move_clip(RATIOS, CLIPS, start=(1.2, 0.3)),
    "lambda": lambda: plotting.move_lambda(
        REWARDS, VALUES, 0.9, LAMS, exact=0.7, mean=torch.tensor([0.1, 0.2, 0.4, 0.7]), deviation=torch.arange(4.0)
    ),
}


@cache
def page(name: str) -> str:
    """The HTML of a figure."""
    return FIGURES[name]()._repr_html_()


class Held:
    """What the page holds of a figure, read as a browser would."""

    def __init__(self, text: str) -> None:
        (packed,) = re.findall(r"data-moves='([^']*)'", text)
        data = json.loads(html.unescape(packed))
        self.controls, self.says = data["controls"], data["says"]
        self.marks = {mark["name"]: mark for mark in data["marks"]}

    def states(self) -> list[tuple[int, ...]]:
        return list(itertools.product(*(range(len(c["values"])) for c in self.controls)))

    def numbers(self, mark: str, key: str, state: Sequence[int]) -> Any:
        strides, rows = self.marks[mark][key]
        return rows[sum(s * k for s, k in zip(strides, state, strict=True))]

    def said(self, k: int, state: Sequence[int]) -> float:
        strides, texts = self.says[k]
        return float(texts[sum(s * i for s, i in zip(strides, state, strict=True))].replace("−", "-"))


def held(name: str) -> Held:
    return Held(page(name))


def close(found: Sequence[float | None], wanted: Any, top: float) -> None:
    """Equal up to the digits of the page, where the largest number of the figure is `top`."""
    numbers = [math.nan if x is None else x for x in found]
    expected = np.asarray(wanted, dtype=float)[: len(numbers)]
    assert all(np.isnan(np.asarray(wanted, dtype=float)[len(numbers) :]))
    np.testing.assert_allclose(numbers, expected, rtol=0, atol=STEP * top, equal_nan=True)


def test_every_figure_that_moves_is_tested() -> None:
    assert {name.removeprefix("move_") for name in plotting.__all__ if name.startswith("move_")} == FIGURES.keys()


def test_the_returns_are_those_of_the_definition() -> None:
    figure, rewards = held("return"), REWARDS.tolist()
    for k, gamma in enumerate(GAMMAS):
        # Written as the definition, sum by sum; the package runs the recursion.
        returns = [sum(gamma**j * r for j, r in enumerate(rewards[t:])) for t in range(len(rewards))]
        close(figure.numbers("returns", "y", [k]), returns, 6.8)
        close(figure.numbers("dots", "y", [k]), returns, 6.8)
        close(figure.numbers("discounted", "y", [k]), [gamma**t * r for t, r in enumerate(rewards)], 5)
        assert figure.said(0, [k]) == pytest.approx(returns[0], abs=0.006)
        assert figure.said(1, [k]) == pytest.approx(1 / (1 - gamma), abs=0.06)
        assert figure.said(2, [k]) == pytest.approx(gamma**4, abs=0.0006)


def matrices() -> tuple[torch.Tensor, torch.Tensor]:
    """P and r of the gridworld, for each action, from its table."""
    grid = pg.gridworld()
    P, r = torch.zeros(4, 25, 25, dtype=float64), torch.zeros(4, 25, dtype=float64)
    o = grid.outcomes
    for s, a, t, reward, p in zip(
        *(x.tolist() for x in (o.state, o.action, o.next_state, grid.rewards[o.reward_index], o.probability)),
        strict=True,
    ):
        P[a, s, t] += p
        r[a, s] += p * reward
    return P, r


def test_the_values_on_the_grid_solve_the_bellman_equation() -> None:
    figure, (P, r) = held("values"), matrices()
    for k, gamma in enumerate(GAMMAS):
        v = torch.linalg.inv(torch.eye(25, dtype=float64) - gamma * P.mean(0)) @ r.mean(0)
        texts = [float(x.replace("−", "-")) for x in figure.numbers("values", "values", [k])]
        assert texts == pytest.approx(v.tolist(), abs=0.0501)
        share = 0.6 * (v - v.min()) / (v.max() - v.min())
        close(figure.numbers("cells", "values", [k]), share, 0.6)
        said = [figure.said(i, [k]) for i in range(4)]
        assert said == pytest.approx(v[[1, 3, 13, 21]].tolist(), abs=0.00501)


def test_value_iteration_applies_the_optimality_operator_once_more_in_each_step() -> None:
    figure, (P, r) = held("value_iteration"), matrices()
    best = torch.zeros(25, dtype=float64)
    for _ in range(500):
        best = (r + 0.9 * P @ best).amax(0)
    optimal = r + 0.9 * P @ best > best - 1e-6
    v = torch.zeros(25, dtype=float64)
    for k in range(13):
        texts = [float(x.replace("−", "-")) for x in figure.numbers("values", "values", [k])]
        assert texts == pytest.approx(v.tolist(), abs=0.0501)
        assert figure.said(0, [k]) == pytest.approx(float((best - v).max()), abs=0.00501)
        q = r + 0.9 * P @ v
        greedy = q > q.amax(0) - 1e-9
        arrows = ["".join("↑↓→←"[a] for a in range(4) if greedy[a, s]) for s in range(25)]
        assert figure.numbers("arrows", "values", [k]) == ["any" if len(x) == 4 else x for x in arrows]
        all_right = sum(bool((optimal[:, s] | ~greedy[:, s]).all()) for s in range(25))
        assert figure.says[1][1][k] == f"{all_right} of 25"
        v = q.amax(0)


def decoded(tau: float, k: int, p: float) -> list[float]:
    """Temperature, then top-k, then top-p, on a list of counts, word by word."""
    powers = [n ** (1 / tau) for n in COUNTS.values()]  # in descending order
    kept = powers[:k]
    total, mass, nucleus = sum(kept), 0.0, 0
    while nucleus < len(kept) and mass < p * total * (1 - 1e-12):
        mass += kept[nucleus]
        nucleus += 1
    return [x / mass for x in kept[:nucleus]] + [0.0] * (len(powers) - nucleus)


def test_the_decoded_distribution_is_that_of_the_filters_by_hand() -> None:
    figure = held("decoding")
    close(figure.numbers("policy", "x", [0, 0, 0]), [29 / 97, 21 / 97, 19 / 97, 14 / 97, 8 / 97, 6 / 97], 1)
    for state in figure.states():
        pi = decoded(*(values[i] for values, i in zip((TAUS, KS, PS), state, strict=True)))  # type: ignore[call-overload, arg-type]
        bars = [*pi[:5], sum(pi[5:])]
        close(figure.numbers("decoded", "x", state), bars, 1)
        assert figure.numbers("numbers", "values", state) == [f"{x:.3f}" if x else "×" for x in bars]
        strides, texts = figure.says[0]
        here = texts[sum(s * i for s, i in zip(strides, state, strict=True))]
        assert here == f"{sum(x > 0 for x in pi)} of 7"
        assert figure.said(1, state) == pytest.approx(-sum(x * math.log(x) for x in pi if x), abs=0.00501)


def test_the_ascent_is_drawn_so_far_with_its_height_and_slope() -> None:
    figure = held("ascent")
    for state in figure.states():
        start, step = state
        path = list(PATHS.values())[start].double()
        for key, column in (("x", 0), ("y", 1)):
            close(figure.numbers("path", key, state), path[: step + 1, column].tolist(), 3)
            close(figure.numbers("here", key, state), path[step : step + 1, column], 3)
        p, q = (1 / (1 + math.exp(-x)) for x in path[step].tolist())
        assert figure.said(0, state) == pytest.approx((1 - p) / 2 + 0.9 * p * q, abs=0.000051)
        slopes = p * (1 - p) * (0.9 * q - 0.5), 0.9 * p * q * (1 - q)
        assert figure.said(1, state) == pytest.approx(math.hypot(*slopes), abs=0.000051)


def test_the_clouds_are_means_of_single_estimates() -> None:
    figure, given = held("clouds"), {b: x.tolist() for b, x in singles().items()}
    for state in figure.states():
        b, n = BASELINES[state[0]], SIZES[state[1]]
        rows = [given[b][i * n : (i + 1) * n] for i in range(5)]  # 40 / 8
        means = [[sum(row[c] for row in group) / n for c in (0, 1)] for group in rows]
        half = 2.2 * math.sqrt(2.0 / 2)
        inside = [all(abs(x - g) < half for x, g in zip(m, (0.3, -0.2), strict=True)) for m in means]
        for key, c in (("x", 0), ("y", 1)):
            wanted = [m[c] if ok else math.nan for m, ok in zip(means, inside, strict=True)]
            close(figure.numbers("estimates", key, state), wanted, 3)
            close(figure.numbers("mean", key, state), [sum(m[c] for m in means) / 5], 2)
        square = sum((m[0] - 0.3) ** 2 + (m[1] + 0.2) ** 2 for m in means) / 5
        assert figure.said(0, state) == pytest.approx(math.sqrt(square), abs=0.000501)
        assert figure.said(1, state) == pytest.approx(math.sqrt({-1.0: 2.0, 0.5: 3.0}[b] / n), abs=0.000501)


def test_the_clip_and_its_gradient_are_the_regions_of_the_proposition() -> None:
    figure = held("clip")
    for state in figure.states():
        eps, sign, rho = CLIPS[state[0]], (1, -1)[state[1]], RATIOS.tolist()
        objective = [min(x * sign, min(max(x, 1 - eps), 1 + eps) * sign) for x in rho]
        dead = [(x > 1 + eps + 1e-9) if sign > 0 else (x < 1 - eps - 1e-9) for x in rho]
        edge = [abs(x - 1 - sign * eps) < 1e-9 for x in rho]
        slope = [math.nan if d else sign * x for x, d in zip(rho, dead, strict=True)]
        close(figure.numbers("objective", "y", state), objective, 1.6)
        found = figure.numbers("gradient", "y", state)
        found = found + [None] * (len(rho) - len(found))
        close(
            [f for f, e in zip(found, edge, strict=True) if not e],
            [s for s, e in zip(slope, edge, strict=True) if not e],
            1.6,
        )
        k = state[2]
        assert figure.said(0, state) == pytest.approx(objective[k], abs=0.00501)
        if not edge[k]:
            assert figure.said(1, state) == pytest.approx(0 if dead[k] else slope[k], abs=0.00501)
            close(figure.numbers("slope", "y", state), [0 if dead[k] else slope[k]], 1.6)


def test_the_generalized_advantage_is_the_weighted_average_of_the_k_step_advantages() -> None:
    figure, gamma, values = held("lambda"), 0.9, [*VALUES.tolist(), 0.0]
    rewards = REWARDS.tolist()
    steps = [sum(gamma**j * rewards[j] for j in range(k)) + gamma**k * values[k] - values[0] for k in range(1, 6)]
    close(figure.numbers("k-step", "y", [0]), steps, 6)
    for i, lam in enumerate(LAMS):
        weights = [(1 - lam) * lam**k for k in range(4)] + [lam**4]
        close(figure.numbers("weights", "y", [i]), weights, 1)
        average = sum(w * a for w, a in zip(weights, steps, strict=True))
        close(figure.numbers("average", "y", [i]), [average] * 2, 6)
        assert figure.said(0, [i]) == pytest.approx(average, abs=0.00501)
        close(figure.numbers("band", "y", [i]), [[0.1, 0.2, 0.4, 0.7][i] - i, [0.1, 0.2, 0.4, 0.7][i] + i], 4)


@pytest.mark.parametrize("name", FIGURES)
def test_the_still_picture_is_the_state_in_which_the_controls_start(name: str) -> None:
    figure, text = held(name), page(name)
    state = [control["start"] for control in figure.controls]
    for index, (mark, data) in enumerate(figure.marks.items()):
        if data["kind"] in {"line", "dots"}:
            (d,) = re.findall(rf'<path data-mark="{index}" d="([^"]*)"', text)
            places = [tuple(map(float, pair)) for pair in re.findall(r"[ML](\S+) ([-\d.]+)", d.replace("h0", ""))]
            a, b, c, s, _ = data["scale"]
            points = zip(figure.numbers(mark, "x", state), figure.numbers(mark, "y", state), strict=False)
            wanted = [(a + b * x, c + s * y) for x, y in points if x is not None and y is not None]
            np.testing.assert_allclose(places, wanted, atol=0.11)
        elif data["kind"] == "words":
            (group,) = re.findall(rf'<g data-mark="{index}"[^>]*>(.*?)</g>', text)
            words = [html.unescape(word) for word in re.findall(r">([^<]*)</text>", group)]
            assert words == figure.numbers(mark, "values", state)
    outputs = [html.unescape(x) for x in re.findall(r"<output>([^<]*)</output>", text.partition("<script>")[0])]
    assert outputs == [texts[sum(s * k for s, k in zip(strides, state, strict=True))] for strides, texts in figure.says]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_that_moves_is_light_asks_for_nothing_and_says_what_it_shows(name: str) -> None:
    text = page(name)
    assert len(text.encode()) < 150_000
    assert re.findall(r"https?://|src=|href=|url\(|import ", text) == []
    (label,) = re.findall(r'role="img" aria-label="([^"]*)"', text)
    assert len(label) > 40
    assert all(control["name"] for control in held(name).controls)


@pytest.mark.parametrize("name", FIGURES)
def test_colours_come_from_the_palette_and_follow_the_page(name: str) -> None:
    picture = re.sub(r"<script>.*?</script>", "", page(name), flags=re.S)
    colours = {**plotting.PALETTE, "paper": plotting.PAPER, "faint": plotting.FAINT}
    used = re.findall(r"var\(--pg-(\w+), (#\w+)\)", picture)
    assert used
    assert all(colours[key].light.lower() in {code.lower(), code.lower() + code[1:].lower()} for key, code in used)
    assert re.findall(r"#[0-9a-fA-F]{3,6}\b", re.sub(r"var\([^)]*\)|&#\w+;", "", picture)) == []


@pytest.mark.parametrize("name", FIGURES)
def test_letters_can_be_read_on_a_telephone(name: str) -> None:
    (size,) = re.findall(r"\.moving text \{ font: ([\d.]+)px", page(name))
    assert float(size) * 342 / plotting._moving.WIDTH >= 11


def test_a_mark_with_states_that_no_control_has_is_refused() -> None:
    marks = {"line": Mark("line", [0.0, 1.0], [[0.0, 1.0]] * 3)}
    options: dict[str, Any] = {"says": {}, "height": 120, "alt": "A line."}
    with pytest.raises(ValueError, match=r"the states of a mark have shape \(3,\), and those of the controls \(2,\)"):
        Moving([Control("slope", ["1", "2"])], [Panel(10, 100, (0, 1), (0, 2))], marks, **options).data()
