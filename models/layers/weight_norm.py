"""Convolution with weight norm: the weight is stored as direction v and length g of each output's filter.

w_o = g_o v_o / |v_o|          Salimans and Kingma, Weight Normalization, NeurIPS 2016, equation 2
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WeightNormConv2d(nn.Module):
    """(N, inputs, H, W) -> (N, outputs, H, W), padded with zeros; `gain` is the first value of every g.

    Parameter names are those of PyTorch's weight norm: weight_g (outputs, 1, 1, 1), weight_v, bias.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, gain: float = 1.0) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(nn.Conv2d(inputs, outputs, kernel).weight.detach())
        self.weight_g = nn.Parameter(torch.full((outputs, 1, 1, 1), gain))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        weight = _normalized(self.weight_v, self.weight_g)
        return F.conv2d(x, weight, self.bias, padding=weight.shape[2] // 2)

    def fuse(self) -> nn.Conv2d:
        """The plain convolution of the same weights, computed in float64."""
        outputs, inputs, kernel, _ = self.weight_v.shape
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, device="meta")
        weight = _normalized(self.weight_v.detach().double(), self.weight_g.detach().double())
        conv.weight = nn.Parameter(weight.to(self.weight_v.dtype))
        conv.bias = nn.Parameter(self.bias.detach().clone())
        return conv


def _normalized(v: Tensor, g: Tensor) -> Tensor:
    length: Tensor = v.flatten(1).square().sum(dim=1).sqrt()
    return v * (g / length.view(-1, 1, 1, 1))
