"""Split a model at named tensors into a head for the device and a tail for the host.

    head: inputs -> tensors, and the outputs that do not depend on them
    tail: tensors -> the other outputs

The tail applied to the outputs of the head computes the full model: each node is in one of both, unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx
from onnx import shape_inference

from edgedeploy.core.errors import UnknownNameError, UsageError
from edgedeploy.core.spec import METADATA_KEY
from edgedeploy.graphs.view import reads

SPLIT_KEY = "edgedeploy.split"


def split(model: onnx.ModelProto, tensors: Sequence[str]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """(head, tail) of `model`, cut at `tensors`, names of tensors that its nodes compute.

    The head keeps all inputs and returns `tensors`, then the outputs of the model that the tail does not
    compute. The tail takes `tensors` and returns the other outputs, in the model's order. Both keep opsets,
    functions and metadata, except the description of inputs and outputs, which `save_model` writes;
    `edgedeploy.split` in the metadata is "head" or "tail". Raises UnknownNameError for a name that no node
    computes, and UsageError where the tail would need another tensor of the head, naming it.
    """
    nodes = list(model.graph.node)
    computed = {name for node in nodes for name in node.output if name}
    cut = list(dict.fromkeys(tensors))
    if not cut:
        raise UsageError("nothing to split at", "name at least one tensor")
    for name in cut:
        if name not in computed:
            raise UnknownNameError("tensor", name, sorted(computed))
    tail = _behind(nodes, set(cut))
    head = [node for node in nodes if not any(node is other for other in tail)]
    _require_closed(model.graph, head, tail, set(cut))
    made = {name for node in tail for name in node.output}
    values = {value.name: value for value in _inferred(model)}
    back = [value for value in model.graph.output if value.name in made]
    if not back:
        raise UsageError("no output depends on what the model is split at", "choose tensors further forward")
    edge = [values.get(name, onnx.ValueInfoProto(name=name)) for name in cut]
    if untyped := next((value.name for value in edge if not value.HasField("type")), None):
        raise UsageError(f"the type of '{untyped}' is not known", "split at another tensor")
    front = [value for value in model.graph.output if value.name not in made and value.name not in cut]
    also = [value for value in model.graph.output if value.name in cut]
    if also:
        raise UsageError(f"'{also[0].name}' is an output already", "split at tensors that are not outputs")
    return (
        _part(model, head, model.graph.input, [*edge, *front], "head"),
        _part(model, tail, edge, back, "tail"),
    )


def _behind(nodes: Sequence[onnx.NodeProto], cut: set[str]) -> list[onnx.NodeProto]:
    """The nodes that depend on a tensor of the cut; nodes of a valid model are sorted."""
    reached, found = set(cut), []
    for node in nodes:
        if not reached.isdisjoint(reads(node)):
            found.append(node)
            reached.update(node.output)
    return found


def _require_closed(
    graph: onnx.GraphProto, head: Sequence[onnx.NodeProto], tail: Sequence[onnx.NodeProto], cut: set[str]
) -> None:
    """Raise UsageError unless the tail reads only constants, the cut and its own tensors."""
    for node in tail:
        if again := sorted(cut.intersection(node.output)):
            raise UsageError(
                f"'{again[0]}' is computed from another tensor of the split", "leave one of them out"
            )
    outside = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    outside |= {name for node in head for name in node.output if name}
    for node in tail:
        if missing := sorted(outside & reads(node) - cut):
            raise UsageError(
                f"behind the split {node.op_type} '{node.name}' reads '{missing[0]}' too",
                f"split at '{missing[0]}' as well, or further back",
            )


def _part(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[onnx.ValueInfoProto],
    role: str,
) -> onnx.ModelProto:
    part = submodel(model, nodes, inputs, outputs, f"{model.graph.name}_{role}")
    part.producer_name, part.doc_string = model.producer_name, model.doc_string
    part.metadata_props.extend(e for e in model.metadata_props if e.key not in (METADATA_KEY, SPLIT_KEY))
    part.metadata_props.add(key=SPLIT_KEY, value=role)
    return part


def submodel(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[onnx.ValueInfoProto],
    name: str,
) -> onnx.ModelProto:
    """A model of some nodes of `model`, with the constants that they read, and its opsets and functions."""
    part = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions
    )
    read = {entry for node in nodes for entry in reads(node)}
    part.graph.name = name
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(t for t in model.graph.initializer if t.name in read)
    part.graph.sparse_initializer.extend(t for t in model.graph.sparse_initializer if t.values.name in read)
    part.graph.input.extend(inputs)
    part.graph.output.extend(outputs)
    return part


def _inferred(model: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    try:
        known = shape_inference.infer_shapes(model, data_prop=True)
    except (RuntimeError, ValueError):  # over 2 GB, or operators that inference does not know
        known = model
    yield from known.graph.value_info
    yield from known.graph.output
