"""How people's policy-gradient losses are called: roles, layouts, containers, and the slopes of what they return."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pgtheory.checking.calling import Arg, Binding, Call, Inputs, Misfit, bind, in_one_line
from pgtheory.checking.enumeration import HORIZON, N_ACTIONS, SIZES, Enumeration, enumeration
from pgtheory.checking.slopes import loss_in
from pgtheory.checking.verdicts import quietly

_F64 = torch.float64

# What is asked changes what is estimated: it is only given where there is no default.
ARGS = (
    Arg("log_probs", also="lps"),
    Arg("rewards"),
    Arg("gamma"),
    Arg("mask", also="active"),
    Arg("padding"),
    Arg("lengths", also="n_steps num_steps"),
    Arg("dones", also="terminated terminations"),
    Arg("actions"),
    Arg("logits", also="preferences h action_scores"),
    Arg("values", asked=True),
    Arg("old_log_probs", asked=True),
    Arg("neg_log_probs", asked=True),
    Arg("probs", also="policy_probs", asked=True),
    Arg("ratio", asked=True),
    Arg("dist", also="dists distributions policy_dist action_dist", asked=True),
    Arg(
        "returns",
        also="g gs a advantages advantage adv advs weights weight q_values qs q delta deltas psi td_targets "
        "raw_rewards_or_advantages",
        asked=True,
    ),
)
EXAMPLE = "call=lambda x: f(x.log_probs, x.rewards, x.gamma, mask=x.mask)  # [N, T]"


def _settle(name: str, roles: tuple[str, ...], others: frozenset[str]) -> str | None:
    """A letter g is γ beside rewards, and else a return."""
    if {"gamma", "returns"} <= set(roles):
        return "gamma" if "rewards" in others else "returns"
    return None


class Variant(NamedTuple):
    """The types in which the arguments are given."""

    dtype: torch.dtype
    mask: torch.dtype
    rewards: Literal["torch", "numpy", "list"]

    @property
    def name(self) -> str:
        """The types that are not the usual ones."""
        parts = ["float32"] * (self.dtype == torch.float32) + ["mask of floats"] * (self.mask != torch.bool)
        return ", ".join(parts + [f"rewards in {self.rewards}"] * (self.rewards != "torch"))


_VARIANTS = (
    Variant(_F64, torch.bool, "torch"),
    Variant(torch.float32, torch.bool, "torch"),
    Variant(_F64, _F64, "torch"),
    Variant(torch.float32, torch.float32, "torch"),
    Variant(_F64, torch.bool, "numpy"),
    Variant(_F64, torch.bool, "list"),
    Variant(torch.float32, torch.bool, "numpy"),
    Variant(torch.float32, torch.bool, "list"),
)


class Layout(NamedTuple):
    """How the arguments `[N, T]` of a batch are arranged, given the steps taken, and the batches that can be put so."""

    name: str
    arrange: Callable[[Tensor, Tensor], Any]
    of: Literal["all", "one episode", "equal lengths"] = "all"
    lists: bool = False


def _rows(x: Tensor, mask: Tensor) -> list[Tensor]:
    return [row[: int(taken.sum())] for row, taken in zip(x, mask, strict=True)]


def _turned(x: Tensor) -> Tensor:
    return x.transpose(0, 1) if x.ndim > 1 else x


def _ones(x: Tensor) -> list[Tensor]:
    return [x[i : i + 1] for i in range(len(x))]


_LAYOUTS = {
    "[N, T]": Layout("[N, T]", lambda x, mask: x),
    "[T, N]": Layout("[T, N]", lambda x, mask: _turned(x)),
    "padded [T]": Layout("[T]", lambda x, mask: x[0], "one episode"),
    "flat": Layout("episodes in one row", lambda x, mask: x[mask] if x.shape[:2] == mask.shape else x),
    "[T]": Layout("one episode [T]", lambda x, mask: x[0], "one episode"),
    "[1, T]": Layout("one episode [1, T]", lambda x, mask: x, "one episode"),
    "numbers": Layout("one episode, a list of numbers", lambda x, mask: list(x[0].unbind()), "one episode", True),
    "ones": Layout("one episode, a list of tensors [1]", lambda x, mask: _ones(x[0]), "one episode", True),
    "flat numbers": Layout("episodes in one list of numbers", lambda x, mask: list(x[mask].unbind()), lists=True),
    "flat ones": Layout("episodes in one list of tensors [1]", lambda x, mask: _ones(x[mask]), lists=True),
    "rows": Layout("a list of episodes", _rows, lists=True),
    "equal": Layout("[N, T], episodes of equal lengths", lambda x, mask: x, "equal lengths"),
    "equal, time first": Layout(
        "[T, N], episodes of equal lengths", lambda x, mask: x.transpose(0, 1), "equal lengths"
    ),
}


class _Batch(NamedTuple):
    """What is given for one batch: tensors `[N, T]`; `leaf` (of log-probabilities or logits) is differentiated."""

    leaf: Tensor
    values: Tensor
    rewards: Tensor
    returns: Tensor
    mask: Tensor
    actions: Tensor
    gamma: float


@dataclass
class LossForm:
    """A loss, and one way of calling it."""

    function: Callable[..., Any]
    binding: Binding
    layout: Layout
    variant: Variant | None = None
    notes: set[str] = field(default_factory=set)
    errors: dict[int, Exception] = field(default_factory=dict)
    by_values: tuple[int, Tensor, Tensor] | None = None

    @property
    def name(self) -> str:
        """The layout, and the types that are not the usual ones."""
        return ", ".join(part for part in (self.layout.name, self.variant.name if self.variant else "") if part)

    @cached_property
    def roles(self) -> frozenset[str]:
        """What the loss is given."""
        return self.binding.roles

    @property
    def knows_gamma(self) -> bool:
        """Whether γ is an argument."""
        return "gamma" in self.roles

    @property
    def has_rewards(self) -> bool:
        """Whether it computes returns itself."""
        return "rewards" in self.roles

    @cached_property
    def of_logits(self) -> bool:
        """Whether the policy is given for all actions."""
        return bool(self.roles & {"actions", "logits", "dist"})

    @property
    def is_padded(self) -> bool:
        """Whether steps that were not taken are given."""
        return self.layout.name in ("[N, T]", "[T, N]")

    def usable(self, known: Enumeration) -> Tensor:
        """The batches that can be put in this form, `[B]`."""
        if self.layout.of == "one episode":
            return known.sizes == 1
        equal = torch.tensor([s.problem.same_lengths for s in known.settings])[known.setting]
        # One episode has as many steps as itself: so longer ones than those of equal lengths are tried too.
        return equal | (known.sizes == 1) if self.layout.of == "equal lengths" else torch.ones_like(equal)

    def gradients(
        self, known: Enumeration, which: Tensor, *, columns: int = 0, rewards_behind: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """The derivatives by logits `[B, 3, 3, A]`, and the largest slope behind an end `[B]`, of batches `which`.

        Raises:
            Misfit: the loss fails for all the first batches, in all types of the arguments.
        """
        if self.variant is None:
            self._choose_variant(known, which)
        shape = (len(which), SIZES[-1], HORIZON + columns, *[N_ACTIONS] * self.of_logits)
        found, answered = torch.zeros(shape, dtype=_F64), torch.zeros_like(which)
        for i in which.nonzero()[:, 0].tolist():
            try:
                slopes = self._slopes(known, i, columns, rewards_behind)
            except Exception as error:
                self.errors[i] = error
                continue
            found[i, : slopes.shape[0], : slopes.shape[1]] = slopes
            answered[i] = True
        return _placed(found, known, answered)

    def slopes(
        self, known: Enumeration, i: int, *, columns: int = 0, rewards_behind: float = 0.0
    ) -> Tensor | Exception:
        """The derivatives of the loss of one batch, as they are."""
        try:
            return self._slopes(known, i, columns, rewards_behind)
        except Exception as error:
            return error

    def _choose_variant(self, known: Enumeration, which: Tensor) -> None:
        tried = _some_batches(known, which)
        failures = []
        for variant in _VARIANTS:
            if variant.mask != torch.bool and not self.roles & {"mask", "padding", "dones"}:
                continue
            self.variant = variant
            for i in tried:
                try:
                    self._slopes(known, i, 0, 0.0)
                except Exception as error:
                    failures.append(error)
                else:
                    return
        self.variant = None
        raise Misfit(in_one_line(failures[0]))

    def _slopes(self, known: Enumeration, i: int, columns: int, rewards_behind: float) -> Tensor:
        given = _all_given(known.gammas, self.of_logits, columns, rewards_behind)[i]
        batch = given._replace(leaf=_leaf(given.leaf), values=_leaf(given.values))
        slopes, by_values = self._differentiated(batch)
        if "values" in self.roles and self.by_values is None and i % 5 == 0:
            _, others = self._differentiated(
                given._replace(leaf=_leaf(1.5 * given.leaf - 0.2), values=_leaf(given.values))
            )
            if not torch.allclose(by_values, others, rtol=1e-4, atol=1e-6):
                self.by_values = i, by_values, others
        return slopes

    def _differentiated(self, batch: _Batch) -> tuple[Tensor, Tensor]:
        assert self.variant is not None
        with torch.enable_grad():
            given = {role: self._given(role, batch, self.variant) for role in self.roles}
            output = self.binding.call(self.function, given)
            loss = self._scalar(output, len(batch.mask))
        leaves = (batch.leaf, batch.values)[: 1 + ("values" in self.roles)]
        if any(leaf.grad is not None for leaf in leaves):  # it has called `backward` itself
            found = [leaf.grad for leaf in leaves]
        elif loss is None:
            raise Misfit("it returned None")
        elif not loss.requires_grad:
            found = [None] * len(leaves)
        else:
            found = list(torch.autograd.grad(loss, leaves, allow_unused=True))
        slopes = [torch.zeros_like(x) if g is None else g.detach() for x, g in zip(leaves, found, strict=True)]
        return slopes[0], slopes[-1]

    def _given(self, role: str, batch: _Batch, variant: Variant) -> Any:
        if role == "gamma":
            return batch.gamma
        if role == "dist":
            return torch.distributions.Categorical(logits=self._given("logits", batch, variant))
        tensor = _value(role, batch, self.of_logits)
        if tensor.is_floating_point():
            tensor = tensor.to(variant.dtype)
        elif tensor.dtype == torch.bool:
            tensor = tensor.to(variant.mask)
        arranged = self.layout.arrange(tensor, batch.mask)
        plain = role in ("rewards", "dones", "mask", "padding", "lengths")
        if not plain or (variant.rewards == "torch" and not self.layout.lists):
            return [x.clone() for x in arranged] if isinstance(arranged, list) else arranged.clone()
        container = "list" if self.layout.lists and variant.rewards == "torch" else variant.rewards
        return _plainly(arranged, container, rows=self.layout is _LAYOUTS["rows"])

    def _scalar(self, returned: Any, episodes: int) -> Tensor | None:
        """The loss in what the function returned: one number, or a sum over the steps and a mean over episodes."""
        if returned is None:
            return None
        loss = _numbers(loss_in(returned))
        if loss.numel() == 1:
            return loss.reshape(())
        self.notes.add(
            f"it returned {loss.ndim}-dimensional losses, not one number: a sum over the steps and a mean over the "
            "episodes was taken"
        )
        return loss.sum() / episodes


def _numbers(output: Any) -> Tensor:
    try:
        numbers = output if isinstance(output, Tensor) else torch.as_tensor(output, dtype=_F64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Misfit(f"it returned {type(output).__name__}, not a loss") from error
    if not numbers.is_floating_point() or numbers.numel() == 0:
        raise Misfit(f"it returned {numbers.dtype} of shape {list(numbers.shape)}, not a loss")
    return numbers


def _plainly(value: Any, container: str, *, rows: bool) -> Any:
    """Rewards, flags and the like in NumPy or lists: one list, or one for each episode."""
    if isinstance(value, list) and not rows:
        value = torch.cat([x.reshape(-1) for x in value])
    if isinstance(value, list):
        return [_plainly(x, container, rows=rows) for x in value]
    return value.tolist() if container == "list" else value.numpy().copy()


def _value(role: str, batch: _Batch, of_logits: bool) -> Tensor:
    """The value of a role, `[N, T]`, or `[N, T, A]` for what is given for all actions."""
    x = batch.leaf
    log_probs = x.log_softmax(-1) if of_logits else x
    values: dict[str, Callable[[], Tensor]] = {
        "logits": lambda: x,
        "log_probs": lambda: log_probs,
        "neg_log_probs": lambda: -log_probs,
        "probs": log_probs.exp,
        "old_log_probs": log_probs.detach,
        "ratio": (log_probs - log_probs.detach()).exp,
        "rewards": lambda: batch.rewards,
        "returns": lambda: batch.returns,
        "mask": lambda: batch.mask,
        "padding": lambda: ~batch.mask,
        "lengths": lambda: batch.mask.sum(-1),
        "dones": lambda: torch.arange(batch.mask.shape[-1]) >= batch.mask.sum(-1, keepdim=True) - 1,
        "values": lambda: batch.values,
        "actions": lambda: batch.actions,
    }
    return values[role]()


def _batch(known: Enumeration, i: int, of_logits: bool, columns: int, rewards_behind: float) -> _Batch:
    """The tensors of the batch i, with more columns of padding, or other rewards in the padding."""
    n, width = int(known.sizes[i]), int(known.batches.cells[i].any(0).sum())

    def cut(x: Tensor, fill: float) -> Tensor:
        extra = torch.full((n, columns, *x.shape[3:]), fill).to(x.dtype)
        return torch.cat([x[i, :n, :width], extra], 1)

    mask = cut(known.batches.mask, 0)
    policy = cut(known.logits, -0.3) if of_logits else cut(known.log_probs, -1.3)
    rewards = cut(known.batches.rewards, 0.0)
    if rewards_behind:
        rewards = torch.where(mask, rewards, rewards_behind + torch.arange(width + columns))
    return _Batch(
        policy,
        cut(known.batches.values, 0.3),
        rewards,
        cut(known.returns, 0.0),
        mask,
        cut(known.actions, 0),
        float(known.batches.gamma[i]),
    )


def _leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


@cache
def _all_given(gammas: tuple[float, ...], of_logits: bool, columns: int, rewards_behind: float) -> list[_Batch]:
    known = enumeration(gammas)
    return [_batch(known, i, of_logits, columns, rewards_behind) for i in range(len(known.setting))]


def _placed(slopes: Tensor, known: Enumeration, answered: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives by the logits of the steps taken, and the largest slope behind an end."""
    mask, inside = known.batches.mask, slopes[:, :, :HORIZON]
    gradients = inside[..., None] * known.scores if slopes.ndim == 3 else inside
    gradients = torch.where(mask[..., None], gradients, 0.0)
    taken = torch.nn.functional.pad(mask, (0, slopes.shape[2] - HORIZON))
    behind = slopes.abs().masked_fill(taken.view(*taken.shape, *[1] * (slopes.ndim - 3)), 0.0)
    return torch.where(answered[:, None, None, None], gradients, torch.nan), behind.flatten(1).amax(-1)


