"""`sample_trajectories` against a loop over `env.step` of Gymnasium, in steps per second."""

import torch

from benchmarks.harness import Case, Run
from pgtheory.gallery import garnet
from pgtheory.mdp import FiniteMDP, equiprobable_policy
from pgtheory.trajectories import sample_trajectories

N, HORIZON = 4096, 100
MEAN_LENGTH = 31.6  # of an episode of FrozenLake 8x8 under the equiprobable policy, cut off at the horizon
PEER_STEPS = 2_000


def frozen_lake() -> Run:
    mdp = FiniteMDP.from_gymnasium("FrozenLake8x8-v1")
    policy, generator = equiprobable_policy(mdp), torch.Generator().manual_seed(0)
    return lambda: sample_trajectories(mdp, policy, N, horizon=HORIZON, generator=generator)


def gymnasium_loop() -> Run:
    import gymnasium

    env = gymnasium.make("FrozenLake8x8-v1")
    actions = torch.randint(4, (PEER_STEPS,), generator=torch.Generator().manual_seed(0)).tolist()
    env.reset(seed=0)

    def run() -> None:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return run


def large_garnet() -> Run:
    mdp = garnet(100_000, 4, 5, stop_probability=0.01)
    policy, generator = equiprobable_policy(mdp), torch.Generator().manual_seed(0)
    return lambda: sample_trajectories(mdp, policy, N, horizon=HORIZON, generator=generator)


def cases() -> list[Case]:
    """FrozenLake 8x8, with a floor; a Garnet of 100,000 states, reported against the same peer."""
    return [
        Case(
            name=f"sample_trajectories, FrozenLake 8x8, {N:,} at once (per step)",
            candidate=frozen_lake,
            peer=gymnasium_loop,
            peer_name="gymnasium, env.step",
            floor=50.0,
            copy_bytes=N * HORIZON * 25,
            candidate_work=N * MEAN_LENGTH,
            peer_work=PEER_STEPS,
        ),
        Case(
            name=f"sample_trajectories, Garnet of 100,000 states, {N:,} at once (per step)",
            candidate=large_garnet,
            peer=gymnasium_loop,
            peer_name="gymnasium, env.step of FrozenLake",
            floor=None,
            copy_bytes=N * HORIZON * 25,
            candidate_work=N * 63.4,  # the mean of min(L, 100), where L is geometric with success probability 0.01
            peer_work=PEER_STEPS,
        ),
    ]
