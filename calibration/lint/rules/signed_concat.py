"""x = s (q - 128) in uint8 is x = s q in int8; OpenVINO 2026.4 computes Concat + Q + Conv in uint8 alone.

Measured: behind a Concat with int8 codes a convolution has 10 to 20 dB SQNR, with uint8 codes 130 dB.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule

HALF = 128


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for zero, kind in ((0, np.int8), (128, np.uint8)):
        net = Sketch(rng)
        parts = [net.op("Relu", net.conv(net.pair("x", zero=zero, kind=kind))) for _ in range(2)]
        y = net.pair(net.op("Concat", *parts, axis=1), 0.03, zero, kind)
        models.append(net.model(net.conv(y, inputs=32)))
    return Cases(models[:1], models[1:])


def fix(scene: Scene, editor: Editor, index: int) -> None:
    """The same values in uint8 codes with zero-point 128."""
    parameters = scene.parameters(index)
    if parameters is not None:
        zero = (parameters.zero.astype(np.int64) + HALF).astype(np.uint8)
        editor.requantize(index, parameters.scale, zero)


@lint_rule(
    "signed-concat",
    "ED114",
    "error",
    source=("P7",),
    where={"runtime": ("openvino",)},
    remedy="quantize what a Concat makes to uint8",
    cases=cases,
    fix=fix,
    promise=100.0,
)
def signed_concat(scene: Scene) -> Iterator[Fault]:
    """The int8 codes of a Concat go into a convolution, which OpenVINO 2026.4 computes wrongly."""
    for pair in scene.pairs():
        parameters = scene.parameters(pair.quantize)
        if parameters is None or parameters.zero.dtype != np.int8:
            continue
        if _joined(scene, pair.source) and any(scene.op(i) == "Conv" for i in scene.readers(pair.result)):
            yield pair.quantize, "int8 codes of a Concat"


def _joined(scene: Scene, name: str) -> bool:
    """Whether a Concat makes the tensor, at most through operators that OpenVINO's passes skip."""
    index = scene.maker(name)
    while scene.op(index) in {"Relu", "Clip", "Identity", "Mul", "Add", "DequantizeLinear", "QuantizeLinear"}:
        data = scene.data_inputs(index)
        if len(data) != 1:
            return False
        index = scene.maker(data[0])
    return scene.op(index) == "Concat"
