"""Are these generalized advantages? And if not, which known mistake is it?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations, product
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Call, Reading
from pgtheory.checking.episodes import (
    F64,
    FLAGS,
    MASK_ARGS,
    MASKS,
    settle,
)
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.kinds.advantages_mistakes import MISTAKES
from pgtheory.checking.report import Report
from pgtheory.checking.td_errors import generalized
from pgtheory.checking.verdicts import same


def check_advantages(
    function: Callable[..., Any] | None = None,
    *,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check a function that computes generalized advantages, :math:`\sum_{l \ge 0} (\gamma\lambda)^l \delta_{t+l}`.

    Equation :eq:`eq-gae`. The function may be `fn(rewards, values, next_values, gamma, lam, terminated, truncated)` on
    tensors, arrays or lists, for one row of steps `[T]` or a batch `[B, T]`. By the names of its arguments it may also
    take `dones` or `not_dones`, flags of the observations (`dones` with `next_done`, or `episode_starts`), `discounts`
    per step, a `mask` of the steps taken, `last_value` in place of `next_values`, or `values` with one more entry. It
    may return a tuple, of which one part is the advantages and another the advantages plus the values.

    Args:
        function: the implementation.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.rewards.mT, x.values.mT, ...).mT`;
            they are those above and `x.mask`, `[B, T]`, and what follows from them.
        layout: the order of axes, such as `"[T, B]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"masks": "not_dones"}`.

    Returns:
        The report. A remark says what could not be tested for want of an argument.

    Raises:
        UnknownForm: the function cannot be called, or does not return one number for each step.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Schulman, Moritz, Levine, Jordan and Abbeel, "High-Dimensional Continuous Control Using Generalized Advantage
        Estimation", 2016, eq. (16); truncation: Pardo et al., "Time Limits in Reinforcement Learning", 2018.

    Example:
        >>> def gae(rewards, values, dones, gamma, lam):  # one value more than rewards
        ...     advantage, result = 0.0, []
        ...     for t in reversed(range(len(rewards))):
        ...         delta = rewards[t] + gamma * values[t + 1] * (1 - dones[t]) - values[t]
        ...         advantage = delta + gamma * lam * advantage
        ...         result.insert(0, advantage)
        ...     return result
        >>> print(check_advantages(gae).headline)
        check_advantages: WRONG, a known mistake: the sum over δ goes on through a termination
    """
    return CHECK.judge(function, call=call, layout=layout, names=names)


# --- how arguments are taken ---


def _readings(roles: frozenset[str]) -> list[Reading]:
    """What the arguments may be, the most usual first, and flags with an entry more only if nothing else fits."""
    either = [True, False] if {"dones", "truncated"} <= roles and "terminated" not in roles else [True]
    found = []
    for tail, ends in product(_tails(roles), either):
        for rewarded in [False, True] if "truncated" in roles and tail != "next" else [False]:
            found += [_reading(roles, tail, ends, rewarded)]
    if "next_values" in roles and _tails(roles) == ["next"]:  # that of the last state alone, in some code
        found += [_reading(roles, "last", ends, False)._replace(rare=True) for ends in either]
    wide = [_reading(roles, "last", ends, False, wide=True) for ends in either if "last" in _tails(roles)]
    long = [_reading(roles, t, e, False, long=True) for t, e in product(_tails(roles), either) if roles & FLAGS]
    plain = [reading._replace(of={**reading.of, "discounts": lambda x: x.gamma}) for reading in found]
    return [*found, *wide, *long, *(r._replace(rare=True) for r in plain if "discounts" in roles)]


def _tails(roles: frozenset[str]) -> list[str]:
    """Whether a function is given V(S_{t+1}) of each step ("next"), after the last ("last"), or as one value more."""
    of_observations = roles & {"next_done", "starts"}
    if "next_values" in roles and not of_observations:
        return ["next"]
    if "next_value" in roles and not of_observations:
        return ["next"] if "truncated" in roles or {"dones", "terminated"} <= roles else ["last", "next"]
    return ["last"] if roles & {"next_values", "next_value", "last_value"} else ["none", "T+1"]


