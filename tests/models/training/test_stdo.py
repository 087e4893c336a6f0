"""Overfitting to patches: it learns, repeats itself, goes on where it was stopped, and pays on its chunk."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from edgedeploy.core.errors import UsageError
from edgedeploy.models import create_model
from edgedeploy.models.training import overfit as overfitting
from edgedeploy.models.training.overfit import Draw, overfit, overfit_file
from edgedeploy.stdo.chunks import joint_sample, split_by_score
from edgedeploy.stdo.patches import PatchGrid
from edgedeploy.vision.resize import imresize
from edgedeploy.vision.video import read_video

Pair = tuple[np.ndarray, np.ndarray]


def patches_of(frames: list[np.ndarray], rows: int, columns: int) -> Pair:
    """Low- and high-resolution patches, x2."""
    height, width = (size // 2 for size in frames[0].shape[:2])
    grid = PatchGrid.divide(height, width, rows, columns)
    low = np.concatenate([grid.cut(imresize(frame, height, width)) for frame in frames])
    return low, np.concatenate([grid.enlarged(2).cut(frame) for frame in frames])


def drawing(pair: Pair, members: np.ndarray | None = None, batch: int = 4) -> Draw:
    low, high = pair
    positions = np.arange(len(low)) if members is None else members

    def draw(generator: np.random.Generator) -> Pair:
        chosen = generator.choice(positions, batch)
        return low[chosen], high[chosen]

    return draw


@pytest.fixture(scope="module")
def drawn() -> Pair:
    """Moving lines over smooth colors: 6 frames, 96 patches."""
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


@pytest.mark.parametrize(
    "name", ["stdo_espcn_x2", "stdo_vdsr_x2", pytest.param("stdo_wdsr_x2", marks=pytest.mark.slow)]
)
def test_the_loss_goes_down(drawn: Pair, name: str) -> None:
    network, seen = fresh(name), []
    copies = drawn[0].copy(), drawn[1].copy()
    draw = drawing(drawn, np.arange(32), 16)
    losses = overfit(network, draw, steps=12, crop=0, seed=0, progress=lambda *report: seen.append(report))
    assert np.mean(losses[-2:]) < 0.6 * np.mean(losses[:2])
    assert seen == [(step + 1, 12) for step in range(12)]
    assert not network.training
    for ours, before in zip(drawn, copies, strict=True):
        np.testing.assert_array_equal(ours, before)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(drawn: Pair) -> None:
    one, two, other = fresh(), fresh(), fresh()
    for network, seed in ((one, 5), (two, 5), (other, 6)):
        overfit(network, drawing(drawn), steps=3, crop=0, seed=seed)
    assert states_equal(one, two)
    assert not states_equal(one, other)


def test_the_rate_falls_from_the_first_update_to_nothing(drawn: Pair) -> None:
    """Adam moves a weight by the rate at most, at first by just that much, and hardly at all in the end."""
    moved: list[float] = []
    network = fresh()
    last = [p.detach().clone() for p in network.parameters()]

    def watch(done: int, total: int | None) -> None:
        nonlocal last
        now = [p.detach().clone() for p in network.parameters()]
        moved.append(max(float((a - b).abs().max()) for a, b in zip(now, last, strict=True)))
        last = now

    overfit(network, drawing(drawn), steps=20, crop=0, seed=0, progress=watch)
    assert moved[0] == pytest.approx(1e-3, rel=1e-3)
    assert moved[-1] < 4e-5


class Nearest(nn.Module):
    """Each pixel four times, times a gain."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(x * self.gain, scale_factor=2.0, mode="nearest")


def test_the_middle_alone_is_compared(rng: np.random.Generator) -> None:
    low = rng.integers(0, 256, (8, 10, 12, 3), np.uint8)
    high = low.repeat(2, 1).repeat(2, 2)
    assert overfit(Nearest(), drawing((low, high)), steps=1, crop=0, seed=0) == [0.0]
    assert overfit(Nearest(), drawing((low, high[:, 6:-6, 6:-6])), steps=1, crop=6, seed=0) == [0.0]
    shifted = overfit(Nearest(), drawing((low, high[:, 5:-7, 6:-6])), steps=1, crop=6, seed=0)
    assert shifted[0] > 0.05


