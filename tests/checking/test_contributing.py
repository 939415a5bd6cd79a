"""What CONTRIBUTING.md says of a new mistake and a new check is followed to the letter, in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
MISTAKE, CHECK = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.S)

ASKED = """
from pgtheory.checking import check_returns, check_total, mistakes
print(check_returns(lambda rewards, gamma: [sum(r * gamma**k for k, r in enumerate(rewards[t:])) / 2
                                            for t in range(len(rewards))]).diagnosis)
print(check_total(lambda r: sum(r)).verdict, check_total(lambda r: sum(r) / len(r)).diagnosis)
print([m.key for m in mistakes() if m.key == "returns.halved" or m.check == "total"])
"""


def test_a_mistake_is_one_entry_and_a_check_one_file(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "pgtheory", tmp_path / "pgtheory", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "checking", tmp_path / "tests" / "checking")
    kinds = tmp_path / "pgtheory" / "checking" / "kinds"
    returns = (kinds / "returns.py").read_text(encoding="utf-8")
    assert returns.count("\nMISTAKES = (\n") == 1
    (kinds / "returns.py").write_text(
        returns.replace("\nMISTAKES = (\n", "\nMISTAKES = (\n" + textwrap.indent(f"{MISTAKE.rstrip()},\n", "    ")),
        encoding="utf-8",
    )
    (kinds / "total.py").write_text(CHECK, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.fspath(tmp_path)}

    def run(*arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    halved, total, catalogue = run("-c", ASKED).splitlines()
    assert halved == "half of the return"
    assert total == "right the mean"
    assert catalogue == "['returns.halved', 'total.last', 'total.mean']" or "returns.halved" in catalogue
    chosen = "total and not in_order or halved or any_two_mistakes and returns"
    found = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/checking/test_every_check.py", "-k", chosen)
    assert re.search(r"\d+ passed", found)
    assert int(re.findall(r"(\d+) passed", found)[0]) >= 10
