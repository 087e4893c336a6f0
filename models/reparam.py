"""Deploy form of a network: the same function without training-time structure.

`fuse()` of a module returns its replacement; a BatchNorm after a convolution in an `nn.Sequential` is folded
into the convolution. With statistics m, v and affine g, b of the BatchNorm:
    s = g / sqrt(v + eps),    w' = s w,    b' = s b_conv + (b - s m)      (in float64, per output channel)
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@runtime_checkable
class Fusible(Protocol):
    """A module with a simpler equivalent for inference."""

    def fuse(self) -> nn.Module:
        """A new module equal to this one in eval mode; `self` is unchanged."""
        ...


def reparameterize(model: nn.Module) -> nn.Module:
    """A deploy-form copy of `model`, in eval mode; `model` is unchanged.

    A BatchNorm is folded only where that is exact: the BatchNorm has running statistics, the convolution is
    PyTorch's own, and neither has hooks. Modules used twice stay shared. Raises TypeError where `fuse()`
    returns its own module instead of a new one.
    """
    return _deploy(copy.deepcopy(model).eval(), {}).eval()


def fold_batchnorm(conv: nn.Module, norm: nn.Module) -> nn.Module:
    """The convolution equal to `norm(conv(x))` in eval mode; raises TypeError if the pair is not foldable."""
    if not (_is_convolution(conv) and _is_frozen_norm(norm)):
        raise TypeError(f"cannot fold {type(norm).__name__} into {type(conv).__name__}")
    scale, bias = batchnorm_affine(norm)
    if conv.bias is not None:
        bias = bias + scale * conv.bias.detach().double()
    weight = conv.weight.detach()
    fused = _plain_copy(conv)
    fused.weight = nn.Parameter((weight.double() * _per_output(scale, conv)).to(weight.dtype))
    fused.bias = nn.Parameter(bias.to(weight.dtype))
    return fused.eval()


@torch.no_grad()
def batchnorm_affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift per channel of a BatchNorm in eval mode, (channels,) float64.

    Raises TypeError for a BatchNorm without running statistics.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise TypeError("cannot fold a BatchNorm without running statistics")
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    scale = scale * norm.weight.double() if norm.affine else scale
    shift = -norm.running_mean.double() * scale
    return scale, shift + norm.bias.double() if norm.affine else shift


def _deploy(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """Deploy form of a module and its children; `done` maps replaced modules: shared ones stay shared."""
    if module in done:
        return done[module]
    original = module
    if isinstance(module, Fusible):
        module = module.fuse()
        if module is original:
            raise TypeError(f"{type(module).__name__}.fuse() must return a new module, not itself")
        module.eval()
    if type(module).forward is nn.Sequential.forward:
        _fold_neighbors(module)
    done[original] = done[module] = module
    # named_children() would omit a module's second name.
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = _deploy(child, done)
    return module


def _fold_neighbors(sequence: nn.Module) -> None:
    """Fold each BatchNorm into the convolution before it; an Identity keeps the indices of the others."""
    names = list(sequence._modules)
    for first, second in pairwise(names):
        conv, norm = sequence._modules[first], sequence._modules[second]
        if _is_convolution(conv) and _is_frozen_norm(norm):
            sequence._modules[first], sequence._modules[second] = fold_batchnorm(conv, norm), nn.Identity()


def _is_convolution(module: nn.Module | None) -> TypeGuard[_ConvNd]:
    own = any(isinstance(module, kind) and type(module).forward is kind.forward for kind in _CONVOLUTIONS)
    return own and not _has_hooks(module)


def _is_frozen_norm(module: nn.Module | None) -> TypeGuard[_BatchNorm]:
    return isinstance(module, _BatchNorm) and module.running_mean is not None and not _has_hooks(module)


def _has_hooks(module: nn.Module | None) -> bool:
    return module is not None and bool(module._forward_hooks or module._forward_pre_hooks)


def _per_output(scale: Tensor, conv: _ConvNd) -> Tensor:
    """`scale` (output channels,), reshaped to multiply the weight of `conv`."""
    tail = (1,) * len(conv.kernel_size)
    if not isinstance(conv, _ConvTransposeNd):
        return scale.view(-1, 1, *tail)
    # A transposed weight is (in, out / groups, ...): inputs of group g reach outputs of group g alone.
    per_group = scale.view(conv.groups, 1, -1)
    return per_group.expand(-1, conv.in_channels // conv.groups, -1).reshape(conv.in_channels, -1, *tail)


def _plain_copy(conv: _ConvNd) -> _ConvNd:
    """A convolution of the same geometry, without weights and parametrizations."""
    kind: Any = next(kind for kind in _CONVOLUTIONS if isinstance(conv, kind))
    options: dict[str, Any] = {
        "stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation, "groups": conv.groups,
        "padding_mode": conv.padding_mode, "bias": False, "device": "meta",
    }  # fmt: skip
    if isinstance(conv, _ConvTransposeNd):
        options["output_padding"] = conv.output_padding
    fresh: _ConvNd = kind(conv.in_channels, conv.out_channels, conv.kernel_size, **options)
    return fresh
