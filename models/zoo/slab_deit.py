"""SLAB on DeiT: PRepBN for layer norm and, in the slab_ models, linear attention for softmax attention.

slab_deit_*: no class token, mean of all tokens, positions also on the keys. deit_*_prepbn: DeiT itself with
other norms. ImageNet top-1 of the released weights (README of xinghaochen/SLAB): slab_deit_tiny 74.3, small
80.0, deit_tiny_prepbn 73.6, small 80.2. That repository states no license; DeiT's code is Apache-2.0.
Guo et al., SLAB, ICML 2024; Touvron et al., DeiT, ICML 2021.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
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

PAPER = (
    "Guo et al., SLAB: Efficient Transformers with Simplified Linear Attention and Progressive "
    "Re-parameterized Batch Normalization, ICML 2024"
)


class PatchEmbed(nn.Module):
    """Image (N, 3, H, W) -> tokens (N, H/patch W/patch, channels) by a convolution, with or without norm."""

    norm: Norm | None

    def __init__(self, inputs: int, channels: int, patch: int, norm: Norm | None = None) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, channels, patch, patch)
        self.norm = norm

    def forward(self, image: Tensor) -> Tensor:
        x = to_tokens(self.proj(image))
        return x if self.norm is None else self.norm(x)

    def fuse(self) -> nn.Module:
        deployed = copy.deepcopy(self.proj) if self.norm is None else fold_into_previous(self.proj, self.norm)
        return nn.Sequential(deployed, Tokens())


class Tokens(nn.Module):
    """(N, C, H, W) -> (N, H W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return to_tokens(x)


class DeiT(nn.Module):
    """Classifier, (N, 3, image_size, image_size) -> logits (N, classes).

    Args:
        channels, heads, depth: of the blocks, which all are alike.
        norm: makes the norm of so many channels.
        linear: linear attention and the mean of all tokens, else softmax attention and a class token.
        patch: side of a patch in pixels.
        classes, image_size: of the data.
        drop_path: rate of stochastic depth at the last block.
    """

    def __init__(
        self,
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
    ) -> None:
        super().__init__()
        require_multiple(image_size, patch, "DeiT")
        side = image_size // patch
        self.linear = linear
        self.patch_embed = PatchEmbed(3, channels, patch)
        # Published checkpoints of the linear form hold a class token that nothing reads.
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side + (not linear), channels))

        def attention() -> nn.Module:
            if linear:
                return SimplifiedLinearAttention(channels, heads, (side, side))
            return SoftmaxAttention(channels, heads)

        self.blocks = nn.Sequential(
            *(
                Block((norm(channels), norm(channels)), attention(), Mlp(channels, channels * 4), rate)
                for rate in drop_rates(drop_path, depth)
            )
        )
        self.norm = norm(channels)
        self.head = nn.Linear(channels, classes)
        initialize_transformer(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image)
        if not self.linear:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.norm(self.blocks(x + self.pos_embed))
        return self.head(x.mean(dim=1) if self.linear else x[:, 0])  # type: ignore[no-any-return]

    def fuse(self) -> nn.Module:
        """The last norm, where it is affine, commutes with the mean and goes into the head."""
        return DeployedDeiT(self, self.norm) if isinstance(self.norm, Norm) else copy.deepcopy(self)


class DeployedDeiT(nn.Module):
    """DeiT without its last norm and, where it has no use, without its class token."""

    def __init__(self, trained: DeiT, norm: Norm) -> None:
        super().__init__()
        self.patch_embed, self.blocks = trained.patch_embed, trained.blocks
        positions = trained.pos_embed.detach()
        self.first = None
        if not trained.linear:  # the class token's own position is added once and for all
            self.first = nn.Parameter(trained.cls_token.detach() + positions[:, :1])
            positions = positions[:, 1:]
        self.pos_embed = nn.Parameter(positions.clone())
        self.head = fold_into_next(norm, trained.head)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image) + self.pos_embed
        if self.first is None:
            return self.head(self.blocks(x).mean(dim=1))  # type: ignore[no-any-return]
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], dim=1)
        return self.head(self.blocks(x)[:, 0])  # type: ignore[no-any-return]


def _linear_norm(channels: int) -> PRepBN:
    return PRepBN(channels, steps=60_000)


@imagenet_classifier(PAPER, idle=("cls_token",))
def slab_deit_tiny(classes: int = 1000, image_size: int = 224, drop_path: float = 0.0) -> DeiT:
    return DeiT(
        192, 3, 12, _linear_norm, linear=True, classes=classes, image_size=image_size, drop_path=drop_path
    )


@imagenet_classifier(PAPER, idle=("cls_token",))
def slab_deit_small(classes: int = 1000, image_size: int = 224, drop_path: float = 0.0) -> DeiT:
    return DeiT(
        384, 6, 12, _linear_norm, linear=True, classes=classes, image_size=image_size, drop_path=drop_path
    )


@imagenet_classifier(PAPER)
def deit_tiny_prepbn(classes: int = 1000, image_size: int = 224, drop_path: float = 0.0) -> DeiT:
    """Its released form has RepBN from the first step on."""
    return DeiT(192, 3, 12, RepBN, linear=False, classes=classes, image_size=image_size, drop_path=drop_path)


@imagenet_classifier(PAPER)
def deit_small_prepbn(classes: int = 1000, image_size: int = 224, drop_path: float = 0.0) -> DeiT:
    return DeiT(384, 6, 12, PRepBN, linear=False, classes=classes, image_size=image_size, drop_path=drop_path)


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

    With `norm="layernorm"` it is the twin that PRepBN is compared with, with `attention="softmax"` besides
    a small DeiT.
    """

    def make(channels: int) -> nn.Module:
        return PRepBN(channels, steps=steps) if norm == "prepbn" else nn.LayerNorm(channels, 1e-6)

    linear = attention == "linear"
    return DeiT(64, 2, 4, make, linear=linear, classes=classes, image_size=image_size, patch=patch)
