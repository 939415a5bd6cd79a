"""The checks by their names, and the catalogue of all known mistakes."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from pgtheory.checking import (
    _advantages,
    _environment,
    _grpo,
    _kl,
    _policy_gradient,
    _ppo,
    _returns,
    _softmax,
    _truncation,
)
from pgtheory.checking._report import Mistake, Report

#: The checks by the names of what they check; `kl_loss` is `check_kl` with `as_loss=True`.
CHECKS: Mapping[str, Callable[..., Report]] = MappingProxyType(
    {
        "mdp": _environment.check_mdp,
        "returns": _returns.check_returns,
        "advantages": _advantages.check_advantages,
        "softmax": _softmax.check_softmax,
        "top_k": _truncation.check_top_k,
        "top_p": _truncation.check_top_p,
        "policy_gradient": _policy_gradient.check_policy_gradient,
        "ppo": _ppo.check_ppo,
        "kl": _kl.check_kl,
        "kl_loss": partial(_kl.check_kl, as_loss=True),
        "grpo": _grpo.check_grpo,
    }
)

_CATALOGUE: tuple[Mistake, ...] = (
    *_environment.MISTAKES,
    *_returns.MISTAKES,
    *_advantages.MISTAKES,
    *_softmax.MISTAKES,
    *_truncation.TOP_K_MISTAKES,
    *_truncation.TOP_P_MISTAKES,
    *_policy_gradient.MISTAKES,
    *_ppo.MISTAKES,
    *_kl.MISTAKES,
    *_kl.LOSS_MISTAKES,
    *_grpo.MISTAKES,
)


def mistakes(check: str | None = None) -> tuple[Mistake, ...]:
    """The known mistakes, of one check or of all, in the order of the book.

    Args:
        check: the name of a check, such as `"top_p"`; None: all.

    Returns:
        The mistakes, and the forms that are right with a remark.

    Raises:
        ValueError: there is no check of that name.

    Source:
        Each mistake names its own.

    Example:
        >>> sorted({mistake.check for mistake in mistakes()})[:3]
        ['advantages', 'grpo', 'kl']
        >>> mistakes("returns")[1].name
        'the returns in reversed order'
    """
    if check is not None and check not in CHECKS:
        raise ValueError(f"check is {check!r}, expected one of {', '.join(map(repr, CHECKS))}")
    return tuple(mistake for mistake in _CATALOGUE if check in (None, mistake.check))
