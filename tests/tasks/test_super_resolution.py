"""Super-resolution: published baselines, sizes, tiling, layouts, and what happens with unfit data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgedeploy.core.errors import UsageError
from edgedeploy.core.spec import Artifact, TaskSpec, TensorSpec
from edgedeploy.task import task_for
from edgedeploy.tasks.super_resolution import SuperResolution
from edgedeploy.vision.images import write_image
from edgedeploy.vision.luma import to_pixels

Array = np.ndarray[Any, Any]


def make(
    scale: int = 2,
    size: tuple[int | str, int | str] = ("h", "w"),
    dtype: str = "float32",
    layout: str = "NCHW",
) -> SuperResolution:
    height, width = size
    shape = (1, 1, height, width) if layout == "NCHW" else (1, height, width, 1)
    options = {"scale": scale, "mean": [0.0], "std": [1.0 if dtype == "uint8" else 255.0]}
    artifact = Artifact(
        path=Path("x.onnx"),
        kind="onnx",
        model="nearest",
        inputs=(TensorSpec.model_validate({"name": "lr", "dtype": dtype, "shape": shape, "layout": layout}),),
        outputs=(TensorSpec(name="sr", dtype=dtype, shape=("n", "c", "h", "w")),),
        task=TaskSpec(name="super-resolution", options=options),
    )
    task = task_for(artifact)
    assert isinstance(task, SuperResolution)
    return task


class Smoothing:
    """A network with the receptive field of ESPCN: a 9x9 average, then nearest-neighbor enlargement."""

    def __init__(self, scale: int) -> None:
        self.scale, self.shapes = scale, []

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        tensor = feeds["lr"]
        self.shapes.append(tensor.shape)
        luma = tensor.reshape(*(n for n in tensor.shape if n != 1))
        luma = cv2.blur(luma, (9, 9), borderType=cv2.BORDER_REPLICATE)
        large = luma.repeat(self.scale, 0).repeat(self.scale, 1)
        return {"sr": large[None, None] if tensor.shape[1] == 1 else large[None, :, :, None]}


@pytest.mark.parametrize(("scale", "published"), [(2, 33.66), (3, 30.39), (4, 28.42)])
def test_bicubic_baseline_of_set5(shared: Path, scale: int, published: float) -> None:
    seen: list[tuple[int, int | None]] = []
    scores = make(scale).evaluate(
        Smoothing(scale), shared / "data/sr/Set5", progress=lambda done, total: seen.append((done, total))
    )
    assert scores["psnr_y_bicubic"] == pytest.approx(published, abs=0.02)
    assert scores["images"] == 5
    assert seen == [(i, 5) for i in range(1, 6)]
    assert scores["psnr_y"] < scores["psnr_y_bicubic"]
    assert 0.5 < scores["ssim_y"] < scores["ssim_y_bicubic"] < 0.95


@pytest.mark.parametrize("image", [(100, 70), (33, 90), (20, 20), (40, 48)])
def test_tiles_and_padding_equal_one_run(rng: np.random.Generator, image: tuple[int, int]) -> None:
    luma = rng.integers(0, 256, image, dtype=np.uint8)
    whole = make().upscale(Smoothing(2), luma)
    network = Smoothing(2)
    task = make(size=(40, 48))
    tiled = task.upscale(network, luma)
    assert set(network.shapes) == {(1, 1, 40, 48)}
    np.testing.assert_array_equal(tiled, whole)
    assert tiled.shape == (2 * image[0], 2 * image[1])
    given = np.zeros_like(tiled)
    assert task.upscale(network, luma, out=given) is given
    np.testing.assert_array_equal(given, whole)


def test_a_tile_must_be_larger_than_its_margins(rng: np.random.Generator) -> None:
    with pytest.raises(UsageError, match="too small to tile"):
        make(size=(16, 16)).upscale(Smoothing(2), rng.integers(0, 256, (64, 64), dtype=np.uint8))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_layouts_and_embedded_preprocessing_agree(rng: np.random.Generator, layout: str, dtype: str) -> None:
    image = rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)
    result = make(dtype=dtype, layout=layout).run(Smoothing(2), image)
    assert result.shape == (48, 60, 3)
    assert result.dtype == np.uint8
    reference = make().run(Smoothing(2), image)
    assert (
        np.abs(result.astype(int) - reference).max() <= 3
    )  # luma rounded before instead of after the network


def test_a_constant_image_stays_what_it_is() -> None:
    for color in [(0, 0, 0), (255, 255, 255), (200, 30, 90)]:
        image = np.full((12, 14, 3), color, np.uint8)
        result = make(3).run(Smoothing(3), image)
        assert np.abs(result.astype(int) - color).max() <= 1
        again = make(3).postprocess(Smoothing(3)(make(3).preprocess(image)), image)
        np.testing.assert_array_equal(again, result)


def test_pixels_are_rounded_and_clipped_into_the_given_memory() -> None:
    luma = np.array([[-0.5, 0.0, 0.5, 1.0, 2.0, 100.4 / 255, 100.6 / 255]], np.float32)
    expected = [[0, 0, 128, 255, 255, 100, 101]]
    np.testing.assert_array_equal(to_pixels(luma), expected)
    np.testing.assert_array_equal(to_pixels(luma.astype(np.float16).astype(np.float64)), expected)
    strided = np.zeros((1, 20), np.uint8)
    assert np.shares_memory(to_pixels(luma, strided[:, :7]), strided)
    np.testing.assert_array_equal(strided[:, :7], expected)
    with pytest.raises(ValueError, match="does not fit"):
        to_pixels(luma, strided)  # OpenCV would answer with new memory and leave this as it was
    np.testing.assert_array_equal(to_pixels(np.array([[-3, 300, 7]], np.int32)), [[0, 255, 7]])


def test_folders_and_videos_are_shrunk_first(tmp_path: Path, rng: np.random.Generator) -> None:
    for index in range(3):
        noise = cv2.GaussianBlur(rng.integers(0, 256, (41, 50, 3), dtype=np.uint8), (9, 9), 2)
        write_image(tmp_path / f"{index}.png", noise)
    scores = make().evaluate(Smoothing(2), tmp_path, limit=2)
    assert scores["images"] == 2
    assert scores["psnr_y_bicubic"] > scores["psnr_y"] > 20


def test_unfit_data_is_named(tmp_path: Path) -> None:
    task, network = make(), Smoothing(2)
    with pytest.raises(UsageError, match="neither a folder nor a video"):
        task.evaluate(network, tmp_path / "absent")
    with pytest.raises(UsageError, match="holds no images"):
        task.evaluate(network, tmp_path)
    (tmp_path / "HR").mkdir()
    with pytest.raises(UsageError, match="LRx2"):
        task.evaluate(network, tmp_path)
    (tmp_path / "LRx2").mkdir()
    write_image(tmp_path / "LRx2/a.png", np.zeros((20, 20, 3), np.uint8))
    write_image(tmp_path / "HR/a.png", np.zeros((39, 40, 3), np.uint8))
    with pytest.raises(UsageError, match="smaller than 2 x"):
        task.evaluate(network, tmp_path)


def test_the_scale_comes_from_static_shapes_where_no_option_says_it() -> None:
    known = make(size=(8, 8)).artifact
    output = known.outputs[0].model_copy(update={"shape": (1, 1, 24, 24)})
    foreign = known.model_copy(update={"task": TaskSpec(name="super-resolution"), "outputs": (output,)})
    assert SuperResolution(foreign).scale == 3
    with pytest.raises(UsageError, match="by which factor"):
        SuperResolution(known.model_copy(update={"task": TaskSpec(name="super-resolution")}))


def test_color_networks_are_refused() -> None:
    artifact = make().artifact
    spec = artifact.inputs[0].model_copy(update={"shape": (1, 3, 8, 8)})
    with pytest.raises(UsageError, match="luma"):
        SuperResolution(artifact.model_copy(update={"inputs": (spec,)}))
