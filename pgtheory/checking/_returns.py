"""Is this the return to go? And if not, which known mistake is it?"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgtheory.checking._engine import Case, Form, call_quietly, close, examine, invoke, shaped, unflattened
from pgtheory.checking._forms import CONTAINERS, Binding, Container, Misfit, Role, UnknownForm, as_tensor, bind
from pgtheory.checking._report import Mistake, Report, Source, issue, pull
from pgtheory.returns import returns_to_go

_F64 = torch.float64
_BOOK = Source(
    "Sutton and Barto, 2018, eq. (3.8) (the right form)", "http://incompleteideas.net/book/the-book-2nd.html"
)

ROLES = (
    Role("rewards", "reward rew rews r rs r_t", required=True),
    Role("gamma", "discount g gam disc discount_factor discount_rate y lambda_ gamma_", required=True),
    Role("dones", "done d terminated terminal terminals terminations is_done ends end done_flags episode_ends"),
    Role("starts", "episode_starts is_first first episode_start start"),
    Role(
        "not_dones",
        "not_done nonterminal nonterminals non_terminal non_terminals not_terminal not_terminals notdone notdones "
        "nondone nondones continues cont conts alive",
    ),
    Role("done_mask"),
    Role("discounts", "discount_t discounts_t discount_array"),
    Role("mask"),
    Role("taken", "valid valid_mask loss_mask response_mask action_mask padding_mask attention_mask"),
    Role("truncated", "truncations truncation truncateds trunc truncs is_truncated timeouts"),
    Role("bootstrap", "last_value next_value bootstrap_value final_value last_val v_last last_r"),
)
_FLAGS = frozenset(["dones", "starts", "not_dones", "done_mask"])


def check_returns(function: Callable[..., Any], *, form: str | None = None) -> Report:
    r"""Check a function that computes returns to go, :math:`G_t = \sum_{k \ge t} \gamma^{k-t} R_{k+1}`.

    Equation :eq:`eq-return`. The function may be `fn(rewards, gamma)` on tensors, arrays or lists, for one
    episode `[T]`, a batch `[B, T]`, or with the time first `[T, B]`. By the names of its arguments it may also take
    `dones` (True at the last step of an episode, in a row that holds several) or `not_dones`, `episode_starts`, a
    `mask` of the steps taken, or a discount for each step, 0 where an episode ends. A function whose arguments have
    other names takes them in the order `rewards, gamma`. It may return a tuple or a dictionary of which one part is
    the returns, or those of a batch one row after the other.

    Args:
        function: the implementation.
        form: only try forms whose name contains this text, such as `"[T, B]"` or `"numpy"`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called in any form, or does not return one number for each step.

    Source:
        Sutton and Barto, *Reinforcement Learning*, 2018, eq. (3.8) and (3.9).

    Example:
        >>> def returns(rewards, gamma):
        ...     total, result = 0.0, []
        ...     for reward in reversed(rewards):
        ...         total = reward + gamma * total
        ...         result.append(total)
        ...     return result
        >>> print(check_returns(returns).headline)
        check_returns: WRONG, a known mistake: the returns in reversed order
        >>> print(check_returns(lambda rewards, gamma: returns(rewards, gamma)[::-1]).headline)
        check_returns: right
    """
    report = examine("returns", _forms(function, form), MISTAKES, answer=_answer)
    if not report.ok:
        return report
    return replace(report, remarks=(*report.remarks, *_remarks(function, report.form)))


def _remarks(function: Callable[..., Any], form: str) -> Iterator[str]:
    """What a function that is right in a form does where that form does not reach: with integers, in batches."""
    container, _, layout = form.partition(" ")
    if container in ("numpy", "list") and _truncates_integers(function, form):
        yield "integer rewards are truncated: the returns are put in an array of the rewards' type (numpy #16578)"
    if layout.startswith("[T]"):
        yield from _in_batches(function, container)


def _in_batches(function: Callable[..., Any], container: str) -> Iterator[str]:
    """A remark if a function, given a batch, returns numbers that are wrong in either layout."""
    reports = []
    for layout in ("[B, T]", "[T, B]"):
        with contextlib.suppress(UnknownForm):
            forms = _forms(function, f"{container} {layout}")
            reports.append(examine("returns", forms, MISTAKES, answer=_answer))
    if reports and not any(reports):
        known = next((report.diagnosis for report in reports if report.diagnosis), "an unknown mistake")
        yield f"it is right for one episode [T]; given a batch, it returns wrong numbers without an error ({known})"


def _truncates_integers(function: Callable[..., Any], form: str) -> bool:
    """Whether integer rewards give other returns than the same numbers as floats."""
    integers = next(found for found in _forms(function, form, torch.int64) if found.name == form)
    whole = [case for case in integers.cases if not case.delicate and bool((case.inputs["rewards"] % 1 == 0).all())]
    try:
        return not all(close(call_quietly(integers.call, case), case.expected) for case in whole)
    except Exception:
        return False


class _Reading(NamedTuple):
    """What the arguments are taken to be, where their names leave a choice.

    `going`: the role, `mask` or `done_mask`, that is 1 where the episode goes on, if one is. `other_flags`: flags are
    numbers where they are usually truth values, and the other way round. `per_step`: a discount is given for each step.
    """

    going: str = ""
    other_flags: bool = False
    per_step: bool = False

    def __str__(self) -> str:
        parts = [f", {self.going} 0 at the end of an episode"] * bool(self.going)
        parts += [", flags of the other type"] * self.other_flags + [", a discount per step"] * self.per_step
        return "".join(parts)


def _forms(function: Callable[..., Any], only: str | None, dtype: torch.dtype = _F64) -> Iterator[Form]:
    """The forms to try, variants of one only where the function could not be called in it."""
    binding = bind(function, ROLES).demand("rewards")
    if "discounts" not in binding.roles:
        binding.demand("gamma")
    answered: set[str] = set()
    for going, container, layout in product(_going(binding.roles), CONTAINERS, ("[T]", "[B, T]", "[T, B]")):
        for reading in _variants(going, binding.roles):
            name = f"{container} {layout}{reading}"
            if only is None or only in name:
                yield _form(function, binding, name, container, layout, reading, answered, dtype)
            if name in answered:
                break


def _going(roles: frozenset[str]) -> list[str]:
    """Which role may mark the steps after which the episode goes on: at first none."""
    if "done_mask" in roles:
        return ["", "done_mask"]
    return ["", "mask"] if "mask" in roles and not roles & _FLAGS else [""]


def _variants(going: str, roles: frozenset[str]) -> Iterator[_Reading]:
    """A reading, and what to try if the function cannot be called so."""
    flags = [False, True] if roles & (_FLAGS | {"mask", "taken"}) else [False]
    for per_step, other_flags in product([True, False] if "discounts" in roles else [False], flags):
        yield _Reading(going, other_flags, per_step)


def _form(
    function: Callable[..., Any],
    binding: Binding,
    name: str,
    container: Container,
    layout: str,
    reading: _Reading,
    answered: set[str],
    dtype: torch.dtype,
) -> Form:
    notes: set[str] = set()
    masked = bool(binding.roles & ({"mask", "taken"} - {reading.going}))
    separated = bool(binding.roles & (_FLAGS | {reading.going})) or reading.per_step

    def call(case: Case) -> Tensor:
        arranged = {role: view(value) for role, value in case.inputs.items() if role in binding.roles}
        arranged["rewards"] = arranged["rewards"].to(dtype)
        output = invoke(notes, function, binding, arranged, container)
        parts = [_restored(part, layout).double() for part in _parts(output, arranged["rewards"].shape)]
        answered.add(name)
        seen = [torch.where(case.inputs["truth"]["mask"], part, 0.0) for part in parts] if masked else parts
        return next((part for part in seen if close(part, case.expected)), seen[0])

    def view(value: Any) -> Any:
        return _arranged(value, layout)

    kinds = frozenset(["dones"] * separated + ["mask"] * masked)
    found = [case._replace(inputs=_given(case, reading)) for case in cases(kinds, batch=layout != "[T]")]
    return Form(name, found, call, notes, binding.roles, view)


def _given(case: Case, reading: _Reading) -> dict[str, Any]:
    """The value of each role in a reading."""
    truth = case.inputs
    ends, gamma = truth["dones"], truth["gamma"]
    flags = {role: truth[role] for role in ("dones", "starts", "mask")}
    flags |= {"truncated": torch.zeros_like(ends), "not_dones": ~ends, "done_mask": ends, "taken": truth["mask"]}
    flags |= {reading.going: ~ends} if reading.going else {}
    numbers = {"not_dones", reading.going}
    flags = {role: x.double() if (role in numbers) != reading.other_flags else x for role, x in flags.items()}
    discounts = gamma * (~ends).double() if reading.per_step else gamma
    return {**truth, **flags, "discounts": discounts, "truth": truth}


def _parts(output: Any, shape: Sequence[int]) -> list[Tensor]:
    """What was returned, or those parts of a tuple or a dictionary that have a number for each step."""
    found = []
    for part in output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else ():
        with contextlib.suppress(Misfit):
            tensor = as_tensor(part)
            found += [shaped(unflattened(tensor, shape), shape)] if tensor.ndim else []
    return found or [shaped(unflattened(as_tensor(output), shape), shape)]


def _arranged(value: Any, layout: str) -> Any:
    """A role's value `[B, T]`, or `[B]`, in the layout of a form."""
    if not isinstance(value, Tensor) or layout == "[B, T]":
        return value
    return value[0] if layout == "[T]" else value.movedim(0, -1)


