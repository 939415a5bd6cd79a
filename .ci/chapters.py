"""Execute the chapters, as many at a time as there are cores, and keep what they show where the book is built from.

A chapter that was executed before is not executed again while its cells, the package, the versions in the lock and what
stands beside the chapters stay as they are. The exit status is 1 if one fails.
"""

import hashlib
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "_build" / ".jupyter_cache"  # where Jupyter Book looks
TIMEOUT = 300  # seconds, for a cell
LONGEST = ("language_models", "reinforce", "checking", "surrogates")  # these begin first, so that none is waited for
QUIET = ["--IPKernelApp.log_level=ERROR"]  # a kernel on this machine need not be encrypted
BESIDE = {".bib", ".ipynb", ".md"}  # texts, which no cell reads; of a chapter its cells count, by the cache


def state() -> str:
    """A digest of everything but its cells that what a chapter shows depends on."""
    files = [ROOT / "constraints.txt", ROOT / "pyproject.toml", Path(__file__)]
    files += [path for path in (ROOT / "pgtheory").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files += [path for path in (ROOT / "book").glob("*.*") if path.is_file() and path.suffix not in BESIDE]
    digest = hashlib.sha256(repr((sys.version, wishes())).encode())
    for path in sorted(files):
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def wishes() -> list[tuple[str, str]]:
    """The environment variables that the package or a chapter reads."""
    return sorted((name, value) for name, value in os.environ.items() if name.startswith("PGTHEORY_"))


def execute(path: Path) -> tuple[Path, nbformat.NotebookNode, float, str | None]:
    """The chapter with its outputs, the seconds it took, and what went wrong."""
    notebook = nbformat.read(path, 4)
    done = single_nb_execution(
        notebook, cwd=str(path.parent), timeout=TIMEOUT, allow_errors=False, extra_arguments=QUIET
    )
    return path, done.nb, done.time, done.exc_string


def main() -> int:
    """Execute what is not in the cache."""
    stamp, now = CACHE / "state", state()
    if not stamp.exists() or stamp.read_text() != now:
        shutil.rmtree(CACHE, ignore_errors=True)
    cache = get_cache(CACHE)
    known = {record.hashkey for record in cache.list_cache_records()}
    cache.path.joinpath("state").write_text(now)
    chapters = sorted((ROOT / "book").glob("*.ipynb"), key=lambda path: path.stem not in LONGEST)
    due = [path for path in chapters if cache.create_hashed_notebook(nbformat.read(path, 4))[1] not in known]
    failed = 0
    with multiprocessing.Pool(min(8, os.cpu_count() or 1)) as pool:
        for path, notebook, seconds, error in pool.imap_unordered(execute, due, chunksize=1):
            print(
                f"{path.relative_to(ROOT)}: {f'FAILED{os.linesep}{error}' if error else f'{seconds:.0f} s'}", flush=True
            )
            failed += error is not None
            if error is None:
                bundle = CacheBundleIn(notebook, str(path), data={"execution_seconds": seconds})
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    print(f"{len(chapters)} chapters, {len(due)} executed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
