"""What the tests share."""

import torch

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of random numbers of its own, so that no test depends on another."""
    return torch.Generator().manual_seed(seed)
