"""A runtime that returns zeros of the right shapes.

With it a benchmark or a demo measures the cost of everything except the model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgedeploy.backend import BACKENDS, Backend, BuildOptions, Feeds, OpenOptions, Outputs, Session
from edgedeploy.core.spec import Artifact, TensorSpec, with_shapes
from edgedeploy.core.target import Target
from edgedeploy.runtime.onnx_file import label


class NullSession(Session):
    """Returns the same zeros for every run; an unknown dimension has size 1."""

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        super().__init__(inputs, outputs)
        self._zeros = {s.name: np.zeros([int(d) for d in s.shape], np.dtype(s.dtype)) for s in outputs}

    def _run(self, feeds: Feeds) -> Outputs:  # noqa: ARG002
        return dict(self._zeros)


@BACKENDS.register
class Null(Backend):
    name = "null"
    precisions = ("fp32", "bf16", "fp16", "int8")

    def version(self) -> str:
        return "1"

    def _build(self, artifact: Artifact, target: Target, options: BuildOptions, out: Path) -> Artifact:  # noqa: ARG002
        return label(artifact, self.name, target.name, out, {}, 0.0)

    def _open(self, artifact: Artifact, options: OpenOptions) -> Session:
        sizes: dict[int | str, int] = {}
        for spec in artifact.inputs:
            sizes.update(zip(spec.shape, options.shapes[spec.name], strict=True))
        shapes = {
            spec.name: [dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in spec.shape]
            for spec in artifact.outputs
        }
        inputs = with_shapes(artifact.inputs, options.shapes)
        return NullSession(inputs, with_shapes(artifact.outputs, shapes))
