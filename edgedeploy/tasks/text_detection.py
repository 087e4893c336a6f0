"""Text detection: outlines of words, from a probability map of text.

Options: `mean` and `std` in the order of the network's channels; `channel_order`: "RGB" or "BGR";
`short_side` of a dynamic input; those of RegionOptions. For a fixed input the image keeps its proportions and
is padded at the right or bottom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgedeploy.core.agreement import overlap
from edgedeploy.core.errors import UsageError
from edgedeploy.core.progress import reported
from edgedeploy.core.spec import Artifact, TensorSpec
from edgedeploy.task import TASKS, Array, Image, Progress, Run, Task, channels_of, size_of
from edgedeploy.vision.icdar import TextScore, Word
from edgedeploy.vision.images import read_image, to_tensor
from edgedeploy.vision.text_data import labeled_texts
from edgedeploy.vision.text_regions import RegionOptions, TextRegions, find_regions

LONG_SIDE = 2560  # limits the memory of an extreme panorama
COLOR, RIM = (60, 230, 60), (0, 0, 0)


@TASKS.register
class TextDetection(Task):
    """Words of an image; the result is TextRegions in the image's coordinates."""

    name = "text-detection"
    metric_name = "f_measure"
    budget = ("f_measure>=-0.5",)
    budget_without_labels = ("agreement>=0.985", "worst>=0.93")

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        if channels_of(self.input) != 3:
            raise UsageError(f"input {self.input} is not a color image", "export with three channels")
        self.order = str(self.options.get("channel_order", "RGB"))
        if self.order not in ("RGB", "BGR"):
            raise UsageError(f"channel_order '{self.order}' is unknown", "it is RGB or BGR")
        known = {field.name for field in fields(RegionOptions)}
        self.regions = RegionOptions(**{key: v for key, v in self.options.items() if key in known})

    def input_shape(self, height: int, width: int) -> tuple[int, ...]:
        """`short_side` of the options, the other side in proportion, both rounded up to `size_multiple`."""
        step = int(self.options.get("size_multiple", 32))
        scale = int(self.options.get("short_side", 736)) / min(height, width)
        scale = min(scale, LONG_SIDE / max(height, width))
        # round(..., 3): the last digit of a float must not add a step to a side that is already a multiple.
        sides = (max(step, math.ceil(round(size * scale, 3) / step) * step) for size in (height, width))
        return super().input_shape(*sides)

    @classmethod
    def options_for(cls, height: int, width: int) -> dict[str, Any]:
        return {"short_side": min(height, width)}

    def preprocess(self, image: Image, spec: TensorSpec | None = None) -> dict[str, Array]:
        spec = spec or self.input
        height, width = size_of(spec)
        wanted = self.input_shape(*image.shape[:2])
        own = wanted[1:3] if wanted[3] == 3 else wanted[2:4]
        size = (height or own[0], width or own[1])
        rows, columns = content_size((image.shape[0], image.shape[1]), size)
        fitted = np.zeros((*size, 3), np.uint8)
        fitted[:rows, :columns] = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)
        pixels = fitted[:, :, ::-1] if self.order == "BGR" else fitted
        mean, std = self.options.get("mean", [0.0]), self.options.get("std", [255.0])
        return {spec.name: to_tensor(pixels, spec, mean, std)}

    def postprocess(self, outputs: Mapping[str, Array], image: Image) -> TextRegions:
        output = outputs[self.artifact.outputs[0].name]
        probability = np.squeeze(output)
        if probability.ndim != 2:
            raise UsageError(
                f"an output of {output.shape} is not one map", "text detection wants (1, 1, H, W)"
            )
        height, width = image.shape[:2]
        rows, columns = content_size((height, width), (probability.shape[0], probability.shape[1]))
        return find_regions(probability[:rows, :columns], height, width, self.regions)

    def measure(self, reference: Array, values: Array) -> float:
        """Intersection over union of the two masks {probability > threshold}."""
        return overlap(*(probability > self.regions.threshold for probability in (reference, values)))

    def draw(self, image: Image, result: Any) -> Image:
        """The image with the outline of every word."""
        picture = np.array(image, dtype=np.uint8)
        thickness = max(1, round(min(picture.shape[:2]) / 360))
        outlines = [np.rint(polygon).astype(np.int32) for polygon in result.polygons]
        for color, width in ((RIM, thickness + 2), (COLOR, thickness)):  # a dark rim is visible everywhere
            cv2.polylines(picture, outlines, True, color, width, cv2.LINE_AA)
        return picture

    def evaluate(
        self, session: Run, data: Path, limit: int | None = None, progress: Progress | None = None
    ) -> dict[str, float]:
        """Precision, recall and F-measure by the ICDAR 2015 protocol, in one of three layouts of `data`.

        Total-Text has Images/ and Groundtruth/Polygon/, MSRA-TD500 has NAME.gt beside each image in test/ and
        train/: `data` is the folder above (test, else train) or one folder of images. Any other folder is
        read as ICDAR 2015, NAME_images/ with NAME_gts/; see `truth_files`.
        """
        pairs, read = labeled_texts(data, polygon=self.regions.polygon)
        return self.score(session, [(image, read(truth)) for image, truth in pairs[:limit]], progress)

    def score(
        self, session: Run, pairs: Sequence[tuple[Path, Sequence[Word]]], progress: Progress | None = None
    ) -> dict[str, float]:
        """The metrics of `evaluate` over these images with their words."""
        score = TextScore()
        for image, words in reported(pairs, progress):
            score.add(words, self.run(session, read_image(image)).polygons)
        return {
            "f_measure": score.f_measure,
            "precision": score.precision,
            "recall": score.recall,
            "images": len(pairs),
        }


def content_size(image: tuple[int, int], target: tuple[int, int], step: int = 32) -> tuple[int, int]:
    """Rows and columns that an image of (height, width) occupies in an input of size `target`.

    The image fills the input if their proportions agree up to one step of rounding, as in the released code;
    otherwise it keeps its proportions, and the rest is padding.
    """
    scale = min(target[0] / image[0], target[1] / image[1])
    rows, columns = (min(t, max(1, round(size * scale))) for size, t in zip(image, target, strict=True))
    return target if target[0] - rows < step and target[1] - columns < step else (rows, columns)
