"""Binary layers of vision transformers: 1-bit weights, 1-bit activations, 1-bit attention.

Parameter names and arithmetic are those of the released modules (github.com/ThisisBillhe/BiViT at 6b34303,
which states no license; nothing is copied): sign(0) = 0, and every layer has a bias.
He et al., BiViT: Extremely Compressed Binary Vision Transformers, ICCV 2023.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.models.layers.transformer import merge_heads, split_qkv
from edgedeploy.models.layers.window import add_mask

THRESHOLD = 0.25  # an entry of at least this share of its row's largest attention becomes 1
FOLDED = 8192  # onnxscript evaluates constants of at most this many elements at export
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
    """sign(x); straight-through gradient: 1 where |x| < 1, else 0."""
    return _Sign.apply(x) if torch.is_grad_enabled() else x.sign()  # type: ignore[no-untyped-call]


def binary_step(x: Tensor) -> Tensor:
    """1 where x > 0, else 0; gradient as of binary_sign."""
    return _Step.apply(x) if torch.is_grad_enabled() else (x > 0).to(x.dtype)  # type: ignore[no-untyped-call]


def softmax_aware(logits: Tensor) -> Tensor:
    """1 where the softmax of a row is at least THRESHOLD of its largest entry, else 0.

    The gradient is that of the softmax. The condition needs no softmax: l >= max l + log THRESHOLD.
    """
    ones = (logits >= logits.amax(-1, keepdim=True) + math.log(THRESHOLD)).to(logits.dtype)
    if not torch.is_grad_enabled():
        return ones
    attention = logits.softmax(-1)
    return ones.detach() - attention.detach() + attention


class BinaryLinear(nn.Linear):
    """y = scale * (sign(x) . sign(w - mean(w))) + bias, one scale an output; (..., in) -> (..., out).

    Args:
        inputs, outputs: channels.
        scales: "mean" is mean |w| of the output's weights, without gradient; "learned" is a parameter that
            starts there, also where a checkpoint holds zeros.
        binary_inputs: binarize x too; otherwise 1-bit weights and 32-bit activations.

    While `binary` is False it is an ordinary linear layer, for training before binarization.
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
        """Set learned scales to mean |w|."""
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
        # Scaled after the sum: sums of signs are integers, exact in any order. So a sum of 0 is 0 on every
        # runtime, and its sign in the next layer is 0.
        return F.linear(x, self.signs()) * self.scales().flatten() + self.bias

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        weight, bias = self.weight.detach().clone(), self.bias.detach().clone()
        if not self.binary:
            real = nn.Linear(self.in_features, self.out_features, device="meta")
            real.weight, real.bias = nn.Parameter(weight), nn.Parameter(bias)
            return real
        signs, scale = self.signs(), self.scales().flatten()
        # Weights of an output that are all equal have sign 0: any sign will do with scale 0.
        empty = ~signs.any(1)
        signs, scale = torch.where(empty[:, None], 1.0, signs), torch.where(empty, 0.0, scale)
        packable = bool(signs.all()) and self.in_features % 8 == 0
        return (PackedLinear if packable else SignLinear)(
            signs, scale, bias, binary_inputs=self.binary_inputs
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        # Unused scales are zero in the authors' checkpoints: their code sets scales at the first forward
        # pass.
        if self.scaling_factor is not None and not bool(self.scaling_factor.any()):
            self.reset_scales()


class SignLinear(nn.Module):
    """BinaryLinear in deploy form, for weights of which some are 0: -1, 0 and 1, a byte each.

    Args:
        signs: (out, in).
        scale, bias: (out,).
        binary_inputs: see BinaryLinear.
    """

    weight: Tensor

    def __init__(self, signs: Tensor, scale: Tensor, bias: Tensor, *, binary_inputs: bool) -> None:
        super().__init__()
        self.binary_inputs = binary_inputs
        self.scale, self.bias = nn.Parameter(scale), nn.Parameter(bias)
        self.store(signs)

    def store(self, signs: Tensor) -> None:
        """Keep the signs in buffers."""
        self.register_buffer("weight", signs.to(torch.int8))

    def signs(self) -> Tensor:
        """The weight as -1, 0 and 1, (out, in)."""
        return self.weight.to(self.scale.dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x.sign() if self.binary_inputs else x
        return F.linear(x, self.signs()) * self.scale + self.bias


class PackedLinear(SignLinear):
    """BinaryLinear in deploy form: one bit a weight. No sign is 0, and the inputs are a multiple of 8.

    A byte holds the signs of eight consecutive inputs, the first in the highest bit. A table lookup expands
    each byte, so that any runtime can do it once when it loads the model. Small layers are padded with idle
    rows: the exporter evaluates constants of up to FOLDED elements, which would leave four bytes a weight.
    """

    bits: Tensor
    table: Tensor

    def store(self, signs: Tensor) -> None:
        self.outputs = len(signs)
        shifts = torch.arange(7, -1, -1)
        ones = torch.unflatten((signs > 0).to(torch.int64), 1, (-1, 8))
        bits = (ones << shifts).sum(-1).to(torch.uint8)
        idle = max(0, FOLDED // bits.shape[1] + 1 - self.outputs)
        self.register_buffer("bits", F.pad(bits, (0, 0, 0, idle)))
        table = 2 * (torch.arange(256)[:, None] >> shifts & 1) - 1
        self.register_buffer("table", table.to(torch.float32), persistent=False)

    def signs(self) -> Tensor:
        signs = F.embedding(self.bits.to(torch.int64), self.table).flatten(1)
        return signs[: self.outputs].to(self.scale.dtype)


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

    Queries, keys and values are signs. Attention is softmax_aware(logits) or, without `softmax`, the authors'
    baseline binary_step(logits).

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
    """BinaryAttention in deploy form: comparisons without gradients.

    `bias` (heads, tokens, tokens) and `mask` (windows, tokens, tokens) are added to the logits.
    """

    bias: Tensor | None

    def __init__(self, trained: BinaryAttention, bias: Tensor | None = None) -> None:
        super().__init__()
        self.heads, self.softmax, self.binary = trained.heads, trained.softmax, trained.binary
        self.qkv, self.proj = trained.qkv, trained.proj
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.qkv(x)
        q, k, v = split_qkv(x.sign() if self.binary else x, self.heads)
        logits = attention_logits(q, k, self.bias, mask)
        if not self.binary:
            attention = logits.softmax(-1)
        else:
            least = logits.amax(-1, keepdim=True) + math.log(THRESHOLD)
            attention = (logits >= least if self.softmax else logits > 0).to(v.dtype)
        return self.proj(merge_heads(attention @ v))  # type: ignore[no-any-return]


def attention_logits(q: Tensor, k: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
    """q k^T / sqrt(width) + bias + mask, (N, heads, tokens, tokens); with a mask, N counts windows."""
    logits: Tensor = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return add_mask(logits if bias is None else logits + bias, mask)
