"""x[a:b:s][c:d:t] = x[a + cs : min(b, a + ds) : st] per axis: a Slice of a Slice becomes one.

Ranges must be constant and forward; ranges that count from the end need the size of their axis.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.slices import ranges, write
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, Tensor, is_standard, kept_names, producer


def cases(_: Rng) -> Models:
    c = {
        "one": np.array([1]), "two": np.array([2]), "five": np.array([5]), "end": np.array([2**63 - 1]),
        "last": np.array([-1]), "axis2": np.array([2]), "axis3": np.array([3]), "from": np.array([1, 2]),
        "to": np.array([9, -1]), "both": np.array([-2, -1]), "by": np.array([2, 3]),
    }  # fmt: skip
    image, dynamic = "float[2,3,9,12] x", "float[n,3,h,v] x"
    crop = "a = Slice(x, one, five, axis2) \n y = Slice(a, one, end, axis3)"
    nested = "a = Slice(x, from, to, both, by) \n y = Slice(a, one, end, axis2, two)"
    shared = crop.replace("y =", "b =") + " \n d = Slice(a, two, end, axis3) \n y = Relu(b) \n z = Relu(d)"
    rows = "a = Slice(x, two, end, axis2) \n b = Slice(a, one, five, axis2, two) \n y = Relu(b)"
    return [
        text_model(image, "y", crop, c),
        text_model(dynamic, "y", crop, c),
        text_model(image, "y", nested, c),
        text_model(image, "y", nested.replace("one, end", "one, last"), c),
        text_model(dynamic, "y", rows, c),
        text_model(dynamic, "y, z", shared, c),
    ]


@graph_pass("merge-slices", atol=0.0, cases=cases, ops=("Slice",), phase="clean", after=("drop-identity",))
def merge_slices(graph: Graph, node: Node) -> int:
    before = producer(node.inputs[0])
    if before is None or before.op != "Slice":
        return 0
    first = ranges(before)
    _require_vanishing(graph, node.inputs[0])
    node_ranges = ranges(node)
    node.inputs[0] = before.inputs[0]
    write(graph, node, {**first, **{k: v.of(first[k]) if k in first else v for k, v in node_ranges.items()}})
    return 1


def _require_vanishing(graph: Graph, middle: Tensor) -> None:
    """Raise Skip unless all consumers of the first Slice are Slices that merge with it: then it vanishes."""
    if middle.name in kept_names(graph):
        raise Skip("what the first Slice gives is an output as well, so nothing would go")
    for reader in middle.outputs:
        if reader.op != "Slice" or not is_standard(reader) or reader.inputs[0] is not middle:
            raise Skip("what the first Slice gives is read elsewhere too, so nothing would go")
        ranges(reader)
