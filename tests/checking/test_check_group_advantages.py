"""`check_group_advantages`: centre and scale of a right one are told, known mistakes are named."""

# Each function is written in the form of a public one, with that one's names.
from collections import defaultdict

import numpy as np
import pytest
import torch

from pgtheory.checking import UnknownForm
from pgtheory.checking.kinds.group_advantages import check_group_advantages
from pgtheory.groups import group_advantages

STD1 = "centred on the mean of the group, divided by its deviation, ddof 1"
STD0 = "centred on the mean of the group, divided by its deviation, ddof 0"
CENTRED = "centred on the mean of the group"
LOO = "centred on the mean of the others"


def matrix(rewards):
    return (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4)


def trl(rewards, num_generations):
    mean = rewards.view(-1, num_generations).mean(dim=1).repeat_interleave(num_generations, dim=0)
    std = rewards.view(-1, num_generations).std(dim=1).repeat_interleave(num_generations, dim=0)
    return (rewards - mean) / (std + 1e-4)


def trl_batch(rewards, num_generations):
    mean = rewards.view(-1, num_generations).mean(dim=1).repeat_interleave(num_generations, dim=0)
    return (rewards - mean) / (rewards.std() + 1e-4)


def dr_grpo(rewards, group_size):
    grouped = rewards.reshape(-1, group_size)
    return (grouped - grouped.mean(1, keepdim=True)).flatten()


def rloo(rewards, k):
    grouped = rewards.reshape(-1, k)
    return (grouped - (grouped.sum(1, keepdim=True) - grouped) / (k - 1)).flatten()


def verl(token_level_rewards, response_mask, index, epsilon=1e-6, norm_adv_by_std_in_grpo=True):
    scores = token_level_rewards.sum(dim=-1)
    id2score, id2mean, id2std = defaultdict(list), {}, {}
    for i in range(len(scores)):
        id2score[index[i]].append(scores[i])
    for idx, group in id2score.items():
        if len(group) == 1:
            id2mean[idx], id2std[idx] = torch.tensor(0.0), torch.tensor(1.0)
        else:
            id2mean[idx], id2std[idx] = torch.stack(group).mean(), torch.stack(group).std()
    advantages = torch.stack([(s - id2mean[index[i]]) / (id2std[index[i]] + epsilon) for i, s in enumerate(scores)])
    advantages = advantages.unsqueeze(-1) * response_mask
    return advantages, advantages


def verl_rloo(token_level_rewards, response_mask, index):
    scores = token_level_rewards.sum(dim=-1)
    groups = defaultdict(list)
    for i in range(len(scores)):
        groups[index[i]].append(scores[i])
    out = scores.clone()
    for i in range(len(scores)):
        n = len(groups[index[i]])
        if n > 1:
            out[i] = scores[i] * n / (n - 1) - torch.stack(groups[index[i]]).mean() * n / (n - 1)
    return (out.unsqueeze(-1) * response_mask,) * 2


def by_unique(rewards, group_ids):
    _, inverse = torch.unique(group_ids, return_inverse=True)
    counts = torch.bincount(inverse).to(rewards)
    mean = torch.zeros_like(counts).scatter_add(0, inverse, rewards) / counts
    return rewards - mean[inverse]


def nemo(prompt_ids, rewards):
    out = torch.zeros_like(rewards)
    for uid in prompt_ids.unique():
        here = prompt_ids == uid
        others = here.sum() - 1
        out[here] = rewards[here] - (rewards[here].sum() - rewards[here]) / others.clamp(min=1)
    return out


def one_group(rewards: list[float], eps: float = 1e-8):
    r = np.array(rewards)
    return ((r - r.mean()) / (r.std() + eps)).tolist()


def tinker(rewards_G):
    return rewards_G - rewards_G.mean()


def numpy_ids(rewards, uids):
    out = np.zeros(len(rewards))
    for uid in set(uids):
        where = [i for i, u in enumerate(uids) if u == uid]
        group = np.array([rewards[i] for i in where])
        out[where] = group - group.mean()
    return out


def slime(rewards, n_samples_per_prompt):
    rewards = torch.tensor(rewards, dtype=torch.float).reshape(-1, n_samples_per_prompt)
    rewards = rewards - rewards.mean(dim=-1, keepdim=True)
    return (rewards / (rewards.std(dim=-1, keepdim=True) + 1e-6)).flatten().tolist()


