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
    from collections.abc import Callable
    from typing import Any, ParamSpec, Protocol, overload

    from pgtheory.checking.kinds import (
        accumulation,
        advantages,
        entropy,
        environment,
        group_advantages,
        grpo,
        importance_weights,
        kl,
        kl_in_reward,
        lambda_returns,
        log_probs,
        masked_mean,
        n_step,
        overlong_penalty,
        policy_gradient,
        ppo,
        returns,
        softmax,
        top_k,
        top_p,
        v_trace,
        value_loss,
        whitening,
    )

    P = ParamSpec("P")

    class _Pinnable(Protocol[P]):
        """A check, which takes `checks` beside what its own file says."""

        @overload
        def __call__(self, *arguments: P.args, **options: P.kwargs) -> Report: ...
        @overload
        def __call__(self, function: Any = None, /, *, checks: str | None, **options: Any) -> Report: ...

    def _pinnable(check: Callable[P, Report], /) -> _Pinnable[P]:
        """The type that the catalogue gives to each check."""

    check_accumulation = _pinnable(accumulation.check_accumulation)
    check_advantages = _pinnable(advantages.check_advantages)
    check_entropy = _pinnable(entropy.check_entropy)
    check_group_advantages = _pinnable(group_advantages.check_group_advantages)
    check_grpo = _pinnable(grpo.check_grpo)
    check_importance_weights = _pinnable(importance_weights.check_importance_weights)
    check_kl = _pinnable(kl.check_kl)
    check_kl_in_reward = _pinnable(kl_in_reward.check_kl_in_reward)
    check_lambda_returns = _pinnable(lambda_returns.check_lambda_returns)
    check_log_probs = _pinnable(log_probs.check_log_probs)
    check_masked_mean = _pinnable(masked_mean.check_masked_mean)
    check_mdp = _pinnable(environment.check_mdp)
    check_n_step = _pinnable(n_step.check_n_step)
    check_overlong_penalty = _pinnable(overlong_penalty.check_overlong_penalty)
    check_policy_gradient = _pinnable(policy_gradient.check_policy_gradient)
    check_ppo = _pinnable(ppo.check_ppo)
    check_returns = _pinnable(returns.check_returns)
    check_softmax = _pinnable(softmax.check_softmax)
    check_top_k = _pinnable(top_k.check_top_k)
    check_top_p = _pinnable(top_p.check_top_p)
    check_v_trace = _pinnable(v_trace.check_v_trace)
    check_value_loss = _pinnable(value_loss.check_value_loss)
    check_whitening = _pinnable(whitening.check_whitening)

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
        "check_overlong_penalty",
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
