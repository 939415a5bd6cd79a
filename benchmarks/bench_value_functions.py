"""`state_values` against QuantEcon's `DiscreteDP.evaluate_policy`.

The floor binds against the faster of QuantEcon's two forms on this problem: the dense one, because the sparse LU of a
random graph fills in. Both sides evaluate the same deterministic policy: QuantEcon knows no other.
"""

from functools import partial
from typing import Any

import torch

from benchmarks.harness import Case, Run
from pgtheory.gallery import garnet
from pgtheory.mdp import FiniteMDP
from pgtheory.value_functions import state_values

ACTIONS, BRANCHING, GAMMA = 4, 5, 0.99


def problem(n_states: int) -> tuple[FiniteMDP, torch.Tensor]:
    """A Garnet, and a random deterministic policy."""
    generator = torch.Generator().manual_seed(1)
    actions = torch.randint(0, ACTIONS, (n_states,), generator=generator)
    return garnet(n_states, ACTIONS, BRANCHING, seed=0), torch.eye(ACTIONS, dtype=torch.float64)[actions]


def ours(n_states: int) -> Run:
    mdp, policy = problem(n_states)
    return partial(state_values, mdp, policy, GAMMA)


def ours_with_gradient(n_states: int) -> Run:
    mdp, policy = problem(n_states)
    policy.requires_grad_()

    def run() -> torch.Tensor:
        (gradient,) = torch.autograd.grad(state_values(mdp, policy, GAMMA).sum(), policy)
        return gradient

    return run


def quantecon(n_states: int, *, sparse: bool) -> Run:
    from quantecon.markov import DiscreteDP
    from scipy.sparse import csr_matrix

    mdp, policy = problem(n_states)
    rewards, actions = mdp.expected_rewards().numpy(), policy.argmax(-1).numpy()
    if sparse:
        o = mdp.outcomes
        row = (o.state * ACTIONS + o.action).numpy()
        Q = csr_matrix((o.probability.numpy(), (row, o.next_state.numpy())), shape=(n_states * ACTIONS, n_states))
        pairs = torch.cartesian_prod(torch.arange(n_states), torch.arange(ACTIONS)).numpy()
        ddp: Any = DiscreteDP(rewards.reshape(-1), Q, GAMMA, pairs[:, 0], pairs[:, 1])
    else:
        ddp = DiscreteDP(rewards, mdp.transitions().numpy(), GAMMA)
    return partial(ddp.evaluate_policy, actions)


def agree(ours: object, theirs: object) -> None:
    assert isinstance(ours, torch.Tensor)
    scale = ours.abs().max().item()
    torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=0, atol=1e-10 * scale)


def cases() -> list[Case]:
    """The floor is at 4,000 states; a copy is one of the outcomes' indices and probabilities."""
    found = []
    for n_states, sparse, floor in ((1_000, False, None), (4_000, False, 10.0), (4_000, True, None)):
        copy_bytes = n_states * ACTIONS * BRANCHING * 16
        name = f"state_values, Garnet of {n_states:,} states"
        peer = f"DiscreteDP.evaluate_policy ({'sparse' if sparse else 'dense'})"
        them = partial(quantecon, n_states, sparse=sparse)
        found.append(Case(name, partial(ours, n_states), them, peer, floor, copy_bytes, agree=agree))
    name = "state_values with its gradient, Garnet of 4,000 states"
    them = partial(quantecon, 4_000, sparse=False)
    copy_bytes = 4_000 * ACTIONS * BRANCHING * 16
    found.append(
        Case(name, partial(ours_with_gradient, 4_000), them, "evaluate_policy (dense), no gradient", None, copy_bytes)
    )
    return found
