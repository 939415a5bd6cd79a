"""How people's functions are called: chosen from names and shapes alone, before any answer is judged.

Names may be guessed, by the one vocabulary of `names`. Meanings (the order of axes, the polarity of a mask) are the
canonical ones, or are declared: by `layout=`, by `names=`, or by `call=`, a function of the canonical inputs.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pgtheory.checking.names import NAMES, normalised
from pgtheory.checking.report import UnknownForm

Container = Literal["torch", "torch.float32", "numpy", "list"]
CONTAINERS: tuple[Container, ...] = ("torch", "torch.float32", "numpy", "list")
#: What a check says of an argument that a function takes: nothing, or the name of the role that it plays.
Call = Callable[["Inputs"], Any]


class Misfit(Exception):
    """A function cannot be called in this form, or its output is not one of this form."""


class Arg(NamedTuple):
    """An argument that a check can give.

    Attributes:
        name: its canonical name; `names.NAMES` has the others.
        axes: its axes, such as `"B T"`; empty for a number, or whatever is handed on as it is.
        also: names that mean it in this check only.
        of: how it follows from the canonical inputs; None for one of these.
        flag: whether it marks steps: then it is given as truth values or as numbers, whichever the function takes.
        asked: whether it is given only to a function that has no default for it.
    """

    name: str
    axes: str = ""
    also: str = ""
    of: Callable[[Any], Any] | None = None
    flag: bool = False
    asked: bool = False


class Inputs:
    """The canonical inputs of a case, and what follows from them, as attributes; each read gives a fresh copy.

    It notes what is read: a check hands `call=` only cases that can be told from what it uses.
    """

    def __init__(self, values: Mapping[str, Any], derived: Mapping[str, Callable[[Any], Any]]) -> None:
        self._values, self._derived, self._read = values, derived, set[str]()
        #: What is worth knowing about the answers, for the report.
        self.notes: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._read.add(name)
        if name in self._derived:
            value = self._derived[name](SimpleNamespace(**self._values))
        elif name in self._values:
            value = self._values[name]
        else:
            known = ", ".join(dict.fromkeys([*self._values, *self._derived]))
            raise AttributeError(f"the check has no input {name!r}, only {known}")
        return value.clone() if isinstance(value, Tensor) else value

    @property
    def canonical(self) -> Mapping[str, Any]:
        """Fresh copies of the canonical inputs, by name."""
        return {name: x.clone() if isinstance(x, Tensor) else x for name, x in self._values.items()}

    @property
    def used(self) -> frozenset[str]:
        """What was read."""
        return frozenset(self._read)

    def replaced(self, **values: Any) -> "Inputs":
        """The inputs with other values; what is read from them is noted here as well."""
        other = Inputs({**self._values, **values}, self._derived)
        other._read, other.notes = self._read, self.notes
        return other


def taking(names: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of `**arguments` with a signature that says which it takes, as an implementation needs it."""
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names.split()]
    vars(function).update(__signature__=inspect.Signature(parameters))
    return function


# --- which argument is what ---


class Binding(NamedTuple):
    """Which role each argument of a function plays; `meaning` says how to declare it where a name has two."""

    positional: tuple[str, ...]
    keywords: Mapping[str, str]
    shown: Mapping[str, str]
    meaning: str = ""

    @property
    def roles(self) -> frozenset[str]:
        """The names of the roles that are given."""
        return frozenset(self.positional) | frozenset(self.keywords.values())

    def call(self, function: Callable[..., Any], values: Mapping[str, Any]) -> Any:
        """Call the function with the value of each role."""
        keywords = {parameter: values[role] for parameter, role in self.keywords.items()}
        return function(*(values[role] for role in self.positional), **keywords)


Settle = Callable[[str, tuple[str, ...], frozenset[str]], str | None]


