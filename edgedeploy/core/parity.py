"""How far two tensors are apart, in the four figures the field uses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import ParityError


@dataclass(frozen=True)
class Parity:
    """Difference of a candidate to a reference.

    Attributes:
        max_abs: largest absolute difference.
        max_rel: largest absolute difference over the reference's largest absolute value.
        sqnr_db: signal to quantization noise, 10 log10(sum r^2 / sum (r - c)^2); inf when equal.
        cosine: cosine of the angle between the two as vectors.
    """

    max_abs: float
    max_rel: float
    sqnr_db: float
    cosine: float

    def worse(self, other: Parity) -> Parity:
        """Figure by figure, the worse of two."""
        return Parity(
            max(self.max_abs, other.max_abs),
            max(self.max_rel, other.max_rel),
            min(self.sqnr_db, other.sqnr_db),
            min(self.cosine, other.cosine),
        )


EXACT = Parity(0.0, 0.0, math.inf, 1.0)


def compare(reference: NDArray[np.generic], candidate: NDArray[np.generic]) -> Parity:
    """Parity of two tensors of one shape; NaN and infinities at the same places count as equal.

    Raises ParityError if the shapes differ.
    """
    if reference.shape != candidate.shape:
        raise ParityError(
            f"shapes differ: {reference.shape} against {candidate.shape}", "compare runs on the same input"
        )
    if reference.size == 0:
        return EXACT
    r = reference.astype(np.float64).ravel()
    c = candidate.astype(np.float64).ravel()
    finite = np.isfinite(r)
    if not np.array_equal(r[~finite], c[~finite], equal_nan=True) or not np.isfinite(c[finite]).all():
        return Parity(math.inf, math.inf, -math.inf, -1.0)
    r, c = r[finite], c[finite]
    noise = r - c
    max_abs = float(np.abs(noise).max(initial=0.0))
    if max_abs == 0.0:
        return EXACT
    peak, signal, power = float(np.abs(r).max()), float(r @ r), float(noise @ noise)
    # The floor keeps a reference of zeros from dividing by zero: its relative error is then the absolute one.
    max_rel = max_abs / peak if peak > 0 else max_abs
    sqnr = (
        10 * math.log10(signal / power)
        if signal > 0 and power > 0
        else (math.inf if power == 0 else -math.inf)
    )
    norms = math.sqrt(signal * float(c @ c))
    return Parity(max_abs, max_rel, sqnr, float(r @ c) / norms if norms > 0 else 0.0)


def compare_all(
    reference: Mapping[str, NDArray[np.generic]], candidate: Mapping[str, NDArray[np.generic]]
) -> Parity:
    """The worst parity over all outputs of the reference; raises ParityError if one is missing."""
    worst = EXACT
    for name, expected in reference.items():
        if name not in candidate:
            raise ParityError(
                f"output '{name}' is missing; there are {', '.join(candidate)}",
                "compare files of the same model",
            )
        worst = worst.worse(compare(expected, candidate[name]))
    return worst
