"""SLAB on CSWin: PRepBN for layer norm, linear attention over the whole grid in the first two stages, and
CSWin's own attention in crossing stripes with locally enhanced positions (LePE) in the last two.

ImageNet top-1 of the released weights (README of xinghaochen/SLAB): slab_cswin_tiny 82.8. That repository
states no license; its CSWin code is Microsoft's, MIT.
Guo et al., SLAB, ICML 2024; Dong et al., CSWin Transformer, CVPR 2022.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgedeploy.models.imagenet import imagenet_classifier, require_multiple
from edgedeploy.models.layers.linear_attention import KEY_SCALE, LinearAttention
from edgedeploy.models.layers.norm import Norm, PRepBN, fold_into_next, fold_into_previous
from edgedeploy.models.layers.transformer import (
    DropPath,
    Mlp,
    Residuals,
    deployed_classifier,
    drop_rates,
    initialize_transformer,
    merge_heads,
    scale_outputs,
    softmax_attention,
    split_heads,
    to_grid,
    to_tokens,
)
from edgedeploy.models.layers.window import Windows
from edgedeploy.models.variants import register_variants
from edgedeploy.models.zoo.slab_deit import PAPER, Tokens

STRIPE = 7  # tokens across a stripe in the stages of softmax attention


def _norm(channels: int) -> PRepBN:
    return PRepBN(channels, steps=120_000, eps=1e-5)


class StripeAttention(nn.Module):
    """Softmax attention in stripes of the grid plus a depthwise 3x3 convolution of the values in each.

    Queries are scaled already: the block projects them for both directions of stripes.
    """

    def __init__(self, channels: int, heads: int, stripes: Windows) -> None:
        super().__init__()
        self.heads, self.stripes = heads, stripes
        self.get_v = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (self.stripes.split(part) for part in (q, k, v))
        local = to_tokens(self.get_v(to_grid(v, self.stripes.height, self.stripes.width)))
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        return self.stripes.join(merge_heads(softmax_attention(q, k, v)) + local)


class PositionedLinearAttention(LinearAttention):
    """Linear attention plus a depthwise 3x3 convolution of the values; nothing reads `scale`."""

    def __init__(self, channels: int, heads: int, side: int) -> None:
        super().__init__(channels, heads, (side, side))
        self.get_v = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.scale: nn.Parameter | None = nn.Parameter(torch.zeros(1, 1, channels))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(q, k, v) + to_tokens(self.get_v(to_grid(v, *self.grid)))


class CSWinBlock(nn.Module):
    """Pre-norm block; attention in stripes treats half the channels by columns and half by rows."""

    norm1: Norm
    norm2: Norm

    def __init__(self, channels: int, heads: int, side: int, *, linear: bool, drop_path: float) -> None:
        super().__init__()
        self.linear = linear
        self.scale = 1.0 if linear else (channels // heads) ** -0.5
        attns: list[nn.Module]
        if linear:
            attns = [PositionedLinearAttention(channels, heads, side)]
        elif side <= STRIPE:
            attns = [StripeAttention(channels, heads, Windows(side, side, side))]
        else:
            both = Windows(side, side, STRIPE), Windows(side, STRIPE, side)
            attns = [StripeAttention(channels // 2, heads // 2, stripes) for stripes in both]
        self.qkv = nn.Linear(channels, channels * 3)
        self.norm1 = _norm(channels)
        self.proj = nn.Linear(channels, channels)
        self.attns = nn.ModuleList(attns)
        self.mlp = Mlp(channels, channels * 4)
        self.norm2 = _norm(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.proj(_attend(self.attns, self.qkv(self.norm1(x)), self.scale)))
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]

    def fuse(self) -> nn.Module:
        qkv, attns = fold_into_next(self.norm1, self.qkv), copy.deepcopy(self.attns)
        width = qkv.in_features
        if self.linear:
            qkv = scale_outputs(qkv, KEY_SCALE, width, 2 * width)
            for attention in attns:
                assert isinstance(attention, PositionedLinearAttention)  # noqa: S101  as built above
                attention.shrink_keys()
                attention.scale = None
        else:
            qkv = scale_outputs(qkv, self.scale, 0, width)
        return Residuals(Attention(qkv, attns, copy.deepcopy(self.proj)), self.mlp.absorb(self.norm2))


class Attention(nn.Module):
    """The attention of a CSWinBlock without its norm; `qkv` scales the queries."""

    def __init__(self, qkv: nn.Linear, attns: nn.ModuleList, proj: nn.Linear) -> None:
        super().__init__()
        self.qkv, self.attns, self.proj = qkv, attns, proj

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(_attend(self.attns, self.qkv(x), 1.0))  # type: ignore[no-any-return]


def _attend(attns: nn.ModuleList, qkv: Tensor, scale: float) -> Tensor:
    """Each attention on its share of the channels of q, k and v, (N, tokens, 3C) -> (N, tokens, C)."""
    q, k, v = qkv.chunk(3, dim=-1)
    q = q if scale == 1 else q * scale
    if len(attns) == 1:
        return attns[0](q, k, v)  # type: ignore[no-any-return]
    (q1, q2), (k1, k2), (v1, v2) = (part.chunk(2, dim=-1) for part in (q, k, v))
    return torch.cat([attns[0](q1, k1, v1), attns[1](q2, k2, v2)], dim=-1)


class MergeBlock(nn.Module):
    """Halves the grid, (N, side side, C) -> (N, side/2 side/2, 2C), by a 3x3 convolution of stride 2."""

    norm: Norm

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.conv = nn.Conv2d(channels, channels * 2, 3, 2, 1)
        self.norm = _norm(channels * 2)

    def forward(self, x: Tensor) -> Tensor:
        grid = to_grid(x, self.side, self.side)
        return self.norm(to_tokens(self.conv(grid)))  # type: ignore[no-any-return]

    def fuse(self) -> nn.Module:
        return nn.Sequential(Grid(self.side), fold_into_previous(self.conv, self.norm), Tokens())


class Grid(nn.Module):
    """(N, side side, C) -> (N, C, side, side)."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return to_grid(x, self.side, self.side)


