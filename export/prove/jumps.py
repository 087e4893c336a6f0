"""Parity of networks that jump: where a value lies within rounding of a threshold, the last bit decides.

Two correct programs then disagree about whole steps of the output, and no tolerance says who is right. So the
draws are judged one by one. One that agrees is as good a proof as in a smooth network; those that do not are
excused only if the network itself is seen to move as far when the last bits of its input and weights do, and
only where as many others agree. A smooth network moves by rounding alone, so nothing of it is excused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
LAST_BIT = 2.0**-23
NUDGES = (1, 1, 2, 2, 4, 4, 8, 8)  # last bits; rounding inside a network adds up to several
GRANT = 2.0  # an excused difference over the farthest that the nudged network moved
SHARP = 2  # draws that must agree, at the least, where others are excused


@dataclass(frozen=True)
class Verdict:
    """Whether two programs compute the same.

    Attributes:
        agrees: the answer.
        error: largest difference among the draws that agree; among all where the answer is no.
        jumps: draws that were excused.
    """

    agrees: bool
    error: float
    jumps: int = 0


def judge(
    errors: Iterable[tuple[Image, float]],
    more: Iterable[tuple[Image, float]],
    move: Callable[[Image, int], float],
    tolerance: float,
) -> Verdict:
    """Judge (input, difference) of the draws.

    Args:
        errors: all of these must agree or be excused.
        more: further draws, taken one by one until enough agree.
        move: how far the network's own output moves at an input, when nudge number n of NUDGES is given to
            that and to its weights.
        tolerance: what agreement means.
    """
    draws, further = list(errors), iter(more)
    while True:
        agreed = [error for _, error in draws if error <= tolerance]
        others = [error for _, error in draws if not error <= tolerance]
        if not others:
            return Verdict(True, max(agreed, default=0.0))
        if len(agreed) >= max(SHARP, len(others)):
            break
        draw = next(further, None)
        if draw is None:
            return Verdict(False, max(others))
        draws.append(draw)
    # The draws that differ come first: there the network is known to stand near a threshold.
    images = [image for image, _ in sorted(draws, key=lambda draw: draw[1] <= tolerance)]
    moves = (move(image, number) for image in images for number in range(len(NUDGES)))
    agrees = any(max(others) <= GRANT * far for far in moves)
    return Verdict(True, max(agreed), len(others)) if agrees else Verdict(False, max(others))


def nudged(values: Image, number: int) -> Image:
    """The values with their last bits moved up or down at random, as nudge `number` says."""
    signs = np.random.default_rng(number).choice((-1, 1), values.shape)
    return np.asarray(values * (1 + NUDGES[number] * LAST_BIT * signs), values.dtype)
