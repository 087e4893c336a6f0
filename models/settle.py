"""BatchNorm statistics like those of a trained network, for a network with random weights.

A fresh BatchNorm is the identity: activations of a deep network of random weights overflow float16 and
amplify rounding as no trained network does. Such a network is no test of precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# Mean of the shifts. Without them a ReLU drops half of its inputs, and each layer of random weights amplifies
# rounding by a fifth: a thousandfold over a deep network.
SHIFT = 1.0
SPREAD = 0.2  # of scales and shifts
LEAST = 0.1  # variance as a share of the mean square: over few pixels it may be near 0 by chance


@torch.no_grad()
def settle(model: nn.Module, x: Tensor, seed: int = 0) -> nn.Module:
    """Set every BatchNorm of `model` from its activations for the input `x`; returns the model in eval mode.

    The statistics are those of the activations with random deviations; scales and shifts are random around 1.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(channels: int) -> Tensor:
        return SPREAD * torch.randn(channels, generator=generator)

    def measure(norm: Any, arguments: tuple[Tensor, ...]) -> None:
        hooks.pop(norm).remove()
        (y,) = arguments
        axes = [axis for axis in range(y.dim()) if axis != 1]
        mean, variance = y.mean(axes), y.var(axes, unbiased=False)
        variance = variance.clamp_min(LEAST * float(y.square().mean()) + norm.eps)
        norm.running_mean.copy_(mean + variance.sqrt() * drawn(len(mean)))
        norm.running_var.copy_(variance * drawn(len(mean)).exp())
        if norm.affine:
            norm.weight.copy_(1 + drawn(len(mean)))
            norm.bias.copy_(SHIFT + drawn(len(mean)))

    hooks = {
        module: module.register_forward_pre_hook(measure)
        for module in model.eval().modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    try:
        model(x)
    finally:
        for hook in hooks.values():
            hook.remove()
    return model