def _reading(
    roles: frozenset[str], tail: str, either: bool, rewarded: bool, *, wide: bool = False, long: bool = False
) -> Reading:
    """A reading: `either`: dones are terminations or truncations; `rewarded`: rewards hold the bootstrap already."""
    told = "ends" in roles or not (roles & FLAGS or "discounts" in roles)

    def last(x: Any) -> Any:
        value = x.next_values[:, -1]
        return value[:, None] if wide else value

    def following(x: Any) -> Any:
        return torch.where(x.terminated, 0.0, x.next_values) if told else x.next_values

    def dones(x: Any) -> Any:
        ends = x.terminated | x.truncated
        if "next_done" in roles:
            return _entering(ends, long)
        return ends[:, -1] if "starts" in roles else flag(ends if either else x.terminated)

    def flag(flags: Tensor, edge: bool = False) -> Tensor:
        return torch.cat([torch.full_like(flags[:, :1], edge), flags], -1) if long else flags

    of: dict[str, Callable[[Any], Any]] = {
        "next_values": last if tail == "last" else following,
        "next_value": last if tail == "last" or "next_values" in roles else following,
        "last_value": last,
        "dones": dones,
        "terminated": lambda x: flag(x.terminated),
        "truncated": lambda x: flag(x.truncated),
        "ends": lambda x: flag(x.terminated | x.truncated),
        "not_dones": lambda x: flag(~(x.terminated | x.truncated), True).double(),
        "starts": lambda x: _entering(x.terminated | x.truncated, long),
    }
    if tail == "T+1":
        of["values"] = lambda x: torch.cat([x.values, x.next_values[:, -1:]], -1)
    text = {"T+1": ", values [T+1]", "last": ", one value after the last step", "none": ", values [T]"}.get(tail, "")
    text += "" if either else ", dones are terminations alone"
    text += ", truncations bootstrapped in the rewards" if rewarded else ""
    text += ", flags [T+1]" if long else ""
    text += ", the last value with an axis more" if wide else ""
    facts = frozenset([f"tail {tail}", *["either"] * either, *["rewarded"] * rewarded])
    doubt = None if either else lambda defaults, known: True
    return Reading(text, of, facts, tuple(_untested(roles | facts, tail, rewarded)), rare=wide or long, doubt=doubt)


def _entering(ends: Tensor, long: bool) -> Tensor:
    """The flags of the observations: whether an episode ended just before each step; the first one is a start."""
    before = torch.ones_like(ends[:, :1])
    return torch.cat([before, ends if long else ends[:, :-1]], -1)


def _untested(facts: frozenset[str], tail: str, rewarded: bool) -> Iterator[str]:
    if not _sees_truncations(facts):
        yield "truncation was not tested: there is no argument for it"
    elif rewarded:
        yield "it bootstraps nothing at a truncation: the reward must hold γ V(S_{t+1}) already"
    elif tail != "next":
        yield "a truncation inside a row can only bootstrap from the reset state: there is no argument for V(S_{t+1})"
    if tail == "none":
        yield "no bootstrap was tested at the end of a row: there is no argument for a value after the last step"


def _sees_truncations(facts: frozenset[str]) -> bool:
    return {"ends", "tail next"} <= facts or len(facts & {"terminated", "dones", "truncated"}) >= 2


def _choose(cases: Sequence[tuple[Mapping[str, Any], Mapping[str, Tensor]]]) -> tuple[str, str]:
    """That part of the output to which another one adds the values; else the first."""
    if len(cases[0][1]) == 1:
        return next(iter(cases[0][1])), ""
    for one, other in permutations(cases[0][1], 2):
        if all(same(p[one] + torch.where(x["mask"], x["values"], 0.0), p[other]) for x, p in cases):
            return one, ""
    return next(iter(cases[0][1])), "none of the other arrays that it returns is the advantages plus the values"


# --- the cases ---

