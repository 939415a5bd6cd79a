"""Completions of a language model, sampled, scored and enumerated, against the model called on each alone."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import chance
import pytest
import torch
from helpers import F64, assert_same_up_to_rounding, seeded
from torch import Tensor, nn

from pgtheory.decoding import decoding_distribution
from pgtheory.gallery import FULL_STOP, tiny_language, tiny_language_model, token_sequences, token_tree
from pgtheory.language_models import (
    Completions,
    completion_entropies,
    completion_kl,
    completion_log_probs,
    enumerate_completions,
    sample_completions,
    token_tree_logits,
)
from pgtheory.policy_gradient import exact_policy_gradient, performance
from pgtheory.softmax_policy import softmax_policy
from pgtheory.tiny_gpt import TinyGPT
from pgtheory.trajectories import enumerate_trajectories

V = 5
RAGGED = [torch.tensor([1, 2, 3, 4]), torch.tensor([4]), torch.tensor([2, 2])]
DECODING: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7},
    {"top_k": 3},
    {"top_p": 0.8},
    {"temperature": 1.3, "top_k": 4, "top_p": 0.9},
]


def gpt(seed: int = 0, vocab_size: int = V) -> TinyGPT:
    """A model whose distributions are far from uniform."""
    model = TinyGPT(vocab_size, context_length=16, width=8, n_layers=2, n_heads=2, generator=seeded(seed), dtype=F64)
    with torch.no_grad():
        model.tokens.weight.mul_(20)
        model.positions.weight.mul_(20)
    return model


class Plain(nn.Module):
    """A model that takes nothing but the tokens and the mask: without cache and without positions."""

    def __init__(self, model: TinyGPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.model(input_ids, attention_mask).logits)


class Adapted(nn.Module):
    """As the models of `peft`: the forward names no argument of the model inside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.calls = model, list[set[str]]()

    def get_base_model(self) -> nn.Module:
        return self.model

    def forward(self, **options: Any) -> Any:
        self.calls.append(set(options))
        return self.model(**options)


def draw(model: Any, size: int = 4, max_tokens: int = 6, seed: int = 1, **options: Any) -> Completions:
    options = {"end": 0} | options
    return sample_completions(model, RAGGED, size, max_tokens=max_tokens, generator=seeded(seed), **options)


def one_by_one(model: TinyGPT, drawn: Completions, value: Callable[[Tensor, int], Tensor]) -> Tensor:
    """A value of the logits before each token, the model called on each sequence alone, without padding."""
    rows = []
    for prompt, known, group, masks in zip(drawn.prompts, drawn.prompt_mask, drawn.tokens, drawn.mask, strict=True):
        for tokens, mask in zip(group, masks, strict=True):
            ids = torch.cat([prompt[known], tokens[mask]])
            logits = model(ids[None, :-1]).logits[0, int(known.sum()) - 1 :]
            found = torch.stack([value(z, token) for z, token in zip(logits, tokens[mask].tolist(), strict=True)])
            rows.append(nn.functional.pad(found, (0, len(mask) - len(found))))
    return torch.stack(rows).view(drawn.mask.shape)


# --- sampling


def test_prompts_are_padded_on_the_left() -> None:
    drawn = draw(gpt())
    assert drawn.prompts.tolist() == [[1, 2, 3, 4], [0, 0, 0, 4], [0, 0, 2, 2]]
    assert drawn.prompt_mask.sum(1).tolist() == [4, 1, 2]


@pytest.mark.parametrize("decoding", DECODING, ids=str)
def test_neither_padding_nor_the_cache_changes_the_distribution_that_is_sampled(decoding: dict[str, Any]) -> None:
    model = gpt()
    drawn = draw(model, **decoding)
    assert len(set(drawn.lengths.flatten().tolist())) > 2, "the lengths differ"

    def log_prob(logits: Tensor, token: int) -> Tensor:
        return decoding_distribution(logits, **decoding)[token].log()

    torch.testing.assert_close(drawn.log_probs, one_by_one(model, drawn, log_prob).detach(), atol=1e-10, rtol=0)
    plain = draw(Plain(model), **decoding)
    assert torch.equal(plain.tokens, drawn.tokens)
    torch.testing.assert_close(plain.log_probs, drawn.log_probs, atol=1e-10, rtol=0)


