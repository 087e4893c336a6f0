"""Feeds out of .npz and .npy files, one in memory at a time.

What one feed takes of an array follows from the input's shape, so that every kind of input has data files:

- an input with a first axis of 1 or of open size takes rows: (N, 3, 32, 32) holds N feeds of (1, 3, 32, 32);
- every input takes samples behind a leading axis: (N, 4, 3, 32, 32) holds N feeds of (4, 3, 32, 32), and (N,)
  holds N scalars;
- an input with a fixed first axis takes whole feeds: (4, 3, 32, 32) is one, (40, 3, 32, 32) are ten.

An array that holds one feed beside others that hold more is given with each of theirs.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgedeploy.core.errors import CalibrationError
from edgedeploy.core.sampling import evenly_spaced
from edgedeploy.core.spec import TensorSpec

Shape = tuple[int, ...]
MOST_BYTES = 2**31  # of one feed: a header of a hundred bytes can claim any size
DAMAGE = (zipfile.BadZipFile, ValueError, EOFError, OSError, zlib.error, NotImplementedError, RuntimeError,
          SyntaxError, tokenize.TokenError)  # fmt: skip


@dataclass(frozen=True)
class _Layout:
    """How feeds lie in an array: `count` blocks of equal size, each of which becomes `shape`."""

    count: int
    shape: Shape


def is_arrays(path: Path) -> bool:
    """Whether the name is that of a file of numpy arrays."""
    return path.suffix.lower() in {".npz", ".npy"} and not path.name.startswith(".")


def array_names(path: Path) -> tuple[str, ...]:
    """Names of a file's arrays; one without a name for .npy. Raises CalibrationError if it is damaged."""
    if path.suffix.lower() == ".npy":
        return ("",)
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except DAMAGE as error:
        raise _damaged(path, error) from error


def array_files(folder: Path) -> list[Path]:
    """The files of arrays of a folder and its subfolders, by name."""
    return sorted(path for path in folder.rglob("*") if is_arrays(path) and path.is_file())


def folder_arrays(
    files: Sequence[Path], limit: int, inputs: tuple[str, ...], specs: Sequence[TensorSpec] = ()
) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Feeds of several files, drawn from evenly; see `array_feeds`."""
    chosen = evenly_spaced(len(files), limit)
    for index in chosen:
        yield from array_feeds(files[index], -(-limit // len(chosen)), inputs, specs)


def array_feeds(
    path: Path, limit: int, inputs: tuple[str, ...], specs: Sequence[TensorSpec] = ()
) -> Iterator[Mapping[str, NDArray[Any]]]:
    """At most `limit` feeds, evenly spread over a file and streamed from it; pickled arrays are refused.

    Args:
        path: an .npz that names its arrays like the inputs, or one array for a model of one input.
        inputs: names of the model's inputs.
        specs: shapes of the inputs; arrays of an input without one are taken as rows.

    Raises CalibrationError where the arrays do not fit the inputs, or the file is damaged.
    """
    shapes = {spec.name: spec.shape for spec in specs}
    with ExitStack() as stack:
        try:
            streams = _open(path, stack)
            if len(streams) == 1 and len(inputs) == 1:
                streams = {inputs[0]: next(iter(streams.values()))}
            if set(streams) != set(inputs):
                raise CalibrationError(
                    f"{path} holds {', '.join(sorted(streams))}; the inputs are {', '.join(inputs)}",
                    "name the arrays like the model's inputs: np.savez(file, **{name: array})",
                )
            headers = {name: _header(path, stream) for name, stream in streams.items()}
            layouts = {
                name: _layout(path, name, shape, shapes.get(name)) for name, (shape, _) in headers.items()
            }
            wanted = set(evenly_spaced(_count(path, layouts), limit))
            once = {name for name, layout in layouts.items() if layout.count == 1}
            feed: dict[str, NDArray[Any]] = {}
            for index in range(max(wanted, default=-1) + 1):
                for name, stream in streams.items():
                    if not index or name not in once:
                        feed[name] = _read(path, stream, layouts[name].shape, headers[name][1])
                if index in wanted:
                    yield dict(feed)
        except DAMAGE as error:
            raise _damaged(path, error) from error


def _layout(path: Path, name: str, shape: Shape, wanted: tuple[int | str, ...] | None) -> _Layout:
    """How an array of `shape` holds feeds for an input of the shape `wanted`; see the module's docstring."""
    if wanted is not None:
        if shape and _fits(shape[1:], wanted):
            return _Layout(shape[0], shape[1:])
        first = wanted[0] if wanted else None
        if isinstance(first, int) and first != 1 and shape and _fits(shape[1:], wanted[1:]):
            if shape[0] % max(first, 1) == 0:
                return _Layout(shape[0] // max(first, 1), (first, *shape[1:]))
            raise CalibrationError(
                f"{path}: array '{name}' has {shape[0]} rows, and the input takes {first} at a time",
                f"save a multiple of {first} rows, or samples behind a leading axis: (N, {_text(wanted)})",
            )
        if not wanted and not shape:
            return _Layout(1, ())
    if not shape:
        raise CalibrationError(
            f"{path}: array '{name}' is a scalar",
            "save one row per input: np.stack([...]) of what one run takes",
        )
    return _Layout(shape[0], (1, *shape[1:]))


def _fits(shape: Shape, wanted: tuple[int | str, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        isinstance(size, str) or size == own for size, own in zip(wanted, shape, strict=True)
    )


def _count(path: Path, layouts: Mapping[str, _Layout]) -> int:
    """Feeds in the file: what all arrays agree on, but for those that hold one."""
    counts = {layout.count for layout in layouts.values()}
    if len(counts - {1}) > 1:
        raise CalibrationError(f"{path}: arrays have {sorted(counts)} rows", "give one row per input each")
    return max(counts, default=0)


def _open(path: Path, stack: ExitStack) -> dict[str, IO[bytes]]:
    if path.suffix.lower() == ".npy":
        return {"": stack.enter_context(path.open("rb"))}
    archive = stack.enter_context(zipfile.ZipFile(path))
    return {name.removesuffix(".npy"): stack.enter_context(archive.open(name)) for name in archive.namelist()}


def _header(path: Path, stream: IO[bytes]) -> tuple[Shape, np.dtype[Any]]:
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject or (fortran and len(shape) > 1):
        raise CalibrationError(
            f"{path} holds an array of {dtype} {shape}{' in Fortran order' if fortran else ''}",
            "save plain C-ordered numbers with one row per input: np.ascontiguousarray(...)",
        )
    if 0 in shape:
        raise CalibrationError(f"{path} holds an empty array of shape {shape}", "save one row per input")
    return shape, dtype


def _read(path: Path, stream: IO[bytes], shape: Shape, dtype: np.dtype[Any]) -> NDArray[Any]:
    size = math.prod(shape) * dtype.itemsize
    if size > MOST_BYTES:
        raise CalibrationError(
            f"{path} says that one feed has {size >> 20} MB", f"a feed may have {MOST_BYTES >> 20} MB"
        )
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("it ends early")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _damaged(path: Path, error: Exception) -> CalibrationError:
    return CalibrationError(f"{path} is not a whole array file: {error}", "save it again with np.savez")


def _text(shape: tuple[int | str, ...]) -> str:
    return ", ".join(map(str, shape))
