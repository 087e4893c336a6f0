"""Tiny trainings for tests: drawn data sets and recipes that take a second."""

from __future__ import annotations

import io
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
    """A data set laid out as CamVid: a sky above a road, a car on it, some of it unlabeled."""
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
            colors = np.array(
                [[130, 180, 230], *[[0, 0, 0]] * 2, [90, 90, 90], *[[0, 0, 0]] * 4, [180, 20, 20]]
            )
            image = colors[np.minimum(truth, 8)] + rng.integers(-12, 13, (64, 96, 3))
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
        "optimizer": {"name": "soap", "learning_rate": 3e-3},
        "schedule": {"name": "cosine", "warmup": 10, "final": 0.01},
        "ema": 0.9,
        "settings": {"scale": 2, "folders": ("a", "b"), "patch": 12, **(settings or {})},
    }
    return TrainingRecipe.model_validate({**fields, **changes})


def plain() -> TrainingRecipe:
    """A few steps of plain gradient descent, which does not amplify the rounding of sums."""
    return upscaling(steps=8, optimizer={"name": "sgd", "learning_rate": 0.01}, schedule={"name": "constant"})


def streets(settings: Mapping[str, Any] | None = None, **changes: Any) -> TrainingRecipe:
    """DDRNet-23-slim on `draw_streets`."""
    fields: dict[str, Any] = {
        "experiment": "segmentation",
        "model": "ddrnet_23_slim",
        "options": {"classes": 11, "augment": True},
        "steps": 6,
        "batch": 2,
        "optimizer": {"name": "sgd", "learning_rate": 0.01},
        "settings": {"layout": "camvid", "crop": (64, 64), **(settings or {})},
    }
    return TrainingRecipe.model_validate({**fields, **changes})


def flat() -> TrainingRecipe:
    """A step of DDRNet, batch norms and all, with a loss that is a mean over the pixels of a batch."""
    every_pixel = {"ohem_share": 1.0, "ohem_threshold": 1e-9, "scale": (1.0, 1.0)}
    return streets(
        every_pixel, steps=1, batch=4, optimizer={"name": "sgd", "learning_rate": 0.01, "momentum": 0.0}
    )


def draw_classes(root: Path, count: int = 8) -> Path:
    """A data set laid out as ImageNet: folders of a red, a green and a blue class, with noise."""
    rng = np.random.default_rng(2)
    for split in ("train", "val"):
        for channel, name in enumerate(("red", "green", "blue")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 120, (40, 36, 3))
                pixels[..., channel] += 100
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{index}.png")
    return root


def write_archive(
    path: Path, pictures: list[np.ndarray], labels: list[int], classes: tuple[str, ...]
) -> Path:
    """An archive of pictures; see tasks/image_archive.py."""
    parts = []
    for pixels in pictures:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "png")
        parts.append(stream.getvalue())
    np.savez(
        path,
        jpeg=np.frombuffer(b"".join(parts), np.uint8),
        offsets=np.cumsum([0, *map(len, parts)]),
        labels=np.array(labels),
        classes=np.array(classes),
    )
    return path


def draw_archives(root: Path, count: int = 24) -> Path:
    """The same as `draw_classes` in two archives, as CIFAR is kept."""
    rng, root = np.random.default_rng(3), root
    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        pictures = rng.integers(0, 120, (count, 32, 32, 3))
        for index in range(count):
            pictures[index, ..., index % 3] += 100
        labels = [index % 3 for index in range(count)]
        write_archive(
            root / f"{split}.npz", list(pictures.astype(np.uint8)), labels, ("red", "green", "blue")
        )
    return root


def draw_faces(root: Path, people: int = 8, images: int = 5) -> Path:
    """Folders s1 to s8: everybody has a pattern of their own."""
    rng = np.random.default_rng(4)
    for number in range(1, people + 1):
        (root / f"s{number}").mkdir(parents=True)
        face = np.kron(rng.integers(40, 216, (7, 6)), np.ones((8, 8)))
        for index in range(images):
            pixels = np.clip(face + rng.normal(0, 12, face.shape), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"s{number}" / f"{index}.png")
    return root


