"""STDO's patches and chunks: the official numbering and rule, round trips, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.core.errors import UsageError
from edgedeploy.stdo.chunks import joint_sample, split_by_score
from edgedeploy.stdo.halo import HaloGrid
from edgedeploy.stdo.patches import PatchGrid

SCORES = st.lists(st.one_of(st.floats(0, 90), st.just(math.inf), st.integers(0, 4)), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("scale", "rows", "columns"), [(2, 10, 20), (3, 10, 20), (4, 5, 10)], ids=["x2", "x3", "x4"]
)
def test_published_grids_of_1080p(scale: int, rows: int, columns: int) -> None:
    grid = PatchGrid.divide(1080 // scale, 1920 // scale, rows, columns)
    assert (grid.rows, grid.columns) == (rows, columns)
    large = grid.enlarged(scale)
    assert (large.height, large.width) == (1080, 1920)
    assert (large.patch_height, large.patch_width) == ((108, 96) if scale < 4 else (216, 192))
    assert large.count == grid.count


def test_patches_are_counted_row_by_row() -> None:
    grid = PatchGrid(6, 8, 3, 2)
    frame = np.zeros((6, 8, 3), np.uint8)
    number = 1
    for top in (0, 3):
        for left in (0, 2, 4, 6):
            frame[top : top + 3, left : left + 2] = number
            number += 1
    patches = grid.cut(frame)
    assert [int(p) for p in patches[:, 0, 0, 0]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all((patch == patch[0, 0, 0]).all() for patch in patches)
    assert [grid.corner(p) for p in range(8)] == [(y, x) for y in (0, 3) for x in (0, 2, 4, 6)]


@given(
    height=st.integers(1, 30), width=st.integers(1, 30), channels=st.integers(1, 4), data=st.data(),
)  # fmt: skip
def test_cut_and_paste_return_the_frame(height: int, width: int, channels: int, data: Any) -> None:
    frame = np.random.default_rng(height * 31 + width).integers(0, 256, (height, width, channels), np.uint8)
    grid = PatchGrid(height, width, data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    before = frame.copy()
    patches = grid.cut(frame)
    assert patches.shape == (grid.count, grid.patch_height, grid.patch_width, channels)
    pasted = np.empty_like(frame)
    for index, patch in enumerate(patches):
        HaloGrid(grid, 0).paste(pasted, index, patch, scale=1)
    np.testing.assert_array_equal(pasted, frame)
    patches[:] = 0  # a copy, also where the grid has one patch
    np.testing.assert_array_equal(frame, before)


def test_padding_repeats_the_last_pixels() -> None:
    frame = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    last = PatchGrid(5, 7, 4, 4).cut(frame)[3]
    np.testing.assert_array_equal(last[:, 3], last[:, 2])
    np.testing.assert_array_equal(last[1], last[0])
    np.testing.assert_array_equal(last[0, :3], frame[4, 4:])


@given(height=st.integers(1, 60), rows=st.integers(1, 60))
def test_division_covers_the_frame_without_an_idle_row(height: int, rows: int) -> None:
    grid = PatchGrid.divide(height, 5, rows, 1)
    assert grid.rows <= rows
    assert (grid.rows - 1) * grid.patch_height < height <= grid.rows * grid.patch_height
    assert grid.patch_height == -(-height // rows)


def test_unfit_frames_and_patches_are_refused() -> None:
    grid = PatchGrid(6, 8, 3, 2)
    for wrong in ((8, 6, 3), (6, 8)):
        with pytest.raises(UsageError, match="is not 8x6"):
            grid.cut(np.zeros(wrong, np.uint8))
    with pytest.raises(UsageError, match="no patches of 9x3 in a frame of 8x6"):
        PatchGrid(6, 8, 3, 9)
    with pytest.raises(UsageError, match="no grid"):
        PatchGrid.divide(6, 8, 0, 1)


def restated(scores: list[float], k: int) -> list[int]:
    """The rule, patch by patch and chunk by chunk."""
    ordered = sorted(scores)
    points = [0.0] + [ordered[int(Fraction((i + 1) * len(scores), k)) - 1] for i in range(k)]
    chunks = []
    for score in scores:
        inside = [i for i in range(k) if points[i] < score <= points[i + 1]]
        assert len(inside) == (1 if score > 0 else 0)
        chunks.append(inside[0] if inside else 0)
    return chunks


@given(scores=SCORES, data=st.data())
def test_chunks_are_those_of_the_rule_restated(scores: list[float], data: Any) -> None:
    k = data.draw(st.integers(1, len(scores)))
    chunks = split_by_score(np.array(scores), k)
    assert chunks.index.tolist() == restated(scores, k)
    assert chunks.count == k
    assert chunks.sizes.sum() == len(scores)
    assert sorted(i for c in range(k) for i in chunks.members(c)) == list(range(len(scores)))


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_chunks_of_distinct_scores_are_equal_in_number_and_the_first_is_the_hardest(k: int) -> None:
    scores = np.random.default_rng(1).permutation(np.linspace(25, 60, 40))
    chunks = split_by_score(scores, k)
    assert chunks.sizes.tolist() == [40 // k] * k
    assert chunks.boundaries[0] == 0
    assert chunks.boundaries[-1] == 60
    for easier in range(1, k):
        assert scores[chunks.members(easier - 1)].max() < scores[chunks.members(easier)].min()
    assert np.argmin(scores) in chunks.members(0)


def test_the_joint_sample_leaves_out_the_easiest_and_thins_the_rest() -> None:
    chunks = split_by_score(np.random.default_rng(2).permutation(np.linspace(25, 60, 400)), 5)
    sample = joint_sample(chunks, seed=3)
    assert np.bincount(chunks.index[sample], minlength=5).tolist() == [80, 60, 40, 20, 0]
    assert len(set(sample.tolist())) == len(sample)
    assert set(chunks.members(0)) <= set(sample)
    np.testing.assert_array_equal(sample, joint_sample(chunks, seed=3))
    assert sample.tolist() != joint_sample(chunks, seed=4).tolist()
    assert joint_sample(split_by_score(np.ones(6), 1), 0).tolist() == [0, 1, 2, 3, 4, 5]
    assert joint_sample(split_by_score(np.ones(6), 3), 0).tolist() == [0, 1, 2, 3, 4, 5]
    assert joint_sample(split_by_score(np.array([0.0, 0, 9, 9]), 2), 0).tolist() == [0, 1]


def test_unfit_scores_are_refused() -> None:
    with pytest.raises(UsageError, match="one number a patch"):
        split_by_score(np.array([30.0, math.nan]), 1)
    with pytest.raises(UsageError, match="one number a patch"):
        split_by_score(np.zeros((2, 2)), 1)
    for k in (0, 3):
        with pytest.raises(UsageError, match="do not make"):
            split_by_score(np.array([30.0, 31.0]), k)
    with pytest.raises(ValueError, match="chunk 2"):
        split_by_score(np.array([30.0, 31.0]), 2).members(2)
