"""Run a TensorRT engine. UNVERIFIED: no machine with a GPU has run it yet; tests marked `gpu` would."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgedeploy.backend import Feeds, OpenOptions, Outputs, Session
from edgedeploy.core.errors import UsageError
from edgedeploy.core.spec import Artifact, with_shapes
from edgedeploy.runtime.cuda import Buffer, Stream
from edgedeploy.runtime.tensorrt_log import build_error, make_logger


class TensorRtSession(Session):
    """One execution context with its own stream; `device_ms` covers the kernels, not the copies."""

    def __init__(self, sdk: Any, backend: str, artifact: Artifact, options: OpenOptions) -> None:
        self._sdk, self._backend = sdk, backend
        self._stream = Stream()
        self._logger = make_logger(sdk, verbose=False)
        self._runtime: Any = sdk.Runtime(self._logger)
        self._engine: Any = self._runtime.deserialize_cuda_engine(artifact.path.read_bytes())
        if self._engine is None:
            raise build_error(sdk, backend, self._logger, f"a session of {artifact.path}")
        self._open = True
        self._context: Any = self._engine.create_execution_context()
        for name, shape in options.shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise UsageError(
                    f"{artifact.path} was not built for input {name} of {list(shape)}",
                    "build again with that size in its range",
                )
        specs = (*artifact.inputs, *artifact.outputs)
        shapes = {s.name: tuple(int(d) for d in self._context.get_tensor_shape(s.name)) for s in specs}
        super().__init__(with_shapes(artifact.inputs, shapes), with_shapes(artifact.outputs, shapes))
        self._buffers: dict[str, Buffer] = {}
        for spec in specs:
            shape = shapes[spec.name]
            if min(shape, default=0) < 0:
                raise UsageError(
                    f"the size of output {spec.name} depends on the data, which is not supported",
                    "let the model end before that operator",
                )
            self._buffers[spec.name] = Buffer(shape, np.dtype(spec.dtype))
            self._context.set_tensor_address(spec.name, self._buffers[spec.name].device.value)

    def _run(self, feeds: Feeds) -> Outputs:
        self._stream.use()
        for name, value in feeds.items():
            np.copyto(self._buffers[name].host, value)
            self._buffers[name].upload(self._stream)
        self._stream.start()
        if not self._context.execute_async_v3(self._stream.handle.value):
            raise build_error(self._sdk, self._backend, self._logger, "a run")
        self._stream.end()
        for spec in self.outputs:
            self._buffers[spec.name].download(self._stream)
        self.device_ms = self._stream.wait_ms()
        return {spec.name: self._buffers[spec.name].host for spec in self.outputs}

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._stream.use()
        self._context = self._engine = self._runtime = None
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers = {}
        self._stream.close()