def stopping(draw: Draw, after: int) -> Draw:
    """As if killed: so many batches, and no more."""
    left = iter(range(after))

    def limited(generator: np.random.Generator) -> Pair:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return draw(generator)

    return limited


@pytest.mark.parametrize("start", [None, "start"])
def test_a_stopped_training_ends_in_the_same_weights(
    drawn: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str | None
) -> None:
    monkeypatch.setattr(overfitting, "SAVE_EVERY", 3)
    begin = None
    if start:
        begin = tmp_path / "begin.safetensors"
        overfit_file("stdo_espcn_x2", drawing(drawn), begin, steps=2, crop=0, seed=9)
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    seen: list[int] = []

    def train(draw: Draw, out: Path, note: Callable[[int, int | None], None] | None = None) -> None:
        overfit_file("stdo_espcn_x2", draw, out, steps=9, crop=0, seed=1, start=begin, progress=note)

    train(drawing(drawn), whole)
    for after in (4, 4):  # up to 4, from 3 up to 7
        with pytest.raises(KeyboardInterrupt):
            train(stopping(drawing(drawn), after), parts)
        assert not parts.exists()
    train(drawing(drawn), parts, lambda done, _: seen.append(done))
    assert seen == [7, 8, 9]
    assert whole.read_bytes() == parts.read_bytes()
    assert not list(tmp_path.glob("*.state"))


@pytest.mark.parametrize("name", ["stdo_espcn_x2", "stdo_espcn_micro_x2", "stdo_espcn_micro_x3"])
def test_without_a_step_it_interpolates(tmp_path: Path, name: str) -> None:
    out, scale = tmp_path / "start.safetensors", int(name[-1])
    overfit_file(name, drawing((np.zeros(0), np.zeros(0))), out, steps=0, crop=0, seed=0)
    network = create_model(name)
    network.load_state_dict(load_file(out))
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8), (3, 3), 1.0)
    with torch.no_grad():
        made = network(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
    found = made[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().numpy()
    inner = slice(4 * scale, -4 * scale)
    np.testing.assert_allclose(
        found[inner, inner], imresize(image, scale * 20, scale * 24)[inner, inner], atol=1
    )


@pytest.mark.slow
def test_a_model_of_its_own_serves_a_chunk_better_than_the_general_one(clip: Pair) -> None:
    low, high = clip

    def errors(network: nn.Module, members: np.ndarray) -> np.ndarray:
        """Mean squared error of each patch, 6 pixels of border shaved."""
        with torch.no_grad():
            made = network(torch.from_numpy(low[members]).permute(0, 3, 1, 2).float() / 255)
        pixels = made.permute(0, 2, 3, 1).mul(255).round().clamp(0, 255).numpy()
        return np.asarray(((pixels - high[members]) ** 2)[:, 6:-6, 6:-6].mean((1, 2, 3)))

    def fitted(start: nn.Module, members: np.ndarray, steps: int) -> nn.Module:
        network = fresh()
        network.load_state_dict(start.state_dict())
        overfit(network, drawing(clip, members, 16), steps=steps, crop=0, seed=1)
        return network

    everything = np.arange(len(low))
    general = fitted(fresh(), everything, 160)
    scores = 10 * np.log10(255.0**2 / errors(general, everything))
    chunks = split_by_score(scores, 3)
    hardest = chunks.members(0)
    longer = fitted(general, everything, 80)  # as many steps, on everything
    own = fitted(general, hardest, 80)
    joint = fitted(general, joint_sample(chunks, 0), 80)

    def on_hardest(network: nn.Module) -> float:
        return float(10 * np.log10(255.0**2 / errors(network, hardest).mean()))

    assert on_hardest(own) > on_hardest(longer) + 0.1
    assert on_hardest(joint) > on_hardest(longer)
    assert on_hardest(longer) > on_hardest(general)


def test_what_does_not_fit_is_named(drawn: Pair, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="makes patches of 60x48, not 40x32"):
        overfit(create_model("stdo_espcn_x3"), drawing(drawn), steps=1, crop=0, seed=0)
    torch.save({"network": fresh().state_dict(), "optimizer": {}, "step": 1}, tmp_path / "a.state")
    with pytest.raises(UsageError, match="of another network"):
        overfit_file("stdo_vdsr_x2", drawing(drawn), tmp_path / "a.safetensors", steps=2, crop=0, seed=0)
