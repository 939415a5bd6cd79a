"""REINFORCE on a finite MDP or a Gymnasium vector environment."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgtheory import _checks
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import check_states, performance
from pgtheory.reinforce import (
    bootstrapped_rewards,
    entropy_bonus,
    leave_one_out_baseline,
    reinforce_loss,
    value_loss,
)
from pgtheory.returns import discounted_return, returns_to_go
from pgtheory.softmax_policy import SoftmaxPolicy, entropy, softmax_policy
from pgtheory.training._arguments import check_learner
from pgtheory.training._configuration import of_source
from pgtheory.training._episodes import Episodes, checked_mode, sample_episodes
from pgtheory.training._resumable import Resumable
from pgtheory.trajectories import Trajectories, at_steps, sample_trajectories

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv


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


class Trainer(Resumable):
    r"""REINFORCE with any softmax policy, any `torch.optim` optimiser, on a `FiniteMDP` or a vector environment.

    An update draws a batch of whole episodes from the current policy, takes one step of the optimiser on
    `reinforce_loss` (minus the entropy bonus, plus the value loss), and appends a `Record` to `history`. A run can be
    interrupted, saved and loaded, and goes on the same, bit for bit: see `Resumable`.

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
        self.policy, self.source, self.optimizer = policy, source, optimizer
        check_learner(policy, optimizer, generator, {"baseline": baseline})
        self.gamma, self.horizon = _checks.check_gamma(gamma), _checks.check_count("horizon", horizon)
        self.batch_size = _checked_batch_size(source, policy, batch_size)
        self.entropy_weight = _checks.check_finite_number("entropy_weight", entropy_weight)
        self.discount_states = _checks.check_flag("discount_states", discount_states)
        self.bootstrap = _checks.check_flag("bootstrap", bootstrap)
        self.exact = _checks.check_flag("exact", exact) and isinstance(source, FiniteMDP)
        self.baseline = _checked_baseline(baseline)
        self.generator = torch.default_generator if generator is None else generator
        self.history: list[Record] = []
        if bootstrap and not isinstance(baseline, nn.Module):
            raise ValueError("bootstrap is True but baseline is not a module: there are no values to add")

    def run(self, n_updates: int, *, progress: bool = False) -> list[Record]:
        """Make `n_updates` updates and return their records; `progress` writes a line of text to stderr."""
        n_updates, progress = _checks.check_count("n_updates", n_updates), _checks.check_flag("progress", progress)
        for update in range(n_updates):
            self.update()
            if progress:
                print(_progress_line(update + 1, n_updates, self.history[-1]), end="\r", file=sys.stderr, flush=True)
        if progress:
            print(file=sys.stderr)
        return self.history[-n_updates:]

    def update(self) -> Record:
        """Draw a batch of episodes, take one step of the optimiser, and return the record: wholly, or not at all."""
        return self._whole(self._learn)

    def _learn(self) -> Record:
        episodes, exact = self._draw(), self._performance()
        log_probs, entropies = self._log_probs_and_entropies(episodes)
        self.policy.zero_grad()  # also what the optimiser does not move
        self.optimizer.zero_grad()
        self._loss(episodes, log_probs, entropies).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad.double().norm() for p in self.policy.parameters() if p.grad is not None]
        self.optimizer.step()
        mask, rewards = episodes.mask, episodes.rewards
        self.history.append(
            Record(
                episodes=self.batch_size * (len(self.history) + 1),
                mean_return=float(discounted_return(rewards, self.gamma, mask=mask).mean()),
                total_reward=float(discounted_return(rewards, 1.0, mask=mask).mean()),
                length=float(mask.sum(-1).double().mean()),
                truncated=float(episodes.truncated.double().mean()),
                entropy=float(entropies.detach()[mask].double().mean()),
                gradient_norm=float(torch.stack(gradients).norm()),
                performance=exact,
            )
        )
        return self.history[-1]

    def _modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy} | ({"baseline": self.baseline} if isinstance(self.baseline, nn.Module) else {})

    def _record(self, row: tuple[Any, ...]) -> Record:
        return Record(*row)

    def _settings(self) -> dict[str, Any]:
        baseline = self.baseline
        if isinstance(baseline, nn.Module):
            described: dict[str, Any] = {}  # it is among the modules
        else:
            described = {"baseline": baseline if baseline is None or isinstance(baseline, str) else float(baseline)}
        return {
            "gamma": self.gamma,
            "horizon": self.horizon,
            "batch_size": self.batch_size,
            "entropy_weight": self.entropy_weight,
            "discount_states": bool(self.discount_states),
            "bootstrap": bool(self.bootstrap),
            **described,
            **of_source("source", self.source),
        }

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


def _checked_baseline(baseline: Any) -> float | nn.Module | str | None:
    if baseline is None or isinstance(baseline, nn.Module):
        return baseline
    if not isinstance(baseline, str):
        return _checks.check_finite_number("baseline", baseline)
    if baseline != "leave_one_out":
        raise ValueError(f"baseline is {baseline!r}, expected a number, a module or 'leave_one_out'")
    return baseline


def _checked_batch_size(source: Any, policy: SoftmaxPolicy, batch_size: int | None) -> int:
    if isinstance(source, FiniteMDP):
        check_states(source, policy)
        if batch_size is None:
            raise ValueError("batch_size is None: a FiniteMDP needs to know how many episodes to draw")
        return _checks.check_count("batch_size", batch_size)
    checked_mode(source, policy, "source")
    if batch_size is not None and _checks.check_count("batch_size", batch_size) != source.num_envs:
        raise ValueError(f"batch_size is {batch_size}, but the source has {source.num_envs} sub-environments")
    return int(source.num_envs)


def _progress_line(done: int, total: int, record: Record) -> str:
    return f"update {done:>{len(str(total))}}/{total}  return {record.mean_return:9.4g}  entropy {record.entropy:.3f} "
