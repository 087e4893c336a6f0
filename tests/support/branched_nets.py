"""Blocks of re-parameterized networks in the form they are trained in, with statistics as after training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

CHANNELS = 8


class Sum(nn.Module):
    """The sum of branches that read one tensor, with an activation behind it."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        total = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return torch.relu(total)


class Concat(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.cat([branch(x) for branch in self.branches], 1))


class RepBN(nn.Module):
    """BN(x) + alpha*x on tokens (batch, length, channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.7))
        self.bn = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        return (self.bn(x) + self.alpha * x).transpose(1, 2)


class RunningPower(nn.Module):
    """x / sqrt(running_phi) * w + b: PowerNorm, and Unified Normalization, as they infer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)
        self.bias = nn.Parameter(torch.randn(channels))
        self.register_buffer("phi", torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x / (self.get_buffer("phi") + 1e-5).sqrt()) + self.bias


class TokenMixer(nn.Module):
    """x + s*(mix(x) - norm(x)), as FastViT's RepMixer trains; its norms may be one."""

    def __init__(self, channels: int, *, shared: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        own = self.norm if shared else nn.BatchNorm2d(channels)
        self.mix = nn.ModuleList([conv_bn(3, groups=channels), conv_bn(1, groups=channels), own])
        self.scale = nn.Parameter(torch.randn(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix[0](x) + self.mix[1](x) + self.mix[2](x)
        return x + self.scale * (mixed - self.norm(x))


class StandardisedConv(nn.Conv2d):
    """Weight Standardization: (w - mean) / std per filter, computed in the graph."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        w = w / (w.var((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        return nn.functional.conv2d(x, w, self.bias, self.stride, self.padding)


def conv_bn(
    size: int | tuple[int, int], stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    sizes = size if isinstance(size, tuple) else (size, size)
    padding = (sizes[0] // 2 * dilation, sizes[1] // 2 * dilation)
    conv = nn.Conv2d(CHANNELS, CHANNELS, sizes, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(CHANNELS))


def repvgg() -> nn.Module:
    stem = Sum(conv_bn(3, stride=2), conv_bn(1, stride=2))
    return nn.Sequential(stem, Sum(conv_bn(3), conv_bn(1), nn.BatchNorm2d(CHANNELS)))


def mobileone() -> nn.Module:
    n = CHANNELS
    deep = Sum(nn.BatchNorm2d(n), conv_bn(3, groups=n), conv_bn(3, groups=n), conv_bn(1, groups=n))
    return nn.Sequential(deep, Sum(nn.BatchNorm2d(n), conv_bn(1), conv_bn(1)))


def acnet() -> nn.Module:
    return Sum(conv_bn((1, 3)), conv_bn((3, 1)), conv_bn(3))


def unireplk() -> nn.Module:
    small = [conv_bn(k, dilation=d, groups=CHANNELS) for k, d in ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5))]
    return Sum(conv_bn(13, groups=CHANNELS), *small)


def diverse() -> nn.Module:
    """The padding stands in the first operator of each row, as the bias there must be padded with."""
    n, middle = CHANNELS, 4
    first = nn.Sequential(nn.Conv2d(n, middle, 1, padding=1, bias=False), nn.BatchNorm2d(middle))
    second = nn.Sequential(nn.Conv2d(middle, n, 3, bias=False), nn.BatchNorm2d(n))
    inner = nn.Sequential(nn.Conv2d(n, n, 1, padding=1, bias=False), nn.BatchNorm2d(n))
    pooled = nn.Sequential(inner, nn.AvgPool2d(3, 1), nn.BatchNorm2d(n))
    return Sum(conv_bn(3), conv_bn(1), nn.Sequential(first, second), pooled)


def collapsible() -> nn.Module:
    n = CHANNELS
    row = nn.Sequential(nn.Conv2d(n, 64, 3, padding=1, bias=False), nn.Conv2d(64, n, 1))
    return Sum(row, nn.Identity())


def repmixer() -> nn.Module:
    return TokenMixer(CHANNELS, shared=False)


def repmixer_of_one_norm() -> nn.Module:
    return TokenMixer(CHANNELS, shared=True)


def siblings() -> nn.Module:
    return Concat(conv_bn(3), conv_bn(3), conv_bn(3))


def standardized() -> nn.Module:
    return StandardisedConv(CHANNELS, CHANNELS, 3, padding=1)


def weight_normed() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1))


def batch_channel() -> nn.Module:
    """Batch-Channel Normalization: of its two, only the batch's statistics are constants."""
    return nn.Sequential(conv_bn(3), nn.GroupNorm(4, CHANNELS))


# name -> (builder, operators that are left)
IMAGE_BLOCKS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "repvgg": (repvgg, {"Conv": 2, "Relu": 2}),
    "mobileone": (mobileone, {"Conv": 2, "Relu": 2}),
    "acnet": (acnet, {"Conv": 1, "Relu": 1}),
    "unireplk": (unireplk, {"Conv": 1, "Relu": 1}),
    "diverse": (diverse, {"Conv": 1, "Relu": 1}),
    "collapsible": (collapsible, {"Conv": 1, "Relu": 1}),
    "repmixer": (repmixer, {"Conv": 1}),
    "repmixer_of_one_norm": (repmixer_of_one_norm, {"Conv": 1}),
    "siblings": (siblings, {"Conv": 1, "Relu": 1}),
    "standardized": (standardized, {"Conv": 1}),
    "weight_normed": (weight_normed, {"Conv": 1}),
    "batch_channel": (batch_channel, {"Conv": 1, "Reshape": 2, "InstanceNormalization": 1}),
}


def trained(network: nn.Module, seed: int) -> nn.Module:
    """The network in eval mode, its normalizations with statistics and factors of their own."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                assert tensor is not None
                tensor.normal_(0, 1, generator=generator)
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()
