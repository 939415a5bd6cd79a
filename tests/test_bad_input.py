"""Every public callable refuses bad input by name, and answers what is legitimate."""

import importlib
import inspect
from collections import Counter
from functools import cache
from typing import Any

import pytest
from bad_input import Value, is_named, values_of
from valid_calls import CALLS

import pgtheory

CHAPTERS = [
    *("mdp", "gallery", "trajectories", "returns", "value_functions", "softmax_policy", "gaussian_policy"),
    *("decoding", "policy_gradient", "reinforce", "surrogates", "advantages", "training", "groups"),
    *("off_policy", "token_log_probs", "language_models", "tiny_gpt", "post_training"),
]
PUBLIC = {name: getattr(pgtheory, name) for c in CHAPTERS for name in importlib.import_module(f"pgtheory.{c}").__all__}
# What is wrong with the file or the state of a run has tests of its own, in test_checkpoints and test_resuming.
ELSEWHERE = {"state_dict", "load_state_dict", "save", "load"}
ARGUMENTS = [(name, argument) for name, make in CALLS.items() for argument in make()[1]]


def is_without_arguments(value: object) -> bool:
    """Such a class, an error or what others build on has nothing of its own to check: what takes one does."""
    bare = issubclass(value, tuple | Exception) or value is pgtheory.Resumable if inspect.isclass(value) else False
    return bare or getattr(value, "_is_protocol", False)


def own_methods(cls: type) -> list[str]:
    """The public methods of a class that this package defines, apart from the abstract ones."""
    methods = inspect.getmembers(cls, lambda value: inspect.isfunction(value) or inspect.ismethod(value))
    return [
        name
        for name, method in methods
        if name[0] != "_" and method.__module__.startswith("pgtheory") and name not in ELSEWHERE
    ]


def described(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:60] if not isinstance(value, int) else 'of many digits'}"


@cache
def canonical(name: str) -> Any:
    function, arguments = CALLS[name]()
    return function(**arguments)


def fault(name: str, argument: str, value: Value) -> str | None:
    """What is wrong with the answer to a call in which one argument has another value; None if nothing is."""
    function, arguments = CALLS[name]()
    call = f"{name}({argument}={value.label})"
    try:
        answer = function(**{**arguments, argument: value.value})
    except (ValueError, TypeError) as error:
        if value.check is not None:
            return f"{call} is legitimate, but refused: {error}"
        return None if is_named(name, argument, value, str(error)) else f"{call} does not name it: {error}"
    except Exception as error:
        return f"{call} gives {type(error).__name__}: {error}"
    if value.check is None:
        return f"{call} is accepted, and answered by {described(answer)}"
    return None if value.check(answer, canonical(name)) else f"{call} is answered wrongly, by {described(answer)}"


def test_each_public_callable_has_a_valid_call() -> None:
    functions = {name: value for name, value in PUBLIC.items() if callable(value) and not is_without_arguments(value)}
    methods = {f"{name}.{m}" for name, cls in functions.items() if inspect.isclass(cls) for m in own_methods(cls)}
    inherited = {
        f"{name}.{m}" for name in ("TabularPolicy", "LinearPolicy", "NeuralPolicy") for m in ("table", "available_in")
    }
    assert (functions.keys() | methods) - CALLS.keys() - inherited == set()


@pytest.mark.parametrize("name", CALLS)
def test_a_valid_call_gives_every_argument_and_is_answered(name: str) -> None:
    function, arguments = CALLS[name]()
    assert set(inspect.signature(function).parameters) == set(arguments)
    canonical(name)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_bad_values_are_refused_by_name_and_legitimate_ones_are_answered(name: str, argument: str) -> None:
    faults = [found for value in values_of(name, argument) if (found := fault(name, argument, value))]
    assert not faults, "\n".join(["", *faults])


def test_the_catalogue_makes_thousands_of_calls() -> None:
    counts = Counter(value.check is None for name, argument in ARGUMENTS for value in values_of(name, argument))
    assert counts[True] >= 9_000
    assert counts[False] >= 700


def test_a_fault_of_the_package_would_be_seen() -> None:
    refused, legitimate = Value("bad", -1.0), Value("fine", 0.25, lambda answer, _: answer == 0.8)
    assert fault("discount_from_rate", "rate", refused) is None
    assert fault("discount_from_rate", "rate", legitimate) is None
    assert "is accepted" in str(fault("discount_from_rate", "rate", legitimate._replace(check=None)))
    assert "but refused" in str(fault("discount_from_rate", "rate", refused._replace(check=legitimate.check)))
    assert "wrongly" in str(fault("discount_from_rate", "rate", Value("other", 1.0, legitimate.check)))
    assert is_named("discount_from_rate", "rate", refused, "rate must be positive")
    assert not is_named("discount_from_rate", "rate", refused, "a generated error")
