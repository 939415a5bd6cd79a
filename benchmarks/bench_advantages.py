"""Generalized advantages against a loop over time."""

from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Case, Run
from pgtheory.advantages import generalized_advantages

STEPS = (64, 2048)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def steps() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rewards, values, next_values = torch.randn(3, *STEPS, generator=seeded()).unbind()
    return rewards, values, next_values, torch.rand(STEPS, generator=seeded()) < 0.01


def ours() -> Run:
    rewards, values, next_values, terminated = steps()
    return partial(generalized_advantages, rewards, values, next_values, 0.99, 0.95, terminated=terminated)


def loop() -> Run:
    rewards, values, next_values, terminated = steps()

    def run() -> Tensor:
        goes_on = (~terminated).to(rewards.dtype)
        errors = rewards + 0.99 * goes_on * next_values - values
        result, later = torch.empty_like(errors), torch.zeros(STEPS[0])
        for t in reversed(range(STEPS[1])):
            later = errors[:, t] + 0.99 * 0.95 * goes_on[:, t] * later
            result[:, t] = later
        return result

    return run


def agree(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def cases() -> list[Case]:
    small = 4 * STEPS[0] * STEPS[1]
    return [Case(f"generalized_advantages {list(STEPS)}", ours, loop, "a loop over time", None, small, agree=agree)]
