"""CONTRIBUTING.md is right: each recipe is followed in a copy of the package, and its tests are run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

KINDS = ("model", "graph pass", "calibrator", "lint rule", "task", "target", "backend")
FILE = re.compile(r"^\*\*([^*\n]+)\*\*\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^```sh\n(python -m pytest .+)\n```$", re.MULTILINE)


def recipe(kind: str) -> str:
    """The section of CONTRIBUTING.md for a kind of plug-in."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (section,) = re.findall(rf"^### An? {kind}\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
    return str(section)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its tests, without weights."""
    ignored = shutil.ignore_patterns("*.safetensors", "golden")
    for name in ("edgedeploy", "models", "export", "calibration", "tests", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def follow(section: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Write the files of a recipe below `folder` and run its command there."""
    for name, text in FILE.findall(section):
        path = folder / name
        if path.suffix == ".md":  # a row of a table: behind the last row of its kind
            rows = path.read_text().splitlines(keepends=True)
            place = max(i for i, row in enumerate(rows) if row[:5] == text[:5]) + 1
            path.write_text("".join([*rows[:place], text, *rows[place:]]))
        else:
            assert not path.exists()
            path.write_text(text)
    (command,) = COMMAND.findall(section)
    words = [*shlex.split(command)[1:], "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_that_is_followed_passes_its_first_tests(kind: str, copy: Path) -> None:
    run = follow(recipe(kind), copy)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert re.search(r"^\d+ passed", run.stdout.splitlines()[-1]), run.stdout[-500:]
    for name, _ in FILE.findall(recipe(kind)):
        if name.endswith(".py"):
            for check in (["check"], ["format", "--check"]):
                command = [sys.executable, "-m", "ruff", *check, "--no-cache", name]
                style = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
                assert style.returncode == 0, style.stdout


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ('name = "median-extremes"', 'name = "median-extreme"', "registers the calibrator 'median-extreme'"),
        ("@CALIBRATORS.register\n", "", "registers no calibrator"),
        ("Range(float(low), float(high))", "Range(float(low), 2 * float(high))", "failed"),
    ],
    ids=["a letter off", "not registered", "wrong formula"],
)
def test_a_wrong_recipe_is_found(right: str, wrong: str, message: str, copy: Path) -> None:
    section = recipe("calibrator")
    assert right in section
    run = follow(section.replace(right, wrong), copy)
    assert run.returncode != 0
    assert message in run.stdout
