"""Many small labeled images in one file: an .npz of their JPEG or PNG bytes, used for CIFAR.

Arrays: `jpeg` (uint8, the concatenated files), `offsets` (n + 1, start of each file and end of the last),
`labels` (n, class numbers), `classes` (their names).
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
    """Images of an archive by number, with `labels` (n,) int64; raises UsageError for an invalid file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                missing = [name for name in ARRAYS if name not in arrays]
                values = {name: arrays[name] for name in ARRAYS if name not in missing}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            content = "it holds " + ", ".join(ARRAYS)
            raise UsageError(f"{path} is not a whole .npz: {error}", content) from None
        if missing:
            raise UsageError(f"{path} has no array {missing[0]}", "it holds " + ", ".join(ARRAYS))
        self.labels = values["labels"].astype(np.int64)
        self.classes = tuple(map(str, values["classes"]))
        self._bytes, self._offsets = values["jpeg"].astype(np.uint8, copy=False), values["offsets"]
        if len(self._offsets) != len(self.labels) + 1 or int(self._offsets[-1]) > self._bytes.size:
            raise UsageError(f"{path} is cut off: its offsets do not fit its pictures", "fetch it again")
        if not len(self.labels) or not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise UsageError(f"{path} has no pictures, or labels without a class", "fetch it again")

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image:
        """Image number `index` as RGB (H, W, 3) uint8; raises UsageError for a damaged image."""
        first, last = int(self._offsets[index]), int(self._offsets[index + 1])
        try:
            return decode_rgb(self._bytes[first:last].tobytes())
        except ValueError as error:
            raise UsageError(f"{self.path}: picture {index} is {error}", "fetch the file again") from None
