"""The rows of a run as Markdown."""

from collections.abc import Iterator, Sequence
from typing import Any

Row = dict[str, Any]

HEADER = (
    "| case | threads | side | median | ratio to ours (quartiles) | × copy | error | peak memory | rounds |\n"
    "|---|--:|---|--:|--:|--:|--:|--:|--:|"
)
CLAIMS = (
    "| case | threads | claim | ratio (quartiles) | target | floor | verdict |\n"
    "|---|--:|---|--:|--:|--:|---|"
)  # fmt: skip


def in_units(value: float | None, units: Sequence[tuple[float, str]]) -> str:
    """`value` in the largest unit that it reaches, to three digits."""
    if value is None:
        return "–"
    size, unit = next(((s, u) for s, u in units if value >= s), units[-1])
    return f"{value / size:.3g} {unit}"


def as_time(value: float | None) -> str:
    """Seconds, as text."""
    return in_units(value, [(1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")])


def as_memory(value: float | None) -> str:
    """Bytes, as text."""
    return in_units(value, [(2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")])


def as_spread(ratio: Sequence[float]) -> str:
    """The median, with the quartiles."""
    low, middle, high = ratio
    return f"{middle:.2g}" if low == high else f"{middle:.2g} ({low:.2g}–{high:.2g})"


def lines_of(row: Row) -> Iterator[str]:
    """A line for each side."""
    copy = row["sides"].get("copy")
    note = (
        f"{row['rounds']}" + f", {row['dropped']} dropped" * bool(row["dropped"]) + ", never calm" * (not row["calm"])
    )
    for side, found in row["sides"].items():
        copies = f"{found['seconds'][1] / copy['seconds'][1]:.1f}" if copy else "–"
        error = "–" if found["error"] is None else f"{found['error']:.1g}"
        cells = [row["case"], str(row["threads"]), side, as_time(found["seconds"][1])]
        cells += [as_spread(found["ratio"]), copies, error, as_memory(found["memory"]), note]
        yield f"| {' | '.join(cells)} |"
    for side, why in row["missing"].items():
        yield f"| {row['case']} | {row['threads']} | {side} | not installed: {why} | | | | | |"


def claim_text(claim: dict[str, Any]) -> str:
    """What is claimed, in words."""
    side = {"ours": "pgtheory"}.get(claim["side"], claim["side"])
    if claim["against"] == "seconds":
        return f"{side}: at most {as_time(claim['target'])}"
    if claim["against"] == "memory":
        return f"{side}: at most {as_memory(claim['target'])}"
    return f"{side} against {claim['against']}"


def claim_lines(row: Row) -> Iterator[str]:
    """A line for each claim."""
    for claim in row["claims"]:
        low, middle, high = claim["ratio"] or [None] * 3
        ratio = "–" if middle is None else as_spread([low, middle, high])
        limit = claim["against"] in ("seconds", "memory")
        target = "1" if limit else f"{claim['target']:.2g}"
        cells = [row["case"], str(row["threads"]), claim_text(claim), ratio, target]
        cells += [f"{claim['floor']:.2g}" if claim["floor"] else "–", claim["verdict"]]
        yield f"| {' | '.join(cells)} |"
