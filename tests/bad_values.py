"""Bad values of each kind of argument, and how a legitimate one shows that it was read as meant."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from helpers import F64, seeded
from torch import Tensor, nn

import pgtheory as pg

Check = Callable[[Any, Any], bool]
"""Whether an answer is right, given the answer of the valid call."""


class Value(NamedTuple):
    """What takes the place of an argument; `check` is None where it has to be refused."""

    label: str
    value: Any
    check: Check | None = None


# ---- Checks of the answers to legitimate values ----


def tensors(answer: Any) -> list[Tensor]:
    """The tensors and numbers of an answer, whatever it is wrapped in."""
    if isinstance(answer, Tensor):
        return [answer]
    if isinstance(answer, bool | int | float):
        return [torch.tensor(answer, dtype=F64)]
    if isinstance(answer, pg.FiniteMDP):
        return [answer.rewards, answer.initial, answer.outcomes.probability]
    if isinstance(answer, nn.Module):
        return list(answer.parameters())
    if isinstance(answer, pg.Trainer | pg.PPOTrainer):
        return tensors(answer.policy)
    if isinstance(answer, Mapping):
        return [x for value in answer.values() for x in tensors(value)]
    return [x for value in answer for x in tensors(value)] if isinstance(answer, tuple | list) else []


def same(answer: Any, canonical: Any) -> bool:
    pairs = list(zip(tensors(answer), tensors(canonical), strict=True))
    return all(
        x.shape == y.shape and torch.allclose(x.to(F64), y.to(F64), 1e-4, 1e-5, equal_nan=True) for x, y in pairs
    )


def alike(answer: Any, canonical: Any) -> bool:
    """As many tensors, for what is random or lives on another device or in another dtype."""
    return len(tensors(answer)) == len(tensors(canonical))


def no_nan(answer: Any, _: Any) -> bool:
    return not any(x.isnan().any() for x in tensors(answer))


def finite(answer: Any, _: Any) -> bool:
    return all(bool(x.isfinite().all()) for x in tensors(answer))


def in_dtype(dtype: torch.dtype, answer: Any, canonical: Any) -> bool:
    return alike(answer, canonical) and {x.dtype for x in tensors(answer) if x.is_floating_point()} <= {dtype}


# ---- Kinds of arguments: each generates values from the valid one ----

HUGE = {"10**400": 10**400, "-10**400": -(10**400), "10**6000": 10**6000}


def wrong_types(*leave: str) -> list[Value]:
    values = {"None": None, "text": "0.5", "bytes": b"1", "object": object(), "dict": {}, "type": int, "complex": 0.5j}
    return [Value(label, value) for label, value in values.items() if label not in leave]


def real(x: float, low: float = -math.inf, high: float = math.inf, *, at_infinity: Check | None = None) -> list[Value]:
    found = [*wrong_types(), Value("flag", True), Value("tensor", torch.tensor(x)), Value("list", [x])]
    found += [Value("array", np.array(x)), Value("Decimal", Decimal("0.5")), Value("nan", math.nan)]
    found += [Value("inf", math.inf, at_infinity), Value("-inf", -math.inf)]
    found += [Value(label, value) for label, value in HUGE.items()]
    found += [Value("below", low - 0.25)] if low > -math.inf else []
    found += [Value("above", high + 0.25)] if high < math.inf else []
    return [*found, Value("np.float64", np.float64(x), same), Value("Fraction", Fraction(x), same)]


def count(x: int, least: int = 1) -> list[Value]:
    found = [*wrong_types(), Value("flag", True), Value("float", float(x)), Value("nan", math.nan)]
    found += [Value("inf", math.inf), Value("list", [x]), Value("Fraction", Fraction(x)), Value("below", least - 1)]
    found += [Value("negative", -(2**40)), Value("tensor of floats", torch.tensor(float(x)))]
    found += [Value(label, value) for label, value in HUGE.items()]
    return [*found, Value("np.int64", np.int64(x), same), Value("tensor", torch.tensor(x), same)]


def flag(_: bool) -> list[Value]:
    values = {"text": "no", "one": 1, "zero": 0, "float": 1.0, "None": None, "tensor": torch.tensor(True), "list": []}
    return [Value(label, value) for label, value in values.items()] + [Value("array", np.bool_(True))]


def choice(x: str) -> list[Value]:
    found = [*wrong_types("text"), Value("unknown", "nonsense"), Value("empty", ""), Value("case", x.upper() + "x")]
    return [*found, Value("list", [x]), Value("number", 1), Value("nan", math.nan), Value("tensor", torch.ones(2))]


def generator(_: Any) -> list[Value]:
    values: dict[str, Any] = {"zero": 0, "number": 3, "text": "0", "flag": True, "type": torch.Generator}
    values |= {"numpy": np.random.default_rng(0), "object": object(), "state": seeded().get_state(), "list": []}
    return [*(Value(label, value) for label, value in values.items()), Value("None", None, alike)]


def dtype(_: Any) -> list[Value]:
    values: dict[str, Any] = {"text": "float32", "float": float, "int": int, "np.float32": np.float32, "number": 32}
    values |= {str(d): d for d in (torch.int64, torch.bool, torch.complex64, torch.complex128, torch.uint8)}
    values |= {str(d): d for d in (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu, torch.quint8)}
    values |= {"np.dtype": np.dtype("float64"), "tensor": torch.ones(1), "object": object(), "list": [torch.float32]}
    found = [Value(label, value) for label, value in values.items()]
    found += [Value(str(d), d, partial(in_dtype, d)) for d in (torch.float32, torch.float64)]
    return [*found, Value("None", None, alike)]


def device(_: Any, *, meta: Check | None = alike) -> list[Value]:
    values: dict[str, Any] = {"unknown": "nonsense", "float": 1.5, "object": object(), "list": ["cpu"], "empty": ""}
    values |= {"absent": "cuda:99", "negative": -1, "number": 99, "dtype": torch.float32, "flag": False}
    found = [Value(label, value) for label, value in values.items()]
    return [*found, Value("meta", "meta", meta), Value("None", None, same), Value("cpu", torch.device("cpu"), same)]


def sparse(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x.flatten(0, -2).to_sparse_csr() if x.ndim > 1 else x.to_sparse()


def no_tensor(x: Tensor) -> Iterator[Value]:
    """What is no tensor, or one that has no values to work with."""
    yield from wrong_types()
    yield from (Value("number", 0.5), Value("list", x.tolist()), Value("array", x.numpy()), Value("flag", True))
    yield from (Value("complex64", x.to(torch.complex64)), Value("complex128", x.to(torch.complex128)))
    yield from (Value("sparse", x.to_sparse()), Value("meta", x.to("meta"))) if x.ndim else ()
    yield from (Value("sparse csr", sparse(x)),) if x.ndim else ()


def misshapen(x: Tensor) -> Iterator[Value]:
    yield from (Value("scalar", x.flatten()[0]), Value("empty", x.new_zeros(0)))
    yield Value("longer", torch.cat([x, x[..., -1:]], -1))
    yield Value("shorter", x[..., :-1])
    yield Value("more axes", x.unsqueeze(-1).expand(*x.shape, 7))


def with_first(x: Tensor, value: float) -> Tensor:
    changed = x.clone()
    changed.view(-1)[0] = value
    return changed


def floats(x: Tensor) -> list[Value]:
    found = [*no_tensor(x), *misshapen(x)]
    others = (torch.int64, torch.int32, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2)
    found += [Value(str(kind).removeprefix("torch."), x.to(kind)) for kind in others]
    found += [Value(str(v), with_first(x, v)) for v in (math.nan, math.inf, -math.inf)]
    found.append(Value("other floats", x.to(torch.float32 if x.dtype == F64 else F64)))
    return [*found, Value("strided", x.repeat_interleave(2, -1)[..., ::2], same)]


def table(x: Tensor) -> list[Value]:
    """A policy."""
    return [*floats(x), Value("negative", with_first(x, -0.5)), Value("sum", x * 0.9), Value("zeros", x * 0)]


def mask(x: Tensor) -> list[Value]:
    found = [*no_tensor(x), *misshapen(x)]
    found += [Value(str(d).removeprefix("torch."), x.to(d)) for d in (torch.int64, torch.uint8, torch.float32, F64)]
    return [*found, Value("strided", x.repeat_interleave(2, -1)[..., ::2], same)]


def indices(x: Tensor) -> list[Value]:
    found = [*no_tensor(x), *misshapen(x)]
    found += [Value(str(d).removeprefix("torch."), x.to(d)) for d in (torch.float32, F64, torch.bool)]
    found += [Value("negative", with_first(x, -1)), Value("too large", with_first(x, 99))]
    found += [Value("largest", with_first(x, 2**62))]
    smaller = (torch.int32, torch.int16, torch.int8, torch.uint8)
    return [*found, *(Value(str(d).removeprefix("torch."), x.to(d), same) for d in smaller)]


def mdp(x: Any) -> list[Value]:
    values = {"tensor": torch.ones(2), "outcomes": x.outcomes, "name": "gridworld", "class": pg.FiniteMDP, "list": [x]}
    return wrong_types() + [Value(label, value) for label, value in values.items()] + [Value("function", pg.gridworld)]


def policy_object(x: Any) -> list[Value]:
    values: dict[str, Any] = {"table": torch.full((3, 2), 0.5, dtype=F64), "module": nn.Linear(2, 2), "class": type(x)}
    values |= {"list": [x], "function": x.preferences, "states": pg.TabularPolicy(2, x.n_actions, dtype=F64)}
    values |= {"actions": pg.TabularPolicy(3, 5, dtype=F64), "number": 1, "parameters": list(x.parameters())}
    return wrong_types() + [Value(label, value) for label, value in values.items()]


def optimizer(x: Any, *, maximize: bool = False) -> list[Value]:
    foreign = [nn.Parameter(torch.zeros(2))]
    values = {"class": type(x), "parameters": foreign, "number": 0.1, "list": [x]}
    values["foreign"] = torch.optim.SGD(foreign, lr=0.1, maximize=maximize)
    values["direction"] = torch.optim.SGD(x.param_groups[0]["params"], lr=0.1, maximize=not maximize)
    return wrong_types() + [Value(label, value) for label, value in values.items()]


def trajectories(x: Any) -> list[Value]:
    values: dict[str, Any] = {"tuple": tuple(x), "list": list(x), "states": x.states, "class": type(x)}
    for name in x._fields:
        column = getattr(x, name)
        values |= {f"{name} None": x._replace(**{name: None}), f"{name} complex": x._replace(**{name: column * 1j})}
        values |= {f"{name} scalar": x._replace(**{name: column.flatten()[0]})}
        values |= {
            f"{name} short": x._replace(**{name: column[:-1]}),
            f"{name} list": x._replace(**{name: column.tolist()}),
        }
        values |= {f"{name} sparse": x._replace(**{name: column.to_sparse()})}
        values |= {f"{name} meta": x._replace(**{name: column.to("meta")})}
    values |= {"states floats": x._replace(states=x.states.double()), "mask integers": x._replace(mask=x.mask.long())}
    values |= {
        "actions floats": x._replace(actions=x.actions.double()),
        "rewards integers": x._replace(rewards=x.actions),
    }
    values |= {"states large": x._replace(states=x.states + 99), "actions large": x._replace(actions=x.actions + 99)}
    values |= {
        "states negative": x._replace(states=x.states - 9),
        "actions negative": x._replace(actions=x.actions - 9),
    }
    return wrong_types() + [Value(label, value) for label, value in values.items()]


def environments(x: Any) -> list[Value]:
    values: dict[str, Any] = {"name": "CartPole-v1", "class": SyncVectorEnv, "list": [x], "single": x.envs[0]}
    return wrong_types() + [Value(label, value) for label, value in values.items()]


def function(x: Any) -> list[Value]:
    def returns(value: Any) -> Any:
        return lambda *_, **__: value

    values: dict[str, Any] = {"list": [x], "number": 1.0, "gives None": returns(None), "gives text": returns("loss")}
    values |= {"gives a number": returns(1.0), "gives a vector": returns(torch.zeros(2, dtype=F64))}
    values |= {"gives complex": returns(torch.tensor(1j)), "gives integers": returns(torch.tensor(1))}
    return wrong_types("type") + [Value(label, value) for label, value in values.items()]


def clip(_: Any) -> list[Value]:
    found = [value for value in real(0.25, 0.0) if value.label != "inf"]
    pairs = [(), (0.1,), (0.1, 0.2, 0.3), (0.1, None), ("0.1", 0.2), (math.nan, 0.2), (0.1, math.nan), (-0.1, 0.2)]
    pairs += [(1.1, 0.2), (0.1, -0.2), (True, 0.2), (0.1, 10**400), (0.1, -(10**400))]
    return [*found, Value("inf", math.inf), *(Value(str(pair)[:20], pair) for pair in pairs)]


def optional(kind: Callable[..., list[Value]], check: Check = finite) -> Callable[..., list[Value]]:
    """The kind of an argument that may be None: not refused then, but answered, and with `check` rightly."""

    def values(x: Any) -> list[Value]:
        return [value._replace(check=check) if value.label == "None" else value for value in kind(x)]

    return values


def same_zeros(answer: Any, _: Any) -> bool:
    return not tensors(answer)[0].any()


def numbers(x: Any) -> list[Value]:
    """A sequence of numbers, such as the rewards of arms."""
    values: dict[str, Any] = {
        "number": 0.5,
        "empty": [],
        "texts": ["0.5", "1"],
        "None inside": [None, 1.0],
        "set": {1.0},
    }
    values |= {"nan": [math.nan, *x[1:]], "inf": [math.inf, *x[1:]], "complex inside": [1j, *x[1:]]}
    values |= {"huge": [10**400, *x[1:]], "flags": [True, *x[1:]], "nested": [[1.0], [2.0]]}
    found = wrong_types() + [Value(label, value) for label, value in values.items()]
    return [*found, Value("tuple", tuple(x), same)]


def start(x: Any) -> list[Value]:
    """A start distribution, or a start state."""
    n = len(x)
    values: dict[str, Any] = {"too large": n, "negative": -1, "float": 0.5, "flag": True, "short": [1.0], "empty": []}
    values |= {"nan": [math.nan] * n, "sum": [0.9] + [0.0] * (n - 1), "texts": ["1"] * n, "huge": 10**400, "set": {1.0}}
    values |= {"below 0": [-1.0, 2.0] + [0.0] * (n - 2), "inside None": [None] * n, "huge inside": [10**400] * n}
    values |= {
        "complex": torch.ones(n) * 1j,
        "meta": torch.ones(n, device="meta"),
        "sparse": torch.eye(n)[0].to_sparse(),
    }
    values |= {"matrix": torch.eye(n), "flags": torch.eye(n)[0] > 0}
    found = wrong_types() + [Value(label, value) for label, value in values.items()]
    return [*found, Value("tensor", torch.tensor(x, dtype=F64), same)]


def states_of(x: Any) -> list[Value]:
    """Terminal states: a mask, or indices."""
    n = len(x)
    values: dict[str, Any] = {"number": 1, "too large": [n], "negative": [-1], "floats": [1.0], "texts": ["1"]}
    values |= {"short mask": torch.tensor([True]), "None inside": [None], "huge": [10**400], "nested": [[1]]}
    values |= {"complex": torch.ones(1) * 1j, "meta": torch.ones(n, device="meta") > 0, "set": {1}, "flag": True}
    values |= {"sparse": torch.eye(n)[0].to_sparse() > 0 if False else torch.tensor(x).to_sparse()}
    found = [value for value in wrong_types("dict") if value.label != "None"]
    found += [Value(label, value) for label, value in values.items()]
    return [*found, Value("mask", torch.tensor(x), same), Value("indices", [i for i, end in enumerate(x) if end], same)]


def names(x: Any) -> list[Value]:
    found = [value for value in wrong_types("text") if value.label != "None"]
    values = {
        "text": "a" * len(x),
        "short": x[:-1],
        "numbers": list(range(len(x))),
        "number": 3,
        "None inside": [None] * len(x),
    }
    return [
        *found,
        *(Value(label, value) for label, value in values.items()),
        Value("list", list(x), same),
        Value("None", None, same),
    ]
