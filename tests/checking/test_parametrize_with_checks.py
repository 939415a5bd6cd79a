"""Checks as items of pytest: what fails, what is expected to, what is skipped, and under which names."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

import pgtheory.checking._pytest
from pgtheory.checking import (
    UnknownForm,
    WrongImplementation,
    check_kl,
    check_returns,
    check_top_k,
    mistakes,
    parametrize_with_checks,
)
from pgtheory.returns import returns_to_go

TESTS = """
from functools import partial

import torch

from pgtheory.checking import check_returns, check_softmax, parametrize_with_checks
from pgtheory.returns import returns_to_go


def alone(rewards, gamma):
    return rewards

def alone_and_capped(rewards, gamma):
    return rewards.clamp(-3, 3)

def steps_first(rewards, gamma):
    return returns_to_go(rewards.mT, gamma).mT

def strange(rewards, gamma, critic):
    return rewards


@parametrize_with_checks({"check_returns": returns_to_go, check_softmax: lambda logits: logits.softmax(-1)})
def test_right(function, check):
    report = check(function)
    assert report.ok
    assert report.n_cases >= 5

@parametrize_with_checks([
    partial(check_returns, steps_first, layout="[T, B]"),
    partial(check_returns, call=lambda x: returns_to_go(x.rewards, x.gamma)),
    (partial(check_returns, names={"a": "rewards", "b": "gamma"}), lambda a, b: returns_to_go(a, b)),
])
def test_declared(function, check):
    assert check(function).ok

@parametrize_with_checks([(check_returns, alone)])
def test_wrong(function, check):
    check(function)

@parametrize_with_checks([(check_returns, alone)], expected_failures={"returns.reward_alone": "a bandit has one step"})
def test_intended(function, check):
    check(function)

@parametrize_with_checks([(check_returns, returns_to_go)], expected_failures={"returns.reward_alone": "mended since"})
def test_mended(function, check):
    check(function)

@parametrize_with_checks([(check_returns, alone_and_capped)], expected_failures={"returns.reward_alone": "as above"})
def test_another_mistake_than_the_intended_one(function, check):
    check(function)

@parametrize_with_checks([(check_returns, steps_first)])
def test_abstained(function, check):
    check(function)

@parametrize_with_checks([(check_returns, strange)], expected_failures={"strange-returns.understood": "needs a critic"})
def test_not_understood(function, check):
    check(function)

@parametrize_with_checks([(check_returns, returns_to_go)], min_cases=1000)
def test_few(function, check):
    check(function)
