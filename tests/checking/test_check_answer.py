"""`check_answer`: right, a known slip, or wrong."""

from typing import Any

import pytest
import torch

from pgtheory.checking import check_answer

SLIPS = {"doubled": [2.0, 4.0], "in reversed order": [2.0, 1.0]}


@pytest.mark.parametrize(
    "answer", [[1.0, 2.0], (1, 2), torch.tensor([1.0, 2.0 + 1e-6]), [torch.tensor(1), 2.0]], ids=repr
)
def test_a_right_answer_is_right_whatever_holds_it(answer: Any) -> None:
    report = check_answer(answer, torch.tensor([1.0, 2.0], dtype=torch.float64), SLIPS)
    assert report.ok
    assert report.headline == "check_answer: right"


@pytest.mark.parametrize(("answer", "slip"), [([2, 4], "doubled"), ([2, 1], "in reversed order")])
def test_a_slip_is_named(answer: Any, slip: str) -> None:
    report = check_answer(answer, [1.0, 2.0], SLIPS)
    assert (report.ok, report.diagnosis) == (False, slip)


@pytest.mark.parametrize("answer", [[1.0, 3.0], [1.0], 1.0, [[1.0, 2.0]], [1.0, float("nan")]], ids=repr)
def test_another_answer_is_wrong_without_a_diagnosis(answer: Any) -> None:
    report = check_answer(answer, [1.0, 2.0], SLIPS)
    assert (report.ok, report.diagnosis) == (False, None)
    assert "2.0" not in str(report), "what is right is not given away"


def test_a_blank_is_not_an_answer() -> None:
    assert check_answer(..., 1.0).diagnosis == "the blank is not filled in yet"


def test_the_tolerance_is_the_one_that_is_given() -> None:
    assert not check_answer(1.02, 1.0)
    assert check_answer(1.02, 1.0, atol=0.03)
    assert check_answer(102.0, 100.0, rtol=0.03)
    assert not check_answer(104.0, 100.0, rtol=0.03)


def test_truth_values_are_numbers() -> None:
    assert check_answer([True, False], torch.tensor([True, False]))
    assert check_answer(False, True, {"the other way round": False}).diagnosis == "the other way round"
