"""Open the sink that the user names."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from edgedeploy.core.errors import OutputError, UsageError
from edgedeploy.demo.file_sinks import ImageSink, VideoSink
from edgedeploy.demo.frames import SQUARE
from edgedeploy.demo.sink import NullSink, Sink
from edgedeploy.demo.window_sink import WindowSink
from edgedeploy.vision.images import is_image

CONTAINERS = (".mp4", ".mkv")


def open_sink(target: str, fps: float, pixel_aspect: Fraction = SQUARE) -> Sink:
    """The sink "window" or "null", else a video file, an image file or a folder for PNGs.

    A video file keeps `pixel_aspect`, width / height of a pixel; images have square pixels.
    Raises DeviceError without a display, OutputError for an unwritable place, UsageError for other suffixes.
    """
    if target == "window":
        return WindowSink()
    if target == "null":
        return NullSink()
    path = Path(target)
    if path.suffix.lower() in CONTAINERS:
        return VideoSink(path, fps, pixel_aspect=pixel_aspect)
    if path.suffix and not path.is_dir() and not is_image(path):
        raise UsageError(
            f"cannot write {path.suffix} files",
            f"use {', '.join(CONTAINERS)}, .png, a folder, window or null",
        )
    folder = path.parent if is_image(path) else path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {error.strerror}", "choose another place with --sink"
        ) from None
    return ImageSink(path)
