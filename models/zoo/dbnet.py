"""DBNet and DBNet++: text detection by a probability map whose binarization is learned.

Features of a ResNet or MobileNetV3 are joined at 1/4, by concatenation or adaptive scale fusion; a head
upsamples to full size. Parameter names are those of github.com/MhLiao/DB. Liao et al., Real-time Scene
Text Detection with Differentiable Binarization, 2020; ... and Adaptive Scale Fusion, 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.core.spec import TaskSpec
from edgedeploy.models.layers.mobilenetv3 import MobileNetV3Large
from edgedeploy.models.layers.resnet import BasicBlock, ResNet, resnet18, resnet50
from edgedeploy.models.layers.scale_fusion import Fusion, ScaleFusion
from edgedeploy.models.registry import register_model
from edgedeploy.models.variants import Register, register_variants

PAPER = "Liao et al., Real-time Scene Text Detection with Differentiable Binarization, 2020"
PAPER_PLUS = (
    "Liao et al., Real-Time Scene Text Detection with Differentiable Binarization and Adaptive Scale "
    "Fusion, 2022"
)
Maps = tuple[Tensor, Tensor, Tensor]
STEEPNESS = 50.0  # k of the binarization 1 / (1 + exp(-k (P - T)))
MOBILE_IDLE = ("features.18.weight", "features.18.bias")
UNUSED = ("backbone.fc.", "backbone.smooth.", "backbone.classifier.")


class Decoder(nn.Module):
    """Four features, finest first -> probability map (N, 1, H, W), with `augment` three maps.

    Args:
        channels: of the features.
        inner: channels of the joined feature; a quarter of it comes from each scale.
        fusion: form of adaptive scale fusion, or None to concatenate.
        augment: add the threshold map and the approximate binary map of training.
    """

    def __init__(self, channels: Sequence[int], inner: int, fusion: Fusion | None, *, augment: bool) -> None:
        super().__init__()
        for level, width in zip((2, 3, 4, 5), channels, strict=True):
            self.add_module(f"in{level}", nn.Conv2d(width, inner, 1, bias=False))
            smooth = nn.Conv2d(inner, inner // 4, 3, padding=1, bias=False)
            enlarged = nn.Sequential(smooth, nn.Upsample(scale_factor=2 ** (level - 2)))
            self.add_module(f"out{level}", enlarged if level > 2 else smooth)
        self.concat_attention = None if fusion is None else ScaleFusion(inner, fusion)
        self.binarize = head(inner)
        self.thresh = head(inner) if augment else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.bias, 1e-4)
        for last in (part[-2] for part in (self.binarize, self.thresh) if part is not None):
            nn.init.normal_(last.weight, 0, 0.05)  # type: ignore[arg-type]  # start undecided, not saturated

    def forward(self, features: Sequence[Tensor]) -> Tensor | Maps:
        x = self.get_submodule("in5")(features[-1])
        scales = [self.get_submodule("out5")(x)]  # coarsest first
        for level in (4, 3, 2):
            x = F.interpolate(x, scale_factor=2) + self.get_submodule(f"in{level}")(features[level - 2])
            scales.append(self.get_submodule(f"out{level}")(x))
        joined = torch.cat(scales, 1) if self.concat_attention is None else self.concat_attention(scales)
        probability: Tensor = self.binarize(joined)
        if self.thresh is None:
            return probability
        threshold: Tensor = self.thresh(joined)
        return probability, threshold, torch.sigmoid(STEEPNESS * (probability - threshold))


def head(inner: int) -> nn.Sequential:
    """Features at 1/4 -> a map in (0, 1) at full size."""
    planes = inner // 4
    return nn.Sequential(
        nn.Conv2d(inner, planes, 3, padding=1, bias=False),
        nn.BatchNorm2d(planes),
        nn.ReLU(),
        nn.ConvTranspose2d(planes, planes, 2, 2),
        nn.BatchNorm2d(planes),
        nn.ReLU(),
        nn.ConvTranspose2d(planes, 1, 2, 2),
        nn.Sigmoid(),
    )


class DBNet(nn.Module):
    """(N, 3, H, W) in BGR -> P (N, 1, H, W), the probability of (shrunk) text; H and W multiples of 32.

    Args:
        backbone: features at 1/4 to 1/32, with their `channels`.
        fusion, augment, inner: see Decoder; with `augment` the output is (P, T, B).
    """

    def __init__(
        self,
        backbone: ResNet | MobileNetV3Large,
        fusion: Fusion | None = None,
        *,
        augment: bool = False,
        inner: int = 256,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = Decoder(backbone.channels, inner, fusion, augment=augment)

    def forward(self, image: Tensor) -> Tensor | Maps:
        return self.decoder(self.backbone(image))  # type: ignore[no-any-return]


def _register(paper: str, *, short_side: int = 736, idle: tuple[str, ...] = ()) -> Register:
    return register_model(
        input_shape=(1, 3, 640, 640),
        task=TaskSpec(
            name="text-detection",
            options={
                # In channel order, BGR. The authors subtract a mean that looks like RGB from BGR images.
                "channel_order": "BGR",
                "mean": [122.67891434, 116.66876762, 104.00698793],
                "std": [255.0, 255.0, 255.0],
                "short_side": short_side,
                "size_multiple": 32,
                "threshold": 0.3,
                "box_threshold": 0.6,
            },
        ),
        outputs=("probability",),
        paper=paper,
        size_multiple=32,
        training_only=("decoder.thresh.", *UNUSED),
        training_options=("augment",),
        idle=idle,
        heads=("decoder.thresh.", "decoder.concat_attention."),
    )


# `augment=True` builds each network as its authors train and save it: with the threshold head and with the
# parameters that no forward pass reads.
Backbone = Callable[..., ResNet | MobileNetV3Large]
deformable_resnet18 = partial(resnet18, deformable=True)
deformable_resnet50 = partial(resnet50, deformable=True)


@register_variants(
    _register(PAPER, short_side=800, idle=MOBILE_IDLE), dbnet_mobilenetv3_large=(MobileNetV3Large,)
)
@register_variants(
    _register(PAPER),
    dbnet_resnet18=(resnet18,),
    dbnet_resnet50=(resnet50,),
    dbnet_deformable_resnet18=(deformable_resnet18,),
    dbnet_deformable_resnet50=(deformable_resnet50,),
)
def dbnet(backbone: Backbone, *, augment: bool = False) -> DBNet:
    return DBNet(backbone(whole=augment), augment=augment)


@register_variants(
    _register(PAPER_PLUS, short_side=800, idle=MOBILE_IDLE), dbnetpp_mobilenetv3_large=(MobileNetV3Large,)
)
@register_variants(
    _register(PAPER_PLUS),
    dbnetpp_resnet18=(resnet18,),
    dbnetpp_resnet50=(resnet50,),
    dbnetpp_deformable_resnet18=(deformable_resnet18,),
    dbnetpp_deformable_resnet50=(deformable_resnet50,),
)
def dbnetpp(backbone: Backbone, fusion: Fusion = "scale_channel_spatial", *, augment: bool = False) -> DBNet:
    return DBNet(backbone(whole=augment), fusion, augment=augment)


@_register(PAPER, short_side=320)
def dbnet_micro(*, augment: bool = False) -> DBNet:
    """The same code at an eighth of ResNet-18's width: trains on a CPU in minutes, for tests and examples."""
    return DBNet(ResNet(BasicBlock, (1, 1, 1, 1), width=8), augment=augment, inner=32)
