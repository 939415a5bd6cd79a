"""Are these generalized advantages? And if not, which known mistake is it?"""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgtheory.advantages import generalized_advantages
from pgtheory.checking._engine import Case, Form, close, examine, invoke, misunderstood, shaped, unflattened
from pgtheory.checking._forms import (
    CONTAINERS,
    Binding,
    Container,
    Misfit,
    Role,
    UnknownForm,
    as_tensor,
    bind,
    role_of,
)
from pgtheory.checking._report import Mistake, Report, arxiv, issue, pull

_F64 = torch.float64
_GAE = arxiv("Schulman et al., 2016, eq. (16) (the right form)", "1506.02438")
_TIME_LIMITS = arxiv("Pardo et al., 2018", "1712.00378")

ROLES = (
    Role("rewards", "reward rew rews r rs r_t token_level_rewards rewards_t reward_batch"),
    Role(
        "values",
        "value v vs vals val v_s state_values state_value value_preds value_pred vpred vpreds v_pred v_preds v_tm1 "
        "critic_values baselines baseline values_old old_values value_estimates vf_preds vf_pred vf_values",
    ),
    Role(
        "next_values",
        "next_vals values_next vals_next next_state_values next_state_value state_values_next v_next next_v next_vs "
        "vs_next v_prime v_s_ values_ v_ v_tp1 values_tp1 next_obs_values next_value_preds true_next_values "
        "val_tp1 vals_tp1 successor_values nextvalues next_values_t",
    ),
    Role("gamma", "g gam disc discount discount_factor discount_rate reward_discount y gamma_ df"),
    Role(
        "lam",
        "lambda_ lambda lmbda lamda lambd lmbd lamb gae_lambda gae_lam gae_lmbda gae_tau lambda_gae lam_gae tau "
        "advantage_discount trace_decay lda lambda_t",
    ),
    Role("terminated", "terminations termination terminateds term terms is_terminated terminated_flags"),
    Role(
        "truncated", "truncations truncation truncateds trunc truncs is_truncated timeouts time_outs timeout time_out"
    ),
    Role(
        "dones",
        "done d ds terminal terminals is_terminal is_terminals is_done is_dones dones_t done_flags ended "
        "episode_ends ends next_terminals",
    ),
    Role("ends", "end_flag end_flags"),
    Role("starts", "episode_starts is_first is_firsts first firsts episode_start start"),
    Role(
        "not_dones",
        "masks not_done nonterminal nonterminals non_terminal non_terminals not_terminal not_terminals notdone "
        "notdones nondone nondones continues cont conts next_non_terminal next_nonterminal mask_lst alive",
    ),
    Role("done_mask"),
    Role("mask"),
    Role("taken", "valid valid_mask loss_mask response_mask action_mask padding_mask attention_mask eos_mask"),
    Role("discounts", "discount_t discounts_t discount_array"),
    Role("next_done", "last_done next_dones last_dones next_terminal next_terminated final_done"),
    Role("next_value", "next_val value_next val_next next_vpred nextvpred"),
    Role(
        "last_value",
        "last_values bootstrap_value bootstrap_values bootstrap final_value last_val last_vals v_last last_v v_final "
        "last_state_value final_val bootstrap_val val_last value_last end_value last_r",
    ),
    Role("n_steps", "num_steps n_step rollout_length rollout_steps horizon num_timesteps steps"),
    Role("n_envs", "num_envs n_env num_workers n_workers num_processes batch_size n_actors"),
    Role("device"),
)
_CANONICAL = ("rewards", "values", "next_values", "gamma", "lam", "terminated", "truncated")
_ALWAYS = ("rewards", "values", "gamma", "lam")
_FLAGS = frozenset(["terminated", "dones", "ends", "starts", "not_dones", "done_mask", "next_done"])
_LAYOUTS = ("[T]", "[B, T]", "[T, B]", "[B, T, 1]", "[T, B, 1]")


