"""Read, and label, what an ONNX file says of itself without the onnx package.

Devices that only run models have no onnx installed, yet every file should be able to tell its inputs, outputs
and metadata. The protobuf wire format is simple enough: fields are (number << 3 | type) varints, and whatever
is not wanted is skipped by its length, so even a 2 GB model is read in a moment. Field numbers:
onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgedeploy.core.errors import ArtifactError
from edgedeploy.core.files import replacing

MODEL_IR_VERSION, MODEL_GRAPH, MODEL_OPSET, MODEL_METADATA = 1, 7, 8, 14
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 1, 5, 11, 12
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP, NODE_ATTRIBUTE = 1, 2, 3, 4, 5
TENSOR_DIMS, TENSOR_TYPE, TENSOR_WORDS, TENSOR_NAME, TENSOR_RAW, TENSOR_EXTERNAL_DATA = 1, 2, 5, 8, 9, 13
ATTRIBUTE_NAME, ATTRIBUTE_TENSOR, ATTRIBUTE_INT = 1, 5, 3
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "str", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128",
    16: "bfloat16",
}  # fmt: skip

NEWEST_OPSET = 1000  # of any domain: above it stands damage
# Operators that only quantized graphs have.
QUANTIZED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
)

Buffer = memoryview
Field = tuple[int, int | memoryview]


@dataclass(frozen=True)
class HeaderTensor:
    """A graph input or output; unknown dimensions are named "?"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class OnnxHeader:
    """What stands outside the nodes and weights of an ONNX file."""

    inputs: tuple[HeaderTensor, ...]
    outputs: tuple[HeaderTensor, ...]
    metadata: dict[str, str]
    opset: int
    nodes: int