def bind(
    function: Callable[..., Any],
    args: Sequence[Arg],
    needs: Sequence[str],
    signature: Sequence[str],
    names: Mapping[str, str] | None = None,
    settle: Settle | None = None,
) -> list[Binding]:
    """The readings of a function's arguments, by their names and by `names`: one, or one for each meaning of a name.

    Args:
        function: the implementation.
        args: what the check can give.
        needs: what the function has to take, with alternatives as in `"gamma|discounts"`.
        signature: the canonical order, for `*args` and for a function without names.
        names: what arguments are, by their names: `{"adv": "advantages"}`.
        settle: decides a name with two meanings from the others, if it can.

    Raises:
        Misfit: an argument has no name that is understood, two have the same meaning, or one is missing.
        ValueError: `names` has a name that the function or the check does not have.
    """
    try:
        parameters = parameters_of(function)
    except ValueError:  # a builtin without a signature
        return [Binding(tuple(signature), {}, {"by their place": ", ".join(signature)})]
    named = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    _check_names(names or {}, named, args)
    options = {
        name: (names[name],) if names and name in names else roles_of(name, _for_default(args, p.default))
        for name, p in named.items()
    }
    for name, p in named.items():
        if not options[name] and p.default is p.empty:
            raise Misfit(
                f"its argument {name!r} has none of the names that are understood: {', '.join(a.name for a in args)}; "
                f"say what it is by names={{{name!r}: ...}}"
            )
    sure = frozenset(roles[0] for roles in options.values() if len(roles) == 1)
    for name, roles in options.items():
        if len(roles) > 1 and settle and (chosen := settle(name, roles, sure)):
            options[name] = (chosen,)
    doubtful = [name for name, roles in options.items() if len(roles) > 1]
    found = []
    for chosen_roles in itertools.product(*(options[name] for name in doubtful)):
        role_of = {name: roles[0] for name, roles in options.items() if roles}
        role_of |= dict(zip(doubtful, chosen_roles, strict=True))
        meaning = ", ".join(f"{name!r}: {role_of[name]!r}" for name in doubtful)
        found.append(_bound(parameters, role_of, signature, needs)._replace(meaning=meaning and f"names={{{meaning}}}"))
    return found


def _for_default(args: Sequence[Arg], default: Any) -> list[Arg]:
    """What an argument with this default may be: with True or False it is a switch, or marks steps."""
    if default is inspect.Parameter.empty:
        return [*args]
    return [arg for arg in args if not arg.asked and (arg.flag or not isinstance(default, bool))]


def _check_names(names: Mapping[str, str], named: Mapping[str, Any], args: Sequence[Arg]) -> None:
    known = [arg.name for arg in args]
    for name, role in names.items():
        if name not in named:
            raise ValueError(f"names has {name!r}, which the function does not take: it takes {', '.join(named)}")
        if role not in known:
            raise ValueError(f"names says that {name!r} is {role!r}, expected one of {', '.join(known)}")


