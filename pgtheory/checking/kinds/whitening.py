"""Are these values whitened? Which form of it is it, and if none, which known mistake?"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Call, Reading
from pgtheory.checking.episodes import F64, MASK_ARGS, MASKS
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.report import Mistake, Report, issue, pull
from pgtheory.checking.verdicts import Trial

_EQUAL = "it fails where all values are equal"
_FEW = "it fails where at most one value counts"
_CLOSE = "its ε counts where values are nearly equal"
_NO_MASK = "it takes no mask: padding was not tried"


def check_whitening(
    function: Callable[..., Any] | None = None,
    *,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check a function that whitens values, as :eq:`eq-group-advantage` does a group: (x - mean) / deviation.

    The mean and the deviation are those of all values that count. The function may be `fn(values, mask)` on tensors,
    arrays or lists, for a row `[T]` or a batch `[B, T]`; without a mask, padding is not tried. What stands at masked
    places is not looked at. Both divisors of the variance are right, and ε may stand inside or outside the root: the
    report says which. So it does where the mean is added back, or each row is whitened by itself.

    Args:
        function: the implementation.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.values, x.mask)`, `[B, T]`.
        layout: the order of axes, such as `"[B, T]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"padding_mask": "padding"}`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called, or does not return one number for each value.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Andrychowicz et al., "What Matters in On-Policy Reinforcement Learning?", 2021, appendix B.9.

    Example:
        >>> def whiten(values, mask):
        ...     mean = values.mean()
        ...     return (values - mean) / ((values - mean)[mask] ** 2).mean().sqrt()
        >>> print(check_whitening(whiten).headline)
        check_whitening: WRONG, a known mistake: padding in the mean or in the deviation
    """
    return CHECK.judge(function, call=call, layout=layout, names=names)


# --- the forms ---

Whitened = Callable[[Tensor, Tensor], Tensor]


def _whitened(
    ddof: int = 0,
    *,
    of: Callable[[Tensor], Tensor] = lambda mask: mask,
    spread_of: Callable[[Tensor], Tensor] | None = None,
    zeroed: bool = False,
    centre: float = 1.0,
    back: float = 0.0,
    power: float = 0.5,
    axis: int | None = None,
) -> Whitened:
    """Values minus `centre` means, over a power of their variance, plus `back` means: of these places, on an axis."""

    def whitened(values: Tensor, mask: Tensor) -> Tensor:
        x = torch.where(mask, values, 0.0) if zeroed else values
        dims = (0, 1) if axis is None else (axis,)

        def mean(y: Tensor, places: Tensor, less: int = 0) -> Tensor:
            n = places.sum(dims, keepdim=True)
            return torch.where(places, y, 0.0).sum(dims, keepdim=True) / torch.where(n > less, n - less, n)

        middle = mean(x, of(mask))
        variance = mean((x - middle) ** 2, (spread_of or of)(mask), ddof)
        scale = (variance + 1e-8) ** power
        return (x - centre * middle) / scale + back * middle

    return whitened


def _each(**factors: Any) -> tuple[Whitened, ...]:
    return tuple(_whitened(ddof, **factors) for ddof in (0, 1))


def _all(mask: Tensor) -> Tensor:
    return torch.ones_like(mask)


RIGHT = {
    "whitened by the deviation of the sample, ddof 0": _whitened(0),
    "whitened by the unbiased deviation, ddof 1": _whitened(1),
}

MISTAKES = (
    Mistake(
        "whitening.padding_in_one",
        "padding in the mean or in the deviation",
        "One of the two is taken over all places and the other over those that count: what counts has neither mean 0 "
        "nor deviation 1.",
        "The result changes with what stands in the padding.",
        (issue("NovaSky-AI/SkyRL", 1305), pull("NovaSky-AI/SkyRL", 1782)),
        (*_each(of=_all, spread_of=lambda mask: mask), *_each(spread_of=_all)),
    ),
    Mistake(
        "whitening.mask_ignored",
        "the mask is ignored",
        "The mean and the deviation are those of all places, padding included.",
        "The result changes with what stands in the padding.",
        (issue("MarcoMeter/recurrent-ppo-truncated-bptt", 10), pull("alibaba/ROLL", 444)),
        _each(of=_all),
    ),
    Mistake(
        "whitening.zeros_counted",
        "padding counts as zeros",
        "Values are multiplied by the mask, and the mean and the deviation taken over all places: the mean is drawn "
        "towards 0.",
        "More padding changes the result, whatever stands in it.",
        (issue("tensorflow/tensorflow", 30161), pull("keras-team/keras", 3228)),
        _each(of=_all, zeroed=True),
    ),
    Mistake(
        "whitening.padding_alone",
        "the mask is inverted",
        "The mean and the deviation are those of the padding.",
        "It does not change with the values that count, but for their own place.",
        (issue("lucidrains/voicebox-pytorch", 6),),
        _each(of=lambda mask: ~mask),
    ),
    Mistake(
        "whitening.no_root",
        "divided by the variance, not by its root",
        "The result has deviation 1/σ, not 1: large values become small.",
        "Values of twice the size give half the result.",
        (issue("rinuboney/ladder", 17), issue("jax-ml/jax", 442)),
        _each(power=1.0),
    ),
    Mistake(
        "whitening.root_twice",
        "the root is taken twice",
        "The values are divided by the root of the deviation.",
        "The result has deviation √σ, not 1.",
        (issue("espnet/espnet", 4296),),
        _each(power=0.25),
    ),
    Mistake(
        "whitening.not_centred",
        "the mean is not removed",
        "The values are scaled alone: where all are positive, so is the result.",
        "The result has deviation 1 and a mean other than 0.",
        (),
        _each(centre=0.0),
        right_form=(issue("THUDM/slime", 1369),),
    ),
    Mistake(
        "whitening.not_scaled",
        "the deviation is not divided out",
        "Only the mean is removed.",
        "Values of twice the size give twice the result.",
        (issue("thinking-machines-lab/tinker-cookbook", 579),),
        (_whitened(power=0.0),),
    ),
    Mistake(
        "whitening.per_column",
        "each step is whitened over the batch by itself",
        "The mean and the deviation are taken over the first axis: with one row nothing is left.",
        "A batch of one row gives zeros.",
        (issue("tensorflow/agents", 651),),
        _each(axis=0),
    ),
    Mistake(
        "whitening.mean_added_back",
        "the mean is added back",
        "It is (x - mean) / deviation + mean, as `shift_mean=False` has it in the code that descends from OpenAI's: "
        "neither centred nor only scaled.",
        "The result keeps the mean and has deviation 1.",
        (issue("THUDM/slime", 1369),),
        _each(back=1.0),
        severity="remark",
    ),
    Mistake(
        "whitening.per_row",
        "each row is whitened by itself",
        "The mean and the deviation are those of the row: whether a row is better than another one is lost.",
        "Rows that differ by a constant give the same result.",
        (issue("thomfoster/minRLHF", 5), pull("OpenRLHF/OpenRLHF", 1250)),
        _each(axis=1),
        severity="remark",
    ),
)

