"""Which tensors are collected in one pass over the data, so that memory stays within a budget.

What a pass takes: four times the weights (while ONNX Runtime reads a model, it lies there as a message, as
bytes, as the runtime's message and as its tensors), the activations that a run has alive at once, scratch of
the threads that count, and of every collected tensor its histogram and twice its values: ONNX Runtime keeps
them in its blocked layout, too, until a run ends (measured). Sizes are the first input's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import onnx

from edgedeploy.backend import Feeds
from edgedeploy.calibration.collect.histogram import BINS
from edgedeploy.graphs.view import GraphView, concrete, elements
from edgedeploy.graphs.weights import bytes_of

T = TypeVar("T")

_ITEM = 4  # bytes of a float32
_LAYOUTS = 2  # in which the values of a collected tensor lie there
_COPIES = 4  # of the weights
_SCRATCH = 24 << 20
_SHARE = 4  # of the budget, one in so many bytes is for tensors however much the model takes
_HISTOGRAM = 2 * BINS * np.dtype(np.int64).itemsize


@dataclass(frozen=True)
class MemoryPlan:
    """Tensors by pass, in bytes of what.

    Attributes:
        groups: tensors of each pass, in order.
        fixed: bytes that a pass takes whatever it collects, histograms included.
        most: bytes of the largest group's tensors.
        inputs: shapes of the inputs that the sizes are for.
        shapes: of every tensor of the model, as far as they are known.
    """

    groups: list[list[str]]
    fixed: int
    most: int
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)

    def note(self, budget: int) -> str:
        """A line for the user where the budget cannot be kept, else nothing."""
        if self.fixed + self.most <= budget:
            return ""
        return (
            f"calibration takes about {(self.fixed + self.most) >> 20} MB, more than its budget of "
            f"{budget >> 20} MB: the model alone takes {self.fixed >> 20} MB"
        )


def plan_memory(
    model: onnx.ModelProto, tensors: Sequence[str], feeds: Feeds, budget: int, *, histograms: bool = True
) -> MemoryPlan:
    """Tensors in order, cut where one more would exceed the budget in bytes; a group has one at least.

    Where the model itself takes most of the budget, tensors still get a quarter of it: one pass for every
    tensor would save little and take for ever.
    """
    inputs = {name: value.shape for name, value in feeds.items()}
    view = GraphView(concrete(model, inputs))
    fixed = fixed_bytes(view) + (_HISTOGRAM * len(tensors) if histograms else 0)
    left = max(budget - fixed, budget // _SHARE)
    known = {name: elements(view.shapes.get(name)) for name in tensors}
    largest = max((size for size in known.values() if size is not None), default=0)
    # A tensor of unknown size is taken to be as large as the largest known one.
    need = {name: _LAYOUTS * _ITEM * (largest if size is None else size) for name, size in known.items()}
    groups = within_budget(tensors, [need[name] for name in tensors], left)
    most = max((sum(need[name] for name in group) for group in groups), default=0)
    return MemoryPlan(groups, fixed, most, inputs, view.shapes)


def within_budget(items: Sequence[T], sizes: Iterable[int], budget: int) -> list[list[T]]:
    """Groups of items in order; the sizes of a group sum to at most `budget`, or the group has one item."""
    groups: list[list[T]] = []
    used = 0
    for item, size in zip(items, sizes, strict=True):
        if not groups or used + size > budget:
            groups.append([])
            used = 0
        groups[-1].append(item)
        used += size
    return groups


def fixed_bytes(view: GraphView) -> int:
    """Bytes that a run takes whatever is collected: all forms of the weights, the most activations alive."""
    weights = sum(map(bytes_of, view.constants.values()))
    last = {name: max(index for index, _ in edges) for name, edges in view.consumers.items()}
    alive: dict[str, int] = {}
    most = 0
    for index, node in enumerate(view.nodes):
        alive |= {name: _ITEM * (elements(view.shapes.get(name)) or 0) for name in node.output if name}
        most = max(most, sum(alive.values()))
        for name in [*node.input, *node.output]:
            if last.get(name, -1) <= index and name not in view.outputs:
                alive.pop(name, None)
    return _COPIES * weights + most + _SCRATCH
