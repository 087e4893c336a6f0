"""Blocks of vision transformers: attention over tokens (N, tokens, channels), MLP, their deploy forms.

Token grids are fixed when a network is built, so nothing here depends on the shape of what comes in but for
the batch. `absorb(norm)` gives the deploy form of a block's part with the norm before it folded in.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgedeploy.models.layers.norm import Norm, fold_into_next

BRANCH_ENDS = (".proj", ".fc2")  # last parts of the names of layers whose output is added to the tokens


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
    """Leaves a residual branch out for a share `rate` of the images while training (Huang et al., 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(len(x), *(1,) * (x.dim() - 1), device=x.device) >= self.rate
        return x * kept / (1 - self.rate)


class Block(nn.Module):
    """Pre-norm block: x + attn(norm1(x)), then + mlp(norm2(x)); the shape stays.

    `attention` and `mlp` have an `absorb(norm)`, which gives their deploy form.
    """

    def __init__(
        self, norms: tuple[nn.Module, nn.Module], attention: nn.Module, mlp: Mlp, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = norms
        self.attn, self.mlp = attention, mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]

    def fuse(self) -> nn.Module:
        if not (isinstance(self.norm1, Norm) and isinstance(self.norm2, Norm)):
            return copy.deepcopy(self)  # a layer norm depends on what it gets, and stays
        return Residuals(self.attn.absorb(self.norm1), self.mlp.absorb(self.norm2))  # type: ignore[operator]


class Residuals(nn.Module):
    """x + first(x), then + second of that: what a pre-norm block is without norms."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x)
        return x + self.second(x)  # type: ignore[no-any-return]


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


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T + bias) v over (..., tokens, width); q comes scaled."""
    logits = q @ k.transpose(-2, -1)
    return (logits if bias is None else logits + bias).softmax(-1) @ v


def scale_outputs(layer: nn.Linear, factor: float, first: int, last: int) -> nn.Linear:
    """A copy of `layer` whose outputs first..last (exclusive) come multiplied by `factor`."""
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
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q = q if self.scale == 1 else q * self.scale
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        return self.proj(merge_heads(softmax_attention(q, k, v)))  # type: ignore[no-any-return]

    def absorb(self, norm: Norm) -> nn.Module:
        """The scale of the queries goes into their weights too."""
        deployed = copy.deepcopy(self)
        deployed.qkv = scale_outputs(fold_into_next(norm, self.qkv), self.scale, 0, self.qkv.in_features)
        deployed.scale = 1.0
        return deployed


def initialize_transformer(model: nn.Module) -> None:
    """Truncated normal weights of deviation 0.02 for linear layers and position tables, as DeiT has.

    The layers that end a residual branch are divided by sqrt(branches) besides, as GPT-2 does: RepBN begins
    as twice a norm that has seen no data, and deep networks otherwise begin with logits in the hundreds.
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
    """Rates of DropPath that rise from 0 at the first block to `last` at the last."""
    return [last * index / max(1, blocks - 1) for index in range(blocks)]
