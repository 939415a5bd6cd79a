"""Softmax policies against SciPy, closed forms, autograd by another route, and central differences."""

import math
from collections.abc import Callable
from typing import Any

import chance
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from helpers import F64, assert_same_up_to_rounding, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call, grad, jacfwd, jacrev, vmap

from pgtheory.softmax_policy import (
    LinearPolicy,
    NeuralPolicy,
    Policy,
    SoftmaxPolicy,
    TabularPolicy,
    _inverse_distribution,
    entropy,
    fisher_information,
    linear_score,
    log_softmax_policy,
    score,
    softmax_policy,
)

NAN, INF = float("nan"), math.inf
ROWS = [softmax_policy, log_softmax_policy, entropy, fisher_information]

MASK = torch.tensor([[True, True, False, True], [False, True, False, False], [True, True, True, True]])
TERMINAL = torch.tensor([[True, True, False, True], [False, False, False, False], [True, True, True, True]])

examples = settings(deadline=None, derandomize=True, max_examples=60)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=seeded(seed))


def action_mask(mask: Tensor = TERMINAL) -> Tensor:
    """The mask as an MDP hands it out: its attribute names the terminal states."""
    mask = mask.clone()
    mask.terminal = ~mask.any(-1)  # type: ignore[attr-defined]
    return mask


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def central_difference(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-6) -> Tensor:
    """The Jacobian [output, input] of a function of one vector."""
    columns = []
    for i in range(at.numel()):
        nudge = torch.zeros_like(at)
        nudge.view(-1)[i] = step
        columns.append((function(at + nudge) - function(at - nudge)).reshape(-1) / (2 * step))
    return torch.stack(columns, -1)


preference_rows = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.floats(-1e4, 1e4, allow_nan=False), min_size=n, max_size=n)
)


# --- values


@pytest.mark.equation("eq-softmax-policy", "eq-log-softmax")
@examples
@given(preference_rows)
def test_probabilities_and_their_logarithms_agree_with_scipy_up_to_ten_thousand(row: list[float]) -> None:
    h = torch.tensor(row, dtype=F64)
    policy = softmax_policy(h)
    assert policy.sum().item() == pytest.approx(1, abs=1e-14)
    np.testing.assert_allclose(policy, scipy.special.softmax(row), rtol=1e-12, atol=0)
    np.testing.assert_allclose(log_softmax_policy(h), scipy.special.log_softmax(row), rtol=1e-12, atol=1e-12)


@pytest.mark.equation("eq-softmax-odds")
@examples
@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_two_actions_are_the_logistic_function_of_the_difference(x: float, y: float) -> None:
    policy = softmax_policy(torch.tensor([x, y], dtype=F64))
    assert policy[0].item() == pytest.approx(logistic(x - y), rel=1e-12, abs=1e-300)


def test_integer_odds_give_rational_probabilities() -> None:
    h = torch.tensor([1.0, 2.0, 5.0], dtype=F64).log()
    torch.testing.assert_close(softmax_policy(h), torch.tensor([1 / 8, 2 / 8, 5 / 8], dtype=F64), rtol=1e-15, atol=0)


@pytest.mark.equation("prop-shift-invariance")
@examples
@given(preference_rows, st.floats(-1e4, 1e4))
def test_a_constant_added_to_every_preference_changes_nothing(row: list[float], shift: float) -> None:
    h = torch.tensor(row, dtype=F64)
    # Rounding of h + shift is at most 2e4 * 2^-53 = 2.3e-12 per preference.
    torch.testing.assert_close(softmax_policy(h + shift), softmax_policy(h), rtol=1e-11, atol=0)


@pytest.mark.equation("prop-positive-policy-is-softmax")
def test_every_positive_policy_is_the_softmax_of_its_log_probabilities() -> None:
    policy = torch.distributions.Dirichlet(torch.ones(4, dtype=F64)).sample((5,))
    torch.testing.assert_close(softmax_policy(policy.log()), policy, rtol=1e-14, atol=0)


