"""Is this the answer of an exercise? And if not, which slip explains it?"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.report import Mistake, Report


def check_answer(
    answer: Any, right: Any, slips: Mapping[str, Any] | None = None, *, rtol: float = 1e-6, atol: float = 1e-9
) -> Report:
    """Check the answer of an exercise against the right one, and against what known slips would give.

    Numbers, tensors and nested lists of numbers agree if they have the same shape and differ by at most
    `atol`, plus `rtol` times the size of what is right; NaN agrees with NaN. The report does not show what is right.

    .. no equation: it compares two results

    Args:
        answer: what is handed in; `...` stands for a blank that is not filled in yet.
        right: what is right.
        slips: what each slip would give, by its diagnosis: "the first reward is discounted too".
        rtol: the relative tolerance.
        atol: the absolute tolerance, such as three standard errors for a mean of samples.

    Returns:
        The report.

    Raises:
        TypeError: `answer` is not made of numbers.
        ValueError: a slip gives the right answer too, so that it could not be told from it.

    Source:
        none: a convenience of the exercises.

    Example:
        >>> slips = {"the first reward is discounted too": 0.5}
        >>> print(check_answer(0.5, 1.0, slips))
        check_answer: WRONG, a known mistake: the first reward is discounted too
        >>> print(check_answer([1.0], [1.0]))
        check_answer: right
    """
    for name, value in (slips or {}).items():
        if _agree(value, right, rtol, atol):
            raise ValueError(f"slips[{name!r}] gives the right answer too: choose other numbers")
    if answer is ...:
        return Report("answer", ok=False, mistakes=(_slip("the blank is not filled in yet"),))
    if _agree(answer, right, rtol, atol):
        return Report("answer", ok=True, n_cases=1)
    found = [name for name, value in (slips or {}).items() if _agree(answer, value, rtol, atol)]
    return Report("answer", ok=False, mistakes=tuple(map(_slip, found[:1])), n_cases=1)


def _slip(name: str) -> Mistake:
    return Mistake("answer.slip", name, "", "", ())


def _numbers(value: Any) -> Tensor:
    if isinstance(value, list | tuple):
        parts = [_numbers(part) for part in value]
        if len({part.shape for part in parts}) > 1:
            raise TypeError(f"answer is a list of parts of different shapes: {[list(part.shape) for part in parts]}")
        return torch.stack(parts) if parts else torch.zeros(0, dtype=torch.float64)
    try:
        return torch.as_tensor(value).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"answer must be a number or a list of numbers, not {type(value).__name__}") from error


def _agree(one: Any, other: Any, rtol: float, atol: float) -> bool:
    x, y = _numbers(one), _numbers(other)
    return x.shape == y.shape and torch.allclose(x, y, rtol=rtol, atol=atol, equal_nan=True)
