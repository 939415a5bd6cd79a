"""The exact learning curve of a loss, against the recursion of one bandit by hand."""

import math

import pytest
import torch

from pgtheory.checking import learning_curve
from pgtheory.gallery import bandit
from pgtheory.policy_gradient import exact_policy_gradient


@pytest.mark.equation("eq-learning-curve")
def test_the_curve_of_two_arms_is_its_recursion_by_hand() -> None:
    # with p = σ(h₀ − h₁), J = p and ∂J/∂h₀ = −∂J/∂h₁ = p (1 − p): the difference d moves by 2 α p (1 − p)
    mdp, start, step_size = bandit([1.0, 0.0]), torch.zeros(2, 2, dtype=torch.float64), 0.7
    difference, expected = 0.0, []
    for _ in range(6):
        p = 1 / (1 + math.exp(-difference))
        expected.append(p)
        difference += 2 * step_size * p * (1 - p)
    curve = learning_curve(
        lambda h: -exact_policy_gradient(mdp, h, 1.0), mdp, start, 1.0, n_steps=5, step_size=step_size
    )
    assert curve.tolist() == pytest.approx(expected, abs=1e-14)