def _restored(value: Tensor, layout: str) -> Tensor:
    if layout == "[B, T]":
        return value
    return value[None] if layout == "[T]" else value.movedim(-1, 0)


def cases(roles: frozenset[str] = frozenset(), *, batch: bool = False) -> list[Case]:
    """The cases for a function that takes these roles, the smallest first: one episode each, or a batch of two."""
    rows = [([1.0], 0.5), ([1.0, 2.0], 0.5), ([0.0, 4.0], 0.5), ([1.0, 2.0, 4.0], 0.5), ([1.0, 2.0, 4.0], 1.0)]
    rows += [([3.0, -1.0, 2.0, 5.0], 0.9), ([2.0, 0.0, 0.0, -3.0, 1.0], 0.25), ([1.5] * 12 + [-2.0] * 28, 0.95)]
    found = [_case([row, [*row[1:], row[0] - 1.5]] if batch else [row], gamma, [len(row)]) for row, gamma in rows]
    if roles & {"dones", "starts"}:
        flat = [([1.0, 2.0], 0.5, [1, 1]), ([1.0, 2.0, 4.0], 0.5, [1, 2]), ([1.0, 2.0, 4.0, 8.0], 0.5, [2, 2])]
        flat += [([3.0, -1.0, 2.0, 5.0, 7.0, 1.0], 0.9, [2, 3, 1]), ([3.0, -1.0, 2.0, 5.0, 7.0, 1.0], 1.0, [1, 1, 4])]
        found += [_case([row, row[::-1]] if batch else [row], gamma, lengths) for row, gamma, lengths in flat]
    if "mask" in roles:
        padded = [([1.0, 2.0, 9.0], 0.5), ([1.0, 2.0, 4.0, 9.0, 9.0], 0.9)]
        found += [_case([row, row] if batch else [row], gamma, [len(row)], row.index(9.0)) for row, gamma in padded]
    return [*found, _case([[1.0, 2.0, 4.0]] * (1 + batch), 0.0, [3], delicate="it fails at γ = 0")]


