"""Semantic segmentation: a class for every pixel, from logits of any resolution or from an argmax head.

Options: `mean` and `std` of the input, `ignore` (label of pixels that do not count), `classes`, and
`size_multiple`, else `stride` (of the logits), to multiples of which image sizes are rounded. Logits are
enlarged bilinearly before the argmax, as the released evaluation codes do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import UsageError
from edgedeploy.task import (
    TASKS,
    Array,
    Image,
    Progress,
    Run,
    Task,
    channels_last,
    session_input,
    size_of,
)
from edgedeploy.vision.images import read_image, resize_image, to_tensor
from edgedeploy.vision.label_map import read_label_map
from edgedeploy.vision.metrics import ConfusionMatrix
from edgedeploy.vision.palette import default_names, draw_legend, palette
from edgedeploy.vision.segmentation_data import LabelMap, Sample, labeled_images

ALPHA = 0.55  # share of the class color in an overlay
LEGEND_SHARE = 0.002  # classes below this share of the picture are left out of the legend
MOST = 256  # classes that a map of bytes can tell apart
VOID = {11: 11, 19: 255}  # the unlabeled index of CamVid and Cityscapes, by class count


@TASKS.register
class Segmentation(Task):
    """Classes of an image's pixels; the result is a class map, uint8 (H, W)."""

    name = "segmentation"
    metric_name = "miou"
    budget = ("miou>=-0.3",)
    budget_without_labels = ("agreement>=0.985",)

    def input_shape(self, height: int, width: int) -> tuple[int, ...]:
        step = int(self.options.get("size_multiple", self.options.get("stride", 8)))
        return super().input_shape(*(max(step, round(size / step) * step) for size in (height, width)))

    def preprocess(self, image: Image) -> dict[str, Array]:
        return self._feed(image, self.input)

    def postprocess(self, outputs: Mapping[str, Array], image: Image) -> NDArray[np.uint8]:
        output = outputs[self.artifact.outputs[0].name]
        height, width = image.shape[:2]
        if output.dtype.kind in "iu":
            if output.dtype.itemsize > 1 and output.size and not 0 <= output.min() <= output.max() < MOST:
                raise UsageError(f"the model says class {output.max()}", f"a class map holds 0 to {MOST - 1}")
            classes = output.reshape(output.shape[-2:] if output.shape[-1] != 1 else output.shape[-3:-1])
            return _enlarge(classes.astype(np.uint8), height, width, cv2.INTER_NEAREST_EXACT)
        return argmax_at(output[0], height, width)

    def run(self, session: Run, image: Image) -> NDArray[np.uint8]:
        return self.postprocess(session(self._feed(image, session_input(session, self.input))), image)

    def measure(self, reference: Array, values: Array) -> float:
        """Share of pixels, at the output's resolution, that are of one class in both."""
        first, second = (x if x.dtype.kind in "iu" else x.argmax(axis=1) for x in (reference, values))
        return float(np.mean(first == second))

    def draw(self, image: Image, result: Any) -> Image:
        """The picture mixed with the classes' colors, and a legend of the classes that are in it."""
        return self.draw_map(image, result, ALPHA)

    def draw_map(self, image: Image, result: NDArray[np.uint8], alpha: float = 1.0) -> Image:
        """As `draw` with a chosen share of color; 1 is the bare color map."""
        count = self.classes or int(result.max(initial=0)) + 1
        colors = palette(max(count, int(result.max(initial=0)) + 1))
        mixed = colors[result]
        if alpha < 1:
            mixed = np.asarray(cv2.addWeighted(mixed, alpha, image, 1 - alpha, 0), dtype=np.uint8)
        names = self.artifact.labels or default_names(len(colors))
        shares = np.bincount(result.ravel(), minlength=len(colors)) / result.size
        order = np.flatnonzero(shares >= LEGEND_SHARE).tolist()
        return draw_legend(mixed, [(names[i] if i < len(names) else str(i), colors[i]) for i in order])

    @property
    def classes(self) -> int:
        """Number of classes: the labels', the option's, or the logits' channels; 0 where nothing tells."""
        if self.artifact.labels:
            return len(self.artifact.labels)
        spec = self.artifact.outputs[0]
        channels = spec.shape[1] if len(spec.shape) == 4 and spec.dtype.startswith(("float", "bfloat")) else 0
        return int(self.options.get("classes", channels if isinstance(channels, int) else 0))

    def evaluate(
        self, session: Run, data: Path, limit: int | None = None, progress: Progress | None = None
    ) -> dict[str, float]:
        """Mean IoU over images and their class maps, in either of two layouts that `data` may have.

        CamVid: a folder of images NAME.* and one of class maps NAME.png, X and Xannot; `data` is the folder
        of images, or the one above both: there val, else test, else the first such pair is taken.
        Cityscapes: leftImg8bit/ and gtFine/ with labelIds, of which the 19 classes of training count; `data`
        is the folder above both: there val, else train; or leftImg8bit/SPLIT.
        Raises UsageError where there is neither, or the model does not say how many classes it has.
        """
        if not self.classes:
            raise UsageError(
                f"{self.artifact.path} does not say how many classes it has", "export it with labels"
            )
        samples, layout = labeled_images(data)
        if layout is None:
            ignore = self.options.get("ignore", VOID.get(self.classes))
            return self.score(session, samples[:limit], read_label_map, ignore, progress)
        if self.classes != layout.classes:
            raise UsageError(
                f"{data} is Cityscapes of {layout.classes} classes, {self.artifact.path} has {self.classes}",
                "measure a model of its classes",
            )
        return self.score(session, samples[:limit], layout.read, layout.ignore, progress)

    def score(
        self,
        session: Run,
        samples: Sequence[Sample],
        read: Callable[[Path], LabelMap],
        ignore: int | None,
        progress: Progress | None = None,
    ) -> dict[str, float]:
        """The metrics of `evaluate` over these images, whose class maps `read` reads."""
        matrix = ConfusionMatrix(self.classes, ignore)
        for count, sample in enumerate(samples, 1):
            image, truth = read_sample(sample, read)
            matrix.add(truth, self.run(session, image))
            if progress:
                progress(count, len(samples))
        return {"miou": matrix.mean_iou(), "pixel_accuracy": matrix.accuracy(), "images": len(samples)}

    def _feed(self, image: Image, spec: Any) -> dict[str, Array]:
        height, width = size_of(spec)
        wanted = self.input_shape(*image.shape[:2])
        own = wanted[1:3] if channels_last(self.input) else wanted[2:4]
        fitted = resize_image(image, height or own[0], width or own[1])
        mean, std = self.options.get("mean", [0.0]), self.options.get("std", [1.0])
        return {spec.name: to_tensor(fitted, spec, mean, std)}


