"""The tiny GPT against torch's own transformer layers, its tasks against other ways to say them."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import chance
import pytest
import torch
from helpers import F64, seeded
from torch import Tensor, nn

from pgtheory.language_models import Completions, sample_completions
from pgtheory.tiny_gpt import (
    TinyGPT,
    bracket_rewards,
    is_balanced,
    pretrain,
    sorting_prompts,
    sorting_rewards,
    sorting_sequences,
)


def gpt(**options: Any) -> TinyGPT:
    arguments: dict[str, Any] = {"context_length": 10, "width": 12, "n_layers": 2, "n_heads": 3, "dtype": F64}
    return TinyGPT(6, **(arguments | {"generator": seeded()} | options))


IDS = torch.randint(6, (4, 7), generator=seeded(1))


def by_torch(model: TinyGPT, ids: Tensor) -> Tensor:
    """The same model in the layers of torch."""
    x = model.tokens.weight[ids] + model.positions.weight[: ids.shape[1]]
    causal = nn.Transformer.generate_square_subsequent_mask(ids.shape[1], dtype=F64)
    for block in model.blocks:
        width = x.shape[-1]
        layer = nn.TransformerEncoderLayer(
            width, 3, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=F64
        )
        names = {
            "self_attn.in_proj": "query_key_value",
            "self_attn.out_proj": "project",
            "linear1": "widen",
            "linear2": "narrow",
            "norm1": "norm_1",
            "norm2": "norm_2",
        }
        ours = dict(block.named_parameters())
        theirs = dict(layer.named_parameters())
        for there, here in names.items():
            for kind in ("weight", "bias"):
                key = f"{there}_{kind}" if there.endswith("in_proj") else f"{there}.{kind}"
                theirs[key].data = ours[f"{here}.{kind}"].data
        x = layer(x, src_mask=causal)
    return nn.functional.layer_norm(x, x.shape[-1:], model.norm.weight, model.norm.bias) @ model.tokens.weight.T


def shaken(model: TinyGPT) -> TinyGPT:
    """With biases, scales and embeddings that are not those of the beginning."""
    draw = seeded(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw, dtype=F64))
    return model


def test_the_model_is_the_transformer_of_torch() -> None:
    model = shaken(gpt())
    torch.testing.assert_close(model(IDS).logits, by_torch(model, IDS), atol=1e-12, rtol=0)


def test_padding_on_the_left_changes_nothing() -> None:
    model = shaken(gpt())
    padded = nn.functional.pad(IDS, (2, 0), value=3)
    mask = torch.ones_like(padded)
    mask[:, :2] = 0
    torch.testing.assert_close(model(padded, mask).logits[:, 2:], model(IDS).logits, atol=1e-12, rtol=0)
    assert model(padded, mask).logits.isfinite().all()


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_with_a_cache_the_logits_are_the_same(cut: int) -> None:
    model, mask = shaken(gpt()), torch.ones_like(IDS)
    mask[1:3, :2] = 0
    first = model(IDS[:, :cut], mask[:, :cut], use_cache=True)
    second = model(IDS[:, cut:], mask, past_key_values=first.past_key_values, use_cache=True)
    found = torch.cat([first.logits, second.logits], 1)
    seen = mask.bool()
    torch.testing.assert_close(found[seen], model(IDS, mask).logits[seen], atol=1e-12, rtol=0)
    assert model(IDS).past_key_values is None


def test_a_repeated_cache_serves_the_group() -> None:
    model = shaken(gpt())
    cache = model(IDS[:2, :3], use_cache=True).past_key_values
    cache.batch_repeat_interleave(2)
    found = model(IDS[:, 3:4], past_key_values=cache, use_cache=True).logits[:, 0]
    whole = torch.cat([IDS[:2, :3].repeat_interleave(2, 0), IDS[:, 3:4]], 1)
    torch.testing.assert_close(found, model(whole).logits[:, -1], atol=1e-12, rtol=0)


def test_only_the_logits_that_are_wanted_are_made() -> None:
    model = gpt()
    torch.testing.assert_close(model(IDS, logits_to_keep=2).logits, model(IDS).logits[:, -2:], atol=1e-12, rtol=0)


def test_the_weights_are_decided_by_the_generator_and_start_near_the_uniform_distribution() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = gpt(), gpt(), gpt(generator=seeded(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first(IDS).logits, again(IDS).logits)
    assert not torch.equal(first(IDS).logits, other(IDS).logits)
    assert (first(IDS).logits.softmax(-1) - 1 / 6).abs().max() < 0.05
    assert 90_000 < sum(p.numel() for p in TinyGPT(12, generator=seeded()).parameters()) < 110_000


def test_the_first_weights_have_the_spread_that_keeps_features_the_size_they_are() -> None:
    """Of n weights, Σ w² / σ² has the mean n and the variance 2n."""
    model = TinyGPT(50, width=64, n_layers=3, n_heads=2, generator=seeded())
    embeddings, inside = 0.02, 1 / math.sqrt(64)
    spreads = {"tokens": embeddings, "positions": embeddings, "query_key_value": inside, "widen": inside}
    spreads |= {"project": inside / math.sqrt(6), "narrow": 1 / math.sqrt(4 * 64 * 6)}
    for name, weight in model.named_parameters():
        module, kind = name.split(".")[-2:]
        if module.startswith("norm") or kind == "bias":
            assert (weight == float(kind == "weight")).all(), name
        else:
            ratio = float((weight.detach().double() / spreads[module]).square().mean())
            assert abs(ratio - 1) < chance.most_errors(14) * math.sqrt(2 / weight.numel()), name


@pytest.mark.parametrize("start", [1, 3, 4])
def test_pretraining_reads_the_tokens_behind_the_prompt(start: int) -> None:
    model = TinyGPT(6, context_length=5, width=16, n_layers=1, generator=seeded())
    sequences = (torch.arange(6)[:, None] + torch.arange(5)) % 6
    batch = sequences[torch.randint(6, (64,), generator=seeded(2))]
    logits = model(batch[:, :-1]).logits[:, start - 1 :]
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, start:].flatten())
    losses = pretrain(model, sequences, n_steps=1, prompt_length=start, generator=seeded(2))
    torch.testing.assert_close(losses[0], expected.detach())


def test_pretraining_starts_at_the_cross_entropy_and_learns_to_count() -> None:
    model = TinyGPT(6, context_length=5, width=16, n_layers=1, generator=seeded())
    sequences = (torch.arange(6)[:, None] + torch.arange(5)) % 6
    batch = sequences[torch.randint(6, (64,), generator=seeded(2))]
    logits = model(batch[:, :-1]).logits[:, 1:]
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 2:].flatten())
    losses = pretrain(model, sequences, n_steps=60, prompt_length=2, learning_rate=1e-2, generator=seeded(2))
    torch.testing.assert_close(losses[0], expected.detach())
    drawn = sample_completions(model, list(sequences[:, :2]), 1, max_tokens=3, temperature=0)
    assert torch.equal(drawn.tokens[:, 0], sequences[:, 2:])


def completions(prompts: list[list[int]], said: list[list[int]], max_tokens: int) -> Completions:
    """One completion for each prompt, padded with tokens that are not to be read."""
    width = max(map(len, prompts))
    ids = torch.tensor([[7] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts])
    tokens = torch.tensor([[s + [5] * (max_tokens - len(s))] for s in said])
    taken = torch.tensor([[[True] * len(s) + [False] * (max_tokens - len(s))] for s in said])
    ended = torch.tensor([[s[-1] == 11] for s in said])
    return Completions(ids, mask, tokens, taken, torch.zeros(tokens.shape), ended, ~ended)


SORTED: list[tuple[list[int], list[int], float]] = [
    ([3, 1, 2, 10], [1, 2, 3, 11], 1.0),
    ([3, 1, 2, 10], [1, 3, 2, 11], 0.0),
    ([3, 1, 2, 10], [1, 2, 3], 0.0),
    ([3, 1, 2, 10], [1, 2, 3, 3, 11], 0.0),
    ([3, 1, 2, 10], [1, 2, 11], 0.0),
    ([9, 9, 10], [9, 9, 11], 1.0),
    ([9, 9, 10], [9, 11], 0.0),
    ([0, 0, 10], [0, 0, 11], 1.0),
    ([4, 10], [4, 11], 1.0),
]


def test_a_completion_is_rewarded_if_it_is_sorted_and_ends() -> None:
    rated = sorting_rewards(completions([p for p, _, _ in SORTED], [s for _, s, _ in SORTED], 6))
    assert rated[:, 0].tolist() == [r for _, _, r in SORTED]
    for prompt, said, reward in SORTED:  # a limit shorter or longer than the prompt
        for limit in {len(said), 9}:
            assert float(sorting_rewards(completions([prompt], [said], limit))) == reward


def test_the_sequences_to_imitate_are_right_completions() -> None:
    prompts = sorting_prompts(100, generator=seeded())
    assert prompts.shape == (100, 5)
    for sequence in sorting_sequences(prompts).tolist():
        assert sequence == [*sequence[:4], 10, *sorted(sequence[:4]), 11]
    assert len(prompts[:, :4].unique()) == 10


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_catalans_number_of_sequences_is_balanced(n: int) -> None:
    everything = torch.tensor(list(product((0, 1), repeat=2 * n)))
    found = is_balanced(everything)
    assert int(found.sum()) == math.comb(2 * n, n) // (n + 1)

    def closes(text: str) -> bool:
        while "()" in text:
            text = text.replace("()", "")
        return text == ""

    assert found.tolist() == [closes("".join("()"[token] for token in row)) for row in everything.tolist()]
    assert not is_balanced(everything[:, 1:]).any()


def test_brackets_are_rated_with_the_prompt() -> None:
    prompts, said = [[0], [0, 1], [0, 0, 0], [1]], [[0, 1, 1, 0], [0, 0, 1, 1], [1, 1], [0]]
    drawn = completions(prompts, said, 4)
    assert bracket_rewards(drawn).tolist() == [[0.0], [1.0], [0.0], [0.0]]
    assert bracket_rewards(completions([[0], [0, 0]], [[1], [1, 0, 1, 1]], 4)).tolist() == [[1.0], [1.0]]


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "heads that do not divide": (
        lambda: TinyGPT(4, n_heads=5),
        ValueError,
        "n_heads is 5, not a divisor of the width 64",
    ),
    "an integer dtype": (lambda: TinyGPT(4, dtype=torch.int64), TypeError, "dtype must be a floating-point dtype"),
    "a token outside the vocabulary": (
        lambda: gpt()(torch.tensor([[1, 6]])),
        ValueError,
        r"input_ids is 6 at \[0, 1\], not in the vocabulary 0..5",
    ),
    "a sequence longer than the context": (
        lambda: gpt()(torch.zeros(1, 11, dtype=torch.int64)),
        ValueError,
        r"position_ids is 10 at \[0, 10\], not in the context 0..9",
    ),
    "a mask of another shape": (
        lambda: gpt()(IDS, attention_mask=IDS[1:] >= 0),
        ValueError,
        r"attention_mask has shape \[3, 7\], expected \[4, 7\]",
    ),
    "a prompt without a rest": (
        lambda: pretrain(gpt(), IDS, n_steps=1, prompt_length=7),
        ValueError,
        "prompt_length is 7, but the sequences have 7 tokens",
    ),
    "sequences of floats": (
        lambda: pretrain(gpt(), IDS.float(), n_steps=1),
        TypeError,
        "sequences must hold integers, not torch.float32",
    ),
    "no module": (lambda: pretrain(len, IDS, n_steps=1), TypeError, "model must be a Module"),  # type: ignore[arg-type]
    "no prompts": (lambda: sorting_prompts(0), ValueError, "n must be at least 1, not 0"),
    "a prompt without its end": (
        lambda: sorting_sequences(torch.tensor([[1, 10, 2]])),
        ValueError,
        r"prompts has the token 10 elsewhere than at its end at \[0, 1\]",
    ),
    "completions that are tokens": (
        lambda: sorting_rewards(IDS),  # type: ignore[arg-type]
        TypeError,
        "completions must be a Completions, not Tensor",
    ),
    "brackets that are tokens": (
        lambda: bracket_rewards(IDS),  # type: ignore[arg-type]
        TypeError,
        "completions must be a Completions, not Tensor",
    ),
    "no bracket": (lambda: is_balanced(torch.tensor([0, 2])), ValueError, r"tokens is 2 at \[1\], not in 0..1"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument_is_named(case: str) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()
