"""Calibration as a user meets it: what the data and the activations are like is said, nothing runs twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx.parser
import pytest

from edgedeploy.calibration.collect.probe import Probe
from edgedeploy.cli.console import parse_bytes
from edgedeploy.core.errors import UsageError
from edgedeploy.core.spec import Artifact
from tests.cli.conftest import Cli
from tests.support.commands import assert_refused
from tests.support.onnx_models import save_wide

SIZE = 32


@pytest.fixture
def desk(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with net.onnx and photos of several sizes and kinds."""
    save_wide(tmp_path / "net.onnx")
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(10):
        shape = (24 + 3 * index, 37, 3)
        cv2.imwrite(str(photos / f"{index}.png"), rng.integers(0, 256, shape, dtype=np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def images_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every time that a network was run for statistics."""
    made: list[int] = []
    run = Probe.run

    def counting(self: Probe, feeds: Any) -> Any:
        made.append(1)
        return run(self, feeds)

    monkeypatch.setattr(Probe, "run", counting)
    return made


@pytest.mark.parametrize(
    ("text", "size"),
    [("512M", 512 << 20), ("1G", 1 << 30), ("1.5g", 3 << 29), ("2 GiB", 2 << 30), ("100mb", 100 << 20)],
)
def test_amounts_of_memory(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "1", "G", "-1G", "1X", "1e9", "1G2", "nan"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bytes(text)
    assert "512M" in caught.value.hint


def test_bad_options_are_refused_before_any_work(cli: Cli, desk: Path) -> None:
    words = ("quantize", "net.onnx", "--data", "photos")
    assert_refused(cli(*words, "--mem", "much"), 2, "'much' is not an amount of memory", "512M")
    assert_refused(cli(*words, "--mem", "1M"), 2, "--mem 1M is too little", "16M")
    assert_refused(cli(*words, "--random-data", "4"), 2, "there is data, and random data too")
    assert sorted(path.name for path in desk.iterdir()) == ["net.onnx", "photos"]


def test_what_the_data_is_like_is_told(cli: Cli, desk: Path) -> None:
    (desk / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (desk / "photos" / "copy.png").write_bytes((desk / "photos" / "3.png").read_bytes())
    cv2.imwrite(str(desk / "photos" / "gray.png"), np.arange(1200, dtype=np.uint8).reshape(30, 40))
    outcome = cli("quantize", "net.onnx", "--data", "photos", "--mem", "256M")
    assert outcome.code == 0, outcome.err
    for line in (
        "1 files skipped, the first broken.jpg: not a whole image",
        "1 of 12 calibration inputs are duplicates",
        "1 grayscale (repeated to RGB)",
        "images of 11 different sizes",
    ):
        assert line in outcome.err
    data = Artifact.load("net.int8.onnx").details.calibration.data
    assert (data["used"], data["skipped_files"]) == (12, 1)


@pytest.mark.parametrize(
    ("middle", "line"),
    [
        ("Log(a)", "has NaN or infinite values"),
        ("Sub(a, a)", "'b' is constant (0) over all calibration data"),
    ],
)
def test_nan_and_constant_activations_are_told_and_the_file_works(
    middle: str, line: str, cli: Cli, desk: Path
) -> None:
    save_wide(desk / "odd.onnx", middle)
    outcome = cli("quantize", "odd.onnx", "--data", "photos")
    assert outcome.code == 0, outcome.err
    assert line in outcome.err
    problems = Artifact.load("odd.int8.onnx").details.calibration.problems
    assert any(line in problem for problem in problems)
    onnx.checker.check_model("odd.int8.onnx", full_check=True)


def test_random_data_is_recorded_and_warned_of_ever_after(cli: Cli, desk: Path) -> None:
    outcome = cli("quantize", "net.onnx", "--random-data", "3")
    assert outcome.code == 0, outcome.err
    warning = "INT8 ranges from random data"
    assert warning in outcome.err
    artifact = Artifact.load("net.int8.onnx")
    assert artifact.details.calibration.random is True
    assert artifact.history[-1].options["data"] == "random data"
    assert artifact.history[-1].options["inputs"] == 3
    built = cli("build", "net.int8.onnx", "-o", "net.cpu.onnx")
    assert built.code == 0, built.err
    bench = cli("bench", "net.cpu.onnx", "--runs", "2", "--report", "report.md")
    assert warning in bench.err
    assert warning in Path("report.md").read_text()
    again = cli("bench", "net.cpu.onnx", "--runs", "2", "--json")
    assert warning in json.loads(again.out)["results"][0]["note"]
    honest = cli("quantize", "net.onnx", "--data", "photos", "-o", "honest.onnx")
    assert warning not in honest.err
    assert warning not in cli("bench", "honest.onnx", "--runs", "2").err


def test_another_method_does_not_run_the_network_again(cli: Cli, desk: Path, images_run: list[int]) -> None:
    # Rounding by outputs looks at each quantized form anew.
    edits = ("--set", 'calibration.corrections=["equalize"]')
    words = ("quantize", "net.onnx", "--data", "photos", *edits, "--method")
    assert cli(*words, "entropy").code == 0
    made = len(images_run)
    assert made >= 10
    scales = set()
    for method in ("mse", "percentile", "minmax", "moving-average"):
        assert cli(*words, method).code == 0
        model = onnx.load("net.int8.onnx")
        scales.add(tuple(float(onnx.numpy_helper.to_array(i).sum()) for i in model.graph.initializer))
    assert len(images_run) == made
    assert len(scales) > 2


def test_ctrl_c_leaves_nothing_half_done_and_the_same_command_goes_on(
    cli: Cli, desk: Path, images_run: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("quantize", "net.onnx", "--data", "photos", "--set", "calibration.corrections=[]")
    run = Probe.run

    def interrupted(self: Probe, feeds: Any) -> Any:
        if len(images_run) == 4:
            raise KeyboardInterrupt
        return run(self, feeds)

    monkeypatch.setattr(Probe, "run", interrupted)
    outcome = cli(*words)
    assert outcome.code not in {0, 2}
    assert "Traceback" not in outcome.err
    assert sorted(path.name for path in desk.iterdir()) == ["net.onnx", "photos"]
    monkeypatch.setattr(Probe, "run", run)
    assert cli(*words).code == 0
    assert len(images_run) == 10
    first = Path("net.int8.onnx").read_bytes()
    assert first