def test_a_completion_ends_at_its_end_token_or_at_the_limit() -> None:
    drawn = draw(gpt(), size=20)
    assert torch.equal(drawn.terminated, ~drawn.truncated)
    assert drawn.terminated.any()
    assert drawn.truncated.any()
    last = drawn.tokens.gather(-1, drawn.lengths[..., None] - 1)[..., 0]
    assert torch.equal(drawn.terminated, last == 0)
    assert (drawn.lengths[drawn.truncated] == 6).all()
    assert torch.equal(drawn.mask, torch.arange(6) < drawn.lengths[..., None])
    assert (drawn.tokens[drawn.mask].eq(0).sum() == drawn.terminated.sum()).all()
    assert not drawn.tokens[~drawn.mask].any()
    assert not drawn.log_probs[~drawn.mask].any()


def test_each_of_several_end_tokens_ends_and_without_one_only_the_limit_does() -> None:
    drawn = draw(gpt(), size=20, end=[0, 3])
    last = drawn.tokens.gather(-1, drawn.lengths[..., None] - 1)[..., 0]
    assert set(last[drawn.terminated].tolist()) == {0, 3}
    inner = drawn.mask & (torch.arange(6) < drawn.lengths[..., None] - 1)
    assert not torch.isin(drawn.tokens[inner], torch.tensor([0, 3])).any()
    assert draw(gpt(), size=20, end=None).truncated.all()


class Counting(nn.Module):
    """Notes the shape of what it reads."""

    def __init__(self, model: TinyGPT) -> None:
        super().__init__()
        self.model, self.shapes = model, list[tuple[int, ...]]()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past_key_values: Any = None, use_cache: bool = False):  # type: ignore[no-untyped-def]
        self.shapes.append(tuple(input_ids.shape))
        return self.model(input_ids, attention_mask, None, past_key_values, use_cache)


def test_the_prompts_are_read_once_and_the_cache_is_shared_over_the_group() -> None:
    model = Counting(gpt())
    draw(model, size=7, end=None)
    assert model.shapes == [(3, 4)] + [(21, 1)] * 5


def test_sampling_stops_when_all_have_ended_and_pads_to_the_limit() -> None:
    model = Counting(gpt())
    drawn = draw(model, end=range(V))
    assert model.shapes == [(3, 4)]
    assert drawn.tokens.shape == (3, 4, 6)
    assert (drawn.lengths == 1).all()


def test_a_model_inside_adapters_is_used_as_it_is_alone() -> None:
    adapted = Adapted(gpt())
    assert torch.equal(draw(adapted).tokens, draw(gpt()).tokens)
    assert {"position_ids", "past_key_values", "logits_to_keep"} <= adapted.calls[-1]


def test_a_generator_decides_and_nothing_else_is_drawn_or_changed() -> None:
    model = gpt().train()
    torch.manual_seed(3)
    before, weights = torch.get_rng_state(), [p.clone() for p in model.parameters()]
    assert torch.equal(draw(model).tokens, draw(model).tokens)
    assert not torch.equal(draw(model).tokens, draw(model, seed=2).tokens)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not draw(model).log_probs.requires_grad
    assert all(torch.equal(x, y) for x, y in zip(model.parameters(), weights, strict=True))


def test_at_temperature_0_the_completions_are_greedy() -> None:
    model = gpt()
    drawn = draw(model, size=1, temperature=0)
    greedy = one_by_one(model, drawn, lambda logits, token: logits.argmax() == token)
    assert torch.equal(greedy.bool(), drawn.mask)


N_SAMPLES = 20_000


@pytest.mark.parametrize("decoding", DECODING, ids=str)
def test_samples_have_the_enumerated_distribution(decoding: dict[str, Any]) -> None:
    model, options = gpt(vocab_size=4), {"max_tokens": 3, "end": [0, 2]} | decoding
    completions, probabilities = enumerate_completions(model, RAGGED[0][:2], **options)
    drawn = sample_completions(model, [RAGGED[0][:2]], N_SAMPLES, generator=seeded(5), **options)
    counts = (drawn.tokens[0, :, None] == completions.tokens[0]).all(-1)
    counts &= drawn.lengths[0, :, None] == completions.lengths[0]
    assert (counts.sum(-1) == 1).all(), "each sample is one of the completions"
    chance.assert_counts(counts.sum(0), probabilities.detach(), N_SAMPLES, tests=len(DECODING))


# --- log-probabilities, entropies, divergences


