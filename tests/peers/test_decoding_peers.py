"""The filters of Hugging Face `transformers`, where logits are distinct, and where we differ on purpose."""

import pytest
import torch
from helpers import seeded

from pgtheory.decoding import decoding_logits, min_p, temperature, top_k, top_p

transformers = pytest.importorskip("transformers")

SHAPES = [(1, 7), (16, 500), (4, 32_000)]


def distinct(shape: tuple[int, int], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    g = seeded(sum(shape))
    ranks = torch.stack([torch.randperm(shape[1], generator=g) for _ in range(shape[0])])
    return (8 * ranks / shape[1] - 4).to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tau", [0.3, 1.0, 2.5])
def test_temperature_is_theirs(shape: tuple[int, int], tau: float) -> None:
    logits = distinct(shape)
    assert torch.equal(temperature(logits, tau), transformers.TemperatureLogitsWarper(tau)(None, logits))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("k", [1, 3, 50, 40_000])
def test_top_k_is_theirs_where_logits_are_distinct(shape: tuple[int, int], k: int) -> None:
    logits = distinct(shape)
    assert torch.equal(top_k(logits, k), transformers.TopKLogitsWarper(k)(None, logits))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("p", [0.05, 0.3001, 0.9, 0.999])
def test_top_p_is_theirs_where_logits_are_distinct(shape: tuple[int, int], p: float) -> None:
    logits = distinct(shape)
    assert torch.equal(top_p(logits, p), transformers.TopPLogitsWarper(p)(None, logits))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("p", [0.0, 0.01, 0.1001, 0.5001])
def test_min_p_is_theirs(shape: tuple[int, int], p: float) -> None:
    logits = distinct(shape)
    assert torch.equal(min_p(logits, p), transformers.MinPLogitsWarper(p)(None, logits))


def test_the_composition_is_theirs() -> None:
    logits = distinct((16, 500))
    theirs = transformers.LogitsProcessorList(
        [
            transformers.TemperatureLogitsWarper(0.7),
            transformers.TopKLogitsWarper(40),
            transformers.TopPLogitsWarper(0.8),
            transformers.MinPLogitsWarper(0.2),
        ]
    )
    options = {"temperature": 0.7, "top_k": 40, "top_p": 0.8, "min_p": 0.2}
    assert torch.equal(decoding_logits(logits, **options), theirs(None, logits))


def test_they_keep_every_token_tied_with_the_kth_and_we_keep_k() -> None:
    logits = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    assert transformers.TopKLogitsWarper(2)(None, logits).isfinite().sum() == 3
    assert top_k(logits, 2).isfinite().tolist() == [[True, False, True, False]]


def test_they_break_ties_in_the_nucleus_by_the_sort_and_we_by_the_index() -> None:
    logits = torch.zeros(1, 4)
    assert transformers.TopPLogitsWarper(0.5)(None, logits).isfinite().tolist() == [[False, False, True, True]]
    assert top_p(logits, 0.5).isfinite().tolist() == [[True, True, False, False]]
