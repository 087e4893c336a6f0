"""Padding is zero, whose code is the zero-point z; OpenVINO 2026.4 averages codes with 0 in the padding.

Measured: the error of an AveragePool that counts its padding, behind DQ with z other than 0, exceeds its
largest output. The result is exact without padding, with count_include_pad = 0, with z = 0, and with a Relu
between DQ and pool. MaxPool and Pad are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule
from edgedeploy.graphs.view import attribute


def cases(rng: np.random.Generator) -> Cases:
    def model(zero: int, *, moved: bool = False, **attributes: Any) -> onnx.ModelProto:
        net = Sketch(rng)
        y = net.pair("x", 0.05, zero, np.uint8)
        y = net.op("MaxPool", y, kernel_shape=[3, 3], pads=[1] * 4) if moved else y
        y = net.op("AveragePool", y, kernel_shape=[3, 3], **attributes)
        return net.model(net.conv(net.pair(y, 0.05, zero, np.uint8)))

    padded: dict[str, Any] = {"pads": [1] * 4, "count_include_pad": 1}
    bad = [
        model(100, **padded),
        model(100, moved=True, **padded),
        model(100, auto_pad="SAME_UPPER", count_include_pad=1),
    ]
    good = [model(0, **padded), model(100, count_include_pad=1), model(100, pads=[1] * 4)]
    return Cases(bad, good)


def fix(scene: Scene, editor: Editor, index: int) -> None:
    """The pool, or the first operator before it that moves values, reads the float tensor."""
    reader = _entry(scene, index)
    pair = scene.pair(scene.nodes[reader].input[0])
    if pair is not None:
        editor.read(reader, 0, pair.source)


@lint_rule(
    "padded-average",
    "ED116",
    "error",
    source=("P5",),
    where={"runtime": ("openvino",)},
    remedy="let it read the float tensor, or quantize that with zero-point 0",
    cases=cases,
    fix=fix,
    promise=20.0,
)
def padded_average(scene: Scene) -> Iterator[Fault]:
    """An AveragePool counts padding in codes with a zero-point, which OpenVINO 2026.4 computes wrongly."""
    for index, node in enumerate(scene.nodes):
        if node.op_type != "AveragePool" or not _counts_padding(scene, index):
            continue
        pair = scene.pair(scene.nodes[_entry(scene, index)].input[0])
        parameters = scene.parameters(pair.quantize) if pair else None
        if parameters is not None and (parameters.zero != 0).any():
            yield index, f"padding is {int(parameters.zero.reshape(-1)[0])} in codes, and is taken as 0"


def _counts_padding(scene: Scene, index: int) -> bool:
    node = scene.nodes[index]
    if not attribute(node, "count_include_pad", 0):
        return False
    return any(attribute(node, "pads", [])) or attribute(node, "auto_pad", b"") in {
        b"SAME_UPPER",
        b"SAME_LOWER",
    }


def _entry(scene: Scene, index: int) -> int:
    """The first operator of the chain that only moves values between a pair and a pool; else the pool."""
    while scene.op(maker := scene.maker(scene.nodes[index].input[0])) in scene.rules.pass_through:
        index = maker
    return index
