"""Losses of groups against the published formulas token by token, and their expectations against all groups."""

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import F64, hardly_better, randn
from torch import Tensor

from pgtheory import gallery
from pgtheory._gradients import loss_slopes
from pgtheory.groups import (
    difficulty_weight,
    expected_group_gradient,
    group_advantages,
    group_bias_ledger,
    group_loss_variants,
    grpo_loss,
    two_answer_lengths,
)
from pgtheory.mdp import FiniteMDP
from pgtheory.policy_gradient import exact_policy_gradient, expected_gradient
from pgtheory.softmax_policy import log_softmax_policy, softmax_policy
from pgtheory.trajectories import at_steps, enumerate_trajectories

VARIANTS = ("grpo", "dr_grpo", "dapo", "gspo", "rloo")


def two_prompts() -> FiniteMDP:
    """Responses of up to 3 of 3 tokens, 0 ends them: prompt 0 wants any 1, prompt 1 wants exactly 2, 2, 1."""

    def reward(prompt: int, tokens: tuple[int, ...]) -> float:
        return float(1 in tokens) if prompt == 0 else float(tokens == (2, 2, 1))

    return gallery.token_tree(3, 3, reward=reward, eos=0, n_prompts=2)


@pytest.mark.equation("eq-group-advantage")
def test_group_advantages_with_std_use_the_sample_deviation_and_trls_epsilon() -> None:
    rewards = [0.0, 1.0, 5.0]
    mean = sum(rewards) / 3
    spread = math.sqrt(sum((r - mean) ** 2 for r in rewards) / 2)
    expected = [(r - mean) / (spread + 1e-4) for r in rewards]
    assert group_advantages(torch.tensor(rewards, dtype=F64)).tolist() == pytest.approx(expected, rel=1e-12)
    population = math.sqrt(sum((r - mean) ** 2 for r in rewards) / 3)
    found = group_advantages(torch.tensor(rewards, dtype=F64), ddof=0, eps=0.0)
    assert found.tolist() == pytest.approx([(r - mean) / population for r in rewards], rel=1e-12)


def test_leave_one_out_subtracts_the_mean_of_the_others() -> None:
    rewards = randn(2, 4)
    found = group_advantages(rewards, scale="none", baseline="leave_one_out")
    for g, i in itertools.product(range(2), range(4)):
        others = [float(rewards[g, j]) for j in range(4) if j != i]
        assert float(found[g, i]) == pytest.approx(float(rewards[g, i]) - sum(others) / 3)


@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("value", [0.1, 1e9, -1 / 3])
def test_a_group_of_equal_rewards_gives_exactly_zero(scale: Any, baseline: Any, value: float) -> None:
    rewards = torch.full((3,), value, dtype=F64, requires_grad=True)
    found = group_advantages(rewards, scale=scale, baseline=baseline, eps=0.0)
    assert found.tolist() == [0.0] * 3
    (slope,) = torch.autograd.grad(found.sum(), rewards)
    assert slope.isfinite().all()


def test_a_group_of_equal_rewards_makes_no_nan_even_inside_the_backward_pass() -> None:
    rewards = torch.ones(2, 3, dtype=F64, requires_grad=True)
    with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
        group_advantages(rewards).sum().backward()
    assert rewards.grad is not None
    assert not rewards.grad.any()


def test_a_group_of_one_teaches_nothing() -> None:
    assert group_advantages(torch.tensor([[3.0]])).tolist() == [[0.0]]


def loss_by_loops(
    variant: str,
    log_probs: Tensor,
    old: Tensor,
    rewards: Tensor,
    mask: Tensor,
    low: float,
    high: float,
    beta: float,
    ref: Tensor,
) -> Tensor:
    """Each published objective, token by token."""
    groups, size, horizon = log_probs.shape
    total, n_tokens = torch.zeros((), dtype=F64), int(mask.sum())
    for g in range(groups):
        r = rewards[g]
        for i in range(size):
            others = torch.stack([r[j] for j in range(size) if j != i])
            weight = r[i] - (others.mean() if variant == "rloo" else r.mean())
            if variant in ("grpo", "dapo", "gspo"):
                weight = weight / (r.std(correction=1) + 1e-4)
            tokens = [t for t in range(horizon) if mask[g, i, t]]
            for t in tokens:
                ratio = (log_probs[g, i, t] - old[g, i, t]).exp()
                if variant == "gspo":
                    ratio = (sum(log_probs[g, i, k] - old[g, i, k] for k in tokens) / len(tokens)).exp()
                term = torch.minimum(ratio * weight, ratio.clamp(1 - low, 1 + high) * weight)
                x = ref[g, i, t] - log_probs[g, i, t]
                term = term - beta * (x.exp() - 1 - x)
                total = (
                    total
                    - term
                    / {
                        "grpo": len(tokens) * groups * size,
                        "gspo": len(tokens) * groups * size,
                        "dr_grpo": groups * size * horizon,
                        "dapo": n_tokens,
                        "rloo": groups * size,
                    }[variant]
                )
    return total


