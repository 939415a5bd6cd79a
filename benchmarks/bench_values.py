"""`state_values` against QuantEcon, `exact_policy_gradient` against automatic differentiation through solves."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import DEVICE, Case, Claim, Run, normal
from pgtheory.gallery import garnet
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import exact_policy_gradient, performance
from pgtheory.softmax_policy import softmax_policy
from pgtheory.value_functions import state_values

ACTIONS, BRANCHING, GAMMA = 4, 5, 0.99
STATES = [round(10 ** (k / 2)) for k in range(4, 13)]


def problem(n_states: int) -> tuple[FiniteMDP, Tensor]:
    """A Garnet, and a random deterministic policy: QuantEcon knows no other."""
    actions = torch.randint(0, ACTIONS, (n_states,), generator=torch.Generator().manual_seed(1))
    policy = torch.eye(ACTIONS, dtype=torch.float64)[actions]
    return garnet(n_states, ACTIONS, BRANCHING, seed=0).to(device=DEVICE), policy.to(DEVICE)


def values(n_states: int) -> Run:
    mdp, policy = problem(n_states)
    return partial(state_values, mdp, policy, GAMMA)


def values_of_many(n_states: int, n_policies: int) -> Run:
    mdp, _ = problem(n_states)
    policies = normal(n_policies, n_states, ACTIONS, dtype=torch.float64).softmax(-1)
    return partial(state_values, mdp, policies, GAMMA)


def quantecon(n_states: int, *, sparse: bool) -> Run:
    from quantecon.markov import DiscreteDP
    from scipy.sparse import csr_matrix

    mdp, policy = problem(n_states)
    rewards, actions = mdp.expected_rewards().numpy(), policy.argmax(-1).numpy()
    if sparse:
        o = mdp.outcomes
        row = (o.state * ACTIONS + o.action).numpy()
        shape = (n_states * ACTIONS, n_states)
        Q = csr_matrix((o.probability.numpy(), (row, o.next_state.numpy())), shape=shape)
        pairs = torch.cartesian_prod(torch.arange(n_states), torch.arange(ACTIONS)).numpy()
        problem_of_theirs: Any = DiscreteDP(rewards.reshape(-1), Q, GAMMA, pairs[:, 0], pairs[:, 1])
    else:
        problem_of_theirs = DiscreteDP(rewards, mdp.transitions().numpy(), GAMMA)
    return partial(problem_of_theirs.evaluate_policy, actions)


def solved(n_states: int) -> object:
    """The sparse system, solved by SciPy's LU and refined once."""
    from scipy.sparse import csc_matrix, identity
    from scipy.sparse.linalg import splu

    mdp, policy = problem(n_states)
    o = mdp.outcomes
    weight = o.probability * policy[o.state, o.action]
    P = csc_matrix((weight.numpy(), (o.state.numpy(), o.next_state.numpy())), shape=(n_states, n_states))
    A, b = (identity(n_states, format="csc") - GAMMA * P).tocsc(), (mdp.expected_rewards() * policy).sum(-1).numpy()
    factors = splu(A)
    v = factors.solve(b)
    return v + factors.solve(b - A @ v)


def preferences_of(n_states: int) -> Tensor:
    return normal(n_states, ACTIONS, seed=1, dtype=torch.float64)


def gradient(n_states: int) -> Run:
    return partial(exact_policy_gradient, problem(n_states)[0], preferences_of(n_states), GAMMA)


def through_our_solve(n_states: int) -> Run:
    mdp, h = problem(n_states)[0], preferences_of(n_states).requires_grad_()

    def run() -> Tensor:
        return torch.autograd.grad(performance(mdp, softmax_policy(h, available=mdp.available), GAMMA), h)[0]

    return run


