"""Run a model over the calibration data and look at tensors inside it, one input's worth at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgedeploy.calibration.corrections.base import Setting
from edgedeploy.core.errors import CalibrationError


def values(
    model: onnx.ModelProto, names: Sequence[str], setting: Setting
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """The named tensors (inputs, or outputs of any node, float32) for every feed in turn.

    Quantize- and DequantizeLinear run as they are written, without ONNX Runtime's integer kernels. Raises
    CalibrationError where the model does not run.
    """
    fed = {value.name for value in model.graph.input}
    computed = [name for name in dict.fromkeys(names) if name not in fed]
    session = _session(model, computed) if computed else None
    source = setting.feeds()
    total = len(source) if isinstance(source, Sized) else None
    for done, feeds in enumerate(source, 1):
        found: dict[str, NDArray[np.float32]] = {name: feeds[name] for name in names if name in fed}
        if session is not None:
            wanted = {value.name for value in session.get_inputs()}
            given = {name: np.ascontiguousarray(value) for name, value in feeds.items() if name in wanted}
            try:
                outputs = session.run(computed, given)
            except Exception as error:
                raise CalibrationError(
                    f"the model does not run on a calibration input: {error}",
                    "give data of the sizes that it takes",
                ) from error
            found |= dict(zip(computed, outputs, strict=True))
            del outputs
        yield found
        if setting.progress is not None:
            setting.progress(done, total)


def _session(model: onnx.ModelProto, names: Sequence[str]) -> Any:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(probe.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception as error:
        raise CalibrationError(
            f"ONNX Runtime cannot run the model: {error}", "corrections need it to run"
        ) from error