@pytest.mark.equation("eq-grpo", "eq-dr-grpo", "eq-dapo", "eq-gspo", "eq-rloo")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_each_group_loss_and_its_gradient_are_the_published_formula(variant: Any, beta: float) -> None:
    log_probs = (0.3 * randn(2, 3, 4)).requires_grad_()
    old, ref, rewards = 0.3 * randn(2, 3, 4, seed=1), 0.3 * randn(2, 3, 4, seed=2), randn(2, 3, seed=3)
    mask = torch.arange(4) < torch.tensor([[4, 1, 2], [3, 4, 1]])[..., None]
    nan = torch.where(mask, 0.0, torch.nan)
    found = grpo_loss(
        log_probs + nan, old + nan, rewards, mask=mask, variant=variant, clip=(0.2, 0.28), ref_log_probs=ref, beta=beta
    )
    expected = loss_by_loops(variant, log_probs, old, rewards, mask, 0.2, 0.28, beta, ref)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    slopes = [torch.autograd.grad(loss, log_probs)[0] for loss in (found, expected)]
    torch.testing.assert_close(*slopes, atol=1e-12, rtol=1e-12)


def test_a_response_without_tokens_counts_as_zero() -> None:
    log_probs = torch.zeros(1, 2, 2, dtype=F64)
    mask = torch.tensor([[[False, False], [True, True]]])
    rewards = torch.tensor([[0.0, 2.0]], dtype=F64)
    assert grpo_loss(log_probs, log_probs, rewards, mask=mask, variant="dr_grpo").item() == pytest.approx(-2 / 4)
    assert grpo_loss(log_probs, log_probs, rewards, mask=torch.zeros_like(mask), variant="dapo").item() == 0.0


@pytest.fixture(scope="module")
def ledger() -> dict[str, Any]:
    mdp = two_prompts()
    return {row.name: row for row in group_bias_ledger(mdp, randn(mdp.n_states, 3), horizon=3, size=3)}


def brute_group_gradient(loss: Any, mdp: FiniteMDP, h: Tensor, horizon: int, size: int) -> Tensor:
    """The expectation by a loop over all groups of each prompt, and one call of autograd for each."""
    policy = softmax_policy(h, available=mdp.available)
    trajectories, p = enumerate_trajectories(mdp, policy, horizon=horizon)
    leaf = h.clone().requires_grad_()
    log_probs = at_steps(log_softmax_policy(leaf, available=mdp.available), trajectories)
    value = torch.zeros((), dtype=F64)
    for prompt in trajectories.states[:, 0].unique():
        rows = (trajectories.states[:, 0] == prompt).nonzero().flatten().tolist()
        mass = sum(float(p[n]) for n in rows)
        for group in itertools.product(rows, repeat=size):
            weight = mass * math.prod(float(p[n]) / mass for n in group)
            k = list(group)
            x, rewards = log_probs[k][None], trajectories.rewards[k].sum(-1)[None]
            value = value + weight * loss(x, x.detach(), rewards, mask=trajectories.mask[k][None])
    return torch.autograd.grad(value, leaf)[0]


@pytest.mark.equation("eq-expected-group-gradient")
@pytest.mark.parametrize("name", ["grpo", "dapo", "rloo"])
def test_expected_group_gradient_is_the_sum_over_all_groups_of_each_prompt(name: str) -> None:
    mdp = gallery.token_tree(2, 2, reward=lambda x, y: float(sum(y) == 1 + x), eos=0, n_prompts=2, initial=[0.3, 0.7])
    h, loss = randn(mdp.n_states, 2), group_loss_variants()[name]
    for ordered in (False, True):
        found = expected_group_gradient(loss, mdp, h, horizon=2, size=3, ordered=ordered)
        torch.testing.assert_close(found, brute_group_gradient(loss, mdp, h, 2, 3), atol=1e-12, rtol=1e-10)


