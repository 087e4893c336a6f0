"""Show pictures in a window of OpenCV."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from edgedeploy.core.errors import DeviceError
from edgedeploy.demo.frames import as_rgb
from edgedeploy.demo.sink import Sink
from edgedeploy.task import Image

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

WINDOW = "edgedeploy"
QUIT_KEYS = frozenset({27, ord("q")})


class WindowSink(Sink):
    """A window on the screen; q or Esc closes it."""

    wants_text = True

    def __init__(self) -> None:
        reason = _why_no_window()
        if reason:
            raise DeviceError(f"cannot open a window: {reason}", "write a file instead: --sink out.mp4")
        self._opened = False

    def write(self, picture: Image | VideoFrame, timestamp: float, name: str) -> bool:  # noqa: ARG002
        try:
            if not self._opened:
                cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
                self._opened = True
            cv2.imshow(WINDOW, cv2.cvtColor(as_rgb(picture), cv2.COLOR_RGB2BGR))
            key = cv2.waitKey(1) & 0xFF
            return key not in QUIT_KEYS and cv2.getWindowProperty(WINDOW, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:
            raise DeviceError("this OpenCV has no windows", "write a file instead: --sink out.mp4") from None

    def finish(self) -> None:
        if self._opened:
            cv2.destroyAllWindows()

    def abort(self) -> None:
        self.finish()


def _why_no_window() -> str:
    if not sys.platform.startswith("linux") or os.environ.get("WAYLAND_DISPLAY"):
        return ""
    display = os.environ.get("DISPLAY", "")
    if not display:
        return "this machine has no display"
    # Qt ends the process if the display does not answer: check the socket of a local display first.
    socket = Path("/tmp/.X11-unix") / f"X{display[1:].split('.')[0]}"  # noqa: S108  where X puts it
    if display.startswith(":") and not socket.exists():
        return f"display {display} does not answer"
    return ""
