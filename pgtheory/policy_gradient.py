r"""Chapter 6: the performance of a policy, its exact gradient, and the exact moments of any estimator of it.

A gradient with respect to preferences has their shape, `[S, A]`: entry (s, a) is the derivative by :math:`h(s, a)`. It
is 0 in terminal states and for actions outside :math:`\mathcal{A}(s)`, on which the policy does not depend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from pgtheory import _checks
from pgtheory._gradients import Moments, Scores, add_up, closed, log_policy_gradient, loss_slopes
from pgtheory._precision import wide
from pgtheory._tables import check_policy_named, widened
from pgtheory.mdp import FiniteMDP, check_policy
from pgtheory.returns import discount_factors, discounted_return, returns_to_go
from pgtheory.softmax_policy import SoftmaxPolicy, log_softmax_policy, softmax_policy
from pgtheory.trajectories import Trajectories, at_steps, enumerate_trajectories, trajectory_probabilities
from pgtheory.value_functions import advantages, solve_bellman, state_values

__all__ = [
    "Ascent",
    "Loss",
    "discounted_visitation",
    "exact_parameter_gradient",
    "exact_policy_gradient",
    "expected_gradient",
    "gradient_ascent",
    "gradient_covariance",
    "gradient_routes",
    "likelihood_ratio_gradient",
    "natural_policy_gradient",
    "performance",
]

# An expectation over batches that hold more steps than this, all together, is refused.
BATCH_LIMIT = 50_000_000
# How many steps one chunk of batches may hold, and how many numbers its tables of gradients.
CHUNK = 2**18
TABLES = 2**21


class Loss(Protocol):
    r"""A loss to be minimised: what an implementation of a policy gradient method differentiates.

    It is called as `loss(log_probs, rewards, gamma, mask=mask)` with three tensors `[N, T]`: the log-probabilities
    :math:`\ln \pi_\theta(A_t \mid S_t)` of the actions taken, the rewards :math:`R_{t+1}`, and the mask that is True
    where a step was taken. Where it is False, `log_probs` and `rewards` are 0. It returns a scalar.

    Source:
        Schulman, Heess, Weber and Abbeel, "Gradient Estimation Using Stochastic Computation Graphs", NIPS 2015.

    Example:
        >>> def loss(log_probs, rewards, gamma, *, mask):
        ...     taken = torch.where(mask, log_probs, 0.0)
        ...     return -(rewards.sum(-1, keepdim=True) * taken).sum(-1).mean()
        >>> loss(torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 1.0]]), 1.0, mask=torch.ones(1, 2, dtype=bool))
        tensor(6.)
    """

    def __call__(
        self, log_probs: Float[Tensor, "N T"], rewards: Float[Tensor, "N T"], gamma: float, /, *, mask: Tensor
    ) -> Float[Tensor, ""]:
        """The loss of one batch of N trajectories."""
        ...


class Ascent(NamedTuple):
    r"""What `gradient_ascent` went through: :math:`J(\theta_t)` and :math:`\theta_t`, from the start to the end.

    Attributes:
        performance: :math:`J(\theta_0), \dots, J(\theta_n)`.
        parameters: :math:`\theta_0, \dots, \theta_n`, each as one vector.
    """

    performance: Float[Tensor, "n+1"]
    parameters: Float[Tensor, "n+1 d"]


def performance(mdp: FiniteMDP, policy: Float[Tensor, "*batch S A"], gamma: float) -> Float[Tensor, "*batch"]:
    r"""The performance :math:`J = \mathbb{E}_\pi[G_0] = \sum_s \mu(s)\, v_\pi(s)`, :eq:`eq-performance`.

    Args:
        mdp: the MDP; :math:`\mu` is its start distribution.
        policy: :math:`\pi(a \mid s)`.
        gamma: the discount :math:`\gamma`, in [0, 1].

    Returns:
        One number per policy, differentiable in `policy`.

    Raises:
        ValueError: if `policy` is no policy of `mdp`, if `gamma` is outside [0, 1], or if it is 1 and the policy does
            not surely terminate.
        TypeError: if `policy` is not a tensor of floats of the MDP's dtype.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (13.4).

    Example:
        >>> from pgtheory import gallery
        >>> from pgtheory.mdp import equiprobable_policy
        >>> grid = gallery.gridworld_4x4()
        >>> round(performance(grid, equiprobable_policy(grid), 1.0).item(), 4)  # -256/14
        -18.2857
    """
    # J(θ) = Σ_s μ(s) v_π(s)
    return (wide(state_values(mdp, policy, gamma)) @ wide(mdp.initial)).to(mdp.dtype)


def discounted_visitation(
    mdp: FiniteMDP, policy: Float[Tensor, "*batch S A"], gamma: float
) -> Float[Tensor, "*batch S"]:
    r"""The discounted visitation :math:`\eta(s) = \sum_{t \ge 0} \gamma^t \Pr(S_t = s,\, t < T)`, :eq:`eq-visitation`.

    The sum is over the steps at which an action is taken, so it is 0 in terminal states. It is not normalised: its
    mass is :math:`1/(1 - \gamma)` where nothing terminates, and the expected number of steps at :math:`\gamma = 1`.

    It is solved from :eq:`eq-visitation-fixed-point`.

    Args:
        mdp: the MDP.
        policy: :math:`\pi(a \mid s)`.
        gamma: the discount :math:`\gamma`, in [0, 1].

    Returns:
        One weight per state, differentiable in `policy`, by one linear solve.

    Raises:
        ValueError: if `policy` is no policy of `mdp`, if `gamma` is outside [0, 1], or if it is 1 and the policy does
            not surely terminate.
        TypeError: if `policy` is not a tensor of floats of the MDP's dtype.

    Source:
        Sutton, McAllester, Singh and Mansour, "Policy Gradient Methods for Reinforcement Learning with Function
        Approximation", NIPS 1999, after eq. (2), where it is called :math:`d^\pi`.

    Example:
        >>> from pgtheory import gallery
        >>> from pgtheory.mdp import equiprobable_policy
        >>> corridor = gallery.short_corridor()
        >>> discounted_visitation(corridor, equiprobable_policy(corridor), 1.0)  # the mean numbers of visits
        tensor([6., 4., 2., 0.], dtype=torch.float64)
    """
    check_policy(mdp, policy)
    # η(s′) = μ(s′) + γ Σ_s η(s) Σ_a π(a|s) p(s′|s, a)
    eta = solve_bellman(mdp, policy, gamma, mdp.initial, transpose=True)
    return eta.masked_fill(mdp.terminal, 0.0)


def exact_policy_gradient(
    mdp: FiniteMDP, preferences: Float[Tensor, "*batch S A"], gamma: float, *, discount_states: bool = True
) -> Float[Tensor, "*batch S A"]:
    r"""The gradient :math:`\partial J / \partial h(s, a) = \eta(s)\, \pi(a \mid s)\, A_\pi(s, a)`.

    Equation :eq:`eq-softmax-gradient`: the policy gradient theorem for a softmax over the preferences. Two linear
    solves, no sampling.

    The theorem :eq:`eq-policy-gradient`, for a table of preferences.

    Args:
        mdp: the MDP.
        preferences: :math:`h(s, a)`; entries outside :math:`\mathcal{A}(s)` may hold anything.
        gamma: the discount :math:`\gamma`, in [0, 1].
        discount_states: False leaves out the :math:`\gamma^t` of :math:`\eta`, as much code does. The result is then
            in general the gradient of no function (:eq:`eq-curl`), and exists only if the policy surely terminates.

    Returns:
        :math:`\nabla_h J`, exactly 0 in terminal states and outside :math:`\mathcal{A}(s)`; each row sums to 0. It is
        differentiable in `preferences`: its Jacobian is the Hessian of :math:`J`.

    Raises:
        ValueError: if the shape does not fit, if a preference is NaN or +inf, if `gamma` is outside [0, 1], or if it is
            1 (or `discount_states` is False) and the policy does not surely terminate.
        TypeError: if `preferences` is not a tensor of floats of the MDP's dtype.

    Source:
        Sutton et al., "Policy Gradient Methods for Reinforcement Learning with Function Approximation", NIPS 1999,
        Theorem 1; for the softmax Agarwal, Kakade, Lee and Mahajan, "On the Theory of Policy Gradient Methods", JMLR
        2021, eq. (10).

    Example:
        >>> from pgtheory import gallery
        >>> bandit = gallery.bandit([1.0, 0.0])
        >>> exact_policy_gradient(bandit, torch.zeros(2, 2, dtype=torch.float64), 1.0)
        tensor([[ 0.2500, -0.2500],
                [ 0.0000,  0.0000]], dtype=torch.float64)
    """
    policy = _softmax_policy(mdp, preferences)
    exact = widened(mdp)
    state_gamma = _checks.check_gamma(gamma) if _checks.check_flag("discount_states", discount_states) else 1.0
    visitation = discounted_visitation(exact, policy, state_gamma)
    # ∂J/∂h(s, a) = η(s) π(a|s) A_π(s, a)
    gradient = visitation.unsqueeze(-1) * policy * advantages(exact, policy, gamma)
    return closed(gradient, policy).to(mdp.dtype)


def exact_parameter_gradient(
    mdp: FiniteMDP, policy: SoftmaxPolicy, gamma: float, *, discount_states: bool = True
) -> dict[str, Tensor]:
    r"""The gradient :math:`\nabla_\theta J = \sum_{s,a} \partial J / \partial h(s,a)\, \nabla_\theta h_\theta(s,a)`.

    Equation :eq:`eq-parameter-gradient`: the chain rule through the preferences, for a policy with any parameters.

    The theorem is :eq:`eq-policy-gradient`.

    Args:
        mdp: the MDP.
        policy: a tabular, linear, neural or other softmax policy whose states are numbers. Its preferences are
            restricted to the actions of `mdp`.
        gamma: the discount :math:`\gamma`, in [0, 1].
        discount_states: as in `exact_policy_gradient`.

    Returns:
        The gradient of each parameter, by its name in `policy.named_parameters()`. Nothing is written to `.grad`.

    Raises:
        ValueError: as `exact_policy_gradient`.
        TypeError: as `exact_policy_gradient`.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (13.5).

    Example:
        >>> from pgtheory import gallery
        >>> from pgtheory.softmax_policy import TabularPolicy
        >>> policy = TabularPolicy(2, 2, dtype=torch.float64)
        >>> exact_parameter_gradient(gallery.bandit([1.0, 0.0]), policy, 1.0)["theta"]
        tensor([[ 0.2500, -0.2500],
                [ 0.0000,  0.0000]], dtype=torch.float64)
    """
    _checks.check_instance("policy", policy, SoftmaxPolicy)
    check_states(mdp, policy)
    names, parameters = zip(*policy.named_parameters(), strict=True)
    with torch.enable_grad():
        preferences = policy.preferences(torch.arange(mdp.n_states, device=mdp.device))
    slopes = exact_policy_gradient(mdp, preferences.detach(), gamma, discount_states=discount_states)
    # ∇_θ J = Σ_{s,a} ∂J/∂h(s, a) ∇_θ h_θ(s, a)
    gradients = torch.autograd.grad(preferences, parameters, slopes, allow_unused=True, materialize_grads=True)
    return dict(zip(names, gradients, strict=True))


def gradient_ascent(
    mdp: FiniteMDP, policy: SoftmaxPolicy, gamma: float, *, optimizer: torch.optim.Optimizer, n_steps: int
) -> Ascent:
    r"""Gradient ascent :math:`\theta_{t+1} = \theta_t + \alpha \nabla J(\theta_t)` with exact gradients.

    Equation :eq:`eq-gradient-ascent`, or the rule of another optimiser. `torch.optim` minimises unless it is told not
    to; an optimiser that was built without `maximize=True` is refused.

    Args:
        mdp: the MDP.
        policy: the policy; its parameters are changed in place, as by any optimiser.
        gamma: the discount :math:`\gamma`, in [0, 1].
        optimizer: an optimiser of the policy's parameters, such as
            `torch.optim.SGD(policy.parameters(), lr=0.1, maximize=True)`.
        n_steps: the number of steps.

    Returns:
        The performance and the parameters before the first step and after each.

    Raises:
        ValueError: as `exact_policy_gradient`; if `optimizer` minimises; if `n_steps` is less than 1.
        TypeError: as `exact_policy_gradient`.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (13.1).

    Example:
        >>> from pgtheory import gallery
        >>> from pgtheory.softmax_policy import TabularPolicy
        >>> policy = TabularPolicy(2, 2, dtype=torch.float64)
        >>> sgd = torch.optim.SGD(policy.parameters(), lr=4.0, maximize=True)
        >>> gradient_ascent(gallery.bandit([1.0, 0.0]), policy, 1.0, optimizer=sgd, n_steps=2).performance
        tensor([0.5000, 0.8808, 0.9448], dtype=torch.float64)
    """
    n_steps = _checks.check_count("n_steps", n_steps)
    _checks.check_instance("policy", policy, SoftmaxPolicy)
    check_states(mdp, policy)
    _check_ascent(optimizer, policy)
    history = [_performance_and_parameters(mdp, policy, gamma)]
    for _ in range(n_steps):
        gradients = exact_parameter_gradient(mdp, policy, gamma)
        for name, parameter in policy.named_parameters():
            parameter.grad = gradients[name]
        optimizer.step()
        history.append(_performance_and_parameters(mdp, policy, gamma))
    values, parameters = zip(*history, strict=True)
    return Ascent(torch.stack(values), torch.stack(parameters))


def natural_policy_gradient(
    mdp: FiniteMDP, preferences: Float[Tensor, "*batch S A"], gamma: float
) -> Float[Tensor, "*batch S A"]:
    r"""The natural gradient :math:`F^{+} \nabla_h J` of a tabular softmax, which is :math:`A_\pi(s, a)`.

    Equation :eq:`eq-natural-gradient`, with the Fisher information weighted by the discounted visitation. A constant
    is free in every state: the policy does not see it. The advantage is the choice whose mean under the policy is 0.

    The Fisher information is :eq:`eq-visitation-fisher`.

    Args:
        mdp: the MDP.
        preferences: :math:`h(s, a)`.
        gamma: the discount :math:`\gamma`, in [0, 1].

    Returns:
        The direction, 0 in terminal states and outside :math:`\mathcal{A}(s)`.

    Raises:
        ValueError: as `exact_policy_gradient`.
        TypeError: as `exact_policy_gradient`.

    Source:
        Kakade, "A Natural Policy Gradient", NIPS 2001; in closed form Agarwal, Kakade, Lee and Mahajan, "On the
        Theory of Policy Gradient Methods", JMLR 2021, section 5.3.

    Example:
        >>> from pgtheory import gallery
        >>> natural_policy_gradient(gallery.bandit([1.0, 0.0]), torch.zeros(2, 2, dtype=torch.float64), 1.0)
        tensor([[ 0.5000, -0.5000],
                [ 0.0000,  0.0000]], dtype=torch.float64)
    """
    return advantages(widened(mdp), _softmax_policy(mdp, preferences), gamma).to(mdp.dtype)


def likelihood_ratio_gradient(
    mdp: FiniteMDP, preferences: Float[Tensor, "S A"], gamma: float, *, horizon: int
) -> Float[Tensor, "S A"]:
    r"""The sum :math:`\sum_\tau p(\tau) \sum_{t<T} \gamma^t G_t \nabla_h \ln\pi(A_t \mid S_t)` over all trajectories.

    Equation :eq:`eq-policy-gradient-trajectories`, term by term. It is the gradient of the expected return of the
    first `horizon` steps, and so :math:`\nabla_h J` itself where every episode ends within them.

    With a horizon that cuts episodes off it is :eq:`eq-policy-gradient-cut`.

    Args:
        mdp: the MDP.
        preferences: :math:`h(s, a)`.
        gamma: the discount :math:`\gamma`, in [0, 1].
        horizon: the number of steps after which a trajectory is cut off.

    Returns:
        The gradient.

    Raises:
        ValueError: if the shape does not fit, if a preference is NaN or +inf, if `gamma` is outside [0, 1], or if
            there are too many trajectories.
        TypeError: if `preferences` is not a tensor of floats of the MDP's dtype.

    Source:
        Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", 1992;
        with the reward to go Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, section 13.3.

    Example:
        >>> from pgtheory import gallery
        >>> bandit = gallery.bandit([1.0, 0.0])
        >>> likelihood_ratio_gradient(bandit, torch.zeros(2, 2, dtype=torch.float64), 1.0, horizon=1)
        tensor([[ 0.2500, -0.2500],
                [ 0.0000,  0.0000]], dtype=torch.float64)
    """
    policy = _softmax_policy(mdp, preferences).detach()
    _check_table("preferences", preferences)
    dtype, mdp = mdp.dtype, widened(mdp)
    trajectories, probabilities = enumerate_trajectories(mdp, policy, horizon=horizon)
    discounts = discount_factors(gamma, horizon, dtype=mdp.dtype, device=mdp.device)
    # p(τ) γ^t G_t, the weight of ∇ ln π(A_t|S_t)
    weights = probabilities[:, None] * discounts * returns_to_go(trajectories.rewards, gamma, mask=trajectories.mask)
    return log_policy_gradient(policy, add_up(trajectories, weights, policy).sum(0)).to(dtype)


def gradient_routes(
    mdp: FiniteMDP, preferences: Float[Tensor, "S A"], gamma: float, *, horizon: int | None = None
) -> dict[str, Float[Tensor, "S A"]]:
    r"""The gradient :math:`\nabla_h J` by each of the ways in this chapter, so that they can be compared.

    The theorem (:eq:`eq-softmax-gradient`); automatic differentiation of the solution of Bellman's equation; central
    differences of :math:`J`, whose error is of the sixth order in a step of 1/100; and, where a horizon is given, the
    two sums over all trajectories: with the likelihood ratio (:eq:`eq-policy-gradient-trajectories`) and by automatic
    differentiation of :math:`\sum_\tau p(\tau)\, G_0(\tau)`.

    Args:
        mdp: the MDP.
        preferences: :math:`h(s, a)`.
        gamma: the discount :math:`\gamma`, in [0, 1].
        horizon: a number of steps within which every episode ends; None leaves out the sums over trajectories.

    Returns:
        The gradient by each route, by its name; the first is `"theorem"`.

    Raises:
        ValueError: as `exact_policy_gradient`; if an episode can be longer than `horizon`.
        TypeError: as `exact_policy_gradient`.

    Source:
        Fornberg, "Generation of Finite Difference Formulas on Arbitrarily Spaced Grids", 1988, Table 1, for the
        differences; the other routes as in the functions named above.

    Example:
        >>> from pgtheory import gallery
        >>> routes = gradient_routes(gallery.bandit([1.0, 0.0]), torch.zeros(2, 2, dtype=torch.float64), 1.0, horizon=1)
        >>> for name, gradient in routes.items():
        ...     print(f"{gradient[0, 0]:.12f}  {name}")
        0.250000000000  theorem
        0.250000000000  autograd, solve
        0.250000000000  differences
        0.250000000000  likelihood ratio
        0.250000000000  autograd, sum
    """
    exact, policy = widened(mdp), _softmax_policy(mdp, preferences)
    _check_table("preferences", preferences)

    def value(h: Tensor) -> Tensor:
        return performance(exact, softmax_policy(wide(h), available=mdp.available), gamma)

    def expected_return(h: Tensor) -> Tensor:
        chosen = softmax_policy(wide(h), available=mdp.available)
        return trajectory_probabilities(exact, chosen, trajectories) @ returns

    routes = {
        "theorem": exact_policy_gradient(mdp, preferences, gamma),
        "autograd, solve": _autograd(value, preferences),
        "differences": _central_differences(value, preferences.detach()),
    }
    if horizon is not None:
        trajectories = _whole_episodes(exact, policy.detach(), horizon)
        returns = discounted_return(trajectories.rewards, gamma, mask=trajectories.mask)
        routes["likelihood ratio"] = likelihood_ratio_gradient(mdp, preferences, gamma, horizon=horizon)
        routes["autograd, sum"] = _autograd(expected_return, preferences)
    return {name: gradient.detach() for name, gradient in routes.items()}


def expected_gradient(
    loss: Loss,
    mdp: FiniteMDP,
    preferences: Float[Tensor, "S A"],
    gamma: float,
    *,
    horizon: int,
    batch_size: int = 1,
    behavior: Float[Tensor, "S A"] | None = None,
) -> Float[Tensor, "S A"]:
    r"""The exact expectation :math:`\mathbb{E}[\nabla_h\, \mathrm{loss}]` over all batches of trajectories.

    Equation :eq:`eq-expected-gradient`. The gradient flows through `log_probs` alone; the probability of a batch is
    that of drawing it, and is not differentiated. A loss is minimised, so one whose estimand is :math:`\nabla J` has
    the expected gradient :math:`-\nabla J`: no sign is changed here.

    Args:
        loss: called as `loss(log_probs, rewards, gamma, mask=mask)`, see `Loss`. It may use any torch code; what
            `torch.func.vmap` cannot run is called batch by batch, which is slower.
        mdp: the MDP.
        preferences: :math:`h(s, a)`.
        gamma: the discount :math:`\gamma`, in [0, 1]; passed to `loss`.
        horizon: the number of steps T after which a trajectory is cut off.
        batch_size: the number N of trajectories in a batch, drawn independently.
        behavior: the policy that draws the trajectories, if it is not the softmax of `preferences`. The `log_probs`
            are always those of the softmax.

    Returns:
        The expectation over all ordered batches, each weighted by the product of the probabilities.

    Raises:
        ValueError: if there are too many batches, which the message counts; if `loss` does not return a scalar, or
            has a gradient that is not finite; if `behavior` is no policy of `mdp`; if a shape does not fit; if `gamma`
            is outside [0, 1].
        TypeError: if `loss` does not return a tensor; if `preferences` is not a tensor of floats of the MDP's dtype.

    Source:
        The estimators are those of Mohamed, Rosca, Figurnov and Mnih, "Monte Carlo Gradient Estimation in Machine
        Learning", JMLR 2020, section 4; their expectation by enumeration is ours.

    Example:
        >>> from pgtheory import gallery
        >>> def loss(log_probs, rewards, gamma, *, mask):
        ...     taken = torch.where(mask, log_probs, 0.0)
        ...     return -(rewards.sum(-1, keepdim=True) * taken).sum(-1).mean()
        >>> expected_gradient(loss, gallery.bandit([1.0, 0.0]), torch.zeros(2, 2, dtype=torch.float64), 1.0, horizon=1)
        tensor([[-0.2500,  0.2500],
                [ 0.0000,  0.0000]], dtype=torch.float64)
    """
    scores, parts = _batch_slopes(loss, mdp, preferences, gamma, horizon, batch_size, behavior, has_tables=False)
    # E[∇ loss] = Σ_{batches} p(τ_1) ⋯ p(τ_N) ∇ loss(τ_1, …, τ_N)
    return scores.whole(scores.total(parts)).to(mdp.dtype)


def gradient_covariance(
    loss: Loss,
    mdp: FiniteMDP,
    preferences: Float[Tensor, "S A"],
    gamma: float,
    *,
    horizon: int,
    batch_size: int = 1,
    behavior: Float[Tensor, "S A"] | None = None,
) -> Float[Tensor, "SA SA"]:
    r"""The exact covariance :math:`\mathrm{Cov}[\nabla_h\, \mathrm{loss}]` over all batches of trajectories.

    Equation :eq:`eq-gradient-covariance`. Its trace is the mean squared distance of the estimate from its mean.

    Args:
        loss: as in `expected_gradient`.
        mdp: the MDP.
        preferences: :math:`h(s, a)`.
        gamma: the discount :math:`\gamma`, in [0, 1]; passed to `loss`.
        horizon: the number of steps T after which a trajectory is cut off.
        batch_size: the number N of trajectories in a batch, drawn independently.
        behavior: as in `expected_gradient`.

    Returns:
        A symmetric positive semi-definite matrix. Row and column :math:`s \cdot |\mathcal{A}| + a` belong to
        :math:`h(s, a)`, as in `gradient.flatten()`.

    Raises:
        ValueError: as `expected_gradient`.
        TypeError: as `expected_gradient`.

    Source:
        Greensmith, Bartlett and Baxter, "Variance Reduction Techniques for Gradient Estimates in Reinforcement
        Learning", JMLR 2004, section 2.

    Example:
        >>> from pgtheory import gallery
        >>> def loss(log_probs, rewards, gamma, *, mask):
        ...     taken = torch.where(mask, log_probs, 0.0)
        ...     return -(rewards.sum(-1, keepdim=True) * taken).sum(-1).mean()
        >>> preferences = torch.zeros(2, 2, dtype=torch.float64)
        >>> gradient_covariance(loss, gallery.bandit([1.0, 0.0]), preferences, 1.0, horizon=1).trace()
        tensor(0.1250, dtype=torch.float64)
    """
    arguments = (loss, mdp, preferences, gamma, horizon, batch_size, behavior)
    scores, parts = _batch_slopes(*arguments)
    mean = scores.total(parts)
    covariance = wide(mdp.rewards.new_zeros(mean.numel(), mean.numel()))
    for probability, batch, slopes in _batch_slopes(*arguments)[1]:
        # Centred first: E[gg^T] - E[g]E[g]^T would lose the digits that a small variance consists of.
        deviation = (scores.each(batch, slopes) - mean).flatten(1)
        covariance += (probability[:, None] * deviation).T @ deviation
    entry = torch.arange(preferences.numel(), device=mdp.device).view_as(preferences)[scores.states].flatten()
    whole = covariance.new_zeros(preferences.numel(), preferences.numel())
    return whole.index_put_((entry[:, None], entry), covariance).to(mdp.dtype)


def check_states(mdp: FiniteMDP, policy: SoftmaxPolicy) -> None:
    """Raise `ValueError` unless `policy` has the actions of `mdp` and, where it numbers its states, those too."""
    _checks.check_instance("mdp", mdp, FiniteMDP)
    if policy.n_actions != mdp.n_actions:
        raise ValueError(f"policy has {policy.n_actions} actions, but mdp has {mdp.n_actions}")
    if policy.n_states is not None and policy.n_states < mdp.n_states:
        raise ValueError(f"policy has {policy.n_states} states, but mdp has {mdp.n_states}")


def _check_ascent(optimizer: torch.optim.Optimizer, policy: SoftmaxPolicy) -> None:
    _checks.check_instance("optimizer", optimizer, torch.optim.Optimizer)
    if not all(group.get("maximize", False) for group in optimizer.param_groups):
        raise ValueError("optimizer minimises: build it with maximize=True to ascend the performance")
    _checks.check_parameters(optimizer, {"policy": policy})


def _softmax_policy(mdp: FiniteMDP, preferences: Tensor) -> Tensor:
    """π over 𝒜(s) of `mdp`, in at least float32, after checks of the arguments."""
    _checks.check_instance("mdp", mdp, FiniteMDP)
    _checks.check_floating("preferences", preferences)
    _checks.check_same_kind("preferences", preferences, "mdp", mdp.rewards)
    _checks.check_trailing_shape("preferences", preferences, (mdp.n_states, mdp.n_actions))
    return softmax_policy(wide(preferences), available=mdp.available)


@torch.no_grad()
def _performance_and_parameters(mdp: FiniteMDP, policy: SoftmaxPolicy, gamma: float) -> tuple[Tensor, Tensor]:
    table = _softmax_policy(mdp, policy.preferences(torch.arange(mdp.n_states, device=mdp.device)))
    return performance(widened(mdp), table, gamma).to(mdp.dtype), parameters_to_vector(policy.parameters()).clone()


def _autograd(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    with torch.enable_grad():
        point = point.detach().requires_grad_()
        return torch.autograd.grad(function(point), point)[0]


def _central_differences(function: Callable[[Tensor], Tensor], point: Tensor, step: float = 0.01) -> Tensor:
    """The derivatives of a scalar function, which is called on batches, by the stencil of six points."""
    moves = step * torch.eye(point.numel(), dtype=point.dtype, device=point.device).view(-1, *point.shape)
    # f′(x) ≈ [45 (f₁ − f₋₁) − 9 (f₂ − f₋₂) + (f₃ − f₋₃)] / 60ε,  f_k = f(x + kε)
    differences = [
        w * (function(point + k * moves) - function(point - k * moves)) for k, w in ((1, 45), (2, -9), (3, 1))
    ]
    return (torch.stack(differences).sum(0) / (60 * step)).view_as(point)


def _whole_episodes(mdp: FiniteMDP, policy: Tensor, horizon: int) -> Trajectories:
    trajectories, _ = enumerate_trajectories(mdp, policy, horizon=horizon)
    if trajectories.truncated.any():
        raise ValueError(f"horizon is {horizon}, but an episode can be longer: leave it out, or make it larger")
    return trajectories


def direction_moments(
    loss: Loss,
    mdp: FiniteMDP,
    preferences: Tensor,
    gamma: float,
    *,
    near: Tensor,
    horizon: int,
    batch_size: int,
    behavior: Tensor | None = None,
) -> Moments:
    """The mean and the variance of the direction of ascent, -∇ loss, over all batches, in one go through them."""
    scores, parts = _batch_slopes(loss, mdp, preferences, gamma, horizon, batch_size, behavior)
    moments = Moments(near)
    for probability, batch, slopes in parts:
        moments.add(probability, scores, batch, slopes)
    return moments


def _batch_slopes(
    loss: Loss,
    mdp: FiniteMDP,
    preferences: Tensor,
    gamma: float,
    horizon: int,
    batch_size: int,
    behavior: Tensor | None,
    *,
    has_tables: bool = True,
) -> tuple[Scores, Iterator[tuple[Tensor, Tensor, Tensor]]]:
    """The scores of the trajectories; chunk by chunk the probabilities of batches, the batches, their slopes.

    `has_tables` says whether each batch will get a table of its own, of which `TABLES` limits a chunk.
    """
    _checks.check_callable("loss", loss)
    gamma, batch_size = _checks.check_gamma(gamma), _checks.check_count("batch_size", batch_size, at_most=BATCH_LIMIT)
    policy = _softmax_policy(mdp, preferences).detach()
    _check_table("preferences", preferences)
    if behavior is not None:
        check_policy_named("behavior", mdp, behavior)
        _check_table("behavior", behavior)
    draws = policy if behavior is None else wide(behavior.detach())
    trajectories, probabilities = enumerate_trajectories(widened(mdp), draws, horizon=horizon)
    _check_number_of_batches(len(probabilities), batch_size, horizon)
    log_policy = log_softmax_policy(wide(preferences.detach()), available=mdp.available)
    log_probs = at_steps(log_policy, trajectories)
    scores = Scores(trajectories, policy, mdp.available)
    chunk = CHUNK // (batch_size * horizon)
    if has_tables:
        chunk = min(chunk, TABLES // scores.policy.numel())
    batches = _ordered_batches(len(probabilities), batch_size, max(1, chunk), policy.device)
    return scores, _each_batch(loss, gamma, batches, trajectories, probabilities, log_probs)


def _each_batch(
    loss: Loss,
    gamma: float,
    batches: Iterator[Tensor],
    trajectories: Trajectories,
    probabilities: Tensor,
    log_probs: Tensor,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for batch in batches:
        mask = trajectories.mask[batch]
        slopes = loss_slopes(loss, log_probs[batch], trajectories.rewards[batch], gamma, mask)
        _check_slopes(slopes, mask, batch)
        yield probabilities[batch].prod(-1), batch, slopes


def _ordered_batches(n: int, batch_size: int, chunk: int, device: torch.device) -> Iterator[Tensor]:
    """The n ** batch_size ordered batches of indices below n, `[chunk, batch_size]` at a time."""
    place_values = torch.tensor([n**k for k in reversed(range(batch_size))], device=device)
    for start in range(0, n**batch_size, chunk):
        numbers = torch.arange(start, min(start + chunk, n**batch_size), device=device)
        yield numbers[:, None] // place_values % n


def _check_table(name: str, table: Tensor) -> None:
    if table.ndim != 2:
        raise ValueError(f"{name} has shape {list(table.shape)}, expected [S, A] without batch axes")


def _check_number_of_batches(n: int, batch_size: int, horizon: int) -> None:
    # n^N steps are too many long before the power is: it is computed only where its logarithm is small.
    readable = batch_size * math.log(n) < 100
    if readable and n**batch_size * batch_size * horizon <= BATCH_LIMIT:
        return
    number = f" = {n**batch_size:,}" if readable else ""
    raise ValueError(
        f"there are {n:,}^{batch_size}{number} batches of {batch_size} from {n:,} trajectories, "
        f"with more than {BATCH_LIMIT:,} steps: make batch_size or horizon smaller"
    )


def _check_slopes(slopes: Tensor, mask: Tensor, batch: Tensor) -> None:
    if slopes.sum().isfinite():
        return
    bad = (mask & ~slopes.isfinite()).flatten(1).any(-1)
    if bad.any():
        raise ValueError(
            f"loss has a gradient that is not finite for the batch of trajectories {batch[bad][0].tolist()} of "
            "enumerate_trajectories"
        )
