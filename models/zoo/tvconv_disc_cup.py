"""DeepLabV3+ on MobileNetV2 for optic disc and cup, in three forms of its pyramid: atrous, depthwise, TVConv.

TVConv in the pyramid exploits the common layout of fundus photographs; the input size is fixed. Parameter
names are the official ones (github.com/JierunChen/TVConv). Logits of cup and disc at input size. Chen et al.,
CVPR 2022; network of Chen et al., Encoder-Decoder with Atrous Separable Convolution, 2018.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from edgedeploy.core.spec import TaskSpec
from edgedeploy.models.imagenet import require_multiple
from edgedeploy.models.layers.common import conv_bn, initialize_kaiming, resize_like
from edgedeploy.models.layers.mobilenet import InvertedResidual, conv_bn_relu6, depthwise
from edgedeploy.models.layers.tvconv import TVConv
from edgedeploy.models.registry import register_model
from edgedeploy.models.variants import register_variants
from edgedeploy.models.zoo.tvconv_face import PAPER, STAGES

Filter = Literal["atrous", "depthwise", "tvconv"]

RATES = (6, 12, 18)  # of the atrous pyramid at output stride 16
OUTPUT_STRIDE = 16


class Backbone(nn.Module):
    """MobileNetV2 at output stride 16, (N, 3, H, W) -> features (N, 24, H/4, W/4) and (N, 320, H/16, W/16).

    Each block pads its input with zeros before the expansion, as ports of TensorFlow's MobileNetV2 do.
    """

    def __init__(self) -> None:
        super().__init__()
        features: list[nn.Module] = [conv_bn_relu6(3, 32, 3, 2, padding=0)]
        channels, reached, dilation = 32, 2, 1
        for expansion, outputs, blocks, first_stride in STAGES:
            stride, own_dilation = first_stride, dilation
            if reached == OUTPUT_STRIDE:
                dilation *= stride
                stride = 1
            reached *= stride
            for index in range(blocks):
                spread, step = (dilation, 1) if index else (own_dilation, stride)
                layer = depthwise(channels * expansion, step, padding=0, dilation=spread)
                residual = step == 1 and channels == outputs
                features.append(
                    InvertedResidual(
                        channels, outputs, layer, channels * expansion, residual=residual, frame=spread
                    )
                )
                channels = outputs
        # Block numbers continue in the second part, as in the official checkpoints.
        self.low_level_features = nn.Sequential(*features[:4])
        self.high_level_features = nn.Sequential()
        for index, block in enumerate(features[4:], start=4):
            self.high_level_features.add_module(str(index), block)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = self.low_level_features(x)
        return low, self.high_level_features(low)


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling and its replacements, (N, in, h, w) -> (N, out, h, w).

    Args:
        inputs, outputs: channels.
        kind: spatial filter in place of the three atrous 3x3 convolutions.
        size: h and w; only TVConv needs them.
    """

    def __init__(self, inputs: int, outputs: int, kind: Filter, size: int) -> None:
        super().__init__()
        convs: list[nn.Module] = [nn.Sequential(*conv_bn(inputs, outputs, 1), nn.ReLU())]
        for rate in RATES:
            if kind == "atrous":
                conv = nn.Conv2d(inputs, outputs, 3, padding=rate, dilation=rate, bias=False)
                convs.append(nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU()))
                continue
            hidden = inputs * 6
            layer = TVConv(hidden, size, size, inner=64, layers=3) if kind == "tvconv" else depthwise(hidden)
            convs.append(nn.Sequential(InvertedResidual(inputs, outputs, layer, hidden, residual=False)))
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn(inputs, outputs, 1), nn.ReLU())
        self.convs = nn.ModuleList([*convs, pooled])
        self.project = nn.Sequential(
            *conv_bn(len(self.convs) * outputs, outputs, 1), nn.ReLU(), nn.Dropout(0.1)
        )

    def forward(self, x: Tensor) -> Tensor:
        *local, pooled = (conv(x) for conv in self.convs)
        return self.project(torch.cat([*local, resize_like(pooled, x)], dim=1))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Class logits from both features, at the finer resolution."""

    def __init__(self, low: int, high: int, classes: int, kind: Filter, size: int) -> None:
        super().__init__()
        self.project = nn.Sequential(*conv_bn(low, 48, 1), nn.ReLU())
        self.aspp = Pyramid(high, 256, kind, size)
        self.classifier = nn.Sequential(*conv_bn(304, 256, 3), nn.ReLU(), nn.Conv2d(256, classes, 1))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        low = self.project(low)
        joined = torch.cat([low, resize_like(self.aspp(high), low)], dim=1)
        return self.classifier(joined)  # type: ignore[no-any-return]


@register_variants(
    register_model(
        input_shape=(1, 3, 256, 256),
        task=TaskSpec(
            name="disc-cup",
            options={"mean": [127.5] * 3, "std": [127.5] * 3, "classes": 2, "threshold": 0.75},
        ),
        outputs=("logits",),
        labels=("optic cup", "optic disc"),
        paper=PAPER,
        fixed_size=True,
    ),
    tvconv_disc_cup=("tvconv",),
    tvconv_disc_cup_dw=("depthwise",),
    tvconv_disc_cup_base=("atrous",),
)
class DeepLabV3Plus(nn.Module):
    """Photograph (N, 3, H, W) -> logits (N, 2, H, W) of cup and disc; the cup is part of the disc.

    Args:
        kind: spatial filter of the pyramid.
        image_size: height and width of the input, a multiple of 16.
    """

    def __init__(self, kind: Filter, image_size: int = 256) -> None:
        super().__init__()
        require_multiple(image_size, OUTPUT_STRIDE, "DeepLabV3+")
        self.backbone = Backbone()
        self.classifier = Decoder(24, 320, 2, kind, image_size // OUTPUT_STRIDE)
        initialize_kaiming(self)

    def forward(self, image: Tensor) -> Tensor:
        return resize_like(self.classifier(*self.backbone(image)), image)