def _some_batches(known: Enumeration, which: Tensor) -> Sequence[int]:
    """A batch of 2 episodes, of 3 and of 1, the longest ones."""
    steps = known.batches.mask.sum((-2, -1))
    found = []
    for size in (2, 3, 1):
        these = which & (known.sizes == size)
        if bool(these.any()):
            found.append(int(torch.where(these, steps, -1).argmax()))
    return found


def forms(
    function: Callable[..., Any] | None, call: Call | None, only: str | None, names: Mapping[str, str] | None
) -> Iterator[tuple[str, int, LossForm]]:
    """The forms in which a loss may be called, the most usual first, with what its names mean, and their tiers.

    A form of tier 1 is for where none of tier 0 fits.

    Raises:
        Misfit: an argument is none that is known.
    """
    for function_, binding in _bindings(function, call, names):
        for tier, keys in enumerate(_layouts_for(binding.roles)):
            for layout in (_LAYOUTS[key] for key in keys):
                if only is None or only in layout.name:
                    yield binding.meaning, tier, LossForm(function_, binding, layout)


def _layouts_for(roles: frozenset[str]) -> tuple[tuple[str, ...], ...]:
    """The layouts to try, and those to try where none of the first fits."""
    if roles & {"mask", "padding", "lengths"}:
        return ("[N, T]", "[T, N]"), ("padded [T]",)
    if "dones" in roles:
        return ("flat", "flat numbers", "flat ones", "[N, T]", "[T, N]"), ("[T]", "numbers", "ones")
    return (("[T]", "numbers", "ones", "[1, T]", "rows", "equal", "equal, time first"),)


