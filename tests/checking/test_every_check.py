"""What holds for every declared check: right forms pass, each mistake has its own name, cases tell all apart."""

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgtheory.checking import Mistake, UnknownForm, mistakes
from pgtheory.checking.calling import Inputs, roles_of
from pgtheory.checking.catalogue import CHECKS, DECLARED
from pgtheory.checking.judge import Case, Check
from pgtheory.checking.space import Space
from pgtheory.checking.verdicts import ATOL, RTOL, quietly, same

VARIANTS = [
    pytest.param(check, mistake, i, id=f"{mistake.key}-{i}")
    for check in DECLARED.values()
    for mistake in check.mistakes
    for i in range(len(mistake.implementations))
]
RIGHT = [pytest.param(c, f, id=f"{c.name}-{name or 'right'}") for c in DECLARED.values() for name, f in c.right.items()]
EACH = pytest.mark.parametrize("check", DECLARED.values(), ids=DECLARED)


def canonical(check: Check) -> list[str]:
    """The canonical inputs, but for what is only asked for."""
    return [arg.name for arg in check.args if arg.of is None and not arg.asked]


def layout_of(check: Check) -> str:
    return f"torch {check.canonical.text}"


@pytest.mark.parametrize(("check", "mistake", "i"), VARIANTS)
def test_each_variant_has_exactly_its_own_name(check: Check, mistake: Mistake, i: int) -> None:
    report = CHECKS[check.name](mistake.implementations[i], layout=layout_of(check))
    assert not any("the same as" in remark for remark in report.remarks), report
    if mistake.severity == "remark":
        assert report.ok
        assert [r for r in report.remarks if r.startswith(mistake.name)]
    else:
        assert report.mistakes == (mistake,), report
        assert report.counterexample is not None
        assert report.verdict == "wrong"


@pytest.mark.parametrize(("check", "implementation"), RIGHT)
def test_each_right_form_is_right_in_every_way_of_calling_it(check: Check, implementation: Any) -> None:
    assert CHECKS[check.name](implementation).ok
    names = canonical(check)
    accepted = inspect.signature(implementation).parameters
    chosen = [name for name in names if name in accepted]
    report = CHECKS[check.name](call=lambda x: implementation(**{name: getattr(x, name) for name in chosen}))
    assert report.ok, report


@EACH
def test_keys_names_sources_and_versions_are_in_order(check: Check) -> None:
    assert len({m.key for m in check.mistakes}) == len({m.name for m in check.mistakes}) == len(check.mistakes) >= 8
    for mistake in check.mistakes:
        assert mistake.check == check.name
        assert mistake.sources or mistake.right_form
        assert re.fullmatch(r"\d\.\d", mistake.since)
    assert mistakes(check.name) == check.mistakes


@EACH
def test_no_name_of_an_argument_is_read_in_two_ways_without_being_asked_for(check: Check) -> None:
    for arg in check.args:
        assert roles_of(arg.name, check.args) == (arg.name,)
        for word in arg.also.split():
            assert arg.name in roles_of(word, check.args), word


# --- mutants: whatever differs from what is right on random inputs differs on the cases ---

Change = Callable[[dict[str, Any], Callable[..., Tensor]], Tensor]


def is_whole(check: Check, name: str) -> bool:
    """Whether an input is of integers, such as tokens, which cannot be scaled."""
    value = check.bench(frozenset(canonical(check))).cases[0].inputs[name]
    return isinstance(value, int) or (isinstance(value, Tensor) and not value.is_floating_point())


