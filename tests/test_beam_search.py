"""Beam search against its definition, written out by hand, and against the list of all sequences."""

import math

import pytest
import torch
from helpers import assert_same_up_to_rounding, seeded
from torch import Tensor

import pgtheory as pg
from pgtheory.decoding import (
    beam_search,
    decoded_policy,
)

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
INF = math.inf


def row(values: list[float] | list[list[float]], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def enumerated(mdp: pg.FiniteMDP, policy: Tensor, horizon: int) -> tuple[list[tuple[int, ...]], Tensor]:
    """All sequences, the most probable first and equal ones in the order of their actions; their probabilities."""
    every, probabilities = pg.enumerate_trajectories(mdp, policy, horizon=horizon)
    order = probabilities.sort(descending=True, stable=True).indices
    return sequences_of(every._replace(actions=every.actions[order], mask=every.mask[order])), probabilities[order]


def sequences_of(found: pg.Trajectories) -> list[tuple[int, ...]]:
    pairs = zip(found.actions.tolist(), found.mask.tolist(), strict=True)
    return [tuple(a for a, taken in zip(actions, mask, strict=True) if taken) for actions, mask in pairs]


def beam_by_hand(step, width: int, horizon: int) -> list[tuple[tuple[int, ...], float]]:  # type: ignore[no-untyped-def]
    """The definition, with lists and floats: `step` gives the next probabilities of a sequence, or None at its end."""
    beam = [((), 1.0)]
    for _ in range(horizon):
        longer = []
        for tokens, p in beam:
            following = step(tokens)
            longer += [(tokens, p)] if following is None else [((*tokens, a), p * q) for a, q in enumerate(following)]
        beam = sorted((x for x in longer if x[1] > 0), key=lambda x: (-x[1], x[0]))[:width]
    return beam


def random_language(length: int, seed: int) -> tuple[pg.FiniteMDP, Tensor]:
    language = pg.tiny_language(length)
    policy = pg.softmax_policy(2 * torch.randn(language.n_states, 4, generator=seeded(seed), dtype=torch.float64))
    return language, policy.where(~language.terminal[:, None], 0.0)


@pytest.mark.equation("eq-beam-search")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("width", [1, 2, 3, 7, 30])
def test_beam_search_is_the_definition(width: int, seed: int) -> None:
    language, policy = random_language(4, seed)
    state = {tokens: s for s, (_, tokens) in enumerate(pg.token_sequences(4, 4, eos=3))}
    found, log_probs = beam_search(language, policy, width, horizon=4)
    expected = beam_by_hand(
        lambda tokens: None if language.terminal[state[tokens]] else policy[state[tokens]].tolist(), width, 4
    )
    assert sequences_of(found) == [tokens for tokens, _ in expected]
    assert_same_up_to_rounding(log_probs, row([math.log(p) for _, p in expected]), 16)
    assert [state[tokens] for tokens in sequences_of(found)] == found.states[:, -1].tolist()
    assert found.terminated.all()


@pytest.mark.parametrize("seed", range(3))
def test_a_beam_as_wide_as_the_tree_has_every_sequence_in_the_order_of_its_probability(seed: int) -> None:
    language, policy = random_language(3, seed)
    tokens, probabilities = enumerated(language, policy, 3)
    for width in (len(tokens), 10 * len(tokens)):
        found, log_probs = beam_search(language, policy, width, horizon=3)
        assert sequences_of(found) == tokens
        torch.testing.assert_close(log_probs.exp(), probabilities, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_one_is_greedy_decoding(seed: int) -> None:
    language, policy = random_language(4, seed)
    only, (probability,) = enumerated(language, decoded_policy(policy, temperature=0), 4)
    assert probability == 1
    assert sequences_of(beam_search(language, policy, 1, horizon=4)[0]) == only


def test_a_beam_of_two_finds_the_review_that_greedy_decoding_misses() -> None:
    language, model = pg.tiny_language(), pg.tiny_language_model()
    (one, _), (two, log_probs) = (beam_search(language, model, width, horizon=2) for width in (1, 2))
    assert (sequences_of(one), one.rewards.tolist()) == ([(2, 0)], [[0.0, -1.0]])
    assert (sequences_of(two), two.rewards.sum(-1).tolist()) == ([(0, 3), (2, 0)], [1.0, -1.0])
    torch.testing.assert_close(log_probs.exp(), row([0.21, 0.2]))


def test_of_equal_sequences_those_stay_that_come_first() -> None:
    tree = pg.token_tree(3, 2, reward=lambda prompt, tokens: 0.0)
    policy = row([0.25, 0.5, 0.25]).expand(tree.n_states, 3) * ~tree.terminal[:, None]
    expected = [(1, 1), (0, 1), (1, 0), (1, 2), (2, 1), (0, 0), (0, 2), (2, 0), (2, 2)]  # 1/4, 1/8 ..., 1/16 ...
    assert sequences_of(beam_search(tree, policy, 9, horizon=2)[0]) == expected
    assert sequences_of(beam_search(tree, policy, 2, horizon=2)[0]) == [(1, 1), (0, 1)]
    assert sequences_of(beam_search(tree, policy, 1, horizon=1)[0]) == [(1,)]


def test_a_sequence_of_probability_zero_is_not_kept_and_a_cut_one_is_truncated() -> None:
    language, model = pg.tiny_language(3), pg.tiny_language_model(3)
    found, _ = beam_search(language, decoded_policy(model, top_k=1), 5, horizon=2)
    assert sequences_of(found) == [(2, 0)]
    assert (found.truncated.tolist(), found.terminated.tolist()) == ([True], [False])
    assert beam_search(language, model, 5, horizon=2, start=4)[0].actions.shape == (1, 0)  # "." has ended


def test_a_beam_starts_where_it_is_told_and_follows_a_loop_to_the_horizon() -> None:
    tree = pg.token_tree(2, 1, n_prompts=2, reward=lambda prompt, tokens: float(prompt == tokens[0]))
    policy = row([[0.75, 0.25], [0.5, 0.5]] + [[0, 0]] * 4)
    found, log_probs = beam_search(tree, policy, 2, horizon=1, start=1)
    assert (sequences_of(found), found.rewards.tolist()) == ([(0,), (1,)], [[0.0], [1.0]])
    assert log_probs.exp().tolist() == [0.5, 0.5]
    loop = pg.FiniteMDP.from_outcomes(
        [(0, 0, 0, 1.0, 1.0), (0, 1, 1, 0.0, 1.0)], n_states=2, n_actions=2, initial=0, terminal=[1]
    )
    found, _ = beam_search(loop, row([[0.75, 0.25], [0, 0]]), 2, horizon=6)
    assert sequences_of(found) == [(1,), (0, 0, 0, 0, 0, 0)]  # 1/4 and (3/4)^6, about 0.18
    assert found.rewards.tolist() == [[0.0] * 6, [1.0] * 6]
    assert sequences_of(beam_search(loop, row([[0.75, 0.25], [0, 0]]), 1, horizon=100)[0]) == [(0,) * 100]


def test_the_log_probability_of_a_kept_sequence_has_its_score_as_gradient() -> None:
    language, policy = random_language(3, 0)
    policy.requires_grad_()
    found, log_probs = beam_search(language, policy, 4, horizon=3)
    (gradient,) = torch.autograd.grad(log_probs[0], policy)
    expected = torch.zeros_like(policy)
    for s, a, taken in zip(found.states[0, :-1], found.actions[0], found.mask[0], strict=True):
        expected[s, a] += 1 / policy[s, a].item() if taken else 0.0
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_beam_has_the_dtype_of_the_policy(dtype: torch.dtype) -> None:
    found, log_probs = beam_search(pg.tiny_language(dtype=dtype), pg.tiny_language_model(dtype=dtype), 2, horizon=2)
    assert (log_probs.dtype, found.rewards.dtype) == (dtype, dtype)
    assert sequences_of(found) == [(0, 3), (2, 0)]
