"""[A*x, B*x] = [A, B]*x: concatenated convolutions of one tensor become one.

They must agree in all attributes and be neighbors on the channel axis. The multiplications stay, but one
operator is launched and x is read once.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from edgedeploy.export.affine.weights import bias
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    Tensor,
    bypass,
    constant,
    detach,
    float_of,
    has,
    is_standard,
    kept_names,
    producer,
)


def cases(rng: Rng) -> Models:
    image = "float[1,4,h,v] x"
    c = {
        "w": floats(rng, 5, 4, 3, 3),
        "u": floats(rng, 3, 4, 3, 3),
        "b": floats(rng, 5),
        "p": floats(rng, 2, 4, 1, 1),
    }
    first, second = (
        "m = Conv<pads=[1,1,1,1]>(x, w, b) \n ",
        "n = Conv<pads=[1,1,1,1], strides=[1,1]>(x, u) \n ",
    )
    return [
        text_model(image, "y", first + second + "y = Concat<axis=1>(m, n)", c),
        text_model(image, "y", first + second + "t = Tanh(x) \n y = Concat<axis=-3>(t, n, m, t)", c),
        text_model(image, "y", first + second + "q = Conv(x, p) \n y = Concat<axis=1>(q, m, n)", c),
    ]  # fmt: skip


@graph_pass(
    "merge-sibling-conv",
    atol=1e-5,
    cases=cases,
    ops=("Concat",),
    phase="merge",
    after=("merge-sequential-conv",),
)
def merge_sibling_conv(graph: Graph, node: Node) -> int:
    convs = [_conv(graph, tensor) for tensor in node.inputs]
    if not any(convs):
        raise Skip("no operand is a convolution of its own")
    reason = "no two neighbors are convolutions of one tensor"
    for place, (one, two) in enumerate(pairwise(convs)):
        if one is None or two is None or one is two or one.inputs[0] is not two.inputs[0]:
            continue
        if (why := _differ(node, one, two)) is None:
            _join(graph, one, two)
            del node.inputs[place + 1]
            if len(node.inputs) == 1:
                bypass(graph, node)
            return 1
        reason = why
    raise Skip(reason)


def _conv(graph: Graph, tensor: Tensor) -> Node | None:
    """The convolution that computes the tensor, if the tensor has one consumer and is no output."""
    maker = producer(tensor)
    if maker is None or maker.op != "Conv" or not is_standard(maker):
        return None
    return maker if len(tensor.outputs) == 1 and tensor.name not in kept_names(graph) else None


def _differ(node: Node, one: Node, two: Node) -> str | None:
    """The reason why the two convolutions cannot merge, or None."""
    w, u = (float_of(conv.inputs[1], f"the weight of '{conv.name}'") for conv in (one, two))
    if int(node.attrs["axis"]) not in (1, 1 - w.ndim):
        return "it does not concatenate channels"
    if w.shape[1:] != u.shape[1:]:
        return f"kernels of shape {list(w.shape[1:])} and {list(u.shape[1:])} stand side by side"
    if any(int(conv.attrs.get("group", 1)) != 1 for conv in (one, two)):
        return "the convolutions are grouped"
    if _settings(one, w.ndim) != _settings(two, w.ndim):
        return "the convolutions differ in stride, dilation or padding"
    if one.inputs[1].dtype != two.inputs[1].dtype:
        return "the weights are of different types"
    return None


def _settings(conv: Node, rank: int) -> tuple[object, ...]:
    n = rank - 2
    ones, zeros = [1] * n, [0] * 2 * n
    keys = (("strides", ones), ("dilations", ones), ("pads", zeros))
    return (conv.attrs.get("auto_pad", "NOTSET"), *(tuple(conv.attrs.get(k, d)) for k, d in keys))


def _join(graph: Graph, one: Node, two: Node) -> None:
    """Extend the first convolution by the channels of the second."""
    pair = (one, two)
    weights = [float_of(conv.inputs[1], "the weight") for conv in pair]
    biases = [bias(conv) for conv in pair]
    weight = one.inputs[1]
    inputs = [one.inputs[0], constant(graph, weight.name, np.concatenate(weights), weight.dtype)]
    if any(has(conv, 2) for conv in pair):
        inputs.append(constant(graph, f"{weight.name}_bias", np.concatenate(biases), weight.dtype))
    detach(two)
    one.inputs = inputs
    one.outputs[0].shape = None