@pytest.mark.parametrize(("decoding", "batch_size"), [({}, None), (DECODING[-1], None), (DECODING[-1], 5)], ids=str)
def test_log_probabilities_and_their_gradient_are_those_of_each_sequence_alone(
    decoding: dict[str, Any], batch_size: int | None
) -> None:
    model = gpt()
    drawn, slope = draw(model, **decoding), torch.randn(3, 4, 6, generator=seeded(7), dtype=F64)
    found = completion_log_probs(model, drawn, **decoding, batch_size=batch_size)
    torch.testing.assert_close(found.detach(), drawn.log_probs, atol=1e-10, rtol=0)

    def log_prob(logits: Tensor, token: int) -> Tensor:
        kept = decoding_distribution(logits.detach(), **decoding) > 0
        scaled = (logits / decoding.get("temperature", 1.0)).masked_fill(~kept, -math.inf)
        return scaled[token] - scaled.logsumexp(0)

    expected = one_by_one(model, drawn, log_prob)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    gradients = [torch.autograd.grad(x, list(model.parameters()), slope) for x in (found, expected)]
    for x, y in zip(*gradients, strict=True):
        torch.testing.assert_close(x, y, atol=1e-9, rtol=1e-9)


def test_no_more_rows_than_the_batch_size_are_worked_on_at_a_time() -> None:
    model = Counting(gpt())
    drawn = draw(model)
    model.shapes.clear()
    completion_log_probs(model, drawn, batch_size=5).sum().backward()
    assert [shape[0] for shape in model.shapes] == [5, 5, 2, 2, 5, 5]
    model.shapes.clear()
    with torch.no_grad():
        completion_log_probs(model, drawn, batch_size=5)
    assert [shape[0] for shape in model.shapes] == [5, 5, 2]


def test_columns_of_padding_are_not_worked_on_and_may_hold_anything() -> None:
    model, drawn = Counting(gpt()), draw(gpt(), max_tokens=6)
    mask = drawn.mask & (torch.arange(6) < 3)
    dirty = drawn._replace(
        mask=mask,
        tokens=drawn.tokens.masked_fill(~mask, -7),
        prompts=drawn.prompts.masked_fill(~drawn.prompt_mask, 99),
    )
    found = completion_log_probs(model, dirty)
    torch.testing.assert_close(found, completion_log_probs(gpt(), drawn).where(mask, 0.0), atol=1e-12, rtol=0)
    assert model.shapes == [(12, 6)]
    alone = completion_log_probs(model, dirty.at([1]))
    assert model.shapes[-1] == (4, 3)
    torch.testing.assert_close(alone[0], found[1], atol=1e-12, rtol=0)


def test_a_completion_without_tokens_is_0_and_has_no_gradient() -> None:
    model, drawn = gpt(), draw(gpt())
    empty = drawn._replace(mask=drawn.mask & False)
    for value in (completion_log_probs(model, empty), completion_entropies(model, empty)):
        assert not value.any()
        assert not any(g.any() for g in torch.autograd.grad(value.sum(), list(model.parameters())))


def test_a_token_that_the_decoding_distribution_leaves_out_is_impossible() -> None:
    model, drawn = gpt(), draw(gpt())
    best = one_by_one(model, drawn, lambda logits, token: logits.argmax() == token).bool()
    found = completion_log_probs(model, drawn, top_k=1)
    assert (found[best] == 0).all()
    assert (found[drawn.mask & ~best] == -math.inf).all()


@pytest.mark.parametrize("decoding", [{}, DECODING[-1]], ids=str)
def test_entropies_are_sums_over_the_vocabulary(decoding: dict[str, Any]) -> None:
    model = gpt()
    drawn = draw(model, **decoding)

    def entropy_of(logits: Tensor, token: int) -> Tensor:
        return torch.distributions.Categorical(probs=decoding_distribution(logits, **decoding)).entropy()

    found = completion_entropies(model, drawn, **decoding, batch_size=5)
    torch.testing.assert_close(found, one_by_one(model, drawn, entropy_of), atol=1e-7, rtol=0)


@pytest.mark.equation("eq-kl-by-token")
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_divergences_are_sums_over_the_vocabulary_and_their_sum_is_that_of_the_completions(temperature: float) -> None:
    model, reference = gpt(), gpt(1)
    everything, probabilities = enumerate_completions(model, RAGGED[2], max_tokens=3, end=0, temperature=temperature)
    found = completion_kl(model, reference, everything, temperature=temperature, batch_size=50)
    first = [m(RAGGED[2][None]).logits[0, -1] / temperature for m in (model, reference)]
    p, q = (torch.distributions.Categorical(logits=x) for x in first)
    torch.testing.assert_close(found[0, 0, 0], torch.distributions.kl_divergence(p, q), atol=1e-12, rtol=0)
    others = completion_log_probs(reference, everything, temperature=temperature).sum(-1)[0]
    exact = (probabilities * (probabilities.log() - others)).sum()
    torch.testing.assert_close((probabilities * found.sum(-1)[0]).sum(), exact, atol=1e-12, rtol=0)


# --- enumeration, and the token tree


