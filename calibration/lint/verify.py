"""A fix is right if the model computes the same after it: both are run in ONNX Runtime, unoptimized.

Inputs are drawn within the range that the model's own first Q covers: of random inputs outside of it,
saturation would hide every difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from edgedeploy.calibration.lint.scene import Scene
from edgedeploy.calibration.lint.unsigned import with_unsigned_weights
from edgedeploy.graphs.feeds import feed_sets
from edgedeploy.graphs.run import Evaluator, Feeds, Outputs


def random_runs(scene: Scene, seeds: int = 2) -> tuple[list[Feeds], list[Outputs]]:
    """Random inputs of a model, and its outputs for them; raises NotRunnable."""
    ranges = {name: span for name in scene.inputs if (span := _range(scene, name)) is not None}
    runs = list(feed_sets(_evaluator(scene.model), seeds, ranges))
    return [feeds for feeds, _ in runs], [outputs for _, outputs in runs]


def _range(scene: Scene, name: str) -> tuple[float, float] | None:
    """What the first Q that reads an input covers; None where no Q does."""
    for index in scene.quantizers_of(name):
        parameters = scene.parameters(index)
        if parameters is not None and 0 < parameters.high - parameters.low < np.inf:
            return parameters.low, parameters.high
    return None


def run(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> list[Outputs]:
    """Outputs by name for every feed, exact on every CPU; raises NotRunnable."""
    evaluator = _evaluator(model)
    return [evaluator(feed) for feed in feeds]


def _evaluator(model: onnx.ModelProto) -> Evaluator:
    return Evaluator(with_unsigned_weights(model))
