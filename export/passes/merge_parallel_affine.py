"""(a1*x + b1) + (a2*x + b2) = (a1 + a2)*x + (b1 + b2): summed scales and shifts of one tensor become one.

RepBN, BN(x) + alpha*x, becomes one BatchNormalization, which then folds. `propagate-affine` reaches none of
these cases: it moves a value along a path and joins no two paths. Guo et al., SLAB, 2024.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from edgedeploy.export.affine.chain import Chain, chains, empty, is_private, transposed_chains, write
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.sums import is_sum
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, Tensor, kept_names, producer


def cases(rng: Rng) -> Models:
    image, tokens, image3 = "float[1,4,h,v] x", "float[2,n,6] x", "float[2,4,n] x"
    c = {
        "s": rng.uniform(0.5, 2, 4).astype(np.float32),
        "t": rng.uniform(0.5, 2, 4).astype(np.float32),
        "alpha": np.ones(1, np.float32),
        "d": floats(rng, 4, 1, 1),
    }
    t = {"w": floats(rng, 6), "b": floats(rng, 6)}
    norm = "n = BatchNormalization(x, s, t, t, s) \n "
    scaled = "m = Mul(alpha, x) \n "
    there, back = "a = Transpose<perm=[0,2,1]>(x)", "b = Transpose<perm=[0,2,1]>(n)"
    turned = f"{there} \n n = BatchNormalization(a, s, s, s, s) \n {back} \n y = Add(b, x)"
    other = "m = BatchNormalization(x, t, s, s, t) \n "
    return [
        text_model(image, "y", norm + scaled + "y = Add(n, m)", c),
        text_model("float[2,4,n] x", "y", norm + scaled + "r = Add(m, n) \n y = Relu(r)", c),
        text_model(image, "y", norm + "y = Add(n, x)", c),
        text_model(image, "y", norm + other + "y = Sub(n, m)", c),
        text_model(image3, "y", f"{there} \n {norm} {back} \n y = Add(b, a)", c),
        text_model(image3, "y", f"{there} \n m = Mul(a, alpha) \n {norm} {back} \n y = Sub(m, b)", c),
        text_model(tokens, "y", "a = Mul(x, w) \n y = Sub(x, a)", t),
        text_model(tokens, "y", turned, {"s": rng.uniform(0.5, 2, 6).astype(np.float32)}),
        text_model(tokens, "y", "a = Mul(x, w) \n p = Add(a, b) \n q = Div(x, b) \n y = Add(q, p)", t),
        text_model(image, "y", f"u = Tanh(x) \n {norm} {scaled} m2 = Add(m, d) \n y = Add(n, m2)", c),
    ]  # fmt: skip


@graph_pass(
    "merge-parallel-affine",
    atol=1e-5,
    cases=cases,
    ops=("Add", "Sub"),
    phase="merge",
    after=("merge-affine-chain",),
)
def merge_parallel_affine(graph: Graph, node: Node) -> int:
    if not is_sum(node) or len(node.inputs) != 2:
        return 0
    sign = 1 if node.op == "Add" else -1
    left, right = (_operand_chains(graph, tensor) for tensor in node.inputs)
    left, right = (
        [*left, *transposed_chains(graph, node.inputs[0], right)],
        [*right, *transposed_chains(graph, node.inputs[1], left)],
    )
    reason = "its operands are not scales and shifts of one tensor"
    for one, two in product(left, right):
        if one.x is not two.x:
            continue
        dtype = one.dtype if one.dtype is not None else two.dtype
        merged = Chain(one.x, one.value.plus(two.value, sign), (node, *one.nodes, *two.nodes), dtype)
        if merged.is_shorter_written:
            write(graph, merged)
            return 1
        reason = "merged it would take as many operators"
    raise Skip(reason)


def _operand_chains(graph: Graph, tensor: Tensor) -> list[Chain]:
    """The empty chain of an operand, and the chains that end in it if the sum is its only consumer."""
    maker = producer(tensor)
    found = chains(graph, maker) if maker is not None and is_private(tensor, kept_names(graph)) else []
    return [empty(tensor), *found]
