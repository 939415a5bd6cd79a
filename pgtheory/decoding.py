r"""From the policy to the tokens: greedy, temperature, top-k, top-p, min-p and sampling, as maps of logits
:math:`[\dots, V]`; and beam search, which looks for a probable sequence.

A filter leaves the logits of the tokens that it keeps and sets the others to :math:`-\infty`: the softmax of the
result is the distribution :math:`\pi'` that is really sampled from. Equal logits are ranked by index everywhere, the
lower index first.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgtheory import _compiled
from pgtheory._checks import (
    FLOATING,
    check_at_least_1d,
    check_count,
    check_finite,
    check_floating,
    check_generator,
    check_has_values,
    check_not_negative,
    check_real,
    check_room,
    check_same_device,
    check_unit_interval,
    first_place,
    is_traced,
    probability_tolerance,
)
from pgtheory._precision import wide
from pgtheory.mdp import FiniteMDP, check_policy
from pgtheory.trajectories import Trajectories

__all__ = [
    "beam_search",
    "decode",
    "decoded_policy",
    "decoding_distribution",
    "decoding_logits",
    "greedy",
    "gumbel_max",
    "inverse_cdf",
    "min_p",
    "sample",
    "temperature",
    "top_k",
    "top_p",
]

TIE_FRACTION = 1e-4
"""A set whose mass falls short of p by less than this part of the next token's probability may count as reaching p."""

_BINS = 4096  # of one pass of the search for the crossing token
_SORT_UP_TO = 4096  # tokens: below, one sort is faster than the search
_SORT_UP_TO_COMPILED = 512  # ... than the compiled one


def greedy(logits: Float[Tensor, "*batch V"]) -> Int[Tensor, "*batch"]:
    r"""The most probable token, :math:`\operatorname{argmax}_a \pi(a)`; of several, the first. :eq:`eq-greedy`

    Args:
        logits: Preferences :math:`[\dots, V]`; :math:`-\infty` for a token that is not available.

    Returns:
        Indices :math:`[\dots]`, `torch.int64`.

    Raises:
        TypeError: `logits` is not a tensor of floating-point numbers.
        ValueError: `logits` holds NaN or :math:`+\infty`, or a row of nothing but :math:`-\infty`.

    Source:
        Sutton and Barto (2018), equation 2.2.

    Example:
        >>> greedy(torch.tensor([1.0, 3.0, 3.0]))
        tensor(1)
    """
    _check_logits(logits)
    return logits.max(-1).indices  # of the first maximum, says torch's documentation


def temperature(logits: Float[Tensor, "*batch V"], tau: float) -> Float[Tensor, "*batch V"]:
    r"""Logits divided by τ, so that the softmax is proportional to :math:`\pi^{1/\tau}`. :eq:`eq-temperature`

    At τ = 0 the greedy token alone is kept. Where the quotient would overflow, the row's largest logit is subtracted
    first: the softmax is the same.

    The probabilities are those of :eq:`eq-softmax-scaled`.

    Args:
        logits: Preferences :math:`[\dots, V]`.
        tau: The temperature, at least 0.

    Returns:
        Logits :math:`[\dots, V]` of the distribution at temperature τ.

    Raises:
        TypeError: `logits` is not a tensor of floating-point numbers, or `tau` is not a number.
        ValueError: `tau` is negative, NaN or infinite; or `logits` as for `greedy`.

    Source:
        Hinton, Vinyals and Dean (2015), equation 1; Ackley, Hinton and Sejnowski (1985).

    Example:
        >>> temperature(torch.tensor([0.0, 1.0]), 0.5)
        tensor([0., 2.])
        >>> temperature(torch.tensor([0.0, 1.0]), 0.0)
        tensor([-inf, 1.])
    """
    _check_logits(logits)
    tau = _check_tau("tau", tau)
    if tau == 0.0:
        return top_k(logits, 1)
    if tau < 2 / torch.finfo(wide(logits).dtype).max:  # so that 1/τ, by which some kernels multiply, is finite
        return _sharpened(logits, tau)
    scaled = logits / tau
    if not is_traced(logits) and not _may_overflow(logits.detach(), tau):
        return scaled
    overflows = (scaled.isinf() & logits.isfinite()).any(-1, keepdim=True)
    return torch.where(overflows, (logits - logits.amax(-1, keepdim=True)) / tau, scaled)


