"""Semantic segmentation: a class per pixel, from logits of any resolution or from an argmax head.

Options: `mean` and `std` of the input; `ignore`: label of unlabeled pixels; `classes`; `size_multiple`, else
`stride` (of the logits): image sizes are rounded to its multiples. Logits are enlarged bilinearly before the
argmax, as in the released evaluation codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import UsageError
from edgedeploy.core.progress import reported
from edgedeploy.core.spec import TensorSpec
from edgedeploy.task import TASKS, Array, Image, Progress, Run, Task, channels_last, size_of
from edgedeploy.vision.images import read_image, resize_image, to_tensor
from edgedeploy.vision.label_map import read_label_map
from edgedeploy.vision.metrics import ConfusionMatrix
from edgedeploy.vision.palette import default_names, draw_legend, palette
from edgedeploy.vision.segmentation_data import LabelMap, Sample, labeled_images

ALPHA = 0.55  # share of the class color in an overlay
LEGEND_SHARE = 0.002  # the legend omits classes below this share of the image
MOST = 256  # classes of a uint8 map
VOID = {11: 11, 19: 255}  # index of unlabeled pixels in CamVid and Cityscapes, by number of classes


@TASKS.register
class Segmentation(Task):
    """Class of every pixel; the result is a class map, uint8 (H, W)."""

    name = "segmentation"
    metric_name = "miou"
    budget = ("miou>=-0.3",)
    budget_without_labels = ("agreement>=0.985",)

    def input_shape(self, height: int, width: int) -> tuple[int, ...]:
        step = int(self.options.get("size_multiple", self.options.get("stride", 8)))
        return super().input_shape(*(max(step, round(size / step) * step) for size in (height, width)))

    def preprocess(self, image: Image, spec: TensorSpec | None = None) -> dict[str, Array]:
        spec = spec or self.input
        height, width = size_of(spec)
        wanted = self.input_shape(*image.shape[:2])
        own = wanted[1:3] if channels_last(self.input) else wanted[2:4]
        fitted = resize_image(image, height or own[0], width or own[1])
        mean, std = self.options.get("mean", [0.0]), self.options.get("std", [1.0])
        return {spec.name: to_tensor(fitted, spec, mean, std)}

    def postprocess(self, outputs: Mapping[str, Array], image: Image) -> NDArray[np.uint8]:
        output = outputs[self.artifact.outputs[0].name]
        height, width = image.shape[:2]
        if output.dtype.kind in "iu":
            if output.dtype.itemsize > 1 and output.size and not 0 <= output.min() <= output.max() < MOST:
                raise UsageError(f"the model says class {output.max()}", f"a class map holds 0 to {MOST - 1}")
            classes = output.reshape(output.shape[-2:] if output.shape[-1] != 1 else output.shape[-3:-1])
            resized = cv2.resize(
                classes.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
            )
            return np.asarray(resized, np.uint8)
        return argmax_at(output[0], height, width)

    def measure(self, reference: Array, values: Array) -> float:
        """Share of pixels, at the output's resolution, that are of one class in both."""
        first, second = (x if x.dtype.kind in "iu" else x.argmax(axis=1) for x in (reference, values))
        return float(np.mean(first == second))

    def draw(self, image: Image, result: Any) -> Image:
        """The image blended with the colors of the classes, and a legend of the classes that occur."""
        return self.draw_map(image, result, ALPHA)

    def draw_map(self, image: Image, result: NDArray[np.uint8], alpha: float = 1.0) -> Image:
        """As `draw` with share `alpha` of color; 1 is the color map alone."""
        colors = palette(max(self.classes, int(result.max(initial=0)) + 1))
        mixed = colors[result]
        if alpha < 1:
            mixed = np.asarray(cv2.addWeighted(mixed, alpha, image, 1 - alpha, 0), dtype=np.uint8)
        names = self.artifact.labels or default_names(len(colors))
        shares = np.bincount(result.ravel(), minlength=len(colors)) / result.size
        order = np.flatnonzero(shares >= LEGEND_SHARE).tolist()
        return draw_legend(mixed, [(names[i] if i < len(names) else str(i), colors[i]) for i in order])

    @property
    def classes(self) -> int:
        """Number of labels, else option `classes`, else channels of the logits, else 0."""
        if self.artifact.labels:
            return len(self.artifact.labels)
        spec = self.artifact.outputs[0]
        channels = spec.shape[1] if len(spec.shape) == 4 and spec.dtype.startswith(("float", "bfloat")) else 0
        return int(self.options.get("classes", channels if isinstance(channels, int) else 0))

    def evaluate(
        self, session: Run, data: Path, limit: int | None = None, progress: Progress | None = None
    ) -> dict[str, float]:
        """Mean IoU over images and class maps, in one of two layouts of `data`.

        CamVid: images X/NAME.* and class maps Xannot/NAME.png; `data` is X, or the folder above both: then X
        is val, else test, else the first such pair.
        Cityscapes: leftImg8bit/ and gtFine/ with labelIds, of which the 19 training classes count; `data` is
        the folder above both (val, else train) or leftImg8bit/SPLIT.
        Raises UsageError for another layout, or if the number of classes is unknown.
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
        """The metrics of `evaluate` over these images; `read` reads a class map."""
        matrix = ConfusionMatrix(self.classes, ignore)
        for sample in reported(samples, progress):
            image, truth = read_sample(sample, read)
            matrix.add(truth, self.run(session, image))
        return {"miou": matrix.mean_iou(), "pixel_accuracy": matrix.accuracy(), "images": len(samples)}


def argmax_at(logits: Array, height: int, width: int) -> NDArray[np.uint8]:
    """Class map (height, width) from logits (C, h, w), C <= 256, enlarged bilinearly.

    One class at a time, in place: the enlarged logits of all classes do not fit in a cache.
    """
    if len(logits) > MOST:
        raise UsageError(f"a class map holds {MOST} classes, not {len(logits)}", "export with an argmax head")
    size = (width, height)
    best = cv2.resize(logits[0].astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    classes = np.zeros((height, width), np.uint8)
    for index in range(1, len(logits)):
        plane = cv2.resize(logits[index].astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        wins = cv2.compare(plane, best, cv2.CMP_GT)  # 255 where this class exceeds all classes before it
        cv2.max(best, plane, dst=best)
        # Class numbers ascend, so the maximum overwrites any class before it.
        cv2.max(classes, cv2.bitwise_and(wins, index), dst=classes)  # type: ignore[call-overload]
    return classes


def read_sample(sample: Sample, read: Callable[[Path], LabelMap]) -> tuple[Image, LabelMap]:
    """(image resized to its class map, class map); raises UsageError if either cannot be read."""
    truth = read(sample.truth)
    return resize_image(read_image(sample.image), *truth.shape), truth
