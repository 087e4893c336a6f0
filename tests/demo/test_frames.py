"""YUV pictures: color range, pixel formats, orientation and the shape of pixels."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from edgedeploy.calibration.collect.sources import video_images
from edgedeploy.demo.file_sinks import VideoSink
from edgedeploy.demo.frames import as_rgb, as_yuv, new_yuv, planes
from edgedeploy.demo.run import run_demo
from edgedeploy.demo.sources import open_source
from edgedeploy.vision.video import open_video, read_video
from tests.support.demo_tools import level, mean_luma, nearest_model, write_clip


@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv422p"])
def test_other_pixel_formats_become_yuv420(tmp_path: Path, pixel_format: str) -> None:
    source = open_source(str(write_clip(tmp_path / "clip.mkv", 2, pixel_format=pixel_format)))
    content = next(source.frames()).content
    assert content.format.name == "yuv420p"  # type: ignore[union-attr]
    assert mean_luma(content) == pytest.approx(level(0), abs=1)
    source.close()


def test_full_range_becomes_studio_range() -> None:
    frame = av.VideoFrame(16, 16, "yuv420p")
    for plane, value in zip(frame.planes, (255, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.color_range = 2
    assert mean_luma(frame) == pytest.approx(235, abs=1)
    assert as_rgb(as_yuv(frame)).min() >= 253


def test_yuv_pictures_keep_studio_range_unchanged_and_rgb_makes_the_round_trip() -> None:
    image = np.full((20, 30, 3), (200, 60, 120), np.uint8)
    picture = as_yuv(image)
    assert as_yuv(picture) is picture
    assert np.abs(as_rgb(picture).astype(int) - image).max() <= 3
    assert as_rgb(image) is image
    copy = new_yuv(30, 20, picture)
    for old, new in zip(planes(picture), planes(copy), strict=True):
        new[:] = old
    np.testing.assert_array_equal(as_rgb(copy), as_rgb(picture))


# [a b; c d] of the display matrix -> what a picture looks like that is shown by it.
SHOWN: dict[tuple[int, int, int, int], Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    (1, 0, 0, 1): lambda picture: picture,
    (0, 1, -1, 0): lambda picture: np.rot90(picture, -1),  # clockwise, as phones write it
    (-1, 0, 0, -1): lambda picture: np.rot90(picture, 2),
    (0, -1, 1, 0): lambda picture: np.rot90(picture, 1),
    (-1, 0, 0, 1): lambda picture: picture[:, ::-1],  # a front camera's
    (1, 0, 0, -1): lambda picture: picture[::-1],
    (0, 1, 1, 0): lambda picture: picture.swapaxes(0, 1),
    (0, -1, -1, 0): lambda picture: np.rot90(picture, 2).swapaxes(0, 1),
}


@pytest.mark.parametrize("matrix", SHOWN)
def test_every_reader_shows_a_video_as_its_display_matrix_says(
    matrix: tuple[int, int, int, int], tmp_path: Path
) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = 255  # top left
    picture[:24, 32:] = 100  # top right
    clip = tmp_path / "clip.mp4"
    sink = VideoSink(clip, 25)
    sink.write(picture, 0, "")
    sink.finish()
    data = bytearray(clip.read_bytes())
    at = data.index(b"tkhd") + 44  # ISO 14496-12: version 0, the matrix follows 40 bytes of other fields
    a, b, c, d = (65536 * entry for entry in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    clip.write_bytes(data)
    source = open_source(str(clip))
    demo = next(source.frames()).rgb
    source.close()
    (calibration,), (evaluation,) = video_images(clip, 1), read_video(clip)
    expected = SHOWN[matrix](picture)
    assert (source.height, source.width) == expected.shape[:2]
    for shown in (demo, calibration, evaluation):
        assert shown.shape == expected.shape
        assert np.abs(shown.astype(int) - expected).mean() < 8


@pytest.mark.parametrize("turned", [False, True])
def test_a_written_video_keeps_the_shape_of_pixels(turned: bool, tmp_path: Path) -> None:
    clip, aspect = tmp_path / "clip.mp4", Fraction(16, 11)
    sink = VideoSink(clip, 25, pixel_aspect=aspect)
    sink.write(np.zeros((48, 64, 3), np.uint8), 0, "")
    sink.finish()
    if turned:
        data = bytearray(clip.read_bytes())
        at = data.index(b"tkhd") + 44
        data[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
        clip.write_bytes(data)
    run_demo(nearest_model(tmp_path / "nearest.onnx", 2), str(clip), str(tmp_path / "out.mp4"))
    with open_video(str(tmp_path / "out.mp4")) as written:
        assert written.streams.video[0].sample_aspect_ratio == (1 / aspect if turned else aspect)
