"""What an ordinary encoder reaches for a number of bytes: x264 at full resolution, and of a small video.

x264 (medium) is the product's own for the small video. Its quality (crf) is searched for, so that the file is
the largest one within the bytes allowed, to a hundredth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedeploy.demo.file_sinks import VideoSink
from edgedeploy.demo.frames import Frame, as_yuv
from edgedeploy.encode.clip import low_picture, low_size, open_clip_source, x264
from edgedeploy.stdo.patches import Pixels
from edgedeploy.vision.resize import imresize
from edgedeploy.vision.video import decode_video, open_video

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

Enlarge = Callable[[Pixels], Pixels]
LOWEST_CRF, FIRST_CRF, HIGHEST_CRF = 1.0, 20.0, 51.0  # at 0 x264 loses nothing, by another way of coding
BYTES_PER_CRF, CLOSE, TRIES = 0.12, 0.985, 8


@dataclass(frozen=True)
class Coded:
    """A file that x264 made at a quality."""

    crf: float
    bytes: int
    video: Path


def shrink_source(path: Path, out: Path, size: tuple[int, int], frames: int) -> None:
    """The first frames of a clip at (height, width), without any loss: what every method starts from."""
    with open_video(str(path)) as container:
        rate = container.streams.video[0].average_rate or Fraction(25)
        sink = VideoSink(out, float(rate), {"preset": "medium", "qp": "0"})
        try:
            for index, frame in enumerate(islice(decode_video(container, str(path)), frames)):
                small = frame.reformat(
                    width=size[1], height=size[0], format="yuv420p", interpolation="LANCZOS"
                )
                sink.write(small, float(index / rate), "")
            sink.finish()
        finally:
            sink.abort()


class Rates:
    """A source as x264 encodes it.

    Attributes:
        fps: frames a second.
        high: its pictures.
        folder: where the encoded files go.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        with closing(open_clip_source(source)) as opened:
            self.fps = opened.fps
            self.frames: list[Frame] = list(opened.frames())
        self.high = [as_yuv(frame.content) for frame in self.frames]

    def low(self, scale: int) -> list[VideoFrame]:
        """The small video's pictures, as the product shrinks them."""
        height, width = low_size(self.high[0].height, self.high[0].width, scale)
        return [low_picture(frame, scale, height, width) for frame in self.frames]

    def encode(self, pictures: Sequence[VideoFrame], crf: float) -> Path:
        """The file at this quality; it is overwritten by the next."""
        out = self.folder / "rate.mp4"
        sink = VideoSink(out, self.fps, x264(crf))
        try:
            for index, picture in enumerate(pictures):
                sink.write(picture, index / self.fps, "")
            sink.finish()
        finally:
            sink.abort()
        return out

    def within(self, pictures: Sequence[VideoFrame], allowed: int) -> tuple[Coded, list[Coded]]:
        """The largest file of at most `allowed` bytes, and all that were tried on the way to it.

        The logarithm of the bytes is nearly linear in crf, so a line through the nearest tries leads there.
        Raises SystemExit where so few bytes are not reached.
        """
        tried: list[Coded] = []
        crf = FIRST_CRF
        for number in range(TRIES):
            video = self.encode(pictures, crf)
            tried.append(Coded(crf, video.stat().st_size, video.rename(video.with_stem(f"try{number}"))))
            above = min((c for c in tried if c.bytes > allowed), key=lambda c: c.bytes, default=None)
            below = max((c for c in tried if c.bytes <= allowed), key=lambda c: c.bytes, default=None)
            if below and (below.bytes >= CLOSE * allowed or below.crf == LOWEST_CRF):
                break
            slope = BYTES_PER_CRF
            if above and below:
                slope = math.log(above.bytes / below.bytes) / (below.crf - above.crf)
            near = below or above or tried[-1]
            crf = near.crf + math.log(near.bytes / (0.997 * allowed)) / slope
            crf = round(min(max(crf, LOWEST_CRF), HIGHEST_CRF), 3)
        if below is None:
            raise SystemExit(f"{allowed} bytes are too few for this clip: take more frames, or a lower --crf")
        return below, tried

    def psnr(self, video: Path, enlarge: Enlarge | None = None) -> float:
        """dB of RGB in 8 bit against the source, over all pixels of all frames."""
        squares, values = 0.0, 0
        for frame, decoded in zip(self.frames, _decoded(video), strict=True):
            truth = frame.rgb
            found = decoded if enlarge is None else enlarge(decoded)[: truth.shape[0], : truth.shape[1]]
            squares += float(np.square(np.subtract(found, truth, dtype=np.int32)).sum())
            values += truth.size
        return 10 * math.log10(255.0**2 * values / squares) if squares else math.inf


def bicubic(scale: int) -> Enlarge:
    """Interpolation as `edgedeploy stdo` measures it."""

    def enlarge(low: Pixels) -> Pixels:
        height, width = (scale * side for side in low.shape[:2])
        return np.asarray(imresize(low, height, width), dtype=np.uint8)

    return enlarge


def _decoded(video: Path) -> Iterator[Pixels]:
    with closing(open_clip_source(video)) as source:
        for frame in source.frames():
            yield frame.rgb
