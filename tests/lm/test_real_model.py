"""The real language model, where it is in a cache: it is read, decoded and post-trained as the book says."""

from typing import Any

import chance
import pytest
import torch
from helpers import seeded

import pgtheory as pg

QUESTIONS = ["What is the capital of France?", "Name a colour.", "Count to 5, and say no more than that."]


@pytest.fixture(scope="module")
def smollm() -> pg.SmolLM:
    if pg.find_smollm() is None:
        pytest.skip("SmolLM2-135M-Instruct is in no cache: make lm fetches it")
    return pg.load_smollm()


def chats(tokenizer: Any) -> list[torch.Tensor]:
    options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
    messages = ([{"role": "user", "content": question}] for question in QUESTIONS)
    return [tokenizer.apply_chat_template(message, **options)["input_ids"][0] for message in messages]


def generated(smollm: pg.SmolLM, prompts: list[torch.Tensor], **options: Any) -> Any:
    """What `transformers` generates after prompts that are padded on the left."""
    ids = [{"input_ids": prompt.tolist()} for prompt in prompts]
    inputs = smollm.tokenizer.pad(ids, padding_side="left", return_tensors="pt")
    settings = {"pad_token_id": smollm.tokenizer.pad_token_id, "return_dict_in_generate": True} | options
    output = smollm.model.generate(**inputs, **settings)
    output.tokens = output.sequences[:, inputs["input_ids"].shape[1] :]
    return output


def test_the_weights_are_those_of_a_model_that_knows_paris(smollm: pg.SmolLM) -> None:
    model, tokenizer, weights = smollm
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert weights in ("dequantised 4-bit weights (Q4_1)", "the published weights")
    end = tokenizer.eos_token_id
    answer = pg.sample_completions(model, chats(tokenizer)[:1], 1, max_tokens=16, end=end, temperature=0.0)
    text = tokenizer.decode(answer.tokens[0, 0][answer.mask[0, 0]], skip_special_tokens=True)
    assert text == "The capital of France is Paris."
    assert bool(answer.terminated.all())


def test_greedy_decoding_gives_the_tokens_of_generate(smollm: pg.SmolLM) -> None:
    model, tokenizer, _ = smollm
    prompts = chats(tokenizer)
    theirs = generated(smollm, prompts, max_new_tokens=24, do_sample=False).tokens
    ours = pg.sample_completions(model, prompts, 1, max_tokens=24, end=tokenizer.eos_token_id, temperature=0.0)
    for row, mask, expected in zip(ours.tokens[:, 0], ours.mask[:, 0], theirs, strict=True):
        assert row[mask].tolist() == expected[: int(mask.sum())].tolist()
    assert bool(ours.terminated.any()), "one answer ends by itself, so that the end is compared too"


RULES = [{"temperature": 0.7}, {"top_k": 20}, {"top_p": 0.9}, {"temperature": 1.3, "top_k": 50, "top_p": 0.8}]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_each_token_has_the_probability_that_generate_gives_it(smollm: pg.SmolLM, rule: dict[str, Any]) -> None:
    model, tokenizer, _ = smollm
    prompts = chats(tokenizer)
    torch.manual_seed(0)
    options = {"top_k": 0, "top_p": 1.0} | rule
    theirs = generated(smollm, prompts, max_new_tokens=8, do_sample=True, output_scores=True, **options)
    ended = (theirs.tokens == tokenizer.eos_token_id).cumsum(-1)
    mask = (ended == 0) | ((ended == 1) & (theirs.tokens == tokenizer.eos_token_id))
    scores = torch.stack(theirs.scores, 1).log_softmax(-1)
    expected = scores.gather(-1, theirs.tokens[..., None])[..., 0].where(mask, 0.0)
    drawn = pg.sample_completions(model, prompts, 1, max_tokens=8, end=tokenizer.eos_token_id, **rule)
    same_tokens = drawn._replace(tokens=theirs.tokens[:, None], mask=mask[:, None])
    with torch.no_grad():
        found = pg.completion_log_probs(model, same_tokens, **rule)[:, 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_samples_have_the_distribution_of_generate(smollm: pg.SmolLM) -> None:
    model, tokenizer, _ = smollm
    prompt, n = tokenizer("My favourite colour is", return_tensors="pt")["input_ids"][0], 200
    drawn = pg.sample_completions(model, [prompt], n, max_tokens=1, temperature=0.8, top_k=6, generator=seeded())
    torch.manual_seed(0)
    options = {"do_sample": True, "temperature": 0.8, "top_k": 6, "top_p": 1.0, "num_return_sequences": n}
    theirs = generated(smollm, [prompt], max_new_tokens=1, output_scores=True, **options)
    probabilities = theirs.scores[0][0].softmax(-1)
    kept = probabilities.nonzero()[:, 0]
    counts = torch.stack([(tokens == kept[:, None]).sum(1) for tokens in (drawn.tokens.flatten(), theirs.tokens[:, 0])])
    assert counts.sum(1).tolist() == [n, n], "both stay within the six tokens"
    for row in counts:
        chance.assert_counts(row, probabilities[kept].double() / probabilities[kept].double().sum(), n, tests=2)
