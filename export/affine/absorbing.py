"""Operators that take a scale and a shift into their constants: products with weights, norms, arithmetic.

With old = p*new + q before an operator and new = a*old + b behind it:

    Conv, Gemm      W' = a W p      c' = a (c + W q) + b      zero padding and ConvTranspose: q = 0
    MatMul          W' = a W p      the shift behind it is W q, because it has no bias
    BatchNormalization, y = s x + t            s' = a s p    t' = a (t + s q) + b
    x * k, x / k    k' = a k p      the shift behind it is k q
    x + k, x - k    a = 1/p         k' = a (k + q) + b
    LayerNormalization and its kin, behind     scale' = a scale    shift' = a shift + b
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.affine.reader import batchnorm, batchnorm_parameters, constant_operand
from edgedeploy.export.affine.rule import Context, Edit, Implied, Option, Rule, ones
from edgedeploy.export.affine.value import NORMS, Affine, Array, aligned, known_shape, sum_of
from edgedeploy.export.affine.weights import (
    bias,
    channels_of,
    is_padded,
    scale_inputs,
    scale_outputs,
    weights,
)
from edgedeploy.graphs.surgeon import Node, Skip, Tensor, float_of, has


def _weighted_relate(ctx: Context) -> Implied:
    before, after = ctx.get(ctx.x), ctx.get(ctx.y)
    if before is not None:
        before = _readable(ctx, before)
        yield ctx.x, before
    if after is not None:
        _per_output(ctx, after)
    if before is None or before.shift is None or after is None or not _lacks_bias(ctx):
        return
    moved = _moved_shift(ctx, before)
    if np.any(moved):
        yield ctx.y, ctx.old(Affine.of(ctx.old(after.with_shift(None)).scale, moved))
    else:
        yield ctx.y, after.unshifted()


def _readable(ctx: Context, before: Affine) -> Affine:
    """The value that the operator can read in place of its input; raises Skip if it can read none."""
    node = ctx.node
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        raise Skip("reads its input transposed")
    if node.op == "ConvTranspose" or is_padded(node):
        if before.shift is not None and np.any(before.shift):
            raise Skip("pads with zeros, which the shift would not reach")
        before = before.unshifted()
    _per_input(ctx, before)
    return before


def _weighted_options(ctx: Context) -> list[Option]:
    before, after = ctx.get(ctx.x), ctx.get(ctx.y)
    if not _lacks_bias(ctx):
        return []
    if after is None and before is not None and before.shift is not None and np.any(before.shift):
        moved = Affine.of(ones(len(known_shape(ctx.y))), _moved_shift(ctx, before))
        return [Option(((ctx.y, ctx.old(moved)),)), Option(bias=True)]
    if before is None and after is not None and after.shift is not None and np.any(after.shift):
        return [Option(bias=True)]
    return []


def _weighted_edit(ctx: Context) -> list[Edit]:
    node, before, after = ctx.node, ctx.get(ctx.x), ctx.get(ctx.y)
    w, c = weights(node), bias(node)
    if before is not None:
        w, shift = scale_inputs(node, w, *_per_input(ctx, ctx.old(before)))
        c = c + shift
    if after is not None:
        a, b = _per_output(ctx, ctx.new(after))
        w, c = scale_outputs(node, w, a), sum_of(c * a, b)
    if id(node) in ctx.biased:
        return [Edit(node, {1: w}, bias=c)]
    if node.op == "MatMul" and len(known_shape(ctx.x)) != 2:
        return [Edit(node, {1: w})]  # the tensors behind it hold the shift c
    values = {1: w, 2: c} if np.any(c) or has(node, 2) else {1: w}
    if node.op == "Gemm":
        return [Edit(node, values, attrs={"alpha": 1.0, "beta": 1.0})]
    return [Edit(node, values, op="Gemm" if node.op == "MatMul" and 2 in values else None)]


def _lacks_bias(ctx: Context) -> bool:
    """Whether a shift finds no room: in a MatMul that cannot become a Gemm and gets no Add."""
    node = ctx.node
    return bool(node.op == "MatMul" and len(known_shape(ctx.x)) != 2 and id(node) not in ctx.biased)


def _moved_shift(ctx: Context, before: Affine) -> Array:
    """W q of a MatMul, of the rank of its output."""
    _, q = _per_input(ctx, ctx.old(before))
    return aligned(q @ weights(ctx.node), len(known_shape(ctx.y)))


def _per_input(ctx: Context, value: Affine) -> tuple[Array, Array]:
    return value.along(_channel_axis(ctx.node), channels_of(ctx.node)[0])


def _per_output(ctx: Context, value: Affine) -> tuple[Array, Array]:
    return value.along(_channel_axis(ctx.node), channels_of(ctx.node)[1])


def _channel_axis(node: Node) -> int:
    return -1 if node.op in ("MatMul", "Gemm") else 1


def _batchnorm_relate(ctx: Context) -> Implied:
    for tensor in (ctx.x, ctx.y):
        value = ctx.get(tensor)
        if value is not None:
            value.along(1, len(batchnorm(ctx.node)[0]))
    return ()


def _batchnorm_edit(ctx: Context) -> list[Edit]:
    node, before, after = ctx.node, ctx.get(ctx.x), ctx.get(ctx.y)
    s, t = batchnorm(node)
    if before is not None:
        p, q = ctx.old(before).along(1, len(s))
        s, t = s * p, sum_of(t, s * q)
    if after is not None:
        a, b = ctx.new(after).along(1, len(s))
        s, t = a * s, sum_of(a * t, b)
    gamma, beta = batchnorm_parameters(node, s, t)
    return [Edit(node, {1: gamma, 2: beta})]


def _norm_relate(ctx: Context) -> Implied:
    before, after = ctx.get(ctx.x), ctx.get(ctx.y)
    if before is not None:
        yield from _untouched(ctx.x, before)
    if after is not None:
        if after.shift is None and ctx.node.op == "RMSNormalization":
            yield ctx.y, after.unshifted()
        _like_norm(ctx, after)


def _norm_edit(ctx: Context) -> list[Edit]:
    node, after = ctx.node, ctx.get(ctx.y)
    if after is None:
        return []
    a, b = _like_norm(ctx, ctx.new(after))
    scale, shift = norm_parameters(node)
    values = {1: scale * a, 2: sum_of(shift * a, b)}
    return [Edit(node, values if has(node, 2) or np.any(values[2]) else {1: values[1]})]


def norm_parameters(node: Node) -> tuple[Array, Array]:
    """(scale, shift) of a norm of its input, in the shape of its scale; a missing shift is 0."""
    scale = float_of(node.inputs[1], f"the scale of '{node.name}'")
    shift = float_of(node.inputs[2], f"the shift of '{node.name}'") if has(node, 2) else np.zeros(scale.shape)
    return scale, shift


def _like_norm(ctx: Context, value: Affine) -> tuple[Array, Array]:
    """(a, b) in the shape of the norm's scale: over the trailing axes, or one value per channel (axis 1)."""
    node, scale = ctx.node, norm_parameters(ctx.node)[0]
    if sum(not output.is_empty() for output in node.outputs) > 1:
        raise Skip("also gives its statistics")
    if node.op == "GroupNormalization" and ctx.opset < 21:
        raise Skip("before opset 21 its scale is one value per group")
    if node.op in ("InstanceNormalization", "GroupNormalization"):
        return value.along(1, scale.size)
    leading = value.rank - scale.ndim
    shift = np.zeros_like(value.scale) if value.shift is None else value.shift
    if node.op == "RMSNormalization" and np.any(shift):
        raise Skip("has no shift")
    for array in (value.scale, shift):
        sizes = zip(array.shape, (1,) * leading + scale.shape, strict=True)
        if any(n not in (1, own) for n, own in sizes):
            raise Skip(f"has a scale of shape {list(scale.shape)}, with no room for {list(array.shape)}")
    own = [
        np.broadcast_to(array.reshape(array.shape[leading:]), scale.shape) for array in (value.scale, shift)
    ]
    return own[0], own[1]


