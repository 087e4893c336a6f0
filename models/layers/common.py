"""Blocks and helpers shared by several families."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """act(body(x) + shortcut(x)): deploy form of residual blocks."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, *, activate: bool = True) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()
        self.activation = nn.ReLU() if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))  # type: ignore[no-any-return]


def resize_like(x: Tensor, other: Tensor) -> Tensor:
    """Bilinear resize of (N, C, h, w) to the height and width of `other`, corners not aligned."""
    return F.interpolate(x, size=other.shape[-2:], mode="bilinear", align_corners=False)


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution without bias, padded to keep the size at stride 1, and its BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(outputs)


def bn_relu_conv(inputs: int, outputs: int, kernel: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Pre-activation order: BatchNorm, ReLU, convolution without bias."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.BatchNorm2d(inputs), nn.ReLU(), conv


def initialize_kaiming(model: nn.Module) -> None:
    """Normal weights of variance 2 / fan-out (He et al., 2015); scale 1 and shift 0 for BatchNorms."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
