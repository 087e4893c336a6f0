"""w' = w gamma / sigma: a weight's scale must be measured after the norm is folded into the weight (P11)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for norm in (True, False):
        net = Sketch(rng)
        y = net.conv(net.pair("x"))
        if norm:
            values = [net.constant(rng.uniform(0.5, 1.5, 16).astype(np.float32)) for _ in range(4)]
            y = net.op("BatchNormalization", y, *values)
        models.append(net.model(net.conv(net.pair(net.op("Relu", y)))))
    return Cases(models[:1], models[1:])


@lint_rule(
    "unfolded-norm",
    "ED211",
    "warning",
    source=("P11", "P13"),
    remedy="fold norms first: edgedeploy optimize MODEL.onnx, then quantize",
    cases=cases,
)
def unfolded_norm(scene: Scene) -> Iterator[Fault]:
    """A BatchNormalization follows a quantized weighted operator."""
    for index, node in enumerate(scene.nodes):
        if node.op_type == "BatchNormalization":
            maker = scene.maker(scene.before(node.input[0]))
            if maker in scene.weighted and scene.runs_int8(maker):
                yield index, f"after '{scene.label(maker)}', whose weights were quantized without it"
