"""Operators and an opset that the target's runtime reads, in place of those it does not; before rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedeploy.core.onnx_header import operators, read_onnx_header
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact
from edgedeploy.steps.base import Job, PipelineStep


def _lacking(artifact: Artifact, job: Job) -> list[str]:
    """Operators of the model that the target does not have."""
    lacking = set(job.target.unsupported_ops)
    return sorted(lacking & {kind for kind, _ in operators(artifact.path)}) if lacking else []


def _newest(artifact: Artifact, job: Job) -> int | None:
    """The opset that the model has to come down to; None if it may stay."""
    newest, precision = job.target.newest_opset, job.recipe.precision or job.target.default_precision
    if newest is None or "int8" in (precision, artifact.precision):
        return None  # Q/DQ are written in opset 19, whatever else is read
    return newest if newest < read_onnx_header(artifact.path).opset else None


def _wanted(artifact: Artifact, job: Job) -> bool:
    return bool(_lacking(artifact, job)) or _newest(artifact, job) is not None


def _decides(artifact: Artifact, job: Job) -> Any:
    newest = _newest(artifact, job)
    opset = {} if newest is None else {"opset": newest}
    return {"ops": _lacking(artifact, job), "surgery": job.recipe.surgery.model_dump(), **opset}


def _adapt(artifact: Artifact, job: Job, folder: Path, progress: Progress) -> Artifact:  # noqa: ARG001
    from edgedeploy.export.surgery import Lowering, lower_operators

    surgery = job.recipe.surgery
    lowering = Lowering(tuple(_lacking(artifact, job)), _newest(artifact, job), surgery.skip)
    return lower_operators(artifact, lowering, surgery, folder / artifact.path.name)


def _notes(artifact: Artifact) -> list[str]:
    return [*artifact.details.adapted.problems]


ADAPT = PipelineStep("adapt", "rewrite operators that the target lacks", _adapt, _decides, _notes, _wanted)
