"""The contract of a sink: it takes pictures, and either finishes or is aborted.

A video file appears under its name only when it is whole; after an error nothing half-written is left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.task import Image

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


class Sink(ABC):
    """Takes pictures until `finish` or `abort`.

    Attributes:
        path: what was or will be written, None for what leaves nothing.
        wants_text: whether the speed is to be written on the pictures.
    """

    path: Path | None = None
    wants_text = False

    @abstractmethod
    def write(self, picture: Image | VideoFrame, timestamp: float, name: str) -> bool:
        """Take one picture with its time in seconds; False asks to stop. Raises OutputError or UsageError."""

    def finish(self) -> None:  # noqa: B027  only files have an end
        """All pictures came: make the file whole."""

    def abort(self) -> None:  # noqa: B027
        """Something failed: leave nothing half-written."""


class NullSink(Sink):
    """Measures everything but the output."""

    def write(self, picture: Image | VideoFrame, timestamp: float, name: str) -> bool:  # noqa: ARG002
        return True
