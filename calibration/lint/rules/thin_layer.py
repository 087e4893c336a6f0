"""A tile of INT8 arithmetic has at least 16 channels; a smaller layer pays for Q/DQ without gain (P9)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Fault, Scene, Sketch, lint_rule
from edgedeploy.calibration.lint.rules.transposed_activation import to_float
from edgedeploy.calibration.place.exclusions import why_thin


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for channels, group in ((3, 1), (16, 1), (16, 16)):
        net = Sketch(rng)
        y = net.op("Relu", net.conv(net.pair("x"), outputs=channels if group == 1 else 16))
        models.append(net.model(net.conv(net.pair(y), channels, 6 if channels == 3 else 16, group=group)))
    return Cases(models[:1], models[1:])


@lint_rule(
    "thin-layer",
    "ED302",
    "advice",
    source=("P9",),
    where={"small_channels": (True,)},
    remedy="leave it in float",
    cases=cases,
    fix=to_float,
    promise=10.0,
)
def thin_layer(scene: Scene) -> Iterator[Fault]:
    """A weighted operator with too few channels to gain by INT8 runs in it."""
    for index in scene.weighted:
        if scene.runs_int8(index) and scene.weight(scene.nodes[index].input[1]) >= 0:
            reason = why_thin(scene, index, scene.rules)
            if reason:
                yield index, reason
