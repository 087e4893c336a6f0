"""Patches of photographs: what is read, and that batches are what they have always been."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgedeploy.core.errors import UsageError
from edgedeploy.models.training.experiments.super_resolution import SuperResolutionSettings
from edgedeploy.models.training.patches import Pair, draw_batch, load_pairs
from edgedeploy.tasks.images import read_image
from tests.training_runs import draw_photographs


def settings(**changes: object) -> SuperResolutionSettings:
    fields = {"scale": 2, "folders": ("a", "b"), "patch": 12, "shrink": (1.0, 0.7), **changes}
    return SuperResolutionSettings.model_validate(fields)


def batch_of(root: Path, chosen: SuperResolutionSettings, step: int = 3) -> Pair:
    return draw_batch(load_pairs(root, chosen), chosen, batch=6, seed=1, step=step)


def assert_equal(one: Pair, other: Pair) -> None:
    for found, wanted in zip(one, other, strict=True):
        assert torch.equal(found, wanted)


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


def test_photographs_of_16_bits_keep_their_greys(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    grey = rng.integers(0, 256, (60, 72)).astype(np.uint8)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a" / "0.png")
    Image.fromarray(grey).save(tmp_path / "b" / "0.png")
    deep, flat = (batch_of(tmp_path, settings(folders=(folder,))) for folder in "ab")
    assert_equal(deep, flat)


@pytest.mark.parametrize("folder", ["T91", "BSD200"])
def test_real_photographs_have_the_pixels_that_pillow_reads(shared: Path, folder: str) -> None:
    """The bundled ESPCN were trained on those."""
    for file in sorted((shared / "data" / "sr" / folder).iterdir())[::30]:
        with Image.open(file) as opened:
            np.testing.assert_array_equal(read_image(file), np.asarray(opened.convert("RGB")))
