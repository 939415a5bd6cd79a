"""Is this the return to go? And if not, which known mistake is it?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Call, Reading
from pgtheory.checking.episodes import (
    F64,
    FLAGS,
    MASK_ARGS,
    MASKS,
    in_one_row,
    masked_standardised,
    power,
    settle,
    shifted,
    standardised,
    to_go,
    weighted,
)
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.names import NAMES
from pgtheory.checking.report import Mistake, Report, Source, issue, pull

_BOOK = Source("Sutton and Barto, 2018, eq. (3.11)", "http://incompleteideas.net/book/the-book-2nd.html")


def check_returns(
    function: Callable[..., Any] | None = None,
    *,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check a function that computes returns to go, :math:`G_t = \sum_{k \ge t} \gamma^{k-t} R_{k+1}`.

    Equation :eq:`eq-return`. The function may be `fn(rewards, gamma)` on tensors, arrays or lists, for one episode
    `[T]` or a batch `[B, T]`. By the names of its arguments it may also take `dones` (True at the last step of an
    episode, in a row that holds several) or `not_dones`, `episode_starts`, a `mask` of the steps taken, or a discount
    for each step, 0 where an episode ends. It may return a tuple or a dictionary of which one part is the returns, or
    those of a batch one row after the other.

    Args:
        function: the implementation.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.rewards.mT, x.gamma).mT`; they are
            `x.rewards`, `x.gamma`, `x.dones`, `x.mask`, `[B, T]`, and what follows from them.
        layout: the order of axes, such as `"[T, B]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"x": "rewards"}`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called, or does not return one number for each step.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Sutton and Barto, *Reinforcement Learning*, 2018, eq. (3.9) and (3.11).

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
        check_returns: right, with 1 remark
    """
    return CHECK.judge(function, call=call, layout=layout, names=names)


def _right(rewards: Tensor, gamma: float, dones: Tensor, mask: Tensor) -> Tensor:
    return to_go(torch.where(mask, rewards, 0.0), gamma, dones)


def _over_steps_taken(rewards: Tensor, gamma: float, dones: Tensor, mask: Tensor) -> Tensor:
    return to_go(torch.where(mask, rewards, 0.0), gamma, dones, mask)


# --- the cases ---

_ROWS: tuple[tuple[Sequence[float], float], ...] = (
    ([1.0], 0.5),
    ([1.0, 2.0], 0.5),
    ([0.0, 4.0], 0.5),
    ([1.0, 2.0, 4.0], 0.5),
    ([1.0, 2.0, 4.0], 1.0),
    ([3.0, -1.0, 2.0, 5.0], 0.9),
    ([2.0, 0.0, 0.0, -3.0, 1.0], 0.25),
    ([2.0, 2.0, 2.0, 2.0], 0.5),
    ([0.0, 0.0, 0.0], 0.9),
    ([1.0, -2.0, 3.0, 4.0], 0.999),
    ([1.0, -2.0, 3.0, 4.0], 0.01),
    ([1.5] * 12 + [-2.0] * 28, 0.95),
)
_EPISODES: tuple[tuple[Sequence[float], float, Sequence[int]], ...] = (
    ([1.0, 2.0], 0.5, [1, 1]),
    ([1.0, 2.0, 4.0], 0.5, [1, 2]),
    ([1.0, 2.0, 4.0, 8.0], 0.5, [2, 2]),
    ([3.0, -1.0, 2.0, 5.0, 7.0, 1.0], 0.9, [2, 3, 1]),
    ([3.0, -1.0, 2.0, 5.0, 7.0, 1.0], 1.0, [1, 1, 4]),
)
# Rewards on the steps that are masked: behind the last one taken, in a hole, before the first, everywhere.
_MASKED: tuple[tuple[Sequence[float], float, str], ...] = (
    ([1.0, 2.0, 9.0], 0.5, "110"),
    ([1.0, 2.0, 4.0, 9.0, 9.0], 0.9, "11100"),
    ([1.0, 9.0, 4.0], 0.5, "101"),
    ([1.0, 2.0, 9.0, 9.0, 4.0, 9.0], 0.5, "110010"),
    ([9.0, 2.0, 4.0], 0.5, "011"),
    ([1.0, 2.0, 9.0, 4.0], 1.0, "1101"),
)


def cases(facts: frozenset[str]) -> list[Case]:
    """The cases for a function that is told these facts: batches of two, the smallest first."""
    found = [_case(row, gamma) for row, gamma in _ROWS]
    if facts & FLAGS:
        found += [_case(row, gamma, lengths) for row, gamma, lengths in _EPISODES]
    if facts & MASKS:
        found += [_case(row, gamma, taken=taken) for row, gamma, taken in _MASKED]
        found.append(_case([9.0, 9.0], 0.5, taken="00", delicate="it fails where no step was taken"))
    found.append(_case([3.0, -1.0, 2.0], 0.5, batch=1))
    return [*found, _case([1.0, 2.0, 4.0], 0.0, delicate="it fails at γ = 0")]


