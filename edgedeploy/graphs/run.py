"""Run ONNX models as written: in ONNX Runtime, with its optimizations off unless asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import onnx
import onnxruntime
from numpy.typing import NDArray

from edgedeploy.core.errors import first_line
from edgedeploy.graphs.metadata import tensor_specs
from edgedeploy.graphs.weights import bytes_of_all, write_beside

Feeds = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]
Level = Literal["none", "basic", "all"]

# Larger models are given to the runtime as files, which it maps: as bytes they would be there three times
# over, and protobuf takes no 2 GB of them.
IN_MEMORY = 1 << 28
_LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class NotRunnable(Exception):
    """ONNX Runtime refuses the model or its inputs; the message is the first line of its own."""


def open_session(model: onnx.ModelProto | bytes, level: Level = "none") -> Any:
    """An `onnxruntime.InferenceSession` on the CPU; raises NotRunnable.

    Q/DQ rounds at every `level`, and all else is computed in float: pairs are never fused into INT8 kernels,
    which round in other places. A serialized model as bytes lets the caller free its own first.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = _LEVELS[level]
    options.log_severity_level = 4
    # Many short runs: threads that spin between them only take the cores from each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        if isinstance(model, bytes) or bytes_of_all(model) < IN_MEMORY:
            return _session(model if isinstance(model, bytes) else model.SerializeToString(), options)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            light = write_beside(model, path.with_name("weights"), "weights")
            path.write_bytes(light.SerializeToString())
            return _session(str(path), options)
    except Exception as error:  # the runtime raises a dozen unrelated classes
        raise NotRunnable(first_line(error)) from error


def _session(source: bytes | str, options: Any) -> Any:
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class Evaluator:
    """A model in ONNX Runtime; call it with feeds.

    Attributes:
        inputs, outputs: specifications of the tensors that the model is fed and gives.
    """

    def __init__(self, model: onnx.ModelProto, level: Level = "none") -> None:
        self.inputs, self.outputs = tensor_specs(model)
        self._session = open_session(model, level)

    def __call__(self, feeds: Feeds, names: Sequence[str] | None = None) -> Outputs:
        """Outputs by name, all or those asked for; raises NotRunnable with ONNX Runtime's reason."""
        names = [spec.name for spec in self.outputs] if names is None else names
        try:
            values = self._session.run(names, dict(feeds))
        except Exception as error:
            raise NotRunnable(first_line(error)) from error
        return dict(zip(names, values, strict=True))