def _untouched(tensor: Tensor, value: Affine) -> Implied:
    """Only the identity passes here."""
    if not value.is_unscaled or (value.shift is not None and np.any(value.shift)):
        raise Skip("does not commute with a scale and a shift")
    yield tensor, Affine.identity(value.rank)


def _opaque_relate(ctx: Context) -> Implied:
    for tensor in (*ctx.node.inputs, *ctx.node.outputs):
        value = ctx.get(tensor)
        if value is not None:
            yield from _untouched(tensor, value)


def _operand(node: Node) -> tuple[int, Tensor, Array]:
    """(index of the constant, the other operand, the constant in its rank); raises Skip if it widens that."""
    index, values = constant_operand(node)
    x = node.inputs[1 - index]
    values = aligned(values, len(known_shape(x)))
    if any(n not in (1, dim) for n, dim in zip(values.shape, known_shape(x), strict=True)):
        raise Skip("has a constant that widens the tensor")
    return index, x, values


def _factor_relate(ctx: Context) -> Implied:
    index, x, k = _operand(ctx.node)
    if ctx.node.op == "Div":
        if index == 0:
            raise Skip("divides by the tensor")
        if not np.all(k):
            raise Skip("divides by 0")
        k = 1 / k
    before, after = ctx.get(x), ctx.get(ctx.y)
    if before is not None and before.shift is not None and (after is not None or np.any(before.shift)):
        scale = ones(before.rank) if after is None else ctx.old(after.with_shift(None)).scale
        yield ctx.y, ctx.old(Affine.of(scale, k * ctx.old(before).b))
    if after is not None and after.shift is not None and (before is not None or np.any(after.shift)):
        if not np.all(k):
            raise Skip("multiplies by 0")
        scale = ones(after.rank) if before is None else ctx.old(before.with_shift(None)).scale
        yield x, ctx.old(Affine.of(scale, ctx.old(after).b / k))


