"""Contact sheets: pictures of any size in a grid of equal cells."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from edgedeploy.task import Image

EDGE = 4  # pixels of white between cells


def contact_sheet(pictures: Sequence[Image], columns: int, cell: int = 200) -> Image:
    """Pictures row by row on white, each fitted into a square of `cell` pixels without distortion."""
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (cell + EDGE) + EDGE, columns * (cell + EDGE) + EDGE, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        y, x = (EDGE + part * (cell + EDGE) for part in divmod(index, columns))
        fitted = fit(picture, cell)
        sheet[y : y + fitted.shape[0], x : x + fitted.shape[1]] = fitted
    return sheet


def fit(picture: Image, cell: int) -> Image:
    """The picture resized to a longer side of `cell` pixels; enlarged without smoothing."""
    scale = cell / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    kind = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, size, interpolation=kind), np.uint8)
