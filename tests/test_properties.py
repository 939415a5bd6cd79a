"""Properties of every kernel: of dtypes, layouts, batches, masks, derivatives, transforms; and those of each alone.

The first part goes through a table of kernels, so that a new kernel is one line. Where two routes to one number are
compared, neither is the other's code: slices, permutations, float64, central differences, another transform.
"""

import itertools
import math
import re
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from helpers import F64, assert_same_up_to_rounding, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgtheory import decoding
from pgtheory.advantages import generalized_advantage_moments, generalized_advantages
from pgtheory.groups import group_advantages, grpo_loss
from pgtheory.mdp import FiniteMDP, equiprobable_policy
from pgtheory.policy_gradient import (
    discounted_visitation,
    exact_policy_gradient,
    gradient_routes,
    performance,
)
from pgtheory.reinforce import (
    bootstrapped_rewards,
    entropy_bonus,
    full_return_loss,
    leave_one_out_baseline,
    optimal_baseline,
    reinforce_loss,
    value_loss,
)
from pgtheory.returns import discounted_return, return_matrix, returns_to_go, sequence_level_rewards
from pgtheory.softmax_policy import entropy, fisher_information, log_softmax_policy, score, softmax_policy
from pgtheory.surrogates import (
    clipped_surrogate,
    effective_sample_size,
    importance_ratios,
    kl_estimate,
    masked_mean,
    off_policy_loss,
    performance_difference,
    ppo_clip_loss,
    surrogate_objective,
)
from pgtheory.token_log_probs import projected_token_log_probs, token_log_probs
from pgtheory.trajectories import enumerate_trajectories
from pgtheory.value_functions import (
    action_values,
    advantages,
    bellman_expectation,
    finite_horizon_values,
    optimal_values,
    state_values,
)

# Every run draws the same examples.
few = settings(derandomize=True, deadline=None, max_examples=12, database=None)
more = settings(few, max_examples=30)
GAMMAS = st.sampled_from([0.0, 0.3, 0.9, 1.0])
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


class Kernel(NamedTuple):
    """A function of `n` tensors `[*batch, T]` and perhaps of a mask, and of how many of the tensors it has slopes."""

    name: str
    call: Callable[..., Tensor]
    n: int = 1
    slopes: int = 1
    masked: bool = True
    batched: bool = True  # whether leading axes are kept, and not averaged over
    rows: int = 0  # how many axes before the last one belong together: a group, a matrix
    smooth: bool = True
    widens: bool = False  # what is returned has float32 where the tensors have 16 bits


def _ends(x: Tensor) -> tuple[Tensor, Tensor]:
    """Some steps that terminate and some that truncate, the same in every row."""
    t = torch.arange(x.shape[-1])
    return (t % 5 == 3).expand(x.shape), (t % 5 == 4).expand(x.shape)


def _gae(r: Tensor, v: Tensor, w: Tensor, mask: Tensor) -> Tensor:
    over, cut = _ends(r)
    return generalized_advantages(r, v, w, 0.9, 0.7, terminated=over, truncated=cut, mask=mask)


