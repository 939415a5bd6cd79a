r"""Chapter 7: learning with REINFORCE, on a finite MDP or a Gymnasium environment, and many small runs at once."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from pgtheory import _checks
from pgtheory._gymnasium import import_gymnasium
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import performance
from pgtheory.reinforce import (
    bootstrapped_rewards,
    entropy_bonus,
    leave_one_out_baseline,
    reinforce_loss,
    value_loss,
)
from pgtheory.returns import discount_factors, discounted_return, returns_to_go
from pgtheory.softmax_policy import SoftmaxPolicy, entropy, softmax_policy
from pgtheory.trajectories import Trajectories, at_steps, sample_trajectories

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

__all__ = ["Episodes", "Record", "Runs", "Trainer", "reinforce_runs", "sample_episodes"]


# How many uniform numbers the runs draw at a time, and how often they look whether all episodes have ended.
BLOCK = 16


class Episodes(NamedTuple):
    r"""One episode of each of the N sub-environments of a vector environment, padded to the longest.

    The fields are those of `Trajectories`; states are observations, and after the end the last one repeats.

    Attributes:
        states: :math:`S_0, \dots, S_T`.
        actions: :math:`A_0, \dots, A_{T-1}`, 0 at padding.
        rewards: :math:`R_1, \dots, R_T`, 0 at padding.
        mask: whether :math:`A_t` was taken.
        terminated: whether the episode ended in a terminal state.
        truncated: whether it was cut off, by the environment or at the horizon.
        available: the mask of :math:`\mathcal{A}(S_t)`, from `info["action_mask"]`; None without one.

    Example:
        >>> from pgtheory.softmax_policy import NeuralPolicy
        >>> import gymnasium
        >>> envs = gymnasium.make_vec("CartPole-v1", num_envs=3)
        >>> episodes = sample_episodes(envs, NeuralPolicy(4, 2), horizon=2)
        >>> episodes.states.shape, episodes.truncated
        (torch.Size([3, 3, 4]), tensor([True, True, True]))
    """

    states: Shaped[Tensor, "N T+1 *observation"]
    actions: Int[Tensor, "N T"]
    rewards: Float[Tensor, "N T"]
    mask: Bool[Tensor, "N T"]
    terminated: Bool[Tensor, "N"]
    truncated: Bool[Tensor, "N"]
    available: Bool[Tensor, "N T A"] | None


def sample_episodes(
    envs: "VectorEnv[Any, Any, Any]",
    policy: SoftmaxPolicy,
    *,
    horizon: int,
    generator: torch.Generator | None = None,
) -> Episodes:
    r"""Draw one episode from each sub-environment: exactly one, so that short episodes are not over-represented.

    The first N episodes to *finish* would be a biased sample: they are the short ones. So a sub-environment whose
    episode has ended is stepped on, if it must be, but no step of its next episode is counted. That holds for each of
    Gymnasium's three autoreset modes; in `SAME_STEP` mode the last observation is read from `info["final_obs"]`.

    Args:
        envs: the vector environment, of discrete actions. It is reset with a seed drawn from `generator`, so that the
            generator alone decides the result, whatever the environment was used for before.
        policy: the policy :math:`\pi_\theta`. States are observations, or state numbers where these are discrete.
        horizon: the number of steps after which an episode that has not ended is truncated.
        generator: the source of randomness, on the CPU.

    Returns:
        The episodes, with as many columns as the longest has steps.

    Raises:
        ValueError: `horizon` is less than 1; the environment has other than discrete actions, or another number of
            them than the policy.
        TypeError: `envs` is not a vector environment.
        ImportError: `gymnasium` is not installed.

    Source:
        Towers et al., "Gymnasium: A Standard Interface for Reinforcement Learning Environments", 2024 (vector
        environments and autoreset).

    Example:
        >>> from pgtheory import gallery
        >>> from pgtheory.softmax_policy import TabularPolicy
        >>> import gymnasium
        >>> envs = gymnasium.vector.SyncVectorEnv([gallery.bandit([1.0, 0.0]).to_gymnasium] * 2)
        >>> sample_episodes(envs, TabularPolicy(2, 2), horizon=5).mask
        tensor([[True],
                [True]])
    """
    horizon, mode = _checks.check_count("horizon", horizon), _checked_mode(envs, policy)
    dtype = next(policy.parameters()).dtype
    # Every batch starts from a seed of its own: nothing of the environment's random state needs to be kept.
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    observation, info = envs.reset(seed=seed)
    state = _observation(observation, dtype)
    running = torch.ones(envs.num_envs, dtype=torch.bool)
    terminated, states, steps = ~running, [state], []
    for _ in range(horizon):
        available = _action_mask(info)
        action = policy.sample(_observation(observation, dtype), available=available, generator=generator)
        observation, reward, ends, cut, info = envs.step(action.numpy())
        reached = _observation(_final(observation, info), dtype)
        taken = running.view(-1, *(1,) * (state.ndim - 1))
        state = torch.where(taken, reached, state)
        states.append(state)
        steps.append((action, torch.as_tensor(reward).to(dtype), running, available))
        terminated = terminated | (running & torch.as_tensor(ends))
        running = running & ~torch.as_tensor(ends | cut)
        if not running.any():
            break
        if mode == "DISABLED" and (over := np.asarray(ends | cut)).any():
            observation, again = envs.reset(options={"reset_mask": over})
            info = _merged(info, again, over)
    return _assembled(states, steps, terminated)


class Record(NamedTuple):
    r"""What one update of a `Trainer` saw; every number is of the policy before the update.

    Attributes:
        episodes: the number of episodes drawn so far.
        mean_return: the mean of :math:`G_0`, discounted.
        total_reward: the mean of the undiscounted sum of rewards.
        length: the mean number of steps.
        truncated: the fraction of episodes that were cut off.
        entropy: the mean entropy of the policy over the steps taken, in nats.
        gradient_norm: the norm of the gradient of the loss by the parameters of the policy.
        performance: the exact :math:`J(\theta)`; NaN where it is not known.

    Example:
        >>> Record(64, 0.5, 1.0, 10.0, 0.0, 0.69, 1.0, float("nan")).mean_return
        0.5
    """

    episodes: int
    mean_return: float
    total_reward: float
    length: float
    truncated: float
    entropy: float
    gradient_norm: float
    performance: float


class Trainer:
    r"""REINFORCE with any softmax policy, any `torch.optim` optimiser, on a `FiniteMDP` or a vector environment.

    An update draws a batch of whole episodes from the current policy, takes one step of the optimiser on
    `reinforce_loss` (minus the entropy bonus, plus the value loss), and appends a `Record` to `history`. The state of
    a trainer can be saved and loaded; the continuation is the same, bit for bit.

    Args:
        policy: the policy; its parameters are changed in place.
        source: what the episodes are drawn from: a `FiniteMDP`, or a Gymnasium vector environment.
        gamma: the discount :math:`\gamma`.
        optimizer: an optimiser of the parameters of the policy, and of the baseline where it is a module. The loss is
            minimised.
        horizon: the number of steps after which an episode is truncated.
        batch_size: the number of episodes of an update; a vector environment draws one from each sub-environment.
        baseline: a number, `"leave_one_out"`, or a module from states to values `[..., 1]`, such as
            `nn.Embedding(n_states, 1)`, which is fitted with `value_loss`. Its values from before the update are used.
        entropy_weight: the weight :math:`\beta` of `entropy_bonus`.
        discount_states: whether :math:`\gamma^t` is kept.
        bootstrap: whether the value of the last state of a truncated episode is added to its rewards, see
            `bootstrapped_rewards`. It needs a module as baseline.
        exact: whether the exact :math:`J(\theta)` is recorded, where the source is a `FiniteMDP`.
        generator: the source of all randomness; by default torch's own.

    Attributes:
        history: one `Record` for each update.

    Raises:
        ValueError: a number is out of range; `optimizer` maximises; `batch_size` does not fit the source; `bootstrap`
            without a module as baseline; an unknown `baseline`.
        TypeError: `source` is neither a `FiniteMDP` nor a vector environment.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, section 13.4.

    Example:
        >>> from pgtheory import gallery
        >>> from pgtheory.softmax_policy import TabularPolicy
        >>> policy = TabularPolicy(2, 2, dtype=torch.float64)
        >>> sgd = torch.optim.SGD(policy.parameters(), lr=1.0)
        >>> trainer = Trainer(policy, gallery.bandit([1.0, 0.0]), 1.0, optimizer=sgd, horizon=1, batch_size=100)
        >>> [round(record.performance, 1) for record in trainer.run(20)][::19]
        [0.5, 1.0]
    """

    def __init__(
        self,
        policy: SoftmaxPolicy,
        source: "FiniteMDP | VectorEnv[Any, Any, Any]",
        gamma: float,
        *,
        optimizer: torch.optim.Optimizer,
        horizon: int,
        batch_size: int | None = None,
        baseline: float | nn.Module | Literal["leave_one_out"] | None = None,
        entropy_weight: float = 0.0,
        discount_states: bool = True,
        bootstrap: bool = False,
        exact: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        self.policy, self.source, self.optimizer, self.baseline = policy, source, optimizer, baseline
        self.gamma, self.horizon = _checks.check_gamma(gamma), _checks.check_count("horizon", horizon)
        self.batch_size = _checked_batch_size(source, policy, batch_size)
        self.entropy_weight = _checks.check_real("entropy_weight", entropy_weight)
        self.discount_states, self.bootstrap = discount_states, bootstrap
        self.exact = exact and isinstance(source, FiniteMDP)
        self.generator = torch.default_generator if generator is None else generator
        self.history: list[Record] = []
        if any(group.get("maximize", False) for group in optimizer.param_groups):
            raise ValueError("optimizer maximises: build it without maximize, a loss is minimised")
        if isinstance(baseline, str) and baseline != "leave_one_out":
            raise ValueError(f"baseline is {baseline!r}, expected a number, a module or 'leave_one_out'")
        if bootstrap and not isinstance(baseline, nn.Module):
            raise ValueError("bootstrap is True but baseline is not a module: there are no values to add")

    def run(self, n_updates: int, *, progress: bool = False) -> list[Record]:
        """Make `n_updates` updates and return their records; `progress` writes a line of text to stderr."""
        n_updates = _checks.check_count("n_updates", n_updates)
        for update in range(n_updates):
            self.update()
            if progress:
                print(_progress_line(update + 1, n_updates, self.history[-1]), end="\r", file=sys.stderr, flush=True)
        if progress:
            print(file=sys.stderr)
        return self.history[-n_updates:]

    def update(self) -> Record:
        """Draw a batch of episodes, take one step of the optimiser, and return the record."""
        episodes, exact = self._draw(), self._performance()
        log_probs, entropies = self._log_probs_and_entropies(episodes)
        self.optimizer.zero_grad()
        self._loss(episodes, log_probs, entropies).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad.norm() for p in self.policy.parameters() if p.grad is not None]
        self.optimizer.step()
        mask, rewards = episodes.mask, episodes.rewards
        self.history.append(
            Record(
                episodes=self.batch_size * (len(self.history) + 1),
                mean_return=float(discounted_return(rewards, self.gamma, mask=mask).mean()),
                total_reward=float(discounted_return(rewards, 1.0, mask=mask).mean()),
                length=float(mask.sum(-1).double().mean()),
                truncated=float(episodes.truncated.double().mean()),
                entropy=float(entropies.detach()[mask].mean()),
                gradient_norm=float(torch.stack(gradients).norm()),
                performance=exact,
            )
        )
        return self.history[-1]

    def state_dict(self) -> dict[str, Any]:
        """Everything that the continuation depends on: parameters, optimiser, generator, history."""
        return {
            "policy": self.policy.state_dict(),
            "baseline": self.baseline.state_dict() if isinstance(self.baseline, nn.Module) else None,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "history": [tuple(record) for record in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state that `state_dict` returned, of a trainer built with the same arguments."""
        self.policy.load_state_dict(state["policy"])
        if isinstance(self.baseline, nn.Module):
            self.baseline.load_state_dict(state["baseline"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.history = [Record(*record) for record in state["history"]]

    def save(self, path: str | Path) -> None:
        """Write `state_dict` to a file."""
        torch.save(self.state_dict(), path)

    def load(self, path: str | Path) -> None:
        """Read a file that `save` wrote, and continue from there."""
        self.load_state_dict(torch.load(path, weights_only=True))

    def _draw(self) -> Trajectories | Episodes:
        if not isinstance(self.source, FiniteMDP):
            return sample_episodes(self.source, self.policy, horizon=self.horizon, generator=self.generator)
        policy = self._table()
        return sample_trajectories(self.source, policy, self.batch_size, horizon=self.horizon, generator=self.generator)

    @torch.no_grad()
    def _table(self) -> Float[Tensor, "S A"]:
        """The policy in the dtype of the MDP, restricted to 𝒜(s)."""
        assert isinstance(self.source, FiniteMDP)
        states = torch.arange(self.source.n_states, device=self.source.device)
        preferences = self.policy.preferences(states).to(self.source.dtype)
        return softmax_policy(preferences, available=self.source.available)

    def _performance(self) -> float:
        if not self.exact:
            return math.nan
        assert isinstance(self.source, FiniteMDP)
        return float(performance(self.source, self._table(), self.gamma))

    def _log_probs_and_entropies(self, episodes: Trajectories | Episodes) -> tuple[Tensor, Tensor]:
        if isinstance(episodes, Trajectories):
            return self._from_table(episodes)
        log_policy = self.policy.log_probs(episodes.states[:, :-1], available=episodes.available)
        log_probs = log_policy.gather(-1, episodes.actions.unsqueeze(-1)).squeeze(-1)
        possible = log_policy.isfinite()
        terms = torch.where(possible, log_policy.exp() * -log_policy.masked_fill(~possible, 0.0), 0.0)
        return torch.where(episodes.mask, log_probs, 0.0), terms.sum(-1)

    def _from_table(self, episodes: Trajectories) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies by one row per state of the MDP, rather than one per step."""
        assert isinstance(self.source, FiniteMDP)
        states, available = torch.arange(self.source.n_states, device=self.source.device), self.source.available
        entropies = entropy(self.policy.preferences(states), available=available)[episodes.states[:, :-1]]
        log_table = self.policy.log_probs(states, available=available)
        return at_steps(log_table, episodes), torch.where(episodes.mask, entropies, 0.0)

    def _loss(self, episodes: Trajectories | Episodes, log_probs: Tensor, entropies: Tensor) -> Tensor:
        rewards, baseline, fit = self._rewards_and_baseline(episodes, log_probs.dtype)
        mask, gamma, keep = episodes.mask, self.gamma, self.discount_states
        loss = reinforce_loss(
            log_probs,
            rewards,
            gamma,
            mask=mask,
            baseline=baseline,
            discount_states=keep,
        )
        bonus = entropy_bonus(entropies, gamma, mask=mask, discount_states=keep)
        return loss + fit - self.entropy_weight * bonus

    def _rewards_and_baseline(
        self, episodes: Trajectories | Episodes, dtype: torch.dtype
    ) -> tuple[Tensor, float | Tensor | None, float | Tensor]:
        """The rewards, the baseline, and the loss by which the baseline is fitted."""
        mask, rewards = episodes.mask, episodes.rewards.to(dtype)
        if isinstance(self.baseline, nn.Module):
            values = self.baseline(episodes.states).squeeze(-1)
            if self.bootstrap:
                final, truncated = values[:, -1].detach(), episodes.truncated
                rewards = bootstrapped_rewards(rewards, final, self.gamma, mask=mask, truncated=truncated)
            return rewards, values[:, :-1].detach(), value_loss(values[:, :-1], rewards, self.gamma, mask=mask)
        if self.baseline == "leave_one_out":
            return rewards, leave_one_out_baseline(returns_to_go(rewards, self.gamma, mask=mask), mask=mask), 0.0
        assert not isinstance(self.baseline, str)
        return rewards, self.baseline, 0.0


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
    alpha, alpha_w = (_per_run(x, parameters) for x in (step_size, baseline_step_size))
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


def _checked_mode(envs: Any, policy: SoftmaxPolicy, name: str = "envs") -> str:
    """The name of the autoreset mode of a vector environment that fits the policy."""
    gymnasium = import_gymnasium()
    if not isinstance(envs, gymnasium.vector.VectorEnv):
        raise TypeError(
            f"{name} must be a gymnasium.vector.VectorEnv, not {type(envs).__name__}: see gymnasium.make_vec"
        )
    space = envs.single_action_space
    if not isinstance(space, gymnasium.spaces.Discrete):
        raise ValueError(f"{name} has the action space {space}, not a discrete one")
    if int(space.n) != policy.n_actions or int(space.start) != 0:
        raise ValueError(f"{name} has the action space {space}, but policy has {policy.n_actions} actions from 0")
    mode = envs.metadata.get("autoreset_mode", gymnasium.vector.AutoresetMode.NEXT_STEP)
    return str(mode.name)


def _observation(observation: Any, dtype: torch.dtype) -> Tensor:
    tensor = torch.as_tensor(np.asarray(observation))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor.long()


def _action_mask(info: dict[str, Any]) -> Tensor | None:
    """The mask of the available actions; a sub-environment that reports none, or whose episode is over, has all."""
    if "action_mask" not in info:
        return None
    mask = torch.as_tensor(np.stack(list(info["action_mask"]))) > 0
    return mask | ~mask.any(-1, keepdim=True)


def _final(observation: Any, info: dict[str, Any]) -> Any:
    """The observations S_{t+1} of the running episodes, also of those that were reset in the same step."""
    if "final_obs" not in info:
        return observation
    reached = np.array(observation)
    for i in np.flatnonzero(info["_final_obs"]):
        reached[i] = info["final_obs"][i]
    return reached


def _merged(info: dict[str, Any], again: dict[str, Any], over: Any) -> dict[str, Any]:
    """The action masks after some sub-environments were reset."""
    if "action_mask" not in info:
        return {}
    masks = np.stack(list(info["action_mask"]))
    masks[over] = np.stack(list(again["action_mask"]))[over]
    return {"action_mask": masks}


def _assembled(
    states: list[Tensor], steps: list[tuple[Tensor, Tensor, Tensor, Tensor | None]], terminated: Tensor
) -> Episodes:
    actions, rewards, mask = (torch.stack([step[k] for step in steps], 1) for k in (0, 1, 2))  # type: ignore[misc]
    masks = [step[3] for step in steps if step[3] is not None]
    available = torch.stack(masks, 1) if masks else None
    actions, rewards = torch.where(mask, actions, 0), torch.where(mask, rewards, 0.0)
    return Episodes(torch.stack(states, 1), actions, rewards, mask, terminated, ~terminated, available)


def _checked_batch_size(source: Any, policy: SoftmaxPolicy, batch_size: int | None) -> int:
    if isinstance(source, FiniteMDP):
        if batch_size is None:
            raise ValueError("batch_size is None: a FiniteMDP needs to know how many episodes to draw")
        return _checks.check_count("batch_size", batch_size)
    _checked_mode(source, policy, "source")
    if batch_size not in (None, source.num_envs):
        raise ValueError(f"batch_size is {batch_size}, but the source has {source.num_envs} sub-environments")
    return int(source.num_envs)


def _progress_line(done: int, total: int, record: Record) -> str:
    return f"update {done:>{len(str(total))}}/{total}  return {record.mean_return:9.4g}  entropy {record.entropy:.3f} "


def _check_runs(mdp: FiniteMDP, features: Tensor, parameters: Tensor, update: str) -> None:
    for name, tensor in (("features", features), ("parameters", parameters)):
        _checks.check_floating(name, tensor)
        _checks.check_same_kind(name, tensor, "mdp", mdp.rewards)
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
    if update not in ("step", "episode"):
        raise ValueError(f"update is {update!r}, expected 'step' or 'episode'")


def _per_run(value: float | Tensor, parameters: Tensor) -> Float[Tensor, "K"]:
    return torch.as_tensor(value, dtype=parameters.dtype, device=parameters.device).expand(len(parameters))


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
