"""A step of post-training is the formula of its loss, however the batch is cut; a run goes on bit for bit."""

import io
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import F64
from post_training_runs import ARGUMENTS, LOSSES, PROMPTS, T, run, score, tiny
from torch import Tensor, nn

from pgtheory import _post_training
from pgtheory._checkpoints import read_checkpoint, write_checkpoint
from pgtheory.language_models import Completions, sample_completions
from pgtheory.post_training import RewardError, post_train
from pgtheory.tiny_gpt import TinyGPT
from pgtheory.training import CheckpointError


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Completions]:
    """What the steps draw, with the second completion of the first prompt emptied: every token of it is masked."""
    found: list[Completions] = []

    def sampled(*arguments: Any, **options: Any) -> Completions:
        completions = sample_completions(*arguments, **options)
        for field in (completions.tokens, completions.mask, completions.log_probs):
            field[0, 1] = 0
        found.append(completions)
        return completions

    monkeypatch.setattr(_post_training, "sample_completions", sampled)
    return found


# --- the formulas, one token at a time


def plain_row(logits: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> list[Tensor]:
    """The log-probabilities of one row: of the k likeliest tokens alone, or of the fewest whose mass reaches p."""
    weights = [torch.exp(z / temperature) for z in logits]
    ranked = sorted(range(len(weights)), key=lambda v: (-float(weights[v].detach()), v))
    kept, mass = [], 0.0
    for v in ranked[: top_k or len(ranked)]:
        if top_p is None or mass < top_p:
            kept.append(v)
            mass += float((weights[v] / sum(weights)).detach())
    total = sum(weights[v] for v in kept)
    return [torch.log(w / total) if v in kept else logits.new_tensor(-math.inf) for v, w in enumerate(weights)]


def plain_log_probs(
    model: TinyGPT,
    completions: Completions,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> list[list[list[Tensor]]]:
    """The log-probability of each token of each completion of each prompt: one forward pass for each, no padding."""
    groups = []
    for b, prompt in enumerate(completions.prompts):
        begin = prompt[completions.prompt_mask[b]]
        group = []
        for k in range(completions.tokens.shape[1]):
            tokens = completions.tokens[b, k][completions.mask[b, k]]
            logits = model(torch.cat([begin, tokens])[None]).logits[0]
            rows = [plain_row(logits[len(begin) - 1 + t], temperature, top_k, top_p) for t in range(len(tokens))]
            group.append([row[int(token)] for row, token in zip(rows, tokens, strict=True)])
        groups.append(group)
    return groups


def plain_advantages(rewards: list[float], loss: str) -> list[float]:
    if loss in ("rloo", "ppo_clip"):
        return [r - statistics.mean(rewards[:i] + rewards[i + 1 :]) for i, r in enumerate(rewards)]
    if loss == "reinforce":
        return rewards
    spread = 1.0 if loss == "dr_grpo" else statistics.stdev(rewards) + 1e-4
    return [(r - statistics.mean(rewards)) / spread for r in rewards]


def plain_loss(
    loss: str, new: Any, old: Any, ref: Any, rewards: Tensor, *, clip: tuple[float, float], kl_weight: float
) -> Tensor:
    """The loss, as sums over prompts, completions and tokens."""
    total = torch.zeros((), dtype=F64)
    n = rewards.numel()
    n_tokens = sum(len(tokens) for group in new for tokens in group)
    for b, group in enumerate(new):
        advantages = plain_advantages(rewards[b].tolist(), loss)
        for k, tokens in enumerate(group):
            if not tokens:
                continue
            mean_log_ratio = sum(tokens) / len(tokens) - sum(old[b][k]) / len(tokens)
            for t, log_prob in enumerate(tokens):
                ratio = torch.exp(mean_log_ratio if loss == "gspo" else log_prob - old[b][k][t])
                inside = ratio.clamp(1 - clip[0], 1 + clip[1])
                gain = torch.minimum(ratio * advantages[k], inside * advantages[k])
                if loss == "reinforce":
                    gain = advantages[k] * log_prob
                r = torch.exp(ref[b][k][t] - log_prob) if kl_weight else torch.ones((), dtype=F64)
                gain = gain - kl_weight * (r - 1 - torch.log(r))
                weight = {
                    "grpo": 1 / (n * len(tokens)),
                    "gspo": 1 / (n * len(tokens)),
                    "dr_grpo": 1 / (n * T),
                    "dapo": 1 / n_tokens,
                    "ppo_clip": 1 / n_tokens,
                    "rloo": 1 / n,
                    "reinforce": 1 / n,
                }[loss]
                total = total - weight * gain
    return total


def plain_adamw(
    model: TinyGPT, losses: Callable[[], Tensor], epochs: int, rate: float, decay: float, largest: float
) -> list[Tensor]:
    """AdamW as in the paper, on gradients whose norm is limited; returns the last gradient, as it was before that."""
    parameters = list(model.parameters())
    m, v = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    for epoch in range(1, epochs + 1):
        gradients = torch.autograd.grad(losses(), parameters)
        norm = math.sqrt(sum(float((g * g).sum()) for g in gradients))
        with torch.no_grad():
            for i, (p, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                g = gradient * min(1.0, largest / (norm + 1e-6))
                m[i] = 0.9 * m[i] + 0.1 * g
                v[i] = 0.999 * v[i] + 0.001 * g * g
                step = (m[i] / (1 - 0.9**epoch)) / ((v[i] / (1 - 0.999**epoch)).sqrt() + 1e-8)
                p.copy_(p - rate * decay * p - rate * step)
    return list(gradients)


def detached(values: Any) -> Any:
    return values.detach() if isinstance(values, Tensor) else [detached(value) for value in values]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", ["plain", "everything"])
def test_one_update_is_the_formula_of_the_loss_token_by_token(loss: str, case: str, drawn: list[Completions]) -> None:
    plain = case == "plain"
    temperature, kl_weight, epochs, decay, largest = (1.0, 0.0, 1, 0.0, 1e9) if plain else (0.7, 0.3, 3, 0.1, 0.5)
    clip = (0.1, 0.25)
    model, other, reference = tiny(), tiny(), tiny(1)
    (record,) = run(
        model,
        loss=loss,
        temperature=temperature,
        kl_weight=kl_weight,
        reference=None if plain else reference,
        epochs=epochs,
        clip=clip,
        weight_decay=decay,
        max_grad_norm=None if plain else largest,
        learning_rate=0.02,
        micro_batch=None if plain else 5,
    )
    (completions,) = drawn
    lengths = completions.lengths
    assert len(set(lengths.flatten().tolist())) >= 4
    assert int(lengths[0, 1]) == 0
    old = detached(plain_log_probs(other, completions, temperature))
    ref = detached(plain_log_probs(reference, completions, temperature))

    last: list[Any] = []

    def value() -> Tensor:
        new = plain_log_probs(other, completions, temperature)
        last[:] = detached(new)
        return plain_loss(loss, new, old, ref, score(completions), clip=clip, kl_weight=kl_weight)

    gradients = plain_adamw(other, value, epochs, 0.02, decay, largest)
    for p, q, gradient in zip(model.parameters(), other.parameters(), gradients, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-9)
        if plain:
            torch.testing.assert_close(p.grad, gradient, rtol=1e-6, atol=1e-12)
    norm = math.sqrt(sum(float((g * g).sum()) for g in gradients))
    assert record.gradient_norm == pytest.approx(norm, rel=1e-6)
    ratios = [
        math.exp(float(x) - float(y))
        for group, old_group in zip(last, old, strict=True)
        for tokens, old_tokens in zip(group, old_group, strict=True)
        for x, y in zip(tokens, old_tokens, strict=True)
    ]
    outside = [ratio < 1 - clip[0] or ratio > 1 + clip[1] for ratio in ratios]
    assert record.clipped == pytest.approx(statistics.mean(outside), rel=1e-6)
    assert (record.clipped == 0.0) if plain else (0.0 < record.clipped < 1.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_the_loss_of_the_whole_batch_however_it_is_cut(
    loss: str, drawn: list[Completions]
) -> None:
    options = {"loss": loss, "kl_weight": 0.3, "reference": tiny(1, torch.float32), "temperature": 0.8}
    gradients = []
    for micro_batch in (None, 1, 5, 7, 100):
        model = tiny(dtype=torch.float32)
        run(model, micro_batch=micro_batch, **options)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert all(torch.equal(drawn[0].tokens, other.tokens) for other in drawn)
    largest = float(gradients[0].abs().max())
    assert largest > 1e-3
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=0.0, atol=1e-6 * max(1.0, largest))


def test_where_all_rewards_are_equal_nothing_is_worked_on_and_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(_post_training, "completion_log_probs", never)
    model = tiny()
    (record,) = run(model, reward=lambda completions: torch.ones(3, 4), micro_batch=2)
    assert record.gradient_norm == 0.0
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), tiny().parameters(), strict=True))


