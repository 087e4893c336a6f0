"""Random augmentation of training images: scale, crop, mirror, color; OpenCV and numpy."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edgedeploy.task import Image

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def random_crop(shape: Sequence[int], size: Sequence[int], rng: np.random.Generator) -> tuple[slice, slice]:
    """Slices of a window of `size` (h, w), uniform over an image of `shape` (H, W, ...)."""
    y, x = (int(rng.integers(0, side - part + 1)) for side, part in zip(shape, size, strict=False))
    return slice(y, y + size[0]), slice(x, x + size[1])


def random_window(
    image: Image,
    truth: NDArray[np.uint8],
    crop: tuple[int, int],
    scale: tuple[float, float],
    rng: np.random.Generator,
    *,
    fill: NDArray[np.uint8],
    ignore: int,
) -> tuple[Image, NDArray[np.uint8]]:
    """A window (h, w) of the image, resized by a factor from `scale`, and of its class map; half mirrored.

    Where the resized image is smaller than the window, `fill` and `ignore` pad it.
    """
    height, width = crop
    factor = float(rng.uniform(*scale))
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(image, size, interpolation=kind), np.uint8)
    truth = np.asarray(cv2.resize(truth, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    short = max(0, height - size[1]), max(0, width - size[0])
    if any(short):
        top, left = (int(rng.integers(0, missing + 1)) for missing in short)
        around = (top, short[0] - top, left, short[1] - left)
        image = np.asarray(
            cv2.copyMakeBorder(image, *around, cv2.BORDER_CONSTANT, value=fill.tolist()), np.uint8
        )
        truth = np.asarray(cv2.copyMakeBorder(truth, *around, cv2.BORDER_CONSTANT, value=[ignore]), np.uint8)
    window = random_crop(image.shape, crop, rng)
    image, truth = image[window], truth[window]
    if rng.integers(2):
        image, truth = image[:, ::-1], truth[:, ::-1]
    return np.ascontiguousarray(image, np.uint8), np.ascontiguousarray(truth, np.uint8)


def random_area(image: Image, share: tuple[float, float], rng: np.random.Generator) -> Image:
    """A window with a share of the image's area from this range, and 3/4 to 4/3 of its aspect ratio.

    Szegedy et al., Going Deeper with Convolutions, 2015.
    """
    if share == (1.0, 1.0):
        return image
    height, width = image.shape[:2]
    area, ratio = rng.uniform(*share), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    rows = max(1, min(height, round(height * float(np.sqrt(area / ratio)))))
    columns = max(1, min(width, round(width * float(np.sqrt(area * ratio)))))
    return image[random_crop(image.shape, (rows, columns), rng)]


def shifted(image: Image, most: int, rng: np.random.Generator) -> Image:
    """The image shifted by up to `most` pixels along each axis, filled with black."""
    if not most:
        return image
    padded = np.pad(image, ((most, most), (most, most), (0, 0)))
    return padded[random_crop(padded.shape, image.shape[:2], rng)]


def color_jitter(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Brightness, contrast and saturation changed by up to `strength`, relative, each."""
    if not strength:
        return image
    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3).astype(np.float32)
    x = image.astype(np.float32) * brightness
    mean = float((x @ LUMA).mean())
    x = mean + (x - mean) * contrast
    gray = (x @ LUMA)[..., None]
    return np.asarray(np.clip(gray + (x - gray) * saturation, 0, 255), np.uint8)
