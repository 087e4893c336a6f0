"""Check that a graph can be computed: names, order, operators and types, without values."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
from onnx import shape_inference

from edgedeploy.core.errors import first_line
from edgedeploy.graphs.view import topological_order
from edgedeploy.graphs.weights import LIGHT, bytes_of


def check_structure(model: onnx.ModelProto) -> None:
    """Raise ValueError, with what is wrong and where, for a graph that cannot be computed."""
    opsets = {
        entry.domain if entry.domain != "ai.onnx" else "": entry.version for entry in model.opset_import
    }
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= opsets.get("", newest) <= newest:
        raise ValueError(f"it is of opset {opsets['']}; the onnx package here knows 1 to {newest}")
    local = {(function.domain, function.name) for function in model.functions}
    _check_graph(model.graph, frozenset(), opsets, local)
    _check_types(model)


def _check_graph(
    graph: onnx.GraphProto,
    outer: frozenset[str],
    opsets: Mapping[str, int],
    local: set[tuple[str, str]],
) -> None:
    constants = [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]
    _refuse_twice(constants, "initializers are")
    fed = [value.name for value in graph.input]
    _refuse_twice(fed, "inputs are")
    own = {*constants, *fed}
    made: set[str] = set()
    for node in graph.node:
        _check_operator(node, opsets, local)
        for name in filter(None, node.output):
            if name in made or name in own:
                raise ValueError(f"tensor '{name}' is made twice, the second time by {_title(node)}")
            made.add(name)
    known = outer | own | made
    for node in graph.node:
        for name in filter(None, node.input):
            if name not in known:
                raise ValueError(f"{_title(node)} reads '{name}', which nothing makes")
        for attribute in node.attribute:
            bodies = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
            for body in bodies:
                _check_graph(body, known, opsets, local)
    lost = next((value.name for value in graph.output if value.name not in known), None)
    if lost is not None:
        raise ValueError(f"nothing makes output '{lost}'")
    _refuse_circles(graph)


def _check_operator(node: onnx.NodeProto, opsets: Mapping[str, int], local: set[tuple[str, str]]) -> None:
    domain = node.domain if node.domain != "ai.onnx" else ""
    if domain not in opsets:
        raise ValueError(f"{_title(node)} is of domain '{domain}', of which the file names no version")
    if domain == "" and (node.domain, node.op_type) not in local:
        try:
            onnx.defs.get_schema(node.op_type, opsets[""], "")
        except (onnx.defs.SchemaError, TypeError):  # TypeError: the name is no text
            raise ValueError(f"ONNX has no {_title(node)} in opset {opsets['']}") from None


def _refuse_circles(graph: onnx.GraphProto) -> None:
    """Raise ValueError for nodes that wait for their own results."""
    order = set(topological_order(graph.node))
    stuck = next((node for index, node in enumerate(graph.node) if index not in order), None)
    if stuck is not None:
        raise ValueError(f"the graph has a cycle: {_title(stuck)} waits for its own result")


def largest_tensor(model: onnx.ModelProto) -> tuple[int, str]:
    """(elements, name) of the largest tensor whose size shows without a run; (0, "") if none does."""
    try:
        graph = shape_inference.infer_shapes(without_weights(model), data_prop=True).graph
    except (RuntimeError, ValueError):
        graph = model.graph
    largest = (0, "")
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims):
            largest = max(largest, (math.prod(dim.dim_value for dim in dims), value.name))
    return largest


def _check_types(model: onnx.ModelProto) -> None:
    """Raise ValueError where an operator gets a type that it does not take."""
    try:
        shape_inference.infer_shapes(without_weights(model), check_type=True)
    except (shape_inference.InferenceError, RuntimeError) as error:
        raise ValueError(first_line(error)) from None


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all but small initializers as inputs: enough for types and shapes, whatever its size."""
    light = onnx.ModelProto(
        ir_version=max(4, model.ir_version), opset_import=model.opset_import, functions=model.functions
    )
    graph, listed = light.graph, {value.name for value in model.graph.input}
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if bytes_of(tensor) <= LIGHT:
            graph.initializer.append(tensor)
        elif tensor.name not in listed:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return light


def _refuse_twice(names: list[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two {what} called '{name}'")
        seen.add(name)


def _title(node: onnx.NodeProto) -> str:
    return f"{node.op_type} '{node.name}'" if node.name else node.op_type
