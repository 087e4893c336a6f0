"""The first and the last layer are cheap and the most sensitive ones.

The first reads the eight bits of the camera, and no layer after the last one reduces its error.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Fault, Scene, Sketch, lint_rule
from edgedeploy.calibration.lint.rules.transposed_activation import to_float
from edgedeploy.calibration.place.exclusions import weighted_after, weighted_before
from edgedeploy.calibration.place.placement import TRAINED


def cases(rng: np.random.Generator) -> Cases:
    def net(*quantized: bool) -> Sketch:
        net, y = Sketch(rng), "x"
        for layer in quantized:
            y = net.conv(net.pair(y)) if layer else net.float_conv(y)
            y = net.op("Relu", y)
        return net

    nets = [net(True, True, False), net(False, True, True), net(False, True, False)]
    models = [entry.model(entry.nodes[-1].name) for entry in nets]
    return Cases([*models[:2], (models[1], "openvino")], [models[2], (models[0], "openvino")])


@lint_rule(
    "edge-layers",
    "ED301",
    "advice",
    source=("P12",),
    remedy="leave it in float, or measure that the task's metric does not suffer",
    cases=cases,
    fix=to_float,
    promise=10.0,
)
def edge_layers(scene: Scene) -> Iterator[Fault]:
    """The first or the last weighted operator runs in INT8."""
    for index in scene.weighted:
        if not scene.runs_int8(index):
            continue
        if not scene.rules.first and not weighted_before(scene, index, scene.rules):
            yield index, "the first layer"
            continue
        # The weights of one that was trained for INT8 lose nothing; which ones were, the file says.
        trained = scene.nodes[index].doc_string == TRAINED
        if not scene.rules.last and not trained and not weighted_after(scene, index, scene.rules):
            yield index, "the last layer"
