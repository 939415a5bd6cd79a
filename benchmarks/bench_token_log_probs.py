"""Log-probabilities of tokens over a large vocabulary, with their gradients, against TRL and the two lines of torch."""

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

from benchmarks.case import DEVICE, Case, Claim, Run, normal
from pgtheory.token_log_probs import projected_token_log_probs, token_log_probs

TOKENS = (8, 512)
WIDTH = 64
TORCH, TRL = "log_softmax, gather", "TRL selective_log_softmax"


@lru_cache(maxsize=1)
def logits_of(vocabulary: int, dtype: torch.dtype) -> Tensor:
    """The logits of the case at hand: they fill gigabytes, so all sides take the same."""
    return normal(*TOKENS, vocabulary, dtype=dtype).requires_grad_()


def tokens(vocabulary: int) -> Tensor:
    return torch.randint(vocabulary, TOKENS, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def plainly(logits: Tensor, taken: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, taken.unsqueeze(-1)).squeeze(-1)


def selective() -> Callable[[Tensor, Tensor], Tensor]:
    from trl.trainer.utils import selective_log_softmax

    return selective_log_softmax


def forward(function: Callable[[], Callable[[Tensor, Tensor], Tensor]], vocabulary: int, dtype: torch.dtype) -> Run:
    logits, taken, by = logits_of(vocabulary, dtype).detach(), tokens(vocabulary), function()
    return lambda: by(logits, taken)


def both_ways(function: Callable[[], Callable[[Tensor, Tensor], Tensor]], vocabulary: int, dtype: torch.dtype) -> Run:
    logits, taken, by = logits_of(vocabulary, dtype), tokens(vocabulary), function()
    return lambda: torch.autograd.grad(by(logits, taken).sum(), logits)[0]


def projected(vocabulary: int, *, lean: bool) -> Run:
    hidden = normal(*TOKENS, WIDTH).requires_grad_()
    weight = normal(vocabulary, WIDTH, seed=1).requires_grad_()
    taken = tokens(vocabulary)

    def run() -> tuple[Tensor, ...]:
        by_hand = None if lean else plainly(hidden @ weight.T, taken)
        log_probs = projected_token_log_probs(hidden, weight, taken) if by_hand is None else by_hand
        return torch.autograd.grad(log_probs.sum(), (hidden, weight))

    return run


def truth(vocabulary: int, dtype: torch.dtype) -> object:
    """In float64, a row at a time."""
    rows, taken = normal(*TOKENS, vocabulary, dtype=dtype).flatten(0, 1), tokens(vocabulary).flatten()
    found = [row.double()[t] - row.double().logsumexp(-1) for row, t in zip(rows, taken, strict=True)]
    return torch.stack(found).view(TOKENS)


def largest_error(found: object, exact: object) -> float:
    assert isinstance(found, Tensor)
    assert isinstance(exact, Tensor)
    return float((found.double() - exact).abs().max())


def case(vocabulary: int, dtype: torch.dtype, *, backward: bool) -> Case:
    way = both_ways if backward else forward
    large = TOKENS[0] * TOKENS[1] * vocabulary * dtype.itemsize
    half = dtype == torch.bfloat16
    lean = (Claim(f"memory of {TORCH}", 1 / 0.55),) if backward else ()
    peers = {TORCH: lambda: plainly, TRL: selective}
    return Case(
        f"token_log_probs {[*TOKENS, vocabulary]}{', bf16' if half else ''}, {'both ways' if backward else 'forward'}",
        partial(way, lambda: token_log_probs, vocabulary, dtype),
        {name: partial(way, peer, vocabulary, dtype) for name, peer in peers.items()},
        (Claim("fastest", 1.0), *lean),
        copy_bytes=large,
        plain=True,
        truth=None if backward else partial(truth, vocabulary, dtype),
        error=largest_error,
        rounds=10,
        decisive=vocabulary == 32_000 and backward and not half,
        memory=backward,
    )


def projected_case(vocabulary: int) -> Case:
    return Case(
        f"projected_token_log_probs {[*TOKENS, vocabulary]}, both ways",
        partial(projected, vocabulary, lean=True),
        {"matmul, log_softmax, gather": partial(projected, vocabulary, lean=False)},
        (Claim("fastest", 1.0), Claim("memory of matmul, log_softmax, gather", 1 / 0.55)),
        plain=True,
        rounds=10,
        decisive=vocabulary == 32_000,
        memory=True,
    )


def cases() -> list[Case]:
    sizes, dtypes = (32_000, 128_256), (torch.float32, torch.bfloat16)
    found = [case(v, d, backward=b) for v in sizes for d in dtypes for b in (False, True)]
    return [*found, *map(projected_case, sizes)]
