"""Attention inside windows of a token grid, shifted between blocks, with learned relative positions.

Liu et al., Swin Transformer, ICCV 2021.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgedeploy.core.errors import UsageError
from edgedeploy.models.layers.norm import Norm, fold_into_next
from edgedeploy.models.layers.transformer import merge_heads, scale_outputs, split_heads

MASKED = -100.0  # added to logits between tokens that only the shift made neighbors


@dataclass(frozen=True)
class Windows:
    """How a square grid of `side` x `side` tokens is cut into windows of `height` x `width`.

    `shift` moves the grid by so many tokens up and left first; what leaves on one side comes in on the other.
    Raises UsageError where the windows do not tile the grid.
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
        """Square windows; one without shift where the grid is no larger than that."""
        if side <= window:
            return Windows(side, side, side)
        return Windows(side, window, window, window // 2 if shifted else 0)

    @property
    def whole(self) -> bool:
        """Whether there is one window, the grid itself."""
        return self.height == self.width == self.side

    def split(self, x: Tensor) -> Tensor:
        """(N, side side, C) -> (N windows, height width, C), windows of an image one after another."""
        if self.whole:
            return x
        if self.shift:
            x = torch.unflatten(x, 1, (self.side, self.side)).roll((-self.shift, -self.shift), (1, 2))
        rows, columns = self.side // self.height, self.side // self.width
        cut = x.reshape(-1, rows, self.height, columns, self.width, x.shape[-1])
        return cut.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def join(self, x: Tensor) -> Tensor:
        """The inverse of `split`."""
        if self.whole:
            return x
        rows, columns = self.side // self.height, self.side // self.width
        cut = x.reshape(-1, rows, columns, self.height, self.width, x.shape[-1]).transpose(2, 3)
        if not self.shift:
            return cut.flatten(1, 4)
        return cut.flatten(3, 4).flatten(1, 2).roll((self.shift, self.shift), (1, 2)).flatten(1, 2)

    def mask(self) -> Tensor | None:
        """What to add to logits, (windows, tokens, tokens); None without shift."""
        if not self.shift:
            return None

        def line(window: int) -> Tensor:
            """Tokens that the roll brought in form a region of their own, as do those that they joined."""
            region = torch.zeros(self.side)
            region[self.side - window :] = 1
            region[self.side - self.shift :] = 2
            return region

        region = 3 * line(self.height)[:, None] + line(self.width)[None, :]
        region = Windows(self.side, self.height, self.width).split(region.flatten()[None, :, None])[..., 0]
        return (region[:, None, :] != region[:, :, None]) * MASKED


class WindowAttention(nn.Module):
    """Softmax attention of windows, (N windows, tokens, C) -> same, with an optional mask of the windows."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_index(window))
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
            logits = (torch.unflatten(logits, 0, (-1, mask.shape[0])) + mask.unsqueeze(1)).flatten(0, 1)
        return self.proj(merge_heads(logits.softmax(-1) @ v))  # type: ignore[no-any-return]

    def absorb(self, norm: Norm) -> nn.Module:
        """The scale of the queries goes into their weights too."""
        deployed = copy.deepcopy(self)
        deployed.qkv = scale_outputs(fold_into_next(norm, self.qkv), self.scale, 0, self.qkv.in_features)
        deployed.scale = 1.0
        return deployed


def relative_index(window: int) -> Tensor:
    """Row of the table for each pair of tokens: (row difference, column difference), both from 0 up."""
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    rows, columns = (places[:, None, :] - places[None, :, :] + window - 1).unbind(-1)
    return rows * (2 * window - 1) + columns
