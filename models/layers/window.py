"""Attention inside windows of a token grid, shifted between blocks, with learned relative positions.

Liu et al., Swin Transformer, ICCV 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgedeploy.core.errors import UsageError
from edgedeploy.models.layers.transformer import SoftmaxAttention, merge_heads, split_qkv

MASKED = -100.0  # added to logits between tokens that are neighbors only after the shift


@dataclass(frozen=True)
class Windows:
    """Partition of a grid of `side` x `side` tokens into windows of `height` x `width`.

    The grid is first rolled by `shift` tokens up and left. Raises UsageError where windows do not tile the
    grid.
    """

    side: int
    height: int
    width: int
    shift: int = 0

    def __post_init__(self) -> None:
        if self.side % self.height or self.side % self.width:
            raise UsageError(
                f"windows of {self.height} x {self.width} do not tile {self.side} x {self.side} tokens",
                "choose image_size, and window where there is one, so that they do",
            )

    @staticmethod
    def fitting(side: int, window: int, shifted: bool = False) -> Windows:
        """Square windows; a single one without shift where the grid is no larger than `window`."""
        if side <= window:
            return Windows(side, side, side)
        return Windows(side, window, window, window // 2 if shifted else 0)

    @property
    def single(self) -> bool:
        """Whether the grid is a single window."""
        return self.height == self.width == self.side

    def split(self, x: Tensor) -> Tensor:
        """(N, side side, C) -> (N windows, height width, C), windows of an image consecutive."""
        if self.single:
            return x
        if self.shift:
            x = torch.unflatten(x, 1, (self.side, self.side)).roll((-self.shift, -self.shift), (1, 2))
        rows, columns = self.side // self.height, self.side // self.width
        cut = x.reshape(-1, rows, self.height, columns, self.width, x.shape[-1])
        return cut.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def join(self, x: Tensor) -> Tensor:
        """The inverse of `split`."""
        if self.single:
            return x
        rows, columns = self.side // self.height, self.side // self.width
        cut = x.reshape(-1, rows, columns, self.height, self.width, x.shape[-1]).transpose(2, 3)
        if not self.shift:
            return cut.flatten(1, 4)
        return cut.flatten(3, 4).flatten(1, 2).roll((self.shift, self.shift), (1, 2)).flatten(1, 2)

    def mask(self) -> Tensor | None:
        """Added to logits, (windows, tokens, tokens): 0 or MASKED; None without shift."""
        if not self.shift:
            return None

        def line(window: int) -> Tensor:
            """Region of each row or column: moved across the border, in the same window, others."""
            region = torch.zeros(self.side)
            region[self.side - window :] = 1
            region[self.side - self.shift :] = 2
            return region

        region = 3 * line(self.height)[:, None] + line(self.width)[None, :]
        region = Windows(self.side, self.height, self.width).split(region.flatten()[None, :, None])[..., 0]
        return (region[:, None, :] != region[:, :, None]) * MASKED


class WindowAttention(SoftmaxAttention):
    """Softmax attention of windows, (N windows, tokens, C) -> same, with an optional mask of the windows."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__(channels, heads)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_index(window))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = split_qkv(self.qkv(x), self.heads, self.scale)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        logits = add_mask(q @ k.transpose(-2, -1) + bias, mask)
        return self.proj(merge_heads(logits.softmax(-1) @ v))  # type: ignore[no-any-return]


def add_mask(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits (N windows, heads, tokens, tokens) plus a mask (windows, tokens, tokens)."""
    if mask is None:
        return logits
    return (torch.unflatten(logits, 0, (-1, mask.shape[0])) + mask.unsqueeze(1)).flatten(0, 1)


def relative_index(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens, (tokens, tokens), by row and column difference."""
    positions = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    rows, columns = (positions[:, None, :] - positions[None, :, :] + window - 1).unbind(-1)
    return rows * (2 * window - 1) + columns
