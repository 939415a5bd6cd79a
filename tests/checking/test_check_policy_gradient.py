"""`check_policy_gradient` on implementations that are right, on known mistakes, and on unknown errors."""

import functools
import itertools
import math
from collections import deque

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor
from torch.distributions import Categorical

from pgtheory.checking import UnknownForm
from pgtheory.checking.enumeration import GAMMAS, PROBLEMS, enumeration
from pgtheory.checking.kinds.policy_gradient import check_policy_gradient
from pgtheory.checking.kinds.policy_gradient_mistakes import MISTAKES
from pgtheory.checking.recipes import Recipe, faults, recipes, stacked_slopes
from pgtheory.policy_gradient import gradient_covariance
from pgtheory.reinforce import full_return_loss, leave_one_out_baseline, loss_variants, reinforce_loss


def to_go(rewards: Tensor, gamma: float) -> Tensor:
    """Returns to go along the last axis, by the recursion."""
    total, out = torch.zeros_like(rewards[..., 0]), []
    for r in reversed(rewards.unbind(-1)):
        total = r + gamma * total
        out.append(total)
    return torch.stack(out[::-1], -1)


def powers(gamma: float, like: Tensor) -> Tensor:
    return gamma ** torch.arange(like.shape[-1], dtype=like.dtype)


def keys(report) -> list[str]:
    return sorted(mistake.key.partition(".")[2] for mistake in report.mistakes)


# --- the truth -------------------------------------------------------------------------------------------------------


def by_hand(problem, gamma: float) -> tuple[np.ndarray, list]:
    """The gradient of J by central differences over all episodes, and the episodes, from the outcomes alone."""
    table = {(s, a): (n, r) for s, a, n, r in problem.outcomes}
    n_states = len(problem.first_action)

    def episodes(policy: np.ndarray) -> list:
        done, running = [], [(0, 1.0, [])]
        while running:
            s, p, steps = running.pop()
            for a in (0, 1):
                n, r = table[s, a]
                path = (n, p * policy[s, a], [*steps, (s, a, r)])
                (done if n == 3 else running).append(path)
        return [(p, steps) for _, p, steps in done]

    def performance(preferences: np.ndarray) -> float:
        policy = np.exp(preferences) / np.exp(preferences).sum(-1, keepdims=True)
        return sum(p * sum(gamma**t * r for t, (_, _, r) in enumerate(steps)) for p, steps in episodes(policy))

    start = np.log(np.stack([problem.first_action, 1 - np.asarray(problem.first_action)], -1))
    gradient = np.zeros((n_states, 2))
    for s, a in itertools.product(range(n_states), (0, 1)):
        move = np.zeros((n_states, 2))
        move[s, a] = 1e-5
        gradient[s, a] = (performance(start + move) - performance(start - move)) / 2e-5
    return gradient, episodes(np.exp(start))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=["bandit", "two steps", "chain"])
def test_the_truth_of_each_setting_is_the_derivative_of_the_performance(problem, gamma):
    gradient, _ = by_hand(problem, gamma)
    known = enumeration()
    for setting, truth in zip(known.settings, known.truth, strict=True):
        if setting.problem is problem and setting.gamma == gamma:
            np.testing.assert_allclose(truth[: len(gradient)], gradient, atol=1e-9)
            assert not truth[len(gradient) :].any()


def test_the_truth_of_the_bandit_is_the_hand_computed_one():
    # π(0) π(1) (r(0) - r(1)) = 0.25 · 0.75 · 3
    assert enumeration().truth[0, 0].tolist() == pytest.approx([0.5625, -0.5625])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_batches_are_all_ordered_lists_of_episodes_with_the_products_of_their_probabilities(size):
    known = enumeration()
    for i, setting in enumerate(known.settings):
        if setting.size != size:
            continue
        _, episodes = by_hand(setting.problem, setting.gamma)
        expected = {}
        for batch in itertools.product(episodes, repeat=size):
            rewards = tuple(tuple(r for _, _, r in steps) for _, steps in batch)
            actions = tuple(tuple(a for _, a, _ in steps) for _, steps in batch)
            expected[rewards, actions] = math.prod(p for p, _ in batch)
        rows = (known.setting == i).nonzero()[:, 0].tolist()
        found = {}
        for row in rows:
            mask = known.batches.mask[row, :size]
            parts = [
                [tuple(x[m].tolist()) for x, m in zip(y[row, :size], mask, strict=True)]
                for y in (known.batches.rewards, known.actions)
            ]
            found[tuple(parts[0]), tuple(parts[1])] = float(known.probability[row])
        assert found == pytest.approx(expected)
        assert len(rows) == len(expected)


def test_every_recipe_without_a_mistake_is_unbiased_for_batches_of_two_or_three():
    known = enumeration()
    right = [recipe for recipe in recipes(1, values=True) if not faults(recipe)]
    assert len(right) >= 15
    for slopes in stacked_slopes(right, known.batches).double():
        expected = known.expectation(slopes[..., None] * known.scores)
        many = torch.tensor([s.size > 1 for s in known.settings])
        torch.testing.assert_close(expected[many], -known.truth.flatten(1)[many], atol=1e-6, rtol=0.0)


