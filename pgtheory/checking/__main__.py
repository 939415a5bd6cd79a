"""The checks on the command line: `python -m pgtheory.checking module:function --kind top_p`.

With `--format json` the result of a function is an object with `target`, `kind`, `verdict`, `text`, `expected` and
`mended`, and, unless the verdict is "failed", all that `Report.as_dict` documents; with `--config` it is a list of
these. `--list` gives a list
of objects with `key`, `name`, `severity` and `since`. Keys may be added, and those that are here keep their meaning.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pgtheory.checking._pytest import UNDERSTOOD, UNKNOWN
from pgtheory.checking.catalogue import CHECKS, mistakes
from pgtheory.checking.report import pinned

RIGHT, WRONG, NO_VERDICT = 0, 1, 2
STATUS = {"right": RIGHT, "wrong": WRONG}
# What a table [[check]] may say of a function, beside its target and its kind.
OPTIONS: Mapping[str, Any] = {"layout": None, "names": {}, "call": False, "checks": None, "expected_failures": {}}
# The child sees the installed packages first, and this one wherever it stands.
_START = "import sys; sys.path.append(sys.argv[1]); from pgtheory.checking._child import main; main(*sys.argv[2:])"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check functions that are named on the command line; the exit status says whether they are right."""
    parser = _parser()
    options = parser.parse_args(arguments)
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if options.list:
        return _printed(_listed(options.kind, options.format), RIGHT)
    try:
        requests = _requests(options)
    except (OSError, ValueError, KeyError) as error:
        parser.error(str(error))
    results = [_checked(request) for request in requests]
    statuses = [_status(result) for result in results]
    status = WRONG if WRONG in statuses else max(statuses, default=NO_VERDICT)
    if options.format == "json":
        shown: Any = results if options.config else results[0]
        return _printed(json.dumps(shown, indent=1), status)
    for result in results:
        if result["verdict"] == "failed" and result["unexpected"]:
            print(result["text"], file=sys.stderr)
        elif _printed(result["text"], RIGHT) == NO_VERDICT:
            return NO_VERDICT
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pgtheory.checking",
        description="Is this implementation right, and if not, which known mistake is it?",
        epilog="Exit status: 0 right, 1 wrong, 2 no verdict: it abstains, or does not understand, or something failed.",
    )
    parser.add_argument(
        "target", nargs="?", help="module:function, or file.py:function; for --kind mdp also an id or a class"
    )
    parser.add_argument("--kind", choices=list(CHECKS), help="what the function computes")
    parser.add_argument("--layout", "--form", help="the order of axes, or the container, such as '[T, B]' or 'numpy'")
    parser.add_argument(
        "--names", nargs="+", default=[], metavar="NAME=ROLE", help="what arguments are: adv=advantages"
    )
    parser.add_argument(
        "--call", action="store_true", help="the function is an adapter from the inputs x of the check, as for call="
    )
    parser.add_argument("--checks", metavar="VERSION", help="pin the set of checks: newer mistakes are remarks")
    parser.add_argument("--format", choices=["text", "json"], default="text", help="how the report is printed")
    parser.add_argument(
        "--config",
        type=Path,
        help="a TOML file with a table [[check]] (in pyproject.toml: [[tool.pgtheory.check]]) for each function",
    )
    parser.add_argument("--list", action="store_true", help="list the known mistakes (of --kind, if given) and exit")
    return parser