def _bindings(
    function: Callable[..., Any] | None, call: Call | None, names: Mapping[str, str] | None
) -> list[tuple[Callable[..., Any], Binding]]:
    """How arguments are given: one way, or one for each meaning of a name."""
    if call is not None:
        return [(lambda **given: call(Inputs(given, {})), _of_call(call))]
    if not callable(function):
        raise TypeError(f"check_policy_gradient takes a callable, or call=lambda x: ..., not {type(function).__name__}")
    signature = ("log_probs", "rewards", "gamma", "mask")
    found = bind(function, ARGS, (), signature, names, _settle)
    if any(shown.startswith("*") for shown in found[0].shown):
        return [(function, Binding(signature[:3], {"mask": "mask"}, found[0].shown))]
    for binding in found:
        if not binding.roles & {"log_probs", "logits", "dist", "neg_log_probs", "probs", "ratio"}:
            raise Misfit("it has no argument 'log_probs', nor 'logits' with 'actions'")
        if not binding.roles & {"rewards", "returns"}:
            raise Misfit("it has no argument 'rewards', nor 'returns'")
    return [(function, binding) for binding in found]


def _of_call(call: Call) -> Binding:
    """What `call=` reads of the inputs."""
    known = enumeration()
    batch = _batch(known, _some_batches(known, known.setting >= 0)[0], False, 0, 0.0)
    scalars = {"gamma": batch.gamma}
    inputs = Inputs({**scalars, **{a.name: _value(a.name, batch, False) for a in ARGS if a.name not in _SPECIAL}}, {})
    try:
        quietly(call, inputs)
    except Exception as error:
        if "the check has no input" in str(error):
            raise Misfit(str(error)) from None
    return Binding((), {role: role for role in sorted(inputs.used)}, {})


_SPECIAL = frozenset(["gamma", "logits", "dist"])
