"""What checks of losses share: the arguments that they give, the factors of a loss, and mistakes that are factors."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, wraps
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Inputs, Reading
from pgtheory.checking.names import LOG_PROB_WORDS, NAMES, affixed, normalised
from pgtheory.checking.report import Mistake, Source
from pgtheory.checking.slopes import as_logits
from pgtheory.checking.space import Axis
from pgtheory.checking.verdicts import Trial

F64 = torch.float64
LOG_PROBS = "log_probs|logits|probs|neg_log_probs|ratio"
OLD_LOG_PROBS = "old_log_probs|ratio|old_probs|old_neg_log_probs|old_logits"
MASKS = frozenset(["mask", "padding"])
CLIPS = frozenset(["clip", "clip_low", "clip_high"])
OLD = frozenset(OLD_LOG_PROBS.split("|"))
_T = TypeVar("_T")


def once(function: Callable[..., _T]) -> Callable[..., _T]:
    """The function, computed once for arguments that are equal: the cases of a check share rewards and masks."""

    @lru_cache(maxsize=4096)
    def known(*arguments: Any) -> _T:
        return function(*(torch.tensor(x[2], dtype=x[1]).reshape(x[0]) if _is_key(x) else x for x in arguments))

    @wraps(function)
    def remembered(*arguments: Any) -> _T:
        return known(
            *((x.shape, x.dtype, tuple(x.flatten().tolist())) if isinstance(x, Tensor) else x for x in arguments)
        )

    return remembered


def _is_key(x: Any) -> bool:
    return isinstance(x, tuple) and isinstance(x[0], torch.Size)


def actions_of(log_probs: Tensor) -> Tensor:
    """The actions that were taken, of three."""
    return (torch.arange(log_probs.numel()) % 3).reshape(log_probs.shape)


def logits_of(log_probs: Tensor) -> Tensor:
    """Logits of three actions under which those taken have these log-probabilities."""
    return as_logits(log_probs, actions_of(log_probs))


def entropy_of(log_probs: Tensor) -> Tensor:
    """The entropies of the distributions that have these logits."""
    every = logits_of(log_probs).log_softmax(-1)
    return -(every.exp() * every).sum(-1)


def loss_args(axes: str) -> tuple[Arg, ...]:
    """The arguments of clipped losses, on these axes; the canonical ones are log-probabilities, a mask and bounds."""
    return (
        Arg("log_probs", axes),
        Arg("old_log_probs", axes, also="old behavior behaviour"),
        Arg("mask", axes, flag=True),
        Arg("padding", axes, of=lambda x: ~x.mask, flag=True),
        Arg("clip"),
        Arg("clip_high"),
        Arg("clip_low", of=lambda x: x.clip),
        Arg("stabiliser", of=lambda x: 1e-8),
        Arg("ratio", axes, of=lambda x: (x.log_probs - x.old_log_probs).exp()),
        Arg("logits", f"{axes} V", of=lambda x: logits_of(x.log_probs)),
        Arg("old_logits", f"{axes} V", of=lambda x: logits_of(x.old_log_probs)),
        Arg("actions", axes, of=lambda x: actions_of(x.log_probs)),
        Arg("probs", axes, of=lambda x: x.log_probs.exp()),
        Arg("old_probs", axes, of=lambda x: x.old_log_probs.exp()),
        Arg("neg_log_probs", axes, of=lambda x: -x.log_probs),
        Arg("old_neg_log_probs", axes, of=lambda x: -x.old_log_probs),
    )


# --- what an `eps` is, and a log-probability without an adjective ---

_LARGE = 1e-2  # an ε that is larger is a clip
_DOUBTFUL = frozenset(normalised(name) for name in ("eps", "epsilon", "e"))
_CLIPS = {normalised(n) for role in ("clip", "clip_low") for n in [role, *NAMES[role].split()]} - _DOUBTFUL
_NEW = {normalised(name) for name in affixed("new", "current", "cur", "curr", "theta", "now", "updated").split()}
_PLAIN = {normalised(name) for name in LOG_PROB_WORDS.split()}


def implied(parameters: Sequence[inspect.Parameter]) -> dict[str, str]:
    """What an `eps` is that keeps a denominator from 0, and a log-probability without an adjective beside a new one."""
    spelled = {p.name: normalised(p.name) for p in parameters}
    defaults = {p.name: p.default for p in parameters if spelled[p.name] in _DOUBTFUL}
    beside = bool(_CLIPS & set(spelled.values())) or any(_is_number(x) and x > _LARGE for x in defaults.values())
    found = {name: "stabiliser" for name, default in defaults.items() if _is_stabiliser(default, beside)}
    if _NEW & set(spelled.values()):
        found |= {name: "old_log_probs" for name in spelled if spelled[name] in _PLAIN}
    return found


def bounds_themselves(roles: frozenset[str], reading: Reading) -> list[Reading]:
    """The reading of a function whose two bounds may be 0.8 and 1.2, not 0.2 and 0.2."""
    if not {"clip_low", "clip_high"} <= roles:
        return []
    of = {**reading.of, "clip_low": lambda x: 1 - x.clip, "clip_high": lambda x: 1 + x.clip_high}
    return [reading._replace(text=f"{reading.text}, bounds 1 - ε and 1 + ε", of=of, doubt=_may_be_bounds)]


def _may_be_bounds(defaults: Mapping[str, Any], known: bool) -> bool:
    """Whether no default says that a bound is a distance from 1, and no known mistake explains the answers."""
    given = [defaults[role] for role in ("clip_low", "clip_high") if _is_number(defaults.get(role))]
    return not known and all(bound > 0.5 for bound in given)


def _is_number(x: Any) -> bool:
    return isinstance(x, float | int) and not isinstance(x, bool)


def _is_stabiliser(default: Any, beside: bool) -> bool:
    """Whether an `eps` is one: tiny by default, or `beside` another clip and not as large as one."""
    if _is_number(default):
        return bool(default <= (_LARGE if beside else 1e-4))
    return beside and default is inspect.Parameter.empty


# --- the factors of a loss ---

LEVELS = ("token", "product", "geometric_mean")


def level_ratios(log_ratio: Tensor, taken: Tensor) -> Tensor:
    """The log-ratios of a token, of its sequence, and the mean of these over the sequence: `[3, ...]`."""
    masked = torch.where(taken, log_ratio, 0.0)
    total = masked.sum(-1, keepdim=True)
    mean = total / taken.sum(-1, keepdim=True).clamp(min=1)
    return torch.stack([log_ratio, total.expand_as(log_ratio), mean.expand_as(log_ratio)])


AVERAGES = ("steps", "episodes", "sum", "episode_means", "padded", "all_mean", "all_sum", "all_episodes", "all_steps")


def weights_of(name: str, taken: Tensor) -> Tensor:
    """The weight of each place `[B, T]` in the loss, by the name of the average."""
    used, every = taken.to(F64), torch.ones_like(taken, dtype=F64)
    return {
        "steps": used / used.sum(),
        "episodes": used / len(used),
        "sum": used,
        "episode_means": used / used.sum(-1, keepdim=True) / len(used),
        "padded": used / used.numel(),
        "all_mean": every / used.numel(),
        "all_sum": every,
        "all_steps": every / used.sum(),
        "all_episodes": every / len(used),
    }[name]


class Grid(NamedTuple):
    """All hypotheses in one case: slopes are drive[surrogate, level, advantage] · weight[average] + extra · weight.

    At the level of the token, that is: the ratio of a whole sequence has slopes by all its log-probabilities. What is
    added, such as a penalty, is averaged as the rest (the first choice) or by an average of its own.
    """

    drive: Tensor
    weight: Tensor
    taken: Tensor
    extra: Tensor | None = None

    def parts(self, index: Tensor) -> Tensor:
        """The slopes `[P, H, n]` of some hypotheses, for the scales 1."""
        surrogate, level, advantage, average = index.T[:4]
        chosen = self.drive[surrogate, level, advantage]
        own = chosen * self.weight[average]
        product = own.sum(-1, keepdim=True) * self.taken
        mean = product / self.taken.sum(-1, keepdim=True).clamp(min=1)
        which = level.reshape(-1, *[1] * self.taken.ndim)
        slopes = torch.where(which == 0, own, torch.where(which == 1, product, mean)).flatten(1)
        slopes = torch.where(chosen.isinf().flatten(1).any(-1, keepdim=True), torch.inf, slopes)
        if self.extra is None:
            return slopes[None]
        kind, apart = index.T[4:]
        added = self.extra[kind] * self.weight[torch.where(apart == 0, average, apart - 1)]
        return torch.stack([slopes, added.flatten(1)])


# --- mistakes that are factors ---


class Spec(NamedTuple):
    """A mistake before it belongs to a kind: its key without the kind, and the hypotheses that it is."""

    tail: str
    name: str
    meaning: str
    sign: str
    sources: tuple[Source, ...]
    values: tuple[Mapping[str, Any], ...]
    right_form: tuple[Source, ...] = ()
    since: str = "1.0"


def values(field: str, *names: str) -> tuple[Mapping[str, Any], ...]:
    """The hypotheses that differ from what is right in one factor."""
    return tuple({field: name} for name in names)


def as_mistakes(
    kind: str, specs: Iterable[Spec], implementation: Callable[..., Callable[..., Tensor]]
) -> tuple[Mistake, ...]:
    """The mistakes of a kind, each implemented by the loss with the wrong factor."""
    return tuple(
        Mistake(
            f"{kind}.{s.tail}",
            s.name,
            s.meaning,
            s.sign,
            s.sources,
            tuple(implementation(**v) for v in s.values),
            right_form=s.right_form,
            since=s.since,
        )
        for s in specs
    )


def axis_of(names: Iterable[str], field: str, specs: Iterable[Spec], remarks: Mapping[str, str]) -> Axis:
    """The axis of a factor: what the specifications name as values of this field are mistakes."""
    wrong = {str(values[field]): spec.tail for spec in specs for values in spec.values if field in values}
    return Axis(tuple(names), wrong, remarks)


def other_bounds(clip: tuple[float, float], facts: frozenset[str]) -> tuple[float, float]:
    """Other bounds than those that are assumed; of which one is wider, if a function is told both."""
    both = "clip_high" in facts and bool(facts & {"clip", "clip_low"})
    return 1.5 * clip[0], (2.0 if both else 1.5) * clip[1]


def slopes_in(trial: Trial, inputs: Mapping[str, Any]) -> Tensor:
    """The slopes of a function, in the form of a trial, for other inputs."""
    check, form = trial.bench.check, trial.form
    return check.parts(form.call, form.layout, Inputs(inputs, form.derived), check.sizes(inputs))[""]
