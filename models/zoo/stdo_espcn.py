"""STDO's ESPCN: four 3x3 convolutions of RGB with ReLU, and one pixel shuffle.

Not the classic network of that name, which has 5x5 and 3x3, tanh, and luma only (espcn.py). The micro ones
are ours: a ninth of weights and work, since a short video does not carry 125 kB for each chunk.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.models.stdo import register

MARGIN = 4
MICRO = (16, 16, 16)  # twelve pass interpolation on, see training/interpolating.py


class RGBESPCN(nn.Module):
    """RGB in [0, 1], (N, 3, H, W) -> (N, 3, scale H, scale W); weights begin orthogonal.

    `channels` are those after each of the first three convolutions.
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


@register(2, margin=MARGIN)
def stdo_espcn_x2() -> RGBESPCN:
    return RGBESPCN(2)


@register(3, margin=MARGIN)
def stdo_espcn_x3() -> RGBESPCN:
    return RGBESPCN(3)


@register(4, margin=MARGIN)
def stdo_espcn_x4() -> RGBESPCN:
    return RGBESPCN(4)


@register(2, margin=MARGIN)
def stdo_espcn_micro_x2() -> RGBESPCN:
    return RGBESPCN(2, MICRO)


@register(3, margin=MARGIN)
def stdo_espcn_micro_x3() -> RGBESPCN:
    return RGBESPCN(3, MICRO)


@register(4, margin=MARGIN)
def stdo_espcn_micro_x4() -> RGBESPCN:
    return RGBESPCN(4, MICRO)
