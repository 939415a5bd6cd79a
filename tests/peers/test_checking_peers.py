"""Implementations of well-kept libraries pass their checks: no false verdict.

Where a library keeps a formula inside a training loop, the loop itself runs, on a stand-in for the trainer. CleanRL's
scripts are no library; their lines are written anew here, in the same form.
"""

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import Tensor

from pgtheory.checking import (
    check_advantages,
    check_grpo,
    check_kl,
    check_mdp,
    check_policy_gradient,
    check_ppo,
    check_returns,
    check_softmax,
    check_top_k,
    check_top_p,
)

# --- Hugging Face ---


def test_transformers_truncations_are_right_as_class_instance_and_function() -> None:
    process = pytest.importorskip("transformers.generation.logits_process")
    assert check_top_k(process.TopKLogitsWarper)
    assert check_top_k(process.TopKLogitsWarper(top_k=2))
    assert check_top_k(lambda logits, k: process.TopKLogitsWarper(top_k=k)(None, logits))
    assert check_top_p(process.TopPLogitsWarper)
    assert check_top_p(process.TopPLogitsWarper(top_p=0.75))
    assert check_top_p(lambda logits, p: process.TopPLogitsWarper(top_p=p)(None, logits))


def test_transformers_applies_the_temperature_before_the_nucleus() -> None:
    process = pytest.importorskip("transformers.generation.logits_process")

    def decode(logits: Tensor, p: float, temperature: float) -> Tensor:
        return process.TopPLogitsWarper(p)(None, process.TemperatureLogitsWarper(temperature)(None, logits))

    assert check_top_p(decode)


# --- TRL ---


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize("scale", ["std", "none"])
def test_trls_grpo_losses_are_right(loss_type: str, scale: str, trl_loss: Any) -> None:
    def loss(log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, *, mask: Tensor) -> Tensor:
        return trl_loss(
            log_probs,
            old_log_probs,
            rewards,
            mask,
            log_probs.detach(),
            clip=(0.2, 0.2),
            loss_type=loss_type,
            scale=scale,
        )

    report = check_grpo(loss)
    assert report.ok, report


def test_trls_grpo_loss_with_a_penalty_is_right(trl_loss: Any) -> None:
    def loss(
        log_probs: Tensor, old: Tensor, rewards: Tensor, mask: Tensor, ref_log_probs: Tensor, beta: float
    ) -> Tensor:
        return trl_loss(log_probs, old, rewards, mask, ref_log_probs, clip=(0.2, 0.2), loss_type="grpo", beta=beta)

    report = check_grpo(loss)
    assert report.ok, report


def test_trls_sequence_level_ratio_is_right(trl_loss: Any) -> None:
    def loss(log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, *, mask: Tensor) -> Tensor:
        level = {"loss_type": "grpo", "importance_sampling_level": "sequence"}
        return trl_loss(log_probs, old_log_probs, rewards, mask, log_probs.detach(), clip=(0.2, 0.2), **level)

    report = check_grpo(loss)
    assert report.ok, report


# --- RLax: the gradient comes from JAX, so the loss handed in is the linear one with this gradient ---


def with_slopes(log_probs: Tensor, slopes: Any) -> Tensor:
    return (log_probs * torch.as_tensor(np.array(slopes)).to(log_probs)).sum()


def test_rlaxs_returns_are_right() -> None:
    rlax = pytest.importorskip("rlax")
    report = check_returns(lambda rewards, gamma: rlax.discounted_returns(rewards, 0 * rewards + gamma, 0 * rewards))
    assert report.ok, report


def test_rlaxs_advantages_are_right() -> None:
    rlax = pytest.importorskip("rlax")
    report = check_advantages(rlax.truncated_generalized_advantage_estimation)
    assert report.ok, report


def test_rlaxs_policy_gradient_loss_is_right_for_the_return_of_an_episode() -> None:
    rlax, jax = pytest.importorskip("rlax"), pytest.importorskip("jax")

    def loss(logits: Tensor, actions: Tensor, rewards: Tensor, gamma: float, mask: Tensor) -> Tensor:
        steps = gamma ** np.arange(rewards.shape[1])
        togo = (rewards.numpy() * steps)[:, ::-1].cumsum(1)[:, ::-1]
        weights = jax.numpy.asarray(togo * mask.numpy() * rewards.shape[1])  # their loss is a mean over the steps

        def total(x: Any) -> Any:
            losses = jax.vmap(rlax.policy_gradient_loss)(x, actions.numpy(), weights, jax.numpy.ones(rewards.shape))
            return losses.mean()

        return with_slopes(logits, jax.grad(total)(jax.numpy.asarray(logits.detach().numpy())))

    report = check_policy_gradient(loss)
    assert report.ok, report


