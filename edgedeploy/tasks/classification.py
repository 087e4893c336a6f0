"""Image classification: the few likeliest classes of a picture, from logits (1, classes).

Options: `mean` and `std` of the input, `crop` (share of the shorter edge that the network sees: 0.875 is 224
of 256), `size` (side of the input where the model leaves it open, 224), `classes`, and `top` (how many
classes a result holds, 5). Resizing is antialiased bicubic with the center cut out, as evaluations do.
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
from edgedeploy.task import TASKS, Array, Image, Progress, Run, Task, session_input, size_of
from edgedeploy.vision.image_archive import ImageArchive
from edgedeploy.vision.images import is_image, list_images, read_image, to_tensor
from edgedeploy.vision.palette import draw_legend, palette
from edgedeploy.vision.resize import imresize

Labeled = tuple[Callable[[], Image], int]  # how a picture is read, and its class
FAR = 4  # pictures so many times larger than needed are first shrunk by averaging, which is much cheaper


@dataclass(frozen=True)
class Guess:
    """One class of a picture: its index, its label (the index where there are none), its probability."""

    index: int
    label: str
    probability: float


@TASKS.register
class Classification(Task):
    """Classes of a picture; the result is a list of Guess, the likeliest first."""

    name = "classification"
    metric_name = "top1"
    budget = ("top1>=-0.5",)
    budget_without_labels = ("agreement>=0.99",)

    def preprocess(self, image: Image) -> dict[str, Array]:
        return self._feed(image, self.input)

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
        return [Guess(int(i), self._label(int(i)), float(probabilities[i])) for i in best]

    def run(self, session: Run, image: Image) -> list[Guess]:
        return self.postprocess(session(self._feed(image, session_input(session, self.input))), image)

    def measure(self, reference: Array, values: Array) -> float:
        """1 where the likeliest class is the same, else 0."""
        return float(int(reference.argmax()) == int(values.argmax()))

    def draw(self, image: Image, result: Any) -> Image:
        """The picture with its likeliest classes written on it."""
        colors = palette(max(len(result), 1))
        lines = [f"{guess.probability:4.0%} {guess.label}" for guess in result]
        return draw_legend(image, list(zip(lines, colors, strict=False)))

    def evaluate(
        self, session: Run, data: Path, limit: int | None = None, progress: Progress | None = None
    ) -> dict[str, float]:
        """Share of pictures whose class is the first guess, and among the first five.

        `data` holds a folder of pictures for each class, or such folders in val/ or test/. Folders are named
        by label or by index; where none is, there are as many as classes, and they count in order of name.
        Pictures are taken from the classes in turn, so that `limit` leaves a fair sample. Or `data` is, or
        holds as test.npz, an archive; see `ImageArchive`.
        """
        return self.score(session, self.labeled(data)[:limit], progress)

    def score(
        self, session: Run, pictures: list[Labeled], progress: Progress | None = None
    ) -> dict[str, float]:
        """The metrics of `evaluate` over these pictures."""
        total = len(pictures)
        first = five = 0
        for count, (read, truth) in enumerate(pictures, 1):
            feed = self._feed(read(), session_input(session, self.input))
            logits = np.asarray(session(feed)[self.artifact.outputs[0].name]).ravel()
            if truth >= logits.size:
                raise UsageError(f"a picture is class {truth}, the model has {logits.size}", "see labels")
            ahead = int((logits > logits[truth]).sum() + (logits[:truth] == logits[truth]).sum())
            first, five = first + (ahead == 0), five + (ahead < 5)
            if progress:
                progress(count, total)
        if not total:
            raise UsageError("there are no images to measure", "raise --limit, or name another folder")
        return {"top1": first / total, "top5": five / total, "images": total}

    def _label(self, index: int) -> str:
        return self.artifact.labels[index] if self.artifact.labels else str(index)

    def _feed(self, image: Image, spec: Any) -> dict[str, Array]:
        height, width = (size or int(self.options.get("size", 224)) for size in size_of(spec))
        pixels = center(image, height, width, float(self.options.get("crop", 0.875)))
        mean, std = self.options.get("mean", [0.0]), self.options.get("std", [255.0])
        return {spec.name: to_tensor(pixels, spec, mean, std)}

    def labeled(self, data: Path) -> list[Labeled]:
        """Pictures and their classes, the classes in turn; raises UsageError where `data` does not tell."""
        archive = data if data.suffix == ".npz" else data / "test.npz"
        if archive.is_file():
            pictures = ImageArchive(archive)
            truths = self._classes_of(pictures.classes, archive)
            return [(partial(pictures.read, i), truths[label]) for i, label in enumerate(pictures.labels)]
        folders = class_folders(data)
        truths = self._classes_of([folder.name for folder in folders], data)
        rows = zip_longest(
            *(
                [(partial(read_image, file), truth) for file in list_images(folder)]
                for folder, truth in zip(folders, truths, strict=True)
            )
        )
        return [entry for row in rows for entry in row if entry is not None]

    def _classes_of(self, names: Sequence[str], data: Path) -> list[int]:
        """The model's class for each name that the data has; raises UsageError."""
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
    """The middle of an image, resized so that (height, width) is the share `crop` of what it has.

    The image keeps its proportions: the edge that is the shorter one for this shape decides.
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
    # Half a pixel goes to the even side, as Python rounds and the usual evaluation code with it.
    top, left = round((tall - height) / 2), round((wide - width) / 2)
    return np.asarray(resized[top : top + height, left : left + width], dtype=np.uint8)


def class_folders(data: Path) -> list[Path]:
    """The folders of pictures at or in val/ or test/ under `data`, by name; UsageError where none is."""
    for base in (data / "val", data / "test", data):
        if base.is_dir():
            folders = sorted(d for d in base.iterdir() if d.is_dir() and any(map(is_image, d.iterdir())))
            if folders:
                return folders
    raise UsageError(f"{data} holds no folders of images", "it needs a folder of images for each class")
