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
from typing import Any

import torch
from torch import Tensor, nn


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
        for layer in _layers(result):
            layer.weight.copy_(round_weight(layer.weight))
    return result


@contextmanager
def fake_quantised(model: nn.Module) -> Iterator[None]:
    """In this block `model` rounds as it runs, and gradients reach its own parameters."""
    layers = _layers(model)
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: (round_activation(inputs[0]),)) for layer in layers
    ]
    try:
        for layer in layers:  # an attribute of the instance hides the parameter, which stays where it is
            layer.__dict__["weight"] = round_weight(layer.weight)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            layer.__dict__.pop("weight", None)


def _layers(model: nn.Module) -> list[Any]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def _straight_through(x: Tensor, scale: Tensor) -> Tensor:
    return x + ((x / scale).round() * scale - x).detach()