def bigrams(input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
    """`tiny_language_model` as a language model; the prompt is one token, whichever."""
    rows = torch.cat([torch.zeros_like(input_ids[:, :1]), 1 + input_ids[:, 1:]], 1)
    table = tiny_language_model()[:4].clone()
    return SimpleNamespace(logits=torch.cat([table, torch.ones(1, 4, dtype=F64)])[rows].log())


@pytest.mark.equation("eq-completion-probability")
@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_completions_of_the_tiny_language_are_its_trajectories(length: int) -> None:
    language, policy = tiny_language(length), tiny_language_model(length)
    completions, probabilities = enumerate_completions(bigrams, torch.tensor([0]), max_tokens=length, end=FULL_STOP)
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-12)
    paths, expected = enumerate_trajectories(language, policy, horizon=length)
    known = {
        tuple(actions[mask].tolist()): (float(p), float(r.sum()))
        for actions, mask, p, r in zip(paths.actions, paths.mask, expected, paths.rewards, strict=True)
    }
    said = [
        tuple(tokens[mask].tolist()) for tokens, mask in zip(completions.tokens[0], completions.mask[0], strict=True)
    ]
    assert sorted(said) == sorted(known)
    torch.testing.assert_close(probabilities, torch.tensor([known[x][0] for x in said], dtype=F64), atol=1e-12, rtol=0)
    rewards = torch.tensor([known[x][1] for x in said], dtype=F64)
    assert float(probabilities @ rewards) == pytest.approx(float(performance(language, policy, 1.0)), abs=1e-12)
    ended = [x[-1] == FULL_STOP for x in said]
    assert completions.terminated[0].tolist() == ended
    assert completions.truncated[0].tolist() == [not x for x in ended]


def test_what_a_filter_leaves_out_is_not_enumerated() -> None:
    model = gpt()
    completions, probabilities = enumerate_completions(model, RAGGED[0], max_tokens=2, end=0, top_k=2)
    probabilities = probabilities.detach()
    assert completions.tokens.shape[1] <= 4
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(completions.log_probs[0].sum(-1).exp(), probabilities)


@pytest.mark.parametrize("end", [None, 0, 2])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_rows_of_the_tree_are_the_models_logits_after_each_prefix(end: int | None, length: int) -> None:
    model = gpt(vocab_size=3)
    prompts = [torch.tensor([1, 2, 2]), torch.tensor([0])]
    found = token_tree_logits(model, prompts, max_tokens=length, end=end, batch_size=3)
    sequences = token_sequences(3, length, eos=end, n_prompts=2)
    assert len(found) == len(sequences)
    for row, (prompt, tokens) in zip(found, sequences, strict=True):
        complete = len(tokens) == length or (tokens[-1:] == (end,))
        ids = torch.cat([prompts[prompt], torch.tensor(tokens, dtype=torch.int64)])
        expected = torch.zeros(3, dtype=F64) if complete else model(ids[None]).logits[0, -1]
        torch.testing.assert_close(row, expected, atol=1e-12, rtol=0)


