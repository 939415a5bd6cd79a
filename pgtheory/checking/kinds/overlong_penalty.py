"""Is this the penalty on answers that come near the limit of length? And if not, which known mistake is it?"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Call, Misfit, roles_of, taking
from pgtheory.checking.episodes import F64, MASK_ARGS
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.report import Mistake, Report, arxiv, issue, pull

_DAPO = arxiv("Yu et al., 2025, section 3.4 and eq. (13)", "2503.14476")
_NO_BUFFER = "it fails where the buffer is empty"
_ALL_BUFFER = "it refuses a buffer as long as the limit"
_BEYOND = "beyond the limit it does not end at minus the factor"


def check_overlong_penalty(
    function: Callable[..., Any] | None = None,
    *,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check the soft penalty of DAPO on answers that are nearly too long, alone or added to rewards.

    It is 0 up to :math:`L_{\max} - L_{\mathrm{buffer}}` tokens, falls from there in a straight line, is -1 at
    :math:`L_{\max}`, and stays there; times a factor, where the function takes one. Published forms agree as far as
    the limit, and beyond it some go on falling, which gets a remark.

    .. no equation: penalties on the length of answers are outside the book

    The function may be `fn(lengths, max_length, buffer)` on tensors, arrays or lists, for one answer or a batch. By
    the names of its arguments it may take a `mask`, lists of tokens (`completion_ids`), `rewards` to which it adds the
    penalty, and a `factor`. One that has its limit from elsewhere is declared, by
    `call=lambda x: make(x.max_length, x.buffer)(x.completion_ids)`.

    Args:
        function: the implementation.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.lengths, x.max_length, x.buffer)`;
            they are `x.mask`, `[B, T]`, of the tokens that the model wrote, with holes where a tool or a user wrote,
            `x.rewards` and `x.prompt_lengths`, `[B]`, `x.max_length`, `x.buffer`, `x.factor` and
            `x.max_prompt_length`; and what follows from them: `x.lengths`, `x.completion_ids`, a list of tokens for
            each answer, and `x.turns`, a list of lists for each.
        layout: the order of axes, such as `"[B, T]"`, or the container, such as `"numpy"`, as in the report.
        names: what arguments are, such as `{"cap": "max_length"}`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called, or does not return one number for each answer.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Yu et al., "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", 2025, eq. (13).

    Example:
        >>> def penalties(lengths, max_length, buffer):
        ...     return [-min(max(n - max_length, 0) / buffer, 1.0) for n in lengths]
        >>> print(check_overlong_penalty(penalties).headline)
        check_overlong_penalty: WRONG, a known mistake: the buffer lies behind the limit, not before it
    """
    return CHECK.judge(function, call=call, layout=layout, names=names)


# --- the forms, and the parts that a mistake replaces ---

Penalty = Callable[..., Tensor]


def _tokens(mask: Tensor, prompts: Tensor) -> Tensor:
    return mask.sum(-1)


def _with_prompt(mask: Tensor, prompts: Tensor) -> Tensor:
    return mask.sum(-1) + prompts


def _reach(mask: Tensor, prompts: Tensor) -> Tensor:
    """As far as the last token that counts."""
    return (mask * torch.arange(1, mask.shape[-1] + 1)).amax(-1)


def _span(mask: Tensor, prompts: Tensor) -> Tensor:
    """From the first token that counts to the last."""
    before = mask.shape[-1] - _reach(mask.flip(-1), prompts)
    return (_reach(mask, prompts) - before).clamp(min=0)


def _turns(mask: Tensor, prompts: Tensor) -> Tensor:
    """How many pieces the answer has."""
    before = torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], -1)
    return (mask & ~before).sum(-1)


def _width(mask: Tensor, prompts: Tensor) -> Tensor:
    return torch.full(mask.shape[:1], mask.shape[-1])


def _in_buffer(n: Tensor, limit: Tensor | int, buffer: int) -> Tensor:
    """How much of the buffer is used: 1 at the limit, and more beyond it."""
    return torch.where(n > limit - buffer, (n - limit + buffer) / buffer, 0.0)


