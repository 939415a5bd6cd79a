"""Every sampler against its exact distribution, by the binomial law of each count; both kinds of error are computed.

All seeds are fixed, so these tests give the same result each time. `chance.py` says for how many other seeds they would
fail although all samplers are right. A sampler that gives an event one per cent of the probability too much (five per
cent where every draw is a call of an environment, whose two parts are tested with one) is found with a chance above
99.9 %: `test_an_error_of_one_per_cent_is_seen` computes it.
"""

import inspect
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import chance
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from helpers import F64, assert_same_up_to_rounding, seeded
from scipy.stats import beta, binom, norm
from torch import Tensor

import pgtheory
from pgtheory import decoding, gallery
from pgtheory._gymnasium import _draw
from pgtheory.groups import grpo_loss
from pgtheory.language_models import sample_completions
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import exact_policy_gradient
from pgtheory.returns import returns_to_go
from pgtheory.softmax_policy import NeuralPolicy, TabularPolicy, softmax_policy
from pgtheory.tiny_gpt import sorting_prompts
from pgtheory.token_log_probs import token_log_probs
from pgtheory.training import sample_episodes, sample_rollout
from pgtheory.training._reinforce_runs import _one_episode_each
from pgtheory.training._surrogate_runs import _sample_runs
from pgtheory.trajectories import Trajectories, enumerate_trajectories, sample_trajectories

HORIZON = 2
# The least numbers of draws that see an error of one per cent: of a single event, of a trajectory of many; of five.
SIZES = {"single": 260_000, "trajectories": 160_000, "environments": 5_000}


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
    return of_trajectories(
        sample_trajectories(mdp, policy, SIZES["trajectories"], horizon=HORIZON, generator=seeded(1)), mdp, policy
    )


def everywhere() -> tuple[FiniteMDP, Tensor]:
    """The same with every action in both states."""
    mdp, h = world()
    columns = (x.tolist() for x in (mdp.outcomes.state, mdp.outcomes.action, mdp.outcomes.next_state))
    listed = zip(
        *columns, mdp.rewards[mdp.outcomes.reward_index].tolist(), mdp.outcomes.probability.tolist(), strict=True
    )
    more = [(1, 1, 0, 1.0, 0.5), (1, 1, 1, 1.0, 0.5)]
    whole = FiniteMDP.from_outcomes(
        [*listed, *more], n_states=3, n_actions=3, initial=mdp.initial, terminal=mdp.terminal
    )
    return whole, h


def runs_of_reinforce() -> Sample:
    (mdp, h), n = everywhere(), SIZES["trajectories"]
    features = torch.eye(9, dtype=F64).view(3, 3, 9)
    theta, going = h.flatten().expand(n, 9), torch.ones(n, dtype=torch.bool)
    drawn = _one_episode_each(mdp, features, theta, going, HORIZON, seeded(2))
    return of_trajectories(padded(drawn), mdp, in_world(mdp, h))


