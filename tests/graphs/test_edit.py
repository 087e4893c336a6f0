"""The editor of protobuf models: what is put in, redirected, sorted and swept out."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto

from edgedeploy.graphs.edit import GraphEditor, add_outputs, copy_model, sorted_nodes, sweep
from edgedeploy.graphs.run import Evaluator
from edgedeploy.graphs.view import GraphView, reads

TEXT = """<ir_version: 9, opset_import: ["" : 20]>
g (float[2,3] x) => (float[2,3] y) <float[3] c = {1, 2, 3}, float[3] spare = {0, 0, 0}> {
  a = Add (x, c)
  b = Relu (a)
  dead = Neg (b)
  y = Mul (b, c)
}"""
BRANCH = """<ir_version: 9, opset_import: ["" : 20]>
g (bool t, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
  inner = Relu (x)
  y = If (t) <then_branch = one () => (float[2] p) { p = Add (inner, w) },
              else_branch = two () => (float[2] q) { q = Identity (x) }>
}"""
X = {"x": np.array([[-3, 1, 2], [0, -5, 4]], np.float32)}


@pytest.fixture
def editor() -> GraphEditor:
    return GraphEditor(GraphView(onnx.parser.parse_model(TEXT)))


def values(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    return Evaluator(model)(X)["y"]


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_names_are_unique_among_nodes_tensors_and_constants(editor: GraphEditor) -> None:
    assert [editor.unique("a"), editor.unique("a"), editor.unique("new")] == ["a_1", "a_2", "new"]
    assert editor.constant("c", np.zeros(())) == "c_1"
    assert editor.view.value("c_1").shape == (), "a scalar stays one"
    four_bits = TensorProto(data_type=TensorProto.INT4, dims=[2], raw_data=b"\x21")
    assert editor.graph.initializer[-1].name == "c_1"
    assert editor.constant("c", four_bits) == "c_2"
    assert editor.view.constants["c_2"].data_type == TensorProto.INT4


def test_nodes_go_before_a_position_and_only_constants_are_swept(editor: GraphEditor) -> None:
    expected = values(copy_model(editor.model))
    output = editor.insert(3, "Abs", ["b"], "a")
    assert output == "a_1"
    editor.read(3, 0, output)
    editor.commit()
    assert ops(editor.model) == ["Add", "Relu", "Neg", "Abs", "Mul"]
    assert [tensor.name for tensor in editor.graph.initializer] == ["c"]
    assert np.array_equal(values(editor.model), expected)


def test_readers_and_the_output_are_redirected(editor: GraphEditor) -> None:
    editor.redirect("a", "x", keep=[])
    editor.redirect("y", "b")
    editor.commit(None)
    assert ops(editor.model) == ["Relu", "Identity"]
    assert np.array_equal(values(editor.model), np.maximum(X["x"], 0))


def test_a_tensor_is_multiplied_for_its_readers_and_a_constant_replaced_for_one(editor: GraphEditor) -> None:
    editor.multiply("b", np.array([2, 1, 1]), "scaled")
    editor.replace_constant(0, 1, np.array([1.0, 1, 1]))
    editor.commit()
    wanted = np.maximum(X["x"] + 1, 0) * [2, 1, 1] * [1, 2, 3]
    assert np.array_equal(values(editor.model), wanted)
    assert "Mul" in ops(editor.model)[:3], "behind the node that makes the tensor"


def test_nodes_are_sorted_and_a_circle_is_left_for_the_checker(editor: GraphEditor) -> None:
    nodes = list(editor.model.graph.node)
    assert sorted_nodes(nodes) == nodes
    assert [node.op_type for node in sorted_nodes(nodes[::-1])] == ["Add", "Relu", "Mul", "Neg"]
    nodes[0].input[0] = "y"
    assert sorted_nodes(nodes) == nodes


def test_ancestors_and_descendants_are_found_nearest_first(editor: GraphEditor) -> None:
    view = editor.view
    assert [view.op(index) for index in view.descendants(0)] == ["Relu", "Neg", "Mul"]
    assert [view.op(index) for index in view.ancestors(3)] == ["Relu", "Add"]
    assert list(view.ancestors(0)) == []
    assert view.op(view.maker("x")) == ""


def test_a_chain_of_ten_thousand_is_sorted_without_recursion() -> None:
    nodes = [onnx.helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(10_000)]
    assert sorted_nodes(nodes[::-1]) == nodes


def test_what_bodies_read_is_kept() -> None:
    model = onnx.parser.parse_model(BRANCH)
    view = GraphView(model)
    assert view.captured == {"inner", "w", "x"}
    assert reads(model.graph.node[1]) == {"t", "inner", "w", "x"}
    assert view.is_external("inner")
    assert not view.is_private("inner")
    sweep(model)
    assert ops(model) == ["Relu", "If"]
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]


def test_unread_initializers_leave_the_inputs_and_stale_shapes_go() -> None:
    model = onnx.parser.parse_model(TEXT)
    add_outputs(model, ["a", "a", "y"])
    assert [value.name for value in model.graph.output] == ["y", "a"]
    model.graph.input.append(onnx.helper.make_tensor_value_info("spare", TensorProto.FLOAT, [3]))
    for name in ("dead", "b"):
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]))
    sweep(model)
    assert ops(model) == ["Add", "Relu", "Mul"]
    assert [value.name for value in model.graph.input] == ["x"]
    assert [value.name for value in model.graph.value_info] == ["b"]
