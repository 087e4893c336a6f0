"""Which input of an Add is the skip connection.

The skip is the input with fewer nodes to the lowest common ancestor. The other input must be the output of a
quantized weighted operator without other consumers, so that the Add can fuse into the operator. TensorRT and
oneDNN then compute both in one INT8 kernel if only the skip is quantized (rule P3).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from edgedeploy.core.operators import LINEAR
from edgedeploy.graphs.view import GraphView


def skip_input(view: GraphView, index: int, quantized: Collection[int]) -> tuple[str | None, str]:
    """The skip input of the Add at `index`, or None and the reason.

    `quantized` are the indices of weighted operators in INT8.
    """
    inputs = list(view.nodes[index].input)
    if not all(view.is_activation(name) for name in inputs) or inputs[0] == inputs[1]:
        return None, "it does not add two different computed tensors"
    shapes = [view.shapes.get(name) for name in inputs]
    if None in shapes or len(set(map(str, shapes))) != 1:
        return None, "its inputs are broadcast, or their shapes are unknown"
    steps = [distances(view, name) for name in inputs]
    common = steps[0].keys() & steps[1].keys()
    if not common:
        return None, "its inputs have no common ancestor"
    nearest = min(common, key=lambda name: (steps[0][name] + steps[1][name], name))
    producer = view.producer.get(nearest)
    if nearest in inputs and producer in quantized:
        return None, "the common ancestor is the weighted operator itself"
    near, far = sorted((0, 1), key=lambda i: steps[i][nearest])
    if steps[0][nearest] == steps[1][nearest]:
        return None, "both inputs are equally far from their common ancestor"
    if _fuses(view, inputs[far], quantized):
        return inputs[near], ""
    if _fuses(view, inputs[near], quantized):  # e.g. a resized map added to a convolution's output
        return inputs[far], ""
    return None, "neither input is the output of a quantized operator that only the Add reads"


def _fuses(view: GraphView, name: str, quantized: Collection[int]) -> bool:
    while True:
        producer = view.producer.get(name)
        if producer is None or not view.is_private(name):
            return False
        if producer in quantized:
            return True
        if view.nodes[producer].op_type not in LINEAR:
            return False
        name = view.nodes[producer].input[0]


def distances(view: GraphView, name: str) -> dict[str, int]:
    """Number of nodes from each ancestor to a tensor; 0 for the tensor."""
    found = {name: 0}
    queue = deque([name])
    while queue:
        here = queue.popleft()
        producer = view.producer.get(here)
        for parent in view.data_inputs(producer) if producer is not None else ():
            if parent not in found:
                found[parent] = found[here] + 1
                queue.append(parent)
    return found