def _bootstrap(r: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return bootstrapped_rewards(r, v[..., :1].sum(-1), 0.9, mask=mask, truncated=mask.any(-1))


def _levels(level: Any) -> Kernel:
    call = lambda x, y, m: importance_ratios(x, y, level=level, mask=m)  # noqa: E731
    return Kernel(f"importance_ratios, {level}", call, n=2)


def _grpo(variant: Any) -> Kernel:
    def call(x: Tensor, old: Tensor, ref: Tensor, r: Tensor, m: Tensor) -> Tensor:
        return grpo_loss(x, old, r[..., :1].sum(-1), mask=m, variant=variant, ref_log_probs=ref, beta=0.1)

    return Kernel(f"grpo_loss, {variant}", call, n=4, batched=False, rows=1)


MASKED = [
    Kernel("returns_to_go", lambda x, m: returns_to_go(x, 0.9, mask=m)),
    Kernel("discounted_return", lambda x, m: discounted_return(x, 0.9, mask=m)),
    Kernel("masked_mean", lambda x, m: masked_mean(x, m, dim=-1)),
    Kernel("reinforce_loss", lambda x, r, m: reinforce_loss(x, r, 0.9, mask=m), n=2, batched=False),
    Kernel("full_return_loss", lambda x, r, m: full_return_loss(x, r, 0.9, mask=m), n=2, batched=False),
    Kernel("value_loss", lambda x, r, m: value_loss(x, r, 0.9, mask=m), n=2, batched=False),
    Kernel("entropy_bonus", lambda x, m: entropy_bonus(x, 0.9, mask=m), batched=False),
    Kernel("leave_one_out_baseline", lambda x, m: leave_one_out_baseline(x, mask=m), rows=1),
    Kernel("running_only", lambda x, m: leave_one_out_baseline(x, mask=m, running_only=True), rows=1),
    Kernel("bootstrapped_rewards", _bootstrap, n=2),
    Kernel("generalized_advantages", _gae, n=3, slopes=3),
    *map(_levels, ("step", "prefix", "trajectory", "geometric_mean")),
    Kernel("off_policy_loss", lambda x, y, r, m: off_policy_loss(x, y, r, 0.9, mask=m), n=3, batched=False),
    Kernel("ppo_clip_loss", lambda x, y, a, m: ppo_clip_loss(x, y, a, mask=m), n=3, batched=False),
    Kernel(
        "ppo_clip_loss, by episodes",
        lambda x, y, a, m: ppo_clip_loss(x, y, a, mask=m, average="episodes"),
        n=3,
        batched=False,
    ),
    *(
        Kernel(f"kl_estimate, {k}", lambda x, y, m, k=k: kl_estimate(x, y, kind=k, mask=m), n=2)
        for k in ("k1", "k2", "k3")
    ),
    *map(_grpo, ("grpo", "dr_grpo", "dapo", "gspo", "rloo")),
]
PLAIN = [
    Kernel("clipped_surrogate", clipped_surrogate, n=3, masked=False),
    Kernel("group_advantages", group_advantages, masked=False),
    Kernel("group_advantages, leave one out", lambda x: group_advantages(x, baseline="leave_one_out"), masked=False),
    Kernel("group_advantages, not scaled", lambda x: group_advantages(x, scale="none"), masked=False),
    Kernel("softmax_policy", softmax_policy, masked=False),
    Kernel("log_softmax_policy", log_softmax_policy, masked=False),
    Kernel("entropy", entropy, masked=False),
    Kernel("fisher_information", fisher_information, masked=False),
    Kernel("score", lambda x: score(x, torch.zeros(x.shape[:-1], dtype=torch.long)), masked=False),
    Kernel("optimal_baseline", optimal_baseline, n=2, slopes=2, masked=False),
    Kernel("effective_sample_size", lambda x: effective_sample_size(x.exp()), masked=False),
    Kernel(
        "token_log_probs",
        lambda x: token_log_probs(x, torch.ones(x.shape[:-1], dtype=torch.long)),
        masked=False,
        widens=True,
    ),
    Kernel("temperature", lambda x: decoding.temperature(x, 0.7), masked=False),
    Kernel("decoding_distribution", lambda x: decoding.decoding_distribution(x, temperature=0.7), masked=False),
]
KERNELS = MASKED + PLAIN
every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
every_masked_kernel = pytest.mark.parametrize("kernel", MASKED, ids=lambda kernel: kernel.name)


def inputs(kernel: Kernel, shape: tuple[int, ...], seed: int, dtype: torch.dtype = F64) -> list[Tensor]:
    """Numbers of the size of log-probabilities and rewards: with ratios that lie within the clip range and outside."""
    x = 0.5 * torch.randn(kernel.n, *shape, generator=seeded(seed), dtype=F64) - 0.5
    return list(x.to(dtype))


def holes(shape: tuple[int, ...], seed: int) -> Tensor:
    """A mask with holes; every row has a step."""
    mask = torch.rand(shape, generator=seeded(seed + 1)) < 0.7
    return mask | (torch.arange(shape[-1]) == seed % shape[-1])


def value(kernel: Kernel, tensors: list[Tensor], mask: Tensor) -> Tensor:
    return kernel.call(*tensors, mask) if kernel.masked else kernel.call(*tensors)


def with_slopes(kernel: Kernel, tensors: list[Tensor], mask: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The value, and the gradient of a sum of its entries with fixed weights."""
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    found = value(kernel, leaves, mask)
    weights = torch.randn(found.shape, generator=seeded(9), dtype=F64).to(found.dtype)
    total = (weights * found).sum()
    return found.detach(), list(torch.autograd.grad(total, leaves[: kernel.slopes]))


SHAPES = st.sampled_from([(2, 1), (2, 2), (3, 5), (2, 3, 4), (2, 2, 2, 3), (2, 20)])


# --- dtypes and layouts


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers elsewhere in memory."""
    if layout == "transposed":
        return x.movedim(-1, 0).contiguous().movedim(0, -1)
    if layout == "every second":
        return torch.stack([x, torch.full_like(x, 7)], -1).flatten(-2)[..., ::2]
    return torch.nn.functional.pad(x, (1, 2))[..., 1 : x.shape[-1] + 1]


@every_kernel
@few
@given(SHAPES, st.integers(0, 999), st.sampled_from(["transposed", "every second", "a part"]))
def test_the_layout_in_memory_does_not_matter(kernel: Kernel, shape: tuple[int, ...], seed: int, layout: str) -> None:
    if shape[-1] < 2:
        shape = (*shape[:-1], 2)
    x, mask = inputs(kernel, shape, seed), holes(shape, seed)
    elsewhere = [laid_out(y, layout) for y in x]
    assert_same_up_to_rounding(value(kernel, elsewhere, laid_out(mask, layout)), value(kernel, x, mask), ulps=16)


@every_kernel
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_a_narrow_dtype_is_kept_and_loses_no_more_than_its_roundings(kernel: Kernel, dtype: torch.dtype) -> None:
    # In float64 from the rounded numbers; then a few roundings of what is returned and of single products.
    for seed, shape in enumerate([(2, 3), (3, 17), (2, 2, 6)]):
        x, mask = inputs(kernel, shape, seed, dtype), holes(shape, seed)
        found, slopes = with_slopes(kernel, x, mask)
        exact, exact_slopes = with_slopes(kernel, [y.double() for y in x], mask)
        assert found.dtype == (torch.float32 if kernel.widens else dtype)
        assert all(slope.dtype == dtype for slope in slopes)
        eps = torch.finfo(dtype).eps
        for narrow, wide in zip([found, *slopes], [exact, *exact_slopes], strict=True):
            error = (narrow.double() - wide).abs().max()
            assert error <= 40 * eps * max(1.0, float(wide.abs().max())), (seed, float(error) / eps)


# --- batches


@every_kernel
@few
@given(SHAPES, st.integers(0, 999))
def test_each_row_of_a_batch_is_what_it_is_alone(kernel: Kernel, shape: tuple[int, ...], seed: int) -> None:
    if shape[-1] < 2:
        shape = (*shape[:-1], 2)
    x, mask = inputs(kernel, (3, *shape), seed), holes((3, *shape), seed)
    alone = torch.stack([value(kernel, [y[i] for y in x], mask[i]) for i in range(3)])
    together = value(kernel, x, mask)
    # A loss of a batch is the mean of the losses of parts that are equally many; a mean over all steps is none.
    if not kernel.batched:
        if kernel.name in ("ppo_clip_loss", "grpo_loss, dapo"):
            counts = mask.flatten(1).sum(-1).double()
            alone = (counts * alone).sum() / counts.sum()
        else:
            alone = alone.mean(0)
    assert_same_up_to_rounding(together, alone, ulps=64)
    order = torch.tensor([2, 0, 1])
    moved = value(kernel, [y[order] for y in x], mask[order])
    assert_same_up_to_rounding(moved, together[order] if kernel.batched else together, ulps=64)


# --- masks


@every_masked_kernel
@few
@given(SHAPES, st.integers(0, 999), st.sampled_from([math.nan, math.inf, 1e300]))
def test_what_stands_where_no_step_was_taken_is_not_read_and_has_no_slope(
    kernel: Kernel, shape: tuple[int, ...], seed: int, junk: float
) -> None:
    x, mask = inputs(kernel, shape, seed), holes(shape, seed)
    read = {"grpo": 3, "bootstrapped": 1}.get(kernel.name.partition("_")[0])  # one number for each row
    spoilt = [y if i == read else torch.where(mask, y, junk) for i, y in enumerate(x)]
    clean = [y if i == read else torch.where(mask, y, 0.0) for i, y in enumerate(x)]
    found, slopes = with_slopes(kernel, spoilt, mask)
    expected, expected_slopes = with_slopes(kernel, clean, mask)
    assert torch.equal(found, expected)
    for slope, other in zip(slopes, expected_slopes, strict=True):
        assert torch.equal(slope, other)
        assert not slope[~mask].any()


# --- extremes


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_finite_numbers_give_finite_numbers_and_finite_slopes(kernel: Kernel, dtype: torch.dtype) -> None:
    for scale, shape in itertools.product((0.0, 1e-30, 1e-3, 20.0), ((2, 1), (3, 4))):
        if shape[-1] == 1 and kernel.name in ("group_advantages, leave one out", "token_log_probs"):
            continue
        if scale == 20.0 and kernel.name.startswith(
            ("importance", "off_policy", "kl", "grpo", "ppo", "clipped", "effective")
        ):
            scale = 0.4  # e^20 per step is more than float16 holds, truly  # noqa: PLW2901
        signs = torch.where(torch.rand(kernel.n, *shape, generator=seeded(3)) < 0.5, -1.0, 1.0)
        x = [(scale * s).to(dtype) for s in signs]
        found, slopes = with_slopes(kernel, x, holes(shape, 0))
        # exactly: a logarithm of the probability 0 is -inf, and nothing here has the probability 0
        assert found.isfinite().all(), (scale, shape)
        assert all(slope.isfinite().all() for slope in slopes), (scale, shape)


@every_kernel
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 2, 3), (2, 0, 3)], ids=str)
def test_of_nothing_there_is_nothing_or_an_error_that_says_so(kernel: Kernel, shape: tuple[int, ...]) -> None:
    x, mask = inputs(kernel, shape, 1), torch.ones(shape, dtype=torch.bool)
    message = "nothing"
    try:
        found, slopes = with_slopes(kernel, x, mask)
    except ValueError as error:
        message = str(error)
    if message != "nothing":
        named = re.match(r"\w+ has shape (\[.*?\])[,:] |tokens is 1 at \[0\], not in the vocabulary ", message)
        assert named, message
        assert named[1] in (str(list(shape)), None)
        return
    # No sum over nothing is anything but 0.
    assert not found.any()
    assert [slope.shape for slope in slopes] == [y.shape for y in x[: kernel.slopes]]


