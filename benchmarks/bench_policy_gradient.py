"""`exact_policy_gradient` on sparse MDPs, against automatic differentiation of the performance.

Both need two sparse solves; the peer also keeps the graph. The claim is the absolute time: the exact gradient of an MDP
with 100,000 states in seconds.
"""

from functools import partial

import torch

from benchmarks.harness import Case, Run
from pgtheory.gallery import garnet
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import exact_policy_gradient, performance
from pgtheory.softmax_policy import softmax_policy

ACTIONS, BRANCHING, GAMMA = 4, 5, 0.99


def problem(n_states: int) -> tuple[FiniteMDP, torch.Tensor]:
    """A Garnet, and random preferences."""
    generator = torch.Generator().manual_seed(1)
    preferences = torch.randn(n_states, ACTIONS, generator=generator, dtype=torch.float64)
    return garnet(n_states, ACTIONS, BRANCHING, seed=0), preferences


def ours(n_states: int) -> Run:
    mdp, preferences = problem(n_states)
    return partial(exact_policy_gradient, mdp, preferences, GAMMA)


def autograd(n_states: int) -> Run:
    mdp, preferences = problem(n_states)
    preferences.requires_grad_()

    def run() -> torch.Tensor:
        value = performance(mdp, softmax_policy(preferences, available=mdp.available), GAMMA)
        return torch.autograd.grad(value, preferences)[0]

    return run


def agree(gradient: object, other: object) -> None:
    """Raise unless the two gradients are one."""
    assert isinstance(gradient, torch.Tensor)
    assert isinstance(other, torch.Tensor)
    assert (gradient - other).abs().max() <= 1e-9 * gradient.abs().max()


def cases() -> list[Case]:
    """A copy is one of the outcomes' indices and probabilities."""
    found = []
    for n_states in (4_000, 100_000):
        name = f"exact_policy_gradient, Garnet of {n_states:,} states"
        us, them = partial(ours, n_states), partial(autograd, n_states)
        copy_bytes = n_states * ACTIONS * BRANCHING * 16
        found.append(Case(name, us, them, "autograd of the performance", None, copy_bytes, agree=agree))
    return found
