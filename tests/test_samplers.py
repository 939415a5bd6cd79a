"""Every sampler against its exact distribution, by a chi-square test whose errors of both kinds are computed here.

All seeds are fixed, so these tests give the same result each time. For other seeds: the chance that any of them fails
although all samplers are right is below one in a million, and a sampler that gives an event one per cent of the
probability too much (five per cent where every draw is a call of an environment) is found with a chance above 99.9 %.
`test_the_rate_of_false_alarms_and_the_power` computes both.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from helpers import F64, assert_same_up_to_rounding, seeded
from scipy.stats import chi2, ncx2
from torch import Tensor

from pgtheory import decoding
from pgtheory.groups import grpo_loss
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import exact_policy_gradient
from pgtheory.returns import returns_to_go
from pgtheory.softmax_policy import TabularPolicy, softmax_policy
from pgtheory.token_log_probs import token_log_probs
from pgtheory.training import sample_episodes, sample_rollout
from pgtheory.training._reinforce_runs import _one_episode_each
from pgtheory.training._surrogate_runs import _sample_runs
from pgtheory.trajectories import Trajectories, enumerate_trajectories, sample_trajectories

MANY, FEW, HORIZON = 400_000, 20_000, 2
SUITE = 1e-6  # the false alarms of all tests of this file together


class Sample(NamedTuple):
    """How often each event was drawn, and its exact probability."""

    counts: Tensor
    probabilities: Tensor


def world() -> tuple[FiniteMDP, Tensor]:
    """Two live states, an action that is missing in one, outcomes that share a next state but not a reward."""
    outcomes = [
        (0, 0, 0, 1.0, 0.25), (0, 0, 0, -1.0, 0.25), (0, 0, 1, 1.0, 0.3), (0, 0, 2, 0.0, 0.2),
        (0, 1, 1, 0.0, 1.0), (1, 0, 2, 1.0, 0.6), (1, 0, 0, 0.0, 0.4), (1, 2, 2, -1.0, 1.0), (0, 2, 2, 0.0, 1.0),
    ]  # fmt: skip
    mdp = FiniteMDP.from_outcomes(outcomes, n_states=3, n_actions=3, initial=[0.7, 0.3, 0.0], terminal=[2])
    return mdp, torch.tensor([[0.4, 0.0, -0.5], [0.2, 3.0, 0.3], [0.0, 0.0, 0.0]], dtype=F64)


def in_world(mdp: FiniteMDP, h: Tensor) -> Tensor:
    return softmax_policy(h, available=mdp.available)


def of_trajectories(drawn: Trajectories, mdp: FiniteMDP, policy: Tensor) -> Sample:
    """Which of the trajectories that can be enumerated each one is; one that cannot happen is an error."""
    exact, probabilities = enumerate_trajectories(mdp, policy, horizon=HORIZON)

    def rows(some: Trajectories) -> Tensor:
        reward = torch.searchsorted(mdp.rewards, some.rewards)
        columns = some.states, some.actions, torch.where(some.mask, reward, -1), some.mask, some.terminated[:, None]
        return torch.cat([column.long() for column in columns], 1)

    n = len(probabilities)
    _, place = torch.unique(torch.cat([rows(exact), rows(drawn)]), dim=0, return_inverse=True)
    assert place.max() < n, "a trajectory was drawn that cannot happen"
    counts = torch.bincount(place[n:], minlength=n)[place[:n]]
    return Sample(counts, probabilities)


def padded(drawn: Trajectories) -> Trajectories:
    """The same with `HORIZON` columns."""
    extra = HORIZON - drawn.mask.shape[1]
    if extra == 0:
        return drawn
    states = torch.cat([drawn.states, drawn.states[:, -1:].expand(-1, extra)], 1)
    actions, rewards, mask = (torch.nn.functional.pad(x, (0, extra)) for x in drawn[1:4])
    return Trajectories(states, actions, rewards, mask, *drawn[4:])


def trajectories() -> Sample:
    mdp, h = world()
    policy = in_world(mdp, h)
    return of_trajectories(sample_trajectories(mdp, policy, MANY, horizon=HORIZON, generator=seeded(1)), mdp, policy)


def runs_of_reinforce() -> Sample:
    mdp, h = world()
    mdp = FiniteMDP.from_outcomes(  # these runs need every action everywhere
        [*zip(*(x.tolist() for x in (mdp.outcomes.state, mdp.outcomes.action, mdp.outcomes.next_state)),
              mdp.rewards[mdp.outcomes.reward_index].tolist(), mdp.outcomes.probability.tolist(), strict=True),
         (1, 1, 0, 1.0, 0.5), (1, 1, 1, 1.0, 0.5)],
        n_states=3, n_actions=3, initial=mdp.initial, terminal=mdp.terminal,
    )  # fmt: skip
    features = torch.eye(9, dtype=F64).view(3, 3, 9)
    theta, going = h.flatten().expand(MANY, 9), torch.ones(MANY, dtype=torch.bool)
    drawn = _one_episode_each(mdp, features, theta, going, HORIZON, seeded(2))
    return of_trajectories(padded(drawn), mdp, in_world(mdp, h))


def runs_of_ppo() -> Sample:
    mdp, h = world()
    drawn = _sample_runs(mdp, h.expand(2, 3, 3), MANY // 2, HORIZON, seeded(3))
    states, actions, rewards, mask, terminated = (x.flatten(0, 1) for x in drawn)
    flat = padded(Trajectories(states, actions, rewards, mask, terminated, ~terminated))
    return of_trajectories(flat, mdp, in_world(mdp, h))


def tokens() -> Sample:
    p = torch.tensor([0.3, 0.0, 0.05, 0.25, 0.4], dtype=F64)
    drawn = decoding.sample(p.log().expand(MANY, 5), generator=seeded(4))
    return Sample(torch.bincount(drawn, minlength=5), p)


def tokens_by_noise() -> Sample:
    p = torch.tensor([0.3, 0.0, 0.05, 0.25, 0.4], dtype=F64)
    drawn = decoding.gumbel_max(p.log().expand(MANY, 5), generator=seeded(10))
    return Sample(torch.bincount(drawn, minlength=5), p)


def decoded_tokens() -> Sample:
    # Squares of 4, 3, 2, 1: 16, 9, 4, 1. The three largest have 29; the first two have 25/29 of them, less than 0.9.
    logits = torch.tensor([1.0, 4.0, 2.0, 3.0], dtype=F64).log()
    drawn = decoding.decode(logits.expand(MANY, 4), temperature=0.5, top_k=3, top_p=0.9, generator=seeded(5))
    return Sample(torch.bincount(drawn, minlength=4), torch.tensor([0.0, 16.0, 4.0, 9.0], dtype=F64) / 29)


def actions_of_a_policy() -> Sample:
    mdp, h = world()
    policy = TabularPolicy.from_preferences(h, available=mdp.available)
    states = torch.arange(MANY) % 2
    drawn = policy.sample(states, generator=seeded(6))
    exact = torch.stack(
        [row.exp() * a / (row.exp() * a).sum() for row, a in zip(h[:2], mdp.available[:2], strict=True)]
    )
    return Sample(torch.bincount(states * 3 + drawn, minlength=6), exact.flatten() / 2)


def start_states() -> Sample:
    mdp, h = world()
    drawn = sample_trajectories(mdp, in_world(mdp, h), MANY, horizon=1, generator=seeded(7)).states[:, 0]
    return Sample(torch.bincount(drawn, minlength=3), mdp.initial)


def episodes_of_environments() -> Sample:
    mdp, h = world()
    policy, envs = TabularPolicy.from_preferences(h), SyncVectorEnv([mdp.to_gymnasium] * FEW)
    drawn = sample_episodes(envs, policy, horizon=HORIZON, generator=seeded(8))
    return of_trajectories(padded(Trajectories(*drawn[:6])), mdp, in_world(mdp, h))


SAMPLERS: dict[str, tuple[Callable[[], Sample], float]] = {
    "trajectories": (trajectories, 0.01),
    "start states": (start_states, 0.01),
    "runs of REINFORCE": (runs_of_reinforce, 0.01),
    "runs of PPO": (runs_of_ppo, 0.01),
    "tokens": (tokens, 0.01),
    "tokens by noise": (tokens_by_noise, 0.01),
    "decoded tokens": (decoded_tokens, 0.01),
    "actions of a policy": (actions_of_a_policy, 0.01),
    "episodes of environments": (episodes_of_environments, 0.05),
}
ALPHA = SUITE / (2 * len(SAMPLERS))  # half of what is allowed, for the error of the chi-square approximation


@cache
def sampled(name: str) -> Sample:
    return SAMPLERS[name][0]()


def cells(sample: Sample) -> Sample:
    """Events that are expected less than 25 times are one event together, so that the approximation holds."""
    n = int(sample.counts.sum())
    rare = (sample.probabilities * n < 25) & (sample.probabilities > 0)
    kept = ~rare & (sample.probabilities > 0)
    counts, p = (torch.cat([x[kept].double(), x[rare].double().sum()[None]]) for x in sample)
    return Sample(counts[p > 0], p[p > 0])


def statistic(sample: Sample) -> float:
    expected = sample.probabilities * sample.counts.sum()
    return float(((sample.counts - expected).square() / expected).sum())


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_draws_from_its_exact_distribution(name: str) -> None:
    sample = sampled(name)
    assert sample.counts[sample.probabilities == 0].sum() == 0
    some = cells(sample)
    assert chi2.sf(statistic(some), len(some.counts) - 1) > ALPHA


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_rate_of_false_alarms_and_the_power(name: str) -> None:
    some, (_, fault) = cells(sampled(name)), SAMPLERS[name]
    n, df = float(some.counts.sum()), len(some.counts) - 1
    assert abs(float(some.probabilities.sum()) - 1) < 1e-9
    assert ALPHA * len(SAMPLERS) < SUITE
    limit = chi2.isf(ALPHA, df)
    # The likeliest event loses `fault` to the next: the statistic then has a non-central distribution.
    order = some.probabilities.argsort(descending=True)[:2]
    wrong = some.probabilities.clone()
    wrong[order] += fault * torch.tensor([-1.0, 1.0], dtype=F64)
    distance = n * float(((wrong - some.probabilities).square() / some.probabilities).sum())
    assert ncx2.sf(limit, df, distance) > 0.999
    # And so it is: what was drawn is found not to be from the wrong distribution.
    assert statistic(Sample(some.counts, wrong)) > limit


@pytest.mark.parametrize("name", [name for name in SAMPLERS if "environments" not in name])  # test_training has those
def test_the_same_seed_draws_the_same_and_leaves_the_global_generator_alone(name: str) -> None:
    torch.manual_seed(17)
    before = torch.get_rng_state()
    assert torch.equal(SAMPLERS[name][0]().counts, sampled(name).counts)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_rollout_is_decided_by_its_generator() -> None:
    import gymnasium

    from pgtheory.softmax_policy import NeuralPolicy

    envs, policy = gymnasium.make_vec("CartPole-v1", num_envs=2), NeuralPolicy(4, 2, generator=seeded())
    first, again = (sample_rollout(envs, policy, n_steps=30, generator=seeded(3)) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


def test_the_number_of_threads_changes_roundings_and_no_more() -> None:
    """The sums of large tensors are cut into other pieces: up to 64 roundings of the largest entry."""
    mdp, h = world()
    draw = seeded(9)
    rewards = torch.randn(64, 5000, generator=draw, dtype=F64)
    logits = torch.randn(64, 20_000, generator=draw, dtype=F64)
    log_probs = torch.randn(8, 8, 4000, generator=draw, dtype=F64) / 100
    chosen, mask = torch.arange(64) * 7, log_probs > -0.02
    scores = torch.randn(8, 8, generator=draw, dtype=F64)
    routes: list[Callable[[], Tensor]] = [
        lambda: returns_to_go(rewards, 0.99),
        lambda: token_log_probs(logits, chosen),
        lambda: grpo_loss(log_probs, 0.9 * log_probs, scores, mask=mask),
        lambda: exact_policy_gradient(mdp, h, 0.9),
    ]
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            found.append([route() for route in routes])
            assert all(torch.equal(x, route()) for x, route in zip(found[-1], routes, strict=True))
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(*found, strict=True):
        assert_same_up_to_rounding(three, one, ulps=64)
