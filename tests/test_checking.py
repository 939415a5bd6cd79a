"""The conformance kit as a whole: the catalogue, the report, the forms, the comparison, the command line."""

import inspect
import json
import os
import pickle
import re
import subprocess
import sys
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pgtheory.checking
from pgtheory.checking import (
    CHECKS,
    Counterexample,
    Mistake,
    Report,
    UnknownForm,
    WrongImplementation,
    check_answer,
    check_returns,
    learning_curve,
    mistakes,
    parametrize_with_checks,
)
from pgtheory.checking.__main__ import main
from pgtheory.checking.calling import Arg, Layout, Misfit, as_tensor, bind, contained
from pgtheory.checking.catalogue import DECLARED
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.names import normalised
from pgtheory.checking.report import CHECKS_VERSION, Source, numbers_of
from pgtheory.checking.verdicts import same
from pgtheory.gallery import bandit
from pgtheory.returns import returns_to_go

CATALOGUE = mistakes()


def test_the_catalogue_holds_the_mistakes_of_every_check() -> None:
    assert sum(m.severity == "wrong" for m in CATALOGUE) >= 30
    assert {m.check for m in CATALOGUE} == CHECKS.keys()
    assert mistakes("top_p") == tuple(m for m in CATALOGUE if m.check == "top_p")


def test_keys_and_names_are_unique() -> None:
    assert len({m.key for m in CATALOGUE}) == len(CATALOGUE)
    assert len({(m.check, m.name) for m in CATALOGUE}) == len(CATALOGUE)


@pytest.mark.parametrize("mistake", CATALOGUE, ids=lambda m: m.key)
def test_each_mistake_is_described_sourced_and_implemented(mistake: Mistake) -> None:
    assert re.fullmatch(r"[a-z_]+\.[a-z0-9_]+", mistake.key)
    assert not mistake.name.endswith(".")
    assert mistake.meaning.endswith((".", ".)"))
    assert mistake.sign.endswith(".")
    assert mistake.implementations
    assert mistake.sources or mistake.right_form
    every = (*mistake.sources, *mistake.right_form)
    assert all(re.match(r"https?://[\w.-]+/", source.url) and source.text for source in every)


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "kl_loss"])
def test_each_check_is_exported_under_its_name(name: str) -> None:
    assert CHECKS[name] is vars(pgtheory.checking)[f"check_{name}"]


def test_the_divergence_as_a_loss_is_a_check_of_its_own() -> None:
    report = CHECKS["kl_loss"](lambda log_probs, ref_log_probs: log_probs - ref_log_probs)
    assert report.mistakes[0].key == "kl_loss.k1"


