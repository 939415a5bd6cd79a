"""The checks on the command line: `python -m pgtheory.checking module:function --kind top_p`."""

import argparse
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

from pgtheory.checking import CHECKS, UnknownForm, mistakes

RIGHT, WRONG, FAILED = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a function that is named on the command line; the exit status says whether it is right."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        return _list(options.kind)
    if options.target is None or options.kind is None:
        parser.error("give module:function and --kind, or --list")
    given = {} if options.form is None else {"form": options.form}
    if ":" not in options.target and options.kind != "mdp":
        parser.error(f"{options.target!r} names no function: give module:function, or file.py:function")
    try:
        report = CHECKS[options.kind](_load(options.target), **given)
    except (UnknownForm, ImportError, AttributeError, FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return FAILED
    except (Exception, SystemExit) as error:  # of the module or the function: it must not look like a verdict
        traceback.print_exception(error)
        print(f"{options.target} stopped with {type(error).__name__}: there is no verdict", file=sys.stderr)
        return FAILED
    print(report)
    return RIGHT if report.ok else WRONG


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pgtheory.checking",
        description="Is this implementation right, and if not, which known mistake is it?",
        epilog="Exit status: 0 right, 1 wrong, 2 not understood.",
    )
    parser.add_argument(
        "target", nargs="?", help="module:function, or file.py:function; for --kind mdp also an id or a class"
    )
    parser.add_argument("--kind", choices=list(CHECKS), help="what the function computes")
    parser.add_argument("--form", help="only try forms whose name contains this text, such as '[T, B]'")
    parser.add_argument("--list", action="store_true", help="list the known mistakes (of --kind, if given) and exit")
    return parser


def _list(kind: str | None) -> int:
    for mistake in mistakes(kind):
        print(f"{mistake.key}: {mistake.name}" + (" (a remark)" if mistake.severity == "remark" else ""))
    return RIGHT


def _load(target: str) -> Any:
    """The object that `module:name` or `file.py:name` names; text without a colon is returned as it is."""
    where, colon, name = target.rpartition(":")
    if not colon:
        return target
    with _arguments_kept_from(where):
        module = _load_file(Path(where)) if where.endswith(".py") else _load_module(where)
    return reduce(getattr, name.split("."), module)


@contextmanager
def _arguments_kept_from(module: str) -> Iterator[None]:
    """While a module is imported, which may be a script that reads its arguments, there are none but its name."""
    arguments, sys.argv = sys.argv, [module]
    try:
        yield
    finally:
        sys.argv = arguments


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, os.fspath(path.parent))
    spec.loader.exec_module(module)
    return module


def _load_module(name: str) -> Any:
    sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main())