def _bound(
    parameters: Sequence[inspect.Parameter], role_of: Mapping[str, str], signature: Sequence[str], needs: Sequence[str]
) -> Binding:
    """The binding of named arguments; `*args` and `**kwargs` take what is missing, or everything."""
    if len(set(role_of.values())) < len(role_of):
        raise Misfit(f"two of its arguments have names that mean the same: {dict(role_of)}")
    unmet = [need.partition("|")[0] for need in needs if not set(need.split("|")) & set(role_of.values())]
    missing = unmet if role_of else [*signature]
    positional, keywords, shown = list[str](), dict[str, str](), dict[str, str]()
    by_place = True
    for p in parameters:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            shown |= {f"{'*' if p.kind is p.VAR_POSITIONAL else '**'}{p.name}": ", ".join(missing)} if missing else {}
            positional += missing if p.kind is p.VAR_POSITIONAL else []
            keywords |= {role: role for role in missing} if p.kind is p.VAR_KEYWORD else {}
            missing = []
        elif p.name not in role_of:
            by_place = False
            shown[p.name] = f"left at {p.default!r}"
        else:
            shown[p.name] = role_of[p.name]
            if p.kind is p.KEYWORD_ONLY or not by_place:
                keywords[p.name] = role_of[p.name]
            else:
                positional.append(role_of[p.name])
    binding = Binding(tuple(positional), keywords, shown)
    for need in needs:
        if not binding.roles & set(need.split("|")):
            wanted, taken = " or ".join(map(repr, need.split("|"))), _listed(p.name for p in parameters)
            raise Misfit(f"it has no argument {wanted}: it takes {taken}")
    return binding


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The arguments of a function, or of the `forward` of a module.

    Raises:
        TypeError: it is no function.
        ValueError: it has no signature.
    """
    target = function.forward if isinstance(function, torch.nn.Module) else function
    return list(inspect.signature(target).parameters.values())


def roles_of(name: str, args: Sequence[Arg]) -> tuple[str, ...]:
    """The roles that an argument of this name may play: by its exact name, or else by what is left of it."""
    if any(arg.name == name for arg in args):
        return (name,)
    for spelled in (str.lower, normalised):  # `v_s_` is not `v_s` where both are known
        found = [arg.name for arg in args if spelled(name) in _spellings(arg.name, arg.also, spelled is normalised)]
        if found:
            own = [role for role in found if normalised(role) == normalised(name)]
            return tuple(own if spelled is normalised and own else found)
    return ()


@cache
def _spellings(role: str, also: str, loosely: bool) -> frozenset[str]:
    words = [role, *NAMES.get(role, "").split(), *also.split()]
    return frozenset(normalised(word) if loosely else word.lower() for word in words)


# --- containers, layouts, outputs ---


def contained(value: Any, container: Container) -> Any:
    """A fresh copy of a tensor in the container that a function expects; other values as they are."""
    if not isinstance(value, Tensor):
        return value
    if container == "torch.float32":
        return value.float() if value.is_floating_point() else value.clone()
    if container == "torch":
        return value.clone()
    return value.detach().numpy().copy() if container == "numpy" else value.tolist()


@cache
def _axes_in(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.strip("[]").split(","))


class Layout(NamedTuple):
    """The order of axes in which a function takes and returns arrays, as in `"[T, B]"` where `"B T"` is canonical.

    An axis that it lacks has size 1, and is left out; a `1` is an axis more; `B*T` are two axes made one. Axes of an
    argument that are not canonical, such as that of logits, stay behind the others.
    """

    text: str
    canonical: tuple[str, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes, one by one."""
        return _axes_in(self.text)

    @property
    def is_canonical(self) -> bool:
        """Whether axes are neither missing nor in another order."""
        return tuple(axis for axis in "*".join(self.axes).split("*") if axis != "1") == self.canonical

    @property
    def lacks_batch(self) -> bool:
        """Whether it is that of a single row."""
        return self.canonical[0] not in "*".join(self.axes).split("*")

    def arranged(self, value: Tensor, axes: Sequence[str]) -> Tensor:
        """A value with these canonical axes, as a function takes it."""
        if not axes:
            return value
        own = [a for a in axes if a not in self.canonical]
        order = [a for a in "*".join(self.axes).split("*") if a in axes]
        for axis in [a for a in axes if a not in order and a not in own]:
            value = value.select(axes.index(axis), 0)
            axes = [a for a in axes if a != axis]
        value = value.permute([list(axes).index(a) for a in [*order, *own]])
        shape, sizes = list[int](), dict(zip(order, value.shape, strict=False))
        for part in self.axes:
            known = [sizes[a] for a in part.split("*") if a in sizes]
            shape += [1] if part == "1" and not own else [math.prod(known)] if known else []
        return value.reshape([*shape, *value.shape[len(order) :]])

    def restored(self, value: Tensor, sizes: Mapping[str, int]) -> Tensor:
        """What a function returned, in the canonical order of axes.

        Raises:
            Misfit: it has another shape.
        """
        order = [a for a in "*".join(self.axes).split("*") if a in sizes]
        shape = [sizes[a] for a in order]
        expected = [math.prod(sizes.get(a, 1) for a in part.split("*")) for part in self.axes]
        if value.ndim == 1 and value.numel() == math.prod(shape):  # the rows one after another
            value = value.reshape(shape)
        if [n for n in value.shape if n != 1] not in ([n for n in expected if n != 1], [n for n in shape if n != 1]):
            raise Misfit(f"it returned shape {list(value.shape)}, not {expected}")
        left = [a for a in sizes if a in order]
        value = value.reshape(shape).permute([order.index(a) for a in left])
        return value.reshape([sizes[a] if a in order else 1 for a in sizes])


def parts_of(output: Any, wanted: str = "") -> dict[str, Any]:
    """What was returned, part by part: the entries of a dictionary, the elements of a tuple, or itself.

    Of a dictionary, entries whose names contain one of the words `wanted` are taken alone, if there are any.
    """
    if isinstance(output, Mapping) and output:
        named = [key for key in output if any(word in str(key).lower() for word in wanted.split())]
        return {f"the entry {key!r}": output[key] for key in named or output}
    if isinstance(output, tuple) and len(output) > 1:
        return {f"element {i} of {len(output)}": part for i, part in enumerate(output)}
    return {"": output}


def shaped(
    output: Mapping[str, Any], layout: Layout, shapes: Mapping[str, Mapping[str, int]], otherwise: str = ""
) -> dict[str, Tensor]:
    """The parts of an output, each under the name of every shape that it has: of tokens, of sequences, one number.

    Raises:
        Misfit: no part has any of the shapes.
    """
    found, misfit = dict[str, Tensor](), Misfit("it returned nothing")
    for part, value in output.items():
        for name, sizes in shapes.items():
            try:
                answer = layout.restored(as_tensor(value), sizes).double()
            except (Misfit, RuntimeError) as error:
                misfit = Misfit(f"{error}{otherwise}")
            else:
                found[f"{part}, {name}" if part else name] = answer
    if not found:
        raise misfit
    return found


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


# --- the call ---


@dataclass(frozen=True)
class Form:
    """One way of calling a function: what it is given, in which container and layout, and how its output is read.

    Attributes:
        name: what the report says of it.
        call: from the canonical inputs to what the function returned.
        layout: the order of axes.
        facts: what the function is told, by which the cases are chosen.
        shown: which argument is what.
        view: a value as the function sees it.
        notes: what is worth knowing about the calls that were made.
    """

    name: str
    call: Call
    layout: Layout
    facts: frozenset[str]
    derived: Mapping[str, Callable[[Any], Any]]
    shown: Mapping[str, str]
    roles: frozenset[str]
    view: Callable[[Any, str], Any] = lambda value, role: value
    notes: set[str] = field(default_factory=set)


