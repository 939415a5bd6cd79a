"""Generalized advantages with one part exchanged: how implementations of mistakes about TD errors are written.

Each is called in the canonical signature, with `rewards`, `values`, `next_values`, `gamma`, `lam`, `terminated`,
`truncated` and `mask`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgtheory.checking.calling import taking
from pgtheory.checking.episodes import in_one_row, masked_standardised, shifted, standardised, to_go


class Steps(NamedTuple):
    """The arguments of an implementation on the steps taken, and what follows from them."""

    rewards: Tensor
    values: Tensor
    next_values: Tensor
    gamma: float
    lam: float
    terminated: Tensor
    truncated: Tensor

    @property
    def ends(self) -> Tensor:
        """Where the sum is to be cut."""
        return self.terminated | self.truncated

    @property
    def row_values(self) -> Tensor:
        """The value of the next step of the row: after an end, that of the state after the reset."""
        return torch.cat([self.values[..., 1:], self.next_values[..., -1:]], -1)

    @property
    def is_last(self) -> Tensor:
        """True at the last step of the row."""
        return (torch.arange(self.rewards.shape[-1]) == self.rewards.shape[-1] - 1).expand(self.rewards.shape)


Of = Callable[[Steps], Tensor]
_INPUTS = "rewards values next_values gamma lam terminated truncated mask"


def of_steps(advantages: Of) -> Callable[..., Tensor]:
    """A function of the steps taken as one in the signature of the check; rows with the same mask stay together."""

    def implementation(
        rewards: Tensor,
        values: Tensor,
        next_values: Tensor,
        gamma: float,
        lam: float,
        terminated: Tensor,
        truncated: Tensor,
        mask: Tensor,
    ) -> Tensor:
        if mask.ndim == 1:
            r, v, v_next, end, cut, one = (x[None] for x in (rewards, values, next_values, terminated, truncated, mask))
            return implementation(r, v, v_next, gamma, lam, end, cut, one)[0]
        table = (rewards, values, next_values, terminated.bool(), truncated.bool())
        result, mask = torch.zeros_like(rewards), mask.bool()
        same_mask = bool((mask == mask[:1]).all())
        for row in [slice(None)] if same_mask else [slice(i, i + 1) for i in range(len(mask))]:
            taken = mask[row][0]
            if bool(taken.any()):
                r, v, v_next, end, cut = (x[row][:, taken] for x in table)
                result[row, taken] = advantages(Steps(r, v, v_next, gamma, lam, end, cut)).to(result.dtype)
        return result

    return implementation


def bootstrapped(s: Steps) -> Tensor:
    """V(S_{t+1}), and 0 after a termination."""
    return torch.where(s.terminated, 0.0, s.next_values)


def td_error(s: Steps) -> Tensor:
    """δ_t = R_{t+1} + γ V(S_{t+1}) - V(S_t)."""
    return s.rewards + s.gamma * bootstrapped(s) - s.values


def gae(
    delta: Of = td_error,
    cut: Of = lambda s: s.ends,
    weight: Callable[[Steps], float] = lambda s: s.gamma * s.lam,
    then: Callable[[Steps, Tensor], Tensor] = lambda s, a: a,
) -> Callable[..., Tensor]:
    """Generalized advantages in which one part is another."""
    return of_steps(lambda s: then(s, to_go(delta(s), weight(s), cut(s))))


generalized = gae()


def with_next(value: Of) -> Of:
    """The TD error with another value of the next state."""
    return lambda s: s.rewards + s.gamma * value(s) - s.values


def unless(condition: Of, there: Of) -> Of:
    """The value that is bootstrapped, but another one where a condition holds."""
    return lambda s: torch.where(condition(s), there(s), bootstrapped(s))


def own_value(s: Steps) -> Tensor:
    """V(S_t), and 0 after a termination."""
    return torch.where(s.terminated, 0.0, s.values)


def zero(s: Steps) -> Tensor:
    """0 at each step."""
    return torch.zeros_like(s.values)


def none(s: Steps) -> Tensor:
    """False at each step."""
    return torch.zeros_like(s.terminated)


def flags_of_another_step(by: int) -> tuple[Callable[..., Tensor], ...]:
    """The flags of the next step (by = -1) or of the previous one, in δ, in the cut, or in both."""
    found = []
    for edge in ("False", "True", "own"):

        def moved(s: Steps, edge: str = edge) -> Steps:
            return s._replace(terminated=shifted(s.terminated, by, edge), truncated=shifted(s.truncated, by, "own"))

        for value in (bootstrapped, lambda s: torch.where(s.terminated, 0.0, s.row_values)):
            in_delta = with_next(lambda s, moved=moved, value=value: value(moved(s)))  # type: ignore[misc]
            found += [gae(in_delta, lambda s, moved=moved: moved(s).ends), gae(in_delta)]  # type: ignore[misc]
        found.append(gae(cut=lambda s, moved=moved: moved(s).ends))  # type: ignore[misc]
    return tuple(found)


def then_standardised(ddof: int, dims: tuple[int, ...], eps: float, alone: bool) -> Callable[..., Tensor]:
    """Advantages standardised over some axes."""
    return gae(then=lambda s, a: standardised(a, dims, ddof, eps, alone=alone))


def whitened(ddof: int) -> Callable[..., Tensor]:
    """Standardised over the steps taken of the whole batch."""
    return taking(_INPUTS, lambda **x: masked_standardised(generalized(**x), x["mask"].bool(), ddof))


def forwards(cut: Of) -> Callable[..., Tensor]:
    """A_t = δ_t + γλ A_{t-1}, which starts anew after a step in `cut`."""

    def advantages(s: Steps) -> Tensor:
        before = torch.nn.functional.pad(cut(s)[..., :-1], (1, 0))
        return to_go(td_error(s).flip(-1), s.gamma * s.lam, before.flip(-1)).flip(-1)

    return of_steps(advantages)


def run_together(backwards: bool) -> Callable[..., Tensor]:
    """The rows of a batch as one long row, or the last row first."""

    def together(s: Steps) -> Tensor:
        return in_one_row(
            lambda d, e: to_go(d, s.gamma * s.lam, e > 0), td_error(s), s.ends.double(), backwards=backwards
        )

    return of_steps(together)


def seeded(s: Steps, advantages: Tensor) -> Tensor:
    """What the bootstrap value adds if the recursion starts with it, and not with 0."""
    seed = torch.where(s.is_last & ~s.ends, s.gamma * s.lam * s.next_values, 0.0)
    return advantages + to_go(seed, s.gamma * s.lam, s.ends)


def seeded_always(s: Steps, advantages: Tensor) -> Tensor:
    """The same, whether the last step ended an episode or not."""
    seed = torch.where(s.is_last, s.gamma * s.lam * s.next_values, 0.0)
    return advantages + to_go(seed, s.gamma * s.lam, s.ends & ~s.is_last)


def lambda_from_the_second_step(s: Steps) -> Tensor:
    """A_t = δ_t + γ (δ_{t+1} + γλ δ_{t+2} + ...)."""
    later = torch.nn.functional.pad(to_go(td_error(s), s.gamma * s.lam, s.ends)[..., 1:], (0, 1))
    return td_error(s) + s.gamma * torch.where(s.ends, 0.0, later)


def _returns(s: Steps, *, bootstrap: bool) -> Tensor:
    """The rewards of the episode from each step on, with or without the value where the row stops."""
    tail = torch.where(s.is_last | s.truncated, s.gamma * bootstrapped(s), 0.0) if bootstrap else 0.0
    return to_go(s.rewards + tail, s.gamma, s.ends)


def scaled_returns(change: Callable[[Tensor], Tensor], *, bootstrap: bool) -> Callable[..., Tensor]:
    """Returns that are changed before the values are subtracted."""
    return of_steps(lambda s: change(_returns(s, bootstrap=bootstrap)) - s.values)


SCALES: tuple[Callable[[Tensor], Tensor], ...] = (
    *(
        lambda x, o=ddof, d=dims, a=alone: standardised(x, d, o, alone=a)
        for ddof in (0, 1)
        for dims in ((-1,), (-2, -1))
        for alone in (True, False)
    ),
    lambda x: torch.nn.functional.normalize(x, dim=-1),
)


def _masked(advantages: Callable[[Steps, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A function of all steps, those included that were not taken, whose values stand in the row."""

    def implementation(mask: Tensor, **x: Any) -> Tensor:
        steps = Steps(**x)
        if bool(mask.all()):
            return to_go(td_error(steps), steps.gamma * steps.lam, steps.ends)
        return advantages(steps, mask)

    return taking(_INPUTS, implementation)


