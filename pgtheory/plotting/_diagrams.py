"""MDPs drawn as diagrams, laid out by the package itself."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from torch import Tensor

from pgtheory.plotting._theme import LETTERS, WIDTH, color, drawn

if TYPE_CHECKING:
    from pgtheory.mdp import FiniteMDP

Place = tuple[float, float]
LARGEST = 40  # states
HALF_HEIGHT = 0.17  # of a state, in inches: the unit of all places here
LEAF = 1.0  # from one state to the next at the foot of a backup diagram


class _Edge(NamedTuple):
    start: int
    end: int
    text: str
    action: int | None  # None where there is nothing to choose


class _Fork(NamedTuple):
    state: int
    action: int
    edges: list[_Edge]


@drawn
def plot_interaction_loop() -> Figure:
    """The loop of agent and environment: an action goes out, a reward and the next state come back."""
    figure = Figure(figsize=(WIDTH, 2.1), layout="constrained")
    axes = figure.subplots()
    box: dict[str, Any] = {"boxstyle": "round,pad=0.6", "facecolor": "none", "edgecolor": color("exact")}
    axes.text(0, 1, "agent", ha="center", va="center", bbox=box)
    axes.text(0, 0, "environment", ha="center", va="center", bbox=box)
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 2, "linewidth": 1.5}
    for x, start, end, text, name in (
        (1, 1, 0, "action $A_t$", "pi"),
        (-1, 0, 1, "reward $R_{t+1}$,\nstate $S_{t+1}$", "exact"),
    ):
        edge = {1: 0.3 * x, 0: 0.55 * x}  # where the boxes end
        axes.plot([edge[start], x, x], [start, start, end], color=color(name), linewidth=1.5)
        axes.annotate("", (edge[end], end), (x, end), arrowprops=arrow | {"color": color(name)})
        axes.text(1.08 * x, 0.5, text, color=color(name), ha="left" if x > 0 else "right", va="center")
    axes.set(xlim=(-1.95, 1.95), ylim=(-0.4, 1.4))
    axes.axis("off")
    return figure


def _signed(x: float) -> str:
    return f"{x:+.3g}".replace("-", "−")


def _parts(mdp: "FiniteMDP", actions: Sequence[str]) -> tuple[list[_Edge], list[_Fork]]:
    """The arrows from state to state, and the actions that have several outcomes, whose arrows start at a dot."""
    outcomes: dict[tuple[int, int], list[tuple[int, float, float]]] = defaultdict(list)
    for s, a, s_next, r, p in zip(*(x.tolist() for x in mdp.outcomes), strict=True):
        outcomes[s, a].append((s_next, float(mdp.rewards[r]), p))
    choice = mdp.available.sum(-1).tolist()
    plain: dict[tuple[int, int, float], list[int]] = defaultdict(list)
    edges, forks = [], []
    for (s, a), found in outcomes.items():
        texts = [f"{p:.3g}, {_signed(r)}" if r else f"{p:.3g}" for _, r, p in found]
        several = [_Edge(s, end, text, a) for (end, _, _), text in zip(found, texts, strict=True)]
        if len(found) == 1:
            plain[s, found[0][0], found[0][1]].append(a)
        elif choice[s] == 1:
            edges += [edge._replace(action=None) for edge in several]
        else:
            forks.append(_Fork(s, a, several))
    for (s, end, r), taken in plain.items():
        alone = len(taken) == choice[s]
        name = "" if alone else ", ".join(actions[a] for a in taken)
        edges.append(_Edge(s, end, f"{name} {_signed(r) if r else ''}".strip(), None if alone else taken[0]))
    return edges, forks


def _layers(n: int, pairs: set[tuple[int, int]]) -> list[int] | None:
    """The longest way to each state, or None where the arrows go round."""
    depth = [0] * n
    for _ in range(n):
        before = list(depth)
        for s, end in pairs:
            depth[end] = max(depth[end], depth[s] + 1)
        if depth == before:
            return depth
    return None


def _row(states: Sequence[int], edges: Sequence[_Edge], widths: Sequence[float]) -> dict[int, Place]:
    """The states side by side, with room for what is written between neighbours."""
    x, places = 0.0, {states[0]: (0.0, 0.0)}
    for s, after in pairwise(states):
        texts = [_half_width(e.text) for e in edges if {e.start, e.end} == {s, after}]
        x += widths[s] + widths[after] + max(0.36, 2 * max(texts, default=0.0) + 0.12)
        places[after] = (x, 0.0)
    return places


def _layered(layers: Sequence[int], widths: Sequence[float]) -> dict[int, Place]:
    """The states in columns by their distance from the start."""
    members: dict[int, list[int]] = defaultdict(list)
    for s, layer in enumerate(layers):
        members[layer].append(s)
    fullest = max(map(len, members.values()))
    wide = min(1.75, (WIDTH - 2 * max(widths) - 0.3) / max(len(members) - 1, 1))
    places: dict[int, Place] = {}
    for layer, states in members.items():
        height = 0.42 * fullest / len(states) if fullest > 4 else 0.85
        for k, s in enumerate(states):
            places[s] = (layer * wide, ((len(states) - 1) / 2 - k) * height)
    return places


def _tree(layers: Sequence[int], pairs: set[tuple[int, int]], widths: Sequence[float]) -> dict[int, Place]:
    """A row for each state that nothing follows; the others in the middle of what follows them."""
    wide = min(1.75, (WIDTH - 2 * max(widths) - 0.3) / max(layers))
    places: dict[int, Place] = {}
    ends = count()

    def place(s: int) -> float:
        heights = [place(end) for start, end in sorted(pairs) if start == s]
        y = sum(heights) / len(heights) if heights else -0.42 * next(ends)
        places[s] = (layers[s] * wide, y)
        return y

    place(layers.index(0))
    return places


def _places(mdp: "FiniteMDP", edges: Sequence[_Edge], widths: Sequence[float]) -> dict[int, Place]:
    """Places for the states.

    A row where every arrow joins neighbours, and also where the others lead to one end, which then stands below;
    a tree, or layers, where none goes back; a circle for the rest.
    """
    n, pairs = mdp.n_states, {(e.start, e.end) for e in edges if e.start != e.end}
    if n == 2:
        return {0: (0.0, 0.0), 1: (2.7, 0.0)}
    if all(abs(s - end) == 1 for s, end in pairs):
        return _row(range(n), edges, widths)
    if mdp.terminal.tolist() == [False] * (n - 1) + [True]:
        others = {(s, end) for s, end in pairs if end != n - 1}
        if all(abs(s - end) == 1 for s, end in others):
            step = max(1.15, 2.7 / (n - 2))
            return {s: (s * step, 0.0) for s in range(n - 1)} | {n - 1: ((n - 2) * step / 2, -1.7)}
    layers = _layers(n, pairs)
    if layers is not None:
        tree = layers.count(0) == 1 and len(pairs) == n - 1 and n > 8
        return _tree(layers, pairs, widths) if tree else _layered(layers, widths)
    radius = max(1.0, max(0.9, 2 * max(widths) + 0.45) * n / (2 * math.pi))
    turn = [math.pi - 2 * math.pi * s / n for s in range(n)]
    return {s: (min(1.3 * radius, 2.0) * math.cos(x), radius * math.sin(x)) for s, x in enumerate(turn)}


def _toward(a: Place, b: Place) -> float:
    return math.atan2(b[1] - a[1], b[0] - a[0])


def _apart(a: float, b: float) -> float:
    return abs((a - b + math.pi) % (2 * math.pi) - math.pi)


def _free_angle(wanted: float, taken: Sequence[float]) -> float:
    """The angle nearest to `wanted` that keeps clear of those that are taken."""
    turns = [wanted + math.pi / 12 * k for j in range(13) for k in (j, -j)]
    return min(turns, key=lambda x: sum(max(0.0, 0.9 - _apart(x, y)) * 4 for y in taken) + _apart(x, wanted))


class _Canvas:
    """The axes, in inches, with the states on them."""

    def __init__(self, axes: Axes, places: Mapping[int, Place], widths: Sequence[float]) -> None:
        self.axes, self.places, self.widths = axes, places, widths
        self.boxes = [(*places[s], widths[s], HALF_HEIGHT) for s in places]  # what no text may cover

    def reach(self, s: int, angle: float) -> float:
        """From the middle of a state to its edge, in inches."""
        x, y = abs(math.cos(angle)), abs(math.sin(angle))
        return min(self.widths[s] / max(x, 1e-9), HALF_HEIGHT / max(y, 1e-9))

    def arrow(
        self, start: Place, end: Place, bend: float, ink: str, shrink: tuple[float, float]
    ) -> Callable[[float], Place]:
        """An arrow, bent to the right of its direction by this share of its length; returns its points."""
        ends: dict[str, Any] = {"shrinkA": 72 * shrink[0], "shrinkB": 72 * shrink[1] + 1}
        options: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 9, "color": ink, "linewidth": 1.2}
        self.axes.add_patch(FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", **ends, **options))
        dx, dy = end[0] - start[0], end[1] - start[1]
        size = math.hypot(dx, dy)

        def at(share: float) -> Place:  # of what is seen
            t = shrink[0] / size + share * (1 - (shrink[0] + shrink[1]) / size)
            out = 2 * t * (1 - t) * bend
            return start[0] + t * dx + out * dy, start[1] + t * dy - out * dx

        return at

    def loop(self, s: int, angle: float, ink: str) -> Place:
        """An arrow from a state to itself; returns where its label goes."""
        x, y = self.places[s]

        def at(turn: float, out: float) -> Place:
            far = self.reach(s, angle + turn) + out
            return x + far * math.cos(angle + turn), y + far * math.sin(angle + turn)

        path = Path([at(-0.5, 0.0), at(-0.6, 0.5), at(0.6, 0.5), at(0.5, 0.02)], [1, 4, 4, 4])
        options: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 9, "color": ink, "linewidth": 1.2}
        self.axes.add_patch(FancyArrowPatch(path=path, **options))
        out = self.reach(s, angle) + 0.46
        return x + out * math.cos(angle), y + out * math.sin(angle)

    def label(self, text: str, places: Sequence[Place], ink: str) -> None:
        """A text on the colour of the page, at the place where it covers least."""
        if not text:
            return
        half = _half_width(text) - 0.04

        def covered(place: Place) -> float:
            x, y = place
            return sum(
                max(0.0, half + w - abs(x - x0)) * max(0.0, 0.09 + h - abs(y - y0)) for x0, y0, w, h in self.boxes
            )

        best = min(places, key=covered)
        self.boxes.append((*best, half, 0.09))
        box: dict[str, Any] = {"facecolor": color("paper"), "edgecolor": "none", "pad": 0.8}
        self.axes.text(*best, text, ha="center", va="center", color=ink, bbox=box, zorder=4)

    def state(self, s: int, name: str, end: bool) -> None:
        """A state: round, or a square if it is terminal."""
        (x, y), w = self.places[s], self.widths[s]
        shape = "square,pad=0" if end else f"round,pad=0,rounding_size={HALF_HEIGHT}"
        fill = color("faint") if end else color("paper")
        options: dict[str, Any] = {"boxstyle": shape, "linewidth": 1.4, "edgecolor": color("exact"), "zorder": 3}
        corner = (x - w, y - HALF_HEIGHT)
        self.axes.add_patch(FancyBboxPatch(corner, 2 * w, 2 * HALF_HEIGHT, facecolor=color("paper"), **options))
        if end:
            self.axes.add_patch(FancyBboxPatch(corner, 2 * w, 2 * HALF_HEIGHT, facecolor=fill, alpha=0.3, **options))
        self.axes.text(x, y, name, ha="center", va="center", zorder=5)


def _half_width(name: str) -> float:
    text = float(TextPath((0, 0), name, size=LETTERS).get_extents().width) / 72
    return max(HALF_HEIGHT, text / 2 + 0.09)


def _names(given: Sequence[str] | None, own: Sequence[str] | None, n: int, what: str) -> list[str]:
    names = list(given or own or map(str, range(n)))
    if len(names) != n:
        raise ValueError(f"{what} has {len(names)} names, and the MDP has {n}")
    return names


ALONG = (0.45, 0.55, 0.35, 0.65, 0.28, 0.72)  # where on an arrow a text may stand, the best first


def _blocked(canvas: _Canvas, s: int, end: int) -> bool:
    """Whether a third state stands on the straight way between two."""
    a, b = canvas.places[s], canvas.places[end]
    size = math.dist(a, b)
    for other, c in canvas.places.items():
        t = ((c[0] - a[0]) * (b[0] - a[0]) + (c[1] - a[1]) * (b[1] - a[1])) / size**2
        off = abs((c[0] - a[0]) * (b[1] - a[1]) - (c[1] - a[1]) * (b[0] - a[0])) / size
        if other not in (s, end) and 0 < t < 1 and off < 0.3:
            return True
    return False


def _draw_edges(canvas: _Canvas, edges: Sequence[_Edge], taken: dict[int, list[float]]) -> None:
    """The arrows from state to state; those between the same states bend away from each other."""
    places = canvas.places
    middle = sum(x for x, _ in places.values()) / len(places), sum(y for _, y in places.values()) / len(places)
    flat = len({y for s, (_, y) in places.items()}) == 1
    heaps: dict[tuple[int, int], list[_Edge]] = defaultdict(list)
    for edge in edges:
        heaps[edge.start, edge.end].append(edge)
    for (s, end), heap in heaps.items():
        for k, edge in enumerate(heap):
            ink = color("exact" if edge.action is None else "pi")
            if s == end:
                angle = _free_angle(math.pi / 2 if flat else _toward(middle, places[s]), taken[s])
                taken[s].append(angle)
                canvas.label(edge.text, [canvas.loop(s, angle, ink)], ink)
                continue
            there, size = _toward(places[s], places[end]), math.dist(places[s], places[end])
            bend = 0.7 * ((len(heap) - 1) / 2 - k)
            if (end, s) in heaps:
                bend = (0.42 if flat else 0.25) * min(1.0, 0.9 / size if flat else 1.0) + 0.3 * k
            elif _blocked(canvas, s, end):
                bend = -0.45
            at = canvas.arrow(places[s], places[end], -bend, ink, (canvas.reach(s, there), canvas.reach(end, there)))
            spots = [at(t) for t in ALONG]
            if flat and bend:  # between neighbours there is no room on the arrow
                x, y = at(0.5)
                spots = [(x, y + math.copysign(0.11, bend * math.cos(there)))]
            canvas.label(edge.text, spots, ink)


def _draw_forks(canvas: _Canvas, forks: Sequence[_Fork], names: Sequence[str], taken: dict[int, list[float]]) -> None:
    """The actions with several outcomes: a dot, and an arrow to each state that may follow."""
    places, ink = canvas.places, color("pi")
    for s, a, edges in forks:
        away = [places[e.end] for e in edges if e.end != s]
        wanted = _toward(places[s], away[0]) + 0.7 if away else math.pi / 2
        angle = _free_angle(wanted, taken[s])
        taken[s].append(angle)
        far = canvas.reach(s, angle) + 0.55
        dot = places[s][0] + far * math.cos(angle), places[s][1] + far * math.sin(angle)
        canvas.axes.plot(*zip(places[s], dot, strict=True), color=ink, linewidth=1.2, zorder=1)
        canvas.axes.add_patch(Circle(dot, 0.055, color=ink, zorder=4))
        canvas.boxes.append((*dot, 0.05, 0.05))
        up = 1 if math.sin(angle) >= 0 else -1
        canvas.label(names[a], [(dot[0], dot[1] + 0.19 * up), (dot[0], dot[1] - 0.19 * up)], ink)
        for edge in edges:
            there = _toward(dot, places[edge.end])
            bend = -0.6 * up * math.copysign(1.0, math.cos(angle)) if edge.end == s else 0.0
            at = canvas.arrow(dot, places[edge.end], bend, color("exact"), (0.05, canvas.reach(edge.end, there)))
            canvas.label(edge.text, [at(t) for t in ALONG], color("exact"))


def _draw_starts(canvas: _Canvas, initial: Sequence[float], taken: dict[int, list[float]]) -> None:
    """A short arrow without a beginning to each state in which an episode may start."""
    starts = [s for s, p in enumerate(initial) if p > 0]
    places = canvas.places
    middle = sum(x for x, _ in places.values()) / len(places), sum(y for _, y in places.values()) / len(places)
    for s in starts:
        x, y = places[s]
        angle = _free_angle(math.pi if len(starts) == 1 else _toward(middle, (x, y)), taken[s])
        far = canvas.reach(s, angle) + 0.3
        tail = x + far * math.cos(angle), y + far * math.sin(angle)
        canvas.arrow(tail, (x, y), 0.0, color("exact"), (0.0, canvas.reach(s, angle)))
        text = "start" if len(starts) == 1 else f"{initial[s]:.2g}"
        out = 0.12 if abs(math.cos(angle)) < 0.5 else _half_width(text)
        canvas.label(text, [(tail[0] + out * math.cos(angle), tail[1] + out * math.sin(angle))], color("exact"))


@drawn
def draw_mdp(
    mdp: "FiniteMDP",
    *,
    states: Sequence[str] | None = None,
    actions: Sequence[str] | None = None,
    positions: Mapping[int, Place] | None = None,
) -> Figure:
    r"""A small MDP as a diagram: states, actions, probabilities and rewards.

    A state is round, and square if it is terminal; an arrow from nowhere marks the start. An action with one outcome
    is an arrow with its name and its reward, one with several is a dot from which an arrow goes to each state that
    may follow, with its probability and its reward. A reward of 0 is left out, and so is the name of an action where
    nothing can be chosen.

    Args:
        mdp: the MDP, of at most 40 states.
        states: a name for each state; otherwise the MDP's own names, or numbers.
        actions: a name for each action; otherwise the MDP's own names, or numbers.
        positions: where to draw each state, in inches; otherwise a row, layers or a circle, as the arrows ask for.

    Returns:
        The drawing.

    Raises:
        ValueError: if the MDP is too large to be drawn, or the number of names is not that of the MDP.

    Example:
        >>> from pgtheory import gallery
        >>> drawing = draw_mdp(gallery.recycling_robot())
    """
    if mdp.n_states > LARGEST:
        raise ValueError(f"mdp has {mdp.n_states} states, and more than {LARGEST} cannot be drawn to be read")
    names = _names(states, mdp.state_names, mdp.n_states, "states")
    verbs = _names(actions, mdp.action_names, mdp.n_actions, "actions")
    edges, forks = _parts(mdp, verbs)
    every = [*edges, *(e for fork in forks for e in fork.edges)]
    widths = [_half_width(name) for name in names]
    places = dict(positions) if positions is not None else _places(mdp, every, widths)

    figure = Figure(figsize=(WIDTH, 3.0))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    canvas, taken = _Canvas(axes, places, widths), defaultdict(list)
    for edge in edges:
        if edge.start != edge.end:
            taken[edge.start].append(_toward(places[edge.start], places[edge.end]))
            taken[edge.end].append(_toward(places[edge.end], places[edge.start]))
    for s, end in enumerate(mdp.terminal.tolist()):
        canvas.state(s, names[s], end)
    _draw_forks(canvas, forks, verbs, taken)
    _draw_edges(canvas, edges, taken)
    _draw_starts(canvas, mdp.initial.tolist(), taken)
    return _fitted(figure, axes)


def _fitted(figure: Figure, axes: Axes) -> Figure:
    """The figure cut to what is on it, one inch of the paper for each unit."""
    axes.set(xlim=(0.0, WIDTH), ylim=(0.0, 3.0))
    figure.draw_without_rendering()
    scale = figure.dpi
    boxes = [x.get_window_extent() for x in (*axes.patches, *axes.texts)]
    left, low = min(b.x0 for b in boxes) / scale - 0.06, min(b.y0 for b in boxes) / scale - 0.06
    right, high = max(b.x1 for b in boxes) / scale + 0.06, max(b.y1 for b in boxes) / scale + 0.06
    figure.set_size_inches(right - left, high - low)
    axes.set(xlim=(left, right), ylim=(low, high))
    return figure


class _Branch(NamedTuple):
    """An action of a backup diagram: where its dot and the states below it stand."""

    action: int
    x: float
    leaves: list[tuple[float, int, str]]  # place, next state, what is written on the way to it


def _branches(mdp: "FiniteMDP", state: int) -> list[_Branch]:
    """The actions of a state side by side, each over the outcomes that it may have."""
    heaps: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for s, a, s_next, r, p in zip(*(x.tolist() for x in mdp.outcomes), strict=True):
        if s == state:
            reward = float(mdp.rewards[r])
            parts = [f"{p:.3g}"] * (p < 1) + [_signed(reward)] * (reward != 0)
            heaps[a].append((s_next, "\n".join(parts)))
    found, x = [], 0.0
    for a, heap in heaps.items():
        leaves = [(x + LEAF * k, end, text) for k, (end, text) in enumerate(heap)]
        found.append(_Branch(a, sum(place for place, _, _ in leaves) / len(leaves), leaves))
        x += LEAF * len(heap) + 0.1
    return found


def _number(x: float) -> str:
    return f"{x:.2f}".replace("-", "−")


def _draw_branch(
    canvas: _Canvas, branch: _Branch, first: int, text: str, value: str, path: tuple[int, int] | None
) -> None:
    """An action under the state on top, which is place 0, and the ways from it down to the places from `first` on."""
    axes, top, dot = canvas.axes, canvas.places[0], (branch.x, 1.2)
    ink = color("pi" if path is None else "sampled" if path[0] == branch.action else "faint")
    canvas.arrow(top, dot, 0.0, ink, (canvas.reach(0, _toward(top, dot)), 0.05))
    axes.add_patch(Circle(dot, 0.055, color=ink, zorder=4))
    canvas.label(text, [(top[0] + 0.64 * (dot[0] - top[0]), top[1] + 0.64 * (dot[1] - top[1]))], ink)
    side = -1 if dot[0] < top[0] - 0.3 else 1  # where the arrow does not come from
    place = dot[0] + 0.1 * side, dot[1] + 0.02
    axes.text(*place, value, ha="right" if side < 0 else "left", va="center", color=color("q"))
    for leaf, (x, end, way) in enumerate(branch.leaves, first):
        line = color("exact" if path is None else "sampled" if path == (branch.action, end) else "faint")
        at = canvas.arrow(dot, (x, 0.0), 0.0, line, (0.05, canvas.reach(leaf, _toward(dot, (x, 0.0)))))
        canvas.label(way, [at(0.55)], line)


@drawn
def draw_backup(
    mdp: "FiniteMDP",
    state: int,
    *,
    policy: Tensor,
    values: Tensor,
    action_values: Tensor | None = None,
    path: tuple[int, int] | None = None,
) -> Figure:
    r"""The backup diagram of a state: what may follow in one step, and the values that are averaged on the way up.

    The state stands on top, a dot below it for each action, and below that the states that may follow, with their
    values. On the lines stand the probabilities of the policy and of the dynamics, and the rewards other than 0.

    Args:
        mdp: the MDP.
        state: the state on top.
        policy: the probability of each action in that state, `[A]`.
        values: the value of every state, `[S]`; those below are shown, and that on top if no path is marked.
        action_values: the value of each action of the state, `[A]`, to be written beside its dot.
        path: an action and a next state, to mark the one way through the diagram that a sample takes.

    Returns:
        The drawing.

    Raises:
        ValueError: if the state has no action, or more than six outcomes.

    Example:
        >>> import torch
        >>> from pgtheory import gallery
        >>> robot = gallery.recycling_robot()
        >>> drawing = draw_backup(robot, 1, policy=torch.ones(3) / 3, values=torch.zeros(2))
    """
    branches = _branches(mdp, state)
    ends = [(x, end) for branch in branches for x, end, _ in branch.leaves]
    if not 1 <= len(ends) <= 6:
        raise ValueError(f"state {state} has {len(ends)} outcomes, and a backup diagram can show 1 to 6")
    names = _names(None, mdp.state_names, mdp.n_states, "states")
    verbs = _names(None, mdp.action_names, mdp.n_actions, "actions")
    figure = Figure(figsize=(WIDTH, 3.0))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    top = (sum(branch.x for branch in branches) / len(branches), 2.55)
    shown = [state, *(end for _, end in ends)]
    places = dict(enumerate([top, *((x, 0.0) for x, _ in ends)]))
    canvas = _Canvas(axes, places, [_half_width(names[s]) for s in shown])
    for k, s in enumerate(shown):
        canvas.state(k, names[s], bool(mdp.terminal[s]))
    for (x, _), s in zip(ends, shown[1:], strict=True):
        axes.text(x, -0.36, _number(float(values[s])), ha="center", va="center", color=color("v"))
    if path is None:
        axes.text(
            top[0] + canvas.widths[0] + 0.08, top[1], _number(float(values[state])), va="center", color=color("v")
        )
    first = 1
    for branch in branches:
        text = f"{verbs[branch.action]}\n{float(policy[branch.action]):.2g}"
        value = "" if action_values is None else _number(float(action_values[branch.action]))
        _draw_branch(canvas, branch, first, text, value, path)
        first += len(branch.leaves)
    return _fitted(figure, axes)
