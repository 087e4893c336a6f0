"""Where data sets of scene text keep images and words, in the layouts that their authors give them.

icdar2015   SPLIT_images/NAME.jpg, SPLIT_gts/gt_NAME.txt of x1,y1,...,x4,y4,text; also as DB converts others
total-text  Images/Train/NAME.jpg, Groundtruth/Polygon/Train/poly_gt_NAME.txt of "x: [[...]], y: [[...]], ..."
td500       train/NAME.JPG, train/NAME.gt of "index difficult x y w h angle", turned about the box's center
Words of text ### or #, and difficult ones of td500, do not count. Trainings are told the layout, evaluations
find out which it is.
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
from edgedeploy.vision.icdar import Word, read_words, truth_files
from edgedeploy.vision.images import is_image

Find = Callable[[Path, str], list[tuple[Path, Path]]]
Read = Callable[[Path], list[Word]]


@dataclass(frozen=True)
class TextLayout:
    """How a data set is laid out: `find(root, split)` gives (image, truth) pairs, `read` a truth's words.

    `splits` are the folders' names for "train" and "test".
    """

    find: Find
    read: Read
    splits: tuple[str, str]


def find_texts(root: Path, layout: str, split: str = "train") -> list[tuple[Path, list[Word]]]:
    """The images of a split ("train" or "test") with their words, by name.

    Raises UnknownNameError, or UsageError that says what is missing or in which line a truth is malformed.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, list(LAYOUTS))
    chosen = LAYOUTS[layout]
    pairs = _complete(chosen.find(root, chosen.splits[split == "test"]))
    return [(image, chosen.read(truth)) for image, truth in pairs]


def labeled_texts(data: Path, *, polygon: bool) -> tuple[list[tuple[Path, Path]], Read]:
    """The images to measure on with their truth files, and what reads one; see the task's `evaluate`.

    `polygon`: whether words of an icdar2015 file may have more corners than four. Raises UsageError.
    """
    found = _total_text_at(data) or _td500_at(data)
    if found is None:
        return truth_files(data), partial(read_words, polygon=polygon)
    layout, root, split = found
    return _complete(layout.find(root, split)), layout.read


def _total_text_at(data: Path) -> tuple[TextLayout, Path, str] | None:
    """The layout, its folder and the split that is meant, where `data` is Total-Text or one of its splits."""
    if data.parent.name == "Images" and (data.parent.parent / "Groundtruth").is_dir():
        return LAYOUTS["total-text"], data.parent.parent, data.name
    if (data / "Images").is_dir() and (data / "Groundtruth").is_dir():
        split = "Test" if (data / "Images" / "Test").is_dir() else "Train"
        return LAYOUTS["total-text"], data, split
    return None


def _td500_at(data: Path) -> tuple[TextLayout, Path, str] | None:
    """The same of MSRA-TD500, which its .gt files tell."""
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
    """Words of a truth file of Total-Text; raises UsageError, naming the line."""
    words = []
    for number, line in _records(path):
        found = [re.search(rf"(?:^|,\s*){axis}:\s*\[\[([\d\s.,-]*)\]\]", line) for axis in ("x", "y")]
        sides = [re.findall(r"-?\d+(?:\.\d+)?", match.group(1)) if match else [] for match in found]
        if len(sides[0]) != len(sides[1]) or len(sides[0]) < 3:
            raise UsageError(
                f"{path}, line {number}: '{line[:60]}' is not a word", "x: [[...]], y: [[...]], ..."
            )
        text = re.search(r"transcriptions:\s*\[u?'(.*)'\]", line)
        points = np.asarray(sides, np.float32).T
        words.append(Word(points, ignored=bool(text) and text.group(1) in ("#", "###")))  # type: ignore[union-attr]
    return words


def _records(path: Path) -> Iterator[tuple[int, str]]:
    """Words of Total-Text with the lines that they begin in: coordinates of long ones wrap."""
    begun, text = 0, ""
    for number, line in enumerate(_lines(path), 1):
        begun, text = (begun, f"{text} {line.strip()}") if text else (number, line.strip())
        if text.endswith("]"):
            yield begun, text
            text = ""
    if text:
        yield begun, text


def read_td500(path: Path) -> list[Word]:
    """Words of a truth file of MSRA-TD500; raises UsageError, naming the line."""
    words = []
    for number, line in enumerate(_lines(path), 1):
        try:
            _, difficult, x, y, width, height, angle = map(float, line.split())
        except ValueError:
            raise UsageError(
                f"{path}, line {number}: '{line[:60]}' is not a word", "index difficult x y w h angle"
            ) from None
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
    return [(image, truths / f"poly_gt_{image.stem}.txt") for image in _images(root / "Images" / split)]


def _find_td500(root: Path, split: str) -> list[tuple[Path, Path]]:
    return [(image, image.with_suffix(".gt")) for image in _images(root / split)]


def _images(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if is_image(path)) if folder.is_dir() else []
    if not found:
        raise UsageError(f"{folder} holds no images", "name the data set's own folder")
    return found


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", "truth files are UTF-8 text") from None
    return [line for line in text.splitlines() if line.strip()]


LAYOUTS = {
    "icdar2015": TextLayout(_find_icdar, read_words, ("train", "test")),
    "total-text": TextLayout(_find_total_text, read_total_text, ("Train", "Test")),
    "td500": TextLayout(_find_td500, read_td500, ("train", "test")),
}
