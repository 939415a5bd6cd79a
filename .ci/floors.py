"""Print the oldest versions that pyproject.toml admits, as a constraints file: what `make test-oldest` installs."""

import re
import tomllib
from itertools import chain
from pathlib import Path

FLOOR = re.compile(r"([\w.-]+)(?:\[.*\])?>=([\w.]+)")


def floors(root: Path) -> dict[str, str]:
    """Of each requirement with a floor, in any extra: its name and that version."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = chain(project["dependencies"], *project["optional-dependencies"].values())
    return dict(match.groups() for match in map(FLOOR.match, requirements) if match)


if __name__ == "__main__":
    for name, version in sorted(floors(Path(__file__).resolve().parent.parent).items()):
        print(f"{name}=={version}")
