"""W2 f(W1 x) = [W2 0] f([W1; 0] x): zero channels between convolutions, up to a multiple for tensor cores.

Tensor cores take multiples of 8 channels in float16 and of 32 in INT8; TensorRT pads other counts itself. The
pass pays for odd counts in float16: TensorRT-RTX 1.7 for SM86 builds 17 kernels and 142 MB for 61 channels,
but 10 and 89 MB for 64. For 60 channels it builds 10 and 85 MB, so padding costs there. Hence on request.
NVIDIA, Deep Learning Performance Guide, "Channels In and Out".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.channels import channels_of, region_of, widen
from edgedeploy.export.match.shapes import infer
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip


@dataclass(frozen=True)
class PadOptions:
    """Target and limit of the padding.

    Attributes:
        multiple: of the padded number of channels.
        most: largest ratio of channels after to before; the work of the convolutions grows alike.
    """

    multiple: int = 8
    most: float = 1.34


def cases(rng: Rng) -> Models:
    w = {
        "a": floats(rng, 6, 3, 3, 3), "b": floats(rng, 6), "c": floats(rng, 5, 6, 1, 1),
        "d": floats(rng, 6, 1, 3, 3), "e": floats(rng, 6, 6, 3, 3), "t": floats(rng, 3, 6, 2, 2),
        "u": floats(rng, 6, 4, 2, 2), "s": np.abs(floats(rng, 6)) + 1, "k": floats(rng, 6, 1, 1),
        "up": np.array([1, 1, 2, 2], np.float32), "edge": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }  # fmt: skip
    image, conv = "float[n,3,h,v] x", "Conv<pads=[1,1,1,1]>"
    up = "ConvTranspose<strides=[2,2]>"
    norm = "BatchNormalization<epsilon=0.0>(m, s, b, b, s)"
    rows = [
        [f"m = {conv}(x, a, b)", "r = Relu(m)", "y = Conv(r, c)"],
        # A row of residual blocks: all of it is one axis.
        [f"m = {conv}(x, a)", f"i = {conv}(m, e, b)", "o = Add(m, i)", "r = Sigmoid(o)", "y = Conv(r, c)"],
        [f"m = {conv}(x, a, b)", "p = Conv<group=6>(m, d, b)", "q = HardSwish(p)", "y = Conv(q, c)"],
        [f"m = {up}(x, t, b)", f"i = {norm}", "y = ConvTranspose(i, u)"],
        [f"m = {conv}(x, a)", "i = Resize(m, , up)", "j = Pad(i, edge)", "p = PRelu(j, k)", "q = Mul(p, k)",
         "g = GlobalAveragePool(q)", "o = Mul(q, g)", "y = Conv(o, c)"],
    ]  # fmt: skip
    wide = {"a": floats(rng, 30, 3, 3, 3), "c": floats(rng, 5, 30, 1, 1)}
    eight = [(text_model(image, "y", " \n ".join(row), w), PadOptions()) for row in rows]
    return [*eight, (text_model(image, "y", "m = Conv(x, a) \n y = Conv(m, c)", wide), PadOptions(32))]


@graph_pass(
    "pad-channels", atol=1e-6, cases=cases, ops=("Conv", "ConvTranspose"), options=PadOptions, prepare=infer
)
def pad_channels(graph: Graph, node: Node, options: PadOptions) -> int:
    if int(node.attrs.get("group", 1)) != 1:
        raise Skip("its groups tie the channels it reads to those it makes")
    channels = channels_of(node.outputs[0])
    width = -(-channels // options.multiple) * options.multiple
    if width == channels:
        return 0
    if width > options.most * channels:
        raise Skip(f"{width} channels instead of {channels} are {width / channels:.2f} times the work")
    region = region_of(graph, node)
    if not region.consumers:
        raise Skip("no convolution reads its channels")
    widen(graph, region, width)
    return 1
