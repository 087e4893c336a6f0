"""Layouts of segmentation data sets: files of images and class maps, and the meaning of pixel values.

A training names its layout, an evaluation detects it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import UnknownNameError, UsageError
from edgedeploy.vision.images import is_image, list_images
from edgedeploy.vision.label_map import read_label_map
from edgedeploy.vision.palette import default_names

LabelMap = NDArray[np.uint8]
# labelIds of Cityscapes for training, in order of their train id (cityscapesScripts, labels.py).
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

IMAGES_OF_CITYSCAPES = "leftImg8bit"


@dataclass(frozen=True)
class Sample:
    """The files of an image and of its class map."""

    image: Path
    truth: Path


@dataclass(frozen=True)
class Layout:
    """The layout of a data set.

    Attributes:
        labels: class names.
        ignore: class of unlabeled pixels in the result of `read`.
        images: pattern of the images of a split, e.g. "{split}/*".
        truth: (root, image file) -> file of its class map.
        table: (256,) stored value -> class; None: they are equal.
    """

    labels: tuple[str, ...]
    ignore: int
    images: str
    truth: Callable[[Path, Path], Path]
    table: NDArray[np.uint8] | None = None

    @property
    def classes(self) -> int:
        """Number of classes, without the unlabeled one."""
        return len(self.labels)

    def read(self, path: Path) -> LabelMap:
        """Classes (H, W) of a file; raises UsageError unless it is a class map of this data set."""
        stored = read_label_map(path)
        classes = stored if self.table is None else self.table[stored]
        worst = int(classes.max(initial=0))
        if worst >= self.classes and not np.all((classes < self.classes) | (classes == self.ignore)):
            raise UsageError(f"{path} holds class {worst} of {self.classes}", "is it another data set's?")
        return classes


def _cityscapes_table() -> NDArray[np.uint8]:
    table = np.full(256, 255, np.uint8)
    table[list(CITYSCAPES_IDS)] = np.arange(len(CITYSCAPES_IDS))
    return table


def _camvid_truth(root: Path, image: Path) -> Path:  # noqa: ARG001
    return image.parent.with_name(image.parent.name + "annot") / f"{image.stem}.png"


def _cityscapes_truth(root: Path, image: Path) -> Path:
    folder = root / "gtFine" / image.parent.parent.name / image.parent.name
    return folder / f"{image.stem.removesuffix('_leftImg8bit')}_gtFine_labelIds.png"


LAYOUTS = {
    "camvid": Layout(default_names(11), 11, "{split}/*", _camvid_truth),
    "cityscapes": Layout(
        default_names(len(CITYSCAPES_IDS)),
        255,
        f"{IMAGES_OF_CITYSCAPES}/{{split}}/*/*",
        _cityscapes_truth,
        _cityscapes_table(),
    ),
}


def layout_of(name: str) -> Layout:
    """A layout by name; raises UnknownNameError."""
    if name not in LAYOUTS:
        raise UnknownNameError("layout", name, list(LAYOUTS))
    return LAYOUTS[name]


def find_samples(root: Path, layout: Layout, split: str) -> list[Sample]:
    """The images of a split with their class maps, sorted by name; raises UsageError for missing files."""
    pattern = layout.images.format(split=split)
    images = sorted(path for path in root.glob(pattern) if is_image(path))
    if not images:
        raise UsageError(f"{root} has no images in {pattern}", "name the data set's own folder with --data")
    samples = [Sample(image, layout.truth(root, image)) for image in images]
    missing = [sample.truth for sample in samples if not sample.truth.is_file()]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(samples)} class maps are missing, first {missing[0]}",
            "every image of a split needs one",
        )
    return samples


def labeled_images(data: Path) -> tuple[list[Sample], Layout | None]:
    """(images with class maps, layout) for an evaluation; see `Segmentation.evaluate`.

    The layout is None for class maps with the model's classes. Raises UsageError.
    """
    if data.parent.name == IMAGES_OF_CITYSCAPES:
        return find_samples(data.parent.parent, LAYOUTS["cityscapes"], data.name), LAYOUTS["cityscapes"]
    root = data.parent if data.name == IMAGES_OF_CITYSCAPES else data
    images = root / IMAGES_OF_CITYSCAPES
    if images.is_dir():
        split = "val" if (images / "val").is_dir() else "train"
        return find_samples(root, LAYOUTS["cityscapes"], split), LAYOUTS["cityscapes"]
    folder, labels = label_folders(data)
    return [Sample(file, labels / f"{file.stem}.png") for file in list_images(folder)], None


def label_folders(data: Path) -> tuple[Path, Path]:
    """The folders of images and of class maps at or under `data`; raises UsageError without such a pair."""
    beside = data.with_name(data.name + "annot")
    if beside.is_dir():
        return data, beside
    pairs = [(path.with_name(path.name.removesuffix("annot")), path) for path in sorted(data.glob("*annot"))]
    named = {images.name: (images, labels) for images, labels in pairs if images.is_dir()}
    for name in ("val", "test", *named):
        if name in named:
            return named[name]
    what = "images without class maps" if data.is_dir() and any(map(is_image, data.iterdir())) else "no pair"
    raise UsageError(
        f"{data} holds {what}",
        "it needs images in NAME/ and class maps in NAMEannot/, as CamVid has, or Cityscapes' leftImg8bit/",
    )
