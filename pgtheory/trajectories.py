r"""Chapter 1: trajectories :math:`S_0, A_0, R_1, S_1, \dots`, sampled in batches, or enumerated."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from pgtheory import _checks, _compiled
from pgtheory._precision import wide
from pgtheory.mdp import FiniteMDP, Outcomes, check_policy

__all__ = ["Trajectories", "at_steps", "enumerate_trajectories", "sample_trajectories", "trajectory_probabilities"]

# An enumeration of more trajectories times steps than this is refused.
ENUMERATION_LIMIT = 10_000_000
# Sampled trajectories are padded to the horizon if that makes at most this many steps, else to the longest of them.
PADDING_LIMIT = 2**25
# How many steps of each trajectory there is room for at first; the room doubles as trajectories grow.
ROOM_AT_FIRST = 256
# From this number of trajectories times the horizon on, the compiled kernels take over.
LEAST = 2**12


class Trajectories(NamedTuple):
    r"""N trajectories :math:`S_0, A_0, R_1, S_1, \dots` of at most T steps, padded to T.

    The step at t was taken where `mask[..., t]` is True. After the end the state repeats, and actions and rewards
    are 0. A trajectory is `terminated` if it has reached a terminal state, also if that was its T-th step, and
    `truncated` if it was cut off after T steps; each is exactly one of the two.

    The fields of :eq:`eq-trajectory`.

    Attributes:
        states: :math:`S_0, \dots, S_T`.
        actions: :math:`A_0, \dots, A_{T-1}`.
        rewards: :math:`R_1, \dots, R_T`; `rewards[:, t]` is :math:`R_{t+1}`.
        mask: whether :math:`A_t` was taken.
        terminated: whether the trajectory ended in a terminal state.
        truncated: whether the trajectory was cut off at the horizon.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (3.1).

    Example:
        >>> from pgtheory import gallery, mdp
        >>> corridor = gallery.short_corridor()
        >>> always_left = torch.tensor([[1.0, 0.0]] * 4, dtype=torch.float64)
        >>> trajectories = sample_trajectories(corridor, always_left, 1, horizon=3)
        >>> trajectories.states, trajectories.truncated
        (tensor([[0, 0, 0, 0]]), tensor([True]))
    """

    states: Int[Tensor, "N T+1"]
    actions: Int[Tensor, "N T"]
    rewards: Float[Tensor, "N T"]
    mask: Bool[Tensor, "N T"]
    terminated: Bool[Tensor, "N"]
    truncated: Bool[Tensor, "N"]

    @property
    def lengths(self) -> Int[Tensor, "N"]:
        """The number of steps that were taken."""
        return self.mask.sum(-1)


def sample_trajectories(
    mdp: FiniteMDP,
    policy: Float[Tensor, "S A"] | Float[Tensor, "T S A"],
    n: int,
    *,
    horizon: int,
    generator: torch.Generator | None = None,
) -> Trajectories:
    r"""Draw `n` independent trajectories: :math:`S_0 \sim \mu`, :math:`A_t \sim \pi`, :math:`S_{t+1}, R_{t+1} \sim p`.

    All trajectories advance together, and those that have ended cost nothing. A draw inverts a distribution function
    by bisection, so it takes a number of operations that is logarithmic in the number of actions and outcomes of the
    state, and it never gives an event of probability 0. Each call first spends a time proportional to the number of
    outcomes of the MDP on the policy's distribution functions, so many trajectories in one call are the cheapest. On
    the CPU it is compiled where the extra `fast` is installed; the draws are the same.

    Draws :eq:`eq-trajectory` with the probabilities of :eq:`eq-trajectory-probability`.

    Args:
        mdp: the MDP.
        policy: the table of :math:`\pi(a \mid s)`, `[S, A]`, or one table for each time t, `[T, S, A]` with T =
            `horizon`. The rows of terminal states are not read.
        n: the number of trajectories.
        horizon: the number of steps T after which a trajectory that has not terminated is truncated.
        generator: the source of randomness, on the device of the MDP.

    Returns:
        The trajectories, with exactly T columns; where n · T is more than 33 million (2^25), with as many columns as
        the longest of them has steps, so that a horizon that is never reached costs nothing. With the same generator
        state, a longer horizon extends them.

    Raises:
        ValueError: if `n` or `horizon` is less than 1, or `n` more than 2^31; if `policy` is no policy of `mdp`; if
            `generator` is on another device.
        TypeError: if `policy` is not a tensor of floats of the MDP's dtype.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, section 3.1. Inversion: Devroye,
        *Non-Uniform Random Variate Generation*, 1986, section III.2.

    Example:
        >>> from pgtheory import gallery, mdp
        >>> walk = gallery.random_walk()
        >>> policy = mdp.equiprobable_policy(walk)
        >>> sample_trajectories(walk, policy, 2, horizon=4, generator=torch.Generator().manual_seed(0)).states
        tensor([[3, 2, 3, 2, 3],
                [3, 4, 5, 4, 3]])
    """
    n, horizon = _checks.check_count("n", n), _checks.check_count("horizon", horizon)
    tables = _tables_by_time(mdp, policy, horizon).detach()
    _checks.check_generator("generator", generator, "mdp", mdp.device)
    uniforms = partial(torch.rand, generator=generator, dtype=torch.float64, device=mdp.device)
    _checks.check_room("sample_trajectories", n)
    compiled = n * horizon >= LEAST and not mdp.rewards.requires_grad and _compiled.takes_over(tables, least=0)
    walk = (_CompiledWalk if compiled else _Walk)(mdp, _draw_starts(mdp, uniforms(n)), horizon)
    for t in range(horizon):
        if len(walk.row) == 0:
            break
        if t < len(tables):
            walk.follow(tables[t])
        walk.step(t, uniforms(len(walk.row)))
    return walk.finish()


def enumerate_trajectories(
    mdp: FiniteMDP, policy: Float[Tensor, "S A"] | Float[Tensor, "T S A"], *, horizon: int
) -> tuple[Trajectories, Float[Tensor, "N"]]:
    r"""Every trajectory of positive probability, each once, and its probability, :eq:`eq-trajectory-probability`.

    Two trajectories are different if any state, action or reward differs. The order is lexicographic in
    :math:`S_0, A_0, S_1, R_1, A_1, S_2, R_2, \dots` The trajectories are counted before any is made.

    Args:
        mdp: the MDP.
        policy: the table of :math:`\pi(a \mid s)`, `[S, A]`, or one table for each time t, `[T, S, A]` with T =
            `horizon`. The rows of terminal states are not read.
        horizon: the number of steps T after which a trajectory that has not terminated is truncated.

    Returns:
        The trajectories, with exactly T columns, and their probabilities, `[N]`, which sum to 1 and are
        differentiable in `policy`.

    Raises:
        ValueError: if `horizon` is less than 1, if `policy` is no policy of `mdp`, or if there would be more than
            10 million steps in all, padding included.
        TypeError: if `policy` is not a tensor of floats of the MDP's dtype.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (3.1) and (3.2).

    Example:
        >>> from pgtheory import gallery, mdp
        >>> walk = gallery.random_walk(n=1)
        >>> trajectories, probabilities = enumerate_trajectories(walk, mdp.equiprobable_policy(walk), horizon=1)
        >>> trajectories.states.tolist(), probabilities.tolist()
        ([[1, 0], [1, 2]], [0.5, 0.5])
    """
    horizon = _checks.check_count("horizon", horizon)
    tables = _tables_by_time(mdp, policy, horizon)
    events = [_events(mdp, table) for table in tables.detach()]
    _check_enumerable(mdp, events, horizon)
    levels = [_Level(mdp.initial.nonzero()[:, 0])]
    for t in range(horizon):
        if mdp.terminal[levels[-1].state].all():
            break
        levels.append(_next_level(mdp, events[t % len(events)], levels[-1].state))
    states, outcomes = _paths(levels, horizon)
    # An outcome of -1 is padding, and reads the last entry of the extended columns.
    actions, rewards = (_extended(x)[outcomes] for x in (mdp.outcomes.action, mdp.rewards[mdp.outcomes.reward_index]))
    terminated = mdp.terminal[states[:, -1]]
    trajectories = Trajectories(states, actions, rewards, outcomes >= 0, terminated, ~terminated)
    times = torch.arange(horizon, device=mdp.device) % len(tables)
    chosen = tables[times, states[:, :-1], actions]
    return trajectories, _probabilities(mdp, chosen, _extended(mdp.outcomes.probability)[outcomes], trajectories)


def trajectory_probabilities(
    mdp: FiniteMDP, policy: Float[Tensor, "*batch S A"], trajectories: Trajectories
) -> Float[Tensor, "*batch N"]:
    r"""Each trajectory's probability, :math:`\mu(S_0) \prod_t \pi(A_t \mid S_t)\, p(S_{t+1}, R_{t+1} \mid S_t, A_t)`.

    Equation :eq:`eq-trajectory-probability` of the book; the product is over the steps that were taken. A trajectory
    that cannot happen has probability 0. Differentiable in `policy`, also by the transforms of `torch.func`.

    Args:
        mdp: the MDP.
        policy: the table of :math:`\pi(a \mid s)`, with any leading batch axes.
        trajectories: the trajectories; padding may hold anything.

    Returns:
        The probabilities, `[*batch, N]`.

    Raises:
        ValueError: if `policy` is no policy of `mdp`, or if a state or an action of a step is out of range.
        TypeError: if `policy` or the rewards are not floats of the MDP's dtype: a reward that was rounded to another
            is none of the MDP's.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (3.2); section 5.5 has the
        product for given actions.

    Example:
        >>> from pgtheory import gallery, mdp
        >>> walk = gallery.random_walk(n=1)
        >>> policy = mdp.equiprobable_policy(walk)
        >>> trajectories, _ = enumerate_trajectories(walk, policy, horizon=1)
        >>> trajectory_probabilities(walk, policy, trajectories)
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    check_policy(mdp, policy)
    check_trajectories("trajectories", trajectories)
    _checks.check_same_kind("trajectories.rewards", trajectories.rewards, "mdp", mdp.rewards)
    visited = torch.nn.functional.pad(trajectories.mask, (1, 0), value=True)
    states = _checks.as_indices("trajectories.states", trajectories.states, mdp.n_states, visited, axes="nt")
    _steps(trajectories, mdp.n_states, mdp.n_actions)
    trajectories = trajectories._replace(states=states, actions=trajectories.actions.long())
    return _probabilities(mdp, at_steps(policy, trajectories), _dynamics_at_steps(mdp, trajectories), trajectories)


