"""Whatever is wrong with the input: one clear line, a hint, the right exit code, nothing half written."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedeploy.bench.report import REPORTS
from tests.support.commands import Cli, assert_refused


@pytest.mark.parametrize(
    ("words", "code", "says", "hint"),
    [
        (("build", "missing.onnx"), 2, "missing.onnx does not exist", ""),
        (("bench", "missing.onnx"), 2, "missing.onnx does not exist", "edgedeploy export"),
        (("demo", "missing.onnx", "--source", "clip.mp4"), 2, "missing.onnx does not exist", ""),
        (("export", "espcn_x5"), 2, "unknown model 'espcn_x5'", "espcn_x"),
        (("build", "espcn_x3", "--target", "rtx-4091"), 2, "unknown target 'rtx-4091'", "rtx-4090"),
        (("build", "espcn_x3", "--precision", "int8"), 2, "int8 needs calibration data", "--data"),
        (("quantize", "espcn_x3"), 2, "int8 needs calibration data", "--data"),
        (("quantize", "espcn_x3", "--data", "nowhere"), 2, "nowhere does not exist", "--data"),
        (
            ("build", "espcn_x3", "--target", "rtx-4090", "--precision", "bf16"),
            2,
            "does not run bf16",
            "fp16",
        ),
        (("export", "espcn_x3", "--size", "640"), 2, "'640' is not a size", "360x640"),
        (("export", "espcn_x3", "--set", "capture.hight=3"), 2, "capture.hight", "capture.height"),
        (("export", "espcn_x3", "--set", "capture.opset=9"), 2, "capture.opset", ""),
        (("export", "espcn_x3", "--weights", "imagenet"), 2, "imagenet", "t91"),
        (("export", "no_such_package:make"), 2, "no_such_package", ""),
        (("models", "resnet*"), 2, "resnet*", ""),
    ],
)
def test_refusals(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    code: int,
    says: str,
    hint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(cli(*words), code, says, hint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["build", "bench", "export"])
@pytest.mark.parametrize("keep", [0, 20, -3])
def test_truncated_models(cli: Cli, relu: Path, verb: str, keep: int) -> None:
    data = relu.read_bytes()
    relu.write_bytes(data[:keep] if keep else b"")
    outcome = cli(verb, relu)
    assert outcome.code == 2, outcome.err
    assert f"error: {relu}" in outcome.err
    assert "hint:" in outcome.err
    assert [path.name for path in relu.parent.iterdir()] == ["relu.onnx"]


def test_a_picture_is_no_model(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "cat.onnx"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert_refused(cli("bench", path), 2, "is not a whole ONNX file")


def test_a_pickle_is_never_opened(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    assert_refused(cli("export", path), 2, "pickle", ".pt2")
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_unwritable_output(cli: Cli, relu: Path) -> None:
    (relu.parent / "file").write_text("")
    assert_refused(
        cli("export", relu, "-o", relu.parent / "file" / "out.onnx"), 3, "cannot write", "another place"
    )
    assert_refused(cli("export", relu, "-o", relu.parent), 2, "is a folder", "-o")
    assert sorted(path.name for path in relu.parent.iterdir()) == ["file", "relu.onnx"]


def test_an_unknown_method_is_refused_before_the_work(cli: Cli, relu: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    outcome = cli("quantize", relu, "--data", tmp_path, "--method", "entrpy")
    assert_refused(outcome, 2, "unknown calibrator 'entrpy'", "entropy")
    assert "✓" not in outcome.err


def test_an_unknown_backend_is_named(cli: Cli, relu: Path) -> None:
    assert_refused(cli("bench", f"{relu}@openvno"), 2, "unknown backend 'openvno'", "openvino")
    assert_refused(cli("bench", "absent.onnx@openvno"), 2, "does not exist")


@pytest.mark.parametrize("verb", ["export", "build"])
def test_an_unwritable_output_is_refused_before_the_work(cli: Cli, relu: Path, verb: str) -> None:
    (relu.parent / "file").write_text("")
    outcome = cli(verb, relu, "-o", relu.parent / "file" / "out.onnx")
    assert_refused(outcome, 3, "cannot write", "another place")
    assert "✓" not in outcome.err


@pytest.mark.parametrize(
    ("name", "code", "says", "hint"),
    [("report.txt", 2, "no report file", ".md"), ("file/report.md", 3, "cannot write", "another place")],
)
def test_an_unwritable_report_is_refused_before_the_work(
    cli: Cli, relu: Path, name: str, code: int, says: str, hint: str
) -> None:
    (relu.parent / "file").write_text("")
    outcome = cli("bench", relu, "--runs", 2, "--report", relu.parent / name)
    assert_refused(outcome, code, says, hint)
    assert "✓" not in outcome.err


@pytest.mark.parametrize("suffix", REPORTS)
def test_every_report_that_is_let_through_can_be_written(cli: Cli, relu: Path, suffix: str) -> None:
    path = relu.with_suffix(suffix)
    assert cli("bench", f"{relu}@onnxruntime", "--runs", 2, "--report", path).code == 0
    assert path.stat().st_size > 0


def test_a_size_that_the_model_does_not_take(cli: Cli, relu: Path) -> None:
    outcome = cli("bench", relu, "--size", "9x9")
    assert_refused(outcome, 2, "cannot be [1, 3, 9, 9]", "--dynamic")


def test_no_camera(cli: Cli, relu: Path) -> None:
    outcome = cli("demo", relu, "--source", "63", "--sink", "null")
    assert outcome.code == 3, outcome.err
    assert "error:" in outcome.err
    assert "hint:" in outcome.err


def test_no_screen(cli: Cli, relu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    image = relu.with_name("image.png")
    cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))
    outcome = cli("demo", relu, "--source", image, "--sink", "window")
    assert outcome.code == 3, outcome.err
    assert "--sink" in outcome.err


def test_unknown_verbs_and_flags_are_usage_errors(cli: Cli) -> None:
    assert cli("biuld", "x").code == 2
    assert cli("build", "x.onnx", "--no-such-flag").code == 2