def check_advantages(function: Callable[..., Any], *, form: str | None = None) -> Report:
    r"""Check a function that computes generalized advantages, :math:`\sum_{l \ge 0} (\gamma\lambda)^l \delta_{t+l}`.

    Equation :eq:`eq-gae`. The function may be `fn(rewards, values, next_values, gamma, lam, terminated, truncated)` on
    tensors, arrays or lists, for one row of steps `[T]`, a batch `[B, T]`, or with the time first `[T, B]`; arguments
    that have none of the names that are known are taken in this order. By the names of its arguments it may also take
    `dones` or `not_dones`, flags of the observations (`dones` with `next_done`, or `episode_starts`), `discounts` per
    step, a `mask` of the steps taken, `last_value` in place of `next_values`, or `values` with one more entry. It may
    return a tuple, of which one part is the advantages and another the advantages plus the values.

    Args:
        function: the implementation.
        form: only try forms whose name contains this text, such as `"[T, B]"` or `"numpy"`.

    Returns:
        The report. A remark says what could not be tested for want of an argument.

    Raises:
        UnknownForm: the function cannot be called in any form, or does not return one number for each step.

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
    report = _examined(function, form)
    return _in_batches(function, report) if report.ok and "[T]" in report.form else report


def _examined(function: Callable[..., Any], form: str | None) -> Report:
    try:
        return examine("advantages", _forms(function, form), MISTAKES, answer=_answer)
    except UnknownForm:  # flags with an entry more are tried only if nothing else fits: few functions take them
        with contextlib.suppress(UnknownForm):
            return examine("advantages", _forms(function, form, long_flags=True), MISTAKES, answer=_answer)
        raise


def _in_batches(function: Callable[..., Any], report: Report) -> Report:
    """The report of a function that is right for one row, unless it takes a batch for one long row."""
    reports = []
    for layout in ("[B, T]", "[T, B]"):
        with contextlib.suppress(UnknownForm):
            forms = _forms(function, f"{report.form.partition('[T]')[0]}{layout}")
            reports.append(examine("advantages", forms, MISTAKES, answer=_answer))
    together = [r for r in reports if r.mistakes and r.mistakes[0].key == "advantages.rows_run_together"]
    return together[0] if together and not any(reports) else report


class _Reading(NamedTuple):
    """What the arguments of a function are taken to be, where their names leave a choice.

    `tail`: whether it is given V(S_{t+1}) for each step ("next"), after the last step ("last"), as one more value
    ("T+1"), or not at all ("none"). `either`: dones are terminations or truncations. `taken`: `mask` marks the steps
    taken, not those that go on. `going`: `done_mask` marks those that go on. `rewarded`: the reward of a truncated
    step holds γ V(S_{t+1}) already. `long_flags`: the flags have T+1 entries, that of step t at t+1.
    """

    tail: str
    either: bool = False
    taken: bool = True
    going: bool = False
    rewarded: bool = False
    long_flags: bool = False
    per_step: bool = False
    other_flags: bool = False
    wide: bool = False

    def __str__(self) -> str:
        tail = {"T+1": ", values [T+1]", "last": ", one value after the last step", "none": ", values [T]"}
        parts = [tail.get(self.tail, "")]
        parts += [", done_mask 0 at the end of an episode"] * self.going
        parts += [", truncations bootstrapped in the rewards"] * self.rewarded
        parts += [", a discount per step"] * self.per_step + [", flags [T+1]"] * self.long_flags
        parts += [", flags of the other type"] * self.other_flags + [", the last value with an axis more"] * self.wide
        return "".join(parts)


def _forms(function: Callable[..., Any], only: str | None, *, long_flags: bool = False) -> Iterator[Form]:
    """The forms to try, variants of one only where the function could not be called in it."""
    binding = _bound(function)
    answered: set[str] = set()
    if long_flags and not binding.roles & (_FLAGS | {"mask"}):
        return
    for container, reading, layout in product(CONTAINERS, _readings(binding.roles), _LAYOUTS):
        for variant in _variants(reading._replace(long_flags=long_flags), binding.roles):
            name = f"{container} {layout}{variant}"
            if container == "torch.float32" and name.replace(".float32", "") in answered:
                break
            if only is None or only in name:
                yield _form(function, binding, name, container, layout, variant, answered)
            if name in answered:
                break


def _bound(function: Callable[..., Any]) -> Binding:
    """The roles of the arguments: in the canonical order if not two of them have a name that is known.

    Raises:
        UnknownForm: an argument is missing, or has no role.
    """
    try:
        binding = _bound_by_name(function)
        every = [*binding.positional, *binding.keywords.values()]
        _require(len(every) == len(set(every)), "two of its arguments have names that mean the same")
        for role in ("rewards", "values", "gamma", "lam"):
            _require(role in every or (role == "gamma" and "discounts" in every), f"it has no argument {role!r}")
    except Misfit as misfit:
        raise misunderstood("advantages", {"fn(" + ", ".join(_CANONICAL) + ")": str(misfit)}) from misfit
    return binding


def _bound_by_name(function: Callable[..., Any]) -> Binding:
    names = _parameters(function)
    variadic = any(name.startswith("*") for name in names)
    known = {role_of(name, ROLES) for name in names if not name.startswith("*")} - {None}
    always = tuple(role for role in _ALWAYS if role != "gamma" or "discounts" not in known)
    if len(known) >= 2 and (known.issuperset(always) or not variadic):
        with contextlib.suppress(Misfit):
            return bind(function, _requiring(always))
    by_place = len(known) < 2 or len(names) == len(_CANONICAL) or variadic
    _require(by_place, f"the names of its arguments, {', '.join(names)}, do not say what all of them are")
    binding = bind(function, [_without_letters(role) for role in _requiring(_CANONICAL)])
    _require(binding.positional == _CANONICAL[: len(binding.positional)], "some of its arguments have other names")
    return binding


def _without_letters(role: Role) -> Role:
    """A role that single letters do not name: of `fn(a, b, c, d, ...)` only the order counts."""
    return role._replace(synonyms=" ".join(name for name in role.synonyms.split() if len(name) > 1))


def _requiring(names: Sequence[str]) -> list[Role]:
    by_name = {role.name: role for role in ROLES}
    required = [by_name[name]._replace(required=True) for name in names]
    return [*required, *(role for role in ROLES if role.name not in names)]


def _parameters(function: Callable[..., Any]) -> list[str]:
    target = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        return [str(p).partition(":")[0].partition("=")[0] for p in inspect.signature(target).parameters.values()]
    except (TypeError, ValueError):
        return []


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Misfit(f"{otherwise}; understood are {', '.join(role.name for role in ROLES)}")


def _readings(roles: frozenset[str]) -> list[_Reading]:
    """What the arguments may mean, the most usual first."""
    of_observations = bool(roles & {"next_done", "starts"})
    if "next_values" in roles and not of_observations:
        tails = ["next"]
    elif "next_value" in roles and not of_observations:
        truncations = "truncated" in roles or {"dones", "terminated"} <= roles
        tails = ["next"] if truncations else ["last", "next"]
    elif roles & {"next_values", "next_value", "last_value"}:
        tails = ["last"]
    else:
        tails = ["none", "T+1"]
    either = [True, False] if {"dones", "truncated"} <= roles and "terminated" not in roles else [True]
    taken = [True] if roles & _FLAGS else [True, False]
    going = [False, True] if "done_mask" in roles else [False]
    rewarded = [False, True] if "truncated" in roles and tails != ["next"] else [False]
    choices = product(tails, either, taken if "mask" in roles else [True], going, rewarded)
    readings = [_Reading(*choice) for choice in choices]
    # A lone `mask` is 1 where the episode goes on, or else where a step was taken: then nothing follows the last one.
    return [r for r in readings if "mask" not in roles or roles & _FLAGS or not r.taken or r.tail == "none"]


def _variants(reading: _Reading, roles: frozenset[str]) -> Iterator[_Reading]:
    """A reading, and what to try if the function cannot be called so."""
    per_step = (
        [True, False]
        if "discounts" in roles
        else [False, True]
        if not roles & (_FLAGS | {"mask", "taken"})
        else [False]
    )
    other_flags = [False, True] if roles & (_FLAGS | {"mask", "taken"}) else [False]
    wide = [False, True] if reading.tail == "last" else [False]
    for p, w, f in product(per_step, wide, other_flags):
        yield reading._replace(per_step=p, wide=w, other_flags=f)


def _form(
    function: Callable[..., Any],
    binding: Binding,
    name: str,
    container: Container,
    layout: str,
    reading: _Reading,
    answered: set[str],
) -> Form:
    roles = binding.roles
    notes = _untested(reading, roles)

    def call(case: Case) -> Tensor:
        arranged = {role: view(value) for role, value in case.inputs.items() if role in roles}
        output = invoke(notes, function, binding, arranged, container)
        parts = [_restored(part, layout, case.expected.shape) for part in _parts(output, case.expected)]
        answered.add(name)
        mask = case.inputs["truth"]["mask"]
        return torch.where(mask, _advantages_among(parts, case, notes), 0.0)

    def view(value: Any) -> Any:
        return _arranged(value, layout, reading.wide) if isinstance(value, Tensor) else value

    return Form(name, cases(reading, roles, batch=layout != "[T]"), call, notes, roles, view)


def _untested(reading: _Reading, roles: frozenset[str]) -> set[str]:
    notes = set()
    if not _sees_truncations(roles, reading):
        notes.add("truncation was not tested: there is no argument for it")
    elif reading.rewarded:
        notes.add("it bootstraps nothing at a truncation: the reward must hold γ V(S_{t+1}) already")
    elif reading.tail != "next":
        notes.add(
            "a truncation inside a row can only bootstrap from the reset state: there is no argument for V(S_{t+1})"
        )
    if reading.tail == "none":
        notes.add("no bootstrap was tested at the end of a row: there is no argument for a value after the last step")
    return notes


def _arranged(value: Tensor, layout: str, wide: bool) -> Tensor:
    """A role's value `[B, T]`, or `[B]`, in the layout of a form."""
    if value.ndim == 1:
        value = value[:, None] if layout.endswith("1]") else value
        if wide:
            value = value[None] if layout.startswith("[T, B") else value[:, None]
        return value[0] if layout == "[T]" else value
    value = value.movedim(0, 1) if layout.startswith("[T, B") else value
    return value[..., None] if layout.endswith("1]") else value[0] if layout == "[T]" else value