def _factor_edit(ctx: Context) -> list[Edit]:
    index, x, k = _operand(ctx.node)
    before, after = ctx.get(x), ctx.get(ctx.y)
    p = ctx.old(before).scale if before is not None else ones(k.ndim)
    a = ctx.new(after).scale if after is not None else ones(k.ndim)
    if ctx.node.op == "Div" and not np.all(p * a):
        raise Skip("would divide by 0")
    return [Edit(ctx.node, {index: k / (p * a) if ctx.node.op == "Div" else k * p * a})]


def _term_relate(ctx: Context) -> Implied:
    """The scale goes on, the constant takes every shift."""
    _, x, _ = _operand(ctx.node)
    before, after = ctx.get(x), ctx.get(ctx.y)
    for value, other in ((before, ctx.y), (after, x)):
        if value is not None and (not value.is_unscaled or ctx.get(other) is not None):
            yield other, Affine.of(value.scale, None)


def _term_edit(ctx: Context) -> list[Edit]:
    index, x, k = _operand(ctx.node)
    before, after = ctx.get(x), ctx.get(ctx.y)
    value = before if before is not None else after
    assert value is not None  # noqa: S101  edited only beside a change
    sign = -1.0 if ctx.node.op == "Sub" and index == 0 else 1.0
    k = -k if ctx.node.op == "Sub" and index == 1 else k
    # y = sign x + k, and the same scale on both sides: new_y = sign new_x + k'
    zero = np.zeros((1,) * value.rank)
    new_x = ctx.new(before).b if before is not None else zero
    new_y = ctx.new(after).b if after is not None else zero
    changed = sum_of(ctx.new(value).scale * k, new_y, -sign * new_x)
    return [Edit(ctx.node, {index: -changed if ctx.node.op == "Sub" and index == 1 else changed})]


WEIGHTS = Rule(_weighted_relate, _weighted_options, _weighted_edit)
FACTOR = Rule(_factor_relate, edit=_factor_edit, data=2)
TERM = Rule(_term_relate, edit=_term_edit, data=2)
OPAQUE = Rule(_opaque_relate, data=0)  # any operator that has no other rule
ABSORBING: dict[str, Rule] = {
    "BatchNormalization": Rule(_batchnorm_relate, edit=_batchnorm_edit),
    **dict.fromkeys(NORMS, Rule(_norm_relate, edit=_norm_edit)),
}
