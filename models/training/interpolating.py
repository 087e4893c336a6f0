"""Initial weights with which a super-resolution network is exactly bicubic interpolation.

With kernel k (a = -0.5), phase a of scale s has the weights k((a + 1/2) / s - 1/2 - o) at o = -2..2. Random
weights need thousands of steps to learn that. Pixels pass a ReLU unchanged, because they are not negative.
All other channels keep their random weights; the last layer ignores them at first.
"""

from __future__ import annotations

from functools import singledispatch
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgedeploy.models.layers.weight_norm import WeightNormConv2d
from edgedeploy.models.zoo.stdo_espcn import RGBESPCN
from edgedeploy.models.zoo.stdo_srcnn import SRCNN
from edgedeploy.models.zoo.stdo_vdsr import VDSR
from edgedeploy.models.zoo.stdo_wdsr import WDSR
from edgedeploy.vision.resize import cubic

CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


@singledispatch
def start_from_interpolation(network: nn.Module) -> bool:  # noqa: ARG001
    """Set the weights in place; False for a network of unknown type, which stays as it is."""
    return False


@start_from_interpolation.register
@torch.no_grad()
def _(network: RGBESPCN) -> bool:
    """conv1 and conv2 pass RGB, conv3 shifts it to four corners, conv4 has a 3x3 window on each corner.

    The windows around the corners cover the 5x5 pixels of the interpolation.
    """
    for conv in (network.conv1, network.conv2):
        _pass_through(conv)
    network.conv3.weight[: 3 * len(CORNERS)] = 0
    for corner, (dy, dx) in enumerate(CORNERS):
        for color in range(3):
            network.conv3.weight[3 * corner + color, color, 1 + dy, 1 + dx] = 1
    kernels = interpolation_kernels(network.pixel_shuffle.upscale_factor)
    last = network.conv4.weight
    last.zero_()
    for y in range(-2, 3):
        for x in range(-2, 3):
            dy, dx = (1 if offset > 0 else -1 for offset in (y, x))
            for color in range(3):
                channel = 3 * CORNERS.index((dy, dx)) + color
                phases = slice(color * len(kernels), (color + 1) * len(kernels))
                last[phases, channel, 1 + y - dy, 1 + x - dx] = kernels[:, 2 + y, 2 + x]
    _zero_biases(network.conv1, network.conv2, network.conv3, network.conv4)
    return True


@start_from_interpolation.register
@torch.no_grad()
def _(network: SRCNN) -> bool:
    """The network interpolates its input: the layers pass that through."""
    network.conv3.weight.zero_()
    for conv in (network.conv1, network.conv2, network.conv3):
        _pass_through(conv)
    _zero_biases(network.conv1, network.conv2, network.conv3)
    return True


@start_from_interpolation.register
@torch.no_grad()
def _(network: VDSR) -> bool:
    """The network adds a residual to an interpolation: the residual starts at zero."""
    last = [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]
    last.weight.zero_()
    _zero_biases(last)
    return True


@start_from_interpolation.register
@torch.no_grad()
def _(network: WDSR) -> bool:
    """The 5x5 skip interpolates; the body starts with length zero."""
    kernels = interpolation_kernels(network.shuf.upscale_factor)
    skip, tail = cast(WeightNormConv2d, network.skip[0]), cast(WeightNormConv2d, network.body[-1])
    skip.weight_v.zero_()
    for color in range(3):
        phases = slice(color * len(kernels), (color + 1) * len(kernels))
        skip.weight_v[phases, color] = kernels
    skip.weight_g.copy_(skip.weight_v.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
    tail.weight_g.zero_()
    _zero_biases(skip, tail)
    return True


def interpolation_kernels(scale: int) -> Tensor:
    """Bicubic interpolation as convolution and pixel shuffle: (scale^2, 5, 5) float32."""
    phases = [_taps((phase + 0.5) / scale - 0.5) for phase in range(scale)]
    products = [np.outer(rows, columns) for rows in phases for columns in phases]
    return torch.from_numpy(np.stack(products).astype(np.float32))


def _taps(position: float) -> NDArray[np.float64]:
    weights = cubic(position - np.arange(-2.0, 3.0))
    return np.asarray(weights / weights.sum(), np.float64)


def _pass_through(conv: nn.Conv2d) -> None:
    """Make the first three output channels equal to the first three input channels."""
    middle = conv.kernel_size[0] // 2
    conv.weight[:3] = 0
    for color in range(3):
        conv.weight[color, color, middle, middle] = 1


def _zero_biases(*layers: nn.Conv2d | WeightNormConv2d) -> None:
    for layer in layers:
        if layer.bias is not None:
            layer.bias.zero_()
