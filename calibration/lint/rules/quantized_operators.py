"""QLinearConv and its kin compute on codes; TensorRT and accelerators read Q/DQ around float operators.

The fix writes DQ, the float operator and Q with the same parameters, also around operators that move codes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import TENSORRT, Cases, Fault, Scene, Sketch, lint_rule
from edgedeploy.calibration.lint.unpack import FORMS, unpack

FOREIGN = frozenset(FORMS) | {
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
}


def cases(rng: np.random.Generator) -> Cases:
    def scale(net: Sketch, value: float, zero: int = 128) -> list[str]:
        return [net.constant(value), net.constant(np.asarray(zero, np.uint8))]

    net, good = Sketch(rng), Sketch(rng)
    x, mid, end = scale(net, 0.03), scale(net, 0.03, 0), scale(net, 0.06)
    codes = net.op("QuantizeLinear", "x", *x)
    w = [net.constant(rng.integers(-127, 127, (16, 16, 3, 3)).astype(np.int8))]
    w += [net.constant(np.full(16, 3e-4, np.float32)), net.constant(np.zeros(16, np.int8))]
    bias = net.constant(rng.integers(-20000, 20000, 16).astype(np.int32))
    y = net.op("QLinearConv", codes, *x, *w, *mid, bias, pads=[1] * 4)
    y = net.op("MaxPool", y, kernel_shape=[2, 2])
    y = net.op("QLinearConv", y, *mid, *w, *end, bias, pads=[1] * 4)
    bad = net.model(net.op("DequantizeLinear", y, *end))
    return Cases([bad], [good.model(good.conv(good.pair("x")))])


@lint_rule(
    "quantized-operators",
    "ED112",
    "error",
    source=("H2",),
    where={"runtime": (*TENSORRT, "mobile")},
    remedy="quantize in QDQ format: quantize_static(quant_format=QuantFormat.QDQ)",
    cases=cases,
    fix_all=unpack,
)
def quantized_operators(scene: Scene) -> Iterator[Fault]:
    """An operator computes on codes (QLinearConv and its kin, ConvInteger, DynamicQuantizeLinear)."""
    for index, node in enumerate(scene.nodes):
        if node.op_type in FOREIGN:
            yield index, f"{node.op_type} is no operator of {scene.rules.title}"
