r"""Chapter 1: the finite Markov decision process, by its four-argument dynamics :math:`p(s', r \mid s, a)`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgtheory import _checks
from pgtheory._precision import wide

if TYPE_CHECKING:
    import gymnasium

__all__ = ["FiniteMDP", "Outcomes", "check_policy", "equiprobable_policy"]

# A dense view with more numbers than this (1 GiB in float64) is refused.
DENSE_LIMIT = 2**27

Columns = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # s, a, s', r, p, each [K]


class Outcomes(NamedTuple):
    """The outcomes of positive probability, sorted by (s, a, s', r), one entry of each tensor per outcome.

    Example:
        >>> mdp = FiniteMDP.from_outcomes([(0, 0, 1, 5.0, 1.0)], n_states=2, n_actions=1, initial=0, terminal=[1])
        >>> mdp.outcomes.probability
        tensor([1.], dtype=torch.float64)
    """

    state: Int[Tensor, "K"]
    action: Int[Tensor, "K"]
    next_state: Int[Tensor, "K"]
    reward_index: Int[Tensor, "K"]
    probability: Float[Tensor, "K"]


@dataclass(frozen=True, eq=False, repr=False)
class FiniteMDP:
    r"""A finite MDP: states, actions, rewards, the dynamics :math:`p(s', r \mid s, a)` and a start distribution.

    The dynamics (:eq:`eq-dynamics`, which satisfy :eq:`eq-dynamics-normalised`) are stored as the sorted list of the
    outcomes that can happen, so the memory grows with their number and not with :math:`|\mathcal{S}|^2`. Build one
    with `from_outcomes`, `from_table`, `from_transitions` or `from_gymnasium`; each validates what it is given, and
    copies it.

    Attributes:
        n_states: :math:`|\mathcal{S}^+|`, terminal states included.
        n_actions: the number of actions; :math:`\mathcal{A}(s)` may be smaller, see `available`.
        rewards: :math:`\mathcal{R}`, `[R]`, distinct and ascending.
        initial: the distribution of :math:`S_0`, `[S]`.
        terminal: which states end the episode, `[S]`.
        outcomes: the outcomes of positive probability, see `Outcomes`.
        state_names: a name for each state, or `None`.
        action_names: a name for each action, or `None`.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (3.2) and (3.3).

    Example:
        A coin that is tossed until it shows heads; each toss costs 1.

        >>> coin = FiniteMDP.from_outcomes(
        ...     [(0, 0, 0, -1.0, 0.5), (0, 0, 1, -1.0, 0.5)], n_states=2, n_actions=1, initial=0, terminal=[1]
        ... )
        >>> coin
        FiniteMDP(2 states (1 terminal), 1 action, 1 reward, 2 outcomes)
        >>> coin.transitions()[0]
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """

    n_states: int
    n_actions: int
    rewards: Float[Tensor, "R"]
    initial: Float[Tensor, "S"]
    terminal: Bool[Tensor, "S"]
    outcomes: Outcomes
    state_names: tuple[str, ...] | None = None
    action_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check types and shapes; the probabilities are checked by the methods that build an MDP."""
        if all(isinstance(x, Tensor) and x.is_meta for x in (self.rewards, self.initial, self.terminal)):
            return  # `to` has moved it there
        for name in ("n_states", "n_actions"):
            _checks.check_count(name, getattr(self, name))
        for name, check, shape in (
            ("rewards", _checks.check_floating, None),
            ("initial", _checks.check_floating, (self.n_states,)),
            ("terminal", _checks.check_bool, (self.n_states,)),
        ):
            column = getattr(self, name)
            check(name, column)
            _checks.check_has_values(name, column)
            if column.ndim != 1 or shape not in (None, column.shape):
                raise ValueError(f"{name} has shape {list(column.shape)}, expected {list(shape or ['R'])}")
        _checks.check_same_kind("initial", self.initial, "rewards", self.rewards)
        _checks.check_finite("rewards", self.rewards)
        _checks.check_finite("initial", self.initial)
        _check_stored(self.outcomes, self.n_states, self.n_actions, len(self.rewards))
        _checks.check_names("state_names", self.state_names, self.n_states)
        _checks.check_names("action_names", self.action_names, self.n_actions)

    @classmethod
    def from_outcomes(
        cls,
        outcomes: Iterable[Sequence[float]] | Sequence[Tensor] | Tensor,
        *,
        n_states: int,
        n_actions: int,
        initial: Float[Tensor, "S"] | Sequence[float] | int,
        terminal: Bool[Tensor, "S"] | Sequence[int] | None = None,
        state_names: Sequence[str] | None = None,
        action_names: Sequence[str] | None = None,
    ) -> Self:
        """Build an MDP from its outcomes (s, a, s', r, p); equal (s, a, s', r) are merged by adding their p.

        Args:
            outcomes: an iterable of 5-tuples, or a tensor `[K, 5]`, or five tensors `[K]`: s, a, s', r, p.
            n_states: the number of states, terminal ones included.
            n_actions: the number of actions; an action without outcomes in s is not in A(s).
            initial: the distribution of S_0, `[S]`, or the one start state.
            terminal: mask `[S]` or indices of the terminal states. A terminal state needs no outcomes; a self-loop
                of reward 0 there is understood as what it stands for, and left out.
            state_names: a name for each state.
            action_names: a name for each action.

        Returns:
            The validated MDP, in the dtype of p if that is a tensor of floats, else in float64.

        Raises:
            ValueError: if a probability is negative or NaN, if `p(·|s, a)` does not sum to 1, if an index is out of
                range, if a reward is not finite, if a state that is not terminal has no action, or if a terminal
                state has outcomes that lead elsewhere.
            TypeError: if an index is not an integer.

        Source:
            Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (3.3).

        Example:
            >>> mdp = FiniteMDP.from_outcomes(
            ...     [(0, 0, 1, 1.0, 0.25), (0, 0, 1, 1.0, 0.75)], n_states=2, n_actions=1, initial=0, terminal=[1]
            ... )
            >>> mdp.outcomes.probability.tolist()
            [1.0]
        """
        n_states = _checks.check_count("n_states", n_states)
        n_actions = _checks.check_count("n_actions", n_actions)
        columns = _columns(outcomes)
        _check_indices(columns, n_states, n_actions)
        return cls._build(columns, None, n_states, n_actions, initial, terminal, state_names, action_names)

    @classmethod
    def from_table(
        cls,
        p: Float[Tensor, "S A S R"],
        rewards: Float[Tensor, "R"] | Sequence[float],
        *,
        initial: Float[Tensor, "S"] | Sequence[float] | int,
        terminal: Bool[Tensor, "S"] | Sequence[int] | None = None,
        state_names: Sequence[str] | None = None,
        action_names: Sequence[str] | None = None,
    ) -> Self:
        r"""Build an MDP from the dense table of :math:`p(s', r \mid s, a)`.

        Args:
            p: `[S, A, S, R]`. A row of zeros says that the action is not available there; the rows of terminal
                states are not read, since no action is taken there.
            rewards: the values of the rewards, `[R]`.
            initial: the distribution of S_0, `[S]`, or the one start state.
            terminal: mask `[S]` or indices of the terminal states.
            state_names: a name for each state.
            action_names: a name for each action.

        Returns:
            The validated MDP, in the dtype of `p`; every value in `rewards` is kept in :math:`\mathcal{R}`.

        Raises:
            ValueError: as `from_outcomes`, and if a shape does not fit.
            TypeError: if `p` is not a tensor of floats.

        Source:
            Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (3.2).

        Example:
            >>> p = torch.zeros(2, 1, 2, 1, dtype=torch.float64)
            >>> p[0, 0, 1, 0] = 1.0
            >>> FiniteMDP.from_table(p, [5.0], initial=0, terminal=[1])
            FiniteMDP(2 states (1 terminal), 1 action, 1 reward, 1 outcome)
        """
        p = _tensor(p)
        _checks.check_floating("p", p)
        _checks.check_has_values("p", p)
        _check_table_shape("p", p, 4, "[S, A, S, R]")
        given = _checks.check_numbers("rewards", rewards, p)
        values = _checked_cast("rewards", given, p.dtype)
        if values.shape != p.shape[3:]:
            raise ValueError(f"rewards has shape {list(values.shape)}, expected [{p.shape[3]}], the last axis of p")
        _checks.check_finite("rewards", values)
        s, a, s_next, r = _positive_places("p", p.detach(), _terminal_mask(terminal, p.shape[0], p.device))
        columns = (s, a, s_next, values[r], p.detach()[s, a, s_next, r])
        return cls._build(columns, values, p.shape[0], p.shape[1], initial, terminal, state_names, action_names)

    @classmethod
    def from_transitions(
        cls,
        P: Float[Tensor, "S A S"],
        r: Float[Tensor, "S A"] | Float[Tensor, "S A S"],
        *,
        initial: Float[Tensor, "S"] | Sequence[float] | int,
        terminal: Bool[Tensor, "S"] | Sequence[int] | None = None,
        state_names: Sequence[str] | None = None,
        action_names: Sequence[str] | None = None,
    ) -> Self:
        r"""Build an MDP from :math:`p(s' \mid s, a)` and a reward that is a function of (s, a) or (s, a, s').

        Args:
            P: `[S, A, S]`. A row of zeros says that the action is not available there; the rows of terminal states
                are not read, since no action is taken there.
            r: `[S, A]` or `[S, A, S]`.
            initial: the distribution of S_0, `[S]`, or the one start state.
            terminal: mask `[S]` or indices of the terminal states.
            state_names: a name for each state.
            action_names: a name for each action.

        Returns:
            The validated MDP, in the dtype of `P`.

        Raises:
            ValueError: as `from_outcomes`, and if a shape does not fit.
            TypeError: if `P` or `r` is not a tensor of floats, or if their dtypes differ.

        Source:
            Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (3.4) to (3.6).

        Example:
            >>> P = torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]]])
            >>> r = torch.tensor([[5.0], [0.0]])
            >>> FiniteMDP.from_transitions(P, r, initial=0, terminal=[1]).expected_rewards()
            tensor([[5.],
                    [0.]])
        """
        P, r = _tensor(P), _tensor(r)
        _checks.check_floating("P", P)
        _checks.check_floating("r", r)
        _checks.check_same_kind("r", r, "P", P)
        _check_table_shape("P", P, 3, "[S, A, S]")
        if r.shape not in (P.shape, P.shape[:2]):
            raise ValueError(f"r has shape {list(r.shape)}, expected {list(P.shape[:2])} or {list(P.shape)}")
        s, a, s_next = _positive_places("P", P.detach(), _terminal_mask(terminal, P.shape[0], P.device))
        rewards = r.detach()[s, a, s_next] if r.ndim == 3 else r.detach()[s, a]
        columns = (s, a, s_next, rewards, P.detach()[s, a, s_next])
        return cls._build(columns, None, P.shape[0], P.shape[1], initial, terminal, state_names, action_names)

    @classmethod
    def from_gymnasium(
        cls, env: "gymnasium.Env[Any, Any] | str", *, initial: Float[Tensor, "S"] | Sequence[float] | int | None = None
    ) -> "FiniteMDP":
        """Build an MDP from the table `P` of a Gymnasium toy-text environment, `{s: {a: [(p, s', r, terminated)]}}`.

        State numbers are kept. A state is terminal if it is no start state and is entered only by outcomes that
        the table marks as terminated. If such an outcome leads to a state that is not terminal (in Taxi it does),
        it is redirected to one absorbing state that is appended. Time limits are wrappers, not part of the table.

        Args:
            env: the environment, or its id.
            initial: the distribution of S_0; by default the environment's own `initial_state_distrib`.

        Returns:
            The MDP, in float64.

        Raises:
            ValueError: if the environment has no table, no `initial_state_distrib` where `initial` is not given,
                or a table that is no MDP.
            ImportError: if `gymnasium` is not installed.

        Source:
            Towers et al., "Gymnasium: A Standard Interface for Reinforcement Learning Environments", 2024.

        Example:
            >>> FiniteMDP.from_gymnasium("FrozenLake-v1")
            FiniteMDP(16 states (5 terminal), 4 actions, 2 rewards, 128 outcomes)
        """
        from pgtheory._gymnasium import mdp_from_environment

        return mdp_from_environment(env, initial)

    @classmethod
    def _build(
        cls,
        columns: Columns,
        rewards: Tensor | None,
        n_states: int,
        n_actions: int,
        initial: Tensor | Sequence[float] | int,
        terminal: Tensor | Sequence[int] | None,
        state_names: Sequence[str] | None,
        action_names: Sequence[str] | None,
    ) -> Self:
        probability = columns[4]
        ends = _terminal_mask(terminal, n_states, probability.device)
        columns = _without_terminal_loops(columns, ends)
        _check_probabilities(columns)
        _check_row_sums(columns, n_states, n_actions)
        # ℛ: the distinct rewards, ascending
        support = columns[3][columns[4] > 0] if rewards is None else rewards
        reward_set = torch.unique(support + 0.0)  # + 0.0 turns -0.0 into 0.0
        merged = _merge(columns, reward_set, n_states, n_actions)
        mdp = cls(
            n_states=n_states,
            n_actions=n_actions,
            rewards=reward_set,
            initial=_initial_distribution(initial, n_states, probability),
            terminal=ends,
            outcomes=merged,
            state_names=_checks.check_names("state_names", state_names, n_states),
            action_names=_checks.check_names("action_names", action_names, n_actions),
        )
        idle = ~mdp.available.any(-1) & ~ends
        if idle.any():
            place = _checks.first_place(idle, "s")
            raise ValueError(f"state {place} has no available action: give it one, or list it in terminal")
        return mdp

    def __repr__(self) -> str:
        def count(n: int, noun: str) -> str:
            return f"{n:,} {noun}{'' if n == 1 else 's'}"

        states = f"{count(self.n_states, 'state')} ({int(self.terminal.sum())} terminal)"
        actions, rewards = count(self.n_actions, "action"), count(len(self.rewards), "reward")
        return f"FiniteMDP({states}, {actions}, {rewards}, {count(len(self.outcomes.state), 'outcome')})"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of probabilities and rewards."""
        return self.rewards.dtype

    @property
    def device(self) -> torch.device:
        """The device that holds the tensors."""
        return self.rewards.device

    @cached_property
    def available(self) -> Bool[Tensor, "S A"]:
        r"""The mask of :math:`\mathcal{A}(s)`, `[S, A]`; the row of a terminal state is all False.

        It is a plain tensor with the MDP's `terminal` as its attribute of that name, by which the functions that take
        `available` tell the empty row of a terminal state from a mistake. A tensor computed from it has no such
        attribute; a mask of your own may be given one.
        """
        mask = self._row_sums(self.outcomes.probability) > 0
        mask.terminal = self.terminal  # type: ignore[attr-defined]
        return mask

    @cached_property
    def _row_starts(self) -> Int[Tensor, "SA+1"]:
        """Where the outcomes of each (s, a) begin; those of row k end before entry k + 1."""
        row = self.outcomes.state * self.n_actions + self.outcomes.action
        return torch.searchsorted(row, torch.arange(self.n_states * self.n_actions + 1, device=self.device))

    @cached_property
    def _arrivals(self) -> tuple[Int[Tensor, "K"], Int[Tensor, "S+1"]]:
        """The outcomes in the order of their next states, and where those of each next state begin."""
        arrived, order = torch.sort(self.outcomes.next_state, stable=True)
        return order, torch.searchsorted(arrived, torch.arange(self.n_states + 1, device=self.device))

    @cached_property
    def _left_edges(self) -> Float[Tensor, "K"]:
        """What p(·|s, a) gives to all outcomes before each one, summed in log2(longest row) passes over all rows."""
        row = self.outcomes.state * self.n_actions + self.outcomes.action
        place = torch.arange(len(row), device=self.device) - self._row_starts[row]
        longest, step = int(self._row_starts.diff().max()), 1
        probability = self.outcomes.probability.double()
        total = torch.where(place >= 1, probability.roll(1), 0.0)
        while step < longest:
            total = total + torch.where(place >= step, total.roll(step), 0.0)
            step *= 2
        return total

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Self:
        """The same MDP with its tensors in another dtype or on another device.

        Raises:
            ValueError: if in `dtype` a reward is infinite or equal to another one, or a positive probability is 0.
            TypeError: if `dtype` is no floating-point dtype.

        Example:
            >>> from pgtheory import gallery
            >>> gallery.recycling_robot().to(dtype=torch.float32).rewards.dtype
            torch.float32
        """
        if dtype is not None:
            _checks.check_dtype("dtype", dtype)
        if device is not None:
            _checks.check_device("device", device)
        _checked_cast("rewards", self.rewards, dtype)
        for name, probability in (("probability", self.outcomes.probability), ("initial", self.initial)):
            lost = (probability > 0) & (probability.to(dtype) == 0)
            if lost.any():
                raise ValueError(f"{name} {probability[lost][0].item():.10g} is 0 in {dtype}")
        return replace(
            self,
            rewards=self.rewards.to(device, dtype),
            initial=self.initial.to(device, dtype),
            terminal=self.terminal.to(device),
            outcomes=Outcomes._make(t.to(device, dtype if t.is_floating_point() else None) for t in self.outcomes),
        )

    def dynamics(self) -> Float[Tensor, "S A S R"]:
        r"""The dense table of :math:`p(s', r \mid s, a)`, :eq:`eq-dynamics`, zero where an action is not available.

        Raises:
            ValueError: if the table would be larger than 1 GiB in float64; `outcomes` holds the same numbers.

        Source:
            Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (3.2).

        Example:
            >>> mdp = FiniteMDP.from_outcomes([(0, 0, 1, 5.0, 1.0)], n_states=2, n_actions=1, initial=0, terminal=[1])
            >>> mdp.dynamics().shape
            torch.Size([2, 1, 2, 1])
        """
        o = self.outcomes
        table = self._zeros("dynamics", self.n_states, self.n_actions, self.n_states, len(self.rewards))
        return table.index_put_((o.state, o.action, o.next_state, o.reward_index), o.probability)

    def transitions(self) -> Float[Tensor, "S A S"]:
        r"""The state-transition probabilities :math:`p(s' \mid s, a) = \sum_r p(s', r \mid s, a)`.

        Equation :eq:`eq-transitions` of the book.

        Raises:
            ValueError: if the table would be larger than 1 GiB in float64; `outcomes` holds the same numbers.

        Source:
            Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (3.4).

        Example:
            >>> mdp = FiniteMDP.from_outcomes([(0, 0, 1, 5.0, 1.0)], n_states=2, n_actions=1, initial=0, terminal=[1])
            >>> mdp.transitions().tolist()
            [[[0.0, 1.0]], [[0.0, 0.0]]]
        """
        o = self.outcomes
        table = wide(self._zeros("transitions", self.n_states, self.n_actions, self.n_states))
        table = table.index_put_((o.state, o.action, o.next_state), wide(o.probability), accumulate=True)
        return table.to(self.dtype)

    def expected_rewards(self) -> Float[Tensor, "S A"]:
        r"""The expected reward :math:`r(s, a) = \sum_{s'} \sum_r r\, p(s', r \mid s, a)`, 0 where not available.

        Equation :eq:`eq-expected-rewards` of the book.

        Source:
            Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (3.5).

        Example:
            >>> mdp = FiniteMDP.from_outcomes([(0, 0, 1, 5.0, 1.0)], n_states=2, n_actions=1, initial=0, terminal=[1])
            >>> mdp.expected_rewards().tolist()
            [[5.0], [0.0]]
        """
        rewards = wide(self.rewards)[self.outcomes.reward_index]
        return self._row_sums(wide(self.outcomes.probability) * rewards).to(self.dtype)

    def to_gymnasium(self, *, horizon: int | None = None) -> "gymnasium.Env[Any, Any]":
        """The MDP as a Gymnasium environment, with its table as `P` and the mask of A(s) as `info["action_mask"]`.

        The action space samples from A(s) of the current state; an action outside it is a `ValueError`.

        Args:
            horizon: the number of steps after which an episode that has not terminated is truncated.

        Raises:
            ValueError: if `horizon` is less than 1, or if an episode could start in a terminal state.
            ImportError: if `gymnasium` is not installed.

        Source:
            Towers et al., "Gymnasium: A Standard Interface for Reinforcement Learning Environments", 2024.

        Example:
            >>> mdp = FiniteMDP.from_outcomes([(0, 0, 1, 5.0, 1.0)], n_states=2, n_actions=1, initial=0, terminal=[1])
            >>> env = mdp.to_gymnasium()
            >>> state, info = env.reset(seed=0)
            >>> env.step(0)[:4]
            (1, 5.0, True, False)
        """
        from pgtheory._gymnasium import environment_from_mdp

        return environment_from_mdp(self, horizon)

    def _zeros(self, name: str, *shape: int) -> Tensor:
        numbers = int(np.prod([float(n) for n in shape]))
        if numbers > DENSE_LIMIT:
            sizes = " x ".join(f"{n:,}" for n in shape)
            gibibytes = numbers * self.rewards.element_size() / 2**30
            raise ValueError(f"{name}() would hold {sizes} numbers ({gibibytes:,.1f} GiB): use mdp.outcomes instead")
        return self.rewards.new_zeros(shape)

    def _row_sums(self, values: Float[Tensor, "K"]) -> Float[Tensor, "S A"]:
        row = self.outcomes.state * self.n_actions + self.outcomes.action
        flat = wide(values.new_zeros(self.n_states * self.n_actions))
        return flat.index_add_(0, row, wide(values)).view(self.n_states, self.n_actions).to(values.dtype)


def equiprobable_policy(mdp: FiniteMDP) -> Float[Tensor, "S A"]:
    r"""The equiprobable random policy, :math:`\pi(a \mid s) = 1 / |\mathcal{A}(s)|`; zero in terminal states.

    A policy :eq:`eq-policy`.

    Args:
        mdp: the MDP.

    Returns:
        The table of probabilities, `[S, A]`.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, Example 3.5.

    Example:
        >>> from pgtheory import gallery
        >>> equiprobable_policy(gallery.recycling_robot())
        tensor([[0.5000, 0.5000, 0.0000],
                [0.3333, 0.3333, 0.3333]], dtype=torch.float64)
    """
    _checks.check_instance("mdp", mdp, FiniteMDP)
    mask = torch.as_tensor(mdp.available, dtype=mdp.dtype)
    return mask / mask.sum(-1, keepdim=True).clamp(min=1)


def check_policy(mdp: FiniteMDP, policy: Float[Tensor, "*batch S A"]) -> None:
    r"""Raise unless `policy` is a table of probabilities over :math:`\mathcal{A}(s)` for every state of `mdp`.

    The rows of terminal states are not read. Inside `torch.func` transforms and `torch.compile` only type, dtype,
    device and shape are checked.

    The conditions are :eq:`eq-policy-conditions`.

    Args:
        mdp: the MDP.
        policy: what should be :math:`\pi(a \mid s)`, `[..., S, A]`.

    Raises:
        TypeError: if `policy` is not a tensor of floats of the MDP's dtype.
        ValueError: if the shape does not fit, if a probability is negative or NaN, if there is mass outside
            :math:`\mathcal{A}(s)`, or if a row does not sum to 1.

    Example:
        >>> from pgtheory import gallery
        >>> check_policy(gallery.short_corridor(), torch.full((4, 2), 0.4, dtype=torch.float64))
        Traceback (most recent call last):
        ...
        ValueError: policy sums to 0.8 at s=0, not 1
    """
    _checks.check_instance("mdp", mdp, FiniteMDP)
    _checks.check_floating("policy", policy)
    _checks.check_same_kind("policy", policy, "mdp", mdp.rewards)
    _checks.check_trailing_shape("policy", policy, (mdp.n_states, mdp.n_actions))
    _checks.check_has_values("policy", policy)
    if _checks.is_traced(policy):
        return
    table = policy.detach()
    live = ~mdp.terminal[:, None]
    for bad, fault in (
        (live & ~(table >= 0), "is {value:.10g} at {place}, not a probability"),
        (live & ~mdp.available & (table > 0), "is {value:.10g} at {place}, where the action is not available"),
    ):
        if bad.any():
            place = _checks.first_place(bad, "sa")
            raise ValueError("policy " + fault.format(value=table[bad][0].item(), place=place))
    total = table.sum(-1)
    bad = ~mdp.terminal & ~((total - 1).abs() <= _checks.probability_tolerance(total.dtype))
    if bad.any():
        raise ValueError(f"policy sums to {total[bad][0].item():.10g} at {_checks.first_place(bad, 's')}, not 1")


def _check_stored(outcomes: object, n_states: int, n_actions: int, n_rewards: int) -> None:
    """Raise unless `outcomes` is an `Outcomes` of integers in range and probabilities, of one length."""
    _checks.check_instance("outcomes", outcomes, Outcomes)
    assert isinstance(outcomes, Outcomes)
    for name, column in outcomes._asdict().items():
        check = _checks.check_floating if name == "probability" else _checks.check_integer_tensor
        check(f"outcomes.{name}", column)
        _checks.check_has_values(f"outcomes.{name}", column)
        if column.shape != (len(outcomes.state),):
            raise ValueError(f"outcomes.{name} has shape {list(column.shape)}, expected [{len(outcomes.state)}]")
    for name, column, size in zip(Outcomes._fields, outcomes, (n_states, n_actions, n_states, n_rewards), strict=False):
        if ((column < 0) | (column >= size)).any():
            of = " of rewards" if name == "reward_index" else ""
            raise ValueError(f"outcomes.{name} has an entry outside 0..{size - 1}{of}")


def _tensor(table: Any) -> Any:
    return torch.as_tensor(table) if isinstance(table, np.ndarray) and table.dtype.kind == "f" else table


def _columns(outcomes: Any) -> Columns:
    """The five columns s, a, s', r, p of any accepted form of outcomes."""
    if isinstance(outcomes, (Tensor, np.ndarray)):
        table = _checks.check_numeric("outcomes", outcomes)
        if table.ndim != 2 or table.shape[1] != 5:
            raise ValueError(f"outcomes has shape {list(table.shape)}, expected [K, 5]: s, a, s', r, p")
        columns = list(table.unbind(1))
    elif isinstance(outcomes, Iterable) and not isinstance(outcomes, (str, bytes, Mapping)):
        rows = list(outcomes)
        if len(rows) == 5 and all(isinstance(c, (Tensor, np.ndarray)) for c in rows):
            columns = [_checks.check_numeric("outcomes", c) for c in rows]
        else:
            columns = list(torch.tensor([_row(k, r) for k, r in enumerate(rows)], dtype=torch.float64).view(-1, 5).T)
    else:
        raise TypeError(f"outcomes must be a sequence of (s, a, s', r, p), not {_checks.named(outcomes)}")
    if len({c.shape for c in columns}) > 1 or columns[0].ndim != 1:
        raise ValueError(f"the columns of outcomes have shapes {[list(c.shape) for c in columns]}, expected one [K]")
    if len({c.device for c in columns}) > 1:
        raise ValueError(f"the columns of outcomes are on different devices: {[str(c.device) for c in columns]}")
    s, a, s_next, r, p = columns
    dtype = p.dtype if p.is_floating_point() else torch.float64
    indices = [_integers(name, c) for name, c in (("s", s), ("a", a), ("s'", s_next))]
    return (
        indices[0],
        indices[1],
        indices[2],
        _checked_cast("the rewards of outcomes", r.detach(), dtype),
        p.detach().to(dtype),
    )


def _checked_cast(name: str, rewards: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The rewards in another dtype; raise if that makes one infinite or two of them equal."""
    if dtype is None or dtype == rewards.dtype:
        return rewards
    cast = rewards.to(dtype)
    if torch.promote_types(rewards.dtype, dtype) == dtype:
        return cast
    lost = rewards.isfinite() & ~cast.isfinite()
    if lost.any():
        raise ValueError(f"{name} hold {rewards[lost][0].item():.10g}, which overflows {dtype}")
    distinct = torch.unique(rewards + 0.0)
    same = distinct.to(dtype).diff() == 0
    if same.any():
        k = int(same.nonzero()[0])
        first, second = (x.item() for x in distinct[k : k + 2])
        raise ValueError(f"{name} hold {first:.17g} and {second:.17g}, which are one number in {dtype}")
    return cast


def _row(k: int, row: Any) -> list[float]:
    """The five numbers of an outcome."""
    if isinstance(row, (str, bytes)) or not isinstance(row, (Sequence, Tensor, np.ndarray)):
        raise TypeError(f"outcome {k} must be (s, a, s', r, p), not {_checks.named(row)}")
    if len(row) != 5:
        raise ValueError(f"outcome {k} has {len(row)} entries, expected 5: s, a, s', r, p")
    row = row.tolist() if isinstance(row, (Tensor, np.ndarray)) else row
    return [x if type(x) is float else _checks.check_real(f"outcome {k}", x) for x in row]


def _integers(name: str, column: Tensor) -> Tensor:
    whole = column.to(torch.int64)
    if (whole != column).any():
        raise TypeError(f"{name} of an outcome must be an integer index")
    return whole


def _check_indices(columns: Columns, n_states: int, n_actions: int) -> None:
    for name, column, size in (
        ("s", columns[0], n_states),
        ("a", columns[1], n_actions),
        ("s'", columns[2], n_states),
    ):
        bad = (column < 0) | (column >= size)
        if bad.any():
            k = int(bad.nonzero()[0])
            raise ValueError(f"{name} of outcome {k} is {int(column[k])}, not in 0..{size - 1}")


def _check_probabilities(columns: Columns) -> None:
    s, a, s_next, r, p = columns

    def place(bad: Tensor) -> str:
        k = int(bad.nonzero()[0])
        return f"p(s'={int(s_next[k])}, r={r[k].item():.10g} | s={int(s[k])}, a={int(a[k])}) = {p[k].item():.10g}"

    bad = ~(p >= 0)
    if bad.any():
        raise ValueError(f"{place(bad)}, not a probability")
    bad = ~r.isfinite()
    if bad.any():
        raise ValueError(f"{place(bad)}: its reward is not finite")


def _check_row_sums(columns: Columns, n_states: int, n_actions: int) -> None:
    row, p = columns[0] * n_actions + columns[1], columns[4]
    total = wide(p.new_zeros(n_states * n_actions)).index_add_(0, row, wide(p)).view(n_states, n_actions)
    listed = torch.zeros_like(total, dtype=torch.bool).view(-1).index_fill_(0, row, True).view_as(total)
    bad = listed & ((total - 1).abs() > _checks.probability_tolerance(p.dtype))
    if bad.any():
        raise ValueError(f"p(·|{_checks.first_place(bad, 'sa')}) sums to {total[bad][0].item():.10g}, not 1")


def _check_table_shape(name: str, table: Tensor, ndim: int, expected: str) -> None:
    if table.ndim != ndim or table.shape[0] != table.shape[2] or 0 in table.shape:
        raise ValueError(f"{name} has shape {list(table.shape)}, expected {expected}")


def _positive_places(name: str, table: Tensor, terminal: Tensor) -> tuple[Tensor, ...]:
    """Where the table is positive, terminal rows left out; a negative or NaN entry is an error."""
    live = ~terminal.view(-1, *(1,) * (table.ndim - 1))
    bad = ~(table >= 0) & live
    if bad.any():
        index = [int(i) for i in bad.nonzero()[0]]
        names = ("s", "a", "s'", "r")[: table.ndim]
        where = ", ".join(f"{n}={i}" for n, i in zip(names, index, strict=True))
        raise ValueError(f"{name} is {table[tuple(index)].item():.10g} at {where}, not a probability")
    return ((table > 0) & live).nonzero(as_tuple=True)


def _terminal_mask(terminal: Any, n_states: int, device: torch.device) -> Tensor:
    """The mask `[S]` of the terminal states, given as a mask, as indices, or not at all."""
    mask = torch.zeros(n_states, dtype=torch.bool, device=device)
    if terminal is None:
        return mask
    given = _given_terminal(terminal).to(device)
    if given.numel() == 0:
        return mask
    if given.dtype == torch.bool:
        if given.shape != mask.shape:
            raise ValueError(f"terminal has shape {list(given.shape)}, expected [{n_states}]")
        return given.clone()
    if given.is_floating_point() or given.ndim != 1:
        raise TypeError("terminal must be a boolean mask [S] or a list of state indices")
    given = given.long()
    bad = (given < 0) | (given >= n_states)
    if bad.any():
        raise ValueError(f"terminal names state {int(given[bad][0])}, not in 0..{n_states - 1}")
    return mask.index_fill_(0, given, True)


def _given_terminal(terminal: Any) -> Tensor:
    """What was given as terminal states, as a tensor of flags or of integers."""
    if isinstance(terminal, np.ndarray) and terminal.dtype.kind in "biu":
        terminal = torch.from_numpy(terminal)
    if isinstance(terminal, Tensor):
        _checks.check_tensor("terminal", terminal)
        _checks.check_has_values("terminal", terminal)
        if terminal.is_complex():
            raise TypeError(f"terminal must be a boolean mask [S] or a list of state indices, not {terminal.dtype}")
        return terminal
    if isinstance(terminal, (str, bytes)) or not isinstance(terminal, Sequence):
        found = _checks.named(terminal)
        raise TypeError(f"terminal must be a boolean mask [S] or a list of state indices, not {found}")
    if all(isinstance(x, bool) for x in terminal):
        return torch.tensor(terminal, dtype=torch.bool)
    return torch.tensor([_checks.check_count("terminal", x, at_least=-(2**53)) for x in terminal])


def _without_terminal_loops(columns: Columns, terminal: Tensor) -> Columns:
    """Leave out the self-loops of reward 0 by which some tables write a terminal state; refuse anything else there."""
    s, a, s_next, r, p = columns
    ends = terminal[s]
    bad = ends & ((s_next != s) | (r != 0)) & (p != 0)
    if bad.any():
        k = int(bad.nonzero()[0])
        where = f"s'={int(s_next[k])}, r={r[k].item():.10g} | s={int(s[k])}, a={int(a[k])}"
        raise ValueError(f"state s={int(s[k])} is terminal, but p({where}) = {p[k].item():.10g}")
    live = ~ends
    return s[live], a[live], s_next[live], r[live], p[live]


def _merge(columns: Columns, rewards: Tensor, n_states: int, n_actions: int) -> Outcomes:
    """Drop the outcomes of probability 0, add up equal ones, and sort by (s, a, s', r)."""
    s, a, s_next, r, p = (c[columns[4] > 0] for c in columns)
    # Two stages, so that the key fits 64 bits however many states there are.
    codes, code = torch.unique(s_next * len(rewards) + torch.searchsorted(rewards, r), return_inverse=True)
    width = max(1, len(codes))
    keys, place = torch.unique((s * n_actions + a) * width + code, return_inverse=True)
    probability = wide(p.new_zeros(len(keys))).index_add_(0, place, wide(p)).to(p.dtype)
    row, arrival = keys // width, codes[keys % width] if len(keys) else keys
    n_rewards = max(1, len(rewards))
    return Outcomes(row // n_actions, row % n_actions, arrival // n_rewards, arrival % n_rewards, probability)


def _initial_distribution(initial: Any, n_states: int, like: Tensor) -> Tensor:
    """The distribution `[S]` of S_0, given as probabilities or as the one start state."""
    if isinstance(initial, (int, np.integer)) and not isinstance(initial, bool):
        initial = _checks.check_count("initial", initial, at_least=-(2**53))
        if not 0 <= initial < n_states:
            raise ValueError(f"initial is state {initial}, not in 0..{n_states - 1}")
        return like.new_zeros(n_states).index_fill_(0, torch.tensor(int(initial), device=like.device), 1.0)
    given = _checks.check_numbers("initial", initial, like).to(like.dtype, copy=True)
    if given.shape != (n_states,):
        raise ValueError(f"initial has shape {list(given.shape)}, expected [{n_states}]")
    bad = ~(given >= 0)
    if bad.any():
        place = _checks.first_place(bad, "s")
        raise ValueError(f"initial is {given[bad][0].item():.10g} at {place}, not a probability")
    total = float(given.sum())
    if abs(total - 1) > _checks.probability_tolerance(given.dtype):
        raise ValueError(f"initial sums to {total:.10g}, not 1")
    return given
