"""TRL's GRPO losses: the same inputs, the same loss and gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pgtheory.groups import group_advantages, grpo_loss

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
