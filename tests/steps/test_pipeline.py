"""The whole way on small models: every step an artifact, made once, and nothing half done."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx.parser
import pytest

from edgedeploy.core.cache import Cache
from edgedeploy.core.errors import ArtifactError, CalibrationError, UsageError
from edgedeploy.core.job import Job
from edgedeploy.core.parity import difference
from edgedeploy.core.recipe import Recipe
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import load_target
from edgedeploy.pipeline import STEPS, deliver, run
from tests.support.deployments import Listener, deploy


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(8):
        noise = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = cv2.resize(noise, (32, 24), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    return folder


@pytest.fixture
def network(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Conv, BatchNormalization, Relu and three more Conv on a 3x24x32 image, from somebody else."""
    text = """
    <ir_version: 8, opset_import: ["" : 19]>
    net (float[1,3,24,32] image) => (float[1,16,24,32] y) {
      a = Conv<pads=[1,1,1,1]>(image, w)
      b = BatchNormalization(a, scale, shift, mean, var)
      c = Relu(b)
      d = Conv<pads=[1,1,1,1]>(c, v)
      e = Relu(d)
      f = Conv<pads=[1,1,1,1]>(e, v)
      g = Relu(f)
      y = Conv<pads=[1,1,1,1]>(g, v)
    }"""
    model = onnx.parser.parse_model(text)
    values = {
        "w": rng.standard_normal((16, 3, 3, 3)) / 5,
        "v": rng.standard_normal((16, 16, 3, 3)) / 12,
        "scale": 1 + 0.1 * rng.standard_normal(16),
        "shift": 0.1 * rng.standard_normal(16),
        "mean": 0.1 * rng.standard_normal(16),
        "var": 1 + 0.1 * rng.random(16),
    }
    for name, value in values.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    return path


