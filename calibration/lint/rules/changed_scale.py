"""An operator that only moves values keeps the codes if input and output have the same scale (P5)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for op, after in (("MaxPool", 0.02), ("MaxPool", 0.03), ("AveragePool", 0.02)):
        net = Sketch(rng)
        y = net.pair(
            net.op(op, net.pair(net.op("Relu", net.conv(net.pair("x"))), 0.03), kernel_shape=[2, 2]), after
        )
        models.append(net.model(net.conv(y)))
    return Cases([models[0], (models[0], "onnxruntime")], models[1:])


def moved(scene: Scene, index: int) -> tuple[int, list[int]]:
    """Q before an operator that moves values (-1: none), and the Qs after it that have another scale."""
    moves = scene.rules.same_scale if scene.rules.outputs else scene.rules.pass_through
    node = scene.nodes[index]
    pair = scene.pair(node.input[0]) if node.op_type in moves - {"Concat"} and node.input else None
    before = scene.parameters(pair.quantize) if pair else None
    if pair is None or before is None:
        return -1, []
    after = [i for name in node.output for i in scene.quantizers_of(name)]
    return pair.quantize, [i for i in after if (found := scene.parameters(i)) and found.key != before.key]


def fix(scene: Scene, editor: Editor, index: int) -> None:
    """The output takes the input's scale, whose range contains all its values."""
    before, after = moved(scene, index)
    parameters = scene.parameters(before)
    for quantize in after:
        for node in (quantize, *scene.readers(scene.nodes[quantize].output[0])):
            if parameters is not None and scene.op(node) in {"QuantizeLinear", "DequantizeLinear"}:
                editor.set_parameters(node, parameters.scale, parameters.zero)


@lint_rule(
    "changed-scale",
    "ED206",
    "warning",
    source=("P5",),
    remedy="give input and output the same scale: Q then commutes with the operator",
    cases=cases,
    fix=fix,
    promise=15.0,
)
def changed_scale(scene: Scene) -> Iterator[Fault]:
    """An operator that only moves values has another scale after it than before."""
    for index, node in enumerate(scene.nodes):
        _, after = moved(scene, index)
        if after:
            yield index, f"{node.op_type} between two scales"
