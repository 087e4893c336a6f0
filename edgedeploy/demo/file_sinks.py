"""Write pictures to files: a video through PyAV, or images.

Nothing half-written is ever seen: a video is written beside its place and renamed when it is whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedeploy.core.errors import OutputError, UsageError
from edgedeploy.core.files import replacing
from edgedeploy.demo.frames import SQUARE, Plane, as_rgb, as_yuv, new_yuv, planes
from edgedeploy.demo.sink import Sink
from edgedeploy.task import Image
from edgedeploy.vision.images import is_image, write_image
from edgedeploy.vision.video import require_av

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

CLOCK = 60_000  # ticks a second of timestamps: whole for the usual frame rates, and MPEG-4 takes no more
ENCODERS = ("libx264", "h264", "mpeg4")  # the first that this build of FFmpeg has
X264_OPTIONS = {"preset": "ultrafast", "crf": "20"}


class VideoSink(Sink):
    """An .mp4 or .mkv file, H.264 where FFmpeg has it, with the timestamps of the source.

    `options` are those of the encoder x264; another one, where FFmpeg lacks it, takes none. `pixel_aspect` is
    the width of a pixel over its height.
    """

    def __init__(
        self,
        path: Path,
        fps: float,
        options: Mapping[str, str] = X264_OPTIONS,
        pixel_aspect: Fraction = SQUARE,
    ) -> None:
        self.path: Path = path
        self._fps, self._options, self._pixel_aspect = fps, dict(options), pixel_aspect
        self._codec = _encoder()
        self._place = replacing(path)
        self._temporary = self._place.__enter__()
        self._open_place = True
        self._container: Any = None
        self._stream: Any = None
        self._size: tuple[int, int] | None = None
        self._last = -1

    def write(self, picture: Image | VideoFrame, timestamp: float, name: str) -> bool:  # noqa: ARG002
        frame = _even(as_yuv(picture))
        self._size = self._size or (frame.width, frame.height)
        if (frame.width, frame.height) != self._size:
            raise UsageError(
                f"a frame of {frame.width}x{frame.height} does not fit a video of "
                f"{self._size[0]}x{self._size[1]}",
                "write image files instead: --sink FOLDER",
            )
        # Players refuse times that stand still, as those of some cameras do.
        self._last = max(round(timestamp * CLOCK), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, CLOCK)
        # The encoder decides which frames are key frames, not the file that this one came from.
        frame.pict_type = require_av().video.frame.PictureType.NONE
        with self._reported():
            if self._stream is None:
                self._open(frame)
            self._encode(frame)
        return True

    def finish(self) -> None:
        if self._stream is None:  # an empty file would be no video
            self.abort()
            return
        with self._reported():
            self._encode(None)
            self._close()
        self._open_place = False
        self._place.__exit__(None, None, None)

    def abort(self) -> None:
        if not self._open_place:
            return
        self._open_place = False
        with suppress(OSError, require_av().error.FFmpegError):  # the file is thrown away in any case
            self._close()
        self._place.__exit__(OutputError, OutputError(f"{self.path} was not finished"), None)

    def _open(self, frame: VideoFrame) -> None:
        av = require_av()
        self._container = av.open(str(self._temporary), "w")
        rate = Fraction(self._fps).limit_denominator(1001)
        options = self._options if self._codec == "libx264" else {}
        self._stream = self._container.add_stream(self._codec, rate=rate, options=options)
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = frame.width, frame.height, "yuv420p"
        context.time_base = Fraction(1, CLOCK)
        context.sample_aspect_ratio = self._pixel_aspect
        context.thread_type = "AUTO"
        context.color_range, context.colorspace = frame.color_range, frame.colorspace

    def _encode(self, frame: VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """FFmpeg's own errors, a full disk among them, as one line."""
        try:
            yield
        except (OSError, require_av().error.FFmpegError) as error:
            reason = getattr(error, "strerror", "") or str(error)
            raise OutputError(
                f"cannot write {self.path}: {reason}", "check the space that is left"
            ) from error

    def _close(self) -> None:
        if self._container is not None:
            container, self._container = self._container, None
            container.close()


class ImageSink(Sink):
    """One image file, or a folder of PNGs named after the frames."""

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        self._single = is_image(path)
        self._count = 0

    def write(self, picture: Image | VideoFrame, timestamp: float, name: str) -> bool:  # noqa: ARG002
        if self._single and self._count:
            hint = "add --limit 1, or name a folder"
            raise UsageError(f"{self.path} holds one picture, the source has more", hint)
        file = self.path if self._single else self.path / f"{name}.png"
        with replacing(file) as temporary:
            write_image(temporary, as_rgb(picture))
        self._count += 1
        return True


def _even(frame: VideoFrame) -> VideoFrame:
    """H.264 in 4:2:0 has even sizes only: repeat the last row or column where needed."""
    if frame.width % 2 == 0 and frame.height % 2 == 0:
        return frame
    result = new_yuv(frame.width + frame.width % 2, frame.height + frame.height % 2, frame)
    for old, new in zip(planes(frame), planes(result), strict=True):
        _extend(old, new)
    return result


def _extend(old: Plane, new: Plane) -> None:
    bottom, right = new.shape[0] - old.shape[0], new.shape[1] - old.shape[1]
    new[:] = np.pad(old, ((0, bottom), (0, right)), mode="edge")


def _encoder() -> str:
    available = require_av().codecs_available
    for name in ENCODERS:
        if name in available:
            return name
    raise OutputError("this FFmpeg can encode neither H.264 nor MPEG-4", 'pip install "av", or --sink FOLDER')
