"""Operators that only move values: scale and shift of each position move with it.

Reshape and its kin, Transpose, Slice, Gather, Split, Concat, Expand, DepthToSpace, SpaceToDepth. The size of
an axis may be unknown where scale and shift do not vary along it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.export.affine.rule import Context, Edit, Implied, Option, Rule, both_ways
from edgedeploy.export.affine.value import LARGEST, Affine, Array, agree, aligned, known_shape
from edgedeploy.graphs.surgeon import Skip, float_of, has, is_constant, value_of

Shape = tuple[Any, ...]


def _permute(ctx: Context, value: Affine) -> Affine:
    perm = ctx.node.attrs.get("perm", list(reversed(range(value.rank))))
    return value.map(lambda array: array.transpose(perm))


def _permute_back(ctx: Context, value: Affine) -> Affine:
    perm = ctx.node.attrs.get("perm", list(reversed(range(value.rank))))
    return value.map(lambda array: array.transpose(np.argsort(perm)))


def _regroup(ctx: Context, value: Affine) -> Affine:
    return value.map(lambda array: regrouped(array, known_shape(ctx.x), known_shape(ctx.y)))


def _regroup_back(ctx: Context, value: Affine) -> Affine:
    return value.map(lambda array: regrouped(array, known_shape(ctx.y), known_shape(ctx.x)))


def regrouped(array: Array, source: Shape, result: Shape) -> Array:
    """`array`, broadcast over `source`, as a Reshape to `result` leaves it; raises Skip for unknown sizes."""
    shape: list[int] = []
    start = 0
    full = list(array.shape)
    for width, sizes in _blocks(source, result):
        part = array.shape[start : start + width]
        if all(n == 1 for n in part):
            shape += [1] * len(sizes)
        elif any(not isinstance(n, int) for n in (*source[start : start + width], *sizes)):
            raise Skip("reshapes an axis of unknown size along which the values differ")
        else:
            full[start : start + width] = source[start : start + width]
            shape += sizes
        start += width
    if np.prod(full) > LARGEST:
        raise Skip("would need too many values")
    return np.broadcast_to(array, full).reshape(shape)


def _blocks(source: Shape, result: Shape) -> list[tuple[int, list[Any]]]:
    """(number of source axes, sizes of result axes) of the blocks that a Reshape maps on each other."""
    head, tail = 0, 0
    shortest = min(len(source), len(result))
    while head < shortest and _known_equal(source[head], result[head]):
        head += 1
    while tail < shortest - head and _known_equal(source[-1 - tail], result[-1 - tail]):
        tail += 1
    blocks: list[tuple[int, list[Any]]] = [(1, [size]) for size in result[:head]]
    middle, wanted = list(source[head : len(source) - tail]), list(result[head : len(result) - tail])
    if any(not isinstance(size, int) for size in (*middle, *wanted)):
        blocks.append((len(middle), wanted))
    else:
        blocks += _static_blocks(middle, wanted)
    return blocks + [(1, [size]) for size in result[len(result) - tail :]]


def _static_blocks(source: list[int], result: list[int]) -> list[tuple[int, list[Any]]]:
    blocks: list[tuple[int, list[Any]]] = []
    i = j = 0
    while i < len(source) or j < len(result):
        width, sizes = 0, []
        left = right = 1
        if i < len(source):
            left, i, width = source[i], i + 1, 1
        if j < len(result):
            right, j, sizes = result[j], j + 1, [result[j]]
        while left != right:
            if left < right:
                left, i, width = left * source[i], i + 1, width + 1
            else:
                right, sizes, j = right * result[j], [*sizes, result[j]], j + 1
        blocks.append((width, sizes))
    return blocks


def _known_equal(one: Any, other: Any) -> bool:
    return one is not None and one == other


def _expand(ctx: Context, value: Affine) -> Affine:
    return value.map(lambda array: aligned(array, len(known_shape(ctx.y))))


def _unexpand(ctx: Context, value: Affine) -> Affine:
    extra = value.rank - len(known_shape(ctx.x))
    if any(value.varies(axis) for axis in range(extra)):
        raise Skip("repeats values that would have to differ")
    return value.map(lambda array: array.reshape(array.shape[extra:]))  # more is seen by `require_fit`


def _blocked(ctx: Context, deep: bool) -> Callable[[Array], Array]:
    """Values per channel of the large image -> per channel of the deep image, or the reverse."""
    size, crd = int(ctx.node.attrs["blocksize"]), ctx.node.attrs.get("mode", "DCR") == "CRD"
    if ctx.node.op == "SpaceToDepth":
        crd = False

    def change(array: Array) -> Array:
        if any(n != 1 for n in (array.shape[0], *array.shape[2:])):
            raise Skip("mixes positions whose values differ")
        vector = array.ravel()
        if vector.size == 1:
            return array
        if deep:
            spread = np.repeat(vector, size * size) if crd else np.tile(vector, size * size)
        else:
            blocks = vector.reshape(-1, size * size).T if crd else vector.reshape(size * size, -1)
            if not all(agree(blocks[0], block) for block in blocks):
                raise Skip("brings channels together whose values differ")
            spread = blocks[0]
        return spread.reshape(1, -1, 1, 1)

    return change


def _deep(ctx: Context, value: Affine) -> Affine:
    return value.map(_blocked(ctx, deep=True))


def _shallow(ctx: Context, value: Affine) -> Affine:
    return value.map(_blocked(ctx, deep=False))


def _picked(ctx: Context) -> tuple[int, list[Callable[[Any], Any]]]:
    """(axis or -1 for several, function that takes each output's part of an array)."""
    node, rank = ctx.node, len(known_shape(ctx.x))
    if node.op == "Slice":
        return -1, [lambda array: array[_slices(ctx, rank)]]
    if node.op == "Gather":
        axis = int(node.attrs.get("axis", 0)) % rank
        indices = value_of(node.inputs[1], "the indices")
        return axis, [lambda array: np.take(array, indices, axis)]
    axis = int(node.attrs.get("axis", 0)) % rank
    sizes = [size for output in node.outputs if isinstance(size := known_shape(output)[axis], int)]
    if len(sizes) < len(node.outputs):
        raise Skip("splits into parts of unknown size")
    ends = np.cumsum([0, *sizes])
    return axis, [
        partial(np.take, indices=range(start, end), axis=axis) for start, end in pairwise(ends.tolist())
    ]


def _slices(ctx: Context, rank: int) -> tuple[slice, ...]:
    node = ctx.node
    if not has(node, 1):
        starts, ends = node.attrs["starts"], node.attrs["ends"]
        axes, steps = node.attrs.get("axes", range(len(starts))), np.ones(len(starts), int)
    else:
        starts, ends = (value_of(node.inputs[i], "a bound of the slice") for i in (1, 2))
        axes = value_of(node.inputs[3], "the axes") if has(node, 3) else range(len(starts))
        steps = value_of(node.inputs[4], "the steps") if has(node, 4) else np.ones(len(starts), int)
    chosen = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # Numpy reads a negative end as a distance from the end; ONNX says "to the very start" by a large one.
        stop = None if step < 0 and end < -(1 << 30) else int(end)
        chosen[int(axis) % rank] = slice(int(start), stop, int(step))
    return tuple(chosen)


def _take(ctx: Context, value: Affine, output: int) -> Affine:
    """The part of `value` that an output holds; all of it where nothing varies along the axis."""
    axis, takes = _picked(ctx)

    def change(array: Array) -> Array:
        if axis >= 0:
            if array.shape[axis] != 1:
                return np.asarray(takes[output](array), np.float64)
            return np.asarray(_like_gather(ctx, array, axis), np.float64)
        slices = tuple(
            s if n != 1 else slice(None) for s, n in zip(_slices(ctx, array.ndim), array.shape, strict=True)
        )
        return array[slices]

    return value.map(change)


def _like_gather(ctx: Context, array: Array, axis: int) -> Array:
    """A Gather by indices of rank r replaces one axis with r axes."""
    if ctx.node.op != "Gather":
        return array
    rank = np.ndim(value_of(ctx.node.inputs[1], "the indices"))
    return array.reshape(*array.shape[:axis], *[1] * rank, *array.shape[axis + 1 :])


def _part_relate(ctx: Context) -> Implied:
    value = ctx.get(ctx.x)
    if value is not None:
        for number, output in enumerate(ctx.node.outputs):
            yield output, _take(ctx, value, number)


def _part_options(ctx: Context) -> list[Option]:
    """The value of the input from a part: the same everywhere, or the identity in the rest of the axis."""
    rank = len(known_shape(ctx.x))
    if ctx.get(ctx.x) is not None:
        return []
    options: list[Option] = []
    number, value = next(
        (i, v) for i, output in enumerate(ctx.node.outputs) if (v := ctx.get(output)) is not None
    )
    if value.rank == rank:
        axis, takes = _picked(ctx)
        if axis < 0 or not value.varies(axis):
            options.append(Option(((ctx.x, value),)))
        size = known_shape(ctx.x)[axis] if axis >= 0 else None
        if isinstance(size, int) and ctx.node.op == "Split":
            positions = takes[number](np.arange(size).reshape([-1 if i == axis else 1 for i in range(rank)]))
            options.append(Option(((ctx.x, _filled(value, axis, size, positions.ravel().astype(int))),)))
    if not options:
        raise Skip("takes a part of an axis along which the values differ")
    return options


def _filled(value: Affine, axis: int, size: int, positions: NDArray[np.int64]) -> Affine:
    """`value` at some positions of an axis of `size`; elsewhere the identity."""

    def fill(array: Array, rest: float) -> Array:
        full = np.full([*array.shape[:axis], size, *array.shape[axis + 1 :]], rest)
        full[(slice(None),) * axis + (positions,)] = array
        return full

    return Affine.of(fill(value.scale, 1.0), None if value.shift is None else fill(value.shift, 0.0))


def _join(ctx: Context, values: Sequence[Affine]) -> Affine:
    axis = int(ctx.node.attrs["axis"]) % values[0].rank
    if all(agree(value.scale, values[0].scale) for value in values) and not any(
        v.varies(axis) for v in values
    ):
        shifts = [value.shift for value in values if value.shift is not None]
        if len(shifts) == len(values) and all(agree(shift, shifts[0]) for shift in shifts):
            return values[0]
    sizes = [size for tensor in ctx.node.inputs if isinstance(size := known_shape(tensor)[axis], int)]
    if len(sizes) < len(ctx.node.inputs):
        raise Skip("joins parts of unknown size")

    shifts = [value.shift for value in values if value.shift is not None]
    shift = _concatenated(shifts, sizes, axis) if len(shifts) == len(values) else None
    return Affine.of(_concatenated([value.scale for value in values], sizes, axis), shift)


def _concatenated(arrays: Sequence[Array], sizes: Sequence[int], axis: int) -> Array:
    """The arrays along an axis, each broadcast to its size there."""
    shape = np.broadcast_shapes(*[(*a.shape[:axis], 1, *a.shape[axis + 1 :]) for a in arrays])
    full = [
        np.broadcast_to(array, (*shape[:axis], size, *shape[axis + 1 :]))
        for array, size in zip(arrays, sizes, strict=True)
    ]
    return np.concatenate(full, axis)


def _positions(array: Array, positions: range, axis: int) -> Array:
    """The values at some positions of an axis; all of them if nothing varies along it."""
    return array if array.shape[axis] == 1 else np.take(array, positions, axis)


def _parts(ctx: Context, total: Affine) -> Iterator[Affine]:
    """The values of a Concat's inputs from the value of its output; raises Skip where sizes are unknown."""
    axis, start = int(ctx.node.attrs["axis"]) % total.rank, 0
    for tensor in ctx.node.inputs:
        size = known_shape(tensor)[axis]
        if total.varies(axis) and not isinstance(size, int):
            raise Skip("joins parts of unknown size")
        positions = range(start, start + size) if isinstance(size, int) else range(0)
        yield total.map(partial(_positions, positions=positions, axis=axis))
        start += len(positions)


def _join_relate(ctx: Context) -> Implied:
    inputs, total = list(ctx.node.inputs), ctx.get(ctx.y)
    if total is not None:
        for tensor, part in zip(inputs, _parts(ctx, total), strict=True):
            if not is_constant(tensor):
                yield tensor, part
    if total is not None and total.shift is not None:
        return
    known = [ctx.get(tensor) for tensor in inputs if not is_constant(tensor)]
    values = [value for value in known if value is not None and (total is None or value.shift is not None)]
    if len(values) == len(inputs):
        yield ctx.y, _join(ctx, values)
    elif total is not None and values and not total.varies(int(ctx.node.attrs["axis"]) % total.rank):
        yield ctx.y, total.with_shift(values[0].shift)


def _join_options(ctx: Context) -> list[Option]:
    """Values of the other parts from some: all alike (constants follow), or all others unchanged."""
    if ctx.get(ctx.y) is not None:
        return []
    value = next(v for tensor in ctx.node.inputs if (v := ctx.get(tensor)) is not None)
    axis = int(ctx.node.attrs["axis"]) % value.rank
    options = [] if value.varies(axis) else [Option(((ctx.y, value),))]
    same = Affine.identity(value.rank)
    parts = [ctx.get(tensor) or same for tensor in ctx.node.inputs]
    rest = [(t, same) for t in ctx.node.inputs if ctx.get(t) is None and not is_constant(t)]
    return [*options, Option((*rest, (ctx.y, _join(ctx, parts))))]


def _join_edit(ctx: Context) -> list[Edit]:
    total = ctx.get(ctx.y)
    if total is None:
        return []
    values = {}
    for index, (tensor, part) in enumerate(zip(ctx.node.inputs, _parts(ctx, ctx.new(total)), strict=True)):
        if is_constant(tensor):
            values[index] = float_of(tensor, "an operand") * part.scale + part.b
            if values[index].shape != tensor.values.shape:
                raise Skip("joins a constant that would grow")
    return [Edit(ctx.node, values)] if values else []


_RESHAPE = both_ways(_regroup, _regroup_back)
LAYOUT: dict[str, Rule] = {
    "Transpose": both_ways(_permute, _permute_back),
    "Reshape": _RESHAPE,
    "Flatten": _RESHAPE,
    "Squeeze": _RESHAPE,
    "Unsqueeze": _RESHAPE,
    "Expand": both_ways(_expand, _unexpand),
    "DepthToSpace": both_ways(_shallow, _deep),
    "SpaceToDepth": both_ways(_deep, _shallow),
    "Slice": Rule(_part_relate, _part_options),
    "Gather": Rule(_part_relate, _part_options),
    "Split": Rule(_part_relate, _part_options),
    "Concat": Rule(_join_relate, _join_options, _join_edit, data=0),
}
