"""DBNet's loss: 5 L_bce(P) + L_dice(B) + 10 L_1(T), the cross entropy over hard negatives only.

The paper writes Ls + Lb + 10 Lt; the factor 5 on the probability map is the released code's. Liao et al.,
Real-time Scene Text Detection with Differentiable Binarization, 2020; github.com/MhLiao/DB.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-6


@dataclass(frozen=True)
class DBLoss:
    """Loss of the three maps of a batch, each (N, 1, H, W).

    Attributes:
        probability_scale, threshold_scale: weights of L_bce and L_1; L_dice has 1.
        negatives: number of background pixels, the hardest ones, for each text pixel.
    """

    probability_scale: float = 5.0
    threshold_scale: float = 10.0
    negatives: float = 3.0

    def __call__(
        self,
        maps: tuple[Tensor, Tensor, Tensor],
        text: Tensor,
        text_mask: Tensor,
        border: Tensor,
        border_mask: Tensor,
    ) -> Tensor:
        """Scalar loss of (P, T, B), against the targets of dbnet_labels.TextMaps as (N, 1, H, W)."""
        probability, threshold, binary = maps
        return (
            self.probability_scale * balanced_cross_entropy(probability, text, text_mask, self.negatives)
            + dice(binary, text, text_mask)
            + self.threshold_scale * masked_l1(threshold, border, border_mask)
        )


def balanced_cross_entropy(p: Tensor, target: Tensor, mask: Tensor, negatives: float = 3.0) -> Tensor:
    """Mean cross entropy of text pixels and of the hardest `negatives` times as many background pixels.

    Over the whole batch; `mask` 0 excludes a pixel.
    """
    positive, negative = target * mask, (1 - target) * mask
    count = int(positive.sum())
    most = min(int(negative.sum()), int(count * negatives))
    loss = F.binary_cross_entropy(p, target, reduction="none")
    hardest = torch.topk((loss * negative).flatten(), most).values
    return ((loss * positive).sum() + hardest.sum()) / (count + most + TINY)


def dice(p: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 - 2 |p target| / (|p| + |target|) over the unmasked pixels of the batch."""
    overlap = (p * target * mask).sum()
    return 1 - 2 * overlap / ((p * mask).sum() + (target * mask).sum() + TINY)


def masked_l1(x: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference where `mask` is 1; 0 for an empty mask."""
    return ((x - target).abs() * mask).sum() / (mask.sum() + TINY)
