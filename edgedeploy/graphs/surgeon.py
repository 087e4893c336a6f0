"""Edits of a graph, on onnx-graphsurgeon: passes are written with these functions.

Every function keeps the names of graph outputs and of tensors that If/Loop bodies read, unique node names and
a topological order. No function changes a weight in place, because two nodes may share one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues
from onnx_graphsurgeon.logger import G_LOGGER

# The names by which passes call the library's classes; their types are in typings/onnx_graphsurgeon.
Graph: TypeAlias = gs.Graph
Node: TypeAlias = gs.Node
Tensor: TypeAlias = gs.Tensor
Constant: TypeAlias = gs.Constant

if TYPE_CHECKING:
    from onnx_graphsurgeon.ir.tensor import Dim, DType
    from typing_extensions import TypeIs

HEAVY = 1 << 26  # values
FLOATS = frozenset({"float16", "float32", "float64", "bfloat16"})
RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
# The library logs to stdout, where commands print JSON; what it raises is raised all the same.
G_LOGGER.severity = G_LOGGER.CRITICAL
_LOST_ATTRIBUTES = frozenset(
    {
        onnx.AttributeProto.SPARSE_TENSOR,
        onnx.AttributeProto.TYPE_PROTO,
        onnx.AttributeProto.GRAPHS,
        onnx.AttributeProto.TENSORS,
        onnx.AttributeProto.SPARSE_TENSORS,
        onnx.AttributeProto.TYPE_PROTOS,
    }
)


_CARRIED = (None, "tensor_type", "sequence_type", "sparse_tensor_type")
# The operators of ONNX that have bodies; those of other domains are asked one by one.
_STANDARD = (None, "", "ai.onnx")
_BODIED = frozenset({"If", "Loop", "Scan", "SequenceMap"})


class Skip(Exception):
    """Raised by a pass that does not rewrite a candidate; `--explain` shows the message as the reason."""


def load(model: onnx.ModelProto) -> Graph:
    """The model as an editable graph; raises ValueError where the graph library would lose a part of it."""
    for attribute in _attributes(model.graph.node):
        if attribute.type in _LOST_ATTRIBUTES:
            raise ValueError(f"attribute '{attribute.name}' is of a type that graph surgery cannot carry")
    for value in (*model.graph.input, *model.graph.output):
        if value.type.WhichOneof("value") not in _CARRIED:
            raise ValueError(f"'{value.name}' is of a type that graph surgery cannot carry")
    graph: Graph = gs.import_onnx(model)
    graph.import_domains = list(graph.import_domains)
    graph.ir_version = max(graph.ir_version, 4)  # before 4 every initializer had to be listed as an input
    taken: set[str] = set()
    for index, node in enumerate(graph.nodes):
        if not node.name or node.name in taken:
            node.name = f"{node.op}_{index}" if not node.name else f"{node.name}_{index}"
            while node.name in taken:
                node.name += "_"
        taken.add(node.name)
    return graph


def dump(graph: Graph) -> onnx.ModelProto:
    """The graph as a model; metadata of the model that the graph was loaded from is not in it."""
    constants = [tensor for tensor in graph.tensors().values() if is_constant(tensor)]
    heavy = [tensor for tensor in constants if _is_heavy(tensor)]
    values = [tensor._values for tensor in heavy]
    try:
        for tensor in heavy:
            kind = onnx.helper.np_dtype_to_tensor_dtype(numpy_dtype(tensor.dtype))
            tensor._values = LazyValues(onnx.TensorProto(data_type=kind, dims=tensor.shape))
        model: onnx.ModelProto = gs.export_onnx(graph)
    finally:
        for tensor, held in zip(heavy, values, strict=True):
            tensor._values = held
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in heavy:
        initializers[tensor.name].CopyFrom(OnnxExporter.export_tensor_proto(tensor))
    return model


def _is_heavy(tensor: Constant) -> bool:
    """Whether a constant is too large to export as bytes, of which protobuf takes less than 2 GB."""
    if isinstance(tensor._values, SparseValues) or isinstance(tensor.dtype, int):
        return False
    return bool(np.prod(tensor.shape, dtype=float) > HEAVY)


def tidy(graph: Graph) -> None:
    """Remove nodes that no output needs and restore a topological order close to the order of the file.

    Raises ValueError for a cycle. Iterative, because the library's own sort recurses once per layer and fails
    on networks of a thousand layers.
    """
    graph.cleanup(remove_unused_graph_inputs=False)
    made = {id(tensor): node for node in graph.nodes for tensor in node.outputs}
    done: set[int] = set()
    order: list[Node] = []
    for root in graph.nodes:
        stack = [root]
        while stack:
            node = stack[-1]
            reads = [*node.inputs, *(tensor for inner in inner_nodes(node) for tensor in inner.inputs)]
            makers = (made.get(id(tensor)) for tensor in reads)
            open_makers = [maker for maker in makers if maker is not None and id(maker) not in done]
            if open_makers and id(node) not in done:
                if len(stack) > len(graph.nodes):
                    raise ValueError("the graph has a cycle")
                stack.append(open_makers[0])
                continue
            stack.pop()
            if id(node) not in done:
                done.add(id(node))
                order.append(node)
    graph.nodes[:] = order


def inner_nodes(node: Node) -> Iterator[Node]:
    """The nodes of a node's If/Loop/Scan bodies, at any depth."""
    if node.op not in _BODIED and is_standard(node):  # asking takes the library some microseconds
        return
    for body in node.subgraphs(recursive=True):
        yield from body.nodes


