"""Boxes or polygons of words from a probability map of shrunk words.

Contours of P > threshold, each with a score, are offset outward by area * ratio / perimeter: rectangles in
closed form, polygons with round corners by pyclipper. Liao et al., Real-time Scene Text Detection with
Differentiable Binarization, 2020; constants as in github.com/MhLiao/DB.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import MissingDependencyError

Points = NDArray[np.float32]
CLIPPER_SCALE = 256  # pyclipper computes in integers: 1/256 of a pixel


@dataclass(frozen=True)
class RegionOptions:
    """Options of reading regions from a map.

    Attributes:
        threshold: of the map.
        box_threshold: minimum mean probability of a region; papers use 0.5 to 0.7 by data set.
        unclip_ratio: area * ratio / perimeter is the offset outward; 0: 1.5 for boxes, 2 for polygons.
        polygon: outlines of any shape instead of rotated rectangles.
        min_size: minimum short side of a region in the map before growing; two pixels more after it.
        max_candidates: maximum number of contours.
    """

    threshold: float = 0.3
    box_threshold: float = 0.6
    unclip_ratio: float = 0.0
    polygon: bool = False
    min_size: float = 3.0
    max_candidates: int = 1000

    @property
    def ratio(self) -> float:
        return self.unclip_ratio or (2.0 if self.polygon else 1.5)


@dataclass(frozen=True)
class TextRegions:
    """Regions of an image.

    Attributes:
        polygons: corners (n, 2) float32 as x, y in pixels of the image; four of a box, clockwise from the one
            nearest to the top left.
        scores: mean probability of each region, in (0, 1].
    """

    polygons: tuple[Points, ...]
    scores: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.polygons)


def find_regions(
    probability: NDArray[Any], height: int, width: int, options: RegionOptions | None = None
) -> TextRegions:
    """Regions of a map (h, w) in the coordinates of its image (height, width)."""
    options = options or RegionOptions()
    probability = np.ascontiguousarray(probability, np.float32)
    bitmap = (probability > options.threshold).astype(np.uint8)
    contours, _ = cv2.findContours(bitmap, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    scale = np.array([width / bitmap.shape[1], height / bitmap.shape[0]], np.float32)
    polygons, scores = [], []
    for contour in contours[: options.max_candidates]:
        outline = _outline(contour, options)
        if outline is None:
            continue
        score = mean_inside(probability, outline)
        if score < options.box_threshold:
            continue
        grown = grow_polygon(outline, options.ratio) if options.polygon else grow_box(contour, options.ratio)
        if grown is None or _short_side(grown) < options.min_size + 2:
            continue
        polygons.append(np.clip(np.rint(grown * scale), 0, [width, height]).astype(np.float32))
        scores.append(score)
    return TextRegions(tuple(polygons), tuple(scores))


def _outline(contour: NDArray[Any], options: RegionOptions) -> Points | None:
    """The shape to score: the simplified contour, or its smallest rectangle; None if too small."""
    if options.polygon:
        simple = cv2.approxPolyDP(contour, 0.002 * cv2.arcLength(contour, True), True).reshape(-1, 2)
        return None if len(simple) < 4 else simple.astype(np.float32)
    box = corners_of(cv2.minAreaRect(contour))
    return None if _short_side(box) < options.min_size else box


def grow_box(contour: NDArray[Any], ratio: float) -> Points:
    """The smallest rotated rectangle around a contour, each side moved out by area * ratio / perimeter."""
    center, (w, h), angle = cv2.minAreaRect(contour)
    offset = w * h * ratio / max(2 * (w + h), 1e-6)
    return corners_of((center, (w + 2 * offset, h + 2 * offset), angle))


def grow_polygon(polygon: Points, ratio: float) -> Points | None:
    """The polygon offset by area * ratio / perimeter with round corners; None for several pieces."""
    area = abs(cv2.contourArea(polygon))
    pieces = offset_polygon(polygon, area * ratio / max(cv2.arcLength(polygon, True), 1e-6))
    return pieces[0] if len(pieces) == 1 else None


def offset_polygon(polygon: NDArray[Any], distance: float) -> list[Points]:
    """Outlines `distance` pixels outside (negative: inside), with round corners; may be empty.

    Raises MissingDependencyError without pyclipper.
    """
    try:
        pyclipper: Any = importlib.import_module("pyclipper")
    except ImportError:
        raise MissingDependencyError(
            "polygons of text need pyclipper", "pip install 'edgedeploy[text]'"
        ) from None
    offset = pyclipper.PyclipperOffset(arc_tolerance=0.25 * CLIPPER_SCALE)
    corners = np.rint(np.asarray(polygon, np.float64) * CLIPPER_SCALE).astype(np.int64).tolist()
    try:
        offset.AddPath(corners, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    except pyclipper.ClipperException:  # all corners on one line
        return []
    pieces = offset.Execute(distance * CLIPPER_SCALE)
    return [(np.asarray(piece, np.float64) / CLIPPER_SCALE).astype(np.float32) for piece in pieces]


def mean_inside(probability: NDArray[np.float32], polygon: Points) -> float:
    """Mean of the map over the pixels of a polygon, its edge included."""
    height, width = probability.shape
    low = np.clip(np.floor(polygon.min(0)), 0, [width - 1, height - 1]).astype(int)
    high = np.clip(np.ceil(polygon.max(0)), 0, [width - 1, height - 1]).astype(int)
    mask = np.zeros((high[1] - low[1] + 1, high[0] - low[0] + 1), np.uint8)
    cv2.fillPoly(mask, [(polygon - low).astype(np.int32)], [1])
    window = np.ascontiguousarray(probability[low[1] : high[1] + 1, low[0] : high[0] + 1])
    return float(cv2.mean(window, mask)[0])


def corners_of(rectangle: Any) -> Points:
    """Corners of a rotated rectangle ((x, y), (w, h), angle), clockwise, the top left one first."""
    corners = np.asarray(cv2.boxPoints(rectangle), np.float32)
    center = corners.mean(0)
    around = np.arctan2(corners[:, 1] - center[1], corners[:, 0] - center[0])
    ordered = corners[np.argsort(around)]  # y points down, so growing angles are clockwise
    return np.roll(ordered, -int(np.argmin(ordered.sum(1))), axis=0)


def _short_side(polygon: Points) -> float:
    return float(min(cv2.minAreaRect(polygon)[1]))
