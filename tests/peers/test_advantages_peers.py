"""RLax's and torchrl's GAE: the same inputs, the same advantages."""

import math

import pytest
import torch
from torch import Tensor

from pgtheory.advantages import generalized_advantages

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


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
