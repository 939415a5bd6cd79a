"""Check the proofs of this folder by machine: compile them, list the axioms under each theorem, run the second checker.

Needs Coq and Coquelicot, and nothing else: `python proof/check.py`. What it builds goes to _build/proof.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "_build" / "proof"
LIBRARY = "PolicyGradient"
# In the order in which they are read, and compiled.
STEMS = re.findall(r"^(\w+)\.v$", (HERE / "_CoqProject").read_text(encoding="utf-8"), flags=re.M)
INSTALL = "on Debian and Ubuntu: apt install coq libcoq-coquelicot"

# The axioms of the classical real numbers, and no other, may stand under a theorem.
ALLOWED = {
    "ClassicalDedekindReals.sig_not_dec",
    "ClassicalDedekindReals.sig_forall_dec",
    "FunctionalExtensionality.functional_extensionality_dep",
    "Classical_Prop.classic",
}
QUIET = ["-q", "-w", "-notation-overridden,-ambiguous-paths,-parsing"]


class ProofError(Exception):
    """Coq is missing, or does not accept something."""


@dataclass(frozen=True)
class Sentence:
    """One command of Coq, or one comment: `kind` is "comment", "text" (a comment for readers) or "code"."""

    kind: str
    text: str


def sentences(source: str) -> list[Sentence]:
    """Split a source into its comments and its commands; a command ends with a full stop before white space."""
    found: list[Sentence] = []
    start, position = 0, 0
    while position < len(source):
        if source.startswith("(*", position):
            depth, end = 1, position + 2
            while depth:
                opened, closed = source.find("(*", end), source.find("*)", end)
                depth, end = (depth + 1, opened + 2) if 0 <= opened < closed else (depth - 1, closed + 2)
            if not source[start:position].strip():
                kind = "text" if source.startswith("(**", position) else "comment"
                found.append(Sentence(kind, source[position:end]))
                start = end
            position = end
        elif source[position] == '"':
            position = source.index('"', position + 1) + 1
        elif re.match(r"\.(?:\s|$)", source[position : position + 2]):
            found.append(Sentence("code", source[start : position + 1].strip()))
            position += 1
            start = position
        else:
            position += 1
    return found


def name_of(statement: str) -> str | None:
    """What a command states or defines."""
    match = re.match(r"(?:Lemma|Theorem|Corollary|Definition|Fixpoint|Record)\s+([\w']+)", statement)
    return match and match[1]


def theorems() -> list[str]:
    """The names of all theorems, with their files."""
    sources = [(stem, (HERE / f"{stem}.v").read_text(encoding="utf-8")) for stem in STEMS]
    found = [(stem, re.findall(r"^(?:Theorem|Corollary) ([\w']+)", source, flags=re.M)) for stem, source in sources]
    return [f"{stem}.{name}" for stem, names in found for name in names]


def available() -> bool:
    """Whether Coq is installed."""
    return shutil.which("coqc") is not None


def run(*command: str, cwd: Path = BUILD) -> tuple[str, str]:
    """What a program prints, and what it remarks; `ProofError` with both where it fails."""
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, encoding="utf-8", check=False)
    if result.returncode:
        raise ProofError(f"{command[0]} does not accept it:\n{result.stdout}{result.stderr}")
    return result.stdout, result.stderr


def coqc(path: Path) -> str:
    """Compile one file in the build folder; what it prints."""
    return run("coqc", *QUIET, "-Q", ".", LIBRARY, path.name, cwd=path.parent)[0]


def compile_all() -> list[str]:
    """Compile each file that is new, or that stands after one that is; their stems."""
    if not available():
        raise ProofError(f"coqc was not found; {INSTALL}")
    BUILD.mkdir(parents=True, exist_ok=True)
    compiled: list[str] = []
    for stem in STEMS:
        source, copy = HERE / f"{stem}.v", BUILD / f"{stem}.v"
        same = copy.exists() and copy.read_bytes() == source.read_bytes() and copy.with_suffix(".vo").exists()
        if compiled or not same:
            copy.with_suffix(".vo").unlink(missing_ok=True)
            shutil.copyfile(source, copy)
            coqc(copy)
            compiled.append(stem)
    return compiled


def axioms_in(printed: str) -> set[str]:
    """The axioms that `Print Assumptions` names."""
    return set(re.findall(r"^([A-Za-z_][\w.']*)\s*(?::|$)", printed, flags=re.M)) - {"Axioms", "Closed"}


def assumptions(names: list[str]) -> set[str]:
    """The axioms under the named theorems, by `Print Assumptions`; they are bundled, since each call takes a second."""
    path = BUILD / "assumptions.v"
    bundle = ", ".join(f"@{LIBRARY}.{name}" for name in names)
    path.write_text(
        f"From {LIBRARY} Require {' '.join(STEMS)}.\nDefinition bundle := ({bundle}).\nPrint Assumptions bundle.\n",
        encoding="utf-8",
    )
    return axioms_in(coqc(path))


def axioms_in_summary(summary: str) -> set[str]:
    """The axioms that `coqchk -o` names, if it names nothing that would be worse than an axiom."""
    axioms = re.search(r"\* Axioms:(.*?)\n\s*\n", summary, flags=re.S)
    worse = re.findall(r"^\* (?!Axioms|Theory)[^\n]*:(?! <none>)", summary, flags=re.M)
    if axioms is None or worse:
        raise ProofError(f"coqchk finds something unsafe:\n{summary}")
    return {".".join(name.split(".")[-2:]) for name in axioms[1].split()}


def coqchk() -> set[str]:
    """Run the second checker, which shares no elaboration with the first; the axioms of all that is loaded."""
    _, summary = run("coqchk", "-silent", "-o", "-Q", ".", LIBRARY, f"{LIBRARY}.{STEMS[-1]}")
    return axioms_in_summary(summary)


def main() -> int:
    """Compile, list the axioms, run the second checker."""
    started = time.monotonic()
    try:
        compile_all()
        names = theorems()
        under = assumptions(names) | coqchk()
    except ProofError as error:
        print(f"make: {error}", file=sys.stderr)
        return 1
    if under != ALLOWED:
        print(f"make: the proofs should stand on {sorted(ALLOWED)}, and stand on {sorted(under)}", file=sys.stderr)
        return 1
    print(f"{len(names)} theorems in {len(STEMS)} files, checked twice in {time.monotonic() - started:.0f} s; axioms:")
    print("\n".join(f"  {axiom}" for axiom in sorted(under)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
