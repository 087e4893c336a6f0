"""x*c, x/c, x+c, x-c, c-x = a*x + b per channel, folded into the operator before or after it.

The constant must be a scalar or one value per channel (axis 1). Before a padded convolution only factors
fold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from edgedeploy.export.affine.fold import (
    WEIGHTED,
    Vector,
    channel_vector,
    fold_after,
    fold_before,
    input_channels,
    output_channels,
)
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, float_of, is_constant, producer


def cases(rng: np.random.Generator) -> Sequence[onnx.ModelProto]:
    image, rows = "float[1,4,h,v] x", "float[3,5] x"
    weights = {
        "w": floats(rng, 8, 4, 3, 3),
        "b": floats(rng, 8),
        "c": floats(rng, 8, 1, 1) + 2,
        "k": np.float32(-3),
    }
    inner = {"w": floats(rng, 8, 4, 3, 3), "p": floats(rng, 1, 4, 1, 1), "q": floats(rng, 4, 1, 1)}
    sheet = {"w": floats(rng, 5, 8), "c": floats(rng, 8), "r": floats(rng, 1, 5)}
    deep = {"w": floats(rng, 4, 4, 3, 3), "c": floats(rng, 8, 1, 1) + 2, "p": floats(rng, 1, 4, 1, 1)}
    return [
        text_model(
            image, "y", "a = Conv<pads=[1,1,1,1]>(x, w, b) \n m = Mul(a, c) \n y = Add(m, k)", weights
        ),
        text_model(image, "y", "a = Conv(x, w) \n m = Div(a, c) \n s = Sub(m, c) \n y = Sub(k, s)", weights),
        text_model(image, "y", "a = Mul(p, x) \n y = Conv<pads=[2,1,0,1]>(a, w)", inner),
        text_model(image, "y", "a = Sub(x, q) \n m = Mul(a, p) \n y = Conv<strides=[2,2]>(m, w)", inner),
        text_model(image, "y", "a = ConvTranspose<group=2>(x, w) \n y = Mul(a, c)", deep),
        text_model(image, "y", "a = Mul(x, p) \n y = ConvTranspose<group=2, pads=[1,0,0,1]>(a, w)", deep),
        text_model(rows, "y", "a = MatMul(x, w) \n y = Add(c, a)", sheet),
        text_model(
            rows, "y", "a = Gemm<alpha=2.0>(x, w, c) \n m = Mul(a, c) \n y = Relu(m)", sheet, opset=13
        ),
        text_model(rows, "y", "a = Add(x, r) \n m = Mul(a, r) \n y = Gemm<alpha=0.5>(m, w)", sheet),
    ]


@graph_pass(
    "fold-mul-add",
    atol=1e-5,
    cases=cases,
    ops=("Mul", "Div", "Add", "Sub"),
    phase="fold",
    after=("fold-batchnorm",),
)
def fold_mul_add(graph: Graph, node: Node) -> int:
    index = next((i for i in (0, 1) if is_constant(node.inputs[i])), None)
    if index is None:
        raise Skip("neither operand is a constant")
    x = node.inputs[1 - index]
    if is_constant(x):
        raise Skip("both operands are constants")
    values = float_of(node.inputs[index], "the operand")
    maker = producer(x)
    if maker is not None and maker.op in WEIGHTED:
        a, b = _affine(node, index, channel_vector(values, *output_channels(maker)))
        return fold_after(graph, node, maker, a, b)
    follower = node.outputs[0].outputs[0] if node.outputs[0].outputs else None
    if follower is None or follower.op not in WEIGHTED:
        raise Skip("it stands beside no convolution or matrix product")
    rank, channels = input_channels(follower)
    if x.shape is None or len(x.shape) != rank or x.shape[1] != channels:
        raise Skip(f"the tensor is not known to have rank {rank} and {channels} channels before it")
    a, b = _affine(node, index, channel_vector(values, rank, channels))
    return fold_before(graph, node, x, a, b)


def _affine(node: Node, index: int, c: Vector) -> tuple[Vector, Vector]:
    """(a, b) with node = a*x + b, its constant being operand `index`."""
    one, zero = np.ones_like(c), np.zeros_like(c)
    if node.op == "Mul":
        return c, zero
    if node.op == "Add":
        return one, c
    if node.op == "Sub":
        return (one, -c) if index == 1 else (-one, c)
    if index == 0:
        raise Skip("it divides by the tensor")
    if not np.all(c):
        raise Skip("it divides by zero")
    return 1 / c, zero
