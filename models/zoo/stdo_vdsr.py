"""STDO's VDSR: bicubic upscaling plus a residual of 20 narrow convolutions; 10,955 parameters.

Eight channels instead of the original's 64. Kim et al., Accurate Image Super-Resolution Using Very Deep
Convolutional Networks, CVPR 2016.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgedeploy.models.stdo import UNREAD, register, upscale_bicubic

LAYERS, WIDTH = 20, 8
MARGIN = 12  # 20 output pixels are at most 10 input pixels, and interpolation reads 2 more


class VDSR(nn.Module):
    """RGB in [0, 1], (N, 3, H, W) -> (N, 3, scale H, scale W); all convolutions at high resolution."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        widths = [3, *[WIDTH] * (LAYERS - 1)]
        self.body = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(width, WIDTH, 3, padding=1), nn.ReLU()) for width in widths[:-1]),
            nn.Sequential(nn.Conv2d(WIDTH, 3, 3, padding=1)),
        )

    def forward(self, image: Tensor) -> Tensor:
        x = upscale_bicubic(image, self.scale)
        return self.body(x) + x  # type: ignore[no-any-return]


@register(margin=MARGIN, unread=UNREAD)
def stdo_vdsr(scale: int) -> VDSR:
    return VDSR(scale)
