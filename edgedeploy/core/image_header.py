"""Facts of an image file from its header, before decoding: size, gray, transparency, depth, rotation.

A decoder turns every image into 8-bit RGB without a message. Sources: W3C PNG, ITU T.81 (JPEG), TIFF 6.0,
BITMAPINFOHEADER (BMP), RFC 9649 (WebP).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

GRAY, ALPHA, DEEP, TURNED = "grayscale", "with transparency", "of 16 bits", "rotated by EXIF"
PNG, JPEG, TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", (b"II*\x00", b"MM\x00*")
_WIDTH, _HEIGHT, _BITS, _SAMPLES, _ORIENTATION = 256, 257, 258, 277, 274  # tags of TIFF
_SCAN = 0xDA  # the marker of a JPEG before its compressed pixels
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15; three markers between are no frames


def claimed_size(data: bytes) -> tuple[int, int] | None:
    """Height and width in the header of a PNG, JPEG, TIFF, BMP or WebP; None for other or damaged files."""
    try:
        if data.startswith(PNG):
            width, height = struct.unpack_from(">II", data, 16)
        elif data.startswith(JPEG):
            frame = next((body for marker, _, body in _segments(data) if marker in _FRAMES), b"")
            height, width = struct.unpack_from(">HH", frame, 1)
        elif data[:4] in TIFF:
            tags = _tags(data)
            height, width = tags[_HEIGHT], tags[_WIDTH]
        elif data.startswith(b"BM"):
            old = data[14] == 12  # OS/2 1.x has 16-bit sizes
            width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            width, height = _webp_size(data)
        else:
            return None
    except (struct.error, IndexError, KeyError):
        return None
    return abs(height), abs(width)  # a BMP of negative height has its top row first


def image_kinds(data: bytes) -> tuple[str, ...]:
    """Those of GRAY, ALPHA, DEEP and TURNED that apply to a PNG, JPEG or TIFF; empty for other files."""
    try:
        if data.startswith(PNG):
            return _png(data)
        if data.startswith(JPEG):
            return _jpeg(data)
        if data[:4] in TIFF:
            return _tiff(data)
    except (struct.error, IndexError):
        pass
    return ()


def is_whole(data: bytes) -> bool:
    """Whether a PNG or JPEG contains its end marker; True for other formats, which their decoders check.

    Some OpenCV builds accept a truncated file. Bytes after the end are fine: phones append clips to photos.
    """
    if data.startswith(PNG[:4]):
        return b"IEND" in data
    if not data.startswith(JPEG):
        return True
    # A thumbnail inside a segment has its own end marker: search only after the start of the scan.
    scan = next((start for marker, start, _ in _segments(data) if marker == _SCAN), len(data))
    return b"\xff\xd9" in data[scan:]


def _png(data: bytes) -> tuple[str, ...]:
    depth, color = data[24], data[25]
    kinds = [(GRAY, not color & 2), (ALPHA, bool(color & 4)), (DEEP, depth == 16)]
    return tuple(kind for kind, applies in kinds if applies)


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(marker, offset, content) of the segments of a JPEG, up to the first scan."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, position, data[position + 4 : end]
        if marker == _SCAN:
            return
        position = end


def _jpeg(data: bytes) -> tuple[str, ...]:
    kinds: list[str] = []
    for marker, _, body in _segments(data):
        if marker == 0xE1 and body.startswith(b"Exif\0\0") and _tags(body[6:]).get(_ORIENTATION, 1) != 1:
            kinds.append(TURNED)
        if marker in _FRAMES:
            return (GRAY, *kinds) if body[5] == 1 else tuple(kinds)
    return tuple(kinds)


def _tiff(data: bytes) -> tuple[str, ...]:
    tags = _tags(data)
    samples = tags.get(_SAMPLES, 1)
    kinds = [
        (GRAY, samples in {1, 2}),
        (ALPHA, samples in {2, 4}),
        (DEEP, tags.get(_BITS, 1) == 16),
        (TURNED, tags.get(_ORIENTATION, 1) != 1),
    ]
    return tuple(kind for kind, applies in kinds if applies)


def _tags(data: bytes) -> dict[int, int]:
    """16- and 32-bit integers in the first directory of a TIFF block; the first element of a list."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    tags: dict[int, int] = {}
    for index in range(count):
        entry = start + 2 + 12 * index
        tag, kind, length = struct.unpack_from(order + "HHI", data, entry)
        if kind in (3, 4) and length:
            # Four bytes of values fit in the entry; otherwise the entry holds their offset.
            code, most = ("H", 2) if kind == 3 else ("I", 1)
            where = entry + 8 if length <= most else struct.unpack_from(order + "I", data, entry + 8)[0]
            (tags[tag],) = struct.unpack_from(order + code, data, where)
    return tags


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height by the first chunk: lossy "VP8 ", lossless "VP8L" or extended "VP8X"."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF
