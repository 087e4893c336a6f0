"""ONNX's reference evaluator: slow, but its operators are the definitions of the standard.

The onnx package is imported by name when a model is opened: a static import would require it on every device
that lists the backends.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.backend import BACKENDS, Backend, BuildOptions, Feeds, OpenOptions, Outputs, Session
from edgedeploy.core.spec import Artifact, TensorSpec, with_shapes
from edgedeploy.core.target import Target
from edgedeploy.runtime.onnx_file import label, refusal


class ReferenceSession(Session):
    def __init__(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], evaluator: Any
    ) -> None:
        super().__init__(inputs, outputs)
        self._evaluator = evaluator

    def _run(self, feeds: Feeds) -> Outputs:
        results = self._evaluator.run([spec.name for spec in self.outputs], dict(feeds))
        return {spec.name: np.asarray(value) for spec, value in zip(self.outputs, results, strict=True)}


@BACKENDS.register
class Reference(Backend):
    name = "reference"
    package = "onnx"
    extra = "edgedeploy[onnx]"
    precisions = ("fp32", "fp16", "int8")

    def version(self) -> str:
        return str(importlib.import_module("onnx").__version__)

    def _build(self, artifact: Artifact, target: Target, options: BuildOptions, out: Path) -> Artifact:  # noqa: ARG002
        start = time.perf_counter()
        self._evaluator(artifact)
        took = (time.perf_counter() - start) * 1e3
        return label(artifact, self.name, target.name, out, {"runtime_version": self.version()}, took)

    def _open(self, artifact: Artifact, options: OpenOptions) -> Session:
        inputs = with_shapes(artifact.inputs, options.shapes)
        return ReferenceSession(inputs, artifact.outputs, self._evaluator(artifact))

    def _evaluator(self, artifact: Artifact) -> Any:
        reference = importlib.import_module("onnx.reference")
        try:
            return reference.ReferenceEvaluator(str(artifact.path))
        except Exception as error:  # any exception while it loads is a refusal
            raise refusal(self.name, artifact, str(error)) from error