def at_steps(table: Float[Tensor, "*batch S A"], trajectories: Trajectories) -> Float[Tensor, "*batch N T"]:
    r"""The entries of a table at the steps that were taken, `table[..., S_t, A_t]`, and 0 at padding.

    With the table of :math:`\ln \pi` these are the log-probabilities of the actions; with the advantages, those of
    the steps. Entries that no step reads, such as the rows of terminal states, may be infinite or NaN.

    .. no equation: it picks entries of a table

    Args:
        table: any table over states and actions, with any leading batch axes.
        trajectories: the trajectories; padding may hold anything.

    Returns:
        `[*batch, N, T]`, differentiable in `table`.

    Raises:
        ValueError: if `table` has fewer than two axes, or no row or column for a state or an action of a step.
        TypeError: if `table` is not a tensor of floats; if states or actions are not integers.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, section 13.3, where every sum over
        a trajectory is a sum of such entries.

    Example:
        >>> from pgtheory import gallery, mdp
        >>> walk = gallery.random_walk(n=1)
        >>> trajectories, _ = enumerate_trajectories(walk, mdp.equiprobable_policy(walk), horizon=2)
        >>> at_steps(torch.tensor([[-torch.inf], [0.25], [torch.nan]]), trajectories)
        tensor([[0.2500, 0.0000],
                [0.2500, 0.0000]])
    """
    _checks.check_floating("table", table)
    if table.ndim < 2:
        raise ValueError(f"table has shape {list(table.shape)}, expected [..., S, A]")
    check_trajectories("trajectories", trajectories)
    _checks.check_same_device("table", table, "trajectories", trajectories.mask)
    mask, shape = trajectories.mask, table.shape[-2:]
    states, actions = _steps(trajectories, *shape)
    chosen = torch.where(mask, table[..., states, actions], 0.0)
    _checks.check_no_nan("table, where trajectories read it,", chosen)
    return chosen


