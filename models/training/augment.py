"""Random views of training images: scaled, cropped, mirrored, recolored; OpenCV and numpy."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgedeploy.task import Image

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


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
    """A window (h, w) of the image enlarged by a factor from `scale`, mirrored every other time.

    Where the enlarged image is smaller than the window, `fill` and `ignore` surround it. Class maps keep
    their classes (nearest).
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
    y = int(rng.integers(0, image.shape[0] - height + 1))
    x = int(rng.integers(0, image.shape[1] - width + 1))
    window = np.s_[y : y + height, x : x + width]
    image, truth = image[window], truth[window]
    if rng.integers(2):
        image, truth = image[:, ::-1], truth[:, ::-1]
    return np.ascontiguousarray(image, np.uint8), np.ascontiguousarray(truth, np.uint8)


def random_area(image: Image, share: tuple[float, float], rng: np.random.Generator) -> Image:
    """A window of a share of the image's area from this range, its sides' ratio within 3/4 and 4/3 of it.

    Szegedy et al., Going Deeper with Convolutions, 2015.
    """
    if share == (1.0, 1.0):
        return image
    height, width = image.shape[:2]
    area, ratio = rng.uniform(*share), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    rows = max(1, min(height, round(height * float(np.sqrt(area / ratio)))))
    columns = max(1, min(width, round(width * float(np.sqrt(area * ratio)))))
    y, x = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
    return image[y : y + rows, x : x + columns]


def shifted(image: Image, most: int, rng: np.random.Generator) -> Image:
    """The image moved by up to `most` pixels along each axis, black moving in."""
    if not most:
        return image
    height, width = image.shape[:2]
    y, x = (int(rng.integers(0, 2 * most + 1)) for _ in range(2))
    padded = np.pad(image, ((most, most), (most, most), (0, 0)))
    return padded[y : y + height, x : x + width]


def color_jitter(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Brightness, contrast and saturation each changed by up to `strength`, relative."""
    if not strength:
        return image
    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3).astype(np.float32)
    x = image.astype(np.float32) * brightness
    mean = float((x @ LUMA).mean())
    x = mean + (x - mean) * contrast
    gray = (x @ LUMA)[..., None]
    return np.asarray(np.clip(gray + (x - gray) * saturation, 0, 255), np.uint8)
