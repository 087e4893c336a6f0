"""STDO's VDSR: bicubic enlargement plus what 20 narrow convolutions add to it; 10,955 parameters.

Eight channels instead of the original's 64. Kim et al., Accurate Image Super-Resolution Using Very Deep
Convolutional Networks, CVPR 2016.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgedeploy.models.stdo import UNREAD, enlarge_bicubic, register

LAYERS, WIDTH = 20, 8
MARGIN = 12  # 20 enlarged pixels are at most 10 small ones, and interpolation sees 2 more


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
        x = enlarge_bicubic(image, self.scale)
        return self.body(x) + x  # type: ignore[no-any-return]


@register(2, margin=MARGIN, unread=UNREAD)
def stdo_vdsr_x2() -> VDSR:
    return VDSR(2)


@register(3, margin=MARGIN, unread=UNREAD)
def stdo_vdsr_x3() -> VDSR:
    return VDSR(3)


@register(4, margin=MARGIN, unread=UNREAD)
def stdo_vdsr_x4() -> VDSR:
    return VDSR(4)
