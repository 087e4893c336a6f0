"""The task of models without a task: images in, tensors of unknown meaning out.

Options: `mean` and `std` of the input; by default pixels are divided by 255, the most common convention.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.core.errors import UsageError
from edgedeploy.core.spec import TensorSpec
from edgedeploy.task import TASKS, Array, Image, Progress, Run, Task, channels_of
from edgedeploy.vision.images import fit_input, to_tensor
from edgedeploy.vision.palette import draw_legend


@TASKS.register
class TensorTask(Task):
    """Any network on images; the result maps output names to tensors."""

    name = "tensor"

    def preprocess(self, image: Image, spec: TensorSpec | None = None) -> dict[str, Array]:
        spec = spec or self.input
        if len(self.artifact.inputs) != 1:
            raise UsageError(
                f"{self.artifact.path} has {len(self.artifact.inputs)} inputs", "images fill only one"
            )
        channels = channels_of(spec)
        pixels = fit_input(image, spec)
        if channels == 1:
            pixels = np.rint(pixels @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[:, :, None]
        elif channels != 3:
            raise UsageError(f"input {spec} has {channels} channels", "images have 1 or 3")
        mean, std = self.options.get("mean", [0.0]), self.options.get("std", [255.0])
        return {spec.name: to_tensor(pixels, spec, mean, std)}

    def postprocess(self, outputs: Mapping[str, Array], image: Image) -> dict[str, Array]:  # noqa: ARG002
        return {name: np.array(value) for name, value in outputs.items()}

    def agreement(self, reference: Mapping[str, Array], outputs: Mapping[str, Array]) -> float:
        """Least likeness of any output: none has a meaning that another measure would know."""
        names = [spec.name for spec in self.artifact.outputs]
        return min(self.measure(reference[name], outputs[name]) for name in names)

    def draw(self, image: Image, result: Any) -> Image:
        """The image with shape, minimum, mean and maximum of every output as text."""
        white = np.full(3, 255, np.uint8)
        lines = [
            f"{name} {list(value.shape)} min {value.min():.3g} mean {value.mean():.3g} max {value.max():.3g}"
            for name, value in result.items()
            if value.size and value.dtype.kind in "iuf"
        ]
        return draw_legend(image, [(line, white) for line in lines])

    def evaluate(
        self,
        session: Run,  # noqa: ARG002
        data: Path,  # noqa: ARG002
        limit: int | None = None,  # noqa: ARG002
        progress: Progress | None = None,  # noqa: ARG002
    ) -> dict[str, float]:
        raise UsageError(
            f"{self.artifact.path} does not say what its outputs mean, so nothing can be measured",
            "compare its tensors with those of another file instead, or export it with a task",
        )
