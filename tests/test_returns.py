"""Chapter 2 against rational arithmetic, SciPy's recursive filter, autograd, and sums written out by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import PATHS, seeded, take_path
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, vmap

from pgtheory.returns import (
    BLOCK,
    discount_factors,
    discount_from_rate,
    discounted_return,
    effective_horizon,
    return_matrix,
    returns_to_go,
    sequence_level_rewards,
)

GAMMAS = [0.0, 0.1, 0.5, 0.9, 0.99, 0.9999, 1.0]
# Around one block, around one block of blocks, and one length of three levels.
HORIZONS = [
    1,
    2,
    3,
    BLOCK - 1,
    BLOCK,
    BLOCK + 1,
    3 * BLOCK,
    100,
    BLOCK**2 - 1,
    BLOCK**2,
    BLOCK**2 + 1,
    2 * BLOCK**2 + 5,
]


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain torch, and the kernel that takes over where tensors are large."""
    take_path(request.param, monkeypatch)


both_paths = pytest.mark.usefixtures("path")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=seeded(seed))


def prefix_mask(lengths: list[int], horizon: int) -> Tensor:
    return torch.arange(horizon) < torch.tensor(lengths)[:, None]


def exact_returns(rewards: list[float], gamma: float) -> tuple[list[Fraction], list[Fraction]]:
    """G_t, and the same sum of |R|, by the definition's double sum, in rational arithmetic of the very floats given."""
    g = Fraction(gamma)
    exact = [Fraction(r) for r in rewards]
    sums = [
        [sum((g**k * f(exact[t + k]) for k in range(len(exact) - t)), Fraction(0)) for t in range(len(exact))]
        for f in (lambda r: r, abs)
    ]
    return sums[0], sums[1]


def worst_error_in_ulps(computed: Tensor, exact: list[Fraction], absolute: list[Fraction]) -> float:
    """The largest |G - exact| / (eps Σ γ^k |R|), the natural unit of a sum's rounding error."""
    eps = Fraction(torch.finfo(computed.dtype).eps)
    errors = [abs(Fraction(c) - e) / (eps * a) for c, e, a in zip(computed.tolist(), exact, absolute, strict=True) if a]
    return float(max(errors, default=Fraction(0)))


def filtered(rewards: Tensor, gamma: float) -> Tensor:
    backward = rewards.numpy()[..., ::-1]
    return torch.from_numpy(lfilter([1.0], [1.0, -gamma], backward)[..., ::-1].copy())


# --- the definition -------------------------------------------------------------------------------------------------


@pytest.mark.equation("eq-return")
def test_returns_of_a_worked_example_are_those_of_sutton_and_barto_exercise_3_8() -> None:
    # Sutton & Barto (2018), exercise 3.8: γ = 0.5 and R_1..R_5 = -1, 2, 6, 3, 2 give, from the end, 2, 4, 8, 6, 2.
    rewards = torch.tensor([-1.0, 2.0, 6.0, 3.0, 2.0], dtype=torch.float64)
    assert returns_to_go(rewards, 0.5).tolist() == [2.0, 6.0, 8.0, 4.0, 2.0]
    assert discounted_return(rewards, 0.5).item() == 2.0


def test_a_reward_of_2_then_7s_forever_is_worth_65_as_in_sutton_and_barto_exercise_3_9() -> None:
    # Sutton & Barto (2018), exercise 3.9: γ = 0.9, R_1 = 2, then 7s: G_1 = 70, G_0 = 65. Cut where 0.9^T < 1e-17.
    rewards = torch.full((400,), 7.0, dtype=torch.float64)
    rewards[0] = 2.0
    returns = returns_to_go(rewards, 0.9)
    assert returns[1].item() == pytest.approx(70.0, rel=1e-14)
    assert returns[0].item() == pytest.approx(65.0, rel=1e-14)


@both_paths
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("horizon", [1, 5, BLOCK + 1, 3 * BLOCK])
def test_returns_to_go_has_rounding_errors_only(horizon: int, gamma: float) -> None:
    rewards = normal(horizon, seed=horizon)
    exact, absolute = exact_returns(rewards.tolist(), gamma)
    assert worst_error_in_ulps(returns_to_go(rewards, gamma), exact, absolute) < 4
    assert worst_error_in_ulps(discounted_return(rewards, gamma)[None], exact[:1], absolute[:1]) < 4