def of_its_own(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A right form that takes all inputs, and uses those that it names."""
    taken = inspect.signature(function).parameters
    every = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    return lambda **x: function(**{name: value for name, value in x.items() if every or name in taken})


def mutants(check: Check) -> dict[str, Change]:
    """Small changes of any right form: of an input, or of the answer."""
    found: dict[str, Change] = {
        "the answer doubled": lambda x, f: 2 * f(**x),
        "the answer negated": lambda x, f: -f(**x),
        "the answer turned round": lambda x, f: f(**x).flip(-1),
        "the answer shifted": lambda x, f: f(**x).roll(1, -1),
        "the rows exchanged": lambda x, f: f(**x).flip(0),
        "the first step 0": lambda x, f: f(**x) * (torch.arange(f(**x).shape[-1]) > 0),
        "clamped": lambda x, f: f(**x).clamp(-3, 3),
        "rounded": lambda x, f: f(**x).round(),
        "the mean removed": lambda x, f: f(**x) - f(**x).mean(),
    }
    for arg in check.args:
        if arg.of is not None or arg.asked:
            continue
        name = arg.name
        if arg.flag:
            found |= {
                f"{name} all False": lambda x, f, n=name: f(**{**x, n: torch.zeros_like(x[n])}),  # type: ignore[misc]
                f"{name} all True": lambda x, f, n=name: f(**{**x, n: torch.ones_like(x[n])}),  # type: ignore[misc]
                f"{name} one step on": lambda x, f, n=name: f(**{**x, n: x[n].roll(1, -1)}),  # type: ignore[misc]
                f"{name} inverted": lambda x, f, n=name: f(**{**x, n: ~x[n]}),  # type: ignore[misc]
            }
        elif not is_whole(check, name):
            found |= {
                f"{name} 1.1 times": lambda x, f, n=name: f(**{**x, n: 1.1 * x[n]}),  # type: ignore[misc]
                f"{name} squared": lambda x, f, n=name: f(**{**x, n: x[n] ** 2}),  # type: ignore[misc]
                f"{name} 0": lambda x, f, n=name: f(**{**x, n: 0.0 * x[n]}),  # type: ignore[misc]
            }
        if arg.axes and not arg.flag:
            found[f"{name} one step on"] = lambda x, f, n=name: f(**{**x, n: x[n].roll(1, -1)})  # type: ignore[misc]
    return found


# A loss is judged by its slopes, and an estimate by its expectation: many values are right.
OF_VALUES = [c for c in DECLARED.values() if c.space is None and c.close is Check.close and "kl" not in c.name]
MUTANTS = [pytest.param(c, name, m, id=f"{c.name}-{name}") for c in OF_VALUES for name, m in mutants(c).items()]


def on_random_numbers(check: Check, case: Case) -> dict[str, Any]:
    """The inputs of a case with random floats in place of its own."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: 5 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        if isinstance(x, Tensor) and x.is_floating_point()
        else x
        for name, x in case.inputs.items()
    }


def answer_of(check: Check, right: Callable[..., Tensor], x: dict[str, Any]) -> Tensor | Exception:
    """What a right form answers, which may be for other arguments only."""
    try:
        return check.seen(x, right(**x))
    except ValueError as error:
        return error


@functools.cache
def right_answers(name: str) -> list[tuple[dict[str, Any], list[Tensor | Exception]]]:
    """What each right form answers on random inputs, and on those of the cases."""
    check = DECLARED[name]
    own = check.bench(frozenset(canonical(check))).cases
    cases = [on_random_numbers(check, c) for c in own] + [dict(c.inputs) for c in own if not c.delicate]
    return [(x, [answer_of(check, of_its_own(f), x) for f in check.right.values()]) for x in cases]


def differs(check: Check, mutant: Change) -> bool:
    """Whether a mutant of the first right form differs from every right form, on random inputs or on its own."""
    first = of_its_own(next(iter(check.right.values())))
    right: set[int] = {*range(len(check.right))}
    for x, expected in right_answers(check.name):
        got = check.seen(x, mutant(x, first))
        right -= {k for k in right if not same(got, expected[k])}
        if not right:
            return True
    return False


@pytest.mark.parametrize(("check", "name", "mutant"), MUTANTS)
def test_what_differs_from_every_right_form_is_called_wrong(check: Check, name: str, mutant: Change) -> None:
    arguments = canonical(check)

    def implementation(x: Any) -> Tensor:
        return mutant({name: getattr(x, name) for name in arguments}, of_its_own(next(iter(check.right.values()))))

    report = CHECKS[check.name](call=implementation)
    assert report.verdict == ("wrong" if differs(check, mutant) else "right"), report


