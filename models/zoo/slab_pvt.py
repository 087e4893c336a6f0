"""SLAB on PVT: PRepBN for layer norm and, in the slab_ models, linear attention in place of attention with
spatially reduced keys and values. It has no last norm and no class token: the head takes the mean.

ImageNet top-1 of the released weights (README of xinghaochen/SLAB): pvt_tiny_prepbn 76.0, small 80.1, medium
81.7, slab_pvt_tiny 76.5. That repository states no license; PVT's code is Apache-2.0.
Guo et al., SLAB, ICML 2024; Wang et al., Pyramid Vision Transformer, ICCV 2021.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgedeploy.models.imagenet import imagenet_classifier, require_multiple
from edgedeploy.models.layers.linear_attention import KEY_SCALE, LinearAttention
from edgedeploy.models.layers.norm import Norm, PRepBN, fold_into_next, fold_into_previous
from edgedeploy.models.layers.transformer import (
    Block,
    Mlp,
    drop_rates,
    initialize_transformer,
    merge_heads,
    scale_outputs,
    softmax_attention,
    split_heads,
    to_grid,
    to_tokens,
)
from edgedeploy.models.variants import register_variants
from edgedeploy.models.zoo.slab_deit import PAPER, PatchEmbed

CHANNELS, HEADS, EXPANSION = (64, 128, 320, 512), (1, 2, 5, 8), (8, 8, 4, 4)
REDUCTIONS = (8, 4, 2, 1)
DEPTHS = (2, 2, 2, 2)  # blocks of the stages, at 1/4 to 1/32


class ReducedAttention(nn.Module):
    """Softmax attention with keys and values of a grid `reduction` times smaller along each axis."""

    norm: Norm | None

    def __init__(self, channels: int, heads: int, side: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.side, self.reduction = heads, side, reduction
        self.scale = (channels // heads) ** -0.5
        self.q, self.kv = nn.Linear(channels, channels), nn.Linear(channels, channels * 2)
        self.proj = nn.Linear(channels, channels)
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, reduction)
            self.norm = PRepBN(channels)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x)
        q = split_heads(q if self.scale == 1 else q * self.scale, self.heads)
        k, v = self.kv(self._reduced(x)).chunk(2, dim=-1)
        y = softmax_attention(q, split_heads(k, self.heads), split_heads(v, self.heads))
        return self.proj(merge_heads(y))  # type: ignore[no-any-return]

    def _reduced(self, x: Tensor) -> Tensor:
        if self.reduction == 1:
            return x
        tokens = to_tokens(self.sr(to_grid(x, self.side, self.side)))
        return tokens if self.norm is None else self.norm(tokens)

    def absorb(self, norm: Norm) -> nn.Module:
        """Fold `norm` into both branches, and the norm of keys and values into their convolution."""
        deployed = copy.deepcopy(self)
        deployed.q = scale_outputs(fold_into_next(norm, self.q), self.scale, 0, self.q.out_features)
        deployed.scale = 1.0
        if self.reduction == 1:
            deployed.kv = fold_into_next(norm, self.kv)
        else:
            assert self.norm is not None  # noqa: S101  built with the convolution
            deployed.sr = fold_into_previous(fold_into_next(norm, self.sr), self.norm)
            deployed.norm = None
        return deployed


class SplitLinearAttention(LinearAttention):
    """Linear attention with a projection of queries and a joint one of keys and values."""

    def __init__(self, channels: int, heads: int, grid: tuple[int, int]) -> None:
        super().__init__(channels, heads, grid)
        self.q, self.kv = nn.Linear(channels, channels), nn.Linear(channels, channels * 2)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.kv(x).chunk(2, dim=-1)
        return self.proj(self.attend(self.q(x), k, v))  # type: ignore[no-any-return]

    def absorb(self, norm: Norm) -> nn.Module:
        deployed = copy.deepcopy(self)
        deployed.q = fold_into_next(norm, self.q)
        deployed.kv = scale_outputs(fold_into_next(norm, self.kv), KEY_SCALE, 0, self.q.in_features)
        deployed.shrink_keys()
        return deployed


@register_variants(imagenet_classifier(PAPER), pvt_tiny_prepbn=(False,), slab_pvt_tiny=(True,))
class PVT(nn.Module):
    """Classifier, (N, 3, image_size, image_size) -> logits (N, classes).

    Args:
        linear: linear attention in all stages, otherwise softmax with reduced keys and values.
        classes, image_size: of the data.
        drop_path: rate of stochastic depth at the last block.
    """

    def __init__(
        self, linear: bool, classes: int = 1000, image_size: int = 224, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        require_multiple(image_size, 32, "PVT")
        rates = iter(drop_rates(drop_path, sum(DEPTHS)))
        inputs, side = 3, image_size
        self.sides: list[int] = []
        for index, (channels, heads, depth) in enumerate(zip(CHANNELS, HEADS, DEPTHS, strict=True)):
            patch = 2 if index else 4
            side //= patch
            self.sides.append(side)
            blocks: list[nn.Module] = []
            for _ in range(depth):
                attention: nn.Module = (
                    SplitLinearAttention(channels, heads, (side, side))
                    if linear
                    else ReducedAttention(channels, heads, side, REDUCTIONS[index])
                )
                norms = PRepBN(channels), PRepBN(channels)
                blocks.append(
                    Block(norms, attention, Mlp(channels, channels * EXPANSION[index]), next(rates))
                )
            stage = index + 1
            self.add_module(f"patch_embed{stage}", PatchEmbed(inputs, channels, patch, PRepBN(channels)))
            self.register_parameter(f"pos_embed{stage}", nn.Parameter(torch.zeros(1, side * side, channels)))
            self.add_module(f"block{stage}", nn.Sequential(*blocks))
            inputs = channels
        self.head = nn.Linear(inputs, classes)
        initialize_transformer(self)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for stage, side in enumerate(self.sides, start=1):
            if stage > 1:
                x = to_grid(x, 2 * side, 2 * side)
            x = self.get_submodule(f"patch_embed{stage}")(x) + getattr(self, f"pos_embed{stage}")
            x = self.get_submodule(f"block{stage}")(x)
        return self.head(x.mean(dim=1))  # type: ignore[no-any-return]
