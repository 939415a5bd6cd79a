"""Change the kernel modules in one place at a time, by the operators of cosmic-ray, and see which tests notice.

`make mutants` runs every mutant of every module once, `MUTANTS="--sample 100 surrogates groups"` some of them. Verdicts
are kept in _build/mutants, one file a module: a mutant that was killed is not run again while the function that it is
in stays as it is; one that survived is, when the tests have changed. The counts of the last run of each module go to
tests/mutation_scores.toml, which a page of the book shows. No source is written anywhere.

Survivors get better tests, so that the score of a sample says little of the rest. `--more 50` runs as many mutants that
are behind the sample, and keeps how many of those were killed by tests that had not seen them.

Mutants of signatures, annotations and docstrings, which no number depends on, are left out. Those that are the same
function are listed with the reason in tests/equivalent.toml.
"""

import argparse
import ast
import difflib
import hashlib
import json
import os
import random
import sys
import threading
import time
import tomllib
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from mutation import Server, path_of  # noqa: E402

# Each kernel module, and the stems of the tests that are to notice: the first that does ends the run.
TESTS: dict[str, tuple[str, ...]] = {
    "_compiled": ("compiled",),
    "_each_group": ("groups", "off_policy"),
    "_elimination": ("value_functions", "value_limits"),
    "_gradients": ("policy_gradient", "reinforce", "groups"),
    "_kernels": ("returns", "advantages", "decoding", "token_log_probs", "trajectories"),
    "_krylov": ("value_functions", "value_limits"),
    "_linear": ("value_functions", "value_limits"),
    "_masks": ("reinforce", "surrogates", "returns", "properties"),
    "_post_training": ("post_training", "ranks"),
    "_precision": ("reinforce", "softmax_policy", "surrogates", "properties"),
    "_ranks": ("ranks",),
    "_ratios": ("surrogates", "groups", "properties"),
    "_rewards": ("post_training",),
    "advantages": ("advantages", "properties"),
    "decoding": ("decoding", "beam_search", "samplers", "properties"),
    "gaussian_policy": ("gaussian_policy",),
    "groups": ("groups", "properties"),
    "language_models": ("language_models",),
    "mdp": ("mdp", "trajectories", "value_functions"),
    "off_policy": ("off_policy",),
    "policy_gradient": ("policy_gradient", "properties"),
    "post_training": ("post_training", "ranks"),
    "reinforce": ("reinforce", "properties"),
    "returns": ("returns", "properties"),
    "softmax_policy": ("softmax_policy", "samplers", "properties"),
    "surrogates": ("surrogates", "properties"),
    "tiny_gpt": ("tiny_gpt",),
    "token_log_probs": ("token_log_probs", "properties"),
    "training._episodes": ("updates", "training"),
    "training._ppo": ("updates", "training", "resuming"),
    "training._reinforce": ("updates", "training", "resuming"),
    "training._reinforce_runs": ("updates", "training", "samplers"),
    "training._surrogate_runs": ("updates", "training", "samplers"),
    "trajectories": ("trajectories", "samplers"),
    "value_functions": ("value_functions", "operators", "value_limits", "monte_carlo", "properties"),
}
SCORES = ROOT / "tests" / "mutation_scores.toml"
LEAST = 0.95  # of the mutants that were run and are not equivalent


class Place(NamedTuple):
    """Where an operator of cosmic-ray changes a module."""

    operator: str
    occurrence: int


class Mutant(NamedTuple):
    """A module with one change."""

    line: int
    function: str  # the changed function, or method with its class; empty outside of all
    before: str
    after: str
    source: str
    key: str  # a digest of the changed function


def places(source: str) -> list[Place]:
    """Every place for a change that is neither in a signature, nor an annotation, nor a docstring."""
    tree, dull, found = get_ast(source), _dull(ast.parse(source)), []
    for name in operator_names():
        if get_operator(name).arguments():  # variables for variables, which need to be named
            continue
        starts = (start for node in ast_nodes(tree) for start, _ in get_operator(name)().mutation_positions(node))
        found += [
            Place(name, occurrence)
            for occurrence, start in enumerate(starts)
            if not any(first <= start < last for first, last in dull)
        ]
    return found


def changed(module: str, source: str, place: Place) -> Mutant | None:
    """The module with the change; None where Python refuses it, or warns: a text is compared by `is`."""
    result = mutate_code(source, get_operator(place.operator)(), place.occurrence)
    try:
        compile(result, module, "exec")
    except (SyntaxError, SyntaxWarning):
        return None
    return _described(source, result, module)


