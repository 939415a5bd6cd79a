"""Does the update depend on how a batch is cut into micro-batches and ranks? And if so, by which known mistake?"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Call, Inputs, Layout, Misfit, Reading, roles_of
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.kinds.accumulation_mistakes import NOT_DIVIDED, known_mistakes, right_forms
from pgtheory.checking.loss import F64, LOG_PROBS, MASKS, actions_of, implied, loss_args
from pgtheory.checking.report import Report, as_text
from pgtheory.checking.slopes import loss_in, slopes
from pgtheory.checking.verdicts import same

Reduce = Literal["mean", "sum"]
#: The micro-batches of one rank, each the rows of one; a cut is one of these for each rank.
Rank = tuple[tuple[int, ...], ...]

_OWN_WEIGHTS = "it weighs the tokens of a batch in a way of its own, which does not depend on the cut"
_EMPTY = "it fails where no token of an answer, or of a micro-batch, counts"
_CROPPED = "it fails where micro-batches are padded to widths of their own"
_UNASKED = "one rank was tried: it takes no world size; say reduce='mean' or 'sum' to try several"
_AVERAGED = "gradients were averaged over the ranks, as data parallelism does: say reduce='sum' if they are added up"
_NO_MASK = "it takes no mask: only answers of equal length were tried"
_NORMALISERS = frozenset(
    ["num_tokens", "num_sequences", "n_micro_batches", "world_size", "max_length", "micro_batches"]
)


def check_accumulation(
    function: Callable[..., Any] | None = None,
    *,
    reduce: Reduce | None = None,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check that an update does not depend on how its batch is cut into micro-batches, accumulation steps and ranks.

    One ragged batch is cut in many ways, and the slopes of the loss by the log-probabilities, added up over the
    micro-batches, are compared with those of the batch that is not cut; here their size counts. Which mean a right one
    is, as of :eq:`eq-grpo` or :eq:`eq-dapo`, is reported. The function may be the loss of one micro-batch,
    `fn(log_probs, advantages, mask, num_tokens)`, with the normaliser that its author passes: the tokens or the answers
    (`num_sequences`) of the whole batch, the number of micro-batches, the world size, by any of their usual names; it
    may take `loss_mat`, `logits` and `labels` (-100 where nothing counts), `old_log_probs` and `clip`, too. Or it is a
    whole `train_step(micro_batches)`, of dictionaries or of tuples `(log_probs, advantages, mask)`, that returns the
    loss, or calls `backward` itself.

    Args:
        function: the implementation.
        reduce: how gradients are combined over ranks: `"mean"`, as by data parallelism, or `"sum"`; None: by their
            mean if the function takes a world size, else there is one rank.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.log_probs, x.mask) / x.num_tokens`;
            they are, of one micro-batch, `x.log_probs`, `x.old_log_probs`, `x.advantages`, `x.mask`, `[N, T]`, of all
            of it `x.num_tokens`, `x.num_sequences`, `x.n_micro_batches` (of a rank), `x.world_size`, and
            `x.micro_batches` for a whole step.
        layout: the order of axes, such as `"[N, T]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"loss_scale": "num_tokens"}`.

    Returns:
        The report. It abstains from a mean over the answers of a micro-batch that takes no normaliser: what divides it
        is then outside.

    Raises:
        UnknownForm: the function cannot be called in any form, or does not return a loss.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know, or `reduce` is unknown.

    Source:
        Han and Han, "Bugs in LLM Training: Gradient Accumulation Fix", Unsloth, 2024.

    Example:
        >>> def loss(log_probs, advantages, mask, grad_accum_steps):
        ...     return -(log_probs * advantages * mask).sum() / mask.sum() / grad_accum_steps
        >>> print(check_accumulation(loss).headline)
        check_accumulation: WRONG, a known mistake: a mean over micro-batches of means over their own tokens
        >>> def loss(log_probs, advantages, mask, num_tokens):
        ...     return -(log_probs * advantages * mask).sum() / num_tokens
        >>> check_accumulation(loss).remarks[0]
        'it is a mean over the tokens of the batch'
    """
    if reduce not in (None, "mean", "sum"):
        raise ValueError(f"reduce is {reduce!r}, expected 'mean' or 'sum'")
    report = _check(reduce).judge(function, call=call, layout=layout, names=names)
    if (
        [m.key for m in report.mistakes] == [NOT_DIVIDED]
        and not _NORMALISERS & set(report.binding.values())
        and not call
    ):
        why = (
            "it is a mean over the answers of the micro-batch, and takes no normaliser: if the loop divides by the "
            "number of micro-batches, say call=lambda x: f(x.log_probs, ...) / x.n_micro_batches"
        )
        return replace(report, mistakes=(), remarks=(), counterexample=None, details={}, abstains=why)
    return report


