"""(N(x)*s + t)*a + b = N(x)*(s a) + (t a + b): constants right behind a normalization of its input join it.

LayerNorm, InstanceNorm and GroupNorm take mean and variance from every input: no weights can hold those, and
the operator stays. LayerNorm Scaling (1/sqrt(layer)) and a LayerScale behind a norm go this way. Sun et al.,
The Curse of Depth, 2025.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from edgedeploy.export.affine.fold import channel_vector
from edgedeploy.export.affine.scale_shift import Array, read, require_storable
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, constant, detach, float_of, has, require_private

NORMS = ("LayerNormalization", "InstanceNormalization", "GroupNormalization")
STAYS = "its mean and variance are taken from every input, so it cannot fold into weights; "


def cases(rng: np.random.Generator) -> Sequence[onnx.ModelProto]:
    c = {"s": floats(rng, 6) + 2, "t": floats(rng, 6), "k": np.float32(0.5), "d": floats(rng, 1, 6)}
    c["r"] = floats(rng, 2, 6)
    i = {"s": c["s"], "t": c["t"], "k": c["k"], "p": floats(rng, 1, 6, 1, 1), "q": floats(rng, 6, 1, 1)}
    tokens, image = "float[2,n,6] x", "float[2,6,h,v] x"
    instance = "m = InstanceNormalization(x, s, t) \n "
    i["shape"] = np.array([2, 6, 5, 4])  # shape inference knows nothing of GroupNormalization
    group = "m = GroupNormalization<num_groups=3>(x, s, t) \n n = Mul(p, m) \n y = Reshape(n, shape)"
    return [
        text_model(tokens, "y", "m = LayerNormalization(x, s, t) \n y = Mul(m, k)", c),
        text_model(tokens, "y", "m = LayerNormalization(x, s) \n n = Div(m, k) \n y = Sub(d, n)", c),
        text_model("float[n,2,6] x", "y", "m = LayerNormalization<axis=1>(x, r) \n y = Add(m, d)", c),
        text_model(image, "y", instance + "n = Mul(p, m) \n y = Add(n, q)", i),
        text_model("float[2,6,5,4] x", "y", group, i, opset=21),
    ]  # fmt: skip


@graph_pass("fold-norm-affine", atol=1e-5, cases=cases, ops=NORMS, phase="fold", after=("fold-pad",))
def fold_norm_affine(graph: Graph, node: Node) -> int:
    result = node.outputs[0]
    reader = result.outputs[0] if result.outputs else None
    step = read(reader) if reader is not None and reader.op != "BatchNormalization" else None
    if reader is None or step is None or step.x is not result:
        raise Skip(f"{STAYS}no constant right behind it can join it")
    require_private(graph, result)
    if node.op == "GroupNormalization" and graph.opset < 21:
        raise Skip("before opset 21 its scale is one value per group")
    s = float_of(node.inputs[1], f"the scale of '{node.name}'")
    t = float_of(node.inputs[2], f"the shift of '{node.name}'") if has(node, 2) else np.zeros(s.shape)
    a, b = (_shaped(node, values, s) for values in (step.a, step.b))
    dtype, name = node.inputs[1].dtype, node.inputs[1].name
    require_storable(dtype, s * a, t * a + b)
    inputs = [node.inputs[0], constant(graph, name, s * a, dtype)]
    if has(node, 2) or np.any(b):
        inputs.append(constant(graph, f"{name}_shift", t * a + b, dtype))
    final = reader.outputs[0]
    detach(reader)
    node.inputs = inputs
    node.outputs[0] = final
    return 1


def _shaped(node: Node, values: Array, scale: Array) -> Array:
    """A constant as the norm keeps its own: over the trailing axes, or one value per channel (axis 1)."""
    if node.op != "LayerNormalization":
        shape = node.inputs[0].shape
        if shape is None:
            raise Skip("the rank of its input is not known")
        return channel_vector(values, len(shape), len(scale))
    extra = values.ndim - scale.ndim
    own = values[(0,) * extra] if extra > 0 else values
    fits = own.size == values.size and all(
        k in (1, n) for k, n in zip(reversed(own.shape), reversed(scale.shape), strict=False)
    )
    if not fits:
        raise Skip(f"a constant of shape {list(values.shape)} does not lie on the axes that it normalizes")
    return np.broadcast_to(own, scale.shape)
