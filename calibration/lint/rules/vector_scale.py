"""A scale of shape (1,) is per channel, of one channel: TensorRT-RTX then computes the layer in float.

Measured with 1.7.1 at SM86: three convolutions run in INT8 with scales of shape (), in float with (1,).
Weights may have either.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import TENSORRT, Cases, Editor, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for shape in ((1,), ()):
        net = Sketch(rng)
        models.append(net.model(net.conv(net.pair("x", np.full(shape, 0.03)))))
    return Cases(models[:1], models[1:])


def fix(scene: Scene, editor: Editor, index: int) -> None:
    for node in (index, *scene.readers(scene.nodes[index].output[0])):
        parameters = (
            scene.parameters(node) if scene.op(node) in {"QuantizeLinear", "DequantizeLinear"} else None
        )
        if parameters is not None and parameters.axis is None:
            editor.set_parameters(node, parameters.scale, parameters.zero)


@lint_rule(
    "vector-scale",
    "ED217",
    "warning",
    source=("H4",),
    where={"runtime": TENSORRT},
    remedy="store the scale of an activation as a scalar, shape ()",
    cases=cases,
    fix=fix,
    promise=100.0,
)
def vector_scale(scene: Scene) -> Iterator[Fault]:
    """The scale of an activation is a vector of one."""
    for index in scene.quantizers:
        name = scene.nodes[index].input[1]
        is_vector = name in scene.constants and list(scene.constants[name].dims) == [1]
        if is_vector and scene.nodes[index].input[0] not in scene.constants:
            yield index, f"'{name}' has shape (1,)"