def _restored(value: Tensor, layout: str, shape: Sequence[int]) -> Tensor:
    """A part of the output in the shape `[B, T]`."""
    if layout.startswith("[T, B"):
        return shaped(unflattened(value, shape[::-1]), shape[::-1]).movedim(1, 0).double()
    return shaped(unflattened(value, shape), shape).double()


def _parts(output: Any, expected: Tensor) -> list[Tensor]:
    """The arrays that a function returned: one, or those of a tuple or a dictionary that have one entry per step."""
    if isinstance(output, Mapping):
        found = [output[name] for name in output if "adv" in str(name).lower() or "gae" in str(name).lower()]
        return [as_tensor(found[0] if found else output)]
    if isinstance(output, tuple) and len(output) > 1:
        tensors = [as_tensor(part) for part in output if part is not None]
        if any(t.numel() == expected.numel() for t in tensors) and tensors[0].ndim:
            return [t for t in tensors if t.numel() == expected.numel()]
    return [as_tensor(output)]


def _advantages_among(parts: Sequence[Tensor], case: Case, notes: set[str]) -> Tensor:
    """That part of the output to which another one adds the values; else the one that is right; else the first."""
    truth = case.inputs["truth"]
    mask, values = truth["mask"], truth["values"]

    def same(one: Tensor, other: Tensor) -> bool:
        return close(torch.where(mask, one, 0.0), torch.where(mask, other, 0.0))

    for one, other in product(parts, parts):
        if same(one + values, other):
            return one
    if len(parts) > 1:
        notes.add("none of the other arrays that it returns is the advantages plus the values")
    return next((part for part in parts if same(part, case.expected)), parts[0])


_REWARDS = (1.0, 2.0, -1.0, 3.0, 0.5, -2.0)
_VALUES = (2.0, 5.0, 1.5, 4.0, -3.0, 2.5, 6.0)
_REACHED = (7.0, -4.0, 8.0, -5.0, 9.0, -6.5)
_PADDING = 11.0
# The steps of two rows, "." where the episode goes on, "T" where it terminates, "U" where it is truncated; γ; λ.
_SPECS = (
    ("T", "T", 0.5, 0.8),
    (".", ".", 0.5, 0.8),
    ("U", "U", 0.5, 0.8),
    ("..", "..", 0.5, 0.8),
    (".T", ".T", 0.5, 0.8),
    (".U", ".U", 0.5, 0.8),
    ("T.", "..", 0.5, 0.8),
    ("TT", ".T", 0.5, 0.8),
    ("U.", "..", 0.5, 0.8),
    ("UT", ".T", 0.5, 0.8),
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
    ("......", "......", 0.9, 0.7),
    (".....T", ".....T", 0.9, 0.7),
    ("..T.U.", ".U.T..", 0.9, 0.7),
    ("..T..T", ".T.T.T", 0.9, 0.7),
    ("..T...", ".T..T.", 0.9, 0.7),
    (".T.U.T", "U..T.U", 0.9, 0.7),
    ("...T..U....", "..U...T....", 1.0, 1.0),
    (("." * 8 + "T") * 2 + "." * 6, ("." * 5 + "T") * 4, 0.95, 0.9),
    (("." * 8 + "T") * 2 + "." * 5 + "T", ("." * 5 + "T") * 4, 0.95, 0.9),
    ("." * 24, "." * 24, 0.95, 0.9),
    ("." * 23 + "T", "." * 23 + "T", 0.95, 0.9),
)
_ZEROS = (("..T", "..T", 0.5, 0.0), ("...", "...", 0.5, 0.0), ("..T", "..T", 0.0, 0.5), ("...", "...", 0.0, 0.5))


def _sees_truncations(roles: frozenset[str], reading: _Reading) -> bool:
    return ("ends" in roles and reading.tail == "next") or len(roles & {"terminated", "dones", "truncated"}) >= 2


@lru_cache(maxsize=64)
def cases(reading: _Reading, roles: frozenset[str], *, batch: bool) -> tuple[Case, ...]:
    """The cases for a function that takes these roles, read so, the smallest first."""
    flagged = roles & _FLAGS or reading.per_step or ("mask" in roles and not reading.taken)
    truncated = "U" if _sees_truncations(roles, reading) else ""
    inside = "." + ("T" if flagged else "") + truncated
    masked = ("mask" in roles and reading.taken) or "taken" in roles
    last = "T" if reading.tail == "none" or (masked and not flagged) else ".T" + truncated
    found = []
    for first, second, gamma, lam in (*_SPECS, *_ZEROS):
        rows = [first, second][: 1 + batch]
        if all(set(row[:-1]) <= set(inside) and row[-1] in last for row in rows):
            delicate = "" if gamma and lam else f"it fails at {'λ' if gamma else 'γ'} = 0"
            found.append(_case(rows, gamma, lam, reading, roles, delicate))
            if masked and row_ends(rows) and len(first) in {2, 3, 6}:
                found.append(_case(rows, gamma, lam, reading, roles, delicate, padding=2))
    return tuple(found)


def row_ends(rows: Iterable[str]) -> bool:
    """Whether every row ends in a termination."""
    return all(row.endswith("T") for row in rows)


