"""Are these the rewards of tokens with a KL penalty and a score at the end? And if not, which known mistake is it?"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Call, Inputs, Layout, parts_of, shaped
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.report import Mistake, Report, arxiv, issue, pull

F64 = torch.float64
_ZIEGLER = arxiv("Ziegler et al., 2019, eq. (2)", "1909.08593")
_OUYANG = arxiv("Ouyang et al., 2022, eq. (2)", "2203.02155")
_TRL = issue("huggingface/trl", 200)
_UNMASKED = "it leaves the penalty on masked tokens: what sums the rewards has to mask them"
_GRADIENT = "its rewards carry a gradient of the log-probabilities: call it without gradients, or detach it"
_NAN = "it is NaN where a masked token has no log-probability: 0 times NaN"
_FULLY_MASKED = "it fails where no token of a response counts"


def check_kl_in_reward(
    function: Callable[..., Any] | None = None,
    *,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check rewards of tokens that hold a penalty for the distance to a reference, and a score on the last token.

    For each token that counts :math:`-\beta \hat k_t`, with an estimate of :eq:`eq-kl-estimators` of
    :math:`\mathrm{KL}(\pi \| \pi_{\mathrm{ref}})`, and on the last of them the score of the response as well. The
    function may be `fn(scores, log_probs, ref_log_probs, mask, beta)` with scores `[B]` and the others `[B, T]`; by the
    names of its arguments it may take token-level scores, or the lengths of the responses. It returns the rewards
    `[B, T]`, alone, in a tuple or in a dictionary, or their sum for each response. k1, k2 and k3 are right, and the
    report says which it is.

    Args:
        function: the implementation.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.scores, x.log_probs, x.ref_log_probs)`;
            they are `x.scores`, `[B]`, `x.log_probs`, `x.ref_log_probs` and `x.mask`, `[B, T]`, and `x.beta`.
        layout: the order of axes, such as `"[T]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"x": "log_probs"}`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called, or does not return one reward for each token or response.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Ziegler et al., "Fine-Tuning Language Models from Human Preferences", 2019, eq. (2).

    Example:
        >>> def rewards(scores, log_probs, ref_log_probs, mask, beta):
        ...     rewards = -beta * (log_probs - ref_log_probs) * mask
        ...     rewards[:, -1] += scores
        ...     return rewards
        >>> print(check_kl_in_reward(rewards).headline)
        check_kl_in_reward: WRONG, a known mistake: the score stands on padding, behind the last token
    """
    return CHECK.judge(function, call=call, layout=layout, names=names)


# --- the cases ---


def cases(facts: frozenset[str]) -> list[Case]:
    """Responses of one token and of several; padded, with holes and with padding before if a mask is asked for."""
    found = [_case(1, "1 1"), _case(2, "11 11"), _case(3, "111 111"), _case(4, "11111 11111"), _case(5, "111")]
    if "beta" in facts:
        found += [_case(6, "111 111", beta=0.5), _case(7, "11 11", beta=0.0)]
    if facts & {"mask", "padding", "lengths", "token_scores"}:
        found += [_case(8, "110 111"), _case(9, "1000 1110"), _case(10, "11100 11000 11110")]
    if facts & {"mask", "padding", "token_scores"} and "lengths" not in facts:
        found += [_case(11, "1011 1101"), _case(12, "0111 0011"), _case(13, "10110 01101")]
        found.append(_case(14, "00 11", why=_FULLY_MASKED)._replace(or_fails=False))
        found.append(_case(15, "101 110", hidden=math.nan, why=_NAN))
    return found


