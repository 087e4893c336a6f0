"""Segmentation and the fallback task: the argmax at full size, the metric, the folders, the drawing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from edgedeploy.core.errors import UsageError
from edgedeploy.tasks.segmentation import Segmentation, argmax_at
from edgedeploy.tasks.tensor import TensorTask
from edgedeploy.vision.images import read_image, write_image
from edgedeploy.vision.label_map import read_label_map
from edgedeploy.vision.metrics import ConfusionMatrix
from edgedeploy.vision.palette import palette
from edgedeploy.vision.segmentation_data import label_folders
from tests.support.tasks import Size, task_on_images

Array = np.ndarray[Any, Any]


def make(classes: int = 3, size: Size = ("h", "w"), name: str = "segmentation", **options: Any) -> Any:
    return task_on_images(name, {"logits": (1, classes, "a", "b")}, size, **options)


def brightest_channel(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """A network that says red, green or blue, at an eighth of the resolution."""
    height, width = feeds["image"].shape[2:]
    small = [
        cv2.resize(c, (width // 8, height // 8), interpolation=cv2.INTER_AREA) for c in feeds["image"][0]
    ]
    return {"logits": np.stack(small)[None]}


def stripes(height: int = 64, width: int = 96) -> tuple[Array, Array]:
    """An image of a red, a green and a blue stripe, and its classes."""
    classes = np.repeat(np.arange(3, dtype=np.uint8), width // 3)[None].repeat(height, 0)
    return (np.eye(3, dtype=np.uint8) * 200)[classes], classes


def test_argmax_at_is_the_argmax_of_the_enlarged_logits(rng: np.random.Generator) -> None:
    logits = rng.standard_normal((7, 5, 6)).astype(np.float32)
    whole = np.stack([cv2.resize(plane, (48, 40), interpolation=cv2.INTER_LINEAR) for plane in logits])
    np.testing.assert_array_equal(argmax_at(logits, 40, 48), whole.argmax(0))
    np.testing.assert_array_equal(argmax_at(logits, 5, 6), logits.argmax(0))
    ties = rng.integers(0, 2, (7, 5, 6)).astype(np.float32)
    np.testing.assert_array_equal(
        argmax_at(ties, 5, 6), ties.argmax(0)
    )  # the first of equals, as argmax heads


@pytest.mark.parametrize("size", [("h", "w"), (64, 96), (32, 48)])
def test_the_class_map_has_the_size_of_the_image(size: tuple[int | str, int | str]) -> None:
    image, classes = stripes()
    result = make(size=size).run(brightest_channel, image)
    assert result.shape == image.shape[:2]
    assert (result == classes).mean() > 0.95


@pytest.mark.parametrize("shape", [(1, 64, 96), (1, 1, 64, 96), (1, 64, 96, 1), (1, 8, 12)])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_an_argmax_head_is_taken_as_it_is(shape: tuple[int, ...], dtype: type) -> None:
    image, classes = stripes()
    small = classes if 64 in shape else classes[::8, ::8]
    result = make().postprocess({"logits": small.astype(dtype).reshape(shape)}, image)
    np.testing.assert_array_equal(result, classes)


def test_more_classes_than_a_byte_holds_are_refused() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UsageError, match="says class 300"):
        make().postprocess({"logits": np.full((1, 8, 8), 300)}, image)
    with pytest.raises(UsageError, match="holds 256 classes"):
        make().postprocess({"logits": np.zeros((1, 257, 2, 2), np.float32)}, image)


def test_normalization_and_size_multiple() -> None:
    task = make(mean=[10.0, 20.0, 30.0], std=[1.0, 2.0, 4.0], size_multiple=32)
    image = np.full((60, 100, 3), (11, 24, 38), np.uint8)
    feed = task.preprocess(image)["image"]
    assert feed.shape == task.input_shape(60, 100) == (1, 3, 64, 96)
    np.testing.assert_allclose(feed[0, :, 5, 5], [1, 2, 2], atol=1e-6)


def test_confusion_matrix_against_counting(rng: np.random.Generator) -> None:
    truth, predicted = rng.integers(0, 5, (2, 20, 30))
    predicted = np.minimum(predicted, 3)
    matrix = ConfusionMatrix(4, ignore=4)
    for row in range(20):  # fed in pieces, as images come
        matrix.add(truth[row], predicted[row])
    kept = truth != 4
    for klass in range(4):
        both = ((truth == klass) & (predicted == klass)).sum()
        either = (((truth == klass) | (predicted == klass)) & kept).sum()
        assert matrix.iou()[klass] == pytest.approx(both / either)
    assert matrix.accuracy() == pytest.approx((truth == predicted)[kept].mean())
    assert matrix.mean_iou() == pytest.approx(matrix.iou().mean())


def test_confusion_matrix_leaves_out_absent_classes_and_refuses_unknown_ones() -> None:
    matrix = ConfusionMatrix(5)
    assert np.isnan(matrix.mean_iou())
    matrix.add(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    assert matrix.mean_iou() == pytest.approx((1 / 2 + 2 / 3) / 2)
    with pytest.raises(UsageError, match="class 7"):
        matrix.add(np.array([7]), np.array([0]))


def write_pairs(folder: Path, count: int = 3) -> None:
    image, classes = stripes()
    classes = classes.copy()
    classes[:4] = 9  # unlabeled
    (folder / "valannot").mkdir(parents=True)
    (folder / "val").mkdir()
    for index in range(count):
        write_image(folder / f"val/{index}.png", image)
        Pillow.fromarray(classes).save(folder / f"valannot/{index}.png")


@pytest.mark.parametrize("below", ["", "val"])
def test_mean_iou_of_a_folder(tmp_path: Path, below: str) -> None:
    write_pairs(tmp_path)
    scores = make(ignore=9).evaluate(brightest_channel, tmp_path / below, limit=2)
    assert scores["images"] == 2
    assert 0.9 < scores["miou"] <= 1
    wrong = make(ignore=9).evaluate(
        lambda feeds: {"logits": -brightest_channel(feeds)["logits"]}, tmp_path / below, limit=2
    )
    assert wrong["miou"] < 0.1
    with pytest.raises(UsageError, match="class 9"):
        make().evaluate(brightest_channel, tmp_path)


def write_city(root: Path, split: str, city: str, ids: list[int], guesses: list[int]) -> None:
    """An image of four stripes, each as red as the class that `by_redness` will say, and its labelIds."""
    name = f"{city}_000000_000019"
    for kind, end, values in (
        ("leftImg8bit", "leftImg8bit", np.repeat(np.array(guesses)[:, None], 3, axis=1)),
        ("gtFine", "gtFine_labelIds", np.array(ids)),
    ):
        folder = root / kind / split / city
        folder.mkdir(parents=True, exist_ok=True)
        stripes_of = np.repeat(values.astype(np.uint8)[None], 16, axis=0).repeat(8, axis=1)
        Pillow.fromarray(stripes_of).save(folder / f"{name}_{end}.png")


def by_redness(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """A network that takes the red of a pixel for its class, of 19."""
    red = feeds["image"][:, 0].round().astype(int)
    return {"logits": np.eye(19, dtype=np.float32)[red].transpose(0, 3, 1, 2)}


def test_cityscapes_is_scored_as_its_authors_do(tmp_path: Path) -> None:
    """labelIds become the 19 classes of training; pixels of the others, such as id 0, do not count."""
    write_city(tmp_path, "val", "lindau", [7, 8, 0, 26], [0, 0, 13, 13])
    write_city(tmp_path, "val", "ulm", [7, 7, 7, 7], [0, 0, 0, 0])
    write_city(tmp_path, "train", "aachen", [33, 33, 11, 11], [18, 18, 2, 3])
    task = make(classes=19, ignore=3, mean=[0.0], std=[1.0])  # the data set says what does not count
    # A stripe of sidewalk is called road: road 5 / 6, sidewalk 0, car 1.
    expected = {"miou": pytest.approx(11 / 18), "pixel_accuracy": pytest.approx(6 / 7), "images": 2}
    for named in ("", "leftImg8bit", "leftImg8bit/val"):
        assert task.evaluate(by_redness, tmp_path / named) == expected
    # Bicycle 1, building 1 / 2, wall 0.
    scores = task.evaluate(by_redness, tmp_path / "leftImg8bit" / "train")
    assert scores["miou"] == pytest.approx(1 / 2)
    assert task.evaluate(by_redness, tmp_path, limit=1)["pixel_accuracy"] == pytest.approx(2 / 3)
    with pytest.raises(UsageError, match=r"Cityscapes of 19 classes, x\.onnx has 11"):
        make(classes=11).evaluate(by_redness, tmp_path)
    (tmp_path / "gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(UsageError, match=r"1 of 2 class maps are missing, first .*ulm_000000_000019_gtFine"):
        task.evaluate(by_redness, tmp_path)


def test_cityscapes_without_a_val_split_is_measured_on_train(tmp_path: Path) -> None:
    write_city(tmp_path, "train", "aachen", [7, 7, 8, 8], [0, 0, 1, 1])
    assert make(classes=19, mean=[0.0], std=[1.0]).evaluate(by_redness, tmp_path)["miou"] == 1


def test_a_perfect_model_of_camvid_scores_one(shared: Path) -> None:
    camvid = shared / "data/camvid"
    images, labels = label_folders(camvid)
    assert images.name == "val"
    truth = {
        read_image(f).tobytes(): read_label_map(labels / f"{f.stem}.png")
        for f in sorted(images.iterdir())[:3]
    }

    class Oracle(Segmentation):
        def run(self, session: object, image: Array) -> Array:  # noqa: ARG002
            return np.minimum(truth[image.tobytes()], 10)  # cannot say void, which must not cost anything

    scores = Oracle(make(classes=11).artifact).evaluate(brightest_channel, camvid, limit=3)
    assert scores["miou"] == 1
    assert scores["pixel_accuracy"] == 1


def test_folders_without_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no pair"):
        label_folders(tmp_path)
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UsageError, match="without class maps"):
        label_folders(tmp_path)


@pytest.mark.parametrize("size", [(64, 96), (7, 9), (300, 200)])
def test_drawing_mixes_colors_and_keeps_the_size(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 90, np.uint8)
    classes = np.full(size, 2, np.uint8)
    before = image.copy()
    drawn = make().draw(image, classes)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    color = palette(3)[2].astype(float)
    np.testing.assert_allclose(drawn[-1, -1], 0.55 * color + 0.45 * 90, atol=1)
    np.testing.assert_array_equal(make().draw_map(image, classes)[-1, -1], palette(3)[2])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_tensor_task_takes_any_image_network(rng: np.random.Generator, channels: int) -> None:
    base = make(name="tensor").artifact
    spec = base.inputs[0].model_copy(update={"shape": (1, channels, 16, 24), "layout": ""})
    task = TensorTask(base.model_copy(update={"inputs": (spec,)}))
    image = rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)
    result = task.run(lambda feeds: {"out": feeds["image"] * 2}, image)
    assert result["out"].shape == (1, channels, 16, 24)
    memory = np.zeros((1, 2))
    assert not np.shares_memory(task.postprocess({"out": memory}, image)["out"], memory)
    assert 0 <= result["out"].min() < result["out"].max() <= 2
    drawn = task.draw(image, result)
    assert drawn.shape == image.shape
    assert (drawn != image).any()
    with pytest.raises(UsageError, match="does not say what its outputs mean"):
        task.evaluate(dict, Path())


def test_inputs_that_are_no_images_are_refused() -> None:
    base = make(name="tensor").artifact
    for shape in [(1, 512), (1, "c", 8, 8), (1, 5, 8, 8)]:
        spec = base.inputs[0].model_copy(update={"shape": shape, "layout": ""})
        with pytest.raises(UsageError, match=r"channels|images"):
            TensorTask(base.model_copy(update={"inputs": (spec,)})).preprocess(np.zeros((8, 8, 3), np.uint8))
