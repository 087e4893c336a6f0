"""DQ(Q(x)) quantized again rounds twice and costs two kernels where one is enough (P4)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for twice in (True, False):
        net = Sketch(rng)
        y = net.pair("x", 0.03)
        models.append(net.model(net.conv(net.pair(y, 0.031) if twice else y)))
    return Cases(models[:1], models[1:])


def fix(scene: Scene, editor: Editor, index: int) -> None:
    pair = scene.pair(scene.nodes[index].input[0])
    parameters = scene.parameters(pair.quantize) if pair else None
    if pair is not None and parameters is not None and not parameters.clips_at_zero:
        editor.read(index, 0, pair.source)


@lint_rule(
    "requantized",
    "ED216",
    "warning",
    source=("P4",),
    remedy="quantize once",
    cases=cases,
    fix=fix,
    promise=15.0,
)
def requantized(scene: Scene) -> Iterator[Fault]:
    """A tensor is quantized right after it was dequantized."""
    for index in scene.quantizers:
        if scene.pair(scene.nodes[index].input[0]) is not None:
            yield index, f"'{scene.nodes[index].input[0]}' comes from DequantizeLinear"
