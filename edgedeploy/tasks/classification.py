"""Image classification: the most probable classes of an image, from logits (1, classes).

Options: `mean` and `std` of the input; `crop`: share of the shorter edge that the network sees (0.875 is 224
of 256); `size`: side of a dynamic input (224); `classes`; `top`: number of classes in a result (5). Images
are resized by antialiased bicubic interpolation and cropped at the center, as in published evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgedeploy.core.errors import UsageError
from edgedeploy.core.progress import reported
from edgedeploy.core.spec import TensorSpec
from edgedeploy.task import TASKS, Array, Image, Progress, Run, Task, session_input, size_of
from edgedeploy.vision.image_archive import ImageArchive
from edgedeploy.vision.images import is_image, list_images, read_image, to_tensor
from edgedeploy.vision.palette import draw_legend, palette
from edgedeploy.vision.resize import imresize

Labeled = tuple[Callable[[], Image], int]  # (reads the image, its class)
FAR = 4  # an image this many times larger than the input is first reduced by averaging, which is much cheaper


@dataclass(frozen=True)
class Guess:
    """One class of an image: index, label (the index if the model has no labels), probability."""

    index: int
    label: str
    probability: float


@TASKS.register
class Classification(Task):
    """Classes of an image; the result is a list of Guess, most probable first."""

    name = "classification"
    metric_name = "top1"
    budget = ("top1>=-0.5",)
    budget_without_labels = ("agreement>=0.99",)

    def preprocess(self, image: Image, spec: TensorSpec | None = None) -> dict[str, Array]:
        spec = spec or self.input
        height, width = (size or int(self.options.get("size", 224)) for size in size_of(spec))
        pixels = center(image, height, width, float(self.options.get("crop", 0.875)))
        mean, std = self.options.get("mean", [0.0]), self.options.get("std", [255.0])
        return {spec.name: to_tensor(pixels, spec, mean, std)}

    def postprocess(self, outputs: Mapping[str, Array], image: Image) -> list[Guess]:  # noqa: ARG002
        logits = np.asarray(outputs[self.artifact.outputs[0].name], np.float64).ravel()
        if self.artifact.labels and len(self.artifact.labels) != logits.size:
            raise UsageError(
                f"the model has {logits.size} outputs and {len(self.artifact.labels)} labels",
                "export it with the labels of its classes",
            )
        shifted = np.exp(logits - logits.max())
        probabilities = shifted / shifted.sum()
        best = np.argsort(-logits, kind="stable")[: int(self.options.get("top", 5))]
        labels = self.artifact.labels or range(logits.size)
        return [Guess(int(i), str(labels[i]), float(probabilities[i])) for i in best]

    def measure(self, reference: Array, values: Array) -> float:
        """1 where the likeliest class is the same, else 0."""
        return float(int(reference.argmax()) == int(values.argmax()))

    def draw(self, image: Image, result: Any) -> Image:
        """The image with its most probable classes as text."""
        lines = [f"{guess.probability:4.0%} {guess.label}" for guess in result]
        return draw_legend(image, list(zip(lines, palette(len(lines)), strict=True)))

    def evaluate(
        self, session: Run, data: Path, limit: int | None = None, progress: Progress | None = None
    ) -> dict[str, float]:
        """Top-1 and top-5 accuracy.

        `data` holds one folder of images per class, directly or in val/ or test/. Folder names are labels or
        indices; otherwise there is one folder per class, sorted by name. Classes take turns, so that `limit`
        leaves a fair sample. `data` may also be, or hold as test.npz, an `ImageArchive`.
        """
        return self.score(session, self.labeled(data)[:limit], progress)

    def score(
        self, session: Run, pictures: list[Labeled], progress: Progress | None = None
    ) -> dict[str, float]:
        """The metrics of `evaluate` over these images."""
        total, spec = len(pictures), session_input(session, self.input)
        first = five = 0
        for read, truth in reported(pictures, progress):
            feed = self.preprocess(read(), spec)
            logits = np.asarray(session(feed)[self.artifact.outputs[0].name]).ravel()
            if truth >= logits.size:
                raise UsageError(f"a picture is class {truth}, the model has {logits.size}", "see labels")
            ahead = int((logits > logits[truth]).sum() + (logits[:truth] == logits[truth]).sum())
            first, five = first + (ahead == 0), five + (ahead < 5)
        if not total:
            raise UsageError("there are no images to measure", "raise --limit, or name another folder")
        return {"top1": first / total, "top5": five / total, "images": total}

    def labeled(self, data: Path) -> list[Labeled]:
        """Images and their classes, classes in turn; raises UsageError for folders that match no class."""
        archive = data if data.suffix == ".npz" else data / "test.npz"
        if archive.is_file():
            pictures = ImageArchive(archive)
            truths = self._classes_of(pictures.classes, archive)
            return [(partial(pictures.read, i), truths[label]) for i, label in enumerate(pictures.labels)]
        folders = class_folders(data)
        truths = self._classes_of([folder.name for folder in folders], data)
        by_class = [
            [(partial(read_image, file), truth) for file in list_images(folder)]
            for folder, truth in zip(folders, truths, strict=True)
        ]
        return [entry for row in zip_longest(*by_class) for entry in row if entry is not None]

    def _classes_of(self, names: Sequence[str], data: Path) -> list[int]:
        """The model's class for each class name of the data; raises UsageError."""
        classes = len(self.artifact.labels) or int(self.options.get("classes", 0))
        indices = {label: index for index, label in reversed(list(enumerate(self.artifact.labels)))}
        if all(name in indices for name in names):
            return [indices[name] for name in names]
        if all(name.isdecimal() for name in names):
            return [int(name) for name in names]
        if len(names) == classes:
            return list(range(classes))
        unknown = next(name for name in names if name not in indices)
        raise UsageError(
            f"{data} has a folder {unknown}, which is no label, and {len(names)} folders, not {classes}",
            "name the folders by label or index of their class",
        )


def center(image: Image, height: int, width: int, crop: float) -> Image:
    """Center crop of (height, width) after a resize that makes the crop the share `crop` of the shorter edge.

    The resize keeps the proportions of the image; "shorter" is relative to the shape of the crop.
    """
    factor = max(height / image.shape[0], width / image.shape[1]) / crop
    tall, wide = (
        max(need, int(size * factor + 1e-6))
        for need, size in zip((height, width), image.shape[:2], strict=True)
    )
    if factor * FAR < 1:
        near = (wide * 2, tall * 2)
        image = np.asarray(cv2.resize(image, near, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    resized = imresize(image, tall, wide)
    # Python rounds half a pixel to even, and so does the usual evaluation code.
    top, left = round((tall - height) / 2), round((wide - width) / 2)
    return np.asarray(resized[top : top + height, left : left + width], dtype=np.uint8)


def class_folders(data: Path) -> list[Path]:
    """Folders with images in data/val, data/test or `data`, sorted by name; raises UsageError for none."""
    for base in (data / "val", data / "test", data):
        if base.is_dir():
            folders = sorted(d for d in base.iterdir() if d.is_dir() and any(map(is_image, d.iterdir())))
            if folders:
                return folders
    raise UsageError(f"{data} holds no folders of images", "it needs a folder of images for each class")
