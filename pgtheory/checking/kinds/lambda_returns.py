"""Are these λ-returns? And if not, which known mistake is it?"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.bootstraps import ARGS, backwards, batches, later, readings, rows, settle
from pgtheory.checking.calling import Arg, Call
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.report import Mistake, Report, Source, issue, pull


def check_lambda_returns(
    function: Callable[..., Any] | None = None,
    *,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check a function that computes λ-returns, which are the advantages of :eq:`eq-gae` plus the values.

    That is :math:`G_t = R_{t+1} + \gamma ((1 - \lambda) V(S_{t+1}) + \lambda G_{t+1})`, where nothing is added to the
    reward of a step that terminates, and the last G of a row is the value behind it. The function may be
    `fn(rewards, next_values, gamma, lam)`, with `terminated`, `dones`, `continues` or a discount for each step; in
    place of the next values it may take `values` and a `bootstrap`, or one value more than rewards.

    Args:
        function: the implementation.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.rewards.mT, x.next_values.mT, ...).mT`;
            they are `x.rewards`, `x.values`, `x.next_values`, `x.terminated`, `[B, T]`, `x.gamma`, `x.lam`.
        layout: the order of axes, such as `"[T, B]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"pred": "next_values"}`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called, or does not return one number for each step.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Sutton and Barto, *Reinforcement Learning*, 2018, eq. (12.2) and (12.3).

    Example:
        >>> def returns(rewards, next_values, discounts, lam):
        ...     total, result = next_values[-1], []
        ...     for r, v, d in zip(reversed(rewards), reversed(next_values), reversed(discounts)):
        ...         total = r + d * (v + lam * total)
        ...         result.insert(0, total)
        ...     return result
        >>> print(check_lambda_returns(returns).headline)
        check_lambda_returns: WRONG, a known mistake: the factor 1 - λ is missing
    """
    return CHECK.judge(function, call=call, layout=layout, names=names)


# --- the right form, and the ways in which it is missed ---

Step = Callable[..., Tensor]


def _made(
    step: Callable[[Tensor, Tensor, Tensor, float, float, Tensor], Tensor],
    *,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda x: x,
    seed: Callable[[Tensor], Tensor] = lambda last: last,
) -> Step:
    """Returns by a step (reward, value, going, γ, λ, what follows); `change` changes the columns before."""

    def returns(
        rewards: Tensor, values: Tensor, next_values: Tensor, terminated: Tensor, gamma: float, lam: float
    ) -> Tensor:
        x = {"rewards": rewards, "own": values, "next": next_values, "going": (~terminated).double()}
        x = change(x)
        return backwards(
            lambda c, after: step(c["rewards"], c["next"], c["going"], gamma, lam, after),
            seed(next_values[..., -1]),
            **x,
        )

    return returns


def _mixed(r: Tensor, v: Tensor, going: Tensor, g: float, lam: float, after: Tensor) -> Tensor:
    return r + g * going * ((1 - lam) * v + lam * after)


def _minus_values(
    rewards: Tensor, values: Tensor, next_values: Tensor, terminated: Tensor, gamma: float, lam: float
) -> Tensor:
    return _right(rewards, values, next_values, terminated, gamma, lam) - values


_right = _made(_mixed)
_BOOK = Source("Sutton and Barto, 2018, eq. (12.2)", "http://incompleteideas.net/book/the-book-2nd.html")