def check_trajectories(name: str, trajectories: object) -> None:
    """Raise unless `trajectories` is a `Trajectories` whose fields have their dtypes, shapes, and one device."""
    _checks.check_instance(name, trajectories, Trajectories)
    assert isinstance(trajectories, Trajectories)
    _checks.check_bool(f"{name}.mask", trajectories.mask)
    _checks.check_has_values(f"{name}.mask", trajectories.mask)
    mask = trajectories.mask
    if mask.ndim != 2:
        raise ValueError(f"{name}.mask has shape {list(mask.shape)}, expected [N, T]")
    n, steps = mask.shape
    for field, check, shape in (
        ("states", _checks.check_integer_tensor, (n, steps + 1)),
        ("actions", _checks.check_integer_tensor, (n, steps)),
        ("rewards", _checks.check_floating, (n, steps)),
        ("terminated", _checks.check_bool, (n,)),
        ("truncated", _checks.check_bool, (n,)),
    ):
        column = getattr(trajectories, field)
        check(f"{name}.{field}", column)
        if column.shape != shape:
            raise ValueError(f"{name}.{field} has shape {list(column.shape)}, expected {list(shape)}, by its mask")
        _checks.check_same_device(f"{name}.{field}", column, f"{name}.mask", mask)


class _Events(NamedTuple):
    """What can follow each state under a policy: pairs of an action and an outcome, each of positive probability.

    Those of state s lie in `first[s]..last[s]`, each at its left edge: the probability of all those before it. The
    last one reaches up to 1, whatever rounding has left of the sum. With more than one bucket, entry s·buckets + b
    of `first` and `last` is the narrower range for numbers between b/buckets and (b + 1)/buckets.
    """

    outcome: Int[Tensor, "E"]
    left_edge: Float[Tensor, "E"]
    first: Int[Tensor, "S*buckets"]
    last: Int[Tensor, "S*buckets"]
    longest: int
    buckets: int = 1

    def draw(self, state: Int[Tensor, "n"], u: Float[Tensor, "n"]) -> Int[Tensor, "n"]:
        """The events that the uniform numbers `u` pick: the last one whose left edge is at most u."""
        bucket = (u * self.buckets).long().add_(state, alpha=self.buckets)
        first, last = self.first.index_select(0, bucket), self.last.index_select(0, bucket)
        return _last_at_most(self.left_edge, first, last, u, self.longest)