def _requests(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What is to be checked: the function that is named, or the tables of a file."""
    if options.config:
        found = _tables(options.config)
    else:
        names = dict(pair.split("=", 1) for pair in options.names)
        named = {"target": options.target, "kind": options.kind, "layout": options.layout}
        found = [{**OPTIONS, **named, "names": names, "call": options.call}]
    for request in found:
        if options.checks is not None:  # the command line decides
            request["checks"] = options.checks
        if request.get("target") is None or request.get("kind") is None:
            raise ValueError("give module:function and --kind, or --config, or --list")
        if request["kind"] not in CHECKS:
            raise ValueError(f"kind is {request['kind']!r}, expected one of {', '.join(CHECKS)}")
        if ":" not in request["target"] and request["kind"] != "mdp":
            raise ValueError(f"{request['target']!r} names no function: give module:function, or file.py:function")
        if request["checks"] is not None:
            pinned(request["checks"])
        for key in request["expected_failures"].keys() - _keys(request["kind"]):
            raise ValueError(f"expected_failures has {key!r}, which is no key of the check {request['kind']}")
    return found


def _keys(kind: str) -> set[str]:
    """What can fail: the keys of the known mistakes, and those of the items beside them."""
    return {*(m.key for m in mistakes(kind)), f"{kind}.{UNDERSTOOD}", f"{kind}.{UNKNOWN}"}


def _tables(path: Path) -> list[dict[str, Any]]:
    """The tables of a file, one for each function; `checks` beside them counts for all."""
    read = tomllib.loads(path.read_text(encoding="utf-8"))
    where = "check"
    if path.name == "pyproject.toml":
        read, where = read.get("tool", {}).get("pgtheory", {}), "tool.pgtheory.check"
    tables = read.get("check", [])
    if not (isinstance(tables, list) and tables):
        raise ValueError(f"{path} has no table [[{where}]]")
    for table in tables:
        for name in table.keys() - OPTIONS.keys() - {"target", "kind"}:
            known = ", ".join(("target", "kind", *OPTIONS))
            raise ValueError(f"{path}: a table [[{where}]] has {name!r}, expected {known}")
    return [{**OPTIONS, "checks": read.get("checks"), **table} for table in tables]


def _checked(request: dict[str, Any]) -> dict[str, Any]:
    """The result of a check in a process of its own; what that prints goes to the standard error."""
    root = os.fspath(Path(__file__).parents[2])
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "verdict.json")
        command = [sys.executable, "-P", "-c", _START, root, json.dumps(request), os.fspath(answer)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", check=False
        )
        print(done.stdout, file=sys.stderr, end="")
        if answer.is_file():
            result: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        else:
            text = f"{request['target']} stopped the process (exit status {done.returncode}): there is no verdict"
            result = {"verdict": "failed", "text": text}
    return _as_expected({"target": request["target"], "kind": request["kind"], **result}, request["expected_failures"])


def _as_expected(result: dict[str, Any], expected: Mapping[str, str]) -> dict[str, Any]:
    """The result with the reasons of what was expected to fail: of what has failed, and of what has not."""
    kind = result["kind"]
    named = [key for key in result.get("mistakes", ()) if key in _keys(kind)] or [f"{kind}.{UNKNOWN}"]
    failing = {"right": [], "wrong": named}.get(result["verdict"], [f"{kind}.{UNDERSTOOD}"])
    as_said = {key: expected[key] for key in failing if key in expected}
    mended = {key: reason for key, reason in expected.items() if key not in failing}
    lines = [f"  expected: {key}, {reason}" for key, reason in as_said.items()]
    lines += [f"  expected to fail, and does not: {key}, {reason}" for key, reason in mended.items()]
    unexpected = len(failing) > len(as_said)
    text = "\n".join([result["text"], *lines])
    return {**result, "text": text, "expected": as_said, "mended": mended, "unexpected": unexpected}


def _status(result: Mapping[str, Any]) -> int:
    """The exit status: what was expected to fail is strict, so that a failure that is gone is one."""
    if result["unexpected"]:
        return STATUS.get(result["verdict"], NO_VERDICT)
    return WRONG if result["mended"] else RIGHT


def _listed(kind: str | None, form: str) -> str:
    found = mistakes(kind)
    if form == "json":
        return json.dumps([{"key": m.key, "name": m.name, "severity": m.severity, "since": m.since} for m in found])
    return "\n".join(f"{m.key}: {m.name}" + (" (a remark)" if m.severity == "remark" else "") for m in found)


def _printed(text: str, status: int) -> int:
    """The status, unless the text cannot be printed."""
    try:
        print(text, flush=True)
    except OSError as error:
        # What is left in the buffer must not fail again when the interpreter stops.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"the report cannot be printed: {error}", file=sys.stderr)
        return NO_VERDICT
    return status


if __name__ == "__main__":
    sys.exit(main())
