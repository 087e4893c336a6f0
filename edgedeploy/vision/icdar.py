"""The protocol and files of ICDAR 2015: precision, recall and F-measure of regions that overlap by half.

Words marked ### do not count, nor do detections mostly on such a word. ICDAR 2015 Robust Reading, Incidental
Scene Text, task 1 (rrc.cvc.uab.es).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import MissingDependencyError, UsageError
from edgedeploy.vision.images import list_images

IGNORED = "###"
ON_IGNORED = 0.5  # share of a detection on an ignored word beyond which it does not count
Points = NDArray[np.float32]


@dataclass(frozen=True)
class Word:
    """A word of the ground truth: outline (n, 2) as x, y in pixels; an ignored word does not count."""

    polygon: Points
    ignored: bool


class TextScore:
    """Counts over images: a detection hits a word if their intersection over union exceeds `overlap`."""

    def __init__(self, overlap: float = 0.5) -> None:
        self.overlap = overlap
        self.hits = self.words = self.detections = 0

    def add(self, truth: Sequence[Word], detected: Iterable[NDArray[Any]]) -> None:
        """Count one image; the protocol excludes outlines that cross themselves."""
        words = [(shape, word.ignored) for word in truth if (shape := _shape(word.polygon)) is not None]
        ignored = [shape for shape, excluded in words if excluded]
        counted = [shape for shape, excluded in words if not excluded]
        free = [
            shape
            for polygon in detected
            if (shape := _shape(polygon)) is not None
            and not any(shape.intersection(other).area > ON_IGNORED * shape.area for other in ignored)
        ]
        self.words += len(counted)
        self.detections += len(free)
        for word in counted:  # the first detection that fits, in order
            for index, shape in enumerate(free):
                shared = word.intersection(shape).area
                if shared > self.overlap * (word.area + shape.area - shared):
                    del free[index]
                    self.hits += 1
                    break

    @property
    def precision(self) -> float:
        """Hits / detections; 0 without detections."""
        return self.hits / self.detections if self.detections else 0.0

    @property
    def recall(self) -> float:
        """Hits / words; 0 without words."""
        return self.hits / self.words if self.words else 0.0

    @property
    def f_measure(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.words + self.detections
        return 2 * self.hits / total if total else 0.0


def _shape(polygon: NDArray[Any]) -> Any:
    """A shapely polygon; None for an outline that crosses itself or is empty."""
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
    """Words of a truth file with lines x1,y1,...,x4,y4,text; the text may contain commas.

    With `polygon` a line has any even number of coordinates; the text, without commas, is its last field.
    Raises UsageError for another line.
    """
    words = []
    for number, line in read_lines(path):
        fields = line.strip().split(",") if polygon else line.strip().split(",", 8)
        try:
            values = [float(field) for field in (fields[:-1] if len(fields) != 8 else fields)]
        except ValueError:
            values = []
        if len(values) < 8 or len(values) % 2 or not np.isfinite(values).all():
            raise bad_line(path, number, line, "write it as x1,y1,...,x4,y4,text")
        text = fields[-1].strip() if len(fields) != 8 else ""
        words.append(Word(np.asarray(values, np.float32).reshape(-1, 2), text == IGNORED))
    return words


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, text) of the lines of a truth file that are not blank; raises UsageError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", "truth files are UTF-8 text") from None
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def bad_line(path: Path, number: int, line: str, form: str) -> UsageError:
    """The error for a line of a truth file that does not have this form."""
    return UsageError(f"{path}, line {number}: '{line[:60]}' is not a word", form)


def truth_files(data: Path) -> list[tuple[Path, Path]]:
    """(image, truth) files of a folder NAME_images with NAME_gts beside it, or of the folder above.

    Of several NAMEs it takes test, else val, else the first. Truth files are gt_STEM.txt, STEM.txt or
    FILE.txt. Raises UsageError for missing images or truth.
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
    for image in list_images(folder):
        names = (f"gt_{image.stem}.txt", f"{image.stem}.txt", f"{image.name}.txt")
        words = next((truth / name for name in names if (truth / name).is_file()), None)
        if words is None:
            raise UsageError(f"{image} has no truth {truth / names[0]}", "write an empty file for no words")
        pairs.append((image, words))
    return pairs