def _case(
    rows: Sequence[Sequence[float]], gamma: float, lengths: Sequence[int], taken: int | None = None, delicate: str = ""
) -> Case:
    """The case of rows that hold episodes of the given lengths, of which only the first steps are `taken`."""
    rewards = torch.tensor(rows, dtype=_F64)
    episode = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    starts = torch.cat([torch.tensor([True]), episode[1:] != episode[:-1]]).expand(rewards.shape)
    mask = (torch.arange(rewards.shape[-1]) < (taken or rewards.shape[-1])).expand(rewards.shape)
    inputs = {
        "rewards": rewards,
        "gamma": gamma,
        "dones": torch.cat([starts[:, 1:], torch.ones_like(starts[:, :1])], -1),
        "starts": starts,
        "mask": mask,
        "bootstrap": torch.zeros(len(rows), dtype=_F64),
    }
    parts = torch.split(torch.where(mask, rewards, 0.0), list(lengths), -1)
    return Case(inputs, torch.cat([returns_to_go(part, gamma) for part in parts], -1), delicate, or_fails=True)


def _answer(implementation: Callable[..., Any], case: Case) -> Tensor:
    truth = case.inputs["truth"]
    result: Tensor = implementation(**{role: truth[role] for role in ("rewards", "gamma", "dones", "mask")})
    return torch.where(truth["mask"], result.double(), 0.0)