def test_rloo_is_unbiased_and_dr_grpo_is_a_multiple_of_the_gradient(ledger: dict[str, Any]) -> None:
    assert ledger["rloo"].bias < 1e-12
    assert ledger["dr_grpo"].angle < 1e-9
    assert ledger["dr_grpo"].length == pytest.approx((2 / 3) / 3)  # (K − 1)/K, and 1/T


def test_grpo_dapo_and_gspo_point_elsewhere(ledger: dict[str, Any]) -> None:
    for name in ("grpo", "dapo", "gspo", "1/|o| only"):
        assert ledger[name].angle > 1.0, name


def test_with_two_rewards_the_std_turns_nothing_in_a_group_of_three_and_does_in_a_group_of_four() -> None:
    """A mixed group of three has one right answer or one wrong one, and the same deviation: sqrt(1/3)."""
    mdp, losses = two_prompts(), {"std": group_loss_variants()["1/std only"]}
    h = randn(mdp.n_states, 3)
    (three,), (four,) = (group_bias_ledger(mdp, h, horizon=3, size=k, losses=losses) for k in (3, 4))
    assert three.angle < 1e-9
    assert three.length == pytest.approx(2 / 3 / (math.sqrt(1 / 3) + 1e-4), rel=1e-12)
    assert four.angle > 0.1


def test_the_ledger_has_the_moments_of_all_groups() -> None:
    mdp = gallery.bandit([1.0, 0.0, 0.25])
    h, loss = randn(2, 3), group_loss_variants()["grpo"]
    (row,) = group_bias_ledger(mdp, h, horizon=1, size=3, losses={"grpo": loss})
    pi, gradients, weights = torch.softmax(h[0], -1), [], []
    for arms in itertools.product(range(3), repeat=3):
        advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.25][a] for a in arms], dtype=F64))
        gradients.append(sum(w * (torch.eye(3, dtype=F64)[a] - pi) for w, a in zip(advantages, arms, strict=True)) / 3)
        weights.append(math.prod(float(pi[a]) for a in arms))
    mean = sum(w * g for w, g in zip(weights, gradients, strict=True))
    torch.testing.assert_close(row.mean[0], mean)
    variance = sum(w * float((g - mean).square().sum()) for w, g in zip(weights, gradients, strict=True))
    assert row.variance == pytest.approx(variance)
    truth = exact_policy_gradient(mdp, h, 1.0)[0]
    assert row.bias == pytest.approx(float((mean - truth).norm()))
    assert row.length == pytest.approx(float(mean.norm() / truth.norm()))
    cosine = float(mean @ truth / mean.norm() / truth.norm())
    assert row.angle == pytest.approx(math.degrees(math.acos(cosine)), rel=1e-6)


def test_gspo_and_grpo_have_the_same_gradient_at_ratio_one(ledger: dict[str, Any]) -> None:
    torch.testing.assert_close(ledger["gspo"].mean, ledger["grpo"].mean, atol=1e-14, rtol=1e-12)


@pytest.mark.equation("eq-group-unbiased")
@pytest.mark.parametrize("variant", ["rloo", "dr_grpo"])
def test_on_a_tree_of_three_tokens_and_three_steps_all_groups_of_three_average_to_the_gradient(variant: str) -> None:
    """27 responses, 27^3 = 19,683 groups for each of two prompts, one of them ten times as hard as the other."""
    mdp = gallery.token_tree(
        3, 3, n_prompts=2, reward=lambda x, y: float(y[0] == 1) if x == 0 else float(y in ((2, 2, 1), (0, 1, 2)))
    )
    h = 0.5 * randn(mdp.n_states, 3)
    loss, ordered = group_loss_variants()[variant], variant == "rloo"
    found = expected_group_gradient(loss, mdp, h, horizon=3, size=3, ordered=ordered)
    factor = 1.0 if variant == "rloo" else (2 / 3) / 3
    torch.testing.assert_close(found, -factor * exact_policy_gradient(mdp, h, 1.0), atol=1e-12, rtol=1e-10)


