"""Binary layers of vision transformers: 1-bit weights, 1-bit activations, 1-bit attention.

Parameter names and arithmetic are those of the released modules (github.com/ThisisBillhe/BiViT at 6b34303,
which states no license; nothing is copied). There sign(0) = 0, and a layer always has a bias.
He et al., BiViT: Extremely Compressed Binary Vision Transformers, ICCV 2023.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.models.layers.transformer import merge_heads, split_heads

THRESHOLD = 0.25  # share of a row's largest attention from which on an entry becomes 1
FOLDED = 8192  # onnxscript's limit on the elements of what it computes at export
Scales = Literal["mean", "learned"]


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        passed: Tensor = gradients[0] * (x.abs() < 1)
        return passed


class _Step(_Sign):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)


def binary_sign(x: Tensor) -> Tensor:
    """sign(x), whose gradient is that of x where |x| < 1 and else 0 (straight-through estimator)."""
    return _Sign.apply(x) if torch.is_grad_enabled() else x.sign()  # type: ignore[no-untyped-call]


def binary_step(x: Tensor) -> Tensor:
    """1 where x > 0, else 0; the gradient is that of binary_sign."""
    return _Step.apply(x) if torch.is_grad_enabled() else (x > 0).to(x.dtype)  # type: ignore[no-untyped-call]


def softmax_aware(logits: Tensor) -> Tensor:
    """1 where the softmax of a row is at least THRESHOLD of its largest entry, else 0.

    The gradient is that of the softmax. What it decides needs no softmax: l >= max l + log THRESHOLD.
    """
    ones = (logits >= logits.amax(-1, keepdim=True) + math.log(THRESHOLD)).to(logits.dtype)
    if not torch.is_grad_enabled():
        return ones
    attention = logits.softmax(-1)
    return ones.detach() - attention.detach() + attention


class BinaryLinear(nn.Linear):
    """y = scale * (sign(x) . sign(w - mean(w)))  + bias, one scale an output. (..., in) -> (..., out).

    Args:
        inputs, outputs: channels.
        scales: "mean" takes mean |w| of the output's weights, without gradient; "learned" is a parameter, set
            to that at first, and where a checkpoint has zeros.
        binary_inputs: take the sign of x; else x stays as it is (1-bit weights, 32-bit activations).

    While `binary` is False it is an ordinary linear layer, as training needs it before it is binarized.
    """

    def __init__(
        self, inputs: int, outputs: int, *, scales: Scales = "mean", binary_inputs: bool = True
    ) -> None:
        super().__init__(inputs, outputs)
        self.binary_inputs, self.binary = binary_inputs, True
        self.scaling_factor: nn.Parameter | None = None
        if scales == "learned":
            nn.init.uniform_(self.weight, -0.015, 0.015)
            self.scaling_factor = nn.Parameter(self.mean_scales())

    @torch.no_grad()
    def reset_scales(self) -> None:
        """Start learned scales anew from the weights as they are."""
        if self.scaling_factor is not None:
            self.scaling_factor.copy_(self.mean_scales())

    def mean_scales(self) -> Tensor:
        """Mean |w| of every output, (out, 1)."""
        return self.weight.detach().abs().mean(1, keepdim=True)

    def scales(self) -> Tensor:
        """The scale of every output, (out, 1)."""
        return self.mean_scales() if self.scaling_factor is None else self.scaling_factor

    def signs(self) -> Tensor:
        """The weight as -1, 0 and 1, (out, in)."""
        return binary_sign(self.weight - self.weight.mean(1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        if not self.binary:
            return F.linear(x, self.weight, self.bias)
        x = binary_sign(x) if self.binary_inputs else x
        # Scaled after the sum: sums of signs are whole numbers, which no order of adding rounds, so that a
        # sum of 0 is 0 on every runtime and has sign 0 in the next layer.
        return F.linear(x, self.signs()) * self.scales().flatten() + self.bias

    def fuse(self) -> nn.Module:
        return PackedLinear.of(self) if self.binary else copy_linear(self)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        # Scales that were never used are zero in the authors' checkpoints: their code sets them when it first
        # runs the layer.
        if self.scaling_factor is not None and not bool(self.scaling_factor.any()):
            self.reset_scales()


class PackedLinear(nn.Module):
    """BinaryLinear in deploy form: a weight is one bit of an artifact, and there is one scale an output.

    A byte holds the signs of eight consecutive inputs, the first in the highest bit. They are expanded by
    looking each byte up, so that any runtime can do it once when it loads the model. Small layers are filled
    up with idle rows: the exporter computes constants of up to FOLDED elements itself, which would leave four
    bytes a weight.

    Args:
        bits: (out, in / 8) uint8.
        scale, bias: (out,).
        binary_inputs: as of BinaryLinear.
    """

    bits: Tensor
    table: Tensor

    def __init__(self, bits: Tensor, scale: Tensor, bias: Tensor, *, binary_inputs: bool) -> None:
        super().__init__()
        self.binary_inputs = binary_inputs
        self.outputs, width = bits.shape
        idle = max(0, FOLDED // width + 1 - self.outputs)
        self.register_buffer("bits", F.pad(bits, (0, 0, 0, idle)))
        places = torch.arange(7, -1, -1)
        table = 2 * (torch.arange(256)[:, None] >> places & 1) - 1
        self.register_buffer("table", table.to(torch.float32), persistent=False)
        self.scale, self.bias = nn.Parameter(scale), nn.Parameter(bias)

    @staticmethod
    @torch.no_grad()
    def of(layer: BinaryLinear) -> nn.Module:
        """The deploy form of `layer`; weights that have no sign, or no eighth, are kept as they are."""
        signs, scale = layer.signs(), layer.scales().flatten()
        if layer.bias is None:
            raise TypeError("a binary linear layer has a bias")
        # An output whose weights are all equal has no signs, and needs none.
        empty = ~signs.any(1)
        signs, scale = torch.where(empty[:, None], 1.0, signs), torch.where(empty, 0.0, scale)
        bias = layer.bias.detach().clone()
        if not bool(signs.all()) or layer.in_features % 8:
            return SignLinear(signs, scale, bias, binary_inputs=layer.binary_inputs)
        ones = torch.unflatten((signs > 0).to(torch.int64), 1, (-1, 8))
        bits = (ones << torch.arange(7, -1, -1)).sum(-1).to(torch.uint8)
        return PackedLinear(bits, scale, bias, binary_inputs=layer.binary_inputs)

    def signs(self) -> Tensor:
        """The weight as -1 and 1, (out, in)."""
        signs = F.embedding(self.bits.to(torch.int64), self.table).flatten(1)
        return signs[: self.outputs].to(self.scale.dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x.sign() if self.binary_inputs else x
        return F.linear(x, self.signs()) * self.scale + self.bias


class SignLinear(nn.Module):
    """As PackedLinear, for weights of which some are 0: they are stored as -1, 0 and 1, a byte each."""

    weight: Tensor

    def __init__(self, signs: Tensor, scale: Tensor, bias: Tensor, *, binary_inputs: bool) -> None:
        super().__init__()
        self.binary_inputs = binary_inputs
        self.register_buffer("weight", signs.to(torch.int8))
        self.scale, self.bias = nn.Parameter(scale), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x.sign() if self.binary_inputs else x
        return F.linear(x, self.weight.to(self.scale.dtype)) * self.scale + self.bias


@torch.no_grad()
def copy_linear(layer: nn.Linear) -> nn.Linear:
    """An ordinary linear layer with the weights of `layer`."""
    copy = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    copy.weight.copy_(layer.weight)
    if layer.bias is not None:
        copy.bias.copy_(layer.bias)
    return copy.to(layer.weight.dtype)


class BinaryMlp(nn.Module):
    """Binary linear, GELU, binary linear; options as of BinaryLinear."""

    def __init__(
        self, channels: int, hidden: int, *, scales: Scales = "mean", binary_inputs: bool = True
    ) -> None:
        super().__init__()
        self.fc1 = BinaryLinear(channels, hidden, scales=scales, binary_inputs=binary_inputs)
        self.act = nn.GELU()
        self.fc2 = BinaryLinear(hidden, channels, scales=scales, binary_inputs=binary_inputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))  # type: ignore[no-any-return]


class BinaryAttention(nn.Module):
    """Self-attention of tokens (N, tokens, channels) whose every matrix product has binary operands.

    Queries, keys and values are signs. Which keys count is decided by softmax_aware(), or, in the authors'
    baseline, by the sign of the logits alone.

    Args:
        channels, heads: of the attention.
        softmax: whether it is softmax-aware.

    While `binary` is False it is ordinary softmax attention.
    """

    def __init__(self, channels: int, heads: int, *, softmax: bool = True) -> None:
        super().__init__()
        scales: Scales = "learned" if softmax else "mean"
        self.heads, self.softmax, self.binary = heads, softmax, True
        self.qkv = BinaryLinear(channels, channels * 3, scales=scales)
        self.proj = BinaryLinear(channels, channels, scales=scales)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, None, None)

    def attend(self, x: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
        """With `bias` (heads, tokens, tokens) and `mask` (windows, tokens, tokens) added to the logits."""
        q, k, v = (binary_sign(p) if self.binary else p for p in split_qkv(self.qkv(x), self.heads))
        logits = attention_logits(q, k, bias, mask)
        if not self.binary:
            attention = logits.softmax(-1)
        else:
            attention = softmax_aware(logits) if self.softmax else binary_step(logits)
        return self.proj(merge_heads(attention @ v))  # type: ignore[no-any-return]

    def fuse(self) -> nn.Module:
        return DeployedAttention(self)


class DeployedAttention(nn.Module):
    """BinaryAttention in deploy form: comparisons where training has gradients to care for.

    Args:
        trained: the layer; its linear layers are kept.
        bias: (heads, tokens, tokens) on the logits, or None.
        mask: (windows, tokens, tokens) on the logits, or None.
    """

    bias: Tensor | None
    mask: Tensor | None

    def __init__(
        self, trained: BinaryAttention, bias: Tensor | None = None, mask: Tensor | None = None
    ) -> None:
        super().__init__()
        self.heads, self.softmax, self.binary = trained.heads, trained.softmax, trained.binary
        self.qkv, self.proj = trained.qkv, trained.proj
        self.register_buffer("bias", bias)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        x = self.qkv(x)
        q, k, v = split_qkv(x.sign() if self.binary else x, self.heads)
        logits = attention_logits(q, k, self.bias, self.mask)
        if not self.binary:
            attention = logits.softmax(-1)
        else:
            least = logits.amax(-1, keepdim=True) + math.log(THRESHOLD)
            attention = (logits >= least if self.softmax else logits > 0).to(v.dtype)
        return self.proj(merge_heads(attention @ v))  # type: ignore[no-any-return]


def split_qkv(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, tokens, 3 channels) -> three of (N, heads, tokens, channels / heads)."""
    q, k, v = qkv.chunk(3, dim=-1)
    return split_heads(q, heads), split_heads(k, heads), split_heads(v, heads)


def attention_logits(q: Tensor, k: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
    """q k^T / sqrt(width) + bias + mask, (N, heads, tokens, tokens); with a mask, N counts windows."""
    logits: Tensor = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    logits = logits if bias is None else logits + bias
    if mask is None:
        return logits
    return (torch.unflatten(logits, 0, (-1, mask.shape[0])) + mask.unsqueeze(1)).flatten(0, 1)
