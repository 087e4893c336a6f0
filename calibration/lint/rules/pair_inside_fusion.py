"""Conv + BatchNormalization + activation are one kernel; a pair between them makes three kernels (P2, P11).

Relu and Clip keep a scale, q(relu(x)) = relu(q(x)), so the fix moves the pair behind them if there is none
yet.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule
from edgedeploy.core.operators import ACTIVATIONS

KEEP_SCALE = frozenset({"Relu", "Clip"})


def cases(rng: np.random.Generator) -> Cases:
    def net(inner: bool, outer: bool, op: str = "Relu") -> Sketch:
        net = Sketch(rng)
        y = net.conv(net.pair("x"))
        y = net.op(op, net.pair(y, 0.1) if inner else y)
        net.conv(net.pair(y, 0.1) if outer else y)
        return net

    nets = [net(True, False), net(True, True), net(True, True, "Sigmoid"), net(False, True)]
    models = [entry.model(entry.nodes[-1].name) for entry in nets]
    return Cases([*models[:3], (models[0], "onnxruntime")], [models[3], (models[2], "onnxruntime")])


def fix(scene: Scene, editor: Editor, quantize: int) -> None:
    dequantize = scene.readers(scene.nodes[quantize].output[0])[0]
    pair = scene.pair(scene.nodes[dequantize].output[0])
    if pair is None:
        return
    activation = scene.readers(pair.result)[0]
    after = scene.nodes[activation].output[0]
    if scene.op(activation) in KEEP_SCALE and not scene.quantizers_of(after):
        editor.read(activation, 0, pair.source)
        editor.redirect(after, pair.result)
        editor.read(pair.quantize, 0, after)
    else:
        editor.drop_pair(pair)


@lint_rule(
    "pair-inside-fusion",
    "ED204",
    "warning",
    source=("P2", "P11"),
    remedy="quantize after the activation, and fold BatchNormalization before quantizing",
    cases=cases,
    fix=fix,
    promise=15.0,
)
def pair_inside_fusion(scene: Scene) -> Iterator[Fault]:
    """Q/DQ stand between a weighted operator and the activation or norm that fuses with it."""
    fuses = (scene.rules.absorbed if scene.rules.outputs else ACTIVATIONS) | {"BatchNormalization"}
    for pair in scene.pairs():
        if scene.maker(pair.source) not in scene.weighted or not scene.is_private(pair.source):
            continue
        readers = scene.readers(pair.result)
        if len(readers) == 1 and pair.result not in scene.outputs and scene.op(readers[0]) in fuses:
            yield pair.quantize, f"between {scene.op(scene.maker(pair.source))} and {scene.op(readers[0])}"
