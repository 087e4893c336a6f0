"""Sources of pictures: a webcam by number, a video file, images, or an RTSP or HTTP address.

PyAV decodes files and addresses, OpenCV reads webcams. The channel after a source drops frames if necessary.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from edgedeploy.core.errors import DeviceError, SourceLostError, UsageError
from edgedeploy.demo.frames import SQUARE, Frame, as_yuv, upright
from edgedeploy.task import Image
from edgedeploy.vision.images import is_image, list_images, read_image
from edgedeploy.vision.video import decode_video, is_remote, open_video, orientation

LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtp", "udp", "srt", "mms"})
IMAGES_PER_SECOND = 2.0
MOST_DIGITS = 9  # OpenCV counts cameras in 32 bits
LOW_LATENCY = {"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay"}


class Source(ABC):
    """A sequence of frames.

    Attributes:
        uri: as the user gave it.
        live: whether frames may be dropped.
        width, height: of the first frame, in pixels.
        fps: frames per second by the source's metadata.
        total: number of frames, or None.
        pixel_aspect: width / height of an upright pixel.
    """

    def __init__(
        self,
        uri: str,
        live: bool,
        width: int,
        height: int,
        fps: float,
        total: int | None = None,
        pixel_aspect: Fraction = SQUARE,
    ) -> None:
        self.uri, self.live, self.total = uri, live, total
        self.width, self.height, self.fps, self.pixel_aspect = width, height, fps, pixel_aspect

    @abstractmethod
    def frames(self) -> Iterator[Frame]:
        """The frames in order, once; raises DeviceError or UsageError if reading fails."""

    def close(self) -> None:  # noqa: B027  only devices and files have something to close
        """Release the device or file; may be called twice, but not while another thread reads."""


class VideoSource(Source):
    """A file or address that FFmpeg reads; frames are YUV 4:2:0, upright."""

    def __init__(self, uri: str) -> None:
        scheme = uri.partition("://")[0].lower() if is_remote(uri) else ""
        self._container = open_video(uri, LOW_LATENCY if scheme in LIVE_SCHEMES else None)
        stream = self._container.streams.video[0]
        live = scheme in LIVE_SCHEMES or (bool(scheme) and self._container.duration is None)
        self._decoded = decode_video(self._container, uri, tolerant=live)
        try:
            # Read now: a file without frames is refused at once, and the orientation is that of a frame.
            decoded = as_yuv(next(self._decoded))
            self._first = upright(decoded)
        except BaseException:
            self.close()
            raise
        fps = float(stream.average_rate or stream.guessed_rate or 25)
        aspect = stream.sample_aspect_ratio or SQUARE
        aspect = 1 / aspect if orientation(decoded).transposed else aspect
        size = (self._first.width, self._first.height)
        super().__init__(uri, live, *size, fps, stream.frames or None, aspect)

    def frames(self) -> Iterator[Frame]:
        rest = (upright(as_yuv(picture)) for picture in self._decoded)
        # The first frame of a live source is old: the model was opened after it.
        for index, picture in enumerate(rest if self.live else chain([self._first], rest)):
            seconds = index / self.fps if picture.pts is None else float(picture.time)
            yield Frame(index, seconds, time.perf_counter(), picture, f"{index:06d}")

    def close(self) -> None:
        self._decoded.close()
        self._container.close()


class ImageSource(Source):
    """One image or the images of a folder, in order of name."""

    def __init__(self, path: Path) -> None:
        self._files = list_images(path) if path.is_dir() else [path]
        height, width = read_image(self._files[0]).shape[:2]
        super().__init__(str(path), False, width, height, IMAGES_PER_SECOND, len(self._files))

    def frames(self) -> Iterator[Frame]:
        for index, file in enumerate(self._files):
            image = read_image(file)
            yield Frame(index, index / self.fps, time.perf_counter(), image, file.stem)


class CameraSource(Source):
    """A webcam by its number."""

    def __init__(self, number: int) -> None:
        with quiet_stderr():
            self._camera = cv2.VideoCapture(number)
            # The driver's queue holds old frames: make it as short as possible.
            self._camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)
            first = self._read() if self._camera.isOpened() else None
        if first is None:
            self._camera.release()
            raise DeviceError(f"there is no camera {number}", "give a video file or an address with --source")
        fps = self._camera.get(cv2.CAP_PROP_FPS)
        self._first: Image = first
        super().__init__(str(number), True, first.shape[1], first.shape[0], fps if fps > 0 else 30.0)

    def frames(self) -> Iterator[Frame]:
        index, begin = 0, time.perf_counter()
        image: Image | None = self._first
        while image is not None:
            now = time.perf_counter()
            yield Frame(index, now - begin, now, image, f"{index:06d}")
            image, index = self._read(), index + 1
        raise SourceLostError(f"camera {self.uri} stopped after {index} frames", "check its cable")

    def close(self) -> None:
        self._camera.release()

    def _read(self) -> Image | None:
        done, picture = self._camera.read()
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8) if done else None


def open_source(uri: str) -> Source:
    """Open the source that the user names; raises DeviceError or UsageError."""
    if uri.isdecimal():
        if len(uri) > MOST_DIGITS:
            raise DeviceError(f"there is no camera {uri[:20]}", "give a camera's number: 0 is the first")
        return CameraSource(int(uri))
    if is_remote(uri):
        return VideoSource(uri)
    path = Path(uri)
    if not path.exists():
        raise UsageError(
            f"{uri} does not exist", "give a file, a folder of images, a webcam number or an address"
        )
    if path.is_dir() or is_image(path):
        return ImageSource(path)
    return VideoSource(uri)


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Discard what OpenCV's camera drivers print; the error raised here has one line."""
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