@both_paths
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("gamma", [0.5, 0.99, 1.0])
def test_half_precision_rewards_are_summed_in_float32_and_rounded_once(dtype: torch.dtype, gamma: float) -> None:
    rewards = normal(70, dtype=torch.float32).to(dtype)
    exact, absolute = exact_returns(rewards.tolist(), gamma)
    returns = returns_to_go(rewards, gamma)
    assert returns.dtype == dtype
    assert discounted_return(rewards, gamma).dtype == dtype
    # One rounding to half precision is half an ulp; sums in half precision would lose several.
    limit = 4 if dtype == torch.float32 else 0.51
    assert worst_error_in_ulps(returns, exact, absolute) < limit
    assert worst_error_in_ulps(discounted_return(rewards, gamma)[None], exact[:1], absolute[:1]) < limit


@both_paths
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("horizon", HORIZONS)
def test_returns_to_go_agrees_with_scipy_lfilter(horizon: int, gamma: float) -> None:
    rewards = normal(3, horizon, seed=horizon)
    torch.testing.assert_close(returns_to_go(rewards, gamma), filtered(rewards, gamma), rtol=1e-12, atol=1e-11)


@both_paths
@pytest.mark.parametrize("gamma", [0.5, 0.99, 0.99999])
def test_100_000_steps_neither_overflow_nor_lose_accuracy(gamma: float) -> None:
    rewards = normal(100_000, seed=3)
    returns, steps = returns_to_go(rewards, gamma), [0, 1, 50_001, 99_967, 99_999]
    for t in steps:
        # The correctly rounded sum of products that are each correct to an ulp.
        expected = math.fsum(gamma**k * r for k, r in enumerate(rewards[t:].tolist()))
        absolute = math.fsum(gamma**k * abs(r) for k, r in enumerate(rewards[t:].tolist()))
        assert abs(returns[t].item() - expected) < 8 * torch.finfo(torch.float64).eps * absolute
    # The loop of the kernel rounds once at each step, and here always in one direction.
    constant = returns_to_go(torch.ones(100_000, dtype=torch.float64), gamma)
    assert constant[0].item() == pytest.approx(-math.expm1(100_000 * math.log(gamma)) / (1 - gamma), rel=3e-13)


@pytest.mark.equation("eq-return-recursion")
@given(
    st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=80),
    st.floats(0, 1, allow_subnormal=False),
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_returns_obey_their_recursion(rewards: list[float], gamma: float) -> None:
    # G_t = R_{t+1} + γ G_{t+1}, G_T = 0: up to rounding, whose unit is Σ γ^k |R|.
    r = torch.tensor(rewards, dtype=torch.float64)
    returns, size = returns_to_go(r, gamma), returns_to_go(r.abs(), gamma)
    after = torch.cat([returns[1:], returns.new_zeros(1)])
    assert ((returns - r - gamma * after).abs() <= 1e-14 * size + 1e-300).all()


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_whole_return_is_the_first_return_to_go(gamma: float) -> None:
    rewards = normal(4, 300)
    torch.testing.assert_close(discounted_return(rewards, gamma), returns_to_go(rewards, gamma)[:, 0])


@both_paths
def test_a_return_does_not_see_earlier_rewards() -> None:
    rewards = normal(2 * BLOCK + 3)
    changed = rewards.clone()
    changed[: BLOCK + 1] = 1e300  # times zero, in the same sums: not one bit may change
    assert torch.equal(returns_to_go(rewards, 0.9)[BLOCK + 1 :], returns_to_go(changed, 0.9)[BLOCK + 1 :])


@both_paths
def test_rounding_does_not_add_up_where_a_long_future_counts() -> None:
    # γ^k is off by k/2 roundings where it is a product of rounded factors: by thousands of them, here.
    rewards = normal(2, 20_000, dtype=torch.float32).abs()
    found, exact = returns_to_go(rewards, 0.9999), filtered(rewards.double(), 0.9999)
    assert ((found - exact).abs() <= 8 * torch.finfo(torch.float32).eps * exact).all()


