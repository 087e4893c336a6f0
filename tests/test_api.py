"""The Python API: its documented examples run, and its names are both functions and packages."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import edgedeploy
from edgedeploy import api
from edgedeploy.cli.app import app
from edgedeploy.core.errors import EdgeDeployError
from tests.conftest import ROOT

VERBS = ("bench", "build", "evaluate", "export", "lint", "load", "optimize", "quantize")
# Options of the command line that print, or that the API takes in another form.
PRINTING = {"json", "edits", "rules", "mem", "explain", "report"}
RENAMED = {"no_verify": "verify", "repair": "fix"}


def test_the_examples_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    (tmp_path / "photos").mkdir()
    for index in range(8):
        picture = cv2.resize(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8), (480, 270))
        cv2.imwrite(str(tmp_path / "photos" / f"{index}.png"), picture)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEDEPLOY_CACHE", str(tmp_path / "cache"))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.DOTALL)
    assert len(blocks) >= 5
    space: dict[str, Any] = {}
    for block in blocks:
        exec(block, space)  # noqa: S102  the project's own page
    assert space["quantized"].precision == "int8"
    assert space["built"].target == "cpu"
    assert space["scores"][0].metrics
    assert [len(value.shape) for value in space["outputs"].values()] == [4]


def test_every_name_is_exported_and_typed() -> None:
    assert {*VERBS, "__version__"} == set(edgedeploy.__all__)
    for name in VERBS:
        function = getattr(api, name)
        assert function.__doc__
        assert all(p.annotation is not inspect.Parameter.empty for p in signature(name).values())


def signature(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(api, name)).parameters)


@pytest.mark.parametrize("verb", [name for name in VERBS if name != "load"])
def test_a_function_has_the_options_of_its_verb(verb: str) -> None:
    named = {"evaluate": "eval"}.get(verb, verb)
    (command,) = [entry.callback for entry in app.registered_commands if entry.name == named]
    assert command is not None
    options = set(inspect.signature(command).parameters) - PRINTING
    assert {RENAMED.get(name, name) for name in options} <= set(signature(verb))


@pytest.mark.parametrize("name", ["export", "bench"])
@pytest.mark.parametrize("first", ["call", "import"])
def test_a_package_with_the_name_of_a_verb_can_be_called(name: str, first: str, tmp_path: Path) -> None:
    inner = {"export": "edgedeploy.export.graph_pass", "bench": "edgedeploy.bench.budget"}[name]
    words = {"export": "'no.such.onnx'", "bench": "['no.such.onnx'], runs=1"}[name]
    call = f"""
try:
    edgedeploy.{name}({words})
except edgedeploy.core.errors.EdgeDeployError as error:
    print("refused:", error)
"""
    load = f"import {inner}\nprint({inner}.__name__)\n"
    code = "import edgedeploy\nimport edgedeploy.core.errors\n"
    code += call + load + call if first == "call" else load + call
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert inner in done.stdout
    assert done.stdout.count("refused: no.such.onnx does not exist") == (2 if first == "call" else 1)


def test_a_missing_file_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(EdgeDeployError) as caught:
        api.build(tmp_path / "none.onnx")
    assert caught.value.hint
