"""`top_p` against `TopPLogitsWarper`, a case for each kind of logits; `top_k` and `sample` are only reported.

The floors bind at one thread. The peer's one large sort gains more from a second thread than the search, which is many
short calls: with two, `top_p` is slower on logits that are sorted already or have very few values.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Case, Run
from pgtheory.decoding import sample, top_k, top_p

SHAPE = (8, 128_256)
P = 0.9
PEAKED_FLOOR = 8.0


def normal(scale: float = 1.0) -> Tensor:
    return scale * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def one_token_below() -> Tensor:
    """Nearly all in one bin of the search's first pass, and sorted already, which is the easiest input for a sort."""
    logits = torch.linspace(0.0, 1e-3, SHAPE[1]).repeat(SHAPE[0], 1)
    logits[:, 0] = -20.0
    return logits


INPUTS: dict[str, tuple[Callable[[], Tensor], float | None]] = {
    "peaked (normal × 5)": (lambda: normal(5.0), PEAKED_FLOOR),
    "peaked (normal × 8)": (lambda: normal(8.0), PEAKED_FLOOR),
    "peaked, bfloat16": (lambda: normal(5.0).bfloat16(), 1.0),
    "normal": (normal, 1.0),
    "normal, bfloat16": (lambda: normal().bfloat16(), 1.0),
    "normal, float64": (lambda: normal().double(), 1.0),
    "nearly flat (normal × 1e-4)": (lambda: normal(1e-4), 1.0),
    "flat": (lambda: torch.zeros(SHAPE), 1.0),
    "two values": (lambda: normal().sign(), 1.0),
    "many ties": (lambda: (4 * normal()).round() / 4, 1.0),
    "ascending": (lambda: normal().sort().values, 1.0),
    "descending": (lambda: normal().sort(descending=True).values, 1.0),
    "one far below, ascending": (one_token_below, 1.0),
    "after top-k 50": (lambda: top_k(normal(), 50), 1.0),
}


def ours(logits: Callable[[], Tensor]) -> Run:
    return partial(top_p, logits(), P)


def warper(logits: Callable[[], Tensor]) -> Run:
    from transformers import TopPLogitsWarper

    return partial(TopPLogitsWarper(P), None, logits())


def agree(kept: object, kept_by_peer: object) -> None:
    """Sizes only: the peer takes other tokens of a tie, and sums in the dtype of the logits. Ours is tested exactly."""
    assert isinstance(kept, Tensor)
    assert isinstance(kept_by_peer, Tensor)
    sizes, peer_sizes = ((x > -torch.inf).sum(-1) for x in (kept, kept_by_peer))
    assert kept.dtype == torch.bfloat16 or ((sizes - peer_sizes).abs() <= 1 + 0.01 * sizes).all()


def ours_top_k(logits: Callable[[], Tensor]) -> Run:
    return partial(top_k, logits(), 50)


def warper_top_k(logits: Callable[[], Tensor]) -> Run:
    from transformers import TopKLogitsWarper

    return partial(TopKLogitsWarper(50), None, logits())


def ours_sample(logits: Callable[[], Tensor]) -> Run:
    return partial(sample, logits(), generator=torch.Generator().manual_seed(0))


def multinomial(logits: Callable[[], Tensor]) -> Run:
    given, generator = logits(), torch.Generator().manual_seed(0)
    return lambda: given.softmax(-1).multinomial(1, generator=generator)


def cases() -> list[Case]:
    found = []
    for name, (logits, floor) in INPUTS.items():
        copy_bytes = logits().nbytes
        mine, peer = partial(ours, logits), partial(warper, logits)
        found.append(
            Case(f"top_p {name}", mine, peer, "TopPLogitsWarper", floor, copy_bytes, floor_threads=1, agree=agree)
        )
    plain = partial(normal, 5.0)
    copy_bytes = plain().nbytes
    found.append(
        Case("top_k 50", partial(ours_top_k, plain), partial(warper_top_k, plain), "TopKLogitsWarper", None, copy_bytes)
    )
    found.append(
        Case("sample", partial(ours_sample, plain), partial(multinomial, plain), "torch.multinomial", None, copy_bytes)
    )
    return found
