r"""The log-probabilities of tokens, a few rows of the logits at a time.

The name `pgtheory.token_log_probs` is the function; this module is reached by
`from pgtheory.token_log_probs import ...`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgtheory import _checks, _compiled
from pgtheory._precision import wide, wide_dtype

__all__ = [
    "projected_token_log_probs",
    "token_log_probs",
]

# How many logits one chunk works on at a time: those that are given, so that they stay in the cache; those that are
# made, so that the products are large.
CHUNK = 2**18
CHUNK_MADE = 2**22


def token_log_probs(logits: Float[Tensor, "*batch V"], tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""The log-probabilities of tokens under the softmax of logits, without a second copy of the logits.

    Equation :eq:`eq-token-log-prob`: :math:`\ln \pi(y_t) = z_{y_t} - \ln \sum_v e^{z_v}`. `log_softmax` followed by
    `gather` keeps a second tensor as large as the logits, and makes two more on the way back. Here the rows are worked
    on a few at a time, forward and backward, and the only large tensor that is made is the gradient itself. Inside
    `torch.func` and `torch.compile`, and for second derivatives, the plain form is used.

    Args:
        logits: one row of preferences for each token; :math:`-\infty` for a token that is not available.
        tokens: the tokens, with the shape of `logits` without its last axis.

    Returns:
        One log-probability for each token, in float32 for logits of 16 bits: ratios are made of its differences, and
        16 bits would put them off by some per cent. Otherwise in the dtype of the logits.

    Raises:
        ValueError: shapes or devices differ; a token is outside the vocabulary; a row of the logits holds NaN or
            +inf, or nothing above -inf.
        TypeError: `logits` is not a floating-point tensor, or `tokens` not one of integers.

    Source:
        Chunks that are computed again on the way back: Chen, Xu, Zhang and Guestrin, "Training Deep Nets with Sublinear
        Memory Cost", 2016; in this place Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2025.

    Example:
        >>> token_log_probs(torch.tensor([[0.0, 0.0], [0.0, 100.0]]), torch.tensor([1, 1]))
        tensor([-0.6931,  0.0000])
    """
    _checks.check_floating("logits", logits)
    _checks.check_at_least_1d("logits", logits, "the vocabulary")
    tokens = _checked_tokens(tokens, logits.shape, "logits", logits)
    if _checks.is_traced(logits, tokens):
        return _plain_token_log_probs(logits, tokens)
    return _checked("logits", _TokenLogProbs.apply(logits, tokens))  # type: ignore[no-untyped-call]


def projected_token_log_probs(
    hidden: Float[Tensor, "*batch D"], weight: Float[Tensor, "V D"], tokens: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    r"""`token_log_probs` of the logits :math:`z = W x`, which are never all in memory.

    Equation :eq:`eq-token-log-prob`. The logits are made a few rows at a time, forward and backward.

    Args:
        hidden: the last hidden states x.
        weight: the output embedding W.
        tokens: the tokens.

    Returns:
        One log-probability for each token, differentiable in `hidden` and `weight`; in float32 where these have 16
        bits, though the logits then have 16 bits as well.

    Raises:
        ValueError: shapes or devices differ; a token is outside the vocabulary; a logit is NaN or +inf.
        TypeError: a tensor has the wrong dtype.

    Source:
        As `token_log_probs`.

    Example:
        >>> projected_token_log_probs(torch.ones(1, 2), torch.zeros(4, 2), torch.tensor([3]))
        tensor([-1.3863])
    """
    _checks.check_floating("hidden", hidden)
    _checks.check_floating("weight", weight)
    _checks.check_same_kind("weight", weight, "hidden", hidden)
    _checks.check_at_least_1d("hidden", hidden, "the hidden state")
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1]:
        raise ValueError(f"weight has shape {list(weight.shape)}, expected [V, {hidden.shape[-1]}]")
    tokens = _checked_tokens(tokens, (*hidden.shape[:-1], weight.shape[0]), "hidden", hidden)
    if _checks.is_traced(hidden, weight, tokens):
        return _plain_token_log_probs(hidden @ weight.T, tokens)
    log_probs = _ProjectedTokenLogProbs.apply(hidden, weight, tokens)  # type: ignore[no-untyped-call]
    return _checked("hidden @ weight.T", log_probs)


