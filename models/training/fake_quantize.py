"""Quantization-aware training: 8-bit rounding in the forward pass.

Weights are rounded per output channel, a layer's input per tensor: q(x) = s * round(x / s), s = max|x| / 127,
or as in `Activation`. The gradient ignores the rounding (straight-through estimator). Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

# Q/DQ of the exported network. "int8": symmetric, as in TensorRT's rules. "uint8": with a zero-point, as in
# OpenVINO's and ONNX Runtime's. "either", close to both: symmetric for tensors with negative values, else
# 255 levels.
Activation = Literal["int8", "uint8", "either"]


def round_weight(w: Tensor) -> Tensor:
    """A weight (out, ...) rounded to int8, one scale for each output channel."""
    scale = w.detach().flatten(1).abs().amax(1).clamp(min=1e-12) / 127
    return _straight_through(w, scale.reshape(-1, *[1] * (w.ndim - 1)))


def round_activation(x: Tensor, activation: Activation = "either") -> Tensor:
    """A tensor after Q/DQ with the range of this batch."""
    low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    if activation == "uint8":  # zero is a level; the range is not symmetric
        scale = ((high - low) / 255).clamp(min=1e-12)
        zero = (-low / scale).round()
        rounded = ((x / scale).round() + zero).clamp(0, 255) - zero
        return x + (rounded * scale - x).detach()
    levels = 127 if activation == "int8" or bool((x < 0).any()) else 255
    return _straight_through(x, torch.maximum(high, -low).clamp(min=1e-12) / levels)


def rounded(model: nn.Module) -> nn.Module:
    """A copy with weights rounded to int8, in float32: quantizing them by channel is exact."""
    result = copy.deepcopy(model)
    with torch.no_grad():
        for layer in _layers(result):
            layer.weight.copy_(round_weight(layer.weight))
    return result


@contextmanager
def fake_quantized(model: nn.Module, activation: Activation = "either") -> Iterator[None]:
    """In this block `model` rounds weights and inputs of its layers; gradients reach its own parameters.

    `rounded(model)`, exported and quantized with such activations over the same inputs
    (calibration.method=minmax), computes the same up to rounding.
    """
    layers = _layers(model)

    def rounding(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (round_activation(inputs[0], activation), *inputs[1:])

    hooks = [layer.register_forward_pre_hook(rounding) for layer in layers]
    try:
        for layer in layers:  # an attribute of the instance hides the parameter
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
