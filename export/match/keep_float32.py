"""Nodes that must stay in float32: squares, and sampling coordinates in an image.

float16 has 11 bits: a coordinate in GridSample's units of -1 to 1 is off by up to 1/16 of a pixel at a width
of 512, and by 1/4 at 2048.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.operators import WEIGHTED
from edgedeploy.graphs.surgeon import Graph, producer

# The search for coordinates ends at these operators: float16 holds their sums as exactly as it can.
SUMMING = WEIGHTED | {"DeformConv"}
_LARGEST, _SMALLEST = float(np.finfo(np.float16).max), float(np.finfo(np.float16).tiny)


def fits_float16(values: NDArray[Any]) -> bool:
    """Whether no value overflows float16, and not all values but zeros vanish in it."""
    largest = float(np.abs(values).max(initial=0.0))
    return largest <= _LARGEST and (largest == 0.0 or largest >= _SMALLEST)


def sampling_coordinates(graph: Graph) -> set[int]:
    """Ids of the nodes between the layers that compute offsets and the coordinates of a GridSample."""
    waiting = [node.inputs[1] for node in graph.nodes if node.op == "GridSample"]
    found: set[int] = set()
    while waiting:
        maker = producer(waiting.pop())
        if maker is not None and maker.op not in SUMMING and id(maker) not in found:
            found.add(id(maker))
            waiting += maker.inputs
    return found


def square_to_root(graph: Graph) -> set[int]:
    """Ids of the nodes from x*x or x^2 to the division by the root of its mean: squares overflow first."""
    found: set[int] = set()
    for node in graph.nodes:
        maker = producer(node.inputs[0]) if node.inputs else None
        squared = maker is not None and (
            maker.op == "Pow" or (maker.op == "Mul" and maker.inputs[0] is maker.inputs[1])
        )
        if node.op in ("ReduceMean", "GlobalAveragePool") and maker is not None and squared:
            found |= {id(maker), id(node)}
        elif node.op in ("Add", "Sqrt", "Div", "Mul", "Clip", "Max") and any(
            maker is not None and id(maker) in found and maker.op != "Div"
            for maker in map(producer, node.inputs)
        ):
            found.add(id(node))
    return found