def _forms(
    part: Callable[[Tensor, Any, int], Tensor] = _in_buffer,
    *,
    of: Callable[[Tensor, Tensor], Tensor] = _tokens,
    of_context: bool = False,
    bounded: bool = True,
    scale: Callable[[float], float] = lambda factor: -factor,
) -> tuple[Penalty, Penalty]:
    """Penalties by the part of the buffer that is used; and the rewards with these added."""

    def penalties(
        mask: Tensor, prompt_lengths: Tensor, max_length: int, buffer: int, factor: float, **x: Any
    ) -> Tensor:
        limit = max_length + (x["max_prompt_length"] - prompt_lengths if of_context else 0)
        used = part(of(mask, prompt_lengths), limit, buffer).to(F64).clamp(min=0)
        return scale(factor) * (used.clamp(max=1) if bounded else used)

    alone = "mask prompt_lengths max_prompt_length max_length buffer factor"
    return (
        taking(alone, penalties),
        taking(f"rewards {alone}", lambda rewards, **x: rewards + penalties(**x)),
    )


RIGHT = dict(zip(("", "the rewards with the penalty added"), _forms(), strict=True))

MISTAKES = (
    Mistake(
        "overlong_penalty.from_the_start",
        "the buffer is counted from the start, not back from the limit",
        "The penalty begins after as many tokens as the buffer has, and grows over all the rest: nearly every answer "
        "is punished for its length.",
        "With a buffer of half the limit it is right.",
        (pull("modelscope/ms-swift", 5557),),
        _forms(lambda n, limit, buffer: (n - buffer) / (limit - buffer)),
    ),
    Mistake(
        "overlong_penalty.behind_the_limit",
        "the buffer lies behind the limit, not before it",
        "The penalty begins at the limit. Generation ends there, so no answer is ever punished.",
        "It is 0 up to the limit.",
        (issue("verl-project/verl", 3855), pull("verl-project/verl", 3856)),
        _forms(lambda n, limit, buffer: (n - limit) / buffer),
    ),
    Mistake(
        "overlong_penalty.limit_of_the_context",
        "the limit is what the prompt leaves of the context",
        "The limit is the longest prompt and the longest answer together, less this prompt: short prompts move the "
        "buffer to where no answer comes.",
        "It changes with the length of the prompt.",
        (pull("NovaSky-AI/SkyRL", 755),),
        _forms(of_context=True),
    ),
    Mistake(
        "overlong_penalty.prompt_counted",
        "the prompt is counted as part of the answer",
        "The length is that of prompt and answer together: long prompts are punished.",
        "It changes with the length of the prompt.",
        (),
        _forms(of=_with_prompt),
        right_form=(_DAPO,),
    ),
    Mistake(
        "overlong_penalty.span_counted",
        "tokens that the model did not write are counted",
        "The length is that from the first token to the last, with what tools or users wrote in between: the use of "
        "tools is punished.",
        "Without holes in the mask it is right.",
        (issue("OpenRLHF/OpenRLHF", 1243), pull("OpenRLHF/OpenRLHF", 1255)),
        (*_forms(of=_span), *_forms(of=_reach)),
    ),
    Mistake(
        "overlong_penalty.turns_counted",
        "turns are counted, not tokens",
        "Tokens are kept in a list for each turn, and the length is that of the outer list.",
        "It is 0 for any answer of few turns.",
        (pull("modelscope/ms-swift", 10149),),
        _forms(of=_turns),
    ),
    Mistake(
        "overlong_penalty.padding_counted",
        "padding is counted",
        "The length is the width of the batch: all answers get the penalty of the longest one, or more.",
        "It is the same for all answers of a batch.",
        (),
        _forms(of=_width),
        right_form=(_DAPO,),
    ),
    Mistake(
        "overlong_penalty.hard_step",
        "a step at the limit, without a slope before it",
        "An answer that is cut off loses all at once, and one that ends just before the limit nothing: a sound answer "
        "is punished for its length alone, and the reward is noisy.",
        "It has two values only.",
        (_DAPO, issue("teilomillet/textpolicy", 7)),
        (*_forms(lambda n, limit, buffer: n >= limit), *_forms(lambda n, limit, buffer: n > limit)),
    ),
    Mistake(
        "overlong_penalty.not_applied",
        "no penalty",
        "All answers get 0, or their rewards come back as they were.",
        "It does not change with the length.",
        (issue("verl-project/verl", 4268),),
        _forms(lambda n, limit, buffer: torch.zeros_like(n)),
    ),
    Mistake(
        "overlong_penalty.sign",
        "long answers are rewarded",
        "The sign is wrong: the penalty is added where it is to be subtracted.",
        "It is positive.",
        (),
        _forms(scale=lambda factor: factor),
        right_form=(_DAPO, pull("huggingface/open-r1", 567)),
    ),
    Mistake(
        "overlong_penalty.over_the_limit",
        "divided by the limit, not by the buffer",
        "The slope is too small: at the limit the penalty is the share of the buffer in it, and not 1.",
        "With a buffer as long as the limit it is right.",
        (),
        (
            *_forms(lambda n, limit, buffer: (n - limit + buffer) / limit),
            *_forms(lambda n, limit, buffer: (n - limit + buffer).clamp(max=buffer) / limit),
        ),
        right_form=(_DAPO,),
    ),
    Mistake(
        "overlong_penalty.factor_ignored",
        "the factor is ignored",
        "The penalty ends at -1, whatever the factor.",
        "It does not change with the factor.",
        (),
        _forms(scale=lambda factor: -1.0),
        right_form=(issue("verl-project/verl", 3855),),
    ),
    Mistake(
        "overlong_penalty.goes_on",
        "beyond the limit it goes on falling",
        "As far as the limit it is the same. An answer of several turns, or of another limit, can be longer, and the "
        "penalty then outweighs any reward.",
        "At the limit and one buffer more it is -2.",
        (pull("OpenRLHF/OpenRLHF", 1091),),
        _forms(bounded=False),
        severity="remark",
    ),
)

