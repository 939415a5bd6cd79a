r"""Chapter 3: how good a state and an action are: :math:`v_\pi`, :math:`q_\pi`, the advantage, :math:`v_*`."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgtheory import _checks
from pgtheory._linear import System, solve
from pgtheory._precision import wide
from pgtheory._tables import widened
from pgtheory.mdp import DENSE_LIMIT, FiniteMDP, check_policy, equiprobable_policy
from pgtheory.returns import returns_to_go
from pgtheory.trajectories import Trajectories, check_trajectories

__all__ = [
    "MonteCarloValues",
    "action_values",
    "advantages",
    "bellman_expectation",
    "bellman_optimality",
    "finite_horizon_optimal_values",
    "finite_horizon_values",
    "greedy_policy",
    "monte_carlo_values",
    "one_step_lookahead",
    "optimal_policy",
    "optimal_values",
    "solve_bellman",
    "state_values",
]

# How near to the optimal values those that are returned surely are, as a fraction of the largest.
ACCURACY = 1e-6

# So many levels of a graph are searched level by level; what is left then, node by node.
DEPTH = 200


def state_values(mdp: FiniteMDP, policy: Float[Tensor, "*batch S A"], gamma: float) -> Float[Tensor, "*batch S"]:
    r"""The value :math:`v_\pi(s) = \mathbb{E}_\pi[G_t \mid S_t = s]` of every state under a policy.

    Equation :eq:`eq-state-value` of the book, computed as the solution of :eq:`eq-bellman-matrix`. It is
    differentiable in ``policy``, by either route of ``solve_bellman``. Terminal states have the value 0.

    Args:
        mdp: the MDP.
        policy: :math:`\pi(a \mid s)`, ``[..., S, A]``; the rows of terminal states are not read.
        gamma: the discount :math:`\gamma`, in [0, 1]. With :math:`\gamma = 1` the policy must surely terminate.

    Returns:
        :math:`v_\pi`, ``[..., S]``.

    Raises:
        ValueError: if ``gamma`` is outside [0, 1], if ``policy`` is not a policy of ``mdp``, or if ``gamma`` is 1 and
            there is a state from which the policy never reaches a terminal state; the message names it.
        TypeError: if the dtype of ``policy`` is not that of ``mdp``.
        RuntimeError: if no solver brings the residual down to 1e-10 of the rewards.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (3.12) and (3.14).

    Example:
        A coin is tossed until it shows heads, at a cost of 1 per toss: two tosses on average.

        >>> coin = FiniteMDP.from_outcomes(
        ...     [(0, 0, 0, -1.0, 0.5), (0, 0, 1, -1.0, 0.5)], n_states=2, n_actions=1, initial=0, terminal=[1]
        ... )
        >>> state_values(coin, torch.ones(2, 1, dtype=torch.float64), 1.0).tolist()
        [-2.0, 0.0]
    """
    check_policy(mdp, policy)
    return _state_values(mdp, policy, gamma)


def action_values(mdp: FiniteMDP, policy: Float[Tensor, "*batch S A"], gamma: float) -> Float[Tensor, "*batch S A"]:
    r"""The value :math:`q_\pi(s, a) = \mathbb{E}_\pi[G_t \mid S_t = s, A_t = a]` of every action under a policy.

    Equation :eq:`eq-action-value` of the book. It is 0 where the action is not available.

    Args:
        mdp: the MDP.
        policy: :math:`\pi(a \mid s)`, ``[..., S, A]``.
        gamma: the discount :math:`\gamma`, in [0, 1].

    Returns:
        :math:`q_\pi`, ``[..., S, A]``.

    Raises:
        ValueError: as ``state_values``.
        TypeError: as ``state_values``.
        RuntimeError: as ``state_values``.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (3.13) and Exercise 3.13.

    Example:
        >>> from pgtheory import gallery
        >>> from pgtheory.mdp import equiprobable_policy
        >>> walk = gallery.random_walk()
        >>> action_values(walk, equiprobable_policy(walk), 1.0).shape[0] == walk.n_states
        True
    """
    exact, policy = _in_single(mdp, policy)
    return one_step_lookahead(exact, _state_values(exact, policy, gamma), gamma).to(mdp.dtype)


def advantages(mdp: FiniteMDP, policy: Float[Tensor, "*batch S A"], gamma: float) -> Float[Tensor, "*batch S A"]:
    r"""The advantage :math:`q_\pi(s, a) - v_\pi(s)` of every action; 0 where the action is not available.

    Equation :eq:`eq-advantage` of the book.

    Args:
        mdp: the MDP.
        policy: :math:`\pi(a \mid s)`, ``[..., S, A]``.
        gamma: the discount :math:`\gamma`, in [0, 1].

    Returns:
        The advantages, ``[..., S, A]``; weighted by the policy they sum to 0 in every state.

    Raises:
        ValueError: as ``state_values``.
        TypeError: as ``state_values``.
        RuntimeError: as ``state_values``.

    Source:
        Baird, "Advantage Updating", technical report WL-TR-93-1146, Wright Laboratory, 1993.

    Example:
        >>> from pgtheory import gallery
        >>> from pgtheory.mdp import equiprobable_policy
        >>> robot = gallery.recycling_robot()
        >>> policy = equiprobable_policy(robot)
        >>> bool(((policy * advantages(robot, policy, 0.9)).sum(-1).abs() < 1e-12).all())
        True
    """
    exact, policy = _in_single(mdp, policy)
    values = _state_values(exact, policy, gamma)
    differences = one_step_lookahead(exact, values, gamma) - values[..., None]
    return torch.where(mdp.available, differences, 0.0).to(mdp.dtype)


def solve_bellman(
    mdp: FiniteMDP,
    policy: Float[Tensor, "*batch S A"],
    gamma: float,
    right_hand_side: Float[Tensor, "*batch S"],
    *,
    transpose: bool = False,
) -> Float[Tensor, "*batch S"]:
    r"""The solution of :math:`(I - \gamma P_\pi)\, x = b`, or of :math:`(I - \gamma P_\pi^\top)\, x = b`.

    With :math:`b = r_\pi` it is :math:`v_\pi` (:eq:`eq-bellman-matrix`); transposed, with the start distribution as
    :math:`b`, it is how often each state is visited, counted with the discount. Up to 600 states the system is
    solved by LU, beyond by BiCGSTAB, and where that fails by eliminating states one after another, by GMRES, by
    repeated backups, and by LU if the matrix fits. Lines of states, such as a random walk of a million, are eliminated
    at once. Both routes work in float64, check the residual of what they return, and are differentiable (twice) in
    ``policy`` and ``right_hand_side``; the sparse one by the adjoint system, at the cost of one more solve.

    Args:
        mdp: the MDP.
        policy: :math:`\pi(a \mid s)`, ``[..., S, A]``.
        gamma: the discount :math:`\gamma`, in [0, 1]. With :math:`\gamma = 1` the policy must surely terminate.
        right_hand_side: :math:`b`, ``[..., S]``; its batch dimensions are broadcast with those of ``policy``.
        transpose: whether to solve the transposed system.

    Returns:
        :math:`x`, ``[..., S]``, with
        :math:`\lVert b - (I - \gamma P_\pi) x \rVert_\infty \le 10^{-10} \lVert b \rVert_\infty`,
        or as small as float64 resolves beside :math:`\lVert x \rVert_\infty`.

    Raises:
        ValueError: as ``state_values``, and if ``right_hand_side`` does not fit or is not finite.
        TypeError: if a dtype is not that of ``mdp``.
        RuntimeError: if no solver brings the residual down.

    Source:
        Puterman, *Markov Decision Processes*, 1994, Theorem 6.1.1.

    Example:
        The coin of ``state_values``: state 0 is visited twice on average, and then state 1 once.

        >>> coin = FiniteMDP.from_outcomes(
        ...     [(0, 0, 0, -1.0, 0.5), (0, 0, 1, -1.0, 0.5)], n_states=2, n_actions=1, initial=0, terminal=[1]
        ... )
        >>> solve_bellman(coin, torch.ones(2, 1, dtype=torch.float64), 1.0, coin.initial, transpose=True).tolist()
        [2.0, 1.0]
    """
    transpose = _checks.check_flag("transpose", transpose)
    check_policy(mdp, policy)
    _check_state_tensor(mdp, "right_hand_side", right_hand_side)
    _check_batches("right_hand_side", right_hand_side, policy)
    return solve_unchecked(mdp, policy, gamma, right_hand_side, transpose)


def _state_values(mdp: FiniteMDP, policy: Tensor, gamma: float) -> Tensor:
    """`state_values` with a policy that was checked before."""
    # r_π(s) = Σ_a π(a|s) Σ_{s',r} p(s',r|s,a) r
    weights = _outcome_weights(mdp, policy)
    rewards = _sum_by_state(mdp, weights * mdp.rewards[mdp.outcomes.reward_index])
    return solve_unchecked(mdp, policy, gamma, rewards, transpose=False)


def solve_unchecked(mdp: FiniteMDP, policy: Tensor, gamma: float, right_hand_side: Tensor, transpose: bool) -> Tensor:
    """`solve_bellman` with a policy that was checked before, as it was given: of 16 bits, say, and then widened."""
    gamma = _checks.check_gamma(gamma)
    if gamma == 1.0 and not _checks.is_traced(policy):
        _check_surely_terminates(mdp, policy)
    weights = _outcome_weights(mdp, policy)
    b = (right_hand_side + weights.new_zeros(*weights.shape[:-1], 1)).double()
    weights = weights.expand(*b.shape[:-1], -1).double()
    return solve(weights, b, System(mdp, gamma, transpose)).to(mdp.dtype)


def one_step_lookahead(mdp: FiniteMDP, values: Float[Tensor, "*batch S"], gamma: float) -> Float[Tensor, "*batch S A"]:
    r"""The value :math:`\sum_{s', r} p(s', r \mid s, a) (r + \gamma v(s'))` of each action, given those of states.

    With :math:`v = v_\pi` it is :math:`q_\pi`, equation :eq:`eq-action-value` of the book, and with :math:`v = v_*` it
    is :math:`q_*`, equation :eq:`eq-optimal-action-value`.

    Args:
        mdp: the MDP.
        values: any :math:`v`, ``[..., S]``.
        gamma: the discount :math:`\gamma`, in [0, 1].

    Returns:
        ``[..., S, A]``, 0 where the action is not available.

    Raises:
        ValueError: if ``gamma`` is outside [0, 1], or if ``values`` does not fit or is not finite.
        TypeError: if the dtype of ``values`` is not that of ``mdp``.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (4.6).

    Example:
        >>> mdp = FiniteMDP.from_outcomes([(0, 0, 1, 5.0, 1.0)], n_states=2, n_actions=1, initial=0, terminal=[1])
        >>> one_step_lookahead(mdp, torch.tensor([0.0, 0.0], dtype=torch.float64), 0.9).tolist()
        [[5.0], [0.0]]
    """
    gamma = _checks.check_gamma(gamma)
    _check_state_tensor(mdp, "values", values)
    o = mdp.outcomes
    # p(s',r|s,a) (r + γ v(s'))
    targets = wide(mdp.rewards)[o.reward_index] + gamma * wide(values).index_select(-1, o.next_state)
    terms = wide(o.probability) * targets
    flat = terms.new_zeros(*values.shape[:-1], mdp.n_states * mdp.n_actions)
    return flat.index_add(-1, _pair(mdp), terms).reshape(*values.shape, mdp.n_actions).to(mdp.dtype)


def bellman_expectation(
    mdp: FiniteMDP, policy: Float[Tensor, "*batch S A"], values: Float[Tensor, "*batch S"], gamma: float
) -> Float[Tensor, "*batch S"]:
    r"""The Bellman operator of a policy, :math:`T_\pi v = r_\pi + \gamma P_\pi v`, applied once.

    Equation :eq:`eq-bellman` of the book says that :math:`v_\pi` is its fixed point.

    Args:
        mdp: the MDP.
        policy: :math:`\pi(a \mid s)`, ``[..., S, A]``.
        values: any :math:`v`, ``[..., S]``; its batch dimensions are broadcast with those of ``policy``.
        gamma: the discount :math:`\gamma`, in [0, 1].

    Returns:
        :math:`T_\pi v`, ``[..., S]``; 0 in terminal states.

    Raises:
        ValueError: if ``gamma`` is outside [0, 1], if ``policy`` is not a policy of ``mdp``, or if ``values`` does not
            fit.
        TypeError: if a dtype is not that of ``mdp``.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (4.5).

    Example:
        >>> mdp = FiniteMDP.from_outcomes([(0, 0, 1, 5.0, 1.0)], n_states=2, n_actions=1, initial=0, terminal=[1])
        >>> one = torch.ones(2, 1, dtype=torch.float64)
        >>> bellman_expectation(mdp, one, torch.tensor([7.0, 2.0], dtype=torch.float64), 0.5).tolist()
        [6.0, 0.0]
    """
    gamma = _checks.check_gamma(gamma)
    check_policy(mdp, policy)
    _check_state_tensor(mdp, "values", values)
    _check_batches("values", values, policy)
    o = mdp.outcomes
    targets = wide(mdp.rewards)[o.reward_index] + gamma * wide(values).index_select(-1, o.next_state)
    return _sum_by_state(mdp, _outcome_weights(mdp, policy) * targets).to(mdp.dtype)


def bellman_optimality(mdp: FiniteMDP, values: Float[Tensor, "*batch S"], gamma: float) -> Float[Tensor, "*batch S"]:
    r"""The Bellman optimality operator, :math:`(Tv)(s) = \max_a \sum_{s', r} p(s', r \mid s, a)(r + \gamma v(s'))`.

    Equation :eq:`eq-bellman-optimality` of the book says that :math:`v_*` is its fixed point.

    Args:
        mdp: the MDP.
        values: any :math:`v`, ``[..., S]``.
        gamma: the discount :math:`\gamma`, in [0, 1].

    Returns:
        :math:`Tv`, ``[..., S]``; 0 in terminal states.

    Raises:
        ValueError: as ``one_step_lookahead``.
        TypeError: as ``one_step_lookahead``.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (4.10).

    Example:
        >>> from pgtheory import gallery
        >>> robot = gallery.recycling_robot()
        >>> best = optimal_values(robot, 0.9)
        >>> torch.allclose(bellman_optimality(robot, best, 0.9), best)
        True
    """
    gamma = _checks.check_gamma(gamma)
    _check_state_tensor(mdp, "values", values)
    best = _available_values(mdp, values, gamma).amax(-1)
    return torch.where(mdp.terminal, 0.0, best)


def greedy_policy(mdp: FiniteMDP, values: Float[Tensor, "*batch S"], gamma: float) -> Float[Tensor, "*batch S A"]:
    r"""The policy that takes in every state the action of the largest ``one_step_lookahead``.

    Actions that differ by rounding only are tied, and the tie goes to the lowest index. With :math:`\gamma < 1` the
    greedy policy of :math:`v_*` is optimal. With :math:`\gamma = 1` it need not even terminate, because an action
    that leads round in a circle at no cost ties with the best one; use ``optimal_policy`` there.

    A policy that attains the maximum of :eq:`eq-bellman-optimality`.

    Args:
        mdp: the MDP.
        values: any :math:`v`, ``[..., S]``.
        gamma: the discount :math:`\gamma`, in [0, 1].

    Returns:
        A table of zeros and ones, ``[..., S, A]``; the rows of terminal states are zero.

    Raises:
        ValueError: as ``one_step_lookahead``.
        TypeError: as ``one_step_lookahead``.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (4.9).

    Example:
        >>> from pgtheory import gallery
        >>> robot = gallery.recycling_robot()
        >>> greedy_policy(robot, optimal_values(robot, 0.9), 0.9).sum(-1).tolist()
        [1.0, 1.0]
    """
    gamma = _checks.check_gamma(gamma)
    _check_state_tensor(mdp, "values", values)
    q = _available_values(mdp, values.detach(), gamma)
    rounding = 256 * torch.finfo(q.dtype).eps * values.detach().abs().amax(-1)[..., None, None]
    tied = q >= q.amax(-1, keepdim=True) - rounding
    # the first True of a row: argmax has no promise about ties, a cumulative count has
    first = tied & (tied.cumsum(-1) == 1)
    return torch.where(mdp.available & first, 1.0, 0.0).to(mdp.dtype)


def optimal_values(mdp: FiniteMDP, gamma: float) -> Float[Tensor, "S"]:
    r"""The optimal values :math:`v_*(s) = \max_\pi v_\pi(s)`, by policy iteration.

    Equation :eq:`eq-bellman-optimality` of the book. With :math:`\gamma = 1` the maximum is over the policies that
    surely terminate, the only ones that have a value here. It exists if a terminal state can be reached from every
    state and no cycle of states has a positive mean reward; both are checked.

    Args:
        mdp: the MDP.
        gamma: the discount :math:`\gamma`, in [0, 1].

    Returns:
        :math:`v_*`, ``[S]``, the value of ``optimal_policy``: no action improves on it by more than rounding. With
        :math:`\gamma < 1` it is within 1e-6 of the largest value of the truth, by a bound that is computed, however
        near to 1 :math:`\gamma` is; as a rule the bound is near 1e-14.

    Raises:
        ValueError: if ``gamma`` is outside [0, 1]; if ``gamma`` is 1 and no policy reaches a terminal state from some
            state, or the values are unbounded. The message names the state.
        RuntimeError: as ``state_values``; if :math:`\gamma < 1` is so near to 1 that the bound is missed.

    Source:
        Howard, *Dynamic Programming and Markov Processes*, 1960; Puterman, *Markov Decision Processes*, 1994,
        section 6.4. For gamma = 1: Bertsekas and Tsitsiklis, "An Analysis of Stochastic Shortest Path Problems",
        Mathematics of Operations Research 16(3), 1991.

    Example:
        >>> mdp = FiniteMDP.from_outcomes(
        ...     [(0, 0, 1, 5.0, 1.0), (0, 1, 0, 1.0, 1.0)], n_states=2, n_actions=2, initial=0, terminal=[1]
        ... )
        >>> optimal_values(mdp, 0.5).tolist(), round(optimal_values(mdp, 0.9)[0].item(), 9)
        ([5.0, 0.0], 10.0)
    """
    return _policy_iteration(mdp, gamma)[0]


def optimal_policy(mdp: FiniteMDP, gamma: float) -> Float[Tensor, "S A"]:
    r"""A policy whose value is ``optimal_values``; with :math:`\gamma = 1` it surely terminates.

    In a state where no action ever improves on choosing among all of them with equal probability, that is what it
    does; in all others it takes one action.

    A policy that attains the maximum of :eq:`eq-bellman-optimality`.

    Args:
        mdp: the MDP.
        gamma: the discount :math:`\gamma`, in [0, 1].

    Returns:
        The policy, ``[S, A]``.

    Raises:
        ValueError: as ``optimal_values``.
        RuntimeError: as ``state_values``.

    Source:
        Howard, *Dynamic Programming and Markov Processes*, 1960.

    Example:
        >>> mdp = FiniteMDP.from_outcomes(
        ...     [(0, 0, 1, 5.0, 1.0), (0, 1, 0, 1.0, 1.0)], n_states=2, n_actions=2, initial=0, terminal=[1]
        ... )
        >>> optimal_policy(mdp, 0.5).tolist(), optimal_policy(mdp, 0.9).tolist()
        ([[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]])
    """
    return _policy_iteration(mdp, gamma)[1]


def finite_horizon_values(
    mdp: FiniteMDP, policy: Float[Tensor, "*batch S A"], gamma: float, *, horizon: int
) -> Float[Tensor, "*batch T+1 S"]:
    r"""The values :math:`v_t(s) = \mathbb{E}_\pi[G_t \mid S_t = s]` where every episode stops at time :math:`T`.

    Equation :eq:`eq-finite-horizon-value` of the book: :math:`v_T = 0` and :math:`v_t = T_\pi v_{t+1}`. It needs no
    condition on the policy, :math:`\gamma = 1` included.

    Args:
        mdp: the MDP.
        policy: :math:`\pi(a \mid s)`, ``[..., S, A]``, the same at every time.
        gamma: the discount :math:`\gamma`, in [0, 1].
        horizon: :math:`T`, at least 1.

    Returns:
        ``[..., T+1, S]``: row t holds :math:`v_t`, and the last row is 0.

    Raises:
        ValueError: if ``gamma`` is outside [0, 1], if ``policy`` is not a policy of ``mdp``, or if ``horizon`` is
            below 1.
        TypeError: if the dtype of ``policy`` is not that of ``mdp``, or if ``horizon`` is not an integer.

    Source:
        Puterman, *Markov Decision Processes*, 1994, section 4.2.

    Example:
        >>> mdp = FiniteMDP.from_outcomes([(0, 0, 0, 1.0, 1.0)], n_states=1, n_actions=1, initial=0)
        >>> finite_horizon_values(mdp, torch.ones(1, 1, dtype=torch.float64), 0.5, horizon=3)[:, 0].tolist()
        [1.75, 1.5, 1.0, 0.0]
    """
    gamma = _checks.check_gamma(gamma)
    check_policy(mdp, policy)
    o, weights = mdp.outcomes, _outcome_weights(mdp, policy)
    rewards = _sum_by_state(mdp, weights * mdp.rewards[o.reward_index])
    values, horizon = [torch.zeros_like(rewards)], _checks.check_count("horizon", horizon)
    _checks.check_room("finite_horizon_values", horizon + 1, max(1, rewards.numel()), limit=DENSE_LIMIT)
    for _ in range(horizon):
        # v_t = r_π + γ P_π v_{t+1}
        values.append(rewards + gamma * _sum_by_state(mdp, weights * values[-1].index_select(-1, o.next_state)))
    return torch.stack(values[::-1], -2).to(mdp.dtype)


def finite_horizon_optimal_values(
    mdp: FiniteMDP, gamma: float, *, horizon: int
) -> tuple[Float[Tensor, "T+1 S"], Float[Tensor, "T S A"]]:
    r"""The optimal values where every episode stops at time :math:`T`, and a policy for every time that attains them.

    :math:`v_T = 0` and :math:`v_t = T v_{t+1}` with the Bellman optimality operator. In general the best action
    depends on the time.

    Equation :eq:`eq-finite-horizon-value` with the maximum of :eq:`eq-bellman-optimality` in place of the policy.

    Args:
        mdp: the MDP.
        gamma: the discount :math:`\gamma`, in [0, 1].
        horizon: :math:`T`, at least 1.

    Returns:
        The values, ``[T+1, S]``, and the greedy policy at each time, ``[T, S, A]``.

    Raises:
        ValueError: if ``gamma`` is outside [0, 1], or if ``horizon`` is below 1.
        TypeError: if ``horizon`` is not an integer.

    Source:
        Puterman, *Markov Decision Processes*, 1994, section 4.5 (backward induction).

    Example:
        Taking 5 ends the episode; waiting pays 2 per step. With three steps left it is better to wait first.

        >>> mdp = FiniteMDP.from_outcomes(
        ...     [(0, 0, 1, 5.0, 1.0), (0, 1, 0, 2.0, 1.0)], n_states=2, n_actions=2, initial=0, terminal=[1]
        ... )
        >>> values, policy = finite_horizon_optimal_values(mdp, 1.0, horizon=3)
        >>> values[:, 0].tolist(), policy[:, 0].argmax(-1).tolist()
        ([9.0, 7.0, 5.0, 0.0], [1, 1, 0])
    """
    gamma = _checks.check_gamma(gamma)
    _checks.check_instance("mdp", mdp, FiniteMDP)
    horizon = _checks.check_count("horizon", horizon)
    _checks.check_room("finite_horizon_optimal_values", horizon, mdp.n_states, mdp.n_actions, limit=DENSE_LIMIT)
    dtype, mdp = mdp.dtype, widened(mdp)
    values, policies = [mdp.rewards.new_zeros(mdp.n_states)], []
    for _ in range(horizon):
        policies.append(greedy_policy(mdp, values[-1], gamma).to(dtype))
        values.append(bellman_optimality(mdp, values[-1], gamma))
    return torch.stack(values[::-1]).to(dtype), torch.stack(policies[::-1])


class MonteCarloValues(NamedTuple):
    """Sampled values of the states, as ``monte_carlo_values`` returns them.

    Attributes:
        mean: the mean return that followed each state, ``[S]``.
        standard_error: its standard error, ``[S]``.
        counts: the number of visits that were averaged, ``[S]``.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, section 5.1.

    Example:
        >>> MonteCarloValues(torch.tensor([2.0]), torch.tensor([0.1]), torch.tensor([400])).mean
        tensor([2.])
    """

    mean: Float[Tensor, "S"]
    standard_error: Float[Tensor, "S"]
    counts: Int[Tensor, "S"]


def monte_carlo_values(
    trajectories: Trajectories, gamma: float, *, n_states: int, visit: Literal["first", "every"] = "first"
) -> MonteCarloValues:
    r"""The mean return that followed each state, over sampled episodes that all terminated.

    The expectation of :eq:`eq-state-value`, sampled.

    Args:
        trajectories: episodes under one policy, none of them truncated.
        gamma: the discount :math:`\gamma`, in [0, 1].
        n_states: the number of states.
        visit: which visits count: the ``"first"`` of each episode, or ``"every"`` one.

    Returns:
        The mean, its standard error and the number of visits, each ``[S]``. A state that was never visited has the
        mean NaN; one that fewer than two episodes visited has the standard error NaN.

    Raises:
        ValueError: if ``gamma`` is outside [0, 1], if an episode was truncated, if ``visit`` is neither of the two, or
            if a state is not below ``n_states``.

    Estimand:
        :math:`v_\pi(s)`. First-visit: unbiased, given how many episodes visited s, because the returns from the
        first visits are independent draws of G from s. Every-visit: biased, because a long episode brings more
        visits together with its returns, but consistent; it is a ratio of two means over episodes, and its standard
        error treats the episode, not the visit, as the independent unit. Episodes that were cut short would bias both.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, section 5.1; Singh and Sutton,
        "Reinforcement Learning with Replacing Eligibility Traces", Machine Learning 22, 1996.

    Example:
        >>> from pgtheory.mdp import equiprobable_policy
        >>> from pgtheory.trajectories import sample_trajectories
        >>> mdp = FiniteMDP.from_outcomes([(0, 0, 1, 5.0, 1.0)], n_states=2, n_actions=1, initial=0, terminal=[1])
        >>> episodes = sample_trajectories(mdp, equiprobable_policy(mdp), 10, horizon=3)
        >>> monte_carlo_values(episodes, 0.9, n_states=2).mean.tolist()
        [5.0, nan]
    """
    n_states = _checks.check_count("n_states", n_states)
    _checks.check_room("monte_carlo_values", n_states)
    states = _checked_states(trajectories, n_states, visit)
    trajectories = trajectories._replace(states=states)
    episode, state, returns = _visits(trajectories, gamma, n_states, visit)

    def total(values: Tensor, index: Tensor, size: int) -> Tensor:
        return values.new_zeros(size).index_add(0, index, values)

    dtype, returns = returns.dtype, returns.double()  # a float32 count would stop at 2^24
    ones = torch.ones_like(returns)
    counts = total(ones, state, n_states)
    mean = total(returns, state, n_states) / counts
    # z_n(s) = Σ_{t: S_t = s} (G_t − mean(s)), one number for each episode n that visits s
    pairs, pair = torch.unique(episode * n_states + state, return_inverse=True)
    z = total(returns - mean[state], pair, len(pairs))
    episodes = total(torch.ones_like(z), pairs % n_states, n_states)
    # Var(mean) ≈ n/(n−1) Σ_n z_n² / counts²
    spread = total(z.square(), pairs % n_states, n_states) * episodes / (episodes - 1)
    return MonteCarloValues(mean.to(dtype), (spread.sqrt() / counts).to(dtype), counts.long())


def _visits(trajectories: Trajectories, gamma: float, n_states: int, visit: str) -> tuple[Tensor, Tensor, Tensor]:
    """The episode, the state and the return of every visit that counts."""
    returns = returns_to_go(trajectories.rewards, gamma, mask=trajectories.mask)
    episode, time = trajectories.mask.nonzero(as_tuple=True)
    state = trajectories.states[episode, time]
    if visit == "first":
        # nonzero() runs through time within an episode, so a stable sort leaves the first visit in front
        order = torch.argsort(episode * n_states + state, stable=True)
        key = (episode * n_states + state)[order]
        first = order[torch.cat([key.new_ones(1, dtype=torch.bool), key[1:] != key[:-1]])[: len(key)]]
        episode, time, state = episode[first], time[first], state[first]
    return episode, state, returns[episode, time]


def _checked_states(trajectories: Trajectories, n_states: int, visit: str) -> Tensor:
    """The states in int64, after checks of the episodes."""
    check_trajectories("trajectories", trajectories)
    _checks.check_choice("visit", visit, ("first", "every"))
    if trajectories.truncated.any():
        place = _checks.first_place(trajectories.truncated)
        raise ValueError(f"trajectory {place} was truncated, so its returns are cut short: give a longer horizon")
    read = torch.nn.functional.pad(trajectories.mask, (0, 1))
    return _checks.as_indices("trajectories.states", trajectories.states, n_states, read, axes="nt")


def _in_single(mdp: FiniteMDP, policy: Tensor) -> tuple[FiniteMDP, Tensor]:
    """Both as they are, or in float32 where they are of 16 bits, which lose what a difference of values consists of."""
    check_policy(mdp, policy)  # as it was given: what 16 bits round is no fault of the policy
    return widened(mdp), wide(policy)


def _check_state_tensor(mdp: FiniteMDP, name: str, values: Tensor) -> None:
    _checks.check_instance("mdp", mdp, FiniteMDP)
    _checks.check_floating(name, values)
    _checks.check_same_kind(name, values, "mdp", mdp.rewards)
    _checks.check_trailing_shape(name, values, (mdp.n_states,))
    _checks.check_finite(name, values)


def _check_batches(name: str, values: Tensor, policy: Tensor) -> None:
    _checks.check_broadcasts(name, values.shape[:-1], "policy", policy.shape[:-2])


def _pair(mdp: FiniteMDP) -> Int[Tensor, "K"]:
    """The place of each outcome's (s, a) in a flattened table ``[S, A]``."""
    return mdp.outcomes.state * mdp.n_actions + mdp.outcomes.action


