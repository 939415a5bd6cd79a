"""The factors of losses of groups of responses: advantages, averages, penalties."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pgtheory.checking.loss import F64, once

# --- advantages of a group ---

CENTRES = ("mean", "others", "nothing")
SCALES = ("1", "std1", "std0", "batchstd1", "batchstd0", "spread1", "spread0")
PARTITIONS = ("batch", "strided", "blocks", "columns")
RIGHT_ADVANTAGES = (
    *(f"group mean {scale}" for scale in ("std1", "std0", "1", "batchstd1", "batchstd0", "spread1", "spread0")),
    *(f"group others {scale}" for scale in SCALES),
    "group nothing 1",
)
_WRONG_ADVANTAGES = (
    *(f"{partition} mean {scale}" for partition in PARTITIONS for scale in ("1", "std1", "std0")),
    *(f"group nothing {scale}" for scale in SCALES[1:]),
    *(f"group {centre} var{ddof}" for centre in CENTRES for ddof in (0, 1)),
    *(f"{change} {scale}" for change in ("repeat", "transposed", "rolled", "other") for scale in ("1", "std1", "std0")),
    *(f"tokens {scale}" for scale in ("1", "std1", "std0")),
    *(f"twice {first} {second}" for first in ("std1", "std0") for second in ("std1",)),
    "own 1",
    "unguarded std1",
    "unguarded std0",
    *(f"absolute {scale}" for scale in ("1", "std1", "std0")),
    "signs 1",
    "ones 1",
)
GROUP_ADVANTAGES = (*RIGHT_ADVANTAGES, *_WRONG_ADVANTAGES)


def _partition(name: str, groups: int, size: int) -> Tensor:
    """Which responses are compared with each other: the number of the group of each, `[groups, size]`."""
    place = torch.arange(groups * size).reshape(groups, size)
    return {
        "group": place // size,
        "batch": place * 0,
        "strided": place % groups,
        "blocks": place // groups,
        "columns": place % size,
    }[name]


@once
def _statistics(rewards: Tensor, ids: Tensor, ddof: int) -> tuple[Tensor, Tensor]:
    """The mean and the variance of the partition that each response is in."""
    flat, where = rewards.flatten(), ids.flatten()
    same = (where[:, None] == where).to(F64)
    count = same.sum(-1)
    mean = same @ flat / count
    variance = (same * (flat - mean[:, None]).square()).sum(-1) / (count - ddof)
    return mean.reshape(rewards.shape), variance.reshape(rewards.shape)


def _over(deviation: Tensor, spread: Tensor) -> Tensor:
    """A quotient with an ε, but exactly 0 where there is nothing to divide."""
    return deviation / torch.where(spread == 0, 1.0, spread)


def _scaled(deviation: Tensor, rewards: Tensor, ids: Tensor, scale: str) -> Tensor:
    if scale == "1":
        return deviation
    kind, ddof = scale[:-1], int(scale[-1])
    if kind in ("std", "var"):
        variance = _statistics(rewards, ids, ddof)[1]
        return _over(deviation, variance if kind == "var" else variance.sqrt())
    return _over(deviation, (rewards if kind == "batchstd" else deviation).std(correction=ddof))


def group_advantages(name: str, rewards: Tensor, taken: Tensor) -> Tensor:
    """Advantages `[groups, size]` by the name of the hypothesis."""
    first, *rest = name.split()
    groups, size = rewards.shape
    ids = _partition(first if first in PARTITIONS else "group", groups, size)
    mean = _statistics(rewards, ids, 0)[0]
    if first == "group" or first in PARTITIONS:
        centre, scale = rest
        deviation = {"mean": rewards - mean, "others": (rewards - mean) * size / max(size - 1, 1), "nothing": rewards}
        found = _scaled(deviation[centre], rewards, ids, scale)
        # What is not centred is divided by an ε where all rewards are equal: by which, nobody knows.
        unknown = centre == "nothing" and scale != "1" and bool((rewards == rewards[:, :1]).all())
        return torch.full_like(found, torch.inf) if unknown and bool(rewards.any()) else found
    if first == "unguarded":
        spread = rewards.std(-1, keepdim=True, correction=int(rest[0][-1]))
        return torch.where((rewards == 0).all(-1, keepdim=True), torch.inf, (rewards - mean) / spread)
    plain = _scaled(rewards - mean, rewards, ids, rest[0])
    if first == "repeat":
        index = torch.arange(groups * size) % groups
        spread = _scaled(torch.ones_like(rewards), rewards, ids, rest[0])[:, 0][index]
        return ((rewards.flatten() - mean[:, 0][index]) * spread).reshape(rewards.shape)
    if first == "tokens":
        return _token_weighted(rewards, taken, rest[0])
    if first == "own":  # the mean of the others divided by their number and one more
        return rewards - (mean * size - rewards) / size
    if first == "twice":
        return _scaled(plain - plain.mean(), plain, ids * 0, rest[1])
    return {
        "transposed": plain.T.reshape(rewards.shape),
        "rolled": plain.roll(1, 0),
        "other": plain.roll(1, 1),
        "absolute": plain.abs(),
        "signs": plain.sign(),
        "ones": torch.ones_like(plain),
    }[first]


def _token_weighted(rewards: Tensor, taken: Tensor, scale: str) -> Tensor:
    """Centred and scaled by statistics over tokens: a long response counts more often."""
    count = taken.sum(-1).to(F64)
    total = count.sum(-1, keepdim=True)
    deviation = rewards - (count * rewards).sum(-1, keepdim=True) / total
    if scale == "1":
        return deviation
    return _over(deviation, ((count * deviation.square()).sum(-1, keepdim=True) / (total - int(scale[-1]))).sqrt())


_CENTRED = {"mean": "centred by the mean of the group", "others": "centred by the mean of the others (leave one out)"}
_SCALED = {
    "1": "not divided by a standard deviation",
    "std1": "divided by the standard deviation of the group (ddof 1)",
    "std0": "divided by the standard deviation of the group (ddof 0)",
    "batchstd1": "divided by the standard deviation of all rewards of the batch (ddof 1)",
    "batchstd0": "divided by the standard deviation of all rewards of the batch (ddof 0)",
    "spread1": "divided by the standard deviation of all advantages of the batch (ddof 1)",
    "spread0": "divided by the standard deviation of all advantages of the batch (ddof 0)",
}
PLAIN_REWARDS = "the rewards are used without a baseline: unbiased, but the variance is larger than it need be"


def described(name: str) -> str:
    """Advantages that are right, in words."""
    _, centre, scale = name.split()
    return f"advantages {_CENTRED[centre]}, {_SCALED[scale]}" if centre != "nothing" else "advantages: the rewards"


# --- averages --------------------------------------------------------------------------------------------------------

NORMS = ("GS", "1", "G", "S")
RIGHT_BASES = {
    "response": "the mean over the tokens of each response, then over responses (GRPO)",
    "tokens": "the mean over all tokens of the batch (DAPO)",
    "group": "the mean over all tokens of each group",
    "sum": "the sum over the tokens of each response (RLOO)",
    "length": "the sum over all tokens, divided by the padded length T (Dr. GRPO): T must be the same in every batch",
}
_WRONG_BASES = ("every", "every_mean", "every_response", "every_tokens", "longest", "longest_of_all")
RIGHT_AVERAGES = tuple(f"{base} {norm}" for base in RIGHT_BASES for norm in NORMS)
AVERAGES = (*RIGHT_AVERAGES, *(f"{base} {norm}" for base in _WRONG_BASES for norm in NORMS[:2]))


def weights_of(name: str, taken: Tensor) -> Tensor:
    """The weight of each token `[groups, size, T]` in the loss, by the name of the average."""
    base, norm = name.split()
    used, lengths = taken.to(F64), taken.sum(-1, keepdim=True).to(F64)
    every = torch.ones_like(used)
    weights = {
        "response": used / lengths.clamp(min=1),
        "tokens": used / used.sum(),
        "group": used / used.sum((-2, -1), keepdim=True),
        "sum": used,
        "length": used / taken.shape[-1],
        "every": every,
        "every_mean": every / taken.shape[-1],
        "every_response": every / lengths.clamp(min=1),
        "every_tokens": every / used.sum(),
        "longest": used / lengths.amax(-2, keepdim=True),
        "longest_of_all": used / lengths.max(),
    }[base]
    groups, size, _ = taken.shape
    return weights / {"GS": groups * size, "1": 1, "G": groups, "S": size}[norm]


# --- the penalty -----------------------------------------------------------------------------------------------------

Penalty = Callable[[Tensor, Tensor], Tensor]
PENALTIES: Mapping[str, Penalty] = {
    "k3": lambda new, ref: (ref - new).exp() - (ref - new) - 1,
    "k2": lambda new, ref: (new - ref).square() / 2,
    "k1_weighted": lambda new, ref: (new - new.detach()).exp() * (new - ref),
    "k1": lambda new, ref: new - ref,
    "absolute": lambda new, ref: (new - ref).abs(),
    "swapped": lambda new, ref: (new - ref).exp() - (new - ref) - 1,
    "exp_of_ratio": lambda new, ref: (ref - new).exp().exp() - (ref - new).exp() - 1,
    "none": lambda new, ref: new * 0.0,
}
PENALTY_REMARKS = {
    "k3": "the penalty is k3: as a loss its gradient is that of KL(ref, policy), as in GRPO",
    "k2": "the penalty has the gradient of k2, that of KL(policy, ref)",
    "k1_weighted": "the penalty is k1 weighted by the ratio: its gradient is that of KL(policy, ref) in expectation",
}


def slopes_of_penalties(cases: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The slopes `[penalty, ...]` of each penalty of a token by its log-probability, for all cases at once.

    Args:
        cases: the log-probabilities and those of the reference.
    """
    leaf = torch.cat([new.flatten() for new, _ in cases]).requires_grad_()
    ref = torch.cat([ref.flatten() for _, ref in cases])
    slopes = torch.stack([torch.autograd.grad(of(leaf, ref).sum(), leaf)[0] for of in PENALTIES.values()])
    parts = torch.split(slopes, [new.numel() for new, _ in cases], -1)
    return [part.reshape(-1, *new.shape) for part, (new, _) in zip(parts, cases, strict=True)]