def through_dense_solve(n_states: int) -> Run:
    """What a user writes: v = (I - γ P)⁻¹ r with `torch.linalg.solve`, and automatic differentiation through it."""
    mdp, h = problem(n_states)[0], preferences_of(n_states).requires_grad_()
    P, r, eye = mdp.transitions(), mdp.expected_rewards(), torch.eye(n_states, dtype=torch.float64, device=DEVICE)

    def run() -> Tensor:
        policy = h.softmax(-1)
        A = eye - GAMMA * torch.einsum("sa,sax->sx", policy, P)
        v = torch.linalg.solve(A, (policy * r).sum(-1))
        return torch.autograd.grad(mdp.initial @ v, h)[0]

    return run


def value_case(n_states: int) -> Case:
    peers = {"QuantEcon, dense": partial(quantecon, n_states, sparse=False)} if n_states <= 4_000 else {}
    peers |= {"QuantEcon, sparse": partial(quantecon, n_states, sparse=True)} if n_states <= 4_000 else {}
    claims = {1_000: (Claim("fastest", 1.0),), 4_000: (Claim("fastest", 10.0),), 100_000: (Claim("seconds", 2.0),)}
    return Case(
        f"state_values, Garnet of {n_states:,} states",
        partial(values, n_states),
        peers,
        claims[n_states],
        work=f"state_values, {n_states:,} states",
        copy_bytes=n_states * ACTIONS * BRANCHING * 16,
        plain=True,
        truth=partial(solved, n_states) if n_states <= 1_000 else None,
        rounds=20,
        decisive=n_states == 4_000,
    )


def many_case(n_states: int) -> Case:
    return Case(
        f"state_values, Garnet of {n_states:,} states, 64 policies",
        partial(values_of_many, n_states, 64),
        {"64 calls": partial(one_by_one, n_states)},
        (Claim("64 calls", 1.0),),
        work="state_values, 64 policies",
        plain=True,
        rounds=10,
    )


def one_by_one(n_states: int) -> Run:
    mdp, _ = problem(n_states)
    policies = normal(64, n_states, ACTIONS, dtype=torch.float64).softmax(-1)
    return lambda: [state_values(mdp, policy, GAMMA) for policy in policies]


def gradient_case(n_states: int) -> Case:
    peers = {"autograd, our solve": partial(through_our_solve, n_states)}
    claims: tuple[Claim, ...] = (Claim("autograd, our solve", 1.0, floor=0.7),)
    if n_states <= 4_000:
        peers["autograd, dense solve"] = partial(through_dense_solve, n_states)
        claims = (Claim("autograd, dense solve", 20.0), *claims)
    if n_states == 10**6:
        claims = (Claim("seconds", 60.0), Claim("memory", 8 * 2**30))
    return Case(
        f"exact_policy_gradient, Garnet of {n_states:,} states",
        partial(gradient, n_states),
        peers if n_states < 10**6 else {},
        claims,
        work=f"exact_policy_gradient, {n_states:,} states",
        plain=True,
        rounds=10 if n_states < 10**6 else 2,
        threads=(1, 2) if n_states < 10**6 else (2,),
        before=n_states < 10**6,
        decisive=n_states == 4_000,
        memory=n_states > 4_000,
    )


def growth(n_states: int) -> list[Case]:
    shared: dict[str, Any] = {"threads": (2,), "rounds": 6 if n_states < 10**5 else 2, "before": n_states < 10**5}
    few = n_states <= 3_200
    sides = (
        ("state_values", values, {"QuantEcon, dense": partial(quantecon, n_states, sparse=False)}),
        ("exact_policy_gradient", gradient, {"autograd, dense solve": partial(through_dense_solve, n_states)}),
    )
    return [
        Case(
            f"{name}, growth, {n_states:,} states",
            partial(mine, n_states),
            peers if few else {},
            series=(name, "S", n_states),
            **shared,
        )
        for name, mine, peers in sides
    ]


def cases() -> list[Case]:
    found = [value_case(n) for n in (1_000, 4_000, 100_000)] + [many_case(n) for n in (1_000, 4_000)]
    found += [gradient_case(n) for n in (4_000, 100_000, 10**6)]
    return found + [case for n in STATES for case in growth(n)]
