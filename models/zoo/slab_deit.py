"""SLAB on DeiT: PRepBN for layer norm and, in the slab_ models, linear attention for softmax attention.

slab_deit_*: mean of all tokens instead of a class token, positions also on the keys. deit_*_prepbn: DeiT with
other norms alone. ImageNet top-1 of the released weights (README of xinghaochen/SLAB): slab_deit_tiny 74.3,
small 80.0, deit_tiny_prepbn 73.6, small 80.2. That repository states no license; DeiT's code is Apache-2.0.
Guo et al., SLAB, ICML 2024; Touvron et al., DeiT, ICML 2021.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from edgedeploy.models.imagenet import imagenet_classifier, require_multiple
from edgedeploy.models.layers.linear_attention import SimplifiedLinearAttention
from edgedeploy.models.layers.norm import Norm, PRepBN, RepBN, fold_into_next, fold_into_previous
from edgedeploy.models.layers.transformer import (
    Block,
    Mlp,
    SoftmaxAttention,
    drop_rates,
    initialize_transformer,
    to_tokens,
)
from edgedeploy.models.variants import register_variants

PAPER = (
    "Guo et al., SLAB: Efficient Transformers with Simplified Linear Attention and Progressive "
    "Re-parameterized Batch Normalization, ICML 2024"
)


class PatchEmbed(nn.Module):
    """Image (N, 3, H, W) -> tokens (N, H/patch W/patch, channels) by a convolution, with or without norm."""

    def __init__(self, inputs: int, channels: int, patch: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, channels, patch, patch)
        self.norm = norm

    def forward(self, image: Tensor) -> Tensor:
        x = to_tokens(self.proj(image))
        return x if self.norm is None else self.norm(x)

    def fuse(self) -> nn.Module:
        if isinstance(self.norm, Norm):
            return nn.Sequential(fold_into_previous(self.proj, self.norm), Tokens())
        tokens = nn.Sequential(copy.deepcopy(self.proj), Tokens())
        return tokens if self.norm is None else tokens.append(copy.deepcopy(self.norm))


class Tokens(nn.Module):
    """(N, C, H, W) -> (N, H W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return to_tokens(x)


class DeiT(nn.Module):
    """Classifier, (N, 3, image_size, image_size) -> logits (N, classes).

    Args:
        channels, depth: of the blocks.
        norm: makes the last norm from its channels.
        block: makes a block from the side of the token grid and the rate of DropPath.
        class_token: classify by a class token, otherwise by the mean of all tokens.
        classes, image_size: of the data.
        patch: side of a patch in pixels.
        drop_path: rate of stochastic depth at the last block.
        initialize: sets the initial weights.
    """

    def __init__(
        self,
        channels: int,
        depth: int,
        norm: Callable[[int], nn.Module],
        block: Callable[[int, float], nn.Module],
        *,
        class_token: bool,
        classes: int,
        image_size: int,
        patch: int = 16,
        drop_path: float = 0.0,
        initialize: Callable[[nn.Module], None] = initialize_transformer,
    ) -> None:
        super().__init__()
        require_multiple(image_size, patch, "DeiT")
        side = image_size // patch
        self.class_token = class_token
        self.patch_embed = PatchEmbed(3, channels, patch)
        # Published checkpoints without use for a class token hold one.
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side + class_token, channels))
        self.blocks = nn.Sequential(*(block(side, rate) for rate in drop_rates(drop_path, depth)))
        self.norm = norm(channels)
        self.head = nn.Linear(channels, classes)
        initialize(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image)
        if self.class_token:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.norm(self.blocks(x + self.pos_embed))
        return self.head(x[:, 0] if self.class_token else x.mean(dim=1))  # type: ignore[no-any-return]

    def fuse(self) -> nn.Module:
        return DeployedDeiT(self)


class DeployedDeiT(nn.Module):
    """DeiT without unused class token; the last norm, where it is affine, is folded into the head."""

    def __init__(self, trained: DeiT) -> None:
        super().__init__()
        self.patch_embed, self.blocks = trained.patch_embed, trained.blocks
        positions = trained.pos_embed.detach()
        self.first = None
        if trained.class_token:  # its position is added in advance
            self.first = nn.Parameter(trained.cls_token.detach() + positions[:, :1])
            positions = positions[:, 1:]
        self.pos_embed = nn.Parameter(positions.clone())
        self.norm, self.head = trained.norm, trained.head
        if isinstance(self.norm, Norm):  # it commutes with the mean
            self.head, self.norm = fold_into_next(self.norm, self.head), nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image) + self.pos_embed
        if self.first is None:
            return self.head(self.norm(self.blocks(x)).mean(dim=1))  # type: ignore[no-any-return]
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], dim=1)
        return self.head(self.norm(self.blocks(x))[:, 0])  # type: ignore[no-any-return]


def slab_network(
    channels: int,
    heads: int,
    depth: int,
    norm: Callable[[int], nn.Module],
    *,
    linear: bool,
    classes: int,
    image_size: int,
    patch: int = 16,
    drop_path: float = 0.0,
) -> DeiT:
    """DeiT with linear attention and the mean of all tokens, or with softmax attention and a class token."""

    def block(side: int, rate: float) -> Block:
        linear_attention = partial(SimplifiedLinearAttention, grid=(side, side))
        attention = (linear_attention if linear else SoftmaxAttention)(channels, heads)
        return Block((norm(channels), norm(channels)), attention, Mlp(channels, channels * 4), rate)

    return DeiT(
        channels, depth, norm, block,
        class_token=not linear, classes=classes, image_size=image_size, patch=patch, drop_path=drop_path,
    )  # fmt: skip


@register_variants(
    imagenet_classifier(PAPER, idle=("cls_token",)), slab_deit_tiny=(192, 3), slab_deit_small=(384, 6)
)
def slab_deit(
    channels: int, heads: int, classes: int = 1000, image_size: int = 224, drop_path: float = 0.0
) -> DeiT:
    norm = partial(PRepBN, steps=60_000)
    return slab_network(
        channels, heads, 12, norm, linear=True, classes=classes, image_size=image_size, drop_path=drop_path
    )


# The released deit_tiny_prepbn has RepBN from the first step.
@register_variants(
    imagenet_classifier(PAPER), deit_tiny_prepbn=(192, 3, RepBN), deit_small_prepbn=(384, 6, PRepBN)
)
def deit_prepbn(
    channels: int,
    heads: int,
    norm: Callable[[int], nn.Module],
    classes: int = 1000,
    image_size: int = 224,
    drop_path: float = 0.0,
) -> DeiT:
    return slab_network(
        channels, heads, 12, norm, linear=False, classes=classes, image_size=image_size, drop_path=drop_path
    )


@imagenet_classifier(PAPER, idle=("cls_token",), classes=10, image_size=32, crop=1.0)
def slab_deit_micro(
    classes: int = 10,
    image_size: int = 32,
    steps: int = 300,
    *,
    patch: int = 4,
    norm: Literal["prepbn", "layernorm"] = "prepbn",
    attention: Literal["linear", "softmax"] = "linear",
) -> DeiT:
    """For small images and quick training on a CPU; `steps` is the length of PRepBN's schedule.

    `norm="layernorm"` is the baseline for PRepBN; with `attention="softmax"` as well it is a small DeiT.
    """
    make = partial(PRepBN, steps=steps) if norm == "prepbn" else partial(nn.LayerNorm, eps=1e-6)
    return slab_network(
        64, 2, 4, make, linear=attention == "linear", classes=classes, image_size=image_size, patch=patch
    )
