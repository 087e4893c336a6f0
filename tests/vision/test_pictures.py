"""The arithmetic of pictures: resizing, color, PSNR, SSIM, label maps, tensors."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from edgedeploy.core.errors import ArtifactError, UsageError
from edgedeploy.core.spec import Artifact, TaskSpec, TensorSpec
from edgedeploy.task import task_for
from edgedeploy.vision.color import luma_from_rgb, rgb_from_ycbcr, ycbcr_from_rgb
from edgedeploy.vision.images import list_images, read_image, to_tensor, write_image
from edgedeploy.vision.label_map import read_label_map
from edgedeploy.vision.metrics import psnr, ssim
from edgedeploy.vision.palette import palette
from edgedeploy.vision.resize import contributions, imresize


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_imresize_makes_the_published_low_resolution_images(shared: Path, scale: int) -> None:
    for file in sorted((shared / "data/sr/Set5" / f"LRx{scale}").iterdir()):
        low = read_image(file)
        height, width = low.shape[:2]
        high = read_image(shared / "data/sr/Set5/HR" / file.name)[: height * scale, : width * scale]
        np.testing.assert_array_equal(imresize(high, height, width), low)


@pytest.mark.parametrize(("height", "width"), [(20, 30), (13, 17), (120, 90), (61, 45)])
def test_imresize_equals_pillow_inside(rng: np.random.Generator, height: int, width: int) -> None:
    image = cv2.GaussianBlur(rng.integers(0, 256, (60, 45, 3), dtype=np.uint8), (3, 3), 0)
    ours = imresize(image, height, width).astype(int)
    pillow = np.asarray(Pillow.fromarray(image).resize((width, height), Pillow.Resampling.BICUBIC))
    # Pillow cuts its kernel off at the border, so two source pixels are left out, or more when shrinking.
    cut = [math.ceil(2.5 * max(1, new / old)) for new, old in ((height, 60), (width, 45))]
    inside = np.s_[cut[0] : -cut[0], cut[1] : -cut[1]]
    assert np.abs(ours[inside] - pillow[inside]).max() <= 1


@pytest.mark.parametrize(("size", "target"), [(10, 30), (30, 10), (7, 5), (5, 7), (1, 4), (9, 1)])
def test_resize_weights_sum_to_one_and_stay_inside(size: int, target: int) -> None:
    index, weight = contributions(size, target)
    np.testing.assert_allclose(weight.sum(1), 1)
    assert index.min() >= 0
    assert index.max() < size


def test_imresize_keeps_float_unrounded_and_refuses_nothing(rng: np.random.Generator) -> None:
    image = rng.random((8, 8))
    assert imresize(image, 16, 16).dtype == np.float64
    np.testing.assert_array_equal(imresize(image, 8, 8), image)
    with pytest.raises(ValueError, match="cannot resize"):
        imresize(image, 0, 4)


def test_luma_and_chroma_are_studio_range() -> None:
    corners = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255]]], np.uint8)
    ycbcr = ycbcr_from_rgb(corners)
    np.testing.assert_allclose(ycbcr[0, 0], [16, 128, 128], atol=1e-3)
    np.testing.assert_allclose(ycbcr[0, 1], [235, 128, 128], atol=1e-3)
    assert ycbcr[0, 2, 2] == pytest.approx(240, abs=1e-3)
    assert ycbcr[0, 3, 1] == pytest.approx(240, abs=1e-3)
    np.testing.assert_allclose(luma_from_rgb(corners) * 255, ycbcr[:, :, 0], atol=1e-3)


def test_color_agrees_with_opencv_and_survives_the_round_trip(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    flat = np.repeat(np.repeat(image[::8, ::8], 8, 0), 8, 1)  # no detail that 4:2:0 could lose
    opencv = cv2.cvtColor(flat, cv2.COLOR_RGB2YUV_I420)
    ours = np.rint(ycbcr_from_rgb(flat))
    assert np.abs(ours[:, :, 0] - opencv[:32]).max() <= 1
    chroma = opencv[32:].reshape(2, 16, 24)
    for index in (0, 1):
        assert np.abs(ours[::2, ::2, index + 1] - chroma[index]).max() <= 1
    np.testing.assert_array_equal(rgb_from_ycbcr(ycbcr_from_rgb(image)), image)


def test_psnr_is_its_definition(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 256, (2, 9, 7), dtype=np.uint8)
    error = sum((int(a[y, x]) - int(b[y, x])) ** 2 for y in range(2, 7) for x in range(2, 5)) / 15
    assert psnr(a, b, border=2) == pytest.approx(10 * math.log10(65025 / error))
    assert psnr(a, a) == math.inf
    with pytest.raises(ValueError, match="shapes differ"):
        psnr(a, b[:-1])
    with pytest.raises(UsageError, match="too small"):
        psnr(a, b, border=4)


def test_ssim_is_its_definition_at_one_window(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 256, (2, 11, 11)).astype(np.float64)
    tap = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(tap, tap) / tap.sum() ** 2
    ma, mb = (window * a).sum(), (window * b).sum()
    va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
    cov = (window * (a - ma) * (b - mb)).sum()
    c1, c2 = 6.5025, 58.5225
    expected = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    assert ssim(a, b) == pytest.approx(expected, rel=1e-6)
    assert ssim(a, a) == pytest.approx(1)


@pytest.mark.parametrize(("mode", "bits"), [("P", 8), ("P", 4), ("L", 8)])
def test_label_maps_keep_indices(tmp_path: Path, rng: np.random.Generator, mode: str, bits: int) -> None:
    labels = rng.integers(0, 12, (30, 40), dtype=np.uint8)
    image = Pillow.fromarray(labels)
    if mode == "P":
        image.putpalette(list(rng.integers(0, 3, 48)))  # colors repeat: only the indices tell classes apart
    image.save(tmp_path / "a.png", bits=bits)
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png"), labels)


def test_label_maps_refuse_color_and_rubbish(tmp_path: Path) -> None:
    Pillow.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "rgb.png").read_bytes()[:30])
    (tmp_path / "text.png").write_text("no")
    for name in ("rgb", "cut", "text"):
        with pytest.raises(UsageError, match="not a class map"):
            read_label_map(tmp_path / f"{name}.png")
    with pytest.raises(UsageError, match="cannot read"):
        read_label_map(tmp_path / "absent.png")


def test_images_are_rgb_and_failures_are_clear(tmp_path: Path) -> None:
    red = np.full((3, 5, 3), (250, 10, 20), np.uint8)
    write_image(tmp_path / "ä b.png", red)
    np.testing.assert_array_equal(read_image(tmp_path / "ä b.png"), red)
    np.testing.assert_array_equal(np.asarray(Pillow.open(tmp_path / "ä b.png")), red)
    (tmp_path / "empty.jpg").touch()
    assert [path.name for path in list_images(tmp_path)] == ["empty.jpg", "ä b.png"]
    with pytest.raises(UsageError, match="not a whole image"):
        read_image(tmp_path / "empty.jpg")
    (tmp_path / "void").mkdir()
    with pytest.raises(UsageError, match="holds no images"):
        list_images(tmp_path / "void")


@pytest.mark.parametrize(("layout", "shape"), [("NCHW", (1, 3, "h", "w")), ("NHWC", (1, "h", "w", 3))])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_to_tensor(rng: np.random.Generator, layout: str, shape: tuple[int | str, ...], dtype: str) -> None:
    pixels = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    spec = TensorSpec.model_validate({"name": "x", "dtype": dtype, "shape": shape, "layout": layout})
    mean, std = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
    tensor = to_tensor(pixels, spec, mean, std)
    back = tensor[0] if layout == "NHWC" else tensor[0].transpose(1, 2, 0)
    assert tensor.dtype == dtype
    assert tensor.flags.c_contiguous
    expected = pixels if dtype == "uint8" else (pixels - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(back, expected, atol=0.03 if dtype == "float16" else 1e-5)


@pytest.mark.parametrize("classes", [2, 11, 19, 21, 60])
def test_palettes_have_a_color_of_its_own_for_every_class(classes: int) -> None:
    colors = palette(classes)
    assert colors.shape == (classes, 3)
    assert len({tuple(color) for color in colors.tolist()}) == classes


def test_a_model_that_its_task_cannot_feed_is_refused() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=(1, 3, 8, 8), layout="NCHW")
    artifact = Artifact(path=Path("m.onnx"), kind="onnx", model="m", inputs=(), outputs=())
    with pytest.raises(ArtifactError, match="has no inputs"):
        task_for(artifact)
    for name in ("mean", "std"):
        options = {"inputs": (spec,), "task": TaskSpec(name="tensor", options={name: [1.0, 2.0]})}
        with pytest.raises(ArtifactError, match=f"{name} has 2 values for 3 channels"):
            task_for(artifact.model_copy(update=options))
