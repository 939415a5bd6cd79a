"""`check_overlong_penalty`: right forms pass, known mistakes are named."""

# Each function is written in the form of a public one, with that one's names.
import numpy as np
import pytest
import torch

from pgtheory.checking import UnknownForm
from pgtheory.checking.kinds.overlong_penalty import CHECK, check_overlong_penalty


def easy_r1(response_length, max_response_length, overlong_buffer_length):
    """One answer at a time, in three pieces as in the paper."""
    expected_len = max_response_length - overlong_buffer_length
    if response_length <= expected_len:
        return 0.0
    if response_length <= max_response_length:
        return (expected_len - response_length) / overlong_buffer_length
    return -1.0


def trl(max_completion_len, soft_punish_cache):
    """A function that makes a reward function."""

    def reward(completion_ids, **kwargs):
        return [easy_r1(len(ids), max_completion_len, soft_punish_cache) for ids in completion_ids]

    return reward


def verl(valid_response_length, max_resp_len, overlong_buffer_len, penalty_factor):
    exceed_len = valid_response_length - (max_resp_len - overlong_buffer_len)
    return min(-exceed_len / overlong_buffer_len * penalty_factor, 0)


def nemo(rewards, response_token_lengths, max_response_length, overlong_buffer_length, overlong_buffer_penalty):
    updated = torch.zeros_like(rewards)
    for i, length in enumerate(response_token_lengths.tolist()):
        updated[i] = rewards[i] + verl(length, max_response_length, overlong_buffer_length, overlong_buffer_penalty)
    return updated


def areal(rewards, loss_mask, overlong_tokens, overlong_penalty_factor, max_response_length):
    exceed = loss_mask.sum(-1).to(rewards.dtype) - (max_response_length - overlong_tokens)
    return rewards + torch.minimum(-exceed / overlong_tokens * overlong_penalty_factor, torch.zeros_like(rewards))


def open_rlhf(rewards, response_lengths, max_new_tokens, overlong_buffer_len, overlong_penalty_factor=1.0):
    assert max_new_tokens >= overlong_buffer_len
    rewards = rewards.clone()
    for j, length in enumerate(response_lengths):
        exceed = length.item() - (max_new_tokens - overlong_buffer_len)
        if exceed > 0:
            rewards[j] -= min(exceed, overlong_buffer_len) / overlong_buffer_len * overlong_penalty_factor
    return rewards


def swift(response_token_ids, soft_max_length, soft_cache_length):
    assert soft_cache_length < soft_max_length
    expected_len = soft_max_length - soft_cache_length
    return [min(-(len(ids) - expected_len) / soft_cache_length, 0) for ids in response_token_ids]


def arrays(lengths, max_length, buffer):
    lengths = np.asarray(lengths)
    return -np.clip((lengths - max_length + buffer) / buffer, 0.0, 1.0)


def single_precision(mask, max_length, buffer):
    return {"penalty": -((mask.float().sum(-1) - max_length + buffer) / buffer).clamp(0.0, 1.0)}


GOES_ON = "beyond the limit it goes on falling"
RIGHT = {
    "EasyR1": (easy_r1, ""), "verl": (verl, GOES_ON), "NeMo": (nemo, GOES_ON), "AReaL": (areal, GOES_ON),
    "OpenRLHF": (open_rlhf, "it is the rewards with the penalty added"), "swift": (swift, GOES_ON),
    "numpy": (arrays, ""), "float": (single_precision, ""),
    "floor of one": (lambda lengths, max_length, buffer, factor: (
        -(lengths - max_length + buffer) / buffer * factor).clamp(max=0).where(lengths <= max_length, -1.0), "factor"),
}  # fmt: skip


@pytest.mark.parametrize(("function", "remark"), RIGHT.values(), ids=RIGHT)
def test_a_right_form_passes(function, remark):
    report = check_overlong_penalty(function)
    assert report.ok, report
    assert remark in str(report.remarks), report


