"""Tiny trainings for tests: drawn data sets and recipes that take a second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgedeploy.models.training.recipe import TrainingRecipe


def draw_photographs(root: Path) -> Path:
    """Folders a and b with HR pictures of smooth waves and hard edges, which bicubic cannot restore."""
    rng = np.random.default_rng(0)
    for index, folder in enumerate(("a", "a", "b")):
        y, x = np.mgrid[0:60, 0:72]
        waves = np.sin((x * rng.random() + y * rng.random()) / 2)[..., None]
        edges = ((x + 2 * y) // rng.integers(5, 12) % 2)[..., None]
        picture = 128 + 60 * waves * rng.random(3) + 60 * (edges - 0.5)
        (root / folder).mkdir(exist_ok=True)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / folder / f"{index}.png")
    (root / "a" / "notes.txt").write_text("no picture")
    return root


def draw_streets(root: Path, count: int = 6) -> Path:
    """A data set laid out as CamVid: a sky above a road, a car on it, some of it unlabelled."""
    rng = np.random.default_rng(1)
    for split in ("train", "val"):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for index in range(count):
            truth = np.zeros((64, 96), np.uint8)
            truth[int(rng.integers(24, 40)) :] = 3
            x = int(rng.integers(8, 70))
            truth[44:56, x : x + 16] = 8
            truth[:4, :8] = 11
            colours = np.array(
                [[130, 180, 230], *[[0, 0, 0]] * 2, [90, 90, 90], *[[0, 0, 0]] * 4, [180, 20, 20]]
            )
            image = colours[np.minimum(truth, 8)] + rng.integers(-12, 13, (64, 96, 3))
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / split / f"{index}.png")
            Image.fromarray(truth).save(root / f"{split}annot" / f"{index}.png")
    return root


def upscaling(settings: Mapping[str, Any] | None = None, **changes: Any) -> TrainingRecipe:
    """ESPCN x2 on `draw_photographs`."""
    fields: dict[str, Any] = {
        "experiment": "super-resolution",
        "model": "espcn_x2",
        "steps": 60,
        "batch": 4,
        "optimiser": {"name": "soap", "learning_rate": 3e-3},
        "schedule": {"name": "cosine", "warmup": 10, "final": 0.01},
        "ema": 0.9,
        "settings": {"scale": 2, "folders": ("a", "b"), "patch": 12, **(settings or {})},
    }
    return TrainingRecipe.model_validate({**fields, **changes})


def plain() -> TrainingRecipe:
    """A few steps of plain gradient descent, which does not amplify the rounding of sums."""
    return upscaling(steps=8, optimiser={"name": "sgd", "learning_rate": 0.01}, schedule={"name": "constant"})


def streets(settings: Mapping[str, Any] | None = None, **changes: Any) -> TrainingRecipe:
    """DDRNet-23-slim on `draw_streets`."""
    fields: dict[str, Any] = {
        "experiment": "segmentation",
        "model": "ddrnet_23_slim",
        "options": {"classes": 11, "augment": True},
        "steps": 6,
        "batch": 2,
        "optimiser": {"name": "sgd", "learning_rate": 0.01},
        "settings": {"layout": "camvid", "crop": (64, 64), **(settings or {})},
    }
    return TrainingRecipe.model_validate({**fields, **changes})