def has_bodies(node: Node) -> bool:
    """Whether the node is an If, Loop or Scan, which reads more tensors than its inputs."""
    if node.op not in _BODIED and is_standard(node):
        return False
    return next(iter(node.subgraphs()), None) is not None


def kept_names(graph: Graph) -> set[str]:
    """Names that passes must not remove: the graph's outputs and all that bodies of If/Loop/Scan mention."""
    names = {tensor.name for tensor in graph.outputs}
    # Passes ask this for every node, so nothing is called for the many that have no bodies.
    for bearer in [n for n in graph.nodes if n.op in _BODIED or n.domain not in _STANDARD]:
        for body in bearer.subgraphs(recursive=True):
            names.update(tensor.name for tensor in body.outputs)
            for node in body.nodes:
                names.update(tensor.name for tensor in node.inputs)
    return names


def is_standard(node: Node) -> bool:
    """Whether the node is an operator of ONNX itself and not of another domain."""
    return node.domain in _STANDARD


def value_of(tensor: Tensor, what: str) -> NDArray[Any]:
    """A constant's values in their own dtype; raises Skip if it is computed or fed."""
    if not isinstance(tensor, gs.Constant):
        raise Skip(f"{what} is not a constant")
    return np.asarray(tensor.values)


def float_of(tensor: Tensor, what: str) -> NDArray[np.float64]:
    """A floating-point constant in float64; raises Skip if it is not one."""
    if not isinstance(tensor, gs.Constant):
        raise Skip(f"{what} is not a constant")
    if dtype_name(tensor) not in FLOATS:
        raise Skip(f"{what} is {dtype_name(tensor)}")
    return value_of(tensor, what).astype(np.float64)


def shape_of(tensor: Tensor, what: str) -> Sequence[Dim]:
    """A tensor's shape; raises Skip if its rank is unknown."""
    if tensor.shape is None:
        raise Skip(f"the shape of {what} is not known")
    return tensor.shape


def numpy_dtype(dtype: DType) -> np.dtype[Any]:
    """numpy's dtype for a tensor's; ml_dtypes has bfloat16 and float8. Raises Skip if it is unknown."""
    if dtype is None:
        raise Skip("the type of a tensor is not known")
    return onnx.helper.tensor_dtype_to_np_dtype(dtype) if isinstance(dtype, int) else np.dtype(dtype)


def dtype_name(tensor: Tensor) -> str:
    """numpy's name of a tensor's dtype, "" where unknown; bfloat16 and float8 come by ONNX number."""
    dtype = tensor.dtype
    if dtype is None:
        return ""
    if isinstance(dtype, int):
        return str(onnx.TensorProto.DataType.Name(dtype)).lower()
    return str(np.dtype(dtype).name)


def require_opset(graph: Graph, opset: int, what: str) -> None:
    """Raise Skip for a graph of an older opset than `what` needs."""
    if graph.opset < opset:
        raise Skip(f"{what} needs opset {opset}, the model has {graph.opset}")


def is_constant(tensor: Tensor) -> TypeIs[Constant]:
    """Whether the tensor is an initializer."""
    return isinstance(tensor, gs.Constant)


def has(node: Node, index: int) -> bool:
    """Whether an optional input is given."""
    return len(node.inputs) > index and not node.inputs[index].is_empty()


def producer(tensor: Tensor) -> Node | None:
    """The node that computes a tensor, or None for inputs and constants."""
    return tensor.inputs[0] if len(tensor.inputs) else None


def require_private(graph: Graph, tensor: Tensor) -> None:
    """Raise Skip unless exactly one node reads the tensor and no output is it: its values may then change."""
    if tensor.name in kept_names(graph):
        raise Skip(f"tensor '{tensor.name}' is read from outside the graph")
    if len(tensor.outputs) != 1:
        raise Skip(f"tensor '{tensor.name}' has {len(tensor.outputs)} readers")


def unique_name(graph: Graph, hint: str) -> str:
    """`hint`, or `hint_1`, `hint_2`… if tensors or nodes of that name exist."""
    taken = {node.name for node in graph.nodes} | kept_names(graph)
    taken.update(tensor.name for node in graph.nodes for tensor in node.inputs)
    taken.update(tensor.name for node in graph.nodes for tensor in node.outputs)
    taken.update(tensor.name for tensor in graph.inputs)
    name, number = hint, 0
    while name in taken:
        number += 1
        name = f"{hint}_{number}"
    return name


def constant(graph: Graph, hint: str, values: NDArray[Any], dtype: DType = None) -> Constant:
    """A new constant, cast to `dtype` where one is given: passes compute in float64."""
    stored = np.ascontiguousarray(values if dtype is None else values.astype(numpy_dtype(dtype)))
    # ascontiguousarray makes scalars 1-D, and a scalar's rank matters to Clip, Pad and others.
    return gs.Constant(unique_name(graph, hint), stored.reshape(np.shape(values)))


