"""Disc and cup: masks from logits, the overlap measure, the mask formats, a folder from end to end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from edgedeploy.core.errors import UsageError
from edgedeploy.tasks.disc_cup import cup_to_disc_ratio, dice, read_masks
from edgedeploy.vision.images import read_image, write_image
from tests.support.tasks import task_on_images

Array = np.ndarray[Any, Any]


def make(size: int = 64, **options: Any) -> Any:
    return task_on_images("disc-cup", {"logits": (1, 2, size, size)}, (size, size), **options)


def circles(height: int = 120, width: int = 160) -> tuple[Array, Array]:
    """A picture whose green is the disc and red the cup, and the class map."""
    rows, columns = np.mgrid[:height, :width]
    away = np.hypot(rows - height / 2, columns - width / 2)
    classes = ((away < 40).astype(np.uint8) + (away < 20)).astype(np.uint8)
    image = np.stack([classes == 2, classes >= 1, np.zeros_like(classes)], -1).astype(np.uint8) * 255
    return image, classes


def colors(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """A network that takes red for cup and green for disc."""
    return {"logits": feeds["image"][:, :2] * 8.0}


def test_masks_of_an_image_have_its_size() -> None:
    image, classes = circles()
    cup, disc = make().run(colors, image)
    assert dice(classes == 2, cup) > 0.93
    assert dice(classes >= 1, disc) > 0.96
    assert cup_to_disc_ratio(np.stack([cup, disc])) == pytest.approx(0.5, abs=0.05)


def test_the_threshold_is_on_the_sigmoid() -> None:
    shares = np.array([[0.6, 0.74], [0.76, 0.9]], np.float32)
    logits = np.stack([np.log(shares / (1 - shares)), -np.ones((2, 2))])[None].astype(np.float32)
    image = np.zeros((2, 2, 3), np.uint8)
    np.testing.assert_array_equal(make().postprocess({"logits": logits}, image)[0], shares > 0.75)
    np.testing.assert_array_equal(make(threshold=0.5).postprocess({"logits": logits}, image)[0], shares > 0.5)
    with pytest.raises(UsageError, match="keeps all or nothing"):
        make(threshold=1).postprocess({"logits": logits}, image)
    with pytest.raises(UsageError, match="not \\(1, 2, h, w\\)"):
        make().postprocess({"logits": logits[:, :1]}, image)


def test_input_is_scaled_to_one() -> None:
    feed = make(8).preprocess(np.full((8, 8, 3), (0, 255, 51), np.uint8))["image"]
    np.testing.assert_allclose(feed[0, :, 3, 3], [-1, 1, -0.6], atol=1e-6)


def test_dice_against_sets(rng: np.random.Generator) -> None:
    one, other = rng.random((2, 9, 11)) < 0.4
    a, b = (set(np.flatnonzero(mask).tolist()) for mask in (one, other))
    assert dice(one, other) == pytest.approx(2 * len(a & b) / (len(a) + len(b)))
    assert dice(one & False, other & False) == 1
    assert dice(one, other & False) == 0


def test_ratio_is_of_heights() -> None:
    masks = np.zeros((2, 20, 30), bool)
    assert math.isnan(cup_to_disc_ratio(masks))
    masks[1, 5:15, 3:29] = True
    assert cup_to_disc_ratio(masks) == 0
    masks[0, 7:10, 4:28] = True
    assert cup_to_disc_ratio(masks) == pytest.approx(0.3)


def test_both_forms_of_masks_are_read(tmp_path: Path) -> None:
    _, classes = circles()
    palette = Pillow.fromarray(classes)
    palette.putpalette([0, 0, 0, 0, 255, 0, 255, 0, 0])
    palette.save(tmp_path / "palette.png")
    gray = np.array([255, 128, 0], np.uint8)[classes]
    Pillow.fromarray(gray).save(tmp_path / "gray.png")
    for name in ("palette", "gray"):
        np.testing.assert_array_equal(
            read_masks(tmp_path / f"{name}.png"), np.stack([classes == 2, classes >= 1])
        )


def test_limits_of_gray_levels(tmp_path: Path) -> None:
    Pillow.fromarray(np.array([[0, 50, 51, 200, 201, 255]], np.uint8)).save(tmp_path / "m.png")
    cup, disc = read_masks(tmp_path / "m.png")[:, 0]
    assert cup.tolist() == [True, True, False, False, False, False]
    assert disc.tolist() == [True, True, True, True, False, False]


def write_folder(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    image, classes = circles()
    write_image(folder / "images/a.png", image)
    Pillow.fromarray(classes).save(folder / "masks/a.png")
    write_image(folder / "images/b.png", np.zeros_like(image))
    Pillow.fromarray(classes).save(folder / "masks/b.png")


def test_folder(tmp_path: Path) -> None:
    write_folder(tmp_path)
    scores = make().evaluate(colors, tmp_path)
    assert scores["images"] == 2
    assert 0.46 < scores["dice_cup"] < 0.5  # half of the images has nothing in it
    assert scores["dice"] == pytest.approx((scores["dice_cup"] + scores["dice_disc"]) / 2)
    assert scores["cup_to_disc_error"] < 0.05
    assert make().evaluate(colors, tmp_path, limit=1)["dice"] > 0.93
    with pytest.raises(UsageError, match="holds no images/ and masks/"):
        make().evaluate(colors, tmp_path / "images")


def test_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_image(tmp_path / "images/a.png", np.zeros((60, 80, 3), np.uint8))
    with pytest.raises(UsageError, match="differ in size"):
        make().evaluate(colors, tmp_path)


def test_drawing_outlines_both(tmp_path: Path) -> None:
    image, classes = circles()
    drawn = make().draw(np.zeros_like(image), np.stack([classes == 2, classes >= 1]))
    assert drawn.shape == image.shape
    rows, columns = np.nonzero((drawn[40:, 60:] == (0, 200, 255)).all(-1))
    away = np.hypot(rows + 40 - 60, columns + 60 - 80)
    assert away.size > 50
    assert away.min() > 36
    assert away.max() < 43
    assert make().draw(image, np.zeros((2, *classes.shape), bool)).shape == image.shape


def test_real_masks_hold_the_cup_inside_the_disc(shared: Path) -> None:
    folder = shared / "data/drishti_gs/train"
    if not folder.is_dir():
        pytest.skip("no Drishti-GS")
    for path in sorted((folder / "masks").glob("*.png"))[:5]:
        masks = read_masks(path)
        image = read_image(folder / f"images/{path.stem}.jpg")
        assert masks.shape[1:] == image.shape[:2]
        assert not (masks[0] & ~masks[1]).any()
        assert 0.2 < cup_to_disc_ratio(masks) < 0.95

    def truth(feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The first image's own masks, at the network's size: the metric's ceiling there."""
        first = read_masks(folder / f"masks/{sorted((folder / 'images').iterdir())[0].stem}.png")
        small = [cv2.resize(m.astype(np.float32), feeds["image"].shape[:1:-1]) for m in first]
        return {"logits": (np.stack(small)[None] - 0.5) * 20 + 1.1}

    assert make(256).evaluate(truth, folder, limit=1)["dice"] > 0.97
