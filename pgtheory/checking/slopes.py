"""The slopes of people's losses: by autograd where there is a graph, by central differences where there is none."""

import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pgtheory.checking.calling import Call, Inputs, Layout, Misfit, refuse_half_precision
from pgtheory.checking.verdicts import quietly

if TYPE_CHECKING:
    from pgtheory.checking.judge import Observe

_LOSS_KEYS = (
    *("loss", "policy_loss", "pg_loss", "actor_loss", "loss_objective"),
    *("loss_policy", "loss_actor", "total_loss"),
)
_NO_GRADIENT = "it returns a number without a gradient: its slopes are central differences of its value"
_OWN_BACKWARD = "it calls backward itself"
PER_TOKEN = "it returns one value for each token or response: they were averaged as in the reference"

Reduce = Callable[[Tensor], Tensor | None]


def slopes(call: Callable[[Tensor], Any], log_probs: Tensor, reduce: Reduce, notes: set[str]) -> Tensor:
    """The slopes of a loss by the log-probabilities that it is called with.

    Args:
        call: the loss as a function of the log-probabilities alone.
        log_probs: where.
        reduce: makes one number of an output that has one value for each token; None if it does not know how.
        notes: receives what is worth knowing about the output.

    Raises:
        Misfit: the output is not a loss.
    """
    leaf = log_probs.clone().requires_grad_()
    with torch.enable_grad():
        output = loss_in(quietly(call, leaf.clone()))  # a copy, so that the loss may change it in place
        if leaf.grad is not None:
            notes.add(_OWN_BACKWARD)
            return leaf.grad.double()
        if not isinstance(output, Tensor):
            notes.add(_NO_GRADIENT)
            return _differences(call, log_probs, reduce, notes)
        value = _as_number(output, reduce, notes)
        if not value.requires_grad:
            return torch.zeros_like(log_probs)
        slope = torch.autograd.grad(value, leaf, allow_unused=True)[0]
    return torch.zeros_like(log_probs) if slope is None else slope.double()


def _differences(call: Callable[[Tensor], Any], log_probs: Tensor, reduce: Reduce, notes: set[str]) -> Tensor:
    step = 1e-2 if _is_single(loss_in(quietly(call, log_probs.clone()))) else 1e-4
    found = torch.zeros_like(log_probs)
    for place in itertools.product(*map(range, log_probs.shape)):
        values = []
        for side in (step, -step):
            moved = log_probs.clone()
            moved[place] += side
            output = loss_in(quietly(call, moved))
            values.append(float(_as_number(_number_tensor(output), reduce, notes)))
        found[place] = (values[0] - values[1]) / (2 * step)
    return found


def _is_single(output: Any) -> bool:
    return str(getattr(output, "dtype", "float64")).endswith(("float32", "float16"))


def _number_tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        raise Misfit("it returned a tensor without a gradient")
    try:
        return torch.tensor(np.asarray(output, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise Misfit(f"it returned {type(output).__name__}, not a loss") from error


def loss_in(output: Any) -> Any:
    """The loss in an output: the first of a tuple, the entry `loss` of a dictionary, the attribute `loss`."""
    if isinstance(output, Mapping) or hasattr(output, "keys"):
        for key in _LOSS_KEYS:
            if key in set(output.keys()):
                return loss_in(output[key])
        raise Misfit(f"it returned a mapping without any of the keys {', '.join(_LOSS_KEYS)}")
    if isinstance(output, tuple) and output:
        return loss_in(output[0])
    if isinstance(output, list) and output and all(isinstance(x, Tensor) for x in output):
        return torch.cat([x.reshape(-1) for x in output])
    if output is None or isinstance(output, str | bytes | bool):
        raise Misfit(f"it returned {output if output is None else type(output).__name__}, not a loss")
    loss = getattr(output, "loss", None)
    return output if isinstance(output, Tensor) or not isinstance(loss, Tensor) else loss


def _as_number(output: Tensor, reduce: Reduce, notes: set[str]) -> Tensor:
    if not output.is_floating_point():
        raise Misfit(f"it returned a tensor of {output.dtype}, not a loss")
    refuse_half_precision(output)
    if output.numel() == 1:
        return output.reshape(())
    number = reduce(output)
    if number is None:
        raise Misfit(f"it returned shape {list(output.shape)}, neither one number nor one for each token")
    notes.add(PER_TOKEN)
    return number


def as_logits(log_probs: Tensor, actions: Tensor, n: int = 3) -> Tensor:
    """Logits `[..., n]` under which the actions have these log-probabilities; not normalised themselves."""
    others = torch.log(-torch.expm1(log_probs)) - np.log(n - 1)
    taken = torch.arange(n) == actions[..., None]
    return torch.where(taken, log_probs[..., None], others[..., None]) + 0.7


def by(name: str, reduce: Callable[[Tensor, Mapping[str, Any]], Tensor | None]) -> "Observe":
    """What a check of losses observes: the slopes of the loss by the input of this name.

    Args:
        name: the canonical input, such as `"log_probs"`.
        reduce: makes one number of an output with one value for each token, given the canonical inputs; None if it
            does not know how.
    """

    def observe(call: Call, layout: Layout, inputs: Inputs, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        values = inputs.canonical
        found = slopes(
            lambda leaf: call(inputs.replaced(**{name: leaf})),
            values[name],
            lambda out: reduce(out, values),
            inputs.notes,
        )
        return {"": found}

    return observe
