"""Targets of DBNet: maps of shrunk text and of the border of text.

Shrinking and growing are offsets by D = area (1 - r^2) / perimeter, r = 0.4; the border map is 0.7 on the
outline and falls to 0.3 at distance D. Liao et al., Real-time Scene Text Detection with Differentiable
Binarization, 2020; sizes and limits as in github.com/MhLiao/DB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgedeploy.vision.icdar import Word
from edgedeploy.vision.text_regions import offset_polygon

SHRINK = 0.4
LEAST_SIDE = 8.0  # pixels; smaller words are neither text nor background
LOW, HIGH = 0.3, 0.7

Map = NDArray[np.float32]


@dataclass(frozen=True)
class TextMaps:
    """Targets of one image, each (H, W) float32.

    Attributes:
        text: 1 inside shrunk words; target of the probability map and the binary map.
        text_mask: 0 inside ignored and small words.
        border: the target of the threshold map, in [0.3, 0.7].
        border_mask: 1 inside grown words, where the threshold map has a loss.
    """

    text: Map
    text_mask: Map
    border: Map
    border_mask: Map


def make_maps(words: Sequence[Word], height: int, width: int) -> TextMaps:
    """Targets of an image of (height, width) with these words in its coordinates."""
    text, border, border_mask = (np.zeros((height, width), np.float32) for _ in range(3))
    text_mask = np.ones((height, width), np.float32)
    for word in words:
        polygon = np.clip(word.polygon.astype(np.float64), 0, [width - 1, height - 1])
        distance = shrink_distance(polygon)
        learned = not word.ignored and distance > 0 and short_side(polygon) >= LEAST_SIDE
        shrunk = offset_polygon(polygon, -distance) if learned else []
        if not shrunk:
            cv2.fillPoly(text_mask, [np.rint(polygon).astype(np.int32)], [0.0])
            continue
        cv2.fillPoly(text, [np.rint(shrunk[0]).astype(np.int32)], [1.0])
        _add_border(polygon, distance, border, border_mask)
    return TextMaps(text, text_mask, border * (HIGH - LOW) + LOW, border_mask)


def shrink_distance(polygon: NDArray[Any], ratio: float = SHRINK) -> float:
    """D of a polygon (n, 2), pixels; 0 without area."""
    points = np.asarray(polygon, np.float32)
    length = cv2.arcLength(points, True)
    return float(cv2.contourArea(points) * (1 - ratio**2) / length) if length else 0.0


def short_side(polygon: NDArray[Any]) -> float:
    """The smaller of height and width, pixels: of a quadrilateral's sides, or of an upright bounding box."""
    if len(polygon) != 4:
        return float(min(np.ptp(polygon, axis=0)))
    sides = np.linalg.norm(polygon - np.roll(polygon, -1, axis=0), axis=1)
    return float(min(sides))


def _add_border(polygon: NDArray[Any], distance: float, border: Map, mask: Map) -> None:
    """Raise `border` to 1 - (distance to the outline) / D around a word, and mark where in `mask`."""
    grown = offset_polygon(polygon, distance)
    if not grown:
        return
    outline = np.rint(grown[0]).astype(np.int32)
    cv2.fillPoly(mask, [outline], [1.0])
    height, width = border.shape
    left, top = np.clip(outline.min(0), 0, [width - 1, height - 1])
    right, bottom = np.clip(outline.max(0), 0, [width - 1, height - 1])
    x, y = np.meshgrid(np.arange(left, right + 1), np.arange(top, bottom + 1))
    near = np.full(x.shape, np.inf)
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        np.minimum(near, distance_to_segment(x, y, start, end), out=near)
    window = border[top : bottom + 1, left : right + 1]
    np.maximum(window, (1 - np.clip(near / distance, 0, 1)).astype(np.float32), out=window)


def distance_to_segment(
    x: NDArray[Any], y: NDArray[Any], start: NDArray[Any], end: NDArray[Any]
) -> NDArray[np.float64]:
    """Distance of every point (x, y) to a segment between two points (2,), in pixels."""
    along = np.asarray(end, np.float64) - start
    square = float(along @ along)
    where = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / square if square else np.zeros(x.shape)
    where = np.clip(where, 0, 1)
    gap = np.hypot(x - start[0] - where * along[0], y - start[1] - where * along[1])
    return np.asarray(gap, np.float64)