# --- the cases ---

_NUMBERS = (3.0, -1.5, 7.0, 2.25, -4.0, 5.5, 0.0, -2.75, 6.25, 1.75, -6.0, 4.5)
_ROWS = ("11 11", "111 100", "110 111", "101 011", "1011 0100 1101", "111", "1 1 1", "111 000", "0111 1100")


def cases(facts: frozenset[str]) -> list[Case]:
    """Masks with padding, holes and an empty row, one row alone, equal and nearly equal values; the smallest first."""
    rows = _ROWS if facts & MASKS else ("11 11", "111 111", "1111 1111 1111", "111", "1 1 1")
    firm = [_case(text, offset) for text in rows for offset in (0.0, 9.0)]
    more = [_case("111 111", spread=1e-4, delicate=_CLOSE), _case("111 111", spread=3e-4, delicate=_CLOSE)]
    more += [_case("11 11", spread=0.0, delicate=_EQUAL), _case("1", delicate=_FEW)]
    if facts & MASKS:
        more += [_case("100 000", delicate=_FEW), _case("00 00", delicate=_FEW)]
    return [*firm, *more]


def _case(text: str, offset: float = 0.0, *, spread: float = 1.0, delicate: str = "") -> Case:
    mask = torch.tensor([[c == "1" for c in row] for row in text.split()])
    values = offset + spread * torch.tensor(_NUMBERS, dtype=F64)[: mask.numel()].reshape(mask.shape)
    return Case({"values": torch.where(mask, values, values * 3 + 20.0), "mask": mask}, delicate)


def _epsilon(trial: Trial) -> Mapping[str, Any]:
    """Where an ε stands and how large it is, from the two cases in which values are nearly equal."""
    found = []
    for case, i in ((case, i) for i, case in enumerate(trial.bench.cases) if case.delicate == _CLOSE):
        got, x = trial.got(i), case.inputs["values"]
        if not isinstance(got, Tensor) or not bool(got.isfinite().all()) or float(got.amax() - got.amin()) < 1e-9:
            return {}
        by = float((x.amax() - x.amin()) / (got.amax() - got.amin()))
        found.append((by, [float(x.std(correction=ddof)) for ddof in (0, 1)]))
    for ddof in (0, 1):
        for power, place in ((1, "deviation"), (2, "variance")):
            sizes = [by**power - spread[ddof] ** power for by, spread in found]
            if sizes and min(sizes) > 1e-10 and abs(sizes[0] - sizes[-1]) < 0.01 * sizes[0]:
                return {"ε": f"{sizes[0]:.1g}, added to the {place}"}
    return {}


def _readings(roles: frozenset[str]) -> list[Reading]:
    return [Reading(notes=() if roles & MASKS else (_NO_MASK,))]


CHECK = Check(
    "whitening",
    8,
    args=(
        Arg(
            "values",
            "B T",
            "x xs tensor advantages advantage adv advs rewards returns scores token_level_rewards data array",
        ),
        *MASK_ARGS,
    ),
    needs=("values",),
    signature=("values", "mask"),
    axes="B T",
    layouts=("[B, T]", "[T]", "[B*T]"),
    reference=RIGHT,
    cases=cases,
    mistakes=MISTAKES,
    readings=_readings,
    seen=lambda inputs, answer: torch.where(inputs["mask"], answer, 0.0),
    wanted="whiten norm adv",
    numbers=_epsilon,
    of_the_batch=("whitening.per_column", "whitening.per_row"),
    integers=("values",),
    example="call=lambda x: f(x.values, x.mask)  # [B, T]",
)