@pytest.mark.parametrize("function", ROWS[:2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_dtype_is_kept_and_extremes_are_stable(function: Callable[..., Tensor], dtype: torch.dtype) -> None:
    h = torch.tensor([1e4, -1e4, 1e4], dtype=dtype)
    result = function(h, available=torch.tensor([True, True, True]))
    assert result.dtype == dtype
    expected = torch.tensor([0.5, 0.0, 0.5], dtype=F64)
    if function is log_softmax_policy:
        expected = h.double() - h[0].double() - math.log(2)
    torch.testing.assert_close(result.double(), expected, rtol=torch.finfo(dtype).eps, atol=0)


def test_log_probabilities_stay_finite_where_probabilities_underflow() -> None:
    h = torch.tensor([0.0, -1e4], dtype=F64)
    assert softmax_policy(h).tolist() == [1, 0]
    assert log_softmax_policy(h).tolist() == [0, -1e4]


# --- masks


@pytest.mark.parametrize("junk", [0.0, 1e4, NAN, INF, -INF], ids=str)
def test_a_mask_is_the_softmax_over_the_actions_that_remain(junk: float) -> None:
    clean = normal(3, 4)
    h = torch.where(MASK, clean, junk)
    policy, log_policy = softmax_policy(h, available=MASK), log_softmax_policy(h, available=MASK)
    for s in range(3):
        keep = MASK[s]
        np.testing.assert_allclose(policy[s, keep], scipy.special.softmax(clean[s, keep]), rtol=1e-14)
        np.testing.assert_allclose(log_policy[s, keep], scipy.special.log_softmax(clean[s, keep]), atol=1e-14)
        expected = -sum(p * math.log(p) for p in scipy.special.softmax(clean[s, keep]))
        assert entropy(h, available=MASK)[s].item() == pytest.approx(expected, abs=1e-14)
    assert (policy[~MASK] == 0).all()
    assert (log_policy[~MASK] == -INF).all()


@pytest.mark.parametrize("mask", [MASK, action_mask()], ids=["plain", "terminal row"])
@pytest.mark.parametrize("junk", [1e4, NAN, INF, -INF], ids=str)
def test_masked_preferences_get_a_gradient_of_exactly_zero(junk: float, mask: Tensor) -> None:
    h = torch.where(mask, normal(3, 4), junk).requires_grad_()
    actions = torch.tensor([3, 1, 0])
    log_policy = log_softmax_policy(h, available=mask)
    outputs = [
        softmax_policy(h, available=mask).square().sum(),
        torch.where(mask, log_policy, 0.0).sum(),
        entropy(h, available=mask).sum(),
        score(h, actions, available=mask).square().sum(),
        fisher_information(h, available=mask).square().sum(),
    ]
    for output in outputs:
        assert output.isfinite()
        (first,) = torch.autograd.grad(output, h, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), h)
        for gradient in (first, second):
            assert gradient.isfinite().all()
            assert (gradient[~mask] == 0).all()
        assert (first[0, mask[0]] != 0).any()


def test_a_terminal_state_has_probability_entropy_and_score_zero() -> None:
    h, mask = torch.full((3, 4), 2.0, dtype=F64), action_mask()
    assert softmax_policy(h, available=mask)[1].tolist() == [0, 0, 0, 0]
    assert log_softmax_policy(h, available=mask)[1].tolist() == [-INF] * 4
    assert entropy(h, available=mask)[1].item() == 0
    assert score(h, torch.tensor([0, 2, 0]), available=mask)[1].tolist() == [0, 0, 0, 0]
    assert fisher_information(h, available=mask)[1].abs().sum().item() == 0
    assert linear_score(normal(3, 4, 2), h, torch.tensor([0, 2, 0]), available=mask)[1].tolist() == [0, 0]


def test_a_terminal_state_makes_no_nan_even_inside_the_backward_pass() -> None:
    h = torch.zeros(3, 4, dtype=F64, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        for function in (softmax_policy, entropy, fisher_information):
            function(h, available=action_mask()).sum().backward()
        torch.where(TERMINAL, log_softmax_policy(h, available=action_mask()), 0.0).sum().backward()


def test_a_mask_broadcasts_over_leading_axes_in_both_directions() -> None:
    h = normal(5, 3, 4)
    each = torch.stack([softmax_policy(row, available=MASK) for row in h])
    torch.testing.assert_close(softmax_policy(h, available=MASK), each)
    torch.testing.assert_close(softmax_policy(h, available=MASK.expand(5, 3, 4)), each)
    one = softmax_policy(h[0, 0], available=MASK)
    torch.testing.assert_close(one, softmax_policy(h[0, 0].expand(3, 4), available=MASK))


def test_minus_infinity_is_probability_zero_with_finite_gradients() -> None:
    h = torch.tensor([1.0, -INF, 2.0], dtype=F64, requires_grad=True)
    policy = softmax_policy(h)
    assert policy.tolist() == [pytest.approx(logistic(-1)), 0, pytest.approx(logistic(1))]
    for output in (
        policy.square().sum(),
        log_softmax_policy(h)[[0, 2]].sum(),
        entropy(h),
        score(h, torch.tensor(0))[0],
    ):
        (gradient,) = torch.autograd.grad(output, h, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient[1].item() == 0


def test_inputs_are_left_as_they_were() -> None:
    h, mask, actions = normal(3, 4), MASK.clone(), torch.tensor([0, 1, 2])
    before = h.clone()
    for function in ROWS:
        function(h, available=mask)
    score(h, actions, available=mask)
    assert torch.equal(h, before)
    assert torch.equal(mask, MASK)
    assert actions.tolist() == [0, 1, 2]


# --- score


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_the_score_is_the_gradient_of_the_log_probability_by_another_route(mask: Tensor | None) -> None:
    h = normal(3, 4).requires_grad_()
    for s in range(3):
        remaining = [a for a in range(4) if mask is None or mask[s, a]]
        for a in remaining:
            # Written out with logaddexp; shares no code with the package.
            normalizer = h[s, remaining[0]]
            for b in remaining[1:]:
                normalizer = torch.logaddexp(normalizer, h[s, b])
            (expected,) = torch.autograd.grad(h[s, a] - normalizer, h)
            found = score(h[s], torch.tensor(a), available=None if mask is None else mask[s])
            torch.testing.assert_close(found, expected[s], rtol=0, atol=1e-15)


@pytest.mark.equation("eq-score", "eq-score-tabular")
def test_the_score_agrees_with_central_differences() -> None:
    h = normal(4)
    numeric = central_difference(lambda x: torch.tensor(scipy.special.log_softmax(x.numpy())), h)
    found = score(h, torch.arange(4))
    torch.testing.assert_close(found, numeric, rtol=0, atol=1e-9)


@pytest.mark.equation("eq-score-zero-mean")
@examples
@given(preference_rows)
def test_the_mean_score_is_zero_and_each_score_sums_to_zero(row: list[float]) -> None:
    h = torch.tensor(row, dtype=F64)
    every_score = score(h, torch.arange(len(row)))
    torch.testing.assert_close(softmax_policy(h) @ every_score, torch.zeros_like(h), rtol=0, atol=1e-15)
    torch.testing.assert_close(every_score.sum(-1), torch.zeros_like(h), rtol=0, atol=1e-15)


def test_actions_broadcast_against_rows_and_rows_against_actions() -> None:
    h = normal(3, 4)
    many = score(h[0], torch.tensor([[0, 1], [2, 3]]))
    assert many.shape == (2, 2, 4)
    torch.testing.assert_close(many[1, 0], score(h[0], torch.tensor(2)))
    torch.testing.assert_close(score(h, torch.tensor(1))[2], score(h[2], torch.tensor(1)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64], ids=str)
def test_actions_may_have_any_integer_dtype(dtype: torch.dtype) -> None:
    assert score(torch.zeros(2, dtype=F64), torch.tensor(1, dtype=dtype)).tolist() == [-0.5, 0.5]


def test_reordering_the_actions_reorders_everything() -> None:
    h, order = normal(3, 4), torch.tensor([2, 0, 3, 1])
    shuffled, mask = h[:, order], MASK[:, order]
    torch.testing.assert_close(softmax_policy(shuffled, available=mask), softmax_policy(h, available=MASK)[:, order])
    torch.testing.assert_close(entropy(shuffled, available=mask), entropy(h, available=MASK))
    actions = torch.tensor([1, 1, 2])
    moved = torch.tensor([order.tolist().index(a) for a in actions])
    torch.testing.assert_close(
        score(shuffled, moved, available=mask), score(h, actions, available=MASK)[:, order], rtol=0, atol=1e-15
    )


# --- second-order structure


@pytest.mark.equation("eq-softmax-jacobian")
@pytest.mark.parametrize("mask", [torch.ones(4, dtype=torch.bool), MASK[0]], ids=["all", "masked"])
def test_fisher_information_is_jacobian_covariance_and_minus_hessian(mask: Tensor) -> None:
    h = torch.where(mask, normal(4), NAN)
    fisher = fisher_information(h, available=mask)
    clean = torch.where(mask, h, 0.0)

    def oracle(x: Tensor) -> Tensor:
        weights = torch.where(mask, x, -800.0).exp()  # e^-800 is 0 in float64
        return weights / weights.sum()

    torch.testing.assert_close(fisher, central_difference(oracle, clean), rtol=0, atol=1e-9)
    actions = mask.nonzero().squeeze(-1)
    scores, weights = score(h, actions, available=mask), oracle(clean)[actions]
    torch.testing.assert_close(fisher, torch.einsum("a,ab,ac->bc", weights, scores, scores), rtol=0, atol=1e-15)
    for a in actions.tolist():
        hessian = torch.autograd.functional.hessian(lambda x, a=a: oracle(x)[a].log(), clean)
        torch.testing.assert_close(fisher, -hessian, rtol=0, atol=1e-14)


def test_fisher_information_of_two_actions_is_p_times_one_minus_p() -> None:
    p = logistic(0.7)
    fisher = fisher_information(torch.tensor([0.7, 0.0], dtype=F64))
    expected = p * (1 - p) * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=F64)
    torch.testing.assert_close(fisher, expected, rtol=1e-14, atol=0)


@pytest.mark.equation("eq-entropy")
@examples
@given(preference_rows)
def test_entropy_agrees_with_scipy_and_lies_between_zero_and_log_n(row: list[float]) -> None:
    found = entropy(torch.tensor(row, dtype=F64)).item()
    assert found == pytest.approx(scipy.special.entr(scipy.special.softmax(row)).sum(), rel=1e-12, abs=1e-14)
    assert -1e-15 <= found <= math.log(len(row)) + 1e-14


@pytest.mark.equation("eq-entropy-gradient")
def test_the_gradient_of_entropy_is_the_formula_of_the_book() -> None:
    h = normal(5).requires_grad_()
    (found,) = torch.autograd.grad(entropy(h), h)
    policy = scipy.special.softmax(h.detach().numpy())
    expected = -policy * (np.log(policy) + scipy.special.entr(policy).sum())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, F64], ids=str)
