"""Tests run against the package with one of its modules replaced by other source, which is written nowhere.

A server imports what takes long (torch, gymnasium, pytest, ...) but not the package, and forks for each request: the
child imports the package with the other source, and runs the tests until one fails.
"""

import importlib
import importlib.abc
import importlib.machinery
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "torch",
    "torch.func",
    "numpy",
    "scipy.stats",
    "scipy.optimize",
    "gymnasium",
    "hypothesis",
    "jaxtyping",
    "pytest",
)
# Plugins that are loaded whether they are needed or not take longer than the tests.
OPTIONS = "-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", "-p", "pytest_timeout"


class Verdict(NamedTuple):
    """Whether a test failed, and what pytest wrote."""

    killed: bool
    output: str


def path_of(module: str) -> Path:
    """The file of a module of the package, such as `returns` or `training._ppo`."""
    return ROOT / "pgtheory" / f"{module.replace('.', '/')}.py"


class Server:
    """A process that has imported everything but the package."""

    def __init__(self) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
        environment |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment, text=True
        )

    def run(self, tests: Sequence[str], module: str = "", source: str = "", timeout: float = 500.0) -> Verdict:
        """Run `tests`, with `source` in place of `module` unless that is empty.

        Raises:
            TimeoutError: the tests did not end in `timeout` seconds.
            RuntimeError: they could not be run.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"tests": list(tests), "module": module, "source": source, "timeout": timeout}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if answer["code"] == "timeout":
            raise TimeoutError(f"{tests} did not end in {timeout} s: {answer['output']}")
        if answer["code"] not in (0, 1):
            raise RuntimeError(f"pytest ended with {answer['code']}: {answer['output']}")
        return Verdict(answer["code"] != 0, answer["output"])

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class _Replaced(importlib.machinery.SourceFileLoader):
    """Loads a module from given source, and keeps no byte code of it."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source.encode()

    def get_data(self, path: str) -> bytes:  # type: ignore[override]
        return self._source if path == self.path else super().get_data(path)

    def path_stats(self, path: str) -> Any:
        raise OSError

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        pass


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, source: str) -> None:
        self._name, self._path, self._source = f"pgtheory.{module}", str(path_of(module)), source

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self._name:
            return None
        loader = _Replaced(name, self._path, self._source)
        return importlib.machinery.ModuleSpec(name, loader, origin=self._path)


def _child(request: dict[str, Any]) -> int:
    import hypothesis
    import pytest

    # A failure is enough: nothing looks for a smaller one, and nothing is kept.
    phases = hypothesis.Phase.explicit, hypothesis.Phase.generate
    hypothesis.settings.register_profile("mutation", phases=phases, database=None, derandomize=True)
    hypothesis.settings.load_profile("mutation")
    if request["module"] == "_kernels":
        # Numba knows what it compiled by the file, and would take the kernels of one source for those of another.
        os.environ["NUMBA_CACHE_DIR"] = request["cache"]
    if request["module"]:
        sys.meta_path.insert(0, _Finder(request["module"], request["source"]))
    try:
        importlib.import_module("pgtheory")
    except Exception as error:  # source that cannot even be imported is noticed by every test
        print(f"import: {error!r}")
        return 1
    return int(pytest.main([*OPTIONS, "-o", "addopts=--import-mode=importlib", *request["tests"]]))


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory() as cache:
        request["cache"] = cache
        child = os.fork()
        if child == 0:
            os.setsid()
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            code = 70
            try:
                code = _child(request)
            finally:
                sys.stdout.flush()
                os._exit(code)
        end, pid, status = time.monotonic() + request["timeout"], 0, 0
        while pid == 0 and time.monotonic() < end:
            pid, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.01)
        if pid == 0:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        log.seek(0)
        return {"code": "timeout" if pid == 0 else 1 if code < 0 else code, "output": log.read()[-2000:]}


def _serve() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    _serve()