def test_the_exact_gradient_by_the_table_is_that_by_enumeration() -> None:
    """Two routes to the gradient of the parameters: the theorem and the chain rule; the derivative of a sum."""
    model, prompts = gpt(vocab_size=3), [torch.tensor([1, 2, 2]), torch.tensor([0])]
    parameters = list(model.parameters())
    mdp = token_tree(3, 3, reward=lambda prompt, tokens: prompt + float(sum(tokens)) ** 2, eos=0, n_prompts=2)
    logits = token_tree_logits(model, prompts, max_tokens=3, end=0)
    table = exact_policy_gradient(mdp, logits.detach(), 1.0)
    by_theorem = torch.autograd.grad(logits, parameters, table)
    total = torch.zeros((), dtype=F64)
    for x, prompt in enumerate(prompts):
        completions, probabilities = enumerate_completions(model, prompt, max_tokens=3, end=0)
        total = total + 0.5 * probabilities @ (x + completions.tokens[0].sum(-1).double() ** 2)
    policy = softmax_policy(logits.detach(), available=mdp.available)
    assert_same_up_to_rounding(performance(mdp, policy, 1.0), total.detach(), ulps=64)
    for x, y in zip(by_theorem, torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(x, y, atol=1e-11, rtol=1e-9)


# --- bad input

MODEL, PROMPTS = gpt(), [torch.tensor([1])]
FIRST = torch.tensor([[True], [False]])
DRAWN = sample_completions(MODEL, PROMPTS, 2, max_tokens=2, generator=seeded())


def sampling(**changed: Any) -> Completions:
    arguments = {"model": MODEL, "prompts": PROMPTS, "size": 2, "max_tokens": 2} | changed
    return sample_completions(**arguments)


def nan_model(input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
    return SimpleNamespace(logits=torch.full((*input_ids.shape, 4), math.nan))


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a model that cannot be called": (lambda: sampling(model=3), TypeError, "model must be a function, not int"),
    "a model without logits": (
        lambda: sampling(model=lambda input_ids, attention_mask: input_ids),
        TypeError,
        r"model must return an object with logits \[N, L, V\], not Tensor",
    ),
    "logits that are NaN": (lambda: sampling(model=nan_model), ValueError, r"logits is NaN at \[0, 0\]"),
    "no prompt": (lambda: sampling(prompts=[]), ValueError, "prompts is empty"),
    "an empty prompt": (
        lambda: sampling(prompts=[PROMPTS[0], PROMPTS[0][:0]]),
        ValueError,
        r"prompts\[1\] has shape \[0\], expected \[P\] with at least one token",
    ),
    "completions of an empty prompt": (
        lambda: completion_log_probs(
            MODEL, Completions(*(x.expand(2, *x.shape[1:]) for x in DRAWN))._replace(prompt_mask=FIRST)
        ),
        ValueError,
        r"completions has an empty prompt at \[1\]",
    ),
    "a negative token": (
        lambda: sampling(prompts=[torch.tensor([3, -1])]),
        ValueError,
        r"prompts\[0\] is -1 at \[1\], which is no token",
    ),
    "a prompt of floats": (
        lambda: sampling(prompts=[torch.tensor([1.0])]),
        TypeError,
        r"prompts\[0\] must hold integers, not torch.float32",
    ),
    "prompts that are text": (
        lambda: sampling(prompts="Hello"),
        TypeError,
        "prompts must be a sequence of tensors of tokens, not str",
    ),
    "no completion": (lambda: sampling(size=0), ValueError, "size must be at least 1, not 0"),
    "no token": (lambda: sampling(max_tokens=0), ValueError, "max_tokens must be at least 1, not 0"),
    "a negative end": (lambda: sampling(end=[2, -1]), ValueError, r"end\[1\] must be at least 0, not -1"),
    "an end that is text": (lambda: sampling(end="."), TypeError, "end must be an integer, not str"),
    "a top-p of 0": (lambda: sampling(top_p=0.0), ValueError, r"top_p must be in \(0, 1\], not 0.0"),
    "completions that are none": (
        lambda: completion_log_probs(MODEL, DRAWN.tokens),  # type: ignore[arg-type]
        TypeError,
        "completions must be a Completions, not Tensor",
    ),
    "a mask of another shape": (
        lambda: completion_log_probs(MODEL, DRAWN._replace(mask=DRAWN.mask[..., :1])),
        ValueError,
        r"completions.mask has shape \[1, 2, 1\] but its tokens has \[1, 2, 2\]",
    ),
    "prompts of another number": (
        lambda: completion_entropies(
            MODEL, DRAWN._replace(prompts=torch.ones(2, 1).long(), prompt_mask=torch.ones(2, 1).bool())
        ),
        ValueError,
        r"completions has prompts \[2, 1\] and tokens \[1, 2, 2\], expected \[B, P\] and \[B, K, T\]",
    ),
    "a token outside the vocabulary": (
        lambda: completion_log_probs(bigrams, DRAWN._replace(tokens=DRAWN.tokens * 0 + torch.tensor([1, 4]))),
        ValueError,
        r"completions.tokens is 4 at \[0, 1\], not in the vocabulary 0..3",
    ),
    "no row at a time": (
        lambda: completion_log_probs(MODEL, DRAWN, batch_size=0),
        ValueError,
        "batch_size must be at least 1, not 0",
    ),
    "a reference of another vocabulary": (
        lambda: completion_kl(MODEL, gpt(vocab_size=7), DRAWN),
        ValueError,
        "reference has a vocabulary of 7 tokens, but model 5",
    ),
    "an end outside the vocabulary": (
        lambda: enumerate_completions(MODEL, PROMPTS[0], max_tokens=2, end=5),
        ValueError,
        "end is 5, not in the vocabulary 0..4",
    ),
    "too many completions": (
        lambda: enumerate_completions(MODEL, PROMPTS[0], max_tokens=10),
        ValueError,
        "there are 9,765,625 completions of up to 10 tokens, more than 10,000,000 tokens in all: make max_tokens",
    ),
    "too large a tree": (
        lambda: token_tree_logits(MODEL, PROMPTS, max_tokens=10),
        ValueError,
        "the tree would hold",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument_is_named(case: str) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()