# --- the known mistakes ----------------------------------------------------------------------------------------------

IMPLEMENTED = [
    pytest.param(mistake, function, id=f"{mistake.key.partition('.')[2]}-{i}")
    for mistake in MISTAKES
    for i, function in enumerate(mistake.implementations)
]


@pytest.mark.parametrize(("mistake", "function"), IMPLEMENTED)
def test_each_implementation_of_a_mistake_is_given_its_name_and_no_other(mistake, function):
    report = check_policy_gradient(function)
    if mistake.severity == "remark":
        assert report.ok
        assert any(mistake.name in remark for remark in report.remarks)
        return
    assert not report.ok
    assert report.mistakes == (mistake,)
    assert report.diagnosis == mistake.name
    assert report.counterexample is not None
    assert not any("the same as" in remark for remark in report.remarks)


def test_names_and_keys_are_distinct_and_every_mistake_has_a_source_and_an_implementation():
    assert len({m.name for m in MISTAKES}) == len({m.key for m in MISTAKES}) == len(MISTAKES) >= 30
    assert all((m.sources or m.right_form) and m.implementations and m.meaning and m.sign for m in MISTAKES)
    assert {m.check for m in MISTAKES} == {"policy_gradient"}


EXPECTED_OF_VARIANTS = {
    "no γ^t": ["gamma_t_dropped"],
    "own-sample mean": ["own_sample_baseline"],
    "mean over all steps": ["mean_over_all_steps"],
    "mean over own steps": ["mean_over_own_steps"],
    "standardised returns": ["standardised_batch"],
}


@pytest.mark.parametrize("name", list(loss_variants()))
def test_the_variants_of_the_bias_ledger_get_their_verdicts(name):
    report = check_policy_gradient(loss_variants()[name])
    assert keys(report) == EXPECTED_OF_VARIANTS.get(name, [])
    assert report.ok == (name not in EXPECTED_OF_VARIANTS)


def weights_of(rewards, gamma, mask):
    return powers(gamma, rewards) * to_go(torch.where(mask, rewards, 0.0), gamma)


def usual(change, discount=False):
    """The loss of most public code, changed: `change(log_probs, returns, mask)`."""

    def loss(log_probs, rewards, gamma, *, mask):
        returns = to_go(rewards * mask, gamma)
        return change(log_probs, powers(gamma, rewards) * returns if discount else returns, mask)

    return loss


def standardised(x):
    return (x - x.mean()) / (x.std() + 1e-8)


