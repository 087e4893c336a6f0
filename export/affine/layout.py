"""Operators that only move values: a scale and a shift per place move with them.

Reshape and its kin, Transpose, Slice, Gather, Split, Concat, Expand, DepthToSpace, SpaceToDepth. A value that
does not vary along an axis needs nothing known of that axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from edgedeploy.export.affine.place import Edit, Implied, Option, Place, Rule, both_ways
from edgedeploy.export.affine.value import LARGEST, Affine, Array, agree, aligned, rank_of
from edgedeploy.graphs.surgeon import Skip, float_of, has, is_constant, value_of

Shape = tuple[Any, ...]


def _permute(at: Place, value: Affine) -> Affine:
    perm = at.node.attrs.get("perm", list(reversed(range(value.rank))))
    return value.map(lambda array: array.transpose(perm))


def _permute_back(at: Place, value: Affine) -> Affine:
    perm = at.node.attrs.get("perm", list(reversed(range(value.rank))))
    return value.map(lambda array: array.transpose(np.argsort(perm)))


def _regroup(at: Place, value: Affine) -> Affine:
    return value.map(lambda array: regrouped(array, rank_of(at.x), rank_of(at.y)))


def _regroup_back(at: Place, value: Affine) -> Affine:
    return value.map(lambda array: regrouped(array, rank_of(at.y), rank_of(at.x)))


def regrouped(array: Array, source: Shape, result: Shape) -> Array:
    """`array`, broadcast over `source`, as a Reshape to `result` leaves it; raises Skip for unknown sizes."""
    pieces: list[Array] = []
    shape: list[int] = []
    start = 0
    blocks = _blocks(source, result)
    full = list(array.shape)
    for width, sizes in blocks:
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
    pieces.append(np.broadcast_to(array, full))
    return pieces[0].reshape(shape)


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


def _expand(at: Place, value: Affine) -> Affine:
    return value.map(lambda array: aligned(array, len(rank_of(at.y))))


def _unexpand(at: Place, value: Affine) -> Affine:
    extra = value.rank - len(rank_of(at.x))
    if any(value.varies(axis) for axis in range(extra)):
        raise Skip("repeats values that would have to differ")
    return value.map(lambda array: array.reshape(array.shape[extra:]))  # more is seen by `require_fit`


def _blocked(at: Place, deep: bool) -> Callable[[Array], Array]:
    """(channels of the small image) -> those of the deep one, or back: values along axis 1 only."""
    size, crd = int(at.node.attrs["blocksize"]), at.node.attrs.get("mode", "DCR") == "CRD"
    if at.node.op == "SpaceToDepth":
        crd = False

    def change(array: Array) -> Array:
        if any(n != 1 for n in (array.shape[0], *array.shape[2:])):
            raise Skip("mixes places whose values differ")
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


def deepen(at: Place, value: Affine) -> Affine:
    """Channels of the small image -> of the deep."""
    return value.map(_blocked(at, deep=True))


def flatten(at: Place, value: Affine) -> Affine:
    """Channels of the deep image -> of the small."""
    return value.map(_blocked(at, deep=False))


def _picked(at: Place) -> tuple[int, list[Callable[[Any], Any]]]:
    """(axis or -1 for several, what each output takes of the array of all places)."""
    node, rank = at.node, len(rank_of(at.x))
    if node.op == "Slice":
        return -1, [lambda array: array[_slices(at, rank)]]
    if node.op == "Gather":
        axis = int(node.attrs.get("axis", 0)) % rank
        indices = value_of(node.inputs[1], "the indices")
        return axis, [lambda array: np.take(array, indices, axis)]
    axis = int(node.attrs.get("axis", 0)) % rank
    sizes = [size for output in node.outputs if isinstance(size := rank_of(output)[axis], int)]
    if len(sizes) < len(node.outputs):
        raise Skip("splits into parts of unknown size")
    ends = np.cumsum([0, *sizes])
    return axis, [
        partial(np.take, indices=range(start, end), axis=axis) for start, end in pairwise(ends.tolist())
    ]


def _slices(at: Place, rank: int) -> tuple[slice, ...]:
    node = at.node
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


def _take(at: Place, value: Affine, output: int) -> Affine:
    """What of `value` an output holds: along an axis where nothing varies, anything is the same."""
    axis, takes = _picked(at)

    def change(array: Array) -> Array:
        if axis >= 0:
            if array.shape[axis] != 1:
                return np.asarray(takes[output](array), np.float64)
            return np.asarray(_like_gather(at, array, axis), np.float64)
        slices = tuple(
            s if n != 1 else slice(None) for s, n in zip(_slices(at, array.ndim), array.shape, strict=True)
        )
        return array[slices]

    return value.map(change)


def _like_gather(at: Place, array: Array, axis: int) -> Array:
    """A Gather by indices of rank r puts r axes in the place of one."""
    if at.node.op != "Gather":
        return array
    rank = np.ndim(value_of(at.node.inputs[1], "the indices"))
    return array.reshape(*array.shape[:axis], *[1] * rank, *array.shape[axis + 1 :])


def _part_relate(at: Place) -> Implied:
    value = at.get(at.x)
    if value is not None:
        for number, output in enumerate(at.node.outputs):
            yield output, _take(at, value, number)


def _part_options(at: Place) -> list[Option]:
    """The whole from a part: the same everywhere, or nothing changed in the rest of the axis."""
    rank = len(rank_of(at.x))
    if at.get(at.x) is not None:
        return []
    options: list[Option] = []
    number, value = next(
        (i, v) for i, output in enumerate(at.node.outputs) if (v := at.get(output)) is not None
    )
    if value.rank == rank:
        axis, takes = _picked(at)
        if axis < 0 or not value.varies(axis):
            options.append(Option(((at.x, value),)))
        size = rank_of(at.x)[axis] if axis >= 0 else None
        if isinstance(size, int) and at.node.op == "Split":
            places = takes[number](np.arange(size).reshape([-1 if i == axis else 1 for i in range(rank)]))
            options.append(Option(((at.x, value.map(_Filled(axis, size, places.ravel(), value))),)))
    if not options:
        raise Skip("takes a part of an axis along which the values differ")
    return options


class _Filled:
    """An array at some places of an axis; elsewhere a scale is 1 and a shift 0."""

    def __init__(self, axis: int, size: int, places: Array, value: Affine) -> None:
        self.axis, self.size, self.places, self.scale = axis, size, places.astype(int), value.scale

    def __call__(self, array: Array) -> Array:
        shape = list(array.shape)
        shape[self.axis] = self.size
        full = np.full(shape, 1.0 if array is self.scale else 0.0)
        index = [slice(None)] * array.ndim
        index[self.axis] = self.places  # type: ignore[call-overload]
        full[tuple(index)] = array
        return full


def join_order(parts: Sequence[Array]) -> Sequence[Array]:
    """The parts of a Concat in the order in which they stand."""
    return parts


def _join(at: Place, values: Sequence[Affine]) -> Affine:
    axis = int(at.node.attrs["axis"]) % values[0].rank
    if all(agree(value.scale, values[0].scale) for value in values) and not any(
        v.varies(axis) for v in values
    ):
        shifts = [value.shift for value in values if value.shift is not None]
        if len(shifts) == len(values) and all(agree(shift, shifts[0]) for shift in shifts):
            return values[0]
    sizes = [size for tensor in at.node.inputs if isinstance(size := rank_of(tensor)[axis], int)]
    if len(sizes) < len(at.node.inputs):
        raise Skip("joins parts of unknown size")

    def joined(arrays: Sequence[Array]) -> Array:
        shape = np.broadcast_shapes(*[(*a.shape[:axis], 1, *a.shape[axis + 1 :]) for a in arrays])
        full = [
            np.broadcast_to(array, (*shape[:axis], size, *shape[axis + 1 :]))
            for array, size in zip(arrays, sizes, strict=True)
        ]
        return np.concatenate(join_order(full), axis)

    shifts = [value.shift for value in values if value.shift is not None]
    return Affine.of(
        joined([v.scale for v in values]), joined(shifts) if len(shifts) == len(values) else None
    )


def _among(array: Array, places: range, axis: int) -> Array:
    """What stands at some places of an axis; the same everywhere if nothing varies along it."""
    return array if array.shape[axis] == 1 else np.take(array, places, axis)


def _join_relate(at: Place) -> Implied:
    inputs, total = list(at.node.inputs), at.get(at.y)
    if total is not None:
        axis = int(at.node.attrs["axis"]) % total.rank
        start = 0
        for tensor in inputs:
            size = rank_of(tensor)[axis]
            if total.varies(axis) and not isinstance(size, int):
                raise Skip("joins parts of unknown size")
            places = range(start, start + size) if isinstance(size, int) else range(0)
            part = total.map(partial(_among, places=places, axis=axis))
            start += len(places)
            if not is_constant(tensor):
                yield tensor, part
    if total is not None and total.shift is not None:
        return
    known = [at.get(tensor) for tensor in inputs if not is_constant(tensor)]
    values = [value for value in known if value is not None and (total is None or value.shift is not None)]
    if len(values) == len(inputs):
        yield at.y, _join(at, values)
    elif total is not None and values and not total.varies(int(at.node.attrs["axis"]) % total.rank):
        yield at.y, total.with_shift(values[0].shift)


def _join_options(at: Place) -> list[Option]:
    """From some parts: all the others alike (constants follow), or all the others unchanged."""
    if at.get(at.y) is not None:
        return []
    value = next(v for tensor in at.node.inputs if (v := at.get(tensor)) is not None)
    axis = int(at.node.attrs["axis"]) % value.rank
    options = [] if value.varies(axis) else [Option(((at.y, value),))]
    same = Affine.identity(value.rank)
    parts = [at.get(tensor) or same for tensor in at.node.inputs]
    rest = [(t, same) for t in at.node.inputs if at.get(t) is None and not is_constant(t)]
    return [*options, Option((*rest, (at.y, _join(at, parts))))]


def _join_edit(at: Place) -> list[Edit]:
    total = at.get(at.y)
    values = {}
    start = 0
    for place, tensor in enumerate(at.node.inputs):
        size = rank_of(tensor)[int(at.node.attrs["axis"])]
        if is_constant(tensor) and total is not None:
            new = at.new(total)
            axis = int(at.node.attrs["axis"]) % new.rank
            places = range(start, start + size) if isinstance(size, int) else range(0)
            part = new.map(partial(_among, places=places, axis=axis))
            assert part.shift is not None  # noqa: S101  a search ends with every shift decided
            changed = float_of(tensor, "an operand") * part.scale + part.shift
            if changed.shape != tensor.values.shape:
                raise Skip("joins a constant that would grow")
            values[place] = changed
        start += size if isinstance(size, int) else 0
    return [Edit(at.node, values)] if values else []


_RESHAPE = both_ways(_regroup, _regroup_back)
LAYOUT: dict[str, Rule] = {
    "Transpose": both_ways(_permute, _permute_back),
    "Reshape": _RESHAPE,
    "Flatten": _RESHAPE,
    "Squeeze": _RESHAPE,
    "Unsqueeze": _RESHAPE,
    "Expand": both_ways(_expand, _unexpand),
    "DepthToSpace": both_ways(lambda at, v: flatten(at, v), lambda at, v: deepen(at, v)),
    "SpaceToDepth": both_ways(lambda at, v: deepen(at, v), lambda at, v: flatten(at, v)),
    "Slice": Rule(_part_relate, _part_options),
    "Gather": Rule(_part_relate, _part_options),
    "Split": Rule(_part_relate, _part_options),
    "Concat": Rule(_join_relate, _join_options, _join_edit, data=0),
}
