"""Pictures of the demo: a frame of a source, and YUV 4:2:0 pictures as numpy planes.

Video is decoded to planes and encoded from planes. For super-resolution of luma it is never converted to RGB,
which would take longer than the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgedeploy.task import Image
from edgedeploy.vision.video import Orientation, orientation, require_av, upright_rgb

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

Plane = NDArray[np.uint8]
SQUARE = Fraction(1)  # the default aspect ratio of pixels
YUV420, FULL_RANGE, STUDIO_RANGE = "yuv420p", 2, 1


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        index: number in the source, dropped frames included.
        timestamp: seconds in the source's time.
        captured_at: time.perf_counter() when it was read.
        content: RGB (H, W, 3) uint8, or a YUV 4:2:0 studio-range picture of PyAV.
        name: file name, without suffix, of an image made from it.
    """

    index: int
    timestamp: float
    captured_at: float
    content: Image | VideoFrame
    name: str

    @cached_property
    def rgb(self) -> Image:
        """The picture as RGB (H, W, 3) uint8; cached for both threads."""
        return as_rgb(self.content)


def as_rgb(picture: Image | VideoFrame) -> Image:
    """RGB (H, W, 3) uint8 of a picture of either kind."""
    return picture if isinstance(picture, np.ndarray) else upright_rgb(picture)


def as_yuv(picture: Image | VideoFrame) -> VideoFrame:
    """YUV 4:2:0 studio-range form of a picture of either kind; the same object if it has that form."""
    if isinstance(picture, np.ndarray):
        frame = require_av().VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        return frame.reformat(format=YUV420)  # type: ignore[no-any-return]
    if picture.format.name == YUV420 and picture.color_range != FULL_RANGE:
        return picture
    return picture.reformat(format=YUV420, dst_color_range=STUDIO_RANGE)


def new_yuv(width: int, height: int, like: VideoFrame) -> VideoFrame:
    """An empty YUV 4:2:0 picture that keeps the color description of another."""
    frame: VideoFrame = require_av().VideoFrame(width, height, YUV420)
    frame.colorspace, frame.color_range = like.colorspace, like.color_range
    return frame


def upright(frame: VideoFrame) -> VideoFrame:
    """A YUV 4:2:0 picture turned and mirrored by its display matrix; the same object for the identity."""
    shown = orientation(frame)
    if shown == Orientation():
        return frame
    size = (frame.height, frame.width) if shown.transposed else (frame.width, frame.height)
    result = new_yuv(*size, frame)
    result.pts, result.time_base = frame.pts, frame.time_base
    for old, new in zip(planes(frame), planes(result), strict=True):
        new[:] = shown.apply(old)
    return result


def planes(frame: VideoFrame) -> tuple[Plane, Plane, Plane]:
    """Writable views of Y (H, W), U and V (H/2, W/2, rounded up) of a YUV 4:2:0 picture."""
    views = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]
        views.append(rows[: plane.height, : plane.width])
    return views[0], views[1], views[2]
