"""What a command tells to type next can be typed."""

from __future__ import annotations

import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedeploy.cli.build_report import next_step
from edgedeploy.core.details import ConsideredBackend, Details
from edgedeploy.core.spec import Artifact, TaskSpec
from tests.cli.conftest import Cli, Outcome


def suggested(outcome: Outcome) -> list[list[str]]:
    """The words of each `next:` line."""
    assert outcome.code == 0, outcome.err
    lines = [line.partition("next: ")[2] for line in outcome.err.splitlines() if line.startswith("next: ")]
    return [shlex.split(line) for line in lines]


def with_task(path: Path, task: str, out: Path) -> Path:
    return Artifact.load(path).saved_at(out, task=TaskSpec(name=task)).path


def test_paths_are_quoted(cli: Cli, relu: Path) -> None:
    out = relu.with_name("my model.onnx")
    assert suggested(cli("export", relu, "-o", out)) == [
        ["edgedeploy", "build", str(out), "--target", "cpu"],
        ["edgedeploy", "quantize", str(out), "--data", "PHOTOS"],
    ]
    built = relu.with_name("built one.onnx")
    assert suggested(cli("build", out, "-o", built)) == [["edgedeploy", "bench", str(built)]]


@pytest.mark.parametrize(("task", "verb"), [("classification", "eval"), ("tensor", "demo")])
def test_bench_tells_what_the_task_can_do(cli: Cli, relu: Path, task: str, verb: str) -> None:
    path = with_task(relu, task, relu.with_name("labeled.onnx"))
    words = suggested(cli("bench", f"{path}@onnxruntime", "--runs", 2))[0]
    assert words[:3] == ["edgedeploy", verb, str(path)]


def test_demo_does_not_suggest_itself(cli: Cli, relu: Path) -> None:
    image = relu.with_name("an image.png")
    cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))
    words = ("demo", relu, "--source", image, "--sink", "null")
    first, bench = suggested(cli(*words))
    assert str(image) in first
    assert first[-1] == "side-by-side"
    assert suggested(cli(*first[1:])) == [bench]


def test_an_engine_for_elsewhere_is_to_be_copied(tmp_path: Path) -> None:
    entry = ConsideredBackend(backend="tensorrt", status="ships", verdict="kept, not measured: no GPU here")
    details = Details(considered=(entry,))
    path = tmp_path / "a b.engine"
    artifact = Artifact(path=path, kind="engine", model="m", inputs=(), outputs=(), details=details)
    assert next_step(artifact) == (
        f"copy '{path}' and '{path}.json' to the device, then: edgedeploy bench 'a b.engine'"
    )
