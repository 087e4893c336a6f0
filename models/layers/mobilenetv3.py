"""MobileNetV3-Large as a feature pyramid, with the structure and parameter names of kuan-wang's port.

That port differs from the paper: squeeze-and-excite precedes the non-linearity, its linear layers have no
bias, and blocks that do not expand still have the expanding convolution. Howard et al., Searching for
MobileNetV3, 2019.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgedeploy.models.layers.common import conv_bn, initialize_kaiming
from edgedeploy.models.layers.resnet import Pyramid

# kernel, expanded channels, outputs, squeeze-and-excite, hard-swish, stride
BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
STAGE_ENDS = (4, 7, 13, 17)  # in `features`, one past the last layer of each stage


class SqueezeExcite(nn.Module):
    """Channels weighted by a function of their means, (N, C, H, W) -> same."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = channels // reduction
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, channels, bias=False),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.fc(x.mean((2, 3)))
        return x * scale[:, :, None, None]


class InvertedResidual(nn.Module):
    """Expand, depthwise filter, project, (N, in, H, W) -> (N, out, H/stride, W/stride)."""

    def __init__(
        self, inputs: int, kernel: int, expanded: int, outputs: int, excite: bool, swish: bool, stride: int
    ) -> None:
        super().__init__()
        act = nn.Hardswish if swish else nn.ReLU
        self.conv = nn.Sequential(
            *conv_bn(inputs, expanded, 1),
            act(),
            *conv_bn(expanded, expanded, kernel, stride, groups=expanded),
            SqueezeExcite(expanded) if excite else nn.Identity(),
            act(),
            *conv_bn(expanded, outputs, 1),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV3Large(nn.Module):
    """(N, 3, H, W) -> features of 24, 40, 112 and 960 channels at 1/4, 1/8, 1/16 and 1/32.

    Args:
        whole: also build the classifier, which checkpoints hold and no forward pass reads; it is frozen. So
        is
            `features.18` before it, which is always there, as in the released network.
    """

    channels = (24, 40, 112, 960)

    def __init__(self, *, whole: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(*conv_bn(3, 16, 3, 2), nn.Hardswish())]
        inputs = 16
        for kernel, expanded, outputs, excite, swish, stride in BLOCKS:
            layers.append(InvertedResidual(inputs, kernel, expanded, outputs, excite, swish, stride))
            inputs = outputs
        layers.append(nn.Sequential(*conv_bn(inputs, 960, 1), nn.Hardswish()))
        layers += [nn.AdaptiveAvgPool2d(1), nn.Conv2d(960, 1280, 1).requires_grad_(False), nn.Hardswish()]
        if whole:
            self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000).requires_grad_(False))
        self.features = nn.Sequential(*layers)
        initialize_kaiming(self)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = []
        for index in range(STAGE_ENDS[-1]):
            x = self.features[index](x)
            if index + 1 in STAGE_ENDS:
                features.append(x)
        return tuple(features)

    def fuse(self) -> nn.Module:
        layers = list(self.features)
        starts = (0, *STAGE_ENDS[:-1])
        return Pyramid(*(nn.Sequential(*layers[a:b]) for a, b in zip(starts, STAGE_ENDS, strict=True)))
