"""Parameters and multiply-accumulates of a network, as papers count them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Counts:
    """What a network weighs and works.

    Attributes:
        params: trainable and frozen parameters, shared ones once; buffers are not counted.
        macs: multiply-accumulates of convolutions, linear layers and matrix products for one input;
            elementwise work, pooling and interpolation are not counted.
    """

    params: int
    macs: int


def count(model: nn.Module, input_shape: tuple[int, ...]) -> Counts:
    """Count a network in eval mode for a float32 input of this shape; quick, as only shapes are computed."""
    shadow = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.empty(input_shape, device="meta"))
    return Counts(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)


def count_built(build: Callable[[], nn.Module], input_shape: tuple[int, ...]) -> Counts:
    """The same of the network that `build` makes, whose weights are never drawn."""
    with torch.device("meta"):
        return count(build(), input_shape)
