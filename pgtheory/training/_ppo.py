"""PPO on a Gymnasium vector environment."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgtheory import _checks, _ratios
from pgtheory._precision import wide
from pgtheory.advantages import generalized_advantages
from pgtheory.softmax_policy import SoftmaxPolicy
from pgtheory.surrogates import importance_ratios, kl_estimate, ppo_clip_loss
from pgtheory.training._arguments import check_fits, check_learner
from pgtheory.training._configuration import of_source
from pgtheory.training._episodes import Rollout, check_envs, drawn_seed, replay, sample_rollout
from pgtheory.training._resumable import Resumable, check_keys, copied

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

NOT_REPRODUCED = (
    "the environments are not where they were, after the same actions from the same seed: new episodes begin, and the "
    "run is not the one that was interrupted"
)


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


class PPOTrainer(Resumable):
    r"""PPO with generalized advantages, on a Gymnasium vector environment.

    An update draws a rollout, and makes `n_epochs` passes over its steps in random minibatches, each a step of the
    optimiser on `ppo_clip_loss` + `value_weight` · value loss - `entropy_weight` · entropy, :eq:`eq-ppo-total`, with
    the norm of the gradient limited to `max_norm`. The factor :math:`\gamma^t` is dropped, as in all of practice.

    A run can be interrupted, saved and loaded, and goes on the same, bit for bit: see `Resumable`. Environments cannot
    be copied, so the episodes under way are brought back by playing all actions of the run again, from the same seed,
    when an update follows an interruption or a `load`: that takes as long as the environments took. Environments that
    their seed does not decide begin new episodes instead, with a warning.

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
        clip: float | tuple[float, float] = 0.2,
        n_epochs: int = 4,
        n_minibatches: int = 4,
        normalize: bool = True,
        value_weight: float = 0.5,
        entropy_weight: float = 0.0,
        max_norm: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> None:
        check_envs(envs)
        check_fits("envs", envs, policy)
        _checks.check_instance("critic", critic, nn.Module)
        check_learner(policy, optimizer, generator, {"critic": critic})
        self.policy, self.critic, self.envs, self.optimizer = policy, critic, envs, optimizer
        self.gamma, self.lam = _checks.check_gamma(gamma), _checks.check_unit_interval("lam", lam)
        self.clip, self.normalize = _ratios.checked_clip(clip), _checks.check_flag("normalize", normalize)
        self.n_steps = _checks.check_count("n_steps", n_steps)
        self.n_epochs = _checks.check_count("n_epochs", n_epochs)
        self.n_minibatches = _checks.check_count("n_minibatches", n_minibatches)
        self.value_weight = _checks.check_not_negative("value_weight", value_weight)
        self.entropy_weight = _checks.check_finite_number("entropy_weight", entropy_weight)
        self.max_norm = _checks.check_real("max_norm", max_norm)
        if not self.max_norm >= 0.0:
            raise ValueError(f"max_norm must be at least 0, not {self.max_norm}")
        self.generator = torch.default_generator if generator is None else generator
        self.history: list[PPORecord] = []
        # The episodes under way: the seed of the environments, all actions since, the last step, what was earned.
        # Replaced as a whole, never changed in place.
        self._underway: dict[str, Any] | None = None
        self._in_step = False  # whether the environments stand where `_underway` says

    def run(self, n_updates: int) -> list[PPORecord]:
        """Make `n_updates` updates and return their records."""
        n_updates = _checks.check_count("n_updates", n_updates)
        return [self.update() for _ in range(n_updates)]

    def update(self) -> PPORecord:
        """Draw a rollout, go over it `n_epochs` times, and return the record: wholly, or not at all."""
        record = self._whole(self._learn)
        self._in_step = True
        return record

    def _learn(self) -> PPORecord:
        self._bring_back()
        seed, rollout = self._drawn()
        mask = rollout.mask
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
                total_reward=self._follow(seed, rollout),
                clipped=float(((ratio < 1 - low) | (ratio > 1 + high)).double().mean()),
                kl=float(kl_estimate(steps[2], log_probs).mean()),
            )
        )
        return self.history[-1]

    def _bring_back(self) -> None:
        """Environments cannot be copied: where an update was stopped or a state loaded, play all actions again."""
        if self._underway is not None and not self._in_step:
            reached = replay(self.envs, self._underway["seed"], self._underway["actions"])
            expected = self._underway["last"]["next_states"][:, -1]
            if not torch.equal(torch.as_tensor(reached).to(expected.dtype), expected):
                warnings.warn(NOT_REPRODUCED, RuntimeWarning, stacklevel=4)
                self._underway = None
        self._in_step = False

    def _drawn(self) -> tuple[int, Rollout]:
        """The seed of the environments, and a rollout that continues the last one."""
        if self._underway is None:
            after, same = None, torch.Generator(self.generator.device).set_state(self.generator.get_state())
            seed = drawn_seed(same)
        else:
            after, seed = Rollout(**self._underway["last"]), self._underway["seed"]
        return seed, sample_rollout(self.envs, self.policy, n_steps=self.n_steps, after=after, generator=self.generator)

    def _follow(self, seed: int, rollout: Rollout) -> float:
        """Note where the environments stand after a rollout; the mean total reward of the episodes that ended in it."""
        actions = rollout.actions.to(torch.uint8 if self.policy.n_actions <= 256 else torch.int64)
        earned = torch.zeros(len(actions), dtype=torch.float64)
        if self._underway is not None:
            actions, earned = torch.cat([self._underway["actions"], actions], 1), self._underway["earned"]
        mean, earned = _total_reward(rollout, earned)
        last = {name: column[:, -1:].clone() for name, column in rollout._asdict().items()}
        self._underway = {"seed": seed, "actions": actions, "last": last, "earned": earned}
        return mean

    def _modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy, "critic": self.critic}

    def _record(self, row: tuple[Any, ...]) -> PPORecord:
        return PPORecord(*row)

    def _settings(self) -> dict[str, Any]:
        names = "gamma", "lam", "n_steps", "n_epochs", "n_minibatches", "value_weight", "entropy_weight", "max_norm"
        return {
            **{name: getattr(self, name) for name in names},
            "clip": tuple(self.clip),
            "normalize": bool(self.normalize),
            **of_source("envs", self.envs),
        }

    def _snapshot(self) -> dict[str, Any]:
        return {**super()._snapshot(), "environments": self._underway}

    def _assign(self, state: dict[str, Any]) -> None:
        self._in_step = False
        super()._assign(state)
        self._underway = copied(state["environments"])

    def _check_state(self, state: Any) -> None:
        super()._check_state(state)
        if (underway := state["environments"]) is not None:
            _check_underway(underway, self.envs.num_envs, self.policy.n_actions)

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
            centred = wide(advantages) - wide(advantages).mean()
            advantages = (centred / (centred.std() + 1e-8)).to(advantages.dtype)
        log_probs, log_policy = self._log_policy(states, actions)
        errors = targets - self.critic(states).squeeze(-1)
        entropy = -(wide(log_policy).exp() * wide(log_policy)).sum(-1).mean()
        surrogate = ppo_clip_loss(log_probs, old, advantages, clip=self.clip)
        self.optimizer.zero_grad()
        loss = surrogate + self.value_weight * wide(errors).square().mean() / 2 - self.entropy_weight * entropy
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], self.max_norm)
        self.optimizer.step()


