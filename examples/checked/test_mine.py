"""The formulas, each against every mistake that is known."""

from functools import partial

import adapters
import mine

from pgtheory.checking import (
    check_advantages,
    check_policy_gradient,
    check_returns,
    check_top_p,
    parametrize_with_checks,
)

INTENDED = {"policy_gradient.gamma_t_dropped": "we weight all states alike, as PPO does"}


@parametrize_with_checks(
    [
        (check_returns, mine.returns),
        (check_policy_gradient, mine.loss),
        partial(check_advantages, call=adapters.run_advantages),
        partial(check_top_p, call=adapters.run_nucleus),
    ],
    expected_failures=INTENDED,
    checks="1.0",
)
def test_formulas(function, check):
    """One test for each mistake that a function could make."""
    check(function)
