r"""Chapter 8: generalized advantage estimation, and its exact moments.

The name `pgtheory.advantages` is the exact advantages, a function of `pgtheory.value_functions`; this module is reached
by `from pgtheory.advantages import ...`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from pgtheory import _checks
from pgtheory._precision import wide
from pgtheory._tables import check_table, widened
from pgtheory.mdp import FiniteMDP, check_policy
from pgtheory.value_functions import _solve  # without a check: the policy was checked before it was widened

__all__ = [
    "AdvantageMoments",
    "generalized_advantage_moments",
    "generalized_advantages",
]


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
    step that was not taken, and at the end of the last axis: one row may hold several episodes. It takes
    :math:`\log_2 T` passes, no loop over time.

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
    terminated, ends = _checked_ends(rewards, terminated, truncated, mask)
    taken = torch.ones_like(ends) if mask is None else mask
    for name, tensor, read in (("values", values, taken), ("next_values", next_values, taken & ~terminated)):
        _checks.check_like(name, tensor, "rewards", rewards, read)
    # δ_t = R_{t+1} + γ V(S_{t+1}) − V(S_t)
    errors = wide(rewards) + gamma * wide(torch.where(terminated, 0.0, next_values)) - wide(values)
    errors = torch.where(taken, errors, 0.0)
    goes_on = taken & ~ends & pad(taken[..., 1:], (0, 1))
    return torch.where(taken, _sums_until_cut(errors, gamma * lam, goes_on), 0.0).to(rewards.dtype)


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
    mean = _solve(mdp, policy, rate, by_state(by_pair(errors)), transpose=False)
    expected = errors + rate * mean[o.next_state]
    # Var[Â|s] = E[(δ + γλ m(S′) − m(s))²|s] + (γλ)² E[Var[Â′|S′]|s]
    spread = _solve(mdp, policy, rate**2, by_state(by_pair((expected - mean[o.state]).square())), transpose=False)
    first = by_pair(expected)
    variance = by_pair((expected - first[o.state, o.action]).square() + rate**2 * spread[o.next_state])
    return AdvantageMoments(first.to(dtype), variance.to(dtype))


def _sums_until_cut(terms: Tensor, rate: float, goes_on: Tensor) -> Tensor:
    """Σ_l rate^l x_{t+l}, up to the first step that does not go on, by doubling the number of terms in each pass."""
    sums, n_terms = terms, 1
    while n_terms < terms.shape[-1]:
        # Σ_{l<2n} = Σ_{l<n} + rate^n Σ_{n≤l<2n}, if none of the first n steps is cut
        later = torch.where(goes_on[..., :-n_terms], rate**n_terms * sums[..., n_terms:], 0.0)
        sums = sums + pad(later, (0, n_terms))
        goes_on = goes_on & pad(goes_on[..., n_terms:], (0, n_terms))
        n_terms *= 2
    return sums


def _checked_ends(
    rewards: Tensor, terminated: Tensor, truncated: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Where steps terminated their episodes, and where they ended them in either way."""
    _checks.check_floating("rewards", rewards)
    _checks.check_at_least_1d("rewards", rewards, "time")
    flags = {"terminated": terminated, "truncated": truncated, "mask": mask}
    for name, flag in flags.items():
        if flag is not None or name == "terminated":
            _checks.check_bool(name, flag)
            assert flag is not None
            _checks.check_same_device(name, flag, "rewards", rewards)
            _checks.check_same_shape(name, flag, "rewards", rewards)
    _checks.check_finite("rewards", rewards, mask)
    if truncated is None:
        return terminated, terminated
    both = terminated & truncated if mask is None else terminated & truncated & mask
    if not _checks.is_traced(both) and both.any():
        raise ValueError(
            f"terminated and truncated are both True at {_checks.first_place(both)}: a step is one or neither"
        )
    return terminated, terminated | truncated