def test_entropy_of_a_certain_policy_is_zero_without_nan(dtype: torch.dtype) -> None:
    h = torch.tensor([6e4, -6e4, -INF], dtype=dtype, requires_grad=True)
    value = entropy(h)
    (gradient,) = torch.autograd.grad(value, h)
    assert value.item() == 0
    assert gradient.tolist() == [0, 0, 0]


# --- linear and neural scores


@pytest.mark.equation("eq-score-linear")
def test_the_linear_score_is_the_features_less_their_mean() -> None:
    x, theta = normal(3, 4, 2), normal(2, seed=1)
    actions = torch.tensor([3, 1, 2])
    found = linear_score(torch.where(MASK.unsqueeze(-1), x, NAN), x @ theta, actions, available=MASK)
    for s, a in enumerate(actions.tolist()):
        keep = MASK[s].nonzero().squeeze(-1).tolist()
        odds = [math.exp(x[s, b] @ theta) for b in keep]
        mean = sum(o / sum(odds) * x[s, b] for o, b in zip(odds, keep, strict=True))
        torch.testing.assert_close(found[s], x[s, a] - mean, rtol=0, atol=1e-14)
    alone = linear_score(x[0], x[0] @ theta, actions)  # the features of one state, for each action that it may take
    torch.testing.assert_close(alone, linear_score(x[:1].expand(3, 4, 2), (x[:1] @ theta).expand(3, 4), actions))


