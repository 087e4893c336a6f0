"""Simplified Linear Attention: attention without softmax, at a cost linear in the number of tokens.

    q' = relu(q),  k' = relu(k + p),  y = q' (k'^T v) / (q' sum_j k'_j + eps) + DWConv(v)
with learned positions p and a depthwise 5x5 convolution that all heads share.
Guo et al., SLAB, ICML 2024.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.models.layers.norm import Norm, fold_into_next
from edgedeploy.models.layers.transformer import merge_heads, scale_outputs, split_heads, to_grid, to_tokens

EPS = 1e-6
# Sums over thousands of tokens overflow float16. Keys occur above and below the fraction: scale cancels.
# A power of two is exact; this one keeps eps representable in float16.
KEY_SCALE = 2.0**-4


class LinearAttention(nn.Module):
    """Attention between the projections: q, k, v (N, tokens, channels) -> (N, tokens, channels).

    `grid` is height and width of the token grid.
    """

    def __init__(self, channels: int, heads: int, grid: tuple[int, int]) -> None:
        super().__init__()
        width = channels // heads
        self.heads, self.grid, self.eps = heads, grid, EPS
        tokens = grid[0] * grid[1]
        # Both orders of multiplication give the same result; take the cheaper one.
        self.keys_first = tokens * tokens * 2 * width > width * width * 2 * tokens
        self.positional_encoding = nn.Parameter(torch.zeros(1, tokens, channels))
        self.dwc = nn.Conv2d(width, width, 5, padding=2, groups=width)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k = F.relu(k + self.positional_encoding)
        q, k, v = (split_heads(part, self.heads) for part in (F.relu(q), k, v))
        weight = q @ k.sum(dim=-2).unsqueeze(-1) + self.eps
        y = q @ (k.transpose(-2, -1) @ v) if self.keys_first else (q @ k.transpose(-2, -1)) @ v
        return merge_heads(y / weight + self._local(v))

    def shrink_keys(self) -> None:
        """Adapt to keys that the projection multiplies by KEY_SCALE."""
        self.eps = EPS * KEY_SCALE
        self.positional_encoding = nn.Parameter(self.positional_encoding.detach() * KEY_SCALE)

    def _local(self, v: Tensor) -> Tensor:
        """Depthwise convolution of (N, heads, tokens, width) on the grid, head by head."""
        local = to_tokens(self.dwc(to_grid(v.flatten(0, 1), *self.grid)))
        return torch.unflatten(local, 0, (-1, self.heads))


class SimplifiedLinearAttention(LinearAttention):
    """With a joint projection of queries, keys and values, as in SLAB-DeiT and SLAB-Swin."""

    def __init__(self, channels: int, heads: int, grid: tuple[int, int]) -> None:
        super().__init__(channels, heads, grid)
        self.qkv = nn.Linear(channels, channels * 3)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(self.attend(q, k, v))  # type: ignore[no-any-return]

    def absorb(self, norm: Norm) -> nn.Module:
        deployed = copy.deepcopy(self)
        channels = self.qkv.in_features
        deployed.qkv = scale_outputs(fold_into_next(norm, self.qkv), KEY_SCALE, channels, 2 * channels)
        deployed.shrink_keys()
        return deployed
