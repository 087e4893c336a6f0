"""Training frames of a video: at full resolution, and at low resolution as the client decodes them.

The paper trains on reduced frames; here networks train on what the codec makes of those, because that is what
a client gets. Frames are memory-mapped files: a long video does not fit into memory. `imresize` reduces
frames by antialiased bicubic interpolation as in MATLAB.
"""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from edgedeploy.core.errors import OutputError, UsageError
from edgedeploy.core.files import write_text
from edgedeploy.core.progress import Progress
from edgedeploy.demo.file_sinks import VideoSink
from edgedeploy.demo.frames import Frame, as_yuv
from edgedeploy.demo.sources import VideoSource, open_source
from edgedeploy.encode.options import EncodeOptions
from edgedeploy.stdo.patches import Pixels
from edgedeploy.stdo.sound import copy_sound
from edgedeploy.vision.resize import imresize

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

LOW, HIGH_PIXELS, LOW_PIXELS = "low.mp4", "high.rgb", "low.rgb"
X264_THREADS = 4


@dataclass(frozen=True)
class Clip:
    """The frames of a video.

    Attributes:
        high: (F, H, W, 3) uint8, the source.
        low: (F, h, w, 3) uint8, decoded from `video`; scale * h >= H, scale * w >= W.
        video: the low-resolution video.
        silent: why the video has no sound, or "".
    """

    high: Pixels
    low: Pixels
    scale: int
    fps: float
    video: Path
    silent: str

    def target(self, frame: int) -> Pixels:
        """A source frame padded to (scale*h, scale*w, 3) by repeating its last pixels."""
        return _covering(self.high[frame], self.scale * self.low.shape[1], self.scale * self.low.shape[2])


def open_clip_source(path: Path) -> VideoSource:
    """The video to encode; raises UsageError for anything but a video file."""
    source = open_source(str(path)) if path.is_file() else None
    if not isinstance(source, VideoSource):
        raise UsageError(f"{path} is not a video file", "name a file such as clip.mp4")
    return source


def read_clip(path: Path, options: EncodeOptions, folder: Path, progress: Progress | None = None) -> Clip:
    """Decode a video into `folder` and make its low-resolution video, unless that exists there.

    Raises UsageError for a file that is no video, OutputError if its frames do not fit on the disk.
    """
    source = open_clip_source(path)
    with closing(source):
        s = options.factor
        height, width = low_size(source.height, source.width, s)
        done = folder / "low.json"
        total = options.limit if source.total is None else min(source.total, options.limit or source.total)
        _require_space(folder, total, source.height * source.width * 3 + height * width * 3)
        sink = None
        if not done.is_file():
            coder = x264(options.crf, options.preset)
            sink = VideoSink(folder / "pictures.mp4", source.fps, coder, source.pixel_aspect)
        try:
            count, first = 0, 0.0
            with (folder / HIGH_PIXELS).open("wb") as pixels:
                for frame in islice(source.frames(), options.limit):
                    if frame.rgb.shape[:2] != (source.height, source.width):
                        raise UsageError(
                            f"{path} changes its size at frame {count}", "convert it to one size"
                        )
                    pixels.write(np.ascontiguousarray(frame.rgb).data)
                    first = frame.timestamp if not count else first
                    if sink is not None:
                        sink.write(low_picture(frame, s, height, width), frame.timestamp - first, "")
                    count += 1
                    if progress:
                        progress(count, total)
            if sink is not None:
                sink.finish()
                sink = None
                silent = copy_sound(folder / "pictures.mp4", path, folder / LOW, first)
                if silent:
                    (folder / "pictures.mp4").replace(folder / LOW)
                write_text(done, json.dumps({"silent": silent}))
        finally:
            if sink is not None:
                sink.abort()
    _decode(folder / LOW, folder / LOW_PIXELS, count)
    return Clip(
        np.memmap(folder / HIGH_PIXELS, np.uint8, "r", shape=(count, source.height, source.width, 3)),
        np.memmap(folder / LOW_PIXELS, np.uint8, "r", shape=(count, height, width, 3)),
        s,
        source.fps,
        folder / LOW,
        str(json.loads(done.read_text())["silent"]),
    )


def low_size(height: int, width: int, scale: int) -> tuple[int, int]:
    """Height and width of the low-resolution video, even for 4:2:0; the client crops the padding."""
    return -(-height // (2 * scale)) * 2, -(-width // (2 * scale)) * 2


def low_picture(frame: Frame, scale: int, height: int, width: int) -> VideoFrame:
    """A source frame reduced to `low_size`, for the encoder."""
    picture = as_yuv(imresize(_covering(frame.rgb, scale * height, scale * width), height, width))
    picture.colorspace = as_yuv(frame.content).colorspace
    return picture


def x264(crf: float, preset: str = "medium") -> dict[str, str]:
    """Encoder options for VideoSink."""
    # The output depends on the number of threads, by default that of the machine. Two encodings may differ
    # even with a fixed number, so a resumed run keeps its video.
    return {"preset": preset, "crf": f"{crf:g}", "x264-params": f"threads={X264_THREADS}"}


def _decode(video: Path, out: Path, count: int) -> None:
    source = open_clip_source(video)
    decoded = 0
    with closing(source), out.open("wb") as pixels:
        for frame in source.frames():
            pixels.write(np.ascontiguousarray(frame.rgb).data)
            decoded += 1
    if decoded != count:
        raise OutputError(f"{video} has {decoded} frames of {count}", "encode with a constant frame rate")


def _covering(frame: Pixels, height: int, width: int) -> Pixels:
    below, right = height - frame.shape[0], width - frame.shape[1]
    if not below and not right:
        return frame
    return np.asarray(cv2.copyMakeBorder(frame, 0, below, 0, right, cv2.BORDER_REPLICATE), dtype=np.uint8)


def _require_space(folder: Path, frames: int | None, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if frames is not None and frames * size > free:
        raise OutputError(
            f"{frames} decoded frames need {frames * size >> 20} MB, {folder} has {free >> 20} MB left",
            "free some space, or encode less with --limit",
        )
