"""Train in the presence of 8-bit rounding, so that the weights survive it.

Weights are rounded per output channel, a convolution's input per tensor: q(x) = s * round(x / s), s = max|x|
/ 127, or / 255 where nothing is negative. The gradient passes as if nothing were rounded (straight-through
estimator). Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", 2018.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call


def round_weight(w: Tensor) -> Tensor:
    """A weight (out, ...) as int8 would hold it, one scale for each output channel."""
    scale = w.detach().flatten(1).abs().amax(1).clamp(min=1e-12) / 127
    return _straight_through(w, scale.reshape(-1, *[1] * (w.ndim - 1)))


def round_activation(x: Tensor) -> Tensor:
    """A tensor as int8 would hold it, or uint8 where nothing is negative, by the range of this batch."""
    levels = 127 if bool((x < 0).any()) else 255
    return _straight_through(x, x.detach().abs().amax().clamp(min=1e-12) / levels)


def rounded(model: nn.Module) -> nn.Module:
    """A copy whose weights are what int8 holds, in float32: quantising them by channel loses nothing."""
    result = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in result.parameters():
            if parameter.ndim > 1:
                parameter.copy_(round_weight(parameter))
    return result


@contextmanager
def fake_quantised(model: nn.Module) -> Iterator[nn.Module]:
    """A view of `model` that rounds as it runs and trains the same parameters; the model itself stays as it
    is.
    """
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: (round_activation(inputs[0]),))
        for layer in convolutions
    ]
    try:
        yield _Rounded(model)
    finally:
        for hook in hooks:
            hook.remove()


class _Rounded(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        rounded = {
            name: round_weight(parameter) if parameter.ndim > 1 else parameter
            for name, parameter in self.model.named_parameters()
        }
        return functional_call(self.model, rounded, (x,))  # type: ignore[no-any-return]


def _straight_through(x: Tensor, scale: Tensor) -> Tensor:
    return x + ((x / scale).round() * scale - x).detach()
