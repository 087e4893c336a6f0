"""Open and decode video through PyAV, with every failure as one clear line.

Files and URLs go through FFmpeg's own libraries; the package `av` brings them, and is imported on first use.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedeploy.core.errors import DeviceError, MissingDependencyError, UsageError
from edgedeploy.task import Image

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

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


def open_video(uri: str, options: dict[str, str] | None = None) -> InputContainer:
    """Open a file or URL that has a video stream.

    The caller closes it. Raises UsageError for what is no video, DeviceError for an address that is silent.
    """
    av = require_av()
    remote = "://" in uri
    try:
        container: InputContainer = av.open(uri, options=options or {})
    except av.error.FFmpegError as error:
        reason = (error.strerror or str(error)).lower()
        if remote:
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

    `tolerant` skips damaged packets instead: a live stream begins anywhere and loses some on its way.
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
        raise UsageError(
            f"{uri} is damaged after {count} frames: {(error.strerror or str(error)).lower()}",
            f"stop before it with --limit {count}" if count else "copy or record it again",
        ) from None
    if not count:
        raise UsageError(f"{uri} holds no frames", "copy or record it again")


def read_video(path: Path, limit: int | None = None) -> Iterator[Image]:
    """Frames of a video file as RGB (H, W, 3) uint8, at most `limit`; UsageError as in `decode_video`."""
    container = open_video(str(path))
    try:
        for index, frame in enumerate(decode_video(container, str(path))):
            if index == limit:
                return
            yield np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    finally:
        container.close()
