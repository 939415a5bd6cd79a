"""Softmax policies: preferences, their probabilities, and how the probabilities respond to the parameters.

Terminal states: `FiniteMDP.available` names in its attribute `terminal` the rows that are empty because the state is
terminal. Such a row has probabilities 0, log-probabilities -inf, entropy 0, score 0. Any other empty row is an error.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol, Self, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pgtheory._checks import (
    as_indices,
    check_at_least_1d,
    check_bool,
    check_broadcasts,
    check_count,
    check_device,
    check_dtype,
    check_finite,
    check_floating,
    check_generator,
    check_has_values,
    check_not_negative,
    check_same_device,
    check_same_kind,
    check_trailing_shape,
    first_place,
    is_traced,
    named,
)
from pgtheory._precision import wide

__all__ = [
    "LinearPolicy",
    "NeuralPolicy",
    "Policy",
    "SoftmaxPolicy",
    "TabularPolicy",
    "entropy",
    "fisher_information",
    "linear_score",
    "log_softmax_policy",
    "score",
    "softmax_policy",
]


def softmax_policy(
    preferences: Float[Tensor, "*batch A"], *, available: Bool[Tensor, "*#batch A"] | None = None
) -> Float[Tensor, "*batch A"]:
    r"""The probabilities :math:`\pi(a \mid s) \propto e^{h(s,a)}` over the available actions, :eq:`eq-softmax-policy`.

    Args:
        preferences: :math:`h(s, a)`. Where `available` is False it may hold anything; -inf elsewhere is probability 0.
        available: the mask of :math:`\mathcal{A}(s)`; broadcasts against `preferences`. Default: every action.

    Returns:
        The policy, in the dtype of `preferences`: each row sums to 1 and is exactly 0 outside `available`.
        The rows of terminal states, which `mdp.available` names, are 0.

    Raises:
        TypeError: `preferences` is not floating-point, or `available` not boolean.
        ValueError: shapes or devices do not match; an available action has preference NaN or +inf;
            a row of `available` has no action; every available action of a row has preference -inf.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (13.2).

    Example:
        >>> h = torch.tensor([[1e4, 1e4], [0.0, float("nan")]], dtype=torch.float64)
        >>> softmax_policy(h, available=torch.tensor([[True, True], [True, False]]))
        tensor([[0.5000, 0.5000],
                [1.0000, 0.0000]], dtype=torch.float64)
    """
    _check_arguments(preferences, available)
    return _probabilities(preferences, available).to(preferences.dtype)


def log_softmax_policy(
    preferences: Float[Tensor, "*batch A"], *, available: Bool[Tensor, "*#batch A"] | None = None
) -> Float[Tensor, "*batch A"]:
    r"""The log-probabilities :math:`\ln\pi(a \mid s) = h(s,a) - \ln\sum_{a'} e^{h(s,a')}`, :eq:`eq-log-softmax`.

    Finite where the logarithm of `softmax_policy` has already underflowed to -inf.

    Args:
        preferences: :math:`h(s, a)`. Where `available` is False it may hold anything; -inf elsewhere is probability 0.
        available: the mask of :math:`\mathcal{A}(s)`; broadcasts against `preferences`. Default: every action.

    Returns:
        The log-probabilities, -inf exactly where the probability is 0 by the mask or by a preference of -inf.
        No gradient flows into masked preferences.

    Raises:
        TypeError: as `softmax_policy`.
        ValueError: as `softmax_policy`.

    Source:
        Blanchard, Higham and Higham, "Accurately Computing the Log-Sum-Exp and Softmax Functions", 2021, section 1.

    Example:
        >>> log_softmax_policy(torch.tensor([0.0, -1e4], dtype=torch.float64))
        tensor([     0., -10000.], dtype=torch.float64)
    """
    _check_arguments(preferences, available)
    return _log_probabilities(preferences, available).to(preferences.dtype)


def score(
    preferences: Float[Tensor, "*batch A"],
    actions: Int[Tensor, "*#batch"],
    *,
    available: Bool[Tensor, "*#batch A"] | None = None,
) -> Float[Tensor, "*batch A"]:
    r"""The score :math:`\nabla_h \ln\pi(a \mid \cdot) = e_a - \pi`, :eq:`eq-score-tabular`: the response of one row.

    It is :eq:`eq-score` for a table of preferences.

    Args:
        preferences: :math:`h(s, \cdot)`, one row per state.
        actions: the action :math:`a` of each row; broadcasts against the rows. In a terminal row it is not used.
        available: the mask of :math:`\mathcal{A}(s)`; broadcasts against `preferences`. Default: every action.

    Returns:
        One gradient per row. It sums to 0, and its mean over :math:`a \sim \pi` is 0 (:eq:`eq-score-zero-mean`).

    Raises:
        TypeError: as `softmax_policy`; `actions` does not hold integers.
        ValueError: as `softmax_policy`; an action is out of range, or one that the policy never takes.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, section 2.8 (the
        gradient bandit) and exercise 13.3.

    Example:
        >>> score(torch.zeros(4, dtype=torch.float64), torch.tensor(2))
        tensor([-0.2500, -0.2500,  0.7500, -0.2500], dtype=torch.float64)
    """
    _check_arguments(preferences, available)
    taken = _one_hot(actions, _support(preferences, available))
    # ∂ ln π(a|s) / ∂h(s,b) = 1{a = b} − π(b|s)
    return (taken.to(preferences.dtype) - _probabilities(preferences, available)).to(preferences.dtype)


def linear_score(
    features: Float[Tensor, "*#batch A d"],
    preferences: Float[Tensor, "*batch A"],
    actions: Int[Tensor, "*#batch"],
    *,
    available: Bool[Tensor, "*#batch A"] | None = None,
) -> Float[Tensor, "*batch d"]:
    r"""The score of linear preferences, :math:`x(s,a) - \sum_b \pi(b \mid s)\, x(s,b)`, :eq:`eq-score-linear`.

    Args:
        features: :math:`x(s, a) \in \mathbb{R}^d`. Where `available` is False it may hold anything.
        preferences: :math:`h(s, a) = \theta^\top x(s, a)`.
        actions: the action of each row; broadcasts against the rows.
        available: the mask of :math:`\mathcal{A}(s)`; broadcasts against `preferences`. Default: every action.

    Returns:
        :math:`\nabla_\theta \ln\pi_\theta(a \mid s)`, one vector per row: how far the features of the action taken
        lie from those of the average action.

    Raises:
        TypeError: as `score`; `features` has another dtype than `preferences`.
        ValueError: as `score`; the shape or device of `features` does not match.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (13.9).

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
        >>> linear_score(x, x @ torch.zeros(2, dtype=torch.float64), torch.tensor(0))
        tensor([ 0.3333, -0.6667], dtype=torch.float64)
    """
    _check_arguments(preferences, available)
    row_score = score(wide(preferences), actions, available=available)
    _check_features(features, preferences)
    if available is not None:
        features = torch.where(available.unsqueeze(-1), features, 0.0)
    check_finite("features", features)
    # ∇_θ ln π(a|s) = Σ_b [1{a = b} − π(b|s)] x(s,b)
    return torch.einsum("...b,...bd->...d", row_score, wide(features)).to(preferences.dtype)


def fisher_information(
    preferences: Float[Tensor, "*batch A"], *, available: Bool[Tensor, "*#batch A"] | None = None
) -> Float[Tensor, "*batch A A"]:
    r"""The matrix :math:`\mathrm{diag}(\pi) - \pi\pi^\top`, :eq:`eq-softmax-jacobian`, of each row.

    It is three things: the Jacobian :math:`\partial\pi(a \mid s)/\partial h(s,b)` of the softmax, the covariance
    of the score (the Fisher information in the preferences), and minus the Hessian of every :math:`\ln\pi(a \mid s)`.

    Args:
        preferences: :math:`h(s, \cdot)`, one row per state.
        available: the mask of :math:`\mathcal{A}(s)`; broadcasts against `preferences`. Default: every action.

    Returns:
        A symmetric positive semi-definite matrix per row, whose rows sum to 0.

    Raises:
        TypeError: as `softmax_policy`.
        ValueError: as `softmax_policy`.

    Source:
        Kakade, "A Natural Policy Gradient", NIPS 2001, section 3.

    Example:
        >>> fisher_information(torch.zeros(2, dtype=torch.float64))
        tensor([[ 0.2500, -0.2500],
                [-0.2500,  0.2500]], dtype=torch.float64)
    """
    _check_arguments(preferences, available)
    policy = _probabilities(preferences, available)
    # ∂π(a)/∂h(b) = π(a) 1{a = b} − π(a) π(b)
    products = policy.unsqueeze(-1) * policy.unsqueeze(-2)
    # π(a) (1 − π(a)) is what the rest of the row adds up to: 1 − π(a) itself has no digits left where π(a) is near 1.
    others = products - torch.diag_embed(products.diagonal(dim1=-2, dim2=-1))
    return (torch.diag_embed(others.sum(-1)) - others).to(preferences.dtype)


def entropy(
    preferences: Float[Tensor, "*batch A"], *, available: Bool[Tensor, "*#batch A"] | None = None
) -> Float[Tensor, "*batch"]:
    r"""The entropy :math:`-\sum_a \pi(a \mid s)\ln\pi(a \mid s)` in nats, with :math:`0 \ln 0 = 0`, :eq:`eq-entropy`.

    Args:
        preferences: :math:`h(s, \cdot)`, one row per state.
        available: the mask of :math:`\mathcal{A}(s)`; broadcasts against `preferences`. Default: every action.

    Returns:
        One number per row, between 0 (one certain action) and :math:`\ln|\mathcal{A}(s)|` (uniform).

    Raises:
        TypeError: as `softmax_policy`.
        ValueError: as `softmax_policy`.

    Source:
        Williams and Peng, "Function Optimization Using Connectionist Reinforcement Learning Algorithms", 1991, for
        the entropy of a policy as a bonus.

    Example:
        >>> entropy(torch.tensor([[0.0, 0.0], [0.0, -1e4]], dtype=torch.float64))
        tensor([0.6931, 0.0000], dtype=torch.float64)
    """
    _check_arguments(preferences, available)
    policy = _probabilities(preferences, available)
    log_policy = _log_probabilities(preferences, available).masked_fill(policy == 0, 0.0)
    # H(π) = Σ_a π(a|s) (−ln π(a|s))
    return (policy * -log_policy).sum(-1).to(preferences.dtype)


@runtime_checkable
class Policy(Protocol):
    r"""What the algorithms of this book ask of a policy :math:`\pi_\theta`, softmax or not.

    `states` are state numbers of a finite MDP or observation vectors, with any leading batch dimensions.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, section 13.1.

    Example:
        >>> isinstance(TabularPolicy(n_states=3, n_actions=2), Policy)
        True
    """

    n_actions: int

    def preferences(self, states: Tensor) -> Float[Tensor, "*batch A"]:
        r""":math:`h_\theta(s, \cdot)` of each state."""
        ...

    def log_probs(
        self, states: Tensor, *, available: Bool[Tensor, "*#batch A"] | None = None
    ) -> Float[Tensor, "*batch A"]:
        r""":math:`\ln\pi_\theta(\cdot \mid s)` of each state."""
        ...

    def probabilities(
        self, states: Tensor, *, available: Bool[Tensor, "*#batch A"] | None = None
    ) -> Float[Tensor, "*batch A"]:
        r""":math:`\pi_\theta(\cdot \mid s)` of each state."""
        ...

    def table(self) -> Float[Tensor, "S A"]:
        r""":math:`\pi_\theta(a \mid s)` of every state of a finite MDP."""
        ...

    def sample(
        self,
        states: Tensor,
        *,
        available: Bool[Tensor, "*#batch A"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "*batch"]:
        r"""One action :math:`A \sim \pi_\theta(\cdot \mid s)` for each state."""
        ...


class SoftmaxPolicy(nn.Module, ABC):
    r"""A policy :math:`\pi_\theta(a \mid s) \propto e^{h_\theta(s,a)}`: a subclass says what :math:`h_\theta` is.

    Args:
        n_states: how many states the policy knows by number; None if its states are observation vectors.
        n_actions: the number of actions.
        available: the mask of :math:`\mathcal{A}(s)` over all states, such as `mdp.available`. Default: every action.
        device: where `available` is kept.

    Raises:
        TypeError: `available` is not a boolean tensor; a count is not an integer.
        ValueError: `available` has the wrong shape, or a row without any action that is no terminal state.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, section 13.1.

    Example:
        >>> class Constant(SoftmaxPolicy):
        ...     def preferences(self, states):
        ...         return torch.zeros(*states.shape, self.n_actions)
        >>> Constant(2, 4).table()
        tensor([[0.2500, 0.2500, 0.2500, 0.2500],
                [0.2500, 0.2500, 0.2500, 0.2500]])
    """

    _mask: Tensor | None

    def __init__(
        self,
        n_states: int | None,
        n_actions: int,
        *,
        available: Bool[Tensor, "S A"] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.n_states = None if n_states is None else check_count("n_states", n_states)
        self.n_actions = check_count("n_actions", n_actions)
        if device is not None:
            check_device("device", device)
        self.register_buffer("_mask", self._checked_mask(available, device), persistent=False)

    def _checked_mask(self, available: Tensor | None, device: torch.device | str | None) -> Tensor | None:
        if available is None:
            return None
        if self.n_states is None:
            raise ValueError(
                "available is given but the states are not numbered, without n_states or features: pass it to "
                "log_probs and sample"
            )
        check_bool("available", available)
        if available.shape != (self.n_states, self.n_actions):
            raise ValueError(
                f"available has shape {list(available.shape)}, expected [{self.n_states}, {self.n_actions}]"
            )
        check_has_values("available", available)
        _check_rows_have_actions(available)
        return available.detach().clone().to(device or torch.get_default_device())

    @abstractmethod
    def preferences(self, states: Tensor) -> Float[Tensor, "*batch A"]:
        r"""The preferences :math:`h_\theta(s, \cdot)` of each state, masked actions included."""

    def forward(self, states: Tensor) -> Float[Tensor, "*batch A"]:
        """The same as `preferences`, so that `torch.func.functional_call` differentiates it."""
        return self.preferences(states)

    def available_in(self, states: Int[Tensor, "*batch"]) -> Bool[Tensor, "*batch A"] | None:
        r"""The mask of :math:`\mathcal{A}(s)` of each state; None if the policy was built without one."""
        if self._mask is None:
            return None
        rows = self._mask[self._state_numbers(states)]
        if not is_traced(rows):
            rows.terminal = ~rows.any(-1)  # type: ignore[attr-defined]  # the constructor accepted no other empty row
        return rows

    def log_probs(
        self, states: Tensor, *, available: Bool[Tensor, "*#batch A"] | None = None
    ) -> Float[Tensor, "*batch A"]:
        r"""The table :math:`\ln\pi_\theta(\cdot \mid s)` of each state; `available` replaces the own mask."""
        preferences = self.preferences(states)
        return log_softmax_policy(preferences, available=self.available_in(states) if available is None else available)

    def probabilities(
        self, states: Tensor, *, available: Bool[Tensor, "*#batch A"] | None = None
    ) -> Float[Tensor, "*batch A"]:
        r"""The probabilities :math:`\pi_\theta(\cdot \mid s)` of each state; `available` replaces the own mask."""
        preferences = self.preferences(states)
        return softmax_policy(preferences, available=self.available_in(states) if available is None else available)

    def table(self) -> Float[Tensor, "S A"]:
        r"""The whole policy :math:`\pi_\theta(a \mid s)`, row s for state s: what the exact methods take.

        Raises:
            ValueError: the states are observation vectors, so that there is no table.
        """
        if self.n_states is None:
            raise ValueError("the policy has no table: its states are observation vectors, not numbers")
        return self.probabilities(torch.arange(self.n_states))

    @torch.no_grad()
    def sample(
        self,
        states: Tensor,
        *,
        available: Bool[Tensor, "*#batch A"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "*batch"]:
        r"""One action :math:`A \sim \pi_\theta(\cdot \mid s)` for each state; 0 in a terminal state."""
        policy = self.probabilities(states, available=available)
        check_generator("generator", generator, "the policy", policy.device)
        uniforms = torch.rand(policy.shape[:-1], generator=generator, dtype=torch.float64, device=policy.device)
        return _inverse_distribution(policy, uniforms)

    def _state_numbers(self, states: Tensor) -> Tensor:
        assert self.n_states is not None
        return as_indices("states", states, self.n_states)


class TabularPolicy(SoftmaxPolicy):
    r"""One parameter for each state and action, :math:`h_\theta(s,a) = \theta_{s,a}`, :eq:`eq-preferences-tabular`.

    Args:
        n_states: the number of states.
        n_actions: the number of actions.
        available: the mask of :math:`\mathcal{A}(s)`, such as `mdp.available`. Default: every action.
        init_std: standard deviation of the initial parameters; 0 gives the uniform policy.
        generator: the source of the initial parameters.
        dtype: of the parameters. Default: torch's.
        device: of the parameters. Default: torch's.

    Raises:
        TypeError: `available` is not a boolean tensor; a count is not an integer.
        ValueError: a count is below 1; `available` has the wrong shape or a row without any action;
            `init_std` is negative.

    Source:
        Agarwal, Kakade, Lee and Mahajan, "On the Theory of Policy Gradient Methods", 2021, section 3.

    Example:
        >>> TabularPolicy(2, 2, dtype=torch.float64).table().detach()
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]], dtype=torch.float64)
    """

    def __init__(
        self,
        n_states: int,
        n_actions: int,
        *,
        available: Bool[Tensor, "S A"] | None = None,
        init_std: float = 0.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        n_states = check_count("n_states", n_states)
        super().__init__(n_states, n_actions, available=available, device=device)
        if dtype is not None:
            check_dtype("dtype", dtype)
        theta = torch.empty(n_states, self.n_actions, dtype=dtype, device=device)
        self.theta = nn.Parameter(_fill_normal(theta, "init_std", init_std, generator))

    @classmethod
    def from_preferences(
        cls, preferences: Float[Tensor, "S A"], *, available: Bool[Tensor, "S A"] | None = None
    ) -> Self:
        r"""The tabular policy whose parameters start at a copy of `preferences`.

        Args:
            preferences: :math:`h(s, a)`; its dtype and device become the policy's.
            available: the mask of :math:`\mathcal{A}(s)`. Default: every action.

        Returns:
            The policy.

        Raises:
            TypeError: as `softmax_policy`.
            ValueError: as `softmax_policy`; `preferences` is not a matrix.

        Example:
            >>> TabularPolicy.from_preferences(torch.tensor([[0.0, -float("inf")]])).table().tolist()
            [[1.0, 0.0]]
        """
        check_floating("preferences", preferences)
        if preferences.ndim != 2:
            raise ValueError(f"preferences has shape {list(preferences.shape)}, expected [S, A]")
        _check_arguments(preferences, available)
        policy = cls(*preferences.shape, available=available, dtype=preferences.dtype, device=preferences.device)
        with torch.no_grad():
            policy.theta.copy_(preferences)
        return policy

    def preferences(self, states: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch A"]:
        r""":math:`h_\theta(s, \cdot)`: the row of parameters of each state."""
        return self.theta[self._state_numbers(states)]


class LinearPolicy(SoftmaxPolicy):
    r"""Preferences linear in features, :math:`h_\theta(s,a) = \theta^\top x(s,a)`, :eq:`eq-preferences-linear`.

    Args:
        features: :math:`x(s, a) \in \mathbb{R}^d` of every state and action. Where `available` is False it may
            hold anything.
        available: the mask of :math:`\mathcal{A}(s)`, such as `mdp.available`. Default: every action.
        init_std: standard deviation of the initial parameters; 0 gives the uniform policy.
        generator: the source of the initial parameters.
        dtype: of parameters and features. Default: that of `features`.
        device: of parameters and features. Default: that of `features`.

    Raises:
        TypeError: `features` is not floating-point, or `available` not boolean.
        ValueError: `features` is not [S, A, d], or not finite at an available action; `available` has the wrong
            shape or a row without any action; `init_std` is negative.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, eq. (13.3).

    Example:
        >>> policy = LinearPolicy(torch.ones(3, 2, 5))
        >>> policy.theta.shape, policy.preferences(torch.tensor([0, 2])).shape
        (torch.Size([5]), torch.Size([2, 2]))
    """

    features: Tensor

    def __init__(
        self,
        features: Float[Tensor, "S A d"],
        *,
        available: Bool[Tensor, "S A"] | None = None,
        init_std: float = 0.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_floating("features", features)
        if features.ndim != 3:
            raise ValueError(f"features has shape {list(features.shape)}, expected [S, A, d]")
        features = _copied(features, dtype, device)
        super().__init__(features.shape[0], features.shape[1], available=available, device=features.device)
        if self._mask is not None:
            # A product with θ would carry a NaN of a masked action into the gradient.
            features = torch.where(self._mask.unsqueeze(-1), features, 0.0)
        if not features.is_meta:
            check_finite("features", features)
        self.register_buffer("features", features)
        self.theta = nn.Parameter(_fill_normal(features.new_empty(features.shape[2]), "init_std", init_std, generator))

    def preferences(self, states: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch A"]:
        r""":math:`h_\theta(s, \cdot) = \theta^\top x(s, \cdot)` of each state; 0 for masked actions."""
        features = wide(self.features[self._state_numbers(states)])
        return (features @ wide(self.theta)).to(self.theta.dtype)


class NeuralPolicy(SoftmaxPolicy):
    r"""Preferences that a network computes from a vector per state, :math:`h_\theta(s,\cdot) = f_\theta(x(s))`.

    With `features`, states are numbers, and row s of `features` is the input for state s; `torch.eye(S)` gives
    one-hot inputs. Without, the states are themselves vectors, such as the observations of a control task.
    The network is a stack of affine maps with tanh between them, :eq:`eq-preferences-neural`.

    Args:
        n_inputs: the length of the input vectors.
        n_actions: the number of actions.
        features: the input of every state, [S, n_inputs]; None if states come as vectors.
        hidden: the widths of the hidden layers.
        available: the mask of :math:`\mathcal{A}(s)`, for numbered states. Default: every action.
        output_scale: factor on the initial weights of the last layer: small values start near the uniform policy.
        generator: the source of the initial weights.
        dtype: of parameters and features. Default: that of `features`, or torch's.
        device: of parameters and features. Default: that of `features`, or torch's.

    Raises:
        TypeError: `features` is not floating-point, or `available` not boolean; a count is not an integer.
        ValueError: a count is below 1; `features` is not [S, n_inputs], or not finite; `available` has the wrong
            shape or a row without any action, or is given for states that come as vectors.

    Source:
        Sutton and Barto, *Reinforcement Learning: An Introduction*, 2nd ed., 2018, section 13.1; Andrychowicz
        et al., "What Matters for On-Policy Deep Actor-Critic Methods?", 2021, for `output_scale`.

    Example:
        >>> policy = NeuralPolicy(4, 2, generator=torch.Generator().manual_seed(0))
        >>> policy.probabilities(torch.zeros(3, 4)).tolist()
        [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]
    """

    features: Tensor | None

    def __init__(
        self,
        n_inputs: int,
        n_actions: int,
        *,
        features: Float[Tensor, "S n_inputs"] | None = None,
        hidden: Sequence[int] = (64,),
        available: Bool[Tensor, "S A"] | None = None,
        output_scale: float = 0.01,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.n_inputs, widths = check_count("n_inputs", n_inputs), _checked_widths(hidden)
        if dtype is not None:
            check_dtype("dtype", dtype)
        if features is not None:
            features = self._checked_features(features, dtype, device)
            dtype, device = features.dtype, features.device
        n_states = None if features is None else features.shape[0]
        super().__init__(n_states, n_actions, available=available, device=device)
        self.register_buffer("features", features)
        widths = [self.n_inputs, *widths, self.n_actions]
        self.network = _perceptron(widths, check_not_negative("output_scale", output_scale), generator, dtype, device)

    def _checked_features(
        self, features: Tensor, dtype: torch.dtype | None, device: torch.device | str | None
    ) -> Tensor:
        check_floating("features", features)
        if features.ndim != 2 or features.shape[1] != self.n_inputs:
            raise ValueError(f"features has shape {list(features.shape)}, expected [S, {self.n_inputs}]")
        check_finite("features", features)
        return _copied(features, dtype, device)

    def preferences(
        self, states: Int[Tensor, "*batch"] | Float[Tensor, "*batch n_inputs"]
    ) -> Float[Tensor, "*batch A"]:
        r""":math:`h_\theta(s, \cdot)`: the output of the network for each state."""
        preferences: Tensor = self.network(self._inputs(states))
        return preferences

    def _inputs(self, states: Tensor) -> Tensor:
        if self.features is not None:
            return self.features[self._state_numbers(states)]
        check_floating("states", states)
        check_trailing_shape("states", states, (self.n_inputs,))
        check_same_kind("states", states, "the policy", next(self.network.parameters()))
        check_finite("states", states)
        return states


def _probabilities(preferences: Tensor, available: Tensor | None) -> Tensor:
    """π in at least float32: a half cannot hold the sum of many exponentials."""
    if available is None:
        return torch.softmax(wide(preferences), -1)
    return torch.softmax(wide(_restricted(preferences, available)), -1).masked_fill(~available, 0.0)


def _log_probabilities(preferences: Tensor, available: Tensor | None) -> Tensor:
    if available is None:
        return torch.log_softmax(wide(preferences), -1)
    return torch.log_softmax(wide(_restricted(preferences, available)), -1).masked_fill(~available, -math.inf)


def _restricted(preferences: Tensor, available: Tensor) -> Tensor:
    """The preferences of the available actions, and -inf for the others; 0 throughout in a row without any action."""
    # A row of -inf alone would be 0/0: NaN in the value and in the gradient.
    outside = torch.where(available.any(-1, keepdim=True), -math.inf, 0.0).to(preferences.dtype)
    return torch.where(available, preferences, outside)


def _support(preferences: Tensor, available: Tensor | None) -> Tensor:
    """Where π(a|s) > 0: the available actions whose preference is not -inf."""
    possible = preferences != -math.inf
    return possible if available is None else possible & available


def _check_arguments(preferences: Tensor, available: Tensor | None) -> None:
    check_floating("preferences", preferences)
    check_at_least_1d("preferences", preferences, "the actions")
    if preferences.shape[-1] == 0:
        raise ValueError(f"preferences has shape {list(preferences.shape)}: there is no action")
    if available is not None:
        _check_mask(preferences, available)
    check_has_values("preferences", preferences)
    _check_preferences(preferences, available)


def _check_mask(preferences: Tensor, available: Tensor) -> None:
    check_bool("available", available)
    check_same_device("available", available, "preferences", preferences)
    check_trailing_shape("available", available, (preferences.shape[-1],))
    check_broadcasts("available", available.shape[:-1], "preferences", preferences.shape[:-1])
    if not is_traced(available):
        _check_rows_have_actions(available)


def _check_rows_have_actions(available: Tensor) -> None:
    empty, terminal = ~available.any(-1), getattr(available, "terminal", None)
    faulty = empty if terminal is None else empty & ~terminal
    if faulty.any():
        raise ValueError(
            f"available has no action{_at(faulty, 's')}: only a terminal state of mdp.available may have none"
        )


def _check_preferences(preferences: Tensor, available: Tensor | None) -> None:
    if is_traced(preferences, available):
        return
    candidates = preferences if available is None else torch.where(available, preferences, -math.inf)
    if candidates.amax(-1).isfinite().all():
        return
    allowed = torch.ones_like(preferences, dtype=torch.bool) if available is None else available
    bad = allowed & ~(preferences < math.inf)
    if bad.any():
        value = preferences.expand_as(bad)[bad][0].item()
        raise ValueError(f"preferences is {value}{_at(bad, 'sa')}: an available action needs a number, or -inf")
    never = allowed.any(-1) & ~(allowed & (preferences != -math.inf)).any(-1)
    if never.any():
        raise ValueError(f"preferences is -inf for every available action{_at(never, 's')}: one must be finite")


def _one_hot(actions: Tensor, support: Tensor) -> Tensor:
    """Where the action taken is, as booleans; checks that it can be taken."""
    actions = as_indices("actions", actions, support.shape[-1])
    check_same_device("actions", actions, "preferences", support)
    check_broadcasts("actions", actions.shape, "preferences", support.shape[:-1])
    taken = (actions.unsqueeze(-1) == torch.arange(support.shape[-1], device=actions.device)) & support
    if is_traced(actions, support):
        return taken
    actions = actions.expand(taken.shape[:-1])
    bad = ~taken.any(-1) & support.any(-1)
    if bad.any():
        raise ValueError(f"actions is {actions[bad][0].item()}{_at(bad)}, an action of probability 0: it has no score")
    return taken


def _check_features(features: Tensor, preferences: Tensor) -> None:
    check_floating("features", features)
    check_same_kind("features", features, "preferences", preferences)
    n_actions = preferences.shape[-1]
    if features.ndim < 2 or features.shape[-2] != n_actions:
        raise ValueError(f"features has shape {list(features.shape)}, expected [..., {n_actions}, d]")
    check_broadcasts("features", features.shape[:-2], "preferences", preferences.shape[:-1])


def _at(bad: Tensor, names: str = "") -> str:
    """The first place of `bad` as ` at s=3`, or nothing if there is no axis."""
    return f" at {first_place(bad, names[-bad.ndim :])}" if bad.ndim else ""


def _inverse_distribution(policy: Tensor, uniforms: Tensor) -> Tensor:
    """The first action whose cumulative probability exceeds u in [0, 1); never one of probability 0."""
    # F(a) = Σ_{b ≤ a} π(b|s);  A = min {a : π(a|s) > 0, F(a) > u max F}
    cumulative = torch.where(policy > 0, policy.double().cumsum(-1), 0.0)
    threshold = uniforms.unsqueeze(-1) * cumulative.amax(-1, keepdim=True)
    return (cumulative > threshold).to(torch.uint8).argmax(-1)


def _copied(features: Tensor, dtype: torch.dtype | None, device: torch.device | str | None) -> Tensor:
    if dtype is not None:
        check_dtype("dtype", dtype)
    if device is not None:
        check_device("device", device)
    if features.is_meta and (device is None or torch.device(device).type != "meta"):
        check_has_values("features", features)
    return features.detach().to(device, dtype, copy=True)


def _checked_widths(hidden: Sequence[int]) -> list[int]:
    if isinstance(hidden, (str, bytes)) or not isinstance(hidden, Sequence):
        raise TypeError(f"hidden must be a sequence of widths, not {named(hidden)}")
    return [check_count("hidden", width) for width in hidden]


def _fill_normal(parameter: Tensor, name: str, std: float, generator: torch.Generator | None) -> Tensor:
    std = check_not_negative(name, std)
    check_generator("generator", generator, "the policy", parameter.device)
    return parameter.normal_(generator=generator).mul_(std) if std > 0 else parameter.zero_()


def _perceptron(
    widths: Sequence[int],
    output_scale: float,
    generator: torch.Generator | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> nn.Sequential:
    """Affine maps with tanh between them; weights N(0, 1/fan-in), those of the last map scaled; biases 0."""
    check_generator("generator", generator, "the policy", torch.device(device or torch.get_default_device()))
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        # Made on the meta device, because nn.Linear would draw its own weights from the global generator.
        layer = nn.Linear(fan_in, fan_out, dtype=dtype, device="meta")
        layer.to_empty(device=device or torch.get_default_device())
        scale = output_scale if len(layers) == 2 * (len(widths) - 2) else 1.0
        with torch.no_grad():
            layer.weight.normal_(generator=generator).mul_(scale / math.sqrt(fan_in))
            layer.bias.zero_()
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])
