"""TVConv: a depthwise convolution with a kernel for each position, generated from learned affinity maps.

Training runs the kernel generator; the deploy form stores its kernels as constants. Both forms filter by
shifted slices: standard operators, correct at any stride. The output size is fixed.
Chen et al., TVConv: Efficient Translation Variant Convolution for Layout-aware Visual Processing, CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.models.reparam import batchnorm_affine


def filter_by_position(x: Tensor, taps: Sequence[Tensor], kernel: int, stride: int) -> Tensor:
    """Sum over the k^2 taps of weight times shifted input, (N, C, H, W) -> (N, C, h, w).

    out[n, c, i, j] = sum_p taps[p][0, c, i, j] x[n, c, stride i + p_y - pad, stride j + p_x - pad], p row by
    row, pad = (k - 1) / 2, zeros outside.
    """
    padding, last = (kernel - 1) // 2, kernel - 1
    x = F.pad(x, [padding] * 4)
    terms = []
    for index, weight in enumerate(taps):
        # Slices end relative to the far side: an input of the wrong size fails instead of being cropped.
        rows, columns = (slice(start, start - last or None, stride) for start in divmod(index, kernel))
        terms.append(x[:, :, rows, columns] * weight)
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


class TVConv(nn.Module):
    """Translation-variant depthwise convolution in training form, (N, C, s h, s w) -> (N, C, h, w).

    Parameter and buffer names are the official ones. The buffers hold the layer's sizes; loading a checkpoint
    of other sizes fails.

    Args:
        channels: C.
        height, width: of the output, fixed.
        kernel: k, odd.
        stride: s.
        maps: affinity maps, the input of the kernel generator.
        inner: channels inside the generator.
        layers: the generator's 3x3 convolutions from `inner` to `inner`.
        bias: also generate an additive bias for each position.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        maps: int = 4,
        inner: int = 16,
        layers: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.step = kernel, stride
        self.posi_map = nn.Parameter(torch.ones(1, maps, height, width))
        sizes = {
            "TVConv_k": kernel, "TVConv_k_square": kernel**2, "stride": stride,
            "channels": channels, "h": height, "w": width,
        }  # fmt: skip
        for name, value in sizes.items():
            self.register_buffer(name, torch.tensor(value))
        self._sizes = sizes

        def generator(outputs: int) -> nn.Sequential:
            steps: list[nn.Module] = []
            for index in range(layers + 1):
                conv = nn.Conv2d(inner if index else maps, inner, 3, padding=1, bias=False)
                steps.append(nn.Sequential(conv, nn.LayerNorm([inner, height, width]), nn.ReLU()))
            return nn.Sequential(*steps, nn.Conv2d(inner, outputs, 3, padding=1, bias=False))

        self.weight_layers = generator(channels * kernel**2)
        self.bias_layers = generator(channels) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        maps = self.weight_layers(self.posi_map)
        taps = maps.unflatten(1, (-1, self.kernel**2)).unbind(2)
        y = filter_by_position(x, taps, self.kernel, self.step)
        return y if self.bias_layers is None else y + self.bias_layers(self.posi_map)

    def fuse(self) -> ConstantTVConv:
        return self.deploy()

    @torch.no_grad()
    def deploy(self, norm: nn.BatchNorm2d | None = None) -> ConstantTVConv:
        """The layer with constant kernels; `norm`, which follows it, is folded in."""
        weight = self.weight_layers(self.posi_map).double().unflatten(1, (-1, self.kernel**2))
        bias = None if self.bias_layers is None else self.bias_layers(self.posi_map).double()
        if norm is not None:
            scale, shift = batchnorm_affine(norm)
            weight = weight * scale.view(1, -1, 1, 1, 1)
            shift = shift.view(1, -1, 1, 1)
            bias = shift if bias is None else bias * scale.view(1, -1, 1, 1) + shift
        dtype = self.posi_map.dtype
        taps = [tap.to(dtype, copy=True) for tap in weight.unbind(2)]
        return ConstantTVConv(taps, None if bias is None else bias.to(dtype), self.kernel, self.step)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        errors: list[str] = rest[-1]
        for name, value in self._sizes.items():
            given = state_dict.get(prefix + name)
            if given is not None and given.numel() == 1 and int(given) != value:
                errors.append(f"{prefix}{name} is {int(given)} in the checkpoint, and {value} here")
        super()._load_from_state_dict(state_dict, prefix, *rest)


class ConstantTVConv(nn.Module):
    """TVConv in deploy form: the cost of a depthwise convolution, and k^2 C h w stored weights.

    Args:
        taps: k^2 tensors (1, C, h, w): one weight of the kernel at every position.
        bias: (1, C, 1, 1) or (1, C, h, w), or None.
        kernel, stride: as in TVConv.
    """

    def __init__(self, taps: Sequence[Tensor], bias: Tensor | None, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.step = kernel, stride
        self.taps = nn.ParameterList([nn.Parameter(tap) for tap in taps])
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        y = filter_by_position(x, list(self.taps), self.kernel, self.step)
        return y if self.bias is None else y + self.bias


class TVConvBatchNorm(nn.Sequential):
    """TVConv, BatchNorm and an activation, in that order."""

    def fuse(self) -> nn.Sequential:
        conv, norm, activation = self
        return nn.Sequential(conv.deploy(norm), activation)  # type: ignore[operator]
