"""MobileNetV2 for face verification, with TVConv or depthwise filters: aligned faces in, embeddings out.

Every spatial filter of the TVConv form is translation-variant, so the input size is fixed. Parameter names
are the official ones (github.com/JierunChen/TVConv). Trained there on CASIA-WebFace with AM-Softmax.
Chen et al., TVConv: Efficient Translation Variant Convolution for Layout-aware Visual Processing, CVPR 2022.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from edgedeploy.core.spec import TaskSpec
from edgedeploy.models.imagenet import require_multiple
from edgedeploy.models.layers.common import initialize_kaiming
from edgedeploy.models.layers.mobilenet import InvertedResidual, conv_bn_relu6, depthwise, round_channels
from edgedeploy.models.layers.norm import with_values
from edgedeploy.models.layers.tvconv import TVConv
from edgedeploy.models.registry import register_model
from edgedeploy.models.reparam import batchnorm_affine
from edgedeploy.models.variants import Register, register_variants

PAPER = (
    "Chen et al., TVConv: Efficient Translation Variant Convolution for Layout-aware Visual Processing, "
    "CVPR 2022"
)
Filter = Literal["tvconv", "depthwise"]
# expansion, channels, blocks, stride of the first block
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STAGES_MICRO = ((1, 16, 1, 2), (4, 24, 1, 2), (4, 32, 2, 2), (4, 64, 1, 1))


class OutputLayer(nn.Module):
    """Embedding of features, (N, in, size, size) -> (N, out): norm, mean, linear, norm."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.layer1 = nn.BatchNorm2d(inputs)
        self.pool = nn.AvgPool2d(size)
        self.layer2 = nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer2(self.pool(self.layer1(x)).flatten(1))  # type: ignore[no-any-return]

    @torch.no_grad()
    def fuse(self) -> nn.Sequential:
        """Fold both norms into the linear layer: the first commutes with the mean, the second follows it."""
        linear, last = cast(tuple[nn.Linear, nn.BatchNorm1d], tuple(self.layer2))
        before, after = batchnorm_affine(self.layer1), batchnorm_affine(last)
        weight, bias = linear.weight.double(), linear.bias.double()
        bias = after[0] * (bias + weight @ before[1]) + after[1]
        weight = after[0][:, None] * weight * before[0]
        return nn.Sequential(self.pool, nn.Flatten(), with_values(linear, weight, bias))


class FaceMobileNetV2(nn.Module):
    """Face embeddings, (N, 3, size, size) -> (N, embedding).

    Args:
        width: multiplier of all channels except the embedding's.
        kind: spatial filter of every block.
        size: height and width of the input, a multiple of 16.
        stages: see STAGES.
        embedding: length of the output.
        inner, layers: of TVConv's kernel generators.
    """

    def __init__(
        self,
        width: float,
        kind: Filter,
        *,
        size: int = 96,
        stages: tuple[tuple[int, int, int, int], ...] = STAGES,
        embedding: int = 512,
        inner: int = 64,
        layers: int = 3,
    ) -> None:
        super().__init__()
        require_multiple(size, 16, "MobileNetV2")
        channels = round_channels(32 * width)
        features: list[nn.Module] = [conv_bn_relu6(3, channels, 3)]
        for expansion, planes, blocks, first_stride in stages:
            outputs = round_channels(planes * width)
            for index in range(blocks):
                stride = 1 if index else first_stride
                hidden, size = round(channels * expansion), (size - 1) // stride + 1
                layer = (
                    TVConv(hidden, size, size, stride=stride, inner=inner, layers=layers)
                    if kind == "tvconv"
                    else depthwise(hidden, stride)
                )
                residual = stride == 1 and channels == outputs
                features.append(InvertedResidual(channels, outputs, layer, hidden, residual=residual))
                channels = outputs
        self.features = nn.Sequential(*features, conv_bn_relu6(channels, embedding, 1))
        self.output_layer = OutputLayer(embedding, embedding, size)
        initialize_kaiming(self)

    def forward(self, image: Tensor) -> Tensor:
        return self.output_layer(self.features(image))  # type: ignore[no-any-return]


def _register(size: int, embedding: int) -> Register:
    return register_model(
        input_shape=(1, 3, size, size),
        task=TaskSpec(
            name="face-embedding",
            options={"mean": [127.5] * 3, "std": [127.5] * 3, "embedding": embedding},
        ),
        outputs=("embedding",),
        paper=PAPER,
        fixed_size=True,
    )


@register_variants(
    _register(96, 512),
    tvconv_face_x0_1=(0.1, "tvconv"),
    tvconv_face_x0_2=(0.2, "tvconv"),
    tvconv_face_x0_5=(0.5, "tvconv"),
    tvconv_face_x1_0=(1.0, "tvconv"),
    tvconv_face_x0_1_base=(0.1, "depthwise"),
    tvconv_face_x0_2_base=(0.2, "depthwise"),
    tvconv_face_x0_5_base=(0.5, "depthwise"),
    tvconv_face_x1_0_base=(1.0, "depthwise"),
)
def tvconv_face(width: float, kind: Filter, image_size: int = 96) -> FaceMobileNetV2:
    return FaceMobileNetV2(width, kind, size=image_size)


@register_variants(_register(48, 128), tvconv_face_micro=("tvconv",), tvconv_face_micro_base=("depthwise",))
def tvconv_face_small(kind: Filter, image_size: int = 48) -> FaceMobileNetV2:
    """Small enough to train on a CPU in minutes."""
    return FaceMobileNetV2(0.5, kind, size=image_size, stages=STAGES_MICRO, embedding=128, inner=16, layers=1)
