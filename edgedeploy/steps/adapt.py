"""Standard operators in place of those that the target's runtime lacks; before anything is rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedeploy.core.onnx_header import operators
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact
from edgedeploy.steps.base import Job, PipelineStep


def _lacking(artifact: Artifact, job: Job) -> list[str]:
    """Operators of the model that the target does not have."""
    lacking = set(job.target.unsupported_ops)
    return sorted(lacking & {kind for kind, _ in operators(artifact.path)}) if lacking else []


def _wanted(artifact: Artifact, job: Job) -> bool:
    return bool(_lacking(artifact, job))


def _decides(artifact: Artifact, job: Job) -> Any:
    return {"ops": _lacking(artifact, job), "surgery": job.recipe.surgery.model_dump()}


def _adapt(artifact: Artifact, job: Job, folder: Path, progress: Progress) -> Artifact:  # noqa: ARG001
    from edgedeploy.export.surgery import lower_operators

    out = folder / artifact.path.name
    return lower_operators(artifact, _lacking(artifact, job), job.recipe.surgery, out)


def _notes(artifact: Artifact) -> list[str]:
    return [str(problem) for problem in (artifact.details.get("adapted") or {}).get("problems", [])]


ADAPT = PipelineStep("adapt", "rewrite operators that the target lacks", _adapt, _decides, _notes, _wanted)
