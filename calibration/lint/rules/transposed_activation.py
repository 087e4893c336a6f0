"""TensorRT 10 computed ConvTranspose + activation + Q wrongly (TensorRT#4366): it stays float (P13)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule
from edgedeploy.calibration.place.exclusions import activation_after


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for activation, name in ((True, "tensorrt"), (False, "tensorrt"), (True, "tensorrt-11")):
        net = Sketch(rng)
        y = net.op("ConvTranspose", net.pair("x"), net.weight(16, 16, 2, 2, axis=1), strides=[2, 2])
        y = net.pair(net.op("Relu", y) if activation else y)
        models.append((net.model(net.conv(y)), name))
    return Cases(models[:1], models[1:])


def to_float(scene: Scene, editor: Editor, index: int) -> None:
    """Rewire a weighted operator to the float activation and to its weight as a float constant."""
    node = scene.nodes[index]
    pair, dequantize = scene.pair(node.input[0]), scene.weight(node.input[1])
    parameters = scene.parameters(pair.quantize) if pair else None
    value = scene.weight_value(dequantize) if dequantize >= 0 else None
    if pair is None or value is None or parameters is None or parameters.clips_at_zero:
        return
    editor.read(index, 0, pair.source)
    editor.read(index, 1, editor.constant(f"{node.input[1]}_float", value.astype(parameters.scale.dtype)))


@lint_rule(
    "transposed-activation",
    "ED212",
    "warning",
    source=("P13",),
    remedy="leave the layer in float, or compare the engine's numbers with ONNX Runtime's",
    cases=cases,
    fix=to_float,
    promise=15.0,
)
def transposed_activation(scene: Scene) -> Iterator[Fault]:
    """A quantized transposed convolution is followed by an activation."""
    for index in scene.weighted:
        concerned = scene.op(index) in scene.rules.float_before_activation and scene.runs_int8(index)
        if concerned and activation_after(scene, index):
            yield index, "TensorRT 10 has computed such a layer wrongly"
