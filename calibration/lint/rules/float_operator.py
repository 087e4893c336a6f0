"""An accelerator runs operators with Q/DQ on all ends; any other costs two copies to the CPU (P16)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Fault, Scene, Sketch, lint_rule
from edgedeploy.calibration.lint.scene import DQ, Q


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for quantized in (False, True):
        net = Sketch(rng)
        y = net.pair(net.op("Relu", net.conv(net.pair("x"))))
        y = net.op("AveragePool", y, kernel_shape=[2, 2])
        models.append(net.model(net.pair(y) if quantized else net.op("Abs", y)))
    return Cases(models[:1], models[1:])


@lint_rule(
    "float-operator",
    "ED215",
    "warning",
    source=("P16",),
    where={"runtime": ("dla", "mobile")},
    remedy="quantize the float model for this target: every tensor gets Q/DQ there",
    cases=cases,
)
def float_operator(scene: Scene) -> Iterator[Fault]:
    """An operator computes in float where the accelerator takes none such."""
    for index, node in enumerate(scene.nodes):
        data = [name for name in scene.data_inputs(index) if name in scene.float32]
        if node.op_type in {Q, DQ, "Constant"} or not data or not set(node.output) & scene.float32:
            continue
        maker = scene.maker(data[0])
        fused = scene.op(index) in scene.rules.absorbed and maker >= 0 and scene.is_private(data[0])
        if fused and scene.op(maker) not in {Q, DQ}:
            continue
        floats = [name for name in data if scene.op(scene.maker(name)) != DQ]
        if floats:
            yield index, f"reads '{floats[0]}' in float"