def _outcome_weights(mdp: FiniteMDP, policy: Float[Tensor, "*batch S A"]) -> Float[Tensor, "*batch K"]:
    r"""The probability :math:`\pi(a \mid s)\, p(s', r \mid s, a)` of each outcome, given its state."""
    return wide(policy.flatten(-2).index_select(-1, _pair(mdp))) * wide(mdp.outcomes.probability)


def _sum_by_state(mdp: FiniteMDP, values: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch S"]:
    return values.new_zeros(*values.shape[:-1], mdp.n_states).index_add(-1, mdp.outcomes.state, values)


def _available_values(mdp: FiniteMDP, values: Tensor, gamma: float) -> Float[Tensor, "*batch S A"]:
    return torch.where(mdp.available, one_step_lookahead(mdp, values, gamma), -torch.inf)


class _Values(NamedTuple):
    """Values of the live states as `centre + offset`: near gamma = 1 they are large, and differ by little."""

    centre: float
    offset: Float[Tensor, "S"]

    def table(self, mdp: FiniteMDP) -> Float[Tensor, "S"]:
        return torch.where(mdp.terminal, 0.0, self.centre + self.offset)

    def moved(self, step: Tensor, live: Tensor) -> "_Values":
        """The values plus a step, with the middle of their range as the new centre."""
        offset = torch.where(live, self.offset + step, 0.0)
        centre = self.centre + float(offset[live].amin() + offset[live].amax()) / 2
        return _Values(centre, torch.where(live, offset - (centre - self.centre), 0.0))


def _gains(mdp: FiniteMDP, values: _Values, gamma: float) -> tuple[Tensor, Tensor]:
    r"""The gain :math:`q(s, a) - v(s)` of each action over any values, and a bound of its rounding error.

    The large values enter by their differences, :math:`r - v(s) (1 - \gamma \kappa) + \gamma \sum p (v(s') - v(s))`,
    where :math:`\kappa` is the probability that the episode goes on.
    """
    o, live = mdp.outcomes, ~mdp.terminal
    ends = live.logical_not()[o.next_state]
    change = torch.where(ends, 0.0, values.offset[o.next_state] - values.offset[o.state])
    flat = o.probability.new_zeros(mdp.n_states * mdp.n_actions)

    def mean(x: Tensor) -> Tensor:
        return flat.index_add(0, _pair(mdp), o.probability * x).view(mdp.n_states, mdp.n_actions)

    eps = torch.finfo(mdp.dtype).eps
    missing = 1 - mean(torch.ones_like(change))
    missing = torch.where(missing.abs() <= 64 * eps, 0.0, missing)
    loss = values.table(mdp)[:, None] * ((1 - gamma) + gamma * (mean(ends.to(mdp.dtype)) + missing))
    rewards = mdp.rewards[o.reward_index]
    gain = mean(rewards) - loss + gamma * mean(change)
    rounding = 64 * eps * (mean(rewards.abs()) + loss.abs() + gamma * mean(change.abs()))
    return torch.where(mdp.available, gain, -torch.inf), torch.where(mdp.available, rounding, 0.0)


def _own(policy: Tensor, table: Tensor) -> Tensor:
    return torch.where(policy > 0, policy * table, 0.0).sum(-1)


def _refined_values(mdp: FiniteMDP, policy: Tensor, gamma: float) -> _Values:
    """The values of a policy, corrected by their own residual until that is rounding."""
    live = ~mdp.terminal
    values = _Values(0.0, torch.where(live, state_values(mdp, policy, gamma), 0.0))
    if gamma == 1.0 or not live.any():
        return values
    for _ in range(12):
        residual, rounding = (_own(policy, x) for x in _gains(mdp, values, gamma))
        scale = float(values.table(mdp).abs().amax())
        if not float((residual.abs() - rounding).amax()) > 1e-14 * (1 - gamma) * scale:
            break
        values = values.moved(solve_unchecked(mdp, policy, gamma, residual, transpose=False), live)
    return values


def _policy_iteration(mdp: FiniteMDP, gamma: float) -> tuple[Tensor, Tensor]:
    """Howard's policy iteration from the equiprobable policy; an action is changed only for a strictly better one.

    That rule makes gamma = 1 safe: if the improved policy did not terminate, it would gain reward in a closed set of
    states, so that the values were unbounded.
    """
    gamma = _checks.check_gamma(gamma)
    _checks.check_instance("mdp", mdp, FiniteMDP)
    exact = mdp.to(dtype=torch.float64)
    policy = equiprobable_policy(exact)
    fault = "no policy reaches a terminal state from {}"
    for _ in range(1000):
        if gamma == 1.0 and (stuck := ~_reaches_terminal(exact, policy)).any():
            raise ValueError(f"gamma is 1, but {fault.format(_checks.first_place(stuck, 's'))}: use gamma < 1")
        values = _refined_values(exact, policy, gamma)
        gain, rounding = _gains(exact, values, gamma)
        surely = (gain - rounding).amax(-1, keepdim=True)
        # What the error of the values themselves may add to a difference of two gains goes with how far they differ.
        spread, eps = float(values.offset.abs().amax()), torch.finfo(gain.dtype).eps
        slack = (1e-11 if gamma == 1.0 else 256 * eps) * spread
        better = surely.squeeze(-1) > _own(policy, gain) + _own(policy, rounding) + slack
        if not (better & ~exact.terminal).any():
            _check_optimal(exact, policy, gamma, values)
            return values.table(exact).to(mdp.dtype), policy.to(mdp.dtype)
        tied = exact.available & (gain >= surely - 256 * eps * spread)
        first = (tied & (tied.cumsum(-1) == 1)).double()
        policy = torch.where(better[:, None], first, policy)
        fault = "the optimal value is unbounded: a cycle through {} gains reward for ever"
    raise RuntimeError("policy iteration did not settle within 1,000 policies")


def _check_optimal(mdp: FiniteMDP, policy: Tensor, gamma: float, values: _Values) -> None:
    r"""Raise unless the values are within `ACCURACY` of the optimal ones, for gamma < 1.

    If no action gains more than :math:`\delta`, then :math:`v_* \le v + \delta / (1 - \gamma)`. Nearer to 1 an upper
    solution says more: :math:`v_* \le v + x` with the x that the :math:`\delta(s)` of the states visited add up to, if
    no action gains anything over the right side.
    """
    live = ~mdp.terminal
    if gamma == 1.0 or not live.any():
        return
    gain, rounding = _gains(mdp, values, gamma)
    own = _own(policy, gain).abs() + _own(policy, rounding)
    delta = torch.where(live, torch.maximum(own, (gain + rounding).amax(-1)), 0.0)
    scale = float(values.table(mdp).abs().amax())
    error = 2 * float(delta.amax()) / (1 - gamma)
    if error > ACCURACY * scale:
        above = solve_unchecked(mdp, policy, gamma, 2 * delta, transpose=False)
        later = above.new_zeros(mdp.n_states * mdp.n_actions).index_add(
            0, _pair(mdp), mdp.outcomes.probability * above[mdp.outcomes.next_state]
        )
        if ((gain + rounding + gamma * later.view_as(gain) - above[:, None])[live] <= 0).all():
            error = min(error, 2 * float(above.amax()))
    if error > ACCURACY * scale:
        raise RuntimeError(f"gamma is {gamma!r}: rounding adds up over so many steps that the optimal values are known "
                           f"to {error / scale:.0e} of the largest only, not to {ACCURACY:.0e}")  # fmt: skip


def _reaches_terminal(mdp: FiniteMDP, policy: Float[Tensor, "*batch S A"]) -> Tensor:
    """From which states the policy reaches a terminal state with positive probability, ``[..., S]``.

    If that is all states, it does so with probability 1 from each of them, because there are finitely many.
    """
    weights = _outcome_weights(mdp, policy.detach()).reshape(-1, len(mdp.outcomes.state))
    batch, outcome = (i.cpu().numpy() for i in (weights > 0).nonzero(as_tuple=True))
    tail = batch * mdp.n_states + mdp.outcomes.state.cpu().numpy()[outcome]
    head = batch * mdp.n_states + mdp.outcomes.next_state.cpu().numpy()[outcome]
    # the edges into node i, by their tails, are tail[start[i] : start[i + 1]]
    tail = tail[np.argsort(head, kind="stable")]
    start = np.concatenate([[0], np.cumsum(np.bincount(head, minlength=len(weights) * mdp.n_states))])
    reached = np.tile(mdp.terminal.cpu().numpy(), len(weights))
    frontier = reached.nonzero()[0]
    for _ in range(DEPTH):
        if len(frontier) == 0:
            break
        degree = start[frontier + 1] - start[frontier]
        edges = np.repeat(start[frontier] - np.cumsum(degree) + degree, degree) + np.arange(degree.sum())
        frontier = np.unique(tail[edges][~reached[tail[edges]]])
        reached[frontier] = True
    _follow(frontier, start, tail, reached)
    return torch.from_numpy(reached).to(policy.device).reshape(*policy.shape[:-2], mdp.n_states)


def _follow(frontier: Any, start: Any, tail: Any, reached: Any) -> None:
    """Mark what leads to the frontier, node by node: where the graph is deep, its levels are narrow."""
    stack, seen = frontier.tolist(), bytearray(reached)
    if not stack:
        return
    start, tail = start.tolist(), tail.tolist()
    while stack:
        node = stack.pop()
        for before in tail[start[node] : start[node + 1]]:
            if not seen[before]:
                seen[before] = 1
                stack.append(before)
    reached[:] = np.frombuffer(seen, dtype=bool)


def _check_surely_terminates(mdp: FiniteMDP, policy: Tensor) -> None:
    stuck = ~_reaches_terminal(mdp, policy)
    if stuck.any():
        place = _checks.first_place(stuck, "s")
        raise ValueError(f"gamma is 1, but under policy the episode never reaches a terminal state from {place}: "
                         "use gamma < 1 or finite_horizon_values")  # fmt: skip
