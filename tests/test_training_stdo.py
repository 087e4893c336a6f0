"""Overfitting to patches: that it learns, repeats itself, and pays on the chunk that it was made for."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from edgedeploy.core.errors import UsageError
from edgedeploy.models import create_model
from edgedeploy.models.training.stdo import enlarge_patches, fit_chunk, score_patches
from edgedeploy.stdo.chunks import joint_sample, pooled_psnr, split_by_score, uniform_sample
from edgedeploy.stdo.patches import PatchGrid
from edgedeploy.tasks.metrics import psnr
from edgedeploy.tasks.resize import imresize
from edgedeploy.tasks.video import read_video

Pair = tuple[np.ndarray, np.ndarray]


def patches_of(frames: list[np.ndarray], rows: int, columns: int) -> Pair:
    """Low- and high-resolution patches, x2."""
    height, width = (size // 2 for size in frames[0].shape[:2])
    grid = PatchGrid.divide(height, width, rows, columns)
    low = np.concatenate([grid.cut(imresize(frame, height, width)) for frame in frames])
    return low, np.concatenate([grid.enlarged(2).cut(frame) for frame in frames])


@pytest.fixture(scope="module")
def drawn() -> Pair:
    """Moving lines over smooth colours: 6 frames, 96 patches."""
    frames = []
    for index in range(6):
        frame = cv2.resize(
            np.random.default_rng(0).integers(40, 200, (4, 5, 3), np.uint8),
            (160, 128),
            interpolation=cv2.INTER_CUBIC,
        )
        for turn in range(6):
            angle = turn * 0.5 + index * 0.05
            tip = (40 + int(70 * math.cos(angle)), 40 + int(70 * math.sin(angle)))
            cv2.line(frame, (40, 40), tip, (250, 240, 30 * turn), 2, cv2.LINE_AA)
        frames.append(frame)
    return patches_of(frames, 4, 4)


@pytest.fixture(scope="module")
def clip(shared: Path) -> Pair:
    """Every sixth frame of a face that talks: 16 frames of 176x144, 256 patches."""
    path = shared / "data/video/carphone_pristine.mp4"
    if not path.exists():
        pytest.skip(f"no clip at {path}")
    return patches_of(list(read_video(path))[:96:6], 4, 4)


def fresh(name: str = "stdo_espcn_x2", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create_model(name)


def states_equal(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())


@pytest.mark.parametrize("name", ["stdo_espcn_x2", "stdo_vdsr_x2", "stdo_wdsr_x2"])
def test_loss_goes_down_and_the_start_stays_as_it_was(drawn: Pair, name: str) -> None:
    low, high = drawn
    start, seen = fresh(name), []
    before = fresh(name)
    before.load_state_dict(start.state_dict())
    copies = low.copy(), high.copy()
    fitted = fit_chunk(
        start, low, high, members=np.arange(32), epochs=6, log=lambda *report: seen.append(report)
    )
    assert states_equal(start, before)
    np.testing.assert_array_equal(low, copies[0])
    np.testing.assert_array_equal(high, copies[1])
    assert fitted.losses[-1] < 0.6 * fitted.losses[0]
    assert seen == [(2 * (i + 1), 12, loss) for i, loss in enumerate(fitted.losses)]
    assert not fitted.model.training


def test_the_same_seed_gives_the_same_weights_and_another_does_not(drawn: Pair) -> None:
    one, two, other = (fit_chunk(fresh(), *drawn, steps=3, batch=4, seed=s).model for s in (5, 5, 6))
    assert states_equal(one, two)
    assert not states_equal(one, other)


def test_steps_and_epochs_count_the_same(drawn: Pair) -> None:
    low, high = (patches[:10] for patches in drawn)
    seen: list[tuple[int, int, float]] = []
    by_steps = fit_chunk(fresh(), low, high, steps=6, batch=4, log=lambda *report: seen.append(report))
    assert states_equal(by_steps.model, fit_chunk(fresh(), low, high, epochs=2, batch=4).model)
    assert [report[:2] for report in seen] == [(3, 6), (6, 6)]
    seen.clear()
    fit_chunk(fresh(), low, high, steps=4, batch=4, log=lambda *report: seen.append(report))
    assert [report[:2] for report in seen] == [(3, 4), (4, 4)]


def test_members_alone_are_fitted(drawn: Pair) -> None:
    low, high = drawn
    members = np.array([3, 8, 9, 40, 41])
    other = high.copy()
    other[np.setdiff1d(np.arange(len(high)), members)] = 0
    named = fit_chunk(fresh(), low, other, members=members, steps=4, batch=2)
    taken = fit_chunk(fresh(), low[members], high[members], steps=4, batch=2)
    assert named.losses == taken.losses
    assert states_equal(named.model, taken.model)


class Nearest(nn.Module):
    """Each pixel four times, 0.4 grey levels darker in red and brighter elsewhere, times a gain."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shift = torch.tensor([-0.4, 0.4, 0.4]).view(1, 3, 1, 1) / 255
        return nn.functional.interpolate(x * self.gain, scale_factor=2.0, mode="nearest") + shift