@pytest.mark.equation("eq-preferences-linear")
def test_the_linear_score_is_the_gradient_through_a_linear_policy() -> None:
    features = normal(3, 4, 2)
    policy = LinearPolicy(features, available=MASK, init_std=1.0, generator=seeded(1))
    states, actions = torch.tensor([2, 0, 1, 2]), torch.tensor([0, 3, 1, 3])
    found = linear_score(
        policy.features[states], policy.preferences(states), actions, available=policy.available_in(states)
    )
    for n in range(4):
        log_prob = policy.log_probs(states[n])[actions[n]]
        (expected,) = torch.autograd.grad(log_prob, policy.theta)
        torch.testing.assert_close(found[n], expected, rtol=0, atol=1e-14)


@pytest.mark.equation("eq-preferences-tabular")
def test_tabular_is_linear_with_one_hot_features() -> None:
    tabular = TabularPolicy(3, 4, init_std=1.0, generator=seeded(), dtype=F64)
    linear = LinearPolicy(torch.eye(12, dtype=F64).reshape(3, 4, 12))
    with torch.no_grad():
        linear.theta.copy_(tabular.theta.reshape(-1))
    torch.testing.assert_close(linear.table(), tabular.table())


@pytest.mark.equation("eq-score-chain")
def test_the_neural_score_is_the_chain_rule_through_the_preferences() -> None:
    policy = NeuralPolicy(
        5, 4, features=normal(3, 5), hidden=(6, 5), available=MASK, output_scale=1.0, generator=seeded(), dtype=F64
    )
    states, actions = torch.arange(3), torch.tensor([3, 1, 2])
    parameters = dict(policy.named_parameters())
    jacobians = jacrev(lambda p: functional_call(policy, p, (states,)))(parameters)
    row_scores = score(policy.preferences(states), actions, available=MASK)
    for s in range(3):
        log_prob = policy.log_probs(states[s])[actions[s]]
        expected = torch.autograd.grad(log_prob, list(parameters.values()))
        for name, gradient in zip(parameters, expected, strict=True):
            chained = torch.einsum("a,a...->...", row_scores[s], jacobians[name][s])
            torch.testing.assert_close(chained, gradient, rtol=0, atol=1e-14)


@pytest.mark.equation("eq-preferences-neural")
def test_the_network_is_affine_tanh_affine() -> None:
    policy = NeuralPolicy(3, 2, hidden=(4,), output_scale=1.0, generator=seeded(), dtype=F64)
    first, _, last = policy.network
    with torch.no_grad():
        first.bias.normal_(generator=seeded(1))
        last.bias.normal_(generator=seeded(2))
    x = normal(7, 3)
    w1, b1, w2, b2 = (p.detach().numpy() for p in policy.parameters())
    expected = np.tanh(x.numpy() @ w1.T + b1) @ w2.T + b2
    np.testing.assert_allclose(policy.preferences(x).detach(), expected, rtol=0, atol=1e-14)


# --- differentiation, transforms, compilation


@pytest.mark.parametrize("mask", [None, MASK, action_mask()], ids=["all", "masked", "terminal row"])
def test_first_and_second_derivatives_pass_gradcheck(mask: Tensor | None) -> None:
    h, actions = normal(3, 4).requires_grad_(), torch.tensor([0, 1, 3])
    inside = torch.ones(3, 4, dtype=torch.bool) if mask is None else mask
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: softmax_policy(x, available=mask),
        lambda x: torch.where(inside, log_softmax_policy(x, available=mask), 0.0),
        lambda x: entropy(x, available=mask),
        lambda x: fisher_information(x, available=mask),
        lambda x: score(x, actions, available=mask),
        lambda x: linear_score(normal(3, 4, 2, seed=5), x, actions, available=mask),
    ]
    for function in functions:
        assert torch.autograd.gradcheck(function, h)
        assert torch.autograd.gradgradcheck(function, h)


@pytest.mark.parametrize("function", ROWS)
def test_vmap_over_rows_and_masks_equals_the_batch(function: Callable[..., Tensor]) -> None:
    h = normal(3, 4)
    rows = vmap(lambda x, mask: function(x, available=mask))(h, TERMINAL)
    torch.testing.assert_close(rows, function(h, available=action_mask()))
    torch.testing.assert_close(vmap(lambda x: function(x, available=MASK[0]))(h), function(h, available=MASK[0]))


