"""Clips and bundles for the tests of STDO, made on the spot."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import av
import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper

from edgedeploy.core.spec import METADATA_KEY, Artifact, TaskSpec, TensorSpec
from edgedeploy.demo.sources import VideoSource
from edgedeploy.stdo.bundle import stored_file, write_chunks
from edgedeploy.stdo.manifest import Manifest, Quality, StoredModel, write_manifest
from edgedeploy.stdo.patches import PatchGrid


def structured_frame(index: int, height: int, width: int) -> np.ndarray:
    """Stripes that get finer to the right, blobs and letters, all moving: RGB (H, W, 3) uint8."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    stripes = 127 + 90 * np.sin((x + 2 * index) * (0.2 + 0.6 * x / width) + 0.3 * y)
    blobs = 127 + 90 * np.sin(x / 9 + index / 3) * np.cos(y / 7)
    frame = np.stack([stripes, blobs, 255 - stripes / 2 - blobs / 4], axis=2).clip(0, 255).astype(np.uint8)
    cv2.putText(frame, "edge", (4 + index, height // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (250, 250, 20), 1)
    return frame


def write_video(
    path: Path, count: int, height: int = 72, width: int = 96, *, sound: bool = False, fps: int = 25
) -> Path:
    """A clip of `structured_frame`s in H.264, and a tone if asked."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        tone = container.add_stream("aac", rate=48000, layout="mono") if sound else None
        for index in range(count):
            picture = av.VideoFrame.from_ndarray(structured_frame(index, height, width), format="rgb24")
            container.mux(stream.encode(picture))
            if tone is not None:
                times = (np.arange(48000 // fps) + index * 48000 // fps) / 48000
                wave = (np.sin(2 * np.pi * 440 * times)[None] / 2).astype(np.float32)
                heard = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
                heard.sample_rate, heard.pts = 48000, index * 48000 // fps
                container.mux(tone.encode(heard))
        container.mux(stream.encode())
        if tone is not None:
            container.mux(tone.encode())
    return path


def rgb_frames(path: Path) -> np.ndarray:
    """The frames of a video, (F, H, W, 3), decoded as the player decodes them."""
    with closing(VideoSource(str(path))) as source:
        return np.stack([frame.rgb for frame in source.frames()])


def rgb_model(path: Path, gain: float = 1.0, scale: int = 2) -> Artifact:
    """An ONNX file that enlarges RGB by repeating pixels times `gain`, after a 3x3 box blur."""
    blur = np.zeros((3, 3, 3, 3), np.float32)
    repeat = np.zeros((3, 3, scale, scale), np.float32)
    for color in range(3):
        blur[color, color] = gain / 9
        repeat[color, color] = 1
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "b"], ["blurred"], pads=[1, 1, 1, 1]),
            helper.make_node("ConvTranspose", ["blurred", "w"], ["sr"], strides=[scale, scale]),
        ],
        "blur",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("sr", TensorProto.FLOAT, [1, 3, "sh", "sw"])],
        [onnx.numpy_helper.from_array(blur, "b"), onnx.numpy_helper.from_array(repeat, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    artifact = Artifact(
        path=path,
        kind="onnx",
        model="blur",
        inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 3, "h", "w"), layout="NCHW"),),
        outputs=(TensorSpec(name="sr", dtype="float32", shape=(1, 3, "sh", "sw"), layout="NCHW"),),
        task=TaskSpec(
            name="super-resolution",
            options={"scale": scale, "color": "rgb", "margin": 1, "mean": [0.0] * 3, "std": [255.0] * 3},
        ),
    )
    helper.set_model_props(model, {METADATA_KEY: artifact.to_json()})
    onnx.save(model, path)
    return Artifact.load(path)


def make_bundle(
    folder: Path, models: int = 1, frames: int = 3, halo: int = 1, *, gains: tuple[float, ...] = (1.0, 0.5)
) -> Path:
    """A bundle without training: 50x38 of which 49x37 enlarged by 2 are shown, less one row and column."""
    folder.mkdir(parents=True)
    write_video(folder / "low.mp4", frames, 38, 50, sound=True)
    grid = PatchGrid(38, 50, 16, 20)
    rng = np.random.default_rng(0)
    chunks = rng.integers(0, models, (frames, grid.count)).astype(np.uint8)
    stored = []
    for index in range(models):
        path = folder / f"chunk{index:02d}.onnx"
        rgb_model(path, gains[index])
        stored.append(StoredModel(**stored_file(path).model_dump(), patches=5, psnr=30.0))
    if models > 1:
        write_chunks(folder / "chunks.bin", chunks)
    manifest = Manifest(
        version=1,
        network="blur",
        scale=2,
        width=97,
        height=73,
        low_width=50,
        low_height=38,
        fps=25.0,
        frames=frames,
        patch_height=16,
        patch_width=20,
        halo=halo,
        precision="fp32",
        video=stored_file(folder / "low.mp4"),
        models=tuple(stored),
        chunks=stored_file(folder / "chunks.bin") if models > 1 else None,
        source_bytes=1,
        psnr=Quality(bicubic=20.0, general=None, result=21.0),
    )
    write_manifest(folder, manifest)
    return folder
