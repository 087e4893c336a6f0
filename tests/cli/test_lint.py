"""`edgedeploy lint`: exit codes, JSON, repairs that are written, and what it says of wrong usage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgedeploy.calibration.lint import LINT
from edgedeploy.core.spec import Artifact
from tests.cli.conftest import Cli


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A convolution with an int32 bias between Q/DQ, as ONNX Runtime writes it."""
    monkeypatch.chdir(tmp_path)
    model = LINT.get("int32-bias").cases(np.random.default_rng(0)).bad[0]
    assert isinstance(model, onnx.ModelProto)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_findings_end_with_4_and_the_command_that_repairs(cli: Cli, stranger: Path) -> None:
    outcome = cli("lint", "model.onnx", "--for", "rtx-4090,openvino")
    assert outcome.code == 4
    assert "ED103" in outcome.out
    assert "1 errors" in outcome.err
    assert "edgedeploy lint model.onnx --for rtx-4090,openvino --fix" in outcome.err
    assert cli("lint", "model.onnx", "--for", "onnxruntime", "--only", "ED103").code == 0


def test_a_repaired_file_is_written_proved_and_clean(cli: Cli, stranger: Path) -> None:
    before = stranger.read_bytes()
    outcome = cli("lint", "model.onnx", "--for", "rtx-4090@tensorrt", "--fix", "-o", "out.onnx")
    assert outcome.code == 0, outcome.err
    assert stranger.read_bytes() == before
    step = Artifact.load("out.onnx").history[-1]
    assert (step.name, step.options["rules"]) == ("lint-fix", "ED103")
    assert "dB SQNR" in outcome.out
    assert "next:" in outcome.err
    assert cli("lint", "out.onnx", "--for", "rtx-4090").code == 0


def test_json_tells_all(cli: Cli, stranger: Path) -> None:
    document = json.loads(cli("lint", "model.onnx", "--for", "tensorrt", "--json").out)
    finding = document["findings"][0]
    assert (finding["id"], finding["severity"], finding["fixable"]) == ("ED103", "error", True)
    assert finding["node"]
    assert finding["why"]
    assert finding["remedy"]
    document = json.loads(cli("lint", "model.onnx", "--for", "tensorrt", "--fix", "--json").out)
    assert document["fixed"] == "model.fixed.onnx"
    assert [entry["id"] for entry in document["repairs"]] == ["ED103"]
    assert document["repairs"][0]["sqnr_db"] is None or document["repairs"][0]["sqnr_db"] > 80
    assert [entry["id"] for entry in document["left"] if entry["severity"] != "advice"] == []


def test_advice_alone_is_no_fault_and_is_taken_only_when_named(cli: Cli, stranger: Path) -> None:
    cli("lint", "model.onnx", "--for", "tensorrt", "--fix", "-o", "a.onnx")
    outcome = cli("lint", "a.onnx", "--for", "tensorrt")
    assert outcome.code == 0
    assert "ED301" in outcome.out
    cli("lint", "a.onnx", "--for", "tensorrt", "--fix", "--only", "edge-layers", "-o", "b.onnx")
    assert "QuantizeLinear" not in {node.op_type for node in onnx.load("b.onnx").graph.node}


def test_rules_are_listed_with_what_they_are_for(cli: Cli) -> None:
    assert "int32-bias" in cli("lint", "--rules").out
    entries = {entry["id"]: entry for entry in json.loads(cli("lint", "--rules", "--json").out)}
    assert len(entries) == len(LINT.names())
    assert "tensorrt" in entries["ED103"]["for"]
    assert "onnxruntime" not in entries["ED103"]["for"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("lint",), "--for"),
        (("lint", "model.onnx"), "--for"),
        (("lint", "model.onnx", "--for", "rtx-409"), "rtx-4090"),
        (("lint", "model.onnx", "--for", "rtx-4090@openvino"), "tensorrt-rtx"),
        (("lint", "model.onnx", "--for", "cpu", "--only", "ED999"), "--rules"),
        (("lint", "model.onnx", "--for", "cpu", "-o", "x.onnx"), "--fix"),
        (("lint", "absent.onnx", "--for", "cpu"), "absent.onnx"),
    ],
)
def test_wrong_usage_is_refused_with_a_hint(
    cli: Cli, stranger: Path, words: tuple[str, ...], says: str
) -> None:
    outcome = cli(*words)
    assert outcome.code == 2
    assert says in outcome.err