@pytest.mark.parametrize("truncation", [{"top_k": 2}, {"top_p": 0.7}], ids=["top-k", "top-p"])
def test_a_token_that_decoding_has_come_to_leave_out_has_no_gradient(
    truncation: dict[str, Any], drawn: list[Completions]
) -> None:
    model, other = tiny(), tiny()
    run(model, loss="dr_grpo", **truncation, epochs=3, learning_rate=0.05, clip=(1.0, math.inf))
    (completions,) = drawn
    old = detached(plain_log_probs(other, completions, **truncation))
    left_out = 0

    def value() -> Tensor:
        nonlocal left_out
        new = plain_log_probs(other, completions, **truncation)
        total = torch.zeros((), dtype=F64)
        for b, group in enumerate(new):
            advantages = plain_advantages(score(completions)[b].tolist(), "dr_grpo")
            for k, tokens in enumerate(group):
                kept = [(x, y) for x, y in zip(tokens, old[b][k], strict=True) if x > -math.inf]
                left_out += len(tokens) - len(kept)
                total = total - sum(torch.exp(x - y) * advantages[k] for x, y in kept) / (12 * T)
        return total

    plain_adamw(other, value, 3, 0.05, 0.0, 1e9)
    assert left_out > 0
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kl_weight", [0.0, 0.3])
def test_a_loss_of_ones_own_gets_all_groups_and_its_gradient_is_followed(
    kl_weight: float, drawn: list[Completions]
) -> None:
    shapes = []

    def mine(log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, /, *, mask: Tensor) -> Tensor:
        shapes.append([list(x.shape) for x in (log_probs, old_log_probs, rewards, mask)])
        return -(torch.where(mask, log_probs, 0.0).sum(-1) * rewards).sum() / 12

    model, other = tiny(), tiny()
    run(model, loss=mine, micro_batch=5, kl_weight=kl_weight, reference=tiny(1))
    run(other, loss="reinforce", kl_weight=kl_weight, reference=tiny(1))
    assert shapes == [[[3, 4, T], [3, 4, T], [3, 4], [3, 4, T]]]
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


