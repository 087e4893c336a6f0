"""Many small labeled pictures in one file: an .npz of their JPEG or PNG bytes, as CIFAR is kept in.

Arrays: `jpeg` (uint8, the encoded files one behind the other), `offsets` (n + 1, where each begins and the
last ends), `labels` (n, class numbers), `classes` (their names).
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from edgedeploy.core.errors import UsageError
from edgedeploy.task import Image
from edgedeploy.vision.images import decode_rgb

ARRAYS = ("jpeg", "offsets", "labels", "classes")


class ImageArchive:
    """Pictures of an archive by number.

    Attributes:
        labels: class number of every picture, int64.
        classes: names of the classes.

    Raises UsageError where the file is no such archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                missing = [name for name in ARRAYS if name not in arrays]
                found = {name: arrays[name] for name in ARRAYS if name not in missing}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"{path} is not a whole .npz: {error}", "it holds " + ", ".join(ARRAYS)
            ) from None
        if missing:
            raise UsageError(f"{path} has no array {missing[0]}", "it holds " + ", ".join(ARRAYS))
        self.labels = found["labels"].astype(np.int64)
        self.classes = tuple(map(str, found["classes"]))
        self._bytes, self._offsets = found["jpeg"].astype(np.uint8, copy=False), found["offsets"]
        if len(self._offsets) != len(self.labels) + 1 or int(self._offsets[-1]) > self._bytes.size:
            raise UsageError(f"{path} is cut off: its offsets do not fit its pictures", "fetch it again")
        if not len(self.labels) or not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise UsageError(f"{path} has no pictures, or labels without a class", "fetch it again")

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image:
        """Picture number `index` as RGB (H, W, 3) uint8; raises UsageError where it is damaged."""
        first, last = int(self._offsets[index]), int(self._offsets[index + 1])
        try:
            return decode_rgb(self._bytes[first:last].tobytes())
        except ValueError as error:
            raise UsageError(f"{self.path}: picture {index} is {error}", "fetch the file again") from None
