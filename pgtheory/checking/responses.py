"""Objectives of whole responses, which no factor at the level of a token makes: surrogates of group losses."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pgtheory.checking.loss import Spec, values
from pgtheory.checking.report import arxiv, issue, pull

#: The objective of each response `[...]`, from log-ratios, advantages, the mask `[..., T]` and the bounds of the ratio.
Objective = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def _mean(x: Tensor, taken: Tensor) -> Tensor:
    return torch.where(taken, x, 0.0).sum(-1) / taken.sum(-1).clamp(min=1)


def _clipped(ratio: Tensor, a: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(ratio * a, ratio.clamp(low, high) * a)


def _geometric(log_ratio: Tensor, a: Tensor, taken: Tensor, low: Tensor, high: Tensor) -> Tensor:
    # A exp of the mean of log-ratios that are clipped on one side: by ε as it is, not by ln(1 + ε)
    clipped = torch.where(a > 0, log_ratio.clamp(max=high - 1), log_ratio.clamp(min=low - 1))
    return a[..., 0] * _mean(clipped, taken).exp()


def _minimum_of_sums(log_ratio: Tensor, a: Tensor, taken: Tensor, low: Tensor, high: Tensor) -> Tensor:
    ratio = log_ratio.exp()
    return torch.minimum(_mean(ratio * a, taken), _mean(ratio.clamp(low, high) * a, taken))


def _over_padded_width(log_ratio: Tensor, a: Tensor, taken: Tensor, low: Tensor, high: Tensor) -> Tensor:
    mean = torch.where(taken, log_ratio, 0.0).mean(-1)
    return _clipped(mean.exp(), a[..., 0], low, high)


def _divided_not_summed(log_ratio: Tensor, a: Tensor, taken: Tensor, low: Tensor, high: Tensor) -> Tensor:
    length = taken.sum(-1, keepdim=True).clamp(min=1)
    return _mean(_clipped((log_ratio / length).exp(), a, low, high), taken)


OBJECTIVES: Mapping[str, Objective] = {
    "geometric_mean_of_clipped": _geometric,
    "minimum_of_sums": _minimum_of_sums,
    "ratio_over_padded_width": _over_padded_width,
    "log_ratio_divided_not_summed": _divided_not_summed,
}
GEOMETRIC = "geometric_mean_of_clipped"
GEOMETRIC_REMARK = "a geometric mean of the ratios of a response, clipped token by token: GMPO"

_GSPO = arxiv("Zheng et al., 2025 (GSPO)", "2507.18071")
RESPONSE_SPECS = (
    Spec(
        "minimum_of_sums",
        "the minimum is taken of the two sums, not token by token",
        "The ratios, and the clipped ratios, are summed or averaged first, and the smaller of the two numbers is "
        "taken: one token that is far out decides for all whether anything is clipped.",
        "With one token in each response it is right.",
        (issue("Omegastick/pytorch-cpp-rl", 14),),
        values("surrogate", "minimum_of_sums"),
    ),
    Spec(
        "ratio_over_padded_width",
        "the mean of the log-ratios is taken over the padded width, not over the response",
        "The geometric mean of GSPO is that of the tokens of the response. Divided by the width of the batch, the "
        "ratio of a short response is drawn to 1, and hardly ever clipped.",
        "A longer response in the same batch changes the ratios of the others.",
        (pull("MakazhanAlpamys/Soup", 744),),
        values("surrogate", "ratio_over_padded_width"),
        (_GSPO,),
    ),
    Spec(
        "log_ratio_divided_not_summed",
        "the log-ratio of each token is divided by the length of the response, and not summed",
        "Each token keeps a ratio of its own, its |y|-th root, instead of the one ratio of the response that GSPO has: "
        "nothing is ever clipped in a long response.",
        "With one token in each response it is right.",
        (pull("agentscope-ai/Trinity-RFT", 154),),
        values("surrogate", "log_ratio_divided_not_summed"),
        (_GSPO,),
    ),
)


def drives_of_responses(log_ratio: Tensor, a: Tensor, taken: Tensor, bounds: tuple[Tensor, Tensor]) -> Tensor:
    """The slopes of minus each objective `[objective, advantage, ..., T]`, times the length of the response.

    Averaged over the tokens of each response, as others are, they are those of a mean over responses.
    """
    leaf = (log_ratio + torch.zeros_like(a)).requires_grad_()
    found = [
        torch.autograd.grad(f(leaf, a.expand_as(leaf), taken, *bounds).sum(), leaf)[0] for f in OBJECTIVES.values()
    ]
    return -torch.stack(found) * taken.sum(-1, keepdim=True)
