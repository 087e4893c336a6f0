"""MobileNetV2 for face verification, with TVConv or depthwise filters: aligned faces in, embeddings out.

Every spatial filter of the TVConv form is translation-variant, so the input size is fixed. Parameter names
are the official ones (github.com/JierunChen/TVConv). Trained there on CASIA-WebFace with AM-Softmax.
Chen et al., TVConv: Efficient Translation Variant Convolution for Layout-aware Visual Processing, CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from edgedeploy.core.errors import UsageError
from edgedeploy.core.spec import TaskSpec
from edgedeploy.models.layers.common import initialize_kaiming
from edgedeploy.models.layers.mobilenet import InvertedResidual, conv_bn_relu6, depthwise, round_channels
from edgedeploy.models.layers.tvconv import TVConv, batchnorm_affine
from edgedeploy.models.registry import register_model

Atom = Literal["tvconv", "depthwise"]

# widening, channels, blocks, stride of the first
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
    """Embedding from features, (N, in, size, size) -> (N, out).

    Args:
        inputs, outputs: channels and length of the embedding.
        size: of the features, which are averaged over all places.
    """

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.layer1 = nn.BatchNorm2d(inputs)
        self.pool = nn.AvgPool2d(size)
        self.layer2 = nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer2(self.pool(self.layer1(x)).flatten(1))  # type: ignore[no-any-return]

    @torch.no_grad()
    def fuse(self) -> nn.Sequential:
        """Both norms go into the linear layer: averaging commutes with the first, the second follows it."""
        linear, last = cast(tuple[nn.Linear, nn.BatchNorm1d], tuple(self.layer2))
        before, after = batchnorm_affine(self.layer1), batchnorm_affine(last)
        weight, bias = linear.weight.double(), linear.bias.double()
        bias = after[0] * (bias + weight @ before[1]) + after[1]
        weight = after[0][:, None] * weight * before[0]
        merged = nn.Linear(linear.in_features, linear.out_features, dtype=linear.weight.dtype)
        merged.weight.copy_(weight)
        merged.bias.copy_(bias)
        return nn.Sequential(self.pool, nn.Flatten(), merged)


class FaceMobileNetV2(nn.Module):
    """Face embeddings, (N, 3, size, size) -> (N, embedding).

    Args:
        width: multiplier of all channels but the embedding's.
        atom: spatial filter of every block.
        size: height and width of the input, a multiple of 16.
        stages: see STAGES.
        embedding: length of the output.
        inner, layers: of the blocks that make TVConv's kernels.
    """

    def __init__(
        self,
        width: float,
        atom: Atom,
        *,
        size: int = 96,
        stages: tuple[tuple[int, int, int, int], ...] = STAGES,
        embedding: int = 512,
        inner: int = 64,
        layers: int = 3,
    ) -> None:
        super().__init__()
        if size < 16 or size % 16:
            raise UsageError(
                f"this network cannot be built for {size} x {size}", "image_size must be a multiple of 16"
            )
        channels = round_channels(32 * width)
        features: list[nn.Module] = [conv_bn_relu6(3, channels, 3)]
        for widening, planes, blocks, first_stride in stages:
            outputs = round_channels(planes * width)
            for index in range(blocks):
                stride = 1 if index else first_stride
                hidden, size = round(channels * widening), (size - 1) // stride + 1
                layer = (
                    TVConv(hidden, size, size, stride=stride, inner=inner, layers=layers)
                    if atom == "tvconv"
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


def _register(size: int = 96, embedding: int = 512) -> Callable[..., Callable[..., nn.Module]]:
    return register_model(
        input_shape=(1, 3, size, size),
        task=TaskSpec(
            name="face-embedding",
            options={"mean": [127.5] * 3, "std": [127.5] * 3, "embedding": embedding},
        ),
        outputs=("embedding",),
        paper="Chen et al., TVConv: Efficient Translation Variant Convolution for Layout-aware Visual "
        "Processing, CVPR 2022",
        fixed_size=True,
    )


@_register()
def tvconv_face_x0_1(image_size: int = 96) -> FaceMobileNetV2:
    return FaceMobileNetV2(0.1, "tvconv", size=image_size)


@_register()
def tvconv_face_x0_2(image_size: int = 96) -> FaceMobileNetV2:
    return FaceMobileNetV2(0.2, "tvconv", size=image_size)


@_register()
def tvconv_face_x0_5(image_size: int = 96) -> FaceMobileNetV2:
    return FaceMobileNetV2(0.5, "tvconv", size=image_size)


@_register()
def tvconv_face_x1_0(image_size: int = 96) -> FaceMobileNetV2:
    return FaceMobileNetV2(1.0, "tvconv", size=image_size)


@_register()
def tvconv_face_x0_1_base(image_size: int = 96) -> FaceMobileNetV2:
    return FaceMobileNetV2(0.1, "depthwise", size=image_size)


@_register()
def tvconv_face_x0_2_base(image_size: int = 96) -> FaceMobileNetV2:
    return FaceMobileNetV2(0.2, "depthwise", size=image_size)


@_register()
def tvconv_face_x0_5_base(image_size: int = 96) -> FaceMobileNetV2:
    return FaceMobileNetV2(0.5, "depthwise", size=image_size)


@_register()
def tvconv_face_x1_0_base(image_size: int = 96) -> FaceMobileNetV2:
    return FaceMobileNetV2(1.0, "depthwise", size=image_size)


MICRO: dict[str, Any] = {"stages": STAGES_MICRO, "embedding": 128, "inner": 16, "layers": 1}


@_register(48, 128)
def tvconv_face_micro(image_size: int = 48) -> FaceMobileNetV2:
    """Small enough to train on a CPU in minutes."""
    return FaceMobileNetV2(0.5, "tvconv", size=image_size, **MICRO)


@_register(48, 128)
def tvconv_face_micro_base(image_size: int = 48) -> FaceMobileNetV2:
    """The depthwise twin of `tvconv_face_micro`."""
    return FaceMobileNetV2(0.5, "depthwise", size=image_size, **MICRO)