# torch's own forward mode calls torch.jit.script when first used.
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("function", [softmax_policy, entropy, fisher_information])
def test_forward_and_reverse_jacobians_agree(function: Callable[..., Tensor]) -> None:
    h = torch.where(TERMINAL, normal(3, 4), NAN)
    reverse = jacrev(lambda x: function(x, available=action_mask()))(h)
    assert reverse.isfinite().all()
    torch.testing.assert_close(jacfwd(lambda x: function(x, available=action_mask()))(h), reverse, rtol=0, atol=1e-15)


def test_per_example_scores_come_from_vmap_of_grad() -> None:
    h, actions = normal(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    found = vmap(grad(lambda x, a: log_softmax_policy(x).gather(-1, a.unsqueeze(-1)).squeeze(-1)))(h, actions)
    torch.testing.assert_close(found, score(h, actions), rtol=0, atol=1e-15)
    torch.testing.assert_close(vmap(score)(h, actions), score(h, actions))


@pytest.mark.parametrize("mask", [None, MASK, action_mask()], ids=["all", "masked", "terminal row"])
def test_everything_compiles_as_one_graph(mask: Tensor | None) -> None:
    h, actions = normal(3, 4), torch.tensor([0, 1, 3])

    def everything(h: Tensor, actions: Tensor, available: Tensor | None) -> tuple[Tensor, ...]:
        values = [function(h, available=available) for function in ROWS]
        return *values, score(h, actions, available=available)

    torch.compiler.reset()
    compiled = torch.compile(everything, fullgraph=True, backend="eager")
    for found, expected in zip(compiled(h, actions, mask), everything(h, actions, mask), strict=True):
        torch.testing.assert_close(found, expected)


# --- policies as modules


def policies(available: Tensor | None = None, dtype: torch.dtype = F64) -> dict[str, SoftmaxPolicy]:
    common: dict[str, Any] = {"available": available, "dtype": dtype}
    return {
        "tabular": TabularPolicy(3, 4, init_std=1.0, generator=seeded(1), **common),
        "linear": LinearPolicy(normal(3, 4, 5), init_std=1.0, generator=seeded(2), **common),
        "neural": NeuralPolicy(3, 4, features=torch.eye(3, dtype=F64), output_scale=1.0, generator=seeded(3), **common),
    }


KINDS = ["tabular", "linear", "neural"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", [None, MASK, action_mask()], ids=["all", "masked", "terminal row"])
def test_every_policy_is_the_softmax_of_its_own_preferences(kind: str, mask: Tensor | None) -> None:
    policy: Policy = policies(mask)[kind]
    assert isinstance(policy, Policy)
    states = torch.tensor([[2, 0], [1, 2]])
    keep = np.ones((3, 4), bool) if mask is None else mask.numpy()
    table = policy.table().detach().numpy()
    for s in range(3):
        if keep[s].any():
            h = policy.preferences(torch.tensor(s)).detach().numpy()[keep[s]]
            np.testing.assert_allclose(table[s, keep[s]], scipy.special.softmax(h), rtol=1e-14)
    assert (table[~keep] == 0).all()
    # Two batch shapes: a network's sums over its 64 hidden units may be taken in another order.
    assert_same_up_to_rounding(policy.probabilities(states), policy.table()[states], ulps=64)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(policy.log_probs(states).detach(), np.log(table)[states], rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_in_the_call_replaces_the_own_mask(kind: str) -> None:
    policy, states = policies(MASK)[kind], torch.arange(3)
    other = ~MASK | torch.tensor([True, False, False, False])
    h = policy.preferences(states)
    torch.testing.assert_close(policy.probabilities(states, available=other), softmax_policy(h, available=other))
    torch.testing.assert_close(policy.log_probs(states, available=other), log_softmax_policy(h, available=other))
    drawn = policy.sample(torch.arange(3).expand(200, 3), available=other, generator=seeded())
    assert other[torch.arange(3), drawn].all()


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_can_be_reproduced_converted_and_saved(kind: str) -> None:
    first, second = policies(action_mask())[kind], policies(action_mask())[kind]
    assert torch.equal(first.table(), second.table())
    half = policies(action_mask(), torch.float32)[kind]
    assert half.table().dtype == torch.float32
    assert half.to(F64).table().dtype == F64
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1.0)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.table(), second.table())


def test_building_policies_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    for policy in policies().values():
        policy.sample(torch.arange(3), generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_policy_keeps_its_own_copy_of_what_it_was_given() -> None:
    h, mask, features = normal(3, 4), MASK.clone(), normal(3, 4, 5)
    unmasked = LinearPolicy(features, init_std=1.0, generator=seeded())
    unmasked_before = unmasked.table()
    tabular, linear = TabularPolicy.from_preferences(h, available=mask), LinearPolicy(features, available=mask)
    neural = NeuralPolicy(5, 4, features=features[:, 0], available=mask, generator=seeded())
    before = [policy.table().detach().clone() for policy in (tabular, linear, neural)]
    for given_tensor in (h, features, mask):
        given_tensor.fill_(True)
    for policy, table in zip((tabular, linear, neural), before, strict=True):
        assert torch.equal(policy.table(), table)
    assert torch.equal(unmasked.table(), unmasked_before)


def test_a_nan_feature_of_a_masked_action_reaches_neither_value_nor_gradient() -> None:
    features = torch.where(MASK.unsqueeze(-1), normal(3, 4, 2), NAN)
    policy = LinearPolicy(features, available=MASK, init_std=1.0, generator=seeded())
    loss = torch.where(MASK, policy.log_probs(torch.arange(3)), 0.0).sum()
    (gradient,) = torch.autograd.grad(loss, policy.theta)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_zero_parameters_are_the_uniform_policy_over_the_available_actions() -> None:
    expected = MASK / MASK.sum(-1, keepdim=True)
    for policy in (TabularPolicy(3, 4, available=MASK), LinearPolicy(normal(3, 4, 2).float(), available=MASK)):
        torch.testing.assert_close(policy.table(), expected, check_dtype=False)


def test_a_new_neural_policy_is_almost_uniform() -> None:
    policy = NeuralPolicy(8, 4, generator=seeded(), dtype=F64)
    probabilities = policy.probabilities(normal(100, 8))
    assert probabilities.min() > 0.23
    assert probabilities.max() < 0.27
    assert policy.network[0].weight.std().item() == pytest.approx(1 / math.sqrt(8), rel=0.15)


def test_a_neural_policy_reads_observation_vectors() -> None:
    policy = NeuralPolicy(4, 2, hidden=(), output_scale=1.0, generator=seeded())
    observations = torch.randn(5, 6, 4, generator=seeded())
    assert policy.probabilities(observations).shape == (5, 6, 2)
    assert policy.sample(observations, generator=seeded()).shape == (5, 6)
    assert policy.sample(observations[0, 0], generator=seeded()).shape == ()
    mask = torch.tensor([True, False])
    assert (policy.sample(observations, available=mask, generator=seeded()) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_policies_work_in_transforms_and_compile(kind: str) -> None:
    policy, states = policies(action_mask())[kind], torch.arange(3)
    torch.testing.assert_close(vmap(policy.log_probs)(states), policy.log_probs(states))
    parameters = {name: torch.stack([p.detach(), 2 * p.detach()]) for name, p in policy.named_parameters()}
    several = vmap(lambda p: functional_call(policy, p, (states,)))(parameters)
    torch.testing.assert_close(several[0], policy.preferences(states))
    torch.compiler.reset()
    compiled = torch.compile(policy.log_probs, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(states), policy.log_probs(states))


# --- sampling


def test_the_action_drawn_is_the_first_whose_cumulative_probability_exceeds_u() -> None:
    policy = torch.tensor([0.25, 0.0, 0.5, 0.25, 0.0], dtype=F64)
    thresholds = {0.0: 0, 0.2499: 0, 0.25: 2, 0.5: 2, 0.7499: 2, 0.75: 3, 1 - 2**-53: 3}
    found = _inverse_distribution(policy.expand(len(thresholds), 5), torch.tensor(list(thresholds), dtype=F64))
    assert found.tolist() == list(thresholds.values())
    leading_zero = _inverse_distribution(torch.tensor([0.0, 1.0]), torch.tensor(0.0, dtype=F64))
    assert leading_zero.item() == 1


def test_an_action_of_probability_zero_is_never_drawn_even_if_the_rest_sums_below_one() -> None:
    policy = torch.tensor([0.3, 0.3, 0.3, 0.0], dtype=torch.float16)
    found = _inverse_distribution(policy, torch.tensor(1 - 2**-53, dtype=F64))
    assert found.item() == 2


def test_sample_frequencies_are_the_probabilities() -> None:
    policy, n = policies(MASK)["tabular"], 20_000
    drawn = policy.sample(torch.zeros(n, dtype=torch.int64), generator=seeded(4))
    assert not policy.table()[0, 2]
    chance.assert_counts(torch.bincount(drawn, minlength=4), policy.table()[0].detach(), n)


def test_the_same_generator_gives_the_same_actions_and_terminal_states_give_zero() -> None:
    policy, states = policies(action_mask())["neural"], torch.arange(3).expand(50, 3)
    first, second = policy.sample(states, generator=seeded(7)), policy.sample(states, generator=seeded(7))
    assert torch.equal(first, second)
    assert first.dtype == torch.int64
    assert not first.requires_grad
    assert (first[:, 1] == 0).all()
    assert first[:, 2].unique().numel() > 1


# --- bad input

H = torch.zeros(2, 3)
A = torch.tensor([0, 1])
EMPTY_ROW = torch.tensor([[True, True, True], [False, False, False]])
PARTLY_TERMINAL = torch.tensor([[True, True], [False, False], [False, False]])
PARTLY_TERMINAL.terminal = torch.tensor([False, False, True])  # type: ignore[attr-defined]

BAD: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "preferences a list": (lambda: softmax_policy([0.0]), TypeError, "preferences must be a torch.Tensor, not list"),
    "preferences integers": (lambda: softmax_policy(H.int()), TypeError, "preferences must hold floating-point"),
    "preferences scalar": (lambda: softmax_policy(torch.tensor(0.0)), ValueError, "preferences is a scalar"),
    "no action": (lambda: softmax_policy(H[:, :0]), ValueError, r"preferences has shape \[2, 0\]: there is no action"),
    "NaN": (lambda: entropy(torch.tensor([[0, 0], [0, NAN]])), ValueError, "preferences is nan at s=1, a=1"),
    "+inf": (lambda: log_softmax_policy(torch.tensor([0, INF])), ValueError, "preferences is inf at a=1"),
    "NaN in a batch": (
        lambda: softmax_policy(torch.tensor([[[0, NAN]]])),
        ValueError,
        r"preferences is nan at s=0, a=1 of \[0\]",
    ),
    "-inf everywhere": (
        lambda: softmax_policy(torch.tensor([[0, 0], [-INF, -INF]])),
        ValueError,
        "preferences is -inf for every available action at s=1",
    ),
    "-inf wherever available": (
        lambda: softmax_policy(torch.tensor([0, -INF]), available=torch.tensor([False, True])),
        ValueError,
        "preferences is -inf for every available action",
    ),
    "available integers": (lambda: softmax_policy(H, available=H.int()), TypeError, "available must be boolean"),
    "available a list": (lambda: softmax_policy(H, available=[True]), TypeError, "available must be a torch.Tensor"),
    "available too narrow": (
        lambda: softmax_policy(H, available=torch.ones(2, 1, dtype=torch.bool)),
        ValueError,
        r"available has shape \[2, 1\], expected \[..., 3\]",
    ),
    "available another batch": (
        lambda: softmax_policy(H, available=torch.ones(4, 3, dtype=torch.bool)),
        ValueError,
        r"the batch shape \[4\] of available does not broadcast with \[2\] of preferences",
    ),
    "available on another device": (
        lambda: softmax_policy(H, available=torch.ones(2, 3, dtype=torch.bool, device="meta")),
        ValueError,
        "available is on meta but preferences is on cpu",
    ),
    "preferences NaN, of the information": (
        lambda: fisher_information(torch.tensor([0.0, NAN])),
        ValueError,
        "preferences is nan at a=1: an available action needs a number, or -inf",
    ),
    "available empty row": (
        lambda: softmax_policy(H, available=EMPTY_ROW),
        ValueError,
        "available has no action at s=1",
    ),
    "available empty row beside a terminal one": (
        lambda: softmax_policy(normal(3, 2), available=PARTLY_TERMINAL),
        ValueError,
        "available has no action at s=1: only a terminal state of mdp.available may have none",
    ),
    "available empty row, one state": (
        lambda: score(H[0], A[0], available=EMPTY_ROW[1]),
        ValueError,
        "available has no action",
    ),
    "actions floats": (lambda: score(H, A.double()), TypeError, "actions must hold integers, not torch.float64"),
    "actions booleans": (lambda: score(H, A.bool()), TypeError, "actions must hold integers, not torch.bool"),
    "actions a number": (lambda: score(H, 1), TypeError, "actions must be a torch.Tensor, not int"),
    "actions too large": (lambda: score(H, A + 2), ValueError, r"actions is 3 at \[1\], not in 0..2"),
    "actions negative": (lambda: score(H, A - 1), ValueError, r"actions is -1 at \[0\], not in 0..2"),
    "actions unavailable": (
        lambda: score(H, A, available=torch.tensor([True, False, True])),
        ValueError,
        r"actions is 1 at \[1\], an action of probability 0",
    ),
    "actions of preference -inf": (
        lambda: score(torch.tensor([0, -INF]), torch.tensor(1)),
        ValueError,
        "actions is 1, an action of probability 0",
    ),
    "actions another batch": (
        lambda: score(H, torch.zeros(3, dtype=torch.int64)),
        ValueError,
        r"the batch shape \[3\] of actions does not broadcast",
    ),
    "features another dtype": (
        lambda: linear_score(torch.zeros(2, 3, 5, dtype=F64), H, A),
        TypeError,
        "features is torch.float64 but preferences is torch.float32",
    ),
    "features another number of actions": (
        lambda: linear_score(torch.zeros(2, 4, 5), H, A),
        ValueError,
        r"features has shape \[2, 4, 5\], expected \[..., 3, d\]",
    ),
    "features of one state, another number of actions": (
        lambda: linear_score(torch.zeros(4, 5), H[0], A[0]),
        ValueError,
        r"features has shape \[4, 5\], expected \[..., 3, d\]",
    ),
    "features another batch": (
        lambda: linear_score(torch.zeros(5, 3, 5), H, A),
        ValueError,
        r"the batch shape \[5\] of features does not broadcast",
    ),
    "policy without states": (lambda: TabularPolicy(0, 2), ValueError, "n_states must be at least 1"),
    "policy with 2.0 actions": (lambda: TabularPolicy(2, 2.0), TypeError, "n_actions must be an integer"),
    "policy mask of another shape": (
        lambda: TabularPolicy(2, 2, available=EMPTY_ROW),
        ValueError,
        r"available has shape \[2, 3\], expected \[2, 2\]",
    ),
    "policy mask with an empty row": (
        lambda: TabularPolicy(2, 3, available=EMPTY_ROW),
        ValueError,
        "available has no action at s=1",
    ),
    "policy mask of integers": (
        lambda: TabularPolicy(2, 3, available=EMPTY_ROW.int()),
        TypeError,
        "available must be boolean",
    ),
    "negative init_std": (
        lambda: TabularPolicy(2, 2, init_std=-1.0),
        ValueError,
        "init_std must be finite and at least 0, not",
    ),
    "infinite init_std": (
        lambda: TabularPolicy(2, 2, init_std=INF),
        ValueError,
        "init_std must be finite and at least 0, not",
    ),
    "tabular preferences a vector": (
        lambda: TabularPolicy.from_preferences(H[0]),
        ValueError,
        r"preferences has shape \[3\], expected \[S, A\]",
    ),
    "linear features of four axes": (
        lambda: LinearPolicy(torch.zeros(2, 3, 4, 5)),
        ValueError,
        r"features has shape \[2, 3, 4, 5\], expected \[S, A",
    ),
    "linear features a matrix": (lambda: LinearPolicy(H), ValueError, r"features has shape \[2, 3\], expected \[S, A"),
    "linear features integers": (lambda: LinearPolicy(H.int()), TypeError, "features must hold floating-point"),
    "linear features NaN": (
        lambda: LinearPolicy(torch.full((1, 2, 1), NAN)),
        ValueError,
        r"features is nan at \[0, 0, 0\], not a finite",
    ),
    "neural features of another length": (
        lambda: NeuralPolicy(4, 2, features=H),
        ValueError,
        r"features has shape \[2, 3\], expected \[S, 4\]",
    ),
    "neural features a vector": (
        lambda: NeuralPolicy(4, 2, features=torch.ones(4)),
        ValueError,
        r"features has shape \[4\], expected \[S, 4\]",
    ),
    "linear features without values": (
        lambda: LinearPolicy(torch.ones(3, 2, 4, device="meta")),
        ValueError,
        "features is on meta, where tensors have no values",
    ),
    "linear features without values, moved": (
        lambda: LinearPolicy(torch.ones(3, 2, 4, device="meta"), device="cpu"),
        ValueError,
        "features is on meta, where tensors have no values",
    ),
    "neural features infinite": (lambda: NeuralPolicy(3, 2, features=H + INF), ValueError, "features is inf"),
    "neural hidden width": (lambda: NeuralPolicy(3, 2, hidden=(0,)), ValueError, "hidden must be at least 1"),
    "neural mask without states": (
        lambda: NeuralPolicy(3, 3, available=MASK),
        ValueError,
        "available is given but the states are not numbered",
    ),
    "no table": (lambda: NeuralPolicy(3, 2).table(), ValueError, "the policy has no table"),
    "state too large": (
        lambda: TabularPolicy(2, 2).log_probs(torch.tensor([[0, 2]])),
        ValueError,
        r"states is 2 at \[0, 1\], not in 0..1",
    ),
    "state negative": (lambda: TabularPolicy(2, 2).sample(A - 1), ValueError, r"states is -1 at \[0\], not in 0..1"),
    "state a float": (lambda: TabularPolicy(2, 2).preferences(H), TypeError, "states must hold integers"),
    "observation of another length": (
        lambda: NeuralPolicy(4, 2).preferences(H),
        ValueError,
        r"states has shape \[2, 3\], expected \[..., 4\]",
    ),
    "observation of another dtype": (
        lambda: NeuralPolicy(3, 2).preferences(H.double()),
        TypeError,
        "states is torch.float64 but the policy is torch.float32",
    ),
    "observation NaN": (lambda: NeuralPolicy(3, 2).preferences(H + NAN), ValueError, r"states is nan at \[0, 0\]"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_by_name_fault_and_place(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_linear_policy_without_values_can_be_asked_for() -> None:
    for device in ("cpu", "meta"):
        policy = LinearPolicy(torch.ones(3, 2, 4, device=device), device="meta")
        assert policy.features.is_meta
        assert policy.theta.is_meta


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_state_numbers_may_have_any_integer_dtype(dtype: torch.dtype) -> None:
    mask = torch.tensor([[True, False], [True, True], [False, True]])
    features = torch.arange(12, dtype=F64).view(3, 2, 2)
    policies = [
        TabularPolicy(3, 2, available=mask, dtype=F64, init_std=1.0, generator=seeded()),
        LinearPolicy(features, available=mask, init_std=1.0, generator=seeded()),
        NeuralPolicy(2, 2, features=features[:, 0], available=mask, generator=seeded()),
    ]
    for policy in policies:
        whole = policy.preferences(torch.arange(3))
        found = policy.preferences(torch.tensor([2, 0, 1], dtype=dtype))
        assert_same_up_to_rounding(found, torch.stack([whole[2], whole[0], whole[1]]))
        assert policy.probabilities(torch.tensor([2, 0], dtype=dtype))[1, 0] == 1.0


def test_half_precision_holds_a_distribution_over_many_actions() -> None:
    n = 100_000
    half = torch.zeros(n, dtype=torch.float16)
    assert abs(float(entropy(half)) - math.log(n)) < 0.01
    torch.testing.assert_close(log_softmax_policy(half), torch.full((n,), -math.log(n)).half())
    assert float(softmax_policy(half)[0]) == float(torch.tensor(1 / n).half())
    assert abs(float(fisher_information(torch.tensor([0.0, -8.0]).half())[0, 0]) - 3.3524e-4) < 1e-6


def test_the_fisher_information_of_a_nearly_certain_policy_has_its_digits() -> None:
    # π = (1, δ) / (1 + δ): all four entries are ± δ / (1 + δ)²
    found = fisher_information(torch.tensor([0.0, -40.0], dtype=F64))
    size = math.exp(-40.0)
    torch.testing.assert_close(found, torch.tensor([[size, -size], [-size, size]], dtype=F64), rtol=1e-14, atol=0.0)