def top_k(logits: Float[Tensor, "*batch V"], k: int) -> Float[Tensor, "*batch V"]:
    r"""The logits of the min(k, V) most probable tokens; the others become :math:`-\infty`. :eq:`eq-top-k`

    Args:
        logits: Preferences :math:`[\dots, V]`.
        k: How many tokens to keep, at least 1. Of tokens tied with the k-th, those of lower index stay.

    Returns:
        Logits :math:`[\dots, V]` with exactly min(k, V) tokens kept.

    Raises:
        TypeError: `logits` is not a tensor of floating-point numbers, or `k` is not an integer.
        ValueError: `k` is less than 1; or `logits` as for `greedy`.

    Source:
        Fan, Lewis and Dauphin (2018), who draw from the 10 most probable words.

    Example:
        >>> top_k(torch.tensor([2.0, 1.0, 2.0, 2.0]), 2)
        tensor([2., -inf, 2., -inf])
    """
    _check_logits(logits)
    k = check_count("k", k)
    if k >= logits.shape[-1]:
        return logits.clone()
    if is_traced(logits):
        boundary = logits.detach().topk(k, sorted=False).values.amin(-1, keepdim=True)
        return _keep_from(logits, boundary, k - (logits.detach() > boundary).sum(-1, keepdim=True))
    index = _largest(logits.detach(), k)[1]
    return torch.full_like(logits, -math.inf).scatter_(-1, index, logits.gather(-1, index))


def top_p(logits: Float[Tensor, "*batch V"], p: float) -> Float[Tensor, "*batch V"]:
    r"""The nucleus: the fewest most probable tokens whose mass reaches p, the crossing one included. :eq:`eq-top-p`

    A token stays while the mass *before* it is less than p; the most probable one always stays, and p = 1 keeps all.
    Mass is summed in float64. A set counts as reaching p when its shortfall is within rounding (8 eps of float32, or
    of float64 where the logits have it, plus V eps of float64 for the sum) and less than `TIE_FRACTION` of the next
    token's probability: so float32 logarithms of 1/2, 1/4, 1/8, 1/8 reach p = 3/4 with two tokens. Logits of 16 bits
    are taken as exact.

    Eager calls search for the crossing token and depend on the data (compiled, with the extra `fast`); under
    `torch.func` transforms and `torch.compile` the vocabulary is sorted instead, with the same result.

    Args:
        logits: Preferences :math:`[\dots, V]`.
        p: The mass to reach, in (0, 1].

    Returns:
        Logits :math:`[\dots, V]` with the nucleus kept.

    Raises:
        TypeError: `logits` is not a tensor of floating-point numbers, or `p` is not a number.
        ValueError: `p` is not in (0, 1]; or `logits` as for `greedy`.

    Source:
        Holtzman, Buys, Du, Forbes and Choi (2020), section 3.1.

    Example:
        >>> top_p(torch.tensor([0.125, 0.5, 0.25, 0.125]).log(), 0.75).softmax(-1)
        tensor([0.0000, 0.6667, 0.3333, 0.0000])
    """
    largest = _check_logits(logits)
    p = _check_p("p", p)
    if p == 1.0:
        return logits.clone()
    n_tokens = logits.shape[-1]
    if n_tokens > _SORT_UP_TO_COMPILED and _compiled.takes_over(logits, dtypes=FLOATING):
        kept = _compiled_nucleus(logits, largest, p)
        through_kept = logits.requires_grad and torch.is_grad_enabled()
        return logits.masked_fill(kept == -math.inf, -math.inf) if through_kept else kept
    values = _at_least_float32(logits.detach())
    if is_traced(logits) or logits.device.type != "cpu" or n_tokens <= _SORT_UP_TO:
        return logits.masked_fill(~_nucleus_by_sorting(values, p, n_tokens), -math.inf)
    rows = [_nucleus_boundary(row, p) for row in values.reshape(-1, n_tokens)]
    boundary, n_ties, n_equal = torch.tensor(rows, dtype=torch.float64).view(*logits.shape[:-1], 3, 1).unbind(-2)
    return _keep_from(logits, boundary.to(logits.dtype), None if bool((n_ties >= n_equal).all()) else n_ties)


def min_p(logits: Float[Tensor, "*batch V"], p: float) -> Float[Tensor, "*batch V"]:
    r"""The tokens that are at least p times as probable as the most probable one. :eq:`eq-min-p`

    Tokens of one probability stay or go together, so p = 1 keeps every maximum, and p = 0 keeps all. A token counts as
    reaching the threshold if it falls short of it by no more than the rounding of the logits (8 eps of float32, or of
    float64 where the logits have it): float32 logarithms of 1/2 and 1/4 keep both at p = 1/2.

    Args:
        logits: Preferences :math:`[\dots, V]`.
        p: The threshold, as a part of the largest probability, in [0, 1].

    Returns:
        Logits :math:`[\dots, V]` with the tokens below the threshold at :math:`-\infty`.

    Raises:
        TypeError: `logits` is not a tensor of floating-point numbers, or `p` is not a number.
        ValueError: `p` is not in [0, 1]; or `logits` as for `greedy`.

    Source:
        Nguyen, Baker, Neo, Roush, Kirsch and Shwartz-Ziv (2024), who scale a base threshold by the largest probability.

    Example:
        >>> min_p(torch.tensor([0.125, 0.5, 0.25, 0.125]).log(), 0.5).softmax(-1)
        tensor([0.0000, 0.6667, 0.3333, 0.0000])
    """
    _check_logits(logits)
    p = check_unit_interval("p", p)
    values = _at_least_float32(logits.detach())
    # π(a) / max π < p, less what rounding may have taken from the left side
    below = _weights(values) < p * (1 - 8 * torch.finfo(values.dtype).eps)
    return logits.masked_fill(below, -math.inf)


