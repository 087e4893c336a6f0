"""Reductions and curves (LayerNorm, Softmax, GELU, Sigmoid) have no INT8 kernel that is exact enough (P9)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for bad in (True, False):
        net = Sketch(rng)
        y = net.conv(net.pair("x"))
        y = net.op("Softmax", net.pair(y, 0.1) if bad else y, axis=1)
        models.append(net.model(net.conv(net.pair(y, 0.008))))
    return Cases(models[:1], models[1:])


def fix(scene: Scene, editor: Editor, index: int) -> None:
    for position, name in enumerate(scene.nodes[index].input):
        pair = scene.pair(name)
        parameters = scene.parameters(pair.quantize) if pair else None
        if pair is not None and parameters is not None and not parameters.clips_at_zero:
            editor.read(index, position, pair.source)


@lint_rule(
    "never-quantized",
    "ED209",
    "warning",
    source=("P9", "P10"),
    remedy="let it read the float tensor",
    cases=cases,
    fix=fix,
    promise=15.0,
)
def never_quantized(scene: Scene) -> Iterator[Fault]:
    """An operator that has to stay float reads a quantized tensor."""
    for index, node in enumerate(scene.nodes):
        never = node.op_type in scene.rules.never - scene.rules.norms
        if never and any(scene.pair(name) is not None for name in node.input):
            yield index, f"{node.op_type} reads INT8"
