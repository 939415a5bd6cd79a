"""What stands behind each claim of the book: which tests name it, how closely they look, what the machine has proved.

All of it is read from the tests, the proof and the record of `make mutants` when the book is built.
"""

import ast
import json
import re
import tomllib
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Any, NamedTuple

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import equations
import proof_pages

TESTS = equations.ROOT / "tests"
THEOREM = re.compile(
    r"^(:{3,}|`{3,})\{prf:(theorem|proposition|lemma|corollary)\}[^\n]*\n:label: *([\w-]+)\n(.*?)^\1$",
    flags=re.M | re.S,
)
LIBRARIES = {
    "jax": "JAX",
    "quantecon": "QuantEcon",
    "rlax": "RLax",
    "stable_baselines3": "Stable-Baselines3",
    "torchrl": "TorchRL",
    "transformers": "Transformers",
    "trl": "TRL",
}
# How far two numbers may be apart where a comparison does not say it, in float64.
DEFAULTS = {"assert_close": 1e-7, "assert_allclose": 1e-7, "allclose": 1e-5, "approx": 1e-6, "gradcheck": 1e-5}
EPSILON, COARSE = 2.0**-52, 1e-2


class Claim(NamedTuple):
    """A statement of the book: its label, its chapter, its kind, and the equations whose tests test it."""

    label: str
    chapter: str
    kind: str
    equations: tuple[str, ...]


@cache
def claims() -> list[Claim]:
    """The equations that are computed, and all theorems, in the order of the book."""
    found = [
        Claim(label, equation.chapter, "equation", (label,))
        for label, equation in equations.equations().items()
        if label in equations.functions_of()
    ]
    for path in equations.chapters():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        for match in THEOREM.finditer(text):
            stated = dict.fromkeys(re.findall(r"\beq-[\w-]+", match[4]))
            found.append(Claim(match[3], path.stem, match[2], tuple(stated)))
    return found


@cache
def named() -> dict[str, list[str]]:
    """The tests that name each label of an equation or a theorem, by the marker `equation` or in their docstring."""
    return equations.tests_naming(r"\b(?:eq|thm|prop|lem|cor)-[\w-]+")


def tests_of(claim: Claim) -> list[str]:
    """The tests that name a claim, or an equation that stands in it."""
    labels = dict.fromkeys([claim.label, *claim.equations])
    return list(dict.fromkeys(test for label in labels for test in named().get(label, [])))


def _number(node: ast.expr) -> float | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return float(value) if isinstance(value, int | float) else None


