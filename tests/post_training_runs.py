"""What the tests of post-training run: a tiny model, ragged prompts and a reward, on one process or on many."""

from collections.abc import Sequence
from typing import Any

import torch
from helpers import F64, seeded
from torch import Tensor, nn

from pgtheory.language_models import Completions
from pgtheory.post_training import post_train
from pgtheory.tiny_gpt import TinyGPT

PROMPTS = [torch.tensor([1, 2, 3]), torch.tensor([4]), torch.tensor([2, 2])]
LOSSES = ["reinforce", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "ppo_clip"]
T = 5


def tiny(seed: int = 0, dtype: torch.dtype = F64) -> TinyGPT:
    """Small, and far from uniform, so that ratios move."""
    model = TinyGPT(5, context_length=10, width=8, n_layers=1, n_heads=2, generator=seeded(seed), dtype=dtype)
    with torch.no_grad():
        model.tokens.weight.mul_(12)
    return model


def score(completions: Completions) -> Tensor:
    """A reward that tells most completions apart."""
    place = torch.arange(1, completions.tokens.shape[-1] + 1)
    return (completions.tokens * place).sum(-1).double().sin()


ARGUMENTS: dict[str, Any] = {"steps": 1, "max_tokens": T, "end": (0, 3), "size": 4, "max_grad_norm": None}


def run(model: nn.Module, prompts: Sequence[Tensor] = PROMPTS, reward: Any = score, **options: Any) -> Any:
    """One step, of everything in small, unless the options say otherwise."""
    return post_train(model, prompts, reward, **{**ARGUMENTS, **options})
