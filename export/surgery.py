"""Graph passes at the level of artifacts: which to run, what they say of themselves, and what they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from edgedeploy.core.errors import UnknownNameError
from edgedeploy.core.recipe import SurgeryOptions
from edgedeploy.core.spec import Artifact
from edgedeploy.export.metadata import save_model
from edgedeploy.export.order import DEFAULT_PASSES
from edgedeploy.export.passes.base import PASSES
from edgedeploy.export.runner import OptimizeResult, optimize


def operate(artifact: Artifact, options: SurgeryOptions, out: Path) -> Artifact:
    """Run the passes that `options` asks for on an ONNX artifact and write the result to `out`.

    Every accepted pass becomes an entry of the history; `details["surgery"]` has the node counts and, as `problems`,
    what was reverted or could not be read, and why. Raises UnknownNameError for a pass to skip that does not
    exist.
    """
    for name in options.skip:
        if name not in PASSES.names():
            raise UnknownNameError("pass", name, PASSES.names())
    model = onnx.load(artifact.path)
    passes = [name for name in DEFAULT_PASSES if name not in options.skip]
    result = optimize(model, passes, verify=options.verify, seeds=options.seeds)
    return save_model(result.model, _recorded(artifact, model, result), out)


def _recorded(artifact: Artifact, before: onnx.ModelProto, result: OptimizeResult) -> Artifact:
    problems = [result.left_alone] if result.left_alone else []
    problems += [f"{step.name} was taken back: {step.reason}" for step in result.reverted]
    surgery: dict[str, Any] = {
        "nodes_before": len(before.graph.node),
        "nodes_after": len(result.model.graph.node),
        "verified": result.verified,
        "problems": problems,
    }
    return artifact.model_copy(
        update={
            "history": (*artifact.history, *result.history()),
            "details": {**artifact.details, "surgery": surgery},
        }
    )
