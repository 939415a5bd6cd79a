"""What checks of bootstrapped returns share: rows of steps with values, and the forms in which these are given."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Reading
from pgtheory.checking.episodes import F64
from pgtheory.checking.judge import Case

#: The flags of which `terminated` is the canonical one, and the discounts that hold them.
ENDS = frozenset(["terminated", "dones", "not_dones", "discounts"])
_UNFLAGGED = "terminations were not tried: there is no argument for them"
#: What a function is told that has no value behind the row.
_CLOSED = "where a row ends its episode"

ARGS = (
    Arg("rewards", "B T", "r_t"),
    Arg("values", "B T", "v_tm1 bootstrap_values"),
    Arg("next_values", "B T", "v_t next_state_value values_t_plus_1"),
    Arg("gamma"),
    Arg("terminated", "B T", flag=True),
    Arg("dones", "B T", of=lambda x: x.terminated, flag=True),
    Arg("not_dones", "B T", of=lambda x: (~x.terminated).double(), flag=True),
    Arg("discounts", "B T", "pcont pconts discount_t discount", of=lambda x: x.gamma * (~x.terminated).double()),
    Arg("last_value", "B T", of=lambda x: x.next_values[:, -1]),
    Arg("next_value", "B T", of=lambda x: x.next_values[:, -1]),
    Arg("n_envs", of=lambda x: x.rewards.shape[0]),
    Arg("device", of=lambda x: torch.device("cpu")),
)


def readings(roles: frozenset[str]) -> list[Reading]:
    """Where V(S_{t+1}) stands: in an argument of its own, in values and one after the last, or in values alone."""
    notes = () if roles & ENDS else (_UNFLAGGED,)
    of: dict[str, Callable[[Any], Any]] = {}
    if "not_dones" in roles and not roles & {"gamma", "discounts"}:  # γ is in them
        of["not_dones"] = lambda x: x.gamma * (~x.terminated).double()
    if "discounts" in roles and roles & {"terminated", "dones", "not_dones"}:
        of["discounts"] = lambda x: x.gamma
    if "next_value" in roles and "values" not in roles:
        of["next_value"] = lambda x: x.next_values
    if roles & {"next_values", "last_value", "next_value"} or "values" not in roles:
        each = {**of, "next_value": lambda x: x.next_values}
        wide = {**of, "last_value": lambda x: x.next_values[:, -1:]}
        more = [Reading(", a next value per step", each, notes=notes, rare=True)] if "next_value" in roles else []
        text = ", the last value with an axis more"
        more += [Reading(text, wide, notes=notes, rare=True)] if "last_value" in roles else []
        return [Reading("", of, notes=notes), *more]
    longer = {**of, "values": lambda x: torch.cat([x.values, x.next_values[:, -1:]], -1)}
    aligned = {**of, "values": lambda x: x.next_values}
    return [
        Reading(", values [T+1]", longer, notes=notes),
        Reading(", values of the next states", aligned, notes=notes, rare=True),
        Reading(f", values [T], {_CLOSED}", of, frozenset([_CLOSED]), notes, doubt=lambda defaults, known: not known),
    ]


def settle(name: str, roles: tuple[str, ...], others: frozenset[str]) -> str | None:
    """A discount beside flags is a number; alone it may be one for each step. Bootstrap values alone are all values."""
    if {"values", "last_value"} <= set(roles):
        return "last_value" if others & {"values", "next_values"} else "values"
    return "gamma" if {"gamma", "discounts"} <= set(roles) and others & (ENDS - {"discounts"}) else None


def rows(marks: Sequence[str], gamma: float, **more: Any) -> Case:
    """The case of rows of steps, "T" where an episode terminates: behind it the next one begins."""
    n, steps = len(marks), len(marks[0])
    place = torch.arange(n * (steps + 1), dtype=F64).reshape(n, steps + 1)
    stream = (7 * (1.3 * place + 0.4).sin()).round(decimals=2) + 1.0
    rewards = (5 * (2.1 * place[:, :-1]).cos()).round(decimals=2) + 0.5
    terminated = torch.tensor([[c == "T" for c in row] for row in marks])
    whole = {"rewards": rewards, "values": stream[:, :-1], "next_values": stream[:, 1:], "terminated": terminated}
    return Case({**whole, "gamma": gamma, **more})


_FLOWING = (".", "..", "...", "....", "......")
_ENDING = (("T", "T"), (".T", "T."), ("..T", ".T."), ("T..T", "...."), (".T..T.", "...T.."), ("TTT", "..T"))


def batches(facts: frozenset[str]) -> list[tuple[str, ...]]:
    """Rows without an end, and with ends where a function is told them: first, last, everywhere; a batch of one."""
    flowing: list[tuple[str, ...]] = [(row, row) for row in _FLOWING]
    found = [*flowing, *(_ENDING if facts & ENDS else ()), ("....",)]
    return [tuple(f"{row[:-1]}T" for row in marks) for marks in found] if _CLOSED in facts else found


def backwards(step: Callable[[Mapping[str, Tensor], Tensor], Tensor], seed: Tensor, **columns: Tensor) -> Tensor:
    """A recursion from the last step: each result from the columns of its step and the result behind it."""
    carry, found = seed, list[Tensor]()
    for t in reversed(range(next(iter(columns.values())).shape[-1])):
        carry = step({name: x[..., t] for name, x in columns.items()}, carry)
        found.insert(0, carry)
    return torch.stack(found, -1)


def later(x: Tensor, last: Tensor | None = None, by: int = 1) -> Tensor:
    """The entries some steps later; behind the row the last one is repeated, or another value."""
    edge = x[..., -1:] if last is None else last[..., None]
    return torch.cat([x[..., by:], edge.expand(*x.shape[:-1], min(by, x.shape[-1]))], -1)