@pytest.mark.equation("eq-difficulty-weight")
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
def test_difficulty_weight_is_the_ratio_of_expected_and_exact_gradient(size: int, scale: Any, baseline: Any) -> None:
    mdp = gallery.bandit([1.0, 0.0])

    def loss(log_probs: Tensor, rewards: Tensor, gamma: float, /, *, mask: Tensor) -> Tensor:
        return -(group_advantages(rewards[:, 0], scale=scale, baseline=baseline) * log_probs[:, 0]).mean()

    for p in (0.1, 0.5, 0.8):
        h = torch.tensor([[math.log(p), math.log(1 - p)], [0.0, 0.0]], dtype=F64)
        found = -expected_gradient(loss, mdp, h, 1.0, horizon=1, batch_size=size)[0, 0]
        ratio = float(found) / (p * (1 - p))
        weight = float(difficulty_weight(torch.tensor(p, dtype=F64), size, scale=scale, baseline=baseline))
        assert weight == pytest.approx(ratio, rel=1e-9)
        if scale == "none":
            assert weight == pytest.approx(1.0 if baseline == "leave_one_out" else (size - 1) / size)


@pytest.mark.equation("cor-small-groups")
def test_of_two_responses_the_weight_is_one_over_the_root_of_two_or_one_with_the_deviation_of_the_population() -> None:
    # Only mixed pairs count, 2p(1 − p) of them, with advantages ±1/√2 or ±1: ½ (1/p + 1/(1 − p)) of that is the weight.
    p = torch.tensor([0.1, 0.5, 0.8], dtype=F64)
    torch.testing.assert_close(difficulty_weight(p, 2, ddof=0, eps=0.0), torch.ones(3, dtype=F64))
    torch.testing.assert_close(difficulty_weight(p, 2, ddof=1, eps=0.0), torch.full((3,), 0.5**0.5, dtype=F64))


def test_the_std_makes_hard_and_easy_prompts_count_more_than_medium_ones() -> None:
    hard, medium, easy = difficulty_weight(torch.tensor([0.1, 0.5, 0.9], dtype=F64), 8).tolist()
    assert hard > medium
    assert hard == pytest.approx(easy)
    many = difficulty_weight(torch.tensor(0.3, dtype=F64), 2000, eps=0.0)
    assert float(many) == pytest.approx(1 / math.sqrt(0.3 * 0.7), rel=2e-3)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_one_over_length_divides_the_push_on_a_long_answer_by_its_length(length: int) -> None:
    """Two right answers of equal probability: the exact gradient treats them alike, 1/|o| does not, Dr. GRPO does."""
    mdp, h = two_answer_lengths(length), torch.zeros(length + 1, 3, dtype=F64)
    truth = exact_policy_gradient(mdp, h, 1.0)[0]
    assert float(truth[0] - truth[1]) == pytest.approx(0.0, abs=1e-15)
    pushes = {}
    for name in ("1/|o| only", "dr_grpo"):
        pushes[name] = -expected_group_gradient(group_loss_variants()[name], mdp, h, horizon=length, size=3)[0]
    assert float(pushes["dr_grpo"][0] - pushes["dr_grpo"][1]) == pytest.approx(0.0, abs=1e-14)
    # The sum over the answers of π(o) A(o)/|o| (e_o − π) with A = (K−1)/K (r − p), by hand: π = 1/3, p = 2/3
    gains = [2 / 3 * (1 - 2 / 3), 2 / 3 * (1 - 2 / 3) / length, 2 / 3 * (0 - 2 / 3)]
    expected = [(g - sum(gains) / 3) / 3 for g in gains]
    assert pushes["1/|o| only"].tolist() == pytest.approx(expected, abs=1e-14)


def test_grpo_value_at_ratio_one_is_zero_for_equal_lengths_whatever_the_rewards() -> None:
    log_probs, mask = randn(4, 8, 5), torch.ones(4, 8, 5, dtype=torch.bool)
    for variant in VARIANTS:
        loss = grpo_loss(log_probs, log_probs, randn(4, 8, seed=1), mask=mask, variant=variant)  # type: ignore[arg-type]
        assert loss.item() == pytest.approx(0.0, abs=1e-14)


# --- derivatives and transforms


def test_first_and_second_derivatives_agree_with_differences() -> None:
    x, old, weights = randn(3, 4)
    mask = torch.tensor([True, True, False, True])
    leaf = x.requires_grad_()
    functions: list[Callable[..., Tensor]] = [
        lambda z: grpo_loss(
            z.view(1, 2, 2), old.view(1, 2, 2), weights[None, :2], mask=mask.view(1, 2, 2), variant="gspo"
        ),
        group_advantages,
    ]
    for function in functions:
        assert torch.autograd.gradcheck(function, (leaf,))
        assert torch.autograd.gradgradcheck(function, (leaf,))


