"""ESPCN: efficient sub-pixel convolutional super-resolution of the luma channel.

Three convolutions at low resolution and one pixel shuffle; 22,729 parameters at x3. The network sees Y only
(BT.601 studio range / 255) and does not clamp: the task clips.
Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel CNN", CVPR 2016.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgedeploy.core.spec import TaskSpec
from edgedeploy.models.registry import register_model
from edgedeploy.models.variants import Register, register_scales


class ESPCN(nn.Module):
    """Super-resolution network, (N, 1, H, W) -> (N, 1, scale*H, scale*W), both luma in [0, 1].

    Parameter names are those of yjn870/ESPCN-pytorch. `load_weights` also reads Lornatang's weights, of a
    network that clamps its output to [0, 1] as `clamp=True` does.
    """

    def __init__(self, scale: int, *, clamp: bool = False) -> None:
        super().__init__()
        self.scale, self.clamp = scale, clamp
        self.first_part = nn.Sequential(
            nn.Conv2d(1, 64, kernel_size=5, padding=2),
            nn.Tanh(),
            nn.Conv2d(64, 32, kernel_size=3, padding=1),
            nn.Tanh(),
        )
        self.last_part = nn.Sequential(
            nn.Conv2d(32, scale * scale, kernel_size=3, padding=1),
            nn.PixelShuffle(scale),
        )
        # Normal weights of variance 2 / fan-out; the last convolution starts near zero.
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
                std = 0.001 if conv.in_channels == 32 else (2.0 / fan_out) ** 0.5
                nn.init.normal_(conv.weight, std=std)
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, luma: Tensor) -> Tensor:
        enlarged: Tensor = self.last_part(self.first_part(luma))
        return enlarged.clamp(0, 1) if self.clamp else enlarged


_LORNATANG = {"feature_maps.": "first_part.", "sub_pixel.": "last_part."}
_PAPER = (
    "Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel CNN, "
    "CVPR 2016"
)


def _register(scale: int) -> Register:
    return register_model(
        input_shape=(1, 1, 360, 640),
        task=TaskSpec(name="super-resolution", options={"scale": scale, "mean": [0.0], "std": [255.0]}),
        outputs=("sr",),
        paper=_PAPER,
        rename=_LORNATANG,
        default_weights="t91-bsd200",
    )


@register_scales(_register)
def espcn(scale: int, *, clamp: bool = False) -> ESPCN:
    return ESPCN(scale, clamp=clamp)