"""
N = sum(m.severity == "wrong" for m in mistakes("returns"))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The outcome of each item by its id, test by test."""
    folder = tmp_path_factory.mktemp("tests")
    (folder / "test_mine.py").write_text(TESTS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junit-xml=found.xml"]
    done = subprocess.run([*command, "--rootdir=."], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    found: dict[str, dict[str, str]] = {}
    for case in ET.parse(folder / "found.xml").iter("testcase"):
        test, _, item = str(case.get("name")).partition("[")
        children = {child.tag: child for child in case if child.tag in ("failure", "error", "skipped")}
        kinds = {tag: child.get("type", "") for tag, child in children.items()}
        outcome = "xfailed" if "xfail" in kinds.get("skipped", "") else next(iter(kinds), "passed")
        found.setdefault(test, {})[item.removesuffix("]")] = outcome
    return found


def counted(outcomes: dict[str, str]) -> dict[str, int]:
    return dict(Counter(outcomes.values()))


def failed(outcomes: dict[str, str]) -> list[str]:
    return [id_ for id_, outcome in outcomes.items() if outcome == "failure"]


def test_each_item_of_a_right_function_passes(outcomes: dict[str, dict[str, str]]) -> None:
    softmax = sum(m.severity == "wrong" for m in mistakes("softmax"))
    assert counted(outcomes["test_right"]) == {"passed": N + softmax + 4}
    assert "lambda-softmax.understood" in outcomes["test_right"]
    assert counted(outcomes["test_declared"]) == {"passed": 3 * (N + 2)}
    assert "lambda2-returns.understood" in outcomes["test_declared"]


def test_a_wrong_function_fails_in_the_item_of_its_mistake_alone(outcomes: dict[str, dict[str, str]]) -> None:
    assert failed(outcomes["test_wrong"]) == ["alone-returns.reward_alone"]
    assert counted(outcomes["test_wrong"]) == {"passed": N + 1, "failure": 1}


def test_an_intended_mistake_is_expected_strictly(outcomes: dict[str, dict[str, str]]) -> None:
    assert counted(outcomes["test_intended"]) == {"passed": N + 1, "xfailed": 1}
    assert failed(outcomes["test_mended"]) == ["returns_to_go-returns.reward_alone"]
    other = ["alone_and_capped-returns.unknown_mistake", "alone_and_capped-returns.reward_alone"]
    assert failed(outcomes["test_another_mistake_than_the_intended_one"]) == other


def test_without_a_verdict_one_item_fails_and_the_others_are_skipped(outcomes: dict[str, dict[str, str]]) -> None:
    assert failed(outcomes["test_abstained"]) == ["steps_first-returns.understood"]
    assert counted(outcomes["test_abstained"]) == {"failure": 1, "skipped": N + 1}
    assert counted(outcomes["test_not_understood"]) == {"xfailed": 1, "skipped": N + 1}


def test_a_verdict_from_few_cases_fails(outcomes: dict[str, dict[str, str]]) -> None:
    assert failed(outcomes["test_few"]) == ["returns_to_go-returns.understood"]


def items(*arguments: Any, **options: Any) -> dict[str, Any]:
    """The items by their ids: the function, its check, and the marks."""
    return {parameter.id: parameter for parameter in parametrize_with_checks(*arguments, **options).args[1]}


def test_the_ids_are_the_names_and_the_keys_in_the_order_of_the_catalogue() -> None:
    found = list(items([(check_returns, returns_to_go)]))
    wrong = [m.key for m in mistakes("returns") if m.severity == "wrong"]
    assert found == [f"returns_to_go-{key}" for key in ("returns.understood", "returns.unknown_mistake", *wrong)]


def test_no_mistake_has_the_key_of_another_item() -> None:
    assert not [m for m in mistakes() if m.key.endswith((".understood", ".unknown_mistake"))]


def test_the_divergence_as_a_loss_is_a_check_of_its_own() -> None:
    assert "f-kl_loss.k1" in items([(partial(check_kl, as_loss=True), named("f"))])
    assert "f-kl.understood" in items([(check_kl, named("f"))])


def named(name: str) -> Any:
    def function(rewards: Any, gamma: float) -> Any:
        return rewards

    function.__name__ = name
    return function


def test_the_check_runs_once_for_all_items_of_a_function() -> None:
    calls = []

    def counting(rewards: Any, gamma: float) -> Any:
        calls.append(1)
        return returns_to_go(rewards, gamma)

    first, *others = items([(check_returns, counting)]).values()
    first.values[1](counting)
    n = len(calls)
    for item in others:
        assert item.values[1](counting).ok
    assert len(calls) == n > 0


def test_a_newer_mistake_does_not_fail_where_the_set_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = replace(mistakes("returns")[0], since="1.1")
    report = replace(check_returns(returns_to_go), ok=False, mistakes=(newer,))
    monkeypatch.setattr(pgtheory.checking._pytest, "mistakes", lambda check: (newer,))
    for checks, error in ((None, WrongImplementation), ("1.0", pytest.xfail.Exception)):
        item = items([(check_returns, returns_to_go)], checks=checks)[f"returns_to_go-{newer.key}"].values[1]
        item.subject._known = returns_to_go, report
        with pytest.raises(error, match=r"accumulated|known from the checks of 1\.1 on"):
            item(returns_to_go)


def test_a_mistake_without_an_item_fails_where_the_unknown_ones_do() -> None:
    def padded(rewards: Any, gamma: float, mask: Any) -> Any:
        return returns_to_go(rewards, gamma, mask=~mask)

    found = items([(partial(check_returns, layout="torch [B, T]"), padded)])
    with pytest.raises(WrongImplementation, match="right, if `mask` is inverted"):
        found["padded-returns.unknown_mistake"].values[1](padded)
    assert not found["padded-returns.padding_counted"].values[1](padded).ok


def test_without_pytest_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(ImportError, match="needs pytest"):
        parametrize_with_checks([(check_top_k, returns_to_go)])


def test_the_package_does_not_import_pytest() -> None:
    code = "import sys, pgtheory.checking; print('pytest' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_what_is_not_understood_says_so() -> None:
    item = items([(check_returns, lambda state: state)])["lambda-returns.understood"].values[1]
    with pytest.raises(UnknownForm, match="argument 'state' has none of the names"):
        item(lambda state: state)
