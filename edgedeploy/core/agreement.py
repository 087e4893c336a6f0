"""Agreement of a model's outputs with the float model's, 1 where they are equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Measure = Callable[[NDArray[Any], NDArray[Any]], float]


def overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / union if union else 1.0


def likeness(reference: NDArray[Any], values: NDArray[Any]) -> float:
    """1 - |reference - values| / |reference|, at least 0: 0.99 is an SQNR of 40 dB; 0 for NaN.

    Of class maps and masks (bool, or integers wider than 8 bits) the share of equal elements. 0 where the
    shapes differ, as those of another number of detections do.
    """
    if reference.shape != values.shape:
        return 0.0
    if reference.dtype.kind == "b" or (reference.dtype.kind in "iu" and reference.dtype.itemsize > 1):
        return float(np.mean(reference == values)) if reference.size else 1.0
    expected = reference.astype(np.float64)
    signal, noise = float(np.linalg.norm(expected)), float(np.linalg.norm(expected - values))
    if noise == 0:
        return 1.0
    return max(0.0, 1.0 - noise / signal) if signal and np.isfinite(noise) else 0.0


def energy(reference: NDArray[Any], values: NDArray[Any]) -> float:
    """1 - |reference - values|^2 / |reference|^2, at least 0: 0.99 is an SQNR of 20 dB.

    Of integers and bool `likeness`.
    """
    share = likeness(reference, values)
    return 1.0 - (1.0 - share) ** 2 if reference.dtype.kind not in "iub" else share


def cosine(reference: NDArray[Any], values: NDArray[Any]) -> float:
    """Cosine of the angle between two vectors; 0 where one has no direction."""
    x, y = (array.astype(np.float64).ravel() for array in (reference, values))
    lengths = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / lengths if lengths and np.isfinite(lengths) else 0.0


def worst_output(measure: Measure, outputs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> float:
    """The least agreement of any output, given (reference, values) of each.

    `measure` is a task's, for the first output, which the task decodes. It also applies to outputs of the
    same form: as many axes and as many channels, more than one. Others (boxes beside scores) are measured by
    `energy`, so that a budget of 0.985 asks for an SQNR of 18 dB.
    """
    (first, values), *further = outputs
    return min(
        measure(first, values),
        *((measure if _alike(first, other, got) else energy)(other, got) for other, got in further),
        1.0,
    )


def _alike(first: NDArray[Any], other: NDArray[Any], got: NDArray[Any]) -> bool:
    """Whether a further output, of the same shape in both models, has the form of the first output."""
    return other.shape == got.shape and first.ndim == other.ndim > 1 and first.shape[1] == other.shape[1] > 1
