"""Per-token log-probabilities over a large vocabulary against `log_softmax` and `gather`."""

from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Case, Run
from pgtheory.token_log_probs import projected_token_log_probs, token_log_probs

TOKENS = (8, 512)
VOCABULARY = 128_256
WIDTH = 64
PLAIN = "log_softmax, gather"


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def tokens() -> Tensor:
    return torch.randint(VOCABULARY, TOKENS, generator=seeded())


def plain_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def forward_and_backward(*, lean: bool) -> Run:
    logits = torch.randn(*TOKENS, VOCABULARY, generator=seeded()).requires_grad_()
    function = token_log_probs if lean else plain_log_probs
    taken = tokens()
    return lambda: torch.autograd.grad(function(logits, taken).sum(), logits)[0]


def projected(*, lean: bool) -> Run:
    hidden = torch.randn(*TOKENS, WIDTH, generator=seeded()).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=seeded()).requires_grad_()
    taken = tokens()

    def run() -> tuple[Tensor, ...]:
        if lean:
            log_probs = projected_token_log_probs(hidden, weight, taken)
        else:
            log_probs = plain_log_probs(hidden @ weight.T, taken)
        return torch.autograd.grad(log_probs.sum(), (hidden, weight))

    return run


def cases() -> list[Case]:
    large = 4 * TOKENS[0] * TOKENS[1] * VOCABULARY
    shape = f"[{TOKENS[0]}, {TOKENS[1]}, {VOCABULARY}]"
    lean, plain = partial(forward_and_backward, lean=True), partial(forward_and_backward, lean=False)
    from_hidden, from_logits = partial(projected, lean=True), partial(projected, lean=False)
    return [
        Case(f"token_log_probs {shape}, and gradient", lean, plain, PLAIN, None, large),
        Case(f"projected_token_log_probs {shape}, and gradient", from_hidden, from_logits, PLAIN, None, large),
    ]
