"""Losses on samples of another policy: against sums over ordered groups by autograd, closed forms, and samples."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import chance
import numpy as np
import pytest
import torch
from helpers import F64, hardly_better, randn, seeded
from torch import Tensor

from pgtheory import gallery
from pgtheory.decoding import top_p
from pgtheory.groups import group_bias_ledger, grpo_loss
from pgtheory.mdp import FiniteMDP
from pgtheory.off_policy import (
    OffPolicyGroup,
    OffPolicyRow,
    bounded_importance_weights,
    off_policy_ledger,
    off_policy_losses,
)
from pgtheory.policy_gradient import exact_policy_gradient
from pgtheory.softmax_policy import log_softmax_policy, softmax_policy
from pgtheory.surrogates import ppo_clip_loss
from pgtheory.trajectories import sample_trajectories
from pgtheory.value_functions import advantages

TREE = gallery.token_tree(2, 2, reward=lambda prompt, tokens: float(tokens in ((1,), (0, 1))) + 0.5 * prompt, eos=1)
PROMPTS = gallery.token_tree(3, 2, reward=lambda x, y: float(y[-1] == x), eos=0, n_prompts=2, initial=[0.3, 0.7])
SMALL = gallery.two_state_toy()


def two_policies(mdp: FiniteMDP, step: float) -> tuple[Tensor, Tensor]:
    """Preferences of an old policy and of one that is a step away."""
    old = 0.4 * randn(mdp.n_states, mdp.n_actions)
    return old, old + step * randn(mdp.n_states, mdp.n_actions, seed=1)


def policy_of(mdp: FiniteMDP, h: Tensor) -> Tensor:
    return softmax_policy(h, available=mdp.available)


def by_name(rows: list[OffPolicyRow]) -> dict[str, OffPolicyRow]:
    return {row.name: row for row in rows}


def responses_of(mdp: FiniteMDP, horizon: int) -> list[list[tuple[int, int, float]]]:
    """All responses of a deterministic tree from each prompt, as lists of (state, action, reward), one by one."""
    p, rewards, terminal = mdp.dynamics().numpy(), mdp.rewards.tolist(), mdp.terminal.tolist()
    found = []

    def walk(path: list[tuple[int, int, float]], s: int) -> None:
        if terminal[s] or len(path) == horizon:
            found.append(path)
            return
        for a in range(mdp.n_actions):
            for s_next, r in zip(*np.nonzero(p[s, a]), strict=True):
                assert p[s, a, s_next, r] == 1.0
                walk([*path, (s, a, rewards[r])], int(s_next))

    for s in mdp.initial.nonzero().flatten().tolist():
        walk([], s)
    return found


def formula(name: str, ratios: list[Tensor], logs: list[Tensor], totals: Tensor, steps: int) -> Tensor:
    """The losses again, response by response, as their papers have them."""
    size = len(ratios)
    others = (totals.sum() - totals) / (size - 1)
    plain, scaled = totals - totals.mean(), (totals - totals.mean()) / (totals.std(correction=1) + 1e-4)
    n_tokens = sum(len(r) for r in ratios)
    loss = torch.zeros((), dtype=F64)
    for i, (ratio, log) in enumerate(zip(ratios, logs, strict=True)):
        r, whole, a = ratio.detach(), ratio.detach().prod(), totals[i] - others[i]
        weight = {
            "sequence ratio": whole.expand_as(r),
            "no ratio": torch.ones_like(r),
            "token ratio": r,
            "token ratio, truncated": r.clamp(max=2),
            "token ratio, masked": r * (r <= 2),
            "sequence ratio, truncated": whole.clamp(max=2).expand_as(r),
            "sequence ratio, masked": (whole * (whole <= 2)).expand_as(r),
        }.get(name)
        if weight is not None:
            loss = loss - (weight * a * log).sum() / size
        elif name == "CISPO":
            loss = loss - (r.clamp(max=1.28) * scaled[i] * log).sum() / n_tokens
        else:
            low, high = {"DAPO": (0.2, 0.28), "GSPO": (3e-4, 4e-4)}.get(name, (0.2, 0.2))
            a = {"RLOO, clipped": a, "Dr. GRPO": plain[i]}.get(name, scaled[i])
            used = ratio.log().mean().exp().expand_as(ratio) if name == "GSPO" else ratio
            terms = torch.minimum(used * a, used.clamp(1 - low, 1 + high) * a)
            scale = {"RLOO, clipped": 1.0, "Dr. GRPO": steps, "DAPO": n_tokens / size}.get(name, len(ratio))
            loss = loss - terms.sum() / scale / size
    return loss


@pytest.mark.equation("eq-off-policy-ledger", "eq-expected-group-gradient", "eq-cispo")
@pytest.mark.parametrize("name", list(off_policy_losses()))
@pytest.mark.parametrize("step", [0.0, 0.6])
def test_each_row_is_the_sum_over_all_ordered_groups_by_autograd(name: str, step: float) -> None:
    h_old, h = two_policies(TREE, step)
    old, leaf, size = policy_of(TREE, h_old), h.clone().requires_grad_(), 2
    responses = responses_of(TREE, 2)
    gradients, squares, pulls, idle = torch.zeros_like(h), 0.0, 0.0, 0.0
    for group in itertools.product(responses, repeat=size):
        now = policy_of(TREE, leaf)
        at = [(torch.tensor([s for s, _, _ in r]), torch.tensor([a for _, a, _ in r])) for r in group]
        probability = math.prod(float(old[s, a].prod()) for s, a in at)
        totals = torch.tensor([sum(x for _, _, x in r) for r in group], dtype=F64)
        loss = formula(name, [now[i] / old[i] for i in at], [now[i].log() for i in at], totals, 2)
        (slope,) = torch.autograd.grad(loss, leaf)
        gradients -= probability * slope
        squares += probability * float(slope.square().sum())
        if len(totals.unique()) > 1:
            logs = [now[i].detach().log().requires_grad_() for i in at]
            ratios = [log.exp() / old[i] for log, i in zip(logs, at, strict=True)]
            for per_token in torch.autograd.grad(formula(name, ratios, logs, totals, 2), logs):
                pulls += probability * len(per_token)
                idle += probability * int((per_token == 0).sum())
    row = by_name(off_policy_ledger(TREE, h, old, horizon=2, size=size))[name]
    torch.testing.assert_close(row.mean, gradients, atol=1e-12, rtol=1e-10)
    assert row.variance == pytest.approx(squares - float(gradients.square().sum()), abs=1e-12)
    assert row.idle == pytest.approx(idle / pulls, abs=1e-12)
    exact = exact_policy_gradient(TREE, h, 1.0)
    assert row.bias == pytest.approx(float((gradients - exact).norm()), abs=1e-12)
    assert row.length == pytest.approx(float(gradients.norm() / exact.norm()), abs=1e-9)
    cosine = float((gradients * exact).sum() / gradients.norm() / exact.norm())
    assert math.cos(math.radians(row.angle)) == pytest.approx(cosine, abs=1e-9)


@pytest.mark.parametrize("mdp", [TREE, PROMPTS], ids=["one prompt", "two prompts"])
@pytest.mark.parametrize("step", [0.3, 2.0])
def test_the_ratio_of_the_sequence_gives_the_gradient_whoever_drew_the_responses(mdp: FiniteMDP, step: float) -> None:
    h_old, h = two_policies(mdp, step)
    row = by_name(off_policy_ledger(mdp, h, policy_of(mdp, h_old), horizon=2))["sequence ratio"]
    torch.testing.assert_close(row.mean, exact_policy_gradient(mdp, h, 1.0), atol=1e-12, rtol=1e-10)


def test_at_ratio_1_the_rows_are_those_of_the_ledger_of_groups() -> None:
    _, h = two_policies(PROMPTS, 0.5)
    mine = by_name(off_policy_ledger(PROMPTS, h, horizon=2))
    for row in group_bias_ledger(PROMPTS, h, horizon=2):
        name = {"rloo": "RLOO, clipped", "dr_grpo": "Dr. GRPO", "grpo": "GRPO", "dapo": "DAPO"}.get(row.name)
        if name:
            torch.testing.assert_close(mine[name].mean, row.mean, atol=1e-13, rtol=1e-10)
            assert mine[name].variance == pytest.approx(row.variance, rel=1e-9)
            assert mine[name].idle == 0.0


def test_a_sampler_that_drops_an_action_leaves_the_sum_over_what_it_keeps() -> None:
    bandit = gallery.bandit([1.0, 0.25, 3.0])
    h = torch.tensor([[0.5, 0.2, -0.4], [0.0, 0.0, 0.0]], dtype=F64)
    pi = softmax_policy(h[0])
    kept = softmax_policy(top_p(h[0], 0.7))
    assert (kept > 0).tolist() == [True, True, False]
    sampler = torch.stack([kept, torch.zeros(3, dtype=F64)])
    r = torch.tensor([1.0, 0.25, 3.0], dtype=F64)
    # Σ over the kept actions of π (r − E_sampler[r]) ∇ln π: the baseline of the others is independent of the own action
    expected = sum(pi[a] * (r[a] - kept @ r) * (torch.eye(3, dtype=F64)[a] - pi) for a in (0, 1))
    row = by_name(off_policy_ledger(bandit, h, sampler, horizon=1))["sequence ratio"]
    torch.testing.assert_close(row.mean[0], expected, atol=1e-13, rtol=1e-12)
    # A program that recomputes the old policy without the truncation takes the ratio for 1.
    assert isinstance(expected, Tensor)
    mass = pi[kept > 0].sum()
    row = by_name(off_policy_ledger(bandit, h, sampler, old_policy=policy_of(bandit, h), horizon=1))["sequence ratio"]
    torch.testing.assert_close(row.mean[0], expected / mass, atol=1e-13, rtol=1e-12)


@pytest.mark.equation("prop-truncated-weights")
def test_truncated_weights_of_the_sampler_correct_what_they_can() -> None:
    h_old, h = two_policies(TREE, 0.4)
    old = policy_of(TREE, h_old)
    sampler = softmax_policy(h_old / 0.7, available=TREE.available)

    def corrected(group: OffPolicyGroup, cap: float) -> Tensor:
        weights = bounded_importance_weights(
            group.old_log_probs, group.sampler_log_probs, mask=group.mask, cap=cap, level="trajectory"
        )
        ratio = (group.log_probs - group.old_log_probs).where(group.mask, 0.0).sum(-1, keepdim=True).exp()
        total = group.rewards.sum(-1)
        baseline = (total.sum() - total) / (len(total) - 1)
        return -((total - baseline)[:, None] * weights * ratio).where(group.mask, 0.0)[:, 0].mean()

    losses = {str(cap): lambda group, cap=cap: corrected(group, cap) for cap in (1.0, 1.05, math.inf)}
    rows = off_policy_ledger(TREE, h, sampler, old_policy=old, horizon=2, losses=losses)
    assert rows[2].bias < 1e-12 < 1e-3 < rows[1].bias < rows[0].bias


def test_a_token_is_idle_where_the_ratio_is_beyond_the_clip_on_the_side_it_pulls_to() -> None:
    bandit, old = gallery.bandit([1.0, 0.0]), torch.tensor([[0.5, 0.5], [0.0, 0.0]], dtype=F64)
    for up, idle in ((0.55, 0.0), (0.599, 0.0), (0.601, 1.0), (0.3, 0.0)):
        # up: ratios up / .5 of the winner and (1 − up) / .5 of the loser; both move, and both are clipped, together
        h = torch.tensor([[up, 1 - up], [0.5, 0.5]], dtype=F64).log()
        row = by_name(off_policy_ledger(bandit, h, old, horizon=1, size=2))["RLOO, clipped"]
        assert row.idle == idle
        assert math.isnan(row.angle) == bool(idle)
    equal = gallery.bandit([1.0, 1.0])
    assert math.isnan(off_policy_ledger(equal, 0 * old, old, horizon=1)[0].idle)


@pytest.mark.parametrize(("units", "known"), [(256, False), (1024, True)])
def test_a_gradient_longer_than_its_rounding_error_has_a_direction(units: int, known: bool) -> None:
    mdp, h = hardly_better(units), torch.zeros(5, 2, dtype=F64)
    losses = {"RLOO": off_policy_losses()["no ratio"]}
    (row,) = off_policy_ledger(mdp, h, horizon=4, size=2, losses=losses)
    assert math.isnan(row.angle) != known
    assert math.isnan(row.length) != known


def test_the_row_of_a_readers_loss_with_advantages_of_its_own() -> None:
    h_old, h = two_policies(SMALL, 0.3)
    old, gamma = policy_of(SMALL, h_old), 0.9
    table = advantages(SMALL, old, gamma)

    def ppo(group: OffPolicyGroup) -> Tensor:
        clipped = group.mask.sum() * ppo_clip_loss(
            group.log_probs, group.old_log_probs, table[group.states, group.actions], mask=group.mask, clip=0.2
        )
        return clipped / len(group.mask)

    (row,) = off_policy_ledger(SMALL, h, old, gamma=gamma, horizon=4, size=1, losses={"ppo": ppo})
    # The same by states: the expected number of visits under the old policy, the probabilities, and the clip.
    states, expected = SMALL.initial.clone(), torch.zeros(SMALL.n_states, dtype=F64)
    for _ in range(4):
        expected += states.where(~SMALL.terminal, 0.0)
        states = torch.einsum("s,sa,sat->t", states.where(~SMALL.terminal, 0.0), old, SMALL.transitions())
    leaf = h.clone().requires_grad_()
    ratio = policy_of(SMALL, leaf) / old.where(SMALL.available, 1.0)
    objective = torch.minimum(ratio * table, ratio.clamp(0.8, 1.2) * table).where(SMALL.available, 0.0)
    (gradient,) = torch.autograd.grad((expected[:, None] * old * objective).sum(), leaf)
    torch.testing.assert_close(row.mean, gradient, atol=1e-12, rtol=1e-10)


def test_the_mean_of_sampled_groups_comes_to_the_row() -> None:
    h_old, h = two_policies(TREE, 0.6)
    old, n, size = policy_of(TREE, h_old), 4000, 3
    drawn = sample_trajectories(TREE, old, n * size, horizon=2, generator=seeded(3))

    def loss(h: Tensor, states: Tensor, actions: Tensor, mask: Tensor, total: Tensor) -> Tensor:
        before, new = old[states, actions].log(), log_softmax_policy(h, available=TREE.available)[states, actions]
        return -grpo_loss(new, before, total, mask=mask)

    steps = [x.view(n, size, 2) for x in (drawn.states[:, :2], drawn.actions, drawn.mask)]
    gradient = torch.func.vmap(torch.func.grad(loss), (None, 0, 0, 0, 0))
    each = gradient(h, *steps, drawn.rewards.sum(-1).view(n, size))
    row = by_name(off_policy_ledger(TREE, h, old, horizon=2))["GRPO"]
    error = each.std(0) / math.sqrt(n)
    assert bool(((each.mean(0) - row.mean).abs() <= chance.most_errors(7) * error + 1e-12).all())
    spread = (each - each.mean(0)).flatten(1).square().sum(1)  # its mean is the variance of the row
    assert abs(float(spread.mean()) - row.variance) <= chance.most_errors(7) * float(spread.std()) / math.sqrt(n)


@pytest.mark.equation("eq-bounded-weights", "eq-importance-ratio")
@pytest.mark.parametrize("level", ["step", "trajectory", "geometric_mean"])
@pytest.mark.parametrize("beyond", ["truncate", "drop"])
def test_bounded_weights_are_the_ratios_up_to_the_cap(level: Any, beyond: Any) -> None:
    log_probs, sampler = randn(5, 4).requires_grad_(), randn(5, 4, seed=1)
    mask = torch.arange(4) != torch.tensor([0, 1, 2, 3, 9])[:, None]  # with holes
    found = bounded_importance_weights(
        log_probs.where(mask, math.nan), sampler, mask=mask, cap=1.5, level=level, beyond=beyond
    )
    assert not found.requires_grad
    for n, t in itertools.product(range(5), range(4)):
        every = np.exp((log_probs.detach() - sampler).numpy())
        x = every[n, mask[n].numpy()]
        ratio = {"step": every[n, t], "trajectory": x.prod(), "geometric_mean": x.prod() ** (1 / len(x))}
        expected = float(ratio[level]) * bool(mask[n, t])
        if expected > 1.5:
            expected = 1.5 if beyond == "truncate" else 0.0
        assert float(found[n, t]) == pytest.approx(expected, rel=1e-12)


def test_without_a_cap_the_weights_are_the_ratios() -> None:
    log_probs, sampler, mask = 30 * randn(3, 2), randn(3, 2, seed=1), torch.ones(3, 2, dtype=torch.bool)
    found = bounded_importance_weights(log_probs, sampler, mask=mask, cap=math.inf)
    torch.testing.assert_close(found, (log_probs - sampler).exp())


ONE = torch.zeros(1, 2, dtype=F64)
ALL = torch.ones(1, 2, dtype=torch.bool)
H = torch.zeros(TREE.n_states, 2, dtype=F64)
NEVER = policy_of(TREE, H).clone()
NEVER[0] = torch.tensor([1.0, 0.0], dtype=F64)
BAD: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "a cap below 1": (
        lambda: bounded_importance_weights(ONE, ONE, mask=ALL, cap=0.5),
        ValueError,
        "cap must be at least 1, not 0.5",
    ),
    "an unknown level": (
        lambda: bounded_importance_weights(ONE, ONE, mask=ALL, level="prefix"),  # type: ignore[arg-type]
        ValueError,
        "level is 'prefix', expected 'step', 'trajectory' or 'geometric_mean'",
    ),
    "an unknown way beyond the cap": (
        lambda: bounded_importance_weights(ONE, ONE, mask=ALL, beyond="clip"),  # type: ignore[arg-type]
        ValueError,
        "beyond is 'clip', expected 'truncate' or 'drop'",
    ),
    "a sampler's log-probability that is infinite": (
        lambda: bounded_importance_weights(ONE, ONE - math.inf, mask=ALL),
        ValueError,
        r"sampler_log_probs is -inf at \[0, 0\], not a finite number",
    ),
    "losses with a cap below 1": (lambda: off_policy_losses(cap=0.9), ValueError, "cap must be at least 1, not 0.9"),
    "a sampler that is no policy": (
        lambda: off_policy_ledger(TREE, H, H, horizon=2),
        ValueError,
        "sampler is no policy of mdp",
    ),
    "an old policy that gives 0 to what is drawn": (
        lambda: off_policy_ledger(TREE, H, policy_of(TREE, H), old_policy=NEVER, horizon=2),
        ValueError,
        "old_policy gives the probability 0 to action 1 in state 0, which the sampler draws",
    ),
    "no response in a group": (
        lambda: off_policy_ledger(TREE, H, horizon=2, size=0),
        ValueError,
        "size must be at least 1, not 0",
    ),
    "a loss that is none": (
        lambda: off_policy_ledger(TREE, H, horizon=2, losses={"mine": 3}),  # type: ignore[dict-item]
        TypeError,
        r"losses\['mine'\] must be a function, not int",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument_is_named(case: str) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()