def runs_of_ppo() -> Sample:
    mdp, h = world()
    drawn = _sample_runs(mdp, h.expand(2, 3, 3), SIZES["trajectories"] // 2, HORIZON, seeded(3))
    states, actions, rewards, mask, terminated = (x.flatten(0, 1) for x in drawn)
    flat = padded(Trajectories(states, actions, rewards, mask, terminated, ~terminated))
    return of_trajectories(flat, mdp, in_world(mdp, h))


def tokens() -> Sample:
    p = torch.tensor([0.3, 0.0, 0.05, 0.25, 0.4], dtype=F64)
    drawn = decoding.sample(p.log().expand(SIZES["single"], 5), generator=seeded(4))
    return Sample(torch.bincount(drawn, minlength=5), p)


def tokens_by_noise() -> Sample:
    p = torch.tensor([0.3, 0.0, 0.05, 0.25, 0.4], dtype=F64)
    drawn = decoding.gumbel_max(p.log().expand(SIZES["single"], 5), generator=seeded(10))
    return Sample(torch.bincount(drawn, minlength=5), p)


def decoded_tokens() -> Sample:
    # Squares of 4, 3, 2, 1: 16, 9, 4, 1. The three largest have 29; the first two have 25/29 of them, less than 0.9.
    logits = torch.tensor([1.0, 4.0, 2.0, 3.0], dtype=F64).log()
    drawn = decoding.decode(logits.expand(SIZES["single"], 4), temperature=0.5, top_k=3, top_p=0.9, generator=seeded(5))
    return Sample(torch.bincount(drawn, minlength=4), torch.tensor([0.0, 16.0, 4.0, 9.0], dtype=F64) / 29)


def actions_of_a_policy() -> Sample:
    mdp, h = world()
    policy = TabularPolicy.from_preferences(h, available=mdp.available)
    states = torch.arange(SIZES["single"]) % 2
    drawn = policy.sample(states, generator=seeded(6))
    exact = torch.stack(
        [row.exp() * a / (row.exp() * a).sum() for row, a in zip(h[:2], mdp.available[:2], strict=True)]
    )
    return Sample(torch.bincount(states * 3 + drawn, minlength=6), exact.flatten() / 2)


def start_states() -> Sample:
    mdp, h = world()
    drawn = sample_trajectories(mdp, in_world(mdp, h), SIZES["single"], horizon=1, generator=seeded(7)).states[:, 0]
    return Sample(torch.bincount(drawn, minlength=3), mdp.initial)


def episodes_of_environments() -> Sample:
    mdp, h = world()
    policy, envs = TabularPolicy.from_preferences(h), SyncVectorEnv([mdp.to_gymnasium] * 200)
    draw = seeded(8)
    drawn = (
        sample_episodes(envs, policy, horizon=HORIZON, generator=draw) for _ in range(SIZES["environments"] // 200)
    )
    parts = [padded(Trajectories(*episodes[:6])) for episodes in drawn]
    return of_trajectories(Trajectories(*map(torch.cat, zip(*parts, strict=True))), mdp, in_world(mdp, h))


class OneHot(gymnasium.ObservationWrapper):  # type: ignore[misc]
    """Shows the state as a unit vector."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (3,))

    def observation(self, observation: int) -> Any:
        return np.eye(3, dtype=np.float32)[observation]


def rollouts_of_environments() -> Sample:
    """The first two steps of the first episodes of a rollout that goes through many resets."""
    mdp, h = everywhere()
    policy = NeuralPolicy(3, 3, hidden=(), dtype=F64)
    with torch.no_grad():
        next(policy.parameters()).copy_(h.T)  # the biases are 0
    n_envs, n_each = 50, SIZES["environments"] // 50
    envs = SyncVectorEnv([lambda: OneHot(mdp.to_gymnasium())] * n_envs)
    drawn = sample_rollout(envs, policy, n_steps=7 * n_each + 100, generator=seeded(11))
    states = torch.cat([drawn.states, drawn.next_states[:, -1:]], 1).argmax(-1)
    columns = []
    for i in range(n_envs):
        begins = (drawn.mask[i] & ~torch.nn.functional.pad(drawn.mask[i], (1, 0))[:-1]).nonzero()[:n_each, 0]
        assert len(begins) == n_each
        assert begins[-1] < drawn.mask.shape[1] - 1
        both = begins[:, None] + torch.arange(2)
        mask, over = drawn.mask[i][both], drawn.terminated[i][both].any(-1)
        last = torch.where(mask[:, 1], states[i][begins + 2], states[i][begins + 1])
        path = torch.cat([states[i][both], last[:, None]], 1)
        rewards, actions = drawn.rewards[i][both].where(mask, 0), drawn.actions[i][both].where(mask, 0)
        columns.append(Trajectories(path, actions, rewards, mask, over, ~over))
    together = Trajectories(*map(torch.cat, zip(*columns, strict=True)))
    return of_trajectories(together, mdp, in_world(mdp, h))


def outcomes_of_an_environment() -> Sample:
    p, draw = [0.03, 0.0, 0.93, 0.04], np.random.default_rng(13)
    drawn = [_draw(p, draw) for _ in range(SIZES["single"] // 4)]
    return Sample(torch.bincount(torch.tensor(drawn), minlength=4), torch.tensor(p, dtype=F64))


def completions() -> Sample:
    """The model looks at the last token alone; token 0 ends a completion, and ended ones are padded by 0."""
    rows = torch.tensor([[0.0, 0.0, 0.0], [0.5, 1.0, 0.2], [-0.3, 0.4, 0.9]], dtype=F64)

    def model(*, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return SimpleNamespace(logits=rows[input_ids])

    drawn = sample_completions(
        model, [torch.tensor([2])], SIZES["trajectories"], max_tokens=3, end=0, generator=seeded(14)
    )
    counts = torch.bincount((drawn.tokens[0] * torch.tensor([9, 3, 1])).sum(-1), minlength=27)
    p = rows.exp() / rows.exp().sum(-1, keepdim=True)
    p[0] = torch.tensor([1.0, 0.0, 0.0])
    return Sample(counts, torch.einsum("i,ij,jk->ijk", p[2], p, p).flatten())


def successors_of_a_garnet() -> Sample:
    drawn = gallery._distinct(SIZES["single"], 2, 4, seeded(15)).sort(-1).values
    pairs = (torch.arange(4)[:, None] < torch.arange(4)).flatten()
    return Sample(torch.bincount(4 * drawn[:, 0] + drawn[:, 1], minlength=16), pairs.double() / 6)


def in_tenths(values: Tensor, distribution: Any) -> Sample:
    """The counts between the tenths of a distribution."""
    edges = torch.tensor(distribution.ppf(np.arange(1, 10) / 10), dtype=F64)
    return Sample(
        torch.bincount(torch.bucketize(values.detach().contiguous(), edges), minlength=10),
        torch.full((10,), 0.1, dtype=F64),
    )


def pieces_of_a_garnet() -> Sample:
    # By symmetry any piece: the second of four has the density of the least of three uniform numbers.
    return in_tenths(gallery._random_partition(SIZES["single"], 4, seeded(16))[:, 1], beta(1, 3))


def first_preferences() -> Sample:
    policy = TabularPolicy(SIZES["single"] // 2, 2, init_std=0.5, generator=seeded(17), dtype=F64)
    return in_tenths(policy.theta.flatten(), norm(scale=0.5))


def digits_to_sort() -> Sample:
    drawn = sorting_prompts(SIZES["single"], n_digits=1, generator=seeded(18))
    return Sample(torch.bincount(drawn[:, 0], minlength=10), torch.full((10,), 0.1, dtype=F64))


SAMPLERS: dict[str, tuple[Callable[[], Sample], float]] = {
    "trajectories": (trajectories, 0.01),
    "start states": (start_states, 0.01),
    "runs of REINFORCE": (runs_of_reinforce, 0.01),
    "runs of PPO": (runs_of_ppo, 0.01),
    "tokens": (tokens, 0.01),
    "tokens by noise": (tokens_by_noise, 0.01),
    "decoded tokens": (decoded_tokens, 0.01),
    "completions": (completions, 0.01),
    "actions of a policy": (actions_of_a_policy, 0.01),
    "first preferences": (first_preferences, 0.01),
    "successors of a garnet": (successors_of_a_garnet, 0.01),
    "pieces of a garnet": (pieces_of_a_garnet, 0.01),
    "digits to sort": (digits_to_sort, 0.01),
    "outcomes of an environment": (outcomes_of_an_environment, 0.01),
    "episodes of environments": (episodes_of_environments, 0.05),
    "rollouts of environments": (rollouts_of_environments, 0.05),
}
# Whatever draws, and by which of these it is judged; or what it does with what they draw.
JUDGED = {
    "sample_trajectories": "trajectories, start states",
    "sample_episodes": "episodes of environments",
    "sample_rollout": "rollouts of environments",
    "reinforce_runs": "runs of REINFORCE",
    "surrogate_runs": "runs of PPO",
    "sample": "tokens",
    "gumbel_max": "tokens by noise",
    "decode": "decoded tokens",
    "sample_completions": "completions",
    "garnet": "successors of a garnet, pieces of a garnet",
    "sorting_prompts": "digits to sort",
    "Policy": "actions of a policy",
    "SoftmaxPolicy": "actions of a policy",
    "TabularPolicy": "actions of a policy, first preferences",
    "LinearPolicy": "actions of a policy, first preferences",
    "NeuralPolicy": "actions of a policy",
    "Trainer": "trajectories, episodes of environments",
    "PPOTrainer": "rollouts of environments",
}
FIRST_WEIGHTS_AND_BATCHES = {"TinyGPT", "pretrain"}  # nothing is claimed about their distribution


@cache
def sampled(name: str) -> Sample:
    return SAMPLERS[name][0]()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_draws_from_its_exact_distribution(name: str) -> None:
    counts, p = sampled(name)
    assert abs(float(p.sum()) - 1) < 1e-9
    chance.assert_counts(counts, p, int(counts.sum()), tests=len(SAMPLERS))


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_error_of_one_per_cent_is_seen(name: str) -> None:
    (counts, p), fault = sampled(name), SAMPLERS[name][1]
    n = int(counts.sum())
    # The likeliest event loses `fault` to the next one.
    first, second = p.argsort(descending=True)[:2]
    wrong = p.clone()
    wrong[first], wrong[second] = p[first] - fault, p[second] + fault
    low, high = (x[first] for x in chance.bounds(n, p, len(SAMPLERS) * len(p)))
    unseen = binom.cdf(high, n, float(wrong[first])) - binom.cdf(low - 1, n, float(wrong[first]))
    assert unseen < 1e-3
    # And so it is: what was drawn is found not to be from the wrong distribution.
    with pytest.raises(AssertionError):
        chance.assert_counts(counts, wrong, n, tests=len(SAMPLERS))


def test_every_function_that_takes_a_generator_is_judged() -> None:
    draws = {
        name
        for name, value in (vars(pgtheory) | vars(pgtheory.training)).items()
        if getattr(value, "__module__", "").startswith("pgtheory.")
        and any(
            "generator" in inspect.signature(function).parameters
            for function in (value, *(vars(value).values() if isinstance(value, type) else ()))
            if inspect.isfunction(function)
        )
    }
    assert draws == JUDGED.keys() | FIRST_WEIGHTS_AND_BATCHES
    assert {name for names in JUDGED.values() for name in names.split(", ")} == SAMPLERS.keys() - {
        "outcomes of an environment"
    }


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_draws_the_same_and_leaves_the_global_generator_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, size in SIZES.items():
        monkeypatch.setitem(SIZES, kind, size // 20 // 200 * 200 or 200)
    torch.manual_seed(17)
    before = torch.get_rng_state()
    first, again = (SAMPLERS[name][0]() for _ in range(2))
    assert torch.equal(first.counts, again.counts)
    if name != "rollouts of environments":  # its new policy draws weights
        assert torch.equal(torch.get_rng_state(), before)


def test_a_rollout_is_decided_by_its_generator() -> None:
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