def outputs(artifact: Artifact, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from edgedeploy.runtime.select import open_artifact

    with open_artifact(artifact) as session:
        return {name: value.copy() for name, value in session(feeds).items()}


def test_every_step_leaves_its_mark_and_the_result_is_right(
    network: Path, photos: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    before = Artifact.load(network)
    built, _ = deploy(network, tmp_path / "cache", "precision=int8", data=photos)
    names = [step.name for step in built.history]
    assert names[0] == "adopt"
    assert names[-2:] == ["quantize", "build"]
    assert "fold-batchnorm" in names
    assert (built.precision, built.target) == ("int8", "cpu")
    operators = [node.op_type for node in onnx.load(built.path).graph.node]
    assert "BatchNormalization" not in operators
    assert "QuantizeLinear" in operators
    feeds = {"image": rng.random((1, 3, 24, 32)).astype(np.float32)}
    parity = difference(outputs(before, feeds), outputs(built, feeds))
    assert 20 < parity.sqnr_db < 80  # 8 bits: about 40 dB, and never the exact fp32 result


def test_the_second_time_everything_comes_from_the_cache(network: Path, tmp_path: Path) -> None:
    first, made = deploy(network, tmp_path / "cache")
    second, served = deploy(network, tmp_path / "cache")
    assert all(summary == "" for _, summary in made.stages)
    assert all(summary == "(from cache)" for _, summary in served.stages)
    assert len(served.stages) == len(made.stages) >= 3
    assert first == second


def test_another_option_or_input_is_another_entry(network: Path, photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    int8 = ("precision=int8", "calibration.limit=8")
    first, _ = deploy(network, cache, *int8, until="lower", data=photos)
    same, _ = deploy(network, cache, *int8, until="lower", data=photos)
    assert first.path == same.path
    other, _ = deploy(network, cache, *int8, "calibration.method=minmax", until="lower", data=photos)
    assert other.path != first.path
    (photos / "0.png").unlink()
    fewer, listener = deploy(network, cache, *int8, until="lower", data=photos)
    assert fewer.path != first.path
    assert any("only 7 calibration inputs" in note for note in listener.notes)


def test_steps_can_be_taken_one_command_at_a_time(network: Path, photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    optimized, _ = deploy(network, cache, until="optimize")
    exported = deliver(optimized, tmp_path / "a.onnx")
    lowered, _ = deploy(exported.path, cache, "precision=int8", until="lower", data=photos)
    quantized = deliver(lowered, tmp_path / "a.int8.onnx")
    built, listener = deploy(quantized.path, cache)
    assert built.precision == "int8"  # as the file says; nobody asked for a precision
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(built.path).graph.node}
    assert not any("fold" in title for title, _ in listener.stages)  # a lowered graph is left as it is


def test_int8_without_data_is_refused_before_any_work(network: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="needs calibration data"):
        deploy("espcn_x3", tmp_path / "cache", "precision=int8")
    assert not (tmp_path / "cache").exists()
    listener = Listener()
    job = Job(str(network), Recipe().edited(["precision=int8"]), load_target("cpu"))
    with pytest.raises(CalibrationError, match="needs calibration data"):
        run(job, listener, Cache(tmp_path / "cache"))
    assert [title for title, _ in listener.stages] == ["check the ONNX file"], "its precision is in the file"


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_file_that_is_not_there_is_told(precision: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        deploy(tmp_path / "absent.onnx", tmp_path / "cache", f"precision={precision}", data=photos)


def test_a_lowered_model_cannot_be_lowered_again(network: Path, photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    lowered, _ = deploy(network, cache, "precision=int8", until="lower", data=photos)
    with pytest.raises(UsageError, match="is int8 already"):
        deploy(lowered.path, cache, "precision=fp32")


def test_somebody_elses_quantized_model_is_recognized(network: Path, photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    lowered, _ = deploy(network, cache, "precision=int8", until="lower", data=photos)
    model = onnx.load(lowered.path)
    del model.metadata_props[:]
    foreign = tmp_path / "foreign.onnx"
    onnx.save(model, foreign)
    built, _ = deploy(foreign, cache)
    assert built.precision == "int8"
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(built.path).graph.node}


def test_fp16_for_a_gpu_is_a_real_engine(network: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    built, _ = deploy(network, tmp_path / "cache", target="rtx-4090")
    engine = deliver(built, tmp_path / "net.engine")
    loaded = Artifact.load(engine.path)
    assert (loaded.kind, loaded.precision, loaded.backend) == ("engine", "fp16", "tensorrt-rtx")
    assert loaded.details.compute_capability == "8.9"
    assert loaded.path.stat().st_size > 1000


def test_zoo_model_end_to_end(tmp_path: Path, rng: np.random.Generator) -> None:
    built, listener = deploy(
        "espcn_x2", tmp_path / "cache", "capture.height=24", "capture.width=32", weights="random"
    )
    assert built.model == "espcn_x2"
    assert built.task.name == "super-resolution"
    assert any("random weights" in note for note in listener.notes)
    image = rng.random((1, 1, 24, 32)).astype(np.float32)
    (result,) = outputs(built, {built.inputs[0].name: image}).values()
    assert result.shape == (1, 1, 48, 64)


def test_bundled_weights_are_taken_unless_random_ones_are_asked_for(tmp_path: Path) -> None:
    edits, until = ("capture.height=64", "capture.width=64"), "capture"
    captured, listener = deploy("ddrnet_23_slim", tmp_path / "cache", *edits, until=until)
    assert captured.details.weights == "camvid"
    assert len(captured.labels) == 11
    assert not any("random" in note for note in listener.notes)
    captured, listener = deploy("ddrnet_23_slim", tmp_path / "cache", *edits, until=until, weights="random")
    assert captured.details.weights == "random"
    assert any("--weights camvid" in note for note in listener.notes)


def test_what_is_delivered_is_whole_and_replaces_what_was_there(network: Path, tmp_path: Path) -> None:
    built, _ = deploy(network, tmp_path / "cache", until="capture")
    out = tmp_path / "out" / "net.onnx"
    out.parent.mkdir()
    out.write_text("old")
    delivered = deliver(built, out)
    assert Artifact.load(out) == delivered
    assert [path.name for path in out.parent.iterdir()] == ["net.onnx"]


def test_steps_have_distinct_names() -> None:
    assert len({step.name for step in STEPS}) == len(STEPS)