def misunderstood(check: Check) -> dict[str, Callable[[Any], Tensor]]:
    """The first right form, called with one flag inverted, or with axes turned."""
    right = of_its_own(next(iter(check.right.values())))
    taken = inspect.signature(next(iter(check.right.values()))).parameters
    args = {arg.name: arg for arg in check.args if arg.name in canonical(check) and arg.name in taken}
    pair = check.canonical.axes[:2]

    def turned(x: Any) -> Tensor:
        given = {name: getattr(x, name) for name in args}
        both = [name for name, arg in args.items() if {*pair} <= {*arg.axes.split()}]
        places = {name: [args[name].axes.split().index(axis) for axis in pair] for name in both}
        answer = right(**{**given, **{name: given[name].transpose(*places[name]) for name in both}})
        return answer.mT if answer.ndim == 2 else answer

    def inverted(flag: str) -> Callable[[Any], Tensor]:
        return lambda x: right(**{name: ~getattr(x, name) if name == flag else getattr(x, name) for name in args})

    flags = {name: inverted(name) for name, arg in args.items() if arg.flag}
    return {**flags, "": turned} if len(pair) == 2 else flags


MISUNDERSTOOD = [
    pytest.param(c, f, call, id=f"{c.name}-{f or 'turned'}")
    for c in DECLARED.values()
    for f, call in misunderstood(c).items()
]
# A sum over all places is right either way, and these have a name for what it is.
NAMED_APART = {"softmax": "over the wrong axis", "grpo": "rewards are grouped wrongly"}


@pytest.mark.parametrize(("check", "flag", "call"), MISUNDERSTOOD)
def test_an_inverted_flag_and_turned_axes_are_said(check: Check, flag: str, call: Callable[[Any], Tensor]) -> None:
    expected = "inverted" if flag else NAMED_APART.get(check.name, "right with axes turned: it is for [")
    try:
        report = CHECKS[check.name](call=call)
        said = "" if report.ok else str(report.diagnosis)
    except UnknownForm as error:
        said = str(error)
    assert not said or expected in said


LOSSES = [check for check in DECLARED.values() if check.space]


def of_inputs(check: Check) -> dict[str, Change]:
    """The mutants that change the size or the sign of a loss, or an input that its right form takes."""
    taken = inspect.signature(next(iter(check.right.values()))).parameters
    wanted = ("the answer doubled", "the answer negated", *(f"{name} " for name in taken if "log_probs" not in name))
    return {name: mutant for name, mutant in mutants(check).items() if name.startswith(wanted)}


LOSS_MUTANTS = [pytest.param(c, name, m, id=f"{c.name}-{name}") for c in LOSSES for name, m in of_inputs(c).items()]


@functools.cache
def randomised(name: str, facts: frozenset[str]) -> tuple[list[dict[str, Any]], Space]:
    """The cases of a check with random advantages or rewards, and all hypotheses there."""
    check = DECLARED[name]
    generator = torch.Generator().manual_seed(1)
    found = []
    for x in (case.inputs for case in check.bench(facts).cases if not case.delicate):
        fresh = {n: torch.randn(x[n].shape, generator=generator).double() for n in ("advantages", "rewards") if n in x}
        found.append({**x, **fresh})
    assert check.space is not None
    return found, quietly(check.space, [Case(x) for x in found], facts)


@pytest.mark.parametrize(("check", "name", "mutant"), LOSS_MUTANTS)
def test_a_changed_loss_that_is_called_right_is_right_on_random_rewards_too(
    check: Check, name: str, mutant: Change
) -> None:
    right = next(iter(check.right.values()))
    arguments = [name for name in canonical(check) if name in inspect.signature(right).parameters]

    def implementation(x: Any) -> Tensor:
        return mutant({name: getattr(x, name) for name in arguments}, right)

    if not CHECKS[check.name](call=implementation).ok:
        return
    cases, space = randomised(check.name, frozenset(arguments))
    assert check.observe is not None
    answers = [check.observe(implementation, check.canonical, Inputs(x, {}), check.sizes(x))[""] for x in cases]
    found = space.explained(answers)
    assert found is not None
    assert found.mistakes == ()


