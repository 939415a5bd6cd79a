"""Are these V-trace targets? And if not, which known mistake is it?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.bootstraps import ARGS, ENDS, backwards, batches, later, readings, rows, settle
from pgtheory.checking.calling import Arg, Call, Reading, taking
from pgtheory.checking.episodes import F64
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.report import Mistake, Report, arxiv, issue, pull
from pgtheory.checking.verdicts import same


def check_v_trace(
    function: Callable[..., Any] | None = None,
    *,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check a function that computes V-trace targets, or the advantages that belong to them.

    That is :math:`v_t = V_t + \rho_t \delta_t + \gamma c_t (v_{t+1} - V_{t+1})` with
    :math:`\delta_t = R_{t+1} + \gamma V_{t+1} - V_t` and the importance ratio cut at :math:`\bar\rho` and
    :math:`\bar c`, which are 1 where the function does not take them, and the advantages
    :math:`\rho_t (R_{t+1} + \gamma v_{t+1} - V_t)`.

    .. no equation: off-policy corrections of values are outside the book

    The function may take `log_rhos`, `rhos`, or log-probabilities of both policies, and values as the other returns do:
    `next_values`, or `values` with a `bootstrap_value`, or one value more than rewards. It may return the targets,
    these minus the values, the advantages, or two of these; then both are judged. A truncation inside a row, where the
    step bootstraps and what follows is another episode, is tried where the function is told of it, by `truncated`, or
    by `dones` beside `terminated`, and of the value of each next state; as torchrl's is.

    Args:
        function: the implementation.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.rewards.mT, x.log_rhos.mT, ...).mT`;
            they are `x.rewards`, `x.values`, `x.next_values`, `x.terminated`, `x.truncated`, `x.log_probs`,
            `x.old_log_probs`, `[B, T]`, `x.gamma`, `x.lam`, `x.rho_bar`, `x.c_bar`.
        layout: the order of axes, such as `"[T, B]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"is_ratio": "rhos"}`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called, or does not return one number for each step.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Espeholt et al., "IMPALA", 2018, eq. (1) and section 4.2.

    Example:
        >>> import torch
        >>> def targets(rewards, values, next_values, log_rhos, gamma):
        ...     rho, carry, out = (-log_rhos).exp().clamp(max=1.0), 0.0, []
        ...     delta = rho * (rewards + gamma * next_values - values)
        ...     for t in reversed(range(len(rewards))):
        ...         carry = delta[t] + gamma * rho[t] * carry
        ...         out.insert(0, carry + values[t])
        ...     return torch.stack(out)
        >>> print(check_v_trace(targets).headline)
        check_v_trace: WRONG, a known mistake: the ratio is upside down
    """
    return CHECK.judge(function, call=call, layout=layout, names=names)


# --- the right forms, and the ways in which they are missed ---

Ratio = Callable[[Tensor, float], Tensor]
Trace = Callable[..., Tensor]


def _cut(rho: Tensor, bar: float) -> Tensor:
    return rho.clamp(max=bar)


def _as_it_is(rho: Tensor, bar: float) -> Tensor:
    return rho


_INPUTS = "rewards values next_values terminated truncated log_probs old_log_probs gamma lam rho_bar c_bar"


def _targets(
    *,
    of: Callable[[Tensor], Tensor] = torch.exp,
    rho: Ratio = _cut,
    c: Ratio = _cut,
    twice: bool = False,
    seeded: bool = False,
    own_last: bool = False,
    going: bool = True,
    ends: bool = False,
    runs_on: bool = False,
    gamma_in_carry: bool = True,
    difference: bool = True,
) -> Trace:
    """The targets v_t by their factors; `of` makes ratios of log-ratios; for `ends` and `runs_on` see `_discount`."""

    def step(x: Mapping[str, Tensor], after: Tensor) -> Tensor:
        return x["delta"] + x["carried"] * after

    def targets(**x: Any) -> Tensor:
        values, next_values = x["values"], x["next_values"]
        ratio = of(x["log_probs"] - x["old_log_probs"])
        discount = _discount(x, going, ends)
        behind = torch.cat([next_values[..., :-1], values[..., -1:]], -1) if own_last else next_values
        delta = rho(ratio, x["rho_bar"]) * (x["rewards"] + discount * behind - values)
        carried = (discount if gamma_in_carry else discount / x["gamma"]) * x["lam"] * c(ratio, x["c_bar"])
        carried = carried * (rho(ratio, x["rho_bar"]) if twice else 1.0)
        carried = torch.where(x["truncated"] & (going and not runs_on), 0.0, carried)
        edge = behind[..., -1]
        if difference:
            seed = edge if seeded else torch.zeros_like(edge)
            found: Tensor = values + backwards(step, seed, delta=delta, carried=carried)
            return found
        return backwards(step, edge, delta=values + delta, carried=carried)

    return taking(_INPUTS, targets)


