"""STDO's SRCNN: bicubic enlargement, then convolutions of 9x9, 5x5 and 5x5 on RGB.

Dong et al., Learning a Deep Convolutional Network for Image Super-Resolution, ECCV 2014, for the form 9-5-5.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.models.stdo import enlarge_bicubic, register

MARGIN = 6  # 8 enlarged pixels are at most 4 small ones, and interpolation sees 2 more


class SRCNN(nn.Module):
    """RGB in [0, 1], (N, 3, H, W) -> (N, 3, scale H, scale W); all convolutions at high resolution."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv1 = nn.Conv2d(3, 64, 9, padding=4)
        self.conv2 = nn.Conv2d(64, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, 3, 5, padding=2)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.conv1(enlarge_bicubic(image, self.scale)))
        return self.conv3(F.relu(self.conv2(x)))  # type: ignore[no-any-return]


@register(2, margin=MARGIN)
def stdo_srcnn_x2() -> SRCNN:
    return SRCNN(2)


@register(3, margin=MARGIN)
def stdo_srcnn_x3() -> SRCNN:
    return SRCNN(3)


@register(4, margin=MARGIN)
def stdo_srcnn_x4() -> SRCNN:
    return SRCNN(4)