def _events(mdp: FiniteMDP, table: Float[Tensor, "S A"]) -> _Events:
    s, a = mdp.outcomes.state, mdp.outcomes.action
    outcome = (table[s, a] > 0).nonzero().squeeze(1)
    s, a = s[outcome], a[outcome]
    weight = table.double()
    before = _mass_before(weight)
    # Pr(before a and k | s) = Σ_{a' < a} π(a'|s) + π(a|s) Pr(before k | s, a)
    left_edge = before[s, a] + weight[s, a] * mdp._left_edges[outcome]
    count = torch.bincount(s, minlength=mdp.n_states)
    # The range of a terminal state, which has no events, is never read: it is only kept inside the tensor.
    first = (count.cumsum(0) - count).clamp(max=max(0, len(outcome) - 1))
    return _Events(outcome, left_edge, first, first + (count - 1).clamp(min=0), max(1, int(count.max())))


def _mass_before(weight: Float[Tensor, "S A"]) -> Float[Tensor, "S A+1"]:
    """The probability of all actions before each one."""
    return torch.nn.functional.pad(weight.cumsum(-1), (1, 0))


def _columns_of_events(mdp: FiniteMDP, events: _Events) -> tuple[Tensor, Tensor, Tensor]:
    """The next state, the action and the reward of each event."""
    o = Outcomes._make(column[events.outcome] for column in mdp.outcomes)
    return o.next_state, o.action, mdp.rewards[o.reward_index]


