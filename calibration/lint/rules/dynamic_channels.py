"""An engine is built for fixed channels, because they decide the layout of INT8 tiles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import TENSORRT, Cases, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for shape in ((1, "c", 8, 8), ("n", 16, "h", "w")):
        net = Sketch(rng, *shape)
        models.append(net.model(net.conv(net.pair("x"))))
    return Cases(models[:1], models[1:])


@lint_rule(
    "dynamic-channels",
    "ED107",
    "error",
    source=("H6",),
    where={"runtime": TENSORRT},
    remedy="export with fixed channels; batch, height and width may be dynamic",
    cases=cases,
)
def dynamic_channels(scene: Scene) -> Iterator[Fault]:
    """The channels of a quantized tensor are known only when the model runs."""
    for index in scene.weighted:
        name = scene.nodes[index].input[0]
        pair = scene.pair(name)
        if pair is None or scene.op(index) not in {"Conv", "ConvTranspose"}:
            continue
        shape = scene.shapes.get(pair.source, ())
        if len(shape) > 1 and shape[1] is None:
            yield index, f"channels of '{pair.source}' are dynamic"
