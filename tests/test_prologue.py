"""The prologue says what is true: both programs start uphill, and one of them then pushes thinking down."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from torch import Tensor

NOTEBOOK = nbformat.read(Path(__file__).parents[1] / "book" / "prologue.ipynb", as_version=4)
CELLS = {cell.id: cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"}
NEEDED = ("imports", "world", "start-policy", "losses", "train", "exact", "later")
RIGHT = torch.tensor([0.0, 0.6, 1.0], dtype=torch.float64)  # after mumbling, guessing, thinking
WORDS = torch.tensor([1.0, 1.0, 4.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in NEEDED:
        exec(CELLS[f"prologue-{name}"], found)
    return found


def gradient(h: Tensor, worth: Tensor) -> Tensor:
    """Of the expected worth of one softmax choice: p(a) (worth(a) - mean)."""
    p = h[0].softmax(0)
    return p * (worth - p @ worth)


@pytest.mark.parametrize("place", ["start", "h"])
def test_each_program_climbs_what_the_prologue_says(names: dict[str, Any], place: str) -> None:
    h = names[place]
    updates = names["updates"](h)
    torch.testing.assert_close(updates["exact ∇J"], gradient(h, RIGHT))
    torch.testing.assert_close(updates["program two"], gradient(h, RIGHT))
    torch.testing.assert_close(updates["program one"], gradient(h, RIGHT / WORDS))


def test_the_wrong_program_first_pushes_thinking_up_and_later_down(names: dict[str, Any]) -> None:
    before, after = (gradient(names[place], RIGHT / WORDS) for place in ("start", "h"))
    assert before[2] > 0 > after[2]
    assert before[1] > 3 * before[2]
    assert gradient(names["h"], RIGHT)[2] > 0


def test_a_run_of_the_wrong_program_ends_at_guessing(names: dict[str, Any]) -> None:
    h, curve = names["train"](names["one"], 0)
    assert float(h[0].softmax(0) @ RIGHT) == pytest.approx(0.6, abs=0.005)
    assert curve[-20:].mean() > 3 * curve[0]
