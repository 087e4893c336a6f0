"""(s1*x + t1) + (s2*x + t2) = (s1 + s2)*x + (t1 + t2): a sum of scalings of one tensor is one scaling.

RepBN, BN(x) + alpha*x, is such a sum, with the tokens transposed before and after its norm. The result is one
Mul and one Add, or a single norm where channels are on axis 1, which go where every norm goes.
Guo et al., SLAB, ICML 2024, equation 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx

from edgedeploy.export.affine_cases import norms
from edgedeploy.export.affine_linear import affine_of, norm_parameters
from edgedeploy.export.affine_value import Affine, Array, rank_of, sum_of
from edgedeploy.export.graph import (
    Graph,
    Node,
    Skip,
    Tensor,
    constant,
    detach,
    insert,
    is_constant,
    kept_names,
    producer,
    variable,
)
from edgedeploy.export.passes.base import graph_pass
from edgedeploy.export.passes.samples import text_model

SCALINGS = ("BatchNormalization", "Mul", "Div", "Add", "Sub", "Transpose")
LONGEST = 8  # operators of one side


def cases(rng: np.random.Generator) -> Sequence[onnx.ModelProto]:
    w = {**norms(rng, 5), "alpha": np.float32(0.5), "k": np.full((1, 1, 5), 2, np.float32)}
    swap = "Transpose<perm=[0,2,1]>"
    rep = f"p = {swap}(x) \n b = BatchNormalization(p, s, t, m, v) \n q = {swap}(b)"
    image = "b = BatchNormalization(x, s, t, m, v)"
    return [
        text_model("float[2,n,5] x", "y", f"{rep} \n a = Mul(alpha, x) \n y = Add(q, a)", w),
        text_model("float[2,n,5] x", "y", f"{rep} \n a = Div(x, k) \n c = Sub(a, k) \n y = Sub(c, q)", w),
        text_model("float[2,5,h,w] x", "y", f"{image} \n a = Mul(x, alpha) \n y = Add(b, a)", w),
        text_model("float[2,5,h,w] x", "y", f"{image} \n y = Add(x, b)", w),
        text_model("float[2,n,5] x", "y", "a = Mul(x, k) \n b = Mul(x, alpha) \n y = Sub(a, b)", w),
    ]


@graph_pass("merge-affine", atol=1e-5, cases=cases, ops=("Add", "Sub"))
def merge_affine(graph: Graph, node: Node) -> int:
    if any(is_constant(tensor) for tensor in node.inputs):
        raise Skip("one operand is a constant")
    kept = kept_names(graph)
    (left, root), (right, other) = (_walk(kept, tensor) for tensor in node.inputs)
    if root is not other:
        raise Skip("its operands are not scalings of one tensor")
    one, two = _value(left, root), _value(right, root)
    sign = -1.0 if node.op == "Sub" else 1.0
    total = Affine.of(sum_of(one.scale, sign * two.scale), sum_of(_shift(one), sign * _shift(two)))
    norm = next((step for step in (*left, *right) if step.op == "BatchNormalization"), None)
    as_norm = norm is not None and not any(total.varies(a) for a in range(total.rank) if a != 1)
    wanted = 1 if as_norm else max(1, (not total.is_unscaled) + (not total.has_no_shift))
    if wanted >= len(left) + len(right) + 1:
        raise Skip("the sum would take as many operators as before")
    y = node.outputs[0]
    detach(node)
    if as_norm and norm is not None:
        _write_norm(graph, norm, root, y, total)
    else:
        _write_scaling(graph, root, y, total)
    return 1


def _walk(kept: set[str], tensor: Tensor) -> tuple[list[Node], Tensor]:
    """(scalings and transpositions that only this sum reads, first one first, what they start from)."""
    steps: list[Node] = []
    while len(steps) < LONGEST and tensor.name not in kept and len(tensor.outputs) == 1:
        maker = producer(tensor)
        if maker is None or maker.op not in SCALINGS:
            break
        try:
            place = 0 if maker.op == "Transpose" else affine_of(maker)[0]
        except Skip:
            break
        steps.insert(0, maker)
        tensor = maker.inputs[place]
    return steps, tensor


def _value(steps: list[Node], root: Tensor) -> Affine:
    """What the steps compute of their root; raises Skip if they leave it transposed."""
    rank = len(rank_of(root))
    value, order = Affine.identity(rank), np.arange(rank)
    for step in steps:
        if step.op == "Transpose":
            perm = list(step.attrs.get("perm", reversed(range(rank))))
            value, order = value.map(partial(np.transpose, axes=perm)), order[perm]
        else:
            own = affine_of(step)[1]
            value = Affine.of(own.scale * value.scale, sum_of(own.scale * _shift(value), _shift(own)))
    if list(order) != sorted(order):
        raise Skip("one operand is transposed")
    return value


def _shift(value: Affine) -> Array:
    assert value.shift is not None  # noqa: S101  norms and constants are known
    return value.shift


def _write_norm(graph: Graph, norm: Node, x: Tensor, y: Tensor, total: Affine) -> None:
    """The norm, of the same statistics, on x."""
    s, t = total.along(1, norm.inputs[1].values.size)
    parameters = list(norm.inputs[1:5])
    for place, values in enumerate(norm_parameters(norm, s, t)):
        parameters[place] = constant(graph, parameters[place].name, values, parameters[place].dtype)
    insert(graph, "BatchNormalization", [x, *parameters], [y], **norm.attrs)


def _write_scaling(graph: Graph, x: Tensor, y: Tensor, total: Affine) -> None:
    """x*s, then + t, each where it does something."""
    scaled = not total.is_unscaled or total.has_no_shift
    if scaled:
        middle = y if total.has_no_shift else variable(graph, f"{y.name}_scaled", y.dtype, y.shape)
        insert(graph, "Mul", [x, constant(graph, f"{y.name}_scale", total.scale, y.dtype)], [middle])
        x = middle
    if not total.has_no_shift:
        insert(graph, "Add", [x, constant(graph, f"{y.name}_shift", _shift(total), y.dtype)], [y])
