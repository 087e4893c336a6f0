"""Text detection as ICDAR 2015 scores it: precision, recall and F-measure of regions that overlap by half.

Words marked ### neither count nor cost: detections that lie mostly on one are left out. ICDAR 2015 Robust
Reading, Incidental Scene Text, task 1 (rrc.cvc.uab.es); files as that challenge has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import MissingDependencyError, UsageError
from edgedeploy.vision.images import is_image

IGNORED = "###"
Points = NDArray[np.float32]


@dataclass(frozen=True)
class Word:
    """A word of the truth: its outline (n, 2) as x, y in pixels, and whether it does not count."""

    polygon: Points
    ignored: bool


class TextScore:
    """Counts over images, fed one at a time.

    Args:
        overlap: intersection over union beyond which a detection hits a word.
        mostly: share of a detection on an ignored word beyond which it is left out.
    """

    def __init__(self, overlap: float = 0.5, mostly: float = 0.5) -> None:
        self.overlap, self.mostly = overlap, mostly
        self.hits = self.words = self.detections = 0

    def add(self, truth: Sequence[Word], detected: Iterable[NDArray[Any]]) -> None:
        """Count one image. Outlines that cross themselves are left out on both sides, as in the protocol."""
        words = [(shape, word.ignored) for word in truth if (shape := _shape(word.polygon)) is not None]
        shapes = [shape for polygon in detected if (shape := _shape(polygon)) is not None]
        ignored = [shape for shape, left_out in words if left_out]
        counted = [shape for shape, left_out in words if not left_out]
        shapes = [shape for shape in shapes if not any(self._on(shape, other) for other in ignored)]
        self.words += len(counted)
        self.detections += len(shapes)
        free = list(shapes)
        for word in counted:  # each takes the first that fits, in order
            for index, shape in enumerate(free):
                shared = word.intersection(shape).area
                if shared > self.overlap * (word.area + shape.area - shared):
                    del free[index]
                    self.hits += 1
                    break

    def _on(self, shape: Any, ignored: Any) -> bool:
        return bool(shape.intersection(ignored).area > self.mostly * shape.area)

    @property
    def precision(self) -> float:
        """Share of detections that hit; 0 without any."""
        return self.hits / self.detections if self.detections else 0.0

    @property
    def recall(self) -> float:
        """Share of words that were hit; 0 without any."""
        return self.hits / self.words if self.words else 0.0

    @property
    def f_measure(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.words + self.detections
        return 2 * self.hits / total if total else 0.0


def _shape(polygon: NDArray[Any]) -> Any:
    """A shapely polygon, or None where its outline crosses itself or is empty."""
    try:
        from shapely.geometry import Polygon
    except ImportError:
        raise MissingDependencyError(
            "scores of text detection need shapely", "pip install 'edgedeploy[text]'"
        ) from None
    if len(polygon) < 3:
        return None
    shape = Polygon(np.asarray(polygon, np.float64))
    return shape if shape.is_valid and shape.is_simple and shape.area > 0 else None


def read_words(path: Path, *, polygon: bool = False) -> list[Word]:
    """Words of a truth file, a line each: x1,y1,...,x4,y4,text, where the text may hold commas.

    With `polygon` a line has any even number of coordinates, and the text, without commas, is its last field.
    Raises UsageError for a line of another form.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", "truth files are UTF-8 text") from None
    words = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        fields = line.strip().split(",") if polygon else line.strip().split(",", 8)
        try:
            values = [float(field) for field in (fields[:-1] if len(fields) != 8 else fields)]
        except ValueError:
            values = []
        if len(values) < 8 or len(values) % 2 or not np.isfinite(values).all():
            raise UsageError(
                f"{path}, line {number}: '{line[:60]}' is not a word", "write it as x1,y1,...,x4,y4,text"
            )
        text = fields[-1].strip() if len(fields) != 8 else ""
        words.append(Word(np.asarray(values, np.float32).reshape(-1, 2), text == IGNORED))
    return words


def truth_files(data: Path) -> list[tuple[Path, Path]]:
    """(image, truth) of a folder NAME_images with NAME_gts beside it, or of the folder above.

    Of several such pairs in a folder it takes test, else val, else the first. Truth files are called
    gt_STEM.txt, STEM.txt or FILE.txt. Raises UsageError where images or truth are missing.
    """
    below = {path.name.removesuffix("_images"): path for path in sorted(data.glob("*_images"))}
    folder = next((below[name] for name in ("test", "val", *below) if name in below), data)
    truth = folder.with_name(folder.name.removesuffix("_images") + "_gts")
    if not truth.is_dir() or truth == folder:
        raise UsageError(
            f"{data} holds no pair of images and truth",
            "it needs images in NAME_images/ and words in NAME_gts/gt_IMAGE.txt, as ICDAR 2015 has",
        )
    pairs = []
    for image in sorted(path for path in folder.iterdir() if is_image(path)):
        names = (f"gt_{image.stem}.txt", f"{image.stem}.txt", f"{image.name}.txt")
        found = next((truth / name for name in names if (truth / name).is_file()), None)
        if found is None:
            raise UsageError(f"{image} has no truth {truth / names[0]}", "write an empty file for no words")
        pairs.append((image, found))
    if not pairs:
        raise UsageError(f"{folder} holds no images", "put the images there")
    return pairs
