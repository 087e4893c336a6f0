"""`edgedeploy sensitivity` and the report of `build --precision auto`, as commands."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from edgedeploy.backend import BACKENDS
from tests.cli.conftest import Cli
from tests.support.qdq_nets import Net

pytestmark = pytest.mark.skipif(bool(BACKENDS.get("openvino").why_not()), reason="needs openvino")


@pytest.fixture
def desk(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network of three convolutions and a folder of pictures."""
    net = Net(1, 3, 32, 32)
    b = net.conv("b", net.op("Relu", "r", net.conv("a", "x", 3, 16)), 16, 16)
    net.conv("c", net.op("Relu", "s", b), 16, 16)
    model = net.model("c")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "photos").mkdir()
    for index in range(8):
        picture = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / f"{index}.png"), picture)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_table_files_and_plot(cli: Cli, desk: Path) -> None:
    pytest.importorskip("matplotlib")
    outs = [word for name in ("s.csv", "s.json", "s.png") for word in ("-o", name)]
    words = ("--data", "photos", "--images", "2", "--budget", "sqnr>=60", *outs)
    outcome = cli("sensitivity", "m.onnx", *words)
    assert outcome.code == 0, outcome.err
    assert "measured here" in outcome.out
    document = json.loads((desk / "s.json").read_text())
    names = [layer["name"] for layer in document["layers"]]
    assert names == ["a", "b"], "the last layer is in float anyway"
    assert "c" in document["excluded"]
    assert document["kept_float"], "60 dB cannot be had with all layers in INT8"
    with (desk / "s.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == names
    assert cv2.imread(str(desk / "s.png")).shape[0] > 100


def test_the_mix_that_it_proposes_is_a_command(cli: Cli, desk: Path) -> None:
    given = ("--limit", "6", "--set", "calibration.method=minmax")
    words = ("sensitivity", "m.onnx", "--data", "photos", "--images", "2", *given)
    all_int8 = json.loads(cli(*words, "--json").out)["output_db"]
    budget = f"sqnr>={all_int8 + 0.5:.1f}"
    outcome = cli(*words, "--budget", budget)
    mixed, chosen = (shlex.split(line[6:]) for line in outcome.err.splitlines() if line.startswith("next: "))
    for command in (mixed, chosen):
        assert " ".join(given) in " ".join(command)
    assert cli(*mixed[1:], "-o", "mixed.onnx").code == 0
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load("mixed.onnx").graph.node)
    assert chosen[-4:] == ["--precision", "auto", "--budget", budget]


def test_a_device_that_is_not_here_is_estimated(cli: Cli, desk: Path) -> None:
    words = ("--data", "photos", "--images", "1", "--target", "jetson-orin-nano-super", "--json")
    outcome = cli("sensitivity", "m.onnx", *words)
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document["savings_are"].startswith("estimated: roofline")
    assert all(layer["saved_ms"] is not None for layer in document["layers"])


def test_what_it_proposes_can_be_built(cli: Cli, desk: Path) -> None:
    keep = 'calibration.keep_float=["b"]'
    assert cli("quantize", "m.onnx", "--data", "photos", "--set", keep, "-o", "q.onnx").code == 0
    weights = {n.name: n.input[1] for n in onnx.load("q.onnx").graph.node if n.op_type == "Conv"}
    assert weights["b"] == "b_w"
    assert weights["a"] != "a_w"
    wrong = cli("quantize", "m.onnx", "--data", "photos", "--set", 'calibration.keep_float=["bb"]')
    assert wrong.code == 2


def test_words_that_do_not_fit(cli: Cli, desk: Path) -> None:
    assert cli("sensitivity", "m.onnx").code == 2
    assert cli("sensitivity", "m.onnx", "--data", "photos", "-o", "s.txt").code == 2
    assert cli("sensitivity", "m.onnx", "--data", "photos", "--budget", "miou>=-1").code == 2
    assert cli("build", "m.onnx", "--data", "photos", "--report", "r.md").code == 2
    assert cli("build", "m.onnx", "--data", "photos", "--precision", "auto", "--report", "r.pdf").code == 2
    assert cli("build", "m.onnx", "--precision", "auto").code == 2


def test_reports_of_auto(cli: Cli, desk: Path) -> None:
    words = ("--precision", "auto", "--data", "photos", "--set", "guard.seconds=0.1", "--budget", "sqnr>=20")
    for kind in ("md", "html", "json"):
        outcome = cli("build", "m.onnx", *words, "--report", f"r.{kind}", "-o", f"{kind}.onnx")
        assert outcome.code == 0, outcome.err
        assert "ships" in outcome.err
        text = (desk / f"r.{kind}").read_text()
        assert "fp32 in onnxruntime" in text
        assert "sqnr>=20" in text or "sqnr&gt;=20" in text
    late = cli("build", "m.onnx", *words[:-1], "p50<0.00001ms", "-o", "late.onnx")
    assert late.code == 4
    assert "came closest" in late.err
    assert not (desk / "late.onnx").exists()