def _case(
    row: Sequence[float], gamma: float, lengths: Sequence[int] = (), taken: str = "", delicate: str = "", batch: int = 2
) -> Case:
    """A row that holds episodes of the given lengths, and a second one that is much the same, and not masked."""
    n = len(row)
    rewards = torch.tensor([row, [*row[1:], row[0] - 1.5]][:batch], dtype=F64)
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))] or [n]
    dones = torch.tensor([k + 1 in ends for k in range(n)]).expand(rewards.shape)
    mask = torch.tensor([[c == "1" for c in taken or "1" * n], [True] * n][:batch])
    inputs = {"rewards": rewards, "gamma": gamma, "dones": dones, "mask": mask}
    return Case(inputs, delicate, or_fails=True)


def _readings(roles: frozenset[str]) -> list[Reading]:
    """A discount for each step, or one number under that name."""
    if "discounts" not in roles or "gamma" in roles:
        return [Reading(of={"discounts": lambda x: x.gamma})]
    per_step = Reading(", a discount per step", facts=frozenset(["dones"]))
    return [per_step, Reading(of={"discounts": lambda x: x.gamma})]


def _starts(dones: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(dones[..., :1]), dones[..., :-1]], -1)


# --- the known mistakes, in the canonical signature ---

_Weight = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def _weighted(weight: _Weight) -> Callable[..., Tensor]:
    """The returns G_t = Σ_k w(t, k) R_{k+1} over the steps k of the episode of t, of which the last is `end`."""

    def implementation(rewards: Tensor, gamma: float, dones: Tensor, mask: Tensor) -> Tensor:
        k = torch.arange(rewards.shape[-1])
        end = torch.where(dones, k, rewards.shape[-1] - 1).flip(-1).cummin(-1).values.flip(-1)[..., None, :]
        return weighted(torch.where(mask, rewards, 0.0), weight(k[:, None], k, end, gamma), dones)

    return implementation