class Stem(nn.Sequential):
    """Image -> tokens of a quarter of its resolution: convolution, tokens, norm."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(3, channels, 7, 4, 2), Tokens(), _norm(channels))

    def fuse(self) -> nn.Module:
        conv, _, norm = self
        assert isinstance(conv, nn.Conv2d)  # noqa: S101  as built above
        assert isinstance(norm, PRepBN)  # noqa: S101
        return nn.Sequential(fold_into_previous(conv, norm), Tokens())


@register_variants(
    imagenet_classifier(PAPER, idle=("scale",), crop=0.9), slab_cswin_tiny=(64, 2, (2, 4, 18, 1))
)
class CSWin(nn.Module):
    """Classifier, (N, 3, image_size, image_size) -> logits (N, classes).

    Args:
        channels, heads: of the first stage; both double at each of the next.
        depths: blocks of each of the four stages.
        classes, image_size: of the data.
        drop_path: rate of stochastic depth at the last block.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        depths: tuple[int, int, int, int],
        classes: int = 1000,
        image_size: int = 224,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_multiple(image_size, 32, "CSWin")
        side = image_size // 4
        rates = iter(drop_rates(drop_path, sum(depths)))
        self.stage1_conv_embed = Stem(channels)
        for stage, depth in enumerate(depths, start=1):
            if stage > 1:
                self.add_module(f"merge{stage - 1}", MergeBlock(channels, side))
                channels, heads, side = channels * 2, heads * 2, side // 2
            blocks = (
                CSWinBlock(channels, heads, side, linear=stage <= 2, drop_path=next(rates))
                for _ in range(depth)
            )
            self.add_module(f"stage{stage}", nn.Sequential(*blocks))
        self.norm = _norm(channels)
        self.head = nn.Linear(channels, classes)
        initialize_transformer(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stage1_conv_embed(image)
        for name in ("stage1", "merge1", "stage2", "merge2", "stage3", "merge3", "stage4"):
            x = self.get_submodule(name)(x)
        return self.head(self.norm(x).mean(dim=1))  # type: ignore[no-any-return]

    def fuse(self) -> nn.Module:
        trunk = {name: part for name, part in self.named_children() if name not in {"norm", "head"}}
        return deployed_classifier(trunk, self.norm, self.head)
