"""Optic disc and cup of fundus photographs: two masks that overlap, the cup inside the disc.

Options: `mean` and `std` of the input; `threshold` of the two sigmoids (0.75 in the released evaluation of
TVConv). Logits are (1, 2, h, w), cup first; they are enlarged bilinearly before the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import UsageError
from edgedeploy.core.progress import reported
from edgedeploy.core.spec import TensorSpec
from edgedeploy.task import TASKS, Array, Image, Progress, Run, Task
from edgedeploy.vision.images import fit_input, list_images, read_image, to_tensor
from edgedeploy.vision.label_map import read_label_map
from edgedeploy.vision.palette import draw_legend

Masks = NDArray[np.bool_]  # (2, H, W): cup, disc

NAMES = ("optic cup", "optic disc")
COLORS = np.asarray([[255, 200, 0], [0, 200, 255]], np.uint8)


@TASKS.register
class DiscCup(Task):
    """Masks of cup and disc; the result is bool (2, H, W)."""

    name = "disc-cup"
    metric_name = "dice"
    budget = ("dice>=-0.5",)
    budget_without_labels = ("agreement>=0.985",)

    def preprocess(self, image: Image, spec: TensorSpec | None = None) -> dict[str, Array]:
        spec = spec or self.input
        mean, std = self.options.get("mean", [127.5]), self.options.get("std", [127.5])
        return {spec.name: to_tensor(fit_input(image, spec), spec, mean, std)}

    def postprocess(self, outputs: Mapping[str, Array], image: Image) -> Masks:
        logits = outputs[self.artifact.outputs[0].name]
        if logits.ndim != 4 or logits.shape[1] != len(NAMES):
            raise UsageError(
                f"the output has shape {list(logits.shape)}, not (1, 2, h, w)", "use a model of disc and cup"
            )
        cut, size = self._cut(), image.shape[1::-1]
        planes = [
            cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) for plane in logits[0]
        ]
        return np.stack(planes) > cut

    def measure(self, reference: Array, values: Array) -> float:
        """Mean Dice of the two masks at the output's resolution."""
        cut = self._cut()
        pairs = zip(reference[0] > cut, values[0] > cut, strict=True)
        return float(np.mean([dice(*pair) for pair in pairs]))

    def _cut(self) -> float:
        """The logit of the threshold; raises UsageError."""
        share = float(self.options.get("threshold", 0.75))
        if not 0 < share < 1:
            raise UsageError(f"a threshold of {share} keeps all or nothing", "choose one between 0 and 1")
        return math.log(share / (1 - share))

    def draw(self, image: Image, result: Any) -> Image:
        """Outlines of disc and cup, and the cup-to-disc ratio."""
        picture = image.copy()
        thickness = max(1, min(image.shape[:2]) // 300)
        for mask, color in zip(result, COLORS, strict=True):
            outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, outline, -1, tuple(map(int, color)), thickness)
        ratio = cup_to_disc_ratio(result)
        names = [*NAMES, f"cup/disc {ratio:.2f}" if math.isfinite(ratio) else "no disc"]
        colors = [*COLORS, np.full(3, 255, np.uint8)]
        return draw_legend(picture, list(zip(names, colors, strict=True)))

    def evaluate(
        self, session: Run, data: Path, limit: int | None = None, progress: Progress | None = None
    ) -> dict[str, float]:
        """Mean Dice over images/NAME.* with masks/NAME.png below `data`.

        `cup_to_disc_error` is the mean absolute error of the vertical ratio over images with a disc in truth
        and result. `read_masks` describes the mask files.
        """
        return self.score(session, photographs(data)[:limit], progress)

    def score(
        self, session: Run, files: Sequence[tuple[Path, Path]], progress: Progress | None = None
    ) -> dict[str, float]:
        """The metrics of `evaluate` over these pairs of a photograph and its mask."""
        scores, errors = [], []
        for file, mask in reported(files, progress):
            image, truth = read_image(file), read_masks(mask)
            if truth.shape[1:] != image.shape[:2]:
                raise UsageError(f"{file} and its mask differ in size", "resize one to the other")
            masks = self.run(session, image)
            scores.append([dice(*pair) for pair in zip(truth, masks, strict=True)])
            errors.append(abs(cup_to_disc_ratio(truth) - cup_to_disc_ratio(masks)))
        cup, disc = np.mean(scores, axis=0).tolist()
        known = [error for error in errors if math.isfinite(error)]
        return {
            "dice": (cup + disc) / 2,
            "dice_cup": cup,
            "dice_disc": disc,
            "cup_to_disc_error": float(np.mean(known)) if known else math.nan,
            "images": len(files),
        }


def photographs(data: Path) -> list[tuple[Path, Path]]:
    """(image, mask) files of data/images and data/masks, sorted by name; raises UsageError."""
    images, masks = data / "images", data / "masks"
    if not (images.is_dir() and masks.is_dir()):
        raise UsageError(f"{data} holds no images/ and masks/", "it needs images/NAME.* and masks/NAME.png")
    return [(file, masks / f"{file.stem}.png") for file in list_images(images)]


def read_masks(path: Path) -> Masks:
    """Cup and disc (2, H, W) of a mask file.

    A class map has 0 background, 1 rim of the disc, 2 cup. A file with larger values has the gray levels of
    the public data sets: above 200 background, 51 to 200 rim, up to 50 cup. Raises UsageError.
    """
    values = read_label_map(path)
    if values.max(initial=0) <= 2:
        return np.stack([values == 2, values >= 1])
    return np.stack([values <= 50, values <= 200])


def dice(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|); 1 where both are empty."""
    both = int(truth.sum()) + int(predicted.sum())
    return 2 * int((truth & predicted).sum()) / both if both else 1.0


def cup_to_disc_ratio(masks: Masks) -> float:
    """Height of the cup / height of the disc; NaN without a disc."""
    cup, disc = (np.flatnonzero(mask.any(axis=1)) for mask in masks)
    if not disc.size:
        return math.nan
    return float((cup[-1] - cup[0] + 1 if cup.size else 0) / (disc[-1] - disc[0] + 1))
