"""Depthwise and pointwise convolutions fuse in INT8 behind Q/DQ; a float one costs two copies (P8)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import TENSORRT, Cases, Fault, Scene, Sketch, lint_rule
from edgedeploy.calibration.place.exclusions import why_thin
from edgedeploy.graphs.view import attribute


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for quantized, kernel in ((False, 3), (True, 3), (False, 1)):
        net = Sketch(rng)
        y = net.op("Relu", net.conv(net.pair("x")))
        y = net.conv(net.pair(y), group=16) if quantized else net.float_conv(y, kernel=kernel, group=16)
        models.append(net.model(net.conv(net.pair(net.op("Relu", y)))))
    return Cases(models[:1], models[1:])


@lint_rule(
    "float-depthwise",
    "ED303",
    "advice",
    source=("P8",),
    where={"runtime": TENSORRT},
    remedy="give its input and its weight Q/DQ too",
    cases=cases,
)
def float_depthwise(scene: Scene) -> Iterator[Fault]:
    """A depthwise convolution between INT8 ones runs in float."""
    for index in scene.weighted:
        node = scene.nodes[index]
        if (
            attribute(node, "group", 1) == 1
            or node.input[1] not in scene.constants
            or scene.op(index) != "Conv"
        ):
            continue
        before = scene.fused_from(scene.before(node.input[0]))
        after = [q for name in _ends(scene, index) for q in scene.quantizers_of(name)]
        if before >= 0 and scene.runs_int8(before) and after and not why_thin(scene, index, scene.rules):
            yield index, f"between '{scene.label(before)}' and '{scene.label(after[0])}'"


def _ends(scene: Scene, index: int) -> list[str]:
    """The output of the operator, and the output of the activation after it."""
    name = scene.nodes[index].output[0]
    readers = scene.readers(name)
    return [name, *(scene.nodes[reader].output[0] for reader in readers[:1] if scene.is_private(name))]