@every_kernel
def test_nothing_that_was_passed_is_changed(kernel: Kernel) -> None:
    x, mask = inputs(kernel, (2, 3, 4), 5), holes((2, 3, 4), 5)
    copies, mask_copy = [y.clone() for y in x], mask.clone()
    with_slopes(kernel, x, mask)
    value(kernel, x, mask)
    assert all(torch.equal(y, z) for y, z in zip(x, copies, strict=True))
    assert torch.equal(mask, mask_copy)


# --- derivatives and transforms


@every_kernel
def test_first_and_second_derivatives_agree_with_differences(kernel: Kernel) -> None:
    x, mask = inputs(kernel, (2, 3), 1), holes((2, 3), 1)
    leaves = [y.requires_grad_() if i < kernel.slopes else y for i, y in enumerate(x)]
    call = lambda *tensors: value(kernel, list(tensors), mask)  # noqa: E731
    assert torch.autograd.gradcheck(call, leaves)
    if any(y.requires_grad for y in (value(kernel, leaves, mask),)):
        assert torch.autograd.gradgradcheck(call, leaves)


@every_kernel
def test_vmap_grad_and_jacobians_by_either_mode_agree_with_the_plain_call(kernel: Kernel) -> None:
    shape = (2, 3)
    x, mask = inputs(kernel, (4, *shape), 2), holes((4, *shape), 2)
    rows = [value(kernel, [y[i] for y in x], mask[i]) for i in range(4)]
    mapped = torch.func.vmap(lambda m, *tensors: value(kernel, list(tensors), m))(mask, *x)
    assert_same_up_to_rounding(mapped, torch.stack(rows), ulps=64)
    first, m = [y[0] for y in x], mask[0]

    def of_first(y: Tensor) -> Tensor:
        return value(kernel, [y, *first[1:]], m)

    weights = torch.randn(rows[0].shape, generator=seeded(9), dtype=F64)
    leaf = first[0].clone().requires_grad_()
    (plain,) = torch.autograd.grad((weights * of_first(leaf)).sum(), leaf)
    assert_same_up_to_rounding(torch.func.grad(lambda y: (weights * of_first(y)).sum())(first[0]), plain, ulps=64)
    jacobian = torch.func.jacrev(of_first)(first[0])
    assert_same_up_to_rounding(jacobian, torch.autograd.functional.jacobian(of_first, first[0]), ulps=64)
    assert_same_up_to_rounding(torch.tensordot(weights, jacobian, weights.ndim), plain, ulps=64)
    gradient = torch.func.grad(lambda y, m, *z: (weights * value(kernel, [y, *z], m)).sum())
    per_row = torch.func.vmap(gradient)(x[0], mask, *x[1:])
    assert_same_up_to_rounding(per_row[0], plain, ulps=64)