def test_the_page_of_mistakes_has_a_table_for_each_kind() -> None:
    page = (Path(__file__).parents[1] / "book" / "mistakes.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r'^table\("(\w+)"\)$', page, flags=re.M)) == sorted(CHECKS)


# --- the report ---


KNOWN = mistakes("returns")[0]
CASE = Counterexample({"rewards": torch.tensor([1.0, 2.0])}, 1.0, ValueError("no"), "a sum")
WRONG = Report("returns", False, (KNOWN,), ("a remark",), CASE, {"angle": 12.3456789}, "torch [T]", 3)


def test_a_report_prints_the_verdict_the_case_the_numbers_and_the_sources() -> None:
    text = str(WRONG)
    assert text.splitlines()[0] == f"check_returns: WRONG, a known mistake: {KNOWN.name}"
    for part in (
        "(a sum)",
        "rewards  = [1, 2]",
        "got      = ValueError: no",
        "angle = 12.3457",
        "a remark",
        "in 3 cases",
    ):
        assert part in text
    assert KNOWN.sources[0].url in text


def test_a_report_is_true_if_the_implementation_is_right() -> None:
    assert Report("returns", True)
    assert not WRONG


def test_two_mistakes_are_both_in_the_diagnosis() -> None:
    report = Report("returns", False, mistakes("returns")[:2])
    assert report.diagnosis == f"{mistakes('returns')[0].name}; and {mistakes('returns')[1].name}"
    assert "known mistakes" in report.headline


def test_an_unknown_mistake_has_no_diagnosis() -> None:
    report = Report("returns", False)
    assert report.diagnosis is None
    assert report.headline == "check_returns: WRONG, an unknown mistake"


def test_raise_if_wrong_raises_an_assertion_error_with_the_whole_report() -> None:
    with pytest.raises(WrongImplementation, match="accumulated forwards") as caught:
        WRONG.raise_if_wrong()
    assert str(caught.value) == str(WRONG)
    assert isinstance(caught.value, AssertionError)
    right = Report("returns", True)
    assert right.raise_if_wrong() is right


def test_the_rich_form_of_a_report_escapes_what_it_shows() -> None:
    shown = Report("returns", False, counterexample=Counterexample({"x": "<b>&"}, 0.0, 1.0))._repr_html_()
    assert "&lt;b&gt;&amp;" in shown
    assert "<b>" not in shown
    assert "WRONG" in shown


def test_a_report_tells_who_reported_a_mistake_from_who_states_the_right_form() -> None:
    reported, stated = Source("owner/project #1", "https://example.org/1"), Source("A book", "https://example.org/?a&b")
    mistake = replace(KNOWN, sources=(reported,), right_form=(stated,))
    report = Report("returns", False, (mistake,))
    lines = [line.strip() for line in str(report).splitlines()]
    assert lines[lines.index("known from:") + 1] == "owner/project #1, https://example.org/1"
    assert lines[lines.index("the right form:") + 1] == "A book, https://example.org/?a&b"
    assert '<a href="https://example.org/1">https://example.org/1</a>' in report._repr_html_()
    assert '<a href="https://example.org/?a&amp;b">' in report._repr_html_()
    found = json.loads(json.dumps(report.as_dict()))
    assert (found["sources"], found["right_form"]) == ([reported._asdict()], [stated._asdict()])
    assert "known from" not in str(replace(report, mistakes=(replace(mistake, sources=()),)))


def test_the_keys_of_the_report_as_data_are_those_that_are_documented() -> None:
    documented = re.findall(r"`(\w+)`", (Report.as_dict.__doc__ or "").partition("Returns:")[2])
    assert sorted(documented) == sorted(WRONG.as_dict())


# --- the versions of the set ---


def test_no_mistake_is_newer_than_the_set() -> None:
    assert all(numbers_of(m.since) <= numbers_of(CHECKS_VERSION) for m in CATALOGUE)


def test_a_mistake_that_is_newer_than_the_pinned_set_is_a_remark() -> None:
    newer = replace(KNOWN, key="returns.new", since="1.10")
    report = replace(WRONG, mistakes=(newer,))
    pinned = report.as_of("1.0")
    assert pinned.ok
    assert pinned.mistakes == ()
    assert pinned.remarks == (
        f"WRONG by the checks of 1.10, newer than 1.0: {newer.name} (returns.new)",
        "a remark",
    )
    assert report.raise_if_wrong(checks="1.0") is not None
    with pytest.raises(WrongImplementation):
        report.raise_if_wrong()


@pytest.mark.parametrize(
    "report",
    [
        WRONG,
        replace(WRONG, mistakes=()),
        replace(WRONG, mistakes=(KNOWN, replace(KNOWN, since="1.1"))),
        replace(WRONG, mistakes=(), abstains="declare it"),
        Report("returns", True),
    ],
    ids=["known", "unknown", "one of two", "abstains", "right"],
)
def test_every_other_verdict_stays_as_it_is_where_the_set_is_pinned(report: Report) -> None:
    assert report.as_of("1.0") == report


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_takes_the_version_of_the_set_and_says_so(name: str) -> None:
    assert inspect.signature(CHECKS[name]).parameters["checks"].kind is inspect.Parameter.KEYWORD_ONLY
    assert name == "kl_loss" or "\n        checks: the version of the set" in (CHECKS[name].__doc__ or "")


def test_a_check_that_is_pinned_makes_a_remark_of_a_newer_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    check = DECLARED["returns"]
    monkeypatch.setitem(vars(check), "mistakes", tuple(replace(m, since="1.1") for m in check.mistakes))
    assert check_returns(lambda rewards, gamma: rewards).verdict == "wrong"
    report = check_returns(lambda rewards, gamma: rewards, checks="1.0")
    assert report.ok
    assert "WRONG by the checks of 1.1, newer than 1.0" in report.remarks[0]


def test_a_check_is_a_function_that_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(check_returns)) is check_returns