def _right_with(cut: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The right sum, over episodes that end where `cut(dones)` says."""
    return lambda rewards, gamma, dones, mask: _right(rewards, gamma, cut(dones), mask)


def _then(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The right returns, changed afterwards, given the mask."""
    return lambda rewards, gamma, dones, mask: change(_right(rewards, gamma, dones, mask), mask)


def _standardised(ddof: int, dims: tuple[int, ...], alone: bool) -> Callable[..., Tensor]:
    return _then(lambda x, mask: standardised(x, dims, ddof, alone=alone))


def _of_standardised(ddof: int, dims: tuple[int, ...], alone: bool) -> Callable[..., Tensor]:
    """The right returns of rewards that were standardised."""

    def implementation(rewards: Tensor, gamma: float, dones: Tensor, mask: Tensor) -> Tensor:
        return _right(standardised(rewards, dims, ddof, alone=alone), gamma, dones, mask)

    return implementation


def _run_together(backwards: bool) -> Callable[..., Tensor]:
    def implementation(rewards: Tensor, gamma: float, dones: Tensor) -> Tensor:
        return in_one_row(lambda x: to_go(x, gamma, torch.zeros_like(x) > 0), rewards, backwards=backwards)

    return implementation


def _last_reward_of_the_row_dropped(rewards: Tensor, gamma: float, dones: Tensor, mask: Tensor) -> Tensor:
    kept = torch.cat([rewards[..., :-1], torch.zeros_like(rewards[..., -1:])], -1)
    return _right(kept, gamma, dones, mask)


def _mask_ignored(rewards: Tensor, gamma: float, dones: Tensor, mask: Tensor) -> Tensor:
    return to_go(rewards, gamma, dones)


def _cut_at_masked_steps(rewards: Tensor, gamma: float, dones: Tensor, mask: Tensor) -> Tensor:
    return to_go(torch.where(mask, rewards, 0.0), gamma, dones | ~mask)


def _cut_behind_masked_steps(rewards: Tensor, gamma: float, dones: Tensor, mask: Tensor) -> Tensor:
    return to_go(rewards, gamma, dones | ~mask)


def _reset_at_rewards(rewards: Tensor, gamma: float, dones: Tensor, mask: Tensor) -> Tensor:
    kept = torch.where(mask, rewards, 0.0)
    return to_go(kept, gamma, dones | (kept != 0))


MISTAKES = (
    Mistake(
        "returns.accumulated_forwards",
        "accumulated forwards in time",
        "G_t sums the rewards before t instead of those after it: the recursion runs from the first step to the last.",
        "The last return is the largest, and the first is the first reward alone.",
        (issue("mohmdelsayed/streaming-drl", 3), issue("numpy/numpy", 16578)),
        (_weighted(lambda t, k, end, g: power(g, t - k, k <= t)),),
    ),
    Mistake(
        "returns.reversed_order",
        "the returns in reversed order",
        "The recursion runs backwards and appends, and the list is never turned round: step t gets the return of step "
        "T-1-t.",
        "The first return is the last reward alone.",
        (issue("PacktPublishing/Tensorflow-2-Reinforcement-Learning-Cookbook", 27),),
        (_then(lambda returns, mask: returns.flip(-1)),),
    ),
    Mistake(
        "returns.exponent_from_the_start",
        "the exponent of γ counted from the start of the episode",
        "The reward of step k is weighted by γ^k in every return, not by γ^(k-t): the result is γ^t G_t.",
        "The last return is γ^(T-1) times the last reward, where it should be the reward itself.",
        (issue("hunkim/ReinforcementZeroToAll", 1),),
        (_weighted(lambda t, k, end, g: power(g, k, k >= t)),),
    ),
    Mistake(
        "returns.exponent_from_the_end",
        "the exponent of γ counted from the end of the episode",
        "The last reward has weight 1 and the first is discounted most: the weights run the wrong way.",
        "With a reward at the end alone, all returns are the same.",
        (),
        (_weighted(lambda t, k, end, g: power(g, end - k, k >= t)),),
        right_form=(_BOOK,),
    ),
    Mistake(
        "returns.first_reward_discounted",
        "the immediate reward is discounted as well",
        "The recursion is G_t = γ (R_{t+1} + G_{t+1}): every return is γ times the right one.",
        "With one step, the return is γ times the reward.",
        (pull("juliusfrost/dreamer-pytorch", 59),),
        (_weighted(lambda t, k, end, g: power(g, k - t + 1, k >= t)),),
    ),
    Mistake(
        "returns.discounted_twice",
        "γ applied twice per step",
        "The recursion multiplies by γ² for each step: later rewards count too little.",
        "The weight of the next reward is γ², not γ.",
        (issue("tensorflow/agents", 503),),
        (_weighted(lambda t, k, end, g: power(g, 2 * (k - t), k >= t)),),
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
        (_weighted(lambda t, k, end, g: power(g, k - t, (k >= t) & (k < end))), _last_reward_of_the_row_dropped),
    ),
    Mistake(
        "returns.own_reward_dropped",
        "the reward of the step itself is dropped",
        "The return starts one step late: what the action earned at once is not in it.",
        "With one step, the return is 0; in general it is that of the next step.",
        (issue("shehzaadzd/MINERVA", 28), pull("lilianweng/lil-log", 8)),
        (
            _weighted(lambda t, k, end, g: power(g, k - t - 1, k > t)),
            _weighted(lambda t, k, end, g: power(g, k - t, k > t)),
        ),
    ),
    Mistake(
        "returns.full_return",
        "the return of the whole episode at every step",
        "Each step gets G_0, which also holds rewards earned before it. As a weight of the score this is unbiased and "
        "has a larger variance; as a return to go, or a target for a value function, it is wrong.",
        "All steps of an episode have the same return.",
        (issue("udacity/deep-reinforcement-learning", 42), pull("huggingface/deep-rl-class", 95)),
        (_weighted(lambda t, k, end, g: power(g, k - (t - t), k >= 0)),),
    ),
    Mistake(
        "returns.reward_alone",
        "the reward of the step alone, not the return",
        "Nothing is summed: each action is credited with its immediate reward, as it is or discounted from the start.",
        "The result is the rewards, or γ^t times each.",
        (
            issue("hpcaitech/ColossalAI", 4491),
            pull("natolambert/rlhf-book", 216),
            issue("hunkim/ReinforcementZeroToAll", 1),
        ),
        (
            _weighted(lambda t, k, end, g: (k == t).double()),
            _weighted(lambda t, k, end, g: (k == t) * g ** t.double()),
        ),
    ),
    Mistake(
        "returns.mean_of_the_rest",
        "a mean of the later rewards instead of their sum",
        "The return is divided by the number of steps that are left.",
        "With γ = 1 and equal rewards, all returns are the same.",
        (),
        (_weighted(lambda t, k, end, g: power(g, k - t, k >= t) / (end.mT - t + 1)),),
        right_form=(_BOOK,),
    ),
    Mistake(
        "returns.standardised",
        "the returns are standardised",
        "The mean is subtracted and the result divided by the standard deviation: no longer returns, and as weights of "
        "the score biased, since both depend on the actions of the same batch.",
        "The result has mean 0, and is NaN or 0 for one step.",
        (issue("MorvanZhou/Reinforcement-learning-with-tensorflow", 128), issue("pytorch/examples", 590)),
        (
            *(_standardised(ddof, dims, a) for a in (True, False) for ddof in (0, 1) for dims in ((-1,), (-2, -1))),
            *(_then(lambda x, mask, d=d: masked_standardised(x, mask, d)) for d in (0, 1)),  # type: ignore[misc]
        ),
    ),
    Mistake(
        "returns.rewards_standardised",
        "the rewards are standardised before they are summed",
        "The mean of the rewards is taken from each: a constant reward becomes 0, and what is left of the return falls "
        "with the number of steps to come, whatever the policy does.",
        "With equal rewards the returns are 0, or NaN.",
        (pull("vwxyzjn/summarize_from_feedback_details", 17),),
        tuple(_of_standardised(ddof, dims, a) for a in (True, False) for ddof in (0, 1) for dims in ((-1,), (-2, -1))),
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
            _right_with(lambda d: shifted(d, -1, "False")),
            _right_with(lambda d: shifted(d, 1, "False")),
            _right_with(lambda d: shifted(d, 1, "True")),
        ),
    ),
    Mistake(
        "returns.padding_counted",
        "the mask is ignored",
        "What stands behind the end of an episode, or on steps that are not its own, is counted as reward.",
        "The result changes with the padding.",
        (pull("natolambert/rlhf-book", 216), issue("huggingface/trl", 7024), issue("THUDM/slime", 1370)),
        (_mask_ignored,),
    ),
    Mistake(
        "returns.rows_run_together",
        "the rows of a batch run together",
        "The batch is treated as one long episode, or the running sum is not set to zero before the next row: returns "
        "hold rewards of other rows.",
        "A single episode is right, a batch of two is not.",
        (pull("juliusfrost/dreamer-pytorch", 59), issue("apeterswu/RL4NMT", 3)),
        (_run_together(False), _run_together(True)),
    ),
    Mistake(
        "returns.cut_at_masked_steps",
        "the sum is cut at every masked step",
        "The running sum is multiplied by the mask. That is right for padding behind an answer; a tool's output inside "
        "one is masked too, and the steps before it lose everything that follows.",
        "With a hole in the mask, the steps before it do not see the reward behind it.",
        (issue("verl-project/verl", 7278), pull("verl-project/verl", 7300)),
        (_cut_at_masked_steps, _cut_behind_masked_steps),
    ),
    Mistake(
        "returns.reset_at_rewards",
        "the sum is reset at every reward that is not 0",
        "The line was written for Pong, where each reward that is not 0 ends a rally. Elsewhere each step is credited "
        "with the next reward alone.",
        "With rewards at every step the result is the rewards.",
        (issue("titu1994/neural-architecture-search", 19), issue("DLR-RM/stable-baselines3", 2089)),
        (_reset_at_rewards,),
    ),
)

