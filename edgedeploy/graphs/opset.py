"""The same graph in another opset, by onnx's own converter."""

from __future__ import annotations

import onnx
from onnx import version_converter

from edgedeploy.core.errors import first_line
from edgedeploy.graphs.surgeon import Graph, Skip, dump, has_bodies, is_standard, load


def require_convertible(graph: Graph) -> None:
    """Raise Skip for what the converter would lose or leave half done."""
    if graph.functions or any(not is_standard(node) for node in graph.nodes):
        raise Skip("the converter does not carry operators of other domains or local functions")
    if any(has_bodies(node) for node in graph.nodes):
        raise Skip("the converter does not reach into the bodies of control-flow nodes")


def convert(graph: Graph, opset: int) -> None:
    """Bring a graph to `opset`; raises Skip where the converter cannot, and leaves the graph as it is."""
    try:
        made = load(version_converter.convert_version(dump(graph), opset))
    except (RuntimeError, ValueError) as error:  # what it lacks an adapter for
        said = first_line(error).rpartition("failed: ")[2].replace("$", "")  # file and line of theirs go
        raise Skip(f"the converter refuses: {said}") from error
    names = [[tensor.name for tensor in tensors] for tensors in (made.inputs, made.outputs)]
    if names != [[tensor.name for tensor in tensors] for tensors in (graph.inputs, graph.outputs)]:
        raise Skip("the converter changes the names of inputs or outputs")
    graph.nodes[:], graph.inputs[:], graph.outputs[:] = made.nodes, made.inputs, made.outputs
    graph.opset, graph.import_domains = made.opset, made.import_domains
    graph.ir_version = max(graph.ir_version, made.ir_version)


def opset_of(model: onnx.ModelProto) -> int:
    """The opset of ONNX's own operators; 0 where the model names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