# --- micro-batches ---


class MicroBatch(dict[str, Tensor]):
    """The tensors of a micro-batch by any of their names, as entries and as attributes."""

    def __missing__(self, name: str) -> Tensor:
        for role in roles_of(name, _ARGS):
            if role in self:
                return self[role]
        raise KeyError(f"{name!r} is not in a micro-batch, only {', '.join(self)}")

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(*error.args) from None


class MicroBatches(list[Any]):
    """The micro-batches of a rank; `read` once something has looked into them."""

    read = False

    def __iter__(self) -> Iterator[Any]:
        self.read = True
        return super().__iter__()

    def __getitem__(self, key: Any) -> Any:
        self.read = True
        return super().__getitem__(key)


def _readings(roles: frozenset[str], reduce: Reduce | None) -> list[Reading]:
    """Numbers as they are or as tensors, and micro-batches as dictionaries or as tuples."""
    notes = [] if {"world_size"} & roles or reduce else [_UNASKED]
    notes += [_AVERAGED] if "world_size" in roles and not reduce else []
    notes += [] if _masked(roles) else [_NO_MASK]
    facts = frozenset(["ranks"]) if "world_size" in roles or reduce else frozenset[str]()
    of: dict[str, Callable[[Any], Any]] = {}
    if not roles & MASKS:  # labels say what counts
        of["actions"] = lambda x: torch.where(x.mask, actions_of(x.log_probs), -100)
    numbers = {name: lambda x, name=name: torch.tensor(float(getattr(x, name))) for name in roles & _NORMALISERS}
    numbers.pop("micro_batches", None)
    tuples = {"micro_batches": lambda x: MicroBatches(map(_as_tuple, x.micro_batches))}
    found = [Reading("", of, facts, tuple(notes))]
    found += [Reading(", numbers as tensors", {**of, **numbers}, facts, tuple(notes), rare=True)] if numbers else []
    found += [Reading(", tuples", {**of, **tuples}, facts, tuple(notes), rare=True)] if "micro_batches" in roles else []
    return found


