"""Pad + Conv are one kernel; a pair between them prevents that, so it goes first (P9, TensorRT#2592)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule
from edgedeploy.graphs.view import attribute


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for after in (True, False):
        net = Sketch(rng)
        pads = net.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
        y = net.op("Relu", net.conv(net.pair("x")))
        y = net.pair(net.op("Pad", y, pads)) if after else net.op("Pad", net.pair(y), pads)
        models.append(net.model(net.conv(y)))
    return Cases(models[:1], models[1:])


def fix(scene: Scene, editor: Editor, quantize: int) -> None:
    """The code of zero is 0 at every symmetric scale, so padding codes is exact."""
    pad = scene.maker(scene.nodes[quantize].input[0])
    dequantize = scene.readers(scene.nodes[quantize].output[0])[0]
    result = scene.nodes[dequantize].output[0]
    editor.redirect(result, scene.nodes[pad].output[0])
    editor.read(quantize, 0, scene.nodes[pad].input[0])
    editor.read(pad, 0, result)


@lint_rule(
    "pair-after-pad",
    "ED210",
    "warning",
    source=("P9",),
    where={"outputs": (False,)},
    remedy="quantize what goes into the Pad",
    cases=cases,
    fix=fix,
)
def pair_after_pad(scene: Scene) -> Iterator[Fault]:
    """Q/DQ stand between a Pad and a convolution."""
    for pair in scene.pairs():
        pad = scene.maker(pair.source)
        if scene.op(pad) != "Pad" or not scene.is_private(pair.source):
            continue
        node = scene.nodes[pad]
        zeros = (
            len(node.input) < 3
            or not node.input[2]
            or (node.input[2] in scene.constants and not np.any(scene.value(node.input[2])))
        )
        if not zeros or attribute(node, "mode", b"constant") != b"constant":
            continue
        if any(scene.op(index) == "Conv" for index in scene.readers(pair.result)):
            yield pair.quantize, f"between Pad '{scene.label(pad)}' and its convolution"