_REWARDS = (1.0, 2.0, -1.0, 3.0, 0.5, -2.0)
_VALUES = (2.0, 5.0, 1.5, 4.0, -3.0, 2.5, 6.0)
_REACHED = (7.0, -4.0, 8.0, -5.0, 9.0, -6.5)
_PADDING = 11.0
# The steps of two rows, "." where the episode goes on, "T" where it terminates, "U" where it is truncated, "B" where it
# is both; γ; λ. One row alone is a batch of one.
_SPECS = (
    ("T", "T", 0.5, 0.8),
    (".", ".", 0.5, 0.8),
    ("U", "U", 0.5, 0.8),
    ("B", "B", 0.5, 0.8),
    ("..", "..", 0.5, 0.8),
    (".T", ".T", 0.5, 0.8),
    (".U", ".U", 0.5, 0.8),
    ("T.", "..", 0.5, 0.8),
    ("TT", ".T", 0.5, 0.8),
    ("U.", "..", 0.5, 0.8),
    ("UT", ".T", 0.5, 0.8),
    ("B.", ".B", 0.5, 0.8),
    ("...", "...", 0.5, 0.8),
    ("..T", "..T", 0.5, 0.8),
    (".T.", "T..", 0.5, 0.8),
    (".TT", "T.T", 0.5, 0.8),
    (".U.", "U..", 0.5, 0.8),
    (".UT", "T.U", 0.5, 0.8),
    ("...", "...", 1.0, 0.5),
    (".T.T", "...T", 1.0, 0.5),
    (".T..", "....", 0.5, 1.0),
    ("T..T", ".T.T", 0.9, 1.0),
    ("...T", "...T", 1.0, 0.5),
    ("...T", "...T", 0.5, 1.0),
    ("...T", "..TT", 0.999, 0.99),
    ("...T", "..TT", 0.02, 0.8),
    ("...T", "..TT", 0.9, 0.02),
    ("......", "......", 0.9, 0.7),
    (".....T", ".....T", 0.9, 0.7),
    ("..T.U.", ".U.T..", 0.9, 0.7),
    ("..T..T", ".T.T.T", 0.9, 0.7),
    ("..T...", ".T..T.", 0.9, 0.7),
    (".T.U.T", "U..T.B", 0.9, 0.7),
    ("...T..U....", "..U...T....", 1.0, 1.0),
    (("." * 8 + "T") * 2 + "." * 6, ("." * 5 + "T") * 4, 0.95, 0.9),
    (("." * 8 + "T") * 2 + "." * 5 + "T", ("." * 5 + "T") * 4, 0.95, 0.9),
    ("." * 24, "." * 24, 0.95, 0.9),
    ("." * 23 + "T", "." * 23 + "T", 0.95, 0.9),
    ("..T", "", 0.5, 0.8),
)
_STOPS = "a row that stops before its episode ends was not judged: there is no argument for the value behind it"
_ZEROS = (("..T", "..T", 0.5, 0.0), ("...", "...", 0.5, 0.0), ("..T", "..T", 0.0, 0.5), ("...", "...", 0.0, 0.5))
_MASKS = {2: ("11000", "101"), 3: ("11100", "10101"), 6: ("111111000", "1101100110", "0111111")}


def cases(facts: frozenset[str]) -> list[Case]:
    """The cases for a function that is told these facts: batches of two, the smallest first."""
    flagged, masked = bool(facts & (FLAGS | {"discounts"})), bool(facts & MASKS)
    truncated = "U" if _sees_truncations(facts) else ""
    both = "B" if truncated and ("terminated" in facts or "either" not in facts) else ""
    inside = "." + ("T" if flagged else "") + truncated + both
    stops = "tail none" in facts and flagged  # what a row does that no value stands behind, and that does not end
    last = "T" if masked and not flagged else ("T" if "tail none" in facts else ".T" + truncated + both)
    found = []
    for first, second, gamma, lam in (*_SPECS, *_ZEROS):
        rows = [row for row in (first, second) if row]
        if all(set(row[:-1]) <= set(inside) and row[-1] in last for row in rows):
            delicate = "" if gamma and lam else f"it fails at {'λ' if gamma else 'γ'} = 0"
            if "B" in "".join(rows):
                delicate = "it refuses a step that is both terminated and truncated"
            found.append(_case(rows, gamma, lam, facts, delicate))
            masks = _MASKS.get(len(first), ()) if masked and all(row[-1] == "T" for row in rows) else ()
            found += [_case(rows, gamma, lam, facts, delicate, taken=taken) for taken in masks]
    found += [_case(["..T", "..T"], 0.5, 0.8, facts, rewards=rewards) for rewards in ((0.0,), (2.0,))]
    found += [_case(["...", ".T."], 0.5, 0.8, facts, _STOPS)] if stops else []
    if masked:
        found.append(_case(["T", "T"], 0.5, 0.8, facts, "it fails where no step was taken", taken="100", every=False))
    return found