class _TokenLogProbs(torch.autograd.Function):
    """Log-probabilities row by row; the softmax is computed again on the way back."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> Tensor:
        """See `token_log_probs`."""
        log_probs, normalisers = torch.empty(tokens.shape, dtype=wide_dtype(logits), device=logits.device), None
        if logits.stride(-1) == 1 and _compiled.takes_over(logits, dtypes=tuple(_SHIFTS)):
            normalisers = torch.empty(tokens.numel(), 2, dtype=torch.float64)
            _compute("token_log_probs", logits, tokens, normalisers, log_probs.view(-1))
        else:
            for rows, token, out in _row_chunks(logits, tokens, log_probs):
                out.copy_(_plain_token_log_probs(rows, token))
        ctx.save_for_backward(logits, tokens, normalisers)
        return log_probs

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        """∂/∂z = g (e_y − softmax(z)), written chunk by chunk."""
        logits, tokens, normalisers = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives
            return _plain_slope(logits, tokens, slope), None
        gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        if normalisers is not None:
            bits = _bits(gradient).view(-1, logits.shape[-1])
            _compute("token_slopes", logits, tokens, normalisers, slope.reshape(-1).contiguous(), bits)
            return gradient, None
        for rows, token, g, out in _row_chunks(logits, tokens, slope, gradient):
            out.copy_(_logit_slopes(rows, token, g))
        return gradient, None


class _ProjectedTokenLogProbs(torch.autograd.Function):
    """The same for logits that are made, and made again, from hidden states."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
        """See `projected_token_log_probs`."""
        log_probs = torch.empty(tokens.shape, dtype=wide_dtype(hidden), device=hidden.device)
        for rows, token, out in _row_chunks(hidden, tokens, log_probs, width=len(weight)):
            out.copy_(_plain_token_log_probs(rows @ weight.T, token))
        ctx.save_for_backward(hidden, weight, tokens)
        return log_probs

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None]:
        """∂/∂x = Wᵀ ∂/∂z and ∂/∂W = ∂/∂z xᵀ, summed chunk by chunk."""
        hidden, weight, tokens = ctx.saved_tensors
        if torch.is_grad_enabled():
            slopes = _plain_slope(hidden @ weight.T, tokens, slope)
            return slopes @ weight, slopes.flatten(0, -2).T @ hidden.flatten(0, -2), None
        kind = wide_dtype(hidden)
        to_hidden = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
        to_weight = torch.zeros(weight.shape, dtype=kind, device=weight.device)
        for rows, token, g, out in _row_chunks(hidden, tokens, slope, to_hidden, width=len(weight)):
            slopes = _logit_slopes(rows @ weight.T, token, g)
            slopes = slopes.to(weight.dtype)
            out.copy_(slopes @ weight)
            if kind == weight.dtype:
                to_weight.addmm_(slopes.T, rows)
            else:  # products of 16 bits are faster than those of float32; their sum is not rounded to 16
                to_weight.add_(slopes.T @ rows)
        return to_hidden, to_weight.to(weight.dtype), None


# Where among the bits of a float32 those of these dtypes begin: bfloat16 is its upper half.
_SHIFTS = {torch.float32: 0, torch.bfloat16: 16}


def _compute(kernel: str, logits: Tensor, tokens: Tensor, *columns: Tensor) -> None:
    """Let a kernel work on the rows of the logits, wherever these lie in their storage."""
    from pgtheory import _kernels

    starts = torch.tensor(logits.storage_offset())
    for size, stride in zip(logits.shape[:-1], logits.stride(), strict=False):
        starts = starts.unsqueeze(-1) + stride * torch.arange(size)
    size = logits.untyped_storage().nbytes() // logits.element_size()
    storage = _bits(logits.detach().as_strided((size,), (1,), 0))
    arrays = (_compiled.as_array(x) for x in (storage, starts, tokens))
    _compiled.over_rows(
        getattr(_kernels, kernel),
        tokens.numel(),
        *arrays,
        _SHIFTS[logits.dtype],
        logits.shape[-1],
        *(x.numpy() for x in columns),
        n_threads=max(1, min(torch.get_num_threads(), logits.numel() // _kernels.LEAST_PART)),
    )


def _bits(x: Tensor) -> Tensor:
    return x.view(torch.int32 if x.element_size() == 4 else torch.int16)


def _row_chunks(first: Tensor, *others: Tensor, width: int | None = None) -> Iterator[tuple[Tensor, ...]]:
    """Views of some rows of each tensor, a chunk of logits (`width` of which are made of a row) at a time."""
    rows = first.shape[:-1]
    if len(rows) == 0:
        yield (first.unsqueeze(0), *(x.unsqueeze(0) for x in others))
    elif width is None and first.numel() <= CHUNK:
        yield (first, *others)
    elif len(rows) == 1:
        n = max(1, CHUNK // first.shape[-1] if width is None else CHUNK_MADE // width)
        yield from zip(*(torch.split(x, n) for x in (first, *others)), strict=True)
    else:  # flattening would copy logits that are a slice of something larger
        for part in zip(first.unbind(0), *(x.unbind(0) for x in others), strict=True):
            yield from _row_chunks(*part, width=width)


def _logit_slopes(rows: Tensor, tokens: Tensor, slopes: Tensor) -> Tensor:
    # g (e_y − softmax(z)), in at least float32
    g = wide(slopes).unsqueeze(-1)
    return torch.softmax(wide(rows), -1).mul_(-g).scatter_add_(-1, tokens.unsqueeze(-1), g)


def _plain_token_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    return torch.log_softmax(wide(logits), -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def _plain_slope(logits: Tensor, tokens: Tensor, slope: Tensor) -> Tensor:
    one_hot = torch.nn.functional.one_hot(tokens, logits.shape[-1])
    return (slope.unsqueeze(-1) * (one_hot - torch.softmax(wide(logits), -1))).to(logits.dtype)


def _checked_tokens(tokens: Tensor, shape: tuple[int, ...], name: str, other: Tensor) -> Tensor:
    _checks.check_integer_tensor("tokens", tokens)
    _checks.check_same_device("tokens", tokens, name, other)
    if tokens.shape != shape[:-1]:
        raise ValueError(f"tokens has shape {list(tokens.shape)}, expected {list(shape[:-1])}: one for each row")
    return _checks.as_indices("tokens", tokens, shape[-1], within="in the vocabulary")


def _checked(name: str, log_probs: Tensor) -> Tensor:
    # Without a normaliser, all of a row is NaN.
    if log_probs.isnan().any():
        place = _checks.first_place(log_probs.isnan())
        raise ValueError(f"{name} holds NaN or +inf, or nothing above -inf, in row {place}")
    return log_probs
