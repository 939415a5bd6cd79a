"""Are these n-step returns? And if not, which known mistake is it?"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.bootstraps import ARGS, ENDS, batches, later, readings, rows, settle
from pgtheory.checking.calling import Arg, Call
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.report import Mistake, Report, Source, issue, pull
from pgtheory.checking.verdicts import same

_SHORT = "it does something else at the end of a row, where fewer than n steps are left: here the rest is bootstrapped"


def check_n_step(
    function: Callable[..., Any] | None = None,
    *,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check a function that computes n-step returns: the k-step advantages with the value added.

    That is the discounted sum of n rewards and :math:`\gamma^n V(S_{t+n})`; behind a termination there is neither.
    Where fewer than n steps are left in a row, they are all summed and the value behind the row is added; a function
    that does something else there is right with a remark. The function may be `fn(rewards, next_values, gamma, n)`,
    with `terminated`, `dones` or a discount for each step, and with `values` and a `bootstrap`, or one value more than
    rewards, in place of the next values.

    .. no equation: the book computes advantages by all n at once

    Args:
        function: the implementation.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.rewards.mT, x.next_values.mT, ...).mT`;
            they are `x.rewards`, `x.values`, `x.next_values`, `x.terminated`, `[B, T]`, `x.gamma`, `x.n`.
        layout: the order of axes, such as `"[T, B]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"horizon": "n"}`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called, or does not return one number for each step.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Sutton and Barto, *Reinforcement Learning*, 2018, eq. (7.1).

    Example:
        >>> def returns(rewards, next_values, gamma, n):
        ...     T = len(rewards)
        ...     ends = [min(t + n, T) for t in range(T)]
        ...     sums = [sum(gamma**k * rewards[t + k] for k in range(ends[t] - t)) for t in range(T)]
        ...     return [sums[t] + gamma * next_values[ends[t] - 1] for t in range(T)]
        >>> print(check_n_step(returns).headline)
        check_n_step: WRONG, a known mistake: the value is discounted by γ, not by γ^n
    """
    return CHECK.judge(function, call=call, layout=layout, names=names)


# --- the right form, and the ways in which it is missed ---

Weight = Callable[[float, int, int], float]


def _made(
    *,
    reward: Weight = lambda g, k, n: g**k,
    value: Weight = lambda g, taken, n: g**taken,
    more: int = 0,
    cut: bool = True,
    blocked: bool = True,
    last_reward: bool = True,
    change: Callable[[Tensor, Tensor], Tensor] = lambda values, next_values: next_values,
) -> Callable[..., Tensor]:
    """Returns by the weights of rewards and of the value, after k steps of n, and what a termination does."""

    def returns(
        rewards: Tensor, values: Tensor, next_values: Tensor, terminated: Tensor, gamma: float, n: int
    ) -> Tensor:
        reached = change(values, next_values).tolist()
        found = [
            [total(row[t:], behind[t:], ends[t:], gamma, n) for t in range(len(row))]
            for row, behind, ends in zip(rewards.tolist(), reached, terminated.tolist(), strict=True)
        ]
        return torch.tensor(found, dtype=rewards.dtype)

    def total(rewards: list[float], behind: list[float], ends: list[bool], gamma: float, n: int) -> float:
        found, ended, taken = 0.0, False, 0
        for k in range(min(n + more, len(rewards))):
            found += reward(gamma, k, n) * rewards[k] * (last_reward or not ends[k])
            ended, taken = ended or ends[k], k + 1
            if ends[k] and cut:
                break
        return found + (value(gamma, taken, n) * behind[taken - 1] if taken and not (ended and blocked) else 0.0)

    return returns


_BOOK = Source("Sutton and Barto, 2018, eq. (7.1)", "http://incompleteideas.net/book/the-book-2nd.html")

