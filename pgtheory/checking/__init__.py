"""A conformance kit: is your implementation right, and if not, which known mistake is it?"""

from typing import TYPE_CHECKING

from pgtheory.checking._learning import learning_curve
from pgtheory.checking._pytest import parametrize_with_checks
from pgtheory.checking.answers import check_answer
from pgtheory.checking.catalogue import CHECKS, mistakes
from pgtheory.checking.report import (
    CHECKS_VERSION,
    Counterexample,
    Mistake,
    Report,
    Source,
    UnknownForm,
    WrongImplementation,
)

__all__ = [
    "CHECKS",
    "CHECKS_VERSION",
    "Counterexample",
    "Mistake",
    "Report",
    "Source",
    "UnknownForm",
    "WrongImplementation",
    "check_answer",
    "learning_curve",
    "mistakes",
    "parametrize_with_checks",
]

if TYPE_CHECKING:  # for type checkers alone; a check that is not listed here has the type Any
    from collections.abc import Mapping
    from typing import Any

    from pgtheory.checking.calling import Call

    def _check(
        function: Any = None,
        /,
        *,
        call: Call | None = None,
        layout: str | None = None,
        names: Mapping[str, str] | None = None,
        checks: str | None = None,
        **options: Any,
    ) -> Report:
        """What all checks take; some take more."""

    check_accumulation = _check
    check_advantages = _check
    check_entropy = _check
    check_mdp = _check
    check_group_advantages = _check
    check_grpo = _check
    check_importance_weights = _check
    check_kl = _check
    check_kl_in_reward = _check
    check_lambda_returns = _check
    check_log_probs = _check
    check_masked_mean = _check
    check_n_step = _check
    check_policy_gradient = _check
    check_ppo = _check
    check_returns = _check
    check_softmax = _check
    check_top_k = _check
    check_top_p = _check
    check_v_trace = _check
    check_value_loss = _check
    check_whitening = _check

    __all__ += [
        "check_accumulation",
        "check_advantages",
        "check_entropy",
        "check_group_advantages",
        "check_grpo",
        "check_importance_weights",
        "check_kl",
        "check_kl_in_reward",
        "check_lambda_returns",
        "check_log_probs",
        "check_masked_mean",
        "check_mdp",
        "check_n_step",
        "check_policy_gradient",
        "check_ppo",
        "check_returns",
        "check_softmax",
        "check_top_k",
        "check_top_p",
        "check_v_trace",
        "check_value_loss",
        "check_whitening",
    ]
else:  # each check is a file in `kinds`, and its function a name of this package
    _FUNCTIONS = {f.__name__: f for f in CHECKS.values() if getattr(f, "__name__", "").startswith("check_")}
    globals().update(_FUNCTIONS)
    __all__ += [*_FUNCTIONS]  # noqa: PLE0604
