"""Small models from ONNX text: the cases of graph passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray

OPSET = 20
Rng: TypeAlias = np.random.Generator  # draws the weights
Models: TypeAlias = Sequence[onnx.ModelProto | tuple[onnx.ModelProto, Any]]  # of a pass, some with options


def text_model(
    inputs: str, outputs: str, body: str, weights: Mapping[str, NDArray[Any]], *, opset: int = OPSET
) -> onnx.ModelProto:
    """A checked model from ONNX text.

    Args:
        inputs: as in a signature, "float[1,4,h,w] x, int64[2] i".
        outputs: names; their types are inferred, float where they cannot be.
        body: one statement per line.
        weights: initializers.
    """
    names = [name.strip() for name in outputs.split(",")]
    declared = ", ".join(f"float[] {name}" for name in names)
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({declared}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    del model.graph.output[:]
    for name, values in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    onnx.checker.check_model(model)
    return model


def floats(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Normal weights scaled so that sums over them stay near 1."""
    fan_in = max(1, int(np.prod(shape[1:])))
    return np.asarray(rng.standard_normal(shape) / np.sqrt(fan_in), dtype=np.float32)
