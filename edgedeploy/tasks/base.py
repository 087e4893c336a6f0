"""The contract of a task: how an image becomes a feed, what an output means, how good it is, how it looks.

Everything here is numpy and OpenCV, so that it runs on a device. Images are uint8 RGB (H, W, 3) throughout.
What differs from model to model (scale, mean, palette) comes from `TaskSpec.options` inside the artifact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.registry import Registry
from edgedeploy.core.spec import Artifact, TensorSpec

Image = NDArray[np.uint8]
Array = NDArray[Any]


class Task(ABC):
    """One task bound to one artifact.

    `options["mean"]` and `options["std"]` say how pixels (0..255) become the network's input: (pixel - mean)
    / std. A graph that has preprocessing built in has mean 0 and std 1, and takes uint8 NHWC if its input
    says so.
    """

    name: ClassVar[str]
    metric_name: ClassVar[str] = ""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.options: Mapping[str, Any] = artifact.task.options
        self.input: TensorSpec = artifact.inputs[0]

    def input_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of the input tensor for an image of this size, in the artifact's layout and channels."""
        channels = self.input.shape[-1] if self.input.layout == "NHWC" else self.input.shape[1]
        size = (
            (height, width, int(channels)) if self.input.layout == "NHWC" else (int(channels), height, width)
        )
        return (1, *size)

    @abstractmethod
    def preprocess(self, image: Image) -> dict[str, Array]:
        """Feeds for one image, at its own size unless the input is static and differs (then resized)."""

    @abstractmethod
    def postprocess(self, outputs: Mapping[str, Array], image: Image) -> Any:
        """The task's result (an upscaled image, a class map, boxes) in the coordinates of `image`."""

    @abstractmethod
    def draw(self, image: Image, result: Any) -> Image:
        """A picture of the result that a person can look at."""

    @abstractmethod
    def evaluate(self, session: Any, data: Path, limit: int | None = None) -> dict[str, float]:
        """Metrics over a data folder, e.g. {"psnr_y": 32.6, "psnr_y_bicubic": 30.4, "images": 5}.

        `session` is a backends.Session or any callable feeds -> outputs.
        """


TASKS: Registry[type[Task]] = Registry(
    "task", "edgedeploy.tasks", skip=frozenset({"base", "colour", "resize"})
)


def task_for(artifact: Artifact) -> Task:
    """The task object of an artifact."""
    return TASKS.get(artifact.task.name)(artifact)