class Reading(NamedTuple):
    """How the arguments of a function are taken, where names leave a choice that shapes decide.

    Attributes:
        text: what the report says of it, as in `", values [T+1]"`.
        of: arguments that are something else in this reading.
        facts: what the function is told, by which the cases are chosen.
        notes: what could not be tested.
        rare: whether it is tried only if nothing else fits.
        layouts: the orders of axes that it has, if not those of the check.
        plain: the arguments that are given as they are, whatever the layout.
        anyway: whether it is tried although the function has answered in a reading before it.
        doubt: of a reading that has to be declared by `layout=`, whether it may be meant, from the defaults of the
            arguments and from whether the mistake without it is known: then a function that is right in this reading,
            and wrong without, gets no verdict.
    """

    text: str = ""
    of: Mapping[str, Callable[[Any], Any]] = {}
    facts: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    rare: bool = False
    anyway: bool = False
    layouts: tuple[str, ...] = ()
    plain: frozenset[str] = frozenset()
    doubt: Callable[[Mapping[str, Any], bool], bool] | None = None

    @property
    def declared(self) -> str:
        """What `layout=` says to mean it."""
        return self.text.removeprefix(", ")


def guess(
    function: Callable[..., Any],
    args: Sequence[Arg],
    binding: Binding,
    reading: Reading,
    layout: Layout,
    containers: Sequence[Container] = CONTAINERS,
) -> Iterator[Form]:
    """The forms in which a function may be called in a layout: containers, and flags as truth values or as numbers."""
    flags = any(arg.flag for arg in args if arg.name in binding.roles)
    for container, other in itertools.product(containers, [False, True] if flags else [False]):
        name = f"{container} {layout.text}{reading.text}" + (", flags of the other type" if other else "")
        yield _form(function, args, binding, reading, layout, container, other, name)


def _form(
    function: Callable[..., Any],
    args: Sequence[Arg],
    binding: Binding,
    reading: Reading,
    layout: Layout,
    container: Container,
    other: bool,
    name: str,
) -> Form:
    by_name, notes = {arg.name: arg for arg in args}, {*reading.notes}

    def view(value: Any, role: str) -> Any:
        arg = by_name.get(role)
        if not isinstance(value, Tensor) or arg is None:
            return value
        if arg.flag and other:
            value = value.double() if value.dtype == torch.bool else value > 0
        axes = [] if role in reading.plain else arg.axes.split()
        return layout.arranged(value, axes if len(axes) == value.ndim else axes[: value.ndim])

    def call(inputs: Inputs) -> Any:
        arranged = {role: view(getattr(inputs, role), role) for role in binding.roles}
        given = {role: contained(value, container) for role, value in arranged.items()}
        output = binding.call(function, given)
        for role, value in given.items():
            if isinstance(arranged[role], Tensor) and not _same(value, contained(arranged[role], container)):
                notes.add(f"it changes its argument {role!r} in place")
        return output

    derived = {arg.name: arg.of for arg in args if arg.of} | dict(reading.of)
    facts = reading.facts | binding.roles
    return Form(name, call, layout, facts, derived, binding.shown, binding.roles, view, notes)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return bool(one == other)
    one, other = torch.as_tensor(one), torch.as_tensor(other)
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def declared(call: Call, args: Sequence[Arg], reading: Reading, canonical: Layout, used: frozenset[str]) -> Form:
    """The form of `call=`: it takes the canonical inputs and returns the canonical answer."""
    derived = {arg.name: arg.of for arg in args if arg.of} | dict(reading.of)
    facts = reading.facts | used
    return Form("call=", call, canonical, facts, derived, {}, used, notes={*reading.notes})


def misunderstood(check: str, misfits: Mapping[str, str], example: str) -> UnknownForm:
    """The error that says which forms were tried, what happened in each, and the line that would declare the call."""
    forms_of: dict[str, list[str]] = {}
    for name, why in misfits.items():
        forms_of.setdefault(why, []).append(name)
    tried = "\n".join(f"  {_shortened(names)}: {why}" for why, names in forms_of.items())
    error = UnknownForm(
        f"check_{check} does not understand this function. It was called as\n{tried}\n"
        f"Say how it is called from the canonical inputs: {example}"
    )
    error.tried = dict(misfits)
    return error


def _shortened(names: Sequence[str], most: int = 6) -> str:
    """The names, with semicolons as they hold commas; of many of them the first and how many there are."""
    return "; ".join(names if len(names) <= most else [*names[: most - 1], f"{len(names)} forms in all"])
