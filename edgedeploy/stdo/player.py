"""Play a bundle: decode its low-resolution video, restore every frame, pass it to a sink of the demo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from edgedeploy.core.errors import UsageError
from edgedeploy.core.progress import Progress
from edgedeploy.demo.frames import Frame, as_yuv
from edgedeploy.demo.pipeline import DemoStats, Pipeline, check_limit
from edgedeploy.demo.sink import Sink
from edgedeploy.demo.sinks import CONTAINERS, open_sink
from edgedeploy.demo.sources import Source, VideoSource
from edgedeploy.demo.views import View, check_view, write_names
from edgedeploy.stdo.bundle import Bundle
from edgedeploy.stdo.manifest import decibel
from edgedeploy.stdo.patches import Pixels
from edgedeploy.stdo.restorer import FRAME, INDEX, RESTORED, Restorer
from edgedeploy.stdo.sound import copy_sound
from edgedeploy.task import Run

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


@dataclass(frozen=True)
class PlayStats:
    """The run of a bundle.

    Attributes:
        demo: counts and times.
        psnr: dB against the reference over all RGB pixels of the frames played; None without a reference.
        sound: why the output file has no sound, or "".
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
    full_frame: bool | None = None,
    on_frame: Progress | None = None,
) -> PlayStats:
    """Restore a bundle's video frame by frame.

    Args:
        sink: argument of `open_sink`, or an opened sink. A video file also gets the bundle's sound.
        reference: the source video, to measure the PSNR.
        view: "result", or "side-by-side" with bicubic interpolation.
        limit: number of frames.
        backend, threads, full_frame: as in Restorer.
        on_frame: called with (frames written, total).

    Raises UsageError, DeviceError, OutputError, and ArtifactError for an inconsistent bundle; leaves no
    partial file.
    """
    check_view(view)
    check_limit(limit)
    manifest = bundle.manifest
    with ExitStack() as stack:
        truth = (
            _Reference(stack.enter_context(closing(_video(reference))), manifest.width, manifest.height)
            if reference
            else None
        )
        restorer = stack.enter_context(
            Restorer(bundle, backend=backend, threads=threads, full_frame=full_frame)
        )
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
    """Restored frames of `size` (width, height), with `beside` next to their bicubic interpolation."""

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
            bicubic, restored = np.array(enlarged(frame.rgb, self.size)), np.array(result)
            write_names(bicubic, restored, "stdo")
            result = np.hstack([bicubic, restored])
        picture = as_yuv(result)
        # Decoding and encoding use one matrix, so the colors of the video match its tag.
        picture.colorspace = as_yuv(frame.content).colorspace
        return picture


def enlarged(frame: Pixels, size: tuple[int, int]) -> Pixels:
    """Bicubic interpolation of a low-resolution frame, cropped to (width, height)."""
    scale = -(-size[1] // frame.shape[0])
    padded = (scale * frame.shape[1], scale * frame.shape[0])
    bicubic = cv2.resize(frame, padded, interpolation=cv2.INTER_CUBIC)
    return np.asarray(bicubic, dtype=np.uint8)[: size[1], : size[0]]


class _Reference:
    """The source video, read in step with the restored frames."""

    def __init__(self, source: Source, width: int, height: int) -> None:
        if (source.width, source.height) != (width, height):
            raise UsageError(
                f"{source.uri} is {source.width}x{source.height}, the bundle {width}x{height}",
                "name the video that was encoded with --reference",
            )
        self._frames: Iterator[Frame] = source.frames()
        self._uri, self._errors, self._frames_seen, self._values = source.uri, 0.0, 0, 0

    def compare(self, picture: Pixels) -> None:
        """Compare with the next frame; raises UsageError if there is none."""
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
