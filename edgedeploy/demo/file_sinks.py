"""Write pictures to files: a video through PyAV, or images; a file gets its name only when it is complete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedeploy.core.errors import OutputError, UsageError
from edgedeploy.core.files import replacing
from edgedeploy.demo.frames import SQUARE, as_rgb, as_yuv, new_yuv, planes
from edgedeploy.demo.sink import Sink
from edgedeploy.task import Image
from edgedeploy.vision.images import is_image, write_image
from edgedeploy.vision.video import require_av

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

CLOCK = 60_000  # timestamp ticks per second: a multiple of the usual frame rates, and nearly MPEG-4's maximum
ENCODERS = ("libx264", "h264", "mpeg4")  # in order of preference
X264_OPTIONS = {"preset": "ultrafast", "crf": "20"}


class VideoSink(Sink):
    """An .mp4 or .mkv file, H.264 if FFmpeg has it, with the timestamps of the source.

    `options` apply to x264 alone. `pixel_aspect`: width / height of a pixel.
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
        self._replacing = ExitStack()
        self._temporary = self._replacing.enter_context(replacing(path))
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
        # Players refuse repeated timestamps, which some cameras send.
        self._last = max(round(timestamp * CLOCK), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, CLOCK)
        # The encoder chooses the key frames, not the source file.
        frame.pict_type = require_av().video.frame.PictureType.NONE
        with self._reported():
            if self._stream is None:
                self._open(frame)
            self._encode(frame)
        return True

    def finish(self) -> None:
        if self._stream is None:  # a file without frames is no video
            self.abort()
            return
        with self._reported():
            self._encode(None)
            self._close()
        self._replacing.close()

    def abort(self) -> None:
        with suppress(OSError, require_av().error.FFmpegError):  # the temporary file is deleted anyway
            self._close()
        self._replacing.__exit__(OutputError, OutputError(f"{self.path} was not finished"), None)

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
        """Raise OutputError, one line, for errors of FFmpeg such as a full disk."""
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
    """Repeat the last row and column of an odd size: H.264 in 4:2:0 needs even sizes."""
    if frame.width % 2 == 0 and frame.height % 2 == 0:
        return frame
    result = new_yuv(frame.width + frame.width % 2, frame.height + frame.height % 2, frame)
    for old, new in zip(planes(frame), planes(result), strict=True):
        below, right = new.shape[0] - old.shape[0], new.shape[1] - old.shape[1]
        new[:] = np.pad(old, ((0, below), (0, right)), mode="edge")
    return result


def _encoder() -> str:
    codec = next((name for name in ENCODERS if name in require_av().codecs_available), None)
    if codec is None:
        reason = "this FFmpeg can encode neither H.264 nor MPEG-4"
        raise OutputError(reason, 'pip install "av", or --sink FOLDER')
    return codec
