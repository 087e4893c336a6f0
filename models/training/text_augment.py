"""Random augmentation of photographs with text: rotate, scale, mirror, crop, with the words' outlines."""

from __future__ import annotations

import cv2
import numpy as np
from shapely.geometry import Polygon, box
from shapely.validation import make_valid

from edgedeploy.task import Image
from edgedeploy.vision.icdar import Word

TRIES = 10
WHOLE = 0.95  # least share of a word inside a window; below it the word is ignored
FITS = 0.9  # largest share of a window's sides for the word at its center


def random_view(
    image: Image,
    words: list[Word],
    crop: tuple[int, int],
    rng: np.random.Generator,
    *,
    scale: tuple[float, float] = (0.5, 3.0),
    angle: float = 10.0,
    flip: bool = True,
) -> tuple[Image, list[Word]]:
    """A window (h, w) of the image, rotated by up to `angle` degrees and scaled; black outside the image.

    The window is near one of the words, at a scale at which the word fits if `scale` allows. Without rotation
    it lies inside the image, or the image inside it. Of TRIES windows the first with a whole word is taken.
    Words that the window cuts are ignored.
    """
    size, window = np.array(image.shape[1::-1]), np.array(crop[::-1])
    aim = words[int(rng.integers(len(words)))].polygon if words else None
    low, high = scale
    if aim is not None:
        high = min(high, max(low, float((FITS * window / np.maximum(np.ptp(aim, axis=0), 1)).min())))
    factor = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    mirrored = -1.0 if flip and rng.integers(2) else 1.0
    turn = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), float(rng.uniform(-angle, angle)), factor)
    half = window / (2 * factor)
    for _ in range(TRIES):
        matrix = turn.copy()
        # Position in the image of the window's center.
        middle = rng.uniform(0, 1, 2) * size
        if aim is not None:
            middle = aim.mean(0) + rng.uniform(-0.4, 0.4, 2) * window / factor
        middle = np.clip(middle, np.minimum(half, size - half), np.maximum(half, size - half))
        matrix[0] *= mirrored
        matrix[:, 2] = window / 2 - matrix[:, :2] @ middle
        moved = [
            Word((w.polygon @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32), w.ignored) for w in words
        ]
        shares = [_inside(word, *crop) for word in moved]
        if any(share >= WHOLE and not word.ignored for share, word in zip(shares, moved, strict=True)):
            break
    if factor < 1:  # warping reads four pixels for one: blur first against aliasing
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.4 / factor), np.uint8)
    view = cv2.warpAffine(image, matrix, crop[::-1], flags=cv2.INTER_LINEAR)
    kept = [
        Word(word.polygon, word.ignored or share < WHOLE)
        for word, share in zip(moved, shares, strict=True)
        if share > 0
    ]
    return np.asarray(view, np.uint8), kept


def _inside(word: Word, height: int, width: int) -> float:
    """Share of a word's area within a window."""
    shape = make_valid(Polygon(word.polygon.astype(np.float64)))
    return float(shape.intersection(box(0, 0, width, height)).area / shape.area) if shape.area else 0.0