def draw_fundus(root: Path, count: int = 6) -> Path:
    """images/ and masks/: a bright disc with a brighter cup on dark red."""
    rng = np.random.default_rng(5)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    y, x = np.mgrid[:80, :100]
    for index in range(count):
        distance = np.hypot(x - rng.uniform(30, 70), y - rng.uniform(30, 50))
        mask = (distance < 22).astype(np.uint8) + (distance < 11)
        colors = np.array([[90, 30, 20], [200, 140, 60], [250, 240, 170]])
        image = colors[mask] + rng.integers(-10, 11, (80, 100, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{index}.png")
        Image.fromarray(mask).save(root / "masks" / f"{index}.png")
    return root


def draw_signs(root: Path, count: int = 5) -> Path:
    """Photographs of white words on dark ground, as ICDAR 2015 lays them out, and grounds without words."""
    rng = np.random.default_rng(6)
    for folder in ("signs/train_images", "signs/train_gts", "grounds"):
        (root / folder).mkdir(parents=True)
    for index in range(count):
        image = rng.integers(20, 60, (96, 128, 3)).astype(np.uint8)
        Image.fromarray(image).save(root / "grounds" / f"{index}.png")
        x, y = int(rng.integers(4, 50)), int(rng.integers(4, 60))
        image[y : y + 24, x : x + 64] = 230
        Image.fromarray(image).save(root / "signs" / "train_images" / f"img_{index}.png")
        corners = f"{x},{y},{x + 64},{y},{x + 64},{y + 24},{x},{y + 24}"
        lines = f"{corners},WORD\n0,0,9,0,9,3,0,3,###\n"
        (root / "signs" / "train_gts" / f"gt_img_{index}.txt").write_text(lines)
    return root


def _recipe(
    fields: dict[str, Any], settings: Mapping[str, Any] | None, changes: dict[str, Any]
) -> TrainingRecipe:
    merged = {**fields.pop("settings", {}), **(settings or {})}
    common = {"steps": 6, "optimizer": {"name": "adamw", "learning_rate": 2e-3}, "clip": 5.0}
    return TrainingRecipe.model_validate({**common, **fields, "settings": merged, **changes})


def colors(settings: Mapping[str, Any] | None = None, **changes: Any) -> TrainingRecipe:
    """SLAB micro on `draw_classes` or `draw_archives`."""
    fields: dict[str, Any] = {
        "experiment": "classification", "model": "slab_deit_micro", "options": {"classes": 3}, "batch": 6,
        "settings": {"mixup": 0.2, "area": (0.5, 1.0), "padding": 2, "jitter": 0.1},
    }  # fmt: skip
    return _recipe(fields, settings, changes)


def bits(settings: Mapping[str, Any] | None = None, **changes: Any) -> TrainingRecipe:
    """BiViT micro on the same; its stages change after steps 2 and 4 of 6."""
    fields: dict[str, Any] = {
        "experiment": "classification", "model": "bivit_deit_micro", "options": {"classes": 3}, "batch": 6,
        "settings": {"smoothing": 0.0, "stages": (1 / 3, 1 / 3, 1 / 3)},
    }  # fmt: skip
    return _recipe(fields, settings, changes)


def faces(settings: Mapping[str, Any] | None = None, **changes: Any) -> TrainingRecipe:
    """TVConv micro on `draw_faces`: four people are learned, four verified."""
    fields: dict[str, Any] = {
        "experiment": "face-embedding", "model": "tvconv_face_micro", "batch": 8, "settings": {"people": 4},
    }  # fmt: skip
    return _recipe(fields, settings, changes)


def fundus(settings: Mapping[str, Any] | None = None, **changes: Any) -> TrainingRecipe:
    """DeepLabV3+ at 64 x 64 on `draw_fundus`."""
    fields: dict[str, Any] = {
        "experiment": "disc-cup", "model": "tvconv_disc_cup_dw", "options": {"image_size": 64}, "batch": 2,
        "settings": {"folds": 3, "jitter": 0.1},
    }  # fmt: skip
    return _recipe(fields, settings, changes)


def signs(settings: Mapping[str, Any] | None = None, **changes: Any) -> TrainingRecipe:
    """DBNet micro on `draw_signs`, half of the examples rendered."""
    fields: dict[str, Any] = {
        "experiment": "text-detection", "model": "dbnet_micro", "options": {"augment": True}, "batch": 4,
        "settings": {
            "folders": ("signs",), "held_out": 2, "synthetic": 0.5, "backgrounds": ("grounds",),
            "crop": (64, 96), "scale": (0.8, 1.5),
        },
    }  # fmt: skip
    return _recipe(fields, settings, changes)