def _total_reward(rollout: Rollout, earned: Float[Tensor, "N"]) -> tuple[float, Float[Tensor, "N"]]:
    """The mean total reward of the episodes that ended, also of earlier steps, and what the others have so far."""
    total = earned.unsqueeze(-1) + rollout.rewards.double().cumsum(-1)
    spent, totals = torch.zeros_like(earned), []
    for n, t in (rollout.terminated | rollout.truncated).nonzero().tolist():
        totals.append(float(total[n, t] - spent[n]))
        spent[n] = total[n, t]
    return sum(totals) / len(totals) if totals else math.nan, total[:, -1] - spent


def _check_underway(value: Any, n_envs: int, n_actions: int) -> None:
    """Raise `ValueError` unless the environments can be brought back by it."""
    check_keys("environments", value, dict.fromkeys(("seed", "actions", "last", "earned")))
    check_keys("environments.last", value["last"], dict.fromkeys(Rollout._fields))
    rows = {len(x) for x in (value["actions"], value["earned"], *value["last"].values())}
    if rows != {n_envs}:
        raise ValueError(f"environments has {sorted(rows)} rows, expected {n_envs}")
    if not 0 <= value["seed"] < 2**31 or value["actions"].max() >= n_actions:
        raise ValueError("environments has a seed or an action that is out of range")