def test_the_losses_run_under_vmap() -> None:
    log_probs, old, weights = randn(3, 5, 2, 3)
    rewards, mask = weights[..., 0], torch.ones(5, 2, 3, dtype=torch.bool)
    groups = torch.func.vmap(lambda x, o, r, m: grpo_loss(x[None], o[None], r[None], mask=m[None]))(
        log_probs, old, rewards, mask
    )
    torch.testing.assert_close(groups[2], grpo_loss(log_probs[2:3], old[2:3], rewards[2:3], mask=mask[2:3]))


def test_the_losses_compile_without_a_graph_break() -> None:
    log_probs, old, weights = randn(3, 2, 3, 4)
    mask = torch.arange(4) < torch.tensor([[4, 1, 2], [3, 4, 1]])[..., None]

    def loss(x: Tensor) -> Tensor:
        return grpo_loss(x, old, weights[..., 0], mask=mask, variant="dapo")

    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(log_probs), loss(log_probs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    x, flags = torch.zeros(2, 3, dtype=dtype), torch.ones(2, 3, dtype=torch.bool)
    assert grpo_loss(x[None], x[None], x[:, 0][None], mask=flags[None]).dtype == dtype
    assert group_advantages(x).dtype == dtype


# --- bad input

G = torch.zeros(1, 2, 3, dtype=F64)
GM = torch.ones(1, 2, 3, dtype=torch.bool)
R = torch.zeros(1, 2, dtype=F64)


def grpo(**changes: Any) -> Tensor:
    arguments = {"log_probs": G, "old_log_probs": G, "rewards": R, "mask": GM} | changes
    return grpo_loss(**arguments)


TOY, ZEROS = gallery.two_state_toy(), torch.zeros(3, 2, dtype=F64)
BAD: list[tuple[str, Callable[[], object], type[Exception], str]] = [
    ("ledger-size", lambda: group_bias_ledger(TOY, ZEROS, horizon=1, size=0), ValueError, "size must be"),
    ("group-scale", lambda: group_advantages(R, scale="batch"), ValueError, "scale is 'batch'"),  # type: ignore[arg-type]
    ("group-baseline", lambda: group_advantages(R, baseline="median"), ValueError, "baseline is 'median'"),  # type: ignore[arg-type]
    ("group-int", lambda: group_advantages(R.long()), TypeError, "rewards must hold floating-point"),
    ("group-empty", lambda: group_advantages(R[:, :0]), ValueError, "needs 1 in a group"),
    ("group-of-one", lambda: group_advantages(R[:, :1], baseline="leave_one_out"), ValueError, "needs 2 in a group"),
    ("group-nan", lambda: group_advantages(R + math.nan), ValueError, r"rewards is nan at \[0, 0\]"),
    ("group-ddof", lambda: group_advantages(R, ddof=-1), ValueError, "ddof must be at least 0, not -1"),
    ("group-eps", lambda: group_advantages(R, eps=-1.0), ValueError, "eps must be finite and at least 0, not -1.0"),
    ("grpo-variant", lambda: grpo(variant="ppo"), ValueError, "variant is 'ppo', expected 'grpo'"),
    ("grpo-rewards-shape", lambda: grpo(rewards=R[0]), ValueError, r"rewards has shape \[2\], expected \[1, 2\]"),
    ("grpo-rewards-dtype", lambda: grpo(rewards=R.float()), TypeError, "rewards is torch.float32"),
    (
        "grpo-log-probs-flat",
        lambda: grpo(log_probs=G[0, 0]),
        ValueError,
        r"log_probs has shape \[3\], expected \[groups",
    ),
    ("grpo-mask-shape", lambda: grpo(mask=GM[0]), ValueError, "mask has shape"),
    ("grpo-beta", lambda: grpo(beta=-1.0), ValueError, "beta must be finite and at least 0, not -1.0"),
    ("grpo-no-ref", lambda: grpo(beta=0.1), ValueError, "beta is 0.1 but ref_log_probs is None"),
    (
        "grpo-rloo-one",
        lambda: grpo(log_probs=G[:, :1], old_log_probs=G[:, :1], rewards=R[:, :1], mask=GM[:, :1], variant="rloo"),
        ValueError,
        "needs 2 in a group",
    ),
    (
        "difficulty-p",
        lambda: difficulty_weight(torch.tensor([0.5, 1.0]), 4),
        ValueError,
        r"success is 1.0 at \[1\], not inside \(0, 1\)",
    ),
    ("difficulty-size", lambda: difficulty_weight(torch.tensor(0.5), 0), ValueError, "size must be at least 1"),
    (
        "groups-too-many",
        lambda: expected_group_gradient(grpo_loss, gallery.token_tree(3, 3), randn(40, 3), horizon=3, size=9),
        ValueError,
        r"there are 70,607,460 groups of 9 responses",
    ),  # type: ignore[arg-type]
    (
        "groups-size",
        lambda: expected_group_gradient(grpo_loss, gallery.token_tree(3, 3), randn(40, 3), horizon=3, size=0),
        ValueError,
        "size must be at least 1",
    ),  # type: ignore[arg-type]
    ("lengths", lambda: two_answer_lengths(0), ValueError, "length must be at least 1, not 0"),
    ("lengths-room", lambda: two_answer_lengths(10**7 + 1), ValueError, "length must be at most 10,000,000"),
    ("lengths-rewards", lambda: two_answer_lengths(3, rewards=(1, 1, 0, 0)), ValueError, "rewards has 4 entries"),
]


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_is_named(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_inputs_are_not_modified() -> None:
    inputs = [randn(2, 3, 4, seed=s) for s in range(3)]
    copies = [x.clone() for x in inputs]
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    grpo_loss(inputs[0], inputs[1], inputs[2][..., 0], mask=mask, variant="gspo", ref_log_probs=inputs[1], beta=0.1)
    for x, copy in zip(inputs, copies, strict=True):
        assert torch.equal(x, copy)


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float16, 300.0), (torch.float32, 1e20), (torch.float32, 1e-5), (F64, 1e200)]
)
def test_large_and_small_rewards_are_scaled_before_they_are_squared(dtype: torch.dtype, size: float) -> None:
    found = group_advantages(torch.tensor([size, -size], dtype=dtype))
    exact = size / (math.sqrt(2.0) * size + 1e-4)  # σ = √2 · size with ddof = 1
    torch.testing.assert_close(found.double(), torch.tensor([exact, -exact], dtype=F64), rtol=1e-3, atol=0.0)


