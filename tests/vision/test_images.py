"""One reader for image files: whole ones of every kind are read, everything else is one clear line."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedeploy.calibration.collect.sources import single_image
from edgedeploy.core.errors import UsageError
from edgedeploy.core.image_header import claimed_size, is_whole
from edgedeploy.vision.images import decode_rgb, read_image
from edgedeploy.vision.label_map import read_label_map


def encoded(suffix: str, height: int = 40, width: int = 60) -> bytes:
    picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.imencode(suffix, picture)[1].tobytes()


def with_thumbnail(photo: bytes) -> bytes:
    """A JPEG with a smaller whole JPEG in a segment of its own, as cameras write it."""
    inner = b"Exif\0\0" + encoded(".jpg", 8, 8)
    return photo[:2] + b"\xff\xe1" + struct.pack(">H", len(inner) + 2) + inner + photo[2:]


def claiming(height: int, width: int) -> bytes:
    """A PNG of a few bytes that says it is large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_photograph_with_more_behind_its_end_is_read(suffix: str) -> None:
    data = encoded(suffix)
    np.testing.assert_array_equal(decode_rgb(data + bytes(200_000)), decode_rgb(data))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_truncated_file_is_refused(suffix: str, share: float) -> None:
    data = encoded(suffix)
    assert is_whole(data)
    with pytest.raises(ValueError, match="not a whole image"):
        decode_rgb(data[: round(share * len(data))])


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_photograph() -> None:
    data = with_thumbnail(encoded(".jpg"))
    assert decode_rgb(data).shape == (40, 60, 3)
    with pytest.raises(ValueError, match="not a whole image"):
        decode_rgb(data[:-300])


@pytest.mark.parametrize(("data", "words"), [
    (b"GIF89a" + bytes(40), "a GIF, which is not read"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(40), "a JPEG 2000 image, which is not read"),
    (claiming(30000, 30000), "more than 134 million pixels"),
    (b"", "not a whole image"),
    (b"\xff\xd8\xff", "not a whole image"),
])  # fmt: skip
def test_what_is_not_read_says_why_to_whoever_asks(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=words) as caught:
        read_image(path)
    assert "PNG or JPEG" in caught.value.hint
    skipped: dict[str, str] = {}
    assert list(single_image(path, skipped, {})) == []
    assert words in skipped["a.png"]


FORMATS = {
    ".png": [],
    ".jpg": [],
    ".bmp": [],
    ".tif": [],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 80],  # lossy
    ".webp ": [cv2.IMWRITE_WEBP_QUALITY, 101],  # lossless
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_size_in_the_header_limits_every_format(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    data = cv2.imencode(suffix.strip(), picture, FORMATS[suffix])[1].tobytes()
    assert claimed_size(data) == (40, 60)
    assert decode_rgb(data).shape == (40, 60, 3)
    # OpenCV read its own limit when it was imported: this one is edgedeploy's.
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", str(40 * 60 - 1))
    with pytest.raises(ValueError, match="an image of more than 0 million pixels"):
        decode_rgb(data)


@pytest.mark.parametrize(("data", "size"), [
    (b"BM" + bytes(12) + struct.pack("<IHH", 12, 60, 40), (40, 60)),  # OS/2 1.x
    (b"BM" + bytes(12) + struct.pack("<Iii", 40, 60, -40), (40, 60)),  # the top row first
    (b"RIFF\0\0\0\0WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\x3b\0\0\x27\0\0", (40, 60)),
    (b"MM\0*" + struct.pack(">IHHHIHHHHII", 8, 2, 256, 3, 1, 60, 0, 257, 4, 1, 40), (40, 60)),
    (b"II*\0", None),
    (b"\xff\xd8\xff\xe0\0\x04ab", None),
    (b"P6 60 40 255 ", None),
    (b"", None),
])  # fmt: skip
def test_the_size_in_a_header(data: bytes, size: tuple[int, int] | None) -> None:
    assert claimed_size(data) == size


def test_a_class_map_that_claims_to_be_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(claiming(30000, 30000))
    with pytest.raises(UsageError, match="million pixels"):
        read_label_map(tmp_path / "a.png")
