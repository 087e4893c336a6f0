"""Emulate any mix of INT8 and float layers in one model that has a switch per quantized layer.

ONNX Runtime computes the Q/DQ graph exactly, without INT8 kernels. A runtime's rewrites and saturation are
not emulated: measure them in that runtime.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedeploy.calibration.mix.switches import SWITCH, Switches
from edgedeploy.core.errors import CalibrationError
from edgedeploy.graphs.run import Evaluator, NotRunnable, Outputs
from edgedeploy.graphs.view import GraphView


class Emulator:
    """A quantized model whose layers can be switched between INT8 and float.

    Args:
        float_model: `QuantizeResult.float_model`, whose nodes have names.
        quantized: the same model with Q/DQ.
        layers: names of the nodes that get a switch.
        probes: tensors that `run` can return besides the outputs.
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
        try:
            self._evaluator = Evaluator(model, "basic")
        except NotRunnable as error:
            raise CalibrationError(
                f"ONNX Runtime cannot run the model with switches: {error}", "sensitivity needs it to run"
            ) from error
        names = [spec.name for spec in self._evaluator.inputs]
        self._switches = [name for name in names if name.startswith(SWITCH)]

    def run(
        self, feeds: Mapping[str, NDArray[Any]], on: Iterable[str] | None = None, names: Iterable[str] = ()
    ) -> Outputs:
        """Outputs and the probes `names`, with the layers `on` in INT8 (default: all)."""
        active = {f"{SWITCH}{layer}" for layer in (self.layers if on is None else on)}
        switches = {name: np.asarray(name in active) for name in self._switches}
        fed = {name: value for name, value in feeds.items() if name in self.inputs}
        try:
            return self._evaluator({**fed, **switches}, [*self.outputs, *names])
        except NotRunnable as error:
            raise CalibrationError(
                f"the model does not run on an input: {error}", "give data of the sizes that it takes"
            ) from error
