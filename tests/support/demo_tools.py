"""Clips and models for the demo's tests, made on the spot."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import onnx
from onnx import TensorProto, helper

from edgedeploy.core.spec import METADATA_KEY, Artifact, TaskSpec, TensorSpec
from edgedeploy.demo.frames import as_yuv, planes

STEP = 8  # frame i of a clip has luma 20 + STEP * i in its middle


def level(index: int) -> int:
    return 20 + STEP * index


def write_clip(
    path: Path, count: int, width: int = 64, height: int = 48, pixel_format: str = "yuv420p", fps: int = 25
) -> Path:
    """A lossless clip whose frames tell their number by their luma; chroma is 100 and 160."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        for index in range(count):
            frame = av.VideoFrame(width, height, pixel_format)
            for plane, value in zip(frame.planes, (level(index), 100, 160), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def mean_luma(content: object) -> float:
    """Mean luma of a picture, RGB or YUV."""
    return float(planes(as_yuv(content))[0].mean())  # type: ignore[arg-type]


def read_luma(path: Path) -> list[np.ndarray]:
    """The luma planes of a written video."""
    with av.open(str(path)) as container:
        return [
            np.frombuffer(frame.planes[0], np.uint8).reshape(-1, frame.planes[0].line_size)[:, : frame.width]
            for frame in container.decode(video=0)
        ]


def nearest_model(path: Path, scale: int = 2, size: tuple[int, int] | None = None) -> Artifact:
    """An ONNX file that enlarges luma by repeating pixels, as a transposed convolution with ones."""
    height, width = size or ("h", "w")
    big = tuple(scale * n if isinstance(n, int) else f"{scale}{n}" for n in (height, width))
    ones = np.ones((1, 1, scale, scale), np.float32)
    graph = helper.make_graph(
        [helper.make_node("ConvTranspose", ["lr", "w"], ["sr"], strides=[scale, scale])],
        "nearest",
        [helper.make_tensor_value_info("lr", TensorProto.FLOAT, [1, 1, height, width])],
        [helper.make_tensor_value_info("sr", TensorProto.FLOAT, [1, 1, *big])],
        [onnx.numpy_helper.from_array(ones, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    artifact = Artifact(
        path=path,
        kind="onnx",
        model="nearest",
        inputs=(TensorSpec(name="lr", dtype="float32", shape=(1, 1, height, width), layout="NCHW"),),
        outputs=(TensorSpec(name="sr", dtype="float32", shape=(1, 1, *big), layout="NCHW"),),
        task=TaskSpec(name="super-resolution", options={"scale": scale, "mean": [0.0], "std": [255.0]}),
    )
    helper.set_model_props(model, {METADATA_KEY: artifact.to_json()})
    onnx.save(model, path)
    return Artifact.load(path)


def color_model(path: Path) -> Artifact:
    """A segmentation network at an eighth of the resolution: the brightest of red, green and blue."""
    graph = helper.make_graph(
        [helper.make_node("AveragePool", ["image"], ["logits"], kernel_shape=[8, 8], strides=[8, 8])],
        "colors",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, "a", "b"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    artifact = Artifact(
        path=path,
        kind="onnx",
        model="colors",
        inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 3, "h", "w"), layout="NCHW"),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(1, 3, "a", "b"), layout="NCHW"),),
        task=TaskSpec(name="segmentation"),
        labels=("red", "green", "blue"),
    )
    helper.set_model_props(model, {METADATA_KEY: artifact.to_json()})
    onnx.save(model, path)
    return Artifact.load(path)