# --- the cases ---

_SPECS = (
    (4, 1, (3, 4)),
    (8, 3, (6, 8, 3, 7)),
    (8, 3, (8, 5, 0, 4)),
    (8, 3, (5, 6, 8, 7)),
    (10, 4, (9, 7, 10, 2)),
    (10, 4, (6, 8, 5, 1)),
    (7, 5, (3, 7, 2, 5)),
    (7, 5, (6, 4, 1)),
    (8, 3, (7,)),
    (8, 3, (7, 9, 12, 6)),
    (10, 4, (14, 10, 11, 9)),
    (7, 5, (8, 4, 12, 6)),
)
_TOLD = (((8, 3, (6, 8, 3, 7)), 0.5), ((10, 4, (9, 7, 10, 2)), 2.0), ((7, 5, (3, 7, 2, 5)), 0.5))


def cases(facts: frozenset[str]) -> list[Case]:
    """Answers on both sides of the buffer's ends, empty, in pieces, beyond the limit; the smallest first."""
    found = [_case(*spec) for spec in _SPECS]
    found += [_case(8, 3, (6, 8, 3, 7), holes=True), _case(10, 4, (9, 5, 12, 7), holes=True)]
    found += [_case(7, 3, (5, 6, 7, 4), before=2)]
    if "factor" in facts:
        found += [_case(*spec, factor=factor) for spec, factor in _TOLD]
        found.append(_case(8, 3, (9, 12, 6, 8), factor=0.5, delicate=_BEYOND))
    found += [_case(8, 0, (8, 7, 9), delicate=_NO_BUFFER), _case(6, 6, (3, 6, 0), delicate=_ALL_BUFFER)]
    return found


