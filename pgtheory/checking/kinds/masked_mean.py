"""Is this a mean under a mask? Which mean is it, and if none, which known mistake?"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Call, Inputs, Layout, Misfit, as_tensor, parts_of
from pgtheory.checking.episodes import F64, MASK_ARGS
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.report import Mistake, Report, issue, pull
from pgtheory.checking.verdicts import same

_EMPTY_ROW = "it is not a number, or another one, where no token of a row counts"
_EMPTY = "it is not a number, or another one, where no token counts"
_NAN = "it is not finite where padding holds NaN or an infinity: select by the mask instead of multiplying"
_ROWS = "it returns one number for each row: their mean was judged"
_BUDGET = 8.0


def check_masked_mean(
    function: Callable[..., Any] | None = None,
    *,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check a mean of values under a mask, and say which mean it is.

    Four are right: over all tokens, as of :eq:`eq-dapo`; over rows of the means of their tokens, as of :eq:`eq-grpo`;
    over rows of the sums of their tokens; and a sum over a budget that the function is given, as of :eq:`eq-dr-grpo`.
    The function may be `fn(values, mask)` on tensors, arrays or lists, for a row `[T]` or a batch `[B, T]`, and return
    a number, or one for each row.

    Args:
        function: the implementation.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.values, x.mask)`, `[B, T]`; there are
            `x.budget`, `x.num_tokens` and `x.num_sequences` too.
        layout: the order of axes, such as `"[B, T]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"padding_mask": "padding"}`.

    Returns:
        The report, with a remark on which mean it is, and on padding that holds NaN.

    Raises:
        UnknownForm: the function cannot be called, or does not return a number.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Yu et al., "DAPO", 2025, section 3.3; Liu et al., "Understanding R1-Zero-Like Training", 2025, section 3.

    Example:
        >>> print(check_masked_mean(lambda values, mask: (values * mask).mean()).headline)
        check_masked_mean: WRONG, a known mistake: padding counts in the denominator
        >>> report = check_masked_mean(lambda values, mask: values[mask].mean())
        >>> report.remarks[0]
        'it is a mean over all tokens'
    """
    return CHECK.judge(function, call=call, layout=layout, names=names)


# --- the forms ---

Mean = Callable[..., Tensor]


def _kept(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0.0)


def _rows(values: Tensor, mask: Tensor) -> Tensor:
    return _kept(values, mask).sum(-1) / mask.sum(-1).clamp(min=1)


RIGHT: Mapping[str, Mean] = {
    "a mean over all tokens": lambda values, mask: _kept(values, mask).sum() / mask.sum(),
    "a mean over the rows of the mean of each, rows without tokens counted as 0": (
        lambda values, mask: _rows(values, mask).mean()
    ),
    "a mean over the rows of the mean of each, rows without tokens left out": (
        lambda values, mask: _rows(values, mask).sum() / mask.any(-1).sum()
    ),
    "a mean over the rows of the sum of each": lambda values, mask: _kept(values, mask).sum(-1).mean(),
    "a sum over the number of rows times a budget": (
        lambda values, mask, budget: _kept(values, mask).sum() / (len(mask) * budget)
    ),
    "a sum divided by a constant": lambda values, mask, budget: _kept(values, mask).sum() / budget,
}