def _with_buckets(events: _Events, budget: int) -> _Events:
    """The same events behind a guide table of at most `budget` entries, which shortens the search to a step or two."""
    buckets = 1 << (events.longest - 1).bit_length()  # a power of two, so that u·buckets is exact
    if buckets * len(events.first) > budget:
        return events
    first, last = (x.repeat_interleave(buckets) for x in (events.first, events.last))
    edge = torch.arange(buckets, dtype=torch.float64, device=first.device).repeat(len(events.first)) / buckets
    search = partial(_last_at_most, events.left_edge, first, last, longest=events.longest)
    first, last = search(edge), search(edge + 1 / buckets)
    return events._replace(first=first, last=last, longest=int((last - first).max()) + 1, buckets=buckets)


def _last_at_most(values: Tensor, first: Tensor, last: Tensor, target: Tensor, longest: int) -> Tensor:
    """The last place in `first..last` whose value is at most the target, or `first`; no range exceeds `longest`."""
    place = first
    for power in reversed(range((longest - 1).bit_length())):
        # The value at `place` is small enough; move on by 2^power, if the value there is small enough as well.
        beyond = torch.minimum(place + 2**power, last)
        place = torch.where(values.index_select(0, beyond) <= target, beyond, place)
    return place


def _draw_starts(mdp: FiniteMDP, u: Float[Tensor, "n"]) -> Int[Tensor, "n"]:
    state = mdp.initial.nonzero().squeeze(1)
    right_edge = mdp.initial.double()[state].cumsum(0)
    return state[torch.searchsorted(right_edge, u, right=True).clamp(max=len(state) - 1)]


class _Walk:
    """Trajectories on their way: those that go on, in `row`, are in `state`; the columns hold what they have done."""

    row: Any
    state: Any
    columns: tuple[Tensor, ...]  # states, actions, rewards

    def __init__(self, mdp: FiniteMDP, start: Int[Tensor, "N"], horizon: int) -> None:
        self.mdp, self.live, self.horizon = mdp, ~mdp.terminal, horizon
        self.padded = len(start) * horizon <= PADDING_LIMIT
        self.columns = start[:, None], start.new_empty(len(start), 0), mdp.rewards.new_empty(len(start), 0)
        self.set_room(horizon if self.padded else min(horizon, ROOM_AT_FIRST))
        self.lengths = torch.zeros_like(start)
        self.row = self.live[start].nonzero().squeeze(1)
        self.state = start[self.row]

    def set_room(self, room: int) -> None:
        """Cut the columns off after `room` steps, or extend them by entries that may hold anything."""
        self.room, kept = room, min(room, self.columns[1].shape[1])
        if room == self.columns[1].shape[1]:
            return
        old, n = self.columns, len(self.columns[0])
        self.columns = tuple(x.new_empty(n, room + more) for x, more in zip(old, (1, 0, 0), strict=True))
        for column, before, more in zip(self.columns, old, (1, 0, 0), strict=True):
            column[:, : kept + more] = before[:, : kept + more]

    def follow(self, table: Float[Tensor, "S A"]) -> None:
        """Take the next steps by this policy."""
        self.events = _with_buckets(_events(self.mdp, table), budget=4 * len(self.lengths))
        self.arrivals = _columns_of_events(self.mdp, self.events)

    def step(self, t: int, u: Float[Tensor, "n"]) -> None:
        """The step at t of all trajectories that go on."""
        if t == self.room:
            self.set_room(min(self.horizon, 2 * self.room))
        event = self.events.draw(self.state, u)
        self.state, action, reward = (x.index_select(0, event) for x in self.arrivals)
        columns = self.columns[0][:, t + 1], self.columns[1][:, t], self.columns[2][:, t]
        for column, value in zip(columns, (self.state, action, reward), strict=True):
            column.scatter_(0, self.row, value)
        going = self.live.index_select(0, self.state).nonzero().squeeze(1)
        if len(going) < len(self.row):
            self.lengths.scatter_(0, self.row, t + 1)
            self.row, self.state = self.row.index_select(0, going), self.state.index_select(0, going)

    def finish(self) -> Trajectories:
        """All trajectories, with padding after the end of each."""
        self.lengths[self.row] = self.horizon
        self.set_room(self.horizon if self.padded else max(1, int(self.lengths.max())))
        mask = self.pad()
        states, actions, rewards = self.columns
        terminated = self.mdp.terminal[states[:, -1]]
        return Trajectories(states, actions, rewards, mask, terminated, ~terminated)

    def pad(self) -> Bool[Tensor, "N T"]:
        """Fill the columns after the end of each trajectory; return which steps were taken."""
        states, actions, rewards = self.columns
        mask = torch.arange(self.room, device=states.device) < self.lengths[:, None]
        torch.where(mask, states[:, 1:], states.gather(1, self.lengths[:, None]), out=states[:, 1:])
        ended = ~mask
        actions.masked_fill_(ended, 0)
        rewards.masked_fill_(ended, 0)
        return mask


