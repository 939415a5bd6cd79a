r"""Chapter 8: generalized advantage estimation, and its exact moments.

The name `pgtheory.advantages` is the exact advantages, a function of `pgtheory.value_functions`; this module is reached
by `from pgtheory.advantages import ...`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from pgtheory import _checks, _compiled
from pgtheory._precision import wide
from pgtheory._tables import check_table, widened
from pgtheory.mdp import FiniteMDP, check_policy
from pgtheory.returns import BLOCK, discount_weights
from pgtheory.value_functions import solve_unchecked

__all__ = [
    "AdvantageMoments",
    "generalized_advantage_moments",
    "generalized_advantages",
]

# Rows that are no longer than this are summed at once where something is cut, all others by blocks.
SHORT = BLOCK**2 // 2


class AdvantageMoments(NamedTuple):
    r"""The mean and the variance of :math:`\hat A_t` given :math:`S_t = s` and :math:`A_t = a`.

    Attributes:
        mean: :math:`\mathbb{E}[\hat A_t \mid s, a]`, 0 outside :math:`\mathcal{A}(s)`.
        variance: :math:`\mathrm{Var}[\hat A_t \mid s, a]`, likewise.

    Example:
        >>> AdvantageMoments(torch.zeros(2, 1), torch.ones(2, 1)).variance.sum()
        tensor(2.)
    """

    mean: Float[Tensor, "S A"]
    variance: Float[Tensor, "S A"]


def generalized_advantages(
    rewards: Float[Tensor, "*batch T"],
    values: Float[Tensor, "*batch T"],
    next_values: Float[Tensor, "*batch T"],
    gamma: float,
    lam: float,
    *,
    terminated: Bool[Tensor, "*batch T"],
    truncated: Bool[Tensor, "*batch T"] | None = None,
    mask: Bool[Tensor, "*batch T"] | None = None,
) -> Float[Tensor, "*batch T"]:
    r"""Generalized advantages :math:`\hat A_t = \sum_{l \ge 0} (\gamma\lambda)^l \delta_{t+l}`, within each episode.

    Equation :eq:`eq-gae`, with :math:`\delta_t = R_{t+1} + \gamma V(S_{t+1}) - V(S_t)`, where :math:`V(S_{t+1})` is 0
    if the step terminated the episode. The sum stops after a step that terminated or truncated its episode, before a
    step that was not taken, and at the end of the last axis: one row may hold several episodes. Blocks of steps are
    summed by one matrix product, those with a cut by doubling; large tensors on a CPU by a compiled loop, in float64,
    where the extra `fast` is installed.

    The errors :math:`\delta_t` are :eq:`eq-td-error`.

    Args:
        rewards: :math:`R_{t+1}` at index t.
        values: :math:`V(S_t)`.
        next_values: :math:`V(S_{t+1})` of the state that was truly reached, never of the state after a reset. Not read
            where `terminated` is True.
        gamma: the discount :math:`\gamma \in [0, 1]`.
        lam: :math:`\lambda \in [0, 1]`.
        terminated: True where :math:`S_{t+1}` is terminal: nothing is bootstrapped, and the sum is cut.
        truncated: True where the episode was cut off after the step: :math:`V(S_{t+1})` counts, and the sum is cut.
            None: nowhere.
        mask: True where :math:`A_t` was taken; None: everywhere. Elsewhere anything may stand.

    Returns:
        :math:`\hat A_t` at index t, 0 where the mask is False; differentiable in rewards and values.

    Raises:
        ValueError: shapes or devices differ; a number that is read is not finite; a step is both terminated and
            truncated; `gamma` or `lam` is outside [0, 1].
        TypeError: a tensor has the wrong dtype.

    Estimand:
        With :math:`\lambda = 1` in whole episodes: :math:`q_\pi(s, a) - V(s)`, whatever V. With :math:`V = v_\pi`: the
        advantage :math:`q_\pi - v_\pi` for every :math:`\lambda`. Otherwise it is biased, by as much as
        `generalized_advantage_moments` says.

    Source:
        Schulman, Moritz, Levine, Jordan and Abbeel, "High-Dimensional Continuous Control Using Generalized Advantage
        Estimation", 2016, eq. (16); truncation: Pardo et al., "Time Limits in Reinforcement Learning", 2018.

    Example:
        >>> ends = torch.tensor([False, False, True])
        >>> rewards, values, next_values = torch.tensor([[1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [0.5, 0.5, 9.0]])
        >>> generalized_advantages(rewards, values, next_values, 1.0, 0.5, terminated=ends)
        tensor([1.6250, 1.2500, 0.5000])
    """
    gamma, lam = _checks.check_gamma(gamma), _checks.check_unit_interval("lam", lam)
    steps = _Steps(rewards, values, next_values, terminated, truncated, mask)
    _check_steps(steps)
    if _compiled.takes_over(*steps):
        return _compiled_advantages(steps, gamma, lam)[0]
    found = _plain_advantages(steps, gamma, lam)
    # A number that is not finite makes its own advantage so, and that the sum: one cheap pass clears the usual case.
    if _checks.is_traced(found) or found.detach().sum(dtype=wide(found).dtype).isfinite():
        return found
    _check_finite(steps)
    # Every number is finite, but not every sum: the one way that multiplies no infinity by 0.
    return _plain_advantages(steps, gamma, lam, _sums_by_doubling)


def generalized_advantage_moments(
    mdp: FiniteMDP, policy: Float[Tensor, "S A"], values: Float[Tensor, "S"], gamma: float, lam: float
) -> AdvantageMoments:
    r"""The exact mean and variance of :math:`\hat A_t` given :math:`S_t = s, A_t = a`, with any value function.

    Equations :eq:`eq-gae-mean` and :eq:`eq-gae-variance`: two linear solves, for the mean of :math:`\hat A` in each
    state, with discount :math:`\gamma\lambda`, and for its variance, with discount :math:`(\gamma\lambda)^2`. Squares
    are taken of deviations from the mean: a mean square minus the square of a mean would lose the digits of the
    variance where V is far off.

    Args:
        mdp: the MDP.
        policy: :math:`\pi(a \mid s)`.
        values: V, right or wrong; its entries in terminal states are not read.
        gamma: the discount :math:`\gamma`.
        lam: :math:`\lambda`.

    Returns:
        Mean and variance, 0 in terminal states and outside :math:`\mathcal{A}(s)`. The bias is the mean minus the
        advantage, :math:`q_\pi - v_\pi`; where :math:`V(s) \ne v_\pi(s)`, a part of it, :math:`v_\pi(s) - V(s)`, is the
        same for all actions and so does not bias the policy gradient.

    Raises:
        ValueError: if `gamma` or `lam` is outside [0, 1], if `policy` is no policy of `mdp`, if `values` does not fit,
            or if :math:`\gamma\lambda = 1` and the policy does not surely terminate.
        TypeError: if a dtype is not that of `mdp`.

    Source:
        The mean: Schulman et al., 2016, section 3. The variance: Sobel, "The Variance of Discounted Markov Decision
        Processes", 1982, applied to TD errors.

    Example:
        >>> from pgtheory import gallery
        >>> bandit, half = gallery.bandit([1.0, 0.0], spread=0.5), torch.tensor([[0.5, 0.5], [0.0, 0.0]]).double()
        >>> generalized_advantage_moments(bandit, half, torch.zeros(2).double(), 1.0, 0.95).variance[0]
        tensor([0.2500, 0.2500], dtype=torch.float64)
    """
    gamma, lam = _checks.check_gamma(gamma), _checks.check_unit_interval("lam", lam)
    check_policy(mdp, policy)
    check_table(mdp, "policy", policy, 2)
    check_table(mdp, "values", values, 1)
    dtype, mdp, policy = mdp.dtype, widened(mdp), wide(policy)
    o, rate = mdp.outcomes, gamma * lam
    values = torch.where(mdp.terminal, 0.0, wide(values))
    _checks.check_finite("values", values)
    errors = mdp.rewards[o.reward_index] + gamma * values[o.next_state] - values[o.state]

    def by_pair(terms: Tensor) -> Tensor:
        """Σ_{s′,r} p(s′,r|s,a) x(s,a,s′,r)."""
        flat = terms.new_zeros(policy.numel())
        return flat.index_add(0, o.state * mdp.n_actions + o.action, o.probability * terms).view_as(policy)

    def by_state(table: Tensor) -> Tensor:
        return torch.where(mdp.terminal, 0.0, (policy * table).sum(-1))

    # m(s) = E[Â|s] = E[δ|s] + γλ E[m(S′)|s]
    mean = solve_unchecked(mdp, policy, rate, by_state(by_pair(errors)), transpose=False)
    expected = errors + rate * mean[o.next_state]
    # Var[Â|s] = E[(δ + γλ m(S′) − m(s))²|s] + (γλ)² E[Var[Â′|S′]|s]
    spread = solve_unchecked(
        mdp, policy, rate**2, by_state(by_pair((expected - mean[o.state]).square())), transpose=False
    )
    first = by_pair(expected)
    variance = by_pair((expected - first[o.state, o.action]).square() + rate**2 * spread[o.next_state])
    return AdvantageMoments(first.to(dtype), variance.to(dtype))


class _Steps(NamedTuple):
    """The tensors that `generalized_advantages` takes, in its order."""

    rewards: Tensor
    values: Tensor
    next_values: Tensor
    terminated: Tensor
    truncated: Tensor | None
    mask: Tensor | None


def _check_steps(steps: _Steps) -> None:
    """Raise unless the tensors fit together, and no step is both terminated and truncated."""
    rewards, values, next_values, terminated, truncated, mask = steps
    _checks.check_floating("rewards", rewards)
    _checks.check_at_least_1d("rewards", rewards, "time")
    for name, flag in {"terminated": terminated, "truncated": truncated, "mask": mask}.items():
        if flag is not None or name == "terminated":
            _checks.check_bool(name, flag)
            assert flag is not None
            _checks.check_same_device(name, flag, "rewards", rewards)
            _checks.check_same_shape(name, flag, "rewards", rewards)
    _checks.check_has_values("rewards", rewards)
    for name, tensor in {"values": values, "next_values": next_values}.items():
        _checks.check_floating(name, tensor)
        _checks.check_same_kind(name, tensor, "rewards", rewards)
        _checks.check_same_shape(name, tensor, "rewards", rewards)
    if truncated is None or _checks.is_traced(terminated, truncated, mask):
        return
    both = terminated & truncated if mask is None else terminated & truncated & mask
    if both.any():
        raise ValueError(
            f"terminated and truncated are both True at {_checks.first_place(both)}: a step is one or neither"
        )


def _check_finite(steps: _Steps) -> None:
    """Raise if a number that is read is not finite."""
    mask, goes_on = steps.mask, ~steps.terminated
    _checks.check_finite("rewards", steps.rewards, mask)
    _checks.check_finite("values", steps.values, mask)
    _checks.check_finite("next_values", steps.next_values, goes_on if mask is None else goes_on & mask)


def _plain_advantages(
    steps: _Steps, gamma: float, lam: float, add_up: Callable[[Tensor, float, Tensor], Tensor] | None = None
) -> Tensor:
    """The advantages of the steps that were taken; the sums by `_sums_until_cut` or in another way."""
    add_up = _sums_until_cut if add_up is None else add_up
    rewards, values, next_values, terminated, truncated, mask = steps
    # δ_t = R_{t+1} + γ V(S_{t+1}) − V(S_t)
    reached = wide(torch.where(terminated, 0.0, next_values))
    if _checks.is_traced(*steps):  # vmap adds nothing in place to what it does not map over
        errors = wide(rewards) + gamma * reached - wide(values)
    else:
        errors = reached.mul_(gamma).add_(wide(rewards)).sub_(wide(values))
    cut = terminated if truncated is None else terminated | truncated
    if mask is not None:
        errors = torch.where(mask, errors, 0.0)
        # Between steps that were not taken there is nothing to cut: most blocks of padding stay whole.
        cut = mask & (cut | pad(~mask[..., 1:], (0, 1)))
    sums = add_up(errors, gamma * lam, cut).to(rewards.dtype)
    return sums if mask is None else torch.where(mask, sums, 0.0)


def _sums_until_cut(terms: Tensor, rate: float, cut: Tensor) -> Tensor:
    """Σ_l rate^l x_{t+l}, up to the first step that is cut off from the next: blocks without a cut by one product."""
    if terms.numel() == 0 or _checks.is_traced(terms, cut):
        return _sums_by_doubling(terms, rate, cut)
    *batch, horizon = terms.shape
    if horizon <= BLOCK or (horizon <= SHORT and cut.any()):
        sums, _ = _sums_in_blocks(terms.reshape(-1, horizon), rate, cut.reshape(-1, horizon))
        return sums.reshape(terms.shape).contiguous()
    if padding := -horizon % BLOCK:
        terms, cut = pad(terms, (0, padding)), pad(cut, (0, padding))
    terms, cut = terms.reshape(-1, BLOCK), cut.reshape(-1, BLOCK).contiguous()
    eight_by_eight = cut.view(torch.int64)  # which torch tests faster than bytes
    has_cut = (eight_by_eight[:, 0] | eight_by_eight[:, 1]) != 0
    blocks = has_cut.nonzero().squeeze(-1)
    steps = torch.arange(BLOCK, dtype=torch.float64, device=terms.device)
    within = discount_weights(rate, steps[:, None] - steps).to(terms.dtype)
    sums = terms @ within
    if len(blocks) > 0:
        until_cut, reaches_next = _sums_in_blocks(terms[blocks], rate, cut[blocks])
        sums.index_copy_(0, blocks, until_cut)
    # What the first steps of the blocks are worth is such a sum again, in steps BLOCK times as long.
    starts = _sums_until_cut(sums[:, 0].reshape(*batch, -1), rate**BLOCK, has_cut.reshape(*batch, -1))
    next_start = pad(starts[..., 1:], (0, 1)).reshape(-1, 1)
    to_next_block = torch.pow(rate, BLOCK - steps).to(terms.dtype)
    if len(blocks) > 0:
        sums.index_add_(0, blocks, next_start[blocks] * to_next_block * reaches_next)
        next_start = next_start.masked_fill(has_cut[:, None], 0.0)
    sums.addcmul_(next_start, to_next_block)
    return sums.reshape(*batch, -1)[..., :horizon].contiguous()


def _sums_in_blocks(terms: Tensor, rate: float, cut: Tensor) -> tuple[Tensor, Tensor]:
    """The sums within each row, and 1 where nothing is cut up to the end of the row, else 0."""
    sums, goes_on, n_terms = terms.T.contiguous(), (~cut).T.to(terms.dtype), 1
    while n_terms < len(sums):
        # Σ_{l<2n} = Σ_{l<n} + rate^n Σ_{n≤l<2n}, if none of the first n steps is cut off
        longer = torch.addcmul(sums[:-n_terms], goes_on[:-n_terms], sums[n_terms:], value=rate**n_terms)
        sums = torch.cat([longer, sums[-n_terms:]])
        goes_on = torch.cat([goes_on[:-n_terms] * goes_on[n_terms:], goes_on[-n_terms:]])
        n_terms *= 2
    return sums.T, goes_on.T


def _sums_by_doubling(terms: Tensor, rate: float, cut: Tensor) -> Tensor:
    """The sums until a cut in as many passes as the length has bits, whatever the values and where the cuts are."""
    sums, goes_on, n_terms = terms, ~cut, 1
    while n_terms < terms.shape[-1]:
        later = torch.where(goes_on[..., :-n_terms], rate**n_terms * sums[..., n_terms:], 0.0)
        sums = sums + pad(later, (0, n_terms))
        goes_on = goes_on & pad(goes_on[..., n_terms:], (0, n_terms))
        n_terms *= 2
    return sums


def _compiled_advantages(steps: _Steps, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """`_plain_advantages` by compiled loops over time, in float64, and where they cut the sums; they are checked."""
    if any(x is not None and x.requires_grad for x in steps):
        attached: tuple[Tensor, Tensor] = _CompiledAdvantages.apply(*steps, gamma, lam)  # type: ignore[no-untyped-call]
        return attached
    from pgtheory import _kernels

    advantages = torch.empty(steps.rewards.shape, dtype=steps.rewards.dtype)
    cut = torch.empty(steps.rewards.shape, dtype=torch.bool)
    arrays = [_compiled.as_array(steps.terminated if x is None else x) for x in steps]
    has = steps.truncated is not None, steps.mask is not None
    kernel = _kernels.generalized_advantages
    if not _kernels.over_time(kernel, *arrays, *has, gamma, rate=gamma * lam, cut=cut, sums=advantages):
        _check_finite(steps)
        # The kernel multiplies by 0 where it cuts: a sum that overflowed may have left its episode.
        advantages = _plain_advantages(steps, gamma, lam, _sums_by_doubling)
    return advantages, cut


class _CompiledAdvantages(torch.autograd.Function):
    """The derivative of `_compiled_advantages`."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        """See `generalized_advantages`."""
        tensors: Any = (x if x is None else x.detach() for x in arguments[:6])
        steps, gamma, lam = _Steps(*tensors), *arguments[6:]
        advantages, cut = _compiled_advantages(steps, gamma, lam)
        ctx.save_for_backward(steps.terminated, steps.mask, cut)
        ctx.mark_non_differentiable(cut)
        ctx.gamma, ctx.rate = gamma, gamma * lam
        return advantages, cut

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """The adjoint sums from the past, and begins anew after each cut."""
        terminated, mask, cut = ctx.saved_tensors
        before = pad(cut[..., :-1].flip(-1), (0, 1))
        taken = slopes[0] if mask is None else slopes[0].masked_fill(~mask, 0.0)
        later = _sums_until_cut(taken.flip(-1), ctx.rate, before).flip(-1)
        of_errors = later if mask is None else later.masked_fill(~mask, 0.0)
        of_next = (ctx.gamma * of_errors).masked_fill(terminated, 0.0)
        return of_errors, -of_errors, of_next, None, None, None, None, None