# --- what a step tells


def test_a_record_tells_what_was_drawn(drawn: list[Completions]) -> None:
    model, before, reference = tiny(), tiny(), tiny(1)
    (record,) = run(model, reference=reference, decode=None, prompts_per_step=2)
    (completions,) = drawn
    new, ref = (detached(plain_log_probs(each, completions)) for each in (before, reference))
    tokens = [
        (x, y)
        for a, b in zip(new, ref, strict=True)
        for c, d in zip(a, b, strict=True)
        for x, y in zip(c, d, strict=True)
    ]
    k3 = [math.exp(y - x) - 1 - float(y - x) for x, y in tokens]
    assert completions.tokens.shape[:2] == (2, 4)
    assert record.step == 1
    assert record.reward == pytest.approx(float(score(completions).mean()))
    assert record.kl == pytest.approx(statistics.mean(k3))
    assert record.entropy == pytest.approx(-statistics.mean(float(x) for x, _ in tokens))
    assert record.length == pytest.approx(len(tokens) / 8)
    assert record.truncated == pytest.approx(float(completions.truncated.double().mean()))
    prompt = completions.prompts[0][completions.prompt_mask[0]].tolist()
    assert (record.prompt, record.completion) == (
        str(prompt),
        str(completions.tokens[0, 0][completions.mask[0, 0]].tolist()),
    )


