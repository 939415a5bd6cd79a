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
    from pgtheory.checking.kinds.accumulation import check_accumulation
    from pgtheory.checking.kinds.advantages import check_advantages
    from pgtheory.checking.kinds.entropy import check_entropy
    from pgtheory.checking.kinds.environment import check_mdp
    from pgtheory.checking.kinds.group_advantages import check_group_advantages
    from pgtheory.checking.kinds.grpo import check_grpo
    from pgtheory.checking.kinds.importance_weights import check_importance_weights
    from pgtheory.checking.kinds.kl import check_kl
    from pgtheory.checking.kinds.kl_in_reward import check_kl_in_reward
    from pgtheory.checking.kinds.lambda_returns import check_lambda_returns
    from pgtheory.checking.kinds.log_probs import check_log_probs
    from pgtheory.checking.kinds.masked_mean import check_masked_mean
    from pgtheory.checking.kinds.n_step import check_n_step
    from pgtheory.checking.kinds.policy_gradient import check_policy_gradient
    from pgtheory.checking.kinds.ppo import check_ppo
    from pgtheory.checking.kinds.returns import check_returns
    from pgtheory.checking.kinds.softmax import check_softmax
    from pgtheory.checking.kinds.top_k import check_top_k
    from pgtheory.checking.kinds.top_p import check_top_p
    from pgtheory.checking.kinds.v_trace import check_v_trace
    from pgtheory.checking.kinds.value_loss import check_value_loss
    from pgtheory.checking.kinds.whitening import check_whitening

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
