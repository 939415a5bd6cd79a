"""The rewards of completions, by a function of the user's: a number for each, or an error that shows the completion."""

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgtheory import _checks
from pgtheory.language_models import Completions

Decode = Callable[[Tensor], str]
LONGEST = 200  # how many characters of a text a message shows


class RewardError(ValueError):
    r"""A reward is no finite number, or the function that gives it has failed; the message shows for what.

    .. no equation: an error

    Attributes:
        prompt: the prompt, as text; its tokens where there is no text.
        completion: the completion.

    Example:
        >>> raise RewardError("it is nan", "2 + 2 =", " four")
        Traceback (most recent call last):
        pgtheory._rewards.RewardError: reward is wrong for the completion ' four' of the prompt '2 + 2 =': it is nan
    """

    def __init__(self, fault: str, prompt: str, completion: str) -> None:
        what = f"the completion {_quoted(completion)} of the prompt {_quoted(prompt)}"
        super().__init__(f"reward is wrong for {what}: {fault}")
        self.prompt, self.completion = prompt, completion


def some(completions: Completions, rows: Tensor) -> Completions:
    """Some of the B K completions, each as the only one of its prompt."""
    prompts = rows // completions.tokens.shape[1]
    fields = (field.flatten(0, 1)[rows].unsqueeze(1) for field in completions[2:])
    return Completions(completions.prompts[prompts], completions.prompt_mask[prompts], *fields)


def shown(completions: Completions, row: int, decode: Decode | None) -> tuple[str, str]:
    """A prompt and its completion, as texts."""
    one = some(completions, torch.tensor([row], device=completions.tokens.device))
    texts = one.prompts[one.prompt_mask], one.tokens[one.mask]
    prompt, completion = (str(tokens.tolist()) if decode is None else decode(tokens) for tokens in texts)
    return prompt, completion


def rated(reward: Callable[..., Any], completions: Completions, decode: Decode | None) -> Tensor:
    """The reward of each completion, [B, K], in float64 on the CPU."""
    b, k = completions.tokens.shape[:2]

    def wrong(fault: str, row: int = 0) -> RewardError:
        return RewardError(fault, *shown(completions, row, decode))

    try:
        rewards = _called(reward, completions, decode)
    except Exception as error:
        row, cause = _culprit(reward, completions, decode) or (0, error)
        raise wrong(f"the function failed, {type(cause).__name__}: {cause}", row) from cause
    if isinstance(rewards, Tensor | np.ndarray):
        expected = [b, k] if decode is None else [b * k]
        if list(rewards.shape) != expected:
            raise wrong(f"the function returned the shape {list(rewards.shape)}, expected {expected}")
        values = rewards.reshape(-1).tolist()
    elif decode is None or isinstance(rewards, str | bytes) or not isinstance(rewards, Sequence):
        expected_type = f"a tensor [{b}, {k}]" if decode is None else f"{b * k} numbers"
        raise wrong(f"the function returned {_checks.named(rewards)}, expected {expected_type}")
    else:
        values = list(rewards)
    if len(values) != b * k:
        raise wrong(f"the function returned {len(values)} numbers for {b * k} completions")
    for row, value in enumerate(values):
        if fault := _fault(value):
            raise wrong(fault, row)
    return torch.tensor([float(value) for value in values], dtype=torch.float64).view(b, k)


def _called(reward: Callable[..., Any], completions: Completions, decode: Decode | None) -> Any:
    """What the function says of the completions, or of their texts."""
    if decode is None:
        return reward(completions)
    k = completions.tokens.shape[1]
    prompts = [decode(p[mask]) for p, mask in zip(completions.prompts, completions.prompt_mask, strict=True)]
    rows = zip(completions.tokens.flatten(0, 1), completions.mask.flatten(0, 1), strict=True)
    return reward([prompt for prompt in prompts for _ in range(k)], [decode(tokens[mask]) for tokens, mask in rows])


def _culprit(
    reward: Callable[..., Any], completions: Completions, decode: Decode | None
) -> tuple[int, Exception] | None:
    """The first completion for which the function fails alone, and how; None if there is none."""
    for row in range(completions.tokens.shape[:2].numel()):
        try:
            _called(reward, some(completions, torch.tensor([row], device=completions.tokens.device)), decode)
        except Exception as error:
            return row, error
    return None


def _fault(value: Any) -> str | None:
    """What is wrong with a reward; True and False are 1 and 0, so that `completion == answer` is one."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, Real | np.bool_):
        return f"it is {value!r:.40}, not a number"
    try:
        return None if math.isfinite(value) else f"it is {float(value)}, not a finite number"
    except OverflowError:
        return "it is too large for a floating-point number"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= LONGEST else text[:LONGEST] + "…")
