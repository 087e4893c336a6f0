"""The values around an image after a Pad and the ScatterNDs that follow, traced element by element."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedeploy.graphs.surgeon import Graph, Node, Skip, float_of, has, is_standard, kept_names, value_of

MOST_VALUES = 1 << 24  # of an image that is traced


@dataclass
class Image:
    """An image during the trace.

    Attributes:
        values: known values, NaN elsewhere.
        source: index of each element in the original image, -1 for the border.
    """

    values: NDArray[np.float64]
    source: NDArray[np.int64]


def chain_behind(graph: Graph, pad: Node) -> list[Node]:
    """The Transposes and ScatterNDs that follow a Pad; empty where they end in a graph output."""
    kept, found, tensor = kept_names(graph), [], pad.outputs[0]
    while len(tensor.outputs) == 1 and tensor.name not in kept:
        node = tensor.outputs[0]
        if node.op not in ("Transpose", "ScatterND") or not is_standard(node) or node.inputs[0] is not tensor:
            break
        found.append(node)
        tensor = node.outputs[0]
    return [] if tensor.name in kept else found


def padding(pad: Node, rank: int) -> list[int]:
    """Begins and ends of a Pad in constant mode; raises Skip for another Pad."""
    if pad.attrs.get("mode", "constant") != "constant" or len(pad.inputs) < 2 or has(pad, 3):
        raise Skip("it pads otherwise than by a constant on all axes")
    widths = [int(width) for width in value_of(pad.inputs[1], "its width")]
    if len(widths) != 2 * rank or min(widths) < 0 or any((*widths[:2], *widths[rank : rank + 2])):
        raise Skip("it pads other axes than those of the image, or crops")
    return widths


def border(shape: list[int], pad: Node, chain: list[Node]) -> NDArray[np.float64]:
    """The values around an image, NaN inside; raises Skip where the chain changes the inside."""
    widths, rank = padding(pad, len(shape)), len(shape)
    room = list(zip(widths[:rank], widths[rank:], strict=True))
    count = int(np.prod(shape)) * 4
    if count > MOST_VALUES:
        raise Skip("the image is too large to trace")
    fill = float_of(pad.inputs[2], "its value").item() if has(pad, 2) else 0.0
    indices = np.arange(int(np.prod(shape))).reshape(shape)
    start = np.pad(indices, room, constant_values=-1)
    image = Image(np.where(start < 0, fill, np.nan), start)
    for node in chain:
        image = _after(node, image)
    if image.source.shape != start.shape or not np.array_equal(image.source, start):
        raise Skip("what follows changes more than the border")
    return image.values


def _after(node: Node, image: Image) -> Image:
    if node.op == "Transpose":
        perm = node.attrs.get("perm")
        return Image(image.values.transpose(perm), image.source.transpose(perm))
    if node.attrs.get("reduction", "none") != "none":
        raise Skip("it adds to what is there")
    index = tuple(np.moveaxis(value_of(node.inputs[1], "where it writes"), -1, 0))
    values, source = image.values.copy(), image.source.copy()
    values[index] = float_of(node.inputs[2], "what it writes")
    source[index] = -1
    return Image(values, source)
