"""TRL's GRPO losses, RLax's PPO and GAE, torchrl's GAE: the same inputs, the same loss and gradient."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pgtheory.surrogates import generalized_advantages, group_advantages, grpo_loss, ppo_clip_loss

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("clip", [(0.2, 0.2), (0.2, 0.28)], ids=["clip", "clip-higher"])
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("variant", ["grpo", "dr_grpo", "dapo", "gspo"])
def test_group_losses_and_gradients_are_trls(
    variant: Any, beta: float, clip: tuple[float, float], trl_loss: Any
) -> None:
    log_probs = (0.4 * randn(3, 4, 5)).requires_grad_()
    old, ref, rewards = 0.4 * randn(3, 4, 5, seed=1), 0.4 * randn(3, 4, 5, seed=2), randn(3, 4, seed=3)
    lengths = torch.tensor([[5, 1, 2, 4], [3, 4, 1, 5], [2, 2, 5, 0]])
    mask = torch.arange(5) < lengths[..., None]
    level = (
        {"loss_type": "grpo", "importance_sampling_level": "sequence"} if variant == "gspo" else {"loss_type": variant}
    )
    theirs = trl_loss(log_probs, old, rewards, mask, ref, clip=clip, beta=beta, **level)
    ours = grpo_loss(log_probs, old, rewards, mask=mask, variant=variant, clip=clip, ref_log_probs=ref, beta=beta)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    slopes = [torch.autograd.grad(loss, log_probs)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*slopes, atol=1e-12, rtol=1e-12)


def test_equal_rewards_are_exactly_zero_here_and_a_rounding_error_over_epsilon_in_trls_formula(
    trl_advantages: Any,
) -> None:
    """Deliberately different: 0.1 three times has a mean that is not 0.1 in floating point."""
    rewards = torch.full((1, 3), 0.1, dtype=F64)
    assert group_advantages(rewards).tolist() == [[0.0] * 3]
    assert 0 < float(trl_advantages(rewards, "std").abs().max()) < 1e-10


def test_ppo_loss_and_gradient_are_rlaxs() -> None:
    rlax, jax = pytest.importorskip("rlax"), pytest.importorskip("jax")
    log_probs, old, advantages = (x.float() for x in 0.4 * randn(3, 64))
    leaf = log_probs.clone().requires_grad_()
    ours = ppo_clip_loss(leaf, old, advantages)
    (slope,) = torch.autograd.grad(ours, leaf)
    behind, weights = (jax.numpy.asarray(x.numpy()) for x in (old, advantages))

    def loss(x: Any) -> Any:
        return rlax.clipped_surrogate_pg_loss(jax.numpy.exp(x - behind), weights, 0.2)

    theirs, gradient = jax.value_and_grad(loss)(jax.numpy.asarray(log_probs.numpy()))
    assert float(ours.detach()) == pytest.approx(float(theirs), rel=1e-5)
    torch.testing.assert_close(slope, torch.tensor(gradient.tolist()), atol=1e-7, rtol=1e-5)


def test_generalized_advantages_are_rlaxs_where_discounts_are_zero_at_terminations() -> None:
    rlax, jax = pytest.importorskip("rlax"), pytest.importorskip("jax")
    rewards, values = (x.float() for x in randn(2, 33))
    terminated = torch.arange(32) % 7 == 6
    found = generalized_advantages(rewards[:-1], values[:-1], values[1:], 0.95, 0.9, terminated=terminated)
    discounts = torch.where(terminated, 0.0, 0.95)
    theirs = rlax.truncated_generalized_advantage_estimation(
        *(jax.numpy.asarray(x.numpy()) for x in (rewards[:-1], discounts)), 0.9, jax.numpy.asarray(values.numpy())
    )
    torch.testing.assert_close(found, torch.tensor(theirs.tolist()), atol=1e-5, rtol=1e-5)


def test_generalized_advantages_are_torchrls_terminations_and_truncations_included() -> None:
    functional = pytest.importorskip("torchrl.objectives.value.functional")
    gamma, lam = 0.9375, 0.875  # exact in float32, to which they round both
    rewards, values, next_values = randn(3, 4, 50)
    draw = torch.rand(4, 50, generator=torch.Generator().manual_seed(1))
    terminated, truncated = draw < 0.1, (draw >= 0.1) & (draw < 0.2)
    found = generalized_advantages(rewards, values, next_values, gamma, lam, terminated=terminated, truncated=truncated)
    last = [x[..., None] for x in (values, next_values, rewards, terminated | truncated, terminated)]
    # Their vectorised form leaves out powers of γλ that are small: it differs from their own loop in the seventh digit.
    for name, tolerance in (("generalized_advantage_estimate", 1e-12), ("vec_generalized_advantage_estimate", 1e-5)):
        theirs = getattr(functional, name)(gamma, lam, *last)[0][..., 0]
        torch.testing.assert_close(found, theirs, atol=tolerance, rtol=tolerance)


def test_a_step_that_is_both_is_an_error_here_and_a_termination_in_torchrl() -> None:
    """Deliberately different: the flags of one step exclude each other, so a caller has to decide."""
    functional = pytest.importorskip("torchrl.objectives.value.functional")
    one, yes = torch.ones(1, 1, 1, dtype=F64), torch.ones(1, 1, 1, dtype=torch.bool)
    theirs = functional.generalized_advantage_estimate(1.0, 1.0, one, 10 * one, one, yes, yes)[0]
    assert math.isclose(float(theirs), 0.0)
    flags = yes[..., 0]
    with pytest.raises(ValueError, match="both True"):
        generalized_advantages(one[..., 0], one[..., 0], one[..., 0], 1.0, 1.0, terminated=flags, truncated=flags)
