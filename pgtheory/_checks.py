"""Checks of arguments: each raises an error that names the argument, the fault and the place."""

import math
import operator
from numbers import Real

import torch
from torch import Tensor

# The most numbers that one tensor is asked to hold: 16 GiB in float64.
ROOM = 2**31


def is_traced(*tensors: Tensor | None) -> bool:
    """Whether the values of any of `tensors` are out of reach: inside `torch.func` transforms or `torch.compile`.

    Checks of values are skipped there; checks of types, shapes, dtypes and devices are not.
    """
    if torch.compiler.is_compiling():
        return True
    return any(t is not None and torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors)


def first_place(bad: Tensor, names: str = "") -> str:
    """The index of the first True of `bad`, as text: `s=3, a=1` with `names="sa"`, `[3, 1]` without.

    With fewer names than axes, the names belong to the last axes, and leading batch indices are given as `[n]`.
    """
    index = [int(i) for i in bad.nonzero()[0]]
    named = ", ".join(f"{n}={i}" for n, i in zip(names, index[len(index) - len(names) :], strict=True))
    batch = index[: len(index) - len(names)]
    return named if not batch else f"{named} of {batch}" if named else str(batch)


def check_tensor(name: str, value: object) -> None:
    """Raise `TypeError` unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {type(value).__name__}")


def check_floating(name: str, value: object) -> None:
    """Raise `TypeError` unless `value` is a tensor of floating-point numbers."""
    check_tensor(name, value)
    assert isinstance(value, Tensor)
    if not value.is_floating_point():
        raise TypeError(f"{name} must hold floating-point numbers, not {value.dtype}")


def check_integer_tensor(name: str, value: object) -> None:
    """Raise `TypeError` unless `value` is a tensor of integers."""
    check_tensor(name, value)
    assert isinstance(value, Tensor)
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, not {value.dtype}")


def as_indices(
    name: str, value: object, size: int, where: Tensor | None = None, *, axes: str = "", within: str = "in"
) -> Tensor:
    """`value` in int64, the one integer dtype that indexes everywhere (a uint8 tensor would be read as a mask).

    Raise `TypeError` unless it holds integers, and `ValueError` unless each of them (of those where `where` is True)
    is one of 0, ..., `size` - 1.
    """
    check_integer_tensor(name, value)
    assert isinstance(value, Tensor)
    indices = value.long()
    if is_traced(value, where):
        return indices
    bad = (indices < 0) | (indices >= size)
    bad = bad if where is None else bad & where
    if bad.any():
        place = f" at {first_place(bad, axes)}" if bad.ndim else ""
        raise ValueError(f"{name} is {int(indices[bad][0])}{place}, not {within} 0..{size - 1}")
    return indices


def check_bool(name: str, value: object) -> None:
    """Raise `TypeError` unless `value` is a boolean tensor."""
    check_tensor(name, value)
    assert isinstance(value, Tensor)
    if value.dtype != torch.bool:
        raise TypeError(f"{name} must be boolean, not {value.dtype}")


def check_same_kind(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless both tensors live on one device (`ValueError`) and share one dtype (`TypeError`)."""
    check_same_device(name, value, other_name, other)
    if value.dtype != other.dtype:
        raise TypeError(f"{name} is {value.dtype} but {other_name} is {other.dtype}: convert one of them")


def check_same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raise `ValueError` unless both tensors live on one device."""
    if value.device != other.device:
        raise ValueError(f"{name} is on {value.device} but {other_name} is on {other.device}: move one of them")


def check_trailing_shape(name: str, value: Tensor, expected: tuple[int, ...]) -> None:
    """Raise `ValueError` unless the last axes of `value` have the `expected` sizes."""
    trailing = tuple(value.shape[max(0, value.ndim - len(expected)) :])
    if trailing != expected:
        sizes = ", ".join(map(str, expected))
        raise ValueError(f"{name} has shape {list(value.shape)}, expected [..., {sizes}]")


def check_same_shape(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raise `ValueError` unless both tensors have the same shape."""
    if value.shape != other.shape:
        raise ValueError(f"{name} has shape {list(value.shape)} but {other_name} has {list(other.shape)}")