def assert_compiled_agrees(kernel: Kernel, backend: str) -> None:
    x, mask = inputs(kernel, (2, 3), 3), holes((2, 3), 3)
    torch.compiler.reset()
    compiled = kernel._replace(call=torch.compile(kernel.call, fullgraph=True, backend=backend))
    found, slopes = with_slopes(compiled, x, mask)
    expected, expected_slopes = with_slopes(kernel, x, mask)
    assert_same_up_to_rounding(found, expected, ulps=64)
    for slope, other in zip(slopes, expected_slopes, strict=True):
        assert_same_up_to_rounding(slope, other, ulps=64)


@every_kernel
def test_a_compiled_kernel_is_one_graph_and_gives_what_the_plain_call_gives_backward_too(kernel: Kernel) -> None:
    assert_compiled_agrees(kernel, "aot_eager")


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor writes C++")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch uses it itself
@pytest.mark.parametrize("name", ["generalized_advantages", "grpo_loss, gspo"])
def test_a_kernel_compiled_to_machine_code_gives_what_the_plain_call_gives(name: str) -> None:
    (kernel,) = [kernel for kernel in KERNELS if kernel.name == name]
    assert_compiled_agrees(kernel, "inductor")


# --- what is particular to each kernel


def draws(n: int, *shape: int, seed: int) -> list[Tensor]:
    return list(torch.randn(n, *shape, generator=seeded(seed), dtype=F64))


@more
@given(st.integers(1, 40), st.integers(0, 999), GAMMAS, st.floats(-3, 3))
def test_returns_are_linear_and_obey_their_recursion_and_their_matrix(
    n: int, seed: int, gamma: float, a: float
) -> None:
    x, y = draws(2, 2, n, seed=seed)
    g = returns_to_go(x, gamma)
    assert_same_up_to_rounding(returns_to_go(a * x + y, gamma), a * g + returns_to_go(y, gamma), ulps=256)
    following = torch.nn.functional.pad(g[:, 1:], (0, 1))
    assert_same_up_to_rounding(g, x + gamma * following, ulps=64)
    assert_same_up_to_rounding(g, x @ return_matrix(gamma, n, dtype=F64).T, ulps=64)
    assert_same_up_to_rounding(g[:, 0], discounted_return(x, gamma), ulps=64)
    mask = holes((2, n), seed)
    scores = sequence_level_rewards(y[:, 0], mask)
    assert_same_up_to_rounding(scores.sum(-1), y[:, 0], ulps=0)
    assert_same_up_to_rounding(discounted_return(scores, 1.0), y[:, 0], ulps=0)


@more
@given(st.integers(1, 30), st.integers(0, 999), GAMMAS)
def test_returns_of_larger_rewards_are_larger_and_an_earlier_start_changes_none(
    n: int, seed: int, gamma: float
) -> None:
    x, more = draws(2, n, seed=seed)
    assert (returns_to_go(x + more.abs(), gamma) >= returns_to_go(x, gamma) - 1e-12).all()
    earlier = torch.cat([more, x])
    assert_same_up_to_rounding(returns_to_go(earlier, gamma)[n:], returns_to_go(x, gamma), ulps=64)


@more
@given(st.integers(1, 24), st.integers(0, 999), GAMMAS, st.sampled_from([0.0, 0.6, 1.0]))
def test_advantages_are_linear_and_rows_of_several_episodes_are_episodes_in_rows(
    n: int, seed: int, gamma: float, lam: float
) -> None:
    r, v, w = draws(3, n, seed=seed)
    over = torch.rand(n, generator=seeded(seed)) < 0.3
    cut = ~over & (torch.rand(n, generator=seeded(seed + 1)) < 0.3)
    found = generalized_advantages(r, v, w, gamma, lam, terminated=over, truncated=cut)
    twice = generalized_advantages(-2 * r, -2 * v, -2 * w, gamma, lam, terminated=over, truncated=cut)
    assert_same_up_to_rounding(twice, -2 * found, ulps=16)
    begins = [0, *((over | cut).nonzero().flatten() + 1).tolist(), n]
    parts = []
    for first, last in itertools.pairwise(sorted(set(begins))):
        some = slice(first, last)
        parts.append(
            generalized_advantages(r[some], v[some], w[some], gamma, lam, terminated=over[some], truncated=cut[some])
        )
    assert_same_up_to_rounding(torch.cat(parts), found, ulps=64)


