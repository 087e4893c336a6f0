"""BiViT on DeiT: a vision transformer whose blocks have 1-bit weights and 1-bit attention.

The authors released layers, not networks: this assembly is ours, with DeiT's parameter names. Patches, norms,
the position table and the head stay real. Paper: ImageNet top-1 of Swin only (see bivit_swin).
He et al., BiViT: Extremely Compressed Binary Vision Transformers, ICCV 2023; Touvron et al., DeiT, ICML 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgedeploy.models.imagenet import imagenet_classifier, require_multiple
from edgedeploy.models.layers.bivit import BinaryAttention, BinaryLinear, BinaryMlp
from edgedeploy.models.layers.transformer import DropPath, drop_rates, initialize_transformer, to_tokens

PAPER = "He et al., BiViT: Extremely Compressed Binary Vision Transformers, ICCV 2023"
BRANCH = 1e-6  # fresh scales of the last layer of a residual branch


class Patches(nn.Module):
    """Image (N, 3, H, W) -> tokens (N, H/patch W/patch, channels) by a convolution, with or without norm."""

    def __init__(self, channels: int, patch: int, *, norm: bool = False) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, patch, patch)
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(to_tokens(self.proj(image)))  # type: ignore[no-any-return]


class BinaryBlock(nn.Module):
    """x + attn(norm1(x)), then + mlp(norm2(x)), both binary; the shape stays.

    Args:
        channels: of the tokens.
        attention: (N, tokens, channels) -> same.
        real_activations: leave the activations of the MLP as they are, and make its weights alone binary.
        drop_path: rate of stochastic depth.
        eps: of the norms.
    """

    def __init__(
        self, channels: int, attention: nn.Module, *, real_activations: bool, drop_path: float, eps: float
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels, eps), nn.LayerNorm(channels, eps)
        self.attn = attention
        self.mlp = BinaryMlp(channels, channels * 4, scales="learned", binary_inputs=not real_activations)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class BinaryDeiT(nn.Module):
    """Classifier, (N, 3, image_size, image_size) -> logits (N, classes).

    Args:
        channels, heads, depth: of the blocks.
        classes, image_size: of the data.
        patch: side of a patch in pixels.
        real_activations, drop_path: see BinaryBlock; the rate is that of the last block.
        softmax: see BinaryAttention.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        depth: int,
        *,
        classes: int,
        image_size: int,
        patch: int = 16,
        real_activations: bool = False,
        drop_path: float = 0.0,
        softmax: bool = True,
    ) -> None:
        super().__init__()
        require_multiple(image_size, patch, "DeiT")
        self.patch_embed = Patches(channels, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.pos_embed = nn.Parameter(torch.zeros(1, (image_size // patch) ** 2 + 1, channels))
        self.blocks = nn.Sequential(
            *(
                BinaryBlock(
                    channels,
                    BinaryAttention(channels, heads, softmax=softmax),
                    real_activations=real_activations,
                    drop_path=rate,
                    eps=1e-6,
                )
                for rate in drop_rates(drop_path, depth)
            )
        )
        self.norm = nn.LayerNorm(channels, 1e-6)
        self.head = nn.Linear(channels, classes)
        initialize_binary(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        return self.head(self.norm(self.blocks(x + self.pos_embed))[:, 0])  # type: ignore[no-any-return]


@torch.no_grad()
def initialize_binary(model: nn.Module) -> None:
    """As transformers are; but each branch starts near zero, so that a block starts near identity.

    A sign is discontinuous: rounding alone makes a deep binary network with large branches give another
    result on every runtime. Small branches, as in Touvron et al., CaiT, 2021, keep a fresh network from that.
    """
    initialize_transformer(model)
    for name, module in model.named_modules():
        if isinstance(module, BinaryLinear):
            module.reset_scales()
            if name.endswith((".proj", ".fc2")) and module.scaling_factor is not None:
                module.scaling_factor.fill_(BRANCH)


@imagenet_classifier(PAPER)
def bivit_deit_tiny(
    classes: int = 1000, image_size: int = 224, drop_path: float = 0.0, *, real_activations: bool = False
) -> BinaryDeiT:
    return BinaryDeiT(
        192, 3, 12,
        classes=classes, image_size=image_size, drop_path=drop_path, real_activations=real_activations,
    )  # fmt: skip


@imagenet_classifier(PAPER)
def bivit_deit_small(
    classes: int = 1000, image_size: int = 224, drop_path: float = 0.0, *, real_activations: bool = False
) -> BinaryDeiT:
    return BinaryDeiT(
        384, 6, 12,
        classes=classes, image_size=image_size, drop_path=drop_path, real_activations=real_activations,
    )  # fmt: skip


@imagenet_classifier(PAPER, classes=10, image_size=32, crop=1.0)
def bivit_deit_micro(
    classes: int = 10, image_size: int = 32, *, real_activations: bool = False, softmax: bool = True
) -> BinaryDeiT:
    """For images of 32 x 32; trains on a CPU in minutes. Without `softmax` it is the authors' baseline."""
    return BinaryDeiT(
        128, 4, 4,
        classes=classes, image_size=image_size, patch=4, real_activations=real_activations, softmax=softmax,
    )  # fmt: skip
