"""Linear operators on images as convolution kernels, which compose in sequence and add in parallel.

Tap t of a kernel reads its input at o*stride - begin + t*dilation. Kernels in sequence read at the sums of
their offsets, parallel kernels at the union. Sums are in float64. Ding et al., Diverse Branch Block, 2021:
transforms I to VI are special cases.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from math import gcd, prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgedeploy.export.affine.reader import affine_of, is_affine
from edgedeploy.export.affine.weights import bias
from edgedeploy.graphs.surgeon import Graph, Node, Skip, Tensor, constant, float_of, has, is_constant

if TYPE_CHECKING:
    from onnx_graphsurgeon.ir.tensor import DType

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """Geometry of a kernel per spatial axis: sizes, dilations, strides, padding before and after."""

    size: Ints
    dilation: Ints
    stride: Ints
    begin: Ints
    end: Ints

    @property
    def reach(self) -> Ints:
        """Distance from position o*stride to the last tap."""
        last = zip(self.size, self.dilation, self.begin, strict=True)
        return tuple((k - 1) * d - b for k, d, b in last)

    @property
    def is_padded(self) -> bool:
        return any(self.begin) or any(self.end)


@dataclass(frozen=True)
class Kernel:
    """A convolution: weights (out, in/group, *size), bias (out,), both float64.

    `work` is the multiplications per output position of the operators that it replaces, without scales.
    """

    window: Window
    group: int
    w: NDArray[np.float64]
    b: NDArray[np.float64]
    work: int

    @property
    def inputs(self) -> int:
        return int(self.w.shape[1]) * self.group

    @property
    def outputs(self) -> int:
        return int(self.w.shape[0])


def cost(window: Window, group: int, inputs: int, outputs: int) -> int:
    """Multiplications per output position of a convolution."""
    return outputs * (inputs // group) * prod(window.size)


def identity(channels: int, rank: int) -> Kernel:
    """The identity kernel of size 1 for tensors of this rank."""
    n = rank - 2
    window = Window((1,) * n, (1,) * n, (1,) * n, (0,) * n, (0,) * n)
    return Kernel(window, channels, np.ones((channels, 1, *window.size)), np.zeros(channels), 0)


def kernel_of(node: Node, channels: int, rank: int) -> Kernel:
    """The kernel of a Conv, an AveragePool or a per-channel affine on `channels` channels; raises Skip."""
    if node.op == "Conv":
        w = float_of(node.inputs[1], f"the weight of '{node.name}'")
        group = int(node.attrs.get("group", 1))
        if w.ndim != rank or w.shape[1] * group != channels:
            raise Skip(f"'{node.name}' does not read {channels} channels of rank {rank}")
        return Kernel(_window(node, w.shape[2:]), group, w, bias(node), w.size)
    if node.op == "AveragePool":
        window = _window(node, tuple(node.attrs["kernel_shape"]))
        if node.attrs.get("ceil_mode", 0):
            raise Skip("the pooling rounds its size up")
        if window.is_padded and not node.attrs.get("count_include_pad", 0):
            raise Skip("the pooling averages over fewer pixels at the border")
        w = np.full((channels, 1, *window.size), 1 / prod(window.size))
        return Kernel(window, channels, w, np.zeros(channels), w.size)
    plain = identity(channels, rank)
    a, b = affine_of(node)[1].broadcast(rank).along(1, channels)
    return Kernel(plain.window, channels, a.reshape(plain.w.shape), b, 0)


def row_work(kernels: Iterable[Kernel]) -> int:
    """Multiplications per output position of kernels in sequence; those before a stride count more often."""
    return reduce(lambda before, kernel: before * prod(kernel.window.stride) + kernel.work, kernels, 0)


def compose(first: Kernel, then: Kernel, budget: int | None = None) -> Kernel:
    """`then` after `first` as one kernel; raises Skip where no kernel computes the same.

    `budget` limits its multiplications, by default to those of the two.
    """
    p, q = first.window, then.window
    if any(s != 1 and k != 1 for s, k in zip(p.stride, q.size, strict=True)):
        raise Skip("the first convolution has a stride")
    if q.is_padded and (np.any(first.b) or prod(p.size) != 1):
        raise Skip("the second operator pads with zeros where the first would give its bias or its border")
    steps = [
        _step((d, k), (e * s, m))
        for d, k, e, s, m in zip(p.dilation, p.size, q.dilation, p.stride, q.size, strict=True)
    ]
    begin = tuple(b + c * s for b, c, s in zip(p.begin, q.begin, p.stride, strict=True))
    end = tuple(b + c * s for b, c, s in zip(p.end, q.end, p.stride, strict=True))
    spans = [
        (k - 1) * d + (m - 1) * e * s
        for k, d, m, e, s in zip(p.size, p.dilation, q.size, q.dilation, p.stride, strict=True)
    ]
    size = tuple(span // step + 1 for span, step in zip(spans, steps, strict=True))
    stride = tuple(a * b for a, b in zip(p.stride, q.stride, strict=True))
    window, group = Window(size, tuple(steps), stride, begin, end), gcd(first.group, then.group)
    work = row_work((first, then))
    require_cheaper(cost(window, group, first.inputs, then.outputs), work if budget is None else budget)
    inner, outer = _grouped(first, group), _grouped(then, group)
    w = np.zeros((group, outer.shape[1], inner.shape[2], *size))
    rows = inner.reshape(*inner.shape[:2], -1)
    for tap in np.ndindex(*q.size):
        product = outer[(slice(None),) * 3 + tap] @ rows
        w[_positions(tap, q, p, steps)] += product.reshape(*product.shape[:2], *inner.shape[2:])
    taps = _grouped(then, group).reshape(group, outer.shape[1], outer.shape[2], -1).sum(axis=3)
    b = then.b + np.einsum("gom,gm->go", taps, first.b.reshape(group, -1)).ravel()
    return Kernel(window, group, w.reshape(then.outputs, -1, *size), b, work)


def add(p: Kernel, q: Kernel, sign: int = 1) -> Kernel:
    """p + sign*q on one input; raises Skip where the geometries differ or the sum would cost more."""
    if p.window.stride != q.window.stride:
        raise Skip(f"the strides differ: {list(p.window.stride)} and {list(q.window.stride)}")
    if (p.inputs, p.outputs) != (q.inputs, q.outputs):
        raise Skip("the branches have different channels")
    edges = [
        tuple(e - r for e, r in zip(k.window.end, k.window.reach, strict=True)) for k in (p, q)
    ]  # the size of the output depends on this difference alone
    if edges[0] != edges[1]:
        raise Skip("the branches are padded to different sizes")
    begin = tuple(max(pair) for pair in zip(p.window.begin, q.window.begin, strict=True))
    reach = tuple(max(pair) for pair in zip(p.window.reach, q.window.reach, strict=True))
    steps = tuple(
        _step((d, k), (e, m), b - c)
        for d, k, e, m, b, c in zip(
            p.window.dilation, p.window.size, q.window.dilation, q.window.size,
            p.window.begin, q.window.begin, strict=True,
        )
    )  # fmt: skip
    size = tuple((b + r) // step + 1 for b, r, step in zip(begin, reach, steps, strict=True))
    end = tuple(edge + r for edge, r in zip(edges[0], reach, strict=True))
    window = Window(size, steps, p.window.stride, begin, end)
    group, work = gcd(p.group, q.group), p.work + q.work
    require_cheaper(cost(window, group, p.inputs, p.outputs), work)
    w = np.zeros((group, p.outputs // group, p.inputs // group, *size))
    for kernel, factor in ((p, 1), (q, sign)):
        own = kernel.window
        positions = tuple(
            slice((b - c) // step, (b - c + (k - 1) * d) // step + 1, max(1, d // step))
            for b, c, k, d, step in zip(begin, own.begin, own.size, own.dilation, steps, strict=True)
        )
        w[(slice(None),) * 3 + positions] += factor * _grouped(kernel, group)
    return Kernel(window, group, w.reshape(p.outputs, -1, *size), p.b + sign * q.b, work)


def write_convolution(graph: Graph, node: Node, x: Tensor, kernel: Kernel, dtype: DType) -> None:
    """Turn `node` into the convolution of x by `kernel`."""
    hint = node.inputs[1].name if node.op == "Conv" else f"{node.name}_weight"
    inputs = [x, constant(graph, hint, kernel.w, dtype)]
    if np.any(kernel.b) or (node.op == "Conv" and has(node, 2)):
        inputs.append(constant(graph, f"{hint}_bias", kernel.b, dtype))
    node.op, node.inputs = "Conv", inputs
    window = kernel.window
    node.attrs.clear()
    node.attrs.update(
        kernel_shape=list(window.size),
        pads=[*window.begin, *window.end],
        strides=list(window.stride),
        dilations=list(window.dilation),
        group=kernel.group,
    )


def require_cheaper(merged: int, work: int) -> None:
    """Raise Skip if the merged kernel multiplies more than the operators that it replaces."""
    if merged > work:
        raise Skip(f"merged it would take {merged} multiplications per place instead of {work}")


def is_linear(node: Node) -> bool:
    """Whether the node is of a type that `kernel_of` reads."""
    if node.op == "Conv":
        return is_constant(node.inputs[1])
    return node.op == "AveragePool" or is_affine(node)


def _window(node: Node, size: Ints) -> Window:
    if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Skip(f"'{node.name}' chooses its padding by itself (auto_pad)")
    n = len(size)
    pads = tuple(node.attrs.get("pads", (0,) * 2 * n))
    dilation, stride = (
        tuple(node.attrs.get("dilations", (1,) * n)),
        tuple(node.attrs.get("strides", (1,) * n)),
    )
    return Window(tuple(size), dilation, stride, pads[:n], pads[n:])


def _step(*taps: tuple[int, int] | int) -> int:
    """The widest grid of all taps, given as (dilation, size) pairs and distances between starts."""
    widths = [tap if isinstance(tap, int) else tap[0] if tap[1] > 1 else 0 for tap in taps]
    return gcd(*widths) or 1


def _positions(tap: Ints, outer: Window, inner: Window, steps: list[int]) -> tuple[slice, ...]:
    """Positions of the inner kernel's taps in the composed kernel, read through one outer tap."""
    positions = []
    for t, e, s, k, d, step in zip(
        tap, outer.dilation, inner.stride, inner.size, inner.dilation, steps, strict=True
    ):
        start = t * e * s // step
        positions.append(slice(start, start + (k - 1) * d // step + 1, max(1, d // step)))
    return (slice(None), slice(None), slice(None), *positions)


def _grouped(kernel: Kernel, group: int) -> NDArray[np.float64]:
    """Weights (group, out/group, in/group, *size) for fewer, wider groups; zeros between the old groups."""
    old, (per_out, per_in) = kernel.group, (kernel.outputs // kernel.group, kernel.w.shape[1])
    parts = old // group
    w = kernel.w.reshape(group, parts, per_out, per_in, *kernel.window.size)
    if parts == 1:
        return w[:, 0]
    wide = np.zeros((group, parts, per_out, parts, per_in, *kernel.window.size))
    index = np.arange(parts)
    wide[:, index, :, index] = np.moveaxis(w, 1, 0)
    return wide.reshape(group, parts * per_out, parts * per_in, *kernel.window.size)