@more
@given(st.integers(2, 12), st.integers(0, 999), st.floats(-100, 100), st.floats(0.01, 100))
def test_group_advantages_ignore_a_shift_and_the_scaled_ones_a_factor(
    k: int, seed: int, shift: float, a: float
) -> None:
    (r,) = draws(1, 3, k, seed=seed)
    for options in ({}, {"scale": "none"}, {"baseline": "leave_one_out"}, {"ddof": 0}):
        found = group_advantages(r, eps=0.0, **options)  # type: ignore[arg-type]
        assert float(found.sum(-1).abs().max()) < 1e-12 * k
        torch.testing.assert_close(group_advantages(r + shift, eps=0.0, **options), found, atol=1e-10, rtol=1e-10)  # type: ignore[arg-type]
        scaled = group_advantages(a * r, eps=0.0, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(scaled, found * (a if "scale" in options else 1.0), atol=1e-12, rtol=1e-10)
        order = torch.randperm(k, generator=seeded(seed))
        assert_same_up_to_rounding(group_advantages(r[:, order], eps=0.0, **options), found[:, order], ulps=64)  # type: ignore[arg-type]
    unit = group_advantages(r, eps=0.0, ddof=0)
    torch.testing.assert_close(unit.square().mean(-1), torch.ones(3, dtype=F64))


@more
@given(st.integers(1, 12), st.integers(0, 999), st.floats(0.01, 0.9), st.floats(0.01, 3))
def test_what_ppo_clips_is_never_more_than_what_it_does_not(n: int, seed: int, low: float, high: float) -> None:
    x, y, a = draws(3, 4, n, seed=seed)
    free = clipped_surrogate(x, y, a, clip=(1.0, math.inf))
    assert_same_up_to_rounding(free, (x - y).exp() * a, ulps=64)
    bound = clipped_surrogate(x, y, a, clip=(low, high))
    assert (bound <= free + 1e-12).all()
    assert (bound <= torch.where(a >= 0, (1 + high) * a, (1 - low) * a) + 1e-12).all()
    assert_same_up_to_rounding(ppo_clip_loss(x, y, a, clip=(low, high)), -bound.mean(), ulps=64)
    assert_same_up_to_rounding(ppo_clip_loss(x, x, a), -a.mean(), ulps=64)
    by_episodes = ppo_clip_loss(x, y, a, clip=(low, high), average="episodes")
    assert_same_up_to_rounding(by_episodes, -bound.sum(-1).mean(), ulps=64)


@more
@given(st.integers(1, 12), st.integers(0, 999), st.floats(0.01, 100))
def test_ratios_multiply_and_estimates_of_the_kl_are_positive(n: int, seed: int, a: float) -> None:
    x, y, z = draws(3, n, seed=seed)
    for level in ("step", "prefix", "trajectory", "geometric_mean"):
        first, second, whole = (importance_ratios(p, q, level=level) for p, q in ((x, y), (y, z), (x, z)))  # type: ignore[arg-type]
        torch.testing.assert_close(first * second, whole)
    k1, k2, k3 = (kl_estimate(x, y, kind=kind) for kind in ("k1", "k2", "k3"))
    assert (k3 >= 0).all()
    assert (k2 >= 0).all()
    assert_same_up_to_rounding(k1 + kl_estimate(y, x, kind="k1"), torch.zeros(n, dtype=F64), ulps=0)
    assert_same_up_to_rounding(k3 - k1, (y - x).exp() - 1, ulps=64)
    size = effective_sample_size(x.exp())
    assert 1 - 1e-12 <= float(size) <= n + 1e-9
    torch.testing.assert_close(effective_sample_size(a * x.exp()), size)


@more
@given(st.integers(1, 9), st.integers(0, 999), st.floats(-50, 50))
def test_log_probabilities_of_tokens_ignore_a_shift_and_add_up_to_one(v: int, seed: int, shift: float) -> None:
    (logits,) = draws(1, 5, v, seed=seed)
    every = torch.arange(v).expand(5, v)
    rows = logits.unsqueeze(-2).expand(5, v, v)
    found = token_log_probs(rows, every)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(5, dtype=F64))
    torch.testing.assert_close(token_log_probs(rows + shift, every), found)
    assert_same_up_to_rounding(found, log_softmax_policy(logits), ulps=16)
    identity = torch.eye(v, dtype=F64)
    assert_same_up_to_rounding(projected_token_log_probs(rows, identity, every), found, ulps=16)


@more
@given(st.integers(1, 9), st.integers(0, 999), st.floats(0.05, 5), st.floats(0.01, 1), st.integers(1, 9))
def test_decoding_restricts_and_renormalises_whatever_the_order_of_tokens(
    v: int, seed: int, tau: float, p: float, k: int
) -> None:
    (logits,) = draws(1, 4, v, seed=seed)
    options: dict[str, Any] = {"temperature": tau, "top_k": k, "top_p": p}
    found = decoding.decoding_distribution(logits, **options)
    full = torch.softmax(logits / tau, -1)
    kept = found > 0
    torch.testing.assert_close(found, torch.where(kept, full, 0.0) / torch.where(kept, full, 0.0).sum(-1, keepdim=True))
    assert (kept.sum(-1) <= k).all()
    order = torch.randperm(v, generator=seeded(seed))
    torch.testing.assert_close(decoding.decoding_distribution(logits[:, order], **options), found[:, order])


