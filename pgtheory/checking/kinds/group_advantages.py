"""Are these advantages within groups? With which centre and scale, and if none, which known mistake is it?"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Call, Inputs, Layout, Misfit, Reading, as_tensor, parts_of, roles_of
from pgtheory.checking.episodes import F64
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.report import Mistake, Report, UnknownForm, arxiv, issue, pull

_EQUAL = "it fails where all rewards of a group are equal"
_SINGLE = "it fails where there is one group only"
_ALONE = "in a group of one it gives something else than 0, or fails"
_ONE = ", one group"
_IF_ALONE = "given one group it is right: say layout='one group' if that is what it is for"
_PATTERN = "101"  # of the tokens that count, where rewards are given per token


def check_group_advantages(
    function: Callable[..., Any] | None = None,
    *,
    call: Call | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    r"""Check a function that computes advantages within groups of responses, :eq:`eq-group-advantage`.

    The function may be `fn(rewards)` on a matrix `[groups, size]` or a single group; flat, with the size of a group or
    with the ids of groups (`index`, `uid`), which need not be equally large, or stand side by side; or as of verl, on
    rewards per token with a mask. All centres and scales in use are right, and the report says which one it is: the
    mean of the group or of the others, nothing or a deviation, of the group or of the batch, with which ddof.

    Args:
        function: the implementation.
        call: how it is called from the canonical inputs, such as `lambda x: f(x.rewards, x.group_ids)`, flat `[N]`;
            there are `x.matrix` and `x.group_size` too, if groups are equal: say `x.matrix` and they are.
        layout: the container, such as `"numpy"`, or the reading, as in the report.
        names: what arguments are, such as `{"uids": "group_ids"}`.

    Returns:
        The report.

    Raises:
        UnknownForm: the function cannot be called, or does not return one number for each response.
        TypeError: it is no function.
        ValueError: `names` has a name that the function, or the check, does not know.

    Source:
        Shao et al., "DeepSeekMath", 2024, section 4.1; Ahmadian et al., "Back to Basics", 2024; Liu et al.,
        "Understanding R1-Zero-Like Training", 2025.

    Example:
        >>> print(check_group_advantages(lambda rewards: rewards - rewards.mean(0)).headline)
        check_group_advantages: WRONG, a known mistake: the mean is taken over the groups, not within them
        >>> report = check_group_advantages(lambda rewards: rewards - rewards.mean(-1, keepdim=True))
        >>> report.remarks[0]
        'it is centred on the mean of the group'
    """
    report = CHECK.judge(function, call=call, layout=layout, names=names)
    if report.ok or "a matrix" not in report.form or layout or not _right_alone(function, names):
        return report
    try:
        CHECK.judge(function, layout="list [N], a matrix", names=names)
    except UnknownForm:  # what takes a list of numbers, and no list of lists, is for one group
        with suppress(UnknownForm):
            return CHECK.judge(function, layout=f"list [N]{_ONE}", names=names)
    if report.mistakes:
        return replace(report, remarks=(*report.remarks, _IF_ALONE))
    return replace(report, abstains=_IF_ALONE, counterexample=None, details={})


def _right_alone(function: Callable[..., Any] | None, names: Mapping[str, str] | None) -> bool:
    """Whether it is right, given one group."""
    try:
        return CHECK.judge(function, layout=_ONE, names=names).ok
    except UnknownForm:
        return False


# --- the forms: rewards and group ids, flat, to advantages ---

Form = Callable[[Tensor, Tensor], Tensor]


def _mean(x: Tensor, ids: Tensor, less: int = 0) -> Tensor:
    """The mean over the group of each response, divided by the size less a number, if that is above 0."""
    together = (ids[:, None] == ids).to(x.dtype)
    n = together.sum(-1)
    return together @ x / torch.where(n > less, n - less, n)


def _deviation(x: Tensor, ids: Tensor, ddof: int) -> Tensor:
    return _mean((x - _mean(x, ids)) ** 2, ids, ddof).sqrt()


def _over(x: Tensor, scale: Tensor) -> Tensor:
    return x / (scale + 1e-8)


def _centred(rewards: Tensor, group_ids: Tensor) -> Tensor:
    return rewards - _mean(rewards, group_ids)


def _from_others(rewards: Tensor, group_ids: Tensor) -> Tensor:
    n = (group_ids[:, None] == group_ids).sum(-1)
    return _centred(rewards, group_ids) * n / (n - 1).clamp(min=1)


def _batch(ids: Tensor) -> Tensor:
    return torch.zeros_like(ids)


def _scaled(centre: Form, ddof: int, *, batch: bool = False, after: bool = False, power: float = 1.0) -> Form:
    """Advantages over a power of a deviation: of the group or the batch, of the rewards or of what is centred."""

    def form(rewards: Tensor, group_ids: Tensor) -> Tensor:
        a = centre(rewards, group_ids)
        ids = _batch(group_ids) if batch else group_ids
        return _over(a, _deviation(a if after else rewards, ids, ddof) ** power)

    return form


def _forms() -> dict[str, Form]:
    centres = {"the mean of the group": _centred, "the mean of the others": _from_others}
    found: dict[str, Form] = {f"centred on {name}": centre for name, centre in centres.items()}
    for name, centre in centres.items():
        for ddof in (1, 0):
            found[f"centred on {name}, divided by its deviation, ddof {ddof}"] = _scaled(centre, ddof)
            of_all = _scaled(centre, ddof, batch=True)
            found[f"centred on {name}, divided by the deviation of all rewards, ddof {ddof}"] = of_all
            after = _scaled(centre, ddof, batch=True, after=True)
            found[f"centred on {name}, divided by the deviation of all that is centred, ddof {ddof}"] = after
    return found


def _under(ids_of: Callable[[Tensor], Tensor], *, scales: tuple[int | None, ...] = (None, 0, 1)) -> tuple[Form, ...]:
    """The usual forms with other groups."""

    def made(ddof: int | None) -> Form:
        form = _centred if ddof is None else _scaled(_centred, ddof)
        return lambda rewards, group_ids: form(rewards, ids_of(group_ids))

    return tuple(map(made, scales))


def _size(ids: Tensor) -> int:
    return int((ids == ids[0]).sum())


def _by_stride(ids: Tensor) -> Tensor:
    return torch.arange(len(ids)) // _size(ids)


def _across(ids: Tensor) -> Tensor:
    return torch.arange(len(ids)) % _size(ids)


def _interleaved(ids: Tensor) -> Tensor:
    return torch.arange(len(ids)) % max(1, len(ids) // _size(ids))


def _left_over(form: Form) -> Form:
    """What is behind the last whole stride keeps 0, as in a result that was made of zeros."""

    def strided(rewards: Tensor, group_ids: Tensor) -> Tensor:
        size = _size(group_ids)
        whole = torch.arange(len(rewards)) < len(rewards) // size * size
        return torch.where(whole, form(rewards, group_ids), 0.0)

    return strided


def _tiled(ddof: int | None) -> Form:
    """The mean of group i % G for response i, where groups have one size."""

    def form(rewards: Tensor, group_ids: Tensor) -> Tensor:
        size = _size(group_ids)
        if len(rewards) % size:
            return torch.full_like(rewards, torch.nan)
        grouped = rewards.reshape(-1, size)
        a = rewards - grouped.mean(-1).repeat(size)
        return a if ddof is None else _over(a, grouped.std(-1, correction=ddof).repeat(size))

    return form


def _from_the_first(epsilon: float) -> Form:
    """Over an ε: the deviation of one response is 0."""

    def form(rewards: Tensor, group_ids: Tensor) -> Tensor:
        first = (group_ids[:, None] == group_ids).to(torch.int64).argmax(-1)
        return (rewards - rewards[first]) / epsilon

    return form


def _of_the_others(ddof_of: Callable[[int], int]) -> Form:
    """Over the deviation of the others, whose ddof depends on how many there are."""

    def form(rewards: Tensor, group_ids: Tensor) -> Tensor:
        found = torch.zeros_like(rewards)
        for i in range(len(rewards)):
            others = rewards[(group_ids == group_ids[i]) & (torch.arange(len(rewards)) != i)]
            if len(others):
                found[i] = (rewards[i] - others.mean()) / (others.std(correction=ddof_of(len(others))) + 1e-6)
        return found

    return form


def _twice(first: int, second: int) -> Form:
    def form(rewards: Tensor, group_ids: Tensor) -> Tensor:
        a = _scaled(_centred, first)(rewards, group_ids)
        return _over(a - a.mean(), _deviation(a, _batch(group_ids), second))

    return form


def _others_over_all(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """What is left of the reward after 1/K of the sum of the others."""
    n = (group_ids[:, None] == group_ids).sum(-1)
    return rewards - (_mean(rewards, group_ids) - rewards / n)


_GRPO = arxiv("Shao et al., 2024, section 4.1", "2402.03300")

MISTAKES = (
    Mistake(
        "group_advantages.of_the_batch",
        "the mean is that of the batch, not of the group",
        "All responses are compared with each other: those to an easy prompt look good, whatever was written.",
        "A group of equal rewards has advantages other than 0.",
        (
            issue("THUDM/slime", 1414),
            issue("THUDM/slime", 2230),
            issue("yifan123/flow_grpo", 46),
            issue("huggingface/open-r1", 67),
        ),
        _under(_batch),
    ),
    Mistake(
        "group_advantages.over_the_groups",
        "the mean is taken over the groups, not within them",
        "The wrong axis, or an order in which responses to one prompt do not stand side by side: the i-th responses of "
        "all prompts are compared.",
        "Responses to one prompt do not add up to 0, and the i-th of all prompts do.",
        (issue("XU-YIJIE/grpo-flat", 2), issue("StarsfieldAI/R1-V", 67), pull("PrimeIntellect-ai/prime-rl", 600)),
        (*_under(_across), *_under(_interleaved)),
    ),
    Mistake(
        "group_advantages.of_the_first",
        "the mean is that of the first response alone, not of the group",
        "Mean and deviation are those of the first response that came: what it earned is subtracted from all, and with "
        "the deviation of one, which is 0, the others are as large as ε makes them.",
        "The first response of each group has the advantage 0, whatever it earned.",
        (pull("ServiceNow/PipelineRL", 54),),
        tuple(map(_from_the_first, (1.0, 1e-4, 1e-6, 1e-8))),
    ),
    Mistake(
        "group_advantages.by_stride",
        "groups are cut by a fixed size, whatever the ids say",
        "The ids are not looked at: where a group is smaller, or responses are not in order, strangers are compared.",
        "It is right only where all groups are as large and stand side by side.",
        (issue("areal-project/AReaL", 1419), pull("THUDM/slime", 1918), pull("radixark/miles", 1573)),
        (*_under(_by_stride), *map(_left_over, _under(_by_stride))),
    ),
    Mistake(
        "group_advantages.tiled",
        "the means of the groups are repeated in the wrong order",
        "The means are tiled (`repeat`) where each should be repeated (`repeat_interleave`): a response is compared "
        "with the mean of another group.",
        "It is right where all groups have the same mean.",
        (),
        tuple(map(_tiled, (None, 0, 1))),
        right_form=(_GRPO,),
    ),
    Mistake(
        "group_advantages.each_alone",
        "each response is a group of its own",
        "Ids are those of responses, not of prompts: nothing is subtracted, or everything.",
        "The result is the rewards, or 0.",
        (pull("rllm-org/rllm", 776), pull("PeterGriffinJin/Search-R1", 39)),
        (lambda rewards, group_ids: rewards, lambda rewards, group_ids: torch.zeros_like(rewards)),
    ),
    Mistake(
        "group_advantages.standardised_twice",
        "standardised again over the batch",
        "What has deviation 1 in each group is standardised over the batch once more: the scale depends on how many "
        "groups have equal rewards.",
        "The result has deviation 1 over the batch.",
        (pull("axon-rl/gem", 113), pull("amazon-science/reskill", 12)),
        (_twice(1, 1), _twice(1, 0), _twice(0, 1), _twice(0, 0)),
    ),
    Mistake(
        "group_advantages.deviation_of_the_others",
        "divided by the deviation of the others",
        "Where all others have the same reward, their deviation is 0, and the advantage is as large as 1/ε.",
        "One success among failures gets an advantage of a million.",
        (issue("NVIDIA-NeMo/RL", 1518), pull("NVIDIA-NeMo/RL", 4158), pull("NVIDIA-NeMo/RL", 4161)),
        tuple(map(_of_the_others, (lambda n: 1, lambda n: 0, lambda n: int(n > 1)))),
    ),
    Mistake(
        "group_advantages.others_divided_by_all",
        "the mean of the others is divided by the size of the group",
        "The sum of the K - 1 other rewards is divided by K: the baseline is too small, and not centred.",
        "With equal rewards the advantages are not 0.",
        (),
        (_others_over_all,),
        right_form=(issue("redai-studio/Relax", 174), arxiv("Ahmadian et al., 2024", "2402.14740")),
    ),
    Mistake(
        "group_advantages.not_centred",
        "the mean is not removed",
        "Rewards are scaled alone: where all are positive, every response is reinforced.",
        "The advantages of a group do not add up to 0.",
        (),
        tuple(_scaled(lambda r, ids: r, ddof) for ddof in (0, 1)),
        right_form=(_GRPO,),
    ),
    Mistake(
        "group_advantages.no_root",
        "divided by the variance, not by its root",
        "Groups with rewards that differ little count too much, the others too little.",
        "Rewards of twice the size give half the advantages.",
        (issue("rinuboney/ladder", 17),),
        tuple(_scaled(_centred, ddof, power=2.0) for ddof in (0, 1)),
    ),
    Mistake(
        "group_advantages.sign",
        "the sign is wrong",
        "The reward is subtracted from the mean: what is worse than the others is reinforced.",
        "The best response has the lowest advantage.",
        (),
        (
            lambda rewards, group_ids: -_centred(rewards, group_ids),
            *(lambda rewards, group_ids, d=d: -_scaled(_centred, d)(rewards, group_ids) for d in (0, 1)),
        ),
        right_form=(_GRPO,),
    ),
)

# --- the cases ---

_REWARDS = (9.0, 1.0, 14.0, -6.0, 12.5, 3.0, -2.0, 7.5, 25.0, -9.0, 5.5, 0.0)
# Which group each response belongs to.
_MATRICES = ("0011", "000111", "00001111", "001122")
_GROUPS = ("00", "000", "00000")
_FLAT = ("0101", "012012", "001", "00111", "010012", "2200011")


def cases(facts: frozenset[str]) -> list[Case]:
    """Equal groups, then those in another order and of other sizes, then equal rewards and groups of one."""
    one = "one group" in facts
    found = [_case(text) for text in (_GROUPS if one else _MATRICES)]
    if "ids" in facts:
        found += [_case(text) for text in _FLAT if min(map(text.count, text)) > 1]
    equal = [[2.0] * 3] if one else [[3.0, 3.0, 3.0, 1.0, 5.0, 9.0]]
    found += [_case("000111"[: len(rewards)], rewards, _EQUAL) for rewards in equal]
    if "ids" in facts:
        found += [_case(text, delicate=_ALONE) for text in _FLAT if min(map(text.count, text)) == 1]
    found += [] if one else [_case("000", delicate=_SINGLE)._replace(or_fails=True)]
    return [*found, _case("0" if one else "01", delicate=_ALONE)]


def _case(text: str, rewards: list[float] | None = None, delicate: str = "") -> Case:
    values = torch.tensor(rewards or _REWARDS[: len(text)], dtype=F64)
    return Case({"rewards": values, "group_ids": torch.tensor([*map(int, text)])}, delicate)


# --- how arguments are taken ---


def _matrix(x: Any) -> Tensor:
    rewards: Tensor = x.rewards
    return rewards.reshape(-1, _size(x.group_ids))


def _token_mask(x: Any) -> Tensor:
    return torch.tensor([c == "1" for c in _PATTERN]).expand(len(x.rewards), -1).clone()


def _token_rewards(x: Any) -> Tensor:
    return torch.where(torch.arange(len(_PATTERN)) == len(_PATTERN) - 1, x.rewards[:, None], 0.0)


def _readings(roles: frozenset[str]) -> list[Reading]:
    """Rewards as a matrix, one group, flat, or per token; ids as numbers or as words."""
    tokens = {"rewards": _token_rewards} if "mask" in roles else {}
    plain = frozenset(["rewards", "group_ids", "mask", "matrix", "group"])
    if "group_ids" in roles:
        ids = frozenset(["ids"])
        words = {**tokens, "group_ids": lambda x: _words(x.group_ids)}  # tensors are no keys of a dictionary
        return [
            Reading("", tokens, ids, plain=plain),
            Reading(", ids as words", words, ids, plain=plain, anyway=True),
        ]
    if roles & {"group_size", "matrix"}:
        return [Reading(", flat" if "group_size" in roles else "", tokens, plain=plain)]
    one = Reading(_ONE, facts=frozenset(["one group"]), plain=plain, rare=True)
    return [one] if "group" in roles else [Reading(", a matrix", {"rewards": _matrix}, plain=plain), one]


def _words(ids: Tensor) -> Any:
    return np.array([f"prompt {i}" for i in ids.tolist()], dtype=object)


def _implied(parameters: Sequence[inspect.Parameter]) -> dict[str, str]:
    """A list of numbers is one group."""
    one = [p.name for p in parameters if "rewards" in roles_of(p.name, CHECK.args) and _is_list(p.annotation)]
    return dict.fromkeys(one, "group") if sum(p.default is p.empty for p in parameters) == 1 else {}


def _is_list(annotation: Any) -> bool:
    return str(annotation).removeprefix("typing.").lower() in ("list[float]", "sequence[float]", "list[int]")


def _observe(call: Call, layout: Layout, inputs: Inputs, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """One number for each response: of a matrix row by row, of tokens the last one that counts."""
    n, found, misfit = len(inputs.canonical["rewards"]), dict[str, Tensor](), Misfit("it returned nothing")
    for name, part in parts_of(call(inputs), "adv").items():
        try:
            value = as_tensor(part).double()
        except Misfit as error:
            misfit = error
            continue
        if value.numel() == n:
            found[name] = value.reshape(n)
        elif value.shape == (n, len(_PATTERN)):
            found[name] = value[:, -1]
        else:
            misfit = Misfit(f"it returned shape {[*value.shape]}, not one number for each of {n} responses")
    if not found:
        raise misfit
    return found


CHECK = Check(
    "group_advantages",
    9,
    args=(
        Arg("rewards", "N", "scores score r outcome_rewards grouped_rewards rewards_per_func"),
        Arg("group_ids", "N", "prompts prompt_ids prompt_idx_ids traj_index batch_uid"),
        Arg(
            "group_size",
            also="k n n_samples n_samples_per_prompt num_samples_per_prompt",
            of=lambda x: _size(x.group_ids),
        ),
        Arg("matrix", of=_matrix),
        Arg("group", also="group_rewards rewards_g", of=lambda x: x.rewards),
        Arg("mask", "N T", of=_token_mask, flag=True),
        Arg("device", of=lambda x: torch.device("cpu")),
    ),
    needs=("rewards|matrix|group",),
    signature=("rewards",),
    axes="N",
    layouts=("[N]",),
    reference=_forms(),
    cases=cases,
    mistakes=MISTAKES,
    readings=_readings,
    implied=_implied,
    observe=_observe,
    wanted="adv",
    example="call=lambda x: f(x.rewards, x.group_ids)  # flat, [N]",
)