@dataclass(frozen=True)
class NodeEntry:
    """A node of the main graph; `numbers` are its attributes that are integers."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: dict[str, int]


@dataclass(frozen=True)
class TensorEntry:
    """A constant: its TensorProto data type and shape, and its values as bytes or as packed varints.

    Both are empty where the values lie in another file or field.
    """

    kind: int
    shape: tuple[int, ...]
    raw: memoryview
    words: memoryview

    def numbers(self) -> list[int]:
        """The values of `words`, as unsigned 64-bit numbers."""
        return _varints(self.words)


def read_onnx_header(path: Path) -> OnnxHeader:
    """Parse the header of an ONNX file; raises ArtifactError if it is empty, truncated or no ONNX model."""
    with _whole(path) as buffer:
        return _model(buffer)


def with_metadata(path: Path, key: str, value: str, out: Path) -> None:
    """Copy an ONNX file to `out` with one metadata entry set, atomically; `path` and `out` may be the same.

    Graph and weights are copied as bytes, never parsed. Earlier entries of that key are dropped.
    Raises ArtifactError as `read_onnx_header` does, OutputError where `out` cannot be written.
    """
    name, text = key.encode(), value.encode()
    entry = b"\x0a" + _encoded(len(name)) + name + b"\x12" + _encoded(len(text)) + text
    with _whole(path) as buffer, replacing(out) as temporary, temporary.open("wb") as stream:
        for number, field, raw in _raw_fields(buffer):
            if number == MODEL_METADATA and not isinstance(field, int) and _key(field) == key:
                continue
            stream.write(raw)
        stream.write(_encoded(MODEL_METADATA << 3 | 2) + _encoded(len(entry)) + entry)


def operators(path: Path) -> list[tuple[str, str]]:
    """(operator type, node name) of every node of the main graph; to name the one that a runtime refuses."""
    with _whole(path) as buffer:
        nodes = (dict(_fields(node)) for node in _of_graph(buffer, GRAPH_NODE))
        return [(_text(node.get(4)), _text(node.get(3))) for node in nodes]


def graph_entries(path: Path) -> tuple[list[NodeEntry], dict[str, TensorEntry]]:
    """Nodes of the main graph, and its constants by name: initializers and outputs of Constant nodes."""
    with _whole(path) as buffer:
        tensors = dict(_constant(tensor) for tensor in _of_graph(buffer, GRAPH_INITIALIZER))
        nodes = []
        for message in _of_graph(buffer, GRAPH_NODE):
            node, values = _node(message)
            nodes.append(node)
            if node.op == "Constant" and node.outputs and values:
                tensors[node.outputs[0]] = _constant(values[0])[1]
        return nodes, tensors


def _node(buffer: Buffer) -> tuple[NodeEntry, list[Buffer]]:
    """A node, and the tensors among its attributes."""
    texts: dict[int, list[str]] = {NODE_INPUT: [], NODE_OUTPUT: [], NODE_NAME: [], NODE_OP: []}
    numbers: dict[str, int] = {}
    values: list[Buffer] = []
    for number, value in _fields(buffer):
        if number in texts:
            texts[number].append(_text(value))
        elif number == NODE_ATTRIBUTE and not isinstance(value, int):
            entry = dict(_fields(value))
            whole, tensor = entry.get(ATTRIBUTE_INT), entry.get(ATTRIBUTE_TENSOR)
            if isinstance(whole, int):
                numbers[_text(entry.get(ATTRIBUTE_NAME))] = whole
            if tensor is not None and not isinstance(tensor, int):
                values.append(tensor)
    op, name = ("".join(texts[kind][:1]) for kind in (NODE_OP, NODE_NAME))
    return NodeEntry(op, name, tuple(texts[NODE_INPUT]), tuple(texts[NODE_OUTPUT]), numbers), values


def _constant(buffer: Buffer) -> tuple[str, TensorEntry]:
    name, kind, shape = "", 0, list[int]()
    raw = words = memoryview(b"")
    for number, value in _fields(buffer):
        if number == TENSOR_DIMS:  # packed, or one field each
            shape += [value] if isinstance(value, int) else _varints(value)
        elif number == TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number == TENSOR_NAME:
            name = _text(value)
        elif number == TENSOR_RAW and not isinstance(value, int):
            raw = value
        elif number == TENSOR_WORDS and not isinstance(value, int):
            words = value
    return name, TensorEntry(kind, tuple(shape), raw, words)


def _varints(buffer: Buffer) -> list[int]:
    found, position = [], 0
    while position < len(buffer):
        value, position = _varint(buffer, position)
        found.append(value)
    return found


def external_files(path: Path) -> list[str]:
    """Names of the files beside the model that hold its weights; empty for a model in one file."""
    found: set[str] = set()
    with _whole(path) as buffer:
        for tensor in _of_graph(buffer, GRAPH_INITIALIZER):
            entries = (dict(_fields(entry)) for entry in _messages(tensor, TENSOR_EXTERNAL_DATA))
            found.update(_text(entry.get(2)) for entry in entries if _text(entry.get(1)) == "location")
    return sorted(found)


@contextmanager
def _whole(path: Path) -> Iterator[Buffer]:
    """The bytes of a file, mapped; what is not readable as protobuf inside the block is an ArtifactError."""
    if path.stat().st_size == 0:
        raise ArtifactError(f"{path} is empty", "export the model again")
    with path.open("rb") as stream:
        # Closed when the last view of it is gone; closing it here would fail while views are alive.
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        yield memoryview(mapped)
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} is not a whole ONNX file: {error}", "export or copy the model again"
        ) from None


def _model(buffer: Buffer) -> OnnxHeader:
    ir_version, opset = 0, 0
    metadata: dict[str, str] = {}
    graph: OnnxHeader | None = None
    for number, value in _fields(buffer):
        if number == MODEL_IR_VERSION and isinstance(value, int):
            ir_version = value
        elif isinstance(value, int):
            continue
        elif number == MODEL_GRAPH:
            graph = _graph(value)
        elif number == MODEL_OPSET:
            entry = dict(_fields(value))
            version = entry.get(2, 0)
            version = version if isinstance(version, int) else 0
            if version > NEWEST_OPSET:  # OpenVINO would count up to it, for minutes
                raise ValueError(f"it names opset {version}")
            if not _text(entry.get(1)):
                opset = version
        elif number == MODEL_METADATA:
            entry = dict(_fields(value))
            metadata[_text(entry.get(1))] = _text(entry.get(2))
    if graph is None or not ir_version:
        raise ValueError("it holds no graph" if ir_version else "it does not begin like an ONNX model")
    return OnnxHeader(graph.inputs, graph.outputs, metadata, opset, graph.nodes)


def _graph(buffer: Buffer) -> OnnxHeader:
    inputs, outputs, initializers, nodes = [], [], set(), 0
    for number, value in _fields(buffer):
        if isinstance(value, int):
            continue
        if number == GRAPH_NODE:
            nodes += 1
        elif number == GRAPH_INITIALIZER:
            initializers.add(next((_text(v) for n, v in _fields(value) if n == 8), ""))
        elif number == GRAPH_INPUT:
            inputs.append(_tensor(value))
        elif number == GRAPH_OUTPUT:
            outputs.append(_tensor(value))
    # Before IR version 4 every initializer was listed among the inputs too.
    fed = tuple(tensor for tensor in inputs if tensor.name not in initializers)
    return OnnxHeader(fed, tuple(outputs), {}, 0, nodes)


def _tensor(buffer: Buffer) -> HeaderTensor:
    """A ValueInfoProto: name = 1, type = 2; in a type tensor_type = 1; in that elem_type = 1, shape = 2."""
    name, dtype = "", ""
    shape: tuple[int | str, ...] = ()
    for number, value in _fields(buffer):
        if number == 1:
            name = _text(value)
        elif number == 2 and not isinstance(value, int):
            for kind, tensor in _fields(value):
                if kind != 1 or isinstance(tensor, int):
                    continue
                for part, content in _fields(tensor):
                    if part == 1 and isinstance(content, int):
                        dtype = DTYPES.get(content, f"type {content}")
                    elif part == 2 and not isinstance(content, int):
                        shape = tuple(
                            _dim(v) for n, v in _fields(content) if n == 1 and not isinstance(v, int)
                        )
    return HeaderTensor(name, dtype, shape)


def _dim(buffer: Buffer) -> int | str:
    for number, value in _fields(buffer):
        if number == 1 and isinstance(value, int):
            return value if value < 1 << 63 else "?"  # -1, as some exporters write an unknown size
        if number == 2 and not isinstance(value, int):
            return _text(value) or "?"
    return "?"


def _of_graph(buffer: Buffer, wanted: int) -> Iterator[Buffer]:
    """The messages of one field of a model's main graph."""
    for graph in _messages(buffer, MODEL_GRAPH):
        yield from _messages(graph, wanted)


