"""The known mistakes that top-k and top-p share, and the parts that their mistakes are made of.

A filter is a function of logits, k or p, and a temperature; what it returns is the distribution that is sampled from.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.report import Mistake, Source, arxiv, issue, pull

SLACK = 1e-6  # of a mass: what the cases keep away from p, or reach exactly
HOLTZMAN = arxiv("Holtzman et al., 2020, section 3.1", "1904.09751")
FAN = arxiv("Fan, Lewis and Dauphin, 2018", "1805.04833")
_ACKLEY = Source("Ackley, Hinton and Sejnowski, 1985", "https://doi.org/10.1207/s15516709cog0901_7")

# Which of the ranked probabilities [..., V] are kept, given k or p.
Rule = Callable[[Tensor, Any], Tensor]
Finish = Callable[[Tensor, Tensor], Tensor]
Filter = Callable[..., Tensor]


def of_k(function: Filter) -> Filter:
    """A filter with the canonical names of the arguments of top-k."""
    return lambda logits, k, temperature=1.0: function(logits, k, temperature)


def of_p(function: Filter) -> Filter:
    """A filter with the canonical names of the arguments of top-p."""
    return lambda logits, p, temperature=1.0: function(logits, p, temperature)


def filled(value: float) -> Finish:
    """Excluded logits take a value."""
    return lambda logits, kept: torch.where(kept, logits, value).softmax(-1)


_EXCLUDED = filled(-math.inf)


def masked(logits: Tensor, kept: Tensor) -> Tensor:
    """The filtered logits themselves."""
    return torch.where(kept, logits, -math.inf)


def ranks(ranked: Tensor) -> Tensor:
    """The place of each token in the order."""
    return torch.arange(ranked.shape[-1]).expand(ranked.shape)


def before(ranked: Tensor) -> Tensor:
    """The mass before each token."""
    return ranked.cumsum(-1) - ranked


def not_empty(rule: Rule) -> tuple[Rule, ...]:
    """A rule that may keep nothing, and what people do against that."""
    return (
        rule,
        lambda q, value: rule(q, value) | (ranks(q) == 0),
        lambda q, value: (kept := rule(q, value)) | ~kept.any(-1, keepdim=True),
    )


def by_rank(
    rule: Rule,
    *,
    ties: bool = False,
    finish: Finish = _EXCLUDED,
    descending: bool = True,
    back: Callable[[Tensor, Tensor], Tensor] | None = None,
    scale: Callable[[Tensor, float], Tensor] = torch.div,
    weigh: Callable[[Tensor], Tensor] = lambda ranked: ranked.softmax(-1),
) -> Filter:
    """Rank the logits, keep by a rule on the ranked probabilities, and bring the mask back to the tokens."""

    def implementation(logits: Tensor, value: Any, temperature: float = 1.0) -> Tensor:
        scaled = scale(logits, temperature)
        ranked, order = scaled.sort(dim=-1, descending=descending, stable=True)
        kept = rule(weigh(ranked), value)
        kept = back(kept, order) if back else torch.zeros_like(kept).scatter(-1, order, kept)
        if ties:
            last = torch.where(kept, scaled, math.inf if descending else -math.inf)
            kept = scaled >= last.amin(-1, keepdim=True) if descending else scaled <= last.amax(-1, keepdim=True)
        return finish(scaled, kept)

    return implementation


def variants(*rules: Rule, **options: Any) -> tuple[Filter, ...]:
    """Each rule, with ties cut and with ties kept."""
    return tuple(by_rank(rule, ties=ties, **options) for rule in rules for ties in (False, True))


def in_token_order(rule: Rule) -> Filter:
    """The rule, on probabilities that were not sorted."""

    def implementation(logits: Tensor, value: Any, temperature: float = 1.0) -> Tensor:
        scaled = logits / temperature
        return _EXCLUDED(scaled, rule(scaled.softmax(-1), value))

    return implementation


def temperature_after(rule: Rule) -> tuple[Filter, ...]:
    """The filter at temperature 1, then the temperature."""

    def variant(filtered: Filter) -> Filter:
        return lambda logits, value, temperature=1.0: (filtered(logits, value) / temperature).softmax(-1)

    return tuple(map(variant, variants(rule, finish=masked)))


def _then(rule: Rule, change: Callable[[Tensor], Tensor]) -> tuple[Filter, ...]:
    """The right filter, and what it does to the logits is changed afterwards."""
    return variants(rule, finish=lambda logits, kept: change(masked(logits, kept)).softmax(-1))


def _with_threshold(rule: Rule, threshold: Callable[[Tensor], Tensor]) -> Filter:
    """Keep what reaches a threshold, made of the least logits kept, one for each row."""

    def finish(logits: Tensor, kept: Tensor) -> Tensor:
        least = torch.where(kept, logits, math.inf).amin(-1, keepdim=True)
        return _EXCLUDED(logits, logits >= threshold(least))

    return by_rank(rule, finish=finish)


def _flattened(filtered: Filter) -> Filter:
    """The whole batch as one row."""

    def implementation(logits: Tensor, value: Any, temperature: float = 1.0) -> Tensor:
        return filtered(logits.reshape(1, -1), value, temperature).reshape(logits.shape).softmax(-1)

    return implementation


def _of_another_row(rule: Rule) -> tuple[Filter, ...]:
    thresholds: list[Callable[[Tensor], Tensor]] = [
        lambda least: least.amin(),
        lambda least: least.amax(),
        lambda least: least[0],
        lambda least: least[-1],
        lambda least: least[:, 0],
    ]
    return (
        *(_with_threshold(rule, threshold) for threshold in thresholds),
        *map(_flattened, variants(rule, finish=masked)),
        by_rank(rule, finish=lambda logits, kept: _EXCLUDED(logits, kept[:1])),
    )


def _twice(rule: Rule) -> tuple[Filter, ...]:
    def of_probabilities(logits: Tensor, value: Any, temperature: float = 1.0) -> Tensor:
        return by_rank(rule)((logits / temperature).softmax(-1), value)

    return (*variants(rule, finish=lambda logits, kept: _EXCLUDED(logits.softmax(-1), kept)), of_probabilities)


def _gathered_again(rule: Rule) -> Filter:
    """The sorted, filtered logits, gathered by the order where they should be scattered."""

    def implementation(logits: Tensor, value: Any, temperature: float = 1.0) -> Tensor:
        ranked, order = (logits / temperature).sort(dim=-1, descending=True, stable=True)
        return masked(ranked, rule(ranked.softmax(-1), value)).gather(-1, order).softmax(-1)

    return implementation


def _divided_again(rule: Rule) -> tuple[Filter, ...]:
    """The filter at the temperature, and what it leaves divided once more."""

    def variant(filtered: Filter) -> Filter:
        return lambda logits, value, t=1.0: (filtered(logits, value, t) / t).softmax(-1)

    return tuple(map(variant, variants(rule, finish=masked)))


def common(name: str, rule: Rule, right_form: Source, *more: Filter) -> tuple[Mistake, ...]:
    """The mistakes that top-k and top-p share; `more` are others that take the threshold of another row."""
    used = _of_use(name, rule, right_form)
    return (*_of_values(name, rule), *_of_places(name, rule, more), *used, *_of_temperature(name, rule))


def _of_values(name: str, right: Rule) -> tuple[Mistake, ...]:
    """Right tokens, wrong values."""
    return (
        Mistake(
            f"{name}.zero_instead_of_minus_inf",
            "the excluded logits are set to 0, not to -inf",
            "A logit of 0 is not a probability of 0: an excluded token keeps weight exp(0) = 1, and becomes more "
            "probable than it was if its logit was negative.",
            "Excluded tokens are still sampled, the more often the lower the logits of the others are.",
            (issue("karpathy/minGPT", 10), pull("sgl-project/sglang-jax", 1563)),
            variants(right, finish=filled(0.0)),
        ),
        Mistake(
            f"{name}.not_renormalised",
            "the probabilities are not renormalised",
            "The kept tokens have their original probabilities, which sum to less than 1.",
            "The sum of the result is the mass of the tokens kept.",
            (pull("ml-explore/mlx-lm", 388), pull("xjdr-alt/entropix", 78)),
            variants(right, finish=lambda logits, kept: torch.where(kept, logits.softmax(-1), 0.0)),
        ),
        Mistake(
            f"{name}.softmax_twice",
            "probabilities are treated as logits: the softmax is taken twice",
            "The filter acts on probabilities, or writes -inf into them. The softmax that follows is a second one, and "
            "flattens the distribution.",
            "No kept token is more than e = 2.72 times as probable as another.",
            (issue("Lightning-Universe/lightning-bolts", 654), issue("nfmcclure/tensorflow_cookbook", 86)),
            _twice(right),
        ),
    )


def _of_places(name: str, right: Rule, more: tuple[Filter, ...]) -> tuple[Mistake, ...]:
    """Right values, of other rows or at other tokens."""
    return (
        Mistake(
            f"{name}.threshold_of_another_row",
            "the threshold of another row, or of the whole batch",
            "The cut of one row of the batch decides over the tokens of another, for want of an axis or of keepdim.",
            "A batch of one row is right; the result of a row changes with the other rows.",
            (pull("ml-explore/mlx-lm", 1575), pull("rasbt/reasoning-from-scratch", 184)),
            (*_of_another_row(right), *more),
        ),
        Mistake(
            f"{name}.sorted_order_returned",
            "the result is left in sorted order",
            "The filtered values are those of the sorted tokens, and are never brought back: the probability of the "
            "best token goes to token 0.",
            "The result is sorted, whatever the logits were.",
            (issue("lucidrains/routing-transformer", 1),),
            (
                *_then(right, lambda filtered: filtered.sort(dim=-1, descending=True).values),
                *_then(right, lambda filtered: filtered.sort(dim=-1).values),
            ),
        ),
        Mistake(
            f"{name}.mask_not_scattered_back",
            "the mask of the sorted tokens is applied to the unsorted ones",
            "The mask was made for ranks, and is applied to tokens, or is brought back with the wrong one of the "
            "permutation and its inverse (gather where scatter is right).",
            "The right number of tokens is kept, and the wrong ones, unless the logits were sorted.",
            (issue("lucidrains/soundstorm-pytorch", 28), issue("lucidrains/routing-transformer", 1)),
            (
                by_rank(right, back=lambda kept, order: kept),
                by_rank(right, back=lambda kept, order: kept.gather(-1, order)),
                _gathered_again(right),
            ),
        ),
    )


def _of_use(name: str, right: Rule, right_form: Source) -> tuple[Mistake, ...]:
    """A right mask, used wrongly or not at all."""
    return (
        Mistake(
            f"{name}.inverted",
            "the mask is inverted: the tokens to be kept are removed",
            "What should be kept is excluded, and the rest of the distribution is kept.",
            "The most probable token is never sampled.",
            (),
            variants(right, finish=lambda logits, kept: _EXCLUDED(logits, ~kept)),
            right_form=(right_form,),
        ),
        Mistake(
            f"{name}.nothing_removed",
            "nothing is removed",
            "The logits come back unfiltered: the result is discarded, or the comparison is never true.",
            "The result is the input, whatever the parameter is.",
            (issue("skyzh/tiny-llm", 32), pull("facebookresearch/ParlAI", 2733)),
            (by_rank(lambda q, value: q > -1),),
        ),
    )


def _of_temperature(name: str, right: Rule) -> tuple[Mistake, ...]:
    """A temperature that is used wrongly or not at all."""
    return (
        Mistake(
            f"{name}.temperature_ignored",
            "the temperature is ignored",
            "The argument is taken and not used: the result is that of temperature 1.",
            "The result does not change with the temperature.",
            (pull("fishaudio/fish-speech", 1150),),
            variants(right, scale=lambda logits, temperature: logits * 1.0),
        ),
        Mistake(
            f"{name}.multiplied_by_temperature",
            "the logits are multiplied by the temperature",
            "A high temperature makes the distribution sharper, where it should make it flatter.",
            "At temperature 2 the result is that of temperature 1/2.",
            (),
            variants(right, scale=torch.mul),
            right_form=(_ACKLEY,),
        ),
        Mistake(
            f"{name}.temperature_twice",
            "the temperature is applied twice",
            "The logits are divided by the temperature before the filter and again: the result is that of the square.",
            "At temperature 2 the result is that of temperature 4.",
            (issue("RL-Align/RL-Kernel", 81), pull("Adibvafa/CodonTransformer", 20)),
            (
                *variants(right, scale=lambda logits, temperature: logits / temperature**2),
                *_divided_again(right),
            ),
        ),
    )