# --- the two ends of [0, 1] -----------------------------------------------------------------------------------------


@both_paths
@pytest.mark.parametrize("horizon", HORIZONS)
def test_gamma_1_is_the_exact_sum_of_what_is_still_to_come(horizon: int) -> None:
    rewards = torch.randint(-1000, 1000, (2, horizon), generator=seeded(1))
    sums = rewards.flip(-1).cumsum(-1).flip(-1)  # of integers
    assert torch.equal(returns_to_go(rewards.double(), 1.0), sums.double())
    assert torch.equal(discounted_return(rewards.double(), 1.0), sums[:, 0].double())


@both_paths
@pytest.mark.parametrize("horizon", HORIZONS)
def test_gamma_0_returns_the_rewards(horizon: int) -> None:
    rewards = normal(2, horizon)  # plus zeros, which is exact
    assert torch.equal(returns_to_go(rewards, 0.0), rewards)
    assert torch.equal(discounted_return(rewards, 0.0), rewards[:, 0])


# --- shapes and masks -----------------------------------------------------------------------------------------------


@both_paths
@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (2, 1, 3), (0,), (2, 0)], ids=str)
@pytest.mark.parametrize("horizon", [0, 1, BLOCK, BLOCK + 7])
def test_any_batch_shape_gives_the_returns_and_slopes_of_each_row(batch: tuple[int, ...], horizon: int) -> None:
    rewards, weights = normal(2, *batch, horizon).unbind()
    leaf, mask = rewards.clone().requires_grad_(), torch.rand(*batch, horizon, generator=seeded(1)) < 0.8
    for m in (None, mask):
        returns = returns_to_go(leaf, 0.9, mask=m)
        (slopes,) = torch.autograd.grad(returns, leaf, weights)
        assert returns.shape == slopes.shape == rewards.shape
        assert discounted_return(rewards, 0.9, mask=m).shape == batch
        for index in np.ndindex(*batch):
            alone = rewards[index].clone().requires_grad_()
            found = returns_to_go(alone, 0.9, mask=None if m is None else m[index])
            torch.testing.assert_close(returns[index], found)
            torch.testing.assert_close(slopes[index], torch.autograd.grad(found, alone, weights[index])[0])


def test_no_steps_are_worth_nothing() -> None:
    assert discounted_return(torch.zeros(2, 0), 0.9).tolist() == [0.0, 0.0]


@both_paths
@pytest.mark.parametrize("fill", [math.nan, math.inf, -math.inf, 1e308])
def test_padding_may_hold_anything(fill: float) -> None:
    lengths = [1, 40, 70, 0]
    rewards, mask = normal(4, 70), prefix_mask(lengths, 70)
    padded = torch.where(mask, rewards, fill)
    returns, whole = returns_to_go(padded, 0.9, mask=mask), discounted_return(padded, 0.9, mask=mask)
    for n, length in enumerate(lengths):
        torch.testing.assert_close(returns[n, :length], filtered(rewards[n, :length], 0.9))
        assert (returns[n, length:] == 0).all()
        expected = returns[n, 0] if length else torch.zeros((), dtype=torch.float64)
        torch.testing.assert_close(whole[n], expected)


@both_paths
def test_padding_gets_a_gradient_of_exactly_zero() -> None:
    mask = prefix_mask([2, 3], 4)
    rewards = torch.where(mask, normal(2, 4), math.nan).requires_grad_()
    (gradient,) = torch.autograd.grad(returns_to_go(rewards, 0.5, mask=mask).sum(), rewards)
    # Σ_t G_t holds R_{t+1} once for every step up to t: 1 + γ + ... + γ^t.
    assert torch.equal(gradient, torch.tensor([[1, 1.5, 0, 0], [1, 1.5, 1.75, 0]], dtype=torch.float64))


@both_paths
def test_left_padding_leaves_the_returns_of_the_steps_taken() -> None:
    rewards = torch.tensor([math.nan, math.nan, 1.0, 2.0, 4.0], dtype=torch.float64)
    mask = torch.tensor([False, False, True, True, True])
    assert returns_to_go(rewards, 0.5, mask=mask).tolist() == [0, 0, 3, 4, 4]
    # The whole return looks from index 0, two steps before the first step taken: γ² · 3.
    assert discounted_return(rewards, 0.5, mask=mask).item() == 0.75


