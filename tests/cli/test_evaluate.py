"""`edgedeploy eval`: one metric for PyTorch and every runtime, by the same code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch

from edgedeploy.models import create_model
from edgedeploy.models.state_file import Description, write_state
from tests.cli.conftest import Cli
from tests.support.training_runs import draw_faces, draw_fundus, draw_photographs, draw_signs, draw_streets

CASES = {
    "ddrnet_23_slim": ({"classes": 11}, draw_streets, "miou"),
    "tvconv_face_micro_base": ({}, draw_faces, "accuracy"),
    "tvconv_disc_cup_dw": ({"image_size": 64}, draw_fundus, "dice"),
    "dbnet_micro": ({}, draw_signs, "f_measure"),
}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(name, marks=pytest.mark.slow) if "disc_cup" in name or "ddrnet" in name else name
        for name in CASES
    ],
)
def test_pytorch_and_runtimes_agree(model: str, cli: Cli, tmp_path: Path) -> None:
    options, draw, metric = CASES[model]
    data = draw(tmp_path / "data")
    where = {"ddrnet_23_slim": data, "dbnet_micro": data / "signs"}.get(model, data)
    torch.manual_seed(0)
    write_state(tmp_path / "w.safetensors", create_model(model, **options).state_dict(), Description(options))
    onnx = tmp_path / "m.onnx"
    size = () if "tvconv" in model else ("--dynamic", "--size", "64x96")
    made = cli("export", model, "--weights", tmp_path / "w.safetensors", *size, "-o", onnx)
    assert made.code == 0, made.err
    outcome = cli(
        "eval", model, f"{onnx}@onnxruntime", f"{onnx}@openvino", "--weights", tmp_path / "w.safetensors",
        "--data", where, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = json.loads(outcome.out)
    assert [row["backend"] for row in rows] == ["pytorch", "onnxruntime", "openvino"]
    first, *others = (row["metrics"] for row in rows)
    assert metric in first
    for other in others:
        assert other.keys() == first.keys()
        for key, value in first.items():
            assert other[key] == pytest.approx(value, abs=5e-3, nan_ok=True), key


def test_bundled_weights_are_measured_by_name(cli: Cli, tmp_path: Path) -> None:
    data = draw_photographs(tmp_path) / "a"
    outcome = cli("eval", "espcn_x2", "--data", data, "--json")
    (row,) = json.loads(outcome.out)
    assert row["metrics"]["psnr_y"] > row["metrics"]["psnr_y_bicubic"]
    assert np.isfinite(row["metrics"]["psnr_y"])
    table = cli("eval", "espcn_x2", "--weights", "t91-bsd200", "--data", data)
    assert f"{row['metrics']['psnr_y']:.4f}" in table.out
    assert "next: edgedeploy export espcn_x2 --weights t91-bsd200" in table.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("espcn_x9",), "espcn_x9"),
        (("missing.onnx",), "missing.onnx"),
        (("missing.onnx@openvino",), "missing.onnx"),
        (("ddrnet_23_slim", "--weights", "nobodys"), "nobodys"),
        (("dbnet_resnet18",), "no weights of dbnet_resnet18"),
    ],
)
def test_what_is_not_there_is_named(words: tuple[str, ...], message: str, cli: Cli, tmp_path: Path) -> None:
    outcome = cli("eval", *words, "--data", tmp_path)
    assert outcome.code == 2
    assert message in outcome.err


def test_a_strangers_file_is_scored_by_the_task_that_the_user_names(cli: Cli, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 19]> g (float[1,3,h,w] x) => (float[1,1,h,w] y)
        <int64[1] axis = {1}> { m = ReduceMean(x, axis) y = Sigmoid(m) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    (tmp_path / "data").mkdir()
    words = ("eval", tmp_path / "net.onnx", "--data", draw_signs(tmp_path / "data") / "signs")
    told = cli(*words, "--task", "text-detection", "--size", "96x128", "--json")
    assert told.code == 0, told.err
    (row,) = json.loads(told.out)
    assert 0 <= row["metrics"]["f_measure"] <= 1
    assert row["precision"] == "fp32"
    headers = cli(*words, "--task", "text-detection", "--size", "96x128").out.splitlines()[1]
    assert headers.count("precision") == 1, "of the words, not of the numbers"
    assert cli(*words).code == 2
    alone = cli(*words, "--size", "96x128")
    assert alone.code == 2
    assert "--task" in alone.err


def test_weights_and_backends_that_fit_nothing_are_refused(cli: Cli, relu: Path) -> None:
    outcome = cli("eval", relu, "--weights", "camvid", "--data", relu.parent)
    assert outcome.code == 2
    assert "an artifact holds its own" in outcome.err
    outcome = cli("eval", f"{relu}@tensorflow", "--data", relu.parent)
    assert outcome.code == 2
    assert "tensorflow" in outcome.err