def _messages(buffer: Buffer, wanted: int) -> Iterator[Buffer]:
    """The length-delimited fields of one number."""
    return (value for number, value in _fields(buffer) if number == wanted and not isinstance(value, int))


def _text(value: int | Buffer | None) -> str:
    return "" if value is None or isinstance(value, int) else bytes(value).decode()


def _key(entry: Buffer) -> str:
    return _text(dict(_fields(entry)).get(1))


def _fields(buffer: Buffer) -> Iterator[Field]:
    """The fields of a message: varints as int, length-delimited ones as memoryview, fixed-width ones as 0."""
    return ((number, value) for number, value, _ in _raw_fields(buffer))


def _raw_fields(buffer: Buffer) -> Iterator[tuple[int, int | Buffer, Buffer]]:
    """The fields of a message, each also with the bytes that it stands as."""
    position, end = 0, len(buffer)
    while position < end:
        start = position
        key, position = _varint(buffer, position)
        number, wire = key >> 3, key & 7
        value: int | Buffer = 0
        if number == 0:
            raise ValueError("a field has number 0")
        if wire == 0:
            value, position = _varint(buffer, position)
        elif wire == 2:
            length, position = _varint(buffer, position)
            value = buffer[position : position + length]
            position += length
        elif wire in (1, 5):
            position += 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
        if position > end:
            raise ValueError(f"it ends {position - end} bytes early")
        yield number, value, buffer[start:position]


def _encoded(value: int) -> bytes:
    """A number as varint."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*result, value))


def _varint(buffer: Buffer, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
