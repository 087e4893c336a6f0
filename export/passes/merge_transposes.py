"""Transpose_q(Transpose_p(x)) = Transpose_r(x) with r[i] = p[q[i]]; nothing at all where r is in order.

y = f(Transpose(x)) with elementwise f stays: which side of f is cheaper depends on the rest.
"""

from __future__ import annotations

from edgedeploy.export.graph_pass import Skip, graph_pass
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, bypass, kept_names, producer


def cases(_: Rng) -> Models:
    image, dynamic = "float[2,4,3,5] x", "float[n,4,h,v] x"
    there, back = "Transpose<perm=[0,2,3,1]>", "Transpose<perm=[0,3,1,2]>"
    turn = "Transpose<perm=[1,2,3,0]>"
    return [
        text_model(kind, "y", body, {})
        for kind in (image, dynamic)
        for body in (
            f"a = {there}(x) \n b = {back}(a) \n y = Relu(b)",
            f"a = Relu(x) \n b = {there}(a) \n y = {back}(b)",
            f"a = {there}(x) \n y = {turn}(a)",
            "a = Transpose(x) \n b = Transpose(a) \n y = Relu(b)",
        )
    ]


@graph_pass(
    "merge-transposes", atol=0.0, cases=cases, ops=("Transpose",), phase="clean", after=("drop-identity",)
)
def merge_transposes(graph: Graph, node: Node) -> int:
    before = producer(node.inputs[0])
    if before is None or before.op != "Transpose":
        return 0
    if before.outputs[0].name in kept_names(graph) and len(before.outputs[0].outputs) == 1:
        raise Skip(f"tensor '{before.outputs[0].name}' is an output as well, so nothing would go")
    last, first = _permutation(node), _permutation(before)
    if first is None and last is None:
        x = node.inputs[0]
        rank = len(x.shape) if x.shape is not None else None
        if rank is None:
            raise Skip("the rank is not known")
        first = last = list(range(rank))[::-1]
    rank = len(first if first is not None else last or ())
    first = first or list(range(rank))[::-1]
    last = last or list(range(rank))[::-1]
    together = [first[axis] for axis in last]
    node.inputs[0] = before.inputs[0]
    if together == sorted(together):
        try:
            bypass(graph, node)
        except Skip:  # between an input and an output something must stand
            node.attrs["perm"] = together
    else:
        node.attrs["perm"] = together
    return 1


def _permutation(node: Node) -> list[int] | None:
    """The axes as written; None for the default, which turns them round."""
    perm = node.attrs.get("perm")
    return list(perm) if perm else None