def test_without_a_reference_there_is_no_divergence() -> None:
    assert math.isnan(run(tiny())[0].kl)


def test_a_ratio_at_the_end_of_the_clip_range_is_inside() -> None:
    # In the first epoch every ratio is 1.
    assert run(tiny(), clip=0.0)[0].clipped == 0.0


def test_post_training_raises_the_reward() -> None:
    # The seed is fixed; of 40 seeds none gained less than 1.2.
    model = tiny()
    history = run(model, reward=lambda c: -c.lengths, steps=30, learning_rate=0.01, size=8)
    assert history[-1].reward > history[0].reward + 1.0
    assert [record.step for record in history] == list(range(1, 31))


def test_the_decode_of_the_user_gives_texts_to_the_reward_and_to_the_history() -> None:
    seen = []

    def reward(prompts: list[str], completions: list[str]) -> list[bool]:
        seen.append((prompts, completions))
        return [len(completion) > 2 for completion in completions]

    (record,) = run(tiny(), reward=reward, decode=lambda tokens: "".join("abcde"[t] for t in tokens.tolist()))
    ((prompts, completions),) = seen
    assert len(prompts) == len(completions) == 12
    assert sorted(set(prompts)) == ["bcd", "cc", "e"]
    assert [prompts[i] for i in range(0, 12, 4)] == [prompts[i] for i in range(3, 12, 4)]
    assert record.reward == pytest.approx(sum(len(c) > 2 for c in completions) / 12)
    assert (record.prompt, record.completion) == (prompts[0], completions[0])


class Dropping(nn.Module):
    """A model with dropout, which draws from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.dropout = tiny(), nn.Dropout(0.5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        output = self.inner(input_ids, attention_mask=attention_mask)
        return output._replace(logits=self.dropout(output.logits))


def test_no_dropout_and_no_global_generator_is_used_and_the_modes_come_back() -> None:
    model, reference = Dropping().train(), Dropping().train()
    model.inner.eval()
    before = torch.get_rng_state()
    first = run(model, reference=reference, steps=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert (model.training, model.dropout.training, model.inner.training, reference.training) == (
        True,
        True,
        False,
        True,
    )
    for record, plain in zip(first, run(tiny(), reference=tiny(), steps=2), strict=True):
        assert record.reward == pytest.approx(plain.reward, rel=1e-9)
        assert record.entropy == pytest.approx(plain.entropy, rel=1e-9)


def test_a_seed_gives_the_same_run_and_another_one_another() -> None:
    first, second, third = (run(tiny(), steps=2, seed=seed) for seed in (3, 3, 4))
    assert str(first) == str(second) != str(third)


def test_the_prompts_of_a_step_are_drawn_without_replacement() -> None:
    seen: list[tuple[int, ...]] = []

    def reward(completions: Completions) -> Tensor:
        seen.append(tuple(sorted(completions.prompts[:, -1].tolist())))
        return score(completions)

    prompts = [torch.tensor([token]) for token in range(5)]
    run(tiny(), prompts=prompts, reward=reward, steps=30, prompts_per_step=2)
    assert all(a < b for a, b in seen)
    assert len(set(seen)) >= 6  # of 10 pairs; fewer with probability 3e-7, and the seed is fixed


# --- adapters


class Adapted(nn.Module):
    """A frozen model with something added to its logits, which can be switched off, as `peft` does."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.bias = (
            tiny().requires_grad_(False),
            nn.Parameter(torch.tensor([0.0, 0.5, 0.0, -0.5, 1.0], dtype=F64)),
        )
        self.on = True

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        output = self.base(input_ids, attention_mask=attention_mask)
        return output._replace(logits=output.logits + self.bias) if self.on else output

    def disable_adapter(self) -> Any:
        outer = self

        class Off:
            def __enter__(self) -> None:
                outer.on = False

            def __exit__(self, *_: object) -> None:
                outer.on = True

        return Off()


