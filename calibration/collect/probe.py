"""Run a model in ONNX Runtime and read tensors inside it, which become its outputs.

Inputs of one size fill the same buffers again and again, so the system need not map and clear fresh pages for
every image (half the time of a run, measured). Where sizes vary, the runtime allocates, and gives back after
each run.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgedeploy.backend import Feeds
from edgedeploy.core.errors import CalibrationError
from edgedeploy.graphs.edit import add_outputs, copy_model
from edgedeploy.graphs.run import NotRunnable, open_session

Shapes = Mapping[str, tuple[int, ...]]


class Probe:
    """Runs a model and yields chosen tensors of it; Q/DQ rounds, and all else is computed in float.

    Args:
        model: is not changed.
        tensors: inputs, or float32 outputs of any node.
        inputs, shapes: shapes of the inputs to come, as far as is known, and of tensors for those.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        tensors: Sequence[str],
        inputs: Shapes | None = None,
        shapes: Mapping[str, tuple[int | None, ...]] | None = None,
    ) -> None:
        fed = {value.name for value in model.graph.input}
        self.given = [name for name in tensors if name in fed]
        self.computed = [name for name in tensors if name not in fed]
        self._buffers: dict[str, NDArray[np.float32]] = {}
        self._shapes: Shapes | None = None  # of the inputs that the buffers are for
        self._last: Shapes | None = None
        self._trimmed = False
        self._session = _session(model, self.computed) if self.computed else None
        self._inputs = [] if self._session is None else [value.name for value in self._session.get_inputs()]
        expected = {name: _static_shape((shapes or {}).get(name)) for name in self.computed}
        known = {name: shape for name, shape in expected.items() if shape is not None}
        if inputs and len(known) == len(expected):
            self._buffers = {name: np.empty(shape, np.float32) for name, shape in known.items()}
            self._shapes = {name: inputs[name] for name in self._inputs}

    def run(self, feeds: Feeds) -> Iterator[tuple[str, NDArray[Any]]]:
        """Names and values of the tensors for one input; a value is good until the next run.

        The model has run when this returns. Raises CalibrationError where it does not.
        """
        given = [(name, feeds[name]) for name in self.given]
        if self._session is None:
            return iter(given)
        values = {name: np.ascontiguousarray(feeds[name]) for name in self._inputs}
        shapes = {name: value.shape for name, value in values.items()}
        if self._shapes != shapes:
            self._buffers, self._shapes, self._trimmed = {}, None, False
        try:
            if self._shapes is not None and self._bound(values):
                return iter([*given, *self._buffers.items()])
            outputs = self._unbound(values)
        except Exception as error:
            raise CalibrationError(
                f"the model does not run on a calibration input: {error}",
                "give data of the sizes that it takes, or one size for all with --size",
            ) from error
        # The second input of one size gets buffers: a stream of odd sizes never comes to that.
        allocate, self._last = self._last == shapes, shapes
        if allocate:
            self._shapes = shapes
        return self._drain(given, outputs, keep=allocate)

    def _bound(self, values: Mapping[str, NDArray[Any]]) -> bool:
        """Run into the buffers; False where the tensors have other shapes than for the input before."""
        assert self._session is not None  # noqa: S101  `run` asked
        binding = self._session.io_binding()
        for name, value in values.items():
            binding.bind_cpu_input(name, value)
        for name, buffer in self._buffers.items():
            binding.bind_output(name, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
        # The first time, what runs before or loading left in the runtime's arena goes back to the system.
        options, self._trimmed = None if self._trimmed else _shrinking(), True
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception:  # noqa: BLE001  onnxruntime's errors share no base; running unbound tells which
            self._buffers, self._shapes, self._last, self._trimmed = {}, None, None, False
            return False
        return True

    def _unbound(self, values: Mapping[str, NDArray[Any]]) -> list[Any]:
        assert self._session is not None  # noqa: S101  `run` asked
        fed = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in values.items()}
        return list(self._session.run_with_ort_values(self.computed, fed, _shrinking()))

    def _drain(
        self, given: list[tuple[str, NDArray[Any]]], outputs: list[Any], *, keep: bool
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        """The outputs one by one, each freed before the next is copied out; or copies kept as buffers."""
        yield from given
        outputs.reverse()
        for name in self.computed:
            value = outputs.pop().numpy()
            if keep:
                self._buffers[name] = value
            yield name, value


def _static_shape(shape: tuple[int | None, ...] | None) -> tuple[int, ...] | None:
    """The shape if every dimension is known."""
    return tuple(dim for dim in shape if dim is not None) if shape is not None and None not in shape else None


def _shrinking() -> Any:
    """Options of a run after which the arena returns what is not in use."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _session(model: onnx.ModelProto, tensors: Sequence[str]) -> Any:
    probe = copy_model(model)
    del probe.graph.output[:]
    add_outputs(probe, tensors)
    data = probe.SerializeToString()
    del probe  # the weights are in memory often enough
    gc.collect()
    try:
        return open_session(data, "all")
    except NotRunnable as error:
        raise CalibrationError(
            f"ONNX Runtime cannot run the model: {error}", "calibration needs it to run"
        ) from error