# --- the forms ---


ARGS = (Arg("rewards"), Arg("gamma"), Arg("mask"))


@pytest.mark.parametrize(
    ("function", "positional", "keywords"),
    [
        (lambda rewards, gamma: 0, ("rewards", "gamma"), {}),
        (lambda discount, rew: 0, ("gamma", "rewards"), {}),
        (lambda r, gamma=0.9, scale=1.0: 0, ("rewards", "gamma"), {}),
        (lambda r, scale=1.0, gamma=0.9: 0, ("rewards",), {"gamma": "gamma"}),
        (lambda batch_rewards, *, valid, discount: 0, ("rewards",), {"valid": "mask", "discount": "gamma"}),
        (lambda *args: 0, ("rewards", "gamma"), {}),
        (lambda r, **options: 0, ("rewards",), {"gamma": "gamma"}),
    ],
    ids=["canonical", "by name", "defaults", "behind a default", "keywords", "args", "kwargs"],
)
def test_arguments_are_found_by_name(function: Any, positional: Any, keywords: Any) -> None:
    (binding,) = bind(function, ARGS, ("rewards", "gamma"), ("rewards", "gamma"))
    assert (binding.positional, binding.keywords) == (positional, keywords)


def test_an_argument_without_a_role_is_named_and_not_bound_by_its_place() -> None:
    needs = ("rewards", "gamma")
    with pytest.raises(Misfit, match="'policy' has none of the names that are understood: rewards, gamma, mask"):
        bind(lambda rewards, gamma, policy: 0, ARGS, needs, needs)
    with pytest.raises(Misfit, match="no argument 'gamma'"):
        bind(lambda rewards: 0, ARGS, needs, needs)
    (binding,) = bind(lambda a, gamma: 0, ARGS, needs, needs, {"a": "rewards"})
    assert binding.positional == ("rewards", "gamma")


@pytest.mark.parametrize("name", ["rewards", "reward", "batch_rewards", "rewards_list", "_rewards_t", "Rewards"])
def test_what_says_nothing_in_a_name_is_ignored(name: str) -> None:
    assert normalised(name) == "reward"


def test_containers_hold_fresh_copies() -> None:
    value = torch.tensor([1.0, 2.0], dtype=torch.float64)
    for container in ("torch", "torch.float32", "numpy", "list"):
        copy = contained(value, container)  # type: ignore[arg-type]
        copy[0] = 9.0
        assert value.tolist() == [1.0, 2.0]
    assert contained(0.5, "numpy") == 0.5