def _weighted(weight: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Callable[..., Tensor]:
    """The returns G_t = Σ_k w(t, k) R_{k+1} over the steps k of the episode of t, of which the last is `end`."""

    def implementation(rewards: Tensor, gamma: float, dones: Tensor, mask: Tensor) -> Tensor:
        k = torch.arange(rewards.shape[-1])
        t = k[:, None]
        weights = torch.where(_same_episode(dones), weight(t, k, _end(dones), gamma), 0.0).to(rewards.dtype)
        return (weights @ torch.where(mask, rewards, 0.0)[..., None])[..., 0]

    return implementation


def _same_episode(dones: Tensor) -> Tensor:
    episode = dones.long().cumsum(-1) - dones.long()
    return episode[..., :, None] == episode[..., None, :]


def _end(dones: Tensor) -> Tensor:
    """The index of the last step of each step's episode, `[..., 1, T]`."""
    k = torch.arange(dones.shape[-1])
    ends = torch.where(dones, k, dones.shape[-1] - 1).flip(-1).cummin(-1).values.flip(-1)
    return ends[..., None, :]


def _power(gamma: float, exponent: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, float(gamma) ** torch.where(where, exponent, 0).double(), 0.0)


def _right_with(cut: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The right sum, over episodes that end where `cut(dones)` says."""
    right = _weighted(lambda t, k, end, g: _power(g, k - t, k >= t))

    def implementation(rewards: Tensor, gamma: float, dones: Tensor, mask: Tensor) -> Tensor:
        return right(rewards, gamma, cut(dones), mask)

    return implementation


def _then(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The right returns, changed afterwards."""

    def implementation(rewards: Tensor, gamma: float, dones: Tensor, mask: Tensor) -> Tensor:
        return change(_right_with(lambda d: d)(rewards, gamma, dones, mask))

    return implementation


def _standardised(ddof: int, dim: Sequence[int], *, alone: bool) -> Callable[..., Tensor]:
    """The returns standardised over some axes, a single step or not."""

    def change(returns: Tensor) -> Tensor:
        if returns.shape[-1] == 1 and not alone:
            return returns
        spread = returns.std(dim=tuple(dim), correction=ddof, keepdim=True)
        return (returns - returns.mean(dim=tuple(dim), keepdim=True)) / (spread + 1e-8)

    return _then(change)


def _over_the_flattened_batch(rewards: Tensor, gamma: float, **_: Tensor) -> Tensor:
    if rewards.ndim < 2 or len(rewards) < 2:
        raise ValueError("one episode has no rows to run together")
    return returns_to_go(rewards.reshape(-1), gamma).reshape(rewards.shape)


def _never_set_to_zero(rewards: Tensor, gamma: float, **_: Tensor) -> Tensor:
    return _over_the_flattened_batch(rewards.flip(0), gamma).flip(0)


def _padding_counted(rewards: Tensor, gamma: float, dones: Tensor, mask: Tensor) -> Tensor:
    return _right_with(lambda d: d)(rewards, gamma, dones, torch.ones_like(mask))


def _shifted(dones: Tensor, by: int, edge: bool = False) -> Tensor:
    moved = dones.roll(by, -1)
    moved[..., 0 if by > 0 else -1] = edge
    return moved


def _last_reward_of_the_row_dropped(rewards: Tensor, gamma: float, dones: Tensor, mask: Tensor) -> Tensor:
    kept = torch.cat([rewards[..., :-1], torch.zeros_like(rewards[..., -1:])], -1)
    return _right_with(lambda d: d)(kept, gamma, dones, mask)


MISTAKES = (
    Mistake(
        "returns.accumulated_forwards",
        "accumulated forwards in time",
        "G_t sums the rewards before t instead of those after it: the recursion runs from the first step to the last.",
        "The last return is the largest, and the first is the first reward alone.",
        (issue("mohmdelsayed/streaming-drl", 3), issue("numpy/numpy", 16578)),
        (_weighted(lambda t, k, end, g: _power(g, t - k, k <= t)),),
    ),
    Mistake(
        "returns.reversed_order",
        "the returns in reversed order",
        "The recursion runs backwards and appends, and the list is never turned round: step t gets the return of step "
        "T-1-t.",
        "The first return is the last reward alone.",
        (issue("PacktPublishing/Tensorflow-2-Reinforcement-Learning-Cookbook", 27),),
        (_then(lambda returns: returns.flip(-1)),),
    ),
    Mistake(
        "returns.exponent_from_the_start",
        "the exponent of γ counted from the start of the episode",
        "The reward of step k is weighted by γ^k in every return, not by γ^(k-t): the result is γ^t G_t.",
        "The last return is γ^(T-1) times the last reward, where it should be the reward itself.",
        (issue("hunkim/ReinforcementZeroToAll", 1),),
        (_weighted(lambda t, k, end, g: _power(g, k, k >= t)),),
    ),
    Mistake(
        "returns.exponent_from_the_end",
        "the exponent of γ counted from the end of the episode",
        "The last reward has weight 1 and the first is discounted most: the weights run the wrong way.",
        "With a reward at the end alone, all returns are the same.",
        (_BOOK,),
        (_weighted(lambda t, k, end, g: _power(g, end - k, k >= t)),),
    ),
    Mistake(
        "returns.first_reward_discounted",
        "the immediate reward is discounted as well",
        "The recursion is G_t = γ (R_{t+1} + G_{t+1}): every return is γ times the right one.",
        "With one step, the return is γ times the reward.",
        (pull("juliusfrost/dreamer-pytorch", 59),),
        (_weighted(lambda t, k, end, g: _power(g, k - t + 1, k >= t)),),
    ),
    Mistake(
        "returns.discounted_twice",
        "γ applied twice per step",
        "The recursion multiplies by γ² for each step: later rewards count too little.",
        "The weight of the next reward is γ², not γ.",
        (issue("tensorflow/agents", 503), _BOOK),
        (_weighted(lambda t, k, end, g: _power(g, 2 * (k - t), k >= t)),),
    ),
    Mistake(
        "returns.not_discounted",
        "γ is ignored",
        "All later rewards count alike, whatever γ is.",
        "The result does not change with γ.",
        (issue("dennybritz/reinforcement-learning", 55), issue("openai/baselines", 901)),
        (_weighted(lambda t, k, end, g: (k >= t).double()),),
    ),
    Mistake(
        "returns.last_reward_dropped",
        "the last reward is dropped",
        "The last reward of the episode is in no return, often the only one that is not zero.",
        "The last return is 0.",
        (issue("weipu-zhang/STORM", 16), issue("rasbt/machine-learning-book", 240)),
        (_weighted(lambda t, k, end, g: _power(g, k - t, (k >= t) & (k < end))), _last_reward_of_the_row_dropped),
    ),
    Mistake(
        "returns.own_reward_dropped",
        "the reward of the step itself is dropped",
        "The return starts one step late: what the action earned at once is not in it.",
        "With one step, the return is 0; in general it is that of the next step.",
        (issue("shehzaadzd/MINERVA", 28), pull("lilianweng/lil-log", 8)),
        (
            _weighted(lambda t, k, end, g: _power(g, k - t - 1, k > t)),
            _weighted(lambda t, k, end, g: _power(g, k - t, k > t)),
        ),
    ),
    Mistake(
        "returns.full_return",
        "the return of the whole episode at every step",
        "Each step gets G_0, which also holds rewards earned before it. As a weight of the score this is unbiased and "
        "has a larger variance; as a return to go, or a target for a value function, it is wrong.",
        "All steps of an episode have the same return.",
        (issue("udacity/deep-reinforcement-learning", 42), pull("huggingface/deep-rl-class", 95)),
        (_weighted(lambda t, k, end, g: _power(g, k - (t - t), k >= 0)),),
    ),
    Mistake(
        "returns.reward_alone",
        "the reward of the step alone, not the return",
        "Nothing is summed: each action is credited with its immediate reward.",
        "The result is the rewards.",
        (issue("hpcaitech/ColossalAI", 4491), pull("natolambert/rlhf-book", 216)),
        (_weighted(lambda t, k, end, g: (k == t).double()),),
    ),
    Mistake(
        "returns.mean_of_the_rest",
        "a mean of the later rewards instead of their sum",
        "The return is divided by the number of steps that are left.",
        "With γ = 1 and equal rewards, all returns are the same.",
        (_BOOK,),
        (_weighted(lambda t, k, end, g: _power(g, k - t, k >= t) / (end.mT - t + 1)),),
    ),
    Mistake(
        "returns.standardised",
        "the returns are standardised",
        "The mean is subtracted and the result divided by the standard deviation: no longer returns, and as weights of "
        "the score biased, since both depend on the actions of the same batch.",
        "The result has mean 0, and is NaN or 0 for one step.",
        (issue("MorvanZhou/Reinforcement-learning-with-tensorflow", 128), issue("pytorch/examples", 590)),
        tuple(_standardised(ddof, dim, alone=a) for a in (True, False) for ddof in (0, 1) for dim in ((-1,), (-2, -1))),
    ),
    Mistake(
        "returns.episodes_not_separated",
        "the sum goes on through the end of an episode",
        "The flags that mark the ends of episodes are not used: returns hold rewards of the next episode.",
        "In a row with one episode only it is right.",
        (issue("nikhilbarhate99/PPO-PyTorch", 8), pull("kengz/SLM-Lab", 319)),
        (_right_with(torch.zeros_like),),
    ),
    Mistake(
        "returns.done_of_another_step",
        "the flag of another step cuts the sum",
        "The sum is cut by the flag of the step before or after: one reward is on the wrong side of the cut.",
        "It is wrong at the steps around the end of an episode only.",
        (issue("DLR-RM/stable-baselines3", 105), issue("nikhilbarhate99/PPO-PyTorch", 8)),
        (
            _right_with(lambda d: _shifted(d, -1)),
            _right_with(lambda d: _shifted(d, 1)),
            _right_with(lambda d: _shifted(d, 1, True)),
        ),
    ),
    Mistake(
        "returns.padding_counted",
        "the mask is ignored",
        "What stands behind the end of an episode is counted as reward.",
        "The result changes with the padding.",
        (pull("natolambert/rlhf-book", 216), issue("huggingface/trl", 7024)),
        (_padding_counted,),
    ),
    Mistake(
        "returns.rows_run_together",
        "the rows of a batch run together",
        "The batch is treated as one long episode, or the running sum is not set to zero before the next row: returns "
        "hold rewards of other rows.",
        "A single episode is right, a batch of two is not.",
        (pull("juliusfrost/dreamer-pytorch", 59), issue("apeterswu/RL4NMT", 3)),
        (_over_the_flattened_batch, _never_set_to_zero),
    ),
)
