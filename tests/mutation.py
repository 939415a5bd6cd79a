"""Tests run against the package with one of its modules replaced by other source, which is written nowhere.

A server imports what takes long (torch, gymnasium, pytest, ...) but not the package, and forks for each request: the
child imports the package with the other source, and runs the tests until one fails. It can also say which functions of
the package each test calls, and how long it takes, so that a change is shown to those tests alone that can see it.
"""

import contextlib
import gc
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = f"{ROOT / 'pgtheory'}{os.sep}"
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
# Plugins that are loaded whether they are needed or not take longer than the tests, and so do assertions that explain
# themselves, and a search for objects that nobody closed.
LEFT_OUT = "-p", "no:unraisableexception", "-p", "no:cacheprovider"
ROOM = 12 * 2**30  # bytes of addresses: a mutant that asks for more gets an error, and nothing else is stopped for it
OPTIONS = "-x", "-q", "--no-header", "--tb=line", "--assert=plain", "-p", "pytest_timeout", *LEFT_OUT


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

    def run(
        self,
        tests: Sequence[str],
        module: str = "",
        source: str = "",
        *,
        timeout: int = 500,
        ordered: bool = False,
        record: str = "",
    ) -> Verdict:
        """Run `tests`, with `source` in place of `module` unless that is empty.

        With `ordered` they are full names of tests, and run in the order given. `record` is the file for what each
        test calls, if that is wanted.

        Raises:
            TimeoutError: the tests did not end in `timeout` seconds of the processor, whatever else the machine does.
            RuntimeError: they could not be run.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"tests": list(tests), "module": module, "source": source, "timeout": timeout}
        request |= {"ordered": ordered, "record": record}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if answer["code"] == "timeout":
            raise TimeoutError(f"{tests} did not end in {timeout} s: {answer['output']}")
        if answer["code"] not in (0, 1, 2):  # 2: a file of tests could not even be imported
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


class _Order:
    """Leaves the tests that were asked for by name, in the order in which they were."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._place = {test: i for i, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self._place), key=lambda item: self._place[item.nodeid]
        )


class _Record:
    """Which functions of the package each test calls, by file and name, and how long it takes.

    What the import of a file calls, or the setup of a test, is shared by tests: it counts for all of the file. What
    the processes call that a test forks is not seen; that it forks is.
    """

    def __init__(self, path: str) -> None:
        self._path, self._n_forks = path, 0
        self.tests: dict[str, tuple[float, bool, list[Any]]] = {}
        self.shared: dict[str, set[Any]] = {}
        os.register_at_fork(after_in_parent=self._count_fork)

    def _count_fork(self) -> None:
        self._n_forks += 1

    @contextlib.contextmanager
    def _traced(self) -> Iterator[set[Any]]:
        called: set[Any] = set()

        def trace(frame: Any, event: str, value: Any) -> None:
            if frame.f_code.co_filename.startswith(PACKAGE):
                called.add((frame.f_code.co_filename[len(PACKAGE) :], frame.f_code.co_qualname.partition(".<")[0]))

        sys.settrace(trace)
        try:
            yield called
        finally:
            sys.settrace(None)

    def _of(self, nodeid: str) -> set[Any]:
        return self.shared.setdefault(nodeid.partition("::")[0], set())

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: Any) -> Any:
        with self._traced() as called:
            report = yield
        self._of(collector.nodeid).update(called)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: Any) -> Any:
        with self._traced() as called:
            yield
        self._of(item.nodeid).update(called)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: Any) -> Any:
        start, n_forks = time.process_time(), self._n_forks
        with self._traced() as called:
            yield
        self.tests[item.nodeid] = (round(time.process_time() - start, 3), self._n_forks > n_forks, sorted(called))

    def pytest_sessionfinish(self) -> None:
        shared = {file: sorted(called) for file, called in self.shared.items()}
        Path(self._path).write_text(json.dumps({"tests": self.tests, "shared": shared}), encoding="utf-8")


def _child(request: dict[str, Any]) -> int:
    import hypothesis

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
    tests, plugins = request["tests"], list[object]()
    if request["ordered"]:
        plugins, tests = [_Order(tests)], list(dict.fromkeys(test.partition("::")[0] for test in tests))
    if request["record"]:
        plugins.append(_Record(request["record"]))
    return int(pytest.main([*OPTIONS, "-o", "addopts=--import-mode=importlib", *tests], plugins))


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    import resource  # not on Windows, where nothing forks

    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory() as cache:
        request["cache"] = cache
        child = os.fork()
        if child == 0:
            os.setsid()
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            code = 70
            resource.setrlimit(resource.RLIMIT_CPU, (request["timeout"],) * 2)
            resource.setrlimit(resource.RLIMIT_AS, (ROOM,) * 2)
            try:
                code = _child(request)
            finally:
                sys.stdout.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what the tests have started
        log.seek(0)
        over = code in (-signal.SIGXCPU, -signal.SIGKILL)
        return {"code": "timeout" if over else 1 if code < 0 else code, "output": log.read()[-2000:]}


def _serve() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    gc.freeze()  # nothing of this is garbage, so that no child goes through it, or copies its pages
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    _serve()
