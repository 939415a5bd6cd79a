"""Many small runs of a tabular actor and critic, all at once: PPO, or REINFORCE with a baseline."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from pgtheory import _checks, _ratios
from pgtheory._masks import taken
from pgtheory._tables import check_table
from pgtheory.advantages import generalized_advantages
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import performance
from pgtheory.softmax_policy import log_softmax_policy, softmax_policy
from pgtheory.surrogates import Clip, ppo_clip_loss
from pgtheory.training._arguments import per_run


class SurrogateRuns(NamedTuple):
    r"""K runs side by side, update by update.

    Attributes:
        performance: the exact :math:`J(\theta)` of each run, before the first update and after each.
        steps: the number of environment steps used so far, likewise.
        preferences: :math:`h(s, a)` of each run after the last update.

    Example:
        >>> SurrogateRuns(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(2, 4, 2)).performance.shape
        torch.Size([3, 2])
    """

    performance: Float[Tensor, "U+1 K"]
    steps: Int[Tensor, "U+1 K"]
    preferences: Float[Tensor, "K S A"]


def surrogate_runs(
    mdp: FiniteMDP,
    preferences: Float[Tensor, "K S A"],
    gamma: float,
    *,
    n_updates: int,
    n_episodes: int,
    horizon: int,
    step_size: float | Float[Tensor, "K"],
    n_epochs: int = 1,
    clip: Clip = (1.0, math.inf),
    lam: float = 1.0,
    critic_step_size: float = 1.0,
    generator: torch.Generator | None = None,
) -> SurrogateRuns:
    r"""K independent runs of a tabular actor and critic, all at once: PPO, or REINFORCE with a baseline.

    An update draws `n_episodes` episodes, takes :math:`\hat A` by `generalized_advantages` from the critic of the
    updates before, makes `n_epochs` gradient steps on `ppo_clip_loss` (a sum over steps, a mean over episodes), and
    moves the critic towards the mean of :math:`\hat A_t + V(S_t)` in each state. One epoch with :math:`\lambda = 1` is
    REINFORCE with a learned baseline, without the factor :math:`\gamma^t`.

    Each run descends :eq:`eq-ppo-loss` with the advantages :eq:`eq-gae`.

    Args:
        mdp: the MDP.
        preferences: :math:`h(s, a)` of each run at the start.
        gamma: the discount :math:`\gamma`.
        n_updates: the number of updates.
        n_episodes: the number of episodes of each run in an update.
        horizon: the number of steps after which an episode is truncated.
        step_size: :math:`\alpha`, one for all runs or one for each.
        n_epochs: the number of gradient steps on each batch.
        clip: as in `ppo_clip_loss`; by default nothing is clipped.
        lam: :math:`\lambda`.
        critic_step_size: how far the critic, which starts at 0, moves; 0 leaves it there.
        generator: the source of randomness.

    Returns:
        The exact performance and the number of steps of every run, after every update.

    Raises:
        ValueError: a number is out of range; `preferences` does not fit.
        TypeError: `preferences` is not a tensor of floats of the MDP's dtype.

    Source:
        Schulman et al., "Proximal Policy Optimization Algorithms", 2017, Algorithm 1.

    Example:
        >>> from pgtheory import gallery
        >>> start = torch.zeros(5, 2, 2, dtype=torch.float64)
        >>> runs = surrogate_runs(
        ...     gallery.bandit([1.0, 0.0]), start, 1.0, n_updates=20, n_episodes=4, horizon=1, step_size=1.0, n_epochs=4
        ... )
        >>> bool((runs.performance[-1] > 0.8).all())
        True
    """
    n_updates, n_epochs = _checks.check_count("n_updates", n_updates), _checks.check_count("n_epochs", n_epochs)
    n_episodes = _checks.check_count("n_episodes", n_episodes)
    check_table(mdp, "preferences", preferences, 3)
    horizon, clip = _checks.check_count("horizon", horizon), _ratios.checked_clip(clip)
    gamma, lam = _checks.check_gamma(gamma), _checks.check_unit_interval("lam", lam)
    alpha = per_run("step_size", step_size, preferences, "preferences")[:, None, None]
    critic_step_size = _checks.check_not_negative("critic_step_size", critic_step_size)
    _checks.check_generator("generator", generator, "mdp", mdp.device)
    h, critic = preferences.detach().clone(), preferences.new_zeros(preferences.shape[:2])
    history, steps = [_softmax_performance(mdp, h, gamma)], [torch.zeros(len(h), dtype=torch.long, device=h.device)]
    for _ in range(n_updates):
        episodes = _sample_runs(mdp, h, n_episodes, horizon, generator)
        advantages, values = _run_advantages(episodes, critic, gamma, lam)
        old_log_probs = _run_log_probs(mdp, h, episodes)
        for _ in range(n_epochs):
            h = h - alpha * _run_slopes(mdp, h, episodes, old_log_probs, advantages, clip)
        critic = critic + critic_step_size * _critic_errors(critic, episodes, advantages + values)
        history.append(_softmax_performance(mdp, h, gamma))
        steps.append(steps[-1] + episodes.mask.sum((-1, -2)))
    return SurrogateRuns(torch.stack(history), torch.stack(steps), h)


class _RunEpisodes(NamedTuple):
    """`n` episodes of each of K runs."""

    states: Int[Tensor, "K n T+1"]
    actions: Int[Tensor, "K n T"]
    rewards: Float[Tensor, "K n T"]
    mask: Bool[Tensor, "K n T"]
    terminated: Bool[Tensor, "K n"]


def _softmax_performance(mdp: FiniteMDP, h: Tensor, gamma: float) -> Tensor:
    return performance(mdp, softmax_policy(h, available=mdp.available), gamma)


def _sample_runs(
    mdp: FiniteMDP, h: Float[Tensor, "K S A"], n: int, horizon: int, generator: torch.Generator | None
) -> _RunEpisodes:
    """Episodes of K policies at once, each step by inversion: of the policies, and of the outcomes of all pairs."""
    policy = softmax_policy(h, available=mdp.available).double().cumsum(-1)
    o, shape = mdp.outcomes, (len(h), n)
    right_edge = o.probability.double().cumsum(0)
    last = torch.bincount(o.state * mdp.n_actions + o.action, minlength=mdp.n_states * mdp.n_actions).cumsum(0) - 1
    before = pad(last, (1, 0), value=-1)[:-1]
    left_edge = pad(right_edge, (1, 0))[before + 1]
    state = torch.multinomial(mdp.initial, len(h) * n, replacement=True, generator=generator).view(shape)
    run = torch.arange(len(h), device=h.device)[:, None]
    states, columns = [state], list[tuple[Tensor, Tensor, Tensor]]()
    while len(columns) < horizon and not mdp.terminal[state].all():
        u, v = torch.rand(2, *shape, dtype=torch.float64, device=h.device, generator=generator)
        edges, going = policy[run, state], ~mdp.terminal[state]
        action = (edges <= u.unsqueeze(-1) * edges[..., -1:]).sum(-1).clamp(max=mdp.n_actions - 1)
        pair = state * mdp.n_actions + torch.where(going, action, 0)
        outcome = torch.searchsorted(right_edge, left_edge[pair] + v, right=True)
        outcome = torch.minimum(torch.maximum(outcome, before[pair] + 1), last[pair]).clamp(min=0)
        reward = torch.where(going, mdp.rewards[o.reward_index[outcome]], 0.0)
        columns.append((torch.where(going, action, 0), reward, going))
        state = torch.where(going, o.next_state[outcome], state)
        states.append(state)
    actions, rewards, mask = (torch.stack(column, -1) for column in zip(*columns, strict=True))
    return _RunEpisodes(torch.stack(states, -1), actions, rewards, mask, mdp.terminal[state])


def _run_advantages(episodes: _RunEpisodes, critic: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """The generalized advantages of each step, and the values of the states they start from."""
    mask = episodes.mask
    values = critic.gather(1, episodes.states.flatten(1)).view(episodes.states.shape)
    is_last = mask & ~pad(mask[..., 1:], (0, 1))
    terminated = is_last & episodes.terminated.unsqueeze(-1)
    advantages = generalized_advantages(
        episodes.rewards,
        values[..., :-1],
        values[..., 1:],
        gamma,
        lam,
        terminated=terminated,
        truncated=is_last & ~terminated,
        mask=mask,
    )
    return advantages, values[..., :-1]


def _run_log_probs(mdp: FiniteMDP, h: Tensor, episodes: _RunEpisodes) -> Tensor:
    log_policy = log_softmax_policy(h, available=mdp.available)
    run = torch.arange(len(h), device=h.device).view(-1, 1, 1)
    states = torch.where(episodes.mask, episodes.states[..., :-1], int(episodes.states[0, 0, 0]))
    return taken(log_policy[run, states, episodes.actions], episodes.mask)


def _run_slopes(
    mdp: FiniteMDP, h: Tensor, episodes: _RunEpisodes, old_log_probs: Tensor, advantages: Tensor, clip: Clip
) -> Tensor:
    """The gradient of each run's `ppo_clip_loss` by its own preferences."""

    def loss(log_probs: Tensor, old: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
        return ppo_clip_loss(log_probs, old, weights, clip=clip, mask=mask, average="episodes")

    leaf = h.detach().requires_grad_()
    log_probs = _run_log_probs(mdp, leaf, episodes)
    losses = torch.func.vmap(loss)(log_probs, old_log_probs, advantages, episodes.mask)
    return torch.autograd.grad(losses.sum(), leaf)[0]


def _critic_errors(critic: Tensor, episodes: _RunEpisodes, targets: Tensor) -> Tensor:
    """The mean of the targets minus the critic in each state; 0 in states that were not visited."""
    weight, place = episodes.mask.flatten(1).to(critic.dtype), episodes.states[..., :-1].flatten(1)
    visits = torch.zeros_like(critic).scatter_add_(1, place, weight)
    sums = torch.zeros_like(critic).scatter_add_(1, place, weight * targets.flatten(1))
    return torch.where(visits > 0, sums / visits.clamp(min=1) - critic, 0.0)
