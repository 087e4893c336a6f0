"""Blocks of vision transformers: attention over tokens (N, tokens, channels), MLP, their deploy forms.

The builder fixes the token grid: only the batch size may vary. `absorb(norm)` returns the deploy form of a
part of a block, with the preceding norm folded in.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgedeploy.models.layers.norm import Norm, fold_into_next

BRANCH_ENDS = (".proj", ".fc2")  # name suffixes of the layers that end a residual branch


class Mlp(nn.Module):
    """Linear, GELU, linear; token by token."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(channels, hidden), nn.GELU()
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))  # type: ignore[no-any-return]

    def absorb(self, norm: Norm) -> nn.Module:
        return nn.Sequential(fold_into_next(norm, self.fc1), nn.GELU(), copy.deepcopy(self.fc2))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): drops a residual branch for a share `rate` of the images."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(len(x), *(1,) * (x.dim() - 1), device=x.device) >= self.rate
        return x * kept / (1 - self.rate)


class Block(nn.Module):
    """Pre-norm block of unchanged shape: x = x + attn(norm1(x)), then x + mlp(norm2(x)).

    With a `Norm`, `attention` and `mlp` have a method `absorb(norm)`, which returns their deploy form.
    """

    def __init__(
        self, norms: tuple[nn.Module, nn.Module], attention: nn.Module, mlp: nn.Module, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = norms
        self.attn, self.mlp = attention, mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]

    def fuse(self) -> Residuals:
        return Residuals(_absorb(self.norm1, self.attn), _absorb(self.norm2, self.mlp))


def _absorb(norm: nn.Module, layer: Any) -> nn.Module:
    """Deploy form of a norm and the layer after it; a layer norm is not affine: it stays."""
    return layer.absorb(norm) if isinstance(norm, Norm) else nn.Sequential(norm, layer)


class Residuals(nn.Module):
    """Deploy form of a block: x = x + first(x), then x + second(x)."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x)
        return x + self.second(x)  # type: ignore[no-any-return]


class TokenMean(nn.Module):
    """(N, tokens, channels) -> (N, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


def deployed_classifier(trunk: Mapping[str, nn.Module], norm: nn.Module, head: nn.Linear) -> nn.Sequential:
    """Deploy form of head(mean over tokens of norm(trunk(image))): an affine norm folds into the head."""
    if isinstance(norm, Norm):
        return nn.Sequential(OrderedDict(trunk, mean=TokenMean(), head=fold_into_next(norm, head)))
    return nn.Sequential(OrderedDict(trunk, norm=norm, mean=TokenMean(), head=head))


def to_tokens(x: Tensor) -> Tensor:
    """(N, C, height, width) -> (N, height width, C)."""
    return x.flatten(2).transpose(1, 2)


def to_grid(x: Tensor, height: int, width: int) -> Tensor:
    """(N, height width, C) -> (N, C, height, width)."""
    return torch.unflatten(x.transpose(1, 2), -1, (height, width))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, tokens, channels) -> (N, heads, tokens, channels / heads)."""
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(N, heads, tokens, width) -> (N, tokens, heads width)."""
    return x.transpose(1, 2).flatten(2)


def split_qkv(qkv: Tensor, heads: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """(N, tokens, 3 channels) -> scaled queries, keys, values of (N, heads, tokens, channels / heads)."""
    q, k, v = qkv.chunk(3, dim=-1)
    q = q if scale == 1 else q * scale
    return split_heads(q, heads), split_heads(k, heads), split_heads(v, heads)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T) v over (..., tokens, width); q is scaled already."""
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


def scale_outputs(layer: nn.Linear, factor: float, first: int, last: int) -> nn.Linear:
    """A copy of `layer` with outputs first..last (exclusive) times `factor`."""
    scaled = copy.deepcopy(layer)
    with torch.no_grad():
        scaled.weight[first:last].mul_(factor)
        scaled.bias[first:last].mul_(factor)
    return scaled


class SoftmaxAttention(nn.Module):
    """Multi-head self-attention of all tokens (Vaswani et al., 2017)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        self.qkv = nn.Linear(channels, channels * 3)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = split_qkv(self.qkv(x), self.heads, self.scale)
        return self.proj(merge_heads(softmax_attention(q, k, v)))  # type: ignore[no-any-return]

    def absorb(self, norm: Norm) -> nn.Module:
        """Also folds the scale of the queries into their weights."""
        deployed = copy.deepcopy(self)
        deployed.qkv = scale_outputs(fold_into_next(norm, self.qkv), self.scale, 0, self.qkv.in_features)
        deployed.scale = 1.0
        return deployed


def initialize_transformer(model: nn.Module) -> None:
    """Truncated normal weights of deviation 0.02 for linear layers and position tables, as in DeiT.

    Layers that end a residual branch are also divided by sqrt(branches), as in GPT-2: a fresh RepBN doubles
    its input, and deep networks would start with logits in the hundreds.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    ends = [m for key, m in model.named_modules() if isinstance(m, nn.Linear) and key.endswith(BRANCH_ENDS)]
    with torch.no_grad():
        for layer in ends:
            layer.weight.mul_(len(ends) ** -0.5)
    for name, parameter in model.named_parameters():
        if "pos_embed" in name or name.endswith("relative_position_bias_table"):
            nn.init.trunc_normal_(parameter, std=0.02)


def drop_rates(last: float, blocks: int) -> list[float]:
    """Rates of DropPath, linear from 0 at the first block to `last` at the last."""
    return [last * index / max(1, blocks - 1) for index in range(blocks)]
