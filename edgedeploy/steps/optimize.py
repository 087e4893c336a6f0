"""Graph passes: fold norms and constants, each pass proved as it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact
from edgedeploy.steps.base import Job, PipelineStep


def _wanted(artifact: Artifact, job: Job) -> bool:  # noqa: ARG001
    """A graph that is lowered already keeps its Q/DQ and casts just where they are."""
    return artifact.precision == "fp32"


def _decides(artifact: Artifact, job: Job) -> Any:  # noqa: ARG001
    return job.recipe.surgery.model_dump()


def _optimize(artifact: Artifact, job: Job, folder: Path, progress: Progress) -> Artifact:  # noqa: ARG001
    from edgedeploy.export.surgery import operate

    return operate(artifact, job.recipe.surgery, folder / artifact.path.name)


def _notes(artifact: Artifact) -> list[str]:
    return [*artifact.details.surgery.problems]


OPTIMIZE = PipelineStep(
    "optimize", "fold and clean the graph, prove each pass", _optimize, _decides, _notes, _wanted
)
