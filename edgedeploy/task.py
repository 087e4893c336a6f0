"""The contract of a task: how an image becomes a feed, what an output means, how good it is, how it looks.

Everything here is numpy and OpenCV, so that it runs on a device. Images are uint8 RGB (H, W, 3) throughout.
What differs from model to model (scale, mean, palette) comes from `TaskSpec.options` inside the artifact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.agreement import likeness
from edgedeploy.core.errors import ArtifactError, UsageError
from edgedeploy.core.progress import Progress as Progress  # every task file needs it
from edgedeploy.core.registry import Registry
from edgedeploy.core.spec import Artifact, TaskSpec, TensorSpec

Image = NDArray[np.uint8]
Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class Task(ABC):
    """One task bound to one artifact.

    `options["mean"]` and `options["std"]` say how pixels (0..255) become the network's input:
    (pixel - mean) / std. A graph that has preprocessing built in has mean 0 and std 1, and takes uint8 NHWC
    if its input says so.
    """

    name: ClassVar[str]
    metric_name: ClassVar[str] = ""
    # What a lower precision may cost, unless told: with labels, and without any.
    budget: ClassVar[tuple[str, ...]] = ()
    budget_without_labels: ClassVar[tuple[str, ...]] = ("agreement>=0.97",)

    def __init__(self, artifact: Artifact) -> None:
        if not artifact.inputs:
            raise ArtifactError(f"{artifact.path} has no inputs", "export a model that takes an image")
        self.artifact = artifact
        self.options: Mapping[str, Any] = artifact.task.options
        self.input: TensorSpec = artifact.inputs[0]
        self._check_channels()

    def _check_channels(self) -> None:
        """Raise ArtifactError where `mean` or `std` has another length than the input has channels."""
        channels = (
            self.input.shape[3 if channels_last(self.input) else 1] if len(self.input.shape) == 4 else ""
        )
        for name in ("mean", "std"):
            values = self.options.get(name, 0.0)
            count = len(values) if isinstance(values, (list, tuple)) else 1
            if isinstance(channels, int) and count not in (1, channels):
                raise ArtifactError(
                    f"{self.artifact.path}: {name} has {count} values for {channels} channels",
                    "export the model again, with one value per channel",
                )

    def input_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of the input tensor for an image of this size, in the artifact's layout and channels."""
        channels = channels_of(self.input)
        return (1, height, width, channels) if channels_last(self.input) else (1, channels, height, width)

    def input_shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """The same by the input's name, as builds and sessions of a dynamic model want it."""
        return {self.input.name: self.input_shape(height, width)}

    @abstractmethod
    def preprocess(self, image: Image) -> dict[str, Array]:
        """Feeds for one image, at its own size unless the input is static and differs (then resized)."""

    @abstractmethod
    def postprocess(self, outputs: Mapping[str, Array], image: Image) -> Any:
        """The task's result (an upscaled image, a class map, boxes) in the coordinates of `image`.

        It owns its memory: the outputs may be the runtime's, gone at its next run.
        """

    def run(self, session: Run, image: Image) -> Any:
        """The task's result for one image; `session` is a Session or any callable feeds -> outputs."""
        return self.postprocess(session(self.preprocess(image)), image)

    @abstractmethod
    def draw(self, image: Image, result: Any) -> Image:
        """A picture of the result that a person can look at."""

    @classmethod
    def options_for(cls, height: int, width: int) -> dict[str, Any]:  # noqa: ARG003
        """Options that make a model of dynamic size, from elsewhere, run at this size."""
        return {}

    def agreement(self, reference: Mapping[str, Array], outputs: Mapping[str, Array]) -> float:
        """How far the outputs agree with those of the exact model on the same image; 1 where they are equal.

        In terms of what the task makes of them, see each; here 1 - |noise| / |signal| of the first output.
        """
        name = self.artifact.outputs[0].name
        return likeness(reference[name], outputs[name])

    @abstractmethod
    def evaluate(
        self, session: Run, data: Path, limit: int | None = None, progress: Progress | None = None
    ) -> dict[str, float]:
        """Metrics over a data folder, e.g. {"psnr_y": 32.6, "psnr_y_bicubic": 30.4, "images": 5}.

        `limit` stops after so many images; `progress` is called with (images done, images in all if known).
        Raises UsageError where the folder does not hold what the metric needs.
        """


TASKS: Registry[type[Task]] = Registry("task", "edgedeploy.tasks")


def task_for(artifact: Artifact) -> Task:
    """The task object of an artifact; raises UnknownNameError, or another error where it does not fit."""
    return TASKS.get(artifact.task.name)(artifact)


def task_spec(name: str, size: tuple[int, int] | None, options: Mapping[str, Any]) -> TaskSpec:
    """What a file from elsewhere does, at a height and width where it leaves them open.

    Raises UnknownNameError.
    """
    usual = TASKS.get(name).options_for(*size) if size else {}
    return TaskSpec(name=name, options={**usual, **options})


def channels_last(spec: TensorSpec) -> bool:
    """Whether an image input is NHWC: as its layout says, else by where 1, 3 or 4 channels can stand."""
    if spec.layout:
        return spec.layout == "NHWC"
    return len(spec.shape) == 4 and spec.shape[3] in (1, 3, 4) and spec.shape[1] not in (1, 3, 4)


def channels_of(spec: TensorSpec) -> int:
    """Channels of an image input; raises UsageError where it is no image or its channels are not fixed."""
    channels = spec.shape[3 if channels_last(spec) else 1] if len(spec.shape) == 4 else None
    if not isinstance(channels, int):
        raise UsageError(
            f"input {spec} is not one batch of images", "feed such a model with an .npz of its inputs"
        )
    return channels


def size_of(spec: TensorSpec) -> tuple[int | None, int | None]:
    """Height and width of an image input; None where dynamic."""
    first = 1 if channels_last(spec) else 2
    height, width = (dim if isinstance(dim, int) else None for dim in spec.shape[first : first + 2])
    return height, width


def session_input(session: object, default: TensorSpec) -> TensorSpec:
    """The input spec of an open session, which knows its size; `default` for a bare callable."""
    inputs = getattr(session, "inputs", None)
    return inputs[0] if inputs else default
