"""Patches of a video in chunks by difficulty: a model per chunk, or fewer samples of easy chunks.

Scores are the PSNR in dB of one general model. For N sorted scores s_1 <= ... <= s_N the k chunks have
    b_0 = 0,  b_{i+1} = s_floor((i + 1) N / k),  chunk i = {b_i < score <= b_{i+1}}
so chunk 0 is the hardest. This is the released rule of STDO; in addition, scores of 0 dB or less are in chunk
0. Equal scores stay together, so chunks can differ in size, and all but chunk 0 can be empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import UsageError


@dataclass(frozen=True)
class Chunks:
    """The chunk of each patch of a video.

    Attributes:
        index: (N,) int64 in 0..k-1; 0 is the hardest.
        boundaries: (k + 1,) float64 in dB, from 0 to the highest score; inf for an exact patch.
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
        """Positions of the patches of a chunk, from 0, ascending."""
        if not 0 <= chunk < self.count:
            raise ValueError(f"chunk {chunk} is not in 0..{self.count - 1}")
        return np.flatnonzero(self.index == chunk).astype(np.int64)


def split_by_score(scores: NDArray[Any], chunks: int) -> Chunks:
    """Chunks for scores (N,) in dB; raises UsageError for NaN and for more chunks than patches."""
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
    """Positions of the training patches of one joint model (JSTDO), ascending.

    The share of chunk i is (k - 1 - i) / (k - 1): all of chunk 0, none of the easiest. The paper only says
    that the shares decrease; this formula is ours. A single chunk is used completely.
    """
    rng = np.random.default_rng(seed)
    last = chunks.count - 1
    if last == 0:
        return chunks.members(0)
    drawn = [
        rng.choice(members, max(1, round((last - i) / last * len(members))), replace=False)
        for i in range(last)
        if len(members := chunks.members(i))
    ]
    return np.sort(np.concatenate(drawn)).astype(np.int64)
