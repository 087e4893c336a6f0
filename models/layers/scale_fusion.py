"""Adaptive scale fusion (DBNet++): features of four scales, weighted before concatenation.

The three released forms. They add their sigmoid gates instead of multiplying, as the weights were trained.
Liao et al., Real-Time Scene Text Detection with Differentiable Binarization and Adaptive Scale Fusion, 2022;
github.com/MhLiao/DB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from edgedeploy.core.errors import UnknownNameError
from edgedeploy.models.reparam import fold_batchnorm

Fusion = Literal["scale_spatial", "scale_channel", "scale_channel_spatial"]
SCALES = 4


def pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(inputs, outputs, 1, bias=False)


class SpatialAttention(nn.Module):
    """(N, C, h, w) -> weights (N, 4, h, w) in (0, 1); with `channel`, gated first by channel means."""

    def __init__(self, planes: int, *, channel: bool) -> None:
        super().__init__()
        squeezed = planes // 4
        self.channel_wise = (
            nn.Sequential(
                nn.AdaptiveAvgPool2d(1), pointwise(planes, squeezed), nn.ReLU(), pointwise(squeezed, planes)
            )
            if channel
            else None
        )
        self.spatial_wise = nn.Sequential(
            nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.ReLU(), pointwise(1, 1), nn.Sigmoid()
        )
        self.attention_wise = nn.Sequential(pointwise(planes, SCALES), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        if self.channel_wise is not None:
            x = self.channel_wise(x).sigmoid() + x
        x = self.spatial_wise(x.mean(1, keepdim=True)) + x
        return self.attention_wise(x)  # type: ignore[no-any-return]


class ChannelAttention(nn.Module):
    """(N, C, h, w) -> one weight a scale, (N, 4, 1, 1), with sum 1."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.fc1, self.bn = pointwise(planes, planes // 2), nn.BatchNorm2d(planes // 2)
        self.fc2 = pointwise(planes // 2, SCALES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.fc1(x.mean((2, 3), keepdim=True))).relu()
        return self.fc2(x).softmax(1)  # type: ignore[no-any-return]

    def fuse(self) -> nn.Module:
        hidden = fold_batchnorm(self.fc1, self.bn)
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), hidden, nn.ReLU(), self.fc2, nn.Softmax(1))


class ScaleFusion(nn.Module):
    """Four features (N, C, h, w) -> (N, 4C, h, w), each times its weight.

    Raises UnknownNameError for an unknown form.
    """

    def __init__(self, inputs: int, form: Fusion) -> None:
        super().__init__()
        if form not in get_args(Fusion):
            raise UnknownNameError("scale fusion", form, get_args(Fusion))
        planes = inputs // 4
        self.conv = nn.Conv2d(inputs, planes, 3, padding=1)
        self.enhanced_attention: nn.Module = (
            ChannelAttention(planes)
            if form == "scale_channel"
            else SpatialAttention(planes, channel=form == "scale_channel_spatial")
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        weights = self.enhanced_attention(self.conv(torch.cat(list(features), 1)))
        return torch.cat([weights[:, i : i + 1] * features[i] for i in range(SCALES)], 1)
