"""Layouts of data sets of scene text, as published.

icdar2015   SPLIT_images/NAME.jpg, SPLIT_gts/gt_NAME.txt of x1,y1,...,x4,y4,text; also as DB converts others
total-text  Images/Train/NAME.jpg, Groundtruth/Polygon/Train/poly_gt_NAME.txt of "x: [[...]], y: [[...]], ..."
td500       train/NAME.JPG, train/NAME.gt of "index difficult x y w h angle", rotated about the box's center
Words of text ### or #, and difficult words of td500, do not count. A training names its layout, an evaluation
detects it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edgedeploy.core.errors import UnknownNameError, UsageError
from edgedeploy.vision.icdar import Word, bad_line, read_lines, read_words, truth_files
from edgedeploy.vision.images import list_images

Find = Callable[[Path, str], list[tuple[Path, Path]]]
Read = Callable[[Path], list[Word]]


@dataclass(frozen=True)
class TextLayout:
    """`find(root, split)` returns (image, truth) files, `read` the words of a truth file.

    `splits` are the names of the folders for "train" and "test".
    """

    find: Find
    read: Read
    splits: tuple[str, str]


def find_texts(root: Path, layout: str, split: str = "train") -> list[tuple[Path, list[Word]]]:
    """The images of a split ("train" or "test") with their words, sorted by name.

    Raises UnknownNameError, and UsageError for a missing file or a malformed line.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, list(LAYOUTS))
    chosen = LAYOUTS[layout]
    pairs = _complete(chosen.find(root, chosen.splits[split == "test"]))
    return [(image, chosen.read(truth)) for image, truth in pairs]


def labeled_texts(data: Path, *, polygon: bool) -> tuple[list[tuple[Path, Path]], Read]:
    """(image, truth) files for an evaluation and the reader of a truth file; see `TextDetection.evaluate`.

    `polygon`: words of an icdar2015 file may have more than four corners. Raises UsageError.
    """
    published = _total_text_at(data) or _td500_at(data)
    if published is None:
        return truth_files(data), partial(read_words, polygon=polygon)
    layout, root, split = published
    return _complete(layout.find(root, split)), layout.read


def _total_text_at(data: Path) -> tuple[TextLayout, Path, str] | None:
    """(layout, root, split) if `data` is Total-Text or one of its splits."""
    if data.parent.name == "Images" and (data.parent.parent / "Groundtruth").is_dir():
        return LAYOUTS["total-text"], data.parent.parent, data.name
    if (data / "Images").is_dir() and (data / "Groundtruth").is_dir():
        split = "Test" if (data / "Images" / "Test").is_dir() else "Train"
        return LAYOUTS["total-text"], data, split
    return None


def _td500_at(data: Path) -> tuple[TextLayout, Path, str] | None:
    """(layout, root, split) if `data` has .gt files, as MSRA-TD500."""
    for folder in (data, data / "test", data / "train"):
        if any(folder.glob("*.gt")):
            return LAYOUTS["td500"], folder.parent, folder.name
    return None


def _complete(pairs: list[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    missing = [truth for _, truth in pairs if not truth.is_file()]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(pairs)} truths are missing, first {missing[0]}", "one an image"
        )
    return pairs


def read_total_text(path: Path) -> list[Word]:
    """Words of a truth file of Total-Text; raises UsageError with the number of the line."""
    words = []
    for number, line in _records(path):
        axes = [re.search(rf"(?:^|,\s*){axis}:\s*\[\[([\d\s.,-]*)\]\]", line) for axis in ("x", "y")]
        sides = [re.findall(r"-?\d+(?:\.\d+)?", match.group(1)) if match else [] for match in axes]
        if len(sides[0]) != len(sides[1]) or len(sides[0]) < 3:
            raise bad_line(path, number, line, "x: [[...]], y: [[...]], ...")
        text = re.search(r"transcriptions:\s*\[u?'(.*)'\]", line)
        points = np.asarray(sides, np.float32).T
        words.append(Word(points, ignored=bool(text) and text.group(1) in ("#", "###")))  # type: ignore[union-attr]
    return words


def _records(path: Path) -> Iterator[tuple[int, str]]:
    """(number of the first line, text) of the words of Total-Text: coordinates of long words wrap."""
    first, text = 0, ""
    for number, line in read_lines(path):
        first, text = (first, f"{text} {line.strip()}") if text else (number, line.strip())
        if text.endswith("]"):
            yield first, text
            text = ""
    if text:
        yield first, text


def read_td500(path: Path) -> list[Word]:
    """Words of a truth file of MSRA-TD500; raises UsageError with the number of the line."""
    words = []
    for number, line in read_lines(path):
        try:
            _, difficult, x, y, width, height, angle = map(float, line.split())
        except ValueError:
            raise bad_line(path, number, line, "index difficult x y w h angle") from None
        corners = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        center = np.array([x + width / 2, y + height / 2])
        words.append(Word((corners @ turn + center).astype(np.float32), ignored=difficult != 0))
    return words


def _find_icdar(root: Path, split: str) -> list[tuple[Path, Path]]:
    folder = root / f"{split}_images"
    if not folder.is_dir():
        raise UsageError(f"{root} has no {split}_images/", f"icdar2015: {split}_images/ with {split}_gts/")
    return truth_files(folder)


def _find_total_text(root: Path, split: str) -> list[tuple[Path, Path]]:
    truths = root / "Groundtruth" / "Polygon" / split
    return [(image, truths / f"poly_gt_{image.stem}.txt") for image in list_images(root / "Images" / split)]


def _find_td500(root: Path, split: str) -> list[tuple[Path, Path]]:
    return [(image, image.with_suffix(".gt")) for image in list_images(root / split)]


LAYOUTS = {
    "icdar2015": TextLayout(_find_icdar, read_words, ("train", "test")),
    "total-text": TextLayout(_find_total_text, read_total_text, ("Train", "Test")),
    "td500": TextLayout(_find_td500, read_td500, ("train", "test")),
}
