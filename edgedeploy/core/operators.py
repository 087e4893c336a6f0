"""Classes of ONNX operators: the one table that placement, lint, corrections and costs read."""

from __future__ import annotations

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
PRODUCTS = frozenset({"Gemm", "MatMul"})
# Operators that multiply by a weight: their second input.
WEIGHTED = CONVOLUTIONS | PRODUCTS

QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})

# Elementwise functions that kernels of weighted operators apply as they write.
ACTIVATIONS = frozenset(
    {"Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Selu",
    "Sigmoid", "Softplus", "Swish", "Tanh"}
)  # fmt: skip
# What vanishes into the weighted operator before it.
LINEAR = frozenset({"BatchNormalization", "Identity"})
FUSED = LINEAR | ACTIVATIONS

# f(a x) = a f(x) for a > 0, so a factor passes through.
HOMOGENEOUS = frozenset({"Relu", "LeakyRelu"})

# Operators whose outputs hold values of their first input, moved, picked or interpolated: scales stay valid.
MOVING = frozenset(
    {"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Pad",
    "DepthToSpace", "SpaceToDepth", "Resize", "Identity"}
)  # fmt: skip