def _as_tuple(batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return batch["log_probs"], batch["advantages"], batch["mask"]


def _masked(roles: frozenset[str]) -> bool:
    return bool(roles & (MASKS | {"micro_batches", "actions"}))


# --- the update ---


def _observe(
    call: Call, layout: Layout, inputs: Inputs, sizes: Mapping[str, int], averaged: bool = True
) -> dict[str, Tensor]:
    """The slopes of the whole update, relative to those of a batch that is not cut."""
    x = inputs.canonical
    uncut = ((tuple(range(len(x["base"]))),),)
    got = _update(call, inputs, x["mask"], x["cut"], averaged, crop=x["crop"])
    base = _update(call, inputs, x["base"], uncut, averaged)
    if x["shared"]:
        got = torch.where(base == 0, 0.0, got)
    elif not bool((base != 0).any()):
        raise Misfit("its loss has no slopes by the log-probabilities")
    return {"": torch.where((base == 0) & (got == 0), 0.0, got / base)}


def _update(
    call: Call, inputs: Inputs, mask: Tensor, cut: Sequence[Rank], averaged: bool, *, crop: bool = False
) -> Tensor:
    """The gradient by the log-probabilities of the batch that has these steps, cut like that."""
    x = {**inputs.canonical, "mask": _padded(mask, inputs.canonical["mask"].shape)}
    whole = {
        "num_tokens": int(mask.sum()),
        "num_sequences": sum(len(rows) for rank in cut for rows in rank),
        "world_size": len(cut),
    }

    def of_rank(rank: Rank, leaf: Tensor) -> Any:
        parts = [_rows({**x, "log_probs": leaf}, rows, crop) for rows in rank]
        batches = MicroBatches(map(MicroBatch, parts))
        shared = {**whole, "n_micro_batches": len(rank), "micro_batches": batches}
        first = call(inputs.replaced(**parts[0], **shared))
        if batches.read and first is None:  # it may have called `backward`
            return 0.0 * leaf.sum()
        losses = [loss_in(first)]
        if not batches.read:
            losses += [loss_in(call(inputs.replaced(**part, **shared))) for part in parts[1:]]
        if any(isinstance(loss, Tensor) and loss.numel() != 1 for loss in losses):
            raise Misfit("it returns one value for each token or answer: hand in what makes one number of them")
        return losses[0] if len(losses) == 1 else sum(x.reshape(()) if isinstance(x, Tensor) else x for x in losses)

    ranks = [slopes(functools.partial(of_rank, rank), x["log_probs"], lambda out: None, inputs.notes) for rank in cut]
    found = sum(ranks, torch.zeros_like(ranks[0])) / (len(ranks) if averaged else 1)
    for rows in (list(rows) for rank in cut for rows in rank):  # a loss that is not a number has no slopes at all
        if bool(found[rows].isnan().any()):
            found[rows] = torch.nan
    return found


def _padded(mask: Tensor, shape: Sequence[int]) -> Tensor:
    found = torch.zeros(*shape, dtype=torch.bool)
    found[: mask.shape[0], : mask.shape[1]] = mask
    return found


_TENSORS = ("log_probs", "old_log_probs", "advantages", "mask")


def _rows(x: Mapping[str, Any], rows: Sequence[int], crop: bool) -> dict[str, Tensor]:
    """The rows of a micro-batch; cropped, they end where the longest of them does."""
    mask = x["mask"][list(rows)]
    width = max(1, int(mask.any(0).nonzero().amax()) + 1 if mask.any() else 1) if crop else mask.shape[1]
    return {name: x[name][list(rows)][:, :width] for name in _TENSORS}


# --- the cases ---

# The steps of the answers, and the cut: ranks behind "|", micro-batches behind ";", rows by their numbers.
_CUTS = (
    ("111 100", "0;1", False),
    ("1111 1000 1100 1110", "01;23", False),
    ("1111 1000 1100 1110", "0;1;2;3", False),
    ("1011 0100 1101 0111", "01;23", False),
    ("1110 0110 1011 1101", "03;21", False),
    ("11 11 11 11", "01;23", False),
    ("1111 1000 1100 1110", "0;123", False),
    ("1000 1100 1111 1011", "01;23", True),
    ("1000 1100 1111 1000", "0;1;2;3", True),
)
_RANKS = (
    ("111 100", "0|1", False),
    ("1111 1000 1100 1110", "0;1|2;3", False),
    ("1111 1000 1100 1110 1011 0100", "0;1|2;3|4;5", False),
)
_EMPTIES = (("1110 0000 1000 1100", "01;23"), ("0000 0000 1000 1100", "01;23"))
# Two batches that share rows: what the weight of a token of the second becomes in the first tells which mean it is.
_MEANS = (("1111 1111", "1111"), ("1111 1000", "1000 1000"), ("1000 1111", "1000 1100"))


def cases(facts: frozenset[str]) -> list[Case]:
    """The cases for a function that is told these facts, the smallest first."""
    full = not (facts & MASKS or facts & {"micro_batches", "actions"})
    found = [_case(rows, cut, crop) for rows, cut, crop in (*_CUTS, *(_RANKS if "ranks" in facts else ()))]
    found += [_case(rows, cut, False, delicate=_EMPTY) for rows, cut in _EMPTIES]
    found += [_case(rows, "0123"[: len(rows.split())], False, base, _OWN_WEIGHTS) for rows, base in _MEANS]
    return [case for case in found if bool(case.inputs["mask"].all())] if full else found


def _case(rows: str, cut: str, crop: bool, base: str = "", delicate: str = "") -> Case:
    mask, of_base = (torch.tensor([[c == "1" for c in row] for row in text.split()]) for text in (rows, base or rows))
    place = torch.arange(mask.numel(), dtype=F64).reshape(mask.shape)
    advantages = 1.0 + 0.37 * place * torch.where(place % 2 == 0, 1.0, -1.0)
    log_probs = -0.5 - 0.11 * place
    old = log_probs + 0.05 * (2.1 * place).sin()
    if base:  # one drive for all tokens
        log_probs, old, advantages = (torch.full_like(place, x) for x in (-0.7, -0.7, 1.5))
    ranks = tuple(tuple(tuple(map(int, part)) for part in rank.split(";")) for rank in cut.split("|"))
    batch = {"log_probs": log_probs, "old_log_probs": old, "advantages": advantages, "mask": mask}
    whole = {"clip": 0.2, "clip_high": 0.2, "cut": ranks, "crop": crop, "base": of_base, "shared": bool(base)}
    whole |= {"num_tokens": int(mask.sum()), "num_sequences": len(mask), "n_micro_batches": len(ranks[0])}
    whole |= {"micro_batches": MicroBatches([MicroBatch(batch)]), "world_size": len(ranks)}
    return Case({**batch, **whole}, delicate or (_CROPPED if crop else ""), or_fails=crop)


@dataclass(frozen=True)
class _Weights:
    """The weights of the tokens, and the cut in which they are."""

    weights: Tensor
    cut: Sequence[Rank]

    def __str__(self) -> str:
        ranks = " | ".join(" ; ".join(", ".join(map(str, rows)) for rows in rank) for rank in self.cut)
        return f"{as_text(self.weights)}, rows cut as {ranks}"


def _shown(x: Mapping[str, Any], answer: Any) -> Any:
    return _Weights(answer, x["cut"]) if isinstance(answer, Tensor) else answer


_ALSO = {"actions": "target targets", "logits": "source"}
_ARGS = (
    *(arg._replace(also=f"{arg.also} {_ALSO.get(arg.name, '')}") for arg in loss_args("N T")),
    Arg("advantages", "N T"),
    Arg("ref_log_probs", "N T", of=lambda x: x.old_log_probs - 0.1),
    Arg("beta", of=lambda x: 0.04),
    Arg(
        "losses",
        "N T",
        "loss_mat per_token_loss per_token_losses token_losses pg_losses pg_loss policy_loss loss loss_matrix",
        of=lambda x: -x.advantages * x.log_probs,
    ),
    Arg(
        "num_tokens",
        also="num_target_tokens global_valid_toks global_valid_tokens num_items normalizer normaliser denominator "
        "denom global_normalization_factor total_num_tokens num_total_tokens total_valid_tokens num_response_tokens",
    ),
    Arg(
        "num_sequences",
        also="num_seqs n_seqs n_sequences num_samples n_samples global_batch_size batch_size mini_batch_size "
        "ppo_mini_batch_size num_answers num_responses num_completions global_valid_seqs total_sequences",
    ),
    Arg(
        "n_micro_batches",
        also="gradient_accumulation_steps grad_accum_steps accumulation_steps accum_steps grad_acc_steps "
        "grad_accumulation_steps current_gradient_accumulation_steps num_micro_batches num_microbatches n_microbatches "
        "gas accum num_accumulation_steps acc_steps",
    ),
    Arg(
        "world_size",
        also="dp_size num_processes n_ranks num_ranks n_gpus num_gpus data_parallel_size dp_world_size num_devices",
    ),
    Arg("max_length", also="max_tokens max_completion_length max_response_length max_len", of=lambda x: 8),
    Arg("micro_batches", also="microbatches batches micro_batch_list minibatches"),
)


def _close(x: Mapping[str, Any], got: Tensor | Exception, expected: Tensor | Exception) -> bool:
    """Whether weights are the same, but for rounding and an ε in a denominator."""
    return same(got, expected)


@functools.cache
def _check(reduce: Reduce | None) -> Check:
    """The check under a mean or a sum of gradients over ranks."""
    power = 0 if reduce == "sum" else 1
    return Check(
        "accumulation",
        9,
        args=_ARGS,
        needs=(f"{LOG_PROBS}|losses|micro_batches",),
        signature=("log_probs", "advantages", "mask", "num_tokens"),
        axes="N T",
        layouts=("[N, T]", "[N*T]"),
        reference=right_forms(power),
        cases=cases,
        mistakes=known_mistakes(power),
        readings=functools.partial(_readings, reduce=reduce),
        implied=implied,
        observe=functools.partial(_observe, averaged=reduce != "sum"),
        close=_close,
        applies=lambda mistake, facts: "ranks" in facts or "world_size" not in mistake.key,
        shown=_shown,
        quantity="the weight of each token in the update, relative to the batch that is not cut",
        example="call=lambda x: f(x.log_probs, x.advantages, x.mask, x.num_tokens)  # of one micro-batch, [N, T]",
    )


CHECK = _check(None)
