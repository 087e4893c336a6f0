"""Losses of TVConv's two applications: additive-margin softmax, and binary cross-entropy of disc and cup.

Wang et al., Additive Margin Softmax for Face Verification, 2018. Released settings (JierunChen/TVConv): scale
32, margin 0.35, SGD 0.1 for 38 epochs; disc and cup binary cross-entropy, Adam 1e-3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AMSoftmax(nn.Module):
    """Cross-entropy of s (cos - m) for the true person and s cos for all others.

    Args:
        embedding: length of the embeddings.
        classes: people in the training set.
        scale: s.
        margin: m.
    """

    def __init__(self, embedding: int, classes: int, *, scale: float = 32.0, margin: float = 0.35) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.empty(classes, embedding))
        nn.init.xavier_uniform_(self.weight)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Cosines of (N, D) to every class center, (N, classes)."""
        return F.linear(F.normalize(embeddings), F.normalize(self.weight))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of embeddings (N, D) for labels (N,) int64."""
        cosines = self.logits(embeddings)
        margins = self.margin * F.one_hot(labels, cosines.shape[1]).to(cosines.dtype)
        return F.cross_entropy(self.scale * (cosines - margins), labels)


def disc_cup_loss(logits: Tensor, targets: Tensor, dice: float = 0.0) -> Tensor:
    """Mean binary cross-entropy of the sigmoids, plus `dice` times the Dice loss.

    The Dice loss is 1 - 2 sum(p t) / (sum(p) + sum(t)) over the batch, mean of the channels, with sigmoid p
    and target t. Cross-entropy alone learns outlines slowly where discs cover a fiftieth of an image. The
    authors use no Dice loss.
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets)
    if not dice:
        return loss
    p, pixels = logits.sigmoid(), (0, 2, 3)
    overlap, areas = (p * targets).sum(pixels), (p + targets).sum(pixels)
    return loss + dice * (1 - 2 * overlap / areas.clamp_min(1e-6)).mean()