def test_a_token_of_zero_advantage_is_zero_at_any_ratio() -> None:
    log_probs = torch.full((1, 2, 3), 200.0)
    mask = torch.ones(1, 2, 3, dtype=torch.bool)
    for variant in VARIANTS:
        loss = grpo_loss(
            log_probs, torch.zeros_like(log_probs), torch.ones(1, 2), mask=mask, variant=variant, clip=(1.0, math.inf)
        )
        assert loss.item() == 0.0


def test_the_difficulty_weight_of_a_large_group_is_its_limit() -> None:
    # K → ∞: the standard deviation is √(p(1−p)), and all that is left of the group is that factor.
    p = torch.tensor([0.5, 0.1], dtype=F64)
    expected = 1 / ((p * (1 - p)).sqrt() + 1e-4)
    torch.testing.assert_close(difficulty_weight(p, 10**5), expected, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(
        difficulty_weight(p, 10**5, scale="none"), torch.full_like(p, 1 - 1e-5), rtol=1e-9, atol=0.0
    )
    torch.testing.assert_close(difficulty_weight(p.float(), 10**5).double(), expected, rtol=1e-4, atol=0.0)
    with pytest.raises(ValueError, match="size must be at most"):
        difficulty_weight(p, 10**12)


@pytest.mark.parametrize("gap", [37.0, 80.0, 400.0])
def test_the_ledger_has_its_angles_beside_a_nearly_certain_policy(gap: float) -> None:
    # One decision between rewards 1 and 0: every loss moves along (1, -1), RLOO by π(1 − π) = e^{-gap}.
    h = torch.tensor([[gap, 0.0], [0.0, 0.0]], dtype=F64)
    rows = {row.name: row for row in group_bias_ledger(gallery.bandit([1.0, 0.0]), h, horizon=1)}
    assert all(row.angle < 1e-10 for row in rows.values())
    assert abs(rows["rloo"].length - 1) < 1e-12
    assert abs(rows["dr_grpo"].length - 2 / 3) < 1e-12
    assert abs(rows["rloo"].mean[0, 0].item() / math.exp(-gap) - 1) < 1e-12


@pytest.mark.parametrize("rewards", [[1.0, 0.0], [0.3, 0.3]])
def test_there_is_no_angle_to_a_gradient_that_is_zero_or_rounding(rewards: list[float]) -> None:
    h = torch.tensor([[800.0 if rewards[0] == 1.0 else 0.5, 0.0], [0.0, 0.0]], dtype=F64)
    for row in group_bias_ledger(gallery.bandit(rewards), h, horizon=1):
        assert math.isnan(row.angle)
        assert math.isnan(row.length)
        assert row.bias < 1e-15
        assert row.variance < 1e-15


@pytest.mark.parametrize(("units", "known"), [(256, False), (1024, True)])
def test_a_gradient_longer_than_its_rounding_error_has_a_direction(units: int, known: bool) -> None:
    mdp, h = hardly_better(units), torch.zeros(5, 2, dtype=F64)
    (row,) = group_bias_ledger(mdp, h, horizon=4, size=2, losses={"rloo": group_loss_variants()["rloo"]})
    assert math.isnan(row.angle) != known
    assert math.isnan(row.length) != known


def test_chunks_do_not_change_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    mdp = gallery.token_tree(2, 2, seed=1)
    h, loss, chunks = randn(mdp.n_states, 2), group_loss_variants()["grpo"], list[int]()

    def slopes(loss: Any, log_probs: Tensor, *others: Any) -> Tensor:
        chunks.append(log_probs.numel())
        return loss_slopes(loss, log_probs, *others)

    whole = expected_group_gradient(loss, mdp, h, horizon=2, size=3)
    monkeypatch.setattr("pgtheory._each_group.CHUNK", 50)
    monkeypatch.setattr("pgtheory.groups.loss_slopes", slopes)
    found = expected_group_gradient(loss, mdp, h, horizon=2, size=3)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-14)
    assert chunks == [48, 48, 24]  # of C(4 + 2, 3) = 20 groups of 6 steps, 8 at a time


