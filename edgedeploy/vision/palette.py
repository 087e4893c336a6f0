"""Colors and names of classes: those of the data set with this number of classes, else generated ones.

Cityscapes: github.com/mcordts/cityscapesScripts, helpers/labels.py (train ids). CamVid: the palette of
SegNet's labels.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

CITYSCAPES = (
    "road 128 64 128", "sidewalk 244 35 232", "building 70 70 70", "wall 102 102 156", "fence 190 153 153",
    "pole 153 153 153", "traffic light 250 170 30", "traffic sign 220 220 0", "vegetation 107 142 35",
    "terrain 152 251 152", "sky 70 130 180", "person 220 20 60", "rider 255 0 0", "car 0 0 142",
    "truck 0 0 70", "bus 0 60 100", "train 0 80 100", "motorcycle 0 0 230", "bicycle 119 11 32",
)  # fmt: skip
CAMVID = (
    "sky 128 128 128", "building 128 0 0", "pole 192 192 128", "road 128 64 128", "pavement 60 40 222",
    "tree 128 128 0", "sign 192 128 128", "fence 64 64 128", "car 64 0 128", "pedestrian 64 64 0",
    "bicyclist 0 128 192",
)  # fmt: skip


KNOWN = {len(entries): [entry.rsplit(" ", 3) for entry in entries] for entries in (CITYSCAPES, CAMVID)}


def palette(classes: int) -> NDArray[np.uint8]:
    """RGB color of every class, (classes, 3) uint8, all different."""
    if classes in KNOWN:
        return np.asarray([color for _, *color in KNOWN[classes]]).astype(np.uint8)
    # Golden-ratio hues keep neighbors apart; brightness steps tell classes of similar hue apart.
    colors = [
        colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.55 + 0.45 * (i % 2), 1 - 0.25 * (i % 3))
        for i in range(classes)
    ]
    return np.asarray([[round(255 * part) for part in color] for color in colors], np.uint8)


def default_names(classes: int) -> tuple[str, ...]:
    """Names of the classes of the data set with this number of classes, else their numbers."""
    names = (name for name, *_ in KNOWN[classes]) if classes in KNOWN else map(str, range(classes))
    return tuple(names)


def draw_legend(
    picture: NDArray[np.uint8], entries: Sequence[tuple[str, NDArray[np.uint8]]]
) -> NDArray[np.uint8]:
    """A copy with lines of (name, color) at the top left, as many as fit."""
    result = np.array(picture, dtype=np.uint8)
    size = max(0.35, min(result.shape[:2]) / 900)
    line = round(size * 30)
    for row, (name, color) in enumerate(entries):
        top = 4 + row * line
        if top + line > result.shape[0]:
            break
        rgb = tuple(int(value) for value in color)
        cv2.rectangle(result, (4, top), (4 + line, top + line - 3), rgb, cv2.FILLED)
        cv2.rectangle(result, (4, top), (4 + line, top + line - 3), (255, 255, 255), 1)
        place = (10 + line, top + line - line // 3)
        # A dark rim keeps text legible on any background.
        for shade, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(result, name, place, cv2.FONT_HERSHEY_SIMPLEX, size, shade, thickness, cv2.LINE_AA)
    return result