def _case(
    rows: Sequence[str],
    gamma: float,
    lam: float,
    facts: frozenset[str],
    delicate: str = "",
    *,
    taken: str = "",
    every: bool = True,
    rewards: Sequence[float] = _REWARDS,
) -> Case:
    """The case of rows of steps, as far as a function knows them; `taken` spreads them over the steps of a mask.

    The values of the states reached differ from those of the row after an end. Unless `every`, none of the last row's
    steps was taken.
    """
    n, steps = len(rows), len(rows[0])
    terminated, truncated = (torch.tensor([[c in marks for c in row] for row in rows]) for marks in ("TB", "UB"))
    stream = _numbers(_VALUES, n, steps + 1)
    reached = torch.where(terminated | truncated, _numbers(_REACHED, n, steps), stream[:, 1:])
    if "tail next" not in facts:
        reached = _known_states(stream, reached, terminated, facts)
    if "rewarded" in facts:
        reached = torch.where(truncated, 0.0, reached)
    table = {
        "rewards": _numbers(rewards, n, steps)
        if len(set(rewards)) > 1
        else torch.full((n, steps), rewards[0], dtype=F64)
    }
    table |= {"values": stream[:, :-1], "next_values": reached, "terminated": terminated, "truncated": truncated}
    mask = torch.tensor([[c == "1" for c in taken or "1" * steps]] * n)
    found = {name: _spread(x, mask) for name, x in table.items()}
    if "tail next" not in facts:  # behind a step that was not taken stands what stands in the row
        in_row = torch.cat([found["values"][:, 1:], reached[:, -1:]], -1)
        found["next_values"] = torch.where(mask, found["next_values"], in_row)
    if not every:
        mask[-1] = False
    return Case({**found, "gamma": gamma, "lam": lam, "mask": mask}, delicate, or_fails=True)


def _numbers(some: Sequence[float], rows: int, columns: int) -> Tensor:
    """Distinct numbers `[rows, columns]`."""
    k = torch.arange(columns)
    first = torch.tensor(some, dtype=F64)[k % len(some)] + 0.25 * (k // len(some))
    return torch.stack([first, 1.75 - first.roll(1)])[:rows]


def _spread(x: Tensor, mask: Tensor) -> Tensor:
    """The steps of a row at the places of a mask, and something that must not count at the others."""
    blank = torch.full(mask.shape, _PADDING, dtype=F64) if x.is_floating_point() else torch.zeros_like(mask)
    return blank.masked_scatter(mask, x)


def _known_states(stream: Tensor, reached: Tensor, terminated: Tensor, facts: frozenset[str]) -> Tensor:
    """The next values for a function that sees the values of the row only, and one after the last step."""
    last = reached[:, -1:]
    if "tail none" in facts:
        last = torch.zeros_like(last)
    elif not facts & (FLAGS | {"discounts"}) or ("starts" in facts and not facts & (FLAGS - {"starts"})):
        last = torch.where(terminated[:, -1:], 0.0, last)
    return torch.cat([stream[:, 1:-1], last], -1)


CHECK = Check(
    "advantages",
    8,
    args=(
        Arg("rewards", "B T"),
        Arg("values", "B T"),
        Arg("next_values", "B T"),
        Arg("gamma"),
        Arg("lam"),
        Arg("terminated", "B T", flag=True),
        Arg("truncated", "B T", flag=True),
        Arg("dones", "B T", of=lambda x: x.terminated | x.truncated, flag=True),
        Arg("ends", "B T", of=lambda x: x.terminated | x.truncated, flag=True),
        Arg("starts", "B T", of=lambda x: _entering(x.terminated | x.truncated, False), flag=True),
        Arg("not_dones", "B T", also="masks", of=lambda x: (~(x.terminated | x.truncated)).double(), flag=True),
        *MASK_ARGS,
        Arg("discounts", "B T", of=lambda x: x.gamma * (~x.terminated).double()),
        Arg("next_done", "B", of=lambda x: (x.terminated | x.truncated)[:, -1], flag=True),
        Arg("next_value", "B T", of=lambda x: x.next_values),
        Arg("last_value", "B T", of=lambda x: x.next_values[:, -1]),
        Arg("n_steps", of=lambda x: x.rewards.shape[1]),
        Arg("n_envs", of=lambda x: x.rewards.shape[0]),
        Arg("device", of=lambda x: torch.device("cpu")),
    ),
    needs=("rewards", "values", "gamma|discounts", "lam"),
    axes="B T",
    layouts=("[T]", "[B, T]", "[T, B]", "[B, T, 1]", "[T, B, 1]"),
    reference=generalized,
    cases=cases,
    mistakes=MISTAKES,
    readings=_readings,
    settle=settle,
    seen=lambda inputs, answer: torch.where(inputs["mask"], answer, 0.0),
    wanted="adv gae",
    choose=_choose,
    of_the_batch=("advantages.rows_run_together", "advantages.standardised_over_rows"),
    signature=("rewards", "values", "next_values", "gamma", "lam", "terminated", "truncated"),
    integers=("rewards",),
    example="call=lambda x: f(x.rewards.mT, x.values.mT, ...).mT  # x.rewards, x.next_values, x.terminated: [B, T]",
)
