"""DDRNet: deep dual-resolution networks for real-time semantic segmentation.

The branches of layers/ddrnet_trunk.py, pyramid pooling on the low-resolution one, and a head on their sum.
Parameter names are the official ones; logits are at 1/8. Hong et al., Deep Dual-resolution Networks for
Real-time and Accurate Semantic Segmentation of Road Scenes, 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.core.spec import TaskSpec
from edgedeploy.models.imagenet import MEAN, STD
from edgedeploy.models.labels import CITYSCAPES
from edgedeploy.models.layers.common import bn_relu_conv, conv_bn, initialize_kaiming, resize_like
from edgedeploy.models.layers.ddrnet_trunk import PAPER, STAGES_23, STAGES_39, DualBranch, Stage
from edgedeploy.models.registry import register_model
from edgedeploy.models.reparam import fold_batchnorm
from edgedeploy.models.variants import register_variants


class DAPPM(nn.Module):
    """Deep aggregation pyramid pooling, (N, in, h, w) -> (N, out, h, w).

    Context at five scales, from one pixel to the whole image, merged from fine to coarse.
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


@register_variants(
    register_model(
        input_shape=(1, 3, 384, 768),
        task=TaskSpec(
            name="segmentation",
            options={"mean": list(MEAN), "std": list(STD), "stride": 8, "classes": len(CITYSCAPES)},
        ),
        outputs=("logits",),
        labels=CITYSCAPES,
        paper=PAPER,
        size_multiple=8,
        training_only=("seghead_extra.", "loss."),
        training_options=("augment",),
        heads=("spp.", "final_layer.", "seghead_extra."),
    ),
    ddrnet_23_slim=(32, (2, 2), STAGES_23, 64),
    ddrnet_23=(64, (2, 2), STAGES_23, 128),
    ddrnet_39=(64, (3, 4), STAGES_39, 256),
)
class DDRNet(DualBranch):
    """Segmentation network, (N, 3, H, W) -> logits (N, classes, H/8, W/8); H and W multiples of 8.

    Args:
        planes, blocks, stages: see DualBranch.
        head: channels inside the heads.
        classes: of the data set.
        augment: add the auxiliary head of training; the output is then (logits, auxiliary logits).
    """

    def __init__(
        self,
        planes: int,
        blocks: tuple[int, int],
        stages: tuple[Stage, ...],
        head: int,
        classes: int = len(CITYSCAPES),
        *,
        augment: bool = False,
    ) -> None:
        super().__init__(planes, blocks, stages)
        self.spp = DAPPM(planes * 16, 128, planes * 4)
        self.seghead_extra = Head(planes * 2, head, classes) if augment else None
        self.final_layer = Head(planes * 4, head, classes)
        initialize_kaiming(self)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        low, high, middle = self.features(image)
        logits: Tensor = self.final_layer(high + resize_like(self.spp(low), high))
        return logits if self.seghead_extra is None else (logits, self.seghead_extra(middle))
