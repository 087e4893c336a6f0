"""Read class maps: PNGs whose pixel values or palette indices are class numbers.

OpenCV converts palette images to colors and loses the indices. So the header is changed from palette to gray
(color type 3 to 0, palette removed) before decoding: the indices remain. PNG specification, 11.2.2.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import UsageError
from edgedeploy.core.image_header import PNG
from edgedeploy.vision.images import decode, read_bytes

GRAY, PALETTE = 0, 3


def read_label_map(path: Path) -> NDArray[np.uint8]:
    """Class numbers (H, W) uint8 of a gray or palette PNG; raises UsageError for anything else."""
    data = read_bytes(path)
    try:
        labels = decode(_indices_as_gray(data), cv2.IMREAD_UNCHANGED) if data.startswith(PNG) else None
    except ValueError as error:
        raise UsageError(f"{path} is {error}", "scale the class maps down") from None
    if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:
        raise UsageError(
            f"{path} is not a class map", "save it as a gray or palette PNG with one class number a pixel"
        )
    bits = data[24]
    # The decoder scales values of 1, 2 and 4 bits to 0..255.
    return labels if bits == 8 else labels // np.uint8(255 // (2**bits - 1))


def _indices_as_gray(data: bytes) -> bytes:
    if len(data) < 33 or data[25] != PALETTE:
        return data
    header = bytearray(data[16:29])
    header[9] = GRAY
    parts = [PNG, _chunk(b"IHDR", bytes(header))]
    position = 33
    while position + 12 <= len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        chunk = data[position : position + 12 + length]
        if chunk[4:8] not in (b"PLTE", b"tRNS", b"bKGD", b"hIST"):
            parts.append(chunk)
        position += 12 + length
    return b"".join(parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