def test_the_reference_of_a_model_with_adapters_is_the_model_without_them(tmp_path: Path) -> None:
    switched, told = Adapted(), Adapted()
    options = {"kl_weight": 0.5, "steps": 3, "learning_rate": 0.1}
    first = run(switched, checkpoint=tmp_path / "run", **options)
    second = run(told, reference=tiny(), **options)
    assert first == second
    assert first[0].kl > 0.01
    assert torch.equal(switched.bias, told.bias)
    assert not torch.equal(switched.bias, Adapted().bias)
    assert [p.tolist() for p in switched.base.parameters()] == [p.tolist() for p in tiny().parameters()]
    assert list(read_checkpoint(tmp_path / "run")["model"]) == ["bias"]  # what is frozen is not in the file


def test_lora_by_peft_is_trained_and_switched_off() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["query_key_value"], init_lora_weights=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = peft.get_peft_model(tiny(), config)
    before = [p.clone() for p in model.get_base_model().parameters() if not p.requires_grad]
    history = run(model, reward=lambda c: -c.lengths, steps=12, kl_weight=0.01, learning_rate=0.05)
    assert history[0].kl == pytest.approx(0.0, abs=1e-12)
    assert history[-1].kl > 1e-3  # of 20 seeds none gave less than .04
    frozen = [p for p in model.get_base_model().parameters() if not p.requires_grad]
    assert all(torch.equal(p, q) for p, q in zip(frozen, before, strict=True))
    assert all(p.requires_grad for name, p in model.named_parameters() if "lora_" in name)


# --- checkpoints


def state(model: nn.Module) -> list[Any]:
    return [p.tolist() for p in model.parameters()]


OPTIONS: dict[str, Any] = {
    "epochs": 2,
    "kl_weight": 0.1,
    "micro_batch": 3,
    "prompts_per_step": 2,
    "learning_rate": 0.01,
}


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    whole, first, second = tiny(), tiny(), tiny()
    expected = run(whole, reference=tiny(1), steps=6, **OPTIONS)
    path = tmp_path / "run.safetensors"
    run(first, reference=tiny(1), steps=4, checkpoint=path, save_every=3, resume=True, **OPTIONS)
    found = run(second, reference=tiny(1), steps=6, checkpoint=path, resume=True, **OPTIONS)
    assert str(found) == str(expected)
    assert state(second) == state(whole) != state(first)
    assert run(tiny(), reference=tiny(1), steps=6, checkpoint=path, resume=True, **OPTIONS) == expected  # no step more


def test_the_file_is_written_every_few_steps_and_at_the_end(tmp_path: Path) -> None:
    path, steps = tmp_path / "run", []

    def reward(completions: Completions) -> Tensor:
        steps.append(len(read_checkpoint(path)["history"]) if path.exists() else 0)
        return score(completions)

    run(tiny(), reward=reward, steps=5, checkpoint=path, save_every=2)
    assert [*steps, len(read_checkpoint(path)["history"])] == [0, 0, 2, 2, 4, 5]


class AdamW(torch.optim.AdamW):
    """Ctrl-C in the middle of a step of the optimiser: half of the parameters have moved."""

    at = 5

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        type(self).at -= 1
        if type(self).at == 0:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(math.nan)
            raise KeyboardInterrupt


