"""The filters against their definitions in exact rational arithmetic, and every rule as a property."""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import chance
import pytest
import torch
from helpers import F64, assert_same_up_to_rounding, needs_numba, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pgtheory as pg
from pgtheory import _compiled, decoding
from pgtheory.decoding import (
    TIE_FRACTION,
    beam_search,
    decode,
    decoded_policy,
    decoding_distribution,
    decoding_logits,
    greedy,
    gumbel_max,
    inverse_cdf,
    min_p,
    sample,
    temperature,
    top_k,
    top_p,
)

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
INF = math.inf

properties = settings(deadline=None, derandomize=True, max_examples=60)
some_logits = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12)
distinct_logits = st.lists(st.integers(-40, 40), min_size=1, max_size=12, unique=True).map(
    lambda row: [number / 8 for number in row]
)
tied_logits = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=12)
masses = st.floats(0.01, 1.0)


def take(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled kernels at every size, or plain torch: top-p by its search at every size, or by sorting."""
    monkeypatch.setenv("PGTHEORY_FAST", "1" if route == "compiled" else "0")
    monkeypatch.setattr(_compiled, "LEAST", 0)
    monkeypatch.setattr(decoding, "_SORT_UP_TO", 10**9 if route == "sort" else 0)
    monkeypatch.setattr(decoding, "_SORT_UP_TO_COMPILED", 0)


@pytest.fixture(params=["search", "sort", pytest.param("compiled", marks=needs_numba)])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    take(request.param, monkeypatch)
    return str(request.param)


@pytest.fixture(params=["plain", pytest.param("compiled", marks=needs_numba)])
def compiled_or_not(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    take(request.param, monkeypatch)
    return str(request.param)


def row(values: list[float] | list[list[float]], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def kept(filtered: Tensor) -> list[int]:
    return [i for i, value in enumerate(filtered.tolist()) if value > -INF]


def ranking(logits: list[float]) -> list[int]:
    return sorted(range(len(logits)), key=lambda i: (-logits[i], i))


def nucleus(logits: list[float], p: float) -> list[int]:
    """The definition: one token after another while the mass before it is less than p, in exact sums."""
    weights = [Fraction(math.exp(value - max(logits))) for value in logits]
    total, before, chosen = sum(weights), Fraction(0), []
    for i in ranking(logits):
        if chosen and before >= Fraction(p) * total:
            break
        chosen.append(i)
        before += weights[i]
    return sorted(chosen)


def undecided(logits: list[float], p: float) -> bool:
    """Whether some set of most probable tokens comes as close to p as the tolerance of ties reaches, or nearly so."""
    weights = sorted((math.exp(value - max(logits)) for value in logits), reverse=True)
    total, sums = math.fsum(weights), itertools.accumulate(weights)
    return any(abs(mass / total - p) < 2 * TIE_FRACTION * max(weights) for mass in sums)


# --- greedy


@pytest.mark.equation("eq-greedy")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_greedy_takes_the_first_of_equal_maxima(dtype: torch.dtype) -> None:
    logits = torch.zeros(3, 5000, dtype=dtype)
    logits[0, [4321, 17, 999]] = 1.0
    logits[1, 4999] = 1.0
    assert greedy(logits).tolist() == [17, 4999, 0]


@properties
@given(tied_logits)
def test_greedy_is_the_head_of_the_ranking(logits: list[float]) -> None:
    assert greedy(row(logits)).item() == ranking(logits)[0]


# --- temperature


@pytest.mark.equation("eq-temperature", "eq-softmax-scaled")
@properties
@given(some_logits, st.floats(0.1, 10))
def test_temperature_raises_probabilities_to_the_power_one_over_tau(logits: list[float], tau: float) -> None:
    powers = [math.exp(value) ** (1 / tau) for value in logits]
    expected = row([power / math.fsum(powers) for power in powers])
    torch.testing.assert_close(temperature(row(logits), tau).softmax(-1), expected, rtol=1e-10, atol=1e-14)


@properties
@given(tied_logits, st.floats(0.01, 100))
def test_temperature_keeps_the_order(logits: list[float], tau: float) -> None:
    assert ranking(temperature(row(logits), tau).tolist()) == ranking(logits)


@pytest.mark.equation("prop-temperature-limits")
@properties
@given(tied_logits)
def test_the_limit_of_temperature_to_zero_is_uniform_over_the_maxima(logits: list[float]) -> None:
    limit = temperature(row(logits), 1e-3).softmax(-1)
    maxima = row([float(value == max(logits)) for value in logits])
    torch.testing.assert_close(limit, maxima / maxima.sum())
    # ... so greedy decoding is the limit exactly where the maximum is unique.
    zero = temperature(row(logits), 0.0).softmax(-1)
    assert torch.allclose(limit, zero) == (maxima.sum().item() == 1)


@properties
@given(tied_logits)
def test_temperature_zero_keeps_the_greedy_token_alone(logits: list[float]) -> None:
    assert kept(temperature(row(logits), 0.0)) == [greedy(row(logits)).item()]


@pytest.mark.equation("prop-temperature-limits")
def test_the_limit_of_temperature_to_infinity_is_uniform() -> None:
    logits = row([3.0, -2.0, -INF, 0.0])
    torch.testing.assert_close(temperature(logits, 1e12).softmax(-1), row([1 / 3, 1 / 3, 0.0, 1 / 3]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_temperature_that_would_overflow_gives_the_limit(dtype: torch.dtype) -> None:
    logits = torch.tensor([[64.0, 48.0, -INF], [-64.0, -48.0, 1.0]], dtype=dtype)
    sharp = temperature(logits, torch.finfo(dtype).tiny * 2).softmax(-1)
    assert sharp.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_temperature_without_an_inverse_gives_the_limit_row_by_row(dtype: torch.dtype) -> None:
    logits = torch.tensor([[3.0, 2.0, -INF], [-2.0, -1.0, -3.0]], dtype=dtype)
    sharp = temperature(logits, 1 / torch.finfo(torch.float64).max)
    assert sharp.tolist() == [[0.0, -INF, -INF], [-INF, 0.0, -INF]]


@pytest.mark.usefixtures("route")
def test_the_sum_of_many_masses_may_fall_short_by_its_rounding() -> None:
    # Half of 2^15 equal tokens have the mass 1/2, which reaches a p that is larger by less than the sum's rounding.
    p = 0.5 * (1 + 2000 * torch.finfo(torch.float64).eps)
    for logits in (torch.zeros(2**15, dtype=torch.float64), torch.zeros(2, 2**15, dtype=torch.float64)):
        assert (top_p(logits, p).isfinite().sum(-1) == 2**14).all()


def test_a_temperature_at_which_all_logits_would_overflow_tells_them_apart() -> None:
    logits = torch.tensor([-3.0e38, -2.9e38, -3.0e38])
    assert temperature(logits, 0.5).softmax(-1).tolist() == [0.0, 1.0, 0.0]


# --- top-k


@pytest.mark.usefixtures("compiled_or_not")
@pytest.mark.equation("eq-top-k")
@properties
@given(tied_logits, st.integers(1, 15))
def test_top_k_keeps_the_first_k_of_the_ranking(logits: list[float], k: int) -> None:
    filtered = top_k(row(logits), k)
    assert kept(filtered) == sorted(ranking(logits)[:k])
    assert all(filtered[i].item() == logits[i] for i in kept(filtered))


@pytest.mark.usefixtures("compiled_or_not")
@pytest.mark.equation("prop-commute")
@properties
@given(some_logits, st.integers(1, 15))
def test_top_k_twice_is_top_k(logits: list[float], k: int) -> None:
    once = top_k(row(logits), k)
    assert torch.equal(top_k(once, k), once)


@properties
@given(tied_logits, st.integers(1, 15))
def test_top_k_sets_are_nested(logits: list[float], k: int) -> None:
    assert set(kept(top_k(row(logits), k))) <= set(kept(top_k(row(logits), k + 1)))


@pytest.mark.usefixtures("compiled_or_not")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_top_k_is_exact_in_a_vocabulary_of_many_ties(dtype: torch.dtype) -> None:
    logits = torch.randn(2, 262_144, generator=seeded()).to(dtype)
    order = logits.double().sort(dim=-1, descending=True, stable=True).indices
    for k in (1, 50, 4000, 262_143):
        expected = torch.zeros(logits.shape, dtype=torch.bool).scatter(-1, order[:, :k], True)
        assert torch.equal(top_k(logits, k) > -INF, expected)


def test_top_k_beyond_the_available_tokens_keeps_those_available() -> None:
    assert kept(top_k(row([-INF, 1.0, -INF, 0.0]), 3)) == [1, 3]


# --- top-p


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.25, [2]),  # the first token crosses
        (0.5, [2]),  # it reaches p exactly: no second one
        (0.51, [0, 2]),  # the crossing token is in
        (0.74, [0, 2]),
        (0.75, [0, 2]),
        (0.76, [0, 1, 2]),  # of two equal tokens the first
        (0.875, [0, 1, 2]),
        (0.89, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_top_p_of_dyadic_probabilities(p: float, expected: list[int], dtype: torch.dtype) -> None:
    logits = torch.tensor([0.25, 0.125, 0.5, 0.125], dtype=dtype).log()
    assert kept(top_p(logits, p)) == expected
    assert kept(top_p(logits + 10, p)) == expected


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [2, 3, 7, 10, 1000])
def test_equal_tokens_reach_each_multiple_of_their_probability_exactly(n: int, dtype: torch.dtype) -> None:
    for count in {1, n // 3, n - 1} - {0}:
        assert kept(top_p(torch.full((n,), 1.5, dtype=dtype), count / n)) == list(range(count))


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_decimal_probabilities_reach_a_decimal_mass_exactly(dtype: torch.dtype) -> None:
    # The example of transformers issue 18976, where a third token was kept.
    assert kept(top_p(torch.tensor([0.3, 0.1, 0.1, 0.5], dtype=dtype).log(), 0.8)) == [0, 3]


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_geometric_tail_reaches_each_dyadic_mass_exactly(dtype: torch.dtype) -> None:
    logits = torch.tensor([2.0 ** -(i + 1) for i in range(16)] + [2.0**-16], dtype=dtype).log()
    for n in range(1, 16):
        assert kept(top_p(logits, 1 - 2.0**-n)) == list(range(n))


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_tolerance_of_ties_is_within_its_bounds(dtype: torch.dtype) -> None:
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=dtype).log()
    rounding = 8 * torch.finfo(dtype).eps
    assert kept(top_p(logits, 0.75 + 4 * rounding)) == [0, 1, 2]
    # Small tokens: the shortfall is compared with the next token's probability too.
    many = torch.zeros(100_000, dtype=dtype)
    assert len(kept(top_p(many, 0.5 + 2 * TIE_FRACTION / 100_000))) == 50_001


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logits_of_16_bits_are_taken_as_exact(dtype: torch.dtype) -> None:
    barely_more = 0.5 + 0.5 * TIE_FRACTION / 4  # would be within a tolerance made of the eps of 16 bits
    assert kept(top_p(torch.zeros(4, dtype=dtype), barely_more)) == [0, 1, 2]


@pytest.mark.equation("eq-top-p")
@pytest.mark.usefixtures("route")
@properties
@given(st.one_of(some_logits, tied_logits, distinct_logits), masses)
def test_top_p_is_the_definition(logits: list[float], p: float) -> None:
    filtered = top_p(row(logits), p)
    if p == 1:
        assert kept(filtered) == list(range(len(logits)))
    elif not undecided(logits, p):
        assert kept(filtered) == nucleus(logits, p)
    assert all(filtered[i].item() == logits[i] for i in kept(filtered))


@pytest.mark.equation("prop-nucleus")
@pytest.mark.usefixtures("route")
@properties
@given(st.one_of(some_logits, tied_logits), masses)
def test_the_nucleus_reaches_p_and_without_its_last_token_does_not(logits: list[float], p: float) -> None:
    probabilities = row(logits).softmax(-1)
    nucleus_tokens = sorted(kept(top_p(row(logits), p)), key=ranking(logits).index)
    assert nucleus_tokens == ranking(logits)[: len(nucleus_tokens)]
    assert probabilities[nucleus_tokens].sum().item() >= p - 1e-12
    assert p == 1 or len(nucleus_tokens) == 1 or probabilities[nucleus_tokens[:-1]].sum().item() < p


@pytest.mark.equation("prop-nucleus")
@pytest.mark.usefixtures("route")
@properties
@given(some_logits, masses, masses)
def test_nuclei_are_nested(logits: list[float], p: float, q: float) -> None:
    small, large = (set(kept(top_p(row(logits), mass))) for mass in sorted((p, q)))
    assert small <= large


@pytest.mark.usefixtures("route")
@properties
@given(distinct_logits, masses, st.randoms(use_true_random=False))
def test_a_permutation_of_distinct_logits_permutes_the_nucleus(logits: list[float], p: float, random) -> None:  # type: ignore[no-untyped-def]
    order = random.sample(range(len(logits)), len(logits))
    for filter_ in (lambda x: top_p(x, p), lambda x: top_k(x, 3), lambda x: temperature(x, 0.0)):
        assert torch.equal(filter_(row(logits)[order]), filter_(row(logits))[order])


@pytest.mark.usefixtures("route")
@properties
@given(distinct_logits, masses, st.integers(-64, 64))
def test_a_constant_added_to_all_logits_changes_no_set(logits: list[float], p: float, shift: int) -> None:
    # Multiples of 1/8: the sums are exact.
    shifted = row(logits) + shift
    assert kept(top_p(shifted, p)) == kept(top_p(row(logits), p))
    assert kept(top_k(shifted, 3)) == kept(top_k(row(logits), 3))
    assert greedy(shifted) == greedy(row(logits))


@pytest.mark.equation("prop-commute")
@pytest.mark.usefixtures("route")
def test_top_p_twice_is_not_top_p() -> None:
    logits = row([0.5, 0.25, 0.25]).log()
    once = top_p(logits, 0.7)
    assert kept(once) == [0, 1]  # of mass 3/4; renormalised, the first token alone has 2/3
    assert kept(top_p(once, 0.65)) == [0]
    assert kept(top_p(top_p(row([0.4, 0.3, 0.3]).log(), 0.55), 0.55)) == [0]


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("p", [1e-300, 1e-12, 1e-3])
def test_a_tiny_p_keeps_the_most_probable_token(p: float) -> None:
    assert kept(top_p(torch.zeros(7, dtype=torch.float64), p)) == [0]
    assert kept(top_p(row([-INF, 0.0, 1.0, 1.0]), p)) == [2]


@pytest.mark.usefixtures("route")
def test_p_of_one_keeps_everything_finite_and_revives_nothing() -> None:
    logits = row([0.0, -2000.0, -INF, 1e-300])
    assert torch.equal(top_p(logits, 1.0), logits)
    assert kept(top_p(logits, 1 - 2**-53)) == [0, 3]


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_minus_zero_denormals_and_huge_logits_are_ranked_right(dtype: torch.dtype) -> None:
    tiny, huge = torch.finfo(dtype).tiny, torch.finfo(dtype).max
    assert kept(top_p(row([0.0, -0.0, -0.0, 0.0], dtype), 0.5)) == [0, 1]
    assert kept(top_p(row([-0.0, 0.0, tiny / 4, tiny / 2], dtype), 0.7)) == [0, 2, 3]
    assert kept(top_p(row([-huge, huge, huge, -huge], dtype), 0.9)) == [1, 2]


LARGE = {
    "gaussian": lambda g: torch.randn(2, 131_072, generator=g),
    "peaked": lambda g: 6 * torch.randn(2, 131_072, generator=g),
    "flat": lambda g: torch.full((2, 131_072), 2.5),
    "nearly flat": lambda g: 1e-6 * torch.randn(2, 131_072, generator=g),
    "two values": lambda g: torch.randint(0, 2, (2, 131_072), generator=g).float(),
    "ascending": lambda g: torch.randn(2, 131_072, generator=g).sort().values,
    "descending, one far below": lambda g: torch.linspace(1e-3, -1e-3, 131_072).clamp(min=-9.99e-4).repeat(2, 1),
    "one token far above": lambda g: torch.randn(2, 131_072, generator=g).index_fill(1, torch.tensor([77]), 12.0),
    "mostly excluded": lambda g: top_k(torch.randn(2, 131_072, generator=g), 40),
    "geometric scales": lambda g: 10.0 ** torch.randint(-37, 1, (2, 131_072), generator=g),
}


@pytest.mark.usefixtures("compiled_or_not")
@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_search_is_exact_in_large_vocabularies(name: str, dtype: torch.dtype) -> None:
    logits = LARGE[name](seeded()).to(dtype)
    for p in (0.05, 0.95):
        for filtered, given_row in zip(top_p(logits, p), logits, strict=True):
            ranked, order = given_row.double().sort(descending=True, stable=True)
            weights = (ranked - ranked[0]).exp()
            n = int((filtered > -INF).sum())
            assert torch.equal(filtered, given_row.where(torch.zeros_like(order).scatter(0, order[:n], 1) > 0, -INF))
            total, target = math.fsum(weights.tolist()), p * math.fsum(weights.tolist())
            slack = TIE_FRACTION * weights[min(n, len(weights) - 1)].item() + 1e-12 * total
            assert math.fsum(weights[:n].tolist()) >= target - slack
            assert n == 1 or math.fsum(weights[: n - 1].tolist()) < target


@pytest.mark.usefixtures("compiled_or_not")
@pytest.mark.parametrize("name", LARGE)
def test_the_search_ends_where_rounding_hides_whether_p_is_reached(name: str) -> None:
    logits = LARGE[name](seeded())
    assert (
        top_p(logits, 1 - 2**-53).where(logits > -INF, -INF).logsumexp(-1) - logits.logsumexp(-1)
    ).abs().max() < 1e-5


def test_all_routes_agree_on_random_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    for scale, decimals in itertools.product((0.1, 1, 10), (0, 1, 6)):
        logits = (scale * torch.randn(50, 400, generator=seeded(), dtype=torch.float64)).round(decimals=decimals)
        for p in (0.1, 0.5, 0.95):
            take("search", monkeypatch)
            by_search = top_p(logits, p)
            take("sort", monkeypatch)
            assert torch.equal(by_search, top_p(logits, p))
            if _compiled._has_numba():
                take("compiled", monkeypatch)
                assert torch.equal(by_search, top_p(logits, p))


# --- the kernels


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.T.contiguous().T,
    "every other row and token": lambda x: x.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2],
    "one row for all": lambda x: x[:1].expand(5, -1),
    "negated": lambda x: torch.view_as_complex(torch.stack([x, -x], -1)).conj().imag if x.dtype == F64 else x,
}


@needs_numba
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_kernels_agree_with_torch_in_every_layout_and_dtype(
    layout: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = (4 * torch.randn(5, 3001, generator=seeded(), dtype=F64)).to(dtype)
    values[:, 100:200], values[1, 5:], values[3] = -INF, values[1, 5], values[3].round()
    logits, uniforms = LAYOUTS[layout](values), torch.rand(5, generator=seeded(1), dtype=F64)
    routes: list[Callable[[], Tensor]] = [
        *(lambda p=p: top_p(logits, p) for p in (0.1, 0.9, 0.999)),
        *(lambda k=k: top_k(logits, k) for k in (1, 50, 2950)),
        lambda: inverse_cdf(logits, uniforms),
        lambda: decode(logits, temperature=0.3, top_k=40, top_p=0.8, generator=seeded(2)),
        lambda: decode(logits, temperature=1.7, top_k=2950, generator=seeded(3)),
    ]
    before, found = logits.clone(), []
    for name, threads in (("search", 1), ("compiled", 1), ("compiled", 2)):
        take(name, monkeypatch)
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        found.append([route() for route in routes])
    for plain, one, two in zip(*found, strict=True):
        assert torch.equal(plain, one)
        assert torch.equal(plain, two)
    assert torch.equal(logits, before)


@needs_numba
def test_the_series_of_the_kernels_is_the_exponential() -> None:
    from pgtheory._kernels import _weights

    depths = torch.cat(
        [700 * torch.rand(500, generator=seeded(), dtype=F64), torch.rand(520, generator=seeded(1), dtype=F64)]
    )
    logits = torch.cat([5.0 - depths, row([5.0, -703.5, -INF, -1e300])]).numpy()
    weights, exponents = torch.empty(1024, dtype=F64).numpy(), torch.empty(1024, dtype=torch.int64).numpy()
    _weights(logits, 5.0, weights, exponents)
    expected = row([math.exp(x - 5.0) if x > -703.0 else 0.0 for x in logits.tolist()])
    torch.testing.assert_close(torch.from_numpy(weights), expected, rtol=4 * torch.finfo(F64).eps, atol=0.0)


@needs_numba
def test_the_kernel_draws_by_extreme_uniforms_and_by_those_on_a_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    take("compiled", monkeypatch)
    logits = torch.full((4, 5000), -INF, dtype=F64)
    logits[:3, 1023] = torch.tensor([-600.0, -800.0, 0.0])  # a probability of e^-600 can be drawn, by u = 0 alone
    logits[:3, [1024, 4000]] = 0.0
    logits[3, [1030, 1031]] = 7.0  # a cumulative probability of u is not more than u
    uniforms = torch.tensor([0.0, 0.0, math.nextafter(1.0, 0.0), 0.5], dtype=F64)
    assert inverse_cdf(logits, uniforms).tolist() == [1023, 1024, 4000, 1031]


@pytest.mark.usefixtures("compiled_or_not")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_quotient_by_the_temperature_that_is_rounded_makes_ties_for_top_k(dtype: torch.dtype) -> None:
    one = torch.tensor(1.0, dtype=dtype)
    logits = torch.stack([torch.nextafter(one, -one)] * 3 + [one] * 3 + [-one] * 40)  # the first ones are less
    tau = next(x / 64 for x in range(65, 192) if logits[0] / (x / 64) == logits[3] / (x / 64))
    drawn = decode(logits.expand(500, -1), temperature=tau, top_k=3, generator=seeded())
    assert set(drawn.tolist()) == {0, 1, 2}


@pytest.mark.usefixtures("compiled_or_not")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_decode_after_top_k_at_a_temperature_that_overflows_is_the_composition(dtype: torch.dtype) -> None:
    logits = torch.tensor([[3.0, 2.0, -INF, 3.0, 1.0, -INF]] * 50, dtype=dtype)
    tau = torch.finfo(dtype).tiny * 2
    drawn = decode(logits, temperature=tau, top_k=3, top_p=0.9, min_p=0.1, generator=seeded())
    assert set(drawn.tolist()) == {0, 3}


@pytest.mark.usefixtures("compiled_or_not")
def test_decode_after_top_k_where_only_the_rounded_temperature_overflows_is_the_composition() -> None:
    largest = torch.finfo(torch.float32).max
    # Float32 holds τ less by so much that x/τ, which is the largest number, is beyond it.
    taus = (0.5 + k / 1e4 for k in range(4000))
    tau = next(tau for tau in taus if (torch.tensor([tau * largest]) / torch.tensor([tau])).isinf())
    logits = torch.full((4, 8), -math.inf)
    logits[:, :3] = torch.tensor([tau * largest, tau * largest / 2, 0.0])
    assert decode(logits, temperature=tau, top_k=2, generator=seeded()).tolist() == [0] * 4


# --- min-p


@pytest.mark.equation("eq-min-p")
@properties
@given(st.one_of(some_logits, tied_logits), st.floats(0.0, 1.0))
def test_min_p_is_the_definition(logits: list[float], p: float) -> None:
    weights = [Fraction(math.exp(value)) for value in logits]
    shares = [weight / max(weights) for weight in weights]
    filtered = min_p(row(logits), p)
    if all(share == Fraction(p) or abs(share - Fraction(p)) > 1e-12 for share in shares):
        assert kept(filtered) == [i for i, share in enumerate(shares) if share >= Fraction(p)]
    assert all(filtered[i].item() == logits[i] for i in kept(filtered))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.0, [0, 1, 2, 3]),
        (0.25, [0, 1, 2, 3]),  # an eighth is exactly a quarter of a half
        (0.2501, [0, 2]),
        (0.5, [0, 2]),
        (0.5001, [2]),
        (1.0, [2]),
    ],
)
def test_min_p_of_dyadic_probabilities(p: float, expected: list[int], dtype: torch.dtype) -> None:
    logits = torch.tensor([0.25, 0.125, 0.5, 0.125], dtype=dtype).log()
    assert kept(min_p(logits, p)) == expected
    assert kept(min_p(logits + 10, p)) == expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_decimal_probabilities_reach_a_decimal_part_of_the_largest(dtype: torch.dtype) -> None:
    logits = torch.tensor([0.3, 0.2, 0.4, 0.1], dtype=dtype).log()
    assert [kept(min_p(logits, p)) for p in (0.25, 0.5, 0.75)] == [[0, 1, 2, 3], [0, 1, 2], [0, 2]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_min_p_of_one_keeps_every_maximum_and_no_min_p_revives_a_token(dtype: torch.dtype) -> None:
    logits = torch.tensor([1.0, 2.0, -INF, 2.0], dtype=dtype)
    assert kept(min_p(logits, 1.0)) == [1, 3]
    assert kept(min_p(logits, 0.0)) == [0, 1, 3]


# --- sampling


@pytest.mark.usefixtures("compiled_or_not")
@pytest.mark.equation("eq-inverse-cdf")
@properties
@given(st.lists(st.sampled_from([-INF, 0.0, math.log(2), math.log(3)]), min_size=1, max_size=9), st.integers(0, 2**20))
def test_inverse_cdf_inverts_the_cumulative_distribution(logits: list[float], numerator: int) -> None:
    weights = [0 if value == -INF else round(math.exp(value)) for value in logits]
    total = sum(weights)
    if not total:
        return
    u = Fraction(2 * numerator + 1, 2**21 + 2)  # odd / even with 2^20 + 1: never on a jump of these distributions
    if any(abs(u - Fraction(mass, total)) < Fraction(1, 10**9) for mass in itertools.accumulate(weights)):
        return
    expected = next(i for i, mass in enumerate(itertools.accumulate(weights)) if Fraction(mass, total) > u)
    assert inverse_cdf(row(logits), torch.tensor(float(u), dtype=torch.float64)).item() == expected


@pytest.mark.usefixtures("compiled_or_not")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_extreme_uniforms_draw_tokens_of_positive_probability(dtype: torch.dtype) -> None:
    logits = torch.full((2, 262_144), -INF, dtype=dtype)
    logits[:, [5, 77, 200_000]] = torch.tensor([0.0, 1.0, -2.0], dtype=dtype)
    extremes = torch.tensor([0.0, math.nextafter(1.0, 0.0)], dtype=torch.float64)
    assert inverse_cdf(logits, extremes).tolist() == [5, 200_000]


def test_each_token_is_drawn_from_an_interval_as_long_as_its_probability() -> None:
    probabilities = row([0.125, 0.0, 0.5, 0.25, 0.125])
    grid = (torch.arange(800, dtype=torch.float64) + 0.5) / 800
    drawn = inverse_cdf(probabilities.log().expand(800, 5), grid)
    assert torch.equal(drawn.bincount(minlength=5) / 800, probabilities)


def test_samples_have_the_frequencies_of_the_softmax() -> None:
    logits = row([0.0, 1.0, -INF, 2.0])
    drawn = sample(logits.expand(100_000, 4), generator=seeded(7))
    chance.assert_counts(drawn.bincount(minlength=4), logits.softmax(-1), 100_000)


@pytest.mark.equation("eq-gumbel-max")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gumbel_max_wins_the_race_of_exponential_clocks(dtype: torch.dtype) -> None:
    # argmax of ln π - ln(-ln u) is argmin of -ln u / π: which of V clocks of rates π rings first.
    logits = torch.randn(50, 400, generator=seeded()).round(decimals=1).to(dtype)
    logits[:, 3] = -INF
    clocks = -torch.rand(50, 400, generator=seeded(5), dtype=torch.float64).log() / logits.double().softmax(-1)
    assert torch.equal(gumbel_max(logits, generator=seeded(5)), clocks.argmin(-1))


def test_gumbel_max_has_the_frequencies_of_the_softmax() -> None:
    logits = row([0.0, 1.0, -INF, 2.0])
    drawn = gumbel_max(logits.expand(100_000, 4), generator=seeded(7))
    chance.assert_counts(drawn.bincount(minlength=4), logits.softmax(-1), 100_000)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gumbel_max_survives_the_extreme_uniforms(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([-INF, 1.0, 0.0], dtype=dtype)
    for numbers, expected in (([0.9, 0.0, 0.0], 1), ([1 - 2**-53, 0.0, 0.5], 2), ([0.5, 1 - 2**-53, 0.0], 1)):
        uniforms = row(numbers)
        monkeypatch.setattr(torch, "rand", lambda *_, u=uniforms, **__: u)
        assert gumbel_max(logits).item() == expected


def test_a_generator_repeats_its_samples_and_the_global_state_is_not_touched_by_it() -> None:
    logits = torch.randn(64, 30, generator=seeded())
    state = torch.random.get_rng_state()
    for draw in (sample, gumbel_max):
        assert torch.equal(draw(logits, generator=seeded(3)), draw(logits, generator=seeded(3)))
    assert torch.equal(torch.random.get_rng_state(), state)


# --- the composition


@pytest.mark.usefixtures("compiled_or_not")
@pytest.mark.equation("eq-decoding-map")
@properties
@given(some_logits, st.floats(0.2, 3), st.integers(1, 12), st.floats(0.05, 1.0), st.floats(0.0, 1.0))
def test_decode_is_sample_of_min_p_of_top_p_of_top_k_of_temperature(
    logits: list[float], tau: float, k: int, p: float, m: float
) -> None:
    batch = row(logits).expand(20, len(logits))
    composed = min_p(top_p(top_k(temperature(batch, tau), k), p), m)  # the same calls on the same batch: the same bits
    options = {"temperature": tau, "top_k": k, "top_p": p, "min_p": m}
    assert torch.equal(decoding_logits(batch, **options), composed)
    assert_same_up_to_rounding(decoding_distribution(batch, **options), composed.softmax(-1))
    drawn = decode(batch, **options, generator=seeded(1))
    assert torch.equal(drawn, sample(composed, generator=seeded(1)))


@pytest.mark.usefixtures("compiled_or_not")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_decode_draws_from_the_k_largest_tokens_what_the_composition_draws_from_all(dtype: torch.dtype) -> None:
    logits = (3 * torch.randn(200, 60, generator=seeded(), dtype=F64)).round(decimals=1).to(dtype)
    for tau, k, p, m in itertools.product((0.7, 1.0, 2.5), (1, 7, 59), (0.5, 0.9, 1.0), (0.0, 0.1)):
        composed = min_p(top_p(top_k(temperature(logits, tau), k), p), m)
        drawn = decode(logits, temperature=tau, top_k=k, top_p=p, min_p=m, generator=seeded(1))
        assert torch.equal(drawn, sample(composed, generator=seeded(1)))


@pytest.mark.equation("prop-commute")
def test_temperature_and_top_p_do_not_commute() -> None:
    logits = row([0.5, 0.3, 0.2]).log()
    first_temperature = decoding_distribution(logits, temperature=0.5, top_p=0.6)
    first_top_p = temperature(top_p(logits, 0.6), 0.5).softmax(-1)
    assert first_temperature.tolist() == [1.0, 0.0, 0.0]  # 25/38 > 0.6
    torch.testing.assert_close(first_top_p, row([25 / 34, 9 / 34, 0.0]))


@pytest.mark.equation("prop-commute")
def test_top_k_and_top_p_do_not_commute() -> None:
    logits = row([0.4, 0.3, 0.2, 0.1]).log()
    assert kept(top_p(top_k(logits, 2), 0.5)) == [0]  # renormalised to 4/7
    assert kept(top_k(top_p(logits, 0.5), 2)) == [0, 1]
    assert kept(decoding_logits(logits, top_k=2, top_p=0.5)) == [0]


@pytest.mark.equation("prop-commute")
def test_top_p_and_min_p_do_not_commute() -> None:
    logits = row([0.5, 0.2, 0.2, 0.1]).log()
    assert kept(min_p(top_p(logits, 0.75), 0.4)) == [0, 1, 2]
    assert kept(top_p(min_p(logits, 0.4), 0.75)) == [0, 1]  # renormalised, 7/9 of the mass are enough
    assert kept(decoding_logits(logits, top_p=0.75, min_p=0.4)) == [0, 1, 2]


@pytest.mark.equation("prop-commute")
def test_temperature_and_top_k_commute() -> None:
    logits = torch.randn(20, 30, generator=seeded(), dtype=torch.float64)
    # One division per logit, which has one correct rounding.
    assert torch.equal(top_k(temperature(logits, 0.7), 5), temperature(top_k(logits, 5), 0.7))


@properties
@given(tied_logits)
def test_decoding_at_temperature_zero_is_greedy(logits: list[float]) -> None:
    for options in ({}, {"top_k": 3}, {"top_p": 0.4}, {"top_k": 2, "top_p": 0.9}):
        assert decode(row(logits), temperature=0, **options).item() == greedy(row(logits)).item()


def test_defaults_decode_from_the_policy_itself() -> None:
    logits = torch.randn(4, 9, generator=seeded(), dtype=torch.float64)
    assert_same_up_to_rounding(decoding_distribution(logits), logits.softmax(-1))


def test_a_policy_is_decoded_state_by_state() -> None:
    policy = row([[0.5, 0.3, 0.2], [0.0, 0.0, 0.0], [0.1, 0.0, 0.9]])
    expected = row([[25 / 34, 9 / 34, 0.0], [0.0, 0.0, 0.0], [1 / 82, 0.0, 81 / 82]])
    torch.testing.assert_close(decoded_policy(policy, temperature=0.5, top_k=2), expected)
    torch.testing.assert_close(decoded_policy(policy), policy)
    assert decoded_policy(policy, temperature=0).tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


def test_the_gradient_of_a_decoded_policy_is_that_of_its_powers() -> None:
    policy = row([[0.5, 0.3, 0.2], [0.0, 0.0, 0.0], [0.1, 0.0, 0.9]]).requires_grad_()
    (gradient,) = torch.autograd.grad(decoded_policy(policy, temperature=0.5)[0, 0], policy)
    # d/da a²/(a² + b² + c²), and so on
    a, b, c = 0.5, 0.3, 0.2
    total = (a * a + b * b + c * c) ** 2
    expected = row([2 * a * (b * b + c * c) / total, -2 * b * a * a / total, -2 * c * a * a / total])
    torch.testing.assert_close(gradient[0], expected)
    assert not gradient[1:].any()


# --- every filter


FILTERS = {
    "temperature": lambda x: temperature(x, 0.7),
    "temperature 0": lambda x: temperature(x, 0.0),
    "top_k": lambda x: top_k(x, 3),
    "top_k all": lambda x: top_k(x, 99),
    "top_p": lambda x: top_p(x, 0.8),
    "min_p": lambda x: min_p(x, 0.4),
    "min_p all": lambda x: min_p(x, 0.0),
    "top_p all": lambda x: top_p(x, 1.0),
    "decoding_logits": lambda x: decoding_logits(x, temperature=1.3, top_k=4, top_p=0.7, min_p=0.3),
}


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_filter_keeps_dtype_and_shape_and_leaves_its_input_alone(name: str, dtype: torch.dtype) -> None:
    logits = torch.randn(2, 3, 6, generator=seeded()).to(dtype)
    before = logits.clone()
    filtered = FILTERS[name](logits)
    assert filtered.dtype == dtype
    assert filtered.shape == logits.shape
    filtered.fill_(7)
    assert torch.equal(logits, before)
    assert FILTERS[name](logits[:0]).shape == (0, 3, 6)
    rows = torch.stack([FILTERS[name](r) for r in logits.flatten(0, 1)])
    # A filter copies a logit, divides it once, or excludes it: no batch shape changes a bit.
    assert torch.equal(FILTERS[name](logits).flatten(0, 1), rows)


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("name", FILTERS)
def test_the_gradient_reaches_the_kept_logits_and_no_others(name: str) -> None:
    logits = torch.randn(4, 6, generator=seeded(), dtype=torch.float64, requires_grad=True)
    filtered = FILTERS[name](logits)
    finite = filtered > -INF
    (gradient,) = torch.autograd.grad(filtered.where(finite, 0.0).sum(), logits)
    scale = {"temperature": 1 / 0.7, "decoding_logits": 1 / 1.3}.get(name, 1.0)
    torch.testing.assert_close(gradient, finite.double() * scale)
    # The sets do not change near these logits, so probabilities are differentiable there.
    assert torch.autograd.gradcheck(lambda x: FILTERS[name](x).softmax(-1), logits)


@pytest.mark.parametrize("name", FILTERS)
def test_filters_run_under_vmap(name: str) -> None:
    logits = torch.randn(5, 8, generator=seeded()).round(decimals=1)
    assert torch.equal(torch.func.vmap(FILTERS[name])(logits), FILTERS[name](logits))
    assert torch.equal(torch.func.vmap(greedy)(logits), greedy(logits))
    jacobian = torch.func.jacrev(lambda x: FILTERS[name](x).softmax(-1))(logits[0].double())
    assert jacobian.isfinite().all()


@pytest.mark.parametrize("name", [*FILTERS, "greedy"])
def test_filters_run_under_compile(name: str) -> None:
    function = greedy if name == "greedy" else FILTERS[name]
    logits = torch.randn(5, 8, generator=seeded()).round(decimals=1)
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert torch.equal(compiled(logits), function(logits))


# --- bad input


GOOD = [0.0, 1.0]
TINY = pg.tiny_language(), pg.tiny_language_model()
TWO_PROMPTS = pg.token_tree(2, 1, n_prompts=2, reward=lambda prompt, tokens: 0.0)
BAD = [
    ("logits is a list", lambda: greedy([0.0]), TypeError, "logits must be a torch.Tensor, not list"),
    ("logits of integers", lambda: top_k(torch.tensor([1, 2]), 1), TypeError, "logits must hold floating-point.*int64"),
    ("logits is a scalar", lambda: greedy(torch.tensor(1.0)), ValueError, "logits is a scalar"),
    ("empty vocabulary", lambda: top_p(torch.zeros(2, 0), 0.5), ValueError, r"logits has shape \[2, 0\].*empty"),
    ("NaN", lambda: top_p(row([0.0, math.nan]), 0.5), ValueError, r"logits is NaN at \[1\]"),
    ("+inf", lambda: temperature(torch.tensor([GOOD, [1, INF]]), 1), ValueError, r"logits is \+inf at \[1, 1\]"),
    (
        "all -inf",
        lambda: sample(torch.tensor([GOOD, [-INF] * 2])),
        ValueError,
        r"row \[1\] of logits is -inf throughout",
    ),
    ("all -inf, one row", lambda: greedy(row([-INF])), ValueError, "logits is -inf throughout"),
    ("k = 0", lambda: top_k(row(GOOD), 0), ValueError, "k must be at least 1, not 0"),
    ("k < 0", lambda: top_k(row(GOOD), -2), ValueError, "k must be at least 1, not -2"),
    ("k is a float", lambda: top_k(row(GOOD), 2.0), TypeError, "k must be an integer, not float"),
    ("k is a bool", lambda: top_k(row(GOOD), True), TypeError, "k must be an integer, not bool"),
    ("p = 0", lambda: top_p(row(GOOD), 0.0), ValueError, r"p must be in \(0, 1\], not 0.0"),
    ("p > 1", lambda: top_p(row(GOOD), 1.01), ValueError, r"p must be in \(0, 1\], not 1.01"),
    ("p is NaN", lambda: top_p(row(GOOD), math.nan), ValueError, r"p must be in \(0, 1\], not nan"),
    ("p is a string", lambda: top_p(row(GOOD), "0.9"), TypeError, "p must be a number, not str"),
    ("tau < 0", lambda: temperature(row(GOOD), -0.1), ValueError, "tau must be finite and at least 0, not -0.1"),
    ("tau is NaN", lambda: temperature(row(GOOD), math.nan), ValueError, "tau must be finite and at least 0, not nan"),
    ("tau is infinite", lambda: temperature(row(GOOD), INF), ValueError, "tau must be finite and at least 0, not inf"),
    ("temperature < 0", lambda: decode(row(GOOD), temperature=-1), ValueError, "temperature must be finite"),
    ("top_k = 0", lambda: decode(row(GOOD), top_k=0), ValueError, "top_k must be at least 1, not 0"),
    ("top_p = 0", lambda: decoding_distribution(row(GOOD), top_p=0), ValueError, r"top_p must be in \(0, 1\], not 0.0"),
    ("logits of NaN for all steps", lambda: decoding_logits(row([0, math.nan])), ValueError, r"logits is NaN at \[1\]"),
    ("negative probability", lambda: decoded_policy(row([[1.5, -0.5]])), ValueError, r"policy is negative at \[0, 1\]"),
    (
        "uniforms for other rows",
        lambda: inverse_cdf(torch.zeros(2, 3, 4), torch.zeros(5, dtype=torch.float64)),
        ValueError,
        r"uniforms has shape \[5\], expected \[2, 3\]",
    ),
    ("no actions", lambda: decoded_policy(torch.zeros(2, 3, 0)), ValueError, r"policy has shape \[2, 3, 0\]"),
    (
        "no distribution",
        lambda: decoded_policy(row([[1, 0], [0, 0], [0.5, 0.75]])),
        ValueError,
        r"1.25 at \[2\], not 1",
    ),
    ("policy is NaN", lambda: decoded_policy(row([[math.nan, 1]])), ValueError, r"policy is nan at \[0, 0\]"),
    ("uniform = 1", lambda: inverse_cdf(row(GOOD), torch.tensor(1.0)), ValueError, r"uniforms is 1.0.*not in \[0, 1\)"),
    ("uniform is NaN", lambda: inverse_cdf(row([GOOD]), row([math.nan])), ValueError, r"uniforms is nan at \[0\]"),
    ("min-p above 1", lambda: min_p(row(GOOD), 1.5), ValueError, r"p must be in \[0, 1\], not 1.5"),
    ("min-p is NaN", lambda: decode(row(GOOD), min_p=math.nan), ValueError, r"min_p must be in \[0, 1\], not nan"),
    ("min-p is a string", lambda: min_p(row(GOOD), "0.1"), TypeError, "p must be a number, not str"),
    ("Gumbel of NaN", lambda: gumbel_max(row([0.0, math.nan])), ValueError, r"logits is NaN at \[1\]"),
    ("beam of width 0", lambda: beam_search(*TINY, 0, horizon=2), ValueError, "width must be at least 1, not 0"),
    (
        "beam of half a width",
        lambda: beam_search(*TINY, 1.5, horizon=2),
        TypeError,
        "width must be an integer, not float",
    ),
    ("beam without steps", lambda: beam_search(*TINY, 1, horizon=0), ValueError, "horizon must be at least 1, not 0"),
    (
        "beam of several policies",
        lambda: beam_search(TINY[0], torch.stack([TINY[1]] * 2), 1, horizon=2),
        ValueError,
        r"policy has shape \[2, 17, 4\], expected \[S, A\]: one table",
    ),
    (
        "beam from nowhere",
        lambda: beam_search(*TINY, 1, horizon=2, start=17),
        ValueError,
        r"start is 17, not in 0\.\.16",
    ),
    (
        "beam from two prompts",
        lambda: beam_search(TWO_PROMPTS, pg.equiprobable_policy(TWO_PROMPTS), 1, horizon=1),
        ValueError,
        "mdp can start in 2 states: name one of them as start",
    ),
    (
        "beam where a coin is tossed",
        lambda: beam_search(pg.recycling_robot(), pg.equiprobable_policy(pg.recycling_robot()), 1, horizon=1),
        ValueError,
        "mdp has several outcomes at s=0, a=0: a beam needs what follows an action to be certain",
    ),
    ("one uniform too many", lambda: inverse_cdf(row(GOOD), torch.zeros(1)), ValueError, r"shape \[1\], expected \[\]"),
]


@pytest.mark.usefixtures("compiled_or_not")
@pytest.mark.parametrize(("call", "error", "message"), [pytest.param(*rest, id=name) for name, *rest in BAD])
def test_bad_input_is_named(call, error: type[Exception], message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        call()


def test_a_generator_of_another_device_is_refused() -> None:
    class Elsewhere(torch.Generator):
        device = torch.device("meta")

    with pytest.raises(ValueError, match="generator is on meta but logits is on cpu"):
        sample(row(GOOD), generator=Elsewhere())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [1e-5, 1e-40, 1e-46, 1e-310, 5e-324])
def test_temperatures_near_zero_are_greedy_in_every_dtype(tau: float, dtype: torch.dtype) -> None:
    found = decoding_distribution(torch.tensor([[1.0, 2.0, -1.0], [2.0, 0.0, 2.0]], dtype=dtype), temperature=tau)
    assert found.tolist() == [[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]
    assert found.dtype == dtype


def test_a_temperature_and_logits_that_are_both_tiny_still_divide() -> None:
    found = decoding_distribution(torch.tensor([0.0, -1e-310], dtype=torch.float64), temperature=1e-310)
    torch.testing.assert_close(found[0].item(), 1 / (1 + math.exp(-1)), rtol=1e-12, atol=0.0)


def test_half_precision_holds_the_decoding_distribution_of_a_large_vocabulary() -> None:
    found = decoding_distribution(torch.zeros(100_000, dtype=torch.float16))
    assert float(found[0]) == float(torch.tensor(1e-5).half())
