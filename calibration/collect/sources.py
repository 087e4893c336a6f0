"""Images out of files and clips, one at a time, spread evenly over what a source holds.

Neighbors in a folder or a clip look alike: the first 64 of 1000 would calibrate for a drive's first minute.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any

from edgedeploy.calibration.collect.arrays import is_arrays
from edgedeploy.core.errors import CalibrationError
from edgedeploy.core.image_header import image_kinds
from edgedeploy.core.sampling import evenly_spaced
from edgedeploy.task import Image
from edgedeploy.vision.images import decode_rgb, is_image
from edgedeploy.vision.video import decode_video, is_video, open_video, upright_rgb


def spread(count: int, limit: int) -> list[int]:
    """0 to count - 1 with `limit` evenly spaced ones first, in order; the others follow as a reserve."""
    chosen = evenly_spaced(count, limit)
    return chosen + sorted(set(range(count)) - set(chosen))


def source_length(source: Any, limit: int) -> int | None:
    """How many inputs a source has within `limit`, damaged ones included; None where it does not tell."""
    if not isinstance(source, (str, Path)):
        return min(len(source), limit) if isinstance(source, Sized) else None
    path = Path(source)
    if path.is_dir():
        return min(len(image_files(path)), limit) or None  # of files of arrays, headers would have to be read
    if is_arrays(path):
        return None  # its headers are read when it is opened
    return min(_count_frames(path), limit) if is_video(path) and path.is_file() else 1


def image_files(folder: Path) -> list[Path]:
    """The images of a folder and its subfolders, by name."""
    return sorted(path for path in folder.rglob("*") if is_image(path) and path.is_file())


def folder_images(
    folder: Path, limit: int, skipped: dict[str, str], kinds: dict[str, int]
) -> Iterator[Image]:
    """The images of a folder and its subfolders; see `single_image`."""
    files = image_files(folder)
    if not files:
        raise CalibrationError(
            f"{folder} holds no images", "give a folder with some dozens of typical images"
        )
    for index in spread(len(files), limit):
        yield from single_image(files[index], skipped, kinds)


def single_image(path: Path, skipped: dict[str, str], kinds: dict[str, int]) -> Iterator[Image]:
    """The image of a file, upright RGB, or nothing and an entry in `skipped`; `kinds` counts what it was."""
    try:
        data = path.read_bytes()
    except OSError as error:
        skipped[path.name] = error.strerror or str(error)
        return
    try:
        image = decode_rgb(data)
    except ValueError as error:
        skipped[path.name] = str(error)
        return
    for kind in image_kinds(data):
        kinds[kind] = kinds.get(kind, 0) + 1
    yield image


def video_images(path: Path, limit: int) -> Iterator[Image]:
    """Upright frames spread over a clip, RGB (H, W, 3) uint8; UsageError where it is damaged."""
    wanted = set(spread(_count_frames(path), limit)[:limit])
    with open_video(str(path)) as container:
        for index, frame in enumerate(decode_video(container, str(path))):
            if index in wanted:
                yield upright_rgb(frame)


def _count_frames(path: Path) -> int:
    """By counting packets: containers lie about the number of frames, and decoding twice is dear."""
    with open_video(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))