def _discount(x: Mapping[str, Any], going: bool, ends: bool) -> Tensor:
    """γ where a step bootstraps: unless it terminates, or always (not `going`), or not at truncations either (`ends`).

    That the sum ends at a truncation is another matter: unless it `runs_on`, it does.
    """
    found: Tensor = x["gamma"] * (~(x["terminated"] | (x["truncated"] & ends)) | (not going)).double()
    return found


def _advantages(
    targets: Trace,
    *,
    of: Callable[[Tensor], Tensor] = torch.exp,
    rho: Ratio = _cut,
    going: bool = True,
    ends: bool = False,
    runs_on: bool = False,
    by_values: bool = False,
    mixed: bool = False,
) -> Trace:
    """The advantages that belong to targets; `mixed`: bootstrapped by λ v + (1 - λ) V."""

    def advantages(**x: Any) -> Tensor:
        after = later(targets(**x), x["next_values"][..., -1])
        after = torch.where(x["truncated"] & (going and not runs_on), x["next_values"], after)
        after = x["next_values"] if by_values else after
        after = x["lam"] * after + (1 - x["lam"]) * x["next_values"] if mixed else after
        ratio = rho(of(x["log_probs"] - x["old_log_probs"]), x["rho_bar"])
        found: Tensor = ratio * (x["rewards"] + _discount(x, going, ends) * after - x["values"])
        return found

    return taking(_INPUTS, advantages)


def _minus_values(targets: Trace) -> Trace:
    return taking(_INPUTS, lambda **x: targets(**x) - x["values"])


_RIGHT = _targets()
RIGHT: Mapping[str, Trace] = {
    "": _RIGHT,
    "the targets minus the values": _minus_values(_RIGHT),
    "the advantages": _advantages(_RIGHT),
    "the advantages, bootstrapped by a mixture of targets and values": _advantages(_RIGHT, mixed=True),
}


def _all(**factors: Any) -> tuple[Trace, ...]:
    """The targets with other factors, the same minus the values, and the advantages of them."""
    targets = _targets(**factors)
    own = {name: factors[name] for name in ("of", "rho", "going", "ends", "runs_on") if name in factors}
    return targets, _minus_values(targets), _advantages(targets, **own)


_IMPALA = arxiv("Espeholt et al., 2018, eq. (1)", "1802.01561")
_LIMITS = arxiv("Pardo et al., 2018", "1712.00378")

