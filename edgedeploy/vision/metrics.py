"""Metrics: PSNR and SSIM of 8-bit images, confusion matrix of class maps.

Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004, for SSIM.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import UsageError


def shave(image: NDArray[Any], border: int) -> NDArray[Any]:
    """The image without `border` pixels on each side; raises UsageError for a smaller image."""
    if min(image.shape[:2]) <= 2 * border:
        raise UsageError(
            f"an image of {image.shape[1]}x{image.shape[0]} is too small to shave {border} pixels",
            "use larger images",
        )
    return image[border : image.shape[0] - border, border : image.shape[1] - border]


def psnr(reference: NDArray[Any], candidate: NDArray[Any], border: int = 0) -> float:
    """Peak signal-to-noise ratio in dB of images in 0..255 of one shape; inf for equal images."""
    if reference.shape != candidate.shape:
        raise ValueError(f"shapes differ: {reference.shape} against {candidate.shape}")
    difference = shave(reference, border).astype(np.float64) - shave(candidate, border)
    error = float(np.mean(np.square(difference)))
    return math.inf if error == 0 else 10 * math.log10(255.0**2 / error)


def ssim(reference: NDArray[Any], candidate: NDArray[Any], border: int = 0) -> float:
    """Structural similarity of gray images in 0..255: mean over 11x11 Gaussian windows of sigma 1.5."""
    x, y = (shave(image, border).astype(np.float64) for image in (reference, candidate))
    if min(x.shape) < 11:
        raise UsageError(f"an image of {x.shape[1]}x{x.shape[0]} is too small for SSIM", "use larger images")

    def blur(image: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(cv2.GaussianBlur(image, (11, 11), 1.5)[5:-5, 5:-5])

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = blur(x), blur(y)
    vx, vy, covariance = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    value = (2 * mx * my + c1) * (2 * covariance + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(value.mean())


class ConfusionMatrix:
    """`counts` (classes, classes) int64 of pixels; rows are the true class, columns the predicted class."""

    def __init__(self, classes: int, ignore: int | None = None) -> None:
        self.counts = np.zeros((classes, classes), np.int64)
        self.ignore = ignore

    def add(self, truth: NDArray[Any], predicted: NDArray[Any]) -> None:
        """Count a pair of class maps of one shape; raises UsageError for a true class beyond the model's."""
        classes = len(self.counts)
        if truth.shape != predicted.shape:
            raise ValueError(f"shapes differ: {truth.shape} against {predicted.shape}")
        keep = truth != self.ignore if self.ignore is not None else np.ones(truth.shape, bool)
        known, guess = truth[keep].astype(np.int64), predicted[keep].astype(np.int64)
        if known.size and not 0 <= int(known.min()) <= int(known.max()) < classes:
            raise UsageError(
                f"the labels hold class {known.max()}, the model has {classes} classes",
                "set the task's option ignore to the index of unlabeled pixels",
            )
        self.counts += np.bincount(known * classes + guess, minlength=classes**2).reshape(classes, classes)

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class; NaN for a class that does not occur."""
        hits = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        result = np.full(len(hits), np.nan)
        np.divide(hits, union, out=result, where=union > 0)
        return result

    def mean_iou(self) -> float:
        """Mean of `iou()` over the classes that occur; NaN without pixels."""
        iou = self.iou()
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else math.nan

    def accuracy(self) -> float:
        """Share of pixels of the right class; NaN without pixels."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts)) / total if total else math.nan
