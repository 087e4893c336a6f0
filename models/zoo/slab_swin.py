"""SLAB on Swin: PRepBN for layer norm and, in the slab_ models, linear attention over the whole grid in the
first two stages (the last two keep softmax in shifted windows of 7).

ImageNet top-1 of the released weights (README of xinghaochen/SLAB): swin_tiny_prepbn 81.4, slab_swin_tiny
81.8, small 83.6. That repository states no license; its Swin code is Microsoft's, MIT.
Guo et al., SLAB, ICML 2024; Liu et al., Swin Transformer, ICCV 2021.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgedeploy.models.imagenet import imagenet_classifier, require_multiple
from edgedeploy.models.layers.linear_attention import SimplifiedLinearAttention
from edgedeploy.models.layers.norm import Norm, PRepBN, RepBN, fold_into_next
from edgedeploy.models.layers.transformer import Block, Mlp, Residuals, drop_rates, initialize_transformer
from edgedeploy.models.layers.window import WindowAttention, Windows
from edgedeploy.models.zoo.slab_deit import PAPER, PatchEmbed

MakeNorm = Callable[[int], Norm]


class WindowBlock(Block):
    """Pre-norm block whose softmax attention stays inside windows."""

    attn_mask: Tensor | None

    def __init__(self, channels: int, heads: int, windows: Windows, norm: MakeNorm, drop_path: float) -> None:
        attention = WindowAttention(channels, heads, windows.width)
        super().__init__((norm(channels), norm(channels)), attention, Mlp(channels, channels * 4), drop_path)
        self.windows = windows
        self.register_buffer("attn_mask", windows.mask())

    def forward(self, x: Tensor) -> Tensor:
        inside = self.attn(self.windows.split(self.norm1(x)), self.attn_mask)
        x = x + self.drop_path(self.windows.join(inside))
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]

    def fuse(self) -> nn.Module:
        if not (isinstance(self.norm1, Norm) and isinstance(self.norm2, Norm)):
            return copy.deepcopy(self)
        attention = Windowed(self.attn.absorb(self.norm1), self.windows, self.attn_mask)  # type: ignore[operator]
        return Residuals(attention, self.mlp.absorb(self.norm2))


class Windowed(nn.Module):
    """Attention applied inside windows, (N, tokens, C) -> same."""

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
        self.side = side
        self.reduction = nn.Linear(channels * 4, channels * 2, bias=False)
        self.norm = norm(channels * 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.norm(quarters(x, self.side)))  # type: ignore[no-any-return]

    def fuse(self) -> nn.Module:
        return Merged(self.side, fold_into_next(self.norm, self.reduction))


class Merged(nn.Module):
    """PatchMerging without norm; its linear layer has a bias instead."""

    def __init__(self, side: int, reduction: nn.Linear) -> None:
        super().__init__()
        self.side, self.reduction = side, reduction

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(quarters(x, self.side))  # type: ignore[no-any-return]


def quarters(x: Tensor, side: int) -> Tensor:
    """(N, side side, C) -> (N, side/2 side/2, 4C): the four tokens of each 2x2, column by column."""
    cut = torch.unflatten(x, 1, (side // 2, 2, side // 2, 2))
    return cut.permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)


class Stage(nn.Module):
    """Blocks at one resolution, and the merging that ends it but for the last."""

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
        norm: makes the norm of so many channels.
        linear: a letter a stage, L for linear attention of the whole grid, S for softmax in windows.
        classes, image_size: of the data.
        window: side of a window in tokens.
        drop_path: rate of stochastic depth at the last block.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        depths: tuple[int, ...],
        norm: MakeNorm,
        *,
        linear: str,
        classes: int,
        image_size: int,
        window: int = 7,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_multiple(image_size, 32, "Swin")
        side = image_size // 4
        self.patch_embed = PatchEmbed(3, channels, 4, norm(channels))
        rates = iter(drop_rates(drop_path, sum(depths)))
        stages = []
        for index, (kind, depth) in enumerate(zip(linear, depths, strict=True)):
            blocks: list[nn.Module] = []
            for number in range(depth):
                if kind == "S":
                    windows = Windows.fitting(side, window, shifted=number % 2 == 1)
                    blocks.append(WindowBlock(channels, heads, windows, norm, next(rates)))
                else:
                    attention = SimplifiedLinearAttention(channels, heads, (side, side))
                    norms = norm(channels), norm(channels)
                    blocks.append(Block(norms, attention, Mlp(channels, channels * 4), next(rates)))
            last = index == len(depths) - 1
            stages.append(Stage(blocks, None if last else PatchMerging(side, channels, norm)))
            if not last:
                channels, heads, side = channels * 2, heads * 2, side // 2
        self.layers = nn.Sequential(*stages)
        self.norm = norm(channels)
        self.head = nn.Linear(channels, classes)
        initialize_transformer(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.layers(self.patch_embed(image)))
        return self.head(x.mean(dim=1))  # type: ignore[no-any-return]

    def fuse(self) -> nn.Module:
        return DeployedSwin(self.patch_embed, self.layers, fold_into_next(self.norm, self.head))


class DeployedSwin(nn.Module):
    """Patches, stages, mean, head: the last norm is affine, commutes with the mean and is in the head."""

    def __init__(self, patch_embed: nn.Module, layers: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.patch_embed, self.layers, self.head = patch_embed, layers, head

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layers(self.patch_embed(image)).mean(dim=1))  # type: ignore[no-any-return]


def _linear_norm(channels: int) -> PRepBN:
    return PRepBN(channels, steps=60_000, eps=1e-5)


@imagenet_classifier(PAPER)
def swin_tiny_prepbn(
    classes: int = 1000, image_size: int = 224, window: int = 7, drop_path: float = 0.0
) -> Swin:
    """Its released form has RepBN from the first step on."""
    return Swin(
        96, 3, (2, 2, 6, 2), RepBN,
        linear="SSSS", classes=classes, image_size=image_size, window=window,
        drop_path=drop_path,
    )  # fmt: skip


@imagenet_classifier(PAPER)
def slab_swin_tiny(
    classes: int = 1000, image_size: int = 224, window: int = 7, drop_path: float = 0.0
) -> Swin:
    return Swin(
        96, 3, (2, 2, 6, 2), _linear_norm,
        linear="LLSS", classes=classes, image_size=image_size, window=window,
        drop_path=drop_path,
    )  # fmt: skip


@imagenet_classifier(PAPER)
def slab_swin_small(
    classes: int = 1000, image_size: int = 224, window: int = 7, drop_path: float = 0.0
) -> Swin:
    return Swin(
        96, 3, (2, 2, 18, 2), _linear_norm,
        linear="LLSS", classes=classes, image_size=image_size, window=window,
        drop_path=drop_path,
    )  # fmt: skip
