"""Open and decode video through PyAV, with every failure as one clear line.

Files and URLs go through FFmpeg's own libraries; the package `av` brings them, and is imported on first use.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
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

PATIENCE_S = 5.0  # how long an address may take for an answer
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
    """Whether the name is an address instead of a file's path."""
    return "://" in uri


def open_video(uri: str, options: dict[str, str] | None = None) -> InputContainer:
    """Open a file or URL that has a video stream; an address gets `PATIENCE_S` seconds for every answer.

    The caller closes it. Raises UsageError for what is no video, DeviceError for an address that is silent.
    """
    av = require_av()
    # PyAV's own limit of time serves every protocol. FFmpeg's option `timeout` does not: for RTMP it means
    # to wait for a sender instead of connecting.
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
    """The frames of an open video in order; UsageError for damaged data and where there are none.

    SourceLostError where an address falls silent. `tolerant` skips damaged packets: a live stream begins
    anywhere and loses some on its way.
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
    """FFmpeg's words for an error; a limit of time that has passed is "exit" to it."""
    if isinstance(error, require_av().error.ExitError):
        return f"no answer for {PATIENCE_S:.0f} seconds"
    return (error.strerror or str(error)).lower()


@dataclass(frozen=True)
class Orientation:
    """How a decoded picture is turned and mirrored before it is shown: one of the eight of a rectangle.

    Attributes:
        transposed: rows become columns; this comes first.
        mirrored: left and right are exchanged afterward.
        flipped: top and bottom are exchanged afterward.
    """

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    def apply(self, plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A view of (H, W) or (H, W, C) as it is shown."""
        shown = plane.swapaxes(0, 1) if self.transposed else plane
        return shown[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]


def orientation(frame: VideoFrame) -> Orientation:
    """What the display matrix of a frame asks for; phones film sideways, or mirrored, and only note it.

    The matrix [a b; c d] shows the pixel (x, y) at (a x + c y, b x + d y), ISO/IEC 14496-12, 6.2.2. A matrix
    that is not a multiple of 90 degrees is taken for the nearest one.
    """
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transposed=True, mirrored=c < 0, flipped=b < 0)
    return Orientation(mirrored=a < 0, flipped=d < 0)


def upright_rgb(frame: VideoFrame) -> Image:
    """A decoded frame as RGB (H, W, 3) uint8, turned and mirrored as its display matrix says."""
    pixels = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    return np.ascontiguousarray(orientation(frame).apply(pixels))


def read_video(path: Path, limit: int | None = None) -> Iterator[Image]:
    """Upright frames of a video as RGB (H, W, 3) uint8, at most `limit`; UsageError as in `decode_video`."""
    container = open_video(str(path))
    try:
        for index, frame in enumerate(decode_video(container, str(path))):
            if index == limit:
                return
            yield upright_rgb(frame)
    finally:
        container.close()
