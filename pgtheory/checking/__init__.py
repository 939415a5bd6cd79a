"""A conformance kit: is your implementation right, and if not, which known mistake is it?"""

from typing import TYPE_CHECKING

from pgtheory.checking._learning import learning_curve
from pgtheory.checking.answers import check_answer
from pgtheory.checking.catalogue import CHECKS, mistakes
from pgtheory.checking.report import Counterexample, Mistake, Report, Source, UnknownForm, WrongImplementation

__all__ = [
    "CHECKS",
    "Counterexample",
    "Mistake",
    "Report",
    "Source",
    "UnknownForm",
    "WrongImplementation",
    "check_answer",
    "learning_curve",
    "mistakes",
]

if TYPE_CHECKING:  # for type checkers alone; a check that is not listed here has the type Any
    from pgtheory.checking.kinds.accumulation import check_accumulation
    from pgtheory.checking.kinds.advantages import check_advantages
    from pgtheory.checking.kinds.environment import check_mdp
    from pgtheory.checking.kinds.group_advantages import check_group_advantages
    from pgtheory.checking.kinds.grpo import check_grpo
    from pgtheory.checking.kinds.kl import check_kl
    from pgtheory.checking.kinds.lambda_returns import check_lambda_returns
    from pgtheory.checking.kinds.masked_mean import check_masked_mean
    from pgtheory.checking.kinds.n_step import check_n_step
    from pgtheory.checking.kinds.policy_gradient import check_policy_gradient
    from pgtheory.checking.kinds.ppo import check_ppo
    from pgtheory.checking.kinds.returns import check_returns
    from pgtheory.checking.kinds.softmax import check_softmax
    from pgtheory.checking.kinds.top_k import check_top_k
    from pgtheory.checking.kinds.top_p import check_top_p
    from pgtheory.checking.kinds.v_trace import check_v_trace
    from pgtheory.checking.kinds.whitening import check_whitening

    __all__ += ["check_advantages", "check_grpo", "check_kl", "check_mdp", "check_policy_gradient", "check_ppo"]
    __all__ += ["check_accumulation", "check_group_advantages", "check_masked_mean", "check_whitening"]
    __all__ += ["check_lambda_returns", "check_n_step", "check_v_trace"]
    __all__ += ["check_returns", "check_softmax", "check_top_k", "check_top_p"]
else:  # each check is a file in `kinds`, and its function a name of this package
    _FUNCTIONS = {f.__name__: f for f in CHECKS.values() if getattr(f, "__name__", "").startswith("check_")}
    globals().update(_FUNCTIONS)
    __all__ += [*_FUNCTIONS]  # noqa: PLE0604
