"""Figures: colours with one meaning, a light and a dark version, letters that a telephone can read."""

import itertools
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import seeded
from matplotlib.figure import Figure
from matplotlib.text import Text

from pgtheory import gallery, plotting
from pgtheory.mdp import FiniteMDP
from pgtheory.plotting import _theme

ARTICLE = 350  # pixels that a telephone of 390 leaves for a figure

# Machado, Oliveira and Fernandes (2009), https://doi.org/10.1109/TVCG.2009.113: severity 1, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(code: str) -> np.ndarray:
    """The linear RGB of a colour."""
    c = np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """The contrast ratio of WCAG 2.1."""
    low, high = sorted(float(linear(code) @ [0.2126, 0.7152, 0.0722]) for code in (a, b))
    return (high + 0.05) / (low + 0.05)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Ottosson (2020): coordinates in which distances are those that are seen."""
    to_lms = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
    to_lms.append([0.0883024619, 0.2817188376, 0.6299787005])
    to_lab = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099]]
    to_lab.append([0.0259040371, 0.7827717662, -0.8086757660])
    return np.array(to_lab) @ np.cbrt(np.array(to_lms) @ np.clip(rgb, 0, 1))


@pytest.mark.parametrize("shade", ["light", "dark"])
def test_each_colour_stands_out_from_the_page_and_from_the_others(shade: str) -> None:
    codes = {name: getattr(colour, shade) for name, colour in plotting.PALETTE.items()}
    assert all(contrast(code, getattr(plotting.PAPER, shade)) >= 3 for code in codes.values())
    for name, matrix in BLINDNESS.items():
        seen = {key: oklab(np.array(matrix) @ linear(code)) for key, code in codes.items()}
        gap, pair = min((float(np.linalg.norm(seen[a] - seen[b])), (a, b)) for a, b in itertools.combinations(seen, 2))
        assert gap >= 0.05, (name, pair)


def test_the_palette_has_the_meanings_of_the_book() -> None:
    assert list(plotting.PALETTE) == ["exact", "v", "q", "pi", "sampled", "wrong"]


lake = FiniteMDP.from_gymnasium("FrozenLake-v1")
x = torch.linspace(0, 1, 20, dtype=torch.float64)
field = torch.stack(torch.meshgrid(x[:9], x[:9], indexing="ij"), -1) - 0.2
icons = plotting.icons_of(["SFFF", "FHFH", "FFFH", "HFFG"])
DRAWINGS: dict[str, Callable[[], plotting.Drawing]] = {
    "interaction_loop": plotting.plot_interaction_loop,
    "trajectory_counts": lambda: plotting.plot_trajectory_counts({"a": [1, 2, 4], "b": [1, 3, 9]}),
    "z_scores": lambda: plotting.plot_z_scores(x[1:9] / 5, x[1:9] / 5 + 0.001, 100),
    "returns_by_discount": lambda: plotting.plot_returns_by_discount(x, {"rising": x, "falling": 1 - x}),
    "discount_factors": lambda: plotting.plot_discount_factors({0.5: 0.5 ** (20 * x)}, {0.5: 2.0}),
    "contraction": lambda: plotting.plot_contraction({0.5: 0.4 ** (10 * x), 0.9: 0.8 ** (10 * x)}),
    "values_by_steps_left": lambda: plotting.plot_values_by_steps_left({"high": x, "low": x / 2}, change=3),
    "estimates": lambda: plotting.plot_estimates(x[:3], {"first": (x[:3], x[1:4])}, names="ABC"),
    "knobs": lambda: plotting.plot_knobs(x - x[9], {"good": x, "bad": 2 * x[9] - x}),
    "continuous_policy": lambda: plotting.plot_continuous_policy(x, 1 - x**2, {"before": x, "after": 2 * x}),
    "two_action_response": lambda: plotting.plot_two_action_response(x, x, x / 4, x / 2),
    "simplex_flow": lambda: plotting.plot_simplex_flow(plotting.simplex_grid(4), plotting.simplex_grid(4) - 1 / 3),
    "nucleus": lambda: plotting.plot_nucleus(torch.tensor([0.5, 0.3, 0.1, 0.1]), 0.7, 2),
    "temperature_paths": lambda: plotting.plot_temperature_paths(x + 0.1, torch.rand(20, 4), x, names="abcd"),
    "decoding_performance": lambda: plotting.plot_decoding_performance(
        {"k": (x, torch.rand(20, 3)), "p": (x, torch.rand(20, 3))}, ["prompt 0", "prompt 1", "average"]
    ),
    "slope": lambda: plotting.plot_slope(x - 0.5, x.square(), -0.2),
    "ascents": lambda: plotting.plot_ascents({"SGD": x, "AdamW": x / 2}, 1.1),
    "fields": lambda: plotting.plot_fields(
        x[:9], x[:9], {"kept": field, "dropped": field}, [field[..., 0], field[..., 1]], 0.1
    ),
    "plateaus": lambda: plotting.plot_plateaus({"0.1": x, "0.01": x**2}, {"the other": 0.1, "the best": 0.9}),
    "gradient_clouds": lambda: plotting.plot_gradient_clouds(
        {"right": torch.randn(50, 2) + 1, "wrong": torch.randn(50, 2)}, torch.ones(2), wrong=["wrong"]
    ),
    "corridor": lambda: plotting.plot_corridor(x, -10 * x, {"optimum": (0.5, -10.0)}),
    "learning_curves": lambda: plotting.plot_learning_curves(
        {"α = 1": -torch.rand(40, 5), "baseline": -torch.rand(40, 5)}, 0.0
    ),
    "baseline_variance": lambda: plotting.plot_baseline_variance(x, x**2, {"none": (0.0, 0.0), "value": (0.5, 0.25)}),
    "ledger": lambda: plotting.plot_ledger(
        ["to go", "own mean", "standardised", "top-p"],
        [0.0, 0.0, 20.0, 70.0],
        [1.0, 0.5, 1.0, 2.0],
        [0.2, 0.1, 0.2, 0.21],
    ),
    "seeds": lambda: plotting.plot_seeds(
        [1, 2, 3],
        {"bonus": [[0.1, 0.2, 0.3], [0.0, 0.3, 0.2]], "none": [[0, 0.1, 0.1]]},
        0.4,
        ylabel="J",
        best_label="best",
    ),
    "surrogate_gap": lambda: plotting.plot_surrogate_gap(
        x,
        x - (x - 0.5) ** 2,
        x,
        {"sharp": x - 5 * (x - 0.5) ** 2, "loose": x - 50 * (x - 0.5) ** 2},
        old=0.5,
        xlabel="x",
    ),
    "bias_and_deviation": lambda: plotting.plot_bias_and_deviation(
        x, {"right": x, "zero": 1 - x}, {"right": x, "zero": x}
    ),
    "bands": lambda: plotting.plot_bands(
        x, {"PPO": torch.rand(5, 20).double(), "no ratio": 2 + torch.rand(5, 20).double()}, xlabel="steps"
    ),
    "step_sizes": lambda: plotting.plot_step_sizes(
        x + 0.05, {"free": {"1": torch.rand(5, 20).double()}, "clipped": {"1": torch.rand(5, 20)}}, lowest=-1.0
    ),
    "difficulty": lambda: plotting.plot_difficulty(x, {"none": x + 1, "K = 3": x + 2, "K = 8": x + 3}),
    "length_bias": lambda: plotting.plot_length_bias(list(range(20)), {"dr": torch.ones(20), "grpo": 1 / (1 + x)}),
    "pushes": lambda: plotting.plot_pushes(
        [["not", "bad"], ["."]], {"RLOO": torch.tensor([[1.0, 0.5], [-2.0, 9.0]]), "GRPO": torch.zeros(2, 2)}
    ),
    "learning_bands": lambda: plotting.plot_learning_bands({"a": field[..., 0], "b": field[..., 1]}, ylabel="reward"),
    "frontier": lambda: plotting.plot_frontier(
        torch.stack([x, x.sqrt()], 1), {"a run": torch.stack([x, x], 1)}, optimum=torch.stack([x[9], x[9].sqrt()])
    ),
    "angles": lambda: plotting.plot_angles(
        x, {"sequence ratio": 0 * x, "token ratio": 30 * x, "no ratio": 40 * x, "GRPO": 130 * x, "GSPO": 128 * x}
    ),
    "next_tokens": lambda: plotting.plot_next_tokens(
        {"The capital of": [(" France", 0.6), ("\n", 0.004)], "I": [(" am", 0.5)]}
    ),
    "post_training": lambda: plotting.plot_post_training(
        {
            "one word": {"reward": [0.1, 0.5, 0.9], "entropy": [2.0, 1.0, 0.5]},
            "a joy": {"reward": [0, 1], "entropy": [1, 2]},
        }
    ),
    "reward_against_kl": lambda: plotting.plot_reward_against_kl({"one": {"reward": [0.1, 0.9], "kl": [0.0, 9.0]}}),
    "total_rewards": lambda: plotting.plot_total_rewards([1, 2, 3], [10.0, 20.0, 30.0], 50.0),
    "runs": lambda: plotting.plot_runs({"one": torch.rand(3, 20), "two": torch.rand(3, 20)}, ylabel="right"),
    "costs": lambda: plotting.plot_costs(
        {"now": ([1, 10, 100], [1e-3, 1e-2, 0.1]), "a peer": ([1, 10], [0.1, 1.0])}, xlabel="steps $T$"
    ),
    "mistake": lambda: plotting.plot_mistake(x, 1 - x, best=1.0),
    "value_grid": lambda: plotting.plot_value_grid(
        torch.rand(4, 4),
        decimals=2,
        arrows=torch.eye(4).bool().expand(4, 4, 4),
        moves=[(0, 1), (1, 0), (0, -1), (-1, 0)],
        icons=icons,
        walls=[(0, 1)],
    ),
    "grid_changes": lambda: plotting.plot_grid_changes({"a": torch.randn(4, 4), "b": torch.randn(4, 4)}, marked=1),
    "draw_mdp": lambda: plotting.draw_mdp(gallery.recycling_robot()),
    "draw_backup": lambda: plotting.draw_backup(
        gallery.recycling_robot(), 1, policy=x[3:6], values=-x[7:9], action_values=10 * x[9:12]
    ),
}


def test_every_figure_is_tested() -> None:
    public = {name.removeprefix("plot_") for name in plotting.__all__ if name.startswith(("plot_", "draw_"))}
    assert public == DRAWINGS.keys()


@pytest.fixture(scope="module", params=DRAWINGS)
def drawing(request: pytest.FixtureRequest) -> plotting.Drawing:
    return DRAWINGS[request.param]()


def test_a_figure_is_the_same_svg_each_time_and_asks_for_nothing(drawing: plotting.Drawing) -> None:
    text = drawing.svg("light")
    assert plotting.Drawing(drawing._draw).svg("light") == text
    assert len(text) < 200_000
    assert re.findall(r'href="(?!#|data:image/png)[^"]*"', text) == []


def test_a_figure_has_the_page_and_the_ink_of_its_shade(drawing: plotting.Drawing) -> None:
    light, dark = drawing.svg("light").lower(), drawing.svg("dark").lower()
    assert light != dark
    for text, own, other in ((light, "light", "dark"), (dark, "dark", "light")):
        named = [plotting.PAPER, plotting.PALETTE["exact"], plotting.PALETTE["v"], plotting.PALETTE["pi"]]
        assert getattr(plotting.PAPER, own).lower() in text
        unwanted = {getattr(colour, other).lower() for colour in named} - {"#ffffff"}
        assert not [code for code in unwanted if code in text]


@pytest.fixture(scope="module")
def laid_out(drawing: plotting.Drawing) -> Figure:
    figure = drawing.figure()
    figure.draw_without_rendering()
    return figure


def test_the_letters_of_a_figure_can_be_read_on_a_telephone(laid_out: Figure) -> None:
    figure = laid_out
    width = figure.get_figwidth() * 96
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    assert texts
    smallest = min(text.get_fontsize() for text in texts) * 96 / 72
    assert smallest * min(1.0, ARTICLE / width) >= 11


def test_nothing_of_a_figure_is_cut_off(laid_out: Figure) -> None:
    figure = laid_out
    # Matplotlib keeps labels of ticks beyond the limits, and does not draw them.
    ticks = [t for a in figure.axes for axis in (a.xaxis, a.yaxis) for t in (*axis.majorTicks, *axis.minorTicks)]
    undrawn = {id(label) for tick in ticks for label in (tick.label1, tick.label2)}
    inside = figure.bbox
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and id(text) not in undrawn:
            box = text.get_window_extent()
            assert min(box.x0 - inside.x0, box.y0 - inside.y0, inside.x1 - box.x1, inside.y1 - box.y1) >= -2, text


def test_a_drawing_is_shown_light_with_the_dark_version_beside_it() -> None:
    data, metadata = DRAWINGS["mistake"]()._repr_mimebundle_()
    assert data.keys() == {"image/svg+xml"}
    assert metadata["image/svg+xml"]["dark"].startswith("<?xml")


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    DRAWINGS["mistake"]().svg("dark")
    assert dict(mpl.rcParams) == before
    assert plotting.color("exact") == plotting.PALETTE["exact"].light


WORLDS: dict[str, Callable[[], FiniteMDP]] = {
    "robot": gallery.recycling_robot,
    "tree": lambda: gallery.token_tree(3, 2),
    "tree that may end at once": lambda: gallery.token_tree(3, 2, eos=0),
    "language": gallery.tiny_language,
    "corridor": gallery.short_corridor,
    "walk": gallery.random_walk,
    "toy": gallery.two_state_toy,
    "bandit": lambda: gallery.bandit([1.0, 0.5, 0.0]),
    "trap": gallery.trap,
    "chain": gallery.student_chain,
    "student": gallery.student_mdp,
    "correlated": gallery.correlated_rewards,
}


@pytest.mark.parametrize("world", WORLDS)
def test_a_diagram_shows_every_state_action_probability_and_reward(world: str) -> None:
    mdp = WORLDS[world]()
    texts = [text.get_text() for text in plotting.draw_mdp(mdp).figure().findobj(Text)]
    words = set(re.split(r"[ ,]+", " ".join(texts)))
    states = mdp.state_names or [str(s) for s in range(mdp.n_states)]
    assert all(texts.count(name) >= 1 for name in states)
    taken = mdp.available.sum(-1) > 1
    actions = mdp.action_names or [str(a) for a in range(mdp.n_actions)]
    used = {actions[a] for s, a in mdp.available.nonzero().tolist() if taken[s]}
    assert all(any(name in text for text in texts) for name in used)
    o = mdp.outcomes
    assert {f"{p:.3g}" for p in o.probability.tolist() if p < 1} <= words
    rewards = {f"{float(r):+.3g}".replace("-", "−") for r in mdp.rewards[o.reward_index] if r}
    assert rewards <= words
    assert ("start" in words) or int((mdp.initial > 0).sum()) > 1


def test_a_backup_diagram_shows_what_is_averaged_and_marks_the_way_of_a_sample() -> None:
    language, model = gallery.tiny_language(), gallery.tiny_language_model()
    v, q = torch.arange(17.0) / 4 - 1, torch.tensor([0.125, 3.0, -7.0, 11.0])
    texts = [
        text.get_text()
        for text in plotting.draw_backup(language, 0, policy=model[0], values=v, action_values=q).figure().axes[0].texts
    ]
    assert texts.count("start") == 1
    assert {"good\n0.3", "bad\n0.2", "not\n0.4", ".\n0.1"} <= set(texts)
    assert {"−0.75", "−0.50", "−0.25", "0.00"} <= set(texts)  # v of the four states below
    assert "−1.00" in texts, "the value of the state on top"
    assert {"0.12", "3.00", "−7.00", "11.00"} <= set(texts)
    robot, even = gallery.recycling_robot(), torch.ones(3) / 3
    sample = plotting.draw_backup(robot, 1, policy=even, values=torch.ones(2), path=(0, 0)).figure().axes[0]
    sampled = {text.get_text() for text in sample.texts if text.get_color() == plotting.color("sampled")}
    assert sampled == {"search\n0.33", "0.6\n−3"}
    with pytest.raises(ValueError, match="state 1 has 0 outcomes, and a backup diagram can show 1 to 6"):
        plotting.draw_backup(gallery.bandit([1.0]), 1, policy=even, values=even).figure()


@pytest.mark.parametrize("world", WORLDS)
def test_in_a_diagram_no_state_lies_on_another_and_no_text_on_a_state(world: str) -> None:
    figure = plotting.draw_mdp(WORLDS[world]()).figure()
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [
        p.get_window_extent() for p in axes.patches if type(p).__name__ == "FancyBboxPatch" and p.get_alpha() is None
    ]
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)
    names = {text.get_text() for text in axes.texts if text.get_zorder() == 5}
    for text in axes.texts:
        if text.get_zorder() == 4 and text.get_text() not in names:
            box = text.get_window_extent()
            covered = [min(box.x1, b.x1) - max(box.x0, b.x0) for b in boxes if box.overlaps(b)]
            assert all(overlap < 12 for overlap in covered), text


def test_in_a_large_tree_each_state_stands_in_the_middle_of_what_follows() -> None:
    (axes,) = plotting.draw_mdp(gallery.tiny_language()).figure().axes
    height = {text.get_text(): text.get_position()[1] for text in axes.texts if text.get_zorder() == 5}
    for word in ("good", "bad", "not"):
        after = [height[f"{word} {end}"] for end in ("good", "bad", "not", ".")]
        assert height[word] == pytest.approx(sum(after) / 4)


@pytest.mark.parametrize(
    ("mdp", "names", "message"),
    [
        (gallery.gridworld, {"states": ["a"]}, "states has 1 names, and the MDP has 25"),
        (gallery.trap, {"actions": ["a"]}, "actions has 1 names, and the MDP has 2"),
        (lambda: gallery.garnet(50, 2, 2), {}, "mdp has 50 states, and more than 40 cannot be drawn to be read"),
    ],
    ids=["states", "actions", "large"],
)
def test_what_cannot_be_drawn_is_refused(
    mdp: Callable[[], FiniteMDP], names: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plotting.draw_mdp(mdp(), **names).figure()


def test_labels_are_moved_apart_and_no_further_than_needed() -> None:
    rng = torch.Generator().manual_seed(0)
    for n in range(1, 8):
        places = torch.rand(n, generator=rng).tolist()
        found = _theme.spread(places, 0.1)
        order = sorted(range(n), key=lambda k: places[k])
        assert all(found[b] - found[a] >= 0.1 - 1e-9 for a, b in itertools.pairwise(order))
        assert all(math.isclose(a, b) for a, b in zip(found, places, strict=True)) or n > 1
    assert _theme.spread([0.2, 0.8], 0.1) == [0.2, 0.8]


def test_the_cloud_shows_the_mean_of_the_estimates_and_the_gradient() -> None:
    cloud, gradient = torch.tensor([[1.0, 0.0], [3.0, 2.0]]), torch.tensor([2.0, 0.5])
    figure = plotting.plot_gradient_clouds({"right": cloud}, gradient).figure()
    (axes,) = figure.axes
    ends = [line.get_xydata().tolist() for line in axes.lines]
    assert [[2.0, 1.0]] in ends
    assert [tuple(a.xy) for a in axes.texts if a.get_text() == ""] == [(2.0, 0.5)]


def test_a_row_of_pushes_is_in_units_of_its_hardest_and_marks_what_is_idle() -> None:
    pushes = {"a": torch.tensor([[1.0, 0.0], [-4.0, 9.0]]), "b": torch.zeros(2, 2)}  # the 9 lies beyond the end
    first, second = plotting.plot_pushes([["not", "bad"], ["."]], pushes).figure().axes
    assert [bar.get_height() for bar in first.patches] == [0.25, 0.0, -1.0]  # type: ignore[attr-defined]
    assert [len(axes.lines[0].get_xdata()) for axes in (first, second)] == [1, 3]  # type: ignore[arg-type]
    assert [text.get_text() for text in second.get_xticklabels()] == ["not", "bad", "."]


def test_a_line_of_angles_says_by_its_colour_whether_it_is_exact_or_turns_away() -> None:
    x = torch.arange(3.0)
    (axes,) = plotting.plot_angles(x, {"exact": 0 * x, "near": 20 * x, "far": 60 * x}).figure().axes
    inks = [line.get_color() for line in axes.lines[:3]]
    assert inks == [plotting.PALETTE[name].light for name in ("exact", "q", "wrong")]


def places(path: str) -> list[tuple[float, float]]:
    """The points of a path in absolute or in relative letters, by the rules of SVG."""
    words, found, letter, here = re.findall(r"[MLQClqcz]|-?[\d.]+", path), [], "", 0j
    while words:
        if words[0].isalpha():
            letter = words.pop(0)
            continue
        n = {"m": 1, "l": 1, "q": 2, "c": 3}[letter.lower()]
        start = here if letter.islower() else 0j
        points = [start + complex(float(words.pop(0)), float(words.pop(0))) for _ in range(n)]
        found += [(point.real, point.imag) for point in points]
        here = points[-1]
    return found


def test_a_shorter_path_has_the_same_points() -> None:
    points = iter(torch.rand(400, 2, generator=seeded(), dtype=torch.float64).mul(300).sub(20).tolist())
    whole = ""
    for letters in ("MLLLLLz", "MLCCCLz", "MQQLL", "MCCCCCCCCz"):
        for letter in letters:
            n = {"z": 0, "Q": 2, "C": 3}.get(letter, 1)
            whole += " ".join([letter, *(f"{x:.6f} {y:.6f}" for x, y in (next(points) for _ in range(n)))]) + " "
    shorter = _theme._shorter(f'<path d="{whole}"/>').removeprefix('<path d="').removesuffix('"/>')
    assert len(shorter) < 0.7 * len(whole)
    assert np.allclose(places(shorter), places(whole), rtol=0, atol=0.0051)
    assert (shorter.count("M"), shorter.count("z")) == (4, 3)


def test_the_dotted_line_stands_where_another_return_becomes_the_best() -> None:
    """The three evenings of *Returns*: 2 + 2γ - 3γ² and 2γ + 2γ² meet at γ² = 2/5, which is the only change."""
    gammas = torch.linspace(0, 1, 1001, dtype=torch.float64)
    rewards = {"cautious": [1, 1, 1, 1, 1], "patient": [0, 2, 2, 2, 2], "hasty": [2, 2, -3, 2, 2]}
    returns = {name: sum(r * gammas**k for k, r in enumerate(rs)) for name, rs in rewards.items()}
    lines = plotting.plot_returns_by_discount(gammas, returns).figure().axes[0].lines
    dotted = [float(line.get_xdata()[0]) for line in lines if len(line.get_xdata()) == 2]
    assert dotted == [pytest.approx(0.4**0.5, abs=1e-3)]