@both_paths
def test_a_hole_gives_no_reward_but_takes_time() -> None:
    rewards = torch.tensor([1.0, math.nan, 4.0], dtype=torch.float64)
    mask = torch.tensor([True, False, True])
    assert returns_to_go(rewards, 0.5, mask=mask).tolist() == [2, 0, 4]
    assert discounted_return(rewards, 0.5, mask=mask).item() == 2


@both_paths
def test_inputs_are_left_as_they_are() -> None:
    rewards, mask = normal(2, 3 * BLOCK), prefix_mask([50, 96], 3 * BLOCK)
    kept = rewards.clone()
    for m in (None, mask):
        returns_to_go(rewards, 0.9, mask=m).zero_()
        discounted_return(rewards, 0.9, mask=m).zero_()
    assert torch.equal(rewards, kept)
    assert torch.equal(mask, prefix_mask([50, 96], 3 * BLOCK))


@both_paths
def test_results_own_contiguous_memory() -> None:
    for horizon in (5, BLOCK, BLOCK + 1, 2 * BLOCK):
        rewards = normal(2, horizon)
        returns = returns_to_go(rewards, 0.9)
        assert returns.is_contiguous()
        assert returns.untyped_storage().nbytes() == 8 * 2 * horizon
        assert returns.data_ptr() != rewards.data_ptr()


@both_paths
def test_non_contiguous_rewards_are_read_right() -> None:
    rewards = normal(BLOCK + 9, 4)
    torch.testing.assert_close(returns_to_go(rewards.t(), 0.9), returns_to_go(rewards.t().contiguous(), 0.9))
    torch.testing.assert_close(returns_to_go(rewards[:1, 0].expand(50), 1.0), rewards[0, 0] * torch.arange(50, 0, -1))


# --- the matrix, and derivatives ------------------------------------------------------------------------------------


@pytest.mark.equation("eq-return-matrix")
@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_return_matrix_is_the_inverse_of_the_recursion(gamma: float) -> None:
    # (I - γ N) G = R, where N moves G_{t+1} to t: the recursion, solved. The only matrix with this property is L.
    horizon = 20
    recursion = (
        torch.eye(horizon, dtype=torch.float64) - gamma * torch.eye(horizon, dtype=torch.float64).roll(1, -1).triu()
    )
    product = recursion @ return_matrix(gamma, horizon, dtype=torch.float64)
    torch.testing.assert_close(product, torch.eye(horizon, dtype=torch.float64), rtol=0, atol=1e-15)


# torch.func's forward mode loads decompositions through torch.jit, which warns.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("horizon", [4, BLOCK + 3])
def test_the_jacobian_of_the_returns_is_the_return_matrix(horizon: int, gamma: float) -> None:
    rewards, matrix = normal(horizon), return_matrix(gamma, horizon, dtype=torch.float64)
    for jacobian in (jacrev, jacfwd):
        torch.testing.assert_close(jacobian(returns_to_go)(rewards, gamma), matrix)
    torch.testing.assert_close(grad(discounted_return)(rewards, gamma), matrix[0])


@both_paths
@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_gradcheck_passes(gamma: float) -> None:
    rewards, mask = normal(2, BLOCK + 2).requires_grad_(), prefix_mask([BLOCK, BLOCK + 2], BLOCK + 2)
    for function in (returns_to_go, discounted_return):
        assert torch.autograd.gradcheck(lambda r, f=function: f(r, gamma, mask=mask), rewards)
    assert torch.autograd.gradgradcheck(lambda r: returns_to_go(r, gamma, mask=mask).square(), rewards)


@both_paths
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_a_batch_of_slopes_goes_back_at_once() -> None:
    rewards, slopes = normal(2, BLOCK + 2).requires_grad_(), normal(3, 2, BLOCK + 2, seed=1)
    returns = returns_to_go(rewards, 0.9, mask=prefix_mask([BLOCK, BLOCK + 2], BLOCK + 2))
    (together,) = torch.autograd.grad(returns, rewards, slopes, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(returns, rewards, slope, retain_graph=True)[0] for slope in slopes]
    torch.testing.assert_close(together, torch.stack(each))


