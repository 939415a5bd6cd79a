"""Public functions of other libraries and what each is checked for: the rows of the page *Verdicts*.

Where a library keeps a formula inside a training loop, the loop itself runs, on a stand-in for the trainer.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from peers.trl_stand_in import trl_loss
from torch import Tensor

from pgtheory.checking import (
    Report,
    check_advantages,
    check_entropy,
    check_grpo,
    check_kl,
    check_lambda_returns,
    check_log_probs,
    check_mdp,
    check_n_step,
    check_overlong_penalty,
    check_policy_gradient,
    check_ppo,
    check_returns,
    check_softmax,
    check_top_k,
    check_top_p,
    check_v_trace,
)


class Peer(NamedTuple):
    """A public function of a library, and how it is checked."""

    library: str
    function: str
    report: Callable[[], Report]


PEERS: list[Peer] = []


def peer(library: str, function: str, *arguments: Any) -> Callable[[Callable[..., Report]], Callable[..., Report]]:
    """Enter a function, with the arguments of what checks it."""

    def entered(report: Callable[..., Report]) -> Callable[..., Report]:
        PEERS.append(Peer(library, function, partial(report, *arguments)))
        return report

    return entered


# --- Hugging Face ---


def processors() -> Any:
    return pytest.importorskip("transformers.generation.logits_process")


@peer("transformers", "TopKLogitsWarper")
def top_k_class() -> Report:
    return check_top_k(processors().TopKLogitsWarper)


@peer("transformers", "TopKLogitsWarper(top_k=2)")
def top_k_instance() -> Report:
    return check_top_k(processors().TopKLogitsWarper(top_k=2))


@peer("transformers", "TopPLogitsWarper")
def top_p_class() -> Report:
    return check_top_p(processors().TopPLogitsWarper)


@peer("transformers", "TopPLogitsWarper(top_p=0.75)")
def top_p_instance() -> Report:
    return check_top_p(processors().TopPLogitsWarper(top_p=0.75))


@peer("transformers", "TemperatureLogitsWarper, TopPLogitsWarper")
def temperature_and_top_p() -> Report:
    process = processors()

    def decode(logits: Tensor, p: float, temperature: float) -> Tensor:
        return process.TopPLogitsWarper(p)(None, process.TemperatureLogitsWarper(temperature)(None, logits))

    return check_top_p(decode)


# --- TRL ---


for kind in ("grpo", "bnpo", "dr_grpo", "dapo"):
    for scale in ("std", "none"):

        @peer("trl", f"GRPOTrainer, loss_type={kind}, scale_rewards={scale}", kind, scale)
        def grpo_loss(kind: str, scale: str) -> Report:
            def loss(log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, *, mask: Tensor) -> Tensor:
                given = (log_probs, old_log_probs, rewards, mask, log_probs.detach())
                return trl_loss(*given, clip=(0.2, 0.2), loss_type=kind, scale=scale)

            return check_grpo(loss)


@peer("trl", "GRPOTrainer, loss_type=grpo, beta")
def grpo_loss_with_a_penalty() -> Report:
    def loss(
        log_probs: Tensor, old: Tensor, rewards: Tensor, mask: Tensor, ref_log_probs: Tensor, beta: float
    ) -> Tensor:
        return trl_loss(log_probs, old, rewards, mask, ref_log_probs, clip=(0.2, 0.2), loss_type="grpo", beta=beta)

    return check_grpo(loss)


@peer("trl", "GRPOTrainer, importance_sampling_level=sequence")
def grpo_loss_of_sequences() -> Report:
    def loss(log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, *, mask: Tensor) -> Tensor:
        level = {"loss_type": "grpo", "importance_sampling_level": "sequence"}
        return trl_loss(log_probs, old_log_probs, rewards, mask, log_probs.detach(), clip=(0.2, 0.2), **level)

    return check_grpo(loss)


@peer("trl", "selective_log_softmax")
def selective_log_softmax() -> Report:
    return check_log_probs(pytest.importorskip("trl.trainer.utils").selective_log_softmax, names={"index": "tokens"})


@peer("trl", "entropy_from_logits")
def entropy_from_logits() -> Report:
    function = pytest.importorskip("trl.trainer.utils").entropy_from_logits
    return check_entropy(call=lambda x: function(x.logits))


@peer("trl", "get_soft_overlong_punishment")
def soft_overlong_punishment() -> Report:
    made = pytest.importorskip("trl.rewards").get_soft_overlong_punishment
    return check_overlong_penalty(call=lambda x: made(x.max_length, x.buffer)(x.completion_ids))


# --- RLax: the gradient comes from JAX, so the loss handed in is the linear one with this gradient ---


def with_slopes(log_probs: Tensor, slopes: Any) -> Tensor:
    return (log_probs * torch.as_tensor(np.array(slopes)).to(log_probs)).sum()


@peer("rlax", "discounted_returns")
def rlax_returns() -> Report:
    rlax = pytest.importorskip("rlax")
    return check_returns(lambda rewards, gamma: rlax.discounted_returns(rewards, 0 * rewards + gamma, 0 * rewards))


def by_rows(function: Callable[..., Any], *columns: Tensor) -> Tensor:
    """What a function of JAX answers for each row."""
    return torch.as_tensor(
        np.stack([np.array(function(*(x.numpy() for x in row))) for row in zip(*columns, strict=True)])
    )


@peer("rlax", "lambda_returns")
def rlax_lambda_returns() -> Report:
    rlax = pytest.importorskip("rlax")

    def returns(x: Any) -> Tensor:
        discounts = x.gamma * (~x.terminated).double()
        return by_rows(lambda r, g, v: rlax.lambda_returns(r, g, v, x.lam), x.rewards, discounts, x.next_values)

    return check_lambda_returns(call=returns)


@peer("rlax", "n_step_bootstrapped_returns")
def rlax_n_step_returns() -> Report:
    rlax = pytest.importorskip("rlax")

    def returns(x: Any) -> Tensor:
        discounts = x.gamma * (~x.terminated).double()
        return by_rows(
            lambda r, g, v: rlax.n_step_bootstrapped_returns(r, g, v, x.n), x.rewards, discounts, x.next_values
        )

    return check_n_step(call=returns)


@peer("rlax", "truncated_generalized_advantage_estimation")
def rlax_advantages() -> Report:
    return check_advantages(pytest.importorskip("rlax").truncated_generalized_advantage_estimation)


@peer("rlax", "policy_gradient_loss")
def rlax_policy_gradient_loss() -> Report:
    rlax, jax = pytest.importorskip("rlax"), pytest.importorskip("jax")

    def loss(logits: Tensor, actions: Tensor, rewards: Tensor, gamma: float, mask: Tensor) -> Tensor:
        steps = gamma ** np.arange(rewards.shape[1])
        togo = (rewards.numpy() * steps)[:, ::-1].cumsum(1)[:, ::-1]
        weights = jax.numpy.asarray(togo * mask.numpy() * rewards.shape[1])  # their loss is a mean over the steps

        def total(x: Any) -> Any:
            losses = jax.vmap(rlax.policy_gradient_loss)(x, actions.numpy(), weights, jax.numpy.ones(rewards.shape))
            return losses.mean()

        return with_slopes(logits, jax.grad(total)(jax.numpy.asarray(logits.detach().numpy())))

    return check_policy_gradient(loss)


@peer("rlax", "clipped_surrogate_pg_loss")
def rlax_clipped_loss() -> Report:
    rlax, jax = pytest.importorskip("rlax"), pytest.importorskip("jax")

    def loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float) -> Tensor:
        old, weights = (jax.numpy.asarray(x.numpy()).ravel() for x in (old_log_probs, advantages))

        def value(x: Any) -> Any:
            return rlax.clipped_surrogate_pg_loss(jax.numpy.exp(x.ravel() - old), weights, clip)

        return with_slopes(log_probs, jax.grad(value)(jax.numpy.asarray(log_probs.detach().numpy())))

    return check_ppo(loss)


# --- torchrl ---


@peer("torchrl", "reward2go")
def torchrl_returns() -> Report:
    functional = pytest.importorskip("torchrl.objectives.value.functional")

    def returns(rewards: Tensor, dones: Tensor, gamma: float) -> Tensor:
        return functional.reward2go(rewards[..., None], dones[..., None], gamma)[..., 0]

    return check_returns(returns, layout="[B, T]")


@peer("torchrl", "vec_generalized_advantage_estimate", "vec_generalized_advantage_estimate")
@peer("torchrl", "generalized_advantage_estimate", "generalized_advantage_estimate")
def torchrl_advantages(name: str) -> Report:
    functional = pytest.importorskip("torchrl.objectives.value.functional")
    estimate = getattr(functional, name)

    def advantages(
        rewards: Tensor, values: Tensor, next_values: Tensor, gamma: float, lam: float, terminated: Any, truncated: Any
    ) -> Tensor:
        columns = (x[..., None] for x in (values, next_values, rewards, terminated | truncated, terminated))
        return estimate(gamma, lam, *columns)[0][..., 0]

    return check_advantages(advantages, layout="[B, T]")


@peer("torchrl", "vec_td_lambda_return_estimate", "vec_td_lambda_return_estimate")
@peer("torchrl", "td_lambda_return_estimate", "td_lambda_return_estimate")
def torchrl_lambda_returns(name: str) -> Report:
    estimate = getattr(pytest.importorskip("torchrl.objectives.value.functional"), name)

    def returns(x: Any) -> Tensor:
        columns = (y[..., None] for y in (x.next_values, x.rewards, x.terminated, x.terminated))
        return estimate(x.gamma, x.lam, *columns)[..., 0]

    return check_lambda_returns(call=returns)


@peer("torchrl", "vtrace_advantage_estimate")
def torchrl_v_trace() -> Report:
    estimate = pytest.importorskip("torchrl.objectives.value.functional").vtrace_advantage_estimate

    def advantages_and_targets(x: Any) -> tuple[Tensor, Tensor]:
        ends = x.terminated | x.truncated
        given = (x.log_probs, x.old_log_probs, x.values, x.next_values, x.rewards, ends, x.terminated)
        columns = (y[..., None] for y in given)
        advantages, targets = estimate(x.gamma, *columns, rho_thresh=x.rho_bar, c_thresh=x.c_bar)
        return advantages[..., 0], targets[..., 0]

    return check_v_trace(call=advantages_and_targets)


@peer("torchrl", "ClipPPOLoss")
def torchrl_ppo_loss() -> Report:
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

    return check_ppo(loss)


# --- skrl ---


@peer("skrl", "compute_gae, no truncations")
def skrl_advantages() -> Report:
    ppo = pytest.importorskip("skrl.agents.torch.ppo.ppo")

    def advantages(
        rewards: Tensor, values: Tensor, last_values: Tensor, dones: Tensor, gamma: float, lam: float
    ) -> Tensor:
        flags = {"terminated": dones.bool(), "truncated": torch.zeros_like(dones) > 0}
        given = {"rewards": rewards, "values": values, "last_values": last_values}
        returns, _ = ppo.compute_gae(**given, **flags, discount_factor=gamma, lambda_coefficient=lam)
        result: Tensor = returns - values  # the others are standardised
        return result

    return check_advantages(advantages, layout="torch [T, B]")


# --- tianshou ---


@peer("tianshou", "BasePolicy.compute_episodic_return")
def tianshou_advantages() -> Report:
    policy, data = pytest.importorskip("tianshou.policy"), pytest.importorskip("tianshou.data")

    def row(
        rewards: Any, values: Any, next_values: Any, terminated: Any, truncated: Any, gamma: float, lam: float
    ) -> Any:
        n, done = len(rewards), terminated | truncated
        flags = {"terminated": terminated, "truncated": truncated, "done": done}
        buffer = data.ReplayBuffer.from_data(*[np.zeros(n)] * 2, rewards, *flags.values(), np.zeros(n))
        batch = data.Batch(rew=rewards, **flags)
        estimate = policy.BasePolicy.compute_episodic_return
        return estimate(batch, buffer, np.arange(n), next_values, values, gamma, lam)[1]

    return check_advantages(row, layout="numpy [T]")


# --- Stable-Baselines3 ---


@peer("stable-baselines3", "RolloutBuffer.compute_returns_and_advantage")
def stable_baselines_advantages() -> Report:
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

    return check_advantages(advantages, layout="numpy [T, B]")


@peer("stable-baselines3", "PPO, normalize_advantage=True", True)
@peer("stable-baselines3", "PPO, normalize_advantage=False", False)
def stable_baselines_ppo_loss(normalize: bool) -> Report:
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

    return check_ppo(loss)


# --- PyTorch, SciPy, JAX, Gymnasium ---


@peer("torch", "softmax")
def torch_softmax() -> Report:
    return check_softmax(lambda logits: torch.softmax(logits, -1))


@peer("torch", "nn.functional.log_softmax")
def torch_log_softmax() -> Report:
    return check_softmax(lambda logits: torch.nn.functional.log_softmax(logits, dim=-1))


@peer("torch", "distributions.Categorical.entropy")
def torch_entropy() -> Report:
    return check_entropy(lambda logits: torch.distributions.Categorical(logits=logits).entropy())


@peer("torch", "distributions.Categorical.log_prob")
def torch_log_prob() -> Report:
    return check_log_probs(
        call=lambda x: torch.distributions.Categorical(logits=x.logits / x.temperature).log_prob(x.tokens)
    )


@peer("torch", "distributions.kl_divergence")
def torch_divergence() -> Report:
    def exact(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
        pi, ref = (torch.distributions.Categorical(logits=x) for x in (log_probs, ref_log_probs))
        return torch.distributions.kl_divergence(pi, ref)

    names = {"log_probs": "whole_log_probs", "ref_log_probs": "whole_ref_log_probs"}
    return check_kl(exact, names=names)


@peer("scipy", "special.softmax")
def scipy_softmax() -> Report:
    special = pytest.importorskip("scipy.special")
    return check_softmax(lambda x: special.softmax(x, axis=-1))


@peer("scipy", "stats.entropy")
def scipy_entropy() -> Report:
    stats = pytest.importorskip("scipy.stats")
    return check_entropy(lambda probs: stats.entropy(probs, axis=-1), layout="numpy")


@peer("jax", "nn.softmax")
def jax_softmax() -> Report:
    jax = pytest.importorskip("jax")
    return check_softmax(lambda x: jax.nn.softmax(x, axis=-1))


@peer("gymnasium", "Taxi-v4", "Taxi-v4")
@peer("gymnasium", "CliffWalking-v1", "CliffWalking-v1")
@peer("gymnasium", "FrozenLake8x8-v1", "FrozenLake8x8-v1")
@peer("gymnasium", "FrozenLake-v1", "FrozenLake-v1")
def environment(name: str) -> Report:
    pytest.importorskip("gymnasium")
    return check_mdp(name)
