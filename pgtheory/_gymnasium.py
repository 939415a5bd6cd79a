"""The bridge to Gymnasium, used by `FiniteMDP.from_gymnasium` and `FiniteMDP.to_gymnasium`."""

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pgtheory import _checks
from pgtheory.mdp import FiniteMDP

if TYPE_CHECKING:
    import gymnasium


def import_gymnasium() -> Any:
    """The `gymnasium` package, or an error that says how to get it."""
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError('gymnasium is not installed: pip install "pgtheory[gymnasium]"') from error
    return gymnasium


def mdp_from_environment(env: "gymnasium.Env[Any, Any] | str", initial: Any) -> FiniteMDP:
    """See `FiniteMDP.from_gymnasium`."""
    gymnasium = import_gymnasium()
    base = _unwrapped(gymnasium, env)
    name = env if isinstance(env, str) else type(base).__name__
    table = getattr(base, "P", None)
    if table is None:
        raise ValueError(f"env {name} has no table P of its dynamics: only the toy-text environments have one")
    n_states, n_actions = int(base.observation_space.n), int(base.action_space.n)
    if initial is None and (initial := getattr(base, "initial_state_distrib", None)) is None:
        raise ValueError(f"env {name} has no initial_state_distrib: give initial")
    start = _start(initial, n_states)
    rows = [(s, a, s2, r, p, end) for s in table for a in table[s] for p, s2, r, end in table[s][a]]
    columns = torch.tensor([[float(x) for x in row] for row in rows], dtype=torch.float64)
    s, s_next, end = columns[:, 0].long(), columns[:, 2].long(), columns[:, 5] > 0
    terminal = _entered_only_at_the_end(s, s_next, end, start)
    absorbed = end & ~terminal[s_next]
    if absorbed.any():
        columns[absorbed, 2] = n_states
        n_states, terminal = n_states + 1, torch.cat([terminal, torch.tensor([True])])
        start = torch.cat([start, start.new_zeros(1)])
    return FiniteMDP.from_outcomes(
        columns[~terminal[s], :5], n_states=n_states, n_actions=n_actions, initial=start, terminal=terminal
    )


def _unwrapped(gymnasium: Any, env: Any) -> Any:
    if isinstance(env, str):
        try:
            env = gymnasium.make(env)
        except gymnasium.error.Error as error:
            raise ValueError(f"env cannot be made: {error}") from None
    if not isinstance(env, gymnasium.Env):
        raise TypeError(f"env must be a gymnasium.Env or the id of one, not {_checks.named(env)}")
    return env.unwrapped


def _start(initial: Any, n_states: int) -> Tensor:
    if isinstance(initial, (int, np.integer)) and not isinstance(initial, bool):
        state = _checks.check_count("initial", initial, at_least=0, at_most=n_states - 1)
        return torch.eye(n_states, dtype=torch.float64)[state]
    start = _checks.check_numbers("initial", initial).double()
    if start.shape != (n_states,):
        raise ValueError(f"initial has shape {list(start.shape)}, expected [{n_states}]")
    return start


def _entered_only_at_the_end(s: Tensor, s_next: Tensor, end: Tensor, start: Tensor) -> Tensor:
    """Which states are no start state and entered from elsewhere by terminated outcomes only."""
    entered, passed = torch.zeros_like(start, dtype=torch.bool), torch.zeros_like(start, dtype=torch.bool)
    entered[s_next[end]] = True
    passed[s_next[~end & (s != s_next)]] = True
    return entered & ~passed & (start == 0)


def environment_from_mdp(mdp: FiniteMDP, horizon: int | None) -> "gymnasium.Env[Any, Any]":
    """See `FiniteMDP.to_gymnasium`."""
    environment_class = _environment_class()
    if horizon is not None:
        horizon = _checks.check_count("horizon", horizon)
    stuck = mdp.terminal & (mdp.initial > 0)
    if stuck.any():
        raise ValueError(f"an episode could start in the terminal state {_checks.first_place(stuck, 's')}")
    environment: gymnasium.Env[Any, Any] = environment_class(mdp, horizon)
    return environment