def test_vmap_gives_what_a_batch_gives() -> None:
    rewards, mask = normal(3, 4, 50), prefix_mask([3, 50, 20, 0], 50).expand(3, 4, 50)
    for function in (returns_to_go, discounted_return):
        mapped = vmap(vmap(lambda r, m, f=function: f(r, 0.9, mask=m)))(rewards, mask)
        torch.testing.assert_close(mapped, function(rewards, 0.9, mask=mask))
    scores = normal(3, 3)
    torch.testing.assert_close(
        vmap(sequence_level_rewards)(scores, mask[:, :3]), sequence_level_rewards(scores, mask[:, :3])
    )


@pytest.mark.parametrize("horizon", [5, 2 * BLOCK, BLOCK**2 + 1])
def test_compiled_without_a_graph_break_it_gives_the_same(horizon: int) -> None:
    rewards, mask = normal(2, horizon), prefix_mask([3, horizon], horizon)
    for function in (returns_to_go, discounted_return):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(rewards, 0.9, mask=mask), function(rewards, 0.9, mask=mask))
    compiled = torch.compile(sequence_level_rewards, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(rewards[:, 0], mask), sequence_level_rewards(rewards[:, 0], mask))
    torch.compiler.reset()


# --- present value, random termination, sequence-level rewards ------------------------------------------------------


def test_the_return_is_the_net_present_value_of_finance() -> None:
    # Each cash flow is divided by its own compound growth (1+i)^k, in rational arithmetic, with i = 1/10.
    flows = [-100, 30, 40, 50, 20]
    value = sum(Fraction(c) / Fraction(11, 10) ** k for k, c in enumerate(flows))
    computed = discounted_return(torch.tensor(flows, dtype=torch.float64), discount_from_rate(0.1))
    assert computed.item() == pytest.approx(float(value), rel=1e-14)


@pytest.mark.equation("prop-random-end")
def test_discounting_is_the_expectation_over_a_random_end() -> None:
    # K steps are lived with probability γ^(K-1) (1-γ) for K < T, and all T with γ^(T-1); rational arithmetic.
    rewards, gamma = [3, -1, 4, 1, -5], Fraction(3, 4)
    horizon = len(rewards)
    lived = [gamma ** (k - 1) * (1 - gamma if k < horizon else 1) for k in range(1, horizon + 1)]
    expected = sum(p * sum(rewards[:k]) for k, p in enumerate(lived, start=1))
    assert sum(lived) == 1
    found = discounted_return(torch.tensor(rewards, dtype=torch.float64), 0.75)
    assert found.item() == pytest.approx(float(expected), rel=1e-14)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=100), st.floats(0, 0.999))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_no_return_exceeds_the_largest_reward_times_the_effective_horizon(rewards: list[float], gamma: float) -> None:
    bound = max(abs(r) for r in rewards) * effective_horizon(gamma)
    assert (returns_to_go(torch.tensor(rewards, dtype=torch.float64), gamma).abs() <= bound * (1 + 1e-12)).all()


@pytest.mark.equation("eq-sequence-level-reward")
def test_a_sequence_level_reward_gives_every_step_the_same_return_at_gamma_1() -> None:
    mask, scores = prefix_mask([1, 3, 5], 5), torch.tensor([2.0, -1.0, 0.5])
    rewards = sequence_level_rewards(scores, mask)
    assert rewards.tolist() == [[2, 0, 0, 0, 0], [0, 0, -1, 0, 0], [0, 0, 0, 0, 0.5]]
    assert torch.equal(returns_to_go(rewards, 1.0, mask=mask), torch.where(mask, scores[:, None], 0))


def test_a_sequence_level_reward_stands_on_the_last_step_taken_whatever_the_padding() -> None:
    mask = torch.tensor([[False, False, True, True], [True, False, True, False], [False, True, False, False]])
    rewards = sequence_level_rewards(torch.tensor([1.0, 2.0, 3.0]), mask)
    assert rewards.tolist() == [[0, 0, 0, 1], [0, 0, 2, 0], [0, 3, 0, 0]]
    assert sequence_level_rewards(torch.tensor(7.0), mask[1]).tolist() == [0, 0, 7, 0]


