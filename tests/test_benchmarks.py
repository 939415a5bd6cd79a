"""The benchmark: what it judges, and that the page of the book shows a run of all its cases."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.__main__ import kept_rows
from benchmarks.case import Case, Claim, Seconds, relative_error
from benchmarks.harness import Times, judge, ratios_of, spread
from benchmarks.worker import Worker

ROOT = Path(__file__).parents[1]
MODULES = sorted(path.stem for path in (ROOT / "benchmarks").glob("bench_*.py"))
RUN: dict[str, Any] = json.loads((ROOT / "book" / "speed.json").read_text(encoding="utf-8"))


def cases(module: str) -> list[Case]:
    return importlib.import_module(f"benchmarks.{module}").cases()


def test_the_page_shows_cases_of_the_benchmark_each_once() -> None:
    wanted = {
        (module, case.name, case.kind, threads)
        for module in MODULES
        for case in cases(module)
        for threads in case.threads
    }
    shown = [(row["module"], row["case"], row["work"], row["threads"]) for row in RUN["rows"]]
    assert len(shown) == len(set(shown))
    assert set(shown) <= wanted
    assert len(wanted) > 200


def test_each_name_of_a_case_is_its_own() -> None:
    names = [case.name for module in MODULES for case in cases(module)]
    assert len(names) == len(set(names))


def test_the_page_judges_by_the_targets_and_floors_of_the_cases() -> None:
    claims = {case.name: case.claims for module in MODULES for case in cases(module)}
    for row in RUN["rows"]:
        wanted = [(c.side, c.against, c.target) for c in claims[row["case"]] if row["threads"] in c.threads]
        found = [(c["side"], c["against"], c["target"]) for c in row["claims"]]
        assert found == [(side, against, pytest.approx(target, rel=1e-3)) for side, against, target in wanted]


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([2.1, 2.2, 2.3, 2.4], "PASS"),
        ([1.9, 1.9, 2.4, 2.4], "doubtful"),
        ([1.5, 1.6, 1.7, 9.0], "doubtful"),
        ([1.5, 1.6, 1.7, 1.9, 9.0], "FAIL"),
        ([], "not measured"),
    ],
)
def test_a_floor_is_missed_only_if_the_upper_quartile_is_below_it(ratios: list[float], verdict: str) -> None:
    assert judge(Claim("a peer", 2.0), ratios) == verdict
    assert judge(Claim("a peer", 2.0), [1.0], calm=False) == "disturbed"
    assert judge(Claim("a peer", 3.0, floor=0.0), [1.0]) == "reported"
    assert spread([3.0]) == [3.0, 3.0, 3.0]


def test_rounds_that_were_disturbed_do_not_stay_beside_others_that_were_not() -> None:
    first, second = (Times({"ours": [x]}, 1, calm=calm) for x, calm in ((1.0, False), (2.0, True)))
    assert first.with_more(second) == second.with_more(first) == second
    assert second.with_more(second) == Times({"ours": [2.0, 2.0]}, 2, calm=True)


def test_a_claim_is_judged_round_by_round() -> None:
    times = Times({"ours": [1.0, 2.0], "a": [4.0, 4.0], "b": [3.0, None], "a loop": [1.0, 1.0]}, 0, calm=True)
    case = Case("work", lambda: list, peers=dict.fromkeys(("a", "b", "a loop"), lambda: list))
    memory = {"ours": 10, "a": 40}

    def ratios(claim: Claim) -> list[float]:
        return ratios_of(claim, case, times, memory)

    assert ratios(Claim("a", 2.0)) == [4.0, 2.0]
    assert ratios(Claim("fastest", 2.0)) == [3.0], "a loop of one's own is no library, and b lacks a round"
    assert ratios(Claim("seconds", 4.0)) == [4.0, 2.0]
    assert ratios(Claim("memory", 20.0)) == [2.0]
    assert ratios(Claim("memory of a", 2.0)) == [4.0]
    assert ratios(Claim("c", 2.0)) == ratios(Claim("a", 2.0, side="plain")) == []


def test_a_worker_times_a_side_and_compares_it_with_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGTHEORY_FAST", "")  # which the worker sets, and which is put back
    worker = Worker(torch.get_num_threads())
    index = [case.name for case in cases("bench_advantages")].index("generalized_advantages [64, 2048], no ends")
    worker.load("bench_advantages", index)
    for side in ("ours", "plain", "CleanRL's loop"):
        answer = worker.prepare(side)
        assert answer["first"] > 0
        assert answer["calls"] >= 1
        assert worker.seconds(side, 1) > 0
        error = worker.error(side)
        assert error is not None
        assert error < 1e-5
    assert all(seconds > 0 for seconds in worker.probe())
    worker.runs["ours"] = lambda: Seconds(7.0)
    assert worker.seconds("ours", 3) == 7.0, "a run that times itself is believed"


def test_an_error_is_relative_to_the_largest_number() -> None:
    assert relative_error(torch.tensor([1.0, 11.0]), torch.tensor([1.0, 10.0])) == pytest.approx(0.1)


def test_rows_of_earlier_parts_keep_their_commit_and_those_of_another_machine_are_left(tmp_path: Path) -> None:
    path, machine = tmp_path / "speed.json", {"processor": "a", "commit": "1", "date": "d"}
    path.write_text(json.dumps({**machine, "rows": [{"case": "x"}, {"case": "y", "commit": "0"}]}), encoding="utf-8")
    now = {**machine, "commit": "2", "date": "e"}
    assert kept_rows(path, now) == [{"case": "x", "commit": "1"}, {"case": "y", "commit": "0"}]
    assert kept_rows(path, now | {"processor": "b"}) == kept_rows(tmp_path / "none", now) == kept_rows(None, now) == []
