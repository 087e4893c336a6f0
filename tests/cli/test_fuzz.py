"""Spoilt files: a slice of benchmarks/fuzz.py, and what it found before; each ends in one clear line."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper

from edgedeploy.core.installed import installed_version
from tests.conftest import ROOT
from tests.support.commands import Cli, assert_refused

CASES = 24


def test_a_slice_of_the_fuzz_has_no_traceback_no_hang_and_no_dead_process(tmp_path: Path) -> None:
    command = ["-m", "benchmarks.fuzz", "--cases", str(CASES), "--seed", "7", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, *command, "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{CASES} cases, 0 not fine" in done.stdout


def test_an_engine_without_its_sdk_names_what_to_install(cli: Cli, tmp_path: Path) -> None:
    engine, data = tmp_path / "m.engine", b"engine"
    engine.write_bytes(data)
    tensor = {"dtype": "float32", "layout": "NCHW", "shape": [1, 3, 8, 8]}
    document = {
        "schema": 1, "sha256": hashlib.sha256(data).hexdigest(), "kind": "engine", "model": "m",
        "precision": "fp16", "backend": "tensorrt", "target": "rtx-4090", "details": {},
        "inputs": [{**tensor, "name": "x"}], "outputs": [{**tensor, "name": "y"}],
    }  # fmt: skip
    (tmp_path / "m.engine.json").write_text(json.dumps(document))
    if installed_version("tensorrt"):
        pytest.skip("tensorrt is installed")
    assert_refused(cli("bench", engine), 3, "tensorrt", "pip install")


def test_a_quantized_file_is_not_quantized_again(cli: Cli, tmp_path: Path, relu: Path) -> None:
    model = onnx.load(relu)
    constants = [helper.make_tensor("s", 1, [], [0.1]), helper.make_tensor("z", 2, [], [3])]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", model.graph.input, model.graph.output, constants)
    path = tmp_path / "int8.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)
    outcome = cli("quantize", path, "--random-data", "2", "-o", tmp_path / "o.onnx")
    assert_refused(outcome, 2, "is int8 already", "edgedeploy build")


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 20_000])
def test_values_of_edits_that_json_cannot_hold(cli: Cli, tmp_path: Path, relu: Path, value: str) -> None:
    out = tmp_path / "o.onnx"
    outcome = cli("quantize", relu, "--random-data", "2", "--set", f"calibration.limit={value}", "-o", out)
    assert_refused(outcome, 2, "calibration.limit")


def test_an_opset_of_thousands_of_millions_is_damage(cli: Cli, relu: Path) -> None:
    model = onnx.load(relu)
    model.opset_import[0].version = 2**31 - 1
    onnx.save(model, relu)
    assert_refused(cli("bench", relu, "--runs", "1"), 2, "opset 2147483647")
