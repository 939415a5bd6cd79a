"""REINFORCE as a recipe of independent choices: every way of writing it, right or wrong, on many batches at once."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor


class Batches(NamedTuple):
    """Batches of episodes, `[B, N, T]`, as a loss sees them.

    Attributes:
        rewards: 0 where no step was taken.
        mask: the steps taken.
        cells: what the loss is given: the steps taken and the padding, but not episodes that a batch does not have.
        gamma: the discount of each batch, `[B]`.
        probs: the probabilities of the actions taken.
        values: a guess of the value of each state.
    """

    rewards: Tensor
    mask: Tensor
    cells: Tensor
    gamma: Tensor
    probs: Tensor
    values: Tensor


class Recipe(NamedTuple):
    """The choices that make a REINFORCE loss; by default, the right ones."""

    returns: str = "to_go"
    discount: str = "kept"
    baseline: str = "none"
    average: str = "episodes"
    score: str = "log"
    sign: str = "minus"
    mask: str = "used"


def slopes(recipe: Recipe, batches: Batches) -> Tensor:
    """The derivatives of the loss by the log-probabilities, `[B, N, T]`; NaN where the recipe is not defined."""
    return _finished(recipe, batches, _weights(recipe, batches))


def stacked_slopes(which: Sequence[Recipe], batches: Batches) -> Tensor:
    """The slopes of many recipes, `[R, B, N, T]`, in single precision; what they share is computed once."""
    weights = cache(
        lambda returns, discount, baseline, mask: _weights(Recipe(returns, discount, baseline, mask=mask), batches)
    )
    shared = (weights(r.returns, r.discount, r.baseline, r.mask) for r in which)
    return torch.stack([_finished(r, batches, w).float() for r, w in zip(which, shared, strict=True)])


def _weights(recipe: Recipe, batches: Batches) -> Tensor:
    """The weights of the scores, not yet averaged."""
    taken = _taken(recipe, batches)
    returns = _returns(recipe.returns, batches, taken)
    return _BASELINES[recipe.baseline](returns, taken, batches) * _discount(recipe.discount, batches)


def _finished(recipe: Recipe, batches: Batches, weights: Tensor) -> Tensor:
    taken = _taken(recipe, batches)
    weights = torch.where(taken, weights / _divisor(recipe.average, batches, taken), 0.0)
    weights = _SCORES[recipe.score](weights, taken, batches)
    return weights if recipe.sign == "plus" else -weights


def _taken(recipe: Recipe, batches: Batches) -> Tensor:
    return batches.mask if recipe.mask == "used" else batches.cells


def _power(gamma: Tensor, exponent: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, gamma ** torch.where(where, exponent, 0), 0.0)


Weight = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

# How much the reward of step k counts in the return of step t of an episode whose last step is `end`.
_WEIGHTS: dict[str, Weight] = {
    "to_go": lambda t, k, end, g: _power(g, k - t, k >= t),
    "from_start": lambda t, k, end, g: _power(g, k, k >= t),
    "full": lambda t, k, end, g: _power(g, k + 0 * t, k >= 0),
    "undiscounted": lambda t, k, end, g: (k >= t) * torch.ones_like(g),
    "total": lambda t, k, end, g: (k + t >= 0) * torch.ones_like(g),
    "immediate": lambda t, k, end, g: (k == t) * torch.ones_like(g),
    "own_dropped": lambda t, k, end, g: _power(g, k - t - 1, k > t),
    "last_dropped": lambda t, k, end, g: _power(g, k - t, (k >= t) & (k < end)),
    "forwards": lambda t, k, end, g: _power(g, t - k, k <= t),
    "forwards_from_start": lambda t, k, end, g: _power(g, k, k <= t),
    "reversed": lambda t, k, end, g: _power(g, k - end + t, k >= end - t),
    "from_end": lambda t, k, end, g: _power(g, end - k, (k >= t) & (k <= end)),
    "squared": lambda t, k, end, g: _power(g, 2 * (k - t), k >= t),
    "mean_of_rest": lambda t, k, end, g: _power(g, k - t, k >= t) / (end - t + 1).clamp(min=1),
    "shifted": lambda t, k, end, g: _power(g, k + 1 - t, (k >= t - 1) & (k < end)),
    "last_only": lambda t, k, end, g: _power(g, end - t, (k == end) & (t <= end)),
    "all_returns": lambda t, k, end, g: sum(_power(g, k - s, k >= s) for s in range(k.numel())) + 0.0 * t,
    "all_averaged": lambda t, k, end, g: _WEIGHTS["all_returns"](t, k, end, g) / (end + 1).clamp(min=1),
    "all_discounted": lambda t, k, end, g: (k + 1) * _power(g, k + 0 * t, k >= 0),
}


def _returns(kind: str, batches: Batches, taken: Tensor) -> Tensor:
    k = torch.arange(taken.shape[-1])
    end = taken.sum(-1)[..., None, None] - 1
    weights = _WEIGHTS[kind](k[:, None], k, end, batches.gamma[:, None, None, None])
    weights = torch.where(taken[..., :, None] & taken[..., None, :], weights, 0.0)
    return (weights * batches.rewards[..., None, :]).sum(-1)


def _discount(kind: str, batches: Batches) -> Tensor:
    exponent = {"kept": 1, "dropped": 0}[kind] * torch.arange(batches.mask.shape[-1])
    return batches.gamma[:, None, None] ** exponent


def _divisor(kind: str, batches: Batches, taken: Tensor) -> Tensor:
    if kind == "all_steps":
        return taken.sum((-2, -1), keepdim=True)
    if kind == "running":
        return taken.sum(-2, keepdim=True).clamp(min=1)
    episodes = batches.cells.any(-1).sum(-1)[:, None, None]
    if kind == "own_steps":
        return episodes * taken.sum(-1, keepdim=True).clamp(min=1)
    width = batches.cells.any(-2).sum(-1)[:, None, None]
    return episodes * width if kind == "padded_steps" else episodes


Baseline = Callable[[Tensor, Tensor, Batches], Tensor]
_EPISODE, _STEP, _BATCH = (-1,), (-2,), (-2, -1)


def _mean(returns: Tensor, taken: Tensor, dims: tuple[int, ...]) -> Tensor:
    return returns.sum(dims, keepdim=True) / taken.sum(dims, keepdim=True)


def _first(returns: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
    """The returns of the episodes, and which of them there are."""
    return returns[..., :1], taken[..., :1]


def _per_step(taken: Tensor) -> Tensor:
    """All steps of the episodes that there are: one that has ended counts with the return 0."""
    return taken.any(-1, keepdim=True).expand(taken.shape)


def _of_others(returns: Tensor, taken: Tensor, dims: tuple[int, ...], empty: float = torch.nan) -> Tensor:
    """The mean over the other episodes, at the same step or over all of their steps."""
    own, count = (returns, taken) if dims == _STEP else (returns.sum(-1, keepdim=True), taken.sum(-1, keepdim=True))
    others = count.sum(-2, keepdim=True) - count.long()
    mean = (own.sum(-2, keepdim=True) - own) / others.clamp(min=1)
    return torch.where(others > 0, mean, empty)


def _standardised(
    dims: tuple[int, ...], ddof: int, *, first: bool = False, centred: bool = True, padded: bool = False
) -> Baseline:
    """The returns minus their mean, divided by their deviation: of all, of the `first` ones, or with the padding."""

    def change(returns: Tensor, taken: Tensor, batches: Batches) -> Tensor:
        sample, counted = _first(returns, taken) if first else (returns, batches.cells if padded else taken)
        mean = _mean(sample, counted, dims)
        squares = torch.where(counted, sample - mean, 0.0).square().sum(dims, keepdim=True)
        freedom = counted.sum(dims, keepdim=True) - ddof
        spread = (squares / freedom).sqrt()
        defined = (freedom > 0) & (spread > 1e-9)
        return torch.where(defined, (returns - mean if centred else returns) / spread, torch.nan)

    return change


_BASELINES: dict[str, Baseline] = {
    "none": lambda r, m, b: r,
    "leave_one_out": lambda r, m, b: r - _of_others(r, _per_step(m), _STEP),
    "leave_one_out_running": lambda r, m, b: r - _of_others(r, m, _STEP, empty=0.0),
    "leave_one_out_start": lambda r, m, b: r - _of_others(*_first(r, m), _STEP),
    "leave_one_out_flat": lambda r, m, b: r - _of_others(r, m, _BATCH),
    "values": lambda r, m, b: r - b.values,
    "own_sample": lambda r, m, b: r - _mean(r, _per_step(m), _STEP),
    "own_sample_running": lambda r, m, b: r - _mean(r, m, _STEP),
    "own_sample_start": lambda r, m, b: r - _mean(*_first(r, m), _STEP),
    "episode_mean": lambda r, m, b: r - _mean(r, m, _EPISODE),
    "batch_mean": lambda r, m, b: r - _mean(r, m, _BATCH),
    "padded_mean": lambda r, m, b: r - _mean(r, b.cells, _BATCH),
    "pairs": lambda r, m, b: _mean(r, _per_step(m), _STEP).expand(r.shape),
    "pairs_start": lambda r, m, b: _mean(*_first(r, m), _STEP).expand(r.shape),
    "pairs_all": lambda r, m, b: _mean(r, m, _BATCH).expand(r.shape),
    **{f"episode_std_{ddof}": _standardised(_EPISODE, ddof) for ddof in (0, 1)},
    **{f"batch_std_{ddof}": _standardised(_BATCH, ddof) for ddof in (0, 1)},
    **{f"padded_std_{ddof}": _standardised(_BATCH, ddof, padded=True) for ddof in (0, 1)},
    **{f"step_std_{ddof}": _standardised(_STEP, ddof) for ddof in (0, 1)},
    **{f"start_std_{ddof}": _standardised(_STEP, ddof, first=True) for ddof in (0, 1)},
    **{f"episode_scale_{ddof}": _standardised(_EPISODE, ddof, centred=False) for ddof in (0, 1)},
    **{f"batch_scale_{ddof}": _standardised(_BATCH, ddof, centred=False) for ddof in (0, 1)},
}

Score = Callable[[Tensor, Tensor, Batches], Tensor]


def _later(weights: Tensor, taken: Tensor) -> Tensor:
    """Each weight at the next step; that of the last step is lost."""
    return torch.where(taken, torch.nn.functional.pad(weights, (1, 0))[..., :-1], 0.0)


def _rolled(weights: Tensor, b: Batches) -> Tensor:
    """Each weight at the next step; that of the last column at the first step."""
    width = b.cells.any(-2).sum(-1)[:, None, None]
    before = (torch.arange(weights.shape[-1]) - 1).remainder(width).expand(weights.shape)
    return weights.gather(-1, before)


def _last(taken: Tensor) -> Tensor:
    return taken & (torch.arange(taken.shape[-1]) == taken.sum(-1, keepdim=True) - 1)


_SCORES: dict[str, Score] = {
    "log": lambda w, m, b: w,
    "probability": lambda w, m, b: w * b.probs,
    "next": lambda w, m, b: _later(w, m),
    "rolled": lambda w, m, b: _rolled(w, b),
    "last_dropped": lambda w, m, b: w.masked_fill(_last(m), 0.0),
    "last_column_dropped": lambda w, m, b: w.masked_fill(_last(b.cells.any(-2, keepdim=True)), 0.0),
    "first_dropped": lambda w, m, b: w * (torch.arange(w.shape[-1]) > 0),
}

# Which known mistakes a choice is, by the ends of their keys.
_OF_RETURNS = {
    "undiscounted": "gamma_ignored",
    "total": "gamma_ignored",
    "immediate": "immediate_reward",
    "own_dropped": "own_reward_dropped",
    "last_dropped": "last_reward_dropped",
    "forwards": "past_rewards",
    "forwards_from_start": "past_rewards",
    "reversed": "reversed_order",
    "from_end": "exponent_from_the_end",
    "squared": "discounted_twice",
    "mean_of_rest": "mean_of_the_rest",
    "shifted": "reward_of_the_step_before",
    "last_only": "last_reward_only",
    "all_returns": "pairing_lost",
    "all_averaged": "pairing_lost",
    "all_discounted": "pairing_lost",
}
_OVER_THE_BATCH = ("batch_std", "padded_std", "step_std", "start_std")
_OF_BASELINE = {
    "own_sample": "own_sample_baseline",
    "own_sample_running": "own_sample_baseline",
    "own_sample_start": "own_sample_baseline",
    "episode_mean": "episode_mean_baseline",
    "batch_mean": "batch_mean_baseline",
    "padded_mean": "batch_mean_baseline",
    "pairs": "broadcast",
    "pairs_start": "broadcast",
    "pairs_all": "broadcast",
    **{f"episode_{kind}_{ddof}": "standardised_episode" for kind in ("std", "scale") for ddof in (0, 1)},
    **{f"{kind}_{ddof}": "standardised_batch" for kind in _OVER_THE_BATCH for ddof in (0, 1)},
    **{f"batch_scale_{ddof}": "standardised_batch" for ddof in (0, 1)},
}
_OF_AVERAGE = {
    "own_steps": "mean_over_own_steps",
    "all_steps": "mean_over_all_steps",
    "padded_steps": "mean_over_padded_steps",
    "running": "mean_over_running_episodes",
}
_OF_SCORE = {
    "probability": "probability_not_log",
    "next": "log_prob_of_another_step",
    "rolled": "log_prob_of_another_step",
    "last_dropped": "last_step_dropped",
    "last_column_dropped": "last_step_dropped",
    "first_dropped": "first_step_dropped",
}
# Returns that hold their discounts already: γ^t is right when it is dropped, and there twice when it is kept.
_DISCOUNTED = ("from_start", "full")
# Returns in which γ plays no part, or whose mistake is the same one with γ^t or without.
_ONE_MISTAKE = ("undiscounted", "total", "immediate", "all_returns", "all_averaged", "all_discounted")


def faults(recipe: Recipe) -> tuple[str, ...]:
    """The known mistakes that a recipe makes, by the ends of their keys."""
    found = [*_faults_of_weights(recipe.returns, recipe.discount)]
    found += [name for name in (_OF_BASELINE.get(recipe.baseline), _OF_AVERAGE.get(recipe.average)) if name]
    found += [name for name in (_OF_SCORE.get(recipe.score),) if name]
    found += ["sign"] * (recipe.sign == "plus") + ["mask_ignored"] * (recipe.mask == "ignored")
    return tuple(found)


def _faults_of_weights(returns: str, discount: str) -> tuple[str, ...]:
    if returns in _DISCOUNTED or returns == "to_go":
        times = (discount == "kept") + (returns in _DISCOUNTED)
        return {0: ("gamma_t_dropped",), 1: (), 2: ("gamma_t_twice",)}[times]
    if returns in ("undiscounted", "total") and discount == "kept":
        return ("returns_not_discounted",)
    dropped = discount == "dropped" and returns not in _ONE_MISTAKE
    return (_OF_RETURNS[returns], *(["gamma_t_dropped"] if dropped else []))


@cache
def recipes(most: int, *, values: bool = False) -> tuple[Recipe, ...]:
    """The recipes with at most 1 mistake, or with exactly 2 (and three that are often made together).

    Args:
        most: 1 or 2.
        values: whether there is a baseline of values.
    """
    baselines = [name for name in _BASELINES if name != "values" or values]
    found = [r for r in _combinations(baselines) if (len(faults(r)) <= 1 if most == 1 else _is_pair(r))]
    # Where there is one episode only, what crosses episodes is not what it looks like.
    return tuple(sorted(found, key=lambda recipe: (len(faults(recipe)), recipe.baseline.startswith("pairs"))))


def _combinations(baselines: list[str]) -> Iterator[Recipe]:
    weights = [(r, d) for r in _WEIGHTS for d in ("kept", "dropped") if d == "dropped" or not r.startswith("all_")]
    for (returns, discount), baseline in product(weights, baselines):
        bare = Recipe(returns, discount, baseline)
        if len(faults(bare)) > 2:
            continue
        for average in ("episodes", *_OF_AVERAGE):
            yield bare._replace(average=average)
            yield bare._replace(average=average, sign="plus")
            yield from (bare._replace(average=average, score=score) for score in _OF_SCORE)
        yield from (bare._replace(score=score, sign="plus") for score in _OF_SCORE)
        yield bare._replace(mask="ignored")


def _is_pair(recipe: Recipe) -> bool:
    """Whether it makes two mistakes, or the three that are often made together, with few harmless choices beside."""
    found = faults(recipe)
    often = len(found) == 3 and found[0] in ("gamma_t_dropped", "gamma_ignored") and recipe.score == "log"
    usual = recipe.baseline in ("none", "leave_one_out", "values") or recipe.baseline in _OF_BASELINE
    return usual and (
        len(found) == 2 or (often and recipe.sign == "minus" and recipe.average in ("own_steps", "all_steps"))
    )


def as_loss(recipe: Recipe) -> Callable[..., Tensor]:
    """A recipe as a loss that is called as `loss(log_probs, rewards, gamma, mask=mask)`."""

    def loss(log_probs: Tensor, rewards: Tensor, gamma: float, *, mask: Tensor) -> Tensor:
        x = log_probs.detach()
        kept = rewards if recipe.mask == "ignored" else torch.where(mask, rewards, 0.0)
        discount = torch.tensor([gamma], dtype=x.dtype)
        batch = Batches(
            kept[None], mask[None], torch.ones_like(mask)[None], discount, x.exp()[None], torch.zeros_like(x)[None]
        )
        weights = slopes(recipe, batch)[0]
        return torch.where(weights == 0, 0.0, weights * log_probs).sum()

    return loss
