"""Many small runs of REINFORCE with linear preferences, all at once."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgtheory import _checks
from pgtheory.mdp import FiniteMDP
from pgtheory.reinforce import reinforce_loss
from pgtheory.returns import discount_factors, discounted_return, returns_to_go
from pgtheory.softmax_policy import softmax_policy
from pgtheory.training._arguments import per_run
from pgtheory.trajectories import Trajectories

# How many uniform numbers the runs draw at a time, and how often they look whether all episodes have ended.
BLOCK = 16


class Runs(NamedTuple):
    r"""K runs of REINFORCE side by side, episode by episode.

    Attributes:
        parameters: :math:`\theta` before the first episode and after each.
        baselines: the learned constant baseline w, likewise.
        returns: :math:`G_0` of each episode; NaN after the run was stopped.
        lengths: the number of steps of each episode; 0 after the run was stopped.
        stopped: which runs were stopped, because an episode of theirs reached the horizon.

    Example:
        >>> from pgtheory import gallery
        >>> features = torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
        >>> zeros = torch.zeros(5, 2, dtype=torch.float64)
        >>> bandit = gallery.bandit([1.0, 0.0])
        >>> runs = reinforce_runs(bandit, features, zeros, 1.0, step_size=0.1, n_episodes=3, horizon=1)
        >>> runs.parameters.shape, runs.returns.shape
        (torch.Size([4, 5, 2]), torch.Size([3, 5]))
    """

    parameters: Float[Tensor, "E+1 K d"]
    baselines: Float[Tensor, "E+1 K"]
    returns: Float[Tensor, "E K"]
    lengths: Int[Tensor, "E K"]
    stopped: Bool[Tensor, "K"]


def reinforce_runs(
    mdp: FiniteMDP,
    features: Float[Tensor, "S A d"],
    parameters: Float[Tensor, "K d"],
    gamma: float,
    *,
    step_size: float | Float[Tensor, "K"],
    n_episodes: int,
    horizon: int,
    baseline_step_size: float | Float[Tensor, "K"] = 0.0,
    update: Literal["step", "episode"] = "step",
    generator: torch.Generator | None = None,
) -> Runs:
    r"""K independent runs of REINFORCE with linear preferences, all at once: no loop over runs.

    With `update="step"` it is the boxed algorithm of Sutton and Barto: after each episode, for t = 0, 1, ..., both
    :math:`\theta` and the constant baseline w move at every step, so that the score of step t is taken at parameters
    that the steps before it have already changed. With `update="episode"` they move once, by the gradient of
    `reinforce_loss` at the parameters that drew the episode. The two differ by terms of second order in the step size.

    Each run ascends by :eq:`eq-gradient-ascent` along the estimate :eq:`eq-reinforce`.

    Args:
        mdp: the MDP.
        features: :math:`x(s, a)` of :math:`h_\theta(s, a) = \theta^\top x(s, a)`.
        parameters: :math:`\theta` at the start of each run.
        gamma: the discount :math:`\gamma`.
        step_size: :math:`\alpha^\theta`, one for all runs or one for each.
        n_episodes: the number of episodes of each run.
        horizon: the number of steps at which an episode that has not ended stops its run.
        baseline_step_size: :math:`\alpha^{\mathbf w}` of the baseline :math:`\hat v(s, w) = w`, which starts at 0. A
            run in which it is 0 has no baseline.
        update: when the parameters move.
        generator: the source of randomness.

    Returns:
        The parameters and the returns of every run, after every episode.

    Raises:
        ValueError: a shape does not fit, `update` is unknown, or `gamma` is outside [0, 1].
        TypeError: a tensor has another dtype than the MDP.

    Estimand:
        The mean change in an episode of `update="episode"` is :math:`\alpha \nabla_\theta J` where no episode reaches
        the horizon, also with a baseline: w depends on the episodes before only.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, section 13.3 and 13.4, boxes
        "REINFORCE" and "REINFORCE with Baseline".

    Example:
        >>> from pgtheory import gallery
        >>> features = torch.eye(2, dtype=torch.float64).expand(4, 2, 2)
        >>> start = torch.zeros(3, 2, dtype=torch.float64)
        >>> runs = reinforce_runs(
        ...     gallery.short_corridor(), features, start, 1.0, step_size=2**-12, n_episodes=2, horizon=100
        ... )
        >>> (runs.returns <= -3).all()
        tensor(True)
    """
    _check_runs(mdp, features, parameters, update)
    gamma, horizon = _checks.check_gamma(gamma), _checks.check_count("horizon", horizon)
    alpha = per_run("step_size", step_size, parameters)
    alpha_w = per_run("baseline_step_size", baseline_step_size, parameters)
    _checks.check_generator("generator", generator, "mdp", mdp.device)
    move = _move_each_step if update == "step" else _move_each_episode
    theta, w = [parameters.detach().clone()], [parameters.new_zeros(len(parameters))]
    returns, lengths = [], []
    stopped = torch.zeros_like(w[0], dtype=torch.bool)
    for _ in range(_checks.check_count("n_episodes", n_episodes)):
        going = ~stopped
        episodes = _one_episode_each(mdp, features, theta[-1], going, horizon, generator)
        stopped = stopped | (going & episodes.truncated)
        moved = move(features, theta[-1], w[-1], episodes, gamma, alpha, alpha_w)
        theta.append(torch.where(stopped.unsqueeze(-1), theta[-1], moved[0]))
        w.append(torch.where(stopped, w[-1], moved[1]))
        earned = discounted_return(episodes.rewards, gamma, mask=episodes.mask)
        returns.append(torch.where(going, earned, math.nan))
        lengths.append(episodes.lengths)
    return Runs(torch.stack(theta), torch.stack(w), torch.stack(returns), torch.stack(lengths), stopped)


def _check_runs(mdp: FiniteMDP, features: Tensor, parameters: Tensor, update: str) -> None:
    _checks.check_instance("mdp", mdp, FiniteMDP)
    for name, tensor in (("features", features), ("parameters", parameters)):
        _checks.check_floating(name, tensor)
        _checks.check_same_kind(name, tensor, "mdp", mdp.rewards)
        _checks.check_finite(name, tensor)
    if features.ndim != 3 or features.shape[:2] != (mdp.n_states, mdp.n_actions):
        raise ValueError(f"features has shape {list(features.shape)}, expected [{mdp.n_states}, {mdp.n_actions}, d]")
    if parameters.ndim != 2 or parameters.shape[1] != features.shape[2]:
        raise ValueError(f"parameters has shape {list(parameters.shape)}, expected [K, {features.shape[2]}]")
    missing = ~mdp.available & ~mdp.terminal[:, None]
    if not mdp.terminal.any():
        raise ValueError("mdp has no terminal state: its episodes do not end")
    if missing.any():
        raise ValueError(
            f"mdp lacks an action at {_checks.first_place(missing, 'sa')}: runs need every action everywhere"
        )
    _checks.check_choice("update", update, ("step", "episode"))


def _one_episode_each(
    mdp: FiniteMDP,
    features: Tensor,
    theta: Float[Tensor, "K d"],
    going: Bool[Tensor, "K"],
    horizon: int,
    generator: torch.Generator | None,
) -> Trajectories:
    """One episode of each run that is going, under its own policy, with as many columns as the longest has steps."""
    policies = softmax_policy(torch.einsum("sad,kd->ksa", features, theta), available=mdp.available)
    starts = torch.multinomial(mdp.initial, len(theta), replacement=True, generator=generator)
    # A run that is not going waits in a state that is terminal: any will do.
    states = [torch.where(going, starts, int(mdp.terminal.nonzero()[0]))]
    place, next_states, right_edges = _events_by_state(mdp, policies)
    run, events = torch.arange(len(theta), device=mdp.device), []
    for t in range(horizon):
        if t % BLOCK == 0:
            uniforms = torch.rand(BLOCK, len(theta), 1, generator=generator, dtype=mdp.dtype, device=mdp.device)
        edges = right_edges.index_select(0, run * mdp.n_states + states[-1])
        events.append((edges <= uniforms[t % BLOCK]).sum(-1))
        states.append(next_states.index_select(0, states[-1] * place.shape[1] + events[-1]))
        if t % BLOCK == BLOCK - 1 and mdp.terminal[states[-1]].all():
            break
    return _trajectories_of_runs(mdp, place, torch.stack(states, 1), torch.stack(events, 1))


def _events_by_state(mdp: FiniteMDP, policies: Float[Tensor, "K S A"]) -> tuple[Tensor, Tensor, Tensor]:
    """The outcomes that can follow each state, `[S, E]`, padded by -1; their next states `[S·E]`, and the right edges
    of their probabilities under each policy, `[K·S, E]`. The next state of a terminal state is itself.
    """
    o, n_states = mdp.outcomes, mdp.n_states
    count = torch.bincount(o.state, minlength=n_states)
    rank = torch.arange(len(o.state), device=mdp.device) - (count.cumsum(0) - count)[o.state]
    place = o.state.new_full((n_states, int(count.max())), -1)
    place[o.state, rank] = torch.arange(len(o.state), device=mdp.device)
    stay = torch.arange(n_states, device=mdp.device)[:, None]
    next_states = torch.where(place < 0, stay, o.next_state[place])
    probability = policies.new_zeros(len(policies), *place.shape)
    probability[:, o.state, rank] = policies[:, o.state, o.action] * o.probability
    # The last event of positive probability reaches up to 1, whatever rounding has left of the sum.
    edges = probability.cumsum(-1)
    edges = torch.where(edges < edges[..., -1:], edges, torch.ones_like(edges))
    return place, next_states.flatten(), edges.flatten(0, 1)


def _trajectories_of_runs(
    mdp: FiniteMDP, place: Int[Tensor, "S E"], states: Int[Tensor, "K T+1"], events: Int[Tensor, "K T"]
) -> Trajectories:
    mask, o = ~mdp.terminal[states[:, :-1]], mdp.outcomes
    longest = max(1, int(mask.sum(-1).max()))
    terminated, states, mask = mdp.terminal[states[:, -1]], states[:, : longest + 1], mask[:, :longest]
    outcome = place[states[:, :-1], events[:, :longest]]
    actions = torch.where(mask, o.action[outcome], 0)
    rewards = torch.where(mask, mdp.rewards[o.reward_index[outcome]], 0.0)
    return Trajectories(states, actions, rewards, mask, terminated, ~terminated)


def _move_each_step(
    features: Tensor,
    theta: Float[Tensor, "K d"],
    w: Float[Tensor, "K"],
    episodes: Trajectories,
    gamma: float,
    alpha: Float[Tensor, "K"],
    alpha_w: Float[Tensor, "K"],
) -> tuple[Float[Tensor, "K d"], Float[Tensor, "K"]]:
    returns = returns_to_go(episodes.rewards, gamma, mask=episodes.mask).T.unsqueeze(-1)
    x = features[episodes.states[:, :-1].T]
    taken = x[torch.arange(len(x))[:, None], torch.arange(x.shape[1]), episodes.actions.T]
    # 0 where no step was taken
    rates_w = torch.where(episodes.mask, alpha_w[:, None], 0.0).T.unsqueeze(-1)
    discounts = discount_factors(gamma, len(x), dtype=theta.dtype, device=theta.device)
    rates = torch.where(episodes.mask, alpha[:, None] * discounts, 0.0).T.unsqueeze(-1)
    w = w.unsqueeze(-1)
    for t in range(len(x)):
        policy = torch.softmax(x[t] @ theta.unsqueeze(-1), 1)
        score = taken[t] - (policy * x[t]).sum(1)
        # δ = G_t − w;  w ← w + α_w δ;  θ ← θ + α γ^t δ ∇ln π(A_t|S_t)
        delta = returns[t] - w
        w = torch.addcmul(w, rates_w[t], delta)
        theta = torch.addcmul(theta, rates[t] * delta, score)
    return theta, w.squeeze(-1)


def _move_each_episode(
    features: Tensor,
    theta: Float[Tensor, "K d"],
    w: Float[Tensor, "K"],
    episodes: Trajectories,
    gamma: float,
    alpha: Float[Tensor, "K"],
    alpha_w: Float[Tensor, "K"],
) -> tuple[Float[Tensor, "K d"], Float[Tensor, "K"]]:
    leaf, mask = theta.clone().requires_grad_(), episodes.mask
    preferences = torch.einsum("ktad,kd->kta", features[episodes.states[:, :-1]], leaf)
    log_policy = torch.log_softmax(preferences, -1)
    log_probs = log_policy.gather(-1, episodes.actions.unsqueeze(-1)).squeeze(-1)
    loss = reinforce_loss(log_probs, episodes.rewards, gamma, mask=mask, baseline=w.unsqueeze(-1))
    # The loss is a mean over the runs, of which each has parameters of its own.
    (slope,) = torch.autograd.grad(loss * len(theta), leaf)
    error = torch.where(mask, returns_to_go(episodes.rewards, gamma, mask=mask) - w.unsqueeze(-1), 0.0)
    return theta - alpha.unsqueeze(-1) * slope, w + alpha_w * error.sum(-1)
