"""Images on disk and images as tensors: RGB uint8 (H, W, 3) on one side, the artifact's layout on the other.

Files are read by the bytes, because OpenCV's own reader does not open every path on every system.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import OutputError, UsageError
from edgedeploy.core.image_header import is_whole
from edgedeploy.core.spec import TensorSpec
from edgedeploy.task import Array, Image, channels_last, size_of

UNREAD = {  # first bytes of formats that people have and OpenCV's wheels do not read
    b"GIF8": "a GIF",
    b"\x00\x00\x00\x0cjP  ": "a JPEG 2000 image",
    b"\xffO\xffQ": "a JPEG 2000 stream",
}
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


def is_image(path: Path) -> bool:
    """Whether the name is that of an image file; hidden files, which some systems leave beside, are none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """The images of a folder in order of name; raises UsageError where there are none."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", "name a folder of images")
    files = sorted(path for path in folder.iterdir() if is_image(path))
    if not files:
        raise UsageError(f"{folder} holds no images", f"it may hold {', '.join(sorted(IMAGE_SUFFIXES))}")
    return files


def read_image(path: Path) -> Image:
    """An image file as RGB (H, W, 3) uint8; gray is repeated. Raises UsageError where it is damaged."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path") from None
    try:
        return decode_rgb(data)
    except ValueError as error:
        raise UsageError(
            f"{path} is {error}", "remove it from the folder, or save it again as PNG or JPEG"
        ) from None


def decode_rgb(data: bytes) -> Image:
    """An image file's bytes as upright RGB (H, W, 3) uint8; gray is repeated.

    Raises ValueError, whose text continues "the file is ...".
    """
    if unread := next((name for start, name in UNREAD.items() if data.startswith(start)), ""):
        raise ValueError(f"{unread}, which is not read")
    image = decode(data, cv2.IMREAD_COLOR) if is_whole(data) else None
    if image is None:
        raise ValueError("not a whole image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def decode(data: bytes, flags: int) -> Array | None:
    """cv2.imdecode, with None for whatever it does not decode; ValueError for an image that is too large."""
    if not data:
        return None
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if "MAX_IMAGE_" in str(error):
            most = int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"]) // 10**6
            raise ValueError(f"an image of more than {most} million pixels") from None
        return None


def write_image(path: Path, image: Image) -> None:
    """Write RGB (H, W, 3) by the suffix of `path`; the caller makes it atomic. Raises OutputError."""
    done, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise OutputError(f"cannot encode an image as {path.suffix}", "use .png")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}", "free some space") from error


def resize_image(image: Image, height: int, width: int) -> Image:
    """Resize for a network's input: area averaging when shrinking, bilinear when growing."""
    if image.shape[:2] == (height, width):
        return image
    shrinking = height * width < image.shape[0] * image.shape[1]
    kind = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=kind), dtype=np.uint8)


def fit_input(image: Image, spec: TensorSpec) -> Image:
    """The image at the input's size where that is fixed, else unchanged."""
    height, width = size_of(spec)
    return resize_image(image, height or image.shape[0], width or image.shape[1])


def to_tensor(
    pixels: NDArray[np.generic], spec: TensorSpec, mean: Sequence[float], std: Sequence[float]
) -> Array:
    """Pixels (H, W, C) in 0..255 -> (pixels - mean) / std in the input's dtype and layout, batch of one.

    An integer input takes the pixels rounded and clipped: such a graph has its normalization inside.
    """
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "iu":
        if pixels.dtype != dtype:
            limits = np.iinfo(dtype)
            pixels = np.clip(np.rint(pixels), limits.min, limits.max)
        scaled = pixels.astype(dtype, copy=False)
    else:
        factor = (1.0 / np.asarray(std, np.float64)).astype(np.float32)
        offset = (-np.asarray(mean, np.float64) / np.asarray(std, np.float64)).astype(np.float32)
        scaled = np.multiply(pixels, factor, dtype=np.float32)
        if offset.any():
            scaled += offset
        scaled = scaled.astype(dtype, copy=False)
    tensor = scaled if channels_last(spec) else scaled.transpose(2, 0, 1)
    return np.ascontiguousarray(tensor)[None]