MISTAKES = (
    Mistake(
        "masked_mean.padding_in_the_denominator",
        "padding counts in the denominator",
        "The masked sum is divided by the number of all places: the mean shrinks with the amount of padding.",
        "More padding makes the result smaller.",
        (pull("d2l-ai/d2l-en", 2707), pull("uncbiag/ICON", 83), pull("DeepX-inc/machina", 198)),
        (lambda values, mask: _kept(values, mask).mean(),),
    ),
    Mistake(
        "masked_mean.padding_in_the_numerator",
        "padding counts in the numerator",
        "Everything is added up, and divided by the number of tokens that count.",
        "The result changes with what stands in the padding.",
        (pull("alibaba/ROLL", 444),),
        (
            lambda values, mask: values.sum() / mask.sum(),
            lambda values, mask: (values.sum(-1) / mask.sum(-1).clamp(min=1)).mean(),
        ),
    ),
    Mistake(
        "masked_mean.mask_ignored",
        "the mask is ignored",
        "It is the mean over all places.",
        "The result changes with what stands in the padding.",
        (pull("NovaSky-AI/SkyRL", 462), issue("ywk991112/pytorch-chatbot", 12)),
        (lambda values, mask: values.mean(),),
    ),
    Mistake(
        "masked_mean.inverted",
        "the mask is inverted",
        "It is the mean of the padding.",
        "The result does not change with the values that count.",
        (issue("lucidrains/voicebox-pytorch", 6),),
        (
            lambda values, mask: _kept(values, ~mask).sum() / (~mask).sum(),
            lambda values, mask: _rows(values, ~mask).mean(),
        ),
    ),
    Mistake(
        "masked_mean.inverted_in_the_numerator",
        "the mask is inverted in the numerator",
        "What counts is filled with zeros, and the padding added up, over the number of tokens that count.",
        "The result does not change with the values that count.",
        (issue("lucidrains/voicebox-pytorch", 6),),
        (lambda values, mask: _kept(values, ~mask).sum() / mask.sum(),),
    ),
    Mistake(
        "masked_mean.divided_twice",
        "divided twice",
        "A mean is divided by the number of tokens once more.",
        "Twice as many tokens make the result half as large.",
        (issue("d2l-ai/d2l-en", 2076), issue("PetarV-/DGI", 8)),
        (
            lambda values, mask: _kept(values, mask).mean() / mask.sum(),
            lambda values, mask: _kept(values, mask).mean(-1).sum() / mask.sum(),
            lambda values, mask: _kept(values, mask).sum() / mask.sum() ** 2,
            lambda values, mask: _kept(values, mask).sum() / mask.sum() / len(mask),
            lambda values, mask: _rows(values, mask).mean() / len(mask),
        ),
    ),
    Mistake(
        "masked_mean.padded_width",
        "divided by the padded width",
        "The sum is divided by the width of the array: by how long the longest row happens to be, and not by the rows.",
        "One more column of padding changes the result; so does one more copy of the rows.",
        (issue("verl-project/verl", 3741),),
        (lambda values, mask: _kept(values, mask).sum() / mask.shape[-1],),
    ),
    Mistake(
        "masked_mean.zeros_left_out",
        "values that are 0 are left out",
        "What counts is told by what is not 0, after the masked values were set to 0: a value of 0 does not count.",
        "It is wrong where a value that counts is 0.",
        (issue("sunlabuiuc/PyHealth", 820), issue("ZhengYinan-AIR/Diffusion-Planner", 36)),
        (lambda values, mask: _kept(values, mask).sum() / (_kept(values, mask) != 0).sum(),),
    ),
    Mistake(
        "masked_mean.columns_first",
        "averaged over the rows at each step first",
        "The mean over the steps is one of means over those rows that reach the step: late tokens count more.",
        "It is right where all rows are as long.",
        (issue("tensorflow/agents", 651),),
        (
            lambda values, mask: (_kept(values, mask).sum(0) / mask.sum(0).clamp(min=1)).mean(),
            lambda values, mask: (_kept(values, mask).sum(0) / mask.sum(0).clamp(min=1)).sum() / mask.any(0).sum(),
        ),
    ),
    Mistake(
        "masked_mean.not_divided",
        "a sum, not a mean",
        "Nothing is divided: the result grows with the number of tokens.",
        "Twice as many tokens make the result about twice as large.",
        (pull("nyu-mll/jiant", 980),),
        (lambda values, mask: _kept(values, mask).sum(),),
    ),
)

# --- the cases ---

_VALUES = (3.0, 0.0, 7.0, -1.5, 2.25, 5.5, -4.0, 6.25, 1.75, 8.5, -2.75, 4.5)
_MASKS = ("10", "11 11", "111 100", "110 111", "1011 0100 1101", "011 001", "1111", "1 1 1", "1110 1100 1000")


def cases(facts: frozenset[str]) -> list[Case]:
    """Masks with padding, holes, a row alone, a step alone, then empty rows, and padding that is not finite."""
    found = [_case(text) for text in _MASKS]
    found += [_case("110 000", _EMPTY_ROW), _case("00 00", _EMPTY)]
    return found + [_case("110 100", _NAN, padding) for padding in (torch.nan, torch.inf)]


def _case(text: str, delicate: str = "", padding: float | None = None) -> Case:
    mask = torch.tensor([[c == "1" for c in row] for row in text.split()])
    values = torch.tensor(_VALUES, dtype=F64)[: mask.numel()].reshape(mask.shape)
    blank = values * 2 + 30.0 if padding is None else torch.full_like(values, padding)
    return Case({"values": torch.where(mask, values, blank), "mask": mask, "budget": _BUDGET}, delicate)


def _observe(call: Call, layout: Layout, inputs: Inputs, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """The number that was returned, or the mean of one for each row."""
    rows, found = len(inputs.canonical["mask"]), dict[str, Tensor]()
    for name, part in parts_of(call(inputs), "mean loss").items():
        value = as_tensor(part).double()
        if value.numel() != 1 and ([n for n in value.shape if n != 1] != [rows] or layout.lacks_batch):
            raise Misfit(f"it returned shape {[*value.shape]}, not a number")
        if value.numel() != 1:
            inputs.notes.add(_ROWS)
        found[name] = value.mean()
    return found


def _close(x: Mapping[str, Any], got: Tensor | Exception, expected: Tensor | Exception) -> bool:
    return same(got, expected)


CHECK = Check(
    "masked_mean",
    9,
    args=(
        Arg(
            "values",
            "B T",
            "x xs tensor data array arr loss losses loss_mat per_token_loss per_token_losses token_losses kl "
            "per_token_kl seq scores entropies entropy advantages log_probs logprobs logps obj objective rewards",
        ),
        *MASK_ARGS,
        Arg(
            "budget",
            also="max_length max_tokens max_completion_length denominator denom normalizer norm_factor constant "
            "loss_scale_factor global_normalization_factor masked_mean_denominator normalize_constant",
        ),
        Arg("num_tokens", of=lambda x: int(x.mask.sum())),
        Arg("num_sequences", also="global_batch_size num_seqs", of=lambda x: len(x.mask)),
        Arg("world_size", also="dp_size", of=lambda x: 1),
        Arg("dim", also="axis", of=lambda x: None, asked=True),
    ),
    needs=("values", "mask|padding"),
    signature=("values", "mask"),
    axes="",
    layouts=("[B, T]", "[T]"),
    reference=RIGHT,
    cases=cases,
    mistakes=MISTAKES,
    observe=_observe,
    batched=True,
    close=_close,
    example="call=lambda x: f(x.values, x.mask)  # [B, T]",
)
