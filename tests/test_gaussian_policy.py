"""Gaussian policies against torch.distributions, SciPy, central differences and Gauss-Hermite quadrature."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from helpers import F64, assert_same_up_to_rounding, seeded
from torch import Tensor

from pgtheory.gaussian_policy import gaussian_log_prob, gaussian_score

MEAN, LOG_STD, ACTIONS = (torch.randn(5, 3, dtype=F64, generator=seeded(k)) for k in range(3))
FUNCTIONS = [gaussian_log_prob, gaussian_score]


def hermite(mean: float, std: float, n: int = 20) -> tuple[Tensor, Tensor]:
    """Actions [n, 1] and weights for the mean under N(mean, std²), exact for polynomials of a degree below 2n."""
    x, w = np.polynomial.hermite_e.hermegauss(n)
    return torch.tensor(mean + std * x).unsqueeze(-1), torch.tensor(w / w.sum())


@pytest.mark.equation("eq-gaussian-log-prob")
def test_the_log_density_is_that_of_torch_and_of_scipy() -> None:
    found = gaussian_log_prob(MEAN, LOG_STD, ACTIONS)
    normal = torch.distributions.Independent(torch.distributions.Normal(MEAN, LOG_STD.exp()), 1)
    torch.testing.assert_close(found, normal.log_prob(ACTIONS), rtol=1e-13, atol=1e-13)
    by_scipy = scipy.stats.norm.logpdf(ACTIONS.numpy(), MEAN.numpy(), LOG_STD.exp().numpy()).sum(-1)
    np.testing.assert_allclose(found, by_scipy, rtol=1e-13, atol=1e-13)


def test_the_density_integrates_to_one_and_may_exceed_it() -> None:
    mean, log_std = torch.tensor([0.3], dtype=F64), torch.tensor([-2.0], dtype=F64)

    def density(a: float) -> float:
        return gaussian_log_prob(mean, log_std, torch.tensor([a], dtype=F64)).exp().item()

    total, _ = scipy.integrate.quad(density, -2, 2, points=[0.3])
    assert total == pytest.approx(1, abs=1e-8)
    assert density(0.3) == pytest.approx(math.exp(2) / math.sqrt(2 * math.pi), rel=1e-14)
    assert density(0.3) > 1


@pytest.mark.equation("eq-gaussian-score")
def test_the_score_agrees_with_central_differences_and_with_autograd() -> None:
    in_mean, in_log_std = gaussian_score(MEAN, LOG_STD, ACTIONS)
    step = 1e-6
    for k in range(3):
        nudge = step * torch.eye(3, dtype=F64)[k]
        rise = gaussian_log_prob(MEAN + nudge, LOG_STD, ACTIONS) - gaussian_log_prob(MEAN - nudge, LOG_STD, ACTIONS)
        torch.testing.assert_close(in_mean[:, k], rise / (2 * step), rtol=1e-7, atol=1e-7)
        rise = gaussian_log_prob(MEAN, LOG_STD + nudge, ACTIONS) - gaussian_log_prob(MEAN, LOG_STD - nudge, ACTIONS)
        torch.testing.assert_close(in_log_std[:, k], rise / (2 * step), rtol=1e-7, atol=1e-7)
    m, s = MEAN.clone().requires_grad_(), LOG_STD.clone().requires_grad_()
    normal = torch.distributions.Normal(m, s.exp())
    expected = torch.autograd.grad(normal.log_prob(ACTIONS).sum(), (m, s))
    for found, right in zip((in_mean, in_log_std), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)


@pytest.mark.equation("eq-gaussian-score")
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.25), (-3.0, 2.0)])
def test_the_mean_score_is_zero_and_its_covariance_the_fisher_information(mean: float, std: float) -> None:
    actions, weights = hermite(mean, std)
    scores = gaussian_score(torch.tensor([mean], dtype=F64), torch.tensor([math.log(std)], dtype=F64), actions)
    s = torch.cat(scores, -1)
    torch.testing.assert_close(weights @ s, torch.zeros(2, dtype=F64), rtol=0, atol=1e-12 / std)
    # With z = (a − m)/σ standard normal: E[z²]/σ² = 1/σ², E[z (z² − 1)]/σ = 0 and E[(z² − 1)²] = 3 − 2 + 1 = 2.
    information = s.T @ (weights.unsqueeze(-1) * s)
    torch.testing.assert_close(
        information, torch.tensor([[std**-2, 0.0], [0.0, 2.0]], dtype=F64), rtol=1e-11, atol=1e-11
    )


@pytest.mark.equation("eq-gaussian-score", "prop-pathwise")
def test_reward_times_score_has_the_gradient_of_the_expected_reward_as_its_mean() -> None:
    # E[1 − (a − c)²] = 1 − (m − c)² − σ²: the derivatives in m and in ln σ are −2(m − c) and −2σ².
    m, std, c = 0.2, 0.5, 0.7
    actions, weights = hermite(m, std)
    scores = gaussian_score(torch.tensor([m], dtype=F64), torch.tensor([math.log(std)], dtype=F64), actions)
    gradient = (weights * (1 - (actions[:, 0] - c).square())) @ torch.cat(scores, -1)
    torch.testing.assert_close(gradient, torch.tensor([-2 * (m - c), -2 * std**2], dtype=F64), rtol=1e-12, atol=1e-13)


def test_one_log_std_serves_every_state_and_one_state_every_action() -> None:
    for function in FUNCTIONS:
        broadcast = function(MEAN, LOG_STD[0], ACTIONS), function(MEAN[0], LOG_STD[0], ACTIONS)
        full = (
            function(MEAN, LOG_STD[:1].expand(5, 3), ACTIONS),
            function(MEAN[:1].expand(5, 3), LOG_STD[:1].expand(5, 3), ACTIONS),
        )
        for found, expected in zip(broadcast, full, strict=True):
            for x, y in zip(found, expected, strict=True):
                assert_same_up_to_rounding(x, y)


def test_first_and_second_derivatives_pass_gradcheck() -> None:
    arguments = [x[:2].clone().requires_grad_() for x in (MEAN, LOG_STD, ACTIONS)]
    for function in FUNCTIONS:
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments)


def test_rows_may_be_mapped_and_compiled() -> None:
    rows = torch.func.vmap(gaussian_log_prob, in_dims=(0, None, 0))(MEAN, LOG_STD[0], ACTIONS)
    assert_same_up_to_rounding(rows, gaussian_log_prob(MEAN, LOG_STD[0], ACTIONS))
    gradient = torch.func.grad(lambda m: gaussian_log_prob(m, LOG_STD, ACTIONS).sum())(MEAN)
    torch.testing.assert_close(gradient, gaussian_score(MEAN, LOG_STD, ACTIONS)[0], rtol=1e-12, atol=1e-12)
    compiled = torch.compile(gaussian_log_prob, fullgraph=True, backend="eager")
    assert_same_up_to_rounding(compiled(MEAN, LOG_STD, ACTIONS), gaussian_log_prob(MEAN, LOG_STD, ACTIONS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_kept_and_sums_are_taken_in_float32_at_least(dtype: torch.dtype) -> None:
    mean = torch.zeros(2, 3, dtype=dtype)
    found = gaussian_log_prob(mean, mean, mean + 2)
    assert found.dtype == dtype
    expected = torch.full((2,), -3 * (2 + 0.5 * math.log(2 * math.pi)), dtype=F64)
    torch.testing.assert_close(found.double(), expected, rtol=torch.finfo(dtype).eps, atol=0)
    # The square of 300 is beyond the range of float16: the score in m does not need it.
    in_mean, _ = gaussian_score(mean, mean, mean + 300)
    assert in_mean.tolist() == (mean + 300).tolist()


H, COLUMN = torch.zeros(2, 3), torch.zeros(2, 1)

BAD: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "mean a list": (lambda: gaussian_log_prob([0.0], H, H), TypeError, "mean must be a torch.Tensor, not list"),
    "mean integers": (lambda: gaussian_score(H.int(), H, H), TypeError, "mean must hold floating-point numbers"),
    "mean scalar": (
        lambda: gaussian_log_prob(torch.tensor(0.0), H, H),
        ValueError,
        "mean is a scalar: its last axis must be the components of the action",
    ),
    "mean NaN": (lambda: gaussian_log_prob(H * math.nan, H, H), ValueError, r"mean is nan at \[0, 0\]"),
    "log_std of another width": (
        lambda: gaussian_log_prob(H, COLUMN, H),
        ValueError,
        r"log_std has shape \[2, 1\], expected \[..., 3\]",
    ),
    "log_std infinite": (lambda: gaussian_score(H, H - math.inf, H), ValueError, r"log_std is -inf at \[0, 0\]"),
    "log_std too small": (
        lambda: gaussian_score(H, H - 1000, H),
        ValueError,
        r"log_std is -1000.0 at \[0, 0\]: there the standard deviation is 0 to a float",
    ),
    "actions of another dtype": (
        lambda: gaussian_log_prob(H, H, H.double()),
        TypeError,
        "actions is torch.float64 but mean is torch.float32",
    ),
    "actions of another batch": (
        lambda: gaussian_log_prob(H, H[0], torch.zeros(4, 3)),
        ValueError,
        r"the batch shape \[4\] of actions does not broadcast with \[2\] of mean",
    ),
    "actions of another batch than log_std": (
        lambda: gaussian_log_prob(H[0], H, torch.zeros(4, 3)),
        ValueError,
        r"the batch shape \[4\] of actions does not broadcast with \[2\] of log_std",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), [pytest.param(*case, id=name) for name, case in BAD.items()])
def test_bad_input_is_refused_by_name_fault_and_place(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()
