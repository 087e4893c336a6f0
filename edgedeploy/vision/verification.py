"""Verification of faces by distance: k-fold accuracy, area under the ROC curve, equal error rate.

The protocol of Labeled Faces in the Wild (Huang et al., 2007) with ten folds. Embeddings are centered as in
the evaluation code of TVConv (there the center accumulates over the folds; here each fold has its own).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import UsageError
from edgedeploy.vision.images import list_images

Distances = NDArray[np.float64]
Embeddings = NDArray[np.float64]
Pair = tuple[Path, Path, bool]

THRESHOLDS = np.arange(0, 4, 0.001)  # of squared distances between vectors of length 1
MOST_PAIRS = 6000  # the number in Labeled Faces in the Wild


def k_fold_accuracy(
    first: Embeddings, second: Embeddings, same: NDArray[Any], folds: int
) -> tuple[float, float]:
    """Mean and standard deviation of the accuracy over consecutive folds; embeddings (N, D) have length 1.

    The mean embedding, subtracted before normalizing again, and the threshold come from the other folds.
    """
    pairs, scores = np.arange(len(first)), []
    for part in np.array_split(pairs, folds):
        rest = np.setdiff1d(pairs, part)
        center = np.concatenate([first[rest], second[rest]]).mean(axis=0)
        distance = np.square(_unit(first - center) - _unit(second - center)).sum(axis=1)
        threshold = best_threshold(distance[rest], same[rest])
        scores.append(float(((distance[part] < threshold) == same[part].astype(bool)).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def best_threshold(distance: Distances, same: NDArray[Any]) -> float:
    """Mean of the thresholds with the most right decisions; a smaller distance means one person."""
    match = same.astype(bool)
    near, far = np.sort(distance[match]), np.sort(distance[~match])
    right = np.searchsorted(near, THRESHOLDS) + far.size - np.searchsorted(far, THRESHOLDS)
    return float(THRESHOLDS[right == right.max()].mean())


def _unit(vectors: Embeddings) -> Embeddings:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def area_under_curve(distance: Distances, same: NDArray[Any]) -> float:
    """Probability that a pair of one person is nearer than a pair of two; equal distances count half."""
    near, far = distance[same.astype(bool)], np.sort(distance[~same.astype(bool)])
    if not (near.size and far.size):
        return float("nan")
    below, upto = np.searchsorted(far, near, "left"), np.searchsorted(far, near, "right")
    return float(1 - (below + upto).mean() / 2 / far.size)


def equal_error_rate(distance: Distances, same: NDArray[Any]) -> float:
    """Rate of false acceptances at the threshold where it equals the rate of false rejections."""
    match = same.astype(bool)
    if match.all() or not match.any():
        return float("nan")
    cuts = np.concatenate([np.unique(distance), [np.inf]])
    rejected = np.array([(distance[match] >= cut).mean() for cut in cuts])
    accepted = np.array([(distance[~match] < cut).mean() for cut in cuts])
    nearest = int(np.abs(rejected - accepted).argmin())
    return float((rejected[nearest] + accepted[nearest]) / 2)


def read_pairs(data: Path, limit: int | None = None) -> list[Pair]:
    """Pairs of image files and whether they show one person; raises UsageError.

    data/pairs.txt has lines "PATH PATH 0|1" relative to `data`, or those of Labeled Faces in the Wild, "NAME
    1 4" and "NAME 1 OTHER 2" for NAME/NAME_0001.jpg and so on. Without it pairs are drawn from one folder per
    person: half of one person, half of two, alternating, always the same.
    """
    listing = data / "pairs.txt"
    if listing.is_file():
        return _read_listing(data, listing)[:limit]
    people = sorted(path for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
    if len(people) < 2:
        raise UsageError(f"{data} holds no pairs.txt and no folders of people", "give one folder a person")
    return draw_pairs(people, limit)


def draw_pairs(people: Sequence[Path], limit: int | None = None) -> list[Pair]:
    """Draw pairs of images from one folder per person, see `read_pairs`; raises UsageError."""
    images = [list_images(person) for person in people]
    of_one = [pair for files in images for pair in combinations(files, 2)]
    if not of_one:
        where = people[0].parent if people else "no folder"
        raise UsageError(f"nobody in {where} has two images", "verification needs two images of a person")
    generator = np.random.default_rng(0)
    count = min(len(of_one), MOST_PAIRS // 2, (limit or MOST_PAIRS) // 2)
    pairs: list[Pair] = []
    for index in generator.permutation(len(of_one))[:count]:
        one, other = generator.choice(len(people), 2, replace=False)
        first, second = (images[k][generator.integers(len(images[k]))] for k in (one, other))
        pairs += [(*of_one[index], True), (first, second, False)]
    return pairs


def check_pairs(pairs: Sequence[Pair], folds: int) -> None:
    """Raise UsageError for too few pairs for the folds, or a missing file."""
    if len(pairs) < 2 * folds:
        raise UsageError(f"{len(pairs)} pairs are too few for {folds} folds", f"give at least {2 * folds}")
    missing = next((file for pair in pairs for file in pair[:2] if not file.is_file()), None)
    if missing is not None:
        raise UsageError(f"{missing} does not exist", "pairs.txt names it, relative to its own folder")


def _read_listing(data: Path, listing: Path) -> list[Pair]:
    root = data.resolve()
    lines = [line.split() for line in listing.read_text(encoding="utf-8").splitlines()]
    # The file of Labeled Faces in the Wild begins with the number of folds and of pairs per fold.
    wild = bool(lines) and 1 <= len(lines[0]) <= 2 and all(word.isdigit() for word in lines[0])
    pairs: list[Pair] = []
    for number, words in enumerate(lines, 1):
        if not words or (wild and number == 1):
            continue
        pair = _wild(words) if wild else _listed(words)
        if pair is None:
            form = "NAME 1 4 or NAME 1 OTHER 2" if wild else "PATH PATH 0|1"
            raise UsageError(f"{listing}, line {number}: not {form}", "names must not hold spaces")
        first, second = (data / name for name in pair[:2])
        if any(root not in file.resolve().parents for file in (first, second)):
            raise UsageError(f"{listing}, line {number}: a path leads out of {data}", "keep images below it")
        pairs.append((first, second, pair[2]))
    return pairs


def _listed(words: Sequence[str]) -> tuple[str, str, bool] | None:
    if len(words) != 3 or words[2] not in ("0", "1"):
        return None
    return words[0], words[1], words[2] == "1"


def _wild(words: Sequence[str]) -> tuple[str, str, bool] | None:
    if len(words) not in (3, 4):
        return None
    one, other = words[0], words[0] if len(words) == 3 else words[2]
    first, second = words[1], words[-1]
    if not (first.isdigit() and second.isdigit()):
        return None
    files = [f"{name}/{name}_{int(index):04}.jpg" for name, index in ((one, first), (other, second))]
    return files[0], files[1], len(words) == 3
