"""One float model with a switch per quantized layer: any mix of INT8 and float without building it anew.

Every edge that Q/DQ was placed on reads Where(switch, dequantized, float). The arithmetic is that of the Q/DQ
graph computed exactly, in ONNX Runtime without its INT8 kernels: what a runtime makes of the graph beyond
that (its own rewrites, kernels that saturate) is not in it, and has to be measured in that runtime.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgedeploy.calibration.mix.switches import SWITCH, Switches
from edgedeploy.core.errors import CalibrationError
from edgedeploy.graphs.view import GraphView

Values = dict[str, NDArray[Any]]


class Emulator:
    """A quantized model whose layers can be switched between INT8 and float.

    Args:
        float_model: just what was quantized, its nodes named (`QuantizeResult.float_model`).
        quantized: the same with Q/DQ.
        layers: names of the nodes that get a switch; the edges of others are as their producers are.
        probes: tensors that `run` may be asked for besides the outputs.
    """

    def __init__(
        self,
        float_model: onnx.ModelProto,
        quantized: onnx.ModelProto,
        layers: Collection[str],
        probes: Collection[str] = (),
    ) -> None:
        self.layers = tuple(dict.fromkeys(layers))
        self.outputs = tuple(value.name for value in float_model.graph.output)
        self.inputs = tuple(GraphView(float_model).inputs)
        model = Switches(float_model, quantized, self.layers).model(probes)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Beyond the basic level pairs of Q/DQ are fused into INT8 kernels, which round in other places.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise CalibrationError(
                f"ONNX Runtime cannot run the model with switches: {error}", "sensitivity needs it to run"
            ) from error
        self._switches = {
            value.name.removeprefix(SWITCH)
            for value in self._session.get_inputs()
            if value.name.startswith(SWITCH)
        }

    def run(
        self, feeds: Mapping[str, NDArray[Any]], on: Iterable[str] | None = None, names: Iterable[str] = ()
    ) -> Values:
        """Outputs, and the probes `names`, with the layers of `on` in INT8 (all of them by default)."""
        active = set(self.layers if on is None else on)
        wanted = [*self.outputs, *names]
        switches = {f"{SWITCH}{layer}": np.asarray(layer in active) for layer in self._switches}
        fed = {name: value for name, value in feeds.items() if name in self.inputs}
        values = self._session.run(wanted, {**fed, **switches})
        return {name: np.asarray(value) for name, value in zip(wanted, values, strict=True)}
