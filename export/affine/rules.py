"""With s, t constant along what an operator mixes:

mean-like   f(s x + t) = s f(x) + t    Resize, AveragePool, GlobalAveragePool, ReduceMean, Pad
zero-padded f(s x)     = s f(x)        AveragePool that counts its padding, Pad by 0
maximum     f(s x + t) = s f(x) + t    if s >= 0: MaxPool, GlobalMaxPool, ReduceMax
homogeneous f(s x)     = s f(x)        if s >= 0: Relu, LeakyRelu, PRelu, Abs
sum         s x1 + t1 + s x2 + t2 = s (x1 + x2) + (t1 + t2);    product: (s1 x1) (s2 x2) = s1 s2 (x1 x2)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgedeploy.export.affine.place import Implied, Option, Place, Rule, both_ways, ones, require_one_use
from edgedeploy.export.affine.value import Affine, Array, agree, rank_of, sum_of
from edgedeploy.graphs.surgeon import Skip, Tensor, has, value_of

Check = Callable[[Place, Affine], Affine]


def alike(at: Place, value: Affine) -> Affine:
    """The same on both sides; raises Skip if it varies along an axis that the operator mixes."""
    for axis in _mixed(at):
        if axis < value.rank and value.varies(axis):
            raise Skip(f"mixes axis {axis}, along which the values differ")
    return value


def without_shift(at: Place, value: Affine) -> Affine:
    """As `alike`, for a shift that is 0."""
    if value.shift is not None and np.any(value.shift):
        raise Skip("does not pass a shift")
    return alike(at, value.with_shift(np.zeros_like(ones(value.rank))))


def rising(at: Place, value: Affine) -> Affine:
    """As `alike`, for scales that are not negative."""
    if np.any(value.scale < 0):
        raise Skip("does not pass a negative scale")
    return alike(at, value)


def homogeneous(at: Place, value: Affine) -> Affine:
    """Both: no shift, no negative scale."""
    return without_shift(at, rising(at, value))


def average(at: Place, value: Affine) -> Affine:
    """An AveragePool whose padding counts as zeros passes scales only."""
    pads = at.node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(
        at.node.attrs.get("pads", ())
    )
    counted = at.node.attrs.get("count_include_pad", 0) and (pads or at.node.attrs.get("ceil_mode", 0))
    return without_shift(at, value) if counted else alike(at, value)


def padded(at: Place, value: Affine) -> Affine:
    """reflect, edge and wrap repeat values of x; zeros stay zeros under a scale."""
    if at.node.attrs.get("mode", "constant") != "constant":
        return alike(at, value)
    filler = (
        value_of(at.node.inputs[2], "the padding value") if has(at.node, 2) else at.node.attrs.get("value", 0)
    )
    if np.any(filler):
        raise Skip("pads with a value other than 0")
    return without_shift(at, value)


def resized(at: Place, value: Affine) -> Affine:
    """The weights of every mode sum to 1, but beyond the image tf_crop_and_resize puts a constant."""
    if at.node.attrs.get("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise Skip("puts a constant beyond the image (tf_crop_and_resize)")
    return alike(at, value)


def symmetric(check: Check) -> Rule:
    """The rule of an operator that gives its output the values of its input."""
    return both_ways(check, check)


def maximum(at: Place, value: Affine) -> Affine:
    """As `rising`, without the places of the maxima."""
    if len(at.node.outputs) > 1 and not at.node.outputs[1].is_empty():
        raise Skip("also gives indices")
    return rising(at, value)


def reduced(check: Check) -> Rule:
    """The rule of a reduction, which may drop the axes that it reduces."""

    def push(at: Place, value: Affine) -> Affine:
        value = check(at, value)
        axes = tuple(_mixed(at))
        return value if at.node.attrs.get("keepdims", 1) else value.map(lambda array: array.squeeze(axes))

    def pull(at: Place, value: Affine) -> Affine:
        axes = tuple(_mixed(at))
        if not at.node.attrs.get("keepdims", 1):
            value = value.map(lambda array: np.expand_dims(array, axes))
        return check(at, value)

    return both_ways(push, pull)


def _sum(signs: tuple[int, int]) -> Rule:
    def relate(at: Place) -> Implied:
        tensors = [at.x, at.node.inputs[1], at.y]
        require_one_use(at.node)
        if len({len(rank_of(tensor)) for tensor in tensors}) > 1:
            raise Skip("adds tensors of different ranks")
        values = [at.get(tensor) for tensor in tensors]
        scale = next(value.scale for value in values if value is not None)
        shifts = [None if value is None else value.shift for value in values]
        left, right, total = shifts
        for place, (tensor, value) in enumerate(zip(tensors, values, strict=True)):
            if value is not None and not agree(value.scale, scale):
                raise Skip("adds tensors of different scales")
            shift = None
            if place == 2 and left is not None and right is not None:
                shift = sum_of(signs[0] * left, signs[1] * right)
            if place == 0 and total is not None and right is not None:
                shift = sum_of(signs[0] * total, -signs[0] * signs[1] * right)
            if place == 1 and total is not None and left is not None:
                shift = sum_of(signs[1] * total, -signs[0] * signs[1] * left)
            yield tensor, Affine.of(scale, shift)

    def options(at: Place) -> list[Option]:
        open_ends = [t for t in (*at.node.inputs, at.y) if (v := at.get(t)) is not None and v.shift is None]
        if len(open_ends) != 2:
            return []
        # Of the two that share what is left, one takes it all.
        return [Option(((tensor, _unshifted(at, tensor)),)) for tensor in open_ends]

    return Rule(relate, options, data=2)


def _unshifted(at: Place, tensor: Tensor) -> Affine:
    value = at.get(tensor)
    assert value is not None  # noqa: S101  asked only of tensors that are known
    return value.with_shift(np.zeros_like(ones(value.rank)))


def _product_relate(at: Place) -> Implied:
    tensors = [at.x, at.node.inputs[1], at.y]
    require_one_use(at.node)
    if len({len(rank_of(tensor)) for tensor in tensors}) > 1:
        raise Skip("multiplies tensors of different ranks")
    for tensor in tensors:
        value = at.get(tensor)
        if value is not None:
            yield tensor, without_shift(at, value)
    left, right, product = (at.get(tensor) for tensor in tensors)
    zero = np.zeros_like(ones(len(rank_of(at.y))))
    if left is not None and right is not None:
        yield at.y, Affine.of(left.scale * right.scale, zero)
    for one, tensor in ((left, tensors[1]), (right, tensors[0])):
        if product is not None and one is not None:
            yield tensor, Affine.of(_divided(product.scale, one.scale), zero)


def _divided(product: Array, one: Array) -> Array:
    if not np.all(one):
        raise Skip("multiplies by a scale of 0")
    return product / one


def _product_options(at: Place) -> list[Option]:
    """Two of the three are open: one of them stays as it is."""
    free = [tensor for tensor in (at.x, at.node.inputs[1], at.y) if at.get(tensor) is None]
    if len(free) != 2:
        return []
    return [Option(((tensor, Affine.identity(len(rank_of(tensor)))),)) for tensor in free]


def _mixed(at: Place) -> list[int]:
    """The axes along which an operator brings places together."""
    node, rank = at.node, len(rank_of(at.x))
    if node.op in ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"):
        return list(range(2, rank))
    if node.op in ("ReduceMean", "ReduceMax"):
        axes = value_of(node.inputs[1], "the axes") if has(node, 1) else node.attrs.get("axes", ())
        if not len(axes) and node.attrs.get("noop_with_empty_axes", 0):
            return []
        return [int(axis) % rank for axis in axes] or list(range(rank))
    if node.op == "Pad":
        return _padded_axes(at, rank)
    if node.op in ("Resize", "Upsample"):
        return _resized_axes(at, rank)
    return []


def _padded_axes(at: Place, rank: int) -> list[int]:
    node = at.node
    pads = np.asarray(value_of(node.inputs[1], "the padding") if has(node, 1) else node.attrs.get("pads", ()))
    axes = (
        [int(a) % rank for a in value_of(node.inputs[3], "the axes")] if has(node, 3) else list(range(rank))
    )
    return [axis for place, axis in enumerate(axes) if pads[place] or pads[place + len(axes)]]


def _resized_axes(at: Place, rank: int) -> list[int]:
    node = at.node
    place = 1 if node.op == "Upsample" or at.opset < 11 else 2
    axes = [int(axis) % rank for axis in node.attrs.get("axes", range(rank))]
    if has(node, place) and len(values := value_of(node.inputs[place], "the factors")):
        return [axis for axis, factor in zip(axes, values, strict=True) if factor != 1]
    before, after = rank_of(at.x), rank_of(at.y)
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
