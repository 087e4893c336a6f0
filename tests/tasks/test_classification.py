"""Classification: which pixels the network sees, the order of guesses, the metric, the folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from edgedeploy.core.errors import UsageError
from edgedeploy.tasks.classification import Guess, center, class_folders
from edgedeploy.vision.images import list_images, read_image, write_image
from tests.support.tasks import Size, task_on_images

Array = np.ndarray[Any, Any]


def make(classes: int = 3, labels: tuple[str, ...] = (), size: Size = (32, 32), **options: Any) -> Any:
    outputs = {"logits": (1, classes)}
    return task_on_images("classification", outputs, size, labels, **{"classes": classes, **options})


def brightest_channel(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """A network that says red, green or blue."""
    return {"logits": feeds["image"].mean((2, 3))}


def pillow_center(image: Array, side: int, resized: int) -> Array:
    """Shorter edge to `resized`, center crop: the usual evaluation, by another library."""
    height, width = image.shape[:2]
    size = (resized, resized * height // width) if width < height else (resized * width // height, resized)
    picture = Pillow.fromarray(image).resize(size, Pillow.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return np.asarray(picture.crop((left, top, left + side, top + side)))


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (256, 256), (200, 180), (301, 299), (224, 900)])
def test_the_network_sees_what_usual_evaluations_show_it(
    rng: np.random.Generator, shape: tuple[int, int]
) -> None:
    small = rng.integers(0, 256, (shape[0] // 8, shape[1] // 8, 3), dtype=np.uint8)
    image = np.asarray(Pillow.fromarray(small).resize(shape[::-1], Pillow.Resampling.BICUBIC))
    ours, usual = center(image, 224, 224, 0.875), pillow_center(image, 224, 256)
    difference = np.abs(ours.astype(int) - usual)
    assert difference.max() <= 2
    assert difference.mean() < 0.2  # the axes are rounded in another order


def test_large_pictures_are_shrunk_in_two_steps_that_keep_the_place() -> None:
    rows, columns = np.mgrid[:1200, :1800]
    smooth = np.stack([rows / 1200, columns / 1800, (rows + columns) / 3000], -1) * 255
    image = np.rint(smooth).astype(np.uint8)
    difference = np.abs(center(image, 32, 32, 0.8).astype(int) - pillow_center(image, 32, 40))
    assert difference.max() <= 2


def test_whole_and_oblong_inputs(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(center(image, 32, 32, 1.0), image)
    assert center(image, 48, 20, 0.9).shape == (48, 20, 3)
    assert center(image[:1], 8, 8, 0.5).shape == (8, 8, 3)


def test_normalization_and_open_sizes() -> None:
    image = np.full((40, 60, 3), (11, 24, 38), np.uint8)
    task = make(size=("h", "w"), mean=[10.0, 20.0, 30.0], std=[1.0, 2.0, 4.0])
    feed = task.preprocess(image)["image"]
    assert feed.shape == (1, 3, 224, 224)
    np.testing.assert_allclose(feed[0, :, 5, 5], [1, 2, 2], atol=1e-5)


def test_guesses_are_softmax_in_order(rng: np.random.Generator) -> None:
    logits = rng.standard_normal((1, 7)).astype(np.float32) * 3
    guesses = make(7, tuple("abcdefg"), top=4).postprocess({"logits": logits}, np.zeros((4, 4, 3), np.uint8))
    assert [g.index for g in guesses] == sorted(range(7), key=lambda i: -logits[0, i])[:4]
    assert [g.label for g in guesses] == ["abcdefg"[g.index] for g in guesses]
    total = sum(np.exp(float(v)) for v in logits[0])
    assert [g.probability for g in guesses] == pytest.approx(
        [np.exp(float(logits[0, g.index])) / total for g in guesses]
    )
    huge = make(3).postprocess({"logits": np.array([[1e4, -1e4, 0]], np.float32)}, np.zeros((4, 4, 3)))
    assert huge[0] == Guess(0, "0", 1.0)
    with pytest.raises(UsageError, match="7 outputs and 2 labels"):
        make(7, ("a", "b")).postprocess({"logits": logits}, np.zeros((4, 4, 3), np.uint8))


def write_folders(base: Path, names: tuple[str, ...], wrong: int = 0) -> None:
    """Three pictures a class of red, green, blue; the first `wrong` of the first class are blue."""
    for index, name in enumerate(names):
        (base / name).mkdir(parents=True)
        for number in range(3):
            color = np.zeros(3, np.uint8)
            color[2 if index == 0 and number < wrong else index] = 200
            write_image(base / name / f"{number}.png", np.full((40, 40, 3), color, np.uint8))


@pytest.mark.parametrize(
    ("names", "labels"),
    [(("r", "g", "b"), ("r", "g", "b")), (("0", "1", "2"), ()), (("n01", "n02", "n03"), ())],
)
@pytest.mark.parametrize("below", ["", "val"])
def test_accuracy_of_a_folder(
    tmp_path: Path, names: tuple[str, ...], labels: tuple[str, ...], below: str
) -> None:
    write_folders(tmp_path / below, names, wrong=2)
    task, seen = make(labels=labels), []
    scores = task.evaluate(brightest_channel, tmp_path, progress=lambda done, of: seen.append((done, of)))
    assert scores == {"top1": pytest.approx(7 / 9), "top5": 1.0, "images": 9}
    assert seen == [(i, 9) for i in range(1, 10)]
    fair = task.evaluate(brightest_channel, tmp_path, limit=3)  # one of each class, the red one wrong
    assert fair["top1"] == pytest.approx(2 / 3)


def test_a_network_that_always_says_the_same_gets_its_share(tmp_path: Path) -> None:
    write_folders(tmp_path, ("0", "1", "2"))
    scores = make().evaluate(lambda _: {"logits": np.zeros((1, 3), np.float32)}, tmp_path)
    assert scores["top1"] == pytest.approx(1 / 3)  # equal logits are the first class, as argmax has it
    many = make(100).evaluate(lambda _: {"logits": np.arange(100.0)[None]}, tmp_path)
    assert many["top5"] == 0


def test_folders_that_do_not_tell_their_class_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folders of images"):
        make().evaluate(brightest_channel, tmp_path)
    write_folders(tmp_path, ("red", "green"))
    with pytest.raises(UsageError, match="folder green, which is no label, and 2 folders, not 3"):
        make().evaluate(brightest_channel, tmp_path)
    with pytest.raises(UsageError, match="no images to measure"):
        make(2).evaluate(brightest_channel, tmp_path, limit=0)
    (tmp_path / "red").rename(tmp_path / "4")
    (tmp_path / "green").rename(tmp_path / "1")
    with pytest.raises(UsageError, match="is class 4, the model has 3"):
        make().evaluate(brightest_channel, tmp_path)


def test_drawing_writes_on_a_copy() -> None:
    image = np.full((120, 160, 3), 90, np.uint8)
    task = make(labels=("red", "green", "blue"))
    drawn = task.draw(image, task.run(brightest_channel, image))
    assert drawn.shape == image.shape
    assert (drawn != 90).any()
    assert (image == 90).all()


def test_an_oracle_scores_one_on_real_photographs(shared: Path) -> None:
    folders = class_folders(shared / "data/imagenette")
    assert len(folders) == 10
    task = make(10)
    truth = {
        task.preprocess(read_image(file))["image"].tobytes(): index
        for index, folder in enumerate(folders)
        for file in list_images(folder)[:2]
    }

    def oracle(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {"logits": np.eye(10)[truth[feeds["image"].tobytes()]][None]}

    assert task.evaluate(oracle, shared / "data/imagenette", limit=20)["top1"] == 1
