"""The contract of a sink: it takes pictures, then finishes or is aborted."""

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
        path: the output file or folder; None for a window or null.
        wants_text: whether pictures show the speed as text.
    """

    path: Path | None = None
    wants_text = False

    @abstractmethod
    def write(self, picture: Image | VideoFrame, timestamp: float, name: str) -> bool:
        """Take one picture at a time in seconds; False stops the run. Raises OutputError or UsageError."""

    def finish(self) -> None:  # noqa: B027  only files have an end
        """Complete the output after the last picture."""

    def abort(self) -> None:  # noqa: B027
        """Leave no partial file after an error."""


class NullSink(Sink):
    """Discards pictures, to measure everything but the output."""

    def write(self, picture: Image | VideoFrame, timestamp: float, name: str) -> bool:  # noqa: ARG002
        return True