def _dull(tree: ast.Module) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The places of signatures, annotations and docstrings, and of what a module says about itself."""
    spans = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = node.body[0]
            spans.append(((node.lineno, node.col_offset), (body.lineno, 0)))
            if isinstance(body, ast.Expr) and isinstance(body.value, ast.Constant):
                spans.append(_span(body))
        elif isinstance(node, ast.AnnAssign):
            spans.append(_span(node.annotation))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):  # list[Tensor]()
            spans.append(_span(node.func))
    types = [n for n in tree.body if isinstance(n, ast.Assign) and isinstance(n.value, ast.BinOp | ast.Subscript)]
    return [*spans, *map(_span, types)]  # names of types, such as `float | tuple[float, float]`


def _span(node: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _described(source: str, changed: str, module: str) -> Mutant:
    blocks = difflib.SequenceMatcher(None, source.splitlines(), changed.splitlines(), autojunk=False).get_opcodes()
    _, first, last, other_first, other_last = next(block for block in blocks if block[0] != "equal")
    before, after = source.splitlines()[first:last], changed.splitlines()[other_first:other_last]
    pairs = [(x.strip(), y.strip()) for x, y in zip(before, after, strict=False) if x != y]
    old, new = pairs[0] if pairs else ("".join(before).strip(), "")
    around = [node for node in ast.parse(changed).body if node.lineno <= other_first + 1 <= (node.end_lineno or 0)]
    key = hashlib.sha256("".join([module, *map(ast.dump, around)]).encode()).hexdigest()[:16]
    return Mutant(first + 1, _function(ast.parse(source), first + 1), old, new, changed, key)


def _function(tree: ast.Module, line: int) -> str:
    for node in tree.body:
        for inner in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(inner, ast.FunctionDef) and inner.lineno <= line <= (inner.end_lineno or 0):
                return inner.name if inner is node else f"{node.name}.{inner.name}"  # type: ignore[attr-defined]
    return ""


def seeing(module: str, servers: "Pool") -> Callable[[str], list[str]]:
    """From a function of a module to the tests that call it, the quickest of the first file first; all if none does.

    What each test calls is recorded once for each file of tests. Those that fork come last, whatever they call.
    """
    inside, found, forking = f"{module.replace('.', '/')}.py", dict[str, list[str]](), list[str]()
    for path in files_of(module):
        file = str(path.relative_to(ROOT))
        store = ROOT / "_build" / "mutants" / f"{path.stem}-{_digest(path)}.json"
        if not store.exists():
            servers.run([file], record=str(store))
        record = json.loads(store.read_text(encoding="utf-8"))
        shared = {name for at, name in record["shared"].get(file, []) if at == inside}
        for test, (_, forks, called) in sorted(record["tests"].items(), key=lambda item: item[1][0]):
            if forks:
                forking.append(test)
                continue
            for name in shared | {name for at, name in called if at == inside}:
                found.setdefault(name, []).append(test)
    return lambda function: found[function] + forking if function in found else []


def _digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def equivalent() -> dict[tuple[str, str, str], str]:
    """The mutants that are the same function, and why."""
    listed = tomllib.loads((ROOT / "tests" / "equivalent.toml").read_text(encoding="utf-8")).get("mutant", [])
    for entry in listed:
        if entry["before"] not in path_of(entry["module"]).read_text(encoding="utf-8"):
            raise ValueError(f"tests/equivalent.toml: {entry['module']} has no line {entry['before']!r} any more")
    return {(entry["module"], entry["before"], entry["after"]): entry["reason"] for entry in listed}


def files_of(module: str) -> list[Path]:
    """The tests of a module."""
    return [ROOT / "tests" / f"test_{stem}.py" for stem in TESTS[module]]


def run(module: str, which: slice, until: float, servers: "Pool") -> Counter[str]:
    """Run what was not run yet, keep the verdicts, and count them."""
    store = ROOT / "_build" / "mutants" / f"{module}.json"
    store.parent.mkdir(parents=True, exist_ok=True)
    verdicts: dict[str, Any] = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    paths, same, source = files_of(module), equivalent(), path_of(module).read_text(encoding="utf-8")
    tests, called = _digest(*paths), seeing(module, servers)
    everything = places(source)
    random.Random(0).shuffle(everything)  # so that the first of them are a sample
    survivors: dict[str, str] = {}

    def judge(place: Place) -> str:
        if time.monotonic() > until:
            return "left"
        mutant = changed(module, source, place)
        if mutant is None:
            return "no mutant"
        if (module, mutant.before, mutant.after) in same:
            return "equivalent"
        if verdicts.get(mutant.key) not in ("killed", tests):
            some = called(mutant.function)
            files = [str(path.relative_to(ROOT)) for path in paths]
            killed = servers.run(some or files, module, mutant.source, ordered=bool(some))
            with servers.lock:
                verdicts[mutant.key] = "killed" if killed else tests
                store.write_text(json.dumps(verdicts, indent=1), encoding="utf-8")
        if verdicts[mutant.key] == "killed":
            return "killed"
        survivors[mutant.key] = f"{module}:{mutant.line}: {mutant.before}  →  {mutant.after}"
        return "survived"

    counts = Counter(servers.executor.map(judge, everything[which]))
    print(*sorted(survivors.values()), sep="\n", flush=True)
    return counts + Counter(all=len(everything))


class Pool:
    """Several servers, each used by one thread at a time."""

    def __init__(self, size: int) -> None:
        self.executor, self.lock = ThreadPoolExecutor(size), threading.Lock()
        self._own = threading.local()

    def run(self, tests: list[str], module: str = "", source: str = "", **options: Any) -> bool:
        """Whether a test failed, or none came to an end."""
        if not hasattr(self._own, "server"):
            self._own.server = Server()
        try:
            return bool(self._own.server.run(tests, module, source, timeout=100, **options).killed)
        except TimeoutError:
            return True


def scores() -> dict[str, dict[str, int]]:
    """The record that the book shows."""
    found: dict[str, dict[str, int]] = tomllib.loads(SCORES.read_text(encoding="utf-8"))
    return found


def keep(module: str, counts: Counter[str], which: slice) -> None:
    """Write the counts of a module into the record: of the first places, or of some that were not tried before."""
    rows, tried = scores(), counts["killed"] + counts["survived"]
    row = rows.setdefault(module, {})
    if which.start:
        row |= {"new": tried, "new_killed": counts["killed"]}
    else:
        row |= {"places": counts["all"], "drawn": min(which.stop or counts["all"], counts["all"])}
        row |= {"run": tried, "killed": counts["killed"], "equivalent": counts["equivalent"]}
    head = "# Written by `make mutants`: of each module, how many changes there are, were run, and were noticed.\n"
    tables = (
        f'\n["{name}"]\n' + "".join(f"{key} = {n}\n" for key, n in row.items())
        for name, row in sorted(rows.items())
        if name in TESTS
    )
    SCORES.write_text(head + "".join(tables), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="module", help="such as groups or training._ppo; all by default")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--sample", type=int, help="so many mutants of each module, drawn at random, always the same")
    which.add_argument("--more", type=int, help="so many others, behind those that the record is of")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no further mutant after so many minutes")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if unknown := set(arguments.modules) - TESTS.keys():
        parser.error(f"no kernel module: {', '.join(sorted(unknown))}")
    return arguments


def main() -> int:
    """Run, report by module, and say by the exit status whether enough were killed."""
    arguments = _arguments()
    servers, until = Pool(arguments.processes), time.monotonic() + 60 * arguments.minutes
    total: Counter[str] = Counter()
    rows = ["| module | places | run | killed | survived | equivalent |", "|---|---|---|---|---|---|"]
    for module in arguments.modules or TESTS:
        drawn = scores().get(module, {}).get("drawn", 0) if arguments.more else 0
        which = slice(drawn, drawn + arguments.more if arguments.more else arguments.sample)
        n = run(module, which, until, servers)
        total += n
        if not n["left"] and n["killed"] + n["survived"] > 0:
            keep(module, n, which)
        tried = n["killed"] + n["survived"]
        rows.append(f"| {module} | {n['all']} | {tried} | {n['killed']} | {n['survived']} | {n['equivalent']} |")
    score = total["killed"] / max(1, total["killed"] + total["survived"])
    rows += ["", f"{total['killed']} of {total['killed'] + total['survived']} killed: {score:.1%}"]
    report = "\n".join(rows) + "\n"
    (ROOT / "_build" / "mutants" / "report.md").write_text(report, encoding="utf-8")
    print(report)
    return 0 if score >= LEAST else 1


if __name__ == "__main__":
    warnings.simplefilter("error", SyntaxWarning)
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the servers end with their pipes
