"""Exit with one clear line if this environment is not the one that constraints.txt and pyproject.toml describe."""

import re
import sys
from importlib import metadata
from pathlib import Path

REPAIR = "run: make distclean && make book"
EXTRAS = ("book", "test", "chapters", "fast", "gymnasium", "plotting")


def canonical(name: str) -> str:
    """The name of a distribution as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def faults(root: Path) -> list[str]:
    """What is missing or of another version than the lock says."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    locked = {canonical(name): version for name, _, version in (line.partition("==") for line in lines) if version}
    installed = {canonical(d.name): d.version for d in metadata.distributions()}
    wanted = {
        canonical(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
        for requirement in metadata.requires("pgtheory") or []
        if "extra ==" not in requirement or any(f'extra == "{extra}"' in requirement for extra in EXTRAS)
    }
    missing = [f"{name} is not installed" for name in sorted(wanted - installed.keys())]
    stale = [
        f"{name} is {installed[name]}, constraints.txt says {locked[name]}"
        for name in sorted(installed.keys() & locked.keys())
        if installed[name].partition("+")[0] != locked[name]
    ]
    return missing + stale


def main() -> int:
    """Say what is wrong, if anything is."""
    try:
        found = faults(Path(__file__).resolve().parent.parent)
    except metadata.PackageNotFoundError:
        found = ["pgtheory itself is not installed"]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        print(f"make: the environment in .venv is damaged: {found[0]}{more}; {REPAIR}", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