class _CompiledWalk(_Walk):
    """The same trajectories by compiled kernels, which find the event in the tables of policy and MDP themselves."""

    def __init__(self, mdp: FiniteMDP, start: Int[Tensor, "N"], horizon: int) -> None:
        super().__init__(mdp, start, horizon)
        from pgtheory import _kernels

        self.kernels = _kernels
        self.row, self.state = self.row.numpy(), self.state.numpy()
        o = mdp.outcomes
        model = mdp._row_starts, mdp._left_edges, o.next_state, o.reward_index, mdp.rewards, self.live, self.lengths
        self.model = [_compiled.as_array(x) for x in model]

    def set_room(self, room: int) -> None:
        super().set_room(room)
        self.arrays = [x.numpy() for x in self.columns]

    def follow(self, table: Float[Tensor, "S A"]) -> None:
        weight = table.double()
        self.policy = [_compiled.as_array(x).reshape(x.shape) for x in (weight, _mass_before(weight))]

    def step(self, t: int, u: Float[Tensor, "n"]) -> None:
        if t == self.room:
            self.set_room(min(self.horizon, 2 * self.room))
        going = self.kernels.step(t, u.numpy(), self.row, self.state, *self.policy, *self.model, *self.arrays)
        self.row, self.state = self.row[:going], self.state[:going]

    def pad(self) -> Bool[Tensor, "N T"]:
        mask = torch.empty_like(self.columns[1], dtype=torch.bool)
        _compiled.over_rows(self.kernels.pad, len(mask), self.lengths.numpy(), *self.arrays, mask.numpy())
        return mask


class _Level(NamedTuple):
    """All trajectories after t steps: where each one is, which one of t - 1 steps it extends, and by which outcome."""

    state: Int[Tensor, "M"]
    parent: Int[Tensor, "M"] | None = None
    outcome: Int[Tensor, "M"] | None = None  # -1: it had ended, and stays


def _next_level(mdp: FiniteMDP, events: _Events, state: Int[Tensor, "M"]) -> _Level:
    """Extend every trajectory by every event that can follow its state; one that has ended has one extension."""
    branches = (events.last - events.first + 1)[state]  # 1 in a terminal state
    parent = torch.arange(len(state), device=state.device).repeat_interleave(branches)
    branch = torch.arange(len(parent), device=state.device) - (branches.cumsum(0) - branches)[parent]
    here = state[parent]
    outcome = _extended(events.outcome, -1)[torch.where(mdp.terminal[here], -1, events.first[here] + branch)]
    following = torch.where(outcome < 0, here, _extended(mdp.outcomes.next_state)[outcome])
    return _Level(following, parent, outcome)


def _paths(levels: list[_Level], horizon: int) -> tuple[Int[Tensor, "N T+1"], Int[Tensor, "N T"]]:
    """The states and the outcomes along each trajectory of the last level, traced back to the first."""
    place = torch.arange(len(levels[-1].state), device=levels[-1].state.device)
    states, outcomes = list[Tensor](), [place[:, None].new_full((len(place), horizon + 1 - len(levels)), -1)]
    for level in reversed(levels):
        states.append(level.state[place])
        if level.parent is not None and level.outcome is not None:
            outcomes.append(level.outcome[place][:, None])
            place = level.parent[place]
    path = torch.stack(states[::-1], -1)
    idle = path[:, -1:].expand(-1, horizon + 1 - len(levels))
    return torch.cat([path, idle], -1), torch.cat(outcomes[::-1], -1)


def _extended(column: Shaped[Tensor, "K"], value: float = 0) -> Shaped[Tensor, "K+1"]:
    return torch.cat([column, column.new_full((1,), value)])