@more
@given(st.integers(1, 7), st.integers(0, 999), st.floats(-30, 30))
def test_the_softmax_ignores_a_shift_and_follows_a_permutation(n: int, seed: int, shift: float) -> None:
    (h,) = draws(1, 3, n, seed=seed)
    order, mask = torch.randperm(n, generator=seeded(seed)), holes((3, n), seed)
    for function in (softmax_policy, log_softmax_policy, entropy, fisher_information):
        found = function(h, available=mask)
        torch.testing.assert_close(function(h + shift, available=mask), found, atol=1e-12, rtol=1e-10)
        moved = function(h[:, order], available=mask[:, order])
        if function is entropy:
            expected = found
        else:
            expected = found[:, order][:, :, order] if function is fisher_information else found[:, order]
        assert_same_up_to_rounding(moved.nan_to_num(neginf=0.0), expected.nan_to_num(neginf=0.0), ulps=64)
        only = function(h, available=torch.arange(n).expand(3, n) == 0)  # one action: certain
        assert (only.nan_to_num(neginf=0.0).sum() == (3.0 if function is softmax_policy else 0.0)).all()


def slope_at(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.func.grad(loss)(x)


def at_the_end(y: Tensor, m: Tensor) -> Tensor:
    """The first number of each row, at its last step."""
    return sequence_level_rewards(y[:, 0], m)


# Two ways of the package to one number: from log-probabilities x and y, rewards r, all [N, T], and a mask of episodes.
ROUTES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "advantages with λ = 1, returns": (
        lambda x, y, r, m: generalized_advantages(r, 0 * r, 0 * r, 0.9, 1.0, terminated=torch.zeros_like(m), mask=m),
        lambda x, y, r, m: returns_to_go(r, 0.9, mask=m).where(m, 0.0),
    ),
    "advantages with λ = 0, errors": (
        lambda x, y, r, m: generalized_advantages(r, x, y, 0.9, 0.0, terminated=torch.zeros_like(m), mask=m),
        lambda x, y, r, m: (r + 0.9 * y - x).where(m, 0.0),
    ),
    "returns of cut episodes, advantages": (
        lambda x, y, r, m: returns_to_go(
            bootstrapped_rewards(r, y[:, 0], 0.9, mask=m, truncated=m.any(-1)), 0.9, mask=m
        ).where(m, 0.0),
        lambda x, y, r, m: generalized_advantages(
            r, 0 * r, at_the_end(y, m), 0.9, 1.0, terminated=torch.zeros_like(m), mask=m
        ),
    ),
    "off policy at the old policy, REINFORCE": (
        lambda x, y, r, m: slope_at(lambda z: off_policy_loss(z, x, r, 0.9, mask=m), x),
        lambda x, y, r, m: slope_at(lambda z: reinforce_loss(z, r, 0.9, mask=m), x),
    ),
    "PPO at the old policy, REINFORCE without γ^t": (
        lambda x, y, r, m: slope_at(
            lambda z: ppo_clip_loss(z, x, returns_to_go(r, 0.9, mask=m), mask=m, average="episodes"), x
        ),
        lambda x, y, r, m: slope_at(lambda z: reinforce_loss(z, r, 0.9, mask=m, discount_states=False), x),
    ),
    "whole returns of a score, REINFORCE": (
        lambda x, y, r, m: full_return_loss(x, at_the_end(r, m), 1.0, mask=m),
        lambda x, y, r, m: reinforce_loss(x, at_the_end(r, m), 1.0, mask=m),
    ),
    "RLOO at the old policy, REINFORCE with a baseline": (
        lambda x, y, r, m: slope_at(lambda z: grpo_loss(z, x, r[:, 0], mask=m, variant="rloo"), x),
        lambda x, y, r, m: slope_at(
            lambda z: reinforce_loss(
                z, at_the_end(r, m), 1.0, mask=m, baseline=(r[:, :1].sum(0) - r[:, :1]) / (len(r) - 1)
            ),
            x,
        ),
    ),
    "GRPO with equally long responses, DAPO": (
        lambda x, y, r, m: grpo_loss(x, y, r[:, 0], mask=torch.ones_like(m)),
        lambda x, y, r, m: grpo_loss(x, y, r[:, 0], mask=torch.ones_like(m), variant="dapo"),
    ),
    "the last prefix, the trajectory": (
        lambda x, y, r, m: (
            (importance_ratios(x, y, level="prefix", mask=m) * is_last(m)).sum(-1, keepdim=True).where(m, 0.0)
        ),
        lambda x, y, r, m: importance_ratios(x, y, level="trajectory", mask=m).where(m, 0.0),
    ),
    "the trajectory, the mean of its length": (
        lambda x, y, r, m: importance_ratios(x, y, level="trajectory", mask=m).where(m, 0.0),
        lambda x, y, r, m: (
            importance_ratios(x, y, level="geometric_mean", mask=m).where(m, 1.0) ** m.sum(-1, keepdim=True)
        ).where(m, 0.0),
    ),
    "the Fisher information, the scores": (
        lambda x, y, r, m: fisher_information(x),
        lambda x, y, r, m: torch.stack([torch.einsum("n,ni,nj->nij", p, s, s) for p, s in every_score(x)]).sum(0),
    ),
    "the entropy, the probabilities": (
        lambda x, y, r, m: entropy(x),
        lambda x, y, r, m: -(softmax_policy(x) * log_softmax_policy(x)).sum(-1),
    ),
    "decoding, the softmax": (
        lambda x, y, r, m: decoding.decoding_distribution(x, temperature=0.5),
        lambda x, y, r, m: softmax_policy(2 * x),
    ),
}


def is_last(m: Tensor) -> Tensor:
    return m & ~torch.nn.functional.pad(m, (0, 1))[:, 1:]


