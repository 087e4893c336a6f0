"""Cast_C(Cast_B(x)) = Cast_C(x) where type B holds every value of x's type A; both are removed where C is A.

float32 holds float16, float64 both; wider integers, and floats with enough bits, hold integers; all hold
bool. A Cast that rounds or wraps stays: float32 through float16.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, bypass, dtype_name, kept_names, producer

_INTEGERS = (f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64))
_KINDS = ("bool", "float16", "float32", "float64", *_INTEGERS)


def cases(_: Rng) -> Models:
    f32, f16, f64, i32, i64 = 1, 10, 11, 6, 7
    chains = {
        "float16[n,3]": (f32, f16), "uint8[2,3]": (f32, f16), "bool[2,3]": (i32, f32), "int32[n]": (i64, f32),
        "float[2,n]": (f64, f16),
    }  # fmt: skip
    models = [
        text_model(f"{kind} x", "y", f"a = Cast<to={b}>(x) \n y = Cast<to={c}>(a)", {})
        for kind, (b, c) in chains.items()
    ]
    there = f"r = Relu(x) \n a = Cast<to={f32}>(r) \n b = Cast<to={f16}>(a) \n y = Neg(b) \n z = Exp(a)"
    return [*models, text_model("float16[2,3] x", "y, z", there, {})]


@graph_pass("merge-casts", atol=0.0, cases=cases, ops=("Cast",), phase="clean", after=("drop-identity",))
def merge_casts(graph: Graph, node: Node) -> int:
    middle = node.inputs[0]
    before = producer(middle)
    if before is None or before.op != "Cast":
        return 0
    x = before.inputs[0]
    start, wide, end = dtype_name(x), dtype_name(middle), dtype_name(node.outputs[0])
    if not holds(wide, start):
        raise Skip(f"{wide or 'the type between'} does not hold every {start or 'value'}")
    if start != end and (len(middle.outputs) > 1 or middle.name in kept_names(graph)):
        raise Skip("what the first Cast gives is read elsewhere too, so nothing would go")
    node.inputs[0] = x
    if start == end:
        try:
            bypass(graph, node)
        except Skip:  # between an input and an output something must stand
            node.op = "Identity"
            node.attrs.clear()
    return 1


def holds(wide: str, narrow: str) -> bool:
    """Whether type `wide` holds every value of type `narrow`."""
    if wide not in _KINDS or narrow not in _KINDS:
        return False
    if wide == "float64" and narrow in ("int64", "uint64"):  # "safe" to numpy, but 53 bits are not 64
        return False
    return bool(np.can_cast(narrow, wide, "safe"))