MISTAKES = (
    Mistake(
        "n_step.value_discounted_once",
        "the value is discounted by γ, not by γ^n",
        "It counts as if it came after one step.",
        "With n = 1 it is right.",
        (
            issue("younggyoseo/FastTD3", 6),
            pull("younggyoseo/FastTD3", 7),
            pull("Stable-Baselines-Team/stable-baselines3-contrib", 297),
        ),
        (_made(value=lambda g, taken, n: g),),
    ),
    Mistake(
        "n_step.value_not_discounted",
        "the value is not discounted",
        "The value behind n rewards counts whole.",
        "With γ = 1 it is right.",
        (),
        (_made(value=lambda g, taken, n: 1.0),),
        right_form=(_BOOK,),
    ),
    Mistake(
        "n_step.rewards_not_discounted",
        "the rewards are not discounted",
        "n rewards are added up, and only the value is discounted.",
        "With n = 1 it is right.",
        (issue("Curt-Park/rainbow-is-all-you-need", 10),),
        (_made(reward=lambda g, k, n: 1.0),),
    ),
    Mistake(
        "n_step.first_reward_discounted",
        "the first reward is discounted as well",
        "The weights of the rewards are γ to γ^n.",
        "With n = 1 the reward has the weight γ.",
        (pull("juliusfrost/dreamer-pytorch", 59),),
        (_made(reward=lambda g, k, n: g ** (k + 1)),),
    ),
    Mistake(
        "n_step.one_step_more",
        "one step too many",
        "n + 1 rewards are summed, and the value is that behind them.",
        "With n = 1 it is the two-step return.",
        (issue("Kaixhin/Rainbow", 7),),
        (_made(more=1), _made(more=1, value=lambda g, taken, n: g ** min(taken, n))),
    ),
    Mistake(
        "n_step.one_step_less",
        "one step too few",
        "n - 1 rewards are summed.",
        "With n = 1 no reward is in the return.",
        (issue("Kaixhin/Rainbow", 7),),
        (_made(more=-1), _made(more=-1, value=lambda g, taken, n: g ** (taken + 1))),
    ),
    Mistake(
        "n_step.value_of_the_step_before",
        "the value of the state before",
        "V(S_{t+n-1}) stands where V(S_{t+n}) belongs.",
        "With n = 1 the return changes with the value of its own state.",
        (issue("Curt-Park/rainbow-is-all-you-need", 10),),
        (_made(change=lambda values, next_values: values),),
    ),
    Mistake(
        "n_step.value_of_the_step_after",
        "the value of the state after",
        "V(S_{t+n+1}) stands where V(S_{t+n}) belongs.",
        "The return changes with a value that no step has reached.",
        (issue("keraJLi/rejax", 34),),
        (_made(change=lambda values, next_values: later(next_values)),),
    ),
    Mistake(
        "n_step.into_the_next_episode",
        "the sum goes on through a termination",
        "Rewards, and the value, of the next episode are in the return.",
        "It does not change with the flags, or only by its value.",
        (pull("younggyoseo/FastTD3", 7), issue("thu-ml/tianshou", 135)),
        (_made(cut=False, blocked=False), _made(cut=False)),
    ),
    Mistake(
        "n_step.bootstraps_after_termination",
        "bootstraps after a termination",
        "The sum is cut where an episode terminates, and a value is added all the same.",
        "The return of a step that terminates changes with the value of the terminal state.",
        (issue("openai/spinningup", 257), pull("ray-project/ray", 2737)),
        (_made(blocked=False), _made(blocked=False, value=lambda g, taken, n: g**n)),
    ),
    Mistake(
        "n_step.last_reward_dropped",
        "the reward of the step that terminates is dropped",
        "The flag is multiplied in one step early: often the only reward that is not 0 is lost.",
        "The return of a step that terminates is 0.",
        (issue("thu-ml/tianshou", 135),),
        (_made(last_reward=False),),
    ),
    Mistake(
        "n_step.no_value",
        "nothing is bootstrapped",
        "n rewards are summed, and the value is left out.",
        "The result does not change with the values.",
        (),
        (_made(value=lambda g, taken, n: 0.0),),
        right_form=(_BOOK,),
    ),
)


_OF_ENDS = ("n_step.into_the_next_episode", "n_step.bootstraps_after_termination", "n_step.last_reward_dropped")


def cases(facts: frozenset[str]) -> list[Case]:
    """Rows with ends and without, n from 1 to beyond the row; where fewer are left is a case of its own."""
    found = []
    for marks in batches(facts):
        for n, gamma in ((1, 0.5), (2, 0.5), (3, 0.9), (2, 1.0), (10, 0.9)):
            short = any(row[-1] != "T" for row in marks) and n > 1
            found.append(rows(marks, gamma, n=n, whole=not short))
            found += [rows(marks, gamma, n=n, whole=True)._replace(delicate=_SHORT)] if short else []
    return sorted(found, key=lambda case: case.inputs["rewards"].shape[-1])


def _seen(x: Mapping[str, Any], answer: Tensor) -> Tensor:
    """The answer, but where fewer than n steps are left, if that is another case."""
    ended = x["terminated"].flip(-1).cummax(-1).values.flip(-1)
    left = torch.arange(answer.shape[-1], 0, -1)
    return answer if x["whole"] else torch.where(ended[: len(answer)] | (left >= x["n"]), answer, 0.0)


def _close(x: Mapping[str, Any], got: Tensor | Exception, expected: Tensor | Exception) -> bool:
    return same(got, expected)


CHECK = Check(
    "n_step",
    8,
    args=(*ARGS, Arg("n", also="n_step n_steps nstep nsteps multi_step num_steps horizon k")),
    needs=("rewards", "next_values|next_value|values", "gamma|discounts|not_dones", "n"),
    signature=("rewards", "next_values", "gamma", "n"),
    axes="B T",
    layouts=("[T]", "[B, T]", "[T, B]", "[B, T, 1]", "[T, B, 1]"),
    reference=_made(),
    cases=cases,
    mistakes=MISTAKES,
    readings=readings,
    settle=settle,
    seen=_seen,
    applies=lambda mistake, facts: bool(facts & ENDS) or mistake.key not in _OF_ENDS,
    close=_close,
    wanted="return target",
    example="call=lambda x: f(x.rewards.mT, x.next_values.mT, x.gamma, x.n).mT  # [B, T]",
)
