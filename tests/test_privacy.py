"""No library that edgedeploy imports reports to its maker, in this process or in a child."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

RUN = """
import sys
if sys.argv[1] == "edgedeploy":
    import edgedeploy
import numpy as np, onnxruntime
from onnx import helper
value = [helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
session.run(None, {"x": np.ones(1, np.float32)})
"""


def files_after(home: Path, *arguments: str, code: str = RUN) -> list[str]:
    """Files that a process of its own leaves in a fresh home folder."""
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True, timeout=120)
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def test_onnx_runtime_leaves_no_device_id_once_edgedeploy_is_imported(tmp_path: Path) -> None:
    assert files_after(tmp_path / "with", "edgedeploy") == []


def test_a_child_process_inherits_that(tmp_path: Path) -> None:
    command = f"[sys.executable, '-c', {RUN!r}, 'plain']"
    child = f"import edgedeploy, subprocess, sys; subprocess.run({command}, check=True)"
    assert files_after(tmp_path / "home", code=child) == []


def test_the_files_would_be_seen(tmp_path: Path) -> None:
    if not files_after(tmp_path / "without", "plain"):
        pytest.skip("this build of ONNX Runtime keeps no device id")
