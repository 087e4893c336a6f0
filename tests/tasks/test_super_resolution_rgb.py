"""Super-resolution by networks of RGB: sizes, tiling by the model's own margin, layouts, scores, refusals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgedeploy.core.errors import UsageError
from edgedeploy.core.spec import Artifact, TaskSpec, TensorSpec
from edgedeploy.demo.views import DrawView, make_view
from edgedeploy.models import MODELS
from edgedeploy.task import task_for
from edgedeploy.tasks.super_resolution import SuperResolution
from edgedeploy.vision.images import write_image
from edgedeploy.vision.metrics import psnr
from edgedeploy.vision.resize import imresize

Array = np.ndarray[Any, Any]


def make(
    size: tuple[int | str, int | str] = ("h", "w"), dtype: str = "float32", nhwc: bool = False, **options: Any
) -> SuperResolution:
    shape = (1, *size, 3) if nhwc else (1, 3, *size)
    std = [1.0 if dtype == "uint8" else 255.0] * 3
    spec = {"name": "lr", "dtype": dtype, "shape": shape, "layout": "NHWC" if nhwc else "NCHW"}
    artifact = Artifact(
        path=Path("x.onnx"),
        kind="onnx",
        model="blur",
        inputs=(TensorSpec.model_validate(spec),),
        outputs=(TensorSpec(name="sr", dtype=dtype, shape=("n", "c", "h", "w")),),
        task=TaskSpec(
            name="super-resolution",
            options={"scale": 2, "color": "rgb", "mean": [0.0] * 3, "std": std, **options},
        ),
    )
    task = task_for(artifact)
    assert isinstance(task, SuperResolution)
    return task


class Blur:
    """A network that sees `reach` pixels each way and tells its channels apart: a box, then nearest x2."""

    def __init__(self, reach: int = 2) -> None:
        self.kernel, self.shapes = 2 * reach + 1, []

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        tensor = feeds["lr"]
        self.shapes.append(tensor.shape)
        last = tensor.shape[-1] == 3
        image = np.ascontiguousarray(tensor[0] if last else tensor[0].transpose(1, 2, 0))
        image = cv2.blur(image, (self.kernel, self.kernel), borderType=cv2.BORDER_REPLICATE)
        large = image.repeat(2, 0).repeat(2, 1)[None]
        return {"sr": large if last else large.transpose(0, 3, 1, 2)}


@pytest.mark.parametrize("nhwc", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_every_channel_comes_out_where_it_went_in(rng: np.random.Generator, dtype: str, nhwc: bool) -> None:
    image = rng.integers(0, 256, (9, 14, 3), dtype=np.uint8)
    task = make(dtype=dtype, nhwc=nhwc)
    result = task.run(Blur(0), image)
    np.testing.assert_array_equal(result, image.repeat(2, 0).repeat(2, 1))
    assert result.flags.c_contiguous
    again = task.postprocess(Blur(0)(task.preprocess(image)), image)
    np.testing.assert_array_equal(again, result)
    out = np.zeros((18, 40, 3), np.uint8)
    task.upscale(Blur(0), image, out=out[:, 4:32])
    np.testing.assert_array_equal(out[:, 4:32], result)
    assert not out[:, :4].any()
    assert not out[:, 32:].any()


@pytest.mark.parametrize("image", [(100, 70), (33, 90), (20, 20), (40, 48)])
def test_tiles_keep_the_margin_that_the_model_asks_for(
    rng: np.random.Generator, image: tuple[int, int]
) -> None:
    pixels = rng.integers(0, 256, (*image, 3), dtype=np.uint8)
    whole = make().upscale(Blur(12), pixels)
    network = Blur(12)
    tiled = make(size=(40, 48), margin=12).upscale(network, pixels)
    assert set(network.shapes) == {(1, 3, 40, 48)}
    np.testing.assert_array_equal(tiled, whole)


def test_a_margin_too_small_shows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 70, 3), dtype=np.uint8)
    tiled = make(size=(40, 48), margin=6).upscale(Blur(12), pixels)
    assert (tiled != make().upscale(Blur(12), pixels)).any()
    with pytest.raises(UsageError, match="too small to tile"):
        make(size=(40, 48), margin=20).upscale(Blur(12), pixels)
    with pytest.raises(UsageError, match="too small to tile"):
        make(size=(40, 48), margin=50).upscale(Blur(12), pixels[:60])


def test_scores_are_of_all_three_channels_and_of_luma(tmp_path: Path, rng: np.random.Generator) -> None:
    image = cv2.GaussianBlur(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), (9, 9), 2)
    write_image(tmp_path / "a.png", image)
    scores = make().evaluate(Blur(1), tmp_path)
    small = imresize(image, 30, 40)
    found = cv2.blur(small, (3, 3), borderType=cv2.BORDER_REPLICATE).repeat(2, 0).repeat(2, 1)
    assert scores["psnr_rgb"] == pytest.approx(psnr(image, found, 6), abs=0.1)
    assert scores["psnr_rgb_bicubic"] == pytest.approx(psnr(image, imresize(small, 60, 80), 6), abs=1e-6)
    assert scores["psnr_y"] < scores["psnr_y_bicubic"]
    assert scores["psnr_rgb"] < scores["psnr_rgb_bicubic"]


def test_video_goes_through_rgb() -> None:
    assert isinstance(make_view("side-by-side", make(), yuv=True), DrawView)


def test_what_does_not_fit_is_named() -> None:
    artifact = make().artifact
    gray = artifact.inputs[0].model_copy(update={"shape": (1, 1, 8, 8)})
    task = artifact.task.model_copy(update={"options": {"scale": 2, "color": "rgb"}})
    with pytest.raises(UsageError, match="1 channels, not RGB"):
        SuperResolution(artifact.model_copy(update={"inputs": (gray,), "task": task}))
    with pytest.raises(UsageError, match="unknown color 'yuv'"):
        make(color="yuv")
    with pytest.raises(UsageError, match="margin of -1"):
        make(margin=-1)
    with pytest.raises(UsageError, match="not one RGB image"):
        make().result({"sr": np.zeros((1, 1, 8, 8), np.float32)})


def test_the_zoo_says_color_and_margin() -> None:
    for name in MODELS.names():
        task = MODELS.get(name).task
        if task.name == "super-resolution":
            rgb = MODELS.get(name).input_shape[1] == 3
            assert task.options.get("color", "luma") == ("rgb" if rgb else "luma")
            assert rgb == ("margin" in task.options)
