"""Log-probabilities of tokens, a few rows at a time, against `log_softmax` of all rows at once."""

import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import F64, PATHS, needs_numba, randn, seeded, take_path
from torch import Tensor

from pgtheory.checking import check_log_probs
from pgtheory.token_log_probs import projected_token_log_probs, token_log_probs

MODULE = sys.modules[token_log_probs.__module__]  # `pgtheory.token_log_probs` is the function


@pytest.mark.equation("eq-token-log-prob")
@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7), (2, 2, 3, 7)], ids=str)
@pytest.mark.parametrize("chunk", [1, 14, 10_000])
def test_token_log_probs_and_their_gradient_are_those_of_log_softmax(
    shape: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "CHUNK", chunk)
    logits, slope = (30 * randn(*shape)).requires_grad_(), randn(*shape[:-1], seed=1)
    tokens = torch.randint(7, shape[:-1], generator=seeded())
    plain = torch.log_softmax(logits, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    found = token_log_probs(logits, tokens)
    torch.testing.assert_close(found, plain, atol=1e-13, rtol=1e-13)
    gradients = [torch.autograd.grad(x, logits, slope)[0] for x in (found, plain)]
    torch.testing.assert_close(*gradients, atol=1e-14, rtol=1e-12)


def test_projected_token_log_probs_and_their_gradients_are_those_of_the_plain_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MODULE, "CHUNK_MADE", 14)
    hidden, weight = randn(2, 5, 3).requires_grad_(), randn(7, 3, seed=1).requires_grad_()
    tokens, slope = torch.randint(7, (2, 5), generator=seeded()), randn(2, 5, seed=2)
    plain = torch.log_softmax(hidden @ weight.T, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    found = projected_token_log_probs(hidden, weight, tokens)
    torch.testing.assert_close(found, plain, atol=1e-13, rtol=1e-13)
    for x, y in zip(*(torch.autograd.grad(z, (hidden, weight), slope) for z in (found, plain)), strict=True):
        torch.testing.assert_close(x, y, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_token_log_probs_of_narrow_types_have_single_precision(dtype: torch.dtype) -> None:
    logits, tokens = (10 * randn(6, 50)).to(dtype), torch.arange(6)
    exact = torch.log_softmax(logits.double(), -1)[torch.arange(6), tokens]
    found = token_log_probs(logits, tokens)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0.0, atol=1e-5)
    assert "bfloat16" not in str(check_log_probs(token_log_probs))


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    take_path(request.param, monkeypatch)


ODD = {
    "contiguous": lambda z: z,
    "a slice": lambda z: z[:, :-1],
    "every other row": lambda z: z[:, ::2],
    "rows side by side": lambda z: z.transpose(0, 1),
    "one row many times": lambda z: z[:1, :1].expand(3, 2, -1),
    "tokens apart": lambda z: z[..., ::2],
    "one row": lambda z: z[1, 2],
    "no row": lambda z: z[:0],
    "one token": lambda z: z[..., :1],
}


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("part", ODD.values(), ids=ODD)
def test_they_are_those_of_log_softmax_in_double_precision_on_every_path(
    part: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    """The logits reach from where a weight is 0 to where all of it is in one token; 2,500 of them are three blocks."""
    whole = (torch.tensor([1.0, 9.0, 60.0])[:, None, None] * randn(3, 4, 2500).float()).to(dtype).requires_grad_()
    with torch.no_grad():
        whole[0, 0, 1:1200] = -math.inf
    logits = part(whole)
    tokens = torch.randint(logits.shape[-1], logits.shape[:-1], generator=seeded(2))
    tokens = torch.where(torch.rand(tokens.shape, generator=seeded(3)) < 0.5, tokens, logits.argmax(-1))
    slope = randn(*tokens.shape, seed=1).float()
    found = token_log_probs(logits, tokens)
    exact = torch.log_softmax(logits.double(), -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found.double(), exact, atol=2e-6, rtol=2e-7)
    (got,) = torch.autograd.grad(found, whole, slope)
    (want,) = torch.autograd.grad(exact, whole, slope.double())
    eps = {torch.float32: 1e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[dtype]
    torch.testing.assert_close(got.double(), want.double(), atol=3e-7 if dtype == torch.float16 else 1e-7, rtol=2 * eps)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
def test_a_row_without_a_normaliser_is_named_on_every_path(bad: float, dtype: torch.dtype) -> None:
    logits, tokens = randn(3, 2000).to(dtype), torch.tensor([0, 1, 2])
    logits[1, 1500] = bad
    with pytest.raises(ValueError, match=r"in row \[1\]|in row 1"):
        token_log_probs(logits, tokens)
    logits[1] = -math.inf
    with pytest.raises(ValueError, match=r"in row \[1\]|in row 1"):
        token_log_probs(logits, tokens)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_logit_that_stands_for_all_tokens_makes_them_equally_likely(dtype: torch.dtype) -> None:
    logits = randn(3, 1).to(dtype).expand(3, 2000)
    found = token_log_probs(logits, torch.tensor([0, 1, 1999]))
    torch.testing.assert_close(found, torch.full((3,), -math.log(2000)))


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_slope_that_is_no_number_stays_in_its_row(dtype: torch.dtype) -> None:
    logits = randn(3, 2000).to(dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(
        token_log_probs(logits, torch.tensor([0, 1, 2])), logits, torch.tensor([1.0, math.nan, -math.inf])
    )
    assert gradient[0].isfinite().all()
    assert gradient[1].isnan().all()
    assert gradient[2].isnan().nonzero().tolist() == [[2]]  # -∞ (1 - π)


@needs_numba
def test_the_series_of_single_precision_is_the_exponential() -> None:
    from pgtheory._kernels import _single_weights

    depths = torch.cat([86 * torch.rand(500, generator=seeded()), torch.rand(520, generator=seeded(1))])
    logits = torch.cat([5.0 - depths, torch.tensor([5.0, -82.5, -math.inf, -1e30])])
    room = torch.empty(3, 1024, dtype=torch.int32).numpy()
    _single_weights(logits.view(torch.int32).numpy(), 0, np.float32(5.0), room)
    exact = torch.exp((logits - 5.0).double())  # the difference is rounded in both
    exact = torch.where(logits < -82.0, 0.0, exact)
    found = torch.from_numpy(room[1]).view(torch.float32).double()
    torch.testing.assert_close(found, exact, rtol=3e-7, atol=0.0)


def test_token_log_probs_keep_no_copy_of_the_logits_nor_of_a_slice_of_them() -> None:
    whole = randn(2, 5, 700).requires_grad_()
    tokens, kept = torch.randint(700, (2, 4), generator=seeded()), list[Tensor]()

    def pack(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        found = token_log_probs(whole[:, :-1], tokens)
    torch.testing.assert_close(found, torch.log_softmax(whole, -1)[:, :-1].gather(-1, tokens[..., None])[..., 0])
    large = [x for x in kept if x.numel() > tokens.numel()]
    assert [x.data_ptr() for x in large] == [whole.data_ptr()]


@pytest.mark.parametrize("chunk", [1, 14, 20, 10_000])
def test_no_more_than_a_chunk_of_logits_is_worked_on_at_a_time(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "CHUNK", chunk)
    monkeypatch.setattr(MODULE, "CHUNK_MADE", chunk)
    rows, original = list[int](), MODULE._plain_token_log_probs

    def counted(logits: Tensor, tokens: Tensor) -> Tensor:
        rows.append(len(logits))
        return original(logits, tokens)

    monkeypatch.setattr(MODULE, "_plain_token_log_probs", counted)
    at_most = max(1, chunk // 7)
    token_log_probs(randn(9, 7), torch.arange(9) % 7)
    projected_token_log_probs(randn(9, 2), randn(7, 2), torch.arange(9) % 7)
    once = [min(at_most, 9 - i) for i in range(0, 9, at_most)]
    assert rows == once + once


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_projected_gradients_of_narrow_types_are_within_their_roundings(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "CHUNK_MADE", 4 * 50)
    hidden, weight, slope = (randn(*shape, seed=i).to(dtype) for i, shape in enumerate([(40, 8), (50, 8), (40,)]))
    tokens = torch.randint(50, (40,), generator=seeded())
    wide = [x.double().requires_grad_() for x in (hidden, weight)]
    exact = torch.log_softmax(wide[0] @ wide[1].T, -1)[torch.arange(40), tokens]
    narrow = [x.requires_grad_() for x in (hidden, weight)]
    found = projected_token_log_probs(*narrow, tokens)
    gradients = (
        torch.autograd.grad(x, leaves, g) for x, leaves, g in ((found, narrow, slope), (exact, wide, slope.double()))
    )
    for x, y in zip(*gradients, strict=True):
        assert x.dtype == dtype
        # The logits, their slopes and each of ten chunks are rounded: twelve roundings of the largest entry, at most.
        torch.testing.assert_close(x.double(), y, rtol=0.0, atol=12 * torch.finfo(dtype).eps * float(y.abs().max()))


# --- derivatives and transforms


def test_first_and_second_derivatives_agree_with_differences() -> None:
    x, old, weights = randn(3, 4)
    leaf = x.requires_grad_()
    functions: list[Callable[..., Tensor]] = [
        lambda z: token_log_probs(z[None], torch.tensor([2])),
        lambda z: projected_token_log_probs(z[None], torch.stack([old, weights]), torch.tensor([1])),
        lambda z: projected_token_log_probs(old[None], torch.stack([z, weights]), torch.tensor([1])),
    ]
    for function in functions:
        assert torch.autograd.gradcheck(function, (leaf,))
        assert torch.autograd.gradgradcheck(function, (leaf,))


def test_derivatives_of_every_order_and_under_every_transform_are_those_of_log_softmax() -> None:
    """Differences cannot tell: a wrong first derivative that has its own derivative right agrees with itself."""
    logits, tokens, slope = randn(2, 3, 5), torch.randint(5, (2, 3), generator=seeded()), randn(2, 3, seed=1)
    hidden, weight = randn(2, 3, 4, seed=2), randn(5, 4, seed=3)

    def plain(z: Tensor) -> Tensor:
        return torch.log_softmax(z, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)

    pairs: list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor]] = [
        (lambda z: token_log_probs(z, tokens), plain, logits),
        (lambda x: projected_token_log_probs(x, weight, tokens), lambda x: plain(x @ weight.T), hidden),
        (lambda w: projected_token_log_probs(hidden, w, tokens), lambda w: plain(hidden @ w.T), weight),
    ]
    for found, expected, point in pairs:
        for function in (lambda f, x: (slope * f(x)).sum(), lambda f, x: (slope * f(x).square()).sum()):
            leaf, moved = point.clone().requires_grad_(), torch.cos(point)
            firsts = [torch.autograd.grad(function(f, leaf), leaf, create_graph=True)[0] for f in (found, expected)]
            torch.testing.assert_close(*firsts, atol=1e-13, rtol=1e-12)
            seconds = [torch.autograd.grad((x * moved).sum(), leaf)[0] for x in firsts]
            torch.testing.assert_close(*seconds, atol=1e-13, rtol=1e-12)
            by_transform = torch.func.grad(lambda x, g=function, f=found: g(f, x))(point)
            torch.testing.assert_close(by_transform, firsts[1].detach(), atol=1e-13, rtol=1e-12)


def test_they_run_under_vmap() -> None:
    logits, tokens = randn(5, 2, 3), torch.zeros(5, 2, dtype=torch.long)
    torch.testing.assert_close(torch.func.vmap(token_log_probs)(logits, tokens), token_log_probs(logits, tokens))


# --- bad input

X = torch.zeros(2, 3, dtype=F64)
NAN = torch.full((2, 3), math.nan, dtype=F64)

BAD: list[tuple[str, Callable[[], object], type[Exception], str]] = [
    (
        "weight-beside-three-axes",
        lambda: projected_token_log_probs(torch.zeros(2, 4, 3), torch.zeros(5, 2), torch.zeros(2, 4).long()),
        ValueError,
        r"weight has shape \[5, 2\], expected \[V, 3\]",
    ),
    (
        "tokens-range",
        lambda: token_log_probs(X, torch.tensor([0, 3])),
        ValueError,
        r"tokens is 3 at \[1\], not in the vocabulary 0..2",
    ),
    (
        "tokens-shape",
        lambda: token_log_probs(X, torch.tensor([0])),
        ValueError,
        r"tokens has shape \[1\], expected \[2\]",
    ),
    ("tokens-float", lambda: token_log_probs(X, X[:, 0]), TypeError, "tokens must hold integers"),
    (
        "logits-nan",
        lambda: token_log_probs(NAN, torch.tensor([0, 1])),
        ValueError,
        r"logits holds NaN or \+inf, or nothing above -inf, in row \[0\]",
    ),
    (
        "logits-int",
        lambda: token_log_probs(X.long(), torch.tensor([0, 1])),
        TypeError,
        "logits must hold floating-point",
    ),
    (
        "weight-shape",
        lambda: projected_token_log_probs(X, X.T, torch.tensor([0, 1])),
        ValueError,
        r"weight has shape \[3, 2\], expected \[V, 3\]",
    ),
    (
        "weight-axes",
        lambda: projected_token_log_probs(X, torch.zeros(4, 3, 3, dtype=F64), torch.tensor([0, 1])),
        ValueError,
        r"weight has shape \[4, 3, 3\], expected \[V, 3\]",
    ),
    (
        "weight-dtype",
        lambda: projected_token_log_probs(X, X.float(), torch.tensor([0, 1])),
        TypeError,
        "weight is torch.float32",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_is_named(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_inputs_are_not_modified() -> None:
    logits, tokens = randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.long)
    copy = logits.clone()
    token_log_probs(logits, tokens)
    assert torch.equal(logits, copy)
    assert (tokens == 0).all()
