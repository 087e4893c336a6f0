"""Batch normalization over the examples of all processes, also on CPUs (torch's SyncBatchNorm needs a GPU).

So two processes compute what one does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


class _Summed(torch.autograd.Function):
    """The sum over all processes; its gradient reaches the part of every process."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return _total(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return _total(gradients[0])


def _total(x: Tensor) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(x)
    return x


def _summed(x: Tensor) -> Tensor:
    summed: Tensor = _Summed.apply(x)  # type: ignore[no-untyped-call]
    return summed


class _Synced(nn.modules.batchnorm._BatchNorm):
    """In training, mean and variance of every channel (axis 1) over all processes, at least in float32.

    Every process has the same number of values. Gradients pass through both statistics to all processes.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            plain: Tensor = super().forward(x)
            return plain
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        mean = _summed(values.sum(axes)) / count
        centered = values - mean.reshape(shape)
        variance = _summed(centered.square().sum(axes)) / count
        self._update_statistics(mean.detach(), variance.detach() * (count / max(1, count - 1)))
        y = centered * torch.rsqrt(variance + self.eps).reshape(shape)
        if self.affine:
            y = y * self.weight.reshape(shape) + self.bias.reshape(shape)
        return y.to(x.dtype)

    def _update_statistics(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None  # noqa: S101  exists with the statistics
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class SyncedNorm1d(_Synced, nn.BatchNorm1d):
    """`BatchNorm1d` over all processes."""


class SyncedNorm2d(_Synced, nn.BatchNorm2d):
    """`BatchNorm2d` over all processes."""


def synchronize(network: nn.Module) -> None:
    """Make every batch norm of a network compute statistics over all processes; its state is unchanged."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedNorm2d
        elif type(module) is nn.BatchNorm1d:
            module.__class__ = SyncedNorm1d