def inverse_cdf(logits: Float[Tensor, "*batch V"], uniforms: Float[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    r"""The first token whose cumulative probability exceeds u, in the order of the indices. :eq:`eq-inverse-cdf`

    A token of probability 0 is never returned. The cumulative sum is taken in float64.

    Args:
        logits: Preferences :math:`[\dots, V]`.
        uniforms: Numbers u in [0, 1), one for each row, float64.

    Returns:
        Indices :math:`[\dots]`, `torch.int64`.

    Raises:
        TypeError: `logits` or `uniforms` is not a tensor of floating-point numbers.
        ValueError: `uniforms` leaves [0, 1) or has not one number for each row; or `logits` as for `greedy`.

    Source:
        Devroye (1986), chapter III, section 2.

    Example:
        >>> half_and_half = torch.tensor([0.0, -torch.inf, 0.0]).expand(3, 3)
        >>> inverse_cdf(half_and_half, torch.tensor([0.0, 0.49, 0.5], dtype=torch.float64))
        tensor([0, 0, 2])
    """
    largest = _check_logits(logits)
    _check_uniforms(uniforms, logits)
    if _compiled.takes_over(logits, uniforms, dtypes=FLOATING):
        return _compiled_inverse_cdf(logits, largest, uniforms)
    cumulative = _weights(logits.detach()).cumsum(-1)
    # u times the total, rather than u against probabilities: the last sum is then exceeded by no u < 1.
    reached = uniforms.unsqueeze(-1) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, reached, right=True).squeeze(-1)


def sample(logits: Float[Tensor, "*batch V"], *, generator: torch.Generator | None = None) -> Int[Tensor, "*batch"]:
    r"""One token of each row, drawn from the softmax of the logits by `inverse_cdf`.

    Equation :eq:`eq-inverse-cdf`.

    Args:
        logits: Preferences :math:`[\dots, V]`; :math:`-\infty` for a token that must not be drawn.
        generator: Source of the random numbers, on the device of the logits.

    Returns:
        Indices :math:`[\dots]`, `torch.int64`.

    Raises:
        TypeError: `logits` is not a tensor of floating-point numbers.
        ValueError: `generator` is on another device; or `logits` as for `greedy`.

    Source:
        Devroye (1986), chapter III, section 2. (`torch.multinomial` stops at 2^24 categories and works in the
        precision of the probabilities.)

    Example:
        >>> sample(torch.tensor([[-torch.inf, 0.0], [5.0, -torch.inf]]))
        tensor([1, 0])
    """
    _check_logits(logits)
    check_generator("generator", generator, "logits", logits.device)
    uniforms = torch.rand(logits.shape[:-1], dtype=torch.float64, device=logits.device, generator=generator)
    return inverse_cdf(logits, uniforms)


def gumbel_max(logits: Float[Tensor, "*batch V"], *, generator: torch.Generator | None = None) -> Int[Tensor, "*batch"]:
    r"""One token of each row, drawn from the softmax of the logits: `greedy` after adding noise. :eq:`eq-gumbel-max`

    Each logit gets Gumbel noise :math:`-\ln(-\ln u)` of its own, with u uniform and float64. No sum and no softmax is
    needed, and a token of probability 0 is never drawn.

    Args:
        logits: Preferences :math:`[\dots, V]`; :math:`-\infty` for a token that must not be drawn.
        generator: Source of the random numbers, on the device of the logits: one for each logit.

    Returns:
        Indices :math:`[\dots]`, `torch.int64`.

    Raises:
        TypeError: `logits` is not a tensor of floating-point numbers.
        ValueError: `generator` is on another device; or `logits` as for `greedy`.

    Source:
        Maddison, Tarlow and Minka (2014), who name older sources.

    Example:
        >>> gumbel_max(torch.tensor([[-torch.inf, 0.0], [50.0, -torch.inf]]))
        tensor([1, 0])
    """
    _check_logits(logits)
    check_generator("generator", generator, "logits", logits.device)
    uniforms = torch.rand(logits.shape, dtype=torch.float64, device=logits.device, generator=generator)
    # The generator may give 0, whose noise would be infinite; half of its next number takes the place.
    noise = -(-uniforms.clamp(min=2.0**-54).log()).log()
    return greedy(logits.detach() + noise)


# The arguments of the next four functions carry the names of the filters that they pass through.
_temperature, _top_k, _top_p, _min_p = temperature, top_k, top_p, min_p


def decoding_logits(
    logits: Float[Tensor, "*batch V"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Float[Tensor, "*batch V"]:
    r"""The logits of π′: temperature, top-k, top-p, min-p, each on the result before it. :eq:`eq-decoding-map`

    Args:
        logits: Preferences :math:`[\dots, V]`.
        temperature: The temperature τ, at least 0; 0 keeps the greedy token alone.
        top_k: Tokens to keep, at least 1; None keeps all.
        top_p: Mass to reach, in (0, 1]; None keeps all.
        min_p: Threshold as a part of the largest probability, in [0, 1]; None keeps all.

    Returns:
        Logits :math:`[\dots, V]`, :math:`-\infty` for the tokens left out.

    Raises:
        TypeError: `logits`, `temperature`, `top_k`, `top_p` or `min_p` has the wrong type.
        ValueError: `temperature` is negative or not finite, `top_k` < 1, `top_p` not in (0, 1], or `min_p` not in
            [0, 1]; or `logits` as for `greedy`.

    Source:
        The order is that of `transformers` (Wolf et al., 2020).

    Example:
        >>> decoding_logits(torch.tensor([0.0, 1.0, 2.0]), temperature=0.5, top_k=2)
        tensor([-inf, 2., 4.])
    """
    tau, k, p, least = _check_options(temperature, top_k, top_p, min_p)
    filtered = _temperature(logits, tau)
    filtered = filtered if k is None else _top_k(filtered, k)
    filtered = filtered if p is None else _top_p(filtered, p)
    return filtered if least is None else _min_p(filtered, least)


def decoding_distribution(
    logits: Float[Tensor, "*batch V"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Float[Tensor, "*batch V"]:
    r"""The distribution π′ that `decode` samples from, as a table: the map π → π′. :eq:`eq-decoding-map`

    Args:
        logits: Preferences :math:`[\dots, V]`; for a policy given as probabilities, their logarithms.
        temperature: The temperature τ, at least 0; 0 gives the greedy token probability 1.
        top_k: Tokens to keep, at least 1; None keeps all.
        top_p: Mass to reach, in (0, 1]; None keeps all.
        min_p: Threshold as a part of the largest probability, in [0, 1]; None keeps all.

    Returns:
        Probabilities :math:`[\dots, V]`; exactly 0 for the tokens left out.

    Raises:
        TypeError: As for `decoding_logits`.
        ValueError: As for `decoding_logits`.

    Source:
        Holtzman, Buys, Du, Forbes and Choi (2020), section 3.1.

    Example:
        >>> decoding_distribution(torch.tensor([0.5, 0.25, 0.25]).log(), temperature=0.5)
        tensor([0.6667, 0.1667, 0.1667])
    """
    decoded = decoding_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    return wide(decoded).softmax(-1).to(decoded.dtype)


def decoded_policy(
    policy: Float[Tensor, "*batch S A"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Float[Tensor, "*batch S A"]:
    r"""The table of π′ for a table of π: `decoding_distribution` in every state. :eq:`eq-decoding-map`

    Args:
        policy: Probabilities π(a|s), :math:`[\dots, S, A]`; a row of zeros, as of a terminal state, stays as it is.
        temperature: The temperature τ, at least 0.
        top_k: Actions to keep in each state, at least 1; None keeps all.
        top_p: Mass to reach in each state, in (0, 1]; None keeps all.
        min_p: Threshold in each state, as a part of its largest probability, in [0, 1]; None keeps all.

    Returns:
        Probabilities π′(a|s), :math:`[\dots, S, A]`.

    Raises:
        TypeError: As for `decoding_logits`.
        ValueError: As for `decoding_logits`; or an entry of `policy` is negative or not finite, or a row sums to
            neither 1 nor 0.

    Source:
        Holtzman, Buys, Du, Forbes and Choi (2020), section 3.1, applied state by state.

    Example:
        >>> decoded_policy(torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.0, 0.0]]), top_k=2)
        tensor([[0.6250, 0.3750, 0.0000],
                [0.0000, 0.0000, 0.0000]])
    """
    check_floating("policy", policy)
    if policy.ndim < 2 or policy.shape[-1] == 0:
        raise ValueError(f"policy has shape {list(policy.shape)}, expected [..., S, A]")
    check_finite("policy", policy)
    if not is_traced(policy) and bool((policy < 0).any()):
        raise ValueError(f"policy is negative at {first_place(policy < 0)}")
    _check_sums(policy)
    positive = policy > 0
    acts = positive.any(-1, keepdim=True)
    # log 0 = -inf, with no gradient through it; a row without actions is set aside.
    logits = torch.where(positive, policy, 1).log().masked_fill(~positive & acts, -math.inf)
    decoded = decoding_distribution(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    return torch.where(acts, decoded, policy)


def decode(
    logits: Float[Tensor, "*batch V"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "*batch"]:
    r"""One token of each row, drawn from π′: temperature, top-k, top-p, min-p, then `sample`. :eq:`eq-decoding-map`

    After top-k, only the k tokens that it keeps are worked on.

    Args:
        logits: Preferences :math:`[\dots, V]`.
        temperature: The temperature τ, at least 0; 0 is greedy decoding.
        top_k: Tokens to keep, at least 1; None keeps all.
        top_p: Mass to reach, in (0, 1]; None keeps all.
        min_p: Threshold as a part of the largest probability, in [0, 1]; None keeps all.
        generator: Source of the random numbers, on the device of the logits.

    Returns:
        Indices :math:`[\dots]`, `torch.int64`.

    Raises:
        TypeError: As for `decoding_logits`.
        ValueError: As for `decoding_logits` and `sample`.

    Source:
        The order is that of `transformers` (Wolf et al., 2020).

    Example:
        >>> decode(torch.tensor([0.0, 3.0, 3.0]), temperature=0)
        tensor(1)
    """
    tau, k, p, least = _check_options(temperature, top_k, top_p, min_p)
    _check_logits(logits)
    n_tokens, k = logits.shape[-1], 1 if tau == 0 else k
    if k is None or k >= n_tokens or is_traced(logits):
        filtered = decoding_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        return sample(filtered, generator=generator)
    kept, index = _largest(logits.detach(), k, 1.0 if tau == 0 else tau)
    if p is not None and p < 1:
        kept = kept.masked_fill(~_nucleus_by_sorting(_at_least_float32(kept), p, n_tokens), -math.inf)
    kept = kept if least is None else _min_p(kept, least)
    return index.gather(-1, sample(kept, generator=generator).unsqueeze(-1)).squeeze(-1)


def beam_search(
    mdp: FiniteMDP, policy: Float[Tensor, "S A"], width: int, *, horizon: int, start: int | None = None
) -> tuple[Trajectories, Float[Tensor, "N"]]:
    r"""The sequences that a beam of this width keeps, the most probable first, and their log-probabilities.

    After each step the `width` most probable sequences are kept, of the finished ones and of all continuations of the
    others: :eq:`eq-beam-search`. Of equally probable ones those stay, and come first, that are first in the order of
    their actions. Width 1 is greedy decoding; with as many as there are sequences the first is the most probable of
    all.

    Args:
        mdp: an MDP in which an action has one outcome, such as a `token_tree`.
        policy: the table of :math:`\pi(a \mid s)`, `[S, A]`; the rows of terminal states are not read.
        width: how many sequences are kept, at least 1.
        horizon: the number of steps after which a sequence that has not ended is cut off.
        start: the state, such as a prompt, from which to search; None takes the one that `mdp` starts in.

    Returns:
        At most `width` different trajectories, with as many columns as the longest has steps, and
        :math:`\sum_t \ln \pi(A_t \mid S_t)` of each, which is differentiable in `policy`.

    Raises:
        TypeError: `mdp` is not a `FiniteMDP`, `policy` not a tensor of its dtype, or a number not an integer.
        ValueError: `policy` is no policy of `mdp`; an action of `mdp` has several outcomes; `width` or `horizon` is
            less than 1; `start` is no state, or is None where `mdp` can start in several.

    Source:
        Stahlberg and Byrne (2019), algorithm 1.

    Example:
        >>> from pgtheory.gallery import tiny_language, tiny_language_model
        >>> language, model = tiny_language(), tiny_language_model()
        >>> beam, log_probs = beam_search(language, model, 2, horizon=2)
        >>> [language.state_names[s] for s in beam.states[:, -1]], log_probs.exp()
        (['good .', 'not good'], tensor([0.2100, 0.2000], dtype=torch.float64))
    """
    check_policy(mdp, policy)
    if policy.ndim != 2:
        raise ValueError(f"policy has shape {list(policy.shape)}, expected [S, A]: one table")
    width, horizon = check_count("width", width), check_count("horizon", horizon)
    outcome = _certain_outcomes(mdp)
    states = torch.tensor([[_start_state(mdp, start)]], device=mdp.device)
    actions, scores = states[:, :0], torch.zeros(1, dtype=torch.float64, device=mdp.device)
    while actions.shape[1] < horizon and not bool(mdp.terminal[states[:, -1]].all()):
        check_room("beam_search, at this width and horizon,", len(states), mdp.n_actions + actions.shape[1])
        row, action, scores = _kept(scores, policy.detach()[states[:, -1]], mdp.terminal[states[:, -1]], width)
        last = states[row, -1]
        following = torch.where(mdp.terminal[last], last, mdp.outcomes.next_state[outcome[last, action]])
        states = torch.cat([states[row], following[:, None]], 1)
        actions = torch.cat([actions[row], action[:, None]], 1)
    order = scores.sort(descending=True, stable=True).indices
    states, actions = states[order], actions[order]
    taken = ~mdp.terminal[states[:, :-1]]
    rewards = mdp.rewards[mdp.outcomes.reward_index[outcome[states[:, :-1], actions]]].where(taken, 0.0)
    log_probs = wide(policy[states[:, :-1], actions]).where(taken, 1.0).log().sum(-1).to(policy.dtype)
    ended = mdp.terminal[states[:, -1]]
    return Trajectories(states, actions, rewards, taken, ended, ~ended), log_probs


def _certain_outcomes(mdp: FiniteMDP) -> Tensor:
    """The number of the one outcome of each action, [S, A]; 0 where a is not in A(s)."""
    row = mdp.outcomes.state * mdp.n_actions + mdp.outcomes.action
    several = row[1:] == row[:-1]  # the outcomes are sorted
    if bool(several.any()):
        s, a = divmod(int(row[1:][several][0]), mdp.n_actions)
        raise ValueError(f"mdp has several outcomes at s={s}, a={a}: a beam needs what follows an action to be certain")
    outcome = row.new_zeros(mdp.n_states * mdp.n_actions).index_copy_(0, row, torch.arange(len(row), device=mdp.device))
    return outcome.view(mdp.n_states, mdp.n_actions)


def _start_state(mdp: FiniteMDP, start: int | None) -> int:
    """The state from which to search."""
    if start is not None:
        start = check_count("start", start, at_least=0)
        if start >= mdp.n_states:
            raise ValueError(f"start is {start}, not in 0..{mdp.n_states - 1}")
        return start
    possible = mdp.initial.nonzero()[:, 0]
    if len(possible) > 1:
        raise ValueError(f"mdp can start in {len(possible)} states: name one of them as start")
    return int(possible[0])


def _kept(scores: Tensor, probabilities: Tensor, ended: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which row each kept sequence continues, by which action, and its score; rows are in the order of their actions.

    A sequence that has ended has one continuation, itself, under action 0.
    """
    itself = torch.eye(1, probabilities.shape[1], dtype=probabilities.dtype, device=probabilities.device)
    longer = scores[:, None] + torch.where(ended[:, None], itself, probabilities).double().log()
    best = longer.flatten().sort(descending=True, stable=True).indices[:width]
    best = best[longer.flatten()[best] > -math.inf].sort().values  # in the order of the actions again
    return best // longer.shape[1], best % longer.shape[1], longer.flatten()[best]


def _sharpened(logits: Tensor, tau: float) -> Tensor:
    """(z − max z) / τ for a temperature below the normal numbers of the dtype, in float64 and in two steps."""
    root = math.sqrt(tau)
    below = (logits - logits.amax(-1, keepdim=True)).double() / root / root
    return below.to(logits.dtype)


def _check_sums(policy: Tensor) -> None:
    """Raise `ValueError` unless each row is a distribution, or zero."""
    total = policy.sum(-1, dtype=torch.promote_types(policy.dtype, torch.float32))
    bad = (total != 0) & ~((total - 1).abs() <= probability_tolerance(policy.dtype))
    if not is_traced(policy) and bool(bad.any()):
        raise ValueError(f"policy sums to {total[bad][0].item():.10g} at {first_place(bad)}, not 1")


def _may_overflow(logits: Tensor, tau: float) -> bool:
    """Whether a finite logit divided by τ may be infinite."""
    if tau >= 1 or logits.numel() == 0:
        return False
    limit = tau * torch.finfo(logits.dtype).max / 2  # half: room for rounding
    least, largest = (x.item() for x in logits.aminmax())
    return (least < -limit or largest > limit) and bool(((logits.abs() > limit) & logits.isfinite()).any())


def _largest(logits: Tensor, k: int, tau: float = 1.0) -> tuple[Tensor, Tensor]:
    """The k < V largest logits of each row divided by τ, of ties the first, and their indices, in ascending order."""
    if logits.dtype in _compiled.DTYPES and _compiled.takes_over(logits) and not _may_overflow(logits, tau):
        return _compiled_largest(logits, k, tau)
    scaled = temperature(logits, tau) if tau != 1 else logits
    if _compiled.takes_over(scaled, dtypes=FLOATING):  # of 16 bits: a quotient is rounded, so that there are ties
        values, index = _compiled_largest(scaled.float(), k, 1.0)
        return values.to(logits.dtype), index
    best, index = scaled.topk(k + 1)
    splits_ties = (best[..., k] == best[..., k - 1]) & (best[..., k] > -math.inf)
    index = index[..., :k]
    if bool(splits_ties.any()):
        index[splits_ties] = _first_from(scaled[splits_ties], best[splits_ties][:, k - 1 : k], k)
    index = index.sort(-1).values
    return scaled.gather(-1, index), index


def _first_from(values: Tensor, boundary: Tensor, k: int) -> Tensor:
    """The indices of the k largest values of each row [N, V], where the k-th is its `boundary` and others equal it."""
    row, index = (values >= boundary).nonzero().unbind(-1)
    is_tie = values[row, index] == boundary[row, 0]
    ties, above = (row[x].bincount(minlength=len(values)) for x in (is_tie, ~is_tie))
    place = is_tie.cumsum(0) - (ties.cumsum(0) - ties)[row]  # of a tie in its row: 1, 2, ...
    return index[~is_tie | (place <= k - above[row])].view(-1, k)


def _keep_from(logits: Tensor, boundary: Tensor, n_ties: Tensor | None) -> Tensor:
    """`logits` above the row's `boundary`, and the first `n_ties` of those that equal it (None: all); else -inf."""
    values = logits.detach()
    dropped = values < boundary
    if n_ties is not None:
        ties = values == boundary
        dropped = dropped | (ties & (ties.cumsum(-1, dtype=torch.int32) > n_ties))
    return logits.masked_fill(dropped, -math.inf)


def _at_least_float32(values: Tensor) -> Tensor:
    """The values, those of 16 bits as float32: they are taken as exact."""
    return values if values.dtype == torch.float64 else values.float()


def _weights(values: Tensor) -> Tensor:
    """π(a) / max π in float64."""
    return values.to(torch.float64, copy=True).sub_(values.amax(-1, keepdim=True)).exp_()


def _tie_tolerance(dtype: torch.dtype, n_tokens: int) -> float:
    """The mass that rounding may have taken from a set: of the logits to their dtype, and of a sum of V terms."""
    return 8 * torch.finfo(dtype).eps + n_tokens * torch.finfo(torch.float64).eps


def _in_nucleus(ranked: Tensor, p: float, n_tokens: int) -> Tensor:
    """Which of the values [..., V], in descending order, are in the nucleus: those with less than p before them."""
    weights = _weights(ranked)
    cumulative = weights.cumsum(-1)
    before = torch.cat([torch.zeros_like(cumulative[..., :1]), cumulative[..., :-1]], dim=-1)
    slack = (TIE_FRACTION * weights).clamp(max=_tie_tolerance(ranked.dtype, n_tokens) * cumulative[..., -1:])
    first = torch.arange(ranked.shape[-1], device=ranked.device) == 0
    return (before + slack < p * cumulative[..., -1:]) | first


def _nucleus_by_sorting(values: Tensor, p: float, n_tokens: int) -> Tensor:
    """The mask of the nucleus: everything sorted, everything summed. All other of the `n_tokens` are -inf."""
    ranked, order = torch.sort(values, dim=-1, descending=True, stable=True)
    kept = _in_nucleus(ranked, p, n_tokens)
    return torch.zeros_like(kept).scatter(-1, order, kept)


def _nucleus_boundary(values: Tensor, p: float) -> tuple[float, int, int]:
    """The least logit in the nucleus of `values` [V], how many of the tokens with it belong, and how many have it.

    A search instead of a sort. Each pass sums the mass in bins between the largest and the smallest candidate, and goes
    on with those in the bin where it crosses p. The two never share a bin, so every pass leaves fewer candidates, until
    all that are left are equal.
    """
    weights, largest = _weights(values), values.amax().item()
    total, slack = weights.sum().item(), _tie_tolerance(values.dtype, len(values))
    # Tokens with less than (1 - p) / V of the mass are not needed: together they have less than 1 - p.
    lowest = max(values.amin().item(), largest + math.log((1 - p) / len(values) * total))
    highest, before = largest, 0.0
    values, weights, found = _only_if_few(values, weights, values >= lowest)
    while lowest < highest:
        found, before = _crossing_bin(values, weights, lowest, highest, before, p * total)
        values, weights, found = _only_if_few(values, weights, found)
        lowest = torch.where(found, values, math.inf).amin().item()
        highest = torch.where(found, values, -math.inf).amax().item()
    weight = math.exp(highest - largest)
    n_ties = math.ceil((p * total - min(slack * total, TIE_FRACTION * weight) - before) / weight)
    return highest, max(n_ties, 1 if before == 0 else 0), int(found.count_nonzero())


def _only_if_few(values: Tensor, weights: Tensor, found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The candidates alone, or all if an eighth of them are: to gather many costs more than to pass over the rest."""
    if 8 * int(found.count_nonzero()) > len(found):
        return values, weights, found
    at = found.nonzero().squeeze(-1)
    return values[at], weights[at], found[at]


def _crossing_bin(
    values: Tensor, weights: Tensor, lowest: float, highest: float, before: float, target: float
) -> tuple[Tensor, float]:
    """Which of `values` [M] lie in the bin where the mass crosses `target`, and the mass before that bin."""
    # 1 for the highest candidate ... _BINS for the lowest; 0 for what is above them, _BINS + 1 for what is below
    steps = ((highest - values) / (highest - lowest)).mul_(_BINS - 1)
    bins = steps.floor_().clamp_(-1, _BINS).add_(1).int()
    mass = torch.bincount(bins, weights, minlength=_BINS + 2)[1:-1]
    mass_before = torch.cat([mass.new_tensor([before]), mass[:-1]]).cumsum(0)
    crossing = int(((mass_before < target) & (mass > 0)).nonzero()[-1])
    return bins == crossing + 1, mass_before[crossing].item()


def _compiled_nucleus(logits: Tensor, largest: Tensor, p: float) -> Tensor:
    """`top_p` by its kernel."""
    from pgtheory import _kernels

    values = _at_least_float32(logits.detach()).resolve_neg().contiguous()
    kept = torch.empty_like(values) if values.data_ptr() == logits.data_ptr() else values
    rounding = _tie_tolerance(values.dtype, values.shape[-1])
    rows, tops = _rows(values), _at_least_float32(largest).reshape(-1).numpy()
    _compiled.over_rows(_kernels.nucleus, len(rows), rows, tops, p, rounding, TIE_FRACTION, _rows(kept))
    return kept.to(logits.dtype)


def _compiled_largest(logits: Tensor, k: int, tau: float) -> tuple[Tensor, Tensor]:
    """`_largest` by its kernel."""
    from pgtheory import _kernels

    values, index = (torch.empty((*logits.shape[:-1], k), dtype=dtype) for dtype in (logits.dtype, torch.int64))
    rows = _rows(logits)
    bits, scale = rows.view(f"i{rows.itemsize}"), rows.dtype.type(tau)
    _compiled.over_rows(_kernels.largest, len(rows), rows, bits, scale, k, _rows(values), _rows(index))
    return values, index


def _compiled_inverse_cdf(logits: Tensor, largest: Tensor, uniforms: Tensor) -> Tensor:
    """`inverse_cdf` by its kernel."""
    from pgtheory import _kernels

    values, tokens = _at_least_float32(logits.detach()), torch.empty(uniforms.shape, dtype=torch.int64)
    columns = (x.reshape(-1).numpy() for x in (_at_least_float32(largest), uniforms.detach().double(), tokens))
    _compiled.over_rows(_kernels.inverse_cdf, tokens.numel(), _rows(values), *columns)
    return tokens


def _rows(values: Tensor) -> Any:
    """The rows of a tensor [..., V] as an array: a view, wherever the tensor is contiguous."""
    return _compiled.as_array(values).reshape(-1, values.shape[-1])


def _check_options(
    temperature: object, top_k: object, top_p: object, min_p: object
) -> tuple[float, int | None, float | None, float | None]:
    """Return the options of decoding; raise unless each is None or in its range."""
    tau = _check_tau("temperature", temperature)
    k = None if top_k is None else check_count("top_k", top_k)
    p = None if top_p is None else _check_p("top_p", top_p)
    return tau, k, p, None if min_p is None else check_unit_interval("min_p", min_p)


def _check_logits(logits: Tensor) -> Tensor:
    """The largest logit of each row; raise unless the row is a distribution: no NaN, no +inf, something above -inf."""
    check_floating("logits", logits)
    check_at_least_1d("logits", logits, "the vocabulary")
    if logits.shape[-1] == 0:
        raise ValueError(f"logits has shape {list(logits.shape)}: the vocabulary is empty")
    check_has_values("logits", logits)
    largest = logits.detach().amax(-1)  # NaN where the row holds one
    if is_traced(logits) or bool(largest.isfinite().all()):
        return largest
    for fault, bad in (("NaN", logits.isnan()), ("+inf", logits == math.inf)):
        if bool(bad.any()):
            raise ValueError(f"logits is {fault} at {first_place(bad)}")
    row = f"row {first_place(largest == -math.inf)} of logits" if largest.ndim else "logits"
    raise ValueError(f"{row} is -inf throughout: no token is available")


def _check_tau(name: str, value: object) -> float:
    """Return the temperature as a float; raise `ValueError` unless it is finite and at least 0."""
    return check_not_negative(name, value)


def _check_p(name: str, value: object) -> float:
    """Return the mass to reach as a float; raise `ValueError` unless it is in (0, 1]."""
    p = check_real(name, value)
    if not 0.0 < p <= 1.0:
        raise ValueError(f"{name} must be in (0, 1], not {p}")
    return p


def _check_uniforms(uniforms: Tensor, logits: Tensor) -> None:
    """Raise unless `uniforms` holds one number in [0, 1) for each row of `logits`, on the same device."""
    check_floating("uniforms", uniforms)
    check_same_device("uniforms", uniforms, "logits", logits)
    if uniforms.shape != logits.shape[:-1]:
        raise ValueError(f"uniforms has shape {list(uniforms.shape)}, expected {list(logits.shape[:-1])}")
    bad = uniforms.new_zeros(()).bool() if is_traced(uniforms) else ~((uniforms >= 0) & (uniforms < 1))
    if bool(bad.any()):
        raise ValueError(f"uniforms is {uniforms[bad][0].item()} at {first_place(bad)}, not in [0, 1)")
