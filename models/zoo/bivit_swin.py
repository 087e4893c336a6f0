"""BiViT on Swin: 1-bit weights and 1-bit attention inside shifted windows.

The authors released layers, not networks: this assembly is ours, with Swin's parameter names. Patches, norms,
patch merging, the position bias and the head stay real. ImageNet top-1 in the abstract: Swin-T 70.8, Swin-S
75.6; no weights are published, and neither figure was reproduced here.
He et al., BiViT: Extremely Compressed Binary Vision Transformers, ICCV 2023; Liu et al., Swin, ICCV 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgedeploy.models.imagenet import imagenet_classifier
from edgedeploy.models.layers.bivit import BinaryAttention, DeployedAttention
from edgedeploy.models.layers.window import Windows, relative_index
from edgedeploy.models.variants import register_variants
from edgedeploy.models.zoo.bivit_deit import PAPER, binary_block, initialize_binary
from edgedeploy.models.zoo.slab_swin import Swin, Windowed


class BinaryWindowAttention(BinaryAttention):
    """Binary attention inside windows, (N, side side, channels) -> same.

    The position bias and the mask of shifted windows are added to the logits before softmax_aware(): a masked
    entry is never near the largest of its row.
    """

    relative_position_index: Tensor
    attn_mask: Tensor | None

    def __init__(self, channels: int, heads: int, windows: Windows) -> None:
        super().__init__(channels, heads)
        side = windows.width
        self.windows = windows
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_index(side))
        self.register_buffer("attn_mask", windows.mask(), persistent=False)

    def position_bias(self) -> Tensor:
        """(heads, tokens, tokens)."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.attend(self.windows.split(x), self.position_bias(), self.attn_mask)
        return self.windows.join(inside)

    def fuse(self) -> nn.Module:
        bias = self.position_bias().detach().contiguous()
        return Windowed(DeployedAttention(self, bias), self.windows, self.attn_mask)


@register_variants(imagenet_classifier(PAPER), bivit_swin_tiny=(96, 3, (2, 2, 6, 2)))
def bivit_swin(
    channels: int,
    heads: int,
    depths: tuple[int, ...],
    classes: int = 1000,
    image_size: int = 224,
    window: int = 7,
    drop_path: float = 0.0,
    *,
    real_activations: bool = False,
) -> Swin:
    """`window` is the side of a window in tokens; `real_activations` as of `binary_block`."""

    def block(channels: int, heads: int, side: int, shifted: bool, rate: float) -> nn.Module:
        attention = BinaryWindowAttention(channels, heads, Windows.fitting(side, window, shifted))
        return binary_block(channels, attention, real_activations=real_activations, drop_path=rate, eps=1e-5)

    return Swin(
        channels, heads, depths, nn.LayerNorm, [block] * len(depths),
        classes=classes, image_size=image_size, drop_path=drop_path, initialize=initialize_binary,
    )  # fmt: skip
