"""`sample_trajectories` against Gymnasium, for one step: one environment, and its vector of environments."""

from functools import partial
from typing import Any

import torch

from benchmarks.case import DEVICE, Case, Claim, Run, seeded
from pgtheory.mdp import FiniteMDP, equiprobable_policy
from pgtheory.trajectories import sample_trajectories

HORIZON = 100
ENVIRONMENTS = {"FrozenLake 8×8": "FrozenLake8x8-v1", "CliffWalking": "CliffWalking-v1", "Taxi": "Taxi-v4"}
SINGLE, VECTOR = "Gymnasium, env.step", "Gymnasium, SyncVectorEnv"
STEPS, VECTOR_STEPS = 2_000, 100
NUMBERS = [4**k for k in range(1, 9)]


def sampler(name: str, n: int) -> Run:
    mdp = FiniteMDP.from_gymnasium(name).to(device=DEVICE)
    return partial(sample_trajectories, mdp, equiprobable_policy(mdp), n, horizon=HORIZON, generator=seeded())


def mean_steps(name: str, n: int) -> float:
    """Steps of one call on average: the exact mean length of an episode, cut off at the horizon, times n."""
    mdp = FiniteMDP.from_gymnasium(name)
    P = torch.einsum("sa,sax->sx", equiprobable_policy(mdp), mdp.transitions())
    at, length = mdp.initial.clone(), 0.0
    for _ in range(HORIZON):
        alive = torch.where(mdp.terminal, 0.0, at)
        length += float(alive.sum())
        at = alive @ P
    return n * length


def single(name: str) -> Run:
    import gymnasium

    env = gymnasium.make(name)
    n_actions = int(env.action_space.n)  # type: ignore[attr-defined]
    actions = torch.randint(n_actions, (STEPS,), generator=torch.Generator().manual_seed(0)).tolist()
    env.reset(seed=0)

    def run() -> None:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return run


def vector(name: str, n: int) -> Run:
    import gymnasium

    envs: Any = gymnasium.make_vec(name, num_envs=n, vectorization_mode="sync")
    n_actions = int(envs.single_action_space.n)
    actions = torch.randint(n_actions, (VECTOR_STEPS, n), generator=torch.Generator().manual_seed(0)).numpy()
    envs.reset(seed=0)

    def run() -> None:
        for a in actions:
            envs.step(a)

    return run


def case(label: str, n: int) -> Case:
    name = ENVIRONMENTS[label]
    return Case(
        f"sample_trajectories, {label}, {n:,} at once (one step)",
        partial(sampler, name, n),
        {SINGLE: partial(single, name), VECTOR: partial(vector, name, 64)},
        (Claim("fastest", 100.0, floor=70.0) if n > 64 else Claim("fastest", 10.0, floor=5.0),),
        work=f"sample_trajectories, {n:,}",
        units=lambda: {"ours": mean_steps(name, n), SINGLE: STEPS, VECTOR: 64 * VECTOR_STEPS},
        plain=True,
        rounds=25,
        decisive=label == "FrozenLake 8×8",
        memory=n > 64,
    )


def growth(n: int) -> Case:
    name = "FrozenLake8x8-v1"
    return Case(
        f"sample_trajectories, FrozenLake 8×8, growth, {n:,} at once",
        partial(sampler, name, n),
        {SINGLE: partial(single, name)},
        units=lambda: {SINGLE: STEPS / mean_steps(name, n)},  # as many steps as ours
        plain=True,
        threads=(2,),
        rounds=10,
        series=("sample_trajectories, FrozenLake 8×8", "N", n),
    )


def cases() -> list[Case]:
    return [*(case(label, n) for label in ENVIRONMENTS for n in (64, 4096)), *map(growth, NUMBERS)]
