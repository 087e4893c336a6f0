"""DDRNet: deep dual-resolution networks for real-time semantic segmentation.

A low-resolution trunk (1/16 to 1/64) gathers context while a high-resolution branch stays at 1/8; the two
exchange features after stages 3 and 4. Parameter names are the official ones; logits come at 1/8.
Hong et al., Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.core.spec import TaskSpec
from edgedeploy.models.labels import CITYSCAPES
from edgedeploy.models.layers import Residual, bn_relu_conv, conv_bn, initialise_kaiming, resize_like
from edgedeploy.models.registry import register_model
from edgedeploy.models.reparam import fold_batchnorm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, (N, in, H, W) -> (N, out, H/stride, W/stride)."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int = 1, *, activate: bool = True) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, planes, 3, stride)
        self.conv2, self.bn2 = conv_bn(planes, planes, 3)
        self.downsample = _shortcut(inputs, planes * self.expansion, stride)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y)) + (x if self.downsample is None else self.downsample(x))
        return F.relu(y) if self.activate else y

    def fuse(self) -> nn.Module:
        body = nn.Sequential(
            fold_batchnorm(self.conv1, self.bn1), nn.ReLU(), fold_batchnorm(self.conv2, self.bn2)
        )
        return Residual(body, self.downsample, activate=self.activate)


class Bottleneck(nn.Module):
    """1x1, 3x3, widening 1x1 convolution, shortcut, (N, in, H, W) -> (N, 2 planes, H/stride, W/stride)."""

    expansion = 2

    def __init__(self, inputs: int, planes: int, stride: int = 1, *, activate: bool = True) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, planes, 1)
        self.conv2, self.bn2 = conv_bn(planes, planes, 3, stride)
        self.conv3, self.bn3 = conv_bn(planes, planes * self.expansion, 1)
        self.downsample = _shortcut(inputs, planes * self.expansion, stride)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x))
        return F.relu(y) if self.activate else y

    def fuse(self) -> nn.Module:
        body = nn.Sequential(
            fold_batchnorm(self.conv1, self.bn1),
            nn.ReLU(),
            fold_batchnorm(self.conv2, self.bn2),
            nn.ReLU(),
            fold_batchnorm(self.conv3, self.bn3),
        )
        return Residual(body, self.downsample, activate=self.activate)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    return None if stride == 1 and inputs == outputs else nn.Sequential(*conv_bn(inputs, outputs, 1, stride))


def make_layer(
    block: type[BasicBlock | Bottleneck], inputs: int, planes: int, blocks: int, stride: int = 1
) -> nn.Sequential:
    """Blocks in a row; the last one leaves its sum without ReLU, because fusion and heads want it so."""
    layers = []
    for index in range(blocks):
        first, last = index == 0, index == blocks - 1
        width = inputs if first else planes * block.expansion
        layers.append(block(width, planes, stride if first else 1, activate=not last))
    return nn.Sequential(*layers)


class DAPPM(nn.Module):
    """Deep aggregation pyramid pooling, (N, in, h, w) -> (N, out, h, w).

    Context at five scales, from the pixel to the whole image, merged from fine to coarse.
    """

    POOLS = ((5, 2), (9, 4), (17, 8))

    def __init__(self, inputs: int, branch: int, outputs: int) -> None:
        super().__init__()
        self.scale0 = nn.Sequential(*bn_relu_conv(inputs, branch, 1))
        pools = [nn.AvgPool2d(kernel, stride, padding=stride) for kernel, stride in self.POOLS]
        for index, pool in enumerate([*pools, nn.AdaptiveAvgPool2d(1)], start=1):
            self.add_module(f"scale{index}", nn.Sequential(pool, *bn_relu_conv(inputs, branch, 1)))
            self.add_module(f"process{index}", nn.Sequential(*bn_relu_conv(branch, branch, 3)))
        self.compression = nn.Sequential(*bn_relu_conv(branch * 5, outputs, 1))
        self.shortcut = nn.Sequential(*bn_relu_conv(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        scales = [self.scale0(x)]
        for index in range(1, 5):
            context = resize_like(self.get_submodule(f"scale{index}")(x), x)
            scales.append(self.get_submodule(f"process{index}")(context + scales[-1]))
        return self.compression(torch.cat(scales, dim=1)) + self.shortcut(x)  # type: ignore[no-any-return]


class Head(nn.Module):
    """Class logits from features, (N, in, h, w) -> (N, classes, h, w)."""

    def __init__(self, inputs: int, planes: int, classes: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1, self.bn2 = conv_bn(inputs, planes, 3)
        self.conv2 = nn.Conv2d(planes, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(F.relu(self.bn1(x)))
        return self.conv2(F.relu(self.bn2(x)))  # type: ignore[no-any-return]

    def fuse(self) -> nn.Module:
        """`bn1` stays: it follows a sum, not a convolution."""
        hidden = fold_batchnorm(self.conv1, self.bn2)
        return nn.Sequential(self.bn1, nn.ReLU(), hidden, nn.ReLU(), self.conv2)


@dataclass(frozen=True)
class Stage:
    """A step of the two branches, ended by an exchange of features between them.

    Attributes:
        name: what follows "layer", "down" and "compression" in parameter names.
        width: channels of the low-resolution branch after it, as a multiple of the stem's.
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
    """Stem and both branches to layer5 and layer5_: what segmentation and classification share.

    Args:
        planes: channels of the stem; the high-resolution branch has twice as many.
        blocks: residual blocks of layer1 and layer2.
        stages: what follows, the low-resolution branch at 1/16 and below.
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
            part = self.get_submodule
            low, high = part(f"layer{stage.name}")(low), part(f"layer{stage.name}_")(high)
            down = part(f"down{stage.name}")(F.relu(high))
            up = part(f"compression{stage.name}")(F.relu(low))
            low, high = low + down, high + resize_like(up, high)
            if stage.name.startswith("3"):
                middle = high
            low, high = F.relu(low), F.relu(high)
        return self.layer5(low), self.layer5_(high), middle


def halve(inputs: int, outputs: int, times: int) -> nn.Sequential:
    """Stride-2 convolutions that double the channels towards `outputs`; no ReLU after the last."""
    layers: list[nn.Module] = []
    for remaining in reversed(range(times)):
        planes = outputs >> remaining
        layers += [*conv_bn(inputs, planes, 3, stride=2), nn.ReLU()]
        inputs = planes
    return nn.Sequential(*layers[:-1])


class DDRNet(DualBranch):
    """Segmentation network, (N, 3, H, W) -> logits (N, classes, H/8, W/8); H and W multiples of 8.

    Args:
        planes, blocks, stages: see DualBranch.
        spp: channels of DAPPM's branches.
        head: channels inside the heads.
        classes: of the data set.
        augment: add the auxiliary head of training; the output is then (logits, auxiliary logits).
    """

    def __init__(
        self,
        planes: int,
        blocks: tuple[int, int],
        stages: tuple[Stage, ...],
        *,
        spp: int,
        head: int,
        classes: int,
        augment: bool,
    ) -> None:
        super().__init__(planes, blocks, stages)
        self.spp = DAPPM(planes * 16, spp, planes * 4)
        self.seghead_extra = Head(planes * 2, head, classes) if augment else None
        self.final_layer = Head(planes * 4, head, classes)
        initialise_kaiming(self)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        low, high, middle = self.features(image)
        logits: Tensor = self.final_layer(high + resize_like(self.spp(low), high))
        return logits if self.seghead_extra is None else (logits, self.seghead_extra(middle))


def _register() -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    return register_model(
        input_shape=(1, 3, 384, 768),
        task=TaskSpec(
            name="segmentation",
            options={
                "mean": [123.675, 116.28, 103.53],
                "std": [58.395, 57.12, 57.375],
                "stride": 8,
                "classes": len(CITYSCAPES),
            },
        ),
        outputs=("logits",),
        labels=CITYSCAPES,
        paper="Hong et al., Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation "
        "of Road Scenes, 2021",
        size_multiple=8,
        training_only=("seghead_extra.", "loss."),
        training_options=("augment",),
    )


@_register()
def ddrnet_23_slim(classes: int = 19, *, augment: bool = False) -> DDRNet:
    return DDRNet(32, (2, 2), STAGES_23, spp=128, head=64, classes=classes, augment=augment)


@_register()
def ddrnet_23(classes: int = 19, *, augment: bool = False) -> DDRNet:
    return DDRNet(64, (2, 2), STAGES_23, spp=128, head=128, classes=classes, augment=augment)


@_register()
def ddrnet_39(classes: int = 19, *, augment: bool = False) -> DDRNet:
    return DDRNet(64, (3, 4), STAGES_39, spp=128, head=256, classes=classes, augment=augment)
