"""The front page shows what it says: two clouds equally wide, one around the gradient, one on its other side."""

import re
from pathlib import Path
from typing import Any

import chance
import pytest
import torch
from torch import Tensor

from pgtheory import exact_policy_gradient

PAGE = (Path(__file__).parents[1] / "book" / "index.md").read_text(encoding="utf-8")
CELLS = [
    re.sub(r"^---\n.*?^---\n", "", cell, flags=re.M | re.S)
    for cell in re.findall(r"\{code-cell\}.*?\n(.*?)```", PAGE, re.S)
]
WORTH = {(1,): 0.57, (0, 1): 1.0, (0, 0): 0.83}


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(CELLS[0], found)
    return found


def expectation(policy: Tensor, *, divided: bool) -> Tensor:
    """The expected gradient in the two preferences for thinking, by going through the three answers."""
    p, q = policy[0, 0], policy[1, 0]
    chances = {(1,): 1 - p, (0, 1): p * (1 - q), (0, 0): p * q}
    scores = {(1,): [-p, 0 * q], (0, 1): [1 - p, -q], (0, 0): [1 - p, 1 - q]}
    length = sum(chances[a] * len(a) for a in WORTH) if divided else 1.0
    terms = [
        chances[a] * WORTH[a] * (length / len(a) if divided else 1.0) * torch.stack(list(scores[a])) for a in WORTH
    ]
    return torch.stack(terms).sum(0)


@pytest.mark.parametrize("name", ["right", "wrong"])
def test_each_cloud_is_where_enumeration_puts_its_mean(names: dict[str, Any], name: str) -> None:
    cloud = names[name]
    error = (cloud.mean(0) - expectation(names["policy"], divided=name == "wrong")).abs()
    assert (error < chance.most_errors(2 * len(error)) * cloud.std(0) / len(cloud) ** 0.5).all()


def test_the_arrow_is_the_expectation_of_the_right_estimate(names: dict[str, Any]) -> None:
    exact = exact_policy_gradient(names["tree"], names["preferences"], 1.0)[:2, 0]
    torch.testing.assert_close(exact, expectation(names["policy"], divided=False))


def test_the_wrong_estimate_is_as_noisy_and_points_the_other_way(names: dict[str, Any]) -> None:
    right, wrong = names["right"], names["wrong"]
    assert wrong.var(0).sum() / right.var(0).sum() == pytest.approx(1, abs=0.2)
    assert right.mean(0) @ wrong.mean(0) < 0
    assert right.mean(0)[0] > 0 > wrong.mean(0)[0]  # the first preference is the one for thinking


def test_the_verdict_on_the_front_page_is_the_known_mistake() -> None:
    found: dict[str, Any] = {}
    exec(CELLS[1], found)
    assert found["check_returns"](found["returns"]).diagnosis == "the returns in reversed order"
