"""The processes of a run under `torchrun`, its ranks: what they hand each other, and how one learns of another's loss.

Without an initialised process group there is one rank, and nothing is handed to anybody.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

Result = TypeVar("Result")


class LostRankError(RuntimeError):
    r"""Another process of the run has stopped, or has failed: this one stops too; the message says which and why.

    .. no equation: an error

    Example:
        >>> raise LostRankError("rank 1 has stopped")
        Traceback (most recent call last):
        pgtheory._ranks.LostRankError: rank 1 has stopped
    """


def rank_and_number() -> tuple[int, int]:
    """The rank of this process, from 0, and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gathered(make: Callable[[], Result]) -> list[Result]:
    """What each rank has made, in the order of the ranks.

    A rank that cannot make its part says so in its place: then all of them raise, and none waits for it.
    """
    rank, number = rank_and_number()
    if number == 1:
        return [make()]
    part, error = None, None
    try:
        part = make()
    except Exception as raised:
        error = raised
    parts: list[tuple[Result, str | None]] = [None] * number  # type: ignore[list-item]
    said = None if error is None else f"{type(error).__name__}: {error}"
    _waiting(lambda: dist.all_gather_object(parts, (part, said)))
    if error is not None:
        raise error
    for other, (_, reason) in enumerate(parts):
        if reason is not None:
            raise LostRankError(f"rank {other} has failed, so rank {rank} stops: {reason}")
    return [part for part, _ in parts]


def add_up(tensors: Iterable[Tensor]) -> None:
    """Put the sum over all ranks in the place of each tensor."""
    if rank_and_number()[1] > 1:
        for tensor in tensors:
            _waiting(lambda tensor=tensor: dist.all_reduce(tensor))  # type: ignore[misc]


def _waiting(exchange: Callable[[], object]) -> None:
    """Wait for the other ranks, as long as the timeout of the process group allows."""
    try:
        exchange()
    except RuntimeError as error:  # what torch raises for a closed connection, and at the timeout
        rank, number = rank_and_number()
        raise LostRankError(
            f"rank {rank} of {number} waited for the others in vain, one has stopped or hangs: {error}"
        ) from error