MISTAKES = (
    Mistake(
        "lambda_returns.weight_missing",
        "the factor 1 - λ is missing",
        "The value counts whole, and what follows by λ besides: the weights add up to more than 1.",
        "With λ = 1 the value is added to a return that holds it already.",
        (),
        (_made(lambda r, v, going, g, lam, after: r + g * going * (v + lam * after)),),
        right_form=(_BOOK,),
    ),
    Mistake(
        "lambda_returns.exchanged",
        "λ and 1 - λ are exchanged",
        "λ weighs the value, and 1 - λ what follows.",
        "With λ = 0 it is the return of the whole row, with λ = 1 the one-step target.",
        (),
        (_made(lambda r, v, going, g, lam, after: r + g * going * (lam * v + (1 - lam) * after)),),
        right_form=(_BOOK,),
    ),
    Mistake(
        "lambda_returns.own_value",
        "bootstraps from the value of the state itself",
        "V(S_t) stands where V(S_{t+1}) belongs: rewards and values are not aligned.",
        "The return of a step changes with the value of its own state.",
        (issue("danijar/dreamerv3", 14), issue("danijar/dreamerv3", 181)),
        (_made(_mixed, change=lambda x: {**x, "next": x["own"]}),),
    ),
    Mistake(
        "lambda_returns.two_steps_ahead",
        "bootstraps from the value after the next",
        "V(S_{t+2}) stands where V(S_{t+1}) belongs: values of the states that steps lead to are shifted once more.",
        "The return of a step changes with the value two steps ahead, and not with the next.",
        (issue("keraJLi/rejax", 34), pull("keraJLi/rejax", 35)),
        (_made(_mixed, change=lambda x: {**x, "next": later(x["next"])}),),
    ),
    Mistake(
        "lambda_returns.reward_of_the_next_step",
        "the reward of the next step",
        "The first reward is dropped, and each step gets the one that comes after its own.",
        "The first reward is in no return.",
        (issue("kc-ml2/SimpleDreamer", 6), issue("danijar/dreamerv3", 190)),
        (
            _made(_mixed, change=lambda x: {**x, "rewards": later(x["rewards"])}),
            _made(_mixed, change=lambda x: {**x, "rewards": later(x["rewards"], 0 * x["rewards"][..., -1])}),
        ),
    ),
    Mistake(
        "lambda_returns.value_instead_of_the_last_reward",
        "the value, where an episode terminates",
        "Where a step terminates the return is a value, not the reward of the step, which is lost.",
        "The return of a step that terminates does not change with its reward.",
        (issue("bold-lab-ai/JaxMARL", 93),),
        (
            _made(lambda r, v, going, g, lam, after: torch.where(going > 0, _mixed(r, v, going, g, lam, after), v)),
            _made(lambda r, v, going, g, lam, after: torch.where(going > 0, _mixed(r, v, going, g, lam, after), g * v)),
        ),
    ),
    Mistake(
        "lambda_returns.flags_ignored",
        "terminations are ignored",
        "A step that terminates bootstraps, and what follows belongs to another episode.",
        "The result does not change with the flags.",
        (issue("thu-ml/tianshou", 869), issue("vietnh1009/Super-mario-bros-PPO-pytorch", 21)),
        (_made(lambda r, v, going, g, lam, after: _mixed(r, v, 0 * going + 1, g, lam, after)),),
    ),
    Mistake(
        "lambda_returns.not_cut",
        "what follows a termination is not cut",
        "The value is left out where a step terminates, and the returns of the next episode are not.",
        "With λ = 0 it is right.",
        (pull("pytorch/rl", 2773),),
        (_made(lambda r, v, going, g, lam, after: r + g * (going * (1 - lam) * v + lam * after)),),
    ),
    Mistake(
        "lambda_returns.bootstraps_after_termination",
        "bootstraps after a termination",
        "What follows is cut where a step terminates, and the value is added all the same.",
        "The return of a step that terminates changes with the value of the terminal state.",
        (issue("openai/spinningup", 257),),
        (_made(lambda r, v, going, g, lam, after: r + g * ((1 - lam) * v + going * lam * after)),),
    ),
    Mistake(
        "lambda_returns.seeded_with_zero",
        "the last step has only a part of its value",
        "The recursion begins with 0, not with the value behind the row: of the last value 1 - λ is left.",
        "With λ = 1 no value is in the result.",
        (pull("Eclectic-Sheep/sheeprl", 67),),
        (_made(_mixed, seed=torch.zeros_like),),
    ),
    Mistake(
        "lambda_returns.gamma_missing",
        "γ is missing from what follows",
        "The value is discounted, and the return that follows is not.",
        "With λ = 0, or γ = 1, it is right.",
        (pull("chainer/chainerrl", 126),),
        (_made(lambda r, v, going, g, lam, after: r + going * (g * (1 - lam) * v + lam * after)),),
    ),
    Mistake(
        "lambda_returns.advantages",
        "advantages, not returns",
        "The values are subtracted: as a target it teaches the value function 0.",
        "The result plus the values is right.",
        (),
        (_minus_values,),
        right_form=(_BOOK,),
    ),
    Mistake(
        "lambda_returns.lambda_ignored",
        "λ is ignored",
        "It is the one-step target, or the return of the whole row, whatever λ is.",
        "The result does not change with λ.",
        (),
        (
            _made(lambda r, v, going, g, lam, after: _mixed(r, v, going, g, 0.0, after)),
            _made(lambda r, v, going, g, lam, after: _mixed(r, v, going, g, 1.0, after)),
        ),
        right_form=(_BOOK,),
    ),
)


def cases(facts: frozenset[str]) -> list[Case]:
    """Rows with ends and without, λ at 0 and 1 and between, γ near 1 and at 1; the smallest first."""
    factors = ((0.5, 0.8), (0.9, 0.3), (1.0, 0.95), (0.999, 1.0), (0.7, 0.0))
    first = [rows(marks, *factors[0][:1], lam=factors[0][1]) for marks in batches(facts)]
    more = [rows(marks, gamma, lam=lam) for marks in batches(facts)[3:] for gamma, lam in factors[1:]]
    return [*first, *(x if x.inputs["lam"] else x._replace(delicate="it fails at λ = 0", or_fails=True) for x in more)]


CHECK = Check(
    "lambda_returns",
    8,
    args=(*ARGS, Arg("lam", also="return_lambda td_lambda")),
    needs=("rewards", "next_values|next_value|values", "gamma|discounts|not_dones", "lam"),
    signature=("rewards", "next_values", "gamma", "lam"),
    axes="B T",
    layouts=("[T]", "[B, T]", "[T, B]", "[B, T, 1]", "[T, B, 1]"),
    reference=_right,
    cases=cases,
    mistakes=MISTAKES,
    readings=readings,
    settle=settle,
    wanted="return target lambda",
    example="call=lambda x: f(x.rewards.mT, x.next_values.mT, ...).mT  # x.rewards, x.terminated: [B, T]",
)
