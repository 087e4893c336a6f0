"""|255 (q_1 + q_2)| <= 32767 for weight codes that a CPU without VNNI adds in 16 bits (core/pair_sums.py).

The fix enlarges the scales of such channels and rounds their weights again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule
from edgedeploy.calibration.place.weights import product_of
from edgedeploy.core.pair_sums import as_rows, saturating


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for codes in (np.array([127, 127]), np.array([-127, -2]), np.array([64, 64]), np.array([127, -127])):
        net = Sketch(rng)
        value = np.zeros((16, 16, 3, 3), np.int8)
        value[:, 4:6] = codes.reshape(1, 2, 1, 1)
        scales = [net.constant(np.full(16, 1e-3, np.float32)), net.constant(np.zeros(16, np.int8))]
        weight = net.op("DequantizeLinear", net.constant(value), *scales, axis=0)
        models.append(net.model(net.conv(net.pair("x", kind=np.uint8), weight=weight)))
    depthwise = Sketch(rng)  # its kernels add in 32 bits
    models.append(depthwise.model(depthwise.conv(depthwise.pair("x", kind=np.uint8), group=16)))
    return Cases(models[:2], models[2:])


def fix(scene: Scene, editor: Editor, index: int) -> None:
    dequantize = scene.weight(scene.nodes[index].input[1])
    parameters = scene.parameters(dequantize)
    if parameters is not None:
        editor.set_weight(dequantize, parameters.axis)


@lint_rule(
    "saturating-sums",
    "ED118",
    "error",
    source=("H8",),
    where={"sums": ("int16-pairs",)},
    remedy="quantize the float model for this CPU, which limits the codes; --fix limits these",
    cases=cases,
    fix=fix,
    promise=20.0,
)
def saturating_sums(scene: Scene) -> Iterator[Fault]:
    """Products of two weights with large activations exceed 16 bits, in which this CPU adds them."""
    for index in scene.weighted:
        node = scene.nodes[index]
        dequantize = scene.weight(node.input[1])
        codes = scene.codes(dequantize) if dequantize >= 0 else None
        if not scene.runs_int8(index) or codes is None or codes.dtype != np.int8 or codes.ndim < 2:
            continue
        product = product_of(node)
        channels = saturating(codes, product)
        if channels:
            yield index, f"{channels} of {as_rows(codes, product).shape[0]} output channels can saturate"
