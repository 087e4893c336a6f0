"""q = e4m3(x / s), s = amax / 448: the 8-bit float of Ada, Hopper and Blackwell in place of int8, Q/DQ alike.

Placement and ranges are those of symmetric INT8; zero-points and codes have another type, scales another
value. Steps grow with the value, so outliers cost little and small values keep 3 bits of mantissa.
Micikevicius et al., "FP8 Formats for Deep Learning", 2022, table 1 (E4M3: bias 7, no infinities).
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgedeploy.calibration.place.layers import Layer, Placed
from edgedeploy.calibration.place.weights import SMALLEST_SCALE, along_axis
from edgedeploy.core.errors import CalibrationError
from edgedeploy.core.operators import QDQ
from edgedeploy.core.pair_sums import LEVELS

LARGEST = 448.0


def _values() -> NDArray[np.float64]:
    """The 127 finite values of codes 0 to 126."""
    exponent, mantissa = np.divmod(np.arange(127), 8)
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return np.where(exponent == 0, mantissa / 8 * 2.0**-6, normal)


VALUES = _values()


def encode(x: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Codes of the nearest values, ties to even; saturates at 448."""
    magnitude = np.abs(np.asarray(x, dtype=np.float64))
    middles = (VALUES[1:] + VALUES[:-1]) / 2
    low, high = (np.searchsorted(middles, magnitude, side) for side in ("left", "right"))
    code = np.where((low != high) & (low % 2 == 1), high, low)  # on a middle: the even one of the two
    return (code + np.where(np.signbit(x), 128, 0)).astype(np.uint8)


def decode(codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The values of codes."""
    value: NDArray[np.float64] = np.append(VALUES, np.nan)[codes & 127]
    return np.where(codes & 128, -value, value)


def to_fp8(quantized: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """An INT8 model with FP8 Q/DQ instead; symmetric rules placed it from the float `model`.

    Raises CalibrationError for a zero-point that is not int8.
    """
    placed = Placed(quantized, model)
    weights = {layer.dequantize.input[0]: layer for layer in placed.layers}
    done: set[str] = set()
    for node in placed.nodes:
        if node.op_type not in QDQ:
            continue
        source, scale, zero = node.input
        if placed.constants[zero].data_type not in (TensorProto.INT8, TensorProto.FLOAT8E4M3FN):
            raise CalibrationError(
                f"'{node.name}' has a zero-point that FP8 has not", "use a rule set with activation int8"
            )
        if source in weights:
            if source not in done:
                _weight(placed, weights[source], source, scale)
        elif scale not in done:
            placed.replace(scale, placed.value(scale).astype(np.float64) * (LEVELS / LARGEST))
        if zero not in done:
            _store(placed, zero, np.zeros(tuple(placed.constants[zero].dims), np.uint8))
        done |= {source, scale, zero}
    return placed.finished()


def _weight(placed: Placed, layer: Layer, codes: str, scale: str) -> None:
    others = tuple(i for i in range(layer.w.ndim) if i != layer.axis) if layer.axis is not None else None
    peak = np.abs(layer.w).max(axis=others, initial=0.0).astype(np.float64)
    s = np.where(peak > 0, np.maximum(peak / LARGEST, SMALLEST_SCALE), 1.0).astype(np.float32)
    placed.replace(scale, s)
    _store(placed, codes, encode(layer.w / along_axis(s, layer.axis, layer.w.ndim)))


def _store(placed: Placed, name: str, codes: NDArray[np.uint8]) -> None:
    old = placed.constants[name]
    old.CopyFrom(
        TensorProto(name=name, data_type=TensorProto.FLOAT8E4M3FN, dims=codes.shape, raw_data=codes.tobytes())
    )
