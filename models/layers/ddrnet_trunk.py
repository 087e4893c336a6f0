"""The two branches of DDRNet, shared by segmentation and classification, with the official parameter names.

A low-resolution branch (1/16 to 1/64) gathers context; a high-resolution one stays at 1/8. They exchange
features after stages 3 and 4. Hong et al., Deep Dual-resolution Networks for Real-time and Accurate
Semantic Segmentation of Road Scenes, 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.models.layers.common import Residual, conv_bn, resize_like
from edgedeploy.models.reparam import fold_batchnorm

PAPER = (
    "Hong et al., Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road "
    "Scenes, 2021"
)


class ResidualBlock(nn.Module):
    """Convolutions with BatchNorm, ReLU in between, and a shortcut.

    (N, in, H, W) -> (N, expansion planes, H/stride, W/stride); `activate` adds a ReLU after the sum.
    """

    expansion: ClassVar[int]
    kernels: ClassVar[tuple[int, ...]]  # of the convolutions
    strided: ClassVar[int]  # number of the convolution that has the stride, from 1

    def __init__(self, inputs: int, planes: int, stride: int = 1, *, activate: bool = True) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.downsample: nn.Module | None = None
        widths = [inputs, *[planes] * (len(self.kernels) - 1), outputs]
        for number, kernel in enumerate(self.kernels, start=1):
            own = stride if number == self.strided else 1
            conv, norm = conv_bn(widths[number - 1], widths[number], kernel, own)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", norm)
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(*conv_bn(inputs, outputs, 1, stride))
        self.activate = activate

    def _pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Each convolution with its BatchNorm."""
        numbers = range(1, len(self.kernels) + 1)
        return [(self.get_submodule(f"conv{n}"), self.get_submodule(f"bn{n}")) for n in numbers]

    def forward(self, x: Tensor) -> Tensor:
        *inner, (conv, norm) = self._pairs()
        y = x
        for before, between in inner:
            y = F.relu(between(before(y)))
        y = norm(conv(y)) + (x if self.downsample is None else self.downsample(x))
        return F.relu(y) if self.activate else y

    def fuse(self) -> nn.Module:
        layers = [layer for pair in self._pairs() for layer in (fold_batchnorm(*pair), nn.ReLU())]
        return Residual(nn.Sequential(*layers[:-1]), self.downsample, activate=self.activate)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions."""

    expansion, kernels, strided = 1, (3, 3), 1


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and widening 1x1 convolution."""

    expansion, kernels, strided = 2, (1, 3, 1), 2


def make_layer(
    block: type[ResidualBlock], inputs: int, planes: int, blocks: int, stride: int = 1
) -> nn.Sequential:
    """Consecutive blocks; the last one has no ReLU after its sum: exchange and heads apply their own."""
    layers = []
    for index in range(blocks):
        first, last = index == 0, index == blocks - 1
        width = inputs if first else planes * block.expansion
        layers.append(block(width, planes, stride if first else 1, activate=not last))
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Stage:
    """A stage of both branches, followed by an exchange of features between them.

    Attributes:
        name: suffix of "layer", "down" and "compression" in parameter names.
        width: output channels of the low-resolution branch, as a multiple of the stem's.
        blocks: in the low-resolution branch.
        high_blocks: in the high-resolution branch.
        stride: of the low-resolution branch.
    """

    name: str
    width: int
    blocks: int
    high_blocks: int
    stride: int = 2


STAGES_23 = (Stage("3", 4, 2, 2), Stage("4", 8, 2, 2))
STAGES_39 = (Stage("3_1", 4, 3, 3), Stage("3_2", 4, 3, 3, stride=1), Stage("4", 8, 3, 3))


class DualBranch(nn.Module):
    """Stem and both branches up to layer5 and layer5_.

    Args:
        planes: channels of the stem; the high-resolution branch has twice as many.
        blocks: residual blocks of layer1 and layer2.
        stages: of the branches; the low-resolution one is at 1/16 and below.
        last_stride: of layer5; 2 for segmentation (1/64), 1 for classification (1/32).
    """

    def __init__(
        self, planes: int, blocks: tuple[int, int], stages: tuple[Stage, ...], last_stride: int = 2
    ) -> None:
        super().__init__()
        high = planes * 2
        self.stages = stages
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, planes, 3, stride=2, padding=1),
            nn.BatchNorm2d(planes),
            nn.ReLU(),
            nn.Conv2d(planes, planes, 3, stride=2, padding=1),
            nn.BatchNorm2d(planes),
            nn.ReLU(),
        )
        self.layer1 = make_layer(BasicBlock, planes, planes, blocks[0])
        self.layer2 = make_layer(BasicBlock, planes, high, blocks[1], stride=2)
        width, halvings = high, 0
        for stage in stages:
            outputs = planes * stage.width
            halvings += stage.stride - 1
            self.add_module(
                f"layer{stage.name}", make_layer(BasicBlock, width, outputs, stage.blocks, stage.stride)
            )
            self.add_module(f"layer{stage.name}_", make_layer(BasicBlock, high, high, stage.high_blocks))
            self.add_module(f"compression{stage.name}", nn.Sequential(*conv_bn(outputs, high, 1)))
            self.add_module(f"down{stage.name}", halve(high, outputs, halvings))
            width = outputs
        self.layer5 = make_layer(Bottleneck, width, width, 1, last_stride)
        self.layer5_ = make_layer(Bottleneck, high, high, 1)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> features of layer5, of layer5_, and of the high-resolution branch after stage 3."""
        low = high = F.relu(self.layer2(F.relu(self.layer1(self.conv1(x)))))
        middle = high
        for stage in self.stages:
            layer = self.get_submodule
            low, high = layer(f"layer{stage.name}")(low), layer(f"layer{stage.name}_")(high)
            down = layer(f"down{stage.name}")(F.relu(high))
            up = layer(f"compression{stage.name}")(F.relu(low))
            low, high = low + down, high + resize_like(up, high)
            if stage.name.startswith("3"):
                middle = high
            low, high = F.relu(low), F.relu(high)
        return self.layer5(low), self.layer5_(high), middle


def halve(inputs: int, outputs: int, times: int) -> nn.Sequential:
    """Stride-2 convolutions that double the channels toward `outputs`; no ReLU after the last."""
    layers: list[nn.Module] = []
    for remaining in reversed(range(times)):
        planes = outputs >> remaining
        layers += [*conv_bn(inputs, planes, 3, stride=2), nn.ReLU()]
        inputs = planes
    return nn.Sequential(*layers[:-1])