def _case(seed: int, rows: str, *, beta: float = 0.1, hidden: float = 0.0, why: str = "") -> Case:
    """Fixed numbers, with others where the mask is 0, to which `hidden` is added."""
    mask = torch.tensor([[c == "1" for c in row] for row in rows.split()])
    place = torch.arange(mask.numel(), dtype=F64).reshape(mask.shape) + 1.7 * seed
    log_probs = -1.6 - (1.3 * place).cos() / 2
    ratio = 0.9 * (2.1 * place).sin() + 0.15
    ref = torch.where(mask, log_probs - ratio, log_probs - 3.0)
    scores = torch.tensor([2.5, -1.25, 0.75], dtype=F64)[: len(mask)] + 0.1 * seed
    log_probs, ref = (torch.where(mask, x, x + hidden) for x in (log_probs, ref))
    values = {"log_probs": log_probs, "ref_log_probs": ref, "mask": mask, "scores": scores, "beta": beta}
    return Case(values, why, or_fails=True)


def _last(mask: Tensor) -> Tensor:
    """True on the last token that counts of each response."""
    return mask & (mask.flip(-1).cumsum(-1).flip(-1) == 1)


# --- what was returned ---

_TOKEN, _RESPONSE = "each token", "each response"


def _observe(call: Call, layout: Layout, inputs: Inputs, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """The parts of the answer by what their shape says that they are; and remarks on masked tokens and gradients."""
    leaf = inputs.canonical["log_probs"].requires_grad_()
    with torch.enable_grad():
        output = parts_of(call(inputs.replaced(log_probs=leaf * 1.0)), "reward")
    found = shaped(output, layout, {_TOKEN: sizes, _RESPONSE: {**sizes, "T": 1}})
    first, value = next(iter(found.values())), next(iter(output.values()))
    mask = inputs.canonical["mask"]
    left = ~mask & mask.any(-1, keepdim=True)
    scores = inputs.canonical["scores"][:, None].expand_as(mask)
    if first.shape == mask.shape and bool(((first != 0) & ~first.isclose(scores) & ~first.isnan())[left].any()):
        inputs.notes.add(_UNMASKED)
    if isinstance(value, Tensor) and value.requires_grad:
        inputs.notes.add(_GRADIENT)
    return found


def _seen(x: Mapping[str, Any], answer: Tensor) -> Tensor:
    return torch.where(x["mask"], answer, 0.0) if answer.shape == x["mask"].shape else answer


# --- right forms, and the known mistakes: the parts that a mistake replaces ---

_Estimate = Callable[[Tensor, Tensor], Tensor]
_Place = Callable[[Tensor, Tensor], Tensor]

_ESTIMATES: Mapping[str, _Estimate] = {
    "k1, the log-ratio": lambda p, q: p - q,
    "k3": lambda p, q: (q - p).exp() - 1 - (q - p),
    "k2, half of the square": lambda p, q: (p - q).square() / 2,
}
_OTHERS: Mapping[str, _Estimate] = {
    "the absolute value of the log-ratio": lambda p, q: (p - q).abs(),
    "the square of the log-ratio": lambda p, q: (p - q).square(),
    "the log-ratio, cut at 0": lambda p, q: (p - q).clamp(min=0),
}


def _at_last(scores: Tensor, mask: Tensor) -> Tensor:
    return scores[:, None] * _last(mask)


def _rewards(
    estimate: _Estimate,
    place: _Place = _at_last,
    penalty: Callable[[Tensor, float, Tensor], Tensor] = lambda kl, beta, mask: beta * kl,
    joined: Callable[[Tensor, Tensor], Tensor] = torch.sub,
) -> Callable[..., Tensor]:
    """The score at its place, less the penalty."""

    def implementation(
        scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float, **rest: Any
    ) -> Tensor:
        kl = estimate(log_probs, ref_log_probs)
        return joined(place(scores, mask), torch.where(mask, penalty(torch.where(mask, kl, 0.0), beta, mask), 0.0))

    return implementation


def _summed(rewards: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The sum of the rewards of each response."""

    def implementation(
        scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float, **rest: Any
    ) -> Tensor:
        found = rewards(scores, log_probs, ref_log_probs, mask, beta, **rest)
        return torch.where(mask, found, 0.0).sum(-1, keepdim=True)

    return implementation


def _each(**options: Any) -> tuple[Callable[..., Tensor], ...]:
    """A mistake with each estimate."""
    return tuple(_rewards(estimate, **options) for estimate in (*_ESTIMATES.values(), *_OTHERS.values()))


def _at_end(scores: Tensor, mask: Tensor) -> Tensor:
    return scores[:, None] * (torch.arange(mask.shape[1]) == mask.shape[1] - 1)


def _behind_last(scores: Tensor, mask: Tensor) -> Tensor:
    """On the first masked place behind the last token; on this where there is none."""
    behind = _last(mask).roll(1, -1)
    behind[:, 0] = False
    return scores[:, None] * torch.where(behind.any(-1, keepdim=True), behind, _last(mask))


def _by_count(offset: int) -> _Place:
    """On the place whose number is how many tokens count, plus an offset."""

    def place(scores: Tensor, mask: Tensor) -> Tensor:
        where = (mask.sum(-1, keepdim=True) + offset).clamp(0, mask.shape[1] - 1)
        return scores[:, None] * (torch.arange(mask.shape[1]) == where)

    return place


def _before_last(scores: Tensor, mask: Tensor) -> Tensor:
    place = torch.arange(mask.shape[1])
    last = torch.where(_last(mask), place, -1).amax(-1, keepdim=True)
    return scores[:, None] * (place == (last - 1).clamp(min=0))


def _at_first(scores: Tensor, mask: Tensor) -> Tensor:
    return scores[:, None] * (mask & (mask.cumsum(-1) == 1))


def _overwritten(estimate: _Estimate) -> Callable[..., Tensor]:
    rewards = _rewards(estimate)

    def implementation(
        scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float, **rest: Any
    ) -> Tensor:
        found = rewards(scores, log_probs, ref_log_probs, mask, beta)
        return torch.where(_last(mask), scores[:, None].expand_as(found), found)

    return implementation


def _penalty_unmasked(estimate: _Estimate) -> Callable[..., Tensor]:
    """The sum over each response, with the penalty of its padding."""

    def implementation(
        scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float, **rest: Any
    ) -> Tensor:
        return (scores - beta * estimate(log_probs, ref_log_probs).sum(-1))[:, None]

    return implementation


def _multiplied_by_the_mask(estimate: _Estimate) -> Callable[..., Tensor]:
    """The sum over each response, with masked tokens multiplied by 0."""

    def implementation(
        scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float, **rest: Any
    ) -> Tensor:
        found = scores * mask.any(-1) - beta * (estimate(log_probs, ref_log_probs) * mask).sum(-1)
        return found[:, None]

    return implementation


def _to_the_others(kl: Tensor, beta: float, mask: Tensor) -> Tensor:
    return beta * kl.sum(-1, keepdim=True).expand_as(kl)


MISTAKES = (
    Mistake(
        "kl_in_reward.sign",
        "the penalty has the wrong sign: distance to the reference is rewarded",
        "β times the estimate is added to the score, or the log-ratio has the reference first: the policy is paid for "
        "leaving the reference.",
        "A token that is more probable than under the reference has a larger reward for it.",
        (issue("microsoft/KID", 5),),
        _each(joined=torch.add),
        right_form=(_ZIEGLER, issue("huggingface/trl", 463)),
    ),
    Mistake(
        "kl_in_reward.k3_of_the_inverse",
        "k3 with the ratio inverted",
        "exp(x) - 1 - x of the log-ratio log π - log π_ref, whose expectation under π is not the divergence: it grows "
        "without bound. k3 takes log π_ref - log π.",
        "A token three times as probable as under the reference costs 0.90, not 0.43.",
        (issue("walkinglabs/hands-on-modern-rl", 27),),
        (_rewards(lambda p, q: (p - q).exp() - 1 - (p - q)),),
    ),
    Mistake(
        "kl_in_reward.ratio_without_logarithm",
        "the ratio of the probabilities, not its logarithm",
        "π / π_ref is 1, not 0, where the policies agree: every token is punished.",
        "Where the policies agree, the penalty is β.",
        (),
        tuple(map(_rewards, (lambda p, q: (p - q).exp(), lambda p, q: (q - p).exp(), lambda p, q: p.exp() - q.exp()))),
        right_form=(_ZIEGLER,),
    ),
    Mistake(
        "kl_in_reward.score_behind_the_end",
        "the score stands on padding, behind the last token",
        "It is put on the last place of the row, or on the one behind the end of the response, which the mask takes "
        "away: what the response earned is lost, or comes one step late.",
        "A padded response has the score on none of its tokens.",
        (issue("huggingface/trl", 3750), issue("wyf3/llm_related", 37), pull("radixark/miles", 1827)),
        (*_each(place=_at_end), *_each(place=_behind_last), *_each(place=_by_count(0))),
    ),
    Mistake(
        "kl_in_reward.score_before_the_end",
        "the score stands before the last token",
        "It is one token early, or on the first token: in an advantage with λ < 1 the last token gets no credit for "
        "the score.",
        "The last token has the penalty alone.",
        (),
        (*_each(place=_before_last), *_each(place=_at_first), *_each(place=_by_count(-2))),
        right_form=(_TRL,),
    ),
    Mistake(
        "kl_in_reward.place_counted",
        "the place of the score is how many tokens count",
        "The sum of the mask is the place of the last token only where nothing is masked before it: with padding on "
        "the left, or a tool's output inside, it is another.",
        "A response with a hole in its mask has the score on the wrong token.",
        (issue("huggingface/trl", 2778),),
        _each(place=_by_count(-1)),
    ),
    Mistake(
        "kl_in_reward.score_on_every_token",
        "the score stands on every token",
        "The rewards of a response sum to its score once for each token: long responses earn more.",
        "The sum of the rewards without a penalty is the score times the length.",
        (),
        (
            *_each(place=lambda scores, mask: scores[:, None] * mask),
            *_each(place=lambda scores, mask: scores[:, None] * mask / mask.sum(-1, keepdim=True)),
        ),
        right_form=(_OUYANG, issue("huggingface/trl", 11)),
    ),
    Mistake(
        "kl_in_reward.score_missing",
        "the score is missing",
        "The rewards are the penalty alone.",
        "The result does not change with the scores.",
        (),
        _each(place=lambda scores, mask: 0.0 * scores[:, None]),
        right_form=(_OUYANG,),
    ),
    Mistake(
        "kl_in_reward.penalty_overwritten",
        "the score replaces the penalty of the last token",
        "It is assigned, not added: the last token, often the end of the response, has no penalty.",
        "With one token the reward is the score.",
        (),
        tuple(_overwritten(e) for e in (*_ESTIMATES.values(), *_OTHERS.values())),
        right_form=(_TRL,),
    ),
    Mistake(
        "kl_in_reward.penalty_missing",
        "the penalty is missing",
        "β is taken and not used, or the log-probabilities are compared with themselves.",
        "The result does not change with the reference.",
        (issue("THUDM/slime", 397),),
        (_rewards(lambda p, q: 0.0 * p),),
    ),
    Mistake(
        "kl_in_reward.beta_ignored",
        "the coefficient is ignored",
        "The penalty counts fully, whatever β is.",
        "The result does not change with β.",
        (),
        _each(penalty=lambda kl, beta, mask: kl),
        right_form=(_ZIEGLER,),
    ),
    Mistake(
        "kl_in_reward.beta_twice",
        "the coefficient is applied twice",
        "The penalty is multiplied by β in two places, and is β² times the estimate.",
        "With β = 0.1 the penalty is a tenth of the right one.",
        (),
        _each(penalty=lambda kl, beta, mask: beta**2 * kl),
        right_form=(_ZIEGLER,),
    ),
    Mistake(
        "kl_in_reward.sequence_penalty_on_every_token",
        "the penalty of the whole response on every token",
        "The estimates are summed, or averaged, over the response before they are taken off each token: the sum counts "
        "once for each token, and no token is charged for its own part.",
        "All tokens of a response have the same penalty.",
        (),
        (
            *_each(penalty=_to_the_others),
            *_each(penalty=lambda kl, beta, mask: _to_the_others(kl, beta, mask) / mask.sum(-1, keepdim=True)),
            *_each(penalty=lambda kl, beta, mask: beta * kl.sum() / mask.sum() + 0.0 * kl),
        ),
        right_form=(_ZIEGLER,),
    ),
    Mistake(
        "kl_in_reward.padding_penalised",
        "the penalty of padding is counted",
        "The penalty of the response is summed over all places: what stands behind its end, or came from a tool, is "
        "charged to it.",
        "The sum changes with the padding.",
        (pull("THUDM/slime", 1372), pull("natolambert/rlhf-book", 216), issue("huggingface/trl", 6803)),
        tuple(_penalty_unmasked(e) for e in (*_ESTIMATES.values(), *_OTHERS.values())),
    ),
    Mistake(
        "kl_in_reward.nan_of_padding",
        "the penalty of padding is multiplied by 0, and NaN times 0 is NaN",
        "A masked token may have no log-probability. Multiplied by the mask it stays NaN, and makes the sum over "
        "the response NaN; selected by the mask it is gone.",
        "One NaN under the mask makes the result NaN.",
        (pull("verl-project/verl", 6361),),
        tuple(map(_multiplied_by_the_mask, (*_ESTIMATES.values(), *_OTHERS.values()))),
        severity="remark",
    ),
    Mistake(
        "kl_in_reward.biased",
        "a penalty that is no estimate of the divergence",
        "The absolute value, the square or the positive part of the log-ratio: some libraries offer it, and it "
        "punishes any difference, but its expectation is not the divergence.",
        "Where the log-ratio is below 0, the reward falls all the same, or does not rise.",
        (issue("tatsu-lab/alpaca_farm", 67), pull("one-covenant/grail", 42)),
        (*map(_rewards, _OTHERS.values()), *(_summed(_rewards(e)) for e in _OTHERS.values())),
        severity="remark",
    ),
)


def _applies(mistake: Mistake, facts: frozenset[str]) -> bool:
    return "beta" in facts or not mistake.key.endswith(("beta_ignored", "beta_twice"))


CHECK = Check(
    "kl_in_reward",
    8,
    args=(
        Arg("log_probs", "B T", "old_log_probs old_logprobs old_logps old_log_prob rollout_log_probs logits_logprobs"),
        Arg("ref_log_probs", "B T", "ref reference base"),
        Arg("mask", "B T", flag=True),
        Arg("padding", "B T", of=lambda x: ~x.mask, flag=True),
        Arg("scores", "B", "score rewards reward r rm_scores rm_score reward_score reward_scores sequence_rewards rew"),
        Arg("beta", also="kl_ctl kl_ctl_value kl_scale kl_ratio"),
        Arg(
            "token_scores",
            "B T",
            "token_level_scores token_level_rewards token_rewards",
            of=lambda x: _at_last(x.scores, x.mask),
        ),
        Arg("lengths", "B", "sequence_lengths response_lengths num_actions", of=lambda x: x.mask.sum(-1)),
        Arg("kl", "B T", "kls kl_div log_ratio log_ratios", of=lambda x: x.log_probs - x.ref_log_probs),
    ),
    needs=("log_probs|kl", "ref_log_probs|kl", "scores|token_scores"),
    signature=("scores", "log_probs", "ref_log_probs", "mask", "beta"),
    axes="B T",
    layouts=("[B, T]", "[T]", "[1, B, T]"),
    reference={
        **{f"the penalty {name}, on each token": _rewards(estimate) for name, estimate in _ESTIMATES.items()},
        **{f"the penalty {name}, in one number": _summed(_rewards(e)) for name, e in _ESTIMATES.items()},
    },
    cases=cases,
    mistakes=MISTAKES,
    seen=_seen,
    observe=_observe,
    applies=_applies,
    wanted="reward",
    example="call=lambda x: f(x.scores, x.log_probs, x.ref_log_probs, x.mask, x.beta)  # [B], [B, T]; rewards [B, T]",
)
