"""Parity of discontinuous networks: a value within rounding of a threshold flips with the last bit.

Two correct programs then differ by whole steps of the output, and no tolerance decides which is right. So
each draw is judged alone. Draws that differ are excused if the network itself moves as far when the last bits
of its input and weights are perturbed, and if at least as many draws agree. A continuous network moves only
by rounding, so none of its draws is excused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.parity import Difference, Tolerance, worst

Image = NDArray[np.float32]
PERTURBATIONS = (1, 1, 2, 2, 4, 4, 8, 8)  # last bits; rounding errors in a network add up to several
MIN_AGREED = 2  # draws that must agree where others are excused


@dataclass(frozen=True)
class Verdict:
    """Whether two programs compute the same.

    Attributes:
        agrees: the result.
        difference: worst of the draws that agree; without agreement, worst of the others.
        excused: number of draws at which the network is discontinuous.
    """

    agrees: bool
    difference: Difference
    excused: int = 0


def judge(
    draws: Iterable[tuple[Image, Difference]],
    further: Iterable[tuple[Image, Difference]],
    perturbed: Callable[[Image, int], Difference],
    tolerance: Tolerance,
) -> Verdict:
    """Judge draws, each an input and the difference of the two programs there.

    Args:
        draws: all of these must agree or be excused.
        further: more draws, taken one by one until enough agree.
        perturbed: (input, index) -> difference of the network to itself when its input and weights move by
            PERTURBATIONS[index].
        tolerance: accepts a draw; its grant applies to the worst draw that it does not accept.
    """
    taken, more = list(draws), iter(further)
    while True:
        agreed = [found for _, found in taken if tolerance.accepts(found)]
        others = [found for _, found in taken if not tolerance.accepts(found)]
        if not others:
            return Verdict(True, worst(agreed))
        if len(agreed) >= max(MIN_AGREED, len(others)):
            break
        draw = next(more, None)
        if draw is None:
            return Verdict(False, worst(others))
        taken.append(draw)
    # The draws that disagree come first: a threshold is known to be near them.
    images = [image for image, _ in sorted(taken, key=lambda draw: tolerance.accepts(draw[1]))]
    moves = (perturbed(image, index) for image in images for index in range(len(PERTURBATIONS)))
    if any(tolerance.granting(move).accepts(worst(others)) for move in moves):
        return Verdict(True, worst(agreed), len(others))
    return Verdict(False, worst(others))