MISTAKES = (
    Mistake(
        "v_trace.ratio_inverted",
        "the ratio is upside down",
        "It is that of the policy that sampled to the one that is evaluated.",
        "Actions that the new policy prefers count less.",
        (pull("ray-project/ray", 4338),),
        _all(of=lambda log_ratio: (-log_ratio).exp()),
    ),
    Mistake(
        "v_trace.log_ratio",
        "the logarithm of the ratio stands for the ratio",
        "An exponential is missing: on policy the weight is 0.",
        "On policy all targets are the values.",
        (),
        _all(of=lambda log_ratio: log_ratio),
        right_form=(_IMPALA,),
    ),
    Mistake(
        "v_trace.ratio_ignored",
        "the ratio is not used",
        "Returns are computed as if the new policy had sampled them.",
        "The result does not change with the log-probabilities.",
        (pull("meta-pytorch/torchforge", 571),),
        _all(of=torch.ones_like),
    ),
    Mistake(
        "v_trace.rho_not_cut",
        "ρ is not cut",
        "The ratio multiplies δ as it is: one rare action has any weight.",
        "It is right where no ratio is above the bound.",
        (),
        (*_all(rho=_as_it_is), *_all(rho=_as_it_is, c=_as_it_is)[:2]),
        right_form=(_IMPALA,),
    ),
    Mistake(
        "v_trace.c_not_cut",
        "c is not cut",
        "The product of ratios along the row is unbounded.",
        "It is right where no ratio is above the bound, and with one step.",
        (),
        _all(c=_as_it_is),
        right_form=(_IMPALA,),
    ),
    Mistake(
        "v_trace.ratio_twice",
        "the ratio is applied twice",
        "What is carried from the steps that follow is multiplied by ρ and by c.",
        "It is right on policy, and with one step.",
        (pull("SlopDotCash/asi", 487),),
        _all(twice=True),
    ),
    Mistake(
        "v_trace.bootstrap_twice",
        "the value behind the row counts twice",
        "The carry begins with the bootstrap value, which is in the last δ already, and not with 0.",
        "It is right where that value is 0.",
        (pull("simonsays1980/rl-triton", 4),),
        _all(seeded=True),
    ),
    Mistake(
        "v_trace.own_value_at_the_end",
        "the last step bootstraps from its own value",
        "The value of the last state stands where that of the state behind it belongs.",
        "The result does not change with the value behind the row.",
        (pull("micdoh/XLRON", 50), pull("ray-project/ray", 36013)),
        _all(own_last=True),
    ),
    Mistake(
        "v_trace.flags_ignored",
        "terminations are ignored",
        "A step that terminates bootstraps, and what follows belongs to another episode.",
        "The result does not change with the flags.",
        (),
        _all(going=False),
        right_form=(issue("pytorch/rl", 4209),),
    ),
    Mistake(
        "v_trace.advantage_of_next_episode",
        "at a truncation the advantage bootstraps from the next episode",
        "The target of the next step of the row stands where the value of the state behind the truncation belongs: it "
        "is that of another episode.",
        "The targets are right, and so are the advantages but for those of truncated steps.",
        (issue("pytorch/rl", 4209), pull("pytorch/rl", 4210)),
        (_advantages(_RIGHT, runs_on=True),),
    ),
    Mistake(
        "v_trace.truncation_runs_on",
        "the sum runs on through a truncation",
        "What follows a truncated step belongs to another episode, and is added to its correction.",
        "Without a truncation inside a row it is right.",
        (),
        _all(runs_on=True),
        right_form=(issue("pytorch/rl", 4209),),
    ),
    Mistake(
        "v_trace.truncation_as_termination",
        "a truncation is taken for a termination",
        "A truncated step does not bootstrap: the time limit looks like a state without a future.",
        "Without truncations it is right.",
        (),
        _all(ends=True),
        right_form=(_LIMITS, issue("pytorch/rl", 4209)),
    ),
    Mistake(
        "v_trace.gamma_missing",
        "γ is missing from what is carried",
        "The correction of the next step is not discounted.",
        "With one step, or γ = 1, it is right.",
        (pull("chainer/chainerrl", 126),),
        _all(gamma_in_carry=False),
    ),
    Mistake(
        "v_trace.value_not_subtracted",
        "targets are carried, not what they add to the values",
        "v_{t+1} stands where v_{t+1} - V_{t+1} belongs: the next value counts twice.",
        "On policy it is not the n-step return.",
        (),
        _all(difference=False),
        right_form=(_IMPALA,),
    ),
    Mistake(
        "v_trace.advantages_by_values",
        "the advantages bootstrap from values, not from targets",
        "V_{t+1} stands where v_{t+1} belongs: it is the one-step error, times ρ.",
        "With one step it is right.",
        (),
        (_advantages(_RIGHT, by_values=True),),
        right_form=(_IMPALA,),
    ),
    Mistake(
        "v_trace.advantages_unweighted",
        "the advantages are not weighted",
        "ρ is missing from the advantages.",
        "On policy it is right.",
        (),
        (_advantages(_RIGHT, of=torch.ones_like, rho=_as_it_is),),
        right_form=(_IMPALA,),
    ),
)

# --- the cases ---


def cases(facts: frozenset[str]) -> list[Case]:
    """Rows with ends and without, ratios on both sides of the bounds, on policy too; the smallest first."""
    bars = [(1.0, 1.0)] + ([(1.6, 1.0)] if "rho_bar" in facts else []) + ([(1.2, 0.7)] if facts >= _BARS else [])
    lams = [1.0] + ([0.6] if "lam" in facts else [])
    found = [_case(marks, 0.8, 1.0, 1.0, 1.0) for marks in batches(facts)]
    for rho_bar, c_bar in bars:
        found += [_case(marks, 0.9, lam, rho_bar, c_bar) for marks in batches(facts)[3:] for lam in lams]
    if _sees_truncations(facts):
        found += [_case(marks, 0.9, 1.0, 1.0, 1.0) for marks in _CUT]
        found += [_case(marks, 0.9, 1.0, 1.0, 1.0) for marks in _CUT_OR_ENDED if facts & ENDS]
        found += [_case(_BOTH, 0.9, 1.0, 1.0, 1.0, why=_REFUSED)] if "terminated" in facts else []
    return [
        *found,
        _case(("....", "...."), 1.0, 1.0, 1.0, 1.0),
        _case(("....", "...."), 0.9, 1.0, 1.0, 1.0, spread=0.0),
    ]


_BARS = frozenset(["rho_bar", "c_bar"])
# "U" where a row is truncated, "B" where it terminates as well.
_CUT = (("U.", ".U"), (".U.", "U.."), ("..U...", ".U..U."))
_CUT_OR_ENDED = (("UT", "TU"), (".UT..U", "..T.U."))
_BOTH = (".B.", "..B")
_REFUSED = "it refuses a step that is both terminated and truncated"


