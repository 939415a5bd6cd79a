"""PPO on a Gymnasium vector environment."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from pgtheory import _checks, _ratios
from pgtheory.advantages import generalized_advantages
from pgtheory.softmax_policy import SoftmaxPolicy
from pgtheory.surrogates import Clip, importance_ratios, kl_estimate, ppo_clip_loss
from pgtheory.training._episodes import Rollout, check_envs, sample_rollout

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv


class PPORecord(NamedTuple):
    """What one update of a `PPOTrainer` saw.

    Attributes:
        steps: the number of environment steps so far.
        total_reward: the mean undiscounted reward of the episodes that ended in the rollout; NaN if none did.
        clipped: the fraction of steps whose ratio lay outside the clip range after the update.
        kl: the mean of `kl_estimate` k3 between the policies before and after the update.

    Example:
        >>> PPORecord(128, 20.0, 0.1, 0.01).steps
        128
    """

    steps: int
    total_reward: float
    clipped: float
    kl: float


class PPOTrainer:
    r"""PPO with generalized advantages, on a Gymnasium vector environment.

    An update draws a rollout, and makes `n_epochs` passes over its steps in random minibatches, each a step of the
    optimiser on `ppo_clip_loss` + `value_weight` · value loss - `entropy_weight` · entropy, with the norm of the
    gradient limited to `max_norm`. The factor :math:`\gamma^t` is dropped, as in all of practice.

    Args:
        policy: the policy; its parameters are changed in place.
        critic: a module from states to values `[..., 1]`.
        envs: the vector environment, in `NEXT_STEP` autoreset mode.
        gamma: the discount :math:`\gamma`.
        optimizer: an optimiser of the parameters of both.
        n_steps: the number of steps of each sub-environment in a rollout.
        lam: :math:`\lambda`.
        clip: as in `ppo_clip_loss`.
        n_epochs: the number of passes.
        n_minibatches: the number of minibatches in a pass.
        normalize: whether advantages are centred and divided by their standard deviation in each minibatch.
        value_weight: the weight of the value loss.
        entropy_weight: the weight of the entropy.
        max_norm: the largest norm of a gradient.
        generator: the source of all randomness; by default torch's own.

    Attributes:
        history: one `PPORecord` for each update.

    Raises:
        ValueError: a number is out of range; the autoreset mode is another one.
        TypeError: `envs` is not a vector environment.

    Source:
        Schulman et al., "Proximal Policy Optimization Algorithms", 2017, Algorithm 1; details as in Huang et al., "The
        37 Implementation Details of Proximal Policy Optimization", 2022.

    Example:
        >>> import gymnasium
        >>> from pgtheory.softmax_policy import NeuralPolicy
        >>> policy, critic = NeuralPolicy(4, 2), torch.nn.Linear(4, 1)
        >>> adam = torch.optim.Adam([*policy.parameters(), *critic.parameters()])
        >>> envs = gymnasium.make_vec("CartPole-v1", num_envs=4)
        >>> [record.steps for record in PPOTrainer(policy, critic, envs, 0.99, optimizer=adam, n_steps=1).run(2)]
        [4, 8]
    """

    def __init__(
        self,
        policy: SoftmaxPolicy,
        critic: nn.Module,
        envs: "VectorEnv[Any, Any, Any]",
        gamma: float,
        *,
        optimizer: torch.optim.Optimizer,
        n_steps: int = 128,
        lam: float = 0.95,
        clip: Clip = 0.2,
        n_epochs: int = 4,
        n_minibatches: int = 4,
        normalize: bool = True,
        value_weight: float = 0.5,
        entropy_weight: float = 0.0,
        max_norm: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> None:
        check_envs(envs)
        self.policy, self.critic, self.envs, self.optimizer = policy, critic, envs, optimizer
        self.gamma, self.lam = _checks.check_gamma(gamma), _checks.check_unit_interval("lam", lam)
        self.clip, self.normalize = _ratios.checked_clip(clip), normalize
        self.n_steps = _checks.check_count("n_steps", n_steps)
        self.n_epochs = _checks.check_count("n_epochs", n_epochs)
        self.n_minibatches = _checks.check_count("n_minibatches", n_minibatches)
        self.value_weight = _checks.check_real("value_weight", value_weight)
        self.entropy_weight = _checks.check_real("entropy_weight", entropy_weight)
        self.max_norm = _checks.check_real("max_norm", max_norm)
        self.generator = torch.default_generator if generator is None else generator
        self.history: list[PPORecord] = []
        self._rollout: Rollout | None = None
        self._earned = torch.zeros(envs.num_envs, dtype=torch.float64)

    def run(self, n_updates: int) -> list[PPORecord]:
        """Make `n_updates` updates and return their records."""
        n_updates = _checks.check_count("n_updates", n_updates)
        return [self.update() for _ in range(n_updates)]

    def update(self) -> PPORecord:
        """Draw a rollout, go over it `n_epochs` times, and return the record."""
        rollout = sample_rollout(
            self.envs, self.policy, n_steps=self.n_steps, after=self._rollout, generator=self.generator
        )
        self._rollout, mask = rollout, rollout.mask
        with torch.no_grad():
            advantages, targets = self._advantages_and_targets(rollout)
            old_log_probs = self._log_policy(rollout.states, rollout.actions)[0]
        steps = rollout.states[mask], rollout.actions[mask], old_log_probs[mask], advantages[mask], targets[mask]
        for _ in range(self.n_epochs):
            order = torch.randperm(len(steps[0]), generator=self.generator)
            for rows in order.chunk(self.n_minibatches):
                self._step(*(column[rows] for column in steps))
        with torch.no_grad():
            log_probs = self._log_policy(steps[0], steps[1])[0]
        ratio, (low, high) = importance_ratios(log_probs, steps[2]), self.clip
        self.history.append(
            PPORecord(
                steps=int(mask.sum()) + (self.history[-1].steps if self.history else 0),
                total_reward=self._total_reward(rollout),
                clipped=float(((ratio < 1 - low) | (ratio > 1 + high)).double().mean()),
                kl=float(kl_estimate(steps[2], log_probs).mean()),
            )
        )
        return self.history[-1]

    def _advantages_and_targets(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        values, next_values = (self.critic(s).squeeze(-1) for s in (rollout.states, rollout.next_states))
        advantages = generalized_advantages(
            rollout.rewards,
            values,
            next_values,
            self.gamma,
            self.lam,
            terminated=rollout.terminated,
            truncated=rollout.truncated,
            mask=rollout.mask,
        )
        return advantages, advantages + values

    def _log_policy(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The log-probabilities of the actions, and the whole rows that they were taken from."""
        log_policy = self.policy.log_probs(states)
        return log_policy.gather(-1, actions.unsqueeze(-1)).squeeze(-1), log_policy

    def _step(self, states: Tensor, actions: Tensor, old: Tensor, advantages: Tensor, targets: Tensor) -> None:
        if self.normalize and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_probs, log_policy = self._log_policy(states, actions)
        errors = targets - self.critic(states).squeeze(-1)
        entropy = -(log_policy.exp() * log_policy).sum(-1).mean()
        surrogate = ppo_clip_loss(log_probs, old, advantages, clip=self.clip)
        self.optimizer.zero_grad()
        loss = surrogate + self.value_weight * errors.square().mean() / 2 - self.entropy_weight * entropy
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], self.max_norm)
        self.optimizer.step()

    def _total_reward(self, rollout: Rollout) -> float:
        """The mean total reward of the episodes that ended, which may have begun in an earlier rollout."""
        earned = self._earned.unsqueeze(-1) + rollout.rewards.double().cumsum(-1)
        spent, totals = torch.zeros_like(self._earned), []
        for n, t in (rollout.terminated | rollout.truncated).nonzero().tolist():
            totals.append(float(earned[n, t] - spent[n]))
            spent[n] = earned[n, t]
        self._earned = earned[:, -1] - spent
        return sum(totals) / len(totals) if totals else math.nan
