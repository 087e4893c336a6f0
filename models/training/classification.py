"""Training of classifiers as DeiT and SLAB have it: soft targets from mixed images, and their cross-entropy.

Targets are distributions over classes throughout: label smoothing makes them, mixup and CutMix mix them.
Zhang et al., mixup, ICLR 2018; Yun et al., CutMix, ICCV 2019; Szegedy et al., Rethinking Inception, 2016.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def smoothed(labels: Tensor, classes: int, smoothing: float = 0.1) -> Tensor:
    """Distributions (N, classes) from labels (N,): 1 - smoothing on the class, the rest on all alike."""
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
    """Each image with a rectangle of its mirror in the batch; targets by the area that is really covered.

    The rectangle has the image's proportions and 1 - lam of its area, lam from Beta(alpha, alpha); its center
    lies anywhere, and what stands out is cut off.
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
    """A training batch (N, 3, H, W) and its targets (N, classes): mixup or CutMix, each every other time.

    The defaults are SLAB's. An alpha of 0 leaves that way of mixing out.
    """
    targets = smoothed(labels, classes, smoothing)
    ways = [(mixup, mixup_alpha), (cutmix, cutmix_alpha)]
    open_to = [(way, alpha) for way, alpha in ways if alpha > 0]
    if not open_to:
        return images, targets
    way, alpha = open_to[int(rng.integers(len(open_to)))]
    return way(images, targets, rng, alpha)


def top1(logits: Tensor, labels: Tensor) -> float:
    """Share of a batch whose largest logit is that of its label."""
    return cast(float, (logits.argmax(dim=-1) == labels).to(torch.float64).mean().item())
