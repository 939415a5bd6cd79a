"""Checks of arguments: each raises an error that names the argument, the fault and the place."""

import math
import operator
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""The dtypes in which numbers are computed: float8 has no arithmetic."""

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


def check_instance(name: str, value: object, kind: type) -> None:
    """Raise `TypeError` unless `value` is an instance of `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, not {named(value)}")


def named(value: object) -> str:
    """What something that is not what it should be is: its type, or its own name if it is a type."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_callable(name: str, value: object) -> None:
    """Raise `TypeError` unless `value` can be called (a class cannot, here)."""
    if isinstance(value, type) or not callable(value):
        raise TypeError(f"{name} must be a function, not {named(value)}")


def check_callables(name: str, value: object) -> None:
    """Raise `TypeError` unless `value` is a mapping whose values can be called."""
    check_instance(name, value, Mapping)
    assert isinstance(value, Mapping)
    for key, function in value.items():
        check_callable(f"{name}[{key!r}]", function)


def check_flag(name: str, value: object) -> bool:
    """Return `value`; raise `TypeError` unless it is True or False (1 and "no" are not)."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r:.40}")
    return value


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise unless `value` is a text (`TypeError`) that is among the `choices` (`ValueError`)."""
    expected = ", ".join(map(repr, choices[:-1])) + f" or {choices[-1]!r}"
    if not isinstance(value, str):
        raise TypeError(f"{name} must be {expected}, not {named(value)}")
    if value not in choices:
        raise ValueError(f"{name} is {value!r:.40}, expected {expected}")


def check_dtype(name: str, dtype: object) -> None:
    """Raise `TypeError` unless `dtype` is a `torch.dtype` of floats with arithmetic."""
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name} must be a torch.dtype such as torch.float32, not {dtype!r:.40}")
    if dtype not in FLOATING:
        raise TypeError(f"{name} must be a floating-point dtype of at least 16 bits, not {dtype}")


def check_device(name: str, device: object) -> None:
    """Raise unless `device` is a device or its name (`TypeError`) and can be used here (`ValueError`)."""
    if isinstance(device, bool) or not isinstance(device, (str, int, torch.device)):
        raise TypeError(f"{name} must be a torch.device or its name, not {device!r:.40}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"{name} is {device!r:.40}, which cannot be used here: {str(error).splitlines()[0]}") from None


def check_generator(name: str, generator: object, other_name: str, device: torch.device) -> None:
    """Raise unless `generator` is a `torch.Generator` or None (`TypeError`), on the kind of `device` (`ValueError`)."""
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"{name} must be a torch.Generator, not {named(generator)}: see torch.Generator().manual_seed")
    if device.type not in (generator.device.type, "meta"):  # nothing is drawn on meta
        raise ValueError(f"{name} is on {generator.device} but {other_name} is on {device}: make one for that device")


def check_parameters(optimizer: torch.optim.Optimizer, modules: dict[str, torch.nn.Module]) -> None:
    """Raise `ValueError` if `optimizer` moves a parameter that none of the `modules` has."""
    known = {id(parameter) for module in modules.values() for parameter in module.parameters()}
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        if id(parameter) not in known:
            owners = " or ".join(modules)
            raise ValueError(f"optimizer moves a parameter of shape {list(parameter.shape)} that is not of {owners}")


def check_tensor(name: str, value: object) -> None:
    """Raise `TypeError` unless `value` is a dense tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {type(value).__name__}")
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, not one of layout {value.layout}: see Tensor.to_dense")


def check_floating(name: str, value: object) -> None:
    """Raise `TypeError` unless `value` is a tensor of floating-point numbers."""
    check_tensor(name, value)
    assert isinstance(value, Tensor)
    if value.dtype not in FLOATING:
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
    check_has_values(name, value)
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


def check_broadcasts(name: str, batch: Sequence[int], other_name: str, other: Sequence[int]) -> None:
    """Raise `ValueError` unless the two batch shapes broadcast."""
    pairs = zip(reversed(batch), reversed(other), strict=False)
    if any(m != n and 1 not in (m, n) for m, n in pairs):
        raise ValueError(
            f"the batch shape {list(batch)} of {name} does not broadcast with {list(other)} of {other_name}"
        )


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


def check_has_values(name: str, value: Tensor) -> None:
    """Raise `ValueError` if `value` is on the device `meta`, where tensors have shapes alone."""
    if value.is_meta:
        raise ValueError(f"{name} is on meta, where tensors have no values: move it to another device")


def check_prompts(name: str, prompts: Any) -> None:
    """Raise unless `prompts` is a sequence of some prompts, each a row of tokens."""
    if isinstance(prompts, str | bytes) or not isinstance(prompts, Sequence | Tensor):
        raise TypeError(f"{name} must be a sequence of tensors of tokens, not {named(prompts)}")
    if len(prompts) == 0:
        raise ValueError(f"{name} is empty")
    for i, prompt in enumerate(prompts):
        place = name if name == "prompt" else f"{name}[{i}]"
        check_integer_tensor(place, prompt)
        check_has_values(place, prompt)
        if prompt.ndim != 1 or len(prompt) == 0:
            raise ValueError(f"{place} has shape {list(prompt.shape)}, expected [P] with at least one token")
        if bool((prompt < 0).any()):
            raise ValueError(f"{place} is {int(prompt.min())} at {first_place(prompt < 0)}, which is no token")


def check_no_nan(name: str, value: Tensor, where: Tensor | None = None) -> None:
    """Raise `ValueError` naming the first NaN of `value` (among the places where `where` is True)."""
    check_has_values(name, value)
    if is_traced(value, where):
        return
    bad = value.isnan() if where is None else value.isnan() & where
    if bad.any():
        raise ValueError(f"{name} is NaN at {first_place(bad)}")


def check_finite(name: str, value: Tensor, where: Tensor | None = None) -> None:
    """Raise `ValueError` naming the first NaN or infinity of `value` (among the places where `where` is True)."""
    check_has_values(name, value)
    if is_traced(value, where):
        return
    bad = ~value.isfinite() if where is None else ~value.isfinite() & where
    if bad.any():
        raise ValueError(f"{name} is {value[bad][0].item()} at {first_place(bad)}, not a finite number")


def check_real(name: str, value: object) -> float:
    """Return `value` as a float; raise `TypeError` unless it is a real number (a bool or a tensor is not).

    A whole number or a fraction that no float can hold is a `ValueError`.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {named(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large for a floating-point number") from None


def check_finite_number(name: str, value: object) -> float:
    """Return `value` as a float; raise `ValueError` unless it is finite."""
    number = check_real(name, value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, not {number}")
    return number


def check_not_negative(name: str, value: object) -> float:
    """Return `value` as a float; raise `ValueError` unless it is finite and at least 0."""
    number = check_real(name, value)
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, not {number}")
    return number


def check_numeric(name: str, value: Any) -> Tensor:
    """Return a tensor or an array of real numbers, floats or integers, as a tensor; raise `TypeError` otherwise."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf":
        value = torch.as_tensor(value)
    check_tensor(name, value)
    check_has_values(name, value)
    tensor: Tensor = value
    if (
        tensor.is_complex()
        or tensor.dtype == torch.bool
        or (tensor.is_floating_point() and tensor.dtype not in FLOATING)
    ):
        raise TypeError(f"{name} must hold real numbers, not {tensor.dtype}")
    return tensor


def check_numbers(name: str, values: Any, like: Tensor | None = None) -> Tensor:
    """Return the numbers of a tensor, an array or a sequence, `[K]`, as floats: on the device of `like`, if given."""
    if isinstance(values, (Tensor, np.ndarray)):
        if isinstance(values, Tensor) and like is not None:
            check_same_device(name, values, "the table of probabilities", like)
        values = check_numeric(name, values)
    elif isinstance(values, Sequence) and not isinstance(values, (str, bytes)):
        values = torch.tensor([check_real(name, value) for value in values], dtype=torch.float64)
    else:
        raise TypeError(f"{name} must be a sequence of numbers, not {named(values)}")
    if values.ndim != 1:
        raise ValueError(f"{name} has shape {list(values.shape)}, expected [K]")
    numbers: Tensor = values.detach().to(None if like is None else like.device)
    return numbers if numbers.is_floating_point() else numbers.double()


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
    if isinstance(value, (bool, type)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {named(value)}")
    try:
        number = operator.index(value)
    except TypeError:  # a tensor of floats has the method as well
        raise TypeError(f"{name} must be an integer, not a {type(value).__name__} of other numbers") from None
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


def check_names(argument: str, names: Sequence[str] | None, expected: int) -> tuple[str, ...] | None:
    """`names` as a tuple, if they are `expected` texts."""
    if names is None:
        return None
    if isinstance(names, (str, bytes)) or not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
        raise TypeError(f"{argument} must be a sequence of texts, not {named(names)}")
    if len(names) != expected:
        raise ValueError(f"{argument} has {len(names)} names, expected {expected}")
    return tuple(names)