def _case(
    rows: Sequence[str],
    gamma: float,
    lam: float,
    reading: _Reading,
    roles: frozenset[str],
    delicate: str,
    padding: int = 0,
) -> Case:
    """The case of rows of steps, put in the form of a reading; behind them stands `padding`."""
    truth = _truth(rows, gamma, lam, padding)
    if reading.tail != "next":
        truth["next_values"] = _without_reached_states(truth, reading, roles)
    if reading.rewarded:
        truth["next_values"] = torch.where(truth["truncated"], 0.0, truth["next_values"])
    steps = truth["rewards"].shape[-1] - padding
    short: dict[str, Any] = {name: x[:, :steps] if isinstance(x, Tensor) else x for name, x in truth.items()}
    del short["mask"]
    expected = torch.nn.functional.pad(generalized_advantages(**short), (0, padding))
    return Case({**_given(truth, reading, roles), "truth": truth}, expected, delicate, or_fails=True)


def _truth(rows: Sequence[str], gamma: float, lam: float, padding: int) -> dict[str, Any]:
    """Everything by the names of the canonical arguments; the values of the states reached differ after an end."""
    n, steps = len(rows), len(rows[0])
    flags = {mark: torch.tensor([[c == mark for c in row + "." * padding] for row in rows]) for mark in "TU"}
    stream = _numbers(_VALUES, n, steps + 1, padding)
    reached = torch.where(flags["T"] | flags["U"], _numbers(_REACHED, n, steps, padding), stream[:, 1:])
    return {
        "rewards": _numbers(_REWARDS, n, steps, padding),
        "values": stream[:, :-1],
        "next_values": reached,
        "gamma": gamma,
        "lam": lam,
        "terminated": flags["T"],
        "truncated": flags["U"],
        "mask": (torch.arange(steps + padding) < steps).expand(n, -1),
    }


