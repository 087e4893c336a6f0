"""Soft targets and mixed images for training classifiers as in DeiT and SLAB, and their cross-entropy.

Targets are distributions over classes: label smoothing creates them, mixup and CutMix mix them.
Zhang et al., mixup, ICLR 2018; Yun et al., CutMix, ICCV 2019; Szegedy et al., Rethinking Inception, 2016.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F


def smoothed(labels: Tensor, classes: int, smoothing: float = 0.1) -> Tensor:
    """Distributions (N, classes) from labels (N,): 1 - smoothing on the class, the rest uniform."""
    if not 0 <= smoothing < 1:
        raise ValueError(f"a smoothing of {smoothing} is not in [0, 1)")
    return F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of -sum_c target_c log softmax(logits)_c; both (N, classes)."""
    return -(targets * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


def mixup(
    images: Tensor, targets: Tensor, rng: np.random.Generator, alpha: float = 0.8
) -> tuple[Tensor, Tensor]:
    """Each image mixed with its mirror in the batch: lam x + (1 - lam) x', lam from Beta(alpha, alpha)."""
    lam = float(rng.beta(alpha, alpha))
    return images.lerp(images.flip(0), 1 - lam), targets.lerp(targets.flip(0), 1 - lam)


def cutmix(
    images: Tensor, targets: Tensor, rng: np.random.Generator, alpha: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Each image with a rectangle of its mirror in the batch; targets mixed by the covered area.

    The rectangle has the image's aspect ratio and 1 - lam of its area, lam from Beta(alpha, alpha). Its
    center is uniform; the image clips it.
    """
    height, width = images.shape[2:]
    side = float(np.sqrt(1 - rng.beta(alpha, alpha)))
    center_y, center_x = int(rng.integers(height)), int(rng.integers(width))
    half_y, half_x = int(height * side) // 2, int(width * side) // 2
    rows = slice(max(0, center_y - half_y), min(height, center_y + half_y))
    columns = slice(max(0, center_x - half_x), min(width, center_x + half_x))
    mixed = images.clone()
    mixed[:, :, rows, columns] = images.flip(0)[:, :, rows, columns]
    covered = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    return mixed, targets.lerp(targets.flip(0), covered)


def mix(
    images: Tensor,
    labels: Tensor,
    classes: int,
    rng: np.random.Generator,
    *,
    smoothing: float = 0.1,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """A batch (N, 3, H, W) and its targets (N, classes) after mixup or CutMix, with equal probability.

    The defaults are SLAB's. An alpha of 0 disables that method.
    """
    targets = smoothed(labels, classes, smoothing)
    methods = [(mixup, mixup_alpha), (cutmix, cutmix_alpha)]
    enabled = [(method, alpha) for method, alpha in methods if alpha > 0]
    if not enabled:
        return images, targets
    method, alpha = enabled[int(rng.integers(len(enabled)))]
    return method(images, targets, rng, alpha)
