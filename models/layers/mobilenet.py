"""The inverted residual of MobileNetV2, with any layer as its spatial filter.

Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.models.layers.tvconv import TVConv, TVConvBatchNorm


def conv_bn_relu6(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, padding: int | None = None
) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU6; by default padded to keep the size at stride 1."""
    padding = kernel // 2 if padding is None else padding
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


def filtered(layer: nn.Module, channels: int) -> nn.Sequential:
    """A spatial filter, BatchNorm, ReLU6."""
    norm, activation = nn.BatchNorm2d(channels), nn.ReLU6()
    if isinstance(layer, TVConv):
        return TVConvBatchNorm(layer, norm, activation)
    return nn.Sequential(layer, norm, activation)


def depthwise(channels: int, stride: int = 1, *, padding: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A depthwise 3x3 convolution."""
    return nn.Conv2d(channels, channels, 3, stride, padding, dilation, groups=channels, bias=False)


class InvertedResidual(nn.Module):
    """Expand, filter, project, optionally plus the input; (N, in, H, W) -> (N, out, H/stride, W/stride).

    Args:
        inputs, outputs: channels.
        layer: the spatial filter, of `hidden` channels.
        hidden: channels inside; equal to `inputs` where the block does not expand.
        residual: whether to add the input.
        frame: rows and columns of zeros around the input of the block.
    """

    def __init__(
        self, inputs: int, outputs: int, layer: nn.Module, hidden: int, *, residual: bool, frame: int = 0
    ) -> None:
        super().__init__()
        expand = [] if hidden == inputs else [conv_bn_relu6(inputs, hidden, 1)]
        project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.conv = nn.Sequential(*expand, filtered(layer, hidden), project, nn.BatchNorm2d(outputs))
        self.residual, self.frame = residual, frame

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.pad(x, [self.frame] * 4) if self.frame else x)
        return x + y if self.residual else y


def round_channels(channels: float, multiple: int = 8) -> int:
    """The nearest positive multiple of `multiple`, at most a tenth below `channels`."""
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * channels else rounded
