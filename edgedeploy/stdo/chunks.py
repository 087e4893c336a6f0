"""Patches of a video in chunks by how hard they are: a model each, or fewer samples for the easy ones.

Scores are PSNR in dB of one general model. With the N scores in order, s_1 <= ... <= s_N, the k chunks have
    b_0 = 0,  b_{i+1} = s_floor((i + 1) N / k),  chunk i = {b_i < score <= b_{i+1}}
so chunk 0 is the hardest. This is the released rule of STDO, with what it leaves out: a score of 0 dB or less
is in chunk 0. Equal scores stay together, so chunks can differ in size, and all but chunk 0 can be empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import UsageError


@dataclass(frozen=True)
class Chunks:
    """Which chunk each patch of a video belongs to.

    Attributes:
        index: (N,) int64 in 0..k-1, in the order of the patches; 0 is the hardest.
        boundaries: (k + 1,) float64, dB, from 0 to the highest score; inf where that patch was exact.
    """

    index: NDArray[np.int64]
    boundaries: NDArray[np.float64]

    @property
    def count(self) -> int:
        """k."""
        return len(self.boundaries) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Patches in each chunk, (k,)."""
        return np.bincount(self.index, minlength=self.count).astype(np.int64)

    def members(self, chunk: int) -> NDArray[np.int64]:
        """Positions from 0 of the patches of a chunk, ascending; their official numbers are one more."""
        if not 0 <= chunk < self.count:
            raise ValueError(f"chunk {chunk} is not in 0..{self.count - 1}")
        return np.flatnonzero(self.index == chunk).astype(np.int64)


def split_by_score(scores: NDArray[Any], chunks: int) -> Chunks:
    """Chunks of patches with these scores, (N,) in dB, inf for patches without error.

    Raises UsageError for NaN, and for more chunks than patches.
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise UsageError("scores are not one number a patch", "give a PSNR in dB for each patch")
    if not 1 <= chunks <= len(values):
        raise UsageError(f"{len(values)} patches do not make {chunks} chunks", "ask for fewer chunks")
    ordered = np.sort(values)
    tops = [ordered[(i + 1) * len(values) // chunks - 1] for i in range(chunks)]
    index = np.searchsorted(tops, values, side="left").astype(np.int64)
    return Chunks(index, np.array([0.0, *tops]))


def joint_sample(chunks: Chunks, seed: int) -> NDArray[np.int64]:
    """Positions of the patches that one joint model (JSTDO) is trained on, ascending.

    All of chunk 0, none of the easiest, and of chunk i between (k - 1 - i) / (k - 1): the proportions are
    published only as decreasing, so this line is ours. One chunk is taken whole.
    """
    rng = np.random.default_rng(seed)
    last = chunks.count - 1
    if last == 0:
        return chunks.members(0)
    parts = [_draw(chunks.members(i), (last - i) / last, rng) for i in range(last)]
    return np.sort(np.concatenate(parts))


def _draw(members: NDArray[np.int64], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    if not len(members):
        return members
    count = max(1, round(share * len(members)))
    return np.sort(rng.choice(members, count, replace=False)).astype(np.int64)
