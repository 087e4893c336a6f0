"""Operators that commute with a scale s and a shift t, both constant along the axes that the operator mixes:

mean-like   f(s x + t) = s f(x) + t    Resize, AveragePool, GlobalAveragePool, ReduceMean, Pad
zero-padded f(s x)     = s f(x)        AveragePool that counts its padding, Pad by 0
maximum     f(s x + t) = s f(x) + t    if s >= 0: MaxPool, GlobalMaxPool, ReduceMax
homogeneous f(s x)     = s f(x)        if s >= 0: Relu, LeakyRelu, PRelu, Abs
sum         s x1 + t1 + s x2 + t2 = s (x1 + x2) + (t1 + t2);    product: (s1 x1) (s2 x2) = s1 s2 (x1 x2)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgedeploy.export.affine.rule import Context, Implied, Option, Rule, both_ways, ones, require_one_use
from edgedeploy.export.affine.value import Affine, Array, agree, known_shape, sum_of
from edgedeploy.graphs.surgeon import Skip, has, value_of

Check = Callable[[Context, Affine], Affine]


def alike(ctx: Context, value: Affine) -> Affine:
    """The same value on both sides; raises Skip if it varies along an axis that the operator mixes."""
    for axis in _mixed(ctx):
        if axis < value.rank and value.varies(axis):
            raise Skip(f"mixes axis {axis}, along which the values differ")
    return value


def without_shift(ctx: Context, value: Affine) -> Affine:
    """`alike` for shift 0; raises Skip for another shift."""
    if value.shift is not None and np.any(value.shift):
        raise Skip("does not pass a shift")
    return alike(ctx, value.unshifted())


def rising(ctx: Context, value: Affine) -> Affine:
    """`alike` for scales >= 0; raises Skip for a negative scale."""
    if np.any(value.scale < 0):
        raise Skip("does not pass a negative scale")
    return alike(ctx, value)


def homogeneous(ctx: Context, value: Affine) -> Affine:
    """`alike` for scales >= 0 and shift 0."""
    return without_shift(ctx, rising(ctx, value))


def average(ctx: Context, value: Affine) -> Affine:
    """An AveragePool whose padding counts as zeros passes scales only."""
    pads = ctx.node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(
        ctx.node.attrs.get("pads", ())
    )
    counted = ctx.node.attrs.get("count_include_pad", 0) and (pads or ctx.node.attrs.get("ceil_mode", 0))
    return without_shift(ctx, value) if counted else alike(ctx, value)


def padded(ctx: Context, value: Affine) -> Affine:
    """reflect, edge and wrap repeat values of x; zeros stay zeros under a scale."""
    if ctx.node.attrs.get("mode", "constant") != "constant":
        return alike(ctx, value)
    filler = (
        value_of(ctx.node.inputs[2], "the padding value")
        if has(ctx.node, 2)
        else ctx.node.attrs.get("value", 0)
    )
    if np.any(filler):
        raise Skip("pads with a value other than 0")
    return without_shift(ctx, value)


def resized(ctx: Context, value: Affine) -> Affine:
    """The weights of every mode sum to 1, but beyond the image tf_crop_and_resize puts a constant."""
    if ctx.node.attrs.get("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise Skip("puts a constant beyond the image (tf_crop_and_resize)")
    return alike(ctx, value)


def symmetric(check: Check) -> Rule:
    """The rule of an operator that gives its output the values of its input."""
    return both_ways(check, check)


def maximum(ctx: Context, value: Affine) -> Affine:
    """`rising`; raises Skip where the operator also gives the indices of its maxima."""
    if len(ctx.node.outputs) > 1 and not ctx.node.outputs[1].is_empty():
        raise Skip("also gives indices")
    return rising(ctx, value)


def reduced(check: Check) -> Rule:
    """The rule of a reduction, which may drop the axes that it reduces."""

    def push(ctx: Context, value: Affine) -> Affine:
        value = check(ctx, value)
        axes = tuple(_mixed(ctx))
        return value if ctx.node.attrs.get("keepdims", 1) else value.map(lambda array: array.squeeze(axes))

    def pull(ctx: Context, value: Affine) -> Affine:
        axes = tuple(_mixed(ctx))
        if not ctx.node.attrs.get("keepdims", 1):
            value = value.map(lambda array: np.expand_dims(array, axes))
        return check(ctx, value)

    return both_ways(push, pull)


def _sum(signs: tuple[int, int]) -> Rule:
    def relate(ctx: Context) -> Implied:
        tensors = [ctx.x, ctx.node.inputs[1], ctx.y]
        require_one_use(ctx.node)
        if len({len(known_shape(tensor)) for tensor in tensors}) > 1:
            raise Skip("adds tensors of different ranks")
        values = [ctx.get(tensor) for tensor in tensors]
        scale = next(value.scale for value in values if value is not None)
        shifts = [None if value is None else value.shift for value in values]
        left, right, total = shifts
        for index, (tensor, value) in enumerate(zip(tensors, values, strict=True)):
            if value is not None and not agree(value.scale, scale):
                raise Skip("adds tensors of different scales")
            shift = None
            if index == 2 and left is not None and right is not None:
                shift = sum_of(signs[0] * left, signs[1] * right)
            if index == 0 and total is not None and right is not None:
                shift = sum_of(signs[0] * total, -signs[0] * signs[1] * right)
            if index == 1 and total is not None and left is not None:
                shift = sum_of(signs[1] * total, -signs[0] * signs[1] * left)
            yield tensor, Affine.of(scale, shift)

    def options(ctx: Context) -> list[Option]:
        values = [(tensor, ctx.get(tensor)) for tensor in (*ctx.node.inputs, ctx.y)]
        undecided = [(tensor, v) for tensor, v in values if v is not None and v.shift is None]
        # Two tensors share the rest of the shift: one of them takes all of it.
        return [Option(((tensor, v.unshifted()),)) for tensor, v in undecided] if len(undecided) == 2 else []

    return Rule(relate, options, data=2)


def _product_relate(ctx: Context) -> Implied:
    tensors = [ctx.x, ctx.node.inputs[1], ctx.y]
    require_one_use(ctx.node)
    if len({len(known_shape(tensor)) for tensor in tensors}) > 1:
        raise Skip("multiplies tensors of different ranks")
    for tensor in tensors:
        value = ctx.get(tensor)
        if value is not None:
            yield tensor, without_shift(ctx, value)
    left, right, product = (ctx.get(tensor) for tensor in tensors)
    zero = np.zeros_like(ones(len(known_shape(ctx.y))))
    if left is not None and right is not None:
        yield ctx.y, Affine.of(left.scale * right.scale, zero)
    for one, tensor in ((left, tensors[1]), (right, tensors[0])):
        if product is not None and one is not None:
            yield tensor, Affine.of(_divided(product.scale, one.scale), zero)


def _divided(product: Array, one: Array) -> Array:
    if not np.all(one):
        raise Skip("multiplies by a scale of 0")
    return product / one


def _product_options(ctx: Context) -> list[Option]:
    """Two of the three values are unknown: one of the two tensors stays as it is."""
    free = [tensor for tensor in (ctx.x, ctx.node.inputs[1], ctx.y) if ctx.get(tensor) is None]
    if len(free) != 2:
        return []
    return [Option(((tensor, Affine.identity(len(known_shape(tensor)))),)) for tensor in free]


def _mixed(ctx: Context) -> list[int]:
    """The axes along which an operator combines values."""
    node, rank = ctx.node, len(known_shape(ctx.x))
    if node.op in ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"):
        return list(range(2, rank))
    if node.op in ("ReduceMean", "ReduceMax"):
        axes = value_of(node.inputs[1], "the axes") if has(node, 1) else node.attrs.get("axes", ())
        if not len(axes) and node.attrs.get("noop_with_empty_axes", 0):
            return []
        return [int(axis) % rank for axis in axes] or list(range(rank))
    if node.op == "Pad":
        return _padded_axes(ctx, rank)
    if node.op in ("Resize", "Upsample"):
        return _resized_axes(ctx, rank)
    return []


def _padded_axes(ctx: Context, rank: int) -> list[int]:
    node = ctx.node
    pads = np.asarray(value_of(node.inputs[1], "the padding") if has(node, 1) else node.attrs.get("pads", ()))
    axes = (
        [int(a) % rank for a in value_of(node.inputs[3], "the axes")] if has(node, 3) else list(range(rank))
    )
    return [axis for index, axis in enumerate(axes) if pads[index] or pads[index + len(axes)]]


def _resized_axes(ctx: Context, rank: int) -> list[int]:
    node = ctx.node
    index = 1 if node.op == "Upsample" or ctx.opset < 11 else 2
    axes = [int(axis) % rank for axis in node.attrs.get("axes", range(rank))]
    if has(node, index) and len(values := value_of(node.inputs[index], "the factors")):
        return [axis for axis, factor in zip(axes, values, strict=True) if factor != 1]
    before, after = known_shape(ctx.x), known_shape(ctx.y)
    return [axis for axis in axes if not (isinstance(before[axis], int) and before[axis] == after[axis])]


COMMUTING: dict[str, Rule] = {
    "Identity": symmetric(alike),
    "Relu": symmetric(homogeneous),
    "LeakyRelu": symmetric(homogeneous),
    "PRelu": symmetric(homogeneous),
    "Abs": symmetric(homogeneous),
    "MaxPool": symmetric(maximum),
    "GlobalMaxPool": symmetric(rising),
    "ReduceMax": reduced(rising),
    "AveragePool": symmetric(average),
    "GlobalAveragePool": symmetric(alike),
    "ReduceMean": reduced(alike),
    "Pad": symmetric(padded),
    "Resize": symmetric(resized),
    "Upsample": symmetric(resized),
    "Add": _sum((1, 1)),
    "Sub": _sum((1, -1)),
    "Mul": Rule(_product_relate, _product_options, data=2),
}
