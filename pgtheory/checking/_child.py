"""One check in a process of its own: whatever the function does, only a completed verdict is one."""

import importlib
import importlib.util
import json
import os
import sys
import traceback
from functools import reduce
from pathlib import Path
from typing import Any

from pgtheory.checking.catalogue import CHECKS
from pgtheory.checking.report import UnknownForm


def main(request: str, answer: str) -> None:
    """Carry out a request, and write the answer to a file."""
    result = _answered(json.loads(request))
    part = Path(f"{answer}.part")
    part.write_text(json.dumps(result), encoding="utf-8")
    part.replace(answer)


def _answered(request: dict[str, Any]) -> dict[str, Any]:
    target, kind = request["target"], request["kind"]
    try:
        function = _load(target)
    except (Exception, SystemExit) as error:
        return _failed(f"{target} cannot be imported: {_where(error)}")
    try:
        options = _options(kind, request)
        report = CHECKS[kind](call=function, **options) if request.get("call") else CHECKS[kind](function, **options)
        return report.as_dict()
    except UnknownForm as error:
        return _failed(str(error))
    except (Exception, SystemExit) as error:  # of the function: it must not look like a verdict
        return _failed(f"{target} stopped: {_where(error)}")


def _failed(text: str) -> dict[str, Any]:
    return {"verdict": "failed", "text": f"{text}\nthere is no verdict" if "verdict" not in text else text}


def _options(kind: str, request: dict[str, Any]) -> dict[str, Any]:
    options = {name: request[name] for name in ("layout", "names", "checks") if request.get(name)}
    if kind == "mdp":
        if "names" in options or request.get("call"):
            raise ValueError("the check mdp takes no names and no call")
        options |= {"form": options.pop("layout")} if "layout" in options else {}
    return options


def _where(error: BaseException) -> str:
    """What went wrong and in which line."""
    return "".join(traceback.format_exception(error, limit=-3)).strip()


def _load(target: str) -> Any:
    """The object that `module:name` or `file.py:name` names; text without a colon is returned as it is."""
    where, colon, name = target.rpartition(":")
    if not colon:
        return target
    sys.argv = [where]  # a script may read its arguments
    module = _load_file(Path(where)) if where.endswith(".py") else _load_module(where)
    return reduce(getattr, name.split("."), module)


def _load_file(path: Path) -> Any:
    """The module in a file, under a name of its own: `torch.py` does not stand in for an installed package."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    sys.path.append(os.fspath(path.parent.resolve()))  # last, for the same reason
    name = f"handed_in_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _load_module(name: str) -> Any:
    sys.path.append(os.getcwd())
    return importlib.import_module(name)
