"""Text detection: where words stand in an image, from a map of the probability of text.

Options: `mean` and `std` in the order of the network's channels, `channel_order` ("RGB" or "BGR"),
`short_side` for inputs of any size, and those of RegionOptions. An input of fixed size gets the image in its
own proportions, padded at the right or bottom.
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
from edgedeploy.core.spec import Artifact, TensorSpec
from edgedeploy.task import (
    TASKS,
    Array,
    Image,
    Progress,
    Run,
    Task,
    channels_of,
    session_input,
    size_of,
)
from edgedeploy.vision.icdar import TextScore, Word
from edgedeploy.vision.images import read_image, to_tensor
from edgedeploy.vision.text_data import labeled_texts
from edgedeploy.vision.text_regions import RegionOptions, TextRegions, find_regions

LONG_SIDE = 2560  # bounds what an extreme panorama would ask of memory
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
        """The short side as the options say, the other in proportion, both rounded up to whole steps."""
        step = int(self.options.get("size_multiple", 32))
        scale = int(self.options.get("short_side", 736)) / min(height, width)
        scale = min(scale, LONG_SIDE / max(height, width))
        # Not up by a step for the last digit of a float: a side that is whole stays.
        sides = (max(step, math.ceil(round(size * scale, 3) / step) * step) for size in (height, width))
        return super().input_shape(*sides)

    @classmethod
    def options_for(cls, height: int, width: int) -> dict[str, Any]:
        return {"short_side": min(height, width)}

    def preprocess(self, image: Image) -> dict[str, Array]:
        return self._feed(image, self.input)

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

    def run(self, session: Run, image: Image) -> TextRegions:
        return self.postprocess(session(self._feed(image, session_input(session, self.input))), image)

    def measure(self, reference: Array, values: Array) -> float:
        """Intersection over union of the two masks {probability > threshold}."""
        return overlap(*(probability > self.regions.threshold for probability in (reference, values)))

    def draw(self, image: Image, result: Any) -> Image:
        """The image with the outline of every word."""
        picture = np.array(image, dtype=np.uint8)
        thickness = max(1, round(min(picture.shape[:2]) / 360))
        outlines = [np.rint(polygon).astype(np.int32) for polygon in result.polygons]
        for color, width in ((RIM, thickness + 2), (COLOR, thickness)):  # a dark rim shows on anything
            cv2.polylines(picture, outlines, True, color, width, cv2.LINE_AA)
        return picture

    def evaluate(
        self, session: Run, data: Path, limit: int | None = None, progress: Progress | None = None
    ) -> dict[str, float]:
        """Precision, recall and F-measure by the ICDAR 2015 protocol, for three layouts of data.

        Total-Text: Images/ and Groundtruth/Polygon/; MSRA-TD500: test/ and train/ with NAME.gt beside each
        image; `data` is the folder above, there test, else train is taken, or one folder of images.
        Anything else is ICDAR 2015: NAME_images/ with NAME_gts/, as `truth_files` has it.
        """
        pairs, read = labeled_texts(data, polygon=self.regions.polygon)
        return self.score(session, [(image, read(truth)) for image, truth in pairs[:limit]], progress)

    def score(
        self, session: Run, pairs: Sequence[tuple[Path, Sequence[Word]]], progress: Progress | None = None
    ) -> dict[str, float]:
        """The metrics of `evaluate` over these images with their words."""
        score = TextScore()
        for count, (image, words) in enumerate(pairs, 1):
            score.add(words, self.run(session, read_image(image)).polygons)
            if progress:
                progress(count, len(pairs))
        return {
            "f_measure": score.f_measure,
            "precision": score.precision,
            "recall": score.recall,
            "images": len(pairs),
        }

    def _feed(self, image: Image, spec: TensorSpec) -> dict[str, Array]:
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


def content_size(image: tuple[int, int], whole: tuple[int, int], step: int = 32) -> tuple[int, int]:
    """Rows and columns that an image of (height, width) fills of an input of size `whole`.

    It fills all of it where the proportions agree up to one step of rounding, as the released code has it;
    else its proportions are kept and the rest is padding.
    """
    scale = min(whole[0] / image[0], whole[1] / image[1])
    fitted = [min(w, max(1, round(size * scale))) for size, w in zip(image, whole, strict=True)]
    if all(w - size < step for size, w in zip(fitted, whole, strict=True)):
        return whole
    return fitted[0], fitted[1]
