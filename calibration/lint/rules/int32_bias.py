"""b = s_x s_w q: ONNX Runtime stores int32 biases behind DequantizeLinear; TensorRT has no type for them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import TENSORRT, Cases, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    def net(integer: bool) -> Sketch:
        net = Sketch(rng)
        x, w = net.pair("x"), net.weight(16, 16, 3, 3)
        bias = net.bias(16)
        if integer:
            codes = net.constant(rng.integers(-1000, 1000, 16).astype(np.int32))
            bias = net.op("DequantizeLinear", codes, net.constant(np.full(16, 1e-4, np.float32)), axis=0)
        net.op("Conv", x, w, bias, pads=[1, 1, 1, 1])
        return net

    bad, good = net(True), net(False)
    return Cases([bad.model(bad.nodes[-1].name)], [good.model(good.nodes[-1].name)])


@lint_rule(
    "int32-bias",
    "ED103",
    "error",
    source=("H3",),
    where={"runtime": TENSORRT},
    remedy="leave biases in float; for ONNX Runtime's quantize_static: extra_options={'QuantizeBias': False}",
    cases=cases,
    fix=lambda _, editor, index: editor.to_constant(index),
    promise=80.0,
)
def int32_bias(scene: Scene) -> Iterator[Fault]:
    """A bias is int32 behind DequantizeLinear."""
    for index in scene.dequantizers:
        if scene.kind(index) == "int32":
            yield index, "int32 codes: the parser takes 8 bits and fewer"
