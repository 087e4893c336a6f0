"""What the demo shows: the result alone, or side by side with a comparison.

The two methods of a view run in different threads: `infer` runs the network, `picture` makes the picture for
the sink. Super-resolution of video stays in YUV planes; the network writes into the picture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edgedeploy.core.errors import UsageError
from edgedeploy.demo.frames import Frame, Plane, as_yuv, new_yuv, planes
from edgedeploy.task import Image, Run, Task
from edgedeploy.tasks.segmentation import Segmentation
from edgedeploy.tasks.super_resolution import SuperResolution

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

VIEWS = ("result", "side-by-side")
FONT = cv2.FONT_HERSHEY_SIMPLEX
BLACK, WHITE = 16, 235  # studio-range luma


class View(ABC):
    """How results of one task become pictures."""

    @abstractmethod
    def infer(self, session: Run, frame: Frame) -> Any:
        """Run the network; the result owns its memory."""

    @abstractmethod
    def picture(self, frame: Frame, result: Any) -> Image | VideoFrame:
        """The picture for the sink."""


@dataclass(frozen=True)
class DrawView(View):
    """Any task on RGB: its drawing, with `beside` next to the input."""

    task: Task
    beside: bool

    def infer(self, session: Run, frame: Frame) -> Any:
        return self.task.run(session, frame.rgb)

    def picture(self, frame: Frame, result: Any) -> Image:
        image = frame.rgb
        if not self.beside:
            return self.task.draw(image, result)
        if isinstance(self.task, Segmentation):
            return np.hstack([image, self.task.draw_map(image, result)])
        right = self.task.draw(image, result)
        height, width = right.shape[:2]
        left = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
        if isinstance(self.task, SuperResolution):
            write_names(left, right, self.task.artifact.model)
        return np.hstack([left, right])


@dataclass(frozen=True)
class LumaView(View):
    """Super-resolution of YUV video without conversion to RGB."""

    task: SuperResolution
    beside: bool

    def infer(self, session: Run, frame: Frame) -> tuple[VideoFrame, VideoFrame]:
        video = as_yuv(frame.content)
        width, height = self.task.scale * video.width, self.task.scale * video.height
        # Both halves begin at an even column because chroma has half the resolution.
        half = width + width % 2
        result = new_yuv(half + width if self.beside else width, height, video)
        out = planes(result)[0]
        if half != width:
            out[:, width:half] = BLACK
        self.task.upscale(session, planes(video)[0], out=out[:, -width:])
        return video, result

    def picture(self, frame: Frame, result: Any) -> VideoFrame:  # noqa: ARG002
        video, picture = result
        (luma, *chroma), (target, *targets) = planes(video), planes(picture)
        if self.beside:
            width = self.task.scale * video.width
            left, right = target[:, :width], target[:, -width:]
            enlarge(luma, left)
            write_names(left, right, self.task.artifact.model)
        for small, large in zip(chroma, targets, strict=True):
            if not self.beside:
                enlarge(small, large)
                continue
            size = (self.task.scale * video.width + 1) // 2
            enlarge(small, large[:, :size])
            large[:, -size:] = large[:, :size]
        return picture  # type: ignore[no-any-return]


def check_view(name: str) -> None:
    """Raise UsageError for an unknown view."""
    if name not in VIEWS:
        raise UsageError(f"unknown view '{name}'", f"known: {', '.join(VIEWS)}")


def make_view(name: str, task: Task, yuv: bool) -> View:
    """The view called `name` in YUV or RGB."""
    beside = name == "side-by-side"
    if yuv and isinstance(task, SuperResolution) and not task.rgb:
        return LumaView(task, beside)
    return DrawView(task, beside)


def enlarge(small: Plane, large: Plane) -> None:
    """Write the bicubic interpolation of `small` into `large`."""
    cv2.resize(small, (large.shape[1], large.shape[0]), dst=large, interpolation=cv2.INTER_CUBIC)


def write_names(bicubic: Image | Plane, result: Image | Plane, model: str) -> None:
    """Write what the halves of a comparison of super-resolution show, in place."""
    write_text(bicubic, "bicubic")
    write_text(result, model)


def write_text(picture: Image | Plane, text: str, bottom: bool = False) -> None:
    """Write a line of text at the top or bottom left of an RGB picture or a luma plane, in place."""
    size = max(0.4, min(picture.shape[:2]) / 700)
    line = round(size * 32)
    place = (line // 3, picture.shape[0] - line // 3 if bottom else line)
    # A dark rim keeps text legible on any background.
    for shade, thickness in (((BLACK,) * 3, 4), ((WHITE,) * 3, 1)):
        cv2.putText(picture, text, place, FONT, size, shade, thickness, cv2.LINE_AA)