def test_scores_are_psnr_of_rounded_clamped_and_shaved_patches(rng: np.random.Generator) -> None:
    low = rng.integers(0, 256, (7, 10, 12, 3), np.uint8)
    nearest = low.repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(enlarge_patches(Nearest(), low, batch=3), nearest)
    doubled = enlarge_patches(Nearest(2.0), low)
    np.testing.assert_array_equal(doubled, np.minimum(2 * nearest.astype(int), 255))

    high = nearest.copy()
    high[:, :6] ^= 255  # the border is not looked at
    high[:, :, -6:] ^= 255
    high[2:, 6, 6, 0] ^= 16
    seen: list[tuple[int, int]] = []
    scores = score_patches(Nearest(), low, high, batch=3, log=lambda *report: seen.append(report))
    shaved = 8 * 12 * 3
    assert scores[:2].tolist() == [math.inf, math.inf]
    np.testing.assert_allclose(scores[2:], 10 * math.log10(255**2 / (16**2 / shaved)))
    assert seen == [(3, 7), (6, 7), (7, 7)]
    np.testing.assert_allclose(scores[2], psnr(high[2, 6:-6, 6:-6], nearest[2, 6:-6, 6:-6]))


@pytest.mark.slow
def test_a_model_of_its_own_serves_a_chunk_better_than_the_general_one(clip: Pair) -> None:
    low, high = clip
    general = fit_chunk(fresh(), low, high, members=uniform_sample(len(low), 0.5, 0), steps=160).model
    scores = score_patches(general, low, high)
    chunks = split_by_score(scores, 3)
    means = [scores[chunks.members(chunk)].mean() for chunk in range(3)]
    assert means == sorted(means)

    hardest = chunks.members(0)
    longer = fit_chunk(general, low, high, steps=80).model  # as many steps, on everything
    own = fit_chunk(general, low, high, members=hardest, steps=80).model
    joint = fit_chunk(general, low, high, members=joint_sample(chunks, 0), steps=80).model

    def on_hardest(model: nn.Module) -> float:
        return pooled_psnr(score_patches(model, low[hardest], high[hardest]))

    assert on_hardest(own) > on_hardest(longer) + 0.1
    assert on_hardest(joint) > on_hardest(longer)
    assert on_hardest(longer) > on_hardest(general)


def test_what_does_not_fit_is_named(drawn: Pair) -> None:
    low, high = drawn
    for wrong in (high[:5], high[:, :-1], high.astype(np.float32), high[..., :1]):
        with pytest.raises(UsageError, match="no pairs"):
            fit_chunk(fresh(), low, wrong, steps=1)
        with pytest.raises(UsageError, match="no pairs"):
            score_patches(fresh(), low, wrong)
    for wrong_length in ({}, {"steps": 1, "epochs": 1}, {"steps": 0}, {"epochs": -1}):
        with pytest.raises(UsageError, match="how long"):
            fit_chunk(fresh(), low, high, **wrong_length)
    with pytest.raises(UsageError, match="no patches to fit"):
        fit_chunk(fresh(), low, high, members=np.array([], np.int64), steps=1)
    with pytest.raises(UsageError, match="of 96"):
        fit_chunk(fresh(), low, high, members=np.array([96]), steps=1)
    three = create_model("stdo_espcn_x3")
    with pytest.raises(UsageError, match="makes patches of 60x48, not 40x32"):
        fit_chunk(three, low, high, steps=1)
    with pytest.raises(UsageError, match="makes patches of 60x48, not 40x32"):
        score_patches(three, low, high)
