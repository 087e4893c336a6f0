"""T = s*T' + t: how the value of a tensor before a rewrite follows from the value after it, or the reverse.

Scale and shift are float64 arrays of the tensor's rank whose dimensions are 1 or the tensor's own, so that
values per channel of any layout, per head, or per place of a flattened map are all said alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgedeploy.graphs.surgeon import Skip, Tensor

Array: TypeAlias = NDArray[np.float64]
LARGEST = 1 << 20  # values of a scale; a flattened map has one per place
SMALLEST_SCALE = 1e-3  # of the largest: what is divided by 1e-3 carries a thousand times the rounding
LARGEST_SHIFT = 1e3  # in units of the tensor whose shift is taken back: the sum loses as many digits
ROUNDING = 1e-12  # of the terms: below it a difference in float64 is none


@dataclass(frozen=True, eq=False)
class Affine:
    """A scale and a shift; `shift` None means that it is not decided yet."""

    scale: Array
    shift: Array | None

    @staticmethod
    def of(scale: Array, shift: Array | None) -> Affine:
        """With every axis along which nothing varies reduced to 1, and 1 said exactly."""
        close = np.abs(scale - 1) <= ROUNDING
        scale = np.where(close, 1.0, scale)
        return Affine(_compact(scale), None if shift is None else _compact(shift))

    @staticmethod
    def identity(rank: int) -> Affine:
        """s = 1, t = 0."""
        return Affine(np.ones((1,) * rank), np.zeros((1,) * rank))

    @property
    def rank(self) -> int:
        """Of the tensor."""
        return self.scale.ndim

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes; not while the shift is open."""
        return self.is_unscaled and self.shift is not None and not np.any(self.shift)

    @property
    def is_unscaled(self) -> bool:
        """Whether s = 1 throughout."""
        return bool(np.all(self.scale == 1))

    @property
    def has_no_shift(self) -> bool:
        """Whether t is known to be 0."""
        return self.shift is not None and not np.any(self.shift)

    def varies(self, axis: int) -> bool:
        """Whether scale or shift differ along an axis."""
        return any(array.shape[axis] != 1 for array in self.arrays)

    def map(self, change: Callable[[Array], Array]) -> Affine:
        """The same under a change of layout, applied to scale and shift alike."""
        return Affine.of(change(self.scale), None if self.shift is None else change(self.shift))

    def with_shift(self, shift: Array | None) -> Affine:
        """The same scale with another shift."""
        return Affine(self.scale, None if shift is None else _compact(shift))

    def inverse(self) -> Affine:
        """T' from T instead of T from T'; raises Skip where float32 would lose too much."""
        size = np.abs(self.scale)
        if size.min() < SMALLEST_SCALE * size.max():
            raise Skip(
                f"a scale of {size.min():.1e} beside one of {size.max():.1e} is not taken back without loss"
            )
        if self.shift is None:
            return Affine(1 / self.scale, None)
        shift = -self.shift / self.scale
        if np.abs(shift).max() > LARGEST_SHIFT or np.abs(self.shift).max() > LARGEST_SHIFT:
            raise Skip(f"a shift of {np.abs(shift).max():.1e} is not taken back without loss")
        return Affine.of(1 / self.scale, shift)

    def along(self, axis: int, size: int) -> tuple[Array, Array]:
        """(scale, shift) as vectors along the one axis on which they may vary; an open shift is 0."""
        shift = np.zeros_like(self.scale) if self.shift is None else self.shift
        for array in (self.scale, shift):
            if any(length != 1 for place, length in enumerate(array.shape) if place != axis % array.ndim):
                raise Skip(f"would need values that differ along more than axis {axis}")
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
    shape = rank_of(tensor)
    if value.rank != len(shape):
        raise Skip(f"'{tensor.name}' has rank {len(shape)} and not {value.rank}")
    for array in (value.scale, value.shift):
        if array is not None and any(n not in (1, dim) for n, dim in zip(array.shape, shape, strict=True)):
            raise Skip(
                f"'{tensor.name}' of shape {list(shape)} has no room for values of {list(array.shape)}"
            )
        if array is not None and array.size > LARGEST:
            raise Skip(f"'{tensor.name}' would need {array.size} values")


def rank_of(tensor: Tensor) -> tuple[int | str | None, ...]:
    """The shape of a tensor; raises Skip where not even its rank is known."""
    if tensor.shape is None:
        raise Skip(f"the shape of '{tensor.name}' is not known")
    return tuple(tensor.shape)


def agree(one: Array, other: Array) -> bool:
    """Whether two scales or shifts are equal up to the rounding of float64."""
    size = max(np.abs(one).max(initial=0.0), np.abs(other).max(initial=0.0))
    try:
        return bool(np.all(np.abs(one - other) <= 1e-9 * size))
    except ValueError:  # they vary along one axis with different sizes
        return False


def sum_of(*terms: Array) -> Array:
    """A sum in which what cancels is 0 and not its rounding."""
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
