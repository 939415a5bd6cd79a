"""The limits of the statistical tests, how often they all together are wrong, and that none stands beside them."""

import itertools
import math

import chance
import numpy as np
import pytest
from scipy.stats import binom

# Tests that look so and are none, and why.
EXACT = {
    "test_surrogates.py::test_ratios_of_prefixes_have_mean_one_and_their_variance_is_the_chi_square_divergence": "sums",
    "test_trajectories.py::test_the_marginals_are_powers_of_the_transition_matrix": "counts weighted by probabilities",
    "test_monte_carlo.py::test_first_visit_error_is_the_standard_deviation_over_root_n": "another formula",
    "test_monte_carlo.py::test_it_is_the_textbook_loop": "another algorithm on the same episodes",
}
# Tests that see whether one seed gives what it is there to show, such as a policy that has learned. For how many seeds
# it would is not computed, and they are not counted: what an update is, `test_updates.py` holds against its formula.
SHOWN = {
    "test_front_page.py::test_the_wrong_estimate_is_as_noisy_and_points_the_other_way",
    "test_softmax_policy.py::test_a_new_neural_policy_is_almost_uniform",
    "test_tiny_gpt.py::test_pretraining_starts_at_the_cross_entropy_and_learns_to_count",
    "test_training.py::test_a_float32_policy_learns_on_a_float64_mdp",
    "test_training.py::test_it_learns_the_short_corridor",
    "test_training.py::test_ppo_learns_the_corridor_in_every_run",
}


def test_all_statistical_tests_together_are_wrong_for_less_than_one_seed_in_a_million() -> None:
    assert len(chance.statistical()) >= 25
    assert (
        len(chance.statistical()) * chance.SHARE < chance.SUITE / 4
    )  # the rest is for what is normal only in the limit


def test_what_draws_and_compares_by_chance_takes_its_limit_from_there() -> None:
    assert set(chance.suspected()) - set(chance.statistical()) == EXACT.keys() | SHOWN


@pytest.mark.parametrize("n", [1, 7, 60])
def test_counts_outside_of_the_bounds_have_less_than_the_share_and_the_next_ones_would_not(n: int) -> None:
    for p, comparisons in itertools.product((0.0, 1e-9, 0.02, 0.5, 0.999, 1.0), (1, 12)):
        low, high = (int(x) for x in chance.bounds(n, p, comparisons))
        # by the binomial theorem
        law = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        half = chance.SHARE / comparisons / 2
        assert sum(law[:low]) < half * (1 + 1e-9)
        assert sum(law[high + 1 :]) < half * (1 + 1e-9)
        assert low == 0 or sum(law[: low + 1]) >= half * (1 - 1e-9)
        assert high == 0 or sum(law[high:]) >= half * (1 - 1e-9)


def test_the_limits_of_means_leave_the_share_outside() -> None:
    for comparisons in (1, 8):
        limit = chance.most_errors(comparisons)
        assert comparisons * math.erfc(limit / math.sqrt(2)) == pytest.approx(chance.SHARE, rel=1e-9)
    # Student with 2 degrees of freedom, in closed form: P(|T| > t) = 1 - t / √(2 + t²)
    limit = chance.most_errors(5, batches=3)
    assert 5 * (1 - limit / math.sqrt(2 + limit**2)) == pytest.approx(chance.SHARE, rel=1e-6)


def test_a_frequency_that_is_wrong_is_seen() -> None:
    p = np.array([0.25, 0.75, 0.0])
    chance.assert_counts([25_100, 74_900, 0], p, 100_000)
    for wrong in ([27_000, 73_000, 0], [25_000, 74_999, 1]):
        with pytest.raises(AssertionError):
            chance.assert_counts(wrong, p, 100_000)
    low, high = chance.bounds(100_000, 0.25, 3)
    assert binom.cdf(high, 100_000, 0.265) - binom.cdf(low - 1, 100_000, 0.265) < 1e-6