def test_gradients_reach_the_scores() -> None:
    scores, mask = normal(3).requires_grad_(), prefix_mask([1, 2, 4], 4)
    assert torch.autograd.gradcheck(lambda s: sequence_level_rewards(s, mask), scores)


# --- the small functions --------------------------------------------------------------------------------------------


def test_discount_factors_are_powers_correct_to_an_ulp() -> None:
    factors = discount_factors(0.99, 2000, dtype=torch.float64)
    for k, factor in enumerate(factors.tolist()):
        assert abs(Fraction(factor) / Fraction(0.99) ** k - 1) <= Fraction(torch.finfo(torch.float64).eps)


def test_the_next_reward_is_never_discounted() -> None:
    assert discount_factors(0.0, 3).tolist() == [1, 0, 0]
    assert discount_factors(1.0, 3).tolist() == [1, 1, 1]
    assert discount_factors(0.5, 0).shape == (0,)
    assert return_matrix(0.0, 3).tolist() == torch.eye(3).tolist()
    assert return_matrix(0.5, 0).shape == (0, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_factors_have_the_dtype_asked_for(dtype: torch.dtype) -> None:
    assert discount_factors(0.9, 3, dtype=dtype).dtype == dtype
    assert return_matrix(0.9, 3, dtype=dtype).dtype == dtype
    assert discount_factors(0.9, 3).dtype == return_matrix(0.9, 3).dtype == torch.get_default_dtype()


@pytest.mark.equation("eq-effective-horizon")
def test_the_effective_horizon_is_the_sum_of_all_factors() -> None:
    for gamma in (0.0, 0.5, 0.9):
        assert effective_horizon(gamma) == pytest.approx(math.fsum(gamma**k for k in range(1000)), rel=1e-12)
    assert effective_horizon(1.0) == math.inf


@pytest.mark.equation("eq-discount-rate")
def test_the_discount_factor_of_a_rate() -> None:
    assert discount_from_rate(0.0) == 1.0
    assert discount_from_rate(0.25) == float(Fraction(1) / (1 + Fraction(1, 4)))
    assert discount_from_rate(1) == 0.5


# --- bad input ------------------------------------------------------------------------------------------------------

R, M = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
NAN_AT_1_2, INF_AT_0_1 = R.clone(), R.clone()
NAN_AT_1_2[1, 2], INF_AT_0_1[0, 1] = math.nan, -math.inf
EMPTY_ROW = torch.tensor([[True, False], [False, False]])

BAD_REWARDS = {
    "not a tensor": (lambda f: f([1.0], 0.9), TypeError, "rewards must be a torch.Tensor, not list"),
    "integers": (lambda f: f(R.long(), 0.9), TypeError, "rewards must hold floating-point numbers, not torch.int64"),
    "scalar": (lambda f: f(R[0, 0], 0.9), ValueError, "rewards is a scalar: its last axis must be time"),
    "NaN": (lambda f: f(NAN_AT_1_2, 0.9), ValueError, r"rewards is nan at \[1, 2\], not a finite number"),
    "NaN, γ=0": (lambda f: f(NAN_AT_1_2, 0.0), ValueError, r"rewards is nan at \[1, 2\], not a finite number"),
    "infinite": (lambda f: f(INF_AT_0_1, 0.9, mask=M), ValueError, r"rewards is -inf at \[0, 1\], not a finite number"),
    "infinite, after NaN in padding": (
        lambda f: f(torch.tensor([math.nan, math.inf]), 0.9, mask=torch.tensor([False, True])),
        ValueError,
        r"rewards is inf at \[1\], not a finite number",
    ),
    "overflow": (
        lambda f: f(torch.full((2, 3), 6e4, dtype=torch.float16), 1.0),
        ValueError,
        r"rewards are too large: the return overflows torch.float16 at \[0",
    ),
    "gamma above 1": (lambda f: f(R, 1.5), ValueError, r"gamma must be in \[0, 1\], not 1.5"),
    "gamma below 0": (lambda f: f(R, -0.1), ValueError, r"gamma must be in \[0, 1\], not -0.1"),
    "gamma NaN": (lambda f: f(R, math.nan), ValueError, r"gamma must be in \[0, 1\], not nan"),
    "gamma a tensor": (lambda f: f(R, torch.tensor(0.9)), TypeError, "gamma must be a number, not Tensor"),
    "gamma a bool": (lambda f: f(R, True), TypeError, "gamma must be a number, not bool"),
    "mask of floats": (lambda f: f(R, 0.9, mask=R), TypeError, "mask must be boolean, not torch.float32"),
    "mask of another shape": (
        lambda f: f(R, 0.9, mask=M[:1]),
        ValueError,
        r"mask has shape \[1, 3\] but rewards has \[2, 3\]",
    ),
    "mask on another device": (
        lambda f: f(R, 0.9, mask=M.to("meta")),
        ValueError,
        "mask is on meta but rewards is on cpu: move one of them",
    ),
}


@both_paths
@pytest.mark.parametrize("function", [returns_to_go, discounted_return])
@pytest.mark.parametrize(("call", "error", "message"), BAD_REWARDS.values(), ids=BAD_REWARDS)
def test_bad_rewards_are_refused(function, call, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        call(function)


BAD_SCORES = {
    "integers": (torch.ones(2).long(), M, TypeError, "scores must hold floating-point numbers, not torch.int64"),
    "mask of floats": (torch.ones(2), R, TypeError, "mask must be boolean, not torch.float32"),
    "scalar mask": (torch.ones(()), M[0, 0], ValueError, "mask is a scalar: its last axis must be time"),
    "shape": (torch.ones(3), M, ValueError, r"scores has shape \[3\], expected \[2\]: mask without its last axis"),
    "device": (torch.ones(2), M.to("meta"), ValueError, "mask is on meta but scores is on cpu: move one of them"),
    "no step": (
        torch.ones(2),
        EMPTY_ROW,
        ValueError,
        r"mask is False at every step of \[1\]: nothing can carry the score",
    ),
    "no step at all": (torch.ones(()), EMPTY_ROW[1], ValueError, "mask is False at every step"),
    "NaN": (torch.tensor([0.0, math.nan]), M, ValueError, r"scores is nan at \[1\], not a finite number"),
}


@pytest.mark.parametrize(("scores", "mask", "error", "message"), BAD_SCORES.values(), ids=BAD_SCORES)
def test_bad_scores_are_refused(scores, mask, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        sequence_level_rewards(scores, mask)


BAD_NUMBERS = {
    "negative horizon": (lambda: discount_factors(0.9, -1), ValueError, "horizon must be at least 0, not -1"),
    "fractional horizon": (lambda: return_matrix(0.9, 2.5), TypeError, "horizon must be an integer, not float"),  # type: ignore[arg-type]
    "integer dtype": (
        lambda: discount_factors(0.9, 2, dtype=torch.int64),
        TypeError,
        "dtype must be a floating-point dtype of at least 16 bits, not torch.int64",
    ),
    "gamma of factors": (lambda: discount_factors(2.0, 3), ValueError, r"gamma must be in \[0, 1\], not 2.0"),
    "gamma of a matrix": (lambda: return_matrix(-1.0, 3), ValueError, r"gamma must be in \[0, 1\], not -1.0"),
    "gamma of a horizon": (lambda: effective_horizon(1.1), ValueError, r"gamma must be in \[0, 1\], not 1.1"),
    "negative rate": (
        lambda: discount_from_rate(-0.1),
        ValueError,
        "rate must be a finite number of at least 0, not -0.1",
    ),
    "infinite rate": (lambda: discount_from_rate(math.inf), ValueError, "rate must be a finite number"),
    "NaN rate": (lambda: discount_from_rate(math.nan), ValueError, "rate must be a finite number"),
    "rate as text": (lambda: discount_from_rate("5%"), TypeError, "rate must be a number, not str"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("call", "error", "message"), BAD_NUMBERS.values(), ids=BAD_NUMBERS)
def test_bad_numbers_are_refused(call, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        call()


@both_paths
def test_a_number_too_large_next_to_finite_ones_is_not_mistaken_for_an_infinite_one() -> None:
    # The sum of all returns overflows, no single return does: nothing is wrong.
    rewards = torch.full((4, 1), 1e308, dtype=torch.float64)
    assert torch.equal(returns_to_go(rewards, 0.9), rewards)