PAIRS = {
    "the usual public code": (usual(lambda lp, G, m: -(lp * G)[m].mean()), "gamma_t_dropped mean_over_all_steps"),
    "and standardised": (
        usual(lambda lp, G, m: -(lp[m] * standardised(G[m])).mean()),
        "gamma_t_dropped mean_over_all_steps standardised_batch",
    ),
    "standardised, summed": (
        usual(lambda lp, G, m: -(lp[m] * standardised(G[m])).sum() / len(m)),
        "gamma_t_dropped standardised_batch",
    ),
    "gradient ascent by mistake": (usual(lambda lp, G, m: (lp * G * m).sum(-1).mean()), "gamma_t_dropped sign"),
    "mean over the padding": (
        usual(lambda lp, G, m: -(lp * G * m).mean()),
        "gamma_t_dropped mean_over_padded_steps",
    ),
    "without the mask": (
        lambda log_probs, rewards, gamma, *, mask: -(log_probs * to_go(rewards, gamma)).sum(-1).mean(),
        "gamma_t_dropped mask_ignored",
    ),
    "π and a mean": (
        usual(lambda lp, G, m: -(lp.exp() * G)[m].mean(), discount=True),
        "mean_over_all_steps probability_not_log",
    ),
    "a mean over one's own steps, the sign": (
        usual(lambda lp, G, m: ((lp * G * m).sum(-1) / m.sum(-1)).mean(), discount=True),
        "mean_over_own_steps sign",
    ),
    "own sample in the baseline": (
        usual(lambda lp, G, m: -(lp * (G - G.mean(0)) * m).sum(-1).mean()),
        "gamma_t_dropped own_sample_baseline",
    ),
    "immediate rewards, a mean": (
        lambda log_probs, rewards, gamma, *, mask: -(log_probs * rewards)[mask].mean(),
        "immediate_reward mean_over_all_steps",
    ),
    "γ nowhere, a mean": (
        lambda log_probs, rewards, gamma, *, mask: -(log_probs * to_go(rewards * mask, 1.0))[mask].mean(),
        "gamma_ignored mean_over_all_steps",
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_mistakes_made_together_are_named_together(name):
    function, expected = PAIRS[name]
    assert keys(check_policy_gradient(function)) == sorted(expected.split())


def not_turned_round(log_probs, rewards, gamma):
    R, returns = 0, []
    for r in reversed(rewards):
        R = r + gamma * R
        returns.append(R)
    return sum(-lp * g for lp, g in zip(log_probs, returns, strict=True))


def as_in_the_example(saved_log_probs, rewards, gamma):
    R, policy_loss, returns = 0, [], deque()
    for r in rewards[::-1]:
        R = r + gamma * R
        returns.appendleft(R)
    returns = standardised(torch.tensor(returns))
    for log_prob, R in zip(saved_log_probs, returns, strict=True):
        policy_loss.append(-log_prob * R)
    return torch.cat(policy_loss).sum()


def standardised_with_the_padding(log_probs, rewards, gamma, mask):
    G = standardised(to_go(rewards * mask, gamma))
    return -(G * log_probs * mask).sum(1).mean()


def groups(log_probs, rewards, gamma, mask):
    total = (rewards * mask * powers(gamma, rewards)).sum(1)
    A = (total - total.mean()) / (total.std() + 1e-4)
    return -((A[:, None] * log_probs * mask).sum(1) / mask.sum(1)).mean()


def flat_mean(log_probs, rewards, is_terminals, gamma):
    returns, R = [], 0.0
    for r, end in zip(reversed(rewards), reversed(is_terminals), strict=True):
        R = r + gamma * (0.0 if end else R)
        returns.insert(0, R)
    return -(torch.stack(list(log_probs)) * torch.tensor(returns)).mean()


def attached(log_probs, rewards, values, gamma, mask):
    advantages = to_go(rewards * mask, gamma) - values
    return (-(log_probs * advantages) * mask + 0.5 * advantages**2 * mask).sum(1).mean()


AS_WRITTEN = {
    "the list is not turned round": (not_turned_round, "gamma_t_dropped reversed_order"),
    "PyTorch's example": (as_in_the_example, "gamma_t_dropped standardised_episode"),
    "Spinning Up": (lambda logp, weights: -(logp * weights).mean(), "mean_over_own_steps"),
    "a product of means": (lambda log_probs, returns: -log_probs.mean() * returns.sum(), "pairing_lost"),
    "statistics with the padding": (standardised_with_the_padding, "gamma_t_dropped standardised_batch"),
    "groups": (groups, "mean_over_own_steps standardised_batch"),
    "a flat buffer": (flat_mean, "gamma_t_dropped mean_over_all_steps"),
    "an attached critic": (attached, "baseline_not_detached gamma_t_dropped"),
    "γ inside": (
        lambda log_probs, rewards, mask: -(log_probs * to_go(rewards * mask, 0.99) * mask).sum(1).mean(),
        "gamma_t_dropped",
    ),
    "the sum of all rewards": (
        lambda logp, rewards, gamma, mask: -(logp * mask * (rewards * mask).sum(-1, keepdim=True)).sum(-1).mean(),
        "gamma_ignored",
    ),
    "rolled": (
        lambda logp, rewards, gamma: -(torch.roll(logp, -1, -1) * powers(gamma, rewards) * to_go(rewards, gamma)).sum(),
        "log_prob_of_another_step",
    ),
    "all pairs of episodes, summed": (
        lambda logp, rewards, gamma, mask: (
            -((logp * mask).sum(1) * (powers(gamma, rewards) * rewards * mask).sum(1)[:, None]).sum()
        ),
        "broadcast",
    ),
    "shifted slices": (
        lambda logp, rewards, gamma, mask: (
            -(weights_of(rewards, gamma, mask)[:, :-1] * logp[:, 1:] * mask[:, 1:]).sum(-1).mean()
        ),
        "log_prob_of_another_step",
    ),
}


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_losses_as_people_write_them_are_diagnosed(name):
    function, expected = AS_WRITTEN[name]
    report = check_policy_gradient(function)
    assert keys(report) == sorted(expected.split()), report


def episode_by_episode(weight):
    """The loss of episodes with the weight `weight(r, t, γ)` at step t, written with loops."""

    def loss(log_probs, rewards, gamma, *, mask):
        total = 0.0
        for lp, r, m in zip(log_probs, rewards, mask, strict=True):
            taken = r[m].tolist()
            total = total - sum(weight(taken, t, gamma) * lp[t] for t in range(len(taken)))
        return total / len(rewards)

    return loss


def later(r, t, rate):
    return sum(rate ** (k - t) * r[k] for k in range(t, len(r)))


WEIGHTS = {
    "gamma_t_dropped": later,
    "gamma_t_twice": lambda r, t, g: g ** (2 * t) * later(r, t, g),
    "returns_not_discounted": lambda r, t, g: g**t * sum(r[t:]),
    "gamma_ignored": lambda r, t, g: sum(r),
    "discounted_twice": lambda r, t, g: g**t * later(r, t, g * g),
    "exponent_from_the_end": lambda r, t, g: g**t * sum(g ** (len(r) - 1 - k) * r[k] for k in range(t, len(r))),
    "immediate_reward": lambda r, t, g: g**t * r[t],
    "own_reward_dropped": lambda r, t, g: g**t * later(r, t + 1, g),
    "reward_of_the_step_before": lambda r, t, g: g**t * later([0.0, *r[:-1]], t, g),
    "last_reward_dropped": lambda r, t, g: g**t * later([*r[:-1], 0.0], t, g),
    "last_reward_only": lambda r, t, g: g**t * g ** (len(r) - 1 - t) * r[-1],
    "past_rewards": lambda r, t, g: g**t * sum(g ** (t - k) * r[k] for k in range(t + 1)),
    "reversed_order": lambda r, t, g: g**t * later(r, len(r) - 1 - t, g),
    "mean_of_the_rest": lambda r, t, g: g**t * later(r, t, g) / (len(r) - t),
    "pairing_lost": lambda r, t, g: sum(later(r, s, g) for s in range(len(r))),
    "last_step_dropped": lambda r, t, g: g**t * later(r, t, g) * (t < len(r) - 1),
    "first_step_dropped": lambda r, t, g: g**t * later(r, t, g) * (t > 0),
    "mean_over_own_steps": lambda r, t, g: g**t * later(r, t, g) / len(r),
    "sign": lambda r, t, g: -(g**t) * later(r, t, g),
}


@pytest.mark.parametrize("key", WEIGHTS)
def test_mistakes_in_the_weights_are_known_when_they_are_written_otherwise(key):
    assert keys(check_policy_gradient(episode_by_episode(WEIGHTS[key]))) == [key]


def test_a_mean_over_the_running_episodes_is_known_when_it_is_written_otherwise():
    def loss(log_probs, rewards, gamma, *, mask):
        terms = weights_of(rewards, gamma, mask) * log_probs
        return -sum(terms[:, t][mask[:, t]].mean() for t in range(terms.shape[1]))

    assert keys(check_policy_gradient(loss)) == ["mean_over_running_episodes"]


BESIDE_HARMLESS = {
    "leave-one-out": lambda G, m: G - leave_one_out_baseline(G, mask=m),
    "a constant baseline": lambda G, m: G - 1.75,
}


@pytest.mark.parametrize("name", BESIDE_HARMLESS)
def test_a_mistake_is_known_beside_a_harmless_baseline(name):
    report = check_policy_gradient(usual(lambda lp, G, m: -(lp * BESIDE_HARMLESS[name](G, m) * m).sum(-1).mean()))
    assert keys(report) == ["gamma_t_dropped"]


def test_public_broadcasting_of_episode_sums_against_a_column_is_named():
    def loss(log_probs, rewards, gamma, *, mask):
        score = (log_probs * mask).sum(-1)
        total = (powers(gamma, rewards) * rewards * mask).sum(-1, keepdim=True)
        return -(score * total).mean()

    report = check_policy_gradient(loss)
    assert keys(report) == ["broadcast"]
    assert report.details["variance relative to reinforce_loss"] > 2


# --- right implementations -------------------------------------------------------------------------------------------


def loops(log_probs, rewards, gamma, *, mask):
    total = 0.0
    for lp, r, m in zip(log_probs, rewards, mask, strict=True):
        length = int(m.sum())
        for t in range(length):
            weight = sum(gamma**k * float(r[k]) for k in range(t, length))
            total = total - weight * lp[t]
    return total / len(log_probs)


def time_first(logp, rew, discount, masks):
    T, N = logp.shape
    running, total = torch.zeros(N, dtype=rew.dtype), 0.0
    for t in reversed(range(T)):
        running = rew[t] * masks[t] + discount * running
        total = total - discount**t * running * logp[t] * masks[t]
    return total.mean()


def with_deques(saved_log_probs, rewards, gamma):
    """As in PyTorch's example, with γ^t and without standardising."""
    R, returns, policy_loss = 0, deque(), []
    for r in rewards[::-1]:
        R = r + gamma * R
        returns.appendleft(R)
    for t, (log_prob, R) in enumerate(zip(saved_log_probs, returns, strict=True)):
        policy_loss.append(-(gamma**t) * log_prob * R)
    return torch.cat(policy_loss).sum()


def stacked_numbers(log_probs, rewards, gamma):
    assert isinstance(log_probs, list)
    G = scipy.signal.lfilter([1], [1, -gamma], np.asarray(rewards)[::-1])[::-1]
    return torch.stack([-lp * float(g) * gamma**t for t, (lp, g) in enumerate(zip(log_probs, G, strict=True))]).sum()


def numpy_rewards(log_probs, rewards, gamma):
    assert isinstance(rewards, np.ndarray)
    assert isinstance(log_probs, Tensor)
    d = gamma ** np.arange(len(rewards))
    return -(torch.from_numpy(np.cumsum((d * rewards)[::-1])[::-1].copy()) * log_probs).sum()


def of_logits(logits, actions, rewards, gamma, mask):
    log_probs = Categorical(logits=logits).log_prob(actions)
    return -(powers(gamma, rewards) * to_go(rewards, gamma) * log_probs)[mask].sum() / len(mask)


def gathered(all_log_probs, actions, rewards, gamma, mask):
    picked = all_log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return reinforce_loss(picked, rewards, gamma, mask=mask)


def cross_entropy(logits, acts, advantages, mask):
    ce = torch.nn.functional.cross_entropy(logits.transpose(1, 2), acts, reduction="none")
    return (ce * advantages * mask).sum(1).mean()


def clipped(log_probs, old_log_probs, advantages, mask):
    ratio = (log_probs - old_log_probs).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    return -(gain * mask).sum(-1).mean()


def surrogate(log_probs, rewards, gamma, *, mask):
    ratio = (log_probs - log_probs.detach()).exp()
    return -(ratio * weights_of(rewards, gamma, mask) * mask).sum(-1).mean()


def leave_one_out(log_probs, rewards, gamma, *, mask):
    G = to_go(rewards * mask, gamma)
    n = len(G)
    b = (G.sum(0, keepdim=True) - G) / (n - 1)
    return -(powers(gamma, G) * (G - b) * log_probs * mask).sum() / n


def lengths_given(log_probs, rewards, gamma, seq_lens):
    mask = torch.arange(log_probs.shape[1]) < seq_lens[:, None]
    return reinforce_loss(log_probs, rewards, gamma, mask=mask)


def padding_given(log_probs, rewards, gamma, padding_mask):
    return reinforce_loss(log_probs, rewards, gamma, mask=~padding_mask)


def flat_buffer(log_probs, rewards, dones, gamma):
    returns, R = [], 0.0
    for r, done in zip(reversed(rewards), reversed(dones), strict=True):
        R = r + gamma * (0.0 if done else R)
        returns.insert(0, R)
    t, loss = 0, 0.0
    for lp, G, done in zip(log_probs, returns, dones, strict=True):
        loss = loss - gamma**t * G * lp
        t = 0 if done else t + 1
    return loss


def list_of_episodes(log_probs, rewards, gamma):
    assert isinstance(rewards, list)
    total = 0.0
    for lp, r in zip(log_probs, rewards, strict=True):
        G = to_go(torch.tensor(r, dtype=lp.dtype), gamma)
        total = total - (powers(gamma, lp) * G * lp).sum()
    return total / len(rewards)


def equal_lengths_only(log_probs, rewards, gamma):
    n, _ = log_probs.shape
    G = to_go(rewards, gamma)
    b = (G.sum(0) - G) / (n - 1)
    assert n > 1
    return -(powers(gamma, G) * (G - b) * log_probs).sum(1).mean()


def actor_critic(log_probs, rewards, values, gamma, mask):
    G = to_go(rewards * mask, gamma)
    policy = -(powers(gamma, G) * (G - values.detach()) * log_probs * mask).sum(-1).mean()
    return policy + 0.5 * ((G - values)[mask] ** 2).mean()


def in_place(log_probs, rewards, gamma, *, mask):
    rewards *= mask
    log_probs *= mask
    for t in reversed(range(rewards.shape[1] - 1)):
        rewards[:, t] += gamma * rewards[:, t + 1]
    return -(log_probs * rewards * powers(gamma, rewards)).sum(1).mean()


def calls_backward(log_probs, rewards, gamma, *, mask):
    loss = reinforce_loss(log_probs, rewards, gamma, mask=mask)
    loss.backward()
    print(f"loss {loss.item():.3f}")
    return loss.item()


def in_float32(log_probs, rewards, gamma, *, mask):
    return reinforce_loss(log_probs.float(), rewards.float(), gamma, mask=mask)


def needs_float32(log_probs, rewards, gamma, *, mask):
    layer = torch.ones(log_probs.shape[-1], 1)
    G = (powers(gamma, rewards) * to_go(rewards, gamma) * log_probs * mask) @ layer
    return -G.mean()


def needs_floats_for_the_mask(log_probs, rewards, gamma, mask):
    padding = 1 - mask
    return -(powers(gamma, rewards) * to_go(rewards, gamma) * log_probs * (1 - padding)).sum(1).mean()


def negative_log_likelihoods(nll, rewards, gamma, mask):
    return (nll * weights_of(rewards, gamma, mask) * mask).sum(-1).mean()


def of_probabilities(action_probs, rewards, gamma, mask):
    return -(action_probs.log() * weights_of(rewards, gamma, mask) * mask).sum(-1).mean()


def of_a_distribution(dist, actions, rewards, gamma, mask):
    return -(dist.log_prob(actions) * weights_of(rewards, gamma, mask) * mask).sum(-1).mean()


class Module(torch.nn.Module):
    def __init__(self, gamma):
        super().__init__()
        self.gamma = gamma

    def forward(self, log_probs, rewards, mask):
        return {"loss": reinforce_loss(log_probs, rewards, self.gamma, mask=mask), "steps": int(mask.sum())}


def _decorated(function):
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def per_step(log_probs, rewards, gamma, *, mask):
    return -(log_probs * weights_of(rewards, gamma, mask) * mask)


def cyclic_baseline(log_probs, rewards, gamma, *, mask):
    """The baseline of an episode is the return of the next one in the batch."""
    G = to_go(rewards * mask, gamma)
    others = G.roll(1, 0) if len(G) > 1 else torch.zeros_like(G)
    return -((G - others) * powers(gamma, G) * log_probs * mask).sum() / len(G)


def matrices(logp, rewards, gamma, mask):
    k = torch.arange(rewards.shape[1])
    weights = torch.triu(torch.ones(len(k), len(k), dtype=rewards.dtype)) * gamma**k
    return -torch.einsum("nt,tk,nk->", logp * mask, weights, rewards * mask) / len(logp)


def centred_and_rescaled(log_probs, rewards, gamma, mask):
    total = (rewards * mask * powers(gamma, rewards)).sum(1)
    n = len(total)
    return -((total - total.mean())[:, None] * n / (n - 1) * log_probs * mask).sum(1).mean()


RIGHT = {
    "cyclic baseline": cyclic_baseline,
    "matrices": matrices,
    "centred and rescaled": centred_and_rescaled,
    "a baseline of the time": lambda logp, r, g, m: reinforce_loss(
        logp, r, g, mask=m, baseline=1 - 2 * torch.arange(r.shape[1]).double()
    ),
    "reinforce_loss": reinforce_loss,
    "full return": full_return_loss,
    "loops": loops,
    "time first": time_first,
    "deques": with_deques,
    "stacked numbers": stacked_numbers,
    "numpy rewards": numpy_rewards,
    "logits": of_logits,
    "gathered log-probabilities": gathered,
    "cross entropy": cross_entropy,
    "clipped": clipped,
    "surrogate": surrogate,
    "leave-one-out": leave_one_out,
    "lengths": lengths_given,
    "padding mask": padding_given,
    "flat buffer": flat_buffer,
    "list of episodes": list_of_episodes,
    "equal lengths": equal_lengths_only,
    "actor-critic": actor_critic,
    "in place": in_place,
    "backward": calls_backward,
    "float32": in_float32,
    "needs float32": needs_float32,
    "mask of floats": needs_floats_for_the_mask,
    "nll": negative_log_likelihoods,
    "probabilities": of_probabilities,
    "distribution": of_a_distribution,
    "module, γ = 1": Module(1.0),
    "module, γ = 0.99": Module(0.99),
    "decorated": _decorated(reinforce_loss),
    "partial": functools.partial(reinforce_loss, baseline=0.5),
    "constant baseline": lambda lp, r, g, m: reinforce_loss(lp, r, g, mask=m, baseline=-3.0),
    "places": lambda u, v, w, z: reinforce_loss(u, v, w, mask=z),
    "keywords": lambda *, mask, gamma, rewards, log_probs: reinforce_loss(log_probs, rewards, gamma, mask=mask),
    "per step": per_step,
    "per episode": lambda log_probs, rewards, gamma, *, mask: per_step(log_probs, rewards, gamma, mask=mask).sum(-1),
    "a tuple": lambda log_probs, rewards, gamma, *, mask: (reinforce_loss(log_probs, rewards, gamma, mask=mask), {}),
    "shape [1]": lambda log_probs, rewards, gamma, *, mask: reinforce_loss(log_probs, rewards, gamma, mask=mask)[None],
    "sum over episodes": lambda logp, rewards, gamma, *, mask: per_step(logp, rewards, gamma, mask=mask).sum(),
    "a factor": lambda logp, rewards, gamma, *, mask: 7 * reinforce_loss(logp, rewards, gamma, mask=mask),
    "γ from 1 on": lambda logp, rewards, gamma, *, mask: gamma * reinforce_loss(logp, rewards, gamma, mask=mask),
    "returns given": lambda logp, returns: -(logp * returns).sum(),
}

DECLARED = {
    "places": {"u": "log_probs", "v": "rewards", "w": "gamma", "z": "mask"},
    "padding mask": {"padding_mask": "padding"},
}


@functools.cache
def of_right(name: str):
    return check_policy_gradient(RIGHT[name], names=DECLARED.get(name))


@pytest.mark.parametrize("name", RIGHT)
def test_right_implementations_pass(name):
    report = of_right(name)
    assert report.ok, report
    assert report.mistakes == ()
    assert report.counterexample is None
    assert report.details["angle in degrees"] < 1e-3


REMARKS = {
    "sum over episodes": "N, the number of episodes",
    "a factor": "7 times that of -J",
    "γ from 1 on": "γ times that of -J",
    "leave-one-out": "fails for a batch of one episode",
    "module, γ = 1": "only γ = 1 was tried",
    "module, γ = 0.99": "seems to use γ = 0.99",
    "per step": "a sum over the steps and a mean over the episodes was taken",
    "logits": "the rewards behind the end of an episode are read",
}


@pytest.mark.parametrize("name", REMARKS)
def test_what_is_unusual_in_a_right_implementation_is_remarked(name):
    assert any(REMARKS[name] in remark for remark in of_right(name).remarks)


def test_the_reference_gets_no_remark_and_a_relative_variance_of_one():
    report = of_right("reinforce_loss")
    assert report.remarks == ()
    assert report.details["variance relative to reinforce_loss"] == pytest.approx(1.0)
    assert report.n_cases == 21


def test_the_variance_of_the_full_return_is_that_of_the_bias_ledger():
    problem = PROBLEMS[2]
    variances = [
        gradient_covariance(loss, problem.mdp(), problem.preferences(), 0.9, horizon=3, batch_size=3).trace()
        for loss in (full_return_loss, reinforce_loss)
    ]
    details = of_right("full return").details
    assert details["variance relative to reinforce_loss"] == pytest.approx(float(variances[0] / variances[1]))


# --- unknown errors and wrong forms ----------------------------------------------------------------------------------

UNKNOWN = {
    "squared rewards": lambda lp, r, g, m: reinforce_loss(lp, r.square(), g, mask=m),
    "squared log-probabilities": lambda lp, r, g, m: reinforce_loss(-lp.square(), r, g, mask=m),
    "an entropy bonus of the actions": lambda lp, r, g, m: reinforce_loss(lp, r, g, mask=m) + (0.1 * lp**2 * m).sum(),
    "clipped rewards": lambda lp, r, g, m: reinforce_loss(lp, r.clamp(-1, 1), g, mask=m),
    "another γ": lambda lp, r, g, m: reinforce_loss(lp, r, g**1.5, mask=m),
    "half of the batch": lambda lp, r, g, m: reinforce_loss(lp[:1], r[:1], g, mask=m[:1]) + 0.1 * lp[:, :1].exp().sum(),
    "a mask turned round": lambda lp, r, g, mask: -(lp * to_go(r, g) * ~mask).sum(-1).mean(),
    "the best return as baseline": lambda lp, r, g, mask: (
        -((to_go(r, g) - to_go(r, g)[:, 0].max()) * powers(g, r) * lp * mask).sum(-1).mean()
    ),
    "positive advantages only": lambda lp, r, g, m: -(weights_of(r, g, m).clamp(min=0) * lp * m).sum(-1).mean(),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_errors_are_wrong_and_have_no_name(name):
    report = check_policy_gradient(UNKNOWN[name])
    assert not report.ok
    assert report.mistakes == ()
    assert report.diagnosis is None
    assert report.counterexample is not None


def test_an_error_in_long_episodes_is_not_excused_by_batches_of_equally_short_ones():
    # A roll by two is none in episodes of two steps.
    report = check_policy_gradient(lambda lp, r, g: -(torch.roll(lp, -2, -1) * powers(g, r) * to_go(r, g)).sum())
    assert not report.ok


def test_the_counterexample_of_an_unknown_error_is_the_smallest_setting():
    case = check_policy_gradient(UNKNOWN["squared rewards"]).counterexample
    assert case.quantity == "expected gradient of the loss"
    # In the bandit it has the wrong sign at the rewards 2², (-1)²: no, 4 > 1, so only its length differs, by 3/3 = 1.
    assert case.inputs["problem"].startswith("two steps")
    assert case.inputs["gamma"] == 1.0
    assert case.inputs["episodes in a batch"] == 1
    # ∂J/∂h(0, 0) = π(0)π(1) (1 + 0.7·3 - 0.3·1 - (-2 + 0.2·0.5 + 0.8·4)) = 0.24·1.5
    assert case.expected[0].tolist() == pytest.approx([-0.36, 0.36])
    # with squares: 1 + 0.7·9 + 0.3·1 - (4 + 0.2·0.25 + 0.8·16) = -9.25
    assert case.got[0].tolist() == pytest.approx([0.24 * 9.25, -0.24 * 9.25])


def test_the_counterexample_of_a_dropped_discount_is_in_two_steps():
    case = check_policy_gradient(functools.partial(reinforce_loss, discount_states=False)).counterexample
    assert case.inputs["gamma"] == 0.5
    # ∂J/∂h(1, 0) = 0.4 · 0.5 · 0.7 · 0.3 · (3 - (-1)) and without γ^t twice as much
    assert case.expected[1].tolist() == pytest.approx([-0.168, 0.168])
    assert case.got[1].tolist() == pytest.approx([-0.336, 0.336])


def test_the_counterexample_of_a_mean_over_steps_has_another_direction():
    case = check_policy_gradient(loss_variants()["mean over all steps"]).counterexample
    cosine = torch.cosine_similarity(case.expected.flatten(), case.got.flatten(), dim=0)
    assert 0 < float(cosine) < 0.9999


def test_the_counterexample_of_an_ignored_mask_shows_slopes_in_the_padding():
    case = check_policy_gradient(lambda lp, r, g, m: reinforce_loss(lp, r, g)).counterexample
    assert case.inputs["mask"].tolist() == [[True, False], [True, True]]
    assert (case.expected[0, 1:] == 0).all()
    assert (case.got[0, 1:] != 0).all()


def test_the_counterexample_of_an_attached_baseline_shows_its_slopes():
    def loss(log_probs, rewards, values, gamma, mask):
        return -(powers(gamma, rewards) * (to_go(rewards, gamma) - values) * log_probs * mask).sum(-1).mean()

    report = check_policy_gradient(loss)
    assert keys(report) == ["baseline_not_detached"]
    # the slope by the value of a step is its log-probability: ln 0.25, then 1.5 ln 0.25 - 0.2
    assert report.counterexample.expected.tolist() == [[pytest.approx(math.log(0.25))]]
    assert report.counterexample.got.tolist() == [[pytest.approx(1.5 * math.log(0.25) - 0.2)]]


@pytest.mark.parametrize(
    "function",
    [
        lambda log_probs, rewards, gamma, *, mask: torch.tensor([float(x) for x in log_probs[0]]).sum(),
        lambda log_probs, rewards, gamma, *, mask: reinforce_loss(log_probs, rewards, gamma, mask=mask).item(),
        lambda log_probs, rewards, gamma, *, mask: reinforce_loss(log_probs.detach(), rewards, gamma, mask=mask),
        lambda log_probs, rewards, gamma: -(torch.tensor([float(x) for x in log_probs]) * torch.tensor(rewards)).sum(),
    ],
    ids=["torch.tensor", "item", "detach", "torch.tensor of a list"],
)
def test_a_loss_without_a_gradient_is_named(function):
    assert keys(check_policy_gradient(function)) == ["no_gradient"]


WRONG_FORMS = {
    "no argument that is known": (lambda states, horizon, log_probs, rewards, gamma, mask: 0.0, "'states'"),
    "returns a string": (lambda log_probs, rewards, gamma, *, mask: "seven", "it returned str"),
    "returns None": (lambda log_probs, rewards, gamma, *, mask: None, "it returned None"),
    "NumPy of what needs a gradient": (
        lambda log_probs, rewards, gamma, *, mask: -(np.asarray(log_probs) * np.asarray(rewards)).sum(),
        "numpy",
    ),
    "a dict without a loss": (lambda log_probs, rewards, gamma, *, mask: {"x": 1.0}, "policy_loss"),
    "always raises": (lambda log_probs, rewards, gamma, *, mask: 1 / 0, "ZeroDivisionError"),
}


@pytest.mark.parametrize("name", WRONG_FORMS)
def test_wrong_forms_raise_an_error_that_names_the_forms(name):
    function, text = WRONG_FORMS[name]
    with pytest.raises(UnknownForm) as caught:
        check_policy_gradient(function)
    assert text in str(caught.value)
    assert "check_policy_gradient does not understand" in str(caught.value)
    assert name == "no argument that is known" or "[N, T]" in str(caught.value)


def test_which_polarity_a_padding_mask_has_is_asked_for():
    report = check_policy_gradient(padding_given)
    assert report.verdict == "abstains"
    assert "names={'padding_mask': 'padding'}: right" in report.abstains


def test_a_loss_is_called_as_it_is_declared():
    assert check_policy_gradient(call=lambda x: reinforce_loss(x.log_probs, x.rewards, x.gamma, mask=x.mask)).ok
    report = check_policy_gradient(call=lambda x: -reinforce_loss(x.log_probs, x.rewards, x.gamma, mask=x.mask))
    assert keys(report) == ["sign"]


def test_a_form_can_be_chosen():
    assert check_policy_gradient(time_first, layout="[T, N]").form == "[T, N]"
    assert not check_policy_gradient(time_first, layout="[N, T]").ok


# --- determinism -----------------------------------------------------------------------------------------------------


def test_the_same_report_comes_twice_and_the_state_of_the_random_numbers_is_untouched(capsys):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

    def noisy(log_probs, rewards, gamma, *, mask):
        torch.rand(3)
        print("called")
        return log_probs.sum() * rewards.sum()

    reports = [str(check_policy_gradient(noisy)) for _ in range(2)]
    assert reports[0] == reports[1]
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert capsys.readouterr().out == ""


def test_a_recipe_without_a_choice_is_right_and_each_choice_is_one_mistake():
    assert faults(Recipe()) == ()
    assert faults(Recipe("full", "dropped")) == ()
    assert faults(Recipe("from_start", "dropped", "leave_one_out")) == ()
    assert faults(Recipe(discount="dropped", average="all_steps")) == ("gamma_t_dropped", "mean_over_all_steps")


def test_an_inverted_mask_is_said() -> None:
    report = check_policy_gradient(call=lambda x: reinforce_loss(x.log_probs, x.rewards, x.gamma, mask=~x.mask.bool()))
    assert report.verdict == "wrong"
    assert report.diagnosis == "right, if `mask` is inverted"
