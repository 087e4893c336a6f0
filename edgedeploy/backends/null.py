"""A runtime that computes nothing: zeros of the right shapes.

What a bench or a demo takes with it is the cost of everything but the model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgedeploy.backend import (
    BACKENDS,
    Backend,
    BuildOptions,
    Feeds,
    OpenOptions,
    Outputs,
    Session,
    concrete_shapes,
)
from edgedeploy.core.spec import Artifact, TensorSpec
from edgedeploy.core.target import Target
from edgedeploy.runtime.onnx_file import label


class NullSession(Session):
    """Answers with the same zeros every time; a size that the file does not tell counts as 1."""

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        super().__init__(inputs, outputs)
        self._zeros = {
            spec.name: np.zeros(
                [dim if isinstance(dim, int) else 1 for dim in spec.shape], np.dtype(spec.dtype)
            )
            for spec in outputs
        }

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
        shapes = concrete_shapes(artifact, options.shapes)
        sizes: dict[str, int] = {}
        for spec in artifact.inputs:
            named = zip(spec.shape, shapes[spec.name], strict=True)
            sizes.update({dim: size for dim, size in named if isinstance(dim, str)})
        inputs = tuple(s.model_copy(update={"shape": shapes[s.name]}) for s in artifact.inputs)
        outputs = tuple(
            s.model_copy(
                update={"shape": tuple(sizes.get(d, 1) if isinstance(d, str) else d for d in s.shape)}
            )
            for s in artifact.outputs
        )
        return NullSession(inputs, outputs)
