"""Patches of photographs: what is read, and that batches are what they have always been."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgedeploy.core.errors import UsageError
from edgedeploy.models import create_model
from edgedeploy.models.training import patches
from edgedeploy.models.training.experiment import make_experiment
from edgedeploy.models.training.experiments.super_resolution import SuperResolutionSettings
from edgedeploy.models.training.patches import Pair, draw_batch, load_pairs
from edgedeploy.models.training.sheets import fit
from edgedeploy.vision.color import luma_from_rgb
from edgedeploy.vision.images import read_image
from edgedeploy.vision.resize import imresize
from tests.support.training_runs import draw_photographs, upscaling


def settings(**changes: object) -> SuperResolutionSettings:
    fields = {"scale": 2, "folders": ("a", "b"), "patch": 12, "shrink": (1.0, 0.7), **changes}
    return SuperResolutionSettings.model_validate(fields)


def batch_of(root: Path, chosen: SuperResolutionSettings, step: int = 3) -> Pair:
    return draw_batch(load_pairs(root, chosen), chosen, batch=6, positions=range(6), seed=1, step=step)


def assert_equal(one: Pair, other: Pair) -> None:
    for found, wanted in zip(one, other, strict=True):
        assert torch.equal(found, wanted)


def drawn_from_luma(root: Path, chosen: SuperResolutionSettings, step: int = 3) -> Pair:
    """The batch of `batch_of`, with every image turned into luma as a whole before anything is drawn."""
    images, weights = [], []
    for folder in chosen.folders:
        areas = []
        for file in sorted((root / folder).glob("*.png")):
            for factor in chosen.shrink:
                with Image.open(file) as opened:
                    image = opened.convert("RGB")
                size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
                image = image.resize(size, Image.Resampling.BICUBIC)
                width, height = image.width // chosen.scale, image.height // chosen.scale
                if min(width, height) >= chosen.patch:
                    high = image.crop((0, 0, width * chosen.scale, height * chosen.scale))
                    low = high.resize((width, height), Image.Resampling.BICUBIC)
                    images.append([torch.from_numpy(luma_from_rgb(np.asarray(part))) for part in (low, high)])
                    areas.append(width * height)
        weights.append(np.array(areas) / sum(areas) / len(chosen.folders))
    rng, p, s = np.random.default_rng([1, step]), chosen.patch, chosen.scale
    lows, highs = [], []
    for index in rng.choice(len(images), size=6, p=np.concatenate(weights)):
        y, x = (int(rng.integers(0, n - p + 1)) for n in images[index][0].shape)
        low, high = images[index][0][y : y + p, x : x + p], images[index][1]
        high = high[y * s : (y + p) * s, x * s : (x + p) * s]
        for axis in (0, 1):
            if rng.integers(2):
                low, high = low.flip(axis), high.flip(axis)
        turned = bool(rng.integers(2))
        lows.append(low.T if turned else low)
        highs.append(high.T if turned else high)
    return torch.stack(lows).unsqueeze(1), torch.stack(highs).unsqueeze(1)


@pytest.mark.parametrize("memory", [1.0, 30e-6, 0.0])
@pytest.mark.parametrize("scale", [2, 3])
def test_batches_are_the_same_whatever_memory_holds(tmp_path: Path, memory: float, scale: int) -> None:
    data, chosen = draw_photographs(tmp_path), settings(scale=scale, memory=memory)
    held = len(load_pairs(data, chosen).kept)
    assert held == {1.0: 6, 0.0: 0}.get(memory, held)
    assert memory != 30e-6 or 0 < held < 6
    for step in range(8):
        assert_equal(batch_of(data, chosen, step), drawn_from_luma(data, chosen, step))


def test_images_that_are_smaller_than_a_patch_are_left_out(tmp_path: Path) -> None:
    data = draw_photographs(tmp_path)  # 60 x 72; 42 x 50 at 0.7
    chosen = settings(patch=22)
    assert {source.factor for source in load_pairs(data, chosen).sources} == {1.0}
    assert_equal(batch_of(data, chosen), drawn_from_luma(data, chosen))


@pytest.mark.parametrize("limit", [0, 20_000, 100_000])
def test_no_more_is_kept_than_memory_holds(tmp_path: Path, limit: int) -> None:
    chosen = settings(memory=limit / 1e9)
    pairs = load_pairs(draw_photographs(tmp_path), chosen)
    for step in range(4):
        draw_batch(pairs, chosen, batch=6, positions=range(6), seed=1, step=step)
    assert sum(image.nbytes for pair in pairs.kept.values() for image in pair) <= limit
    assert bool(pairs.kept) == bool(limit)


def test_a_process_decodes_its_own_share_of_a_batch_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, chosen, seen = draw_photographs(tmp_path), settings(memory=0), []
    pairs, whole = load_pairs(data, chosen), batch_of(data, chosen)
    read = patches.read_image
    monkeypatch.setattr(patches, "read_image", lambda path: seen.append(path) or read(path))
    share = draw_batch(pairs, chosen, batch=6, positions=[1, 4], seed=1, step=3)
    assert_equal(share, (whole[0][[1, 4]], whole[1][[1, 4]]))
    assert len(seen) == 2


def test_luma_of_a_color_is_one_number_in_whatever_order_it_is_summed(rng: np.random.Generator) -> None:
    """float64 sums differ in their last bits, and no color lies where float32 would show it.

    All 2^24 take seconds and were tried once; here one plane of them and some at random.
    """
    plane = np.stack(np.meshgrid(200, np.arange(256), np.arange(256), indexing="ij"), -1).reshape(-1, 3)
    colors = np.concatenate([plane, rng.integers(0, 256, (100_000, 3))]).astype(np.uint8)
    exact = colors.astype(np.longdouble) @ (
        np.array([65.481, 128.553, 24.966], np.longdouble) / np.longdouble(255)
    )
    exact = (exact + 16) / 255
    slack = np.longdouble(8 * np.spacing(1.0))
    found = luma_from_rgb(colors[None])[0]
    np.testing.assert_array_equal((exact - slack).astype(np.float32), found)
    np.testing.assert_array_equal((exact + slack).astype(np.float32), found)


def test_a_damaged_photograph_is_named_before_training_begins(tmp_path: Path) -> None:
    data = draw_photographs(tmp_path)
    whole = (data / "a" / "0.png").read_bytes()
    (data / "a" / "9.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"9\.png is not a whole image"):
        load_pairs(data, settings())


def test_files_that_systems_leave_beside_photographs_are_left_out(tmp_path: Path) -> None:
    data = draw_photographs(tmp_path)
    before = batch_of(data, settings())
    (data / "a" / "._0.png").write_bytes(b"\x00\x05\x16\x07 Mac OS X")
    assert_equal(batch_of(data, settings()), before)


def test_photographs_of_16_bits_keep_their_grays(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    gray = rng.integers(0, 256, (60, 72)).astype(np.uint8)
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "a" / "0.png")
    Image.fromarray(gray).save(tmp_path / "b" / "0.png")
    deep, flat = (batch_of(tmp_path, settings(folders=(folder,))) for folder in "ab")
    assert_equal(deep, flat)


@pytest.mark.parametrize("folder", ["T91", "BSD200"])
def test_real_photographs_have_the_pixels_that_pillow_reads(shared: Path, folder: str) -> None:
    """The bundled ESPCN were trained on those."""
    for file in sorted((shared / "data" / "sr" / folder).iterdir())[::30]:
        with Image.open(file) as opened:
            np.testing.assert_array_equal(read_image(file), np.asarray(opened.convert("RGB")))


@pytest.mark.parametrize("validation", ["b", ""])
def test_a_sheet_shows_bicubic_prediction_and_truth(tmp_path: Path, validation: str) -> None:
    """Of the validation images; of photographs that are trained on where there are none."""
    recipe = upscaling({"folders": ("b",), "validation": validation})
    experiment = make_experiment(recipe, draw_photographs(tmp_path))
    sheet = experiment.sheet(create_model("espcn_x2"))
    truth = read_image(tmp_path / "b" / "2.png")
    low = imresize(truth, 30, 36)
    bicubic, predicted, shown = (
        sheet[4:][:333, left : left + 400] for left in (4, 408, 812)
    )  # 72 x 60, enlarged to 400 x 333
    np.testing.assert_array_equal(shown, fit(truth, 400))
    difference = np.abs(bicubic.astype(int) - fit(imresize(low, 60, 72), 400))
    assert difference.mean() < 1  # training shrinks by Pillow's bicubic, the metric by MATLAB's
    assert np.abs(predicted.astype(int) - shown).mean() > 5  # an untrained network
    assert sheet.shape == (408, 1216, 3)


def test_a_sheet_shows_the_middle_of_large_pictures(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "a").mkdir()
    pixels = rng.integers(0, 256, (300, 500, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a" / "0.png")
    sheet = make_experiment(upscaling({"folders": ("a",)}), tmp_path).sheet(create_model("espcn_x2"))
    np.testing.assert_array_equal(sheet[4:404, 812:1212], fit(pixels[50:250, 150:350], 400))


def test_a_validation_folder_that_is_none_is_refused_before_training(tmp_path: Path) -> None:
    data = draw_photographs(tmp_path)
    with pytest.raises(UsageError, match=r"settings\.validation: .*absent is neither") as caught:
        make_experiment(upscaling({"validation": "absent"}), data)
    assert "LRx2" in caught.value.hint
    (data / "set" / "HR").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"LRx2 is not a folder"):
        make_experiment(upscaling({"validation": "set"}), data)
    (data / "set" / "LRx2").mkdir()
    Image.new("RGB", (20, 20)).save(data / "set" / "LRx2" / "0.png")
    with pytest.raises(UsageError, match=r"cannot read .*HR.0\.png"):
        make_experiment(upscaling({"validation": "set"}), data)
