"""Random inputs of the kind that a model's task gives it, for parity and timing where no data is at hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgedeploy.backend import Array, Shapes, concrete_shapes
from edgedeploy.core.errors import UsageError
from edgedeploy.core.random_inputs import random_tensor
from edgedeploy.core.spec import Artifact, TensorSpec

USUAL_SIZE = 256


def representative_shapes(artifact: Artifact, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Shapes to try a model with: as given, else its own, with batch 1 and sizes of 256 where dynamic."""
    filled = {
        spec.name: tuple(
            dim if isinstance(dim, int) else (USUAL_SIZE if axis else 1)
            for axis, dim in enumerate(spec.shape)
        )
        for spec in artifact.inputs
    }
    return concrete_shapes(artifact, {**filled, **shapes})


def random_feeds(artifact: Artifact, shapes: Shapes, seed: int = 0) -> dict[str, Array]:
    """One feed per input, the same for the same seed.

    Float images are uniform pixels, normalized as the task says, (pixel - mean) / std; other floats are
    standard normal. Integers of 8 bits cover their range; others are 0 or 1, valid as index, size and mask.
    """
    generator = np.random.default_rng(seed)
    return {spec.name: _feed(artifact, spec, shapes[spec.name], generator) for spec in artifact.inputs}


def _feed(
    artifact: Artifact, spec: TensorSpec, shape: tuple[int, ...], generator: np.random.Generator
) -> Array:
    mean, std = artifact.task.options.get("mean"), artifact.task.options.get("std")
    dtype = _number_type(spec)
    if mean is None or std is None or len(shape) != 4 or dtype.kind != "f":
        return random_tensor(spec.dtype, shape, generator, largest=1)
    per_channel = (1, 1, 1, -1) if spec.layout == "NHWC" else (1, -1, 1, 1)
    pixels: Array = generator.random(shape, np.float32) * np.float32(255)
    pixels -= np.reshape(np.asarray(mean, np.float32), per_channel)
    pixels /= np.reshape(np.asarray(std, np.float32), per_channel)
    return pixels.astype(dtype, copy=False)


def _number_type(spec: TensorSpec) -> np.dtype[Any]:
    """The numpy type of an input; raises UsageError for text, sequences and types that numpy lacks."""
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "biuf":
        raise UsageError(
            f"input {spec} takes no numbers that can be drawn", "cut the model behind it with --split-at"
        )
    return dtype
