"""What takes a scale and a shift into its constants: weighted operators, norms, arithmetic with constants.

With old = p*new + q before an operator and new = a*old + b behind it:

    Conv, Gemm      W' = a W p      c' = a (c + W q) + b      zero padding and ConvTranspose: q = 0
    MatMul          W' = a W p      the shift behind it is W q, for no bias is there to take it
    BatchNormalization, y = s x + t            s' = a s p    t' = a (t + s q) + b
    x * k, x / k    k' = a k p      the shift behind it is k q
    x + k, x - k    a = 1/p         k' = a (k + q) + b
    LayerNormalization and its kin, behind     scale' = a scale    shift' = a shift + b
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgedeploy.export.affine.fold import (
    EPSILON,
    bias,
    input_channels,
    is_padded,
    of_batchnorm,
    output_channels,
    scale_inputs,
    scale_outputs,
    weights,
)
from edgedeploy.export.affine.place import Edit, Implied, Option, Place, Rule, ones
from edgedeploy.export.affine.value import Affine, Array, aligned, rank_of, sum_of
from edgedeploy.graphs.surgeon import Node, Skip, Tensor, float_of, has, is_constant


def weighted() -> Rule:
    """Conv, ConvTranspose, Gemm, MatMul by a constant matrix."""
    return Rule(_weighted_relate, _weighted_options, _weighted_edit)


def _weighted_relate(at: Place) -> Implied:
    node, before, after = at.node, at.get(at.x), at.get(at.y)
    if before is not None:
        before = _readable(at, before)
        yield at.x, before
    if after is not None:
        after.along(*_channel_axis(node, at.y, output_channels_of))
    if before is None or before.shift is None or after is None or not _lacks_bias(at):
        return
    # The shift of the input comes out, times the matrix.
    moved = _moved(at, before)
    if np.any(moved):
        yield at.y, at.from_old(Affine.of(at.old(after.with_shift(None)).scale, moved))
    else:
        yield at.y, after.with_shift(np.zeros_like(ones(after.rank)))


def _readable(at: Place, before: Affine) -> Affine:
    """What the operator can read in place of its input; raises Skip if it cannot."""
    node = at.node
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        raise Skip("reads its input transposed")
    if node.op == "ConvTranspose" or is_padded(node):
        if before.shift is not None and np.any(before.shift):
            raise Skip("pads with zeros, which a shift would not reach")
        before = before.with_shift(np.zeros_like(ones(before.rank)))
    before.along(*_channel_axis(node, at.x, input_channels_of))
    return before


def _weighted_options(at: Place) -> list[Option]:
    before, after = at.get(at.x), at.get(at.y)
    if not _lacks_bias(at):
        return []
    if after is None and before is not None and before.shift is not None and np.any(before.shift):
        moved = Affine.of(ones(len(rank_of(at.y))), _moved(at, before))
        return [Option(((at.y, at.from_old(moved)),)), Option(bias=True)]
    if before is None and after is not None and after.shift is not None and np.any(after.shift):
        return [Option(bias=True)]
    return []


def _weighted_edit(at: Place) -> list[Edit]:
    node, before, after = at.node, at.get(at.x), at.get(at.y)
    w, c = weights(node), bias(node, output_channels_of(node))
    if before is not None:
        p, q = at.old(before).along(*_channel_axis(node, at.x, input_channels_of))
        w, shift = scale_inputs(node, w, p, q)
        c = c + shift
    if after is not None:
        a, b = at.new(after).along(*_channel_axis(node, at.y, output_channels_of))
        w, c = scale_outputs(node, w, a), sum_of(c * a, b)
    if id(node) in at.biased:
        return [Edit(node, {1: w}, bias=c)]
    if node.op == "MatMul" and len(rank_of(at.x)) != 2:
        return [Edit(node, {1: w})]  # what c holds stays in the tensors behind
    values = {1: w, 2: c} if np.any(c) or has(node, 2) else {1: w}
    if node.op == "Gemm":
        return [Edit(node, values, attrs={"alpha": 1.0, "beta": 1.0})]
    return [Edit(node, values, op="Gemm" if node.op == "MatMul" and 2 in values else None)]


def _lacks_bias(at: Place) -> bool:
    """Whether a shift finds no room: in a MatMul that cannot become a Gemm and gets no Add."""
    return bool(at.node.op == "MatMul" and len(rank_of(at.x)) != 2 and id(at.node) not in at.biased)


def _moved(at: Place, before: Affine) -> Array:
    """W q of a MatMul, of the rank of its output."""
    rank = len(rank_of(at.y))
    _, q = at.old(before).along(*_channel_axis(at.node, at.x, input_channels_of))
    return aligned(q @ weights(at.node), rank)


def input_channels_of(node: Node) -> int:
    """As `affine.input_channels`, for a MatMul of any rank."""
    return int(weights(node).shape[0]) if node.op == "MatMul" else input_channels(node)[1]


def output_channels_of(node: Node) -> int:
    """As `affine.output_channels`, for a MatMul of any rank."""
    return int(weights(node).shape[1]) if node.op == "MatMul" else output_channels(node)[1]


def _channel_axis(node: Node, tensor: Tensor, channels: Callable[[Node], int]) -> tuple[int, int]:
    axis = -1 if node.op in ("MatMul", "Gemm") else 1
    return axis % len(rank_of(tensor)), channels(node)


def normalization(of: Callable[[Node], tuple[Array, Array]]) -> Rule:
    """BatchNormalization, whose (s, t) `of` gives: it takes everything on both sides."""

    def relate(at: Place) -> Implied:
        for tensor in (at.x, at.y):
            value = at.get(tensor)
            if value is not None:
                value.along(1, len(of(at.node)[0]))
        return ()

    def edit(at: Place) -> list[Edit]:
        node, before, after = at.node, at.get(at.x), at.get(at.y)
        s, t = of(node)
        if before is not None:
            p, q = at.old(before).along(1, len(s))
            s, t = s * p, sum_of(t, s * q)
        if after is not None:
            a, b = at.new(after).along(1, len(s))
            s, t = a * s, sum_of(a * t, b)
        scale, shift = norm_parameters(node, s, t)
        return [Edit(node, {1: scale, 2: shift})]

    return Rule(relate, edit=edit)


def output_norm() -> Rule:
    """LayerNormalization and its kin: their scale and shift take what comes behind; nothing passes."""

    def relate(at: Place) -> Implied:
        before, after = at.get(at.x), at.get(at.y)
        if before is not None:
            yield from _untouched(at.x, before)
        if after is not None and len(at.node.outputs) > 1:
            raise Skip("also gives its statistics")
        if after is not None:
            after.along(*_norm_axis(at))

    def edit(at: Place) -> list[Edit]:
        after = at.get(at.y)
        if after is None:
            return []
        a, b = at.new(after).along(*_norm_axis(at))
        scale = float_of(at.node.inputs[1], "the scale")
        shift = float_of(at.node.inputs[2], "the shift") if has(at.node, 2) else np.zeros_like(scale)
        return [Edit(at.node, {1: scale * a, 2: sum_of(shift * a, b)})]

    return Rule(relate, edit=edit)


def _norm_axis(at: Place) -> tuple[int, int]:
    scale, rank = float_of(at.node.inputs[1], "the scale"), len(rank_of(at.y))
    if scale.ndim != 1:
        raise Skip("normalizes several axes at once")
    return (1 if at.node.op == "InstanceNormalization" else rank - 1), scale.size


def _untouched(tensor: Tensor, value: Affine) -> Implied:
    """Only no change at all passes here."""
    if not value.is_unscaled or (value.shift is not None and np.any(value.shift)):
        raise Skip("does not commute with a scale and a shift")
    yield tensor, Affine.identity(value.rank)


def opaque() -> Rule:
    """Any other operator."""

    def relate(at: Place) -> Implied:
        for tensor in (*at.node.inputs, *at.node.outputs):
            value = at.get(tensor)
            if value is not None:
                yield from _untouched(tensor, value)

    return Rule(relate, data=0)


def operand(node: Node) -> tuple[int, Tensor, Array]:
    """(place of the constant, the other operand, the constant); raises Skip if there is not just one."""
    places = [place for place in (0, 1) if is_constant(node.inputs[place])]
    if len(places) != 1:
        raise Skip("has not one constant")
    x = node.inputs[1 - places[0]]
    values = aligned(float_of(node.inputs[places[0]], "the operand"), len(rank_of(x)))
    if any(n not in (1, dim) for n, dim in zip(values.shape, rank_of(x), strict=True)):
        raise Skip("has a constant that widens the tensor")
    return places[0], x, values


def factor() -> Rule:
    """x * k, x / k."""

    def relate(at: Place) -> Implied:
        place, x, k = operand(at.node)
        if at.node.op == "Div":
            if place == 0:
                raise Skip("divides by the tensor")
            if not np.all(k):
                raise Skip("divides by 0")
            k = 1 / k
        before, after = at.get(x), at.get(at.y)
        if before is not None and before.shift is not None and (after is not None or np.any(before.shift)):
            scale = ones(before.rank) if after is None else at.old(after.with_shift(None)).scale
            yield at.y, at.from_old(Affine.of(scale, k * _old_shift(at, before)))
        if after is not None and after.shift is not None and (before is not None or np.any(after.shift)):
            if not np.all(k):
                raise Skip("multiplies by 0")
            scale = ones(after.rank) if before is None else at.old(before.with_shift(None)).scale
            yield x, at.from_old(Affine.of(scale, _old_shift(at, after) / k))

    def edit(at: Place) -> list[Edit]:
        place, x, k = operand(at.node)
        before, after = at.get(x), at.get(at.y)
        p = at.old(before).scale if before is not None else ones(k.ndim)
        a = at.new(after).scale if after is not None else ones(k.ndim)
        if at.node.op == "Div" and not np.all(p * a):
            raise Skip("would divide by 0")
        return [Edit(at.node, {place: k / (p * a) if at.node.op == "Div" else k * p * a})]

    return Rule(relate, edit=edit, data=2)


def _old_shift(at: Place, value: Affine) -> Array:
    shift = at.old(value).shift
    assert shift is not None  # noqa: S101  asked only where it is known
    return shift


def term() -> Rule:
    """x + k, x - k, k - x: the scale goes on, the constant takes every shift."""

    def relate(at: Place) -> Implied:
        _, x, _ = operand(at.node)
        before, after = at.get(x), at.get(at.y)
        for value, other in ((before, at.y), (after, x)):
            if value is not None and (not value.is_unscaled or at.get(other) is not None):
                yield other, Affine.of(value.scale, None)

    def edit(at: Place) -> list[Edit]:
        place, x, k = operand(at.node)
        before, after = at.get(x), at.get(at.y)
        value = before if before is not None else after
        assert value is not None  # noqa: S101  edited only beside a change
        rank = value.rank
        sign = -1.0 if at.node.op == "Sub" and place == 0 else 1.0
        k = -k if at.node.op == "Sub" and place == 1 else k
        # y = sign x + k, and the same scale on both sides: new_y = sign new_x + k'
        new_x = at.new(before).shift if before is not None else np.zeros((1,) * rank)
        new_y = at.new(after).shift if after is not None else np.zeros((1,) * rank)
        scale = at.new(value).scale
        assert new_x is not None  # noqa: S101  a search ends with every shift decided
        assert new_y is not None  # noqa: S101
        changed = sum_of(scale * k, new_y, -sign * new_x)
        return [Edit(at.node, {place: -changed if at.node.op == "Sub" and place == 1 else changed})]

    return Rule(relate, edit=edit, data=2)


def norm_parameters(node: Node, s: Array, t: Array) -> tuple[Array, Array]:
    """The scale and shift with which a BatchNormalization of the same statistics computes s*x + t."""
    mean, variance = (float_of(node.inputs[place], "a statistic") for place in (3, 4))
    return s * np.sqrt(variance + float(node.attrs.get("epsilon", EPSILON))), t + s * mean


def affine_of(node: Node) -> tuple[int, Affine]:
    """(place of x, s and t with y = s*x + t) of a norm or of arithmetic with a constant; raises Skip."""
    if node.op == "BatchNormalization":
        s, t = of_batchnorm(node)
        shape = [-1 if axis == 1 else 1 for axis in range(len(rank_of(node.inputs[0])))]
        return 0, Affine.of(s.reshape(shape), t.reshape(shape))
    place, _, k = operand(node)
    none = np.zeros((1,) * k.ndim)
    if node.op in ("Mul", "Div"):
        if node.op == "Div" and (place == 0 or not np.all(k)):
            raise Skip("divides by the tensor or by 0")
        return 1 - place, Affine.of(k if node.op == "Mul" else 1 / k, none)
    if node.op == "Sub" and place == 0:
        return 1, Affine.of(none - 1, k)
    return 1 - place, Affine.of(none + 1, k if node.op == "Add" else -k)
