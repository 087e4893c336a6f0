"""Images on disk and images as tensors: RGB uint8 (H, W, 3) on one side, the artifact's layout on the other.

OpenCV decodes bytes instead of opening files: its own reader does not open every path on every system.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import OutputError, UsageError
from edgedeploy.core.image_header import claimed_size, is_whole
from edgedeploy.core.spec import TensorSpec
from edgedeploy.task import Array, Image, channels_last, size_of

UNREAD = {  # first bytes of common formats that OpenCV's wheels do not decode
    b"GIF8": "a GIF",
    b"\x00\x00\x00\x0cjP  ": "a JPEG 2000 image",
    b"\xffO\xffQ": "a JPEG 2000 stream",
}
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


def is_image(path: Path) -> bool:
    """Whether the name has an image suffix and is not hidden; some systems add hidden files beside images."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder, sorted by name; raises UsageError if there are none."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", "name a folder of images")
    files = sorted(path for path in folder.iterdir() if is_image(path))
    if not files:
        raise UsageError(f"{folder} holds no images", f"it may hold {', '.join(sorted(IMAGE_SUFFIXES))}")
    return files


def read_image(path: Path) -> Image:
    """An image file as RGB (H, W, 3) uint8; gray is repeated. Raises UsageError for a damaged file."""
    data = read_bytes(path)
    try:
        return decode_rgb(data)
    except ValueError as error:
        raise UsageError(
            f"{path} is {error}", "remove it from the folder, or save it again as PNG or JPEG"
        ) from None


def read_bytes(path: Path) -> bytes:
    """Contents of a file; raises UsageError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path") from None


def decode_rgb(data: bytes) -> Image:
    """Upright RGB (H, W, 3) uint8 of an encoded image; gray is repeated.

    Raises ValueError; its text continues "the file is ...".
    """
    if unread := next((name for start, name in UNREAD.items() if data.startswith(start)), ""):
        raise ValueError(f"{unread}, which is not read")
    image = decode(data, cv2.IMREAD_COLOR) if is_whole(data) else None
    if image is None:
        raise ValueError("not a whole image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def decode(data: bytes, flags: int) -> Array | None:
    """cv2.imdecode; None if it cannot decode the data. Raises ValueError for an image that is too large.

    OpenCV has the same limit, but reads it when cv2 is imported, which may be before edgedeploy sets it.
    """
    most = int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"])
    too_large = f"an image of more than {most // 10**6} million pixels"
    height, width = claimed_size(data) or (0, 0)
    if height * width > most:
        raise ValueError(too_large)
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        if "MAX_IMAGE_" in str(error):
            raise ValueError(too_large) from None
        return None


def write_image(path: Path, image: Image) -> None:
    """Write RGB (H, W, 3) in the format of the suffix; not atomic. Raises OutputError."""
    done, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise OutputError(f"cannot encode an image as {path.suffix}", "use .png")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}", "free some space") from error


def resize_image(image: Image, height: int, width: int) -> Image:
    """Resize for a network's input: area averaging to shrink, bilinear to enlarge."""
    if image.shape[:2] == (height, width):
        return image
    shrinking = height * width < image.shape[0] * image.shape[1]
    kind = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=kind), dtype=np.uint8)


def fit_input(image: Image, spec: TensorSpec) -> Image:
    """The image resized to the input's fixed size; unchanged for a dynamic size."""
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
