"""Feeds for builds and benches, and what an ONNX file tells without the onnx package."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgedeploy.backend import concrete_shapes
from edgedeploy.core.errors import (
    ArtifactError,
    UsageError,
)
from edgedeploy.core.onnx_header import operators, read_onnx_header, with_metadata
from edgedeploy.core.spec import Artifact, TaskSpec, TensorSpec
from edgedeploy.runtime.feeds import random_feeds, representative_shapes
from tests.support.onnx_models import (
    save_convolutions,
    save_two_inputs,
)

SHAPE = (1, 3, 16, 24)


def test_random_feeds_are_in_the_range_of_the_task() -> None:
    specs = (
        TensorSpec(name="image", dtype="float32", shape=(1, 3, "h", "w"), layout="NCHW"),
        TensorSpec(name="bytes", dtype="uint8", shape=(1, 8, 8, 3), layout="NHWC"),
        TensorSpec(name="index", dtype="int64", shape=(2,)),
    )
    task = TaskSpec(name="segmentation", options={"mean": [10.0, 20.0, 30.0], "std": [1.0, 2.0, 4.0]})
    artifact = Artifact(path=Path("m"), kind="onnx", model="m", inputs=specs, outputs=(), task=task)
    shapes = representative_shapes(artifact, {"image": (1, 3, 64, 64)})
    assert representative_shapes(artifact, {})["image"] == (1, 3, 256, 256)
    feeds = random_feeds(artifact, shapes, seed=5)
    for channel, (mean, std) in enumerate([(10, 1), (20, 2), (30, 4)]):
        values = feeds["image"][0, channel]
        assert values.min() == pytest.approx((0 - mean) / std, abs=1)
        assert values.max() == pytest.approx((255 - mean) / std, abs=1)
    assert feeds["image"].dtype == np.float32
    assert feeds["bytes"].dtype == np.uint8
    assert feeds["bytes"].max() > 200
    assert set(feeds["index"]) <= {0, 1}
    again = random_feeds(artifact, shapes, seed=5)
    assert all(np.array_equal(feeds[name], again[name]) for name in feeds)
    assert not np.array_equal(feeds["image"], random_feeds(artifact, shapes, seed=6)["image"])
    assert concrete_shapes(artifact, {"image": (1, 3, 9, 9)})["bytes"] == (1, 8, 8, 3)


@pytest.mark.parametrize("shape", [(1 << 40,), (1, 3, 100_000, 100_000), (1 << 33, 1 << 33, 1 << 33)])
def test_a_size_beyond_reason_is_refused_before_memory_is_asked_for(shape: tuple[int, ...]) -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=shape)
    artifact = Artifact(path=Path("m"), kind="onnx", model="m", inputs=(spec,), outputs=())
    with pytest.raises(UsageError, match="million elements") as caught:
        representative_shapes(artifact, {})
    assert "--size" in caught.value.hint
    dynamic = spec.model_copy(update={"shape": tuple("abcd"[: len(shape)])})
    with pytest.raises(UsageError, match="million elements"):
        concrete_shapes(artifact.model_copy(update={"inputs": (dynamic,)}), {"x": shape})


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_random_feeds_are_drawn_in_single_precision(dtype: str) -> None:
    spec = TensorSpec(name="x", dtype=dtype, shape=(1, 3, 256, 256))
    for options in ({}, {"mean": [0.0], "std": [255.0]}):
        task = TaskSpec(name="tensor", options=options)
        artifact = Artifact(path=Path("m"), kind="onnx", model="m", inputs=(spec,), outputs=(), task=task)
        tracemalloc.start()
        feed = random_feeds(artifact, {"x": (1, 3, 256, 256)})["x"]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert feed.dtype == dtype
        assert peak < feed.size * 12, "a float64 draw and a copy would be 12 bytes of each"


@pytest.mark.parametrize("value", ["", "x" * 127, "ü" * 300, '{"a": 1}' * 5000])
def test_metadata_by_wire_format(value: str, tmp_path: Path) -> None:
    path = save_two_inputs(tmp_path / "m.onnx")
    before = onnx.load(str(path))
    out = tmp_path / "o.onnx"
    with_metadata(path, "first", "1", out)
    with_metadata(out, "key", "old", out)
    with_metadata(out, "key", value, out)
    after = onnx.load(str(out))
    onnx.checker.check_model(after)
    assert {p.key: p.value for p in after.metadata_props} == {"first": "1", "key": value}
    assert len(after.metadata_props) == 2, "replaced, not added"
    assert read_onnx_header(out).metadata == {"first": "1", "key": value}
    del after.metadata_props[:]
    assert after == before, "all else is as it was"


def test_metadata_of_a_damaged_file(tmp_path: Path) -> None:
    path = save_convolutions(tmp_path / "m.onnx", SHAPE)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ArtifactError, match="not a whole ONNX file"):
        with_metadata(path, "key", "value", tmp_path / "o.onnx")
    assert not (tmp_path / "o.onnx").exists()


def test_operators_are_listed_without_the_onnx_package(tmp_path: Path) -> None:
    path = save_convolutions(tmp_path / "m.onnx", SHAPE)
    assert operators(path) == [("Conv", "conv1"), ("Relu", "relu"), ("Conv", "conv2")]
