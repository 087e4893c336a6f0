"""Transpose_q(Transpose_p(x)) = Transpose_r(x) with r[i] = p[q[i]]; both are removed where r is the identity.

y = f(Transpose(x)) with elementwise f stays: which side of f is cheaper depends on the rest.
"""

from __future__ import annotations

from contextlib import suppress

from edgedeploy.export.graph_pass import Skip, graph_pass
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, bypass, kept_names, producer, shape_of


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
    perms = [step.attrs.get("perm") for step in (before, node)]
    rank = max(len(perm or ()) for perm in perms) or len(shape_of(node.inputs[0], "what is transposed"))
    first, last = (perm or list(range(rank))[::-1] for perm in perms)
    together = [first[axis] for axis in last]
    node.inputs[0], node.attrs["perm"] = before.inputs[0], together
    if together == sorted(together):
        with suppress(Skip):  # between a graph input and a graph output a node must stay
            bypass(graph, node)
    return 1