@EACH
def test_any_two_mistakes_differ_in_some_case(check: Check) -> None:
    """Pairwise, without the search for a form: by the answers in the cases of a function that is told everything."""
    facts = frozenset(canonical(check))
    bench = check.bench(facts | check.readings(facts)[0].facts)
    pairs = [(m.key, f) for m in check.mistakes for f in m.implementations]
    every = [[bench.answer(f, i) for _, f in pairs] for i in range(len(bench.cases))]
    answered = [any(isinstance(row[n], Tensor) for row in every) for n in range(len(pairs))]
    table = torch.cat([in_rows(answers) for answers in every], -1)
    for n, (key, _) in enumerate(pairs):
        alike = torch.isclose(table[n + 1 :], table[n], RTOL, ATOL, equal_nan=True).all(-1)
        # What takes whole distributions alone has no answer to these facts: its name tells it apart, above.
        assert not answered[n] or {pairs[n + 1 + int(i)][0] for i in alike.nonzero()} <= {key}


def in_rows(answers: list[Tensor | Exception]) -> Tensor:
    """The answers of many functions in one case, a row each, with the shape before and zeros behind; to raise is -1."""
    parts = [
        (torch.tensor([]), -1) if isinstance(x, Exception) else (x.flatten(), hash(x.shape) % 9973) for x in answers
    ]
    width = max(len(numbers) for numbers, _ in parts)
    rows = [[code, *numbers.tolist(), *[0.0] * (width - len(numbers))] for numbers, code in parts]
    return torch.tensor(rows, dtype=torch.float64)


@EACH
def test_the_verdict_is_the_same_every_time(check: Check) -> None:
    implementation = check.mistakes[0].implementations[0]
    assert str(CHECKS[check.name](implementation)) == str(CHECKS[check.name](implementation))


@pytest.mark.parametrize("key", ["advantages.done_of_next_step", "v_trace.ratio_inverted", "ppo.maximum"])
def test_a_form_that_cannot_be_right_is_soon_left(key: str) -> None:
    check = DECLARED[key.partition(".")[0]]
    implementation = next(m for m in check.mistakes if m.key == key).implementations[0]
    calls = []

    @functools.wraps(implementation)
    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(None)
        return implementation(*arguments, **named)

    report = CHECKS[check.name](counted)
    assert report.mistakes[0].key == key
    assert report.n_cases <= len(calls) <= report.n_cases + 20


def test_a_check_leaves_the_number_of_threads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # To set it, if only to put it back, has torch solve large systems in batches wrongly: see pgtheory._linear.
    monkeypatch.setattr(torch, "set_num_threads", lambda n: pytest.fail("the number of threads was set"))
    CHECKS["returns"](lambda rewards, gamma: rewards)
    CHECKS["policy_gradient"](lambda log_probs, rewards, gamma, mask: (log_probs * mask).sum())


FOLDER = Path(__file__).parents[2] / "pgtheory" / "checking"


def test_the_types_and_the_names_of_checks_are_listed_alike() -> None:
    text = (FOLDER / "__init__.py").read_text(encoding="utf-8")
    typed = re.findall(r"^    (check_\w+) = _pinnable", text, flags=re.M)
    assert {*typed} <= {check.__name__ for check in CHECKS.values()}
    assert typed == sorted(typed) == re.findall(r'^        "(check_\w+)",$', text, flags=re.M)


def test_kinds_import_nothing_private_from_each_other() -> None:
    for path in [*FOLDER.glob("kinds/*.py"), *FOLDER.glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"from pgtheory\.checking\S* import .*\b_\w+", text), path.name
        assert len(text.splitlines()) <= 700, path.name
