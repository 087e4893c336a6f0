"""Per-channel scales lie along the output channels: axis 0 of Conv, 1 of ConvTranspose, last of MatMul."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Case, Cases, Editor, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    good, bad = list[Case](), list[Case]()
    for axis in (0, 1, 2):
        net = Sketch(rng)
        conv = net.conv(net.pair("x"), weight=net.weight(16, 16, 3, 3, axis=axis))
        (bad if axis else good).append(net.model(conv))
    for channels, group in ((0, 1), (1, 2), (1, 1), (None, 2)):
        net = Sketch(rng)
        w = net.weight(16, 16, 2, 2, axis=channels)
        right = (channels == 1) == (group == 1)
        up = net.op("ConvTranspose", net.pair("x"), w, group=group)
        (good if right else bad).append((net.model(up), "tensorrt"))
    for axis, transposed in ((0, 0), (1, 1), (1, 0), (0, 1)):
        net = Sketch(rng, 4, 16)
        linear = net.op("Gemm", net.pair("x"), net.weight(16, 16, axis=axis), transB=transposed)
        (good if axis != transposed else bad).append(net.model(linear))
    return Cases(bad, good)


def fix(scene: Scene, editor: Editor, index: int) -> None:
    dequantize = scene.weight(scene.nodes[index].input[1])
    value = scene.weight_value(dequantize)
    if value is not None:
        editor.set_weight(dequantize, scene.rules.output_axis(scene.nodes[index], value.ndim))


@lint_rule(
    "wrong-axis",
    "ED105",
    "error",
    source=("H4",),
    remedy="quantize the weight along its output channels, a grouped transposed one with a single scale",
    cases=cases,
    fix=fix,
)
def wrong_axis(scene: Scene) -> Iterator[Fault]:
    """A weight has its scales along another axis than the output channels."""
    for index in scene.weighted:
        dequantize = scene.weight(scene.nodes[index].input[1])
        parameters = scene.parameters(dequantize) if dequantize >= 0 else None
        value = scene.weight_value(dequantize) if parameters is not None else None
        if parameters is None or value is None or parameters.axis is None:
            continue
        wanted = scene.rules.output_axis(scene.nodes[index], value.ndim)
        if parameters.axis != wanted:
            should = "one scale for all" if wanted is None else f"axis {wanted}"
            yield index, f"its weight's scales lie along axis {parameters.axis}, not {should}"
