"""STDO's EDSR: 16 residual blocks of 64 channels without norms, and upscaling by pixel shuffles.

Lim et al., Enhanced Deep Residual Networks for Single Image Super-Resolution, CVPR workshops 2017.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgedeploy.models.stdo import UNREAD, register

BLOCKS, WIDTH = 16, 64
# Head, blocks, the convolution after them, the first of the tail; the last, upscaled, reads one pixel more.
MARGIN = 1 + 2 * BLOCKS + 1 + 1 + 1


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class ResBlock(nn.Module):
    """x + conv(ReLU(conv(x)))."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x  # type: ignore[no-any-return]


class EDSR(nn.Module):
    """RGB in [0, 1], (N, 3, H, W) -> (N, 3, scale H, scale W)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.head = nn.Sequential(_conv(3, WIDTH))
        self.body = nn.Sequential(*(ResBlock() for _ in range(BLOCKS)), _conv(WIDTH, WIDTH))
        shuffles: list[nn.Module] = []
        for factor in (2, 2) if scale == 4 else (scale,):
            shuffles += [_conv(WIDTH, WIDTH * factor * factor), nn.PixelShuffle(factor)]
        self.tail = nn.Sequential(nn.Sequential(*shuffles), _conv(WIDTH, 3))

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(image)
        return self.tail(self.body(x) + x)  # type: ignore[no-any-return]


@register(margin=MARGIN, unread=UNREAD)
def stdo_edsr(scale: int) -> EDSR:
    return EDSR(scale)
