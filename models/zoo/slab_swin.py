"""SLAB on Swin: PRepBN for layer norm and, in the slab_ models, linear attention over the whole grid in the
first two stages (the last two keep softmax in shifted windows of 7).

ImageNet top-1 of the released weights (README of xinghaochen/SLAB): swin_tiny_prepbn 81.4, slab_swin_tiny
81.8, small 83.6. That repository states no license; its Swin code is Microsoft's, MIT.
Guo et al., SLAB, ICML 2024; Liu et al., Swin Transformer, ICCV 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from edgedeploy.models.imagenet import imagenet_classifier, require_multiple
from edgedeploy.models.layers.linear_attention import SimplifiedLinearAttention
from edgedeploy.models.layers.norm import Norm, PRepBN, RepBN, fold_into_next
from edgedeploy.models.layers.transformer import (
    Block,
    Mlp,
    Residuals,
    deployed_classifier,
    drop_rates,
    initialize_transformer,
)
from edgedeploy.models.layers.window import WindowAttention, Windows
from edgedeploy.models.variants import register_variants
from edgedeploy.models.zoo.slab_deit import PAPER, PatchEmbed

MakeNorm = Callable[[int], nn.Module]
MakeBlock = Callable[[int, int, int, bool, float], nn.Module]
linear_norm = partial(PRepBN, steps=60_000, eps=1e-5)


class WindowBlock(Block):
    """Pre-norm block with softmax attention inside windows."""

    attn_mask: Tensor | None

    def __init__(
        self, channels: int, heads: int, windows: Windows, norm: Callable[[int], Norm], drop_path: float
    ) -> None:
        attention = WindowAttention(channels, heads, windows.width)
        super().__init__((norm(channels), norm(channels)), attention, Mlp(channels, channels * 4), drop_path)
        self.windows = windows
        self.register_buffer("attn_mask", windows.mask())

    def forward(self, x: Tensor) -> Tensor:
        inside = self.attn(self.windows.split(self.norm1(x)), self.attn_mask)
        x = x + self.drop_path(self.windows.join(inside))
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]

    def fuse(self) -> Residuals:
        deployed = super().fuse()
        deployed.first = Windowed(deployed.first, self.windows, self.attn_mask)
        return deployed


class Windowed(nn.Module):
    """Attention inside windows, (N, tokens, C) -> same."""

    attn_mask: Tensor | None

    def __init__(self, attention: nn.Module, windows: Windows, mask: Tensor | None) -> None:
        super().__init__()
        self.attn, self.windows = attention, windows
        self.register_buffer("attn_mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return self.windows.join(self.attn(self.windows.split(x), self.attn_mask))


class PatchMerging(nn.Module):
    """Halves the grid, (N, side side, C) -> (N, side/2 side/2, 2C): norm and linear over 2x2 tokens."""

    def __init__(self, side: int, channels: int, norm: MakeNorm) -> None:
        super().__init__()
        self.quarters = Quarters(side)
        self.reduction = nn.Linear(channels * 4, channels * 2, bias=False)
        self.norm = norm(channels * 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.norm(self.quarters(x)))  # type: ignore[no-any-return]

    def fuse(self) -> nn.Module:
        if isinstance(self.norm, Norm):
            return nn.Sequential(self.quarters, fold_into_next(self.norm, self.reduction))
        return nn.Sequential(self.quarters, self.norm, self.reduction)


class Quarters(nn.Module):
    """(N, side side, C) -> (N, side/2 side/2, 4C): the four tokens of each 2x2 square, column by column."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        cut = torch.unflatten(x, 1, (self.side // 2, 2, self.side // 2, 2))
        return cut.permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)


class Stage(nn.Module):
    """Blocks at one resolution; `downsample` ends all stages but the last."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class Swin(nn.Module):
    """Classifier, (N, 3, image_size, image_size) -> logits (N, classes).

    Args:
        channels, heads: of the first stage; both double at each of the next.
        depths: blocks of each stage.
        norm: makes a norm from its channels.
        blocks: for each stage, makes a block from channels, heads, side of the token grid, whether windows
            shift, and the rate of DropPath.
        classes, image_size: of the data.
        drop_path: rate of stochastic depth at the last block.
        initialize: sets the initial weights.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        depths: tuple[int, ...],
        norm: MakeNorm,
        blocks: Sequence[MakeBlock],
        *,
        classes: int,
        image_size: int,
        drop_path: float = 0.0,
        initialize: Callable[[nn.Module], None] = initialize_transformer,
    ) -> None:
        super().__init__()
        require_multiple(image_size, 32, "Swin")
        side = image_size // 4
        self.patch_embed = PatchEmbed(3, channels, 4, norm(channels))
        rates = iter(drop_rates(drop_path, sum(depths)))
        stages = []
        for index, (block, depth) in enumerate(zip(blocks, depths, strict=True)):
            made = [block(channels, heads, side, number % 2 == 1, next(rates)) for number in range(depth)]
            last = index == len(depths) - 1
            stages.append(Stage(made, None if last else PatchMerging(side, channels, norm)))
            if not last:
                channels, heads, side = channels * 2, heads * 2, side // 2
        self.layers = nn.Sequential(*stages)
        self.norm = norm(channels)
        self.head = nn.Linear(channels, classes)
        initialize(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.layers(self.patch_embed(image)))
        return self.head(x.mean(dim=1))  # type: ignore[no-any-return]

    def fuse(self) -> nn.Module:
        trunk = {"patch_embed": self.patch_embed, "layers": self.layers}
        return deployed_classifier(trunk, self.norm, self.head)


@register_variants(
    imagenet_classifier(PAPER),
    swin_tiny_prepbn=(96, 3, (2, 2, 6, 2), RepBN, "SSSS"),  # RepBN from the first step, as released
    slab_swin_tiny=(96, 3, (2, 2, 6, 2), linear_norm, "LLSS"),
    slab_swin_small=(96, 3, (2, 2, 18, 2), linear_norm, "LLSS"),
)
def slab_swin(
    channels: int,
    heads: int,
    depths: tuple[int, ...],
    norm: Callable[[int], Norm],
    attention: str,
    classes: int = 1000,
    image_size: int = 224,
    window: int = 7,
    drop_path: float = 0.0,
) -> Swin:
    """`attention` has a letter a stage: L for linear attention of the whole grid, S for softmax in windows.

    `window` is the side of a window in tokens.
    """

    def linear(channels: int, heads: int, side: int, _shifted: bool, rate: float) -> nn.Module:
        layer = SimplifiedLinearAttention(channels, heads, (side, side))
        return Block((norm(channels), norm(channels)), layer, Mlp(channels, channels * 4), rate)

    def softmax(channels: int, heads: int, side: int, shifted: bool, rate: float) -> nn.Module:
        return WindowBlock(channels, heads, Windows.fitting(side, window, shifted), norm, rate)

    blocks = [linear if letter == "L" else softmax for letter in attention]
    return Swin(
        channels, heads, depths, norm, blocks,
        classes=classes, image_size=image_size, drop_path=drop_path,
    )  # fmt: skip
