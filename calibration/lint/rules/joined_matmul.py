"""x = s (q - z): OpenVINO 2026.4 splits a zero-point behind a Concat along the Concat's axis.

MatMul then fails to compile ("cannot be broadcasted"), unless that axis is the last one. An example is the
class token of a ViT, which is joined to the others before a linear layer. Measured: MatMul and Gemm fail
with Q before or after the Concat, also through Relu. int8 and uint8 are exact with z = 0, and with any z
where an operator that computes stands between Concat and MatMul.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for axis, zero, kind in ((1, 100, np.uint8), (1, 0, np.int8), (1, 0, np.uint8), (2, 100, np.uint8)):
        net = Sketch(rng, 1, 12, 16)
        y = net.op("Concat", net.op("Relu", "x"), net.op("Tanh", "x"), axis=axis)
        weight = net.weight(16 * axis, 32, axis=1)
        models.append(net.model(net.op("MatMul", net.pair(y, 0.03, zero, kind), weight)))
    net = Sketch(rng, 1, 12, 16)
    tokens = net.pair(net.op("Concat", "x", net.op("Tanh", "x"), axis=1), 0.03, -128)  # a ReLU besides
    clipping = net.model(net.op("MatMul", tokens, net.weight(16, 32, axis=1)))
    return Cases([models[0], clipping], models[1:])


@lint_rule(
    "joined-matmul",
    "ED117",
    "error",
    source=("P7",),
    where={"runtime": ("openvino",)},
    remedy="quantize it to int8 with zero-point 0",
    cases=cases,
    fix=lambda _, editor, index: editor.make_symmetric(index),
    promise=20.0,
)
def joined_matmul(scene: Scene) -> Iterator[Fault]:
    """A MatMul reads joined tokens with a zero-point, which OpenVINO 2026.4 refuses to compile."""
    for pair in scene.pairs():
        parameters = scene.parameters(pair.quantize)
        if parameters is None or not (parameters.zero != 0).any():
            continue
        products = any(scene.op(i) in {"MatMul", "Gemm"} for i in scene.readers(pair.result))
        if products and scene.joins_tokens(pair.source):
            yield pair.quantize, f"zero-point {int(parameters.zero.reshape(-1)[0])} behind a Concat of tokens"
