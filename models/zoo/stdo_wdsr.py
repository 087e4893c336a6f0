"""WDSR-B as STDO overfits it: 16 blocks that widen before their ReLU, weight norm on every convolution.

Names and computation are those of the released source, except that it subtracts the mean from the caller's
input in place. Yu et al., Wide Activation for Efficient and Accurate Image Super-Resolution, 2018.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgedeploy.models.layers.weight_norm import WeightNormConv2d
from edgedeploy.models.stdo import register

MEAN, BLOCKS, WIDTH, WIDENING = 0.5, 16, 32, 4
MARGIN = 1 + 2 * BLOCKS + 1


class Block(nn.Module):
    """x + conv(ReLU(conv(x))); the last g starts at 1 / sqrt(blocks)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            WeightNormConv2d(WIDTH, WIDTH * WIDENING, 3, gain=2.0),
            nn.ReLU(),
            WeightNormConv2d(WIDTH * WIDENING, WIDTH, 3, gain=BLOCKS**-0.5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x  # type: ignore[no-any-return]


class WDSR(nn.Module):
    """RGB in [0, 1], (N, 3, H, W) -> (N, 3, scale H, scale W)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        pixels = 3 * scale * scale
        blocks = [Block() for _ in range(BLOCKS)]
        self.body = nn.Sequential(WeightNormConv2d(3, WIDTH, 3), *blocks, WeightNormConv2d(WIDTH, pixels, 3))
        self.skip = nn.Sequential(WeightNormConv2d(3, pixels, 5))
        self.shuf = nn.PixelShuffle(scale)

    def forward(self, image: Tensor) -> Tensor:
        x = image - MEAN
        return self.shuf(self.body(x) + self.skip(x)) + MEAN  # type: ignore[no-any-return]


@register(margin=MARGIN)
def stdo_wdsr(scale: int) -> WDSR:
    return WDSR(scale)
