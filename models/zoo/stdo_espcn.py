"""STDO's ESPCN: four 3x3 convolutions of RGB with ReLU, and one pixel shuffle.

espcn.py holds the classic network of that name: 5x5 and 3x3, tanh, luma only. The micro models are ours: a
ninth of the weights and of the work, because 125 kB a chunk is too much for a short video.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.models.stdo import register

MARGIN = 4
MICRO = (16, 16, 16)  # twelve carry the interpolation, see training/interpolating.py


class RGBESPCN(nn.Module):
    """RGB in [0, 1], (N, 3, H, W) -> (N, 3, scale H, scale W); initial weights are orthogonal.

    `channels` are the outputs of the first three convolutions.
    """

    def __init__(self, scale: int, channels: tuple[int, int, int] = (64, 64, 32)) -> None:
        super().__init__()
        first, second, third = channels
        self.conv1 = nn.Conv2d(3, first, 3, padding=1)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1)
        self.conv4 = nn.Conv2d(third, 3 * scale * scale, 3, padding=1)
        self.pixel_shuffle = nn.PixelShuffle(scale)
        for conv in (self.conv1, self.conv2, self.conv3):
            nn.init.orthogonal_(conv.weight, math.sqrt(2))  # the gain of ReLU
        nn.init.orthogonal_(self.conv4.weight)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(image))))))
        return self.pixel_shuffle(self.conv4(x))  # type: ignore[no-any-return]


@register(margin=MARGIN)
def stdo_espcn(scale: int) -> RGBESPCN:
    return RGBESPCN(scale)


@register(margin=MARGIN)
def stdo_espcn_micro(scale: int) -> RGBESPCN:
    return RGBESPCN(scale, MICRO)
