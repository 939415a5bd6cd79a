"""`top_p`, `top_k`, `decode` and `sample` against Hugging Face's warpers and the sampler of vLLM.

vLLM's form is written out here: it needs no more than torch, and the package needs a GPU to install in most places.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import Case, Claim, Run, normal, seeded, uniform
from pgtheory.decoding import decode, sample, top_k, top_p

P, K, TAU = 0.9, 50, 0.8
SHAPES = ((1, 32_000), (8, 128_256), (64, 128_256))
HF, VLLM = "Hugging Face", "vLLM's form"
VOCABULARIES = [4**k for k in range(4, 10)]

Shape = tuple[int, int]
INPUTS: dict[str, Callable[[Shape], Tensor]] = {
    "spiky": lambda shape: 5 * normal(*shape),
    "Zipf": lambda shape: -(1.0 + uniform(*shape).argsort(-1)).log(),
    "normal · 3": lambda shape: 3 * normal(*shape),
    "flat": lambda shape: normal(*shape) * 1e-4,
    "two values": lambda shape: normal(*shape).sign(),
    "ties": lambda shape: (4 * normal(*shape)).round() / 4,
    "ascending": lambda shape: normal(*shape).sort().values,
    "descending": lambda shape: normal(*shape).sort(descending=True).values,
}
KINDS = {"spiky": "spiky, Zipf", "Zipf": "spiky, Zipf", "normal · 3": "normal, flat", "flat": "normal, flat"}
TARGETS = {"spiky": 8.0, "Zipf": 8.0, "normal · 3": 4.0, "flat": 4.0}


def apply_top_k_top_p(logits: Tensor, k: Tensor | None, p: Tensor | None) -> Tensor:
    """The form without a GPU's own kernels, after the function of this name in vLLM's topk_topp_sampler.py.

    One sort, the k-th value and the tail of mass 1 - p masked in the sorted row, and a scatter back.
    """
    if p is None:
        assert k is not None
        kth = logits.topk(int(k.max()), dim=1).values.gather(1, (k - 1)[:, None])
        return logits.masked_fill(logits < kth, -torch.inf)
    ranked, index = logits.sort(dim=-1)
    if k is not None:
        ranked.masked_fill_(ranked < ranked.gather(1, (ranked.shape[1] - k)[:, None]), -torch.inf)
    masses = ranked.softmax(-1)
    tail = torch.cumsum(masses, dim=-1, out=masses) <= 1 - p[:, None]
    tail[:, -1] = False
    ranked.masked_fill_(tail, -torch.inf)
    return ranked.scatter(-1, index, ranked)


def vllm(given: Callable[[], Tensor], *, k: int | None, p: float | None, draw: bool, tau: float = 1.0) -> Run:
    logits, generator = given(), seeded()
    rows = len(logits)
    ks = None if k is None else torch.full((rows,), k, device=logits.device)
    ps = None if p is None else torch.full((rows,), p, device=logits.device)

    def run() -> Tensor:
        kept = apply_top_k_top_p(logits / tau if tau != 1 else logits, ks, ps) if k or p else logits
        if not draw:
            return kept
        masses = kept.softmax(-1, dtype=torch.float32)
        return masses.div_(torch.empty_like(masses).exponential_(generator=generator)).argmax(-1)

    return run


def hugging_face(given: Callable[[], Tensor], *, k: int | None, p: float | None, draw: bool, tau: float = 1.0) -> Run:
    """The processors that `generate` applies, in its order, and its draw."""
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits, generator = given(), seeded()
    warpers: list[Any] = [TemperatureLogitsWarper(tau)] if tau != 1 else []
    warpers += [] if k is None else [TopKLogitsWarper(k)]
    warpers += [] if p is None else [TopPLogitsWarper(p)]
    warp = LogitsProcessorList(warpers)

    def run() -> Tensor:
        kept = warp(None, logits)
        return torch.multinomial(kept.softmax(-1), 1, generator=generator) if draw else kept

    return run


def ours(function: Callable[..., Tensor], given: Callable[[], Tensor], *arguments: Any, **options: Any) -> Run:
    return partial(function, given(), *arguments, **options)


def ours_drawn(function: Callable[..., Tensor], given: Callable[[], Tensor], **options: Any) -> Run:
    return partial(function, given(), generator=seeded(), **options)


def nucleus(given: Callable[[], Tensor]) -> object:
    """Which tokens the smallest sets of mass p hold: a stable sort and sums in float64."""
    logits = given().double()
    ranked, index = logits.sort(dim=-1, descending=True, stable=True)
    masses = ranked.softmax(-1)
    kept = masses.cumsum(-1) - masses < P
    return torch.zeros_like(kept).scatter(-1, index, kept)


def largest(given: Callable[[], Tensor]) -> object:
    """Which tokens the k largest are, the first of equal ones first."""
    logits = given()
    index = logits.sort(dim=-1, descending=True, stable=True).indices[:, :K]
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, index, True)


def wrong_rows(found: object, truth: object) -> float:
    """The share of rows that keep another set than the exact one."""
    assert isinstance(found, Tensor)
    assert isinstance(truth, Tensor)
    return float(((found > -torch.inf) != truth).any(-1).double().mean())


def claims(name: str) -> tuple[Claim, ...]:
    return (Claim(HF, TARGETS.get(name, 1.0)), Claim(HF, 1.0, side="plain", floor=0.35))


def nucleus_case(shape: Shape, name: str, dtype: torch.dtype) -> Case:
    def given() -> Tensor:
        return INPUTS[name](shape).to(dtype)

    half = dtype == torch.bfloat16
    rule: dict[str, Any] = {"k": None, "p": P, "draw": False}
    return Case(
        f"top_p .9 {list(shape)}, {name}{', bf16' if half else ''}",
        partial(ours, top_p, given, P),
        {HF: partial(hugging_face, given, **rule), VLLM: partial(vllm, given, **rule)},
        claims(name),
        work=f"top_p, {KINDS.get(name, 'other logits')}",
        copy_bytes=shape[0] * shape[1] * dtype.itemsize,
        plain=True,
        truth=partial(nucleus, given),
        error=wrong_rows,
        decisive=shape == SHAPES[1] and name in ("spiky", "normal · 3", "ties", "ascending") and not half,
        memory=name == "spiky" and not half and shape == SHAPES[1],
        rounds=8 if shape == SHAPES[2] else 40,
    )


def other_cases(shape: Shape) -> list[Case]:
    def given() -> Tensor:
        return 3 * normal(*shape)

    n, few = shape[0] * shape[1] * 4, 8 if shape == SHAPES[2] else 40
    fast = {SHAPES[0]: 1.0, SHAPES[1]: 20.0, SHAPES[2]: 50.0}[shape]
    only_k: dict[str, Any] = {"k": K, "p": None, "draw": False}
    both: dict[str, Any] = {"k": K, "p": P, "draw": True, "tau": TAU}
    plainly: dict[str, Any] = {"k": None, "p": None, "draw": True}
    decisive = shape == SHAPES[1]

    def peers(rule: dict[str, Any]) -> dict[str, Callable[[], Run]]:
        return {HF: partial(hugging_face, given, **rule), VLLM: partial(vllm, given, **rule)}

    settings = {"temperature": TAU, "top_k": K, "top_p": P}
    shared: dict[str, Any] = {"copy_bytes": n, "plain": True, "decisive": decisive, "rounds": few}
    return [
        Case(
            f"top_k 50 {list(shape)}",
            partial(ours, top_k, given, K),
            peers(only_k),
            (Claim(HF, 1.0, floor=0.6 if shape == SHAPES[0] else None),),
            truth=partial(largest, given),
            error=wrong_rows,
            **shared,
        ),
        Case(
            f"decode {list(shape)}, temperature .8, top-k 50, top-p .9",
            partial(ours_drawn, decode, given, **settings),
            peers(both),
            (Claim(HF, fast, floor=30.0 if shape == SHAPES[2] else None),),
            work=f"decode {list(shape)}",
            **shared,
        ),
        Case(f"sample {list(shape)}", partial(ours_drawn, sample, given), peers(plainly), (Claim(HF, 1.0),), **shared),
    ]


def growth(size: int) -> list[Case]:
    shape = (8, size)

    def given() -> Tensor:
        return 5 * normal(*shape)

    found = []
    for name, mine, rule in (
        ("top_p .9", partial(ours, top_p, given, P), {"k": None, "p": P, "draw": False}),
        (
            "decode",
            partial(ours_drawn, decode, given, temperature=TAU, top_k=K, top_p=P),
            {"k": K, "p": P, "draw": True, "tau": TAU},
        ),
    ):
        found.append(
            Case(
                f"{name} {list(shape)}",
                mine,
                {HF: partial(hugging_face, given, **rule)},  # type: ignore[arg-type]
                plain=True,
                threads=(2,),
                rounds=15,
                series=(f"{name}, 8 rows", "V", size),
            )
        )
    return found


def cases() -> list[Case]:
    found = []
    for shape in SHAPES:
        for name in INPUTS:
            for dtype in (torch.float32, torch.bfloat16):
                few = shape == SHAPES[2] and (dtype == torch.bfloat16 or name not in ("spiky", "normal · 3", "flat"))
                if not few:
                    found.append(nucleus_case(shape, name, dtype))
        found += other_cases(shape)
    return found + [case for size in VOCABULARIES for case in growth(size)]
