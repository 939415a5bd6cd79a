"""Values against QuantEcon's `DiscreteDP`, an independent implementation."""

import numpy as np
import pytest
import torch
from helpers import seeded

from pgtheory import _linear, gallery
from pgtheory.mdp import FiniteMDP
from pgtheory.value_functions import (
    finite_horizon_optimal_values,
    greedy_policy,
    optimal_values,
    state_values,
)

markov = pytest.importorskip("quantecon.markov")

CONTINUING = {
    "gridworld": gallery.gridworld(),
    "garnet": gallery.garnet(200, 4, 5, seed=0),
    "dense garnet": gallery.garnet(30, 3, 30, seed=1),
    "robot": gallery.recycling_robot(),
    "4x4": gallery.gridworld_4x4(),
}


def discrete_dp(mdp: FiniteMDP, gamma: float) -> object:
    """The MDP as QuantEcon states it: −inf where an action is not available, terminal states as free self-loops."""
    available = torch.as_tensor(mdp.available)
    R = torch.where(available, mdp.expected_rewards(), -torch.inf)
    Q = mdp.transitions()
    R[mdp.terminal] = 0.0
    Q[mdp.terminal] = torch.eye(mdp.n_states, dtype=torch.float64)[mdp.terminal][:, None, :]
    Q[~available & ~mdp.terminal[:, None]] = 1.0 / mdp.n_states  # QuantEcon wants a distribution there too
    return markov.DiscreteDP(R.numpy(), Q.numpy(), gamma)


@pytest.mark.parametrize("threshold", [0, 600], ids=["sparse", "dense"])
@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", CONTINUING)
def test_values_of_a_deterministic_policy_are_quantecons(
    name: str, gamma: float, threshold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_linear, "DENSE_STATES", threshold)
    mdp = CONTINUING[name]
    noise = torch.randn(mdp.n_states, dtype=torch.float64, generator=seeded(0))
    policy = greedy_policy(mdp, noise, gamma)
    expected = discrete_dp(mdp, gamma).evaluate_policy(policy.argmax(-1).numpy())
    np.testing.assert_allclose(state_values(mdp, policy, gamma), expected, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", CONTINUING)
def test_optimal_values_are_quantecons(name: str, gamma: float) -> None:
    mdp = CONTINUING[name]
    expected = discrete_dp(mdp, gamma).solve(method="policy_iteration").v
    np.testing.assert_allclose(optimal_values(mdp, gamma), expected, atol=1e-10 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("name", CONTINUING)
def test_finite_horizon_optimum_is_quantecons_backward_induction(name: str) -> None:
    mdp = CONTINUING[name]
    expected, _ = markov.backward_induction(discrete_dp(mdp, 0.9), 7)
    values, _ = finite_horizon_optimal_values(mdp, 0.9, horizon=7)
    np.testing.assert_allclose(values, expected, atol=1e-12)


def test_garnet_of_4000_states_has_quantecons_values_by_its_sparse_form() -> None:
    from scipy.sparse import csr_matrix

    mdp, gamma = gallery.garnet(4000, 4, 5, seed=0), 0.99
    o = mdp.outcomes
    row = (o.state * 4 + o.action).numpy()
    Q = csr_matrix((o.probability.numpy(), (row, o.next_state.numpy())), shape=(16_000, 4000))
    s, a = np.divmod(np.arange(16_000), 4)
    ddp = markov.DiscreteDP(mdp.expected_rewards().numpy().reshape(-1), Q, gamma, s, a)
    actions = torch.randint(0, 4, (4000,), generator=seeded(0))
    policy = torch.eye(4, dtype=torch.float64)[actions]
    expected = ddp.evaluate_policy(actions.numpy())
    np.testing.assert_allclose(state_values(mdp, policy, gamma), expected, atol=1e-10 * np.abs(expected).max())
