"""How people's functions are called: arguments found by their names, containers, and outputs made tensors."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch

from pgtheory.checking.calling import (
    CONTAINERS,
    Container,
    Misfit,
    as_tensor,
    contained,
    in_one_line,
    parameters_of,
    refuse_half_precision,
)
from pgtheory.checking.names import normalised
from pgtheory.checking.report import UnknownForm

__all__ = [
    "CONTAINERS",
    "Binding",
    "Container",
    "Misfit",
    "Role",
    "UnknownForm",
    "as_tensor",
    "bind",
    "contained",
    "in_one_line",
    "normalised",
    "parameters_of",
    "refuse_half_precision",
    "role_of",
    "unpacked",
]


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


def _understood(roles: Sequence[Role]) -> str:
    return ", ".join(role.name for role in roles)


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