class _Steps:
    """What an environment of a `FiniteMDP` does; its other base, `gymnasium.Env`, is in an optional package."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    action_space: Any
    np_random: np.random.Generator

    def _set_up(self, mdp: FiniteMDP, horizon: int | None) -> None:
        self.P, self.initial_state_distrib = _table(mdp), mdp.initial.double().cpu().numpy()
        self._available, self._horizon = mdp.available.cpu().numpy(), horizon
        self._state, self._steps = -1, 0

    def _info(self) -> dict[str, Any]:
        mask = self._available[self._state].astype(np.int8)
        self.action_space.mask = mask if mask.any() else np.ones_like(mask)
        return {"action_mask": mask}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        """Draw the start state."""
        super().reset(seed=seed)  # type: ignore[misc]
        self._state, self._steps = _draw(self.initial_state_distrib, self.np_random), 0
        return self._state, self._info()

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Take the action: draw the reward and the next state."""
        if self._state < 0:
            raise ValueError("step() before reset(): there is no state to act in")
        if not 0 <= action < self.action_space.n or not self._available[self._state, action]:
            raise ValueError(f"action {action} is not available in state {self._state}")
        outcomes = self.P[self._state][int(action)]
        _, self._state, reward, terminated = outcomes[_draw([o[0] for o in outcomes], self.np_random)]
        self._steps += 1
        truncated = not terminated and self._steps == self._horizon
        return self._state, reward, terminated, truncated, self._info()


@cache
def _environment_class() -> Any:
    """The class of the environments, made when it is first needed."""
    gymnasium = import_gymnasium()

    class AvailableActions(gymnasium.spaces.Discrete):  # type: ignore[name-defined, misc]
        """All actions; `sample` draws from those of the current state."""

        mask: Any = None

        def sample(self, mask: Any = None, probability: Any = None) -> Any:
            """One action: of the current state's, unless a mask or probabilities say otherwise."""
            if mask is None and probability is None:
                mask = self.mask
            return super().sample(mask=mask, probability=probability)

    class FiniteMDPEnv(_Steps, gymnasium.Env):  # type: ignore[name-defined, misc]
        """A `FiniteMDP` that is stepped through."""

        def __init__(self, mdp: FiniteMDP, horizon: int | None) -> None:
            self.observation_space = gymnasium.spaces.Discrete(mdp.n_states)
            self.action_space = AvailableActions(mdp.n_actions)
            self._set_up(mdp, horizon)

    return FiniteMDPEnv


def _draw(probabilities: Any, generator: np.random.Generator) -> int:
    """An index drawn by inverting the distribution function; never one of probability 0."""
    cumulative = np.cumsum(probabilities)
    return int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))


def _table(mdp: FiniteMDP) -> dict[int, dict[int, list[tuple[float, int, float, bool]]]]:
    """The dynamics as Gymnasium's toy-text environments write them; a terminal state is a self-loop of reward 0."""
    table: dict[int, dict[int, list[tuple[float, int, float, bool]]]] = {s: {} for s in range(mdp.n_states)}
    o = mdp.outcomes
    rows = zip(*(t.tolist() for t in (o.state, o.action, o.next_state, o.probability)), strict=True)
    rewards, ends = mdp.rewards[o.reward_index].tolist(), mdp.terminal[o.next_state].tolist()
    for (s, a, s_next, p), r, end in zip(rows, rewards, ends, strict=True):
        table[s].setdefault(a, []).append((p, s_next, r, end))
    for s in mdp.terminal.nonzero()[:, 0].tolist():
        table[s] = {a: [(1.0, s, 0.0, True)] for a in range(mdp.n_actions)}
    return table
