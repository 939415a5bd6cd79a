"""What is timed: a case is one piece of work, done by us and by others, with what is claimed about it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

Run = Callable[[], object]
Setup = Callable[[], Run]

DEVICE = os.environ.get("PGTHEORY_BENCH_DEVICE", "cpu")
"""Where the inputs lie: `python -m benchmarks --device cuda` sets it."""


class Seconds(float):
    """What a run returns that has timed itself."""


@dataclass(frozen=True)
class Claim:
    """`side` does the work at least `target` times as fast as `against`, or within so many seconds or so much memory.

    `against` is the name of a peer, `fastest` (the fastest library in the case), `before`, `copy`, `seconds` (`target`
    is then the limit), `memory` (the limit in bytes) or `memory of PEER` (a ratio of peaks).
    """

    against: str
    target: float
    side: str = "ours"  # or "plain"
    floor: float | None = None  # what `make bench` holds us to where the target is not reached; 0: it only reports
    threads: tuple[int, ...] = (1, 2)

    @property
    def is_limit(self) -> bool:
        """Whether the target is an amount that ours stays below, and not a ratio."""
        return self.against in ("seconds", "memory")

    @property
    def least(self) -> float:
        """The ratio under which `make bench` fails."""
        if self.floor is not None:
            return self.floor
        return 1.0 if self.is_limit else self.target


@dataclass(frozen=True)
class Case:
    """One piece of work. A setup builds the input and returns the call to be timed; a peer's imports the peer.

    `ours` is timed as it is, with `plain` also without the compiled kernels, and as it was before, where there is a
    checkout of an earlier commit.
    """

    name: str
    ours: Setup
    peers: Mapping[str, Setup] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    copy_bytes: int = 0  # what the work must read or write at least; 0: no copy is timed beside it
    plain: bool = False  # there is a compiled path, so plain torch is timed too
    before: bool = True
    truth: Callable[[], object] | None = None  # the result in float64, by another route
    error: Callable[[object, object], float] | None = (
        None  # of a result against the truth; None: relative to its largest
    )
    units: Callable[[], Mapping[str, float]] = dict  # of work in one call of a side, where they differ
    decisive: bool = False  # `make bench` times it
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 60
    memory: bool = False  # the peak of each side is measured
    work: str = ""  # what the page calls the kind of work; by default the name without its sizes
    series: tuple[str, str, float] | None = None  # work, axis and place on it, for the plots of growth

    @property
    def kind(self) -> str:
        """The kind of work."""
        return self.work or self.name.partition(" [")[0].partition(",")[0]


def seeded(seed: int = 0) -> torch.Generator:
    """A generator on the device of the inputs."""
    return torch.Generator(DEVICE).manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers, the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    """Uniform numbers, the same on every device."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def relative_error(found: object, truth: object) -> float:
    """The largest difference, as a share of the largest number of the truth; a table may lie with time first."""
    exact = torch.as_tensor(truth, dtype=torch.float64).cpu()
    other = found if isinstance(found, Tensor) else torch.from_numpy(np.array(found))
    other = other.detach().double().cpu()
    ways = [x for x in (other, other.mT if other.ndim == 2 else other) if x.shape == exact.shape]
    return min(float((x - exact).abs().max() / exact.abs().max()) for x in ways)
