"""x = s (q - z): OpenVINO 2026.4 takes a zero-point behind a Concat apart along its axis, and its MatMul then
refuses to compile ("cannot be broadcasted"), unless that axis is the last.

Tokens that are joined before a linear layer are such a case (the class token of a ViT). Measured: refused for
MatMul and Gemm, with Q before or after the Concat, through Relu. With z = 0 it is exact in int8 and uint8, so
it is with any z where something else that computes stands between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgedeploy.calibration.graph_view import attribute
from edgedeploy.calibration.lint._base import Cases, Editor, Fault, Scene, Sketch, lint_rule
from edgedeploy.calibration.lint._scene import DQ, Q

LEVELS = 127
MOVES = frozenset({"Relu", "Identity", Q, DQ})


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for axis, zero, kind in ((1, 100, np.uint8), (1, 0, np.int8), (1, 0, np.uint8), (2, 100, np.uint8)):
        net = Sketch(rng, 1, 12, 16)
        y = net.op("Concat", net.op("Relu", "x"), net.op("Tanh", "x"), axis=axis)
        weight = net.weight(16 * axis, 32, axis=1)
        models.append(net.model(net.op("MatMul", net.pair(y, 0.03, zero, kind), weight)))
    return Cases(models[:1], models[1:])


def fix(scene: Scene, editor: Editor, faults: Sequence[Fault]) -> None:
    """The same range in symmetric int8."""
    for index, _ in faults:
        parameters = scene.parameters(index)
        readers = scene.readers(scene.nodes[index].output[0])
        if parameters is None or any(scene.op(reader) != DQ for reader in readers):
            continue
        scale = np.asarray(max(-parameters.low, parameters.high) / LEVELS, parameters.scale.dtype)
        for node in (index, *readers):
            editor.set_parameters(node, scale, np.asarray(0, np.int8))


@lint_rule(
    "joined-matmul",
    "ED117",
    "error",
    source=("P7",),
    where={"runtime": ("openvino",)},
    remedy="quantise it to int8 with zero-point 0",
    cases=cases,
    fix=fix,
    promise=20.0,
)
def joined_matmul(scene: Scene) -> Iterator[Fault]:
    """A MatMul reads joined tokens with a zero-point, which OpenVINO 2026.4 refuses to compile."""
    for pair in scene.pairs():
        parameters = scene.parameters(pair.quantize)
        if parameters is None or not (parameters.zero != 0).any():
            continue
        if any(scene.op(i) in {"MatMul", "Gemm"} for i in scene.readers(pair.result)) and _joins_tokens(
            scene, pair.source
        ):
            yield pair.quantize, f"zero-point {int(parameters.zero.reshape(-1)[0])} behind a Concat of tokens"


def _joins_tokens(scene: Scene, name: str) -> bool:
    """Whether a tensor is that of a Concat along another axis than its last, as far as shapes are known."""
    index = scene.maker(name)
    while scene.op(index) in MOVES:
        index = scene.maker(scene.nodes[index].input[0])
    if scene.op(index) != "Concat":
        return False
    axis, rank = attribute(scene.nodes[index], "axis", 0), len(scene.shapes.get(name, ()))
    return axis not in {-1, rank - 1}
