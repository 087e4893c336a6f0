"""[a, [b, c]] = [a, b, c]: a Concat merges with its only consumer, a Concat along the same axis."""

from __future__ import annotations

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, detach, is_standard, kept_names, producer, shape_of


def cases(_: Rng) -> Models:
    start = "a = Relu(x) \n b = Tanh(x) \n "
    bodies = (
        "m = Concat<axis=1>(a, b) \n y = Concat<axis=1>(x, m)",
        "m = Concat<axis=-3>(a, b) \n k = Concat<axis=1>(m, x) \n y = Concat<axis=1>(k, b)",
        "m = Concat<axis=2>(a, b) \n k = Concat<axis=2>(m, m) \n y = Neg(k)",
    )
    kinds = ("float[2,3,4,5] x", "float[n,3,h,v] x")
    return [text_model(kind, "y", start + body, {}) for kind in kinds for body in bodies]


@graph_pass("merge-concats", atol=0.0, cases=cases, ops=("Concat",), phase="clean", after=("drop-identity",))
def merge_concats(graph: Graph, node: Node) -> int:
    kept, pieces, gone = kept_names(graph), [], []
    for tensor in node.inputs:
        maker = producer(tensor)
        if maker is None or maker.op != "Concat" or not is_standard(maker):
            pieces.append(tensor)
        elif tensor.name in kept or any(reader is not node for reader in tensor.outputs):
            raise Skip(f"'{tensor.name}' is read elsewhere too, so nothing would go")
        elif _axis(maker) != _axis(node):
            raise Skip(f"'{maker.name}' joins on another axis")
        else:
            pieces += maker.inputs
            gone.append(maker)
    if not gone:
        return 0
    node.inputs = pieces
    for maker in gone:
        detach(maker)
    return 1


def _axis(node: Node) -> int:
    axis = int(node.attrs["axis"])
    return axis + len(shape_of(node.inputs[0], "its first input")) if axis < 0 else axis