def test_large_groups_of_few_responses_are_weighed_right() -> None:
    # RLOO is unbiased for every size; 301 groups of 300, whose numbers of orders reach 10^89.
    bandit, h = gallery.bandit([1.0, 0.0]), torch.zeros(2, 2, dtype=F64)
    found = expected_group_gradient(group_loss_variants()["rloo"], bandit, h, horizon=1, size=300)
    torch.testing.assert_close(found, -exact_policy_gradient(bandit, h, 1.0), rtol=1e-12, atol=1e-15)


def test_the_steps_of_all_groups_are_at_most_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    bandit, h, loss = gallery.bandit([1.0, 0.0, 0.5]), torch.zeros(2, 3, dtype=F64), group_loss_variants()["rloo"]
    monkeypatch.setattr("pgtheory._each_group.BATCH_LIMIT", 15 * 4)  # C(3 + 3, 4) groups of 4 responses of one step
    expected_group_gradient(loss, bandit, h, horizon=1, size=4)
    monkeypatch.setattr("pgtheory._each_group.BATCH_LIMIT", 15 * 4 - 1)
    with pytest.raises(ValueError, match="there are 15 groups of 4 responses"):
        expected_group_gradient(loss, bandit, h, horizon=1, size=4)


def test_groups_too_many_to_count_are_refused_at_once() -> None:
    bandit, h = gallery.bandit([1.0, 0.0, 0.5]), torch.zeros(2, 3, dtype=F64)
    with pytest.raises(ValueError, match="size must be at most 50,000,000"):
        group_bias_ledger(bandit, h, horizon=1, size=2**31)
    thirteen, h13 = gallery.bandit([0.0] * 13), torch.zeros(2, 13, dtype=F64)
    for k, count in ((333, f"{math.comb(345, 12):,}"), (337, "more than 10^20")):  # ln C(k + 12, k): 49.9 and 50.1
        with pytest.raises(ValueError, match=rf"there are {re.escape(count)} groups of {k} responses"):
            expected_group_gradient(group_loss_variants()["rloo"], thirteen, h13, horizon=1, size=k)
    with pytest.raises(ValueError, match=r"groups of 100000 responses: make size or horizon smaller"):
        group_bias_ledger(bandit, h, horizon=1, size=10**5)