def test_rlaxs_clipped_surrogate_is_right() -> None:
    rlax, jax = pytest.importorskip("rlax"), pytest.importorskip("jax")

    def loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float) -> Tensor:
        old, weights = (jax.numpy.asarray(x.numpy()).ravel() for x in (old_log_probs, advantages))

        def value(x: Any) -> Any:
            return rlax.clipped_surrogate_pg_loss(jax.numpy.exp(x.ravel() - old), weights, clip)

        return with_slopes(log_probs, jax.grad(value)(jax.numpy.asarray(log_probs.detach().numpy())))

    report = check_ppo(loss)
    assert report.ok, report


# --- torchrl ---


def test_torchrls_returns_are_right() -> None:
    functional = pytest.importorskip("torchrl.objectives.value.functional")

    def returns(rewards: Tensor, dones: Tensor, gamma: float) -> Tensor:
        return functional.reward2go(rewards[..., None], dones[..., None], gamma)[..., 0]

    report = check_returns(returns, layout="[B, T]")
    assert report.ok, report


@pytest.mark.parametrize("name", ["generalized_advantage_estimate", "vec_generalized_advantage_estimate"])
def test_torchrls_advantages_are_right(name: str) -> None:
    functional = pytest.importorskip("torchrl.objectives.value.functional")
    estimate = getattr(functional, name)

    def advantages(
        rewards: Tensor, values: Tensor, next_values: Tensor, gamma: float, lam: float, terminated: Any, truncated: Any
    ) -> Tensor:
        columns = (x[..., None] for x in (values, next_values, rewards, terminated | truncated, terminated))
        return estimate(gamma, lam, *columns)[0][..., 0]

    report = check_advantages(advantages, layout="[B, T]")
    assert report.ok, report


def test_torchrls_ppo_loss_is_right() -> None:
    objectives, modules = pytest.importorskip("torchrl.objectives"), pytest.importorskip("torchrl.modules")
    tensordict = pytest.importorskip("tensordict")
    nn = pytest.importorskip("tensordict.nn")

    def loss(logits: Tensor, actions: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float) -> Tensor:
        logits_module = nn.TensorDictModule(torch.nn.Identity(), in_keys=["observation"], out_keys=["logits"])
        actor = modules.ProbabilisticActor(
            logits_module,
            in_keys=["logits"],
            distribution_class=torch.distributions.Categorical,
            return_log_prob=True,
        )
        critic = modules.ValueOperator(torch.nn.Linear(logits.shape[-1], 1, dtype=logits.dtype))
        objective = objectives.ClipPPOLoss(actor, critic, clip_epsilon=clip, entropy_bonus=False, critic_coeff=None)
        batch = {
            "observation": logits.flatten(0, -2),
            "action": actions.flatten(),
            "action_log_prob": old_log_probs.flatten(),
            "sample_log_prob": old_log_probs.flatten(),
            "advantage": advantages.reshape(-1, 1),
            "value_target": torch.zeros_like(advantages).reshape(-1, 1),
        }
        return objective(tensordict.TensorDict(batch, [actions.numel()]))["loss_objective"]

    report = check_ppo(loss)
    assert report.ok, report


# --- Stable-Baselines3 ---


def test_stable_baselines_advantages_are_right() -> None:
    buffers, spaces = pytest.importorskip("stable_baselines3.common.buffers"), pytest.importorskip("gymnasium").spaces

    def advantages(
        rewards: np.ndarray[Any, Any],
        values: np.ndarray[Any, Any],
        episode_starts: np.ndarray[Any, Any],
        last_values: np.ndarray[Any, Any],
        dones: np.ndarray[Any, Any],
        gamma: float,
        lam: float,
    ) -> Any:
        space = spaces.Discrete(1)
        buffer = buffers.RolloutBuffer(
            len(rewards), space, space, "cpu", gae_lambda=lam, gamma=gamma, n_envs=rewards.shape[1]
        )
        buffer.rewards, buffer.values, buffer.episode_starts = rewards, values, episode_starts
        buffer.compute_returns_and_advantage(torch.as_tensor(last_values), np.asarray(dones))
        return buffer.advantages, buffer.returns

    report = check_advantages(advantages, layout="numpy [T, B]")
    assert report.ok, report


