"""Open and decode video through PyAV; every failure is one clear line.

The package `av`, imported on first use, contains FFmpeg's libraries.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import DeviceError, MissingDependencyError, SourceLostError, UsageError
from edgedeploy.task import Image

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.error import FFmpegError
    from av.video.frame import VideoFrame

PATIENCE_S = 5.0  # timeout of an address
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".y4m", ".flv"}
)


def require_av() -> Any:
    """The module `av`; raises MissingDependencyError with the command that installs it."""
    try:
        import av
    except ImportError:
        raise MissingDependencyError("video needs the package av", 'pip install "edgedeploy[demo]"') from None
    return av


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def is_remote(uri: str) -> bool:
    """Whether the name is an address instead of a path."""
    return "://" in uri


def open_video(uri: str, options: dict[str, str] | None = None) -> InputContainer:
    """Open a file or URL with a video stream; the caller closes it. An address has a timeout of PATIENCE_S.

    Raises UsageError for a file that is no video, DeviceError for an address that does not answer.
    """
    av = require_av()
    # PyAV's timeout serves every protocol. FFmpeg's option `timeout` makes RTMP wait for a sender instead of
    # connecting.
    patience = PATIENCE_S if is_remote(uri) else None
    try:
        container: InputContainer = av.open(uri, options=options or {}, timeout=patience)
    except av.error.FFmpegError as error:
        reason = _reason(error)
        if is_remote(uri):
            raise DeviceError(
                f"{uri} does not answer: {reason}", "check the address and the network"
            ) from None
        raise UsageError(f"{uri} is not a video: {reason}", "check the path, or convert it to .mp4") from None
    if not container.streams.video:
        container.close()
        raise UsageError(f"{uri} has no video stream", "name a file with pictures in it")
    return container


def decode_video(
    container: InputContainer, uri: str, tolerant: bool = False
) -> Generator[VideoFrame, None, None]:
    """The frames of an open video in order; raises UsageError for damaged data and for no frames.

    Raises SourceLostError for an address that stops answering. `tolerant` skips damaged packets: a live
    stream begins anywhere and loses packets.
    """
    av = require_av()
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    count = 0
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                if not tolerant:
                    raise
                continue
            for frame in frames:
                count += 1
                yield frame
    except av.error.FFmpegError as error:
        if is_remote(uri):
            raise SourceLostError(
                f"{uri} stopped after {count} frames: {_reason(error)}", "check the network and the sender"
            ) from None
        raise UsageError(
            f"{uri} is damaged after {count} frames: {_reason(error)}",
            f"stop before it with --limit {count}" if count else "copy or record it again",
        ) from None
    if not count:
        raise UsageError(f"{uri} holds no frames", "copy or record it again")


def _reason(error: FFmpegError) -> str:
    """FFmpeg's message of an error; FFmpeg calls a timeout "exit"."""
    if isinstance(error, require_av().error.ExitError):
        return f"no answer for {PATIENCE_S:.0f} seconds"
    return (error.strerror or str(error)).lower()


@dataclass(frozen=True)
class Orientation:
    """An orientation of a picture: transpose, then mirror left and right, then flip top and bottom."""

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    def apply(self, plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An oriented view of (H, W) or (H, W, C)."""
        shown = plane.swapaxes(0, 1) if self.transposed else plane
        return shown[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]


def orientation(frame: VideoFrame) -> Orientation:
    """The orientation in the display matrix of a frame; phones store rotation and mirroring only there.

    The matrix [a b; c d] shows the pixel (x, y) at (a x + c y, b x + d y), ISO/IEC 14496-12, 6.2.2. Other
    angles are rounded to the nearest multiple of 90 degrees.
    """
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transposed=True, mirrored=c < 0, flipped=b < 0)
    return Orientation(mirrored=a < 0, flipped=d < 0)


def upright_rgb(frame: VideoFrame) -> Image:
    """A decoded frame as RGB (H, W, 3) uint8, oriented by its display matrix."""
    pixels = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    return np.ascontiguousarray(orientation(frame).apply(pixels))


def read_video(path: Path, limit: int | None = None) -> Iterator[Image]:
    """At most `limit` upright frames as RGB (H, W, 3) uint8; raises UsageError as `decode_video`."""
    with open_video(str(path)) as container:
        yield from map(upright_rgb, islice(decode_video(container, str(path)), limit))