def _sees_truncations(facts: frozenset[str]) -> bool:
    return "next_values" in facts and _is_told(facts)


def _is_told(facts: frozenset[str]) -> bool:
    return "truncated" in facts or ("terminated" in facts and bool(facts & {"dones", "not_dones"}))


def _readings(roles: frozenset[str]) -> list[Reading]:
    """As for other returns; beside truncations, `dones` are all ends of episodes, or terminations if it is declared."""
    notes = (_NOT_TRIED,) if _is_told(roles) and "next_values" not in roles else ()
    found = [reading._replace(notes=(*reading.notes, *notes)) for reading in readings(roles)]
    if not {"dones", "truncated"} <= roles or "terminated" in roles:
        return found
    text, alone = ", dones are terminations alone", {"dones": lambda x: x.terminated}
    return [
        *found,
        *(r._replace(text=r.text + text, of={**r.of, **alone}, doubt=lambda defaults, known: True) for r in found),
    ]


_NOT_TRIED = "a truncation inside a row was not tried: there is no argument for the value of each next state"


def _case(
    marks: Sequence[str],
    gamma: float,
    lam: float,
    rho_bar: float,
    c_bar: float,
    *,
    spread: float = 1.0,
    why: str = "",
) -> Case:
    n, steps = len(marks), len(marks[0])
    place = torch.arange(n * steps, dtype=F64).reshape(n, steps)
    old = -1.2 + 0.3 * (1.9 * place).cos()
    new = old + spread * 0.7 * (2.3 * place + 0.8).sin()
    cut = torch.tensor([[c in "UB" for c in row] for row in marks])
    bare = [row.replace("U", ".").replace("B", "T") for row in marks]
    x = rows(bare, gamma, truncated=cut, log_probs=new, old_log_probs=old, lam=lam, rho_bar=rho_bar, c_bar=c_bar).inputs
    behind = torch.where(cut, 4.0 - x["next_values"], x["next_values"])  # the row goes on in another episode
    return Case({**x, "next_values": behind}, why, or_fails=True)


def _choose(cases: Sequence[tuple[Mapping[str, Any], Mapping[str, Tensor]]]) -> tuple[str, str]:
    """Of the first two parts the one that is wrong, if one is; the advantages are not looked for elsewhere."""
    taken = _INPUTS.split()
    right = [[form(**{name: x[name] for name in taken}) for form in RIGHT.values()] for x, _ in cases]

    def fits(part: str) -> bool:
        pairs = list(zip(cases, right, strict=True))
        return any(all(same(parts[part], forms[k]) for (_, parts), forms in pairs) for k in range(len(RIGHT)))

    first = list(cases[0][1])[:2]
    return next((part for part in first if not fits(part)), first[0]), ""


CHECK = Check(
    "v_trace",
    8,
    args=(
        *(arg for arg in ARGS if arg.name not in ("dones", "not_dones")),
        Arg("truncated", "B T", flag=True),
        Arg("dones", "B T", of=lambda x: x.terminated | x.truncated, flag=True),
        Arg("not_dones", "B T", of=lambda x: (~(x.terminated | x.truncated)).double(), flag=True),
        Arg("log_probs", "B T", "target_policy_log_probs"),
        Arg("old_log_probs", "B T", "behaviour_policy_log_probs behavior_policy_log_probs"),
        Arg(
            "log_rhos",
            "B T",
            "log_rho log_is log_ratio log_ratios log_is_weights",
            of=lambda x: x.log_probs - x.old_log_probs,
        ),
        Arg(
            "rhos",
            "B T",
            "rho_tm1 ratio ratios importance_ratio importance_ratios importance importance_weights",
            of=lambda x: (x.log_probs - x.old_log_probs).exp(),
        ),
        Arg("lam"),
        Arg("rho_bar", also="clip_rho_threshold rho_clip rho_max rho_thresh vtrace_rho_clip clip_rho max_rho"),
        Arg("c_bar", also="clip_c_threshold c_clip c_max c_thresh vtrace_c_clip clip_c max_c"),
        Arg("pg_rho_bar", also="clip_pg_rho_threshold rho_pg_clip", of=lambda x: x.rho_bar),
    ),
    needs=("rewards", "next_values|next_value|values", "gamma|discounts|not_dones", "log_rhos|rhos|log_probs"),
    signature=("rewards", "values", "next_values", "log_rhos", "gamma"),
    axes="B T",
    layouts=("[T]", "[B, T]", "[T, B]", "[B, T, 1]", "[T, B, 1]"),
    reference=RIGHT,
    cases=cases,
    mistakes=MISTAKES,
    readings=_readings,
    settle=settle,
    choose=_choose,
    example="call=lambda x: f(x.rewards.mT, x.values.mT, x.log_rhos.mT, ...).mT  # [B, T]",
)