def test_a_function_that_had_its_limit_before_is_declared():
    assert check_overlong_penalty(call=lambda x: trl(x.max_length, x.buffer)(x.completion_ids)).ok
    for made in (trl(100, 20), trl(8, 3)):
        with pytest.raises(UnknownForm, match="no argument 'max_length'"):
            check_overlong_penalty(made)


def test_the_reference_is_equation_13_of_dapo():
    for case in CHECK.bench(frozenset(["mask"])).cases:
        x = case.inputs
        expected = [-1.0 * (n > x["max_length"]) if not x["buffer"] else
                    easy_r1(n, x["max_length"], x["buffer"]) for n in x["mask"].sum(-1).tolist()]  # fmt: skip
        names = ("mask", "prompt_lengths", "max_prompt_length", "max_length", "buffer", "factor")
        assert CHECK.right[""](**{name: x[name] for name in names}).tolist() == pytest.approx(expected)


def turns(turns, max_length, buffer):
    return [easy_r1(len(answer), max_length, buffer) for answer in turns]


def tokens_of_turns(answers, cap, buffer):
    return [easy_r1(sum(map(len, answer)), cap, buffer) for answer in answers]


def span(mask, max_length, buffer):
    lengths = [int(row.nonzero().max()) - int(row.nonzero().min()) + 1 if row.any() else 0 for row in mask]
    return arrays(lengths, max_length, buffer)


def sky_rl(lengths, prompt_lengths, max_input_length, max_length, buffer):
    return [easy_r1(n, max_input_length + max_length - p, buffer) for n, p in zip(lengths, prompt_lengths, strict=True)]


WRONG = {
    "from_the_start": lambda length, limit, cache: easy_r1(length, limit, limit - cache),
    "behind_the_limit": lambda lengths, max_length, buffer: arrays(lengths, max_length + buffer, buffer),
    "limit_of_the_context": sky_rl,
    "prompt_counted": lambda lengths, prompt_lengths, max_length, buffer: arrays(
        lengths + prompt_lengths, max_length, buffer
    ),
    "span_counted": span,
    "turns_counted": turns,
    "padding_counted": lambda mask, max_length, buffer: arrays([mask.shape[1]] * len(mask), max_length, buffer),
    "hard_step": lambda lengths, max_length, buffer: -1.0 * (lengths >= max_length),
    "not_applied": lambda rewards, lengths, max_length, buffer: rewards,
    "sign": lambda rewards, lengths, max_length, buffer: rewards - torch.as_tensor(arrays(lengths, max_length, buffer)),
    "over_the_limit": lambda lengths, max_length, buffer: arrays(lengths, max_length, buffer) * buffer / max_length,
    "factor_ignored": lambda lengths, max_length, buffer, factor: arrays(lengths, max_length, buffer),
    "": lambda lengths, max_length, buffer: arrays(lengths + 1, max_length, buffer),
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_form_is_named(key):
    report = check_overlong_penalty(WRONG[key])
    assert report.verdict == "wrong", report
    assert [m.key for m in report.mistakes] == [f"overlong_penalty.{key}"] * bool(key), report


def test_tokens_in_lists_of_turns_are_added():
    assert check_overlong_penalty(tokens_of_turns, names={"answers": "turns", "cap": "max_length"}).ok


def test_rewards_that_are_changed_in_place_get_a_remark():
    def in_place(rewards, lengths, max_length, buffer):
        rewards += torch.as_tensor(arrays(lengths, max_length, buffer))
        return rewards

    assert "it changes its argument 'rewards' in place" in check_overlong_penalty(in_place).remarks


@pytest.mark.parametrize("function", [lambda lengths: lengths, lambda lengths, max_length, buffer: "long", lambda n: 0])
def test_what_is_no_penalty_is_not_understood(function):
    with pytest.raises(UnknownForm):
        check_overlong_penalty(function)
