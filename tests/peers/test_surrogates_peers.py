"""RLax's PPO: the same inputs, the same loss and gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pgtheory.surrogates import ppo_clip_loss

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


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
