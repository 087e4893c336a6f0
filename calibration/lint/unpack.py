"""Rewrite operators on codes (QLinearConv, ...) as float operators between DQ and Q, numbers unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, helper

from edgedeploy.calibration.lint.editor import Editor
from edgedeploy.calibration.lint.scene import Q, Scene
from edgedeploy.core.operators import MOVING
from edgedeploy.graphs.view import attribute


@dataclass(frozen=True)
class Form:
    """The float operator for one on codes, and the positions of scales and zero-points among its inputs.

    Attributes:
        inputs: positions of the codes of each input, followed by its scale and zero-point.
        output: position of the output's scale, which its zero-point follows.
        bias: position of an int32 bias, -1 for none.
        axis: of scales per channel of the second input.
    """

    op: str
    inputs: tuple[int, ...]
    output: int
    bias: int = -1
    axis: int = 0


FORMS = {
    "QLinearConv": Form("Conv", (0, 3), 6, bias=8),
    "QLinearMatMul": Form("MatMul", (0, 3), 6, axis=1),
    "QGemm": Form("Gemm", (0, 3), 7, bias=6, axis=1),
    "QLinearAdd": Form("Add", (0, 3), 6),
    "QLinearMul": Form("Mul", (0, 3), 6),
    "QLinearSigmoid": Form("Sigmoid", (0,), 3),
    "QLinearLeakyRelu": Form("LeakyRelu", (0,), 3),
    "QLinearSoftmax": Form("Softmax", (0,), 3),
    "QLinearAveragePool": Form("AveragePool", (0,), 3),
    "QLinearGlobalAveragePool": Form("GlobalAveragePool", (0,), 3),
    "QLinearConcat": Form("Concat", (), 0),
}
NOT_OF_THE_FLOAT_ONE = ("channels_last", "opset")


def unpack(scene: Scene, editor: Editor, indices: Sequence[int]) -> None:
    """Rewrite the operators at `indices`, and those that move codes between them; others stay."""
    wanted = {index for index in indices if scene.op(index) in FORMS}
    known: dict[str, list[str]] = {}  # codes -> their scale and zero-point
    for index, node in enumerate(scene.nodes):
        if node.op_type == Q:
            known[node.output[0]] = list(node.input[1:3])
        elif index in wanted:
            codes = str(node.output[0])  # which is the name of the float tensor a line later
            known[codes] = _unpacked(scene, editor, index)
        elif node.op_type in MOVING and node.input and node.input[0] in known:
            parameters = known[node.input[0]]
            editor.read(
                index, 0, editor.insert(index, "DequantizeLinear", [node.input[0], *parameters], "codes")
            )
            for position, name in enumerate(list(node.output)):
                _requantize(scene, editor, node, position, name, parameters)
                known[name] = parameters


def _unpacked(scene: Scene, editor: Editor, index: int) -> list[str]:
    """Scale and zero-point of the output of the operator, which is float now, behind Q."""
    node, form = scene.nodes[index], FORMS[scene.op(index)]
    entries, inputs = list(node.input), list[str]()
    positions = form.inputs or tuple(range(2, len(entries), 3))
    for number, position in enumerate(positions):
        codes, scale, *zero = entries[position : position + 3]
        channels = number == 1 and scale in scene.constants and scene.value(scale).size > 1
        axis = form.axis - attribute(node, "transB", 0) if form.op == "Gemm" else form.axis
        more = {"axis": axis} if channels else {}
        inputs.append(
            editor.insert(index, "DequantizeLinear", [codes, scale, *zero], f"{codes}_float", **more)
        )
    if 0 <= form.bias < len(entries) and entries[form.bias]:
        first, second = (np.asarray(scene.value(entries[position + 1]), np.float64) for position in positions)
        b = np.asarray(scene.value(entries[form.bias]), np.float64) * (first * second)
        inputs.append(editor.constant(f"{entries[form.bias]}_float", b.astype(np.float32)))
    parameters = entries[form.output : form.output + 2]
    node.op_type, node.domain = form.op, ""
    editor.forget(index, *NOT_OF_THE_FLOAT_ONE)
    del node.input[:]
    node.input.extend(inputs)
    _requantize(scene, editor, node, 0, node.output[0], parameters)
    return parameters


def _requantize(
    scene: Scene, editor: Editor, node: NodeProto, position: int, name: str, parameters: list[str]
) -> None:
    """Let a node write a float tensor, and Q make the codes of it under their old name."""
    node.output[position] = editor.unique(f"{name}_float")
    quantize = helper.make_node(Q, [node.output[position], *parameters], [name], editor.unique(f"{name}_{Q}"))
    editor.append(quantize, len(scene.nodes))
