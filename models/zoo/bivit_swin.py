"""BiViT on Swin: 1-bit weights and 1-bit attention inside shifted windows.

The authors released layers, not networks: this assembly is ours, with Swin's parameter names. Patches, norms,
the merging of patches, the position bias and the head stay real. ImageNet top-1 in their abstracts: Swin-T
70.8, Swin-S 75.6; no weights are published, and neither figure was reproduced here.
He et al., BiViT: Extremely Compressed Binary Vision Transformers, ICCV 2023; Liu et al., Swin, ICCV 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgedeploy.models.imagenet import imagenet_classifier, require_multiple
from edgedeploy.models.layers.bivit import BinaryAttention, DeployedAttention
from edgedeploy.models.layers.transformer import drop_rates
from edgedeploy.models.layers.window import Windows, relative_index
from edgedeploy.models.zoo.bivit_deit import PAPER, BinaryBlock, Patches, initialize_binary
from edgedeploy.models.zoo.slab_swin import Stage, quarters


class BinaryWindowAttention(BinaryAttention):
    """Binary attention inside windows, (N, side side, channels) -> same.

    The position bias and the mask of shifted windows are added to the logits before softmax_aware(): what is
    masked is never near the largest of a row.
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
        return InWindows(DeployedAttention(self, bias, self.attn_mask), self.windows)


class InWindows(nn.Module):
    """A layer applied inside windows, (N, side side, channels) -> same."""

    def __init__(self, layer: nn.Module, windows: Windows) -> None:
        super().__init__()
        self.layer, self.windows = layer, windows

    def forward(self, x: Tensor) -> Tensor:
        return self.windows.join(self.layer(self.windows.split(x)))


class Merging(nn.Module):
    """Halves the grid, (N, side side, C) -> (N, side/2 side/2, 2C): norm and linear over 2x2 tokens."""

    def __init__(self, side: int, channels: int) -> None:
        super().__init__()
        self.side = side
        self.reduction = nn.Linear(channels * 4, channels * 2, bias=False)
        self.norm = nn.LayerNorm(channels * 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.norm(quarters(x, self.side)))  # type: ignore[no-any-return]


class BinarySwin(nn.Module):
    """Classifier, (N, 3, image_size, image_size) -> logits (N, classes).

    Args:
        channels, heads: of the first stage; both double at each of the next.
        depths: blocks of each stage.
        classes, image_size: of the data.
        window: side of a window in tokens.
        real_activations, drop_path: see BinaryBlock; the rate is that of the last block.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        depths: tuple[int, ...],
        *,
        classes: int,
        image_size: int,
        window: int = 7,
        real_activations: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_multiple(image_size, 32, "Swin")
        side = image_size // 4
        self.patch_embed = Patches(channels, 4, norm=True)
        rates = iter(drop_rates(drop_path, sum(depths)))
        stages = []
        for index, depth in enumerate(depths):
            blocks: list[nn.Module] = []
            for number in range(depth):
                windows = Windows.fitting(side, window, shifted=number % 2 == 1)
                attention = BinaryWindowAttention(channels, heads, windows)
                blocks.append(
                    BinaryBlock(
                        channels,
                        attention,
                        real_activations=real_activations,
                        drop_path=next(rates),
                        eps=1e-5,
                    )
                )
            last = index == len(depths) - 1
            stages.append(Stage(blocks, None if last else Merging(side, channels)))
            if not last:
                channels, heads, side = channels * 2, heads * 2, side // 2
        self.layers = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, classes)
        initialize_binary(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.layers(self.patch_embed(image)))
        return self.head(x.mean(dim=1))  # type: ignore[no-any-return]


@imagenet_classifier(PAPER)
def bivit_swin_tiny(
    classes: int = 1000,
    image_size: int = 224,
    window: int = 7,
    drop_path: float = 0.0,
    *,
    real_activations: bool = False,
) -> BinarySwin:
    return BinarySwin(
        96, 3, (2, 2, 6, 2),
        classes=classes, image_size=image_size, window=window, drop_path=drop_path,
        real_activations=real_activations,
    )  # fmt: skip
