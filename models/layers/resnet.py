"""ResNet as a feature pyramid, with torchvision's parameter names, plain or deformable.

He et al., Deep Residual Learning for Image Recognition, 2016. The deformable form follows MhLiao/DB: DCNv2 in
place of every 3x3 conv2 of layer2 to layer4, with offsets of a `conv2_offset` of stride 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.models.layers.common import Residual, conv_bn, initialize_kaiming
from edgedeploy.models.layers.deformable import ModulatedDeformConv2d, SelfDeformed
from edgedeploy.models.reparam import fold_batchnorm


class _Block(nn.Module):
    """Base of both residual blocks: conv2, plain or deformable, and the shortcut."""

    expansion = 1

    def _add_conv2(self, planes: int, stride: int, deformable: bool) -> None:
        conv, self.bn2 = conv_bn(planes, planes, 3, stride)
        self.conv2: nn.Module = conv
        self.conv2_offset: nn.Conv2d | None = None
        if deformable:
            self.conv2 = deformed = ModulatedDeformConv2d(planes, planes, 3, stride)
            # Stride 1 even where conv2 has 2, as released; see ModulatedDeformConv2d.forward.
            self.conv2_offset = nn.Conv2d(planes, deformed.field_channels, 3, padding=1)

    def _add_shortcut(self, inputs: int, planes: int, stride: int) -> None:
        outputs = planes * self.expansion
        plain = stride == 1 and inputs == outputs
        self.downsample = None if plain else nn.Sequential(*conv_bn(inputs, outputs, 1, stride))

    def _conv2(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(x) if self.conv2_offset is None else self.conv2(x, self.conv2_offset(x))
        return y

    def _shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)

    def scale_branch(self, factor: float) -> None:
        """Multiply the residual branch by `factor`: sums over many blocks must not overflow float32."""
        last = self.conv2 if self.expansion == 1 else self.get_submodule("conv3")
        with torch.no_grad():
            last.weight.mul_(factor)  # type: ignore[operator]

    def _folded_conv2(self) -> nn.Module:
        if isinstance(self.conv2, ModulatedDeformConv2d):
            assert self.conv2_offset is not None  # noqa: S101  _add_conv2 makes both
            return SelfDeformed(self.conv2_offset, self.conv2.folded(self.bn2))
        return fold_batchnorm(self.conv2, self.bn2)


class BasicBlock(_Block):
    """Two 3x3 convolutions, (N, in, H, W) -> (N, planes, H/stride, W/stride)."""

    def __init__(self, inputs: int, planes: int, stride: int, deformable: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, planes, 3, stride)
        self._add_conv2(planes, 1, deformable)
        self._add_shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self._conv2(y)) + self._shortcut(x))

    def fuse(self) -> nn.Module:
        body = nn.Sequential(fold_batchnorm(self.conv1, self.bn1), nn.ReLU(), self._folded_conv2())
        return Residual(body, self.downsample)


class Bottleneck(_Block):
    """1x1, 3x3 with the stride, widening 1x1, (N, in, H, W) -> (N, 4 planes, H/stride, W/stride)."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, deformable: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, planes, 1)
        self._add_conv2(planes, stride, deformable)
        self.conv3, self.bn3 = conv_bn(planes, planes * self.expansion, 1)
        self._add_shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self._conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self._shortcut(x))

    def fuse(self) -> nn.Module:
        body = nn.Sequential(
            fold_batchnorm(self.conv1, self.bn1),
            nn.ReLU(),
            self._folded_conv2(),
            nn.ReLU(),
            fold_batchnorm(self.conv3, self.bn3),
        )
        return Residual(body, self.downsample)


class Pyramid(nn.Module):
    """Deploy form of a backbone: consecutive stages, (N, 3, H, W) -> the output of each."""

    def __init__(self, *stages: nn.Module) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return tuple(features)


class ResNet(nn.Module):
    """(N, 3, H, W) -> features of layer1 to layer4 at 1/4, 1/8, 1/16 and 1/32; H and W multiples of 32.

    Args:
        block: type of the residual blocks. blocks: number in each layer. deformable: whether layer2 to layer4
        are deformable. width: channels of the stem, doubled by each layer. whole: also build `fc` and
        `smooth`, which MhLiao/DB's checkpoints hold and no forward pass reads. They
            are frozen, so that optimizers and distributed training skip them.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: Sequence[int],
        *,
        deformable: bool = False,
        width: int = 64,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.channels = tuple(width * block.expansion << stage for stage in range(4))
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False), nn.BatchNorm2d(width)
        inputs = width
        for stage, count in enumerate(blocks):
            layer, stride = nn.Sequential(), 1 if stage == 0 else 2
            for index in range(count):
                layer.append(
                    block(inputs, width << stage, stride if index == 0 else 1, deformable and stage > 0)
                )
                inputs = self.channels[stage]
            self.add_module(f"layer{stage + 1}", layer)
        if whole:
            self.fc = nn.Linear(inputs, 1000).requires_grad_(False)
            self.smooth = nn.Conv2d(2048, 256, 1, padding=1).requires_grad_(False)
        initialize_kaiming(self)
        for module in self.modules():
            if isinstance(module, _Block):
                module.scale_branch(sum(blocks) ** -0.5)
                if module.conv2_offset is not None:  # offsets start at zero
                    for parameter in module.conv2_offset.parameters():
                        nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        features = []
        for layer in self._layers():
            x = layer(x)
            features.append(x)
        return tuple(features)

    def _layers(self) -> list[nn.Module]:
        return [self.get_submodule(f"layer{number}") for number in (1, 2, 3, 4)]

    def fuse(self) -> nn.Module:
        stem = nn.Sequential(fold_batchnorm(self.conv1, self.bn1), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
        first, *others = self._layers()
        return Pyramid(nn.Sequential(stem, first), *others)


def resnet18(*, deformable: bool = False, whole: bool = False) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), deformable=deformable, whole=whole)


def resnet50(*, deformable: bool = False, whole: bool = False) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), deformable=deformable, whole=whole)
