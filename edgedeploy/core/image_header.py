"""What an image file is before it is decoded to RGB bytes: gray, transparent, of 16 bits, or turned.

Decoders make 8-bit RGB of all of them without a word. Read from the headers of PNG (IHDR), JPEG (SOFn, and
EXIF in APP1) and TIFF (first directory); of other formats nothing is said. W3C PNG, ITU T.81, TIFF 6.0.
"""

from __future__ import annotations

import struct

GRAY, ALPHA, DEEP, TURNED = "grayscale", "with transparency", "of 16 bits", "rotated by EXIF"
_BITS, _SAMPLES, _ORIENTATION = 258, 277, 274  # tags of TIFF
SCAN = 0xDA  # the marker of a JPEG before its compressed pixels
_NO_FRAME = {0xC4, 0xC8, 0xCC}  # markers between SOF0 and SOF15 that are none


def image_kinds(data: bytes) -> tuple[str, ...]:
    """Which of GRAY, ALPHA, DEEP and TURNED an image file is; empty for plain RGB and for what is damaged."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data[:4] in {b"II*\x00", b"MM\x00*"}:
            return _tiff(data)
    except (struct.error, IndexError):
        pass
    return ()


def is_whole(data: bytes) -> bool:
    """Whether a PNG or JPEG holds the mark of its end; true for other formats, which their decoders check.

    Not every OpenCV refuses a truncated file. Bytes behind the end are fine: phones append clips to photos.
    """
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data
    if not data.startswith(b"\xff\xd8"):
        return True
    position = 2
    # A thumbnail inside a segment has an end of its own, so segments are passed over as a whole.
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == SCAN:
            return b"\xff\xd9" in data[position:]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def _png(data: bytes) -> tuple[str, ...]:
    depth, color = data[24], data[25]
    found = [(GRAY, not color & 2), (ALPHA, bool(color & 4)), (DEEP, depth == 16)]
    return tuple(kind for kind, true in found if true)


def _jpeg(data: bytes) -> tuple[str, ...]:
    kinds: list[str] = []
    position = 2
    while data[position] == 0xFF:
        marker = data[position + 1]
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = data[position + 4 : position + 2 + length]
        if marker == 0xE1 and body.startswith(b"Exif\0\0") and _tags(body[6:]).get(_ORIENTATION, 1) != 1:
            kinds.append(TURNED)
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            return (GRAY, *kinds) if body[5] == 1 else tuple(kinds)
        position += 2 + length
    return tuple(kinds)


def _tiff(data: bytes) -> tuple[str, ...]:
    tags = _tags(data)
    samples = tags.get(_SAMPLES, 1)
    found = [
        (GRAY, samples in {1, 2}),
        (ALPHA, samples in {2, 4}),
        (DEEP, tags.get(_BITS, 1) == 16),
        (TURNED, tags.get(_ORIENTATION, 1) != 1),
    ]
    return tuple(kind for kind, true in found if true)


def _tags(data: bytes) -> dict[int, int]:
    """Short integers of the first directory of a TIFF block; of lists the first."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    tags: dict[int, int] = {}
    for index in range(count):
        entry = start + 2 + 12 * index
        tag, kind, length = struct.unpack_from(order + "HHI", data, entry)
        if kind == 3 and length:
            # Two short values fit in the entry; more lie where its last four bytes say.
            where = entry + 8 if length <= 2 else struct.unpack_from(order + "I", data, entry + 8)[0]
            (tags[tag],) = struct.unpack_from(order + "H", data, where)
    return tags
