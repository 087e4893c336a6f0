"""STDO's SRCNN: bicubic upscaling, then convolutions of 9x9, 5x5 and 5x5 on RGB.

Dong et al., Learning a Deep Convolutional Network for Image Super-Resolution, ECCV 2014, for the form 9-5-5.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.models.stdo import register, upscale_bicubic

MARGIN = 6  # 8 output pixels are at most 4 input pixels, and interpolation reads 2 more


class SRCNN(nn.Module):
    """RGB in [0, 1], (N, 3, H, W) -> (N, 3, scale H, scale W); all convolutions at high resolution."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv1 = nn.Conv2d(3, 64, 9, padding=4)
        self.conv2 = nn.Conv2d(64, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, 3, 5, padding=2)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.conv1(upscale_bicubic(image, self.scale)))
        return self.conv3(F.relu(self.conv2(x)))  # type: ignore[no-any-return]


@register(margin=MARGIN)
def stdo_srcnn(scale: int) -> SRCNN:
    return SRCNN(scale)
