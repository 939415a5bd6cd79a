"""Small problems with all batches of their episodes: what the expected gradient of a loss is computed on."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from pgtheory.checking.recipes import Batches
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import exact_policy_gradient
from pgtheory.softmax_policy import log_softmax_policy
from pgtheory.trajectories import enumerate_trajectories

_F64 = torch.float64
GAMMAS = (1.0, 0.5, 0.9)
SIZES = (1, 2, 3)
HORIZON, N_STATES, N_ACTIONS = 3, 3, 2
# What stands in the log-probabilities behind the end of an episode.
_PADDING = -0.9


class Problem(NamedTuple):
    """An MDP with a policy: outcomes (s, a, s', r), where state 3 is the end, and π(0|s) of each state."""

    text: str
    outcomes: Sequence[tuple[int, int, int, float]]
    first_action: Sequence[float]
    same_lengths: bool

    def mdp(self) -> FiniteMDP:
        """The MDP, in which the states that the problem does not have are never reached."""
        rows = [(s, a, n, r, 1.0) for s, a, n, r in self.outcomes]
        missing = {0, 1, 2} - {s for s, *_ in rows}
        rows += [(s, a, N_STATES, 0.0, 1.0) for s in missing for a in range(N_ACTIONS)]
        return FiniteMDP.from_outcomes(rows, n_states=N_STATES + 1, n_actions=N_ACTIONS, initial=0, terminal=[N_STATES])

    def preferences(self) -> Tensor:
        """The logarithms of the policy, which are preferences of it."""
        first = torch.tensor([*self.first_action, *[0.5] * (N_STATES + 1 - len(self.first_action))], dtype=_F64)
        return torch.stack([first, 1 - first], -1).log()


PROBLEMS = (
    Problem("one step; rewards 2, -1", [(0, 0, 3, 2.0), (0, 1, 3, -1.0)], (0.25,), True),
    Problem(
        "two steps; rewards 1, -2 in state 0; 3, -1 in state 1 (after action 0); 0.5, 4 in state 2 (after action 1)",
        [(0, 0, 1, 1.0), (0, 1, 2, -2.0), (1, 0, 3, 3.0), (1, 1, 3, -1.0), (2, 0, 3, 0.5), (2, 1, 3, 4.0)],
        (0.4, 0.7, 0.2),
        True,
    ),
    Problem(
        "one to three steps; action 0 ends with the reward 1.5, 3, -2.5 in state 0, 1, 2; action 1 goes on with the "
        "reward -1, 2 in state 0, 1 and ends with 5 in state 2",
        [(0, 0, 3, 1.5), (0, 1, 1, -1.0), (1, 0, 3, 3.0), (1, 1, 2, 2.0), (2, 0, 3, -2.5), (2, 1, 3, 5.0)],
        (0.3, 0.6, 0.45),
        False,
    ),
)


class Setting(NamedTuple):
    """A problem, a number of episodes per batch, and a discount."""

    problem: Problem
    size: int
    gamma: float


class Enumeration(NamedTuple):
    """All batches of all settings, the smallest settings first.

    Attributes:
        settings: what the expectations are computed for.
        truth: the exact gradient of J by the preferences in each setting, `[settings, S, A]`.
        setting: the setting of each batch, `[B]`.
        probability: of each batch in its setting, `[B]`.
        batches: the batches, `[B, 3, 3]`.
        log_probs: of the actions taken, and something finite behind the end, `[B, 3, 3]`.
        states: `[B, 3, 3]`.
        actions: `[B, 3, 3]`.
        logits: of the policy in the states, `[B, 3, 3, A]`, not normalised.
        scores: the derivatives of `log_probs` by `logits`, `[B, 3, 3, A]`, 0 where no step was taken.
        returns: the returns to go, `[B, 3, 3]`.
    """

    settings: tuple[Setting, ...]
    truth: Tensor
    setting: Tensor
    probability: Tensor
    batches: Batches
    log_probs: Tensor
    states: Tensor
    actions: Tensor
    logits: Tensor
    scores: Tensor
    returns: Tensor

    @property
    def gammas(self) -> tuple[float, ...]:
        """The discounts, in their order."""
        return tuple(dict.fromkeys(s.gamma for s in self.settings))

    @property
    def sizes(self) -> Tensor:
        """The number of episodes of each batch, `[B]`."""
        return torch.tensor([s.size for s in self.settings])[self.setting]

    def expectation(self, gradients: Tensor) -> Tensor:
        """The sums over the batches of each setting, `[settings, S * A]`, of derivatives by logits `[B, 3, 3, A]`."""
        cell = self.states[..., None] * N_ACTIONS + torch.arange(N_ACTIONS)
        weighted = torch.where(self.batches.mask[..., None], self.probability[:, None, None, None] * gradients, 0.0)
        tables = torch.zeros(len(self.probability), N_STATES * N_ACTIONS, dtype=_F64)
        tables.scatter_add_(-1, cell.flatten(1), weighted.flatten(1))
        total = torch.zeros(len(self.settings), N_STATES * N_ACTIONS, dtype=_F64)
        return total.index_add_(0, self.setting, tables)


@cache
def enumeration(gammas: tuple[float, ...] = GAMMAS) -> Enumeration:
    """All batches of 1 and 2 episodes of the problems for each discount, and of 3 episodes for the last one."""
    settings = tuple(Setting(p, n, g) for p in PROBLEMS for n in SIZES for g in (gammas if n < 3 else gammas[-1:]))
    parts = [_of_setting(i, setting) for i, setting in enumerate(settings)]
    truth = torch.stack([exact_policy_gradient(s.problem.mdp(), s.problem.preferences(), s.gamma) for s in settings])
    names = parts[0].keys()
    whole = {name: torch.cat([part[name] for part in parts]) for name in names}
    fields = {name: whole.pop(name) for name in Batches._fields}
    return Enumeration(settings, truth[:, :N_STATES], batches=Batches(**fields), **whole)


def _of_setting(index: int, setting: Setting) -> dict[str, Tensor]:
    mdp, log_policy = setting.problem.mdp(), log_softmax_policy(setting.problem.preferences())
    drawn, probabilities = enumerate_trajectories(mdp, log_policy.exp(), horizon=HORIZON)
    n = len(probabilities)
    which = torch.cartesian_prod(*[torch.arange(n)] * setting.size).view(-1, setting.size)

    def batch(values: Tensor) -> Tensor:
        """The values of the episodes of each batch, with zeros for the episodes that it does not have."""
        return torch.nn.functional.pad(values[which], (0, 0, 0, SIZES[-1] - setting.size))

    mask = batch(drawn.mask)
    states, actions = batch(torch.where(drawn.mask, drawn.states[:, :-1], 0)), batch(drawn.actions)
    width = mask.sum(-1).amax(-1)
    cells = (torch.arange(HORIZON) < width[:, None, None]) & (torch.arange(SIZES[-1]) < setting.size)[:, None]
    log_probs = torch.where(mask, log_policy[states, actions], _PADDING)
    rewards = torch.where(mask, batch(drawn.rewards), 0.0)
    one_hot = torch.nn.functional.one_hot(actions, N_ACTIONS)
    return {
        "rewards": rewards,
        "mask": mask,
        "cells": cells,
        "gamma": torch.full((len(which),), setting.gamma, dtype=_F64),
        "probs": log_probs.exp(),
        "values": torch.where(mask, torch.tensor([1.0, -0.5, 0.25], dtype=_F64)[states], 0.3),
        "setting": torch.full((len(which),), index),
        "probability": probabilities[which].prod(-1),
        "log_probs": log_probs,
        "states": states,
        "actions": actions,
        "logits": log_policy[states] + 0.5 * (states[..., None] + 1) - 0.4 * (~mask[..., None] * one_hot),
        "scores": torch.where(mask[..., None], one_hot - log_policy[states].exp(), 0.0),
        "returns": _to_go(rewards, setting.gamma),
    }


def _to_go(rewards: Tensor, gamma: float) -> Tensor:
    k = torch.arange(rewards.shape[-1])
    weights = torch.where(k >= k[:, None], gamma ** (k - k[:, None]).clamp(min=0).double(), 0.0)
    return rewards @ weights.T
