"""Tensors of a model: their enumeration, their sizes, and how they are written beside it.

Protobuf cannot say how large a message of 2 GB is, nor copy it cheaply, so neither is asked of it: sizes come
from shapes, and weights go to a file one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import onnx
from onnx import TensorProto, numpy_helper

ALIGNMENT = 4096  # so that a runtime can map each tensor into memory
LIGHT = 1 << 10  # bytes; smaller constants, such as shapes, stay in the model, where everyone finds them

# How many bits a value of the types takes that are packed, several to a byte.
PACKED = {
    number: bits
    for name, bits in (("UINT4", 4), ("INT4", 4), ("FLOAT4E2M1", 4), ("UINT2", 2), ("INT2", 2))
    if (number := getattr(TensorProto, name, None)) is not None
}


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor with values: initializers, sparse ones, and attributes, in bodies and functions too."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (t for t in (sparse.values, sparse.indices) if t.data_type)
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _of_graph(attribute.g)
            for body in attribute.graphs:
                yield from _of_graph(body)


def bytes_in(data_type: int, count: int) -> int:
    """Bytes of `count` numbers of an ONNX type."""
    if data_type in PACKED:
        return -(-count * PACKED[data_type] // 8)
    size: int = onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize
    return count * size


def bytes_of(tensor: TensorProto) -> int:
    """Bytes of a tensor's values, by its shape."""
    if tensor.data_type == TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    return bytes_in(tensor.data_type, math.prod(tensor.dims))


def bytes_of_all(model: onnx.ModelProto) -> int:
    """Bytes of a model's weights, attributes and bodies included."""
    return sum(map(bytes_of, tensors(model)))


def write_beside(model: onnx.ModelProto, weights: Path, location: str) -> onnx.ModelProto:
    """Write the weights of `model` to the file `weights`, and return the model that names them `location`.

    Attributes that are tensors stay in the model. Raises OSError where the file cannot be written.
    """
    light = onnx.ModelProto()
    _copy_all_but(model, light, "graph")
    _copy_all_but(model.graph, light.graph, "initializer")
    with weights.open("wb") as stream:
        for tensor in model.graph.initializer:
            if bytes_of(tensor) <= LIGHT or tensor.data_type == TensorProto.STRING:
                light.graph.initializer.append(tensor)
            else:
                light.graph.initializer.append(_moved(tensor, stream, location))
    return light


def _moved(tensor: TensorProto, stream: BinaryIO, location: str) -> TensorProto:
    """The tensor with its values in the file."""
    raw = tensor.raw_data
    if not tensor.HasField("raw_data"):  # its values are stored one by one
        raw = numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
    stream.write(b"\0" * (-stream.tell() % ALIGNMENT))
    place = {"location": location, "offset": str(stream.tell()), "length": str(len(raw))}
    stream.write(raw)
    moved = TensorProto(
        name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, doc_string=tensor.doc_string
    )
    moved.data_location = TensorProto.EXTERNAL
    for key, value in place.items():
        moved.external_data.add(key=key, value=value)
    return moved


def _copy_all_but(source: Any, target: Any, left_out: str) -> None:
    """Every field of a message but one; a repeated field item by item."""
    for field, value in source.ListFields():
        if field.name == left_out:
            continue
        if hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)
