"""W ~ diag(1/s) DQ(Q4(diag(s) W)), s_j = mean|x_j|^alpha: 4-bit weights for the matrix products of a network.

Codes are -7 to 7, with one scale per block of 32 to 128 weights of an output. Activations stay float, so a
memory-bound product reads a seventh of the bytes. Channels of large activations are scaled up before
rounding. Alpha is the exponent of least error at the layer's output; 1/s goes into the layer before. Lin et
al., "AWQ: Activation-aware Weight Quantization", MLSys 2024, eq. 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgedeploy.calibration.collect.collect import FeedsFactory
from edgedeploy.calibration.collect.values import values
from edgedeploy.calibration.correction import Setting
from edgedeploy.calibration.corrections.smooth import readable, slots, smooth
from edgedeploy.calibration.corrections.smooth import weights as readers_weights
from edgedeploy.calibration.place.ruleset import load_rules
from edgedeploy.core.errors import CalibrationError
from edgedeploy.core.operators import PRODUCTS
from edgedeploy.core.progress import Progress
from edgedeploy.graphs.edit import GraphEditor, copy_model
from edgedeploy.graphs.opset import NotConvertible, converted, opset_of
from edgedeploy.graphs.view import GraphView, attribute

LEVELS = 7
ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
OPSET = 21  # int4 and block_size
_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8)  # of a block's peak; clipping makes the scale finer


@dataclass(frozen=True)
class WeightOnlyResult:
    """The model, `layers` in 4 bits, layers `left` in float -> reason, number of `scaled` tensors."""

    model: onnx.ModelProto
    layers: tuple[str, ...]
    left: dict[str, str]
    scaled: int


def weight_only(
    model: onnx.ModelProto,
    feeds: FeedsFactory,
    *,
    block: int = 32,
    alphas: Sequence[float] = ALPHAS,
    smallest: int = 4096,
    progress: Progress | None = None,
) -> WeightOnlyResult:
    """A copy of a model whose constant matrices of Gemm and MatMul have 4 bits.

    Args:
        block: weights of an output that share a scale: 32, 64 or 128.
        alphas: candidate exponents; (0,) rounds without scaling.
        smallest: matrices with fewer weights stay float.

    Raises CalibrationError where nothing qualifies, or the opset cannot be raised to 21.
    """
    if block not in (32, 64, 128):
        raise CalibrationError(f"block {block} is not 32, 64 or 128", "leave it out")
    view = GraphView(_raised(model, feeds))
    chosen, left = _eligible(view, block, smallest)
    if not chosen:
        raise CalibrationError(
            "no matrix product qualifies for 4-bit weights", "deploy the model in int8, fp16 or fp32"
        )
    setting = Setting(load_rules("tensorrt"), feeds, progress=progress)
    scales = _searched(view, [view.nodes[index].input[0] for index in chosen], block, alphas, setting)
    if scales:
        view = GraphView(smooth(view.model, scales))
        chosen, _ = _eligible(view, block, smallest)
    editor = GraphEditor(view)
    for index in chosen:
        _write(editor, index, block)
    names = sorted(view.label(index) for index in chosen)
    editor.commit()
    onnx.checker.check_model(view.model)
    return WeightOnlyResult(view.model, tuple(names), left, len(scales))


def rounded(w: NDArray[np.float64], block: int) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Codes (C, outputs) and scales (C / block, outputs) of a weight (C, outputs), with the best clipping."""
    blocks = w.reshape(w.shape[0] // block, block, w.shape[1])
    peak = np.abs(blocks).max(axis=1, keepdims=True)
    least, scale = np.full(peak.shape, np.inf), np.ones(peak.shape)
    for share in _CLIPS:
        s = np.where(peak > 0, np.maximum(peak * (share / LEVELS), 2.0**-100), 1.0)
        s = s.astype(np.float32).astype(np.float64)
        error = ((_codes(blocks, s) * s - blocks) ** 2).sum(axis=1, keepdims=True)
        scale, least = np.where(error < least, s, scale), np.minimum(error, least)
    return _codes(blocks, scale).astype(np.int8).reshape(w.shape), scale[:, 0]


def _codes(blocks: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(np.rint(blocks / scale), -LEVELS, LEVELS)


def _restored(w: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    codes, scale = rounded(w, block)
    restored: NDArray[np.float64] = codes.astype(np.float64) * np.repeat(scale, block, axis=0)
    return restored


def _eligible(view: GraphView, block: int, smallest: int) -> tuple[list[int], dict[str, str]]:
    chosen, left = [], {}
    for index, node in enumerate(view.nodes):
        if node.op_type not in PRODUCTS or node.input[1] not in view.constants:
            continue
        dims = tuple(view.constants[node.input[1]].dims)
        depth = dims[1 if attribute(node, "transB", 0) else 0] if len(dims) == 2 else 0
        if len(dims) != 2 or view.constants[node.input[1]].data_type != TensorProto.FLOAT:
            left[view.label(index)] = "its weight is not a float32 matrix"
        elif depth % block:
            left[view.label(index)] = f"{depth} inputs are no multiple of the block, {block}"
        elif dims[0] * dims[1] < smallest:
            left[view.label(index)] = f"only {dims[0] * dims[1]} weights"
        else:
            chosen.append(index)
    return chosen, left


def _searched(
    view: GraphView,
    names: list[str],
    block: int,
    alphas: Sequence[float],
    setting: Setting,
) -> dict[str, NDArray[np.float64]]:
    """Tensor -> s (C,), for tensors whose producer can absorb 1/s and where s reduces the error."""
    names = [name for name in dict.fromkeys(names) if readable(view, name) and slots(view, name) is not None]
    means: dict[str, NDArray[np.float64]] = {}
    moments: dict[str, NDArray[np.float64]] = {}
    for tensors in values(view.model, names, setting) if names else ():
        for name, x in tensors.items():
            rows = np.nan_to_num(x.reshape(-1, x.shape[-1])).astype(np.float64)
            means[name] = means.get(name, 0.0) + np.abs(rows).mean(axis=0)
            moments[name] = moments.get(name, 0.0) + rows.T @ rows / len(rows)
    found = {}
    for name in names:
        ws = readers_weights(view, name)
        if any(w.shape[0] % block for w in ws):
            continue
        errors = {}
        for alpha in alphas:
            s = _factors(means[name], alpha)
            deltas = [_restored(w * s[:, None], block) / s[:, None] - w for w in ws]
            errors[alpha] = sum(
                float(np.einsum("ij,ik,jk->", moments[name], d, d, optimize=True)) for d in deltas
            )
        best = min(errors, key=lambda alpha: errors[alpha])
        if best:
            found[name] = _factors(means[name], best)
    return found


def _factors(means: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """s = means^alpha (C,), with sqrt(max s * min s) = 1."""
    s: NDArray[np.float64] = np.maximum(means, 1e-8 * max(means.max(), 1e-30)) ** alpha
    s /= np.sqrt(s.max() * s.min())
    return s


def _write(editor: GraphEditor, index: int, block: int) -> None:
    """Replace the weight of a node by 4-bit codes behind DequantizeLinear."""
    view, node = editor.view, editor.view.nodes[index]
    transposed = bool(attribute(node, "transB", 0))
    w = view.value(node.input[1]).astype(np.float64)
    codes, scale = rounded(w.T if transposed else w, block)
    if transposed:
        codes, scale = codes.T, scale.T
    flat = codes.reshape(-1).astype(np.uint8) & 15
    flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    packed = flat[::2] | flat[1::2] << 4
    tensor = TensorProto(data_type=TensorProto.INT4, dims=codes.shape, raw_data=packed.tobytes())
    stem, axis = f"{node.input[1]}_{index}", 1 if transposed else 0
    inputs = [
        editor.constant(f"{stem}_int4", tensor),
        editor.constant(f"{stem}_int4_scale", scale.astype(np.float32)),
    ]
    output = f"{stem}_dequantized"
    dequantized = editor.insert(index, "DequantizeLinear", inputs, output, axis=axis, block_size=block)
    editor.read(index, 1, dequantized)


def _raised(model: onnx.ModelProto, feeds: FeedsFactory) -> onnx.ModelProto:
    """A copy at opset 21 or newer."""
    opset = opset_of(model)
    try:
        result = converted(model, OPSET, islice(feeds(), 1)) if opset < OPSET else copy_model(model)
    except NotConvertible as error:
        raise CalibrationError(
            f"opset {opset} cannot be raised to {OPSET}: {error}", "export again with capture.opset=21"
        ) from error
    result.ir_version = max(result.ir_version, 10)
    return result
