"""Shape inference on a graph under surgery."""

from __future__ import annotations

import onnx
from onnx import shape_inference

from edgedeploy.export.graph import Graph, dump, load
from edgedeploy.export.metadata import PROTOBUF_LIMIT


def infer_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with shapes inferred anew; what the file claims stays only where inference finds nothing.

    Models over 2 GB, and those whose operators inference does not know, come back as they are.
    """
    if model.ByteSize() > PROTOBUF_LIMIT:
        return model
    claimed = {value.name: value for value in model.graph.value_info}
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    try:
        inferred = shape_inference.infer_shapes(bare, data_prop=True)
    except (RuntimeError, ValueError):  # inference is a help, never a condition
        return model
    known = {value.name for value in inferred.graph.value_info if value.type.tensor_type.HasField("shape")}
    kept = [value for value in inferred.graph.value_info if value.name in known]
    kept += [value for name, value in claimed.items() if name not in known]
    del inferred.graph.value_info[:]
    inferred.graph.value_info.extend(kept)
    return inferred


def infer(graph: Graph) -> None:
    """Write inferred shapes and dtypes into the tensors of a graph."""
    known = load(infer_model(dump(graph))).tensors()
    for name, tensor in graph.tensors().items():
        other = known.get(name)
        if other is not None and tensor.inputs and other.inputs:
            tensor.shape = other.shape if other.shape is not None else tensor.shape
            tensor.dtype = other.dtype if other.dtype is not None else tensor.dtype


def is_static(shape: object) -> bool:
    """Whether a shape is known in every dimension."""
    return isinstance(shape, (list, tuple)) and all(isinstance(dim, int) and dim >= 0 for dim in shape)
