"""Quantized models as other tools write them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime.quantization as ort
from onnxruntime.quantization.shape_inference import quant_pre_process

# Name -> what `quantize_static` is told; the first is what it does untold.
STATIC: dict[str, dict[str, Any]] = {
    "default": {},
    "per-channel": {"per_channel": True},
    "unsigned": {"activation_type": ort.QuantType.QUInt8, "weight_type": ort.QuantType.QUInt8},
    "u8s8": {
        "activation_type": ort.QuantType.QUInt8,
        "weight_type": ort.QuantType.QInt8,
        "per_channel": True,
    },
    "asymmetric-weights": {
        "activation_type": ort.QuantType.QUInt8,
        "weight_type": ort.QuantType.QUInt8,
        "extra_options": {"WeightSymmetric": False},
    },
    "symmetric": {"extra_options": {"ActivationSymmetric": True}},
    "float-bias": {"extra_options": {"ActivationSymmetric": True, "QuantizeBias": False}},
    "dedicated": {"extra_options": {"DedicatedQDQPair": True, "ActivationSymmetric": True}},
    "float-weights": {"extra_options": {"AddQDQPairToWeight": True, "ActivationSymmetric": True}},
    "contrib": {"extra_options": {"UseQDQContribOps": True}},
    "operators": {"quant_format": ort.QuantFormat.QOperator},
    "operators-per-channel": {"quant_format": ort.QuantFormat.QOperator, "per_channel": True},
}


class _Reader(ort.CalibrationDataReader):
    def __init__(self, feeds: Sequence[dict[str, np.ndarray]]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def quantize_static(
    model: onnx.ModelProto, feeds: Sequence[dict[str, np.ndarray]], mode: str, folder: Path
) -> onnx.ModelProto:
    """The model as ONNX Runtime quantizes it in one of the modes above, shapes inferred first."""
    folder.mkdir(exist_ok=True, parents=True)
    before, after = folder / "float.onnx", folder / "int8.onnx"
    logging.disable(logging.WARNING)
    try:
        quant_pre_process(model, str(before), skip_optimization=True, skip_symbolic_shape=True)
        ort.quantize_static(str(before), str(after), _Reader(feeds), **STATIC[mode])
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load(after)