def padding(*, flagged: bool, bootstrapped: bool, summed: bool, zeroed: bool = False) -> Callable[..., Tensor]:
    """A row with its padding: whether its flags are seen, its value is bootstrapped, and its errors are summed.

    With `zeroed` its rewards and values are 0.
    """

    def advantages(s: Steps, mask: Tensor) -> Tensor:
        if zeroed:
            s = s._replace(rewards=s.rewards * mask, values=s.values * mask)
        edge = torch.cat([~mask[..., 1:], torch.zeros_like(mask[..., :1])], -1)
        unseen = edge & mask & (_last_taken(mask) if not flagged else torch.zeros_like(mask))
        terminated, ends = s.terminated & ~unseen, s.ends & ~unseen
        after = torch.where(edge | ~mask, s.row_values, s.next_values) if bootstrapped else s.next_values
        errors = s.rewards + s.gamma * torch.where(terminated, 0.0, after) - s.values
        if not summed:
            errors = torch.where(mask, errors, 0.0)
        return to_go(errors, s.gamma * s.lam, ends)

    return _masked(advantages)


def _last_taken(mask: Tensor) -> Tensor:
    """True from the last step taken on."""
    return mask.flip(-1).long().cumsum(-1).flip(-1) <= 1


def cut_at_masked_steps(*, flagged: bool, after: Of) -> Callable[..., Tensor]:
    """The sum is cut before each step that was not taken, where `after` is bootstrapped."""

    def advantages(s: Steps, mask: Tensor) -> Tensor:
        edge = torch.cat([~mask[..., 1:], torch.zeros_like(mask[..., :1])], -1)
        terminated = s.terminated & (flagged | ~(edge & _last_taken(mask)))
        value = torch.where(terminated, 0.0, torch.where(edge, after(s), s.next_values))
        errors = s.rewards + s.gamma * value - s.values
        return to_go(torch.where(mask, errors, 0.0), s.gamma * s.lam, s.ends | ~mask | edge)

    return _masked(advantages)


MOVES: tuple[Of, ...] = (lambda s: s.next_values, lambda s: s.row_values)