def _apart(call: ast.Call, helpers: dict[str, ast.FunctionDef]) -> float | None:
    """How far a comparison lets two numbers be apart; a helper of its file does so by its arguments or its body."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    named = {keyword.arg: _number(keyword.value) for keyword in call.keywords}
    if name == "assert_same_up_to_rounding":
        return (named.get("ulps") or 0.0) * EPSILON
    if name not in DEFAULTS and name not in helpers:
        return None
    given = [x for key in ("atol", "rtol", "abs", "rel") if (x := named.get(key)) is not None]
    given = given or [x for x in map(_number, call.args[2:]) if x is not None and 0 < x < COARSE]
    if given or name not in helpers:
        return max(given or [DEFAULTS[name]])
    rest = {key: value for key, value in helpers.items() if key != name}
    usual = [x for default in helpers[name].args.defaults if (x := _number(default)) and x < COARSE]
    return max(usual) if usual else _sharpest(helpers[name], rest)


def _sharpest(function: ast.FunctionDef, helpers: dict[str, ast.FunctionDef]) -> float | None:
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    read = [x for call in calls if (x := _apart(call, helpers)) and x < COARSE]
    equal = any(
        isinstance(op, ast.Eq) for node in ast.walk(function) if isinstance(node, ast.Compare) for op in node.ops
    )
    equal = equal or any(getattr(call.func, "attr", "") == "equal" for call in calls)
    return min(read) if read else 0.0 if equal else None


@cache
def tolerances() -> dict[str, float]:
    """How far the sharpest comparison in each test lets two numbers be apart, where that can be read off."""
    found = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        helpers = {node.name: node for node in functions if not node.name.startswith("test_")}
        for node in functions:
            if node.name.startswith("test_") and (apart := _sharpest(node, helpers)) is not None:
                found[f"{path.relative_to(TESTS)}::{node.name}"] = apart
    return found


def shown_tolerance(tests: list[str]) -> str:
    """The sharpest tolerance of several tests, in words."""
    read = [tolerances()[test] for test in tests if test in tolerances()]
    if least := min(filter(None, read), default=0.0):
        return f"{least:.0e}".replace("e-0", "e-")
    return "equality" if read else "as written there" if tests else ""


@cache
def mistakes() -> dict[str, int]:
    """How many of the mathematical mistakes in `tests/mutants.toml` each test turns red for."""
    found: dict[str, int] = {}
    for row in tomllib.loads((TESTS / "mutants.toml").read_text(encoding="utf-8"))["mutant"]:
        name = re.sub(r"\[.*", "", row["test"]).replace("::Test", "::").split("::")
        test = f"{name[0]}::{name[-1]}"
        found[test] = found.get(test, 0) + 1
    return found


def proved(claim: Claim) -> str:
    """Links to what the machine has proved of a claim."""
    found = [entry for entry in proof_pages.citations().get(claim.label, []) if entry[2]]
    links = [f'<a href="proof/{stem}.html#coq-{name}"><code>{name}</code></a>' for stem, name, _, _ in found]
    return ("in part: " if found and all(part for *_, part in found) else "") + ", ".join(links)


@cache
def chance() -> ModuleType:
    """`tests/chance.py`, which knows the statistical tests."""
    spec = spec_from_file_location("chance", TESTS / "chance.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(header: str, rows: list[str]) -> list[str]:
    """A table in Markdown."""
    return ["", header, re.sub(r"[^|]+", "--", header), *rows, ""]


def claim_table(chapter: str) -> list[str]:
    """The claims of a chapter."""
    rows = []
    for claim in claims():
        if claim.chapter == chapter:
            tests = tests_of(claim)
            role = "eq" if claim.kind == "equation" else "prf:ref"
            words = claim.label.partition("-")[2].replace("-", " ")
            turned = sum(mistakes().get(test, 0) for test in tests)
            rows.append(
                f"| {{{role}}}`{claim.label}` {words if claim.kind == 'equation' else ''} | {len(tests) or ''} "
                f"| {shown_tolerance(tests)} | {turned or ''} | {proved(claim)} |"
            )
    return table("| claim | tests | agree to | mistakes | by machine |", rows)


def score_table() -> list[str]:
    """How many of the small changes of each module the tests noticed."""
    rows = [
        f"| `{name}` | {n['places']} | {n['run']} | {n['killed']} | {n['equivalent']} "
        f"| {n['killed'] / max(1, n['run']):.0%} | {_of_new(n)} |"
        for name, n in scores().items()
    ]
    return table("| module | places | tried | noticed | the same function | score | drawn anew |", rows)


def _of_new(n: dict[str, int]) -> str:
    """Of changes that were not tried before, how many the tests noticed as they were."""
    return f"{n['new_killed']} of {n['new']}" if "new" in n else "–"


@cache
def scores() -> dict[str, dict[str, int]]:
    """The record of `make mutants`."""
    found: dict[str, dict[str, int]] = tomllib.loads((TESTS / "mutation_scores.toml").read_text(encoding="utf-8"))
    return found


def peer_table() -> list[str]:
    """The libraries that each file of `tests/peers` compares with."""
    rows = []
    for path in sorted((TESTS / "peers").glob("test_*_peers.py")):
        text = path.read_text(encoding="utf-8")
        if "peer_functions" in text:
            text += (path.parent / "peer_functions.py").read_text(encoding="utf-8")
        names = [shown for name, shown in LIBRARIES.items() if re.search(rf"\b{name}(_|\b)", text)]
        count = len(re.findall(r"^ *def test_", text, flags=re.M))
        stem = path.stem.removeprefix("test_").removesuffix("_peers")
        if names:
            rows.append(f"| {{py:mod}}`pgtheory.{stem}` | {', '.join(names)} | {count} |")
    return table("| module | compared with | tests |", rows)


def numbers() -> dict[str, str]:
    """The numbers in the text of the page."""
    computed = [claim for claim in claims() if claim.kind == "equation"]
    theorems = [claim for claim in claims() if claim.kind != "equation"]
    keys = "run", "killed", "new", "new_killed"
    run, killed, new, new_killed = (sum(n.get(key, 0) for n in scores().values()) for key in keys)
    tests = len(chance().statistical())
    return {
        "computed": str(len(computed)),
        "tests": str(len({test for claim in computed for test in tests_of(claim)})),
        "theorems": str(len(theorems)),
        "proved": str(sum(bool(proved(claim)) for claim in theorems)),
        "part": str(sum(proved(claim).startswith("in part") for claim in theorems)),
        "mistakes": str(sum(mistakes().values())),
        "changes": f"{run:,}",
        "noticed": f"{killed:,}",
        "score": f"{killed / max(1, run):.1%}",
        "new_changes": f"{new:,}",
        "new_score": f"{new_killed / max(1, new):.0%}",
        "statistical": str(tests),
        "alarms": f"one seed in {round(1 / (tests * chance().SHARE) / 1e6):,} million",
    }


def page(name: str) -> list[str]:
    """A part of the page in Markdown."""
    if name == "claims":
        lines = []
        for path in equations.chapters():
            if any(claim.chapter == path.stem for claim in claims()):
                lines += [f"**{{doc}}`{path.stem}`**", *claim_table(path.stem)]
        return lines
    return {"scores": score_table, "peers": peer_table}[name]()


class Evidence(SphinxDirective):
    """A table of the page: `claims`, `scores` or `peers`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write the table as Markdown."""
        box = nodes.container(classes=["evidence"])
        self.state.nested_parse(StringList(page(self.arguments[0]), source=self.env.docname), 0, box)
        return [box]


def fill_numbers(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the numbers into the text of the page."""
    if docname == "book/evidence":
        source[0] = re.sub(r"«(\w+)»", lambda match: numbers()[match[1]], source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_directive("evidence", Evidence)
    app.connect("source-read", fill_numbers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
