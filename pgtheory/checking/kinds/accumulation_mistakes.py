"""The right forms of a loss whose micro-batches are added up, and the known mistakes, by its weights and divisors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgtheory.checking.report import Mistake, Source, issue, pull

UNSLOTH = Source("Han and Han, Unsloth, 2024", "https://unsloth.ai/blog/gradient")
#: A mean over the answers of a micro-batch that nothing divides further.
NOT_DIVIDED = "accumulation.not_divided"


class Micro(NamedTuple):
    """What a divisor may depend on: the mask of a micro-batch, and numbers of the whole batch."""

    mask: Tensor
    num_tokens: int
    num_sequences: int
    n_micro_batches: int
    world_size: int


class Mean(NamedTuple):
    """A mean over a batch: the weights of the steps, and the divisors of a micro-batch alone and of the whole batch."""

    weights: Callable[[Tensor], Tensor]
    own: Callable[[Micro], Any]
    whole: Callable[[Micro], Any]


def _taken(mask: Tensor) -> Tensor:
    return mask.double()


def _of_answers(mask: Tensor) -> Tensor:
    return mask / mask.sum(-1, keepdim=True).clamp(min=1)


def _every(mask: Tensor) -> Tensor:
    return torch.ones_like(mask, dtype=torch.float64)


def _rows(m: Micro) -> int:
    return len(m.mask)


_TOKENS = Mean(_taken, lambda m: m.mask.sum(), lambda m: m.num_tokens)
_ANSWERS = Mean(_of_answers, _rows, lambda m: m.num_sequences)
_SUMS = Mean(_taken, _rows, lambda m: m.num_sequences)
_SUM = Mean(_taken, lambda m: 1, lambda m: 1)
_MEANS = {
    "a mean over the tokens of the batch": _TOKENS,
    "a mean over the answers of the mean over the tokens of each": _ANSWERS,
    "a mean over the answers of the sum over the tokens of each, or that divided by a constant budget": _SUMS,
    "a sum over the tokens: the size of the update grows with the batch": _SUM,
}

Loss = Callable[..., Tensor]
Factor = Callable[[Mean, Micro], Any]


def _weighed(weights: Tensor, log_probs: Tensor, advantages: Tensor) -> Tensor:
    return -(weights * advantages * log_probs).sum()


def _loss(mean: Mean, factor: Factor, power: int, whiten: int | None = None) -> Loss:
    """The loss of a micro-batch with this factor and a power of the world size; perhaps of standardised advantages."""

    def loss(
        log_probs: Tensor,
        advantages: Tensor,
        mask: Tensor,
        num_tokens: int,
        num_sequences: int,
        n_micro_batches: int,
        world_size: int,
    ) -> Tensor:
        m = Micro(mask, num_tokens, num_sequences, n_micro_batches, world_size)
        if whiten is not None:
            kept = advantages[mask]
            advantages = (advantages - kept.mean()) / (kept.std(correction=whiten) + 1e-8)
        factors: Tensor = factor(mean, m) * float(world_size) ** power
        return _weighed(mean.weights(mask), log_probs, advantages) * factors

    return loss


def _step(mean: Mean, only_last: bool, factor: Factor, power: int) -> Loss:
    """A whole step whose factor is that of the last micro-batch, and which may keep that one alone."""

    def step(
        micro_batches: Sequence[Mapping[str, Tensor]], world_size: int, num_tokens: int, num_sequences: int
    ) -> Tensor:
        batches = list(micro_batches)
        m = Micro(batches[-1]["mask"], num_tokens, num_sequences, len(batches), world_size)
        kept = batches[-1:] if only_last else batches
        parts = [_weighed(mean.weights(b["mask"]), b["log_probs"], b["advantages"]) for b in kept]
        factors: Tensor = factor(mean, m) * float(world_size) ** power
        return torch.stack(parts).sum() * factors

    return step


def _each(means: Sequence[Mean], factor: Factor, *powers: int, whiten: int | None = None) -> tuple[Loss, ...]:
    return tuple(_loss(mean, factor, power, whiten) for mean in means for power in powers)


def _whole(mean: Mean, m: Micro) -> Any:
    return 1 / mean.whole(m)


def _own(mean: Mean, m: Micro) -> Any:
    return 1 / mean.own(m)


def _own_of_many(mean: Mean, m: Micro) -> Any:
    return 1 / mean.own(m) / m.n_micro_batches


_NORMALISED = (_TOKENS, _ANSWERS, _SUMS)
_OF_ROWS = (_ANSWERS, _SUMS)
_PADDED = Mean(_every, lambda m: m.mask.numel(), lambda m: m.num_tokens)


def right_forms(power: int) -> dict[str, Loss]:
    """The right forms by name; the world size counts with a power: 1 under a mean over ranks, 0 under a sum."""
    return {name: _loss(mean, _whole, power) for name, mean in _MEANS.items()}


class _Known(NamedTuple):
    """A mistake, and its implementations where the world size counts with a power in what is right.

    What is averaged on each rank alone is right with one power less.
    """

    mistake: Mistake
    made: Callable[[int], tuple[Loss, ...]]


_KNOWN = (
    _Known(
        Mistake(
            "accumulation.mean_of_means",
            "a mean over micro-batches of means over their own tokens",
            "Each micro-batch is divided by its own tokens, and then by the number of micro-batches: the tokens of "
            "short answers count more, the more so the finer the batch is cut.",
            "It is right only where all micro-batches have as many tokens.",
            (
                UNSLOTH,
                pull("huggingface/blog", 2414),
                issue("huggingface/transformers", 34242),
                pull("PrimeIntellect-ai/prime-rl", 583),
                pull("ml-explore/mlx-lm", 1413),
            ),
        ),
        lambda p: _each([_TOKENS], _own_of_many, p - 1),
    ),
    _Known(
        Mistake(
            "accumulation.local_denominator",
            "each micro-batch is divided by its own tokens",
            "The normaliser is the count of the micro-batch, or of the rank, not of the batch, and nothing divides the "
            "sum: the update grows with the number of micro-batches, and tokens of short answers count more.",
            "Twice as many micro-batches make a gradient of about twice the size.",
            (
                issue("huggingface/transformers", 37766),
                pull("huggingface/transformers", 35438),
                issue("verl-project/verl", 7321),
                pull("PrimeIntellect-ai/prime-rl", 2562),
            ),
        ),
        lambda p: _each([_TOKENS], _own, p - 1, p),
    ),
    _Known(
        Mistake(
            "accumulation.divided_by_micro_batches",
            "divided by the number of micro-batches besides",
            "The sum is normalised by the whole batch already, or twice by the number of micro-batches: the update "
            "shrinks with the number of accumulation steps.",
            "Twice as many micro-batches make a gradient of half the size.",
            (issue("modelscope/ms-swift", 10117), pull("huggingface/transformers", 35207)),
        ),
        lambda p: (
            *_each((*_NORMALISED, _SUM), lambda mean, m: _whole(mean, m) / m.n_micro_batches, p),
            *_each(_OF_ROWS, lambda mean, m: _own_of_many(mean, m) / m.n_micro_batches, p - 1),
        ),
    ),
    _Known(
        Mistake(
            "accumulation.scaled_up",
            "multiplied by the number of micro-batches",
            "The loss is scaled back for a division by the number of micro-batches that does not happen: the update "
            "grows with the number of accumulation steps.",
            "Twice as many micro-batches make a gradient of twice the size.",
            (pull("huggingface/transformers", 34511), pull("huggingface/transformers", 35438)),
        ),
        lambda p: _each(_NORMALISED, lambda mean, m: _whole(mean, m) * m.n_micro_batches, p),
    ),
    _Known(
        Mistake(
            NOT_DIVIDED,
            "a mean over the answers of each micro-batch, which nothing divides",
            "The means of the micro-batches are added up: the update grows with their number.",
            "Twice as many micro-batches make a gradient of twice the size.",
            (issue("openai/guided-diffusion", 111), pull("huggingface/trl", 4935)),
        ),
        lambda p: _each(_OF_ROWS, _own, p - 1, p),
    ),
    _Known(
        Mistake(
            "accumulation.equal_rows",
            "a mean over micro-batches of means over their answers",
            "It does not depend on the cut as long as all micro-batches hold as many answers; where the last one holds "
            "fewer, its answers count more.",
            "It differs only where micro-batches hold different numbers of answers.",
            (pull("verl-project/verl", 906),),
            severity="remark",
        ),
        lambda p: _each(_OF_ROWS, _own_of_many, p - 1),
    ),
    _Known(
        Mistake(
            "accumulation.weighted_by_rows",
            "means over tokens, weighted by the number of answers",
            "A micro-batch is divided by its own tokens and weighted by its share of the answers: that is right for a "
            "mean over answers, not over tokens.",
            "It is right only where answers have the same length.",
            (pull("verl-project/verl", 906), pull("modelscope/twinkle", 292)),
        ),
        lambda p: _each([_TOKENS], lambda mean, m: _own(mean, m) * len(m.mask) / m.num_sequences, p - 1),
    ),
    _Known(
        Mistake(
            "accumulation.local_width",
            "divided by the padded width of the micro-batch",
            "The divisor is the number of places, padding included: how long the longest answer of the micro-batch "
            "happens to be.",
            "It changes where a micro-batch is padded to its own longest answer.",
            (issue("verl-project/verl", 3741), pull("huggingface/trl", 3231), pull("d2l-ai/d2l-en", 2707)),
        ),
        lambda p: (
            *_each([_SUM], lambda mean, m: 1 / m.mask.numel() / m.n_micro_batches, p - 1),
            *_each([_SUM], lambda mean, m: 1 / m.mask.numel(), p - 1),
            *_each([_SUM], lambda mean, m: 1 / m.mask.shape[1], p - 1, p),
            *_each([_SUMS, _TOKENS], lambda mean, m: _whole(mean, m) / m.mask.shape[1], p),
        ),
    ),
    _Known(
        Mistake(
            "accumulation.normalised_twice",
            "normalised twice",
            "A mean over the micro-batch is divided by the tokens, or the answers, of the whole batch once more: "
            "gradients shrink with the square of the batch.",
            "A batch of twice the size has a quarter of the gradient.",
            (issue("d2l-ai/d2l-en", 2076),),
        ),
        lambda p: (
            *_each(_NORMALISED, lambda mean, m: _own(mean, m) / mean.whole(m), p),
            *_each(_NORMALISED, lambda mean, m: 1 / mean.whole(m) ** 2, p),
            *_each([_TOKENS], lambda mean, m: _own(mean, m) / m.num_sequences, p),
            *_each(_OF_ROWS, lambda mean, m: _own(mean, m) / m.num_tokens, p),
        ),
    ),
    _Known(
        Mistake(
            "accumulation.padding_counted",
            "the mask counts in the denominator only",
            "Padding is added up like tokens, and only divided out: places where the mask is False have a gradient.",
            "There are slopes at masked places.",
            (issue("huggingface/trl", 7024), pull("areal-project/AReaL", 1346)),
        ),
        lambda p: (
            *_each([_PADDED, _PADDED._replace(whole=lambda m: m.num_sequences)], _whole, p),
            *_each([_PADDED], _own_of_many, p - 1),
            *_each([_PADDED], _own, p - 1),
            *_each([_PADDED], lambda mean, m: 1 / m.mask.sum(), p - 1),
            *_each([_PADDED], lambda mean, m: 1 / m.mask.sum() / m.n_micro_batches, p - 1),
            *_each([_PADDED], lambda mean, m: 1, p),
        ),
    ),
    _Known(
        Mistake(
            "accumulation.world_size_missing",
            "the update shrinks with the number of ranks",
            "The loss is divided by a count of all ranks and the gradients are averaged over them besides; nothing "
            "undoes that by a factor of the world size, or it divides once more.",
            "Twice as many ranks make a gradient of half the size.",
            (pull("meta-pytorch/torchtune", 2172), issue("facebookresearch/fairseq", 494)),
        ),
        lambda p: (
            *_each((*_NORMALISED, _SUM), _whole, p - 1, p - 2),
            *_each(_OF_ROWS, _own_of_many, p - 2),
        ),
    ),
    _Known(
        Mistake(
            "accumulation.world_size_twice",
            "the update grows with the number of ranks",
            "The factor of the world size is there once too often: for a count of one rank, or where gradients are "
            "added up, none is needed.",
            "Twice as many ranks make a gradient of twice the size.",
            (pull("neuralmagic/sparseml", 135), pull("huggingface/transformers", 34511)),
        ),
        lambda p: (
            *_each((*_NORMALISED, _SUM), _whole, p + 1),
            *_each(_OF_ROWS, _own_of_many, p),
        ),
    ),
    _Known(
        Mistake(
            "accumulation.advantages_standardised",
            "advantages are standardised within the micro-batch",
            "The mean and the deviation are those of the micro-batch, so that the same answer has another advantage in "
            "another cut, and none where it is alone.",
            "A micro-batch of equal advantages has no gradient.",
            (pull("HorizonRobotics/alf", 1642),),
        ),
        lambda p: (
            *_each(_NORMALISED, _whole, p, whiten=0),
            *_each(_NORMALISED, _whole, p, whiten=1),
            *_each(_NORMALISED, _own_of_many, p - 1, whiten=0),
            *_each(_NORMALISED, _own_of_many, p - 1, whiten=1),
        ),
    ),
    _Known(
        Mistake(
            "accumulation.last_micro_batch_only",
            "only the last micro-batch counts",
            "The gradient is set to zero, or the sum is begun anew, in every micro-batch.",
            "Micro-batches before the last have no slopes.",
            (
                issue("bytetriper/RAE", 67),
                pull("pytorch/torchtitan", 3575),
                pull("allenai/open-instruct", 1498),
                issue("starVLA/starVLA", 395),
            ),
        ),
        lambda p: tuple(
            _step(mean, True, factor, q)
            for mean in _NORMALISED
            for factor, q in ((_whole, p), (_own, p - 1), (_own_of_many, p - 1))
        ),
    ),
    _Known(
        Mistake(
            "accumulation.count_of_the_last",
            "the count of the last micro-batch divides all",
            "The number of tokens is overwritten in every micro-batch, where it should be added up.",
            "It is right only where all but the last micro-batch are empty.",
            (),
            right_form=(UNSLOTH,),
        ),
        lambda p: tuple(_step(_TOKENS, False, factor, p - 1) for factor in (_own, _own_of_many)),
    ),
)


def known_mistakes(power: int) -> tuple[Mistake, ...]:
    """The known mistakes, where the world size counts with this power in what is right."""
    return tuple(replace(mistake, implementations=made(power)) for mistake, made in _KNOWN)


MISTAKES = known_mistakes(1)
