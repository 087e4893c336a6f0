"""Modulated deformable convolution (DCNv2) in plain PyTorch, exported as the ONNX operator DeformConv.

    y[p] = sum_k w[k] * mask[k, p] * x(stride p - padding + dilation k + offset[k, p])
with x read bilinearly and zero outside. Zhu et al., Deformable ConvNets v2, 2019; ONNX DeformConv, opset 19.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.models.reparam import fold_batchnorm

DEFORM_CONV_OPSET = 19


class ModulatedDeformConv2d(nn.Module):
    """Convolution with an offset and a weight for each tap and position, (N, in, H, W) -> (N, out, H/s, W/s).

    Args:
        inputs, outputs: channels.
        kernel: odd size; padding keeps the size at stride 1.
        stride: of the convolution; the field has the resolution of x, see `forward`.
        bias: absent in the released networks; the deploy form has one.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, bias: bool = False
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    @property
    def field_channels(self) -> int:
        """Channels of the field: dy and dx of every tap, then the logits of their masks."""
        return 3 * self.kernel**2

    def forward(self, x: Tensor, field: Tensor) -> Tensor:
        """`field` is (N, 3 k k, H, W): (dy, dx) of each tap, interleaved, then mask logits.

        With a stride the released operator reads the larger field with the strides of the output: the start
        of each image's memory, as if the field had the output's size. The released weights were trained so.
        """
        taps = self.kernel**2
        offset, mask = field[:, : 2 * taps], field[:, 2 * taps :].sigmoid()
        if self.stride > 1:
            height, width = ((size - 1) // self.stride + 1 for size in (x.shape[2], x.shape[3]))
            offset, mask = (
                part.flatten(1)[:, : channels * height * width].reshape(-1, channels, height, width)
                for part, channels in ((offset, 2 * taps), (mask, taps))
            )
        return deform_conv2d(x, self.weight, offset, mask, self.bias, self.stride, self.kernel // 2)

    def folded(self, norm: nn.Module) -> ModulatedDeformConv2d:
        """The convolution equal to `norm(self(x, field))` in eval mode."""
        outputs, inputs = self.weight.shape[:2]
        plain = nn.Conv2d(inputs, outputs, self.kernel, bias=False, device="meta")
        plain.weight = self.weight
        folded = fold_batchnorm(plain, norm)
        result = ModulatedDeformConv2d(inputs, outputs, self.kernel, self.stride, bias=True)
        result.weight, result.bias = folded.weight, folded.bias  # type: ignore[assignment]
        return result


class SelfDeformed(nn.Module):
    """A deformable convolution and the convolution that computes its field from the same input."""

    def __init__(self, field: nn.Module, conv: ModulatedDeformConv2d) -> None:
        super().__init__()
        self.field, self.conv = field, conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, self.field(x))  # type: ignore[no-any-return]


def deform_conv2d(
    x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor | None, stride: int, padding: int
) -> Tensor:
    """(N, in, H, W), (out, in, k, k), (N, 2 k k, h, w), (N, k k, h, w) -> (N, out, h, w).

    Offsets are in pixels of x, (dy, dx) of each tap adjacent. The ONNX exporter writes the node DeformConv;
    otherwise it is grid_sample and a matrix product.
    """
    if torch.onnx.is_in_onnx_export() and torch.compiler.is_exporting():
        return _symbolic(x, weight, offset, mask, bias, stride, padding)
    n, channels, height, width = x.shape
    outputs, _, kernel, _ = weight.shape
    rows, columns = offset.shape[-2:]
    taps = kernel * kernel

    def positions(size: int) -> Tensor:
        return torch.arange(size, device=x.device, dtype=x.dtype) * stride - padding

    tap = torch.arange(kernel, device=x.device, dtype=x.dtype)
    moved = offset.view(n, kernel, kernel, 2, rows, columns)
    y = moved[:, :, :, 0] + positions(rows).view(1, 1, 1, rows, 1) + tap.view(1, kernel, 1, 1, 1)
    z = moved[:, :, :, 1] + positions(columns).view(1, 1, 1, 1, columns) + tap.view(1, 1, kernel, 1, 1)
    # grid_sample: -1 to 1 between the outer edges of the image.
    grid = torch.stack([(2 * z + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    samples = F.grid_sample(
        x, grid.view(n, taps * rows, columns, 2), padding_mode="zeros", align_corners=False
    )
    samples = samples.view(n, channels, taps, rows * columns) * mask.view(n, 1, taps, rows * columns)
    result = weight.view(outputs, -1) @ samples.view(n, channels * taps, rows * columns)
    if bias is not None:
        result = result + bias.view(-1, 1)
    return result.view(n, outputs, rows, columns)


def _symbolic(
    x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor | None, stride: int, padding: int
) -> Tensor:
    kernel = weight.shape[-1]
    return torch.onnx.ops.symbolic(
        "DeformConv",
        (x, weight, offset, bias, mask),
        attrs={
            "kernel_shape": [kernel, kernel],
            "strides": [stride, stride],
            "pads": [padding] * 4,
            "dilations": [1, 1],
            "group": 1,
            "offset_group": 1,
        },
        dtype=x.dtype,
        shape=(x.shape[0], weight.shape[0], *offset.shape[-2:]),
        version=DEFORM_CONV_OPSET,
    )


torch.fx.wrap("deform_conv2d")
