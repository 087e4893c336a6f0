"""Calibration inputs from wherever they are: a folder, an image, a video, an .npz, or any Python iterable.

One input is in memory at a time. What cannot be decoded is skipped and counted; nothing is ever made up in
its place, because ranges of random data give random accuracy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.backend import Feeds, check_feed
from edgedeploy.calibration.collect.arrays import array_feeds, array_files, folder_arrays, is_arrays
from edgedeploy.calibration.collect.sources import (
    folder_images,
    image_files,
    single_image,
    video_images,
)
from edgedeploy.core.errors import CalibrationError, UsageError
from edgedeploy.core.image_header import ALPHA, DEEP, GRAY, TURNED
from edgedeploy.core.spec import TensorSpec
from edgedeploy.task import Image
from edgedeploy.vision.images import resize_image
from edgedeploy.vision.video import is_video

Source = Path | str | Iterable[Mapping[str, NDArray[Any]] | Image]
FEW = 8
# What decoding makes of them.
MADE = {
    GRAY: " (repeated to RGB)",
    ALPHA: " (dropped)",
    DEEP: " (the upper 8 are used)",
    TURNED: " (turned upright)",
}
LISTED = 20


@dataclass
class DataReport:
    """What a pass over the data met; filled while the feeds are drawn, started afresh by every pass.

    Attributes:
        used: inputs that were yielded.
        duplicates: those of them whose image, or arrays, had been used before, byte for byte.
        skipped: name of each file that could not be used, and why.
        kinds: how many image files were no plain RGB, by what they were.
        sizes: how many different sizes the images had, before any resizing.
    """

    used: int = 0
    duplicates: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    sizes: int = 0

    def begin(self) -> None:
        """Forget the pass before."""
        self.used = self.duplicates = self.sizes = 0
        self.skipped.clear()
        self.kinds.clear()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know about the data, in one line each."""
        lines = []
        if self.used < FEW:
            lines.append(f"only {self.used} calibration inputs: give {FEW} or more, better 32 to 64")
        if self.duplicates:
            lines.append(f"{self.duplicates} of {self.used} calibration inputs are duplicates")
        if self.skipped:
            name, reason = next(iter(self.skipped.items()))
            lines.append(f"{len(self.skipped)} files skipped, the first {name}: {reason}")
        if self.kinds:
            kinds = ", ".join(f"{count} {kind}{MADE[kind]}" for kind, count in sorted(self.kinds.items()))
            lines.append(f"image files that are no plain RGB: {kinds}")
        if self.sizes > 1:
            lines.append(f"images of {self.sizes} different sizes")
        return tuple(lines)

    def summary(self) -> dict[str, Any]:
        """The report as JSON, with no more than LISTED of the files that were skipped."""
        document = asdict(self)
        document["skipped"] = dict(islice(self.skipped.items(), LISTED))
        return {**document, "skipped_files": len(self.skipped)}


def calibration_feeds(
    source: Source,
    preprocess: Callable[[Image], Feeds],
    limit: int = 64,
    *,
    inputs: tuple[str, ...] = (),
    specs: tuple[TensorSpec, ...] = (),
    size: tuple[int, int] | None = None,
    report: DataReport | None = None,
) -> Iterator[Feeds]:
    """Feeds for at most `limit` inputs of a source; call it anew for every pass over the data.

    Args:
        source: a folder of images (with its subfolders), an image, a video, an .npz or .npy file or a folder
            of such (see calibration/collect/arrays.py), or an iterable of images (RGB uint8 (H, W, 3)) or of
            feeds. Files and frames are spread evenly over what there is.
        preprocess: a task's own; makes the feeds of an image, and resizes it where the input's size is fixed.
        limit: most inputs to use.
        inputs: names of the model's inputs, for arrays: an .npz names its arrays like them, or holds one.
        specs: of the model's inputs; rows of arrays and feeds given as such are checked against them.
        size: (height, width) to which images are resized before `preprocess`, for inputs of dynamic size.
        report: is filled while the feeds are drawn.

    Raises:
        CalibrationError: the source is not there, is of no kind known, gave no usable input, or arrays that
            do not fit the inputs or are not finite.
    """
    report = report if report is not None else DataReport()
    report.begin()
    seen: set[bytes] = set()
    sizes: set[tuple[int, ...]] = set()
    for item in islice(_items(source, limit, inputs, specs, report), limit):
        if isinstance(item, Mapping):
            _check_row(item, specs)
        feeds = _feeds(item, preprocess, size)
        if not isinstance(item, Mapping):
            sizes.add(item.shape[:2])
            report.sizes = len(sizes)
        # Equal images make equal feeds, and are the smaller for most networks.
        digest = _digest(feeds if isinstance(item, Mapping) else {"": item})
        report.duplicates += digest in seen
        seen.add(digest)
        report.used += 1
        yield feeds
    if report.used == 0:
        reason = f": {next(iter(report.skipped.values()))}" if report.skipped else ""
        raise CalibrationError(
            f"{source if isinstance(source, (str, Path)) else 'the data'} gave no usable input{reason}",
            "give a folder with some dozens of typical images",
        )


def _digest(feeds: Feeds) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(feeds):
        digest.update(np.ascontiguousarray(feeds[name]).reshape(-1).view(np.uint8).data)
    return digest.digest()


def _items(
    source: Source,
    limit: int,
    inputs: tuple[str, ...],
    specs: tuple[TensorSpec, ...],
    report: DataReport,
) -> Iterable[Mapping[str, NDArray[Any]] | Image]:
    if not isinstance(source, (str, Path)):
        return source
    path = Path(source)
    if path.is_dir():
        arrays = [] if image_files(path) else array_files(path)
        if arrays:
            return folder_arrays(arrays, limit, inputs, specs)
        return folder_images(path, limit, report.skipped, report.kinds)
    if not path.is_file():
        raise CalibrationError(f"{path} does not exist", "give a folder of images, a video or an .npz file")
    if is_arrays(path):
        return array_feeds(path, limit, inputs, specs)
    return video_images(path, limit) if is_video(path) else single_image(path, report.skipped, report.kinds)


def _check_row(row: Mapping[str, NDArray[Any]], specs: tuple[TensorSpec, ...]) -> None:
    try:
        for spec in specs:
            check_feed(spec, row)
    except UsageError as error:
        raise CalibrationError(f"a row of the arrays does not fit: {error}", error.hint) from error
    for name, value in row.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise CalibrationError(
                f"a row of array '{name}' holds NaN or infinity", "leave such rows out: no range covers them"
            )


def _feeds(
    item: Mapping[str, NDArray[Any]] | Image,
    preprocess: Callable[[Image], Feeds],
    size: tuple[int, int] | None,
) -> Feeds:
    if isinstance(item, Mapping):
        return item
    if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3:
        raise CalibrationError(
            f"an image is {item.dtype} {list(item.shape)}", "images are RGB uint8 of shape (H, W, 3)"
        )
    return preprocess(item if size is None else resize_image(item, *size))
