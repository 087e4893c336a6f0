"""Attention inside windows of a token grid, shifted between blocks, with learned relative positions.

Liu et al., Swin Transformer, ICCV 2021.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgedeploy.core.errors import UsageError
from edgedeploy.models.layers_norm import Norm, fold_into_next
from edgedeploy.models.layers_transformer import merge_heads, scale_queries, split_heads

MASKED = -100.0  # added to logits between tokens that only the shift made neighbours


@dataclass(frozen=True)
class Windows:
    """How a square token grid is cut: `side` tokens each way, windows of `window`, rolled by `shift`."""

    side: int
    window: int
    shift: int = 0

    @staticmethod
    def fitting(side: int, window: int, shifted: bool) -> Windows:
        """One window without shift where the grid is no larger than a window; UsageError for a misfit."""
        if side <= window:
            return Windows(side, side)
        if side % window:
            raise UsageError(
                f"windows of {window} x {window} do not tile {side} x {side} tokens",
                "choose image_size and window so that they do",
            )
        return Windows(side, window, window // 2 if shifted else 0)

    @property
    def count(self) -> int:
        return (self.side // self.window) ** 2

    def split(self, x: Tensor) -> Tensor:
        """(N, side side, C) -> (N windows, window window, C), windows of an image one after another."""
        if self.count == 1:
            return x
        grid = x.unflatten(1, (self.side, self.side))
        if self.shift:
            grid = grid.roll((-self.shift, -self.shift), (1, 2))
        across = self.side // self.window
        cut = grid.unflatten(2, (across, self.window)).unflatten(1, (across, self.window))
        return cut.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(0, 2)

    def join(self, x: Tensor) -> Tensor:
        """The inverse of `split`."""
        if self.count == 1:
            return x
        across = self.side // self.window
        cut = x.unflatten(1, (self.window, self.window)).unflatten(0, (-1, across, across))
        grid = cut.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        if self.shift:
            grid = grid.roll((self.shift, self.shift), (1, 2))
        return grid.flatten(1, 2)

    def mask(self) -> Tensor | None:
        """What to add to logits, (windows, tokens, tokens); None without shift."""
        if not self.shift:
            return None
        # Rows that the roll moves to the far side form a region of their own; so do columns.
        line = torch.zeros(self.side)
        line[self.side - self.window :] = 1
        line[self.side - self.shift :] = 2
        region = (3 * line[:, None] + line[None, :]).flatten()[None, :, None]
        region = Windows(self.side, self.window).split(region)[..., 0]
        return (region[:, None, :] != region[:, :, None]) * MASKED


class WindowAttention(nn.Module):
    """Softmax attention of windows, (N windows, tokens, C) -> same, with an optional mask of the windows."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", _relative_index(window))
        self.qkv = nn.Linear(channels, channels * 3)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q = q if self.scale == 1 else q * self.scale
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        logits = q @ k.transpose(-2, -1) + self.relative_position_bias_table[
            self.relative_position_index
        ].permute(2, 0, 1)
        if mask is not None:
            logits = (logits.unflatten(0, (-1, mask.shape[0])) + mask.unsqueeze(1)).flatten(0, 1)
        return self.proj(merge_heads(logits.softmax(-1) @ v))  # type: ignore[no-any-return]

    def absorb(self, norm: Norm) -> nn.Module:
        """The scale of the queries goes into their weights too."""
        deployed = copy.deepcopy(self)
        deployed.qkv = scale_queries(fold_into_next(norm, self.qkv), self.heads)
        deployed.scale = 1.0
        return deployed


def _relative_index(window: int) -> Tensor:
    """Row of the table for each pair of tokens: (row difference, column difference), both from 0 up."""
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    rows, columns = (places[:, None, :] - places[None, :, :] + window - 1).unbind(-1)
    return rows * (2 * window - 1) + columns