def argmax_at(logits: Array, height: int, width: int) -> NDArray[np.uint8]:
    """Class of every pixel at (height, width) from logits (C, h, w), at most 256, enlarged bilinearly.

    One class at a time, in place: the enlarged logits of all classes together would leave every cache.
    """
    if len(logits) > MOST:
        raise UsageError(f"a class map holds {MOST} classes, not {len(logits)}", "export with an argmax head")
    size = (width, height)
    best = cv2.resize(logits[0].astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    classes = np.zeros((height, width), np.uint8)
    for index in range(1, len(logits)):
        plane = cv2.resize(logits[index].astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        wins = cv2.compare(plane, best, cv2.CMP_GT)  # 255 where this class beats all before it
        cv2.max(best, plane, dst=best)
        # Classes only grow, so the maximum writes this one over whatever stood there.
        cv2.max(classes, cv2.bitwise_and(wins, index), dst=classes)  # type: ignore[call-overload]
    return classes


def read_sample(sample: Sample, read: Callable[[Path], LabelMap]) -> tuple[Image, LabelMap]:
    """An image, at the size of its class map, and that; UsageError where one cannot be read."""
    truth = read(sample.truth)
    return resize_image(read_image(sample.image), *truth.shape), truth


def _enlarge(plane: NDArray[Any], height: int, width: int, kind: int) -> NDArray[Any]:
    if plane.shape == (height, width):
        return plane
    return np.asarray(cv2.resize(plane, (width, height), interpolation=kind))
