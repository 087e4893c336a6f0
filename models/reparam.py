"""Deploy form of a network: the same function with training-time structure folded away.

A module that offers `fuse()` is replaced by what it returns; a BatchNorm that follows a convolution in an
`nn.Sequential` is folded into it. With statistics m, v and affine g, b of the BatchNorm:
    s = g / sqrt(v + eps),    w' = s w,    b' = s (b_conv - m) + b        (in float64, per output channel)
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
    """A module with a simpler equal for inference."""

    def fuse(self) -> nn.Module:
        """A new module that computes the same in eval mode; `self` stays as it is."""
        ...


def reparameterize(model: nn.Module) -> nn.Module:
    """A deploy-form copy of `model`, in eval mode; the original is not touched.

    A BatchNorm is folded only where that is exact: it keeps running statistics, the convolution is PyTorch's
    own, and neither carries hooks. Modules used twice stay shared. Raises TypeError where a `fuse()` returns
    its own module instead of a new one.
    """
    return _deploy(copy.deepcopy(model).eval(), {}).eval()


def fold_batchnorm(conv: nn.Module, norm: nn.Module) -> nn.Module:
    """The convolution equal to `norm(conv(x))` in eval mode; raises TypeError if the pair is not foldable."""
    if not (_is_convolution(conv) and _is_frozen_norm(norm)):
        raise TypeError(f"cannot fold {type(norm).__name__} into {type(conv).__name__}")
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None  # noqa: S101  these two tell the type checker what _is_frozen_norm saw to
    assert variance is not None  # noqa: S101
    scale = torch.rsqrt(variance.detach().double() + norm.eps)
    if norm.affine:
        scale = scale * norm.weight.detach().double()
    bias = -mean.detach().double() if conv.bias is None else conv.bias.detach().double() - mean.double()
    bias = bias * scale
    if norm.affine:
        bias = bias + norm.bias.detach().double()
    weight = conv.weight.detach()
    fused = _plain_copy(conv)
    fused.weight = nn.Parameter((weight.double() * _per_output(scale, conv)).to(weight.dtype))
    fused.bias = nn.Parameter(bias.to(weight.dtype))
    return fused.eval()


def _deploy(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """Deploy form of a module and all below it; `done` keeps modules that are used twice shared."""
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
    # Not named_children(): that leaves out a module's second name.
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = _deploy(child, done)
    return module


def _fold_neighbors(sequence: nn.Module) -> None:
    """Fold each BatchNorm into the convolution before it; an Identity keeps the places of the others."""
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
    """`scale` of one value per output channel, shaped to multiply the weight of `conv`."""
    tail = (1,) * len(conv.kernel_size)
    if not isinstance(conv, _ConvTransposeNd):
        return scale.view(-1, 1, *tail)
    # A transposed weight is (in, out / groups, ...): group g's inputs meet group g's outputs only.
    per_group = scale.view(conv.groups, 1, -1)
    return per_group.expand(-1, conv.in_channels // conv.groups, -1).reshape(conv.in_channels, -1, *tail)


def _plain_copy(conv: _ConvNd) -> _ConvNd:
    """A convolution of the same geometry without weights yet, free of parametrizations."""
    kind: Any = next(kind for kind in _CONVOLUTIONS if isinstance(conv, kind))
    options: dict[str, Any] = {
        "stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation, "groups": conv.groups,
        "padding_mode": conv.padding_mode, "bias": False, "device": "meta",
    }  # fmt: skip
    if isinstance(conv, _ConvTransposeNd):
        options["output_padding"] = conv.output_padding
    fresh: _ConvNd = kind(conv.in_channels, conv.out_channels, conv.kernel_size, **options)
    return fresh
