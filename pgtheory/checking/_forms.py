"""How people's functions are called: arguments found by their names, containers, and outputs made tensors."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Container = Literal["torch", "torch.float32", "numpy", "list"]
CONTAINERS: tuple[Container, ...] = ("torch", "torch.float32", "numpy", "list")

# Parts of an argument's name that say nothing about what it is.
_FILLERS = (
    "all arr array b batch buf buffer ep episode flat in input is its list mb my np per ph seq sequence step t tensor "
    "the token tokens tm1 traj trajectory vec x"
)


class UnknownForm(TypeError):
    """Raised by a check when a function cannot be called in, or returns, none of the forms that are understood.

    Example:
        >>> from pgtheory.checking import check_returns
        >>> try:
        ...     check_returns(lambda rewards, gamma: "seven")
        ... except UnknownForm as error:
        ...     print(str(error).splitlines()[0])
        check_returns does not understand this function. It was called as

    Attributes:
        tried: the forms that were tried, and what happened in each.
    """

    tried: Mapping[str, str] = MappingProxyType({})


class Misfit(Exception):
    """A function cannot be called in this form, or its output is not one of this form."""


class Role(NamedTuple):
    """An argument that a check can give, and the names under which people's functions take it."""

    name: str
    synonyms: str = ""
    required: bool = False


class Binding(NamedTuple):
    """Which role each argument of a function plays."""

    positional: tuple[str, ...]
    keywords: Mapping[str, str]

    @property
    def roles(self) -> frozenset[str]:
        """The names of the roles that are given."""
        return frozenset(self.positional) | frozenset(self.keywords.values())

    def demand(self, *roles: str) -> "Binding":
        """Return the binding itself if it gives these roles.

        Raises:
            Misfit: it does not.
        """
        for role in roles:
            if role not in self.roles:
                raise Misfit(f"it takes no argument for {role}")
        return self

    def call(self, function: Callable[..., Any], values: Mapping[str, Any]) -> Any:
        """Call the function with the value of each role."""
        keywords = {parameter: values[role] for parameter, role in self.keywords.items()}
        return function(*(values[role] for role in self.positional), **keywords)


def bind(function: Callable[..., Any], roles: Sequence[Role]) -> Binding:
    """Find the role of each argument: by its name, or else, for required roles, by its place.

    Raises:
        Misfit: an argument without a default has no role.
    """
    try:
        parameters = parameters_of(function)
    except (TypeError, ValueError):  # a builtin without a signature
        return Binding(tuple(role.name for role in roles if role.required), {})
    named = {p.name: role for p in parameters if (role := role_of(p.name, roles))}
    missing = [role.name for role in roles if role.required and role.name not in named.values()]
    positional: list[str] = []
    keywords: dict[str, str] = {}
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            positional += missing
            missing = []
        elif p.kind is p.VAR_KEYWORD:
            keywords |= {name: name for name in missing}
            missing = []
        elif role := named.get(p.name) or (missing.pop(0) if p.default is p.empty and missing else None):
            if p.kind is p.KEYWORD_ONLY or len(positional) < _place(p, parameters):
                keywords[p.name] = role
            else:
                positional.append(role)
        elif p.default is p.empty:
            raise Misfit(f"its argument {p.name!r} has none of the names that are understood: {_understood(roles)}")
    return Binding(tuple(positional), keywords)


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The arguments of a function, or of the `forward` of a module.

    Raises:
        TypeError: it is no function.
        ValueError: it has no signature.
    """
    target = function.forward if isinstance(function, torch.nn.Module) else function
    return list(inspect.signature(target).parameters.values())


def _place(parameter: inspect.Parameter, parameters: Sequence[inspect.Parameter]) -> int:
    """How many arguments stand before this one."""
    return [p.name for p in parameters].index(parameter.name)


def role_of(name: str, roles: Sequence[Role]) -> str | None:
    """The role that an argument of this name plays; None if it is none that is known."""
    for spelled in (str.lower, normalised):  # `v_s_` is not `v_s` where both are known
        for role in roles:
            if spelled(name) in {spelled(synonym) for synonym in [role.name, *role.synonyms.split()]}:
                return role.name
    return None


def normalised(name: str) -> str:
    """An argument's name without what says nothing: `batch_rewards_list`, `rewards` and `reward` are the same."""
    parts, fillers = name.lower().strip("_").split("_"), _FILLERS.split()
    joined = "".join(part for part in parts if part not in fillers) or "".join(parts)
    return joined.removesuffix("s") if len(joined) > 2 else joined


def _understood(roles: Sequence[Role]) -> str:
    return ", ".join(role.name for role in roles)


def contained(value: Any, container: Container) -> Any:
    """A fresh copy of a tensor in the container that a function expects; other values as they are."""
    if not isinstance(value, Tensor):
        return value
    if container == "torch.float32":
        return value.float() if value.is_floating_point() else value.clone()
    if container == "torch":
        return value.clone()
    return value.numpy().copy() if container == "numpy" else value.tolist()


def unpacked(output: Any) -> Any:
    """What stands in a distribution, in a dictionary, or in a list of pairs of an index and a number.

    Of a distribution these are the probabilities, of a dictionary the values, and the indices if these are its keys.
    """
    if isinstance(output, torch.distributions.Categorical):
        return output.probs
    if isinstance(output, Mapping) and output:
        indexed = all(isinstance(key, Integral) for key in output)
        return (list(output), list(output.values())) if indexed else tuple(output.values())
    if isinstance(output, list) and output and all(map(_is_indexed, output)):
        return tuple(list(part) for part in zip(*output, strict=True))
    return output


def _is_indexed(item: Any) -> bool:
    pair = isinstance(item, tuple) and len(item) == 2
    return pair and isinstance(item[0], Integral) and not isinstance(item[1], Integral)


def in_one_line(error: Exception) -> str:
    """An exception as one short line."""
    text = " ".join(str(error).split())
    prefix = "" if isinstance(error, Misfit) else f"{type(error).__name__}: "
    return prefix + (text if len(text) < 160 else text[:157] + "...")


def as_tensor(output: Any) -> Tensor:
    """What a function returned, as a tensor: floats in double precision, booleans and integers as they are.

    Raises:
        Misfit: it is not a number or an array of numbers, or these are in half precision.
    """
    if isinstance(output, Tensor):
        tensor = output.detach()
    else:
        try:
            tensor = torch.as_tensor(_as_array(output))
        except (TypeError, ValueError, RuntimeError) as error:
            raise Misfit(f"it returned {_described(output)}, not numbers") from error
    refuse_half_precision(tensor)
    return tensor.double() if tensor.is_floating_point() else tensor


def refuse_half_precision(tensor: Tensor) -> None:
    """Raise `Misfit` if the numbers are too coarse to be compared with what is right."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        raise Misfit(f"it returned {tensor.dtype}, too coarse for a comparison: let it compute in single precision")


def _as_array(output: Any) -> np.ndarray[Any, Any]:
    if output is None or isinstance(output, str | bytes | Mapping):
        raise TypeError
    if isinstance(output, Tensor):
        output = output.detach().cpu().numpy()
    elif isinstance(output, Iterable) and not hasattr(output, "__array__"):
        output = [_as_array(part) for part in output]
    array = np.asarray(output)
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise TypeError
    return array.copy()


def _described(output: Any) -> str:
    text = repr(output)
    return f"{type(output).__name__} {text if len(text) < 60 else text[:57] + '...'}"
