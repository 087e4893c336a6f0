"""Images and arrays out of files, one at a time, spread evenly over what a source holds.

Neighbors in a folder or a clip look alike: the first 64 of 1000 would calibrate for a drive's first minute.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sized
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgedeploy.core.errors import CalibrationError
from edgedeploy.core.image_header import image_kinds
from edgedeploy.core.spacing import evenly
from edgedeploy.task import Image
from edgedeploy.vision.images import decode_rgb, is_image
from edgedeploy.vision.video import decode_video, is_video, open_video, upright_rgb


def spread(count: int, limit: int) -> list[int]:
    """0 to count - 1 with `limit` evenly spaced ones first, in order; the others follow as a reserve."""
    chosen = evenly(count, limit)
    return chosen + sorted(set(range(count)) - set(chosen))


def source_length(source: Any, limit: int) -> int | None:
    """How many inputs a source has within `limit`, damaged ones included; None where it does not tell."""
    if not isinstance(source, (str, Path)):
        return min(len(source), limit) if isinstance(source, Sized) else None
    path = Path(source)
    if path.is_dir():
        return min(len(image_files(path)), limit)
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


def is_arrays(path: Path) -> bool:
    """Whether the name is that of a file of numpy arrays."""
    return path.suffix.lower() in {".npz", ".npy"}


def array_names(path: Path) -> tuple[str, ...]:
    """Names of a file's arrays; one without a name for .npy. Raises CalibrationError if it is damaged."""
    if path.suffix.lower() == ".npy":
        return ("",)
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError) as error:
        raise CalibrationError(f"{path} is not a whole array file: {error}", "save it again") from error


def array_rows(path: Path, limit: int, inputs: tuple[str, ...]) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Rows (1, ...) of arrays (N, ...), streamed from the file; pickled arrays are refused.

    Raises CalibrationError where the arrays do not fit the inputs, or the file is damaged.
    """
    with ExitStack() as stack:
        try:
            streams = _open_arrays(path, stack)
            if len(streams) == 1 and len(inputs) == 1:
                streams = {inputs[0]: next(iter(streams.values()))}
            if set(streams) != set(inputs):
                raise CalibrationError(
                    f"{path} holds {', '.join(sorted(streams))}; the inputs are {', '.join(inputs)}",
                    "name the arrays like the model's inputs: np.savez(file, **{name: array})",
                )
            headers = {name: _header(path, stream) for name, stream in streams.items()}
            counts = {shape[0] for shape, _ in headers.values()}
            if len(counts) != 1:
                raise CalibrationError(
                    f"{path}: arrays have {sorted(counts)} rows", "give one row per input each"
                )
            wanted = set(spread(counts.pop(), limit)[:limit])
            for index in range(max(wanted, default=-1) + 1):
                row = {name: _row(streams[name], *headers[name]) for name in streams}
                if index in wanted:
                    yield row
        except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
            raise CalibrationError(f"{path} is not a whole array file: {error}", "save it again") from error


def _open_arrays(path: Path, stack: ExitStack) -> dict[str, IO[bytes]]:
    if path.suffix.lower() == ".npy":
        return {"": stack.enter_context(path.open("rb"))}
    archive = stack.enter_context(zipfile.ZipFile(path))
    return {name.removesuffix(".npy"): stack.enter_context(archive.open(name)) for name in archive.namelist()}


def _header(path: Path, stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject or not shape or (fortran and len(shape) > 1):
        raise CalibrationError(
            f"{path} holds an array of {dtype} {shape}{' in Fortran order' if fortran else ''}",
            "save plain C-ordered numbers with one row per input: np.ascontiguousarray(...)",
        )
    return shape, dtype


def _row(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    size = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("it ends early")
    return np.frombuffer(data, dtype=dtype).reshape((1, *shape[1:]))