def check_mask(mask: object, name: str, values: Tensor) -> None:
    """Raise unless `mask` is boolean (`TypeError`), with the device and the shape of `values` (`ValueError`)."""
    check_bool("mask", mask)
    assert isinstance(mask, Tensor)
    check_same_device("mask", mask, name, values)
    check_same_shape("mask", mask, name, values)


def check_at_least_1d(name: str, value: Tensor, axis: str) -> None:
    """Raise `ValueError` if `value` has no axis at all; `axis` says what the last one should be."""
    if value.ndim == 0:
        raise ValueError(f"{name} is a scalar: its last axis must be {axis}")


def check_no_nan(name: str, value: Tensor, where: Tensor | None = None) -> None:
    """Raise `ValueError` naming the first NaN of `value` (among the places where `where` is True)."""
    if is_traced(value, where):
        return
    bad = value.isnan() if where is None else value.isnan() & where
    if bad.any():
        raise ValueError(f"{name} is NaN at {first_place(bad)}")


def check_finite(name: str, value: Tensor, where: Tensor | None = None) -> None:
    """Raise `ValueError` naming the first NaN or infinity of `value` (among the places where `where` is True)."""
    if is_traced(value, where):
        return
    bad = ~value.isfinite() if where is None else ~value.isfinite() & where
    if bad.any():
        raise ValueError(f"{name} is {value[bad][0].item()} at {first_place(bad)}, not a finite number")


def check_real(name: str, value: object) -> float:
    """Return `value` as a float; raise `TypeError` unless it is a real number (a bool or a tensor is not)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    return float(value)


def check_unit_interval(name: str, value: object) -> float:
    """Return `value` as a float; raise `ValueError` unless it lies in [0, 1] (NaN does not)."""
    number = check_real(name, value)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{name} must be in [0, 1], not {number}")
    return number


def check_gamma(gamma: object) -> float:
    """Return the discount γ as a float; raise `ValueError` unless it lies in [0, 1]."""
    return check_unit_interval("gamma", gamma)


def check_count(name: str, value: object, *, at_least: int = 1, at_most: int = 2**63 - 1) -> int:
    """Return `value` as an int; raise unless it is an integer (`TypeError`) within the bounds (`ValueError`)."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    number = operator.index(value)
    if number < at_least:
        raise ValueError(f"{name} must be at least {at_least}, not {_digits(number)}")
    if number > at_most:
        raise ValueError(f"{name} must be at most {at_most:,}, not {_digits(number)}")
    return number


def check_room(what: str, *sizes: int, limit: int = ROOM) -> None:
    """Raise `ValueError` if a tensor of these sizes would hold more numbers than fit: before it is asked for."""
    if math.prod(sizes) > limit:
        shape = " x ".join(map(_digits, sizes))
        raise ValueError(f"{what} would hold {shape} numbers, more than {limit:,}: make one of them smaller")


def _digits(number: int) -> str:
    """A count as text; one of very many digits by its order of magnitude."""
    sign = "-" if number < 0 else ""
    return f"{number:,}" if number.bit_length() < 64 else f"about {sign}2^{number.bit_length() - 1}"


def probability_tolerance(dtype: torch.dtype) -> float:
    """How far from 1 a sum of probabilities of this dtype may lie before it is an error."""
    return {torch.float64: 1e-9, torch.float32: 1e-5}.get(dtype, 1e-2)


def check_like(name: str, value: Tensor, other_name: str, other: Tensor, read: Tensor | None) -> None:
    """Raise unless `value` is as `other` in shape, dtype and device, and finite where it is read."""
    check_floating(name, value)
    check_same_kind(name, value, other_name, other)
    check_same_shape(name, value, other_name, other)
    check_finite(name, value, read)