CHECK = Check(
    "returns",
    2,
    args=(
        Arg("rewards", "B T", also="x"),
        Arg("gamma", also="lambda_"),
        Arg("dones", "B T", also=f"terminated {NAMES['terminated']} {NAMES['ends']}", flag=True),
        Arg("starts", "B T", of=lambda x: _starts(x.dones), flag=True),
        Arg("not_dones", "B T", also="masks", of=lambda x: (~x.dones).double(), flag=True),
        Arg("discounts", "B T", of=lambda x: x.gamma * (~x.dones).double()),
        *MASK_ARGS,
        Arg("truncated", "B T", of=lambda x: torch.zeros_like(x.dones), flag=True),
        Arg("last_value", "B", also=f"next_value {NAMES['next_value']}", of=lambda x: 0.0 * x.rewards[..., 0]),
    ),
    needs=("rewards", "gamma|discounts"),
    axes="B T",
    layouts=("[T]", "[B, T]", "[T, B]"),
    reference={"": _right, "discounted over the steps taken only": _over_steps_taken},
    cases=cases,
    mistakes=MISTAKES,
    readings=_readings,
    settle=settle,
    seen=lambda inputs, answer: torch.where(inputs["mask"], answer, 0.0),
    wanted="return ret rtg",
    of_the_batch=("returns.rows_run_together",),
    signature=("rewards", "gamma"),
    integers=("rewards",),
    example="call=lambda x: f(x.rewards.mT, x.gamma).mT  # x.rewards, x.dones, x.mask: [B, T]; the answer too",
)