@pytest.mark.parametrize(
    "output",
    [
        torch.tensor([1.0, 2.0]),
        torch.tensor([1.0, 2.0], requires_grad=True),
        np.array([1.0, 2.0], dtype=np.float32),
        [1.0, 2.0],
        (1.0, 2.0),
        deque([1.0, 2.0]),
        [torch.tensor(1.0), torch.tensor(2.0)],
        [np.float32(1.0), np.float64(2.0)],
        (x for x in (1.0, 2.0)),
    ],
    ids=["tensor", "graph", "array", "list", "tuple", "deque", "tensors", "numpy numbers", "generator"],
)
def test_numbers_in_any_container_become_a_tensor(output: Any) -> None:
    assert torch.equal(as_tensor(output), torch.tensor([1.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize(
    "output", [None, "12", {"a": 1}, [1, [2, 3]], [None], object()], ids=lambda x: type(x).__name__
)
def test_what_is_not_numbers_is_a_misfit(output: Any) -> None:
    with pytest.raises(Misfit, match="not numbers"):
        as_tensor(output)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_and_not_called_wrong(dtype: torch.dtype) -> None:
    with pytest.raises(UnknownForm, match="too coarse for a comparison"):
        check_returns(lambda rewards, gamma: right(rewards, gamma).to(dtype))
    with pytest.raises(UnknownForm, match="too coarse for a comparison"):
        CHECKS["ppo"](lambda log_probs, old_log_probs, advantages: (advantages * log_probs).to(dtype).mean())


def test_axes_of_size_one_do_not_matter_in_a_shape() -> None:
    layout = Layout("[B, T]", ("B", "T"))
    assert layout.restored(torch.zeros(2, 3, 1), {"B": 2, "T": 3}).shape == (2, 3)
    with pytest.raises(Misfit, match=r"shape \[3, 3\], not \[2, 3\]"):
        layout.restored(torch.zeros(3, 3), {"B": 2, "T": 3})


def test_axes_that_are_not_canonical_stay_behind() -> None:
    logits = torch.arange(12.0).reshape(2, 3, 2)
    assert Layout("[B*T]", ("B", "T")).arranged(logits, ["B", "T", "V"]).shape == (6, 2)
    assert torch.equal(Layout("[T, B]", ("B", "T")).arranged(logits, ["B", "T", "V"]), logits.transpose(0, 1))


def right(rewards: Tensor, gamma: float) -> Tensor:
    return returns_to_go(rewards, gamma)


BANDIT = bandit([1.0, 0.0])
START = torch.zeros(2, 2, dtype=torch.float64)
REFUSED = [
    pytest.param(
        lambda: check_returns(right, names={"reward": "rewards"}),
        ValueError,
        "names has 'reward', which the function does not take",
        id="names-of-no-argument",
    ),
    pytest.param(
        lambda: check_returns(right, names={"gamma": "discounting"}),
        ValueError,
        "names says that 'gamma' is 'discounting', expected one of rewards",
        id="names-of-no-role",
    ),
    pytest.param(lambda: check_returns(lambda a, b: a), UnknownForm, "argument 'a' has none", id="unknown-names"),
    pytest.param(lambda: mistakes("top_q"), ValueError, "check is 'top_q', expected one of", id="unknown-check"),
    pytest.param(lambda: check_returns(right, layout="[X]"), UnknownForm, "has no layout .\\[X\\]", id="form"),
    pytest.param(lambda: check_returns(lambda r, g: "7"), UnknownForm, "returned str '7', not numbers", id="text"),
    pytest.param(lambda: check_returns(lambda r, g: None), UnknownForm, "returned NoneType None", id="nothing"),
    pytest.param(lambda: check_returns(lambda r, g: 0.0), UnknownForm, r"shape \[\], not \[2\]", id="a-number"),
    pytest.param(lambda: check_returns(lambda r, g: 1 / 0), UnknownForm, "ZeroDivisionError", id="it-fails"),
    pytest.param(lambda: check_returns(lambda r: r), UnknownForm, "no argument 'gamma'", id="no-discount"),
    pytest.param(lambda: check_returns(lambda r, g, z: r), UnknownForm, "argument 'z' has none", id="more-arguments"),
    pytest.param(lambda: check_returns(7), TypeError, "takes a callable, or call=", id="no-function"),  # type: ignore[arg-type]
    pytest.param(
        lambda: learning_curve(lambda h: h, BANDIT, START, 1.0, n_steps=0, step_size=1.0),
        ValueError,
        "n_steps must be at least 1",
        id="no-steps",
    ),
    pytest.param(
        lambda: learning_curve(lambda h: h, BANDIT, START, 1.0, n_steps=1, step_size=0.0),
        ValueError,
        "step_size must be positive, not 0",
        id="no-step-size",
    ),
    pytest.param(
        lambda: CHECKS["accumulation"](right, reduce="max"),
        ValueError,
        "reduce is 'max', expected 'mean' or 'sum'",
        id="reduce",
    ),
    pytest.param(lambda: check_answer("two", 2.0), TypeError, "a list of numbers, not str", id="answer-text"),
    pytest.param(lambda: check_answer(None, 2.0), TypeError, "a list of numbers, not NoneType", id="answer-nothing"),
    pytest.param(lambda: check_answer([[1], 2], 2.0), TypeError, "parts of different shapes", id="answer-ragged"),
    pytest.param(
        lambda: check_answer(1.0, 2.0, {"as right": 2}),
        ValueError,
        "'as right'] gives the right answer",
        id="slip-right",
    ),
    pytest.param(lambda: parametrize_with_checks([]), ValueError, "functions is empty", id="no-functions"),
    pytest.param(lambda: parametrize_with_checks(7), TypeError, "functions must be a mapping", id="functions"),  # type: ignore[arg-type]
    pytest.param(
        lambda: parametrize_with_checks([right]),
        TypeError,
        r"functions\[0\] must be a pair \(check, function\)",
        id="function-alone",
    ),
    pytest.param(
        lambda: parametrize_with_checks({"check_top_q": right}),
        ValueError,
        r"functions\[0\] has the check 'check_top_q', expected one of mdp",
        id="check-unknown",
    ),
    pytest.param(
        lambda: parametrize_with_checks([(right, check_returns)]),
        ValueError,
        "which is no check",
        id="pair-reversed",
    ),
    pytest.param(
        lambda: parametrize_with_checks([(check_returns, right)], expected_failures={"top_p.k": "why"}),
        ValueError,
        "expected_failures has 'top_p.k', which is no key of the checks that are named",
        id="expected-unknown",
    ),
    pytest.param(
        lambda: parametrize_with_checks([(check_returns, right)], checks="1.9"),
        ValueError,
        "checks is '1.9', but the newest version",
        id="checks-to-come",
    ),
    pytest.param(lambda: WRONG.as_of("one"), ValueError, "checks is 'one', expected a version", id="checks-text"),
]


def strange(the_argument: Any) -> None:
    """Its argument has no name that a check knows."""


# What every check refuses, by the rows of `book/api/errors.md`; `check_mdp` takes no function, but an environment.
OF_EVERY_CHECK: dict[str, tuple[Any, type[Exception], str]] = {
    "every-check-no-function": (lambda check: check(7), TypeError, "takes a callable, or call="),
    "every-check-names": (
        lambda check: check(strange, names={"other": "mask"}),
        ValueError,
        "names has 'other', which the function does not take: it takes the_argument",
    ),
    "every-check-argument": (
        lambda check: check(strange),
        UnknownForm,
        "argument 'the_argument' has none of the names",
    ),
    "every-check-call": (lambda check: check(call=lambda x: x.nothing), UnknownForm, "has no input 'nothing', only"),
    "every-check-output": (lambda check: check(call=lambda x: None), UnknownForm, "returned (NoneType )?None"),
    "every-check-version": (lambda check: check(strange, checks="9.9"), ValueError, "checks is '9.9', but the newest"),
}


@pytest.mark.parametrize("fault", OF_EVERY_CHECK)
@pytest.mark.parametrize("name", [name for name in CHECKS if name != "mdp"])
def test_every_check_refuses_what_it_cannot_judge(name: str, fault: str) -> None:
    call, error, message = OF_EVERY_CHECK[fault]
    with pytest.raises(error, match=message):
        call(CHECKS[name])


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_a_wrong_argument_is_refused(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# --- the comparison ---


CUBE = Mistake("squares.cube", "a cube", "It is too high.", "It is negative.", (), (lambda rewards: rewards**3,))
DOUBLE = Mistake(
    "squares.double", "a double", "It is right at 2.", "None.", (), (lambda rewards: 2 * rewards,), "remark"
)


def squares(function: Any, *, delicate: str = "", known: tuple[Mistake, ...] = ()) -> Report:
    """A check of the square of 1, 2 and 3."""
    cases = [
        Case({"rewards": torch.tensor([[x]], dtype=torch.float64)}, delicate if x == 3.0 else "") for x in (1, 2, 3)
    ]
    return Check(
        "squares",
        1,
        args=(Arg("rewards", "B T"),),
        needs=("rewards",),
        signature=("rewards",),
        axes="B T",
        layouts=("[B, T]",),
        reference=lambda rewards: rewards**2,
        cases=lambda facts: cases,
        mistakes=known,
    ).judge(call=lambda x: function(x.rewards))


def test_a_mistake_must_explain_every_answer() -> None:
    assert squares(lambda x: x**3, known=(CUBE,)).mistakes == (CUBE,)
    assert squares(lambda x: torch.where(x < 3, x**3, 26.0), known=(CUBE,)).mistakes == ()


def test_a_form_that_is_a_remark_is_right() -> None:
    report = squares(lambda x: 2 * x, known=(DOUBLE,))
    assert report.ok
    assert report.remarks == ("a double: It is right at 2.",)


def test_a_fault_in_delicate_cases_alone_is_a_remark() -> None:
    report = squares(lambda x: torch.where(x < 3, x**2, 10.0), delicate="3 is hard")
    assert report.ok
    assert report.remarks == ("3 is hard",)
    assert not squares(lambda x: torch.where(x < 2, x**2, 10.0), delicate="3 is hard").ok


def test_an_exception_in_a_later_case_is_a_wrong_answer() -> None:
    def fails_at_three(x: Tensor) -> Tensor:
        if x.item() == 3:
            raise KeyError("three")
        return x**2

    report = squares(fails_at_three)
    assert not report.ok
    assert "KeyError" in str(report.counterexample)


def test_an_exception_in_the_first_case_is_a_form_that_does_not_fit() -> None:
    with pytest.raises(UnknownForm, match="ZeroDivisionError"):
        squares(lambda x: 1 / 0)


def test_tensors_are_close_up_to_rounding_and_nan_is_nan() -> None:
    one = torch.tensor([1.0, float("nan"), float("-inf")])
    assert same(one, one * (1 + 1e-6))
    assert not same(one, one + 1e-2)
    assert not same(one, one[:2])
    assert not same(one, one.double())


# --- the command line ---


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "handed_in.py"
    path.write_text(
        "class Returns:\n"
        "    @staticmethod\n"
        "    def right(rewards, gamma):\n"
        "        return [sum(r * gamma**k for k, r in enumerate(rewards[t:])) for t in range(len(rewards))]\n"
        "def wrong(rewards, gamma):\n"
        "    return rewards\n"
        "def odd(x, y, z):\n"
        "    return None\n"
        "def leaves(rewards, gamma):\n"
        "    raise SystemExit(0)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    return path


@pytest.mark.parametrize("target", ["handed_in:Returns.right", "handed_in.py:Returns.right"])
def test_the_exit_status_of_a_right_function_is_0(module: Path, target: str, capsys: Any) -> None:
    assert main([target, "--kind", "returns"]) == 0
    assert "check_returns: right" in capsys.readouterr().out


def test_the_exit_status_of_a_wrong_function_is_1(module: Path, capsys: Any) -> None:
    assert main(["handed_in:wrong", "--kind", "returns", "--layout", "list [T]"]) == 1
    out = capsys.readouterr().out
    assert "the reward of the step alone" in out
    assert "list [T]" in out


@pytest.mark.parametrize(
    "target", ["handed_in:odd", "handed_in:absent", "handed_in:leaves", "absent:wrong", "absent.py:wrong"]
)
def test_the_exit_status_of_what_is_not_understood_is_2(module: Path, target: str, capsys: Any) -> None:
    assert main([target, "--kind", "returns"]) == 2
    assert capsys.readouterr().err


STOPS = ["raise SystemExit(0)", "1 / 0", "def f(:", "raise KeyError('a')", "import os; os._exit(0)"]


@pytest.mark.parametrize("line", STOPS)
def test_a_module_that_cannot_be_imported_gets_no_verdict(module: Path, line: str, capsys: Any) -> None:
    module.with_name("stops.py").write_text(f"def f(rewards, gamma): ...\n{line}\n")
    assert main(["stops.py:f", "--kind", "returns"]) == 2
    err = capsys.readouterr().err
    assert "no verdict" in err
    assert "_exit" in line or ("stops.py" in err and "line 2" in err)


def test_a_function_that_ends_the_process_is_not_right(module: Path, capsys: Any) -> None:
    module.with_name("ends.py").write_text("import os\ndef f(rewards, gamma):\n    os._exit(0)\n")
    assert main(["ends.py:f", "--kind", "returns"]) == 2
    assert "stopped the process (exit status 0): there is no verdict" in capsys.readouterr().err


def test_a_file_does_not_stand_in_for_an_installed_package(module: Path, capsys: Any) -> None:
    (module.parent / "sub").mkdir()
    (module.parent / "sub" / "torch.py").write_text(module.read_text())
    assert main(["sub/torch.py:Returns.right", "--kind", "returns"]) == 0
    assert main(["sub/torch.py:wrong", "--kind", "returns"]) == 1


def test_the_report_as_json(module: Path, capsys: Any) -> None:
    module.with_name("loud.py").write_text("def f(rewards, gamma):\n    print('noise')\n    return rewards\n")
    assert main(["loud.py:f", "--kind", "returns", "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["mistakes"]) == ("wrong", ["returns.reward_alone"])
    assert found["binding"] == {"rewards": "rewards", "gamma": "gamma"}


def test_what_the_check_abstains_from_has_the_status_2(module: Path, capsys: Any) -> None:
    module.with_name("asked.py").write_text(
        "def f(rewards, gamma, done_mask):\n    out, total = [], 0.0\n"
        "    for r, d in zip(rewards[::-1], done_mask[::-1]):\n"
        "        total = r + gamma * total * (1 - d)\n        out.insert(0, total)\n    return out\n"
    )
    target = ["asked.py:f", "--kind", "returns"]
    assert main(target) == 2
    assert "no verdict" in capsys.readouterr().out
    assert main([*target, "--names", "done_mask=dones"]) == 0
    assert main([*target, "--names", "done_mask=not_dones"]) == 1


def test_a_table_of_functions(module: Path, capsys: Any) -> None:
    table = module.with_name("checks.toml")
    table.write_text(
        '[[check]]\ntarget = "handed_in.py:Returns.right"\nkind = "returns"\n'
        '[[check]]\ntarget = "handed_in.py:wrong"\nkind = "returns"\nlayout = "list [T]"\n'
    )
    assert main(["--config", "checks.toml", "--format", "json"]) == 1
    assert [found["verdict"] for found in json.loads(capsys.readouterr().out)] == ["right", "wrong"]
    table.write_text('[[check]]\ntarget = "handed_in.py:wrong"\n')
    with pytest.raises(SystemExit) as caught:
        main(["--config", "checks.toml"])
    assert caught.value.code == 2


def status_of_a_table(module: Path, target: str, expected: str, options: str = "") -> int:
    module.with_name("checks.toml").write_text(
        f'[[check]]\ntarget = "handed_in.py:{target}"\nkind = "returns"\nexpected_failures = {{{expected}}}\n{options}'
    )
    return main(["--config", "checks.toml"])


@pytest.mark.parametrize(
    ("target", "key", "said"),
    [
        ("wrong", "returns.reward_alone", "expected: returns.reward_alone, a bandit"),
        ("other", "returns.unknown_mistake", "expected: returns.unknown_mistake, a bandit"),
        ("odd", "returns.understood", "expected: returns.understood, a bandit"),
    ],
)
def test_an_expected_failure_in_a_table_counts_as_right(
    module: Path, target: str, key: str, said: str, capsys: Any
) -> None:
    with module.open("a") as file:
        file.write("def other(rewards, gamma):\n    return [min(r, 2.5) for r in rewards]\n")
    assert status_of_a_table(module, target, f'"{key}" = "a bandit"') == 0
    assert said in capsys.readouterr().out


def test_expected_failures_in_a_table_are_strict(module: Path, capsys: Any) -> None:
    assert status_of_a_table(module, "Returns.right", '"returns.reward_alone" = "a bandit"') == 1
    assert "expected to fail, and does not: returns.reward_alone, a bandit" in capsys.readouterr().out
    assert status_of_a_table(module, "wrong", '"returns.standardised" = "not that one"') == 1
    with pytest.raises(SystemExit) as caught:
        status_of_a_table(module, "wrong", '"top_p.min_p" = "of another check"')
    assert caught.value.code == 2
    assert "has 'top_p.min_p', which is no key of the check returns" in capsys.readouterr().err


def test_tables_in_pyproject_pin_the_set_and_name_adapters(module: Path, capsys: Any) -> None:
    module.with_name("adapters.py").write_text(
        "from handed_in import Returns\n"
        "def returns(x):\n    return [Returns.right(row, x.gamma) for row in x.rewards]\n"
    )
    table = module.with_name("pyproject.toml")
    lines = '[tool.pgtheory]\nchecks = "1.0"\n[[tool.pgtheory.check]]\nkind = "returns"\ntarget = "adapters:returns"\n'
    table.write_text(lines + "call = true\n")
    assert main(["--config", "pyproject.toml"]) == 0
    capsys.readouterr()
    table.write_text(lines + 'cal = "x"\n')
    for arguments, message in (
        ([], r"\[\[tool.pgtheory.check\]\] has 'cal', expected target, kind, layout, names, call, checks, expec"),
        (["--checks", "0"], "has 'cal'"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["--config", "pyproject.toml", *arguments])
        assert caught.value.code == 2
        assert re.search(message, capsys.readouterr().err)


def test_a_newer_mistake_has_the_status_0_where_the_set_is_pinned(module: Path, capsys: Any) -> None:
    module.with_name("later.py").write_text(
        "import sys\nfrom dataclasses import replace\n"
        "from handed_in import Returns, wrong\n"
        "from pgtheory.checking.kinds.returns import CHECK\n"
        "object.__setattr__(CHECK, 'mistakes', tuple(replace(m, since='1.1') for m in CHECK.mistakes))\n"
    )
    target = ["later:wrong", "--kind", "returns", "--format", "json"]
    assert main(target) == 1
    capsys.readouterr()
    assert main([*target, "--checks", "1.0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["mistakes"]) == ("right", [])
    assert "WRONG by the checks of 1.1, newer than 1.0" in found["remarks"][0]
    with pytest.raises(SystemExit) as caught:
        main([*target, "--checks", "1"])
    assert caught.value.code == 2
    assert "checks is '1', expected a version" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_report_is_printed_in_any_encoding(module: Path, encoding: str) -> None:
    target = [sys.executable, "-m", "pgtheory.checking", "handed_in:wrong", "--kind", "returns"]
    result = subprocess.run(target, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=False)
    assert result.returncode == 1, result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_a_report_that_cannot_be_printed_is_no_verdict(module: Path) -> None:
    target = [sys.executable, "-m", "pgtheory.checking", "handed_in:Returns.right", "--kind", "returns"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(target, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 2
    assert "cannot be printed" in result.stderr


def test_a_module_that_reads_its_arguments_does_not_see_those_of_the_check(module: Path) -> None:
    arguments = [*sys.argv]
    text = module.read_text() + "import argparse\nargparse.ArgumentParser().parse_args()\n"
    module.with_name("script.py").write_text(text)
    assert main(["script.py:Returns.right", "--kind", "returns"]) == 0
    assert sys.argv == arguments


def test_a_target_without_a_function_is_an_error(capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["handed_in.py", "--kind", "returns"])
    assert caught.value.code == 2
    assert "names no function" in capsys.readouterr().err


def test_the_command_line_lists_the_mistakes(capsys: Any) -> None:
    assert main(["--list", "--kind", "top_p"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(mistakes("top_p"))


def test_the_command_line_needs_a_target_and_a_kind() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["handed_in:wrong"])
    assert caught.value.code == 2


def test_the_package_runs_as_a_module(module: Path) -> None:
    command = [sys.executable, "-m", "pgtheory.checking", "handed_in:wrong", "--kind", "returns"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=module.parent)
    assert result.returncode == 1, result.stderr
    assert "known from" in result.stdout
