"""A fix is right if the model computes the same after it: both are run in ONNX Runtime, unoptimized.

Feeds are drawn within the range that the model's own first Q covers: of random inputs outside of it,
saturation would hide every difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgedeploy.calibration.lint.scene import Q, Scene
from edgedeploy.calibration.lint.unsigned import with_unsigned_weights

Feeds = dict[str, NDArray[Any]]
SIDE, CHANNELS = 64, 3  # where a model leaves its size open


class NotRunnable(Exception):
    """ONNX Runtime does not take a model, or not these inputs; the message says why."""


def drawn_feeds(scene: Scene, count: int = 2) -> list[Feeds]:
    """Random inputs of a model; raises NotRunnable for inputs that are not tensors of numbers."""
    rng = np.random.default_rng(0)
    return [
        {
            value.name: _draw(scene, value, rng)
            for value in scene.model.graph.input
            if value.name in scene.inputs
        }
        for _ in range(count)
    ]


def _draw(scene: Scene, value: onnx.ValueInfoProto, rng: np.random.Generator) -> NDArray[Any]:
    tensor = value.type.tensor_type
    dims = [dim.dim_value for dim in tensor.shape.dim]
    shape = [
        size if size > 0 else (1 if axis == 0 else CHANNELS if axis == 1 and len(dims) == 4 else SIDE)
        for axis, size in enumerate(dims)
    ]
    try:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    except KeyError:
        raise NotRunnable(f"input {value.name} is no tensor of numbers") from None
    if kind.kind in "iu":
        info = np.iinfo(kind)
        return rng.integers(max(info.min, -128), min(info.max, 255), shape, endpoint=True).astype(kind)
    low, high = -1.0, 1.0
    for index in scene.readers(value.name):
        parameters = scene.parameters(index) if scene.op(index) == Q else None
        if parameters is not None and 0 < parameters.high - parameters.low < np.inf:
            low, high = parameters.low, parameters.high
    # Uniform ones would be wider than what such a range was measured on, and saturate all that follows.
    return np.asarray(np.clip(rng.normal((low + high) / 2, (high - low) / 6, shape), low, high).astype(kind))


def run(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> list[Feeds]:
    """Outputs by name for every feed, exact on every CPU; raises NotRunnable."""
    model = with_unsigned_weights(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session: Any = onnxruntime.InferenceSession(
            model.SerializeToString(), options, ["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]
    except Exception as error:
        raise NotRunnable(f"ONNX Runtime: {' '.join(str(error).split())[:200]}") from error
