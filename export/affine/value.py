"""y = scale * x + shift: the one type of every scale and shift by constants.

Scale and shift are float64 arrays that broadcast against the tensor. The search (search.py) uses arrays of
the tensor's rank whose dimensions are 1 or the tensor's own: values per channel of any layout, per head, or
per position of a flattened map then have one form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgedeploy.graphs.surgeon import Skip, Tensor, is_constant, numpy_dtype, producer

if TYPE_CHECKING:
    from onnx_graphsurgeon.ir.tensor import DType

Array: TypeAlias = NDArray[np.float64]
LARGEST = 1 << 20  # values of a scale; a flattened map has one per position
SMALLEST_SCALE = 1e-3  # of the largest: division by 1e-3 multiplies the rounding error by a thousand
LARGEST_SHIFT = 1e3  # in units of the tensor: subtracting a larger shift loses as many digits
ROUNDING = 1e-12  # of the terms: a smaller difference in float64 is rounding
NORMS = ("LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization")


@dataclass(frozen=True, eq=False)
class Affine:
    """A scale and a shift; `shift` None means that the search has not decided it yet."""

    scale: Array
    shift: Array | None

    @staticmethod
    def of(scale: Array, shift: Array | None) -> Affine:
        """Compact form: axes along which nothing varies have size 1, and a scale of almost 1 is 1."""
        close = np.abs(scale - 1) <= ROUNDING
        scale = np.where(close, 1.0, scale)
        return Affine(_compact(scale), None if shift is None else _compact(shift))

    @staticmethod
    def identity(rank: int) -> Affine:
        """scale = 1, shift = 0."""
        return Affine(np.ones((1,) * rank), np.zeros((1,) * rank))

    @property
    def rank(self) -> int:
        """Rank of the tensor."""
        return self.scale.ndim

    @property
    def size(self) -> int:
        """The number of values of the larger array."""
        return max(array.size for array in self.arrays)

    @property
    def is_identity(self) -> bool:
        """Whether scale = 1 and shift = 0; an undecided shift is not 0."""
        return self.is_unscaled and self.shift is not None and not np.any(self.shift)

    @property
    def is_unscaled(self) -> bool:
        """Whether scale = 1 throughout."""
        return bool(np.all(self.scale == 1))

    def varies(self, axis: int) -> bool:
        """Whether scale or shift differ along an axis."""
        return any(array.shape[axis] != 1 for array in self.arrays)

    def map(self, change: Callable[[Array], Array]) -> Affine:
        """Scale and shift after the same change of layout, in compact form."""
        return Affine.of(change(self.scale), None if self.shift is None else change(self.shift))

    def with_shift(self, shift: Array | None) -> Affine:
        """The same scale with another shift."""
        return Affine(self.scale, None if shift is None else _compact(shift))

    def unshifted(self) -> Affine:
        """The same scale with shift 0."""
        return Affine(self.scale, np.zeros((1,) * self.rank))

    def inverse(self) -> Affine:
        """x from y instead of y from x; raises Skip where float32 would lose too much."""
        size = np.abs(self.scale)
        if size.min() < SMALLEST_SCALE * size.max():
            raise Skip(f"cannot divide by scales from {size.min():.1e} to {size.max():.1e} without loss")
        if self.shift is None:
            return Affine(1 / self.scale, None)
        shift = -self.shift / self.scale
        if np.abs(shift).max() > LARGEST_SHIFT or np.abs(self.shift).max() > LARGEST_SHIFT:
            raise Skip(f"cannot subtract a shift of {np.abs(shift).max():.1e} without loss")
        return Affine.of(1 / self.scale, shift)

    def after(self, first: Affine) -> Affine:
        """a2 (a1 x + b1) + b2 = (a2 a1) x + (a2 b1 + b2): this value applied to the result of `first`.

        Both shifts are decided; arrays broadcast and keep their shape. Raises Skip where the result would be
        larger than both (a row times a column): then storing it costs more than computing it.
        """
        return _bounded(Affine(self.scale * first.scale, self.scale * first.b + self.b), self, first)

    def plus(self, other: Affine, sign: int) -> Affine:
        """(a1 x + b1) ± (a2 x + b2) = (a1 ± a2) x + (b1 ± b2); see `after`."""
        return _bounded(Affine(self.scale + sign * other.scale, self.b + sign * other.b), self, other)

    @property
    def b(self) -> Array:
        """The shift, which is decided."""
        assert self.shift is not None  # noqa: S101  a search ends with every shift decided
        return self.shift

    def broadcast(self, rank: int) -> Affine:
        """The same with leading axes of size 1 up to `rank`; raises Skip if it has more axes."""
        return Affine(aligned(self.scale, rank), None if self.shift is None else aligned(self.shift, rank))

    def along(self, axis: int, size: int) -> tuple[Array, Array]:
        """(scale, shift) as vectors of `size` values along an axis; an undecided shift is 0.

        Raises Skip where they vary along another axis.
        """
        shift = np.zeros_like(self.scale) if self.shift is None else self.shift
        for array in (self.scale, shift):
            if any(length != 1 for index, length in enumerate(array.shape) if index != axis % array.ndim):
                raise Skip(f"needs values that vary along axis {axis} alone")
            if array.size not in (1, size):
                raise Skip(f"has {size} channels and not {array.size}")
        scale, shift = (np.broadcast_to(array.ravel(), (size,)) for array in (self.scale, shift))
        return scale.copy(), shift.copy()

    @property
    def arrays(self) -> list[Array]:
        """The scale, and the shift where it is decided."""
        return [self.scale] if self.shift is None else [self.scale, self.shift]


def require_fit(value: Affine, tensor: Tensor) -> None:
    """Raise Skip unless the arrays have the rank of the tensor and sizes that are known to be its own."""
    shape = known_shape(tensor)
    if value.rank != len(shape):
        raise Skip(f"'{tensor.name}' has rank {len(shape)} and not {value.rank}")
    for array in value.arrays:
        if any(n not in (1, dim) for n, dim in zip(array.shape, shape, strict=True)):
            raise Skip(f"values of {list(array.shape)} do not fit '{tensor.name}' of shape {list(shape)}")
        if array.size > LARGEST:
            raise Skip(f"'{tensor.name}' would need {array.size} values")


def known_shape(tensor: Tensor) -> tuple[int | str | None, ...]:
    """The shape of a tensor; raises Skip where not even its rank is known.

    Shape inference does not know GroupNormalization, nor anything behind an input of unknown rank. A norm
    keeps the shape of its input, and the weights of a convolution have its rank and channels.
    """
    if tensor.shape is not None:
        return tuple(tensor.shape)
    maker = producer(tensor)
    for node in (maker, *tensor.outputs):
        if node is None or node.op not in ("Conv", "ConvTranspose"):
            continue
        if is_constant(node.inputs[1]) and (node is maker or node.inputs[0] is tensor):
            sizes, group = node.inputs[1].shape, int(node.attrs.get("group", 1))
            by_group = sizes[1] * group
            reads, gives = (by_group, sizes[0]) if node.op == "Conv" else (sizes[0], by_group)
            return (None, gives if node is maker else reads, *[None] * (len(sizes) - 2))
    if maker is not None and maker.op in (*NORMS, "BatchNormalization") and maker.outputs[0] is tensor:
        return known_shape(maker.inputs[0])
    raise Skip(f"the shape of '{tensor.name}' is not known")


def rank_of(x: Tensor, y: Tensor) -> int:
    """The rank that input and output of an operator share, where one of both is known; raises Skip."""
    try:
        return len(known_shape(x))
    except Skip:
        return len(known_shape(y))


def require_storable(dtype: DType, *arrays: Array) -> None:
    """Raise Skip if values are not finite in the type that will hold them."""
    with np.errstate(over="ignore"):
        if not all(np.isfinite(values.astype(numpy_dtype(dtype))).all() for values in arrays):
            raise Skip("the new constants would not be finite")


def agree(one: Array, other: Array) -> bool:
    """Whether two scales or shifts are equal up to the rounding of float64."""
    size = max(np.abs(one).max(initial=0.0), np.abs(other).max(initial=0.0))
    try:
        return bool(np.all(np.abs(one - other) <= 1e-9 * size))
    except ValueError:  # they vary along one axis with different sizes
        return False


def sum_of(*terms: Array) -> Array:
    """A sum that is exactly 0 where its terms cancel up to rounding."""
    total = np.asarray(sum(terms[1:], start=terms[0]), np.float64)
    size = sum((np.abs(term) for term in terms[1:]), start=np.abs(terms[0]))
    return np.where(np.abs(total) <= ROUNDING * size, 0.0, total)


def aligned(values: Array, rank: int) -> Array:
    """A broadcast operand with leading axes of 1 up to `rank`; raises Skip if it has more."""
    if values.ndim > rank:
        raise Skip("a constant raises the rank")
    return values.reshape((1,) * (rank - values.ndim) + values.shape)


def _compact(array: Array) -> Array:
    for axis, length in enumerate(array.shape):
        first = np.take(array, [0], axis) if length else array
        if length > 1 and np.all(array == first):
            array = first
    return array


def _bounded(value: Affine, *parts: Affine) -> Affine:
    if value.size > max(part.size for part in parts):
        raise Skip("the constants lie on different axes: the joined constant would grow")
    return value
