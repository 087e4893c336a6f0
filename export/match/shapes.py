"""Shape inference for an editable graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

from onnx import shape_inference

from edgedeploy.graphs.surgeon import Graph, learn, outline

if TYPE_CHECKING:
    from onnx_graphsurgeon.ir.tensor import Dim

# Shapes are computed from small constants; larger constants are weights, which inference does not need.
LARGE = 1 << 10  # elements


def infer(graph: Graph) -> None:
    """Write inferred shapes and dtypes into the tensors of a graph.

    Shapes of the file remain where inference finds none.
    """
    try:
        inferred = shape_inference.infer_shapes(outline(graph, LARGE), data_prop=True)
    except Exception:  # noqa: BLE001  inference is a help, never a condition
        return
    found = (*inferred.graph.value_info, *inferred.graph.output)
    known = [value for value in found if value.type.tensor_type.HasField("shape")]
    learn(graph, known)


def is_static(shape: Sequence[Dim] | None) -> TypeGuard[Sequence[int]]:
    """Whether a shape is known in every dimension."""
    return shape is not None and all(isinstance(dim, int) and dim >= 0 for dim in shape)