@pytest.mark.parametrize("normalize", [False, True])
def test_stable_baselines_ppo_loss_is_right(normalize: bool) -> None:
    ppo = pytest.importorskip("stable_baselines3").PPO

    def loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float) -> Tensor:
        leaf = log_probs.detach().clone().requires_grad_()
        flat = SimpleNamespace(
            observations=None,
            actions=None,
            old_log_prob=old_log_probs.flatten(),
            advantages=advantages.flatten(),
            old_values=torch.zeros(leaf.numel()),
            returns=torch.zeros(leaf.numel()),
        )
        trainer = MagicMock()
        trainer.clip_range, trainer.clip_range_vf = (lambda _: clip), None
        trainer.n_epochs, trainer.target_kl, trainer.ent_coef, trainer.vf_coef = 1, None, 0.0, 0.0
        trainer.normalize_advantage, trainer.max_grad_norm = normalize, 1e9
        trainer.rollout_buffer.get = lambda _: [flat]
        trainer.rollout_buffer.values = trainer.rollout_buffer.returns = np.zeros(3)
        trainer.policy.evaluate_actions = lambda *_: (torch.zeros(leaf.numel()), leaf.flatten(), torch.zeros(1))
        del trainer.policy.log_std  # it would be logged
        trainer.policy.parameters = lambda: [torch.nn.Parameter(torch.zeros(1))]
        ppo.train(trainer)
        return with_slopes(log_probs, leaf.grad)

    report = check_ppo(loss)
    assert report.ok, report
    assert any("standardise" in remark or "normalise" in remark for remark in report.remarks) == normalize


# --- CleanRL's form ---


def test_cleanrls_advantages_are_right() -> None:
    def advantages(
        rewards: Tensor,
        dones: Tensor,
        values: Tensor,
        next_value: Tensor,
        next_done: Tensor,
        gamma: float,
        gae_lambda: float,
    ) -> tuple[Tensor, Tensor]:
        advantages, last = torch.zeros_like(rewards), 0
        for t in reversed(range(len(rewards))):
            if t == len(rewards) - 1:
                alive, following = 1.0 - next_done.to(rewards), next_value
            else:
                alive, following = 1.0 - dones[t + 1].to(rewards), values[t + 1]
            delta = rewards[t] + gamma * following * alive - values[t]
            advantages[t] = last = delta + gamma * gae_lambda * alive * last
        return advantages, advantages + values

    report = check_advantages(advantages)
    assert report.ok, report


def test_cleanrls_ppo_loss_is_right() -> None:
    def loss(newlogprob: Tensor, b_logprobs: Tensor, mb_advantages: Tensor, clip_coef: float) -> Tensor:
        logratio = newlogprob - b_logprobs
        ratio = logratio.exp()
        mb_advantages = (mb_advantages - mb_advantages.mean()) / (mb_advantages.std() + 1e-8)
        pg_loss1 = -mb_advantages * ratio
        pg_loss2 = -mb_advantages * torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef)
        return torch.max(pg_loss1, pg_loss2).mean()

    report = check_ppo(loss)
    assert report.ok, report


# --- PyTorch, SciPy, Gymnasium ---


def test_the_softmax_of_pytorch_scipy_and_jax_is_right() -> None:
    special, jax = pytest.importorskip("scipy.special"), pytest.importorskip("jax")
    assert check_softmax(lambda logits: torch.softmax(logits, -1))
    assert check_softmax(lambda logits: torch.nn.functional.log_softmax(logits, dim=-1))
    assert check_softmax(lambda x: special.softmax(x, axis=-1))
    assert check_softmax(lambda x: jax.nn.softmax(x, axis=-1))


def test_the_divergence_of_torch_distributions_is_right() -> None:
    def exact(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
        pi, ref = (torch.distributions.Categorical(logits=x) for x in (log_probs, ref_log_probs))
        return torch.distributions.kl_divergence(pi, ref)

    names = {"log_probs": "whole_log_probs", "ref_log_probs": "whole_ref_log_probs"}
    report = check_kl(exact, names=names)
    assert report.ok, report


@pytest.mark.parametrize("name", ["FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "Taxi-v4"])
def test_gymnasiums_environments_are_right(name: str) -> None:
    pytest.importorskip("gymnasium")
    report = check_mdp(name)
    assert report.ok, report
