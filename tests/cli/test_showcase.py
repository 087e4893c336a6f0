"""`edgedeploy demo MODEL`: a zoo model is deployed first, in what is fastest within the budget."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedeploy.backend import BACKENDS
from edgedeploy.cli.showcase import comparison
from edgedeploy.core.details import CandidateDetails, Details, GuardDetails
from edgedeploy.core.spec import Artifact, TaskSpec, TensorSpec
from edgedeploy.core.target import load_target
from tests.cli.conftest import Cli

av = pytest.importorskip("av", reason="PyAV is not installed")


@pytest.fixture
def clip(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(8):
            picture = cv2.resize(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8), (96, 64))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
    return path


def test_demo_ships_the_fastest_within_the_budget(clip: Path, tmp_path: Path, cli: Cli) -> None:
    sink = tmp_path / "made" / "demo.mp4"
    outcome = cli("demo", "espcn_x3", "--source", clip, "--sink", sink, "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    rows = {row["candidate"]: row for row in document["comparison"]}
    expected = {
        f"{precision} in {backend}"
        for backend in load_target("cpu").backends
        if not BACKENDS.get(backend).why_not()
        for precision in ("fp32", "int8")
    }
    assert expected <= set(rows)
    (shipped,) = [row for row in rows.values() if row["verdict"] == "ships"]
    exact = [float(row["PSNR-Y dB"]) for row in rows.values() if row["precision"] == "fp32"]
    assert float(shipped["PSNR-Y dB"]) >= max(exact) - 0.06, "the budget is 0.05 dB, and two are rounded"
    (made,) = sink.parent.glob("espcn_x3.*.onnx")
    artifact = Artifact.load(made)
    assert (artifact.precision, artifact.backend) == (shipped["precision"], shipped["runtime"])
    assert artifact.details.cpu == load_target("cpu").cpu_class
    assert document["demo"]["frames"] == 8


def test_the_table_has_figures_and_the_sentence_the_reason(clip: Path, tmp_path: Path, cli: Cli) -> None:
    outcome = cli("demo", "espcn_x3", "--source", clip, "--sink", tmp_path / "demo.mp4")
    assert outcome.code == 0, outcome.err
    assert "ships" in outcome.err
    for column in ("candidate", "p50 ms", "speed", "PSNR-Y dB"):
        assert column in outcome.out
    assert "verdict" not in outcome.out


@pytest.mark.parametrize(
    ("task", "channels", "scores", "expected"),
    [
        ("super-resolution", 1, {"psnr_y": 32.614, "psnr_y_bicubic": 30.4}, ["PSNR-Y dB", "bicubic dB"]),
        ("super-resolution", 1, {"sqnr": 50.0}, ["agreement"]),  # a clip that makes no labels
        ("tensor", 3, {"psnr_y": 32.6}, ["agreement"]),
    ],
)
def test_a_task_says_which_scores_a_comparison_shows(
    task: str, channels: int, scores: dict[str, float], expected: list[str]
) -> None:
    def spec(name: str, size: int) -> TensorSpec:
        return TensorSpec(name=name, dtype="float32", shape=(1, channels, size, size), layout="NCHW")

    all_scores = {"agreement": 0.99, **scores}
    exact = CandidateDetails(name="fp32", precision="fp32", milliseconds=10.0, scores=all_scores)
    int8 = CandidateDetails(name="int8", precision="int8", milliseconds=4.0, scores=all_scores)
    untimed = CandidateDetails(name="bf16", precision="bf16", scores=all_scores)
    artifact = Artifact(
        path=Path("m.onnx"),
        kind="onnx",
        model="m",
        inputs=(spec("x", 8),),
        outputs=(spec("y", 24 if task == "super-resolution" else 8),),
        task=TaskSpec(name=task, options={"scale": 3} if task == "super-resolution" else {}),
        details=Details(guard=GuardDetails(candidates=(exact, int8, untimed))),
    )
    rows = comparison(artifact)
    assert [row["speed"] for row in rows] == ["1.00x", "2.50x"], "a candidate without a time is left out"
    shown = [name for name in rows[0] if name in {"PSNR-Y dB", "bicubic dB", "agreement"}]
    assert shown == expected