def _case(
    limit: int,
    buffer: int,
    lengths: Sequence[int],
    *,
    holes: bool = False,
    before: int = 0,
    factor: float = 1.0,
    delicate: str = "",
) -> Case:
    """Answers of these lengths, which begin after some tokens; with holes every third token is not the model's."""
    place = torch.arange(3 * max(lengths) // 2 if holes else before + max(limit, *lengths))
    own = (place >= before) & ((place % 3 != 2) | (not holes))
    n = torch.tensor(lengths)
    rewards, prompts = torch.tensor((1.0, -0.5, 0.25, 2.0), dtype=F64), torch.tensor((4, 2, 5, 3))
    rows = {"rewards": rewards[: len(n)], "prompt_lengths": prompts[: len(n)]}
    rows["mask"] = own & (own.cumsum(-1) <= n[:, None])
    numbers = {"max_prompt_length": 6, "max_length": limit, "buffer": buffer, "factor": factor}
    return Case({**rows, **numbers}, delicate, or_fails=delicate != _BEYOND)


def _by_turn(x: Any) -> list[list[list[int]]]:
    """The tokens of each answer, a list for each piece."""
    found = list[list[list[int]]]()
    for row in x.mask.tolist():
        pieces = "".join("1" if own else " " for own in row).split()
        found.append([[7] * len(piece) for piece in pieces])
    return found


def _told_its_limit(parameters: Sequence[inspect.Parameter]) -> Mapping[str, str]:
    """No meanings; but a function that ignores further arguments had its limit from elsewhere, and is to be declared.

    Raises:
        Misfit: it has `**kwargs`, and no argument for the limit.
    """
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if named and len(named) < len(parameters) and not any("max_length" in roles_of(p.name, ARGS) for p in named):
        raise Misfit("it has no argument 'max_length', and **kwargs may be ignored")
    return {}


ARGS = (
    Arg("rewards", "B", "scores score reward_tensor total_reward"),
    *MASK_ARGS,
    Arg(
        "lengths",
        "B",
        "n response_length response_lengths response_len resp_len completion_length completion_lengths completion_len "
        "valid_response_length valid_response_lengths response_token_lengths answer_length answer_lengths "
        "sequence_length sequence_lengths output_length output_lengths num_tokens n_tokens token_counts",
        of=lambda x: x.mask.sum(-1),
    ),
    Arg(
        "completion_ids",
        also="completions_ids response_ids response_token_ids token_ids generated_ids output_ids tokens ids",
        of=lambda x: [[7] * n for n in x.mask.sum(-1).tolist()],
    ),
    Arg("turns", of=_by_turn),
    Arg("prompt_lengths", "B", "prompt_length prompt_len prompt_lens"),
    Arg("max_prompt_length", also="max_prompt_len max_input_length"),
    Arg(
        "max_length",
        also="max_len max_response_length max_response_len max_resp_len max_completion_length max_completion_len "
        "max_new_tokens max_tokens max_generate_length generate_max_len max_dec_len soft_max_length l_max limit",
    ),
    Arg(
        "buffer",
        also="buffer_len buffer_length buffer_tokens overlong_buffer overlong_buffer_len overlong_buffer_length "
        "overlong_tokens cache cache_len cache_length soft_cache_length soft_punish_cache length_cache l_cache "
        "buffer_size",
    ),
    Arg("factor", also="penalty_factor overlong_penalty_factor overlong_buffer_penalty overlong_penalty penalty"),
    Arg("device", of=lambda x: torch.device("cpu")),
)
CHECK = Check(
    "overlong_penalty",
    9,
    args=ARGS,
    needs=("lengths|mask|padding|completion_ids|turns", "max_length", "buffer"),
    signature=("lengths", "max_length", "buffer"),
    axes="B",
    layouts=("[B, T]", "[T]"),
    reference=RIGHT,
    cases=cases,
    mistakes=MISTAKES,
    implied=_told_its_limit,
    wanted="penalt overlong reward length",
    example="call=lambda x: f(x.lengths, x.max_length, x.buffer)  # [B]",
)