def every_score(x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The probability of each action, and its score."""
    policy = softmax_policy(x)
    return [(policy[:, a], score(x, torch.full((len(x),), a))) for a in range(x.shape[-1])]


@pytest.mark.parametrize("name", ROUTES)
@few
@given(st.integers(2, 5), st.integers(1, 7), st.integers(0, 999))
def test_two_routes_to_one_number_agree(name: str, n: int, length: int, seed: int) -> None:
    x, y, r = draws(3, n, length, seed=seed)
    lengths = torch.randint(1, length + 1, (n, 1), generator=seeded(seed))
    one, other = (route(x, y, r, torch.arange(length) < lengths) for route in ROUTES[name])
    torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-10)


# --- MDPs


def world(n_states: int, n_actions: int, seed: int) -> tuple[FiniteMDP, Tensor]:
    """A random MDP in which every step may end the episode and some actions are missing; and preferences."""
    draw, outcomes = seeded(seed), []
    available = torch.rand(n_states, n_actions, generator=draw) < 0.7
    available[:, 0] = True
    for s, a in available.nonzero().tolist():
        p = torch.softmax(2 * torch.randn(n_states + 1, generator=draw, dtype=F64), 0).tolist()
        r = torch.randn(n_states + 1, generator=draw, dtype=F64).tolist()
        outcomes += [(s, a, k, r[k], p[k]) for k in range(n_states + 1)]
    initial = torch.softmax(torch.randn(n_states, generator=draw, dtype=F64), 0)
    mdp = FiniteMDP.from_outcomes(
        outcomes,
        n_states=n_states + 1,
        n_actions=n_actions,
        initial=torch.nn.functional.pad(initial, (0, 1)),
        terminal=[n_states],
    )
    return mdp, torch.randn(n_states + 1, n_actions, generator=draw, dtype=F64)


def relabelled(mdp: FiniteMDP, states: list[int], actions: list[int]) -> FiniteMDP:
    """The same MDP, its states and actions under other numbers: state s becomes states[s]."""
    s_new, a_new, o = torch.tensor(states), torch.tensor(actions), mdp.outcomes
    initial = torch.zeros_like(mdp.initial)
    initial[s_new] = mdp.initial
    terminal = torch.zeros_like(mdp.terminal)
    terminal[s_new] = mdp.terminal
    return FiniteMDP.from_outcomes(
        (s_new[o.state], a_new[o.action], s_new[o.next_state], mdp.rewards[o.reward_index], o.probability),
        n_states=mdp.n_states,
        n_actions=mdp.n_actions,
        initial=initial,
        terminal=terminal,
    )


WORLDS = st.builds(world, st.integers(1, 4), st.integers(1, 3), st.integers(0, 999))


@more
@given(WORLDS, GAMMAS, st.randoms(use_true_random=False))
def test_the_numbers_of_states_and_actions_mean_nothing(
    problem: tuple[FiniteMDP, Tensor], gamma: float, r: Any
) -> None:
    mdp, h = problem
    states, actions = list(range(mdp.n_states)), list(range(mdp.n_actions))
    r.shuffle(states)
    r.shuffle(actions)
    other, moved = relabelled(mdp, states, actions), torch.zeros_like(h)
    moved[torch.tensor(states)[:, None], torch.tensor(actions)] = h
    policies = [softmax_policy(x, available=m.available) for m, x in ((mdp, h), (other, moved))]
    back = torch.tensor(states)
    for function in (state_values, discounted_visitation):
        found, again = (function(m, p, gamma) for m, p in zip((mdp, other), policies, strict=True))
        torch.testing.assert_close(again[back], found, atol=1e-10, rtol=1e-9)
    for table in (action_values, advantages):
        found, again = (table(m, p, gamma) for m, p in zip((mdp, other), policies, strict=True))
        torch.testing.assert_close(again[back][:, actions], found, atol=1e-10, rtol=1e-9)
    gradient, again = exact_policy_gradient(mdp, h, gamma), exact_policy_gradient(other, moved, gamma)
    torch.testing.assert_close(again[back][:, actions], gradient, atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(optimal_values(other, gamma)[back], optimal_values(mdp, gamma), atol=1e-10, rtol=1e-9)


@more
@given(WORLDS, GAMMAS, st.floats(-3, 3), st.floats(0.1, 3))
def test_values_are_linear_in_the_rewards_and_all_routes_to_them_agree(
    problem: tuple[FiniteMDP, Tensor], gamma: float, shift: float, factor: float
) -> None:
    mdp, h = problem
    policy, o = softmax_policy(h, available=mdp.available), mdp.outcomes
    v, eta = state_values(mdp, policy, gamma), discounted_visitation(mdp, policy, gamma)
    # J = Σ μ v = Σ η Σ π r, and v is the fixed point of its operator
    earned = (policy * mdp.expected_rewards()).sum(-1)
    torch.testing.assert_close(performance(mdp, policy, gamma), eta @ earned)
    torch.testing.assert_close(mdp.initial @ v, eta @ earned)
    torch.testing.assert_close(bellman_expectation(mdp, policy, v, gamma), v)
    other = rewarded(mdp, factor * mdp.rewards[o.reward_index] + shift)
    steps = state_values(rewarded(mdp, torch.ones_like(o.probability)), policy, gamma)
    torch.testing.assert_close(state_values(other, policy, gamma), factor * v + shift * steps)
    assert (optimal_values(mdp, gamma) >= v - 1e-9).all()


def rewarded(mdp: FiniteMDP, rewards: Tensor) -> FiniteMDP:
    """The MDP with other rewards, one for each outcome."""
    o = mdp.outcomes
    return FiniteMDP.from_outcomes(
        (o.state, o.action, o.next_state, rewards, o.probability),
        n_states=mdp.n_states,
        n_actions=mdp.n_actions,
        initial=mdp.initial,
        terminal=mdp.terminal,
    )


OF_POLICIES: dict[str, Callable[[FiniteMDP, Tensor, float], Tensor]] = {
    "state_values": state_values,
    "action_values": action_values,
    "advantages": advantages,
    "performance": performance,
    "discounted_visitation": discounted_visitation,
    "optimal_values": lambda mdp, policy, gamma: optimal_values(mdp, gamma),
    "bellman_expectation": lambda mdp, policy, gamma: bellman_expectation(
        mdp, policy, mdp.expected_rewards()[:, 0], gamma
    ),
    "finite_horizon_values": lambda mdp, policy, gamma: finite_horizon_values(mdp, policy, gamma, horizon=3),
    "performance_difference": lambda mdp, policy, gamma: performance_difference(
        mdp, policy, equiprobable_policy(mdp), gamma
    ),
    "surrogate_objective": lambda mdp, policy, gamma: surrogate_objective(mdp, policy, equiprobable_policy(mdp), gamma),
    "generalized_advantage_moments": lambda mdp, policy, gamma: (
        generalized_advantage_moments(mdp, policy, mdp.expected_rewards()[:, 0], gamma, 0.5).mean
    ),
    "enumerate_trajectories": lambda mdp, policy, gamma: enumerate_trajectories(mdp, policy, horizon=2)[1],
}


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@few
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 999), st.sampled_from([0.3, 0.9]))
def test_in_a_narrow_dtype_an_mdp_loses_no_more_than_a_few_roundings(
    dtype: torch.dtype, n_states: int, n_actions: int, seed: int, gamma: float
) -> None:
    mdp, h = world(n_states, n_actions, seed)
    mdp = rewarded(mdp, (4 * mdp.rewards[mdp.outcomes.reward_index]).round() / 4)  # a few rewards, and exact ones
    narrow = mdp.to(dtype=dtype)
    policies = [softmax_policy(x, available=m.available) for m, x in ((narrow, h.to(dtype)), (mdp, h))]
    eps = torch.finfo(dtype).eps
    for name, function in OF_POLICIES.items():
        found, exact = function(narrow, policies[0], gamma), function(mdp, policies[1], gamma)
        assert found.dtype == dtype, name
        error = (found.double() - exact).abs().max()
        assert error <= 60 * eps * max(1.0, float(exact.abs().max())), (name, float(error) / eps)
    gradient = exact_policy_gradient(narrow, h.to(dtype), gamma)
    assert gradient.dtype == dtype
    assert (gradient.double() - exact_policy_gradient(mdp, h, gamma)).abs().max() <= 60 * eps


@few
@given(WORLDS, GAMMAS, st.floats(-5, 5))
def test_every_route_to_the_gradient_agrees_and_a_constant_in_a_state_changes_nothing(
    problem: tuple[FiniteMDP, Tensor], gamma: float, shift: float
) -> None:
    mdp, h = problem
    routes = gradient_routes(mdp, h, gamma)
    for name, gradient in routes.items():
        torch.testing.assert_close(gradient, routes["theorem"], atol=1e-7, rtol=1e-6, msg=name)
    torch.testing.assert_close(exact_policy_gradient(mdp, h + shift * h[:, :1], gamma), routes["theorem"])
    assert float(routes["theorem"].sum(-1).abs().max()) < 1e-12


@few
@given(WORLDS, GAMMAS, st.integers(0, 99))
def test_the_performance_difference_and_the_surrogate_meet_at_the_old_policy(
    problem: tuple[FiniteMDP, Tensor], gamma: float, seed: int
) -> None:
    mdp, h = problem
    new, old = (softmax_policy(x, available=mdp.available) for x in (h + draws(1, *h.shape, seed=seed)[0], h))
    gain = performance(mdp, new, gamma) - performance(mdp, old, gamma)
    torch.testing.assert_close(performance_difference(mdp, new, old, gamma), gain, atol=1e-9, rtol=1e-8)
    torch.testing.assert_close(performance_difference(mdp, old, new, gamma), -gain, atol=1e-9, rtol=1e-8)
    torch.testing.assert_close(surrogate_objective(mdp, old, old, gamma), performance(mdp, old, gamma))


@few
@given(WORLDS, GAMMAS)
def test_trajectories_of_any_length_have_probabilities_that_add_up_to_one(
    problem: tuple[FiniteMDP, Tensor], gamma: float
) -> None:
    mdp, h = problem
    policy = softmax_policy(h, available=mdp.available)
    shorter = None
    for horizon in (1, 2, 3):
        trajectories, probabilities = enumerate_trajectories(mdp, policy, horizon=horizon)
        assert float(probabilities.sum()) == pytest.approx(1.0, abs=1e-12)
        value = float(probabilities @ discounted_return(trajectories.rewards, gamma, mask=trajectories.mask))
        by_backups = torch.zeros(mdp.n_states, dtype=F64)
        for _ in range(horizon):
            by_backups = bellman_expectation(mdp, policy, by_backups, gamma)
        assert value == pytest.approx(float(mdp.initial @ by_backups), abs=1e-10)
        ended = float(probabilities[trajectories.terminated].sum())
        assert shorter is None or ended >= shorter - 1e-12
        shorter = ended
