"""`check_accumulation`: updates that do not depend on the cut pass, known mistakes are named, others are shown."""

# Each function is written in the form of a public one, with that one's names.
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pgtheory.checking import UnknownForm
from pgtheory.checking.kinds.accumulation import CHECK, MicroBatch, cases, check_accumulation

# --- right: the update does not depend on the cut ---


def fixed_cross_entropy(source, target, num_items_in_batch=None, ignore_index=-100):
    """As transformers since October 2024."""
    reduction = "sum" if num_items_in_batch is not None else "mean"
    loss = F.cross_entropy(source, target, ignore_index=ignore_index, reduction=reduction)
    return loss / num_items_in_batch if reduction == "sum" else loss


def trl_dapo(per_token_logps, old_per_token_logps, advantages, completion_mask, num_items_in_batch, num_processes):
    ratio = torch.exp(per_token_logps - old_per_token_logps)
    per_token_loss = -torch.min(ratio * advantages, torch.clamp(ratio, 0.8, 1.28) * advantages)
    normalizer = num_items_in_batch / num_processes
    return (per_token_loss * completion_mask).sum() / normalizer


def trl_grpo(per_token_logps, advantages, mask, current_gradient_accumulation_steps):
    per_token_loss = -torch.exp(per_token_logps - per_token_logps.detach()) * advantages
    loss = ((per_token_loss * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()
    return loss / current_gradient_accumulation_steps


def trl_dr_grpo(per_token_logps, advantages, mask, max_completion_length, current_gradient_accumulation_steps):
    per_token_loss = -per_token_logps * advantages
    loss = (per_token_loss * mask).sum() / (per_token_loss.size(0) * max_completion_length)
    return loss / current_gradient_accumulation_steps


def verl_token_mean(loss_mat, loss_mask, dp_size, batch_num_tokens):
    return (loss_mat * loss_mask).sum() / batch_num_tokens * dp_size


def verl_seq_mean(loss_mat, loss_mask, dp_size, global_batch_size):
    seq_mask = torch.sum(loss_mask, dim=-1)
    seq_losses = torch.sum(loss_mat * loss_mask, dim=-1) / (seq_mask + 1e-8)
    return torch.sum(seq_losses * (seq_mask > 0)) / global_batch_size * dp_size


def slime_sample_mean(log_probs, advantages, loss_masks, num_samples, world_size):
    pg_loss = -log_probs * advantages
    per_sample = [(x * m).sum() / torch.clamp_min(m.sum(), 1) for x, m in zip(pg_loss, loss_masks, strict=True)]
    return sum(per_sample) * world_size / num_samples


def prime_rl(trainer_logprobs, inference_logprobs, advantages, loss_mask, loss_scale):
    importance = torch.exp(trainer_logprobs - inference_logprobs)
    return (-importance * advantages)[loss_mask].sum() / loss_scale


def grpo_zero(log_probs, advantages, target_masks, num_target_tokens):
    return -((log_probs * advantages * target_masks).sum() / num_target_tokens)


def nemo_masked_mean(log_probs, advantages, token_mask, global_valid_toks):
    return torch.sum(-log_probs * advantages * token_mask) / (global_valid_toks + 1e-8)


def open_instruct(new_logprobs, advantages, response_mask, accumulation_steps, world_size, num_tokens):
    loss = (-new_logprobs * advantages * response_mask).sum()
    return loss * accumulation_steps * world_size / num_tokens / accumulation_steps


def ppo_clipped(log_probs, old_log_probs, advantages, mask, num_tokens, clip_range):
    ratio = (log_probs - old_log_probs).exp()
    losses = torch.max(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range))
    return losses.masked_fill(~mask, 0.0).sum() / num_tokens, {"ratio": ratio.mean().item()}


def gspo(log_probs, old_log_probs, advantages, mask, num_sequences):
    mean_log_ratio = ((log_probs - old_log_probs) * mask).sum(-1) / mask.sum(-1).clamp(min=1)
    a = (advantages * mask).sum(-1) / mask.sum(-1).clamp(min=1)
    return -(mean_log_ratio.exp() * a).sum() / num_sequences


def budget(log_probs, advantages, mask, num_sequences, max_tokens):
    return -(log_probs * advantages * mask).sum() / (num_sequences * max_tokens)


def the_sum(log_probs, advantages, mask):
    return -(log_probs * advantages * mask).sum()


def numpy_sum(log_probs, advantages, mask, num_tokens):
    return -np.sum(log_probs * advantages * mask) / num_tokens


def clamped_count(log_probs, advantages, mask, num_tokens):
    return -(log_probs * advantages * mask).sum() / num_tokens.clamp(min=1)


def torchtune_step(micro_batches):
    """Sums of losses and of tokens, divided once at the end."""
    running_loss, num_tokens = 0.0, 0
    for batch in micro_batches:
        num_tokens += batch["mask"].sum()
        running_loss = running_loss - (batch["log_probs"] * batch["advantages"] * batch["mask"]).sum()
    return running_loss / num_tokens


def backward_step(micro_batches):
    total = sum(int(b.response_mask.sum()) for b in micro_batches)
    reported = 0.0
    for b in micro_batches:
        loss = -(b.logprobs * b.advantages * b.response_mask).sum() / total
        loss.backward()
        reported += loss.item()
    return reported


def tuples_step(micro_batches):
    total = sum(mask.sum() for _, _, mask in micro_batches)
    return sum(-(lp * a * mask).sum() for lp, a, mask in micro_batches) / total


def joined_step(micro_batches):
    """It cannot take micro-batches of different widths."""
    lp, a, mask = (torch.cat([b[name] for b in micro_batches]) for name in ("log_probs", "advantages", "mask"))
    return -(lp * a * mask).sum() / mask.sum()


def with_a_penalty(log_probs, ref_log_probs, advantages, mask, num_tokens, beta):
    log_ratio = ref_log_probs - log_probs
    return ((-log_probs * advantages + beta * (log_ratio.exp() - log_ratio - 1)) * mask).sum() / num_tokens


def weighted_step(micro_batches):
    """A running mean, weighted by tokens, as mlx-lm #1413."""
    mean, seen = 0.0, 0
    for b in micro_batches:
        n = b["mask"].sum()
        own = -(b["log_probs"] * b["advantages"] * b["mask"]).sum() / n.clamp(min=1)
        seen = seen + n
        mean = mean + (own - mean) * (n / seen.clamp(min=1))
    return mean


TOKENS, ANSWERS, SUMS, SUM = CHECK.right
RIGHT = {
    "transformers": (fixed_cross_entropy, TOKENS),
    "TRL dapo": (trl_dapo, TOKENS),
    "TRL grpo": (trl_grpo, ""),
    "TRL dr_grpo": (trl_dr_grpo, ""),
    "verl token-mean": (verl_token_mean, TOKENS),
    "verl seq-mean": (verl_seq_mean, ANSWERS),
    "slime": (slime_sample_mean, ANSWERS),
    "GRPO-Zero": (grpo_zero, TOKENS),
    "NeMo RL": (nemo_masked_mean, TOKENS),
    "open-instruct": (open_instruct, TOKENS),
    "clipped": (ppo_clipped, TOKENS),
    "GSPO": (gspo, ""),
    "budget": (budget, SUMS),
    "sum": (the_sum, SUM),
    "numpy": (numpy_sum, TOKENS),
    "clamped count": (clamped_count, TOKENS),
    "torchtune": (torchtune_step, TOKENS),
    "backward": (backward_step, TOKENS),
    "tuples": (tuples_step, TOKENS),
    "running mean": (weighted_step, TOKENS),
    "joined": (joined_step, TOKENS),
    "penalty": (with_a_penalty, TOKENS),
}


@pytest.mark.parametrize(("function", "kind"), RIGHT.values(), ids=RIGHT)
def test_an_update_that_does_not_depend_on_the_cut_is_right(function, kind):
    report = check_accumulation(function)
    assert report.ok, report
    assert not kind or f"it is {kind}" in report.remarks, report


# --- wrong ---


def before_october_2024(source, target, gradient_accumulation_steps):
    return F.cross_entropy(source, target, ignore_index=-100) / gradient_accumulation_steps


def count_ignored(source, target, num_items_in_batch):
    """The model does not pass the count on: transformers #37766."""
    return F.cross_entropy(source, target, ignore_index=-100)


def swift_dapo(per_token_logps, advantages, completion_mask, num_items_in_batch, gradient_accumulation_steps):
    loss = (-per_token_logps * advantages * completion_mask).sum() / num_items_in_batch
    return loss / gradient_accumulation_steps


def not_undone(log_probs, advantages, mask, num_tokens, world_size):
    """Data parallelism averages: torchtune #2172."""
    return -(log_probs * advantages * mask).sum() / num_tokens


def verl_dynamic(log_prob, advantages, response_mask, ppo_mini_batch_size):
    loss = (-log_prob * advantages * response_mask).sum() / response_mask.sum()
    return loss * (len(response_mask) / ppo_mini_batch_size)


def verl_sum_norm(loss_mat, loss_mask):
    return torch.sum(torch.sum(loss_mat * loss_mask, dim=-1)) / loss_mask.shape[-1]


def d2l(log_probs, advantages, mask, num_tokens):
    return (-log_probs * advantages * mask).mean(dim=1).sum() / num_tokens


def mean_over_tokens(log_probs, advantages, mask, num_tokens):
    return (-(log_probs * advantages * mask).sum() / mask.sum()) / num_tokens


def padding_in_the_sum(log_probs, advantages, mask, num_tokens):
    return -(log_probs * advantages).sum() / num_tokens


def scaled_back(log_probs, advantages, mask, num_tokens, gradient_accumulation_steps):
    loss = -(log_probs * advantages * mask).sum() / num_tokens
    return loss * gradient_accumulation_steps


def whitened(log_probs, advantages, mask, num_tokens):
    kept = advantages[mask]
    a = (advantages - kept.mean()) / (kept.std() + 1e-8)
    return -(log_probs * a * mask).sum() / num_tokens


def twice(log_probs, advantages, mask, num_items_in_batch, num_processes):
    loss = -(log_probs * advantages * mask).sum() / (num_items_in_batch / num_processes)
    return loss * num_processes


def trl_bnpo(per_token_logps, advantages, mask, current_gradient_accumulation_steps):
    loss = (-per_token_logps * advantages * mask).sum() / mask.sum().clamp(min=1.0)
    return loss / current_gradient_accumulation_steps


def speculators(log_probs, advantages, loss_mask, world_size, num_tokens):
    """The count of the rank, that is of what it is given."""
    return -(log_probs * advantages * loss_mask).sum() / (loss_mask.sum() + 1e-5)


def zero_grad_inside(micro_batches):
    total = sum(b["mask"].sum() for b in micro_batches)
    for b in micro_batches:
        loss = -(b["log_probs"] * b["advantages"] * b["mask"]).sum() / total  # the gradient of the others is gone
    return loss


def mean_of_means_step(micro_batches):
    losses = [-(b["log_probs"] * b["advantages"] * b["mask"]).sum() / b["mask"].sum() for b in micro_batches]
    return torch.stack(losses).mean()


def mean_of_means_backward(batches):
    for b in batches:
        loss = -(b["log_probs"] * b["advantages"] * b["mask"]).sum() / b["mask"].sum()
        (loss / len(batches)).backward()


def count_of_the_last(micro_batches):
    total = 0.0
    for b in micro_batches:
        n = b["mask"].sum()
        total = total - (b["log_probs"] * b["advantages"] * b["mask"]).sum()
    return total / n


def accelerate_twice(log_probs, advantages, mask, gradient_accumulation_steps):
    loss = ((-log_probs * advantages * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()
    return loss / gradient_accumulation_steps / gradient_accumulation_steps


def rows_never_divided(log_probs, advantages, mask, num_tokens):
    return ((-log_probs * advantages * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()


def mean_of_everything(log_probs, advantages, mask, gradient_accumulation_steps):
    return (-log_probs * advantages * mask).mean() / gradient_accumulation_steps


WRONG = {
    "transformers before": (before_october_2024, "mean_of_means"),
    "count ignored": (count_ignored, "local_denominator"),
    "ms-swift": (swift_dapo, "divided_by_micro_batches"),
    "world size": (not_undone, "world_size_missing"),
    "verl dynamic": (verl_dynamic, "weighted_by_rows"),
    "verl sum-norm": (verl_sum_norm, "local_width"),
    "d2l": (d2l, "local_width"),
    "tokens twice": (mean_over_tokens, "normalised_twice"),
    "padding": (padding_in_the_sum, "padding_counted"),
    "scaled back": (scaled_back, "scaled_up"),
    "whitened": (whitened, "advantages_standardised"),
    "world size twice": (twice, "world_size_twice"),
    "TRL bnpo": (trl_bnpo, "mean_of_means"),
    "count of the rank": (speculators, "local_denominator"),
    "zero_grad inside": (zero_grad_inside, "last_micro_batch_only"),
    "mean of means": (mean_of_means_step, "mean_of_means"),
    "mean of means, backward": (mean_of_means_backward, "mean_of_means"),
    "count of the last": (count_of_the_last, "count_of_the_last"),
    "accelerate": (accelerate_twice, "divided_by_micro_batches"),
    "answers": (rows_never_divided, "not_divided"),
    "mean of everything": (mean_of_everything, "local_width"),
}


@pytest.mark.parametrize(("function", "key"), WRONG.values(), ids=WRONG)
def test_an_update_that_depends_on_the_cut_is_wrong_and_says_why(function, key):
    report = check_accumulation(function)
    assert report.verdict == "wrong", report
    assert [m.key for m in report.mistakes] == [f"accumulation.{key}"], report
    assert report.counterexample is not None


# --- what is not one of the forms ---


def test_ranks_are_tried_where_a_world_size_is_taken_or_declared():
    def loss(log_probs, advantages, mask, num_tokens):
        return -(log_probs * advantages * mask).sum() / num_tokens

    assert check_accumulation(loss).ok
    assert check_accumulation(loss, reduce="sum").ok
    assert check_accumulation(loss, reduce="mean").mistakes[0].key == "accumulation.world_size_missing"
    assert check_accumulation(verl_token_mean, reduce="sum").mistakes[0].key == "accumulation.world_size_twice"
    of_the_mean_rank = check_accumulation(
        call=lambda x: loss(x.log_probs, x.advantages, x.mask, x.num_tokens / x.world_size)
    )
    assert of_the_mean_rank.ok, of_the_mean_rank


def test_a_mean_over_answers_without_a_normaliser_is_not_judged():
    def loss(log_probs, advantages, mask):
        return -((log_probs * advantages * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()

    report = check_accumulation(loss)
    assert report.verdict == "abstains"
    assert "x.n_micro_batches" in report.abstains
    divided = check_accumulation(call=lambda x: loss(x.log_probs, x.advantages, x.mask) / x.n_micro_batches)
    assert divided.ok, divided


def test_a_loss_scale_is_asked_for():
    with pytest.raises(UnknownForm, match="'loss_scale' has none of the names"):
        check_accumulation(prime_rl)
    report = check_accumulation(prime_rl, names={"loss_scale": "num_tokens"})
    assert report.ok
    assert f"it is {TOKENS}" in report.remarks


def test_micro_batches_are_understood_by_any_of_their_names():
    batch = MicroBatch(log_probs=torch.zeros(1), mask=torch.ones(1))
    assert batch.logprobs is batch["per_token_logps"] is batch["log_probs"]
    assert batch.response_mask is batch["mask"]
    with pytest.raises(KeyError, match="'advantages' is not in a micro-batch, only log_probs, mask"):
        batch["advantages"]
    with pytest.raises(AttributeError, match="'weights' is not in a micro-batch"):
        _ = batch.weights


def test_the_counterexample_shows_the_weights_and_the_cut():
    report = check_accumulation(trl_bnpo)
    assert str(report.counterexample.expected) == "[[1, 1, 1], [1, 0, 0]], rows cut as 0 ; 1"
    # The tokens of the long answer have 1/6 each instead of 1/4, the token of the short one 1/2.
    assert str(report.counterexample.got) == "[[0.666667, 0.666667, 0.666667], [2, 0, 0]], rows cut as 0 ; 1"


def test_the_cases_hold_every_kind_of_cut():
    found = [case.inputs for case in cases(frozenset(["mask", "ranks"]))]
    widths = {tuple(len(rows) for rank in x["cut"] for rows in rank) for x in found}
    assert any(len(set(w)) > 1 for w in widths)
    assert any(len(x["cut"]) == 3 for x in found)
    assert any(x["crop"] for x in found)
    assert any(bool((~x["mask"]).all(-1).any()) for x in found)
    holes = [x for x in found if bool((x["mask"][:, 1:] & ~x["mask"][:, :-1]).any())]
    assert holes


@pytest.mark.parametrize(("function", "message"), [
    (lambda log_probs, mask: log_probs * mask, "one value for each token"),
    (lambda log_probs, mask: log_probs.detach().sum(), "no slopes by the log-probabilities"),
    (lambda log_probs, mask: None, "it returned None, not a loss"),
    (lambda mask, num_tokens: 0.0, "it has no argument 'log_probs'"),
])  # fmt: skip
def test_what_is_no_loss_is_not_understood(function, message):
    with pytest.raises(UnknownForm, match=message):
        check_accumulation(function)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="reduce is 'max', expected 'mean' or 'sum'"):
        check_accumulation(the_sum, reduce="max")
