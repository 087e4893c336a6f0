"""The contract of a task: preprocessing, meaning of the outputs, metric, drawing.

Tasks use numpy and OpenCV alone, so that they run on a device. Images are uint8 RGB (H, W, 3). Differences
between models (scale, mean, palette) are in `TaskSpec.options` of the artifact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.agreement import likeness, worst_output
from edgedeploy.core.errors import ArtifactError, UsageError
from edgedeploy.core.progress import Progress as Progress  # every task file needs it
from edgedeploy.core.registry import Registry
from edgedeploy.core.spec import Artifact, TaskSpec, TensorSpec

Image = NDArray[np.uint8]
Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class Task(ABC):
    """One task bound to one artifact.

    The network's input is (pixel - options["mean"]) / options["std"], pixels 0..255. A graph with built-in
    preprocessing has mean 0 and std 1; the spec of its input gives dtype and layout, e.g. uint8 NHWC.
    """

    name: ClassVar[str]
    metric_name: ClassVar[str] = ""
    # Default budgets of a lower precision: with labels, and without labels.
    budget: ClassVar[tuple[str, ...]] = ()
    budget_without_labels: ClassVar[tuple[str, ...]] = ("agreement>=0.97",)
    # Scores that a comparison of candidates shows: name, column title, number format.
    score_columns: ClassVar[tuple[tuple[str, str, str], ...]] = (("agreement", "agreement", ".3f"),)

    def __init__(self, artifact: Artifact) -> None:
        if not artifact.inputs:
            raise ArtifactError(f"{artifact.path} has no inputs", "export a model that takes an image")
        self.artifact = artifact
        self.options: Mapping[str, Any] = artifact.task.options
        self.input: TensorSpec = artifact.inputs[0]
        self._check_channels()

    def _check_channels(self) -> None:
        """Raise ArtifactError unless `mean` and `std` have one value, or one per input channel."""
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
        """Shape of the input tensor for an image of this size, in the artifact's layout."""
        channels = channels_of(self.input)
        return (1, height, width, channels) if channels_last(self.input) else (1, channels, height, width)

    def input_shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """`input_shape` by the input's name, for builds and sessions of a dynamic model."""
        return {self.input.name: self.input_shape(height, width)}

    @abstractmethod
    def preprocess(self, image: Image, spec: TensorSpec | None = None) -> dict[str, Array]:
        """Feeds for one image, resized where the input has a fixed size.

        `spec` is the input of an open session, whose size is fixed; None: the artifact's input.
        """

    @abstractmethod
    def postprocess(self, outputs: Mapping[str, Array], image: Image) -> Any:
        """The task's result (an upscaled image, a class map, boxes) in the coordinates of `image`.

        The result owns its memory: `outputs` may be memory of the runtime, overwritten by its next run.
        """

    def run(self, session: Run, image: Image) -> Any:
        """The task's result for one image; `session` is a Session or any callable feeds -> outputs."""
        spec = session_input(session, self.input)
        return self.postprocess(session(self.preprocess(image, spec)), image)

    @abstractmethod
    def draw(self, image: Image, result: Any) -> Image:
        """A picture of the result."""

    @classmethod
    def options_for(cls, height: int, width: int) -> dict[str, Any]:  # noqa: ARG003
        """Task options for a foreign model of dynamic size at this size."""
        return {}

    def agreement(self, reference: Mapping[str, Array], outputs: Mapping[str, Array]) -> float:
        """Least agreement of any output with the exact model's on the same image, 1 where all are equal.

        The task's `measure` is of its first output, which it decodes; see `worst_output` for further ones.
        """
        names = [spec.name for spec in self.artifact.outputs]
        return worst_output(self.measure, [(reference[name], outputs[name]) for name in names])

    def measure(self, reference: Array, values: Array) -> float:
        """Agreement of the first output, in what the task decodes from it; here 1 - |noise| / |signal|."""
        return likeness(reference, values)

    @abstractmethod
    def evaluate(
        self, session: Run, data: Path, limit: int | None = None, progress: Progress | None = None
    ) -> dict[str, float]:
        """Metrics over a data folder, e.g. {"psnr_y": 32.6, "psnr_y_bicubic": 30.4, "images": 5}.

        `limit`: number of images; `progress` is called with (done, total or None). Raises UsageError for a
        folder without the data of the metric.
        """


TASKS: Registry[type[Task]] = Registry("task", "edgedeploy.tasks")


def task_for(artifact: Artifact) -> Task:
    """The task object of an artifact; raises UnknownNameError, and ArtifactError where the two do not fit."""
    return TASKS.get(artifact.task.name)(artifact)


def task_spec(name: str, size: tuple[int, int] | None, options: Mapping[str, Any]) -> TaskSpec:
    """The spec of a task for a foreign model, with height and width where its size is dynamic.

    Raises UnknownNameError.
    """
    usual = TASKS.get(name).options_for(*size) if size else {}
    return TaskSpec(name=name, options={**usual, **options})


def channels_last(spec: TensorSpec) -> bool:
    """Whether an image input is NHWC: by its layout, else by the axis that can hold 1, 3 or 4 channels."""
    if spec.layout:
        return spec.layout == "NHWC"
    return len(spec.shape) == 4 and spec.shape[3] in (1, 3, 4) and spec.shape[1] not in (1, 3, 4)


def channels_of(spec: TensorSpec) -> int:
    """Channels of an image input; raises UsageError unless it is an image of fixed channels."""
    channels = spec.shape[3 if channels_last(spec) else 1] if len(spec.shape) == 4 else None
    if not isinstance(channels, int):
        raise UsageError(
            f"input {spec} is not one batch of images", "feed such a model with an .npz of its inputs"
        )
    return channels


def size_of(spec: TensorSpec) -> tuple[int | None, int | None]:
    """Height and width of an image input; None for a dynamic one."""
    first = 1 if channels_last(spec) else 2
    height, width = (dim if isinstance(dim, int) else None for dim in spec.shape[first : first + 2])
    return height, width


def session_input(session: object, default: TensorSpec) -> TensorSpec:
    """The input spec of an open session, which has a concrete size; `default` for another callable."""
    inputs = getattr(session, "inputs", None)
    return inputs[0] if inputs else default
