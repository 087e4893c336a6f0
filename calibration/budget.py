"""Which tensors are collected in one pass over the data, so that memory stays within a budget.

What a pass takes: weights twice (ONNX Runtime's, and its copies packed for the processor), the activations
that one run has alive at once, and of every collected tensor its values, its histogram and a float32 copy.
Sizes are those of the first input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from edgedeploy.backends.base import Feeds
from edgedeploy.calibration.graph_view import GraphView, concrete, elements
from edgedeploy.calibration.histogram import BINS

_ITEM = 4  # bytes of a float32
_HISTOGRAM = 2 * BINS * np.dtype(np.int64).itemsize


def groups_within(
    model: onnx.ModelProto, tensors: Sequence[str], feeds: Feeds, budget: int, *, histograms: bool = True
) -> list[list[str]]:
    """Tensors in order, cut where one more would exceed the budget in bytes; a group has one at least."""
    view = GraphView(concrete(model, {name: value.shape for name, value in feeds.items()}))
    left = budget - fixed_bytes(view)
    if histograms:
        left -= _HISTOGRAM * len(tensors)  # they stay to the end
    known = {name: elements(view.shapes.get(name)) for name in tensors}
    largest = max((size for size in known.values() if size is not None), default=0)
    groups: list[list[str]] = [[]]
    used = 0
    for name in tensors:
        size = known[name]
        # A tensor of unknown size is taken to be as large as the largest known one.
        need = _ITEM * (largest if size is None else size)
        if groups[-1] and used + need > left:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += need
    return groups


def fixed_bytes(view: GraphView) -> int:
    """Bytes that a run takes whatever is collected: weights in two forms, and the most activations alive."""
    weights = sum(_constant_bytes(value) for value in view.constants.values())
    last = {name: max(index for index, _ in edges) for name, edges in view.consumers.items()}
    alive: dict[str, int] = {}
    most = 0
    for index, node in enumerate(view.nodes):
        alive |= {name: _ITEM * (elements(view.shapes.get(name)) or 0) for name in node.output if name}
        most = max(most, sum(alive.values()))
        for name in [*node.input, *node.output]:
            if last.get(name, -1) <= index and name not in view.outputs:
                alive.pop(name, None)
    return 2 * weights + most


def _constant_bytes(value: onnx.TensorProto) -> int:
    items = int(np.prod(value.dims, dtype=np.int64))
    return items * onnx.helper.tensor_dtype_to_np_dtype(value.data_type).itemsize
