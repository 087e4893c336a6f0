"""Play a bundle: decode its low-resolution video, restore every frame, hand it to a sink of the demo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import UsageError
from edgedeploy.core.progress import Progress
from edgedeploy.demo.frames import Frame, as_yuv
from edgedeploy.demo.pipeline import DemoStats, Pipeline
from edgedeploy.demo.sink import Sink
from edgedeploy.demo.sinks import CONTAINERS, open_sink
from edgedeploy.demo.sources import Source, VideoSource
from edgedeploy.demo.views import VIEWS, View, write_text
from edgedeploy.stdo.bundle import Bundle
from edgedeploy.stdo.manifest import decibel
from edgedeploy.stdo.restorer import FRAME, INDEX, RESTORED, Restorer
from edgedeploy.stdo.sound import copy_sound
from edgedeploy.task import Run

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PlayStats:
    """What playing a bundle was like.

    Attributes:
        demo: counts and times.
        psnr: dB against the reference, None without one; RGB, over all pixels of all frames played.
        sound: why the file written has no sound, or "".
    """

    demo: DemoStats
    psnr: float | None
    sound: str


def play(
    bundle: Bundle,
    sink: str | Sink = "window",
    *,
    reference: Path | None = None,
    view: str = "result",
    limit: int | None = None,
    backend: str | None = None,
    threads: int = 0,
    whole: bool | None = None,
    on_frame: Progress | None = None,
) -> PlayStats:
    """Restore a bundle's video frame by frame.

    Args:
        sink: as `open_sink` takes it, or opened. A video file gets the bundle's sound too.
        reference: the source video, to measure against.
        view: "result", or "side-by-side" with bicubic interpolation.
        limit: stop after so many frames.
        backend, threads, whole: as in Restorer.
        on_frame: called with (frames written, frames in all).

    Raises UsageError, DeviceError or OutputError of the parts, ArtifactError of a bundle that does not fit
    together; then no half-written file is left.
    """
    if view not in VIEWS:
        raise UsageError(f"unknown view '{view}'", f"known: {', '.join(VIEWS)}")
    if limit is not None and limit < 1:
        raise UsageError(f"cannot show {limit} frames", "give --limit 1 or more")
    manifest = bundle.manifest
    with ExitStack() as stack:
        truth = (
            _Reference(stack.enter_context(closing(_video(reference))), manifest.width, manifest.height)
            if reference
            else None
        )
        restorer = stack.enter_context(Restorer(bundle, backend=backend, threads=threads, whole=whole))
        source = _video(bundle.video)
        writer: Sink | None = None
        run: Pipeline | None = None
        try:
            writer = sink if isinstance(sink, Sink) else open_sink(sink, manifest.fps, source.pixel_aspect)
            shown = RestoredView((manifest.width, manifest.height), view == "side-by-side", truth)
            run = Pipeline(lambda _: shown, restorer, source, writer, limit, on_frame)
            stats = run.run()
        except BaseException:
            if run is None:
                source.close()
            if writer is not None:
                writer.abort()
            raise
    silent = ""
    if stats.path is not None and stats.path.suffix.lower() in CONTAINERS:
        silent = copy_sound(stats.path, bundle.video, stats.path)
    return PlayStats(stats, truth.psnr if truth else None, silent)


@dataclass(frozen=True)
class RestoredView(View):
    """Restored frames, beside their bicubic interpolation if asked.

    Attributes:
        size: (width, height) of what is shown.
        beside: whether to show both.
        reference: what the frames are measured against.
    """

    size: tuple[int, int]
    beside: bool
    reference: _Reference | None

    def infer(self, session: Run, frame: Frame) -> Pixels:
        feeds = {FRAME: frame.rgb, INDEX: np.array([frame.index])}
        return np.asarray(session(feeds)[RESTORED], dtype=np.uint8)

    def picture(self, frame: Frame, result: Pixels) -> VideoFrame:
        if self.reference is not None:
            self.reference.compare(result)
        if self.beside:
            bicubic = np.array(enlarged(frame.rgb, self.size))
            restored = np.array(result)
            write_text(bicubic, "bicubic")
            write_text(restored, "stdo")
            result = np.hstack([bicubic, restored])
        picture = as_yuv(result)
        # Decoding and encoding use one matrix, so the video has the colors that its own tag says.
        picture.colorspace = as_yuv(frame.content).colorspace
        return picture


def enlarged(frame: Pixels, size: tuple[int, int]) -> Pixels:
    """Bicubic interpolation of a low-resolution frame, cropped to (width, height)."""
    scale = -(-size[1] // frame.shape[0])
    whole = (scale * frame.shape[1], scale * frame.shape[0])
    bicubic = cv2.resize(frame, whole, interpolation=cv2.INTER_CUBIC)
    return np.asarray(bicubic, dtype=np.uint8)[: size[1], : size[0]]


class _Reference:
    """The source video in step with what is restored."""

    def __init__(self, source: Source, width: int, height: int) -> None:
        if (source.width, source.height) != (width, height):
            raise UsageError(
                f"{source.uri} is {source.width}x{source.height}, the bundle {width}x{height}",
                "name the video that was encoded with --reference",
            )
        self._frames: Iterator[Frame] = source.frames()
        self._uri, self._errors, self._frames_seen, self._values = source.uri, 0.0, 0, 0

    def compare(self, picture: Pixels) -> None:
        """The next frame; raises UsageError where there is none."""
        frame = next(self._frames, None)
        if frame is None:
            raise UsageError(
                f"{self._uri} ends after {self._frames_seen} frames, before the bundle",
                "name the video that was encoded with --reference",
            )
        self._errors += float(cv2.norm(frame.rgb, np.ascontiguousarray(picture), cv2.NORM_L2SQR))
        self._frames_seen += 1
        self._values += picture.size

    @property
    def psnr(self) -> float | None:
        return decibel(self._errors / self._values) if self._values else None


def _video(path: Path | None) -> VideoSource:
    if path is None or not path.is_file():
        raise UsageError(f"{path} does not exist", "name a video file")
    return VideoSource(str(path))
