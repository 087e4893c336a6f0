"""Parity of discontinuous networks: a value within rounding of a threshold flips with the last bit.

Two correct programs then disagree by whole steps of the output, and no tolerance decides which is right. So
every draw is judged alone. A draw that agrees proves as much as in a continuous network. Draws that disagree
are excused if the network itself moves as far under a perturbation of the last bits of its input and weights,
and if at least as many draws agree. A continuous network moves by rounding alone, so it is excused nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.parity import Difference, Tolerance, worst

Image = NDArray[np.float32]
PERTURBATIONS = (1, 1, 2, 2, 4, 4, 8, 8)  # last bits: rounding errors inside a network add up to several
MIN_AGREED = 2  # draws that must agree where others are excused


@dataclass(frozen=True)
class Verdict:
    """Whether two programs compute the same.

    Attributes:
        agrees: the answer.
        difference: worst of the draws that agree; worst of the others where the answer is no.
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
        perturbed: difference of the network to itself when its input and its weights move by a number of
            PERTURBATIONS, given by index.
        tolerance: what agrees; its grant applies to the worst of the draws that do not.
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