RIGHT = {
    "matrix": (matrix, STD1),
    "package": (lambda rewards: group_advantages(rewards, ddof=0), STD0),
    "TRL": (trl, STD1),
    "TRL batch": (trl_batch, "divided by the deviation of all rewards, ddof 1"),
    "Dr. GRPO": (dr_grpo, CENTRED),
    "RLOO": (rloo, LOO),
    "verl": (verl, STD1),
    "verl RLOO": (verl_rloo, LOO),
    "unique": (by_unique, CENTRED),
    "NeMo": (nemo, LOO),
    "one group": (one_group, STD0),
    "tinker": (tinker, CENTRED),
    "numpy ids": (numpy_ids, CENTRED),
    "slime": (slime, STD1),
    "a list": (lambda rewards: [r - sum(rewards) / len(rewards) for r in rewards], CENTRED),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_right_form_passes_and_is_told(case):
    function, kind = RIGHT[case]
    report = check_group_advantages(function)
    assert report.ok, report
    assert any(remark.startswith(f"it is {kind}") or kind in remark for remark in report.remarks), report


def slime_fallback(rewards, group_ids):
    """The whole batch is one row where groups are unequal: slime #1414."""
    r = rewards.view(-1, rewards.shape[-1])
    return (r - r.mean(dim=-1, keepdim=True)).flatten()


def areal(rewards, group_ids):
    """Groups by a fixed stride: AReaL #1419."""
    size, out = int((group_ids == group_ids[0]).sum()), torch.zeros_like(rewards)
    for i in range(len(rewards) // size):
        s = slice(i * size, (i + 1) * size)
        out[s] = rewards[s] - rewards[s].mean()
    return out


def grpo_flat(rewards, epsilon=1e-4):
    mean, std = rewards.mean(dim=0, keepdim=True), rewards.std(dim=0, keepdim=True)
    return (rewards - mean) / (std + epsilon)


def not_interleaved(rewards, num_generations):
    mean = rewards.view(-1, num_generations).mean(1).repeat(num_generations)
    return rewards - mean


def gem(rewards):
    adv = matrix(rewards)
    return (adv - adv.mean()) / (adv.std() + 1e-8)


def nemo_loo_std(rewards):
    k = rewards.shape[1]
    others = torch.stack([rewards[:, [j for j in range(k) if j != i]] for i in range(k)], 1)
    return (rewards - others.mean(-1)) / (others.std(-1) + 1e-6)


def rllm(rewards, uid):
    """Every trajectory has an id of its own."""
    ids = torch.arange(len(rewards))
    return verl(rewards[:, None], torch.ones(len(rewards), 1), ids.tolist())[0][:, 0]


WRONG = {
    "slime": (slime_fallback, "of_the_batch"),
    "flow_grpo": (lambda rewards: (rewards - rewards.mean()) / (rewards.std() + 1e-4), "of_the_batch"),
    "AReaL": (areal, "by_stride"),
    "grpo-flat": (grpo_flat, "over_the_groups"),
    "R1-V": (
        lambda rewards, num_generations: (r := rewards.view(num_generations, -1)).sub(r.mean(0)).flatten(),
        "over_the_groups",
    ),
    "repeat": (not_interleaved, "tiled"),
    "gem": (gem, "standardised_twice"),
    "NeMo": (nemo_loo_std, "deviation_of_the_others"),
    "rllm": (rllm, "each_alone"),
    "not centred": (lambda rewards: rewards / (rewards.std(-1, keepdim=True) + 1e-4), "not_centred"),
    "variance": (
        lambda rewards: (rewards - rewards.mean(-1, True)) / (rewards.var(-1, keepdim=True) + 1e-4),
        "no_root",
    ),
    "sign": (lambda rewards: rewards.mean(-1, True) - rewards, "sign"),
    "first": (lambda rewards: rewards - rewards[:, :1], "of_the_first"),
    "ranks": (lambda rewards: rewards.argsort(-1).argsort(-1).double(), ""),
}


@pytest.mark.parametrize(("function", "key"), WRONG.values(), ids=WRONG)
def test_a_wrong_form_is_named(function, key):
    report = check_group_advantages(function)
    assert report.verdict == "wrong", report
    assert [m.key for m in report.mistakes] == [f"group_advantages.{key}"] * bool(key), report


def test_a_group_of_one_is_remarked():
    alone = "in a group of one it gives something else than 0, or fails"
    assert alone in check_group_advantages(verl).remarks
    assert alone not in check_group_advantages(by_unique).remarks


@pytest.mark.parametrize("function", [lambda rewards: 0.0, lambda rewards: None, lambda a, b: a])
def test_what_is_no_advantage_is_not_understood(function):
    with pytest.raises(UnknownForm):
        check_group_advantages(function)


def test_a_function_of_all_rewards_is_right_for_one_group_only():
    def centred(rewards):
        return rewards - rewards.mean()

    report = check_group_advantages(centred)
    assert report.mistakes[0].key == "group_advantages.of_the_batch"
    assert "given one group it is right: say layout='one group' if that is what it is for" in report.remarks
    assert check_group_advantages(centred, layout="one group").ok
