"""What to deploy, and how: the one value that every step of a deployment takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedeploy.core.recipe import Recipe
from edgedeploy.core.target import Target


@dataclass(frozen=True)
class Job:
    """What to deploy, and how.

    Attributes:
        source: zoo model, `pkg.module:factory`, `.pt2` or `.onnx`.
        recipe: the options of every step.
        target: the device to deploy to.
        data: calibration images, video or .npz; needed for int8.
        weights: bundled weights by name, a checkpoint file, "random", or None for the default.
        size: (height, width) at which a model of dynamic size is calibrated and timed.
        model_options: for the builder of a zoo model or a factory.
        labeled: images with their truth, to score candidates on; by default a part of `data` is taken.
    """

    source: str
    recipe: Recipe
    target: Target
    data: Path | None = None
    weights: str | None = None
    size: tuple[int, int] | None = None
    model_options: Mapping[str, Any] = field(default_factory=dict)
    labeled: Path | None = None