def _numbers(some: Sequence[float], rows: int, columns: int, padding: int) -> Tensor:
    """Distinct numbers `[rows, columns]`, and then padding."""
    k = torch.arange(columns)
    first = torch.tensor(some, dtype=_F64)[k % len(some)] + 0.25 * (k // len(some))
    table = torch.stack([first, 1.75 - first.roll(1)])[:rows]
    return torch.nn.functional.pad(table, (0, padding), value=_PADDING)


def _without_reached_states(truth: Mapping[str, Any], reading: _Reading, roles: frozenset[str]) -> Tensor:
    """The next values of a function that sees the values of the row only, and one after the last step."""
    last = truth["next_values"][:, -1:]
    unseen = "starts" in roles and not roles & (_FLAGS - {"starts"})
    known = (roles & _FLAGS or reading.per_step or not reading.taken) and not unseen
    if reading.tail == "none":
        last = torch.zeros_like(last)
    elif not known:
        last = torch.where(truth["terminated"][:, -1:], 0.0, last)
    return torch.cat([truth["values"][:, 1:], last], -1)


def _given(truth: Mapping[str, Any], reading: _Reading, roles: frozenset[str]) -> dict[str, Any]:
    """The value of each role in a reading."""
    ends = truth["terminated"] | truth["truncated"]
    next_values, last = truth["next_values"], truth["next_values"][:, -1]
    known = "ends" in roles or not (roles & _FLAGS or reading.per_step or not reading.taken)
    masked = torch.where(truth["terminated"], 0.0, next_values) if known else next_values
    found = {
        **truth,
        "values": torch.cat([truth["values"], last[:, None]], -1) if reading.tail == "T+1" else truth["values"],
        "next_values": last if reading.tail == "last" else masked,
        "next_value": last if reading.tail == "last" or "next_values" in roles else masked,
        "last_value": last,
        "discounts": truth["gamma"] * (~truth["terminated"]).double(),
        "n_steps": ends.shape[1],
        "n_envs": ends.shape[0],
        "device": torch.device("cpu"),
        **_given_flags(truth, reading, roles),
    }
    if reading.per_step and "discounts" not in roles:
        found["gamma"] = found["discounts"]
    if not reading.per_step:
        found["discounts"] = truth["gamma"]
    return found


def _given_flags(truth: Mapping[str, Any], reading: _Reading, roles: frozenset[str]) -> dict[str, Tensor]:
    ends = truth["terminated"] | truth["truncated"]
    dones = ends if reading.either else truth["terminated"]
    starts = torch.cat([torch.ones_like(ends[:, :1]), ends[:, :-1]], -1)
    if "next_done" in roles:
        dones = starts
    elif "starts" in roles:
        dones = ends[:, -1]
    flags = {
        "terminated": truth["terminated"],
        "truncated": truth["truncated"],
        "dones": dones,
        "ends": ends,
        "not_dones": ~ends,
        "done_mask": ~ends if reading.going else ends,
        "mask": truth["mask"] if reading.taken else ~ends,
    }
    if reading.long_flags:
        on = {"not_dones", "mask", "done_mask" if reading.going else ""}
        before = {name: torch.full_like(flag[..., :1], name in on) for name, flag in flags.items()}
        flags = {name: torch.cat([before[name], flag], -1) if flag.ndim > 1 else flag for name, flag in flags.items()}
        starts = torch.cat([starts, ends[:, -1:]], -1)
    flags |= {"starts": starts, "next_done": ends[:, -1], "taken": truth["mask"]}
    numbers = {"not_dones", "" if reading.taken else "mask", "done_mask" if reading.going else ""}
    return {name: flag.double() if (name in numbers) != reading.other_flags else flag for name, flag in flags.items()}


def _answer(implementation: Callable[..., Any], case: Case) -> Tensor:
    """What an implementation of a mistake answers: with the padding if it takes a mask, else without it."""
    truth = case.inputs["truth"]
    if "mask" in inspect.signature(implementation).parameters:
        return torch.where(truth["mask"], implementation(**truth), 0.0)
    steps = int(truth["mask"][0].sum())
    short = {name: x[:, :steps] if isinstance(x, Tensor) else x for name, x in truth.items() if name != "mask"}
    result: Tensor = implementation(**short)
    return torch.nn.functional.pad(result.double(), (0, case.expected.shape[-1] - steps))


class _Steps(NamedTuple):
    """The arguments of an implementation, and what follows from them."""

    rewards: Tensor
    values: Tensor
    next_values: Tensor
    gamma: float
    lam: float
    terminated: Tensor
    truncated: Tensor

    @property
    def ends(self) -> Tensor:
        """Where the sum is to be cut."""
        return self.terminated | self.truncated

    @property
    def row_values(self) -> Tensor:
        """The value of the next step of the row: after an end, that of the state after the reset."""
        return torch.cat([self.values[..., 1:], self.next_values[..., -1:]], -1)

    @property
    def is_last(self) -> Tensor:
        """True at the last step of the row."""
        return torch.arange(self.rewards.shape[-1]) == self.rewards.shape[-1] - 1


def _bootstrapped(s: _Steps) -> Tensor:
    """V(S_{t+1}), and 0 after a termination."""
    return torch.where(s.terminated, 0.0, s.next_values)


def _delta(s: _Steps) -> Tensor:
    return s.rewards + s.gamma * _bootstrapped(s) - s.values


def _sum(errors: Tensor, weight: float, cut: Tensor) -> Tensor:
    """Σ_k weight^(k-t) errors_k, over the steps k from t on until a cut."""
    k = torch.arange(errors.shape[-1])
    part = cut.long().cumsum(-1) - cut.long()
    counted = (k >= k[:, None]) & (part[..., :, None] == part[..., None, :])
    weights = torch.where(counted, float(weight) ** (k - k[:, None]).clamp(min=0).double(), 0.0)
    return (weights.to(errors.dtype) @ errors[..., None])[..., 0]


def _of_steps(advantages: Callable[[_Steps], Tensor]) -> Callable[..., Tensor]:
    """A function of the steps as one in the signature of the check."""

    def implementation(
        rewards: Tensor,
        values: Tensor,
        next_values: Tensor,
        gamma: float,
        lam: float,
        terminated: Tensor,
        truncated: Tensor,
    ) -> Tensor:
        return advantages(_Steps(rewards, values, next_values, gamma, lam, terminated.bool(), truncated.bool()))

    return implementation


def _variant(
    delta: Callable[[_Steps], Tensor] = _delta,
    cut: Callable[[_Steps], Tensor] = lambda s: s.ends,
    weight: Callable[[_Steps], float] = lambda s: s.gamma * s.lam,
    then: Callable[[_Steps, Tensor], Tensor] = lambda s, a: a,
) -> Callable[..., Tensor]:
    """Generalized advantages in which one part is another."""
    return _of_steps(lambda s: then(s, _sum(delta(s), weight(s), cut(s))))


def _with_next(value: Callable[[_Steps], Tensor]) -> Callable[[_Steps], Tensor]:
    """The TD error with another value of the next state."""
    return lambda s: s.rewards + s.gamma * value(s) - s.values


def _or(condition: Callable[[_Steps], Tensor], there: Callable[[_Steps], Tensor]) -> Callable[[_Steps], Tensor]:
    """The value that is bootstrapped, but another one where a condition holds."""
    return lambda s: torch.where(condition(s), there(s), _bootstrapped(s))


def _own_value(s: _Steps) -> Tensor:
    """V(S_t), and 0 after a termination."""
    return torch.where(s.terminated, 0.0, s.values)


def _zero(s: _Steps) -> Tensor:
    return torch.zeros_like(s.values)


def _none(s: _Steps) -> Tensor:
    return torch.zeros_like(s.terminated)


def _shifted(flags: Tensor, by: int, edge: str) -> Tensor:
    """The flags of the next step (by = -1) or of the previous one (by = 1); at the edge False, True or the own one."""
    moved = flags.roll(by, -1)
    at = 0 if by > 0 else -1
    moved[..., at] = flags[..., at] if edge == "own" else edge == "True"
    return moved


def _flags_of_another_step(by: int) -> tuple[Callable[..., Tensor], ...]:
    found = []
    for edge in ("False", "True", "own"):

        def moved(s: _Steps, edge: str = edge) -> _Steps:
            return s._replace(terminated=_shifted(s.terminated, by, edge), truncated=_shifted(s.truncated, by, "own"))

        for value in (_bootstrapped, lambda s: torch.where(s.terminated, 0.0, s.row_values)):
            in_delta = _with_next(lambda s, moved=moved, value=value: value(moved(s)))  # type: ignore[misc]
            found += [_variant(in_delta, lambda s, moved=moved: moved(s).ends), _variant(in_delta)]  # type: ignore[misc]
        found.append(_variant(cut=lambda s, moved=moved: moved(s).ends))  # type: ignore[misc]
    return tuple(found)


def _standardised(
    ddof: int, dims: tuple[int, ...], eps: float, *, by_spread: bool = True, alone: bool = True
) -> Callable[..., Tensor]:
    """The advantages standardised, or centred, over some axes; unless `alone`, not if the row is a single step."""

    def change(s: _Steps, advantages: Tensor) -> Tensor:
        over = tuple(d for d in dims if -d <= advantages.ndim)
        if -1 not in over and (advantages.ndim < 2 or len(advantages) < 2):
            raise ValueError("a single row has no mean over the rows")
        if advantages.shape[-1] == 1 and not alone:
            return advantages
        centred = advantages - advantages.mean(dim=over, keepdim=True)
        return centred / (advantages.std(dim=over, correction=ddof, keepdim=True) + eps) if by_spread else centred

    return _variant(then=change)


def _forwards(cut: Callable[[_Steps], Tensor]) -> Callable[..., Tensor]:
    """A_t = δ_t + γλ A_{t-1}, which starts anew after a step in `cut`."""

    def forwards(s: _Steps) -> Tensor:
        before = torch.nn.functional.pad(cut(s)[..., :-1], (1, 0))
        return _sum(_delta(s).flip(-1), s.gamma * s.lam, before.flip(-1)).flip(-1)

    return _of_steps(forwards)


def _rows_run_together(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    gamma: float,
    lam: float,
    terminated: Tensor,
    truncated: Tensor,
) -> Tensor:
    rows, steps = rewards.shape
    arguments = (x.reshape(rows * steps) for x in (rewards, values, next_values))
    flags = (x.reshape(rows * steps) for x in (terminated, truncated))
    return _variant()(*arguments, gamma, lam, *flags).reshape(rows, steps)


def _never_set_to_zero(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    gamma: float,
    lam: float,
    terminated: Tensor,
    truncated: Tensor,
) -> Tensor:
    return _rows_run_together(
        rewards.flip(0), values.flip(0), next_values.flip(0), gamma, lam, terminated.flip(0), truncated.flip(0)
    ).flip(0)


def _with_padding(delta: Callable[[_Steps], Tensor], *, of_rewards: bool) -> Callable[..., Tensor]:
    """The padding counted: all of it, or only its first value, as that of the state after the last step."""

    def implementation(
        rewards: Tensor,
        values: Tensor,
        next_values: Tensor,
        gamma: float,
        lam: float,
        terminated: Tensor,
        truncated: Tensor,
        mask: Tensor,
    ) -> Tensor:
        mask = mask.bool()
        padded_on = torch.cat([mask[..., :-1] & ~mask[..., 1:], torch.zeros_like(mask[..., :1])], -1)
        unseen = terminated.bool() & ~padded_on
        s = _Steps(rewards, values, next_values, gamma, lam, unseen, truncated.bool())
        cut = s.ends if of_rewards else s.ends | padded_on
        return torch.where(mask, _sum(delta(s), gamma * lam, cut), 0.0)

    return implementation


_MOVES = (lambda s: s.next_values, lambda s: s.row_values)
MISTAKES = (
    Mistake(
        "advantages.padding_counted",
        "the mask is ignored",
        "What stands behind the last step that was taken is counted as rewards and values. It is right only if zeros "
        "stand there.",
        "The result changes with the padding.",
        (pull("radixark/miles", 1827), pull("natolambert/rlhf-book", 216), issue("huggingface/trl", 7024)),
        (_with_padding(_delta, of_rewards=True),),
    ),
    Mistake(
        "advantages.padding_bootstrapped",
        "bootstraps from the padding",
        "The sum ends at the last step that was taken, but its δ contains the value that stands behind it.",
        "Only the sequences that are shorter than the longest are wrong.",
        (pull("radixark/miles", 1827), issue("huggingface/trl", 7024)),
        (_with_padding(_delta, of_rewards=False),),
    ),
    Mistake(
        "advantages.done_of_next_step",
        "off by one: the done flag of the next step is used",
        "The flag of step t + 1 is read where that of step t belongs, so that the cut and the missing bootstrap come "
        "one step early.",
        "It is wrong at the ends of episodes and at the steps just before them.",
        (issue("DLR-RM/stable-baselines3", 105), issue("hill-a/stable-baselines", 385)),
        _flags_of_another_step(-1),
    ),
    Mistake(
        "advantages.done_of_previous_step",
        "off by one: the done flag of the previous step is used",
        "The flag of step t - 1 is read where that of step t belongs, so that the last step of an episode bootstraps "
        "from the reset state and the first step of the next one is cut off.",
        "It is wrong at the last step of an episode and at the first step after it.",
        (issue("anthonytorlucci/rlevo", 342), pull("RoboVerseOrg/RoboVerse", 814)),
        _flags_of_another_step(1),
    ),
    Mistake(
        "advantages.bootstraps_after_termination",
        "bootstraps after a termination",
        "δ contains γ V(S_{t+1}) although the episode terminated there, where the value is 0 by definition; the sum "
        "is cut at the right place.",
        "The advantage of a terminal step changes with the value of the terminal state.",
        (
            issue("MorvanZhou/Reinforcement-learning-with-tensorflow", 153),
            issue("openai/spinningup", 257),
            issue("thu-ml/tianshou", 869),
        ),
        (
            _variant(_with_next(_MOVES[0])),
            _variant(_with_next(_MOVES[1])),
            _variant(_with_next(_or(lambda s: s.terminated, _MOVES[1]))),
        ),
    ),
    Mistake(
        "advantages.flags_ignored",
        "the ends of episodes are ignored altogether",
        "δ bootstraps after a termination and the sum goes on into the next episode, as if the row were one episode.",
        "The result does not change with the flags.",
        (issue("vietnh1009/Super-mario-bros-PPO-pytorch", 21), issue("thu-ml/tianshou", 869)),
        tuple(_variant(_with_next(move), _none) for move in _MOVES),
    ),
    Mistake(
        "advantages.sum_not_cut_at_termination",
        "the sum over δ goes on through a termination",
        "δ is right, but the factor (1 - done) is missing from the recursion: advantages hold errors of the next "
        "episode.",
        "A row with one episode only is right.",
        (issue("vietnh1009/Super-mario-bros-PPO-pytorch", 21), pull("pytorch/rl", 2773)),
        (
            _variant(cut=_none),
            _variant(cut=lambda s: s.truncated),
            _variant(_with_next(_or(lambda s: s.truncated, _MOVES[1])), _none),
            _variant(_with_next(_or(lambda s: s.truncated, _zero)), _none),
        ),
    ),
    Mistake(
        "advantages.truncation_as_termination",
        "a truncation is treated as a termination",
        "Nothing is bootstrapped at a time limit, although the state that was reached has a value: the truncated step "
        "looks too bad.",
        "The advantage of a truncated step does not change with V(S_{t+1}).",
        (issue("vwxyzjn/cleanrl", 198), issue("luchris429/purejaxrl", 20), _TIME_LIMITS),
        (_variant(_with_next(_or(lambda s: s.ends, _zero))),),
    ),
    Mistake(
        "advantages.sum_not_cut_at_truncation",
        "the sum over δ goes on through a truncation",
        "The truncated step bootstraps rightly, but the recursion is cut at terminations only: advantages hold errors "
        "of the next episode.",
        "It is wrong before truncations only, and by what happens after the reset.",
        (issue("Toni-SM/skrl", 224), issue("Toni-SM/skrl", 449)),
        (_variant(cut=lambda s: s.terminated),),
    ),
    Mistake(
        "advantages.truncation_ignored",
        "truncations are ignored altogether",
        "A truncated step bootstraps from the value of the next step in the row, which belongs to another episode, and "
        "the sum goes on into it.",
        "The result does not change with the flags of truncation.",
        (issue("Toni-SM/skrl", 224), pull("google-deepmind/mujoco_playground", 320), _TIME_LIMITS),
        (
            _variant(_with_next(_or(lambda s: s.truncated, _MOVES[1])), lambda s: s.terminated),
            _variant(_with_next(_or(lambda s: s.truncated & ~s.is_last, _zero)), lambda s: s.terminated),
        ),
    ),
    Mistake(
        "advantages.reset_state_bootstrapped",
        "bootstraps from the reset state at a truncation",
        "V(S_{t+1}) is read from the next step of the row, which is the first state of another episode; the state "
        "that was truly reached is lost.",
        "The advantage of a truncated step changes with the value of the state after the reset.",
        (pull("google-deepmind/mujoco_playground", 320), issue("sail-sg/envpool", 194)),
        (_variant(_with_next(_or(lambda s: s.truncated, _MOVES[1]))),),
    ),
    Mistake(
        "advantages.flags_swapped",
        "terminations and ends of episodes are swapped",
        "δ is masked where the episode ended in any way, and the sum is cut at terminations only: the two flags stand "
        "in each other's place.",
        "It is wrong at truncations and before them.",
        (pull("pytorch/rl", 2773), issue("vwxyzjn/cleanrl", 457)),
        (_variant(_with_next(_or(lambda s: s.ends, _zero)), lambda s: s.terminated),),
    ),
    Mistake(
        "advantages.own_value_at_truncation",
        "bootstraps from V(S_t) instead of V(S_{t+1}) at a truncation",
        "The value of the state before the step stands in for that of the state that was reached at the time limit.",
        "The advantage of a truncated step does not change with V(S_{t+1}).",
        (issue("Denys88/rl_games", 128), issue("leggedrobotics/rsl_rl", 151)),
        (_variant(_with_next(_or(lambda s: s.truncated, lambda s: s.values))),),
    ),
    Mistake(
        "advantages.ended_step_zeroed",
        "the advantage of the last step of an episode is set to zero",
        "The mask multiplies the whole δ of the step that ends the episode, so that its reward and its value count for "
        "nothing.",
        "Every step with a flag has advantage 0.",
        (issue("ikostrikov/pytorch-a2c-ppo-acktr-gail", 182),),
        tuple(
            _variant(delta=lambda s, at=at: torch.where(at(s), 0.0, _delta(s)))  # type: ignore[misc]
            for at in (lambda s: s.terminated, lambda s: s.truncated, lambda s: s.ends)
        ),
    ),
    Mistake(
        "advantages.terminal_reward_dropped",
        "the reward of the step that terminates is dropped",
        "The factor (1 - done) multiplies the reward as well as the value of the next state.",
        "At a termination the advantage is -V(S_t), whatever the reward.",
        (issue("weipu-zhang/STORM", 16), _GAE),
        (
            _variant(lambda s: torch.where(s.terminated, -s.values, _delta(s))),
            _variant(lambda s: torch.where(s.ends, -s.values, _delta(s))),
        ),
    ),
    Mistake(
        "advantages.masked_twice",
        "the mask is applied twice, and cuts one step too early as well",
        "The advantage that is carried back is multiplied by the flag of its own step after the recursion has been "
        "masked: the step before an end loses it too.",
        "The step before the last of an episode has advantage δ alone.",
        (issue("alessiodm/drl-zh", 13),),
        (
            _variant(cut=lambda s: s.ends | _shifted(s.ends, -1, "False")),
            _variant(cut=lambda s: s.ends | _shifted(s.terminated, -1, "False")),
        ),
    ),
    Mistake(
        "advantages.lambda_ignored",
        "λ is missing: the bootstrapped return minus V(S_t), as if λ = 1",
        "δ is weighted by γ^l where (γλ)^l belongs: the variance that λ should reduce stays.",
        "The result does not change with λ.",
        (issue("AI4Finance-Foundation/ElegantRL", 183), _GAE),
        (_variant(weight=lambda s: s.gamma),),
    ),
    Mistake(
        "advantages.monte_carlo",
        "Monte Carlo returns minus V(S_t)",
        "The advantage is the sum of the rewards of the row minus V(S_t): λ is ignored, and nothing is bootstrapped "
        "where the episode goes on or was truncated.",
        "The result changes with no value but V(S_t).",
        (issue("hpcaitech/ColossalAI", 4491), _GAE),
        (_variant(lambda s: s.rewards, weight=lambda s: s.gamma, then=lambda s, a: a - s.values),),
    ),
    Mistake(
        "advantages.sum_without_gamma",
        "γ is missing from γλ: the sum is weighted by λ alone",
        "δ_{t+l} is weighted by λ^l where (γλ)^l belongs: later errors count too much.",
        "With λ = 1 the errors are not discounted.",
        (issue("boyu-ai/Hands-on-RL", 22), _GAE),
        (_variant(weight=lambda s: s.lam),),
    ),
    Mistake(
        "advantages.sum_not_weighted",
        "γλ is missing: the plain sum over δ",
        "All later errors count alike, whatever γ and λ are.",
        "The difference of the advantages of two steps in a row is δ.",
        (issue("boyu-ai/Hands-on-RL", 22), _GAE),
        (_variant(weight=lambda s: 1.0),),
    ),
    Mistake(
        "advantages.weight_on_delta",
        "γλ multiplies δ instead of the sum that is carried back",
        "The recursion is A_t = γλ δ_t + A_{t+1} where A_t = δ_t + γλ A_{t+1} is right.",
        "The last advantage is γλ δ.",
        (issue("boyu-ai/Hands-on-RL", 22),),
        (_variant(weight=lambda s: 1.0, then=lambda s, a: s.gamma * s.lam * a),),
    ),
    Mistake(
        "advantages.delta_without_gamma",
        "γ is missing from δ",
        "δ is R + V(S_{t+1}) - V(S_t): the value of the next state is not discounted.",
        "The advantage is too large by (1 - γ) V(S_{t+1}) and what follows from it.",
        (_GAE,),
        (_variant(lambda s: s.rewards + _bootstrapped(s) - s.values),),
    ),
    Mistake(
        "advantages.gamma_ignored",
        "γ is ignored altogether",
        "γ is missing from δ and from the weight of the sum, as if it were 1.",
        "The result does not change with γ.",
        (issue("dennybritz/reinforcement-learning", 55), _GAE),
        (_variant(lambda s: s.rewards + _bootstrapped(s) - s.values, weight=lambda s: s.lam),),
    ),
    Mistake(
        "advantages.gamma_twice",
        "γ is applied twice",
        "γ² stands where γ belongs, in δ or in the weight of the sum.",
        "With γ = 1 it is right.",
        (_GAE,),
        (
            _variant(lambda s: s.rewards + s.gamma**2 * _bootstrapped(s) - s.values),
            _variant(weight=lambda s: s.gamma**2 * s.lam),
            _variant(
                lambda s: s.rewards + s.gamma**2 * _bootstrapped(s) - s.values, weight=lambda s: s.gamma**2 * s.lam
            ),
        ),
    ),
    Mistake(
        "advantages.lambda_in_delta",
        "λ is in δ",
        "δ is R + γλ V(S_{t+1}) - V(S_t): λ belongs in the weight of the sum only.",
        "The last advantage changes with λ.",
        (_GAE,),
        (
            _variant(lambda s: s.rewards + s.gamma * s.lam * _bootstrapped(s) - s.values),
            _variant(lambda s: s.rewards + s.lam * _bootstrapped(s) - s.values),
        ),
    ),
    Mistake(
        "advantages.reward_discounted",
        "the immediate reward is discounted as well",
        "δ is γ (R + V(S_{t+1})) - V(S_t): the reward of the step itself has weight γ.",
        "At a termination the advantage is γ R - V(S_t).",
        (pull("juliusfrost/dreamer-pytorch", 59), _GAE),
        (_variant(lambda s: s.gamma * (s.rewards + _bootstrapped(s)) - s.values),),
    ),
    Mistake(
        "advantages.own_value_for_next",
        "V(S_t) is used for V(S_{t+1}) in δ",
        "Both values in δ are those of the state before the step.",
        "The result does not change with the value of the state reached.",
        (issue("4kasha/CartPole_PPO", 1), _GAE),
        (
            _variant(_with_next(_own_value)),
            _variant(_with_next(lambda s: s.values)),
        ),
    ),
    Mistake(
        "advantages.values_swapped",
        "V(S_t) and V(S_{t+1}) are swapped in δ",
        "δ is R + γ V(S_t) - V(S_{t+1}): the change of the value has the wrong sign.",
        "A step into a better state gets a smaller advantage.",
        (_GAE,),
        (
            _variant(lambda s: s.rewards + s.gamma * s.values - _bootstrapped(s)),
            *(
                _variant(lambda s, after=after: s.rewards + s.gamma * _own_value(s) - after(s))  # type: ignore[misc]
                for after in _MOVES
            ),
        ),
    ),
    Mistake(
        "advantages.next_value_missing",
        "V(S_{t+1}) is missing: rewards minus values are summed",
        "δ is R - V(S_t): the value of the next state is not added.",
        "The result does not change with the value after the last step.",
        (pull("dennybritz/reinforcement-learning", 39), issue("hpcaitech/ColossalAI", 4491)),
        (_variant(lambda s: s.rewards - s.values),),
    ),
    Mistake(
        "advantages.reward_minus_value",
        "the reward minus V(S_t), without what follows",
        "Neither the value of the next state nor any later step counts.",
        "Every advantage is that of the last step of an episode.",
        (issue("hpcaitech/ColossalAI", 4491), pull("natolambert/rlhf-book", 216)),
        (_variant(lambda s: s.rewards - s.values, weight=lambda s: 0.0),),
    ),
    Mistake(
        "advantages.sign",
        "the sign is flipped",
        "The result is minus the advantage: good actions become less probable.",
        "Every number has the wrong sign.",
        (_GAE,),
        (_variant(then=lambda s, a: -a),),
    ),
    Mistake(
        "advantages.lambda_returns",
        "λ-returns instead of advantages: V(S_t) is added back",
        "The result is A + V(S_t), the target of the value function; as a weight of the score it has a larger "
        "variance, and it is not an advantage.",
        "At a termination the result is the reward.",
        (issue("higgsfield-ai/higgsfield", 6), issue("ikostrikov/pytorch-a2c-ppo-acktr-gail", 110)),
        (_variant(then=lambda s, a: a + s.values),),
    ),
    Mistake(
        "advantages.values_subtracted_twice",
        "V(S_t) is subtracted twice",
        "The values are subtracted from what are advantages already, as if these were returns.",
        "At a termination the result is R - 2 V(S_t).",
        (issue("higgsfield-ai/higgsfield", 6), _GAE),
        (_variant(then=lambda s, a: a - s.values),),
    ),
    Mistake(
        "advantages.value_not_subtracted",
        "V(S_t) is not subtracted in δ",
        "δ is R + γ V(S_{t+1}): what is summed are targets, each of which counts the future again.",
        "The result does not change with V(S_t) of the first step.",
        (issue("higgsfield-ai/higgsfield", 6), _GAE),
        (_variant(lambda s: s.rewards + s.gamma * _bootstrapped(s)),),
    ),
    Mistake(
        "advantages.delta_alone",
        "δ alone, as if λ = 0",
        "Nothing is summed: later errors do not count, whatever λ is. It also comes about if the recursion reads A_t, "
        "which is still 0, in place of A_{t+1}.",
        "The result does not change with λ.",
        (issue("4kasha/CartPole_PPO", 1), _GAE),
        (_variant(weight=lambda s: 0.0),),
    ),
    Mistake(
        "advantages.last_step_not_bootstrapped",
        "the last step of the row is not bootstrapped",
        "A row that stops before its episode ends is treated as if the episode had terminated there: the value after "
        "the last step is 0.",
        "The result does not change with the value after the last step.",
        (pull("rohitg00/ai-engineering-from-scratch", 54), issue("vwxyzjn/cleanrl", 16)),
        (
            _variant(_with_next(_or(lambda s: s.is_last & ~s.truncated, _zero))),
            _variant(_with_next(_or(lambda s: s.is_last.expand(s.ends.shape), _zero))),
        ),
    ),
    Mistake(
        "advantages.last_step_dropped",
        "the last step of the row is dropped",
        "The loop starts one step early, as with range(T - 1): the last advantage stays 0, and its error reaches no "
        "other step.",
        "The last advantage is 0.",
        (issue("Farama-Foundation/Gymnasium", 1494), issue("vwxyzjn/cleanrl", 16)),
        (
            _variant(lambda s: torch.where(s.is_last, 0.0, _delta(s))),
            _variant(then=lambda s, a: torch.where(s.is_last, 0.0, a)),
        ),
    ),
    Mistake(
        "advantages.accumulated_forwards",
        "accumulated forwards in time",
        "The recursion runs from the first step to the last: A_t holds the errors before t instead of those after it.",
        "The first advantage is its δ alone.",
        (issue("mohmdelsayed/streaming-drl", 3), _GAE),
        tuple(_forwards(cut) for cut in (lambda s: s.ends, _none, lambda s: _shifted(s.ends, -1, "False"))),
    ),
    Mistake(
        "advantages.reversed_order",
        "the advantages in reversed order",
        "The recursion runs backwards and appends, and the list is never turned round: step t gets the advantage of "
        "step T-1-t.",
        "The first advantage is that of the last step.",
        (issue("PacktPublishing/Tensorflow-2-Reinforcement-Learning-Cookbook", 27),),
        (_variant(then=lambda s, a: a.flip(-1)),),
    ),
    Mistake(
        "advantages.standardised",
        "the advantages are standardised",
        "The mean is subtracted and the result divided by the standard deviation. PPO code often does this on purpose "
        "afterwards; the results are no estimates of the advantage, and their signs may differ from it.",
        "The result has mean 0, and is NaN or 0 for one step.",
        (issue("openai/baselines", 544), issue("DLR-RM/stable-baselines3", 485), issue("tensorflow/agents", 651)),
        tuple(
            _standardised(ddof, dims, eps, alone=alone)
            for alone in (True, False)
            for dims in ((-1,), (-2, -1), (-2,))
            for ddof, eps in ((0, 1e-8), (0, 0.0), (1, 1e-8))
        ),
    ),
    Mistake(
        "advantages.centred",
        "the mean of the advantages is subtracted",
        "The advantages of the batch are centred: their signs may differ from those of the advantages.",
        "The result has mean 0.",
        (issue("openai/baselines", 544),),
        tuple(_standardised(0, dims, 0.0, by_spread=False) for dims in ((-1,), (-2, -1))),
    ),
    Mistake(
        "advantages.rows_run_together",
        "the rows of a batch run together",
        "The batch is treated as one long row, or the running sum is not set to zero before the next row: advantages "
        "hold errors of other rows.",
        "A single row is right, a batch of two is not.",
        (pull("juliusfrost/dreamer-pytorch", 59), issue("apeterswu/RL4NMT", 3)),
        (_rows_run_together, _never_set_to_zero),
    ),
)
