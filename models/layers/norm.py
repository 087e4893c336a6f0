"""Norms of tokens that are affine at inference: they fold into a neighboring linear layer.

RepBN(x) = BN(x) + alpha x;  PRepBN(x) = lambda LN(x) + (1 - lambda) RepBN(x); lambda falls from r0 to 0
during training. In eval mode both are RepBN(x) = a x + b per channel, with
    a = gamma / sqrt(var + eps) + alpha,    b = beta - gamma mean / sqrt(var + eps).
Guo et al., SLAB: Efficient Transformers with Simplified Linear Attention and PRepBN, ICML 2024.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from edgedeploy.models.reparam import batchnorm_affine

Layer = TypeVar("Layer", bound=nn.Linear | nn.Conv2d)


class RepBN(nn.Module):
    """Batch norm with a scaled shortcut, (N, tokens, channels) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.bn = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.bn(x.transpose(1, 2)).transpose(1, 2)
        return normed + self.alpha * x

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale a and offset b in eval mode, (channels,) float64."""
        scale, offset = batchnorm_affine(self.bn)
        return scale + self.alpha.detach().double(), offset


class PRepBN(nn.Module):
    """Layer norm that becomes RepBN during training; in eval mode always RepBN.

    Args:
        channels: of the tokens.
        steps: forward passes in training until RepBN alone is left.
        warm: forward passes before those, on layer norm alone; they do not update batch statistics.
        eps: of the layer norm.
        r0: share of layer norm at the first step after `warm`.

    The three counters are buffers, so that checkpoints resume the schedule.
    """

    warm: Tensor
    iter: Tensor
    total_step: Tensor

    def __init__(
        self, channels: int, *, steps: int = 300_000, warm: int = 0, eps: float = 1e-6, r0: float = 1.0
    ) -> None:
        super().__init__()
        self.register_buffer("warm", torch.tensor(warm))
        self.register_buffer("iter", torch.tensor(steps))
        self.register_buffer("total_step", torch.tensor(steps))
        self.r0 = r0
        self.norm1 = nn.LayerNorm(channels, eps=eps)
        self.norm2 = RepBN(channels)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.norm2(x)  # type: ignore[no-any-return]
        if self.warm > 0:
            self.warm -= 1
            return self.norm1(x)  # type: ignore[no-any-return]
        share = self.r0 * self.iter / self.total_step
        if self.iter > 0:
            self.iter -= 1
        return share * self.norm1(x) + (1 - share) * self.norm2(x)  # type: ignore[no-any-return]

    def affine(self) -> tuple[Tensor, Tensor]:
        """See RepBN."""
        return self.norm2.affine()


Norm = RepBN | PRepBN


def schedule_norms(model: nn.Module, steps: int, warm: int = 0, *, done: bool = False) -> int:
    """Restart the schedule of every PRepBN of `model`; returns their number.

    `steps` and `warm` as in PRepBN; with `done` RepBN alone runs from the first step. Raises ValueError for
    steps < 1 or warm < 0.
    """
    if steps < 1 or warm < 0:
        raise ValueError(f"{steps} steps after {warm} of warm-up are no schedule")
    norms = [module for module in model.modules() if isinstance(module, PRepBN)]
    for norm in norms:
        norm.warm.fill_(warm)
        norm.iter.fill_(0 if done else steps)
        norm.total_step.fill_(steps)
    return len(norms)


def fold_into_next(norm: Norm, layer: Layer) -> Layer:
    """The layer, with bias, equal to `layer(norm(x))` in eval mode.

    w' = w a (per input), b' = b_layer + sum over inputs of w b. Raises TypeError for a padded or grouped
    convolution: zeros of the padding follow the norm and are not zeros before it.
    """
    scale, offset = norm.affine()
    weight = layer.weight.detach().double()
    if isinstance(layer, nn.Conv2d):
        if layer.padding != (0, 0) or layer.groups != 1:
            raise TypeError("cannot fold a norm into a padded or grouped convolution")
        folded, moved = weight * scale[:, None, None], (weight * offset[:, None, None]).sum((1, 2, 3))
    else:
        folded, moved = weight * scale, weight @ offset
    return with_values(layer, folded, moved if layer.bias is None else moved + layer.bias.detach().double())


def fold_into_previous(layer: Layer, norm: Norm) -> Layer:
    """The layer equal to `norm(layer(x))` in eval mode, over output channels: w' = a w, b' = a b_layer + b.

    The released code omits the term alpha b_layer of a b_layer when it merges a patch embedding.
    """
    scale, offset = norm.affine()
    weight = layer.weight.detach().double()
    bias = offset if layer.bias is None else scale * layer.bias.detach().double() + offset
    return with_values(layer, weight * scale.view(-1, *(1,) * (weight.dim() - 1)), bias)


def with_values(layer: Layer, weight: Tensor, bias: Tensor) -> Layer:
    """A copy of `layer` with other parameters, rounded to its dtype."""
    fresh = copy.deepcopy(layer)
    fresh.weight = nn.Parameter(weight.to(layer.weight.dtype))
    fresh.bias = nn.Parameter(bias.to(layer.weight.dtype))
    return fresh
