"""Run the benchmarks, print Markdown, write JSON; the exit status is 1 if a floor is missed."""

import argparse
import datetime
import importlib
import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import report

LIBRARIES = (
    "torch",
    "numpy",
    "numba",
    "scipy",
    "jax",
    "rlax",
    "torchrl",
    "transformers",
    "trl",
    "quantecon",
    "gymnasium",
)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="modules to run, such as returns (default: all)")
    parser.add_argument(
        "--full", action="store_true", help="every case, with errors and memory; otherwise the decisive ones"
    )
    parser.add_argument("--part", default="", help="only cases whose names hold this regular expression")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default: 1 and 2)")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for the rounds of one row (default: 2)")
    parser.add_argument("--json", type=Path, help="write the rows here; those of other cases are kept")
    parser.add_argument("--device", default="cpu", help="where the inputs lie, such as cuda (default: cpu)")
    parser.add_argument("--strict", action="store_true", help="a peer that is not installed is a failure")
    return parser.parse_args()


def modules(names: list[str]) -> list[str]:
    """The `bench_*` modules beside this file, or those named."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    wanted = [name if name.startswith("bench_") else f"bench_{name}" for name in names]
    if unknown := set(wanted) - set(found):
        raise SystemExit(f"no such benchmark: {', '.join(sorted(unknown))}; there are: {', '.join(found)}")
    return wanted or found


def processor() -> str:
    """The name of the processor."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.*)", path.read_text()) if path.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def commit(folder: Path) -> str | None:
    """The commit of a checkout, by git or by the file that `make` leaves in it."""
    if (left := folder / "COMMIT").exists():
        return left.read_text().strip()
    command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def circumstances(device: str, base: Path | None, root: Path) -> dict[str, Any]:
    """On what, when and with what."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    if device != "cpu":
        import torch

        device = torch.cuda.get_device_name()
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "device": device,
        "python": platform.python_version(),
        "versions": versions,
        "date": f"{datetime.date.today():%Y-%m-%d}",
        "commit": commit(root),
        "before": commit(base) if base else None,
    }


def kept_rows(path: Path | None, found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of earlier parts of this run, on the same machine with the same peers; each names its commit."""
    if path is None or not path.exists():
        return []
    earlier = json.loads(path.read_text(encoding="utf-8"))
    same = all(earlier[key] == value for key, value in found.items() if key not in ("commit", "date"))
    return [{**row, "commit": row.get("commit", earlier["commit"])} for row in earlier["rows"]] if same else []


def rounded(value: Any) -> Any:
    """Numbers to four digits: more than that is noise."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    return [rounded(x) for x in value] if isinstance(value, list | tuple) else value


def main() -> int:
    """Run what is asked for; return the exit status."""
    asked = arguments()
    os.environ["PGTHEORY_BENCH_DEVICE"] = asked.device
    from benchmarks.harness import BASE, ROOT, Machine, measure

    base = BASE if BASE.exists() and asked.full else None
    about = circumstances(asked.device, base, ROOT)
    rows = kept_rows(asked.json, about)
    print(json.dumps(about, ensure_ascii=False), report.HEADER, sep="\n\n", flush=True)
    new: list[dict[str, Any]] = []
    for threads in asked.threads:
        machine = Machine(threads, base=base)
        for module in modules(asked.names):
            for index, case in enumerate(importlib.import_module(f"benchmarks.{module}").cases()):
                if (
                    threads not in case.threads
                    or not (asked.full or case.decisive)
                    or not re.search(asked.part, case.name)
                ):
                    continue
                row = measure(
                    case,
                    module,
                    index,
                    machine,
                    budget=asked.budget,
                    thorough=asked.full and threads == asked.threads[-1],
                )
                new.append({**rounded(row), "commit": about["commit"]})
                print(*report.lines_of(row), sep="\n", flush=True)
                if asked.json:
                    names = {(r["case"], r["threads"]) for r in new}
                    all_rows = [r for r in rows if (r["case"], r["threads"]) not in names] + new
                    text = json.dumps(about | {"rows": all_rows}, ensure_ascii=False, indent=None)
                    asked.json.write_text(text.replace('{"module"', '\n{"module"') + "\n", encoding="utf-8")
        machine.close()
    print("", report.CLAIMS, *(line for row in new for line in report.claim_lines(row)), sep="\n")
    failed = [c for row in new for c in row["claims"] if c["verdict"] == "FAIL"]
    missing = [row["case"] for row in new if row["missing"]] if asked.strict else []
    disturbed = sum(not row["calm"] for row in new)
    print(f"\n{len(failed)} floors missed" + (f"; peers missing in {', '.join(missing)}" if missing else ""))
    print(f"{disturbed} of {len(new)} rows were disturbed" + "; they say nothing" * bool(disturbed))
    return int(bool(failed or missing or disturbed > len(new) / 2))


if __name__ == "__main__":
    sys.exit(main())
