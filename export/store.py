"""How many bytes an ONNX artifact takes: its weights stored in fewer, with the same computation."""

from __future__ import annotations

from pathlib import Path

import onnx

from edgedeploy.core.errors import ParityError
from edgedeploy.core.spec import Artifact
from edgedeploy.export.runner import optimize
from edgedeploy.graphs.metadata import save_model


def store_half(artifact: Artifact, out: Path) -> Artifact:
    """Write an artifact with float16 weights that are computed with in float32, as before.

    Its precision stays what it is, since operators run in that. Raises ParityError where that changes the
    outputs by more than the pass store-half promises.
    """
    result = optimize(onnx.load(artifact.path), ["store-half"])
    if result.left_alone:
        raise ParityError(
            f"weights of {artifact.model} are not stored in fp16: {result.left_alone}", "store fp32"
        )
    for step in result.reverted:
        raise ParityError(f"weights in fp16 break {artifact.model}: {step.reason}", "store fp32")
    history = (*artifact.history, *result.history())
    return save_model(result.model, artifact.model_copy(update={"history": history}), out)