def _probabilities(mdp: FiniteMDP, chosen: Tensor, dynamics: Tensor, trajectories: Trajectories) -> Tensor:
    # Pr(τ) = μ(S_0) Π_t π(A_t|S_t) p(S_{t+1}, R_{t+1}|S_t, A_t)
    factors = torch.where(trajectories.mask, wide(chosen) * wide(dynamics), 1.0)
    return (wide(mdp.initial)[trajectories.states[:, 0]] * factors.prod(-1)).to(mdp.dtype)


def _dynamics_at_steps(mdp: FiniteMDP, trajectories: Trajectories) -> Float[Tensor, "N T"]:
    """p(S_{t+1}, R_{t+1} | S_t, A_t) at every step that was taken, found by bisection in its row of outcomes."""
    steps = trajectories.mask
    s, s_next = trajectories.states[:, :-1][steps], trajectories.states[:, 1:][steps]
    reward = trajectories.rewards[steps]
    r = torch.searchsorted(mdp.rewards, reward).clamp(max=len(mdp.rewards) - 1)
    wanted = s_next * len(mdp.rewards) + r
    keys = mdp.outcomes.next_state * len(mdp.rewards) + mdp.outcomes.reward_index
    row = s * mdp.n_actions + trajectories.actions[steps]
    first = mdp._row_starts[row].clamp(max=len(keys) - 1)  # the row of an action that is not available is empty
    last = torch.maximum(mdp._row_starts[row + 1] - 1, first)
    place = _last_at_most(keys, first, last, wanted, int(mdp._row_starts.diff().max()))
    possible = mdp.available.flatten()[row] & (keys[place] == wanted) & (mdp.rewards[r] == reward)
    found = torch.where(possible, mdp.outcomes.probability[place], 0.0)
    return mdp.rewards.new_zeros(steps.shape).masked_scatter_(steps, found)


def _tables_by_time(mdp: FiniteMDP, policy: Tensor, horizon: int) -> Float[Tensor, "T S A"]:
    """The checked policy with a time axis, of length 1 if it is stationary."""
    check_policy(mdp, policy)
    if policy.ndim > 3 or (policy.ndim == 3 and policy.shape[0] != horizon):
        expected = f"[{mdp.n_states}, {mdp.n_actions}] or [{horizon}, {mdp.n_states}, {mdp.n_actions}]"
        raise ValueError(f"policy has shape {list(policy.shape)}, expected {expected}, one table for each time")
    return policy if policy.ndim == 3 else policy[None]


def _steps(trajectories: Trajectories, n_states: int, n_actions: int) -> tuple[Tensor, Tensor]:
    """The states and the actions of the steps that were taken, 0 at padding."""
    columns = (
        ("trajectories.states", trajectories.states[..., :-1], n_states),
        ("trajectories.actions", trajectories.actions, n_actions),
    )
    mask = trajectories.mask
    first, second = (torch.where(mask, _checks.as_indices(*column, mask, axes="nt"), 0) for column in columns)
    return first, second


def _check_enumerable(mdp: FiniteMDP, events: list[_Events], horizon: int) -> None:
    """Count the trajectories by dynamic programming over time, and refuse if they are too many."""
    live, ended = (mdp.initial > 0).double(), 0.0
    for t in range(horizon):
        ended += float(live[mdp.terminal].sum())
        live = live.masked_fill(mdp.terminal, 0.0)
        if not live.any():
            break
        outcome = events[t % len(events)].outcome
        following, arrivals = mdp.outcomes.next_state[outcome], live[mdp.outcomes.state[outcome]]
        live = torch.zeros_like(live).index_add_(0, following, arrivals)
    number = ended + float(live.sum())
    if number * horizon > ENUMERATION_LIMIT:
        size = number * (horizon * (17 + mdp.rewards.element_size()) + 10 + mdp.rewards.element_size()) / 2**30
        raise ValueError(
            f"there are {_count_text(number)} trajectories of up to {horizon:,} steps ({size:,.3g} GiB), more than "
            f"{ENUMERATION_LIMIT:,} steps in all: take a smaller horizon, or sample_trajectories"
        )


def _count_text(number: float) -> str:
    if number == float("inf"):
        return "more than 1e+308"
    return f"{number:,.0f}" if number < 2**53 else f"about {number:.3g}"
