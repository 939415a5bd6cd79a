"""Each mistake of the table `mutants.toml` turns its test red: the tests that guard a formula can fail."""

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from mutation import Server, path_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="mutants run in forked processes")


class Mutant(NamedTuple):
    module: str
    mistake: str
    before: str
    after: str
    test: str


TABLE = tomllib.loads((Path(__file__).parent / "mutants.toml").read_text(encoding="utf-8"))
MUTANTS = [Mutant(row.pop("module"), **row) for row in TABLE["mutant"]]
FILES = sorted({mutant.test.partition("::")[0] for mutant in MUTANTS})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def mutated(mutant: Mutant) -> str:
    source = path_of(mutant.module).read_text(encoding="utf-8")
    found = source.count(mutant.before)
    assert found == 1, f"{mutant.before!r} stands {found} times in {mutant.module}: the table is to follow the code"
    return source.replace(mutant.before, mutant.after)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.module}: {mutant.mistake}")
def test_a_mistake_turns_its_test_red(mutant: Mutant, server: Server) -> None:
    killed, output = server.run([f"tests/{mutant.test}"], mutant.module, mutated(mutant))
    assert killed, f"{mutant.mistake}: {mutant.test} stays green\n{output}"


@pytest.mark.parametrize("file", FILES)
def test_without_a_mistake_the_same_tests_are_green(file: str, server: Server) -> None:
    tests = sorted({f"tests/{mutant.test}" for mutant in MUTANTS if mutant.test.startswith(f"{file}::")})
    red, output = server.run(tests)
    assert not red, output


def test_no_mistake_stands_in_the_table_twice() -> None:
    names = [(mutant.module, mutant.mistake) for mutant in MUTANTS]
    changes = [(mutant.module, mutant.before, mutant.after) for mutant in MUTANTS]
    assert len(set(names)) == len(set(changes)) == len(MUTANTS) >= 60
