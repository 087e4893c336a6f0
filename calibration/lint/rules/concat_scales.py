"""Concat copies codes if its inputs and its output have one scale; otherwise it requantizes each branch (P7).

The fix gives all of them the widest scale. Where that scale is more than four times another one, the fix
removes the pairs of the inputs instead; the consumers of the Concat are quantized after it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import TENSORRT, Cases, Editor, Fault, Scene, Sketch, lint_rule
from edgedeploy.calibration.lint.scene import Pair

TOO_WIDE = 4.0  # two of eight bits


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for op, scales, after in (
        ("Relu", (0.02, 0.03), 0.03),
        ("Sigmoid", (0.008, 0.04), 0.04),
        ("Relu", (0.03, 0.03), 0.02),
        ("Relu", (0.03, 0.03), 0.03),
    ):
        net = Sketch(rng)
        parts = [net.pair(net.op(op, net.conv(net.pair("x"))), scales[0])]
        parts += [net.pair(net.op("Relu", net.conv(net.pair("x"))), scales[1])]
        models.append(net.model(net.conv(net.pair(net.op("Concat", *parts, axis=1), after), inputs=32)))
    return Cases(models[:3], models[3:])


def joined(scene: Scene, index: int) -> list[Pair]:
    """Pairs on the inputs and on the output of a Concat; empty where an input is float."""
    pairs = [scene.pair(name) for name in scene.nodes[index].input]
    inputs = [pair for pair in pairs if pair is not None and scene.parameters(pair.quantize)]
    output = scene.nodes[index].output[0]
    after = [pair for pair in scene.pairs() if pair.source == output and scene.parameters(pair.quantize)]
    return [*inputs, *after] if len(inputs) == len(pairs) else []


def fix(scene: Scene, editor: Editor, index: int) -> None:
    pairs = joined(scene, index)
    known = [p for pair in pairs if (p := scene.parameters(pair.quantize))]
    widths = [p.high - p.low for p in known]
    quantized_after = len(pairs) > len(scene.nodes[index].input)
    if quantized_after and max(widths) > TOO_WIDE * min(widths):
        for position, name in enumerate(scene.nodes[index].input):
            editor.read(index, position, scene.before(name))
        return
    widest = known[int(np.argmax(widths))]
    for pair in pairs:
        for node in (pair.quantize, pair.dequantize):
            editor.set_parameters(node, widest.scale, widest.zero)


@lint_rule(
    "concat-scales",
    "ED208",
    "warning",
    source=("P7",),
    where={"runtime": (*TENSORRT, "openvino")},
    remedy="share one scale between all inputs and the output, or quantize after the Concat alone",
    cases=cases,
    fix=fix,
    promise=15.0,
)
def concat_scales(scene: Scene) -> Iterator[Fault]:
    """A Concat joins tensors of different scales."""
    for index, node in enumerate(scene.nodes):
        pairs = joined(scene, index) if node.op_type == "Concat" else []
        scales = {p.key for pair in pairs if (p := scene.parameters(pair.quantize))}
        if len(scales) > 1:
            yield index, f"{len(scales)} different scales among its inputs and its output"