def test_ctrl_c_leaves_the_last_whole_step_in_the_file_and_in_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped, resumed = tiny(), tiny(), tiny()
    expected = run(whole, reference=tiny(1), steps=4, **OPTIONS)
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(AdamW, "at", 5)  # the first of the two epochs of the third step
        patch.setattr(torch.optim, "AdamW", AdamW)
        with pytest.raises(KeyboardInterrupt):
            run(stopped, reference=tiny(1), steps=4, checkpoint=path, save_every=100, **OPTIONS)
    two = tiny()
    assert len(read_checkpoint(path)["history"]) == len(run(two, reference=tiny(1), steps=2, **OPTIONS)) == 2
    assert state(stopped) == state(two)
    assert run(resumed, reference=tiny(1), steps=4, checkpoint=path, resume=True, **OPTIONS) == expected
    assert state(resumed) == state(whole)


def test_an_existing_file_is_not_overwritten_by_another_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(tiny(), checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="resume=True"):
        run(tiny(), checkpoint=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed is 0 in the file, but 1"),
        ({"loss": "rloo"}, "loss is 'grpo' in the file, but 'rloo'"),
        ({"clip": (0.2, 0.3)}, "clip is"),
        ({"end": 0}, "end is [0, 3] in the file, but [0]"),
        ({"temperature": 0.5}, "temperature is 1.0 in the file, but 0.5"),
        ({"prompts": PROMPTS[:2]}, "prompts is"),
        ({"reference": tiny(2)}, "reference is"),
        ({"model": Adapted()}, "of is 'TinyGPT' in the file, but 'Adapted'"),
    ],
)
def test_the_file_of_another_run_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    run(tiny(), reference=tiny(1), checkpoint=tmp_path / "run")
    arguments: dict[str, Any] = {"model": tiny(), "reference": tiny(1), "steps": 2, **change}
    with pytest.raises(CheckpointError) as refused:
        run(checkpoint=tmp_path / "run", resume=True, **arguments)
    assert said in str(refused.value)


def test_another_frozen_model_under_the_adapters_is_refused(tmp_path: Path) -> None:
    run(Adapted(), checkpoint=tmp_path / "run")
    other = Adapted()
    with torch.no_grad():
        other.base.norm.weight[0] += 1e-9
    with pytest.raises(CheckpointError, match="frozen is"):
        run(other, steps=2, checkpoint=tmp_path / "run", resume=True)


