"""The example of a project whose formulas are checked: its tests, and its line in a shell."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[1] / "examples" / "checked"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PROJECT, tmp_path / "checked", ignore=shutil.ignore_patterns("__pycache__")))


def run(project: Path, *command: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-m", *command], cwd=project, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def commands(project: Path) -> list[list[str]]:
    """What the workflow of the project runs with its Python."""
    workflow = yaml.safe_load((project / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    lines = [step["run"].split() for step in workflow["jobs"]["formulas"]["steps"] if "run" in step]
    return [line[2:] for line in lines if line[:2] == ["python", "-m"]]


def test_the_workflow_of_the_project_passes(project: Path) -> None:
    (tests, shell) = commands(project)
    status, said = run(project, *tests, "-q")
    assert status == 0, said
    assert "1 xfailed" in said
    status, said = run(project, *shell)
    assert status == 0, said
    assert "check_top_p: right" in said


def test_a_mistake_in_the_project_fails_under_its_name_in_both(project: Path) -> None:
    code = (project / "mine.py").read_text(encoding="utf-8")
    broken = code.replace("lam * goes_on[t] * carry", "lam * carry")
    assert broken != code
    (project / "mine.py").write_text(broken, encoding="utf-8")
    (tests, shell) = commands(project)
    status, said = run(project, *tests, "-q", "-k", "advantages")
    assert status == 1
    assert "FAILED test_mine.py::test_formulas[run_advantages-advantages.sum_not_cut_at_termination]" in said, said
    assert "1 failed" in said
    status, said = run(project, *shell)
    assert status == 1
    assert "check_advantages: WRONG, a known mistake" in said
