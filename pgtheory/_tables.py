"""Tables over the states, or the states and actions, of an MDP."""

import torch
from torch import Tensor

from pgtheory import _checks
from pgtheory.mdp import FiniteMDP, check_policy


def check_policy_named(name: str, mdp: FiniteMDP, policy: Tensor) -> None:
    """`check_policy`, for an argument of another name."""
    _checks.check_instance("mdp", mdp, FiniteMDP)
    try:
        check_policy(mdp, policy)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} is no policy of mdp: {error}") from None


def widened(mdp: FiniteMDP) -> FiniteMDP:
    """The MDP itself, or in float32 where its dtype is of 16 bits: recursions over many sums need it."""
    _checks.check_instance("mdp", mdp, FiniteMDP)
    return mdp if mdp.rewards.element_size() > 2 else mdp.to(dtype=torch.float32)


def check_table(mdp: FiniteMDP, name: str, table: Tensor, ndim: int) -> None:
    """Raise unless `table` ends with the axes [S, A], or [S] where it has only one axis."""
    _checks.check_instance("mdp", mdp, FiniteMDP)
    _checks.check_floating(name, table)
    _checks.check_same_kind(name, table, "mdp", mdp.rewards)
    expected = (mdp.n_states, mdp.n_actions) if ndim > 1 else (mdp.n_states,)
    _checks.check_trailing_shape(name, table, expected)
    if table.ndim != ndim:
        raise ValueError(f"{name} has shape {list(table.shape)}, expected {ndim} axes")
    _checks.check_no_nan(name, table)
