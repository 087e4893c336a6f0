"""BiViT on DeiT: a vision transformer whose blocks have 1-bit weights and 1-bit attention.

The authors released layers, not networks: this assembly is ours, with DeiT's parameter names. Patches, norms,
the position table and the head stay real. The paper gives ImageNet top-1 of Swin alone, see bivit_swin.py.
He et al., BiViT: Extremely Compressed Binary Vision Transformers, ICCV 2023; Touvron et al., DeiT, ICML 2021.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from edgedeploy.models.imagenet import imagenet_classifier
from edgedeploy.models.layers.bivit import BinaryAttention, BinaryLinear, BinaryMlp
from edgedeploy.models.layers.transformer import Block, initialize_transformer
from edgedeploy.models.variants import register_variants
from edgedeploy.models.zoo.slab_deit import DeiT

PAPER = "He et al., BiViT: Extremely Compressed Binary Vision Transformers, ICCV 2023"
BRANCH = 1e-6  # initial scales of the last layer of a residual branch


def binary_block(
    channels: int, attention: nn.Module, *, real_activations: bool, drop_path: float, eps: float
) -> Block:
    """Block of a binary attention and a binary MLP.

    Args:
        channels: of the tokens.
        attention: (N, tokens, channels) -> same.
        real_activations: binarize the weights of the MLP alone.
        drop_path: rate of stochastic depth.
        eps: of the norms.
    """
    mlp = BinaryMlp(channels, channels * 4, scales="learned", binary_inputs=not real_activations)
    return Block((nn.LayerNorm(channels, eps), nn.LayerNorm(channels, eps)), attention, mlp, drop_path)


@torch.no_grad()
def initialize_binary(model: nn.Module) -> None:
    """`initialize_transformer`, but each residual branch starts near zero: a block starts near identity.

    A sign is discontinuous: in a deep binary network with large branches, rounding alone gives another result
    on every runtime. Small branches, as in Touvron et al., CaiT, 2021, prevent that in a fresh network.
    """
    initialize_transformer(model)
    for name, module in model.named_modules():
        if isinstance(module, BinaryLinear):
            module.reset_scales()
            if name.endswith((".proj", ".fc2")) and module.scaling_factor is not None:
                module.scaling_factor.fill_(BRANCH)


def binary_deit(
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
) -> DeiT:
    """DeiT of binary blocks; options as of DeiT, `binary_block` and BinaryAttention."""

    def block(_side: int, rate: float) -> Block:
        attention = BinaryAttention(channels, heads, softmax=softmax)
        return binary_block(channels, attention, real_activations=real_activations, drop_path=rate, eps=1e-6)

    return DeiT(
        channels, depth, partial(nn.LayerNorm, eps=1e-6), block,
        class_token=True, classes=classes, image_size=image_size, patch=patch, drop_path=drop_path,
        initialize=initialize_binary,
    )  # fmt: skip


@register_variants(imagenet_classifier(PAPER), bivit_deit_tiny=(192, 3), bivit_deit_small=(384, 6))
def bivit_deit(
    channels: int,
    heads: int,
    classes: int = 1000,
    image_size: int = 224,
    drop_path: float = 0.0,
    *,
    real_activations: bool = False,
) -> DeiT:
    return binary_deit(
        channels, heads, 12,
        classes=classes, image_size=image_size, drop_path=drop_path, real_activations=real_activations,
    )  # fmt: skip


@imagenet_classifier(PAPER, classes=10, image_size=32, crop=1.0)
def bivit_deit_micro(
    classes: int = 10, image_size: int = 32, *, real_activations: bool = False, softmax: bool = True
) -> DeiT:
    """For images of 32 x 32; trains on a CPU in minutes. Without `softmax` it is the authors' baseline."""
    return binary_deit(
        128, 4, 4,
        classes=classes, image_size=image_size, patch=4, real_activations=real_activations, softmax=softmax,
    )  # fmt: skip