def absent() -> Tensor:
    """The place of an optional input that is not given."""
    return gs.Variable.empty()


def variable(graph: Graph, hint: str, dtype: DType = None, shape: Sequence[Dim] | None = None) -> Tensor:
    """A new tensor that a node will compute."""
    return gs.Variable(unique_name(graph, hint), dtype=dtype, shape=shape)


def insert(
    graph: Graph,
    op: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    at: int | None = None,
    **attrs: Any,
) -> Node:
    """Add a node at index `at` of the list, by default at the end; `tidy` sorts it."""
    node = gs.Node(op, unique_name(graph, f"{outputs[0].name}_{op}"), attrs, inputs, outputs)
    graph.nodes.insert(len(graph.nodes) if at is None else at, node)
    return node


def redirect(old: Tensor, new: Tensor) -> None:
    """Rewire all consumers of `old` to `new`; graph outputs stay as they are."""
    for node in list(old.outputs):
        for index, tensor in enumerate(node.inputs):
            if tensor is old:
                node.inputs[index] = new


def displace(old: Tensor, new: Tensor) -> None:
    """Rename the producer's output from `old` to `new` and rewire all consumers.

    `old` has no producer afterward. Raises Skip for a tensor that no node computes.
    """
    maker = producer(old)
    if maker is None:
        raise Skip(f"no node computes '{old.name}'")
    outputs = maker.outputs
    index = next(index for index, tensor in enumerate(outputs) if tensor is old)
    redirect(old, new)
    outputs[index] = new


def detach(node: Node) -> None:
    """Disconnect a node; the next `tidy` removes it."""
    node.inputs.clear()
    node.outputs.clear()


def bypass(graph: Graph, node: Node, index: int = 0) -> None:
    """Remove a node whose first output equals its input `index`; raises Skip if an output would vanish."""
    source, result = node.inputs[index], node.outputs[0]
    kept = kept_names(graph)
    if result.name not in kept:
        redirect(result, source)
        detach(node)
        return
    maker = producer(source)
    if maker is None or source.name in kept:
        raise Skip(f"output '{result.name}' would share the tensor '{source.name}'")
    output = next(i for i, tensor in enumerate(maker.outputs) if tensor is source)
    detach(node)
    redirect(source, result)  # the output's name must survive, so the maker now writes to it
    maker.outputs[output] = result


def outline(graph: Graph, large: int) -> onnx.ModelProto:
    """The graph as a model for shape inference: constants of more than `large` elements are inputs."""
    model = onnx.ModelProto(ir_version=graph.ir_version, opset_import=graph.import_domains)
    part = model.graph
    part.name = graph.name or "graph"
    part.input.extend(OnnxExporter.export_value_info_proto(t, False) for t in graph.inputs)
    part.output.extend(OnnxExporter.export_value_info_proto(t, False) for t in graph.outputs)
    taken = {tensor.name for tensor in graph.inputs}
    for node in graph.nodes:
        part.node.append(OnnxExporter.export_node(node))
        for tensor in (*node.inputs, *(t for inner in inner_nodes(node) for t in inner.inputs)):
            if isinstance(tensor, gs.Constant) and tensor.name not in taken:
                taken.add(tensor.name)
                if np.prod(tensor.shape, dtype=float) > large or isinstance(tensor._values, SparseValues):
                    part.input.append(OnnxExporter.export_value_info_proto(tensor, False))
                else:
                    part.initializer.append(OnnxExporter.export_tensor_proto(tensor))
    model.functions.extend(OnnxExporter.export_function(function) for function in graph.functions)
    return model


def learn(graph: Graph, values: Iterable[onnx.ValueInfoProto]) -> None:
    """Write inferred shapes and dtypes into the tensors that nodes compute."""
    known = {value.name: value for value in values}
    for node in graph.nodes:
        for tensor in node.outputs:
            value = known.get(tensor.name)
            if value is None or is_constant(tensor):
                continue
            found = OnnxImporter.import_tensor(value)
            tensor.shape = found.shape if found.shape is not None else tensor.shape
            tensor.dtype = found.dtype if found.dtype is not None else tensor.dtype


def isolated(graph: Graph, node: Node) -> onnx.ModelProto:
    """A model of one node, its constants included."""
    outputs = [tensor for tensor in node.outputs if not tensor.is_empty()]
    alone = gs.Graph(
        [node],
        [],
        outputs,
        opset=graph.opset,
        import_domains=graph.import_domains,
        ir_version=graph.ir_version,
    )
    model: onnx.ModelProto = gs.export_onnx(alone, do_type_check=False)
    return model


def make_constant(tensor: Tensor, values: NDArray[Any]) -> None:
    """Turn a computed tensor into a constant, detaching the node that computed it."""
    tensor.to_constant(np.ascontiguousarray(values).reshape(np.shape(values)))
    tensor.inputs.clear()


def _attributes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.AttributeProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield attribute
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _attributes(attribute.g.node)