def test_a_file_may_be_resumed_with_other_micro_batches_and_more_steps(tmp_path: Path) -> None:
    run(tiny(), checkpoint=tmp_path / "run", micro_batch=2)
    assert len(run(tiny(), steps=2, checkpoint=tmp_path / "run", micro_batch=5, resume=True, save_every=1)) == 2


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(tiny(), checkpoint=path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        run(tiny(), checkpoint=path, resume=True)
    tree = {"history": [[1, 2.0]], "configuration": {}}
    write_checkpoint(path, tree)
    with pytest.raises(CheckpointError, match="another run"):
        run(tiny(), checkpoint=path, resume=True)


# --- wrong rewards


def spoilt(value: Any) -> Callable[[list[str], list[str]], Any]:
    """Rewards that are right but for the completions that begin with c."""
    return lambda prompts, completions: [value if text[0] == "c" else 0.5 for text in completions]


def failing(prompts: list[str], completions: list[str]) -> Any:
    if any(text[0] == "c" for text in completions):
        raise KeyError("no such word")
    return [0.0] * len(prompts)


WRONG = {
    "nan": (spoilt(math.nan), "it is nan, not a finite number"),
    "inf": (spoilt(-math.inf), "it is -inf, not a finite number"),
    "huge": (spoilt(10**400), "it is too large for a floating-point number"),
    "text": (spoilt("1"), "it is '1', not a number"),
    "none": (spoilt(None), "it is None, not a number"),
    "complex": (spoilt(1j), "it is 1j, not a number"),
    "exception": (failing, "the function failed, KeyError: 'no such word'"),
}
WRONG_WHOLE = {
    "too few": (lambda p, c: [0.5] * 11, "the function returned 11 numbers for 12 completions"),
    "too many": (lambda p, c: [0.5] * 13, "the function returned 13 numbers for 12 completions"),
    "shape": (lambda p, c: torch.zeros(3, 4), "the function returned the shape [3, 4], expected [12]"),
    "a number": (lambda p, c: 0.5, "the function returned float, expected 12 numbers"),
    "nothing": (lambda p, c: None, "the function returned NoneType, expected 12 numbers"),
    "one text": (lambda p, c: "0" * 12, "the function returned str, expected 12 numbers"),
}


def letters(tokens: Tensor) -> str:
    return "".join("abcde"[token] for token in tokens.tolist())


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_reward_stops_with_its_prompt_and_completion(case: str, tmp_path: Path) -> None:
    function, said = WRONG[case]
    path, model = tmp_path / "run", tiny()
    run(model, reward=spoilt(1.0), decode=letters, checkpoint=path)
    before, kept = state(model), path.read_bytes()
    with pytest.raises(RewardError) as stopped:
        run(tiny(), reward=function, decode=letters, steps=2, checkpoint=path, resume=True)
    error = stopped.value
    assert (
        str(error) == f"reward is wrong for the completion {error.completion!r} of the prompt {error.prompt!r}: {said}"
    )
    assert error.completion[0] == "c"
    assert error.prompt in ("bcd", "e", "cc")
    assert path.read_bytes() == kept
    again = tiny()
    run(again, reward=spoilt(1.0), decode=letters, checkpoint=path, resume=True)
    assert state(again) == before


@pytest.mark.parametrize("case", WRONG_WHOLE)
def test_wrong_rewards_of_a_batch_are_refused(case: str) -> None:
    function, said = WRONG_WHOLE[case]
    with pytest.raises(RewardError) as stopped:
        run(tiny(), reward=function, decode=letters)
    assert str(stopped.value).endswith(said)


def test_wrong_rewards_of_tokens_are_refused_with_the_tokens() -> None:
    def late(completions: Completions) -> Tensor:
        return torch.where(completions.tokens[..., 0] == 2, math.nan, 0.5)

    with pytest.raises(RewardError) as stopped:
        run(tiny(), reward=late)
    assert stopped.value.completion.startswith("[2")
    for reward, said in {
        "the function returned the shape [12], expected [3, 4]": lambda c: torch.zeros(12),
        "the function returned list, expected a tensor [3, 4]": lambda c: [[0.0] * 4] * 3,
        "the function failed, ZeroDivisionError: division by zero": lambda c: 1 / 0,
    }.items():
        with pytest.raises(RewardError) as stopped:
            run(tiny(), reward=said)
        assert str(stopped.value).endswith(reward)


def test_a_function_that_fails_on_the_batch_alone_is_shown_with_its_first_completion() -> None:
    def reward(prompts: list[str], completions: list[str]) -> list[float]:
        if len(prompts) > 1:
            raise MemoryError("too many at once")
        return [0.0]

    with pytest.raises(RewardError, match="the function failed, MemoryError: too many at once") as stopped:
        run(tiny(), reward=reward, decode=lambda tokens: letters(tokens) + "." * 300)
    drawn: list[str] = []
    run(tiny(), reward=lambda p, c: (drawn.extend(c), [0.0] * len(c))[1], decode=letters)
    assert stopped.value.completion == drawn[0] + "." * 300
    assert f"the completion {stopped.value.completion[:200] + '…'!r} of the prompt" in str(stopped.value)


def test_rewards_may_be_integers_flags_arrays_and_scalars() -> None:
    expected = run(tiny(), reward=lambda c: (c.lengths > 2).double())
    for reward in (lambda c: c.lengths > 2, lambda c: (c.lengths > 2).int(), lambda c: (c.lengths > 2).numpy()):
        assert str(run(tiny(), reward=reward)) == str(expected)
    scalars = run(tiny(), reward=lambda p, c: [torch.tensor(float(len(x) > 2)) for x in c], decode=letters)
    assert scalars[0].reward == expected[0].reward
    with pytest.raises(RewardError, match=r"it is tensor\(\[\]\), not a number"):
        run(tiny(), reward=lambda p, c: [torch.tensor([])] * len(c), decode=letters)


# --- progress


class Stream(io.StringIO):
    """Counts the lines that somebody sees at once."""

    n_flushed = 0

    def flush(self) -> None:
        self.n_flushed += 1


class Terminal(Stream):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_line_in_a_terminal_lines_elsewhere_and_silent_by_default_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def written(stream: Stream, progress: bool | None, **options: Any) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        run(tiny(), progress=progress, **{"steps": 2, **options})
        return stream.getvalue()

    monkeypatch.setenv("COLUMNS", "40")
    assert written(Stream(), None) == written(Terminal(), False) == ""
    elsewhere, terminal = Stream(), Terminal()
    lines = written(elsewhere, True).splitlines()
    assert [line[:9] for line in lines] == ["step 1/2 ", "step 2/2 "]
    assert all(word in lines[0] for word in ("reward", "kl nan", "entropy", "length"))
    in_place = written(terminal, None)
    assert in_place.endswith("\n")
    assert in_place.count("\n") == 1
    # One column stays free: a full line would wrap.
    assert [len(line) for line in in_place[:-1].split("\r")] == [0, 39, 39]
    assert elsewhere.n_flushed >= 2
    assert terminal.n_flushed >= 2
    short = {"size": 1, "loss": "reinforce", "prompts_per_step": 1, "max_tokens": 1}
    assert written(Terminal(), None, **(short | {"steps": 300})).count("\n") == 1


# --- bad arguments

BAD = {
    "not-a-module": ({"model": len}, TypeError, "model must be a Module, not builtin_function_or_method"),
    "frozen": ({"model": tiny().requires_grad_(False)}, ValueError, "model has no parameter that requires a gradient"),
    "no-prompts": ({"prompts": []}, ValueError, "prompts is empty"),
    "empty-prompt": (
        {"prompts": [torch.tensor([1]), torch.tensor([], dtype=torch.int64)]},
        ValueError,
        "prompts[1] has shape [0], expected [P] with at least one token",
    ),
    "text-prompt": ({"prompts": "ab"}, TypeError, "prompts must be a sequence of tensors of tokens, not str"),
    "reward": ({"reward": 1.0}, TypeError, "reward must be a function, not float"),
    "loss": ({"loss": "ppo"}, ValueError, "loss is 'ppo', expected 'reinforce', 'rloo'"),
    "size": ({"size": 1, "loss": "rloo"}, ValueError, "size must be at least 2, not 1"),
    "steps": ({"steps": 0}, ValueError, "steps must be at least 1, not 0"),
    "prompts-per-step": ({"prompts_per_step": 4}, ValueError, "prompts_per_step is 4, but there are 3 prompts"),
    "temperature": ({"temperature": 0.0}, ValueError, "temperature must be positive: at 0 nothing is sampled"),
    "kl-weight": ({"kl_weight": 0.1}, ValueError, "kl_weight is 0.1 but reference is None"),
    "resume": ({"resume": True}, ValueError, "resume is True but checkpoint is None"),
    "reward-nan": ({"reward": lambda c: c.lengths * math.nan}, RewardError, "it is nan, not a finite number"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_arguments_of_post_train_are_refused(case: str) -> None:
    change, error, said = BAD[case]
    arguments: dict[str, Any] = {"model": tiny(), "prompts": PROMPTS, "reward": score, **ARGUMENTS, **change}
    with pytest.raises(error) as refused:
        post_train(**arguments)
    assert said in str(refused.value)


def test_a_gradient_that_is_not_finite_stops_the_run_and_changes_nothing() -> None:
    def broken(log_probs: Tensor, _: Tensor, rewards: Tensor, /, *, mask: Tensor) -> Tensor:
        return log_probs.sum() * math.inf

    model = tiny()
    with pytest.raises(ValueError, match="the gradient of loss is inf"):
        run(model, loss=broken)
    assert state(model) == state(tiny())
