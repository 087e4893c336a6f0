"""The user's data in two parts that share nothing: one to calibrate on, one to score candidates on.

A folder becomes two folders of links with the same structure, so that labels stay beside their images. Frames
of a video and rows of arrays become files. Files of one name (a picture, its small version, its mask) and
files of the same bytes stay in one part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.core.errors import CalibrationError
from edgedeploy.core.files import sha256_file
from edgedeploy.core.sampling import evenly_spaced
from edgedeploy.vision.images import is_image, write_image
from edgedeploy.vision.video import is_video

TRUTH = ("annot", "masks", "_gts")  # ends of the names of folders whose images are labels


@dataclass(frozen=True)
class Parts:
    """Where the two parts are, and how many inputs each has."""

    calibration: Path
    scored: Path
    calibrating: int
    scoring: int


def split(data: Path, folder: Path, calibrate: int, score: int, labeled: Path | None = None) -> Parts:
    """Divide `data` into at most `calibrate` inputs to calibrate on and `score` to score on, below `folder`.

    With `labeled` those images are scored, and are left out of `data`. Raises CalibrationError where `data`
    has fewer than two inputs that differ.
    """
    if labeled is not None:
        return _apart(data, folder, calibrate, score, labeled)
    if data.is_dir():
        return _split_folder(data, folder, calibrate, score)
    if data.suffix.lower() in {".npz", ".npy"}:
        return _split_arrays(data, folder, calibrate, score)
    if is_video(data):
        return _split_video(data, folder, calibrate, score)
    raise CalibrationError(
        f"{data.name} is one image: the precision that ships is judged on others than it was calibrated on",
        "give a folder with some dozens of typical images",
    )


def _split_folder(data: Path, folder: Path, calibrate: int, score: int) -> Parts:
    groups = _groups(_images(data))
    _require_two(len(groups), data)
    chosen = evenly_spaced(len(groups), min(calibrate, len(groups) // 2))
    rest = [index for index in range(len(groups)) if index not in set(chosen)]
    scored = [groups[rest[i]] for i in evenly_spaced(len(rest), score)]
    calibrating = [path for i in chosen for path in groups[i] if not _is_truth(path, data)]
    scoring = [path for group in scored for path in group]
    return Parts(
        _mirror(data, folder / "calibration", calibrating, labels=False),
        _mirror(data, folder / "scored", scoring, labels=True),
        len(calibrating),
        len(scored),
    )


def _apart(data: Path, folder: Path, calibrate: int, score: int, labeled: Path) -> Parts:
    """`data` without the images that are in `labeled` too, and `labeled` as it is."""
    if not data.is_dir():
        return Parts(data, labeled, calibrate, score)
    found = _images(labeled) if labeled.is_dir() else [labeled]
    sizes = {path.stat().st_size for path in found}
    taken = {path.resolve() for path in found}
    digests = {sha256_file(path) for path in found}
    left = [
        path
        for path in _images(data)
        if path.resolve() not in taken
        and not _is_truth(path, data)
        and (path.stat().st_size not in sizes or sha256_file(path) not in digests)
    ]
    if not left:
        raise CalibrationError(
            f"every image of {data} is among those to score on", "calibrate on other images: --data FOLDER"
        )
    count = min(calibrate, len(left))
    mirrored = _mirror(
        data, folder / "calibration", [left[i] for i in evenly_spaced(len(left), count)], False
    )
    return Parts(mirrored, labeled, count, score)


def _split_arrays(data: Path, folder: Path, calibrate: int, score: int) -> Parts:
    from edgedeploy.calibration.collect.arrays import array_feeds, array_names

    rows = list(array_feeds(data, calibrate + score, array_names(data)))
    _require_two(len(rows), data)
    parts = (rows[0::2][:calibrate], rows[1::2][:score])
    paths = []
    for name, part in zip(("calibration", "scored"), parts, strict=True):
        (folder / name).mkdir(parents=True)
        paths.append(folder / name / f"{data.stem}.npz")
        arrays: dict[str, Any] = {key: np.concatenate([row[key] for row in part]) for key in part[0]}
        np.savez(paths[-1], **arrays)
    return Parts(paths[0], paths[1], len(parts[0]), len(parts[1]))


def _split_video(data: Path, folder: Path, calibrate: int, score: int) -> Parts:
    """Frames in turns: both parts see every scene of a clip, and never the same frame."""
    from edgedeploy.calibration.collect.sources import video_images

    counts = [0, 0]
    places = (folder / "calibration" / data.stem, folder / "scored" / data.stem)
    for place in places:
        place.mkdir(parents=True)
    for index, frame in enumerate(video_images(data, calibrate + score)):
        side = index % 2
        if counts[side] < (calibrate, score)[side]:
            write_image(places[side] / f"{index:06}.png", frame)
            counts[side] += 1
    _require_two(min(counts) + 1, data)
    return Parts(*places, *counts)


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if is_image(path) and path.is_file())


def _groups(images: Sequence[Path]) -> list[list[Path]]:
    """Groups of images of one file name, or of the same bytes."""
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        while leader.setdefault(key, key) != key:
            key = leader[key]
        return key

    sizes: defaultdict[int, list[Path]] = defaultdict(list)
    for path in images:
        sizes[path.stat().st_size].append(path)
    for same in sizes.values():
        seen: dict[str, str] = {}
        for path in same if len(same) > 1 else ():
            twin = seen.setdefault(sha256_file(path), path.stem)
            leader[find(path.stem)] = find(twin)
    groups: dict[str, list[Path]] = {}
    for path in images:
        groups.setdefault(find(path.stem), []).append(path)
    return list(groups.values())


def _is_truth(path: Path, data: Path) -> bool:
    return any(part.endswith(TRUTH) for part in path.relative_to(data).parts[:-1])


def _mirror(data: Path, folder: Path, images: Iterable[Path], labels: bool) -> Path:
    """A folder like `data` with links to these images; with `labels` also to other files and siblings.

    Labels may be in a folder beside that of the images: siblings whose names begin alike are linked.
    """
    place = folder / data.resolve().name
    place.mkdir(parents=True)
    others = [p for p in data.rglob("*") if p.is_file() and not is_image(p)] if labels else []
    for path in (*images, *others):
        link = place / path.relative_to(data)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    if labels:
        begin = data.resolve().name.removesuffix("_images")
        for sibling in data.resolve().parent.iterdir():
            if sibling.is_dir() and sibling.name.startswith(begin) and sibling != data.resolve():
                (folder / sibling.name).symlink_to(sibling)
    return place


def _require_two(count: int, data: Path) -> None:
    if count < 2:
        raise CalibrationError(
            f"{data} has too few inputs to calibrate on some and to score on others",
            "give some dozens of typical images",
        )
